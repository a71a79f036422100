//! What a teacher leaves out: at thresholds, in joined batches, and with no gradient left.

use super::*;
use crate::{
    config::{LossConfig, ScalarConfig},
    losses::{Batch, FalseNegatives, Labels, Negatives, Reduction},
};

/// Unit vectors in the plane, by their angles in degrees.
fn at(angles: &[f32]) -> Embeddings {
    let values =
        angles.iter().flat_map(|angle| [angle.to_radians().cos(), angle.to_radians().sin()]);
    Embeddings::new(2, values.collect()).unwrap()
}

fn vectors(queries: &[f32], documents: &[f32]) -> TeacherVectors {
    TeacherVectors { queries: at(queries), documents: at(documents) }
}

fn left_out(same: &FalseNegatives, b: usize, n: usize) -> Vec<(usize, usize)> {
    let pairs = (0..b).flat_map(|i| (0..n).map(move |j| (i, j)));
    pairs.filter(|(i, j)| same.contains(*i, *j)).collect()
}

#[test]
fn a_document_is_left_out_just_above_the_threshold_whoevers_it_is() {
    // Scores of query 0: own 0.5 (60°), of query 1's own 0.6, of the negatives of both 0.47 and 0.49.
    let degrees = |cosine: f32| cosine.acos().to_degrees();
    let documents = [60.0, degrees(0.6), degrees(0.47), degrees(0.49)];
    let check = |threshold, expected: &[usize]| {
        let vectors = vectors(&[0.0, 180.0], &documents);
        let same = FalseNegatives::none().with_teacher(vectors, threshold);
        let of_first: Vec<usize> =
            left_out(&same, 2, 4).into_iter().filter(|(i, _)| *i == 0).map(|(_, j)| j).collect();
        assert_eq!(of_first, expected, "{threshold:?}");
    };
    check(TeacherThreshold::Above(0.601), &[]);
    check(TeacherThreshold::Above(0.599), &[1]);
    check(TeacherThreshold::Margin(0.0), &[1]);
    check(TeacherThreshold::Margin(0.009), &[1]);
    check(TeacherThreshold::Margin(0.011), &[1, 3]);
    check(TeacherThreshold::Share(0.981), &[1]);
    check(TeacherThreshold::Share(0.979), &[1, 3]);
    check(TeacherThreshold::Share(0.9), &[1, 2, 3]);
    check(TeacherThreshold::Above(-1.1), &[1, 2, 3]);
}

#[test]
fn a_share_of_a_score_below_zero_is_below_it() {
    assert!((TeacherThreshold::Share(0.75).of(-0.5) + 0.625).abs() < 1e-12);
    assert!((TeacherThreshold::Share(0.75).of(0.5) - 0.375).abs() < 1e-12);
}

#[test]
fn queries_and_own_documents_are_compared_with_the_same_threshold() {
    // Own documents at 30° from their queries, which are 20° apart.
    let vectors = vectors(&[0.0, 20.0, 180.0], &[30.0, 50.0, 210.0]);
    let same = FalseNegatives::none().with_teacher(vectors, TeacherThreshold::Margin(0.0));
    assert!(same.leaves_out(Between::Queries, 0, 1) && same.leaves_out(Between::Documents, 1, 0));
    assert!(!same.leaves_out(Between::Queries, 0, 2) && !same.leaves_out(Between::Queries, 1, 1));
    assert_eq!(left_out(&same, 3, 3), [(1, 0)], "10° from each other");
    assert_eq!(same.count(), 1);
}

#[test]
fn pairs_at_the_threshold_are_judged_the_same_in_any_tile() {
    // Every other document is the own one of all queries once more: as near as it, so it stays.
    let (b, e) = (45, 300);
    let queries = crate::testing::unit_rows(b, e, conjoin_core::Seed(1));
    let documents = crate::testing::unit_rows(2, e, conjoin_core::Seed(2));
    let documents = documents.select(&(0..b).map(|i| i % 2).collect::<Vec<_>>());
    let taught = Taught::new(TeacherVectors { queries, documents }, TeacherThreshold::Margin(0.0));
    let found = |block: usize| {
        let mut found = Vec::new();
        for (rows, columns) in
            (0..b).step_by(block).flat_map(|i| (0..b).step_by(7).map(move |j| (i, j)))
        {
            let (rows, columns) = (rows..(rows + block).min(b), columns..(columns + 7).min(b));
            taught.for_each_fit(Between::QueriesAndDocuments, rows, columns, |i, j| {
                found.push((i, j))
            });
        }
        found.sort_unstable();
        found
    };
    let all = found(45);
    assert!(all.iter().all(|(i, j)| i % 2 != j % 2), "copies of the own document stay");
    assert!(all.len() > 100, "{}", all.len());
    for block in [1, 4, 7, 32] {
        assert_eq!(found(block), all, "{block}");
    }
}

