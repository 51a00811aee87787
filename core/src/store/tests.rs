//! The border: what is sealed comes back in ranges, and nothing else does.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use proptest::prelude::*;
use replicate_format::{Level, Txid, TxidRange};

use super::*;
use crate::blob::{BlobResult, BlobStore, BodySource, Caps, MemoryStore, ObjectMeta};
use crate::clock::SystemClock;
use crate::seal::testing::{bad, class, good, keys, keys_of, kit};
use crate::seal::{CHUNK, Identities, IdentityKind, KeysBuilder, Link, Recipients, generate_identity};

/// A memory store that counts requests for bytes, and may send more than it is asked for, or end early.
#[derive(Debug)]
struct Counting {
    inner: MemoryStore,
    asked: Mutex<Vec<Range<u64>>>,
    more: AtomicU64,
    /// The most that it sends of a range.
    most: u64,
}

impl Counting {
    fn new() -> Self {
        let inner = MemoryStore::new(Arc::new(SystemClock::new()));
        Self { inner, asked: Mutex::default(), more: AtomicU64::new(0), most: u64::MAX }
    }
}

#[async_trait]
impl BlobStore for Counting {
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
        self.asked.lock().expect("not poisoned").extend(range.clone());
        let more = self.more.load(Ordering::Relaxed);
        self.inner
            .get(key, range.map(|range| range.start..(range.end + more).min(range.start.saturating_add(self.most))))
            .await
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

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn txids() -> TxidRange {
    TxidRange::single(Txid(7)).expect("valid")
}

/// A store with one object at level 0.
fn holding(keys: Arc<Keys>, bytes: &[u8]) -> (LtxStore, Arc<Counting>, LtxInfo) {
    let blob = Arc::new(Counting::new());
    let (store, info) = held_by(&blob, keys, bytes);
    (store, blob, info)
}

fn held_by(blob: &Arc<Counting>, keys: Arc<Keys>, bytes: &[u8]) -> (LtxStore, LtxInfo) {
    let store = LtxStore::new(blob.clone(), keys);
    let key = store.layout.key(Level::L0, txids()).expect("a key");
    let options = PutOptions { mode: PutMode::Create, created: Timestamp(1) };
    let body: Body = Arc::new(Bytes::copy_from_slice(bytes));
    block_on(blob.put(&key, body, options)).expect("stored");
    let info = block_on(store.list(Level::L0, Txid::ZERO)).expect("listed").remove(0);
    (store, info)
}

fn seal_error(error: &Error) -> crate::seal::SealError {
    use std::error::Error as _;
    *error.source().and_then(|source| source.downcast_ref()).expect("a failure of the seal")
}

/// Reads a file chunk by chunk from its end, in ranges.
fn read_backwards(store: &LtxStore, info: &LtxInfo) -> Result<Vec<u8>> {
    block_on(async {
        let open = store.open(info).await?;
        let mut plain = vec![0; usize::try_from(open.size()).expect("small")];
        let mut end = open.size();
        while end > 0 {
            let start = end.saturating_sub(50_000);
            plain[start as usize..end as usize].copy_from_slice(&open.read(start..end).await?);
            end = start;
        }
        Ok(plain)
    })
}

fn sealing_keys(kind: IdentityKind, with_identity: bool) -> Arc<Keys> {
    let made = generate_identity(kind).expect("made");
    let recipients = Some(Recipients::parse(&made.recipient).expect("a recipient"));
    let identities = with_identity.then(|| Identities::parse(&made.identity).expect("an identity"));
    Arc::new(KeysBuilder { recipients, identities, ..KeysBuilder::default() }.build().expect("they fit"))
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect::<Vec<_>>().into()
}

#[test]
fn every_good_file_is_read_by_ranges() {
    for file in good() {
        for lists in &file.identities {
            let (store, _, info) = holding(keys_of(lists), &file.bytes);
            let plain = read_backwards(&store, &info).unwrap_or_else(|e| panic!("{}: {e}", file.name));
            assert!(plain == file.plain, "{}", file.name);
        }
    }
}

#[test]
fn every_bad_file_is_refused_by_ranges_for_its_reason() {
    for file in bad() {
        let (store, _, info) = holding(keys_of(&file.identities), &file.bytes);
        let error = read_backwards(&store, &info).expect_err(&file.name);
        assert_eq!(class(seal_error(&error)), file.class, "{}: {error}", file.name);
    }
}

#[test]
fn the_public_test_kit_passes_by_ranges() {
    for case in kit() {
        let (store, _, info) = holding(keys(&case.identity), &case.bytes);
        let read = read_backwards(&store, &info);
        if let (Ok(plain), Some(payload)) = (&read, &case.payload) {
            assert_eq!(crate::seal::testing::digest(plain), *payload, "{}", case.name);
        }
        let found = match read.map_err(|e| class(seal_error(&e))) {
            Ok(_) => "success",
            Err("NotAge" | "Header") => "header failure",
            Err("NoMatch") => "no match",
            Err("BadMac") => "HMAC failure",
            Err("Payload") => "payload failure",
            Err(other) => other,
        };
        assert_eq!(found, case.expect, "{}", case.name);
    }
}

#[test]
fn opening_costs_two_requests_and_a_page_one() {
    let plain = pattern(3_000_000);
    for (kind, requests) in [(IdentityKind::X25519, 2), (IdentityKind::PostQuantum, 2)] {
        let keys = sealing_keys(kind, true);
        let sealed =
            Sealed::new(&keys, Place { level: Level::L0, txids: txids() }, Arc::new(plain.clone()), Link::NONE);
        let bytes = block_on(async {
            let body = sealed.expect("sealed").body;
            body.read(0..body.len()).await.expect("read")
        });
        let (store, blob, info) = holding(keys, &bytes);
        let count = || std::mem::take(&mut *blob.asked.lock().expect("not poisoned")).len();
        block_on(async {
            let open = store.open(&info).await.expect("opened");
            assert_eq!(count(), requests);
            assert_eq!(open.read(2_990_000..3_000_000).await.expect("read"), plain[2_990_000..]);
            assert_eq!(count(), 0, "the end came with the tail");
            assert_eq!(open.read(500_000..504_096).await.expect("read"), plain[500_000..504_096]);
            assert_eq!(count(), 1);
            assert_eq!(open.read(400_000..900_000).await.expect("read"), plain[400_000..900_000]);
            assert_eq!(count(), 2, "neighbours in one request, on both sides of what is known");
            assert_eq!(open.read(400_000..900_000).await.expect("read"), plain[400_000..900_000]);
            assert_eq!(count(), 0);
            assert_eq!(open.read(2_999_999..9_000_000).await.expect("read").len(), 1);
        });
    }
}

#[derive(Debug)]
struct Changing(Mutex<Bytes>);

#[async_trait]
impl BodySource for Changing {
    fn len(&self) -> u64 {
        self.0.lock().expect("not poisoned").len() as u64
    }
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.0.lock().expect("not poisoned").clone();
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }
}

