//! File access of the chores, with the path in every error.
//!
//! Not here: `fs_err`, which does the same for the product; chores have no dependencies.

#![expect(clippy::disallowed_methods, reason = "chores use std only; this module adds the path")]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::Stopped;

/// The checkout this binary was built from.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in the checkout").to_owned()
}

/// Larger public data that some chores read: `$CONJOIN_SHARED`, else the folder beside the checkout.
pub(crate) fn shared() -> String {
    std::env::var("CONJOIN_SHARED")
        .unwrap_or_else(|_| root().with_file_name("shared").display().to_string())
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Stopped> {
    fs::read(path).map_err(|e| told("read", path, &e))
}

/// Copies a folder with everything below it; files that are already there are replaced.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), Stopped> {
    fs::create_dir_all(to).map_err(|e| told("create", to, &e))?;
    for entry in fs::read_dir(from).map_err(|e| told("list", from, &e))? {
        let entry = entry.map_err(|e| told("list", from, &e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(|e| told("copy", &source, &e))?;
        }
    }
    Ok(())
}

/// Removes a folder with everything below it.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Stopped> {
    fs::remove_dir_all(path).map_err(|e| told("remove", path, &e))
}

fn told(verb: &str, path: &Path, error: &io::Error) -> Stopped {
    format!("cannot {verb} `{}`: {error}", path.display()).into()
}
