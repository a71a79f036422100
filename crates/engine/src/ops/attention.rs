//! Multi-head self-attention over packed sequences, without padding.
//!
//! `o = softmax(q kᵀ / √c + B) v` per sequence and head, with `B` a number per distance of two tokens. Sequences lie one behind the other at `offsets`,
//! so no token ever sees another sequence. The backward computes the weights again from `q` and `k`
//! instead of keeping them: with `P` the weights, `dP = do vᵀ`, `dS = P ∘ (dP − Σⱼ dP ∘ P)`:
//! `dv = Pᵀ do`, `dq = dS k / √c`, `dk = dSᵀ q / √c`.
//! `B` gets the sums of `dS √c` along the diagonals.
//! Source: Vaswani et al. 2017; `B` as in Press et al. 2022 and Raffel et al. 2020; recomputation as in Dao et al. 2022.

use std::{cell::RefCell, ops::Range, sync::Arc};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Exec, ParamId, Tensor,
    aligned::Aligned,
    gemm::{MatRef, small::ProductScratch},
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

/// What is added to the scores for the distance of two tokens.
#[derive(Debug, Clone)]
pub enum DistanceBias {
    /// `−m |i − j|` with this slope `m` for each head.
    Alibi(Arc<[f32]>),
    /// A learned number per bucket and head.
    Buckets {
        /// `[buckets, h]`
        table: ParamId,
        /// `2 n − 1` buckets, for `j − i` from `−(n − 1)` to `n − 1`, `n` the longest sequence.
        bucket_of: Arc<[usize]>,
    },
}

/// How attention is computed.
#[derive(Debug, Clone)]
pub struct AttentionSpec {
    /// Number of heads `h`; it divides the width.
    pub heads: usize,
    /// Which tokens are seen.
    pub mask: Mask,
    /// How many tokens to the left and right are seen; all of them when there is no number.
    pub reach: Option<usize>,
    /// What is added to the scores.
    pub bias: Option<DistanceBias>,
    /// How many tokens of each sequence, from its first, are seen by others and itself; all of them
    /// when there are no numbers. A token that sees none gets zeros.
    pub visible: Option<Arc<[usize]>>,
}

impl AttentionSpec {
    /// Attention to all tokens of the mask, without a bias.
    #[must_use]
    pub fn plain(heads: usize, mask: Mask) -> Self {
        Self { heads, mask, reach: None, bias: None, visible: None }
    }
}

/// The bias of every head by distance: for `j − i` from `−(n − 1)` to `n − 1`, with `n` the longest
/// sequence of the batch.
#[derive(Clone)]
struct ByDistance {
    values: Arc<[f32]>,
    n: usize,
}

impl ByDistance {
    fn of(bias: &DistanceBias, heads: usize, n: usize, exec: &Exec<'_>) -> Self {
        let distances = 0..2 * n - 1;
        let values = match bias {
            DistanceBias::Alibi(slopes) => {
                assert_eq!(slopes.len(), heads, "a slope per head");
                let row = |m: f32| distances.clone().map(move |d| -m * (d.abs_diff(n - 1)) as f32);
                slopes.iter().flat_map(|m| row(*m)).collect()
            }
            DistanceBias::Buckets { table, bucket_of } => {
                let (table, skip) = (exec.value(*table), bucket_of.len().div_ceil(2) - n);
                let row = |head| {
                    distances.clone().map(move |d| table[bucket_of[skip + d] * heads + head])
                };
                (0..heads).flat_map(row).collect()
            }
        };
        Self { values, n }
    }

    fn head(&self, head: usize) -> &[f32] {
        let width = 2 * self.n - 1;
        &self.values[head * width..(head + 1) * width]
    }

    /// The numbers for `t` keys of query `i`.
    fn row(values: &[f32], n: usize, i: usize, t: usize) -> &[f32] {
        &values[n - 1 - i..n - 1 - i + t]
    }
}

impl Exec<'_> {
    /// Self-attention of packed sequences.
    ///
    /// # Shapes
    /// `qkv`: `[t, 3 d]` (queries, keys, values side by side, each `h` heads of `c = d / h`),
    /// `offsets`: `b + 1` positions, result: `[t, d]`.
    ///
    /// # Panics
    /// When the heads do not divide the width, the offsets do not cover the tokens, or the visible
    /// tokens are told of another number of sequences.
    #[must_use]
    pub fn attention(&self, qkv: &Tensor, offsets: &Arc<[usize]>, spec: AttentionSpec) -> Tensor {
        assert_eq!(qkv.cols() % (3 * spec.heads), 0, "heads divide the width");
        assert_eq!(offsets[offsets.len() - 1], qkv.rows(), "offsets cover the tokens");
        let n_visible = spec.visible.as_ref().map_or(offsets.len() - 1, |v| v.len());
        assert_eq!(n_visible, offsets.len() - 1, "a number of visible tokens per sequence");
        let longest = offsets.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(1);
        let bias = spec.bias.as_ref().map(|b| ByDistance::of(b, spec.heads, longest, self));
        let learned: Vec<_> = spec.bias.iter().filter_map(DistanceBias::parameter).collect();
        let work = Work { offsets: offsets.clone(), d: qkv.cols() / 3, spec, bias };
        let mut by_head = self.take(qkv.rows() * work.d);
        let outputs = work.split(by_head.as_mut(), 1);
        work.units().into_par_iter().zip(outputs).for_each(|(unit, out)| {
            unit.forward(qkv.values(), out);
        });
        let mut out = self.take(qkv.rows() * work.d);
        work.interleave(by_head.as_ref(), out.as_mut(), 1);
        let (rows, d) = (qkv.rows(), work.d);
        let backward = self
            .records(&[qkv], &learned)
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
        let (work, qkv) = (&self.work, self.qkv.values());
        let learned = work.spec.bias.as_ref().and_then(DistanceBias::parameter).is_some();
        let mut by_head = cx.pool().take(qkv.len());
        let outputs = work.split(by_head.as_mut(), 3);
        let diagonals: Vec<Vec<f32>> = work
            .units()
            .into_par_iter()
            .zip(outputs)
            .map(|(unit, out)| unit.backward(qkv, dy.as_ref(), out, learned))
            .collect();
        work.give_bias(cx, &diagonals);
        if let Some(input) = self.qkv.node() {
            let mut dx = cx.pool().take(qkv.len());
            work.interleave(by_head.as_ref(), dx.as_mut(), 3);
            cx.give(input, dx);
        }
    }
}

