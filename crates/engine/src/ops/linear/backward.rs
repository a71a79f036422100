//! The way back through a linear layer and what stands before it.
//!
//! With `g = dy ∘ act'` and `u = before(x)`: `dW = s ∘ (gᵀ u)`, `ds = Σₖ W ∘ (gᵀ u)`, `db = Σₘ g`,
//! `du = g · (s ∘ W)`. One pass over `dy` makes `g`, its sum, and the words that both products read. The
//! derivative of an activation before the layer is in the epilogue of `du`.

use rayon::prelude::*;

use super::{Before, Bias, LinearParams, activated, scaled};
use crate::{
    Activation, ParamId, Precision, Tensor,
    gemm::{Epilogue, Left, Product, Rows, multiply_transposed, round_row},
    ops::{gate::gate_backward, layer_norm::norm_backward},
    simd,
    tape::{Backward, BackwardPass, NodeId},
    tensor::Buffer,
    vectorize,
};

/// `dy ∘ act'` in place, and the sum of its rows into the bias gradient, in one pass. `kept` tells the
/// derivative, where there is an activation.
pub(crate) fn activation_backward(
    cx: &mut BackwardPass<'_>,
    dy: &mut Buffer,
    n: usize,
    kept: Option<(Activation, &Tensor)>,
    bias: Option<Bias>,
) {
    sums_gradient(cx, (dy, None), n, kept, bias);
}

/// As [`activation_backward`], and writes the result as words of bf16 too.
fn sums_gradient(
    cx: &mut BackwardPass<'_>,
    (dy, words): (&mut Buffer, Option<&mut Buffer>),
    n: usize,
    kept: Option<(Activation, &Tensor)>,
    bias: Option<Bias>,
) {
    let db = bias.and_then(|b| Some((b, cx.trained(b.id())?.1)));
    if db.is_none() && kept.is_none() && words.is_none() {
        return;
    }
    let (rows, row_words) = (simd::rows_per_block(n), Precision::Bf16.words(n));
    let mut words = words.map(|words| words.as_mut().chunks_mut(rows * row_words));
    let blocks: Vec<_> = dy
        .as_mut()
        .chunks_mut(rows * n)
        .map(|dy| (dy, words.as_mut().and_then(Iterator::next).unwrap_or_default()))
        .collect();
    let sums: Vec<Vec<f32>> = blocks
        .into_par_iter()
        .enumerate()
        .map(|(block, (dy, words))| {
            let mut sum = vec![0.0; if db.is_some() { n } else { 0 }];
            vectorize(
                #[inline(always)]
                || {
                    if let Some((activation, kept)) = kept {
                        let first = block * rows * n;
                        activation.scale_gradient(dy, &kept.values()[first..first + dy.len()]);
                    }
                    for dy in dy.chunks_exact(n) {
                        simd::add_assign(&mut sum, dy);
                    }
                    for (words, dy) in words.chunks_exact_mut(row_words).zip(dy.chunks_exact(n)) {
                        round_row(words, dy);
                    }
                },
            );
            sum
        })
        .collect();
    if let Some((bias, db)) = db {
        for sum in &sums {
            bias.give(db, sum);
        }
    }
}

/// An activation on its own.
pub(super) struct Activated {
    pub(super) z: Tensor,
    pub(super) activation: Activation,
}

impl Backward for Activated {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        let Some(input) = self.z.node() else { return };
        activation_backward(cx, &mut dy, self.z.cols(), Some((self.activation, &self.z)), None);
        cx.give(input, dy);
    }
}

pub(super) struct Linear {
    pub(super) x: Tensor,
    pub(super) before: Before,
    /// What the product read, where it was made of `x`: words of the weight's precision.
    pub(super) read: Option<Buffer>,
    /// The activation, and the outputs that tell its derivative.
    pub(super) kept: Option<(Activation, Tensor)>,
    pub(super) p: LinearParams,
    /// Number of outputs.
    pub(super) n: usize,
}

impl Backward for Linear {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        self.give(cx, &mut dy);
    }
}

/// [`crate::Exec::linear_onto`]
pub(super) struct LinearOnto {
    pub(super) residual: Option<NodeId>,
    pub(super) branch: Linear,
}

impl Backward for LinearOnto {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        self.branch.give(cx, &mut dy);
        if let Some(residual) = self.residual {
            cx.give(residual, dy);
        }
    }
}

impl Linear {
    /// Gives the gradients of all parameters and of the input; `dy` becomes `g`.
    fn give(&self, cx: &mut BackwardPass<'_>, dy: &mut Buffer) {
        let (m, n) = (self.x.rows(), self.n);
        let kept = self.kept.as_ref().map(|(activation, kept)| (*activation, kept));
        let mut words = match cx.precision_of(self.p.weight) {
            Precision::F32 => None,
            precision @ (Precision::Bf16 | Precision::Int8) => {
                Some(cx.pool().take(m * precision.words(n)))
            }
        };
        sums_gradient(cx, (dy, words.as_mut()), n, kept, self.p.bias);
        let g = words.as_ref().unwrap_or(dy).as_ref();
        self.give_weight(cx, g);
        self.give_input(cx, g);
    }

