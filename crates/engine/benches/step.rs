//! The products and operations of one training step, each alone: milliseconds and GFLOP/s.
//!
//! `cargo bench -p conjoin-engine --bench step [-- NAME]`. Shapes: MobileNet v1 0.75 at 128 pixels and
//! a text tower of width 256, 64 pairs. On Linux the time is the mean CPU time of all threads, so a busy
//! machine counts less; elsewhere it is the mean wall time. Set `RAYON_NUM_THREADS=1` for one core.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod clock;

use std::{sync::Arc, time::Instant};

use conjoin_core::{Gradients, Parameter, Seed};
use conjoin_engine::{
    Activation, AttentionSpec, Bias, Exec, ImageShape, LinearParams, Mask, ParamId, RowNorm,
    Tensor, Workspace,
};
use rand::Rng as _;

use self::clock::seconds;

/// Rows, inputs and outputs of the linear layers, and how many of each.
const LINEAR: [(usize, usize, usize, usize); 14] = [
    (262_144, 27, 24, 1),
    (262_144, 24, 48, 1),
    (65_536, 48, 96, 1),
    (65_536, 96, 96, 1),
    (16_384, 96, 192, 1),
    (16_384, 192, 192, 1),
    (4_096, 192, 384, 1),
    (4_096, 384, 384, 5),
    (1_024, 384, 768, 1),
    (1_024, 768, 768, 1),
    (1_800, 256, 768, 3),
    (1_800, 256, 256, 3),
    (1_800, 256, 1_024, 3),
    (1_800, 1_024, 256, 3),
];

/// Side, channels and stride of the depthwise layers at 64 images, and how many of each.
const DEPTHWISE: [(usize, usize, usize, usize); 9] = [
    (64, 24, 1, 1),
    (64, 48, 2, 1),
    (32, 96, 1, 1),
    (32, 96, 2, 1),
    (16, 192, 1, 1),
    (16, 192, 2, 1),
    (8, 384, 1, 5),
    (8, 384, 2, 1),
    (4, 768, 1, 1),
];

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let run = |name: &str| name.contains(&wanted);
    let mut total = 0.0;
    println!("{:<44} {:>9} {:>9}", "operation", "ms", "GFLOP/s");
    if run("product") {
        for (m, k, n, count) in LINEAR {
            total += linear(Activation::Identity, (m, k, n)) * count as f64;
        }
    }
    if run("depthwise") {
        DEPTHWISE.iter().for_each(|&shape| total += depthwise(shape));
    }
    if run("attention") {
        for t in [12, 28, 64] {
            total += attention(t);
        }
    }
    if run("linear") {
        total += linear(Activation::Relu6, (262_144, 24, 48));
        total += linear(Activation::Gelu, (1_800, 256, 1_024));
    }
    println!("{:<44} {total:>9.2}", "all, each times its number");
}

fn random(n: usize) -> Vec<f32> {
    let mut rng = Seed(n as u64).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Prints the mean time of some runs, and gives it times `count`, in milliseconds.
fn report(name: &str, count: usize, flop: f64, mut f: impl FnMut()) -> f64 {
    f();
    let begin = Instant::now();
    let start = seconds(begin);
    let (mut runs, mut taken) = (0.0, 0.0);
    while runs < 3.0 || taken < 0.15 {
        f();
        runs += 1.0;
        taken = seconds(begin) - start;
    }
    println!("{name:<44} {:>9.3} {:>9.1}", taken / runs * 1e3, flop * runs / taken * 1e-9);
    taken / runs * 1e3 * count as f64
}

fn parameter(n: usize) -> Parameter {
    let value = random(n);
    Parameter {
        name: String::new(),
        shape: vec![n],
        value: value.into(),
        decay: false,
        frozen: false,
    }
}

/// Times forward, and forward with backward, of one operation on a `[rows, cols]` input. The latter
/// includes a layer norm before it, so that the input is on the tape.
fn operation(
    name: &str,
    (rows, cols, count): (usize, usize, usize),
    (own_parameters, flop): (&[Parameter], f64),
    f: impl Fn(&Exec<'_>, &Tensor) -> Tensor,
) -> f64 {
    let mut parameters = own_parameters.to_vec();
    parameters.extend([parameter(cols), parameter(cols)]);
    let (weight, bias) = (ParamId(own_parameters.len()), ParamId(own_parameters.len() + 1));
    let norm = RowNorm { weight, bias: Some(bias), eps: 1e-5 };
    let parameters = &parameters;
    let workspace = Workspace::default();
    let values = random(rows * cols);
    let x = workspace.pool().tensor(rows, cols, &values);
    report(&format!("{name} forward"), count, flop, || {
        let _ = f(&Exec::inferring(parameters, &workspace), &x);
    });
    let mut gradients = Gradients::zeros(parameters);
    let mut dy: Vec<f32> = Vec::new();
    report(&format!("{name} both, with a norm"), count, 3.0 * flop, || {
        let exec = Exec::recording(parameters, &workspace);
        let x = exec.layer_norm(&x, norm);
        let y = f(&exec, &x);
        dy.resize(y.values().len(), 0.5);
        exec.into_tape().backward(&y, &dy, parameters, &workspace, &mut gradients);
    })
}

fn depthwise((side, c, stride, count): (usize, usize, usize, usize)) -> f64 {
    let shape = ImageShape { batch: 64, height: side, width: side };
    let parameters = [parameter(9 * c), parameter(c), parameter(c)];
    let p = LinearParams {
        weight: ParamId(0),
        scale: Some(ParamId(1)),
        bias: Some(Bias::All(ParamId(2))),
    };
    let flop = (shape.strided(stride).rows() * c * 18) as f64;
    let name = format!("depthwise {side}x{side}x{c}/{stride}");
    operation(&name, (shape.rows(), c, count), (&parameters, flop), |exec, x| {
        exec.depthwise(x, shape, stride, p, Activation::Relu6)
    })
}

fn attention(t: usize) -> f64 {
    let offsets: Arc<[usize]> = (0..=64).map(|i| i * t).collect();
    let spec = AttentionSpec::plain(4, Mask::Bidirectional);
    let flop = (64 * 4 * t * t * 64 * 4) as f64;
    let name = format!("attention 64x{t}x256");
    operation(&name, (64 * t, 768, 1), (&[], flop), |exec, x| {
        exec.attention(x, &offsets, spec.clone())
    })
}

fn linear(activation: Activation, (m, k, n): (usize, usize, usize)) -> f64 {
    let parameters = [parameter(n * k), parameter(n)];
    let p = LinearParams { weight: ParamId(0), scale: None, bias: Some(Bias::All(ParamId(1))) };
    let name = format!("linear {m}x{k}->{n} {activation:?}");
    operation(&name, (m, k, 1), (&parameters, 2.0 * (m * n * k) as f64), |exec, x| {
        exec.linear(x, p, activation)
    })
}
