//! Tests of `task` and `ranking`.

use conjoin_core::Seed;
use proptest::{prelude::*, test_runner::RngSeed};
use rand::Rng as _;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    ids: Vec<String>,
    queries: Vec<ReferenceQuery>,
}

#[derive(Deserialize)]
struct ReferenceQuery {
    scores: Vec<f32>,
    judged: Vec<(u32, f32)>,
    exclude: Option<u32>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    ndcg_cut_10: f64,
    recip_rank: f64,
    success_1: f64,
    success_5: f64,
    success_10: f64,
}

/// A task with given scores: query `i` is the unit vector of axis `i`, so that a row's value on the
/// axis is its score.
fn task_of(scores: &[Vec<f32>], judged: Vec<Vec<(u32, f32)>>) -> RetrievalTask {
    let (q, n) = (scores.len(), scores[0].len());
    let mut queries = Embeddings::zeros(q, q);
    let mut corpus = Embeddings::zeros(n, q);
    for (query, scores) in scores.iter().enumerate() {
        queries.row_mut(query)[query] = 1.0;
        for (row, score) in scores.iter().enumerate() {
            corpus.row_mut(row)[query] = *score;
        }
    }
    RetrievalTask {
        name: "text_to_image".to_owned(),
        query_modality: Modality::Text,
        item_modality: Modality::Image,
        queries,
        corpus,
        ids: Vec::new(),
        relevance: judged,
        exclude: Vec::new(),
    }
}

/// One query over given scores, row 0 relevant.
fn small(scores: &[f32]) -> RetrievalTask {
    task_of(&[scores.to_vec()], vec![vec![(0, 1.0)]])
}

#[test]
fn parity_metrics_agree_with_trec_eval() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parity/metrics/ranking.json");
    let text = fs_err::read_to_string(file).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    let scores: Vec<Vec<f32>> = reference.queries.iter().map(|q| q.scores.clone()).collect();
    let judged = reference.queries.iter().map(|q| q.judged.clone()).collect();
    let mut task = task_of(&scores, judged);
    task.ids = reference.ids;
    task.exclude = reference.queries.iter().map(|q| q.exclude).collect();
    let result = task.evaluate().unwrap();
    assert_eq!(result.queries.len(), reference.queries.len());
    for (found, query) in result.queries.iter().zip(&reference.queries) {
        let expected = &query.expected;
        for (metric, value) in [
            (Metric::NdcgAt10, expected.ndcg_cut_10),
            (Metric::Mrr, expected.recip_rank),
            (Metric::RecallAt1, expected.success_1),
            (Metric::RecallAt5, expected.success_5),
            (Metric::RecallAt10, expected.success_10),
        ] {
            let found_value = metric.of(found);
            assert!(
                (found_value - value).abs() < 1e-12,
                "{metric} of query {} is {found_value}, trec_eval says {value}",
                found.query
            );
        }
    }
}

#[test]
fn equal_scores_go_by_descending_id() {
    let mut task = small(&[0.5; 12]);
    // As text, 9 > 8 > … > 2 > 11 > 10 > 1 > 0.
    let result = task.evaluate().unwrap();
    let rows: Vec<u32> = result.queries[0].hits.iter().map(|hit| hit.row).collect();
    assert_eq!(rows, [9, 8, 7, 6, 5, 4, 3, 2, 11, 10]);
    assert_eq!(result.queries[0].first_rank, 12);
    task.ids = (0..12).map(|row| format!("{:02}", 11 - row)).collect();
    assert_eq!(task.evaluate().unwrap().queries[0].first_rank, 1);
}

#[test]
fn minus_zero_equals_zero() {
    let mut task = small(&[-0.0, 0.0]);
    task.ids = vec!["b".to_owned(), "a".to_owned()];
    assert_eq!(task.evaluate().unwrap().queries[0].first_rank, 1);
}

#[test]
fn orders_negative_scores() {
    let rows = |scores: &[f32]| -> Vec<u32> {
        small(scores).evaluate().unwrap().queries[0].hits.iter().map(|hit| hit.row).collect()
    };
    assert_eq!(rows(&[-0.5, 0.25, -0.25, 0.5, -1e-30, 1e-30]), [3, 1, 5, 4, 2, 0]);
}

