//! The handle of a replicator, and the register of those that run in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replicate_format::Txid;

use super::runtime::{not_forked, runtime};
use super::{environment, located, open_store, prepare};
use crate::capture::InotifyWatch;
use crate::config::Config;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, State, StopReport, SyncStatus};
use crate::fleet::{Member, Queue, Shared};
use crate::restore::Cancel;
use crate::seal::Recipients;
use crate::sqlite::refuse_companions;

/// A running replicator.
///
/// Clones, and the handles of later calls for the same database in this process, are the same replicator.
/// Dropping them lets it run on until the process ends; [`stop`](Self::stop) ends it. Every method may be
/// called from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    path: PathBuf,
    pid: u32,
    /// `None`: no store is configured.
    shared: Option<Arc<Shared>>,
}

struct Running {
    shared: Arc<Shared>,
    replica: Replica,
}

/// Where objects go, and for whom they are.
#[derive(Debug, Eq, PartialEq)]
struct Replica {
    location: String,
    sealed_to: String,
}

/// The replicators of this process by absolute path. Not used after a fork.
static RUNNING: Mutex<BTreeMap<PathBuf, Running>> = Mutex::new(BTreeMap::new());

fn register() -> MutexGuard<'static, BTreeMap<PathBuf, Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// Starts replicating a database, or returns the handle of the replicator that runs for it already. One that
    /// is being stopped is waited for; one that has ended by itself is replaced.
    ///
    /// A database that does not exist is restored first (unless [`RestorePolicy::Never`] is set); then the
    /// call takes as long as the restore, and a store that cannot be asked is an error. Otherwise the store is
    /// not waited for: commits are spooled while it cannot be reached.
    ///
    /// [`RestorePolicy::Never`]: crate::config::RestorePolicy::Never
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) for options and where they name no store,
    /// [`Unsupported`](ErrorKind::Unsupported) where the platform or file system is not safe, [`Diverged`](ErrorKind::Diverged) for a replica that is in use for another
    /// database of this process, and those of [`restore`](crate::restore()).
    pub fn start(path: impl AsRef<Path>, config: Config) -> Result<Self> {
        Self::start_with(path, config, &Cancel::new())
    }

    /// [`start`](Self::start) that another thread can end while it restores. A replicator that runs is not ended
    /// by it.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and [`Cancelled`](ErrorKind::Cancelled): nothing was started.
    pub fn start_with(path: impl AsRef<Path>, config: Config, cancel: &Cancel) -> Result<Self> {
        located(&config)?;
        Self::start_or_disabled(path, config, cancel)
    }

    /// [`start_with`](Self::start_with) with a subscription that begins before anything happens; from now on if the
    /// replicator runs already.
    ///
    /// # Errors
    /// Those of [`start_with`](Self::start_with).
    pub fn start_with_events(path: impl AsRef<Path>, config: Config, cancel: &Cancel) -> Result<(Self, Events)> {
        located(&config)?;
        Self::open(path.as_ref(), config, true, cancel)
    }

    /// The same as [`start_with`](Self::start_with); a disabled handle where the options name no store.
    pub(super) fn start_or_disabled(path: impl AsRef<Path>, config: Config, cancel: &Cancel) -> Result<Self> {
        Ok(Self::open(path.as_ref(), config, false, cancel)?.0)
    }

    fn open(path: &Path, config: Config, listen: bool, cancel: &Cancel) -> Result<(Self, Events)> {
        let found = |handle: Self| {
            let events = if listen { handle.events() } else { Events(None) };
            Ok((handle, events))
        };
        not_forked()?;
        let path = absolute(path)?;
        let pid = std::process::id();
        let Some(location) = &config.location else {
            tracing::debug!(db = %path.display(), "no store is configured, replication is disabled");
            return found(Self { path, pid, shared: None });
        };
        if config.age_required && config.keys.recipients().is_none() {
            return Err(Error::new(ErrorKind::Config, "age_required is set, and there is no age recipient")
                .with_hint("set REPLICATE_AGE_RECIPIENT or REPLICATE_AGE_RECIPIENTS_FILE"));
        }
        let reads = config.keys.can_open() || config.keys.is_authenticated();
        if reads && config.keys.recipients().is_none() && !config.keys.allows_plaintext() {
            let message = "there are keys to read sealed files with, and no age recipient: they would be written plain";
            return Err(Error::new(ErrorKind::Config, message).with_hint(
                "set REPLICATE_AGE_RECIPIENT; or take the keys away; or set age_allow_plaintext to write plain files",
            ));
        }
        let mine = Replica { location: location.to_string(), sealed_to: config.keys.sealed_to() };
        if let (Some(shared), _) = running(&path, &mine)? {
            return found(Self { path, pid, shared: Some(shared) });
        }
        let env = environment()?;
        let place = located(&config)?;
        let store = open_store(&place, &env)?;
        let restored = prepare(&path, &config, &place, &env, cancel)?;
        // Another thread may have been here meanwhile.
        let mut running = match running(&path, &mine)? {
            (Some(shared), _) => return found(Self { path, pid, shared: Some(shared) }),
            (None, register) => register,
        };
        cancel.check()?;
        let shared = Arc::new(Shared::new(&path, env.clock.clone()));
        shared.set_sealed_to(config.keys.recipients().map(Recipients::fingerprints).unwrap_or_default());
        if let Some(report) = restored {
            shared.set_restored(report.txid);
        }
        // Before anything can happen.
        let events = Events(listen.then(|| shared.subscribe()));
        let env = env.for_database(&path);
        let member = Member { env, config, store, shared: shared.clone(), watch: Arc::new(InotifyWatch::default()) };
        let task = runtime()?.spawn(member.run());
        let watched = shared.clone();
        runtime()?.spawn(async move {
            if task.await.is_err() {
                let error = Error::internal("the engine has panicked");
                watched.ended_by(&error);
                watched.finish(Some(error));
            }
        });
        running.insert(path.clone(), Running { shared: shared.clone(), replica: mine });
        Ok((Self { path, pid, shared: Some(shared) }, events))
    }

    /// Whether a store is configured. A disabled handle answers everything and does nothing.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.shared.is_some()
    }

    /// The database, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The replicator, unless this process was forked after it had started.
    fn shared(&self) -> Result<Option<&Arc<Shared>>> {
        if self.pid != std::process::id() {
            return Err(Error::forked());
        }
        Ok(self.shared.as_ref())
    }

    /// Returns when everything committed before the call, by any process, has arrived at the store. In state
    /// [`Standby`](State::Standby) the process that replicates is asked, and the status is the one it had then.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), with the last failure as its cause: the upload goes on.
    /// [`Closed`](ErrorKind::Closed) after [`stop`](Self::stop), and the error that has ended replication.
    pub fn sync(&self, timeout: Duration) -> Result<SyncStatus> {
        match self.shared()? {
            Some(shared) => shared.sync(timeout),
            None => Ok(disabled_status()),
        }
    }

    /// Where replication stands, from memory: no I/O, no waiting.
    ///
    /// # Errors
    /// [`Forked`](ErrorKind::Forked) in a child process.
    pub fn sync_status(&self) -> Result<SyncStatus> {
        Ok(self.shared()?.map_or_else(disabled_status, |shared| shared.status()))
    }

    /// Returns when the store has acknowledged this capture.
    ///
    /// # Errors
    /// As for [`sync`](Self::sync), and [`Busy`](ErrorKind::Busy) in state [`Standby`](State::Standby): captures are
    /// counted by the process that replicates.
    pub fn wait(&self, txid: Txid, timeout: Duration) -> Result<SyncStatus> {
        match self.shared()? {
            Some(shared) => shared.wait(txid, timeout),
            None => Ok(disabled_status()),
        }
    }

    /// A subscription to the events from now on. The first one also tells of a restore before the start.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.shared.as_ref().filter(|_| self.pid == std::process::id()).map(|shared| shared.subscribe()))
    }

    /// Ships what was committed, within the time, and ends.
    ///
    /// What did not arrive in time is kept and shipped at the next start; the report says so. A second call
    /// returns the first one's report. In a forked child it does nothing.
    pub fn stop(&self, timeout: Duration) -> Result<StopReport> {
        let nothing = StopReport { flushed: false, local_txid: Txid::ZERO, remote_txid: Txid::ZERO, error: None };
        let Ok(Some(shared)) = self.shared() else { return Ok(nothing) };
        let report = shared.stop(timeout)?;
        register().retain(|_, running| !Arc::ptr_eq(&running.shared, shared));
        Ok(report)
    }
}

