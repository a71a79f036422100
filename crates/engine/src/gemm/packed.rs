//! The right matrix of a product, packed for the register tile.
//!
//! In:  strided views of `f32`. Out: panels `[n / width, k words, width]`, the last as narrow as whole
//! vectors allow, behind the last value zeros.
//! bf16 is the nearest, halves to even; NaN stays NaN. Bytes have a scale per column,
//! `w ≈ scale · q` with `q` from −127 to 127; a column that is not finite gets a scale of NaN.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    MatRef, Numbers, Rows,
    kernels::{BLOCK, transpose_block},
    tile::TileSize,
};
use crate::{
    math::SHIFT,
    tensor::{Buffer, Pool},
    vectorize,
};

/// The numbers that products are computed of; sums are of `f32` (of integers, for bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// The upper half of one: 8 bits of precision.
    Bf16,
    /// Bytes: weights with a scale per output, inputs with a scale and an offset per row.
    Int8,
}

impl Precision {
    /// Numbers in a word of four bytes.
    pub(crate) fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }

    /// The precision of gradients: bytes are too coarse for them.
    pub(crate) fn trainable_if(self, recording: bool) -> Self {
        match self {
            Self::Int8 if recording => Self::Bf16,
            Self::F32 | Self::Bf16 | Self::Int8 => self,
        }
    }

    /// Words that `k` numbers take.
    pub(crate) fn words(self, k: usize) -> usize {
        k.div_ceil(self.per_word())
    }
}

/// A packed `[k, n]` matrix.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    words: Buffer,
    pub(crate) precision: Precision,
    pub(crate) k: usize,
    pub(crate) n: usize,
    /// Words along the inner dimension.
    pub(super) k_words: usize,
    pub(super) size: TileSize,
    /// For bytes: how each column is read.
    pub(super) columns: Columns,
}

/// How columns of bytes are read: `w ≈ scale · q`. Whole vectors, as wide as the panels.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) scales: Vec<f32>,
    /// `scale · Σ q`
    pub(super) sums: Vec<f32>,
}

impl Columns {
    fn extend(&mut self, panel: &[(f32, f32)]) {
        self.scales.extend(panel.iter().map(|(scale, _)| scale));
        self.sums.extend(panel.iter().map(|(_, sum)| sum));
    }
}

impl Default for PackedMatrix {
    fn default() -> Self {
        Self::empty(&Pool::default())
    }
}

impl PackedMatrix {
    /// Nothing packed yet; the memory will come from `pool`.
    fn empty(pool: &Pool) -> Self {
        Self {
            words: pool.take(0),
            precision: Precision::F32,
            k: 0,
            n: 0,
            k_words: 0,
            size: TileSize::of_machine(),
            columns: Columns::default(),
        }
    }

    /// Packs `b` on all threads.
    pub(crate) fn pack(b: MatRef<'_>, precision: Precision, pool: &Pool) -> Self {
        let mut packed = Self::empty(pool);
        packed.shape((b.rows, b.cols), precision);
        let panels: Vec<_> = packed.panels_mut().collect();
        let columns: Vec<_> = panels
            .into_par_iter()
            .map(|(first, panel)| {
                vectorize(
                    #[inline(always)]
                    || pack_panel(panel, b, first, precision),
                )
            })
            .collect();
        columns.iter().for_each(|panel| packed.columns.extend(panel));
        packed
    }

    /// As [`PackedMatrix::pack`], of rows that may be rounded already.
    pub(super) fn pack_rows(b: Rows<'_>, precision: Precision, pool: &Pool) -> Self {
        let mut packed = Self::empty(pool);
        packed.shape((b.inner, b.cols), precision);
        let panels: Vec<_> = packed.panels_mut().collect();
        panels.into_par_iter().for_each(|(first, panel)| pack_rows(panel, b, first, precision));
        packed
    }

