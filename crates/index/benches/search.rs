//! Exact search over 100,000 items of width 384: time of 1 and of 64 queries, and bytes read.
//!
//! `cargo bench -p conjoin-index`; `numpy_search.py` beside it measures the same with numpy.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may fail")]

use std::time::Instant;

use conjoin_core::{Modality, SearchRequest, Seed, VectorName};
use conjoin_index::{Index, IndexBuilder, IndexItem, ManifestParts};
use rand::Rng;

const ITEMS: usize = 100_000;
const WIDTH: usize = 384;
const TOP_K: usize = 10;
const RUNS: usize = 15;

fn unit(seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    let v: Vec<f32> = (0..WIDTH).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    v.into_iter().map(|x| x / length).collect()
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let start = Instant::now();
    let mut builder = IndexBuilder::create(&path, "model", WIDTH).unwrap();
    for i in 0..ITEMS {
        let text = Some(unit(Seed(1).at(i as u64)));
        builder.add(IndexItem { id: i.to_string(), text, ..IndexItem::default() }).unwrap();
    }
    builder.commit(ManifestParts::default()).unwrap();
    println!("built in {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let index = Index::open(&path).unwrap();
    println!(
        "opened in {:.3} s, {} threads",
        start.elapsed().as_secs_f64(),
        rayon::current_num_threads()
    );
    for n in [1, 8, 64] {
        let query =
            |q| SearchRequest::new(unit(Seed(2).at(q)), Modality::Text, VectorName::Text, TOP_K);
        let queries: Vec<SearchRequest> = (0..n).map(query).collect();
        let mut times: Vec<f64> = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(index.search_batch(&queries).unwrap().len(), n as usize);
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[RUNS / 2]);
        let gigabytes = (ITEMS * WIDTH * 4) as f64 / 1e9;
        let gigaflops = 2.0 * n as f64 * (ITEMS * WIDTH) as f64 / 1e9;
        println!(
            "{n:3} queries: median {:7.2} ms, best {:7.2} ms, {:6.1} GB/s, {:6.1} GFLOP/s",
            median * 1e3,
            best * 1e3,
            gigabytes / best,
            gigaflops / best,
        );
    }
}
