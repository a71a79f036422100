//! The two towers: an encoder, its parameters, and the checks of its input.
//!
//! In:  token ids or prepared pixels. Out: unit vectors `[b, e]`, and gradients of the parameters.

mod sequence;

use std::sync::Arc;

use conjoin_core::{Embeddings, Gradients, Parameter, Seed, Tower, TowerError};
use conjoin_engine::{Exec, Levels, Pictures, Precision, Tape, Tensor, TokenBatch, Workspace};
use conjoin_input::{ImageContract, Pixels};

use crate::{
    EncoderInput, EncoderSpec, ImageSpec, ModelErrorKind, TowerPrecision,
    calibration::Precise,
    encoder::Encoder,
    layout::Layout,
    mobilenet::MobileNet,
    reference::Executor,
    weights::{self, Absent, NameMap},
};

pub use sequence::{Rows, Sequence, SequenceTower};

/// Is told each intermediate by name (`hidden.3`, `pooled`); parity tests listen, nothing else does.
pub type Observe<'a> = &'a mut dyn Observer;

/// Is told the intermediates of a pass.
pub trait Observer {
    /// Hears one.
    fn tell(&mut self, name: &str, value: &Tensor);

    /// Whether anybody hears, so that what nothing else needs is computed too.
    fn listens(&self) -> bool {
        true
    }
}

impl<F: FnMut(&str, &Tensor)> Observer for F {
    fn tell(&mut self, name: &str, value: &Tensor) {
        self(name, value);
    }
}

/// Hears nothing.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn tell(&mut self, _name: &str, _value: &Tensor) {}

    fn listens(&self) -> bool {
        false
    }
}

/// What comes before the names of a tower's parameters.
pub(crate) const TEXT_PREFIX: &str = "text.";
pub(crate) const IMAGE_PREFIX: &str = "image.";

/// Tokens or pixels per forward pass when embedding: enough to fill the cores, little enough to stay
/// near the caches.
const ROWS_PER_PASS: usize = 2048;
const IMAGES_PER_PASS: usize = 8;

/// Embeds token ids.
#[derive(Debug)]
pub struct TextTower {
    encoder: Arc<Encoder>,
    parameters: Vec<Parameter>,
    workspace: Workspace,
}

/// Embeds prepared pictures.
#[derive(Debug)]
pub struct ImageTower {
    body: Body,
    size: usize,
    levels: Box<Levels>,
    parameters: Vec<Parameter>,
    workspace: Workspace,
}

#[derive(Debug)]
enum Body {
    Transformer(Arc<Encoder>),
    MobileNet(MobileNet),
}

/// What the backward pass of a tower needs.
#[derive(Debug)]
pub struct Recording {
    tape: Tape,
    output: Tensor,
}

impl TextTower {
    /// A tower with weights from `map`, and fresh ones from `seed` where the map has none.
    ///
    /// # Errors
    /// When the spec contradicts itself, or a mapped tensor is missing or of another shape.
    pub fn build(spec: &EncoderSpec, map: &NameMap, seed: Seed) -> Result<Self, ModelErrorKind> {
        Self::make(spec, map, Absent::Fresh(seed))
    }

    /// A tower whose weights are all in `map`.
    ///
    /// # Errors
    /// As [`TextTower::build`], and when a parameter is not in the map.
    pub(crate) fn open(spec: &EncoderSpec, map: &NameMap) -> Result<Self, ModelErrorKind> {
        Self::make(spec, map, Absent::Missing)
    }

    fn make(spec: &EncoderSpec, map: &NameMap, absent: Absent) -> Result<Self, ModelErrorKind> {
        spec.check()?;
        if matches!(spec.input, EncoderInput::Patches { .. }) {
            return Err(ModelErrorKind::Spec {
                key: "input",
                found: "patches".to_owned(),
                expected: "tokens, for a text tower".to_owned(),
            });
        }
        let mut layout = Layout::default();
        let encoder = Arc::new(Encoder::declare(spec, &mut layout));
        let parameters = weights::fill(layout, TEXT_PREFIX, map, absent)?;
        Ok(Self { encoder, parameters, workspace: Workspace::default() })
    }

