//! The pool's books: which file has which descriptors, who borrows them, who owns its locks.
//!
//! A ladder of three: a descriptor is *lent* (to our SQLite or to a reader), then *idle* (given back, kept for the
//! next one), and the *owner* of a file is a separate open file description that carries all locks of our SQLite and
//! is never read, written or mapped. A mapping keeps its description alive, hence its locks: that is why the owner
//! is separate. Nothing is closed except by a sweep, which first proves that nobody holds a lock on the file.
//!
//! Only `pool` calls this, under its mutex: here are system calls on descriptors and edits of maps, nothing else.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use libc::c_int;

use super::FileId;
use super::pool::{closes_nothing, note_closed_externally};
use super::sys::{self, Errno, Lock, Owner, WHOLE};

/// Who borrows a descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Borrower {
    /// Our copy of SQLite: it may hold locks.
    Sqlite,
    /// A [`PinnedFile`](super::PinnedFile): it never does.
    Reader,
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

/// The descriptors of one file.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) owner: RawFd,
    /// Whether the owner can carry write locks.
    pub(super) owner_writes: bool,
    /// Descriptors lent to SQLite. The last one given back releases all locks, as a close would have.
    pub(super) to_sqlite: usize,
    pub(super) to_readers: usize,
    /// With the access mode they were opened with.
    pub(super) idle: Vec<(RawFd, c_int)>,
}

impl Inode {
    fn new(owner: RawFd, access: c_int) -> Self {
        Self { owner, owner_writes: access == libc::O_RDWR, to_sqlite: 0, to_readers: 0, idle: Vec::new() }
    }

    fn is_used(&self) -> bool {
        self.to_sqlite + self.to_readers > 0
    }

    /// What closing the last descriptor would have done; frees the lock that says "connected" on `-shm`.
    pub(super) fn release_locks(&self) {
        // It cannot fail on a valid descriptor, and on one that was closed behind our back the locks are gone.
        let _ = sys::set_lock(self.owner, Owner::Description, Lock::None, WHOLE);
    }

    /// Closes everything if the whole-file lock can be had: it proves that nobody, this process's other SQLite
    /// included, holds a lock that closing would drop, and nobody can get one before the owner is gone. Therefore
    /// the owner comes last.
    fn close_guarded(&self, id: FileId) -> bool {
        if closes_nothing() || self.is_used() || !self.owner_writes || !sys::is(self.owner, id) {
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

/// A descriptor in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent {
    pub(super) id: FileId,
    access: c_int,
    by: Borrower,
}

/// What the mutex guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) inodes: BTreeMap<FileId, Inode>,
    pub(super) lent: BTreeMap<RawFd, Lent>,
    /// What else our SQLite has open: logs, journals, folders. Closed as usual, if the number is still ours.
    companions: BTreeMap<RawFd, FileId>,
    /// Other descriptors of ours that a forked child must let go.
    pub(super) others: BTreeMap<RawFd, FileId>,
    /// Read from `/dev/null`, opened early because a child must not fail to open it.
    pub(super) null: Option<(RawFd, FileId)>,
    /// In a child whose parent had nothing in use: what is listed here is all `/dev/null` by now.
    pub(super) inherited: bool,
}

impl State {
    pub(super) const fn new() -> Self {
        Self {
            inodes: BTreeMap::new(),
            lent: BTreeMap::new(),
            companions: BTreeMap::new(),
            others: BTreeMap::new(),
            null: None,
            inherited: false,
        }
    }

    pub(super) fn lend(&mut self, path: &CStr, flags: c_int, mode: c_int, by: Borrower) -> Result<RawFd, Errno> {
        let poolable = by == Borrower::Reader || can_carry_locks(path, flags);
        // Looked up before opening: a descriptor too many could not be closed.
        if poolable && let Some(fd) = self.lend_idle(path, flags, by)? {
            return Ok(fd);
        }
        occupy_standard_descriptors();
        let fd = sys::open(path, flags, mode)?;
        let found = sys::stat(fd).inspect_err(|_| sys::close(fd))?;
        if found.regular && (poolable || self.inodes.contains_key(&found.id)) {
            let lent = Lent { id: found.id, access: flags & libc::O_ACCMODE, by };
            return self.adopt(fd, lent, path, flags);
        }
        self.companions.insert(fd, found.id);
        Ok(fd)
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

    pub(super) fn take_back(&mut self, fd: RawFd) {
        match (self.lent.remove(&fd), self.companions.remove(&fd)) {
            (Some(lent), _) => self.keep(fd, lent),
            (None, Some(id)) if sys::is(fd, id) => sys::close(fd),
            // Somebody closed it behind our back; what has the number now is not ours to close.
            (None, _) => note_closed_externally(),
        }
    }

    fn keep(&mut self, fd: RawFd, lent: Lent) {
        let Some(inode) = self.inodes.get_mut(&lent.id) else { return };
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

    pub(super) fn sweep(&mut self, which: Which) {
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
    pub(super) fn neutralise(&mut self) -> bool {
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
        self.companions.iter().chain(&self.others).for_each(|(fd, id)| put(*fd, *id));
        self.inherited = !used;
        used
    }

    /// In a child that inherited nothing in use: frees the numbers, all of which are `/dev/null`, and starts anew.
    pub(super) fn forget_inherited(&mut self) {
        self.inherited = false;
        let null = self.null.map(|(_, id)| id);
        for inode in std::mem::take(&mut self.inodes).into_values() {
            let numbers = inode.idle.iter().map(|(fd, _)| *fd).chain([inode.owner]);
            numbers.filter(|fd| null.is_some_and(|id| sys::is(*fd, id))).for_each(sys::close);
        }
        // Their numbers belong to values that still exist and will close them, or to nobody any more.
        self.companions.clear();
        self.others.clear();
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
