//! What capture promises while its disk and its door fail.

use std::io::ErrorKind as Io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicate_format::Txid;

use super::StartOver;
use super::testing::Bench;
use crate::clock::{Pulse, SystemClock};
use crate::disk::faulty::Op;
use crate::error::ErrorKind;
use crate::event::{Event, RebaseReason};

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
fn a_capture_gives_up_when_its_time_is_over_and_the_next_one_makes_it_anew() {
    let pulse = || Arc::new(Pulse::new(Arc::new(SystemClock::new())));
    let mut bench = Bench::new();
    for id in 1..=2 {
        bench.write(id, 5000);
        bench.capture.config.pulse.end_by(Duration::ZERO);
        assert_eq!(bench.step().unwrap_err().kind(), ErrorKind::Timeout);
        bench.capture.config.pulse = pulse();
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

/// Found by the simulation: two disk errors left a file that nobody knew of, and after a restart it was the next one.
#[test]
fn a_file_that_was_neither_made_durable_nor_removed_is_no_neighbour_of_a_later_one() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    bench.write(2, 5000);
    bench.faults.fail(Op::SyncDir, "spool/0", 0, 1, Io::Other);
    bench.faults.fail(Op::Remove, "spool/0/0000000000000002", 0, 1, Io::Other);
    bench.step().unwrap_err();
    bench.faults.clear();
    let stray = bench.folder.path().join(".app.db-replicate/spool/0/0000000000000002-0000000000000002.ltx");
    assert!(stray.exists(), "the test makes what it is about");
    let over = StartOver { after: Txid::ZERO, reason: RebaseReason::SpoolDamaged, snapshot: false, basis: None };
    bench.capture.start_over(over).unwrap();
    bench.write(2, 7000);
    bench.catch_up();
    assert!(!stray.exists());
    bench.restart().assert_spooled();
}

#[test]
fn a_start_over_that_ends_at_any_point_gives_no_id_twice() {
    let mut ended_halfway = 0;
    for op in [Op::Write, Op::Sync, Op::Remove, Op::SyncDir] {
        for n in 0..6 {
            let mut bench = Bench::new();
            for id in 0..3 {
                bench.write(id, 100);
                bench.catch_up();
            }
            // The last of them may be on its way to the store.
            let given = bench.capture.chain().newest;
            bench.faults.fail(op, "", n, u32::MAX, Io::Other);
            let reason = RebaseReason::RemoteBehind;
            let over = StartOver { after: given, reason, snapshot: true, basis: None };
            ended_halfway += u32::from(bench.capture.start_over(over).is_err());
            bench.faults.clear();
            let chain = bench.restart().capture.chain();
            assert!(chain.newest.max(chain.given) >= given, "{op:?} {n}: {chain:?}");
        }
    }
    assert!(ended_halfway > 3, "{ended_halfway}");
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

/// What the application does besides: writes, and tries to start the WAL over.
fn disturb(app: &rusqlite::Connection, id: u32) {
    app.execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(3000))", [id % 11]).unwrap();
    app.busy_timeout(Duration::ZERO).unwrap();
    app.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    app.busy_timeout(Duration::from_secs(5)).unwrap();
}

#[test]
fn whatever_call_of_the_door_fails_nothing_is_lost() {
    let calls = [
        "attach",
        "identity",
        "look",
        "read_wal",
        "read_database",
        "pin",
        "unpin_older",
        "unpin_newer",
        "checkpoint",
        "seal",
        "unseal",
        "brake",
    ];
    for call in calls {
        for skip in [0, 1, 3, 8] {
            let mut bench = Bench::with_checkpoints_at(3);
            bench.app.execute_batch("PRAGMA synchronous=OFF").unwrap();
            bench.write(1, 9000);
            if skip % 2 == 0 {
                bench.catch_up();
            }
            let app = rusqlite::Connection::open(&bench.database).unwrap();
            app.busy_timeout(Duration::ZERO).unwrap();
            // While a turn is under way somebody writes.
            bench.script.before("seal", {
                let mut id = 100;
                move || {
                    id += 1;
                    app.execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(3000))", [id]).unwrap();
                }
            });
            bench.script.refuse(call, skip, 1);
            for id in 0..5 {
                bench.write(id, 40_000);
                // A failure is answered by another try, as the schedule does.
                let _ = bench.step();
                disturb(&bench.app, id);
            }
            bench.script.clear();
            bench.catch_up();
            bench.assert_spooled();
            bench.write(50, 3000);
            bench.catch_up();
            bench.assert_spooled();
        }
    }
}

