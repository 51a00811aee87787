//! A model of SQLite in WAL mode, at the level at which the engine sees it: the bytes of the database and of its WAL,
//! the WAL's index, read marks and locks.
//!
//! The rules are those of `wal.c` (SQLite 3.51): where a reader puts its mark ([`Database::begin_read`]), when a writer
//! starts the WAL over ([`Database::begin_write`]), how far a checkpoint goes ([`copy`]), what an opener makes of
//! a WAL it finds ([`Database::recover`]). Processes run one at a time, so a lock is a field. What is left out is named
//! in `core/docs/TESTING.md`.

pub mod copy;
pub mod state;

use std::collections::BTreeMap;

use replicate_format::{FRAME_HEADER_LEN, FrameChain, FrameHeader, PageSize, Pgno, Salts, WAL_HEADER_LEN, WalHeader};

use self::copy::Copying;
use self::state::{State, digest, head, page};
use super::rng::Rng;
use super::stored::{Loss, Stored};

/// Read marks of the index.
const MARKS: usize = 5;
const UNUSED: u32 = u32::MAX;

/// The WAL's index, in shared memory: it lives as long as anybody has the database open.
#[derive(Clone, Debug)]
pub struct Index {
    pub salts: Salts,
    pub max_frame: u32,
    pub pages: u32,
    pub checksum: (u32, u32),
    pub backfilled: u32,
    pub page_size: Option<PageSize>,
    marks: [u32; MARKS],
    /// Readers that hold each mark.
    held: [u32; MARKS],
}

/// A read transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Read {
    slot: usize,
}

/// Who holds the write lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    App,
    Engine,
}

/// A connection's write transaction.
#[derive(Clone, Debug)]
pub struct Txn {
    read: Read,
    /// Frames in the WAL with those of this transaction.
    end: u32,
    checksum: (u32, u32),
    begun: bool,
    /// Pages as this transaction leaves them.
    changed: BTreeMap<u32, u64>,
}

/// A database with its WAL.
#[derive(Clone, Debug)]
pub struct Database {
    pub id: (u64, u64),
    pub page_size: PageSize,
    pub wal_mode: bool,
    pub main: Stored,
    /// `None`: there is no WAL file.
    pub wal: Option<Stored>,
    /// Tells one WAL file of this name from the next.
    pub wal_id: u64,
    pub index: Option<Index>,
    pub writer: Option<Who>,
    pub copying: Option<Copying>,
    /// Connections of the engine that are open.
    pub engine_open: bool,
    pub app_open: bool,
    /// The application's connection counts the generations it has begun.
    app_count: u32,
    pub app_reads: Vec<Read>,
    pub app_txn: Option<Txn>,
    /// The latest commit.
    pub state: State,
    /// Each commit is synced (`synchronous=FULL`).
    pub full_sync: bool,
    stamp: u64,
}

/// What a write transaction is to do.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Pages written: any numbers, taken modulo the size.
    pub pages: Vec<u32>,
    /// The new size of the database.
    pub size: u32,
    /// Some pages are written to the WAL more than once.
    pub again: bool,
}

impl Database {
    /// A database of some pages without a WAL.
    #[must_use]
    pub fn new(id: (u64, u64), page_size: PageSize, pages: u32, wal_mode: bool, stamp: u64) -> Self {
        let mut bytes = Vec::with_capacity(pages as usize * page_size.len());
        for pgno in 1..=pages {
            let mut content = page(page_size, pgno, stamp + u64::from(pgno));
            if pgno == 1 {
                head(&mut content, page_size, pages, wal_mode);
            }
            bytes.extend_from_slice(&content);
        }
        Self {
            id,
            page_size,
            wal_mode,
            state: State::of(page_size.get(), &bytes),
            main: Stored::synced(bytes),
            wal: None,
            wal_id: 0,
            index: None,
            writer: None,
            copying: None,
            engine_open: false,
            app_open: false,
            app_count: 0,
            app_reads: Vec::new(),
            app_txn: None,
            full_sync: false,
            stamp: stamp + u64::from(pages) + 1,
        }
    }

