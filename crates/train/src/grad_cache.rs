//! GradCache: gradients of a batch of any size in the memory of one chunk.
//!
//! In:  a tower and its inputs per side, chunk sizes, a loss over the embeddings.
//! Out: the loss, and the parameters' gradients added into the sides' [`Gradients`].
//! Not here: the loss (`losses`), the update (`adamw`).
//! Source: Gao et al. 2021. Test: chunked = whole, here for every loss, in `tests/grad_cache.rs` with towers,
//!      dropouts and adapters.
//!
//! Exact because towers and losses meet only at the embeddings and a tower's rows do not depend on
//! each other: embed all chunks without recording, differentiate the loss by the embeddings, then
//! record one chunk at a time and send its part of the gradient back. Towers have no randomness in
//! the forward pass (what is random, the tokens and patches left out included, is in the inputs), so the
//! second forward equals the first.
//! What may be held in memory (`Chunking::held`) is recorded in the first pass already and needs no
//! second: small chunks then only keep the work of a pass near the caches.

use conjoin_core::{Embeddings, Gradients, Tower};

use crate::{
    config::Chunking,
    error::StepError,
    losses::{Batch, FalseNegatives, Labels, Loss, Outcome},
};

/// The inputs of one side of a batch, embedded.
pub struct Embedded<'a, T: Tower> {
    tower: &'a T,
    inputs: &'a [&'a T::Input],
    chunk: usize,
    embeddings: Embeddings,
    /// Of the first chunks, as many as may be held.
    recordings: Vec<T::Recording>,
}

impl<T: Tower> Embedded<'_, T> {
    /// The embeddings, `[b, e]`.
    #[must_use]
    pub fn embeddings(&self) -> &Embeddings {
        &self.embeddings
    }

    /// Adds the gradients of the tower's parameters for `dL/dE`, `[b, e]`.
    ///
    /// # Errors
    /// When the tower refuses an input.
    ///
    /// # Panics
    /// When `gradient` does not have the embeddings' shape.
    pub fn backward_chunks(
        self,
        gradient: &Embeddings,
        into: &mut Gradients,
    ) -> Result<(), StepError> {
        assert_eq!(gradient.len(), self.embeddings.len(), "one gradient row per embedding");
        if is_frozen(self.tower) {
            return Ok(());
        }
        let mut held = self.recordings.into_iter();
        let mut first = 0;
        for inputs in self.inputs.chunks(self.chunk) {
            let recording = match held.next() {
                Some(recording) => recording,
                None => self.tower.record(inputs).map_err(|source| StepError { first, source })?.1,
            };
            let rows: Vec<usize> = (first..first + inputs.len()).collect();
            self.tower.backward(recording, &gradient.select(&rows), into);
            first += inputs.len();
        }
        Ok(())
    }
}

/// Embeds inputs chunk by chunk, recording the first chunks as far as they may be held.
///
/// # Errors
/// When the tower refuses an input.
///
/// # Panics
/// When the chunks' size is zero.
pub fn embed_chunks<'a, T: Tower>(
    tower: &'a T,
    inputs: &'a [&'a T::Input],
    chunking: Chunking,
) -> Result<Embedded<'a, T>, StepError> {
    let chunk = chunking.size;
    let held = if is_frozen(tower) { 0 } else { chunking.held };
    let mut embeddings = Embeddings::zeros(0, tower.width());
    let (mut recordings, mut first) = (Vec::new(), 0);
    for inputs in inputs.chunks(chunk) {
        let part = if first + inputs.len() <= held {
            tower.record(inputs).map(|(part, recording)| {
                recordings.push(recording);
                part
            })
        } else {
            tower.embed(inputs)
        };
        embeddings.append(&part.map_err(|source| StepError { first, source })?);
        first += inputs.len();
    }
    Ok(Embedded { tower, inputs, chunk, embeddings, recordings })
}

fn is_frozen<T: Tower>(tower: &T) -> bool {
    tower.parameters().iter().all(|p| p.frozen)
}

/// A tower of a step, and where the gradients of its parameters are added.
pub struct Sink<'a, T: Tower> {
    /// The tower.
    pub tower: &'a T,
    /// How many inputs it takes at once and how many it holds.
    pub chunking: Chunking,
    /// Where the gradients of its parameters are added.
    pub gradients: &'a mut Gradients,
}

