//! Small matrix products in f32, for the losses.
//!
//! In:  a left matrix read by strides, a right matrix packed into panels. Out: `c += a · b`.
//! The order of every sum is fixed, so equal inputs give equal bits.
//! Not here: threads; the caller splits the work.

use pulp::{Arch, Simd, WithSimd};

/// Columns of a panel; a multiple of two vectors on every supported CPU.
pub(crate) const PANEL: usize = 32;
/// Rows computed at once; eight accumulators hide the latency of the multiply-add.
pub(crate) const ROWS: usize = 4;

/// A `[k, n]` matrix as panels of [`PANEL`] columns, `[n / PANEL, k, PANEL]`, zero-padded.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    k: usize,
    values: Vec<[f32; PANEL]>,
}

impl Panels {
    /// Packs `[k, n]` given row by row.
    pub(crate) fn from_rows(rows: &[f32], n: usize) -> Self {
        let k = rows.len() / n;
        let mut values = vec![[0.0; PANEL]; n.div_ceil(PANEL) * k];
        for (kk, row) in rows.chunks_exact(n).enumerate() {
            for (panel, part) in row.chunks(PANEL).enumerate() {
                values[panel * k + kk][..part.len()].copy_from_slice(part);
            }
        }
        Self { k, values }
    }

    /// Packs `[k, n]` given as its transpose, `n` rows of `k` values.
    pub(crate) fn from_columns(columns: &[f32], k: usize) -> Self {
        let n = columns.len() / k;
        let mut values = vec![[0.0; PANEL]; n.div_ceil(PANEL) * k];
        for (j, column) in columns.chunks_exact(k).enumerate() {
            let panel = &mut values[j / PANEL * k..][..k];
            for (row, value) in panel.iter_mut().zip(column) {
                row[j % PANEL] = *value;
            }
        }
        Self { k, values }
    }

    fn panels(&self) -> impl Iterator<Item = &[[f32; PANEL]]> {
        self.values.chunks_exact(self.k)
    }
}

/// The left operand: element `(i, kk)` is `values[i * row + kk * step]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// `c += a · b` over the first `c.len() / stride` rows.
///
/// # Shapes
/// - `a`: `[m, k]`, `b`: `[k, n]`, `c`: `[m, stride]` with `stride` the padded `n`
pub(crate) fn multiply_add(a: Left<'_>, b: &Panels, c: &mut [f32], stride: usize) {
    Arch::new().dispatch(Product { a, b, c, stride });
}

struct Product<'a> {
    a: Left<'a>,
    b: &'a Panels,
    c: &'a mut [f32],
    stride: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, c, stride } = self;
        let mut packed = vec![[0.0; ROWS]; b.k];
        for (group, c) in c.chunks_mut(ROWS * stride).enumerate() {
            let n_rows = c.len() / stride;
            pack_rows(a, group * ROWS, n_rows, &mut packed);
            for (panel_idx, panel) in b.panels().enumerate() {
                for first in (0..PANEL).step_by(2 * S::F32_LANES) {
                    let sums = accumulate(simd, &packed, panel, first);
                    let column = panel_idx * PANEL + first;
                    for (row, sums) in c.chunks_exact_mut(stride).zip(sums) {
                        add_to(simd, &mut row[column..column + 2 * S::F32_LANES], sums);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pack_rows(a: Left<'_>, first: usize, n_rows: usize, packed: &mut [[f32; ROWS]]) {
    for r in 0..n_rows {
        let values = a.values[(first + r) * a.row..].iter().step_by(a.step);
        for (pack, value) in packed.iter_mut().zip(values) {
            pack[r] = *value;
        }
    }
}

#[inline(always)]
fn accumulate<S: Simd>(
    simd: S,
    packed: &[[f32; ROWS]],
    panel: &[[f32; PANEL]],
    first: usize,
) -> [[S::f32s; 2]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    for (a, b) in packed.iter().zip(panel) {
        let b = S::as_simd_f32s(&b[first..first + 2 * S::F32_LANES]).0;
        let (b0, b1) = (b[0], b[1]);
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = simd.splat_f32s(*a);
            sums[0] = simd.mul_add_e_f32s(a, b0, sums[0]);
            sums[1] = simd.mul_add_e_f32s(a, b1, sums[1]);
        }
    }
    sums
}

#[inline(always)]
fn add_to<S: Simd>(simd: S, c: &mut [f32], sums: [S::f32s; 2]) {
    for (c, sum) in S::as_mut_simd_f32s(c).0.iter_mut().zip(sums) {
        *c = simd.add_f32s(*c, sum);
    }
}

#[cfg(test)]
mod tests {
    use conjoin_core::Seed;
    use rand::Rng as _;

    use super::*;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Seed(seed).rng();
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[track_caller]
    fn check(m: usize, k: usize, n: usize) {
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let stride = n.next_multiple_of(PANEL);
        let transposed: Vec<f32> = (0..n * k).map(|x| b[x % k * n + x / k]).collect();
        let mut c = vec![1.0; m * stride];
        let left = Left { values: &a, row: k, step: 1 };
        multiply_add(left, &Panels::from_rows(&b, n), &mut c, stride);
        let a_transposed: Vec<f32> = (0..m * k).map(|x| a[x % m * k + x / m]).collect();
        let mut c2 = vec![1.0; m * stride];
        let left = Left { values: &a_transposed, row: 1, step: m };
        multiply_add(left, &Panels::from_columns(&transposed, k), &mut c2, stride);
        assert_eq!(c, c2, "strides and packing do not change a bit");
        for i in 0..m {
            for j in 0..n {
                let want: f32 = 1.0 + (0..k).map(|x| a[i * k + x] * b[x * n + j]).sum::<f32>();
                let found = c[i * stride + j];
                assert!((found - want).abs() < 1e-4, "[{i}, {j}] {found} {want}");
            }
        }
    }

    #[test]
    fn product_agrees_with_the_plain_sum() {
        check(1, 1, 1);
        check(4, 7, 32);
        check(7, 19, 33);
        check(13, 40, 70);
    }
}
