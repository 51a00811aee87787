//! The engine's side of the lock proof, as a C library: `test_locks.py` loads it into a Python process whose own
//! SQLite is the other copy.
//!
//! Every function returns 0 or the number of an `ErrorKind`; [`lab_message`] tells the rest. Some functions do on
//! purpose what the library never does (sloppy closes, plain connections): they are the negative controls.
//!
//! Pointers: paths and statements are terminated strings, handles come from the function that made them and are
//! given back once, buffers are as long as their length says. All of that is the caller's promise, `lab.py` keeps it.
#![allow(clippy::missing_safety_doc, reason = "one contract for all functions, above")]

mod race;

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use replicate::sqlite::{self, Check, CheckpointMode, PinnedFile};
use replicate::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};

pub use race::lab_race;

thread_local! {
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

fn code(result: Result<()>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            MESSAGE.with_borrow_mut(|message| *message = error.to_string());
            c_int::from(error.code())
        }
    }
}

fn hand_out<T>(result: Result<T>, out: *mut *mut T) -> c_int {
    code(result.map(|value| {
        // SAFETY: the contract of this library: `out` is valid for writing.
        unsafe { out.write(Box::into_raw(Box::new(value))) }
    }))
}

/// # Safety
/// The contract of this library.
unsafe fn path<'a>(text: *const c_char) -> &'a Path {
    // SAFETY: a terminated string that outlives the call.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()))
}

/// # Safety
/// The contract of this library.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str> {
    // SAFETY: a terminated string that outlives the call.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|e| Error::internal("not UTF-8").with_source(e))
}

fn copy_out(value: &str, buffer: *mut c_char, len: usize) {
    let bytes = &value.as_bytes()[..value.len().min(len.saturating_sub(1))];
    // SAFETY: the contract of this library: `len` bytes are writable.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), buffer, bytes.len());
        buffer.add(bytes.len()).write(0);
    }
}

/// The last error of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn lab_message(buffer: *mut c_char, len: usize) {
    MESSAGE.with_borrow(|message| copy_out(message, buffer, len));
}

/// Installs the override.
#[unsafe(no_mangle)]
pub extern "C" fn lab_isolate() -> c_int {
    // SAFETY: this artefact has its own SQLite, and the tests call this first.
    code(unsafe { sqlite::isolate_sqlite() })
}

/// Whether it is installed.
#[unsafe(no_mangle)]
pub extern "C" fn lab_is_isolated() -> c_int {
    sqlite::is_isolated().into()
}

/// Opens as the engine does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_open(db: *const c_char, busy_ms: u64, out: *mut *mut Connection) -> c_int {
    // SAFETY: the contract of this library.
    let db = unsafe { path(db) };
    hand_out(sqlite::open_connection(db, Duration::from_millis(busy_ms)), out)
}

/// Opens with SQLite's defaults, so that closing checkpoints and removes files if it believes to be the last.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_open_plain(db: *const c_char, busy_ms: u64, out: *mut *mut Connection) -> c_int {
    // SAFETY: the contract of this library.
    let db = unsafe { path(db) };
    let open = || -> Result<Connection> {
        let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(Duration::from_millis(busy_ms))?;
        Ok(connection)
    };
    hand_out(open(), out)
}

/// Closes either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_close(connection: *mut Connection) -> c_int {
    // SAFETY: the contract of this library: made by one of the above, given back once.
    let connection = unsafe { Box::from_raw(connection) };
    code(connection.close().map_err(|(_, e)| e.into()))
}

/// Runs statements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_exec(connection: &Connection, sql: *const c_char) -> c_int {
    // SAFETY: the contract of this library.
    let sql = unsafe { text(sql) };
    code(sql.and_then(|sql| Ok(connection.execute_batch(sql)?)))
}

/// The first column of all rows, one per line.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_query(connection: &Connection, sql: *const c_char, out: *mut c_char, len: usize) -> c_int {
    // SAFETY: the contract of this library.
    let sql = unsafe { text(sql) };
    let query = |sql: &str| -> Result<String> {
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                other => String::from_utf8_lossy(other.as_bytes_or_null()?.unwrap_or_default()).into_owned(),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.join("\n"))
    };
    code(sql.and_then(query).map(|value| copy_out(&value, out, len)))
}

