//! Texts longer than a model reads at once.
//!
//! In:  all ids of a text, and how many fit. Out: windows of them, and one vector from the windows'.
//! Source: late chunking is Günther et al. 2024 (arXiv 2409.04701).

use std::ops::Range;

use conjoin_core::Embeddings;

/// What becomes of a text that is longer than the model reads at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LongText {
    /// Its beginning is read.
    #[default]
    Cut,
    /// Its pieces are embedded one by one; the vector is their mean, weighted by tokens.
    Mean,
    /// It is read in windows that overlap by half; every token's state is taken from the window in
    /// which it stands furthest from an edge, and all states are pooled together. Only for models that
    /// pool by the mean.
    Late,
}

/// The ids of one text: special tokens and prompt, the text itself, special tokens.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) before: Vec<u32>,
    pub(crate) body: Vec<u32>,
    pub(crate) after: Vec<u32>,
}

/// A window of a text's body, and which of its tokens it speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) tokens: Range<usize>,
    pub(crate) own: Range<usize>,
}

impl Parts {
    /// Cuts all ids of a text apart. `prompt` are the prompt's ids alone, in the same special tokens.
    pub(crate) fn new(ids: &[u32], prompt: &[u32], (n_before, n_after): (usize, usize)) -> Self {
        let inner = &ids[n_before..ids.len() - n_after];
        let prompt = &prompt[n_before..prompt.len() - n_after];
        // A prompt that runs into the text's first word counts as far as the ids agree.
        let n_prompt = inner.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let (before, rest) = ids.split_at(n_before + n_prompt);
        let (body, after) = rest.split_at(rest.len() - n_after);
        Self { before: before.to_vec(), body: body.to_vec(), after: after.to_vec() }
    }

    /// How many tokens of the body fit into one pass.
    pub(crate) fn room(&self, max_tokens: usize) -> usize {
        max_tokens.saturating_sub(self.before.len() + self.after.len()).max(1)
    }

    /// The ids of a window, with prompt and special tokens around.
    pub(crate) fn ids(&self, window: &Window) -> Vec<u32> {
        [&self.before, &self.body[window.tokens.clone()], &self.after[..]].concat()
    }

    /// Pieces beside each other.
    pub(crate) fn pieces(&self, room: usize) -> Vec<Window> {
        let starts = (0..self.body.len().max(1)).step_by(room);
        let piece = |start: usize| start..(start + room).min(self.body.len());
        starts.map(|s| Window { tokens: piece(s), own: piece(s) }).collect()
    }

    /// Windows that overlap by half, each speaking for its middle.
    pub(crate) fn overlapping(&self, room: usize) -> Vec<Window> {
        let n = self.body.len();
        if n <= room {
            return vec![Window { tokens: 0..n, own: 0..n }];
        }
        let step = (room / 2).max(1);
        let mut starts: Vec<usize> = (0..n - room).step_by(step).collect();
        starts.push(n - room);
        let edge = |a: usize, b: usize| (b + a + room) / 2;
        let last = starts.len() - 1;
        let own = |i: usize| {
            let start = if i == 0 { 0 } else { edge(starts[i - 1], starts[i]) };
            start..if i == last { n } else { edge(starts[i], starts[i + 1]) }
        };
        starts
            .iter()
            .enumerate()
            .map(|(i, s)| Window { tokens: *s..s + room, own: own(i) })
            .collect()
    }
}

/// The mean of rows, each counted as often as its weight says, scaled to unit length.
pub(crate) fn weighted_mean(rows: &Embeddings, weights: &[usize]) -> Vec<f32> {
    let mut sum = vec![0.0; rows.width()];
    for (row, weight) in rows.rows().zip(weights) {
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += x * *weight as f32);
    }
    let mut mean = Embeddings::new(rows.width(), sum).expect("one row");
    mean.normalize();
    mean.into_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(body: usize) -> Parts {
        Parts { before: vec![1, 9], body: (10..10 + body as u32).collect(), after: vec![2] }
    }

    #[test]
    fn cuts_special_tokens_and_prompt_off() {
        let ids = [1, 7, 8, 20, 21, 2];
        let parts = Parts::new(&ids, &[1, 7, 8, 2], (1, 1));
        assert_eq!((parts.before, parts.body, parts.after), (vec![1, 7, 8], vec![20, 21], vec![2]));
        let merged = Parts::new(&ids, &[1, 7, 99, 2], (1, 1));
        assert_eq!((merged.before, merged.body), (vec![1, 7], vec![8, 20, 21]));
    }

    #[test]
    fn windows_speak_for_every_token_once() {
        for body in 0..60 {
            for room in 1..12 {
                for windows in [parts(body).pieces(room), parts(body).overlapping(room)] {
                    let mut next = 0;
                    for window in &windows {
                        assert_eq!(window.own.start, next, "{body} tokens, room {room}");
                        let inside = window.tokens.start <= window.own.start
                            && window.own.end <= window.tokens.end;
                        assert!(inside && window.tokens.len() <= room.max(body.min(room)));
                        next = window.own.end;
                    }
                    assert_eq!(next, body);
                }
            }
        }
    }

    #[test]
    fn tokens_stand_in_the_middle_of_their_window() {
        let windows = parts(100).overlapping(20);
        for window in &windows[1..windows.len() - 1] {
            assert!(window.own.start - window.tokens.start >= 5);
            assert!(window.tokens.end - window.own.end >= 5);
        }
    }
}
