//! GradCache: gradients of a batch of any size in the memory of one chunk.
//!
//! In:  a tower and its inputs per side, chunk sizes, a loss over the embeddings.
//! Out: the loss, and the parameters' gradients added into the sides' [`Gradients`].
//! Not here: the loss (`losses`), the update (`adamw`).
//! Source: Gao et al. 2021. Test: chunked = whole.
//!
//! Exact because towers and losses meet only at the embeddings and a tower's rows do not depend on
//! each other: embed all chunks without recording, differentiate the loss by the embeddings, then
//! record one chunk at a time and send its part of the gradient back. Towers have no randomness in
//! the forward pass (augmentation happens in the inputs), so the second forward equals the first.
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

/// One side of a step: a tower, what it reads, and where its gradients go.
pub struct Side<'a, T: Tower> {
    /// The tower.
    pub tower: &'a T,
    /// Its inputs, `[b]`.
    pub inputs: &'a [&'a T::Input],
    /// How many inputs it takes at once and how many it holds.
    pub chunking: Chunking,
    /// Where the gradients of its parameters are added.
    pub gradients: &'a mut Gradients,
}

/// What a step says about its batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// The loss.
    pub loss: f64,
    /// Share of queries whose own document scores highest.
    pub accuracy: f64,
    /// `dL/dscalar`, in the order of [`Loss::scalars`].
    pub d_scalars: Vec<f64>,
}

/// Adds the gradients of one batch of matched inputs to both sides.
///
/// When the loss is not finite nothing is sent back to the towers.
///
/// # Errors
/// When a tower refuses an input.
///
/// # Panics
/// When the documents are not one or more for each query, there is no query, a chunk is zero, or the
/// loss needs labels.
pub fn step<Q: Tower, D: Tower>(
    queries: Side<'_, Q>,
    documents: Side<'_, D>,
    false_negatives: &FalseNegatives,
    loss: &dyn Loss,
    scalars: &[f32],
) -> Result<StepOutcome, StepError> {
    let q = embed_chunks(queries.tower, queries.inputs, queries.chunking)?;
    let d = embed_chunks(documents.tower, documents.inputs, documents.chunking)?;
    let (q_rows, d_rows) = (q.embeddings(), d.embeddings());
    let batch = Batch { queries: q_rows, documents: d_rows, false_negatives, labels: Labels::None };
    let Outcome { loss, accuracy, d_queries, d_documents, d_scalars } =
        loss.evaluate(batch, scalars);
    if loss.is_finite() {
        q.backward_chunks(&d_queries, queries.gradients)?;
        d.backward_chunks(&d_documents, documents.gradients)?;
    }
    Ok(StepOutcome { loss, accuracy, d_scalars })
}

#[cfg(test)]
mod tests;
