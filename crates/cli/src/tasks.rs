//! Which retrieval tasks a dataset gives, and their embeddings by a model.
//!
//! In:  the held-out items of a dataset, optionally a dataset of items to be found, a model.
//! Out: [`RetrievalTask`]s, and [`Cards`] that show their queries and items.
//! Relevance is by group: equal titles (or the given group column) are relevant to each other.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use conjoin_core::{Embedder, Embeddings, Modality, Progress, Stop, Task, TokenUse};
use conjoin_data::{Dataset, Item, Split};
use conjoin_eval::{Card, Cards, RetrievalTask};

use crate::{
    items::{joined_text, title},
    thumbnails::data_uri,
};

/// What is measured on.
pub(crate) struct Bench<'a> {
    /// The dataset whose held-out part is measured on.
    pub data: &'a Dataset,
    /// Items to be found by the held-out pictures and titles.
    pub items: Option<&'a Dataset>,
}

/// A task with what its rows are.
pub(crate) struct Measured<'a> {
    pub task: RetrievalTask,
    cards: TaskCards<'a>,
}

impl<'a> Measured<'a> {
    pub(crate) fn cards(&self) -> &TaskCards<'a> {
        &self.cards
    }
}

/// Embeds items part by part, in blocks, with progress.
pub(crate) fn embed_items(
    model: &dyn Embedder,
    (dataset, items): (&Dataset, &[&Item]),
    task: &Task,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<Parts>> {
    const BLOCK: usize = 64;
    let mut all = Vec::with_capacity(items.len());
    for block in items.chunks(BLOCK) {
        stop.check()?;
        all.extend(embed_block(model, (dataset, block), task, progress)?);
        progress.update("embed", all.len() as u64, Some(items.len() as u64), "");
    }
    warn_of_cut(model, n_cut(&all), items.len(), progress);
    Ok(all)
}

/// How many texts were not read to their end.
pub(crate) fn n_cut(parts: &[Parts]) -> usize {
    parts.iter().filter(|p| p.tokens.is_some_and(TokenUse::is_truncated)).count()
}

/// Tells how many texts were not read to their end.
pub(crate) fn warn_of_cut(
    model: &dyn Embedder,
    n_cut: usize,
    n_texts: usize,
    progress: &dyn Progress,
) {
    if let (1.., Some(limit)) = (n_cut, model.max_tokens()) {
        progress.warn(&format!(
            "{n_cut} of {n_texts} texts have more than {limit} tokens and were cut there"
        ));
    }
}

/// The unit vectors of an item's parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    pub text: Option<Vec<f32>>,
    pub image: Option<Vec<f32>>,
    /// How much of the text was read.
    pub tokens: Option<TokenUse>,
}

impl Parts {
    /// The renormalised mean of the parts there are.
    pub(crate) fn fused(&self) -> Option<Vec<f32>> {
        let (Some(text), Some(image)) = (&self.text, &self.image) else {
            return self.text.clone().or_else(|| self.image.clone());
        };
        let sum: Vec<f32> = text.iter().zip(image).map(|(t, i)| t + i).collect();
        let mut fused = Embeddings::new(sum.len(), sum).ok()?;
        fused.normalize();
        Some(fused.into_values())
    }
}

/// Embeds a block of items.
pub(crate) fn embed_block(
    model: &dyn Embedder,
    (dataset, items): (&Dataset, &[&Item]),
    task: &Task,
    progress: &dyn Progress,
) -> Result<Vec<Parts>> {
    let mut parts = vec![Parts::default(); items.len()];
    if model.modalities().contains(&Modality::Text) {
        let (rows, texts): (Vec<usize>, Vec<String>) =
            items.iter().enumerate().filter_map(|(i, item)| Some((i, joined_text(item)?))).unzip();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let found = model.embed_texts(&texts, task)?;
        let found = found.vectors.rows().zip(&found.tokens);
        for (row, (vector, tokens)) in rows.into_iter().zip(found) {
            // A table gives zeros for a text without a token it knows: no direction, no vector.
            let says_something = vector.iter().any(|v| *v != 0.0);
            parts[row].text = says_something.then(|| vector.to_vec());
            parts[row].tokens = Some(*tokens);
        }
    }
    if model.modalities().contains(&Modality::Image) {
        let with_image = items.iter().enumerate().filter(|(_, item)| item.image.is_some());
        let (rows, bytes): (Vec<usize>, Vec<Vec<u8>>) = with_image
            .map(|(i, item)| Ok((i, dataset.image_bytes(item)?)))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let bytes: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        for (row, vector) in rows.into_iter().zip(model.embed_images(&bytes)?) {
            match vector {
                Ok(vector) => parts[row].image = Some(vector),
                Err(error) => progress.warn(&format!("item `{}`: {error}", items[row].id)),
            }
        }
    }
    Ok(parts)
}