#[test]
fn a_writer_that_never_pauses_is_held_for_the_last_frames_and_the_wal_starts_over() {
    let mut bench = Bench::with_checkpoints_at(16);
    bench.catch_up();
    let app = bench.another();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = std::thread::spawn({
        let done = done.clone();
        move || {
            let mut id = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                id = (id + 1) % 500;
                app.execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(1500))", [id]).unwrap();
            }
        }
    });
    let begun = std::time::Instant::now();
    let mut generations = std::collections::BTreeSet::new();
    while generations.len() < 4 || bench.script.calls("sealed") < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "sealed {}", bench.script.calls("sealed"));
        let step = bench.step().unwrap();
        assert!(step.written.iter().all(|e| !matches!(e, Event::Captured { rebase: Some(_), .. })), "{step:?}");
        let mark = bench.capture.position.mark.unwrap();
        generations.insert((mark.salts.salt1, mark.salts.salt2));
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.join().unwrap();
    bench.catch_up();
    bench.assert_spooled();
}

#[test]
fn while_a_reader_of_the_application_needs_the_wal_no_writer_is_held() {
    let mut bench = Bench::with_checkpoints_at(16);
    bench.write(1, 5000);
    bench.catch_up();
    let reader = rusqlite::Connection::open(&bench.database).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let generation = |bench: &Bench| bench.capture.position.mark.unwrap().salts;
    let before = generation(&bench);
    for id in 0..30 {
        bench.write(id, MIB as u32);
        bench.catch_up();
    }
    assert_eq!((bench.script.calls("sealed"), bench.script.calls("braked")), (0, 0));
    assert!(bench.script.calls("checkpoint") > 1);
    reader.execute_batch("COMMIT").unwrap();
    for id in 0..4 {
        bench.write(id, 1000);
        bench.write(id, 100_000);
        bench.catch_up();
    }
    assert_ne!(generation(&bench), before, "the WAL starts over when it may");
    bench.assert_spooled();
}

/// As soon as all is captured another connection writes a row: more than may be read while writers are held.
fn outrun(bench: &Bench, mut ids: std::ops::RangeInclusive<u32>, bytes: u32) {
    let app = bench.another();
    bench.script.before("unpin_older", move || {
        if let Some(id) = ids.next() {
            app.execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2))", [id, bytes]).unwrap();
        }
    });
}

#[test]
fn a_writer_that_outruns_the_engine_is_slowed_down_and_let_go_again() {
    let mut bench = Bench::with_checkpoints_at(16);
    bench.catch_up();
    outrun(&bench, 1..=12, 4_000_000);
    for id in 20..23 {
        bench.write(id, 4_000_000);
        bench.catch_up();
    }
    assert!(bench.script.calls("braked") > 0);
    bench.script.clear();
    bench.app.busy_timeout(Duration::ZERO).unwrap();
    bench.write(30, 5000);
    bench.catch_up();
    bench.assert_spooled();
}

#[test]
fn a_writer_that_outruns_the_capture_is_held_before_its_wal_is_long_unless_the_application_copies_back() {
    // Whether the application has copied back before, whether it is at it, how often it is held.
    for (has_copied, copies, sealed) in [(false, false, 1), (true, false, 0), (false, true, 0)] {
        let mut bench = Bench::with_checkpoints_at(16);
        bench.catch_up();
        bench.write(1, 5000);
        bench.catch_up();
        outrun(&bench, 3..=3, 3_000_000);
        bench.write(2, 500_000);
        if has_copied {
            bench.app.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        }
        bench.script.copied_back.store(copies, Ordering::Relaxed);
        for _ in 0..2 {
            bench.catch_up();
        }
        assert_eq!(bench.script.calls("seal"), sealed, "{:?}", (has_copied, copies));
        bench.assert_spooled();
    }
}

#[test]
fn a_reader_that_ends_while_writers_are_held_is_waited_for_and_the_wal_starts_over() {
    let mut bench = Bench::with_checkpoints_at(16);
    bench.write(1, 5000);
    bench.catch_up();
    let writer = || {
        let app = bench.another();
        app.busy_timeout(Duration::ZERO).unwrap();
        move || app.execute("INSERT INTO t (v) VALUES (randomblob(9))", []).is_ok()
    };
    let (reader, before, after) = (Arc::new(Mutex::new(bench.another())), writer(), writer());
    // Something is left to copy back whenever all is captured.
    bench.script.before("unpin_older", move || _ = before());
    bench.script.before("seal", {
        let reader = reader.clone();
        move || {
            reader.lock().unwrap().execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
            assert!(after(), "the reader stands before the last frames");
        }
    });
    let (script, mut tries) = (bench.script.clone(), 0);
    bench.script.before("checkpoint", move || {
        tries += script.calls("sealed");
        if tries == 2 {
            reader.lock().unwrap().execute_batch("ROLLBACK").unwrap();
        }
    });
    bench.write(2, 9 << 20);
    bench.catch_up();
    bench.script.clear();
    assert_eq!(bench.script.calls("sealed"), 1);
    bench.write(4, 5000);
    bench.catch_up();
    let frame = bench.capture.position.mark.map(|mark| mark.frame);
    assert!(frame.is_some_and(|frame| frame < 100), "it has not started over: {frame:?}");
    bench.assert_spooled();
}