    /// Packs rows on the calling thread, into the memory of what was packed before.
    pub(super) fn pack_rows_again(&mut self, b: Rows<'_>, precision: Precision) {
        self.shape((b.inner, b.cols), precision);
        for (first, panel) in self.panels_mut() {
            pack_rows(panel, b, first, precision);
        }
    }

    fn shape(&mut self, (k, n): (usize, usize), precision: Precision) {
        (self.k, self.n, self.precision) = (k, n, precision);
        self.k_words = precision.words(k);
        self.words.at_least(self.k_words * n.next_multiple_of(self.size.lanes));
    }

    /// (First column, words) of every panel.
    fn panels_mut(&mut self) -> impl Iterator<Item = (usize, &mut [u32])> {
        let (width, k) = (self.size.panel_width(), self.k_words);
        let len = k * self.n.next_multiple_of(self.size.lanes);
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut self.words.as_mut()[..len]);
        words.chunks_mut((k * width).max(1)).enumerate().map(move |(i, panel)| (i * width, panel))
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.size.panel_width())
    }

    /// Words `from..to` of the panel that begins at column `first` and is `width` wide.
    #[inline(always)]
    pub(super) fn panel(&self, first: usize, width: usize, (from, to): (usize, usize)) -> &[u32] {
        let words: &[u32] = bytemuck::cast_slice(self.words.as_ref());
        &words[first * self.k_words..][from * width..to * width]
    }

    /// Bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        (self.words.as_ref().len() + 2 * self.columns.scales.len()) * 4
    }
}

/// The nearest bf16, halves to even; NaN stays one.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let bits = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    (bits >> 16) as u16
}

/// Two bf16 as a word, the first in the low half.
#[inline(always)]
pub(super) fn pair([low, high]: [f32; 2]) -> u32 {
    u32::from(to_bf16(low)) | u32::from(to_bf16(high)) << 16
}

/// Packs the columns of rows from `first` on into one panel as wide as it has room for.
fn pack_rows(panel: &mut [u32], b: Rows<'_>, first: usize, precision: Precision) {
    vectorize(
        #[inline(always)]
        || match b.numbers {
            Numbers::F32(values) => {
                pack_panel(panel, MatRef::new(values, b.inner, b.cols), first, precision);
            }
            Numbers::Bf16(halves) => pack_halves(panel, (halves, b), first),
        },
    );
}

