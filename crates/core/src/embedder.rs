//! What evaluation, indexing, mining and serving need of a model.

use crate::{Modality, Task, TextEmbeddings};

/// Turns raw texts and image files into embeddings of one space.
///
/// Implemented by a loaded checkpoint; the input contract (tokeniser, resize, mean/std, pooling,
/// prompts) is applied inside, so that no caller can get it wrong.
pub trait Embedder: Send + Sync {
    /// Identifies the weights and the input contract; equal fingerprints give equal vectors.
    fn fingerprint(&self) -> &str;

    /// Width `e` of the embeddings.
    fn width(&self) -> usize;

    /// The widths that vectors of this model may be cut to (see [`crate::Embeddings::cut`]), the last one
    /// being [`Embedder::width`].
    fn widths(&self) -> Vec<usize> {
        vec![self.width()]
    }

    /// The modalities this model can embed.
    fn modalities(&self) -> &[Modality];

    /// Embeds texts for a task.
    ///
    /// # Shapes
    /// `[n, e]`, rows of unit length, in the order of `texts`.
    ///
    /// # Errors
    /// When the model has no text tower, or has prompts but none for a named task. A text that is too
    /// long is no error: the result tells how much of it was read.
    fn embed_texts(&self, texts: &[&str], task: &Task) -> Result<TextEmbeddings, EmbedError>;

    /// Embeds encoded image files (JPEG, PNG, WebP, GIF).
    ///
    /// # Shapes
    /// One unit vector `[e]` or one error per image: bad input costs one record, never the batch.
    ///
    /// # Errors
    /// When the model has no image tower.
    fn embed_images(
        &self,
        images: &[&[u8]],
    ) -> Result<Vec<Result<Vec<f32>, EmbedError>>, EmbedError>;

    /// Names of the tasks the model has prompts for.
    fn tasks(&self) -> Vec<String> {
        Vec::new()
    }

    /// The most tokens that are read at once, if the model reads texts.
    fn max_tokens(&self) -> Option<usize>;
}

/// Why something could not be embedded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// The model has no tower for this modality.
    #[error("this model has no {0} tower")]
    NoTower(Modality),
    /// The input could not be read; the reader's fault is told inside.
    #[error("cannot read this {modality}")]
    Input {
        /// What it should have been.
        modality: Modality,
        /// The reader's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model has prompts, but none for this task.
    #[error("this model has no prompt for the task `{found}`; it has {known}")]
    Task {
        /// The task asked for.
        found: String,
        /// The tasks it has prompts for.
        known: String,
    },
    /// The tower refused the input.
    #[error(transparent)]
    Tower(#[from] crate::TowerError),
}
