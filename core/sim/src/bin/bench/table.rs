//! Figures: medians over rounds, and the one table.

/// What a row compares, in the order of the columns.
pub(crate) const COLUMNS: usize = 3;

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
}

impl Row {
    /// A quantity of which the median is shown.
    pub(crate) fn new(what: &str, store: &str, unit: &'static str) -> Self {
        Self { what: what.to_owned(), store: store.to_owned(), unit, quantile: 0.5, ..Self::default() }
    }

    /// The same of which the worst is shown.
    pub(crate) fn worst(mut self) -> Self {
        self.quantile = 1.0;
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

    fn shown(&self, samples: &[f64]) -> Option<f64> {
        quantile(samples, self.quantile)
    }

    fn line(&self) -> String {
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let [ours, theirs, lowest] = &self.samples;
        let (ours, theirs, lowest) = (self.shown(ours), self.shown(theirs), self.shown(lowest));
        let ratio = match (ours, theirs) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
            _ => "–".to_owned(),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {ratio} |",
            self.what,
            self.store,
            self.unit,
            cell(ours),
            cell(theirs),
            cell(lowest),
            cell(self.shown(&self.floor)),
        )
    }
}

/// All rows.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a finished row.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The table as markdown.
    pub(crate) fn markdown(&self, rival: &str, sizes: &str) -> String {
        let mut text = format!(
            "| {sizes} | store | unit | replicate | {rival} | {rival}, lowest intervals | floor | ratio |\n\
             |---|---|---|---|---|---|---|---|\n"
        );
        for row in &self.rows {
            text.push_str(&row.line());
            text.push('\n');
        }
        text.push_str(
            "\nFloor: the PUT alone, the writer alone, or `cp` and sync. Ratio: replicate by Litestream with its defaults.",
        );
        text
    }
}

/// The sample below which this part of all lies; `None` if there are none.
pub(crate) fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).round() as usize).copied()
}

/// Three significant digits, without an exponent.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
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
    }

    #[test]
    fn a_row_has_its_ratio_only_where_both_were_measured() {
        let mut row = Row::new("x", "file", "ms");
        row.add(0, 1.0);
        assert_eq!(row.line(), "| x | file | ms | 1.00 | – | – | – | – |");
        row.add(1, 4.0);
        assert_eq!(row.line(), "| x | file | ms | 1.00 | 4.00 | – | – | 0.25 |");
    }
}
