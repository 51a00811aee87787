//! Disks that are full or broken, under the engine alone: the host writes on and does not notice.
//!
//! Calls of the engine's process fail by a library that is loaded first (`faulty.c`), each kind on each of our files,
//! on the replica and on the database as the engine reads it and copies its WAL back. A disk that is really full is a
//! small tmpfs; where none can be mounted (that needs root) those steps are left out, and the case says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use replicate_sim::peers::Outcome;

use crate::chain::Shape;
use crate::child::{Child, Life, SOON};
use crate::ground::{Ground, on_file};
use crate::{Size, Torture};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// How long a fault may take until a call meets it, and until the status tells of it.
const MEET: Duration = Duration::from_secs(20);

/// A kind of failure.
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: &'static str,
    number: i32,
    /// Part of the path.
    path: &'static str,
    /// The status must tell of it.
    told: bool,
}

const FAULTS: &[Fault] = &[
    Fault { call: "write", number: ENOSPC, path: "/.app.db-replicate/", told: true },
    Fault { call: "write", number: EIO, path: "/.app.db-replicate/spool", told: true },
    Fault { call: "sync", number: EIO, path: "/.app.db-replicate/spool", told: true },
    Fault { call: "rename", number: EIO, path: "/.app.db-replicate/spool", told: true },
    Fault { call: "read", number: EIO, path: "/.app.db-replicate/spool", told: true },
    Fault { call: "write", number: EIO, path: "/.app.db-replicate/state", told: true },
    Fault { call: "sync", number: EIO, path: "/.app.db-replicate/state", told: false },
    Fault { call: "write", number: EIO, path: "/.app.db-replicate/ledger", told: false },
    Fault { call: "sync", number: EIO, path: "/.app.db-replicate/ledger", told: false },
    Fault { call: "write", number: ENOSPC, path: "/replica/", told: true },
    Fault { call: "sync", number: EIO, path: "/replica/", told: true },
    Fault { call: "read", number: EIO, path: "/app.db-wal", told: true },
    Fault { call: "write", number: EIO, path: "/app.db", told: false },
    Fault { call: "sync", number: EIO, path: "/app.db", told: false },
];

/// The library, compiled, and its rules.
struct Breaker {
    library: PathBuf,
    rules: PathBuf,
}

