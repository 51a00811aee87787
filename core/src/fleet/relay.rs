//! How a stand-by answers `sync` truthfully: it asks the process that replicates.
//!
//! A request is an empty file in a folder beside the database. The holder of the replication lock first sees it,
//! then begins a capture; when the store has acknowledged that capture it writes the answer beside the request
//! and removes the request. A commit made before the request is therefore in the capture, whatever happened to
//! the WAL meanwhile: nobody compares positions. A request that nobody answers, because the holder has ended, is
//! answered by the next one, be it the one who asked. Files only; what they mean for handles is `shared`'s.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use replicate_format::Txid;
use serde::{Deserialize, Serialize};

use super::member::Member;
use super::requests::Asked;
use crate::clock::Timestamp;
use crate::disk::{Disk, read_all, write_atomic};
use crate::error::{Error, Result};

/// How often a stand-by that has asked looks for the answer.
pub(super) const ANSWER_POLL: Duration = Duration::from_millis(20);
/// How often the holder looks for requests where nothing notifies it of them, and the net under file notification.
/// The latter is what a thousand idle databases pay for.
const REQUEST_POLL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));
/// Answers that nobody has taken for so long belong to nobody.
const ABANDONED_MS: i64 = 3_600_000;

const ASK: &str = ".ask";
const ANSWER: &str = ".answer";

/// Where the holder stood when it answered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Answer {
    /// The last capture on this host.
    local: u64,
    /// The last capture that the store has acknowledged.
    remote: u64,
    /// When, in milliseconds since 1970.
    last_sync: Option<i64>,
}

impl Answer {
    pub(super) fn local(&self) -> Txid {
        Txid(self.local)
    }

    pub(super) fn remote(&self) -> Txid {
        Txid(self.remote)
    }

    pub(super) fn last_sync(&self) -> Option<Timestamp> {
        self.last_sync.map(Timestamp)
    }
}

/// The folder of requests and answers.
pub(super) fn folder_of(state: &Path) -> PathBuf {
    state.join("asks")
}

/// A request of this stand-by.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    folder: PathBuf,
    name: String,
    /// What it asks for.
    pub(super) requests: Asked,
}

impl Ask {
    /// A request under a name of its own, also among processes of other containers with the same numbers.
    pub(super) fn new(state: &Path, requests: Asked) -> Self {
        let name = format!("{:016x}", RandomState::new().build_hasher().finish());
        Self { folder: folder_of(state), name, requests }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}{suffix}", self.name))
    }

    /// Puts the request, unless it is there, or takes the answer if it has come.
    pub(super) fn advance(&self, disk: &dyn Disk) -> Result<Option<Answer>> {
        let (ask, answer) = (self.path(ASK), self.path(ANSWER));
        let wrap = |e| Error::disk("ask the process that replicates", &ask, e);
        if disk.stat(&answer).map_err(wrap)?.is_some() {
            let bytes = match read_all(disk, &answer, 4096) {
                // Longer than any answer.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Vec::new(),
                other => other.map_err(wrap)?,
            };
            disk.remove(&answer).map_err(wrap)?;
            // One that cannot be read is no answer; the request is put anew below, at the next turn.
            return Ok(serde_json::from_slice(&bytes).ok());
        }
        if disk.stat(&ask).map_err(wrap)?.is_none() {
            disk.create_dir_all(&self.folder).map_err(wrap)?;
            disk.create(&ask).map_err(wrap)?;
        }
        Ok(None)
    }

    /// Takes it back.
    pub(super) fn withdraw(&self, disk: &dyn Disk) {
        for suffix in [ASK, ANSWER] {
            // What stays is answered in vain and swept later.
            let _ = disk.remove(&self.path(suffix));
        }
    }
}

/// The names of the requests that are there. Sweeps answers that nobody takes.
fn requests(disk: &dyn Disk, folder: &Path, now: Timestamp) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in disk.list(folder)? {
        match entry.name.strip_suffix(ASK) {
            Some(name) => names.push(name.to_owned()),
            None if entry.modified.0 < now.0.saturating_sub(ABANDONED_MS) => disk.remove(&folder.join(entry.name))?,
            None => {}
        }
    }
    Ok(names)
}

