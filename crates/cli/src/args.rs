//! The command line as it is typed.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args as Group, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use conjoin_core::VectorName;
use conjoin_hub::ModelName;
use conjoin_model::{ExportTarget, LongText, Model, ModelErrorKind, Precision};
use serde::Serialize;

/// Multimodal embeddings in one tool: curate, train, adapt, measure, embed, index, search, serve.
///
/// Results go to standard output, everything else to standard error.
/// Exit codes: 0 done, 1 a check said no, 2 could not.
/// Ctrl-C stops at the next safe point; the same command goes on from there.
#[derive(Debug, Parser)]
#[command(
    name = "conjoin",
    version,
    max_term_width = 100,
    after_help = "Begin with `conjoin demo`, then `conjoin adapt YOUR-CATALOGUE`."
)]
pub(crate) struct Args {
    /// Print results and errors only.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole loop on bundled grocery data: train, measure, report, index, search page.
    #[command(after_help = "Example:\n  conjoin demo --no-serve --out demo")]
    Demo(Demo),
    /// Adapt a model to your catalogue, and keep it only if it got better (exit 1 if not).
    #[command(
        after_help = "Example:\n  conjoin adapt shop/products.csv --text title,description \\\n      --image photo --out adapted\n\nDone stages are kept: the same command goes on where it was stopped."
    )]
    Adapt(Adapt),
    /// Turn a raw catalogue into a dataset; bad rows are left out and listed in `rejects.jsonl`.
    #[command(
        after_help = "Example:\n  conjoin curate shop/products.csv --text title,description --image photo --out data"
    )]
    Curate(Curate),
    /// Train a model from a recipe; an interrupted run goes on where it stopped.
    #[command(
        after_help = "Examples:\n  conjoin train recipe.toml --check\n  conjoin train recipe.toml --set train.steps=500 --out run"
    )]
    Train(Train),
    /// Measure one model, or compare two, on a dataset's held-out part.
    #[command(
        after_help = "Example:\n  conjoin eval --model old/model --model new/model --data data --out report"
    )]
    Eval(Eval),
    /// Embed a dataset, or files of text and pictures.
    #[command(
        after_help = "Examples:\n  conjoin embed data --model run/model --out vectors\n  conjoin embed queries.txt photo.jpg --model run/model --format safetensors --out vectors"
    )]
    Embed(Embed),
    /// Write a model in the layout of a Python library, with a model card.
    #[command(
        after_help = "Examples:\n  conjoin export run/model --to sentence-transformers --out shop-embedder\n  conjoin export hf:openai/clip-vit-base-patch32 --to open_clip --out clip\n\nThe library gives the same vectors. Prints the lines of Python that open the model."
    )]
    Export(Export),
    /// Build a search index of a dataset.
    #[command(after_help = "Example:\n  conjoin index data --model run/model --out index")]
    Index(Index),
    /// Search an index by text, by picture, or by both.
    #[command(
        after_help = "Examples:\n  conjoin search index \"red apple\"\n  conjoin search index \"but green\" --image apple.jpg -k 5 --json"
    )]
    Search(Search),
    /// Order documents by how well they answer a query, with a cross-encoder or a ColBERT model.
    #[command(
        after_help = "Documents are lines: of text, or of JSON (`.jsonl`: a text, or an object with a field `text`).\n\nExamples:\n  conjoin rerank \"red apple\" products.txt --model models/ms-marco-MiniLM-L6-v2 -k 5\n  conjoin rerank \"red apple\" hits.jsonl --field title --model models/colbertv2.0 --json\n  cat answers.txt | conjoin rerank \"how do I bake bread\" --model models/bge-reranker-base"
    )]
    Rerank(Rerank),
    /// Serve embeddings, search and the search page over HTTP until Ctrl-C.
    #[command(
        after_help = "Example:\n  conjoin serve index --address 127.0.0.1:8080\n  curl http://127.0.0.1:8080/v1/search -H 'Content-Type: application/json' -d '{\"text\": \"red apple\"}'"
    )]
    Serve(Serve),
    /// Tell what was read of a model and why, its limits and licence, and whether it is right.
    ///
    /// A folder that holds references (`inputs.json`, `golden.safetensors`) is compared with them; exit
    /// code 1 means that a stage is off.
    #[command(
        after_help = "Examples:\n  conjoin doctor models/all-MiniLM-L6-v2\n  conjoin doctor hf:jinaai/jina-clip-v2 --json"
    )]
    Doctor(Doctor),
}

