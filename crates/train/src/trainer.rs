//! The training loop: text–image pairs over two towers.
//!
//! In:  two towers, a source of pairs, a configuration, a folder for the run.
//! Out: trained towers; `train.jsonl` and the newest state in the folder; calls of an observer.
//! Not here: metrics (the observer's), writing model checkpoints (`conjoin-model`).
//!
//! A step: next batch → gradients (`grad_cache`) → clip → AdamW → clamp → log. Every random choice
//! follows from (seed, step), so a resumed run equals an unbroken one bit for bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use conjoin_core::{Gradients, Parameter, Seed, Stop, Tower};

use crate::{
    adamw::{AdamW, clip_factor, grad_norm},
    config::{CheckpointConfig, Chunking, PrefetchConfig, TrainConfig},
    error::{ConfigError, ConfigFault, StateError, StateErrorKind, TrainError},
    grad_cache::{self, Side, StepOutcome},
    journal::{Journal, StepLog},
    losses::FalseNegatives,
    prefetch::{Batches, prefetch},
    sampler::{Sampler, SamplerConfig},
    state::{self, Identity, Part, PartMut, Snapshot, StateWriter},
    task::Task,
};

/// Text–image pairs that can be read in any order, by several threads at once.
pub trait PairSource: Sync {
    /// A prepared text.
    type Text: Send;
    /// A prepared image.
    type Image: Send;
    /// Why nothing could be read at all.
    type Error: std::error::Error + Send + 'static;

    /// Number of pairs.
    fn len(&self) -> usize;

    /// Whether there is no pair.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Identifies the data and their preparation; a run resumes only on equal ones.
    fn fingerprint(&self) -> &str;

    /// Ids of all pairs by aspect (text, image, group), `[len]` each: pairs with an equal id are
    /// kept out of each other's batch where that can be avoided. None by default.
    fn aspects(&self) -> Vec<&[u64]> {
        Vec::new()
    }

    /// Reads pairs; `seed` is the step's own, for augmentation.
    ///
    /// # Errors
    /// When nothing can be read. A single bad pair is a [`Reject`], never an error.
    fn load(
        &self,
        rows: &[usize],
        seed: Seed,
    ) -> Result<PairBatch<Self::Text, Self::Image>, Self::Error>;
}

/// Pairs read for a step.
#[derive(Debug, Clone)]
pub struct PairBatch<T, I> {
    /// The pairs' names, for messages, `[b]`.
    pub items: Vec<String>,
    /// The texts, `[b]`.
    pub texts: Vec<T>,
    /// The images, `[b]`.
    pub images: Vec<I>,
    /// Equal for equal texts, `[b]`, or empty.
    pub text_ids: Vec<u64>,
    /// Equal for equal images, `[b]`, or empty.
    pub image_ids: Vec<u64>,
    /// Equal for pairs that show the same thing, `[b]`, or empty.
    pub group_ids: Vec<u64>,
    /// The pairs that could not be read.
    pub rejects: Vec<Reject>,
}

/// A pair that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The pair's name.
    pub item: String,
    /// Why.
    pub reason: String,
}

/// Is told what happens during training. Every method does nothing by default.
pub trait Observer<T, I> {
    /// A step is done.
    fn on_step(&mut self, _log: &StepLog) {}

    /// Pairs of a step could not be read.
    fn on_rejects(&mut self, _step: u64, _rejects: &[Reject]) {}

    /// Every `evaluate_every` steps, with the towers as they are after `step`.
    ///
    /// # Errors
    /// An error ends the run; the step's state is saved first.
    fn evaluate(
        &mut self,
        _step: u64,
        _text: &T,
        _image: &I,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

/// An observer that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl<T, I> Observer<T, I> for NoObserver {}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Done,
    /// It was asked to stop; the state of `step` is saved.
    Stopped {
        /// The number of steps done.
        step: u64,
    },
}

/// A training run.
pub struct Trainer<'a, T: Tower, I: Tower, S> {
    config: TrainConfig,
    source: &'a S,
    sampler: Arc<Sampler>,
    folder: PathBuf,
    identity: Identity,
    text: Trained<'a, T>,
    image: Trained<'a, I>,
    task: Task,
    n_steps: u64,
    /// The step of the newest state in the folder.
    saved_step: Option<u64>,
}

/// A tower with what its training needs.
struct Trained<'a, T: Tower> {
    tower: &'a mut T,
    gradients: Gradients,
    optimizer: AdamW,
}

