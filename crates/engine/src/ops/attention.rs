//! Multi-head self-attention over packed sequences, without padding.
//!
//! `o = softmax(q kᵀ / √c) v` per sequence and head. Sequences lie one behind the other at `offsets`,
//! so no token ever sees another sequence. The backward computes the weights again from `q` and `k`
//! instead of keeping them: with `P` the weights, `dP = do vᵀ`, `dS = P ∘ (dP − Σⱼ dP ∘ P)`:
//! `dv = Pᵀ do`, `dq = dS k / √c`, `dk = dSᵀ q / √c`.
//! Source: Vaswani et al. 2017; recomputation as in Dao et al. 2022.

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Exec, Tensor, math, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
    vectorize,
};

/// Which tokens a token may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All tokens of its sequence.
    Bidirectional,
    /// Itself and those before it.
    Causal,
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpec {
    /// Number of heads `h`; it divides the width.
    pub heads: usize,
    /// Which tokens are seen.
    pub mask: Mask,
}

impl Exec<'_> {
    /// Self-attention of packed sequences.
    ///
    /// # Shapes
    /// `qkv`: `[t, 3 d]` (queries, keys, values side by side, each `h` heads of `c = d / h`),
    /// `offsets`: `b + 1` positions, result: `[t, d]`.
    ///
    /// # Panics
    /// When the heads do not divide the width or the offsets do not cover the tokens.
    #[must_use]
    pub fn attention(&self, qkv: &Tensor, offsets: &Arc<[usize]>, spec: AttentionSpec) -> Tensor {
        let work = Work { offsets: offsets.clone(), d: qkv.cols() / 3, spec };
        assert_eq!(qkv.cols() % (3 * spec.heads), 0, "heads divide the width");
        assert_eq!(offsets[offsets.len() - 1], qkv.rows(), "offsets cover the tokens");
        let mut by_head = self.take(qkv.rows() * work.d);
        let outputs = work.split(by_head.as_mut(), 1);
        work.units().into_par_iter().zip(outputs).for_each(|(unit, out)| {
            vectorize(|| unit.forward(qkv.values(), out));
        });
        let mut out = self.take(qkv.rows() * work.d);
        work.interleave(by_head.as_ref(), out.as_mut(), 1);
        let (rows, d) = (qkv.rows(), work.d);
        let backward = self
            .records(&[qkv], &[])
            .then(|| Box::new(Attention { qkv: qkv.clone(), work }) as Box<dyn Backward>);
        self.output((rows, d), out, backward)
    }
}

struct Attention {
    qkv: Tensor,
    work: Work,
}

impl Backward for Attention {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let Some(input) = self.qkv.node() else { return };
        let (work, qkv) = (&self.work, self.qkv.values());
        let mut by_head = cx.pool().take(qkv.len());
        let outputs = work.split(by_head.as_mut(), 3);
        work.units().into_par_iter().zip(outputs).for_each(|(unit, out)| {
            vectorize(|| unit.backward(qkv, dy.as_ref(), out));
        });
        let mut dx = cx.pool().take(qkv.len());
        work.interleave(by_head.as_ref(), dx.as_mut(), 3);
        cx.give(input, dx);
    }
}

/// All the (sequence, head) units of one attention.
struct Work {
    offsets: Arc<[usize]>,
    d: usize,
    spec: AttentionSpec,
}

/// One head of one sequence: tokens `start..start + t`.
struct Unit {
    start: usize,
    t: usize,
    head: usize,
    /// Width per head.
    c: usize,
    /// Model width.
    d: usize,
    mask: Mask,
}

impl Work {
    fn units(&self) -> Vec<Unit> {
        let (heads, d) = (self.spec.heads, self.d);
        let sequences = self.offsets.windows(2);
        sequences
            .flat_map(|s| {
                let (start, t) = (s[0], s[1] - s[0]);
                (0..heads).map(move |head| Unit {
                    start,
                    t,
                    head,
                    c: d / heads,
                    d,
                    mask: self.spec.mask,
                })
            })
            .collect()
    }

    /// Cuts memory of `n · [t, d]` into a piece of `n · [t, c]` per unit.
    fn split<'a>(&self, mut memory: &'a mut [f32], n: usize) -> Vec<&'a mut [f32]> {
        let c = self.d / self.spec.heads;
        let mut pieces = Vec::with_capacity((self.offsets.len() - 1) * self.spec.heads);
        for sequence in self.offsets.windows(2) {
            for _ in 0..self.spec.heads {
                let (piece, rest) = memory.split_at_mut(n * (sequence[1] - sequence[0]) * c);
                pieces.push(piece);
                memory = rest;
            }
        }
        pieces
    }

    /// From `n` matrices `[t, c]` per unit to rows of `n` blocks of `h` heads.
    fn interleave(&self, by_head: &[f32], out: &mut [f32], n: usize) {
        let (d, heads) = (self.d, self.spec.heads);
        let c = d / heads;
        for sequence in self.offsets.windows(2) {
            let (start, t) = (sequence[0], sequence[1] - sequence[0]);
            for head in 0..heads {
                let unit = &by_head[n * (start * d + head * t * c)..][..n * t * c];
                for (block, matrix) in unit.chunks_exact(t * c).enumerate() {
                    for (token, row) in matrix.chunks_exact(c).enumerate() {
                        let at = (start + token) * n * d + block * d + head * c;
                        out[at..at + c].copy_from_slice(row);
                    }
                }
            }
        }
    }
}

