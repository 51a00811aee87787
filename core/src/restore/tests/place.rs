//! How a restored database gets its name: what stands in the way, what is moved, what is swept.

use std::path::Path;

use crate::disk::{Disk, RealDisk};
use crate::error::ErrorKind;
use crate::exec::Blocking;
use crate::restore::testing::*;
use crate::restore::{Cancel, Check, RestoreOptions, RestoreReport, run};

fn restore(output: &Path, overwrite: bool) -> crate::Result<RestoreReport> {
    let (store, _) = busy_model(512).store();
    let options = RestoreOptions::new(output).overwrite(overwrite).check(Check::None);
    block_on(run(&store, &options, &env(Blocking::Pool), &|_| {}, &Cancel::new()))
}

#[test]
fn an_existing_output_is_refused_even_if_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    for content in [&b""[..], b"something"] {
        std::fs::write(&output, content).expect("written");
        let error = restore(&output, false).expect_err("exists");
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&output).expect("readable"), content);
    }
    assert_eq!(restore(folder.path(), true).expect_err("a folder").kind(), ErrorKind::Exists);
    assert_eq!(restore(Path::new("/"), true).expect_err("no name").kind(), ErrorKind::Config);
}

#[test]
fn a_number_of_requests_out_of_range_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, _) = busy_model(512).store();
    for parallelism in [0, 65, usize::MAX] {
        let options = RestoreOptions::new(folder.path().join("out.db")).parallelism(parallelism);
        let restored = block_on(run(&store, &options, &env(Blocking::Pool), &|_| {}, &Cancel::new()));
        assert_eq!(restored.expect_err("out of range").kind(), ErrorKind::Config);
    }
}

#[test]
fn overwriting_takes_log_and_journal_of_the_old_database_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    for name in ["out.db", "out.db-wal", "out.db-shm", "out.db-journal"] {
        std::fs::write(folder.path().join(name), b"old").expect("written");
    }
    restore(&output, true).expect("replaced");
    assert_eq!(names(folder.path()), ["out.db"]);
    assert!(std::fs::read(&output).expect("readable") == busy_model(512).bytes(10));
}

#[test]
fn a_database_in_use_is_not_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, before) = sqlite_database(folder.path(), 10);
    let db = rusqlite::Connection::open(&path).expect("opens");
    let _: u32 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("sql");
    let error = restore(&path, true).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(std::fs::read(&path).expect("readable") == before);
    db.execute("INSERT INTO t VALUES(1000, 'still mine')", []).expect("not disturbed");
    drop(db);
    restore(&path, true).expect("free now");
    assert_eq!(names(folder.path()), ["made.db"]);
}

#[test]
fn a_log_without_its_database_is_moved_aside_and_never_applied() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    for (name, content) in [("out.db-wal", "w"), ("out.db-journal", "j"), ("out.db-shm", "s")] {
        std::fs::write(folder.path().join(name), content).expect("written");
    }
    restore(&output, false).expect("restored");
    let names = names(folder.path());
    let [db, journal, wal] = names.as_slice() else { panic!("{names:?}") };
    assert_eq!(db, "out.db");
    assert!(journal.starts_with("out.db-journal.orphan-") && wal.starts_with("out.db-wal.orphan-"), "{names:?}");
    assert_eq!(std::fs::read(folder.path().join(wal)).expect("readable"), b"w");
}

#[test]
fn what_dead_restores_left_is_swept_and_what_a_live_one_writes_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    let dead = folder.path().join(".out.db.restore-1-7.tmp");
    let live = folder.path().join(".out.db.restore-1-8.tmp");
    let other = folder.path().join(".other.db.restore-1-7.tmp");
    for path in [&dead, &live, &other] {
        std::fs::write(path, b"half").expect("written");
    }
    let lock = RealDisk.try_lock(&live).expect("locks").expect("free");
    restore(&output, false).expect("restored");
    assert_eq!(names(folder.path()), [".other.db.restore-1-7.tmp", ".out.db.restore-1-8.tmp", "out.db"]);
    drop(lock);
    restore(&output, true).expect("restored");
    assert_eq!(names(folder.path()), [".other.db.restore-1-7.tmp", "out.db"]);
}