fn answer(disk: &dyn Disk, folder: &Path, name: &str, answer: Answer) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(&answer).map_err(std::io::Error::other)?;
    write_atomic(disk, &folder.join(format!("{name}{ANSWER}")), &bytes)?;
    disk.remove(&folder.join(format!("{name}{ASK}")))
}

/// For fuzzing: reads a folder of messages as both sides do. The requests that were seen, each of which is answered
/// afterwards, and what its asker made of the answer that lay there.
#[cfg(feature = "testing")]
pub(crate) fn read_all_messages(disk: &dyn Disk, state: &Path, now: Timestamp) -> Result<Vec<(String, Option<u64>)>> {
    let folder = folder_of(state);
    let names = requests(disk, &folder, now).map_err(|e| Error::disk("look for requests", &folder, e))?;
    let told = |name: String| {
        let ask = Ask { folder: folder.clone(), name, requests: Asked::default() };
        let lay = ask.advance(disk)?.map(|answer| answer.local);
        let told = Answer { local: 7, remote: 5, last_sync: None };
        answer(disk, &folder, &ask.name, told).map_err(|e| Error::disk("answer", &folder, e))?;
        match ask.advance(disk)? {
            Some(read) if read == told => Ok((ask.name, lay)),
            other => Err(Error::internal(format!("an answer was read as {other:?}"))),
        }
    };
    names.into_iter().map(told).collect()
}

