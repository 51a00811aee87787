//! The newest frame of each page of a run, in bounded memory; and the scratch files that what does not fit goes to.
//!
//! Frames are noted in the order of the WAL and given out in the order of pages. Up to a limit they are kept in memory;
//! beyond it they are sorted and written to a scratch file as one more part, and the parts are merged while they are
//! read, as often as that is. A VACUUM of 10 GB is 2.6 million frames; it costs the memory of half a million. The
//! scratch file loses its name as soon as it is made, so nothing is left of it however the process ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::path::PathBuf;

use replicate_format::{Aside, Pgno};

use crate::disk::{DiskFile, SharedDisk};
use crate::error::{Error, Result};

/// Megabytes of frames' entries that are kept in memory.
const KEEP: u64 = 8;
/// Bytes of an entry in the scratch file: page, frame and checksum, big-endian.
const ENTRY: usize = 16;
/// Entries read at a time of each part; fewer when there are many parts.
const WINDOW: (usize, usize) = (256, 4096);
/// Entries read at a time of all parts together.
const WINDOWS: usize = 128 * 1024;

/// A frame that holds the newest copy of its page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// The page.
    pub(crate) pgno: Pgno,
    /// Which frame of the run, from 0.
    pub(crate) frame: u32,
    /// The LTX checksum of the page, by which a second read proves itself.
    pub(crate) checksum: u64,
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.pgno.get().to_be_bytes());
        out.extend_from_slice(&self.frame.to_be_bytes());
        out.extend_from_slice(&self.checksum.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let checksum = u64::from(word(8)?) << 32 | u64::from(word(12)?);
        Some(Self { pgno: Pgno::new(word(0)?)?, frame: word(4)?, checksum })
    }
}

/// Where scratch files are made, and how much is kept in memory before one is.
#[derive(Clone, Debug)]
pub(crate) struct Overflow {
    disk: SharedDisk,
    path: PathBuf,
    limit: usize,
}

impl Overflow {
    /// Scratch files of this name; a megabyte is that many bytes.
    pub(crate) fn new(disk: SharedDisk, path: PathBuf, megabyte: u64) -> Self {
        // A loss of power can bring the name of one back. What stays is removed before the next one is made.
        let _ = disk.remove(&path);
        let limit = usize::try_from(KEEP * megabyte).unwrap_or(usize::MAX) / ENTRY;
        Self { disk, path, limit: limit.max(1) }
    }

    fn wrap(&self, error: std::io::Error) -> Error {
        Error::disk("write scratch file", &self.path, error)
    }

    fn create(&self) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(&self.path)?;
        self.disk.remove(&self.path)?;
        Ok(file)
    }

    /// A scratch file for what an encoder has to remember, made when there is something.
    pub(crate) fn aside(&self) -> Box<dyn Aside> {
        Box::new(Log { overflow: self.clone(), file: None, len: 0 })
    }
}

#[derive(Debug)]
struct Log {
    overflow: Overflow,
    file: Option<Box<dyn DiskFile>>,
    len: u64,
}

impl Aside for Log {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.overflow.create()?,
        };
        self.file.insert(file).write_at(self.len, bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.as_ref().map_or(Ok(0), |file| file.read_at(offset, bytes))
    }
}

/// A sorted part of the scratch file.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: u64,
    count: u64,
}

/// The map.
#[derive(Debug)]
pub(crate) struct PageMap {
    overflow: Overflow,
    /// What is not in the scratch file: in the order of the WAL until it is [finished](Self::finish).
    recent: Vec<Entry>,
    parts: Vec<Part>,
    file: Option<Box<dyn DiskFile>>,
    /// Pages up to this one count.
    commit: u32,
    pages: u64,
}

impl PageMap {
    /// An empty one.
    pub(crate) fn new(overflow: Overflow) -> Self {
        Self { overflow, recent: Vec::new(), parts: Vec::new(), file: None, commit: u32::MAX, pages: 0 }
    }

