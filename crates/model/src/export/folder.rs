//! The files of an exported model, in memory but for the numbers.
//!
//! In:  texts and descriptions of tensors, by path. Out: the files.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::tensors::Numbers;
use crate::{ForeignTensor, Model, ModelErrorKind};

/// The weight file of transformers and sentence-transformers.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Files by path, with `/` between folder and name.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    files: BTreeMap<String, Vec<u8>>,
    weights: BTreeMap<String, Vec<ForeignTensor>>,
}

impl Folder {
    pub(crate) fn put(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.files.insert(path.to_owned(), content.into());
    }

    /// A JSON file as the libraries write theirs.
    pub(crate) fn json(&mut self, path: &str, content: &Value) {
        self.put(path, format!("{content:#}\n"));
    }

    pub(crate) fn tensors(&mut self, path: &str, tensors: Vec<ForeignTensor>) {
        self.weights.insert(path.to_owned(), tensors);
    }

    /// All files of another one, behind a path.
    pub(crate) fn add(&mut self, path: &str, other: Self) {
        let put = |name: String| format!("{path}/{name}");
        self.files.extend(other.files.into_iter().map(|(name, file)| (put(name), file)));
        self.weights.extend(other.weights.into_iter().map(|(name, file)| (put(name), file)));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> =
            self.files.keys().chain(self.weights.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Passes when the weights hold every parameter of the model.
    pub(crate) fn check(&self, model: &Model) -> Result<(), ModelErrorKind> {
        Numbers::of(model).check(self.weights.values().flatten())
    }

    pub(crate) fn write(
        &self,
        model: &Model,
        place: &dyn Fn(&str) -> PathBuf,
    ) -> Result<(), ModelErrorKind> {
        for (name, content) in &self.files {
            fs_err::write(with_parent(place(name))?, content)?;
        }
        let numbers = Numbers::of(model);
        for (name, tensors) in &self.weights {
            // What PyTorch's libraries ask of a file.
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let views = tensors.iter().map(|tensor| (&tensor.name, numbers.view(tensor)));
            let path = with_parent(place(name))?;
            safetensors::serialize_to_file(views.collect::<Vec<_>>(), Some(metadata), &path)
                .map_err(|source| {
                    let file = path.display().to_string();
                    ModelErrorKind::Safetensors { file, source }
                })?;
        }
        Ok(())
    }
}

fn with_parent(path: PathBuf) -> Result<PathBuf, ModelErrorKind> {
    fs_err::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(path)
}