impl<'a, T: Tower> Trained<'a, T> {
    fn new(tower: &'a mut T, config: &TrainConfig) -> Self {
        let gradients = Gradients::zeros(tower.parameters());
        let optimizer = AdamW::new(config.optimizer.clone(), tower.parameters());
        Self { tower, gradients, optimizer }
    }

    fn update(&mut self, lr: f64, gradient_scale: f32) {
        self.optimizer.step(self.tower.parameters_mut(), &self.gradients, lr, gradient_scale);
    }

    fn side<'s>(&'s mut self, inputs: &'s [&'s T::Input], chunking: Chunking) -> Side<'s, T> {
        Side { tower: self.tower, inputs, chunking, gradients: &mut self.gradients }
    }

    fn part(&self) -> Part<'_> {
        Part { parameters: self.tower.parameters(), optimizer: &self.optimizer }
    }

    fn part_mut(&mut self) -> PartMut<'_> {
        PartMut { parameters: self.tower.parameters_mut(), optimizer: &mut self.optimizer }
    }
}

impl<'a, T, I, S> Trainer<'a, T, I, S>
where
    T: Tower,
    I: Tower,
    S: PairSource<Text = T::Input, Image = I::Input>,
{
    /// A new run in `folder`.
    ///
    /// # Errors
    /// When the configuration cannot be or does not fit the towers, the towers do not fit each
    /// other, the data has no whole batch, or the folder already holds the state of a run.
    pub fn start(
        config: TrainConfig,
        text: &'a mut T,
        image: &'a mut I,
        source: &'a S,
        folder: &Path,
    ) -> Result<Self, TrainError<S::Error>> {
        if let Some(path) = state::latest_state(folder)? {
            return Err(StateError { path, kind: StateErrorKind::Exists }.into());
        }
        Self::new(config, text, image, source, folder)
    }

    /// Goes on with the newest state in `folder`.
    ///
    /// # Errors
    /// As [`Trainer::start`]; when there is no state, or it is not one of this configuration, these
    /// towers and this data.
    pub fn resume(
        config: TrainConfig,
        text: &'a mut T,
        image: &'a mut I,
        source: &'a S,
        folder: &Path,
    ) -> Result<Self, TrainError<S::Error>> {
        let mut trainer = Self::new(config, text, image, source, folder)?;
        let path = state::latest_state(folder)?
            .ok_or_else(|| StateError { path: folder.to_owned(), kind: StateErrorKind::NoState })?;
        let Self { identity, text, image, task, .. } = &mut trainer;
        let task = PartMut { parameters: &mut task.scalars, optimizer: &mut task.optimizer };
        let parts = &mut [text.part_mut(), image.part_mut(), task];
        trainer.n_steps = state::load(&path, identity, parts)?;
        trainer.saved_step = Some(trainer.n_steps);
        Ok(trainer)
    }

    fn new(
        config: TrainConfig,
        text: &'a mut T,
        image: &'a mut I,
        source: &'a S,
        folder: &Path,
    ) -> Result<Self, TrainError<S::Error>> {
        config.check()?;
        if text.width() != image.width() {
            return Err(TrainError::Width { text: text.width(), image: image.width() });
        }
        let batches = SamplerConfig { batch: config.batch, drop_last: true };
        let seed = config.seed.stream("sampler");
        let sampler = Arc::new(Sampler::new(source.len(), batches, seed, &source.aspects())?);
        let task = Task::new("text_image", config.loss.build(), &config.optimizer);
        let parameters = [text.parameters(), image.parameters(), &task.scalars];
        check_names(&config, &parameters)?;
        let identity = Identity::new(&config, source.fingerprint(), &parameters);
        let (text, image) = (Trained::new(text, &config), Trained::new(image, &config));
        let folder = folder.to_owned();
        Ok(Self {
            config,
            source,
            sampler,
            folder,
            identity,
            text,
            image,
            task,
            n_steps: 0,
            saved_step: None,
        })
    }

    /// Number of steps done.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The loss's own numbers, by name (`log_scale`).
    #[must_use]
    pub fn scalars(&self) -> BTreeMap<String, f32> {
        self.task.named_values()
    }

    /// Trains until all steps are done or `stop` is requested; saves the state either way.
    ///
    /// # Errors
    /// See [`TrainError`]. The last saved state stays; a step that fails changes nothing.
    pub fn run(
        &mut self,
        observer: &mut impl Observer<T, I>,
        stop: &Stop,
    ) -> Result<Ended, TrainError<S::Error>> {
        fs_err::create_dir_all(&self.folder).map_err(|e| self.io_error(e))?;
        let mut records = Records {
            journal: Journal::open(&self.folder, self.n_steps).map_err(|e| self.io_error(e))?,
            writer: StateWriter::new(&self.folder),
            saved: Instant::now(),
        };
        let (source, sampler) = (self.source, Arc::clone(&self.sampler));
        let inputs = self.config.seed.stream("inputs");
        let prepare = |step| source.load(&sampler.batch(step), inputs.at(step));
        let PrefetchConfig { threads, ahead } = self.config.prefetch;
        prefetch(self.n_steps..self.config.steps, threads, ahead, prepare, |batches| {
            self.train(batches, &mut records, observer, stop)
        })
    }

    fn train(
        &mut self,
        batches: &mut Batches<'_, PairBatch<S::Text, S::Image>, S::Error>,
        records: &mut Records,
        observer: &mut impl Observer<T, I>,
        stop: &Stop,
    ) -> Result<Ended, TrainError<S::Error>> {
        while !stop.requested() {
            let begun = Instant::now();
            let Some(batch) = batches.next() else { break };
            let (batch, waited) = (batch?, begun.elapsed());
            let measured = self.step(&batch)?;
            let log = self.log(&batch, measured, waited, begun.elapsed());
            records.journal.write(&log).map_err(|e| self.io_error(e))?;
            if !batch.rejects.is_empty() {
                observer.on_rejects(self.n_steps, &batch.rejects);
            }
            observer.on_step(&log);
            self.evaluate_when_due(records, observer)?;
            if records.is_due(&self.config.checkpoint, self.n_steps) {
                self.save(records)?;
            }
        }
        self.save(records)?;
        records.writer.finish()?;
        let done = self.n_steps >= self.config.steps;
        Ok(if done { Ended::Done } else { Ended::Stopped { step: self.n_steps } })
    }

    /// One step: gradients, clip, update, clamp.
    fn step(
        &mut self,
        batch: &PairBatch<S::Text, S::Image>,
    ) -> Result<Measured, TrainError<S::Error>> {
        self.check_batch(batch)?;
        let StepOutcome { loss, accuracy, d_scalars } = self.differentiate(batch)?;
        self.check_finite("the loss", loss, batch)?;
        self.task.add_gradients(&d_scalars);
        let gradients = [&self.text.gradients, &self.image.gradients, &self.task.gradients];
        let grad_norm = grad_norm(&gradients);
        self.check_finite("the norm of the gradients", grad_norm, batch)?;
        let lr = self.config.schedule.lr(self.n_steps, self.config.steps);
        let scalars = self.task.named_values();
        let clip = self.config.clip_norm.map_or(1.0, |max| clip_factor(grad_norm, max));
        self.text.update(lr, clip);
        self.image.update(lr, clip);
        self.task.update(lr, clip);
        self.n_steps += 1;
        Ok(Measured { loss, accuracy, lr, scalars, grad_norm })
    }

    fn differentiate(
        &mut self,
        batch: &PairBatch<S::Text, S::Image>,
    ) -> Result<StepOutcome, TrainError<S::Error>> {
        let Self { text, image, task, config, .. } = self;
        text.gradients.clear();
        image.gradients.clear();
        task.gradients.clear();
        let texts: Vec<&S::Text> = batch.texts.iter().collect();
        let images: Vec<&S::Image> = batch.images.iter().collect();
        let same = FalseNegatives::by_ids(&[&batch.text_ids, &batch.image_ids, &batch.group_ids]);
        let queries = text.side(&texts, config.chunks.text);
        let documents = image.side(&images, config.chunks.image);
        grad_cache::step(queries, documents, &same, task.loss.as_ref(), &task.values()).map_err(
            |source| TrainError::Step {
                step: self.n_steps + 1,
                items: batch.items.clone(),
                source,
            },
        )
    }

    fn check_batch(
        &self,
        batch: &PairBatch<S::Text, S::Image>,
    ) -> Result<(), TrainError<S::Error>> {
        let (step, b) = (self.n_steps + 1, batch.items.len());
        if let (0, Some(first)) = (b, batch.rejects.first()) {
            let (n_rows, reason) = (batch.rejects.len(), first.reason.clone());
            return Err(TrainError::NothingReadable { step, n_rows, reason });
        }
        let (texts, images) = (batch.texts.len(), batch.images.len());
        let ids = [batch.text_ids.len(), batch.image_ids.len(), batch.group_ids.len()];
        let ids_fit = ids.iter().all(|n| *n == 0 || *n == b);
        if b == 0 || texts != b || images != b || !ids_fit {
            return Err(TrainError::Ragged { step, items: b, texts, images, ids });
        }
        Ok(())
    }

    fn check_finite(
        &self,
        what: &'static str,
        found: f64,
        batch: &PairBatch<S::Text, S::Image>,
    ) -> Result<(), TrainError<S::Error>> {
        if found.is_finite() {
            return Ok(());
        }
        let (step, items) = (self.n_steps + 1, batch.items.clone());
        Err(TrainError::NotFinite { step, what, found, items })
    }

    fn log(
        &self,
        batch: &PairBatch<S::Text, S::Image>,
        measured: Measured,
        waited: Duration,
        taken: Duration,
    ) -> StepLog {
        let Measured { loss, accuracy, lr, scalars, grad_norm } = measured;
        let (pairs, rejected) = (batch.items.len(), batch.rejects.len());
        let seconds = taken.as_secs_f64().max(1e-9);
        let pairs_per_second = pairs as f64 / seconds;
        StepLog {
            step: self.n_steps,
            loss,
            accuracy,
            lr,
            scalars,
            grad_norm,
            pairs,
            rejected,
            pairs_per_second,
            seconds,
            wait_share: waited.as_secs_f64() / seconds,
        }
    }

    fn evaluate_when_due(
        &mut self,
        records: &mut Records,
        observer: &mut impl Observer<T, I>,
    ) -> Result<(), TrainError<S::Error>> {
        let step = self.n_steps;
        if !self.config.evaluate_every.is_some_and(|every| step.is_multiple_of(every)) {
            return Ok(());
        }
        let evaluated = observer.evaluate(step, self.text.tower, self.image.tower);
        if let Err(source) = evaluated {
            self.save(records)?;
            records.writer.finish()?;
            return Err(TrainError::Observer { step, source });
        }
        Ok(())
    }

    fn save(&mut self, records: &mut Records) -> Result<(), StateError> {
        if self.saved_step == Some(self.n_steps) {
            return Ok(());
        }
        let task = Part { parameters: &self.task.scalars, optimizer: &self.task.optimizer };
        let parts = [self.text.part(), self.image.part(), task];
        let seed = self.config.seed.0;
        records.writer.begin(|| Snapshot::take(self.n_steps, seed, &self.identity, &parts))?;
        records.saved = Instant::now();
        self.saved_step = Some(self.n_steps);
        Ok(())
    }

    fn io_error(&self, error: std::io::Error) -> StateError {
        StateError { path: self.folder.clone(), kind: error.into() }
    }
}

