//! What a task learns from: texts and pictures of datasets, prepared for training on other threads.
//!
//! In:  a task's [`DataConfig`]s, a [`Preparation`]. Out: [`TaskSource`]s: token ids and changed pixels.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use conjoin_core::{Seed, Task, hash_bytes};
use conjoin_data::{
    Aspects, Dataset, Item, Judged, JudgedColumns, JudgedRule, Limits, PairColumns, PairFile,
    Split, text_hash,
};
use conjoin_input::{Augment, ImageContract, ImageLimits, Pixels, TextContract, Tokenizer, decode};
use conjoin_train::{Ids, Inputs, LabelKind, OwnedLabels, Reject, Source, TaskBatch, Weighted};
use rand::Rng as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::items::{joined_text, title};

/// Data of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// How often it is drawn beside the task's other data.
    #[serde(default = "one")]
    pub weight: f64,
    /// Texts and pictures of a dataset's items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemsConfig>,
    /// A file of text pairs, perhaps with hard negatives, grades or a teacher's scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsConfig>,
    /// Judgements of items for queries, with the items in another file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<JudgedConfig>,
}

/// Text pairs of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PairsConfig {
    /// CSV, TSV or JSONL, plain or gzipped.
    pub path: PathBuf,
    /// Which columns mean what.
    pub columns: PairColumns,
}

/// Rows of judgements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JudgedConfig {
    /// Who searched what, which item, how well it fitted.
    pub judgements: PathBuf,
    /// The items' texts.
    pub items: PathBuf,
    /// Which columns mean what.
    pub columns: JudgedColumns,
    /// What is a positive and what a negative.
    pub rule: JudgedRule,
}

fn one() -> f64 {
    1.0
}

/// Which pairs the items of a dataset give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ItemsConfig {
    /// The dataset's folder, made by `conjoin curate`.
    pub path: PathBuf,
    /// What queries and documents are.
    #[serde(default)]
    pub pair: PairKind,
    /// Which of an item's texts is read.
    #[serde(default)]
    pub texts: TextChoice,
    /// Probability of the first text alone instead, 0 to 1.
    #[serde(default)]
    pub first_share: f32,
}

/// What queries and documents are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PairKind {
    /// A text and the picture of the same item.
    #[default]
    TextImage,
    /// Two texts of the same item.
    TextText,
    /// The picture of an item, changed in two ways.
    ImageImage,
}

/// Which of an item's texts is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TextChoice {
    /// All, joined by full stops.
    #[default]
    Joined,
    /// One, drawn anew each time.
    Any,
    /// All, joined in an order drawn anew each time.
    Shuffled,
}

impl DataConfig {
    /// Titles, or all texts, and pictures, in equal shares.
    pub(crate) fn titles_and_pictures(dataset: &Path) -> Self {
        let items = ItemsConfig {
            path: dataset.to_owned(),
            pair: PairKind::TextImage,
            texts: TextChoice::Joined,
            first_share: 0.5,
        };
        Self { weight: 1.0, items: Some(items), pairs: None, judged: None }
    }

    /// Whether its pairs are a text and a picture.
    pub(crate) fn is_text_image(&self) -> bool {
        self.items.as_ref().is_some_and(|items| items.pair == PairKind::TextImage)
    }

    /// Opens it.
    pub(crate) fn open(&self) -> Result<OpenData> {
        let limits = Limits::default();
        match (&self.items, &self.pairs, &self.judged) {
            (Some(items), None, None) => {
                let share = items.first_share;
                if !(0.0..=1.0).contains(&share) {
                    bail!("`first_share` is {share}, it must be 0 to 1");
                }
                Ok(OpenData::Items(Dataset::open(&items.path)?, items.clone()))
            }
            (None, Some(PairsConfig { path, columns }), None) => {
                let file = PairFile::open(path, columns, Some(Split::Train), &limits)?;
                let labels = match (columns.scores.is_empty(), &columns.grade) {
                    (false, _) => LabelKind::TeacherScores,
                    (true, Some(_)) => LabelKind::Grades,
                    (true, None) => LabelKind::None,
                };
                Ok(OpenData::Pairs(file, labels))
            }
            (None, None, Some(JudgedConfig { judgements, items, columns, rule })) => {
                let judged = Judged::open(judgements, items, columns, rule, &limits)?;
                Ok(OpenData::Judged(judged, rule.n_negatives))
            }
            _ => bail!("an entry of `data` needs one of `items`, `pairs` and `judged`"),
        }
    }
}

