//! `conjoin rerank`: documents in the order in which they answer a query.
//!
//! In:  files of documents, one per line. Out: the best of them with score, file and line.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, bail};
use conjoin_core::{Progress, Relevance, Reranker, Stop};
use conjoin_model::open_reranker;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Outcome,
    args::Rerank,
    console::{Console, print},
    models,
};

/// Documents are scored this many at a time, so that a stop is heard.
const DOCUMENTS_PER_BLOCK: usize = 256;

/// Characters of a document that are shown.
const SHOWN_CHARS: usize = 80;

/// A line of a file.
struct Document {
    source: String,
    line: usize,
    text: String,
}

/// A scored document, as `--json` prints it.
#[derive(Serialize)]
struct Ranked<'a> {
    rank: usize,
    score: f32,
    source: &'a str,
    line: usize,
    text: &'a str,
    used_tokens: usize,
    total_tokens: usize,
}

pub(crate) fn run(args: &Rerank, console: &Console, stop: &Stop) -> Result<Outcome> {
    let documents = read_all(&args.inputs, &args.field)?;
    let mut model = open_reranker(&models::find(&args.model, console, stop)?.folder)?;
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    args.precision.apply_to_ranker(&mut model, (&args.query, &texts), (console, stop))?;
    let mut relevance: Vec<Relevance> = Vec::with_capacity(documents.len());
    for block in texts.chunks(DOCUMENTS_PER_BLOCK) {
        stop.check()?;
        relevance.extend(model.rerank(&args.query, block)?);
        console.update("rerank", relevance.len() as u64, Some(documents.len() as u64), "");
    }
    console.clear();
    let n_truncated = relevance.iter().filter(|relevance| relevance.tokens.is_truncated()).count();
    if n_truncated > 0 {
        console.warn(&format!(
            "{n_truncated} of {} documents were not read to the end: query and document have more \
             tokens than this model reads, {} together",
            documents.len(),
            model.max_tokens()
        ));
    }
    show(&ranked(&documents, &relevance, args.k), args.json)?;
    Ok(Outcome::Done)
}

fn show(ranked: &[Ranked<'_>], json: bool) -> Result<()> {
    if json {
        print(&serde_json::to_string(ranked)?)?;
        return Ok(());
    }
    for hit in ranked {
        let text: String = hit.text.chars().take(SHOWN_CHARS).collect();
        let place = format!("{}:{}", hit.source, hit.line);
        print(&format!("{:>3}. {:>9.4}  {place:<24} {text}", hit.rank, hit.score))?;
    }
    Ok(())
}

/// The best `k`; equal scores in the order of the files.
fn ranked<'a>(documents: &'a [Document], relevance: &[Relevance], k: usize) -> Vec<Ranked<'a>> {
    let mut pairs: Vec<(&Document, &Relevance)> = documents.iter().zip(relevance).collect();
    pairs.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    let best = pairs.into_iter().take(k).enumerate();
    best.map(|(i, (document, relevance))| Ranked {
        rank: i + 1,
        score: relevance.score,
        source: &document.source,
        line: document.line,
        text: &document.text,
        used_tokens: relevance.tokens.used,
        total_tokens: relevance.tokens.total,
    })
    .collect()
}

fn read_all(inputs: &[std::path::PathBuf], field: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for input in inputs {
        if input.as_os_str() == "-" {
            let mut content = String::new();
            std::io::stdin().read_to_string(&mut content).context("cannot read standard input")?;
            read_lines("-", &content, None, &mut documents)?;
        } else if input.is_dir() {
            bail!("`{}` is a folder; give files with a document per line", input.display());
        } else {
            let content = fs_err::read_to_string(input)?;
            let json = is_jsonl(input).then_some(field);
            read_lines(&input.display().to_string(), &content, json, &mut documents)?;
        }
    }
    if documents.is_empty() {
        bail!("there is no document: every line is empty");
    }
    Ok(documents)
}

fn is_jsonl(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| ["jsonl", "ndjson"].iter().any(|name| e.eq_ignore_ascii_case(name)))
}

/// A document per line that is not blank; of JSON lines, the text itself or the `field` of an object.
fn read_lines(
    source: &str,
    content: &str,
    field: Option<&str>,
    into: &mut Vec<Document>,
) -> Result<()> {
    for (i, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("line {} of `{source}`", i + 1);
        let text = match field {
            None => line.to_owned(),
            Some(field) => match serde_json::from_str(line).with_context(place)? {
                Value::String(text) => text,
                Value::Object(mut keys) => match keys.remove(field) {
                    Some(Value::String(text)) => text,
                    Some(_) | None => {
                        bail!("{} has no text `{field}`; `--field` names another one", place())
                    }
                },
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                    bail!("{} is neither a text nor an object", place())
                }
            },
        };
        into.push(Document { source: source.to_owned(), line: i + 1, text });
    }
    Ok(())
}
