//! Rank correlation.
//!
//! In:  two lists of numbers. Out: how far they agree in order.
//! Source: Spearman 1904; average ranks for ties, as `scipy.stats.spearmanr` and MTEB's STS tasks.

/// Spearman's rank correlation, -1 to 1; 0 where either list does not vary.
///
/// # Shapes
/// `x`, `y`: `[n]`
///
/// # Panics
/// When the lists differ in length.
#[must_use]
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "two lists of one length");
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1; equal numbers share the mean of their ranks.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    let mut ranks = vec![0.0; x.len()];
    let mut first = 0;
    for run in order.chunk_by(|a, b| x[*a] == x[*b]) {
        let mean = first as f64 + (run.len() as f64 + 1.0) / 2.0;
        run.iter().for_each(|i| ranks[*i] = mean);
        first += run.len();
    }
    ranks
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| f(x - mean_x, y - mean_y)).sum()
    };
    let norm = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    if norm > 0.0 { sum(&|x, y| x * y) / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_scipy() {
        // scipy.stats.spearmanr(x, y).statistic, scipy 1.17.1
        let x = [0.1, 0.4, 0.4, -2.0, 5.5, 0.3, 0.3, 0.3];
        let y = [1.0, 3.0, 2.0, 0.0, 3.0, 3.0, 1.0, 2.0];
        assert!((spearman(&x, &y) - SCIPY).abs() < 1e-12, "{}", spearman(&x, &y));
        assert!((spearman(&x, &x) - 1.0).abs() < 1e-12);
        let falling: Vec<f64> = x.iter().map(|x| -x.exp()).collect();
        assert!((spearman(&x, &falling) + 1.0).abs() < 1e-12);
        assert_eq!(spearman(&x, &[1.0; 8]), 0.0);
    }

    const SCIPY: f64 = 0.7834553828416796;
}
