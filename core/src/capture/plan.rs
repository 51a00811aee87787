//! The decision, pure: given where the last capture ended and what SQLite's index says of the WAL now, what
//! must be captured next, and may it be read from the WAL alone?
//!
//! # Why a delta is exact
//!
//! A capture reads the frames between two marks. Nothing is lost between captures if, at all times since the
//! mark was made, one of our read transactions was open ([`Position::unbroken`]) and everything up to that
//! transaction's own mark had been captured before the one before it was closed. For SQLite lets nobody
//!
//! * restart the WAL while a reader holds a read mark above zero, nor
//! * copy frames into the database while a reader holds mark zero, which it gets only when everything is
//!   copied already. Then the WAL may be restarted, but what is written after that can be neither copied
//!   nor overwritten.
//!
//! So under an unbroken sequence of read transactions either the generation (the salts) is the same and the
//! frames after the mark are all there is, or it is a new one and *all* its frames are all there is.
//!
//! Without that (the process was down) the WAL must prove it itself: same salts, and the frame at the mark
//! still there with the checksum that was noted. Frames of one generation are never removed, so what follows
//! is complete. Different salts prove nothing, whatever the old frames look like: rebase.

use replicate_format::{PageSize, Salts, Txid};

use crate::event::RebaseReason;
use crate::sqlite::WalView;

/// A place in the WAL: frames of the generation `salts` up to `frame` are captured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WalMark {
    /// The generation.
    pub(crate) salts: Salts,
    /// Frames captured.
    pub(crate) frame: u32,
    /// The running checksum after the last of them; meaningless for none.
    pub(crate) checksum: (u32, u32),
}

impl WalMark {
    /// The end of the WAL as this view has it.
    pub(crate) fn end_of(view: &WalView) -> Self {
        Self { salts: view.salts, frame: view.max_frame, checksum: view.frame_checksum }
    }
}

/// Where the last capture ended; by default there was none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Position {
    /// Its id; zero before the first.
    pub(crate) txid: Txid,
    /// Pages of the database after it.
    pub(crate) commit: u32,
    /// The page size; `None` before the first.
    pub(crate) page_size: Option<PageSize>,
    /// Where it ended in the WAL; `None` if that is not known.
    pub(crate) mark: Option<WalMark>,
    /// Whether a read transaction of ours has been open at all times since the mark was made.
    pub(crate) unbroken: bool,
    /// Whether that read transaction reads frames of the mark's generation, so that nobody may restart the WAL.
    pub(crate) held: bool,
    /// A rebase that is due whatever the WAL says.
    pub(crate) due: Option<RebaseReason>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CapturePlan {
    /// Nothing was committed.
    Idle,
    /// Read the frames after `from` in the WAL's present generation.
    Delta {
        /// Frames that are captured already.
        from: u32,
        /// The running checksum after them; `None`: start at the WAL's header.
        seed: Option<(u32, u32)>,
        /// Whether the frame at `from` must first be seen to carry that checksum.
        prove: bool,
    },
    /// Compare the database with the ledger.
    Rebase(RebaseReason),
}

