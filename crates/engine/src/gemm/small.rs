//! Products within a task of one thread.
//!
//! In:  a [`Task`] that packs matrices and multiplies them as often as it likes. Out: sums, row by row.
//! A task enters the machine's vector instructions once. Every sum runs over the inner dimension in
//! order, so it depends neither on how rows are cut nor on which columns are asked for.
//! Not here: sharing work out (`product` for large products).

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    MatRef,
    kernels::{self, BLOCK, Multiplying, transpose_block},
    left::round_row,
    packed::{Precision, pair},
    tile::{MAX_ROWS, MAX_WIDTH, TileKernel, VECTORS, Words, tile_of},
};
use crate::aligned::Aligned;

/// Work that multiplies.
pub(crate) trait Task {
    /// Does it. To be marked `#[inline(always)]`, with all that it calls, so that it is compiled for the
    /// machine's vectors.
    fn run<S: Simd, K: TileKernel>(self, tiles: Tiles<S, K>);
}

/// Runs a task whose products are of `f32`, or of bf16 in every other precision.
pub(crate) fn run(task: impl Task, precision: Precision) {
    let precision = match precision {
        Precision::F32 => Precision::F32,
        Precision::Bf16 | Precision::Int8 => Precision::Bf16,
    };
    kernels::dispatch(OfTask { task, per_word: precision.per_word() }, precision);
}

struct OfTask<T> {
    task: T,
    per_word: usize,
}

impl<T: Task> Multiplying for OfTask<T> {
    #[inline(always)]
    fn run<S: Simd, K: TileKernel>(self, simd: S, kernel: K) {
        self.task.run(Tiles { simd, kernel, per_word: self.per_word });
    }
}

/// The register tile within a task.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<S, K> {
    simd: S,
    kernel: K,
    /// Numbers in a word: one `f32` or two bf16.
    per_word: usize,
}

/// A right matrix `[k, n]` in panels, as [`super::PackedMatrix`] has them.
#[derive(Debug, Default)]
pub(crate) struct Panels {
    words: Aligned,
    /// The sums of a tile of a product with it.
    sums: Aligned,
    k_words: usize,
    n: usize,
}

impl Panels {
    /// (First column, words) of every panel of a `[k, n]` matrix that is to be written.
    #[inline(always)]
    fn shape<K: TileKernel>(
        &mut self,
        k_words: usize,
        n: usize,
    ) -> impl Iterator<Item = (usize, &mut [u32])> {
        (self.k_words, self.n) = (k_words, n);
        let words = self.words.at_least(k_words * n.next_multiple_of(K::LANES));
        let words: &mut [u32] = bytemuck::cast_slice_mut(words);
        let width = VECTORS * K::LANES;
        words.chunks_mut(k_words * width).enumerate().map(move |(i, panel)| (i * width, panel))
    }
}

impl<S: Simd, K: TileKernel> Tiles<S, K> {
    /// Numbers in a word.
    #[inline(always)]
    pub(crate) fn per_word(self) -> usize {
        self.per_word
    }

    /// The machine's vectors.
    #[inline(always)]
    pub(crate) fn simd(self) -> S {
        self.simd
    }

    /// The most rows of a register tile.
    #[inline(always)]
    pub(crate) fn rows(self) -> usize {
        K::ROWS
    }

    /// Rows of numbers as rows of words, in place for `f32`, else in `room`.
    ///
    /// # Shapes
    /// `rows`: `[m, k]`, `k` a whole number of words, or `m` rows are one.
    #[inline(always)]
    pub(crate) fn words<'a>(self, rows: &'a [f32], k: usize, room: &'a mut Aligned) -> &'a [u32] {
        if self.per_word == 1 {
            return bytemuck::cast_slice(rows);
        }
        let k_words = k.div_ceil(2);
        let room = room.at_least(rows.len() / k * k_words);
        for (words, row) in room.chunks_exact_mut(k_words).zip(rows.chunks_exact(k)) {
            round_row(bytemuck::cast_slice_mut(words), row);
        }
        bytemuck::cast_slice(room)
    }

