//! What happens to the chain when files are replaced, lost or damaged, while replication runs or while it
//! does not: the replica always restores to what the database is, and no name is ever written twice.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Lab, Random, SOON, churn, with_suffix};
use replicate::{ConfigKey, ErrorKind, Event, Events, Handle, State, Txid};
use rusqlite::Connection;

/// Name and content of every object of a replica.
fn objects(replica: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for level in ["0", "9"] {
        let Ok(folder) = std::fs::read_dir(replica.join("ltx").join(level)) else { continue };
        for entry in folder {
            let path = entry.unwrap().path();
            found.insert(
                format!("{level}/{}", path.file_name().unwrap().to_string_lossy()),
                std::fs::read(&path).unwrap(),
            );
        }
    }
    found
}

fn assert_kept(before: &BTreeMap<String, Vec<u8>>, replica: &Path) {
    let after = objects(replica);
    for (name, content) in before {
        assert_eq!(after.get(name), Some(content), "{name} was changed or removed");
    }
}

fn run(lab: &Lab, work: impl FnOnce(&Handle)) -> Txid {
    let handle = lab.start();
    work(&handle);
    let status = handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    status.remote_txid
}

fn rebases(events: &Events) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    while let Some(event) = events.next(Duration::ZERO) {
        if let Event::Captured { rebase: Some(reason), .. } = event {
            reasons.push(reason.name());
        }
    }
    reasons
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what}: not in time");
        std::thread::yield_now();
    }
}

#[test]
fn the_wal_restarted_while_nobody_watched_and_every_page_is_right() {
    // The shape that loses commits in Litestream: the last frame is still in place, the ones after it are gone.
    let lab = Lab::new();
    let app = lab.create(4096);
    for id in 0..200 {
        app.execute("INSERT INTO t VALUES (?1, randomblob(2000), 'old')", [id]).unwrap();
    }
    run(&lab, |_| ());
    for id in [10, 60, 110, 160] {
        app.execute("UPDATE t SET w = 'new' WHERE id = ?1", [id]).unwrap();
    }
    app.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap();
    app.execute("UPDATE t SET w = 'newer' WHERE id = 1", []).unwrap();
    let files = lab.count("0");
    run(&lab, |_| ());
    lab.assert_restores(&app);
    let (added, image) = (lab.count("0") - files, std::fs::metadata(&lab.database).unwrap().len());
    assert_eq!(added, 1);
    let newest = objects(&lab.replica).into_iter().next_back().unwrap().1;
    assert!((newest.len() as u64) < image / 4, "only pages that differ are stored, not {} bytes", newest.len());
}

#[test]
fn a_lost_state_folder_costs_an_image_and_no_name_is_reused() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(11);
    let first = run(&lab, |_| churn(&app, &mut random));
    let before = objects(&lab.replica);
    std::fs::remove_dir_all(lab.folder.path().join(".app.db-replicate")).unwrap();
    churn(&app, &mut random);
    let second = run(&lab, |_| churn(&app, &mut random));
    assert!(second > first);
    assert_kept(&before, &lab.replica);
    lab.assert_restores(&app);
}

#[test]
fn a_replica_that_was_emptied_gets_a_snapshot_with_a_new_id() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(12);
    let first = run(&lab, |_| churn(&app, &mut random));
    std::fs::remove_dir_all(&lab.replica).unwrap();
    churn(&app, &mut random);
    let second = run(&lab, |_| ());
    assert!(second > first);
    assert_eq!(lab.count("9"), 1);
    lab.assert_restores(&app);
    run(&lab, |_| churn(&app, &mut random));
    lab.assert_restores(&app);
}

#[test]
fn another_page_size_after_a_stop_starts_a_snapshot_and_goes_on() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(13);
    run(&lab, |_| churn(&app, &mut random));
    app.execute_batch("PRAGMA journal_mode=DELETE; PRAGMA page_size=1024; VACUUM; PRAGMA journal_mode=WAL;").unwrap();
    run(&lab, |_| churn(&app, &mut random));
    lab.assert_restores(&app);
    run(&lab, |_| churn(&app, &mut random));
    lab.assert_restores(&app);
}