#[test]
fn a_body_that_changes_while_it_is_sealed_is_never_sealed_twice_under_one_key() {
    let keys = sealing_keys(IdentityKind::X25519, true);
    let body = Arc::new(Changing(Mutex::new(pattern(100_000))));
    let sealed =
        Sealed::new(&keys, Place { level: Level::L0, txids: txids() }, body.clone(), Link::NONE).expect("sealed");
    block_on(async {
        let whole = sealed.body.read(0..sealed.size()).await.expect("read");
        let mut changed = body.0.lock().expect("not poisoned").to_vec();
        changed[99_999] ^= 1;
        *body.0.lock().expect("not poisoned") = changed.into();
        assert_eq!(sealed.body.read(0..60_000).await.expect("the first chunk is as it was"), whole[..60_000]);
        let error = sealed.body.read(0..sealed.size()).await.expect_err("the second is not");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    });
}

#[test]
fn an_object_that_is_there_already_is_ours_only_if_it_can_be_proven() {
    let (plain, other): (Body, Body) = (Arc::new(pattern(5000)), Arc::new(pattern(5001)));
    for (with_identity, again) in [(true, true), (false, false)] {
        let keys = sealing_keys(IdentityKind::X25519, with_identity);
        let blob = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
        let store = LtxStore::new(blob, keys);
        block_on(async {
            let sealed = store.seal(Level::L0, txids(), plain.clone()).expect("sealed");
            store.put(&sealed, Timestamp(1)).await.expect("stored");
            let PutOutcome::Exists(key) = store.put(&sealed, Timestamp(1)).await.expect("answered") else {
                panic!("it was there")
            };
            assert!(store.holds(&key, &sealed).await.expect("compared"), "the same bytes");
            let resealed = store.seal(Level::L0, txids(), plain.clone()).expect("sealed");
            assert_eq!(store.holds(&key, &resealed).await.expect("compared"), again);
            let another = store.seal(Level::L0, txids(), other.clone()).expect("sealed");
            assert!(!store.holds(&key, &another).await.expect("compared"));
        });
    }
}

