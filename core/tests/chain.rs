//! Whatever happened to the replica, to the local state or to the host while nobody looked: what was acknowledged
//! can be restored, and files of another history are never taken for ours.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Lab, Random, SOON, assert_same_pages, churn};
use replicate::{ConfigKey, ErrorKind, Handle, State, Txid};
use rusqlite::Connection;

fn run(lab: &Lab, work: impl FnOnce(&Handle)) -> Txid {
    let handle = lab.start();
    work(&handle);
    let status = handle.sync(SOON).unwrap();
    assert!(handle.stop(SOON).unwrap().flushed);
    status.remote_txid
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what}: not in time");
        std::thread::yield_now();
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn state(lab: &Lab) -> PathBuf {
    lab.folder.path().join(".app.db-replicate")
}

fn spool(lab: &Lab) -> PathBuf {
    state(lab).join("spool/0")
}

/// Copies a folder with what is in it.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, at) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy_folder(&path, &at) } else { std::fs::copy(&path, &at).map(drop).unwrap() }
    }
}

/// A row on pages of its own.
fn insert(app: &Connection, id: i64) {
    app.execute("INSERT INTO t VALUES (?1, randomblob(20000), hex(randomblob(8)))", [id]).unwrap();
}

/// Captures a few transactions that do not arrive. Returns the last one's id.
fn capture_unshipped(lab: &Lab, app: &Connection, ids: std::ops::Range<i64>) -> Txid {
    lab.take_replica_away();
    let handle = lab.start();
    wait_for("looked", || handle.sync_status().unwrap().local_txid > Txid::ZERO);
    for id in ids {
        let before = handle.sync_status().unwrap().local_txid;
        insert(app, id);
        wait_for("captured", || handle.sync_status().unwrap().local_txid > before);
    }
    let report = handle.stop(Duration::from_millis(100)).unwrap();
    assert!(!report.flushed);
    lab.bring_replica_back();
    report.local_txid
}

#[test]
fn what_another_host_stored_under_our_ids_is_not_taken_for_ours() {
    let lab = Lab::new();
    let app = lab.create(4096);
    run(&lab, |_| insert(&app, 1));
    let unsent = capture_unshipped(&lab, &app, 10..13);
    // The other host takes over, with what had arrived.
    let there = tempfile::tempdir().unwrap();
    let database = there.path().join("app.db");
    replicate::ensure_exists(&database, &lab.config(), &replicate::Cancel::new()).unwrap();
    let other = Connection::open(&database).unwrap();
    other.execute_batch("PRAGMA journal_mode=WAL").unwrap();
    let handle = Handle::start(&database, lab.config()).unwrap();
    let mut arrived = handle.sync(SOON).unwrap().remote_txid;
    for id in 20.. {
        if arrived == unsent {
            break;
        }
        insert(&other, id);
        arrived = handle.sync(SOON).unwrap().remote_txid;
        assert!(arrived <= unsent);
    }
    handle.stop(SOON).unwrap();
    // And this one again.
    run(&lab, |_| insert(&app, 2));
    lab.assert_restores_by_call(&app);
}

#[test]
fn a_host_set_back_to_an_earlier_state_stores_what_it_commits_then() {
    let lab = Lab::new();
    let app = lab.create(4096);
    run(&lab, |_| insert(&app, 1));
    drop(app);
    let image = tempfile::tempdir().unwrap();
    copy_folder(lab.folder.path(), image.path());
    let app = lab.open();
    let reached = run(&lab, |_| insert(&app, 2));
    drop(app);
    // The disk is that of the image again; the replica is not on it.
    std::fs::remove_dir_all(image.path().join("replica")).unwrap();
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(lab.folder.path().join(name));
    }
    std::fs::remove_dir_all(state(&lab)).unwrap();
    copy_folder(image.path(), lab.folder.path());
    let app = lab.open();
    insert(&app, 3);
    // What is captured before the store has answered gets the id of what is there.
    lab.take_replica_away();
    let handle = lab.start();
    wait_for("captured", || handle.sync_status().unwrap().local_txid == reached);
    lab.bring_replica_back();
    insert(&app, 4);
    let status = handle.sync(SOON).unwrap();
    assert!(status.remote_txid > reached);
    handle.stop(SOON).unwrap();
    lab.assert_restores_by_call(&app);
}

