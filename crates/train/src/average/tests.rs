//! Averages against torch and plain loops.

use conjoin_core::Seed;

use super::*;
use crate::testing::{assert_close, random};

fn parameter(name: &str, value: Vec<f32>) -> Parameter {
    let (name, shape) = (name.to_owned(), vec![value.len()]);
    Parameter { name, shape, value: value.into(), decay: true, frozen: false }
}

fn average(decay: f64, warm_up: WarmUp, parameters: &[Parameter]) -> Average {
    Average::new(AverageConfig { decay, warm_up }, "average", parameters).unwrap()
}

#[derive(Deserialize)]
struct Golden {
    decay: f64,
    start: Vec<f32>,
    steps: Vec<GoldenStep>,
    alpha: f32,
    interpolated: Vec<f32>,
}

#[derive(Deserialize)]
struct GoldenStep {
    value: Vec<f32>,
    plain: Vec<f32>,
    warmed_up: Vec<f32>,
}

/// Within 1e-6 of the largest value: the reference is f32 as well.
#[test]
fn parity_agrees_with_pytorch() {
    let golden = include_str!("../../../../testdata/parity/average/average.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    let mut parameters = [parameter("w", golden.start.clone())];
    let mut plain = average(golden.decay, WarmUp::None, &parameters);
    let mut warmed_up = average(golden.decay, WarmUp::Harmonic, &parameters);
    for step in &golden.steps {
        parameters[0].value.copy_from_slice(&step.value);
        plain.update(&parameters);
        warmed_up.update(&parameters);
        assert_close(&plain.tensors()[0].value, &step.plain, 1e-6);
        assert_close(&warmed_up.tensors()[0].value, &step.warmed_up, 1e-6);
    }
    let end = golden.steps.last().unwrap().value.clone();
    let between = interpolate(&[golden.start], &[end], golden.alpha);
    assert_close(&between[0], &golden.interpolated, 1e-6);
}

/// Longer than a task, and exactly: resumed from its tensors it goes on bit for bit.
#[test]
fn agrees_with_a_plain_loop_and_resumes_exactly() {
    let n = CHUNK + 7;
    let at = |t: u64| [parameter("w", random(n, Seed(t))), parameter("v", random(3, Seed(t + 90)))];
    let mut unbroken = average(0.6, WarmUp::Harmonic, &at(0));
    let mut plain = at(0).map(|p| p.value.to_vec());
    let mut resumed = unbroken.clone();
    for t in 1..=9 {
        unbroken.update(&at(t));
        // 0.1, 2/11, 3/12, … until they reach 0.6.
        let decay = (t as f64 / (9.0 + t as f64)).min(0.6);
        for (plain, p) in plain.iter_mut().zip(at(t)) {
            for (a, v) in plain.iter_mut().zip(&*p.value) {
                *a += (1.0 - decay) as f32 * (v - *a);
            }
        }
        if t == 4 {
            resumed.set_n_updates(unbroken.n_updates());
            for (to, from) in resumed.tensors_mut().iter_mut().zip(unbroken.tensors()) {
                assert_eq!((&to.name, &to.shape), (&from.name, &from.shape));
                to.value.copy_from_slice(&from.value);
            }
        } else if t > 4 {
            resumed.update(&at(t));
        }
    }
    assert_eq!(resumed, unbroken);
    for (tensor, plain) in unbroken.tensors().iter().zip(&plain) {
        assert_close(&tensor.value, plain, 1e-6);
    }
}

#[test]
fn frozen_parameters_take_no_memory_and_stay() {
    let mut parameters = [parameter("a", vec![1.0, 2.0]), parameter("b", vec![3.0])];
    parameters[0].frozen = true;
    let mut average = average(0.5, WarmUp::None, &parameters);
    assert!(average.tensors()[0].value.is_empty());
    parameters[1].value[0] = 5.0;
    average.update(&parameters);
    average.swap(&mut parameters);
    assert!(parameters[0].value == [1.0, 2.0] && parameters[1].value == [4.0]);
    assert_eq!(average.tensors()[1].value, [5.0]);
    average.swap(&mut parameters);
    assert_eq!(parameters[1].value, [5.0]);
}

#[test]
fn the_ends_of_an_interpolation_are_the_models_themselves() {
    let (start, end) = ([random(50, Seed(1)), vec![]], [random(50, Seed(2)), vec![]]);
    assert_eq!(interpolate(&start, &end, 0.0), start);
    assert_eq!(interpolate(&start, &end, 1.0), end);
    let expected: Vec<f32> = start[0].iter().zip(&end[0]).map(|(s, e)| 0.7 * s + 0.3 * e).collect();
    assert_close(&interpolate(&start, &end, 0.3)[0], &expected, 1e-6);
}

#[test]
fn names_a_decay_that_cannot_be() {
    let config: AverageConfig = serde_json::from_str(r#"{"decay": 1.0}"#).unwrap();
    assert_eq!(config.warm_up, WarmUp::Harmonic);
    assert_eq!(
        Average::new(config, "average", &[]).unwrap_err().to_string(),
        "`average.decay` is 1, it must be at least 0 and below 1"
    );
    assert!(serde_json::from_str::<AverageConfig>(r#"{"decay": 0.5, "warmup": "none"}"#).is_err());
}
