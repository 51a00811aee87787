//! A child process: writers, or an engine, or both in one, as its script says.
//!
//! The first line on its input is the script; each line after it a command, answered by one line of JSON. The end of
//! the input ends the process at once, so that nothing is left when the torture program ends in whatever way.
//! Writers note each row after its commit, the engine each row that `sync` has acknowledged, in files outside the
//! database.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use replicate::simulation::{Mutant, Point, crash_at, switch_everywhere};
use replicate::{Cancel, Handle, Options, RestoreOptions, Target, Txid};
use replicate_sim::peers::Outcome;
use replicate_sim::sim::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::chain::{self, Writer, sql};

/// How long an acknowledgement is waited for.
const SYNC: Duration = Duration::from_secs(120);
/// How long the database may be unreadable for the process of an engine whose disk fails.
const FAILING: Duration = Duration::from_secs(60);
/// The kinds of checkpoint that an application may ask for.
const CHECKPOINTS: [&str; 5] = ["PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE"];

/// What a child does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Script {
    pub(crate) db: PathBuf,
    pub(crate) seed: u64,
    pub(crate) writers: Vec<Writing>,
    pub(crate) engine: Option<Replicating>,
    pub(crate) restoring: Option<Restoring>,
    /// Where to be killed: the name of a point, and at which visit.
    pub(crate) crash: Option<(String, u32)>,
    /// A deliberate defect of its engine.
    pub(crate) mutant: Option<String>,
}

/// One writer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Writing {
    pub(crate) id: i64,
    /// Frames from which SQLite checkpoints by itself; 0: never.
    pub(crate) autocheckpoint: u32,
    /// Time between two commits.
    pub(crate) pause: Duration,
    /// Bytes of an account, at most.
    pub(crate) row: u64,
    /// Checkpoints of every kind, in a hundred commits.
    pub(crate) checkpoints: u64,
    /// New connections, in a thousand commits.
    pub(crate) reconnects: u64,
    /// Goes on after an error, and counts it.
    pub(crate) tolerant: bool,
    /// Where acknowledged rows are noted.
    pub(crate) notes: PathBuf,
}

/// The engine.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Replicating {
    pub(crate) options: Vec<(String, String)>,
    /// Where rows that `sync` has acknowledged are noted, with the capture; `None`: it is not asked to sync.
    pub(crate) stored: Option<PathBuf>,
    /// Time between two calls of `sync`.
    pub(crate) pause: Duration,
}

/// A restore.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Restoring {
    pub(crate) options: Vec<(String, String)>,
    pub(crate) output: PathBuf,
    pub(crate) txid: Option<u64>,
}

/// Options as the library takes them.
pub(crate) fn config(options: &[(String, String)]) -> Outcome<replicate::Config> {
    let mut given = Options::new();
    for (name, value) in options {
        given.set(name, value.as_str()).map_err(|e| e.to_string())?;
    }
    given.check().map_err(|e| e.to_string())
}

/// The child's own main.
pub(crate) fn main() -> Outcome {
    // Host and engine share one SQLite in this program.
    replicate::embed::sole_sqlite();
    let mut lines = std::io::stdin().lines();
    let script = lines.next().ok_or("no script")?.map_err(|e| format!("the script: {e}"))?;
    let script: Script = serde_json::from_str(&script).map_err(|e| format!("the script: {e}"))?;
    if let Some((name, nth)) = &script.crash {
        let point = Point::ALL.iter().find(|point| point.name() == name).ok_or("no such point")?;
        crash_at(*point, *nth);
    }
    if let Some(name) = &script.mutant {
        let mutant = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == *name).ok_or("no such defect")?;
        switch_everywhere(*mutant);
    }
    if let Some(restoring) = &script.restoring {
        return restore(restoring);
    }
    let mut actor = Actor::begin(&script)?;
    answer(&json!({ "ready": true }))?;
    for line in lines {
        let command = line.map_err(|e| format!("a command: {e}"))?;
        let stops = command == "stop";
        answer(&actor.obey(&command))?;
        if stops {
            return Ok(());
        }
    }
    std::process::exit(0)
}

