//! The contract of [`BlobStore`] as checks that every backend must pass.
//!
//! A backend's test calls [`run`] with a function that makes an empty store for each check. All checks run;
//! those that failed are named together at the end.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};

use super::{BlobError, BlobResult, Body, BodySource, ObjectKey, ObjectMeta, PutMode, PutOptions};
use super::{Error, ErrorKind, Result, SharedBlobStore};
use crate::clock::Timestamp;

/// A promise and the code that tries it on an empty store.
pub struct Check {
    /// What is promised.
    pub name: &'static str,
    run: fn(SharedBlobStore) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check.
        pub const CHECKS: &[Check] =
            &[$(Check { name: stringify!($name), run: |store| Box::pin($name(store)) }),*];
    };
}

checks! {
    what_was_put_comes_back,
    a_missing_object_is_not_found,
    an_empty_body_is_an_object,
    ranges_are_cut_at_the_end,
    timestamps_keep_their_milliseconds,
    overwriting_replaces_body_and_timestamp,
    create_refuses_a_taken_name,
    of_eight_creators_exactly_one_wins,
    a_failing_source_leaves_nothing,
    a_lying_source_leaves_nothing,
    a_body_that_arrives_slowly_is_not_seen_before_its_end,
    an_empty_place_lists_nothing,
    listing_is_in_order_of_keys,
    listing_starts_after_any_key,
    listing_keeps_to_its_folder,
    more_objects_than_a_page_are_all_listed,
    deleting_takes_missing_and_existing_alike,
    more_objects_than_a_batch_are_all_deleted,
    bodies_around_the_part_size_are_whole,
    a_long_body_that_fails_leaves_nothing,
    creating_a_long_body_refuses_a_taken_name,
}

/// Runs every check, each on the empty store that `make` gives for its name.
///
/// # Panics
///
/// When a promise is broken, naming all that are.
pub async fn run(make: impl Fn(&str) -> SharedBlobStore) {
    let mut broken = Vec::new();
    for check in CHECKS {
        if AssertUnwindSafe((check.run)(make(check.name))).catch_unwind().await.is_err() {
            broken.push(check.name);
        }
    }
    assert!(broken.is_empty(), "broken promises: {broken:#?}");
}

const T: Timestamp = Timestamp(1_700_000_000_123);

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a key of the checks")
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Arc::new(bytes.into())
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, created: T }
}

fn overwrite() -> PutOptions {
    PutOptions { mode: PutMode::Overwrite, created: T }
}

async fn put(store: &SharedBlobStore, name: &str, bytes: impl Into<Bytes>) -> ObjectMeta {
    store.put(&key(name), body(bytes), overwrite()).await.expect("put")
}

async fn get(store: &SharedBlobStore, name: &str) -> Bytes {
    store.get(&key(name), None).await.expect("get")
}

async fn listed(store: &SharedBlobStore, prefix: &str, start_after: Option<&str>) -> Vec<String> {
    store.list(prefix, start_after).map(|item| item.expect("list").key.to_string()).collect().await
}

async fn is_absent(store: &SharedBlobStore, name: &str) -> bool {
    matches!(store.head(&key(name)).await, Err(BlobError::NotFound { .. }))
}

/// Bytes that differ everywhere, so that a wrong order of parts shows.
fn pattern(len: u64) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len;
    let mut bytes = Vec::with_capacity(usize::try_from(len).expect("in memory") + 8);
    while (bytes.len() as u64) < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(len).expect("in memory"));
    bytes.into()
}

/// A body that fails at an offset.
#[derive(Debug)]
struct Failing {
    len: u64,
    at: u64,
}

#[async_trait]
impl BodySource for Failing {
    fn len(&self) -> u64 {
        self.len
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if range.contains(&self.at) {
            return Err(Error::new(ErrorKind::Disk, "the source fails"));
        }
        Ok(pattern(range.end - range.start))
    }
}

/// A body that gives one byte less than it says.
#[derive(Debug)]
struct Lying;

#[async_trait]
impl BodySource for Lying {
    fn len(&self) -> u64 {
        1000
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(pattern(range.end - range.start - 1))
    }
}

