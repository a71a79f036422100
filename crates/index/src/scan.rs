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
        let query_tiles = self.queries.chunks(QUERY_TILE * e);
        for (queries, into) in query_tiles.zip(self.into.chunks_mut(QUERY_TILE * n_rows)) {
            if queries.len() == QUERY_TILE * e {
                let queries: [&[f32]; QUERY_TILE] = split(queries, e);
                rows_of_tile::<S, ROW_TILE, QUERY_TILE>(simd, self.rows, queries, into);
            } else {
                for (query, into) in queries.chunks_exact(e).zip(into.chunks_exact_mut(n_rows)) {
                    rows_of_tile::<S, ROW_TILE_OF_ONE, 1>(simd, self.rows, [query], into);
                }
            }
        }
    }
}

/// Dot products of `Q` queries with all rows, `R` rows at once.
#[inline(always)]
fn rows_of_tile<S: Simd, const R: usize, const Q: usize>(
    simd: S,
    rows: &[f32],
    queries: [&[f32]; Q],
    into: &mut [f32],
) {
    let e = queries[0].len();
    let n_rows = rows.len() / e;
    let tiles = rows.chunks_exact(R * e);
    let rest = tiles.remainder();
    for (tile, rows) in tiles.enumerate() {
        let sums = tile_dots::<S, R, Q>(simd, split(rows, e), queries);
        for (q, sums) in sums.iter().enumerate() {
            into[q * n_rows + tile * R..][..R].copy_from_slice(sums);
        }
    }
    let first = n_rows - rest.len() / e;
    for (offset, row) in rest.chunks_exact(e).enumerate() {
        let sums = tile_dots::<S, 1, Q>(simd, [row], queries);
        for (q, [sum]) in sums.into_iter().enumerate() {
            into[q * n_rows + first + offset] = sum;
        }
    }
}

/// `[Q, R]` dot products, each summed in one register.
#[inline(always)]
fn tile_dots<S: Simd, const R: usize, const Q: usize>(
    simd: S,
    rows: [&[f32]; R],
    queries: [&[f32]; Q],
) -> [[f32; R]; Q] {
    let rows = rows.map(|row| S::as_simd_f32s(row));
    let queries = queries.map(|query| S::as_simd_f32s(query));
    let n = queries[0].0.len();
    let heads = rows.map(|(head, _)| &head[..n]);
    let query_heads = queries.map(|(head, _)| &head[..n]);
    let mut sums = [[simd.splat_f32s(0.0); R]; Q];
    for at in 0..n {
        let r: [S::f32s; R] = heads.map(|head| head[at]);
        for q in 0..Q {
            for (sum, row) in sums[q].iter_mut().zip(r) {
                *sum = simd.mul_add_e_f32s(query_heads[q][at], row, *sum);
            }
        }
    }
    if !queries[0].1.is_empty() {
        for q in 0..Q {
            let query = simd.partial_load_f32s(queries[q].1);
            for (sum, (_, tail)) in sums[q].iter_mut().zip(rows) {
                *sum = simd.mul_add_e_f32s(query, simd.partial_load_f32s(tail), *sum);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| simd.reduce_sum_f32s(sum)))
}

#[inline(always)]
fn split<const N: usize>(rows: &[f32], width: usize) -> [&[f32]; N] {
    std::array::from_fn(|row| &rows[row * width..(row + 1) * width])
}

#[cfg(test)]
mod tests;
