//! The settings of a training run.
//!
//! In:  a recipe's `[train]` table. Out: [`TrainConfig`], checked as a whole.
//! Not here: models, data, evaluation.

use std::borrow::Cow;

use conjoin_core::Seed;
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamWConfig,
    average::AverageConfig,
    divergence::DivergenceConfig,
    draws::Mixing,
    error::{ConfigError, ConfigFault},
    losses::{
        CoSent, Cosine, InfoNce, Joint, KlDistillation, Loss, LossScalar, MarginMse, Matryoshka,
        MatryoshkaDim, Negatives, Reduction, Sigmoid, TeacherThreshold, Temperatures,
        WeightedInfoNce,
    },
    plateau::{EarlyStopConfig, PlateauConfig},
    schedule::ScheduleConfig,
    trained::TowerConfig,
};

/// Everything that decides a training run (one stage), besides the towers and the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The seed of every random choice; 0 when left out.
    #[serde(default = "seed_zero")]
    pub seed: Seed,
    /// Optimiser steps of the whole run, at least 1.
    pub steps: u64,
    /// What every step learns from, at least one; their losses are summed before one update.
    pub tasks: Vec<TaskConfig>,
    /// What of the text tower is trained.
    #[serde(default)]
    pub text: TowerConfig,
    /// What of the image tower is trained.
    #[serde(default)]
    pub image: TowerConfig,
    /// Inputs a tower takes and holds at once; results change by rounding only.
    #[serde(default)]
    pub chunks: ChunkConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// The most the norm of all gradients may be; larger ones are scaled down. None: no limit.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// A running average of the weights, which is what is evaluated and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageConfig>,
    /// When a loss counts as running away; the run then stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<DivergenceConfig>,
    /// Lowers the learning rate while evaluations do not get better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plateau: Option<PlateauConfig>,
    /// Ends the run when evaluations do not get better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
    /// Which weights the run ends with.
    #[serde(default)]
    pub keep: Keep,
    /// When the state is saved, besides at the end.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// Steps between calls of the observer's evaluation; none: never.
    #[serde(default)]
    pub evaluate_every: Option<u64>,
    /// How batches are prepared while the towers work.
    #[serde(default)]
    pub prefetch: PrefetchConfig,
}

/// Which weights a run ends with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those after the last step.
    #[default]
    Last,
    /// Those of the best evaluation; the last where there was none.
    Best,
}

/// One thing that every step learns from: a batch of its own, a loss of its own with numbers of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Its name in the journal; each once.
    pub name: String,
    /// Queries per step, at least 2.
    pub batch: usize,
    /// Factor on its loss in the sum, above 0.
    #[serde(default = "one")]
    pub weight: f64,
    /// The loss.
    pub loss: LossConfig,
    /// How its sources share its batches.
    #[serde(default)]
    pub mixing: Mixing,
    /// Above which of a teacher's scores a document is no negative of a query: every document of the
    /// batch where the sources have the teacher's vectors, else a query's own hard negatives where they
    /// have its scores; none: no teacher is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherThreshold>,
}

fn one() -> f64 {
    1.0
}

fn seed_zero() -> Seed {
    Seed(0)
}

/// Inputs a tower takes and holds at once. The default suits 16 GiB and towers as large as BERT base and
/// ViT-B/16: about 3 GiB are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChunkConfig {
    /// Of texts.
    pub text: Chunking,
    /// Of images.
    pub image: Chunking,
}

/// How a side of a batch is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunking {
    /// Inputs per pass, at least 1. Small passes stay near the processor's caches.
    pub size: usize,
    /// The most inputs whose intermediate values are held between the two passes; memory grows with
    /// it. Those beyond it run through the tower twice.
    pub held: usize,
}

/// When the training state is saved; never affects the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Every so many steps; none: not by steps.
    pub every_steps: Option<u64>,
    /// When so many seconds have passed since the last; none: not by time.
    pub every_seconds: Option<u64>,
}

/// How batches are prepared ahead; never affects the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefetchConfig {
    /// Threads, at least 1.
    pub threads: usize,
    /// Batches kept ready, at least 1.
    pub ahead: usize,
}

