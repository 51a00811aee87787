//! Reading a database or `-shm` file without SQLite, by a descriptor that is borrowed and never closed.
//!
//! Refuses to write. Callers: capture (header, pages, snapshot copy) and the checks around a restore.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::inodes::Borrower;
use super::sys::{self, Errno, Lock};
use super::{FileId, pool};
use crate::disk::begin_sync;
use crate::{Error, ErrorKind, Result};

/// A file open for reading whose descriptor goes back to the pool on drop instead of being closed.
#[derive(Debug)]
pub struct PinnedFile {
    fd: RawFd,
    id: FileId,
}

impl PinnedFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`] in a child of a process that used this; [`ErrorKind::Disk`] with the system's answer.
    pub fn open(path: &Path) -> Result<Self> {
        super::fork::check()?;
        let open = || -> io::Result<Self> {
            let name = c_path(path)?;
            let (fd, id) = pool::borrow(&name, libc::O_RDONLY, Borrower::Reader).map_err(Errno::into_io)?;
            Ok(Self { fd, id })
        };
        open().map_err(|e| Error::disk("open", path, e))
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `EBADF` if something else in this process has closed the descriptor, `ESTALE` in a forked child.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.verify()?;
        let mut done = 0;
        while done < buf.len() {
            match sys::read_at(self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno(libc::EINTR)) => {}
                Err(e) => return Err(e.into_io()),
            }
        }
        Ok(done)
    }

    /// The length now.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn len(&self) -> io::Result<u64> {
        self.verify()
    }

    /// Whether the file holds nothing.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Returns when the content is on the disk.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn sync(&self) -> io::Result<()> {
        self.verify()?;
        sys::sync(self.fd).map_err(Errno::into_io)
    }

    /// Has the disk begin with what is not there yet; see [`begin_sync`].
    pub(super) fn begin_sync(&self) {
        if self.verify().is_ok() {
            begin_sync(self.fd, 0..0);
        }
    }

    /// Whether anybody, our SQLite included, has locked a byte for writing.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub(super) fn is_locked(&self, byte: i64) -> io::Result<bool> {
        self.verify()?;
        // A lock for reading is stopped by one for writing alone.
        sys::is_locked_for(self.fd, Lock::Read, (byte, 1)).map_err(Errno::into_io)
    }

    /// Which file this is, to compare with [`FileId::of_path`].
    #[must_use]
    pub fn identity(&self) -> FileId {
        self.id
    }

    /// The length, once the number is known to be still ours: reading a stranger's file would back it up.
    fn verify(&self) -> io::Result<u64> {
        if super::fork::forked() {
            return Err(Errno(libc::ESTALE).into_io());
        }
        match sys::stat(self.fd) {
            Ok(found) if found.id == self.id => Ok(found.len),
            _ => {
                pool::note_closed_externally();
                Err(Errno(libc::EBADF).into_io())
            }
        }
    }
}

impl Drop for PinnedFile {
    fn drop(&mut self) {
        pool::give_back(self.fd);
    }
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path contains a zero byte"))
}

/// The error for anything in this process that closed our descriptors.
pub(super) fn closed_externally() -> Error {
    Error::new(ErrorKind::Unsupported, "something in this process closed the file descriptors of the replication")
        .with_hint("start replication after the program has become a daemon or closed inherited descriptors")
}

#[cfg(test)]
mod tests {
    use super::super::inodes::Which;
    use super::super::sys::{Lock, Owner};
    use super::*;

    /// Where SQLite never locks.
    const BYTE: sys::Range = (0x4000_0000 + 4096, 1);

    /// A file with a classic lock of this process, as the host's SQLite holds, and a descriptor to look at it. Both
    /// stay open: closing them would drop the lock.
    struct Host {
        path: std::path::PathBuf,
        locker: RawFd,
        looker: RawFd,
        _folder: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("app.db");
            let open = || sys::open(&c_path(&path).unwrap(), libc::O_RDWR | libc::O_CREAT, 0o600).unwrap();
            let (locker, looker) = (open(), open());
            sys::set_len(locker, 100).unwrap();
            assert!(sys::set_lock(locker, Owner::Process, Lock::Write, BYTE).unwrap());
            Self { path, locker, looker, _folder: folder }
        }

        fn holds(&self) -> bool {
            sys::is_locked_for(self.looker, Lock::Write, BYTE).unwrap()
        }

        fn let_go(&self) {
            assert!(sys::set_lock(self.locker, Owner::Process, Lock::None, BYTE).unwrap());
        }
    }

    #[test]
    fn reading_and_dropping_keeps_the_locks_of_the_host() {
        let host = Host::new();
        for _ in 0..3 {
            let file = PinnedFile::open(&host.path).unwrap();
            let mut bytes = [1; 200];
            assert_eq!(file.read_at(60, &mut bytes).unwrap(), 40);
            assert_eq!(file.len().unwrap(), 100);
            drop(file);
            assert!(host.holds());
        }
        // The control: a plain open and close of the same file is noticed.
        sys::close(sys::open(&c_path(&host.path).unwrap(), libc::O_RDONLY, 0).unwrap());
        assert!(!host.holds());
    }

    #[test]
    fn a_descriptor_given_back_is_lent_again() {
        let host = Host::new();
        let first = PinnedFile::open(&host.path).unwrap();
        let number = first.fd;
        drop(first);
        let again = PinnedFile::open(&host.path).unwrap();
        let beside = PinnedFile::open(&host.path).unwrap();
        assert_eq!(again.fd, number);
        assert_ne!(beside.fd, number);
        assert_eq!(FileId::of_path(&host.path).unwrap(), Some(again.identity()));
    }

    #[test]
    fn a_sweep_closes_only_what_nobody_has_locked() {
        let host = Host::new();
        let file = PinnedFile::open(&host.path).unwrap();
        let (number, id) = (file.fd, file.identity());
        pool::sweep(Which::Only(id));
        assert!(sys::is(number, id), "in use");
        drop(file);
        pool::sweep(Which::Only(id));
        assert!(sys::is(number, id) && host.holds(), "locked by the host");
        host.let_go();
        pool::sweep(Which::Only(id));
        assert!(!sys::is(number, id), "free");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(PinnedFile::open(folder.path()).unwrap_err().kind(), ErrorKind::Disk);
        assert_eq!(PinnedFile::open(Path::new("/dev/null")).unwrap_err().kind(), ErrorKind::Disk);
        let missing = folder.path().join("missing");
        assert_eq!(PinnedFile::open(&missing).unwrap_err().kind(), ErrorKind::Disk);
        assert_eq!(FileId::of_path(&missing).unwrap(), None);
    }

    #[test]
    fn a_replaced_file_has_another_identity() {
        let (old, new) = (Host::new(), Host::new());
        let file = PinnedFile::open(&old.path).unwrap();
        rustix::fs::rename(&new.path, &old.path).unwrap();
        assert_ne!(FileId::of_path(&old.path).unwrap(), Some(file.identity()));
        assert_ne!(PinnedFile::open(&old.path).unwrap().identity(), file.identity());
    }

    #[test]
    fn a_locked_database_must_not_be_replaced() {
        let host = Host::new();
        let check = || super::super::guarded_replace_check(&host.path).map_err(|e| e.kind());
        assert_eq!(check(), Err(ErrorKind::Busy));
        assert!(host.holds());
        host.let_go();
        let reader = PinnedFile::open(&host.path).unwrap();
        assert_eq!(check(), Err(ErrorKind::Busy));
        drop(reader);
        let guard = super::super::guard_for_replace(&host.path).unwrap();
        assert!(!sys::set_lock(host.locker, Owner::Process, Lock::Read, BYTE).unwrap(), "kept out meanwhile");
        drop(guard);
        assert!(sys::set_lock(host.locker, Owner::Process, Lock::Read, BYTE).unwrap());
    }
}
