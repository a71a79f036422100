//! The reference losses of `testdata/parity/losses`, for the tests of each loss, and checks that
//! every loss owes.

use conjoin_core::{Embeddings, Seed};
use serde::Deserialize;

use super::{
    Aspect, Batch, FalseNegatives, LabelKind, Labels, Loss, LossScalar, Outcome, TeacherThreshold,
    TeacherVectors,
};
use crate::testing::{assert_close, random, unit_rows};

#[derive(Deserialize)]
struct Golden {
    width: usize,
    aspects: Vec<GoldenAspect>,
    grades: Vec<f32>,
    teacher: Vec<f32>,
    teacher_share: f32,
    teacher_thresholds: Thresholds,
    teacher_queries: Vec<f32>,
    teacher_documents: Vec<f32>,
    queries: Vec<f32>,
    documents: Vec<f32>,
    cases: Vec<Case>,
}

/// Above which of a teacher's similarities a document of the batch is no negative.
#[derive(Deserialize)]
struct Thresholds {
    above: f32,
    share: f32,
    margin: f32,
}

impl Thresholds {
    fn of(&self, mask: &str) -> TeacherThreshold {
        match mask.rsplit('_').next() {
            Some("above") => TeacherThreshold::Above(self.above),
            Some("share") => TeacherThreshold::Share(self.share),
            Some("margin") => TeacherThreshold::Margin(self.margin),
            _ => panic!("mask {mask}"),
        }
    }
}

#[derive(Deserialize)]
struct GoldenAspect {
    queries: Vec<u64>,
    documents: Vec<u64>,
}

#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) kind: String,
    pub(super) settings: Settings,
    n_negatives: usize,
    mask: String,
    scalars: Vec<f32>,
    loss: f64,
    accuracy: f64,
    d_queries: Vec<f32>,
    d_documents: Vec<f32>,
    d_scalars: Vec<f64>,
}

/// The settings of a case; each loss reads its own.
#[derive(Deserialize, Default)]
pub(super) struct Settings {
    #[serde(default)]
    pub(super) kind: String,
    pub(super) reduction: Option<super::Reduction>,
    #[serde(default)]
    pub(super) negatives: super::Negatives,
    pub(super) temperatures: Option<super::Temperatures>,
    #[serde(default)]
    pub(super) dims: Vec<super::MatryoshkaDim>,
    pub(super) inner: Option<Box<Settings>>,
}

/// A scalar that is learned and may take any value.
pub(super) fn free(name: &'static str) -> LossScalar {
    LossScalar { name, init: 0.0, min: f32::MIN, max: f32::MAX, learned: true }
}

/// Compares a kind of loss with its reference: gradients within 3e-6 of the largest, since ours
/// are of f32 (1e-6 was seen where logits reach 100); the loss within 1e-6 of itself.
#[track_caller]
pub(super) fn check_golden(kind: &str, n_cases: usize, loss: impl Fn(&Settings) -> Box<dyn Loss>) {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../../testdata/parity/losses/losses.json"))
            .unwrap();
    let cases: Vec<&Case> = golden.cases.iter().filter(|case| case.kind == kind).collect();
    assert_eq!(cases.len(), n_cases, "cases of {kind}");
    for case in cases {
        golden.check(case, loss(&case.settings).as_ref());
    }
}

impl Golden {
    fn check(&self, case: &Case, loss: &dyn Loss) {
        let m = case.n_negatives;
        let queries = Embeddings::new(self.width, self.queries.clone()).unwrap();
        let b = queries.len();
        let rows = first_negatives(b, m);
        let documents = Embeddings::new(self.width, self.documents.clone()).unwrap().select(&rows);
        let teacher: Vec<f32> =
            self.teacher.chunks_exact(4).flat_map(|row| row[..=m].to_vec()).collect();
        let same = self.false_negatives(&case.mask, &rows, &teacher);
        let labels = match loss.needs() {
            LabelKind::None => Labels::None,
            LabelKind::Grades => Labels::Grades(&self.grades),
            LabelKind::TeacherScores => Labels::TeacherScores(&teacher),
        };
        let batch =
            Batch { queries: &queries, documents: &documents, false_negatives: &same, labels };
        check(case, &loss.evaluate(batch, &case.scalars));
    }

    fn false_negatives(&self, mask: &str, rows: &[usize], teacher: &[f32]) -> FalseNegatives {
        let b = self.grades.len();
        let documents = self.aspects.iter().map(|aspect| {
            let known = aspect.documents.len();
            rows.iter().filter(|row| **row < known).map(|row| aspect.documents[*row]).collect()
        });
        let documents: Vec<Vec<u64>> = documents.collect();
        let aspects = self.aspects.iter().zip(&documents);
        let aspects: Vec<Aspect<'_>> =
            aspects.map(|(a, documents)| Aspect { queries: &a.queries, documents }).collect();
        let same = match mask.starts_with("ids") {
            true => FalseNegatives::by_aspects(&aspects),
            false => FalseNegatives::none(),
        };
        match mask {
            "none" | "ids" => same,
            "teacher" | "ids_and_teacher" => {
                let share = TeacherThreshold::Share(self.teacher_share);
                same.with_teacher_scores(teacher, b, share)
            }
            _ => same.with_teacher(self.teacher_vectors(rows), self.teacher_thresholds.of(mask)),
        }
    }

