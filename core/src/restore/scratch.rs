//! The file a database is built in before it gets its name, and how it gets it.
//!
//! The scratch file lies beside the target and is locked while it is worked on, so that whoever finds one that is
//! not locked knows it for a leftover and removes it. Nothing of the target changes before
//! [`Scratch::place`], and what that moves out of the way comes back if it fails. No descriptor of the scratch
//! file is open when it gets its name: closing one afterwards would drop the locks that the host's own SQLite
//! may have taken by then. Called by `run`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::disk::{Disk, DiskFile, DiskLock, SharedDisk, with_suffix};
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite;

/// Sweeping opens scratch files and placing renames them: never both at a time in one process, or sweeping
/// could close a descriptor of a database that has just got its name.
static PLACING: Mutex<()> = Mutex::new(());

/// Makes names of scratch files differ inside this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A database under construction. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Scratch {
    disk: SharedDisk,
    target: PathBuf,
    path: PathBuf,
    lock: Option<Box<dyn DiskLock>>,
    placed: bool,
}

impl Scratch {
    /// Makes the folder of the target if need be, removes leftovers beside it, and creates an empty file there.
    pub(crate) fn create(disk: SharedDisk, target: &Path) -> Result<(Self, Box<dyn DiskFile>)> {
        let folder = folder_of(target);
        disk.create_dir_all(folder).map_err(|e| Error::disk("make the folder", folder, e))?;
        sweep(disk.as_ref(), target);
        loop {
            let path = scratch_name(target);
            let lock = disk.try_lock(&path).map_err(|e| Error::disk("lock", &path, e))?;
            // Taken by a process with the same id in another container.
            let Some(lock) = lock else { continue };
            let (target, lock) = (target.to_path_buf(), Some(lock));
            let scratch = Self { disk, target, path, lock, placed: false };
            let file = scratch.disk.create(&scratch.path);
            let file = file.map_err(|e| Error::disk("create", &scratch.path, e))?;
            return Ok((scratch, file));
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the name of the target. Every descriptor of the file must be closed.
    ///
    /// Write-ahead log and journal of an earlier database of that name are moved aside before, durably, so that
    /// not even a crash lets them meet the new one. If there was no database they stay there; if it is replaced
    /// they are removed once the new one is in place.
    ///
    /// # Errors
    /// `Exists` if there is a target and `overwrite` is false, or a folder; `Busy` if somebody uses the target;
    /// `Disk`. What the name stood for is as it was, except if the very last step, making the new name
    /// durable, fails.
    pub(crate) fn place(mut self, overwrite: bool, now: Timestamp) -> Result<()> {
        let _one = PLACING.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk, target) = (self.disk.clone(), self.target.clone());
        let replaced = refuse_existing(disk.as_ref(), &target, overwrite)?;
        let _guard = match replaced {
            true => Some(sqlite::guard_for_replace(&target)?),
            false => None,
        };
        let aside = Aside::move_there(disk.as_ref(), &target, if replaced { "replaced" } else { "orphan" }, now)?;
        match self.rename(replaced) {
            Ok(()) => self.placed = true,
            Err(error) => {
                aside.move_back(disk.as_ref());
                return Err(error);
            }
        }
        let folder = folder_of(&target);
        disk.sync_dir(folder).map_err(|e| Error::disk("make the name durable", folder, e))?;
        match replaced {
            true => aside.remove(disk.as_ref()),
            false => aside.tell(),
        }
        Ok(())
    }

    fn rename(&mut self, replace: bool) -> Result<()> {
        self.lock = None;
        let renamed = match replace {
            true => self.disk.rename(&self.path, &self.target),
            false => self.disk.rename_new(&self.path, &self.target),
        };
        renamed.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.target),
            _ => Error::disk("name the restored database", &self.target, e),
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.placed {
            // The failure that led here is the one to report; the next restore sweeps what stays.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// Whether there is something that would be replaced.
///
/// # Errors
/// `Exists` if it may not be, or is a folder.
pub(crate) fn refuse_existing(disk: &dyn Disk, target: &Path, overwrite: bool) -> Result<bool> {
    match disk.stat(target).map_err(|e| Error::disk("look at the output", target, e))? {
        None => Ok(false),
        Some(entry) if entry.is_dir => {
            Err(Error::new(ErrorKind::Exists, format!("the output is a folder path={}", target.display())))
        }
        Some(_) if overwrite => Ok(true),
        Some(_) => Err(exists(target)),
    }
}

fn exists(target: &Path) -> Error {
    Error::new(ErrorKind::Exists, format!("the output exists path={}", target.display()))
        .with_hint("choose another path, or ask for overwriting")
}

/// The folder of a path; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what restores of this target have left behind that no longer run.
fn sweep(disk: &dyn Disk, target: &Path) {
    let _one = PLACING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder_of(target);
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else {
        return;
    };
    let prefix = format!(".{name}.restore-");
    // A leftover does no harm but for the space it takes, and the next restore tries again.
    for entry in disk.list(folder).unwrap_or_default() {
        if !entry.is_dir && entry.name.starts_with(&prefix) && entry.name.ends_with(".tmp") {
            let path = folder.join(entry.name);
            if let Ok(Some(_lock)) = disk.try_lock(&path) {
                let _ = disk.remove(&path);
            }
        }
    }
}

fn scratch_name(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    let (process, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    name.push(format!(".restore-{process}-{count}.tmp"));
    target.with_file_name(name)
}

/// Files of an earlier database, moved where SQLite does not look for them: the name, and the name it had.
#[derive(Debug, Default)]
struct Aside(Vec<(PathBuf, PathBuf)>);

impl Aside {
    fn move_there(disk: &dyn Disk, target: &Path, why: &str, now: Timestamp) -> Result<Self> {
        let mut aside = Self::default();
        match aside.try_move(disk, target, why, now) {
            Ok(()) => Ok(aside),
            Err((path, error)) => {
                aside.move_back(disk);
                Err(Error::disk("move aside", &path, error))
            }
        }
    }

    fn try_move(
        &mut self,
        disk: &dyn Disk,
        target: &Path,
        why: &str,
        now: Timestamp,
    ) -> Result<(), (PathBuf, io::Error)> {
        for suffix in ["-wal", "-journal"] {
            let from = with_suffix(target, suffix);
            if disk.stat(&from).map_err(|e| (from.clone(), e))?.is_some() {
                let to = self.free_name(disk, &from, why, now).map_err(|e| (from.clone(), e))?;
                self.0.push((to, from));
            }
        }
        // It holds no data, and whoever still has an earlier database open keeps the file without its name.
        let shm = with_suffix(target, "-shm");
        disk.remove(&shm).map_err(|e| (shm, e))?;
        let folder = folder_of(target);
        disk.sync_dir(folder).map_err(|e| (folder.to_path_buf(), e))
    }

    fn free_name(&self, disk: &dyn Disk, from: &Path, why: &str, now: Timestamp) -> io::Result<PathBuf> {
        for number in now.0.. {
            let to = with_suffix(from, &format!(".{why}-{number}"));
            match disk.rename_new(from, &to) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| to),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn move_back(&self, disk: &dyn Disk) {
        for (aside, original) in &self.0 {
            if let Err(error) = disk.rename_new(aside, original) {
                tracing::warn!(path = %aside.display(), %error, "a file that was moved aside could not be moved back");
            }
        }
    }

    fn remove(&self, disk: &dyn Disk) {
        for (aside, _) in &self.0 {
            if let Err(error) = disk.remove(aside) {
                tracing::warn!(path = %aside.display(), %error, "a file of the replaced database could not be removed");
            }
        }
    }

    fn tell(&self) {
        for (aside, _) in &self.0 {
            tracing::warn!(path = %aside.display(), "a log without its database was moved aside, not applied");
        }
    }
}
