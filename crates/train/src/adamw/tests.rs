//! AdamW against `torch.optim.AdamW`.

use std::collections::BTreeMap;

use super::*;
use crate::testing::assert_close;

#[derive(Deserialize)]
struct Golden {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    image_multiplier: f64,
    max_norm: f64,
    start: BTreeMap<String, Vec<f32>>,
    steps: Vec<GoldenStep>,
}

#[derive(Deserialize)]
struct GoldenStep {
    lr: f64,
    gradients: BTreeMap<String, Vec<f32>>,
    norm: f64,
    after: BTreeMap<String, Vec<f32>>,
}

fn parameter(name: &str, value: Vec<f32>) -> Parameter {
    let (shape, decay) = (vec![value.len()], !name.ends_with("bias"));
    Parameter { name: name.to_owned(), shape, value: value.into(), decay, frozen: false }
}

fn gradients_of(parameters: &[Parameter], values: &[Vec<f32>]) -> Gradients {
    let mut gradients = Gradients::zeros(parameters);
    for (gradient, values) in gradients.iter_mut().zip(values) {
        gradient.copy_from_slice(values);
    }
    gradients
}

#[test]
fn parity_agrees_with_pytorch_over_ten_steps() {
    let golden = include_str!("../../../../testdata/parity/adamw/adamw.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    let config = AdamWConfig {
        betas: golden.betas,
        eps: golden.eps,
        weight_decay: golden.weight_decay,
        lr_multipliers: vec![
            LrMultiplier { prefix: "image.".to_owned(), factor: golden.image_multiplier },
            LrMultiplier { prefix: "im".to_owned(), factor: 7.0 },
        ],
    };
    let mut parameters: Vec<Parameter> =
        golden.start.iter().map(|(name, value)| parameter(name, value.clone())).collect();
    let mut optimizer = AdamW::new(config, &parameters);
    let mut n_clipped = 0;
    for step in &golden.steps {
        let values: Vec<Vec<f32>> = step.gradients.values().cloned().collect();
        let gradients = gradients_of(&parameters, &values);
        let norm = grad_norm(&[&gradients]);
        assert!((norm - step.norm).abs() < 1e-6 * norm, "{norm} {}", step.norm);
        n_clipped += usize::from(norm > golden.max_norm);
        optimizer.step(&mut parameters, &gradients, step.lr, clip_factor(norm, golden.max_norm));
        for (parameter, expected) in parameters.iter().zip(step.after.values()) {
            assert_close(&parameter.value, expected, 1e-6);
        }
    }
    assert!(0 < n_clipped && n_clipped < golden.steps.len(), "both sides of the clip");
}

fn config() -> AdamWConfig {
    AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.1, lr_multipliers: vec![] }
}

#[test]
fn factors_handed_in_count_instead_of_prefixes() {
    let parameters = vec![parameter("a", vec![1.0]), parameter("b", vec![1.0])];
    let prefix = LrMultiplier { prefix: "b".to_owned(), factor: 0.5 };
    let by_prefix = AdamWConfig { lr_multipliers: vec![prefix], ..config() };
    let gradients = gradients_of(&parameters, &[vec![1.0], vec![1.0]]);
    let after = |mut optimizer: AdamW| {
        let mut parameters = parameters.clone();
        optimizer.step(&mut parameters, &gradients, 0.1, 1.0);
        parameters
    };
    let expected = after(AdamW::new(by_prefix.clone(), &parameters));
    assert_eq!(after(AdamW::with_multipliers(config(), &parameters, vec![1.0, 0.5])), expected);
    assert_eq!(after(AdamW::with_multipliers(by_prefix, &parameters, vec![1.0, 0.5])), expected);
}

#[test]
fn frozen_parameters_have_no_moments_and_stay() {
    let mut parameters = vec![parameter("a", vec![1.0, 2.0]), parameter("b", vec![3.0])];
    parameters[0].frozen = true;
    let mut optimizer = AdamW::new(config(), &parameters);
    assert!(optimizer.moments[0].mean.is_empty() && optimizer.moments[0].square.is_empty());
    let gradients = gradients_of(&parameters, &[vec![], vec![1.0]]);
    optimizer.step(&mut parameters, &gradients, 0.1, 1.0);
    assert_eq!(parameters[0].value, [1.0, 2.0]);
    assert!(parameters[1].value[0] < 3.0);
}

#[test]
fn long_parameters_are_moved_like_short_ones() {
    // Longer than one task's share, and not a whole number of vectors.
    let n = CHUNK * 2 + 5;
    let (mut long, mut short) =
        (vec![parameter("w", vec![0.5; n])], vec![parameter("w", vec![0.5])]);
    let (mut of_long, mut of_short) = (AdamW::new(config(), &long), AdamW::new(config(), &short));
    for gradient in [0.3, -0.1, 0.7] {
        let gradients = gradients_of(&long, &[vec![gradient; n]]);
        of_long.step(&mut long, &gradients, 0.01, 1.0);
        let gradients = gradients_of(&short, &[vec![gradient]]);
        of_short.step(&mut short, &gradients, 0.01, 1.0);
    }
    assert!(long[0].value.iter().all(|v| *v == short[0].value[0]));
}

#[test]
fn norm_sees_every_gradient_and_what_is_not_finite() {
    let parameters = [parameter("a", vec![0.0; 2]), parameter("b", vec![0.0; CHUNK + 1])];
    let mut last = vec![0.0; CHUNK + 1];
    last[CHUNK] = 12.0;
    let mut gradients = gradients_of(&parameters, &[vec![3.0, 4.0], last]);
    assert_eq!(grad_norm(&[&gradients]), 13.0);
    assert_eq!(clip_factor(13.0, 26.0), 1.0);
    gradients.get_mut(1).unwrap()[CHUNK] = f32::NAN;
    assert!(grad_norm(&[&gradients]).is_nan());
}
