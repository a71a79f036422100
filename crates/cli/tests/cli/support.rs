//! What the tests share: running the binary, a small shop catalogue, a small trained model.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Passes when the command ended with this code; shows what it said otherwise.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {}", self.out))
    }
}

/// The command line, run in `dir`.
pub(crate) fn command<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conjoin"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// Runs a command in `dir` to its end.
#[track_caller]
pub(crate) fn conjoin<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Ran {
    ended(command(dir, args).output().unwrap())
}

/// What a command that has ended said.
#[track_caller]
pub(crate) fn ended(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    ran(output.status, text(output.stdout), text(output.stderr))
}

/// A command line as one string; no argument has a space.
#[track_caller]
pub(crate) fn run(dir: &Path, line: &str) -> Ran {
    conjoin(dir, &line.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn ran(status: ExitStatus, out: String, err: String) -> Ran {
    assert!(!err.contains("panicked"), "{err}");
    Ran { code: status.code().expect("it ended by itself"), out, err }
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    err: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Running {
    pub(crate) fn start(dir: &Path, line: &str) -> Self {
        let mut command = command(dir, &line.split_whitespace().collect::<Vec<_>>());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, err, said: String::new() }
    }

    /// Waits for a line on standard error with `part` in it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let n = self.err.read_line(&mut line).unwrap();
            assert_ne!(n, 0, "it ended without `{part}`:\n{}", self.said);
            self.said += &line;
        }
        line
    }

    /// Waits until a path is there.
    #[track_caller]
    pub(crate) fn wait_for_path(&mut self, path: &Path) {
        while !path.exists() {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended without {path:?}");
            std::thread::yield_now();
        }
    }

    /// What Ctrl-C sends.
    pub(crate) fn interrupt(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }

    /// Ends it at once, wherever it is.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ran {
        let mut out = String::new();
        self.err.read_to_string(&mut self.said).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        ran(self.child.wait().unwrap(), out, std::mem::take(&mut self.said))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a failed test leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A photo of the bundled grocery data.
pub(crate) struct Photo {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) split: String,
    pub(crate) jpeg: Vec<u8>,
}

const PRODUCTS: usize = 8;
const PHOTOS: usize = 4;

/// Four photos to learn from and four held-out ones of each of eight products.
pub(crate) fn photos() -> &'static [Photo] {
    static PHOTOS_READ: OnceLock<Vec<Photo>> = OnceLock::new();
    PHOTOS_READ.get_or_init(|| {
        let shards = ["photos-train.tar", "photos-val.tar"];
        shards.iter().flat_map(|shard| photos_of(shard)).collect()
    })
}

fn photos_of(shard: &str) -> Vec<Photo> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/grocery").join(shard);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(fs_err::File::open(path).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), bytes);
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".json")) {
        let facts: Value = serde_json::from_slice(bytes).unwrap();
        let text = |key: &str| facts[key].as_str().unwrap().to_owned();
        let n_products = counts.len();
        let count = counts.entry(text("name")).or_default();
        if *count == PHOTOS || (*count == 0 && n_products >= PRODUCTS) {
            continue;
        }
        *count += 1;
        let jpeg = files[&name.replace(".json", ".jpg")].clone();
        let (id, name, description) = (text("id"), text("name"), text("description"));
        chosen.push(Photo { id, name, description, split: text("split"), jpeg });
    }
    chosen
}

/// Writes `shop/products.csv` and its pictures.
pub(crate) fn make_shop(dir: &Path) {
    let pictures = dir.join("shop/pictures");
    fs_err::create_dir_all(&pictures).unwrap();
    let mut csv = "id,title,description,image,split\n".to_owned();
    for photo in photos() {
        let Photo { id, name, description, split, jpeg } = photo;
        fs_err::write(pictures.join(format!("{id}.jpg")), jpeg).unwrap();
        csv += &format!("{id},{name},\"{description}\",pictures/{id}.jpg,{split}\n");
    }
    fs_err::write(dir.join("shop/products.csv"), csv).unwrap();
}

/// A recipe of two small towers, which trains in a second or two.
pub(crate) fn recipe(steps: u64) -> String {
    format!(
        r#"
out = "run"
start.towers = {{ image_size = 64, width = 32, max_tokens = 32, text.new = {{ width = 32, layers = 1, heads = 2 }} }}

[[measure]]
name = "shop"
items = "data"

[train]
seed = 1
steps = {steps}
clip_norm = 1.0
evaluate_every = 2
augment = {{ flip = 0.5, brightness = 0.2, contrast = 0.2, saturation = 0.2, colour_cast = 0.0 }}
chunks = {{ text = {{ size = 8, held = 8 }}, image = {{ size = 4, held = 4 }} }}
schedule = {{ peak_lr = 0.001, warmup_steps = 2, decay = "cosine", floor = 0.0 }}
optimizer = {{ betas = [0.9, 0.98], eps = 1e-6, weight_decay = 0.05, lr_multipliers = [] }}
checkpoint = {{ every_steps = 5 }}

[[train.task]]
name = "pairs"
batch = 8
data = [{{ items = {{ path = "data", first_share = 0.5 }} }}]

[train.task.loss]
kind = "info_nce"
reduction = "symmetric_mean"
log_scale = {{ init = 2.65926, min = 0.0, max = 4.6051702, learned = true }}
"#
    )
}

/// A folder with `shop/`, its dataset `data/`, a recipe, a model of two steps `run/model/`, and `index/`.
/// Nobody writes into it. It is kept for the next test process of the same build.
pub(crate) fn trained() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trained");
        let stamp = dir.join("build");
        if !fs_err::read_to_string(&stamp).is_ok_and(|found| found == build()) {
            // Not there the first time.
            let _ = fs_err::remove_dir_all(&dir);
            make_shop(&dir);
            run(&dir, "curate shop/products.csv --out data").expect(0);
            fs_err::write(dir.join("recipe.toml"), recipe(2)).unwrap();
            run(&dir, "train recipe.toml").expect(0);
            run(&dir, "index data --model run/model --out index").expect(0);
            fs_err::write(stamp, build()).unwrap();
        }
        dir
    })
}

/// Tells builds of the binary and of the tests apart.
fn build() -> String {
    let binaries = [PathBuf::from(env!("CARGO_BIN_EXE_conjoin")), std::env::current_exe().unwrap()];
    format!("{:?}", binaries.map(|path| fs_err::metadata(path).unwrap().modified().unwrap()))
}

/// An empty folder and the path of something in the trained folder.
pub(crate) fn beside(name: &str) -> (TempDir, String) {
    let path = trained().join(name).display().to_string();
    (tempfile::tempdir().unwrap(), path)
}

/// The names in a folder, hidden ones too.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

/// Copies a folder of files and folders.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs_err::copy(from, to).unwrap();
        }
    }
}
