//! Every operation against a plain f64 forward: its output, and its gradients by finite differences.
//!
//! For random `dy`, `L = Σ y ∘ dy` is computed by the plain f64 code; central differences of `L` in
//! every input and parameter must equal what the tape gives. Tolerances: outputs 1e-5 and gradients
//! 2e-4, relative to the largest value of the tensor.

use std::sync::Arc;

use conjoin_core::{Gradients, Parameter, Seed};
use conjoin_engine::{
    Activation, AttentionSpec, Before, Bias, DistanceBias, Exec, ImagePlaces, ImageShape,
    LinearParams, Mask, Onto, Pairing, ParamId, RotaryTable, RowNorm, Tensor, TokenBatch,
    TokenTables, Workspace,
};
use rand::Rng;

/// Plain code: parameters in f64 to the output in f64.
type Plain<'a> = &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>;
/// The engine: a recording pass and the first tensor (parameter 0 passed through) to the output.
type Fast<'a> = &'a dyn Fn(&Exec<'_>, &Tensor) -> Tensor;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Seed(seed).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn parameter(value: Vec<f32>) -> Parameter {
    Parameter {
        name: String::new(),
        shape: vec![value.len()],
        value: value.into(),
        decay: false,
        frozen: false,
    }
}

/// `x` becomes a node of the tape by a product with the identity, so that its gradient is seen as
/// that of a parameter: `I · Xᵀᵀ` with `X` the weight.
fn input(exec: &Exec<'_>, id: usize, rows: usize, parameters: &[Parameter]) -> Tensor {
    let cols = parameters[id].value.len() / rows;
    let mut identity = vec![0.0; cols * cols];
    (0..cols).for_each(|i| identity[i * cols + i] = 1.0);
    // linear gives identity · Wᵀ = Wᵀ with W the [rows, cols] values; shape [cols, rows].
    let eye = exec.pool().tensor(cols, cols, &identity);
    let p = LinearParams { weight: ParamId(id), scale: None, bias: None };
    let transposed = exec.linear(&eye, p, Activation::Identity);
    assert_eq!((transposed.rows(), transposed.cols()), (cols, rows));
    transposed
}

/// Checks output and gradients. Parameter 0 holds `xᵀ` of the first input, `[cols, rows]`.
#[track_caller]
fn check(values: Vec<Vec<f32>>, x_shape: (usize, usize), plain: Plain<'_>, fast: Fast<'_>) {
    let (rows, cols) = x_shape;
    let parameters: Vec<_> = values.into_iter().map(parameter).collect();
    let workspace = Workspace::default();
    let exec = Exec::recording(&parameters, &workspace);
    assert_eq!(parameters[0].value.len(), rows * cols);
    let x = input(&exec, 0, cols, &parameters);
    let y = fast(&exec, &x);
    let without_tape = {
        let exec = Exec::inferring(&parameters, &workspace);
        let x = input(&exec, 0, cols, &parameters);
        fast(&exec, &x)
    };
    assert_eq!(y.values(), without_tape.values(), "recording changes nothing");

    let wide: Vec<Vec<f64>> =
        parameters.iter().map(|p| p.value.iter().map(|v| f64::from(*v)).collect()).collect();
    let expected = plain(&wide);
    let as_f64 = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    assert_close("output", &as_f64(y.values()), &expected, 1e-5);

    let dy = random(expected.len(), 99);
    let loss = |p: &[Vec<f64>]| -> f64 {
        plain(p).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
    };
    let mut gradients = Gradients::zeros(&parameters);
    let tape = exec.into_tape();
    tape.backward(&y, &dy, &parameters, &workspace, &mut gradients);
    for (id, gradient) in gradients.iter().enumerate() {
        let numeric: Vec<f64> = (0..gradient.len())
            .map(|i| {
                let step = 1e-4;
                let mut moved = wide.clone();
                moved[id][i] += step;
                let up = loss(&moved);
                moved[id][i] -= 2.0 * step;
                (up - loss(&moved)) / (2.0 * step)
            })
            .collect();
        assert_close(&format!("gradient {id}"), &as_f64(gradient), &numeric, 2e-4);
    }
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: size");
    let largest = expected.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * largest, "{what}[{i}]: {f} for {e}");
    }
}

