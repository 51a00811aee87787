//! One checksum a page: what the last capture says each page of the database is.
//!
//! When the WAL's continuity was lost (the process was down, somebody else reset the WAL), the database is
//! compared with the ledger and only pages that differ are captured.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "RPLLEDG1"
//!      8     8  txid L, big-endian: the ledger is that of the database after capture L
//!     16     4  page size
//!     20     4  pages
//!     24     8  CRC-64 of bytes 0..24
//!     32   8*n  page checksums (LTX section "page checksum": bit 63 is always set), big-endian; 0 = unknown
//! ```
//!
//! The file is touched only when everything after L lies in the spool, on the disk; until then changes are
//! kept in memory. So a crash at any moment leaves the ledger of L plus the captures that follow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use replicate_format::{PageSize, Pgno, Txid, crc64};

use crate::disk::{DiskFile, SharedDisk, temporary_name};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"RPLLEDG1";
const HEADER: u64 = 32;
/// Changes in memory from which they are written out: about 3 MB of map.
const OVERLAY_LIMIT: usize = 32 * 1024;
/// Checksums read at a time when the whole ledger is walked.
const WINDOW: u32 = 8 * 1024;

/// The checksums of one database's pages.
#[derive(Debug)]
pub(crate) struct Ledger {
    disk: SharedDisk,
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    base: Base,
    /// Changes since L.
    overlay: BTreeMap<u32, u64>,
    /// The smallest size the database has had since L: entries of the file beyond it are stale.
    floor: u32,
    pages: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Base {
    txid: Txid,
    page_size: u32,
    pages: u32,
}

impl Base {
    fn encode(self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.txid.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.pages.to_be_bytes());
        let crc = crc64(&bytes[..24]);
        bytes[24..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER as usize]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        if bytes[..8] != MAGIC || long(24) != crc64(&bytes[..24]) {
            return None;
        }
        Some(Self { txid: Txid(long(8)), page_size: word(16), pages: word(20) })
    }
}

impl Ledger {
    /// Opens the ledger of a state folder. One that is missing or not whole counts as empty. `newest` is
    /// the last capture of the spool: a ledger that was being replaced for it is taken over.
    pub(crate) fn open(disk: SharedDisk, folder: &Path, newest: Option<Txid>) -> Result<Self> {
        let path = folder.join("ledger");
        let wrap = |e| Error::disk("open ledger", &path, e);
        let temporary = temporary_name(&path);
        match (read_base(&disk, &temporary).map_err(wrap)?, newest) {
            (Some((base, _)), Some(newest)) if base.txid == newest => {
                disk.rename(&temporary, &path).map_err(wrap)?;
                disk.sync_dir(folder).map_err(wrap)?;
            }
            _ => forget_temporary(&disk, &temporary).map_err(wrap)?,
        }
        let mut ledger = Self {
            disk: disk.clone(),
            path: path.clone(),
            file: None,
            base: Base { txid: Txid::ZERO, page_size: 0, pages: 0 },
            overlay: BTreeMap::new(),
            floor: 0,
            pages: 0,
        };
        if let Some((base, file)) = read_base(&disk, &path).map_err(wrap)? {
            ledger.floor = base.pages;
            ledger.pages = base.pages;
            ledger.base = base;
            ledger.file = Some(file);
        }
        Ok(ledger)
    }

    /// The capture the file on the disk is of; zero if there is none.
    pub(crate) fn durable(&self) -> Txid {
        self.base.txid
    }

    /// Pages of the database as of the last change.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// The page size it was made for; `None` if it knows nothing.
    pub(crate) fn page_size(&self) -> Option<PageSize> {
        PageSize::new(self.base.page_size)
    }

    /// Records a page of a capture.
    pub(crate) fn set(&mut self, pgno: Pgno, checksum: u64) {
        self.overlay.insert(pgno.get(), checksum);
    }

    /// Records the size of the database after a capture.
    pub(crate) fn set_pages(&mut self, pages: u32) {
        if pages < self.pages {
            self.overlay.split_off(&(pages + 1));
            self.floor = self.floor.min(pages);
        }
        self.pages = pages;
    }

    /// Whether the changes in memory should be written out.
    pub(crate) fn is_heavy(&self) -> bool {
        self.overlay.len() >= OVERLAY_LIMIT
    }

