//! For the tests of one replicator: real SQLite on a disk, a door and a store that fail when told to, on one
//! thread and with time that passes only when everything waits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use replicate_format::{Decoder, Level};
use rusqlite::Connection;
use tokio::task::JoinHandle;

use super::{Env, Member, Shared};
use crate::blob::{BlobResult, BlobStore, Body, Caps, MemoryStore, ObjectKey, ObjectMeta, PutMode, PutOptions};
use crate::capture::Watch;
use crate::clock::{Clock, SharedClock, Timestamp};
use crate::config::{Config, ConfigKey, Options};
use crate::disk::SharedDisk;
use crate::disk::faulty::{Faults, FaultyDisk};
use crate::error::{Error, ErrorKind};
use crate::event::{StopReport, SyncStatus};
use crate::exec::Blocking;
use crate::seal::Keys;
use crate::spool::state_folder;
use crate::sqlite::SqliteAttach;
use crate::sqlite::faulty::{FaultyAttach, Script};
use crate::store::LtxStore;

/// Time as tokio has it: paused in tests, it jumps to the next timer when nothing else can run.
#[derive(Debug)]
pub(super) struct PausedClock(tokio::time::Instant);

#[async_trait]
impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + i64::try_from(self.0.elapsed().as_millis()).unwrap())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Nobody tells that the WAL was written: the poll finds it.
#[derive(Debug)]
struct NoWatch;

#[async_trait]
impl Watch for NoWatch {
    fn arm(&self, _database: &std::path::Path) -> bool {
        true
    }

    async fn woken(&self) {
        std::future::pending().await
    }
}

/// A store in memory that can be out of reach.
#[derive(Debug)]
pub(super) struct Store {
    objects: MemoryStore,
    down: AtomicBool,
    calls: AtomicU32,
}

impl Store {
    fn reach(&self) -> BlobResult<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "the store is down, says the test").into());
        }
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Store {
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn caps(&self) -> Caps {
        self.objects.caps()
    }
    fn location(&self) -> String {
        self.objects.location()
    }
    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        self.reach()?;
        self.objects.put(key, body, options).await
    }
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        self.reach()?;
        self.objects.get(key, range).await
    }
    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        self.reach()?;
        self.objects.head(key).await
    }
    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        match self.reach() {
            Ok(()) => self.objects.list(prefix, start_after),
            Err(error) => Box::pin(futures_util::stream::iter([Err(error)])),
        }
    }
    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        self.reach()?;
        self.objects.delete(keys).await
    }
}

/// One database and what replicates it.
pub(super) struct Rig {
    pub(super) folder: tempfile::TempDir,
    pub(super) database: PathBuf,
    pub(super) app: Connection,
    pub(super) disk: SharedDisk,
    pub(super) faults: Arc<Faults>,
    pub(super) script: Arc<Script>,
    pub(super) store: Arc<Store>,
    pub(super) blocking: Blocking,
    clock: SharedClock,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Rig {
    /// A database with a table, on paused time; call inside a runtime.
    pub(super) fn new() -> Self {
        let clock: SharedClock = Arc::new(PausedClock(tokio::time::Instant::now()));
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("app.db");
        let app = Connection::open(&database).unwrap();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)").unwrap();
        let (disk, faults) = FaultyDisk::real();
        let objects = MemoryStore::new(clock.clone());
        let store = Arc::new(Store { objects, down: AtomicBool::new(false), calls: AtomicU32::new(0) });
        let script = Arc::new(Script::default());
        Self {
            folder,
            database,
            app,
            disk,
            faults,
            script,
            store,
            blocking: Blocking::Inline,
            clock,
            running: Mutex::new(None),
        }
    }

    pub(super) fn config() -> Config {
        Options::new().with(ConfigKey::Url, "memory://rig").with(ConfigKey::SyncInterval, "20ms").check().unwrap()
    }

    /// Starts a replicator as a task.
    pub(super) fn start(&self) -> Arc<Shared> {
        self.start_with(Self::config())
    }

    pub(super) fn start_with(&self, config: Config) -> Arc<Shared> {
        let shared = Arc::new(Shared::new(&self.database, self.clock.clone()));
        let inner = Arc::new(SqliteAttach::new(state_folder(&self.database)));
        let attach = Arc::new(FaultyAttach { inner, script: self.script.clone() });
        let (clock, disk, blocking) = (self.clock.clone(), self.disk.clone(), self.blocking);
        let env = Env { clock, disk, blocking, attach, spread: 7, megabyte: 1 << 20 };
        let store = LtxStore::new(self.store.clone(), Arc::new(Keys::none()));
        let member = Member { env, config, store, shared: shared.clone(), watch: Arc::new(NoWatch) };
        *self.running.lock().unwrap() = Some(tokio::spawn(member.run()));
        shared
    }

