//! `check`: what to run before a commit. `ci`: what CI runs.
//!
//! Not here: the steps of CI, which are in `.ci/run` alone, so that the two cannot differ.

use std::collections::BTreeSet;

use crate::{Stopped, Verdict, run, tidy};

/// Formats are checked first, tests run last; the first failing step ends it.
pub(crate) fn check(crates: &[&str]) -> Result<Verdict, Stopped> {
    let packages = match crates {
        [] => touched(&run::output("git", &["status", "--porcelain", "--untracked-files=all"])?),
        named => named.iter().map(|name| package(name)).collect(),
    };
    let mut selection = vec!["--workspace"];
    if !packages.is_empty() {
        selection = packages.iter().flat_map(|p| ["-p", p]).collect();
    }

    if run::run("cargo", &["fmt", "--all", "--check"])? == Verdict::No
        || tidy::tidy()? == Verdict::No
        || run::run("cargo", &lint_args(&selection))? == Verdict::No
    {
        return Ok(Verdict::No);
    }
    run::run("cargo", &[&["test"][..], &selection].concat())
}

/// Runs CI's own script, without its installation of system packages.
pub(crate) fn ci() -> Result<Verdict, Stopped> {
    run::run("bash", &[".ci/run", "--no-install"])
}

fn lint_args<'a>(selection: &[&'a str]) -> Vec<&'a str> {
    let start: &[&str] = &["clippy", "--all-targets"];
    [start, selection, &["--", "-D", "warnings"]].concat()
}

/// The packages with changes in `git status --porcelain`; none when a file outside the crates
/// changed that can concern all of them.
fn touched(status: &str) -> BTreeSet<String> {
    let paths: Vec<&str> = status.lines().filter_map(|line| line.get(3..)).collect();
    if paths.iter().any(|p| matches!(*p, "Cargo.toml" | "Cargo.lock" | "rust-toolchain.toml")) {
        return BTreeSet::new();
    }
    let named = paths.iter().filter_map(|path| {
        let mut parts = path.split('/');
        match (parts.next()?, parts.next()?) {
            ("crates", name) => Some(package(name)),
            ("xtask", _) => Some("xtask".to_owned()),
            _ => None,
        }
    });
    named.collect()
}

/// `train` and `conjoin-train` both mean the package `conjoin-train`.
fn package(name: &str) -> String {
    if name == "xtask" || name.starts_with("conjoin-") {
        name.to_owned()
    } else {
        format!("conjoin-{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_touched(status: &str, expect: &[&str]) {
        assert_eq!(touched(status).iter().map(String::as_str).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn crates_with_changes_are_touched_once() {
        check_touched(
            " M crates/train/src/lib.rs\n?? crates/train/src/new.rs\n M xtask/src/run.rs\n M README.md\n",
            &["conjoin-train", "xtask"],
        );
    }

    #[test]
    fn a_change_of_the_lock_file_touches_everything() {
        check_touched(" M Cargo.lock\n M crates/train/src/lib.rs\n", &[]);
    }

    #[test]
    fn short_and_full_names_are_the_same_package() {
        assert_eq!(package("train"), package("conjoin-train"));
        assert_eq!(package("xtask"), "xtask");
    }
}
