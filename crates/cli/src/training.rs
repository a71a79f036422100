//! Training from a recipe: its stages in order, each from where the one before ended.
//!
//! In:  a recipe, a folder for the runs and one for the model. Out: the model; per stage its run, its
//!      figures, and where there are several its model.
//! A stage that is done is not done again: its model is kept with a key of all that decides it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use conjoin_core::{ArtifactWriter, Manifest, Progress as _, Seed, Stop, Tower as _, hash_bytes};
use conjoin_model::{
    CHECKPOINT_FORMAT, ImageSpec, ImageTower, MobileNetSpec, Model, ModelParts, ModelSpec, NameMap,
    Precision,
};
use conjoin_train::{Ended, Trainer, interpolate, latest_state};

use crate::{
    card::{self, CARD_FILE, DATA_FACT, FIGURES_FACT, Making, RECIPE_FILE},
    console::Console,
    machine,
    measures::{Figures, Measures},
    observer::Watcher,
    pipeline,
    recipe::{Recipe, Stage},
    sources::{Preparation, StageData},
};

/// What becomes of a run in the same folder that was begun with other settings or other data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherRun {
    /// It stays, and not fitting it is an error.
    Refuse,
    /// It is thrown away.
    Restart,
}

/// Where a training writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folders<'a> {
    /// The runs: of one stage in it, of several in folders by their names.
    pub run: &'a Path,
    /// The trained model.
    pub model: &'a Path,
}

/// The numbers of losses, by task and name.
type Scalars = BTreeMap<String, BTreeMap<String, f32>>;

/// Tells runs apart: a hash of the recipe and the data.
const RUN_KEY_FILE: &str = "run.key";
/// The figures after a stage.
const FIGURES_FILE: &str = "figures.json";
/// Where a stage's model is, in its run.
const STAGE_MODEL: &str = "model";

/// Trains from a recipe, going on where it was left, and saves the model.
pub(crate) fn train(
    recipe: &Recipe,
    folders: Folders<'_>,
    other_run: OtherRun,
    (console, stop): (&Console, &Stop),
) -> Result<()> {
    // Told before the long work, not after it.
    drop(ArtifactWriter::create(folders.model, CHECKPOINT_FORMAT)?);
    let mut model = None;
    let mut scalars = Scalars::new();
    let mut key = String::new();
    for (i, stage) in recipe.stages.iter().enumerate() {
        let whole = Whole { recipe, stage, last: i + 1 == recipe.stages.len(), console, stop };
        let run = run_folder(recipe, folders.run, &stage.name);
        let data = StageData::open(stage, (console, stop))?;
        data.rejects().iter().for_each(|told| console.warn(&format!("{}: {told}", stage.name)));
        let prints: Vec<String> = data.fingerprints().into_iter().map(|(_, print)| print).collect();
        let deciding = (recipe.up_to(i).hash()?, prints, &key);
        key = hash_bytes(&serde_json::to_vec(&deciding)?);
        let target = if whole.last { folders.model.to_owned() } else { run.join(STAGE_MODEL) };
        if !whole.last
            && let Some(done) = finished(&run, &key)?
        {
            console.say(&format!("{}: done before, in `{}`", stage.name, run.display()));
            (model, scalars) = (Some(Model::open(&target)?), done);
            continue;
        }
        claim_run(&run, &key, other_run)?;
        let from = match model.take() {
            Some(model) => model,
            None => recipe.start_model()?,
        };
        scalars = whole.train((from, &scalars), &data, &run, &target)?;
        if !whole.last {
            let done = serde_json::json!({ "key": key, "scalars": scalars });
            fs_err::write(run.join(DONE_FILE), serde_json::to_vec_pretty(&done)?)?;
            model = Some(Model::open(&target)?);
        }
    }
    Ok(())
}

/// Says that a stage is done: its key, and its tasks' numbers.
const DONE_FILE: &str = "done.json";

/// The tasks' numbers after a stage, if it is done with this key.
fn finished(run: &Path, key: &str) -> Result<Option<Scalars>> {
    #[derive(serde::Deserialize)]
    struct Done {
        key: String,
        scalars: Scalars,
    }
    let path = run.join(DONE_FILE);
    if !path.exists() || !run.join(STAGE_MODEL).exists() {
        return Ok(None);
    }
    let done: Done = serde_json::from_slice(&fs_err::read(&path)?)
        .with_context(|| format!("`{}` is not as this build writes it", path.display()))?;
    Ok((done.key == key).then_some(done.scalars))
}

/// Makes the folder of a run, without an older run that is to be thrown away.
fn claim_run(run: &Path, key: &str, other_run: OtherRun) -> Result<()> {
    fs_err::create_dir_all(run)?;
    let key_file = run.join(RUN_KEY_FILE);
    let is_this = fs_err::read_to_string(&key_file).is_ok_and(|found| found == key);
    if !is_this && other_run == OtherRun::Restart {
        remove_run(run)?;
    }
    Ok(fs_err::write(key_file, key)?)
}

