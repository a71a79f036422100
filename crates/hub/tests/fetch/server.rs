//! A server that speaks the hub's routes, with a second one in the part of its CDN.
//!
//! In:  one repository's files and [`Rules`]. Out: an address for `HF_ENDPOINT`, and the [`Request`]s that came.
//! As the hub does: small files are redirected within the hub, large ones (`.safetensors`) to the CDN, another host.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The one repository, and the commit of its one branch.
pub(crate) const REPO: &str = "acme/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Files are for those with this token only.
    pub(crate) gate: Option<String>,
    /// After how many bytes of a large file's answer the connection is closed, one for each answer.
    pub(crate) drops: VecDeque<usize>,
    /// The CDN sends whole files whatever is asked for.
    pub(crate) no_ranges: bool,
    /// Answers with status 503 before the first other one.
    pub(crate) n_busy: usize,
    /// Checksums that are stated instead of the true ones.
    pub(crate) etags: BTreeMap<String, String>,
    /// What the CDN sends instead of a file's bytes.
    pub(crate) sent: BTreeMap<String, Vec<u8>>,
    /// The commit of `main`; [`COMMIT`] when empty.
    pub(crate) commit: String,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) is_cdn: bool,
    pub(crate) token: Option<String>,
    pub(crate) range: Option<String>,
}

/// A running server; it ends when dropped.
pub(crate) struct FakeHub {
    hub: SocketAddr,
    cdn: SocketAddr,
    state: Arc<State>,
}

struct State {
    rules: Mutex<Rules>,
    requests: Mutex<Vec<Request>>,
    cdn: SocketAddr,
    is_over: AtomicBool,
}

/// An answer before it is sent.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The length that is stated when it is not the body's.
    length: Option<usize>,
    /// Bytes of the body that are sent.
    sent: usize,
}

impl Rules {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        Self { files: files.collect(), ..Self::default() }
    }

    pub(crate) fn commit(&self) -> &str {
        if self.commit.is_empty() { COMMIT } else { &self.commit }
    }

    /// The checksum the hub states for a file.
    pub(crate) fn etag(&self, name: &str) -> String {
        self.etags.get(name).cloned().unwrap_or_else(|| checksum(name, &self.files[name]))
    }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

fn checksum(name: &str, bytes: &[u8]) -> String {
    let digest = if is_large(name) {
        Sha256::digest(bytes).to_vec()
    } else {
        let blob = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
        blob.chain_update(bytes).finalize().to_vec()
    };
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

impl FakeHub {
    pub(crate) fn start(rules: Rules) -> Self {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, cdn) = (listener(), listener());
        let (hub_address, cdn_address) = (hub.local_addr().unwrap(), cdn.local_addr().unwrap());
        let state = Arc::new(State {
            rules: Mutex::new(rules),
            requests: Mutex::default(),
            cdn: cdn_address,
            is_over: AtomicBool::new(false),
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if state.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let state = state.clone();
                    std::thread::spawn(move || state.talk(stream.unwrap(), is_cdn));
                }
            });
        }
        Self { hub: hub_address, cdn: cdn_address, state }
    }

    /// For `HF_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }

    /// Behaves differently from now on.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state.rules.lock().unwrap());
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        for address in [self.hub, self.cdn] {
            // Wakes the listener up.
            let _ = TcpStream::connect(address);
        }
    }
}

