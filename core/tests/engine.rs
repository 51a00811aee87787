//! The engine on real databases with a file replica, in one process with the application and on the same
//! copy of SQLite.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use common::{Lab, Random, SOON, churn};
use replicate::{ConfigKey, Handle, State, Txid};

#[test]
fn a_commit_arrives_and_restores() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let handle = lab.start();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let status = handle.sync(SOON).unwrap();
    assert_eq!(status.local_txid, status.remote_txid);
    assert!(status.in_sync);
    assert_eq!(status.state, State::Streaming);
    lab.assert_restores(&app);
    let report = handle.stop(SOON).unwrap();
    assert!(report.flushed, "{report:?}");
}

#[test]
fn after_every_sync_the_replica_is_what_a_reader_sees() {
    for page_size in [512, 1024, 4096, 65536] {
        let lab = Lab::new();
        let app = lab.create(page_size);
        let handle = lab.start();
        let mut random = Random(u64::from(page_size));
        for round in 0..40 {
            for _ in 0..=random.below(20) {
                churn(&app, &mut random);
            }
            match round {
                10 => app.execute_batch("DELETE FROM t WHERE id > 700; VACUUM;").unwrap(),
                20 => app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap(),
                30 => app.execute_batch("PRAGMA auto_vacuum=FULL; VACUUM; DELETE FROM t WHERE id > 100").unwrap(),
                _ => {}
            }
            handle.sync(SOON).unwrap();
            lab.assert_restores(&app);
        }
        handle.stop(SOON).unwrap();
    }
}

/// A checkpoint that wants the WAL to itself keeps writers out while it waits for our read transaction.
#[test]
fn a_checkpoint_of_the_application_does_not_wait_for_the_interval() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let options = lab.options().with(ConfigKey::SyncInterval, "10m").with(ConfigKey::CheckpointPages, "1000000");
    let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
    for round in 0..6 {
        app.execute("INSERT INTO t VALUES (?1, zeroblob(9000), 'a')", [2 * round]).unwrap();
        handle.sync(SOON).unwrap();
        // The interval runs, and this waits for its end.
        app.execute("INSERT INTO t VALUES (?1, zeroblob(9000), 'b')", [2 * round + 1]).unwrap();
        let kind = if round % 2 == 0 { "TRUNCATE" } else { "RESTART" };
        let busy: i64 = app.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0, "{kind}, round {round}");
    }
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn restarts_with_writes_and_checkpoints_in_between_lose_nothing() {
    let lab = Lab::new();
    let app = lab.create(1024);
    let mut random = Random(7);
    let mut last = Txid::ZERO;
    for round in 0..60 {
        let handle = lab.start();
        for _ in 0..=random.below(10) {
            churn(&app, &mut random);
        }
        let status = handle.sync(SOON).unwrap();
        assert!(status.remote_txid >= last);
        last = status.remote_txid;
        lab.assert_restores(&app);
        handle.stop(SOON).unwrap();
        for _ in 0..random.below(60) {
            churn(&app, &mut random);
            match random.below(8) {
                0 => app.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap(),
                1 => app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap(),
                2 if round % 5 == 0 => app.execute_batch("VACUUM").unwrap(),
                _ => {}
            }
        }
    }
    assert_eq!(lab.count("9"), 0, "no image where the ledger tells what changed");
}

#[test]
fn an_unchanged_database_is_not_stored_again() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let first = lab.start();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    first.sync(SOON).unwrap();
    first.stop(SOON).unwrap();
    let files = lab.count("0");
    for _ in 0..3 {
        let handle = lab.start();
        assert!(handle.sync(SOON).unwrap().in_sync);
        handle.stop(SOON).unwrap();
    }
    assert_eq!(lab.count("0"), files);
}

#[test]
fn a_transaction_larger_than_every_buffer_is_one_capture() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let handle = lab.start();
    handle.sync(SOON).unwrap();
    app.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
         INSERT INTO t SELECT i, randomblob(4000), hex(i) FROM n",
    )
    .unwrap();
    app.execute_batch("UPDATE t SET w = w || 'x'").unwrap();
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    app.execute_batch("DELETE FROM t; VACUUM").unwrap();
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

/// Counts how often the writers of a database were held, from what the engine logs.
struct Seals {
    database: String,
    count: Arc<AtomicUsize>,
}

impl Seals {
    fn watch(database: &std::path::Path) -> Arc<AtomicUsize> {
        let (database, count) = (database.display().to_string(), Arc::new(AtomicUsize::new(0)));
        tracing::subscriber::set_global_default(Self { database, count: count.clone() }).unwrap();
        count
    }
}

