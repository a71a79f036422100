//! The precision a user asks for, set in a model: by name, measured on a sample, or from a file.
//!
//! Out: what was chosen and why, for people; plans, files that `doctor` writes and `--precision` reads.
//! Not here: the arithmetic (`conjoin-engine`), how precisions are measured (`conjoin-model`).

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result, bail};
use conjoin_core::{Reranker, Stop, Task};
use conjoin_data::{Dataset, Item};
use conjoin_model::{
    MeasuredPrecision, Model, ModelCalibration, ModelPrecision, Precision, Ranker, SAMPLE_SIZE,
    Sample, TowerCalibration, TowerPrecision,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    args::{PrecisionArgs, PrecisionChoice},
    console::Console,
    items::joined_text,
};

/// The fact of a manifest that tells how products were computed, tower by tower.
pub(crate) const PRECISION_FACT: &str = "precision";

const PLAN_VERSION: u32 = 1;

/// A precision that was found for a model once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    version: u32,
    /// Of the model.
    fingerprint: String,
    precision: ModelPrecision,
}

/// Writes a plan for a model.
pub(crate) fn save_plan(path: &Path, fingerprint: &str, precision: ModelPrecision) -> Result<()> {
    let plan = Plan { version: PLAN_VERSION, fingerprint: fingerprint.to_owned(), precision };
    Ok(fs_err::write(path, serde_json::to_string_pretty(&plan)? + "\n")?)
}

fn read_plan(path: &Path, fingerprint: &str) -> Result<ModelPrecision> {
    let plan: Plan = serde_json::from_slice(&fs_err::read(path)?)
        .with_context(|| format!("`{}` is no precision plan", path.display()))?;
    if plan.version != PLAN_VERSION {
        let found = plan.version;
        bail!("`{}` has version {found}, this build reads {PLAN_VERSION}", path.display());
    }
    if plan.fingerprint != fingerprint {
        bail!(
            "`{}` was made for another model; `conjoin doctor MODEL --save-precision` makes one",
            path.display()
        );
    }
    Ok(plan.precision)
}

impl PrecisionArgs {
    /// Sets a model's precision; `sample` gives some of the inputs it will have to embed.
    pub(crate) fn apply(
        &self,
        mut model: Model,
        sample: impl FnOnce() -> Result<Sample>,
        (console, stop): (&Console, &Stop),
    ) -> Result<Model> {
        match self.fixed_of(&model)? {
            Some(precision) => model.set_precision(&precision).context("`--precision`")?,
            None => tell(&model.calibrate(&sample()?, stop)?, console),
        }
        Ok(model)
    }

    /// Sets the precision of the model of an index; `auto` is the one the index was made in.
    pub(crate) fn apply_as_indexed(&self, mut model: Model, made: Option<&Value>) -> Result<Model> {
        let precision = match (self.fixed_of(&model)?, made) {
            (Some(precision), _) => precision,
            (None, Some(made)) => serde_json::from_value(made.clone())
                .context("the precision in the index's manifest")?,
            (None, None) => ModelPrecision::default(),
        };
        model.set_precision(&precision).context("`--precision`")?;
        Ok(model)
    }

    /// Sets the precision of a model that ranks these documents.
    pub(crate) fn apply_to_ranker(
        &self,
        model: &mut Ranker,
        (query, documents): (&str, &[&str]),
        (console, stop): (&Console, &Stop),
    ) -> Result<()> {
        match self.fixed(|| model.fingerprint().to_owned(), ModelPrecision::from)? {
            Some(precision) => {
                model
                    .set_precision(&precision.text.unwrap_or_default())
                    .context("`--precision`")?;
            }
            None => tell(&model.calibrate(query, documents, stop)?, console),
        }
        Ok(())
    }

    fn fixed_of(&self, model: &Model) -> Result<Option<ModelPrecision>> {
        self.fixed(|| model.whole_fingerprint().to_owned(), |p| model.usual_precision(p))
    }