/// One side of a batch: the inputs of one tower.
pub enum Side<'a, T: Tower, I: Tower> {
    /// For the text tower.
    Texts(&'a [&'a T::Input]),
    /// For the image tower.
    Images(&'a [&'a I::Input]),
}

/// A batch of a task: queries `[b]`, documents `[b·(1+m)]`, and what is known of them.
pub struct Task<'a, T: Tower, I: Tower> {
    /// The one side.
    pub queries: Side<'a, T, I>,
    /// The other: each query's own, then `m` hard negatives of each query. May be of the same tower.
    pub documents: Side<'a, T, I>,
    /// The pairs that are no negatives.
    pub false_negatives: &'a FalseNegatives,
    /// What is known of the pairs besides that they match.
    pub labels: Labels<'a>,
    /// The loss.
    pub loss: &'a dyn Loss,
    /// The loss's own numbers.
    pub scalars: &'a [f32],
    /// Factor on the loss.
    pub weight: f64,
}

/// The embeddings of a side, with the tower that made them.
enum EmbeddedSide<'a, T: Tower, I: Tower> {
    Text(Embedded<'a, T>),
    Image(Embedded<'a, I>),
}

impl<'a, T: Tower, I: Tower> EmbeddedSide<'a, T, I> {
    fn of(
        side: &Side<'a, T, I>,
        (text, text_chunking): (&'a T, Chunking),
        (image, image_chunking): (&'a I, Chunking),
    ) -> Result<Self, StepError> {
        Ok(match side {
            Side::Texts(inputs) => Self::Text(embed_chunks(text, inputs, text_chunking)?),
            Side::Images(inputs) => Self::Image(embed_chunks(image, inputs, image_chunking)?),
        })
    }

    fn embeddings(&self) -> &Embeddings {
        match self {
            Self::Text(side) => side.embeddings(),
            Self::Image(side) => side.embeddings(),
        }
    }

    fn backward(
        self,
        gradient: &Embeddings,
        text: &mut Gradients,
        image: &mut Gradients,
    ) -> Result<(), StepError> {
        match self {
            Self::Text(side) => side.backward_chunks(gradient, text),
            Self::Image(side) => side.backward_chunks(gradient, image),
        }
    }
}

/// What a step says about its batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// The loss, without its weight.
    pub loss: f64,
    /// Share of queries whose own document scores highest.
    pub accuracy: f64,
    /// `dL/dscalar`, in the order of [`Loss::scalars`].
    pub d_scalars: Vec<f64>,
}

/// Adds the gradients of one task's batch to the towers.
///
/// When the loss is not finite nothing is sent back to the towers.
///
/// # Errors
/// When a tower refuses an input.
///
/// # Panics
/// When the batch does not fit its loss ([`Loss::evaluate`]), or a chunk is zero.
pub fn step<T: Tower, I: Tower>(
    text: &mut Sink<'_, T>,
    image: &mut Sink<'_, I>,
    task: &Task<'_, T, I>,
) -> Result<StepOutcome, StepError> {
    let towers = ((text.tower, text.chunking), (image.tower, image.chunking));
    let queries = EmbeddedSide::of(&task.queries, towers.0, towers.1)?;
    let documents = EmbeddedSide::of(&task.documents, towers.0, towers.1)?;
    let batch = Batch {
        queries: queries.embeddings(),
        documents: documents.embeddings(),
        false_negatives: task.false_negatives,
        labels: task.labels,
    };
    let outcome = task.loss.evaluate(batch, task.scalars);
    let Outcome { loss, accuracy, mut d_queries, mut d_documents, mut d_scalars } = outcome;
    if loss.is_finite() {
        for d in [&mut d_queries, &mut d_documents] {
            scale(d.values_mut(), task.weight);
        }
        d_scalars.iter_mut().for_each(|d| *d *= task.weight);
        queries.backward(&d_queries, text.gradients, image.gradients)?;
        documents.backward(&d_documents, text.gradients, image.gradients)?;
    }
    Ok(StepOutcome { loss, accuracy, d_scalars })
}

fn scale(values: &mut [f32], weight: f64) {
    if weight != 1.0 {
        values.iter_mut().for_each(|value| *value *= weight as f32);
    }
}

#[cfg(test)]
mod tests;
