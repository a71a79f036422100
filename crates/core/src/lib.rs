//! The words every crate shares.
//!
//! In:  nothing; this crate depends on no other of ours.
//! Out: [`Modality`], [`Embeddings`], [`Parameter`], [`Manifest`] and the atomic artefact folder,
//!      [`Seed`], [`Progress`] and [`Stop`], [`max_sim`], and the traits [`Tower`], [`Embedder`],
//!      [`Reranker`] and [`Store`].
//! Not here: any computation but that of one similarity, any file format but the manifest's.

mod artifact;
mod embedder;
mod embeddings;
mod late_interaction;
mod modality;
mod parameter;
mod progress;
mod reranker;
mod seed;
mod store;
mod task;
mod tower;
mod values;

pub use artifact::{
    Artifact, ArtifactError, ArtifactErrorKind, ArtifactWriter, MANIFEST_FILE, Manifest,
    hash_bytes, hash_file,
};
pub use embedder::{EmbedError, Embedder};
pub use embeddings::{Embeddings, ShapeError};
pub use late_interaction::max_sim;
pub use modality::Modality;
pub use parameter::{Gradients, Parameter};
pub use progress::{Interrupted, Progress, Silent, Stop};
pub use reranker::{Relevance, Reranker};
pub use seed::{Rng, Seed};
pub use store::{Hit, Leg, Mix, SearchError, SearchRequest, Store, VectorName};
pub use task::{Task, TextEmbeddings, TokenUse};
pub use tower::{Tower, TowerError};
pub use values::{Half, HalfLender, Lender, Values};
