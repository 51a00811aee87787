//! The file a database is built in before it gets its name, and how it gets it.
//!
//! The scratch file lies beside the target, with a lock file of its own that is held until the scratch file has its
//! name, so that whoever finds one whose lock is free knows it for a leftover and removes it ([`tidy`]). Nothing of
//! the target changes before [`Scratch::place`], and what that moves out of the way comes back if it fails, or, if the
//! process was killed, with the next look at the target. It has the mode that SQLite would give a new database, or that of
//! the one it replaces. No descriptor of the scratch file is open when it gets its
//! name: closing one afterwards would drop the locks that the host's own SQLite may have taken by then. Called by
//! `run` and `ensure`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fill;
use crate::clock::Timestamp;
use crate::disk::{Disk, DiskEntry, DiskFile, DiskLock, SharedDisk, with_suffix};
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite;

/// One file at a time gets its name in a process.
static PLACING: Mutex<()> = Mutex::new(());

/// So many names of lock files are tried.
const LOCK_TRIES: u32 = 100;

/// Makes names of scratch files differ inside this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A database under construction. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Scratch {
    disk: SharedDisk,
    target: PathBuf,
    id: String,
    path: PathBuf,
    lock: Option<Box<dyn DiskLock>>,
    placed: bool,
}

impl Scratch {
    /// Makes the folder of the target if need be, removes leftovers beside it, and creates an empty file there.
    pub(crate) fn create(disk: SharedDisk, target: &Path, now: Timestamp) -> Result<(Self, Box<dyn DiskFile>)> {
        let folder = folder_of(target);
        disk.create_dir_all(folder).map_err(|e| Error::disk("make the folder", folder, e))?;
        tidy(disk.as_ref(), target);
        for _ in 0..LOCK_TRIES {
            let (process, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
            let id = format!("{process}-{count}-{}", now.0.max(0));
            let lock_path = beside(target, &id, LOCK);
            let lock = disk.try_lock(&lock_path).map_err(|e| Error::disk("lock", &lock_path, e))?;
            // Taken by a process with the same id in another container, or by one that sweeps.
            let Some(lock) = lock else { continue };
            let (path, target, lock) = (beside(target, &id, FILE), target.to_path_buf(), Some(lock));
            let scratch = Self { disk, target, id, path, lock, placed: false };
            let file = scratch.disk.create_database(&scratch.path);
            let file = file.map_err(|e| Error::disk("create", &scratch.path, e))?;
            return Ok((scratch, file));
        }
        let message = format!("no lock file keeps its lock and its name folder={}", folder.display());
        Err(Error::new(ErrorKind::Disk, message).with_hint("restore to a local file system"))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the name of the target. Every descriptor of the file must be closed.
    ///
    /// Write-ahead log and journal of an earlier database of that name are moved aside before, durably, so that
    /// not even a crash lets them meet the new one. If there was no database they stay there; if it is replaced
    /// they are removed once the new one is in place. While anything is moved the name is taken and locked, so that
    /// nobody can begin a database whose log would be moved. An empty file is not replaced but filled ([`fill`]).
    ///
    /// # Errors
    /// `Exists` if there is a target that may not be replaced, or a folder; `Busy` if somebody uses the target;
    /// `Disk`. What the name stood for is as it was, except if the very last step, making the new name
    /// durable, fails.
    pub(crate) fn place(mut self, existing: Existing, now: Timestamp) -> Result<()> {
        let _one = PLACING.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk, target) = (self.disk.clone(), self.target.clone());
        point!(RestoreWritten);
        let replaced = there(disk.as_ref(), &target, existing)?;
        let claimed = replaced.is_none() && claim(disk.as_ref(), &target)?;
        let guard = match replaced.is_some() || claimed {
            true => Some(sqlite::guard_for_replace(&target)),
            false => None,
        };
        let _guard = match guard.transpose() {
            // Somebody was faster: it is a database of theirs now.
            Err(error) if claimed && error.kind() == ErrorKind::Busy => return Err(exists(&target)),
            other => other?,
        };
        // Nobody can write it now, but somebody may have since the first look.
        let replaced = if replaced.is_some() { there(disk.as_ref(), &target, existing)? } else { None };
        let fill = claimed || replaced.as_ref().is_some_and(|old| old.len == 0);
        if replaced.is_some() && !fill {
            // Nobody may read the new one who could not read the old one.
            disk.copy_access(&target, &self.path).map_err(|e| Error::disk("copy the access rights", &target, e))?;
        }
        let why = match &replaced {
            _ if fill => Some(format!(".orphan-{}", now.0)),
            Some(old) => Some(format!("{REPLACED}{}-{}", self.id, old.modified.0)),
            None => None,
        };
        let moved = match &why {
            Some(why) => Aside::move_there(disk.as_ref(), &target, why),
            None => Ok(Aside::default()),
        };
        point!(RestoreAside);
        let placed = moved.and_then(|aside| match self.get_name(fill, why.is_some()) {
            Ok(()) => Ok(aside),
            Err(error) => {
                aside.move_back(disk.as_ref());
                Err(error)
            }
        });
        let aside = placed.inspect_err(|_| {
            if claimed {
                // It is empty, and nobody could get into it.
                let _ = disk.remove(&target);
            }
        })?;
        // What a file was filled from is a leftover.
        self.placed = !fill;
        point!(RestoreRenamed);
        let folder = folder_of(&target);
        disk.sync_dir(folder).map_err(|e| Error::disk("make the name durable", folder, e))?;
        match replaced {
            Some(_) if !fill => aside.remove(disk.as_ref()),
            _ => aside.tell(),
        }
        Ok(())
    }

    fn get_name(&self, fill: bool, replace: bool) -> Result<()> {
        if fill {
            return fill::fill(self.disk.as_ref(), &self.path, &self.target);
        }
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
        // The failure that led here is the one to report; the next restore sweeps what stays.
        if !self.placed {
            let _ = self.disk.remove(&self.path);
        }
        let _ = self.disk.remove(&beside(&self.target, &self.id, LOCK));
        self.lock = None;
    }
}

/// What may become of a target that exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Existing {
    /// It is refused.
    Refuse,
    /// An empty file is filled, anything else is refused.
    Fill,
    /// It is replaced, or filled if it is empty.
    Replace,
}

