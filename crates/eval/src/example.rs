//! Queries worth looking at: those that won and those that lost most.
//!
//! In:  results of one task and how to show a query or an item. Out: [`QueryExample`]s.
//! Not here: thumbnails (the caller makes them), the page (`report`).

use serde::{Deserialize, Serialize};

use crate::{QueryResult, TaskResult};

/// Hits shown per side.
const SHOWN_HITS: usize = 5;

/// How a query or an item is shown: text, picture or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The text or title, if there is one.
    pub text: Option<String>,
    /// A small PNG, JPEG, WebP or GIF as a base64 data URI, if there is one. 128 to 160 px suit.
    pub picture: Option<String>,
}

/// Shows the queries and the corpus rows of a task.
pub trait Cards {
    /// How the task's query `query` is shown.
    fn query(&self, query: u32) -> Card;

    /// How corpus row `row` is shown.
    fn item(&self, row: u32) -> Card;
}

/// One query with what was found for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryExample {
    /// The task's name.
    pub task: String,
    /// The query.
    pub query: Card,
    /// What the old model found, if there is one.
    pub before: Option<RankedCards>,
    /// What the new model found.
    pub after: RankedCards,
}

/// The first hits of a model for a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankedCards {
    /// The rank of the first relevant item, from 1.
    pub first_rank: u32,
    /// The first hits.
    pub hits: Vec<ExampleHit>,
}

/// One hit of an example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExampleHit {
    /// The item.
    pub card: Card,
    /// Its score.
    pub score: f32,
    /// Whether it is judged relevant.
    pub relevant: bool,
}

/// Up to `n` queries that won most and up to `n` that lost most, the winners first.
///
/// What counts is the change of 1 / rank of the first relevant item; equal changes stay in the
/// order of the queries. The two sides must be of the same queries, as [`crate::compare()`] checks.
#[must_use]
pub fn examples(
    before: &TaskResult,
    after: &TaskResult,
    n: usize,
    cards: &dyn Cards,
) -> Vec<QueryExample> {
    let mut changes: Vec<(f64, &QueryResult, &QueryResult)> = before
        .queries
        .iter()
        .zip(&after.queries)
        .map(|(b, a)| (1.0 / f64::from(a.first_rank) - 1.0 / f64::from(b.first_rank), b, a))
        .collect();
    changes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let task = after.name.as_str();
    let won = changes.iter().take_while(|change| change.0 > 0.0).take(n);
    // Sorting again keeps equal losses in the order of the queries.
    let mut lost: Vec<_> = changes.iter().filter(|change| change.0 < 0.0).collect();
    lost.sort_by(|a, b| a.0.total_cmp(&b.0));
    won.chain(lost.into_iter().take(n))
        .map(|(_, before, after)| QueryExample {
            task: task.to_owned(),
            query: cards.query(after.query),
            before: Some(RankedCards::new(before, cards)),
            after: RankedCards::new(after, cards),
        })
        .collect()
}

impl QueryExample {
    /// Whether the first relevant item moved up (`Greater`), down (`Less`) or neither.
    #[must_use]
    pub fn outcome(&self) -> std::cmp::Ordering {
        let before = self.before.as_ref().map_or(self.after.first_rank, |side| side.first_rank);
        before.cmp(&self.after.first_rank)
    }
}

impl RankedCards {
    fn new(result: &QueryResult, cards: &dyn Cards) -> Self {
        let hit = |hit: &crate::QueryHit| ExampleHit {
            card: cards.item(hit.row),
            score: hit.score,
            relevant: hit.grade > 0.0,
        };
        let hits = result.hits.iter().take(SHOWN_HITS).map(hit).collect();
        Self { first_rank: result.first_rank, hits }
    }
}

#[cfg(test)]
mod tests;
