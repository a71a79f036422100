//! A model of words and a plain store, deterministic and small.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex},
};

use conjoin_core::{
    EmbedError, Embedder, Embeddings, Hit, Leg, Modality, SearchError, SearchRequest, Seed, Store,
    Task, TextEmbeddings, TokenUse, VectorName,
};
use rand::Rng;

const FINGERPRINT: &str = "fake-model";
const WIDTH: usize = 64;
const CUT_WIDTH: usize = 16;
const MAX_TOKENS: usize = 8;

/// Embeds a text as the sum of its words' directions, and a known picture as its caption's text.
///
/// The word `panic` panics, `unreadable` fails, and `wait` waits until the gate is opened.
pub(crate) struct FakeModel {
    /// Pictures and what is on them.
    captions: Vec<(Vec<u8>, String)>,
    is_open: Mutex<bool>,
    gate: Condvar,
    /// How many texts each call had.
    pub(crate) batches: Mutex<Vec<usize>>,
}

impl FakeModel {
    pub(crate) fn new(captions: Vec<(Vec<u8>, String)>) -> Self {
        let (is_open, gate) = (Mutex::new(false), Condvar::new());
        Self { captions, is_open, gate, batches: Mutex::default() }
    }

    /// Lets all waiting texts go on, now and later.
    pub(crate) fn open_gate(&self) {
        *self.is_open.lock().unwrap() = true;
        self.gate.notify_all();
    }

    pub(crate) fn vector(text: &str) -> Vec<f32> {
        let mut sum = Embeddings::zeros(1, WIDTH);
        for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()) {
            let mut rng = Seed(1).stream(word).rng();
            sum.row_mut(0).iter_mut().for_each(|v| *v += rng.random_range(-1.0..1.0_f32));
        }
        sum.normalize();
        sum.into_values()
    }

    fn unreadable(modality: Modality) -> EmbedError {
        EmbedError::Input { modality, source: "the fake model does not know it".into() }
    }

    fn text(&self, text: &str) -> Result<Vec<f32>, EmbedError> {
        assert!(text != "panic", "asked to panic");
        if text == "unreadable" {
            return Err(Self::unreadable(Modality::Text));
        }
        if text == "wait" {
            let open = self.is_open.lock().unwrap();
            drop(self.gate.wait_while(open, |open| !*open).unwrap());
        }
        Ok(Self::vector(text))
    }
}

impl Embedder for FakeModel {
    fn fingerprint(&self) -> &str {
        FINGERPRINT
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn widths(&self) -> Vec<usize> {
        vec![CUT_WIDTH, WIDTH]
    }

    fn modalities(&self) -> &[Modality] {
        &[Modality::Text, Modality::Image]
    }

    fn embed_texts(&self, texts: &[&str], task: &Task) -> Result<TextEmbeddings, EmbedError> {
        self.batches.lock().unwrap().push(texts.len());
        if let Task::Named(found) = task {
            return Err(EmbedError::Task { found: found.clone(), known: "none".to_owned() });
        }
        let vectors = texts.iter().map(|t| self.text(t)).collect::<Result<Vec<_>, _>>()?;
        let total = |text: &&str| text.split_whitespace().count();
        let tokens = texts.iter().map(total);
        let tokens = tokens.map(|total| TokenUse { used: total.min(MAX_TOKENS), total });
        let vectors = Embeddings::new(WIDTH, vectors.concat()).unwrap();
        Ok(TextEmbeddings { vectors, tokens: tokens.collect() })
    }

    fn embed_images(
        &self,
        images: &[&[u8]],
    ) -> Result<Vec<Result<Vec<f32>, EmbedError>>, EmbedError> {
        let vector = |image: &&[u8]| {
            let known = self.captions.iter().find(|(bytes, _)| bytes == image);
            let (_, caption) = known.ok_or_else(|| Self::unreadable(Modality::Image))?;
            Ok(Self::vector(caption))
        };
        Ok(images.iter().map(vector).collect())
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(MAX_TOKENS)
    }
}

/// An item of the plain store.
#[derive(Default)]
pub(crate) struct FakeItem {
    pub(crate) id: String,
    pub(crate) payload: BTreeMap<String, String>,
    pub(crate) text: Option<Vec<f32>>,
    pub(crate) image: Option<Vec<f32>>,
    pub(crate) picture: Option<Vec<u8>>,
}

impl FakeItem {
    fn cosine(&self, name: VectorName, query: &[f32]) -> Option<f32> {
        let dot = |v: &Vec<f32>| v.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let parts = [self.text.as_ref().map(dot), self.image.as_ref().map(dot)];
        match name {
            VectorName::Text => parts[0],
            VectorName::Image => parts[1],
            VectorName::Fused => {
                let present: Vec<f32> = parts.into_iter().flatten().collect();
                Some(present.iter().sum::<f32>() / present.len() as f32)
            }
        }
    }
}

pub(crate) struct FakeStore {
    pub(crate) items: Vec<FakeItem>,
    /// Whether parts have a calibrated cosine, ten times the plain one, which then makes the score.
    pub(crate) is_calibrated: bool,
}

impl Store for FakeStore {
    fn fingerprint(&self) -> &str {
        FINGERPRINT
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn search(&self, request: &SearchRequest) -> Result<Vec<Hit>, SearchError> {
        let hit = |item: &FakeItem| {
            let scale = if self.is_calibrated { 10.0 } else { 1.0 };
            let score = scale * item.cosine(request.over, &request.vector)?;
            let leg = |vector| {
                let cosine = item.cosine(vector, &request.vector)?;
                let has_scale = self.is_calibrated && vector != VectorName::Fused;
                Some(Leg { vector, cosine, calibrated: has_scale.then_some(scale * cosine) })
            };
            Some(Hit {
                id: item.id.clone(),
                score,
                legs: VectorName::ALL.into_iter().filter_map(leg).collect(),
                payload: item.payload.clone(),
                has_picture: item.picture.is_some(),
            })
        };
        let mut hits: Vec<Hit> = self.items.iter().filter_map(hit).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        hits.truncate(request.top_k);
        Ok(hits)
    }

    fn picture(&self, id: &str) -> Option<&[u8]> {
        self.items.iter().find(|item| item.id == id)?.picture.as_deref()
    }
}
