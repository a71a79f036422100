//! Models in the layouts of Python's libraries.
//!
//! In:  a [`Model`] and an [`ExportTarget`]. Out: an [`Export`]: files that the library opens, and the
//!      lines of Python that do it; written as one folder.
//! A tower that came from a folder of that layout is written back into it ([`crate::Origin`]); a tower of ours
//! becomes a public architecture that computes the same. What a target cannot say is an error that names
//! the rule in the way. Parity: `testdata/parity/export`.

mod clip;
mod folder;
mod hf;
mod laying;
mod open_clip;
mod sentence_transformers;
mod tensors;
mod tokenizer;
mod towers;

use std::path::Path;

use conjoin_core::{Artifact, ArtifactWriter, Embedder, Manifest};
use conjoin_input::{CropRounding, ResizeMode};

pub(crate) use folder::Folder;

use crate::{Model, ModelError, ModelErrorKind};

/// The manifest's format of an exported model.
pub const EXPORT_FORMAT: &str = "export";
/// The newest version of the format.
pub const EXPORT_VERSION: u32 = 1;

/// Whose layout a model is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportTarget {
    /// Hugging Face transformers.
    Hf,
    /// sentence-transformers.
    SentenceTransformers,
    /// `open_clip`.
    OpenClip,
}

/// A model in somebody else's layout, not yet written.
#[derive(Debug)]
pub struct Export {
    target: ExportTarget,
    folder: Folder,
    python: String,
    notes: Vec<String>,
}

impl ExportTarget {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hf, Self::SentenceTransformers, Self::OpenClip];

    /// How the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::SentenceTransformers => "sentence-transformers",
            Self::OpenClip => "open_clip",
        }
    }

    /// The library, as the hub's model cards name it.
    #[must_use]
    pub fn library(self) -> &'static str {
        match self {
            Self::Hf => "transformers",
            Self::SentenceTransformers => "sentence-transformers",
            Self::OpenClip => "open_clip",
        }
    }

    fn files(self, model: &Model) -> Result<(Folder, String), ModelErrorKind> {
        let (folder, python) = match self {
            Self::Hf => hf::folder(model),
            Self::SentenceTransformers => sentence_transformers::folder(model),
            Self::OpenClip => open_clip::folder(model),
        }?;
        folder.check(model)?;
        Ok((folder, python))
    }
}

impl Export {
    /// Describes the model in the target's words.
    ///
    /// # Errors
    /// When the target cannot say one of the model's rules; the error names it, and the targets that can.
    pub fn of(model: &Model, target: ExportTarget) -> Result<Self, ModelErrorKind> {
        match target.files(model) {
            Ok((folder, python)) => {
                let notes = notes(model, target);
                Ok(Self { target, folder, python, notes })
            }
            Err(ModelErrorKind::NotExpressible { what, found, .. }) => {
                let others = ExportTarget::ALL.into_iter().filter(|other| *other != target);
                let others = others.filter(|other| other.files(model).is_ok());
                let others: Vec<&str> = others.map(ExportTarget::name).collect();
                let others =
                    if others.is_empty() { "none".to_owned() } else { others.join(" and ") };
                Err(ModelErrorKind::NotExpressible { what, found, target: target.name(), others })
            }
            Err(other) => Err(other),
        }
    }

    /// The lines of Python that open it and embed something.
    #[must_use]
    pub fn python(&self) -> &str {
        &self.python
    }

    /// Where the library may give other vectors, in sentences.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whose layout it is.
    #[must_use]
    pub fn target(&self) -> ExportTarget {
        self.target
    }

    /// The files that will be there, sorted.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.folder.names()
    }

    /// Writes the files and the model card as one folder. It replaces an older export, nothing else.
    ///
    /// # Errors
    /// When something else is there, or a file cannot be written.
    pub fn write(
        &self,
        model: &Model,
        card: &str,
        folder: &Path,
        mut manifest: Manifest,
    ) -> Result<Artifact, ModelError> {
        let write = || {
            let writer = ArtifactWriter::create(folder, EXPORT_FORMAT)?;
            self.folder.write(model, &|name| writer.file(name))?;
            fs_err::write(writer.file("README.md"), card)?;
            EXPORT_FORMAT.clone_into(&mut manifest.format);
            manifest.version = EXPORT_VERSION;
            manifest.fingerprint = Some(model.fingerprint().to_owned());
            manifest.facts.insert("target".to_owned(), self.target.name().into());
            Ok(writer.commit(manifest)?)
        };
        write().map_err(|kind: ModelErrorKind| kind.at(folder.display().to_string()))
    }
}

/// What the library does with inputs that no file of it can say otherwise.
fn notes(model: &Model, target: ExportTarget) -> Vec<String> {
    let contract = &model.spec().contract;
    let mut notes = Vec::new();
    let crop = contract.image.as_ref().map(|image| image.resize);
    let theirs = match target {
        ExportTarget::Hf | ExportTarget::SentenceTransformers => CropRounding::Down,
        ExportTarget::OpenClip => CropRounding::HalfEven,
    };
    if let Some(ResizeMode::ShortestCenterCrop { crop_rounding }) = crop
        && crop_rounding != theirs
    {
        notes.push(
            "Pictures of some shapes are cropped one pixel elsewhere than in conjoin: the library rounds half \
             of an odd rest the other way."
                .to_owned(),
        );
    }
    if target == ExportTarget::OpenClip && contract.image.is_some() {
        notes.push(
            "Pictures with transparency: the library resizes them before it drops the transparency, conjoin \
             after."
                .to_owned(),
        );
    }
    if target == ExportTarget::Hf && contract.image.is_some() {
        notes.push(
            "Pass `backend=\"pil\"` to the processor for the very pixels of conjoin; torchvision resizes \
             a little differently."
                .to_owned(),
        );
    }
    notes
}

/// Whether the folder was written by an export: its files are somebody else's layout.
pub(crate) fn is_export(folder: &Path) -> bool {
    Artifact::open(folder, EXPORT_FORMAT, EXPORT_VERSION).is_ok()
}

/// The error that a rule has no words in the target's layout; [`Export::of`] fills in the targets.
pub(crate) fn not_expressible(what: &str, found: impl Into<String>) -> ModelErrorKind {
    ModelErrorKind::NotExpressible {
        what: what.to_owned(),
        found: found.into(),
        target: "",
        others: String::new(),
    }
}