#[derive(Debug, Group)]
pub(crate) struct Doctor {
    /// The model: a folder, or `hf:OWNER/NAME`.
    pub model: ModelName,
    /// Do not measure the speed.
    #[arg(long)]
    pub no_speed: bool,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Measure the precisions on the first lines of this file (of a model that ranks: the first line is
    /// the query).
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Measure the precisions on the first pictures of this folder.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Write the precision that was found, for `--precision FILE.json`.
    #[arg(long, value_name = "FILE.json")]
    pub save_precision: Option<PathBuf>,
    /// Print everything as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Demo {
    /// Folder for the artefacts.
    #[arg(long, default_value = "conjoin-demo")]
    pub out: PathBuf,
    /// End after the searches instead of serving the page.
    #[arg(long)]
    pub no_serve: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
    /// Address and port of the search page; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,
    /// The seed of every random choice.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Which columns mean what.
#[derive(Debug, Clone, Group)]
pub(crate) struct ColumnArgs {
    /// Columns with the item's texts, the title first. Default: guessed from common names.
    #[arg(long, value_delimiter = ',')]
    pub text: Vec<String>,
    /// Column with the path of the picture. Default: guessed from common names.
    #[arg(long)]
    pub image: Option<String>,
    /// Column with a unique id. Default: guessed, else the row number.
    #[arg(long)]
    pub id: Option<String>,
    /// Column whose equal values mean "relevant to each other". Default: equal titles.
    #[arg(long)]
    pub group: Option<String>,
    /// Column with `train` or `val` (also validation, dev, test). Default: split or subset.
    #[arg(long)]
    pub split: Option<String>,
    /// Folder that picture paths are relative to. Default: the catalogue's own.
    #[arg(long)]
    pub image_root: Option<PathBuf>,
    /// Share of the groups held out where no split column decides, 0 to 1.
    #[arg(long, default_value_t = 0.1)]
    pub val_fraction: f64,
}

#[derive(Debug, Group)]
pub(crate) struct Adapt {
    /// The catalogue: CSV, TSV, JSONL (also .gz), Parquet, WebDataset tar, or a folder of pictures.
    pub catalogue: PathBuf,
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Folder for the artefacts.
    #[arg(long, default_value = "conjoin-adapt")]
    pub out: PathBuf,
    #[command(flatten)]
    pub start: StartArgs,
    /// Times every pair is seen, above 0. Default: 3 to 40, fewer the larger the catalogue.
    #[arg(long, value_parser = positive)]
    pub epochs: Option<f64>,
    /// Pairs per step, at least 2.
    #[arg(long, default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(2..=65_536))]
    pub batch: usize,
    /// Peak learning rate, above 0.
    #[arg(long, default_value_t = 1e-3, value_parser = positive)]
    pub lr: f64,
    /// The seed of every random choice.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What training starts from.
#[derive(Debug, Clone, Group)]
pub(crate) struct StartArgs {
    /// A model with both towers to start from: a folder or `hf:OWNER/NAME`.
    #[arg(long, conflicts_with_all = ["text_model", "size", "width"])]
    pub model: Option<ModelName>,
    /// A text model to start from: a folder or `hf:OWNER/NAME`. Default: a small new tower.
    #[arg(long)]
    pub text_model: Option<ModelName>,
    /// Side of the pictures in pixels, 32 to 1024.
    #[arg(long, default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(32..=1024))]
    pub size: usize,
    /// Width of the embeddings (numbers per vector), 8 to 4096.
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(8..=4096))]
    pub width: usize,
}

#[derive(Debug, Group)]
pub(crate) struct Curate {
    /// Catalogues, read in this order.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// The dataset's folder.
    #[arg(long)]
    pub out: PathBuf,
    /// Decides which groups are held out.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Train {
    /// The recipe (TOML).
    pub recipe: PathBuf,
    /// Folder for the run (`train/`) and the checkpoint (`model/`); overrides the recipe's.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Override a key of the recipe, as `train.steps=100`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Try the recipe in small, as its table `[smoke]` says.
    #[arg(long)]
    pub smoke: bool,
    /// Leave a stage out; may be repeated.
    #[arg(long, value_name = "STAGE")]
    pub skip: Vec<String>,
    /// Train a stage again, and those after it, although they are done.
    #[arg(long, value_name = "STAGE")]
    pub again: Option<String>,
    /// Check the recipe, print it with every override in it, and end.
    #[arg(long)]
    pub check: bool,
    /// Write the start and the first N batches instead of training, to run another trainer on them.
    #[arg(long, value_name = "N", conflicts_with = "check")]
    pub export_batches: Option<u64>,
}

#[derive(Debug, Group)]
pub(crate) struct Eval {
    /// A model: a folder or `hf:OWNER/NAME`; given twice: before, then after.
    #[arg(long, required = true)]
    pub model: Vec<ModelName>,
    /// The dataset's folder.
    #[arg(long)]
    pub data: PathBuf,
    /// A dataset of items to be found by the held-out pictures and titles.
    #[arg(long)]
    pub items: Option<PathBuf>,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Folder for the report (`report.html`, `report.json`). Default: none is written.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VectorFormat {
    /// One matrix per part, `NAME.npy`, and `NAME.ids.txt`.
    Npy,
    /// One file, matrices `text` and `image`, and their ids beside it.
    Safetensors,
}

#[derive(Debug, Group)]
pub(crate) struct Embed {
    /// Dataset folders or files: a picture is one vector, a `.txt` file one vector a line.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// The model: a folder or `hf:OWNER/NAME`.
    #[arg(long)]
    pub model: ModelName,
    /// Folder for the vectors.
    #[arg(long)]
    pub out: PathBuf,
    /// The format of the vectors.
    #[arg(long, value_enum, default_value_t = VectorFormat::Npy)]
    pub format: VectorFormat,
    /// What the texts are for: `query`, `passage`, `plain`, or a task the model has a prompt for
    /// (`conjoin doctor` lists them).
    #[arg(long, default_value = "passage")]
    pub task: String,
    #[command(flatten)]
    pub choice: VectorChoice,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LongTextArg {
    /// Its beginning is read, and a warning tells how many were cut.
    Cut,
    /// The mean of its pieces' vectors, weighted by tokens.
    Mean,
    /// Late chunking: all tokens are pooled together, each seen in its surroundings.
    Late,
}

/// How inputs larger than the model are read.
#[derive(Debug, Clone, Copy, Group)]
pub(crate) struct ReadingArgs {
    /// What becomes of a text longer than the model reads at once.
    #[arg(long, value_enum, default_value_t = LongTextArg::Cut)]
    pub long_text: LongTextArg,
    /// Look at large pictures in up to N x N pieces beside the whole; the vector is their mean.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    pub tiles: usize,
}

impl ReadingArgs {
    pub(crate) fn apply(self, model: Model) -> Result<Model, ModelErrorKind> {
        let long_text = match self.long_text {
            LongTextArg::Cut => LongText::Cut,
            LongTextArg::Mean => LongText::Mean,
            LongTextArg::Late => LongText::Late,
        };
        Ok(model.with_long_texts(long_text)?.with_tiles(self.tiles))
    }
}

/// How products are to be computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PrecisionChoice {
    /// As told.
    Fixed(Precision),
    /// As measured on a sample of the inputs.
    Auto,
    /// As a file says that `conjoin doctor` wrote.
    Plan(PathBuf),
}

impl Default for PrecisionChoice {
    fn default() -> Self {
        Self::Fixed(Precision::F32)
    }
}

impl FromStr for PrecisionChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::Fixed(Precision::F32)),
            "bf16" => Ok(Self::Fixed(Precision::Bf16)),
            "int8" => Ok(Self::Fixed(Precision::Int8)),
            "auto" => Ok(Self::Auto),
            _ if text.to_lowercase().ends_with(".json") => Ok(Self::Plan(text.into())),
            _ => Err("expected `f32`, `bf16`, `int8`, `auto` or a plan, `FILE.json`".to_owned()),
        }
    }
}