/// A body that waits, before its last byte, until it is let go.
#[derive(Debug)]
struct Held {
    bytes: Bytes,
    reads: AtomicU64,
    reached: tokio::sync::Notify,
    go: tokio::sync::Semaphore,
}

#[async_trait]
impl BodySource for Held {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if range.end == BodySource::len(self) {
            self.reached.notify_one();
            let _go = self.go.acquire().await.map_err(|e| Error::internal(e.to_string()))?;
        }
        self.bytes.read(range).await
    }
}

async fn what_was_put_comes_back(store: SharedBlobStore) {
    let bytes = pattern(70_000);
    let put = put(&store, "a/b/c.bin", bytes.clone()).await;
    assert_eq!((put.key.as_str(), put.size, put.created), ("a/b/c.bin", 70_000, Some(T)));
    assert_eq!(get(&store, "a/b/c.bin").await, bytes);
    let head = store.head(&key("a/b/c.bin")).await.expect("head");
    assert_eq!((head.key.as_str(), head.size), ("a/b/c.bin", 70_000));
    assert!(head.modified.0 > 0);
    put_again_is_fine(&store, bytes).await;
}

async fn put_again_is_fine(store: &SharedBlobStore, bytes: Bytes) {
    put(store, "a/b/c.bin", bytes.clone()).await;
    assert_eq!(get(store, "a/b/c.bin").await, bytes);
}

async fn a_missing_object_is_not_found(store: SharedBlobStore) {
    put(&store, "a/b", "x").await;
    for name in ["b", "a/c", "a/b2"] {
        let (whole, range) = (store.get(&key(name), None).await, store.get(&key(name), Some(0..1)).await);
        assert!(matches!(whole, Err(BlobError::NotFound { .. })), "{name}: {whole:?}");
        assert!(matches!(range, Err(BlobError::NotFound { .. })), "{name}: {range:?}");
        let empty = store.get(&key(name), Some(5..5)).await;
        assert!(matches!(empty, Err(BlobError::NotFound { .. })), "{name}: {empty:?}");
        assert!(is_absent(&store, name).await, "{name}");
    }
}

async fn an_empty_body_is_an_object(store: SharedBlobStore) {
    put(&store, "a/empty", "").await;
    assert_eq!(get(&store, "a/empty").await.len(), 0);
    assert_eq!(store.get(&key("a/empty"), Some(0..10)).await.expect("get").len(), 0);
    let head = store.head(&key("a/empty")).await.expect("head");
    assert_eq!((head.size, head.created), (0, Some(T)));
    assert_eq!(listed(&store, "", None).await, ["a/empty"]);
}

async fn ranges_are_cut_at_the_end(store: SharedBlobStore) {
    let bytes = pattern(1000);
    put(&store, "a", bytes.clone()).await;
    for (range, expected) in [
        (0..1000, 0..1000),
        (0..1, 0..1),
        (10..15, 10..15),
        (990..1000, 990..1000),
        (990..1490, 990..1000),
        (999..1000, 999..1000),
        (0..u64::MAX, 0..1000),
        (1000..1001, 0..0),
        (1000..1000, 0..0),
        (5..5, 0..0),
        (1500..1600, 0..0),
        (u64::MAX - 1..u64::MAX, 0..0),
    ] {
        let got = store.get(&key("a"), Some(range.clone())).await.expect("get");
        assert_eq!(got, bytes.slice(expected), "{range:?}");
    }
}

async fn timestamps_keep_their_milliseconds(store: SharedBlobStore) {
    for (index, created) in [0, 1_700_000_000_000, 1_700_000_000_001, 1_700_000_000_999].into_iter().enumerate() {
        let name = key(&format!("a/{index}"));
        let options = PutOptions { created: Timestamp(created), ..create() };
        store.put(&name, body("x"), options).await.expect("put");
        assert_eq!(store.head(&name).await.expect("head").created, Some(Timestamp(created)));
    }
    let items: Vec<_> = store.list("a/", None).collect().await;
    for (item, created) in items.into_iter().zip([0, 1_700_000_000_000, 1_700_000_000_001, 1_700_000_000_999]) {
        let expected = store.caps().created_in_list.then_some(Timestamp(created));
        assert_eq!(item.expect("list").created, expected);
    }
}

