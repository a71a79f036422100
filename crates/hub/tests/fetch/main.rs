//! Fetching from a local server that speaks the hub's routes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod server;

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use conjoin_core::{Progress, Silent, Stop};
use conjoin_hub::{
    Hub, HubConfig, HubError, HubErrorKind, ModelName, RepoName, Snapshot, Token, Waits,
};
use server::{COMMIT, FakeHub, REPO, Request, Rules};
use tempfile::TempDir;

/// Bytes of the weights, more than one read's.
const N_WEIGHTS: usize = 300_007;

/// A server, a cache, and what is needed to fetch.
struct Bench {
    server: FakeHub,
    rules: Rules,
    dir: TempDir,
    config: HubConfig,
}

fn weights() -> Vec<u8> {
    (0..N_WEIGHTS).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
}

fn model() -> Rules {
    Rules::new(&[
        ("config.json", b"{\"model_type\": \"bert\"}"),
        ("README.md", b"---\nlicense: mit\n---\n"),
        ("1_Pooling/config.json", b"{}"),
        ("empty.txt", b""),
        ("model.safetensors", &weights()),
        ("pytorch_model.bin", b"pickle"),
        ("onnx/model.onnx", b"x"),
    ])
}

/// The files of [`model`] that are fetched.
const FETCHED: [&str; 5] =
    ["config.json", "README.md", "1_Pooling/config.json", "empty.txt", "model.safetensors"];

fn bench(rules: Rules) -> Bench {
    let server = FakeHub::start(rules.clone());
    let dir = tempfile::tempdir().unwrap();
    let waits = Waits { retries: Vec::new(), lock: Duration::from_millis(1) };
    let endpoint = server.endpoint();
    let cache = dir.path().join("hub");
    let config = HubConfig { cache, endpoint, token: None, offline: false, waits };
    Bench { server, rules, dir, config }
}

fn repo(text: &str) -> RepoName {
    match ModelName::parse(text).unwrap() {
        ModelName::Hub(repo) => repo,
        ModelName::Folder(path) => panic!("{path:?}"),
    }
}

impl Bench {
    fn fetch(&self) -> Result<Snapshot, HubError> {
        self.fetch_named(&format!("hf:{REPO}"))
    }

    fn fetch_named(&self, name: &str) -> Result<Snapshot, HubError> {
        Hub::new(self.config.clone()).fetch(&repo(name), &Silent, &Stop::default())
    }

    fn folder(&self) -> PathBuf {
        self.config.cache.join("models--acme--tiny")
    }

    fn retrying(mut self, n: usize) -> Self {
        self.config.waits.retries = vec![Duration::from_millis(1); n];
        self
    }

    fn offline(mut self) -> Self {
        self.config.offline = true;
        self
    }

    /// Passes when the snapshot holds the wanted files and no others, each as the server has it.
    #[track_caller]
    fn check(&self, snapshot: &Snapshot) {
        assert_eq!(snapshot.commit, self.rules.commit());
        assert_eq!(snapshot.folder, self.folder().join("snapshots").join(&snapshot.commit));
        for name in FETCHED {
            let bytes = fs_err::read(snapshot.folder.join(name)).unwrap();
            assert!(bytes == self.rules.files[name], "{name}");
        }
        assert_eq!(files_in(&snapshot.folder).len(), FETCHED.len());
        let blobs = files_in(&self.folder().join("blobs"));
        assert!(blobs.iter().all(|blob| blob.extension().is_none()), "{blobs:?}");
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_in(&path)) } else { files.push(path) }
    }
    files
}

/// The requests for bytes from the CDN.
fn downloads(requests: &[Request]) -> Vec<Option<String>> {
    requests.iter().filter(|r| r.is_cdn).map(|r| r.range.clone()).collect()
}

/// The error, its kind and its causes as they are told.
#[track_caller]
fn told(result: Result<Snapshot, HubError>) -> (HubErrorKind, String) {
    let error = result.unwrap_err();
    assert!(error.to_string().starts_with("cannot fetch model `hf:"), "{error}");
    let text = error.kind.to_string();
    (error.kind, text)
}