/// Opened data, before it is prepared for a model.
pub(crate) enum OpenData {
    Items(Dataset, ItemsConfig),
    Pairs(PairFile, LabelKind),
    Judged(Judged, usize),
}

impl OpenData {
    /// Identifies the data.
    pub(crate) fn fingerprint(&self) -> String {
        match self {
            Self::Items(dataset, _) => dataset.manifest_hash(),
            Self::Pairs(file, _) => file.fingerprint().to_owned(),
            Self::Judged(judged, _) => judged.fingerprint().to_owned(),
        }
    }

    /// What was left out of it, in words; none where nothing was.
    pub(crate) fn rejects(&self) -> Option<String> {
        let rejects = match self {
            Self::Items(..) => return None,
            Self::Pairs(file, _) => file.rejects(),
            Self::Judged(judged, _) => judged.rejects(),
        };
        let reasons = rejects.reasons().iter().map(|(reason, n)| format!("{n} {reason}"));
        let reasons: Vec<String> = reasons.collect();
        let first = rejects.first().first()?;
        Some(format!(
            "{} rows left out ({}); the first at {}: {}",
            rejects.n(),
            reasons.join(", "),
            first.place,
            first.reason
        ))
    }

    /// The dataset, if it is one.
    pub(crate) fn dataset(&self) -> Option<&Dataset> {
        match self {
            Self::Items(dataset, _) => Some(dataset),
            Self::Pairs(..) | Self::Judged(..) => None,
        }
    }
}

/// How inputs are prepared.
pub(crate) struct Preparation<'a> {
    pub tokenizer: &'a Tokenizer,
    pub text: &'a TextContract,
    pub image: &'a ImageContract,
    pub augment: &'a Augment,
    /// Probability of leaving a token out.
    pub token_dropout: f32,
}

impl Preparation<'_> {
    /// The rules that decide what a row becomes.
    fn rules(&self) -> serde_json::Value {
        serde_json::json!([self.text, self.image, self.augment, self.token_dropout])
    }

    fn tokens(&self, text: &str, task: &Task, seed: Seed) -> Result<Vec<u32>, String> {
        let prompt = self.text.prompt(task).unwrap_or_default();
        let tokens = self.text.encode(self.tokenizer, &format!("{prompt}{text}"));
        let mut ids = tokens.map_err(|error| error.to_string())?.ids;
        // A model that reads its padding counts on the places of its tokens.
        if self.token_dropout > 0.0 && !self.text.padded && ids.len() > 3 {
            drop_tokens(&mut ids, self.token_dropout, seed);
        }
        Ok(ids)
    }

    fn picture(&self, dataset: &Dataset, item: &Item, seed: Seed) -> Result<Pixels, String> {
        let told = |error: &dyn std::error::Error| {
            let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
            format!("{error}{cause}")
        };
        let bytes = dataset.image_bytes(item).map_err(|e| told(&e))?;
        let pixels = decode(&bytes, &ImageLimits::default()).map_err(|e| told(&e))?;
        Ok(self.augment.apply(&pixels, self.image, seed))
    }
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

