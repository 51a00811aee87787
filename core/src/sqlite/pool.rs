//! Every descriptor of a database or `-shm` file that this library ever opened, by file.
//!
//! A ladder of three: a descriptor is *lent* (to our SQLite or to a reader), then *idle* (given back, kept for the
//! next one), and the *owner* of a file is a separate open file description that carries all locks of our SQLite and
//! is never read, written or mapped. A mapping keeps its description alive, hence its locks: that is why the owner
//! is separate. Nothing is closed except by [`sweep`], which first proves that nobody holds a lock on the file.
//!
//! One mutex, a leaf: under it only system calls on descriptors and edits of the maps. It is the C library's,
//! because it must be locked before a fork and unlocked in the child. Callers: `oslock`, `pinned`, `replace`, `fork`.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;

use super::fork;
use super::pinned::FileId;
use super::sys::{self, Errno, Lock, Owner, WHOLE};

/// Set once a descriptor of ours turned out to be closed, or to be somebody else's, behind our back.
static CLOSED_EXTERNALLY: AtomicBool = AtomicBool::new(false);

/// Who borrows a descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Borrower {
    /// Our copy of SQLite: it may hold locks.
    Sqlite,
    /// A [`PinnedFile`](super::PinnedFile): it never does.
    Reader,
}

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

#[derive(Debug)]
struct Inode {
    owner: RawFd,
    /// Whether the owner can carry write locks.
    owner_writes: bool,
    /// Descriptors lent to SQLite. The last one given back releases all locks, as a close would have.
    to_sqlite: usize,
    to_readers: usize,
    /// With the access mode they were opened with.
    idle: Vec<(RawFd, c_int)>,
}

impl Inode {
    fn new(owner: RawFd, access: c_int) -> Self {
        Self { owner, owner_writes: access == libc::O_RDWR, to_sqlite: 0, to_readers: 0, idle: Vec::new() }
    }

    fn is_used(&self) -> bool {
        self.to_sqlite + self.to_readers > 0
    }
}

#[derive(Clone, Copy, Debug)]
struct Lent {
    id: FileId,
    access: c_int,
    by: Borrower,
}

/// What the mutex guards.
#[derive(Debug)]
pub(super) struct State {
    inodes: BTreeMap<FileId, Inode>,
    lent: BTreeMap<RawFd, Lent>,
    /// Other descriptors of ours that a forked child must let go.
    others: BTreeMap<RawFd, FileId>,
    /// Read from `/dev/null`, opened early because a child must not fail to open it.
    null: Option<(RawFd, FileId)>,
    /// In a child whose parent had nothing in use: what is listed here is all `/dev/null` by now.
    inherited: bool,
}

/// The pool of this artefact.
pub(super) struct Pool {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is only reached through `lock`, or in the fork handlers while the mutex is held.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool {
    mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
    state: UnsafeCell::new(State {
        inodes: BTreeMap::new(),
        lent: BTreeMap::new(),
        others: BTreeMap::new(),
        null: None,
        inherited: false,
    }),
};

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
            sys::close(fd);
            Err(Errno(libc::EINVAL))
        }
    }
}

/// `open` for our SQLite: as the system's, but files that can carry locks come from the pool.
pub(super) fn open_for_sqlite(path: &CStr, flags: c_int, mode: c_int) -> Result<RawFd, Errno> {
    fork::prepare_process();
    POOL.lock().lend(path, flags, mode, Borrower::Sqlite)
}

