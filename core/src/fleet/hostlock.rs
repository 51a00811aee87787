//! One replicator a database and host: a lock file in the state folder.

use std::fs::{File, TryLockError};
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sqlite;

/// The lock, held until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct HostLock(File);

impl HostLock {
    /// Takes the lock; `None` if another process, or another engine in this one, holds it.
    pub(crate) fn try_take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("lock");
        let wrap = |e| Error::disk("take the replication lock", &path, e);
        #[expect(clippy::disallowed_methods, reason = "a lock needs a descriptor of its own")]
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(wrap)?;
        match file.try_lock() {
            Ok(()) => {
                // A forked child shares the lock's description: without this it would hold it on.
                sqlite::register_for_fork(file.as_fd())?;
                Ok(Some(Self(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(wrap(e)),
        }
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        sqlite::unregister_for_fork(self.0.as_fd());
    }
}
