//! A training recipe: what training starts from, and its stages with their tasks and data, as one TOML file.
//!
//! In:  the file and `--set KEY=VALUE`. Out: a checked [`Recipe`]; unknown keys are errors.
//! A stage takes what it does not say itself from the table `[train]`; a file without `[[stage]]` has one
//! stage, which is that table.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use conjoin_core::{Seed, Stop, hash_bytes};
use conjoin_engine::Precision;
use conjoin_input::{Augment, CropRange, PatchDropout};
use conjoin_model::{ImageSpec, Model};
use conjoin_train::{
    AdamWConfig, AverageConfig, CheckpointConfig, ChunkConfig, Chunking, Decay, DivergenceConfig,
    EarlyStopConfig, Keep, LossConfig, LrMultiplier, Mixing, Negatives, PlateauConfig,
    PrefetchConfig, Reduction, ScalarConfig, ScheduleConfig, Source, TaskConfig, TowerConfig,
    TrainConfig, Weighted,
};
use serde::{Deserialize, Serialize};

use crate::{
    console::Console,
    measures::MeasureConfig,
    sources::{DataConfig, TeacherConfig},
    start::Start,
};

/// Everything that decides a trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Where the runs (`train/`) and the checkpoint (`model/`) go.
    pub out: PathBuf,
    /// What stands before a text, by task; instead of the start's own prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<BTreeMap<String, String>>,
    /// What training starts from.
    pub start: Start,
    /// What is measured during training and after every stage.
    #[serde(default, rename = "measure", skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<MeasureConfig>,
    /// The stages, each from where the one before ended.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// One stage: its tasks with their data, and how it trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    /// Its name, and that of its folder.
    #[serde(default = "only_stage")]
    pub name: String,
    /// The seed of every random choice.
    #[serde(default = "seed_zero")]
    pub seed: Seed,
    /// Optimiser steps.
    pub steps: u64,
    /// The most tokens a text is read to; the start's own limit where it is lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Side of the pictures in pixels from this stage on; for image towers that take any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// What products are computed of; weights, sums and the optimiser are `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// The same of the image tower alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_precision: Option<Precision>,
    /// Probability of leaving a token out, 0 to below 1.
    #[serde(default)]
    pub token_dropout: f32,
    /// Share of the patches of each picture that is left out, 0 to below 1 (FLIP).
    #[serde(default)]
    pub patch_dropout: f64,
    /// Most that the norm of all gradients may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Steps between measurements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate_every: Option<u64>,
    /// Which weights the stage ends with.
    #[serde(default)]
    pub keep: Keep,
    /// How much of the way from the start's weights to the trained ones is gone, measured on held-out
    /// data: the best of these shares (WiSE-FT); empty: all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interpolate: Vec<f32>,
    /// Random changes of the pictures.
    #[serde(default = "Augment::none")]
    pub augment: Augment,
    /// What of the text tower is trained.
    #[serde(default)]
    pub text: TowerConfig,
    /// What of the image tower is trained.
    #[serde(default)]
    pub image: TowerConfig,
    /// Inputs a tower takes and holds at once.
    #[serde(default)]
    pub chunks: ChunkConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// A running average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageConfig>,
    /// When a loss counts as running away; `{}` for the usual rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<DivergenceConfig>,
    /// Lowers the learning rate while figures do not get better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plateau: Option<PlateauConfig>,
    /// Ends the stage when figures do not get better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// How batches are prepared ahead.
    #[serde(default)]
    pub prefetch: PrefetchConfig,
    /// What every step learns from.
    #[serde(rename = "task")]
    pub tasks: Vec<StageTask>,
}

fn only_stage() -> String {
    "train".to_owned()
}

fn seed_zero() -> Seed {
    Seed(0)
}

fn only_task() -> String {
    "pairs".to_owned()
}

/// Enough negatives to learn from, few enough for a small machine.
const USUAL_BATCH: usize = 128;