    /// Notes the next frame.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<()> {
        if self.recent.len() >= self.overflow.limit {
            self.spill()?;
        }
        self.recent.push(entry);
        Ok(())
    }

    /// Everything was noted; the database has so many pages then.
    pub(crate) fn finish(&mut self, commit: u32) -> Result<()> {
        self.commit = commit;
        self.sort();
        self.recent.retain(|entry| entry.pgno.get() <= commit);
        self.pages = match self.parts.is_empty() {
            true => self.recent.len() as u64,
            false => self.count(|_| true)?,
        };
        Ok(())
    }

    /// Pages.
    pub(crate) fn len(&self) -> u64 {
        self.pages
    }

    /// Pages after this one.
    pub(crate) fn count_after(&self, page: u32) -> Result<u64> {
        if self.parts.is_empty() {
            let before = self.recent.partition_point(|entry| entry.pgno.get() <= page);
            return Ok((self.recent.len() - before) as u64);
        }
        self.count(|entry| entry.pgno.get() > page)
    }

    fn count(&self, wanted: impl Fn(&Entry) -> bool) -> Result<u64> {
        let (mut cursor, mut count) = (self.cursor()?, 0);
        while let Some(entry) = cursor.next(self)? {
            count += u64::from(wanted(&entry));
        }
        Ok(count)
    }

    /// Sorts what is in memory by page and leaves the newest frame of each.
    fn sort(&mut self) {
        self.recent.sort_unstable_by_key(|entry| (entry.pgno, entry.frame));
        self.recent.dedup_by(|later, kept| {
            let same = later.pgno == kept.pgno;
            if same {
                *kept = *later;
            }
            same
        });
    }

    fn spill(&mut self) -> Result<()> {
        self.sort();
        let file = match self.file.take() {
            Some(file) => file,
            None => self.overflow.create().map_err(|e| self.overflow.wrap(e))?,
        };
        let file = self.file.insert(file);
        let mut first = self.parts.last().map_or(0, |part| part.first + part.count);
        self.parts.push(Part { first, count: self.recent.len() as u64 });
        let mut bytes = Vec::new();
        for entries in self.recent.chunks(WINDOW.1) {
            bytes.clear();
            entries.iter().for_each(|entry| entry.encode(&mut bytes));
            file.write_at(first * ENTRY as u64, &bytes).map_err(|e| self.overflow.wrap(e))?;
            first += entries.len() as u64;
        }
        self.recent.clear();
        Ok(())
    }

    /// A walk from the first page on, of a map that is finished.
    pub(crate) fn cursor(&self) -> Result<Cursor> {
        let window = (WINDOWS / self.parts.len().max(1)).clamp(WINDOW.0, WINDOW.1);
        let mut cursor = Cursor { windows: Vec::new(), heads: BinaryHeap::new(), recent: 0, window };
        for (number, part) in self.parts.iter().enumerate() {
            cursor.windows.push(Window { left: *part, entries: Vec::new().into_iter() });
            cursor.advance(self, number)?;
        }
        Ok(cursor)
    }

    fn read(&self, part: Part) -> Result<Vec<Entry>> {
        let wrap = |e| Error::disk("read scratch file", &self.overflow.path, e);
        let damaged = || Error::internal("the scratch file does not hold what was written");
        let file = self.file.as_ref().ok_or_else(damaged)?;
        let mut bytes = vec![0; usize::try_from(part.count).map_err(|_| damaged())? * ENTRY];
        let read = file.read_at(part.first * ENTRY as u64, &mut bytes).map_err(wrap)?;
        let entries: Option<Vec<_>> = bytes[..read].chunks(ENTRY).map(Entry::decode).collect();
        entries.filter(|entries| entries.len() as u64 == part.count).ok_or_else(damaged)
    }
}

/// How far one part was read.
#[derive(Debug)]
struct Window {
    left: Part,
    entries: std::vec::IntoIter<Entry>,
}

/// Page, frame, checksum of the next entry of a part, and the part's number.
type Head = Reverse<(u32, Reverse<u32>, u64, usize)>;

/// A walk over a map.
#[derive(Debug)]
pub(crate) struct Cursor {
    windows: Vec<Window>,
    /// The next entry of each part: the first page first, and of one page the newest frame first.
    heads: BinaryHeap<Head>,
    /// How far what is in memory was read.
    recent: usize,
    window: usize,
}

impl Cursor {
    /// The next page; nothing after the last one.
    pub(crate) fn next(&mut self, map: &PageMap) -> Result<Option<Entry>> {
        let kept = map.recent.get(self.recent).copied();
        let Some(Reverse((pgno, Reverse(frame), checksum, number))) = self.heads.peek().copied() else {
            self.recent += usize::from(kept.is_some());
            return Ok(kept);
        };
        // What is in memory is newer than what is not.
        if let Some(kept) = kept.filter(|kept| kept.pgno.get() <= pgno) {
            self.recent += 1;
            self.skip(map, kept.pgno.get())?;
            return Ok(Some(kept));
        }
        if pgno > map.commit {
            return Ok(None);
        }
        self.heads.pop();
        self.advance(map, number)?;
        self.skip(map, pgno)?;
        Ok(Pgno::new(pgno).map(|pgno| Entry { pgno, frame, checksum }))
    }

