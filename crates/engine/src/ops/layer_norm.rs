//! Layer normalisation: `y = γ ∘ (x − μ) / √(σ² + ε) + β`, per row.
//!
//! Backward, with `x̂` the normalised row, `g = dy ∘ γ`, `r = 1/√(σ² + ε)`:
//! `dx = r (g − mean(g) − x̂ mean(g ∘ x̂))`, `dγ = Σ dy ∘ x̂`, `dβ = Σ dy`.
//! Source: Ba et al. 2016. The variance is the biased one, as in PyTorch.

use crate::{
    Exec, ParamId, RowNorm, Tensor, simd,
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
        let RowNorm { weight, bias, eps } = norm;
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
        let affine = [Some(weight), bias];
        let backward = self
            .records(&[x], &affine.into_iter().flatten().collect::<Vec<_>>())
            .then(|| Box::new(LayerNorm { x: x.clone(), weight, bias, eps }) as Box<dyn Backward>);
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
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
}

impl Backward for LayerNorm {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let (m, d, eps) = (self.x.rows(), self.x.cols(), self.eps);
        let (x, dy) = (self.x.values(), dy.as_ref());
        // Both affine gradients in one pass: the first half is dγ, the second dβ.
        let mut affine = vec![0.0; 2 * d];
        simd::sum_row_blocks(
            m,
            d,
            &mut affine,
            #[inline(always)]
            |first, rows, partial| {
                let (d_gamma, d_beta) = partial.split_at_mut(d);
                let range = first * d..(first + rows) * d;
                for (x, dy) in x[range.clone()].chunks_exact(d).zip(dy[range].chunks_exact(d)) {
                    let (mean, r) = moments(x, eps);
                    for (((dg, db), x), dy) in d_gamma.iter_mut().zip(&mut *d_beta).zip(x).zip(dy) {
                        *dg += dy * (x - mean) * r;
                        *db += dy;
                    }
                }
            },
        );
        if let Some((_, d_gamma)) = cx.trained(self.weight) {
            simd::add_assign(d_gamma, &affine[..d]);
        }
        if let Some((_, d_beta)) = self.bias.and_then(|b| cx.trained(b)) {
            simd::add_assign(d_beta, &affine[d..]);
        }
        if let Some(input) = self.x.node() {
            let mut dx = cx.pool().take(x.len());
            let gamma = cx.value(self.weight);
            simd::for_row_blocks(
                dx.as_mut(),
                d,
                #[inline(always)]
                |first, dx| {
                    let range = first * d..first * d + dx.len();
                    let rows = x[range.clone()].chunks_exact(d).zip(dy[range].chunks_exact(d));
                    for (dx, (x, dy)) in dx.chunks_exact_mut(d).zip(rows) {
                        row_backward(dx, x, dy, gamma, eps);
                    }
                },
            );
            cx.give(input, dx);
        }
    }
}

#[inline(always)]
fn row_backward(dx: &mut [f32], x: &[f32], dy: &[f32], gamma: &[f32], eps: f32) {
    let n = x.len() as f32;
    let (mean, r) = moments(x, eps);
    for ((dx, dy), gamma) in dx.iter_mut().zip(dy).zip(gamma) {
        *dx = dy * gamma; // g
    }
    let mean_g = simd::sum(dx) / n;
    // Σ g ∘ x̂ = r (Σ g ∘ x − μ Σ g)
    let mean_gx = r * (simd::dot(dx, x) / n - mean * mean_g);
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = r * (*dx - mean_g - (x - mean) * r * mean_gx);
    }
}