/// Pairs of rows of bf16 become rows of words.
#[inline(always)]
fn pack_halves(panel: &mut [u32], (halves, b): (&[u16], Rows<'_>), first: usize) {
    let width = panel.len() / Precision::Bf16.words(b.inner).max(1);
    let cols = width.min(b.cols - first);
    for (words, rows) in panel.chunks_exact_mut(width.max(1)).zip(halves.chunks(2 * b.stride())) {
        let (low, high) = rows.split_at(b.stride());
        let low = &low[first..first + cols];
        if let Some(high) = high.get(first..first + cols) {
            for ((to, low), high) in words.iter_mut().zip(low).zip(high) {
                *to = u32::from(*low) | u32::from(*high) << 16;
            }
        } else {
            for (to, low) in words.iter_mut().zip(low) {
                *to = u32::from(*low);
            }
        }
        words[cols..].fill(0);
    }
}

/// Packs the columns of `b` from `first` on into one panel as wide as it has room for. Gives scale and
/// scaled sum of each column of bytes.
#[inline(always)]
fn pack_panel(
    panel: &mut [u32],
    b: MatRef<'_>,
    first: usize,
    precision: Precision,
) -> Vec<(f32, f32)> {
    let k_words = precision.words(b.rows);
    let width = panel.len() / k_words.max(1);
    let inverse = match precision {
        Precision::Int8 => inverse_scales(b, first, width),
        Precision::F32 | Precision::Bf16 => Vec::new(),
    };
    for (block, words) in panel.chunks_mut(BLOCK * width).enumerate() {
        let at = block * BLOCK;
        match precision {
            Precision::F32 => fill::<1>(words, width, (b, at, first), |[x], _| x.to_bits()),
            Precision::Bf16 => fill::<2>(words, width, (b, at, first), |x, _| pair(x)),
            Precision::Int8 => fill::<4>(words, width, (b, at, first), |x, j| {
                u32::from_le_bytes(x.map(|x| (x * inverse[j] + SHIFT).to_bits() as u8))
            }),
        }
    }
    let sum = |j: usize| {
        let bytes = panel[j..].iter().step_by(width).flat_map(|w| w.to_le_bytes());
        bytes.map(|q| i32::from(q.cast_signed())).sum::<i32>() as f32
    };
    inverse.iter().enumerate().map(|(j, inverse)| (1.0 / inverse, sum(j) / inverse)).collect()
}

/// `127 / max |w|` of each column; 1 for a column of zeros or behind the last, NaN for one that is not
/// finite.
#[inline(always)]
fn inverse_scales(b: MatRef<'_>, first: usize, width: usize) -> Vec<f32> {
    let scale = |j: usize| {
        if first + j >= b.cols {
            return 1.0;
        }
        let column = b.data[(first + j) * b.col_stride..].iter().step_by(b.row_stride);
        let largest = column.take(b.rows).map(|w| w.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
        match f32::from_bits(largest) {
            0.0 => 1.0,
            largest if largest.is_finite() => 127.0 / largest,
            _ => f32::NAN,
        }
    };
    (0..width).map(scale).collect()
}

/// Writes rows of words, made of `N` numbers along the inner dimension from word `at` on.
#[inline(always)]
fn fill<const N: usize>(
    words: &mut [u32],
    width: usize,
    (b, at, first): (MatRef<'_>, usize, usize),
    word: impl Fn([f32; N], usize) -> u32,
) {
    let cols = width.min(b.cols - first);
    let value = |k: usize, j: usize| match k < b.rows {
        true => b.data[k * b.row_stride + (first + j) * b.col_stride],
        false => 0.0,
    };
    let whole = (at + words.len() / width) * N <= b.rows;
    if b.col_stride == 1 && whole {
        for (i, words) in words.chunks_exact_mut(width).enumerate() {
            let k = (at + i) * N;
            let rows: [&[f32]; N] =
                std::array::from_fn(|p| &b.data[(k + p) * b.row_stride + first..][..cols]);
            for (j, to) in words[..cols].iter_mut().enumerate() {
                let mut x = [0.0; N];
                for (x, row) in x.iter_mut().zip(&rows) {
                    *x = row[j];
                }
                *to = word(x, j);
            }
            words[cols..].fill(0);
        }
        return;
    }
    if cols < width {
        words.fill(0);
    }
    let column = |j: usize| b.data[(first + j) * b.col_stride + at * N..].as_chunks::<N>().0;
    if b.row_stride == 1 && whole && words.len() == BLOCK * width && width.is_multiple_of(BLOCK) {
        for begin in (0..cols).step_by(BLOCK) {
            let mut block = [0; BLOCK * BLOCK];
            let columns = begin..cols.min(begin + BLOCK);
            for (to, j) in block.chunks_exact_mut(BLOCK).zip(columns) {
                for (to, x) in to.iter_mut().zip(column(j)) {
                    *to = word(*x, j);
                }
            }
            transpose_block((&block, BLOCK), (&mut words[begin..], width));
        }
        return;
    }
    for j in 0..cols {
        if b.row_stride == 1 && whole {
            for (words, x) in words.chunks_exact_mut(width).zip(column(j)) {
                words[j] = word(*x, j);
            }
        } else {
            for (i, words) in words.chunks_exact_mut(width).enumerate() {
                words[j] = word(std::array::from_fn(|p| value((at + i) * N + p, j)), j);
            }
        }
    }
}
