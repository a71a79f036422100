//! One retrieval task: queries, a corpus, what is relevant to what, and its result.
//!
//! In:  [`RetrievalTask`]. Out: [`TaskResult`] with one [`QueryResult`] per counted query.
//! Not here: the ranking itself (`ranking`), what is made of it (`metric`, `compare`).

use conjoin_core::{Embeddings, Modality};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Metric, TaskError, TaskErrorKind,
    ranking::{self, Precedence, Ranking},
};

/// Queries to be answered from a corpus.
///
/// # Shapes
/// `q` queries and `n` corpus rows of one width `e`.
#[derive(Debug, Clone)]
pub struct RetrievalTask {
    /// The name in reports and gates (`text_to_image`).
    pub name: String,
    /// What the queries are.
    pub query_modality: Modality,
    /// What the corpus rows are.
    pub item_modality: Modality,
    /// The queries, `[q, e]`.
    pub queries: Embeddings,
    /// The corpus, `[n, e]`.
    pub corpus: Embeddings,
    /// The id of each corpus row, all different, which orders equal scores (descending, as
    /// `trec_eval` does). Empty: the row's number written in decimal.
    pub ids: Vec<String>,
    /// The judged corpus rows of each query with their grade, `q` lists. A grade above 0 is
    /// relevant, a row that is not listed is not.
    pub relevance: Vec<Vec<(u32, f32)>>,
    /// The corpus row that is the query itself and is left out of its ranking and judgements;
    /// `q` entries, or empty for none.
    pub exclude: Vec<Option<u32>>,
}

/// How a task went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// The task's name.
    pub name: String,
    /// What the queries are.
    pub query_modality: Modality,
    /// What the corpus rows are.
    pub item_modality: Modality,
    /// Rows of the corpus.
    pub n_corpus: u32,
    /// Queries without a relevant item: not counted in any metric.
    pub n_uncounted: u32,
    /// The counted queries, in the task's order.
    pub queries: Vec<QueryResult>,
}

/// How one query went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryResult {
    /// The query's row in the task.
    pub query: u32,
    /// How many items are relevant to it.
    pub n_relevant: u32,
    /// The rank of the first relevant item in the whole corpus, from 1.
    pub first_rank: u32,
    /// Normalised discounted cumulative gain of the first ten.
    pub ndcg_at_10: f64,
    /// The first ten items.
    pub hits: Vec<QueryHit>,
}

/// One item found for a query.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryHit {
    /// The corpus row.
    pub row: u32,
    /// The dot product with the query.
    pub score: f32,
    /// The grade judged, 0 if none.
    pub grade: f32,
}

impl RetrievalTask {
    /// Ranks the whole corpus for every query that has a relevant item.
    ///
    /// Runs on all threads of the current rayon pool; the result does not depend on their number.
    /// Memory beyond the task is a small block per thread and the result.
    ///
    /// # Errors
    /// When the task contradicts itself, no query has a relevant item, or a score is not finite.
    pub fn evaluate(&self) -> Result<TaskResult, TaskError> {
        self.run().map_err(|kind| self.fail(kind))
    }

    fn run(&self) -> Result<TaskResult, TaskErrorKind> {
        self.check()?;
        let precedence = Precedence::new(&self.ids, self.corpus.len())?;
        let counted = self.counted()?;
        let rankings = ranking::rank(self, &counted, &precedence)?;
        let queries =
            counted.par_iter().zip(rankings).map(|(&query, ranking)| self.result(query, ranking));
        Ok(TaskResult {
            name: self.name.clone(),
            query_modality: self.query_modality,
            item_modality: self.item_modality,
            n_corpus: as_row(self.corpus.len()),
            n_uncounted: as_row(self.queries.len() - counted.len()),
            queries: queries.collect(),
        })
    }

    pub(crate) fn fail(&self, kind: TaskErrorKind) -> TaskError {
        TaskError { task: self.name.clone(), kind }
    }

    /// The row that is the query itself.
    pub(crate) fn excluded(&self, query: u32) -> Option<u32> {
        self.exclude.get(query as usize).copied().flatten()
    }

    /// The judgements of a query, without the query itself.
    pub(crate) fn judged(&self, query: u32) -> impl Iterator<Item = (u32, f32)> {
        let excluded = self.excluded(query);
        self.relevance[query as usize]
            .iter()
            .copied()
            .filter(move |(row, _)| Some(*row) != excluded)
    }