#[test]
fn a_damaged_file_here_is_not_another_writers_object_there() {
    #[derive(Debug)]
    struct Rotten;

    #[async_trait]
    impl BodySource for Rotten {
        fn len(&self) -> u64 {
            5 << 20
        }
        async fn read(&self, range: Range<u64>) -> Result<Bytes> {
            // The first megabytes are as they were: that the object was sealed by another start shows there.
            match range.end > 4 << 20 {
                true => Err(Error::new(ErrorKind::Corrupt, "rotten")),
                false => Ok(pattern(5 << 20).slice(range.start as usize..range.end as usize)),
            }
        }
    }

    let blob = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let store = LtxStore::new(blob, sealing_keys(IdentityKind::X25519, true));
    block_on(async {
        let sealed = store.seal(Level::L0, txids(), Arc::new(pattern(5 << 20))).expect("sealed");
        store.put(&sealed, Timestamp(0)).await.expect("put");
        let key = store.layout.key(Level::L0, txids()).expect("a key");
        let resealed = store.seal(Level::L0, txids(), Arc::new(Rotten)).expect("sealed");
        assert_eq!(store.met(&key, &resealed).await.expect_err("damaged").kind(), ErrorKind::Corrupt);
    });
}

#[test]
fn sealed_and_plain_files_are_told_apart_and_the_way_out_is_named() {
    let plain = pattern(5000);
    let keys = sealing_keys(IdentityKind::X25519, true);
    let (store, _, info) = holding(keys, &plain);
    let error = block_on(async { store.open(&info).await.map(drop) }).expect_err("not sealed");
    assert_eq!((error.kind(), seal_error(&error)), (ErrorKind::Keys, crate::seal::SealError::NotAge));
    assert!(error.to_string().contains(info.key().as_str()) && error.to_string().contains("age_allow_plaintext"));

    let file = good().into_iter().find(|file| file.name == "ok/pq__ltx_1page.age").expect("there");
    let (store, _, info) = holding(Arc::new(Keys::none()), &file.bytes);
    let error = block_on(store.header(&info)).expect_err("sealed");
    assert_eq!((error.kind(), seal_error(&error)), (ErrorKind::Keys, crate::seal::SealError::NoIdentity));
    assert!(error.to_string().contains("REPLICATE_AGE_IDENTITY"), "{error}");
    let error = store.opening().of(&info).feed(file.bytes.into(), true).expect_err("sealed");
    assert_eq!(error, crate::seal::SealError::NoIdentity);
}

#[test]
fn a_store_that_sends_more_than_it_was_asked_for_is_refused() {
    // The end of a file was taken to begin where it would with so many bytes, before the file.
    for len in [300, 200_000] {
        let keys = sealing_keys(IdentityKind::X25519, true);
        let sealed = Sealed::new(&keys, Place { level: Level::L0, txids: txids() }, Arc::new(pattern(len)), Link::NONE);
        let body = sealed.expect("sealed").body;
        let whole = block_on(body.read(0..body.len())).expect("read");
        let (store, blob, info) = holding(keys, &whole);
        block_on(store.open(&info)).expect("an honest store");
        for more in [1, 150_000] {
            blob.more.store(more, Ordering::Relaxed);
            // What reaches over the end is cut there.
            let opened = block_on(store.open(&info));
            assert_eq!(opened.err().map(|e| e.kind()), (len > 300).then_some(ErrorKind::Unsupported), "{len} {more}");
            let read = block_on(store.get(&info, Some(0..10))).map_err(Error::from);
            assert_eq!(read.err().map(|e| e.kind()), Some(ErrorKind::Unsupported), "{len} {more}");
        }
    }
}