impl Breaker {
    fn make(folder: &Path) -> Outcome<Self> {
        let (source, library) = (folder.join("faulty.c"), folder.join("faulty.so"));
        std::fs::write(&source, include_str!("faulty.c")).map_err(|e| format!("write {}: {e}", source.display()))?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = command.output().map_err(|e| format!("{}: {e}", compiler.display()))?;
        if !output.status.success() {
            return Err(format!("faulty.c does not compile: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let breaker = Self { library, rules: folder.join("rules") };
        breaker.mend()?;
        Ok(breaker)
    }

    fn set(&self, rules: &str) -> Outcome {
        let write =
            |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
        write(&crate::ground::beside(&self.rules, ".hits"), "")?;
        // In one piece: it is read at any moment.
        let new = self.rules.with_extension("new");
        write(&new, rules)?;
        std::fs::rename(&new, &self.rules).map_err(|e| format!("{}: {e}", self.rules.display()))
    }

    fn spoil(&self, fault: Fault) -> Outcome {
        self.set(&format!("{} {} {}\n", fault.call, fault.number, fault.path))
    }

    fn mend(&self) -> Outcome {
        self.set("")
    }

    /// Calls that have failed since the rules were set.
    fn hits(&self) -> u64 {
        std::fs::metadata(crate::ground::beside(&self.rules, ".hits")).map_or(0, |meta| meta.len())
    }

    fn meets(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while self.hits() == 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.hits() > 0
    }

    fn engine(&self, ground: &Ground, seed: u64) -> Outcome<Child> {
        let mut script = ground.engine(seed);
        if let Some(engine) = &mut script.engine {
            // Long enough for files to stay in the spool.
            engine.pause = Duration::from_millis(60);
        }
        let log = ground.folder.join("engine.log");
        let mut child = Child::start(&script, &log, Some((&self.library, &self.rules)))?;
        match child.ready()? {
            Life::Runs => Ok(child),
            other => Err(format!("the engine did not begin: {other:?}")),
        }
    }
}

pub(crate) fn run(torture: &mut Torture) -> Outcome<String> {
    let place = torture.place("broken")?;
    let breaker = Breaker::make(&torture.folder)?;
    let ground = Ground::create(&place, on_file(&place.join("replica")), Shape::default())?
        .with("sync_interval", "10ms")
        .with("checkpoint_pages", "64");
    let mut steps = Vec::new();
    let chosen = |at: usize| torture.size != Size::Quick || at.is_multiple_of(3);
    for (at, fault) in FAULTS.iter().enumerate().filter(|(at, _)| chosen(*at)) {
        let kill = torture.rng.percent(30);
        let met = broken(&breaker, &ground, *fault, kill, at as u64)
            .map_err(|why| format!("{fault:?}, killed {kill}: {why}"))?;
        steps.push(format!("{} {} {} met {met} times", fault.call, fault.number, fault.path));
    }
    steps.push(full(torture, &breaker)?);
    Ok(steps.join(", "))
}

/// One fault while the host writes, and what comes after it.
fn broken(breaker: &Breaker, ground: &Ground, fault: Fault, kill: bool, seed: u64) -> Outcome<u64> {
    let mut engine = breaker.engine(ground, seed)?;
    let mut host = ground.start("host", &ground.application(seed, vec![ground.writing(1), ground.writing(2)]))?;
    host.goes_on(20)?;
    breaker.spoil(fault)?;
    if !breaker.meets(MEET) {
        return Err("no call has met it".to_owned());
    }
    if fault.told {
        engine.until("the status tells of it", MEET, |status| !status["error"].is_null())?;
    }
    host.goes_on(50)?;
    let status = engine.status()?;
    if ["failed", "fenced", "stopped"].iter().any(|state| status["state"] == *state) {
        return Err(format!("replication has ended: {status}"));
    }
    let hits = breaker.hits();
    if kill {
        engine.kill()?;
        breaker.mend()?;
        engine = breaker.engine(ground, seed + 1)?;
    } else {
        breaker.mend()?;
    }
    finish(ground, host, engine)?;
    Ok(hits)
}

/// The host stops, everything arrives, and it is all there.
fn finish(ground: &Ground, mut host: Child, mut engine: Child) -> Outcome {
    host.ask("quiet", SOON)?;
    engine.sync()?;
    let status = engine.status()?;
    if status["state"] != "streaming" {
        return Err(format!("not well afterwards: {status}"));
    }
    ground.must_equal(&ground.source(true)?, "afterwards")?;
    host.stop()?;
    engine.stop().map(drop)
}

/// A small disk of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, megabytes: u64) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "torture"]).arg(path);
        let mounted = command.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What stays is seen: the folder cannot be removed.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A disk without room: by our own spool, which must leave some; and by somebody else.
fn full(torture: &mut Torture, breaker: &Breaker) -> Outcome<String> {
    let place = torture.place("small")?;
    let Some(_disk) = SmallDisk::mount(&place, 40) else {
        return Ok("no full disk (tmpfs cannot be mounted here)".to_owned());
    };
    let replica = torture.place("elsewhere")?.join("replica");
    let ground = Ground::create(&place, on_file(&replica), Shape::default())?.with("sync_interval", "10ms");
    let mut engine = breaker.engine(&ground, 1)?;
    let fast = |id| crate::actor::Writing { pause: Duration::from_micros(500), ..ground.writing(id) };
    let mut host = ground.start("host", &ground.application(1, vec![fast(1), fast(2)]))?;
    host.goes_on(50)?;
    // Nothing can be stored any more.
    breaker.spoil(Fault { call: "write", number: EIO, path: "/replica/", told: true })?;
    let near = |status: &serde_json::Value| status["error"].as_str().is_some_and(|error| error.contains("nearly full"));
    engine.until("the spool stops before the disk is full", Duration::from_secs(120), near)?;
    // Strict writers: a commit that finds no room would be the host's failure by our fault.
    let felt = host.goes_on(500)?;
    breaker.mend()?;
    finish(&ground, host, engine).map_err(|why| format!("a full spool: {why}"))?;

    // Somebody else takes the last of it: the host's commits may fail now, but nothing is wrong after that.
    let mut engine = breaker.engine(&ground, 2)?;
    let tolerant = crate::actor::Writing { tolerant: true, ..ground.writing(1) };
    let mut host = ground.start("host", &ground.application(2, vec![tolerant]))?;
    host.goes_on(20)?;
    let hog = place.join("hog");
    let _no_space_left =
        Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", hog.display())).output();
    let failing = |status: &serde_json::Value| status["failed"].as_u64() > Some(5);
    host.until("the disk is full for the host", SOON, failing)?;
    if torture.rng.percent(50) {
        engine.kill()?;
        std::fs::remove_file(&hog).map_err(|e| format!("remove: {e}"))?;
        engine = breaker.engine(&ground, 3)?;
    } else {
        std::fs::remove_file(&hog).map_err(|e| format!("remove: {e}"))?;
    }
    host.goes_on(50)?;
    finish(&ground, host, engine).map_err(|why| format!("a full disk: {why}"))?;
    Ok(format!(
        "a full spool and a full disk on tmpfs (slowest commit {} ms)",
        felt["slowest_us"].as_u64().unwrap_or(0) / 1000
    ))
}
