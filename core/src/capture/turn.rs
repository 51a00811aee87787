//! Copying the WAL back, so that it starts over instead of growing.
//!
//! Our read transaction keeps others from restarting the WAL, so we must see to it that it is. Once all
//! frames are captured and copied back, a fresh read transaction reads nothing from the WAL, and the next
//! writer starts it over. After quiet that takes no lock that writers need: a passive checkpoint, then a new
//! read transaction beside the old one. Under load writers are always a few frames ahead; then, and only when
//! the WAL has grown long or outgrows what is captured of it, the write lock is held while those few are read and
//! copied back.
//!
//! An application that checkpoints by itself (SQLite's default) does so at the commit after our read mark has moved.
//! It gets the chance: that costs it less than it is used to, and a writer that copies does not run away from us.
//! A writer that runs away all the same is slowed down ([`Door::brake`]), so that its WAL stays bounded.

use std::time::Duration;

use super::delta::has_gap;
use super::{Capture, CapturePlan, Frames, FramesError, WalMark, chain_from_mark, plan};
use crate::error::Result;
use crate::event::Event;
use crate::sqlite::{Braking, Checkpoint, Door, WalView};

/// The WAL may grow to this many times the length at which copying back starts before writers are held, and to
/// this many megabytes.
const SEAL_AT: (u32, u64) = (3, 8);
/// Larger pages than this count for more than one when it is decided whether to copy back.
const PAGE: usize = 4096;
/// The most megabytes of frames that are read while writers are held.
const SEALED_TAIL: u64 = 6;
/// The most megabytes that are brought to the disk or copied while writers are held, at the least and at the most. What
/// it is in between follows from how long they were held the last times.
pub(super) const SEALED_WORK: (u64, u64) = (4, 36);
/// What it is at first.
pub(super) const SEALED_WORK_FIRST: u64 = 8;
/// How long writers should be held, at the least and at the most. SQLite's waits end 18 and 33 ms after a writer has
/// met the lock.
const HOLD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(25));
/// How often it is tried to come close to a writer that does not pause.
const CATCH_UPS: u32 = 32;
/// A writer is slowed down from this try on, and if its WAL has so many megabytes.
const BRAKE_AT: (u32, u64) = (6, 12);
/// And more from so many megabytes on.
const BRAKE_HARD_AT: u64 = 24;
/// A WAL of more megabytes than this when we come to it may have been made by one large transaction, or while we were not
/// there. Then nobody is slowed down for its length, unless it grows by [`BRAKE_AT`] megabytes a second.
const GIVEN: u64 = 64;
/// The shortest time over which that is told.
const GROWTH: Duration = Duration::from_millis(250);
/// So many megabytes written during one capture, none of which the application has copied back: there is no use in copying
/// them while more are written.
const RUNS_AWAY: u64 = 2;
/// How long the write lock is tried for.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often, and for how long at the most, it is tried again while writers are held and a reader is in the way.
const READER_ENDS: (u32, Duration) = (6, Duration::from_millis(5));
/// How often copying back is tried while the application itself is at it: while writers are held, and otherwise.
const COPY_TRIES: (u32, u32) = (20, 50);

/// What is left to do before the WAL can start over, in bytes of frames.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// All of the WAL.
    length: u64,
    /// To be captured.
    tail: u64,
    /// To be copied back.
    copy: u64,
    /// Copied back and perhaps not on the disk yet.
    sync: u64,
}

impl Left {
    /// What the system has to move if it is all done now: the WAL to the disk, from it into the database, and that
    /// to the disk.
    fn work(&self) -> u64 {
        self.copy.saturating_mul(3).saturating_add(self.sync)
    }
}

/// Copies back after an application that does so by itself had its chance.
fn copy_back(door: &mut dyn Door) -> Result<Checkpoint> {
    door.rest();
    copy_alone(door, COPY_TRIES.1)
}

/// Copies back, once nobody else is at it.
fn copy_alone(door: &mut dyn Door, tries: u32) -> Result<Checkpoint> {
    let mut copied = door.checkpoint()?;
    for _ in 1..tries {
        if !copied.busy {
            break;
        }
        door.rest();
        copied = door.checkpoint()?;
    }
    Ok(copied)
}

