//! Rows as they are read for a batch, and how their texts and pictures are prepared.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    panic::catch_unwind,
};

use conjoin_core::{Modality, Seed, Task};
use conjoin_input::{
    Augment, ImageContract, ImageLimits, PatchDropout, Pixels, TextContract, Tokenizer, decode,
};
use conjoin_train::{Ids, Inputs, OwnedLabels, Reject, TaskBatch};
use rand::Rng as _;

use super::teacher::{Teacher, TeacherError};

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
    fn rules(&self) -> serde_json::Value {
        let Self { text, image, augment, token_dropout, patch_dropout, .. } = self;
        let rules = serde_json::json!([text, image, augment, token_dropout]);
        match patch_dropout.drops() {
            false => rules,
            true => serde_json::json!([rules, patch_dropout]),
        }
    }

    fn tokens(&self, text: &str, task: &Task, seed: Seed) -> Result<Vec<u32>, String> {
        let tokens = self.text.encode_for(self.tokenizer, text, task);
        let mut ids = tokens.map_err(|error| error.to_string())?.ids;
        // A model that reads its padding counts on the places of its tokens.
        if self.token_dropout > 0.0 && !self.text.padded && ids.len() > 3 {
            drop_tokens(&mut ids, self.token_dropout, seed);
        }
        Ok(ids)
    }

    /// The pixels of an encoded picture, changed. A decoder that breaks down costs its picture.
    fn picture(&self, bytes: &[u8], seed: Seed) -> Result<Pixels, String> {
        let decoded = catch_unwind(|| decode(bytes, &ImageLimits::default()));
        let decoded = decoded.map_err(|_| "the decoder of the picture broke down".to_owned())?;
        let pixels = decoded.map_err(|e| told(&e))?;
        let pixels = self.augment.apply(&pixels, self.image, seed);
        Ok(self.patch_dropout.apply(pixels, seed.stream("patches")))
    }
}

/// How the inputs of a task are read: prepared for the towers, and kept for a teacher who looks at them.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub preparation: &'a Preparation<'a>,
    pub teacher: Option<&'a Teacher>,
}

impl Reader<'_> {
    /// The rules that decide what a row becomes, and what is left out of a batch.
    pub(super) fn rules(&self) -> serde_json::Value {
        let rules = self.preparation.rules();
        match self.teacher {
            None => rules,
            Some(teacher) => serde_json::json!([rules, { "teacher": teacher.fingerprint() }]),
        }
    }

    pub(super) fn text(&self, text: &str, task: &Task, seed: Seed) -> Result<Read, String> {
        let shown = self.shows(Modality::Text).then(|| Shown::Text(text.to_owned()));
        Ok(Read { input: Input::Text(self.preparation.tokens(text, task, seed)?), shown })
    }

    pub(super) fn picture(&self, bytes: &[u8], seed: Seed) -> Result<Read, String> {
        let shown = self.shows(Modality::Image).then(|| Shown::Image(bytes.to_owned()));
        Ok(Read { input: Input::Image(self.preparation.picture(bytes, seed)?), shown })
    }

    fn shows(&self, modality: Modality) -> bool {
        self.teacher.is_some_and(|teacher| teacher.looks_at(modality))
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

/// A text or a picture.
pub(super) enum Of<T, I> {
    Text(T),
    Image(I),
}

/// What a tower takes.
type Input = Of<Vec<u32>, Pixels>;
/// What a teacher looks at.
type Shown = Of<String, Vec<u8>>;

/// One input, and what a teacher looks at: nothing where there is none, or where a document shows what
/// its query does.
pub(super) struct Read {
    input: Input,
    shown: Option<Shown>,
}

impl Read {
    /// The same as a document that shows what its query does.
    pub(super) fn like_its_query(self) -> Self {
        Self { shown: None, ..self }
    }
}

/// Rows as they are read.
#[derive(Default)]
pub(super) struct Gathered {
    items: Vec<String>,
    queries: Vec<Read>,
    documents: Vec<Read>,
    negatives: Vec<Read>,
    rejects: Vec<Reject>,
}

impl Gathered {
    /// Takes a row in.
    pub(super) fn add(&mut self, item: String, inputs: (Read, Read, Vec<Read>)) {
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

    /// All of it, looked at by the teacher where there is one.
    pub(super) fn batch(
        mut self,
        aspects: Vec<Ids>,
        labels: OwnedLabels,
        teacher: Option<&Teacher>,
    ) -> Result<Loaded, TeacherError> {
        self.documents.append(&mut self.negatives);
        let (queries, shown_queries) = apart(self.queries);
        let (documents, shown_documents) = apart(self.documents);
        let look = |teacher: &Teacher| teacher.vectors(&shown_queries, &shown_documents);
        Ok(TaskBatch {
            items: self.items,
            queries,
            documents,
            aspects,
            labels,
            teacher: teacher.map(look).transpose()?,
            rejects: self.rejects,
        })
    }
}

/// What the towers take, and what a teacher looks at.
fn apart(all: Vec<Read>) -> (Inputs<Vec<u32>, Pixels>, Inputs<String, Vec<u8>>) {
    let (taken, shown): (Vec<Input>, Vec<Option<Shown>>) =
        all.into_iter().map(|read| (read.input, read.shown)).unzip();
    (inputs(taken), inputs(shown.into_iter().flatten().collect()))
}

/// All of one modality, as a source reads them.
fn inputs<T, I>(all: Vec<Of<T, I>>) -> Inputs<T, I> {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for input in all {
        match input {
            Of::Text(text) => texts.push(text),
            Of::Image(image) => images.push(image),
        }
    }
    if images.is_empty() { Inputs::Texts(texts) } else { Inputs::Images(images) }
}
