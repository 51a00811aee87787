//! Copying the WAL back into the database, as `walCheckpoint` does it.

use std::collections::VecDeque;

use replicate_format::FRAME_HEADER_LEN;

use super::{Database, MARKS, UNUSED, Who};
use crate::sim::rng::Rng;

/// How far a checkpoint goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum Mode {
    Passive,
    Full,
    Restart,
    Truncate,
}

/// A checkpoint that is under way.
#[derive(Clone, Debug)]
pub struct Copying {
    /// Frames up to here may be copied.
    safe: u32,
    /// Pages and frames still to copy.
    rest: VecDeque<(u32, u32)>,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    pub busy: bool,
    pub log: u32,
    pub copied: u32,
}

impl Database {
    /// Begins to copy: how far readers allow, and which pages. `false` if somebody else is at it, or if a reader
    /// of the database file alone forbids it.
    pub fn begin_copy(&mut self) -> bool {
        if self.copying.is_some() {
            return false;
        }
        let Some(index) = &mut self.index else { return false };
        if index.backfilled >= index.max_frame {
            return false;
        }
        let mut safe = index.max_frame;
        for i in 1..MARKS {
            let mark = index.marks[i];
            if safe > mark {
                if index.held[i] == 0 {
                    index.marks[i] = if i == 1 { safe } else { UNUSED };
                } else {
                    safe = mark;
                }
            }
        }
        if index.backfilled >= safe || index.held[0] > 0 {
            return false;
        }
        let (done, frames, pages) = (index.backfilled, index.max_frame, index.pages);
        let latest = self.latest(frames);
        let rest =
            latest.into_iter().filter(|(pgno, frame)| *frame > done && *frame <= safe && *pgno <= pages).collect();
        if let Some(wal) = &mut self.wal {
            wal.sync();
        }
        self.copying = Some(Copying { safe, rest });
        true
    }

    /// Copies so many pages.
    pub fn copy_some(&mut self, count: usize) {
        let len = self.page_size.len();
        for _ in 0..count {
            let next = self.copying.as_mut().and_then(|copying| copying.rest.pop_front());
            let Some((pgno, frame)) = next else { return };
            let at = self.offset(frame - 1) + FRAME_HEADER_LEN;
            let Some(wal) = &self.wal else { return };
            let content = wal.bytes()[at..at + len].to_vec();
            self.main.write((pgno as usize - 1) * len, &content);
        }
    }

    /// Copies the rest and notes how far it came.
    pub fn end_copy(&mut self) {
        self.copy_some(usize::MAX);
        let (Some(copying), Some(index)) = (self.copying.take(), &mut self.index) else { return };
        if copying.safe == index.max_frame {
            self.main.set_len(index.pages as usize * self.page_size.len());
            self.main.sync();
        }
        index.backfilled = copying.safe;
    }

    /// A whole checkpoint by somebody.
    pub fn checkpoint(&mut self, who: Who, mode: Mode, rng: &mut Rng) -> Copied {
        if self.copying.is_some() {
            return Copied { busy: true, log: 0, copied: 0 };
        }
        // Whoever does not get the write lock does what a passive one can.
        let alone = self.writer.is_none_or(|writer| writer == who);
        if self.begin_copy() {
            self.end_copy();
        }
        let Some(index) = &mut self.index else { return Copied { busy: true, log: 0, copied: 0 } };
        let (log, copied) = (index.max_frame, index.backfilled);
        let mut busy = mode != Mode::Passive && (!alone || copied < log);
        if !busy && mode == Mode::Truncate {
            if index.held[1..].iter().all(|held| *held == 0) {
                index.begin_generation(rng.word());
                if who == Who::App {
                    self.app_count += 1;
                }
                if let Some(wal) = &mut self.wal {
                    wal.set_len(0);
                }
            } else {
                busy = true;
            }
        }
        Copied { busy, log, copied }
    }

    /// Everything, with nobody in the way.
    pub(super) fn copy_all(&mut self) {
        if self.begin_copy() {
            self.end_copy();
        }
    }
}
