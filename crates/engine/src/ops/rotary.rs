//! Rotary positions: pairs of channels of queries and keys are turned by their position's angles.
//!
//! `(x₀, x₁) → (x₀ cos α − x₁ sin α, x₁ cos α + x₀ sin α)`, values stay as they are. The backward turns
//! the other way. Source: Su et al. 2021; on two axes as in EVA-02 (Fang et al. 2023).

use serde::{Deserialize, Serialize};

/// Which channels of a head of width `c` form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Channel `i` and channel `i + c / 2` ("rotate half").
    Halves,
    /// Channels `2 i` and `2 i + 1` ("interleaved").
    Neighbours,
}

/// The angles of every position, as cosines and sines.
#[derive(Debug)]
pub struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Pairs per head, `c / 2`.
    pairs: usize,
    pairing: Pairing,
}

impl RotaryTable {
    /// # Shapes
    /// `angles`: `[positions, pairs]`, in radians.
    ///
    /// # Panics
    /// When the angles are not whole rows.
    #[must_use]
    pub fn new(angles: &[f64], pairs: usize, pairing: Pairing) -> Self {
        assert!(angles.len().is_multiple_of(pairs), "rows of {pairs} angles");
        let (cos, sin) = angles.iter().map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Self { cos, sin, pairs, pairing }
    }

    /// `θ^(−2 i / c)` for each of the `c / 2` pairs, times the position.
    #[must_use]
    pub fn sequence(positions: usize, pairs: usize, theta: f64, pairing: Pairing) -> Self {
        let rate = |i: usize| theta.powf(-(i as f64) / pairs as f64);
        let rates: Vec<f64> = (0..pairs).map(rate).collect();
        let angles = (0..positions).flat_map(|p| rates.iter().map(move |r| p as f64 * r));
        Self::new(&angles.collect::<Vec<_>>(), pairs, pairing)
    }

    /// Pairs per head, `c / 2`.
    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Number of positions.
    pub(super) fn positions(&self) -> usize {
        self.cos.len() / self.pairs
    }

    /// Turns the heads of `from` into `to`; `way` is 1 or −1.
    #[inline(always)]
    pub(super) fn turn(&self, to: &mut [f32], from: &[f32], position: usize, way: f32) {
        let at = position * self.pairs..(position + 1) * self.pairs;
        let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
        let c = 2 * self.pairs;
        for (to, from) in to.chunks_exact_mut(c).zip(from.chunks_exact(c)) {
            match self.pairing {
                Pairing::Halves => {
                    let ((a, b), (x, y)) = (to.split_at_mut(c / 2), from.split_at(c / 2));
                    for i in 0..c / 2 {
                        let sin = way * sin[i];
                        a[i] = x[i] * cos[i] - y[i] * sin;
                        b[i] = y[i] * cos[i] + x[i] * sin;
                    }
                }
                Pairing::Neighbours => {
                    for i in 0..c / 2 {
                        let (x, y, sin) = (from[2 * i], from[2 * i + 1], way * sin[i]);
                        to[2 * i] = x * cos[i] - y * sin;
                        to[2 * i + 1] = y * cos[i] + x * sin;
                    }
                }
            }
        }
    }
}