#[test]
fn fetches_what_a_model_needs_once() {
    let bench = bench(model());
    bench.check(&bench.fetch().unwrap());
    let requests = bench.server.requests();
    assert_eq!(downloads(&requests), [None]);
    assert!(requests.iter().all(|r| r.token.is_none()));
    assert!(!requests.iter().any(|r| r.path.contains("pytorch") || r.path.contains("onnx")));

    bench.check(&bench.fetch().unwrap());
    let paths: Vec<String> = bench.server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/api/models/acme/tiny/revision/main?blobs=true"], "the second time");
}

#[cfg(unix)]
#[test]
fn the_cache_has_python_s_layout() {
    let bench = bench(model());
    let snapshot = bench.fetch().unwrap();
    let target = |file: &str| fs_err::read_link(snapshot.folder.join(file)).unwrap();
    let etag = |file: &str| bench.rules.etag(file);
    assert_eq!(etag("model.safetensors").len(), 64);
    let expected = format!("../../blobs/{}", etag("model.safetensors"));
    assert_eq!(target("model.safetensors"), Path::new(&expected));
    let expected = format!("../../../blobs/{}", etag("1_Pooling/config.json"));
    assert_eq!(target("1_Pooling/config.json"), Path::new(&expected));
    let commit = fs_err::read_to_string(bench.folder().join("refs/main")).unwrap();
    assert_eq!(commit, COMMIT);
}

#[cfg(unix)]
#[test]
fn uses_what_python_has_fetched() {
    let bench = bench(model());
    let (folder, snapshot) = (bench.folder(), bench.folder().join("snapshots").join(COMMIT));
    for name in FETCHED {
        let blob = folder.join("blobs").join(bench.rules.etag(name));
        fs_err::create_dir_all(blob.parent().unwrap()).unwrap();
        fs_err::write(&blob, &bench.rules.files[name]).unwrap();
        let pointer = snapshot.join(name);
        fs_err::create_dir_all(pointer.parent().unwrap()).unwrap();
        let up = "../".repeat(name.matches('/').count());
        let target = format!("{up}../../blobs/{}", bench.rules.etag(name));
        std::os::unix::fs::symlink(target, pointer).unwrap();
    }
    fs_err::create_dir_all(folder.join("refs")).unwrap();
    fs_err::write(folder.join("refs/main"), COMMIT).unwrap();

    bench.check(&bench.fetch().unwrap());
    assert_eq!(bench.server.requests().len(), 1, "the list alone");
    // A blob that another revision brought needs no download either.
    fs_err::remove_file(snapshot.join("model.safetensors")).unwrap();
    bench.check(&bench.fetch().unwrap());
    assert_eq!(downloads(&bench.server.requests()), [] as [Option<String>; 0]);
    let bench = bench.offline();
    bench.check(&bench.fetch().unwrap());
    assert_eq!(bench.server.requests().len(), 0);
}

#[test]
fn goes_on_where_a_lost_connection_left_it() {
    let mut rules = model();
    rules.drops = [120_000].into();
    let bench = bench(rules);
    let (kind, text) = told(bench.fetch());
    assert!(matches!(kind, HubErrorKind::Dropped { .. }), "{kind:?}");
    assert!(text.starts_with("the connection was lost while `model.safetensors` was downloaded"));
    let etag = bench.rules.etag("model.safetensors");
    let part = bench.folder().join("blobs").join(format!("{etag}.incomplete"));
    let length = fs_err::metadata(part).unwrap().len();
    assert_eq!(length, 120_000);
    assert!(!bench.folder().join("refs/main").exists(), "a part is no model");
    bench.server.requests();

    bench.check(&bench.fetch().unwrap());
    assert_eq!(downloads(&bench.server.requests()), [Some("bytes=120000-".to_owned())]);
}

