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
    families::{Kind, Plan, colbert::LatePlan, cross_encoder::PairPlan},
    reference::{Executor, Reference, StageError},
};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
    println!("| case | read as | stages | inferring | recording | cosine |");
    println!("|---|---|---|---|---|---|");
    for case in cases(&root)? {
        let checkpoint = case.join("checkpoint");
        let reference = Reference::open(&case)?;
        let (family, stages) = match Kind::of(&checkpoint)? {
            Kind::Embedder => {
                let family = Plan::read(&checkpoint)?.reading.family;
                (family, reference.compare(&Model::open(&checkpoint)?)?)
            }
            Kind::CrossEncoder => {
                let plan = PairPlan::read(&checkpoint)?;
                (plan.reading.family.clone(), reference.compare_pairs(&plan.build()?)?)
            }
            Kind::LateInteraction => {
                let plan = LatePlan::read(&checkpoint)?;
                (plan.reading.family.clone(), reference.compare_late(&plan.build()?)?)
            }
        };
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
    let cosines = stages.iter().filter_map(|s| s.min_cosine);
    let cosine = cosines.reduce(f32::min).map_or("–".to_owned(), |c| format!("{c:.7}"));
    let (inferring, recording) = (worst(Executor::Inferring), worst(Executor::Recording));
    let n = stages.len();
    format!("| {n} | {inferring:.1e} | {recording:.1e} | {cosine} |")
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
