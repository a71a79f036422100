//! HTTP: embeddings, search, health and the search page.
//!
//! In:  an [`conjoin_core::Embedder`], a [`conjoin_core::Store`] and a [`ServeConfig`].
//! Out: a [`Server`] that answers what `docs/http.md` describes until it is asked to stop.
//! Not here: models and indexes; the binary hands them in.

mod compute;
mod config;
mod embeddings;
mod error;
mod guard;
mod input;
mod page;
mod pictures;
mod routes;
mod search;
mod server;

pub use config::ServeConfig;
pub use error::{ConfigFault, ServeError};
pub use server::Server;