    /// The spec.
    #[must_use]
    pub fn spec(&self) -> &EncoderSpec {
        self.encoder.spec()
    }

    /// The most tokens a text may have.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.spec().max_tokens()
    }

    /// Computes products as told from now on.
    ///
    /// # Errors
    /// When an exception names no parameter.
    pub fn set_precision(&mut self, precision: &TowerPrecision) -> Result<(), ModelErrorKind> {
        self.try_precision(precision)
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> TowerPrecision {
        precision(&self.parameters, &self.workspace)
    }

    /// One pass over `inputs`, telling every intermediate.
    ///
    /// # Errors
    /// When an input is empty, too long or has an unknown id.
    pub fn observe(
        &self,
        inputs: &[&Vec<u32>],
        executor: Executor,
        observe: Observe<'_>,
    ) -> Result<(), TowerError> {
        let exec = executor.begin(&self.parameters, &self.workspace);
        self.forward(&exec, inputs, observe)?;
        // Once more, unseen: as it is embedded when nobody looks.
        observe.tell("embedding", &self.forward(&exec, inputs, &mut Nobody)?);
        Ok(())
    }

    /// The vectors of the tokens behind the last layer, input by input.
    ///
    /// # Shapes
    /// `[tokens, width]` for each input.
    ///
    /// # Errors
    /// As [`Tower::embed`].
    pub(crate) fn token_states(&self, inputs: &[&Vec<u32>]) -> Result<Vec<Embeddings>, TowerError> {
        let mut all = Vec::with_capacity(inputs.len());
        for pass in Self::passes(inputs, Vec::len) {
            let exec = Exec::inferring(&self.parameters, &self.workspace);
            let ids: Vec<&[u32]> = pass.iter().map(|ids| ids.as_slice()).collect();
            let states = self.encoder.token_states(&exec, &self.batch(&ids)?);
            let mut start = 0;
            for ids in pass {
                let values =
                    states.values()[start * states.cols()..][..ids.len() * states.cols()].to_vec();
                all.push(Embeddings::new(states.cols(), values).expect("whole rows"));
                start += ids.len();
            }
        }
        Ok(all)
    }

    /// Embeddings of pooled [`TextTower::token_states`].
    ///
    /// # Shapes
    /// `[b, width]` to `[b, e]`.
    pub(crate) fn finish_pooled(&self, pooled: &Embeddings) -> Embeddings {
        let exec = Exec::inferring(&self.parameters, &self.workspace);
        let pooled = self.workspace.pool().tensor(pooled.len(), pooled.width(), pooled.values());
        rows(&self.encoder.finish_pooled(&exec, pooled))
    }

    fn forward(
        &self,
        exec: &Exec<'_>,
        inputs: &[&Vec<u32>],
        observe: Observe<'_>,
    ) -> Result<Tensor, TowerError> {
        let ids: Vec<&[u32]> = inputs.iter().map(|ids| ids.as_slice()).collect();
        Ok(self.encoder.embed_ids(exec, &self.batch(&ids)?, observe))
    }

    fn batch(&self, inputs: &[&[u32]]) -> Result<TokenBatch, TowerError> {
        self.check(inputs)?;
        let ids: Arc<[u32]> = inputs.iter().flat_map(|ids| ids.iter().copied()).collect();
        let mut offsets = vec![0];
        for ids in inputs {
            offsets.push(offsets[offsets.len() - 1] + ids.len());
        }
        Ok(TokenBatch { ids, types: None, offsets: offsets.into(), visible: None })
    }

    fn check(&self, inputs: &[&[u32]]) -> Result<(), TowerError> {
        let EncoderInput::Tokens { vocabulary, max_tokens, .. } = self.spec().input else {
            unreachable!("checked when the tower was built")
        };
        for (index, ids) in inputs.iter().enumerate() {
            let fewest = usize::from(!self.spec().reads_nothing());
            if !(fewest..=max_tokens).contains(&ids.len()) {
                let found = format!("{} tokens", ids.len());
                let expected = format!("{fewest} to {max_tokens} tokens");
                return Err(TowerError::InputSize { index, found, expected });
            }
            if let Some(&id) = ids.iter().find(|id| **id as usize >= vocabulary) {
                return Err(TowerError::TokenId { index, id, vocabulary });
            }
        }
        Ok(())
    }

    /// Cuts `inputs` into passes of about [`ROWS_PER_PASS`] tokens.
    fn passes<'a, 'b, T>(inputs: &'a [&'b T], n_tokens: impl Fn(&T) -> usize) -> Vec<&'a [&'b T]> {
        let (mut passes, mut start, mut tokens) = (Vec::new(), 0, 0);
        for (i, input) in inputs.iter().enumerate() {
            let n = n_tokens(input);
            if tokens + n > ROWS_PER_PASS && i > start {
                passes.push(&inputs[start..i]);
                (start, tokens) = (i, 0);
            }
            tokens += n;
        }
        passes.push(&inputs[start..]);
        passes.retain(|pass| !pass.is_empty());
        passes
    }
}

