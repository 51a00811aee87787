//! At start, pure: how what this host remembers and what the store holds go together.

use replicate_format::{Level, Txid, TxidRange};

use super::another_writer;
use crate::error::Result;
use crate::event::RebaseReason;
use crate::spool::state::ShippedRecord;
use crate::spool::{LocalChain, SpoolFile};
use crate::store::LtxInfo;

/// What the store holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RemoteChain {
    /// The last capture over all levels; zero if there is nothing.
    pub(crate) newest: Txid,
    /// Whether that capture can be restored: its files lead there without a gap. True if there is nothing.
    pub(crate) whole: bool,
    /// Every file.
    pub(crate) files: Vec<RemoteFile>,
}

/// A file there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RemoteFile {
    /// Its level.
    pub(crate) level: Level,
    /// What it covers.
    pub(crate) txids: TxidRange,
    /// Bytes of the object.
    pub(crate) size: u64,
}

impl RemoteChain {
    /// Sums up listings; `whole` as the planner of restores says.
    pub(crate) fn of(files: &[LtxInfo], whole: bool) -> Self {
        let newest = files.iter().map(|file| file.txids.max()).max().unwrap_or(Txid::ZERO);
        let files =
            files.iter().map(|file| RemoteFile { level: file.level, txids: file.txids, size: file.size }).collect();
        Self { newest, whole, files }
    }

    /// The file it ends with, of the lowest level that has one.
    pub(crate) fn end(&self) -> Option<ShippedRecord> {
        let ends = self.files.iter().filter(|file| file.txids.max() == self.newest);
        let end = ends.min_by_key(|file| file.level)?;
        Some(ShippedRecord { txid: end.txids.max().0, level: end.level.get(), size: end.size })
    }

    fn has(&self, file: &SpoolFile) -> bool {
        self.files.iter().any(|there| (there.level, there.txids) == (file.level, file.txids))
    }

    /// How to go on if a file is not the one we have under its name: somebody else has stored what is there.
    pub(crate) fn foreign(&self, local: &LocalChain) -> Reconciled {
        let snapshot = local.sealed || !self.whole;
        // A listing may lack the newest files: ids that were given are not given again. Only a snapshot needs no file right
        // before it.
        let given = if snapshot { local.newest.max(local.given).max(acknowledged(local)) } else { Txid::ZERO };
        Reconciled::StartOver { after: self.newest.max(given), reason: RebaseReason::RemoteAhead, snapshot }
    }
}

/// How to go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reconciled {
    /// The chains are one: ship what comes after `watermark`.
    Continue {
        /// The last capture that the store holds.
        watermark: Txid,
        /// Files that the store has and this host does not know it has: only if each is the one in the spool,
        /// byte for byte, the chains are one. Otherwise see [`RemoteChain::foreign`].
        prove: Vec<SpoolFile>,
    },
    /// Start over with a full image after `after`; what is remembered and spooled is worthless.
    StartOver {
        /// The last id that is taken.
        after: Txid,
        /// Why.
        reason: RebaseReason,
        /// Whether the store has no chain that the image could continue, so that it must be a snapshot.
        snapshot: bool,
    },
}

