//! What a text is embedded for, and how much of it was read.

use crate::Embeddings;

/// What a text is embedded for. Models with instruction prompts put the task's prompt before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Task {
    /// Nothing in particular: the model's own default.
    #[default]
    Plain,
    /// To search with.
    Query,
    /// To be found.
    Passage,
    /// What the model calls so (`classification`), or a word for it.
    Named(String),
}

impl Task {
    /// The task of this name; `document` is another word for `passage`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "plain" => Self::Plain,
            "query" => Self::Query,
            "passage" | "document" => Self::Passage,
            other => Self::Named(other.to_owned()),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Plain => "plain",
            Self::Query => "query",
            Self::Passage => "passage",
            Self::Named(name) => name,
        }
    }
}

/// Vectors of texts, and how much of each text they tell of.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbeddings {
    /// `[n, e]`, rows of unit length.
    pub vectors: Embeddings,
    /// One per text.
    pub tokens: Vec<TokenUse>,
}

/// Tokens of a text, prompt and special tokens included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// How many were read.
    pub used: usize,
    /// How many there were.
    pub total: usize,
}

impl TokenUse {
    /// Whether a part of the text was not read.
    #[must_use]
    pub fn is_truncated(self) -> bool {
        self.used < self.total
    }
}

impl TextEmbeddings {
    /// How many texts were not read whole.
    #[must_use]
    pub fn n_truncated(&self) -> usize {
        self.tokens.iter().filter(|tokens| tokens.is_truncated()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_back_their_tasks() {
        for task in [Task::Plain, Task::Query, Task::Passage, Task::Named("sts".to_owned())] {
            assert_eq!(Task::named(task.name()), task);
        }
        assert_eq!(Task::named("document"), Task::Passage);
    }
}
