//! Layer normalisation: `y = γ ∘ (x − μ) / √(σ² + ε) + β`, per row.
//!
//! Backward, with `x̂` the normalised row, `g = dy ∘ γ`, `r = 1/√(σ² + ε)`:
//! `dx = r (g − mean(g) − x̂ mean(g ∘ x̂))`, `dγ = Σ dy ∘ x̂`, `dβ = Σ dy`.
//! Source: Ba et al. 2016. The variance is the biased one, as in PyTorch.

use crate::{
    Exec, RowNorm, Tensor, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

impl Exec<'_> {
    /// Normalises every row and applies the affine map.
    ///
    /// # Shapes
    /// `x`, result: `[m, d]`; `weight`, `bias`: `[d]`.
    #[must_use]
    pub fn layer_norm(&self, x: &Tensor, norm: RowNorm) -> Tensor {
        let eps = norm.eps;
        let (d, values, affine) = (x.cols(), x.values(), self.affine(norm));
        let mut y = self.take(values.len());
        simd::for_row_blocks(
            y.as_mut(),
            d,
            #[inline(always)]
            |first, y| {
                for (y, x) in y.chunks_exact_mut(d).zip(values[first * d..].chunks_exact(d)) {
                    normalize_row(y, x, affine, eps);
                }
            },
        );
        let backward = self
            .records(&[x], &norm.ids().collect::<Vec<_>>())
            .then(|| Box::new(LayerNorm { x: x.clone(), norm }) as Box<dyn Backward>);
        self.output((x.rows(), d), y, backward)
    }

    /// `γ` and `β`.
    pub(crate) fn affine(&self, norm: RowNorm) -> (&[f32], Option<&[f32]>) {
        (self.value(norm.weight), norm.bias.map(|bias| self.value(bias)))
    }
}

/// One row.
#[inline(always)]
pub(crate) fn normalize_row(
    y: &mut [f32],
    x: &[f32],
    (gamma, beta): (&[f32], Option<&[f32]>),
    eps: f32,
) {
    let (mean, r) = moments(x, eps);
    match beta {
        Some(beta) => {
            for (((y, x), g), b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = (x - mean) * r * g + b;
            }
        }
        None => {
            for ((y, x), g) in y.iter_mut().zip(x).zip(gamma) {
                *y = (x - mean) * r * g;
            }
        }
    }
}

/// Mean and inverse deviation of a row, in two passes.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = simd::sum(x) / n;
    let mut lanes = [0.0_f32; simd::LANES];
    let (chunks, tail) = x.as_chunks::<{ simd::LANES }>();
    for chunk in chunks {
        for i in 0..simd::LANES {
            lanes[i] += (chunk[i] - mean) * (chunk[i] - mean);
        }
    }
    let tail: f32 = tail.iter().map(|x| (x - mean) * (x - mean)).sum();
    let variance = (lanes.iter().sum::<f32>() + tail) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

struct LayerNorm {
    x: Tensor,
    norm: RowNorm,
}

impl Backward for LayerNorm {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        norm_backward(cx, &self.x, self.norm, dy);
    }
}

/// From `dL/dy` of the rows that were made of `x`, the gradients of the affine map and of `x`.
pub(crate) fn norm_backward(
    cx: &mut BackwardPass<'_>,
    x: &Tensor,
    RowNorm { weight, bias, eps }: RowNorm,
    mut dy: Buffer,
) {
    let (d, values, gamma) = (x.cols(), x.values(), cx.value(weight));
    // Both affine gradients of a block: the first half is dγ, the second dβ.
    let sums = simd::map_row_blocks(
        dy.as_mut(),
        d,
        #[inline(always)]
        |first, dy| {
            let mut affine = vec![0.0; 2 * d];
            let (d_gamma, d_beta) = affine.split_at_mut(d);
            for (dy, x) in dy.chunks_exact_mut(d).zip(values[first * d..].chunks_exact(d)) {
                let (mean, r) = moments(x, eps);
                for (((dg, db), x), dy) in d_gamma.iter_mut().zip(&mut *d_beta).zip(x).zip(&*dy) {
                    *dg += dy * (x - mean) * r;
                    *db += dy;
                }
                row_backward(dy, x, gamma, (mean, r));
            }
            affine
        },
    );
    for affine in &sums {
        if let Some((_, d_gamma)) = cx.trained(weight) {
            simd::add_assign(d_gamma, &affine[..d]);
        }
        if let Some((_, d_beta)) = bias.and_then(|b| cx.trained(b)) {
            simd::add_assign(d_beta, &affine[d..]);
        }
    }
    if let Some(input) = x.node() {
        cx.give(input, dy);
    }
}

/// `dL/dy` of a row becomes `dL/dx`.
#[inline(always)]
fn row_backward(dy: &mut [f32], x: &[f32], gamma: &[f32], (mean, r): (f32, f32)) {
    let n = x.len() as f32;
    for (dy, gamma) in dy.iter_mut().zip(gamma) {
        *dy *= gamma; // g
    }
    let mean_g = simd::sum(dy) / n;
    // Σ g ∘ x̂ = r (Σ g ∘ x − μ Σ g)
    let mean_gx = r * (simd::dot(dy, x) / n - mean * mean_g);
    for (dx, x) in dy.iter_mut().zip(x) {
        *dx = r * (*dx - mean_g - (x - mean) * r * mean_gx);
    }
}