/// How exactly vectors are computed.
#[derive(Debug, Clone, Default, Group)]
pub(crate) struct PrecisionArgs {
    /// How products are computed: `f32`; `bf16`, faster, vectors at a cosine of 0.9995 or more to those of
    /// `f32`; `int8`, faster still, 0.99 or more of most models; `auto`, the fastest that is as near on the
    /// first inputs, which takes seconds to measure (an index is searched as it was made); or the file
    /// that `conjoin doctor MODEL --save-precision FILE.json` wrote.
    #[arg(
        long,
        value_name = "f32|bf16|int8|auto|FILE.json",
        default_value = "f32",
        hide_default_value = true
    )]
    pub precision: PrecisionChoice,
}

/// What a model leaves to its user.
#[derive(Debug, Default, Group)]
pub(crate) struct VectorChoice {
    /// Keep the first N numbers of every vector, at unit length; one of the widths the model was
    /// trained for.
    #[arg(long, value_name = "N")]
    pub dimensions: Option<usize>,
    /// The task whose adapter is merged into the weights, of models that hold some (jina-clip-v2).
    #[arg(long, value_name = "TASK")]
    pub adapter: Option<String>,
}

/// Whose layout a model is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportTo {
    /// Hugging Face transformers (and timm, for models of timm).
    Hf,
    /// sentence-transformers.
    SentenceTransformers,
    /// `open_clip`.
    #[value(name = "open_clip")]
    OpenClip,
}

