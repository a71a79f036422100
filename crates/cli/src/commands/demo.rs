//! `conjoin demo`: the whole loop on the bundled grocery data.
//!
//! Shop photos of 81 products, each with a name, a category and a description, and a studio picture
//! per product. A text tower and an image tower are trained on shop photos; measured on photos never
//! trained on: finding photos by a product's name, and finding the product of a photo.

use std::path::PathBuf;

use anyhow::Result;
use conjoin_core::{Seed, Stop, Store, VectorName, hash_bytes};
use conjoin_data::{Columns, CurateConfig, Dataset, Split, curate};
use conjoin_eval::ReportParts;
use conjoin_hub::ModelName;
use conjoin_index::Index;
use conjoin_model::Model;

use super::{curate as curate_command, search, serve};
use crate::{
    Outcome,
    args::{Demo, PrecisionArgs},
    assets,
    console::{Console, print},
    measures::MeasureConfig,
    pipeline,
    recipe::{Plan, Recipe, product_augment},
    stages::Stages,
    start::{ImageStart, Start, TextStart, Towers},
    tasks::Bench,
};

/// Searches shown at the end.
const SEARCHES: [&str; 4] =
    ["red apple", "lactose free milk", "something sour for cooking", "mushroom"];

const FIGURES_FILE: &str = "figures.json";

pub(crate) fn run(args: &Demo, console: &Console, stop: &Stop) -> Result<Outcome> {
    let mut stages = Stages::open(&args.out, console, stop)?;
    unpack(&mut stages)?;
    let photos = dataset(
        &mut stages,
        "photos",
        &["products.tar", "photos-train.tar", "photos-val.tar"],
        args,
        (console, stop),
    )?;
    let products = dataset(&mut stages, "products", &["products.tar"], args, (console, stop))?;
    let recipe = recipe(args, &stages, &photos)?;
    let run = stages.path("train");
    let key = pipeline::base_and_trained(&mut stages, &recipe, &photos, "model", (console, stop))?;
    let (base, trained) = (stages.path("base"), stages.path("model"));
    let figures_file = stages.path(FIGURES_FILE);
    let timings = (stages.timings(), stages.peak_memory_bytes());
    stages.run("report", &key, |path| {
        let bench = Bench { data: &photos, items: Some(&products) };
        let (before, after) = (Model::open(&base)?, Model::open(&trained)?);
        let seed = Seed(args.seed);
        let verdicts = pipeline::evaluate(Some(&before), &after, &bench, seed, console, stop)?;
        let figures = serde_json::json!({
            "before": pipeline::figures(&verdicts.comparison, true),
            "after": pipeline::figures(&verdicts.comparison, false),
            "table": pipeline::table(&verdicts.comparison),
        });
        fs_err::write(&figures_file, serde_json::to_vec_pretty(&figures)?)?;
        let parts = ReportParts {
            title: "Grocery demo".to_owned(),
            summary:
                "Before and after training on shop photos, measured on photos never trained on."
                    .to_owned(),
            before: Some(pipeline::model_facts("before training", &before)),
            after: pipeline::model_facts("after training", &after),
            data: pipeline::data_facts(&photos),
            verdict: None,
            comparison: verdicts.comparison,
            curve: pipeline::curve(&run)?,
            examples: verdicts.examples,
            distributions: verdicts.distributions,
            timings: timings.0,
            peak_memory_bytes: timings.1,
            reproduction: pipeline::reproduction(recipe.hash()?, args.seed, &photos),
        };
        pipeline::write_report(parts, path, console)
    })?;
    stages.run("index", &key, |path| {
        let model = Model::open(&trained)?;
        let origin = pipeline::Origin::of(ModelName::Folder(trained));
        pipeline::build_index(&model, &origin, &products, path, console, stop)
    })?;
    console.say(&stages.summary());
    let mut figures: serde_json::Value = serde_json::from_slice(&fs_err::read(&figures_file)?)?;
    let table = figures["table"].take();
    if args.json {
        if let Some(figures) = figures.as_object_mut() {
            figures.remove("table");
        }
        print(&figures.to_string())?;
    } else {
        print(table.as_str().unwrap_or_default())?;
        show_searches(&stages, console, stop)?;
    }
    console.say(&format!("report: {}", stages.path("report").join("report.html").display()));
    if args.no_serve {
        return Ok(Outcome::Done);
    }
    let opened = open_search(&stages, (console, stop))?;
    serve::serve(opened, args.address, console, stop)
}

/// Puts the bundled shards where the stages read them.
fn unpack(stages: &mut Stages<'_>) -> Result<()> {
    let hashes: Vec<String> = assets::GROCERY.iter().map(|(_, bytes)| hash_bytes(bytes)).collect();
    stages.run("raw", &hashes, |path| {
        fs_err::create_dir_all(path)?;
        for (name, bytes) in assets::GROCERY {
            fs_err::write(path.join(name), bytes)?;
        }
        Ok(())
    })
}

fn dataset(
    stages: &mut Stages<'_>,
    name: &str,
    shards: &[&str],
    args: &Demo,
    (console, stop): (&Console, &Stop),
) -> Result<Dataset> {
    let raw = stages.path("raw");
    let columns = Columns {
        text: ["name", "category", "description"].map(str::to_owned).to_vec(),
        image: None,
        id: Some("id".to_owned()),
        group: Some("product".to_owned()),
        split: Some("split".to_owned()),
    };
    let inputs = shards.iter().map(|shard| raw.join(shard)).collect();
    let mut config = CurateConfig::new(inputs, stages.path(name), columns);
    config.seed = Seed(args.seed);
    let key = (&config, assets::GROCERY.map(|(_, bytes)| hash_bytes(bytes)));
    stages.run(name, &key, |path| {
        let summary = curate(&config, console, stop)?;
        curate_command::tell(&summary, path, console);
        Ok(())
    })?;
    Ok(Dataset::open(&stages.path(name))?)
}

fn recipe(args: &Demo, stages: &Stages<'_>, photos: &Dataset) -> Result<Recipe> {
    let towers = Towers {
        text: TextStart::small(),
        image: ImageStart::MobileNet,
        image_size: 128,
        width: 256,
        max_tokens: 64,
    };
    let plan = Plan {
        seed: args.seed,
        epochs: 16.0,
        batch: 64,
        lr: 1e-3,
        pretrained_lr: 0.3,
        n_pairs: photos.iter_split(Split::Train).count(),
    };
    let data = stages.path("photos");
    let recipe = Recipe {
        out: PathBuf::new(),
        prompts: None,
        start: Start::Towers(towers),
        measures: vec![MeasureConfig::held_out(&data)],
        stages: vec![plan.stage(&["image."], &data, product_augment())],
    };
    recipe.check()?;
    Ok(recipe)
}

fn open_search(stages: &Stages<'_>, with: (&Console, &Stop)) -> Result<(Index, Model)> {
    pipeline::open_search(&stages.path("index"), None, &PrecisionArgs::default(), with)
}

fn show_searches(stages: &Stages<'_>, console: &Console, stop: &Stop) -> Result<()> {
    let (index, model) = open_search(stages, (console, stop))?;
    for query in SEARCHES {
        let request = search::request(&model, Some(query), None, VectorName::Fused, 3)?;
        print(&format!("\nsearch \"{query}\""))?;
        for line in pipeline::hit_lines(&index.search(&request)?, Some("name")) {
            print(&line)?;
        }
    }
    Ok(print("")?)
}
