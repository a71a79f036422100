//! One row per sequence from the rows of its tokens.
//!
//! Sequences lie one behind the other without padding; so a mean is over real tokens only, and a row
//! never depends on what else is in the batch.

use std::{ops::Range, sync::Arc};

use crate::{
    Exec, Tensor, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

impl Exec<'_> {
    /// The mean of each span of rows; zeros for an empty one.
    ///
    /// # Shapes
    /// `x`: `[t, d]`; `spans`: `b` of them; result: `[b, d]`.
    ///
    /// # Panics
    /// When a span is outside `x`.
    #[must_use]
    pub fn mean_rows(&self, x: &Tensor, spans: &Arc<[Range<usize>]>) -> Tensor {
        assert!(spans.iter().all(|s| s.start <= s.end && s.end <= x.rows()), "spans of rows");
        let (d, values) = (x.cols(), x.values());
        let mut y = self.take(spans.len() * d);
        simd::for_row_blocks(
            y.as_mut(),
            d,
            #[inline(always)]
            |first, y| {
                for (y, span) in y.chunks_exact_mut(d).zip(&spans[first..]) {
                    mean(y, &values[span.start * d..span.end * d]);
                }
            },
        );
        let backward = self.records(&[x], &[]).then(|| {
            Box::new(MeanRows { x: x.clone(), spans: spans.clone() }) as Box<dyn Backward>
        });
        self.output((spans.len(), d), y, backward)
    }

    /// Some of the rows.
    ///
    /// # Shapes
    /// `x`: `[t, d]`; `rows`: `b` indices; result: `[b, d]`.
    ///
    /// # Panics
    /// When an index is outside `x`.
    #[must_use]
    pub fn pick_rows(&self, x: &Tensor, rows: &Arc<[usize]>) -> Tensor {
        let d = x.cols();
        let mut y = self.take(rows.len() * d);
        for (y, row) in y.as_mut().chunks_exact_mut(d).zip(rows.iter()) {
            y.copy_from_slice(x.row(*row));
        }
        let backward = self
            .records(&[x], &[])
            .then(|| Box::new(PickRows { x: x.clone(), rows: rows.clone() }) as Box<dyn Backward>);
        self.output((rows.len(), d), y, backward)
    }
}

#[inline(always)]
fn mean(y: &mut [f32], rows: &[f32]) {
    let d = y.len();
    y.fill(0.0);
    for row in rows.chunks_exact(d) {
        simd::add_assign(y, row);
    }
    let share = d as f32 / rows.len().max(1) as f32;
    for y in y.iter_mut() {
        *y *= share;
    }
}

struct MeanRows {
    x: Tensor,
    spans: Arc<[Range<usize>]>,
}

impl Backward for MeanRows {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let Some(input) = self.x.node() else { return };
        let d = self.x.cols();
        let mut dx = cx.pool().zeros(self.x.values().len());
        for (span, dy) in self.spans.iter().zip(dy.as_ref().chunks_exact(d)) {
            let share = 1.0 / span.len().max(1) as f32;
            for dx in dx.as_mut()[span.start * d..span.end * d].chunks_exact_mut(d) {
                for (dx, dy) in dx.iter_mut().zip(dy) {
                    *dx += dy * share;
                }
            }
        }
        cx.give(input, dx);
    }
}

struct PickRows {
    x: Tensor,
    rows: Arc<[usize]>,
}

impl Backward for PickRows {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let Some(input) = self.x.node() else { return };
        let d = self.x.cols();
        let mut dx = cx.pool().zeros(self.x.values().len());
        for (row, dy) in self.rows.iter().zip(dy.as_ref().chunks_exact(d)) {
            simd::add_assign(&mut dx.as_mut()[row * d..(row + 1) * d], dy);
        }
        cx.give(input, dx);
    }
}