/// One side of a task: vectors, the group of each, and what to show.
struct SideOf<'a> {
    vectors: Vec<Vec<f32>>,
    groups: Vec<&'a str>,
    shown: Vec<Shown<'a>>,
}

/// What a row is shown as.
#[derive(Clone)]
struct Shown<'a> {
    text: Option<String>,
    picture: Option<(&'a Dataset, &'a Item)>,
}

impl<'a> SideOf<'a> {
    fn new() -> Self {
        Self { vectors: Vec::new(), groups: Vec::new(), shown: Vec::new() }
    }

    fn push(&mut self, vector: Vec<f32>, group: &'a str, shown: Shown<'a>) {
        self.vectors.push(vector);
        self.groups.push(group);
        self.shown.push(shown);
    }

    fn matrix(&self, width: usize) -> Result<Embeddings> {
        Ok(Embeddings::new(width, self.vectors.concat())?)
    }
}

/// Embeds the held-out part and makes every task the data allow.
pub(crate) fn measure<'a>(
    model: &dyn Embedder,
    bench: &Bench<'a>,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<Measured<'a>>> {
    let held_out: Vec<&Item> = bench.data.iter_split(Split::Val).collect();
    let parts = embed_items(model, (bench.data, &held_out), &Task::Passage, progress, stop)?;
    let images = images(bench.data, &held_out, &parts);
    let titles = texts(model, &held_out, &Task::Query, title)?;
    let mut tasks = Vec::new();
    let mut add =
        |name: &str, queries: &SideOf<'a>, (q, i), corpus: &SideOf<'a>, same| -> Result<()> {
            tasks.extend(task(name, queries, (q, i), corpus, same, model.width())?);
            Ok(())
        };
    use Modality::{Image, Text};
    add("text_to_image", &titles, (Text, Image), &images, false)?;
    if let Some(items) = bench.items {
        let all: Vec<&Item> = items.items().iter().collect();
        let parts = embed_items(model, (items, &all), &Task::Passage, progress, stop)?;
        let items = fused(items, &all, &parts);
        add("image_to_item", &images, (Image, Image), &items, false)?;
        add("text_to_item", &titles, (Text, Text), &items, false)?;
    } else {
        let found = texts(model, &held_out, &Task::Passage, title)?;
        add("image_to_text", &images, (Image, Text), &found, false)?;
        add("image_to_image", &images, (Image, Image), &images, true)?;
    }
    let rest = titles_of_rest(model, &held_out)?;
    add("text_to_text", &titles, (Text, Text), &rest, false)?;
    progress.finish("embed", &format!("{} held-out items, {} tasks", held_out.len(), tasks.len()));
    if tasks.is_empty() {
        bail!("the held-out part has no two parts that match; nothing can be measured");
    }
    Ok(tasks)
}