/// Ends every replicator of this process.
pub(crate) fn stop_all(timeout: Duration) {
    if not_forked().is_err() {
        return;
    }
    let all: Vec<_> = register().values().map(|running| running.shared.clone()).collect();
    let stopping: Vec<_> = all
        .into_iter()
        .map(|shared| {
            std::thread::spawn(move || {
                crate::sqlite::block_signals();
                shared.stop(timeout)
            })
        })
        .collect();
    for thread in stopping {
        // The report is for those who ask for it.
        let _ = thread.join();
    }
}

type Register = MutexGuard<'static, BTreeMap<PathBuf, Running>>;

/// The replicator of a database, if one runs, and the register as it was when that was seen. Waits for one that
/// is about to end.
fn running(path: &Path, mine: &Replica) -> Result<(Option<Arc<Shared>>, Register)> {
    let running = loop {
        let mut running = register();
        running.retain(|_, running| !running.shared.is_finished());
        let Some(found) = running.get(path) else { break running };
        let shared = found.shared.clone();
        if shared.is_ending() {
            drop(running);
            shared.await_end()?;
            continue;
        }
        if found.replica.location == mine.location && found.replica != *mine {
            return Err(Error::new(ErrorKind::Config, "this database is replicated already, sealed to other keys")
                .with_hint("stop that replicator first"));
        }
        if found.replica != *mine {
            return Err(Error::new(ErrorKind::Config, "this database is replicated to another place already")
                .with_hint("stop that replicator first"));
        }
        return Ok((Some(shared), running));
    };
    if running.values().any(|other| other.replica.location == mine.location) {
        return Err(Error::new(ErrorKind::Diverged, "another database of this process has the same replica")
            .with_hint("give each database a path of its own (REPLICATE_S3_PATH or the replica URL)"));
    }
    Ok((None, running))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let wrong = |why: &str| Error::new(ErrorKind::Config, format!("database path {}: {why}", path.display()));
    let name = path.file_name().ok_or_else(|| wrong("it names no file"))?;
    refuse_companions(path)?;
    let absolute = std::path::absolute(path).map_err(|e| wrong(&e.to_string()))?;
    // SQLite follows links to the file, also where there is none yet, and keeps WAL and locks beside it; so do we, or
    // one database would have two state folders.
    let absolute = RealDisk.resolve(&absolute).map_err(|e| wrong(&e.to_string()))?;
    let (parent, name) = (absolute.parent().unwrap_or(&absolute), absolute.file_name().unwrap_or(name));
    let absolute = parent.canonicalize().map(|parent| parent.join(name)).unwrap_or(absolute);
    if absolute.is_dir() {
        return Err(wrong("it is a folder"));
    }
    Ok(absolute)
}

