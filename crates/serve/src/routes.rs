//! The paths the server answers, and what all of them share.

use std::{ops::Deref, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware::from_fn_with_state,
    routing::{get, post},
};
use conjoin_core::{Embedder, Store};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    ServeConfig, compute::Compute, embeddings::embeddings, error::ApiError, guard, page::page,
    pictures::picture, search::search,
};

/// What every handler can reach.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: ServeConfig,
    pub(crate) embedder: Arc<dyn Embedder>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) compute: Compute,
    /// One for each request that may be in work.
    pub(crate) places: Arc<Semaphore>,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// Must be called on the runtime: it starts the batching of texts.
    pub(crate) fn new(
        config: ServeConfig,
        embedder: Arc<dyn Embedder>,
        store: Arc<dyn Store>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(config.max_requests));
        let (all, free) = (config.max_requests, Arc::clone(&places));
        let open_requests = move || all - free.available_permits();
        let compute = Compute::start(&config, Arc::clone(&embedder), open_requests);
        Self(Arc::new(Shared { config, embedder, store, compute, places }))
    }

    /// All routes.
    pub(crate) fn router(self) -> Router {
        let work = Router::new()
            .route("/v1/embeddings", post(embeddings))
            .route("/v1/search", post(search))
            .route_layer(from_fn_with_state(self.clone(), guard::admit));
        Router::new()
            .route("/", get(page))
            .route("/health", get(health))
            .route("/v1/models", get(models))
            .route("/v1/items/{id}/picture", get(picture))
            .merge(work)
            .fallback(async || ApiError::NoPath)
            .method_not_allowed_fallback(async || ApiError::Method)
            .layer(DefaultBodyLimit::max(self.config.max_body_bytes))
            .layer(from_fn_with_state(self.clone(), guard::bound))
            .with_state(self)
    }

    /// Requests in work or waiting for it.
    fn open_requests(&self) -> usize {
        self.config.max_requests - self.places.available_permits()
    }

    fn modalities(&self) -> Vec<&'static str> {
        self.embedder.modalities().iter().map(|modality| modality.name()).collect()
    }
}

async fn health(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "model": app.config.model,
        "fingerprint": app.embedder.fingerprint(),
        "modalities": app.modalities(),
        "items": app.store.len(),
        "open_requests": app.open_requests(),
    }))
}

async fn models(State(app): State<App>) -> Json<Value> {
    let mut shorter = app.embedder.widths();
    shorter.pop();
    let model = json!({
        "id": app.config.model,
        "object": "model",
        "created": 0,
        "owned_by": "local",
        "fingerprint": app.embedder.fingerprint(),
        "dimensions": app.embedder.width(),
        "shorter_dimensions": shorter,
        "modalities": app.modalities(),
        "max_tokens": app.embedder.max_tokens(),
    });
    Json(json!({ "object": "list", "data": [model] }))
}
