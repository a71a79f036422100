//! Score to probability of a match, by logistic regression.
//!
//! In:  scores of matching and of other pairs. Out: [`Calibration`].
//! Not here: which pairs (`distribution`), fusion of calibrated scores (`conjoin-index`).
//! Source: Platt 1999 (softened targets); Lin, Lin & Weng 2007 (Newton with backtracking and the
//! overflow-free loss). Parity: `testdata/parity/metrics`.
//!
//! Both kinds of pairs get the same total weight. The probability is thus for even odds: one half
//! where a score is as likely among matching as among other pairs, whatever number of other pairs
//! was sampled. [`Calibration::with_prior`] moves it to other odds.

use serde::{Deserialize, Serialize};

use crate::CalibrationError;

/// `probability = 1 / (1 + exp(-(a · score + b)))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Slope per unit of score; negative only if matching pairs score lower than others.
    pub a: f64,
    /// Offset.
    pub b: f64,
}

/// Newton steps at most; a convex problem of two unknowns needs about ten.
const MAX_STEPS: usize = 100;

/// The drop of the loss that the local parabola promises below which one full step ends the fit:
/// Newton's method squares its error there, while the loss itself is only exact to about 1e-16.
const LAST_DROP: f64 = 1e-12;

impl Calibration {
    /// Fits the scores of matching and of other pairs.
    ///
    /// # Errors
    /// When a side is empty or a score is not finite.
    pub fn fit(matching: &[f32], other: &[f32]) -> Result<Self, CalibrationError> {
        if matching.is_empty() || other.is_empty() {
            let (matching, other) = (matching.len(), other.len());
            return Err(CalibrationError::OneSided { matching, other });
        }
        if let Some(score) = matching.iter().chain(other).find(|score| !score.is_finite()) {
            return Err(CalibrationError::NotFinite(*score));
        }
        let (mean, deviation) = moments(matching, other);
        if deviation == 0.0 {
            return Ok(Self { a: 0.0, b: 0.0 });
        }
        let standard = |scores: &[f32]| -> Vec<f64> {
            scores.iter().map(|score| (f64::from(*score) - mean) / deviation).collect()
        };
        let fit = Fit { sides: [Side::matching(standard(matching)), Side::other(standard(other))] };
        let (a, b) = fit.solve();
        Ok(Self { a: a / deviation, b: b - a * mean / deviation })
    }

    /// The probability of a match at even odds, 0 to 1.
    #[must_use]
    pub fn probability(&self, score: f32) -> f64 {
        sigmoid(self.a * f64::from(score) + self.b)
    }

    /// The same calibration where a share `prior` (0 to 1, exclusive) of all pairs match.
    #[must_use]
    pub fn with_prior(&self, prior: f64) -> Self {
        Self { a: self.a, b: self.b + (prior / (1.0 - prior)).ln() }
    }
}

/// The scores of one kind of pairs and what they should become.
struct Side {
    scores: Vec<f64>,
    target: f64,
    weight: f64,
}

impl Side {
    fn matching(scores: Vec<f64>) -> Self {
        let n = count(scores.len());
        // Platt's targets: the posterior mean under a uniform prior, which keeps the fit finite
        // when the two kinds are separable.
        Self { scores, target: (n + 1.0) / (n + 2.0), weight: 0.5 / n }
    }

    fn other(scores: Vec<f64>) -> Self {
        let n = count(scores.len());
        Self { scores, target: 1.0 / (n + 2.0), weight: 0.5 / n }
    }
}

struct Fit {
    sides: [Side; 2],
}

/// First and second derivatives of the loss.
#[derive(Default)]
struct Derivatives {
    by_a: f64,
    by_b: f64,
    by_aa: f64,
    by_ab: f64,
    by_bb: f64,
}

impl Fit {
    fn solve(&self) -> (f64, f64) {
        let (mut a, mut b) = (0.0, 0.0);
        let mut loss = self.loss(a, b);
        for _ in 0..MAX_STEPS {
            let d = self.derivatives(a, b);
            let (step_a, step_b) = d.newton_step();
            let slope = step_a * d.by_a + step_b * d.by_b;
            if -slope < LAST_DROP {
                return (a + step_a, b + step_b);
            }
            let Some((length, lower)) = self.backtrack((a, b), (step_a, step_b), (loss, slope))
            else {
                break; // No step lowers the loss any more: this is the best in f64.
            };
            (a, b, loss) = (a + length * step_a, b + length * step_b, lower);
        }
        (a, b)
    }

    /// The first halved step that lowers the loss enough, with the loss there.
    fn backtrack(
        &self,
        (a, b): (f64, f64),
        (step_a, step_b): (f64, f64),
        (loss, slope): (f64, f64),
    ) -> Option<(f64, f64)> {
        let mut length = 1.0;
        while length > 1e-10 {
            let lower = self.loss(a + length * step_a, b + length * step_b);
            if lower <= loss + 1e-4 * length * slope {
                return Some((length, lower));
            }
            length /= 2.0;
        }
        None
    }

    /// The weighted cross entropy.
    fn loss(&self, a: f64, b: f64) -> f64 {
        let side = |side: &Side| {
            let loss = |x: &f64| {
                let z = a * x + b;
                // -t·ln(p) - (1-t)·ln(1-p) without overflow on either side.
                z.max(0.0) - side.target * z + (-z.abs()).exp().ln_1p()
            };
            side.weight * side.scores.iter().map(loss).sum::<f64>()
        };
        self.sides.iter().map(side).sum()
    }

    fn derivatives(&self, a: f64, b: f64) -> Derivatives {
        let mut d = Derivatives::default();
        for side in &self.sides {
            for x in &side.scores {
                let p = sigmoid(a * x + b);
                let slope = side.weight * (p - side.target);
                let curvature = side.weight * p * (1.0 - p);
                d.by_a += slope * x;
                d.by_b += slope;
                d.by_aa += curvature * x * x;
                d.by_ab += curvature * x;
                d.by_bb += curvature;
            }
        }
        d
    }
}

impl Derivatives {
    /// The step to the minimum of the local parabola; a small ridge keeps it defined.
    fn newton_step(&self) -> (f64, f64) {
        const RIDGE: f64 = 1e-12;
        let (aa, bb) = (self.by_aa + RIDGE, self.by_bb + RIDGE);
        let determinant = aa * bb - self.by_ab * self.by_ab;
        let step_a = -(bb * self.by_a - self.by_ab * self.by_b) / determinant;
        let step_b = -(aa * self.by_b - self.by_ab * self.by_a) / determinant;
        (step_a, step_b)
    }
}

/// Mean and standard deviation where both kinds weigh the same.
fn moments(matching: &[f32], other: &[f32]) -> (f64, f64) {
    let half = |scores: &[f32], f: &dyn Fn(f64) -> f64| {
        scores.iter().map(|score| f(f64::from(*score))).sum::<f64>() / (2.0 * count(scores.len()))
    };
    let both = |f: &dyn Fn(f64) -> f64| half(matching, f) + half(other, f);
    let mean = both(&|score| score);
    let deviation = both(&|score| (score - mean) * (score - mean)).sqrt();
    (mean, deviation)
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