/// Pins the log.
#[unsafe(no_mangle)]
pub extern "C" fn lab_begin_read(connection: &Connection) -> c_int {
    code(sqlite::begin_read(connection))
}

/// Takes the write lock.
#[unsafe(no_mangle)]
pub extern "C" fn lab_begin_write(connection: &Connection) -> c_int {
    code(sqlite::begin_write(connection))
}

/// Ends either.
#[unsafe(no_mangle)]
pub extern "C" fn lab_rollback(connection: &Connection) -> c_int {
    code(sqlite::rollback(connection))
}

/// Checkpoints: 0 passive, 1 full, 2 restart, 3 truncate. `out`: busy, log, copied.
#[unsafe(no_mangle)]
pub extern "C" fn lab_checkpoint(connection: &Connection, mode: c_int, out: &mut [u32; 3]) -> c_int {
    let mode = match mode {
        0 => CheckpointMode::Passive,
        1 => CheckpointMode::Full,
        2 => CheckpointMode::Restart,
        _ => CheckpointMode::Truncate,
    };
    code(sqlite::checkpoint(connection, mode).map(|done| *out = [done.busy.into(), done.log, done.copied]))
}

/// Opens a file for raw reading.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_pin(file: *const c_char, out: *mut *mut PinnedFile) -> c_int {
    // SAFETY: the contract of this library.
    hand_out(PinnedFile::open(unsafe { path(file) }), out)
}

/// Reads; `out` is the number of bytes read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_pin_read(
    file: &PinnedFile,
    offset: u64,
    buffer: *mut u8,
    len: usize,
    out: &mut usize,
) -> c_int {
    // SAFETY: the contract of this library.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
    code(file.read_at(offset, buffer).map(|n| *out = n).map_err(|e| Error::new(ErrorKind::Disk, e.to_string())))
}

/// Gives it back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_unpin(file: *mut PinnedFile) {
    // SAFETY: the contract of this library: made by `lab_pin`, given back once.
    drop(unsafe { Box::from_raw(file) });
}

/// The negative control: opens, reads and closes like any program.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_sloppy_touch(file: *const c_char) -> c_int {
    // SAFETY: a terminated path, a buffer on the stack, and a descriptor of this function.
    unsafe {
        let fd = libc::open(file, libc::O_RDONLY | libc::O_CLOEXEC);
        let mut header = [0_u8; 16];
        libc::read(fd, header.as_mut_ptr().cast(), header.len());
        libc::close(fd)
    }
}

/// Files, lent and idle descriptors of the pool.
#[unsafe(no_mangle)]
pub extern "C" fn lab_pool(out: &mut [usize; 3]) {
    let size = sqlite::pool_size();
    *out = [size.files, size.lent, size.idle];
}

/// Closes what may be closed.
#[unsafe(no_mangle)]
pub extern "C" fn lab_sweep() {
    sqlite::sweep_all();
}

/// Whether this is a forked child that must not work on.
#[unsafe(no_mangle)]
pub extern "C" fn lab_forked() -> c_int {
    sqlite::forked().into()
}

/// Whether somebody closed our descriptors.
#[unsafe(no_mangle)]
pub extern "C" fn lab_closed_externally() -> c_int {
    sqlite::descriptors_closed_externally().into()
}

/// Adds a descriptor for the fork handler, or takes it back.
#[unsafe(no_mangle)]
pub extern "C" fn lab_register_for_fork(fd: c_int, add: c_int) -> c_int {
    // SAFETY: the tests keep it open meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if add == 0 {
        sqlite::unregister_for_fork(fd);
        return 0;
    }
    code(sqlite::register_for_fork(fd))
}

/// The probe at start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_probe(state_dir: *const c_char, db: *const c_char) -> c_int {
    // SAFETY: the contract of this library.
    code(unsafe { sqlite::probe(path(state_dir), path(db)) })
}

/// Whether nobody uses a database.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_replace_check(db: *const c_char) -> c_int {
    // SAFETY: the contract of this library.
    code(sqlite::guarded_replace_check(unsafe { path(db) }))
}

/// SQLite's own check of a database nobody uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_check(db: *const c_char, full: c_int) -> c_int {
    let check = if full == 0 { Check::Quick } else { Check::Full };
    // SAFETY: the contract of this library.
    code(sqlite::check_database(unsafe { path(db) }, check))
}