#[test]
fn a_store_whose_bodies_end_early_is_asked_again_but_not_for_ever() {
    let keys = sealing_keys(IdentityKind::X25519, true);
    let sealed = Sealed::new(&keys, Place { level: Level::L0, txids: txids() }, Arc::new(pattern(4096)), Link::NONE);
    let body = sealed.expect("sealed").body;
    let whole = block_on(body.read(0..body.len())).expect("read");
    for (most, kind) in [(100, None), (1, Some(ErrorKind::Unavailable))] {
        let blob = Arc::new(Counting { most, ..Counting::new() });
        let (store, info) = held_by(&blob, keys.clone(), &whole);
        assert_eq!(block_on(store.open(&info)).err().map(|e| e.kind()), kind, "{most}");
        assert!(blob.asked.lock().expect("not poisoned").len() < 200, "{most}");
    }
}

#[test]
fn a_plain_file_is_refused_with_keys_of_either_kind_and_a_sealed_one_in_any_range_without() {
    // A host that can only write restores nothing that anybody may have put there.
    let (store, _, info) = holding(sealing_keys(IdentityKind::PostQuantum, false), &pattern(5000));
    for range in [0..100, 4000..4100, 0..1] {
        let error = block_on(async { store.open(&info).await.expect("not looked at").read(range).await });
        assert_eq!(seal_error(&error.expect_err("plain")), crate::seal::SealError::NotAge);
    }
    let error = store.opening().of(&info).feed(pattern(5000), true).expect_err("plain");
    assert_eq!(error, crate::seal::SealError::NotAge);

    let file = good().into_iter().find(|file| file.name == "ok/pq__ltx_1page.age").expect("there");
    for keys in [Keys::none(), KeysBuilder { allow_plaintext: true, ..KeysBuilder::default() }.build().expect("fine")] {
        let (store, blob, info) = holding(Arc::new(keys), &file.bytes);
        for range in [0..100, 0..5, 300..400] {
            let error = block_on(async { store.open(&info).await.expect("not looked at").read(range).await });
            assert_eq!(seal_error(&error.expect_err("sealed")), crate::seal::SealError::NoIdentity);
        }
        // And a plain one costs one look.
        let (plain, counted, info) = holding(Arc::new(Keys::none()), &pattern(5000));
        block_on(async {
            let open = plain.open(&info).await.expect("opened");
            assert_eq!(open.read(3000..3010).await.expect("read"), pattern(5000)[3000..3010]);
            assert_eq!(open.read(10..20).await.expect("read"), pattern(5000)[10..20]);
        });
        assert_eq!(counted.asked.lock().expect("not poisoned").len(), 3);
        drop(blob);
    }
}

#[test]
fn changed_files_are_refused_by_ranges_too() {
    let keys = sealing_keys(IdentityKind::X25519, true);
    let plain = pattern(200_000);
    let place = Place { level: Level::L0, txids: txids() };
    let whole = |len: usize| {
        let body = Sealed::new(&keys, place, Arc::new(plain.slice(..len)), Link::NONE).expect("sealed").body;
        block_on(body.read(0..body.len())).expect("read")
    };
    let samples = [whole(300), whole(4096), whole(200_000)];
    let mut chance = 0x1234_5678_u64;
    let mut below = |bound: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        (chance % bound as u64) as usize
    };
    for round in 0..3000 {
        let sample = &samples[if round % 50 == 0 { 2 } else { round % 2 }];
        let mut bytes = sample.to_vec();
        match round % 3 {
            0 => bytes[below(sample.len())] ^= 1 << below(8),
            1 => bytes.truncate(below(sample.len())),
            _ => {
                let (a, b) = (below(sample.len() - 16), below(sample.len() - 16));
                (0..16).for_each(|i| bytes.swap(a + i, b + i));
            }
        }
        let (store, _, info) = holding(keys.clone(), &bytes);
        assert!(bytes == sample[..] || read_backwards(&store, &info).is_err(), "round {round}");
    }
}

