//! Many that want the same missing database, and one that is killed while it restores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blob::{BlobError, FileStore};
use crate::disk::faulty::{FaultyDisk, Op};
use crate::disk::{RealDisk, with_suffix};
use crate::error::{Error, ErrorKind};
use crate::exec::Blocking;
use crate::restore::testing::*;
use crate::restore::{self, Cancel, Check, RestoreEnv, RestoreOptions, RestoreReport, run};
use crate::seal::Keys;
use crate::store::LtxStore;

/// Tells a test process started by a test what to do.
const TASK: &str = "RESTORE_TEST_TASK";
const FOLDER: &str = "RESTORE_TEST_FOLDER";

fn file_store(folder: &Path) -> LtxStore {
    let clock = env(Blocking::Pool).clock;
    let blob = FileStore::new(folder.join("replica"), Arc::new(RealDisk), clock, Blocking::Pool);
    LtxStore::new(Arc::new(blob), Arc::new(Keys::none()))
}

async fn ensure_exists(store: &LtxStore, path: &Path, env: &RestoreEnv) -> crate::Result<Option<RestoreReport>> {
    restore::ensure_exists(store, path, env, &Cancel::new()).await
}

/// A folder with the replica of a real database, and the path where it should be.
fn missing_database() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (made, bytes) = sqlite_database(folder.path(), 200);
    std::fs::remove_file(made).expect("removed");
    block_on(put_database(&file_store(folder.path()), &bytes));
    let path = folder.path().join("app.db");
    (folder, path, bytes)
}

#[test]
fn of_eight_threads_one_restores_and_all_find_the_database() {
    let (folder, path, bytes) = missing_database();
    let restored: usize = std::thread::scope(|scope| {
        let ask = || {
            let store = file_store(folder.path());
            let report = block_on(ensure_exists(&store, &path, &env(Blocking::Pool))).expect("fine");
            assert!(std::fs::read(&path).expect("it is there") == bytes);
            usize::from(report.is_some())
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).sum()
    });
    assert_eq!(restored, 1);
    assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "replica"]);
}

#[test]
fn of_six_processes_one_restores_and_all_find_the_database() {
    let (folder, path, bytes) = missing_database();
    let children: Vec<_> = (0..6).map(|_| start("ensure", folder.path())).collect();
    let codes: Vec<_> = children.into_iter().map(|mut c| c.wait().expect("ended").code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(10)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(11)).count(), 5, "{codes:?}");
    assert!(std::fs::read(&path).expect("it is there") == bytes);
    assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "replica"]);
}

#[test]
fn a_restore_that_was_killed_leaves_no_database_and_the_next_one_sweeps() {
    let (folder, path, bytes) = missing_database();
    let mut child = start("hang", folder.path());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !names(folder.path()).iter().any(|name| name.ends_with(".tmp")) {
        assert!(Instant::now() < deadline, "the other process does not begin");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(names(folder.path()).len(), 4, "state and replica, its scratch file and its lock stay");
    assert!(!path.exists());
    let store = file_store(folder.path());
    block_on(ensure_exists(&store, &path, &env(Blocking::Pool))).expect("fine").expect("restored");
    assert!(std::fs::read(&path).expect("it is there") == bytes);
    assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "replica"]);
}

fn start(task: &str, folder: &Path) -> std::process::Child {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", "restore::tests::turns::child"]).env(TASK, task).env(FOLDER, folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
}

