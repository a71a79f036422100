//! Products with a long inner dimension: `out = aᵀ · b`, the gradient of a weight.
//!
//! The inner dimension is cut into slices, whose products are partial sums; how many is told by the
//! shapes alone, and they are added in order, so that results do not depend on threads.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{
    MatRef,
    panels::{Panels, pack_panel, pack_tiles, split_panels},
    tile::{self, Packed, TileSize},
};
use crate::{aligned::Aligned, simd, vectorize};

/// Rows of `out` one task makes.
const ROWS: usize = 96;
/// Tasks wanted, so that a few dozen threads have work.
const TASKS: usize = 32;
/// The shortest slice worth a partial sum.
const SHORTEST_SLICE: usize = 512;
/// Values of `b` packed at once: half the second-level cache.
const PACKED_VALUES: usize = 96 << 10;

/// The matrices of one product.
#[derive(Clone, Copy)]
struct Operands<'a> {
    /// `[inner, m]`
    a: &'a [f32],
    /// `[inner, n]`
    b: &'a [f32],
    m: usize,
    n: usize,
}

/// `out = aᵀ · b` (or `+=`).
///
/// # Shapes
/// `a`: `[inner, m]`, `b`: `[inner, n]`, `out`: `[m, n]`, all row-major.
pub(super) fn multiply(out: &mut [f32], a: &[f32], b: &[f32], (m, n): (usize, usize), add: bool) {
    let inner = a.len() / m;
    let wanted = TASKS.div_ceil(m.div_ceil(ROWS));
    let slices = (inner / SHORTEST_SLICE).clamp(1, wanted);
    let length = inner.div_ceil(slices).next_multiple_of(8);
    let mut partials = Aligned::zeros(inner.div_ceil(length) * m * n);
    let mut tasks = Vec::new();
    for (slice, partial) in partials.as_mut().chunks_exact_mut(m * n).enumerate() {
        let (from, to) = (slice * length, inner.min((slice + 1) * length));
        let part = Operands { a: &a[from * m..to * m], b: &b[from * n..to * n], m, n };
        tasks.extend(partial.chunks_mut(ROWS * n).enumerate().map(move |(i, out)| (part, i, out)));
    }
    tasks.into_par_iter().for_each(|(part, block, out)| part.multiply_rows(block * ROWS, out));
    let partials = partials.as_ref();
    simd::for_row_blocks(out, 1, |first, out| {
        if !add {
            out.fill(0.0);
        }
        for partial in partials.chunks_exact(m * n) {
            simd::add_assign(out, &partial[first..first + out.len()]);
        }
    });
}

thread_local! {
    /// Packed parts of `a` and `b`.
    static SCRATCH: RefCell<(Aligned, Aligned)> = RefCell::default();
}

impl Operands<'_> {
    /// Rows of the product from `first` on.
    fn multiply_rows(self, first: usize, out: &mut [f32]) {
        let (m, n) = (self.m, self.n);
        let (inner, rows, size) = (self.a.len() / m, out.len() / n, TileSize::of_machine());
        let depth = (PACKED_VALUES / n).clamp(128, 512).min(inner);
        SCRATCH.with_borrow_mut(|(tiles, panels)| {
            let tiles = tiles.at_least(depth * rows.next_multiple_of(size.rows));
            let panels = panels.at_least(Panels::len(depth, n, size));
            for from in (0..inner).step_by(depth) {
                let to = inner.min(from + depth);
                let k = to - from;
                let b = MatRef::new(&self.b[from * n..to * n], k, n);
                for (first, panel) in split_panels(panels, (k, n), size) {
                    vectorize(|| pack_panel(panel, b, first));
                }
                let tiles = &mut tiles[..k * rows.next_multiple_of(size.rows)];
                let a = &self.a[from * m..to * m];
                pack_tiles(tiles, a, m, first..first + rows);
                let left = Packed { values: tiles, rows };
                tile::multiply(out, n, left, Panels::new(panels, k, n), from > 0);
            }
        });
    }
}
