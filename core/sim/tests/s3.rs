//! What the S3 store does when the service, the network or the credentials do not play along.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use replicate::blob::{BlobError, BlobStore, BodySource, ObjectKey, PutMode, PutOptions, S3Store};
use replicate::config::S3Location;
use replicate::{Cancel, ConfigKey, Error, ErrorKind, Handle, Options, RestoreOptions};
use replicate_loopback::{LoopbackS3, Refusal};
use replicate_sim::servers::{ACCESS_KEY, SECRET_KEY, TlsFiles, VersityGw, free_port, location};

#[derive(Debug)]
struct Server {
    s3: LoopbackS3,
    _root: tempfile::TempDir,
}

impl Server {
    /// A place in it; the bucket is made.
    fn location(&self, bucket: &str, prefix: &str) -> S3Location {
        self.s3.create_bucket(bucket).expect("a bucket");
        location(&self.s3.endpoint(), bucket, prefix)
    }
}

fn server() -> Server {
    let root = tempfile::tempdir().expect("a folder");
    Server { s3: LoopbackS3::start(root.path(), ACCESS_KEY, SECRET_KEY).expect("a server"), _root: root }
}

fn store(location: S3Location) -> S3Store {
    S3Store::new(location).expect("a store")
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a key")
}

fn options(mode: PutMode) -> PutOptions {
    PutOptions { mode, created: replicate::clock::Timestamp(1_700_000_000_123) }
}

async fn put(store: &S3Store, name: &str, body: Vec<u8>, mode: PutMode) -> Result<(), BlobError> {
    store.put(&key(name), Arc::new(Bytes::from(body)), options(mode)).await.map(drop)
}

fn error(result: Result<impl std::fmt::Debug, BlobError>) -> Error {
    match result {
        Err(BlobError::Other(error)) => error,
        other => panic!("no error of the store: {other:?}"),
    }
}

