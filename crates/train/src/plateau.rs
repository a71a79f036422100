//! What a curve of evaluations asks for: a lower learning rate, or the end of the run.
//!
//! In:  the evaluations of a run so far; a higher metric is better. Out: a factor on the rate; whether to stop.
//! Not here: evaluating, the planned rate over time (`schedule`), a training loss that diverges (`divergence`).
//! Source: `torch.optim.lr_scheduler.ReduceLROnPlateau` (mode `max`, threshold mode `abs`); Prechelt 1998 for
//!      stopping. Parity: `testdata/parity/plateau`.
//!
//! Both are functions of the list alone, so a resumed run decides as an unbroken one. An evaluation that is not
//! a number is no improvement.

use serde::{Deserialize, Serialize};

use crate::{config::Faults, error::ConfigError};

/// One evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationPoint {
    /// Steps done when it was made.
    pub step: u64,
    /// What was measured; higher is better.
    pub metric: f64,
}

/// When the learning rate falls because the metric does not rise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlateauConfig {
    /// What the rate is multiplied by, above 0 and below 1.
    pub factor: f64,
    /// Evaluations without improvement that are borne; the one after them lowers the rate.
    pub patience: u64,
    /// What a metric must exceed the best by to be an improvement, at least 0.
    #[serde(default)]
    pub min_delta: f64,
    /// Evaluations after a fall that are not counted.
    #[serde(default)]
    pub cooldown: u64,
    /// The lowest product of all factors, at least 0 and at most 1.
    #[serde(default)]
    pub floor: f64,
}

/// When a run ends because the metric does not rise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// Evaluations in a row without improvement after which the run ends, at least 1.
    pub patience: u64,
    /// What a metric must exceed the best by to be an improvement, at least 0.
    #[serde(default)]
    pub min_delta: f64,
}

/// Why a run should end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStop {
    /// The evaluation that used the patience up.
    pub at: EvaluationPoint,
    /// The last improvement; none when no evaluation was a number.
    pub best: Option<EvaluationPoint>,
}

impl PlateauConfig {
    /// Passes, or tells every setting that cannot be; `key` is the path of this table.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let in_range = self.factor > 0.0 && self.factor < 1.0;
        faults.need(&format!("{key}.factor"), self.factor, in_range, "above 0 and below 1");
        need_delta(&mut faults, key, self.min_delta);
        let in_range = (0.0..=1.0).contains(&self.floor);
        faults.need(&format!("{key}.floor"), self.floor, in_range, "between 0 and 1");
        faults.done()
    }

    /// The factor on the learning rate for the steps after these evaluations; 1 before any.
    ///
    /// # Shapes
    /// `points`: all evaluations of the run, oldest first
    #[must_use]
    pub fn lr_factor(&self, points: &[EvaluationPoint]) -> f64 {
        let (mut progress, mut factor, mut cooling) = (Progress::new(self.min_delta), 1.0_f64, 0);
        for point in points {
            progress.take(*point);
            if cooling > 0 {
                cooling -= 1;
                progress.n_bad = 0;
            }
            if progress.n_bad > self.patience {
                factor = (factor * self.factor).max(self.floor);
                cooling = self.cooldown;
                progress.n_bad = 0;
            }
        }
        factor
    }
}

impl EarlyStopConfig {
    /// Passes, or tells every setting that cannot be; `key` is the path of this table.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let patience = self.patience;
        faults.need(&format!("{key}.patience"), patience, patience >= 1, "at least 1");
        need_delta(&mut faults, key, self.min_delta);
        faults.done()
    }

    /// Whether the run should have ended by now, and with which evaluation.
    ///
    /// # Shapes
    /// `points`: all evaluations of the run, oldest first
    #[must_use]
    pub fn stop(&self, points: &[EvaluationPoint]) -> Option<EarlyStop> {
        let mut progress = Progress::new(self.min_delta);
        let at = points.iter().find(|point| {
            progress.take(**point);
            progress.n_bad >= self.patience
        })?;
        Some(EarlyStop { at: *at, best: progress.best })
    }
}

fn need_delta(faults: &mut Faults, key: &str, delta: f64) {
    let in_range = delta.is_finite() && delta >= 0.0;
    faults.need(&format!("{key}.min_delta"), delta, in_range, "a number of at least 0");
}

/// The best evaluation so far, and how many in a row were none.
struct Progress {
    min_delta: f64,
    best: Option<EvaluationPoint>,
    n_bad: u64,
}

impl Progress {
    fn new(min_delta: f64) -> Self {
        Self { min_delta, best: None, n_bad: 0 }
    }

    fn take(&mut self, point: EvaluationPoint) {
        let best = self.best.map_or(f64::NEG_INFINITY, |best| best.metric);
        if point.metric > best + self.min_delta {
            self.best = Some(point);
            self.n_bad = 0;
        } else {
            self.n_bad += 1;
        }
    }
}

#[cfg(test)]
mod tests;