#[test]
fn batches_are_joined_with_own_documents_first() {
    let first = vectors(&[1.0, 2.0], &[11.0, 12.0, 21.0, 22.0]);
    let second = vectors(&[3.0], &[13.0, 23.0]);
    let joined = TeacherVectors::join(vec![first.clone(), second]).unwrap();
    let expected = vectors(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0, 21.0, 22.0, 23.0]);
    assert_eq!(joined, expected);
    let wider = Embeddings::new(3, vec![1.0, 0.0, 0.0]).unwrap();
    let other = TeacherVectors { queries: wider.clone(), documents: wider };
    assert_eq!(TeacherVectors::join(vec![first, other]), None);
}

/// Query 0 leaves the own document of query 1 out, not the other way round, in which queries `[2, 4]`
/// and documents `[4, 4]` stand at right angles: what a query learns of a document is along it.
#[test]
fn a_pair_that_is_left_out_has_no_gradient() {
    let rows = |axes: &[usize]| {
        let mut rows = Embeddings::zeros(axes.len(), 8);
        axes.iter().enumerate().for_each(|(row, axis)| rows.row_mut(row)[*axis] = 1.0);
        rows
    };
    let (queries, documents) = (rows(&[0, 1]), rows(&[2, 3, 4, 5]));
    let vectors = vectors(&[0.0, 90.0], &[0.0, 30.0, 180.0, 20.0]);
    let taught = FalseNegatives::none().with_teacher(vectors, TeacherThreshold::Above(0.8));
    assert_eq!(left_out(&taught, 2, 4), [(0, 1), (0, 3)]);
    let negatives = Negatives::All;
    let log_scale = ScalarConfig::clip_log_scale;
    let info_nce = |reduction| LossConfig::InfoNce { reduction, negatives, log_scale: log_scale() };
    let reduction = Reduction::SymmetricMean;
    let losses = [
        info_nce(reduction),
        info_nce(Reduction::OneWay),
        LossConfig::WeightedInfoNce { reduction, negatives, log_scale: log_scale() },
        LossConfig::Sigmoid {
            log_scale: log_scale(),
            bias: ScalarConfig::siglip_bias(),
            negatives,
        },
        LossConfig::Joint { log_scale: log_scale() },
    ];
    for loss in losses {
        let found = |same: &FalseNegatives| {
            let labels = Labels::Grades(&[1.0, 0.5]);
            let batch =
                Batch { queries: &queries, documents: &documents, false_negatives: same, labels };
            let loss = loss.build();
            let scalars: Vec<f32> = loss.scalars().iter().map(|scalar| scalar.init).collect();
            let outcome = loss.evaluate(batch, &scalars);
            // What queries learn of documents, and documents of queries, `[query][document]`.
            let of_query = |i: usize| [2, 3, 4, 5].map(|axis| outcome.d_queries.row(i)[axis]);
            let of_document = |i: usize| [0, 1, 2, 3].map(|j| outcome.d_documents.row(j)[i]);
            [of_query(0), of_document(0), of_query(1), of_document(1)]
        };
        let [query, document, others @ ..] = found(&taught);
        assert!(query[1] == 0.0 && query[3] == 0.0, "{loss:?}: {query:?}");
        assert!(document[1] == 0.0 && document[3] == 0.0, "{loss:?}: {document:?}");
        assert!(query[0] != 0.0 && query[2] != 0.0, "{loss:?}: {query:?}");
        assert!(others.iter().flatten().all(|x| *x != 0.0), "{loss:?}: {others:?}");
        let plain = found(&FalseNegatives::none());
        assert!(plain.iter().flatten().all(|x| *x != 0.0), "{loss:?}: {plain:?}");
    }
}
