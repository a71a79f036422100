//! Late interaction: one vector per token, compared by MaxSim.
//!
//! In:  queries and documents. Out: their tokens' vectors, and scores.
//! Not here: which layouts there are (`families::colbert`), MaxSim itself (`conjoin_core::max_sim`).

use std::{fmt, sync::LazyLock};

use conjoin_core::{
    EmbedError, Embeddings, Modality, Relevance, Reranker, TokenUse, Tower, max_sim,
};
use conjoin_input::{Tokenizer, TokenizerError};
use rayon::prelude::*;

use crate::{
    Sequence, SequenceTower,
    families::colbert::{LateRule, SideRule},
    model::{Fingerprint, unreadable},
};

/// A loaded model of late interaction.
pub struct LateInteraction {
    tower: SequenceTower,
    tokenizer: Tokenizer,
    rule: LateRule,
    fingerprint: LazyLock<String, Fingerprint>,
}

impl fmt::Debug for LateInteraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateInteraction").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// A text as the vectors of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenVectors {
    /// `[k, e]`: a unit vector per token that is compared.
    pub vectors: Embeddings,
    /// Tokens of the text, the marker and special tokens included, those that fill it up not.
    pub tokens: TokenUse,
}

/// A prepared text.
struct Prepared {
    sequence: Sequence,
    tokens: TokenUse,
}

/// Texts are tokenised this many at a time, so that memory stays bounded.
const TEXTS_PER_BLOCK: usize = 256;

impl LateInteraction {
    pub(crate) fn new(
        tower: SequenceTower,
        tokenizer: Tokenizer,
        rule: LateRule,
        fingerprint: Fingerprint,
    ) -> Self {
        Self { tower, tokenizer, rule, fingerprint: LazyLock::new(fingerprint) }
    }

    /// The tower that gives the vectors.
    #[must_use]
    pub fn tower(&self) -> &SequenceTower {
        &self.tower
    }

    pub(crate) fn tower_mut(&mut self) -> &mut SequenceTower {
        &mut self.tower
    }

    /// The rules around the tower.
    #[must_use]
    pub fn rule(&self) -> &LateRule {
        &self.rule
    }

    /// Width `e` of a token's vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.tower.width()
    }

    /// The vectors of each query, in order; expansion tokens have one, too.
    ///
    /// # Errors
    /// When the tokeniser refuses a text.
    pub fn embed_queries(&self, queries: &[&str]) -> Result<Vec<TokenVectors>, EmbedError> {
        self.embed(queries, |text| self.query(text))
    }

    /// The vectors of each document, in order, without those of skipped tokens.
    ///
    /// # Errors
    /// When the tokeniser refuses a text.
    pub fn embed_documents(&self, documents: &[&str]) -> Result<Vec<TokenVectors>, EmbedError> {
        self.embed(documents, |text| self.document(text))
    }

    /// A query as the tower reads it.
    ///
    /// # Errors
    /// When the tokeniser refuses the text.
    pub fn query_sequence(&self, text: &str) -> Result<Sequence, EmbedError> {
        self.query(text).map(|p| p.sequence).map_err(|e| unreadable(Modality::Text, e))
    }

    /// A document as the tower reads it.
    ///
    /// # Errors
    /// When the tokeniser refuses the text.
    pub fn document_sequence(&self, text: &str) -> Result<Sequence, EmbedError> {
        self.document(text).map(|p| p.sequence).map_err(|e| unreadable(Modality::Text, e))
    }

    fn query(&self, text: &str) -> Result<Prepared, TokenizerError> {
        let side = self.rule.query;
        let (mut ids, total) = self.marked(text, side)?;
        let (used, mut visible) = (ids.len(), ids.len());
        if let Some(expansion) = self.rule.expansion {
            ids.resize(side.max_tokens.max(used), expansion.id);
            if expansion.attended {
                visible = ids.len();
            }
        }
        let kept = (0..ids.len()).collect();
        let sequence = Sequence { types: vec![0; ids.len()], visible, kept, ids };
        Ok(Prepared { sequence, tokens: TokenUse { used, total } })
    }

    fn document(&self, text: &str) -> Result<Prepared, TokenizerError> {
        let (ids, total) = self.marked(text, self.rule.document)?;
        let compared = |place: &usize| !self.rule.skipped.contains(&ids[*place]);
        let kept = (0..ids.len()).filter(compared).collect();
        let used = ids.len();
        let sequence = Sequence { types: vec![0; used], visible: used, kept, ids };
        Ok(Prepared { sequence, tokens: TokenUse { used, total } })
    }

    /// Ids with the marker behind the first one, and how many there were before truncation.
    fn marked(&self, text: &str, side: SideRule) -> Result<(Vec<u32>, usize), TokenizerError> {
        let n_markers = usize::from(side.marker.is_some());
        let room = side.max_tokens.saturating_sub(n_markers);
        let mut tokens = self.tokenizer.encode(trim(text), room)?;
        if let Some(marker) = side.marker {
            tokens.ids.insert(tokens.ids.len().min(1), marker);
        }
        Ok((tokens.ids, tokens.total + n_markers))
    }

    fn embed(
        &self,
        texts: &[&str],
        prepare: impl Fn(&str) -> Result<Prepared, TokenizerError> + Sync,
    ) -> Result<Vec<TokenVectors>, EmbedError> {
        let mut all = Vec::with_capacity(texts.len());
        for block in texts.chunks(TEXTS_PER_BLOCK) {
            let prepared: Vec<Prepared> = block
                .par_iter()
                .map(|text| prepare(text).map_err(|e| unreadable(Modality::Text, e)))
                .collect::<Result<_, _>>()?;
            let inputs: Vec<&Sequence> = prepared.iter().map(|p| &p.sequence).collect();
            let rows = self.tower.embed(&inputs)?;
            let mut start = 0;
            for text in &prepared {
                let end = start + text.sequence.kept.len();
                let vectors = rows.select(&(start..end).collect::<Vec<_>>());
                all.push(TokenVectors { vectors, tokens: text.tokens });
                start = end;
            }
        }
        Ok(all)
    }
}

/// As Python's `strip`, which takes the separators of ASCII for white space, too.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

impl Reranker for LateInteraction {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn max_tokens(&self) -> usize {
        self.rule.query.max_tokens + self.rule.document.max_tokens
    }

    /// Scores are sums over the query's tokens, so they compare documents, not queries.
    fn rerank(&self, query: &str, documents: &[&str]) -> Result<Vec<Relevance>, EmbedError> {
        let query = &self.embed_queries(&[query])?[0];
        let documents = self.embed_documents(documents)?;
        let relevance = documents.par_iter().map(|document| Relevance {
            score: max_sim(&query.vectors, &document.vectors),
            tokens: TokenUse {
                used: query.tokens.used + document.tokens.used,
                total: query.tokens.total + document.tokens.total,
            },
        });
        Ok(relevance.collect())
    }
}
