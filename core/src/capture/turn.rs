//! Copying the WAL back, so that it starts over instead of growing.
//!
//! Our read transaction keeps others from restarting the WAL, so we must see to it that it is. Once all
//! frames are captured and copied back, a fresh read transaction reads nothing from the WAL, and the next
//! writer starts it over. After quiet that takes no lock that writers need: a passive checkpoint, then a new
//! read transaction beside the old one. Under load writers are always a few frames ahead; then, and only when
//! the WAL has grown long, the write lock is held while those few are read and copied back.

use std::time::Duration;

use super::delta::has_gap;
use super::{Capture, CapturePlan, Frames, FramesError, WalMark, chain_from_mark, plan};
use crate::error::Result;
use crate::event::Event;
use crate::sqlite::{Door, WalView};

/// The WAL may grow to this many times the length at which copying back starts before writers are held, and to
/// this many megabytes.
const SEAL_AT: (u32, u64) = (3, 8);
/// Larger pages than this count for more than one when it is decided whether to copy back.
const PAGE: usize = 4096;
/// The most megabytes of frames that are read while writers are held.
const SEALED_TAIL: u64 = 6;
/// The most megabytes that are brought to the disk or copied while writers are held: the time of it is what a write
/// may wait for us.
const SEALED_WORK: u64 = 36;
/// How often it is tried to come that close to a writer that does not pause.
const CATCH_UPS: u32 = 24;
/// From this try on a writer that is faster than we are waits while every other run is read and packed. Between
/// two runs it has as long again: SQLite sleeps longer and longer between its tries for a lock, and must not
/// miss every chance.
const BRAKE_AFTER: u32 = 4;
/// How long the write lock is tried for.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often copying back is tried while writers are held and the application itself is at it.
const SEALED_TRIES: u32 = 200;

/// What is left to do before the WAL can start over, in bytes of frames.
#[derive(Clone, Copy, Debug)]
struct Left {
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
        let bytes = u64::from(view.max_frame) * view.page_size.frame_len() as u64;
        let sealed = view.max_frame >= threshold.saturating_mul(SEAL_AT.0) && bytes >= SEAL_AT.1 * self.config.megabyte;
        if !caught_up && !sealed {
            return Ok(Vec::new());
        }
        self.turned_at = WalMark::end_of(view);
        self.with_door(|capture, door| {
            if sealed {
                return capture.sealed_turn(door);
            }
            let copied = door.checkpoint()?;
            if copied.busy {
                return Ok(Vec::new());
            }
            let mut events = vec![Event::Checkpointed { frames: copied.log, copied: copied.copied }];
            events.extend(capture.follow(door)?.0);
            Ok(events)
        })
    }

    /// Catches up, then holds the writers for what is left.
    fn sealed_turn(&mut self, door: &mut dyn Door) -> Result<Vec<Event>> {
        let megabyte = self.config.megabyte;
        let (most_tail, most_work) = (SEALED_TAIL * megabyte, SEALED_WORK * megabyte);
        let mut events = Vec::new();
        for round in 0..CATCH_UPS {
            let brake = round >= BRAKE_AFTER && round % 2 == 0 && door.seal(PATIENCE)?;
            let followed = self.follow(door);
            if brake {
                door.unseal()?;
            }
            events.extend(followed?.0);
            let left = self.left(door)?;
            if left.tail > most_tail / 2 {
                continue;
            }
            if left.work() <= most_work / 2 {
                break;
            }
            if left.copy > left.sync / 2 {
                door.checkpoint()?;
            } else {
                let view = door.look()?;
                door.sync_database()?;
                self.synced = (view.salts, view.backfilled);
            }
        }
        if !(mutant!(SealSkipped) || door.seal(PATIENCE)?) {
            return Ok(events);
        }
        let left = self.left(door)?;
        if left.tail > most_tail || left.work() > most_work {
            door.unseal()?;
            return Ok(events);
        }
        point!(Sealed);
        let tail = self.read_sealed(door);
        point!(SealedCopied);
        door.unseal()?;
        point!(Unsealed);
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
        Ok(events)
    }

    fn left(&self, door: &dyn Door) -> Result<Left> {
        let view = door.look()?;
        let frames = |n: u32| u64::from(n) * view.page_size.frame_len() as u64;
        let tail = match plan(&self.position, &view) {
            CapturePlan::Delta { from, .. } => frames(view.max_frame - from),
            CapturePlan::Idle => 0,
            CapturePlan::Rebase(_) => u64::MAX,
        };
        let synced = if self.synced.0 == view.salts { self.synced.1 } else { 0 };
        Ok(Left {
            tail,
            copy: frames(view.max_frame.saturating_sub(view.backfilled)),
            sync: frames(view.backfilled.saturating_sub(synced)),
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
        self.position.held = false;
        door.pin()?;
        door.unpin_older()?;
        let mut copied = door.checkpoint()?;
        for _ in 0..SEALED_TRIES {
            if !copied.busy {
                break;
            }
            std::thread::yield_now();
            copied = door.checkpoint()?;
        }
        door.pin()?;
        door.unpin_older()?;
        self.turned_at = WalMark::end_of(&view);
        let db = self.config.database.display();
        tracing::debug!(%db, frames = copied.log, copied = copied.copied, "copied back while writers were held");
        Ok(tail)
    }
}
