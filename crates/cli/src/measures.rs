//! What is measured during training and after every stage, on data that is not trained on.
//!
//! In:  the recipe's `[[measure]]` tables; towers. Out: figures by name (`flickr8k/text_to_image/recall@10`).
//! Definitions: `docs/metrics.md`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use conjoin_core::{Embeddings, Modality, Task, Tower};
use conjoin_data::{Dataset, Item, Split};
use conjoin_eval::{Metric, RetrievalTask};
use conjoin_input::{ImageLimits, InputContract, Pixels, Tokenizer};
use conjoin_model::{ImageTower, TextTower};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Something to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeasureConfig {
    /// Its name, before those of its figures.
    pub name: String,
    /// Whether it is also measured during a stage, and judges it; else after the stage only.
    #[serde(default = "yes")]
    pub during: bool,
    /// A dataset whose held-out items are found by each other's texts and pictures: its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<PathBuf>,
    /// The most items that are measured on; the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

fn yes() -> bool {
    true
}

impl MeasureConfig {
    /// Whether it judges a stage.
    pub(crate) fn during(&self) -> bool {
        self.during
    }

    /// Text to image and image to text on the held-out part of a dataset.
    pub(crate) fn held_out(dataset: &Path) -> Self {
        Self {
            name: "held-out".to_owned(),
            during: true,
            items: Some(dataset.to_owned()),
            limit: Some(1000),
        }
    }
}

/// Everything to measure, prepared once.
pub(crate) struct Measures {
    all: Vec<(MeasureConfig, Prepared)>,
}

enum Prepared {
    Items(ItemPairs),
}

/// Figures by name, and what a stage is judged by: the mean of each measure's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub values: BTreeMap<String, f64>,
    judging: Vec<(String, f64)>,
}

impl Figures {
    /// The mean of the measures' main figures; none where nothing was measured.
    pub(crate) fn judgement(&self) -> Option<f64> {
        let n = self.judging.len();
        (n > 0).then(|| self.judging.iter().map(|(_, value)| value).sum::<f64>() / n as f64)
    }

    /// The main figures, in words.
    pub(crate) fn summary(&self) -> String {
        let told =
            self.judging.iter().map(|(name, value)| format!("{name} {:.1} %", 100.0 * value));
        told.collect::<Vec<_>>().join(", ")
    }

    /// The main figures.
    pub(crate) fn judging(&self) -> &[(String, f64)] {
        &self.judging
    }

    fn add(&mut self, name: String, value: f64) {
        self.values.insert(name, value);
    }

    fn judge_by(&mut self, name: String) {
        let value = self.values[&name];
        self.judging.push((name, value));
    }
}

impl Measures {
    /// Opens and prepares all data; what cannot be read is left out.
    pub(crate) fn prepare(
        configs: &[MeasureConfig],
        tokenizer: &Tokenizer,
        contract: &InputContract,
    ) -> Result<Self> {
        let prepare = |config: &MeasureConfig| {
            let in_it = || format!("in `[[measure]]` `{}`", config.name);
            let Some(folder) = &config.items else {
                bail!("`[[measure]]` `{}` needs `items`", config.name)
            };
            let dataset = Dataset::open(folder).with_context(in_it)?;
            let items = ItemPairs::prepare(&dataset, config, tokenizer, contract);
            let prepared = Prepared::Items(items.with_context(in_it)?);
            Ok((config.clone(), prepared))
        };
        Ok(Self { all: configs.iter().map(prepare).collect::<Result<_>>()? })
    }

    /// The figures of two towers; `during` a stage only of those measures that are asked for then.
    pub(crate) fn figures(
        &self,
        (text, image): (&TextTower, &ImageTower),
        during: bool,
    ) -> Result<Figures> {
        let mut figures = Figures::default();
        for (config, prepared) in self.all.iter().filter(|(config, _)| config.during || !during) {
            match prepared {
                Prepared::Items(items) => items.measure(config, (text, image), &mut figures)?,
            }
        }
        Ok(figures)
    }
}

