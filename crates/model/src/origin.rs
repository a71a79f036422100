//! Where a model was read from, kept so that it can be written back.
//!
//! In:  a [`Plan`] and its folder. Out: an [`Origin`]: the folder's small files, and of which of our
//!      parameters every tensor of its weights is made. A checkpoint carries it as `origin.json`.
//! Not here: writing it (`export`). Format: `docs/format/checkpoint.md`.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    ModelErrorKind, Source, Weights,
    families::Plan,
    tower::TEXT_PREFIX,
    weights::{BATCH_NORM_EPS, BATCH_NORM_PARTS},
};

/// A folder of somebody else's layout that towers were read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// How the folder is laid out.
    pub layout: FolderLayout,
    /// Its small JSON files, by path relative to it, as they were.
    pub files: BTreeMap<String, String>,
    /// The tensors of its weights that our parameters make.
    pub tensors: Vec<ForeignTensor>,
}

/// How a folder of a model is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FolderLayout {
    /// `modules.json` around a transformers model.
    SentenceTransformers,
    /// A transformers `config.json`.
    Transformers,
    /// `open_clip_config.json`.
    OpenClip,
    /// A timm `config.json`.
    Timm,
    /// Keras' names.
    Keras,
}

/// One tensor of a weight file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignTensor {
    /// Its name there.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// What it holds.
    pub content: Content,
}

/// What a tensor holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Values of our parameters; zero where none reaches.
    Pieces(Vec<Piece>),
    /// One number everywhere.
    Filled(f32),
    /// The model's `log_scale`.
    LogScale,
    /// The model's `score_bias`.
    ScoreBias,
}

/// Consecutive values of one of our parameters, and where they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The parameter, with its tower's prefix.
    pub parameter: String,
    /// How its values are ordered before any are taken.
    pub order: Order,
    /// The first value that is taken.
    pub from: usize,
    /// How many are.
    pub count: usize,
    /// Where the first one goes.
    pub to: usize,
}

/// How a parameter's values are ordered for somebody else's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they are.
    Same,
    /// `[n, k]` as `[k, n]`, whatever the shape there.
    Transposed,
    /// `[n, y · x · c]` as PyTorch's kernel `[n, c, y, x]`.
    Kernel,
}

/// A configuration is kilobytes, with the names of many classes a megabyte.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// What is kept of a folder in all.
const MAX_FILES_BYTES: u64 = 4 << 20;

impl Origin {
    /// Describes the folder a plan was read from.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn of(folder: &Path, plan: &Plan) -> Result<Self, ModelErrorKind> {
        let files = small_files(folder)?;
        let layout = layout(&files);
        let tensors = tensors(&plan.names, &plan.weights)?;
        Ok(Self { layout, files, tensors })
    }

    /// The part about the text tower: the tensors that only its parameters make.
    #[must_use]
    pub fn of_text(mut self) -> Self {
        self.tensors.retain(|tensor| match &tensor.content {
            Content::Pieces(pieces) => pieces.iter().all(|p| p.parameter.starts_with(TEXT_PREFIX)),
            Content::Filled(_) | Content::LogScale | Content::ScoreBias => false,
        });
        self
    }

    /// Whether the parameter is written into some tensor.
    #[must_use]
    pub fn has(&self, parameter: &str) -> bool {
        self.tensors.iter().any(|tensor| match &tensor.content {
            Content::Pieces(pieces) => pieces.iter().any(|piece| piece.parameter == parameter),
            Content::Filled(_) | Content::LogScale | Content::ScoreBias => false,
        })
    }
}

fn layout(files: &BTreeMap<String, String>) -> FolderLayout {
    let config = files.get("config.json");
    let is_timm = config.is_some_and(|config| config.contains("\"architecture\""));
    if files.contains_key("modules.json") {
        FolderLayout::SentenceTransformers
    } else if is_timm {
        FolderLayout::Timm
    } else if config.is_some() {
        FolderLayout::Transformers
    } else if files.contains_key("open_clip_config.json") {
        FolderLayout::OpenClip
    } else {
        FolderLayout::Keras
    }
}

/// The JSON files of a folder and of the folders in it, but those that are written anew.
fn small_files(folder: &Path) -> Result<BTreeMap<String, String>, ModelErrorKind> {
    let (mut files, mut room) = (BTreeMap::new(), MAX_FILES_BYTES);
    for (name, is_folder) in entries(folder)? {
        if is_folder {
            for (inner, is_folder) in entries(&folder.join(&name))? {
                if !is_folder {
                    keep(folder, format!("{name}/{inner}"), &mut files, &mut room)?;
                }
            }
        } else {
            keep(folder, name, &mut files, &mut room)?;
        }
    }
    Ok(files)
}

/// Names in a folder, sorted, and whether each is a folder. Hidden ones are nobody's configuration.
fn entries(folder: &Path) -> Result<Vec<(String, bool)>, ModelErrorKind> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            // Follows links: the hub's cache is made of them.
            names.push((name, entry.path().is_dir()));
        }
    }
    names.sort();
    Ok(names)
}

fn keep(
    folder: &Path,
    name: String,
    files: &mut BTreeMap<String, String>,
    room: &mut u64,
) -> Result<(), ModelErrorKind> {
    let base = name.rsplit('/').next().unwrap_or(&name);
    let written_anew = ["tokenizer.json", "vocab.json", conjoin_core::MANIFEST_FILE];
    if !base.ends_with(".json") || base.ends_with(".index.json") || written_anew.contains(&base) {
        return Ok(());
    }
    let path = folder.join(&name);
    let size = fs_err::metadata(&path)?.len();
    if size > MAX_FILE_BYTES.min(*room) {
        return Ok(());
    }
    // What is no text is no configuration.
    if let Ok(text) = String::from_utf8(fs_err::read(&path)?) {
        *room -= size;
        files.insert(name, text);
    }
    Ok(())
}

