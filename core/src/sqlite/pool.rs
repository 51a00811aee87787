//! Every descriptor of a database or `-shm` file that this library ever opened, by file.
//!
//! This is the mutex around the books (`inodes`) and the operations that others call. It is a leaf, and the C library's
//! own, because it must be locked before a fork and unlocked in the child. Callers: `oslock`, `pinned`, `replace`, `fork`.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;

use super::FileId;
use super::fork;
use super::inodes::{Borrower, State, Which};
use super::sys::{self, Errno, Lock, Owner, WHOLE};

/// Set once a descriptor of ours turned out to be closed, or to be somebody else's, behind our back.
static CLOSED_EXTERNALLY: AtomicBool = AtomicBool::new(false);

/// Set where the locks that prove that nobody is hurt by a close cannot be relied on.
static CLOSE_NOTHING: AtomicBool = AtomicBool::new(false);

/// How many descriptors the pool holds, for tests and diagnosis.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PoolSize {
    /// Files with at least one descriptor; each has one owner more.
    pub files: usize,
    /// Descriptors in use.
    pub lent: usize,
    /// Descriptors kept for reuse.
    pub idle: usize,
}

/// The pool of this artefact.
struct Pool {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is only reached through `lock`, or in the fork handlers while the mutex is held.
unsafe impl Sync for Pool {}

static POOL: Pool =
    Pool { mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER), state: UnsafeCell::new(State::new()) };

impl Pool {
    fn lock(&'static self) -> Guard {
        self.lock_raw();
        let mut guard = Guard(self);
        if guard.inherited {
            guard.forget_inherited();
        }
        guard
    }

    fn lock_raw(&self) {
        // SAFETY: the mutex is initialised, static, and never destroyed.
        unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
    }

    fn unlock_raw(&self) {
        // SAFETY: as above; only called by the thread that locked it, or by its copy in a forked child.
        unsafe { libc::pthread_mutex_unlock(self.mutex.get()) };
    }
}

struct Guard(&'static Pool);

impl Deref for Guard {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: the guard holds the mutex, and all access goes through a guard.
        unsafe { &*self.0.state.get() }
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.0.state.get() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.unlock_raw();
    }
}

/// Lends a descriptor of a regular file with this access, for a reader or for a test of the lock.
pub(super) fn borrow(path: &CStr, flags: c_int, by: Borrower) -> Result<(RawFd, FileId), Errno> {
    fork::prepare_process();
    let mut state = POOL.lock();
    let fd = state.lend(path, flags, 0, by)?;
    match state.lent.get(&fd) {
        Some(lent) => Ok((fd, lent.id)),
        // Not a regular file: it carries no locks of SQLite and is in nobody's way.
        None => {
            state.take_back(fd);
            Err(Errno(libc::EINVAL))
        }
    }
}

/// `open` for our SQLite: as the system's, but files that can carry locks come from the pool.
pub(super) fn open_for_sqlite(path: &CStr, flags: c_int, mode: c_int) -> Result<RawFd, Errno> {
    fork::prepare_process();
    POOL.lock().lend(path, flags, mode, Borrower::Sqlite)
}

/// `close` for our SQLite and for readers: keeps what can carry locks and closes the rest.
pub(super) fn give_back(fd: RawFd) {
    if !fork::forked() {
        POOL.lock().take_back(fd);
    }
}

/// The descriptor that carries the locks of the file behind `fd`; `None` if the pool does not know `fd`.
///
/// # Errors
/// `EBADF` if either number has become something else.
pub(super) fn owner_of(fd: RawFd) -> Result<Option<RawFd>, Errno> {
    let state = POOL.lock();
    let Some(lent) = state.lent.get(&fd) else { return Ok(None) };
    let (id, owner) = (lent.id, state.inodes.get(&lent.id).map(|inode| inode.owner));
    // The checks and the lock itself run without the mutex: while `fd` is lent, nobody sweeps its owner.
    drop(state);
    match owner {
        Some(owner) if sys::is(owner, id) && sys::is(fd, id) => Ok(Some(owner)),
        _ => {
            note_closed_externally();
            Err(Errno(libc::EBADF))
        }
    }
}

