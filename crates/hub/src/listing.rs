//! The files of a repository, and which of them a model needs.
//!
//! In:  the answer of `/api/models/OWNER/NAME/revision/REVISION`. Out: the commit and the files to fetch.
//! Not here: fetching.

use serde::Deserialize;

use crate::error::HubErrorKind;

/// Ends of the names of files that a model's folder needs.
const WANTED: [&str; 6] = ["json", "txt", "model", "safetensors", "metadata", "toml"];

/// Read for its licence.
const CARD: &str = "README.md";

/// Ends of the names of files that hold pickled weights.
const PICKLES: [&str; 5] = ["bin", "pt", "pth", "ckpt", "pkl"];

/// Folders with the same model for other programs.
const OTHER_PROGRAMS: [&str; 6] = ["onnx", "openvino", "coreml", "gguf", "tf_saved_model", "flax"];

/// The same weights again, in another precision.
const VARIANTS: [&str; 3] = [".fp16", ".bf16", ".fp8"];

/// The files of open_clip's layout begin with this. Where the layout of transformers is there too, they
/// hold the same weights again.
const OPEN_CLIP: &str = "open_clip_";

/// A repository at a commit. The hub tells far more than is read here.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit the revision stands for.
    #[serde(rename = "sha")]
    pub commit: String,
    siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Sibling {
    /// Its path in the repository.
    #[serde(rename = "rfilename")]
    pub path: String,
    /// Its size in bytes, where the hub tells.
    #[serde(default)]
    pub size: Option<u64>,
}

impl Listing {
    /// The files a model needs, in the hub's order.
    pub(crate) fn model_files(&self) -> Result<Vec<Sibling>, HubErrorKind> {
        let pickle = self.siblings.iter().find(|file| has_end(&file.path, &PICKLES));
        let pickle = pickle.map(|file| file.path.clone());
        let has = |name: &str| self.siblings.iter().any(|file| file.path == name);
        let has_transformers =
            has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json"));
        let is_double = |path: &str| has_transformers && path.starts_with(OPEN_CLIP);
        let wanted = |file: &&Sibling| is_wanted(&file.path) && !is_double(&file.path);
        let files: Vec<Sibling> = self.siblings.iter().filter(wanted).cloned().collect();
        if let Some(file) = files.iter().find(|file| !is_inside(&file.path)) {
            return Err(HubErrorKind::UnsafePath { file: file.path.clone() });
        }
        if !files.iter().any(|file| has_end(&file.path, &["safetensors"])) {
            return Err(match pickle {
                Some(file) => HubErrorKind::Pickled { file },
                None => HubErrorKind::NoWeights,
            });
        }
        Ok(files)
    }
}

fn is_wanted(path: &str) -> bool {
    let folder = path.split_once('/').map(|(folder, _)| folder);
    let is_variant = || VARIANTS.iter().any(|variant| path.contains(variant));
    (path == CARD || has_end(path, &WANTED))
        && !folder.is_some_and(|folder| OTHER_PROGRAMS.contains(&folder))
        && !(has_end(path, &["safetensors"]) && is_variant())
}

fn has_end(path: &str, ends: &[&str]) -> bool {
    path.rsplit_once('.').is_some_and(|(_, end)| ends.contains(&end))
}

/// Whether a path stays in the folder it is joined to, on every system.
pub(crate) fn is_inside(path: &str) -> bool {
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..")
            && !name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
    };
    path.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let siblings =
            paths.iter().map(|path| Sibling { path: (*path).to_owned(), size: None }).collect();
        Listing { commit: String::new(), siblings }
    }

    #[test]
    fn a_model_needs_its_weights_its_settings_and_its_tokeniser() {
        let wanted = [
            "README.md",
            "config.json",
            "tokenizer.model",
            "vocab.txt",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
        ];
        let left = [
            ".gitattributes",
            "pytorch_model.bin",
            "model.onnx",
            "tf_model.h5",
            "flax_model.msgpack",
            "modeling_x.py",
            "onnx/config.json",
            "model.fp16.safetensors",
            "docs/README.md",
            "../../evil.py",
        ];
        let files = listing(&[&wanted[..], &left[..]].concat()).model_files().unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, wanted);
    }

    #[test]
    fn the_same_weights_are_fetched_in_one_layout() {
        let paths = |files: &[&str]| -> Vec<String> {
            let files = listing(files).model_files().unwrap();
            files.into_iter().map(|file| file.path).collect()
        };
        let open_clip = ["config.json", "open_clip_config.json", "open_clip_model.safetensors"];
        assert_eq!(paths(&open_clip), open_clip);
        let both = [&open_clip[..], &["model.safetensors"]].concat();
        assert_eq!(paths(&both), ["config.json", "model.safetensors"]);
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in
            ["../x.json", "/etc/x.json", "a/../../x.json", "a//x.json", "a\\x.json", "C:x.json"]
        {
            let error = listing(&["model.safetensors", name]).model_files().unwrap_err();
            assert!(matches!(&error, HubErrorKind::UnsafePath { file } if file == name), "{error}");
        }
    }

    #[test]
    fn pickles_alone_are_told_apart_from_no_weights() {
        let error = listing(&["config.json", "pytorch_model.bin"]).model_files().unwrap_err();
        assert!(error.to_string().starts_with(
            "the repository has only pickled weights (`pytorch_model.bin`), which can run code;"
        ));
        let error = listing(&["config.json", "a.onnx"]).model_files().unwrap_err();
        assert!(matches!(error, HubErrorKind::NoWeights));
    }

    #[test]
    fn reads_the_hub_s_answer_and_ignores_what_it_does_not_need() {
        let answer = r#"{"id": "a/b", "sha": "c0", "tags": [], "siblings": [
            {"rfilename": "config.json", "size": 5, "blobId": "x"}, {"rfilename": "m.safetensors"}]}"#;
        let listing: Listing = serde_json::from_str(answer).unwrap();
        assert_eq!(listing.commit, "c0");
        let sizes: Vec<_> = listing.model_files().unwrap().into_iter().map(|f| f.size).collect();
        assert_eq!(sizes, [Some(5), None]);
    }
}