impl ImageTower {
    /// A tower with weights from `map`, and fresh ones from `seed` where the map has none.
    ///
    /// `contract` tells the size and the mean and deviation the pixels are normalised with.
    ///
    /// # Errors
    /// When the spec contradicts itself or the contract, or a mapped tensor is missing or of another
    /// shape.
    pub fn build(
        spec: &ImageSpec,
        contract: &ImageContract,
        map: &NameMap,
        seed: Seed,
    ) -> Result<Self, ModelErrorKind> {
        Self::make(spec, contract, map, Absent::Fresh(seed))
    }

    /// A tower whose weights are all in `map`.
    ///
    /// # Errors
    /// As [`ImageTower::build`], and when a parameter is not in the map.
    pub(crate) fn open(
        spec: &ImageSpec,
        contract: &ImageContract,
        map: &NameMap,
    ) -> Result<Self, ModelErrorKind> {
        Self::make(spec, contract, map, Absent::Missing)
    }

    fn make(
        spec: &ImageSpec,
        contract: &ImageContract,
        map: &NameMap,
        absent: Absent,
    ) -> Result<Self, ModelErrorKind> {
        let mut layout = Layout::default();
        let body = match spec {
            ImageSpec::MobileNet(spec) => {
                spec.check()?;
                Body::MobileNet(MobileNet::declare(spec, &mut layout))
            }
            ImageSpec::Transformer(spec) => {
                spec.check()?;
                Body::Transformer(Arc::new(Encoder::declare(spec, &mut layout)))
            }
        };
        if spec.image_size() != Some(contract.size) {
            return Err(ModelErrorKind::Spec {
                key: "image_size",
                found: format!("{:?}", spec.image_size()),
                expected: format!("the input contract's {}", contract.size),
            });
        }
        let parameters = weights::fill(layout, IMAGE_PREFIX, map, absent)?;
        let (size, levels) = (contract.size, Box::new(contract.levels()));
        Ok(Self { body, size, levels, parameters, workspace: Workspace::default() })
    }

    /// The spec.
    #[must_use]
    pub fn spec(&self) -> ImageSpec {
        match &self.body {
            Body::Transformer(encoder) => ImageSpec::Transformer(encoder.spec().clone()),
            Body::MobileNet(net) => ImageSpec::MobileNet(net.spec().clone()),
        }
    }

