//! Reading a database or `-shm` file without SQLite, by a descriptor that is borrowed and never closed.
//!
//! Refuses to write. Callers: capture (header, pages, snapshot copy) and the checks around a restore.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::pool::{self, Borrower};
use super::sys::{self, Errno};
use crate::{Error, ErrorKind, Result};

/// What a file *is*, whatever its name: its device and its number there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileId {
    /// The device.
    pub dev: u64,
    /// The number of the inode on it.
    pub ino: u64,
}

impl FileId {
    /// What an open file is.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn of_file(file: &std::fs::File) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        Ok(Self { dev: meta.dev(), ino: meta.ino() })
    }

    /// What the path names now, without opening it; `None` if nothing.
    ///
    /// # Errors
    /// What the system answers, except that there is no such file.
    pub fn of_path(path: &Path) -> io::Result<Option<Self>> {
        match sys::stat_path(&c_path(path)?, true) {
            Ok(found) => Ok(Some(found.id)),
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(e) => Err(e.into_io()),
        }
    }
}

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
