//! Intervals by resampling queries.
//!
//! In:  per-query values of metrics, before and after aligned. Out: percentile intervals.
//! Not here: what is compared (`compare`).
//! Source: Efron & Tibshirani 1993, chapters 13 (percentile interval) and 16 (paired differences).
//!
//! Resample `i` is drawn from `seed.stream("bootstrap").at(i)`, so the result does not depend on
//! threads. Before and after see the same queries in each resample: the difference is paired.

use conjoin_core::Seed;
use rand::Rng as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::metric::Statistic;

/// How queries are resampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The seed of the resamples.
    pub seed: Seed,
    /// How many resamples, at least 1.
    pub n_resamples: u32,
    /// The share of resamples inside the interval, 0 to 1.
    pub level: f64,
}

/// A range that holds the true value with the bootstrap's level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// One metric's values over queries.
pub(crate) struct Series {
    pub(crate) values: Vec<f64>,
    pub(crate) statistic: Statistic,
}

impl Bootstrap {
    /// 1,000 resamples and 95 % intervals.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self { seed, n_resamples: 1_000, level: 0.95 }
    }

    /// The statistics of all series in every resample of `n` queries, one row per resample.
    ///
    /// # Shapes
    /// `series` hold `n` values each; returns `[n_resamples, series]`.
    pub(crate) fn resample(&self, n: usize, series: &[Series]) -> Vec<Vec<f64>> {
        let seed = self.seed.stream("bootstrap");
        (0..self.n_resamples)
            .into_par_iter()
            .map(|resample| {
                let mut rng = seed.at(u64::from(resample)).rng();
                let drawn: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
                let of = |series: &Series| {
                    series.statistic.of(drawn.iter().map(|&query| series.values[query]).collect())
                };
                series.iter().map(of).collect()
            })
            .collect()
    }

    /// The interval that holds the middle `level` of the values.
    pub(crate) fn interval(&self, mut values: Vec<f64>) -> Interval {
        values.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) }
    }
}

/// The quantile of sorted values, linear between neighbours; NaN when there is none.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let place = share.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the place is between 0 and the last index"
    )]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests;