async fn overwriting_replaces_body_and_timestamp(store: SharedBlobStore) {
    put(&store, "a", pattern(5000)).await;
    let later = PutOptions { mode: PutMode::Overwrite, created: Timestamp(T.0 + 1) };
    store.put(&key("a"), body("new"), later).await.expect("put");
    assert_eq!(get(&store, "a").await, "new");
    let head = store.head(&key("a")).await.expect("head");
    assert_eq!((head.size, head.created), (3, Some(Timestamp(T.0 + 1))));
}

async fn create_refuses_a_taken_name(store: SharedBlobStore) {
    store.put(&key("a"), body("first"), create()).await.expect("put");
    let second = store.put(&key("a"), body("second"), PutOptions { created: Timestamp(1), ..create() }).await;
    assert!(matches!(&second, Err(BlobError::AlreadyExists { key }) if key == "a"), "{second:?}");
    assert_eq!(get(&store, "a").await, "first");
    assert_eq!(store.head(&key("a")).await.expect("head").created, Some(T));
    store.delete(&[key("a")]).await.expect("delete");
    store.put(&key("a"), body("third"), create()).await.expect("free again");
}

async fn of_eight_creators_exactly_one_wins(store: SharedBlobStore) {
    if !store.caps().conditional_put {
        return;
    }
    for round in 0..5 {
        let name = key(&format!("race/{round}"));
        let race = (0..8).map(|n| {
            let (store, name) = (Arc::clone(&store), name.clone());
            tokio::spawn(async move { store.put(&name, body(vec![n; 4096]), create()).await })
        });
        let results: Vec<BlobResult<ObjectMeta>> =
            join_all(race).await.into_iter().map(|joined| joined.expect("no panic")).collect();
        let winners: Vec<_> = (0_u8..8).filter(|n| results[usize::from(*n)].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for result in &results {
            assert!(matches!(result, Ok(_) | Err(BlobError::AlreadyExists { .. })), "{result:?}");
        }
        assert_eq!(store.get(&name, None).await.expect("get"), vec![winners[0]; 4096]);
    }
}

async fn a_failing_source_leaves_nothing(store: SharedBlobStore) {
    put(&store, "a/kept", "x").await;
    for (len, at) in [(1, 0), (3_000_000, 0), (3_000_000, 2_999_999)] {
        for options in [create(), overwrite()] {
            let result = store.put(&key("a/b"), Arc::new(Failing { len, at }), options).await;
            assert!(matches!(&result, Err(BlobError::Other(e)) if e.kind() == ErrorKind::Disk), "{result:?}");
            let over = store.put(&key("a/kept"), Arc::new(Failing { len, at }), overwrite()).await;
            assert!(over.is_err());
        }
    }
    assert_eq!(listed(&store, "", None).await, ["a/kept"]);
    assert_eq!(get(&store, "a/kept").await, "x");
    assert!(is_absent(&store, "a/b").await);
}

async fn a_lying_source_leaves_nothing(store: SharedBlobStore) {
    assert!(store.put(&key("a/b"), Arc::new(Lying), overwrite()).await.is_err());
    assert_eq!(listed(&store, "", None).await, [""; 0]);
}

async fn a_body_that_arrives_slowly_is_not_seen_before_its_end(store: SharedBlobStore) {
    for len in [3_000_000, 9_000_000] {
        let name = key(&format!("a/{len}"));
        let held = Arc::new(Held {
            bytes: pattern(len),
            reads: AtomicU64::new(0),
            reached: tokio::sync::Notify::new(),
            go: tokio::sync::Semaphore::new(0),
        });
        let put = {
            let (store, name, held) = (Arc::clone(&store), name.clone(), Arc::clone(&held));
            tokio::spawn(async move { store.put(&name, held, create()).await })
        };
        held.reached.notified().await;
        assert!(!listed(&store, "", None).await.contains(&name.to_string()));
        assert!(is_absent(&store, name.as_str()).await);
        held.go.add_permits(100);
        put.await.expect("no panic").expect("put");
        assert_eq!(store.get(&name, None).await.expect("get"), held.bytes);
        assert!(held.reads.load(Ordering::Relaxed) > 0);
    }
}

async fn an_empty_place_lists_nothing(store: SharedBlobStore) {
    assert_eq!(listed(&store, "", None).await, [""; 0]);
    assert_eq!(listed(&store, "a/", Some("a/b")).await, [""; 0]);
    store.delete(&[]).await.expect("nothing to delete");
    put(&store, "a/b", "x").await;
    assert_eq!(listed(&store, "b/", None).await, [""; 0]);
    // The name of an object is no folder.
    assert_eq!(listed(&store, "a/b/", None).await, [""; 0]);
    // A part of a name is no folder.
    assert!(store.list("a", None).next().await.expect("an answer").is_err());
}

/// In order of bytes: `-` before `.` before `/` before digits before letters.
const ORDER: [&str; 9] =
    ["a-b/x", "a.b", "a/b-c", "a/b.c", "a/b/c", "a/b0", "a0/x", "b/0000/00ff-00ff.ltx", "b/0009/0001-00ff.ltx"];

async fn listing_is_in_order_of_keys(store: SharedBlobStore) {
    let mut expected = ORDER.to_vec();
    expected.sort_unstable();
    assert_eq!(expected, ORDER, "the order of the check itself");
    for name in
        ["a0/x", "a/b/c", "b/0009/0001-00ff.ltx", "a-b/x", "a/b.c", "a.b", "a/b0", "b/0000/00ff-00ff.ltx", "a/b-c"]
    {
        put(&store, name, name).await;
    }
    assert_eq!(listed(&store, "", None).await, ORDER);
    for item in store.list("", None).collect::<Vec<_>>().await {
        let item = item.expect("list");
        assert_eq!(item.size, item.key.as_str().len() as u64);
    }
}

async fn listing_starts_after_any_key(store: SharedBlobStore) {
    for name in ORDER {
        put(&store, name, "x").await;
    }
    for after in
        ["", "a", "a-b/x", "a/", "a/b", "a/b/", "a/b/c", "a/b/d", "a/zzz", "b/0005/", "b/0009/0001-00ff.ltx", "c"]
    {
        for prefix in ["", "a/", "b/", "b/0009/"] {
            let expected: Vec<_> = ORDER.into_iter().filter(|k| k.starts_with(prefix) && *k > after).collect();
            assert_eq!(listed(&store, prefix, Some(after)).await, expected, "{prefix:?} after {after:?}");
        }
    }
}

async fn listing_keeps_to_its_folder(store: SharedBlobStore) {
    for name in ["db/0000/1", "db/x/0000/1", "db2/0000/1", "d/0000/1", "db-a/0000/1", "dba"] {
        put(&store, name, "x").await;
    }
    assert_eq!(listed(&store, "db/", None).await, ["db/0000/1", "db/x/0000/1"]);
    assert_eq!(listed(&store, "db/0000/", None).await, ["db/0000/1"]);
    assert_eq!(listed(&store, "db2/", None).await, ["db2/0000/1"]);
    store.delete(&[key("db/0000/1")]).await.expect("delete");
    assert_eq!(listed(&store, "", None).await, ["d/0000/1", "db-a/0000/1", "db/x/0000/1", "db2/0000/1", "dba"]);
}

async fn fill(store: &SharedBlobStore, count: u64) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|n| format!("l/{n:016x}-{n:016x}.ltx")).collect();
    futures_util::stream::iter(&names)
        .for_each_concurrent(16, |name| async { drop(put(store, name, "x").await) })
        .await;
    names
}

