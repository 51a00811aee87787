//! One checksum a page: what the last capture says each page of the database is.
//!
//! When the WAL's continuity was lost (the process was down, somebody else reset the WAL), the database is
//! compared with the ledger and only pages that differ are captured.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "RPLLEDG2"
//!      8     8  txid L, big-endian: the ledger is that of the database after capture L
//!     16     8  txid A >= L: entries may be those of captures up to A already
//!     24     4  page size
//!     28     4  pages
//!     32     8  CRC-64 of bytes 0..32
//!     40   8*n  page checksums (LTX section "page checksum": bit 63 is always set), big-endian; 0 = unknown
//! ```
//!
//! Changes are kept in memory and written when they are many, or in quiet; entries only when their captures lie
//! in the spool, on the disk. So a crash at any moment leaves the ledger of L plus the captures that follow; if
//! those do not reach A, the ledger is worth nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use replicate_format::{PageSize, Pgno, Txid, crc64};

use super::sync_names;
use crate::disk::{DiskFile, SharedDisk, temporary_name};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"RPLLEDG2";
const HEADER: u64 = 40;
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
    /// Whether the file has its name, for good. Until then a start finds what was there before.
    place: Place,
    /// Changes that are not in the file.
    overlay: BTreeMap<u32, u64>,
    /// Entries of the file that count; what lies beyond is stale.
    valid: u32,
    /// Entries that the file has room for.
    room: u32,
    pages: u32,
}

/// How far a new ledger has come to take the place of the old one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Under its temporary name; the old one is of this capture.
    Temporary(Txid),
    /// Renamed, and the folder not synced.
    Renamed(Txid),
    Final,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Base {
    txid: Txid,
    ahead: Txid,
    page_size: u32,
    pages: u32,
}

const NOTHING: Base = Base { txid: Txid::ZERO, ahead: Txid::ZERO, page_size: 0, pages: 0 };

