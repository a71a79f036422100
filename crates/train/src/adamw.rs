//! AdamW: adaptive steps with decoupled weight decay.
//!
//! In:  parameters, their gradients, a learning rate. Out: updated parameters.
//! Not here: the learning rate over time (`schedule`), factors per parameter (`selection`).
//! Source: Loshchilov & Hutter 2019, algorithm 2. Parity: `testdata/parity/adamw`.
//!
//! Equal to `torch.optim.AdamW` with two groups (with and without decay). Parameters that are frozen
//! when the optimiser is made have no moments and are never touched.

use conjoin_core::{Gradients, Parameter};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    kernels::{sum_of_squares, vectorized},
    selection::{LrMultiplier, prefix_multipliers},
};

/// Elements one task updates: its four arrays fit the second-level cache.
const CHUNK: usize = 1 << 15;

/// Settings of the optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the running mean and of the running mean of squares, each in `[0, 1)`.
    pub betas: (f64, f64),
    /// Added to the root of the mean square, above 0.
    pub eps: f64,
    /// Share of a parameter taken away per step, times the learning rate; at least 0.
    pub weight_decay: f64,
    /// Factors on the learning rate; of several that fit, the longest prefix counts.
    pub lr_multipliers: Vec<LrMultiplier>,
}

/// CLIP's decays and `eps`; a weight decay that suits fine-tuning.
impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.98), eps: 1e-6, weight_decay: 0.05, lr_multipliers: Vec::new() }
    }
}

/// The running means of one parameter; empty when it is frozen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
}

impl Moments {
    /// Whether the parameter is this optimiser's to move.
    pub(crate) fn are_kept(&self) -> bool {
        !self.mean.is_empty()
    }
}

/// The optimiser of one list of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    config: AdamWConfig,
    multipliers: Vec<f64>,
    pub(crate) moments: Vec<Moments>,
    pub(crate) n_steps: u64,
}

impl AdamW {
    /// An optimiser that has seen no gradient yet, with the configuration's factors by prefix.
    #[must_use]
    pub fn new(config: AdamWConfig, parameters: &[Parameter]) -> Self {
        let multipliers = prefix_multipliers(&config.lr_multipliers, parameters);
        Self::with_multipliers(config, parameters, multipliers)
    }

    /// An optimiser that has seen no gradient yet, with a factor on the learning rate for each
    /// parameter; the configuration's list of prefixes is not looked at.
    ///
    /// # Shapes
    /// `multipliers`: `[n]` for `n` parameters.
    ///
    /// # Panics
    /// When there are not as many factors as parameters.
    #[must_use]
    pub fn with_multipliers(
        config: AdamWConfig,
        parameters: &[Parameter],
        multipliers: Vec<f64>,
    ) -> Self {
        assert_eq!(multipliers.len(), parameters.len(), "a factor for each parameter");
        let moments = parameters.iter().map(|p| {
            let n = if p.frozen { 0 } else { p.value.len() };
            Moments { mean: vec![0.0; n], square: vec![0.0; n] }
        });
        let moments = moments.collect();
        Self { config, multipliers, moments, n_steps: 0 }
    }

    /// Moves every parameter that is not frozen; gradients are first scaled by `gradient_scale`
    /// (see [`clip_factor`]).
    ///
    /// # Panics
    /// When the parameters or gradients are not those of [`AdamW::new`].
    pub fn step(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &Gradients,
        lr: f64,
        gradient_scale: f32,
    ) {
        assert_eq!(parameters.len(), self.moments.len(), "the optimiser's own parameters");
        self.n_steps += 1;
        let update = self.update_of_this_step();
        let mut tasks = Vec::new();
        let moments = self.moments.iter_mut().zip(&self.multipliers);
        for ((parameter, gradient), (moments, multiplier)) in
            parameters.iter_mut().zip(gradients.iter()).zip(moments)
        {
            // Without moments it was frozen when the optimiser was made: others move it (`lora`).
            if parameter.frozen || !moments.are_kept() {
                continue;
            }
            assert_eq!(parameter.value.len(), gradient.len(), "gradient of `{}`", parameter.name);
            let decay = if parameter.decay { self.config.weight_decay } else { 0.0 };
            let update = update.with(lr * multiplier, decay, gradient_scale);
            let values = parameter.value.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK));
            let moments = moments.mean.chunks_mut(CHUNK).zip(moments.square.chunks_mut(CHUNK));
            tasks.extend(values.zip(moments).map(|(v, m)| (update, v, m)));
        }
        tasks.into_par_iter().for_each(|(update, (value, gradient), (mean, square))| {
            vectorized(
                #[inline(always)]
                || update.apply(value, gradient, mean, square),
            );
        });
    }

    fn update_of_this_step(&self) -> StepFactors {
        let t = i32::try_from(self.n_steps).unwrap_or(i32::MAX);
        let (beta1, beta2) = self.config.betas;
        StepFactors {
            betas: (beta1, beta2),
            corrections: (1.0 - beta1.powi(t), (1.0 - beta2.powi(t)).sqrt()),
            eps: self.config.eps,
        }
    }
}

/// What is the same for all parameters in a step.
struct StepFactors {
    betas: (f64, f64),
    /// Bias corrections: of the mean, and the root of that of the square.
    corrections: (f64, f64),
    eps: f64,
}

impl StepFactors {
    fn with(&self, lr: f64, weight_decay: f64, gradient_scale: f32) -> Update {
        Update {
            gradient_scale,
            keep: (1.0 - lr * weight_decay) as f32,
            mean_weight: (1.0 - self.betas.0) as f32,
            square_keep: self.betas.1 as f32,
            square_weight: (1.0 - self.betas.1) as f32,
            step_size: (lr / self.corrections.0) as f32,
            root_correction: self.corrections.1 as f32,
            eps: self.eps as f32,
        }
    }
}

/// The update of one parameter's elements.
#[derive(Clone, Copy)]
struct Update {
    gradient_scale: f32,
    keep: f32,
    mean_weight: f32,
    square_keep: f32,
    square_weight: f32,
    step_size: f32,
    root_correction: f32,
    eps: f32,
}

impl Update {
    #[inline(always)]
    fn apply(self, value: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        let elements = value.iter_mut().zip(gradient).zip(mean.iter_mut().zip(square));
        for ((value, gradient), (mean, square)) in elements {
            let gradient = *gradient * self.gradient_scale;
            *mean += (gradient - *mean) * self.mean_weight;
            *square = *square * self.square_keep + gradient * gradient * self.square_weight;
            let root = square.sqrt() / self.root_correction + self.eps;
            *value = *value * self.keep - self.step_size * (*mean / root);
        }
    }
}

/// The norm of all gradients taken together, in f64 and a fixed order.
#[must_use]
pub fn grad_norm(gradients: &[&Gradients]) -> f64 {
    let chunks: Vec<&[f32]> =
        gradients.iter().flat_map(|g| g.iter()).flat_map(|tensor| tensor.chunks(CHUNK)).collect();
    let squares: Vec<f64> = chunks
        .par_iter()
        .map(|chunk| {
            vectorized(
                #[inline(always)]
                || sum_of_squares(chunk),
            )
        })
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// The factor that brings gradients of norm `norm` to at most `max_norm`; 1 when they are below.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    // The reference adds 1e-6, so that a norm of zero divides.
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}

#[cfg(test)]
mod tests;