/// A task with its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageTask {
    /// Its name in the journal. A task of the same name in a later stage goes on with its numbers.
    #[serde(default = "only_task")]
    pub name: String,
    /// Queries per step; left out: [`USUAL_BATCH`], or all pairs where there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Factor on its loss.
    #[serde(default = "one")]
    pub weight: f64,
    /// How its data share its batches.
    #[serde(default)]
    pub mixing: Mixing,
    /// Whose scores tell that documents of the batch are no negatives of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// The loss.
    pub loss: LossConfig,
    /// What it reads.
    pub data: Vec<DataConfig>,
}

fn one() -> f64 {
    1.0
}

impl StageTask {
    /// Whether it brings texts and pictures together.
    pub(crate) fn is_text_image(&self) -> bool {
        self.data.iter().any(DataConfig::is_text_image)
    }
}

impl Stage {
    /// What the trainer needs to know.
    pub(crate) fn train_config(&self) -> TrainConfig {
        let task = |task: &StageTask| TaskConfig {
            name: task.name.clone(),
            batch: task.batch.unwrap_or(USUAL_BATCH),
            weight: task.weight,
            loss: task.loss.clone(),
            mixing: task.mixing,
            teacher: task.teacher.as_ref().and_then(|teacher| teacher.threshold().ok()),
        };
        TrainConfig {
            seed: self.seed,
            steps: self.steps,
            tasks: self.tasks.iter().map(task).collect(),
            text: self.text.clone(),
            image: self.image.clone(),
            chunks: self.chunks.clone(),
            schedule: self.schedule.clone(),
            optimizer: self.optimizer.clone(),
            clip_norm: self.clip_norm,
            average: self.average,
            divergence: self.divergence,
            plateau: self.plateau,
            early_stop: self.early_stop,
            keep: self.keep,
            checkpoint: self.checkpoint.clone(),
            evaluate_every: self.evaluate_every,
            prefetch: self.prefetch.clone(),
        }
    }

    /// The same for data: a batch that the recipe does not tell has at most all their pairs.
    pub(crate) fn train_config_on<S: Source>(&self, data: &[Vec<Weighted<'_, S>>]) -> TrainConfig {
        let mut config = self.train_config();
        for ((known, task), data) in config.tasks.iter_mut().zip(&self.tasks).zip(data) {
            let pairs = data.iter().map(|weighted| weighted.source.len()).min();
            if let (None, Some(pairs)) = (task.batch, pairs) {
                known.batch = known.batch.min(pairs.max(2));
            }
        }
        config
    }

    /// How patches are left out of pictures of an image tower.
    pub(crate) fn patch_dropout_of(&self, image: &ImageSpec) -> Result<PatchDropout> {
        let share = self.patch_dropout;
        match image.n_patches() {
            _ if share == 0.0 => Ok(PatchDropout::none()),
            Some(n_patches) => Ok(PatchDropout::new(share, n_patches)),
            None => bail!(
                "`patch_dropout` is {share}, it must be 0: the image tower has no patches that could be \
                 left out; a vision transformer has"
            ),
        }
    }

    fn check(&self) -> Result<()> {
        for task in &self.tasks {
            let threshold = task.teacher.as_ref().map(TeacherConfig::threshold).transpose();
            threshold.with_context(|| format!("in task `{}`", task.name))?;
        }
        self.train_config().check()?;
        self.augment.check().context("in `augment`")?;
        if !(0.0..1.0).contains(&self.token_dropout) {
            bail!("`token_dropout` is {}, it must be at least 0 and below 1", self.token_dropout);
        }
        if !(0.0..1.0).contains(&self.patch_dropout) {
            bail!("`patch_dropout` is {}, it must be at least 0 and below 1", self.patch_dropout);
        }
        if [Some(self.precision), self.image_precision].contains(&Some(Precision::Int8)) {
            bail!(
                "`precision` is int8, it must be f32 or bf16: bytes are too coarse for gradients"
            );
        }
        if self.max_tokens == Some(0) {
            bail!("`max_tokens` is 0, it must be at least 1");
        }
        if let Some(share) = self.interpolate.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            bail!("`interpolate` has {share}, it must be shares from 0 to 1");
        }
        let plain = self.name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
        if self.name.is_empty() || !plain {
            bail!("`name` is `{}`, it must be letters, digits, `-` and `_`", self.name);
        }
        Ok(())
    }
}