    /// The relevant rows of a query.
    pub(crate) fn relevant(&self, query: u32) -> impl Iterator<Item = u32> {
        self.judged(query).filter(|(_, grade)| *grade > 0.0).map(|(row, _)| row)
    }

    /// The queries that have a relevant item.
    pub(crate) fn counted(&self) -> Result<Vec<u32>, TaskErrorKind> {
        let queries = self.queries.len();
        let counted: Vec<u32> =
            (0..as_row(queries)).filter(|query| self.relevant(*query).next().is_some()).collect();
        if counted.is_empty() {
            return Err(TaskErrorKind::NoRelevantItem { queries });
        }
        Ok(counted)
    }

    pub(crate) fn check(&self) -> Result<(), TaskErrorKind> {
        let (queries, corpus) = (&self.queries, &self.corpus);
        if queries.width() != corpus.width() {
            let (queries, corpus) = (queries.width(), corpus.width());
            return Err(TaskErrorKind::Width { queries, corpus });
        }
        check_rows("queries", queries.len())?;
        check_rows("corpus", corpus.len())?;
        check_length("relevance", self.relevance.len(), queries.len())?;
        if !self.exclude.is_empty() {
            check_length("exclude", self.exclude.len(), queries.len())?;
        }
        if !self.ids.is_empty() {
            check_length("ids", self.ids.len(), corpus.len())?;
        }
        (0..as_row(queries.len())).try_for_each(|query| self.check_judgements(query))
    }

    fn check_judgements(&self, query: u32) -> Result<(), TaskErrorKind> {
        let rows = self.corpus.len();
        let judged = &self.relevance[query as usize];
        for row in judged.iter().map(|(row, _)| *row).chain(self.excluded(query)) {
            if row as usize >= rows {
                return Err(TaskErrorKind::Row { query, row, rows });
            }
        }
        if let Some(&(row, grade)) = judged.iter().find(|(_, g)| !(g.is_finite() && *g >= 0.0)) {
            return Err(TaskErrorKind::Grade { query, row, grade });
        }
        let mut sorted: Vec<u32> = judged.iter().map(|(row, _)| *row).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(TaskErrorKind::JudgedTwice { query, row: pair[0] }),
            None => Ok(()),
        }
    }

    fn result(&self, query: u32, ranking: Ranking) -> QueryResult {
        let grade = |row| self.judged(query).find(|(r, _)| *r == row).map_or(0.0, |(_, g)| g);
        let hits: Vec<QueryHit> = ranking
            .hits
            .into_iter()
            .map(|(row, score)| QueryHit { row, score, grade: grade(row) })
            .collect();
        QueryResult {
            query,
            n_relevant: as_row(self.relevant(query).count()),
            first_rank: ranking.first_rank,
            ndcg_at_10: ndcg(&hits, self.judged(query).map(|(_, grade)| grade).collect()),
            hits,
        }
    }
}

impl TaskResult {
    /// The value of a metric over the counted queries.
    #[must_use]
    pub fn value(&self, metric: Metric) -> f64 {
        metric.over(&self.queries)
    }
}

/// Gain over the best possible gain of the first ten; linear gain, discount `log2(rank + 1)`.
fn ndcg(hits: &[QueryHit], mut judged: Vec<f32>) -> f64 {
    judged.sort_unstable_by(|a, b| b.total_cmp(a));
    discounted(hits.iter().map(|hit| hit.grade)) / discounted(judged.into_iter())
}

fn discounted(grades: impl Iterator<Item = f32>) -> f64 {
    let ranks = 1..=ranking::TOP_HITS as u32;
    grades.zip(ranks).map(|(grade, rank)| f64::from(grade) / f64::from(rank + 1).log2()).sum()
}

fn check_rows(field: &'static str, found: usize) -> Result<(), TaskErrorKind> {
    let limit = u32::MAX as usize - 1;
    if found > limit { Err(TaskErrorKind::TooLarge { field, found, limit }) } else { Ok(()) }
}

fn check_length(field: &'static str, found: usize, expected: usize) -> Result<(), TaskErrorKind> {
    if found == expected { Ok(()) } else { Err(TaskErrorKind::Length { field, found, expected }) }
}

/// Row numbers fit: `check` refuses larger tasks.
pub(crate) fn as_row(index: usize) -> u32 {
    u32::try_from(index).expect("rows are limited to 32 bits")
}

#[cfg(test)]
mod tests;