/// `[n, m]` to `[m, n]`
fn transpose(x: &[f64], n: usize) -> Vec<f64> {
    let m = x.len() / n;
    (0..m).flat_map(|j| (0..n).map(move |i| x[i * m + j])).collect()
}

fn activate(activation: Activation, z: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => z,
        Activation::Relu6 => z.clamp(0.0, 6.0),
        Activation::Gelu => z * normal_cdf(z),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3));
            0.5 * z * (1.0 + u.tanh())
        }
        Activation::QuickGelu => z * sigmoid(1.702 * z),
        Activation::Relu => z.max(0.0),
        Activation::Tanh => z.tanh(),
        Activation::Silu => z * sigmoid(z),
    }
}

/// Φ by its power series; exact to 1e-12 for |x| < 5.
fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// `act(x · (s ∘ W)ᵀ + b)`, `x`: `[m, k]`.
fn linear(
    x: &[f64],
    w: &[f64],
    s: Option<&[f64]>,
    b: Option<&[f64]>,
    (m, k): (usize, usize),
    activation: Activation,
) -> Vec<f64> {
    let n = w.len() / k;
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let dot: f64 = (0..k).map(|l| x[i * k + l] * w[j * k + l]).sum();
            let z = dot * s.map_or(1.0, |s| s[j]) + b.map_or(0.0, |b| b[j]);
            y[i * n + j] = activate(activation, z);
        }
    }
    y
}

const ALL: [Activation; 8] = [
    Activation::Identity,
    Activation::Relu6,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Tanh,
    Activation::Silu,
];

#[test]
fn grad_linear() {
    let (m, k, n) = (5, 7, 6);
    for activation in ALL {
        let values = vec![random(m * k, 1), random(n * k, 2), random(n, 3), random(n, 4)];
        let p = LinearParams {
            weight: ParamId(1),
            scale: Some(ParamId(2)),
            bias: Some(Bias::All(ParamId(3))),
        };
        check(
            values.clone(),
            (m, k),
            &|p| linear(&transpose(&p[0], k), &p[1], Some(&p[2]), Some(&p[3]), (m, k), activation),
            &|exec, x| exec.linear(x, p, activation),
        );
        check(
            values[..2].to_vec(),
            (m, k),
            &|p| linear(&transpose(&p[0], k), &p[1], None, None, (m, k), activation),
            &|exec, x| exec.linear(x, LinearParams { scale: None, bias: None, ..p }, activation),
        );
    }
}

#[test]
fn grad_add_where_one_tensor_is_used_twice() {
    check(
        vec![random(12, 1)],
        (3, 4),
        &|p| transpose(&p[0], 4).iter().map(|x| 3.0 * x).collect(),
        &|exec, x| exec.add(&exec.add(x, x), x),
    );
}

#[test]
fn grad_layer_norm() {
    for d in [3, 16, 37] {
        let m = 4;
        check(
            vec![random(m * d, 1), random(d, 2), random(d, 3)],
            (m, d),
            &|p| {
                let x = transpose(&p[0], d);
                x.chunks(d)
                    .flat_map(|x| {
                        let mean = x.iter().sum::<f64>() / d as f64;
                        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                        let r = 1.0 / (variance + 1e-5).sqrt();
                        (0..d)
                            .map(move |i| (x[i] - mean) * r * p[1][i] + p[2][i])
                            .collect::<Vec<_>>()
                    })
                    .collect()
            },
            &|exec, x| {
                exec.layer_norm(
                    x,
                    RowNorm { weight: ParamId(1), bias: Some(ParamId(2)), eps: 1e-5 },
                )
            },
        );
    }
}

#[test]
fn grad_normalize() {
    check(
        vec![random(4 * 19, 1)],
        (4, 19),
        &|p| {
            transpose(&p[0], 19)
                .chunks(19)
                .flat_map(|x| {
                    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                    x.iter().map(move |x| x / norm)
                })
                .collect()
        },
        &|exec, x| exec.normalize(x),
    );
}

#[test]
fn normalizing_a_zero_row_stays_finite() {
    let (parameters, workspace) = (vec![parameter(vec![0.0; 4])], Workspace::default());
    let exec = Exec::inferring(&parameters, &workspace);
    assert_eq!(exec.normalize(&workspace.pool().tensor(1, 4, &[0.0; 4])).values(), [0.0; 4]);
}

