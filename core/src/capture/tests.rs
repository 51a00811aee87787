//! What capture promises while its disk and its door fail.

use std::io::ErrorKind as Io;

use replicate_format::Txid;

use super::testing::Bench;
use crate::disk::faulty::Op;
use crate::error::ErrorKind;
use crate::event::RebaseReason;

#[test]
fn an_id_is_given_once_also_if_the_ledger_cannot_take_its_place() {
    for op in [Op::Rename, Op::SyncDir, Op::OpenRw] {
        let mut bench = Bench::new();
        bench.write(1, 5000);
        bench.faults.fail(op, "-replicate/ledger", 0, 1, Io::Other);
        bench.faults.fail(op, ".app.db-replicate", 1, 1, Io::Other);
        for _ in 0..3 {
            let _ = bench.step();
        }
        bench.faults.clear();
        bench.catch_up();
        let spooled: Vec<_> = bench.spool.lock().unwrap().pending(Txid::ZERO).map(|file| file.txids).collect();
        assert_eq!(spooled.len(), 1, "{op:?}: {spooled:?}");
        bench.write(2, 5000);
        bench.catch_up();
        bench.assert_spooled();
        let mut bench = bench.restart();
        bench.write(3, 5000);
        bench.catch_up();
        bench.assert_spooled();
    }
}

#[test]
fn a_spool_that_lost_files_the_ledger_knows_of_is_compared_with_nothing() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    bench.capture.settle().unwrap();
    bench.write(2, 5000);
    bench.catch_up();
    // The flush writes the entries, and the process ends before the header that says so.
    bench.faults.fail(Op::Sync, "ledger", 1, u32::MAX, Io::Other);
    bench.capture.settle().unwrap_err();
    bench.faults.clear();
    let lost = bench.spool.lock().unwrap().newest().unwrap();
    let name = format!("{:016x}-{:016x}.ltx", lost.0, lost.0);
    std::fs::remove_file(bench.folder.path().join(".app.db-replicate/spool/0").join(name)).unwrap();
    let mut bench = bench.restart();
    bench.catch_up();
    bench.assert_spooled();
}

#[test]
fn the_spool_can_be_looked_into_while_a_file_is_brought_to_the_disk() {
    for op in [Op::Sync, Op::SyncDir] {
        let mut bench = Bench::new();
        bench.write(1, 5000);
        let (spool, faults) = (bench.spool.clone(), bench.faults.clone());
        faults.hold(op, "spool/0");
        let capturing = std::thread::spawn(move || {
            bench.catch_up();
            bench
        });
        faults.wait_for_hit();
        let free = spool.try_lock().is_ok();
        faults.clear();
        capturing.join().unwrap().assert_spooled();
        assert!(free, "the spool is locked during {op:?}");
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn on_a_nearly_full_disk_the_database_is_let_go_and_compared_when_there_is_room() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    bench.write(2, 5000);
    bench.faults.set_free(Some(3 * MIB));
    for _ in 0..3 {
        let error = bench.step().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disk);
        assert!(error.hint().is_some_and(|hint| hint.contains("free space")));
    }
    assert_eq!(bench.faults.free(), Some(3 * MIB), "nothing was written");
    // Nobody keeps the application from cutting its WAL.
    let busy: i64 = bench.app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
    bench.write(3, 5000);
    bench.faults.set_free(None);
    assert_eq!(bench.catch_up(), [RebaseReason::SpoolFull]);
    bench.assert_spooled();
}

#[test]
fn an_image_leaves_room_and_begins_again_only_when_there_is_more() {
    let mut bench = Bench::new();
    for id in 0..10 {
        bench.write(id, 4 << 20);
    }
    bench.faults.set_free(Some(80 * MIB));
    assert_eq!(bench.step().unwrap_err().kind(), ErrorKind::Disk);
    let left = bench.faults.free().unwrap();
    assert!((54 * MIB..64 * MIB).contains(&left), "{left} left");
    // What was half written is gone again, so the disk has what it had.
    bench.faults.set_free(Some(80 * MIB));
    assert_eq!(bench.step().unwrap_err().kind(), ErrorKind::Disk);
    assert_eq!(bench.faults.free(), Some(80 * MIB), "nothing was written");
    let spool = bench.folder.path().join(".app.db-replicate/spool/0");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0);
    bench.faults.set_free(Some(200 * MIB));
    bench.catch_up();
    bench.assert_spooled();
}

#[test]
fn a_full_disk_lets_the_database_go() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    bench.write(2, 5000);
    bench.faults.fail(Op::Write, "spool/0", 0, 1, Io::StorageFull);
    bench.step().unwrap_err();
    let busy: i64 = bench.app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
    assert_eq!(bench.catch_up(), [RebaseReason::SpoolFull]);
    bench.assert_spooled();
}

/// The door tells of other salts from now on, as if the WAL had been restarted.
fn restart_for_show(bench: &Bench, by: u32) {
    bench.script.twist(move |view| view.salts.salt1 = view.salts.salt1.wrapping_add(by));
}

#[test]
fn a_restart_under_our_lock_raises_an_alarm_and_ends_replication_when_it_repeats() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    bench.write(2, 5000);
    bench.catch_up();
    restart_for_show(&bench, 1);
    // An image under salts that the WAL does not have cannot be made either; what counts is that it is tried.
    let _ = bench.step();
    bench.script.clear();
    bench.catch_up();
    bench.assert_spooled();
    bench.write(3, 5000);
    bench.catch_up();
    restart_for_show(&bench, 2);
    let error = std::iter::repeat_with(|| bench.step()).take(3).find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn restarts_that_are_allowed_raise_no_alarm() {
    let mut bench = Bench::with_checkpoints_at(16);
    for round in 0..200 {
        bench.write(round % 7, 3000);
        if round % 3 == 0 {
            bench.app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        }
        let reasons = bench.catch_up();
        assert!(round == 0 || reasons.is_empty(), "{round}: {reasons:?}");
    }
    assert!(bench.script.calls("checkpoint") > 5);
    bench.assert_spooled();
}