/// The loss between queries (texts) and documents (images).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossConfig {
    /// See [`InfoNce`].
    InfoNce {
        /// How the two directions become one number.
        #[serde(default)]
        reduction: Reduction,
        /// The logarithm of the scale `1/τ`.
        #[serde(default = "ScalarConfig::clip_log_scale")]
        log_scale: ScalarConfig,
        /// Which hard negatives a query is told apart from; all when left out.
        #[serde(default)]
        negatives: Negatives,
    },
    /// See [`WeightedInfoNce`]. Needs grades.
    WeightedInfoNce {
        /// How the two directions become one number.
        #[serde(default)]
        reduction: Reduction,
        /// The logarithm of the scale `1/τ`.
        #[serde(default = "ScalarConfig::clip_log_scale")]
        log_scale: ScalarConfig,
        /// Which hard negatives a query is told apart from; all when left out.
        #[serde(default)]
        negatives: Negatives,
    },
    /// See [`Joint`].
    Joint {
        /// The logarithm of the scale `1/τ`.
        #[serde(default = "ScalarConfig::clip_log_scale")]
        log_scale: ScalarConfig,
    },
    /// See [`Sigmoid`].
    Sigmoid {
        /// The logarithm of the scale `1/τ`.
        #[serde(default = "ScalarConfig::siglip_log_scale")]
        log_scale: ScalarConfig,
        /// Added to every logit.
        #[serde(default = "ScalarConfig::siglip_bias")]
        bias: ScalarConfig,
        /// Which hard negatives a query is judged with; all when left out.
        #[serde(default)]
        negatives: Negatives,
    },
    /// See [`MarginMse`]. Needs a teacher's scores.
    MarginMse {
        /// The logarithm of the factor on inner products; 0 in GPL.
        #[serde(default = "ScalarConfig::unit_log_scale")]
        log_scale: ScalarConfig,
    },
    /// See [`KlDistillation`]. Needs a teacher's scores.
    Kl {
        /// What scores are divided by, above 0.
        temperatures: Temperatures,
    },
    /// See [`CoSent`]. Needs grades.
    Cosent {
        /// The logarithm of the scale `1/τ`; ln 20 in sentence-transformers.
        #[serde(default = "ScalarConfig::cosent_log_scale")]
        log_scale: ScalarConfig,
    },
    /// See [`Cosine`]. Needs grades.
    Cosine {},
    /// See [`Matryoshka`].
    Matryoshka {
        /// The widths, at least one, each once.
        dims: Vec<MatryoshkaDim>,
        /// The loss at each width; any but this one.
        loss: Box<LossConfig>,
    },
}

/// A number of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalarConfig {
    /// Where it starts.
    pub init: f32,
    /// The lowest value after a step.
    pub min: f32,
    /// The highest value after a step.
    pub max: f32,
    /// Whether it is trained.
    pub learned: bool,
}

impl Default for ChunkConfig {
    fn default() -> Self {
        Self { text: Chunking { size: 32, held: 64 }, image: Chunking { size: 16, held: 32 } }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_steps: None, every_seconds: Some(60) }
    }
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self { threads: 1, ahead: 2 }
    }
}

impl ScalarConfig {
    /// CLIP's: starts at `ln(1/0.07)`, stays within `[0, ln 100]`.
    #[must_use]
    pub fn clip_log_scale() -> Self {
        Self { init: (1.0_f32 / 0.07).ln(), min: 0.0, max: 100.0_f32.ln(), learned: true }
    }

    /// SigLIP's scale: starts at `ln 10`, with the bounds of CLIP's.
    #[must_use]
    pub fn siglip_log_scale() -> Self {
        Self { init: 10.0_f32.ln(), ..Self::clip_log_scale() }
    }

    /// SigLIP's bias: starts at -10, so that all pairs begin as what most of them are, no match.
    #[must_use]
    pub fn siglip_bias() -> Self {
        Self { init: -10.0, min: -20.0, max: 20.0, learned: true }
    }

    /// `1/τ` of 20 for ever, as sentence-transformers' CoSENT has it.
    #[must_use]
    pub fn cosent_log_scale() -> Self {
        Self { init: 20.0_f32.ln(), learned: false, ..Self::clip_log_scale() }
    }

