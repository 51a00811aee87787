//! Writing one file of the spool.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sums::{Summing, Sums};
use crate::disk::{DiskFile, SharedDisk, Trickle, temporary_name};
use crate::error::{Error, Result};

/// Bytes gathered before a write.
const BUFFER: usize = 256 * 1024;

/// A file being written under a temporary name; dropped unpublished, it is removed.
#[derive(Debug)]
pub(crate) struct SpoolWriter {
    disk: SharedDisk,
    path: PathBuf,
    strays: Arc<AtomicBool>,
    file: Option<Box<dyn DiskFile>>,
    trickle: Trickle,
    buffer: Vec<u8>,
    written: u64,
    sums: Summing,
}

impl SpoolWriter {
    /// `strays` is set if a file may be left under its name that is not one of the spool.
    pub(super) fn create(disk: SharedDisk, path: PathBuf, strays: Arc<AtomicBool>) -> Result<Self> {
        let temporary = temporary_name(&path);
        let file = match disk.create(&temporary) {
            // Somebody has removed the folder.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                disk.create_dir_all(path.parent().unwrap_or(Path::new("."))).and_then(|()| disk.create(&temporary))
            }
            other => other,
        };
        let file = file.map_err(|e| Error::disk("create spool file", &temporary, e))?;
        let (trickle, buffer) = (Trickle::default(), Vec::with_capacity(BUFFER));
        Ok(Self { disk, path, strays, file: Some(file), trickle, buffer, written: 0, sums: Summing::default() })
    }

    fn drain(&mut self) -> io::Result<()> {
        if let (Some(file), false) = (&self.file, self.buffer.is_empty()) {
            file.write_at(self.written, &self.buffer)?;
            self.sums.update(&self.buffer);
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
            self.trickle.wrote(file.as_ref(), self.written);
        }
        Ok(())
    }

    /// Gives it its name, for good.
    fn named(&mut self) -> io::Result<()> {
        self.disk.rename(&temporary_name(&self.path), &self.path)?;
        self.file = None;
        point!(SpoolRenamed);
        if mutant!(FolderSyncMissing) {
            return Ok(());
        }
        self.disk.sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }

    /// Size and checksums of the published file.
    pub(super) fn publish(mut self) -> Result<(u64, Sums)> {
        let publish = |this: &mut Self| {
            this.drain()?;
            if let (Some(file), false) = (&this.file, mutant!(FileSyncMissing)) {
                file.sync()?;
            }
            point!(SpoolSynced);
            this.named().inspect_err(|_| {
                // Nobody knows of it: under this name it would be found at the next start.
                if this.disk.remove(&this.path).is_err() {
                    this.strays.store(true, Ordering::Relaxed);
                }
            })
        };
        publish(&mut self).map_err(|e| Error::disk("write spool file", &self.path, e))?;
        point!(SpoolPublished);
        Ok((self.written, std::mem::take(&mut self.sums).finish()))
    }
}

impl io::Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.drain()?;
        }
        if bytes.len() >= BUFFER {
            self.buffer.extend_from_slice(bytes);
            self.drain()?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Swept at the next start if this fails too.
            let _ = self.disk.remove(&temporary_name(&self.path));
        }
    }
}
