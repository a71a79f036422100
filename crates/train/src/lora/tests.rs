//! Adapters against PEFT, finite differences and plain loops.

use std::collections::BTreeMap;

use conjoin_core::Tower as _;

use super::*;
use crate::{
    adamw::{AdamW, AdamWConfig},
    testing::{SmallTower, assert_close, random, unit_rows},
};

fn matrix(name: &str, shape: [usize; 2], value: Vec<f32>) -> Parameter {
    let (name, shape) = (name.to_owned(), shape.to_vec());
    Parameter { name, shape, value: value.into(), decay: true, frozen: false }
}

fn target(prefix: &str, suffix: &str) -> LoraTarget {
    let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
    LoraTarget { prefix, suffix, blocks: 1, adapted: Vec::new() }
}

fn config(targets: Vec<LoraTarget>) -> LoraConfig {
    LoraConfig { rank: 3, alpha: 6.0, targets }
}

/// The adapters with numbers that are not zero anywhere.
fn fill(lora: &mut Lora, seed: Seed) {
    for adapter in lora.adapters_mut() {
        let values = random(adapter.value.len(), seed.stream(&adapter.name));
        adapter.value.copy_from_slice(&values);
    }
}

fn gradients_of(parameters: &[Parameter], values: &[Vec<f32>]) -> Gradients {
    let mut gradients = Gradients::zeros(parameters);
    for (gradient, values) in gradients.iter_mut().zip(values) {
        gradient.copy_from_slice(values);
    }
    gradients
}

type Named = BTreeMap<String, Vec<f32>>;

#[derive(Deserialize)]
struct Golden {
    rank: usize,
    alpha: f64,
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    base: Named,
    start: Named,
    steps: Vec<GoldenStep>,
}

#[derive(Deserialize)]
struct GoldenStep {
    d_merged: Named,
    d_adapters: Named,
    adapters: Named,
    merged: Named,
}

/// `up`, `fused`, and `qkv` with the reference's three layers below each other.
fn towers_order(of: &Named) -> Vec<Vec<f32>> {
    vec![of["up"].clone(), of["fused"].clone(), [&*of["q"], &*of["k"], &*of["v"]].concat()]
}

fn adapters_order(of: &Named) -> Vec<Vec<f32>> {
    let names = ["up.a", "up.b", "fused.a", "fused.b", "q.a", "q.b", "v.a", "v.b"];
    names.map(|name| of[name].clone()).to_vec()
}

