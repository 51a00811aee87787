//! Reading files of the spool: as the body of a put, and as a stream.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use replicate_format::{Crc64, crc64};

use crate::blob::{Body, BodySource};
use crate::disk::{DiskFile, SharedDisk};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read at a time to see whether a file is intact.
const PIECE: usize = 256 * 1024;

/// A file of up to so many bytes is read once, and put from memory.
const SMALL: u64 = 64 * 1024;

/// A spool file, for a put. Reads block for the time of a local read: a few megabytes at most.
#[derive(Clone, Debug)]
pub(super) struct FileBody {
    pub(super) disk: SharedDisk,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) crc: Option<u64>,
}

impl FileBody {
    fn open(&self) -> Result<Box<dyn DiskFile>> {
        self.disk.open(&self.path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.damaged("is missing"),
            _ => Error::disk("read spool file", &self.path, e),
        })
    }

    fn damaged(&self, how: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("spool file {how} path={}", self.path.display()))
    }

    /// The body to put, once all of it was read. `Corrupt` if it is not what was written. Blocks.
    pub(super) fn checked(self) -> Result<Body> {
        if self.size > SMALL {
            self.check()?;
            return Ok(Arc::new(self));
        }
        // One more, to see where it ends.
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or_default() + 1];
        let read = self.open()?.read_at(0, &mut bytes);
        bytes.truncate(read.map_err(|e| Error::disk("read spool file", &self.path, e))?);
        self.compare(bytes.len() as u64, crc64(&bytes))?;
        Ok(Arc::new(Bytes::from(bytes)))
    }

    /// `Corrupt` unless all that was read is what was written.
    fn compare(&self, len: u64, crc: u64) -> Result<()> {
        let rotten = self.crc.is_some_and(|expected| crc != expected);
        if len != self.size || rotten { Err(self.damaged("is damaged")) } else { Ok(()) }
    }

    fn check(&self) -> Result<()> {
        let file = self.open()?;
        let (mut crc, mut offset, mut piece) = (Crc64::new(), 0, vec![0; PIECE]);
        loop {
            let read = file.read_at(offset, &mut piece).map_err(|e| Error::disk("read spool file", &self.path, e))?;
            if read == 0 {
                break;
            }
            crc.update(&piece[..read]);
            offset += read as u64;
        }
        self.compare(offset, crc.value())
    }
}

#[async_trait]
impl BodySource for FileBody {
    fn len(&self) -> u64 {
        self.size
    }

    fn tag(&self) -> Option<u64> {
        self.crc
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let read = self.open()?.read_at(range.start, &mut bytes);
        let read = read.map_err(|e| Error::disk("read spool file", &self.path, e))?;
        let whole = range.start == 0 && range.end == self.size;
        let rotten = whole && self.crc.is_some_and(|crc| crc64(&bytes) != crc);
        if read < len || rotten {
            return Err(self.damaged("is damaged"));
        }
        Ok(bytes.into())
    }
}

/// A file as a stream.
pub(crate) struct Reader {
    file: Box<dyn DiskFile>,
    offset: u64,
    buffer: Vec<u8>,
    used: usize,
    crc: Crc64,
}

impl Reader {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, offset: 0, buffer: Vec::new(), used: 0, crc: Crc64::new() }
    }

    /// CRC-64 of what has been read from the file so far: of all of it once a read has given nothing.
    pub(crate) fn crc(&self) -> u64 {
        self.crc.value()
    }
}

impl io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.buffer.resize(256 * 1024, 0);
            let read = self.file.read_at(self.offset, &mut self.buffer)?;
            self.buffer.truncate(read);
            self.crc.update(&self.buffer);
            self.offset += read as u64;
            self.used = 0;
        }
        let n = out.len().min(self.buffer.len() - self.used);
        out[..n].copy_from_slice(&self.buffer[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}