async fn more_objects_than_a_page_are_all_listed(store: SharedBlobStore) {
    let names = fill(&store, 1005).await;
    assert_eq!(listed(&store, "l/", None).await, names);
    assert_eq!(listed(&store, "", Some(&names[2])).await, names[3..]);
    assert_eq!(listed(&store, "l/", Some(&names[1003])).await, names[1004..]);
    // A reader that stops early asks for nothing more.
    let first: Vec<_> = store.list("l/", None).take(3).map(|item| item.expect("list").key.to_string()).collect().await;
    assert_eq!(first, names[..3]);
}

async fn deleting_takes_missing_and_existing_alike(store: SharedBlobStore) {
    for name in ["a/1", "a/2", "a/3"] {
        put(&store, name, "x").await;
    }
    store.delete(&[key("a/0"), key("a/1"), key("b/1"), key("a/3")]).await.expect("delete");
    assert_eq!(listed(&store, "", None).await, ["a/2"]);
    store.delete(&[key("a/1"), key("a/2")]).await.expect("delete again");
    store.delete(&[key("a/2")]).await.expect("and again");
    assert_eq!(listed(&store, "", None).await, [""; 0]);
}

async fn more_objects_than_a_batch_are_all_deleted(store: SharedBlobStore) {
    let names = fill(&store, 1003).await;
    let keys: Vec<_> = names.iter().skip(1).map(|name| key(name)).collect();
    store.delete(&keys).await.expect("delete");
    assert_eq!(listed(&store, "", None).await, names[..1]);
}