    /// Inner products as they are, for ever (GPL).
    #[must_use]
    pub fn unit_log_scale() -> Self {
        Self { init: 0.0, learned: false, ..Self::clip_log_scale() }
    }

    fn check(&self, path: &str, faults: &mut Faults) {
        let Self { init, min, max, .. } = *self;
        let finite = init.is_finite() && min.is_finite() && max.is_finite();
        let in_range = finite && min <= init && init <= max;
        faults.need(&format!("{path}.init"), init, in_range, "between its `min` and `max`");
    }

    fn named(&self, name: &'static str) -> LossScalar {
        let Self { init, min, max, learned } = *self;
        LossScalar { name, init, min, max, learned }
    }
}

impl LossConfig {
    /// The loss itself.
    ///
    /// # Panics
    /// When [`Self::Matryoshka`] has no width or a width of zero, which [`TrainConfig::check`] tells.
    #[must_use]
    pub fn build(&self) -> Box<dyn Loss> {
        match self {
            Self::InfoNce { reduction, log_scale, negatives } => {
                Box::new(info_nce(*reduction, log_scale, *negatives))
            }
            Self::WeightedInfoNce { reduction, log_scale, negatives } => {
                Box::new(WeightedInfoNce::new(info_nce(*reduction, log_scale, *negatives)))
            }
            Self::Joint { log_scale } => Box::new(Joint::new(log_scale.named("log_scale"))),
            Self::Sigmoid { log_scale, bias, negatives } => Box::new(
                Sigmoid::new(log_scale.named("log_scale"), bias.named("bias"))
                    .with_negatives(*negatives),
            ),
            Self::MarginMse { log_scale } => Box::new(MarginMse::new(log_scale.named("log_scale"))),
            Self::Kl { temperatures } => Box::new(KlDistillation::new(*temperatures)),
            Self::Cosent { log_scale } => Box::new(CoSent::new(log_scale.named("log_scale"))),
            Self::Cosine {} => Box::new(Cosine),
            Self::Matryoshka { dims, loss } => {
                Box::new(Matryoshka::new(dims.clone(), loss.build()))
            }
        }
    }

    fn check(&self, path: &str, faults: &mut Faults) {
        match self {
            Self::InfoNce { log_scale, .. }
            | Self::WeightedInfoNce { log_scale, .. }
            | Self::Joint { log_scale }
            | Self::MarginMse { log_scale }
            | Self::Cosent { log_scale } => log_scale.check(&format!("{path}.log_scale"), faults),
            Self::Sigmoid { log_scale, bias, .. } => {
                log_scale.check(&format!("{path}.log_scale"), faults);
                bias.check(&format!("{path}.bias"), faults);
            }
            Self::Kl { temperatures: Temperatures { student, teacher } } => {
                for (name, value) in [("student", *student), ("teacher", *teacher)] {
                    let key = format!("{path}.temperatures.{name}");
                    faults.need(&key, value, positive(value.into()), "a number above 0");
                }
            }
            Self::Cosine {} => {}
            Self::Matryoshka { dims, loss } => {
                check_dims(dims, &format!("{path}.dims"), faults);
                let nested = matches!(**loss, Self::Matryoshka { .. });
                let key = format!("{path}.loss.kind");
                faults.need(&key, "matryoshka", !nested, "another loss");
                loss.check(&format!("{path}.loss"), faults);
            }
        }
    }
}

fn info_nce(reduction: Reduction, log_scale: &ScalarConfig, negatives: Negatives) -> InfoNce {
    InfoNce::new(reduction, log_scale.named("log_scale")).with_negatives(negatives)
}

fn check_dims(dims: &[MatryoshkaDim], path: &str, faults: &mut Faults) {
    faults.need(path, "empty", !dims.is_empty(), "one width or more");
    for (i, MatryoshkaDim { dim, weight }) in dims.iter().enumerate() {
        let fresh = dims[..i].iter().all(|before| before.dim != *dim);
        let (key, fits) = (format!("{path}.{i}.dim"), *dim >= 1 && fresh);
        faults.need(&key, dim, fits, "at least 1, and each width once");
        let key = format!("{path}.{i}.weight");
        faults.need(&key, weight, positive(*weight), "a number above 0");
    }
}