impl Recipe {
    /// Reads a recipe and applies overrides.
    ///
    /// In `smoke`, what the table `[smoke]` says holds for every stage and every task, so that a recipe for
    /// much data and many machines can be tried on little of both.
    pub(crate) fn read(path: &Path, set: &[String], smoke: bool) -> Result<Self> {
        let text = fs_err::read_to_string(path)?;
        let mut table: toml::Table =
            text.parse().with_context(|| format!("`{}` is not valid TOML", path.display()))?;
        for assignment in set {
            apply(&mut table, assignment)?;
        }
        let not = || format!("`{}` is not a recipe", path.display());
        let small = table.remove("smoke");
        share(&mut table).with_context(not)?;
        if smoke {
            let small = small.with_context(|| format!("`{}` has no `[smoke]`", path.display()))?;
            shrink(&mut table, small).with_context(not)?;
        }
        let recipe: Self = table.try_into().with_context(not)?;
        recipe.check().with_context(|| format!("in `{}`", path.display()))?;
        Ok(recipe)
    }

    /// Passes when every value is in its range.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stages.is_empty() {
            bail!("`stage` is empty, there must be one or more");
        }
        for (i, stage) in self.stages.iter().enumerate() {
            stage.check().with_context(|| format!("in stage `{}`", stage.name))?;
            if self.stages[..i].iter().any(|before| before.name == stage.name) {
                bail!("two stages are called `{}`", stage.name);
            }
            let measures = stage.evaluate_every.is_some() || !stage.interpolate.is_empty();
            if measures && !self.measures.iter().any(MeasureConfig::during) {
                bail!("stage `{}` is to be measured, but no `[[measure]]` is `during`", stage.name);
            }
        }
        Ok(())
    }

    /// What is wrong with shards that tasks stream and with their teachers' folders, in words: found now,
    /// not when a later stage begins.
    pub(crate) fn missing_data(&self) -> Vec<String> {
        let tasks =
            self.stages.iter().flat_map(|stage| stage.tasks.iter().map(move |task| (stage, task)));
        let faults = tasks.flat_map(|(stage, task)| {
            let shards = task.data.iter().filter_map(|data| data.shards.as_ref());
            let shards =
                shards.filter_map(|shards| shards.check().err()).map(|error| anyhow!(error));
            let teacher = task.teacher.as_ref().and_then(|teacher| teacher.check_folder().err());
            shards.chain(teacher).map(move |error| {
                format!("task `{}` of stage `{}`: {error:#}", task.name, stage.name)
            })
        });
        faults.collect()
    }

    /// Finds the models it names, so that a run that is resumed begins with the same ones.
    pub(crate) fn find_models(&mut self, console: &Console, stop: &Stop) -> Result<()> {
        self.start = self.start.clone().found(console, stop)?;
        for stage in &mut self.stages {
            for task in &mut stage.tasks {
                let found = task.teacher.as_mut().map(|teacher| teacher.find(console, stop));
                found.transpose().with_context(|| {
                    format!("in task `{}` of stage `{}`", task.name, stage.name)
                })?;
            }
        }
        Ok(())
    }

    /// The seed of what is made before the first stage.
    pub(crate) fn seed(&self) -> Seed {
        self.stages.first().map_or(Seed(0), |stage| stage.seed)
    }

    /// Makes the model that training starts from.
    pub(crate) fn start_model(&self) -> Result<Model> {
        let model = self.start.build(self.seed())?;
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

    /// The same up to and with a stage: what decides that stage's model.
    pub(crate) fn up_to(&self, stage: usize) -> Self {
        Self { stages: self.stages[..=stage].to_vec(), ..self.clone() }
    }
}

/// Gives every stage what it does not say itself from `[train]`.
fn share(table: &mut toml::Table) -> Result<()> {
    let Some(shared) = table.remove("train") else { return Ok(()) };
    let toml::Value::Table(shared) = shared else { bail!("`train` is not a table") };
    let stages = match table.remove("stage") {
        None => vec![toml::Value::Table(shared)],
        Some(toml::Value::Array(stages)) => stages
            .into_iter()
            .map(|stage| merged(toml::Value::Table(shared.clone()), stage))
            .collect(),
        Some(_) => bail!("`stage` is not a list of tables: write `[[stage]]`"),
    };
    table.insert("stage".to_owned(), stages.into());
    Ok(())
}

