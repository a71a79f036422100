//! How a model is named: a folder's path, or `hf:owner/name@revision`.
//!
//! In:  text of the command line or a recipe. Out: [`ModelName`], checked, so that no part of it can
//!      lead out of the cache's folder.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::NameError;

const PREFIX: &str = "hf:";

/// The branch that is meant when no revision is named.
const DEFAULT_REVISION: &str = "main";

/// The hub's limit on the length of an owner with its repository.
const MAX_ID: usize = 96;

/// A model as people name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelName {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A repository of the hub.
    Hub(RepoName),
}

/// A repository of the hub at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    id: String,
    revision: String,
}

impl ModelName {
    /// Reads `hf:owner/name`, `hf:owner/name@revision`, or else a path. A folder whose name begins
    /// with `hf:` is named `./hf:…`.
    ///
    /// # Errors
    /// [`NameError`] when it begins with `hf:` and is no repository's name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(PREFIX) {
            Some(name) => RepoName::parse(name).map(Self::Hub),
            None if text.is_empty() => Err(NameError::Empty),
            None => Ok(Self::Folder(text.into())),
        }
    }
}

impl RepoName {
    fn parse(text: &str) -> Result<Self, NameError> {
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        if !is_repository(id) {
            return Err(NameError::Repository { found: id.to_owned() });
        }
        if !is_revision(revision) {
            return Err(NameError::Revision { found: revision.to_owned() });
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// `owner/name`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A branch, a tag or a commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The same repository at a commit, which never changes.
    #[must_use]
    pub fn at(&self, commit: &str) -> Self {
        Self { id: self.id.clone(), revision: commit.to_owned() }
    }
}

/// `owner/name` by the hub's rules: letters, digits, `-`, `_`, `.`; no `--` or `..`; no `-` or `.` at
/// an end.
fn is_repository(id: &str) -> bool {
    let is_part = |part: &str| {
        let is_edge = |c: char| c == '-' || c == '.';
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !part.starts_with(is_edge)
            && !part.ends_with(is_edge)
            && !part.contains("--")
            && !part.contains("..")
    };
    let parts: Vec<&str> = id.split('/').collect();
    id.len() <= MAX_ID && parts.len() == 2 && parts.into_iter().all(is_part)
}

/// A name that git allows and that stays inside the cache's folder of references.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(|part| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
            && !part.starts_with('.')
            && !part.contains("..")
    })
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.id)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Hub(repo) => repo.fmt(f),
        }
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ModelName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, id: &str, revision: &str) {
        let expected = RepoName { id: id.to_owned(), revision: revision.to_owned() };
        let name = ModelName::parse(text).unwrap();
        assert_eq!(name, ModelName::Hub(expected));
        assert_eq!(name.to_string(), text);
    }

    #[test]
    fn a_repository_is_named_with_and_without_a_revision() {
        check("hf:jinaai/jina-clip-v1", "jinaai/jina-clip-v1", "main");
        check("hf:a/B_1.5@v2", "a/B_1.5", "v2");
        check("hf:a/b@refs/pr/3", "a/b", "refs/pr/3");
    }

    #[test]
    fn all_else_is_a_path() {
        for text in ["run/model", "./hf:a/b", "C:\\models", "a@b", "hf"] {
            let name = ModelName::parse(text).unwrap();
            assert_eq!(name, ModelName::Folder(text.into()));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn a_name_that_could_leave_the_cache_is_refused() {
        for id in
            ["", "a", "a/", "/a", "../a", "a/..", "a/b/c", "a--b/c", "a/b c", "a/b?x", "//a/b"]
        {
            let error = ModelName::parse(&format!("hf:{id}")).unwrap_err();
            assert_eq!(error, NameError::Repository { found: id.to_owned() });
        }
        for revision in ["", "..", "a/../b", "/a", "a//b", "a b", ".hidden", "a\\b"] {
            let error = ModelName::parse(&format!("hf:a/b@{revision}")).unwrap_err();
            assert_eq!(error, NameError::Revision { found: revision.to_owned() });
        }
        assert_eq!(
            ModelName::parse("hf:bert").unwrap_err().to_string(),
            "`bert` is no repository's name, expected `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`"
        );
        assert_eq!(ModelName::parse("").unwrap_err(), NameError::Empty);
    }
}
