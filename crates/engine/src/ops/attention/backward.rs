//! The backward of attention.
//!
//! With `P` the weights, computed again, `dP = do vᵀ` and `dS = P ∘ (dP − Σⱼ dP ∘ P)`:
//! `dv = Pᵀ do`, `dq = dS k / √c`, `dk = dSᵀ q / √c`, both turned back from their positions; `B` gets the
//! sums of `dS` along the diagonals.
//! In:  `dL/do`. Out: the gradients of `q`, `k`, `v` and of the bias' table.
//! The queries of a sequence are taken in blocks; `dk` and `dv` are summed over the blocks in order.

use std::{cell::RefCell, f32::consts::LN_2, ops::Range};

use pulp::Simd;
use rayon::prelude::*;

use super::{
    DistanceBias,
    forward::{Head, Scratch as Forward},
    work::{Operands, Rows, Unit, Work},
};
use crate::{
    Tensor,
    aligned::Aligned,
    gemm::{
        MatRef, TileKernel, Words,
        small::{self, Panels, Task, Tiles, copy_vectors},
    },
    simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

/// The most queries of a block: the inner dimension of `dk` and `dv`.
const BLOCK: usize = 64;
/// Pieces of work per thread, if there are as many heads.
const PIECES_PER_THREAD: usize = 2;

struct Attention {
    qkv: Tensor,
    work: Work,
}

pub(super) fn node(qkv: Tensor, work: Work) -> Box<dyn Backward> {
    Box::new(Attention { qkv, work })
}

impl Backward for Attention {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let work = &self.work;
        let mut dx = cx.pool().take(self.qkv.values().len());
        let units = work.sequences();
        let pieces = work.pieces(&units, dx.as_mut());
        let (of, dy) = (Operands::side_by_side(&self.qkv), Rows::new(dy.as_ref(), work.d));
        let diagonals: Vec<Vec<f32>> = pieces
            .into_par_iter()
            .with_max_len(1)
            .map(|piece| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let mut diagonals = Vec::new();
                    let piece =
                        Gradients { work, of, dy, piece, scratch, diagonals: &mut diagonals };
                    small::run(piece, work.precision);
                    diagonals
                })
            })
            .collect();
        work.give_bias(cx, &units, diagonals.concat());
        if let Some(input) = self.qkv.node() {
            cx.give(input, dx);
        }
    }
}

/// Some heads of a sequence, and where their gradients go.
struct Piece<'a, 'o> {
    unit: &'a Unit,
    heads: Range<usize>,
    /// The columns of these heads in the gradients of `q`, `k` and `v` of each token.
    out: Vec<&'o mut [f32]>,
}

impl Work {
    /// Cuts the gradients of sequences, rows `[t, 3 d]`, into pieces of some heads each.
    fn pieces<'a, 'o>(&self, units: &'a [Unit], mut out: &'o mut [f32]) -> Vec<Piece<'a, 'o>> {
        let heads = self.spec.heads;
        let wanted =
            (PIECES_PER_THREAD * rayon::current_num_threads()).div_ceil(units.len().max(1));
        let n = (1..=heads).find(|n| heads.is_multiple_of(*n) && *n >= wanted).unwrap_or(heads);
        let mut pieces = Vec::with_capacity(n * units.len());
        for unit in units {
            let (rows, rest) = out.split_at_mut(unit.t * 3 * self.d);
            out = rest;
            let first = pieces.len();
            pieces.extend((0..n).map(|i| Piece {
                unit,
                heads: i * heads / n..(i + 1) * heads / n,
                out: Vec::with_capacity(3 * unit.t),
            }));
            for (i, columns) in rows.chunks_exact_mut(self.d / n).enumerate() {
                pieces[first + i % n].out.push(columns);
            }
        }
        pieces
    }

    fn learns_bias(&self) -> bool {
        self.spec.bias.as_ref().and_then(DistanceBias::parameter).is_some()
    }

