//! Dot products of a few queries with many rows, on the widest vectors the machine has.
//!
//! In:  rows and queries, row-major. Out: all dot products.
//! Every dot product is summed in the same order however rows and queries are blocked, so a
//! batch gives bit for bit what its queries give alone.
//! Not here: threads and top-k (`search`).

use pulp::{Arch, Simd, WithSimd};

/// Rows a query tile is held against at once; with [`QUERY_TILE`], as many sums as registers allow.
const ROW_TILE: usize = 4;
/// Queries held against a row tile at once.
const QUERY_TILE: usize = 4;
/// Rows at once for a single query: enough sums to hide the latency of an addition.
const ROW_TILE_OF_ONE: usize = 8;

/// Values of the rows that all queries are held against before the next rows are read: with a tile of
/// queries they stay in a core's first-level cache.
const GROUP_VALUES: usize = 6 << 10;

/// All dot products of `queries` with `rows`.
///
/// # Shapes
/// - `rows`: `[r, e]`, `queries`: `[q, e]`
/// - `into`: `[q, r]`
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn dots(rows: &[f32], queries: &[f32], width: usize, into: &mut [f32]) {
    let (n_rows, n_queries) = (rows.len() / width, queries.len() / width);
    assert!(
        rows.len() == n_rows * width
            && queries.len() == n_queries * width
            && into.len() == n_rows * n_queries,
        "shapes of a scan"
    );
    if n_rows > 0 {
        Arch::new().dispatch(Dots { rows, queries, width, into });
    }
}

struct Dots<'a> {
    rows: &'a [f32],
    queries: &'a [f32],
    width: usize,
    into: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (e, n_rows) = (self.width, self.rows.len() / self.width);
        let group = (GROUP_VALUES / e).next_multiple_of(ROW_TILE_OF_ONE);
        for (at, rows) in self.rows.chunks(group * e).enumerate() {
            let mut into = Into { dots: self.into, stride: n_rows, first: at * group };
            for queries in self.queries.chunks(QUERY_TILE * e) {
                if queries.len() == QUERY_TILE * e {
                    let queries: [&[f32]; QUERY_TILE] = split(queries, e);
                    group_dots::<S, ROW_TILE, QUERY_TILE>(simd, rows, queries, &mut into);
                } else {
                    for query in queries.chunks_exact(e) {
                        group_dots::<S, ROW_TILE_OF_ONE, 1>(simd, rows, [query], &mut into);
                    }
                }
            }
        }
    }
}

/// Where the dot products of a group of rows go; moves on by the queries put in.
struct Into<'a> {
    dots: &'a mut [f32],
    stride: usize,
    first: usize,
}

/// Dot products of `Q` queries with a group of rows, `R` rows at once.
#[inline(always)]
fn group_dots<S: Simd, const R: usize, const Q: usize>(
    simd: S,
    rows: &[f32],
    queries: [&[f32]; Q],
    into: &mut Into,
) {
    let e = queries[0].len();
    let tiles = rows.chunks_exact(R * e);
    let rest = tiles.remainder();
    for (tile, rows) in tiles.enumerate() {
        let dots = tile_dots::<S, R, Q>(simd, split(rows, e), queries);
        put(into, tile * R, &dots);
    }
    for (row, values) in rest.chunks_exact(e).enumerate() {
        let dots = tile_dots::<S, 1, Q>(simd, [values], queries);
        put(into, (rows.len() - rest.len()) / e + row, &dots);
    }
    into.first += Q * into.stride;
}

#[inline(always)]
fn put<const R: usize, const Q: usize>(into: &mut Into, row: usize, dots: &[[f32; R]; Q]) {
    for (q, dots) in dots.iter().enumerate() {
        into.dots[into.first + q * into.stride + row..][..R].copy_from_slice(dots);
    }
}

/// `[Q, R]` dot products, each summed in one register.
///
/// Plain loops only: a closure handed to a library function may not be inlined into the code for
/// the machine's vectors, and vectors passed through memory cost more than the arithmetic.
#[inline(always)]
fn tile_dots<S: Simd, const R: usize, const Q: usize>(
    simd: S,
    rows: [&[f32]; R],
    queries: [&[f32]; Q],
) -> [[f32; R]; Q] {
    let (rows, row_tails) = vectors::<S, R>(rows);
    let (queries, query_tails) = vectors::<S, Q>(queries);
    let mut sums = [[simd.splat_f32s(0.0); R]; Q];
    for at in 0..queries[0].len() {
        for q in 0..Q {
            for r in 0..R {
                sums[q][r] = simd.mul_add_e_f32s(queries[q][at], rows[r][at], sums[q][r]);
            }
        }
    }
    if !query_tails[0].is_empty() {
        for q in 0..Q {
            let query = simd.partial_load_f32s(query_tails[q]);
            for r in 0..R {
                let row = simd.partial_load_f32s(row_tails[r]);
                sums[q][r] = simd.mul_add_e_f32s(query, row, sums[q][r]);
            }
        }
    }
    let mut dots = [[0.0; R]; Q];
    for q in 0..Q {
        for r in 0..R {
            dots[q][r] = simd.reduce_sum_f32s(sums[q][r]);
        }
    }
    dots
}

/// Slices of equal length as vectors and what is left over.
#[inline(always)]
fn vectors<S: Simd, const N: usize>(slices: [&[f32]; N]) -> ([&[S::f32s]; N], [&[f32]; N]) {
    let n = slices[0].len() / S::F32_LANES;
    let (mut heads, mut tails) = ([&[][..]; N], [&[][..]; N]);
    for (at, slice) in slices.into_iter().enumerate() {
        let (head, tail) = S::as_simd_f32s(slice);
        // The same length for all, told to the compiler once.
        heads[at] = &head[..n];
        tails[at] = tail;
    }
    (heads, tails)
}

#[inline(always)]
fn split<const N: usize>(rows: &[f32], width: usize) -> [&[f32]; N] {
    let mut split = [&[][..]; N];
    for (row, slice) in split.iter_mut().zip(rows.chunks_exact(width)) {
        *row = slice;
    }
    split
}

#[cfg(test)]
mod tests;
