//! The files of the checkout, by path relative to its root, `/` between parts.

use std::collections::BTreeMap;

use crate::{Stopped, files, run};

/// Files with their texts; binary files are known by name only.
pub(super) struct Tree {
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    /// What git tracks or would add.
    pub(super) fn of_checkout() -> Result<Self, Stopped> {
        let listed = run::output(
            "git",
            &["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        )?;
        let mut known = BTreeMap::new();
        for path in listed.split('\0').filter(|p| !p.is_empty()) {
            let full = files::root().join(path);
            if full.is_file() {
                known.insert(path.to_owned(), String::from_utf8(files::read(&full)?).ok());
            }
        }
        Ok(Self { files: known })
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), Some((*text).to_owned()));
        Self { files: files.iter().map(owned).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Path and text of every text file.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// Text files with a path ending so.
    pub(super) fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts().filter(move |(path, _)| path.ends_with(end))
    }

    /// Whether this is a file, or a folder that holds one.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.files.contains_key(path)
            || self
                .files
                .range(folder.clone()..)
                .next()
                .is_some_and(|(p, _)| p.starts_with(&folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_files_and_folders_but_no_prefixes_of_names() {
        let tree = Tree::of(&[("crates/core/src/lib.rs", "")]);
        for there in ["crates", "crates/core/", "crates/core/src/lib.rs"] {
            assert!(tree.has(there), "{there}");
        }
        for missing in ["crate", "crates/cor", "crates/core/src/lib", "docs"] {
            assert!(!tree.has(missing), "{missing}");
        }
    }
}