impl TrainConfig {
    /// So many steps of some tasks up to a learning rate, all else as the defaults are.
    #[must_use]
    pub fn new(steps: u64, peak_lr: f64, tasks: Vec<TaskConfig>) -> Self {
        Self {
            seed: seed_zero(),
            steps,
            tasks,
            text: TowerConfig::default(),
            image: TowerConfig::default(),
            chunks: ChunkConfig::default(),
            schedule: ScheduleConfig::new(peak_lr),
            optimizer: AdamWConfig::default(),
            clip_norm: None,
            average: None,
            divergence: None,
            plateau: None,
            early_stop: None,
            keep: Keep::default(),
            checkpoint: CheckpointConfig::default(),
            evaluate_every: None,
            prefetch: PrefetchConfig::default(),
        }
    }

    /// Passes, or tells every setting that cannot be.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        faults.need("steps", self.steps, self.steps >= 1, "at least 1");
        self.check_tasks(&mut faults);
        let sizes = [
            ("chunks.text.size", self.chunks.text.size),
            ("chunks.image.size", self.chunks.image.size),
        ];
        for (key, size) in sizes {
            faults.need(key, size, size >= 1, "at least 1");
        }
        self.check_schedule(&mut faults);
        self.check_optimizer(&mut faults);
        self.check_parts(&mut faults);
        self.check_cadence(&mut faults);
        faults.done()
    }

    fn check_schedule(&self, faults: &mut Faults) {
        let ScheduleConfig { peak_lr, warmup_steps, floor, .. } = self.schedule;
        faults.need("schedule.peak_lr", peak_lr, positive(peak_lr), "a number above 0");
        if let Some(warmup_steps) = warmup_steps {
            let fits = warmup_steps <= self.steps;
            faults.need("schedule.warmup_steps", warmup_steps, fits, "at most `steps`");
        }
        let in_range = (0.0..=1.0).contains(&floor);
        faults.need("schedule.floor", floor, in_range, "between 0 and 1");
    }

    fn check_optimizer(&self, faults: &mut Faults) {
        let AdamWConfig { betas, eps, weight_decay, lr_multipliers } = &self.optimizer;
        for (key, beta) in [("optimizer.betas.0", betas.0), ("optimizer.betas.1", betas.1)] {
            faults.need(key, beta, (0.0..1.0).contains(&beta), "at least 0 and below 1");
        }
        faults.need("optimizer.eps", eps, positive(*eps), "a number above 0");
        let decay = *weight_decay;
        let in_range = decay.is_finite() && decay >= 0.0;
        faults.need("optimizer.weight_decay", decay, in_range, "a number of at least 0");
        for (i, multiplier) in lr_multipliers.iter().enumerate() {
            let factor = multiplier.factor;
            let key = format!("optimizer.lr_multipliers.{i}.factor");
            let in_range = factor.is_finite() && factor >= 0.0;
            faults.need(&key, factor, in_range, "a number of at least 0");
        }
        if let Some(norm) = self.clip_norm {
            faults.need("clip_norm", norm, positive(norm), "a number above 0");
        }
    }

    fn check_tasks(&self, faults: &mut Faults) {
        faults.need("tasks", "empty", !self.tasks.is_empty(), "one task or more");
        for (i, task) in self.tasks.iter().enumerate() {
            let key = format!("tasks.{i}");
            let fresh = self.tasks[..i].iter().all(|before| before.name != task.name);
            let name = format!("`{}`", task.name);
            let fits = fresh && !task.name.is_empty();
            faults.need(&format!("{key}.name"), name, fits, "a name that no other task has");
            faults.need(&format!("{key}.batch"), task.batch, task.batch >= 2, "at least 2");
            let weight = task.weight;
            faults.need(&format!("{key}.weight"), weight, positive(weight), "a number above 0");
            task.loss.check(&format!("{key}.loss"), faults);
            if let Some(teacher) = task.teacher {
                teacher.check(&format!("{key}.teacher"), faults);
            }
        }
    }

    fn check_parts(&self, faults: &mut Faults) {
        let checks = [
            self.text.check("text"),
            self.image.check("image"),
            self.average.as_ref().map_or(Ok(()), |average| average.check("average")),
            self.divergence.as_ref().map_or(Ok(()), |divergence| divergence.check("divergence")),
            self.plateau.as_ref().map_or(Ok(()), |plateau| plateau.check("plateau")),
            self.early_stop.as_ref().map_or(Ok(()), |stop| stop.check("early_stop")),
        ];
        faults.0.extend(checks.into_iter().filter_map(Result::err).flat_map(|e| e.faults));
        let watches =
            self.plateau.is_some() || self.early_stop.is_some() || self.keep == Keep::Best;
        let fits = !watches || self.evaluate_every.is_some();
        let expected = "a number of steps where `plateau`, `early_stop` or `keep = \"best\"` look at evaluations";
        faults.need("evaluate_every", "left out", fits, expected);
    }

    fn check_cadence(&self, faults: &mut Faults) {
        let every = [
            ("checkpoint.every_steps", self.checkpoint.every_steps),
            ("checkpoint.every_seconds", self.checkpoint.every_seconds),
            ("evaluate_every", self.evaluate_every),
        ];
        for (key, every) in every {
            if let Some(every) = every {
                faults.need(key, every, every >= 1, "at least 1");
            }
        }
        let PrefetchConfig { threads, ahead } = self.prefetch;
        faults.need("prefetch.threads", threads, threads >= 1, "at least 1");
        faults.need("prefetch.ahead", ahead, ahead >= 1, "at least 1");
    }
}

