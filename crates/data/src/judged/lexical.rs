//! Which items share words with a text: an inverted index scored by BM25.
//!
//! In:  the items' texts, by number; a text. Out: the nearest items, best first, ties by number.
//! Not here: which of them may be used.
//! Source: Robertson and Zaragoza 2009, with the usual k1 = 1.2, b = 0.75.
//!
//! Made to find hard negatives, not to search: a text's rarest words are looked up first, and no more than
//! [`MAX_POSTINGS`] entries are looked at.

use std::collections::HashMap;

const K1: f32 = 1.2;
const B: f32 = 0.75;
/// Entries looked at for one text. Words beyond it are so common that they hardly move the order.
const MAX_POSTINGS: usize = 10_000;
/// From here on, scripts are written without spaces: each character is a word.
const FIRST_UNSPACED: char = '\u{2e80}';

/// The index: 8 bytes for each different word of each item.
#[derive(Debug, Default)]
pub(super) struct Lexical {
    words: HashMap<String, u32>,
    /// Postings of word `w` are `postings[starts[w]..starts[w + 1]]`, by item.
    starts: Vec<usize>,
    postings: Vec<Posting>,
    n_words: Vec<u32>,
    mean_words: f32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Posting {
    item: u32,
    n_times: u32,
}

/// Collects texts for a [`Lexical`].
#[derive(Debug, Default)]
pub(super) struct LexicalBuilder {
    words: HashMap<String, u32>,
    /// `(word, item, times)`, by item.
    found: Vec<(u32, u32, u32)>,
    n_words: Vec<u32>,
}

impl LexicalBuilder {
    /// Adds the text of the next item.
    pub(super) fn add(&mut self, text: &str) {
        let item = self.n_words.len() as u32;
        let mut numbers: Vec<u32> = Vec::new();
        for word in words(text) {
            let next = self.words.len() as u32;
            numbers.push(*self.words.entry(word).or_insert(next));
        }
        self.n_words.push(numbers.len() as u32);
        numbers.sort_unstable();
        let runs = numbers.chunk_by(|a, b| a == b);
        self.found.extend(runs.map(|run| (run[0], item, run.len() as u32)));
    }

    pub(super) fn build(self) -> Lexical {
        let mut starts = vec![0; self.words.len() + 1];
        for (word, ..) in &self.found {
            starts[*word as usize + 1] += 1;
        }
        for word in 1..starts.len() {
            starts[word] += starts[word - 1];
        }
        let mut next = starts.clone();
        let mut postings = vec![Posting::default(); self.found.len()];
        for (word, item, n_times) in self.found {
            let at = &mut next[word as usize];
            postings[*at] = Posting { item, n_times };
            *at += 1;
        }
        let sum: u64 = self.n_words.iter().map(|n| u64::from(*n)).sum();
        let mean_words = sum as f32 / self.n_words.len().max(1) as f32;
        Lexical { words: self.words, starts, postings, n_words: self.n_words, mean_words }
    }
}

impl Lexical {
    /// At most `k` items that share a word with the text and are not skipped.
    pub(super) fn nearest(&self, text: &str, k: usize, skip: &dyn Fn(u32) -> bool) -> Vec<u32> {
        let mut scored: Vec<(u32, f32)> = Vec::new();
        for postings in self.rarest_first(text) {
            let left = MAX_POSTINGS.saturating_sub(scored.len());
            if postings.len() > left && !scored.is_empty() {
                break;
            }
            let idf = self.idf(postings.len());
            let looked_at = &postings[..postings.len().min(left)];
            scored.extend(
                looked_at.iter().map(|posting| (posting.item, idf * self.weight(*posting))),
            );
        }
        // A stable sort: each item's scores are added in the order of the words.
        scored.sort_by_key(|(item, _)| *item);
        let sums = scored.chunk_by(|a, b| a.0 == b.0);
        let mut sums: Vec<(u32, f32)> =
            sums.map(|scores| (scores[0].0, scores.iter().map(|(_, score)| score).sum())).collect();
        sums.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        sums.into_iter().map(|(item, _)| item).filter(|item| !skip(*item)).take(k).collect()
    }

