//! The command line as it is typed.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use conjoin_core::VectorName;

/// Multimodal embeddings in one tool: curate, train, adapt, measure, embed, index, search, serve.
///
/// Data goes to standard output, everything else to standard error.
/// Exit codes: 0 done, 1 a check said no, 2 could not.
#[derive(Debug, Parser)]
#[command(name = "conjoin", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Say nothing but errors and results.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole loop on bundled grocery data: train, measure, report, index, search page.
    Demo(Demo),
    /// Adapt a model to your catalogue, and keep it only if it got better (exit 1 if not).
    Adapt(Adapt),
    /// Turn a raw catalogue into a dataset.
    Curate(Curate),
    /// Train a model from a recipe; an interrupted run goes on where it stopped.
    Train(Train),
    /// Measure one model, or compare two, on a dataset's held-out part.
    Eval(Eval),
    /// Embed a dataset, or files of text and pictures.
    Embed(Embed),
    /// Build a search index of a dataset.
    Index(Index),
    /// Search an index by text, by picture, or by both.
    Search(Search),
    /// Serve embeddings, search and the search page over HTTP.
    Serve(Serve),
}

#[derive(Debug, Group)]
pub(crate) struct Demo {
    /// Where the artefacts go.
    #[arg(long, default_value = "conjoin-demo")]
    pub out: PathBuf,
    /// End after the searches instead of serving the page.
    #[arg(long)]
    pub no_serve: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where to serve the page.
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
    /// Column with the path of the picture.
    #[arg(long)]
    pub image: Option<String>,
    /// Column with a unique id.
    #[arg(long)]
    pub id: Option<String>,
    /// Column whose equal values mean "relevant to each other". Default: equal titles.
    #[arg(long)]
    pub group: Option<String>,
    /// Column with train / val.
    #[arg(long)]
    pub split: Option<String>,
    /// Folder that picture paths are relative to. Default: the catalogue's own.
    #[arg(long)]
    pub image_root: Option<PathBuf>,
    /// Share of the groups held out when there is no split column.
    #[arg(long, default_value_t = 0.1)]
    pub val_fraction: f64,
}

#[derive(Debug, Group)]
pub(crate) struct Adapt {
    /// The catalogue: CSV, TSV, JSONL (also .gz), Parquet, WebDataset tar, or a folder of pictures.
    pub catalogue: PathBuf,
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Where the artefacts go.
    #[arg(long, default_value = "conjoin-adapt")]
    pub out: PathBuf,
    #[command(flatten)]
    pub start: StartArgs,
    /// Times every pair is seen. Default: chosen by the size of the catalogue.
    #[arg(long)]
    pub epochs: Option<f64>,
    /// Pairs per step.
    #[arg(long, default_value_t = 128)]
    pub batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f64,
    /// The seed of every random choice.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What training starts from.
#[derive(Debug, Clone, Group)]
pub(crate) struct StartArgs {
    /// A conjoin checkpoint with both towers to start from.
    #[arg(long, conflicts_with_all = ["text_model", "size", "width"])]
    pub model: Option<PathBuf>,
    /// A text model to start from (a sentence-transformers folder). Default: a small new tower.
    #[arg(long)]
    pub text_model: Option<PathBuf>,
    /// Side of the pictures in pixels.
    #[arg(long, default_value_t = 128)]
    pub size: usize,
    /// Width of the embeddings.
    #[arg(long, default_value_t = 256)]
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
    /// Where the run and the checkpoint go; overrides the recipe.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Override a key of the recipe, as `train.steps=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Check the recipe, print it resolved, and end.
    #[arg(long)]
    pub check: bool,
    /// Write the start and the first N batches instead of training, to run another trainer on them.
    #[arg(long, value_name = "N", conflicts_with = "check")]
    pub export_batches: Option<u64>,
}

#[derive(Debug, Group)]
pub(crate) struct Eval {
    /// The model; given twice: before, then after.
    #[arg(long, required = true)]
    pub model: Vec<PathBuf>,
    /// The dataset.
    #[arg(long)]
    pub data: PathBuf,
    /// A dataset of items to find by the dataset's pictures.
    #[arg(long)]
    pub items: Option<PathBuf>,
    /// Where the report goes.
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
    /// A dataset folder, or files: pictures are embedded whole, `.txt` files line by line.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// The model.
    #[arg(long)]
    pub model: PathBuf,
    /// The folder for the vectors.
    #[arg(long)]
    pub out: PathBuf,
    /// The format of the vectors.
    #[arg(long, value_enum, default_value_t = VectorFormat::Npy)]
    pub format: VectorFormat,
}

#[derive(Debug, Group)]
pub(crate) struct Index {
    /// The dataset.
    pub data: PathBuf,
    /// The model.
    #[arg(long)]
    pub model: PathBuf,
    /// The index's folder.
    #[arg(long)]
    pub out: PathBuf,
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
    /// The index.
    pub index: PathBuf,
    /// What to search for.
    #[arg(required_unless_present = "image")]
    pub query: Option<String>,
    /// A picture to search for, alone or with the text.
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// The model. Default: the one the index was made with.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// The vectors to compare with.
    #[arg(long, value_enum, default_value_t = Over::Fused)]
    pub over: Over,
    /// How many hits to show.
    #[arg(long, short, default_value_t = 10)]
    pub k: usize,
    /// Print the hits as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Serve {
    /// The index.
    pub index: PathBuf,
    /// The model. Default: the one the index was made with.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,
}
