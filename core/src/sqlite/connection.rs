//! Connections to the user's database: how they are set up and the few statements the engine needs.
//!
//! Refuses to change the user's content: no tables of ours, a write transaction is only ever taken as a lock and
//! rolled back. Nothing here checkpoints unless told so. Called by capture and, for checks, by restore.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use super::failure::from_code;
use crate::{Error, ErrorKind, Result};

/// Opens an existing database for replication. `busy` is how long a statement waits for somebody else's lock.
///
/// # Errors
/// [`ErrorKind::Config`] for a path that is the log or shared memory of a database; [`ErrorKind::Database`] if it does
/// not exist or is none; [`ErrorKind::Unsupported`] if it may not be written, [`ErrorKind::Disk`] if it cannot at the
/// moment; [`ErrorKind::Forked`].
pub fn open_connection(path: &Path, busy: Duration) -> Result<Connection> {
    super::refuse_forked()?;
    refuse_companions(path)?;
    let open = || -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        #[expect(clippy::disallowed_methods, reason = "the one place that opens the user's database")]
        let connection = Connection::open_with_flags(plain(path)?, flags)?;
        connection.busy_timeout(busy)?;
        set_up(&connection)?;
        refuse_read_only(&connection)?;
        Ok(connection)
    };
    open().map_err(|e| e.while_doing(format_args!("open path={}", path.display())))
}

/// A path that SQLite does not take for a URI: `file:x` is a legal file name.
fn plain(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::disk("resolve", path, e))
}

/// A database of such a name would not get its locks from the pool, and SQLite would mix it up with its own files.
pub(crate) fn refuse_companions(path: &Path) -> Result<()> {
    let name = path.as_os_str().as_encoded_bytes();
    for end in ["-wal", "-shm", "-journal"] {
        if name.ends_with(end.as_bytes()) {
            let message =
                format!("a database must not be named like a companion file of SQLite path={}", path.display());
            return Err(Error::new(ErrorKind::Config, message).with_hint("name the database itself"));
        }
    }
    Ok(())
}

fn set_up(connection: &Connection) -> Result<()> {
    // The content is a stranger's: its schema must not run functions with side effects. Extension loading is off
    // unless switched on.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // Checkpoints happen when the engine decides: one at close could run over frames that are not copied yet.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA synchronous = NORMAL;",
    )?;
    keep_wal(connection)
}

/// Closing our connection must not remove the log, even if it is the last one.
fn keep_wal(connection: &Connection) -> Result<()> {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle lives as long as the connection; the argument of this command is a pointer to an int that
    // is read and written during the call only.
    let code = unsafe {
        let argument = (&raw mut on).cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_PERSIST_WAL, argument)
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(from_code(code, "keep the log on close")) }
}

/// Whether the system lets this program write the file.
fn may_write(path: &str) -> bool {
    let Ok(path) = std::ffi::CString::new(path) else { return false };
    // SAFETY: the path is a terminated string for the duration of the call.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}

/// SQLite falls back to reading if it may not write, and if it cannot at the moment; without write locks there is no protection.
fn refuse_read_only(connection: &Connection) -> Result<()> {
    if connection.is_readonly("main")? {
        if connection.path().is_some_and(may_write) {
            let message = "the database could be opened for reading only, although it may be written";
            return Err(Error::new(ErrorKind::Disk, message)
                .with_hint("the process may have no descriptor left: raise its limit of open files"));
        }
        return Err(Error::new(ErrorKind::Unsupported, "the database is read-only")
            .with_hint("the database must be writable for the user that runs this program: locks need it"));
    }
    Ok(())
}

/// The journal mode as SQLite names it, in lower case: `wal`, `delete`, …
///
/// # Errors
/// What SQLite answers.
pub fn journal_mode(connection: &Connection) -> Result<String> {
    Ok(connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?)
}

/// Switches the database to the write-ahead log, for good: the mode is kept in the file.
///
/// # Errors
/// [`ErrorKind::Busy`] while anybody else uses the database; [`ErrorKind::Unsupported`] if the mode cannot be had.
pub fn switch_to_wal(connection: &Connection) -> Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("the database cannot use the write-ahead log mode={mode}")))
}

/// Begins a read transaction that pins the log: nobody can restart or cut it until [`end_read`].
///
/// # Errors
/// What SQLite answers; no transaction is open then.
pub fn begin_read(connection: &Connection) -> Result<()> {
    // `BEGIN` alone takes no lock; the read does, also of an empty schema, as the schema is page 1.
    connection.execute_batch("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1").map_err(|e| {
        // `BEGIN` may have succeeded; the first error is the one to report.
        let _ = rollback(connection);
        e.into()
    })
}

/// Ends a read transaction.
///
/// # Errors
/// What SQLite answers.
pub fn end_read(connection: &Connection) -> Result<()> {
    rollback(connection)
}

/// Takes the write lock: until [`rollback`] nobody else can commit.
///
/// # Errors
/// [`ErrorKind::Busy`] while somebody else writes.
pub fn begin_write(connection: &Connection) -> Result<()> {
    Ok(connection.execute_batch("BEGIN IMMEDIATE")?)
}