    pub(super) fn set_down(&self, down: bool) {
        self.store.down.store(down, Ordering::Relaxed);
    }

    /// How often the store was asked.
    pub(super) fn store_calls(&self) -> u32 {
        self.store.calls.load(Ordering::Relaxed)
    }

    /// A row of so many bytes.
    pub(super) fn write(&self, id: u32, bytes: u32) {
        self.app.execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2))", [id, bytes]).unwrap();
    }

    /// Files of level 0 in the spool.
    pub(super) fn spooled(&self) -> usize {
        std::fs::read_dir(state_folder(&self.database).join("spool/0")).unwrap().count()
    }

    /// Puts a copy of an object into the store, as if another writer had gone on.
    pub(super) async fn copy_object(&self, from: u64, to: u64) {
        let key = |n: u64| ObjectKey::new(format!("ltx/0/{n:016x}-{n:016x}.ltx")).unwrap();
        let bytes = self.store.objects.get(&key(from), None).await.unwrap();
        let options = PutOptions { mode: PutMode::Create, created: self.clock.now() };
        self.store.objects.put(&key(to), Arc::new(bytes), options).await.unwrap();
    }

    /// Lets everybody work until this is so, for at most this long.
    pub(super) async fn until(&self, what: &str, within: Duration, mut done: impl FnMut() -> bool) {
        let end = self.clock.monotonic() + within;
        while !done() {
            assert!(self.clock.monotonic() < end, "{what}: not in time");
            self.pass(Duration::from_millis(5)).await;
        }
    }

    /// Lets time pass.
    pub(super) async fn pass(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// Asks for everything to be shipped and waits until it is.
    pub(super) async fn sync(&self, shared: &Shared) -> SyncStatus {
        let request = shared.request();
        self.until("sync", Duration::from_secs(60), || shared.arrived(request).is_some()).await;
        shared.arrived(request).unwrap()
    }

    /// Stops within the time; the report.
    pub(super) async fn stop(&self, shared: &Shared, timeout: Duration) -> StopReport {
        shared.request_stop(timeout);
        self.until("stop", timeout + Duration::from_secs(5), || shared.report().is_some()).await;
        shared.report().unwrap()
    }

    /// The database that the store's files make, applied one after the other.
    pub(super) async fn stored(&self) -> Vec<u8> {
        let mut files = LtxStore::new(self.store.clone(), Arc::new(Keys::none())).list_all().await.unwrap();
        files.sort_by_key(|file| file.txids.max());
        assert!(files.iter().all(|file| file.level == Level::L0 || file.level == Level::SNAPSHOT));
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let (mut commit, mut size, mut last) = (0, 0, 0);
        for file in &files {
            let bytes = self.store.objects.get(file.key(), None).await.unwrap();
            let mut decoder = Decoder::new(bytes.as_ref()).unwrap();
            let header = *decoder.header();
            assert!(header.txids.min().0 <= last + 1, "gap before {}", header.txids);
            (commit, size, last) = (header.commit, header.page_size.len(), header.txids.max().0);
            let mut page = vec![0; size];
            while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
                pages.insert(pgno.get(), page.clone());
            }
            decoder.finish().unwrap();
            pages.retain(|pgno, _| *pgno <= commit);
        }
        (1..=commit).flat_map(|pgno| pages.get(&pgno).cloned().unwrap_or_else(|| vec![0; size])).collect()
    }

    /// Checks that the store's files make the database as the application sees it.
    pub(super) async fn assert_stored(&self) {
        let path = self.folder.path().join("restored.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(crate::disk::with_suffix(&path, suffix));
        }
        std::fs::write(&path, self.stored().await).unwrap();
        let rows = |connection: &Connection| -> Vec<(i64, Vec<u8>)> {
            let mut select = connection.prepare("SELECT id, v FROM t ORDER BY id").unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let restored = Connection::open(&path).unwrap();
        let check: String = restored.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        assert!(rows(&restored) == rows(&self.app), "the restored database differs");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.faults.clear();
    }
}