    /// A database that was restored.
    #[must_use]
    pub fn of_bytes(id: (u64, u64), bytes: &[u8], stamp: u64) -> Self {
        let raw = u32::from(bytes[16]) << 8 | u32::from(bytes[17]);
        let page_size = PageSize::new(raw).expect("the sizes of the simulation");
        let pages = (bytes.len() / page_size.len()) as u32;
        let made = Self::new(id, page_size, pages, bytes[19] == 2, stamp);
        Self { state: State::of(raw, bytes), main: Stored::synced(bytes.to_vec()), ..made }
    }

    /// Bytes of a frame.
    fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN + self.page_size.len()
    }

    fn offset(&self, frame: u32) -> usize {
        WAL_HEADER_LEN + frame as usize * self.frame_len()
    }

    /// Opens a connection's view: the first one sets the index up from what the WAL holds.
    pub fn open(&mut self) {
        if self.wal.is_none() {
            self.wal = Some(Stored::default());
            self.wal_id += 1;
        }
        if self.index.is_none() {
            self.recover();
        }
    }

    /// The last connection is gone, with its process.
    fn close_if_unused(&mut self) {
        if !self.app_open && !self.engine_open {
            self.index = None;
            // The next opener takes for committed what a dead writer had written to its end.
            self.settle_state();
        }
    }

    /// Sets the index up from the WAL: its longest run of frames that prove themselves, up to the last commit.
    fn recover(&mut self) {
        let mut index = Index {
            salts: Salts::default(),
            max_frame: 0,
            pages: 0,
            checksum: (0, 0),
            backfilled: 0,
            page_size: None,
            marks: [0, UNUSED, UNUSED, UNUSED, UNUSED],
            held: [0; MARKS],
        };
        let bytes = self.wal.as_ref().map_or(&[][..], Stored::bytes);
        if let Ok(Some(header)) = WalHeader::decode(bytes)
            && header.page_size == self.page_size
        {
            index.salts = header.salts;
            index.page_size = Some(header.page_size);
            index.checksum = header.checksum;
            self.app_count = header.checkpoint_seq;
            let mut chain = FrameChain::new(&header);
            let frames = bytes[WAL_HEADER_LEN..].chunks(FRAME_HEADER_LEN + self.page_size.len());
            for (number, frame) in (1..).zip(frames) {
                let Some(frame) = chain.push(frame) else { break };
                if frame.header.is_commit() {
                    index.max_frame = number;
                    index.pages = frame.header.commit;
                    index.checksum = frame.header.checksum;
                }
            }
            if index.max_frame > 0 {
                index.marks[1] = index.max_frame;
            }
        }
        self.index = Some(index);
        self.state = self.observe();
    }

    /// What a reader would see now.
    #[must_use]
    pub fn observe(&self) -> State {
        let len = self.page_size.len();
        let (frames, pages) = match &self.index {
            Some(index) if index.pages > 0 => (index.max_frame, index.pages),
            _ => (0, (self.main.len() / len) as u32),
        };
        let latest = self.latest(frames);
        let mut hashes = Vec::with_capacity(pages as usize);
        let wal = self.wal.as_ref().map_or(&[][..], Stored::bytes);
        for pgno in 1..=pages {
            let at = latest.get(&pgno).map(|frame| self.offset(frame - 1) + FRAME_HEADER_LEN);
            hashes.push(match at {
                Some(at) => digest(&wal[at..at + len]),
                None => {
                    let mut content = vec![0; len];
                    self.main.read((pgno - 1) as u64 * len as u64, &mut content);
                    digest(&content)
                }
            });
        }
        State { page_size: self.page_size.get(), pages: hashes }
    }

    /// The last frame of each page among the first so many.
    fn latest(&self, frames: u32) -> BTreeMap<u32, u32> {
        let wal = self.wal.as_ref().map_or(&[][..], Stored::bytes);
        let mut latest = BTreeMap::new();
        for frame in 1..=frames {
            let at = self.offset(frame - 1);
            let Some(number) = wal.get(at..at + 4) else { break };
            latest.insert(u32::from_be_bytes([number[0], number[1], number[2], number[3]]), frame);
        }
        latest
    }

    /// Begins a read transaction (`walTryBeginRead`): on mark zero if everything is copied back, else on a mark
    /// at the end of the WAL, else on the highest mark there is. `None` while no mark can be had.
    pub fn begin_read(&mut self, use_wal: bool) -> Option<Read> {
        let zero_taken = self.copying.is_some();
        let index = self.index.as_mut()?;
        if !use_wal && index.backfilled == index.max_frame && !zero_taken {
            index.held[0] += 1;
            return Some(Read { slot: 0 });
        }
        let usable = |mark: u32| mark != UNUSED && mark <= index.max_frame;
        let mut best = (1..MARKS).filter(|i| usable(index.marks[*i])).max_by_key(|i| index.marks[*i]);
        if best.is_none_or(|i| index.marks[i] < index.max_frame)
            && let Some(free) = (1..MARKS).find(|i| index.held[*i] == 0)
        {
            index.marks[free] = index.max_frame;
            best = Some(free);
        }
        let slot = best?;
        index.held[slot] += 1;
        Some(Read { slot })
    }

    pub fn end_read(&mut self, read: Read) {
        if let Some(index) = &mut self.index {
            index.held[read.slot] -= 1;
        }
    }

    /// Takes the write lock; `None` if it is held.
    pub fn begin_write(&mut self, who: Who) -> Option<Txn> {
        if self.writer.is_some() {
            return None;
        }
        let read = self.begin_read(false)?;
        self.writer = Some(who);
        let index = self.index.as_ref()?;
        let (end, checksum) = (index.max_frame, index.checksum);
        Some(Txn { read, end, checksum, begun: false, changed: BTreeMap::new() })
    }

    pub fn roll_back(&mut self, txn: Txn) {
        self.end_read(txn.read);
        self.writer = None;
    }

    /// Starts the WAL over if it is all copied back and nobody reads from it (`walRestartLog`).
    fn restart(&mut self, txn: &mut Txn, rng: &mut Rng) {
        if txn.read.slot != 0 {
            return;
        }
        let Some(index) = &mut self.index else { return };
        if index.backfilled > 0 && index.held[1..].iter().all(|held| *held == 0) {
            self.app_count += 1;
            index.begin_generation(rng.word());
        }
        (txn.end, txn.checksum) = (index.max_frame, index.checksum);
        self.end_read(txn.read);
        txn.read = self.begin_read(true).unwrap_or(Read { slot: 1 });
    }

    /// Writes frames of a transaction; with `commit` the last one ends it. The index does not tell of them yet.
    pub fn write(&mut self, txn: &mut Txn, change: &Change, commit: bool, rng: &mut Rng) {
        if !txn.begun {
            self.restart(txn, rng);
            txn.begun = true;
        }
        let before = self.state.pages.len() as u32;
        let mut pages: Vec<u32> = change.pages.iter().map(|n| n % change.size + 1).collect();
        if change.size != before {
            pages.extend(before + 1..=change.size);
            pages.push(1);
        }
        if pages.is_empty() {
            pages.push(1);
        }
        if !change.again {
            pages.sort_unstable();
            pages.dedup();
        }
        let last = pages.len() - 1;
        for (i, pgno) in pages.into_iter().enumerate() {
            let mut content = page(self.page_size, pgno, self.stamp);
            self.stamp += 1;
            if pgno == 1 {
                head(&mut content, self.page_size, change.size, true);
            }
            txn.changed.insert(pgno, digest(&content));
            let ends = if commit && i == last { change.size } else { 0 };
            self.frame(txn, pgno, ends, &content, rng);
        }
        if commit
            && self.full_sync
            && let Some(wal) = &mut self.wal
        {
            wal.sync();
        }
    }

    fn frame(&mut self, txn: &mut Txn, pgno: u32, commit: u32, content: &[u8], rng: &mut Rng) {
        let at = self.offset(txn.end);
        let (Some(index), Some(wal)) = (&mut self.index, &mut self.wal) else { return };
        if txn.end == 0 {
            if self.app_count == 0 {
                index.salts = Salts { salt1: rng.word(), salt2: rng.word() };
            }
            let header = WalHeader::new(false, self.page_size, self.app_count, index.salts);
            index.page_size = Some(self.page_size);
            txn.checksum = header.checksum;
            wal.write(0, &header.encode());
            wal.sync();
        }
        let mut chain = FrameChain::resume(false, self.page_size, index.salts, txn.checksum);
        let Some(pgno) = Pgno::new(pgno) else { return };
        let header: FrameHeader = chain.append(pgno, commit, content);
        wal.write(at, &header.encode());
        wal.write(at + FRAME_HEADER_LEN, content);
        txn.checksum = chain.checksum();
        txn.end += 1;
    }

    /// Tells everybody of a transaction whose last frame is written.
    pub fn publish(&mut self, txn: Txn, size: u32) {
        self.end_read(txn.read);
        self.writer = None;
        let Some(index) = &mut self.index else { return };
        (index.max_frame, index.pages, index.checksum) = (txn.end, size, txn.checksum);
        self.state.pages.resize(size as usize, 0);
        for (pgno, hash) in txn.changed {
            if let Some(slot) = self.state.pages.get_mut(pgno as usize - 1) {
                *slot = hash;
            }
        }
    }

    /// The application opens the database.
    pub fn app_opens(&mut self) {
        if !self.app_open {
            self.app_open = true;
            self.app_count = 0;
            self.open();
        }
    }

    /// The application ends as it should. The last one to close copies the WAL back and removes it.
    pub fn app_closes(&mut self) {
        if !self.app_open {
            return;
        }
        self.app_dies();
        if !self.engine_open && self.wal_mode {
            self.app_open = true;
            self.open();
            self.copy_all();
            self.app_open = false;
            self.index = None;
            self.wal = None;
        }
    }

    /// The application is killed: its locks are gone, nothing else is.
    pub fn app_dies(&mut self) {
        if let Some(txn) = self.app_txn.take() {
            self.roll_back(txn);
        }
        for read in std::mem::take(&mut self.app_reads) {
            self.end_read(read);
        }
        if self.writer == Some(Who::App) {
            self.writer = None;
        }
        self.copying = None;
        self.app_open = false;
        self.close_if_unused();
    }

    /// The engine's process is gone, or its connections closed; it leaves the WAL in place.
    pub fn engine_closes(&mut self, reads: &mut Vec<Read>, seal: Option<Txn>) {
        for read in reads.drain(..) {
            self.end_read(read);
        }
        if let Some(txn) = seal {
            self.roll_back(txn);
        }
        self.engine_open = false;
        self.close_if_unused();
    }

    /// Power is lost: every process is gone, and what was not synced may be.
    pub fn lose_power(&mut self, loss: Loss, rng: &mut Rng) {
        self.app_txn = None;
        self.app_reads.clear();
        (self.app_open, self.engine_open) = (false, false);
        (self.writer, self.copying, self.index) = (None, None, None);
        self.main.lose_power(loss, rng);
        if let Some(wal) = &mut self.wal {
            wal.lose_power(loss, rng);
        }
    }

    /// Looks at the database as the next opener would, without leaving anything open.
    pub fn settle_state(&mut self) {
        if self.index.is_none() {
            let count = self.app_count;
            if self.wal_mode && self.wal.is_some() {
                self.recover();
                self.index = None;
            } else {
                self.state = self.observe();
            }
            self.app_count = count;
        }
    }

    /// Rewrites the database outside of WAL mode: nobody else has it open. The page size may change.
    pub fn rewrite(&mut self, page_size: PageSize, pages: u32, wal_mode: bool) {
        let made = Self::new(self.id, page_size, pages, wal_mode, self.stamp);
        self.page_size = page_size;
        self.wal_mode = wal_mode;
        self.stamp = made.stamp;
        self.state = made.state;
        self.main = made.main;
        self.wal = None;
        self.index = None;
    }

    /// What is written from now on differs from whatever another course of things has written.
    pub fn restamp(&mut self, by: u64) {
        self.stamp += by << 20;
    }

    /// Puts the database into WAL mode, as an opener may while it is alone.
    pub fn switch_to_wal(&mut self) {
        let mut first = vec![0; self.page_size.len()];
        self.main.read(0, &mut first);
        first[18..20].fill(2);
        self.main.write(0, &first);
        self.main.sync();
        self.wal_mode = true;
        self.state = self.observe();
    }
}

impl Index {
    /// A new generation: the first salt is one more, the second is random (`walRestartHdr`).
    fn begin_generation(&mut self, salt2: u32) {
        self.max_frame = 0;
        self.backfilled = 0;
        self.salts = Salts { salt1: self.salts.salt1.wrapping_add(1), salt2 };
        self.marks = [0, 0, UNUSED, UNUSED, UNUSED];
    }
}
