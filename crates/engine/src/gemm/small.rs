//! Products of small matrices on the calling thread, for work that is already shared out.
//!
//! In:  strided views, memory to pack into. Out: `out = a · b`.

use super::{
    MatRef,
    left::{Left, pack_tiles_here, tile_words},
    packed::{PackedMatrix, Precision},
    product::{Epilogue, Product},
};
use crate::aligned::Aligned;

/// Memory for packed matrices.
#[derive(Debug, Default)]
pub(crate) struct ProductScratch {
    tiles: Aligned,
    right: PackedMatrix,
}

impl ProductScratch {
    /// `out = a · b`; `a` has contiguous rows, or is the transpose of a row-major matrix.
    ///
    /// # Shapes
    /// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`, row-major.
    pub(crate) fn multiply(&mut self, out: &mut [f32], a: MatRef<'_>, b: MatRef<'_>) {
        let (m, k, n) = (a.rows, b.rows, b.cols);
        debug_assert!(a.cols == k && out.len() == m * n, "[{m}, {k}] · [{k}, {n}]");
        self.right.pack_again(b, Precision::F32);
        let left = if a.col_stride == 1 {
            Left::in_place(a.data, m, a.row_stride)
        } else {
            let tiles = self.tiles.at_least(tile_words(m, k));
            let tiles: &mut [u32] = bytemuck::cast_slice_mut(tiles);
            pack_tiles_here(tiles, &a.data[..k * m], m, Precision::F32);
            Left::tiles(tiles, m, k)
        };
        Product { left, right: &self.right, epilogue: Epilogue::NONE }.run_here(out, n);
    }
}