/// Removes the states and the model of a run.
pub(crate) fn remove_run(run: &Path) -> Result<()> {
    for name in ["states", "best", STAGE_MODEL] {
        let path = run.join(name);
        if path.exists() {
            fs_err::remove_dir_all(path)?;
        }
    }
    let done = run.join(DONE_FILE);
    if done.exists() {
        fs_err::remove_file(done)?;
    }
    Ok(())
}

/// The runs' folder of a stage.
pub(crate) fn run_of(recipe: &Recipe, runs: &Path, stage: &str) -> Result<PathBuf> {
    if !recipe.stages.iter().any(|known| known.name == stage) {
        let names: Vec<&str> = recipe.stages.iter().map(|stage| &*stage.name).collect();
        bail!("there is no stage `{stage}`; the recipe has {}", names.join(", "));
    }
    Ok(run_folder(recipe, runs, stage))
}

/// Of one stage the runs' folder itself, of several one in it each.
fn run_folder(recipe: &Recipe, runs: &Path, stage: &str) -> PathBuf {
    if recipe.stages.len() > 1 { runs.join(stage) } else { runs.to_owned() }
}

/// A stage within its recipe.
struct Whole<'a> {
    recipe: &'a Recipe,
    stage: &'a Stage,
    /// Whether it makes the recipe's model.
    last: bool,
    console: &'a Console,
    stop: &'a Stop,
}

impl Whole<'_> {
    /// Trains the stage and saves its model; gives the tasks' numbers.
    fn train(
        &self,
        (from, scalars): (Model, &Scalars),
        data: &StageData,
        run: &Path,
        target: &Path,
    ) -> Result<Scalars> {
        let Self { recipe, stage, console, stop, .. } = self;
        let (mut spec, mut parts) = from.into_parts();
        if let Some(size) = stage.image_size {
            resize(&mut spec, &mut parts, size)?;
        }
        let contract = spec.contract.clone();
        let (Some(text_rules), Some(image_rules)) = (&contract.text, &contract.image) else {
            bail!("the model's input contract lacks a modality")
        };
        let mut text_rules = text_rules.clone();
        if let Some(most) = stage.max_tokens.filter(|_| !text_rules.padded) {
            text_rules.max_tokens = text_rules.max_tokens.min(most);
        }
        let (Some(text), Some(image), Some(tokenizer)) =
            (parts.text.as_mut(), parts.image.as_mut(), parts.tokenizer.as_ref())
        else {
            return Err(anyhow!("training needs a text tower and an image tower"));
        };
        let of_image = stage.image_precision.unwrap_or(stage.precision);
        for parameter in text.parameters_mut().iter_mut().chain(image.parameters_mut()) {
            parameter.frozen = false;
        }
        text.set_precision(&stage.precision.into())?;
        image.set_precision(&of_image.into())?;
        let preparation = Preparation {
            tokenizer,
            text: &text_rules,
            image: image_rules,
            augment: &stage.augment,
            token_dropout: stage.token_dropout,
            patch_dropout: stage.patch_dropout_of(&image.spec())?,
        };
        let sources = data.sources(&preparation)?;
        let weighted = data.weighted(&sources);
        let measures = Measures::prepare(&recipe.measures, tokenizer, &contract)?;
        machine::reset_peak_memory();
        let mut watcher = Watcher::new(console, (&stage.name, stage.steps), &measures);
        let start = (!stage.interpolate.is_empty()).then(|| (weights(text), weights(image)));
        let config = stage.train_config_on(&weighted);
        let mut trainer = if latest_state(run)?.is_some() {
            let resumed = Trainer::resume(config, text, image, &weighted, run);
            let trainer = resumed.with_context(|| {
                format!(
                    "cannot go on with the run in `{}`; --out names another folder for a new run",
                    run.display()
                )
            })?;
            console.say(&format!("{}: goes on after step {}", stage.name, trainer.n_steps()));
            trainer
        } else {
            let mut trainer = Trainer::start(config, text, image, &weighted, run)?;
            trainer.continue_scalars(scalars);
            trainer
        };
        fs_err::write(run.join(RECIPE_FILE), recipe.to_toml()?)?;
        watcher.record(run, trainer.n_steps())?;
        if let Ended::Stopped { step } = trainer.run(&mut watcher, stop)? {
            console.say(&format!(
                "{}: stopped after step {step}, its state is saved; the same command goes on",
                stage.name
            ));
            stop.check()?;
        }
        let scalars = trainer.scalars();
        drop(trainer);
        if let Some(start) = start {
            self.choose_share(&start, (&mut *text, &mut *image), &measures)?;
        }
        text.set_precision(&Precision::F32.into())?;
        image.set_precision(&Precision::F32.into())?;
        let figures = measures.figures((&*text, &*image), false)?;
        self.tell(run, &figures, &scalars)?;
        self.save((spec, parts), (data, &figures, &scalars), target)?;
        Ok(scalars)
    }

    /// Goes the best share of the way from the start's weights to the trained ones (WiSE-FT).
    fn choose_share(
        &self,
        (text_start, image_start): &(Vec<Vec<f32>>, Vec<Vec<f32>>),
        (text, image): (&mut conjoin_model::TextTower, &mut conjoin_model::ImageTower),
        measures: &Measures,
    ) -> Result<()> {
        let (text_end, image_end) = (weights(text), weights(image));
        let mut best: Option<(f64, f32)> = None;
        for &share in &self.stage.interpolate {
            set_weights(text, &interpolate(text_start, &text_end, share));
            set_weights(image, &interpolate(image_start, &image_end, share));
            let value = measures.figures((&*text, &*image), true)?.judgement().unwrap_or(0.0);
            self.console.say(&format!("{}: at {share} of the way {value:.4}", self.stage.name));
            if best.is_none_or(|(most, _)| value > most) {
                best = Some((value, share));
            }
        }
        let share = best.map_or(1.0, |(_, share)| share);
        set_weights(text, &interpolate(text_start, &text_end, share));
        set_weights(image, &interpolate(image_start, &image_end, share));
        self.console.say(&format!("{}: keeps {share} of the way", self.stage.name));
        Ok(())
    }

    /// Writes the stage's figures and shows them.
    fn tell(&self, run: &Path, figures: &Figures, scalars: &Scalars) -> Result<()> {
        let all = serde_json::json!({ "figures": figures.values, "scalars": scalars });
        fs_err::write(run.join(FIGURES_FILE), serde_json::to_vec_pretty(&all)?)?;
        for (name, value) in &figures.values {
            self.console.say(&format!("{}: {name} {:.2} %", self.stage.name, 100.0 * value));
        }
        for (task, values) in scalars {
            if let Some(log_scale) = values.get("log_scale") {
                let temperature = (-log_scale).exp();
                self.console
                    .say(&format!("{}: temperature of {task} {temperature:.4}", self.stage.name));
            }
        }
        Ok(())
    }

    fn save(
        &self,
        (mut spec, parts): (ModelSpec, ModelParts),
        (data, figures, scalars): (&StageData, &Figures, &Scalars),
        target: &Path,
    ) -> Result<()> {
        let recipe = self.recipe;
        if let Some(scale) = scale_of_pictures(self.stage, scalars) {
            spec.log_scale = scale;
        }
        spec.card.name = "trained".to_owned();
        let mut manifest = Manifest::new("", 0);
        manifest.config_hash = recipe.hash()?;
        manifest.seed = Some(self.stage.seed.0);
        manifest.inputs.extend(data.fingerprints());
        manifest.facts = spec.facts();
        if let Some(dataset) = data.dataset() {
            let facts = pipeline::data_facts(dataset).into_iter();
            let facts = facts.map(|fact| (fact.name, fact.value.into()));
            manifest.facts.insert(DATA_FACT.to_owned(), serde_json::Value::Object(facts.collect()));
        }
        manifest.facts.insert(FIGURES_FACT.to_owned(), serde_json::to_value(&figures.values)?);
        let model = Model::from_parts(spec, parts).context("the trained model")?;
        let text = recipe.to_toml()?;
        let making =
            Making { manifest: Some(manifest.clone()), recipe: Some(text.clone()), figures: None };
        let card = card::card(&model, &making, None)?;
        model.save_with(target, manifest, &[(RECIPE_FILE, &text), (CARD_FILE, &card)])?;
        Ok(())
    }
}

