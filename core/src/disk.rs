//! Our own files: the spool, the page ledger, the state file, a file replica, a database being restored.
//!
//! Never the user's live database, its WAL or its shared memory: those have one door (`sqlite`). Everything
//! is behind a trait so that crashes, full disks and bit rot can be simulated. All calls block.

#[cfg(test)]
pub(crate) mod faulty;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Timestamp;

/// One entry of a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskEntry {
    /// Its name inside the folder.
    pub name: String,
    /// Bytes of a file, 0 of a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// When its content last changed.
    pub modified: Timestamp,
}

/// A file of ours, open for reading or for both.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Returns when the content is on the disk (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Has the disk begin with a stretch that was written. Proves nothing.
    fn begin_sync(&self, _stretch: Range<u64>) {}
}

/// Has the disk begin with a long file while it is written. If all of it waited for the sync at the end, whoever else waits
/// for the disk then, such as an application that commits, would wait for all of it.
#[derive(Debug, Default)]
pub struct Trickle {
    begun: u64,
}

impl Trickle {
    /// Bytes the disk is given at a time.
    const STRETCH: u64 = 4 << 20;

    /// The file has been written up to `end`.
    pub fn wrote(&mut self, file: &dyn DiskFile, end: u64) {
        if end - self.begun >= Self::STRETCH {
            file.begin_sync(self.begun..end);
            self.begun = end;
        }
    }
}