#[test]
fn nobody_is_slowed_down_for_a_wal_that_one_large_transaction_has_made() {
    let mut bench = Bench::with_checkpoints_at(16);
    bench.catch_up();
    bench.write(1, 70 << 20);
    bench.catch_up();
    assert_eq!(bench.script.calls("braked"), 0);
    assert!(bench.script.calls("sealed") > 0, "it was copied back");
    bench.write(2, 5000);
    bench.catch_up();
    assert_eq!(bench.capture.position.mark.map(|mark| mark.frame), Some(3), "and starts over");
    bench.assert_spooled();
}

#[test]
fn a_writer_that_runs_away_is_slowed_down_also_after_a_large_transaction() {
    let mut bench = Bench::with_checkpoints_at(16);
    bench.catch_up();
    bench.write(1, 70 << 20);
    outrun(&bench, 2..=12, 6_000_000);
    bench.catch_up();
    assert!(bench.script.calls("braked") > 0);
    bench.script.clear();
    bench.catch_up();
    bench.assert_spooled();
}

#[test]
fn a_frame_that_reads_differently_the_second_time_is_not_stored() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    // Longer than what is kept from the first read.
    bench.write(2, 12 << 20);
    // Frames are proven in long runs; read again, page by page.
    bench.script.spoil(|_, bytes| {
        if bytes.len() == 4096 {
            bytes[77] ^= 1;
        }
    });
    assert_eq!(bench.step().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(bench.spool.lock().unwrap().newest(), Some(Txid(1)));
    bench.script.clear();
    assert_eq!(bench.catch_up(), []);
    bench.assert_spooled();
}

#[test]
fn a_last_frame_that_is_not_the_one_noted_is_never_followed() {
    let mut bench = Bench::new();
    bench.write(1, 5000);
    bench.catch_up();
    bench.write(2, 5000);
    let mut bench = bench.restart();
    bench.script.spoil(|_, bytes| {
        // The head of one frame alone is read to prove the place.
        if bytes.len() == 24 {
            bytes[20] ^= 1;
        }
    });
    bench.write(3, 5000);
    assert_eq!(bench.catch_up(), [RebaseReason::WalMismatch]);
    bench.script.clear();
    bench.assert_spooled();
    let mut bench = bench.restart();
    bench.write(4, 5000);
    assert_eq!(bench.catch_up(), [], "the place noted proves itself");
    bench.assert_spooled();
}

#[test]
fn a_database_that_grows_over_one_gibibyte_leaves_out_the_lock_page() {
    const PAGE: u64 = 65536;
    let before = (1 << 30) / PAGE - 3;
    let mut bench = Bench::on(1000, |path| {
        let app = rusqlite::Connection::open(path).unwrap();
        app.execute_batch("PRAGMA page_size=65536; CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)").unwrap();
        drop(app);
        // A hole of a gibibyte that belongs to no table: SQLite goes on behind it.
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(before * PAGE).unwrap();
        file.write_all_at(&u32::try_from(before).unwrap().to_be_bytes(), 28).unwrap();
    });
    bench.write(1, 5000);
    bench.catch_up();
    for id in 2..12 {
        bench.write(id, 60_000);
    }
    bench.catch_up();
    let pages: u32 = bench.app.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    assert!(u64::from(pages) * PAGE > 1 << 30, "{pages}");
    bench.assert_same_rows(&bench.restored());
    // And by comparing: what nobody watched.
    let Bench { app, .. } = &bench;
    app.execute_batch("UPDATE t SET v = randomblob(50000) WHERE id > 8").unwrap();
    bench.capture.pause();
    bench.app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    bench.write(12, 60_000);
    assert_eq!(bench.catch_up(), [RebaseReason::SpoolFull]);
    let newest = bench.spool.lock().unwrap().pending(Txid::ZERO).last().cloned().unwrap();
    assert!(newest.size < 2 << 20, "only what differs: {newest:?}");
    bench.assert_same_rows(&bench.restored());
}
