//! Reading files of the spool: as the body of a put, and as a stream.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use replicate_format::crc64;

use crate::blob::{Body, BodySource};
use crate::disk::{DiskFile, SharedDisk};
use crate::error::{Error, ErrorKind, Result};

/// The body of a spool file. Reads block for the time of a local read: a few megabytes at most.
pub(super) fn of_file(disk: SharedDisk, path: PathBuf, size: u64, crc: Option<u64>) -> Body {
    Arc::new(FileBody { disk, path, size, crc })
}

#[derive(Debug)]
struct FileBody {
    disk: SharedDisk,
    path: PathBuf,
    size: u64,
    crc: Option<u64>,
}

#[async_trait]
impl BodySource for FileBody {
    fn len(&self) -> u64 {
        self.size
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let wrap = |e| Error::disk("read spool file", &self.path, e);
        let file = self.disk.open(&self.path).map_err(wrap)?;
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let read = file.read_at(range.start, &mut bytes).map_err(wrap)?;
        let whole = range.start == 0 && range.end == self.size;
        let rotten = whole && self.crc.is_some_and(|crc| crc64(&bytes) != crc);
        if read < len || rotten {
            let message = format!("spool file is damaged path={}", self.path.display());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(bytes.into())
    }
}

/// A file as a stream.
pub(super) struct Reader {
    file: Box<dyn DiskFile>,
    offset: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Reader {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, offset: 0, buffer: Vec::new(), used: 0 }
    }
}

impl io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.buffer.resize(256 * 1024, 0);
            let read = self.file.read_at(self.offset, &mut self.buffer)?;
            self.buffer.truncate(read);
            self.offset += read as u64;
            self.used = 0;
        }
        let n = out.len().min(self.buffer.len() - self.used);
        out[..n].copy_from_slice(&self.buffer[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}