/// Makes the image tower one for pictures of another size, with the same weights.
fn resize(spec: &mut ModelSpec, parts: &mut ModelParts, size: usize) -> Result<()> {
    let (Some(tower), Some(contract)) = (&parts.image, &mut spec.contract.image) else {
        bail!("the model has no image tower")
    };
    if contract.size == size {
        return Ok(());
    }
    let ImageSpec::MobileNet(old) = tower.spec() else {
        bail!(
            "`image_size` is {size}, the image tower takes {}: one with learned positions takes no other",
            contract.size
        )
    };
    contract.size = size;
    let image = ImageSpec::MobileNet(MobileNetSpec { image_size: size, ..old });
    let map = NameMap::from_parameters(tower.parameters());
    parts.image = Some(ImageTower::build(&image, contract, &map, Seed(0))?);
    spec.image = Some(image);
    Ok(())
}

/// The scale of the first task between texts and pictures.
fn scale_of_pictures(stage: &Stage, scalars: &Scalars) -> Option<f32> {
    let of_pictures = stage.tasks.iter().find(|task| task.is_text_image())?;
    scalars.get(&of_pictures.name)?.get("log_scale").copied()
}

/// The numbers of a tower.
fn weights(tower: &impl conjoin_core::Tower) -> Vec<Vec<f32>> {
    tower.parameters().iter().map(|p| p.value.to_vec()).collect()
}

fn set_weights(tower: &mut impl conjoin_core::Tower, values: &[Vec<f32>]) {
    for (parameter, value) in tower.parameters_mut().iter_mut().zip(values) {
        parameter.value.copy_from_slice(value);
    }
}
