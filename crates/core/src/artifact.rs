//! An artefact: a folder with a versioned `manifest.json`, committed whole or not at all.
//!
//! In:  files written into a temporary folder beside the target. Out: the target folder.
//! The manifest is written last and the folder is renamed into place, so a reader sees the old
//! artefact or the new one, never half of one. A process that dies while it replaces an artefact leaves
//! the old one as `.NAME.old`; the next reader or writer puts it back.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::{Component, Path, PathBuf},
};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The manifest's file name in every artefact.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Manifests are small; a larger one is not ours.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// What an artefact is and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The kind of artefact (`dataset`, `checkpoint`, `index`, `report`, …).
    pub format: String,
    /// The version of that format.
    pub version: u32,
    /// SHA-256 of the resolved configuration that made it.
    pub config_hash: String,
    /// SHA-256 of each input's manifest or file, by name.
    pub inputs: BTreeMap<String, String>,
    /// The seed of the run, where one was used.
    pub seed: Option<u64>,
    /// The model that made the vectors inside, where there are any.
    pub fingerprint: Option<String>,
    /// SHA-256 of each file of the artefact, by path relative to the folder. Filled in on commit.
    pub files: BTreeMap<String, String>,
    /// Facts worth reading without opening the files (counts, names). Never needed to open it.
    pub facts: BTreeMap<String, serde_json::Value>,
}

impl Manifest {
    /// A manifest with the given format and version and everything else empty.
    #[must_use]
    pub fn new(format: &str, version: u32) -> Self {
        Self {
            format: format.to_owned(),
            version,
            config_hash: String::new(),
            inputs: BTreeMap::new(),
            seed: None,
            fingerprint: None,
            files: BTreeMap::new(),
            facts: BTreeMap::new(),
        }
    }

    /// SHA-256 of the manifest itself: identifies the artefact, content included.
    ///
    /// # Panics
    /// Never: a manifest always serialises.
    #[must_use]
    pub fn hash(&self) -> String {
        hash_bytes(&serde_json::to_vec(self).expect("a manifest holds only plain data"))
    }
}

/// A committed artefact on disk.
#[derive(Debug, Clone)]
pub struct Artifact {
    path: PathBuf,
    manifest: Manifest,
}

/// Why an artefact could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use artefact `{}`", path.display())]
pub struct ArtifactError {
    /// The folder.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: ArtifactErrorKind,
}

/// What is wrong with an artefact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactErrorKind {
    /// A file could not be read or written; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The manifest is not valid JSON of the expected shape.
    #[error("`{MANIFEST_FILE}` is not a manifest")]
    Manifest(#[source] serde_json::Error),
    /// The manifest is far larger than any of ours.
    #[error("`{MANIFEST_FILE}` has {found} bytes, the limit is {MAX_MANIFEST_BYTES}")]
    TooLarge {
        /// Bytes found.
        found: u64,
    },
    /// Another kind of artefact.
    #[error("it is of format `{found}`, `{expected}` is needed")]
    Format {
        /// Format found.
        found: String,
        /// Format expected.
        expected: &'static str,
    },
    /// Made by a newer build.
    #[error("format version {found}, this build reads up to {supported}")]
    TooNew {
        /// Version found.
        found: u32,
        /// Newest version this build reads.
        supported: u32,
    },
    /// The folder to write holds something that is not ours to replace.
    #[error("something that is no `{expected}` is there; it is not replaced, name another folder")]
    Foreign {
        /// Format of the artefact to be written.
        expected: String,
    },
    /// The manifest names a file elsewhere.
    #[error("`{MANIFEST_FILE}` names `{file}`, which is no file of the folder")]
    Outside {
        /// The name.
        file: String,
    },
    /// A file is not what the manifest says.
    #[error("`{file}` has hash {found}, the manifest says {expected}")]
    Hash {
        /// The file.
        file: String,
        /// Hash found.
        found: String,
        /// Hash in the manifest.
        expected: String,
    },
}