#[test]
fn patience_lasts_as_long_as_bytes_come() {
    let mut rules = model();
    // Five drops with one retry each: bytes came before every one.
    rules.drops = [10, 100, 1000, 10_000, 100_000].into();
    let bench = bench(rules).retrying(1);
    bench.check(&bench.fetch().unwrap());
    let starts: Vec<String> = downloads(&bench.server.requests()).into_iter().flatten().collect();
    assert_eq!(starts, ["bytes=10-", "bytes=110-", "bytes=1110-", "bytes=11110-", "bytes=111110-"]);

    let mut rules = model();
    rules.drops = [10, 0, 0].into();
    let bench = self::bench(rules).retrying(1);
    let (kind, _) = told(bench.fetch());
    assert!(matches!(kind, HubErrorKind::Dropped { .. }), "{kind:?}");
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let mut rules = model();
    rules.drops = [5000].into();
    rules.no_ranges = true;
    let bench = bench(rules).retrying(1);
    bench.check(&bench.fetch().unwrap());
}

#[test]
fn a_busy_hub_is_asked_again() {
    let mut rules = model();
    rules.n_busy = 2;
    let bench = bench(rules).retrying(2);
    bench.check(&bench.fetch().unwrap());

    bench.server.change(|rules| rules.n_busy = 3);
    bench.check(&bench.fetch().unwrap());
    let bench = Bench { dir: tempfile::tempdir().unwrap(), ..bench };
    let config = HubConfig { cache: bench.dir.path().join("hub"), ..bench.config.clone() };
    let bench = Bench { config, ..bench };
    bench.server.change(|rules| rules.n_busy = 3);
    let (_, text) = told(bench.fetch());
    assert!(text.ends_with("answered with status 503; try again later"), "{text}");
}

#[test]
fn a_wrong_checksum_deletes_the_file() {
    for name in ["model.safetensors", "config.json"] {
        let mut rules = model();
        let stated: String = rules.etag(name).chars().rev().collect();
        rules.etags.insert(name.to_owned(), stated.clone());
        let bench = bench(rules);
        let (_, text) = told(bench.fetch());
        let found = model().etag(name);
        assert_eq!(
            text,
            format!(
                "`{name}` has checksum {found}, the hub says {stated}; it was deleted, fetch it again"
            )
        );
        let blobs = files_in(&bench.folder().join("blobs"));
        assert!(!blobs.iter().any(|b| b.display().to_string().contains(&stated)), "{blobs:?}");
    }
}

#[test]
fn a_file_longer_than_promised_is_refused() {
    let mut rules = model();
    rules.sent.insert("model.safetensors".to_owned(), vec![7; N_WEIGHTS + 1]);
    let bench = bench(rules);
    let (kind, _) = told(bench.fetch());
    let HubErrorKind::Size { found, expected, .. } = kind else { panic!("{kind:?}") };
    assert_eq!((found, expected), (N_WEIGHTS as u64 + 1, N_WEIGHTS as u64));
    let blobs = files_in(&bench.folder().join("blobs"));
    assert!(blobs.iter().all(|blob| blob.extension().is_none()), "{blobs:?}");
}

#[test]
fn what_is_not_there_is_told() {
    let mut bench = bench(model());
    let page = format!("{}/acme/none", bench.server.endpoint());
    let (_, text) = told(bench.fetch_named("hf:acme/none"));
    assert!(text.starts_with("the hub says 401: there is no such repository, or it is private;"));
    let (_, text) = told(bench.fetch_named("hf:acme/tiny@v9"));
    assert!(text.starts_with("the repository has no branch, tag or commit `v9`"), "{text}");
    bench.config.token = Token::new("hf_secret");
    let (_, text) = told(bench.fetch_named("hf:acme/none"));
    assert_eq!(text, format!("there is no such repository: {page}"));
}

