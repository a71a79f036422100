//! What a task of the training owns besides the towers: its sources, its loss and the loss's own numbers.
//!
//! In:  a [`TaskConfig`], sources. Out: its batches; its scalars as parameters, updated by the same
//!      optimiser as the towers.
//! Not here: gradients of the towers (`grad_cache`), the steps (`trainer`).

use std::collections::BTreeMap;

use conjoin_core::{Gradients, Parameter, Seed};

use crate::{
    adamw::AdamW,
    config::{TaskConfig, TrainConfig},
    draws::{Drawn, Draws},
    error::{ConfigFault, PrefetchError, TrainError},
    losses::{LabelKind, Loss, TeacherThreshold},
    source::{BatchOf, Source, TaskBatch},
    state::{Part, PartMut},
};

/// A source of a task and how often it is drawn.
pub struct Weighted<'a, S> {
    /// The source.
    pub source: &'a S,
    /// Its weight among the sources of its task, above 0.
    pub weight: f64,
}

/// What prepares a task's batches; shared with the threads that do it.
pub(crate) struct TaskData<'a, S> {
    name: String,
    sources: Vec<&'a S>,
    draws: Draws,
}

impl<'a, S: Source> TaskData<'a, S> {
    /// `key` is the configuration's path of this task.
    pub(crate) fn new(
        (key, task): (&str, &TaskConfig),
        sources: &[Weighted<'a, S>],
        all: &TrainConfig,
        loss: &dyn Loss,
        width: usize,
    ) -> Result<Self, TrainError<S::Error>> {
        check_sources((key, task), sources, loss, width)?;
        let drawn: Vec<Drawn<'_>> = sources
            .iter()
            .map(|Weighted { source, weight }| Drawn {
                len: source.len(),
                weight: *weight,
                aspects: source.aspects(),
                streamed: source.is_streamed(),
            })
            .collect();
        let seed = all.seed.stream("sampler").stream(&task.name);
        let draws = Draws::new(&drawn, (task.batch, all.steps), task.mixing, seed)
            .map_err(|source| TrainError::Sampler { task: task.name.clone(), source })?;
        let sources = sources.iter().map(|weighted| weighted.source).collect();
        Ok(Self { name: task.name.clone(), sources, draws })
    }

    /// What the batch of a step is made of, by source; steps are asked for in order.
    pub(crate) fn draw(&self, step: u64) -> Result<Vec<(usize, S::Drawn)>, S::Error> {
        let rows = self.draws.batch(step).into_iter();
        rows.map(|(source, rows)| Ok((source, self.sources[source].draw(rows)?))).collect()
    }

    /// The batch of a step from what was drawn for it; `seed` is the run's own for inputs.
    pub(crate) fn load(
        &self,
        step: u64,
        drawn: Vec<(usize, S::Drawn)>,
        seed: Seed,
    ) -> Result<Option<BatchOf<S>>, S::Error> {
        let seed = seed.stream(&self.name).at(step);
        let mut parts = Vec::new();
        for (source, drawn) in drawn {
            parts.push(self.sources[source].load(drawn, seed.at(source as u64))?);
        }
        Ok(TaskBatch::join(parts))
    }

    pub(crate) fn fingerprint(&self) -> String {
        let prints: Vec<&str> = self.sources.iter().map(|source| source.fingerprint()).collect();
        format!("{}: {}", self.name, prints.join(" "))
    }
}

/// A batch, or why there is none.
type Whole<S> = Result<BatchOf<S>, TrainError<<S as Source>::Error>>;

/// A batch as it was prepared, if all of it fits together.
pub(crate) fn checked<S: Source>(batch: Option<BatchOf<S>>, task: &str, step: u64) -> Whole<S> {
    let ragged = |what: String| TrainError::Ragged { step, task: task.to_owned(), what };
    let unlike = "its sources differ in modality, hard negatives, ids, labels or teacher";
    let batch = batch.ok_or_else(|| ragged(unlike.to_owned()))?;
    if let (0, Some(first)) = (batch.len(), batch.rejects.first()) {
        let (n_rows, reason) = (batch.rejects.len(), first.reason.clone());
        return Err(TrainError::NothingReadable { step, n_rows, reason });
    }
    batch.check().map_err(ragged)?;
    Ok(batch)
}

/// The batches of a task that a trainer of this configuration takes in its first `n_steps` steps, for
/// those who want to look at them.
///
/// # Errors
/// When the sources do not fit the task; of a batch, when it cannot be read or does not fit together.
pub fn batches_of<'a, S: Source>(
    config: &TrainConfig,
    task: &'a TaskConfig,
    sources: &[Weighted<'a, S>],
    n_steps: u64,
) -> Result<impl Iterator<Item = Whole<S>>, TrainError<S::Error>> {
    let loss = task.loss.build();
    let data = TaskData::new((&task.name, task), sources, config, loss.as_ref(), usize::MAX)?;
    let inputs = config.seed.stream("inputs");
    Ok((0..n_steps).map(move |step| {
        let loaded = data.draw(step).and_then(|drawn| data.load(step, drawn, inputs));
        let batch = loaded.map_err(|source| PrefetchError::Failed { step, source })?;
        checked::<S>(batch, &task.name, step + 1)
    }))
}

fn check_sources<S: Source>(
    (key, task): (&str, &TaskConfig),
    sources: &[Weighted<'_, S>],
    loss: &dyn Loss,
    width: usize,
) -> Result<(), TrainError<S::Error>> {
    let mut faults = Vec::new();
    let mut need = |what: &str, found: String, fits: bool, expected: &'static str| {
        if !fits {
            let key = format!("{key}.{what}");
            faults.push(ConfigFault { key, found, expected: expected.into() });
        }
    };
    need("sources", "empty".to_owned(), !sources.is_empty(), "one or more");
    for Weighted { source, weight } in sources {
        let fits = weight.is_finite() && *weight > 0.0;
        need("sources.weight", weight.to_string(), fits, "a number above 0");
        let labels = source.labels();
        let fits = loss.needs() == LabelKind::None || loss.needs() == labels;
        let found = match loss.needs() {
            LabelKind::None => "for any data",
            LabelKind::Grades => "for data with grades",
            LabelKind::TeacherScores => "for data with a teacher's scores",
        };
        need("loss.kind", found.to_owned(), fits, "a loss that the labels of its data allow");
        let judges = source.has_teacher() || labels == LabelKind::TeacherScores;
        let fits = task.teacher.is_none() || judges;
        let expected = "a model, or data with a teacher's scores";
        need("teacher.model", "left out".to_owned(), fits, expected);
        let m = source.n_negatives();
        let fits = m >= loss.min_negatives();
        need("loss.kind", format!("for data with {m} hard negatives"), fits, "one without them");
    }
    let same =
        sources.windows(2).all(|pair| pair[0].source.n_negatives() == pair[1].source.n_negatives());
    need("sources", "of unequal numbers of hard negatives".to_owned(), same, "of one number");
    let fits = loss.min_width() <= width;
    need(
        "loss.dims",
        format!("{} of {width}", loss.min_width()),
        fits,
        "at most the towers' width",
    );
    if faults.is_empty() { Ok(()) } else { Err(crate::ConfigError { faults }.into()) }
}

/// The loss of a task with its own numbers.
pub(crate) struct TaskLoss {
    pub(crate) name: String,
    pub(crate) loss: Box<dyn Loss>,
    pub(crate) weight: f64,
    pub(crate) teacher: Option<TeacherThreshold>,
    /// The loss's scalars: without decay, frozen where they are not learned.
    pub(crate) scalars: Vec<Parameter>,
    pub(crate) gradients: Gradients,
    optimizer: AdamW,
}

impl TaskLoss {
    /// Its scalars are called `loss.NAME.SCALAR`.
    pub(crate) fn new(task: &TaskConfig, all: &TrainConfig) -> Self {
        let loss = task.loss.build();
        let scalars: Vec<Parameter> = loss
            .scalars()
            .iter()
            .map(|scalar| Parameter {
                name: format!("loss.{}.{}", task.name, scalar.name),
                shape: Vec::new(),
                value: vec![scalar.init].into(),
                decay: false,
                frozen: !scalar.learned,
            })
            .collect();
        let gradients = Gradients::zeros(&scalars);
        let optimizer = AdamW::new(all.optimizer.clone(), &scalars);
        let (name, weight, teacher) = (task.name.clone(), task.weight, task.teacher);
        Self { name, loss, weight, teacher, scalars, gradients, optimizer }
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        self.scalars.iter().map(|scalar| scalar.value[0]).collect()
    }

    pub(crate) fn named_values(&self) -> BTreeMap<String, f32> {
        let specs = self.loss.scalars();
        specs.iter().map(|spec| spec.name.to_owned()).zip(self.values()).collect()
    }

    /// Adds `dL/dscalar`.
    pub(crate) fn add_gradients(&mut self, d_scalars: &[f64]) {
        for (gradient, d) in self.gradients.iter_mut().zip(d_scalars) {
            gradient.iter_mut().for_each(|g| *g += *d as f32);
        }
    }

    /// Moves the scalars and brings them back into their ranges.
    pub(crate) fn update(&mut self, lr: f64, gradient_scale: f32) {
        self.optimizer.step(&mut self.scalars, &self.gradients, lr, gradient_scale);
        for (parameter, spec) in self.scalars.iter_mut().zip(self.loss.scalars()) {
            parameter.value[0] = parameter.value[0].clamp(spec.min, spec.max);
        }
    }

    pub(crate) fn part(&self) -> Part<'_> {
        Part { parameters: &self.scalars, optimizer: &self.optimizer, average: None }
    }

    pub(crate) fn part_mut(&mut self) -> PartMut<'_> {
        PartMut { parameters: &mut self.scalars, optimizer: &mut self.optimizer, average: None }
    }
}