/// Takes the write lock, trying again and again for this long; whether it was had.
///
/// A writer in a tight loop lets go of the lock for microseconds at a time, which the waits of a busy handler
/// would miss.
///
/// # Errors
/// What SQLite answers, except that somebody else writes.
pub(crate) fn begin_write_within(connection: &Connection, patience: Duration) -> Result<bool> {
    use std::{thread::sleep, time::Instant};
    #[expect(clippy::disallowed_methods, reason = "a few milliseconds of trying for a lock are no matter of the clock")]
    let (start, sleep): (_, fn(Duration)) = (Instant::now(), sleep);
    for tries in 1.. {
        match begin_write(connection) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() != ErrorKind::Busy => return Err(error),
            Err(_) if start.elapsed() >= patience => return Ok(false),
            // A writer that does not pause leaves the lock for microseconds. Who wakes up is let run at once; who gives way
            // is not, on a machine whose processors are all in use.
            Err(_) if tries % TRIES == 0 => sleep(REST),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// So many tries for the lock follow one another; then others may run.
const TRIES: u32 = 32;
const REST: Duration = Duration::from_micros(20);

/// Ends a transaction without effect; fine if none is open.
///
/// # Errors
/// What SQLite answers.
pub fn rollback(connection: &Connection) -> Result<()> {
    if connection.is_autocommit() {
        return Ok(());
    }
    Ok(connection.execute_batch("ROLLBACK")?)
}

/// How far a checkpoint goes, and whom it waits for (SQLite, `wal_checkpoint_v2`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckpointMode {
    /// As much as possible without waiting for anybody.
    Passive,
    /// Waits for writers, then copies everything.
    Full,
    /// As full, then waits for readers so that the next writer starts the log anew.
    Restart,
    /// As restart, and cuts the log to zero bytes.
    Truncate,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Somebody was in the way, so it did less than asked.
    pub busy: bool,
    /// Frames in the log.
    pub log: u32,
    /// Frames of those that are in the database file now.
    pub copied: u32,
}

/// A checkpoint that waits for nobody.
///
/// # Errors
/// As [`checkpoint`].
pub fn checkpoint_passive(connection: &Connection) -> Result<Checkpoint> {
    checkpoint(connection, CheckpointMode::Passive)
}

/// Copies frames from the log into the database file. No transaction may be open on this connection.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the database has no write-ahead log; what SQLite answers, except that somebody is in
/// the way, which is a result.
pub fn checkpoint(connection: &Connection, mode: CheckpointMode) -> Result<Checkpoint> {
    let mode = match mode {
        CheckpointMode::Passive => ffi::SQLITE_CHECKPOINT_PASSIVE,
        CheckpointMode::Full => ffi::SQLITE_CHECKPOINT_FULL,
        CheckpointMode::Restart => ffi::SQLITE_CHECKPOINT_RESTART,
        CheckpointMode::Truncate => ffi::SQLITE_CHECKPOINT_TRUNCATE,
    };
    let (mut log, mut copied) = (-1, -1);
    // SAFETY: the handle lives as long as the connection, and the pointers are written during the call only.
    let code = unsafe {
        let (log, copied) = (&raw mut log, &raw mut copied);
        ffi::sqlite3_wal_checkpoint_v2(connection.handle(), c"main".as_ptr(), mode, log, copied)
    };
    let busy = code & 0xFF == ffi::SQLITE_BUSY;
    if code != ffi::SQLITE_OK && !busy {
        return Err(from_code(code, "checkpoint"));
    }
    match (u32::try_from(log), u32::try_from(copied)) {
        (Ok(log), Ok(copied)) => Ok(Checkpoint { busy, log, copied }),
        // Busy before it looked at the log.
        _ if busy => Ok(Checkpoint { busy, log: 0, copied: 0 }),
        _ => Err(Error::new(ErrorKind::Unsupported, "the database has no write-ahead log to checkpoint")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    struct Scene {
        folder: tempfile::TempDir,
        app: Connection,
    }

    impl Scene {
        /// A database in this mode, without any table, and the application's connection to it.
        fn new(mode: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let app = Connection::open(folder.path().join("app.db")).unwrap();
            app.busy_timeout(NOW).unwrap();
            app.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
            app.execute_batch("PRAGMA user_version = 1").unwrap();
            Self { folder, app }
        }

        fn open(&self) -> Connection {
            open_connection(&self.folder.path().join("app.db"), NOW).unwrap()
        }

        fn truncate(&self) -> Checkpoint {
            checkpoint(&self.app, CheckpointMode::Truncate).unwrap()
        }
    }

    fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn settings_are_those_of_the_engine() {
        let scene = Scene::new("WAL");
        let engine = scene.open();
        let pragma = |name: &str| engine.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(pragma("wal_autocheckpoint"), 0);
        assert_eq!(pragma("mmap_size"), 0);
        assert_eq!(pragma("synchronous"), 1);
        assert!(!engine.db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA).unwrap());
        let refused = engine.execute_batch("SELECT load_extension('none')").unwrap_err().to_string();
        assert!(refused.contains("not authorized"), "{refused}");
        assert_eq!(journal_mode(&engine).unwrap(), "wal");
    }

    #[test]
    fn a_database_that_may_be_written_is_not_refused_for_good() {
        let scene = Scene::new("WAL");
        // What SQLite falls back to if its first attempt found no free descriptor.
        let path = scene.folder.path().join("app.db");
        let reading = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let error = refuse_read_only(&reading).unwrap_err();
        assert!(error.kind() == ErrorKind::Disk && error.is_retryable(), "{error:?}");
        refuse_read_only(&scene.open()).unwrap();
    }

    #[test]
    fn a_read_of_an_empty_schema_pins_the_log() {
        let scene = Scene::new("WAL");
        let engine = scene.open();
        engine.execute_batch("BEGIN").unwrap();
        assert!(!scene.truncate().busy, "a bare BEGIN holds nothing");
        rollback(&engine).unwrap();
        scene.app.execute_batch("PRAGMA user_version = 2").unwrap();
        begin_read(&engine).unwrap();
        scene.app.execute_batch("PRAGMA user_version = 3").unwrap();
        assert!(scene.truncate().busy);
        end_read(&engine).unwrap();
        assert!(!scene.truncate().busy);
    }

    #[test]
    fn a_refused_read_leaves_no_transaction_open() {
        let scene = Scene::new("DELETE");
        let engine = scene.open();
        scene.app.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert_eq!(kind(begin_read(&engine)), ErrorKind::Busy);
        assert!(engine.is_autocommit());
        rollback(&engine).unwrap();
    }

    #[test]
    fn a_write_transaction_keeps_others_out_until_rollback() {
        let scene = Scene::new("WAL");
        let engine = scene.open();
        begin_write(&engine).unwrap();
        assert!(scene.app.execute_batch("PRAGMA user_version = 2").is_err());
        rollback(&engine).unwrap();
        scene.app.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(kind(begin_write(&engine)), ErrorKind::Busy);
    }

    #[test]
    fn a_checkpoint_counts_frames_and_tells_who_is_in_the_way() {
        let scene = Scene::new("WAL");
        let engine = scene.open();
        begin_read(&engine).unwrap();
        scene.app.execute_batch("PRAGMA user_version = 2; PRAGMA user_version = 3").unwrap();
        let partly = checkpoint_passive(&scene.app).unwrap();
        assert!(partly.copied < partly.log, "{partly:?}");
        assert!(checkpoint(&scene.app, CheckpointMode::Restart).unwrap().busy);
        end_read(&engine).unwrap();
        let all = checkpoint_passive(&engine).unwrap();
        assert_eq!(all, Checkpoint { busy: false, log: partly.log, copied: partly.log });
        scene.app.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(checkpoint(&engine, CheckpointMode::Full).unwrap().busy);
    }

    #[test]
    fn without_a_log_there_is_nothing_to_checkpoint() {
        let scene = Scene::new("DELETE");
        assert_eq!(kind(checkpoint_passive(&scene.open())), ErrorKind::Unsupported);
    }

    #[test]
    fn switching_to_the_log_waits_for_nobody() {
        let scene = Scene::new("DELETE");
        let engine = scene.open();
        scene.app.execute_batch("BEGIN; SELECT * FROM sqlite_schema").unwrap();
        assert_eq!(kind(switch_to_wal(&engine)), ErrorKind::Busy);
        scene.app.execute_batch("COMMIT").unwrap();
        switch_to_wal(&engine).unwrap();
        assert_eq!(journal_mode(&engine).unwrap(), "wal");
        switch_to_wal(&engine).unwrap();
    }

    #[test]
    fn closing_leaves_the_log_as_it_is() {
        let scene = Scene::new("WAL");
        let engine = scene.open();
        begin_read(&engine).unwrap();
        end_read(&engine).unwrap();
        let log = scene.folder.path().join("app.db-wal");
        let before = super::super::FileId::of_path(&log).unwrap();
        let Scene { folder, app } = scene;
        drop(app);
        drop(engine);
        assert_eq!(super::super::FileId::of_path(&log).unwrap(), before);
        let names = folder.path().read_dir().unwrap().count();
        assert_eq!(names, 3, "database, log and index");
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| open_connection(&folder.path().join(name), NOW);
        assert_eq!(kind(open("missing.db")), ErrorKind::Database);
        assert!(folder.path().read_dir().unwrap().next().is_none(), "nothing was created");
        for name in ["app.db-wal", "app.db-shm", "app.db-journal"] {
            assert_eq!(kind(open(name)), ErrorKind::Config, "{name}");
        }
        write(&folder.path().join("noise.db"));
        assert_eq!(kind(open("noise.db")), ErrorKind::Database);
        assert_eq!(kind(open(".")), ErrorKind::Database);
    }

    #[allow(clippy::disallowed_methods, reason = "a file of the test")]
    fn write(path: &Path) {
        std::fs::write(path, [b'x'; 4096]).unwrap();
    }

    #[test]
    fn a_name_that_looks_like_a_uri_is_a_name() {
        assert!(plain(Path::new("file:app.db?mode=memory")).unwrap().is_absolute());
    }
}
