//! The race behind the guarded close: one thread takes and checks classic locks as a host does, another opens and
//! closes descriptors of the same file, in three ways of which one is ours.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use replicate::sqlite::{self, PinnedFile};

/// The host locks this byte; SQLite never does.
const BYTE: i64 = 0x4000_0000 + 4096;

/// Runs for `millis`. `how`: 0 ours, 1 plain close, 2 guarded but the owner closed first. `out`: closes, host locks,
/// host locks that vanished.
///
/// # Safety
/// `file` is a terminated path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lab_race(file: *const c_char, millis: u64, how: c_int, out: &mut [u64; 3]) {
    // SAFETY: the caller's promise.
    let file = unsafe { CStr::from_ptr(file) };
    let (closes, locks, vanished) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| host(file, &stop, &locks, &vanished));
        let end = Instant::now() + Duration::from_millis(millis);
        while Instant::now() < end {
            for _ in 0..64 {
                close_once(file, how);
                closes.fetch_add(1, Ordering::Relaxed);
            }
        }
        stop.store(true, Ordering::Release);
    });
    *out = [closes, locks, vanished].map(AtomicU64::into_inner);
}

fn close_once(file: &CStr, how: c_int) {
    let open = || open(file);
    match how {
        0 => {
            drop(PinnedFile::open(Path::new(OsStr::from_bytes(file.to_bytes()))));
            sqlite::sweep_all();
        }
        1 => close(open()),
        _ => {
            let (used, owner) = (open(), open());
            if set(owner, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 0) {
                close(owner);
                close(used);
            } else {
                // Leaks, as it must: bounded by the host holding its lock only briefly.
                leak(used, owner);
            }
        }
    }
}

/// Descriptors that could not be closed; waits until the host holds nothing, then closes them in the right order.
fn leak(used: c_int, owner: c_int) {
    while !set(owner, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 0) {
        std::hint::spin_loop();
    }
    close(used);
    close(owner);
}

/// Its descriptors stay open: closing them would be a vanished lock of its own making.
fn host(file: &CStr, stop: &AtomicBool, locks: &AtomicU64, vanished: &AtomicU64) {
    let (mine, checker) = (open(file), open(file));
    while !stop.load(Ordering::Acquire) {
        if !set(mine, libc::F_SETLK, libc::F_WRLCK, BYTE, 1) {
            continue;
        }
        locks.fetch_add(1, Ordering::Relaxed);
        for _ in 0..8 {
            if !is_held(checker) {
                vanished.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        set(mine, libc::F_SETLK, libc::F_UNLCK, BYTE, 1);
    }
}

fn open(file: &CStr) -> c_int {
    // SAFETY: a terminated path.
    unsafe { libc::open(file.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }
}

fn close(fd: c_int) {
    // SAFETY: a descriptor of this module.
    unsafe { libc::close(fd) };
}

fn flock(kind: c_int, start: i64, len: i64) -> libc::flock {
    // SAFETY: all-zero is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_start = start;
    lock.l_len = len;
    lock
}

fn set(fd: c_int, command: c_int, kind: c_int, start: i64, len: i64) -> bool {
    let lock = flock(kind, start, len);
    // SAFETY: valid for the duration of the call.
    unsafe { libc::fcntl(fd, command, &raw const lock) == 0 }
}

/// Another open file description sees the locks of its own process.
fn is_held(checker: c_int) -> bool {
    let mut lock = flock(libc::F_WRLCK, BYTE, 1);
    // SAFETY: valid for writing for the duration of the call.
    let asked = unsafe { libc::fcntl(checker, libc::F_OFD_GETLK, &raw mut lock) == 0 };
    asked && lock.l_type != libc::F_UNLCK as libc::c_short
}
