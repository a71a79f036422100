//! The left matrix of a product: rows of words.
//!
//! In:  rows of `f32`. Out: the same as bf16 or as bytes, four bytes to a word; `f32` rows are read in
//! place. Bytes are unsigned, with a scale and an offset per row: `x ≈ scale · q + offset`, from the
//! row's smallest and largest number; a row that is not finite gets a scale of NaN.

use rayon::prelude::*;

use super::{
    Numbers, Rows, kernels,
    packed::{Precision, pair},
    tile::{MAX_ROWS, TileSize, Words},
};
use crate::{math::SHIFT, simd, vectorize};

/// How a row of bytes is read: scale and offset of `x ≈ scale · q + offset`.
pub(crate) type Level = [f32; 2];

/// `[m, k]` as words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    words: &'a [u32],
    layout: Layout,
    /// Number of rows.
    pub(crate) rows: usize,
    /// For bytes: one per row.
    pub(super) levels: &'a [Level],
}

#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Rows this many words apart.
    Rows(usize),
    /// Tiles `[m / R, k, R]` of `R` rows, each of `k` words.
    Tiles { rows: usize, k: usize },
}

impl<'a> Left<'a> {
    /// Rows of `f32` where they are, `stride` apart.
    pub(crate) fn in_place(values: &'a [f32], rows: usize, stride: usize) -> Self {
        let words = bytemuck::cast_slice(values);
        Self { words, layout: Layout::Rows(stride), rows, levels: &[] }
    }

    /// Rows of words one behind the other.
    pub(crate) fn words(words: &'a [f32], rows: usize, levels: &'a [Level]) -> Self {
        let layout = Layout::Rows(words.len() / rows.max(1));
        Self { words: bytemuck::cast_slice(words), layout, rows, levels }
    }

    /// What [`pack_tiles`] made: `rows` rows of `k` words.
    pub(crate) fn tiles(words: &'a [u32], rows: usize, k: usize) -> Self {
        let layout = Layout::Tiles { rows: TileSize::of_machine().rows, k };
        Self { words, layout, rows, levels: &[] }
    }

    /// Cuts the rows `from..to` into `n` tiles: the first row of tile `i`.
    #[inline(always)]
    pub(super) fn split(&self, (from, to): (usize, usize), n: usize, i: usize) -> usize {
        match self.layout {
            // Even tiles: none is left with a row or two.
            Layout::Rows(_) => from + i * (to - from) / n,
            Layout::Tiles { rows, .. } => to.min(from + i * rows),
        }
    }

    /// The rows from `row` on, from word `k` on.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, k: usize) -> Words<'a> {
        match self.layout {
            Layout::Rows(stride) => {
                Words { words: &self.words[row * stride + k..], row_stride: stride, word_stride: 1 }
            }
            Layout::Tiles { rows, k: words } => Words {
                words: &self.words[row / rows * (rows * words) + k * rows..],
                row_stride: 1,
                word_stride: rows,
            },
        }
    }
}

/// Rows converted by one task: a few cache lines of work each.
const ROWS_PER_TASK: usize = 16;

/// Writes the rows of `[m, k]` as words of bf16 or bytes. `row(i, scratch)` gives row `i`, in place or
/// computed into the scratch of `k` numbers.
pub(crate) fn convert<'x>(
    words: &mut [f32],
    levels: &mut [Level],
    k: usize,
    precision: Precision,
    row: impl for<'s> Fn(usize, &'s mut [f32]) -> Row<'s, 'x> + Sync,
) {
    let k_words = precision.words(k);
    let rows = words.len() / k_words;
    let task = |(block, (words, levels)): (usize, (&mut [f32], &mut [Level]))| {
        let mut scratch = vec![0.0; k];
        vectorize(
            #[inline(always)]
            || {
                for (i, words) in words.chunks_exact_mut(k_words).enumerate() {
                    let row = row(block * ROWS_PER_TASK + i, &mut scratch);
                    let values = row.values();
                    match precision {
                        Precision::F32 => words.copy_from_slice(values),
                        Precision::Bf16 => round_row(words, values),
                        Precision::Int8 => {
                            levels[i] = to_bytes(bytemuck::cast_slice_mut(words), values);
                        }
                    }
                }
            },
        );
    };
    let mut spare = vec![Level::default(); if levels.is_empty() { rows } else { 0 }];
    let levels = if levels.is_empty() { spare.as_mut_slice() } else { levels };
    if rows <= ROWS_PER_TASK {
        return task((0, (words, levels)));
    }
    words
        .par_chunks_mut(ROWS_PER_TASK * k_words)
        .zip(levels.par_chunks_mut(ROWS_PER_TASK))
        .enumerate()
        .for_each(task);
}

