//! What a restore brings back: every state, from every mix of files.

use std::sync::{Arc, Mutex};

use crate::blob::FileStore;
use crate::disk::RealDisk;
use crate::error::ErrorKind;
use crate::exec::Blocking;
use crate::restore::testing::*;
use crate::restore::{Cancel, Check, RestoreOptions, Target, run};
use crate::seal::Keys;
use crate::store::LtxStore;
use crate::{Timestamp, Txid};

fn restore(store: &LtxStore, target: Target, blocking: Blocking) -> crate::Result<(u64, Vec<u8>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    let options = RestoreOptions::new(&output).target(target).check(Check::None);
    let report = block_on(run(store, &options, &env(blocking), &|_| {}, &Cancel::new()))?;
    let bytes = std::fs::read(&output).expect("restored");
    assert_eq!(report.bytes, bytes.len() as u64);
    assert_eq!(report.timestamp, time_of(report.txid.0));
    assert_eq!(names(folder.path()), ["out.db"]);
    Ok((report.txid.0, bytes))
}

#[test]
fn every_capture_that_is_reachable_restores_byte_for_byte() {
    for page_size in [512, 4096, 65536] {
        let model = busy_model(page_size);
        for (blocking, store) in [(Blocking::Pool, model.store().0), (Blocking::Inline, model.sealed().0)] {
            for txid in 1..=model.txid {
                let (reached, bytes) = restore(&store, Target::Txid(Txid(txid)), blocking).expect("reachable");
                assert_eq!(reached, txid);
                assert!(bytes == model.bytes(txid), "page_size={page_size} txid={txid}");
            }
            let (reached, bytes) = restore(&store, Target::Latest, blocking).expect("reachable");
            assert!(reached == model.txid && bytes == model.bytes(model.txid), "page_size={page_size}");
        }
    }
}

