//! From the database to the spool: what was committed since the last capture becomes one LTX file.
//!
//! A step looks, decides ([`plan`]), and reads under a read transaction that began while the one before it
//! was still open; the older one ends when what was read is safe on the disk. So at every moment either the
//! WAL or the spool holds every commit. Nothing is ever written into the database; its WAL is only copied
//! back by passive checkpoints ([`turn`]).

mod delta;
mod frames;
mod plan;
mod rebase;
mod room;
mod turn;
mod watch;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replicate_format::{Decoder, Level, PageEncoding, PageSize, Txid, TxidRange, crc64, page_checksum};

use crate::clock::{Pulse, SharedClock};
use crate::disk::SharedDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RebaseReason};
use crate::spool::ledger::Ledger;
use crate::spool::state::{MarkRecord, Record, ShippedRecord, StateFile};
use crate::spool::{LocalChain, Spool, SpoolFile};
use crate::sqlite::{Attach, Door, Identity, WalView};

use self::frames::{Frames, FramesError, Scratch, chain_from_header, chain_from_mark, frame_offset};
use self::plan::{CapturePlan, Position, WalMark, plan};

pub(crate) use self::watch::{InotifyWatch, Watch};

/// Longest run of frames in one file, cut at a commit; a longer transaction makes a longer file.
const RUN_BYTES: u64 = 8 << 20;

/// Files that the store has but the ledger does not cover: more than this and it is written out.
const RETAINED_FILES: usize = 64;

/// How to capture.
#[derive(Clone, Debug)]
pub(crate) struct CaptureConfig {
    /// The database.
    pub(crate) database: PathBuf,
    /// Where the replica is.
    pub(crate) replica: String,
    /// How pages are written.
    pub(crate) page_encoding: PageEncoding,
    /// WAL length from which it is copied back.
    pub(crate) checkpoint_pages: u32,
    /// Signs of life during long work.
    pub(crate) pulse: Arc<Pulse>,
}

/// The longest time between two signs of life: nothing but a disk that does not answer takes so long.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// What a step did.
#[derive(Debug)]
pub(crate) struct Step {
    /// What happened, in order.
    pub(crate) written: Vec<Event>,
    /// The last capture now.
    pub(crate) txid: Txid,
    /// Everything that was committed when the step began is captured.
    pub(crate) caught_up: bool,
    /// There is nothing to capture from.
    pub(crate) waiting: Option<Waiting>,
}

/// Why there is nothing to capture from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waiting {
    /// There is no database yet, or one without a header.
    Database,
}

/// How much waits in the WAL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backlog {
    /// Bytes of frames that are not captured.
    Bytes(u64),
    /// The database has to be looked at closely.
    Unknown,
}

/// The capture engine of one database.
#[derive(Debug)]
pub(crate) struct Capture {
    config: CaptureConfig,
    clock: SharedClock,
    attach: Arc<dyn Attach>,
    spool: Arc<Mutex<Spool>>,
    ledger: Ledger,
    state: StateFile,
    replica: String,
    door: Option<Box<dyn Door>>,
    position: Position,
    /// The database the position is of.
    database: (u64, u64),
    shipped: Option<ShippedRecord>,
    /// The next image must be a snapshot: the store has no chain that it could continue.
    snapshot_due: bool,
    /// Length of the WAL after the last try to copy it back.
    turned_at: WalMark,
    /// Bytes that the last image took before the disk had no more.
    wanted: u64,
    /// How often a lock of ours was not respected.
    alarms: u32,
    scratch: Scratch,
}

impl Capture {
    /// Opens the local state. Whatever is missing, damaged or of another replica counts as unknown.
    pub(crate) fn open(
        disk: SharedDisk,
        clock: SharedClock,
        attach: Arc<dyn Attach>,
        folder: &Path,
        spool: Arc<Mutex<Spool>>,
        config: CaptureConfig,
    ) -> Result<Self> {
        let (state, record) = StateFile::open(&disk, folder)?;
        let newest = lock(&spool).newest();
        let ledger = Ledger::open(disk, folder, newest)?;
        let replica = format!("{:016x}", crc64(config.replica.as_bytes()));
        let position = Position {
            txid: Txid::ZERO,
            commit: 0,
            page_size: None,
            mark: None,
            unbroken: false,
            held: false,
            due: None,
        };
        let nowhere = WalMark { salts: Default::default(), frame: 0, checksum: (0, 0) };
        let mut capture = Self {
            config,
            clock,
            attach,
            spool,
            ledger,
            state,
            replica,
            door: None,
            position,
            database: (0, 0),
            shipped: None,
            snapshot_due: false,
            turned_at: nowhere,
            wanted: 0,
            alarms: 0,
            scratch: Scratch::default(),
        };
        match record {
            Some(record) if record.replica == capture.replica => capture.recall(&record)?,
            _ => capture.forget()?,
        }
        Ok(capture)
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        lock(&self.spool)
    }

