//! The recorded checkpoints of all families, and our own, as folders that can be changed.

use std::path::{Path, PathBuf};

use conjoin_core::Manifest;
use conjoin_model::{CHECKPOINT_FORMAT, CHECKPOINT_VERSION, Model, open_reranker};

use crate::mutate::Mutation;

/// What a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedder,
    Reranker,
}

/// A copy of a checkpoint.
pub(crate) struct Base {
    /// Where it was recorded.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    folder: tempfile::TempDir,
    /// Its files, with `/`.
    files: Vec<(String, Vec<u8>)>,
}

impl Base {
    fn copy(from: &Path, kind: Kind, name: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        read(from, "", &mut files);
        for (name, bytes) in &files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, bytes).unwrap();
        }
        Self { name, kind, folder, files }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn jsons(&self) -> impl Iterator<Item = &str> {
        self.files().filter(|name| name.ends_with(".json"))
    }

    pub(crate) fn content(&self, file: &str) -> &[u8] {
        let found = self.files.iter().find(|(name, _)| name == file);
        found.map(|(_, bytes)| bytes.as_slice()).unwrap()
    }

    /// Size of all files after the mutation.
    pub(crate) fn bytes(&self, mutation: &Mutation) -> usize {
        let others = self.files.iter().filter(|(name, _)| *name != mutation.file);
        others.map(|(_, bytes)| bytes.len()).sum::<usize>() + mutation.content.len()
    }

    /// Runs `work` while the folder is changed.
    pub(crate) fn with<T>(&self, mutation: &Mutation, work: impl FnOnce() -> T) -> T {
        let path = self.folder().join(&mutation.file);
        fs_err::write(&path, &mutation.content).unwrap();
        let result = work();
        fs_err::write(&path, self.content(&mutation.file)).unwrap();
        result
    }
}

fn read(folder: &Path, prefix: &str, into: &mut Vec<(String, Vec<u8>)>) {
    let mut paths: Vec<PathBuf> =
        fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            read(&path, &format!("{name}/"), into);
        } else {
            into.push((name, fs_err::read(&path).unwrap()));
        }
    }
}

/// All checkpoints of `testdata/parity` that open, and two of them as checkpoints of our own.
pub(crate) fn bases() -> Vec<Base> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
    let mut bases = Vec::new();
    for family in subfolders(&root) {
        for case in subfolders(&family) {
            let checkpoint = case.join("checkpoint");
            let name = case.strip_prefix(&root).unwrap().display().to_string();
            if !checkpoint.exists() {
                continue;
            }
            if let Ok(model) = Model::open(&checkpoint) {
                if ["siglip/v1", "jina_clip/v2"].contains(&name.as_str()) {
                    bases.push(own(&model, format!("{name} as ours")));
                }
                bases.push(Base::copy(&checkpoint, Kind::Embedder, name));
            } else if open_reranker(&checkpoint).is_ok() {
                bases.push(Base::copy(&checkpoint, Kind::Reranker, name));
            }
        }
    }
    assert!(bases.len() >= 20, "only {} recorded checkpoints open", bases.len());
    bases
}

fn own(model: &Model, name: String) -> Base {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("model");
    model.save(&folder, Manifest::new(CHECKPOINT_FORMAT, CHECKPOINT_VERSION)).unwrap();
    let mut base = Base::copy(&folder, Kind::Embedder, name);
    // Without hashes, so that a changed file is not refused for its hash alone.
    let path = base.folder().join("manifest.json");
    let (_, manifest) = base.files.iter_mut().find(|(name, _)| name == "manifest.json").unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    value["files"] = serde_json::json!({});
    *manifest = serde_json::to_vec(&value).unwrap();
    fs_err::write(path, manifest).unwrap();
    base
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// A small PNG.
pub(crate) fn picture() -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/pictures/small.png");
    fs_err::read(path).unwrap()
}