#[test]
fn merged_files_alone_restore_the_ends_of_their_ranges() {
    let mut model = busy_model(4096);
    for t in 1..=9 {
        model.lose(0, t, t);
    }
    let (store, _) = model.store();
    for (txid, reachable) in [(3, true), (5, false), (6, true), (7, true), (9, false)] {
        match restore(&store, Target::Txid(Txid(txid)), Blocking::Pool) {
            Ok((_, bytes)) => assert!(reachable && bytes == model.bytes(txid), "{txid}"),
            Err(error) => assert!(!reachable && error.kind() == ErrorKind::NoBackup, "{txid}: {error}"),
        }
    }
    let error = restore(&store, Target::Latest, Blocking::Pool).expect_err("8 and 9 are gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn an_empty_replica_is_no_backup_and_makes_no_folder() {
    let (store, blob) = crate::restore::testing::Model::new(512).store();
    let folder = tempfile::tempdir().expect("a folder");
    let options = RestoreOptions::new(folder.path().join("deep/out.db"));
    let error = block_on(run(&store, &options, &env(Blocking::Pool), &|_| {}, &Cancel::new())).expect_err("empty");
    assert_eq!(error.kind(), ErrorKind::NoBackup);
    assert!(names(folder.path()).is_empty());
    assert!(blob.log.lock().expect("not poisoned").gets.is_empty());
}

#[test]
fn a_time_gives_the_last_capture_at_or_before_it_with_few_requests() {
    let mut model = Model::new(512);
    model.capture(3, &[]).snapshot();
    for _ in 0..499 {
        model.capture(3, &[2]);
    }
    model.merge(1, 2, 100);
    for t in 2..=90 {
        model.lose(0, t, t);
    }
    let (store, blob) = model.timeless();
    let at = |txid: u64, off: i64| Target::Time(Timestamp(time_of(txid).0 + off));
    for (target, expected) in [
        (at(250, 0), 250),
        (at(250, -1), 249),
        (at(250, 1), 250),
        (at(1, 0), 1),
        (at(500, 0), 500),
        (at(9_999, 0), 500),
        // The single files up to 90 are gone, the merged one ends at 100: the last state before it is 1.
        (at(95, 0), 1),
        (at(100, 0), 100),
    ] {
        blob.log.lock().expect("not poisoned").heads = 0;
        let (txid, bytes) = restore(&store, target, Blocking::Pool).expect("in range");
        assert_eq!(txid, expected, "{target:?}");
        assert!(bytes == model.bytes(expected));
        let heads = blob.log.lock().expect("not poisoned").heads;
        assert!(heads <= 12, "{heads} requests for {target:?}");
    }
    let error = restore(&store, at(1, -1), Blocking::Pool).expect_err("before the first");
    assert_eq!(error.kind(), ErrorKind::NoBackup);
}

#[test]
fn a_gap_is_an_error_for_times_after_it_only() {
    let mut model = Model::new(512);
    model.capture(3, &[]);
    for _ in 0..9 {
        model.capture(3, &[2]);
    }
    model.lose(0, 6, 6);
    let (store, _) = model.timeless();
    let (txid, _) = restore(&store, Target::Time(time_of(4)), Blocking::Pool).expect("before the gap");
    assert_eq!(txid, 4);
    let (txid, _) = restore(&store, Target::Time(time_of(6)), Blocking::Pool).expect("nothing known is missing");
    assert_eq!(txid, 5);
    for time in [time_of(7), time_of(10)] {
        let error = restore(&store, Target::Time(time), Blocking::Pool).expect_err("beyond the gap");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn a_file_store_gives_the_same() {
    let model = busy_model(1024);
    let folder = tempfile::tempdir().expect("a folder");
    let clock = env(Blocking::Pool).clock;
    let blob = FileStore::new(folder.path().to_path_buf(), Arc::new(RealDisk), clock, Blocking::Pool);
    let store = LtxStore::new(Arc::new(blob), Arc::new(Keys::none()));
    block_on(model.put_all(&store));
    let (txid, bytes) = restore(&store, Target::Latest, Blocking::Pool).expect("fine");
    assert!(txid == model.txid && bytes == model.bytes(txid));
    let (txid, _) = restore(&store, Target::Time(time_of(8)), Blocking::Pool).expect("fine");
    assert_eq!(txid, 8);
}

#[test]
fn progress_rises_and_ends_at_its_total() {
    let model = busy_model(4096);
    let (store, _) = model.store();
    let folder = tempfile::tempdir().expect("a folder");
    let options = RestoreOptions::new(folder.path().join("out.db")).check(Check::None);
    let seen = Mutex::new(Vec::new());
    let note = |p| seen.lock().expect("not poisoned").push(p);
    let report = block_on(run(&store, &options, &env(Blocking::Pool), &note, &Cancel::new())).expect("fine");
    let seen = seen.into_inner().expect("not poisoned");
    assert!(seen.is_sorted_by_key(|p| p.done) && seen.is_sorted_by_key(|p| p.total), "{seen:?}");
    let last = seen.last().expect("told");
    assert_eq!((last.done, last.total), (report.fetched, report.fetched));
    assert_eq!(seen.iter().filter(|p| p.done == p.total).count(), 1, "the end is told once");
}

#[test]
fn a_real_database_comes_back_in_wal_mode_with_its_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, bytes) = sqlite_database(folder.path(), 500);
    let (store, _) = Model::new(4096).store();
    block_on(put_database(&store, &bytes));
    for check in [Check::None, Check::Quick, Check::Full] {
        let output = folder.path().join(format!("{check:?}/new/out.db"));
        let options = RestoreOptions::new(&output).check(check);
        let report = block_on(run(&store, &options, &env(Blocking::Pool), &|_| {}, &Cancel::new())).expect("fine");
        assert_eq!(report.checked, check);
        assert_eq!(names(output.parent().expect("a folder")), ["out.db"]);
        let restored = std::fs::read(&output).expect("readable");
        assert!(restored == bytes && restored[18..20] == [2, 2]);
        let db = rusqlite::Connection::open(&output).expect("opens");
        let rows: u32 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("sql");
        assert_eq!(rows, 500);
    }
}

#[test]
fn a_backup_of_a_damaged_database_fails_its_check_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (made, mut bytes) = sqlite_database(folder.path(), 500);
    std::fs::remove_file(made).expect("removed");
    for byte in &mut bytes[4096..4200] {
        *byte = 0xff;
    }
    let (store, _) = Model::new(4096).store();
    block_on(put_database(&store, &bytes));
    let output = folder.path().join("out.db");
    let options = RestoreOptions::new(&output);
    let error = block_on(run(&store, &options, &env(Blocking::Pool), &|_| {}, &Cancel::new())).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(names(folder.path()).is_empty());
}