/// Refuses what may not be replaced.
///
/// # Errors
/// `Exists` if it may not be, or is a folder.
pub(crate) fn refuse_existing(disk: &dyn Disk, target: &Path, existing: Existing) -> Result<()> {
    there(disk, target, existing).map(drop)
}

fn there(disk: &dyn Disk, target: &Path, existing: Existing) -> Result<Option<DiskEntry>> {
    match disk.stat(target).map_err(|e| Error::disk("look at the output", target, e))? {
        None => Ok(None),
        Some(entry) if entry.is_dir => {
            Err(Error::new(ErrorKind::Exists, format!("the output is a folder path={}", target.display())))
        }
        Some(entry) if existing == Existing::Replace => Ok(Some(entry)),
        Some(entry) if existing == Existing::Fill && entry.len == 0 => Ok(Some(entry)),
        Some(_) => Err(exists(target)),
    }
}

/// If an earlier database has left log, journal or index: takes the target's name with an empty file, so that
/// nobody else begins a database there while they are moved. Whether it did.
fn claim(disk: &dyn Disk, target: &Path) -> Result<bool> {
    let wrap = |e| Error::disk("take the name", target, e);
    let mut left = false;
    for suffix in ["-wal", "-journal", "-shm"] {
        left |= disk.stat(&with_suffix(target, suffix)).map_err(wrap)?.is_some();
    }
    if left {
        // Whoever still has the earlier database open would be disturbed.
        drop(sqlite::guard_for_replace(target)?);
        let empty = crate::disk::temporary_name(target);
        drop(disk.create_database(&empty).map_err(wrap)?);
        disk.rename_new(&empty, target).map_err(|e| {
            let _ = disk.remove(&empty);
            if e.kind() == io::ErrorKind::AlreadyExists { exists(target) } else { wrap(e) }
        })?;
    }
    Ok(left)
}

fn exists(target: &Path) -> Error {
    Error::new(ErrorKind::Exists, format!("the output exists path={}", target.display()))
        .with_hint("choose another path, or ask for overwriting")
}

/// The folder of a path; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The parts of a scratch file's name.
const FILE: &str = ".tmp";
const LOCK: &str = ".lock";
/// Begins the end of the name of a log that was moved out of the way of a new database: then come the id of the
/// scratch file and the time of the last change of the old database.
const REPLACED: &str = ".replaced-";

