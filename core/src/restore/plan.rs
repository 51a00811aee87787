//! Which files bring a state back, and in which order. Pure: a list of files in, a list of files out.
//!
//! A file can be applied at a position if it starts at or before the next id and ends beyond it. So the ids
//! that can be restored are the ends of chains that start at zero ([`reachable`]), and from any position the
//! file that reaches furthest is never a wrong choice: whatever can be applied before it can also be applied
//! after it. The plan is therefore the newest usable snapshot, then greedily the longest reach over all
//! levels. Files may overlap; within the pages the later file of the plan wins.
//!
//! Damage of the set is an error, never a shorter restore: a file beyond a gap is named with the id that the
//! files before it reach. Called by `run`; time targets become an id in `time` before.

use replicate_format::{FILE_MIN, Level, Txid, TxidRange};

use crate::error::{Error, ErrorKind, Result};
use crate::store::LtxInfo;

/// Which id to reach.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PlanTarget {
    /// The newest there is.
    Latest,
    /// Exactly this one.
    Exactly(Txid),
}

/// Files that, applied in this order, make a state. Never empty, and the first one starts at id 1.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    files: Vec<LtxInfo>,
    txid: Txid,
}

impl Plan {
    /// The files, the oldest first.
    pub(crate) fn files(&self) -> &[LtxInfo] {
        &self.files
    }