#[test]
fn grad_pooling() {
    let d = 5;
    let spans: Arc<[std::ops::Range<usize>]> = Arc::new([0..1, 2..4, 4..4, 3..9]);
    let mean = |p: &[Vec<f64>]| -> Vec<f64> {
        let x = transpose(&p[0], d);
        let mean = |s: &std::ops::Range<usize>, j: usize| {
            s.clone().map(|i| x[i * d + j]).sum::<f64>() / s.len().max(1) as f64
        };
        spans.iter().flat_map(|s| (0..d).map(|j| mean(s, j)).collect::<Vec<_>>()).collect()
    };
    check(vec![random(9 * d, 1)], (9, d), &mean, &|exec, x| exec.mean_rows(x, &spans));
    let rows: Arc<[usize]> = Arc::new([4, 0, 4]);
    let pick = |p: &[Vec<f64>]| -> Vec<f64> {
        let x = transpose(&p[0], d);
        rows.iter().flat_map(|row| x[row * d..(row + 1) * d].to_vec()).collect()
    };
    check(vec![random(9 * d, 1)], (9, d), &pick, &|exec, x| exec.pick_rows(x, &rows));
}

#[test]
fn grad_gate_and_scale_columns() {
    let (m, n) = (3, 7);
    for activation in ALL {
        let gated = |p: &[Vec<f64>]| -> Vec<f64> {
            let x = transpose(&p[0], 2 * n);
            let rows = x.chunks(2 * n);
            rows.flat_map(|r| (0..n).map(|j| activate(activation, r[j]) * r[n + j])).collect()
        };
        let x = vec![random(m * 2 * n, 1)];
        check(x, (m, 2 * n), &gated, &|exec, x| exec.gate(x, activation));
    }
    check(
        vec![random(m * n, 1), random(n, 2)],
        (m, n),
        &|p| transpose(&p[0], n).iter().enumerate().map(|(i, x)| x * p[1][i % n]).collect(),
        &|exec, x| exec.scale_columns(x, ParamId(1)),
    );
}

/// A gate, a norm or nothing before a linear layer, whose scaled result is added to its own input.
#[test]
fn grad_linear_onto_a_residual() {
    let (m, n) = (4, 6);
    let p = LinearParams { weight: ParamId(1), scale: None, bias: Some(Bias::All(ParamId(2))) };
    let norm = RowNorm { weight: ParamId(3), bias: Some(ParamId(4)), eps: 1e-5 };
    for (before, factors, k) in [
        (Before::Nothing, None, n),
        (Before::Norm(norm), None, n),
        (Before::Norm(norm), Some(ParamId(5)), n),
        (Before::Gate(Activation::Silu), Some(ParamId(5)), n / 2),
        (Before::Gate(Activation::Gelu), None, n / 2),
        (Before::Activation(Activation::Gelu), None, n),
        (Before::Activation(Activation::GeluTanh), Some(ParamId(5)), n),
        (Before::Activation(Activation::QuickGelu), None, n),
        (Before::Activation(Activation::Tanh), None, n),
    ] {
        let values =
            [m * n, n * k, n, n, n, n].into_iter().zip(1..).map(|(len, seed)| random(len, seed));
        let plain = |p: &[Vec<f64>]| -> Vec<f64> {
            let x = transpose(&p[0], n);
            let seen: Vec<f64> = x.chunks(n).flat_map(|row| plain_before(before, row, p)).collect();
            let z = linear(&seen, &p[1], None, Some(&p[2]), (m, k), Activation::Identity);
            let scaled =
                z.iter().enumerate().map(|(i, z)| z * factors.map_or(1.0, |_| p[5][i % n]));
            x.iter().zip(scaled).map(|(x, z)| x + z).collect()
        };
        check(values.collect(), (m, n), &plain, &|exec, x| {
            exec.linear_onto(Onto { residual: x, factors }, before, x, p)
        });
    }
}

