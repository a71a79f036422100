//! `conjoin adapt`: the whole loop on a catalogue, with a gate.
//!
//! `OUT/dataset` → `OUT/base` → `OUT/train`, `OUT/adapted` → `OUT/report` → `OUT/index` of the better
//! model. Each stage is done once; the same command goes on where it was interrupted.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use conjoin_core::{Seed, Stop, Task, hash_file};
use conjoin_data::{Dataset, Split, curate};
use conjoin_eval::{Comparison, Gate, GateVerdict, Metric, MetricName, ReportParts};
use conjoin_hub::ModelName;
use conjoin_model::Model;

use super::curate as curate_command;
use crate::{
    Outcome,
    args::{Adapt, StartArgs},
    console::{Console, print},
    measures::MeasureConfig,
    pipeline, precision,
    recipe::{Plan, Recipe, product_augment},
    stages::Stages,
    start::{ImageStart, Start, TextStart, Towers},
    tasks::Bench,
};

/// The verdict of the gate, beside the artefacts.
const VERDICT_FILE: &str = "verdict.json";

/// The adapted model may lose this much recall on another task.
const MAX_LOSS: f64 = 0.02;

pub(crate) fn run(args: &Adapt, console: &Console, stop: &Stop) -> Result<Outcome> {
    let mut stages = Stages::open(&args.out, console, stop)?;
    let dataset = make_dataset(args, &mut stages, console, stop)?;
    let recipe = recipe(args, &stages, &dataset, (console, stop))?;
    let run = stages.path("train");
    let key =
        pipeline::base_and_trained(&mut stages, &recipe, &dataset, "adapted", (console, stop))?;
    let (base, adapted) = (stages.path("base"), stages.path("adapted"));
    let verdict_file = stages.path(VERDICT_FILE);
    let timings = (stages.timings(), stages.peak_memory_bytes());
    let precision = &args.precision.precision;
    let open = |folder: &Path| {
        let sample = || precision::sample_of(&dataset, &Task::Passage);
        args.precision.apply(Model::open(folder)?, sample, (console, stop))
    };
    stages.run("report", &(&key, precision), |path| {
        let models = [open(&base)?, open(&adapted)?];
        let parts = report(args, &recipe, &dataset, &models, (console, stop))?;
        let curve = pipeline::curve(&run)?;
        let figures = serde_json::json!({
            "verdict": parts.verdict,
            "before": pipeline::figures(&parts.comparison, true),
            "after": pipeline::figures(&parts.comparison, false),
            "table": pipeline::table(&parts.comparison),
        });
        fs_err::write(&verdict_file, serde_json::to_vec_pretty(&figures)?)?;
        let parts =
            ReportParts { curve, timings: timings.0, peak_memory_bytes: timings.1, ..parts };
        pipeline::write_report(parts, path, console)
    })?;
    let figures: serde_json::Value = serde_json::from_slice(&fs_err::read(&verdict_file)?)?;
    let verdict: GateVerdict = serde_json::from_value(figures["verdict"].clone())?;
    let kept = if verdict.keep { adapted } else { base };
    stages.run("index", &(&key, &verdict, precision), |path| {
        let model = open(&kept)?;
        let origin = pipeline::Origin::of(ModelName::Folder(kept));
        pipeline::build_index(&model, &origin, &dataset, path, console, stop)
    })?;
    tell(args, &figures, &verdict, &stages, console)?;
    Ok(if verdict.keep { Outcome::Done } else { Outcome::Refused })
}

fn make_dataset(
    args: &Adapt,
    stages: &mut Stages<'_>,
    console: &Console,
    stop: &Stop,
) -> Result<Dataset> {
    let path = stages.path("dataset");
    let catalogue = vec![args.catalogue.clone()];
    let config = curate_command::config(catalogue, &path, &args.columns, args.seed)?;
    let hash = if args.catalogue.is_file() { hash_file(&args.catalogue)? } else { String::new() };
    stages.run("dataset", &(&config, hash), |_| {
        let summary = curate(&config, console, stop)?;
        curate_command::tell(&summary, &path, console);
        Ok(())
    })?;
    Ok(Dataset::open(&path)?)
}

/// What the command line says training starts from.
fn start(args: &StartArgs) -> Start {
    if let Some(model) = &args.model {
        return Start::Checkpoint(model.clone());
    }
    let text = match &args.text_model {
        Some(folder) => TextStart::SentenceTransformer(folder.clone()),
        None => TextStart::small(),
    };
    Start::Towers(Towers {
        text,
        image: ImageStart::MobileNet,
        image_size: args.size,
        width: args.width,
        max_tokens: 64,
    })
}

