//! A cross-encoder: reads a query and a document together and scores the pair.
//!
//! In:  texts. Out: scores, and how much of each pair was read.
//! Not here: which layouts there are (`families::cross_encoder`).

use std::{fmt, sync::LazyLock};

use conjoin_core::{EmbedError, Embeddings, Modality, Relevance, Reranker, TokenUse, Tower};
use conjoin_input::{PairTokens, Tokenizer};
use rayon::prelude::*;

use crate::{
    Sequence, SequenceTower,
    families::cross_encoder::{PairRule, ScoreActivation},
    model::{Fingerprint, unreadable},
};

/// A loaded cross-encoder.
pub struct CrossEncoder {
    tower: SequenceTower,
    tokenizer: Tokenizer,
    rule: PairRule,
    fingerprint: LazyLock<String, Fingerprint>,
}

impl fmt::Debug for CrossEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossEncoder").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// Pairs are tokenised this many at a time, so that memory stays bounded.
const PAIRS_PER_BLOCK: usize = 256;

impl CrossEncoder {
    pub(crate) fn new(
        tower: SequenceTower,
        tokenizer: Tokenizer,
        rule: PairRule,
        fingerprint: Fingerprint,
    ) -> Self {
        Self { tower, tokenizer, rule, fingerprint: LazyLock::new(fingerprint) }
    }

    /// The tower that gives the logits.
    #[must_use]
    pub fn tower(&self) -> &SequenceTower {
        &self.tower
    }

    pub(crate) fn tower_mut(&mut self) -> &mut SequenceTower {
        &mut self.tower
    }

    /// The rules around the tower.
    #[must_use]
    pub fn rule(&self) -> &PairRule {
        &self.rule
    }

    /// The tokens of a pair.
    ///
    /// # Errors
    /// When the tokeniser refuses a text.
    pub fn tokenize(&self, query: &str, document: &str) -> Result<PairTokens, EmbedError> {
        let query = format!("{}{query}", self.rule.prompt);
        let tokens = self.tokenizer.encode_pair(&query, document, self.rule.max_tokens);
        tokens.map_err(|e| unreadable(Modality::Text, e))
    }

    /// A pair as the tower reads it.
    #[must_use]
    pub fn sequence(&self, tokens: PairTokens) -> Sequence {
        let PairTokens { ids, mut types, .. } = tokens;
        if !self.rule.typed {
            types.fill(0);
        }
        Sequence { visible: ids.len(), kept: Vec::new(), ids, types }
    }

    /// All scores of each pair, and how many of its tokens were read and there were.
    ///
    /// # Shapes
    /// `[n, l]` with `l` labels.
    ///
    /// # Errors
    /// When a text cannot be read.
    pub fn predict(
        &self,
        pairs: &[(&str, &str)],
    ) -> Result<(Embeddings, Vec<TokenUse>), EmbedError> {
        let mut scores = Embeddings::zeros(0, self.tower.width());
        let mut read = Vec::with_capacity(pairs.len());
        for block in pairs.chunks(PAIRS_PER_BLOCK) {
            let tokens: Vec<PairTokens> =
                block.par_iter().map(|(q, d)| self.tokenize(q, d)).collect::<Result<_, _>>()?;
            read.extend(tokens.iter().map(|t| TokenUse { used: t.ids.len(), total: t.total }));
            let inputs: Vec<Sequence> = tokens.into_iter().map(|t| self.sequence(t)).collect();
            scores.append(&self.tower.embed(&inputs.iter().collect::<Vec<_>>())?);
        }
        match self.rule.activation {
            ScoreActivation::Identity => {}
            ScoreActivation::Sigmoid => {
                scores.values_mut().iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
            }
        }
        Ok((scores, read))
    }
}

impl Reranker for CrossEncoder {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn max_tokens(&self) -> usize {
        self.rule.max_tokens
    }

    /// Of a model with several labels, the first score counts; [`crate::open_reranker`] refuses such models.
    fn rerank(&self, query: &str, documents: &[&str]) -> Result<Vec<Relevance>, EmbedError> {
        let pairs: Vec<(&str, &str)> = documents.iter().map(|d| (query, *d)).collect();
        let (scores, read) = self.predict(&pairs)?;
        let rows = scores.rows().zip(read);
        let relevance = rows.map(|(row, tokens)| Relevance { score: row[0], tokens });
        Ok(relevance.collect())
    }
}