fn plain_before(before: Before, row: &[f64], p: &[Vec<f64>]) -> Vec<f64> {
    let n = row.len();
    match before {
        Before::Nothing => row.to_vec(),
        Before::Norm(norm) => {
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let r = 1.0 / (variance + f64::from(norm.eps)).sqrt();
            (0..n).map(|i| (row[i] - mean) * r * p[3][i] + p[4][i]).collect()
        }
        Before::Activation(act) => row.iter().map(|x| activate(act, *x)).collect(),
        Before::Gate(act) => (0..n / 2).map(|i| activate(act, row[i]) * row[n / 2 + i]).collect(),
    }
}

#[test]
fn grad_linear_with_a_bias_on_the_outer_thirds() {
    let (m, k, n) = (4, 5, 9);
    let p = LinearParams { weight: ParamId(1), scale: None, bias: Some(Bias::Outer(ParamId(2))) };
    check(
        vec![random(m * k, 1), random(n * k, 2), random(2 * n / 3, 3)],
        (m, k),
        &|p| {
            let bias = [&p[2][..3], &[0.0; 3], &p[2][3..]].concat();
            linear(&transpose(&p[0], k), &p[1], None, Some(&bias), (m, k), Activation::Identity)
        },
        &|exec, x| exec.linear(x, p, Activation::Identity),
    );
}

#[test]
fn grad_layer_norm_without_bias() {
    let (m, d) = (4, 19);
    check(
        vec![random(m * d, 1), random(d, 2)],
        (m, d),
        &|p| {
            let x = transpose(&p[0], d);
            let norm = |x: &[f64]| {
                let mean = x.iter().sum::<f64>() / d as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                let r = 1.0 / (variance + 1e-6).sqrt();
                x.iter().zip(&p[1]).map(|(x, g)| (x - mean) * r * g).collect::<Vec<_>>()
            };
            x.chunks(d).flat_map(norm).collect()
        },
        &|exec, x| exec.layer_norm(x, RowNorm { weight: ParamId(1), bias: None, eps: 1e-6 }),
    );
}

#[test]
fn grad_probe() {
    let offsets: Arc<[usize]> = Arc::new([0, 1, 6]);
    let (heads, c) = (2, 5);
    let d = heads * c;
    let plain = |p: &[Vec<f64>]| -> Vec<f64> {
        let kv = transpose(&p[0], 2 * d);
        let mut y = Vec::new();
        for s in offsets.windows(2) {
            for head in 0..heads {
                let score = |t: usize| {
                    let dot: f64 =
                        (0..c).map(|x| p[1][head * c + x] * kv[t * 2 * d + head * c + x]).sum();
                    (dot / (c as f64).sqrt()).exp()
                };
                let total: f64 = (s[0]..s[1]).map(score).sum();
                let value = |t: usize, x: usize| kv[t * 2 * d + d + head * c + x];
                y.extend(
                    (0..c)
                        .map(|x| (s[0]..s[1]).map(|t| score(t) / total * value(t, x)).sum::<f64>()),
                );
            }
        }
        y
    };
    check(vec![random(6 * 2 * d, 1), random(d, 2)], (6, 2 * d), &plain, &|exec, x| {
        exec.probe(&exec.parameter(ParamId(1), 1), x, &offsets, heads)
    });
}

/// Plain attention of one sequence and head; `q`, `k`, `v` as closures of (token, channel).
/// `bias`: (query, key) to what is added to their score.
fn attend(
    (t, c): (usize, usize),
    (mask, reach, visible): (Mask, usize, usize),
    bias: impl Fn(usize, usize) -> f64,
    at: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = vec![0.0; t * c];
    for i in 0..t {
        let sees = |j: &usize| {
            j.abs_diff(i) <= reach && *j < visible && (mask == Mask::Bidirectional || *j <= i)
        };
        let dot = |j: usize| (0..c).map(|x| at(0, i, x) * at(1, j, x)).sum::<f64>();
        let scores: Vec<(usize, f64)> =
            (0..t).filter(sees).map(|j| (j, dot(j) / (c as f64).sqrt() + bias(i, j))).collect();
        let total: f64 = scores.iter().map(|(_, s)| s.exp()).sum();
        for (j, s) in &scores {
            for x in 0..c {
                out[i * c + x] += s.exp() / total * at(2, *j, x);
            }
        }
    }
    out
}

/// What is added to the scores in a test of attention.
#[derive(Clone, Copy, PartialEq)]
enum Added {
    Nothing,
    Alibi,
    Buckets,
    /// Not to the scores: queries and keys are turned.
    Rotary(Pairing),
    /// The same, to places that tokens are told.
    RotaryAt(Pairing),
}

