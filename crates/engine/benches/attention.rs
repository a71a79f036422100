//! Attention of the encoders that people use, beside what the machine can do at most.
//!
//! `cargo bench -p conjoin-engine --bench attention [-- NAME …]`: GFLOP/s of the two products, the best of
//! several runs, the share of the peak of `f32` measured in the same rounds (fused multiply-adds of
//! registers on all threads), and microseconds per sequence and head of one thread.
//! `RAYON_NUM_THREADS=1` for one core.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod peak;

use std::{hint::black_box, sync::Arc, time::Instant};

use conjoin_core::Seed;
use conjoin_engine::{AttentionSpec, Exec, Mask, Precision, Tensor, Workspace};
use rand::Rng as _;
use rayon::prelude::*;

use self::peak::multiply_add;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];
const ROUNDS: usize = 5;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!("{:<14} {:>9} {:>28} {:>28}", "", "peak f32", "f32", "bf16");
    let head = |h, c| (h, c, Mask::Bidirectional);
    compare("vit-b32", &[50; 16], head(12, 64), &wanted);
    compare("vit-b32-one", &[50; 1], head(12, 64), &wanted);
    compare("vit-b16", &[197; 16], head(12, 64), &wanted);
    compare("vit-b16-one", &[197; 1], head(12, 64), &wanted);
    compare("clip-text", &[77; 16], (8, 64, Mask::Causal), &wanted);
    compare("minilm-long", &[512; 8], head(12, 32), &wanted);
    let titles: Vec<usize> = (0..1000).map(|i| 4 + i * 7 % 17).collect();
    compare("titles", &titles, head(12, 32), &wanted);
}

/// One shape in every precision, in turns.
fn compare(
    name: &str,
    lengths: &[usize],
    (heads, c, mask): (usize, usize, Mask),
    wanted: &[String],
) {
    if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
        return;
    }
    let layers = PRECISIONS.map(|p| Layer::new(lengths, (heads, c), mask, p));
    let (mut most, mut best) = (0.0_f64, [f64::INFINITY; PRECISIONS.len()]);
    for _ in 0..ROUNDS {
        most = most.max(peak());
        for (layer, best) in layers.iter().zip(&mut best) {
            *best = best.min(layer.seconds());
        }
    }
    let products: usize = lengths.iter().map(|t| 4 * t * t * heads * c).sum();
    let threads = rayon::current_num_threads() as f64;
    let told = best.map(|seconds| {
        let speed = products as f64 / seconds * 1e-9;
        let each = seconds * 1e6 * threads / (lengths.len() * heads) as f64;
        format!("{speed:.0} ({:.2}) {each:.2} µs", speed / most)
    });
    println!("{name:<14} {most:>9.0} {:>28} {:>28}", told[0], told[1]);
}

struct Layer {
    workspace: Workspace,
    qkv: Tensor,
    offsets: Arc<[usize]>,
    spec: AttentionSpec,
}

impl Layer {
    fn new(
        lengths: &[usize],
        (heads, c): (usize, usize),
        mask: Mask,
        precision: Precision,
    ) -> Self {
        let workspace = Workspace::new(precision, [].into());
        let ends = lengths.iter().scan(0, |end, t| {
            *end += t;
            Some(*end)
        });
        let offsets: Arc<[usize]> = [0].into_iter().chain(ends).collect();
        let (tokens, cols) = (offsets[lengths.len()], 3 * heads * c);
        let mut rng = Seed(tokens as u64).rng();
        let values: Vec<f32> = (0..tokens * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
        let qkv = workspace.pool().tensor(tokens, cols, &values);
        Self { workspace, qkv, offsets, spec: AttentionSpec::plain(heads, mask) }
    }

    /// The best of a few runs.
    fn seconds(&self) -> f64 {
        let mut best = f64::INFINITY;
        rayon::scope(|_| {
            let exec = Exec::inferring(&[], &self.workspace);
            for _ in 0..4 {
                let begin = Instant::now();
                let _ = black_box(exec.attention(&self.qkv, &self.offsets, self.spec.clone()));
                best = best.min(begin.elapsed().as_secs_f64());
            }
        });
        best
    }
}

/// GFLOP/s of all threads.
fn peak() -> f64 {
    const STEPS: usize = 500_000;
    let begin = Instant::now();
    let threads = (0..rayon::current_num_threads()).into_par_iter().with_max_len(1);
    let flop: usize = threads.map(|_| multiply_add(STEPS)).sum();
    flop as f64 / begin.elapsed().as_secs_f64() * 1e-9
}
