//! Tests of `example`.

use std::cmp::Ordering;

use super::*;
use crate::compare::tests::result;

struct Numbers;

impl Cards for Numbers {
    fn query(&self, query: u32) -> Card {
        Card { text: Some(format!("query {query}")), picture: None }
    }

    fn item(&self, row: u32) -> Card {
        Card { text: Some(format!("item {row}")), picture: None }
    }
}

#[test]
fn picks_the_largest_wins_and_losses() {
    let before = result("t", &[1, 5, 2, 1, 9, 1, 5]);
    let after = result("t", &[1, 1, 1, 4, 9, 40, 1]);
    let chosen: Vec<(String, Ordering)> = examples(&before, &after, 2, &Numbers)
        .into_iter()
        .map(|example| {
            let outcome = example.outcome();
            (example.query.text.unwrap(), outcome)
        })
        .collect();
    let expect = [
        ("query 1", Ordering::Greater),
        ("query 6", Ordering::Greater),
        ("query 5", Ordering::Less),
        ("query 3", Ordering::Less),
    ];
    assert_eq!(chosen, expect.map(|(text, outcome)| (text.to_owned(), outcome)));
}

#[test]
fn shows_the_first_hits_and_what_is_relevant() {
    let mut after = result("t", &[2]);
    after.queries[0].hits = (0..10)
        .map(|row| crate::QueryHit { row, score: 0.5, grade: if row == 1 { 1.0 } else { 0.0 } })
        .collect();
    let before = result("t", &[7]);
    let made = examples(&before, &after, 3, &Numbers);
    assert_eq!(made.len(), 1);
    let hits: Vec<(&str, bool)> = made[0]
        .after
        .hits
        .iter()
        .map(|hit| (hit.card.text.as_deref().unwrap(), hit.relevant))
        .collect();
    let expect = [
        ("item 0", false),
        ("item 1", true),
        ("item 2", false),
        ("item 3", false),
        ("item 4", false),
    ];
    assert_eq!(hits, expect);
    assert_eq!(made[0].before.as_ref().unwrap().first_rank, 7);
}
