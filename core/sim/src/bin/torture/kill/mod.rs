//! SIGKILL, hundreds of times: after each one a new engine on the same state, a sync, a restore, a comparison.
//!
//! [`plan`] says who is killed and where, [`stage`] is the database that it happens to. A round ends with the replica
//! equal to the source; what was restored between kill and restart, and what is restored as of an earlier
//! acknowledgement, must be a beginning of the source that holds what was acknowledged by then.

mod plan;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use replicate::simulation::Point;
use replicate::{Cancel, Check, RestoreOptions, Target, Txid};
use replicate_sim::peers::{Outcome, Process};
use replicate_sim::servers::VersityGw;
use replicate_sim::sim::Rng;

use self::plan::{Need, Plan, Who};
use self::stage::Stage;
use crate::actor::{Restoring, Script, config};
use crate::chain::{self, Chain};
use crate::child::{Child, Life};
use crate::ground::beside;
use crate::{Size, Torture};

/// How long a point may take to be reached, from the begin of the load on.
const REACH: Duration = Duration::from_secs(3);
/// A round that takes longer is told, with its plan: what it waited for may be worth a look.
const LONG: Duration = Duration::from_secs(20);

/// In so many rounds somebody is killed at every point: about twenty times each.
const ALL_POINTS: u64 = 1000;

/// What has been done.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    who: BTreeMap<Who, u64>,
    points: BTreeMap<&'static str, u64>,
    by_chance: u64,
    restores: u64,
    /// Acknowledgements of `sync`, each of which a later restore was held against.
    acknowledged: u64,
    rows: i64,
    /// The command was not built, so it was not killed.
    without_command: bool,
}

pub(crate) fn run(torture: &mut Torture) -> Outcome<String> {
    let rounds = match (torture.rounds, torture.time, torture.size) {
        (Some(rounds), _, _) => rounds,
        (None, Some(_), _) => u64::MAX,
        (None, None, Size::Quick) => 12,
        (None, None, Size::Normal) => 200,
        (None, None, Size::Full) => 1000,
    };
    let server = VersityGw::start();
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut stage: Option<Stage> = None;
    while tally.rounds < rounds && torture.time.is_none_or(|time| begun.elapsed() < time) {
        let plan = Plan::by_chance(&mut torture.rng);
        let worn = stage.as_ref().is_none_or(|stage| stage.is_worn() || !stage.fits(plan.need));
        if worn {
            if let Some(old) = stage.take() {
                tally.close(&old)?;
            }
            stage = Some(Stage::raise(torture, tally.rounds, &server, plan.need)?);
        }
        let Some(stage) = stage.as_mut() else { continue };
        stage.rounds += 1;
        let started = Instant::now();
        let done = Round { stage, plan, tally: &mut tally, rng: Rng::new(plan.seed) }.run();
        if let Err(why) = done {
            keep(&server, &torture.folder);
            return Err(format!("round {}, {plan:?}: {why} (before: {})", tally.rounds, tally.tell()));
        }
        if started.elapsed() > LONG {
            eprintln!("round {} took {:.0} s: {plan:?}", tally.rounds, started.elapsed().as_secs_f64());
        }
        tally.rounds += 1;
        if tally.rounds % 50 == 0 {
            eprintln!("{} rounds in {:.0} s", tally.rounds, begun.elapsed().as_secs_f64());
        }
    }
    if let Some(stage) = &stage {
        tally.close(stage)?;
    }
    let missed: Vec<_> =
        Point::ALL.iter().map(|point| point.name()).filter(|name| !tally.points.contains_key(name)).collect();
    if tally.rounds >= ALL_POINTS && !missed.is_empty() {
        return Err(format!("nobody was killed at {missed:?} ({})", tally.tell()));
    }
    Ok(tally.tell())
}

/// Copies the server's objects to the evidence.
fn keep(server: &VersityGw, folder: &Path) {
    // Without them the evidence is only less.
    let _ = std::process::Command::new("cp").arg("-a").arg(server.data()).arg(folder.join("s3")).status();
}

impl Tally {
    fn close(&mut self, stage: &Stage) -> Outcome {
        let ground = &stage.ground;
        self.acknowledged += ground.stored().len() as u64;
        self.rows += ground.committed();
        // Disks are not endless; only what fails is kept.
        std::fs::remove_dir_all(&ground.folder).map_err(|e| format!("remove {}: {e}", ground.folder.display()))
    }