#[test]
fn the_newest_file_of_the_spool_is_lost_although_it_had_arrived() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(23);
    run(&lab, |_| churn(&app, &mut random));
    // Killed after the upload: the file is still there, and the ledger does not cover it.
    let before = tempfile::tempdir().unwrap();
    let handle = lab.start();
    let first = handle.sync(SOON).unwrap().remote_txid;
    churn(&app, &mut random);
    let arrived = handle.sync(SOON).unwrap().remote_txid;
    assert!(arrived > first);
    wait_for("recorded", || {
        let state = std::fs::read(state(&lab).join("state")).unwrap();
        String::from_utf8_lossy(&state).contains(&format!("\"shipped\":{{\"txid\":{}", arrived.0))
    });
    copy_folder(&state(&lab), before.path());
    handle.stop(SOON).unwrap();
    std::fs::remove_dir_all(state(&lab)).unwrap();
    copy_folder(before.path(), &state(&lab));
    let kept = files(&spool(&lab));
    std::fs::remove_file(kept.last().unwrap()).unwrap();
    churn(&app, &mut random);
    assert!(run(&lab, |_| ()) > arrived);
    lab.assert_restores_by_call(&app);
}

#[test]
fn a_file_missing_in_the_middle_of_the_replica_is_made_good() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(24);
    run(&lab, |handle| {
        for _ in 0..5 {
            churn(&app, &mut random);
            handle.sync(SOON).unwrap();
        }
    });
    let level = lab.replica.join("ltx/0");
    std::fs::remove_file(&files(&level)[2]).unwrap();
    run(&lab, |_| ());
    lab.assert_restores_by_call(&app);
    run(&lab, |_| churn(&app, &mut random));
    lab.assert_restores_by_call(&app);
}

#[test]
fn a_lost_state_folder_and_a_lost_beginning_of_the_replica_are_made_good() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(25);
    run(&lab, |handle| {
        for _ in 0..3 {
            churn(&app, &mut random);
            handle.sync(SOON).unwrap();
        }
    });
    std::fs::remove_dir_all(state(&lab)).unwrap();
    std::fs::remove_file(&files(&lab.replica.join("ltx/0"))[0]).unwrap();
    run(&lab, |_| ());
    lab.assert_restores_by_call(&app);
}

#[test]
fn another_page_size_is_noticed_without_local_knowledge() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let mut random = Random(26);
    run(&lab, |_| churn(&app, &mut random));
    std::fs::remove_dir_all(state(&lab)).unwrap();
    app.execute_batch("PRAGMA journal_mode=DELETE; PRAGMA page_size=1024; VACUUM; PRAGMA journal_mode=WAL;").unwrap();
    run(&lab, |_| ());
    lab.assert_restores_by_call(&app);
    run(&lab, |_| churn(&app, &mut random));
    lab.assert_restores_by_call(&app);
}

#[test]
fn what_waits_is_lost_or_rots_while_replication_runs_and_is_made_good() {
    type Harm = fn(&Lab, &Path);
    let harms: [(&str, Harm); 4] = [
        ("removed", |_, file| std::fs::remove_file(file).unwrap()),
        ("cut", |_, file| std::fs::File::options().write(true).open(file).unwrap().set_len(1 << 20).unwrap()),
        ("rotten", |_, file| {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 1_500_000).unwrap();
            file.write_all_at(&[byte[0] ^ 0x40], 1_500_000).unwrap();
        }),
        // The engine may make a file in it meanwhile.
        ("no folder", |lab, _| wait_for("removed", || std::fs::remove_dir_all(state(lab)).is_ok())),
    ];
    for (what, harm) in harms {
        let lab = Lab::new();
        let app = lab.create(4096);
        let handle = lab.start();
        app.execute("INSERT INTO t VALUES (1, randomblob(100), 'a')", []).unwrap();
        handle.sync(SOON).unwrap();
        lab.take_replica_away();
        app.execute("INSERT INTO t VALUES (2, randomblob(3000000), 'b')", []).unwrap();
        wait_for("spooled", || {
            let status = handle.sync_status().unwrap();
            status.local_txid > status.remote_txid && status.last_error.is_some()
        });
        let file = files(&spool(&lab)).pop().unwrap();
        harm(&lab, &file);
        lab.bring_replica_back();
        app.execute("INSERT INTO t VALUES (3, randomblob(100), 'c')", []).unwrap();
        let synced = handle.sync(Duration::from_secs(60));
        assert!(synced.is_ok(), "{what}: {synced:?}");
        lab.assert_restores_by_call(&app);
        assert!(handle.stop(SOON).unwrap().flushed, "{what}");
        // What is noted locally serves the next start.
        app.execute("INSERT INTO t VALUES (4, randomblob(100), 'd')", []).unwrap();
        run(&lab, |_| ());
        lab.assert_restores_by_call(&app);
        assert_same_pages(&app, &lab.open());
    }
}