/// Turns a name map around. Numbers that are read apart are known by the names all libraries share.
fn tensors(
    names: &[(String, Source)],
    weights: &Weights,
) -> Result<Vec<ForeignTensor>, ModelErrorKind> {
    let mut found = Turned::default();
    for (ours, source) in names {
        found.add(ours, source, &|name| Ok(weights.shape(name)?.to_vec()))?;
    }
    for (name, content) in [("logit_scale", Content::LogScale), ("logit_bias", Content::ScoreBias)]
    {
        if weights.has(name) {
            found.put(name, weights.shape(name)?.to_vec(), content);
        }
    }
    // A layer that no embedding goes through, but without which libraries warn of made-up numbers.
    for name in weights.names().filter(|name| name.contains("pooler.")) {
        if !found.has(name) {
            found.put(name, weights.shape(name)?.to_vec(), Content::Filled(0.0));
        }
    }
    Ok(found.tensors())
}

/// A name map that is being turned around.
#[derive(Debug, Default)]
pub(crate) struct Turned(BTreeMap<String, (Vec<usize>, Content)>);

/// Tells the shape of a tensor of the file.
pub(crate) type ShapeOf<'a> = &'a dyn Fn(&str) -> Result<Vec<usize>, ModelErrorKind>;

impl Turned {
    pub(crate) fn tensors(self) -> Vec<ForeignTensor> {
        let tensors = self.0.into_iter();
        tensors.map(|(name, (shape, content))| ForeignTensor { name, shape, content }).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn put(&mut self, name: &str, shape: Vec<usize>, content: Content) {
        self.0.insert(name.to_owned(), (shape, content));
    }

    /// Adds what `source` says of our parameter.
    pub(crate) fn add(
        &mut self,
        ours: &str,
        source: &Source,
        shape_of: ShapeOf<'_>,
    ) -> Result<(), ModelErrorKind> {
        let mut whole = |name: &str, order: Order| {
            let shape = shape_of(name)?;
            let count = shape.iter().product();
            self.piece(
                name,
                shape,
                Piece { parameter: ours.to_owned(), order, from: 0, count, to: 0 },
            );
            Ok(())
        };
        match source {
            Source::Same(name) | Source::Flattened(name) => whole(name, Order::Same),
            Source::Transposed(name) => whole(name, Order::Transposed),
            Source::PatchKernel(name) => whole(name, Order::Kernel),
            Source::Rows(names) => self.rows(ours, names, shape_of),
            Source::RowsFrom(name, first) => {
                let shape = shape_of(name)?;
                let count: usize = shape.iter().product();
                let to = (first * count / shape[0].max(1)).min(count);
                let (parameter, order) = (ours.to_owned(), Order::Same);
                let piece = Piece { parameter, order, from: 0, count: count - to, to };
                self.piece(name, shape, piece);
                Ok(())
            }
            Source::Span(name, rows) => {
                let shape = shape_of(name)?;
                let width = shape.iter().skip(1).product::<usize>();
                let (parameter, order) = (ours.to_owned(), Order::Same);
                let (count, to) = (rows.len() * width, rows.start * width);
                self.piece(name, shape, Piece { parameter, order, from: 0, count, to });
                Ok(())
            }
            // Every token gets a row of its own.
            Source::TokenRows { table, mapping, factors } => {
                let mut shape = shape_of(table)?;
                if let Some(rows) = mapping.as_ref().or(factors.as_ref()) {
                    shape[0] = shape_of(rows)?.first().copied().unwrap_or(0);
                }
                let (parameter, order) = (ours.to_owned(), Order::Same);
                let count = shape.iter().product();
                self.piece(table, shape, Piece { parameter, order, from: 0, count, to: 0 });
                Ok(())
            }
            // What was added stays in the sum, so that no adapter adds anything more.
            Source::Adapted { base, .. } => {
                for factor in ["0.lora_A", "0.lora_B"].map(|part| format!("{base}.{part}")) {
                    self.put(&factor, shape_of(&factor)?, Content::Filled(0.0));
                }
                self.add(ours, &Source::Same(format!("{base}.original")), shape_of)
            }
            Source::NormScale(prefix) => {
                let [gamma, _, mean, variance] = BATCH_NORM_PARTS.map(|p| format!("{prefix}/{p}"));
                self.put(&mean, shape_of(&mean)?, Content::Filled(0.0));
                self.put(&variance, shape_of(&variance)?, Content::Filled(1.0 - BATCH_NORM_EPS));
                self.add(ours, &Source::Same(gamma), shape_of)
            }
            Source::NormShift(prefix) => {
                let beta = format!("{prefix}/{}", BATCH_NORM_PARTS[1]);
                self.add(ours, &Source::Same(beta), shape_of)
            }
        }
    }

    fn rows(
        &mut self,
        ours: &str,
        names: &[String],
        shape_of: ShapeOf<'_>,
    ) -> Result<(), ModelErrorKind> {
        let mut from = 0;
        for name in names {
            let shape = shape_of(name)?;
            let count = shape.iter().product();
            let (parameter, order) = (ours.to_owned(), Order::Same);
            self.piece(name, shape, Piece { parameter, order, from, count, to: 0 });
            from += count;
        }
        Ok(())
    }

    pub(crate) fn piece(&mut self, name: &str, shape: Vec<usize>, piece: Piece) {
        let empty = (shape, Content::Pieces(Vec::new()));
        let (_, content) = self.0.entry(name.to_owned()).or_insert(empty);
        if let Content::Pieces(pieces) = content {
            pieces.push(piece);
        }
    }
}
