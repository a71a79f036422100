//! Tells a training loss that runs away while it is still a number.
//!
//! In:  the losses of the last steps. Out: whether the newest of them have left the level of those before.
//! Not here: losses that are no numbers (`trainer`), evaluations that stop rising (`plateau`).
//!
//! One hard batch is no divergence: every one of the newest losses must be far above the median of those before,
//! and the median is not moved by a few outliers. It is a function of the losses alone, so a resumed run, which
//! has them in its journal, decides as an unbroken one. A rise so slow that the median follows is not seen; nor
//! is one within the first [`DivergenceConfig::n_losses`] steps.

use serde::{Deserialize, Serialize};

use crate::{config::Faults, error::ConfigError};

/// When a loss diverges. The default sees a loss that doubles and stays there for 20 steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DivergenceConfig {
    /// How often the median a loss must exceed, above 1.
    pub factor: f64,
    /// Losses the median is of, at least 1.
    pub window: usize,
    /// The newest losses, all of which must exceed it, at least 1.
    pub steps: usize,
    /// Losses up to this never count, at least 0: near zero, noise alone is many times the median.
    pub floor: f64,
}

impl Default for DivergenceConfig {
    fn default() -> Self {
        Self { factor: 2.0, window: 100, steps: 20, floor: 0.1 }
    }
}

/// How far a loss has left its level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// The median of the losses before.
    pub median: f64,
    /// The lowest of the newest losses.
    pub lowest: f64,
}

impl DivergenceConfig {
    /// Passes, or tells every setting that cannot be; `key` is the path of this table.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let Self { factor, window, steps, floor } = *self;
        let in_range = factor.is_finite() && factor > 1.0;
        faults.need(&format!("{key}.factor"), factor, in_range, "a number above 1");
        faults.need(&format!("{key}.window"), window, window >= 1, "at least 1");
        faults.need(&format!("{key}.steps"), steps, steps >= 1, "at least 1");
        let in_range = floor.is_finite() && floor >= 0.0;
        faults.need(&format!("{key}.floor"), floor, in_range, "a number of at least 0");
        faults.done()
    }

    /// How many of the last losses [`DivergenceConfig::divergence`] looks at.
    #[must_use]
    pub fn n_losses(&self) -> usize {
        self.window.saturating_add(self.steps)
    }

    /// Whether the newest losses have all left the level of those before.
    ///
    /// # Shapes
    /// `losses`: one per step, newest last; fewer than [`DivergenceConfig::n_losses`] tell nothing
    #[must_use]
    pub fn divergence(&self, losses: &[f64]) -> Option<Divergence> {
        let last = &losses[losses.len().checked_sub(self.n_losses())?..];
        let (before, newest) = last.split_at(self.window);
        let lowest = newest.iter().copied().fold(f64::INFINITY, f64::min);
        if lowest <= self.floor {
            return None;
        }
        let median = median(before);
        (lowest > self.factor * median).then_some(Divergence { median, lowest })
    }
}

/// The middle value; of an even number the upper one of the two.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use conjoin_core::Seed;

    use super::*;
    use crate::testing::random;

    /// A contrastive loss over 512 pairs: from ln 512 down to about 0.8, with noise of a fifth.
    fn healthy(n: usize) -> Vec<f64> {
        let noise = random(n, Seed(7));
        let level = |i: usize| 0.8 + 5.4 * (-(i as f64) / 150.0).exp();
        (0..n).map(|i| level(i) * (1.0 + 0.2 * f64::from(noise[i]))).collect()
    }

    /// The first step, from 0, at which a run with this loss ends.
    fn ends_at(config: &DivergenceConfig, losses: &[f64]) -> Option<usize> {
        (0..losses.len()).find(|i| config.divergence(&losses[..=*i]).is_some())
    }

    #[track_caller]
    fn check(losses: &[f64], expect: Option<usize>) {
        assert_eq!(ends_at(&DivergenceConfig::default(), losses), expect);
    }

    #[test]
    fn a_healthy_run_goes_on() {
        check(&healthy(2_000), None);
        check(&[], None);
    }

    #[test]
    fn hard_batches_do_not_end_a_run() {
        let mut losses = healthy(1_000);
        losses[300] *= 50.0;
        losses[400..419].iter_mut().for_each(|loss| *loss *= 10.0);
        losses.iter_mut().skip(500).step_by(3).for_each(|loss| *loss *= 6.0);
        check(&losses, None);
    }

    #[test]
    fn harder_data_from_some_step_on_do_not_end_a_run() {
        let mut losses = healthy(1_000);
        losses[600..].iter_mut().for_each(|loss| *loss *= 1.6);
        check(&losses, None);
    }

    #[test]
    fn a_collapse_to_chance_ends_a_run_after_twenty_steps() {
        let mut losses = healthy(1_000);
        losses[700..].fill(512.0_f64.ln());
        check(&losses, Some(719));
        let found = DivergenceConfig::default().divergence(&losses[..720]).unwrap();
        assert!(found.lowest == 512.0_f64.ln() && 0.6 < found.median && found.median < 1.1);
    }

    #[test]
    fn a_steady_explosion_ends_a_run_while_it_is_a_number() {
        let mut losses = healthy(1_000);
        losses[600..].iter_mut().enumerate().for_each(|(i, loss)| *loss *= 1.05_f64.powi(i as i32));
        let end = ends_at(&DivergenceConfig::default(), &losses).unwrap();
        assert!((620..660).contains(&end), "{end}");
    }

    #[test]
    fn noise_near_zero_does_not_end_a_run() {
        let mut losses = vec![1e-5; 500];
        losses[300..].fill(5e-2);
        check(&losses, None);
        losses[300..].fill(0.2);
        check(&losses, Some(319));
    }

    #[test]
    fn names_the_settings_that_cannot_be() {
        let config = DivergenceConfig { factor: 1.0, window: 0, steps: 0, floor: f64::NAN };
        assert_eq!(
            config.check("divergence").unwrap_err().to_string(),
            "`divergence.factor` is 1, it must be a number above 1; \
             `divergence.window` is 0, it must be at least 1; \
             `divergence.steps` is 0, it must be at least 1; \
             `divergence.floor` is NaN, it must be a number of at least 0"
        );
        let config: DivergenceConfig = serde_json::from_str(r#"{"factor": 3.0}"#).unwrap();
        assert_eq!(config, DivergenceConfig { factor: 3.0, ..DivergenceConfig::default() });
        config.check("divergence").unwrap();
        assert!(serde_json::from_str::<DivergenceConfig>(r#"{"patience": 3}"#).is_err());
    }
}