impl Capture {
    /// Copies the WAL back if it is time. Whether everything in the view is captured is told: a writer that is
    /// faster than we are leaves no moment at which it is, and its WAL is the one that must be turned.
    pub(super) fn turn(&mut self, view: &WalView, caught_up: bool) -> Result<Vec<Event>> {
        let larger = view.page_size.len().div_ceil(PAGE);
        let threshold = (self.config.checkpoint_pages / u32::try_from(larger).unwrap_or(1)).max(1);
        let since = if view.salts == self.turned_at.salts { self.turned_at.frame } else { 0 };
        if view.max_frame < threshold || view.max_frame - since.min(view.max_frame) < threshold {
            return Ok(Vec::new());
        }
        let bytes = view.bytes_of(view.max_frame);
        let sealed = view.max_frame >= threshold.saturating_mul(SEAL_AT.0) && bytes >= SEAL_AT.1 * self.config.megabyte;
        if !caught_up && !sealed {
            return Ok(Vec::new());
        }
        self.turned_at = WalMark::end_of(view);
        self.with_door(|capture, door| {
            if sealed || capture.runs_away(view, door)? {
                return capture.sealed_turn(door);
            }
            let copied = copy_back(door)?;
            if copied.busy {
                return Ok(Vec::new());
            }
            let mut events = vec![Event::Checkpointed { frames: copied.log, copied: copied.copied }];
            if door.look()?.max_frame == view.max_frame {
                events.extend(capture.follow(door)?.0);
            }
            Ok(events)
        })
    }

    /// Whether writers have written so much while we captured that copying beside them is in vain, and nobody else copies
    /// any of it back.
    fn runs_away(&self, before: &WalView, door: &dyn Door) -> Result<bool> {
        let now = door.look()?;
        let grown = now.bytes_of(now.max_frame).saturating_sub(before.bytes_of(before.max_frame));
        if now.backfilled > 0 || grown < RUNS_AWAY * self.config.megabyte {
            return Ok(false);
        }
        // While we read from the database itself, as before the first capture of a WAL, nobody else could copy. One that
        // does so at a commit is at it now.
        door.rest();
        Ok(!door.is_copied_back()?)
    }