impl Unit {
    /// The block of `q` (0), `k` (1) or `v` (2) of this unit.
    #[inline(always)]
    fn view<'a>(&self, qkv: &'a [f32], block: usize) -> Strided<'a> {
        let ld = 3 * self.d;
        let data = &qkv[self.start * ld + block * self.d + self.head * self.c..];
        Strided { data, row: ld, col: 1 }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.c as f32).sqrt()
    }

    /// `[t, t]` attention weights.
    #[inline(always)]
    fn weights(&self, qkv: &[f32]) -> Vec<f32> {
        let t = self.t;
        let mut p = vec![0.0; t * t];
        let keys = transpose(self.view(qkv, 1), t, self.c);
        product(&mut p, (t, t, self.c), self.view(qkv, 0), Strided::rows(&keys, t));
        let scale = self.scale();
        for (i, row) in p.chunks_exact_mut(t).enumerate() {
            let seen = match self.mask {
                Mask::Bidirectional => t,
                Mask::Causal => i + 1,
            };
            softmax(&mut row[..seen], scale);
            row[seen..].fill(0.0);
        }
        p
    }

    #[inline(always)]
    fn forward(&self, qkv: &[f32], out: &mut [f32]) {
        let p = self.weights(qkv);
        product(out, (self.t, self.c, self.t), Strided::rows(&p, self.t), self.view(qkv, 2));
    }

    /// Writes `dq`, `dk`, `dv`, each `[t, c]`, one behind the other.
    #[inline(always)]
    fn backward(&self, qkv: &[f32], dy: &[f32], out: &mut [f32]) {
        let (t, c, scale) = (self.t, self.c, self.scale());
        let (dq, rest) = out.split_at_mut(t * c);
        let (dk, dv) = rest.split_at_mut(t * c);
        let dy = Strided { data: &dy[self.start * self.d + self.head * c..], row: self.d, col: 1 };
        let p = self.weights(qkv);
        product(dv, (t, c, t), Strided::rows(&p, t).transposed(), dy);
        let values = transpose(self.view(qkv, 2), t, c);
        let mut ds = vec![0.0; t * t];
        product(&mut ds, (t, t, c), dy, Strided::rows(&values, t));
        for (ds, p) in ds.chunks_exact_mut(t).zip(p.chunks_exact(t)) {
            let mean = simd::dot(ds, p);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = p * (*ds - mean) * scale;
            }
        }
        product(dq, (t, c, t), Strided::rows(&ds, t), self.view(qkv, 1));
        product(dk, (t, c, t), Strided::rows(&ds, t).transposed(), self.view(qkv, 0));
    }
}

/// `softmax(scale · s)` in place.
#[inline(always)]
fn softmax(s: &mut [f32], scale: f32) {
    let max = simd::max(s);
    for s in s.iter_mut() {
        *s = math::exp((*s - max) * scale);
    }
    let inverse = 1.0 / simd::sum(s);
    s.iter_mut().for_each(|s| *s *= inverse);
}

/// A matrix read with strides.
#[derive(Clone, Copy)]
struct Strided<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Strided<'a> {
    #[inline(always)]
    fn rows(data: &'a [f32], cols: usize) -> Self {
        Self { data, row: cols, col: 1 }
    }

    #[inline(always)]
    fn transposed(self) -> Self {
        Self { row: self.col, col: self.row, ..self }
    }
}

/// `[t, c]` to `[c, t]`, contiguous.
#[inline(always)]
fn transpose(x: Strided<'_>, t: usize, c: usize) -> Vec<f32> {
    let mut out = vec![0.0; t * c];
    for i in 0..t {
        let row = &x.data[i * x.row..i * x.row + c];
        for (j, v) in row.iter().enumerate() {
            out[j * t + i] = *v;
        }
    }
    out
}

/// `out = a · b` for the small matrices of one head; `b` has contiguous rows.
///
/// # Shapes
/// `out`: `[m, n]`, `a`: `[m, k]`, `b`: `[k, n]`.
#[inline(always)]
fn product(out: &mut [f32], (m, n, k): (usize, usize, usize), a: Strided<'_>, b: Strided<'_>) {
    const WIDE: usize = 32;
    debug_assert_eq!(b.col, 1);
    let whole = n / WIDE * WIDE;
    for first in (0..whole).step_by(WIDE) {
        let mut i = 0;
        while i + 4 <= m {
            tile::<4, WIDE>(out, (i, first, n), k, a, b);
            i += 4;
        }
        while i < m {
            tile::<1, WIDE>(out, (i, first, n), k, a, b);
            i += 1;
        }
    }
    let mut first = whole;
    while first + 8 <= n {
        for i in 0..m {
            tile::<1, 8>(out, (i, first, n), k, a, b);
        }
        first += 8;
    }
    for i in 0..m {
        for j in first..n {
            out[i * n + j] =
                (0..k).map(|x| a.data[i * a.row + x * a.col] * b.data[x * b.row + j]).sum();
        }
    }
}

/// `R` rows and `C` columns of a product, held in registers over `k`.
#[inline(always)]
fn tile<const R: usize, const C: usize>(
    out: &mut [f32],
    (i, j, n): (usize, usize, usize),
    k: usize,
    a: Strided<'_>,
    b: Strided<'_>,
) {
    let mut sums = [[0.0_f32; C]; R];
    for x in 0..k {
        let b: &[f32] = &b.data[x * b.row + j..x * b.row + j + C];
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = a.data[(i + r) * a.row + x * a.col];
            for c in 0..C {
                sums[c] += a * b[c];
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        out[(i + r) * n + j..(i + r) * n + j + C].copy_from_slice(sums);
    }
}
