//! Text–image pairs of a dataset, prepared for training on other threads.
//!
//! In:  a dataset's train items with a text and a picture. Out: token ids and augmented pixels.

use std::collections::BTreeMap;

use conjoin_core::{Seed, Task, hash_bytes};
use conjoin_data::{Dataset, Item, Split};
use conjoin_input::{Augment, ImageContract, ImageLimits, Pixels, TextContract, Tokenizer, decode};
use conjoin_train::{PairBatch, PairSource, Reject};
use rand::Rng;
use rayon::prelude::*;

/// The text of all fields, the title first.
pub(crate) fn joined_text(item: &Item) -> Option<String> {
    let texts: Vec<&str> = item.texts.iter().map(|(_, text)| text.trim()).collect();
    (!texts.is_empty()).then(|| texts.join(". "))
}

/// The first text field.
pub(crate) fn title(item: &Item) -> Option<&str> {
    item.texts.first().map(|(_, text)| text.as_str())
}

/// How pairs are prepared.
pub(crate) struct Preparation<'a> {
    pub tokenizer: &'a Tokenizer,
    pub text: &'a TextContract,
    pub image: &'a ImageContract,
    pub augment: &'a Augment,
    /// Probability of the title alone.
    pub title_share: f32,
}

/// The train pairs of a dataset.
pub(crate) struct DatasetPairs<'a> {
    dataset: &'a Dataset,
    items: Vec<&'a Item>,
    groups: Vec<u64>,
    images: Vec<u64>,
    preparation: Preparation<'a>,
    fingerprint: String,
}

impl<'a> DatasetPairs<'a> {
    /// All train items with a text and a picture.
    pub(crate) fn new(dataset: &'a Dataset, preparation: Preparation<'a>) -> Self {
        let items: Vec<&Item> = dataset
            .iter_split(Split::Train)
            .filter(|item| item.image.is_some() && !item.texts.is_empty())
            .collect();
        let groups = numbered(items.iter().map(|item| item.group.as_str()));
        let hashes = items.iter().filter_map(|item| item.image.as_ref());
        let images = numbered(hashes.map(|image| image.sha256.as_str()));
        let rules = serde_json::json!([
            dataset.manifest_hash(),
            preparation.text,
            preparation.image,
            preparation.augment,
            preparation.title_share,
        ]);
        let fingerprint = hash_bytes(rules.to_string().as_bytes());
        Self { dataset, items, groups, images, preparation, fingerprint }
    }

    fn read(&self, item: &Item, seed: Seed) -> Result<(Vec<u32>, Pixels), Reject> {
        let reject = |error: &dyn std::error::Error| {
            let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
            Reject { item: item.id.clone(), reason: format!("{error}{cause}") }
        };
        let preparation = &self.preparation;
        let bytes = self.dataset.image_bytes(item).map_err(|e| reject(&e))?;
        let pixels = decode(&bytes, &ImageLimits::default()).map_err(|e| reject(&e))?;
        let pixels = preparation.augment.apply(&pixels, preparation.image, seed.stream("image"));
        let alone = seed.stream("text").rng().random::<f32>() < preparation.title_share;
        let text = match title(item).filter(|_| alone) {
            Some(title) => title.to_owned(),
            None => joined_text(item).unwrap_or_default(),
        };
        // Pictures are searched for with texts, so these are embedded as queries are.
        let prompt = preparation.text.prompt(&Task::Query).unwrap_or_default();
        let tokens = preparation.text.encode(preparation.tokenizer, &format!("{prompt}{text}"));
        Ok((tokens.map_err(|e| reject(&e))?.ids, pixels))
    }
}

/// The same number for equal names, in order of appearance.
fn numbered<'n>(names: impl Iterator<Item = &'n str>) -> Vec<u64> {
    let mut known = BTreeMap::new();
    names
        .map(|name| {
            let next = known.len() as u64;
            *known.entry(name).or_insert(next)
        })
        .collect()
}

impl PairSource for DatasetPairs<'_> {
    type Text = Vec<u32>;
    type Image = Pixels;
    type Error = std::convert::Infallible;

    fn len(&self) -> usize {
        self.items.len()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn aspects(&self) -> Vec<&[u64]> {
        vec![&self.groups, &self.images]
    }

    fn load(&self, rows: &[usize], seed: Seed) -> Result<PairBatch<Vec<u32>, Pixels>, Self::Error> {
        let read: Vec<_> =
            rows.par_iter().map(|&row| self.read(self.items[row], seed.at(row as u64))).collect();
        let mut batch = PairBatch {
            items: Vec::new(),
            texts: Vec::new(),
            images: Vec::new(),
            text_ids: Vec::new(),
            image_ids: Vec::new(),
            group_ids: Vec::new(),
            rejects: Vec::new(),
        };
        for (&row, pair) in rows.iter().zip(read) {
            match pair {
                Err(reject) => batch.rejects.push(reject),
                Ok((text, image)) => {
                    batch.items.push(self.items[row].id.clone());
                    batch.texts.push(text);
                    batch.images.push(image);
                    batch.image_ids.push(self.images[row]);
                    batch.group_ids.push(self.groups[row]);
                }
            }
        }
        Ok(batch)
    }
}