    /// From `g` as products read it, the gradients of weight and row factors.
    fn give_weight(&self, cx: &mut BackwardPass<'_>, g: &[f32]) {
        let (k, n, p) = (self.before.width(self.x.cols()), self.n, self.p);
        let precision = cx.precision_of(p.weight);
        let g = Rows::of_words(g, n, precision);
        let read = match &self.read {
            Some(words) => Rows::of_words(words.as_ref(), k, precision),
            None => Rows::of(self.x.values(), k),
        };
        let pool = cx.pool();
        let Some(scale) = p.scale else {
            if let Some((_, dw)) = cx.trained(p.weight) {
                multiply_transposed(dw, g, read, (precision, true), pool);
            }
            return;
        };
        if cx.trained(p.weight).is_some() || cx.trained(scale).is_some() {
            let mut product = pool.take(n * k);
            multiply_transposed(product.as_mut(), g, read, (precision, false), pool);
            give_scaled(cx, p.weight, scale, product.as_ref(), k);
        }
    }

    /// From `g` as products read it, the gradients of the input and of a norm before the product.
    fn give_input(&self, cx: &mut BackwardPass<'_>, g: &[f32]) {
        let input = self.x.node();
        let trains_norm = match self.before {
            Before::Norm(norm) => norm.ids().any(|id| cx.trained(id).is_some()),
            Before::Nothing | Before::Activation(_) | Before::Gate(_) => false,
        };
        if input.is_none() && !trains_norm {
            return;
        }
        let derivative = match self.before {
            Before::Activation(activation) => Some(activation),
            Before::Nothing | Before::Norm(_) | Before::Gate(_) => None,
        };
        let du = self.product_gradient(cx, g, derivative);
        match (self.before, input) {
            (Before::Norm(norm), _) => norm_backward(cx, &self.x, norm, du),
            (Before::Gate(activation), _) => gate_backward(cx, &self.x, activation, &du),
            (Before::Nothing | Before::Activation(_), Some(input)) => cx.give(input, du),
            (Before::Nothing | Before::Activation(_), None) => {}
        }
    }

    /// `g · (s ∘ W)`, times the derivative of an activation of `x`.
    fn product_gradient(
        &self,
        cx: &BackwardPass<'_>,
        g: &[f32],
        activation: Option<Activation>,
    ) -> Buffer {
        let (m, k, n) = (self.x.rows(), self.before.width(self.x.cols()), self.n);
        let factors = self.p.scale.map(|s| cx.value(s));
        let weight = || scaled(cx.values(self.p.weight), factors, k, 0..n);
        let right = cx.packed(self.p.weight, weight, (n, k));
        let left = match right.precision {
            Precision::F32 => Left::in_place(g, m, n),
            Precision::Bf16 | Precision::Int8 => Left::words(g, m, &[]),
        };
        // Some derivatives are told by outputs.
        let kept = activation.map(|activation| match activation.derivative_from_output() {
            true => {
                let y = activated(&self.x, activation, cx.pool().take(m * k));
                (activation, Tensor::new(m, k, y, None))
            }
            false => (activation, self.x.clone()),
        });
        let derivative = kept.as_ref().map(|(activation, kept)| (*activation, kept.values()));
        let mut du = cx.pool().take(m * k);
        let epilogue = Epilogue { derivative, ..Epilogue::NONE };
        Product { left, right: &right, epilogue }.run(du.as_mut());
        du
    }
}

/// From `gᵀ x`, the gradients of `W` and of its row factors.
fn give_scaled(
    cx: &mut BackwardPass<'_>,
    weight: ParamId,
    scale: ParamId,
    product: &[f32],
    k: usize,
) {
    let factors: Vec<f32> = cx.value(scale).to_vec();
    if let Some((_, dw)) = cx.trained(weight) {
        vectorize(
            #[inline(always)]
            || {
                for ((dw, p), s) in
                    dw.chunks_exact_mut(k).zip(product.chunks_exact(k)).zip(&factors)
                {
                    for (dw, p) in dw.iter_mut().zip(p) {
                        *dw += p * s;
                    }
                }
            },
        );
    }
    let sums: Vec<f32> = vectorize(
        #[inline(always)]
        || {
            let rows = cx.value(weight).chunks_exact(k).zip(product.chunks_exact(k));
            rows.map(|(w, p)| simd::dot(w, p)).collect()
        },
    );
    if let Some((_, ds)) = cx.trained(scale) {
        simd::add_assign(ds, &sums);
    }
}
