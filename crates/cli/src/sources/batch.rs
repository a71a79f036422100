//! Rows as they are read for a batch, and how their texts and pictures are prepared.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    panic::catch_unwind,
};

use conjoin_core::{Seed, Task};
use conjoin_input::{
    Augment, ImageContract, ImageLimits, PatchDropout, Pixels, TextContract, Tokenizer, decode,
};
use conjoin_train::{Ids, Inputs, OwnedLabels, Reject, TaskBatch};
use rand::Rng as _;

pub(super) type Loaded = TaskBatch<Vec<u32>, Pixels>;

/// How inputs are prepared.
pub(crate) struct Preparation<'a> {
    pub tokenizer: &'a Tokenizer,
    pub text: &'a TextContract,
    pub image: &'a ImageContract,
    pub augment: &'a Augment,
    /// Probability of leaving a token out.
    pub token_dropout: f32,
    /// Patches left out of pictures.
    pub patch_dropout: PatchDropout,
}

impl Preparation<'_> {
    /// The rules that decide what a row becomes.
    pub(super) fn rules(&self) -> serde_json::Value {
        let Self { text, image, augment, token_dropout, patch_dropout, .. } = self;
        let rules = serde_json::json!([text, image, augment, token_dropout]);
        match patch_dropout.drops() {
            false => rules,
            true => serde_json::json!([rules, patch_dropout]),
        }
    }

    pub(super) fn tokens(&self, text: &str, task: &Task, seed: Seed) -> Result<Vec<u32>, String> {
        let tokens = self.text.encode_for(self.tokenizer, text, task);
        let mut ids = tokens.map_err(|error| error.to_string())?.ids;
        // A model that reads its padding counts on the places of its tokens.
        if self.token_dropout > 0.0 && !self.text.padded && ids.len() > 3 {
            drop_tokens(&mut ids, self.token_dropout, seed);
        }
        Ok(ids)
    }

    /// The pixels of an encoded picture, changed. A decoder that breaks down costs its picture.
    pub(super) fn picture(&self, bytes: &[u8], seed: Seed) -> Result<Pixels, String> {
        let decoded = catch_unwind(|| decode(bytes, &ImageLimits::default()));
        let decoded = decoded.map_err(|_| "the decoder of the picture broke down".to_owned())?;
        let pixels = decoded.map_err(|e| told(&e))?;
        let pixels = self.augment.apply(&pixels, self.image, seed);
        Ok(self.patch_dropout.apply(pixels, seed.stream("patches")))
    }
}

/// The same number for equal things, whatever source they come from.
pub(super) fn id(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

/// An error and its cause, in one line.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

/// Leaves out tokens other than the first and the last, but never all.
fn drop_tokens(ids: &mut Vec<u32>, share: f32, seed: Seed) {
    let mut rng = seed.rng();
    let (last, mut at) = (ids.len() - 1, 0);
    let kept = rng.random_range(1..last);
    ids.retain(|_| {
        let (here, draw) = (at, rng.random::<f32>());
        at += 1;
        here == 0 || here == last || here == kept || draw >= share
    });
}

/// One input.
pub(super) enum Input {
    Text(Vec<u32>),
    Image(Pixels),
}

/// Rows as they are read.
#[derive(Default)]
pub(super) struct Gathered {
    items: Vec<String>,
    queries: Vec<Input>,
    documents: Vec<Input>,
    negatives: Vec<Input>,
    rejects: Vec<Reject>,
}

impl Gathered {
    /// Takes a row in.
    pub(super) fn add(&mut self, item: String, inputs: (Input, Input, Vec<Input>)) {
        let (query, document, negatives) = inputs;
        self.items.push(item);
        self.queries.push(query);
        self.documents.push(document);
        self.negatives.extend(negatives);
    }

    /// Notes a row that could not be read.
    pub(super) fn reject(&mut self, item: String, reason: String) {
        self.rejects.push(Reject { item, reason });
    }

    pub(super) fn batch(mut self, aspects: Vec<Ids>, labels: OwnedLabels) -> Loaded {
        self.documents.append(&mut self.negatives);
        TaskBatch {
            items: self.items,
            queries: inputs(self.queries),
            documents: inputs(self.documents),
            aspects,
            labels,
            rejects: self.rejects,
        }
    }
}

/// All of one modality, as a source reads them.
fn inputs(all: Vec<Input>) -> Inputs<Vec<u32>, Pixels> {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for input in all {
        match input {
            Input::Text(ids) => texts.push(ids),
            Input::Image(pixels) => images.push(pixels),
        }
    }
    if images.is_empty() { Inputs::Texts(texts) } else { Inputs::Images(images) }
}