#[test]
fn the_token_opens_a_gate_and_stays_with_the_hub() {
    let mut rules = model();
    rules.gate = Some("hf_secret".to_owned());
    let mut bench = bench(rules);
    let page = format!("{}/{REPO}", bench.server.endpoint());
    let (_, text) = told(bench.fetch());
    let advice = format!(
        "the model is gated: accept its terms at {page}, then set `HF_TOKEN` to a token of that account"
    );
    assert_eq!(text, advice);
    bench.config.token = Token::new("hf_other");
    assert_eq!(told(bench.fetch()).1, format!("{advice} (the one that is set has no access)"));
    bench.server.requests();

    bench.config.token = Token::new("hf_secret");
    bench.check(&bench.fetch().unwrap());
    let requests = bench.server.requests();
    let tokens = |is_cdn| -> Vec<Option<&str>> {
        requests.iter().filter(|r| r.is_cdn == is_cdn).map(|r| r.token.as_deref()).collect()
    };
    assert_eq!(tokens(true), [None]);
    assert!(tokens(false).iter().all(|token| *token == Some("hf_secret")));
}

#[test]
fn offline_opens_no_connection() {
    let bench = bench(model()).offline();
    let (_, text) = told(bench.fetch());
    let folder = bench.folder();
    assert_eq!(
        text,
        format!(
            "no connection is allowed (`HF_HUB_OFFLINE`) and `{}` does not hold it; unset the variable to download it, or name a model's folder",
            folder.display()
        )
    );
    // Half a model.
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs_err::create_dir_all(&snapshot).unwrap();
    let (_, text) = told(bench.fetch_named(&format!("hf:{REPO}@{COMMIT}")));
    assert!(text.contains("lacks `*.safetensors`"), "{text}");
    let index =
        r#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    fs_err::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
    fs_err::write(snapshot.join("m-1.safetensors"), "x").unwrap();
    let (_, text) = told(bench.fetch_named(&format!("hf:{REPO}@{COMMIT}")));
    assert!(text.contains("lacks `m-2.safetensors`"), "{text}");
    assert_eq!(bench.server.requests(), []);
}