impl Base {
    fn encode(self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.txid.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.ahead.0.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.pages.to_be_bytes());
        let crc = crc64(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER as usize]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        if bytes[..8] != MAGIC || long(32) != crc64(&bytes[..32]) {
            return None;
        }
        Some(Self { txid: Txid(long(8)), ahead: Txid(long(16)), page_size: word(24), pages: word(28) })
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
            base: NOTHING,
            place: Place::Final,
            overlay: BTreeMap::new(),
            valid: 0,
            room: 0,
            pages: 0,
        };
        if let Some((base, file)) = read_base(&disk, &path).map_err(wrap)? {
            // A part of an entry counts: it must be overwritten before it is one.
            let room = file.len().map_err(wrap)?.saturating_sub(HEADER).div_ceil(8);
            ledger.room = u32::try_from(room).unwrap_or(u32::MAX);
            ledger.valid = base.pages;
            ledger.pages = base.pages;
            ledger.base = base;
            ledger.file = Some(file);
        }
        Ok(ledger)
    }

    /// The capture that the ledger is of which a start would find; zero if there is none.
    pub(crate) fn durable(&self) -> Txid {
        match self.place {
            Place::Final => self.base.txid,
            Place::Temporary(old) | Place::Renamed(old) => old.min(self.base.txid),
        }
    }

    /// The last capture of which there may be entries in the file.
    pub(crate) fn ahead(&self) -> Txid {
        self.base.ahead.max(self.base.txid)
    }

    /// Pages of the database as of the last change.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// The page size it was made for; `None` if it knows nothing.
    pub(crate) fn page_size(&self) -> Option<PageSize> {
        PageSize::new(self.base.page_size)
    }

    /// Records a capture that is in the spool: the size of the database after it, and its pages. What is too much
    /// for memory is written to the file on the way.
    pub(crate) fn record(&mut self, txid: Txid, pages: u32, checksums: impl Iterator<Item = (Pgno, u64)>) {
        if pages < self.pages {
            self.overlay.split_off(&(pages + 1));
            self.valid = self.valid.min(pages);
        }
        self.pages = pages;
        let mut spills = true;
        for (pgno, checksum) in checksums {
            self.overlay.insert(pgno.get(), checksum);
            if spills && self.overlay.len() >= 2 * OVERLAY_LIMIT {
                // What cannot be written stays in memory; the flush that follows meets the same failure and tells.
                spills = self.spill(txid).is_ok();
            }
        }
    }

    /// Whether the changes in memory should be written out.
    pub(crate) fn is_heavy(&self) -> bool {
        self.overlay.len() >= OVERLAY_LIMIT
    }

    /// Whether anything is not yet in the file, or the file not yet in its place.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.overlay.is_empty()
            || self.valid < self.base.pages
            || self.pages != self.base.pages
            || self.base.ahead > self.base.txid
            || self.place != Place::Final
    }

    /// Writes the changes out: the ledger is that of `txid` from now on. Everything up to `txid` must be in
    /// the spool, on the disk.
    pub(crate) fn flush(&mut self, txid: Txid) -> Result<()> {
        self.settle_place()?;
        if self.file.is_none() || (txid == self.base.txid && !self.is_dirty()) {
            return Ok(());
        }
        self.spill(txid)?;
        let Some(file) = &self.file else { return Ok(()) };
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        let base = Base { txid, ahead: txid, pages: self.pages, ..self.base };
        write_base(file.as_ref(), base).map_err(wrap)?;
        self.base = base;
        point!(LedgerFlushed);
        // Only now: a header that promises more than the file has makes the ledger worthless. What stays longer
        // is cut another time.
        if self.room > self.pages && file.set_len(HEADER + 8 * u64::from(self.pages)).is_ok() {
            self.room = self.pages;
        }
        Ok(())
    }

    /// Writes the entries that are in memory to the file, as those of captures up to `txid`.
    fn spill(&mut self, txid: Txid) -> Result<()> {
        self.settle_place()?;
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        let Some(file) = &self.file else { return Ok(()) };
        let file = file.as_ref();
        if self.overlay.is_empty() && self.valid == self.pages {
            return Ok(());
        }
        if self.base.ahead < txid {
            let base = Base { ahead: txid, ..self.base };
            write_base(file, base).map_err(wrap)?;
            self.base = base;
            point!(LedgerAhead);
        }
        // What grew again after a cut and is not in memory must read as unknown.
        let zeros = vec![0; 1 << 16];
        let (mut at, stale) = (HEADER + 8 * u64::from(self.valid), HEADER + 8 * u64::from(self.room.min(self.pages)));
        while at < stale {
            let piece = usize::try_from(stale - at).unwrap_or(usize::MAX).min(zeros.len());
            file.write_at(at, &zeros[..piece]).map_err(wrap)?;
            at += piece as u64;
        }
        if self.pages > self.room {
            file.set_len(HEADER + 8 * u64::from(self.pages)).map_err(wrap)?;
            self.room = self.pages;
        }
        let mut run: Vec<u8> = Vec::new();
        let mut start = 0;
        let mut next = 0;
        for (&pgno, &checksum) in &self.overlay {
            if pgno != next || run.len() >= 1 << 20 {
                write_run(file, start, &mut run).map_err(wrap)?;
                start = pgno;
            }
            run.extend_from_slice(&checksum.to_be_bytes());
            next = pgno + 1;
        }
        write_run(file, start, &mut run).map_err(wrap)?;
        file.sync().map_err(wrap)?;
        point!(LedgerEntries);
        self.valid = self.pages;
        self.overlay.clear();
        Ok(())
    }

    /// Walks the checksums from page 1 on; unknown ones are 0.
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk { ledger: self, first: 1, window: Vec::new() }
    }

    fn load(&self, first: u32, count: u32) -> Result<Vec<u64>> {
        let mut checksums = vec![0; count as usize];
        let in_file = self.valid.saturating_sub(first - 1).min(count) as usize;
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
    pub(crate) fn replace(&mut self, page_size: PageSize) -> Result<Replacement> {
        // The temporary name must be free.
        self.settle_place()?;
        let path = temporary_name(&self.path);
        let file = self.disk.create(&path).map_err(|e| Error::disk("write ledger", &path, e))?;
        let disk = self.disk.clone();
        Ok(Replacement { disk, file: Some(file), path, page_size, buffer: Vec::new(), written: 0, end: End::Open })
    }

    /// Takes a finished replacement over. The capture it is of must be in the spool by now. If this fails it is
    /// taken over all the same, and a later [`flush`](Self::flush) gives it its place.
    pub(crate) fn adopt(&mut self, mut replacement: Replacement, txid: Txid) -> Result<()> {
        let (pages, durable) = (replacement.pages(), self.durable());
        self.base = Base { txid, ahead: txid, page_size: replacement.page_size.get(), pages };
        replacement.end = End::Adopted;
        self.file = replacement.file.take();
        self.place = Place::Temporary(durable);
        self.overlay.clear();
        (self.valid, self.room, self.pages) = (pages, pages, pages);
        self.settle_place()
    }

    fn settle_place(&mut self) -> Result<()> {
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        if let Place::Temporary(old) = self.place {
            point!(LedgerUnplaced);
            self.disk.rename(&temporary_name(&self.path), &self.path).map_err(wrap)?;
            self.place = Place::Renamed(old);
            point!(LedgerRenamed);
        }
        if let Place::Renamed(_) = self.place {
            self.disk.sync_dir(self.path.parent().unwrap_or(Path::new("."))).map_err(wrap)?;
            self.place = Place::Final;
        }
        Ok(())
    }

    /// Forgets everything, for good: if a crash brought it back, the next start would take it for the ledger of whatever
    /// has its id by then.
    pub(crate) fn reset(&mut self) -> Result<()> {
        let wrap = |e| Error::disk("reset ledger", &self.path, e);
        for path in [&temporary_name(&self.path), &self.path] {
            self.disk.remove(path).map_err(wrap)?;
        }
        sync_names(&self.disk, self.path.parent().unwrap_or(Path::new("."))).map_err(wrap)?;
        self.file = None;
        self.base = NOTHING;
        self.place = Place::Final;
        self.overlay.clear();
        (self.valid, self.room, self.pages) = (0, 0, 0);
        Ok(())
    }
}