    fn teacher_vectors(&self, rows: &[usize]) -> TeacherVectors {
        let matrix = |values: &[f32]| Embeddings::new(3, values.to_vec()).unwrap();
        let documents = matrix(&self.teacher_documents).select(rows);
        TeacherVectors { queries: matrix(&self.teacher_queries), documents }
    }
}

/// Document rows of a batch with `m` of each query's three hard negatives.
fn first_negatives(b: usize, m: usize) -> Vec<usize> {
    let negatives = (0..b).flat_map(|i| (0..m).map(move |k| b + 3 * i + k));
    (0..b).chain(negatives).collect()
}

#[track_caller]
fn check(case: &Case, found: &Outcome) {
    let off = (found.loss - case.loss).abs();
    let name = format!("{} m = {} mask = {}", case.kind, case.n_negatives, case.mask);
    assert!(off < 1e-6 * case.loss.abs(), "{name}: {} {}", found.loss, case.loss);
    assert!((found.accuracy - case.accuracy).abs() < 1e-12, "{name}: {}", found.accuracy);
    assert_close(found.d_queries.values(), &case.d_queries, 3e-6);
    assert_close(found.d_documents.values(), &case.d_documents, 3e-6);
    assert_scalars_close(&found.d_scalars, &case.d_scalars, 1e-5);
}

fn assert_scalars_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * expected.abs(), "{found} {expected}");
    }
}

/// A batch that owns what it is made of.
pub(super) struct Made {
    pub(super) queries: Embeddings,
    pub(super) documents: Embeddings,
    pub(super) same: FalseNegatives,
    grades: Vec<f32>,
    teacher: Vec<f32>,
    teacher_vectors: TeacherVectors,
    query_ids: Vec<u64>,
    document_ids: Vec<u64>,
}

/// A batch of random rows with ids that repeat, grades with ties and a teacher.
pub(super) fn made(b: usize, m: usize, e: usize, seed: Seed) -> Made {
    let n = b * (1 + m);
    let ids = |n: usize, seed: Seed| -> Vec<u64> {
        let draws = random(n, seed).into_iter().enumerate();
        // One of three is one of few ids, the others are unique.
        let id = |(i, x): (usize, f32)| {
            let few = (x.abs() * 3.0 * b as f32) as u64;
            if few < b as u64 { few % 9 } else { 1_000 + i as u64 }
        };
        draws.map(id).collect()
    };
    let mut made = Made {
        queries: unit_rows(b, e, seed.stream("queries")),
        documents: unit_rows(n, e, seed.stream("documents")),
        same: FalseNegatives::none(),
        grades: random(b, seed.stream("grades")).iter().map(|x| (x.abs() * 5.0).floor()).collect(),
        teacher: random(n, seed.stream("teacher")),
        teacher_vectors: TeacherVectors {
            queries: unit_rows(b, 3, seed.stream("teacher_queries")),
            documents: unit_rows(n, 3, seed.stream("teacher_documents")),
        },
        query_ids: ids(b, seed.stream("query_ids")),
        document_ids: ids(n, seed.stream("document_ids")),
    };
    made.same = made.masks();
    made
}

impl Made {
    fn masks(&self) -> FalseNegatives {
        let aspect = Aspect { queries: &self.query_ids, documents: &self.document_ids };
        let by_ids = FalseNegatives::by_aspects(&[aspect]);
        let share = TeacherThreshold::Share(0.95);
        // One pair of twenty, as directions in three dimensions lie.
        let above = TeacherThreshold::Above(0.9);
        by_ids
            .with_teacher_scores(&self.teacher, self.queries.len(), share)
            .with_teacher(self.teacher_vectors.clone(), above)
    }

    pub(super) fn unmasked(mut self) -> Self {
        self.same = FalseNegatives::none();
        self
    }

    pub(super) fn evaluate(&self, loss: &dyn Loss, scalars: &[f32]) -> Outcome {
        let labels = match loss.needs() {
            LabelKind::None => Labels::None,
            LabelKind::Grades => Labels::Grades(&self.grades),
            LabelKind::TeacherScores => Labels::TeacherScores(&self.teacher),
        };
        let Self { queries, documents, same, .. } = self;
        loss.evaluate(Batch { queries, documents, false_negatives: same, labels }, scalars)
    }

