//! Packing for the register tile.
//!
//! In:  strided matrices. Out: the right one as panels, `[n / width, k, width]`, the last panel as
//! narrow as whole vectors allow and padded with zeros; the left one as tiles of rows.

use super::{MatRef, tile::TileSize};

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

    /// What [`pack_rows`] wrote for all of a `[k, n]` matrix.
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

/// Packs columns `first..first + rows` of the row-major `[k, cols]` matrix `a` as rows of tiles:
/// `[tile, k, R]`, zeros behind the last.
#[inline(always)]
pub(crate) fn pack_columns<const R: usize>(
    tiles: &mut [f32],
    a: &[f32],
    cols: usize,
    first: usize,
    rows: usize,
) {
    let k = a.len() / cols;
    for (tile, packed) in tiles.chunks_exact_mut(k * R).enumerate() {
        let start = first + tile * R;
        let here = R.min(rows - tile * R);
        let (packed, _) = packed.as_chunks_mut::<R>();
        for (packed, row) in packed.iter_mut().zip(a.chunks_exact(cols)) {
            if here == R {
                packed.copy_from_slice(&row[start..start + R]);
            } else {
                packed[..here].copy_from_slice(&row[start..start + here]);
                packed[here..].fill(0.0);
            }
        }
    }
}
