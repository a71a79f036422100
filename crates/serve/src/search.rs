//! `POST /v1/search`: by text, by image, or by both.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use conjoin_core::{Hit, Leg, Mix, Modality, SearchRequest, VectorName};
use serde::{Deserialize, Serialize};

use crate::{
    compute::on_thread,
    error::ApiError,
    input::{Body, check_text, decode_image},
    pictures::picture_path,
    routes::App,
};

/// The most hits of one search.
const MAX_TOP_K: usize = 1000;
/// Hits when the request does not say.
const DEFAULT_TOP_K: usize = 10;
/// Two vectors whose sum is shorter have cancelled each other out.
const MIN_LENGTH: f64 = 1e-3;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryRequest {
    text: Option<String>,
    image: Option<String>,
    weights: Option<Weights>,
    top_k: Option<usize>,
    over: Option<VectorName>,
}

/// What the two vectors of a query weigh; negative: away from it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weights {
    text: f32,
    image: f32,
}

#[derive(Debug, Serialize)]
pub(crate) struct QueryResponse {
    hits: Vec<FoundItem>,
    over: VectorName,
    /// Whether the query's text was longer than the model reads.
    truncated: bool,
    timings: Timings,
}

#[derive(Debug, Serialize)]
struct FoundItem {
    id: String,
    score: f32,
    legs: Vec<Leg>,
    payload: BTreeMap<String, String>,
    picture: Option<String>,
}

#[derive(Debug, Serialize)]
struct Timings {
    embed_ms: f64,
    search_ms: f64,
    total_ms: f64,
}

pub(crate) async fn search(
    State(app): State<App>,
    Body(request): Body<QueryRequest>,
) -> Result<Json<QueryResponse>, ApiError> {
    let start = Instant::now();
    let top_k = request.top_k.unwrap_or(DEFAULT_TOP_K);
    if !(1..=MAX_TOP_K).contains(&top_k) {
        return Err(ApiError::TopK { found: top_k, limit: MAX_TOP_K });
    }
    let over = request.over.unwrap_or(VectorName::Fused);
    let query = embed(&app, request).await?;
    let embedded = Instant::now();
    let Query { vector, modality, mix, truncated } = query;
    let wanted = SearchRequest { vector, modality, mix, over, top_k };
    let store = app.store.clone();
    let hits = on_thread(move || store.search(&wanted)).await??;
    let end = Instant::now();
    Ok(Json(QueryResponse {
        hits: hits.into_iter().map(found_item).collect(),
        over,
        truncated,
        timings: Timings {
            embed_ms: milliseconds(embedded - start),
            search_ms: milliseconds(end - embedded),
            total_ms: milliseconds(end - start),
        },
    }))
}

fn found_item(hit: Hit) -> FoundItem {
    let picture = hit.has_picture.then(|| picture_path(&hit.id));
    FoundItem { id: hit.id, score: hit.score, legs: hit.legs, payload: hit.payload, picture }
}

/// In milliseconds, to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// A query as the store takes it.
#[derive(Debug)]
struct Query {
    vector: Vec<f32>,
    modality: Modality,
    mix: Option<Mix>,
    truncated: bool,
}

async fn embed(app: &App, request: QueryRequest) -> Result<Query, ApiError> {
    let fail = |fault| ApiError::Input { index: 0, fault };
    // An empty text beside an image is no text: forms send it so.
    let text = request.text.filter(|text| !text.is_empty() || request.image.is_none());
    let text = text.map(|t| check_text(t, app.config.max_text_bytes)).transpose().map_err(fail)?;
    let image = request.image.map(|uri| decode_image(&uri)).transpose().map_err(fail)?;
    let text =
        app.compute.texts(text.into_iter().collect(), conjoin_core::Task::Query).await?.pop();
    let image = app.compute.images(image.into_iter().collect()).await?.pop();
    let image = image.transpose().map_err(|source| ApiError::Embed { index: 0, source })?;
    let truncated = text
        .as_ref()
        .and_then(|text| text.tokens)
        .is_some_and(conjoin_core::TokenUse::is_truncated);
    let (vector, modality, mix) = match (text.map(|t| t.vector), image, request.weights) {
        (Some(text), Some(image), weights) => mixed(&text, &image, weights)?,
        (Some(text), None, None) => (text, Modality::Text, None),
        (None, Some(image), None) => (image, Modality::Image, None),
        (None, None, _) => return Err(ApiError::NoInput),
        (Some(_), None, Some(_)) | (None, Some(_), Some(_)) => return Err(ApiError::Weights),
    };
    Ok(Query { vector, modality, mix, truncated })
}

/// The weighted sum of two unit vectors, renormalised, and what each gave.
fn mixed(
    text: &[f32],
    image: &[f32],
    weights: Option<Weights>,
) -> Result<(Vec<f32>, Modality, Option<Mix>), ApiError> {
    let weights = weights.unwrap_or(Weights { text: 1.0, image: 1.0 });
    let scale = f64::from(weights.text.abs().max(weights.image.abs()));
    if !(scale.is_finite() && scale > 0.0) {
        return Err(ApiError::Weights);
    }
    let (w_t, w_i) = (f64::from(weights.text) / scale, f64::from(weights.image) / scale);
    let sum = |(t, i): (&f32, &f32)| w_t * f64::from(*t) + w_i * f64::from(*i);
    let sum: Vec<f64> = text.iter().zip(image).map(sum).collect();
    let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
    if !(length.is_finite() && length > MIN_LENGTH) {
        return Err(ApiError::Weights);
    }
    #[expect(clippy::cast_possible_truncation, reason = "vectors are f32")]
    let narrow = |value: f64| (value / length) as f32;
    let mix = Mix { text: narrow(w_t), image: narrow(w_i) };
    let heavier = if w_t.abs() >= w_i.abs() { Modality::Text } else { Modality::Image };
    Ok((sum.into_iter().map(narrow).collect(), heavier, Some(mix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(text: f32, image: f32) -> Option<(Vec<f32>, Modality, Option<Mix>)> {
        mixed(&[1.0, 0.0], &[0.0, 1.0], Some(Weights { text, image })).ok()
    }

    #[test]
    fn a_mixed_query_is_the_renormalised_weighted_sum() {
        let expected = Some(Mix { text: 0.6, image: -0.8 });
        assert_eq!(mix(3.0, -4.0), Some((vec![0.6, -0.8], Modality::Image, expected)));
        assert_eq!(mix(2.0, 0.0).map(|m| m.0), Some(vec![1.0, 0.0]));
        assert_eq!(mix(1e-30, 0.0).map(|m| m.0), Some(vec![1.0, 0.0]));
    }

    #[test]
    fn refuses_weights_that_leave_no_query() {
        assert_eq!(mix(0.0, 0.0), None);
        assert_eq!(mix(f32::NAN, 1.0), None);
        assert_eq!(mix(f32::INFINITY, 1.0), None);
        assert!(mixed(&[1.0], &[1.0], Some(Weights { text: 1.0, image: -1.0 })).is_err());
    }
}
