//! Puts the pages of the planned files into their places, each page once.
//!
//! Files come newest first. The newest says how large the database is; a set of bits says which pages are there
//! already. A page that a newer file has brought, or that lies beyond the end, is read and checksummed like every
//! other byte but not written. Every file is read to its trailer, so nothing unchecked gets into a database that
//! is then called good; until [`PageWriter::finish`] has returned, nothing is.
//!
//! What is sealed is opened here, too. It turns bytes into [`Batch`]es and does no I/O itself: the caller writes a batch while the next one is
//! decoded. It never waits for bytes either but says that it is [`Step::Hungry`], so that it runs in line under
//! simulation. Memory: one batch, what was fed and not yet decoded, and one bit a page. Called by `run`.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use replicate_format::{Decoder, FormatError, HEADER_LEN, PAGE_HEADER_LEN, PageSize, Pgno};

use super::fetch::Piece;
use crate::clock::Timestamp;
use crate::disk::DiskFile;
use crate::error::{Error, ErrorKind, Result};
use crate::seal::SealError;
use crate::store::{LtxInfo, Opening, OpeningFile};

/// Bytes of pages that are written at once. Writes of megabytes cost the kernel half as much again: they stay in no cache.
const BATCH: usize = 512 << 10;
/// The fewest bytes of a file that a page can take; it bounds what a header can make us believe.
const LEAST_PAGE: u64 = PAGE_HEADER_LEN as u64 + 5;

/// Pages ready to be written, side by side in memory.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    buf: Vec<u8>,
    len: usize,
    extents: Vec<Extent>,
}

/// A stretch of the database.
#[derive(Debug)]
struct Extent {
    offset: u64,
    start: usize,
    len: usize,
}

impl Batch {
    /// Writes it.
    pub(crate) fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        for extent in &self.extents {
            file.write_at(extent.offset, &self.buf[extent.start..extent.start + extent.len])?;
        }
        Ok(())
    }

    /// Bytes of pages in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.len as u64
    }

    /// The same memory without pages.
    pub(crate) fn emptied(mut self) -> Self {
        self.len = 0;
        self.extents.clear();
        self
    }

    /// One with a page of this byte alone.
    #[cfg(test)]
    pub(super) fn of_page(pgno: u32, page_size: PageSize, byte: u8) -> Self {
        let mut batch = Self::default();
        batch.slot(page_size).fill(byte);
        batch.keep(Pgno::new(pgno).expect("not zero"), page_size);
        batch
    }

    fn has_room(&self, page_size: PageSize) -> bool {
        BATCH - self.len >= page_size.len()
    }

    /// Where the next page may be put; it counts only once it is kept.
    fn slot(&mut self, page_size: PageSize) -> &mut [u8] {
        if self.buf.is_empty() {
            self.buf.resize(BATCH, 0);
        }
        &mut self.buf[self.len..self.len + page_size.len()]
    }

    fn keep(&mut self, pgno: Pgno, page_size: PageSize) {
        let (offset, start, len) = (pgno.offset(page_size), self.len, page_size.len());
        self.len += len;
        match self.extents.last_mut() {
            Some(last) if last.offset + last.len as u64 == offset => last.len += len,
            _ => self.extents.push(Extent { offset, start, len }),
        }
    }
}

/// What the newest file says of the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    /// Bytes a page.
    pub(crate) page_size: PageSize,
    /// Pages.
    pub(crate) commit: u32,
    /// When its last capture was made.
    pub(crate) timestamp: Timestamp,
}

impl Shape {
    /// Bytes of the database.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.commit) * u64::from(self.page_size.get())
    }

    fn has_lock_page(&self) -> bool {
        self.commit >= self.page_size.lock_page().get()
    }
}

/// What a step ended with.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// It needs the next bytes.
    Hungry,
    /// The batch is full: take it.
    Full,
    /// All files are read. The batch may hold the last pages.
    Done,
}

/// Reads files and makes batches of the pages that count.
#[derive(Debug)]
pub(crate) struct PageWriter {
    /// Newest first.
    files: Vec<LtxInfo>,
    opening: Opening,
    /// What opens the file being read.
    seal: Option<OpeningFile>,
    input: VecDeque<Piece>,
    /// The file being read, or the next one.
    at: usize,
    feed: Feed,
    decoder: Option<Decoder<Feed>>,
    shape: Option<Shape>,
    done: PageSet,
    batch: Batch,
}