/// Keys whose second opens what the first seals, and seals to one more; and the header of a file of either.
fn two_coats() -> (Arc<Keys>, Arc<Keys>) {
    let (one, two) = (generate_identity(IdentityKind::X25519), generate_identity(IdentityKind::X25519));
    let (one, two) = (one.expect("made"), two.expect("made"));
    let keys = |recipients: &str| {
        let recipients = Some(Recipients::parse(recipients).expect("recipients"));
        let identities = Some(Identities::parse(&one.identity).expect("an identity"));
        Arc::new(KeysBuilder { recipients, identities, ..KeysBuilder::default() }.build().expect("they fit"))
    };
    (keys(&one.recipient), keys(&format!("{}\n{}", one.recipient, two.recipient)))
}

#[test]
fn a_file_gets_a_new_header_in_parts_of_any_size_and_a_damaged_one_keeps_its_own() {
    let (old, new) = two_coats();
    let plain = pattern(500_000);
    let place = Place { level: Level::L0, txids: txids() };
    let sealed = Sealed::new(&old, place, Arc::new(plain.clone()), Link::NONE).expect("sealed").body;
    let bytes = block_on(sealed.read(0..sealed.len())).expect("read");
    let (store, blob, info) = holding(old, &bytes);
    let rewrapping = LtxStore::new(blob.clone(), new);

    for at in [bytes.len() - 1, bytes.len() / 2, 200, 170, 100] {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        let put = |bytes: Vec<u8>| {
            let options = PutOptions { mode: PutMode::Overwrite, created: Timestamp(1) };
            block_on(blob.put(info.key(), Arc::new(Bytes::from(bytes)), options)).expect("stored");
        };
        put(damaged.clone());
        let error = block_on(rewrapping.rewrap(&info)).expect_err("damaged");
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Keys), "{at}: {error}");
        assert_eq!(block_on(store.get(&info, None)).expect("there"), damaged, "as it was");
        put(bytes.to_vec());
    }

    assert!(block_on(rewrapping.rewrap(&info)).expect("rewrapped"));
    let again = block_on(rewrapping.list(Level::L0, Txid::ZERO)).expect("listed").remove(0);
    assert!(again.size > info.size && again.created == info.created);
    assert_eq!(read_backwards(&store, &again).expect("opens"), plain);
    // What was listed before is another object now: nothing of it is made up.
    assert!(read_backwards(&store, &info).is_err());
    let error = block_on(rewrapping.rewrap(&info)).expect_err("another length than was listed");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(read_backwards(&store, &again).expect("opens"), plain);
    assert!(block_on(rewrapping.rewrap(&again)).expect("as often as one likes"));
}

#[test]
fn a_body_that_ends_early_does_not_make_a_sealed_file_a_plain_one() {
    let blob = Arc::new(Counting { most: 5, ..Counting::new() });
    let store = LtxStore::new(blob, sealing_keys(IdentityKind::X25519, true));
    block_on(async {
        let sealed = store.seal(Level::L0, txids(), Arc::new(pattern(1000))).expect("sealed");
        store.put(&sealed, Timestamp(1)).await.expect("stored");
        let info = store.list(Level::L0, Txid::ZERO).await.expect("listed").remove(0);
        assert!(store.is_sealed(&info).await.expect("looked at"));
    });
}

/// A memory store in which an object is replaced right after its beginning was read.
#[derive(Debug)]
struct Replacing(Counting, Mutex<Option<Bytes>>);

#[async_trait]
impl BlobStore for Replacing {
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn caps(&self) -> Caps {
        self.0.caps()
    }
    fn location(&self) -> String {
        self.0.location()
    }
    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        // In parts, as a large body.
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < body.len() {
            let start = bytes.len() as u64;
            bytes.extend_from_slice(&body.read(start..body.len().min(start + 100_001)).await?);
        }
        self.0.put(key, Arc::new(Bytes::from(bytes)), options).await
    }
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        let bytes = self.0.get(key, range).await?;
        let other = self.1.lock().expect("not poisoned").take();
        if let Some(other) = other {
            let options = PutOptions { mode: PutMode::Overwrite, created: Timestamp(1) };
            self.0.put(key, Arc::new(other), options).await?;
        }
        Ok(bytes)
    }
    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        self.0.head(key).await
    }
    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        self.0.list(prefix, start_after)
    }
    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        self.0.delete(keys).await
    }
}

