//! How far the scores of matching pairs lie from those of other pairs.
//!
//! In:  a task (unit vectors). Out: histograms, means, quantiles, AUC and a calibration.
//! Not here: ranking (`ranking`), the logistic fit itself (`calibration`).

use conjoin_core::{Modality, Seed};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Calibration, RetrievalTask, TaskError, TaskErrorKind, bootstrap::quantile, metric::Statistic,
    ranking::dot,
};

/// Bins of a [`Histogram`], each 0.01 wide.
pub const HISTOGRAM_BINS: usize = 200;

/// About how many pairs of each kind are looked at.
const MAX_PAIRS: usize = 100_000;

/// How far beyond 1 rounding may take the cosine of two unit vectors.
const ROUNDING: f32 = 1e-3;

/// Counts of cosines in equal bins from -1 to 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// [`HISTOGRAM_BINS`] counts; bin `i` starts at `-1 + 0.01 i` and holds its lower edge.
    pub counts: Vec<u64>,
}

/// The scores of one kind of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSummary {
    /// How many pairs.
    pub n_pairs: u64,
    /// Their mean.
    pub mean: f64,
    /// Their quantiles 5, 25, 50, 75 and 95 %.
    pub quantiles: [f64; 5],
    /// Where they lie.
    pub histogram: Histogram,
}

/// The scores of a task's matching and other pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreDistribution {
    /// What the queries are.
    pub query_modality: Modality,
    /// What the corpus rows are.
    pub item_modality: Modality,
    /// Pairs of a query and an item relevant to it.
    pub matching: ScoreSummary,
    /// Pairs of a query and an item not judged relevant to it.
    pub other: ScoreSummary,
    /// The chance that a matching pair scores above another one, ties counting half.
    pub auc: f64,
    /// Score to probability of a match.
    pub calibration: Calibration,
}

/// The distributions of one task by one or two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributionComparison {
    /// The task's name.
    pub task: String,
    /// Of the old model, if there is one.
    pub before: Option<ScoreDistribution>,
    /// Of the new model, or of the only one.
    pub after: ScoreDistribution,
}

impl Histogram {
    /// Counts scores; those beyond -1 and 1 by rounding fall into the end bins.
    #[must_use]
    pub fn new(scores: &[f32]) -> Self {
        let mut counts = vec![0; HISTOGRAM_BINS];
        for score in scores {
            counts[bin(*score)] += 1;
        }
        Self { counts }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to the bins, which are few"
)]
fn bin(score: f32) -> usize {
    let place = (f64::from(score) + 1.0) / 2.0 * HISTOGRAM_BINS as f64;
    (place.floor().max(0.0) as usize).min(HISTOGRAM_BINS - 1)
}

impl ScoreSummary {
    /// Sums up sorted scores.
    fn new(sorted: &[f32]) -> Self {
        let values: Vec<f64> = sorted.iter().map(|score| f64::from(*score)).collect();
        Self {
            n_pairs: sorted.len() as u64,
            quantiles: [0.05, 0.25, 0.5, 0.75, 0.95].map(|share| quantile(&values, share)),
            mean: Statistic::Mean.of(values),
            histogram: Histogram::new(sorted),
        }
    }
}

impl ScoreDistribution {
    /// Measures a task: its matching pairs and a seeded sample of the others, all of them where
    /// there are few.
    ///
    /// Of every query with a relevant item the same number of corpus rows is drawn, so that about
    /// 100,000 pairs of each kind are looked at however large the task is.
    ///
    /// # Errors
    /// When the task contradicts itself, its rows are not of unit length, or it has no matching or
    /// no other pair.
    pub fn measure(task: &RetrievalTask, seed: Seed) -> Result<Self, TaskError> {
        Self::of(task, seed.stream("score_distribution")).map_err(|kind| task.fail(kind))
    }

    fn of(task: &RetrievalTask, seed: Seed) -> Result<Self, TaskErrorKind> {
        task.check()?;
        let counted = task.counted()?;
        let share = MAX_PAIRS.div_ceil(counted.len());
        let sampled: Vec<Result<Pairs, TaskErrorKind>> =
            counted.par_iter().map(|&query| sample(task, query, share, seed)).collect();
        let mut pairs = Pairs::default();
        for query in sampled {
            let query = query?;
            pairs.matching.extend(query.matching);
            pairs.other.extend(query.other);
        }
        if pairs.other.is_empty() {
            return Err(TaskErrorKind::NoOtherItem);
        }
        pairs.matching.sort_unstable_by(f32::total_cmp);
        pairs.other.sort_unstable_by(f32::total_cmp);
        Ok(Self {
            query_modality: task.query_modality,
            item_modality: task.item_modality,
            matching: ScoreSummary::new(&pairs.matching),
            other: ScoreSummary::new(&pairs.other),
            auc: auc(&pairs.matching, &pairs.other),
            calibration: Calibration::fit(&pairs.matching, &pairs.other)?,
        })
    }
}

/// Scores of the two kinds of pairs.
#[derive(Debug, Default)]
struct Pairs {
    matching: Vec<f32>,
    other: Vec<f32>,
}

/// At most `share` pairs of each kind for one query.
fn sample(
    task: &RetrievalTask,
    query: u32,
    share: usize,
    seed: Seed,
) -> Result<Pairs, TaskErrorKind> {
    let mut rng = seed.at(u64::from(query)).rng();
    let mut relevant: Vec<u32> = task.relevant(query).collect();
    relevant.sort_unstable();
    let excluded = task.excluded(query);
    let mut draw = |n: usize| rand::seq::index::sample(&mut rng, n, share.min(n)).into_vec();
    let matching = draw(relevant.len()).into_iter().map(|index| relevant[index]).collect();
    let drawn = draw(task.corpus.len()).into_iter().map(crate::task::as_row);
    let other = drawn
        .filter(|row| Some(*row) != excluded && relevant.binary_search(row).is_err())
        .collect();
    Ok(Pairs { matching: cosines(task, query, matching)?, other: cosines(task, query, other)? })
}

fn cosines(task: &RetrievalTask, query: u32, rows: Vec<u32>) -> Result<Vec<f32>, TaskErrorKind> {
    rows.into_iter()
        .map(|row| {
            let score = dot(task.queries.row(query as usize), task.corpus.row(row as usize));
            match score {
                _ if !score.is_finite() => Err(TaskErrorKind::NotFinite { query, row, score }),
                _ if score.abs() > 1.0 + ROUNDING => {
                    Err(TaskErrorKind::NotUnit { query, row, score })
                }
                _ => Ok(score),
            }
        })
        .collect()
}

/// The Mann–Whitney statistic over its maximum, from two sorted lists.
fn auc(matching: &[f32], other: &[f32]) -> f64 {
    let (mut below, mut not_above) = (0, 0);
    let mut twice_won: u128 = 0;
    for score in matching {
        while other.get(below).is_some_and(|o| o < score) {
            below += 1;
        }
        while other.get(not_above).is_some_and(|o| o <= score) {
            not_above += 1;
        }
        twice_won += (below + not_above) as u128;
    }
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 pairs, rounded above")]
    let share = twice_won as f64 / (2.0 * matching.len() as f64 * other.len() as f64);
    share
}

#[cfg(test)]
mod tests;
