//! What a model expects of its inputs; stored in every checkpoint.
//!
//! In:  the contract part of a checkpoint's description. Out: the checked rules for each modality.
//! Not here: the tokenizer itself, which is a file of its own beside it (`tokenizer.json`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use conjoin_core::Task;

use crate::{ContractError, ImageContract, Tokenizer, TokenizerError, Tokens};

/// What a model expects of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextContract {
    /// The most tokens a text is read to, special tokens included.
    pub max_tokens: usize,
    /// Whether shorter texts are filled up to `max_tokens` with the tokenizer's pad token, which the
    /// model reads like any other (SigLIP).
    pub padded: bool,
    /// How a table of tokens reads (static embeddings); none: with special tokens, as all others.
    pub bare: Option<BareTokens>,
    /// What stands before a text of a task (`query` -> `"query: "`). Tasks that are missing here
    /// take the text as it is. The empty name is that of no task in particular.
    pub prompts: BTreeMap<String, String>,
}

/// Names of one task in public checkpoints.
const QUERY: [&str; 4] = ["query", "retrieval.query", "search_query", "s2p_query"];
const PASSAGE: [&str; 5] =
    ["passage", "document", "retrieval.passage", "search_document", "corpus"];
const GROUPS: [&[&str]; 3] = [
    &["duplicate", "similarity", "sts", "STS", "text-matching", "text_matching", "s2s_query"],
    &["classification", "Classification"],
    &["clustering", "separation", "Clustering"],
];

impl TextContract {
    /// What stands before a text of this task: under its own name, or under one of the names that
    /// public checkpoints use for it. Queries and passages need none; for another task, a model with
    /// prompts must have one.
    #[must_use]
    pub fn prompt(&self, task: &Task) -> Option<&str> {
        let names: &[&str] = match task {
            Task::Plain => &[""],
            Task::Query => &QUERY,
            Task::Passage => &PASSAGE,
            Task::Named(name) => {
                let group = GROUPS.iter().find(|group| group.contains(&name.as_str()));
                let own = self.prompts.get(name).map(String::as_str);
                let other = || group?.iter().find_map(|name| self.prompts.get(*name));
                return own.or_else(|| other().map(String::as_str));
            }
        };
        let found = names.iter().find_map(|name| self.prompts.get(*name));
        // As in sentence-transformers, the default prompt serves where the task has none.
        let found = found.or_else(|| self.prompts.get(""));
        Some(found.map_or("", String::as_str))
    }

    /// The ids of a text, prompt included, by these rules.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Tokens, TokenizerError> {
        if let Some(bare) = self.bare {
            return bare.encode(tokenizer, text, self.max_tokens);
        }
        let mut tokens = tokenizer.encode(text, self.max_tokens)?;
        self.fill(&mut tokens.ids, tokenizer);
        Ok(tokens)
    }

    /// As [`Self::encode`], with what stands before a text of this task, if anything does.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_for(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        task: &Task,
    ) -> Result<Tokens, TokenizerError> {
        let prompt = self.prompt(task).unwrap_or_default();
        self.encode(tokenizer, &format!("{prompt}{text}"))
    }

    /// Appends the padding that the model reads, if it does.
    pub fn fill(&self, ids: &mut Vec<u32>, tokenizer: &Tokenizer) {
        if self.padded && ids.len() < self.max_tokens {
            ids.resize(self.max_tokens, tokenizer.pad_id());
        }
    }
}

/// Reading without special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BareTokens {
    /// Whether what the vocabulary cannot spell is left out (model2vec).
    pub skip_unknown: bool,
    /// The most characters of a text that are looked at.
    pub max_chars: Option<usize>,
}

impl BareTokens {
    /// Cuts as the reference does: characters first, then tokens, then unknown ones go.
    fn encode(
        self,
        tokenizer: &Tokenizer,
        text: &str,
        max_tokens: usize,
    ) -> Result<Tokens, TokenizerError> {
        let end = self.max_chars.and_then(|n| text.char_indices().nth(n)).map(|(at, _)| at);
        let mut ids = tokenizer.encode_bare(&text[..end.unwrap_or(text.len())])?;
        let unknown = tokenizer.unknown_id().filter(|_| self.skip_unknown);
        let known = |ids: &[u32]| ids.iter().filter(|id| Some(**id) != unknown).count();
        let total = match end {
            None => known(&ids),
            Some(_) => known(&tokenizer.encode_bare(text)?),
        };
        ids.truncate(max_tokens);
        ids.retain(|id| Some(*id) != unknown);
        Ok(Tokens { ids, total })
    }
}

/// What a model expects of its inputs, by modality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputContract {
    /// The rules for texts, when the model reads texts.
    pub text: Option<TextContract>,
    /// The rules for pictures, when the model sees pictures.
    pub image: Option<ImageContract>,
}

impl InputContract {
    /// Checks the values that the types do not. To be called on every contract read from a file.
    ///
    /// # Errors
    /// On the first value out of range.
    pub fn check(&self) -> Result<(), ContractError> {
        if let Some(text) = &self.text {
            let enough = text.max_tokens >= 1;
            ContractError::check(enough, "text.max_tokens", &text.max_tokens, "at least 1")?;
        }
        self.image.as_ref().map_or(Ok(()), ImageContract::check)
    }
}

#[cfg(test)]
mod tests;