impl From<ExportTo> for ExportTarget {
    fn from(to: ExportTo) -> Self {
        match to {
            ExportTo::Hf => Self::Hf,
            ExportTo::SentenceTransformers => Self::SentenceTransformers,
            ExportTo::OpenClip => Self::OpenClip,
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Export {
    /// The model: a folder or `hf:OWNER/NAME`.
    pub model: ModelName,
    /// The library.
    #[arg(long, value_enum)]
    pub to: ExportTo,
    /// Folder for the files; an older export there is replaced, anything else refused.
    #[arg(long)]
    pub out: PathBuf,
    /// A report whose figures the model card tells. Default: `report` beside the model, if it is about it.
    #[arg(long)]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Index {
    /// The dataset's folder.
    pub data: PathBuf,
    /// The model: a folder or `hf:OWNER/NAME`.
    #[arg(long)]
    pub model: ModelName,
    /// Folder for the index.
    #[arg(long)]
    pub out: PathBuf,
    #[command(flatten)]
    pub choice: VectorChoice,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Over {
    /// The text part.
    Text,
    /// The picture.
    Image,
    /// Both, on a common scale.
    Fused,
}

impl From<Over> for VectorName {
    fn from(over: Over) -> Self {
        match over {
            Over::Text => Self::Text,
            Over::Image => Self::Image,
            Over::Fused => Self::Fused,
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Search {
    /// The index's folder.
    pub index: PathBuf,
    /// The text to search for.
    #[arg(required_unless_present = "image")]
    pub query: Option<String>,
    /// A picture file to search for, alone or together with the text.
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// The model: a folder or `hf:OWNER/NAME`. Default: the one the index was made with.
    #[arg(long)]
    pub model: Option<ModelName>,
    /// The vectors to compare with.
    #[arg(long, value_enum, default_value_t = Over::Fused)]
    pub over: Over,
    /// How many hits to show, 1 to 1000.
    #[arg(long, short, default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub k: usize,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Print the hits as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Rerank {
    /// What the documents should answer.
    pub query: String,
    /// Files with a document per line; `-` reads standard input.
    #[arg(default_value = "-")]
    pub inputs: Vec<PathBuf>,
    /// The reranker: a folder or `hf:OWNER/NAME` with a cross-encoder or a ColBERT model.
    #[arg(long)]
    pub model: ModelName,
    /// The field of JSON lines that holds the document.
    #[arg(long, default_value = "text")]
    pub field: String,
    /// How many documents to show. Default: all.
    #[arg(long, short, default_value_t = usize::MAX, hide_default_value = true, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub k: usize,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Print the documents as JSON, with scores and how many tokens were read.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Serve {
    /// The index's folder.
    pub index: PathBuf,
    /// The model: a folder or `hf:OWNER/NAME`. Default: the one the index was made with.
    #[arg(long)]
    pub model: Option<ModelName>,
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

/// A finite number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("must be above 0".to_owned()) }
}