impl State {
    fn talk(&self, mut stream: TcpStream, is_cdn: bool) {
        let Some(request) = read(&stream, is_cdn) else { return };
        self.requests.lock().unwrap().push(request.clone());
        let answer = self.answer(&request);
        // The other side may be gone.
        let _ = answer.send(&mut stream, request.method == "HEAD");
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut rules = self.rules.lock().unwrap();
        if rules.n_busy > 0 {
            rules.n_busy -= 1;
            return Answer::refusal(503, None);
        }
        let path = request.path.split('?').next().unwrap();
        if request.is_cdn {
            return file_bytes(&mut rules, path.trim_start_matches("/cdn/"), request);
        }
        if let Some(rest) = path.strip_prefix("/api/models/") {
            return listing(&rules, rest, request);
        }
        let small = format!("/api/resolve-cache/models/{REPO}/{}/", rules.commit());
        if let Some(name) = path.strip_prefix(&small) {
            let etag = ("ETag", format!("\"{}\"", rules.etag(name)));
            let commit = ("X-Repo-Commit", rules.commit().to_owned());
            return Answer::new(200, vec![etag, commit], rules.files[name].clone());
        }
        let name = [rules.commit(), "main"]
            .iter()
            .find_map(|revision| path.strip_prefix(&format!("/{REPO}/resolve/{revision}/")));
        let Some(name) = name.filter(|name| rules.files.contains_key(*name)) else {
            return Answer::refusal(404, Some("EntryNotFound"));
        };
        if rules.gate.is_some() && rules.gate != request.token {
            let status = if request.token.is_some() { 403 } else { 401 };
            return Answer::refusal(status, Some("GatedRepo"));
        }
        let commit = ("X-Repo-Commit", rules.commit().to_owned());
        if is_large(name) {
            let headers = vec![
                commit,
                ("X-Linked-Etag", format!("\"{}\"", rules.etag(name))),
                ("X-Linked-Size", rules.files[name].len().to_string()),
                ("ETag", "\"of the redirect\"".to_owned()),
                ("Location", format!("http://localhost:{}/cdn/{name}?signed=1", self.cdn.port())),
            ];
            return Answer::new(302, headers, b"Found".to_vec());
        }
        let location = ("Location", format!("{small}{name}"));
        Answer::new(307, vec![commit, location], b"Redirecting".to_vec())
    }
}

/// `OWNER/NAME/revision/REVISION`.
fn listing(rules: &Rules, rest: &str, request: &Request) -> Answer {
    let Some(revision) = rest.strip_prefix(&format!("{REPO}/revision/")) else {
        // The hub does not tell strangers whether a repository exists.
        let status = if request.token.is_some() { 404 } else { 401 };
        return Answer::refusal(status, Some("RepoNotFound"));
    };
    if ![rules.commit(), "main", "refs%2Fpr%2F1"].contains(&revision) {
        return Answer::refusal(404, Some("RevisionNotFound"));
    }
    let siblings: Vec<_> =
        rules.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
    let body = serde_json::json!({"id": REPO, "sha": rules.commit(), "siblings": siblings});
    Answer::new(200, Vec::new(), body.to_string().into_bytes())
}

fn file_bytes(rules: &mut Rules, name: &str, request: &Request) -> Answer {
    let bytes = rules.sent.get(name).unwrap_or(&rules.files[name]).clone();
    let start = request.range.as_deref().filter(|_| !rules.no_ranges).map_or(0, |range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
    });
    let part = bytes[start..].to_vec();
    let mut answer = if start > 0 {
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        Answer::new(206, vec![("Content-Range", range)], part)
    } else {
        Answer::new(200, Vec::new(), part)
    };
    if let Some(n) = rules.drops.pop_front() {
        answer.length = Some(answer.body.len());
        answer.sent = n;
    }
    answer
}

fn read(stream: &TcpStream, is_cdn: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut request = Request { method, path, is_cdn, token: None, range: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            "range" => request.range = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

impl Answer {
    fn new(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        let sent = body.len();
        Self { status, headers, body, length: None, sent }
    }

    fn refusal(status: u16, code: Option<&str>) -> Self {
        let headers = code.map(|code| ("X-Error-Code", code.to_owned()));
        Self::new(status, headers.into_iter().collect(), Vec::new())
    }

    fn send(&self, stream: &mut TcpStream, is_head: bool) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let length = self.length.unwrap_or(self.body.len());
        write!(head, "Content-Length: {length}\r\n\r\n").unwrap();
        stream.write_all(head.as_bytes())?;
        if !is_head {
            stream.write_all(&self.body[..self.sent.min(self.body.len())])?;
        }
        stream.flush()
    }
}