/// Takes a descriptor back; `false` if it is not the pool's, so that the caller closes it.
pub(super) fn give_back(fd: RawFd) -> bool {
    fork::forked() || POOL.lock().take_back(fd)
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

/// Which files to sweep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    /// Those without a name.
    Nameless,
    /// One.
    Only(FileId),
    /// All.
    All,
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

impl Inode {
    /// What closing the last descriptor would have done; frees the lock that says "connected" on `-shm`.
    fn release_locks(&self) {
        // It cannot fail on a valid descriptor, and on one that was closed behind our back the locks are gone.
        let _ = sys::set_lock(self.owner, Owner::Description, Lock::None, WHOLE);
    }
}

impl State {
    fn lend(&mut self, path: &CStr, flags: c_int, mode: c_int, by: Borrower) -> Result<RawFd, Errno> {
        let poolable = by == Borrower::Reader || can_carry_locks(path, flags);
        // Looked up before opening: a descriptor too many could not be closed.
        if poolable && let Some(fd) = self.lend_idle(path, flags, by)? {
            return Ok(fd);
        }
        occupy_standard_descriptors();
        let fd = sys::open(path, flags, mode)?;
        match sys::stat(fd) {
            Ok(found) if found.regular && (poolable || self.inodes.contains_key(&found.id)) => {
                let lent = Lent { id: found.id, access: flags & libc::O_ACCMODE, by };
                self.adopt(fd, lent, path, flags)
            }
            _ => Ok(fd),
        }
    }

    fn lend_idle(&mut self, path: &CStr, flags: c_int, by: Borrower) -> Result<Option<RawFd>, Errno> {
        let access = flags & libc::O_ACCMODE;
        let Ok(found) = sys::stat_path(path, flags & libc::O_NOFOLLOW == 0) else { return Ok(None) };
        if by == Borrower::Reader && !found.regular {
            return Err(Errno(libc::EINVAL));
        }
        let Some(inode) = self.inodes.get_mut(&found.id) else { return Ok(None) };
        while let Some(at) = inode.idle.iter().position(|(_, a)| *a == access) {
            let (fd, _) = inode.idle.swap_remove(at);
            if sys::is(fd, found.id) {
                sys::rewind(fd);
                self.record(fd, Lent { id: found.id, access, by });
                return Ok(Some(fd));
            }
            note_closed_externally();
        }
        Ok(None)
    }

    /// Files a fresh descriptor under its file, with an owner. On failure it stays in the pool: it must not be closed.
    fn adopt(&mut self, fd: RawFd, lent: Lent, path: &CStr, flags: c_int) -> Result<RawFd, Errno> {
        match self.inodes.get(&lent.id) {
            None => {
                self.sweep(Which::Nameless);
                match self.open_owner(fd, lent.id, path, flags) {
                    Ok((owner, access)) => {
                        self.inodes.insert(lent.id, Inode::new(owner, access));
                    }
                    Err(e) => {
                        self.inodes.insert(lent.id, Inode::new(fd, lent.access));
                        return Err(e);
                    }
                }
            }
            Some(inode) if !inode.owner_writes && lent.access == libc::O_RDWR && inode.to_sqlite == 0 => {
                self.replace_owner(fd, lent.id, path, flags);
            }
            Some(_) => {}
        }
        self.record(fd, lent);
        Ok(fd)
    }

    fn record(&mut self, fd: RawFd, lent: Lent) {
        if let Some(inode) = self.inodes.get_mut(&lent.id) {
            match lent.by {
                Borrower::Sqlite => inode.to_sqlite += 1,
                Borrower::Reader => inode.to_readers += 1,
            }
        }
        self.lent.insert(fd, lent);
    }

    /// A second, independent description of the file behind `fd`, for reading and writing if that is permitted.
    fn open_owner(&mut self, fd: RawFd, id: FileId, path: &CStr, flags: c_int) -> Result<(RawFd, c_int), Errno> {
        let through_proc = CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno(libc::EINVAL))?;
        let same_link = flags & libc::O_NOFOLLOW;
        let attempts = [
            (through_proc.as_c_str(), libc::O_RDWR, 0),
            (through_proc.as_c_str(), libc::O_RDONLY, 0),
            // Without /proc the name must do; it may have been given to another file meanwhile.
            (path, libc::O_RDWR, same_link),
            (path, libc::O_RDONLY, same_link),
        ];
        let mut error = Errno(libc::EIO);
        for (name, access, more) in attempts {
            match sys::open(name, access | more, 0) {
                Ok(owner) if sys::is(owner, id) => return Ok((owner, access)),
                Ok(stranger) => {
                    self.keep_stranger(stranger, access);
                    return Err(Errno(libc::EIO));
                }
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    /// Keeps a descriptor that turned out to be of another file; closing it could drop that file's locks.
    fn keep_stranger(&mut self, fd: RawFd, access: c_int) {
        if let Ok(found) = sys::stat(fd) {
            match self.inodes.get_mut(&found.id) {
                Some(inode) => inode.idle.push((fd, access)),
                None => {
                    self.inodes.insert(found.id, Inode::new(fd, access));
                }
            }
        }
    }

    /// The file was first opened for reading only; no lock is held, so its owner can still be exchanged.
    fn replace_owner(&mut self, fd: RawFd, id: FileId, path: &CStr, flags: c_int) {
        if let Ok((owner, libc::O_RDWR)) = self.open_owner(fd, id, path, flags)
            && let Some(inode) = self.inodes.get_mut(&id)
        {
            let old = std::mem::replace(inode, Inode::new(owner, libc::O_RDWR));
            inode.to_readers = old.to_readers;
            inode.idle = old.idle;
            inode.idle.push((old.owner, libc::O_RDONLY));
        }
    }

    fn take_back(&mut self, fd: RawFd) -> bool {
        let Some(lent) = self.lent.remove(&fd) else { return false };
        if let Some(inode) = self.inodes.get_mut(&lent.id) {
            inode.idle.push((fd, lent.access));
            match lent.by {
                Borrower::Reader => inode.to_readers -= 1,
                Borrower::Sqlite => {
                    inode.to_sqlite -= 1;
                    if inode.to_sqlite == 0 {
                        inode.release_locks();
                    }
                }
            }
        }
        true
    }

    fn sweep(&mut self, which: Which) {
        self.inodes.retain(|id, inode| {
            let wanted = match which {
                Which::Nameless => sys::stat(inode.owner).is_ok_and(|found| found.links == 0),
                Which::Only(only) => *id == only,
                Which::All => true,
            };
            !(wanted && inode.close_guarded(*id))
        });
    }

    /// Safe in a forked child.
    fn neutralise(&mut self) -> bool {
        let null = match self.null {
            Some((fd, id)) if sys::is(fd, id) => Ok(fd),
            _ => sys::open(c"/dev/null", libc::O_RDWR, 0),
        };
        let put = |fd: RawFd, id: FileId| {
            // A number that is no longer ours is left alone. Without /dev/null, closing must do: locks of the
            // process are not inherited, so there are none to lose here.
            if sys::is(fd, id) && !null.is_ok_and(|null| sys::put_over(null, fd).is_ok()) {
                sys::close(fd);
            }
        };
        let mut used = false;
        for (id, inode) in &self.inodes {
            used |= inode.is_used();
            put(inode.owner, *id);
            inode.idle.iter().for_each(|(fd, _)| put(*fd, *id));
        }
        self.lent.iter().for_each(|(fd, lent)| put(*fd, lent.id));
        self.others.iter().for_each(|(fd, id)| put(*fd, *id));
        self.inherited = !used;
        used
    }

    /// In a child that inherited nothing in use: frees the numbers, all of which are `/dev/null`, and starts anew.
    fn forget_inherited(&mut self) {
        self.inherited = false;
        let null = self.null.map(|(_, id)| id);
        for inode in std::mem::take(&mut self.inodes).into_values() {
            let numbers = inode.idle.iter().map(|(fd, _)| *fd).chain([inode.owner]);
            numbers.filter(|fd| null.is_some_and(|id| sys::is(*fd, id))).for_each(sys::close);
        }
        // Their numbers belong to values that still exist and will close them.
        self.others.clear();
    }
}

impl Inode {
    /// Closes everything if the whole-file lock can be had: it proves that nobody, this process's other SQLite
    /// included, holds a lock that closing would drop, and nobody can get one before the owner is gone. Therefore
    /// the owner comes last.
    fn close_guarded(&self, id: FileId) -> bool {
        if self.is_used() || !self.owner_writes || !sys::is(self.owner, id) {
            return false;
        }
        if !sys::set_lock(self.owner, Owner::Description, Lock::Write, WHOLE).unwrap_or(false) {
            return false;
        }
        self.idle.iter().map(|(fd, _)| *fd).filter(|fd| sys::is(*fd, id)).for_each(sys::close);
        sys::close(self.owner);
        true
    }
}

/// The write-ahead log and the journal carry no locks; a file that must be new is a temporary one.
fn can_carry_locks(path: &CStr, flags: c_int) -> bool {
    let name = path.to_bytes();
    let new = libc::O_CREAT | libc::O_EXCL;
    flags & new != new && !name.ends_with(b"-wal") && !name.ends_with(b"-journal")
}

/// SQLite hands back a file opened as number 0, 1 or 2 and tries again; from a pool it would get it back for ever.
fn occupy_standard_descriptors() {
    for fd in 0..=2 {
        if !sys::is_open(fd) {
            // If it fails, the open that follows fails for the same reason, and that is reported.
            let _ = sys::open(c"/dev/null", libc::O_RDWR, 0);
        }
    }
}
