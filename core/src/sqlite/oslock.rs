//! Gives our copy of SQLite its own `open`, `close` and `fcntl`, so that it shares no lock and no descriptor with
//! the SQLite of the host program.
//!
//! SQLite's unix layer calls the system through a table that can be changed. `open` takes files from the pool,
//! `close` gives them back, and lock commands go to the owner of the file as locks of an open file description:
//! those conflict with everybody else's locks, also within one process, and survive every close. Refuses to touch
//! a copy that is not the one compiled in. Called once by the Python module, the command and other artefacts.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::ffi;

use super::sys::Errno;
use super::{fork, pool};
use crate::{Error, ErrorKind, Result};

// Older ones can corrupt the log when two connections checkpoint while a third commits (fixed in 3.51.3).
const _: () = assert!(ffi::SQLITE_VERSION_NUMBER >= 3_051_003);

static ISOLATED: AtomicBool = AtomicBool::new(false);
static ISOLATING: Mutex<()> = Mutex::new(());

unsafe extern "C" {
    fn replicate_fcntl_ask(owner_of: extern "C" fn(c_int) -> c_int);
    fn replicate_fcntl(fd: c_int, command: c_int, ...) -> c_int;
}

/// Separates our copy of SQLite from every other one in this process. Calling it again does nothing.
///
/// # Safety
/// Two promises by the caller: (1) this copy of SQLite is compiled into this artefact for the use of this library
/// alone (a program that uses the same `libsqlite3-sys` itself must not call this, and need not), and (2) it has
/// not opened a file yet, and no other thread is about to.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the SQLite that answers is not the one compiled in: a linker merged two copies.
pub unsafe fn isolate_sqlite() -> Result<()> {
    fork::check()?;
    let _once = ISOLATING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if is_isolated() {
        return Ok(());
    }
    check_private()?;
    fork::prepare_process();
    // SAFETY: stores a function pointer before anything can call it.
    unsafe { replicate_fcntl_ask(owner_for_fcntl) };
    let vfs = unix_vfs()?;
    // SAFETY: each function has the signature SQLite's table expects under that name (its documentation of
    // xSetSystemCall); the caller promises that no file of this copy is open.
    unsafe {
        replace(vfs, c"open", std::mem::transmute::<OpenCall, Erased>(open_call))?;
        replace(vfs, c"close", std::mem::transmute::<CloseCall, Erased>(close_call))?;
        replace(vfs, c"fcntl", std::mem::transmute::<FcntlCall, Erased>(replicate_fcntl))?;
    }
    ISOLATED.store(true, Ordering::Release);
    Ok(())
}

/// Whether [`isolate_sqlite`] has been called with success.
#[must_use]
pub fn is_isolated() -> bool {
    ISOLATED.load(Ordering::Acquire)
}

type Erased = unsafe extern "C" fn();
type OpenCall = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type CloseCall = extern "C" fn(c_int) -> c_int;
type FcntlCall = unsafe extern "C" fn(c_int, c_int, ...) -> c_int;

/// The SQLite that answers must be the one whose headers we were compiled with, to the last check-in.
fn check_private() -> Result<()> {
    // SAFETY: both functions only return constants; the string is static and terminated.
    let (number, source) = unsafe { (ffi::sqlite3_libversion_number(), CStr::from_ptr(ffi::sqlite3_sourceid())) };
    if number == ffi::SQLITE_VERSION_NUMBER && source == ffi::SQLITE_SOURCE_ID {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "another copy of SQLite was linked in place of ours found={} expected={}",
            source.to_string_lossy(),
            ffi::SQLITE_SOURCE_ID.to_string_lossy()
        ),
    )
    .with_hint("link this library as a shared library, or run the `replicate` command beside the program"))
}

fn unix_vfs() -> Result<*mut ffi::sqlite3_vfs> {
    super::ahead::usual().ok_or_else(|| Error::new(ErrorKind::Unsupported, "this SQLite has no unix file layer"))
}

/// # Safety
/// `vfs` is SQLite's own unix layer and `function` has the signature it expects under `name`.
unsafe fn replace(vfs: *mut ffi::sqlite3_vfs, name: &CStr, function: Erased) -> Result<()> {
    // SAFETY: SQLite's layers are never freed.
    let set = unsafe { (*vfs).xSetSystemCall };
    // SAFETY: the caller's promise.
    let code = set.map(|set| unsafe { set(vfs, name.as_ptr(), Some(function)) });
    if code == Some(ffi::SQLITE_OK) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("this SQLite does not let its system calls be replaced name={name:?}"),
    ))
}

fn answer(result: Result<c_int, Errno>) -> c_int {
    result.unwrap_or_else(|e| {
        e.set();
        -1
    })
}

/// # Safety
/// SQLite passes a terminated path.
unsafe extern "C" fn open_call(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    if fork::forked() {
        return answer(Err(Errno(libc::ESTALE)));
    }
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    answer(pool::open_for_sqlite(path, flags, mode))
}

extern "C" fn close_call(fd: c_int) -> c_int {
    pool::give_back(fd);
    0
}

/// For the C part: the owner, -1 if the file is none of the pool's, -2 with `errno` if the lock must fail.
extern "C" fn owner_for_fcntl(fd: c_int) -> c_int {
    let owner = if fork::forked() { Err(Errno(libc::ESTALE)) } else { pool::owner_of(fd) };
    match owner {
        Ok(owner) => owner.unwrap_or(-1),
        Err(e) => {
            e.set();
            -2
        }
    }
}
