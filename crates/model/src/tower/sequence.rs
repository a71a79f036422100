//! The tower of ranking models: pairs of texts to scores, or texts to one vector per token.
//!
//! In:  [`Sequence`]s. Out: a row per sequence, or per token that takes part, and gradients.
//! Parity: `testdata/parity/cross_encoders`, `testdata/parity/colbert`.

use std::sync::Arc;

use conjoin_core::{Embeddings, Gradients, Parameter, Seed, Tower, TowerError};
use conjoin_engine::{Exec, Tensor, TokenBatch, Workspace};

use super::{Nobody, Observe, Recording, TextTower, on_a_worker, rows};
use crate::{
    EncoderInput, EncoderSpec, ModelErrorKind, NameMap, TowerPrecision, calibration::Precise,
};

/// One text, or two joined, as an encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The ids, special tokens included.
    pub ids: Vec<u32>,
    /// The type of each token.
    pub types: Vec<u32>,
    /// How many tokens, from the first, are looked at; the others only look.
    pub visible: usize,
    /// Places of the tokens whose vectors take part, ascending; for models that give one per token.
    pub kept: Vec<usize>,
}

/// What a [`SequenceTower`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One row per sequence: pooled, and behind the head.
    PerSequence,
    /// One row per kept token, behind the head.
    PerToken,
}

/// Embeds sequences.
///
/// Unlike other towers it may give several rows per input, and rows of any length (scores).
#[derive(Debug)]
pub struct SequenceTower {
    text: TextTower,
    rows: Rows,
}

impl SequenceTower {
    /// As [`TextTower::set_precision`].
    ///
    /// # Errors
    /// As there.
    pub fn set_precision(&mut self, precision: &TowerPrecision) -> Result<(), ModelErrorKind> {
        self.text.set_precision(precision)
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> TowerPrecision {
        self.text.precision()
    }

    /// A tower with weights from `map`, and fresh ones from `seed` where the map has none.
    ///
    /// # Errors
    /// As [`TextTower::build`].
    pub fn build(
        spec: &EncoderSpec,
        rows: Rows,
        map: &NameMap,
        seed: Seed,
    ) -> Result<Self, ModelErrorKind> {
        Ok(Self { text: TextTower::build(spec, map, seed)?, rows })
    }

    /// A tower whose weights are all in `map`.
    ///
    /// # Errors
    /// As [`SequenceTower::build`], and when a parameter is not in the map.
    pub(crate) fn open(
        spec: &EncoderSpec,
        rows: Rows,
        map: &NameMap,
    ) -> Result<Self, ModelErrorKind> {
        Ok(Self { text: TextTower::open(spec, map)?, rows })
    }

    /// The spec.
    #[must_use]
    pub fn spec(&self) -> &EncoderSpec {
        self.text.spec()
    }

    /// One pass over `inputs`, telling every intermediate.
    ///
    /// # Errors
    /// When an input is empty, too long or has an unknown id.
    pub fn observe(&self, inputs: &[&Sequence], observe: Observe<'_>) -> Result<(), TowerError> {
        let exec = Exec::inferring(&self.text.parameters, &self.text.workspace);
        self.forward(&exec, inputs, observe)?;
        Ok(())
    }

    fn forward(
        &self,
        exec: &Exec<'_>,
        inputs: &[&Sequence],
        observe: Observe<'_>,
    ) -> Result<Tensor, TowerError> {
        let batch = self.batch(inputs)?;
        let encoder = &self.text.encoder;
        match self.rows {
            Rows::PerSequence => Ok(encoder.embed_ids(exec, &batch, observe)),
            Rows::PerToken => {
                let starts = inputs.iter().zip(batch.offsets.iter());
                let kept =
                    starts.flat_map(|(input, start)| input.kept.iter().map(move |k| start + k));
                Ok(encoder.embed_each_token(exec, &batch, &kept.collect(), observe))
            }
        }
    }

    fn batch(&self, inputs: &[&Sequence]) -> Result<TokenBatch, TowerError> {
        let ids: Vec<&[u32]> = inputs.iter().map(|input| input.ids.as_slice()).collect();
        let batch = self.text.batch(&ids)?;
        let EncoderInput::Tokens { types, .. } = self.spec().input else {
            unreachable!("checked when the tower was built")
        };
        for (index, input) in inputs.iter().enumerate() {
            if let Some(&id) = input.types.iter().find(|id| **id as usize >= types.max(1)) {
                return Err(TowerError::TokenType { index, id, types });
            }
        }
        let all_types: Arc<[u32]> = inputs.iter().flat_map(|i| i.types.iter().copied()).collect();
        let all_visible = inputs.iter().all(|input| input.visible >= input.ids.len());
        Ok(TokenBatch {
            types: (types > 1).then_some(all_types),
            visible: (!all_visible).then(|| inputs.iter().map(|input| input.visible).collect()),
            ..batch
        })
    }
}

impl Precise for SequenceTower {
    fn workspace_mut(&mut self) -> &mut Workspace {
        self.text.workspace_mut()
    }
}

impl Tower for SequenceTower {
    type Input = Sequence;
    type Recording = Recording;

    fn width(&self) -> usize {
        self.text.width()
    }

    fn embed(&self, inputs: &[&Sequence]) -> Result<Embeddings, TowerError> {
        on_a_worker(|| {
            let mut all = Embeddings::zeros(0, self.width());
            for pass in TextTower::passes(inputs, |input| input.ids.len()) {
                let exec = Exec::inferring(&self.text.parameters, &self.text.workspace);
                all.append(&rows(&self.forward(&exec, pass, &mut Nobody)?));
            }
            Ok(all)
        })
    }

    fn record(&self, inputs: &[&Sequence]) -> Result<(Embeddings, Recording), TowerError> {
        on_a_worker(|| {
            let exec = Exec::recording(&self.text.parameters, &self.text.workspace);
            let output = self.forward(&exec, inputs, &mut Nobody)?;
            Ok(Recording::end(exec, output))
        })
    }

    fn backward(&self, recording: Recording, gradient: &Embeddings, into: &mut Gradients) {
        self.text.backward(recording, gradient, into);
    }

    fn parameters(&self) -> &[Parameter] {
        self.text.parameters()
    }

    fn parameters_mut(&mut self) -> &mut [Parameter] {
        self.text.parameters_mut()
    }

    fn checkpoint_layers(&mut self, on: bool) -> bool {
        self.text.checkpoint_layers(on)
    }
}
