//! Why a model could not be fetched.

use std::{io, path::PathBuf};

use conjoin_core::Interrupted;

/// A text that begins with `hf:` and names no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing was named.
    #[error("the name is empty, expected a folder or `hf:OWNER/NAME`")]
    Empty,
    /// Not an owner with a repository.
    #[error(
        "`{found}` is no repository's name, expected `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`"
    )]
    Repository {
        /// What was named.
        found: String,
    },
    /// Not a branch, tag or commit.
    #[error("`{found}` is no revision, expected a branch, a tag or a commit after the `@`")]
    Revision {
        /// What was named.
        found: String,
    },
}

/// A model could not be fetched: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch model `{name}`")]
pub struct HubError {
    /// The model as it was named.
    pub name: String,
    /// What is wrong.
    #[source]
    pub kind: HubErrorKind,
}

/// What is wrong with a model, the way to it, or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubErrorKind {
    /// The cache cannot be read or written; the error names the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The user asked to stop.
    #[error("the download was stopped; what has arrived is kept")]
    Interrupted(#[from] Interrupted),
    /// There is no folder to keep models in.
    #[error("there is no home folder to keep models in; set `HF_HOME`")]
    NoHome,
    /// No connection is allowed and the cache does not hold the model.
    #[error(
        "no connection is allowed (`HF_HUB_OFFLINE`) and `{}` does not hold it; unset the variable to \
         download it, or name a model's folder",
        .cache.display()
    )]
    Offline {
        /// The folder of the cache where the model would be.
        cache: PathBuf,
    },
    /// No connection is allowed and the cache holds a part of the model.
    #[error(
        "no connection is allowed (`HF_HUB_OFFLINE`) and `{}` lacks `{missing}`; unset the variable to \
         download it",
        .snapshot.display()
    )]
    Incomplete {
        /// The folder of the cache.
        snapshot: PathBuf,
        /// The first file that is not there.
        missing: String,
    },
    /// No answer.
    #[error(
        "`{endpoint}` cannot be reached, and the cache does not hold the model; without a network name a \
         model's folder"
    )]
    Unreachable {
        /// The address.
        endpoint: String,
        /// What the connection met.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The hub has too much to do.
    #[error("`{url}` answered with status {status}; try again later")]
    Busy {
        /// The address.
        url: String,
        /// 429 or 5xx.
        status: u16,
    },
    /// An answer that is neither the file nor a known refusal.
    #[error("`{url}` answered with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// The user must be known and is not.
    #[error(
        "the hub says {status}: there is no such repository, or it is private; check the name, and set \
         `HF_TOKEN` to a token that may read it{}",
        if *.token_sent { " (the one that is set may not)" } else { "" }
    )]
    Unauthorized {
        /// The status.
        status: u16,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The terms of the model are not accepted.
    #[error(
        "the model is gated: accept its terms at {page}, then set `HF_TOKEN` to a token of that account{}",
        if *.token_sent { " (the one that is set has no access)" } else { "" }
    )]
    Gated {
        /// The page with the terms.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// No such repository.
    #[error("there is no such repository: {page}")]
    NotFound {
        /// The page that is not there.
        page: String,
    },
    /// The repository has no such revision.
    #[error("the repository has no branch, tag or commit `{revision}`: {page}")]
    NoRevision {
        /// The revision asked for.
        revision: String,
        /// The repository's page.
        page: String,
    },
    /// A file that was listed is not there.
    #[error("`{file}` is listed and not there")]
    NoFile {
        /// The file.
        file: String,
    },
    /// The list of files is not as expected.
    #[error("the list of files from `{url}` is not as expected")]
    Listing {
        /// The address.
        url: String,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A header that is needed is missing or not as expected.
    #[error("`{url}`: `{header}` is {found}, expected {expected}")]
    Header {
        /// The address.
        url: String,
        /// The header.
        header: &'static str,
        /// What was sent.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
    /// A redirect leads nowhere.
    #[error("`{url}` redirects to `{location}`, which cannot be followed")]
    Redirect {
        /// The address.
        url: String,
        /// Where it points.
        location: String,
    },
    /// The weights run code when read.
    #[error(
        "the repository has only pickled weights (`{file}`), which can run code; name a revision with \
         safetensors (often `@refs/pr/1`), or convert it with the library that made it"
    )]
    Pickled {
        /// One of the files.
        file: String,
    },
    /// The repository holds no weights.
    #[error("the repository has no `.safetensors` file: it is no model that can be read")]
    NoWeights,
    /// A file's name would lead out of the model's folder.
    #[error("the repository names a file `{file}`, which would be outside of the model's folder")]
    UnsafePath {
        /// The name.
        file: String,
    },
    /// The connection ended before the file did.
    #[error(
        "the connection was lost while `{file}` was downloaded; the same command goes on from there"
    )]
    Dropped {
        /// The file.
        file: String,
        /// What the connection met.
        #[source]
        source: io::Error,
    },
    /// The file has another length than was promised.
    #[error("`{file}` has {found} bytes or more, the hub says {expected}; it was deleted")]
    Size {
        /// The file.
        file: String,
        /// Bytes that came.
        found: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// The file is not the one the hub has.
    #[error(
        "`{file}` has checksum {found}, the hub says {expected}; it was deleted, fetch it again"
    )]
    Checksum {
        /// The file.
        file: String,
        /// The checksum of what came.
        found: String,
        /// The checksum promised.
        expected: String,
    },
    /// Nothing can be trusted.
    #[error(
        "no root certificates were found on this machine; install them (`ca-certificates`) or set \
         `SSL_CERT_FILE`"
    )]
    NoCertificates,
}

impl HubErrorKind {
    /// Whether another attempt may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. } | Self::Dropped { .. })
    }

    /// Whether the hub may be up again soon.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