    /// The same batch with its queries, and what belongs to them, in another order.
    fn permuted(&self, order: &[usize]) -> (Self, Vec<usize>) {
        let (b, n) = (self.queries.len(), self.documents.len());
        let m = n / b - 1;
        let negatives = order.iter().flat_map(|i| (0..m).map(move |k| b + i * m + k));
        let rows: Vec<usize> = order.iter().copied().chain(negatives).collect();
        let teacher = order.iter().flat_map(|i| self.teacher[i * (1 + m)..][..=m].to_vec());
        let mut permuted = Self {
            queries: self.queries.select(order),
            documents: self.documents.select(&rows),
            same: FalseNegatives::none(),
            grades: order.iter().map(|i| self.grades[*i]).collect(),
            teacher: teacher.collect(),
            teacher_vectors: TeacherVectors {
                queries: self.teacher_vectors.queries.select(order),
                documents: self.teacher_vectors.documents.select(&rows),
            },
            query_ids: order.iter().map(|i| self.query_ids[*i]).collect(),
            document_ids: rows.iter().map(|row| self.document_ids[*row]).collect(),
        };
        permuted.same = permuted.masks();
        (permuted, rows)
    }
}

#[track_caller]
fn assert_same_outcome(found: &Outcome, expected: &Outcome) {
    let off = (found.loss - expected.loss).abs();
    assert!(off <= 1e-6 * expected.loss.abs(), "{} {}", found.loss, expected.loss);
    assert!((found.accuracy - expected.accuracy).abs() < 1e-12);
    assert_close(found.d_queries.values(), expected.d_queries.values(), 1e-5);
    assert_close(found.d_documents.values(), expected.d_documents.values(), 1e-5);
    // A sum over all pairs of both signs: its rounding is that of its largest parts.
    for (found, expected) in found.d_scalars.iter().zip(&expected.d_scalars) {
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found} {expected}");
    }
}

/// Blocks of any size give what one block gives, with any number of hard negatives, masked or not.
#[track_caller]
pub(super) fn check_blocks(loss: impl Fn(usize) -> Box<dyn Loss>, scalars: &[f32]) {
    for m in [0, 1, 3] {
        let masked = made(37, m, 21, Seed(3));
        assert!(masked.same.count() > 5, "something is left out");
        for batch in [made(37, m, 21, Seed(3)).unmasked(), masked] {
            let whole = batch.evaluate(loss(128).as_ref(), scalars);
            for block in [1, 5, 32, 33, 36] {
                let blocked = batch.evaluate(loss(block).as_ref(), scalars);
                assert_same_outcome(&blocked, &whole);
            }
        }
    }
}

/// A batch in another order has the same loss, and its gradients in that order.
#[track_caller]
pub(super) fn check_order(loss: &dyn Loss, scalars: &[f32]) {
    for m in [loss.min_negatives(), 3] {
        let batch = made(23, m, 8, Seed(11));
        let order: Vec<usize> = (0..23).map(|i| (i * 9 + 4) % 23).collect();
        let (permuted, rows) = batch.permuted(&order);
        let mut expected = batch.evaluate(loss, scalars);
        expected.d_queries = expected.d_queries.select(&order);
        expected.d_documents = expected.d_documents.select(&rows);
        assert_same_outcome(&permuted.evaluate(loss, scalars), &expected);
    }
}

/// Every gradient agrees with finite differences of the loss, on 4 × 5 inputs. The loss is computed
/// from f32, so a step of 1e-2 leaves differences within 1e-3 of the largest gradient.
#[track_caller]
pub(super) fn check_gradients(loss: &dyn Loss, scalars: &[f32]) {
    for m in [loss.min_negatives(), 3] {
        let batch = made(4, m, 5, Seed(21));
        let outcome = batch.evaluate(loss, scalars);
        let queries = differences(batch.queries.values(), |values| {
            let queries = Embeddings::new(5, values).unwrap();
            made_of(&batch, queries, batch.documents.clone()).evaluate(loss, scalars).loss
        });
        assert_close(outcome.d_queries.values(), &queries, 1e-3);
        let documents = differences(batch.documents.values(), |values| {
            let documents = Embeddings::new(5, values).unwrap();
            made_of(&batch, batch.queries.clone(), documents).evaluate(loss, scalars).loss
        });
        assert_close(outcome.d_documents.values(), &documents, 1e-3);
        let by_scalars = differences(scalars, |scalars| batch.evaluate(loss, &scalars).loss);
        let found: Vec<f32> = outcome.d_scalars.iter().map(|d| *d as f32).collect();
        assert_close(&found, &by_scalars, 1e-3);
    }
}

fn made_of(batch: &Made, queries: Embeddings, documents: Embeddings) -> Made {
    Made {
        queries,
        documents,
        same: batch.same.clone(),
        grades: batch.grades.clone(),
        teacher: batch.teacher.clone(),
        teacher_vectors: batch.teacher_vectors.clone(),
        query_ids: Vec::new(),
        document_ids: Vec::new(),
    }
}

/// Central differences of fourth order.
fn differences(at: &[f32], loss: impl Fn(Vec<f32>) -> f64) -> Vec<f32> {
    let moved = |i: usize, by: f32| {
        let mut values = at.to_vec();
        values[i] += by;
        loss(values)
    };
    let step = 0.01_f32;
    let slope = |i: usize| {
        let near = moved(i, step) - moved(i, -step);
        let far = moved(i, 2.0 * step) - moved(i, -2.0 * step);
        ((8.0 * near - far) / (12.0 * f64::from(step))) as f32
    };
    (0..at.len()).map(slope).collect()
}