    /// Takes up what was recorded, as far as ledger and spool bear it out.
    fn recall(&mut self, record: &Record) -> Result<()> {
        self.shipped = record.shipped;
        self.database = record.database;
        let Some(page_size) = self.ledger.page_size() else { return self.forget() };
        self.position.page_size = Some(page_size);
        self.position.txid = self.ledger.durable();
        self.position.commit = self.ledger.pages();
        let files: Vec<SpoolFile> = self.spool().pending(Txid::ZERO).cloned().collect();
        for file in files {
            let covered = file.txids.max() <= self.ledger.durable();
            let fits = covered || file.txids.extends(self.position.txid);
            let replayed = if fits { self.replay(&file, covered) } else { Err(Error::internal("a gap in the spool")) };
            if let Err(error) = replayed {
                tracing::warn!(%error, txids = %file.txids, "spool file is damaged, comparing with the database");
                return self.cut(&file);
            }
        }
        if self.ledger.ahead() > self.position.txid {
            // It knows captures that the spool has lost: what it says of their pages is not what the store has.
            tracing::warn!(ahead = %self.ledger.ahead(), "spool files are missing, comparing with the database");
            self.ledger.reset()?;
            self.position.due = Some(RebaseReason::SpoolDamaged);
            return Ok(());
        }
        if record.txid == self.position.txid.0 && record.commit == self.position.commit {
            self.position.mark =
                record.mark.map(|m| WalMark { salts: m.salts(), frame: m.frame, checksum: m.checksum });
        }
        Ok(())
    }

    /// Goes on from before a damaged file: what is captured next takes its id and holds what was in it.
    fn cut(&mut self, damaged: &SpoolFile) -> Result<()> {
        let snapshot = damaged.level == Level::SNAPSHOT;
        let good = if snapshot { damaged.txids.max().prev() } else { damaged.txids.min().prev() };
        self.spool().discard_after(good)?;
        if self.ledger.ahead() > good {
            self.ledger.reset()?;
        }
        self.position.txid = good;
        self.position.due = Some(RebaseReason::SpoolDamaged);
        self.snapshot_due = snapshot;
        Ok(())
    }