/// Decides. Equal ids prove nothing: another host, or this one before it was set back, may have given them to
/// other captures. A file counts as ours if this host has noted that the store acknowledged it, or if it is
/// the file that lies in the spool.
pub(crate) fn reconcile(local: &LocalChain, remote: &RemoteChain) -> Result<Reconciled> {
    let after = local.newest.max(remote.newest);
    let start_over = |reason, snapshot| Ok(Reconciled::StartOver { after, reason, snapshot });
    if local.newest.is_zero() {
        let acknowledged = acknowledged(local);
        let taken = acknowledged.max(local.given);
        if taken > remote.newest {
            let behind = acknowledged > remote.newest;
            let reason = if behind { RebaseReason::RemoteBehind } else { RebaseReason::NoLedger };
            return Ok(Reconciled::StartOver { after: taken, reason, snapshot: true });
        }
        let reason = if remote.newest.is_zero() { RebaseReason::First } else { RebaseReason::NoLedger };
        // What is there may be sealed to keys that those who hold the present ones do not have: nothing of it must
        // be needed.
        return start_over(reason, local.sealed || !remote.whole);
    }
    if local.rekeyed {
        return start_over(RebaseReason::KeysChanged, true);
    }
    if remote.newest > local.newest {
        return start_over(RebaseReason::RemoteAhead, local.sealed || !remote.whole);
    }
    let acknowledged = acknowledged(local);
    // The store may lack at its end only what the spool still has.
    let reached = reach(&local.spooled, remote.newest, |_| true);
    if reached < local.newest {
        if remote.newest >= acknowledged || mutant!(ListingTrusted) {
            // What is missing never arrived: its ids are free.
            let (after, reason) = (remote.newest, RebaseReason::SpoolDamaged);
            return Ok(Reconciled::StartOver { after, reason, snapshot: !remote.whole });
        }
        return start_over(RebaseReason::RemoteBehind, true);
    }
    if let Some(shipped) = &local.shipped
        && shipped.txid() <= remote.newest
    {
        let other = |file: &RemoteFile| {
            file.level.get() == shipped.level && file.txids.max() == shipped.txid() && file.size != shipped.size
        };
        if remote.files.iter().any(other) {
            if local.sealed {
                // It may have got another header, for more keys than this host has; who cannot tell starts over.
                return Ok(remote.foreign(local));
            }
            return Err(another_writer(format!(
                "the replica holds another file for txid={} than this host has stored",
                shipped.txid()
            )));
        }
    }
    let watermark = remote.newest;
    let next = local.spooled.iter().find(|file| file.txids.extends(watermark));
    if next.is_some_and(|file| file.txids.min() == Txid(1)) {
        // Nothing of what is there is needed for what comes.
        return Ok(Reconciled::Continue { watermark, prove: Vec::new() });
    }
    if !remote.whole {
        return start_over(RebaseReason::RemoteBehind, true);
    }
    if watermark < acknowledged {
        // The store has lost its end. What it ends with now must be ours too.
        let end = local.spooled.iter().find(|file| file.txids.max() == watermark && remote.has(file));
        return match end {
            Some(file) => Ok(Reconciled::Continue { watermark, prove: vec![file.clone()] }),
            None => start_over(RebaseReason::RemoteBehind, true),
        };
    }
    let mut prove = Vec::new();
    let unknown = reach(&local.spooled, acknowledged, |file| {
        let there = file.txids.max() <= watermark && remote.has(file);
        if there {
            prove.push(file.clone());
        }
        there
    });
    if unknown < watermark { Ok(remote.foreign(local)) } else { Ok(Reconciled::Continue { watermark, prove }) }
}

/// The last id that the store has acknowledged.
fn acknowledged(local: &LocalChain) -> Txid {
    local.shipped.map_or(Txid::ZERO, |shipped| shipped.txid())
}

