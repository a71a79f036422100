//! The forward of attention: blocks of queries, so that no `[t, t]` matrix is written.
//!
//! In:  units. Out: their rows of the result.
//! Per head, keys and values are packed once for a unit; for a tile of queries the scores stand in a
//! scratch of the thread, become weights there, and are multiplied with the values into the result.

use std::{cell::RefCell, ops::Range};

use pulp::Simd;

use super::{
    LANES,
    work::{Operands, Rows, Unit, Work},
};
use crate::{
    aligned::Aligned,
    gemm::{
        TileKernel, Words,
        small::{self, Panels, Task, Tiles},
    },
    math, simd,
};

/// Memory of one thread.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Packed keys, `[c, n]`, and values, `[n, c]`.
    pub(super) keys: Panels,
    pub(super) values: Panels,
    /// Rows that are turned or scaled.
    pub(super) rows: Aligned,
    /// The same, or weights, as words.
    pub(super) words: Aligned,
    /// Scores, then weights, of a block of queries; and the factor that brings a row's sum to one.
    pub(super) weights: Aligned,
    pub(super) inverse: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Computes some units.
///
/// # Shapes
/// `out`: the units' rows, `[·, d]`.
pub(super) fn run(work: &Work, of: Operands<'_>, units: &[Unit], out: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        small::run(Forward { work, of, units, out, scratch }, work.precision);
    });
}

struct Forward<'a> {
    work: &'a Work,
    of: Operands<'a>,
    units: &'a [Unit],
    out: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Task for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd, K: TileKernel>(self, tiles: Tiles<S, K>) {
        let Self { work, of, units, out, scratch } = self;
        let mut row = 0;
        for unit in units.iter().filter(|unit| !unit.positions.is_empty()) {
            let n = unit.positions.len();
            let out = &mut out[row * work.d..(row + n) * work.d];
            for head in 0..work.spec.heads {
                Head::new(work, of, unit, head).forward(tiles, out, scratch);
            }
            row += n;
        }
    }
}

/// One head of a unit.
pub(super) struct Head<'a> {
    pub(super) work: &'a Work,
    pub(super) of: Operands<'a>,
    pub(super) unit: &'a Unit,
    pub(super) head: usize,
    /// Keys that the queries of the unit see.
    pub(super) keys: Range<usize>,
}

impl<'a> Head<'a> {
    #[inline(always)]
    pub(super) fn new(work: &'a Work, of: Operands<'a>, unit: &'a Unit, head: usize) -> Self {
        Self { work, of, unit, head, keys: work.keys(unit, unit.positions.clone()) }
    }

    /// The head's first column.
    #[inline(always)]
    pub(super) fn column(&self) -> usize {
        self.head * self.work.c()
    }

    /// Numbers of a row of scores: whole vectors.
    #[inline(always)]
    pub(super) fn row_len(&self) -> usize {
        self.keys.len().next_multiple_of(LANES)
    }

    /// Blocks of at most `most` queries, of even size.
    #[inline(always)]
    pub(super) fn blocks(&self, most: usize) -> impl Iterator<Item = Range<usize>> {
        let (first, len) = (self.unit.positions.start, self.unit.positions.len());
        let n = len.div_ceil(most);
        (0..n).map(move |i| first + i * len / n..first + (i + 1) * len / n)
    }