/// The angle of a pair of channels at a position.
fn angle(position: usize, pair: usize, c: usize) -> f64 {
    position as f64 * 100_f64.powf(-2.0 * pair as f64 / c as f64)
}

/// Channel `x` of a head at a position, turned.
fn turned(
    pairing: Pairing,
    c: usize,
    (position, x): (usize, usize),
    at: impl Fn(usize) -> f64,
) -> f64 {
    let (pair, first, other) = match pairing {
        Pairing::Halves => (x % (c / 2), x < c / 2, (x + c / 2) % c),
        Pairing::Neighbours => (x / 2, x.is_multiple_of(2), x ^ 1),
    };
    let (sin, cos) = angle(position, pair, c).sin_cos();
    if first { at(x) * cos - at(other) * sin } else { at(x) * cos + at(other) * sin }
}

/// The bucket of `j − i`: three of them.
fn bucket(i: usize, j: usize) -> usize {
    match j as isize - i as isize {
        ..=-2 => 0,
        -1..=3 => 1,
        _ => 2,
    }
}

#[test]
fn grad_attention() {
    // (offsets, heads, width per head): odd sizes, one token, and blocks wider than a register tile.
    let cases: [(&[usize], usize, usize); 3] =
        [(&[0, 1, 4, 9], 2, 3), (&[0, 5], 1, 8), (&[0, 18, 20], 1, 10)];
    for (offsets, heads, c) in cases {
        for mask in [Mask::Bidirectional, Mask::Causal] {
            for (reach, added) in [
                (None, Added::Nothing),
                (Some(2), Added::Nothing),
                (None, Added::Alibi),
                (Some(3), Added::Buckets),
                (None, Added::Buckets),
            ] {
                // Finite differences of the longest case are slow.
                if offsets.len() == 3 && added == Added::Alibi {
                    continue;
                }
                check_attention(offsets, (heads, c), (mask, reach, None), added);
            }
        }
    }
}

#[test]
fn grad_attention_turned_to_positions() {
    for pairing in [Pairing::Halves, Pairing::Neighbours] {
        for (mask, reach) in [(Mask::Bidirectional, None), (Mask::Causal, Some(3))] {
            check_attention(&[0, 2, 9], (2, 6), (mask, reach, None), Added::Rotary(pairing));
        }
        let rule = (Mask::Bidirectional, None, None);
        check_attention(&[0, 2, 9], (2, 6), rule, Added::RotaryAt(pairing));
    }
}

/// A place for each of some tokens, in no order.
fn places(tokens: usize) -> Arc<[usize]> {
    (0..tokens).map(|i| (7 * i + 2) % tokens).collect()
}

/// Tokens behind the visible ones look at those before; some see nothing at all through their window.
#[test]
fn grad_attention_to_visible_tokens() {
    let offsets = [0, 4, 10, 11];
    for reach in [None, Some(2)] {
        for added in [Added::Nothing, Added::Alibi, Added::Buckets] {
            let rule = (Mask::Bidirectional, reach, Some([2, 3, 1].into()));
            check_attention(&offsets, (2, 3), rule, added);
        }
    }
}

