//! A disk in memory, of one folder: as much of the trait as the local state needs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use replicate::Timestamp;
use replicate::disk::{Disk, DiskEntry, DiskFile, SharedDisk};

/// Longer files do not fit.
const ROOM: u64 = 4 << 20;

type Content = Arc<Mutex<Vec<u8>>>;

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk.
#[derive(Debug, Default)]
pub struct MemoryDisk(Mutex<BTreeMap<PathBuf, Content>>);

impl MemoryDisk {
    /// A disk with these files.
    pub fn with<'a>(files: impl IntoIterator<Item = (PathBuf, &'a [u8])>) -> SharedDisk {
        let files = files.into_iter().map(|(path, bytes)| (path, Arc::new(Mutex::new(bytes.to_vec()))));
        Arc::new(Self(Mutex::new(files.collect())))
    }

    fn existing(&self, path: &Path) -> io::Result<Content> {
        lock(&self.0).get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[derive(Debug)]
struct MemoryFile(Content);

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = lock(&self.0);
        let there = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > ROOM {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (start, end) = (offset as usize, end as usize);
        let mut content = lock(&self.0);
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > ROOM {
            return Err(io::ErrorKind::StorageFull.into());
        }
        lock(&self.0).resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = Content::default();
        lock(&self.0).insert(path.to_owned(), content.clone());
        Ok(Box::new(MemoryFile(content)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(MemoryFile(self.existing(path)?)))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = lock(&self.0).entry(path.to_owned()).or_default().clone();
        Ok(Box::new(MemoryFile(content)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.existing(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => self.rename(from, to),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path);
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let files = lock(&self.0);
        let here = files.keys().filter(|file| file.parent() == Some(path));
        Ok(here.filter_map(|file| entry(file, &files[file])).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        Ok(lock(&self.0).get(path).and_then(|content| entry(path, content)))
    }

    fn set_modified(&self, _: &Path, _: Timestamp) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(ROOM)
    }
}

fn entry(path: &Path, content: &Content) -> Option<DiskEntry> {
    let name = path.file_name()?.to_str()?.to_owned();
    Some(DiskEntry { name, len: lock(content).len() as u64, is_dir: false, modified: Timestamp(0) })
}
