//! Dot products agree with a plain sum, in any batch.

use conjoin_core::Seed;
use rand::Rng;

use super::*;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Seed(seed).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Every mix of full and partial tiles, at widths with and without a tail of the vector registers.
#[test]
fn dots_agree_with_a_plain_sum() {
    for width in [1, 3, 16, 33, 384] {
        for (n_rows, n_queries) in [(0, 1), (1, 1), (9, 1), (4, 4), (13, 6), (17, 9)] {
            let (rows, queries) = (random(n_rows * width, 1), random(n_queries * width, 2));
            let mut found = vec![f32::NAN; n_rows * n_queries];
            dots(&rows, &queries, width, &mut found);
            for (q, query) in queries.chunks(width).enumerate() {
                for (r, row) in rows.chunks(width).enumerate() {
                    let sum: f64 =
                        query.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let error = (f64::from(found[q * n_rows + r]) - sum).abs();
                    assert!(error < 1e-5, "width {width}, row {r}, query {q}: off by {error}");
                }
            }
        }
    }
}

#[test]
fn a_batch_gives_bit_for_bit_what_single_pairs_give() {
    let (width, n_rows, n_queries) = (50, 13, 7);
    let (rows, queries) = (random(n_rows * width, 3), random(n_queries * width, 4));
    let mut batch = vec![0.0; n_rows * n_queries];
    dots(&rows, &queries, width, &mut batch);
    for (q, query) in queries.chunks(width).enumerate() {
        for (r, row) in rows.chunks(width).enumerate() {
            let mut one = [0.0];
            dots(row, query, width, &mut one);
            assert_eq!(one[0].to_bits(), batch[q * n_rows + r].to_bits());
        }
    }
}
