//! `POST /v1/embeddings`, in the shape of OpenAI's API, for texts and images.

use axum::{Json, extract::State};
use conjoin_core::{Embeddings, Task, TokenUse};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    compute::TextVector,
    error::ApiError,
    input::{Body, Input, encode_vector, inputs},
    routes::App,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingsRequest {
    model: Option<String>,
    input: Value,
    #[serde(default)]
    encoding_format: EncodingFormat,
    dimensions: Option<usize>,
    /// What the texts are for (`query`, `passage`, or another task of the model's prompts).
    task: Option<String>,
    /// OpenAI's clients may send it; it has no meaning here.
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingsResponse {
    object: &'static str,
    data: Vec<EmbeddingData>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct EmbeddingData {
    object: &'static str,
    index: usize,
    embedding: Encoded,
    /// Tokens read, and tokens there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<TokensRead>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct TokensRead {
    used: usize,
    total: usize,
}

impl From<TokenUse> for TokensRead {
    fn from(TokenUse { used, total }: TokenUse) -> Self {
        Self { used, total }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Encoded {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

pub(crate) async fn embeddings(
    State(app): State<App>,
    Body(request): Body<EmbeddingsRequest>,
) -> Result<Json<EmbeddingsResponse>, ApiError> {
    check(&app, &request)?;
    let task = request.task.as_deref().map_or(Task::Plain, Task::named);
    let mut vectors = embed(&app, inputs(request.input, &app.config)?, task).await?;
    if let Some(width) = request.dimensions {
        vectors.iter_mut().for_each(|found| cut(&mut found.vector, width));
    }
    let tokens = vectors.iter().filter_map(|v| v.tokens).map(|tokens| tokens.used).sum();
    let data = |(index, found): (usize, TextVector)| EmbeddingData {
        object: "embedding",
        index,
        embedding: match request.encoding_format {
            EncodingFormat::Float => Encoded::Float(found.vector),
            EncodingFormat::Base64 => Encoded::Base64(encode_vector(&found.vector)),
        },
        tokens: found.tokens.map(TokensRead::from),
        truncated: found.tokens.is_some_and(TokenUse::is_truncated),
    };
    Ok(Json(EmbeddingsResponse {
        object: "list",
        data: vectors.into_iter().enumerate().map(data).collect(),
        model: app.config.model.clone(),
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

fn check(app: &App, request: &EmbeddingsRequest) -> Result<(), ApiError> {
    let expected = &app.config.model;
    if let Some(found) = request.model.as_ref().filter(|found| *found != expected) {
        return Err(ApiError::Model { found: found.clone(), expected: expected.clone() });
    }
    let widths = app.embedder.widths();
    match request.dimensions.filter(|found| !widths.contains(found)) {
        Some(found) => Err(ApiError::Dimensions { found, widths }),
        None => Ok(()),
    }
}

/// Keeps the first numbers, at unit length.
fn cut(vector: &mut Vec<f32>, width: usize) {
    let whole = std::mem::take(vector);
    let whole = Embeddings::new(whole.len(), whole).expect("one row");
    *vector = whole.cut(width).into_values();
}

/// Embeds texts and images, each kind together, and puts them back in order.
async fn embed(app: &App, inputs: Vec<Input>, task: Task) -> Result<Vec<TextVector>, ApiError> {
    let (mut texts, mut images, mut is_text) = (Vec::new(), Vec::new(), Vec::new());
    for input in inputs {
        is_text.push(matches!(input, Input::Text(_)));
        match input {
            Input::Text(text) => texts.push(text),
            Input::Image(image) => images.push(image),
        }
    }
    let mut texts = app.compute.texts(texts, task).await?.into_iter();
    let mut images = app.compute.images(images).await?.into_iter();
    let vector = |(index, is_text)| {
        if is_text {
            return texts.next().ok_or(ApiError::Internal);
        }
        let image = images.next().ok_or(ApiError::Internal)?;
        let vector = image.map_err(|source| ApiError::Embed { index, source })?;
        Ok(TextVector { vector, tokens: None })
    };
    is_text.into_iter().enumerate().map(vector).collect()
}