    /// Rows of numbers as words along the columns, in place for `f32`, else in `room`: word `j` of row `i`
    /// holds number `j` of as many rows as there are numbers in a word.
    ///
    /// # Shapes
    /// `rows`: `[m, n]`, result: `[m / per word, n]`.
    #[inline(always)]
    pub(crate) fn column_words<'a>(
        self,
        rows: &'a [f32],
        n: usize,
        room: &'a mut Aligned,
    ) -> &'a [u32] {
        if self.per_word == 1 {
            return bytemuck::cast_slice(rows);
        }
        let room = room.at_least((rows.len() / n).div_ceil(2) * n);
        let words: &mut [u32] = bytemuck::cast_slice_mut(room);
        for (words, rows) in words.chunks_exact_mut(n).zip(rows.chunks(2 * n)) {
            let (even, odd) = rows.split_at(n);
            if odd.is_empty() {
                for (to, x) in words.iter_mut().zip(even) {
                    *to = pair([*x, 0.0]);
                }
            } else {
                let pairs = words.iter_mut().zip(even.iter().zip(odd));
                for (to, (x, y)) in pairs {
                    *to = pair([*x, *y]);
                }
            }
        }
        words
    }

    /// Packs `b`, `[k, n]`, whose rows are contiguous.
    #[inline(always)]
    pub(crate) fn pack(self, b: MatRef<'_>, panels: &mut Panels) {
        for (first, panel) in panels.shape::<K>(b.rows.div_ceil(self.per_word), b.cols) {
            match self.per_word {
                1 => pack_numbers::<K>(panel, b, first),
                _ => pack_pairs(panel, b, first),
            }
        }
    }

    /// Packs `n` rows of words as columns.
    ///
    /// # Shapes
    /// `rows`: `[n', k_words]`, `n'` being `n` or more.
    #[inline(always)]
    pub(crate) fn pack_transposed(
        self,
        (rows, k_words): (&[u32], usize),
        n: usize,
        panels: &mut Panels,
    ) {
        let blocked = k_words / BLOCK * BLOCK;
        for (first, panel) in panels.shape::<K>(k_words, n) {
            let width = panel.len() / k_words;
            let rows = &rows[first * k_words..];
            let whole = (rows.len() / k_words).min(width) / BLOCK * BLOCK;
            for j in (0..whole).step_by(BLOCK) {
                for k in (0..blocked).step_by(BLOCK) {
                    let from = (&rows[j * k_words + k..], k_words);
                    transpose_block(from, (&mut panel[k * width + j..], width));
                }
            }
            for j in 0..width {
                let row = if first + j < n { &rows[j * k_words..][..k_words] } else { &[] };
                for k in if j < whole { blocked } else { 0 }..k_words {
                    panel[k * width + j] = row.get(k).copied().unwrap_or_default();
                }
            }
        }
    }

    /// Multiplies `rows` rows of words, from word `inner.start` on, by those panels of `right` that hold a
    /// column of `columns`. `sink(row, first column, sums)` gets each row of each panel, whole vectors wide.
    #[inline(always)]
    pub(crate) fn multiply(
        self,
        (left, rows): (Words<'_>, usize),
        right: &mut Panels,
        (inner, columns): (Range<usize>, Range<usize>),
        mut sink: impl FnMut(usize, usize, &[f32]),
    ) {
        let sums = right.sums.at_least(MAX_ROWS * MAX_WIDTH);
        let full = VECTORS * K::LANES;
        let n = right.n.next_multiple_of(K::LANES);
        let words: &[u32] = bytemuck::cast_slice(right.words.as_ref());
        let n_tiles = rows.div_ceil(K::ROWS);
        for first in (columns.start / full * full..columns.end).step_by(full) {
            let width = full.min(n - first);
            let b = &words[first * right.k_words..][inner.start * width..inner.end * width];
            for tile in 0..n_tiles {
                // Even tiles: none is left with a row or two.
                let (row, end) = (tile * rows / n_tiles, (tile + 1) * rows / n_tiles);
                let a = left.from(row, inner.start);
                let kernel = self.kernel;
                self.simd.vectorize(OneTile { kernel, a, rows: end - row, b, width, sums });
                for (r, sums) in (row..end).zip(sums.chunks_exact(width)) {
                    sink(r, first, sums);
                }
            }
        }
    }
}

/// One register tile: a function of its own, so that its many sizes are compiled once.
struct OneTile<'a, K> {
    kernel: K,
    a: Words<'a>,
    rows: usize,
    b: &'a [u32],
    width: usize,
    sums: &'a mut [f32],
}

impl<K: TileKernel> WithSimd for OneTile<'_, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        const { assert!(VECTORS == 3, "one arm per number of vectors") };
        match self.width / K::LANES {
            1 => self.run::<1>(),
            2 => self.run::<2>(),
            _ => self.run::<VECTORS>(),
        }
    }
}

impl<K: TileKernel> OneTile<'_, K> {
    #[inline(always)]
    fn run<const V: usize>(self) {
        tile_of::<K, V>(self.kernel, self.rows, (self.a, self.b), self.sums, false);
    }
}

/// Copies rows of `b`, zeros behind the last column.
#[inline(always)]
fn pack_numbers<K: TileKernel>(panel: &mut [u32], b: MatRef<'_>, first: usize) {
    let width = panel.len() / b.rows;
    let cols = width.min(b.cols - first);
    let rows = b.data[first..].chunks(b.row_stride);
    for (words, row) in panel.chunks_exact_mut(width).zip(rows) {
        let row = bytemuck::cast_slice(&row[..cols]);
        let whole = cols / K::LANES * K::LANES;
        copy_vectors::<K, u32>(&mut words[..whole], row);
        for (j, to) in words.iter_mut().enumerate().skip(whole) {
            *to = row.get(j).copied().unwrap_or_default();
        }
    }
}

/// Copies whole vectors: without a call, as their number is small.
#[inline(always)]
pub(crate) fn copy_vectors<K: TileKernel, T: Copy>(to: &mut [T], from: &[T]) {
    for (to, from) in to.chunks_exact_mut(K::LANES).zip(from.chunks_exact(K::LANES)) {
        to.copy_from_slice(from);
    }
}

/// Writes two rows of `b` into each row of words, zeros behind the last row and column.
#[inline(always)]
fn pack_pairs(panel: &mut [u32], b: MatRef<'_>, first: usize) {
    static ZEROS: [f32; MAX_WIDTH] = [0.0; MAX_WIDTH];
    let width = panel.len() / b.rows.div_ceil(2);
    let cols = width.min(b.cols - first);
    let mut rows = b.data[first..].chunks(b.row_stride).take(b.rows);
    for words in panel.chunks_exact_mut(width) {
        let [even, odd] = [rows.next(), rows.next()].map(|row| &row.unwrap_or(&ZEROS)[..cols]);
        let pairs = even.iter().zip(odd);
        for (to, (x, y)) in words.iter_mut().zip(pairs) {
            *to = pair([*x, *y]);
        }
        words[cols..].fill(0);
    }
}