/// Within 1e-5 of a tensor's largest value: the reference is f64.
#[test]
fn parity_agrees_with_peft_over_five_steps_of_adamw() {
    let golden = include_str!("../../../../testdata/parity/lora/lora.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    let mut base = towers_order(&golden.base).into_iter();
    let shapes = [("t.up", [8, 5]), ("t.fused", [12, 8]), ("t.qkv", [18, 8])];
    let mut tower = shapes.map(|(name, shape)| matrix(name, shape, base.next().unwrap()));
    let qkv = LoraTarget { blocks: 3, adapted: vec![0, 2], ..target("", ".qkv") };
    let config =
        LoraConfig { rank: golden.rank, alpha: golden.alpha, targets: vec![qkv, target("t.", "")] };
    let mut lora = Lora::new(&config, "lora", &tower, Seed(1)).unwrap();
    for (adapter, start) in lora.adapters_mut().iter_mut().zip(adapters_order(&golden.start)) {
        adapter.value.copy_from_slice(&start);
    }
    let Golden { betas, eps, weight_decay, .. } = golden;
    let settings = AdamWConfig { betas, eps, weight_decay, lr_multipliers: Vec::new() };
    let mut optimizer = AdamW::new(settings, lora.adapters());
    for step in &golden.steps {
        let of_tower = gradients_of(&tower, &towers_order(&step.d_merged));
        let mut gradients = Gradients::zeros(lora.adapters());
        lora.project(&of_tower, &mut gradients);
        for (found, expected) in gradients.iter().zip(adapters_order(&step.d_adapters)) {
            assert_close(found, &expected, 1e-5);
        }
        optimizer.step(lora.adapters_mut(), &gradients, golden.lr, 1.0);
        lora.merge_into(&mut tower);
        for (found, expected) in lora.adapters().iter().zip(adapters_order(&step.adapters)) {
            assert_close(&found.value, &expected, 1e-5);
        }
        for (found, expected) in tower.iter().zip(towers_order(&step.merged)) {
            assert_close(&found.value, &expected, 1e-5);
        }
    }
}

#[test]
fn grad_agrees_with_finite_differences_through_a_tower() {
    let mut tower = SmallTower::new("t", 5, 4, Seed(1));
    let mut lora =
        Lora::new(&config(vec![target("", ".weight")]), "lora", tower.parameters(), Seed(2))
            .unwrap();
    fill(&mut lora, Seed(3));
    let inputs = [random(5, Seed(4)), random(5, Seed(5)), random(5, Seed(6))];
    let inputs: Vec<&Vec<f32>> = inputs.iter().collect();
    let slope = unit_rows(3, 4, Seed(7));
    let value = |lora: &Lora| -> f64 {
        let mut moved = tower.clone();
        lora.merge_into(moved.parameters_mut());
        let embeddings = moved.embed(&inputs).unwrap();
        let pairs = embeddings.values().iter().zip(slope.values());
        pairs.map(|(e, s)| f64::from(*e) * f64::from(*s)).sum()
    };
    let differences: Vec<Vec<f64>> = (0..lora.adapters().len())
        .map(|p| {
            let at = |i: usize, by: f32| {
                let mut moved = lora.clone();
                moved.adapters_mut()[p].value[i] += by;
                value(&moved)
            };
            let n = lora.adapters()[p].value.len();
            (0..n).map(|i| (at(i, 2e-3) - at(i, -2e-3)) / 4e-3).collect()
        })
        .collect();
    lora.merge_into(tower.parameters_mut());
    let (_, recording) = tower.record(&inputs).unwrap();
    let mut of_tower = Gradients::zeros(tower.parameters());
    tower.backward(recording, &slope, &mut of_tower);
    let mut gradients = Gradients::zeros(lora.adapters());
    lora.project(&of_tower, &mut gradients);
    for (found, expected) in gradients.iter().zip(differences) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-3, "{found} {expected}");
        }
    }
    lora.clear_adapted(&mut of_tower);
    assert!(of_tower.get(0).iter().all(|g| *g == 0.0) && of_tower.get(1).iter().any(|g| *g != 0.0));
}

/// Products as plain sums in f64 of an adapter `[n, r]`, `[r, k]` and a gradient `[n, k]`.
struct Plain<'a> {
    b: &'a [f32],
    a: &'a [f32],
    r: usize,
    k: usize,
}

impl Plain<'_> {
    fn sum(n: usize, term: impl Fn(usize) -> f32) -> f32 {
        (0..n).map(|x| f64::from(term(x))).sum::<f64>() as f32
    }

    fn delta(&self, i: usize, j: usize) -> f32 {
        Self::sum(self.r, |x| self.b[i * self.r + x] * self.a[x * self.k + j])
    }

    fn d_a(&self, g: &[f32]) -> Vec<f32> {
        let (r, k, n) = (self.r, self.k, g.len() / self.k);
        let at = |x: usize| Self::sum(n, |i| self.b[i * r + x / k] * g[i * k + x % k]);
        (0..r * k).map(at).collect()
    }

    fn d_b(&self, g: &[f32]) -> Vec<f32> {
        let (r, k, n) = (self.r, self.k, g.len() / self.k);
        let at = |x: usize| Self::sum(k, |j| g[x / r * k + j] * self.a[x % r * k + j]);
        (0..n * r).map(at).collect()
    }
}

/// Blocks higher than a task and not a whole number of tasks or panels.
#[test]
fn tall_blocks_agree_with_plain_loops() {
    let (n, k) = (2 * TASK_ROWS + 9, 70);
    let base = random(2 * n * k, Seed(1));
    let mut tower = [matrix("w", [2 * n, k], base.clone())];
    let config = config(vec![LoraTarget { blocks: 2, ..target("w", "") }]);
    let mut lora = Lora::new(&config, "lora", &tower, Seed(2)).unwrap();
    fill(&mut lora, Seed(3));
    let gradient = random(2 * n * k, Seed(4));
    let mut found = Gradients::zeros(lora.adapters());
    lora.project(&gradients_of(&tower, std::slice::from_ref(&gradient)), &mut found);
    lora.merge_into(&mut tower);
    for block in 0..2 {
        let [a, b] = [0, 1].map(|x| &*lora.adapters()[2 * block + x].value);
        let plain = Plain { b, a, r: 3, k };
        let rows = block * n * k..(block + 1) * n * k;
        let twice = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|x| 2.0 * x).collect() };
        assert_close(found.get(2 * block), &twice(plain.d_a(&gradient[rows.clone()])), 1e-5);
        assert_close(found.get(2 * block + 1), &twice(plain.d_b(&gradient[rows.clone()])), 1e-5);
        let merged: Vec<f32> =
            (0..n * k).map(|x| base[rows.start + x] + 2.0 * plain.delta(x / k, x % k)).collect();
        assert_close(&tower[0].value[rows], &merged, 1e-5);
    }
}

