//! What was measured: figures by row, by who made them and in which round; medians, percentiles,
//! ratios.

use std::collections::BTreeMap;

/// Who the bare CRI calls are.
pub(crate) const FLOOR: &str = "floor";

/// All figures of a run. `round` and `who` say to whom the next ones belong.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) round: u32,
    pub(crate) who: String,
    rows: BTreeMap<String, BTreeMap<String, BTreeMap<u32, Vec<f64>>>>,
}

impl Samples {
    pub(crate) fn add(&mut self, row: &str, value: f64) {
        let who = self.rows.entry(row.to_owned()).or_default().entry(self.who.clone()).or_default();
        who.entry(self.round).or_default().push(value);
    }

    /// All figures of a row, of all rounds, sorted.
    pub(crate) fn sorted(&self, row: &str, who: &str) -> Vec<f64> {
        let rounds = self.rows.get(row).and_then(|row| row.get(who));
        let mut all: Vec<f64> =
            rounds.into_iter().flat_map(BTreeMap::values).flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// `who`'s median over `other`'s, taken within each round, then the median of the rounds.
    pub(crate) fn ratio(&self, row: &str, who: &str, other: &str, other_row: &str) -> Option<f64> {
        let ours = self.rows.get(row)?.get(who)?;
        let theirs = self.rows.get(other_row)?.get(other)?;
        let in_round = |(round, ours): (&u32, &Vec<f64>)| {
            let (ours, theirs) = (median(ours)?, median(theirs.get(round)?)?);
            (theirs > 0.0).then(|| ours / theirs)
        };
        let ratios: Vec<f64> = ours.iter().filter_map(in_round).collect();
        median(&ratios)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!(self.rows)
    }
}

/// The value in the middle; of two, their mean.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(sorted.len() / 2 - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// The value that `percent` of the sorted values do not exceed.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}