    /// Computes products as told from now on.
    ///
    /// # Errors
    /// When an exception names no parameter.
    pub fn set_precision(&mut self, precision: &TowerPrecision) -> Result<(), ModelErrorKind> {
        self.try_precision(precision)
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> TowerPrecision {
        precision(&self.parameters, &self.workspace)
    }

    /// One pass over `inputs`, telling every intermediate.
    ///
    /// # Errors
    /// When a picture has not the tower's size.
    pub fn observe(
        &self,
        inputs: &[&Pixels],
        executor: Executor,
        observe: Observe<'_>,
    ) -> Result<(), TowerError> {
        let exec = executor.begin(&self.parameters, &self.workspace);
        self.forward(&exec, inputs, observe)?;
        // Once more, unseen: as it is embedded when nobody looks.
        observe.tell("embedding", &self.forward(&exec, inputs, &mut Nobody)?);
        Ok(())
    }

    fn forward(
        &self,
        exec: &Exec<'_>,
        inputs: &[&Pixels],
        observe: Observe<'_>,
    ) -> Result<Tensor, TowerError> {
        self.check(inputs)?;
        let bytes: Vec<&[u8]> = inputs.iter().map(|pixels| pixels.data()).collect();
        let pictures = Pictures::new(&bytes, (self.size, self.size), &self.levels);
        Ok(match &self.body {
            Body::Transformer(encoder) => {
                let kept: Vec<_> = inputs.iter().map(|pixels| pixels.kept_patches()).collect();
                encoder.embed_pictures(exec, &pictures, &kept, observe)
            }
            Body::MobileNet(net) => net.embed_pictures(exec, &pictures, observe),
        })
    }

    /// A convolution's layers are large and its products small: of one picture they stay in the caches.
    fn images_per_pass(&self) -> usize {
        match self.body {
            Body::Transformer(_) => IMAGES_PER_PASS,
            Body::MobileNet(_) => 1,
        }
    }

    fn check(&self, inputs: &[&Pixels]) -> Result<(), TowerError> {
        let fits = |p: &&Pixels| p.width() == self.size && p.height() == self.size;
        if let Some(index) = inputs.iter().position(|p| !fits(p)) {
            return Err(TowerError::InputSize {
                index,
                found: format!("{}x{}", inputs[index].width(), inputs[index].height()),
                expected: format!("{0}x{0}", self.size),
            });
        }
        self.check_kept(inputs)
    }

    /// Passes where the patches that pictures keep are some that the tower has, each once.
    fn check_kept(&self, inputs: &[&Pixels]) -> Result<(), TowerError> {
        let n_patches = self.spec().n_patches();
        let fits = |kept: &[u32]| {
            let last = kept.last().map(|last| *last as usize);
            last.is_some_and(|last| n_patches.is_some_and(|n| last < n))
                && kept.is_sorted_by(|a, b| a < b)
        };
        match inputs.iter().position(|p| p.kept_patches().is_some_and(|kept| !fits(kept))) {
            None => Ok(()),
            Some(index) => Err(TowerError::Patches { index, n_patches: n_patches.unwrap_or(0) }),
        }
    }
}

impl Recording {
    /// Ends a recording pass: its embeddings and what the way back needs.
    fn end(exec: Exec<'_>, output: Tensor) -> (Embeddings, Self) {
        (rows(&output), Self { tape: exec.into_tape(), output })
    }

    fn send_back(
        self,
        gradient: &Embeddings,
        parameters: &[Parameter],
        workspace: &Workspace,
        into: &mut Gradients,
    ) {
        self.tape.backward(&self.output, gradient.values(), parameters, workspace, into);
    }
}

/// Runs a pass on one of the threads that share its work: a thread from outside would sleep and be
/// woken at every operation.
fn on_a_worker<R: Send>(pass: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| pass())
}

/// How the products of a workspace are computed.
fn precision(parameters: &[Parameter], workspace: &Workspace) -> TowerPrecision {
    let exceptions = workspace.exceptions().iter();
    let exceptions = exceptions.map(|(id, precision)| (parameters[id.0].name.clone(), *precision));
    TowerPrecision { precision: workspace.precision(), exceptions: exceptions.collect() }
}

