//! Linear layers in every precision, beside what the machine can do at most.
//!
//! `cargo bench -p conjoin-engine --bench products [-- M,K,N …]`: GFLOP/s of a core (for bytes:
//! operations), the median of several runs, and the share of the peak of `f32`, measured in the same
//! rounds: fused multiply-adds of registers. On Linux of CPU time of all threads, so a busy machine
//! counts less; elsewhere of time. `RAYON_NUM_THREADS=1` for one core.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod clock;
mod peak;

use std::{hint::black_box, time::Instant};

use conjoin_core::{Parameter, Seed};
use conjoin_engine::{Activation, Bias, Exec, LinearParams, ParamId, Precision, Tensor, Workspace};
use rand::Rng as _;

use self::{clock::seconds, peak::multiply_add};

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
const ROUNDS: usize = 3;

fn main() {
    let wanted: Vec<_> = std::env::args().filter_map(|arg| parse(&arg)).collect();
    let shapes = if wanted.is_empty() { SHAPES.to_vec() } else { wanted };
    println!("{:<20} {:>10} {:>22} {:>22} {:>22}", "m, k, n", "peak f32", "f32", "bf16", "int8");
    for shape in shapes {
        let mut speeds = [const { Vec::new() }; 4];
        let layers: Vec<_> = PRECISIONS.iter().map(|p| Layer::new(shape, *p)).collect();
        for _ in 0..ROUNDS {
            speeds[0].push(peak());
            for (layer, speeds) in layers.iter().zip(&mut speeds[1..]) {
                speeds.push(layer.speed());
            }
        }
        let medians = speeds.map(median);
        let share = |x: f64| format!("{x:.0} ({:.2})", x / medians[0]);
        let [_, f32s, bf16, bytes] = medians.map(share);
        let shape = format!("{shape:?}");
        println!("{shape:<20} {:>10.0} {f32s:>22} {bf16:>22} {bytes:>22}", medians[0]);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
        let begin = Instant::now();
        let start = seconds(begin);
        let runs = (2e10 / self.flop).ceil();
        rayon::scope(|_| {
            let exec = Exec::inferring(&self.parameters, &self.workspace);
            for _ in 0..runs as usize {
                let _ = black_box(exec.linear(&self.x, p, Activation::Identity));
            }
        });
        self.flop * runs / (seconds(begin) - start) * 1e-9
    }
}

fn random(n: usize) -> Vec<f32> {
    let mut rng = Seed(n as u64).rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// GFLOP/s of one thread.
fn peak() -> f64 {
    const STEPS: usize = 30_000_000;
    let begin = Instant::now();
    let start = seconds(begin);
    let flop = multiply_add(STEPS);
    flop as f64 / (seconds(begin) - start) * 1e-9
}