/// The fields of an event in one line.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Seals {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("replicate::capture")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        if line.0.contains("while writers were held") && line.0.contains(&self.database) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn the_wal_starts_over_under_a_writer_that_never_pauses() {
    let lab = Lab::new();
    let app = lab.create(4096);
    app.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    let handle = lab.start();
    let wal = std::fs::File::open(common::with_suffix(&lab.database, "-wal"));
    let mut random = Random(3);
    churn(&app, &mut random);
    let wal = wal.unwrap_or_else(|_| std::fs::File::open(common::with_suffix(&lab.database, "-wal")).unwrap());
    let generation = || {
        let mut salts = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&wal, &mut salts, 16).unwrap();
        salts
    };
    let seals = Seals::watch(&lab.database);
    let (mut first, start) = (generation(), std::time::Instant::now());
    // It may start over without holding the writer, too, where the writer is slow.
    while seals.load(Ordering::Relaxed) == 0 {
        first = generation();
        churn(&app, &mut random);
        assert!(start.elapsed() < SOON * 3, "the writer is never held");
    }
    while generation() == first {
        churn(&app, &mut random);
        assert!(start.elapsed() < SOON * 3, "the WAL only grows");
    }
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_second_call_is_the_same_replicator_and_a_second_database_may_not_share_the_replica() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let (first, second) = (lab.start(), lab.start());
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    first.sync(SOON).unwrap();
    assert_eq!(second.sync_status().unwrap().remote_txid, first.sync_status().unwrap().remote_txid);
    let other = replicate::Handle::start(lab.folder.path().join("other.db"), lab.config());
    assert_eq!(other.unwrap_err().kind(), replicate::ErrorKind::Diverged);
    first.stop(SOON).unwrap();
    assert_eq!(second.sync_status().unwrap().state, State::Stopped);
    assert_eq!(second.sync(SOON).unwrap_err().kind(), replicate::ErrorKind::Closed);
}

#[test]
fn a_start_while_another_thread_stops_is_a_new_replicator() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let first = lab.start();
    first.sync(SOON).unwrap();
    // A store that cannot be reached keeps the stop busy.
    let aside = lab.folder.path().join("aside");
    std::fs::rename(&lab.replica, &aside).unwrap();
    std::fs::write(&lab.replica, b"").unwrap();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let events = first.events();
    let stopping = std::thread::spawn(move || first.stop(std::time::Duration::from_secs(3)).unwrap());
    let retrying = std::iter::from_fn(|| events.next(SOON)).find(|e| matches!(e, replicate::Event::Retrying { .. }));
    assert!(retrying.is_some());
    let second = lab.start();
    assert!(!stopping.join().unwrap().flushed);
    std::fs::remove_file(&lab.replica).unwrap();
    std::fs::rename(&aside, &lab.replica).unwrap();
    second.sync(SOON).unwrap();
    lab.assert_restores(&app);
    assert!(second.stop(SOON).unwrap().flushed);
}

#[test]
fn a_start_after_replication_has_ended_by_itself_starts_anew() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let first = lab.start();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let next = format!("{:016x}", first.sync(SOON).unwrap().remote_txid.0 + 1);
    let taken = lab.replica.join(format!("ltx/0/{next}-{next}.ltx"));
    std::fs::write(&taken, b"written by somebody else").unwrap();
    app.execute("INSERT INTO t VALUES (2, x'00', 'b')", []).unwrap();
    assert_eq!(first.sync(SOON).unwrap_err().kind(), replicate::ErrorKind::Diverged);
    std::fs::remove_file(&taken).unwrap();
    let second = lab.start();
    second.sync(SOON).unwrap();
    assert_eq!(second.sync_status().unwrap().state, State::Streaming);
    lab.assert_restores(&app);
    second.stop(SOON).unwrap();
}

#[test]
fn no_call_that_ends_early_takes_the_read_lock_with_it() {
    let lab = Lab::new();
    let app = lab.create(4096);
    app.busy_timeout(std::time::Duration::ZERO).unwrap();
    app.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    let config = lab.options().with(replicate::ConfigKey::CheckpointPages, "100000").check().unwrap();
    let handle = replicate::Handle::start(&lab.database, config).unwrap();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    handle.sync(SOON).unwrap();
    for id in 2..40 {
        app.execute("INSERT INTO t VALUES (?1, randomblob(2000), 'a')", [id]).unwrap();
        // The caller's time is over before the capture is; what the engine holds is not the caller's.
        let _ = handle.sync(std::time::Duration::from_micros(50));
        let busy: i64 = app.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 1, "nothing kept the WAL from being started over");
    }
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_database_made_after_the_start_is_found() {
    let lab = Lab::new();
    let handle = lab.start();
    let app = lab.open();
    app.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB, w TEXT)").unwrap();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let status = handle.sync(SOON).unwrap();
    assert!(status.remote_txid > Txid::ZERO);
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_link_to_a_database_is_the_same_database() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let link = lab.folder.path().join("link.db");
    std::os::unix::fs::symlink(&lab.database, &link).unwrap();
    let by_link = replicate::Handle::start(&link, lab.config()).unwrap();
    let by_name = lab.start();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let arrived = by_link.sync(SOON).unwrap().remote_txid;
    assert_eq!(by_name.sync_status().unwrap().remote_txid, arrived);
    assert_eq!(by_link.path(), by_name.path());
    lab.assert_restores(&app);
    by_link.stop(SOON).unwrap();
}

#[test]
fn a_link_to_a_missing_database_is_the_database_that_sqlite_makes_there() {
    let lab = Lab::new();
    let link = lab.folder.path().join("link.db");
    std::os::unix::fs::symlink("app.db", &link).unwrap();
    let handle = replicate::Handle::start(&link, lab.config()).unwrap();
    let app = lab.create(4096);
    assert_eq!(handle.path().file_name(), lab.database.file_name());
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn after_a_stop_the_database_file_is_whole_without_its_wal() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let handle = lab.start();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    let alone = lab.folder.path().join("alone.db");
    std::fs::copy(&lab.database, &alone).unwrap();
    let copy = rusqlite::Connection::open(&alone).unwrap();
    let rows: u32 = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}
