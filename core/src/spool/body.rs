//! Reading files of the spool: as the body of a put, and as a stream.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::sums::{BLOCK, Summing, Sums};
use crate::blob::BodySource;
use crate::disk::{DiskFile, SharedDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Blocking;

/// A spool file, for a put. What is read is what was written; `Corrupt` if it is not, or nobody knows what was.
#[derive(Clone, Debug)]
pub(super) struct FileBody {
    pub(super) disk: SharedDisk,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) sums: Option<Sums>,
    pub(super) blocking: Blocking,
    /// Memory of reads whose bytes are no longer used.
    pub(super) spare: Arc<Spare>,
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

    fn read_now(&self, range: Range<u64>) -> Result<Bytes> {
        // Whole blocks, because each has one checksum.
        let first = range.start / BLOCK as u64;
        let start = first * BLOCK as u64;
        let end = range.end.next_multiple_of(BLOCK as u64).min(self.size).max(range.end);
        let index = |offset: u64| usize::try_from(offset).map_err(|_| Error::internal("a part beyond all memory"));
        let mut bytes = Spare::lend(&self.spare, index(end.saturating_sub(start))?);
        let read = self.open()?.read_at(start, &mut bytes.memory);
        let read = read.map_err(|e| Error::disk("read spool file", &self.path, e))?;
        let whole = self.sums.as_ref().is_some_and(|sums| sums.hold(first as usize, &bytes.memory));
        if read < bytes.memory.len() || !(whole || mutant!(SpoolUnchecked)) {
            return Err(self.damaged("is damaged"));
        }
        Ok(Bytes::from_owner(bytes).slice(index(range.start - start)?..index(range.end - start)?))
    }
}

#[async_trait]
impl BodySource for FileBody {
    fn len(&self) -> u64 {
        self.size
    }

    fn tag(&self) -> Option<u64> {
        self.sums.as_ref().map(Sums::tag)
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let this = self.clone();
        self.blocking.run(move || this.read_now(range)).await
    }
}

/// Memory that goes from one read of a body to a later one while bytes of another are in use, as parts of an upload are:
/// taking it anew, in zeros, costs as much as the read.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    lent: usize,
    free: Vec<Vec<u8>>,
}

/// Memory that comes back when nobody uses it any more.
struct Lent {
    memory: Vec<u8>,
    home: Arc<Spare>,
}

impl Spare {
    fn get(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(this: &Arc<Self>, len: usize) -> Lent {
        let mut all = this.get();
        all.lent += 1;
        let mut memory = all.free.pop().unwrap_or_default();
        drop(all);
        memory.resize(len, 0);
        Lent { memory, home: this.clone() }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut all = self.home.get();
        all.lent -= 1;
        match all.lent {
            0 => all.free.clear(),
            _ => all.free.push(std::mem::take(&mut self.memory)),
        }
    }
}

/// A file as a stream.
pub(crate) struct Reader {
    file: Box<dyn DiskFile>,
    offset: u64,
    buffer: Vec<u8>,
    used: usize,
    sums: Summing,
}

impl Reader {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, offset: 0, buffer: Vec::new(), used: 0, sums: Summing::default() }
    }

    /// The checksums of what has been read from the file: of all of it once a read has given nothing.
    pub(crate) fn into_sums(self) -> Sums {
        self.sums.finish()
    }
}

impl io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.buffer.resize(256 * 1024, 0);
            let read = self.file.read_at(self.offset, &mut self.buffer)?;
            self.buffer.truncate(read);
            self.sums.update(&self.buffer);
            self.offset += read as u64;
            self.used = 0;
        }
        let n = out.len().min(self.buffer.len() - self.used);
        out[..n].copy_from_slice(&self.buffer[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use replicate_format::{Level, Txid, TxidRange};

    use super::super::Spool;
    use super::*;
    use crate::blob::Body;
    use crate::clock::Timestamp;
    use crate::disk::RealDisk;
    use futures_util::FutureExt as _;

    /// The body of a file of three blocks and a bit, and where it lies.
    fn body(folder: &std::path::Path, bytes: &[u8]) -> (Body, PathBuf) {
        let mut spool = Spool::open(Arc::new(RealDisk), folder).unwrap();
        let (level, txids) = (Level::L0, TxidRange::single(Txid(1)).unwrap());
        let mut writer = spool.create(level, txids).unwrap();
        bytes.chunks(1000).for_each(|piece| writer.write_all(piece).unwrap());
        let file = Spool::publish(writer, level, txids, Timestamp(0)).unwrap();
        spool.add(file.clone());
        (spool.body(&file, Blocking::Inline), spool.path(level, txids))
    }

    #[test]
    fn every_part_of_a_file_is_what_was_written_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..BLOCK * 3 + 777).map(|n| (n / 13) as u8).collect();
        let (body, path) = body(folder.path(), &bytes);
        let read = |range: Range<usize>| body.read(range.start as u64..range.end as u64).now_or_never().unwrap();
        for range in
            [0..bytes.len(), 0..1, 7..BLOCK, BLOCK - 1..BLOCK + 1, BLOCK..BLOCK * 3, BLOCK * 3 + 1..bytes.len()]
        {
            assert_eq!(read(range.clone()).unwrap(), bytes[range]);
        }

        let mut rotten = bytes.clone();
        rotten[BLOCK + 5] ^= 1;
        std::fs::write(&path, &rotten).unwrap();
        for range in [0..BLOCK, BLOCK * 2..bytes.len()] {
            assert_eq!(read(range.clone()).unwrap(), bytes[range], "another block");
        }
        for range in [0..bytes.len(), BLOCK..BLOCK + 1, BLOCK * 2 - 1..BLOCK * 2] {
            assert_eq!(read(range).unwrap_err().kind(), ErrorKind::Corrupt);
        }

        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read(0..BLOCK).unwrap(), bytes[..BLOCK]);
        assert_eq!(read(BLOCK * 3..BLOCK * 3 + 1).unwrap_err().kind(), ErrorKind::Corrupt, "it is too short");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(0..1).unwrap_err().kind(), ErrorKind::Corrupt, "it is gone");
    }

    #[test]
    fn memory_is_used_again_while_some_is_in_use_and_given_back_after() {
        let home = Arc::new(Spare::default());
        let free = || home.get().free.len();
        let (first, second) = (Spare::lend(&home, 100), Spare::lend(&home, 100));
        drop(first);
        assert_eq!(free(), 1);
        let third = Spare::lend(&home, 200);
        assert_eq!((free(), third.memory.len()), (0, 200));
        drop((second, third));
        assert_eq!(free(), 0);
    }
}
