//! Pictures with captions, streamed from shards: read in order by one thread, decoded and prepared by all.

use conjoin_core::{Seed, Task, hash_bytes};
use conjoin_data::{ShardContent, ShardSample, Shards, ShardsError, text_hash};
use conjoin_train::{Ids, OwnedLabels, Rows};
use rand::Rng as _;
use rayon::prelude::*;

use super::{
    batch::{Gathered, Loaded, Read, Reader, id},
    teacher::TeacherError,
};

/// The samples of shards.
pub(crate) struct ShardSource<'a> {
    shards: &'a Shards,
    pub(super) reader: Reader<'a>,
    fingerprint: String,
}

/// Samples of a batch, still encoded, with their places.
pub(crate) struct DrawnSamples(Vec<(usize, ShardSample)>);

/// A sample with what it is compared by.
struct Prepared {
    text: Read,
    image: Read,
    text_id: u64,
    image_id: u64,
}

impl<'a> ShardSource<'a> {
    pub(super) fn new(shards: &'a Shards, reader: Reader<'a>) -> Self {
        let rules = serde_json::json!([shards.fingerprint(), reader.rules()]);
        let fingerprint = hash_bytes(rules.to_string().as_bytes());
        Self { shards, reader, fingerprint }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn draw(&self, rows: Rows) -> Result<DrawnSamples, ShardsError> {
        let samples = self.shards.draw(rows.order, &rows.numbers)?;
        Ok(DrawnSamples(rows.numbers.into_iter().zip(samples).collect()))
    }

    pub(super) fn load(&self, drawn: DrawnSamples, seed: Seed) -> Result<Loaded, TeacherError> {
        let prepare = |(place, sample): (usize, ShardSample)| {
            let content = sample.content.map_err(|reason| reason.sentence());
            let prepared =
                content.and_then(|content| self.prepare(&content, seed.at(place as u64)));
            (sample.id, prepared)
        };
        let prepared: Vec<_> = drawn.0.into_par_iter().map(prepare).collect();
        let mut loaded = Gathered::default();
        let (mut texts, mut images) = (Ids::default(), Ids::default());
        for (item, prepared) in prepared {
            match prepared {
                Err(reason) => loaded.reject(item, reason),
                Ok(Prepared { text, image, text_id, image_id }) => {
                    loaded.add(item, (text, image, Vec::new()));
                    texts.queries.push(text_id);
                    images.queries.push(image_id);
                }
            }
        }
        loaded.batch(vec![texts, images], OwnedLabels::None, self.reader.teacher)
    }

    /// One of the sample's captions, drawn anew each time, and its picture.
    fn prepare(&self, content: &ShardContent, seed: Seed) -> Result<Prepared, String> {
        let mut captions = self.shards.captions(content).map_err(|reason| reason.sentence())?;
        let caption = captions.remove(seed.stream("text").rng().random_range(0..captions.len()));
        Ok(Prepared {
            text: self.reader.text(&caption, &Task::Query, seed.stream("tokens"))?,
            image: self.reader.picture(&content.image, seed.stream("image"))?,
            text_id: text_hash(&caption),
            image_id: id(hash_bytes(&content.image)),
        })
    }
}