impl Artifact {
    /// Opens a folder and checks its kind and version. File hashes are checked by [`Artifact::verify`].
    ///
    /// # Errors
    /// When the manifest is missing, unreadable, of another kind or too new.
    pub fn open(path: &Path, format: &'static str, supported: u32) -> Result<Self, ArtifactError> {
        let fail = |kind| ArtifactError { path: path.to_owned(), kind };
        recover(path).map_err(|e| fail(e.into()))?;
        let manifest = read_manifest(path).map_err(fail)?;
        if manifest.format != format {
            let kind = ArtifactErrorKind::Format { found: manifest.format, expected: format };
            return Err(fail(kind));
        }
        if manifest.version > supported {
            let kind = ArtifactErrorKind::TooNew { found: manifest.version, supported };
            return Err(fail(kind));
        }
        Ok(Self { path: path.to_owned(), manifest })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The path of a file inside.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads every file and compares its hash with the manifest's.
    ///
    /// # Errors
    /// On the first file that is missing or changed.
    pub fn verify(&self) -> Result<(), ArtifactError> {
        let fail = |kind| ArtifactError { path: self.path.clone(), kind };
        for (file, expected) in &self.manifest.files {
            let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside {
                return Err(fail(ArtifactErrorKind::Outside { file: file.clone() }));
            }
            let found = hash_file(&self.file(file)).map_err(|e| fail(e.into()))?;
            if found != *expected {
                let (file, expected) = (file.clone(), expected.clone());
                return Err(fail(ArtifactErrorKind::Hash { file, found, expected }));
            }
        }
        Ok(())
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, ArtifactErrorKind> {
    let mut file = fs::File::open(path.join(MANIFEST_FILE))?;
    let found = file.metadata()?.len();
    if found > MAX_MANIFEST_BYTES {
        return Err(ArtifactErrorKind::TooLarge { found });
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(ArtifactErrorKind::Manifest)
}

/// An artefact being written. Dropped without [`ArtifactWriter::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct ArtifactWriter {
    target: PathBuf,
    staging: PathBuf,
    committed: bool,
}

impl ArtifactWriter {
    /// Starts writing; `target` itself is untouched until the commit. Only an artefact of the same
    /// format, an empty folder or nothing may be there.
    ///
    /// # Errors
    /// When `target` holds anything else, or the staging folder beside it cannot be made.
    pub fn create(target: &Path, format: &str) -> Result<Self, ArtifactError> {
        let staging = sibling(target, "staging");
        let make = || -> Result<(), ArtifactErrorKind> {
            recover(target)?;
            refuse_foreign(target, format)?;
            if staging.exists() {
                fs::remove_dir_all(&staging)?;
            }
            Ok(fs::create_dir_all(&staging)?)
        };
        make().map_err(|kind| ArtifactError { path: target.to_owned(), kind })?;
        Ok(Self { target: target.to_owned(), staging, committed: false })
    }

    /// Where to write a file of the artefact.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.staging.join(name)
    }

    /// Hashes the files, writes the manifest, makes all durable and renames the folder into place,
    /// replacing what was there.
    ///
    /// # Errors
    /// When a file cannot be read, written or renamed.
    pub fn commit(mut self, manifest: Manifest) -> Result<Artifact, ArtifactError> {
        let manifest = self
            .publish(manifest)
            .map_err(|e| ArtifactError { path: self.target.clone(), kind: e.into() })?;
        self.committed = true;
        Ok(Artifact { path: self.target.clone(), manifest })
    }

    fn publish(&self, mut manifest: Manifest) -> std::io::Result<Manifest> {
        let mut names = Vec::new();
        list_files(&self.staging, "", &mut names)?;
        for name in names {
            let file = self.staging.join(&name);
            manifest.files.insert(name, hash_file(&file)?);
            fs::File::open(&file)?.sync_all()?;
        }
        let text = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::other)?;
        let mut file = fs::File::create(self.staging.join(MANIFEST_FILE))?;
        file.write_all(&text)?;
        file.sync_all()?;
        self.replace()?;
        Ok(manifest)
    }

    /// Moves the old artefact aside and the new one into its place.
    fn replace(&self) -> std::io::Result<()> {
        let old = sibling(&self.target, OLD);
        loop {
            if self.target.exists() {
                if old.exists() {
                    fs::remove_dir_all(&old)?;
                }
                fs::rename(&self.target, &old)?;
            }
            match fs::rename(&self.staging, &self.target) {
                // A reader took the gap between the two renames for a crash and put the old one back.
                Err(_) if self.target.exists() => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    }
}

/// Puts an artefact back whose writer died between moving it aside and moving the new one in.
fn recover(target: &Path) -> std::io::Result<()> {
    let old = sibling(target, OLD);
    if target.exists() || !old.join(MANIFEST_FILE).exists() {
        return Ok(());
    }
    match fs::rename(&old, target) {
        // Another reader, or the writer itself, was faster.
        Err(_) if target.exists() => Ok(()),
        done => done,
    }
}

/// Passes when nothing would be lost but an older artefact of the same format.
fn refuse_foreign(target: &Path, format: &str) -> Result<(), ArtifactErrorKind> {
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    let is_ours = || read_manifest(target).is_ok_and(|manifest| manifest.format == format);
    if !target.exists() || is_empty() || is_ours() {
        return Ok(());
    }
    Err(ArtifactErrorKind::Foreign { expected: format.to_owned() })
}

/// What an artefact is called while it is replaced: `.NAME.old`.
const OLD: &str = "old";

impl Drop for ArtifactWriter {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: a leftover staging folder is removed by the next writer.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

fn sibling(target: &Path, tag: &str) -> PathBuf {
    let name = target.file_name().map_or_else(|| "artefact".into(), |n| n.to_string_lossy());
    target.with_file_name(format!(".{name}.{tag}"))
}

fn list_files(folder: &Path, prefix: &str, into: &mut Vec<String>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list_files(&entry.path(), &format!("{name}/"), into)?;
        } else {
            into.push(name);
        }
    }
    Ok(())
}

/// SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal, read in blocks.
///
/// # Errors
/// When the file cannot be read.
pub fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&block[..n]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