/// Decides.
pub(crate) fn plan(position: &Position, view: &WalView) -> CapturePlan {
    if let Some(reason) = position.due {
        return CapturePlan::Rebase(reason);
    }
    match position.page_size {
        None => return CapturePlan::Rebase(RebaseReason::First),
        Some(size) if size != view.page_size => return CapturePlan::Rebase(RebaseReason::PageSizeChanged),
        Some(_) => {}
    }
    let Some(mark) = position.mark else { return CapturePlan::Rebase(RebaseReason::WalMismatch) };
    if mutant!(SizeOnly) && mark.frame == view.max_frame {
        return CapturePlan::Idle;
    }
    if mark.salts != view.salts {
        return match (position.unbroken || mutant!(SaltsUnchecked), view.max_frame) {
            (false, _) => CapturePlan::Rebase(RebaseReason::WalRestarted),
            // SQLite does not do that; so what keeps us from losing commits does not hold.
            (true, _) if position.held => CapturePlan::Rebase(RebaseReason::LocksIgnored),
            (true, 0) => CapturePlan::Idle,
            (true, _) => CapturePlan::Delta { from: 0, seed: None, prove: false },
        };
    }
    if view.max_frame < mark.frame {
        return match mutant!(ShorterTrusted) {
            true => CapturePlan::Idle,
            false => CapturePlan::Rebase(RebaseReason::WalMismatch),
        };
    }
    let prove = !position.unbroken && mark.frame > 0;
    if view.max_frame == mark.frame {
        let same = mark.frame == 0 || view.frame_checksum == mark.checksum || mutant!(MarkUnproven);
        return match (same, prove) {
            (false, _) => CapturePlan::Rebase(RebaseReason::WalMismatch),
            // A mark on an empty WAL proves nothing about a time when nobody watched.
            (true, false) if !position.unbroken => CapturePlan::Rebase(RebaseReason::WalRestarted),
            (true, false) => CapturePlan::Idle,
            (true, true) => CapturePlan::Delta { from: mark.frame, seed: Some(mark.checksum), prove },
        };
    }
    if mark.frame == 0 && !position.unbroken {
        return CapturePlan::Rebase(RebaseReason::WalRestarted);
    }
    let seed = (mark.frame > 0).then_some(mark.checksum);
    CapturePlan::Delta { from: mark.frame, seed, prove }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALTS: Salts = Salts { salt1: 7, salt2: 9 };
    const OTHER: Salts = Salts { salt1: 8, salt2: 1 };

    fn view(salts: Salts, max_frame: u32) -> WalView {
        let frame_checksum = (max_frame, 1);
        WalView { salts, max_frame, frame_checksum, page_count: 5, backfilled: 0, page_size: PageSize::MIN }
    }

    fn at(frame: u32, unbroken: bool) -> Position {
        Position {
            txid: Txid(3),
            commit: 5,
            page_size: Some(PageSize::MIN),
            mark: Some(WalMark { salts: SALTS, frame, checksum: (frame, 1) }),
            unbroken,
            held: false,
            due: None,
        }
    }

    const fn delta(from: u32, prove: bool) -> CapturePlan {
        CapturePlan::Delta { from, seed: if from == 0 { None } else { Some((from, 1)) }, prove }
    }

    #[test]
    fn under_an_unbroken_pin_the_wal_is_followed_across_a_restart() {
        assert_eq!(plan(&at(4, true), &view(SALTS, 4)), CapturePlan::Idle);
        assert_eq!(plan(&at(4, true), &view(SALTS, 6)), delta(4, false));
        assert_eq!(plan(&at(4, true), &view(OTHER, 0)), CapturePlan::Idle);
        assert_eq!(plan(&at(4, true), &view(OTHER, 2)), delta(0, false));
        assert_eq!(plan(&at(0, true), &view(SALTS, 2)), delta(0, false));
    }

    #[test]
    fn a_restart_that_our_read_mark_forbids_is_not_followed() {
        let held = Position { held: true, ..at(4, true) };
        assert_eq!(plan(&held, &view(SALTS, 6)), delta(4, false));
        for frames in 0..8 {
            assert_eq!(plan(&held, &view(OTHER, frames)), CapturePlan::Rebase(RebaseReason::LocksIgnored));
        }
    }

    #[test]
    fn after_a_time_without_a_pin_only_the_same_generation_counts_and_only_with_proof() {
        assert_eq!(plan(&at(4, false), &view(SALTS, 4)), delta(4, true));
        assert_eq!(plan(&at(4, false), &view(SALTS, 6)), delta(4, true));
        for frames in 0..8 {
            let plan = plan(&at(4, false), &view(OTHER, frames));
            assert_eq!(plan, CapturePlan::Rebase(RebaseReason::WalRestarted));
        }
        for frames in 0..8 {
            let plan = plan(&at(0, false), &view(SALTS, frames));
            assert_eq!(plan, CapturePlan::Rebase(RebaseReason::WalRestarted));
        }
    }

    #[test]
    fn a_wal_that_contradicts_the_mark_is_never_followed() {
        assert_eq!(plan(&at(4, true), &view(SALTS, 3)), CapturePlan::Rebase(RebaseReason::WalMismatch));
        let mut changed = view(SALTS, 4);
        changed.frame_checksum = (0, 0);
        assert_eq!(plan(&at(4, true), &changed), CapturePlan::Rebase(RebaseReason::WalMismatch));
        let unknown = Position { mark: None, ..at(4, true) };
        assert_eq!(plan(&unknown, &view(SALTS, 4)), CapturePlan::Rebase(RebaseReason::WalMismatch));
    }

    #[test]
    fn another_page_size_and_a_due_rebase_come_first() {
        let mut other = view(SALTS, 4);
        other.page_size = PageSize::MAX;
        assert_eq!(plan(&at(4, true), &other), CapturePlan::Rebase(RebaseReason::PageSizeChanged));
        let due = Position { due: Some(RebaseReason::SpoolFull), ..at(4, true) };
        assert_eq!(plan(&due, &view(SALTS, 4)), CapturePlan::Rebase(RebaseReason::SpoolFull));
    }
}