/// Not a test by itself: what the processes started by the tests above run.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a test tells its child what to do")]
fn child() {
    let (Ok(task), Ok(folder)) = (std::env::var(TASK), std::env::var(FOLDER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let path = folder.join("app.db");
    let code = match task.as_str() {
        "ensure" => match block_on(ensure_exists(&file_store(&folder), &path, &env(Blocking::Pool))) {
            Ok(Some(_)) => 10,
            Ok(None) => 11,
            Err(_) => 12,
        },
        _ => {
            let (store, _) = busy_model(512)
                .faulty(|_, _, _, _| Some(Err(BlobError::Other(Error::new(ErrorKind::Unavailable, "no answer")))));
            let slow = Arc::new(crate::clock::SystemClock::new());
            let env = RestoreEnv { clock: slow, ..env(Blocking::Pool) };
            let _ = block_on(ensure_exists(&store, &path, &env));
            13
        }
    };
    std::process::exit(code);
}

#[test]
fn an_existing_database_is_left_alone_and_an_empty_file_is_filled() {
    let (folder, path, bytes) = missing_database();
    let store = file_store(folder.path());
    std::fs::write(&path, b"").expect("written");
    block_on(ensure_exists(&store, &path, &env(Blocking::Pool))).expect("fine").expect("restored");
    assert!(std::fs::read(&path).expect("it is there") == bytes);
    std::fs::write(&path, b"mine").expect("written");
    assert!(block_on(ensure_exists(&store, &path, &env(Blocking::Pool))).expect("fine").is_none());
    assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
}

#[test]
fn who_has_opened_the_empty_file_before_finds_the_restored_database_in_it() {
    let (folder, path, bytes) = missing_database();
    let host = rusqlite::Connection::open(&path).expect("opens");
    assert_eq!(std::fs::metadata(&path).expect("SQLite has made it").len(), 0);
    block_on(ensure_exists(&file_store(folder.path()), &path, &env(Blocking::Pool))).expect("fine").expect("restored");
    assert!(std::fs::read(&path).expect("it is there") == bytes);
    host.execute("INSERT INTO t VALUES (1000, 'the first of the host')", []).expect("it is a database now");
    drop(host);
    let again = rusqlite::Connection::open(&path).expect("opens");
    let rows: u32 = again.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("sql");
    assert_eq!(rows, 201);
    drop(again);
    assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "replica"]);
}

#[test]
fn a_database_begun_in_the_empty_file_meanwhile_is_left_as_it_is() {
    for there in [true, false] {
        let (folder, path, _) = missing_database();
        if there {
            std::fs::write(&path, b"").expect("written");
        }
        let store = file_store(folder.path());
        let (disk, faults) = FaultyDisk::real();
        faults.hold(Op::Create, ".app.db.restore-");
        std::thread::scope(|scope| {
            let held = RestoreEnv { disk, ..env(Blocking::Pool) };
            let (store, path) = (&store, &path);
            let restore =
                scope.spawn(move || block_on(ensure_exists(store, path, &held)).map(|report| report.is_some()));
            faults.wait_for_hit();
            let db = rusqlite::Connection::open(path).expect("opens");
            db.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)").expect("sql");
            faults.clear();
            assert!(!restore.join().expect("no panic").expect("nothing is missing"));
        });
        let db = rusqlite::Connection::open(&path).expect("opens");
        assert_eq!(db.query_row("SELECT count(*) FROM mine", [], |row| row.get(0)), Ok(1));
        drop(db);
        assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "replica"]);
    }
}

#[test]
fn a_file_that_a_killed_restore_has_half_filled_is_empty_for_sqlite_and_is_filled_again() {
    let (folder, path, bytes) = missing_database();
    let dead = folder.path().join("dead");
    std::fs::create_dir(&dead).expect("made");
    std::fs::write(&path, b"").expect("written");
    let (half, store) = (dead.join("app.db"), file_store(folder.path()));
    let (disk, faults) = FaultyDisk::real();
    // What the process leaves behind if it is killed before the last step.
    faults.hold(Op::Remove, "app.db-journal");
    std::thread::scope(|scope| {
        let held = RestoreEnv { disk, ..env(Blocking::Pool) };
        let (store, path) = (&store, &path);
        let restore = scope.spawn(move || block_on(ensure_exists(store, path, &held)).map(|report| report.is_some()));
        faults.wait_for_hit();
        for end in ["", "-journal"] {
            std::fs::copy(with_suffix(path, end), with_suffix(&half, end)).expect("it is there");
        }
        faults.clear();
        assert!(restore.join().expect("no panic").expect("fine"));
    });

    std::fs::OpenOptions::new().write(true).open(&half).expect("there").set_len(3 * 512).expect("cut");
    let copy = folder.path().join("copy.db");
    for end in ["", "-journal"] {
        std::fs::copy(with_suffix(&half, end), with_suffix(&copy, end)).expect("copied");
    }
    let db = rusqlite::Connection::open(&copy).expect("opens");
    assert_eq!(db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)), Ok(0));
    drop(db);
    assert_eq!(std::fs::metadata(&copy).expect("there").len(), 0);
    assert!(!with_suffix(&copy, "-journal").exists());

    block_on(ensure_exists(&store, &half, &env(Blocking::Pool))).expect("fine").expect("restored");
    assert!(std::fs::read(&half).expect("it is there") == bytes);
    assert_eq!(names(&dead), [".app.db-replicate", "app.db"]);
}

