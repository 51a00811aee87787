//! How a restored database gets its name: what stands in the way, what is moved, what is swept.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::clock::Timestamp;
use crate::disk::{Disk, DiskEntry, DiskFile, DiskLock, RealDisk, with_suffix};
use crate::error::ErrorKind;
use crate::exec::Blocking;
use crate::restore::testing::*;
use crate::restore::{Cancel, Check, RestoreEnv, RestoreOptions, RestoreReport, ensure_exists, run, tidy};

fn restore(output: &Path, overwrite: bool) -> crate::Result<RestoreReport> {
    restore_on(Arc::new(RealDisk), output, overwrite)
}

fn restore_on(disk: Arc<dyn Disk>, output: &Path, overwrite: bool) -> crate::Result<RestoreReport> {
    let (store, _) = busy_model(512).store();
    let options = RestoreOptions::new(output).overwrite(overwrite).check(Check::None);
    let env = RestoreEnv { disk, ..env(Blocking::Pool) };
    block_on(run(&store, &options, &env, &|_| {}, &Cancel::new()))
}

/// The real disk; before the first rename from or to this path something else happens.
struct Meanwhile {
    path: PathBuf,
    what: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    fn on(path: &Path, what: impl FnOnce() + Send + 'static) -> Arc<dyn Disk> {
        Arc::new(Self { path: path.to_owned(), what: Mutex::new(Some(Box::new(what))) })
    }

    fn happen(&self, from: &Path, to: &Path) {
        if from == self.path || to == self.path {
            let what = self.what.lock().expect("not poisoned").take();
            what.into_iter().for_each(|what| what());
        }
    }
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Disk for Meanwhile {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_rw(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.happen(from, to);
        RealDisk.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.happen(from, to);
        RealDisk.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        RealDisk.list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        RealDisk.stat(path)
    }

    fn set_modified(&self, path: &Path, time: Timestamp) -> io::Result<()> {
        RealDisk.set_modified(path, time)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_space(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        RealDisk.try_lock(path)
    }
}

/// Copies the files of a folder with their times: what a process that is killed now leaves behind.
fn killed(folder: &Path, to: &Path) {
    for entry in RealDisk.list(folder).expect("listed") {
        let copy = to.join(&entry.name);
        std::fs::copy(folder.join(&entry.name), &copy).expect("copied");
        RealDisk.set_modified(&copy, entry.modified).expect("dated");
    }
}

/// A database with ten rows in its file and ten in its log.
fn database_with_log(folder: &Path) -> PathBuf {
    let (path, _) = sqlite_database(folder, 10);
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute_batch("INSERT INTO t SELECT id + 100, v FROM t").expect("sql");
    let log = with_suffix(&path, "-wal");
    let content = std::fs::read(&log).expect("readable");
    // The last connection to close would copy the log back.
    let before = std::fs::read(&path).expect("readable");
    drop(db);
    std::fs::write(&path, before).expect("written");
    std::fs::write(log, content).expect("written");
    path
}

fn rows(path: &Path) -> u32 {
    let db = rusqlite::Connection::open(path).expect("opens");
    db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("sql")
}

#[test]
fn a_restore_killed_before_it_replaces_loses_nothing_of_the_old_database() {
    let (folder, dead) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = database_with_log(folder.path());
    let (from, to) = (folder.path().to_owned(), dead.path().to_owned());
    // The second rename to the target is the one that replaces it; the first moves the log.
    restore_on(Meanwhile::on(&path, move || killed(&from, &to)), &path, true).expect("replaced");
    let old = dead.path().join("made.db");
    assert!(!with_suffix(&old, "-wal").exists(), "killed after the log was moved: {:?}", names(dead.path()));
    let (store, _) = busy_model(512).store();
    let found = block_on(ensure_exists(&store, &old, &env(Blocking::Pool), &Cancel::new())).expect("there");
    assert!(found.is_none());
    assert_eq!(names(dead.path()), ["made.db", "made.db-wal"]);
    assert_eq!(rows(&old), 20);
}

#[test]
fn a_log_is_not_given_back_to_a_database_that_was_written_since() {
    let (folder, dead) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = database_with_log(folder.path());
    let (from, to) = (folder.path().to_owned(), dead.path().to_owned());
    restore_on(Meanwhile::on(&path, move || killed(&from, &to)), &path, true).expect("replaced");
    let old = dead.path().join("made.db");
    rusqlite::Connection::open(&old).expect("opens").execute_batch("INSERT INTO t VALUES (50, 'x')").expect("sql");
    tidy(&RealDisk, &old);
    let names = names(dead.path());
    assert!(names.len() == 2 && names[1].starts_with("made.db-wal.replaced-"), "{names:?}");
    assert_eq!(rows(&old), 11);
}

#[test]
fn a_restore_killed_after_it_replaced_leaves_no_log_of_the_old_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.db");
    restore(&path, false).expect("restored");
    let modified = RealDisk.stat(&path).expect("stat").expect("there").modified.0;
    let aside = folder.path().join(format!("out.db-wal.replaced-1-7-9-{}", modified - 5));
    for name in [aside, folder.path().join(".out.db.restore-1-7-9.lock")] {
        std::fs::write(name, b"").expect("written");
    }
    tidy(&RealDisk, &path);
    assert_eq!(names(folder.path()), ["out.db"]);
}

#[test]
fn a_database_begun_while_old_logs_are_moved_keeps_what_belongs_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    for suffix in ["-wal", "-shm"] {
        std::fs::write(with_suffix(&output, suffix), b"old").expect("written");
    }
    let begun = Arc::new(Mutex::new(None));
    let (app, at) = (begun.clone(), output.clone());
    let begin = move || {
        let db = rusqlite::Connection::open(at).expect("opens");
        db.busy_timeout(std::time::Duration::ZERO).expect("set");
        let made = db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(v); INSERT INTO t VALUES (1);");
        *app.lock().expect("not poisoned") = made.is_ok().then_some(db);
    };
    let restored = restore_on(Meanwhile::on(&with_suffix(&output, "-wal"), begin), &output, false);
    if let Some(_db) = begun.lock().expect("not poisoned").as_ref() {
        assert_eq!(restored.expect_err("somebody was faster").kind(), ErrorKind::Exists);
        assert!(with_suffix(&output, "-wal").exists() && with_suffix(&output, "-shm").exists());
    } else {
        restored.expect("restored");
        assert!(std::fs::read(&output).expect("readable") == busy_model(512).bytes(10));
    }
}

