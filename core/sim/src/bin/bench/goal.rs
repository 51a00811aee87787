//! What a figure is to be, as a ratio within one run wherever that is possible.

use crate::table::number;

/// The figures of one row as they are shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    /// Ours.
    pub(crate) ours: Option<f64>,
    /// Litestream's with its defaults.
    pub(crate) rival: Option<f64>,
    /// Litestream's with its lowest intervals.
    pub(crate) lowest: Option<f64>,
    /// The cheapest that could do it.
    pub(crate) floor: Option<f64>,
    /// Our median, where the row shows another quantile.
    pub(crate) median: Option<f64>,
}

/// A goal of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Ours is at most this, in the unit of the row.
    AtMost(f64),
    /// Ours is at most this part of Litestream's.
    OfRival(f64),
    /// Ours is at most this part of Litestream's at its lowest intervals.
    OfLowest(f64),
    /// Litestream takes at least this many times as long.
    Faster(f64),
    /// Ours is at most this many times the floor.
    OfFloor(f64),
    /// Ours is at least this part of the floor.
    KeepsOfFloor(f64),
    /// Ours is at most this much above the floor.
    OverFloor(f64),
    /// Ours is at most this many times our own median.
    OfMedian(f64),
}

impl Goal {
    /// What was reached, the goal in words, and whether it holds; `None` where something was not measured.
    fn judge(self, shown: Shown) -> Option<(String, String, bool)> {
        let ours = shown.ours?;
        let at_most = |reached: f64, limit: f64, of: &str| {
            (number(reached), format!("≤ {}{of}", number(limit)), reached <= limit)
        };
        let at_least = |reached: f64, limit: f64, of: &str| {
            (number(reached), format!("≥ {}{of}", number(limit)), reached >= limit)
        };
        Some(match self {
            Self::AtMost(limit) => at_most(ours, limit, ""),
            Self::OfRival(limit) => at_most(ours / shown.rival?, limit, " of Litestream"),
            Self::OfLowest(limit) => at_most(ours / shown.lowest?, limit, " of Litestream, lowest"),
            Self::Faster(limit) => at_least(shown.rival? / ours, limit, " times as fast"),
            Self::OfFloor(limit) => at_most(ours / shown.floor?, limit, " × floor"),
            Self::KeepsOfFloor(limit) => at_least(ours / shown.floor?, limit, " of floor"),
            Self::OverFloor(limit) => at_most((ours - shown.floor?).max(0.0), limit, " over floor"),
            Self::OfMedian(limit) => at_most(ours / shown.median?, limit, " × median"),
        })
    }

    /// The cell: what was reached and what was wanted; what was missed stands out.
    pub(crate) fn cell(self, shown: Shown) -> Option<String> {
        let (reached, wanted, holds) = self.judge(shown)?;
        Some(if holds { format!("{reached} ({wanted})") } else { format!("**{reached}** ({wanted})") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_its_goal_stands_out_and_what_was_not_measured_is_not_judged() {
        let shown = Shown { ours: Some(2.0), rival: Some(8.0), floor: Some(1.0), ..Shown::default() };
        let cell = |goal: Goal| goal.cell(shown);
        assert_eq!(cell(Goal::Faster(3.0)).as_deref(), Some("4.00 (≥ 3.00 times as fast)"));
        assert_eq!(cell(Goal::OfRival(0.2)).as_deref(), Some("**0.250** (≤ 0.200 of Litestream)"));
        assert_eq!(cell(Goal::OfFloor(2.0)).as_deref(), Some("2.00 (≤ 2.00 × floor)"));
        assert_eq!(cell(Goal::OverFloor(5.0)).as_deref(), Some("1.00 (≤ 5.00 over floor)"));
        assert_eq!(cell(Goal::OfLowest(1.0)), None);
    }
}
