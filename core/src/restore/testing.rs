//! For the tests of restore: a small model of a database that writes its replica, and a store that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use replicate_format::{Decoder, Encoder, Header, Level, Merger, PageEncoding, PageSize, Pgno, Txid, TxidRange};

use super::run::RestoreEnv;
use crate::blob::{BlobResult, BlobStore, Body, Caps, MemoryStore, ObjectKey, ObjectMeta, PutOptions};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::disk::RealDisk;
use crate::exec::Blocking;
use crate::seal::{Identities, IdentityKind, Keys, KeysBuilder, Recipients, generate_identity};
use crate::store::{LtxInfo, LtxStore, Opening};

/// A clock whose pauses are short.
#[derive(Debug, Default)]
pub(crate) struct FastClock(SystemClock);

#[async_trait]
impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> std::time::Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, time: std::time::Duration) {
        self.0.sleep(time / 50).await;
    }
}

/// The real disk, a clock with short pauses, and either way to run blocking work.
pub(crate) fn env(blocking: Blocking) -> RestoreEnv {
    RestoreEnv { disk: Arc::new(RealDisk), clock: Arc::new(FastClock::default()), blocking }
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// What a store does instead of answering.
pub(crate) type Fault = dyn Fn(&FaultStore, &ObjectKey, &Range<u64>, &Bytes) -> Option<BlobResult<Bytes>> + Send + Sync;

/// A memory store whose reads can be made to fail.
pub(crate) struct FaultStore {
    pub(crate) inner: MemoryStore,
    fault: Option<Box<Fault>>,
    hide_times: bool,
    pub(crate) log: Mutex<Log>,
}

/// What a store was asked.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) gets: Vec<(String, Range<u64>)>,
    pub(crate) heads: usize,
    pub(crate) lists: usize,
}

impl std::fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultStore")
    }
}

#[async_trait]
impl BlobStore for FaultStore {
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
        self.inner.put(key, body, options).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        tokio::task::yield_now().await;
        let asked = range.clone().unwrap_or(0..u64::MAX);
        self.log.lock().expect("not poisoned").gets.push((key.to_string(), asked.clone()));
        let bytes = self.inner.get(key, range).await?;
        match self.fault.as_ref().and_then(|fault| fault(self, key, &asked, &bytes)) {
            Some(instead) => instead,
            None => Ok(bytes),
        }
    }

    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        self.log.lock().expect("not poisoned").heads += 1;
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        use futures_util::StreamExt;
        self.log.lock().expect("not poisoned").lists += 1;
        let hide = self.hide_times;
        let listed = self.inner.list(prefix, start_after);
        listed.map(move |item| item.map(|meta| ObjectMeta { created: meta.created.filter(|_| !hide), ..meta })).boxed()
    }

    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        self.inner.delete(keys).await
    }
}

/// A database as page contents, and the replica it writes.
pub(crate) struct Model {
    pub(crate) page_size: PageSize,
    pub(crate) commit: u32,
    pages: BTreeMap<u32, u64>,
    pub(crate) txid: u64,
    /// The database after each capture.
    pub(crate) states: BTreeMap<u64, (u32, BTreeMap<u32, u64>)>,
    files: BTreeMap<(u8, u64, u64), Vec<u8>>,
}

