//! A teacher: a frozen model that looks at the batches of a task, so that documents which fit other
//! queries too do not count as negatives.
//!
//! In:  what queries and documents show, as it was read: texts, encoded pictures. Out: the teacher's
//!      vectors of both sides.
//! Not here: what follows from them (`conjoin_train::TeacherThreshold`).
//!
//! Of pairs of texts with pictures a teacher that sees compares texts with pictures; one that only reads
//! compares the texts, each standing for its picture.

use anyhow::{Context, Result, bail};
use conjoin_core::{EmbedError, Embedder as _, Embeddings, Modality, Stop, Task};
use conjoin_hub::ModelName;
use conjoin_model::Model;
use conjoin_train::{Inputs, TeacherThreshold, TeacherVectors};
use serde::{Deserialize, Serialize};

use crate::{console::Console, models};

/// Whose scores tell that a document of the batch is no negative of a query, and above which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeacherConfig {
    /// The model: a folder or `hf:OWNER/NAME`. Left out: the scores that the data bring, which are of a
    /// query's own hard negatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Above this score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f32>,
    /// Above this share of the own document's score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f32>,
    /// Above the own document's score less this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f32>,
}

impl TeacherConfig {
    /// The one threshold that is told.
    pub(crate) fn threshold(&self) -> Result<TeacherThreshold> {
        match (self.above, self.share, self.margin) {
            (Some(score), None, None) => Ok(TeacherThreshold::Above(score)),
            (None, Some(share), None) => Ok(TeacherThreshold::Share(share)),
            (None, None, Some(margin)) => Ok(TeacherThreshold::Margin(margin)),
            _ => bail!("`teacher` needs one of `above`, `share` and `margin`"),
        }
    }

    /// Passes unless the model is a folder that is not there.
    pub(crate) fn check_folder(&self) -> Result<()> {
        match &self.model {
            Some(ModelName::Folder(folder)) if !folder.is_dir() => {
                bail!("`teacher.model` is `{}`, there is no such folder", folder.display())
            }
            Some(ModelName::Folder(_) | ModelName::Hub(_)) | None => Ok(()),
        }
    }

    /// Finds the model, pinned to what it is now, and sees that it opens.
    pub(crate) fn find(&mut self, console: &Console, stop: &Stop) -> Result<()> {
        let Some(name) = &mut self.model else { return Ok(()) };
        let found = models::find(name, console, stop).and_then(|found| {
            Teacher::open(&found.name)?;
            Ok(found.name)
        });
        *name = found.with_context(|| format!("`teacher.model` is `{name}`"))?;
        Ok(())
    }

    /// The model, where there is one, that was [found](Self::find) before.
    pub(super) fn open(&self) -> Result<Option<Teacher>> {
        let open =
            |name| Teacher::open(name).with_context(|| format!("`teacher.model` is `{name}`"));
        self.model.as_ref().map(open).transpose()
    }
}

/// The frozen model.
pub(crate) struct Teacher {
    model: Model,
    name: ModelName,
}

/// Why a teacher has no vectors of a batch.
#[derive(Debug, thiserror::Error)]
#[error("the teacher `{name}` cannot embed the batch")]
pub(crate) struct TeacherError {
    name: ModelName,
    #[source]
    source: EmbedError,
}

impl Teacher {
    fn open(name: &ModelName) -> Result<Self> {
        Ok(Self { model: models::open_found(name)?, name: name.clone() })
    }

    /// Passes when it can look at one of the modalities.
    pub(super) fn needs(&self, modality: Modality, pairs: &str) -> Result<()> {
        if self.looks_at(modality) {
            return Ok(());
        }
        let name = &self.name;
        bail!(
            "`teacher.model` is `{name}`, it must be a model with a tower for {modality}s: {pairs}"
        )
    }

    pub(super) fn looks_at(&self, modality: Modality) -> bool {
        self.model.modalities().contains(&modality)
    }

    /// Identifies the model.
    pub(super) fn fingerprint(&self) -> &str {
        self.model.fingerprint()
    }

    /// Its vectors of both sides of a batch; where documents show what their queries do, there is nothing
    /// in `documents`.
    ///
    /// # Shapes
    /// `queries`: `[b]`, `documents`: `[b·(1+m)]` or empty
    pub(super) fn vectors(
        &self,
        queries: &Inputs<String, Vec<u8>>,
        documents: &Inputs<String, Vec<u8>>,
    ) -> Result<TeacherVectors, TeacherError> {
        let failed = |source| TeacherError { name: self.name.clone(), source };
        let queries = self.embed(queries, &Task::Query).map_err(failed)?;
        let documents = match documents.is_empty() {
            true => queries.clone(),
            false => self.embed(documents, &Task::Passage).map_err(failed)?,
        };
        Ok(TeacherVectors { queries, documents })
    }

    fn embed(
        &self,
        shown: &Inputs<String, Vec<u8>>,
        task: &Task,
    ) -> Result<Embeddings, EmbedError> {
        match shown {
            Inputs::Texts(texts) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                Ok(self.model.embed_texts(&texts, task)?.vectors)
            }
            Inputs::Images(pictures) => {
                let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
                let mut vectors = Embeddings::zeros(0, self.model.width());
                for vector in self.model.embed_images(&pictures)? {
                    let row = Embeddings::new(self.model.width(), vector?);
                    vectors.append(&row.expect("a vector of the model's width"));
                }
                Ok(vectors)
            }
        }
    }
}
