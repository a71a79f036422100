//! Embeds the same work again and again, when told to: conjoin's part of `benches/peers`.
//!
//! In:  MODEL, a folder of any known layout; the work, one of
//!      `--pixels FILE` (u8 `[b, side, side, 3]`, without a header), `--ids FILE` (a JSON list of lists),
//!      `--texts FILE` (a text per line; `--limit N` takes the first ones), `--jpegs FOLDER` (read into memory);
//!      `--threads N`, `--precision f32|bf16|int8`. Then lines on stdin: a number of repetitions each.
//! Out: lines of JSON on stdout. First `ready`: seconds from the start of loading to the first embedding; then the
//!      `vectors` of the first items, so that programs can be compared. Per line of stdin: the median `seconds` of
//!      the repetitions, and `items`. At the end of stdin: the most memory that was resident, in KiB.
//! Not here: other programs, ratios (`benches/peers/run.py`).
//!
//!     cargo run --release -p conjoin-model --example speed -- MODEL --pixels FILE --threads 2

use std::{
    error::Error,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use conjoin_core::{Embedder, Task, Tower};
use conjoin_engine::Precision;
use conjoin_input::Pixels;
use conjoin_model::Model;
use serde_json::json;

/// Vectors that are told for comparison.
const TOLD: usize = 4;

type Failed = Box<dyn Error>;

struct Options {
    model: PathBuf,
    work: (Kind, PathBuf),
    threads: usize,
    precision: Precision,
    limit: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Pixels,
    Ids,
    Texts,
    Jpegs,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Failed> {
        let (mut model, mut work) = (None, None);
        let (mut threads, mut precision, mut limit) = (1, Precision::F32, usize::MAX);
        while let Some(arg) = args.next() {
            let kind = match arg.as_str() {
                "--pixels" => Kind::Pixels,
                "--ids" => Kind::Ids,
                "--texts" => Kind::Texts,
                "--jpegs" => Kind::Jpegs,
                "--threads" | "--limit" | "--precision" => {
                    let value = args.next().ok_or_else(|| format!("`{arg}` needs a value"))?;
                    match arg.as_str() {
                        "--threads" => threads = value.parse()?,
                        "--limit" => limit = value.parse()?,
                        _ => precision = serde_json::from_value(value.into())?,
                    }
                    continue;
                }
                _ if arg.starts_with("--") => return Err(format!("no option `{arg}`").into()),
                _ => {
                    model = Some(PathBuf::from(arg));
                    continue;
                }
            };
            let path = args.next().ok_or_else(|| format!("`{arg}` needs a path"))?;
            work = Some((kind, PathBuf::from(path)));
        }
        let model = model.ok_or("expected a model's folder")?;
        let work = work.ok_or("expected --pixels, --ids, --texts or --jpegs")?;
        Ok(Self { model, work, threads, precision, limit })
    }
}

/// What is embedded in one run, in memory.
enum Work {
    Pixels(Vec<u8>),
    Ids(Vec<Vec<u32>>),
    Texts(Vec<String>),
    Jpegs(Vec<Vec<u8>>),
}

impl Work {
    fn read(kind: Kind, path: &Path, limit: usize) -> Result<Self, Failed> {
        Ok(match kind {
            Kind::Pixels => Self::Pixels(fs_err::read(path)?),
            Kind::Ids => Self::Ids(serde_json::from_slice(&fs_err::read(path)?)?),
            Kind::Texts => {
                let texts = fs_err::read_to_string(path)?;
                Self::Texts(texts.lines().take(limit).map(str::to_owned).collect())
            }
            Kind::Jpegs => {
                let entries = fs_err::read_dir(path)?.map(|entry| Ok(entry?.path()));
                let mut paths = entries.collect::<std::io::Result<Vec<_>>>()?;
                paths.sort();
                paths.truncate(limit);
                Self::Jpegs(paths.iter().map(fs_err::read).collect::<Result<_, _>>()?)
            }
        })
    }

    /// The inputs as `model` takes them, of the first `n` items.
    fn prepared(&self, model: &Model, n: usize) -> Result<Prepared<'_>, Failed> {
        Ok(match self {
            Self::Pixels(bytes) => {
                let contract = model.spec().contract.image.as_ref().ok_or("no image tower")?;
                let side = contract.size;
                let pictures = bytes.chunks_exact(3 * side * side).take(n);
                let pictures = pictures.map(|p| Pixels::new(side, side, p.to_vec()));
                Prepared::Pixels(pictures.collect::<Result<_, _>>()?)
            }
            Self::Ids(ids) => Prepared::Ids(ids.iter().take(n).collect()),
            Self::Texts(texts) => {
                Prepared::Texts(texts.iter().take(n).map(String::as_str).collect())
            }
            Self::Jpegs(files) => {
                Prepared::Jpegs(files.iter().take(n).map(Vec::as_slice).collect())
            }
        })
    }
}

enum Prepared<'a> {
    Pixels(Vec<Pixels>),
    Ids(Vec<&'a Vec<u32>>),
    Texts(Vec<&'a str>),
    Jpegs(Vec<&'a [u8]>),
}

impl Prepared<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Pixels(pictures) => pictures.len(),
            Self::Ids(ids) => ids.len(),
            Self::Texts(texts) => texts.len(),
            Self::Jpegs(files) => files.len(),
        }
    }

    /// The vectors, one behind the other.
    fn embed(&self, model: &Model) -> Result<Vec<f32>, Failed> {
        let parts = model.parts();
        Ok(match self {
            Self::Pixels(pictures) => {
                let tower = parts.image.as_ref().ok_or("no image tower")?;
                tower.embed(&pictures.iter().collect::<Vec<_>>())?.into_values()
            }
            Self::Ids(ids) => {
                let tower = parts.text.as_ref().ok_or("no text tower")?;
                tower.embed(ids)?.into_values()
            }
            Self::Texts(texts) => model.embed_texts(texts, &Task::Plain)?.vectors.into_values(),
            Self::Jpegs(files) => {
                let rows = model.embed_images(files)?.into_iter();
                rows.collect::<Result<Vec<_>, _>>()?.concat()
            }
        })
    }
}

/// The most memory that was ever resident, in KiB; 0 where the system does not tell.
fn peak_kib() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn main() -> Result<(), Failed> {
    let options = Options::parse(std::env::args().skip(1))?;
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let (kind, path) = &options.work;
    let work = Work::read(*kind, path, options.limit)?;

    let begun = Instant::now();
    let model = Model::open(&options.model)?.with_precision(options.precision);
    work.prepared(&model, 1)?.embed(&model)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", json!({"ready": begun.elapsed().as_secs_f64()}))?;

    let prepared = work.prepared(&model, usize::MAX)?;
    let vectors = work.prepared(&model, TOLD)?.embed(&model)?;
    let vectors: Vec<&[f32]> = vectors.chunks(model.width()).collect();
    writeln!(out, "{}", json!({"vectors": vectors}))?;
    for line in std::io::stdin().lock().lines() {
        let repetitions: usize = line?.trim().parse()?;
        let mut seconds = Vec::with_capacity(repetitions);
        for _ in 0..repetitions {
            let begun = Instant::now();
            prepared.embed(&model)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(repetitions / 2).ok_or("expected at least one repetition")?;
        writeln!(out, "{}", json!({"seconds": median, "items": prepared.len()}))?;
    }
    writeln!(out, "{}", json!({"peak_kib": peak_kib()}))?;
    Ok(())
}