#[test]
fn a_sync_is_not_answered_while_the_database_is_gone_from_its_path() {
    let lab = Lab::new();
    let app = lab.create(4096);
    // Long enough that nothing is captured unless somebody asks.
    let options = lab.options().with(ConfigKey::SyncInterval, "1h");
    let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
    insert(&app, 1);
    handle.sync(SOON).unwrap();
    insert(&app, 2);
    let aside = lab.folder.path().join("aside.db");
    std::fs::rename(&lab.database, &aside).unwrap();
    let error = handle.sync(Duration::from_millis(500)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("the database is gone"), "{error}");
    assert_eq!(handle.sync_status().unwrap().state, State::Stalled);
    std::fs::rename(&aside, &lab.database).unwrap();
    handle.sync(SOON).unwrap();
    lab.assert_restores_by_call(&app);
    std::fs::rename(&lab.database, &aside).unwrap();
    // There is nothing left to wait for.
    let report = handle.stop(Duration::from_secs(3600)).unwrap();
    assert!(!report.flushed && report.error.is_some(), "{report:?}");
}

#[test]
fn who_has_lost_the_state_folder_lets_go_of_what_is_in_the_new_one() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let handle = lab.start();
    insert(&app, 1);
    handle.sync(SOON).unwrap();
    std::fs::rename(state(&lab), lab.folder.path().join("moved")).unwrap();
    // Another process that takes the lock in the folder of that name.
    std::fs::create_dir(state(&lab)).unwrap();
    let theirs = std::fs::File::create(state(&lab).join("lock")).unwrap();
    theirs.try_lock().unwrap();
    insert(&app, 2);
    wait_for("a stand-by", || handle.sync_status().unwrap().state == State::Standby);
    drop(theirs);
    insert(&app, 3);
    wait_for("the replicator", || handle.sync_status().unwrap().state == State::Streaming);
    handle.sync(SOON).unwrap();
    lab.assert_restores_by_call(&app);
    assert!(handle.stop(SOON).unwrap().flushed);
}

#[test]
fn a_start_with_a_wrong_place_that_does_not_answer_leaves_what_waits_for_the_right_one() {
    let lab = Lab::new();
    let app = lab.create(4096);
    run(&lab, |_| insert(&app, 1));
    let unsent = capture_unshipped(&lab, &app, 10..13);
    let waiting = files(&spool(&lab));
    assert!(waiting.len() >= 3);
    let wrong = lab.folder.path().join("wrong");
    std::fs::write(&wrong, b"").unwrap();
    let options = lab.options().with(ConfigKey::Url, format!("file://{}", wrong.display()));
    let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
    wait_for("failed", || handle.sync_status().unwrap().last_error.is_some());
    insert(&app, 20);
    assert!(!handle.stop(Duration::from_millis(300)).unwrap().flushed);
    assert_eq!(files(&spool(&lab)), waiting);
    // The right one goes on where it was: no image, and every capture that waited arrives.
    let handle = lab.start();
    let arrived = handle.sync(SOON).unwrap().remote_txid;
    handle.stop(SOON).unwrap();
    assert!(arrived > unsent);
    for file in waiting {
        assert!(lab.replica.join("ltx/0").join(file.file_name().unwrap()).exists());
    }
    lab.assert_restores_by_call(&app);
}

#[test]
fn a_replica_that_has_vanished_is_not_taken_for_one_that_never_was() {
    let lab = Lab::new();
    let app = lab.create(4096);
    run(&lab, |_| insert(&app, 1));
    drop(app);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(lab.folder.path().join(name));
    }
    let mounted = lab.folder.path().join("mounted");
    std::fs::rename(&lab.replica, &mounted).unwrap();
    for error in [
        replicate::ensure_exists(&lab.database, &lab.config(), &replicate::Cancel::new()).unwrap_err(),
        Handle::start(&lab.database, lab.config()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    assert!(!lab.database.exists() && !lab.replica.exists());
    std::fs::rename(&mounted, &lab.replica).unwrap();
    assert!(replicate::ensure_exists(&lab.database, &lab.config(), &replicate::Cancel::new()).unwrap());
}

#[test]
fn a_database_restored_at_the_start_is_told_of() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let arrived = run(&lab, |_| insert(&app, 1));
    drop(app);
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(lab.folder.path().join(name));
    }
    let handle = lab.start();
    let (first, second) = (handle.events(), handle.events());
    handle.stop(SOON).unwrap();
    let restored = |events: &replicate::Events| {
        std::iter::from_fn(|| events.next(Duration::ZERO)).find_map(|event| match event {
            replicate::Event::Restored { txid } => Some(txid),
            _ => None,
        })
    };
    assert_eq!((restored(&first), restored(&second)), (Some(arrived), None));
}
