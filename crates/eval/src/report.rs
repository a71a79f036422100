//! The report of an evaluation: a versioned record and one page that shows it.
//!
//! In:  [`ReportParts`] filled by the caller. Out: a folder with `report.json`, `report.html` and
//!      the manifest. Format: `docs/format/report.md`.
//! Not here: the page (`html`), the drawings (`plot`).

mod curve;
mod figures;
mod histogram;
mod html;
mod markup;
mod plot;
mod queries;
mod table;

use std::{collections::BTreeMap, path::Path};

use conjoin_core::{Artifact, ArtifactWriter, Manifest};
use fs_err as fs;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::html::render_html;
use crate::{
    Comparison, DistributionComparison, GateVerdict, QueryExample, ReportError, ReportErrorKind,
};

/// The version of `report.json` that this build writes, and the newest it reads.
pub const REPORT_VERSION: u32 = 1;

/// The artefact's format name.
const FORMAT: &str = "report";

const JSON_FILE: &str = "report.json";
const HTML_FILE: &str = "report.html";

/// Reports are small; a larger one is not ours.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// A report as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    version: u32,
    parts: ReportParts,
}

/// Everything a report tells. Parts that do not apply stay empty and are not shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportParts {
    /// The heading.
    pub title: String,
    /// What was compared, in a sentence or two.
    pub summary: String,
    /// The old model, if there is one.
    pub before: Option<ModelFacts>,
    /// The new model, or the only one.
    pub after: ModelFacts,
    /// What the data is: counts, sources, splits.
    pub data: Vec<Fact>,
    /// The gate's answer, if one was asked.
    pub verdict: Option<GateVerdict>,
    /// The measurements.
    pub comparison: Comparison,
    /// How training went, if there was any.
    pub curve: Option<TrainingCurve>,
    /// Queries worth looking at.
    pub examples: Vec<QueryExample>,
    /// Score distributions per task.
    pub distributions: Vec<DistributionComparison>,
    /// How long the steps took.
    pub timings: Vec<Timing>,
    /// The most memory the process held, if known.
    pub peak_memory_bytes: Option<u64>,
    /// How to get the same numbers again.
    pub reproduction: Reproduction,
}

/// A model, as far as a reader needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// A short name.
    pub name: String,
    /// The fingerprint of weights and input contract.
    pub fingerprint: String,
    /// Anything else worth a line (parameters, licence, training).
    pub note: String,
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// The name.
    pub name: String,
    /// The value, as it should be read.
    pub value: String,
}

/// The course of a training run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingCurve {
    /// The steps at which the loss was noted, increasing.
    pub steps: Vec<u64>,
    /// The loss at each of them; one that is no number is stored as null and leaves a gap.
    #[serde(deserialize_with = "numbers_or_null")]
    pub loss: Vec<f32>,
    /// The learning rate at each of them, or empty.
    #[serde(deserialize_with = "numbers_or_null")]
    pub learning_rate: Vec<f32>,
    /// Evaluations during training.
    pub evaluations: Vec<EvaluationPoint>,
}

/// One value measured during training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationPoint {
    /// The step after which it was measured.
    pub step: u64,
    /// What was measured (`text_to_image/recall@10`).
    pub name: String,
    /// The value; shares of 1 are shown in percent.
    pub value: f64,
}

/// How long a step took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// What was done.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// How many items were worked on, if that gives a rate.
    pub items: Option<u64>,
}

/// How to get the same numbers again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reproduction {
    /// The command line.
    pub command: String,
    /// SHA-256 of the resolved configuration.
    pub config_hash: String,
    /// The seed of the run.
    pub seed: Option<u64>,
    /// SHA-256 of each input's manifest or file, by name.
    pub inputs: BTreeMap<String, String>,
    /// The version of the program.
    pub software: String,
    /// The machine (processor, threads, memory).
    pub machine: String,
}

impl Report {
    /// A report of this build's version.
    #[must_use]
    pub fn new(parts: ReportParts) -> Self {
        Self { version: REPORT_VERSION, parts }
    }

    /// The version it was written with.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What it tells.
    #[must_use]
    pub fn parts(&self) -> &ReportParts {
        &self.parts
    }

    /// Passes when a report may be written to `dir`: to be asked before long work.
    ///
    /// # Errors
    /// When `dir` holds something else than a report, or nothing can be written beside it.
    pub fn check_place(dir: &Path) -> Result<(), ReportError> {
        let free = ArtifactWriter::create(dir, FORMAT);
        free.map(drop).map_err(|e| ReportError { path: dir.to_owned(), kind: e.into() })
    }

    /// Writes `report.json` and `report.html` as one artefact, replacing an older report in `dir`.
    ///
    /// # Errors
    /// When `dir` holds something else than a report, or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<Artifact, ReportError> {
        self.publish(dir).map_err(|kind| ReportError { path: dir.to_owned(), kind })
    }

    fn publish(&self, dir: &Path) -> Result<Artifact, ReportErrorKind> {
        let writer = ArtifactWriter::create(dir, FORMAT)?;
        fs::write(writer.file(JSON_FILE), serde_json::to_vec_pretty(self)?)?;
        fs::write(writer.file(HTML_FILE), render_html(self))?;
        Ok(writer.commit(self.manifest())?)
    }

    /// Reads a report that [`Report::write`] wrote.
    ///
    /// # Errors
    /// When the folder is no report, is damaged, or was written by a newer build.
    pub fn read(dir: &Path) -> Result<Self, ReportError> {
        Self::load(dir).map_err(|kind| ReportError { path: dir.to_owned(), kind })
    }

    fn load(dir: &Path) -> Result<Self, ReportErrorKind> {
        let artifact = Artifact::open(dir, FORMAT, REPORT_VERSION)?;
        let file = artifact.file(JSON_FILE);
        let found = fs::metadata(&file)?.len();
        if found > MAX_JSON_BYTES {
            return Err(ReportErrorKind::TooLarge { found, limit: MAX_JSON_BYTES });
        }
        let report: Self = serde_json::from_slice(&fs::read(&file)?)?;
        if report.version > REPORT_VERSION {
            let (found, supported) = (report.version, REPORT_VERSION);
            return Err(ReportErrorKind::TooNew { found, supported });
        }
        Ok(report)
    }

    fn manifest(&self) -> Manifest {
        let reproduction = &self.parts.reproduction;
        let mut manifest = Manifest::new(FORMAT, REPORT_VERSION);
        manifest.config_hash.clone_from(&reproduction.config_hash);
        manifest.inputs.clone_from(&reproduction.inputs);
        manifest.seed = reproduction.seed;
        manifest.fingerprint = Some(self.parts.after.fingerprint.clone());
        manifest.facts.insert("title".to_owned(), self.parts.title.clone().into());
        if let Some(verdict) = &self.parts.verdict {
            manifest.facts.insert("kept".to_owned(), verdict.keep.into());
        }
        manifest
    }
}

/// JSON has no NaN: it is written as null, which is read back here.
fn numbers_or_null<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<f32>, D::Error> {
    let numbers = Vec::<Option<f32>>::deserialize(input)?;
    Ok(numbers.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect())
}

#[cfg(test)]
mod tests;
