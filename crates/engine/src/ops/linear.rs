//! Linear layer with its epilogue: `y = act(x · (s ∘ W)ᵀ + b)`.
//!
//! The optional per-row scale `s` is a folded batch norm: the product runs on `s ∘ W`, so it costs
//! nothing per sample, while training still sees `W` at its own magnitude.
//! Backward, with `g = dy ∘ act'`: `dW = s ∘ (gᵀ x)`, `ds = Σₖ W ∘ (gᵀ x)`, `db = Σₘ g`,
//! `dx = g · (s ∘ W)`.

use std::borrow::Cow;

use crate::{
    Activation, Exec, MatMut, MatRef, ParamId, Tensor,
    gemm::matmul_then,
    matmul, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
    vectorize,
};

/// The parameters of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct LinearParams {
    /// `[n, k]`, as PyTorch stores it.
    pub weight: ParamId,
    /// `[n]`: a factor per output, from a folded batch norm.
    pub scale: Option<ParamId>,
    /// What is added to the outputs.
    pub bias: Option<Bias>,
}

/// What a linear layer adds to its outputs.
#[derive(Debug, Clone, Copy)]
pub enum Bias {
    /// `[n]`: a number per output.
    All(ParamId),
    /// `[2 n / 3]`: for the first and the last third of the outputs (queries and values, where keys
    /// have no bias).
    Outer(ParamId),
}

impl Bias {
    pub(crate) fn id(self) -> ParamId {
        match self {
            Self::All(id) | Self::Outer(id) => id,
        }
    }

    /// The number per output.
    pub(crate) fn whole(self, values: &[f32], n: usize) -> Cow<'_, [f32]> {
        match self {
            Self::All(_) => values.into(),
            Self::Outer(_) => {
                let (first, last) = values.split_at(n / 3);
                [first, &vec![0.0; n / 3], last].concat().into()
            }
        }
    }

    /// Adds a gradient per output to the gradient of the bias.
    fn give(self, gradient: &mut [f32], sum: &[f32]) {
        match self {
            Self::All(_) => simd::add_assign(gradient, sum),
            Self::Outer(_) => {
                let third = sum.len() / 3;
                simd::add_assign(&mut gradient[..third], &sum[..third]);
                simd::add_assign(&mut gradient[third..], &sum[2 * third..]);
            }
        }
    }
}

impl LinearParams {
    pub(crate) fn ids(self) -> impl Iterator<Item = ParamId> {
        [Some(self.weight), self.scale, self.bias.map(Bias::id)].into_iter().flatten()
    }
}

impl Exec<'_> {
    /// Applies a linear layer and an activation.
    ///
    /// # Shapes
    /// `x`: `[m, k]`, result: `[m, n]`.
    ///
    /// # Panics
    /// When the weight has not `n · k` values for the given `n`.
    #[must_use]
    pub fn linear(&self, x: &Tensor, p: LinearParams, activation: Activation) -> Tensor {
        let (m, k) = (x.rows(), x.cols());
        let weight = self.value(p.weight);
        let n = weight.len() / k;
        let scaled = p.scale.map(|s| {
            let mut scaled = self.take(n * k);
            scale_rows(scaled.as_mut(), weight, self.value(s), k);
            scaled
        });
        let effective = scaled.as_ref().map_or(weight, AsRef::as_ref);
        let ids: Vec<_> = p.ids().collect();
        let records = self.records(&[x], &ids);
        let bias = p.bias.map(|b| b.whole(self.value(b.id()), n));
        let bias = bias.as_deref();
        // Where the derivative is of z, the product leaves z and the activation goes from z to y.
        let keep_z = records && !activation.derivative_from_output();
        let now = if keep_z { Activation::Identity } else { activation };
        let mut y = self.take(m * n);
        matmul_then(
            &mut MatMut::new(y.as_mut(), m, n),
            MatRef::new(x.values(), m, k),
            MatRef::new(effective, n, k).transposed(),
            |_, rows| bias_and_activation(rows, bias, n, now),
        );
        let (y, z) = if keep_z { (self.activate(&y, activation), Some(y)) } else { (y, None) };
        let y = Tensor::new(m, n, y, None);
        let backward = records.then(|| {
            let kept = match z {
                Some(z) => Tensor::new(m, n, z, None),
                None => y.clone(),
            };
            Box::new(Linear { x: x.clone(), kept, scaled, p, activation }) as Box<dyn Backward>
        });
        self.record(y, backward)
    }
}