pub(crate) fn positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

/// The faults found so far.
#[derive(Default)]
pub(crate) struct Faults(Vec<ConfigFault>);

impl Faults {
    /// Notes a fault unless the value fits.
    pub(crate) fn need(
        &mut self,
        key: &str,
        found: impl ToString,
        fits: bool,
        expected: impl Into<Cow<'static, str>>,
    ) {
        if !fits {
            let (key, found, expected) = (key.to_owned(), found.to_string(), expected.into());
            self.0.push(ConfigFault { key, found, expected });
        }
    }

    /// Passes when there is none.
    pub(crate) fn done(self) -> Result<(), ConfigError> {
        if self.0.is_empty() { Ok(()) } else { Err(ConfigError { faults: self.0 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, info_nce, task};

    #[test]
    fn tells_all_faults_at_once() {
        let mut config = config();
        config.check().unwrap();
        config.tasks[0].batch = 1;
        config.optimizer.betas.1 = 1.0;
        config.schedule.peak_lr = f64::NAN;
        config.checkpoint.every_steps = Some(0);
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "`tasks.0.batch` is 1, it must be at least 2; \
             `schedule.peak_lr` is NaN, it must be a number above 0; \
             `optimizer.betas.1` is 1, it must be at least 0 and below 1; \
             `checkpoint.every_steps` is 0, it must be at least 1"
        );
    }

    fn scalar() -> ScalarConfig {
        ScalarConfig::clip_log_scale()
    }

    #[test]
    fn tells_the_faults_of_a_loss_by_their_keys() {
        let faults = |loss| {
            let config = TrainConfig { tasks: vec![task("pairs", 8, loss)], ..config() };
            config.check().unwrap_err().to_string()
        };
        let temperatures = Temperatures { student: 0.0, teacher: f32::INFINITY };
        assert_eq!(
            faults(LossConfig::Kl { temperatures }),
            "`tasks.0.loss.temperatures.student` is 0, it must be a number above 0; \
             `tasks.0.loss.temperatures.teacher` is inf, it must be a number above 0"
        );
        let wrong = ScalarConfig { init: 9.0, ..scalar() };
        let dims = [(8, 1.0), (0, 1.0), (8, -1.0)];
        let dims = dims.map(|(dim, weight)| MatryoshkaDim { dim, weight }).to_vec();
        let loss = Box::new(LossConfig::Joint { log_scale: wrong });
        assert_eq!(
            faults(LossConfig::Matryoshka { dims, loss }),
            "`tasks.0.loss.dims.1.dim` is 0, it must be at least 1, and each width once; \
             `tasks.0.loss.dims.2.dim` is 8, it must be at least 1, and each width once; \
             `tasks.0.loss.dims.2.weight` is -1, it must be a number above 0; \
             `tasks.0.loss.loss.log_scale.init` is 9, it must be between its `min` and `max`"
        );
        let nested = LossConfig::Matryoshka { dims: Vec::new(), loss: Box::new(info_nce()) };
        let dims = vec![MatryoshkaDim { dim: 8, weight: 1.0 }];
        assert_eq!(
            faults(LossConfig::Matryoshka { dims, loss: Box::new(nested) }),
            "`tasks.0.loss.loss.kind` is matryoshka, it must be another loss; \
             `tasks.0.loss.loss.dims` is empty, it must be one width or more"
        );
        let mut twins = config();
        twins.tasks.push(twins.tasks[0].clone());
        twins.keep = Keep::Best;
        assert_eq!(
            twins.check().unwrap_err().to_string(),
            "`tasks.1.name` is `pairs`, it must be a name that no other task has; \
             `evaluate_every` is left out, it must be a number of steps where `plateau`, `early_stop` \
             or `keep = \"best\"` look at evaluations"
        );
    }

    #[test]
    fn every_loss_is_written_and_read_back() {
        let (log_scale, bias, negatives) = (scalar(), scalar(), Negatives::Own);
        let reduction = Reduction::OneWay;
        let dims = vec![MatryoshkaDim { dim: 8, weight: 0.5 }];
        let temperatures = Temperatures { student: 0.05, teacher: 1.0 };
        let info_nce = LossConfig::InfoNce { reduction, log_scale: scalar(), negatives };
        let losses = [
            (LossConfig::WeightedInfoNce { reduction, log_scale, negatives }, "weighted_info_nce"),
            (LossConfig::Joint { log_scale: scalar() }, "joint"),
            (LossConfig::Sigmoid { log_scale: scalar(), bias, negatives }, "sigmoid"),
            (LossConfig::MarginMse { log_scale: scalar() }, "margin_mse"),
            (LossConfig::Kl { temperatures }, "kl"),
            (LossConfig::Cosent { log_scale: scalar() }, "cosent"),
            (LossConfig::Cosine {}, "cosine"),
            (LossConfig::Matryoshka { dims, loss: Box::new(info_nce.clone()) }, "matryoshka"),
            (info_nce, "info_nce"),
        ];
        for (loss, kind) in losses {
            let mut json = serde_json::to_value(&loss).unwrap();
            assert_eq!(json["kind"], kind);
            assert_eq!(serde_json::from_value::<LossConfig>(json.clone()).unwrap(), loss);
            json["biass"] = 1.into();
            let error = serde_json::from_value::<LossConfig>(json).unwrap_err().to_string();
            assert!(error.contains("unknown field `biass`"), "{kind}: {error}");
        }
    }

    #[test]
    fn all_hard_negatives_count_when_not_told() {
        let mut json = serde_json::to_value(info_nce()).unwrap();
        json.as_object_mut().unwrap().remove("negatives").unwrap();
        assert_eq!(serde_json::from_value::<LossConfig>(json).unwrap(), info_nce());
    }

    #[test]
    fn what_is_left_out_is_as_the_defaults_are() {
        let json = r#"{ "steps": 20, "schedule": { "peak_lr": 0.5 },
            "tasks": [{ "name": "pairs", "batch": 8, "loss": { "kind": "info_nce" } }] }"#;
        let read: TrainConfig = serde_json::from_str(json).unwrap();
        assert_eq!(read, TrainConfig::new(20, 0.5, vec![task("pairs", 8, info_nce())]));
        read.check().unwrap();
        assert_eq!(read.schedule.lr(0, 20), 0.25, "two steps of warm-up");
        let kinds = ["info_nce", "weighted_info_nce", "joint", "sigmoid", "margin_mse", "cosent"];
        for kind in kinds {
            let loss: LossConfig =
                serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
            let mut faults = Faults::default();
            loss.check("loss", &mut faults);
            faults.done().unwrap();
        }
    }

    #[test]
    fn refuses_unknown_settings() {
        let mut json = serde_json::to_value(config()).unwrap();
        assert_eq!(serde_json::from_value::<TrainConfig>(json.clone()).unwrap(), config());
        json["tasks"][0]["loss"]["reducton"] = "one_way".into();
        let error = serde_json::from_value::<TrainConfig>(json).unwrap_err().to_string();
        assert!(error.contains("unknown field `reducton`"), "{error}");
    }
}