    /// The postings of the text's different words.
    fn rarest_first(&self, text: &str) -> Vec<&[Posting]> {
        let mut numbers: Vec<u32> =
            words(text).filter_map(|word| self.words.get(&word).copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let postings = |word: u32| {
            let word = word as usize;
            &self.postings[self.starts[word]..self.starts[word + 1]]
        };
        numbers.sort_by_key(|word| postings(*word).len());
        numbers.into_iter().map(postings).collect()
    }

    fn idf(&self, n_with: usize) -> f32 {
        let (n, n_with) = (self.n_words.len() as f32, n_with as f32);
        (1.0 + (n - n_with + 0.5) / (n_with + 0.5)).ln()
    }

    fn weight(&self, posting: Posting) -> f32 {
        let n_times = posting.n_times as f32;
        let length = self.n_words[posting.item as usize] as f32 / self.mean_words;
        n_times * (K1 + 1.0) / (n_times + K1 * (1.0 - B + B * length))
    }
}

/// Runs of letters and digits in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    let text = text.to_lowercase();
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        let stands_alone = c >= FIRST_UNSPACED;
        if !c.is_alphanumeric() || stands_alone {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.push(c);
        }
        if stands_alone {
            words.push(std::mem::take(&mut word));
        }
    }
    words.push(word);
    words.into_iter().filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(texts: &[&str]) -> Lexical {
        let mut builder = LexicalBuilder::default();
        texts.iter().for_each(|text| builder.add(text));
        builder.build()
    }

    #[test]
    fn words_are_runs_of_letters_and_characters_of_unspaced_scripts() {
        let told = |text| words(text).collect::<Vec<_>>().join(" ");
        assert_eq!(told("Simpson Strong-Tie, 12-Gauge (é)"), "simpson strong tie 12 gauge é");
        assert_eq!(told("red 靴と帽子 x"), "red 靴 と 帽 子 x");
        assert_eq!(told(" - "), "");
    }

    #[test]
    fn rare_words_count_more_and_ties_go_by_number() {
        let index = index(&["a red shoe", "a blue shoe", "a shoe", "a red hat", "", "a shoe"]);
        let near = |text, k| index.nearest(text, k, &|_| false);
        assert_eq!(near("Red shoe?", 9), [0, 3, 2, 5, 1]);
        assert_eq!(near("a shoe", 2), [2, 5]);
        assert_eq!(index.nearest("red shoe", 2, &|item| item == 0), [3, 2]);
        assert!(near("nothing", 9).is_empty() && near("", 9).is_empty());
    }

    #[test]
    fn agrees_with_bm25_by_hand() {
        let texts = ["x y", "x x z z", "y w", "w w w"];
        let index = index(&texts);
        let by_hand = |query: &str, item: usize| -> f64 {
            let split = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let count = |text: &str, w: &str| split(text).iter().filter(|v| *v == w).count() as f64;
            let mean = texts.iter().map(|t| split(t).len() as f64).sum::<f64>() / 4.0;
            let length = split(texts[item]).len() as f64 / mean;
            let one = |w: &String| {
                let n_with = texts.iter().filter(|t| count(t, w) > 0.0).count() as f64;
                let (idf, tf) =
                    ((1.0 + (4.5 - n_with) / (n_with + 0.5)).ln(), count(texts[item], w));
                idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length))
            };
            split(query).iter().map(one).sum()
        };
        for query in ["x y", "w y", "z x w"] {
            let mut expected: Vec<usize> = (0..4).filter(|i| by_hand(query, *i) > 0.0).collect();
            expected.sort_by(|a, b| by_hand(query, *b).total_cmp(&by_hand(query, *a)));
            let found = index.nearest(query, 9, &|_| false);
            assert_eq!(found, expected.iter().map(|i| *i as u32).collect::<Vec<_>>(), "{query}");
        }
    }

    #[test]
    fn common_words_are_looked_at_within_a_bound() {
        let mut builder = LexicalBuilder::default();
        (0..MAX_POSTINGS + 50)
            .for_each(|i| builder.add(if i % 2_000 == 7 { "common rare" } else { "common" }));
        let index = builder.build();
        assert_eq!(index.nearest("common rare", 3, &|_| false), [7, 2_007, 4_007]);
        assert_eq!(index.nearest("common rare", 9, &|_| false).len(), 6);
        assert_eq!(index.nearest("common", 2, &|_| false), [0, 1]);
    }
}