/// The rows of one data set of a task.
pub(crate) enum TaskSource<'a> {
    Items(ItemSource<'a>),
    Texts(TextSource<'a>),
}

impl<'a> TaskSource<'a> {
    /// Prepares opened data for a model.
    pub(crate) fn new(data: &'a OpenData, preparation: &'a Preparation<'a>) -> Result<Self> {
        Ok(match data {
            OpenData::Items(dataset, config) => {
                Self::Items(ItemSource::new(config, dataset, preparation)?)
            }
            OpenData::Pairs(file, labels) => {
                Self::Texts(TextSource::new(TextRows::Pairs(file, *labels), preparation))
            }
            OpenData::Judged(judged, n_negatives) => {
                Self::Texts(TextSource::new(TextRows::Judged(judged, *n_negatives), preparation))
            }
        })
    }
}

impl Source for TaskSource<'_> {
    type Text = Vec<u32>;
    type Image = Pixels;
    type Error = std::convert::Infallible;

    fn len(&self) -> usize {
        match self {
            Self::Items(items) => items.items.len(),
            Self::Texts(texts) => texts.rows.len(),
        }
    }

    fn fingerprint(&self) -> &str {
        match self {
            Self::Items(items) => &items.fingerprint,
            Self::Texts(texts) => &texts.fingerprint,
        }
    }

    fn labels(&self) -> LabelKind {
        match self {
            Self::Items(_) => LabelKind::None,
            Self::Texts(texts) => texts.rows.labels(),
        }
    }

    fn n_negatives(&self) -> usize {
        match self {
            Self::Items(_) => 0,
            Self::Texts(texts) => texts.rows.n_negatives(),
        }
    }

    fn aspects(&self) -> Vec<&[u64]> {
        match self {
            Self::Items(items) => vec![&items.groups, &items.images],
            Self::Texts(texts) => texts.rows.aspects().all(),
        }
    }

    fn load(&self, rows: &[usize], seed: Seed) -> Result<Loaded, Self::Error> {
        Ok(match self {
            Self::Items(items) => items.load(rows, seed),
            Self::Texts(texts) => texts.load(rows, seed),
        })
    }
}

/// Rows of texts.
enum TextRows<'a> {
    Pairs(&'a PairFile, LabelKind),
    Judged(&'a Judged, usize),
}

/// A row of texts.
struct TextRow {
    query: String,
    document: String,
    negatives: Vec<String>,
    grade: f32,
    scores: Vec<f32>,
}

impl TextRows<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Pairs(file, _) => file.len(),
            Self::Judged(judged, _) => judged.len(),
        }
    }

    fn labels(&self) -> LabelKind {
        match self {
            Self::Pairs(_, labels) => *labels,
            Self::Judged(..) => LabelKind::Grades,
        }
    }

    fn n_negatives(&self) -> usize {
        match self {
            Self::Pairs(file, _) => file.n_negatives(),
            Self::Judged(_, n_negatives) => *n_negatives,
        }
    }

    fn aspects(&self) -> &Aspects {
        match self {
            Self::Pairs(file, _) => file.aspects(),
            Self::Judged(judged, _) => judged.aspects(),
        }
    }

    fn fingerprint(&self) -> &str {
        match self {
            Self::Pairs(file, _) => file.fingerprint(),
            Self::Judged(judged, _) => judged.fingerprint(),
        }
    }

    fn name(&self, row: usize) -> String {
        match self {
            Self::Pairs(file, _) => file.id(row),
            Self::Judged(..) => format!("judgement {row}"),
        }
    }

    fn read(&self, row: usize, seed: Seed) -> Result<TextRow, String> {
        let told = |error: conjoin_data::TextRowError| format!("{error}: {}", error.kind);
        match self {
            Self::Pairs(file, _) => {
                let row = file.read(row).map_err(told)?;
                Ok(TextRow {
                    query: row.query,
                    document: row.document,
                    negatives: row.negatives,
                    grade: row.grade.unwrap_or_default(),
                    scores: row.scores,
                })
            }
            Self::Judged(judged, _) => {
                let row = judged.read(row, seed).map_err(told)?;
                Ok(TextRow {
                    query: row.query,
                    document: row.document,
                    negatives: row.negatives,
                    grade: row.grade,
                    scores: Vec::new(),
                })
            }
        }
    }
}

/// Pairs of texts, or queries with documents and hard negatives.
pub(crate) struct TextSource<'a> {
    rows: TextRows<'a>,
    preparation: &'a Preparation<'a>,
    fingerprint: String,
}

/// A row of texts as tokens, with what it is compared by.
struct TextInputs {
    inputs: (Input, Input, Vec<Input>),
    negatives: Vec<u64>,
    grade: f32,
    scores: Vec<f32>,
}

impl<'a> TextSource<'a> {
    fn new(rows: TextRows<'a>, preparation: &'a Preparation<'a>) -> Self {
        let rules = serde_json::json!([rows.fingerprint(), preparation.rules()]);
        let fingerprint = hash_bytes(rules.to_string().as_bytes());
        Self { rows, preparation, fingerprint }
    }

