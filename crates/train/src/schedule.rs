//! The learning rate as a pure function of the step.
//!
//! In:  the step, the number of steps. Out: a factor on the peak rate, or the rate.
//! Not here: factors per parameter (`selection`).

use serde::{Deserialize, Serialize};

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays at the peak.
    Constant,
    /// On a straight line to the floor.
    Linear,
    /// On half a cosine to the floor.
    #[default]
    Cosine,
}

/// Settings of the learning rate over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The highest rate, above 0.
    pub peak_lr: f64,
    /// Steps on a straight line up to the peak; 0 starts at the peak; none: a tenth of all steps.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// How the rate falls afterwards.
    #[serde(default)]
    pub decay: Decay,
    /// The rate at the end as a share of the peak, in `[0, 1]`.
    #[serde(default)]
    pub floor: f64,
}

/// One of so many steps is a warm-up step where nothing is said.
const WARMUP_SHARE: u64 = 10;

impl ScheduleConfig {
    /// Up to this rate in a tenth of the steps, then on a cosine down to zero.
    #[must_use]
    pub fn new(peak_lr: f64) -> Self {
        Self { peak_lr, warmup_steps: None, decay: Decay::default(), floor: 0.0 }
    }

    /// The learning rate of step `step` (from 0) of `n_steps`.
    ///
    /// The first warm-up step already moves (`1 / warmup_steps` of the peak); the floor is reached
    /// at `n_steps`, one after the last step, so that no step is wasted at a rate of zero.
    #[must_use]
    pub fn lr(&self, step: u64, n_steps: u64) -> f64 {
        let warmup_steps = self.warmup_steps.unwrap_or(n_steps / WARMUP_SHARE);
        if step < warmup_steps {
            return self.peak_lr * ratio(step + 1, warmup_steps);
        }
        let left = n_steps.saturating_sub(warmup_steps).max(1);
        let done = ratio((step - warmup_steps).min(left), left);
        let height = match self.decay {
            Decay::Constant => return self.peak_lr,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak_lr * (self.floor + (1.0 - self.floor) * height)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> ScheduleConfig {
        ScheduleConfig { peak_lr: 2.0, warmup_steps: Some(4), decay, floor: 0.1 }
    }

    #[track_caller]
    fn check(decay: Decay, step: u64, expect: f64) {
        let found = schedule(decay).lr(step, 104);
        assert!((found - expect).abs() < 1e-12, "step {step}: {found}, expected {expect}");
    }

    #[test]
    fn warms_up_then_falls_to_the_floor() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            check(decay, 0, 0.5);
            check(decay, 3, 2.0);
            check(decay, 4, 2.0);
        }
        check(Decay::Constant, 104, 2.0);
        check(Decay::Linear, 54, 2.0 * (0.1 + 0.9 * 0.5));
        check(Decay::Linear, 104, 0.2);
        check(Decay::Cosine, 29, 2.0 * (0.1 + 0.9 * 0.5 * (1.0 + 0.5_f64.sqrt())));
        check(Decay::Cosine, 104, 0.2);
        check(Decay::Cosine, 9_999, 0.2);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        let schedule = ScheduleConfig { warmup_steps: Some(0), ..schedule(Decay::Cosine) };
        assert_eq!(schedule.lr(0, 10), 2.0);
    }
}
