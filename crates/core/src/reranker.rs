//! Scoring documents for a query, text against text.

use crate::{EmbedError, TokenUse};

/// Scores how well documents answer a query.
///
/// Implemented by cross-encoders, which read both texts together, and by late interaction, which compares
/// their tokens. Slower than comparing two embeddings and better at the top: meant for the few best
/// documents of a search.
pub trait Reranker: Send + Sync {
    /// Identifies the weights and the rules; equal fingerprints give equal scores.
    fn fingerprint(&self) -> &str;

    /// The most tokens that are read of a query and a document together.
    fn max_tokens(&self) -> usize;

    /// The relevance of each document, in the order of `documents`.
    ///
    /// # Errors
    /// When a text cannot be read. A text that is too long is truncated, which the result tells.
    fn rerank(&self, query: &str, documents: &[&str]) -> Result<Vec<Relevance>, EmbedError>;
}

/// How relevant a document is for a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relevance {
    /// Larger is more relevant; the scale is the model's own.
    pub score: f32,
    /// Tokens of query and document together.
    pub tokens: TokenUse,
}