#[test]
fn starts_without_a_change_and_does_not_drift() {
    let base = random(40, Seed(1));
    let mut tower = [matrix("w", [8, 5], base.clone()), matrix("other", [2, 2], vec![1.0; 4])];
    let mut lora = Lora::new(&config(vec![target("w", "")]), "lora", &tower, Seed(2)).unwrap();
    let names: Vec<&str> = lora.adapters().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["w.lora_a", "w.lora_b"]);
    assert_eq!(lora.adapters()[0].shape, [3, 5]);
    let bound = 5.0_f32.powf(-0.5);
    let a = &lora.adapters()[0].value;
    assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > bound / 2.0));
    lora.merge_into(&mut tower);
    assert_eq!(*tower[0].value, *base);
    fill(&mut lora, Seed(3));
    lora.merge_into(&mut tower);
    let once = tower[0].value.clone();
    assert_ne!(*once, *base);
    for _ in 0..3 {
        lora.merge_into(&mut tower);
    }
    assert_eq!(tower[0].value, once);
    assert_eq!(lora.bases().map(|(i, w)| (i, w.to_vec())).collect::<Vec<_>>(), [(0, base)]);
}

/// What the tower's own optimiser leaves alone, and what it trains beside the adapters.
#[test]
fn an_optimiser_made_while_a_matrix_was_frozen_never_moves_it() {
    let mut tower = [matrix("w", [2, 2], vec![1.0; 4]), matrix("head", [1, 2], vec![1.0; 2])];
    let lora = Lora::new(&config(vec![target("w", "")]), "lora", &tower, Seed(2)).unwrap();
    tower[0].frozen = true;
    let settings =
        AdamWConfig { betas: (0.9, 0.98), eps: 1e-6, weight_decay: 0.1, lr_multipliers: vec![] };
    let mut optimizer = AdamW::new(settings, &tower);
    lora.unfreeze(&mut tower);
    let gradients = gradients_of(&tower, &[vec![1.0; 4], vec![1.0; 2]]);
    optimizer.step(&mut tower, &gradients, 0.1, 1.0);
    assert_eq!(tower[0].value, [1.0; 4]);
    assert!(tower[1].value[0] < 1.0);
}

#[track_caller]
fn check_fault(config: &LoraConfig, expect: &str) {
    let tower = [matrix("t.w", [8, 5], vec![0.0; 40]), matrix("t.b", [5, 1], vec![0.0; 5])];
    let mut tower = tower.to_vec();
    tower[1].shape = vec![5];
    let error = Lora::new(config, "lora", &tower, Seed(1)).unwrap_err();
    assert_eq!(error.to_string(), expect);
}

#[test]
fn names_the_setting_that_cannot_be() {
    check_fault(
        &LoraConfig { rank: 0, alpha: 0.0, targets: Vec::new() },
        "`lora.rank` is 0, it must be at least 1; `lora.alpha` is 0, it must be a number above 0; \
         `lora.targets` is empty, it must be a list of at least one rule",
    );
    check_fault(
        &config(vec![LoraTarget { blocks: 2, adapted: vec![1, 2], ..target("", "") }]),
        "`lora.targets.0.adapted` is [1, 2], it must be rising numbers from 0, below `blocks`",
    );
    check_fault(
        &config(vec![target("t.", ".w"), target("t.b", "")]),
        "`lora.targets.1` is `t.b…`, it must be the start and the end of a matrix's name, such as \
         `t.w`",
    );
    check_fault(
        &config(vec![LoraTarget { blocks: 3, ..target("", ".w") }]),
        "`lora.targets` is 3 for 8 rows of `t.w`, it must be blocks that divide the rows",
    );
}
