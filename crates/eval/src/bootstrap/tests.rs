//! Tests of `bootstrap`.

use rand::Rng as _;

use super::*;

#[test]
fn quantiles_are_linear_between_neighbours() {
    // numpy.quantile([1, 2, 4, 8], [0, 0.1, 0.5, 0.9, 1])
    let of = |share| quantile(&[1.0, 2.0, 4.0, 8.0], share);
    for (share, expect) in [(0.0, 1.0), (0.1, 1.3), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
        assert!((of(share) - expect).abs() < 1e-12, "{share}: {}", of(share));
    }
    assert_eq!(quantile(&[7.0], 0.3), 7.0);
    assert!(quantile(&[], 0.3).is_nan());
}

fn means(bootstrap: Bootstrap, values: Vec<f64>) -> Interval {
    let series = Series { values, statistic: Statistic::Mean };
    let n = series.values.len();
    let resampled = bootstrap.resample(n, &[series]);
    bootstrap.interval(resampled.into_iter().map(|row| row[0]).collect())
}

#[test]
fn a_constant_has_no_width() {
    let interval = means(Bootstrap::new(Seed(1)), vec![0.25; 9]);
    assert_eq!(interval, Interval { low: 0.25, high: 0.25 });
}

#[test]
fn interval_of_a_share_agrees_with_the_normal_one() {
    // 300 of 1,000: standard error sqrt(0.3 * 0.7 / 1000) = 0.01449, times 1.96.
    let values = (0..1000).map(|i| f64::from(i < 300)).collect();
    let interval = means(Bootstrap::new(Seed(1)), values);
    assert!((interval.low - (0.3 - 0.0284)).abs() < 0.003, "{interval:?}");
    assert!((interval.high - (0.3 + 0.0284)).abs() < 0.003, "{interval:?}");
}

#[test]
fn holds_the_true_mean_about_as_often_as_it_says() {
    let mut rng = Seed(5).rng();
    let held = (0..400).filter(|round| {
        let values: Vec<f64> = (0..80).map(|_| rng.random_range(0.0..1.0)).collect();
        let bootstrap = Bootstrap { seed: Seed(*round), n_resamples: 300, level: 0.9 };
        let interval = means(bootstrap, values);
        interval.low <= 0.5 && 0.5 <= interval.high
    });
    // 90 % of 400 is 360, standard deviation 6; the percentile interval is a little too narrow.
    let held = held.count();
    assert!((335..=378).contains(&held), "{held} of 400");
}

#[test]
fn repeats_on_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let values = (0..50).map(f64::from).collect();
        pool.install(|| means(Bootstrap::new(Seed(4)), values))
    };
    assert_eq!(run(1), run(3));
    assert_ne!(run(1), means(Bootstrap::new(Seed(5)), (0..50).map(f64::from).collect()));
}
