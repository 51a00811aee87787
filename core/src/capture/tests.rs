//! What capture promises while its disk and its door fail.

use std::io::ErrorKind as Io;

use replicate_format::Txid;

use super::testing::Bench;
use crate::disk::faulty::Op;

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
