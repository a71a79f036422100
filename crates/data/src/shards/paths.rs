//! A pattern as a list of shards.
//!
//! In:  a path with braces, `*` and `?`, or of a folder. Out: paths, sorted, none twice.
//! Source of the braces: WebDataset and open_clip (`braceexpand`), without nesting.

use std::path::{Path, PathBuf};

use crate::ShardsErrorKind;

/// The most shards of a pattern: of 1 MB each they would be a terabyte.
const MAX_SHARDS: usize = 1_000_000;

pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>, ShardsErrorKind> {
    let mut paths = Vec::new();
    for path in braces(pattern)? {
        let path = PathBuf::from(path);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        match name.filter(|name| name.contains(['*', '?'])) {
            Some(name) => paths.extend(listed(path.parent().unwrap_or(Path::new("")), &name)?),
            None if path.is_dir() => paths.extend(listed(&path, "*.tar")?),
            None => paths.push(path),
        }
    }
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        return Err(ShardsErrorKind::NoShards);
    }
    Ok(paths)
}

/// Passes with every shard's length when all are there.
pub(super) fn with_lengths(paths: Vec<PathBuf>) -> Result<Vec<(PathBuf, u64)>, ShardsErrorKind> {
    let compressed =
        |path: &PathBuf| path.extension().is_some_and(|end| end == "gz" || end == "tgz");
    if let Some(path) = paths.iter().find(|path| compressed(path)) {
        return Err(ShardsErrorKind::Compressed { path: path.clone() });
    }
    let (n, mut found, mut missing) = (paths.len(), Vec::new(), Vec::new());
    for path in paths {
        match fs_err::metadata(&path) {
            Ok(facts) if facts.is_file() => found.push((path, facts.len())),
            _ => missing.push(path),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(ShardsErrorKind::Missing { missing, n }) }
}

/// The files of a folder whose names fit.
fn listed(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, ShardsErrorKind> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(here)? {
        let name = entry?.file_name();
        if fits(name.to_string_lossy().as_bytes(), pattern.as_bytes()) {
            paths.push(folder.join(name));
        }
    }
    Ok(paths)
}

/// Whether a name fits a pattern with `*` and `?`: the last star takes more until the rest fits.
fn fits(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut star) = ((0, 0), None);
    while at.0 < name.len() {
        match pattern.get(at.1) {
            Some(b'*') => {
                star = Some(at);
                at.1 += 1;
            }
            Some(c) if *c == b'?' || *c == name[at.0] => at = (at.0 + 1, at.1 + 1),
            _ => {
                let Some((taken, place)) = star else { return false };
                star = Some((taken + 1, place));
                at = (taken + 1, place + 1);
            }
        }
    }
    pattern[at.1..].iter().all(|c| *c == b'*')
}

/// All paths of a pattern with `{00..12}` and `{a,b}`.
fn braces(pattern: &str) -> Result<Vec<String>, ShardsErrorKind> {
    let mut all = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, inside)) = rest.split_once('{') {
        let unfit = || ShardsErrorKind::Braces { found: format!("{{{inside}") };
        let (inside, after) = inside.split_once('}').ok_or_else(unfit)?;
        let choices = match inside.split_once("..") {
            Some((first, last)) => numbers(first, last).ok_or_else(unfit)?,
            None => inside.split(',').map(str::to_owned).collect(),
        };
        if all.len().saturating_mul(choices.len()) > MAX_SHARDS {
            return Err(ShardsErrorKind::TooManyShards { limit: MAX_SHARDS });
        }
        let put = |start: &String| {
            choices.iter().map(move |c| format!("{start}{before}{c}")).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(put).collect();
        rest = after;
    }
    all.iter_mut().for_each(|path| path.push_str(rest));
    Ok(all)
}

/// `00007..12`: as many digits as the first number has.
fn numbers(first: &str, last: &str) -> Option<Vec<String>> {
    let digits =
        |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?;
    let (from, to): (usize, usize) = (digits(first)?, digits(last)?);
    let n = to.checked_sub(from)?.checked_add(1)?;
    let width = first.len();
    (n <= MAX_SHARDS + 1).then(|| (from..=to).map(|i| format!("{i:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn braces_are_expanded() {
        let all = |pattern: &str| braces(pattern).map_err(|e| e.to_string());
        assert_eq!(
            all("a/{08..11}.tar").unwrap(),
            ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
        );
        assert_eq!(all("{x,y}-{0..1}").unwrap(), ["x-0", "x-1", "y-0", "y-1"]);
        assert_eq!(all("plain.tar").unwrap(), ["plain.tar"]);
        let unfit = |found: &str| {
            Err(format!("`{found}` is no range like {{00000..41455}} and no list like {{a,b}}"))
        };
        assert_eq!(all("a{1..").map(|_| ()), unfit("{1.."));
        assert_eq!(all("a{5..2}").map(|_| ()), unfit("{5..2}"));
        assert_eq!(all("a{a..c}b").map(|_| ()), unfit("{a..c}b"));
        for many in [
            "{0..1000000}",
            "{0..99999999999999999999}",
            "{0..18446744073709551615}",
            "{0..9999}{0..9999}",
        ] {
            assert!(all(many).is_err(), "{many}");
        }
    }

    #[test]
    fn names_fit_stars_and_question_marks() {
        for (name, pattern, expected) in [
            ("train-01.tar", "train-*.tar", true),
            ("train-01.tar.gz", "train-*.tar", false),
            ("a.tar.tar", "*.tar", true),
            ("ab", "a?", true),
            ("a", "a?", false),
            ("", "*", true),
            ("aXbXc", "a*b*c*", true),
            ("aXbX", "a*b*c", false),
        ] {
            assert_eq!(fits(name.as_bytes(), pattern.as_bytes()), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn folders_and_stars_list_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "notes.txt"] {
            write(dir.path(), name, "x");
        }
        let top = dir.path().display();
        let both = vec![dir.path().join("a.tar"), dir.path().join("b.tar")];
        assert_eq!(expand(&top.to_string()).unwrap(), both);
        assert_eq!(expand(&format!("{top}/{{*,a}}.tar")).unwrap(), both);
        assert!(matches!(expand(&format!("{top}/c*")), Err(ShardsErrorKind::NoShards)));
    }
}