fn recipe(
    args: &Adapt,
    stages: &Stages<'_>,
    dataset: &Dataset,
    (console, stop): (&Console, &Stop),
) -> Result<Recipe> {
    let usable = |item: &&conjoin_data::Item| item.image.is_some() && !item.texts.is_empty();
    let n_pairs = dataset.iter_split(Split::Train).filter(usable).count();
    if n_pairs < 2 {
        bail!(
            "only {n_pairs} items to learn from have both a text and a picture; see `{}` for what was left out",
            stages.path("dataset").join("rejects.jsonl").display()
        );
    }
    let start = start(&args.start).found(console, stop)?;
    let slow: &[&str] = match &start {
        Start::Checkpoint(_) => &["image.", "text."],
        Start::Towers(Towers { text: TextStart::SentenceTransformer(_), .. }) => {
            &["image.", "text."]
        }
        Start::Towers(_) => &["image."],
    };
    let plan = Plan {
        seed: args.seed,
        epochs: args.epochs.unwrap_or_else(|| default_epochs(n_pairs)),
        batch: args.batch,
        lr: args.lr,
        pretrained_lr: 0.3,
        n_pairs,
    };
    let data = stages.path("dataset");
    let recipe = Recipe {
        out: PathBuf::new(),
        prompts: None,
        start,
        measures: vec![MeasureConfig::held_out(&data)],
        stages: vec![plan.stage(slow, &data, product_augment())],
    };
    recipe.check()?;
    Ok(recipe)
}

/// Small catalogues are seen more often; about 150,000 pairs in all, 3 to 40 times each.
fn default_epochs(n_pairs: usize) -> f64 {
    (150_000.0 / n_pairs as f64).clamp(3.0, 40.0)
}

/// Held-out pictures below which ten hits are too many to tell two models apart.
const SMALL_CORPUS: u32 = 100;

/// A model is kept for finding pictures by title; on a small held-out part only the first hit counts.
fn gate(comparison: &Comparison) -> Gate {
    let task = "text_to_image";
    let is_small = comparison.task(task).is_some_and(|task| task.n_corpus < SMALL_CORPUS);
    let metric = if is_small { Metric::RecallAt1 } else { Metric::RecallAt10 };
    let metric = MetricName { task: task.to_owned(), metric };
    Gate { metric, min_gain: 0.0, max_loss: MAX_LOSS }
}

fn report(
    args: &Adapt,
    recipe: &Recipe,
    dataset: &Dataset,
    [base, adapted]: &[Model; 2],
    (console, stop): (&Console, &Stop),
) -> Result<ReportParts> {
    let bench = Bench { data: dataset, items: None };
    let verdicts = pipeline::evaluate(Some(base), adapted, &bench, Seed(args.seed), console, stop)?;
    let verdict = gate(&verdicts.comparison).judge(&verdicts.comparison)?;
    Ok(ReportParts {
        title: "Adapted to your catalogue".to_owned(),
        summary: format!(
            "The base model and the model adapted to `{}`, on items neither was trained on.",
            args.catalogue.display()
        ),
        before: Some(pipeline::model_facts("base", base)),
        after: pipeline::model_facts("adapted", adapted),
        data: pipeline::data_facts(dataset),
        verdict: Some(verdict),
        comparison: verdicts.comparison,
        curve: None,
        examples: verdicts.examples,
        distributions: verdicts.distributions,
        timings: Vec::new(),
        peak_memory_bytes: None,
        reproduction: pipeline::reproduction(recipe.hash()?, args.seed, dataset),
    })
}

fn tell(
    args: &Adapt,
    figures: &serde_json::Value,
    verdict: &GateVerdict,
    stages: &Stages<'_>,
    console: &Console,
) -> Result<()> {
    console.say(&stages.summary());
    if args.json {
        print(&figures.to_string())?;
    } else {
        print(figures["table"].as_str().unwrap_or_default())?;
        print(&verdict.sentence)?;
    }
    let index = stages.path("index");
    console.say(&format!(
        "report: {}\nsearch: conjoin search {} \"…\"\nserve:  conjoin serve {}",
        stages.path("report").join("report.html").display(),
        index.display(),
        index.display()
    ));
    Ok(())
}
