//! A disk for tests whose calls fail, or wait, when told to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Disk, DiskEntry, DiskFile, DiskLock, SharedDisk};
use crate::clock::Timestamp;

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Op {
    Create,
    Open,
    OpenRw,
    Rename,
    Remove,
    SyncDir,
    Read,
    Write,
    SetLen,
    Sync,
}

#[derive(Debug)]
struct Fault {
    op: Op,
    /// Part of the path.
    path: &'static str,
    /// Calls to let through first.
    skip: u32,
    /// Calls that fail then.
    times: u32,
    /// What they fail with; `None`: they wait until the fault is cleared.
    kind: Option<io::ErrorKind>,
    /// Calls that have met it.
    hits: u32,
}

/// What is to go wrong; shared with the disk that obeys it.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Mutex<Vec<Fault>>,
    changed: Condvar,
    free: Mutex<Option<u64>>,
}

impl Faults {
    /// From the call after `skip` ones on, `times` calls fail with `kind`.
    pub(crate) fn fail(&self, op: Op, path: &'static str, skip: u32, times: u32, kind: io::ErrorKind) {
        self.list.lock().unwrap().push(Fault { op, path, skip, times, kind: Some(kind), hits: 0 });
    }

    /// The next call waits until everything is cleared.
    pub(crate) fn hold(&self, op: Op, path: &'static str) {
        self.list.lock().unwrap().push(Fault { op, path, skip: 0, times: 1, kind: None, hits: 0 });
    }

    /// Nothing fails or waits any more.
    pub(crate) fn clear(&self) {
        self.list.lock().unwrap().clear();
        self.changed.notify_all();
    }

    /// How many calls have met a fault.
    pub(crate) fn hits(&self) -> u32 {
        self.list.lock().unwrap().iter().map(|fault| fault.hits).sum()
    }

    /// Waits until a call has met a fault.
    pub(crate) fn wait_for_hit(&self) {
        let list = self.list.lock().unwrap();
        let none = |list: &mut Vec<Fault>| list.iter().all(|fault| fault.hits == 0);
        let (_list, waited) = self.changed.wait_timeout_while(list, Duration::from_secs(20), none).unwrap();
        assert!(!waited.timed_out(), "no call has met a fault");
    }

    /// How much space the disk says it has, less with every byte written from now on; `None`: what is true.
    pub(crate) fn set_free(&self, bytes: Option<u64>) {
        *self.free.lock().unwrap() = bytes;
    }

    /// What it would say now.
    pub(crate) fn free(&self) -> Option<u64> {
        *self.free.lock().unwrap()
    }

    fn meet(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut list = self.list.lock().unwrap();
        let path = path.to_string_lossy();
        let Some(fault) = list.iter_mut().find(|f| f.op == op && f.times > 0 && path.contains(f.path)) else {
            return Ok(());
        };
        if fault.skip > 0 {
            fault.skip -= 1;
            return Ok(());
        }
        fault.times -= 1;
        fault.hits += 1;
        let kind = fault.kind;
        self.changed.notify_all();
        match kind {
            Some(kind) => Err(kind.into()),
            None => {
                drop(self.changed.wait_while(list, |list| !list.is_empty()).unwrap());
                Ok(())
            }
        }
    }
}

/// The disk.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    inner: SharedDisk,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    /// A disk over the real one.
    pub(crate) fn real() -> (SharedDisk, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        (Arc::new(Self { inner: Arc::new(super::RealDisk), faults: faults.clone() }), faults)
    }

    fn file(&self, path: &Path, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { inner, path: path.to_owned(), faults: self.faults.clone() })
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.faults.meet(Op::Create, path)?;
        Ok(self.file(path, self.inner.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.faults.meet(Op::Open, path)?;
        Ok(self.file(path, self.inner.open(path)?))
    }
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.faults.meet(Op::OpenRw, path)?;
        Ok(self.file(path, self.inner.open_rw(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.meet(Op::Rename, to)?;
        self.inner.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.meet(Op::Rename, to)?;
        self.inner.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.faults.meet(Op::Remove, path)?;
        self.inner.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.faults.meet(Op::SyncDir, path)?;
        self.inner.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        self.inner.list(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        self.inner.stat(path)
    }
    fn set_modified(&self, path: &Path, time: Timestamp) -> io::Result<()> {
        self.inner.set_modified(path, time)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        match *self.faults.free.lock().unwrap() {
            Some(bytes) => Ok(bytes),
            None => self.inner.free_space(path),
        }
    }
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.inner.try_lock(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn DiskFile>,
    path: PathBuf,
    faults: Arc<Faults>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.faults.meet(Op::Read, &self.path)?;
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.faults.meet(Op::Write, &self.path)?;
        if let Some(free) = &mut *self.faults.free.lock().unwrap() {
            *free = free.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
        }
        self.inner.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.meet(Op::SetLen, &self.path)?;
        self.inner.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn sync(&self) -> io::Result<()> {
        self.faults.meet(Op::Sync, &self.path)?;
        self.inner.sync()
    }
}