impl Exec<'_> {
    /// `act(z)`
    pub(crate) fn activate(&self, z: &Buffer, activation: Activation) -> Buffer {
        let z = z.as_ref();
        let mut y = self.take(z.len());
        simd::for_row_blocks(y.as_mut(), 1, |first, y| {
            y.copy_from_slice(&z[first..first + y.len()]);
            activation.apply(y);
        });
        y
    }
}

/// `out = s ∘ w`, a factor per row of length `k`.
fn scale_rows(out: &mut [f32], w: &[f32], s: &[f32], k: usize) {
    vectorize(|| {
        for ((out, w), s) in out.chunks_exact_mut(k).zip(w.chunks_exact(k)).zip(s) {
            for (o, w) in out.iter_mut().zip(w) {
                *o = w * s;
            }
        }
    });
}

/// `act(z + b)` in place, on rows of width `n`.
#[inline(always)]
pub(crate) fn bias_and_activation(
    z: &mut [f32],
    bias: Option<&[f32]>,
    n: usize,
    activation: Activation,
) {
    if let Some(bias) = bias {
        z.chunks_exact_mut(n).for_each(|z| simd::add_assign(z, bias));
    }
    activation.apply(z);
}

/// `dy ∘ act'` in place, and the sum of its rows into the bias gradient, in one pass.
pub(crate) fn activation_backward(
    cx: &mut BackwardPass<'_>,
    dy: &mut Buffer,
    kept: &Tensor,
    activation: Activation,
    bias: Option<Bias>,
) {
    let (n, kept) = (kept.cols(), kept.values());
    let db = bias.and_then(|b| Some((b, cx.trained(b.id())?.1)));
    if db.is_none() && activation == Activation::Identity {
        return;
    }
    let sums = simd::map_row_blocks(dy.as_mut(), n, |first, dy| {
        activation.scale_gradient(dy, &kept[first * n..first * n + dy.len()]);
        let mut sum = vec![0.0; if db.is_some() { n } else { 0 }];
        for dy in dy.chunks_exact(n) {
            simd::add_assign(&mut sum, dy);
        }
        sum
    });
    if let Some((bias, db)) = db {
        sums.iter().for_each(|sum| bias.give(db, sum));
    }
}

struct Linear {
    x: Tensor,
    kept: Tensor,
    scaled: Option<Buffer>,
    p: LinearParams,
    activation: Activation,
}

impl Backward for Linear {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        let (m, k, n) = (self.x.rows(), self.x.cols(), self.kept.cols());
        activation_backward(cx, &mut dy, &self.kept, self.activation, self.p.bias);
        let g = MatRef::new(dy.as_ref(), m, n);
        let x = MatRef::new(self.x.values(), m, k);
        match self.p.scale {
            None => {
                if let Some((_, dw)) = cx.trained(self.p.weight) {
                    matmul(&mut MatMut::new(dw, n, k), g.transposed(), x, true);
                }
            }
            Some(scale) => scaled_weight_backward(cx, self.p.weight, scale, g, x, (n, k)),
        }
        if let Some(input) = self.x.node() {
            let mut dx = cx.pool().take(m * k);
            let w = self.scaled.as_ref().map_or_else(|| cx.value(self.p.weight), AsRef::as_ref);
            matmul(&mut MatMut::new(dx.as_mut(), m, k), g, MatRef::new(w, n, k), false);
            cx.give(input, dx);
        }
    }
}

fn scaled_weight_backward(
    cx: &mut BackwardPass<'_>,
    weight: ParamId,
    scale: ParamId,
    g: MatRef<'_>,
    x: MatRef<'_>,
    (n, k): (usize, usize),
) {
    if cx.trained(weight).is_none() && cx.trained(scale).is_none() {
        return;
    }
    let mut product = cx.pool().take(n * k);
    matmul(&mut MatMut::new(product.as_mut(), n, k), g.transposed(), x, false);
    give_scaled(cx, weight, scale, product.as_ref(), k);
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
        vectorize(|| {
            for ((dw, p), s) in dw.chunks_exact_mut(k).zip(product.chunks_exact(k)).zip(&factors) {
                for (dw, p) in dw.iter_mut().zip(p) {
                    *dw += p * s;
                }
            }
        });
    }
    let sums: Vec<f32> = vectorize(|| {
        let rows = cx.value(weight).chunks_exact(k).zip(product.chunks_exact(k));
        rows.map(|(w, p)| simd::dot(w, p)).collect()
    });
    if let Some((_, ds)) = cx.trained(scale) {
        simd::add_assign(ds, &sums);
    }
}
