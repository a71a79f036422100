//! Products of many rows: `out = a · b` with a row-major `a` that is read in place.
//!
//! The right matrix is packed once, blocks of rows go to the threads, and each finished block is
//! handed to an epilogue while it is still in the cache.

use rayon::prelude::*;

use super::{
    MatRef,
    panels::{Panels, pack_panel, split_panels},
    tile::{self, Rows, TileSize},
};
use crate::{aligned::Aligned, vectorize};

/// Rows of the right matrix used at once: a panel of them stays in the second-level cache.
const DEPTH: usize = 384;
/// Values of `a` and `out` in one block of rows: a part of the second-level cache.
const BLOCK_VALUES: usize = 1 << 17;

/// `out = a · b` (or `+=`), and `finish(first_row, rows)` on every block of finished rows.
///
/// # Shapes
/// `a`: `[m, k]` row-major, `b`: `[k, n]`, `out`: `[m, n]`.
pub(super) fn multiply(
    out: &mut [f32],
    a: &[f32],
    b: MatRef<'_>,
    add: bool,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (k, n) = (b.rows, b.cols);
    let size = TileSize::of_machine();
    let mut packed = Aligned::zeros(Panels::len(k, n, size));
    pack(packed.as_mut(), b, size);
    let panels = Panels::new(packed.as_ref(), k, n);
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let rows = block_rows(out.len() / n, k + n);
    out.par_chunks_mut(rows * n).enumerate().for_each(|(i, out)| {
        let m = out.len() / n;
        for from in (0..k).step_by(depth) {
            let to = k.min(from + depth);
            let left = Rows { values: &a[i * rows * k + from..], stride: k, rows: m };
            tile::multiply(out, n, left, panels.rows(from, to), add || from > 0);
        }
        finish(i * rows, out);
    });
}

/// Whole tiles that fit the cache; fewer when there would be too few blocks to share out.
fn block_rows(m: usize, values_per_row: usize) -> usize {
    let fitting = BLOCK_VALUES / values_per_row;
    fitting.min(m / 16).clamp(16, 1024).next_multiple_of(8)
}

fn pack(values: &mut [f32], b: MatRef<'_>, size: TileSize) {
    let panels: Vec<_> = split_panels(values, (b.rows, b.cols), size).collect();
    panels.into_par_iter().for_each(|(first, panel)| vectorize(|| pack_panel(panel, b, first)));
}
