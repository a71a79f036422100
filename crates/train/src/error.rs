//! Everything that can go wrong in training.

use std::{borrow::Cow, path::PathBuf};

use conjoin_core::{ArtifactError, TowerError};

/// A tower refused an input of a step.
#[derive(Debug, thiserror::Error)]
#[error("cannot embed the chunk that starts at row {first} of the batch")]
pub struct StepError {
    /// The chunk's first row in the batch.
    pub first: usize,
    /// The tower's reason; its index counts from `first`.
    #[source]
    pub source: TowerError,
}

/// All faults of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(faults))]
pub struct ConfigError {
    /// The faults, in the order of the settings.
    pub faults: Vec<ConfigFault>,
}

/// One setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {found}, it must be {expected}")]
pub struct ConfigFault {
    /// The setting's path (`optimizer.eps`).
    pub key: String,
    /// Its value.
    pub found: String,
    /// What it may be.
    pub expected: Cow<'static, str>,
}

fn list(faults: &[ConfigFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why batches cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// Not one whole batch.
    #[error("a batch takes {batch} pairs, the data has {found}")]
    TooFew {
        /// The pairs there are.
        found: usize,
        /// The pairs of a batch.
        batch: usize,
    },
    /// Ids do not fit the pairs.
    #[error("aspect {aspect} has {found} ids for {expected} pairs")]
    Ids {
        /// Which list of ids.
        aspect: usize,
        /// Its length.
        found: usize,
        /// The number of pairs.
        expected: usize,
    },
}

/// Why a batch could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefetchError<E: std::error::Error + 'static> {
    /// The preparation failed.
    #[error("cannot prepare the batch of step {step}")]
    Failed {
        /// The step.
        step: u64,
        /// The reason.
        #[source]
        source: E,
    },
    /// The preparation panicked: a fault of the program, not of the input.
    #[error("preparing the batch of step {step} panicked: {message}")]
    Panicked {
        /// The step.
        step: u64,
        /// The panic's message.
        message: String,
    },
}

/// Why a training state could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the training state `{}`", path.display())]
pub struct StateError {
    /// The state's folder, or the run's.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: StateErrorKind,
}

/// What is wrong with a training state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateErrorKind {
    /// A file could not be read or written; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The folder is not a whole artefact.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The tensors' file cannot be read.
    #[error("`{file}` is no tensor file: {reason}")]
    Tensors {
        /// The file.
        file: &'static str,
        /// What the reader says.
        reason: String,
    },
    /// The facts' file cannot be read.
    #[error("`{file}` is not as this build writes it")]
    Facts {
        /// The file.
        file: &'static str,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A tensor the model has is not in the state.
    #[error("tensor `{name}` is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor the model does not have is in the state.
    #[error("the state has {found} tensors, this model and configuration have {expected}")]
    Foreign {
        /// Tensors in the state.
        found: usize,
        /// Tensors of the model, its moments included.
        expected: usize,
    },
    /// A tensor has another shape or type.
    #[error("tensor `{name}` is {found}, the model has {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Type and shape found.
        found: String,
        /// Type and shape expected.
        expected: String,
    },
    /// A setting is not the one the state was made with.
    #[error("`{key}` was {state} when the run began and is {configured} now")]
    Setting {
        /// The setting's path.
        key: String,
        /// Its value in the state.
        state: String,
        /// Its value now.
        configured: String,
    },
    /// The data are not those of the run.
    #[error("the run read the data {state}, this is {given}")]
    Data {
        /// Fingerprint in the state.
        state: String,
        /// Fingerprint now.
        given: String,
    },
    /// The frozen parameters are not those of the run.
    #[error("the frozen parameters are not those the run began with")]
    Frozen,
    /// The folder already holds a run.
    #[error("the folder already holds a run; resume it or choose another folder")]
    Exists,
    /// There is nothing to go on with.
    #[error("there is no training state to resume")]
    NoState,
    /// The writing thread panicked.
    #[error("writing the state panicked")]
    Panicked,
}

/// Why training ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError<E: std::error::Error + 'static> {
    /// The configuration cannot be.
    #[error("bad training configuration")]
    Config(#[from] ConfigError),
    /// The towers' embeddings cannot be compared.
    #[error("the text tower gives {text} dimensions, the image tower {image}")]
    Width {
        /// Width of the text tower.
        text: usize,
        /// Width of the image tower.
        image: usize,
    },
    /// Two parameters have one name, so that a state could not tell them apart.
    #[error("two parameters are called `{name}`")]
    RepeatedName {
        /// The name.
        name: String,
    },
    /// Batches cannot be drawn.
    #[error("cannot draw the batches of task `{task}`")]
    Sampler {
        /// The task.
        task: String,
        /// The reason.
        #[source]
        source: SamplerError,
    },
    /// There are not the sources of every task.
    #[error("there are sources for {found} tasks, the configuration has {expected}")]
    Sources {
        /// Lists of sources.
        found: usize,
        /// Tasks.
        expected: usize,
    },
    /// The loss runs away.
    #[error(
        "step {step}: the loss diverged: {lowest} or more in each of the last {steps} steps, {median} before; \
         lower the learning rate, or go on from the last saved state with other settings"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The median of the losses before.
        median: f64,
        /// The lowest of the newest losses.
        lowest: f64,
        /// How many are the newest.
        steps: usize,
    },
    /// A batch could not be prepared.
    #[error(transparent)]
    Prefetch(#[from] PrefetchError<E>),
    /// No pair of a batch could be read.
    #[error("step {step}: none of the {n_rows} pairs could be read, the first because {reason}")]
    NothingReadable {
        /// The step.
        step: u64,
        /// How many pairs were asked for.
        n_rows: usize,
        /// Why the first was rejected.
        reason: String,
    },
    /// A source gave a batch whose parts do not fit together.
    #[error("step {step}: the batch of task `{task}` does not fit together: {what}")]
    Ragged {
        /// The step.
        step: u64,
        /// The task.
        task: String,
        /// What was found.
        what: String,
    },
    /// A tower refused an input.
    #[error("step {step} failed; the batch is {}", items.join(", "))]
    Step {
        /// The step.
        step: u64,
        /// The items of the batch.
        items: Vec<String>,
        /// The reason.
        #[source]
        source: StepError,
    },
    /// The loss or a gradient is not a finite number.
    #[error("step {step}: {what} is {found}; the batch is {}", items.join(", "))]
    NotFinite {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// The value.
        found: f64,
        /// The items of the batch.
        items: Vec<String>,
    },
    /// The state could not be written or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The callback failed.
    #[error("step {step}: the observer failed")]
    Observer {
        /// The step.
        step: u64,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