/// Waits until something holds that nobody announces.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn wrong_keys_are_denied_with_a_hint_and_no_secret() {
    let (ours, real) = (server(), VersityGw::start());
    for right in [ours.location("bkt", "p"), real.location("bkt", "p")] {
        for (access, secret) in [(ACCESS_KEY, "hush-wrong"), ("unknown", "hush-wrong")] {
            if access == "unknown" && right.endpoint == Some(real.endpoint()) {
                // versitygw answers with a status 404 of its own making.
                continue;
            }
            let mut wrong = right.clone();
            let keys = wrong.credentials.as_mut().expect("keys");
            (keys.access_key, keys.secret_key) = (access.into(), secret.into());
            let store = store(wrong);
            for error in [
                error(put(&store, "a", b"x".to_vec(), PutMode::Create).await),
                error(store.get(&key("a"), None).await),
                error(store.head(&key("a")).await),
                error(store.list("", None).next().await.expect("an item")),
                error(store.delete(&[key("a")]).await),
            ] {
                assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
                assert!(error.hint().is_some_and(|h| h.contains("key")), "{error}");
                assert!(error.to_string().contains("status=403"), "{error}");
                let shown = format!("{error:?} {store:?}");
                assert!(!shown.contains("hush") && !shown.contains("Signature="), "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_a_mistake_of_the_configuration() {
    let (ours, real) = (server(), VersityGw::start());
    for endpoint in [ours.s3.endpoint(), real.endpoint()] {
        let store = store(location(&endpoint, "nobody", "p"));
        for error in [
            error(put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await),
            error(store.get(&key("a"), None).await),
            error(store.list("", None).next().await.expect("an item")),
            error(store.delete(&[key("a")]).await),
        ] {
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.to_string().contains("NoSuchBucket"), "{error}");
            assert!(error.hint().is_some_and(|h| h.contains("bucket")), "{error}");
        }
    }
}

#[test]
fn a_missing_bucket_is_never_a_replica_without_backup() {
    let (ours, real) = (server(), VersityGw::start());
    ours.s3.create_bucket("bkt").expect("made");
    real.create_bucket("bkt");
    for endpoint in [ours.s3.endpoint(), real.endpoint()] {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("app.db");
        let config = |bucket: &str| {
            let options = Options::new()
                .with(ConfigKey::Url, format!("s3://{bucket}/p?endpoint={endpoint}"))
                .with(ConfigKey::AccessKey, ACCESS_KEY)
                .with(ConfigKey::SecretKey, SECRET_KEY);
            options.check().expect("fine")
        };
        let missing = config("nobody");
        let restored = replicate::ensure_exists(&database, &missing, &Cancel::new());
        let started = Handle::start(&database, missing.clone());
        let option = RestoreOptions::new(&database);
        let asked = replicate::restore(&option, &missing, &Cancel::new(), &mut |_| ());
        for error in [restored.map(drop).err(), started.map(drop).err(), asked.map(drop).err()] {
            let error = error.expect("refused");
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.to_string().contains("bucket=nobody") && error.hint().is_some(), "{error}");
        }
        // A bucket that exists, with nothing below the prefix, has no backup.
        let restored = replicate::ensure_exists(&database, &config("bkt"), &Cancel::new());
        assert!(!restored.expect("asked") && !database.exists());
    }
}

#[test]
fn a_replica_below_a_dot_or_an_empty_name_is_found_where_the_prefix_is_empty() {
    for (bucket, spelling) in [("dot", "."), ("none", "")] {
        let server = server();
        server.s3.create_bucket(bucket).expect("made");
        let folder = tempfile::tempdir().expect("a folder");
        let (database, copy) = (folder.path().join("app.db"), folder.path().join("copy.db"));
        let app = rusqlite::Connection::open(&database).expect("opens");
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES (7)").expect("sql");
        let config = |prefix: &str| {
            let options = Options::new()
                .with(ConfigKey::Url, format!("s3://{bucket}/{prefix}?endpoint={}", server.s3.endpoint()))
                .with(ConfigKey::AccessKey, ACCESS_KEY)
                .with(ConfigKey::SecretKey, SECRET_KEY);
            options.check().expect("fine")
        };
        let handle = Handle::start(&database, config("elsewhere")).expect("started");
        handle.sync(Duration::from_secs(20)).expect("stored");
        handle.stop(Duration::from_secs(20)).expect("stopped");
        // The loopback server keeps each segment of a key as a folder, `.` and the empty one by names of their own.
        let escaped = if spelling.is_empty() { "%" } else { "%2E" };
        let root = server._root.path().join(bucket);
        std::fs::rename(root.join("elsewhere"), root.join(escaped)).expect("renamed");

        assert_eq!(replicate::list(&config("")).expect("listed").len(), 1);
        assert!(replicate::ensure_exists(&copy, &config(""), &Cancel::new()).expect("restored"));
        let restored = rusqlite::Connection::open(&copy).expect("opens");
        let row: u32 = restored.query_row("SELECT n FROM t", [], |row| row.get(0)).expect("sql");
        assert_eq!(row, 7);
        let again = RestoreOptions::new(folder.path().join("again.db"));
        replicate::restore(&again, &config(""), &Cancel::new(), &mut |_| ()).expect("restored");
        assert!(replicate::list(&config("other")).expect("listed").is_empty(), "only where the prefix is empty");
    }
}

#[tokio::test]
async fn a_killed_server_is_unavailable_and_back_after_its_restart() {
    let mut server = VersityGw::start();
    let store = store(server.location("bkt", "p"));
    put(&store, "a", b"one".to_vec(), PutMode::Create).await.expect("put");
    server.kill();
    let started = Instant::now();
    for error in [
        error(put(&store, "b", b"two".to_vec(), PutMode::Create).await),
        error(store.get(&key("a"), None).await),
        error(store.list("", None).next().await.expect("an item")),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("onnection"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(15), "only a few quick attempts");
    server.restart();
    put(&store, "b", b"two".to_vec(), PutMode::Create).await.expect("put");
    assert_eq!(store.get(&key("a"), None).await.expect("get"), "one");
    let head = store.head(&key("a")).await.expect("head");
    assert_eq!(head.created, Some(replicate::clock::Timestamp(1_700_000_000_123)), "metadata survives");
}

#[tokio::test]
async fn a_hiccup_is_overcome_and_an_outage_is_told() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    server.s3.refuse(Refusal::SlowDown, Some("PutObject"), Some(2));
    put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await.expect("the third attempt");
    assert_eq!(server.s3.requests("PutObject"), 3);
    server.s3.refuse(Refusal::InternalError, Some("PutObject"), None);
    for _ in 0..3 {
        let error = error(put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("status=500 code=InternalError"), "{error}");
    }
    assert_eq!(server.s3.requests("PutObject"), 12, "every call has its attempts, however many failed before");
    server.s3.clear_faults();
    server.s3.refuse(Refusal::AccessDenied, None, None);
    let error = error(store.get(&key("a"), None).await);
    assert_eq!((error.kind(), server.s3.requests("GetObject")), (ErrorKind::Denied, 1), "a refusal is not repeated");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_broke() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    put(&store, "a", body.clone(), PutMode::Overwrite).await.expect("put");
    server.s3.cut_bodies(700_000, 2);
    assert!(store.get(&key("a"), None).await.expect("get") == body);
    assert_eq!(server.s3.requests("GetObject"), 3);
    server.s3.cut_bodies(100_000, 1);
    assert!(store.get(&key("a"), Some(1000..2_000_000)).await.expect("get") == body[1000..2_000_000]);
    server.s3.cut_bodies(10, 100);
    let error = error(store.get(&key("a"), None).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_lost_answer_repeats_the_put() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    assert!(store.probe_conditional_put().await.expect("probed"));
    server.s3.lose_answers_of("PutObject", 1);
    put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await.expect("put");
    server.s3.lose_answers_of("PutObject", 1);
    let again = put(&store, "b", b"x".to_vec(), PutMode::Create).await;
    assert!(matches!(again, Err(BlobError::AlreadyExists { .. })), "its own object, as documented: {again:?}");
    assert_eq!(store.get(&key("b"), None).await.expect("get"), "x");
}

#[tokio::test]
async fn a_long_body_goes_in_parts_and_a_lost_completion_is_recognised() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    put(&store, "a", vec![1; 20 << 20], PutMode::Create).await.expect("put");
    let counts = server.s3.request_counts();
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert_eq!((count("CreateMultipartUpload"), count("UploadPart"), count("CompleteMultipartUpload")), (1, 4, 1));
    server.s3.refuse(Refusal::SlowDown, Some("UploadPart"), Some(2));
    put(&store, "b", vec![2; 20 << 20], PutMode::Create).await.expect("put");
    server.s3.clear_faults();
    server.s3.lose_answers_of("CompleteMultipartUpload", 1);
    put(&store, "c", vec![3; 9 << 20], PutMode::Overwrite).await.expect("put");
    assert_eq!(server.s3.requests("CompleteMultipartUpload"), 4);
    assert!(store.get(&key("c"), None).await.expect("get") == vec![3; 9 << 20]);
    assert!(store.get(&key("b"), None).await.expect("get") == vec![2; 20 << 20]);
    assert_eq!(server.s3.open_uploads().expect("listed"), 0);
}

/// Gives every part but the last, for which it waits for ever or fails.
#[derive(Debug)]
struct Stuck {
    fails: Option<Error>,
}

#[async_trait::async_trait]
impl BodySource for Stuck {
    fn len(&self) -> u64 {
        20 << 20
    }

    fn tag(&self) -> Option<u64> {
        Some(1)
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
        if range.end < BodySource::len(self) {
            return Ok(vec![0; usize::try_from(range.end - range.start).expect("a part")].into());
        }
        match &self.fails {
            Some(error) => Err(error.clone()),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn an_upload_that_fails_or_is_dropped_is_aborted() {
    let server = server();
    let store = Arc::new(store(server.location("bkt", "p")));
    // What is wrong with the body has nothing to go on with, also where a later try may read it.
    for kind in [ErrorKind::Internal, ErrorKind::Corrupt, ErrorKind::Disk] {
        let (fails, before) = (Some(Error::new(kind, "source")), server.s3.requests("AbortMultipartUpload"));
        let failed = store.put(&key("a"), Arc::new(Stuck { fails }), options(PutMode::Create)).await;
        assert_eq!(error(failed).kind(), kind);
        assert_eq!(server.s3.open_uploads().expect("listed"), 0);
        // A client may have to ask twice.
        assert!(server.s3.requests("AbortMultipartUpload") > before);
    }

    let sent = server.s3.requests("UploadPart");
    let put = {
        let store = Arc::clone(&store);
        tokio::spawn(
            async move { store.put(&key("a"), Arc::new(Stuck { fails: None }), options(PutMode::Create)).await },
        )
    };
    until("two parts are there", || server.s3.requests("UploadPart") >= sent + 2).await;
    put.abort();
    until("the upload is aborted", || server.s3.open_uploads().expect("listed") == 0).await;
    assert_eq!(server.s3.requests("CompleteMultipartUpload"), 0);
}

/// A body that is known by a tag; from some part on the service fails.
#[derive(Debug)]
struct Known {
    tag: u64,
    fails_from: u64,
    server: Arc<Server>,
}

#[async_trait::async_trait]
impl BodySource for Known {
    fn len(&self) -> u64 {
        40 << 20
    }

    fn tag(&self) -> Option<u64> {
        Some(self.tag)
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
        if range.start >= self.fails_from {
            self.server.s3.refuse(Refusal::InternalError, Some("UploadPart"), None);
        }
        let words = range.start / 8..range.end / 8;
        Ok(words.flat_map(|n| (n ^ self.tag).to_le_bytes()).collect::<Vec<_>>().into())
    }
}

#[tokio::test]
async fn an_upload_that_an_outage_has_interrupted_goes_on_with_what_has_arrived() {
    for lost in [false, true] {
        let server = Arc::new(server());
        let store = store(server.location("bkt", "p"));
        let body = |tag, fails_from| Arc::new(Known { tag, fails_from, server: server.clone() });
        let again = || options(PutMode::Create);
        for _ in 0..2 {
            let failed = store.put(&key("a"), body(7, 32 << 20), again()).await;
            assert_eq!(error(failed).kind(), ErrorKind::Unavailable);
            server.s3.clear_faults();
        }
        assert_eq!((server.s3.requests("CreateMultipartUpload"), server.s3.open_uploads().expect("listed")), (1, 1));
        let sent = server.s3.requests("UploadPart");
        if lost {
            server.s3.forget_uploads().expect("removed");
            // A server may close the connection before its answer was read.
            while !error(store.put(&key("a"), body(7, u64::MAX), again()).await).message().contains("lost the upload") {
            }
        }
        store.put(&key("a"), body(7, u64::MAX), again()).await.expect("put");
        let fresh = server.s3.requests("UploadPart") - sent;
        assert_eq!(server.s3.requests("CreateMultipartUpload"), if lost { 2 } else { 1 });
        assert!(if lost { fresh >= 5 } else { fresh < 5 }, "{fresh} parts were sent");
        let whole = body(7, u64::MAX).read(0..40 << 20).await.expect("read");
        assert!(store.get(&key("a"), None).await.expect("get") == whole);
        // What is another file under the same name, or the same under another, begins anew; nothing stays open.
        let failed = store.put(&key("b"), body(7, 32 << 20), again()).await;
        assert_eq!(error(failed).kind(), ErrorKind::Unavailable);
        server.s3.clear_faults();
        store.put(&key("b"), body(8, u64::MAX), again()).await.expect("put");
        let other = body(8, u64::MAX).read(0..40 << 20).await.expect("read");
        assert!(store.get(&key("b"), None).await.expect("get") == other);
        until("the interrupted one is aborted", || server.s3.open_uploads().expect("listed") == 0).await;
        let failed = store.put(&key("c"), body(7, 32 << 20), again()).await;
        assert_eq!(error(failed).kind(), ErrorKind::Unavailable);
        drop(store);
        until("it is aborted with the store", || server.s3.open_uploads().expect("listed") == 0).await;
    }
}

#[tokio::test]
async fn uploads_that_were_abandoned_a_day_ago_are_aborted_and_no_others() {
    let server = server();
    let begin = |prefix: &'static str, name: &'static str| {
        let store = Arc::new(store(server.location("bkt", prefix)));
        let uploads = server.s3.requests("UploadPart");
        let put = tokio::spawn(async move {
            store.put(&key(name), Arc::new(Stuck { fails: None }), options(PutMode::Overwrite)).await
        });
        (put, uploads)
    };
    let mut stuck = Vec::new();
    // A killed process aborts nothing, so these are not dropped before the end.
    for (prefix, name) in [("p", "a/1"), ("p", "a/2"), ("p", "b/1"), ("p2", "a/1")] {
        let (put, before) = begin(prefix, name);
        until("the upload has begun", || server.s3.requests("UploadPart") >= before + 2).await;
        stuck.push(put);
    }
    let two_days_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 86_400);
    let uploads = server._root.path().join(".uploads");
    for entry in std::fs::read_dir(uploads).expect("listed") {
        let info = entry.expect("listed").path().join("info");
        if !std::fs::read_to_string(&info).expect("readable").contains("a/2") {
            std::fs::File::options().write(true).open(info).expect("open").set_modified(two_days_ago).expect("set");
        }
    }
    let store = store(server.location("bkt", "p"));
    for name in ["a/3", "a/4"] {
        put(&store, name, vec![1; 9 << 20], PutMode::Overwrite).await.expect("put");
    }
    assert_eq!(server.s3.requests("AbortMultipartUpload"), 1, "that of the same folder that is old");
    assert_eq!(server.s3.open_uploads().expect("listed"), 3);
    put(&store, "b/2", vec![1; 9 << 20], PutMode::Overwrite).await.expect("put");
    assert_eq!(server.s3.open_uploads().expect("listed"), 2);
    server.s3.refuse(Refusal::AccessDenied, Some("ListMultipartUploads"), None);
    put(&store, "c/1", vec![1; 9 << 20], PutMode::Overwrite).await.expect("who may not list them, too");
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out_before_it_is_relied_on() {
    let server = server();
    server.s3.ignore_conditions();
    let old = store(server.location("bkt", "old"));
    put(&old, "a", b"first".to_vec(), PutMode::Create).await.expect("put");
    assert!(!old.caps().conditional_put);
    let again = put(&old, "a", b"second".to_vec(), PutMode::Create).await;
    assert!(matches!(again, Err(BlobError::AlreadyExists { .. })), "{again:?}");
    assert_eq!(old.get(&key("a"), None).await.expect("get"), "first");

    server.s3.clear_faults();
    let puts = server.s3.requests("PutObject");
    let new = store(server.location("bkt", "new"));
    put(&new, "a", b"first".to_vec(), PutMode::Create).await.expect("put");
    put(&new, "b", b"first".to_vec(), PutMode::Create).await.expect("put");
    assert!(new.caps().conditional_put);
    assert_eq!(server.s3.requests("PutObject") - puts, 4, "probed once, by two writes");
    let left: Vec<_> = new.list("", None).map(|item| item.expect("list").key.to_string()).collect().await;
    assert_eq!(left, ["a", "b"]);
    assert_eq!(server.s3.requests("DeleteObjects"), 2, "no scratch object stays");
}

#[tokio::test]
async fn keys_that_a_batch_deletion_kept_are_an_error_though_the_answer_is_200() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    for name in ["a", "b", "c"] {
        put(&store, name, b"x".to_vec(), PutMode::Overwrite).await.expect("put");
    }
    server.s3.keep_keys(2);
    let error = error(store.delete(&[key("a"), key("b"), key("c")]).await);
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("2 of a batch") && error.to_string().contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn a_store_without_batches_deletes_singly() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await.expect("put");
    server.s3.refuse(Refusal::NotImplemented, Some("DeleteObjects"), None);
    store.delete(&[key("a"), key("missing")]).await.expect("delete");
    assert_eq!(server.s3.requests("DeleteObject"), 2);
    assert_eq!(store.list("", None).count().await, 0);
}

#[tokio::test]
async fn a_page_that_fails_is_an_error_and_no_shorter_list() {
    let server = server();
    let store = store(server.location("bkt", "p"));
    let names: Vec<_> = (0..1001).map(|n| format!("{n:04}")).collect();
    futures_util::stream::iter(&names)
        .for_each_concurrent(8, |n| async { put(&store, n, vec![], PutMode::Overwrite).await.expect("put") })
        .await;
    let mut list = store.list("", None);
    assert_eq!(list.next().await.expect("an item").expect("listed").key.as_str(), "0000");
    server.s3.refuse(Refusal::SlowDown, Some("ListObjectsV2"), None);
    let rest: Vec<_> = list.collect().await;
    assert_eq!(rest.iter().filter(|item| item.is_ok()).count(), 999);
    assert!(matches!(rest.last(), Some(Err(BlobError::Other(e))) if e.kind() == ErrorKind::Unavailable));
}

#[tokio::test]
async fn both_timestamps_are_written() {
    let server = VersityGw::start();
    let store = store(server.location("bkt", "p"));
    put(&store, "whole", vec![1; 10], PutMode::Create).await.expect("put");
    put(&store, "parts", vec![1; 9 << 20], PutMode::Create).await.expect("put");
    for name in ["whole", "parts"] {
        let kept = server.metadata("bkt", &format!("p/{name}"));
        for entry in ["litestream-timestamp", "replicate-timestamp"] {
            let pair = format!("\"{entry}\":\"2023-11-14T22:13:20.123Z\"");
            assert!(kept.contains(&pair), "{name}: {kept}");
        }
    }
}

/// Runs one of the tests below in a process with this environment alone.
fn child(test: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("IN_CHILD", "1").env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    let output = command.envs(variables.iter().copied()).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{variables:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A CA and a certificate that it gave to 127.0.0.1; their files live as long as the folder.
fn tls() -> (tempfile::TempDir, TlsFiles, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca_certificate = ca.self_signed(&ca_key).expect("a CA");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = certificate.signed_by(&key, &issuer).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let files =
        TlsFiles { certificate: write("server.pem", certificate.pem()), key: write("server.key", key.serialize_pem()) };
    let ca = write("ca.pem", ca_certificate.pem());
    (folder, files, ca)
}

#[test]
fn https_trusts_the_bundle_of_the_environment() {
    let (_folder, files, ca) = tls();
    let server = VersityGw::start_tls(files);
    server.create_bucket("bkt");
    let endpoint = server.endpoint();
    let ca = ca.to_str().expect("text");
    let system = "/etc/ssl/certs/ca-certificates.crt";
    for (variables, expected) in [
        (vec![("AWS_CA_BUNDLE", ca)], "works"),
        (vec![("SSL_CERT_FILE", ca)], "works"),
        (vec![("AWS_CA_BUNDLE", ca), ("SSL_CERT_FILE", system)], "works"),
        (vec![("SSL_CERT_FILE", ca), ("AWS_CA_BUNDLE", "")], "works"),
        (vec![("AWS_CA_BUNDLE", "/nonexistent")], "config"),
        (vec![("SSL_CERT_FILE", system)], "untrusted"),
    ] {
        if variables.iter().any(|(_, path)| *path == system) && !std::path::Path::new(system).exists() {
            continue;
        }
        let variables: Vec<_> =
            variables.into_iter().chain([("ENDPOINT", endpoint.as_str()), ("EXPECTED", expected)]).collect();
        child("child_over_https", &variables);
    }
}

#[tokio::test]
async fn child_over_https() {
    // Only a child of the test above has the variables.
    let (Some(endpoint), Some(expected)) = (variable("ENDPOINT"), variable("EXPECTED")) else { return };
    let store = match (S3Store::new(location(&endpoint, "bkt", "p")), expected.as_str()) {
        (Err(error), "config") => {
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains("AWS_CA_BUNDLE"), "{error}");
            return;
        }
        (store, _) => store.expect("a store"),
    };
    let result = put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await;
    if expected == "works" {
        result.expect("put");
        return;
    }
    let error = error(result);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("AWS_CA_BUNDLE")), "{error}");
}

#[test]
fn a_url_that_names_only_a_bucket_goes_where_the_variables_of_aws_tools_say() {
    let server = server();
    server.s3.create_bucket("bkt").expect("a bucket");
    let endpoint = server.s3.endpoint();
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        child(
            "child_without_endpoint",
            &[
                (name, &endpoint),
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
                ("EXPECTED", "works"),
            ],
        );
    }
    assert!(server.s3.requests("ListObjectsV2") > 0);
}

#[test]
fn child_without_endpoint() {
    if variable("EXPECTED").is_none() {
        return;
    }
    let config = Options::new().with(ConfigKey::Url, "s3://bkt/p").check().expect("fine");
    assert!(replicate::list(&config).expect("listed").is_empty());
}

#[test]
fn without_keys_the_chain_of_the_environment_is_used() {
    let server = server();
    server.s3.create_bucket("bkt").expect("a bucket");
    let (endpoint, folder) = (server.s3.endpoint(), tempfile::tempdir().expect("a folder"));
    let profile = folder.path().join("credentials");
    let text = format!("[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n");
    std::fs::write(&profile, text).expect("written");
    let profile = profile.to_str().expect("text");
    for (variables, expected) in [
        (vec![("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)], "works"),
        (vec![("AWS_SHARED_CREDENTIALS_FILE", profile)], "works"),
        (vec![], "none"),
        (vec![("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", "wrong")], "denied"),
    ] {
        let variables: Vec<_> =
            variables.into_iter().chain([("ENDPOINT", endpoint.as_str()), ("EXPECTED", expected)]).collect();
        child("child_without_keys", &variables);
    }
}

#[tokio::test]
async fn child_without_keys() {
    let (Some(endpoint), Some(expected)) = (variable("ENDPOINT"), variable("EXPECTED")) else { return };
    let environment: Vec<_> = std::env::vars_os().collect();
    let mut place = location(&endpoint, "bkt", "p");
    place.credentials = None;
    let store = store(place);
    let result = put(&store, "a", b"x".to_vec(), PutMode::Overwrite).await;
    if expected == "works" {
        result.expect("put");
    } else {
        let error = error(result);
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("access key")), "{error}");
    }
    assert_eq!(std::env::vars_os().collect::<Vec<_>>(), environment, "nothing is written into the environment");
}

#[tokio::test]
async fn nothing_is_asked_before_the_first_use() {
    // Nobody listens there.
    let store = store(location(&format!("http://127.0.0.1:{}", free_port()), "bkt", "p"));
    assert_eq!((store.kind(), store.caps().conditional_put), ("s3", true));
    assert!(store.location().starts_with("s3://bkt/p?endpoint=http://127.0.0.1:"));
}
