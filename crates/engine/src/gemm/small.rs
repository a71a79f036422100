//! Products of small matrices on the calling thread, for work that is already shared out.
//!
//! In:  strided views, memory to pack into. Out: `out = a · b`.

use super::{
    MatRef,
    panels::{Panels, pack_panel, pack_tiles, split_panels},
    tile::{self, Packed, Rows, TileSize},
};
use crate::{aligned::Aligned, vectorize};

/// Memory for packed matrices.
#[derive(Debug, Default)]
pub(crate) struct ProductScratch {
    tiles: Aligned,
    panels: Aligned,
}

impl ProductScratch {
    /// `out = a · b`; `a` has contiguous rows, or is the transpose of a row-major matrix.
    ///
    /// # Shapes
    /// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`, row-major.
    pub(crate) fn multiply(&mut self, out: &mut [f32], a: MatRef<'_>, b: MatRef<'_>) {
        let (m, k, n, size) = (a.rows, b.rows, b.cols, TileSize::of_machine());
        debug_assert!(a.cols == k && out.len() == m * n, "[{m}, {k}] · [{k}, {n}]");
        let panels = self.panels.at_least(Panels::len(k, n, size));
        for (first, panel) in split_panels(panels, (k, n), size) {
            vectorize(|| pack_panel(panel, b, first));
        }
        let panels = Panels::new(panels, k, n);
        if a.col_stride == 1 {
            let left = Rows { values: a.data, stride: a.row_stride, rows: m };
            return tile::multiply(out, n, left, panels, false);
        }
        let tiles = self.tiles.at_least(k * m.next_multiple_of(size.rows));
        pack_tiles(tiles, &a.data[..k * m], m, 0..m);
        tile::multiply(out, n, Packed { values: tiles, rows: m }, panels, false);
    }
}