impl Model {
    pub(crate) fn new(page_size: u32) -> Self {
        Self {
            page_size: PageSize::new(page_size).expect("valid"),
            commit: 0,
            pages: BTreeMap::new(),
            txid: 0,
            states: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// One capture: a new size and some changed pages. The first one, and growth, bring all new pages.
    pub(crate) fn capture(&mut self, commit: u32, changed: &[u32]) -> &mut Self {
        self.txid += 1;
        let grown = self.commit + 1..=commit;
        let pages: BTreeSet<_> = changed.iter().copied().filter(|&p| p <= commit).chain(grown).collect();
        let pages: BTreeSet<_> = pages.into_iter().filter(|&p| p != self.page_size.lock_page().get()).collect();
        for &page in &pages {
            self.pages.insert(page, self.txid * 1_000_003 + u64::from(page));
        }
        self.pages.retain(|&page, _| page <= commit);
        self.commit = commit;
        self.states.insert(self.txid, (commit, self.pages.clone()));
        let file = self.encode(self.txid, self.txid, &pages);
        self.files.insert((0, self.txid, self.txid), file);
        self
    }

    /// Writes the whole database as a snapshot.
    pub(crate) fn snapshot(&mut self) -> &mut Self {
        let pages = self.pages.keys().copied().collect();
        let file = self.encode(1, self.txid, &pages);
        self.files.insert((9, 1, self.txid), file);
        self
    }

    /// Merges single captures into a file of a level.
    pub(crate) fn merge(&mut self, level: u8, min: u64, max: u64) -> &mut Self {
        let inputs = (min..=max).map(|t| Decoder::new(self.files[&(0, t, t)].as_slice()).expect("valid"));
        let mut merger =
            Merger::new(inputs.collect(), Vec::new(), PageEncoding::Frame).expect("they follow each other");
        while merger.step().expect("valid") {}
        let (_, file) = merger.finish().expect("valid");
        self.files.insert((level, min, max), file);
        self
    }

    /// Removes a file.
    pub(crate) fn lose(&mut self, level: u8, min: u64, max: u64) -> &mut Self {
        self.files.remove(&(level, min, max)).expect("it was there");
        self
    }

    /// Changes the bytes of a file.
    pub(crate) fn damage(&mut self, level: u8, min: u64, max: u64, how: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        how(self.files.get_mut(&(level, min, max)).expect("it is there"));
        self
    }

    /// Lists a file under another name.
    pub(crate) fn rename(&mut self, from: (u8, u64, u64), to: (u8, u64, u64)) -> &mut Self {
        let file = self.files.remove(&from).expect("it was there");
        self.files.insert(to, file);
        self
    }

    fn encode(&self, min: u64, max: u64, pages: &BTreeSet<u32>) -> Vec<u8> {
        let txids = TxidRange::new(Txid(min), Txid(max)).expect("valid");
        let header = Header::untracked(self.page_size, self.commit, txids, time_of(max).0);
        let encoding = if max.is_multiple_of(2) { PageEncoding::Frame } else { PageEncoding::Block };
        let mut encoder = Encoder::new(Vec::new(), header, encoding).expect("valid header");
        for &page in pages {
            let content = content(self.page_size, self.pages[&page]);
            encoder.page(Pgno::new(page).expect("not zero"), &content).expect("in order");
        }
        encoder.finish().expect("complete").1
    }

    /// The bytes of the database after a capture.
    pub(crate) fn bytes(&self, txid: u64) -> Vec<u8> {
        let (commit, pages) = &self.states[&txid];
        let mut bytes = vec![0; *commit as usize * self.page_size.len()];
        for (&page, &seed) in pages {
            let at = (page as usize - 1) * self.page_size.len();
            bytes[at..at + self.page_size.len()].copy_from_slice(&content(self.page_size, seed));
        }
        bytes
    }

    /// A store with the files.
    pub(crate) fn store(&self) -> (LtxStore, Arc<FaultStore>) {
        self.store_with(None, false, Keys::none())
    }

    /// A store whose files are sealed.
    pub(crate) fn sealed(&self) -> (LtxStore, Arc<FaultStore>) {
        self.store_with(None, false, sealing())
    }

    /// A store whose answers are bent.
    pub(crate) fn faulty(
        &self,
        fault: impl Fn(&FaultStore, &ObjectKey, &Range<u64>, &Bytes) -> Option<BlobResult<Bytes>> + Send + Sync + 'static,
    ) -> (LtxStore, Arc<FaultStore>) {
        self.store_with(Some(Box::new(fault)), false, Keys::none())
    }

    /// The same whose files are sealed.
    pub(crate) fn faulty_sealed(
        &self,
        fault: impl Fn(&FaultStore, &ObjectKey, &Range<u64>, &Bytes) -> Option<BlobResult<Bytes>> + Send + Sync + 'static,
    ) -> (LtxStore, Arc<FaultStore>) {
        self.store_with(Some(Box::new(fault)), false, sealing())
    }

    /// The same with these keys.
    pub(crate) fn faulty_with(
        &self,
        keys: Keys,
        fault: impl Fn(&FaultStore, &ObjectKey, &Range<u64>, &Bytes) -> Option<BlobResult<Bytes>> + Send + Sync + 'static,
    ) -> (LtxStore, Arc<FaultStore>) {
        self.store_with(Some(Box::new(fault)), false, keys)
    }

    /// A store whose listings carry no times, as those of S3.
    pub(crate) fn timeless(&self) -> (LtxStore, Arc<FaultStore>) {
        self.store_with(None, true, Keys::none())
    }

    fn store_with(&self, fault: Option<Box<Fault>>, hide_times: bool, keys: Keys) -> (LtxStore, Arc<FaultStore>) {
        let inner = MemoryStore::new(Arc::new(SystemClock::new()));
        let blob = Arc::new(FaultStore { inner, fault, hide_times, log: Mutex::default() });
        let store = LtxStore::new(blob.clone(), Arc::new(keys));
        block_on(self.put_all(&store));
        (store, blob)
    }

    /// Stores the files.
    pub(crate) async fn put_all(&self, store: &LtxStore) {
        for (&(level, min, max), file) in &self.files {
            let (level, txids) = (Level::new(level).expect("valid"), TxidRange::new(Txid(min), Txid(max)));
            let body = Arc::new(Bytes::from(file.clone()));
            let sealed = store.seal(level, txids.expect("valid"), body).expect("sealed");
            store.put(&sealed, time_of(max)).await.expect("stored");
        }
    }
}

/// Fresh keys to seal to and to open with.
pub(crate) fn sealing() -> Keys {
    let made = generate_identity(IdentityKind::X25519).expect("made");
    let recipients = Some(Recipients::parse(&made.recipient).expect("a recipient"));
    let identities = Some(Identities::parse(&made.identity).expect("an identity"));
    KeysBuilder { recipients, identities, ..KeysBuilder::default() }.build().expect("they go together")
}

/// Keys of which the first and the second open what either seals; the second seals to one more.
pub(crate) fn sealing_otherwise() -> (Keys, Keys) {
    let (made, another) = (generate_identity(IdentityKind::X25519), generate_identity(IdentityKind::X25519));
    let (made, another) = (made.expect("made"), another.expect("made"));
    let keys = |recipients: &str| {
        let recipients = Some(Recipients::parse(recipients).expect("recipients"));
        let identities = Some(Identities::parse(&made.identity).expect("an identity"));
        KeysBuilder { recipients, identities, ..KeysBuilder::default() }.build().expect("they go together")
    };
    (keys(&made.recipient), keys(&format!("{}\n{}", made.recipient, another.recipient)))
}

/// The same files in a store that is read as it is.
pub(crate) fn plain_store(blob: Arc<FaultStore>) -> LtxStore {
    LtxStore::new(blob, Arc::new(Keys::none()))
}

/// Opens nothing, for plain files.
pub(crate) fn opening() -> Opening {
    plain_store(Model::new(512).store().1).opening()
}

/// When a capture was made: ten seconds apart.
pub(crate) fn time_of(txid: u64) -> Timestamp {
    Timestamp(1_700_000_000_000 + i64::try_from(txid).expect("small") * 10_000)
}

/// A page that is half compressible and differs by its seed.
fn content(page_size: PageSize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut page = vec![(seed % 251) as u8; page_size.len()];
    for chunk in page[..page_size.len() / 2].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    page
}

/// A replica with all that a real one has: snapshot, merged levels, single files, growth and shrink.
pub(crate) fn busy_model(page_size: u32) -> Model {
    let mut model = Model::new(page_size);
    model.capture(40, &[]).capture(40, &[1, 7, 9]).capture(55, &[2]).snapshot();
    model.capture(55, &[3, 50]).capture(30, &[1]).capture(44, &[8]).capture(44, &[8, 9, 44]).capture(46, &[]);
    model.merge(1, 4, 6).merge(2, 4, 7);
    model.capture(46, &[46, 1]).capture(47, &[5]);
    model
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A real SQLite database in WAL mode with some rows, its WAL emptied: page size and bytes.
pub(crate) fn sqlite_database(folder: &Path, rows: u32) -> (PathBuf, Vec<u8>) {
    let path = folder.join("made.db");
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);").expect("sql");
    for row in 0..rows {
        db.execute("INSERT INTO t VALUES(?1, ?2)", (row, format!("value {row}"))).expect("sql");
    }
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").expect("sql");
    let bytes = std::fs::read(&path).expect("readable");
    (path, bytes)
}

/// A replica that holds these bytes as its first capture.
pub(crate) async fn put_database(store: &LtxStore, bytes: &[u8]) -> LtxInfo {
    let page_size = replicate_format::DbHeader::decode(bytes).expect("a database").page_size;
    let commit = u32::try_from(bytes.len() / page_size.len()).expect("small");
    let txids = TxidRange::single(Txid(1)).expect("valid");
    let header = Header::untracked(page_size, commit, txids, time_of(1).0);
    let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame).expect("valid header");
    for (page, pgno) in bytes.chunks(page_size.len()).zip(1..) {
        encoder.page(Pgno::new(pgno).expect("not zero"), page).expect("in order");
    }
    let file = encoder.finish().expect("complete").1;
    let sealed = store.seal(Level::L0, txids, Arc::new(Bytes::from(file))).expect("sealed");
    store.put(&sealed, time_of(1)).await.expect("stored");
    store.list(Level::L0, Txid::ZERO).await.expect("listed").remove(0)
}