impl Member {
    /// Answers what other processes ask, as long as this one replicates. Never ends.
    pub(super) async fn answer_others(&self) -> Result<()> {
        let folder = folder_of(&self.folder());
        let mut open: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            // A failure of the disk here must not end replication; who asked waits, and says so.
            let notified = self.answer_once(&folder, &mut open).await.unwrap_or_else(|error| {
                tracing::warn!(db = %self.shared.path().display(), %error, "requests of other processes are not answered");
                false
            });
            tokio::select! {
                biased;
                () = self.watch.asked() => {}
                () = self.shared.stored.notified(), if !open.is_empty() => {}
                () = self.env.clock.sleep(if notified { REQUEST_POLL.1 } else { REQUEST_POLL.0 }) => {}
            }
        }
    }

    /// Whether the next request is going to be notified.
    async fn answer_once(&self, folder: &Path, open: &mut BTreeMap<String, u64>) -> Result<bool> {
        let wrap = |e| Error::disk("answer another process", folder, e);
        let (disk, at, now, watch) =
            (self.env.disk.clone(), folder.to_owned(), self.env.clock.now(), self.watch.clone());
        let listed = self.env.blocking.run(move || {
            disk.create_dir_all(&at)?;
            // Before the look, so that what comes after it wakes us.
            let notified = watch.arm_asks(&at);
            requests(disk.as_ref(), &at, now).map(|names| (names, notified))
        });
        let (names, notified) = listed.await.map_err(wrap)?;
        open.retain(|name, _| names.contains(name));
        let new: Vec<_> = names.into_iter().filter(|name| !open.contains_key(name)).collect();
        if !new.is_empty() {
            // Only now, having seen them: the capture that serves it begins later.
            let request = self.shared.request();
            open.extend(new.into_iter().map(|name| (name, request)));
        }
        let arrived: Vec<_> =
            open.iter().filter(|(_, n)| self.shared.is_stored(**n)).map(|(name, _)| name.clone()).collect();
        let status = self.shared.status();
        let (local, remote) = (status.local_txid.0, status.remote_txid.0);
        let told = Answer { local, remote, last_sync: status.last_sync.map(|at| at.0) };
        for name in arrived {
            let (disk, at, of) = (self.env.disk.clone(), folder.to_owned(), name.clone());
            self.env.blocking.run(move || answer(disk.as_ref(), &at, &of, told)).await.map_err(wrap)?;
            open.remove(&name);
        }
        Ok(notified)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use bytes::Bytes;
    use futures_util::stream::BoxStream;

    use super::super::{Env, Shared};
    use super::*;
    use crate::blob::{BlobResult, BlobStore, Body, Caps, MemoryStore, ObjectKey, ObjectMeta, PutOptions};
    use crate::capture::InotifyWatch;
    use crate::clock::SystemClock;
    use crate::config::Options;
    use crate::disk::RealDisk;
    use crate::error::ErrorKind;
    use crate::event::State;
    use crate::exec::Blocking;
    use crate::restore::{self, Cancel, RestoreEnv, RestoreOptions};
    use crate::seal::Keys;
    use crate::spool::state_folder;
    use crate::sqlite::SqliteAttach;
    use crate::store::LtxStore;

    const SOON: Duration = Duration::from_secs(30);

    /// A store that takes nothing, or everything.
    #[derive(Debug)]
    struct Gate {
        inner: Arc<MemoryStore>,
        open: bool,
    }

    #[async_trait]
    impl BlobStore for Gate {
        fn kind(&self) -> &'static str {
            "memory"
        }
        fn caps(&self) -> Caps {
            self.inner.caps()
        }
        fn location(&self) -> String {
            self.inner.location()
        }
        async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
            match self.open {
                true => self.inner.put(key, body, options).await,
                false => Err(Error::new(ErrorKind::Unavailable, "the gate is closed").into()),
            }
        }
        async fn get(&self, key: &ObjectKey, range: Option<std::ops::Range<u64>>) -> BlobResult<Bytes> {
            self.inner.get(key, range).await
        }
        async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
            self.inner.head(key).await
        }
        fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
            self.inner.list(prefix, start_after)
        }
        async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
            self.inner.delete(keys).await
        }
    }

    /// A database, a store, and members that take turns at them as processes of one host do.
    struct Host {
        folder: tempfile::TempDir,
        runtime: tokio::runtime::Runtime,
        store: Arc<MemoryStore>,
        app: rusqlite::Connection,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let app = rusqlite::Connection::open(folder.path().join("app.db")).unwrap();
            app.busy_timeout(SOON).unwrap();
            app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
            Self { folder, runtime, store: Arc::new(MemoryStore::new(Arc::new(SystemClock::new()))), app }
        }

        fn database(&self) -> PathBuf {
            self.folder.path().join("app.db")
        }

        /// A member; returns when it has found its state.
        fn start(&self, open: bool) -> Arc<Shared> {
            let (clock, disk) = (Arc::new(SystemClock::new()), Arc::new(RealDisk));
            let attach = Arc::new(SqliteAttach::new(state_folder(&self.database())));
            let env =
                Env { clock: clock.clone(), disk, blocking: Blocking::Pool, attach, spread: 1, megabyte: 1 << 20 };
            let mut options = Options::new();
            options.set("url", "memory://relay").unwrap();
            // Long enough that nothing is captured in time unless somebody asks.
            options.set("sync_interval", "60s").unwrap();
            let shared = Arc::new(Shared::new(&self.database(), clock));
            let store = LtxStore::new(Arc::new(Gate { inner: self.store.clone(), open }), Arc::new(Keys::none()));
            let (config, watch) = (options.check().unwrap(), Arc::new(InotifyWatch::default()));
            let member = Member { env, config, store, shared: shared.clone(), watch };
            self.runtime.spawn(member.run());
            shared
        }

        fn holder_and_stand_by(&self, open: bool) -> (Arc<Shared>, Arc<Shared>) {
            let holder = self.start(open);
            until(|| holder.status().local_txid > Txid::ZERO);
            let stand_by = self.start(true);
            until(|| stand_by.status().state == State::Standby);
            (holder, stand_by)
        }

        fn insert(&self) {
            self.app.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        }

        fn stored_rows(&self) -> u32 {
            let output = tempfile::tempdir().unwrap();
            let path = output.path().join("copy.db");
            let (clock, disk) = (Arc::new(SystemClock::new()), Arc::new(RealDisk));
            let env = RestoreEnv { clock, disk, blocking: Blocking::Pool };
            let store = LtxStore::new(self.store.clone(), Arc::new(Keys::none()));
            let (options, cancel) = (RestoreOptions::new(&path), Cancel::new());
            self.runtime.block_on(restore::run(&store, &options, &env, &|_| {}, &cancel)).unwrap();
            let copy = rusqlite::Connection::open(&path).unwrap();
            copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        }

        fn asks(&self) -> usize {
            std::fs::read_dir(folder_of(&state_folder(&self.database()))).map_or(0, Iterator::count)
        }
    }

    /// Waits for it, but not for ever.
    fn until(done: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !done() {
            assert!(start.elapsed() < SOON, "not in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn sync_of_a_stand_by_returns_when_everything_committed_before_is_stored() {
        let host = Host::new();
        let (holder, stand_by) = host.holder_and_stand_by(true);
        for round in 1..=25 {
            host.insert();
            if round % 5 == 0 {
                host.app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
            }
            let status = stand_by.sync(SOON).unwrap();
            assert_eq!(host.stored_rows(), round);
            assert_eq!(status.state, State::Standby);
            assert!(status.in_sync && status.remote_txid > Txid::ZERO, "{status:?}");
        }
        until(|| host.asks() == 0);
        assert!(stand_by.wait(Txid(u64::MAX), SOON).is_err_and(|e| e.kind() == ErrorKind::Busy));
        stand_by.stop(SOON).unwrap();
        holder.stop(SOON).unwrap();
    }

    #[test]
    fn sync_of_a_stand_by_is_not_answered_before_the_store_has_answered() {
        let host = Host::new();
        let (holder, stand_by) = host.holder_and_stand_by(false);
        host.insert();
        let error = stand_by.sync(Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.hint().is_some_and(|hint| hint.contains("another process")), "{error}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stand_by.sync(SOON));
            until(|| host.asks() > 0);
            // Whoever takes over has to answer for what was asked before.
            holder.stop(Duration::ZERO).unwrap();
            assert_eq!(waiting.join().unwrap().unwrap().state, State::Streaming);
        });
        assert_eq!(host.stored_rows(), 1);
        stand_by.stop(SOON).unwrap();
    }

    #[test]
    fn answers_that_nobody_takes_are_swept_and_damaged_ones_are_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, asks) = (RealDisk, folder_of(folder.path()));
        let requests_of = |now: i64| requests(&disk, &asks, Timestamp(now)).unwrap();
        let now = SystemClock::new();
        let now = crate::clock::Clock::now(&now).0;
        let ask = Ask::new(folder.path(), Shared::new(Path::new("a"), Arc::new(SystemClock::new())).requests());
        assert_eq!(ask.advance(&disk).unwrap(), None);
        assert_eq!(requests_of(now), std::slice::from_ref(&ask.name));

        disk.create(&ask.path(ANSWER)).unwrap();
        assert_eq!(ask.advance(&disk).unwrap(), None);
        assert_eq!(requests_of(now), std::slice::from_ref(&ask.name));

        std::fs::write(ask.path(ANSWER), vec![b' '; 5000]).unwrap();
        assert_eq!(ask.advance(&disk).unwrap(), None);
        assert_eq!(requests_of(now), std::slice::from_ref(&ask.name));

        let told = Answer { local: 7, remote: 6, last_sync: None };
        answer(&disk, &asks, &ask.name, told).unwrap();
        assert!(requests_of(now).is_empty());
        assert_eq!(ask.advance(&disk).unwrap(), Some(told));
        answer(&disk, &asks, &ask.name, told).unwrap();
        requests_of(now + ABANDONED_MS + 60_000);
        assert_eq!(std::fs::read_dir(&asks).unwrap().count(), 0);
    }
}