    fn read(&self, row: usize, seed: Seed) -> Result<TextInputs, String> {
        let TextRow { query, document, negatives, grade, scores } = self.rows.read(row, seed)?;
        let tokens = |text: &str, task: &Task, seed: Seed| {
            Ok::<_, String>(Input::Text(self.preparation.tokens(text, task, seed)?))
        };
        let negative = |(i, text): (usize, &String)| {
            tokens(text, &Task::Passage, seed.stream("negative").at(i as u64))
        };
        let inputs = (
            tokens(&query, &Task::Query, seed.stream("tokens"))?,
            tokens(&document, &Task::Passage, seed.stream("document"))?,
            negatives.iter().enumerate().map(negative).collect::<Result<_, _>>()?,
        );
        let negatives = negatives.iter().map(|text| text_hash(text)).collect();
        Ok(TextInputs { inputs, negatives, grade, scores })
    }

    fn load(&self, rows: &[usize], seed: Seed) -> Loaded {
        let read: Vec<_> =
            rows.par_iter().map(|&row| self.read(row, seed.at(row as u64))).collect();
        let known = self.rows.aspects();
        let mut loaded = Gathered::default();
        let (mut queries, mut documents, mut groups) =
            (Ids::default(), Ids::default(), Ids::default());
        let (mut negatives, mut grades, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for (&row, read) in rows.iter().zip(read) {
            let (inputs, rest) = match read {
                Ok(TextInputs { inputs, negatives, grade, scores }) => {
                    (Ok(inputs), Some((negatives, grade, scores)))
                }
                Err(reason) => (Err(reason), None),
            };
            loaded.add(self.rows.name(row), inputs);
            let Some((ids, grade, score)) = rest else { continue };
            queries.queries.push(known.queries[row]);
            documents.queries.push(known.documents[row]);
            groups.queries.extend(known.groups.get(row));
            negatives.extend(ids);
            grades.push(grade);
            scores.extend(score);
        }
        // Whatever is worded as the own document fits the query, whoever's negative it is.
        documents.documents = [documents.queries.as_slice(), &negatives].concat();
        let mut aspects = vec![queries, documents];
        aspects.extend((!groups.queries.is_empty()).then_some(groups));
        let labels = match self.rows.labels() {
            LabelKind::None => OwnedLabels::None,
            LabelKind::Grades => OwnedLabels::Grades(grades),
            LabelKind::TeacherScores => OwnedLabels::TeacherScores(scores),
        };
        loaded.batch(aspects, labels)
    }
}

type Loaded = TaskBatch<Vec<u32>, Pixels>;

/// Pairs of the items of a dataset.
pub(crate) struct ItemSource<'a> {
    config: ItemsConfig,
    dataset: &'a Dataset,
    items: Vec<&'a Item>,
    /// Equal for items that show the same thing.
    groups: Vec<u64>,
    /// Equal for equal pictures.
    images: Vec<u64>,
    preparation: &'a Preparation<'a>,
    fingerprint: String,
}

/// One input.
enum Input {
    Text(Vec<u32>),
    Image(Pixels),
}

impl<'a> ItemSource<'a> {
    fn new(
        config: &ItemsConfig,
        dataset: &'a Dataset,
        preparation: &'a Preparation<'a>,
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
        let rules = serde_json::json!([hash, pair, texts, first_share, preparation.rules()]);
        let fingerprint = hash_bytes(rules.to_string().as_bytes());
        let config = config.clone();
        Ok(Self { config, dataset, items, groups, images, preparation, fingerprint })
    }

