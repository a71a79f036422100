//! Our checkpoint: `spec.json`, `weights.safetensors`, `tokenizer.json` and the manifest.
//!
//! In:  a [`Model`]. Out: a folder, and the same model again. Format: `docs/format/checkpoint.md`.

use std::{borrow::Cow, collections::BTreeMap, io::Read, path::Path};

use conjoin_core::{Artifact, ArtifactWriter, Manifest, Parameter, Tower, hash_bytes};
use conjoin_input::Tokenizer;
use safetensors::{Dtype, View};
use serde::de::DeserializeOwned;

use crate::{
    ImageTower, Model, ModelError, ModelErrorKind, ModelParts, ModelSpec, NameMap, TextTower,
    Weights,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

/// The manifest's format of a checkpoint.
pub const CHECKPOINT_FORMAT: &str = "checkpoint";
/// The newest version of the format.
pub const CHECKPOINT_VERSION: u32 = 2;

const SPEC_FILE: &str = "spec.json";
const WEIGHTS_FILE: &str = "weights.safetensors";
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Only where towers come from somebody else's folder.
const ORIGIN_FILE: &str = "origin.json";

/// Tokenisers are tens of megabytes at most.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// Everything else is kilobytes. As JSON values it takes some twenty times as much memory.
const MAX_CONFIG_BYTES: u64 = 2 << 20;

/// Reads a large file, a tokeniser's.
pub(crate) fn read_limited(path: &Path) -> Result<Vec<u8>, ModelErrorKind> {
    read_up_to(path, MAX_JSON_BYTES)
}

/// The limit holds also for what has no size of its own (a pipe, a device).
fn read_up_to(path: &Path, limit: u64) -> Result<Vec<u8>, ModelErrorKind> {
    let (file, mut bytes) = (fs_err::File::open(path)?, Vec::new());
    let found = file.metadata()?.len();
    if found <= limit {
        file.take(limit + 1).read_to_end(&mut bytes)?;
    }
    let found = found.max(bytes.len() as u64);
    if found > limit {
        let file = path.display().to_string();
        return Err(ModelErrorKind::TooLarge { file, found, limit });
    }
    Ok(bytes)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelErrorKind> {
    parse(path, &read_up_to(path, MAX_CONFIG_BYTES)?)
}

/// As [`read_json`] for a large file.
pub(crate) fn read_large_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelErrorKind> {
    parse(path, &read_limited(path)?)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ModelErrorKind> {
    let file = path.display().to_string();
    serde_json::from_slice(bytes).map_err(|source| ModelErrorKind::Json { file, source })
}

impl Model {
    /// Opens a checkpoint folder written by [`Model::save`].
    ///
    /// # Errors
    /// When a file is missing, damaged, or not what the spec says.
    pub fn open_checkpoint(folder: &Path) -> Result<Self, ModelError> {
        read(folder).map_err(|kind| kind.at(folder.display().to_string()))
    }

    /// Writes the model as a checkpoint folder; `facts` go into the manifest.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, manifest: Manifest) -> Result<Artifact, ModelError> {
        self.save_with(folder, manifest, &[])
    }

    /// As [`Model::save`], with texts for people beside it: names and contents.
    ///
    /// # Errors
    /// As there.
    pub fn save_with(
        &self,
        folder: &Path,
        manifest: Manifest,
        texts: &[(&str, &str)],
    ) -> Result<Artifact, ModelError> {
        self.write(folder, manifest, texts).map_err(|kind| kind.at(folder.display().to_string()))
    }

    fn write(
        &self,
        folder: &Path,
        mut manifest: Manifest,
        texts: &[(&str, &str)],
    ) -> Result<Artifact, ModelErrorKind> {
        let writer = ArtifactWriter::create(folder, CHECKPOINT_FORMAT)?;
        for (name, text) in texts {
            fs_err::write(writer.file(name), text)?;
        }
        let spec = serde_json::to_vec_pretty(self.spec())
            .map_err(|source| ModelErrorKind::Json { file: SPEC_FILE.to_owned(), source })?;
        fs_err::write(writer.file(SPEC_FILE), spec)?;
        let parts = self.parts();
        if let Some(tokenizer) = &parts.tokenizer {
            fs_err::write(writer.file(TOKENIZER_FILE), tokenizer.to_json())?;
        }
        if !parts.origins.is_empty() {
            let origins = serde_json::to_vec(&parts.origins)
                .map_err(|source| ModelErrorKind::Json { file: ORIGIN_FILE.to_owned(), source })?;
            fs_err::write(writer.file(ORIGIN_FILE), origins)?;
        }
        let text = parts.text.iter().flat_map(|t| t.parameters());
        let image = parts.image.iter().flat_map(|t| t.parameters());
        safetensors::serialize_to_file(
            text.chain(image).map(|p| (p.name.as_str(), Stored(p))).collect::<Vec<_>>(),
            None,
            &writer.file(WEIGHTS_FILE),
        )
        .map_err(|source| ModelErrorKind::Safetensors { file: WEIGHTS_FILE.to_owned(), source })?;
        CHECKPOINT_FORMAT.clone_into(&mut manifest.format);
        manifest.version = CHECKPOINT_VERSION;
        manifest.fingerprint = Some(self.whole_fingerprint().to_owned());
        Ok(writer.commit(manifest)?)
    }

    /// A model of trained towers; its fingerprint follows from every number and rule in it.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn from_parts(spec: ModelSpec, parts: ModelParts) -> Result<Self, ModelErrorKind> {
        let fingerprint = fingerprint(&spec, &parts)?;
        Self::new(spec, parts, fingerprint)
    }
}

fn fingerprint(spec: &ModelSpec, parts: &ModelParts) -> Result<String, ModelErrorKind> {
    let mut hashes = vec![hash_bytes(&spec.rules()?)];
    hashes.extend(parts.tokenizer.iter().map(|t| hash_bytes(&t.to_json())));
    let parameters = |p: &[Parameter]| p.iter().map(|p| hash_bytes(&bytes(p))).collect::<Vec<_>>();
    hashes.extend(parts.text.iter().flat_map(|t| parameters(t.parameters())));
    hashes.extend(parts.image.iter().flat_map(|t| parameters(t.parameters())));
    Ok(hash_bytes(hashes.concat().as_bytes()))
}

fn read(folder: &Path) -> Result<Model, ModelErrorKind> {
    let artifact = Artifact::open(folder, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)?;
    let found = artifact.manifest().version;
    if found < CHECKPOINT_VERSION {
        return Err(ModelErrorKind::TooOld { found, oldest: CHECKPOINT_VERSION });
    }
    // The fingerprint is only worth something if the numbers are those it was taken of. Hashing them
    // takes longer than all the rest; nobody sees the model before both are done.
    let (verified, model) = rayon::join(|| artifact.verify(), || load(&artifact));
    verified?;
    model
}

fn load(artifact: &Artifact) -> Result<Model, ModelErrorKind> {
    let spec: ModelSpec = read_json(&artifact.file(SPEC_FILE))?;
    let weights = Weights::open(&artifact.file(WEIGHTS_FILE))?;
    let mut parts = ModelParts::default();
    if let Some(text) = &spec.text {
        let map = NameMap::with_prefix(&weights, TEXT_PREFIX)?;
        parts.text = Some(TextTower::open(text, &map)?);
        parts.tokenizer =
            Some(Tokenizer::from_json(&read_limited(&artifact.file(TOKENIZER_FILE))?)?);
    }
    if let (Some(image), Some(contract)) = (&spec.image, &spec.contract.image) {
        let map = NameMap::with_prefix(&weights, IMAGE_PREFIX)?;
        parts.image = Some(ImageTower::open(image, contract, &map)?);
    }
    let origin = artifact.file(ORIGIN_FILE);
    if origin.exists() {
        parts.origins = read_large_json(&origin)?;
    }
    let stated = artifact.manifest().fingerprint.clone();
    match stated {
        Some(fingerprint) => Model::new(spec, parts, fingerprint),
        None => Model::from_parts(spec, parts),
    }
}

fn bytes(parameter: &Parameter) -> Vec<u8> {
    parameter.value.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A parameter as safetensors wants to see it.
struct Stored<'a>(&'a Parameter);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytes(self.0).into()
    }

    fn data_len(&self) -> usize {
        self.0.value.len() * 4
    }
}

/// Facts about a model for a manifest.
impl ModelSpec {
    /// What decides which vector an input gets, as bytes: not the card, not the temperature.
    pub(crate) fn rules(&self) -> Result<Vec<u8>, ModelErrorKind> {
        serde_json::to_vec(&(&self.text, &self.image, &self.contract))
            .map_err(|source| ModelErrorKind::Json { file: SPEC_FILE.to_owned(), source })
    }

    /// A few facts worth reading without opening the files.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<String, serde_json::Value> {
        BTreeMap::from([
            ("name".to_owned(), self.card.name.clone().into()),
            ("licence".to_owned(), self.card.licence.clone().into()),
            ("log_scale".to_owned(), self.log_scale.into()),
        ])
    }
}