/// All the (sequence, head) units of one attention.
struct Work {
    offsets: Arc<[usize]>,
    d: usize,
    spec: AttentionSpec,
    bias: Option<ByDistance>,
}

impl DistanceBias {
    fn parameter(&self) -> Option<ParamId> {
        match self {
            Self::Alibi(_) => None,
            Self::Buckets { table, .. } => Some(*table),
        }
    }
}

/// One head of one sequence: tokens `start..start + t`.
struct Unit<'a> {
    start: usize,
    t: usize,
    head: usize,
    /// Width per head.
    c: usize,
    /// Model width.
    d: usize,
    mask: Mask,
    reach: usize,
    /// Tokens that are seen, from the first.
    visible: usize,
    /// The numbers of this head by distance, and the longest sequence they are made for.
    bias: Option<(&'a [f32], usize)>,
}

impl Work {
    fn units(&self) -> Vec<Unit<'_>> {
        let (heads, d) = (self.spec.heads, self.d);
        let sequences = self.offsets.windows(2);
        sequences
            .enumerate()
            .flat_map(|(i, s)| {
                let (start, t) = (s[0], s[1] - s[0]);
                let visible = self.spec.visible.as_ref().map_or(t, |visible| visible[i].min(t));
                (0..heads).map(move |head| Unit {
                    start,
                    t,
                    head,
                    c: d / heads,
                    d,
                    mask: self.spec.mask,
                    reach: self.spec.reach.unwrap_or(t),
                    visible,
                    bias: self.bias.as_ref().map(|b| (b.head(head), b.n)),
                })
            })
            .collect()
    }

    /// Adds each unit's sums along the diagonals, by distance from `−(t − 1)`, to the bias' gradient.
    fn give_bias(&self, cx: &mut BackwardPass<'_>, diagonals: &[Vec<f32>]) {
        let Some(DistanceBias::Buckets { table, bucket_of }) = &self.spec.bias else { return };
        let Some((_, gradient)) = cx.trained(*table) else { return };
        let heads = self.spec.heads;
        for (unit, sums) in diagonals.iter().enumerate() {
            let skip = (bucket_of.len() - sums.len()) / 2;
            for (bucket, sum) in bucket_of[skip..].iter().zip(sums) {
                gradient[bucket * heads + unit % heads] += sum;
            }
        }
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

impl Unit<'_> {
    /// The block of `q` (0), `k` (1) or `v` (2) of this unit, `[t, c]`.
    fn view<'a>(&self, qkv: &'a [f32], block: usize) -> MatRef<'a> {
        let ld = 3 * self.d;
        let data = &qkv[self.start * ld + block * self.d + self.head * self.c..];
        MatRef::rows_apart(data, (self.t, self.c), ld)
    }

    /// The keys that query `i` sees.
    fn seen(&self, i: usize) -> Range<usize> {
        let last = match self.mask {
            Mask::Bidirectional => i.saturating_add(self.reach),
            Mask::Causal => i,
        };
        let end = last.saturating_add(1).min(self.visible);
        i.saturating_sub(self.reach).min(end)..end
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
                let seen = self.seen(i);
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
                match self.bias {
                    None => softmax(&mut row[seen], scale),
                    Some((bias, n)) => {
                        let bias = &ByDistance::row(bias, n, i, t)[seen.clone()];
                        let row = &mut row[seen];
                        row.iter_mut().zip(bias).for_each(|(s, b)| *s = *s * scale + b);
                        softmax(row, 1.0);
                    }
                }
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

    /// Writes `dq`, `dk`, `dv`, each `[t, c]`, one behind the other. Gives the gradient of the bias by
    /// distance, from `−(t − 1)` to `t − 1`, if it is `learned`.
    fn backward(&self, qkv: &[f32], dy: &[f32], out: &mut [f32], learned: bool) -> Vec<f32> {
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
            let diagonals = if learned { diagonals(ds, t, scale) } else { Vec::new() };
            let ds = MatRef::new(ds, t, t);
            product.multiply(dq, ds, self.view(qkv, 1));
            product.multiply(dk, ds.transposed(), self.view(qkv, 0));
            diagonals
        })
    }
}

/// Sums of `ds / scale`, `[t, t]`, over equal `j − i`.
fn diagonals(ds: &[f32], t: usize, scale: f32) -> Vec<f32> {
    let mut sums = vec![0.0; 2 * t - 1];
    vectorize(|| {
        for (i, row) in ds.chunks_exact(t).enumerate() {
            simd::add_assign(&mut sums[t - 1 - i..2 * t - 1 - i], row);
        }
    });
    sums.iter_mut().for_each(|s| *s /= scale);
    sums
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
