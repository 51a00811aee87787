//! The system calls of the door, each in a safe coat: open, stat, close, lock, replace a descriptor.
//!
//! Numbers, not owned types, because a descriptor of a database must never be closed by a drop. Everything here
//! is safe to call in a forked child (no allocation, no lock), except [`Errno::into_io`]. Callers: the other
//! files of this folder.

use std::ffi::CStr;
use std::os::fd::RawFd;

use libc::{c_int, c_short};

use super::FileId;

/// What the system answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Errno(pub(super) c_int);

impl Errno {
    pub(super) fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    pub(super) fn into_io(self) -> std::io::Error {
        std::io::Error::from_raw_os_error(self.0)
    }

    /// Makes it the calling thread's `errno`, as C callers expect.
    pub(super) fn set(self) {
        // SAFETY: the C library guarantees a valid, thread-local location.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

fn checked(result: c_int) -> Result<c_int, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// What a descriptor or a path names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) id: FileId,
    pub(super) regular: bool,
    pub(super) links: u64,
    pub(super) len: u64,
}

impl Stat {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "widths differ between processors")]
    fn of(stat: &libc::stat) -> Self {
        Self {
            id: FileId { dev: stat.st_dev as u64, ino: stat.st_ino as u64 },
            regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
            links: stat.st_nlink as u64,
            len: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Opens with close-on-exec, whatever the caller asked for.
#[expect(clippy::disallowed_methods, reason = "what it opens is never closed, except under the whole-file lock")]
pub(super) fn open(path: &CStr, flags: c_int, mode: c_int) -> Result<RawFd, Errno> {
    // SAFETY: the path is a valid C string for the duration of the call.
    checked(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// Really closes. Only for descriptors that cannot carry anybody's locks, or under the whole-file lock.
pub(super) fn close(fd: RawFd) {
    // SAFETY: closing a number is memory safe; the callers own it (they compared its identity before).
    unsafe { libc::close(fd) };
}

pub(super) fn stat(fd: RawFd) -> Result<Stat, Errno> {
    // SAFETY: all-zero is a valid `stat`, the call fills it.
    let mut buffer: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for writing for the duration of the call.
    checked(unsafe { libc::fstat(fd, &raw mut buffer) })?;
    Ok(Stat::of(&buffer))
}

pub(super) fn stat_path(path: &CStr, follow: bool) -> Result<Stat, Errno> {
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: all-zero is a valid `stat`, the call fills it.
    let mut buffer: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the duration of the call.
    checked(unsafe { libc::fstatat(libc::AT_FDCWD, path.as_ptr(), &raw mut buffer, flags) })?;
    Ok(Stat::of(&buffer))
}

/// Whether this number still stands for this file. Somebody else may have closed it and got it anew.
pub(super) fn is(fd: RawFd, id: FileId) -> bool {
    stat(fd).is_ok_and(|found| found.id == id)
}

pub(super) fn is_open(fd: RawFd) -> bool {
    // SAFETY: the command takes no pointer.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

pub(super) fn rewind(fd: RawFd) {
    // SAFETY: the call takes no pointer. A regular file can always be rewound.
    unsafe { libc::lseek(fd, 0, libc::SEEK_SET) };
}

/// Reads once at an offset.
pub(super) fn read_at(fd: RawFd, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    // SAFETY: the buffer is valid for writing for its length for the duration of the call.
    let read = unsafe { libc::pread(fd, buf.as_mut_ptr().cast(), buf.len(), offset) };
    usize::try_from(read).map_err(|_| Errno::last())
}

/// Returns when the content of the file is on the disk.
pub(super) fn sync(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: no memory is passed; a bad descriptor is an error.
    match unsafe { libc::fdatasync(fd) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Makes `target` another name of `source`, atomically and with close-on-exec.
pub(super) fn put_over(source: RawFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: the call takes no pointer; the callers own the number `target`.
    checked(unsafe { libc::dup3(source, target, libc::O_CLOEXEC) }).map(drop)
}

pub(super) fn process_id() -> c_int {
    // SAFETY: the call cannot fail and takes nothing.
    unsafe { libc::getpid() }
}

/// A lock to take or give back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lock {
    Read,
    Write,
    None,
}

/// Bytes from a start; length 0 reaches to the end of all files.
pub(super) type Range = (i64, i64);
/// The whole file, however long it gets.
pub(super) const WHOLE: Range = (0, 0);

/// Who owns a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    /// The open file description behind the descriptor.
    Description,
    /// The process: classic locks.
    Process,
}

#[allow(clippy::useless_conversion, reason = "widths differ between processors")]
fn flock(lock: Lock, (start, len): Range) -> libc::flock {
    // SAFETY: all-zero is a valid `flock`; the process id must be zero for locks of descriptions.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    let kind = match lock {
        Lock::Read => libc::F_RDLCK,
        Lock::Write => libc::F_WRLCK,
        Lock::None => libc::F_UNLCK,
    };
    flock.l_type = kind as c_short;
    flock.l_whence = libc::SEEK_SET as c_short;
    flock.l_start = start.into();
    flock.l_len = len.into();
    flock
}

/// Sets a lock without waiting; `false` if somebody else's lock is in the way.
pub(super) fn set_lock(fd: RawFd, owner: Owner, lock: Lock, range: Range) -> Result<bool, Errno> {
    let command = match owner {
        Owner::Description => libc::F_OFD_SETLK,
        Owner::Process => libc::F_SETLK,
    };
    let request = flock(lock, range);
    // SAFETY: the pointer is valid for the duration of the call.
    match checked(unsafe { libc::fcntl(fd, command, &raw const request) }) {
        Ok(_) => Ok(true),
        Err(Errno(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether somebody else's lock stands in the way of this one. Works on descriptors open for reading, too.
pub(super) fn is_locked_for(fd: RawFd, lock: Lock, range: Range) -> Result<bool, Errno> {
    let mut request = flock(lock, range);
    // SAFETY: the pointer is valid for writing for the duration of the call.
    checked(unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut request) })?;
    Ok(request.l_type != libc::F_UNLCK as c_short)
}

/// Cuts or extends. Only for scratch files.
pub(super) fn set_len(fd: RawFd, len: u64) -> Result<(), Errno> {
    let len = libc::off_t::try_from(len).map_err(|_| Errno(libc::EOVERFLOW))?;
    // SAFETY: the call takes no pointer.
    checked(unsafe { libc::ftruncate(fd, len) }).map(drop)
}
