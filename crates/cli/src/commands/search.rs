//! `conjoin search`: the best items for a text, a picture, or both.

use anyhow::{Context, Result, bail};
use conjoin_core::{
    Embedder, Embeddings, Hit, Mix, Modality, SearchRequest, Stop, Store, Task, VectorName,
};
use conjoin_model::Model;

use crate::{
    Outcome,
    args::Search,
    console::{Console, print},
    pipeline,
};

pub(crate) fn run(args: &Search, console: &Console, stop: &Stop) -> Result<Outcome> {
    let with = (console, stop);
    let (index, model) =
        pipeline::open_search(&args.index, args.model.as_ref(), &args.precision, with)?;
    let image = args.image.as_ref().map(fs_err::read).transpose()?;
    let request =
        request(&model, args.query.as_deref(), image.as_deref(), args.over.into(), args.k)
            .with_context(|| {
                args.image.as_ref().map_or_else(
                    || "cannot search by this text".to_owned(),
                    |path| format!("cannot search by picture `{}`", path.display()),
                )
            })?;
    let hits: Vec<Hit> = index.search(&request)?;
    if args.json {
        print(&serde_json::to_string(&hits)?)?;
    } else {
        for line in pipeline::hit_lines(&hits, None) {
            print(&line)?;
        }
    }
    Ok(Outcome::Done)
}

/// The request for a text, a picture, or both with equal weights.
pub(crate) fn request(
    model: &Model,
    text: Option<&str>,
    image: Option<&[u8]>,
    over: VectorName,
    top_k: usize,
) -> Result<SearchRequest> {
    let text = text.map(|text| embed_text(model, text)).transpose()?;
    let image = image.map(|bytes| embed_image(model, bytes)).transpose()?;
    let request = match (text, image) {
        (Some(text), None) => SearchRequest::new(text, Modality::Text, over, top_k),
        (None, Some(image)) => SearchRequest::new(image, Modality::Image, over, top_k),
        (None, None) => bail!("a text or a picture is needed"),
        (Some(text), Some(image)) => {
            let sum: Vec<f32> = text.iter().zip(&image).map(|(t, i)| t + i).collect();
            let norm = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
            let mut mixed = Embeddings::new(sum.len(), sum)?;
            mixed.normalize();
            let mix = Some(Mix { text: 1.0 / norm, image: 1.0 / norm });
            let base = SearchRequest::new(mixed.into_values(), Modality::Text, over, top_k);
            SearchRequest { mix, ..base }
        }
    };
    Ok(request)
}

fn embed_text(model: &Model, text: &str) -> Result<Vec<f32>> {
    Ok(model.embed_texts(&[text], &Task::Query)?.vectors.into_values())
}

fn embed_image(model: &Model, bytes: &[u8]) -> Result<Vec<f32>> {
    let mut vectors = model.embed_images(&[bytes])?;
    Ok(vectors.pop().context("one vector per picture")??)
}
