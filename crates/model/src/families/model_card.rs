//! The front matter of a model's `README.md`, as the hub writes it.
//!
//! In:  a folder. Out: the licence of its weights, where the card tells one.

use std::{io::Read, path::Path};

use crate::{Card, ModelErrorKind};

/// Front matters are a few kilobytes; what follows is prose.
const MAX_BYTES: u64 = 1 << 18;

/// Where a model in a folder of somebody else's comes from.
///
/// # Errors
/// As [`licence`].
pub fn card(folder: &Path) -> Result<Card, ModelErrorKind> {
    let name = folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(Card { name: name.clone(), licence: licence(folder)?, sources: vec![name] })
}

/// The licence that the model card tells: an identifier such as `apache-2.0`, or the name behind
/// `license: other`.
///
/// # Errors
/// When the card is there and cannot be read.
pub fn licence(folder: &Path) -> Result<Option<String>, ModelErrorKind> {
    let path = folder.join("README.md");
    if !path.exists() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    fs_err::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let front = text.trim_start_matches('\u{feff}').strip_prefix("---").unwrap_or_default();
    let lines = || front.lines().take_while(|line| line.trim_end() != "---");
    let value = |key: &str| {
        let mut found = lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = found.next()?.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    let listed = || {
        let mut items = lines().skip_while(|line| line.trim_end() != "license:").skip(1);
        items.next()?.trim().strip_prefix("- ").map(|item| item.trim().to_owned())
    };
    Ok(match value("license") {
        Some(other) if other == "other" => value("license_name").or(Some(other)),
        Some(licence) => Some(licence),
        None => listed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(card: &str, expected: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("README.md"), card).unwrap();
        assert_eq!(licence(folder.path()).unwrap().as_deref(), expected, "{card}");
    }

    #[test]
    fn reads_the_licence_of_a_card() {
        check("---\nlibrary_name: x\nlicense: cc-by-nc-4.0\n---\n# Title\n", Some("cc-by-nc-4.0"));
        check("---\r\nlicense: 'apache-2.0'\r\n---\r\n", Some("apache-2.0"));
        check("---\nlicense: other\nlicense_name: gemma\n---\n", Some("gemma"));
        check("---\nlicense:\n- mit\ntags:\n- a\n---\n", Some("mit"));
        check("---\ntags: []\n---\nlicense: mit\n", None);
        check("license: mit\n", None);
        assert_eq!(licence(Path::new("no/such/folder")).unwrap(), None);
    }
}
