//! InfoNCE against PyTorch, a slow plain version, finite differences, and itself in other blocks.

use conjoin_core::{Embeddings, Seed};

use super::*;
use crate::{
    losses::{
        FalseNegatives, Labels,
        golden::{check_blocks, check_golden, check_gradients, check_order, made},
    },
    testing::{assert_close, unit_rows},
};

const ALL: [Reduction; 3] = [Reduction::SymmetricMean, Reduction::SymmetricSum, Reduction::OneWay];

fn info_nce(reduction: Reduction, block: usize) -> InfoNce {
    let log_scale =
        LossScalar { name: "log_scale", init: 2.0, min: 0.0, max: 100.0_f32.ln(), learned: true };
    InfoNce { block, ..InfoNce::new(reduction, log_scale) }
}

/// The loss by the book, in f64, all pairs at once.
fn plain_loss(
    q: &[f64],
    d: &[f64],
    e: usize,
    log_scale: f64,
    same: &FalseNegatives,
    reduction: Reduction,
) -> f64 {
    let b = q.len() / e;
    let logit = |i: usize, j: usize| -> f64 {
        let dot: f64 = (0..e).map(|x| q[i * e + x] * d[j * e + x]).sum();
        if same.contains(i, j) { f64::NEG_INFINITY } else { log_scale.exp() * dot }
    };
    let cross_entropy = |logit: &dyn Fn(usize, usize) -> f64| -> f64 {
        let row = |i: usize| (0..b).map(|j| logit(i, j).exp()).sum::<f64>().ln() - logit(i, i);
        (0..b).map(row).sum::<f64>() / b as f64
    };
    let (rows, columns) = (cross_entropy(&logit), cross_entropy(&|i, j| logit(j, i)));
    match reduction {
        Reduction::SymmetricMean => 0.5 * (rows + columns),
        Reduction::SymmetricSum => rows + columns,
        Reduction::OneWay => rows,
    }
}

fn wide(rows: &Embeddings) -> Vec<f64> {
    rows.values().iter().map(|v| f64::from(*v)).collect()
}

fn with(reduction: Reduction, negatives: Negatives, block: usize) -> Box<dyn Loss> {
    Box::new(info_nce(reduction, block).with_negatives(negatives))
}

#[test]
fn parity_agrees_with_pytorch() {
    for block in [4, 128] {
        check_golden("info_nce", 59, |settings| {
            with(settings.reduction.unwrap(), settings.negatives, block)
        });
    }
}

#[test]
fn hard_negatives_in_blocks_agree_with_whole() {
    for negatives in [Negatives::All, Negatives::Own] {
        for reduction in ALL {
            check_blocks(|block| with(reduction, negatives, block), &[3.0]);
        }
    }
}

#[test]
fn grad_agrees_with_finite_differences_with_hard_negatives() {
    for negatives in [Negatives::All, Negatives::Own] {
        for reduction in ALL {
            check_gradients(with(reduction, negatives, 128).as_ref(), &[1.3]);
        }
    }
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    for negatives in [Negatives::All, Negatives::Own] {
        check_order(with(ALL[1], negatives, 8).as_ref(), &[2.0]);
    }
}

#[test]
fn own_hard_negatives_are_all_of_them_for_one_query() {
    let batch = made(1, 3, 6, Seed(1)).unmasked();
    let [all, own] = [Negatives::All, Negatives::Own].map(|n| {
        let outcome = batch.evaluate(with(ALL[0], n, 128).as_ref(), &[2.0]);
        (outcome.loss, outcome.d_queries, outcome.d_documents)
    });
    assert_eq!(all, own);
    let more = made(5, 3, 6, Seed(1)).unmasked();
    let [all, own] = [Negatives::All, Negatives::Own]
        .map(|n| more.evaluate(with(ALL[0], n, 128).as_ref(), &[2.0]).loss);
    assert!(all > own + 0.1, "more to be told apart from: {all} {own}");
}

#[test]
fn grad_agrees_with_finite_differences() {
    let (q, d) = (unit_rows(4, 3, Seed(1)), unit_rows(4, 3, Seed(2)));
    let same = FalseNegatives::by_ids(&[&[1, 2, 1, 3]]);
    let log_scale = 1.3_f32;
    for reduction in ALL {
        let pairs =
            Batch { labels: Labels::None, queries: &q, documents: &d, false_negatives: &same };
        let outcome = info_nce(reduction, 128).evaluate(pairs, &[log_scale]);
        let loss = |q: &[f64], d: &[f64], s: f64| plain_loss(q, d, 3, s, &same, reduction);
        let (q, d, s) = (wide(&q), wide(&d), f64::from(log_scale));
        assert!((outcome.loss - loss(&q, &d, s)).abs() < 1e-6);
        let step = 1e-5;
        for i in 0..12 {
            let moved = |values: &[f64], by: f64| {
                let mut moved = values.to_vec();
                moved[i] += by;
                moved
            };
            let dq =
                (loss(&moved(&q, step), &d, s) - loss(&moved(&q, -step), &d, s)) / (2.0 * step);
            let dd =
                (loss(&q, &moved(&d, step), s) - loss(&q, &moved(&d, -step), s)) / (2.0 * step);
            assert!((f64::from(outcome.d_queries.values()[i]) - dq).abs() < 1e-6);
            assert!((f64::from(outcome.d_documents.values()[i]) - dd).abs() < 1e-6);
        }
        let ds = (loss(&q, &d, s + step) - loss(&q, &d, s - step)) / (2.0 * step);
        assert!((outcome.d_scalars[0] - ds).abs() < 1e-6);
    }
}

