//! The training loop: every step one batch per task over two towers.
//!
//! In:  two towers, the sources of every task, a configuration, a folder for the run.
//! Out: trained towers; `train.jsonl`, TensorBoard's event files, the newest state and the best one in
//!      the folder; calls of an observer.
//! Not here: metrics (the observer's), writing model checkpoints (`conjoin-model`).
//!
//! A step: next batches → gradients of every task (`grad_cache`), summed → clip → AdamW → clamp → log. Every
//! random choice follows from (seed, step), so a resumed run equals an unbroken one bit for bit.
//! Source: Jina CLIP (Koukounas et al. 2024), §3 and figure 1: one batch per task, one update for all.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use conjoin_core::{Gradients, Parameter, Stop, Tower};

use crate::{
    adamw::{clip_factor, grad_norm},
    config::{CheckpointConfig, Keep, TrainConfig},
    error::{StateError, StateErrorKind, TrainError},
    events::EventWriter,
    grad_cache::{self, Side, Sink, StepOutcome},
    journal::{Journal, StepLog, TaskLog},
    memory::peak_memory_bytes,
    plateau::EvaluationPoint,
    prefetch::{Batches, prefetch},
    selection::check_prefixes,
    source::{BatchOf, Inputs, Reject, Source, TaskBatch},
    state::{self, Identity, Part, Progress, Snapshot, StateWriter},
    task::{TaskData, TaskLoss, Weighted, checked},
    trained::Trained,
};

/// Is told what happens during training. Every method does nothing by default.
pub trait Observer<T, I> {
    /// A step is done.
    fn on_step(&mut self, _log: &StepLog) {}

    /// Rows of a step could not be read.
    fn on_rejects(&mut self, _step: u64, _rejects: &[Reject]) {}

    /// Every `evaluate_every` steps, with the towers as they are after `step` (their running averages,
    /// where there are some). Gives what the run is judged by, higher being better.
    ///
    /// # Errors
    /// An error ends the run; the step's state is saved first.
    fn evaluate(
        &mut self,
        _step: u64,
        _text: &T,
        _image: &I,
    ) -> Result<Option<f64>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

/// An observer that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl<T, I> Observer<T, I> for NoObserver {}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done, or evaluations no longer got better.
    Done,
    /// It was asked to stop; the state of `step` is saved.
    Stopped {
        /// The number of steps done.
        step: u64,
    },
}

/// A training run: one stage.
pub struct Trainer<'a, T: Tower, I: Tower, S> {
    config: TrainConfig,
    data: Arc<Vec<TaskData<'a, S>>>,
    folder: PathBuf,
    identity: Identity,
    text: Trained<'a, T>,
    image: Trained<'a, I>,
    tasks: Vec<TaskLoss>,
    progress: Progress,
    /// The newest losses, as many as divergence is judged by.
    losses: Vec<f64>,
    /// The step of the newest state in the folder.
    saved_step: Option<u64>,
}

/// The batches of a step, one per task.
type StepBatches<S> = Vec<BatchOf<S>>;

/// The same as they are prepared: none where a task's sources do not fit each other.
type Prepared<S> = Vec<Option<BatchOf<S>>>;

