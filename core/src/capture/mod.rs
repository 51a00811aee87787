//! From the database to the spool: what was committed since the last capture becomes one LTX file.
//!
//! A step looks, decides ([`plan`]), and reads under a read transaction that began while the one before it
//! was still open; the older one ends when what was read is safe on the disk. So at every moment either the
//! WAL or the spool holds every commit. Nothing is ever written into the database; its WAL is only copied
//! back by passive checkpoints ([`turn`]).

mod delta;
mod frames;
mod pages;
mod plan;
mod rebase;
mod recall;
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

use replicate_format::{PageEncoding, PageSize, Salts, Txid};

use crate::clock::{Pulse, SharedClock};
use crate::disk::SharedDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RebaseReason};
use crate::spool::ledger::Ledger;
use crate::spool::state::{MarkRecord, Record, ShippedRecord, StateFile};
use crate::spool::{LocalChain, Spool, SpoolFile, replica_id};
use crate::sqlite::{Attach, Braking, Door, Identity, WalView};

use self::frames::{Frames, FramesError, Scratch, chain_from_header, chain_from_mark, frame_offset};
use self::pages::{Overflow, PageMap};
use self::plan::{CapturePlan, Position, WalMark, plan};

pub(crate) use self::watch::{InotifyWatch, Watch};

/// Longest run of frames in one file in megabytes, cut at a commit; a longer transaction makes a longer file.
const RUN: u64 = 8;

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
    /// What a megabyte is to the limits on runs of frames; the simulation has small ones.
    pub(crate) megabyte: u64,
    /// Signs of life during long work.
    pub(crate) pulse: Arc<Pulse>,
    /// What the replica is sealed to; empty: it is plain.
    pub(crate) sealed_to: String,
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
    /// There was a database, and it is gone: what was committed to it last may not be captured.
    Gone,
}

/// How much waits in the WAL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backlog {
    /// Frames that are not captured.
    Frames {
        /// Their bytes.
        bytes: u64,
        /// Whether nobody can add to them: a checkpoint that keeps writers out waits for somebody.
        stopped: bool,
    },
    /// The database has to be looked at closely.
    Unknown,
}

/// How everything is captured anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartOver {
    /// The last id that is taken.
    pub(crate) after: Txid,
    /// Why.
    pub(crate) reason: RebaseReason,
    /// The image must be a snapshot: the store has no chain that it could continue.
    pub(crate) snapshot: bool,
    /// What the store was found to hold, if that is what has changed.
    pub(crate) basis: Option<Basis>,
}

/// What an image continues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Basis {
    /// The last object.
    pub(crate) object: Option<ShippedRecord>,
    /// The page size there, if it was looked at.
    pub(crate) page_size: Option<PageSize>,
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
    /// See [`Record::link`].
    link: Option<(u64, [u8; 32])>,
    /// The last id that was given before everything was forgotten.
    given: Txid,
    /// Above zero while everything is given up, see [`Record::given_up`].
    given_up: Txid,
    /// The local state is of another replica: it is not looked at, and left as it is until this one has answered.
    foreign: bool,
    /// What the replica was sealed to when the last whole image was made.
    sealed_to: String,
    /// The next image must be a snapshot: the store has no chain that it could continue.
    snapshot_due: bool,
    /// Length of the WAL after the last try to copy it back.
    turned_at: WalMark,
    /// How much of the WAL was copied back when the database was last brought to the disk.
    synced: (Salts, u32),
    /// Frames that our read transaction lets others copy back.
    reach: (Salts, u32),
    /// Bytes that are brought to the disk or copied while writers are held.
    most_work: u64,
    /// Bytes that the last image took before the disk had no more.
    wanted: u64,
    /// How often a lock of ours was not respected.
    alarms: u32,
    scratch: Scratch,
}