#[test]
fn leaves_out_queries_without_a_relevant_item() {
    let scores = vec![vec![0.3, 0.2]; 4];
    let judged = vec![vec![], vec![(1, 1.0)], vec![(0, 0.0)], vec![(0, 2.0)]];
    let mut task = task_of(&scores, judged);
    task.exclude = vec![None, None, None, Some(0)];
    let result = task.evaluate().unwrap();
    assert_eq!(result.n_uncounted, 3);
    assert_eq!(result.queries.len(), 1);
    assert_eq!((result.queries[0].query, result.queries[0].first_rank), (1, 2));
}

#[test]
fn leaves_out_the_query_itself() {
    let mut task = small(&[0.3, 0.9, 0.2]);
    assert_eq!(task.evaluate().unwrap().queries[0].first_rank, 2);
    task.exclude = vec![Some(1)];
    let result = task.evaluate().unwrap();
    assert_eq!(result.queries[0].first_rank, 1);
    assert!(result.queries[0].hits.iter().all(|hit| hit.row != 1));
}

#[test]
fn a_score_that_is_no_number_is_an_error() {
    for bad in [f32::NAN, f32::INFINITY] {
        for scores in [vec![0.1, 0.2, bad], vec![bad, 0.1]] {
            let error = small(&scores).evaluate().unwrap_err();
            assert_eq!(error.to_string(), "cannot evaluate task `text_to_image`");
            assert!(matches!(error.kind, TaskErrorKind::NotFinite { query: 0, .. }), "{error:?}");
        }
    }
}

#[track_caller]
fn refuses(change: impl FnOnce(&mut RetrievalTask), expect: &str) {
    let mut task = small(&[0.1, 0.2]);
    change(&mut task);
    assert_eq!(task.evaluate().unwrap_err().kind.to_string(), expect);
}

#[test]
fn refuses_tasks_that_contradict_themselves() {
    refuses(|t| t.corpus = Embeddings::zeros(2, 3), "queries have 1 dimensions, the corpus has 3");
    refuses(|t| t.relevance.clear(), "relevance has 0 entries, expected 1");
    refuses(|t| t.exclude = vec![None; 2], "exclude has 2 entries, expected 1");
    refuses(|t| t.ids = vec![String::new()], "ids has 1 entries, expected 2");
    refuses(|t| t.ids = vec!["x".to_owned(); 2], "corpus rows 0 and 1 share the id `x`");
    refuses(
        |t| t.relevance[0] = vec![(2, 1.0)],
        "query 0 names corpus row 2, the corpus has 2 rows",
    );
    refuses(|t| t.exclude = vec![Some(9)], "query 0 names corpus row 9, the corpus has 2 rows");
    refuses(
        |t| t.relevance[0] = vec![(0, 1.0), (1, 1.0), (0, 2.0)],
        "query 0 judges corpus row 0 more than once",
    );
    refuses(
        |t| t.relevance[0] = vec![(1, -1.0)],
        "query 0 gives corpus row 1 the grade -1, expected a number from 0 up",
    );
    refuses(|t| t.relevance[0].clear(), "none of 1 queries has a relevant item");
    refuses(|t| t.exclude = vec![Some(0)], "none of 1 queries has a relevant item");
}

/// Sorts the whole corpus for every query and reads the metrics off the list.
fn plain(task: &RetrievalTask) -> Vec<(u32, f64, Vec<u32>)> {
    let id = |row: u32| task.ids.get(row as usize).cloned().unwrap_or(row.to_string());
    (0..task.queries.len() as u32)
        .filter_map(|query| {
            let grades: Vec<f32> = (0..task.corpus.len() as u32)
                .map(|row| task.judged(query).find(|j| j.0 == row).map_or(0.0, |j| j.1))
                .collect();
            let score = |row: u32| {
                ranking::dot(task.queries.row(query as usize), task.corpus.row(row as usize))
            };
            let mut rows: Vec<u32> = (0..task.corpus.len() as u32)
                .filter(|row| task.exclude.get(query as usize) != Some(&Some(*row)))
                .collect();
            rows.sort_by(|a, b| {
                score(*b).partial_cmp(&score(*a)).unwrap().then_with(|| id(*b).cmp(&id(*a)))
            });
            let first = rows.iter().position(|row| grades[*row as usize] > 0.0)? as u32 + 1;
            let dcg = |grades: &[f32]| -> f64 {
                let gain = |(i, g): (usize, &f32)| f64::from(*g) / ((i + 2) as f64).log2();
                grades.iter().take(10).enumerate().map(gain).sum()
            };
            let found: Vec<f32> = rows.iter().map(|row| grades[*row as usize]).collect();
            let mut ideal = grades.clone();
            ideal.sort_by(|a, b| b.total_cmp(a));
            rows.truncate(10);
            Some((first, dcg(&found) / dcg(&ideal), rows))
        })
        .collect()
}

