//! Retrieval metrics with intervals, score distributions and before/after reports.
//!
//! In:  embeddings of queries and of a corpus, relevance sets, plain records of a training run.
//! Out: [`TaskResult`] per task, [`Comparison`] with intervals, [`GateVerdict`], [`Report`] (JSON
//!      and one self-contained HTML page).
//! Not here: models and pictures (the caller embeds and makes thumbnails), search indexes.
//!
//! The definitions are in `docs/metrics.md`, the stored format in `docs/format/report.md`.

mod bootstrap;
mod calibration;
mod compare;
mod correlation;
mod distribution;
mod error;
mod example;
mod gate;
mod metric;
mod ranking;
mod report;
mod task;

pub use bootstrap::{Bootstrap, Interval};
pub use calibration::Calibration;
pub use compare::{
    Change, Comparison, Estimate, MetricComparison, TaskComparison, compare, measure,
};
pub use correlation::spearman;
pub use distribution::{
    DistributionComparison, HISTOGRAM_BINS, Histogram, ScoreDistribution, ScoreSummary,
};
pub use error::{
    CalibrationError, CompareError, GateError, ReportError, ReportErrorKind, TaskError,
    TaskErrorKind,
};
pub use example::{Card, Cards, ExampleHit, QueryExample, RankedCards, examples};
pub use gate::{Gate, GateVerdict, MetricName};
pub use metric::Metric;
pub use report::{
    EvaluationPoint, Fact, ModelFacts, REPORT_VERSION, Report, ReportParts, Reproduction, Timing,
    TrainingCurve, render_html,
};
pub use task::{QueryHit, QueryResult, RetrievalTask, TaskResult};
