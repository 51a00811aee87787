//! At start, pure: how what this host remembers and what the store holds go together.

use replicate_format::{Level, Txid};

use super::another_writer;
use crate::error::Result;
use crate::event::RebaseReason;
use crate::spool::LocalChain;
use crate::store::LtxInfo;

/// What the store holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct RemoteChain {
    /// The last capture over all levels; zero if there is nothing.
    pub(crate) newest: Txid,
    /// Level and size of the files that end in that capture or in the one remembered as shipped.
    pub(crate) ends: Vec<(Level, Txid, u64)>,
}

impl RemoteChain {
    /// Sums up listings.
    pub(crate) fn of(files: &[LtxInfo]) -> Self {
        let newest = files.iter().map(|file| file.txids.max()).max().unwrap_or(Txid::ZERO);
        let ends = files.iter().map(|file| (file.level, file.txids.max(), file.size)).collect();
        Self { newest, ends }
    }
}

/// How to go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reconciled {
    /// The chains are one: ship what comes after `watermark`.
    Continue {
        /// The last capture that the store holds.
        watermark: Txid,
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

/// Decides.
pub(crate) fn reconcile(local: &LocalChain, remote: &RemoteChain) -> Result<Reconciled> {
    let after = local.newest.max(remote.newest);
    let start_over = |reason, snapshot| Ok(Reconciled::StartOver { after, reason, snapshot });
    if local.newest.is_zero() {
        let reason = if remote.newest.is_zero() { RebaseReason::First } else { RebaseReason::NoLedger };
        return start_over(reason, false);
    }
    if remote.newest > local.newest {
        return start_over(RebaseReason::RemoteAhead, false);
    }
    // The store may lack at its end only what the spool still has.
    let mut reached = remote.newest;
    for txids in local.spooled.iter().copied() {
        if txids.extends(reached) {
            reached = txids.max();
        }
    }
    if reached < local.newest {
        let acknowledged = local.shipped.map_or(Txid::ZERO, |shipped| shipped.txid());
        if remote.newest >= acknowledged {
            // What is missing never arrived: its ids are free.
            let (after, reason) = (remote.newest, RebaseReason::SpoolDamaged);
            return Ok(Reconciled::StartOver { after, reason, snapshot: false });
        }
        return start_over(RebaseReason::RemoteBehind, true);
    }
    if let Some(shipped) = &local.shipped
        && shipped.txid() <= remote.newest
    {
        let ours = |(level, txid, size): &(Level, Txid, u64)| {
            level.get() == shipped.level && *txid == shipped.txid() && *size != shipped.size
        };
        if remote.ends.iter().any(ours) {
            return Err(another_writer(format!(
                "the replica holds another file for txid={} than this host has stored",
                shipped.txid()
            )));
        }
    }
    Ok(Reconciled::Continue { watermark: remote.newest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::spool::state::ShippedRecord;
    use replicate_format::TxidRange;

    fn range(min: u64, max: u64) -> TxidRange {
        TxidRange::new(Txid(min), Txid(max)).expect("valid")
    }

    fn local(newest: u64, spooled: &[TxidRange]) -> LocalChain {
        let shipped = Some(ShippedRecord { txid: 5, level: 0, size: 100 });
        LocalChain { newest: Txid(newest), spooled: spooled.to_vec(), shipped }
    }

    fn remote(newest: u64, size: u64) -> RemoteChain {
        let ends = vec![(Level::L0, Txid(5), size), (Level::new(1).expect("valid"), Txid(5), 7)];
        RemoteChain { newest: Txid(newest), ends }
    }

    fn start_over(local: &LocalChain, remote: &RemoteChain) -> (u64, RebaseReason, bool) {
        match reconcile(local, remote) {
            Ok(Reconciled::StartOver { after, reason, snapshot }) => (after.0, reason, snapshot),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_replica_starts_at_one_and_a_foreign_one_is_continued_above_all_levels() {
        let nothing = LocalChain::default();
        assert_eq!(start_over(&nothing, &RemoteChain::default()), (0, RebaseReason::First, false));
        assert_eq!(start_over(&nothing, &remote(40, 1)), (40, RebaseReason::NoLedger, false));
    }

    #[test]
    fn what_the_spool_still_has_is_shipped_and_what_arrived_is_not_sent_again() {
        let spooled = [range(5, 5), range(6, 6), range(7, 7)];
        for arrived in 5..=7 {
            let expected = Reconciled::Continue { watermark: Txid(arrived) };
            assert_eq!(reconcile(&local(7, &spooled), &remote(arrived, 100)).expect("continues"), expected);
        }
    }

    #[test]
    fn a_replica_that_went_on_without_us_is_never_overwritten() {
        assert_eq!(start_over(&local(7, &[]), &remote(9, 100)), (9, RebaseReason::RemoteAhead, false));
    }

    #[test]
    fn a_replica_that_lost_its_end_gets_a_new_image_with_a_new_id() {
        assert_eq!(start_over(&local(7, &[]), &remote(4, 100)), (7, RebaseReason::RemoteBehind, true));
        assert_eq!(start_over(&local(7, &[]), &RemoteChain::default()), (7, RebaseReason::RemoteBehind, true));
    }

    #[test]
    fn what_was_lost_before_it_arrived_leaves_no_gap() {
        assert_eq!(start_over(&local(7, &[range(7, 7)]), &remote(5, 100)), (5, RebaseReason::SpoolDamaged, false));
    }

    #[test]
    fn another_object_where_ours_should_be_means_another_writer() {
        let error = reconcile(&local(5, &[]), &remote(5, 99)).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Diverged);
    }
}