#[track_caller]
fn agrees_with_plain(task: &RetrievalTask) {
    let expected = plain(task);
    if expected.is_empty() {
        assert!(task.evaluate().is_err());
        return;
    }
    let result = task.evaluate().unwrap();
    let found: Vec<_> = result
        .queries
        .iter()
        .map(|q| (q.first_rank, q.ndcg_at_10, q.hits.iter().map(|h| h.row).collect()))
        .collect();
    assert_eq!(found, expected);
    for metric in [Metric::RecallAt1, Metric::RecallAt10, Metric::NdcgAt10, Metric::Mrr] {
        assert!((0.0..=1.0).contains(&result.value(metric)), "{metric}");
    }
}

/// A task with random vectors wide enough that the corpus comes in several blocks, the last uneven.
#[test]
fn blocked_ranking_agrees_with_a_full_sort() {
    let mut rng = Seed(3).rng();
    let (q, n, width) = (37, 205, 2_050);
    let mut random = |rows: usize| {
        let values = (0..rows * width).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut made = Embeddings::new(width, values).unwrap();
        made.normalize();
        made
    };
    let (queries, corpus) = (random(q), random(n));
    let relevance = (0..q as u32).map(|query| vec![(query * 5, 1.0), (query, 3.0)]).collect();
    let mut task = small(&[0.0]);
    (task.queries, task.corpus, task.relevance) = (queries, corpus, relevance);
    task.relevance[0] = vec![(0, 1.0)];
    agrees_with_plain(&task);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let scores: Vec<Vec<f32>> =
        (0..50).map(|q| (0..80).map(|n| ((q * n) % 17) as f32 / 17.0).collect()).collect();
    let task = task_of(&scores, (0..50).map(|q| vec![(q, 1.0)]).collect());
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| task.evaluate().unwrap())
    };
    assert_eq!(with(1), with(3));
}

prop_compose! {
    /// Few distinct scores, so that ties are common; ids in random order.
    fn any_task()(q in 1..5_usize, n in 1..40_usize)(
        scores in prop::collection::vec(prop::collection::vec(-2..3_i8, n), q),
        grades in prop::collection::vec(prop::collection::vec(0..5_u8, n), q),
        exclude in prop::collection::vec(prop::option::of(0..n as u32), q),
        ids in Just((0..n).map(|i| i.to_string()).collect::<Vec<_>>()).prop_shuffle(),
    ) -> RetrievalTask {
        let scores: Vec<Vec<f32>> = scores
            .iter()
            .map(|row| row.iter().map(|score| f32::from(*score) / 4.0).collect())
            .collect();
        let judged = |grades: &Vec<u8>| {
            (0..).zip(grades).filter(|(_, g)| **g > 1).map(|(r, g)| (r, f32::from(g - 2))).collect()
        };
        let mut task = task_of(&scores, grades.iter().map(judged).collect());
        (task.exclude, task.ids) = (exclude, ids);
        task
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(11),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn prop_ranking_is_a_sort(task in any_task()) {
        agrees_with_plain(&task);
    }

    #[test]
    fn prop_order_of_the_corpus_does_not_matter(task in any_task(), seed in any::<u64>()) {
        let n = task.corpus.len();
        let order = rand::seq::index::sample(&mut Seed(seed).rng(), n, n).into_vec();
        let place = |row: u32| order.iter().position(|r| *r == row as usize).unwrap() as u32;
        let mut moved = task.clone();
        moved.corpus = task.corpus.select(&order);
        moved.ids = order.iter().map(|row| task.ids[*row].clone()).collect();
        moved.exclude = task.exclude.iter().map(|row| row.map(place)).collect();
        moved.relevance = task
            .relevance
            .iter()
            .map(|judged| judged.iter().map(|(row, grade)| (place(*row), *grade)).collect())
            .collect();
        match (task.evaluate(), moved.evaluate()) {
            (Ok(one), Ok(other)) => for (a, b) in one.queries.iter().zip(&other.queries) {
                prop_assert_eq!(a.first_rank, b.first_rank);
                prop_assert_eq!(a.ndcg_at_10, b.ndcg_at_10);
            },
            (Err(_), Err(_)) => {}
            (one, other) => prop_assert!(false, "{:?} but {:?}", one.is_ok(), other.is_ok()),
        }
    }
}
