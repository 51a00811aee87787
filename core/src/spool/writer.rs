//! Writing one file of the spool.

use std::io;
use std::path::{Path, PathBuf};

use replicate_format::Crc64;

use crate::disk::{DiskFile, SharedDisk, Trickle, temporary_name};
use crate::error::{Error, Result};

/// Bytes gathered before a write.
const BUFFER: usize = 256 * 1024;

/// A file being written under a temporary name; dropped unpublished, it is removed.
#[derive(Debug)]
pub(crate) struct SpoolWriter {
    disk: SharedDisk,
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    trickle: Trickle,
    buffer: Vec<u8>,
    written: u64,
    crc: Crc64,
}

impl SpoolWriter {
    pub(super) fn create(disk: SharedDisk, path: PathBuf) -> Result<Self> {
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
        Ok(Self { disk, path, file: Some(file), trickle, buffer, written: 0, crc: Crc64::new() })
    }

    fn drain(&mut self) -> io::Result<()> {
        if let (Some(file), false) = (&self.file, self.buffer.is_empty()) {
            file.write_at(self.written, &self.buffer)?;
            self.crc.update(&self.buffer);
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
            self.trickle.wrote(file.as_ref(), self.written);
        }
        Ok(())
    }

    /// Size and CRC-64 of the published file.
    pub(super) fn publish(mut self) -> Result<(u64, u64)> {
        let publish = |this: &mut Self| {
            this.drain()?;
            if let (Some(file), false) = (&this.file, mutant!(FileSyncMissing)) {
                file.sync()?;
            }
            point!(SpoolSynced);
            this.disk.rename(&temporary_name(&this.path), &this.path)?;
            this.file = None;
            point!(SpoolRenamed);
            if mutant!(FolderSyncMissing) {
                return Ok(());
            }
            let named = this.disk.sync_dir(this.path.parent().unwrap_or(Path::new(".")));
            // Nobody knows of it: under this name it would be found at the next start.
            named.inspect_err(|_| drop(this.disk.remove(&this.path)))
        };
        publish(&mut self).map_err(|e| Error::disk("write spool file", &self.path, e))?;
        point!(SpoolPublished);
        Ok((self.written, self.crc.value()))
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