    /// Whether anything is not yet in the file.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.overlay.is_empty() || self.floor < self.base.pages || self.pages != self.base.pages
    }

    /// Writes the changes out: the ledger is that of `txid` from now on. Everything up to `txid` must be in
    /// the spool, on the disk.
    pub(crate) fn flush(&mut self, txid: Txid) -> Result<()> {
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        let Some(file) = &self.file else { return Ok(()) };
        if txid == self.base.txid && !self.is_dirty() {
            return Ok(());
        }
        if self.floor < self.base.pages {
            // What grew again after a cut and is not in memory must read as unknown.
            file.set_len(HEADER + 8 * u64::from(self.floor)).map_err(wrap)?;
        }
        file.set_len(HEADER + 8 * u64::from(self.pages)).map_err(wrap)?;
        let mut run: Vec<u8> = Vec::new();
        let mut start = 0;
        let mut next = 0;
        for (&pgno, &checksum) in &self.overlay {
            if pgno != next || run.len() >= 1 << 20 {
                write_run(file.as_ref(), start, &mut run).map_err(wrap)?;
                start = pgno;
            }
            run.extend_from_slice(&checksum.to_be_bytes());
            next = pgno + 1;
        }
        write_run(file.as_ref(), start, &mut run).map_err(wrap)?;
        file.sync().map_err(wrap)?;
        let base = Base { txid, pages: self.pages, ..self.base };
        file.write_at(0, &base.encode()).map_err(wrap)?;
        file.sync().map_err(wrap)?;
        self.base = base;
        self.floor = base.pages;
        self.overlay.clear();
        Ok(())
    }

    /// Walks the checksums from page 1 on; unknown ones are 0.
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk { ledger: self, first: 1, window: Vec::new() }
    }

    fn load(&self, first: u32, count: u32) -> Result<Vec<u64>> {
        let mut checksums = vec![0; count as usize];
        let in_file = self.floor.min(self.base.pages).saturating_sub(first - 1).min(count) as usize;
        if let (Some(file), true) = (&self.file, in_file > 0) {
            let mut bytes = vec![0; in_file * 8];
            let wrap = |e| Error::disk("read ledger", &self.path, e);
            let read = file.read_at(HEADER + 8 * u64::from(first - 1), &mut bytes).map_err(wrap)?;
            for (slot, chunk) in checksums.iter_mut().zip(bytes[..read].chunks_exact(8)) {
                *slot = u64::from_be_bytes(chunk.try_into().expect("chunks of eight"));
            }
        }
        for (&pgno, &checksum) in self.overlay.range(first..first.saturating_add(count)) {
            checksums[(pgno - first) as usize] = checksum;
        }
        Ok(checksums)
    }

    /// Starts a ledger that replaces this one.
    pub(crate) fn replace(&self, page_size: PageSize) -> Result<Replacement> {
        let path = temporary_name(&self.path);
        let file = self.disk.create(&path).map_err(|e| Error::disk("write ledger", &path, e))?;
        let disk = self.disk.clone();
        Ok(Replacement { disk, file, path, page_size, buffer: Vec::new(), written: 0, end: End::Open })
    }

    /// Takes a finished replacement over. The capture it is of must be in the spool by now.
    pub(crate) fn adopt(&mut self, mut replacement: Replacement, txid: Txid) -> Result<()> {
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        let pages = replacement.pages();
        let base = Base { txid, page_size: replacement.page_size.get(), pages };
        self.disk.rename(&replacement.path, &self.path).map_err(wrap)?;
        replacement.end = End::Adopted;
        self.disk.sync_dir(self.path.parent().unwrap_or(Path::new("."))).map_err(wrap)?;
        self.file = Some(self.disk.open_rw(&self.path).map_err(wrap)?);
        self.base = base;
        self.overlay.clear();
        self.floor = pages;
        self.pages = pages;
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.file = None;
        self.base = Base { txid: Txid::ZERO, page_size: 0, pages: 0 };
        self.overlay.clear();
        (self.floor, self.pages) = (0, 0);
        self.disk.remove(&self.path).map_err(|e| Error::disk("reset ledger", &self.path, e))
    }
}

fn write_run(file: &dyn DiskFile, start: u32, run: &mut Vec<u8>) -> std::io::Result<()> {
    if !run.is_empty() {
        file.write_at(HEADER + 8 * u64::from(start - 1), run)?;
        run.clear();
    }
    Ok(())
}

/// Removes a replacement that was not taken over, so that it stays away: if a crash brought it back, it would be taken
/// for the ledger of whatever has its id by then.
fn forget_temporary(disk: &SharedDisk, path: &Path) -> std::io::Result<()> {
    if disk.stat(path)?.is_none() {
        return Ok(());
    }
    disk.remove(path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

type Opened = (Base, Box<dyn DiskFile>);

fn read_base(disk: &SharedDisk, path: &Path) -> std::io::Result<Option<Opened>> {
    if disk.stat(path)?.is_none() {
        return Ok(None);
    }
    let file = disk.open_rw(path)?;
    let mut header = [0; HEADER as usize];
    let read = file.read_at(0, &mut header)?;
    // An error here says nothing about the ledger: it is the caller's, not a reason to forget what is known.
    let len = file.len()?;
    let base = (read == header.len()).then(|| Base::decode(&header)).flatten();
    let base = base.filter(|base| len >= HEADER + 8 * u64::from(base.pages));
    Ok(base.map(|base| (base, file)))
}

/// The checksums in order of pages.
pub(crate) struct Walk<'a> {
    ledger: &'a Ledger,
    first: u32,
    window: Vec<u64>,
}

impl Walk<'_> {
    /// The checksum of a page; pages are asked for in ascending order.
    pub(crate) fn get(&mut self, pgno: Pgno) -> Result<u64> {
        let pgno = pgno.get();
        let beyond = self.first as usize + self.window.len();
        if self.window.is_empty() || pgno as usize >= beyond || pgno < self.first {
            self.first = pgno;
            self.window = self.ledger.load(pgno, WINDOW)?;
        }
        Ok(self.window[(pgno - self.first) as usize])
    }
}