impl<'a, T, I, S> Trainer<'a, T, I, S>
where
    T: Tower,
    I: Tower,
    S: Source<Text = T::Input, Image = I::Input>,
{
    /// A new run in `folder`. `sources` are those of every task, in the configuration's order.
    ///
    /// # Errors
    /// When the configuration cannot be or does not fit the towers or the sources, the towers do not fit
    /// each other, a source has no whole batch, or the folder already holds the state of a run.
    pub fn start(
        config: TrainConfig,
        text: &'a mut T,
        image: &'a mut I,
        sources: &[Vec<Weighted<'a, S>>],
        folder: &Path,
    ) -> Result<Self, TrainError<S::Error>> {
        if let Some(path) = state::latest_state(folder)? {
            return Err(StateError { path, kind: StateErrorKind::Exists }.into());
        }
        Self::new(config, text, image, sources, folder)
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
        sources: &[Vec<Weighted<'a, S>>],
        folder: &Path,
    ) -> Result<Self, TrainError<S::Error>> {
        let mut trainer = Self::new(config, text, image, sources, folder)?;
        let path = state::latest_state(folder)?
            .ok_or_else(|| StateError { path: folder.to_owned(), kind: StateErrorKind::NoState })?;
        trainer.progress = trainer.fill(&path)?;
        trainer.saved_step = Some(trainer.progress.n_steps);
        Ok(trainer)
    }

    fn new(
        config: TrainConfig,
        text: &'a mut T,
        image: &'a mut I,
        sources: &[Vec<Weighted<'a, S>>],
        folder: &Path,
    ) -> Result<Self, TrainError<S::Error>> {
        config.check()?;
        if text.width() != image.width() {
            return Err(TrainError::Width { text: text.width(), image: image.width() });
        }
        if sources.len() != config.tasks.len() {
            return Err(TrainError::Sources { found: sources.len(), expected: config.tasks.len() });
        }
        let width = text.width();
        let text = Trained::new(text, "text", &config.text, &config)?;
        let image = Trained::new(image, "image", &config.image, &config)?;
        let tasks: Vec<TaskLoss> =
            config.tasks.iter().map(|task| TaskLoss::new(task, &config)).collect();
        let mut data = Vec::with_capacity(tasks.len());
        for (i, (task, sources)) in config.tasks.iter().zip(sources).enumerate() {
            let key = format!("tasks.{i}");
            let loss = tasks[i].loss.as_ref();
            data.push(TaskData::new((&key, task), sources, &config, loss, width)?);
        }
        check_names(&config, &parts(&text, &image, &tasks))?;
        let prints: Vec<String> = data.iter().map(TaskData::fingerprint).collect();
        let frozen = [text.frozen_hash(), image.frozen_hash()];
        let identity = Identity::new(&config, &prints.join("; "), &frozen);
        Ok(Self {
            config,
            data: Arc::new(data),
            folder: folder.to_owned(),
            identity,
            text,
            image,
            tasks,
            progress: Progress::default(),
            losses: Vec::new(),
            saved_step: None,
        })
    }

    /// Takes over a state.
    fn fill(&mut self, path: &Path) -> Result<Progress, StateError> {
        let Self { identity, text, image, tasks, .. } = self;
        let mut parts = text.parts_mut();
        parts.extend(image.parts_mut());
        parts.extend(tasks.iter_mut().map(TaskLoss::part_mut));
        let progress = state::load(path, identity, &mut parts)?;
        self.text.filled();
        self.image.filled();
        Ok(progress)
    }

    /// Number of steps done.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.progress.n_steps
    }

    /// Every task's own numbers, by the task's name and theirs (`log_scale`).
    #[must_use]
    pub fn scalars(&self) -> BTreeMap<String, BTreeMap<String, f32>> {
        self.tasks.iter().map(|task| (task.name.clone(), task.named_values())).collect()
    }

    /// Sets a number of a task to where an earlier stage has left it; a name that is not there, and a
    /// number that is not learned, is left alone. For a run that has not begun.
    pub fn continue_scalars(&mut self, scalars: &BTreeMap<String, BTreeMap<String, f32>>) {
        if self.progress.n_steps > 0 {
            return;
        }
        for task in &mut self.tasks {
            let Some(values) = scalars.get(&task.name) else { continue };
            for (parameter, spec) in task.scalars.iter_mut().zip(task.loss.scalars()) {
                if let (Some(value), true) = (values.get(spec.name), spec.learned) {
                    parameter.value[0] = value.clamp(spec.min, spec.max);
                }
            }
        }
    }

    /// Trains until all steps are done, evaluations no longer get better, or `stop` is requested; saves
    /// the state either way. At the end the towers hold the weights that [`TrainConfig::keep`] asks for.
    ///
    /// # Errors
    /// See [`TrainError`]. The last saved state stays; a step that fails changes nothing.
    pub fn run(
        &mut self,
        observer: &mut impl Observer<T, I>,
        stop: &Stop,
    ) -> Result<Ended, TrainError<S::Error>> {
        fs_err::create_dir_all(&self.folder).map_err(|e| self.io_error(e))?;
        let n_steps = self.progress.n_steps;
        let journal = Journal::open(&self.folder, n_steps).map_err(|e| self.io_error(e))?;
        if self.config.divergence.is_some() {
            self.losses = journal.losses().map_err(|e| self.io_error(e))?;
        }
        let events = EventWriter::open(&self.folder, n_steps, SystemTime::now());
        let mut records = Records {
            journal,
            events: events.map_err(|e| self.io_error(e))?,
            writer: StateWriter::new(&self.folder),
            saved: Instant::now(),
        };
        let data = Arc::clone(&self.data);
        let inputs = self.config.seed.stream("inputs");
        let draw = |step| -> Result<Vec<_>, S::Error> {
            data.iter().map(|task| task.draw(step)).collect()
        };
        let prepare = |step, drawn: Vec<_>| -> Result<Vec<_>, S::Error> {
            let tasks = data.iter().zip(drawn);
            tasks.map(|(task, drawn)| task.load(step, drawn, inputs)).collect()
        };
        let (steps, ahead) = (n_steps..self.config.steps, self.config.prefetch.clone());
        let ended = prefetch(steps, &ahead, draw, prepare, |batches| {
            self.train(batches, &mut records, observer, stop)
        })?;
        if ended == Ended::Done {
            self.end()?;
        }
        Ok(ended)
    }

    fn train(
        &mut self,
        batches: &mut Batches<'_, Prepared<S>, S::Error>,
        records: &mut Records,
        observer: &mut impl Observer<T, I>,
        stop: &Stop,
    ) -> Result<Ended, TrainError<S::Error>> {
        while !stop.requested() && !self.is_done() {
            let begun = Instant::now();
            let Some(batches) = batches.next() else { break };
            let batches = self.whole(batches?)?;
            let waited = begun.elapsed();
            let measured = self.step(&batches)?;
            let log = self.log(&batches, measured, waited, begun.elapsed());
            records.write(&log).map_err(|e| self.io_error(e))?;
            for batch in batches.iter().filter(|batch| !batch.rejects.is_empty()) {
                observer.on_rejects(log.step, &batch.rejects);
            }
            drop(batches);
            observer.on_step(&log);
            self.check_divergence(log.loss)?;
            self.evaluate_when_due(records, observer)?;
            if records.is_due(&self.config.checkpoint, log.step) {
                self.save(records)?;
            }
        }
        self.save(records)?;
        records.writer.finish()?;
        let step = self.progress.n_steps;
        Ok(if self.is_done() { Ended::Done } else { Ended::Stopped { step } })
    }

    /// Whether all steps are done, or the evaluations say that more would not help.
    fn is_done(&self) -> bool {
        let early = self.config.early_stop.and_then(|early| early.stop(&self.progress.points));
        self.progress.n_steps >= self.config.steps || early.is_some()
    }

    /// Brings the weights that are kept into the towers.
    fn end(&mut self) -> Result<(), TrainError<S::Error>> {
        let best = state::best_state(&self.folder);
        if self.config.keep == Keep::Best && best.exists() {
            self.fill(&best)?;
        }
        self.text.swap_average();
        self.image.swap_average();
        Ok(())
    }

    /// The batches, each checked to be whole.
    fn whole(&self, batches: Prepared<S>) -> Result<StepBatches<S>, TrainError<S::Error>> {
        let step = self.progress.n_steps + 1;
        let tasks = self.tasks.iter().zip(batches);
        tasks.map(|(task, batch)| checked::<S>(batch, &task.name, step)).collect()
    }

    /// One step: gradients of all tasks, clip, update, clamp.
    fn step(&mut self, batches: &StepBatches<S>) -> Result<Measured, TrainError<S::Error>> {
        self.text.clear();
        self.image.clear();
        let mut tasks = Vec::with_capacity(batches.len());
        let mut loss = 0.0;
        for (i, batch) in batches.iter().enumerate() {
            let scalars = self.tasks[i].named_values();
            let outcome = self.differentiate(i, batch)?;
            self.check_finite("the loss", outcome.loss, std::slice::from_ref(batch))?;
            self.tasks[i].gradients.clear();
            self.tasks[i].add_gradients(&outcome.d_scalars);
            loss += self.tasks[i].weight * outcome.loss;
            tasks.push((outcome.loss, outcome.accuracy, scalars));
        }
        self.text.project();
        self.image.project();
        let grad_norm = self.grad_norm();
        self.check_finite("the norm of the gradients", grad_norm, batches)?;
        let lr = self.learning_rate();
        let clip = self.config.clip_norm.map_or(1.0, |max| clip_factor(grad_norm, max));
        self.text.update(lr, clip);
        self.image.update(lr, clip);
        self.tasks.iter_mut().for_each(|task| task.update(lr, clip));
        self.progress.n_steps += 1;
        Ok(Measured { loss, tasks, lr, grad_norm })
    }

    /// The rate of the step that comes next.
    fn learning_rate(&self) -> f64 {
        let Progress { n_steps, points } = &self.progress;
        let plateau = self.config.plateau.map_or(1.0, |plateau| plateau.lr_factor(points));
        self.config.schedule.lr(*n_steps, self.config.steps) * plateau
    }

    fn grad_norm(&self) -> f64 {
        let towers = self.text.all_gradients().chain(self.image.all_gradients());
        let all: Vec<&Gradients> =
            towers.chain(self.tasks.iter().map(|task| &task.gradients)).collect();
        grad_norm(&all)
    }

    fn differentiate(
        &mut self,
        task: usize,
        batch: &BatchOf<S>,
    ) -> Result<StepOutcome, TrainError<S::Error>> {
        let Self { text, image, tasks, config, progress, .. } = self;
        let task = &tasks[task];
        let same = batch.false_negatives(task.teacher);
        let (queries, documents) = (Lent::of(&batch.queries), Lent::of(&batch.documents));
        let scalars = task.values();
        let work = grad_cache::Task {
            queries: queries.side(),
            documents: documents.side(),
            false_negatives: &same,
            labels: batch.labels.lent(),
            loss: task.loss.as_ref(),
            scalars: &scalars,
            weight: task.weight,
        };
        let mut text = Sink {
            tower: &*text.tower,
            chunking: config.chunks.text,
            gradients: &mut text.gradients,
        };
        let mut image = Sink {
            tower: &*image.tower,
            chunking: config.chunks.image,
            gradients: &mut image.gradients,
        };
        grad_cache::step(&mut text, &mut image, &work).map_err(|source| TrainError::Step {
            step: progress.n_steps + 1,
            items: batch.items.clone(),
            source,
        })
    }

    fn check_finite(
        &self,
        what: &'static str,
        found: f64,
        batches: &[BatchOf<S>],
    ) -> Result<(), TrainError<S::Error>> {
        if found.is_finite() {
            return Ok(());
        }
        let step = self.progress.n_steps + 1;
        let items = batches.iter().flat_map(|batch| batch.items.clone()).collect();
        Err(TrainError::NotFinite { step, what, found, items })
    }

    fn check_divergence(&mut self, loss: f64) -> Result<(), TrainError<S::Error>> {
        let Some(rule) = self.config.divergence else { return Ok(()) };
        self.losses.push(loss);
        let old = self.losses.len().saturating_sub(rule.n_losses());
        self.losses.drain(..old);
        match rule.divergence(&self.losses) {
            None => Ok(()),
            Some(found) => {
                let (step, median, lowest) = (self.progress.n_steps, found.median, found.lowest);
                Err(TrainError::Diverged { step, median, lowest, steps: rule.steps })
            }
        }
    }

    fn log(
        &self,
        batches: &StepBatches<S>,
        measured: Measured,
        waited: Duration,
        taken: Duration,
    ) -> StepLog {
        let Measured { loss, tasks, lr, grad_norm } = measured;
        let pairs = batches.iter().map(TaskBatch::len).sum();
        let rejected = batches.iter().map(|batch| batch.rejects.len()).sum();
        let of_task =
            |((task, batch), (loss, accuracy, scalars)): ((&TaskLoss, &TaskBatch<_, _>), _)| {
                let (pairs, rejected) = (batch.len(), batch.rejects.len());
                (task.name.clone(), TaskLog { loss, accuracy, scalars, pairs, rejected })
            };
        let seconds = taken.as_secs_f64().max(1e-9);
        StepLog {
            step: self.progress.n_steps,
            loss,
            lr,
            grad_norm,
            tasks: self.tasks.iter().zip(batches).zip(tasks).map(of_task).collect(),
            pairs,
            rejected,
            pairs_per_second: pairs as f64 / seconds,
            seconds,
            wait_share: waited.as_secs_f64() / seconds,
            peak_memory_bytes: peak_memory_bytes(),
        }
    }

    fn evaluate_when_due(
        &mut self,
        records: &mut Records,
        observer: &mut impl Observer<T, I>,
    ) -> Result<(), TrainError<S::Error>> {
        let step = self.progress.n_steps;
        if !self.config.evaluate_every.is_some_and(|every| step.is_multiple_of(every)) {
            return Ok(());
        }
        self.text.swap_average();
        self.image.swap_average();
        let evaluated = observer.evaluate(step, self.text.tower, self.image.tower);
        self.text.swap_average();
        self.image.swap_average();
        match evaluated {
            Ok(None) => {}
            Ok(Some(metric)) => {
                let best = self.progress.points.iter().all(|before| before.metric < metric);
                self.progress.points.push(EvaluationPoint { step, metric });
                if best && self.config.keep == Keep::Best {
                    self.snapshot().write_best(&self.folder)?;
                }
                records.event(step, &[("evaluation", metric)]).map_err(|e| self.io_error(e))?;
            }
            Err(source) => {
                self.save(records)?;
                records.writer.finish()?;
                return Err(TrainError::Observer { step, source });
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        let parts = parts(&self.text, &self.image, &self.tasks);
        Snapshot::take(&self.progress, self.config.seed.0, &self.identity, &parts)
    }

    fn save(&mut self, records: &mut Records) -> Result<(), StateError> {
        let n_steps = self.progress.n_steps;
        if self.saved_step == Some(n_steps) {
            return Ok(());
        }
        records.writer.begin(|| self.snapshot())?;
        records.saved = Instant::now();
        self.saved_step = Some(n_steps);
        Ok(())
    }

    fn io_error(&self, error: std::io::Error) -> StateError {
        StateError { path: self.folder.clone(), kind: error.into() }
    }
}

/// All that a state holds, in an order that never changes.
fn parts<'p, T: Tower, I: Tower>(
    text: &'p Trained<'_, T>,
    image: &'p Trained<'_, I>,
    tasks: &'p [TaskLoss],
) -> Vec<Part<'p>> {
    let mut parts = text.parts();
    parts.extend(image.parts());
    parts.extend(tasks.iter().map(TaskLoss::part));
    parts
}

/// References to the inputs of a side.
enum Lent<'a, T, I> {
    Texts(Vec<&'a T>),
    Images(Vec<&'a I>),
}

impl<'a, T, I> Lent<'a, T, I> {
    fn of(inputs: &'a Inputs<T, I>) -> Self {
        match inputs {
            Inputs::Texts(texts) => Self::Texts(texts.iter().collect()),
            Inputs::Images(images) => Self::Images(images.iter().collect()),
        }
    }

    fn side<Text: Tower<Input = T>, Image: Tower<Input = I>>(&'a self) -> Side<'a, Text, Image> {
        match self {
            Self::Texts(texts) => Side::Texts(texts),
            Self::Images(images) => Side::Images(images),
        }
    }
}

/// Every name is there once, and every prefix of the configuration fits one.
fn check_names<E: std::error::Error>(
    config: &TrainConfig,
    parts: &[Part<'_>],
) -> Result<(), TrainError<E>> {
    let lists: Vec<&[Parameter]> = parts.iter().map(|part| part.parameters).collect();
    let mut names = BTreeSet::new();
    for parameter in lists.iter().flat_map(|list| list.iter()) {
        if !names.insert(parameter.name.as_str()) {
            return Err(TrainError::RepeatedName { name: parameter.name.clone() });
        }
    }
    let multipliers = &config.optimizer.lr_multipliers;
    Ok(check_prefixes("optimizer.lr_multipliers", multipliers, &lists)?)
}

/// What a step measured: per task the loss, the accuracy, and its numbers before the update.
struct Measured {
    loss: f64,
    tasks: Vec<(f64, f64, BTreeMap<String, f32>)>,
    lr: f64,
    grad_norm: f64,
}

/// What a run writes.
struct Records {
    journal: Journal,
    events: EventWriter,
    writer: StateWriter,
    /// When the last state was begun.
    saved: Instant,
}

impl Records {
    fn write(&mut self, log: &StepLog) -> std::io::Result<()> {
        self.journal.write(log)?;
        let mut scalars = vec![
            ("loss".to_owned(), log.loss),
            ("lr".to_owned(), log.lr),
            ("grad_norm".to_owned(), log.grad_norm),
            ("pairs_per_second".to_owned(), log.pairs_per_second),
        ];
        let memory = log.peak_memory_bytes.map(|bytes| bytes as f64);
        scalars.extend(memory.map(|bytes| ("peak_memory_bytes".to_owned(), bytes)));
        for (name, task) in &log.tasks {
            scalars.push((format!("{name}/loss"), task.loss));
            scalars.push((format!("{name}/accuracy"), task.accuracy));
            let own = task
                .scalars
                .iter()
                .map(|(key, value)| (format!("{name}/{key}"), f64::from(*value)));
            scalars.extend(own);
        }
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(tag, x)| (tag.as_str(), *x)).collect();
        self.event(log.step, &scalars)
    }

    fn event(&mut self, step: u64, scalars: &[(&str, f64)]) -> std::io::Result<()> {
        let scalars: Vec<(&str, f32)> = scalars.iter().map(|(tag, x)| (*tag, *x as f32)).collect();
        self.events.write(step, SystemTime::now(), &scalars)
    }

    fn is_due(&self, config: &CheckpointConfig, n_steps: u64) -> bool {
        let by_steps = config.every_steps.is_some_and(|every| n_steps.is_multiple_of(every));
        let by_time = config.every_seconds.is_some_and(|s| self.saved.elapsed().as_secs() >= s);
        by_steps || by_time
    }
}

#[cfg(test)]
mod tests;