#[test]
fn a_disk_that_fills_up_while_an_empty_file_is_filled_leaves_it_empty() {
    let (folder, path, _) = missing_database();
    std::fs::write(&path, b"").expect("written");
    let (disk, faults) = FaultyDisk::real();
    // The first write is that of the journal.
    faults.fail(Op::Write, "/app.db", 1, 1, std::io::ErrorKind::StorageFull);
    let failing = RestoreEnv { disk, ..env(Blocking::Pool) };
    let store = file_store(folder.path());
    block_on(ensure_exists(&store, &path, &failing)).expect_err("no room");
    assert!(faults.hits() > 0);
    assert_eq!(std::fs::metadata(&path).expect("it is there").len(), 0);
    assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "replica"]);
}

#[test]
fn a_link_that_leads_nowhere_is_a_missing_database() {
    let (folder, path, bytes) = missing_database();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    let store = file_store(folder.path());
    block_on(ensure_exists(&store, &link, &env(Blocking::Pool))).expect("fine").expect("restored");
    assert!(std::fs::read(&path).expect("where SQLite would make it") == bytes);
    assert!(block_on(ensure_exists(&store, &link, &env(Blocking::Pool))).expect("fine").is_none());
    assert_eq!(names(folder.path()), [".app.db-replicate", "app.db", "link.db", "replica"]);
}

#[test]
fn no_backup_is_none_but_a_store_that_fails_and_a_broken_replica_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.db");
    let ask = |store: &LtxStore| block_on(ensure_exists(store, &path, &env(Blocking::Pool)));
    assert!(ask(&file_store(folder.path())).expect("an empty store").is_none());
    let (store, _) = Model::new(512).store();
    assert!(ask(&store).expect("an empty store").is_none());

    let mut broken = busy_model(512);
    broken.lose(0, 9, 9);
    assert_eq!(ask(&broken.store().0).expect_err("a gap").kind(), ErrorKind::Corrupt);
    let (store, _) = busy_model(512)
        .faulty(|_, _, _, _| Some(Err(BlobError::Other(Error::new(ErrorKind::Unavailable, "no answer")))));
    let error = ask(&store).expect_err("unreachable");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!path.exists());
}

#[test]
fn cancelling_ends_the_wait_for_ones_turn_and_the_restore_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.db");
    let cancel = Cancel::new();
    let bell = cancel.clone();
    // Every request fails and is tried again a second later, until somebody cancels.
    let (store, _) = busy_model(512).faulty(move |_, _, _, _| {
        bell.cancel();
        Some(Err(BlobError::Other(Error::new(ErrorKind::Unavailable, "no answer"))))
    });
    let slow = RestoreEnv { clock: Arc::new(crate::clock::SystemClock::new()), ..env(Blocking::Pool) };
    let error = block_on(restore::ensure_exists(&store, &path, &slow, &cancel)).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(names(folder.path()), [".app.db-replicate"]);

    let lock = env(Blocking::Pool).disk.try_lock(&folder.path().join(".app.db-replicate/restore.lock"));
    let _others_turn = lock.expect("fine").expect("free");
    let cancel = Cancel::new();
    let (answers, answer) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (path, cancel) = (&path, &cancel);
        scope.spawn(move || {
            let (store, _) = busy_model(512).store();
            let waited = block_on(restore::ensure_exists(&store, path, &env(Blocking::Pool), cancel));
            answers.send(waited.map(|_| ()).map_err(|e| e.kind())).expect("somebody waits");
        });
        assert!(answer.recv_timeout(Duration::from_millis(200)).is_err(), "it waits for its turn");
        cancel.cancel();
        assert_eq!(answer.recv_timeout(Duration::from_secs(20)), Ok(Err(ErrorKind::Cancelled)));
    });
    assert_eq!(names(folder.path()), [".app.db-replicate"]);
}

#[test]
fn two_restores_of_one_output_at_the_same_time_give_one_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    let results: Vec<_> = std::thread::scope(|scope| {
        let go = || {
            let (store, _) = busy_model(512).store();
            let options = RestoreOptions::new(&output).check(Check::None);
            block_on(run(&store, &options, &env(Blocking::Pool), &|_| {}, &Cancel::new()))
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(go)).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| e.kind() == ErrorKind::Exists), "{results:?}");
    assert_eq!(names(folder.path()), ["out.db"]);
}
