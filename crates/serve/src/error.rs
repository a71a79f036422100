//! Why the server could not start or go on.

use std::net::SocketAddr;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Settings outside their ranges, all of them.
    #[error("{}", list(faults))]
    Config {
        /// The settings.
        faults: Vec<ConfigFault>,
    },
    /// The model cannot search this index.
    #[error("the index was made by model {index}, the model to serve is {model}")]
    Fingerprint {
        /// The index's fingerprint.
        index: String,
        /// The model's fingerprint.
        model: String,
    },
    /// The address is taken, or not ours to take.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system refused threads or sockets.
    #[error("the server could not run")]
    Run(#[source] std::io::Error),
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The setting.
    pub key: &'static str,
    /// The value found.
    pub found: String,
    /// The range.
    pub expected: String,
}

fn list(faults: &[ConfigFault]) -> String {
    let text = |f: &ConfigFault| format!("`{}` is {}, it must be {}", f.key, f.found, f.expected);
    faults.iter().map(text).collect::<Vec<_>>().join("; ")
}