pub(super) fn note_closed_externally() {
    CLOSED_EXTERNALLY.store(true, Ordering::Release);
}

/// From now on descriptors stay open until the process ends, also those of files that are gone.
pub(super) fn close_nothing() {
    CLOSE_NOTHING.store(true, Ordering::Release);
}

pub(super) fn closes_nothing() -> bool {
    CLOSE_NOTHING.load(Ordering::Acquire)
}

/// Whether something in this process has closed descriptors of ours (`closefrom`, a daemon's start). From then on
/// every lock of our SQLite fails; replication must stop for good.
#[must_use]
pub fn descriptors_closed_externally() -> bool {
    CLOSED_EXTERNALLY.load(Ordering::Acquire)
}

/// How many descriptors the pool holds now.
#[must_use]
pub fn pool_size() -> PoolSize {
    let state = POOL.lock();
    let idle = state.inodes.values().map(|inode| inode.idle.len()).sum();
    PoolSize { files: state.inodes.len(), lent: state.lent.len(), idle }
}

/// Really closes the descriptors of files that we do not use and on which nobody holds a lock; others stay.
///
/// For the end of replication. While it looks, other users of the database may see it as busy for microseconds.
pub fn sweep_all() {
    sweep(Which::All);
}

/// Really closes what the pool keeps of one file, if nobody uses it.
pub(super) fn forget_unused(id: FileId) {
    sweep(Which::Only(id));
}

pub(super) fn sweep(which: Which) {
    if !fork::forked() {
        POOL.lock().sweep(which);
    }
}

/// Holds the whole-file lock through the owner of a file of which the caller has borrowed `borrowed` descriptors.
/// `false` if anybody, this library included, uses the file.
pub(super) fn lock_whole(id: FileId, borrowed: usize) -> Result<bool, Errno> {
    let state = POOL.lock();
    let inode = state.inodes.get(&id).ok_or(Errno(libc::EBADF))?;
    if inode.to_sqlite > 0 || inode.to_readers > borrowed {
        return Ok(false);
    }
    if inode.owner_writes {
        sys::set_lock(inode.owner, Owner::Description, Lock::Write, WHOLE)
    } else {
        // Without permission to write it cannot be held, but asked for.
        sys::is_locked_for(inode.owner, Lock::Write, WHOLE).map(|locked| !locked)
    }
}

pub(super) fn unlock_whole(id: FileId) {
    let state = POOL.lock();
    if let Some(inode) = state.inodes.get(&id).filter(|inode| inode.to_sqlite == 0) {
        inode.release_locks();
    }
}

/// Adds a descriptor that a forked child must let go.
pub(super) fn register(fd: RawFd) -> Result<(), Errno> {
    let id = sys::stat(fd)?.id;
    POOL.lock().others.insert(fd, id);
    Ok(())
}

pub(super) fn unregister(fd: RawFd) {
    POOL.lock().others.remove(&fd);
}

/// Opens what a forked child needs.
pub(super) fn prepare_for_fork() {
    let mut state = POOL.lock();
    if let Ok(fd) = sys::open(c"/dev/null", libc::O_RDWR, 0) {
        state.null = sys::stat(fd).ok().map(|found| (fd, found.id));
    }
}

pub(super) fn lock_before_fork() {
    POOL.lock_raw();
}

pub(super) fn unlock_after_fork() {
    POOL.unlock_raw();
}

/// In the child, with the mutex inherited locked: replaces every descriptor by `/dev/null`. Says whether any was in
/// use. Allocates nothing.
pub(super) fn neutralise_in_child() -> bool {
    // SAFETY: the thread that forked had locked the mutex, and this is its only copy.
    let state = unsafe { &mut *POOL.state.get() };
    state.neutralise()
}
