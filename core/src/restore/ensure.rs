//! A database that is missing comes back before anybody opens it, however many processes ask at once.
//!
//! They take turns at a lock in the state folder beside the database: the first restores, the others wait and
//! then find it there. A store that cannot be asked is an error, never "there is no backup". Called by `auto`
//! before replication starts.

use std::path::Path;
use std::time::Duration;

use super::fill::is_unfinished;
use super::run::{RestoreEnv, resolve, run};
use super::scratch::tidy;
use super::{Cancel, RestoreOptions, RestoreReport};
use crate::disk::{Disk, DiskEntry, DiskLock};
use crate::error::{Error, ErrorKind, Result};
use crate::spool::{state_folder, stored_before};
use crate::store::LtxStore;

/// How often a waiting process asks for its turn.
const TURN_POLL: Duration = Duration::from_millis(20);

/// Restores the newest state if there is no database at `path`, or an empty file: whoever has that open sees the restored
/// database in it. `None` if there is one already, or if there is no backup. Cancelling leaves nothing behind.
pub(crate) async fn ensure_exists(
    store: &LtxStore,
    path: &Path,
    env: &RestoreEnv,
    cancel: &Cancel,
) -> Result<Option<RestoreReport>> {
    let path = &resolve(path, env).await?;
    let (disk, at) = (env.disk.clone(), path.clone());
    env.blocking.run(move || tidy(disk.as_ref(), &at)).await;
    if file_len(path, env).await?.is_some_and(|len| len > 0) {
        return Ok(None);
    }
    let _turn = turn(path, env, cancel).await?;
    if file_len(path, env).await?.is_some_and(|len| len > 0) {
        return Ok(None);
    }
    let options = RestoreOptions { fill: true, ..RestoreOptions::new(path) };
    match run(store, &options, env, &|_| {}, cancel).await {
        Ok(report) => Ok(Some(report)),
        Err(error) if error.kind() == ErrorKind::NoBackup => no_backup(store, path, env, error).await,
        // Somebody has begun a database meanwhile. It is his, and what a missing one was asked for.
        Err(error) if error.kind() == ErrorKind::Exists && file_len(path, env).await?.is_some_and(|len| len > 0) => {
            tracing::warn!(db = %path.display(), "a database has appeared while it was restored, it is left as it is");
            Ok(None)
        }
        Err(error) => Err(error.while_doing("restore the missing database")),
    }
}

/// There is no backup, unless the local state says that there must be one: then something stands between us and the
/// replica (a folder that is not mounted, say), and a new database would be stored over it.
async fn no_backup(store: &LtxStore, path: &Path, env: &RestoreEnv, error: Error) -> Result<Option<RestoreReport>> {
    let (disk, folder, location) = (env.disk.clone(), state_folder(path), store.location());
    let stored = env.blocking.run(move || stored_before(&disk, &folder, &location)).await?;
    let Some(txid) = stored else { return Ok(None) };
    let message =
        format!("the replica is empty, but this host has stored into it txid={txid} replica={}", store.location());
    Err(Error::new(ErrorKind::Unavailable, message)
        .with_hint("see that the replica is mounted and its place is right; to begin anew remove the state folder beside the database")
        .with_source(error))
}

/// Whether there is a database, or something else with content, for which nothing is to be restored. First undoes what a
/// restore that was killed had begun.
pub(crate) fn is_there(disk: &dyn Disk, path: &Path) -> std::io::Result<bool> {
    tidy(disk, path);
    Ok(disk.stat(path)?.is_some_and(|entry| entry.len > 0) && !is_unfinished(disk, path))
}

/// Length of the database file, 0 while it is being filled; `None` if there is nothing at the path.
async fn file_len(path: &Path, env: &RestoreEnv) -> Result<Option<u64>> {
    let (disk, at) = (env.disk.clone(), path.to_path_buf());
    let look = move || {
        let entry = disk.stat(&at)?;
        let unfinished = entry.is_some() && is_unfinished(disk.as_ref(), &at);
        Ok(entry.map(|entry| if unfinished { DiskEntry { len: 0, ..entry } } else { entry }))
    };
    let entry: std::io::Result<_> = env.blocking.run(look).await;
    match entry.map_err(|e| Error::disk("look at the database", path, e))? {
        Some(entry) if entry.is_dir => {
            Err(Error::new(ErrorKind::Config, format!("the database is a folder path={}", path.display())))
        }
        entry => Ok(entry.map(|entry| entry.len)),
    }
}

async fn turn(path: &Path, env: &RestoreEnv, cancel: &Cancel) -> Result<Box<dyn DiskLock>> {
    let folder = state_folder(path);
    let lock_path = folder.join("restore.lock");
    loop {
        cancel.check()?;
        let (disk, folder, at) = (env.disk.clone(), folder.clone(), lock_path.clone());
        let lock = env.blocking.run(move || {
            disk.create_dir_all(&folder)?;
            disk.try_lock(&at)
        });
        match lock.await.map_err(|e| Error::disk("take the restore lock", &lock_path, e))? {
            Some(lock) => return Ok(lock),
            None => env.clock.sleep(TURN_POLL).await,
        }
    }
}
