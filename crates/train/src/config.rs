//! The settings of a training run.
//!
//! In:  a recipe's `[train]` table. Out: [`TrainConfig`], checked as a whole.
//! Not here: models, data, evaluation.

use conjoin_core::Seed;
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamWConfig,
    error::{ConfigError, ConfigFault},
    losses::{InfoNce, LossScalar, PairLoss, Reduction, Sigmoid},
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

/// The loss between texts (queries) and images (documents).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossConfig {
    /// See [`InfoNce`].
    InfoNce {
        /// How the two directions become one number.
        reduction: Reduction,
        /// The logarithm of the scale `1/τ`.
        log_scale: ScalarConfig,
    },
    /// See [`Sigmoid`].
    Sigmoid {
        /// The logarithm of the scale `1/τ`.
        log_scale: ScalarConfig,
        /// Added to every logit.
        bias: ScalarConfig,
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

    fn named(&self, name: &'static str) -> LossScalar {
        let Self { init, min, max, learned } = *self;
        LossScalar { name, init, min, max, learned }
    }
}

impl LossConfig {
    /// The loss itself.
    #[must_use]
    pub fn build(&self) -> Box<dyn PairLoss> {
        match self {
            Self::InfoNce { reduction, log_scale } => {
                Box::new(InfoNce::new(*reduction, log_scale.named("log_scale")))
            }
            Self::Sigmoid { log_scale, bias } => {
                Box::new(Sigmoid::new(log_scale.named("log_scale"), bias.named("bias")))
            }
        }
    }

    fn scalars(&self) -> Vec<(&'static str, &ScalarConfig)> {
        match self {
            Self::InfoNce { log_scale, .. } => vec![("log_scale", log_scale)],
            Self::Sigmoid { log_scale, bias } => vec![("log_scale", log_scale), ("bias", bias)],
        }
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
        for (name, scalar) in self.loss.scalars() {
            let ScalarConfig { init, min, max, .. } = *scalar;
            let finite = init.is_finite() && min.is_finite() && max.is_finite();
            let key = format!("loss.{name}.init");
            let in_range = finite && min <= init && init <= max;
            faults.need(&key, init, in_range, "between its `min` and `max`");
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

    #[test]
    fn refuses_unknown_settings() {
        let mut json = serde_json::to_value(config()).unwrap();
        assert_eq!(serde_json::from_value::<TrainConfig>(json.clone()).unwrap(), config());
        json["loss"]["reducton"] = "one_way".into();
        let error = serde_json::from_value::<TrainConfig>(json).unwrap_err().to_string();
        assert!(error.contains("unknown field `reducton`"), "{error}");
    }
}
