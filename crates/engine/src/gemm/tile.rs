//! The register tile: a few rows by a few vectors of a product, summed over the inner dimension.
//!
//! In:  a left matrix (its rows in place, or packed), the right one as [`Panels`]. Out: a block of the
//! product.
//! Written once over `pulp`'s vectors; no `unsafe` here. Every sum runs over the inner dimension in
//! order, so results do not depend on how rows are cut into blocks.

use pulp::{Arch, Simd, WithSimd};

use super::panels::Panels;

/// Vectors per panel: with eight rows they fill 24 of 32 registers, with four 12 of 16.
const VECTORS: usize = 3;

/// The size of a tile on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileSize {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Values of a vector.
    pub(crate) lanes: usize,
}

impl TileSize {
    pub(crate) fn of_machine() -> Self {
        struct Query;
        impl WithSimd for Query {
            type Output = TileSize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _simd: S) -> TileSize {
                TileSize { rows: tile_rows::<S>(), lanes: S::F32_LANES }
            }
        }
        Arch::new().dispatch(Query)
    }

    /// Columns of a full panel.
    pub(crate) fn panel_width(self) -> usize {
        VECTORS * self.lanes
    }
}

pub(super) const fn tile_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 4 }
}

/// The left matrix of a block, `[m, k]`.
pub(crate) trait Left: Copy {
    /// Number of rows `m`.
    fn rows(&self) -> usize;

    /// `Σₖ a[row, k] · b[k]` for the rows of a tile. Rows behind the last give anything.
    fn accumulate<S: Simd, const R: usize, const V: usize>(
        self,
        simd: S,
        tile: usize,
        b: &[[S::f32s; V]],
    ) -> [[S::f32s; V]; R];
}

/// Rows read where they are, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

/// Tiles of rows packed by [`super::panels::pack_tiles`], `[tile, k, R]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
}

impl Left for Rows<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    fn accumulate<S: Simd, const R: usize, const V: usize>(
        self,
        simd: S,
        tile: usize,
        b: &[[S::f32s; V]],
    ) -> [[S::f32s; V]; R] {
        let mut rows: [&[f32]; R] = [&[]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            // Behind the last row the last is read again; its sums are not stored.
            let i = (tile * R + r).min(self.rows - 1);
            *row = &self.values[i * self.stride..][..b.len()];
        }
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (k, b) in b.iter().enumerate() {
            for r in 0..R {
                let a = simd.splat_f32s(rows[r][k]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(a, b[v], sums[r][v]);
                }
            }
        }
        sums
    }
}

impl Left for Packed<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    fn accumulate<S: Simd, const R: usize, const V: usize>(
        self,
        simd: S,
        tile: usize,
        b: &[[S::f32s; V]],
    ) -> [[S::f32s; V]; R] {
        let (a, _) = self.values[tile * b.len() * R..][..b.len() * R].as_chunks::<R>();
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (a, b) in a.iter().zip(b) {
            for r in 0..R {
                let a = simd.splat_f32s(a[r]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(a, b[v], sums[r][v]);
                }
            }
        }
        sums
    }
}

/// `out (+)= left · panels`, the rows of `out` lying `stride` apart, on the calling thread.
///
/// # Shapes
/// `left`: `[m, k]`, `panels`: `[k, n]`, `out`: `[m, n]`.
#[inline]
pub(crate) fn multiply<L: Left>(
    out: &mut [f32],
    stride: usize,
    left: L,
    panels: Panels<'_>,
    add: bool,
) {
    Arch::new().dispatch(Block { out, stride, left, panels, add });
}

struct Block<'a, L> {
    out: &'a mut [f32],
    stride: usize,
    left: L,
    panels: Panels<'a>,
    add: bool,
}

impl<L: Left> WithSimd for Block<'_, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        const { assert!(VECTORS == 3, "one arm per number of vectors") };
        let width = VECTORS * S::F32_LANES;
        for first in (0..self.panels.cols).step_by(width) {
            let vectors = (self.panels.cols - first).div_ceil(S::F32_LANES);
            match vectors {
                1 => self.columns::<S, 1>(simd, first),
                2 => self.columns::<S, 2>(simd, first),
                _ => self.columns::<S, VECTORS>(simd, first),
            }
        }
    }
}

impl<L: Left> Block<'_, L> {
    /// All rows of one panel, whose first column is `first`.
    #[inline(always)]
    fn columns<S: Simd, const V: usize>(&mut self, simd: S, first: usize) {
        if const { tile_rows::<S>() == 8 } {
            self.tiles::<S, 8, V>(simd, first);
        } else {
            self.tiles::<S, 4, V>(simd, first);
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, first: usize) {
        let width = V * S::F32_LANES;
        let cols = width.min(self.panels.cols - first);
        let (b, _) = S::as_simd_f32s(self.panels.panel(first, width));
        let (b, _) = b.as_chunks::<V>();
        let m = self.left.rows();
        for tile in 0..m.div_ceil(R) {
            let sums: [[S::f32s; V]; R] = self.left.accumulate(simd, tile, b);
            let end = m.min(tile * R + R);
            for (row, sums) in (tile * R..end).zip(sums) {
                let at = row * self.stride + first;
                store(simd, &mut self.out[at..at + cols], sums, self.add);
            }
        }
    }
}

#[inline(always)]
fn store<S: Simd, const V: usize>(simd: S, out: &mut [f32], sums: [S::f32s; V], add: bool) {
    if out.len() == V * S::F32_LANES {
        let (out, _) = S::as_mut_simd_f32s(out);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if add { simd.add_f32s(*out, sum) } else { sum };
        }
    } else {
        for (out, sum) in out.chunks_mut(S::F32_LANES).zip(sums) {
            let old = simd.partial_load_f32s(out);
            simd.partial_store_f32s(out, if add { simd.add_f32s(old, sum) } else { sum });
        }
    }
}
