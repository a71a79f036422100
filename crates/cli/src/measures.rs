//! What is measured during training and after every stage, on data that is not trained on.
//!
//! In:  the recipe's `[[measure]]` tables; towers. Out: figures by name (`flickr8k/text_to_image/recall@10`).
//! Definitions: `docs/metrics.md`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use conjoin_core::{Embeddings, Modality, Seed, Task, Tower};
use conjoin_data::{Dataset, Item, Judged, JudgedRule, Limits, PairFile, Split};
use conjoin_eval::{Metric, RetrievalTask, spearman};
use conjoin_input::{ImageLimits, InputContract, Pixels, TextContract, Tokenizer};
use conjoin_model::{ImageTower, TextTower};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    sources::{JudgedConfig, PairsConfig},
    tasks::relevance,
};

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
    /// A file of graded pairs of texts: how well cosines keep the order of the grades.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graded: Option<PairsConfig>,
    /// Judgements of items for queries; every judged item is to be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<JudgedConfig>,
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
            graded: None,
            judged: None,
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
    Graded(GradedTexts),
    Judged(JudgedTexts),
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
            let prepared = match (&config.items, &config.graded, &config.judged) {
                (Some(folder), None, None) => {
                    let dataset = Dataset::open(folder).with_context(in_it)?;
                    ItemPairs::prepare(&dataset, config, tokenizer, contract).map(Prepared::Items)
                }
                (None, Some(pairs), None) => {
                    GradedTexts::prepare(pairs, tokenizer, contract).map(Prepared::Graded)
                }
                (None, None, Some(judged)) => {
                    JudgedTexts::prepare(judged, tokenizer, contract).map(Prepared::Judged)
                }
                _ => bail!(
                    "`[[measure]]` `{}` needs one of `items`, `graded` and `judged`",
                    config.name
                ),
            };
            let prepared = prepared.with_context(in_it)?;
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
                Prepared::Graded(graded) => graded.measure(&config.name, text, &mut figures)?,
                Prepared::Judged(judged) => judged.measure(&config.name, text, &mut figures)?,
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
        let reader = TextReader::new(tokenizer, contract)?;
        let image = contract.image.as_ref().context("the model sees no pictures")?;
        let with_picture = dataset.iter_split(Split::Val).filter(|item| item.image.is_some());
        let held_out: Vec<&Item> = with_picture.take(config.limit.unwrap_or(usize::MAX)).collect();
        let read = |item: &&Item| {
            let bytes = dataset.image_bytes(item).ok()?;
            image.read(&bytes, &ImageLimits::default()).ok()
        };
        let pixels: Vec<Option<Pixels>> = held_out.par_iter().map(read).collect();
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
                if let Ok(tokens) = reader.tokens(words, &Task::Query) {
                    pairs.texts.push(tokens);
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
                relevance: relevance(of, among)?,
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

/// Pairs of texts with a grade each.
struct GradedTexts {
    first: Vec<Vec<u32>>,
    second: Vec<Vec<u32>>,
    grades: Vec<f32>,
}

impl GradedTexts {
    fn prepare(
        config: &PairsConfig,
        tokenizer: &Tokenizer,
        contract: &InputContract,
    ) -> Result<Self> {
        if config.columns.grade.is_none() {
            bail!("`graded.columns` needs `grade`");
        }
        let file =
            PairFile::open(&config.path, &config.columns, Some(Split::Val), &Limits::default())?;
        let reader = TextReader::new(tokenizer, contract)?;
        let mut graded = Self { first: Vec::new(), second: Vec::new(), grades: Vec::new() };
        for row in 0..file.len() {
            let row = file.read(row)?;
            // Both are of one kind, so both are read as documents are.
            graded.first.push(reader.tokens(&row.query, &Task::Passage)?);
            graded.second.push(reader.tokens(&row.document, &Task::Passage)?);
            graded.grades.extend(row.grade);
        }
        Ok(graded)
    }

    fn measure(&self, name: &str, text: &TextTower, figures: &mut Figures) -> Result<()> {
        let (first, second) = (embed(text, &self.first)?, embed(text, &self.second)?);
        let cosine =
            |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
        let cosines: Vec<f64> = first.rows().zip(second.rows()).map(cosine).collect();
        let grades: Vec<f64> = self.grades.iter().map(|grade| f64::from(*grade)).collect();
        let name = format!("{name}/spearman");
        figures.add(name.clone(), spearman(&cosines, &grades));
        figures.judge_by(name);
        Ok(())
    }
}

/// Queries, and every item that was judged for one of them.
struct JudgedTexts {
    queries: Vec<Vec<u32>>,
    items: Vec<Vec<u32>>,
    relevance: Vec<Vec<(u32, f32)>>,
}

impl JudgedTexts {
    fn prepare(
        config: &JudgedConfig,
        tokenizer: &Tokenizer,
        contract: &InputContract,
    ) -> Result<Self> {
        // Every judgement is wanted, so every grade is a positive one.
        let rule = JudgedRule { positive_from: f32::MIN, negative_below: f32::MIN, n_negatives: 0 };
        let JudgedConfig { judgements, items, columns, .. } = config;
        let judged = Judged::open(judgements, items, columns, &rule, &Limits::default())?;
        let reader = TextReader::new(tokenizer, contract)?;
        let mut all = Self { queries: Vec::new(), items: Vec::new(), relevance: Vec::new() };
        let (mut known_queries, mut known_items) = (BTreeMap::new(), BTreeMap::new());
        for row in 0..judged.len() {
            let row = judged.read(row, Seed(0))?;
            let query = match known_queries.get(&row.query) {
                Some(known) => *known,
                None => {
                    all.queries.push(reader.tokens(&row.query, &Task::Query)?);
                    all.relevance.push(Vec::new());
                    known_queries.insert(row.query, all.queries.len() - 1);
                    all.queries.len() - 1
                }
            };
            let item = match known_items.get(&row.document_id) {
                Some(known) => *known,
                None => {
                    all.items.push(reader.tokens(&row.document, &Task::Passage)?);
                    let item =
                        u32::try_from(all.items.len() - 1).context("fewer than 2^32 items")?;
                    known_items.insert(row.document_id, item);
                    item
                }
            };
            if row.grade >= config.rule.positive_from {
                all.relevance[query].push((item, row.grade));
            }
        }
        Ok(all)
    }

    fn measure(&self, name: &str, text: &TextTower, figures: &mut Figures) -> Result<()> {
        let task = RetrievalTask {
            name: name.to_owned(),
            query_modality: Modality::Text,
            item_modality: Modality::Text,
            queries: embed(text, &self.queries)?,
            corpus: embed(text, &self.items)?,
            ids: Vec::new(),
            relevance: self.relevance.clone(),
            exclude: Vec::new(),
        };
        let result = task.evaluate()?;
        for metric in [Metric::NdcgAt10, Metric::RecallAt10] {
            figures.add(format!("{name}/{}", metric.name()), result.value(metric));
        }
        figures.judge_by(format!("{name}/{}", Metric::NdcgAt10.name()));
        Ok(())
    }
}

/// Texts to tokens, as the model reads them.
struct TextReader<'a> {
    tokenizer: &'a Tokenizer,
    contract: &'a TextContract,
}

impl<'a> TextReader<'a> {
    fn new(tokenizer: &'a Tokenizer, contract: &'a InputContract) -> Result<Self> {
        let contract = contract.text.as_ref().context("the model reads no texts")?;
        Ok(Self { tokenizer, contract })
    }

    fn tokens(&self, text: &str, task: &Task) -> Result<Vec<u32>> {
        Ok(self.contract.encode_for(self.tokenizer, text, task)?.ids)
    }
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
