//! A training recipe: data, start, augmentation, training settings, as one TOML file.
//!
//! In:  the file and `--set KEY=VALUE`. Out: a checked [`Recipe`]; unknown keys are errors.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use conjoin_core::hash_bytes;
use conjoin_input::{Augment, CropRange};
use conjoin_model::Model;
use conjoin_train::{
    AdamWConfig, CheckpointConfig, ChunkConfig, Chunking, Decay, LossConfig, LrMultiplier,
    Negatives, PrefetchConfig, Reduction, ScalarConfig, ScheduleConfig, TrainConfig,
};
use serde::{Deserialize, Serialize};

use crate::start::Start;

/// Everything that decides a trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// The dataset's folder.
    pub data: PathBuf,
    /// Where the run (`train/`) and the checkpoint (`model/`) go.
    pub out: PathBuf,
    /// What training starts from.
    pub start: Start,
    /// What stands before a text, by task; instead of the start's own prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<BTreeMap<String, String>>,
    /// Parameters whose name starts with one of these are not trained (`image.stem`).
    pub freeze: Vec<String>,
    /// Probability of training on an item's first text field alone instead of all joined, 0 to 1.
    pub title_share: f32,
    /// Random changes of the pictures.
    pub augment: Augment,
    /// Loss, optimiser, schedule.
    pub train: TrainConfig,
}

impl Recipe {
    /// Reads a recipe and applies overrides.
    pub(crate) fn read(path: &Path, set: &[String]) -> Result<Self> {
        let text = fs_err::read_to_string(path)?;
        let mut table: toml::Table =
            text.parse().with_context(|| format!("`{}` is not valid TOML", path.display()))?;
        for assignment in set {
            apply(&mut table, assignment)?;
        }
        let recipe: Self =
            table.try_into().with_context(|| format!("`{}` is not a recipe", path.display()))?;
        recipe.check().with_context(|| format!("in `{}`", path.display()))?;
        Ok(recipe)
    }

    /// Passes when every value is in its range.
    pub(crate) fn check(&self) -> Result<()> {
        self.train.check().context("in `[train]`")?;
        self.augment.check().context("in `[augment]`")?;
        if !(0.0..=1.0).contains(&self.title_share) {
            bail!("`title_share` is {}, it must be 0 to 1", self.title_share);
        }
        Ok(())
    }

    /// Makes the model that training starts from.
    pub(crate) fn start_model(&self) -> Result<Model> {
        let model = self.start.build(self.train.seed)?;
        match &self.prompts {
            None => Ok(model),
            Some(prompts) => Ok(model.with_prompts(prompts.clone())?),
        }
    }

    /// The recipe as TOML, every value resolved.
    pub(crate) fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// SHA-256 of all that decides the model; where it is written does not.
    pub(crate) fn hash(&self) -> Result<String> {
        let deciding = Self { out: PathBuf::new(), ..self.clone() };
        Ok(hash_bytes(&serde_json::to_vec(&deciding)?))
    }
}

/// Sets `a.b.c=value` in a table; the value is read as TOML, else as a string.
fn apply(table: &mut toml::Table, assignment: &str) -> Result<()> {
    let (key, value) = assignment
        .split_once('=')
        .ok_or_else(|| anyhow!("`--set {assignment}` is not `KEY=VALUE`"))?;
    let parsed = format!("v = {value}").parse::<toml::Table>();
    let value = match parsed {
        Ok(mut table) => table.remove("v").unwrap_or_else(|| value.into()),
        Err(_) => value.into(),
    };
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or_default();
    let mut inner = table;
    for part in path {
        inner = inner
            .entry(part)
            .or_insert_with(|| toml::Table::new().into())
            .as_table_mut()
            .ok_or_else(|| anyhow!("`--set {assignment}`: `{part}` is not a table"))?;
    }
    inner.insert(last.to_owned(), value);
    Ok(())
}

/// The settings that adapting a model to a catalogue varies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub seed: u64,
    pub epochs: f64,
    pub batch: usize,
    pub lr: f64,
    /// Factor on the learning rate of pretrained towers.
    pub pretrained_lr: f64,
    /// Pairs to train on.
    pub n_pairs: usize,
}

impl Plan {
    /// The settings of training for this plan. A start that is pretrained learns slower than the new
    /// parts.
    pub(crate) fn train_config(&self, slow: &[&str]) -> TrainConfig {
        let batch = self.batch.clamp(2, self.n_pairs.max(2));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of steps is positive and small"
        )]
        let steps = ((self.epochs * self.n_pairs as f64 / batch as f64).ceil() as u64).max(1);
        let lr_multipliers = slow
            .iter()
            .map(|prefix| LrMultiplier { prefix: (*prefix).to_owned(), factor: self.pretrained_lr })
            .chain([LrMultiplier { prefix: "image.projection.".to_owned(), factor: 1.0 }])
            .collect();
        TrainConfig {
            seed: conjoin_core::Seed(self.seed),
            steps,
            batch,
            chunks: ChunkConfig {
                text: Chunking { size: batch, held: batch },
                image: Chunking { size: batch.min(128), held: batch.min(128) },
            },
            schedule: ScheduleConfig {
                peak_lr: self.lr,
                warmup_steps: steps / 10,
                decay: Decay::Cosine,
                floor: 0.0,
            },
            optimizer: AdamWConfig {
                betas: (0.9, 0.98),
                eps: 1e-6,
                weight_decay: 0.05,
                lr_multipliers,
            },
            clip_norm: Some(1.0),
            loss: LossConfig::InfoNce {
                reduction: Reduction::SymmetricMean,
                negatives: Negatives::All,
                log_scale: ScalarConfig::clip_log_scale(),
            },
            checkpoint: CheckpointConfig { every_steps: None, every_seconds: Some(60) },
            evaluate_every: Some((steps / 5).max(1)),
            prefetch: PrefetchConfig { threads: 1, ahead: 2 },
        }
    }
}

/// Random changes that keep a product's colours.
pub(crate) fn product_augment() -> Augment {
    Augment {
        crop: Some(CropRange { scale: [0.5, 1.0], ratio: [0.8, 1.25] }),
        flip: 0.5,
        brightness: 0.2,
        contrast: 0.2,
        saturation: 0.2,
        colour_cast: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_reach_into_tables() {
        let mut table: toml::Table = "[train]\nsteps = 5".parse().unwrap();
        apply(&mut table, "train.steps=7").unwrap();
        apply(&mut table, "data=some/folder").unwrap();
        assert_eq!(table.to_string(), "data = \"some/folder\"\n\n[train]\nsteps = 7\n");
        let error = apply(&mut table, "train.steps.x=1").unwrap_err();
        assert_eq!(error.to_string(), "`--set train.steps.x=1`: `steps` is not a table");
    }
}