impl Capture {
    /// Says that long work goes on, and ends it when no time is left for it.
    fn sign_of_life(&self) -> Result<()> {
        self.config.pulse.beat(SIGN_OF_LIFE);
        match self.config.pulse.is_over() {
            true => Err(Error::new(ErrorKind::Timeout, "the capture was given up when the time to stop was over")),
            false => Ok(()),
        }
    }

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
        let overflow = Overflow::new(disk.clone(), folder.join("frames"), config.megabyte);
        let ledger = Ledger::open(disk, folder, newest)?;
        let replica = replica_id(&config.replica);
        let nowhere = WalMark { salts: Default::default(), frame: 0, checksum: (0, 0) };
        let most_work = turn::SEALED_WORK_FIRST * config.megabyte;
        let mut capture = Self {
            config,
            clock,
            attach,
            spool,
            ledger,
            state,
            replica: replica.clone(),
            door: None,
            position: Position::default(),
            database: (0, 0),
            shipped: None,
            link: None,
            given: Txid::ZERO,
            given_up: Txid::ZERO,
            foreign: record.as_ref().is_some_and(|record| record.replica != replica),
            sealed_to: String::new(),
            snapshot_due: false,
            turned_at: nowhere,
            synced: (nowhere.salts, 0),
            reach: (nowhere.salts, 0),
            most_work,
            wanted: 0,
            alarms: 0,
            scratch: Scratch::new(overflow),
        };
        match record {
            Some(record) if record.replica == replica => capture.recall(&record)?,
            // One start with a wrong place shall not cost what waits for the right one.
            Some(_) => {}
            _ => capture.forget()?,
        }
        Ok(capture)
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        lock(&self.spool)
    }

    /// Brings the ledger from before a capture to after it. If it fails the ledger is neither.
    fn note(&mut self, txid: Txid, commit: u32, pages: &PageMap) -> Result<()> {
        let mut cursor = pages.cursor()?;
        let mut failed = None;
        let entries = std::iter::from_fn(|| {
            cursor.next(pages).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        let known = entries.filter(|_| !mutant!(LedgerStale)).map(|entry| (entry.pgno, entry.checksum));
        self.ledger.record(txid, commit, known);
        failed.map_or(Ok(()), Err)
    }

    /// What this host remembers of the chain.
    pub(crate) fn chain(&self) -> LocalChain {
        let spooled: Vec<SpoolFile> = self.spool().pending(Txid::ZERO).cloned().collect();
        let (sealed, rekeyed) = (!self.config.sealed_to.is_empty(), self.sealed_to != self.config.sealed_to);
        let (newest, shipped, given) = (self.position.txid, self.shipped, self.given);
        LocalChain { newest, spooled, shipped, given, sealed, rekeyed, link: self.link }
    }

    /// Notes which object of the store this chain stands on.
    pub(crate) fn stand_on(&mut self, object: Option<ShippedRecord>) -> Result<()> {
        self.shipped = object;
        self.record()
    }

    /// Has everything captured anew. What is spooled and not shipped is in the database too.
    pub(crate) fn start_over(&mut self, over: StartOver) -> Result<()> {
        self.state.reopen_if_gone()?;
        // First of all: what is spooled may be on its way to the store. If this ends halfway, nothing else would tell
        // that its ids are taken.
        self.given_up = self.given_up.max(self.given).max(self.position.txid).max(over.after);
        self.record()?;
        self.state.sync()?;
        self.spool().discard_after(Txid::ZERO)?;
        self.ledger.reset()?;
        point!(StartedOver);
        self.foreign = false;
        (self.given, self.given_up) = (Txid::ZERO, Txid::ZERO);
        self.position.txid = over.after;
        self.position.mark = None;
        self.position.due = Some(over.reason);
        self.snapshot_due = over.snapshot;
        if let Some(basis) = over.basis {
            // What had arrived stays in mind whatever the listing shows: its ids are taken.
            self.shipped = basis.object.or(self.shipped);
            self.position.page_size = basis.page_size.or(self.position.page_size);
        }
        self.record()
    }

    /// Captures what was committed, as far as one file goes.
    pub(crate) fn step(&mut self) -> Result<Step> {
        if self.position.due == Some(RebaseReason::SpoolFull) {
            // The database is not held while there is no room for what it has.
            self.check_room(self.position.commit, self.wanted)?;
        }
        if !self.attached()? {
            let known = !self.position.txid.is_zero() && self.database != (0, 0);
            return Ok(self.done(Vec::new(), true, Some(if known { Waiting::Gone } else { Waiting::Database })));
        }
        let Some(door) = &self.door else { return Err(Error::internal("not attached")) };
        let view = door.look()?;
        if plan(&self.position, &view) == CapturePlan::Idle && !self.is_in_the_way(&view) {
            return Ok(self.done(Vec::new(), true, None));
        }
        let captured = self.with_door(Self::follow);
        let (mut events, view) = self.steady(captured)?;
        if self.ledger.is_heavy() {
            self.ledger.flush(self.position.txid)?;
        }
        let caught_up = self.position.mark == Some(WalMark::end_of(&view));
        let turned = self.turn(&view, caught_up);
        events.extend(self.steady(turned)?);
        Ok(self.done(events, caught_up, None))
    }

    /// Whether an application that has copied the WAL back, and wants to begin it anew (a checkpoint of the kind RESTART or
    /// TRUNCATE, under which nobody can write), waits for our read transaction, which nothing needs any more.
    fn is_in_the_way(&self, view: &WalView) -> bool {
        self.position.held && view.max_frame > 0 && view.backfilled >= view.max_frame
    }

    /// A failure between two read transactions leaves it open which of them is held: attach again. So does a WAL that
    /// cannot be read: what we hold may be what keeps others from mending it. One while writers
    /// are held lets them go at once. While the disk is full the database is let go, so that its WAL does not grow on
    /// our account.
    fn steady<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(room::is_full) {
            self.pause();
        } else if result.is_err()
            && let Some(door) = &mut self.door
        {
            let released = door.brake(Braking::Off).and(door.unseal());
            let blocked = result.as_ref().is_err_and(|e| e.kind() == ErrorKind::Busy);
            if released.is_err() || door.pins() != 1 || blocked {
                self.detach();
            }
        }
        result
    }

    /// Captures under a fresh read transaction that begins while the one before it is open. The old one ends
    /// only if everything up to the view is captured: until then it is what keeps the frames in place.
    fn follow(&mut self, door: &mut dyn Door) -> Result<(Vec<Event>, WalView)> {
        let before = door.look()?;
        door.pin()?;
        point!(Pinned);
        let captured = self.capture(door);
        match &captured {
            Ok((_, view)) if self.position.mark == Some(WalMark::end_of(view)) => {
                // A reader reads nothing from the WAL only if all of it is copied back. Fewer frames are now than
                // there were before it began, so it was not then.
                self.position.held = before.salts == view.salts && view.backfilled < before.max_frame;
                self.reach = (before.salts, before.max_frame);
                door.unpin_older()?;
            }
            _ if mutant!(UncapturedReleased) => door.unpin_older()?,
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
        // Only now, when nothing is left: a read transaction that began with frames uncaptured need not hold them. If
        // they were all copied back by then, it reads none of them, and the WAL may start over.
        self.position.unbroken |= self.position.mark == Some(WalMark::end_of(&view));
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
                _ if mutant!(ReplacedUnseen) => return Ok(true),
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
        self.position.unbroken = self.position.unbroken && mutant!(BreakForgotten);
        self.position.held = false;
    }

    /// Notes where the last capture ended.
    fn record(&mut self) -> Result<()> {
        if self.foreign {
            return Ok(());
        }
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
            given_up: self.given_up.0,
            sealed_to: self.sealed_to.clone(),
            link: self.link,
        };
        self.state.write(&record)
    }

    /// Notes that the store has a file, in so many bytes and with this authentication, and removes it once the ledger
    /// covers it.
    pub(crate) fn shipped(&mut self, file: &SpoolFile, size: u64, link: Option<[u8; 32]>) -> Result<()> {
        let txid = file.txids.max();
        self.link = link.map(|link| (txid.0, link));
        self.shipped = Some(ShippedRecord { txid: txid.0, level: file.level.get(), size });
        let retained = self.spool().pending(Txid::ZERO).take_while(|file| file.txids.max() <= txid).count();
        if retained > RETAINED_FILES {
            self.ledger.flush(self.position.txid)?;
        }
        self.record()?;
        self.sweep()
    }

    fn sweep(&mut self) -> Result<()> {
        let shipped = self.shipped.map_or(Txid::ZERO, |shipped| shipped.txid());
        let covered = if mutant!(SpoolDeletedEarly) { self.position.txid } else { shipped.min(self.ledger.durable()) };
        let releases = self.spool().pending(Txid::ZERO).any(|file| file.txids.max() <= covered);
        if releases {
            // A file that the store has can prove that what is there is ours; without it only the record can.
            self.state.sync()?;
        }
        self.spool().release(covered)?;
        if releases {
            point!(SpoolReleased);
        }
        Ok(())
    }

    /// After some quiet: writes the ledger out and removes what it covers.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.foreign {
            return Ok(());
        }
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
            CapturePlan::Idle if self.is_in_the_way(&view) => return Ok(Backlog::Unknown),
            CapturePlan::Idle => 0,
            CapturePlan::Delta { from, .. } => view.max_frame - from,
            CapturePlan::Rebase(_) => return Ok(Backlog::Unknown),
        };
        let bytes = view.bytes_of(frames);
        Ok(Backlog::Frames { bytes, stopped: bytes > 0 && door.is_stopped()? })
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