#[test]
fn changes_made_in_rollback_mode_while_stopped_are_captured() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(14);
    run(&lab, |_| churn(&app, &mut random));
    app.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    churn(&app, &mut random);
    run(&lab, |_| ());
    let mode: String = lab.open().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    lab.assert_restores(&app);
}

#[test]
fn a_database_replaced_while_running_is_noticed_and_stored() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(15);
    let handle = lab.start();
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    let events = handle.events();
    let other = lab.folder.path().join("other.db");
    let replacement = Connection::open(&other).unwrap();
    replacement
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB, w TEXT); CREATE INDEX i ON t (w);")
        .unwrap();
    churn(&replacement, &mut random);
    drop((replacement, app));
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(with_suffix(&lab.database, suffix));
    }
    std::fs::rename(&other, &lab.database).unwrap();
    let app = lab.open();
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    assert_eq!(rebases(&events), ["database-replaced"]);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_wal_deleted_while_running_is_noticed() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(16);
    let handle = lab.start();
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    drop(app);
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(with_suffix(&lab.database, suffix)).unwrap();
    }
    // Nothing tells that a file that nobody writes is gone: the poll finds it.
    wait_for("attached again", || with_suffix(&lab.database, "-wal").exists());
    let app = lab.open();
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_wal_truncated_while_running_is_let_go_until_somebody_has_mended_it() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(17);
    let handle = lab.start();
    (0..20).for_each(|_| churn(&app, &mut random));
    handle.sync(SOON).unwrap();
    app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    // Everything in it is in the database.
    let wal = std::fs::OpenOptions::new().write(true).open(with_suffix(&lab.database, "-wal")).unwrap();
    wal.set_len(0).unwrap();
    churn(&app, &mut random);
    wait_for("a checkpoint that finds nobody in its way", || {
        app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, u32>(0)).unwrap() == 0
    });
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    lab.assert_restores(&app);
    assert!(handle.stop(SOON).unwrap().flushed);
}

#[test]
fn a_truncating_checkpoint_of_the_application_does_not_wait_for_us_in_vain() {
    let lab = Lab::new();
    let app = lab.create(4096);
    app.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    let handle = lab.start();
    let mut random = Random(18);
    for _ in 0..5 {
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
        let begun = std::time::Instant::now();
        let busy: u32 = app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        // What it would wait for otherwise is its own timeout, or the poll.
        assert!(busy == 0 && begun.elapsed() < SOON, "{busy} {:?}", begun.elapsed());
    }
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_damaged_or_missing_spool_is_made_good_from_the_database() {
    for damage in 0..2 {
        let lab = Lab::new();
        let app = lab.create(4096);
        let mut random = Random(17);
        run(&lab, |_| churn(&app, &mut random));
        // The replica cannot be written for a while: its folder is a file.
        let aside = lab.folder.path().join("aside");
        std::fs::rename(&lab.replica, &aside).unwrap();
        std::fs::write(&lab.replica, b"").unwrap();
        let handle = lab.start();
        churn(&app, &mut random);
        let spool = lab.folder.path().join(".app.db-replicate/spool/0");
        wait_for("spooled", || std::fs::read_dir(&spool).unwrap().count() > 0);
        let report = handle.stop(Duration::from_millis(300)).unwrap();
        assert!(!report.flushed);
        for entry in std::fs::read_dir(&spool).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            if damage == 0 { std::fs::write(&path, bytes).unwrap() } else { std::fs::remove_file(&path).unwrap() }
        }
        std::fs::remove_file(&lab.replica).unwrap();
        std::fs::rename(&aside, &lab.replica).unwrap();
        churn(&app, &mut random);
        run(&lab, |_| churn(&app, &mut random));
        lab.assert_restores(&app);
    }
}