    /// Adds the sums along the diagonals of each sequence and head, by distance from `−(t − 1)`, to the
    /// bias' gradient.
    fn give_bias(&self, cx: &mut BackwardPass<'_>, units: &[Unit], diagonals: Vec<f32>) {
        let Some(DistanceBias::Buckets { table, bucket_of }) = &self.spec.bias else { return };
        let Some((_, gradient)) = cx.trained(*table) else { return };
        let heads = self.spec.heads;
        let mut rest = diagonals.as_slice();
        for unit in units.iter().filter(|unit| unit.t > 0) {
            for head in 0..heads {
                let (sums, more) = rest.split_at(2 * unit.t - 1);
                rest = more;
                let skip = (bucket_of.len() - sums.len()) / 2;
                for (bucket, sum) in bucket_of[skip..].iter().zip(sums) {
                    gradient[bucket * heads + head] += sum;
                }
            }
        }
    }
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct Scratch {
    forward: Forward,
    /// Keys as rows, `[n, c]`.
    key_rows: Panels,
    /// Values as columns, `[c, n]`.
    value_columns: Panels,
    /// Queries, then `do`, of a block, `[·, c]`.
    block_rows: Panels,
    d_out: Aligned,
    /// `dS` of a block.
    ds: Aligned,
    words: Aligned,
    dq: Aligned,
    dk: Aligned,
    dv: Aligned,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Gradients<'a, 'o> {
    work: &'a Work,
    of: Operands<'a>,
    dy: Rows<'a>,
    piece: Piece<'a, 'o>,
    scratch: &'a mut Scratch,
    diagonals: &'a mut Vec<f32>,
}

impl Task for Gradients<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, K: TileKernel>(self, tiles: Tiles<S, K>) {
        let Piece { unit, heads, mut out } = self.piece;
        if unit.t == 0 {
            return;
        }
        for (i, head) in heads.clone().enumerate() {
            let diagonals = match self.work.learns_bias() {
                true => {
                    let from = self.diagonals.len();
                    self.diagonals.resize(from + 2 * unit.t - 1, 0.0);
                    &mut self.diagonals[from..]
                }
                false => &mut [],
            };
            let of_head = |head| Head::new(self.work, self.of, unit, head);
            let next = (head + 1 < heads.end).then(|| of_head(head + 1));
            let head = of_head(head);
            head.backward(tiles, (self.dy, next), (self.scratch, diagonals));
            head.write(&mut out, i * self.work.c(), self.scratch);
        }
    }
}

impl Head<'_> {
    /// Computes `dq` of all queries, `dk` and `dv` of the keys that are seen.
    #[inline(always)]
    fn backward<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        (dy, next): (Rows<'_>, Option<Self>),
        (scratch, diagonals): (&mut Scratch, &mut [f32]),
    ) {
        let c = self.work.c();
        let (n_keys, n_queries) = (self.keys.len() * c, self.unit.t * c);
        scratch.dk.at_least(n_keys).fill(0.0);
        scratch.dv.at_least(n_keys).fill(0.0);
        scratch.dq.at_least(n_queries).fill(0.0);
        if self.keys.is_empty() {
            return;
        }
        self.pack_keys(tiles, &mut scratch.forward);
        let n = self.keys.len();
        let rows = &scratch.forward.rows.as_ref()[..n_keys];
        tiles.pack(MatRef::new(rows, n, c), &mut scratch.key_rows);
        let rows = scratch.forward.rows.at_least(self.row_len() * c);
        self.copy(&mut rows[..n_keys], self.of.v, self.unit.start + self.keys.start);
        rows[n_keys..].fill(0.0);
        let words = (tiles.words(rows, c, &mut scratch.words), c.div_ceil(tiles.per_word()));
        tiles.pack_transposed(words, n, &mut scratch.value_columns);
        for block in self.blocks(BLOCK) {
            if let Some(next) = &next {
                next.prefetch((block.clone(), self.unit.positions.clone()), &[self.of.q, dy]);
            }
            self.weigh(tiles, block.clone(), &mut scratch.forward);
            self.score_gradients(tiles, dy, block.clone(), scratch);
            self.sum_diagonals(block.clone(), scratch, diagonals);
            self.query_gradients(tiles, block.clone(), scratch);
            self.key_gradients(tiles, block, scratch);
        }
    }

