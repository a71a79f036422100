//! Attention beyond one tile: long sequences against a plain f64 forward, single queries, other batches,
//! other cuts, other precisions.
//!
//! Tolerances: f32 1e-5 of the largest output and 2e-4 of the largest gradient; bf16 by the cosine,
//! ≥ 0.9995. What is said not to change a result is compared bit for bit.

use std::sync::Arc;

use conjoin_core::{Gradients, Parameter, Seed};
use conjoin_engine::{
    Activation, AttentionSpec, DistanceBias, Exec, LinearParams, Mask, Pairing, ParamId, Precision,
    RotaryTable, Tensor, Workspace,
};
use rand::Rng;

const HEADS: usize = 3;
/// Width per head: more than a panel of 48.
const C: usize = 52;
const D: usize = HEADS * C;
/// Tails of tiles, of vectors and of panels; sequences of one token and of none.
const LENGTHS: [usize; 7] = [200, 1, 49, 0, 16, 77, 130];

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Seed(seed).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn offsets(lengths: &[usize]) -> Arc<[usize]> {
    let ends = lengths.iter().scan(0, |end, t| {
        *end += t;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}

/// Rules with every part of a spec.
fn specs() -> Vec<AttentionSpec> {
    let table = Arc::new(RotaryTable::sequence(200, C / 2, 100.0, Pairing::Halves));
    let plain = AttentionSpec::plain(HEADS, Mask::Bidirectional);
    let alibi = DistanceBias::Alibi([0.3, 0.1, 0.02].into());
    vec![
        plain.clone(),
        AttentionSpec { rotary: Some(table.clone()), mask: Mask::Causal, ..plain.clone() },
        AttentionSpec { reach: Some(20), bias: Some(alibi), ..plain.clone() },
        AttentionSpec {
            visible: Some([150, 1, 0, 0, 7, 77, 3].into()),
            rotary: Some(table),
            ..plain
        },
    ]
}

/// The rows of one sequence, queries and keys turned to their positions if so wanted.
fn turned(rows: &[f32], turns: bool) -> Vec<f64> {
    let mut turned: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
    let half = C / 2;
    for (token, row) in turned.chunks_exact_mut(3 * D).enumerate().filter(|_| turns) {
        for head in row[..2 * D].chunks_exact_mut(C) {
            for pair in 0..half {
                let angle = token as f64 * 100_f64.powf(-(pair as f64) / half as f64);
                let ((sin, cos), a, b) = (angle.sin_cos(), head[pair], head[pair + half]);
                head[pair] = a * cos - b * sin;
                head[pair + half] = b * cos + a * sin;
            }
        }
    }
    turned
}

/// `[t, 3 d]` to `[t, d]`, in f64.
fn plain(qkv: &[f32], offsets: &[usize], spec: &AttentionSpec) -> Vec<f64> {
    let mut out = vec![0.0; qkv.len() / 3];
    for (sequence, s) in offsets.windows(2).enumerate() {
        let t = s[1] - s[0];
        let visible = spec.visible.as_ref().map_or(t, |v| v[sequence]);
        let reach = spec.reach.unwrap_or(t);
        let rows = turned(&qkv[s[0] * 3 * D..s[1] * 3 * D], spec.rotary.is_some());
        for (head, i) in (0..HEADS).flat_map(|head| (0..t).map(move |i| (head, i))) {
            let at = |block: usize, token: usize, x: usize| {
                rows[token * 3 * D + block * D + head * C + x]
            };
            let sees = |j: &usize| {
                j.abs_diff(i) <= reach
                    && *j < visible
                    && (spec.mask == Mask::Bidirectional || *j <= i)
            };
            let score = |j: usize| {
                let dot: f64 = (0..C).map(|x| at(0, i, x) * at(1, j, x)).sum();
                let bias = match &spec.bias {
                    Some(DistanceBias::Alibi(slopes)) => {
                        -f64::from(slopes[head]) * i.abs_diff(j) as f64
                    }
                    Some(DistanceBias::Buckets { .. }) | None => 0.0,
                };
                (dot / (C as f64).sqrt() + bias).exp()
            };
            let weights: Vec<(usize, f64)> = (0..t).filter(sees).map(|j| (j, score(j))).collect();
            let total: f64 = weights.iter().map(|(_, w)| w).sum();
            for (j, w) in weights {
                for x in 0..C {
                    out[(s[0] + i) * D + head * C + x] += w / total * at(2, j, x);
                }
            }
        }
    }
    out
}

fn attend(qkv: &[f32], lengths: &[usize], spec: &AttentionSpec, precision: Precision) -> Vec<f32> {
    let workspace = Workspace::new(precision, [].into());
    let exec = Exec::inferring(&[], &workspace);
    let x = workspace.pool().tensor(qkv.len() / (3 * D), 3 * D, qkv);
    exec.attention(&x, &offsets(lengths), spec.clone()).values().to_vec()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= tolerance * largest, "{f} for {e} at {i}");
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn in_a_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads can be started").install(f)
}

#[test]
fn long_sequences_agree_with_plain_f64_to_1e_5() {
    let qkv = random(LENGTHS.iter().sum::<usize>() * 3 * D, 1);
    for spec in specs() {
        let expected = plain(&qkv, &offsets(&LENGTHS), &spec);
        assert_close(&attend(&qkv, &LENGTHS, &spec, Precision::F32), &expected, 1e-5);
    }
}

#[test]
fn a_sequence_alone_is_the_same_bit_for_bit() {
    let qkv = random(LENGTHS.iter().sum::<usize>() * 3 * D, 2);
    let at = offsets(&LENGTHS);
    for (spec, precision) in specs().into_iter().zip([Precision::F32, Precision::Bf16].repeat(2)) {
        let all = attend(&qkv, &LENGTHS, &spec, precision);
        for (i, s) in at.windows(2).enumerate() {
            let visible = spec.visible.as_ref().map(|v| [v[i]].into());
            let spec = AttentionSpec { visible, ..spec.clone() };
            let own = &qkv[s[0] * 3 * D..s[1] * 3 * D];
            let alone = attend(own, &LENGTHS[i..=i], &spec, precision);
            assert_eq!(all[s[0] * D..s[1] * D], alone, "sequence {i}, {precision:?}");
        }
    }
}

#[test]
fn the_number_of_threads_cuts_queries_and_changes_nothing() {
    let qkv = random(200 * 3 * D, 3);
    for spec in specs().into_iter().filter(|spec| spec.visible.is_none()) {
        let run = |threads| in_a_pool(threads, || attend(&qkv, &[200], &spec, Precision::F32));
        let one = run(1);
        for threads in [2, 3, 7] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
    }
}

#[test]
fn single_queries_are_rows_of_the_whole_bit_for_bit() {
    let lengths: Vec<usize> = LENGTHS.into_iter().filter(|t| *t > 0).collect();
    let at = offsets(&lengths);
    let tokens = at[lengths.len()];
    let qkv = random(tokens * 3 * D, 4);
    let queries: Vec<usize> = (0..lengths.len()).map(|i| at[i] + lengths[i] * i / 7).collect();
    let workspace = Workspace::default();
    let exec = Exec::inferring(&[], &workspace);
    let part = |rows: &[usize], from: usize, to: usize| -> Tensor {
        let values: Vec<f32> = rows
            .iter()
            .flat_map(|row| qkv[row * 3 * D + from..row * 3 * D + to].to_vec())
            .collect();
        workspace.pool().tensor(rows.len(), to - from, &values)
    };
    let (q, kv) = (part(&queries, 0, D), part(&(0..tokens).collect::<Vec<_>>(), D, 3 * D));
    for spec in specs() {
        let visible = spec.visible.as_ref().map(|_| [150, 1, 0, 7, 77, 3].into());
        let spec = AttentionSpec { visible, ..spec };
        let all = attend(&qkv, &lengths, &spec, Precision::F32);
        let picked = exec.attention_of(&q, &kv, &at, &queries, spec);
        for (i, query) in queries.iter().enumerate() {
            assert_eq!(picked.row(i), &all[query * D..(query + 1) * D], "query {i}");
        }
    }
}

#[test]
fn bf16_keeps_the_direction_of_every_row() {
    let qkv: Vec<f32> = random(200 * 3 * D, 5).iter().map(|x| 3.0 * x).collect();
    for spec in specs().into_iter().filter(|spec| spec.visible.is_none()) {
        let exact = attend(&qkv, &[200], &spec, Precision::F32);
        for precision in [Precision::Bf16, Precision::Int8] {
            let rough = attend(&qkv, &[200], &spec, precision);
            assert_ne!(rough, exact);
            for (a, b) in rough.chunks(D).zip(exact.chunks(D)) {
                assert!(cosine(a, b) >= 0.9995, "{}", cosine(a, b));
            }
        }
    }
}

/// `qkv` as a product with the identity, and its gradient as that of the weight: `[3 d, t]`.
fn gradient(
    qkv: &[f32],
    lengths: &[usize],
    spec: &AttentionSpec,
    precision: Precision,
) -> Vec<f32> {
    let t = qkv.len() / (3 * D);
    let transposed: Vec<f32> =
        (0..3 * D).flat_map(|x| (0..t).map(move |i| qkv[i * 3 * D + x])).collect();
    let parameters = [Parameter {
        name: String::new(),
        shape: vec![3 * D, t],
        value: transposed.into(),
        decay: false,
        frozen: false,
    }];
    // The product with the identity stays exact, whatever attention is computed of.
    let exceptions = [(ParamId(0), Precision::F32)].into();
    let workspace = Workspace::new(precision, exceptions);
    let exec = Exec::recording(&parameters, &workspace);
    let identity: Vec<f32> = (0..t * t).map(|i| if i % (t + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let identity = workspace.pool().tensor(t, t, &identity);
    let p = LinearParams { weight: ParamId(0), scale: None, bias: None };
    let x = exec.linear(&identity, p, Activation::Identity);
    assert_eq!(x.values(), qkv, "the identity");
    let y = exec.attention(&x, &offsets(lengths), spec.clone());
    let mut gradients = Gradients::zeros(&parameters);
    let dy = random(t * D, 8);
    exec.into_tape().backward(&y, &dy, &parameters, &workspace, &mut gradients);
    gradients.iter().next().expect("one parameter").to_vec()
}

/// Along random directions, as a sequence of 200 tokens has too many numbers to move each.
#[test]
fn grad_of_long_sequences_along_directions() {
    let lengths = [200, 49, 16];
    let tokens: usize = lengths.iter().sum();
    let qkv = random(tokens * 3 * D, 6);
    let (at, dy) = (offsets(&lengths), random(tokens * D, 8));
    for spec in specs() {
        let visible = spec.visible.as_ref().map(|_| [150, 7, 0].into());
        let spec = AttentionSpec { visible, ..spec };
        let found = gradient(&qkv, &lengths, &spec, Precision::F32);
        for seed in 0..2 {
            let direction = random(qkv.len(), 20 + seed);
            let step = 1e-2;
            let loss = |sign: f32| -> f64 {
                let moved: Vec<f32> =
                    qkv.iter().zip(&direction).map(|(x, d)| x + sign * step * d).collect();
                let y = plain(&moved, &at, &spec);
                y.iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
            };
            let numeric = (loss(1.0) - loss(-1.0)) / (2.0 * f64::from(step));
            let along: Vec<f64> = (0..qkv.len())
                .map(|i| {
                    let (token, x) = (i / (3 * D), i % (3 * D));
                    f64::from(found[x * tokens + token]) * f64::from(direction[i])
                })
                .collect();
            let (sum, size) = (along.iter().sum::<f64>(), along.iter().map(|a| a * a).sum::<f64>());
            assert!((sum - numeric).abs() <= 2e-3 * size.sqrt(), "{sum} for {numeric}");
        }
    }
}

#[test]
fn gradients_do_not_depend_on_threads_and_keep_their_direction_in_bf16() {
    let (lengths, spec) = ([130, 49], &specs()[1]);
    let qkv = random(179 * 3 * D, 7);
    let run = |threads, precision| in_a_pool(threads, || gradient(&qkv, &lengths, spec, precision));
    let one = run(1, Precision::F32);
    assert_eq!(run(2, Precision::F32), one);
    assert_eq!(run(5, Precision::F32), one);
    let rough = run(2, Precision::Bf16);
    assert_eq!(run(1, Precision::Bf16), rough);
    assert_ne!(rough, one);
    for (a, b) in rough.chunks(D * 179).zip(one.chunks(D * 179)) {
        assert!(cosine(a, b) >= 0.9995, "{}", cosine(a, b));
    }
}
