//! The proof that nobody uses a database which a restore is about to replace.
//!
//! It asks the locks, not a list of processes: a connection in WAL mode holds a lock on the database and on `-shm`
//! from its first statement to its end; in other modes only during a transaction. Called by restore.

use std::path::{Path, PathBuf};

use super::inodes::Which;
use super::pinned::PinnedFile;
use super::sys::Errno;
use super::{FileId, pool};
use crate::{Error, ErrorKind, Result};

/// Keeps everybody out of a database until it is dropped. While it lives, do not open the database: our own SQLite
/// shares the lock.
#[derive(Debug)]
pub struct ReplaceGuard {
    locked: Vec<PinnedFile>,
}

impl Drop for ReplaceGuard {
    fn drop(&mut self) {
        for file in &self.locked {
            pool::unlock_whole(file.identity());
        }
        let ids: Vec<FileId> = self.locked.drain(..).map(|file| file.identity()).collect();
        ids.into_iter().for_each(|id| pool::sweep(Which::Only(id)));
    }
}

/// Locks a database and its `-shm` file, those of both that exist, against everybody. Hold the guard while renaming.
///
/// # Errors
/// [`ErrorKind::Busy`] if anybody, in this process or another, uses the database; [`ErrorKind::Disk`] if it cannot be
/// opened.
pub fn guard_for_replace(db: &Path) -> Result<ReplaceGuard> {
    let mut guard = ReplaceGuard { locked: Vec::new() };
    for path in [db.to_path_buf(), shm_of(db)] {
        if FileId::of_path(&path).map_err(|e| Error::disk("look at", &path, e))?.is_none() {
            continue;
        }
        let file = PinnedFile::open(&path)?;
        let free = pool::lock_whole(file.identity(), 1).map_err(|e| lock_failed(&path, e))?;
        if !free {
            return Err(Error::new(ErrorKind::Busy, format!("the database is in use path={}", db.display()))
                .with_hint("stop every program that has it open, or restore to another path"));
        }
        guard.locked.push(file);
    }
    Ok(guard)
}

/// Checks that nobody uses a database, without holding anybody off afterwards.
///
/// # Errors
/// As [`guard_for_replace`].
pub fn guarded_replace_check(db: &Path) -> Result<()> {
    guard_for_replace(db).map(drop)
}

fn lock_failed(path: &Path, error: Errno) -> Error {
    Error::disk("lock", path, error.into_io())
}

fn shm_of(db: &Path) -> PathBuf {
    let mut name = db.as_os_str().to_os_string();
    name.push("-shm");
    name.into()
}