    /// Writes `do` and `dS` of a block of queries, and divides the weights by their sums.
    #[inline(always)]
    fn score_gradients<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        dy: Rows<'_>,
        block: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (n, c, len) = (block.len(), self.work.c(), self.row_len());
        let Scratch { forward, value_columns, d_out, ds, words, .. } = scratch;
        let d_out = d_out.at_least(n * c);
        self.copy(d_out, dy, self.unit.start + block.start);
        let k_words = c.div_ceil(tiles.per_word());
        let left = Words::rows(tiles.words(d_out, c, words), k_words);
        let keys = self.local_keys(block);
        let ds = ds.at_least(n * len);
        tiles.multiply((left, n), value_columns, (0..k_words, keys.clone()), |r, first, sums| {
            copy_vectors::<K, f32>(&mut ds[r * len + first..][..sums.len()], sums);
        });
        let weights = forward.weights.at_least(n * len).chunks_exact_mut(len);
        for ((ds, p), inverse) in ds.chunks_exact_mut(len).zip(weights).zip(&forward.inverse) {
            p[..keys.start].fill(0.0);
            p[keys.end..].fill(0.0);
            ds[..keys.start].fill(0.0);
            ds[keys.end..].fill(0.0);
            for p in p.iter_mut() {
                *p *= inverse;
            }
            let mean = simd::dot(ds, p);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = *p * (*ds - mean);
            }
        }
    }

    /// Adds `dS` of a block over equal `j − i`.
    #[inline(always)]
    fn sum_diagonals(&self, block: Range<usize>, scratch: &Scratch, diagonals: &mut [f32]) {
        if diagonals.is_empty() {
            return;
        }
        let rows = scratch.ds.as_ref().chunks_exact(self.row_len());
        for (i, row) in block.zip(rows) {
            let from = self.unit.t - 1 - i + self.keys.start;
            simd::add_assign(&mut diagonals[from..from + self.keys.len()], &row[..self.keys.len()]);
        }
    }

    /// `dq = dS k / √c` of a block of queries.
    #[inline(always)]
    fn query_gradients<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        block: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (n, c, len) = (block.len(), self.work.c(), self.row_len());
        let Scratch { key_rows, ds, words, dq, .. } = scratch;
        let (keys, scale) = (self.local_keys(block.clone()), self.work.scale());
        let ds = &ds.as_ref()[..n * len];
        let left = Words::rows(tiles.words(ds, len, words), len / tiles.per_word());
        let inner = keys.start / tiles.per_word()..keys.end.div_ceil(tiles.per_word());
        let dq = &mut dq.as_mut()[block.start * c..];
        tiles.multiply((left, n), key_rows, (inner, 0..c), |r, first, sums| {
            let to = &mut dq[r * c + first..][..sums.len().min(c - first)];
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = sum * scale;
            }
        });
    }

    /// Adds a block of queries to `dv = Pᵀ do` and `dk = dSᵀ q / √c`; the queries are scaled already,
    /// for powers of two.
    #[inline(always)]
    fn key_gradients<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        block: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (n, c, len) = (block.len(), self.work.c(), self.row_len());
        let keys = self.local_keys(block);
        let Scratch { forward, block_rows, d_out, ds, words, dk, dv, .. } = scratch;
        let of_values = (forward.weights.as_ref(), d_out.as_ref(), dv, 1.0);
        let of_keys = (ds.as_ref(), forward.rows.as_ref(), dk, LN_2);
        for (left, right, sum, factor) in [of_values, of_keys] {
            tiles.pack(MatRef::new(&right[..n * c], n, c), block_rows);
            let left = tiles.column_words(&left[..n * len], len, words);
            let left = Words::columns(&left[keys.start..], len);
            let sum = &mut sum.as_mut()[keys.start * c..];
            let inner = 0..n.div_ceil(tiles.per_word());
            tiles.multiply((left, keys.len()), block_rows, (inner, 0..c), |r, first, sums| {
                let to = &mut sum[r * c + first..][..sums.len().min(c - first)];
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to += factor * sum;
                }
            });
        }
    }

    /// Writes `dq` and `dk`, turned back, and `dv` to columns from `column` on of each token.
    #[inline(always)]
    fn write(&self, out: &mut [&mut [f32]], column: usize, scratch: &Scratch) {
        let c = self.work.c();
        let Scratch { dq, dk, dv, .. } = scratch;
        for (position, token) in out.chunks_exact_mut(3).enumerate() {
            let [q, k, v] = token else { unreachable!("three pieces per token") };
            let [q, k, v] = [q, k, v].map(|x| &mut x[column..column + c]);
            self.turn_back(q, &dq.as_ref()[position * c..][..c], position);
            if self.keys.contains(&position) {
                let at = (position - self.keys.start) * c;
                self.turn_back(k, &dk.as_ref()[at..][..c], position);
                v.copy_from_slice(&dv.as_ref()[at..][..c]);
            } else {
                k.fill(0.0);
                v.fill(0.0);
            }
        }
    }

    #[inline(always)]
    fn turn_back(&self, to: &mut [f32], from: &[f32], place: usize) {
        match &self.work.spec.rotary {
            Some(table) => {
                table.turn(to, from, self.work.position(self.unit, place), -1.0);
            }
            None => to.copy_from_slice(from),
        }
    }

    /// Copies rows of this head.
    #[inline(always)]
    fn copy(&self, to: &mut [f32], from: Rows<'_>, row: usize) {
        let c = self.work.c();
        for (i, to) in to.chunks_exact_mut(c).enumerate() {
            to.copy_from_slice(from.row(row + i, self.column(), c));
        }
    }
}
