//! The door on systems where it is not built yet: what would replicate refuses, restoring
//! works.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::FileId;
use crate::{Error, ErrorKind, Result};

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "replication from inside a program is not available on this system yet")
        .with_hint("run the `replicate` command, or this program, on Linux")
}

/// A file open for reading; cannot be made here.
#[derive(Debug)]
pub enum PinnedFile {}

impl PinnedFile {
    /// Refuses.
    ///
    /// # Errors
    /// Always [`ErrorKind::Unsupported`].
    pub fn open(_path: &Path) -> Result<Self> {
        Err(unsupported())
    }

    /// Unreachable.
    ///
    /// # Errors
    /// None.
    pub fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    /// Unreachable.
    ///
    /// # Errors
    /// None.
    pub fn len(&self) -> io::Result<u64> {
        match *self {}
    }

    /// Unreachable.
    ///
    /// # Errors
    /// None.
    pub fn is_empty(&self) -> io::Result<bool> {
        match *self {}
    }

    /// Unreachable.
    ///
    /// # Errors
    /// None.
    pub fn sync(&self) -> io::Result<()> {
        match *self {}
    }

    /// Unreachable.
    #[must_use]
    pub fn identity(&self) -> FileId {
        match *self {}
    }
}

/// How many descriptors the pool holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PoolSize {
    /// Files.
    pub files: usize,
    /// Descriptors in use.
    pub lent: usize,
    /// Descriptors kept for reuse.
    pub idle: usize,
}

/// Keeps everybody out of a database; cannot be made here.
#[derive(Debug)]
pub enum ReplaceGuard {}

/// Refuses.
///
/// # Errors
/// Always [`ErrorKind::Unsupported`].
pub fn guard_for_replace(_db: &Path) -> Result<ReplaceGuard> {
    Err(unsupported())
}

/// Refuses.
///
/// # Errors
/// Always [`ErrorKind::Unsupported`].
pub fn guarded_replace_check(_db: &Path) -> Result<()> {
    Err(unsupported())
}

/// Refuses.
///
/// # Errors
/// Always [`ErrorKind::Unsupported`].
pub fn probe(_state_dir: &Path, _db: &Path) -> Result<()> {
    Err(unsupported())
}

/// Refuses.
///
/// # Safety
/// None is needed.
///
/// # Errors
/// Always [`ErrorKind::Unsupported`].
pub unsafe fn isolate_sqlite() -> Result<()> {
    Err(unsupported())
}

/// Changes nothing here.
pub fn sole_sqlite() {}

/// Never here.
#[must_use]
pub fn is_isolated() -> bool {
    false
}

/// Never noticed here.
#[must_use]
pub fn forked() -> bool {
    false
}

/// Nothing to do here.
///
/// # Errors
/// None.
pub fn register_for_fork(_fd: BorrowedFd<'_>) -> Result<()> {
    Ok(())
}

/// Nothing to do here.
pub fn unregister_for_fork(_fd: BorrowedFd<'_>) {}

/// Never noticed here.
#[must_use]
pub fn descriptors_closed_externally() -> bool {
    false
}

/// Nothing is held here.
#[must_use]
pub fn pool_size() -> PoolSize {
    PoolSize::default()
}

/// Nothing is held here.
pub fn sweep_all() {}

// Restoring works here; `probe` refuses the start of a replication.
pub(super) fn refuse_forked() -> Result<()> {
    Ok(())
}

pub(super) fn forget_unused(_id: FileId) {}

pub(super) fn closed_externally() -> Error {
    Error::internal("no descriptors are held here")
}
