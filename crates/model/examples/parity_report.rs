//! Every parity case against its references, as the table of `docs/parity.md`.
//!
//! In:  `testdata/parity`. Out: a Markdown table on standard output: family and case, the largest error of
//! any stage by each executor, the smallest cosine.

#![expect(clippy::print_stdout, reason = "the table goes to standard output")]

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use conjoin_model::{
    Model,
    families::Plan,
    reference::{Executor, Reference, StageError},
};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
    println!("| case | read as | stages | inferring | recording | cosine |");
    println!("|---|---|---|---|---|---|");
    for case in cases(&root)? {
        let checkpoint = case.join("checkpoint");
        // Models that embed no single vector (rerankers, late interaction) have tests of their own.
        let Ok(plan) = Plan::read(&checkpoint) else { continue };
        let family = plan.reading.family.clone();
        let model = Model::open(&checkpoint)?;
        let stages = Reference::open(&case)?.compare(&model)?;
        let name = case.strip_prefix(&root)?.display();
        println!("| {name} | {family} {}", row(&stages));
    }
    Ok(())
}

fn row(stages: &[StageError]) -> String {
    let worst = |executor: Executor| {
        let of = stages.iter().filter(|s| s.executor == executor && s.stage != "text.ids");
        of.map(|s| s.max_error).fold(0.0, f32::max)
    };
    let cosine = stages.iter().filter_map(|s| s.min_cosine).fold(1.0, f32::min);
    let (inferring, recording) = (worst(Executor::Inferring), worst(Executor::Recording));
    let n = stages.len();
    format!("| {n} | {inferring:.1e} | {recording:.1e} | {cosine:.7} |")
}

/// The folders of cases, by name.
fn cases(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut all = Vec::new();
    for family in fs_err::read_dir(root)? {
        let family = family?.path();
        if !family.is_dir() {
            continue;
        }
        for case in fs_err::read_dir(&family)? {
            let case = case?.path();
            if case.join("checkpoint").exists() && case.join("golden.safetensors").exists() {
                all.push(case);
            }
        }
    }
    all.sort();
    Ok(all)
}
