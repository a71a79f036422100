//! Parts of a pass that are computed twice: the same gradients, bit for bit, and less that is held.

use conjoin_core::{Gradients, Parameter, Seed};
use conjoin_engine::{Activation, Before, Exec, LinearParams, Onto, ParamId, Tensor, Workspace};
use rand::Rng;

const ROWS: usize = 50;
const D: usize = 32;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Seed(seed).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn parameter(value: Vec<f32>) -> Parameter {
    let (name, shape) = (String::new(), vec![value.len()]);
    Parameter { name, shape, value: value.into(), decay: false, frozen: false }
}

/// A product with parameter 0, `[d, d]`: a tensor with a place on the tape where that is trained.
fn input(exec: &Exec<'_>) -> Tensor {
    let x = exec.pool().tensor(ROWS, D, &random(ROWS * D, 1));
    let p = LinearParams { weight: ParamId(0), scale: None, bias: None };
    exec.linear(&x, p, Activation::Identity)
}

/// `x ↦ x + down(gelu(up(x)))`, the weights of layer `i` being parameters `1 + 2 i` and `2 + 2 i`.
fn small_layer(exec: &Exec<'_>, x: &Tensor, i: usize) -> Tensor {
    let p = |id| LinearParams { weight: ParamId(id), scale: None, bias: None };
    let hidden = exec.linear(x, p(1 + 2 * i), Activation::Gelu);
    exec.linear_onto(Onto { residual: x, factors: None }, Before::Nothing, &hidden, p(2 + 2 * i))
}

/// Gradients of three small layers, and the bytes held between the two ways.
fn through_layers(parameters: &[Parameter], checkpoints: bool) -> (Vec<f32>, Gradients, usize) {
    let mut workspace = Workspace::default();
    workspace.set_checkpoints(checkpoints);
    let exec = Exec::recording(parameters, &workspace);
    let mut x = input(&exec);
    for i in 0..3 {
        x = exec.checkpointed(&x, move |exec, x| small_layer(exec, x, i));
    }
    let (values, tape) = (x.values().to_vec(), exec.into_tape());
    let bytes = workspace.pool().held_bytes() - workspace.packed_bytes();
    let mut gradients = Gradients::zeros(parameters);
    tape.backward(&x, &random(values.len(), 9), parameters, &workspace, &mut gradients);
    drop(x);
    workspace.forget_weights();
    assert_eq!(workspace.pool().held_bytes(), 0, "all is given back");
    (values, gradients, bytes)
}

#[test]
fn checkpointed_parts_give_the_same_gradients_and_hold_less() {
    let wide = 256;
    let mut parameters = vec![parameter(random(D * D, 1))];
    for i in 0..3 {
        parameters.extend([random(wide * D, 2 + i), random(D * wide, 7 + i)].map(parameter));
    }
    // All trained; the input and the first layer not; nothing.
    for n_frozen in [0, 3, parameters.len()] {
        parameters[..n_frozen].iter_mut().for_each(|p| p.frozen = true);
        let (plain, expected, all) = through_layers(&parameters, false);
        let (same, found, inputs) = through_layers(&parameters, true);
        assert_eq!(plain, same);
        assert_eq!(expected, found, "{n_frozen} frozen");
        let trained = n_frozen < parameters.len();
        assert_eq!(trained, found.iter().flatten().any(|g| *g != 0.0));
        assert!(!trained || 4 * inputs < all, "{inputs} of {all} bytes with {n_frozen} frozen");
    }
}

#[test]
fn a_part_that_does_nothing_may_be_checkpointed() {
    let parameters = [parameter(random(D * D, 1))];
    let gradient = |checkpoints: bool| {
        let mut workspace = Workspace::default();
        workspace.set_checkpoints(checkpoints);
        let exec = Exec::recording(&parameters, &workspace);
        let y = exec.checkpointed(&input(&exec), |_, x| x.clone());
        let mut gradients = Gradients::zeros(&parameters);
        let dy = random(ROWS * D, 9);
        exec.into_tape().backward(&y, &dy, &parameters, &workspace, &mut gradients);
        gradients
    };
    assert_eq!(gradient(false), gradient(true));
    assert!(gradient(true).get(0).iter().all(|g| *g != 0.0));
}