fn disabled_status() -> SyncStatus {
    SyncStatus {
        local_txid: Txid::ZERO,
        remote_txid: Txid::ZERO,
        in_sync: false,
        state: State::Disabled,
        last_error: None,
        last_sync: None,
        pending_bytes: 0,
        sealed_to: Vec::new(),
    }
}

/// Events of one handle, in order; at most 1,024 wait, then others than changes of state are dropped and
/// counted.
#[derive(Debug)]
pub struct Events(Option<Arc<Queue>>);

impl Events {
    /// The next event; `None` when the time has passed or the replicator has ended and all were taken.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        self.0.as_ref()?.next(timeout)
    }

    /// Whether the replicator has ended and all events were taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(|queue| queue.is_finished())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    #[test]
    fn a_subscription_made_by_the_start_hears_of_everything() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Options::new().with(crate::ConfigKey::Url, "memory://listened").check().expect("fine");
        let (handle, events) =
            Handle::start_with_events(folder.path().join("app.db"), config, &Cancel::new()).expect("started");
        handle.stop(Duration::from_secs(10)).expect("stopped");
        let first = events.next(Duration::from_secs(10));
        assert!(matches!(first, Some(Event::State { from: State::Starting, .. })), "{first:?}");
    }

    #[test]
    fn a_start_that_names_no_place_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db");
        let config = Options::new().with(crate::ConfigKey::Bucket, "b").check().expect("fine");
        let error = Handle::start(&path, config.clone()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().is_some_and(|hint| hint.contains("REPLICATE_URL")), "{error}");

        let disabled = Handle::start_or_disabled(&path, config, &Cancel::new()).expect("disabled");
        assert!(!disabled.is_enabled());
        let patience = Duration::from_secs(1);
        let answers = [disabled.sync(patience), disabled.wait(Txid(7), patience), disabled.sync_status()];
        assert!(answers.into_iter().all(|status| status.is_ok_and(|status| status.state == State::Disabled)));
    }
}