fn finite(embeddings: Embeddings) -> Result<Embeddings, TowerError> {
    if embeddings.values().iter().all(|x| x.is_finite()) {
        return Ok(embeddings);
    }
    Err(TowerError::NotFinite)
}

fn rows(output: &Tensor) -> Embeddings {
    Embeddings::new(output.cols(), output.values().to_vec()).expect("a tensor has whole rows")
}

impl Precise for TextTower {
    fn workspace_mut(&mut self) -> &mut Workspace {
        &mut self.workspace
    }
}

impl Precise for ImageTower {
    fn usual(&self, precision: Precision) -> TowerPrecision {
        match &self.body {
            Body::Transformer(_) => precision.into(),
            Body::MobileNet(net) => net.usual_precision(IMAGE_PREFIX, precision),
        }
    }

    fn workspace_mut(&mut self) -> &mut Workspace {
        &mut self.workspace
    }
}

impl Tower for TextTower {
    type Input = Vec<u32>;
    type Recording = Recording;

    fn width(&self) -> usize {
        self.spec().embedding_width()
    }

    fn embed(&self, inputs: &[&Vec<u32>]) -> Result<Embeddings, TowerError> {
        on_a_worker(|| {
            let mut all = Embeddings::zeros(0, self.width());
            for pass in Self::passes(inputs, Vec::len) {
                let exec = Exec::inferring(&self.parameters, &self.workspace);
                all.append(&finite(rows(&self.forward(&exec, pass, &mut Nobody)?))?);
            }
            Ok(all)
        })
    }

    fn record(&self, inputs: &[&Vec<u32>]) -> Result<(Embeddings, Recording), TowerError> {
        on_a_worker(|| {
            let exec = Exec::recording(&self.parameters, &self.workspace);
            let output = self.forward(&exec, inputs, &mut Nobody)?;
            Ok(Recording::end(exec, output))
        })
    }

    fn backward(&self, recording: Recording, gradient: &Embeddings, into: &mut Gradients) {
        on_a_worker(|| recording.send_back(gradient, &self.parameters, &self.workspace, into));
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter] {
        self.workspace.forget_weights();
        &mut self.parameters
    }

    fn checkpoint_layers(&mut self, on: bool) -> bool {
        self.workspace.set_checkpoints(on);
        true
    }
}

impl Tower for ImageTower {
    type Input = Pixels;
    type Recording = Recording;

    fn width(&self) -> usize {
        match &self.body {
            Body::Transformer(encoder) => encoder.spec().embedding_width(),
            Body::MobileNet(net) => net.spec().projection.unwrap_or(net.spec().features()),
        }
    }

    fn embed(&self, inputs: &[&Pixels]) -> Result<Embeddings, TowerError> {
        on_a_worker(|| {
            let mut all = Embeddings::zeros(0, self.width());
            for pass in inputs.chunks(self.images_per_pass()) {
                let exec = Exec::inferring(&self.parameters, &self.workspace);
                all.append(&finite(rows(&self.forward(&exec, pass, &mut Nobody)?))?);
            }
            Ok(all)
        })
    }

    fn record(&self, inputs: &[&Pixels]) -> Result<(Embeddings, Recording), TowerError> {
        on_a_worker(|| {
            let exec = Exec::recording(&self.parameters, &self.workspace);
            let output = self.forward(&exec, inputs, &mut Nobody)?;
            Ok(Recording::end(exec, output))
        })
    }

    fn backward(&self, recording: Recording, gradient: &Embeddings, into: &mut Gradients) {
        on_a_worker(|| recording.send_back(gradient, &self.parameters, &self.workspace, into));
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter] {
        self.workspace.forget_weights();
        &mut self.parameters
    }

    /// A MobileNet has no layers that are worth it.
    fn checkpoint_layers(&mut self, on: bool) -> bool {
        let has_layers = matches!(self.body, Body::Transformer(_));
        self.workspace.set_checkpoints(on && has_layers);
        has_layers || !on
    }
}

#[cfg(test)]
mod tests;
