//! How often scores stand in the order of grades.
//!
//! In:  a score and a grade per pair. Out: the share of unequally graded pairs in the right order.
//! Not here: losses that train it (`cosent`, `cosine`).

/// Share of `(i, j)` with `grade_i < grade_j` that have `score_i < score_j`; 1 where all grades are
/// equal. `O(b ln b)`.
///
/// # Shapes
/// `scores`, `grades`: `[b]`
pub(super) fn concordance(scores: &[f64], grades: &[f32]) -> f64 {
    let ranks = ranks(scores);
    let mut order: Vec<usize> = (0..grades.len()).collect();
    order.sort_by(|i, j| grades[*i].total_cmp(&grades[*j]));
    let mut seen = Counts(vec![0; scores.len() + 1]);
    let (mut n_seen, mut right, mut all) = (0, 0_u64, 0_u64);
    for equal in order.chunk_by(|i, j| grades[*i] == grades[*j]) {
        for i in equal {
            right += seen.below(ranks[*i]);
            all += n_seen;
        }
        equal.iter().for_each(|i| seen.add(ranks[*i]));
        n_seen += equal.len() as u64;
    }
    if all == 0 { 1.0 } else { right as f64 / all as f64 }
}

/// The number of smaller different scores of each.
fn ranks(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|i, j| scores[*i].total_cmp(&scores[*j]));
    let mut ranks = vec![0; scores.len()];
    for (rank, equal) in order.chunk_by(|i, j| scores[*i] == scores[*j]).enumerate() {
        equal.iter().for_each(|i| ranks[*i] = rank);
    }
    ranks
}

/// Counts with sums over a beginning in `O(ln n)` (Fenwick 1994), the first place unused.
struct Counts(Vec<u64>);

impl Counts {
    fn add(&mut self, rank: usize) {
        let mut at = rank + 1;
        while at < self.0.len() {
            self.0[at] += 1;
            at += at & at.wrapping_neg();
        }
    }

    /// How many of a smaller rank were added.
    fn below(&self, rank: usize) -> u64 {
        let (mut at, mut sum) = (rank, 0);
        while at > 0 {
            sum += self.0[at];
            at &= at - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use conjoin_core::Seed;
    use rand::Rng as _;

    use super::*;

    #[test]
    fn agrees_with_counting_all_pairs() {
        let mut rng = Seed(1).rng();
        for n in [1, 2, 7, 50] {
            // Few values each, so that both have ties.
            let scores: Vec<f64> = (0..n).map(|_| f64::from(rng.random_range(0..9))).collect();
            let grades: Vec<f32> = (0..n).map(|_| rng.random_range(0..4) as f32).collect();
            let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
            let graded: Vec<_> = pairs.filter(|(i, j)| grades[*i] < grades[*j]).collect();
            let right = graded.iter().filter(|(i, j)| scores[*i] < scores[*j]).count();
            let expected = right as f64 / (graded.len() as f64).max(1.0);
            let expected = if graded.is_empty() { 1.0 } else { expected };
            assert_eq!(concordance(&scores, &grades), expected, "{n}");
        }
    }
}