fn check_attention(
    offsets: &[usize],
    (heads, c): (usize, usize),
    (mask, reach, visible): (Mask, Option<usize>, Option<Arc<[usize]>>),
    added: Added,
) {
    let offsets: Arc<[usize]> = offsets.into();
    let (tokens, d) = (offsets[offsets.len() - 1], heads * c);
    let slope = |head: usize| 0.5 / (head + 1) as f32;
    let bias = match added {
        Added::Nothing | Added::Rotary(_) | Added::RotaryAt(_) => None,
        Added::Alibi => Some(DistanceBias::Alibi((0..heads).map(slope).collect())),
        Added::Buckets => {
            let n = 50;
            let bucket_of = (0..2 * n - 1).map(|x| bucket(n - 1, x)).collect();
            Some(DistanceBias::Buckets { table: ParamId(1), bucket_of })
        }
    };
    let plain = |p: &[Vec<f64>]| -> Vec<f64> {
        let qkv = transpose(&p[0], 3 * d);
        let mut out = vec![0.0; tokens * d];
        for (sequence, s) in offsets.windows(2).enumerate() {
            for head in 0..heads {
                let add = |i: usize, j: usize| match added {
                    Added::Nothing | Added::Rotary(_) | Added::RotaryAt(_) => 0.0,
                    Added::Alibi => -f64::from(slope(head)) * i.abs_diff(j) as f64,
                    Added::Buckets => p[1][bucket(i, j) * heads + head],
                };
                let seen = visible.as_ref().map_or(tokens, |visible| visible[sequence]);
                let rule = (mask, reach.unwrap_or(tokens), seen);
                let value = attend((s[1] - s[0], c), rule, add, |block, token, x| {
                    let at = |x| qkv[(s[0] + token) * 3 * d + block * d + head * c + x];
                    match added {
                        Added::Rotary(pairing) if block < 2 => turned(pairing, c, (token, x), at),
                        Added::RotaryAt(pairing) if block < 2 => {
                            turned(pairing, c, (places(tokens)[s[0] + token], x), at)
                        }
                        Added::Nothing
                        | Added::Alibi
                        | Added::Buckets
                        | Added::Rotary(_)
                        | Added::RotaryAt(_) => at(x),
                    }
                });
                for (i, v) in value.iter().enumerate() {
                    out[(s[0] + i / c) * d + head * c + i % c] = *v;
                }
            }
        }
        out
    };
    let rotary = match added {
        Added::Rotary(pairing) | Added::RotaryAt(pairing) => {
            Some(Arc::new(RotaryTable::sequence(tokens, c / 2, 100.0, pairing)))
        }
        Added::Nothing | Added::Alibi | Added::Buckets => None,
    };
    let places = matches!(added, Added::RotaryAt(_)).then(|| places(tokens));
    let visible = visible.clone();
    let spec = AttentionSpec { heads, mask, reach, bias, rotary, visible, places };
    let mut values = vec![random(tokens * 3 * d, 1)];
    if added == Added::Buckets {
        values.push(random(3 * heads, 2));
    }
    check(values, (tokens, 3 * d), &plain, &|exec, x| exec.attention(x, &offsets, spec.clone()));
}

#[test]
fn grad_embed_tokens() {
    let ids: Arc<[u32]> = Arc::new([3, 0, 3, 1, 2]);
    let d = 4;
    for types in [None, Some(Arc::from([0, 1, 1, 0, 1]))] {
        let batch = TokenBatch {
            ids: ids.clone(),
            types: types.clone(),
            offsets: [0, 2, 5].into(),
            visible: None,
        };
        check(
            // Parameter 0 is only the harness' input; it takes no part.
            vec![vec![0.5], random(5 * d, 1), random(3 * d, 2), random(2 * d, 3)],
            (1, 1),
            &|p| {
                let mut y = Vec::new();
                for (token, position) in [0, 1, 0, 1, 2].into_iter().enumerate() {
                    let kind = types.as_ref().map_or(0, |t: &Arc<[u32]>| t[token] as usize);
                    let id = ids[token] as usize;
                    y.extend(
                        (0..d).map(|j| {
                            p[1][id * d + j] + p[2][position * d + j] + p[3][kind * d + j]
                        }),
                    );
                }
                y
            },
            &|exec, _| {
                let tables = TokenTables {
                    tokens: ParamId(1),
                    positions: Some(ParamId(2)),
                    types: Some(ParamId(3)),
                };
                exec.embed_tokens(&batch, tables, d)
            },
        );
    }
}

#[test]
fn grad_image_tokens() {
    let (n_places, d) = (4, 4);
    // All patches of two images; some of them, not as many of each, and none of one.
    for images in [vec![vec![0, 1, 2], vec![0, 1, 2]], vec![vec![2], vec![], vec![0, 2]]] {
        let n: usize = images.iter().map(Vec::len).sum();
        for before in [0, 1] {
            let class = (before == 1).then_some(ParamId(2));
            let places = ImagePlaces::new(images.clone(), before == 1);
            check(
                vec![random(n * d, 1), random(n_places * d, 3), random(d, 2)],
                (n, d),
                &|v| {
                    let x = transpose(&v[0], d);
                    let (mut rows, mut y) = (x.chunks_exact(d), Vec::new());
                    let mut put = |row: &[f64], place: usize| {
                        y.extend(row.iter().zip(&v[1][place * d..]).map(|(x, p)| x + p));
                    };
                    for patches in &images {
                        if before == 1 {
                            put(&v[2], 0);
                        }
                        for patch in patches {
                            put(rows.next().unwrap(), patch + before);
                        }
                    }
                    y
                },
                &|exec, x| exec.image_tokens(x, &places, class, ParamId(1)),
            );
        }
    }
}