fn answer(value: &Value) -> Outcome {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{value}").and_then(|()| output.flush()).map_err(|e| format!("answer: {e}"))
}

fn restore(restoring: &Restoring) -> Outcome {
    let target = restoring.txid.map_or(Target::Latest, |txid| Target::Txid(Txid(txid)));
    let options = RestoreOptions::new(&restoring.output).overwrite(true).target(target);
    let done = replicate::restore(&options, &config(&restoring.options)?, &Cancel::new(), &mut |_| {});
    answer(&json!({ "ready": done.is_ok(), "error": done.err().map(|e| e.to_string()) }))
}

/// What the threads share.
#[derive(Debug, Default)]
struct Shared {
    quiet: AtomicBool,
    no_syncs: AtomicBool,
    commits: AtomicU64,
    /// Failed commits of tolerant writers.
    failed: AtomicU64,
    /// The slowest commit, in microseconds.
    slowest: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Shared {
    fn fail(&self, what: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }
}

struct Actor {
    db: PathBuf,
    shared: Arc<Shared>,
    handle: Option<Handle>,
    writers: Vec<JoinHandle<()>>,
    syncs: Option<JoinHandle<()>>,
}

impl Actor {
    fn begin(script: &Script) -> Outcome<Self> {
        let shared = Arc::new(Shared::default());
        let handle = match &script.engine {
            Some(engine) => {
                Some(Handle::start(&script.db, config(&engine.options)?).map_err(|e| format!("start: {e}"))?)
            }
            None => None,
        };
        let mut actor = Self { db: script.db.clone(), shared, handle, writers: Vec::new(), syncs: None };
        for writing in script.writers.clone() {
            let (db, shared, rng) =
                (script.db.clone(), actor.shared.clone(), Rng::new(script.seed ^ writing.id as u64));
            actor.writers.push(std::thread::spawn(move || write(&db, &writing, rng, &shared)));
        }
        if let (Some(engine), Some(handle)) = (script.engine.clone(), actor.handle.clone())
            && let Some(stored) = engine.stored
        {
            let (db, shared) = (script.db.clone(), actor.shared.clone());
            actor.syncs = Some(std::thread::spawn(move || {
                if let Err(why) = keep_syncing(&db, &handle, &stored, engine.pause, &shared) {
                    shared.fail(format!("sync loop: {why}"));
                }
            }));
        }
        Ok(actor)
    }

    fn obey(&mut self, command: &str) -> Value {
        match command {
            "status" => self.status(),
            "quiet" => {
                self.quiet();
                self.status()
            }
            "sync" => match self.handle.as_ref().map(|handle| handle.sync(SYNC)) {
                Some(Ok(status)) => json!({ "ok": true, "txid": status.remote_txid.0 }),
                Some(Err(error)) => json!({ "ok": false, "error": described(&error) }),
                None => json!({ "ok": false, "error": "no engine" }),
            },
            "stop" => {
                self.quiet();
                self.shared.no_syncs.store(true, Ordering::Relaxed);
                let report = self.handle.as_ref().map(|handle| handle.stop(SYNC));
                if let Some(syncs) = self.syncs.take() {
                    // Its failure is in the status.
                    let _ = syncs.join();
                }
                let flushed = matches!(&report, Some(Ok(report)) if report.flushed);
                let mut status = self.status();
                status["flushed"] = (flushed || report.is_none()).into();
                status
            }
            other => json!({ "error": format!("unknown command {other}") }),
        }
    }

