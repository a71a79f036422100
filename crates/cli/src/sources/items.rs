//! Pairs of the items of a dataset: texts with pictures, texts with texts, pictures with pictures.

use anyhow::{Result, bail};
use conjoin_core::{Seed, Task, hash_bytes};
use conjoin_data::{Dataset, Item, Split};
use conjoin_train::{Ids, OwnedLabels};
use rand::Rng as _;
use rayon::prelude::*;

use super::{
    ItemsConfig, PairKind, TextChoice,
    batch::{Gathered, Loaded, Read, Reader, id, told},
    teacher::TeacherError,
};
use crate::items::{joined_text, title};

/// Pairs of the items of a dataset.
pub(crate) struct ItemSource<'a> {
    config: ItemsConfig,
    dataset: &'a Dataset,
    items: Vec<&'a Item>,
    /// Equal for items that show the same thing.
    groups: Vec<u64>,
    /// Equal for equal pictures.
    images: Vec<u64>,
    pub(super) reader: Reader<'a>,
    fingerprint: String,
}

impl<'a> ItemSource<'a> {
    pub(super) fn new(
        config: &ItemsConfig,
        dataset: &'a Dataset,
        reader: Reader<'a>,
    ) -> Result<Self> {
        let usable = |item: &&Item| match config.pair {
            PairKind::TextImage => item.image.is_some() && !item.texts.is_empty(),
            PairKind::TextText => item.texts.len() >= 2,
            PairKind::ImageImage => item.image.is_some(),
        };
        let items: Vec<&Item> = dataset.iter_split(Split::Train).filter(usable).collect();
        if items.is_empty() {
            let needed = match config.pair {
                PairKind::TextImage => "a text and a picture",
                PairKind::TextText => "two texts",
                PairKind::ImageImage => "a picture",
            };
            bail!("`{}` has no item to learn from with {needed}", config.path.display());
        }
        let hash = dataset.manifest_hash();
        let groups = items.iter().map(|item| id((&hash, &item.group))).collect();
        let image =
            |item: &&Item| item.image.as_ref().map_or_else(|| id(&item.id), |i| id(&i.sha256));
        let images = items.iter().map(image).collect();
        let ItemsConfig { pair, texts, first_share, .. } = config;
        let rules = serde_json::json!([hash, pair, texts, first_share, reader.rules()]);
        let fingerprint = hash_bytes(rules.to_string().as_bytes());
        let config = config.clone();
        Ok(Self { config, dataset, items, groups, images, reader, fingerprint })
    }

    fn read(&self, item: &Item, seed: Seed) -> Result<(Read, Read), String> {
        let text =
            |text: &str, task: &Task, name: &str| self.reader.text(text, task, seed.stream(name));
        let picture = |name: &str| {
            let bytes = self.dataset.image_bytes(item).map_err(|e| told(&e))?;
            self.reader.picture(&bytes, seed.stream(name))
        };
        match self.config.pair {
            // Pictures are searched for with texts, so these are embedded as queries are.
            PairKind::TextImage => {
                Ok((text(&self.text(item, seed), &Task::Query, "tokens")?, picture("image")?))
            }
            PairKind::TextText => {
                let [query, document] = two_texts(item, seed.stream("text"));
                let query = text(query, &Task::Query, "tokens")?;
                Ok((query, text(document, &Task::Passage, "document")?))
            }
            PairKind::ImageImage => Ok((picture("image")?, picture("other")?.like_its_query())),
        }
    }

    fn text(&self, item: &Item, seed: Seed) -> String {
        let mut rng = seed.stream("text").rng();
        let first = rng.random::<f32>() < self.config.first_share;
        if let Some(title) = title(item).filter(|_| first) {
            return title.to_owned();
        }
        let mut texts: Vec<&str> = item.texts.iter().map(|(_, text)| text.trim()).collect();
        match self.config.texts {
            TextChoice::Joined => return joined_text(item).unwrap_or_default(),
            TextChoice::Any => texts = vec![texts[rng.random_range(0..texts.len())]],
            TextChoice::Shuffled => rand::seq::SliceRandom::shuffle(&mut texts[..], &mut rng),
        }
        texts.join(". ")
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn aspects(&self) -> Vec<&[u64]> {
        vec![&self.groups, &self.images]
    }

    pub(super) fn load(&self, rows: &[usize], seed: Seed) -> Result<Loaded, TeacherError> {
        let read: Vec<_> =
            rows.par_iter().map(|&row| self.read(self.items[row], seed.at(row as u64))).collect();
        let mut loaded = Gathered::default();
        let (mut groups, mut images) = (Ids::default(), Ids::default());
        for (&row, pair) in rows.iter().zip(read) {
            let item = self.items[row].id.clone();
            match pair {
                Err(reason) => loaded.reject(item, reason),
                Ok((query, document)) => {
                    loaded.add(item, (query, document, Vec::new()));
                    groups.queries.push(self.groups[row]);
                    images.queries.push(self.images[row]);
                }
            }
        }
        loaded.batch(vec![groups, images], OwnedLabels::None, self.reader.teacher)
    }
}

/// Two different texts of an item that has two.
fn two_texts(item: &Item, seed: Seed) -> [&str; 2] {
    let mut rng = seed.rng();
    let n = item.texts.len();
    let first = rng.random_range(0..n);
    let second = (first + rng.random_range(1..n)) % n;
    [first, second].map(|i| item.texts[i].1.trim())
}
