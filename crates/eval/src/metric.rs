//! The metrics: what each makes of one query, how queries are summed up, how values are written.
//!
//! In:  the results of single queries. Out: one number per metric.
//! Not here: ranking (`ranking`), intervals (`bootstrap`).
//! Parity: `testdata/parity/metrics`.

use serde::{Deserialize, Serialize};

use crate::task::QueryResult;

/// A retrieval metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Share of queries with at least one relevant item at rank 1.
    #[serde(rename = "recall@1")]
    RecallAt1,
    /// Share of queries with at least one relevant item among the first 5.
    #[serde(rename = "recall@5")]
    RecallAt5,
    /// Share of queries with at least one relevant item among the first 10.
    #[serde(rename = "recall@10")]
    RecallAt10,
    /// Normalised discounted cumulative gain of the first 10, linear gain.
    #[serde(rename = "ndcg@10")]
    NdcgAt10,
    /// Mean of 1 / rank of the first relevant item.
    #[serde(rename = "mrr")]
    Mrr,
    /// As `mrr`, a first relevant item beyond rank 10 counting 0.
    #[serde(rename = "mrr@10")]
    MrrAt10,
    /// Mean rank of the first relevant item.
    #[serde(rename = "mean_rank")]
    MeanRank,
    /// Median rank of the first relevant item.
    #[serde(rename = "median_rank")]
    MedianRank,
}

/// How the values of queries become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistic {
    Mean,
    Median,
}

impl Metric {
    /// All metrics in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::RecallAt1,
        Self::RecallAt5,
        Self::RecallAt10,
        Self::NdcgAt10,
        Self::Mrr,
        Self::MrrAt10,
        Self::MeanRank,
        Self::MedianRank,
    ];

    /// The name used in files, flags and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RecallAt1 => "recall@1",
            Self::RecallAt5 => "recall@5",
            Self::RecallAt10 => "recall@10",
            Self::NdcgAt10 => "ndcg@10",
            Self::Mrr => "mrr",
            Self::MrrAt10 => "mrr@10",
            Self::MeanRank => "mean_rank",
            Self::MedianRank => "median_rank",
        }
    }

    /// The metric of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Whether the value is a rank: lower is better and it is no share of 1.
    #[must_use]
    pub fn is_rank(self) -> bool {
        matches!(self, Self::MeanRank | Self::MedianRank)
    }

    /// A difference `after - before` turned so that positive is better.
    #[must_use]
    pub fn gain(self, difference: f64) -> f64 {
        if self.is_rank() { -difference } else { difference }
    }

    /// What the metric makes of one query.
    #[must_use]
    pub fn of(self, query: &QueryResult) -> f64 {
        let rank = query.first_rank;
        let within = |k: u32| if rank <= k { 1.0 } else { 0.0 };
        match self {
            Self::RecallAt1 => within(1),
            Self::RecallAt5 => within(5),
            Self::RecallAt10 => within(10),
            Self::NdcgAt10 => query.ndcg_at_10,
            Self::Mrr => 1.0 / f64::from(rank),
            Self::MrrAt10 => within(10) / f64::from(rank),
            Self::MeanRank | Self::MedianRank => f64::from(rank),
        }
    }

    /// The value over queries; NaN when there is none.
    #[must_use]
    pub fn over(self, queries: &[QueryResult]) -> f64 {
        self.statistic().of(queries.iter().map(|query| self.of(query)).collect())
    }

    pub(crate) fn statistic(self) -> Statistic {
        match self {
            Self::MedianRank => Statistic::Median,
            Self::RecallAt1
            | Self::RecallAt5
            | Self::RecallAt10
            | Self::NdcgAt10
            | Self::Mrr
            | Self::MrrAt10
            | Self::MeanRank => Statistic::Mean,
        }
    }

    /// The value for people: shares in percent, ranks as they are, one decimal.
    #[must_use]
    pub fn display(self, value: f64) -> String {
        if self.is_rank() { format!("{value:.1}") } else { format!("{:.1}", 100.0 * value) }
    }

    /// The difference for people, with its sign: percentage points, or ranks.
    #[must_use]
    pub fn display_difference(self, difference: f64) -> String {
        let scaled = if self.is_rank() { difference } else { 100.0 * difference };
        let magnitude = format!("{:.1}", scaled.abs());
        let sign = match scaled {
            _ if magnitude == "0.0" => "±",
            _ if scaled < 0.0 => "−",
            _ => "+",
        };
        format!("{sign}{magnitude}")
    }

    /// The unit of [`Metric::display`].
    #[must_use]
    pub fn unit(self) -> &'static str {
        if self.is_rank() { "" } else { " %" }
    }

    /// The unit of [`Metric::display_difference`].
    #[must_use]
    pub fn difference_unit(self) -> &'static str {
        if self.is_rank() { "ranks" } else { "points" }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Statistic {
    /// The statistic of the values in their order; NaN when there is none.
    pub(crate) fn of(self, mut values: Vec<f64>) -> f64 {
        if values.is_empty() {
            return f64::NAN;
        }
        match self {
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
            Self::Mean => values.iter().sum::<f64>() / values.len() as f64,
            Self::Median => median(&mut values),
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if below.len() == middle && !values.len().is_multiple_of(2) {
        return upper;
    }
    let lower = values[..middle].iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, upper)
}

#[cfg(test)]
mod tests;