/// A ledger being written from the first page on.
#[derive(Debug)]
pub(crate) struct Replacement {
    disk: SharedDisk,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    page_size: PageSize,
    buffer: Vec<u8>,
    written: u64,
    end: End,
}

/// How far a replacement came.
#[derive(Debug)]
enum End {
    /// It has no header: a start cannot take it over.
    Open,
    /// It is whole.
    Finished,
    /// It is the ledger.
    Adopted,
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // If this fails, the next replacement is written over it, or the next start removes it.
        let _ = match self.end {
            End::Open => self.disk.remove(&self.path),
            End::Finished => forget_temporary(&self.disk, &self.path),
            End::Adopted => Ok(()),
        };
    }
}

impl Replacement {
    fn pages(&self) -> u32 {
        u32::try_from(self.written / 8).unwrap_or(u32::MAX)
    }

    /// Appends the checksum of the next page.
    pub(crate) fn push(&mut self, checksum: u64) -> Result<()> {
        self.buffer.extend_from_slice(&checksum.to_be_bytes());
        if self.buffer.len() >= 256 * 1024 { self.drain() } else { Ok(()) }
    }

    fn drain(&mut self) -> Result<()> {
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        self.file.write_at(HEADER + self.written, &self.buffer).map_err(wrap)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it whole and durable, as the ledger of `txid`.
    pub(crate) fn finish(&mut self, txid: Txid) -> Result<()> {
        self.drain()?;
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        self.file.sync().map_err(wrap)?;
        let base = Base { txid, page_size: self.page_size.get(), pages: self.pages() };
        self.end = End::Finished;
        self.file.write_at(0, &base.encode()).map_err(wrap)?;
        self.file.sync().map_err(wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use std::sync::Arc;

    fn pgno(n: u32) -> Pgno {
        Pgno::new(n).expect("not zero")
    }

    fn size() -> PageSize {
        PageSize::new(512).expect("valid")
    }

    fn contents(ledger: &Ledger, pages: u32) -> Vec<u64> {
        let mut walk = ledger.walk();
        (1..=pages).map(|n| walk.get(pgno(n)).expect("readable")).collect()
    }

    fn seeded(folder: &Path) -> Ledger {
        let disk: SharedDisk = Arc::new(RealDisk);
        let mut ledger = Ledger::open(disk, folder, None).expect("opens");
        let mut replacement = ledger.replace(size()).expect("starts");
        for n in 1..=6 {
            replacement.push(n).expect("pushes");
        }
        replacement.finish(Txid(1)).expect("finishes");
        ledger.adopt(replacement, Txid(1)).expect("adopts");
        ledger
    }

    #[test]
    fn changes_show_at_once_and_survive_only_a_flush() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ledger = seeded(folder.path());
        ledger.set(pgno(2), 22);
        ledger.set(pgno(7), 77);
        ledger.set_pages(7);
        assert_eq!(contents(&ledger, 7), [1, 22, 3, 4, 5, 6, 77]);
        let disk: SharedDisk = Arc::new(RealDisk);
        let unflushed = Ledger::open(disk.clone(), folder.path(), None).expect("opens");
        assert_eq!(contents(&unflushed, 6), [1, 2, 3, 4, 5, 6]);
        ledger.flush(Txid(2)).expect("flushes");
        let flushed = Ledger::open(disk, folder.path(), None).expect("opens");
        assert_eq!(flushed.durable(), Txid(2));
        assert_eq!(contents(&flushed, 7), [1, 22, 3, 4, 5, 6, 77]);
    }

    #[test]
    fn a_page_that_was_cut_off_and_grew_again_is_unknown_until_it_is_set() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ledger = seeded(folder.path());
        ledger.set_pages(3);
        ledger.set_pages(6);
        ledger.set(pgno(5), 55);
        let expected = [1, 2, 3, 0, 55, 0];
        assert_eq!(contents(&ledger, 6), expected);
        ledger.flush(Txid(3)).expect("flushes");
        assert_eq!(contents(&ledger, 6), expected);
        let disk: SharedDisk = Arc::new(RealDisk);
        assert_eq!(contents(&Ledger::open(disk, folder.path(), None).expect("opens"), 6), expected);
    }

    #[test]
    fn a_damaged_ledger_counts_as_none() {
        let folder = tempfile::tempdir().expect("folder");
        drop(seeded(folder.path()));
        let disk = RealDisk;
        let file = crate::disk::Disk::open_rw(&disk, &folder.path().join("ledger")).expect("opens");
        file.write_at(10, &[9]).expect("writes");
        let ledger = Ledger::open(Arc::new(disk), folder.path(), None).expect("opens");
        assert_eq!(ledger.durable(), Txid::ZERO);
        assert_eq!(ledger.page_size(), None);
    }
}
