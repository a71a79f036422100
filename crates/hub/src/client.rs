//! The hub's routes over HTTP.
//!
//! In:  a repository, a file. Out: the list of files, a file's checksum and size, its bytes from an
//!      offset on.
//! Not here: attempts, the cache. Redirects are followed by hand, so that the token goes to the hub's
//! own address only.

use std::{
    io::{BufReader, Read},
    sync::Arc,
    time::Duration,
};

use rustls::crypto::ring;
use ureq::{
    Agent, Body,
    http::{Request, Response, Uri, header::HeaderMap},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    checksum,
    config::{HubConfig, Token},
    error::HubErrorKind,
    listing::{Listing, Sibling},
    name::RepoName,
};

/// Without an answer or a byte for so long, the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(20);

/// Redirects that are followed in a row.
const MAX_REDIRECTS: usize = 8;

/// The longest list of files that is read, about 100,000 of them.
const MAX_LISTING: u64 = 32 << 20;

/// A connection to a hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// A file as the hub describes it.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    pub path: String,
    /// Its checksum, and its name among the blobs.
    pub etag: String,
    pub size: u64,
}

/// Bytes of a file.
pub(crate) struct Bytes {
    /// Where in the file they begin.
    pub start: u64,
    pub reader: Box<dyn Read>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

impl Client {
    pub(crate) fn new(config: &HubConfig) -> Result<Self, HubErrorKind> {
        let certificates: Vec<_> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect();
        if certificates.is_empty() && config.endpoint.starts_with("https:") {
            return Err(HubErrorKind::NoCertificates);
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(certificates)))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("conjoin/", env!("CARGO_PKG_VERSION")))
            .build();
        let (endpoint, token) = (config.endpoint.clone(), config.token.clone());
        Ok(Self { agent: agent.into(), endpoint, token })
    }

    /// The commit and the files of a revision.
    pub(crate) fn listing(&self, repo: &RepoName) -> Result<Listing, HubErrorKind> {
        let revision = escaped(repo.revision(), "");
        let url =
            format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, repo.id());
        let response = self.follow(Method::Get, &url, None)?;
        self.accepted(&url, &response, repo, None)?;
        let body = response.into_body().into_with_config().limit(MAX_LISTING);
        let listing: Result<Listing, _> = serde_json::from_reader(BufReader::new(body.reader()));
        let listing =
            listing.map_err(|source| HubErrorKind::Listing { url: url.clone(), source })?;
        if !checksum::is_commit(&listing.commit) {
            let (found, expected) = (format!("`{}`", listing.commit), "a commit's hash");
            return Err(HubErrorKind::Header { url, header: "sha", found, expected });
        }
        Ok(listing)
    }

    /// A file's checksum and size at a commit.
    pub(crate) fn describe(
        &self,
        repo: &RepoName,
        commit: &str,
        file: &Sibling,
    ) -> Result<RemoteFile, HubErrorKind> {
        let url = self.address(repo, commit, &file.path);
        let response = self.follow(Method::Head, &url, None)?;
        self.accepted(&url, &response, repo, Some(&file.path))?;
        let headers = response.headers();
        let wrong = |header, found: Option<&str>, expected| HubErrorKind::Header {
            url: url.clone(),
            header,
            found: found.map_or_else(|| "not there".to_owned(), |text| format!("`{text}`")),
            expected,
        };
        let found = text(headers, "x-repo-commit");
        if found.is_some_and(|found| found != commit) {
            return Err(wrong("X-Repo-Commit", found, "the commit asked for"));
        }
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let checksum = etag.and_then(checksum::of_etag);
        let etag =
            checksum.ok_or_else(|| wrong("ETag", etag, "a SHA-256 or a git blob's SHA-1"))?;
        // The length of a redirect's answer is not the file's.
        let length = if response.status().is_redirection() { "" } else { "content-length" };
        let size = text(headers, "x-linked-size").or_else(|| text(headers, length));
        let size = match size {
            Some(digits) => digits.parse().ok(),
            None => file.size,
        };
        let size = size.ok_or_else(|| wrong("Content-Length", None, "the file's size"))?;
        Ok(RemoteFile { path: file.path.clone(), etag, size })
    }

    /// A file's bytes from `offset` on, or from an earlier one if the server cannot do that.
    pub(crate) fn read(
        &self,
        repo: &RepoName,
        commit: &str,
        file: &RemoteFile,
        offset: u64,
    ) -> Result<Bytes, HubErrorKind> {
        let url = self.address(repo, commit, &file.path);
        let response = self.follow(Method::Get, &url, Some(offset).filter(|offset| *offset > 0))?;
        self.accepted(&url, &response, repo, Some(&file.path))?;
        let start = match response.status().as_u16() {
            206 => {
                let range = text(response.headers(), "content-range");
                let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
                let start = start.and_then(|start| start.parse().ok());
                start.filter(|start| *start <= offset).ok_or_else(|| HubErrorKind::Header {
                    url,
                    header: "Content-Range",
                    found: format!("`{}`", range.unwrap_or_default()),
                    expected: "the range asked for",
                })?
            }
            _ => 0,
        };
        Ok(Bytes { start, reader: Box::new(response.into_body().into_reader()) })
    }

    fn address(&self, repo: &RepoName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, repo.id(), escaped(file, "/"))
    }

    /// Follows redirects: of a `HEAD` only those within the hub, whose last answer has the headers.
    fn follow(
        &self,
        method: Method,
        url: &str,
        offset: Option<u64>,
    ) -> Result<Response<Body>, HubErrorKind> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let response = self.send(method, &url, offset)?;
            let Some(location) =
                text(response.headers(), "location").filter(|_| response.status().is_redirection())
            else {
                return Ok(response);
            };
            let next = joined(&url, location).ok_or_else(|| HubErrorKind::Redirect {
                url: url.clone(),
                location: location.to_owned(),
            })?;
            if method == Method::Head && !self.is_hub(&next) {
                return Ok(response);
            }
            url = next;
        }
        Err(HubErrorKind::Redirect { url, location: "yet another address".to_owned() })
    }

    fn send(
        &self,
        method: Method,
        url: &str,
        offset: Option<u64>,
    ) -> Result<Response<Body>, HubErrorKind> {
        let failed = |source: ureq::Error| HubErrorKind::Unreachable {
            endpoint: origin(url)
                .map_or_else(|| url.to_owned(), |(s, h, p)| format!("{s}://{h}:{p}")),
            source: Box::new(source),
        };
        let verb = match method {
            Method::Get => "GET",
            Method::Head => "HEAD",
        };
        // Compressed bytes have another length than the file.
        let mut request =
            Request::builder().method(verb).uri(url).header("accept-encoding", "identity");
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("authorization", format!("Bearer {}", token.0));
        }
        if let Some(offset) = offset {
            request = request.header("range", format!("bytes={offset}-"));
        }
        let request = request.body(()).map_err(|error| failed(error.into()))?;
        self.agent.run(request).map_err(failed)
    }

    /// Whether an address is the hub's own: the same scheme, host and port.
    fn is_hub(&self, url: &str) -> bool {
        let hub = origin(&self.endpoint);
        hub.is_some() && origin(url) == hub
    }

    /// Passes answers with content, and redirects that were not to be followed.
    fn accepted(
        &self,
        url: &str,
        response: &Response<Body>,
        repo: &RepoName,
        file: Option<&str>,
    ) -> Result<(), HubErrorKind> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        let page = format!("{}/{}", self.endpoint, repo.id());
        let token_sent = self.token.is_some();
        let status = status.as_u16();
        let url = url.to_owned();
        Err(match (status, text(response.headers(), "x-error-code"), file) {
            (401 | 403, Some("GatedRepo"), _) | (403, None, _) => {
                HubErrorKind::Gated { page, token_sent }
            }
            (401 | 403, ..) => HubErrorKind::Unauthorized { status, token_sent },
            (404, Some("RevisionNotFound"), _) => {
                HubErrorKind::NoRevision { revision: repo.revision().to_owned(), page }
            }
            (404, _, Some(file)) => HubErrorKind::NoFile { file: file.to_owned() },
            (404, _, None) => HubErrorKind::NotFound { page },
            (429 | 500..=599, ..) => HubErrorKind::Busy { url, status },
            _ => HubErrorKind::Status { url, status },
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    let port = uri.port_u16().or(match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })?;
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// The address that `location` means when `url` redirects to it.
fn joined(url: &str, location: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    // From a page that is protected to one that is not, nothing is followed.
    let is_open = location.starts_with("http://") && scheme == "http";
    (is_open || location.starts_with("https://")).then(|| location.to_owned())
}

/// A part of an address, all but plain characters and those of `kept` escaped.
fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if is_plain || kept.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_joined_and_never_loses_its_protection() {
        let check = |location: &str, expected: Option<&str>| {
            assert_eq!(joined("https://hub.example:8/a/b?c", location).as_deref(), expected);
        };
        check("/x?y", Some("https://hub.example:8/x?y"));
        check("//cdn.example/x", Some("https://cdn.example/x"));
        check("https://cdn.example/x", Some("https://cdn.example/x"));
        check("http://cdn.example/x", None);
        check("file:///etc/passwd", None);
    }

    #[test]
    fn only_the_same_scheme_host_and_port_are_the_hub() {
        let hub = origin("https://hub.example");
        assert_eq!(origin("https://HUB.example:443/a"), hub);
        for other in [
            "http://hub.example/",
            "https://hub.example:444/",
            "https://hub.example.evil.example/",
            "https://hub.example@evil.example/",
        ] {
            assert_ne!(origin(other), hub, "{other}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("a b/ü#.json", "/"), "a%20b/%C3%BC%23.json");
        assert_eq!(escaped("refs/pr/1", ""), "refs%2Fpr%2F1");
    }
}
