//! Packing for the register tile.
//!
//! In:  strided matrices. Out: the right one as panels, `[n / width, k, width]`, the last panel as
//! narrow as whole vectors allow and padded with zeros; the left one as tiles of rows.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::{
    MatRef,
    tile::{TileSize, tile_rows},
};

/// A packed `[k, n]` matrix, or some of its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels<'a> {
    values: &'a [f32],
    /// Rows packed.
    k: usize,
    /// Columns `n`.
    pub(crate) cols: usize,
    /// The rows meant, `from..to`.
    from: usize,
    to: usize,
}

impl<'a> Panels<'a> {
    /// Values needed to pack a `[k, n]` matrix.
    pub(crate) fn len(k: usize, n: usize, size: TileSize) -> usize {
        k * n.next_multiple_of(size.lanes)
    }

    /// The packed values of a `[k, n]` matrix.
    pub(crate) fn new(values: &'a [f32], k: usize, n: usize) -> Self {
        Self { values, k, cols: n, from: 0, to: k }
    }

    /// Some of its rows.
    pub(crate) fn rows(self, from: usize, to: usize) -> Self {
        Self { from, to, ..self }
    }

    /// The panel of `width` columns that begins at column `first`.
    #[inline(always)]
    pub(crate) fn panel(&self, first: usize, width: usize) -> &'a [f32] {
        let panel = &self.values[first * self.k..];
        &panel[self.from * width..self.to * width]
    }
}

/// Packs the columns of `b` from `first` on into one panel, `panel.len() / b.rows` wide.
#[inline(always)]
pub(crate) fn pack_panel(panel: &mut [f32], b: MatRef<'_>, first: usize) {
    let width = panel.len() / b.rows;
    let cols = width.min(b.cols - first);
    if b.col_stride == 1 {
        for (k, row) in panel.chunks_exact_mut(width).enumerate() {
            row[..cols].copy_from_slice(&b.data[k * b.row_stride + first..][..cols]);
            row[cols..].fill(0.0);
        }
        return;
    }
    if cols < width {
        panel.fill(0.0);
    }
    for j in 0..cols {
        let column = b.data[(first + j) * b.col_stride..].iter().step_by(b.row_stride);
        for (row, value) in panel.chunks_exact_mut(width).zip(column) {
            row[j] = *value;
        }
    }
}

/// Cuts the memory of a packed `[k, n]` matrix into its panels: (first column, panel).
pub(crate) fn split_panels(
    values: &mut [f32],
    (k, n): (usize, usize),
    size: TileSize,
) -> impl Iterator<Item = (usize, &mut [f32])> {
    let width = size.panel_width();
    values[..Panels::len(k, n, size)]
        .chunks_mut(k * width)
        .enumerate()
        .map(move |(i, panel)| (i * width, panel))
}

/// Packs some columns of the row-major `[k, cols]` matrix `a` as the rows of tiles: `[tile, k, R]`,
/// zeros behind the last.
pub(crate) fn pack_tiles(tiles: &mut [f32], a: &[f32], cols: usize, columns: Range<usize>) {
    Arch::new().dispatch(PackTiles { tiles, a, cols, columns });
}

struct PackTiles<'a> {
    tiles: &'a mut [f32],
    a: &'a [f32],
    cols: usize,
    columns: Range<usize>,
}

impl WithSimd for PackTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        if const { tile_rows::<S>() == 8 } {
            self.pack::<8>();
        } else {
            self.pack::<4>();
        }
    }
}

impl PackTiles<'_> {
    #[inline(always)]
    fn pack<const R: usize>(self) {
        let k = self.a.len() / self.cols;
        let firsts = self.columns.clone().step_by(R);
        for (packed, first) in self.tiles.chunks_exact_mut(k * R).zip(firsts) {
            let n = R.min(self.columns.end - first);
            let (packed, _) = packed.as_chunks_mut::<R>();
            for (packed, row) in packed.iter_mut().zip(self.a.chunks_exact(self.cols)) {
                if n == R {
                    packed.copy_from_slice(&row[first..first + R]);
                } else {
                    packed[..n].copy_from_slice(&row[first..first + n]);
                    packed[n..].fill(0.0);
                }
            }
        }
    }
}