    fn read(&self, item: &Item, seed: Seed) -> Result<(Input, Input), String> {
        let prepared = self.preparation;
        let text = |text: &str, task: &Task, name: &str| {
            Ok::<_, String>(Input::Text(prepared.tokens(text, task, seed.stream(name))?))
        };
        let picture = |name: &str| {
            Ok::<_, String>(Input::Image(prepared.picture(
                self.dataset,
                item,
                seed.stream(name),
            )?))
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
            PairKind::ImageImage => Ok((picture("image")?, picture("other")?)),
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

    fn load(&self, rows: &[usize], seed: Seed) -> Loaded {
        let read: Vec<_> =
            rows.par_iter().map(|&row| self.read(self.items[row], seed.at(row as u64))).collect();
        let mut loaded = Gathered::default();
        let (mut groups, mut images) = (Ids::default(), Ids::default());
        for (&row, pair) in rows.iter().zip(read) {
            let item = self.items[row].id.clone();
            if loaded.add(item, pair.map(|(query, document)| (query, document, Vec::new()))) {
                groups.queries.push(self.groups[row]);
                images.queries.push(self.images[row]);
            }
        }
        loaded.batch(vec![groups, images], OwnedLabels::None)
    }
}

/// Rows as they are read.
#[derive(Default)]
struct Gathered {
    items: Vec<String>,
    queries: Vec<Input>,
    documents: Vec<Input>,
    negatives: Vec<Input>,
    rejects: Vec<Reject>,
}

impl Gathered {
    /// Takes a row in, or what is wrong with it; whether it is good.
    fn add(&mut self, item: String, row: Result<(Input, Input, Vec<Input>), String>) -> bool {
        match row {
            Ok((query, document, negatives)) => {
                self.items.push(item);
                self.queries.push(query);
                self.documents.push(document);
                self.negatives.extend(negatives);
                true
            }
            Err(reason) => {
                self.rejects.push(Reject { item, reason });
                false
            }
        }
    }

    fn batch(mut self, aspects: Vec<Ids>, labels: OwnedLabels) -> Loaded {
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

/// Two different texts of an item that has two.
fn two_texts(item: &Item, seed: Seed) -> [&str; 2] {
    let mut rng = seed.rng();
    let n = item.texts.len();
    let first = rng.random_range(0..n);
    let second = (first + rng.random_range(1..n)) % n;
    [first, second].map(|i| item.texts[i].1.trim())
}

/// The same number for equal things, whatever source they come from.
fn id(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

/// The data of all tasks of a stage, opened.
pub(crate) struct StageData {
    /// Per task, per entry of its `data`.
    tasks: Vec<Vec<(DataConfig, OpenData)>>,
}

impl StageData {
    /// Opens the data of every task.
    pub(crate) fn open(stage: &crate::recipe::Stage) -> Result<Self> {
        let open = |data: &DataConfig| Ok((data.clone(), data.open()?));
        let tasks = stage.tasks.iter().map(|task| {
            if task.data.is_empty() {
                bail!("task `{}` of stage `{}` has no `data`", task.name, stage.name);
            }
            task.data.iter().map(open).collect::<Result<Vec<_>>>().with_context(|| {
                format!("the data of task `{}` of stage `{}`", task.name, stage.name)
            })
        });
        Ok(Self { tasks: tasks.collect::<Result<_>>()? })
    }

    /// What a run on these data and no others can go on with.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        self.tasks.iter().flatten().map(|(_, data)| data.fingerprint()).collect()
    }

    /// What was left out of the data, in words.
    pub(crate) fn rejects(&self) -> Vec<String> {
        self.tasks.iter().flatten().filter_map(|(_, data)| data.rejects()).collect()
    }

    /// The first dataset of items.
    pub(crate) fn dataset(&self) -> Option<&Dataset> {
        self.tasks.iter().flatten().find_map(|(_, data)| data.dataset())
    }

    /// Prepares all for a model.
    pub(crate) fn sources<'a>(
        &'a self,
        preparation: &'a Preparation<'a>,
    ) -> Result<Vec<Vec<TaskSource<'a>>>> {
        let prepared = |(_, data): &'a (DataConfig, OpenData)| TaskSource::new(data, preparation);
        self.tasks.iter().map(|task| task.iter().map(prepared).collect()).collect()
    }

    /// The sources with their weights, as the trainer takes them.
    pub(crate) fn weighted<'a, 's>(
        &self,
        sources: &'s [Vec<TaskSource<'a>>],
    ) -> Vec<Vec<Weighted<'s, TaskSource<'a>>>> {
        let pair = |(source, (config, _)): (&'s TaskSource<'a>, &(DataConfig, OpenData))| {
            Weighted { source, weight: config.weight }
        };
        let tasks = sources.iter().zip(&self.tasks);
        tasks.map(|(sources, data)| sources.iter().zip(data).map(pair).collect()).collect()
    }
}
