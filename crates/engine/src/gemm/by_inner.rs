//! Products with a long inner dimension: `out += aᵀ · b`, the gradient of a weight.
//!
//! Both matrices are packed. Where the result is too small to be shared out, the inner dimension is cut
//! into slices, whose products are partial sums; how many is told by the shapes alone, and they are added
//! in order, so that results do not depend on threads.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{
    Rows,
    left::{Left, pack_tiles, pack_tiles_here, tile_words},
    packed::{PackedMatrix, Precision},
    product::{Epilogue, Product},
};
use crate::{aligned::Aligned, simd, tensor::Pool};

/// Blocks of the result that are enough work for a few dozen threads.
const BLOCKS: usize = 32;
/// Numbers of the result in one such block.
const BLOCK_VALUES: usize = 96 * 48;
/// The shortest slice worth a partial sum.
const SHORTEST_SLICE: usize = 512;
/// Rows of the inner dimension packed at once within a slice.
const DEPTH: usize = 1024;

/// `out = aᵀ · b` (or `+=`).
///
/// # Shapes
/// `a`: `[inner, m]`, `b`: `[inner, n]`, `out`: `[m, n]`, all row-major.
pub(super) fn multiply(
    out: &mut [f32],
    a: Rows<'_>,
    b: Rows<'_>,
    (precision, add): (Precision, bool),
    pool: &Pool,
) {
    let (inner, m, n) = (a.inner, a.cols, b.cols);
    let blocks = (m * n).div_ceil(BLOCK_VALUES);
    let slices = (inner / SHORTEST_SLICE).clamp(1, BLOCKS.div_ceil(blocks));
    if slices == 1 {
        let k_words = precision.words(inner);
        let mut tiles = pool.take(tile_words(m, k_words));
        let tiles: &mut [u32] = bytemuck::cast_slice_mut(tiles.as_mut());
        pack_tiles(tiles, a, precision);
        let right = PackedMatrix::pack_rows(b, precision, pool);
        let left = Left::tiles(tiles, m, k_words);
        Product { left, right: &right, epilogue: Epilogue { add, ..Epilogue::NONE } }.run(out);
        return;
    }
    let length = inner.div_ceil(slices).next_multiple_of(8);
    let mut partials = pool.take(inner.div_ceil(length) * m * n);
    partials.as_mut().par_chunks_exact_mut(m * n).enumerate().for_each(|(slice, partial)| {
        let (from, to) = (slice * length, inner.min((slice + 1) * length));
        multiply_here(partial, a.part(from, to), b.part(from, to), precision);
    });
    let partials = partials.as_ref();
    simd::for_row_blocks(
        out,
        1,
        #[inline(always)]
        |first, out| {
            if !add {
                out.fill(0.0);
            }
            for partial in partials.chunks_exact(m * n) {
                simd::add_assign(out, &partial[first..first + out.len()]);
            }
        },
    );
}

thread_local! {
    /// Packed parts of `a` and `b`.
    static SCRATCH: RefCell<(Aligned, PackedMatrix)> = RefCell::default();
}

/// The product on the calling thread.
fn multiply_here(out: &mut [f32], a: Rows<'_>, b: Rows<'_>, precision: Precision) {
    SCRATCH.with_borrow_mut(|(tiles, right)| {
        for from in (0..a.inner).step_by(DEPTH) {
            let to = a.inner.min(from + DEPTH);
            let k_words = precision.words(to - from);
            let tiles = tiles.at_least(tile_words(a.cols, k_words));
            let tiles: &mut [u32] = bytemuck::cast_slice_mut(tiles);
            pack_tiles_here(tiles, a.part(from, to), precision);
            right.pack_rows_again(b.part(from, to), precision);
            let left = Left::tiles(tiles, a.cols, k_words);
            let epilogue = Epilogue { add: from > 0, ..Epilogue::NONE };
            Product { left, right, epilogue }.run_here(out);
        }
    });
}
