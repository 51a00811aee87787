//! Figures: medians over rounds, and the one table.

use crate::goal::{Goal, Shown};

/// What a row compares, in the order of the columns.
pub(crate) const COLUMNS: usize = 3;

/// Our command.
pub(crate) const OURS: usize = 0;
/// Litestream with its defaults.
pub(crate) const THEIRS: usize = 1;
/// Litestream with its lowest intervals.
pub(crate) const LOWEST: usize = 2;
/// No contender: the floor.
pub(crate) const NOBODY: usize = COLUMNS;

/// A measured quantity.
#[derive(Default)]
pub(crate) struct Row {
    what: String,
    store: String,
    unit: &'static str,
    /// One list of samples for each contender.
    samples: [Vec<f64>; COLUMNS],
    /// The same without a replicator, or the cheapest thing that could do it.
    floor: Vec<f64>,
    /// Which of the samples is shown.
    quantile: f64,
    goals: Vec<Goal>,
}

impl Row {
    /// A quantity of which the median is shown.
    pub(crate) fn new(what: &str, store: &str, unit: &'static str) -> Self {
        Self { what: what.to_owned(), store: store.to_owned(), unit, quantile: 0.5, ..Self::default() }
    }

    /// The same of which another quantile is shown.
    pub(crate) fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile;
        self
    }

    /// The same with a goal.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    /// Adds a sample of a contender.
    pub(crate) fn add(&mut self, contender: usize, sample: f64) {
        self.samples[contender].push(sample);
    }

    /// Adds a sample of the floor.
    pub(crate) fn add_floor(&mut self, sample: f64) {
        self.floor.push(sample);
    }

    fn shown(&self) -> Shown {
        let at = |samples: &[f64]| quantile(samples, self.quantile);
        let [ours, rival, lowest] = &self.samples;
        Shown {
            ours: at(ours),
            rival: at(rival),
            lowest: at(lowest),
            floor: at(&self.floor),
            median: quantile(ours, 0.5),
        }
    }

    fn line(&self) -> String {
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let shown = self.shown();
        let ratio = match (shown.ours, shown.rival.or(shown.lowest)) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => number(ours / theirs),
            _ => "–".to_owned(),
        };
        let goals: Vec<_> = self.goals.iter().filter_map(|goal| goal.cell(shown)).collect();
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {ratio} | {} |",
            self.what,
            self.store,
            self.unit,
            cell(shown.ours),
            cell(shown.rival),
            cell(shown.lowest),
            cell(shown.floor),
            goals.join("; "),
        )
    }
}

/// All rows.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// What has columns of its own.
    others: Vec<String>,
}

impl Table {
    /// Adds a finished row, and tells it: a long run shows what it has.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    /// Adds a finished table with columns of its own.
    pub(crate) fn add_other(&mut self, markdown: String) {
        eprintln!("{markdown}");
        self.others.push(markdown);
    }

    /// What has columns of its own, as markdown.
    pub(crate) fn others(&self) -> String {
        self.others.join("\n")
    }

    /// The table as markdown.
    pub(crate) fn markdown(&self, rival: &str) -> String {
        let mut text = format!(
            "| figure | store | unit | replicate | {rival} | same, lowest intervals | floor | ratio | reached (goal) |\n\
             |---|---|---|---|---|---|---|---|---|\n"
        );
        for row in &self.rows {
            text.push_str(&row.line());
            text.push('\n');
        }
        text
    }
}

/// The sample below which this part of all lies, between two where it falls between them; `None` if there are none.
pub(crate) fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = sorted.len().checked_sub(1)? as f64 * part;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// Three significant digits, without an exponent.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_worst_of_unsorted_samples() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), Some(3.0));
        assert_eq!(quantile(&[3.0, 1.0], 0.5), Some(2.0), "no better than the other half");
    }

    #[test]
    fn a_row_has_its_ratio_only_where_both_were_measured() {
        let mut row = Row::new("x", "file", "ms").goal(Goal::OfRival(0.5));
        row.add(OURS, 1.0);
        assert_eq!(row.line(), "| x | file | ms | 1.00 | – | – | – | – |  |");
        row.add(THEIRS, 4.0);
        let line = row.line();
        assert_eq!(line, "| x | file | ms | 1.00 | 4.00 | – | – | 0.250 | 0.250 (≤ 0.500 of Litestream) |");
    }

    #[test]
    fn a_tail_is_compared_with_the_median_of_the_same_samples() {
        let mut row = Row::new("x", "file", "ms").quantile(0.99).goal(Goal::OfMedian(3.0));
        (0..99).for_each(|_| row.add(OURS, 1.0));
        row.add(OURS, 4.0);
        row.add(OURS, 4.0);
        assert!(row.line().contains("**4.00** (≤ 3.00 × median)"), "{}", row.line());
    }
}