fn images<'a>(dataset: &'a Dataset, items: &[&'a Item], parts: &[Parts]) -> SideOf<'a> {
    let mut side = SideOf::new();
    for (item, parts) in items.iter().zip(parts) {
        if let Some(vector) = &parts.image {
            let text = title(item).map(ToOwned::to_owned);
            let shown = Shown { text, picture: Some((dataset, item)) };
            side.push(vector.clone(), &item.group, shown);
        }
    }
    side
}

fn fused<'a>(dataset: &'a Dataset, items: &[&'a Item], parts: &[Parts]) -> SideOf<'a> {
    let mut side = SideOf::new();
    for (item, parts) in items.iter().zip(parts) {
        if let Some(vector) = parts.fused() {
            let picture = item.image.as_ref().map(|_| (dataset, *item));
            let shown = Shown { text: title(item).map(ToOwned::to_owned), picture };
            side.push(vector, &item.group, shown);
        }
    }
    side
}

/// Different texts of the items, each once.
fn texts<'a>(
    model: &dyn Embedder,
    items: &[&'a Item],
    task: &Task,
    text: impl Fn(&'a Item) -> Option<&'a str>,
) -> Result<SideOf<'a>> {
    let mut first: BTreeMap<(&str, &str), ()> = BTreeMap::new();
    let mut unique: Vec<(&str, &str)> = Vec::new();
    for item in items {
        if let Some(text) = text(item)
            && first.insert((text, &item.group), ()).is_none()
        {
            unique.push((text, &item.group));
        }
    }
    let texts: Vec<&str> = unique.iter().map(|(text, _)| *text).collect();
    let vectors = model.embed_texts(&texts, task)?.vectors;
    let mut side = SideOf::new();
    for ((text, group), vector) in unique.into_iter().zip(vectors.rows()) {
        side.push(vector.to_vec(), group, Shown { text: Some(text.to_owned()), picture: None });
    }
    Ok(side)
}

/// The last text field of items with several (a description), each once.
fn titles_of_rest<'a>(model: &dyn Embedder, items: &[&'a Item]) -> Result<SideOf<'a>> {
    texts(model, items, &Task::Passage, |item| match item.texts.as_slice() {
        [_, .., (_, last)] => Some(last.as_str()),
        _ => None,
    })
}

/// `None` when no query has a relevant row.
fn task<'a>(
    name: &str,
    queries: &SideOf<'a>,
    (query_modality, item_modality): (Modality, Modality),
    corpus: &SideOf<'a>,
    same_rows: bool,
    width: usize,
) -> Result<Option<Measured<'a>>> {
    let relevance = relevance(&queries.groups, &corpus.groups)?;
    let least = if same_rows { 2 } else { 1 };
    if relevance.iter().all(|rows| rows.len() < least) {
        return Ok(None);
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let exclude =
        same_rows.then(|| (0..queries.groups.len()).map(|row| Some(row as u32)).collect());
    let task = RetrievalTask {
        name: name.to_owned(),
        query_modality,
        item_modality,
        queries: queries.matrix(width)?,
        corpus: corpus.matrix(width)?,
        ids: Vec::new(),
        relevance,
        exclude: exclude.unwrap_or_default(),
    };
    let cards = TaskCards { queries: queries.shown.clone(), corpus: corpus.shown.clone() };
    Ok(Some(Measured { task, cards }))
}

/// Of each query the corpus rows of its group, all of grade 1.
pub(crate) fn relevance(
    queries: &[impl AsRef<str>],
    corpus: &[impl AsRef<str>],
) -> Result<Vec<Vec<(u32, f32)>>> {
    let mut rows: BTreeMap<&str, Vec<(u32, f32)>> = BTreeMap::new();
    for (row, group) in corpus.iter().enumerate() {
        let row = u32::try_from(row).context("a corpus has at most 2^32 rows")?;
        rows.entry(group.as_ref()).or_default().push((row, 1.0));
    }
    let of = |group: &_| rows.get(AsRef::<str>::as_ref(group)).cloned().unwrap_or_default();
    Ok(queries.iter().map(of).collect())
}

/// Shows the rows of a task.
pub(crate) struct TaskCards<'a> {
    queries: Vec<Shown<'a>>,
    corpus: Vec<Shown<'a>>,
}

impl TaskCards<'_> {
    fn card(shown: &Shown<'_>) -> Card {
        let picture = shown.picture.and_then(|(dataset, item)| data_uri(dataset, item));
        Card { text: shown.text.clone(), picture }
    }
}

impl Cards for TaskCards<'_> {
    fn query(&self, query: u32) -> Card {
        Self::card(&self.queries[query as usize])
    }

    fn item(&self, row: u32) -> Card {
        Self::card(&self.corpus[row as usize])
    }
}
