//! Linear layers in every precision, beside what the machine can do at most.
//!
//! `cargo bench -p conjoin-engine --bench products [-- M,K,N …]`: GFLOP/s (for bytes: operations), the
//! best of several runs, and the share of the peak of `f32`, measured in the same rounds: fused
//! multiply-adds of registers on all threads. `RAYON_NUM_THREADS=1` for one core.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{hint::black_box, time::Instant};

use conjoin_core::{Parameter, Seed};
use conjoin_engine::{Activation, Bias, Exec, LinearParams, ParamId, Precision, Tensor, Workspace};
use pulp::{Arch, Simd, WithSimd};
use rand::Rng as _;
use rayon::prelude::*;

/// Rows, inputs and outputs: ViT-B/32 at 16 pictures and at one, BERT-base at 32 texts, MiniLM.
const SHAPES: [(usize, usize, usize); 8] = [
    (800, 768, 2304),
    (800, 768, 768),
    (800, 768, 3072),
    (800, 3072, 768),
    (50, 768, 3072),
    (50, 3072, 768),
    (2048, 768, 3072),
    (2048, 384, 1536),
];
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];
const ROUNDS: usize = 5;

fn main() {
    let wanted: Vec<_> = std::env::args().filter_map(|arg| parse(&arg)).collect();
    let shapes = if wanted.is_empty() { SHAPES.to_vec() } else { wanted };
    println!("{:<20} {:>10} {:>22} {:>22} {:>22}", "m, k, n", "peak f32", "f32", "bf16", "int8");
    for shape in shapes {
        let mut best = [0.0_f64; 4];
        let layers: Vec<_> = PRECISIONS.iter().map(|p| Layer::new(shape, *p)).collect();
        for _ in 0..ROUNDS {
            best[0] = best[0].max(peak());
            for (layer, best) in layers.iter().zip(&mut best[1..]) {
                *best = best.max(layer.speed());
            }
        }
        let share = |x: f64| format!("{x:.0} ({:.2})", x / best[0]);
        let [_, f32s, bf16, bytes] = best.map(share);
        println!(
            "{:<20} {:>10.0} {f32s:>22} {bf16:>22} {bytes:>22}",
            format!("{shape:?}"),
            best[0]
        );
    }
}

fn parse(text: &str) -> Option<(usize, usize, usize)> {
    let mut numbers = text.split(',').map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

struct Layer {
    parameters: Vec<Parameter>,
    workspace: Workspace,
    x: Tensor,
    flop: f64,
}

impl Layer {
    fn new((m, k, n): (usize, usize, usize), precision: Precision) -> Self {
        let parameters = [n * k, n].map(|n| Parameter {
            name: String::new(),
            shape: vec![n],
            value: random(n).into(),
            decay: false,
            frozen: false,
        });
        let workspace = Workspace::new(precision, [].into());
        let x = workspace.pool().tensor(m, k, &random(m * k));
        Self { parameters: parameters.into(), workspace, x, flop: 2.0 * (m * n * k) as f64 }
    }

    fn speed(&self) -> f64 {
        let bias = Some(Bias::All(ParamId(1)));
        let p = LinearParams { weight: ParamId(0), scale: None, bias };
        let mut best = f64::INFINITY;
        rayon::scope(|_| {
            let exec = Exec::inferring(&self.parameters, &self.workspace);
            for _ in 0..4 {
                let begin = Instant::now();
                let _ = black_box(exec.linear(&self.x, p, Activation::Identity));
                best = best.min(begin.elapsed().as_secs_f64());
            }
        });
        self.flop / best * 1e-9
    }
}

fn random(n: usize) -> Vec<f32> {
    let mut rng = Seed(n as u64).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// GFLOP/s of fused multiply-adds that touch no memory.
fn peak() -> f64 {
    const STEPS: usize = 2_000_000;
    const CHAINS: usize = 24;
    struct Chains;
    impl WithSimd for Chains {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> usize {
            let x = simd.splat_f32s(black_box(0.999));
            let mut sums = [simd.splat_f32s(0.5); CHAINS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = simd.mul_add_e_f32s(*sum, x, x);
                }
            }
            for sum in sums {
                black_box(simd.reduce_sum_f32s(sum));
            }
            2 * STEPS * CHAINS * S::F32_LANES
        }
    }
    let begin = Instant::now();
    let threads = 0..rayon::current_num_threads();
    let flop: usize =
        threads.into_par_iter().with_max_len(1).map(|_| Arch::new().dispatch(Chains)).sum();
    flop as f64 / begin.elapsed().as_secs_f64() * 1e-9
}
