//! The paths the server answers.

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use conjoin_core::{Embedder, Store};

use crate::ServeConfig;

/// The whole application.
pub(crate) fn app(
    config: ServeConfig,
    embedder: Arc<dyn Embedder>,
    store: Arc<dyn Store>,
) -> Router {
    let health = serde_json::json!({
        "status": "ok", "model": config.model,
        "fingerprint": embedder.fingerprint(), "items": store.len(),
    });
    Router::new().route("/health", get(move || async move { Json(health) }))
}