    /// Reads a spool file whole; unless the ledger covers it, brings the ledger from before it to after it.
    fn replay(&mut self, file: &SpoolFile, covered: bool) -> Result<()> {
        let wrong =
            |e: &dyn std::fmt::Display| Error::new(ErrorKind::Corrupt, format!("spool file {}: {e}", file.txids));
        let reader = self.spool().read(file)?;
        let mut decoder = Decoder::new(reader).map_err(|e| wrong(&e))?;
        let header = *decoder.header();
        let known_size = covered || Some(header.page_size) == self.ledger.page_size();
        if !known_size || header.txids != file.txids {
            return Err(wrong(&"not what its name says"));
        }
        let mut page = vec![0; header.page_size.len()];
        let mut checksums = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page).map_err(|e| wrong(&e))? {
            if !covered {
                checksums.push((pgno, page_checksum(pgno, &page)));
            }
        }
        decoder.finish().map_err(|e| wrong(&e))?;
        if covered {
            return Ok(());
        }
        self.ledger.record(file.txids.max(), header.commit, checksums.into_iter());
        self.position.txid = file.txids.max();
        self.position.commit = header.commit;
        Ok(())
    }

    /// Forgets all local knowledge; what was spooled belonged to it.
    fn forget(&mut self) -> Result<()> {
        self.spool().discard_after(Txid::ZERO)?;
        self.ledger.reset()?;
        self.shipped = None;
        self.position = Position {
            txid: Txid::ZERO,
            commit: 0,
            page_size: None,
            mark: None,
            unbroken: false,
            held: false,
            due: None,
        };
        Ok(())
    }

    /// What this host remembers of the chain.
    pub(crate) fn chain(&self) -> LocalChain {
        let spooled: Vec<TxidRange> = self.spool().pending(Txid::ZERO).map(|file| file.txids).collect();
        LocalChain { newest: self.position.txid, spooled, shipped: self.shipped }
    }

    /// Starts over with a full image after `after`. What is spooled and not shipped is in the database too.
    pub(crate) fn start_over(&mut self, after: Txid, reason: RebaseReason, snapshot: bool) -> Result<()> {
        self.spool().discard_after(Txid::ZERO)?;
        self.ledger.reset()?;
        self.position.txid = after;
        self.position.mark = None;
        self.position.due = Some(reason);
        self.snapshot_due = snapshot;
        Ok(())
    }

    /// Captures what was committed, as far as one file goes.
    pub(crate) fn step(&mut self) -> Result<Step> {
        if self.position.due == Some(RebaseReason::SpoolFull) {
            // The database is not held while there is no room for what it has.
            self.check_room(self.position.commit, self.wanted)?;
        }
        if !self.attached()? {
            return Ok(self.done(Vec::new(), true, Some(Waiting::Database)));
        }
        let Some(door) = &self.door else { return Err(Error::internal("not attached")) };
        let view = door.look()?;
        if plan(&self.position, &view) == CapturePlan::Idle {
            return Ok(self.done(Vec::new(), true, None));
        }
        let captured = self.with_door(Self::follow);
        let (mut events, view) = self.steady(captured)?;
        if self.ledger.is_heavy() {
            self.ledger.flush(self.position.txid)?;
        }
        let caught_up = self.position.mark == Some(WalMark::end_of(&view));
        if caught_up {
            let turned = self.turn(&view);
            if turned.is_err() {
                // Whatever it was, the write lock must not stay with us.
                self.detach();
            }
            events.extend(self.steady(turned)?);
        }
        Ok(self.done(events, caught_up, None))
    }

    /// A failure between two read transactions leaves it open which of them is held: attach again. While the disk
    /// is full the database is let go, so that its WAL does not grow on our account.
    fn steady<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(room::is_full) {
            self.pause();
        } else if result.is_err() && self.door.as_ref().is_some_and(|door| door.pins() != 1) {
            self.detach();
        }
        result
    }

    /// Captures under a fresh read transaction that begins while the one before it is open. The old one ends
    /// only if everything up to the view is captured: until then it is what keeps the frames in place.
    fn follow(&mut self, door: &mut dyn Door) -> Result<(Vec<Event>, WalView)> {
        let before = door.look()?;
        door.pin()?;
        let captured = self.capture(door);
        match &captured {
            Ok((_, view)) if self.position.mark == Some(WalMark::end_of(view)) => {
                // A reader reads nothing from the WAL only if all of it is copied back. Fewer frames are now than
                // there were before it began, so it was not then.
                self.position.held = before.salts == view.salts && view.backfilled < before.max_frame;
                door.unpin_older()?;
            }
            _ => door.unpin_newer()?,
        }
        captured
    }

    fn done(&self, written: Vec<Event>, caught_up: bool, waiting: Option<Waiting>) -> Step {
        Step { written, txid: self.position.txid, caught_up, waiting }
    }

    /// Runs something on the door beside the rest of the engine.
    fn with_door<T>(&mut self, f: impl FnOnce(&mut Self, &mut dyn Door) -> Result<T>) -> Result<T> {
        let mut door = self.door.take().ok_or_else(|| Error::internal("not attached"))?;
        let result = f(self, door.as_mut());
        self.door = Some(door);
        result
    }

    /// One capture under two read transactions. Returns what happened and the view it was made from.
    fn capture(&mut self, door: &mut dyn Door) -> Result<(Vec<Event>, WalView)> {
        let view = door.look()?;
        let captured = match plan(&self.position, &view) {
            CapturePlan::Idle => None,
            CapturePlan::Rebase(reason) => {
                if reason == RebaseReason::LocksIgnored {
                    self.alarm()?;
                }
                self.rebase(door, &view, reason)?
            }
            CapturePlan::Delta { from, seed, prove } => match self.delta(door, &view, from, seed, prove) {
                Ok(captured) => captured,
                Err(FramesError::Other(error)) => return Err(error),
                Err(FramesError::Broken) => {
                    tracing::warn!(db = %self.config.database.display(), "the WAL does not continue, comparing pages");
                    self.rebase(door, &view, RebaseReason::WalMismatch)?
                }
            },
        };
        self.position.unbroken = true;
        self.record()?;
        Ok((captured.into_iter().collect(), view))
    }

    /// A lock was not respected. Once is told, twice is too often to go on.
    fn alarm(&mut self) -> Result<()> {
        self.alarms += 1;
        let message = format!("the WAL was restarted under a lock of ours path={}", self.config.database.display());
        let error = Error::new(ErrorKind::Unsupported, message).with_hint(
            "locks do not work on this file system, or a program opens the database without them (nolock, immutable)",
        );
        tracing::error!(%error, times = self.alarms, "comparing the database");
        if self.alarms > 1 { Err(error) } else { Ok(()) }
    }

    /// Whether the database is attached, as the file that its path names now.
    fn attached(&mut self) -> Result<bool> {
        if let Some(door) = &self.door {
            match door.identity()? {
                Identity::Same => return Ok(true),
                gone => {
                    tracing::warn!(db = %self.config.database.display(), ?gone, "files were replaced, attaching again");
                    self.detach();
                }
            }
        }
        let Some(door) = self.attach.attach(&self.config.database)? else { return Ok(false) };
        if door.file() != self.database {
            let known = self.position.page_size.is_some() && self.database != (0, 0);
            if known && self.position.due.is_none() {
                self.position.due = Some(RebaseReason::DatabaseReplaced);
            }
            self.database = door.file();
        }
        self.door = Some(door);
        Ok(true)
    }

    fn detach(&mut self) {
        self.door = None;
        (self.position.unbroken, self.position.held) = (false, false);
    }

    /// Notes where the last capture ended.
    fn record(&mut self) -> Result<()> {
        let mark = self.position.mark.filter(|_| self.position.due.is_none());
        let record = Record {
            replica: self.replica.clone(),
            database: self.database,
            page_size: self.position.page_size.map_or(0, PageSize::get),
            txid: self.position.txid.0,
            commit: self.position.commit,
            mark: mark.map(|m| MarkRecord {
                salts: (m.salts.salt1, m.salts.salt2),
                frame: m.frame,
                checksum: m.checksum,
            }),
            shipped: self.shipped,
        };
        self.state.write(&record)
    }

    /// Notes that the store has a file, and removes it once the ledger covers it.
    pub(crate) fn shipped(&mut self, file: &SpoolFile) -> Result<()> {
        let txid = file.txids.max();
        self.shipped = Some(ShippedRecord { txid: txid.0, level: file.level.get(), size: file.size });
        let retained = self.spool().pending(Txid::ZERO).take_while(|file| file.txids.max() <= txid).count();
        if retained > RETAINED_FILES {
            self.ledger.flush(self.position.txid)?;
        }
        self.record()?;
        self.sweep()
    }

    fn sweep(&mut self) -> Result<()> {
        let shipped = self.shipped.map_or(Txid::ZERO, |shipped| shipped.txid());
        let covered = shipped.min(self.ledger.durable());
        self.spool().release(covered)
    }

    /// After some quiet: writes the ledger out and removes what it covers.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.ledger.is_dirty() || self.ledger.durable() < self.position.txid {
            self.ledger.flush(self.position.txid)?;
        }
        self.record()?;
        self.sweep()
    }

    /// Lets go of the database because the spool is full; what is missed is found by comparing later.
    pub(crate) fn pause(&mut self) {
        self.detach();
        self.position.due = self.position.due.or(Some(RebaseReason::SpoolFull));
    }

    /// How much waits in the WAL.
    pub(crate) fn backlog(&self) -> Result<Backlog> {
        let Some(door) = &self.door else { return Ok(Backlog::Unknown) };
        let view = door.look()?;
        let frames = match plan(&self.position, &view) {
            CapturePlan::Idle => 0,
            CapturePlan::Delta { from, .. } => view.max_frame - from,
            CapturePlan::Rebase(_) => return Ok(Backlog::Unknown),
        };
        Ok(Backlog::Bytes(u64::from(frames) * view.page_size.frame_len() as u64))
    }

    /// Lets go of the database and leaves the local state in order.
    ///
    /// The WAL is left in place, so that the next start can prove that it continues; what it holds is copied
    /// back first, so that the database file is whole without it.
    pub(crate) fn close(&mut self) -> Result<()> {
        let settled = self.settle();
        if let Some(door) = &mut self.door {
            // Whoever is in the way will copy it back instead.
            let copied = door.checkpoint();
            tracing::debug!(?copied, "copied back before letting go");
        }
        self.detach();
        self.record()?;
        settled
    }

    fn ledger_matches(&self, page_size: PageSize) -> bool {
        self.ledger.page_size() == Some(page_size)
    }
}

fn lock(spool: &Mutex<Spool>) -> MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}