/// Held-out items: every text of an item, and its picture.
struct ItemPairs {
    texts: Vec<Vec<u32>>,
    text_groups: Vec<String>,
    pixels: Vec<Pixels>,
    picture_groups: Vec<String>,
}

impl ItemPairs {
    fn prepare(
        dataset: &Dataset,
        config: &MeasureConfig,
        tokenizer: &Tokenizer,
        contract: &InputContract,
    ) -> Result<Self> {
        let (Some(text), Some(image)) = (&contract.text, &contract.image) else {
            bail!("the model's input contract lacks a modality")
        };
        let with_picture = dataset.iter_split(Split::Val).filter(|item| item.image.is_some());
        let held_out: Vec<&Item> = with_picture.take(config.limit.unwrap_or(usize::MAX)).collect();
        let read = |item: &&Item| {
            let bytes = dataset.image_bytes(item).ok()?;
            image.read(&bytes, &ImageLimits::default()).ok()
        };
        let pixels: Vec<Option<Pixels>> = held_out.par_iter().map(read).collect();
        let prompt = text.prompt(&Task::Query).unwrap_or_default();
        let mut pairs = Self {
            texts: Vec::new(),
            text_groups: Vec::new(),
            pixels: Vec::new(),
            picture_groups: Vec::new(),
        };
        for (item, pixels) in held_out.iter().zip(pixels) {
            let Some(pixels) = pixels else { continue };
            pairs.pixels.push(pixels);
            pairs.picture_groups.push(item.group.clone());
            for (_, words) in &item.texts {
                if let Ok(tokens) = text.encode(tokenizer, &format!("{prompt}{words}")) {
                    pairs.texts.push(tokens.ids);
                    pairs.text_groups.push(item.group.clone());
                }
            }
        }
        Ok(pairs)
    }

    fn measure(
        &self,
        config: &MeasureConfig,
        (text, image): (&TextTower, &ImageTower),
        figures: &mut Figures,
    ) -> Result<()> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let texts = embed(text, &self.texts)?;
        let images = embed(image, &self.pixels)?;
        let (t, i) = (&self.text_groups, &self.picture_groups);
        let ways = [
            ("text_to_image", (Modality::Text, &texts, t), (Modality::Image, &images, i)),
            ("image_to_text", (Modality::Image, &images, i), (Modality::Text, &texts, t)),
        ];
        for (name, (query_modality, queries, of), (item_modality, corpus, among)) in ways {
            let task = RetrievalTask {
                name: name.to_owned(),
                query_modality,
                item_modality,
                queries: queries.clone(),
                corpus: corpus.clone(),
                ids: Vec::new(),
                relevance: relevance(of, among),
                exclude: Vec::new(),
            };
            let result = task.evaluate()?;
            for metric in [Metric::RecallAt1, Metric::RecallAt5, Metric::RecallAt10] {
                let name = format!("{}/{name}/{}", config.name, metric.name());
                figures.add(name, result.value(metric));
            }
        }
        let main = Metric::RecallAt10.name();
        figures.judge_by(format!("{}/text_to_image/{main}", config.name));
        Ok(())
    }
}

/// The rows of equal group.
fn relevance(queries: &[String], corpus: &[String]) -> Vec<Vec<(u32, f32)>> {
    let mut rows: BTreeMap<&str, Vec<(u32, f32)>> = BTreeMap::new();
    for (row, group) in (0_u32..).zip(corpus) {
        rows.entry(group).or_default().push((row, 1.0));
    }
    queries.iter().map(|group| rows.get(group.as_str()).cloned().unwrap_or_default()).collect()
}

/// Embeds in blocks, so that memory stays bounded.
fn embed<T: Tower>(tower: &T, inputs: &[T::Input]) -> Result<Embeddings> {
    const BLOCK: usize = 256;
    let mut all = Embeddings::zeros(0, tower.width());
    for block in inputs.chunks(BLOCK) {
        all.append(&tower.embed(&block.iter().collect::<Vec<_>>())?);
    }
    Ok(all)
}
