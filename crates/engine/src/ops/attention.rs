//! Multi-head self-attention over packed sequences, without padding.
//!
//! `o = softmax(q kᵀ / √c) v` per sequence and head. Sequences lie one behind the other at `offsets`,
//! so no token ever sees another sequence. The backward computes the weights again from `q` and `k`
//! instead of keeping them: with `P` the weights, `dP = do vᵀ`, `dS = P ∘ (dP − Σⱼ dP ∘ P)`:
//! `dv = Pᵀ do`, `dq = dS k / √c`, `dk = dSᵀ q / √c`.
//! Source: Vaswani et al. 2017; recomputation as in Dao et al. 2022.

use std::{cell::RefCell, sync::Arc};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Exec, MatRef, Tensor,
    aligned::Aligned,
    gemm::small::ProductScratch,
    math, simd,
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
            unit.forward(qkv.values(), out);
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
            unit.backward(qkv, dy.as_ref(), out);
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
    fn interleave(&self, by_head: &[f32], mut out: &mut [f32], n: usize) {
        let (d, c) = (self.d, self.d / self.spec.heads);
        let mut sequences = Vec::with_capacity(self.offsets.len() - 1);
        for sequence in self.offsets.windows(2) {
            let (rows, rest) = out.split_at_mut(n * (sequence[1] - sequence[0]) * d);
            sequences.push((&by_head[n * sequence[0] * d..n * sequence[1] * d], rows));
            out = rest;
        }
        sequences.into_par_iter().with_min_len(8).for_each(|(by_head, out)| {
            let t = out.len() / (n * d);
            for (head, unit) in by_head.chunks_exact(n * t * c).enumerate() {
                for (block, matrix) in unit.chunks_exact(t * c).enumerate() {
                    for (token, row) in matrix.chunks_exact(c).enumerate() {
                        let at = token * n * d + block * d + head * c;
                        out[at..at + c].copy_from_slice(row);
                    }
                }
            }
        });
    }
}

/// Memory of one thread for the matrices of a unit.
#[derive(Default)]
struct Scratch {
    /// The weights, `[t, t]`.
    p: Aligned,
    /// Their gradient, `[t, t]`.
    ds: Aligned,
    product: ProductScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Unit {
    /// The block of `q` (0), `k` (1) or `v` (2) of this unit, `[t, c]`.
    fn view<'a>(&self, qkv: &'a [f32], block: usize) -> MatRef<'a> {
        let ld = 3 * self.d;
        let data = &qkv[self.start * ld + block * self.d + self.head * self.c..];
        MatRef::rows_apart(data, (self.t, self.c), ld)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.c as f32).sqrt()
    }

    /// Writes the attention weights, `[t, t]`.
    fn weights(&self, p: &mut [f32], qkv: &[f32], scratch: &mut ProductScratch) {
        let t = self.t;
        scratch.multiply(p, self.view(qkv, 0), self.view(qkv, 1).transposed());
        let scale = self.scale();
        vectorize(|| {
            for (i, row) in p.chunks_exact_mut(t).enumerate() {
                let seen = match self.mask {
                    Mask::Bidirectional => t,
                    Mask::Causal => i + 1,
                };
                softmax(&mut row[..seen], scale);
                row[seen..].fill(0.0);
            }
        });
    }

    fn forward(&self, qkv: &[f32], out: &mut [f32]) {
        SCRATCH.with_borrow_mut(|Scratch { p, product, .. }| {
            let p = p.at_least(self.t * self.t);
            self.weights(p, qkv, product);
            product.multiply(out, MatRef::new(p, self.t, self.t), self.view(qkv, 2));
        });
    }

    /// Writes `dq`, `dk`, `dv`, each `[t, c]`, one behind the other.
    fn backward(&self, qkv: &[f32], dy: &[f32], out: &mut [f32]) {
        let (t, c, scale) = (self.t, self.c, self.scale());
        let (dq, rest) = out.split_at_mut(t * c);
        let (dk, dv) = rest.split_at_mut(t * c);
        let dy = &dy[self.start * self.d + self.head * c..];
        let dy = MatRef::rows_apart(dy, (t, c), self.d);
        SCRATCH.with_borrow_mut(|Scratch { p, ds, product }| {
            let (p, ds) = (p.at_least(t * t), ds.at_least(t * t));
            self.weights(p, qkv, product);
            product.multiply(dv, MatRef::new(p, t, t).transposed(), dy);
            product.multiply(ds, dy, self.view(qkv, 2).transposed());
            vectorize(|| {
                for (ds, p) in ds.chunks_exact_mut(t).zip(p.chunks_exact(t)) {
                    let mean = simd::dot(ds, p);
                    for (ds, p) in ds.iter_mut().zip(p) {
                        *ds = p * (*ds - mean) * scale;
                    }
                }
            });
            let ds = MatRef::new(ds, t, t);
            product.multiply(dq, ds, self.view(qkv, 1));
            product.multiply(dk, ds.transposed(), self.view(qkv, 0));
        });
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
