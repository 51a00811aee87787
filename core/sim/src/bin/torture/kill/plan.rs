//! Who is killed in a round, and where: chance, and what a point needs to be reached.

use replicate::simulation::Point;
use replicate_sim::sim::Rng;

/// Who is killed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Who {
    /// The one process that host and engine are.
    Together,
    /// The engine's process; the host goes on.
    Engine,
    /// The host's process; the engine goes on.
    Host,
    /// Both processes.
    Both,
    /// The `replicate` command, and the process that asks it to sync; the host goes on, or not.
    Command,
    /// The engine's process, while a second one stands by and takes over.
    Standby,
    /// A process that restores over a database.
    Restore,
}

/// What a round must do for a point to be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    /// Some load.
    Load,
    /// The engine is told to stop.
    Stop,
    /// The local state is gone.
    Forget,
    /// Writers that are faster than the engine.
    Flood,
    /// An image that goes to the store in parts.
    Parts,
    /// A restore.
    Restore,
}

/// Each point with its need, and the visits from which one is chosen.
const POINTS: &[(Point, Need, u64)] = &[
    (Point::SpoolSynced, Need::Load, 8),
    (Point::SpoolRenamed, Need::Load, 8),
    (Point::SpoolPublished, Need::Load, 8),
    (Point::SpoolReleased, Need::Stop, 1),
    (Point::StateUnwritten, Need::Load, 12),
    (Point::StateWritten, Need::Load, 12),
    (Point::LedgerAhead, Need::Stop, 1),
    (Point::LedgerEntries, Need::Stop, 1),
    (Point::LedgerFlushed, Need::Stop, 1),
    (Point::LedgerUnplaced, Need::Forget, 1),
    (Point::LedgerRenamed, Need::Forget, 1),
    (Point::Pinned, Need::Load, 12),
    (Point::Sealed, Need::Flood, 2),
    (Point::SealedCopied, Need::Flood, 2),
    (Point::Unsealed, Need::Flood, 2),
    (Point::ImageMade, Need::Forget, 1),
    (Point::StartedOver, Need::Forget, 1),
    (Point::PutBefore, Need::Load, 8),
    (Point::PutAfter, Need::Load, 8),
    (Point::PartPut, Need::Parts, 2),
    (Point::RestoreWritten, Need::Restore, 1),
    (Point::RestoreAside, Need::Restore, 1),
    (Point::RestoreRenamed, Need::Restore, 1),
];

/// One round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) who: Who,
    /// Where, and at which visit; `None`: at a moment by chance.
    pub(super) point: Option<(Point, u32)>,
    pub(super) need: Need,
    /// Milliseconds of load before.
    pub(super) load: u64,
    pub(super) seed: u64,
}

impl Plan {
    /// Half of the rounds have a point.
    pub(super) fn by_chance(rng: &mut Rng) -> Self {
        let (load, seed) = (rng.between(10, 350), rng.bits());
        if rng.percent(50) {
            let (point, need, most) = rng.pick(POINTS);
            let nth = u32::try_from(rng.between(1, most)).unwrap_or(1);
            let who = match need {
                Need::Restore => Who::Restore,
                // A stand-by would not take over before its process has begun to stop, too.
                Need::Stop | Need::Parts => rng.pick(&[Who::Together, Who::Engine, Who::Both]),
                _ => rng.pick(&[Who::Together, Who::Together, Who::Engine, Who::Both, Who::Standby]),
            };
            return Self { who, point: Some((point, nth)), need, load, seed };
        }
        let who = rng.pick(&[
            Who::Together,
            Who::Together,
            Who::Together,
            Who::Engine,
            Who::Host,
            Who::Both,
            Who::Command,
            Who::Command,
            Who::Standby,
            Who::Restore,
        ]);
        let need = match who {
            Who::Restore => Need::Restore,
            Who::Host => rng.pick(&[Need::Load, Need::Flood]),
            _ => rng.pick(&[Need::Load, Need::Load, Need::Load, Need::Flood, Need::Stop, Need::Forget]),
        };
        Self { who, point: None, need, load, seed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_and_everybody_has_a_turn() {
        let mut rng = Rng::new(7);
        let plans: Vec<_> = (0..2000).map(|_| Plan::by_chance(&mut rng)).collect();
        for point in Point::ALL {
            assert!(plans.iter().any(|plan| plan.point.is_some_and(|(at, _)| at == *point)), "{point:?}");
        }
        for who in [Who::Together, Who::Engine, Who::Host, Who::Both, Who::Command, Who::Standby, Who::Restore] {
            assert!(plans.iter().filter(|plan| plan.who == who).count() > 50, "{who:?}");
        }
    }
}
