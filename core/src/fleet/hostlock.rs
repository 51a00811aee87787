//! One replicator a database and host: a lock file in the state folder.

use std::path::Path;

use crate::disk::{Disk, DiskLock};
use crate::error::{Error, Result};
use crate::sqlite;

/// The lock, held until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct HostLock(Box<dyn DiskLock>);

impl HostLock {
    /// Takes the lock; `None` if another process, or another engine in this one, holds it.
    pub(crate) fn try_take(disk: &dyn Disk, folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("lock");
        let wrap = |e| Error::disk("take the replication lock", &path, e);
        let Some(lock) = disk.try_lock(&path).map_err(wrap)? else { return Ok(None) };
        if let Some(descriptor) = lock.descriptor() {
            // A forked child shares the lock's description: without this it would hold it on.
            sqlite::register_for_fork(descriptor)?;
        }
        Ok(Some(Self(lock)))
    }

    /// Whether others would still find this lock taken: the file in this folder is the one that is locked.
    pub(crate) fn is_at(&self, folder: &Path) -> Result<bool> {
        let path = folder.join("lock");
        self.0.is_at(&path).map_err(|e| Error::disk("look at the replication lock", &path, e))
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        if let Some(descriptor) = self.0.descriptor() {
            sqlite::unregister_for_fork(descriptor);
        }
    }
}
