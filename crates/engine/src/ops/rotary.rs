//! Rotary positions: pairs of channels of queries and keys are turned by their position's angles.
//!
//! `(x₀, x₁) → (x₀ cos α − x₁ sin α, x₁ cos α + x₀ sin α)`, values stay as they are. The backward turns
//! the other way. Source: Su et al. 2021; on two axes as in EVA-02 (Fang et al. 2023).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Exec, Tensor, simd,
    tape::{Backward, BackwardPass, NodeId},
    tensor::Buffer,
};

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

    /// Number of positions.
    fn positions(&self) -> usize {
        self.cos.len() / self.pairs
    }

    /// Turns the heads of `from` into `to`; `way` is 1 or −1.
    #[inline(always)]
    fn turn(&self, to: &mut [f32], from: &[f32], position: usize, way: f32) {
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

impl Exec<'_> {
    /// Turns queries and keys of packed sequences.
    ///
    /// # Shapes
    /// `qkv`, result: `[t, 3 d]`; `offsets`: `b + 1` positions.
    ///
    /// # Panics
    /// When a sequence is longer than the table or the heads do not divide the width.
    #[must_use]
    pub fn rotate(&self, qkv: &Tensor, offsets: &Arc<[usize]>, table: &Arc<RotaryTable>) -> Tensor {
        assert!((qkv.cols() / 3).is_multiple_of(2 * table.pairs), "heads divide the width");
        let longest = offsets.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0);
        assert!(longest <= table.positions(), "a position for every token");
        let positions = positions(offsets);
        let mut y = self.take(qkv.values().len());
        turn_rows(table, &positions, (y.as_mut(), qkv.values()), qkv.cols(), 1.0);
        let backward = self.records(&[qkv], &[]).then(|| {
            let node =
                Rotate { qkv: qkv.node(), cols: qkv.cols(), positions, table: table.clone() };
            Box::new(node) as Box<dyn Backward>
        });
        self.output((qkv.rows(), qkv.cols()), y, backward)
    }
}

/// The place of each token in its sequence.
fn positions(offsets: &[usize]) -> Vec<usize> {
    offsets.windows(2).flat_map(|s| 0..s[1] - s[0]).collect()
}

fn turn_rows(
    table: &RotaryTable,
    positions: &[usize],
    (to, from): (&mut [f32], &[f32]),
    cols: usize,
    way: f32,
) {
    let turned = cols / 3 * 2;
    simd::for_row_blocks(to, cols, |first, to| {
        let rows = from[first * cols..].chunks_exact(cols).zip(&positions[first..]);
        for (to, (from, position)) in to.chunks_exact_mut(cols).zip(rows) {
            table.turn(&mut to[..turned], &from[..turned], *position, way);
            to[turned..].copy_from_slice(&from[turned..]);
        }
    });
}

struct Rotate {
    qkv: Option<NodeId>,
    cols: usize,
    positions: Vec<usize>,
    table: Arc<RotaryTable>,
}

impl Backward for Rotate {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let Some(input) = self.qkv else { return };
        let mut dx = cx.pool().take(dy.as_ref().len());
        let buffers = (dx.as_mut(), dy.as_ref());
        turn_rows(&self.table, &self.positions, buffers, self.cols, -1.0);
        cx.give(input, dx);
    }
}
