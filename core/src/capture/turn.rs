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

/// The WAL may grow to this many times the pages at which copying back starts before writers are held.
const SEAL_AT: u32 = 4;
/// The most bytes of frames that are read while writers are held.
const SEALED_TAIL: u64 = 4 << 20;
/// How often it is tried to come that close to a writer that does not pause.
const CATCH_UPS: u32 = 8;
/// How long the write lock is tried for.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often copying back is tried while writers are held and the application itself is at it.
const SEALED_TRIES: u32 = 200;

impl Capture {
    /// Copies the WAL back if it is time. Everything in the view is captured.
    pub(super) fn turn(&mut self, view: &WalView) -> Result<Vec<Event>> {
        let threshold = self.config.checkpoint_pages;
        let since = if view.salts == self.turned_at.salts { self.turned_at.frame } else { 0 };
        if view.max_frame < threshold || view.max_frame - since.min(view.max_frame) < threshold {
            return Ok(Vec::new());
        }
        self.turned_at = WalMark::end_of(view);
        let sealed = view.max_frame >= threshold.saturating_mul(SEAL_AT);
        self.with_door(|capture, door| {
            let copied = door.checkpoint()?;
            let mut events = Vec::new();
            if !copied.busy {
                events.push(Event::Checkpointed { frames: copied.log, copied: copied.copied });
            }
            if sealed {
                events.extend(capture.sealed_turn(door)?);
            } else if !copied.busy {
                events.extend(capture.follow(door)?.0);
            }
            Ok(events)
        })
    }

    /// Catches up, then holds the writers for the last few frames.
    fn sealed_turn(&mut self, door: &mut dyn Door) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for _ in 0..CATCH_UPS {
            events.extend(self.follow(door)?.0);
            if self.tail(door)? <= SEALED_TAIL / 2 {
                break;
            }
        }
        if self.tail(door)? > SEALED_TAIL || !door.seal(PATIENCE)? {
            return Ok(events);
        }
        let tail = self.read_sealed(door);
        door.unseal()?;
        if let Some((view, from, frames)) = tail? {
            // If this fails the frames may be gone from the WAL by the time they could be read again.
            let (position, gap) = (self.position.clone(), has_gap(&frames, self.position.commit, view.page_size));
            (self.position.unbroken, self.position.mark) = (false, None);
            if !gap {
                let written = self.write_delta(door, &view, from, &frames);
                frames.reclaim(&mut self.scratch);
                events.push(written?);
                self.position.unbroken = position.unbroken;
            }
            self.record()?;
        }
        Ok(events)
    }

    fn tail(&self, door: &dyn Door) -> Result<u64> {
        let view = door.look()?;
        Ok(match plan(&self.position, &view) {
            CapturePlan::Delta { from, .. } => u64::from(view.max_frame - from) * view.page_size.frame_len() as u64,
            CapturePlan::Idle => 0,
            CapturePlan::Rebase(_) => u64::MAX,
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
        tracing::debug!(frames = copied.log, copied = copied.copied, "copied back while writers were held");
        Ok(tail)
    }
}