/// How far files that follow one another lead.
fn reach(files: &[SpoolFile], from: Txid, mut usable: impl FnMut(&SpoolFile) -> bool) -> Txid {
    files.iter().fold(from, |reached, file| match file.txids.extends(reached) && usable(file) {
        true => file.txids.max(),
        false => reached,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::error::ErrorKind;

    fn range(min: u64, max: u64) -> TxidRange {
        TxidRange::new(Txid(min), Txid(max)).expect("valid")
    }

    fn file(min: u64, max: u64) -> SpoolFile {
        let level = if min == max { Level::L0 } else { Level::SNAPSHOT };
        SpoolFile { level, txids: range(min, max), size: 100, created: Timestamp(0), sums: None }
    }

    fn spooled(ids: impl IntoIterator<Item = u64>) -> Vec<SpoolFile> {
        ids.into_iter().map(|id| file(id, id)).collect()
    }

    fn local(newest: u64, spooled: &[SpoolFile]) -> LocalChain {
        let shipped = Some(ShippedRecord { txid: 5, level: 0, size: 100 });
        LocalChain { newest: Txid(newest), spooled: spooled.to_vec(), shipped, ..LocalChain::default() }
    }

    /// Level 0 from 1 on, and one file of level 1.
    fn remote(newest: u64, size: u64) -> RemoteChain {
        let mut files: Vec<_> =
            (1..=newest).map(|id| RemoteFile { level: Level::L0, txids: range(id, id), size }).collect();
        files.push(RemoteFile { level: Level::new(1).expect("valid"), txids: range(1, newest), size: 7 });
        RemoteChain { newest: Txid(newest), whole: true, files }
    }

    fn nothing() -> RemoteChain {
        RemoteChain::of(&[], true)
    }

    fn start_over(local: &LocalChain, remote: &RemoteChain) -> (u64, RebaseReason, bool) {
        match reconcile(local, remote) {
            Ok(Reconciled::StartOver { after, reason, snapshot }) => (after.0, reason, snapshot),
            other => panic!("{other:?}"),
        }
    }

    fn proofs(local: &LocalChain, remote: &RemoteChain) -> Vec<SpoolFile> {
        match reconcile(local, remote) {
            Ok(Reconciled::Continue { watermark, prove }) if watermark == remote.newest => prove,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_replica_starts_at_one_and_a_foreign_one_is_continued_above_all_levels() {
        let unknown = LocalChain::default();
        assert_eq!(start_over(&unknown, &nothing()), (0, RebaseReason::First, false));
        assert_eq!(start_over(&unknown, &remote(40, 1)), (40, RebaseReason::NoLedger, false));
    }

    #[test]
    fn ids_that_had_arrived_are_not_given_again_when_only_that_is_known() {
        let unknown = local(0, &[]);
        assert_eq!(start_over(&unknown, &nothing()), (5, RebaseReason::RemoteBehind, true));
        assert_eq!(start_over(&unknown, &remote(5, 100)), (5, RebaseReason::NoLedger, false));
    }

    #[test]
    fn ids_that_may_be_on_their_way_are_not_given_again() {
        let unknown = LocalChain { given: Txid(8), ..local(0, &[]) };
        assert_eq!(start_over(&unknown, &remote(7, 100)), (8, RebaseReason::NoLedger, true));
        assert_eq!(start_over(&unknown, &remote(8, 100)), (8, RebaseReason::NoLedger, false));
        assert_eq!(start_over(&unknown, &remote(9, 100)), (9, RebaseReason::NoLedger, false));
        assert_eq!(start_over(&unknown, &nothing()), (8, RebaseReason::RemoteBehind, true));
    }

    #[test]
    fn a_sealed_replica_never_needs_what_may_be_sealed_to_other_keys() {
        let rekeyed = LocalChain { sealed: true, rekeyed: true, ..local(5, &[]) };
        assert_eq!(start_over(&rekeyed, &remote(5, 100)), (5, RebaseReason::KeysChanged, true));
        let plain_again = LocalChain { rekeyed: true, ..local(5, &[]) };
        assert_eq!(start_over(&plain_again, &remote(5, 100)), (5, RebaseReason::KeysChanged, true));
        let forgotten = LocalChain { sealed: true, rekeyed: true, ..LocalChain::default() };
        assert_eq!(start_over(&forgotten, &remote(40, 1)), (40, RebaseReason::NoLedger, true));
        let overtaken = LocalChain { sealed: true, ..local(5, &[]) };
        assert_eq!(start_over(&overtaken, &remote(9, 100)), (9, RebaseReason::RemoteAhead, true));
    }

    /// Found by the simulation: the image got an id that the store had a file of, and the host took itself for another one.
    #[test]
    fn ids_that_a_short_listing_lacks_are_not_given_again_to_an_image() {
        let foreign = |local: &LocalChain, remote: RemoteChain| match remote.foreign(local) {
            Reconciled::StartOver { after, snapshot, .. } => (after.0, snapshot),
            other => panic!("{other:?}"),
        };
        let sealed = LocalChain { sealed: true, ..local(6, &[]) };
        assert_eq!(foreign(&sealed, remote(4, 100)), (6, true));
        let reset = LocalChain { sealed: true, ..local(0, &[]) };
        assert_eq!(foreign(&reset, remote(4, 100)), (5, true));
        // Plain files follow on one another.
        assert_eq!(foreign(&local(6, &[]), remote(4, 100)), (4, false));
    }

    #[test]
    fn what_the_spool_still_has_is_shipped_and_what_arrived_unnoticed_must_prove_to_be_ours() {
        let kept = spooled(5..=7);
        assert_eq!(proofs(&local(7, &kept), &remote(5, 100)), []);
        assert_eq!(proofs(&local(7, &kept), &remote(6, 100)), spooled([6]));
        assert_eq!(proofs(&local(7, &kept), &remote(7, 100)), spooled([6, 7]));
    }

    #[test]
    fn what_arrived_and_cannot_be_compared_is_not_ours() {
        // Not in the spool; in the spool but merged into another file over there.
        assert_eq!(start_over(&local(7, &spooled([7])), &remote(7, 100)), (7, RebaseReason::RemoteAhead, false));
        let mut merged = remote(7, 100);
        merged.files.retain(|file| file.txids != range(6, 6));
        assert_eq!(start_over(&local(7, &spooled(5..=7)), &merged), (7, RebaseReason::RemoteAhead, false));
        // Nothing was ever acknowledged: then all of it.
        let never = LocalChain { shipped: None, ..local(3, &spooled(1..=3)) };
        assert_eq!(proofs(&never, &remote(2, 100)), spooled([1, 2]));
        let never = LocalChain { shipped: None, ..local(3, &spooled(2..=3)) };
        assert_eq!(start_over(&never, &remote(2, 100)), (2, RebaseReason::RemoteAhead, false));
    }

    #[test]
    fn a_snapshot_that_waits_needs_nothing_of_what_is_there() {
        let waiting = LocalChain { shipped: None, ..local(9, &[file(1, 8), file(9, 9)]) };
        assert_eq!(proofs(&waiting, &remote(7, 100)), []);
        assert_eq!(proofs(&waiting, &nothing()), []);
    }

    #[test]
    fn a_replica_that_went_on_without_us_is_never_overwritten() {
        assert_eq!(start_over(&local(7, &[]), &remote(9, 100)), (9, RebaseReason::RemoteAhead, false));
    }

    #[test]
    fn a_replica_that_lost_its_end_gets_it_again_or_a_new_image_with_a_new_id() {
        assert_eq!(start_over(&local(7, &[]), &remote(4, 100)), (7, RebaseReason::RemoteBehind, true));
        assert_eq!(start_over(&local(7, &[]), &nothing()), (7, RebaseReason::RemoteBehind, true));
        assert_eq!(start_over(&local(7, &spooled(5..=7)), &remote(4, 100)), (7, RebaseReason::RemoteBehind, true));
        assert_eq!(proofs(&local(7, &spooled(4..=7)), &remote(4, 100)), spooled([4]));
        assert_eq!(proofs(&local(7, &spooled(1..=7)), &nothing()), []);
    }

    #[test]
    fn what_was_lost_before_it_arrived_leaves_no_gap() {
        assert_eq!(start_over(&local(7, &spooled([7])), &remote(5, 100)), (5, RebaseReason::SpoolDamaged, false));
    }

    #[test]
    fn another_object_where_ours_should_be_means_another_writer() {
        let error = reconcile(&local(5, &[]), &remote(5, 99)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Diverged);
    }

    #[test]
    fn a_replica_with_a_gap_is_not_continued_but_by_a_snapshot() {
        let gap = |newest| RemoteChain { whole: false, ..remote(newest, 100) };
        assert_eq!(start_over(&LocalChain::default(), &gap(40)), (40, RebaseReason::NoLedger, true));
        assert_eq!(start_over(&local(7, &[]), &gap(9)), (9, RebaseReason::RemoteAhead, true));
        assert_eq!(start_over(&local(5, &[]), &gap(5)), (5, RebaseReason::RemoteBehind, true));
        assert_eq!(start_over(&local(7, &spooled(6..=7)), &gap(5)), (7, RebaseReason::RemoteBehind, true));
        assert_eq!(start_over(&local(7, &spooled([7])), &gap(5)), (5, RebaseReason::SpoolDamaged, true));
        assert_eq!(proofs(&local(6, &[file(1, 6)]), &gap(5)), []);
    }

    #[test]
    fn the_end_is_the_file_nearest_to_the_capture() {
        assert_eq!(remote(5, 100).end(), Some(ShippedRecord { txid: 5, level: 0, size: 100 }));
        assert_eq!(nothing().end(), None);
    }
}