#[test]
fn an_outage_stalls_nothing_and_what_waited_arrives_in_order() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(18);
    let handle = lab.start();
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    let aside = lab.folder.path().join("aside");
    std::fs::rename(&lab.replica, &aside).unwrap();
    std::fs::write(&lab.replica, b"").unwrap();
    for _ in 0..50 {
        churn(&app, &mut random);
    }
    wait_for("stalled", || handle.sync_status().unwrap().state == State::Stalled);
    let status = handle.sync_status().unwrap();
    assert!(status.last_error.is_some());
    assert!(!status.in_sync);
    assert_eq!(handle.sync(Duration::from_millis(50)).unwrap_err().kind(), ErrorKind::Timeout);
    std::fs::remove_file(&lab.replica).unwrap();
    std::fs::rename(&aside, &lab.replica).unwrap();
    let status = handle.sync(Duration::from_secs(60)).unwrap();
    assert_eq!(status.state, State::Streaming);
    assert!(status.last_error.is_none());
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_full_spool_pauses_capture_and_nothing_is_lost() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let handle =
        Handle::start(&lab.database, lab.options().with(ConfigKey::SpoolLimit, "16MiB").check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    let aside = lab.folder.path().join("aside");
    std::fs::rename(&lab.replica, &aside).unwrap();
    std::fs::write(&lab.replica, b"").unwrap();
    let paused = |handle: &Handle| {
        let status = handle.sync_status().unwrap();
        status.last_error.is_some_and(|e| e.to_string().contains("spool is full"))
    };
    let start = Instant::now();
    let mut id = 0;
    while !paused(&handle) {
        app.execute("INSERT INTO t VALUES (?1, randomblob(200000), 'x')", [id]).unwrap();
        id += 1;
        assert!(start.elapsed() < SOON * 3, "never full");
    }
    app.execute_batch("UPDATE t SET w = 'later'; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    std::fs::remove_file(&lab.replica).unwrap();
    std::fs::rename(&aside, &lab.replica).unwrap();
    handle.sync(Duration::from_secs(60)).unwrap();
    lab.assert_restores(&app);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_second_writer_on_the_same_replica_is_fenced_before_it_overwrites() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(19);
    run(&lab, |_| churn(&app, &mut random));
    // A copy of the host: database and state folder. Both go on.
    let clone = tempfile::tempdir().unwrap();
    let database = clone.path().join("app.db");
    app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    std::fs::copy(&lab.database, &database).unwrap();
    let state = ".app.db-replicate";
    for part in ["state", "ledger"] {
        std::fs::create_dir_all(clone.path().join(state)).unwrap();
        std::fs::copy(lab.folder.path().join(state).join(part), clone.path().join(state).join(part)).unwrap();
    }
    let copy = Connection::open(&database).unwrap();
    let twin = Handle::start(&database, lab.config()).unwrap();
    twin.sync(SOON).unwrap();
    // The original goes on in another process in real life; here its files appear in the replica.
    let newest = objects(&lab.replica).into_keys().next_back().unwrap();
    let next = format!("{:016x}", u64::from_str_radix(&newest[2..18], 16).unwrap() + 1);
    let taken = lab.replica.join(format!("ltx/0/{next}-{next}.ltx"));
    std::fs::write(&taken, b"written by somebody else").unwrap();
    churn(&copy, &mut random);
    let error = twin.sync(SOON).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Diverged);
    assert_eq!(twin.sync_status().unwrap().state, State::Fenced);
    assert_eq!(std::fs::read(&taken).unwrap(), b"written by somebody else");
    let report = twin.stop(SOON).unwrap();
    assert!(!report.flushed);
}

#[test]
fn a_database_that_is_none_and_bad_paths_are_refused_at_the_start() {
    let lab = Lab::new();
    std::fs::write(&lab.database, b"this is no database, only a text that is long enough").unwrap();
    assert_eq!(Handle::start(&lab.database, lab.config()).unwrap_err().kind(), ErrorKind::Database);
    for bad in ["x-wal", "x-journal", ".."] {
        let path = lab.folder.path().join(bad);
        assert_eq!(Handle::start(path, lab.config()).unwrap_err().kind(), ErrorKind::Config, "{bad}");
    }
    assert!(!lab.replica.exists());
}