/// Ids that repeat now and then, over more rows than one block.
fn repeating_ids(b: usize) -> (Vec<u64>, Vec<u64>) {
    let texts = (0..b as u64).map(|i| if i % 10 == 9 { i / 30 } else { 1_000 + i });
    (texts.collect(), (0..b as u64).map(|i| if i % 17 == 3 { 5 } else { i }).collect())
}

#[test]
fn blocked_agrees_with_whole_also_with_an_uneven_last_block() {
    let (b, e) = (75, 21);
    let (q, d) = (unit_rows(b, e, Seed(3)), unit_rows(b, e, Seed(4)));
    let (texts, images) = repeating_ids(b);
    for same in [FalseNegatives::none(), FalseNegatives::by_ids(&[&texts, &images])] {
        let pairs =
            Batch { labels: Labels::None, queries: &q, documents: &d, false_negatives: &same };
        for reduction in ALL {
            let whole = info_nce(reduction, 128).evaluate(pairs, &[3.0]);
            let plain = plain_loss(&wide(&q), &wide(&d), e, 3.0, &same, reduction);
            assert!((whole.loss - plain).abs() < 1e-5, "{} {plain}", whole.loss);
            for block in [1, 32, 33, 74] {
                let blocked = info_nce(reduction, block).evaluate(pairs, &[3.0]);
                assert!((blocked.loss - whole.loss).abs() < 1e-6);
                assert_eq!(blocked.accuracy, whole.accuracy);
                assert_close(blocked.d_queries.values(), whole.d_queries.values(), 1e-5);
                assert_close(blocked.d_documents.values(), whole.d_documents.values(), 1e-5);
                assert!((blocked.d_scalars[0] - whole.d_scalars[0]).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (q, d) = (unit_rows(200, 24, Seed(5)), unit_rows(200, 24, Seed(6)));
    let same = FalseNegatives::none();
    let pairs = Batch { labels: Labels::None, queries: &q, documents: &d, false_negatives: &same };
    let run = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let outcome = pool.install(|| info_nce(ALL[0], 32).evaluate(pairs, &[4.0]));
        let Outcome { loss, accuracy, d_queries, d_documents, d_scalars } = outcome;
        (loss.to_bits(), accuracy.to_bits(), d_queries, d_documents, d_scalars[0].to_bits())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn stays_finite_and_right_at_extreme_scales() {
    let q = unit_rows(40, 8, Seed(7));
    let opposite = Embeddings::new(8, q.values().iter().map(|v| -v).collect()).unwrap();
    let same = FalseNegatives::none();
    for log_scale in [0.0, 100.0_f32.ln(), 8.0] {
        let right =
            Batch { labels: Labels::None, queries: &q, documents: &q, false_negatives: &same };
        let wrong = Batch { documents: &opposite, ..right };
        let scale = f64::from(log_scale.exp());
        for (pairs, d) in [(right, &q), (wrong, &opposite)] {
            let outcome = info_nce(ALL[0], 32).evaluate(pairs, &[log_scale]);
            let expected = if scale < 500.0 {
                plain_loss(&wide(&q), &wide(d), 8, f64::from(log_scale), &same, ALL[0])
            } else {
                outcome.loss
            };
            assert!((outcome.loss - expected).abs() <= 1e-5 * expected.max(1.0));
            assert!(outcome.loss.is_finite() && outcome.loss >= 0.0);
            assert!(outcome.d_queries.values().iter().all(|v| v.is_finite()));
            assert!(outcome.d_documents.values().iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn counts_a_tie_as_a_miss() {
    let equal = Embeddings::new(2, [1.0, 0.0].repeat(5)).unwrap();
    let same = FalseNegatives::none();
    let pairs =
        Batch { labels: Labels::None, queries: &equal, documents: &equal, false_negatives: &same };
    let outcome = info_nce(ALL[0], 128).evaluate(pairs, &[2.0]);
    assert_eq!(outcome.accuracy, 0.0, "a collapsed model finds nothing");
    assert!((outcome.loss - 5.0_f64.ln()).abs() < 1e-6, "the loss of guessing");
}

#[test]
fn a_batch_of_one_thing_only_teaches_nothing() {
    let (q, d) = (unit_rows(40, 4, Seed(8)), unit_rows(40, 4, Seed(9)));
    let same = FalseNegatives::by_ids(&[&[7; 40]]);
    let pairs = Batch { labels: Labels::None, queries: &q, documents: &d, false_negatives: &same };
    let outcome = info_nce(ALL[1], 32).evaluate(pairs, &[2.0]);
    assert_eq!((outcome.loss, outcome.accuracy), (0.0, 1.0));
    assert!(outcome.d_queries.values().iter().all(|v| *v == 0.0));
}

#[test]
fn tells_nan_embeddings_by_a_nan_loss() {
    let mut q = unit_rows(40, 4, Seed(8));
    let d = q.clone();
    q.row_mut(33)[1] = f32::NAN;
    let same = FalseNegatives::none();
    let pairs = Batch { labels: Labels::None, queries: &q, documents: &d, false_negatives: &same };
    assert!(info_nce(ALL[0], 32).evaluate(pairs, &[2.0]).loss.is_nan());
}
