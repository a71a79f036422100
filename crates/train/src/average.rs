//! Averages of weights: over the steps of a run (EMA), and between two models (WiSE-FT).
//!
//! In:  parameters after each step; or two lists of tensors. Out: averaged tensors beside the parameters.
//! Not here: when a model is evaluated with them, and storing them (the training state's part).
//! Source: Polyak & Juditsky 1992; warm-up of the decay as in TensorFlow's `ExponentialMovingAverage`;
//!      Wortsman et al. 2022, eq. 1. Parity: `testdata/parity/average`.
//!
//! Equal to `torch.optim.swa_utils.get_ema_multi_avg_fn` for an average that starts as a copy.

use conjoin_core::Parameter;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{config::Faults, error::ConfigError, kernels::vectorized};

/// Elements one task updates: both arrays fit the second-level cache.
const CHUNK: usize = 1 << 16;

/// Settings of a running average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// Share of the average that stays at a step, at least 0 and below 1 (0.9999 for long runs: it
    /// looks back about `1 / (1 - decay)` steps).
    pub decay: f64,
    /// How the decay begins.
    #[serde(default)]
    pub warm_up: WarmUp,
}

/// How the decay of a running average begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// At its full size: the first weights count long.
    None,
    /// At most `(1 + t) / (10 + t)` at step `t` (from 0): the first weights are forgotten fast.
    #[default]
    Harmonic,
}

impl AverageConfig {
    /// Passes, or tells what cannot be; `key` is the path of this table.
    ///
    /// # Errors
    /// When the decay is out of its range.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let in_range = (0.0..1.0).contains(&self.decay);
        faults.need(&format!("{key}.decay"), self.decay, in_range, "at least 0 and below 1");
        faults.done()
    }

    /// The decay of the update after step `t`, from 0.
    fn decay_at(&self, t: u64) -> f64 {
        match self.warm_up {
            WarmUp::None => self.decay,
            WarmUp::Harmonic => self.decay.min((1.0 + t as f64) / (10.0 + t as f64)),
        }
    }
}

/// The running average of a list of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Average {
    config: AverageConfig,
    n_updates: u64,
    tensors: Vec<AverageTensor>,
}

/// The average of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct AverageTensor {
    /// The parameter's name.
    pub name: String,
    /// The parameter's shape.
    pub shape: Vec<usize>,
    /// The numbers; none when the parameter is frozen, since it is its own average.
    pub value: Vec<f32>,
}

impl Average {
    /// The average of no step yet: a copy of what is trained.
    ///
    /// # Errors
    /// When [`AverageConfig::check`] fails for `key`.
    pub fn new(
        config: AverageConfig,
        key: &str,
        parameters: &[Parameter],
    ) -> Result<Self, ConfigError> {
        config.check(key)?;
        let tensor = |p: &Parameter| AverageTensor {
            name: p.name.clone(),
            shape: p.shape.clone(),
            value: if p.frozen { Vec::new() } else { p.value.to_vec() },
        };
        Ok(Self { config, n_updates: 0, tensors: parameters.iter().map(tensor).collect() })
    }

    /// Takes in the parameters as they are after a step.
    ///
    /// # Panics
    /// When the parameters are not those of [`Average::new`].
    pub fn update(&mut self, parameters: &[Parameter]) {
        let weight = (1.0 - self.config.decay_at(self.n_updates)) as f32;
        self.n_updates += 1;
        assert_eq!(parameters.len(), self.tensors.len(), "the average's own parameters");
        let mut tasks = Vec::new();
        for (tensor, parameter) in self.tensors.iter_mut().zip(parameters) {
            if tensor.value.is_empty() {
                continue;
            }
            assert_eq!(tensor.value.len(), parameter.value.len(), "average of `{}`", tensor.name);
            tasks.extend(tensor.value.chunks_mut(CHUNK).zip(parameter.value.chunks(CHUNK)));
        }
        tasks.into_par_iter().for_each(|(average, value)| {
            vectorized(|| move_towards(average, value, weight));
        });
    }

    /// Exchanges the averages with the parameters: once to look at the model with averaged weights, once
    /// more to go on training. Frozen parameters stay.
    ///
    /// # Panics
    /// When the parameters are not those of [`Average::new`].
    pub fn swap(&mut self, parameters: &mut [Parameter]) {
        assert_eq!(parameters.len(), self.tensors.len(), "the average's own parameters");
        for (tensor, parameter) in self.tensors.iter_mut().zip(parameters) {
            if !tensor.value.is_empty() {
                tensor.value.swap_with_slice(&mut parameter.value);
            }
        }
    }

    /// The averages in the parameters' order, for a training state; with [`Average::n_updates`] they are
    /// all there is to keep.
    #[must_use]
    pub fn tensors(&self) -> &[AverageTensor] {
        &self.tensors
    }

    /// The averages, writable, to be filled from a training state.
    pub fn tensors_mut(&mut self) -> &mut [AverageTensor] {
        &mut self.tensors
    }

    /// Number of updates so far.
    #[must_use]
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }

    /// Sets the number of updates to that of a training state.
    pub fn set_n_updates(&mut self, n_updates: u64) {
        self.n_updates = n_updates;
    }
}

#[inline(always)]
fn move_towards(average: &mut [f32], value: &[f32], weight: f32) {
    average.iter_mut().zip(value).for_each(|(a, v)| *a += weight * (*v - *a));
}

/// Weights between two models: `(1 - alpha) · start + alpha · end` (WiSE-FT).
///
/// Use it after fine-tuning, with `start` the weights before and `end` those after: a model in between
/// often keeps what the first could and has most of what the second learned. `alpha` 0 and 1 give the
/// models themselves.
///
/// # Shapes
/// - `start`, `end`: tensors of equal lengths in equal order; returns the same
///
/// # Panics
/// When the lists or two tensors have different lengths.
#[must_use]
pub fn interpolate(start: &[Vec<f32>], end: &[Vec<f32>], alpha: f32) -> Vec<Vec<f32>> {
    assert_eq!(start.len(), end.len(), "tensors of one model");
    let between = |(start, end): (&Vec<f32>, &Vec<f32>)| -> Vec<f32> {
        assert_eq!(start.len(), end.len(), "one tensor of two models");
        start.iter().zip(end).map(|(s, e)| (1.0 - alpha) * s + alpha * e).collect()
    };
    start.par_iter().zip(end).map(between).collect()
}

#[cfg(test)]
mod tests;
