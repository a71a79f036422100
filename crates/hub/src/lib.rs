//! Models by name: a folder, or a repository of the Hugging Face hub that is fetched into the cache
//! Python's libraries use.
//!
//! In:  `hf:owner/name@revision` or a path ([`ModelName`]), the environment ([`HubConfig`]).
//! Out: a folder with the model's files, each checked ([`Hub::fetch`]).
//! Not here: what the files mean. This is the only crate that opens an outgoing connection, and it
//! sends nothing but the name asked for and the user's token, the latter to the hub alone.

mod cache;
mod checksum;
mod client;
mod config;
mod error;
mod hub;
mod listing;
mod name;

pub use config::{HubConfig, Token, Waits};
pub use error::{HubError, HubErrorKind, NameError};
pub use hub::{Hub, Snapshot};
pub use name::{ModelName, RepoName};