    fn quiet(&mut self) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            if writer.join().is_err() {
                self.shared.fail("a writer has panicked".to_owned());
            }
        }
    }

    fn status(&self) -> Value {
        let shared = &self.shared;
        let mut status = json!({
            "commits": shared.commits.load(Ordering::Relaxed),
            "failed": shared.failed.load(Ordering::Relaxed),
            "slowest_us": shared.slowest.load(Ordering::Relaxed),
            "failure": *shared.failure.lock().unwrap_or_else(PoisonError::into_inner),
            "wal": std::fs::metadata(crate::ground::beside(&self.db, "-wal")).map_or(0, |meta| meta.len()),
        });
        if let Some(Ok(engine)) = self.handle.as_ref().map(Handle::sync_status) {
            status["state"] = engine.state.name().into();
            status["error"] = engine.last_error.as_ref().map(described).into();
            status["pending"] = engine.pending_bytes.into();
            status["in_sync"] = engine.in_sync.into();
            status["local"] = engine.local_txid.0.into();
            status["remote"] = engine.remote_txid.0.into();
        }
        status
    }
}

/// An error with what caused it.
fn described(error: &replicate::Error) -> String {
    let mut text = format!("{:?}: {error}", error.kind());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn note_file(path: &Path) -> Outcome<std::fs::File> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| format!("open {}: {e}", path.display()))
}

/// One call of the system, so that a kill leaves a whole line or none.
fn note(file: &mut std::fs::File, line: &str) -> Outcome {
    file.write_all(line.as_bytes()).map_err(|e| format!("note: {e}"))
}

/// Notes rows with the captures that bring them to the store.
fn keep_syncing(db: &Path, handle: &Handle, stored: &Path, pause: Duration, shared: &Shared) -> Outcome {
    let mut notes = note_file(stored)?;
    let (mut connection, mut failing) = (chain::connect(db, 0).map_err(sql)?, None);
    while !shared.no_syncs.load(Ordering::Relaxed) {
        let row = match chain::newest(&connection) {
            Ok(row) => row,
            // A disk that fails this process fails its look at the database, too, for a while.
            Err(_) if failing.get_or_insert_with(Instant::now).elapsed() < FAILING => {
                std::thread::sleep(pause);
                connection = chain::connect(db, 0).unwrap_or(connection);
                continue;
            }
            Err(error) => return Err(sql(error)),
        };
        failing = None;
        match handle.sync(SYNC) {
            Ok(status) => note(&mut notes, &format!("{row} {}\n", status.remote_txid.0))?,
            Err(_) if shared.no_syncs.load(Ordering::Relaxed) => return Ok(()),
            Err(error) => return Err(described(&error)),
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

fn write(db: &Path, writing: &Writing, mut rng: Rng, shared: &Shared) {
    while !shared.quiet.load(Ordering::Relaxed) {
        match write_on(db, writing, &mut rng, shared) {
            Ok(()) => {}
            Err(_) if writing.tolerant => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(why) => return shared.fail(format!("writer {}: {why}", writing.id)),
        }
    }
}

/// Writes on one connection.
fn write_on(db: &Path, writing: &Writing, rng: &mut Rng, shared: &Shared) -> Outcome {
    let mut notes = note_file(&writing.notes)?;
    let mut writer = Writer::open(db, writing.autocheckpoint, writing.id, writing.row).map_err(sql)?;
    while !shared.quiet.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let id = writer.append(rng).map_err(sql)?;
        note(&mut notes, &format!("{id}\n"))?;
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.slowest.fetch_max(took, Ordering::Relaxed);
        shared.commits.fetch_add(1, Ordering::Relaxed);
        if rng.percent(writing.checkpoints) {
            checkpoint(&writer.connection, rng.pick(&CHECKPOINTS)).map_err(sql)?;
        }
        if rng.below(1000) < writing.reconnects {
            return Ok(());
        }
        if !writing.pause.is_zero() {
            std::thread::sleep(writing.pause);
        }
    }
    Ok(())
}

/// A checkpoint; being refused is part of the game. Whether it was done.
pub(crate) fn checkpoint(connection: &rusqlite::Connection, mode: &str) -> rusqlite::Result<bool> {
    connection.execute_batch("PRAGMA busy_timeout=50")?;
    let done = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0));
    connection.execute_batch("PRAGMA busy_timeout=15000")?;
    match done {
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseLocked) => Ok(false),
        other => other.map(|busy| busy == 0),
    }
}