/// Writes the header and waits until it is on the disk.
fn write_base(file: &dyn DiskFile, base: Base) -> std::io::Result<()> {
    file.write_at(0, &base.encode())?;
    file.sync()
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
    /// Gone when it is the ledger's.
    file: Option<Box<dyn DiskFile>>,
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
        if let Some(file) = &self.file {
            file.write_at(HEADER + self.written, &self.buffer).map_err(wrap)?;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it whole and durable, as the ledger of `txid`.
    pub(crate) fn finish(&mut self, txid: Txid) -> Result<()> {
        self.drain()?;
        let wrap = |e| Error::disk("write ledger", &self.path, e);
        let base = Base { txid, ahead: txid, page_size: self.page_size.get(), pages: self.pages() };
        let Some(file) = &self.file else { return Ok(()) };
        file.sync().map_err(wrap)?;
        self.end = End::Finished;
        write_base(file.as_ref(), base).map_err(wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::faulty::{FaultyDisk, Op};
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
        seeded_on(Arc::new(RealDisk), folder)
    }

    fn seeded_on(disk: SharedDisk, folder: &Path) -> Ledger {
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
        ledger.record(Txid(2), 7, [(pgno(2), 22), (pgno(7), 77)].into_iter());
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
        ledger.record(Txid(2), 3, [].into_iter());
        ledger.record(Txid(3), 6, [(pgno(5), 55)].into_iter());
        let expected = [1, 2, 3, 0, 55, 0];
        assert_eq!(contents(&ledger, 6), expected);
        ledger.flush(Txid(3)).expect("flushes");
        assert_eq!(contents(&ledger, 6), expected);
        let disk: SharedDisk = Arc::new(RealDisk);
        assert_eq!(contents(&Ledger::open(disk, folder.path(), None).expect("opens"), 6), expected);
    }

    /// Found by the fuzzer: a write that a crash has cut in the middle of an entry.
    #[test]
    fn a_part_of_an_entry_behind_the_last_one_does_not_become_one() {
        let folder = tempfile::tempdir().expect("folder");
        drop(seeded(folder.path()));
        let disk = RealDisk;
        let file = crate::disk::Disk::open_rw(&disk, &folder.path().join("ledger")).expect("opens");
        file.write_at(HEADER + 6 * 8, &[0x86, 0x42]).expect("writes");
        let mut ledger = Ledger::open(Arc::new(disk), folder.path(), None).expect("opens");
        ledger.record(Txid(2), 8, [(pgno(8), 88)].into_iter());
        ledger.flush(Txid(2)).expect("flushes");
        assert_eq!(contents(&ledger, 8), [1, 2, 3, 4, 5, 6, 0, 88]);
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

    /// What a start finds of a ledger of six pages that was cut to three and grew to five, when the nth call of a
    /// kind was the last that the disk did.
    fn after_a_stop_at(op: Op, n: u32) -> (Txid, Txid, Vec<u64>, bool) {
        let folder = tempfile::tempdir().expect("folder");
        let (disk, faults) = FaultyDisk::real();
        let mut ledger = seeded_on(disk, folder.path());
        ledger.record(Txid(2), 3, [(pgno(1), 11)].into_iter());
        ledger.record(Txid(3), 5, [(pgno(4), 44), (pgno(5), 55)].into_iter());
        faults.fail(op, "ledger", n, u32::MAX, std::io::ErrorKind::Other);
        let flushed = ledger.flush(Txid(3)).is_ok();
        drop(ledger);
        let found = Ledger::open(Arc::new(RealDisk), folder.path(), None).expect("opens");
        let pages = found.pages();
        (found.durable(), found.ahead(), contents(&found, pages), flushed)
    }

    #[test]
    fn a_flush_that_ends_at_any_point_leaves_a_ledger_that_the_spool_makes_whole() {
        let mut ends = 0;
        for op in [Op::Write, Op::SetLen, Op::Sync] {
            for n in 0..12 {
                let (durable, ahead, contents, flushed) = after_a_stop_at(op, n);
                match durable {
                    Txid(1) => {
                        assert!(!flushed, "{op:?} {n}");
                        assert_eq!(contents.len(), 6, "{op:?} {n}");
                        for (entry, allowed) in contents.iter().zip([[1, 11], [2, 2], [3, 3], [4, 44], [5, 55], [6, 0]])
                        {
                            assert!(*entry == 0 || allowed.contains(entry), "{op:?} {n}: {contents:?}");
                            assert!(ahead == Txid(3) || *entry == allowed[0], "{op:?} {n}: ahead and not said");
                        }
                        ends += 1;
                    }
                    Txid(3) => assert_eq!(contents, [11, 2, 3, 44, 55], "{op:?} {n}"),
                    other => panic!("{op:?} {n}: a ledger of {other}"),
                }
            }
        }
        assert!(ends > 3);
    }

    #[test]
    fn many_changes_do_not_stay_in_memory_and_show_all_the_same() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ledger = seeded(folder.path());
        let pages = 10 * u32::try_from(OVERLAY_LIMIT).expect("small");
        ledger.record(Txid(2), pages, (1..=pages).map(|n| (pgno(n), u64::from(n) + 7)));
        assert!(ledger.overlay.len() <= 2 * OVERLAY_LIMIT, "{} in memory", ledger.overlay.len());
        let expected: Vec<u64> = (1..=u64::from(pages)).map(|n| n + 7).collect();
        assert!(contents(&ledger, pages) == expected);
        let crashed = Ledger::open(Arc::new(RealDisk), folder.path(), None).expect("opens");
        assert_eq!((crashed.durable(), crashed.ahead()), (Txid(1), Txid(2)));
        ledger.flush(Txid(2)).expect("flushes");
        let flushed = Ledger::open(Arc::new(RealDisk), folder.path(), None).expect("opens");
        assert_eq!((flushed.durable(), flushed.ahead()), (Txid(2), Txid(2)));
        assert!(contents(&flushed, pages) == expected);
    }

    #[test]
    fn a_ledger_that_could_not_take_its_place_is_used_and_takes_it_later() {
        for op in [Op::Rename, Op::SyncDir] {
            let folder = tempfile::tempdir().expect("folder");
            let (disk, faults) = FaultyDisk::real();
            let mut ledger = seeded_on(disk, folder.path());
            let mut replacement = ledger.replace(size()).expect("starts");
            for n in 1..=4 {
                replacement.push(10 * n).expect("pushes");
            }
            replacement.finish(Txid(2)).expect("finishes");
            faults.fail(op, "", 0, 1, std::io::ErrorKind::Other);
            ledger.adopt(replacement, Txid(2)).expect_err("refused");
            assert_eq!(contents(&ledger, 4), [10, 20, 30, 40]);
            assert_eq!(ledger.durable(), Txid(1), "a start may find the old one");
            ledger.flush(Txid(2)).expect("flushes");
            assert_eq!(ledger.durable(), Txid(2));
            let found = Ledger::open(Arc::new(RealDisk), folder.path(), None).expect("opens");
            assert_eq!((found.durable(), contents(&found, 4)), (Txid(2), vec![10, 20, 30, 40]));
        }
    }
}
