//! The settings of a training run.
//!
//! In:  a recipe's `[train]` table. Out: [`TrainConfig`], checked as a whole.
//! Not here: models, data, evaluation.

use conjoin_core::Seed;
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamWConfig,
    error::{ConfigError, ConfigFault},
    losses::{
        CoSent, Cosine, InfoNce, Joint, KlDistillation, LabelKind, Loss, LossScalar, MarginMse,
        Matryoshka, MatryoshkaDim, Negatives, Reduction, Sigmoid, Temperatures, WeightedInfoNce,
    },
    schedule::ScheduleConfig,
};

/// Everything that decides a training run, besides the towers and the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The seed of every random choice.
    pub seed: Seed,
    /// Optimiser steps of the whole run, at least 1.
    pub steps: u64,
    /// Pairs per step, at least 2.
    pub batch: usize,
    /// Inputs a tower takes and holds at once; results change by rounding only.
    pub chunks: ChunkConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The optimiser.
    pub optimizer: AdamWConfig,
    /// The most the norm of all gradients may be; larger ones are scaled down. None: no limit.
    pub clip_norm: Option<f64>,
    /// The loss between texts and images.
    pub loss: LossConfig,
    /// When the state is saved, besides at the end.
    pub checkpoint: CheckpointConfig,
    /// Steps between calls of the observer's evaluation; none: never.
    pub evaluate_every: Option<u64>,
    /// How batches are prepared while the towers work.
    pub prefetch: PrefetchConfig,
}

/// Inputs a tower takes and holds at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
        reduction: Reduction,
        /// The logarithm of the scale `1/τ`.
        log_scale: ScalarConfig,
        /// Which hard negatives a query is told apart from; all when left out.
        #[serde(default)]
        negatives: Negatives,
    },
    /// See [`WeightedInfoNce`]. Needs grades.
    WeightedInfoNce {
        /// How the two directions become one number.
        reduction: Reduction,
        /// The logarithm of the scale `1/τ`.
        log_scale: ScalarConfig,
        /// Which hard negatives a query is told apart from; all when left out.
        #[serde(default)]
        negatives: Negatives,
    },
    /// See [`Joint`].
    Joint {
        /// The logarithm of the scale `1/τ`.
        log_scale: ScalarConfig,
    },
    /// See [`Sigmoid`].
    Sigmoid {
        /// The logarithm of the scale `1/τ`.
        log_scale: ScalarConfig,
        /// Added to every logit.
        bias: ScalarConfig,
        /// Which hard negatives a query is judged with; all when left out.
        #[serde(default)]
        negatives: Negatives,
    },
    /// See [`MarginMse`]. Needs a teacher's scores.
    MarginMse {
        /// The logarithm of the factor on inner products; 0 in GPL.
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

impl ScalarConfig {
    /// CLIP's: starts at `ln(1/0.07)`, stays within `[0, ln 100]`.
    #[must_use]
    pub fn clip_log_scale() -> Self {
        Self { init: (1.0_f32 / 0.07).ln(), min: 0.0, max: 100.0_f32.ln(), learned: true }
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
    /// Passes, or tells every setting that cannot be.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        faults.need("steps", self.steps, self.steps >= 1, "at least 1");
        faults.need("batch", self.batch, self.batch >= 2, "at least 2");
        let sizes = [
            ("chunks.text.size", self.chunks.text.size),
            ("chunks.image.size", self.chunks.image.size),
        ];
        for (key, size) in sizes {
            faults.need(key, size, size >= 1, "at least 1");
        }
        self.check_schedule(&mut faults);
        self.check_optimizer(&mut faults);
        self.check_loss(&mut faults);
        self.check_cadence(&mut faults);
        faults.done()
    }

    fn check_schedule(&self, faults: &mut Faults) {
        let ScheduleConfig { peak_lr, warmup_steps, floor, .. } = self.schedule;
        faults.need("schedule.peak_lr", peak_lr, positive(peak_lr), "a number above 0");
        let fits = warmup_steps <= self.steps;
        faults.need("schedule.warmup_steps", warmup_steps, fits, "at most `steps`");
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

    fn check_loss(&self, faults: &mut Faults) {
        let n_before = faults.0.len();
        self.loss.check("loss", faults);
        if faults.0.len() == n_before {
            let loss = self.loss.build();
            // Batches of the trainer are pairs without labels and without hard negatives.
            let needs = loss.needs();
            let without = needs == LabelKind::None && loss.min_negatives() == 0;
            let found = match needs {
                LabelKind::None => "one of hard negatives",
                LabelKind::Grades => "one of grades",
                LabelKind::TeacherScores => "one of a teacher's scores",
            };
            faults.need("loss.kind", found, without, "a loss of pairs alone");
        }
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
        expected: &'static str,
    ) {
        if !fits {
            self.0.push(ConfigFault { key: key.to_owned(), found: found.to_string(), expected });
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
    use crate::testing::config;

    #[test]
    fn tells_all_faults_at_once() {
        let mut config = config();
        config.check().unwrap();
        config.batch = 1;
        config.optimizer.betas.1 = 1.0;
        config.schedule.peak_lr = f64::NAN;
        config.checkpoint.every_steps = Some(0);
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "`batch` is 1, it must be at least 2; \
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
            let config = TrainConfig { loss, ..config() };
            config.check().unwrap_err().to_string()
        };
        let temperatures = Temperatures { student: 0.0, teacher: f32::INFINITY };
        assert_eq!(
            faults(LossConfig::Kl { temperatures }),
            "`loss.temperatures.student` is 0, it must be a number above 0; \
             `loss.temperatures.teacher` is inf, it must be a number above 0"
        );
        let wrong = ScalarConfig { init: 9.0, ..scalar() };
        let dims = [(8, 1.0), (0, 1.0), (8, -1.0)];
        let dims = dims.map(|(dim, weight)| MatryoshkaDim { dim, weight }).to_vec();
        let loss = Box::new(LossConfig::Joint { log_scale: wrong });
        assert_eq!(
            faults(LossConfig::Matryoshka { dims, loss }),
            "`loss.dims.1.dim` is 0, it must be at least 1, and each width once; \
             `loss.dims.2.dim` is 8, it must be at least 1, and each width once; \
             `loss.dims.2.weight` is -1, it must be a number above 0; \
             `loss.loss.log_scale.init` is 9, it must be between its `min` and `max`"
        );
        let nested = LossConfig::Matryoshka { dims: Vec::new(), loss: Box::new(config().loss) };
        let dims = vec![MatryoshkaDim { dim: 8, weight: 1.0 }];
        assert_eq!(
            faults(LossConfig::Matryoshka { dims, loss: Box::new(nested) }),
            "`loss.loss.kind` is matryoshka, it must be another loss; \
             `loss.loss.dims` is empty, it must be one width or more"
        );
        assert_eq!(
            faults(LossConfig::Cosine {}),
            "`loss.kind` is one of grades, it must be a loss of pairs alone"
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
        let mut json = serde_json::to_value(config().loss).unwrap();
        json.as_object_mut().unwrap().remove("negatives").unwrap();
        assert_eq!(serde_json::from_value::<LossConfig>(json).unwrap(), config().loss);
    }

    #[test]
    fn refuses_unknown_settings() {
        let mut json = serde_json::to_value(config()).unwrap();
        assert_eq!(serde_json::from_value::<TrainConfig>(json.clone()).unwrap(), config());
        json["loss"]["reducton"] = "one_way".into();
        let error = serde_json::from_value::<TrainConfig>(json).unwrap_err().to_string();
        assert!(error.contains("unknown field `reducton`"), "{error}");
    }
}