/// A row that is converted.
#[derive(Debug)]
pub(crate) enum Row<'s, 'x> {
    /// It was there.
    Given(&'x [f32]),
    /// It was computed.
    Made(&'s [f32]),
}

impl Row<'_, '_> {
    fn values(&self) -> &[f32] {
        match self {
            Self::Given(values) => values,
            Self::Made(values) => values,
        }
    }
}

/// Writes a row as words of bf16, a zero behind an odd last.
///
/// # Panics
/// When there are not just the words that the row takes.
#[inline(always)]
pub(crate) fn round_row(words: &mut [f32], values: &[f32]) {
    let (to, rest) = bytemuck::cast_slice_mut(words).split_at_mut(values.len());
    kernels::round(to, values);
    rest.fill(0);
}

/// `q = round((x − min) · 255 / (max − min))`
#[inline(always)]
fn to_bytes(to: &mut [u8], values: &[f32]) -> Level {
    let (least, most) = (-simd::max_of(values, |x| -x), simd::max_of(values, |x| x));
    let range = most - least;
    if !(range.is_finite() && simd::sum(values).is_finite()) {
        to.fill(0);
        return [f32::NAN; 2];
    }
    let inverse = if range > 0.0 { 255.0 / range } else { 0.0 };
    for (to, x) in to.iter_mut().zip(values) {
        *to = ((*x - least) * inverse + SHIFT).to_bits() as u8;
    }
    to[values.len()..].fill(0);
    [range / 255.0, least]
}

/// Words that [`pack_tiles`] needs for `m` rows of `k_words` words.
pub(crate) fn tile_words(m: usize, k_words: usize) -> usize {
    m.next_multiple_of(TileSize::of_machine().rows) * k_words
}

/// Tiles packed together: rows of their columns fill cache lines.
const TILES_PER_TASK: usize = 4;

/// Packs the columns of `a`, `[k, m]`, as rows of tiles `[m / R, k words, R]`, zeros behind the last; on
/// all threads.
pub(crate) fn pack_tiles(words: &mut [u32], a: Rows<'_>, precision: Precision) {
    let tiles = words.par_chunks_mut(TILES_PER_TASK * words_of_tile(a.inner, precision));
    tiles.enumerate().for_each(|(i, tiles)| pack_some(tiles, a, i * TILES_PER_TASK, precision));
}

/// As [`pack_tiles`], on the calling thread.
pub(crate) fn pack_tiles_here(words: &mut [u32], a: Rows<'_>, precision: Precision) {
    let some = TILES_PER_TASK * words_of_tile(a.inner, precision);
    for (i, tiles) in words.chunks_mut(some).enumerate() {
        pack_some(tiles, a, i * TILES_PER_TASK, precision);
    }
}

/// Words of a tile of `k` numbers a row.
fn words_of_tile(k: usize, precision: Precision) -> usize {
    (TileSize::of_machine().rows * precision.words(k)).max(1)
}

/// The tiles from tile `first` on.
fn pack_some(words: &mut [u32], a: Rows<'_>, first: usize, precision: Precision) {
    let rows = TileSize::of_machine().rows;
    let len = words_of_tile(a.inner, precision);
    vectorize(
        #[inline(always)]
        || match a.numbers {
            Numbers::Bf16(halves) if rows == MAX_ROWS => {
                pack_halves::<MAX_ROWS>((words, len), (halves, a), first * rows);
            }
            Numbers::Bf16(halves) => pack_halves::<4>((words, len), (halves, a), first * rows),
            Numbers::F32(values) => {
                for (i, tile) in words.chunks_exact_mut(len).enumerate() {
                    pack_tile(tile, values, (a.cols, (first + i) * rows), precision);
                }
            }
        },
    );
}

/// Tiles of `R` columns, from column `first` on, of rows of bf16: pairs of rows become rows of words.
#[inline(always)]
fn pack_halves<const R: usize>(
    (words, len): (&mut [u32], usize),
    (halves, a): (&[u16], Rows<'_>),
    first: usize,
) {
    let stride = a.stride();
    let zeros = [0; R];
    for (t, tile) in words.chunks_exact_mut(len).enumerate() {
        let (tile, _) = tile.as_chunks_mut::<R>();
        let column = first + t * R;
        for (i, to) in tile.iter_mut().enumerate() {
            let low = halves.get(2 * i * stride + column..);
            let high = halves.get((2 * i + 1) * stride + column..);
            if column + R <= a.cols {
                let low = low.and_then(|row| row.first_chunk::<R>()).unwrap_or(&zeros);
                let high = high.and_then(|row| row.first_chunk::<R>()).unwrap_or(&zeros);
                for j in 0..R {
                    to[j] = u32::from(low[j]) | u32::from(high[j]) << 16;
                }
            } else {
                let at = |row: Option<&[u16]>, j: usize| {
                    let half = row.and_then(|row| row.get(j)).filter(|_| column + j < a.cols);
                    half.copied().unwrap_or(0)
                };
                for (j, to) in to.iter_mut().enumerate() {
                    *to = u32::from(at(low, j)) | u32::from(at(high, j)) << 16;
                }
            }
        }
    }
}

/// One tile, whose first row is column `first` of `a`.
#[inline(always)]
fn pack_tile(words: &mut [u32], a: &[f32], (m, first): (usize, usize), precision: Precision) {
    let rows = TileSize::of_machine().rows;
    let n = rows.min(m - first);
    match (precision, n == MAX_ROWS) {
        (Precision::F32, true) => pack_columns::<1, 8>(words, (a, m, first), |[x]| x.to_bits()),
        (Precision::Bf16, true) => pack_columns::<2, 8>(words, (a, m, first), pair),
        (Precision::F32, false) => {
            pack_few::<1>(words, (a, m, first), (n, rows), |[x]| x.to_bits())
        }
        (Precision::Bf16, false) => pack_few::<2>(words, (a, m, first), (n, rows), pair),
        (Precision::Int8, _) => unreachable!("gradients are not computed of bytes"),
    }
}

/// A whole tile of `R` columns.
#[inline(always)]
fn pack_columns<const N: usize, const R: usize>(
    words: &mut [u32],
    (a, m, first): (&[f32], usize, usize),
    word: impl Fn([f32; N]) -> u32,
) {
    let (words, _) = words.as_chunks_mut::<R>();
    let zeros = [0.0; R];
    for (i, words) in words.iter_mut().enumerate() {
        let rows: [&[f32]; N] = std::array::from_fn(|p| {
            a.get((i * N + p) * m + first..).and_then(|row| row.get(..R)).unwrap_or(&zeros)
        });
        for (j, to) in words.iter_mut().enumerate() {
            let mut x = [0.0; N];
            for (x, row) in x.iter_mut().zip(&rows) {
                *x = row[j];
            }
            *to = word(x);
        }
    }
}

/// A tile of `n` columns that has room for more.
#[inline(always)]
fn pack_few<const N: usize>(
    words: &mut [u32],
    (a, m, first): (&[f32], usize, usize),
    (n, rows): (usize, usize),
    word: impl Fn([f32; N]) -> u32,
) {
    words.fill(0);
    for (i, words) in words.chunks_exact_mut(rows).enumerate() {
        for (j, to) in words[..n].iter_mut().enumerate() {
            let value = |p| a.get((i * N + p) * m + first + j).copied().unwrap_or(0.0);
            *to = word(std::array::from_fn(value));
        }
    }
}
