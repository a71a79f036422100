//! Contrastive training of towers that meet only at their embeddings.
//!
//! In:  towers ([`conjoin_core::Tower`]), sources of pairs per task, a [`TrainConfig`].
//! Out: trained parameters in the towers, `train.jsonl`, training states that resume exactly.
//! Not here: the towers themselves (`conjoin-model`), reading data (`conjoin-data`), metrics
//!      (`conjoin-eval`); evaluation during training is a callback.

mod adamw;
mod average;
mod config;
mod divergence;
mod draws;
mod error;
mod events;
mod grad_cache;
mod journal;
mod kernels;
mod lora;
mod losses;
mod matmul;
mod memory;
mod plateau;
mod prefetch;
mod sampler;
mod schedule;
mod selection;
mod source;
mod state;
mod task;
#[cfg(test)]
mod testing;
mod trained;
mod trainer;

pub use adamw::{AdamW, AdamWConfig, clip_factor, grad_norm};
pub use average::{Average, AverageConfig, AverageTensor, WarmUp, interpolate};
pub use config::{
    CheckpointConfig, ChunkConfig, Chunking, Keep, LossConfig, PrefetchConfig, ScalarConfig,
    TaskConfig, TrainConfig,
};
pub use divergence::{Divergence, DivergenceConfig};
pub use draws::Mixing;
pub use error::{
    ConfigError, ConfigFault, PrefetchError, SamplerError, StateError, StateErrorKind, StepError,
    TrainError,
};
pub use events::EventWriter;
pub use grad_cache::{Embedded, Side, Sink, StepOutcome, Task, embed_chunks, step};
pub use journal::{JOURNAL_FILE, StepLog, TaskLog};
pub use lora::{Lora, LoraConfig, LoraTarget};
pub use losses::{
    Aspect, Batch, CoSent, Cosine, FalseNegatives, InfoNce, Joint, KlDistillation, LabelKind,
    Labels, Loss, LossScalar, MarginMse, Matryoshka, MatryoshkaDim, Negatives, Outcome, Reduction,
    Sigmoid, TeacherThreshold, TeacherVectors, Temperatures, WeightedInfoNce,
};
pub use memory::{peak_memory_bytes, reset_peak_memory};
pub use plateau::{EarlyStop, EarlyStopConfig, EvaluationPoint, PlateauConfig};
pub use prefetch::{Batches, prefetch};
pub use sampler::{Sampler, SamplerConfig};
pub use schedule::{Decay, ScheduleConfig};
pub use selection::{LrMultiplier, Selection, SelectionConfig, check_prefixes, prefix_multipliers};
pub use source::{BatchOf, Ids, Inputs, OwnedLabels, Reject, Rows, Source, TaskBatch};
pub use state::{STATE_FORMAT, STATE_VERSION, latest_state};
pub use task::{Weighted, batches_of};
pub use trained::TowerConfig;
pub use trainer::{Ended, NoObserver, Observer, Trainer};