/// Removes what restores of this target have left behind that no longer run. If one was killed between moving the log
/// of the old database aside and replacing that database, the log comes back: it holds commits.
pub(crate) fn tidy(disk: &dyn Disk, target: &Path) {
    fill::undo(disk, target);
    let folder = folder_of(target);
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else {
        return;
    };
    let prefix = format!(".{name}.restore-");
    let entries = disk.list(folder).unwrap_or_default();
    let id = |entry: &DiskEntry| {
        let rest = entry.name.strip_prefix(&prefix)?;
        Some(rest.strip_suffix(FILE).or_else(|| rest.strip_suffix(LOCK))?.to_owned())
    };
    let ids: BTreeSet<_> = entries.iter().filter(|entry| !entry.is_dir).filter_map(id).collect();
    for id in ids {
        let (file, lock) = (beside(target, &id, FILE), beside(target, &id, LOCK));
        let Ok(Some(_held)) = disk.try_lock(&lock) else { continue };
        // A leftover does no harm but for the space it takes, and the next look tries again.
        match settle(disk, target, &entries, &id) {
            Ok(()) => {
                let _ = disk.remove(&file);
                let _ = disk.remove(&lock);
            }
            Err(error) => tracing::warn!(db = %target.display(), %error, "an interrupted restore could not be undone"),
        }
    }
}

/// Moves back what a restore that was killed had moved aside, or removes it if that restore had got so far that the
/// new database was in place: then its scratch file is gone, and the database is another one than it was.
fn settle(disk: &dyn Disk, target: &Path, entries: &[DiskEntry], id: &str) -> Result<()> {
    let wrap = |e| Error::disk("undo an interrupted restore", target, e);
    for suffix in ["-wal", "-journal"] {
        let original = with_suffix(target, suffix);
        let prefix = format!("{}{REPLACED}{id}-", original.file_name().unwrap_or_default().to_string_lossy());
        let found = entries.iter().find_map(|entry| Some((&entry.name, entry.name.strip_prefix(&prefix)?)));
        let Some((name, modified)) = found else { continue };
        let aside = folder_of(target).join(name);
        let _guard = sqlite::guard_for_replace(target)?;
        let pending = disk.stat(&beside(target, id, FILE)).map_err(wrap)?.is_some();
        let now = disk.stat(target).map_err(wrap)?.map(|entry| entry.modified.0.to_string());
        match (pending, now.as_deref() == Some(modified)) {
            (true, true) => {
                disk.rename_new(&aside, &original).map_err(wrap)?;
                disk.sync_dir(folder_of(target)).map_err(wrap)?;
                tracing::warn!(db = %target.display(), "a restore was killed, the log of the database is back");
            }
            (false, false) => disk.remove(&aside).map_err(wrap)?,
            _ => tracing::warn!(log = name, "the database was changed since its log was moved, leaving the log there"),
        }
    }
    Ok(())
}

/// `.<name>.restore-<id><end>`, beside the target.
fn beside(target: &Path, id: &str, end: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".restore-{id}{end}"));
    target.with_file_name(name)
}

/// Files of an earlier database, moved where SQLite does not look for them: the name, and the name it had.
#[derive(Debug, Default)]
struct Aside(Vec<(PathBuf, PathBuf)>);

impl Aside {
    fn move_there(disk: &dyn Disk, target: &Path, end: &str) -> Result<Self> {
        let mut aside = Self::default();
        match aside.try_move(disk, target, end) {
            Ok(()) => Ok(aside),
            Err((path, error)) => {
                aside.move_back(disk);
                Err(Error::disk("move aside", &path, error))
            }
        }
    }

    fn try_move(&mut self, disk: &dyn Disk, target: &Path, end: &str) -> Result<(), (PathBuf, io::Error)> {
        for suffix in ["-wal", "-journal"] {
            let from = with_suffix(target, suffix);
            if disk.stat(&from).map_err(|e| (from.clone(), e))?.is_some() {
                let to = free_name(disk, &from, end).map_err(|e| (from.clone(), e))?;
                self.0.push((to, from));
            }
        }
        // It holds no data, and whoever still has an earlier database open keeps the file without its name.
        let shm = with_suffix(target, "-shm");
        disk.remove(&shm).map_err(|e| (shm, e))?;
        let folder = folder_of(target);
        disk.sync_dir(folder).map_err(|e| (folder.to_path_buf(), e))
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

/// Renames to a name with this end, or with a number behind it.
fn free_name(disk: &dyn Disk, from: &Path, end: &str) -> io::Result<PathBuf> {
    let mut to = with_suffix(from, end);
    for number in 1.. {
        match disk.rename_new(from, &to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => to = with_suffix(from, &format!("{end}.{number}")),
            other => return other.map(|()| to),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
