//! Why the server could not start or go on, and why a request is not answered.

use std::net::SocketAddr;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use conjoin_core::{EmbedError, SearchError};
use serde_json::json;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Settings outside their ranges, all of them.
    #[error("{}", list(faults))]
    Config {
        /// The settings.
        faults: Vec<ConfigFault>,
    },
    /// The model cannot search this index.
    #[error("the index was made by model {index}, the model to serve is {model}")]
    Fingerprint {
        /// The index's fingerprint.
        index: String,
        /// The model's fingerprint.
        model: String,
    },
    /// The address is taken, or not ours to take.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system refused threads or sockets.
    #[error("the server could not run")]
    Run(#[source] std::io::Error),
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The setting.
    pub key: &'static str,
    /// The value found.
    pub found: String,
    /// The range.
    pub expected: String,
}

fn list(faults: &[ConfigFault]) -> String {
    let text = |f: &ConfigFault| format!("`{}` is {}, it must be {}", f.key, f.found, f.expected);
    faults.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// Why a request is not answered; [`IntoResponse`] tells the client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the body is not the expected JSON: {0}")]
    Json(serde_json::Error),
    #[error("the body has more than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body broke off")]
    BodyBroken,
    #[error("the content type must be application/json")]
    MediaType,
    #[error("there is no input")]
    NoInput,
    #[error("{found} inputs, the limit is {limit}")]
    TooManyInputs { found: usize, limit: usize },
    #[error("input {index} {fault}")]
    Input { index: usize, fault: InputFault },
    #[error("input {index}: {}", chain(source))]
    Embed { index: usize, source: EmbedError },
    #[error("{}", chain(.0))]
    EmbedAll(EmbedError),
    #[error("dimensions is {found}, this model's embeddings can have {widths:?}")]
    Dimensions { found: usize, widths: Vec<usize> },
    #[error("no model `{found}` here, this server has `{expected}`")]
    Model { found: String, expected: String },
    #[error("top_k is {found}, it must be 1 to {limit}")]
    TopK { found: usize, limit: usize },
    #[error("weights need both a text and an image, finite, and may not cancel the query out")]
    Weights,
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("no item `{id}` with a picture")]
    NoPicture { id: String },
    #[error("there is nothing at this path")]
    NoPath,
    #[error("this path does not take this method")]
    Method,
    #[error("the server is at its limit of requests, try again")]
    Overloaded,
    #[error("the request took longer than {limit_ms} ms")]
    Timeout { limit_ms: u64 },
    #[error("the server failed on this request")]
    Internal,
}

/// What is wrong with one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InputFault {
    #[error("must be a string, {{\"text\": …}} or {{\"image\": …}}")]
    Shape,
    #[error("is empty")]
    Empty,
    #[error("has {found} bytes of text, the limit is {limit}")]
    TooLong { found: usize, limit: usize },
    #[error("must be an image as `data:image/…;base64,…`; addresses are never fetched")]
    NotDataUri,
    #[error("is not valid base64")]
    Base64,
}

impl ApiError {
    /// Status, type and code: what a client may rely on. `docs/http.md` lists them.
    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        const INVALID: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::Json(_) => (StatusCode::BAD_REQUEST, INVALID, "invalid_json"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "body_too_large"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, INVALID, "body_incomplete"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, "content_type"),
            Self::NoInput => (StatusCode::BAD_REQUEST, INVALID, "no_input"),
            Self::TooManyInputs { .. } => (StatusCode::BAD_REQUEST, INVALID, "too_many_inputs"),
            Self::Input { .. } => (StatusCode::BAD_REQUEST, INVALID, "invalid_input"),
            Self::Embed { source, .. } | Self::EmbedAll(source) => embed_parts(source),
            Self::Dimensions { .. } => (StatusCode::BAD_REQUEST, INVALID, "unsupported_dimensions"),
            Self::Model { .. } => (StatusCode::NOT_FOUND, INVALID, "model_not_found"),
            Self::TopK { .. } => (StatusCode::BAD_REQUEST, INVALID, "invalid_top_k"),
            Self::Weights => (StatusCode::BAD_REQUEST, INVALID, "invalid_weights"),
            Self::NoPicture { .. } => (StatusCode::NOT_FOUND, INVALID, "no_picture"),
            Self::NoPath => (StatusCode::NOT_FOUND, INVALID, "not_found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "overloaded"),
            Self::Timeout { .. } => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "timeout"),
            Self::Search(_) | Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal")
            }
        }
    }
}

fn embed_parts(error: &EmbedError) -> (StatusCode, &'static str, &'static str) {
    const INVALID: &str = "invalid_request_error";
    match error {
        EmbedError::NoTower(_) => (StatusCode::BAD_REQUEST, INVALID, "unsupported_modality"),
        EmbedError::Task { .. } => (StatusCode::BAD_REQUEST, INVALID, "unknown_task"),
        EmbedError::Input { .. } => (StatusCode::BAD_REQUEST, INVALID, "unreadable_input"),
        EmbedError::Tower(_) | _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, code) = self.parts();
        let error = json!({ "error": { "message": self.to_string(), "type": kind, "code": code } });
        let mut response = (status, Json(error)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// An error and its causes on one line: clients see no `source`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
