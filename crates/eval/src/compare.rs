//! Before and after side by side, with intervals.
//!
//! In:  results of the same tasks by one or two models. Out: [`Comparison`].
//! Not here: whether the change is kept (`gate`), how it is shown (`report`).

use conjoin_core::Modality;
use serde::{Deserialize, Serialize};

use crate::{Bootstrap, CompareError, Interval, Metric, TaskResult, bootstrap::Series};

/// All tasks of one or two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// How the intervals were made.
    pub bootstrap: Bootstrap,
    /// One entry per task, in the order given.
    pub tasks: Vec<TaskComparison>,
}

/// One task of one or two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskComparison {
    /// The task's name.
    pub name: String,
    /// What the queries are.
    pub query_modality: Modality,
    /// What the corpus rows are.
    pub item_modality: Modality,
    /// Queries counted.
    pub n_queries: u32,
    /// Queries without a relevant item, not counted.
    pub n_uncounted: u32,
    /// Rows of the corpus.
    pub n_corpus: u32,
    /// All metrics in the order of [`Metric::ALL`].
    pub metrics: Vec<MetricComparison>,
}

/// One metric of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricComparison {
    /// The metric.
    pub metric: Metric,
    /// The value of the new model, or of the only one.
    pub after: Estimate,
    /// How it differs from the old model, if there is one.
    pub change: Option<Change>,
}

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The value over all counted queries.
    pub value: f64,
    /// The bootstrap interval.
    pub interval: Interval,
}

/// A difference between two models on the same queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The value of the old model.
    pub before: Estimate,
    /// After minus before; negative is better for ranks.
    pub difference: f64,
    /// The paired bootstrap interval of the difference.
    pub interval: Interval,
    /// The share of resamples in which the new model was strictly better.
    pub share_gained: f64,
}

/// Measures one model: values and intervals, no change.
#[must_use]
pub fn measure(results: &[TaskResult], bootstrap: &Bootstrap) -> Comparison {
    let tasks = results.iter().map(|result| compare_task(None, result, bootstrap)).collect();
    Comparison { bootstrap: *bootstrap, tasks }
}

/// Compares two models on the same tasks.
///
/// # Errors
/// When the two sides differ in their tasks, or a task in its counted queries or corpus.
pub fn compare(
    before: &[TaskResult],
    after: &[TaskResult],
    bootstrap: &Bootstrap,
) -> Result<Comparison, CompareError> {
    if !before.iter().map(|task| &task.name).eq(after.iter().map(|task| &task.name)) {
        return Err(CompareError::Tasks { before: names(before), after: names(after) });
    }
    let mut tasks = Vec::with_capacity(after.len());
    for (before, after) in before.iter().zip(after) {
        if !same_queries(before, after) {
            return Err(CompareError::Queries { task: after.name.clone() });
        }
        tasks.push(compare_task(Some(before), after, bootstrap));
    }
    Ok(Comparison { bootstrap: *bootstrap, tasks })
}

impl Comparison {
    /// The task of that name.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<&TaskComparison> {
        self.tasks.iter().find(|task| task.name == name)
    }
}

impl TaskComparison {
    /// One metric.
    #[must_use]
    pub fn metric(&self, metric: Metric) -> Option<&MetricComparison> {
        self.metrics.iter().find(|entry| entry.metric == metric)
    }
}

impl Change {
    /// Whether the whole interval is on one side of zero.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.interval.low > 0.0 || self.interval.high < 0.0
    }
}

fn names(results: &[TaskResult]) -> String {
    results.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn same_queries(before: &TaskResult, after: &TaskResult) -> bool {
    let key = |task: &TaskResult| (task.n_corpus, task.n_uncounted, task.queries.len());
    key(before) == key(after)
        && before
            .queries
            .iter()
            .zip(&after.queries)
            .all(|(b, a)| (b.query, b.n_relevant) == (a.query, a.n_relevant))
}

fn compare_task(
    before: Option<&TaskResult>,
    after: &TaskResult,
    bootstrap: &Bootstrap,
) -> TaskComparison {
    let sides: Vec<&TaskResult> = before.into_iter().chain([after]).collect();
    let series: Vec<Series> = Metric::ALL
        .iter()
        .flat_map(|metric| sides.iter().map(|side| series(*metric, side)))
        .collect(); // [metrics · sides]
    let resampled = bootstrap.resample(after.queries.len(), &series); // [resamples, metrics · sides]
    let column = |index: usize| resampled.iter().map(|row| row[index]).collect::<Vec<f64>>();
    let metrics = Metric::ALL.iter().enumerate().map(|(index, &metric)| {
        let columns = (0..sides.len()).map(|side| column(index * sides.len() + side)).collect();
        compare_metric(metric, &sides, columns, bootstrap)
    });
    TaskComparison {
        name: after.name.clone(),
        query_modality: after.query_modality,
        item_modality: after.item_modality,
        n_queries: crate::task::as_row(after.queries.len()),
        n_uncounted: after.n_uncounted,
        n_corpus: after.n_corpus,
        metrics: metrics.collect(),
    }
}

fn series(metric: Metric, side: &TaskResult) -> Series {
    let values = side.queries.iter().map(|query| metric.of(query)).collect();
    Series { values, statistic: metric.statistic() }
}

/// `columns` hold the resampled values, one column per side.
fn compare_metric(
    metric: Metric,
    sides: &[&TaskResult],
    columns: Vec<Vec<f64>>,
    bootstrap: &Bootstrap,
) -> MetricComparison {
    let change = match (sides, columns.as_slice()) {
        ([before, after], [was, is]) => {
            Some(change(metric, before.value(metric), after.value(metric), (was, is), bootstrap))
        }
        _ => None,
    };
    let value = sides.last().map_or(f64::NAN, |side| side.value(metric));
    let column = columns.into_iter().next_back().unwrap_or_default();
    let after = Estimate { value, interval: bootstrap.interval(column) };
    MetricComparison { metric, after, change }
}

fn change(
    metric: Metric,
    before: f64,
    after: f64,
    (was, is): (&[f64], &[f64]),
    bootstrap: &Bootstrap,
) -> Change {
    let differences: Vec<f64> = was.iter().zip(is).map(|(was, is)| is - was).collect();
    let gained = differences.iter().filter(|d| metric.gain(**d) > 0.0).count();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let share_gained = gained as f64 / differences.len() as f64;
    Change {
        before: Estimate { value: before, interval: bootstrap.interval(was.to_vec()) },
        difference: after - before,
        interval: bootstrap.interval(differences),
        share_gained,
    }
}

#[cfg(test)]
pub(crate) mod tests;