#[test]
fn two_who_rewrap_one_file_leave_one_that_opens() {
    let (old, new) = two_coats();
    let plain = pattern(300_000);
    let place = Place { level: Level::L0, txids: txids() };
    let seal = |keys: &Arc<Keys>| {
        let body = Sealed::new(keys, place, Arc::new(plain.clone()), Link::NONE).expect("sealed").body;
        block_on(body.read(0..body.len())).expect("read")
    };
    let (bytes, theirs) = (seal(&old), seal(&new));
    let memory = Counting::new();
    let blob = Arc::new(Replacing(memory, Mutex::default()));
    let store = LtxStore::new(blob.clone(), new.clone());
    let key = store.layout.key(Level::L0, txids()).expect("a key");
    let options = PutOptions { mode: PutMode::Overwrite, created: Timestamp(1) };
    block_on(blob.put(&key, Arc::new(bytes), options)).expect("stored");
    let info = block_on(store.list(Level::L0, Txid::ZERO)).expect("listed").remove(0);
    *blob.1.lock().expect("not poisoned") = Some(theirs.clone());
    let error = block_on(store.rewrap(&info)).expect_err("it was replaced meanwhile");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(block_on(blob.get(&key, None)).expect("there"), theirs, "theirs is as it was");
    let info = block_on(store.list(Level::L0, Txid::ZERO)).expect("listed").remove(0);
    assert!(block_on(store.rewrap(&info)).expect("in parts"));
    assert_eq!(read_backwards(&store, &info).expect("opens"), plain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ranges_of_a_sealed_body_are_those_of_the_whole_and_it_opens_by_ranges(
        len in prop_oneof![0_usize..300, 65_400_usize..65_700, 130_900_usize..131_300, 0_usize..400_000],
        cuts in prop::collection::vec(0.0_f64..1.0, 1..8),
        reads in prop::collection::vec((0.0_f64..1.0, 1_u64..200_000), 1..8),
    ) {
        let (plain, keys) = (pattern(len), sealing_keys(IdentityKind::X25519, true));
        let sealed = Sealed::new(&keys, Place { level: Level::L0, txids: txids() }, Arc::new(plain.clone()), Link::NONE);
        let body = sealed.expect("sealed").body;
        let size = body.len();
        let whole = block_on(body.read(0..size)).expect("read");
        prop_assert_eq!(whole.len() as u64, size);
        let mut edges: Vec<_> = cuts.iter().map(|cut| (cut * size as f64) as u64).collect();
        edges.extend([0, size]);
        edges.sort_unstable();
        edges.dedup();
        let parts: Vec<_> = edges.windows(2).map(|two| block_on(body.read(two[0]..two[1])).expect("read")).collect();
        prop_assert!(parts.concat() == whole);

        let (store, _, info) = holding(keys, &whole);
        block_on(async {
            let open = store.open(&info).await.expect("opened");
            assert_eq!(open.size(), len as u64);
            for (start, count) in reads {
                let start = (start * len as f64) as u64;
                let end = (start + count).min(len as u64);
                let read = open.read(start..start + count).await.expect("read");
                assert!(read == plain[start as usize..end as usize]);
            }
        });
        prop_assert_eq!(CHUNK, 65_536);
    }
}

#[test]
fn what_another_store_has_sealed_or_left_plain_is_not_put() {
    let blob: crate::blob::SharedBlobStore = Arc::new(Counting::new());
    let store = LtxStore::new(blob.clone(), sealing_keys(IdentityKind::X25519, false));
    for other in [Arc::new(Keys::none()), sealing_keys(IdentityKind::X25519, false)] {
        let other = LtxStore::new(blob.clone(), other);
        let file = other.seal(Level::L0, txids(), Arc::new(pattern(100))).expect("sealed");
        let error = block_on(store.put(&file, Timestamp(0))).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    assert!(block_on(store.list(Level::L0, Txid::ZERO)).expect("listed").is_empty());
}