const PART: u64 = 8 << 20;

async fn bodies_around_the_part_size_are_whole(store: SharedBlobStore) {
    for len in [PART - 1, PART, PART + 1, 20_000_003] {
        let bytes = pattern(len);
        let name = format!("a/{len}");
        let put = store.put(&key(&name), body(bytes.clone()), create()).await.expect("put");
        assert_eq!(put.size, len);
        assert!(get(&store, &name).await == bytes, "{len}");
        let tail = store.get(&key(&name), Some(len - 10..len + 10)).await.expect("get");
        assert!(tail == bytes[bytes.len() - 10..], "{len}");
        let head = store.head(&key(&name)).await.expect("head");
        assert_eq!((head.size, head.created), (len, Some(T)), "{len}");
    }
    let sizes: BTreeSet<u64> = store.list("", None).map(|item| item.expect("list").size).collect().await;
    assert_eq!(sizes, BTreeSet::from([PART - 1, PART, PART + 1, 20_000_003]));
}

async fn a_long_body_that_fails_leaves_nothing(store: SharedBlobStore) {
    for at in [0, PART + 5, 20_000_002] {
        let result = store.put(&key("a/b"), Arc::new(Failing { len: 20_000_003, at }), create()).await;
        assert!(matches!(&result, Err(BlobError::Other(e)) if e.kind() == ErrorKind::Disk), "{result:?}");
    }
    assert_eq!(listed(&store, "", None).await, [""; 0]);
    assert!(is_absent(&store, "a/b").await);
}

async fn creating_a_long_body_refuses_a_taken_name(store: SharedBlobStore) {
    put(&store, "a", "first").await;
    let second = store.put(&key("a"), body(pattern(PART + 1)), create()).await;
    assert!(matches!(second, Err(BlobError::AlreadyExists { .. })), "{second:?}");
    assert_eq!(get(&store, "a").await, "first");
    if !store.caps().conditional_put {
        return;
    }
    // Both look before either is done, so that the last request must decide.
    let race = (0..2).map(|n: u64| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.put(&key("b"), body(pattern(PART + 1 + n)), create()).await.is_ok() })
    });
    let won: Vec<_> = join_all(race).await.into_iter().map(|joined| joined.expect("no panic")).collect();
    assert_eq!(won.iter().filter(|w| **w).count(), 1, "{won:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{FileStore, MemoryStore};
    use crate::clock::SystemClock;
    use crate::disk::RealDisk;
    use crate::exec::Blocking;

    #[tokio::test(flavor = "multi_thread")]
    async fn memory_keeps_the_contract() {
        run(|_| Arc::new(MemoryStore::new(Arc::new(SystemClock::new())))).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_keep_the_contract() {
        let root = tempfile::tempdir().expect("folder");
        run(|name| {
            let root = root.path().join(name).join("deep");
            Arc::new(FileStore::new(root, Arc::new(RealDisk), Arc::new(SystemClock::new()), Blocking::Pool))
        })
        .await;
    }
}