/// A lock on a file of ours, held until it is dropped or the process ends, however it ends.
pub trait DiskLock: fmt::Debug + Send + Sync {
    /// The descriptor that holds it, if one does: a forked child must let go of it.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Whether the locked file is the one that the path names: it may have been moved or removed since.
    fn is_at(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

/// The file system, as far as we use it.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a folder and its parents, mode 0700 for those it makes; fine if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates or truncates a file, mode 0600.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The same with the mode that SQLite gives a database: 0644 less the umask.
    fn create_database(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.create(path)
    }
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading and writing, creating it (mode 0600) if it is missing.
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames, replacing what was there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames; [`io::ErrorKind::AlreadyExists`] if something is there. Atomic.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; fine if it is missing.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when the names in this folder are on the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a folder, in no order; empty if the folder is missing.
    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>>;
    /// What a path names; `None` if nothing. A link is itself, not what it leads to: see [`resolve`](Self::resolve).
    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>>;
    /// Where a path leads if its last part is a link, or a link to a link; the file need not exist. SQLite follows
    /// links to a database in the same way, and makes the file there. A disk without links has nothing to do.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
    /// Gives a file the access rights of another, and, if the system lets us, its owner.
    fn copy_access(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Sets a file's modification time (a file replica keeps timestamps there).
    fn set_modified(&self, path: &Path, time: Timestamp) -> io::Result<()>;
    /// Bytes that an ordinary user can still write.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Locks a file against every other caller, in this process too, creating it (mode 0600) if it is missing;
    /// `None` if it is locked, or lost its name meanwhile: only whoever has the lock may remove the file. Never for a
    /// database: closing the descriptor drops the locks that SQLite holds on it. A disk that only one caller uses at a
    /// time needs no locks, hence the default.
    fn try_lock(&self, _path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        Ok(Some(Box::new(NoLock)))
    }
}

#[derive(Debug)]
struct NoLock;

impl DiskLock for NoLock {}

/// A shared disk.
pub type SharedDisk = Arc<dyn Disk>;

/// Reads a whole file of at most `limit` bytes; a longer one is [`io::ErrorKind::InvalidData`].
pub fn read_all(disk: &dyn Disk, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{len} bytes where at most {limit} are expected"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a file so that after a crash it has its old or its new content: temporary name, sync, rename,
/// sync of the folder.
pub fn write_atomic(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    let write = || {
        let file = disk.create(&temporary)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        disk.rename(&temporary, path)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
    };
    write().inspect_err(|_| {
        // The first error is the one to report; a leftover is swept at the next start.
        let _ = disk.remove(&temporary);
    })
}

/// The name beside `path` under which its next content is written.
#[must_use]
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// The path with something behind its name, as SQLite names `-wal` and `-shm`.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Links that are followed from one path, as many as the kernel does.
const MOST_LINKS: usize = 40;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(std::fs::File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn begin_sync(&self, stretch: Range<u64>) {
        begin_sync(self.0.as_raw_fd(), stretch);
    }
}

/// Has the disk begin with a stretch of a file that was written, all of it if the stretch is empty, and waits for no more
/// than room in the disk's queue. It proves nothing and takes no error away: what fails here fails the sync, too. Where
/// the system has no such call the sync has more to do.
#[allow(unsafe_code, reason = "a system call that no safe crate has")]
pub(crate) fn begin_sync(fd: RawFd, stretch: Range<u64>) {
    #[cfg(target_os = "linux")]
    {
        let number = |n: u64| libc::off64_t::try_from(n).unwrap_or(libc::off64_t::MAX);
        let len = number(stretch.end.saturating_sub(stretch.start));
        // SAFETY: no memory is passed; a bad descriptor is an error.
        unsafe { libc::sync_file_range(fd, number(stretch.start), len, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (fd, stretch);
}

#[derive(Debug)]
struct RealLock(std::fs::File);

impl DiskLock for RealLock {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    #[expect(clippy::disallowed_methods, reason = "the one home of our own files")]
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let locked = self.0.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (locked.dev(), locked.ino())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Drop for RealLock {
    fn drop(&mut self) {
        // Unlocked, not only closed: a forked child holds a copy of the descriptor. It cannot fail in a way
        // that closing would not cure.
        let _ = self.0.unlock();
    }
}

fn millis(time: io::Result<std::time::SystemTime>) -> Timestamp {
    let since = time.ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    Timestamp(since.and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0))
}

#[expect(clippy::disallowed_methods, reason = "the one home of our own files")]
impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn create_database(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o644);
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(std::fs::File::open(path)?)))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems know no flags; a hard link refuses an existing name just as atomically.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(from, to)?;
                std::fs::remove_file(from)
            }
            other => Ok(other?),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        std::fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let folder = match std::fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut entries = Vec::new();
        for entry in folder {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(meta) => {
                    let len = if meta.is_dir() { 0 } else { meta.len() };
                    entries.push(DiskEntry { name, len, is_dir: meta.is_dir(), modified: millis(meta.modified()) });
                }
                // Removed since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(DiskEntry {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                len: if meta.is_dir() { 0 } else { meta.len() },
                is_dir: meta.is_dir(),
                modified: millis(meta.modified()),
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut at = path.to_owned();
        for _ in 0..MOST_LINKS {
            match std::fs::read_link(&at) {
                Ok(to) => at = at.parent().unwrap_or(Path::new("")).join(to),
                // Not a link, or nothing.
                Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => return Ok(at),
                Err(e) => return Err(e),
            }
        }
        Err(rustix::io::Errno::LOOP.into())
    }

    fn copy_access(&self, from: &Path, to: &Path) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let (old, new) = (std::fs::metadata(from)?, std::fs::metadata(to)?);
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            // Only root can; for anybody else the file is his own, as after any copy.
            let _ = std::os::unix::fs::chown(to, Some(old.uid()), Some(old.gid()));
        }
        std::fs::set_permissions(to, old.permissions())
    }

    fn set_modified(&self, path: &Path, time: Timestamp) -> io::Result<()> {
        let since = std::time::Duration::from_millis(u64::try_from(time.0).unwrap_or(0));
        std::fs::OpenOptions::new().write(true).open(path)?.set_modified(std::time::UNIX_EPOCH + since)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
        }
        let lock = RealLock(file);
        // Who had it may have removed the file, or somebody the folder, between the open and the lock.
        Ok(if lock.is_at(path)? { Some(Box::new(lock)) } else { None })
    }
}