    /// The id reached.
    pub(crate) fn txid(&self) -> Txid {
        self.txid
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Chooses the files for a target among all files of a replica, in any order.
///
/// # Errors
/// `NoBackup`: there is no file, or no chain ends exactly at the wanted id. `Corrupt`: there are files beyond
/// a gap, or a chosen file is too short to be one.
pub(crate) fn plan(files: &[LtxInfo], target: PlanTarget) -> Result<Plan> {
    let spans: Vec<_> = files.iter().map(Span::from).collect();
    let chosen = choose(&spans, target)?;
    let files: Vec<_> = chosen.into_iter().map(|i| files[i].clone()).collect();
    for file in &files {
        if file.size < FILE_MIN {
            let (size, key) = (file.size, file.key());
            let message = format!("file is too short to be one size={size} least={FILE_MIN} key={key}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    let txid = files.last().map(|file| file.txids.max()).unwrap_or_default();
    Ok(Plan { files, txid })
}

/// Whether the newest state can be restored; true if there is none.
pub(crate) fn is_restorable(files: &[LtxInfo]) -> bool {
    files.is_empty() || plan(files, PlanTarget::Latest).is_ok()
}

/// An id that can be restored, and the file that ends there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Reachable {
    /// The id.
    pub(crate) txid: Txid,
    /// The file of the lowest level among those that end there, as an index: its timestamp is the nearest to
    /// the capture itself.
    pub(crate) file: usize,
}

/// Every id that can be restored, ascending.
pub(crate) fn reachable(files: &[LtxInfo]) -> Vec<Reachable> {
    reach(&files.iter().map(Span::from).collect::<Vec<_>>())
}

/// The first file that no chain reaches although it lies beyond all that can be restored: the far side of a
/// gap. Returns the highest id before the gap and the file's index.
pub(crate) fn stranded(files: &[LtxInfo]) -> Option<(Txid, usize)> {
    let spans: Vec<_> = files.iter().map(Span::from).collect();
    let end = reach(&spans).last().map_or(Txid::ZERO, |last| last.txid);
    beyond(&spans, end).map(|file| (end, file))
}

/// What an error about a gap says.
pub(crate) fn gap_error(reached: Txid, next: Txid) -> Error {
    let message = format!("files are missing between reached={reached} and next={next}");
    Error::new(ErrorKind::Corrupt, message).with_hint(match reached.is_zero() {
        true => "no snapshot and no first file are left".to_owned(),
        false => format!("what lies before the gap can be restored with txid {reached}"),
    })
}

/// The part of a file's description that decides.
#[derive(Clone, Copy, Debug)]
struct Span {
    level: Level,
    txids: TxidRange,
}

impl From<&LtxInfo> for Span {
    fn from(file: &LtxInfo) -> Self {
        Self { level: file.level, txids: file.txids }
    }
}

impl Span {
    /// A file that starts at id 1 holds every page, whatever its level.
    fn is_whole(self) -> bool {
        self.txids.min() == Txid(1)
    }

    /// Greater is better: reaches further, then starts earlier, then is of a higher level.
    fn rank(self) -> (Txid, std::cmp::Reverse<Txid>, Level) {
        (self.txids.max(), std::cmp::Reverse(self.txids.min()), self.level)
    }
}

fn choose(spans: &[Span], target: PlanTarget) -> Result<Vec<usize>> {
    if spans.is_empty() {
        return Err(Error::new(ErrorKind::NoBackup, "the replica holds no backup"));
    }
    let limit = match target {
        PlanTarget::Latest => Txid(u64::MAX),
        PlanTarget::Exactly(txid) => txid,
    };
    let mut chosen = greedy(spans, limit);
    let reached = chosen.last().map_or(Txid::ZERO, |&i| spans[i].txids.max());
    match target {
        PlanTarget::Exactly(txid) if reached != txid => return Err(unreachable_error(spans, txid)),
        PlanTarget::Exactly(_) => {}
        PlanTarget::Latest => {
            if let Some(i) = beyond(spans, reached) {
                return Err(gap_error(reached, spans[i].txids.min()));
            }
        }
    }
    // What comes before a whole file contributes nothing.
    if let Some(whole) = chosen.iter().rposition(|&i| spans[i].is_whole()) {
        chosen.drain(..whole);
    }
    Ok(chosen)
}

fn greedy(spans: &[Span], limit: Txid) -> Vec<usize> {
    let usable = |&i: &usize| spans[i].txids.max() <= limit;
    let snapshots = (0..spans.len()).filter(|&i| spans[i].level == Level::SNAPSHOT && spans[i].is_whole());
    let mut chosen: Vec<_> = snapshots.filter(usable).max_by_key(|&i| spans[i].rank()).into_iter().collect();
    let mut position = chosen.first().map_or(Txid::ZERO, |&i| spans[i].txids.max());

    let mut by_start: Vec<_> = (0..spans.len()).filter(usable).collect();
    by_start.sort_by_key(|&i| spans[i].txids.min());
    let mut waiting = by_start.into_iter().peekable();
    let mut best: Option<usize> = None;
    loop {
        while let Some(i) = waiting.next_if(|&i| spans[i].txids.min() <= position.next()) {
            if best.is_none_or(|b| spans[i].rank() > spans[b].rank()) {
                best = Some(i);
            }
        }
        let Some(next) = best.take().filter(|&i| spans[i].txids.extends(position)) else {
            break;
        };
        position = spans[next].txids.max();
        chosen.push(next);
    }
    chosen
}

/// The file that starts first among those that end beyond `reached`.
fn beyond(spans: &[Span], reached: Txid) -> Option<usize> {
    let further = (0..spans.len()).filter(|&i| spans[i].txids.max() > reached);
    further.min_by_key(|&i| (spans[i].txids, spans[i].level))
}

fn reach(spans: &[Span]) -> Vec<Reachable> {
    let mut by_end: Vec<_> = (0..spans.len()).collect();
    by_end.sort_by_key(|&i| (spans[i].txids.max(), spans[i].level, spans[i].txids.min()));
    let mut found: Vec<Reachable> = Vec::new();
    for i in by_end {
        let txid = spans[i].txids.max();
        let below = found.last().map_or(Txid::ZERO, |last| last.txid);
        if below < txid && spans[i].txids.min() <= below.next() {
            found.push(Reachable { txid, file: i });
        }
    }
    found
}

fn unreachable_error(spans: &[Span], wanted: Txid) -> Error {
    let points = reach(spans);
    let after = points.partition_point(|p| p.txid < wanted);
    let before = after.checked_sub(1).map(|i| points[i].txid);
    let hint = match (before, points.get(after).map(|p| p.txid)) {
        (Some(before), Some(after)) => {
            format!("the nearest that can be restored are {before} and {after}")
        }
        (Some(only), None) => format!("the last that can be restored is {only}"),
        (None, Some(only)) => format!("the first that can be restored is {only}"),
        (None, None) => "nothing can be restored: no snapshot and no first file are left".to_owned(),
    };
    Error::new(ErrorKind::NoBackup, format!("no set of files ends at txid={wanted}")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use PlanTarget::{Exactly, Latest};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn span((level, min, max): (u8, u64, u64)) -> Span {
        let txids = TxidRange::new(Txid(min), Txid(max)).expect("valid");
        Span { level: Level::new(level).expect("valid"), txids }
    }

    fn spans(files: &[(u8, u64, u64)]) -> Vec<Span> {
        files.iter().copied().map(span).collect()
    }

    fn chosen(files: &[(u8, u64, u64)], target: PlanTarget) -> Result<Vec<(u8, u64, u64)>> {
        Ok(choose(&spans(files), target)?.into_iter().map(|i| files[i]).collect())
    }

    #[test]
    fn the_newest_usable_snapshot_then_the_longest_reach_ends_exactly_at_the_wanted_id() {
        let mut files = vec![(9, 1, 5), (9, 1, 15), (1, 6, 7), (1, 8, 9), (1, 10, 12)];
        files.extend((7..=11).map(|t| (0, t, t)));
        let plan = chosen(&files, Exactly(Txid(10))).expect("reachable");
        assert_eq!(plan, [(9, 1, 5), (1, 6, 7), (1, 8, 9), (0, 10, 10)]);
    }

    #[test]
    fn plans_of_single_cases() {
        type Files = [(u8, u64, u64)];
        let cases: &[(&Files, &Files)] = &[
            // A snapshot alone, and with what follows it.
            (&[(9, 1, 10)], &[(9, 1, 10)]),
            (&[(9, 1, 10), (0, 11, 11)], &[(9, 1, 10), (0, 11, 11)]),
            // Without a snapshot the first file is the whole one.
            (&[(0, 1, 1), (0, 2, 2)], &[(0, 1, 1), (0, 2, 2)]),
            (&[(0, 1, 1), (0, 2, 2), (1, 1, 2), (0, 3, 3)], &[(1, 1, 2), (0, 3, 3)]),
            // The longest range of any level.
            (&[(9, 1, 5), (1, 6, 8), (2, 6, 20), (0, 6, 6)], &[(9, 1, 5), (2, 6, 20)]),
            // A hole in a level is bridged by a lower one.
            (&[(9, 1, 5), (1, 6, 7), (1, 9, 10), (0, 8, 8)], &[(9, 1, 5), (1, 6, 7), (0, 8, 8), (1, 9, 10)]),
            // Copies of the same range: one, of the higher level.
            (&[(9, 1, 5), (0, 6, 6), (1, 6, 6)], &[(9, 1, 5), (1, 6, 6)]),
            // Overlaps inside a level and over the snapshot.
            (&[(9, 1, 5), (1, 4, 9), (1, 8, 12)], &[(9, 1, 5), (1, 4, 9), (1, 8, 12)]),
            // A whole file that reaches beyond the snapshot makes the snapshot needless.
            (&[(9, 1, 5), (3, 1, 100), (0, 101, 101)], &[(3, 1, 100), (0, 101, 101)]),
        ];
        for (files, expected) in cases {
            assert_eq!(chosen(files, Latest).expect("reachable"), *expected, "{files:?}");
        }
    }

    #[test]
    fn nothing_at_all_is_no_backup() {
        assert_eq!(chosen(&[], Latest).expect_err("nothing").kind(), ErrorKind::NoBackup);
        assert_eq!(chosen(&[], Exactly(Txid(3))).expect_err("nothing").kind(), ErrorKind::NoBackup);
    }

    #[test]
    fn a_gap_is_corrupt_and_names_both_sides() {
        for (files, reached, next) in [
            (&[(9, 1, 5), (0, 7, 7)][..], 5, 7),
            (&[(9, 1, 5), (1, 8, 9), (0, 7, 7)], 5, 7),
            (&[(0, 3, 3), (0, 4, 4)], 0, 3),
        ] {
            let error = chosen(files, Latest).expect_err("gap");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let (reached, next) = (Txid(reached).to_string(), Txid(next).to_string());
            assert!(error.message().contains(&format!("reached={reached}")), "{error}");
            assert!(error.message().contains(&format!("next={next}")), "{error}");
        }
    }

    #[test]
    fn files_before_the_snapshot_are_no_gap() {
        assert_eq!(chosen(&[(0, 3, 3), (9, 1, 9)], Latest).expect("fine"), [(9, 1, 9)]);
    }

    #[test]
    fn an_id_inside_a_merged_file_is_not_available_and_its_neighbours_are_named() {
        let files = [(9, 1, 5), (1, 6, 9)];
        let error = chosen(&files, Exactly(Txid(7))).expect_err("inside");
        assert_eq!(error.kind(), ErrorKind::NoBackup);
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(&Txid(5).to_string()) && hint.contains(&Txid(9).to_string()), "{hint}");
        let error = chosen(&files, Exactly(Txid(2))).expect_err("below the only snapshot");
        assert!(error.hint().is_some_and(|h| h.contains(&Txid(5).to_string())), "{error}");
        let error = chosen(&files, Exactly(Txid(10))).expect_err("beyond the end");
        assert!(error.hint().is_some_and(|h| h.contains(&Txid(9).to_string())), "{error}");
    }

    #[test]
    fn any_one_merged_file_may_be_lost_while_the_levels_below_cover_it() {
        let mut files = vec![(9, 1, 4), (2, 5, 12), (1, 5, 8), (1, 9, 12)];
        files.extend((1..=12).map(|t| (0, t, t)));
        for lost in 0..4 {
            let mut rest = files.clone();
            rest.remove(lost);
            let plan = chosen(&rest, Latest).expect("covered");
            assert_eq!(plan.last().map(|f| f.2), Some(12), "without {:?}", files[lost]);
        }
    }

    /// Every id that some chain of files from zero ends at, by trying all files until nothing new appears.
    fn oracle(spans: &[Span]) -> BTreeSet<Txid> {
        let mut positions = BTreeSet::from([Txid::ZERO]);
        loop {
            let before = positions.len();
            for span in spans {
                if positions.iter().any(|&p| span.txids.extends(p)) {
                    positions.insert(span.txids.max());
                }
            }
            if positions.len() == before {
                positions.remove(&Txid::ZERO);
                return positions;
            }
        }
    }

    fn file() -> impl Strategy<Value = (u8, u64, u64)> {
        let whole = (0_u8..=9, 1_u64..14).prop_map(|(level, max)| (level, 1, max));
        let part = (0_u8..=8, 1_u64..14, 0_u64..5).prop_map(|(level, min, len)| (level, min, min + len));
        prop_oneof![1 => whole, 6 => part]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_plan_exists_exactly_where_some_chain_ends(files in prop::collection::vec(file(), 0..14)) {
            let spans = spans(&files);
            let possible = oracle(&spans);
            let listed: Vec<_> = reach(&spans).into_iter().map(|p| (p.txid, spans[p.file].txids.max())).collect();
            let expected: Vec<_> = possible.iter().map(|&t| (t, t)).collect();
            prop_assert_eq!(listed, expected);
            for txid in (1..20).map(Txid) {
                match choose(&spans, Exactly(txid)) {
                    Ok(plan) => {
                        prop_assert!(possible.contains(&txid));
                        prop_assert!(spans[plan[0]].is_whole());
                        let mut position = Txid::ZERO;
                        for i in plan {
                            prop_assert!(spans[i].txids.extends(position));
                            position = spans[i].txids.max();
                        }
                        prop_assert_eq!(position, txid);
                    }
                    Err(error) => {
                        prop_assert!(!possible.contains(&txid), "{}", error);
                        prop_assert_eq!(error.kind(), ErrorKind::NoBackup);
                    }
                }
            }
        }

        #[test]
        fn the_latest_is_the_end_of_all_files_or_an_error(files in prop::collection::vec(file(), 1..14)) {
            let spans = spans(&files);
            let end = spans.iter().map(|s| s.txids.max()).max().expect("not empty");
            let reached = oracle(&spans).last().copied().unwrap_or_default();
            match choose(&spans, Latest) {
                Ok(plan) => prop_assert_eq!(plan.last().map(|&i| spans[i].txids.max()), Some(end)),
                Err(error) => {
                    prop_assert!(reached < end);
                    prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
                }
            }
        }
    }
}