/// Puts `stage` of the table `[smoke]` into every stage, `task` into every task, and the rest in the place of
/// what the recipe says.
fn shrink(table: &mut toml::Table, small: toml::Value) -> Result<()> {
    let toml::Value::Table(mut small) = small else { bail!("`smoke` is not a table") };
    let (of_stage, of_task) = (small.remove("stage"), small.remove("task"));
    table.extend(small);
    let empty = || toml::Value::Table(toml::Table::new());
    let (of_stage, of_task) = (of_stage.unwrap_or_else(empty), of_task.unwrap_or_else(empty));
    let each = |list: Option<&mut toml::Value>, change: &dyn Fn(&mut toml::Value)| {
        if let Some(toml::Value::Array(list)) = list {
            list.iter_mut().for_each(change);
        }
    };
    each(table.get_mut("stage"), &|stage| {
        *stage = merged(stage.clone(), of_stage.clone());
        let tasks = stage.as_table_mut().and_then(|stage| stage.get_mut("task"));
        each(tasks, &|task| *task = merged(task.clone(), of_task.clone()));
    });
    Ok(())
}

/// Tables are joined, everything else is replaced. A loss, an enum by its `kind`, is replaced whole.
fn merged(below: toml::Value, above: toml::Value) -> toml::Value {
    match (below, above) {
        (toml::Value::Table(mut below), toml::Value::Table(above))
            if !above.contains_key("kind") =>
        {
            for (key, value) in above {
                let value = match below.remove(&key) {
                    Some(old) => merged(old, value),
                    None => value,
                };
                below.insert(key, value);
            }
            toml::Value::Table(below)
        }
        (_, above) => above,
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
        let entry = inner.entry(part).or_insert_with(|| toml::Table::new().into());
        let table = if entry.is_array() {
            entry.as_array_mut().and_then(|list| list.last_mut()?.as_table_mut())
        } else {
            entry.as_table_mut()
        };
        // Of a list of tables the last is meant.
        inner = table.ok_or_else(|| anyhow!("`--set {assignment}`: `{part}` is not a table"))?;
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
    /// One stage for this plan. A start that is pretrained learns slower than the new parts.
    pub(crate) fn stage(&self, slow: &[&str], data: &Path, augment: Augment) -> Stage {
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
        Stage {
            name: only_stage(),
            seed: Seed(self.seed),
            steps,
            max_tokens: None,
            image_size: None,
            precision: Precision::F32,
            image_precision: None,
            token_dropout: 0.0,
            patch_dropout: 0.0,
            clip_norm: Some(1.0),
            evaluate_every: Some((steps / 5).max(1)),
            keep: Keep::Last,
            interpolate: Vec::new(),
            augment,
            text: TowerConfig::default(),
            image: TowerConfig::default(),
            chunks: ChunkConfig {
                text: Chunking { size: batch, held: batch },
                image: Chunking { size: batch.min(128), held: batch.min(128) },
            },
            schedule: ScheduleConfig {
                peak_lr: self.lr,
                warmup_steps: Some(steps / 10),
                decay: Decay::Cosine,
                floor: 0.0,
            },
            optimizer: AdamWConfig { lr_multipliers, ..AdamWConfig::default() },
            average: None,
            divergence: None,
            plateau: None,
            early_stop: None,
            checkpoint: CheckpointConfig::default(),
            prefetch: PrefetchConfig::default(),
            tasks: vec![StageTask {
                name: "text_image".to_owned(),
                batch: Some(batch),
                weight: 1.0,
                mixing: Mixing::Homogeneous,
                teacher: None,
                loss: LossConfig::InfoNce {
                    reduction: Reduction::SymmetricMean,
                    negatives: Negatives::All,
                    log_scale: ScalarConfig::clip_log_scale(),
                },
                data: vec![DataConfig::titles_and_pictures(data)],
            }],
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