#[test]
fn without_an_answer_the_cache_is_used_with_a_warning() {
    struct Warnings(Mutex<Vec<String>>);
    impl Progress for Warnings {
        fn update(&self, _: &str, _: u64, _: Option<u64>, _: &str) {}
        fn finish(&self, _: &str, _: &str) {}
        fn warn(&self, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
    }
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut bench = bench(model()).retrying(1);
    let endpoint = std::mem::replace(&mut bench.config.endpoint, format!("http://{nobody}"));
    let (kind, text) = told(bench.fetch());
    assert!(matches!(kind, HubErrorKind::Unreachable { .. }), "{kind:?}");
    assert!(text.starts_with(&format!("`http://{nobody}` cannot be reached")), "{text}");

    let gone = std::mem::replace(&mut bench.config.endpoint, endpoint);
    bench.fetch().unwrap();
    bench.config.endpoint = gone;
    let warnings = Warnings(Mutex::default());
    let hub = Hub::new(bench.config.clone());
    let name = repo(&format!("hf:{REPO}"));
    bench.check(&hub.fetch(&name, &warnings, &Stop::default()).unwrap());
    assert_eq!(
        *warnings.0.lock().unwrap(),
        [format!(
            "`http://{nobody}` does not answer; `hf:{REPO}` is taken from the cache, commit {COMMIT}"
        )]
    );
}

#[test]
fn a_branch_that_moved_is_followed_and_shares_what_did_not_change() {
    let mut bench = bench(model());
    bench.fetch().unwrap();
    let moved = "f".repeat(40);
    let change = |rules: &mut Rules| {
        rules.commit.clone_from(&moved);
        rules.files.insert("config.json".to_owned(), b"{\"v\": 2}".to_vec());
    };
    bench.server.change(change);
    change(&mut bench.rules);
    bench.server.requests();
    bench.check(&bench.fetch().unwrap());
    assert_eq!(downloads(&bench.server.requests()), [] as [Option<String>; 0]);
    // The old one is still there for those who name its commit.
    let old = Hub::new(bench.config.clone()).cached(&repo(&format!("hf:{REPO}@{COMMIT}"))).unwrap();
    let config = fs_err::read(old.folder.join("config.json")).unwrap();
    assert_eq!(config, model().files["config.json"]);
}

#[test]
fn a_commit_is_a_revision() {
    let bench = bench(model());
    bench.check(&bench.fetch_named(&format!("hf:{REPO}@{COMMIT}")).unwrap());
    assert!(!bench.folder().join("refs").exists(), "a commit needs no reference");
    let bench = bench.offline();
    bench.check(&bench.fetch_named(&format!("hf:{REPO}@{COMMIT}")).unwrap());
}

#[test]
fn a_model_in_shards_comes_whole() {
    let index = br#"{"weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}}"#;
    let bench = bench(Rules::new(&[
        ("model.safetensors.index.json", index),
        ("m-1-of-2.safetensors", &weights()),
        ("m-2-of-2.safetensors", &weights()[1..]),
    ]));
    let snapshot = bench.fetch().unwrap();
    assert_eq!(files_in(&snapshot.folder).len(), 3);
    assert_eq!(bench.offline().fetch().unwrap(), snapshot);
}

#[test]
fn a_revision_with_slashes_is_one() {
    let bench = bench(model());
    let snapshot = bench.fetch_named(&format!("hf:{REPO}@refs/pr/1")).unwrap();
    bench.check(&snapshot);
    let commit = fs_err::read_to_string(bench.folder().join("refs/refs/pr/1")).unwrap();
    assert_eq!(commit, COMMIT);
}

#[test]
fn names_that_leave_the_folder_write_nothing() {
    for name in ["../../evil.json", "/evil.json", "a/../../../evil.json"] {
        let mut rules = model();
        rules.files.insert(name.to_owned(), b"{}".to_vec());
        let bench = bench(rules);
        let (kind, text) = told(bench.fetch());
        assert!(matches!(kind, HubErrorKind::UnsafePath { .. }), "{kind:?}");
        assert!(text.contains(name), "{text}");
        assert!(!bench.config.cache.exists());
    }
}

#[test]
fn an_etag_that_is_no_checksum_is_refused() {
    let mut rules = model();
    rules.etags.insert("model.safetensors".to_owned(), "../../../evil".to_owned());
    let bench = bench(rules);
    let (_, text) = told(bench.fetch());
    assert!(
        text.ends_with("`ETag` is `\"../../../evil\"`, expected a SHA-256 or a git blob's SHA-1"),
        "{text}"
    );
    assert!(!bench.config.cache.exists());
}

#[test]
fn pickles_are_refused_before_anything_is_downloaded() {
    let bench = bench(Rules::new(&[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")]));
    let (_, text) = told(bench.fetch());
    assert!(text.starts_with("the repository has only pickled weights (`pytorch_model.bin`)"));
    assert_eq!(bench.server.requests().len(), 1);
}

#[test]
fn two_at_once_download_each_file_once() {
    let bench = bench(model());
    let both = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| bench.fetch().unwrap()));
        both.map(|one| one.join().unwrap())
    });
    for snapshot in &both {
        bench.check(snapshot);
    }
    assert_eq!(downloads(&bench.server.requests()), [None]);
}

#[test]
fn a_lock_is_waited_for_until_a_stop() {
    struct StopAtWarning(Stop);
    impl Progress for StopAtWarning {
        fn update(&self, _: &str, _: u64, _: Option<u64>, _: &str) {}
        fn finish(&self, _: &str, _: &str) {}
        fn warn(&self, message: &str) {
            assert_eq!(message, "another process downloads the same file; waiting for it");
            self.0.request();
        }
    }
    let bench = bench(model());
    let locks = bench.config.cache.join(".locks/models--acme--tiny");
    fs_err::create_dir_all(&locks).unwrap();
    let lock = locks.join(format!("{}.lock", bench.rules.etag("model.safetensors")));
    let held = fs_err::File::create(lock).unwrap();
    held.file().lock().unwrap();
    let stop = Stop::default();
    let progress = StopAtWarning(stop.clone());
    let hub = Hub::new(bench.config.clone());
    let error = hub.fetch(&repo(&format!("hf:{REPO}")), &progress, &stop).unwrap_err();
    assert!(matches!(error.kind, HubErrorKind::Interrupted(_)), "{error:?}");
    drop(held);
    bench.check(&bench.fetch().unwrap());
}
