//! The server's settings and limits.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{ConfigFault, ServeError};

/// Settings of the server. The defaults serve one machine's own users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The model's name in requests and answers.
    pub model: String,
    /// The most bytes of a request body, at least 1024. A photo as a data URI needs a third more than its file.
    pub max_body_bytes: usize,
    /// The most inputs of one embeddings request, at least 1.
    pub max_inputs: usize,
    /// The most bytes of one text, at least 1.
    pub max_text_bytes: usize,
    /// The most requests in work or waiting, at least 1; more are refused with 503.
    pub max_requests: usize,
    /// The most time for one request in milliseconds, its reading included, at least 1.
    pub timeout_ms: u64,
    /// The most texts embedded together, at least 1.
    pub batch_texts: usize,
    /// How long a batch waits for the texts of other requests in work, in milliseconds, 0 to 1000.
    /// A request that is alone never waits.
    pub batch_wait_ms: u64,
    /// How long open requests may go on after a stop, in milliseconds.
    pub drain_ms: u64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            model: "conjoin".to_owned(),
            max_body_bytes: 32 << 20,
            max_inputs: 256,
            max_text_bytes: 64 << 10,
            max_requests: 64,
            timeout_ms: 60_000,
            batch_texts: 32,
            batch_wait_ms: 2,
            drain_ms: 10_000,
        }
    }
}

impl ServeConfig {
    /// Tells all settings outside their ranges at once.
    ///
    /// # Errors
    /// When there is one.
    pub fn check(&self) -> Result<(), ServeError> {
        let faults: Vec<ConfigFault> = [
            at_least("max_body_bytes", self.max_body_bytes, 1024),
            at_least("max_inputs", self.max_inputs, 1),
            at_least("max_text_bytes", self.max_text_bytes, 1),
            at_least("max_requests", self.max_requests, 1),
            at_least("batch_texts", self.batch_texts, 1),
            (self.timeout_ms == 0).then(|| fault("timeout_ms", 0, "at least 1")),
            (self.batch_wait_ms > 1000)
                .then(|| fault("batch_wait_ms", self.batch_wait_ms, "at most 1000")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if faults.is_empty() { Ok(()) } else { Err(ServeError::Config { faults }) }
    }
}

fn at_least(key: &'static str, found: usize, least: usize) -> Option<ConfigFault> {
    (found < least).then(|| fault(key, found, &format!("at least {least}")))
}

fn fault(key: &'static str, found: impl ToString, expected: &str) -> ConfigFault {
    ConfigFault { key, found: found.to_string(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_all_faults_at_once() {
        assert!(ServeConfig::default().check().is_ok());
        let config = ServeConfig { max_inputs: 0, timeout_ms: 0, ..ServeConfig::default() };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "`max_inputs` is 0, it must be at least 1; `timeout_ms` is 0, it must be at least 1"
        );
    }
}