    /// Catches up, then holds the writers for what is left.
    fn sealed_turn(&mut self, door: &mut dyn Door) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let close = self.approach(door, &mut events);
        // Taking the lock takes the brake off.
        if matches!(close, Ok(true)) && (mutant!(SealSkipped) || door.seal(PATIENCE)?) {
            self.turn_sealed(door, &mut events)?;
        }
        door.brake(Braking::Off)?;
        close.map(|_| events)
    }

    /// Comes so close to the writers that what is left takes them little time. `false` if that is in vain.
    fn approach(&mut self, door: &mut dyn Door, events: &mut Vec<Event>) -> Result<bool> {
        let megabyte = self.config.megabyte;
        if self.is_stuck(door)? {
            return Ok(false);
        }
        let mut stuck = 0;
        let (first, begun) = (self.left(door)?.length, self.clock.monotonic());
        let mut given = if first > GIVEN * megabyte { first } else { 0 };
        for round in 0..CATCH_UPS {
            let length = self.left(door)?.length;
            let time = self.clock.monotonic().saturating_sub(begun).max(GROWTH);
            if length.saturating_sub(first) as f64 > (BRAKE_AT.1 * megabyte) as f64 * time.as_secs_f64() {
                given = 0;
            }
            let length = length.saturating_sub(given);
            if length >= BRAKE_HARD_AT * megabyte {
                door.brake(Braking::Hard)?;
            } else if round >= BRAKE_AT.0 || length >= BRAKE_AT.1 * megabyte {
                door.brake(Braking::On)?;
            }
            events.extend(self.follow(door)?.0);
            let left = self.left(door)?;
            if left.tail > SEALED_TAIL * megabyte / 2 {
                continue;
            }
            if left.work() <= self.most_work / 2 {
                break;
            }
            if left.copy <= left.sync / 2 {
                let view = door.look()?;
                door.sync_database()?;
                self.synced = (view.salts, view.backfilled);
            } else if self.is_stuck(door)? {
                stuck += 1;
            } else {
                stuck = 0;
            }
            // Once on the way may be chance: a read transaction of ours that began while all marks were taken stands on an
            // older one.
            if stuck > 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies back; whether a reader that is not ours needs the WAL as it is. Then it is in vain whatever is done to
    /// writers.
    fn is_stuck(&mut self, door: &mut dyn Door) -> Result<bool> {
        let copied = copy_back(door)?;
        Ok(!copied.busy && door.look()?.salts == self.reach.0 && copied.copied < self.reach.1)
    }

    /// With the writers held: finishes, unless too much is left.
    fn turn_sealed(&mut self, door: &mut dyn Door, events: &mut Vec<Event>) -> Result<()> {
        let begun = self.clock.monotonic();
        let left = self.left(door)?;
        if left.tail > SEALED_TAIL * self.config.megabyte || left.work() > self.most_work {
            return door.unseal();
        }
        point!(Sealed);
        let tail = self.read_sealed(door);
        point!(SealedCopied);
        door.unseal()?;
        point!(Unsealed);
        self.was_held(self.clock.monotonic().saturating_sub(begun));
        if let Some((view, from, frames)) = tail?.filter(|_| !mutant!(SealedTailDropped)) {
            // If this fails the frames may be gone from the WAL by the time they could be read again.
            let position = self.position.clone();
            (self.position.unbroken, self.position.mark) = (false, None);
            if !has_gap(&frames, position.commit, view.page_size)? {
                let written = self.write_delta(door, &view, from, &frames);
                frames.reclaim(&mut self.scratch);
                events.push(written?);
                self.position.unbroken = position.unbroken;
            }
            self.record()?;
        }
        Ok(())
    }

    /// The next time less is left for it if this was too long.
    fn was_held(&mut self, time: Duration) {
        let (least, most) = (SEALED_WORK.0 * self.config.megabyte, SEALED_WORK.1 * self.config.megabyte);
        tracing::debug!(db = %self.config.database.display(), ?time, work = self.most_work, "writers were held");
        if time > HOLD.1 {
            self.most_work = (self.most_work / 3 * 2).max(least);
        } else if time < HOLD.0 {
            self.most_work = (self.most_work / 4 * 5).min(most);
        }
    }

    /// Copies back as far as this frame. The writer who was let in just before us may not have ended his read transaction
    /// yet: he has a moment to.
    fn copy_held(&self, door: &mut dyn Door, frame: u32) -> Result<Checkpoint> {
        let mut copied = copy_alone(door, COPY_TRIES.0)?;
        let begun = self.clock.monotonic();
        for _ in 0..READER_ENDS.0 {
            let waited = self.clock.monotonic().saturating_sub(begun);
            if copied.busy || copied.copied >= frame || waited >= READER_ENDS.1 {
                break;
            }
            door.rest();
            copied = copy_alone(door, COPY_TRIES.0)?;
        }
        Ok(copied)
    }

    fn left(&self, door: &dyn Door) -> Result<Left> {
        let view = door.look()?;
        let tail = match plan(&self.position, &view) {
            CapturePlan::Delta { from, .. } => view.bytes_of(view.max_frame - from),
            CapturePlan::Idle => 0,
            CapturePlan::Rebase(_) => u64::MAX,
        };
        let synced = if self.synced.0 == view.salts { self.synced.1 } else { 0 };
        Ok(Left {
            length: view.bytes_of(view.max_frame),
            tail,
            copy: view.bytes_of(view.max_frame.saturating_sub(view.backfilled)),
            sync: view.bytes_of(view.backfilled.saturating_sub(synced)),
        })
    }

    /// With the writers held: reads the last frames into memory, copies all back and moves on to a read
    /// transaction that needs none of them.
    fn read_sealed(&mut self, door: &mut dyn Door) -> Result<Option<(WalView, u32, Frames)>> {
        let view = door.look()?;
        let tail = match plan(&self.position, &view) {
            CapturePlan::Idle => None,
            CapturePlan::Delta { from, seed: Some(checksum), .. } => {
                let read = chain_from_mark(door, &view, from, checksum, false)
                    .and_then(|chain| Frames::read(door, &view, from, chain, None, &mut self.scratch));
                match read {
                    Ok(frames) => Some((view, from, frames)),
                    Err(FramesError::Other(error)) => return Err(error),
                    Err(FramesError::Broken) => return Ok(None),
                }
            }
            // A generation that has just begun is short; there is no hurry.
            CapturePlan::Delta { seed: None, .. } | CapturePlan::Rebase(_) => return Ok(None),
        };
        // A call that fails after it had its effect leaves it open what is still held.
        let proof = (self.position.unbroken, self.position.mark);
        (self.position.held, self.position.unbroken, self.position.mark) = (false, false, None);
        door.pin()?;
        door.unpin_older()?;
        self.reach = (view.salts, view.max_frame);
        let copied = self.copy_held(door, view.max_frame)?;
        door.pin()?;
        door.unpin_older()?;
        let now = door.look()?;
        (self.position.unbroken, self.position.mark) = proof;
        self.position.held = now.salts == view.salts && now.backfilled < view.max_frame;
        self.turned_at = WalMark::end_of(&view);
        let db = self.config.database.display();
        tracing::debug!(%db, frames = copied.log, copied = copied.copied, "copied back while writers were held");
        Ok(tail)
    }
}