/// TensorFlow's "same": the number of zeros before the first pixel.
fn before(size: usize, kernel: usize, stride: usize) -> usize {
    let out = size.div_ceil(stride);
    ((out - 1) * stride + kernel).saturating_sub(size) / 2
}

#[test]
fn grad_depthwise() {
    for (height, width, c, stride) in [(4, 5, 3, 1), (5, 4, 9, 2), (6, 6, 8, 2), (1, 1, 4, 1)] {
        let shape = ImageShape { batch: 2, height, width };
        let (rows, activation) = (shape.rows(), Activation::Relu6);
        let values = vec![random(rows * c, 1), random(9 * c, 2), random(c, 3), random(c, 4)];
        let plain = |p: &[Vec<f64>]| -> Vec<f64> {
            let x = transpose(&p[0], c);
            let (top, left) = (before(height, 3, stride), before(width, 3, stride));
            let mut y = Vec::new();
            for (image, oy) in
                (0..2).flat_map(|b| (0..height.div_ceil(stride)).map(move |y| (b, y)))
            {
                for (ox, j) in (0..width.div_ceil(stride)).flat_map(|x| (0..c).map(move |j| (x, j)))
                {
                    let mut z = 0.0;
                    for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                        let (iy, ix) = (oy * stride + ky, ox * stride + kx);
                        if iy >= top && iy - top < height && ix >= left && ix - left < width {
                            let row = (image * height + iy - top) * width + ix - left;
                            z += x[row * c + j] * p[1][(ky * 3 + kx) * c + j];
                        }
                    }
                    y.push(activate(activation, z * p[2][j] + p[3][j]));
                }
            }
            y
        };
        let p = LinearParams {
            weight: ParamId(1),
            scale: Some(ParamId(2)),
            bias: Some(Bias::All(ParamId(3))),
        };
        check(values, (rows, c), &plain, &|exec, x| {
            exec.depthwise(x, shape, stride, p, activation)
        });
    }
}

#[test]
fn a_sequence_never_depends_on_its_batch() {
    let d = 8;
    let slopes = DistanceBias::Alibi([0.3, 0.1].into());
    let spec = AttentionSpec {
        reach: Some(3),
        bias: Some(slopes),
        ..AttentionSpec::plain(2, Mask::Bidirectional)
    };
    let (parameters, workspace) = (Vec::new(), Workspace::default());
    let exec = Exec::inferring(&parameters, &workspace);
    let qkv = random(9 * 3 * d, 5);
    let all = exec.attention(
        &workspace.pool().tensor(9, 3 * d, &qkv),
        &vec![0, 2, 9].into(),
        spec.clone(),
    );
    let alone = exec.attention(
        &workspace.pool().tensor(7, 3 * d, &qkv[2 * 3 * d..]),
        &vec![0, 7].into(),
        spec,
    );
    assert_eq!(&all.values()[2 * d..], alone.values());
}

#[test]
fn frozen_parameters_get_no_gradient_and_record_nothing() {
    let mut parameters = vec![parameter(random(6, 1)), parameter(random(4, 2))];
    parameters.iter_mut().for_each(|p| p.frozen = true);
    let workspace = Workspace::default();
    let exec = Exec::recording(&parameters, &workspace);
    let x = workspace.pool().tensor(2, 3, &random(6, 3));
    let p = |id| LinearParams { weight: ParamId(id), scale: None, bias: None };
    let y = exec.linear(&exec.linear(&x, p(0), Activation::Gelu), p(1), Activation::Gelu);
    let tape = exec.into_tape();
    assert_eq!(format!("{tape:?}"), "Tape(0 nodes)");
    let mut gradients = Gradients::zeros(&parameters);
    tape.backward(&y, &random(y.values().len(), 4), &parameters, &workspace, &mut gradients);
    assert!(gradients.iter().all(<[f32]>::is_empty));
}