    fn tell(&self) -> String {
        let who: Vec<_> = self.who.iter().map(|(who, n)| format!("{who:?} {n}")).collect();
        let points: Vec<_> = self.points.iter().map(|(point, n)| format!("{point} {n}")).collect();
        let without = if self.without_command { ", without the command, which is not built" } else { "" };
        format!(
            "{} rounds ({}{without}), {} kills by chance and {} at points ({}), {} restores compared, {} acknowledgements held, {} rows",
            self.rounds,
            who.join(", "),
            self.by_chance,
            self.points.values().sum::<u64>(),
            points.join(", "),
            self.restores,
            self.acknowledged,
            self.rows,
        )
    }
}

/// One round.
struct Round<'a> {
    stage: &'a mut Stage,
    plan: Plan,
    tally: &'a mut Tally,
    rng: Rng,
}

impl Round<'_> {
    fn run(mut self) -> Outcome {
        if matches!(self.plan.need, Need::Forget | Need::Parts) {
            self.stage.ground.forget();
        }
        if self.plan.who == Who::Restore && self.stage.ground.acknowledged() == 0 {
            self.plan = Plan { who: Who::Together, need: Need::Load, point: None, ..self.plan };
        }
        if self.plan.who == Who::Command && crate::command()?.is_none() {
            self.tally.without_command = true;
            self.plan.who = Who::Both;
        }
        *self.tally.who.entry(self.plan.who).or_default() += 1;
        match self.plan.who {
            Who::Together => {
                let mut child = self.child("together", &self.host_and_engine())?;
                self.strike(&mut child)?;
                self.settle()
            }
            Who::Engine => self.engine_alone(),
            Who::Host => self.host_alone(),
            Who::Both => self.both(),
            Who::Command => self.command(),
            Who::Standby => self.standby(),
            Who::Restore => self.restore(),
        }
    }

    fn child(&self, name: &str, script: &Script) -> Outcome<Child> {
        Child::start(script, &self.stage.ground.folder.join(format!("{name}.log")), None)
    }

    fn host(&self) -> Script {
        self.stage.ground.application(self.plan.seed, self.stage.writers(self.plan.need))
    }

    fn engine(&self) -> Script {
        self.stage.ground.engine(self.plan.seed)
    }

    /// With the point armed.
    fn armed(&self, script: Script) -> Script {
        Script { crash: self.plan.point.map(|(point, nth)| (point.name().to_owned(), nth)), ..script }
    }

    fn host_and_engine(&self) -> Script {
        self.armed(Script { writers: self.stage.writers(self.plan.need), ..self.engine() })
    }

    /// Load, and then the end of this child: at the point if it gets there, else at a moment by chance.
    fn strike(&mut self, child: &mut Child) -> Outcome {
        let life = child.ready()?;
        self.strike_begun(child, life)
    }

    /// The same for a child that has begun, or has met its end before that.
    fn strike_begun(&mut self, child: &mut Child, mut life: Life) -> Outcome {
        if life == Life::Runs {
            life = child.life_within(Duration::from_millis(self.plan.load))?;
        }
        if life == Life::Runs && self.plan.need == Need::Stop {
            child.tell("stop");
            if self.plan.point.is_none() {
                life = child.life_within(Duration::from_millis(self.rng.below(60)))?;
            }
        }
        if life == Life::Runs && self.plan.point.is_some() {
            life = child.life_within(REACH)?;
        }
        match (life, self.plan.point) {
            (Life::Killed, Some((point, _))) => *self.tally.points.entry(point.name()).or_default() += 1,
            _ => self.tally.by_chance += 1,
        }
        child.kill()
    }

    fn engine_alone(&mut self) -> Outcome {
        let mut host = self.stage.ground.start("host", &self.host())?;
        let mut engine = self.child("engine", &self.armed(self.engine()))?;
        self.strike(&mut engine)?;
        host.goes_on(5)?;
        let next = self.stage.ground.start("engine", &self.engine())?;
        self.finish_apart(host, next)
    }

    fn host_alone(&mut self) -> Outcome {
        let mut engine = self.stage.ground.start("engine", &self.engine())?;
        let mut host = self.stage.ground.start("host", &self.host())?;
        std::thread::sleep(Duration::from_millis(self.plan.load));
        host.status()?;
        host.kill()?;
        self.tally.by_chance += 1;
        engine.sync()?;
        self.compare()?;
        self.end(engine)
    }

    fn both(&mut self) -> Outcome {
        let mut host = self.stage.ground.start("host", &self.host())?;
        let mut engine = self.child("engine", &self.armed(self.engine()))?;
        if self.plan.point.is_none() && self.rng.percent(50) {
            // The engine sees the host gone for a while.
            let life = engine.ready()?;
            std::thread::sleep(Duration::from_millis(self.plan.load));
            host.kill()?;
            self.strike_begun(&mut engine, life)?;
            return self.settle();
        }
        self.strike(&mut engine)?;
        host.status()?;
        host.kill()?;
        self.settle()
    }

    fn standby(&mut self) -> Outcome {
        let mut host = self.stage.ground.start("host", &self.host())?;
        let mut first = self.child("first", &self.armed(self.engine()))?;
        let life = first.ready()?;
        if life != Life::Runs {
            self.strike_begun(&mut first, life)?;
            let next = self.stage.ground.start("engine", &self.engine())?;
            return self.finish_apart(host, next);
        }
        let second = self.stage.ground.start("second", &self.engine())?;
        self.strike_begun(&mut first, life)?;
        host.goes_on(5)?;
        self.finish_apart(host, second)
    }

    fn start_command(&self) -> Outcome<Process> {
        let ground = &self.stage.ground;
        let mut command = std::process::Command::new(crate::command()?.ok_or("the command is gone")?);
        command.args(["replicate", "--json"]).arg(&ground.db);
        for (name, value) in &ground.options {
            match replicate::ConfigKey::from_name(name) {
                Some(replicate::ConfigKey::Url) => drop(command.arg(value)),
                Some(key) => drop(command.env(key.env(), value)),
                None => return Err(format!("no option {name}")),
            }
        }
        Process::start("replicate", &mut command, &ground.folder.join("command.log"))
    }

    fn command(&mut self) -> Outcome {
        let mut host = self.stage.ground.start("host", &self.host())?;
        let mut command = self.start_command()?;
        let mut asker = self.stage.ground.start("asker", &self.engine())?;
        std::thread::sleep(Duration::from_millis(self.plan.load));
        command.still_runs()?;
        asker.status()?;
        // Whichever of them replicates: neither may go on.
        drop(command);
        asker.kill()?;
        self.tally.by_chance += 1;
        if self.rng.percent(40) {
            host.kill()?;
            return self.settle();
        }
        host.goes_on(5)?;
        let mut command = self.start_command()?;
        let asker = self.stage.ground.start("asker", &self.engine())?;
        self.finish_apart(host, asker)?;
        command.still_runs()
    }

    /// The host stops writing; what the engine brings to the store is all of it.
    fn finish_apart(&mut self, mut host: Child, mut engine: Child) -> Outcome {
        std::thread::sleep(Duration::from_millis(self.rng.between(5, 80)));
        host.ask("quiet", crate::child::SOON)?;
        engine.sync()?;
        self.compare()?;
        host.stop()?;
        self.end(engine)
    }

    /// In order, or not.
    fn end(&mut self, mut engine: Child) -> Outcome {
        if self.rng.percent(50) {
            return engine.kill();
        }
        let report = engine.stop()?;
        // A stand-by has nothing of its own to flush.
        let asker = self.plan.who == Who::Command;
        if report["flushed"].as_bool() == Some(true) || asker && report["error"].is_null() {
            Ok(())
        } else {
            Err(format!("stop did not flush: {report}"))
        }
    }

    /// Nobody runs: what happens until the next start, and what that makes of it.
    fn settle(&mut self) -> Outcome {
        let acknowledged = self.stage.ground.acknowledged();
        let between = match acknowledged > 0 && self.rng.percent(40) {
            true => Some(self.restored(None).map_err(|why| format!("before the restart: {why}"))?),
            false => None,
        };
        self.meanwhile()?;
        let mut engine = self.stage.ground.start("settle", &self.engine())?;
        engine.sync()?;
        let source = self.compare()?;
        if let Some(between) = between {
            between.begins(&source, acknowledged).map_err(|why| format!("before the restart: {why}"))?;
        }
        self.end(engine)
    }

    /// What may go on at a database that nobody replicates.
    fn meanwhile(&mut self) -> Outcome {
        match self.rng.below(20) {
            // Whoever looks last copies the WAL back and removes it.
            0..4 => drop(self.stage.ground.source(false)?),
            4..8 => {
                let mut host = self.stage.ground.start("alone", &self.host())?;
                std::thread::sleep(Duration::from_millis(self.rng.between(5, 60)));
                match self.rng.percent(50) {
                    true => drop(host.stop()?),
                    false => host.kill()?,
                }
            }
            8 => self.stage.ground.forget(),
            _ => {}
        }
        Ok(())
    }

    fn restored(&mut self, txid: Option<u64>) -> Outcome<Chain> {
        self.tally.restores += 1;
        self.stage.ground.restored(txid)
    }

    /// The replica is the source; and an earlier state is what it was.
    fn compare(&mut self) -> Outcome<Chain> {
        let source = self.stage.ground.source(self.rng.percent(70))?;
        self.tally.restores += 1;
        self.stage.ground.must_equal(&source, "after the restart")?;
        let stored = self.stage.ground.stored();
        if !stored.is_empty() && self.rng.percent(35) {
            let (row, txid) = stored[self.rng.index(stored.len())];
            let what = |why| format!("as of txid {txid}, acknowledged with row {row}: {why}");
            // Before the first capture there is nothing.
            if txid > 0 {
                self.restored(Some(txid)).and_then(|chain| chain.begins(&source, row)).map_err(what)?;
            }
        }
        Ok(source)
    }

    /// A restore over a database with a log, killed: the database is the old one or the new one, whole.
    fn restore(&mut self) -> Outcome {
        let mut host = self.stage.ground.start("alone", &self.host())?;
        std::thread::sleep(Duration::from_millis(self.rng.between(5, 60)));
        host.kill()?;
        let ground = self.stage.ground.clone();
        let target = ground.folder.join("target.db");
        for suffix in ["", "-wal", "-shm"] {
            let (from, to) = (beside(&ground.db, suffix), beside(&target, suffix));
            let _absent = std::fs::remove_file(&to);
            if from.exists() && suffix != "-shm" {
                std::fs::copy(&from, &to).map_err(|e| format!("copy {}: {e}", from.display()))?;
            }
        }
        let old = ground.source(true)?;
        let stored: Vec<_> = ground.stored().into_iter().filter(|(_, txid)| *txid > 0).collect();
        if stored.is_empty() {
            return Ok(());
        }
        let (_, txid) = stored[self.rng.index(stored.len())];
        let new = self.restored(Some(txid))?;
        let options = [ground.options.clone(), ground.opening.clone()].concat();
        let restoring = Restoring { options: options.clone(), output: target.clone(), txid: Some(txid) };
        let mut child =
            self.child("restore", &self.armed(Script { restoring: Some(restoring), ..ground.script(0) }))?;
        let limit = if self.plan.point.is_some() { REACH } else { Duration::from_millis(self.plan.load / 2) };
        let life = child.life_within(limit)?;
        child.kill()?;
        let at = match (life, self.plan.point) {
            (Life::Killed, Some((point, _))) => {
                *self.tally.points.entry(point.name()).or_default() += 1;
                point.name()
            }
            _ => {
                self.tally.by_chance += 1;
                "by chance"
            }
        };
        let config = config(&options)?;
        match replicate::ensure_exists(&target, &config, &Cancel::new()) {
            Ok(false) => {}
            other => return Err(format!("killed {at}, the database is not seen: {other:?}")),
        }
        let found = chain::read(&target, true).map_err(|why| format!("killed {at}: {why}"))?;
        let (is_old, is_new) = (found.equals(&old), found.equals(&new));
        let fits = match (at, life) {
            ("RestoreWritten" | "RestoreAside", _) => is_old.is_ok(),
            ("RestoreRenamed", _) | (_, Life::Ended) => is_new.is_ok(),
            _ => is_old.is_ok() || is_new.is_ok(),
        };
        if !fits {
            return Err(format!("killed {at} ({life:?}), the database is neither: old: {is_old:?}, new: {is_new:?}"));
        }
        let again = RestoreOptions::new(&target).overwrite(true).check(Check::None).target(Target::Txid(Txid(txid)));
        replicate::restore(&again, &config, &Cancel::new(), &mut |_| {}).map_err(|e| format!("once more: {e}"))?;
        self.tally.restores += 1;
        chain::read(&target, true)?.equals(&new).map_err(|why| format!("once more: {why}"))
    }
}
