//! The steps that commands share: train from a recipe, measure and report, build an index.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow};
use conjoin_core::{Embedder, Embeddings, Manifest, Progress, Stop, Store, Task, VectorName};
use conjoin_data::{Dataset, Item};
use conjoin_eval::{
    Bootstrap, Comparison, DistributionComparison, Fact, Metric, ModelFacts, QueryExample, Report,
    ReportParts, Reproduction, ScoreDistribution, TaskResult, TrainingCurve, compare, examples,
    measure as measure_one,
};
use conjoin_hub::ModelName;
use conjoin_index::{Calibration, Index, IndexBuilder, IndexItem, ManifestParts};
use conjoin_model::Model;
use conjoin_train::{JOURNAL_FILE, StepLog};

use crate::{
    args::{PrecisionArgs, VectorChoice},
    console::Console,
    machine, models, observer,
    precision::{self, PRECISION_FACT},
    recipe::Recipe,
    stages::Stages,
    tasks::{self, Bench, Measured},
    training::{self, Folders, OtherRun},
};

/// The name a model remembers its training by, inside an index: where to find it again.
pub(crate) const MODEL_PATH_FACT: &str = "model_path";
/// The fact of an index's manifest that tells the adapter its model was asked to use.
const ADAPTER_FACT: &str = "adapter";

/// Two stages: `base`, the model training starts from, and `trained`, what the recipe makes of it on
/// `dataset`. Returns the key of everything that follows from the trained model.
pub(crate) fn base_and_trained(
    stages: &mut Stages<'_>,
    recipe: &Recipe,
    dataset: &Dataset,
    trained: &str,
    (console, stop): (&Console, &Stop),
) -> Result<(String, String, &'static str)> {
    let seed = recipe.seed();
    stages.run("base", &(&recipe.start, &recipe.prompts, seed), |path| {
        recipe.start_model()?.save(path, Manifest::new("", 0))?;
        Ok(())
    })?;
    let run = stages.path("train");
    let key = (recipe.hash()?, dataset.manifest_hash(), env!("CARGO_PKG_VERSION"));
    stages.run(trained, &key, |path| {
        let folders = Folders { run: &run, model: path };
        training::train(recipe, folders, OtherRun::Restart, (console, stop))
    })?;
    Ok(key)
}

/// The loss and the evaluations of a run, as it wrote them.
pub(crate) fn curve(run: &Path) -> Result<Option<TrainingCurve>> {
    let journal = run.join(JOURNAL_FILE);
    if !journal.exists() {
        return Ok(None);
    }
    let mut curve = TrainingCurve {
        steps: Vec::new(),
        loss: Vec::new(),
        learning_rate: Vec::new(),
        evaluations: Vec::new(),
    };
    for line in fs_err::read_to_string(journal)?.lines() {
        let log: StepLog = serde_json::from_str(line)?;
        curve.steps.push(log.step);
        #[expect(clippy::cast_possible_truncation, reason = "drawn, not computed with")]
        {
            curve.loss.push(log.loss as f32);
            curve.learning_rate.push(log.lr as f32);
        }
    }
    curve.evaluations = observer::evaluations(run)?;
    Ok(Some(curve))
}

/// The results of one or two models on the same tasks.
pub(crate) struct Verdicts {
    pub comparison: Comparison,
    pub examples: Vec<QueryExample>,
    pub distributions: Vec<DistributionComparison>,
}

/// Examples shown per task and side.
const EXAMPLES: usize = 4;

/// Measures `after`, and `before` if there is one.
pub(crate) fn evaluate(
    before: Option<&Model>,
    after: &Model,
    bench: &Bench<'_>,
    seed: conjoin_core::Seed,
    console: &Console,
    stop: &Stop,
) -> Result<Verdicts> {
    let new = tasks::measure(after, bench, console, stop)?;
    let old = before.map(|model| tasks::measure(model, bench, console, stop)).transpose()?;
    let new_results = results(&new)?;
    let old_results = old.as_deref().map(results).transpose()?;
    let bootstrap = Bootstrap::new(seed.stream("bootstrap"));
    let comparison = match &old_results {
        Some(old) => compare(old, &new_results, &bootstrap)?,
        None => measure_one(&new_results, &bootstrap),
    };
    let mut shown = Vec::new();
    if let Some(old) = &old_results {
        for ((old, new), measured) in old.iter().zip(&new_results).zip(&new) {
            shown.extend(examples(old, new, EXAMPLES, measured.cards()));
        }
    }
    let mut distributions = Vec::new();
    for (i, measured) in new.iter().enumerate() {
        let seed = seed.stream("distribution");
        let before = old.as_ref().map(|old| ScoreDistribution::measure(&old[i].task, seed));
        distributions.push(DistributionComparison {
            task: measured.task.name.clone(),
            before: before.transpose()?,
            after: ScoreDistribution::measure(&measured.task, seed)?,
        });
    }
    Ok(Verdicts { comparison, examples: shown, distributions })
}