    /// Leaves out what is left of a page.
    fn skip(&mut self, map: &PageMap, page: u32) -> Result<()> {
        while let Some(Reverse((pgno, .., number))) = self.heads.peek().copied()
            && pgno == page
        {
            self.heads.pop();
            self.advance(map, number)?;
        }
        Ok(())
    }

    /// Takes the next entry of a part up.
    fn advance(&mut self, map: &PageMap, number: usize) -> Result<()> {
        let window = &mut self.windows[number];
        if window.entries.as_slice().is_empty() && window.left.count > 0 {
            let count = window.left.count.min(self.window as u64);
            window.entries = map.read(Part { count, ..window.left })?.into_iter();
            window.left = Part { first: window.left.first + count, count: window.left.count - count };
        }
        if let Some(entry) = window.entries.next() {
            self.heads.push(Reverse((entry.pgno.get(), Reverse(entry.frame), entry.checksum, number)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::faulty::{FaultyDisk, Op};

    fn entry(pgno: u32, frame: u32) -> Entry {
        let checksum = u64::from(pgno) << 40 | u64::from(frame);
        Entry { pgno: Pgno::new(pgno).expect("not zero"), frame, checksum }
    }

    fn noted(pages: &[u32], commit: u32, overflow: Overflow) -> PageMap {
        let mut map = PageMap::new(overflow);
        for (frame, pgno) in (0..).zip(pages) {
            map.push(entry(*pgno, frame)).expect("noted");
        }
        map.finish(commit).expect("finished");
        map
    }

    fn walked(map: &PageMap) -> Vec<Entry> {
        let mut cursor = map.cursor().expect("a walk");
        std::iter::from_fn(|| cursor.next(map).expect("readable")).collect()
    }

    proptest! {
        #[test]
        fn the_newest_frame_of_each_page_comes_out_in_order_whatever_the_limit(
            pages in prop::collection::vec(1_u32..60, 0..400),
            commit in 1_u32..70,
            limit in 1_usize..100,
        ) {
            let folder = tempfile::tempdir().expect("folder");
            let overflow = Overflow { disk: Arc::new(RealDisk), path: folder.path().join("frames"), limit };
            let map = noted(&pages, commit, overflow);
            let newest: BTreeMap<u32, u32> = pages.iter().copied().zip(0..).filter(|(page, _)| *page <= commit).collect();
            let expected: Vec<_> = newest.into_iter().map(|(page, frame)| entry(page, frame)).collect();
            prop_assert_eq!(map.len(), expected.len() as u64);
            let after = expected.iter().filter(|entry| entry.pgno.get() > 30).count() as u64;
            prop_assert_eq!(map.count_after(30).expect("readable"), after);
            prop_assert!(map.recent.len() <= limit);
            prop_assert_eq!(walked(&map), expected.clone());
            prop_assert_eq!(walked(&map), expected);
            prop_assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        }
    }

    #[test]
    fn a_part_longer_than_a_window_is_read_in_windows() {
        let folder = tempfile::tempdir().expect("folder");
        let limit = 3 * WINDOW.1 + 5;
        let overflow = Overflow { disk: Arc::new(RealDisk), path: folder.path().join("frames"), limit };
        let count = 10 * u32::try_from(WINDOW.1).expect("small");
        let map = noted(&(1..=count).rev().collect::<Vec<_>>(), count, overflow);
        assert_eq!(map.parts.len(), 3);
        let expected: Vec<_> = (1..=count).map(|page| entry(page, count - page)).collect();
        assert!(walked(&map) == expected);
    }

    #[test]
    fn a_scratch_file_that_cannot_be_written_or_read_is_an_error_of_the_disk() {
        for op in [Op::Create, Op::Write, Op::Read] {
            let folder = tempfile::tempdir().expect("folder");
            let (disk, faults) = FaultyDisk::real();
            let overflow = Overflow { disk, path: folder.path().join("frames"), limit: 2 };
            faults.fail(op, "frames", 0, u32::MAX, std::io::ErrorKind::StorageFull);
            let mut map = PageMap::new(overflow);
            let noted = (1..9).try_for_each(|page| map.push(entry(page, page))).and_then(|()| map.finish(9));
            assert_eq!(noted.expect_err("refused").kind(), crate::ErrorKind::Disk, "{op:?}");
        }
    }
}
