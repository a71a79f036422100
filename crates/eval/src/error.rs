//! Why an evaluation, a comparison or a report could not be made.

use std::path::PathBuf;

use conjoin_core::{ArtifactError, ArtifactErrorKind};

/// Why a task could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[error("cannot evaluate task `{task}`")]
pub struct TaskError {
    /// The task's name.
    pub task: String,
    /// What is wrong.
    #[source]
    pub kind: TaskErrorKind,
}

/// What is wrong with a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskErrorKind {
    /// Queries and corpus are not of one space.
    #[error("queries have {queries} dimensions, the corpus has {corpus}")]
    Width {
        /// Width of the queries.
        queries: usize,
        /// Width of the corpus.
        corpus: usize,
    },
    /// A list that goes with the queries or the corpus has another length.
    #[error("{field} has {found} entries, expected {expected}")]
    Length {
        /// The field of the task.
        field: &'static str,
        /// Entries found.
        found: usize,
        /// Entries expected.
        expected: usize,
    },
    /// Rows and ranks are held in 32 bits.
    #[error("{field} has {found} rows, the limit is {limit}")]
    TooLarge {
        /// The field of the task.
        field: &'static str,
        /// Rows found.
        found: usize,
        /// Rows allowed.
        limit: usize,
    },
    /// A judgement names a row that the corpus does not have.
    #[error("query {query} names corpus row {row}, the corpus has {rows} rows")]
    Row {
        /// The query.
        query: u32,
        /// Row found.
        row: u32,
        /// Rows of the corpus.
        rows: usize,
    },
    /// A query judges a row twice.
    #[error("query {query} judges corpus row {row} more than once")]
    JudgedTwice {
        /// The query.
        query: u32,
        /// The row.
        row: u32,
    },
    /// Grades are finite and not negative.
    #[error("query {query} gives corpus row {row} the grade {grade}, expected a number from 0 up")]
    Grade {
        /// The query.
        query: u32,
        /// The row.
        row: u32,
        /// Grade found.
        grade: f32,
    },
    /// Two corpus rows share an id, so that ties have no order.
    #[error("corpus rows {first} and {second} share the id `{id}`")]
    SameId {
        /// The first row.
        first: u32,
        /// The second row.
        second: u32,
        /// The id.
        id: String,
    },
    /// A similarity is NaN or infinite.
    #[error("the score of query {query} and corpus row {row} is {score}")]
    NotFinite {
        /// The query.
        query: u32,
        /// The row.
        row: u32,
        /// Score found.
        score: f32,
    },
    /// Score distributions are over cosines, so rows must be of unit length.
    #[error("the score of query {query} and corpus row {row} is {score}, expected -1 to 1")]
    NotUnit {
        /// The query.
        query: u32,
        /// The row.
        row: u32,
        /// Score found.
        score: f32,
    },
    /// No query has a relevant item, so nothing can be measured.
    #[error("none of {queries} queries has a relevant item")]
    NoRelevantItem {
        /// Queries found.
        queries: usize,
    },
    /// Every judged item is relevant, so there is nothing to tell matches from.
    #[error("no pair is left that does not match")]
    NoOtherItem,
    /// The calibration could not be fitted.
    #[error("cannot calibrate the scores")]
    Calibration(#[from] CalibrationError),
}

/// Why scores could not be calibrated.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// Both kinds of pairs are needed.
    #[error("found {matching} matching and {other} other scores, expected at least one of each")]
    OneSided {
        /// Matching scores found.
        matching: usize,
        /// Other scores found.
        other: usize,
    },
    /// A score is NaN or infinite.
    #[error("found a score of {0}, expected a finite number")]
    NotFinite(f32),
}

/// Why two measurements cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The two sides measured other tasks.
    #[error("found tasks {after} after, expected {before} as before")]
    Tasks {
        /// Names before, comma separated.
        before: String,
        /// Names after, comma separated.
        after: String,
    },
    /// The two sides did not count the same queries with the same relevant items.
    #[error("task `{task}` did not judge the same queries before and after")]
    Queries {
        /// The task.
        task: String,
    },
}

/// Why a gate could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Not of the form `task/metric`.
    #[error("`{0}` is not a metric name, expected one such as `text_to_image/recall@10`")]
    Name(String),
    /// The comparison has no such task or metric.
    #[error("`{name}` was not measured, there is {available}")]
    NotMeasured {
        /// The name asked for.
        name: String,
        /// Names of the tasks measured.
        available: String,
    },
    /// Only one model was measured.
    #[error("only one model was measured, a gate needs a comparison")]
    NoBefore,
}

/// Why a report could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot use report `{}`", path.display())]
pub struct ReportError {
    /// The folder.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: ReportErrorKind,
}

/// What is wrong with a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportErrorKind {
    /// The artefact could not be opened or committed.
    #[error(transparent)]
    Artifact(ArtifactErrorKind),
    /// A file could not be read or written; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// `report.json` is not what its version says.
    #[error("`report.json` is not a report")]
    Json(#[from] serde_json::Error),
    /// Written by a newer build.
    #[error("report version {found}, this build reads up to {supported}")]
    TooNew {
        /// Version found.
        found: u32,
        /// Newest version this build reads.
        supported: u32,
    },
    /// A far larger file than any of ours.
    #[error("`report.json` has {found} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes found.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl From<ArtifactError> for ReportErrorKind {
    fn from(error: ArtifactError) -> Self {
        // The place is told by [`ReportError`].
        Self::Artifact(error.kind)
    }
}