#[test]
fn a_database_that_appears_meanwhile_is_not_replaced() {
    for log in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("out.db");
        if log {
            std::fs::write(with_suffix(&output, "-wal"), b"its log").expect("written");
        }
        let at = output.clone();
        let appear = move || std::fs::write(at, b"a new database").expect("written");
        let error = restore_on(Meanwhile::on(&output, appear), &output, false).expect_err("taken");
        assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
        assert_eq!(names(folder.path()), if log { &["out.db", "out.db-wal"][..] } else { &["out.db"] });
        assert_eq!(std::fs::read(&output).expect("readable"), b"a new database");
    }
}

#[test]
fn a_finished_scratch_file_is_not_swept_by_another_restore_before_it_has_its_name() {
    for replaced in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("out.db");
        if replaced {
            std::fs::write(&output, b"old").expect("written");
        }
        let at = output.clone();
        restore_on(Meanwhile::on(&output, move || tidy(&RealDisk, &at)), &output, replaced).expect("restored");
        assert_eq!(names(folder.path()), ["out.db"]);
    }
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
fn a_link_stands_for_the_file_it_leads_to_whether_there_is_one_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (real, link, far) =
        (folder.path().join("real.db"), folder.path().join("link.db"), folder.path().join("far.db"));
    symlink("real.db", &link).expect("linked");
    symlink(&link, &far).expect("linked");
    restore(&far, false).expect("there is none yet");
    assert_eq!(restore(&link, false).expect_err("exists").kind(), ErrorKind::Exists);
    std::fs::write(&real, b"other").expect("written");
    restore(&link, true).expect("replaced");
    assert!(std::fs::read(&real).expect("readable") == busy_model(512).bytes(10));
    assert!(link.is_symlink() && far.is_symlink() && !real.is_symlink());
    assert_eq!(names(folder.path()), ["far.db", "link.db", "real.db"]);

    let circle = folder.path().join("circle.db");
    symlink("circle.db", &circle).expect("linked");
    assert_eq!(restore(&circle, true).expect_err("no end").kind(), ErrorKind::Disk);
}

#[test]
fn a_new_database_has_the_mode_that_sqlite_gives_and_another_keeps_that_of_the_one_it_replaces() {
    let folder = tempfile::tempdir().expect("a folder");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    let (by_sqlite, _) = sqlite_database(folder.path(), 1);
    let output = folder.path().join("out.db");
    restore(&output, false).expect("restored");
    assert_eq!(mode(&output), mode(&by_sqlite), "{:o}", mode(&output));
    for wanted in [0o600, 0o664] {
        std::fs::set_permissions(&output, std::fs::Permissions::from_mode(wanted)).expect("set");
        restore(&output, true).expect("replaced");
        assert_eq!(mode(&output), wanted, "{:o}", mode(&output));
    }
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
    let lock = folder.path().join(".out.db.restore-1-8.lock");
    let lock = RealDisk.try_lock(&lock).expect("locks").expect("free");
    restore(&output, false).expect("restored");
    assert_eq!(
        names(folder.path()),
        [".other.db.restore-1-7.tmp", ".out.db.restore-1-8.lock", ".out.db.restore-1-8.tmp", "out.db"]
    );
    drop(lock);
    restore(&output, true).expect("restored");
    assert_eq!(names(folder.path()), [".other.db.restore-1-7.tmp", "out.db"]);
}

#[test]
fn whoever_has_a_lock_has_the_file_of_that_name_though_others_remove_it_as_they_leave() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lock");
    let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
    let come_and_go = || {
        while taken.load(Ordering::Relaxed) < 4000 {
            let Some(lock) = RealDisk.try_lock(&path).expect("locks") else { continue };
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have it");
            assert!(lock.is_at(&path).expect("looks"), "it has lost its name");
            taken.fetch_add(1, Ordering::Relaxed);
            inside.fetch_sub(1, Ordering::SeqCst);
            RealDisk.remove(&path).expect("removed");
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(come_and_go))));
}
