//! One row per sequence from the rows of its tokens.
//!
//! Sequences lie one behind the other, `offsets[i]..offsets[i + 1]`, without padding; so a mean is
//! over real tokens only, and a row never depends on what else is in the batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Exec, Tensor, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

/// Which tokens make a sequence's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token (`[CLS]`, the class token of an image).
    First,
    /// The last token (CLIP's end-of-text).
    Last,
}

impl Exec<'_> {
    /// Pools sequences.
    ///
    /// # Shapes
    /// `x`: `[t, d]` with `t` tokens in all; `offsets`: `b + 1` ascending positions from 0 to `t`;
    /// result: `[b, d]`.
    ///
    /// # Panics
    /// When the offsets do not cover `x` or a sequence is empty.
    #[must_use]
    pub fn pool_sequences(&self, x: &Tensor, offsets: &Arc<[usize]>, pooling: Pooling) -> Tensor {
        let (d, b) = (x.cols(), offsets.len() - 1);
        assert_eq!(offsets[b], x.rows(), "offsets cover the tokens");
        assert!(offsets.is_sorted_by(|a, b| a < b), "no sequence is empty");
        let values = x.values();
        let mut y = self.take(b * d);
        simd::for_row_blocks(y.as_mut(), d, |first, y| {
            for (i, y) in y.chunks_exact_mut(d).enumerate() {
                let (start, end) = (offsets[first + i], offsets[first + i + 1]);
                match pooling {
                    Pooling::First => y.copy_from_slice(&values[start * d..(start + 1) * d]),
                    Pooling::Last => y.copy_from_slice(&values[(end - 1) * d..end * d]),
                    Pooling::Mean => mean_rows(y, &values[start * d..end * d]),
                }
            }
        });
        let backward = self.records(&[x], &[]).then(|| {
            let (x, offsets) = (x.clone(), offsets.clone());
            Box::new(Pool { x, offsets, pooling }) as Box<dyn Backward>
        });
        self.output((b, d), y, backward)
    }
}

#[inline(always)]
fn mean_rows(y: &mut [f32], rows: &[f32]) {
    let d = y.len();
    y.fill(0.0);
    rows.chunks_exact(d).for_each(|row| simd::add_assign(y, row));
    let share = d as f32 / rows.len() as f32;
    y.iter_mut().for_each(|y| *y *= share);
}

struct Pool {
    x: Tensor,
    offsets: Arc<[usize]>,
    pooling: Pooling,
}

impl Backward for Pool {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let Some(input) = self.x.node() else { return };
        let d = self.x.cols();
        let mut dx = cx.pool().zeros(self.x.values().len());
        for (sequence, dy) in self.offsets.windows(2).zip(dy.as_ref().chunks_exact(d)) {
            let (start, end) = (sequence[0], sequence[1]);
            let dx = &mut dx.as_mut()[start * d..end * d];
            match self.pooling {
                Pooling::First => dx[..d].copy_from_slice(dy),
                Pooling::Last => dx[(end - start - 1) * d..].copy_from_slice(dy),
                Pooling::Mean => {
                    let share = 1.0 / (end - start) as f32;
                    for dx in dx.chunks_exact_mut(d) {
                        dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
                    }
                }
            }
        }
        cx.give(input, dx);
    }
}