    #[inline(always)]
    fn forward<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (d, c, column) = (self.work.d, self.work.c(), self.column());
        if self.keys.is_empty() {
            return out.chunks_exact_mut(d).for_each(|row| row[column..column + c].fill(0.0));
        }
        self.pack_keys(tiles, scratch);
        let tokens = self.unit.start + self.keys.start..self.unit.start + self.keys.end;
        tiles.pack(self.of.v.matrix(tokens, column, c), &mut scratch.values);
        for block in self.blocks(tiles.rows()) {
            self.weigh(tiles, block.clone(), scratch);
            let keys = self.local_keys(block.clone());
            let Scratch { values, words, weights, inverse, .. } = &mut *scratch;
            let len = self.row_len();
            let weights = &weights.as_ref()[..block.len() * len];
            let left = Words::rows(tiles.words(weights, len, words), len / tiles.per_word());
            let inner = keys.start / tiles.per_word()..keys.end.div_ceil(tiles.per_word());
            let out = &mut out[(block.start - self.unit.positions.start) * d..];
            tiles.multiply((left, block.len()), values, (inner, 0..c), |r, first, sums| {
                let to = &mut out[r * d + column + first..][..sums.len().min(c - first)];
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum * inverse[r]);
            });
        }
    }

    /// Packs the keys, turned to their positions, as columns.
    #[inline(always)]
    pub(super) fn pack_keys<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        scratch: &mut Scratch,
    ) {
        let Scratch { keys, rows, words, .. } = scratch;
        let c = self.work.c();
        let rows = rows.at_least(self.keys.len() * c);
        self.load(rows, self.of.k, self.unit.start + self.keys.start, self.keys.start, 1.0);
        tiles.pack_transposed(tiles.words(rows, c, words), c.div_ceil(tiles.per_word()), keys);
    }

    /// Copies rows of queries or keys, turned to their positions, times `factor`.
    #[inline(always)]
    pub(super) fn load(
        &self,
        to: &mut [f32],
        from: Rows<'_>,
        row: usize,
        position: usize,
        factor: f32,
    ) {
        let (c, column) = (self.work.c(), self.column());
        for (i, to) in to.chunks_exact_mut(c).enumerate() {
            let from = from.row(row + i, column, c);
            match &self.work.spec.rotary {
                Some(table) => table.turn(to, from, position + i, 1.0),
                None => to.copy_from_slice(from),
            }
            if factor != 1.0 {
                to.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }

    /// Keys that a block of queries sees, counted from the first of this head.
    #[inline(always)]
    pub(super) fn local_keys(&self, block: Range<usize>) -> Range<usize> {
        let keys = self.work.keys(self.unit, block);
        keys.start - self.keys.start..keys.end - self.keys.start
    }

    /// Writes the weights of a block of queries, not yet divided by their sum, zeros where a query does
    /// not see a key that another of the block sees.
    #[inline(always)]
    pub(super) fn weigh<S: Simd, K: TileKernel>(
        &self,
        tiles: Tiles<S, K>,
        block: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (n, c, len) = (block.len(), self.work.c(), self.row_len());
        let Scratch { keys, rows, words, weights, inverse, .. } = scratch;
        let rows = rows.at_least(n * c);
        let row = self.unit.row + block.start - self.unit.positions.start;
        self.load(rows, self.of.q, row, block.start, self.work.scale());
        let k_words = c.div_ceil(tiles.per_word());
        let left = Words::rows(tiles.words(rows, c, words), k_words);
        let seen = self.local_keys(block.clone());
        let weights = weights.at_least(n * len);
        tiles.multiply((left, n), keys, (0..k_words, seen.clone()), |r, first, sums| {
            let to = &mut weights[r * len + first..][..sums.len()];
            match &self.work.bias {
                None => to.copy_from_slice(sums),
                Some(bias) => {
                    let bias = bias.row(self.head, block.start + r, self.keys.start + first);
                    to.iter_mut().zip(sums).zip(bias).for_each(|((to, s), b)| *to = s + b);
                }
            }
        });
        inverse.clear();
        let whole = seen.start..seen.end.next_multiple_of(LANES);
        for (row, i) in weights.chunks_exact_mut(len).zip(block) {
            let own = self.work.seen(self.unit, i);
            let begin = self.keys.start + whole.start;
            let own = own.start.max(begin) - begin..own.end.max(begin) - begin;
            inverse.push(exponentials(&mut row[whole.clone()], own));
        }
    }
}

/// `e^(s − max s)` of the scores that are seen, in place; zeros elsewhere. Gives `1 / Σ`, or zero where
/// nothing is seen. The sum does not depend on how many whole vectors of unseen scores there are.
#[inline(always)]
fn exponentials(scores: &mut [f32], seen: Range<usize>) -> f32 {
    if seen.is_empty() {
        scores.fill(0.0);
        return 0.0;
    }
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let max = simd::max(scores);
    let mut sums = [0.0; LANES];
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    for scores in vectors {
        for (s, sum) in scores.iter_mut().zip(&mut sums) {
            let e = math::exp(*s - max);
            *s = if *s == f32::NEG_INFINITY { 0.0 } else { e };
            *sum += *s;
        }
    }
    1.0 / simd::sum(&sums)
}
