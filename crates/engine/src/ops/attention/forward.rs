//! The forward of attention: blocks of queries, so that no `[t, t]` matrix is written.
//!
//! In:  units. Out: their rows of the result.
//! Per head, keys and values are packed once for a unit; for a tile of queries the scores stand in a
//! scratch of the thread, become weights there, and are multiplied with the values into the result.

use std::{cell::RefCell, f32::consts::LOG2_E, ops::Range};

use pulp::Simd;

use super::{
    LANES,
    work::{Operands, Rows, Unit, Work},
};
use crate::{
    aligned::Aligned,
    gemm::{
        TileKernel, Words, prefetch,
        small::{self, Panels, Task, Tiles, copy_vectors},
    },
    math,
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
        let heads = units
            .iter()
            .filter(|unit| !unit.positions.is_empty())
            .flat_map(|unit| (0..work.spec.heads).map(move |i| Head::new(work, of, unit, i)));
        let mut heads = heads.peekable();
        let first = units[0].row;
        while let Some(head) = heads.next() {
            let begin = (head.unit.row - first) * work.d;
            let out = &mut out[begin..begin + head.unit.positions.len() * work.d];
            head.forward(tiles, out, (scratch, heads.peek()));
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
        (scratch, next): (&mut Scratch, Option<&Self>),
    ) {
        let (d, c, column) = (self.work.d, self.work.c(), self.column());
        if self.keys.is_empty() {
            for row in out.chunks_exact_mut(d) {
                row[column..column + c].fill(0.0);
            }
            return;
        }
        self.pack_keys(tiles, scratch);
        let tokens = self.unit.start + self.keys.start..self.unit.start + self.keys.end;
        tiles.pack(self.of.v.matrix(tokens, column, c), &mut scratch.values);
        for block in self.blocks(tiles.rows()) {
            if let Some(next) = next {
                next.prefetch((block.clone(), self.unit.positions.clone()), &[self.of.q]);
            }
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
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to = sum * inverse[r];
                }
            });
        }
    }

    /// Asks for a part of what this head reads, while another is computed: its rows lie too far apart for
    /// the machine to foresee them.
    #[inline(always)]
    pub(super) fn prefetch(
        &self,
        (part, whole): (Range<usize>, Range<usize>),
        of_queries: &[Rows<'_>],
    ) {
        let (c, column) = (self.work.c(), self.column());
        let share = |n: usize| {
            let at = |i: usize| (i - whole.start) * n / whole.len();
            at(part.start)..at(part.end)
        };
        for i in share(self.unit.positions.len()) {
            for rows in of_queries {
                prefetch(rows.row(self.unit.row + i, column, c));
            }
        }
        for i in share(self.keys.len()) {
            let token = self.unit.start + self.keys.start + i;
            prefetch(self.of.k.row(token, column, c));
            prefetch(self.of.v.row(token, column, c));
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
        let (n, c) = (self.keys.len(), self.work.c());
        let rows = rows.at_least(self.row_len() * c);
        let token = self.unit.start + self.keys.start;
        self.load(&mut rows[..n * c], self.of.k, token, self.keys.start, 1.0);
        rows[n * c..].fill(0.0);
        let words = (tiles.words(rows, c, words), c.div_ceil(tiles.per_word()));
        tiles.pack_transposed(words, n, keys);
    }

    /// Copies rows of queries or keys, turned to their positions, times `factor`.
    #[inline(always)]
    pub(super) fn load(
        &self,
        to: &mut [f32],
        from: Rows<'_>,
        row: usize,
        place: usize,
        factor: f32,
    ) {
        let (c, column) = (self.work.c(), self.column());
        for (i, to) in to.chunks_exact_mut(c).enumerate() {
            let from = from.row(row + i, column, c);
            match &self.work.spec.rotary {
                Some(table) => {
                    table.turn(to, from, self.work.position(self.unit, place + i), 1.0);
                    for x in to.iter_mut() {
                        *x *= factor;
                    }
                }
                None => to.iter_mut().zip(from).for_each(|(to, x)| *to = x * factor),
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
        self.load(rows, self.of.q, row, block.start, self.work.scale() * LOG2_E);
        let k_words = c.div_ceil(tiles.per_word());
        let left = Words::rows(tiles.words(rows, c, words), k_words);
        let seen = self.local_keys(block.clone());
        let weights = weights.at_least(n * len);
        tiles.multiply((left, n), keys, (0..k_words, seen.clone()), |r, first, sums| {
            let to = &mut weights[r * len + first..][..sums.len()];
            match &self.work.bias {
                None => copy_vectors::<K, f32>(to, sums),
                Some(bias) => {
                    let bias = bias.row(self.head, block.start + r, self.keys.start + first);
                    for ((to, s), b) in to.iter_mut().zip(sums).zip(bias) {
                        *to = s + b;
                    }
                }
            }
        });
        inverse.clear();
        let whole = seen.start..seen.end.next_multiple_of(LANES);
        for (row, i) in weights.chunks_exact_mut(len).zip(block) {
            let own = self.work.seen(self.unit, i);
            let begin = self.keys.start + whole.start;
            let own = own.start.max(begin) - begin..own.end.max(begin) - begin;
            inverse.push(powers(tiles.simd(), &mut row[whole.clone()], own));
        }
    }
}

/// `2^(s − max s)` of the scores that are seen, in place; zeros elsewhere. Gives `1 / Σ`, or zero where
/// nothing is seen. The sum does not depend on how many whole vectors of unseen scores there are.
#[inline(always)]
fn powers<S: Simd>(simd: S, scores: &mut [f32], seen: Range<usize>) -> f32 {
    hide(scores, &seen, f32::NEG_INFINITY);
    let (vectors, _) = S::as_mut_simd_f32s(scores);
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for s in vectors.iter() {
        max = simd.max_f32s(*s, max);
    }
    let max = simd.splat_f32s(simd.reduce_max_f32s(max));
    let mut sum = simd.splat_f32s(0.0);
    for s in vectors.iter_mut() {
        *s = math::exp2(simd, simd.sub_f32s(*s, max));
        // What is hidden adds 2^-126 to a sum of 1 or more: nothing.
        sum = simd.add_f32s(sum, *s);
    }
    hide(scores, &seen, 0.0);
    if seen.is_empty() { 0.0 } else { 1.0 / simd.reduce_sum_f32s(sum) }
}

/// Overwrites what is not seen.
#[inline(always)]
fn hide(scores: &mut [f32], seen: &Range<usize>, with: f32) {
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let whole = seen.start.div_ceil(LANES)..seen.end / LANES;
    for (i, scores) in vectors.iter_mut().enumerate().filter(|(i, _)| !whole.contains(i)) {
        for (j, s) in scores.iter_mut().enumerate() {
            *s = if seen.contains(&(i * LANES + j)) { *s } else { with };
        }
    }
}
