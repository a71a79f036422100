//! What a task learns from: texts and pictures of datasets, prepared for training on other threads.
//!
//! In:  a task's [`DataConfig`]s, a [`Preparation`]. Out: [`TaskSource`]s: token ids and changed pixels.

mod batch;
mod items;
mod shards;
mod teacher;
mod texts;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use conjoin_core::{Modality, Seed, Stop};
use conjoin_data::{
    Dataset, Judged, JudgedColumns, JudgedRule, Limits, PairColumns, PairFile, Shards,
    ShardsConfig, ShardsError, Split,
};
use conjoin_input::Pixels;
use conjoin_train::{LabelKind, Rows, Source, Weighted};
use serde::{Deserialize, Serialize};

use crate::{
    console::Console,
    recipe::{Stage, StageTask},
};
use batch::{Loaded, Reader};
use items::ItemSource;
use shards::{DrawnSamples, ShardSource};
use teacher::{Teacher, TeacherError};
use texts::{TextRows, TextSource};

pub(crate) use batch::Preparation;
pub(crate) use teacher::TeacherConfig;

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
    /// Pictures with captions, streamed from WebDataset shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardsConfig>,
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
        Self { weight: 1.0, items: Some(items), shards: None, pairs: None, judged: None }
    }

    /// Whether its pairs are a text and a picture.
    pub(crate) fn is_text_image(&self) -> bool {
        let of_items = self.items.as_ref().is_some_and(|items| items.pair == PairKind::TextImage);
        of_items || self.shards.is_some()
    }

    /// Passes when a teacher can look at its pairs.
    fn check_teacher(&self, teacher: &Teacher) -> Result<()> {
        match self.items.as_ref().map(|items| items.pair) {
            Some(PairKind::ImageImage) => {
                teacher.needs(Modality::Image, "the task has pairs of pictures")
            }
            Some(PairKind::TextImage | PairKind::TextText) | None => {
                teacher.needs(Modality::Text, "the task has texts")
            }
        }
    }

    /// Opens it.
    pub(crate) fn open(&self, (console, stop): (&Console, &Stop)) -> Result<OpenData> {
        let limits = Limits::default();
        match (&self.items, &self.shards, &self.pairs, &self.judged) {
            (Some(items), None, None, None) => {
                let share = items.first_share;
                if !(0.0..=1.0).contains(&share) {
                    bail!("`first_share` is {share}, it must be 0 to 1");
                }
                Ok(OpenData::Items(Dataset::open(&items.path)?, items.clone()))
            }
            (None, Some(shards), None, None) => {
                Ok(OpenData::Shards(Shards::open(shards, &limits, (console, stop))?))
            }
            (None, None, Some(PairsConfig { path, columns }), None) => {
                let file = PairFile::open(path, columns, Some(Split::Train), &limits)?;
                let labels = match (columns.scores.is_empty(), &columns.grade) {
                    (false, _) => LabelKind::TeacherScores,
                    (true, Some(_)) => LabelKind::Grades,
                    (true, None) => LabelKind::None,
                };
                Ok(OpenData::Pairs(file, labels))
            }
            (None, None, None, Some(JudgedConfig { judgements, items, columns, rule })) => {
                let judged = Judged::open(judgements, items, columns, rule, &limits)?;
                Ok(OpenData::Judged(judged, rule.n_negatives))
            }
            _ => bail!("an entry of `data` needs one of `items`, `shards`, `pairs` and `judged`"),
        }
    }
}

/// Opened data, before it is prepared for a model.
pub(crate) enum OpenData {
    Items(Dataset, ItemsConfig),
    Shards(Shards),
    Pairs(PairFile, LabelKind),
    Judged(Judged, usize),
}

impl OpenData {
    /// Identifies the data.
    pub(crate) fn fingerprint(&self) -> String {
        match self {
            Self::Items(dataset, _) => dataset.manifest_hash(),
            Self::Shards(shards) => shards.fingerprint().to_owned(),
            Self::Pairs(file, _) => file.fingerprint().to_owned(),
            Self::Judged(judged, _) => judged.fingerprint().to_owned(),
        }
    }

    /// What was left out of it, in words; none where nothing was. Of what is streamed, every step tells
    /// its own.
    pub(crate) fn rejects(&self) -> Option<String> {
        let rejects = match self {
            Self::Items(..) | Self::Shards(_) => return None,
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
            Self::Shards(_) | Self::Pairs(..) | Self::Judged(..) => None,
        }
    }
}