/// Every name is there once, and every prefix of the configuration fits one.
fn check_names<E: std::error::Error>(
    config: &TrainConfig,
    parameters: &[&[Parameter]],
) -> Result<(), TrainError<E>> {
    let mut names = BTreeSet::new();
    for parameter in parameters.iter().flat_map(|list| list.iter()) {
        if !names.insert(parameter.name.as_str()) {
            return Err(TrainError::RepeatedName { name: parameter.name.clone() });
        }
    }
    let multipliers = config.optimizer.lr_multipliers.iter().enumerate();
    let unused = multipliers.filter(|(_, m)| !names.iter().any(|n| n.starts_with(&m.prefix)));
    let faults: Vec<ConfigFault> = unused
        .map(|(i, multiplier)| ConfigFault {
            key: format!("optimizer.lr_multipliers.{i}.prefix"),
            found: format!("`{}`", multiplier.prefix),
            expected: "the start of a parameter's name",
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(ConfigError { faults }.into()) }
}

/// What a step measured.
struct Measured {
    loss: f64,
    accuracy: f64,
    lr: f64,
    scalars: BTreeMap<String, f32>,
    grad_norm: f64,
}

/// What a run writes.
struct Records {
    journal: Journal,
    writer: StateWriter,
    /// When the last state was begun.
    saved: Instant,
}

impl Records {
    fn is_due(&self, config: &CheckpointConfig, n_steps: u64) -> bool {
        let by_steps = config.every_steps.is_some_and(|every| n_steps.is_multiple_of(every));
        let by_time = config.every_seconds.is_some_and(|s| self.saved.elapsed().as_secs() >= s);
        by_steps || by_time
    }
}

#[cfg(test)]
mod tests;