    /// The precision that needs no measuring, for the model of this fingerprint, for which names mean the
    /// usual.
    pub(crate) fn fixed(
        &self,
        fingerprint: impl FnOnce() -> String,
        usual: impl FnOnce(Precision) -> ModelPrecision,
    ) -> Result<Option<ModelPrecision>> {
        match &self.precision {
            PrecisionChoice::Fixed(precision) => Ok(Some(usual(*precision))),
            PrecisionChoice::Plan(path) => read_plan(path, &fingerprint()).map(Some),
            PrecisionChoice::Auto => Ok(None),
        }
    }
}

/// What the manifest of vectors tells of the precision they were computed in.
pub(crate) fn fact(model: &Model) -> Result<(String, Value)> {
    Ok((PRECISION_FACT.to_owned(), serde_json::to_value(model.precision())?))
}

/// The first texts and pictures of a dataset.
pub(crate) fn sample_of(dataset: &Dataset, task: &Task) -> Result<Sample> {
    let items = dataset.items();
    let pictures = items.iter().filter(|item| item.image.is_some()).take(SAMPLE_SIZE);
    let images = pictures.map(|item: &Item| Ok(dataset.image_bytes(item)?));
    Ok(Sample {
        texts: items.iter().filter_map(joined_text).take(SAMPLE_SIZE).collect(),
        task: task.clone(),
        images: images.collect::<Result<_>>()?,
    })
}

/// Says what was chosen for each tower, and why.
fn tell(calibration: &ModelCalibration, console: &Console) {
    for (name, tower) in towers(calibration) {
        console.say(&format!("precision: {name} in {}", sentence(tower)));
    }
}

fn towers(calibration: &ModelCalibration) -> impl Iterator<Item = (&str, &TowerCalibration)> {
    let towers = [("texts", &calibration.text), ("pictures", &calibration.image)];
    towers.into_iter().filter_map(|(name, tower)| Some((name, tower.as_ref()?)))
}

fn sentence(tower: &TowerCalibration) -> String {
    let chosen = tower.chosen();
    let speed = tower.measured[0].seconds / chosen.seconds;
    let name = named(&chosen.precision);
    if chosen.precision.precision == Precision::F32 {
        return format!("{name}: no other is faster and near enough, on {} inputs", tower.n_inputs);
    }
    format!(
        "{name}: {speed:.1} times as fast as f32, cosine {:.4} at least and {:.4} on average, on {} inputs",
        chosen.min_cosine, chosen.mean_cosine, tower.n_inputs
    )
}

/// A precision and how many exceptions it has.
fn named(precision: &TowerPrecision) -> String {
    let name = name(precision.precision);
    match precision.exceptions.first_key_value() {
        None => name.to_owned(),
        Some((_, finer)) => {
            format!("{name}, {} weights in {}", precision.exceptions.len(), self::name(*finer))
        }
    }
}

fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::Int8 => "int8",
    }
}

/// Every precision of every tower in a line, and the exceptions that were chosen.
pub(crate) fn table(calibration: &ModelCalibration) -> Result<String> {
    let mut out = String::new();
    for (name, tower) in towers(calibration) {
        writeln!(out, "\nprecisions of {name}, on {} inputs", tower.n_inputs)?;
        writeln!(
            out,
            "    {:<28} {:>10} {:>9} {:>7} {:>10}",
            "", "cosine min", "mean", "speed", "weights"
        )?;
        for (place, measured) in tower.measured.iter().enumerate() {
            let mark = if place == tower.chosen { '*' } else { ' ' };
            writeln!(out, "  {mark} {}", row(measured, tower.measured[0].seconds))?;
        }
        let exceptions = &tower.chosen().precision.exceptions;
        for (weight, precision) in exceptions {
            writeln!(out, "      {weight} in {}", self::name(*precision))?;
        }
    }
    Ok(out)
}

fn row(measured: &MeasuredPrecision, exact_seconds: f64) -> String {
    format!(
        "{:<28} {:>10.5} {:>9.5} {:>7.2} {:>7.1} MB{}",
        named(&measured.precision),
        measured.min_cosine,
        measured.mean_cosine,
        exact_seconds / measured.seconds,
        measured.packed_bytes as f64 / 1e6,
        if measured.accepted { "" } else { "  too far from f32" }
    )
}