/// The rows of one data set of a task.
pub(crate) enum TaskSource<'a> {
    Items(ItemSource<'a>),
    Shards(ShardSource<'a>),
    Texts(TextSource<'a>),
}

/// Rows of a [`TaskSource`] on their way into a batch.
pub(crate) enum Drawn {
    Rows(Vec<usize>),
    Samples(DrawnSamples),
}

impl<'a> TaskSource<'a> {
    /// Prepares opened data for a model.
    pub(crate) fn new(data: &'a OpenData, reader: Reader<'a>) -> Result<Self> {
        Ok(match data {
            OpenData::Items(dataset, config) => {
                Self::Items(ItemSource::new(config, dataset, reader)?)
            }
            OpenData::Shards(shards) => Self::Shards(ShardSource::new(shards, reader)),
            OpenData::Pairs(file, labels) => {
                Self::Texts(TextSource::new(TextRows::Pairs(file, *labels), reader))
            }
            OpenData::Judged(judged, n_negatives) => {
                Self::Texts(TextSource::new(TextRows::Judged(judged, *n_negatives), reader))
            }
        })
    }
}

/// Why nothing could be read for a batch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Shards(#[from] ShardsError),
    #[error(transparent)]
    Teacher(#[from] TeacherError),
}

impl Source for TaskSource<'_> {
    type Text = Vec<u32>;
    type Image = Pixels;
    type Drawn = Drawn;
    type Error = SourceError;

    fn len(&self) -> usize {
        match self {
            Self::Items(items) => items.len(),
            Self::Shards(shards) => shards.len(),
            Self::Texts(texts) => texts.rows().len(),
        }
    }

    fn fingerprint(&self) -> &str {
        match self {
            Self::Items(items) => items.fingerprint(),
            Self::Shards(shards) => shards.fingerprint(),
            Self::Texts(texts) => texts.fingerprint(),
        }
    }

    fn labels(&self) -> LabelKind {
        match self {
            Self::Items(_) | Self::Shards(_) => LabelKind::None,
            Self::Texts(texts) => texts.rows().labels(),
        }
    }

    fn n_negatives(&self) -> usize {
        match self {
            Self::Items(_) | Self::Shards(_) => 0,
            Self::Texts(texts) => texts.rows().n_negatives(),
        }
    }

    fn has_teacher(&self) -> bool {
        let reader = match self {
            Self::Items(items) => &items.reader,
            Self::Shards(shards) => &shards.reader,
            Self::Texts(texts) => &texts.reader,
        };
        reader.teacher.is_some()
    }

    fn aspects(&self) -> Vec<&[u64]> {
        match self {
            Self::Items(items) => items.aspects(),
            Self::Shards(_) => Vec::new(),
            Self::Texts(texts) => texts.rows().aspects().all(),
        }
    }

    fn is_streamed(&self) -> bool {
        matches!(self, Self::Shards(_))
    }

    fn draw(&self, rows: Rows) -> Result<Drawn, SourceError> {
        match self {
            Self::Items(_) | Self::Texts(_) => Ok(Drawn::Rows(rows.numbers)),
            Self::Shards(shards) => Ok(Drawn::Samples(shards.draw(rows)?)),
        }
    }

    fn load(&self, drawn: Drawn, seed: Seed) -> Result<Loaded, SourceError> {
        Ok(match (self, drawn) {
            (Self::Items(items), Drawn::Rows(rows)) => items.load(&rows, seed)?,
            (Self::Texts(texts), Drawn::Rows(rows)) => texts.load(&rows, seed)?,
            (Self::Shards(shards), Drawn::Samples(samples)) => shards.load(samples, seed)?,
            _ => unreachable!("a source is given what it drew"),
        })
    }
}

/// The data of all tasks of a stage, opened.
pub(crate) struct StageData {
    tasks: Vec<OpenTask>,
}

/// What a task reads.
struct OpenTask {
    name: String,
    /// Per entry of its `data`.
    data: Vec<(DataConfig, OpenData)>,
    teacher: Option<Teacher>,
}

impl OpenTask {
    fn open(task: &StageTask, watch: (&Console, &Stop)) -> Result<Self> {
        let teacher = task.teacher.as_ref().map(TeacherConfig::open).transpose()?.flatten();
        let open = |data: &DataConfig| {
            teacher.iter().try_for_each(|teacher| data.check_teacher(teacher))?;
            Ok((data.clone(), data.open(watch)?))
        };
        let data = task.data.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { name: task.name.clone(), data, teacher })
    }
}

impl StageData {
    /// Opens the data of every task, and its teacher.
    pub(crate) fn open(stage: &Stage, watch: (&Console, &Stop)) -> Result<Self> {
        let tasks = stage.tasks.iter().map(|task| {
            if task.data.is_empty() {
                bail!("task `{}` of stage `{}` has no `data`", task.name, stage.name);
            }
            OpenTask::open(task, watch).with_context(|| {
                format!("the data of task `{}` of stage `{}`", task.name, stage.name)
            })
        });
        Ok(Self { tasks: tasks.collect::<Result<_>>()? })
    }

    fn data(&self) -> impl Iterator<Item = &OpenData> {
        self.tasks.iter().flat_map(|task| &task.data).map(|(_, data)| data)
    }

    /// What a run on these data with these teachers, and no others, can go on with, by name.
    pub(crate) fn fingerprints(&self) -> Vec<(String, String)> {
        let name = |i| if i == 0 { "data".to_owned() } else { format!("data.{i}") };
        let data = self.data().enumerate().map(|(i, data)| (name(i), data.fingerprint()));
        let taught =
            self.tasks.iter().filter_map(|task| Some((&task.name, task.teacher.as_ref()?)));
        let teachers =
            taught.map(|(task, t)| (format!("teacher.{task}"), t.fingerprint().to_owned()));
        data.chain(teachers).collect()
    }

    /// What was left out of the data, in words.
    pub(crate) fn rejects(&self) -> Vec<String> {
        self.data().filter_map(OpenData::rejects).collect()
    }

    /// The first dataset of items.
    pub(crate) fn dataset(&self) -> Option<&Dataset> {
        self.data().find_map(OpenData::dataset)
    }

    /// Prepares all for a model.
    pub(crate) fn sources<'a>(
        &'a self,
        preparation: &'a Preparation<'a>,
    ) -> Result<Vec<Vec<TaskSource<'a>>>> {
        let prepared = |task: &'a OpenTask| {
            let reader = Reader { preparation, teacher: task.teacher.as_ref() };
            task.data.iter().map(|(_, data)| TaskSource::new(data, reader)).collect()
        };
        self.tasks.iter().map(prepared).collect()
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
        tasks.map(|(sources, task)| sources.iter().zip(&task.data).map(pair).collect()).collect()
    }
}
