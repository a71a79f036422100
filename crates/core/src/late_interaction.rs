//! MaxSim: the similarity of two texts that are given as one vector per token.
//!
//! Source: Khattab and Zaharia 2020 (ColBERT), eq. 3. Parity: `testdata/parity/colbert`.

use crate::Embeddings;

/// Rows of a document that are compared with all query rows before the next ones: they stay in the cache.
const ROWS_PER_BLOCK: usize = 64;

/// `Σ_q max_d q·d`: each query token counts its most similar document token. Exact; zero when one side
/// has no token.
///
/// # Shapes
/// `query`: `[q, e]`, `document`: `[d, e]`, rows of unit length.
///
/// # Panics
/// When the widths differ.
#[must_use]
pub fn max_sim(query: &Embeddings, document: &Embeddings) -> f32 {
    assert_eq!(query.width(), document.width(), "vectors of one space");
    if document.is_empty() {
        return 0.0;
    }
    let mut best = vec![f32::NEG_INFINITY; query.len()];
    for block in document.values().chunks(ROWS_PER_BLOCK * document.width()) {
        for (best, query) in best.iter_mut().zip(query.rows()) {
            let similar = block.chunks_exact(query.len()).map(|row| dot(query, row));
            *best = similar.fold(*best, f32::max);
        }
    }
    best.iter().sum()
}

/// A dot product in lanes, which compilers turn into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut lanes = [0.0_f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, width: usize, seed: u32) -> Embeddings {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from((state >> 16) as u16) / 32768.0 - 1.0
        };
        let values = (0..rows * width).map(|_| next()).collect();
        let mut matrix = Embeddings::new(width, values).unwrap();
        matrix.normalize();
        matrix
    }

    #[test]
    fn agrees_with_a_plain_loop_over_blocks_of_any_size() {
        for (rows, width) in [(1, 3), (63, 16), (64, 20), (65, 128), (200, 37)] {
            let (query, document) = (matrix(7, width, 1), matrix(rows, width, 2));
            let plain: f32 = query
                .rows()
                .map(|q| {
                    let all = document.rows().map(|d| q.iter().zip(d).map(|(a, b)| a * b).sum());
                    all.fold(f32::NEG_INFINITY, f32::max)
                })
                .sum();
            assert!((max_sim(&query, &document) - plain).abs() < 1e-5, "{rows} x {width}");
        }
    }

    #[test]
    fn nothing_is_similar_to_nothing() {
        let (some, none) = (matrix(2, 4, 1), Embeddings::zeros(0, 4));
        assert_eq!(max_sim(&some, &none).to_bits(), 0.0_f32.to_bits());
        assert!(max_sim(&none, &some).abs() < f32::EPSILON);
    }
}