impl PageWriter {
    /// A writer for these files, the newest first.
    pub(crate) fn new(files: Vec<LtxInfo>, opening: Opening) -> Self {
        Self {
            files,
            opening,
            seal: None,
            input: VecDeque::new(),
            at: 0,
            feed: Feed::default(),
            decoder: None,
            shape: None,
            done: PageSet::default(),
            batch: Batch::default(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, piece: Piece) {
        self.input.push_back(piece);
    }

    /// The database, once the newest file has begun.
    pub(crate) fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// Takes the batch and leaves `empty` in its place.
    pub(crate) fn swap_batch(&mut self, empty: Batch) -> Batch {
        std::mem::replace(&mut self.batch, empty)
    }

    /// Works until it needs something.
    pub(crate) fn step(&mut self) -> Result<Step> {
        while self.at < self.files.len() {
            self.take_input().map_err(|problem| problem.into_error(&self.files[self.at]))?;
            let paused = match self.decoder.take() {
                None if !self.feed.holds(HEADER_LEN) => return Ok(Step::Hungry),
                None => self.open().map(|()| None),
                Some(decoder) => self.pages(decoder),
            };
            match paused {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => {}
                Err(problem) => return Err(problem.into_error(&self.files[self.at])),
            }
        }
        Ok(Step::Done)
    }

    /// Ends, if every page of the database has come.
    pub(crate) fn finish(self) -> Result<Shape> {
        let Some(shape) = self.shape.filter(|_| self.at == self.files.len()) else {
            return Err(Error::internal("a restore was ended before its files were read"));
        };
        let lock_page = shape.page_size.lock_page().get();
        let expected = shape.commit - u32::from(shape.has_lock_page());
        if self.done.len() == expected {
            return Ok(shape);
        }
        let missing = (1..=shape.commit).find(|&pgno| pgno != lock_page && !self.done.contains(pgno)).unwrap_or(0);
        let (found, txid) = (self.done.len(), self.files[0].txids.max());
        let message = format!("pages are missing first={missing} found={found} wanted={expected} txid={txid}");
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// Opens what has come of the file being read.
    fn take_input(&mut self) -> Result<(), Problem> {
        while let Some(piece) = self.input.pop_front_if(|piece| piece.file == self.at) {
            let seal = self.seal.get_or_insert_with(|| self.opening.of(&self.files[self.at]));
            let bytes = seal.feed(piece.bytes, piece.last)?;
            self.feed.push(bytes, piece.last);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Problem> {
        let decoder = Decoder::new(self.feed.clone())?;
        let (header, file) = (decoder.header(), &self.files[self.at]);
        if header.txids != file.txids {
            return Err(Problem::Differs(format!("its name says {} its header {}", file.txids, header.txids)));
        }
        match self.shape {
            None => {
                let shape = Shape {
                    page_size: header.page_size,
                    commit: header.commit,
                    timestamp: Timestamp(header.timestamp_ms),
                };
                let bytes: u64 = self.files.iter().map(|file| file.size).sum();
                if u64::from(shape.commit) > bytes / LEAST_PAGE + 1 {
                    let commit = shape.commit;
                    return Err(Problem::Differs(format!("it claims {commit} pages, more than {bytes} bytes hold")));
                }
                self.done = PageSet::new(shape.commit);
                self.shape = Some(shape);
            }
            Some(shape) if shape.page_size != header.page_size => {
                let (newest, this) = (shape.page_size, header.page_size);
                return Err(Problem::Differs(format!("its page size is {this}, that of the newest file {newest}")));
            }
            Some(_) => {}
        }
        self.decoder = Some(decoder);
        Ok(())
    }

    /// Reads pages while there is input and room, then says what for it stopped; `None` when the file has ended
    /// well and the next one may begin.
    fn pages(&mut self, mut decoder: Decoder<Feed>) -> Result<Option<Step>, Problem> {
        let page_size = decoder.header().page_size;
        let pause = loop {
            if !self.batch.has_room(page_size) {
                break Step::Full;
            }
            if !self.feed.holds(longest_frame(page_size)) {
                break Step::Hungry;
            }
            match decoder.next_page(self.batch.slot(page_size))? {
                Some(pgno) if self.done.insert(pgno.get()) => self.batch.keep(pgno, page_size),
                Some(_) => {}
                None => {
                    // The index is long, so it is read as it comes. What follows it is short and read in one go.
                    decoder.read_index(self.feed.len())?;
                    if !self.feed.holds(usize::MAX) {
                        break Step::Hungry;
                    }
                    decoder.finish()?;
                    self.at += 1;
                    self.seal = None;
                    self.feed = Feed::default();
                    return Ok(None);
                }
            }
        };
        self.decoder = Some(decoder);
        Ok(Some(pause))
    }
}

/// No encoded page is longer: LZ4 at its worst adds one byte in 255 and 16 more, page header and LZ4 frame take
/// under 48.
const fn longest_frame(page_size: PageSize) -> usize {
    page_size.len() + page_size.len() / 255 + 64
}

/// What is wrong with a file, before it is told which one.
#[derive(Debug)]
enum Problem {
    Format(FormatError),
    Seal(SealError),
    Differs(String),
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl From<FormatError> for Problem {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl Problem {
    fn into_error(self, file: &LtxInfo) -> Error {
        let key = file.key();
        match self {
            Self::Format(e) => Error::new(ErrorKind::Corrupt, format!("file is damaged: {e} key={key}")).with_source(e),
            Self::Seal(e) => e.into_error(format_args!("key={key}")),
            Self::Differs(what) => Error::new(ErrorKind::Corrupt, format!("file does not fit: {what} key={key}")),
        }
    }
}

/// The bytes of the current file that were fed and not yet read. The decoder reads from one clone.
#[derive(Clone, Debug, Default)]
struct Feed(Arc<Mutex<Fed>>);

#[derive(Debug, Default)]
struct Fed {
    pieces: VecDeque<Bytes>,
    len: usize,
    ended: bool,
}

impl Feed {
    fn with<T>(&self, use_it: impl FnOnce(&mut Fed) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, bytes: Bytes, last: bool) {
        self.with(|fed| {
            fed.len += bytes.len();
            fed.pieces.push_back(bytes);
            fed.ended |= last;
        });
    }

    fn len(&self) -> u64 {
        self.with(|fed| fed.len as u64)
    }

    /// Whether a reader of this many bytes meets them, or the end of the file.
    fn holds(&self, len: usize) -> bool {
        self.with(|fed| fed.ended || fed.len >= len)
    }
}

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|fed| {
            let mut read = 0;
            while read < buf.len()
                && let Some(piece) = fed.pieces.front_mut()
            {
                let part = piece.len().min(buf.len() - read);
                piece.copy_to_slice(&mut buf[read..read + part]);
                read += part;
                if piece.is_empty() {
                    fed.pieces.pop_front();
                }
            }
            fed.len -= read;
            Ok(read)
        })
    }
}

/// Page numbers from 1 to a last one.
#[derive(Debug, Default)]
struct PageSet {
    last: u32,
    count: u32,
    bits: Vec<u64>,
}

impl PageSet {
    fn new(last: u32) -> Self {
        Self { last, count: 0, bits: vec![0; last as usize / 64 + 1] }
    }

    /// Adds a page; whether it is within the range and new.
    fn insert(&mut self, pgno: u32) -> bool {
        if pgno > self.last || self.contains(pgno) {
            return false;
        }
        self.bits[pgno as usize / 64] |= 1 << (pgno % 64);
        self.count += 1;
        true
    }

    fn contains(&self, pgno: u32) -> bool {
        self.bits[pgno as usize / 64] & (1 << (pgno % 64)) != 0
    }

    fn len(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use replicate_format::{Encoder, Header, PageEncoding, Txid, TxidRange};

    use super::*;
    use crate::restore::testing::{block_on, busy_model, opening, plain_store};

    /// Where the stretches written lie, without their bytes.
    #[derive(Debug, Default)]
    struct Written(Mutex<BTreeMap<u64, u64>>);

    impl DiskFile for Written {
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let twice = self.0.lock().expect("not poisoned").insert(offset, bytes.len() as u64);
            assert_eq!(twice, None, "a page is written once");
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_lock_page_is_never_written_and_everything_else_once_in_large_stretches() {
        let page_size = PageSize::MAX;
        let lock = page_size.lock_page().get();
        let txids = TxidRange::single(Txid(1)).expect("valid");
        let header = Header::untracked(page_size, lock + 2, txids, 0);
        let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Block).expect("valid");
        let zeros = vec![0; page_size.len()];
        for pgno in (1..=lock + 2).filter(|&pgno| pgno != lock) {
            encoder.page(Pgno::new(pgno).expect("not zero"), &zeros).expect("in order");
        }
        let bytes = Bytes::from(encoder.finish().expect("complete").1);

        let (_, blob) = busy_model(512).store();
        let store = plain_store(blob);
        let mut info = block_on(store.list_all()).expect("listed").remove(0);
        (info.txids, info.size) = (txids, bytes.len() as u64);
        let mut writer = PageWriter::new(vec![info], opening());
        writer.feed(Piece { file: 0, bytes, last: true });
        let (file, mut batch) = (Written::default(), Batch::default());
        loop {
            let step = writer.step().expect("fine");
            batch = writer.swap_batch(batch);
            batch.write(&file).expect("written");
            batch = batch.emptied();
            match step {
                Step::Full => {}
                Step::Done => break,
                Step::Hungry => panic!("all was fed"),
            }
        }
        writer.finish().expect("complete");
        let written = file.0.into_inner().expect("not poisoned");
        let total: u64 = written.values().sum();
        assert_eq!(total, u64::from(lock + 1) * u64::from(page_size.get()));
        let lock_at = page_size.lock_page().offset(page_size);
        assert!(written.iter().all(|(&at, &len)| at + len <= lock_at || at > lock_at));
        assert!(written.len() as u64 <= total / BATCH as u64 + 3, "{} writes", written.len());
    }

    #[test]
    fn what_waits_to_be_decoded_is_short_however_many_pages_a_file_has() {
        let (page_size, pages, txids) = (PageSize::MIN, 20_000, TxidRange::single(Txid(1)).expect("valid"));
        let mut encoder = Encoder::new(Vec::new(), Header::untracked(page_size, pages, txids, 0), PageEncoding::Block)
            .expect("valid");
        for pgno in 1..=pages {
            encoder.page(Pgno::new(pgno).expect("not zero"), &[7; 512]).expect("in order");
        }
        let mut bytes = Bytes::from(encoder.finish().expect("complete").1);
        let (_, blob) = busy_model(512).store();
        let mut info = block_on(plain_store(blob).list_all()).expect("listed").remove(0);
        (info.txids, info.size) = (txids, bytes.len() as u64);
        let mut writer = PageWriter::new(vec![info], opening());
        let mut batch = Batch::default();
        loop {
            match writer.step().expect("fine") {
                Step::Full => {
                    batch = writer.swap_batch(batch);
                    batch.write(&Written::default()).expect("written");
                    batch = batch.emptied();
                }
                Step::Hungry => {
                    assert!(writer.feed.len() <= 2000, "{} wait", writer.feed.len());
                    let piece = bytes.split_to(1000.min(bytes.len()));
                    writer.feed(Piece { file: 0, bytes: piece, last: bytes.is_empty() });
                }
                Step::Done => break,
            }
        }
        assert_eq!(writer.finish().expect("complete").commit, pages);
    }

    #[test]
    fn a_header_that_claims_more_pages_than_the_files_can_hold_takes_no_memory() {
        let txids = TxidRange::new(Txid(2), Txid(2)).expect("valid");
        let header = Header::untracked(PageSize::MIN, u32::MAX, txids, 0);
        let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame).expect("valid");
        encoder.page(Pgno::FIRST, &[7; 512]).expect("in order");
        let bytes = Bytes::from(encoder.finish().expect("complete").1);
        let (_, blob) = busy_model(512).store();
        let mut info = block_on(plain_store(blob).list_all()).expect("listed").remove(0);
        (info.txids, info.size) = (txids, bytes.len() as u64);
        let mut writer = PageWriter::new(vec![info], opening());
        writer.feed(Piece { file: 0, bytes, last: true });
        assert_eq!(writer.step().expect_err("too many").kind(), ErrorKind::Corrupt);
        assert!(writer.done.bits.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(cuts in prop::collection::vec(1_usize..9000, 1..40)) {
            let model = busy_model(4096);
            let (store, _) = model.store();
            let (files, bodies) = block_on(async {
                let files = store.list_all().await.expect("listed");
                let plan = super::super::plan::plan(&files, super::super::plan::PlanTarget::Latest).expect("fine");
                let files: Vec<_> = plan.files().iter().rev().cloned().collect();
                let mut bodies = Vec::new();
                for file in &files {
                    bodies.push(store.get(file, None).await.expect("there"));
                }
                (files, bodies)
            });
            let mut cuts = cuts.into_iter().cycle();
            let mut pieces = VecDeque::new();
            for (file, mut body) in bodies.into_iter().enumerate() {
                while !body.is_empty() {
                    let bytes = body.split_to(cuts.next().expect("endless").min(body.len()));
                    pieces.push_back(Piece { file, bytes, last: body.is_empty() });
                }
            }
            let mut writer = PageWriter::new(files, opening());
            while writer.step().expect("fine") == Step::Hungry {
                writer.feed(pieces.pop_front().expect("enough was fed"));
            }
            prop_assert!(pieces.is_empty());
            let batch = writer.swap_batch(Batch::default());
            let shape = writer.finish().expect("complete");
            let mut database = vec![0; usize::try_from(shape.bytes()).expect("small")];
            for extent in &batch.extents {
                let at = usize::try_from(extent.offset).expect("small");
                database[at..at + extent.len].copy_from_slice(&batch.buf[extent.start..extent.start + extent.len]);
            }
            prop_assert!(database == model.bytes(model.txid));
        }
    }
}