fn results(measured: &[Measured<'_>]) -> Result<Vec<TaskResult>> {
    measured.iter().map(|m| Ok(m.task.evaluate()?)).collect()
}

/// What a report says of a model.
pub(crate) fn model_facts(name: &str, model: &Model) -> ModelFacts {
    let card = &model.spec().card;
    let licence = card.licence.as_deref().unwrap_or("licence not stated");
    ModelFacts {
        name: name.to_owned(),
        fingerprint: model.fingerprint().to_owned(),
        note: format!(
            "{} dimensions; from {}; {licence}",
            model.width(),
            card.sources.join(" and ")
        ),
    }
}

/// Counts of a dataset.
pub(crate) fn data_facts(dataset: &Dataset) -> Vec<Fact> {
    use conjoin_data::Split;
    let items = dataset.items();
    let count = |keep: &dyn Fn(&Item) -> bool| items.iter().filter(|item| keep(item)).count();
    let fact = |name: &str, value: String| Fact { name: name.to_owned(), value };
    vec![
        fact("items", items.len().to_string()),
        fact("to learn from", count(&|i| i.split == Split::Train).to_string()),
        fact("held out", count(&|i| i.split == Split::Val).to_string()),
        fact("with a picture", count(&|i| i.image.is_some()).to_string()),
        fact("with a text", count(&|i| !i.texts.is_empty()).to_string()),
        fact("text fields", dataset.fields().join(", ")),
    ]
}

/// How to get the same figures again.
pub(crate) fn reproduction(config_hash: String, seed: u64, dataset: &Dataset) -> Reproduction {
    Reproduction {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        config_hash,
        seed: Some(seed),
        inputs: BTreeMap::from([("data".to_owned(), dataset.manifest_hash())]),
        software: format!("conjoin {}", env!("CARGO_PKG_VERSION")),
        machine: machine::description(),
    }
}

/// Writes a report and tells where.
pub(crate) fn write_report(parts: ReportParts, folder: &Path, console: &Console) -> Result<()> {
    Report::new(parts).write(folder)?;
    console.say(&format!("report: {}", folder.join("report.html").display()));
    Ok(())
}

/// The figures as `{"task": {"metric": value}}` of the new model or, if `before`, of the old one.
pub(crate) fn figures(comparison: &Comparison, before: bool) -> serde_json::Value {
    let mut tasks = serde_json::Map::new();
    for task in &comparison.tasks {
        let mut metrics = serde_json::Map::new();
        for metric in &task.metrics {
            let estimate = match (&metric.change, before) {
                (Some(change), true) => &change.before,
                (None, true) => continue,
                (_, false) => &metric.after,
            };
            metrics.insert(metric.metric.name().to_owned(), estimate.value.into());
        }
        tasks.insert(task.name.clone(), metrics.into());
    }
    tasks.into()
}

/// A table of before and after for people.
pub(crate) fn table(comparison: &Comparison) -> String {
    let mut lines = Vec::new();
    for task in &comparison.tasks {
        lines.push(format!("{} ({} queries, {} items)", task.name, task.n_queries, task.n_corpus));
        for row in &task.metrics {
            if row.metric.is_rank() || row.metric == Metric::MrrAt10 {
                continue;
            }
            let show = |v: f64| row.metric.display(v);
            let (low, high) = (row.after.interval.low, row.after.interval.high);
            let after = format!("{:>6}  [{} to {}]", show(row.after.value), show(low), show(high));
            let line = match &row.change {
                None => format!("  {:<10} {after}", row.metric.name()),
                Some(change) => format!(
                    "  {:<10} {:>6} -> {after}  {}",
                    row.metric.name(),
                    show(change.before.value),
                    row.metric.display_difference(change.difference),
                ),
            };
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// The model an index is made with.
pub(crate) struct Origin {
    /// Where it is.
    pub place: ModelName,
    /// The task whose adapter was asked for.
    pub adapter: Option<String>,
}

impl Origin {
    /// A model that has no choices, or whose own are taken.
    pub(crate) fn of(place: ModelName) -> Self {
        Self { place, adapter: None }
    }

    fn facts(&self) -> Result<BTreeMap<String, serde_json::Value>> {
        let place = match &self.place {
            ModelName::Folder(folder) => fs_err::canonicalize(folder)?.display().to_string(),
            ModelName::Hub(_) => self.place.to_string(),
        };
        let mut facts = BTreeMap::from([(MODEL_PATH_FACT.to_owned(), place.into())]);
        if let Some(adapter) = &self.adapter {
            facts.insert(ADAPTER_FACT.to_owned(), adapter.clone().into());
        }
        Ok(facts)
    }
}

/// Items whose scores fit the scales between modalities.
const CALIBRATION_SAMPLE: usize = 500;

/// Embeds all items of a dataset and commits an index of them.
pub(crate) fn build_index(
    model: &Model,
    origin: &Origin,
    dataset: &Dataset,
    target: &Path,
    console: &Console,
    stop: &Stop,
) -> Result<()> {
    let mut builder = IndexBuilder::create(target, model.fingerprint(), model.width())?;
    let items: Vec<&Item> = dataset.items().iter().collect();
    let width = model.width();
    let (mut texts, mut images) = (Embeddings::zeros(0, width), Embeddings::zeros(0, width));
    let (mut n_done, mut n_cut) = (0, 0);
    for block in items.chunks(256) {
        stop.check()?;
        let parts = tasks::embed_block(model, (dataset, block), &Task::Passage, console)?;
        n_cut += tasks::n_cut(&parts);
        for (item, parts) in block.iter().zip(parts) {
            if let (Some(text), Some(image)) = (&parts.text, &parts.image)
                && texts.len() < CALIBRATION_SAMPLE
            {
                texts.append(&Embeddings::new(width, text.clone())?);
                images.append(&Embeddings::new(width, image.clone())?);
            }
            if parts.text.is_none() && parts.image.is_none() {
                console.warn(&format!("item `{}` has no part that can be embedded", item.id));
                continue;
            }
            let picture = item.image.as_ref().map(|_| dataset.image_bytes(item)).transpose()?;
            let mut payload = item.payload.clone();
            payload.extend(item.texts.iter().cloned());
            builder.add(IndexItem {
                id: item.id.clone(),
                payload,
                text: parts.text,
                image: parts.image,
                picture,
            })?;
        }
        n_done += block.len();
        console.update("index", n_done as u64, Some(items.len() as u64), "");
    }
    tasks::warn_of_cut(model, n_cut, items.len(), console);
    if !texts.is_empty() {
        builder.calibrate(Calibration::from_pairs(&texts, &images))?;
    }
    let mut facts = origin.facts()?;
    facts.extend([precision::fact(model)?]);
    let inputs = BTreeMap::from([("data".to_owned(), dataset.manifest_hash())]);
    builder.commit(ManifestParts { inputs, facts, ..ManifestParts::default() })?;
    console.finish("index", &format!("{} items in `{}`", items.len(), target.display()));
    Ok(())
}

/// Opens an index and the model it was made with, or another one of the same fingerprint.
pub(crate) fn open_search(
    index: &Path,
    model: Option<&ModelName>,
    precision: &PrecisionArgs,
    (console, stop): (&Console, &Stop),
) -> Result<(Index, Model)> {
    let opened = Index::open(index)?;
    let facts = &opened.artifact().manifest().facts;
    let fact = |key: &str| facts.get(key).and_then(|value| value.as_str());
    let name = match (model, fact(MODEL_PATH_FACT)) {
        (Some(name), _) => name.clone(),
        (None, Some(place)) => ModelName::parse(place)?,
        (None, None) => {
            return Err(anyhow!("the index does not say where its model is; use `--model`"));
        }
    };
    let choice = VectorChoice { dimensions: None, adapter: fact(ADAPTER_FACT).map(str::to_owned) };
    let mut model = models::find(&name, console, stop)
        .and_then(|found| models::open_as(&found.folder, &choice))
        .with_context(|| format!("the index's model `{name}`; `--model` names another place"))?;
    if model.widths().contains(&opened.width()) {
        model = model.cut_to(opened.width())?;
    }
    if model.fingerprint() != opened.fingerprint() {
        return Err(anyhow!(
            "index `{}` was made with another model than `{name}` (fingerprints {} and {}); build it again with `conjoin index`",
            index.display(),
            short(opened.fingerprint()),
            short(model.fingerprint()),
        ));
    }
    let model = precision.apply_as_indexed(model, facts.get(PRECISION_FACT))?;
    Ok((opened, model))
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// One line per hit, for people.
pub(crate) fn hit_lines(hits: &[conjoin_core::Hit], title_field: Option<&str>) -> Vec<String> {
    let line = |(i, hit): (usize, &conjoin_core::Hit)| {
        let title = title_field
            .and_then(|field| hit.payload.get(field))
            .or_else(|| {
                ["title", "name", "caption", "text"].iter().find_map(|f| hit.payload.get(*f))
            })
            .map_or("", String::as_str);
        let legs: Vec<String> = hit
            .legs
            .iter()
            .filter(|leg| leg.vector != VectorName::Fused)
            .map(|leg| format!("{} {:.3}", leg.vector.name(), leg.cosine))
            .collect();
        let title: String = title.chars().take(60).collect();
        format!(
            "{:>3}. {:>7.3}  {:<28} {:<60}  {}",
            i + 1,
            hit.score,
            hit.id,
            title,
            legs.join("  ")
        )
    };
    hits.iter().enumerate().map(line).collect()
}
