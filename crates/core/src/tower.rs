//! What training needs of a model: embeddings of inputs, and the way back.
//!
//! Towers and losses meet only at the embeddings: a loss is a pure function of embedding matrices,
//! a tower turns `dL/dE` into gradients of its parameters.

use crate::{Embeddings, Gradients, Parameter};

/// One encoder of one modality.
///
/// # Shapes
/// `b` inputs give `[b, e]`, rows of unit length.
pub trait Tower: Send + Sync {
    /// One prepared input (token ids, pixels).
    type Input: Send + Sync;
    /// What the backward pass needs of a forward pass.
    type Recording;

    /// Width `e` of the embeddings.
    fn width(&self) -> usize;

    /// Embeds without recording: nothing is kept. Chunking never changes a row.
    ///
    /// # Errors
    /// When an input does not fit the tower.
    fn embed(&self, inputs: &[&Self::Input]) -> Result<Embeddings, TowerError>;

    /// Embeds and keeps what [`Tower::backward`] needs.
    ///
    /// # Errors
    /// When an input does not fit the tower.
    fn record(&self, inputs: &[&Self::Input]) -> Result<(Embeddings, Self::Recording), TowerError>;

    /// Adds the gradients of the parameters for `dL/dE`, `[b, e]`, of the recorded pass.
    fn backward(&self, recording: Self::Recording, gradient: &Embeddings, into: &mut Gradients);

    /// The parameters, in an order that never changes for a model.
    fn parameters(&self) -> &[Parameter];

    /// The parameters, writable.
    fn parameters_mut(&mut self) -> &mut [Parameter];

    /// From now on keeps of a recorded pass only what goes into each layer, and computes the layer once
    /// more on the way back: memory for time, the same gradients. Gives whether the tower can do as told;
    /// one that has nothing to compute twice cannot be told to.
    fn checkpoint_layers(&mut self, on: bool) -> bool {
        !on
    }
}

/// Why a tower could not embed an input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TowerError {
    /// The input has a size the tower does not take.
    #[error("input {index} has size {found}, this tower takes {expected}")]
    InputSize {
        /// Position in the batch.
        index: usize,
        /// The size found.
        found: String,
        /// The size expected.
        expected: String,
    },
    /// A picture keeps patches that the tower has not.
    #[error(
        "input {index} keeps some of its patches, this tower takes rising numbers of {n_patches} patches"
    )]
    Patches {
        /// Position in the batch.
        index: usize,
        /// Number of patches that can be left out one by one; 0 where none can.
        n_patches: usize,
    },
    /// A type of tokens that the tower has not.
    #[error("input {index} has a token of type {id}, the tower has {types} types")]
    TokenType {
        /// Position in the batch.
        index: usize,
        /// The type found.
        id: u32,
        /// Number of types.
        types: usize,
    },
    /// The weights are numbers, but what they make of an input is not.
    #[error(
        "an embedding is not finite: some weights are too large to be those of a trained model"
    )]
    NotFinite,
    /// A token id outside the vocabulary.
    #[error("input {index} has token id {id}, the vocabulary has {vocabulary} entries")]
    TokenId {
        /// Position in the batch.
        index: usize,
        /// The id found.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
}
