//! Gated linear units and learned factors per channel.
//!
//! `gate`: `y = act(g) ∘ u` for rows `[g, u]`; backward `dg = dy ∘ u ∘ act'(g)`, `du = dy ∘ act(g)`.
//! `scale_columns`: `y = x ∘ γ`; backward `dx = dy ∘ γ`, `dγ = Σ dy ∘ x`.
//! Source: Shazeer 2020; Touvron et al. 2021 (LayerScale).

use crate::{
    Activation, Exec, ParamId, Tensor, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

impl Exec<'_> {
    /// Multiplies the second half of every row by the activated first half.
    ///
    /// # Shapes
    /// `x`: `[m, 2 n]`, result: `[m, n]`.
    ///
    /// # Panics
    /// When the number of columns is odd.
    #[must_use]
    pub fn gate(&self, x: &Tensor, activation: Activation) -> Tensor {
        assert!(x.cols().is_multiple_of(2), "two halves");
        let (n, values) = (x.cols() / 2, x.values());
        let mut y = self.take(x.rows() * n);
        simd::for_row_blocks(
            y.as_mut(),
            n,
            #[inline(always)]
            |first, y| {
                let rows = values[first * 2 * n..].chunks_exact(2 * n);
                for (y, row) in y.chunks_exact_mut(n).zip(rows) {
                    gate_row(y, row, activation);
                }
            },
        );
        let backward = self
            .records(&[x], &[])
            .then(|| Box::new(Gate { x: x.clone(), activation }) as Box<dyn Backward>);
        self.output((x.rows(), n), y, backward)
    }

    /// Multiplies every row by a vector of factors.
    ///
    /// # Shapes
    /// `x`, result: `[m, n]`; `factors`: `[n]`.
    #[must_use]
    pub fn scale_columns(&self, x: &Tensor, factors: ParamId) -> Tensor {
        let (n, values, gamma) = (x.cols(), x.values(), self.value(factors));
        let mut y = self.take(values.len());
        simd::for_row_blocks(
            y.as_mut(),
            n,
            #[inline(always)]
            |first, y| {
                for (y, x) in y.chunks_exact_mut(n).zip(values[first * n..].chunks_exact(n)) {
                    for ((y, x), g) in y.iter_mut().zip(x).zip(gamma) {
                        *y = x * g;
                    }
                }
            },
        );
        let backward = self
            .records(&[x], &[factors])
            .then(|| Box::new(ScaleColumns { x: x.clone(), factors }) as Box<dyn Backward>);
        self.output((x.rows(), n), y, backward)
    }
}

/// One row: `act(g) ∘ u` of `[g, u]`.
#[inline(always)]
pub(crate) fn gate_row(y: &mut [f32], row: &[f32], activation: Activation) {
    let (gate, up) = row.split_at(y.len());
    y.copy_from_slice(gate);
    activation.apply(y);
    for (y, up) in y.iter_mut().zip(up) {
        *y *= up;
    }
}

struct Gate {
    x: Tensor,
    activation: Activation,
}

impl Backward for Gate {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        gate_backward(cx, &self.x, self.activation, &dy);
    }
}

/// From `dL/dy` of the gated rows that were made of `x`, the gradient of `x`.
pub(crate) fn gate_backward(
    cx: &mut BackwardPass<'_>,
    x: &Tensor,
    activation: Activation,
    dy: &Buffer,
) {
    let Some(input) = x.node() else { return };
    let (n, x, dy) = (x.cols() / 2, x.values(), dy.as_ref());
    let mut dx = cx.pool().take(x.len());
    simd::for_row_blocks(
        dx.as_mut(),
        2 * n,
        #[inline(always)]
        |first, dx| {
            let mut active = vec![0.0; n];
            let rows = x[first * 2 * n..].chunks_exact(2 * n).zip(dy[first * n..].chunks_exact(n));
            for (dx, (x, dy)) in dx.chunks_exact_mut(2 * n).zip(rows) {
                let ((gate, up), (d_gate, d_up)) = (x.split_at(n), dx.split_at_mut(n));
                active.copy_from_slice(gate);
                activation.apply(&mut active);
                for i in 0..n {
                    d_up[i] = dy[i] * active[i];
                    d_gate[i] = dy[i] * up[i];
                }
                let from_output = activation.derivative_from_output();
                activation.scale_gradient(d_gate, if from_output { &active } else { gate });
            }
        },
    );
    cx.give(input, dx);
}

struct ScaleColumns {
    x: Tensor,
    factors: ParamId,
}

impl Backward for ScaleColumns {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        let (m, n, x) = (self.x.rows(), self.x.cols(), self.x.values());
        if let Some((_, gradient)) = cx.trained(self.factors) {
            let dy = dy.as_ref();
            simd::sum_row_blocks(
                m,
                n,
                gradient,
                #[inline(always)]
                |first, rows, partial| {
                    let range = first * n..(first + rows) * n;
                    for (x, dy) in x[range.clone()].chunks_exact(n).zip(dy[range].chunks_exact(n)) {
                        for ((sum, x), dy) in partial.iter_mut().zip(x).zip(dy) {
                            *sum += x * dy;
                        }
                    }
                },
            );
        }
        if let Some(input) = self.x.node() {
            let gamma = cx.value(self.factors);
            simd::for_row_blocks(
                dy.as_mut(),
                n,
                #[inline(always)]
                |_, dy| {
                    for dy in dy.chunks_exact_mut(n) {
                        for (dy, g) in dy.iter_mut().zip(gamma) {
                            *dy *= g;
                        }
                    }
                },
            );
            cx.give(input, dy);
        }
    }
}
