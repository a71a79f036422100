//! The walls between crates: who may use whom, who may name a heavy dependency, and from where.
//!
//! In:  the manifests and the lock file. The table is ARCHITECTURE.md's.
//! Not here: `[dev-dependencies]` on heavy crates: an oracle in a test reaches no binary.

use super::{Fault, tree::Tree};

/// Crate and the crates of ours it may use, tests included.
const EDGES: [(&str, &[&str]); 12] = [
    ("core", &[]),
    ("input", &["core"]),
    ("engine", &["core"]),
    ("eval", &["core"]),
    ("index", &["core"]),
    ("serve", &["core"]),
    ("hub", &["core"]),
    ("model", &["core", "input", "engine"]),
    ("data", &["core", "input"]),
    ("train", &["core", "input", "engine", "model", "data"]),
    ("gpu", &["core", "engine"]),
    (
        "cli",
        &[
            "core", "input", "engine", "model", "data", "train", "eval", "index", "serve", "hub",
            "gpu",
        ],
    ),
];

/// Heavy dependency (or the start of its name) and the crates that may name it.
const HEAVY: [(&str, &[&str]); 12] = [
    ("usearch", &["index"]),
    ("tantivy", &["index"]),
    ("axum", &["serve"]),
    ("tokio", &["serve"]),
    ("hyper", &["serve"]),
    ("gemm", &["engine"]),
    // Weights, training states, and vectors that `embed` writes.
    ("safetensors", &["model", "train", "cli"]),
    ("arrow", &["data"]),
    ("parquet", &["data"]),
    ("cudarc", &["gpu"]),
    // The only outgoing connection.
    ("ureq", &["hub"]),
    ("rustls", &["hub"]),
];

/// A dependency line of a manifest.
struct Dependency<'a> {
    line: usize,
    section: &'a str,
    name: &'a str,
}

/// Every crate of ours uses only what its row allows, and has a row.
pub(super) fn own_crates(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text, name) in crates(tree) {
        let Some((_, allowed)) = EDGES.iter().find(|(row, _)| *row == name) else {
            faults.push(Fault::in_file(path, format!("crate `{name}` has no row in the table")));
            continue;
        };
        for dependency in dependencies(text) {
            let Some(used) = dependency.name.strip_prefix("conjoin-") else { continue };
            if used != name && !allowed.contains(&used) {
                let text = format!("`{name}` may not use `{used}`");
                faults.push(Fault::at(path, dependency.line, text));
            }
        }
    }
    faults
}

/// A heavy dependency is named by its owner only.
pub(super) fn heavy_dependencies(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text, name) in crates(tree) {
        for dependency in dependencies(text).filter(|d| d.section != "dev-dependencies") {
            let heavy = HEAVY.iter().find(|(heavy, _)| is_of(dependency.name, heavy));
            if let Some((_, owners)) = heavy.filter(|(_, owners)| !owners.contains(&name)) {
                let text = format!("only {owners:?} may name `{}`", dependency.name);
                faults.push(Fault::at(path, dependency.line, text));
            }
        }
    }
    faults
}

/// `[lints] workspace = true` stands in every member; a crate with a workspace of its own is none.
pub(super) fn workspace_lints(tree: &Tree) -> Vec<Fault> {
    let members = tree
        .ending("Cargo.toml")
        .filter(|(_, text)| text.contains("[package]") && !text.contains("[workspace]"));
    members
        .filter(|(_, text)| {
            !lines(text).any(|(_, section, l)| section == "lints" && l == "workspace = true")
        })
        .map(|(path, _)| Fault::in_file(path, "`[lints] workspace = true` is missing"))
        .collect()
}

/// The lock file names crates.io alone, and manifests no other registry or repository.
pub(super) fn sources(tree: &Tree) -> Vec<Fault> {
    const INDEX: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let mut faults = Vec::new();
    for (path, text) in tree.ending("Cargo.lock") {
        for (line, text) in (1..).zip(text.lines()) {
            if text.starts_with("source = ") && text != INDEX {
                faults.push(Fault::at(path, line, format!("not from crates.io: {text}")));
            }
        }
    }
    for (path, text) in tree.ending("Cargo.toml") {
        for (line, _, text) in lines(text) {
            if text.contains("git = \"") || text.contains("registry = \"") {
                faults.push(Fault::at(path, line, format!("not from crates.io: {text}")));
            }
        }
    }
    faults
}

/// Manifest path, text and short name of our crates.
fn crates(tree: &Tree) -> impl Iterator<Item = (&str, &str, &str)> {
    tree.ending("/Cargo.toml").filter_map(|(path, text)| {
        let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
        Some((path, text, name))
    })
}

/// `arrow-array` is of `arrow`, `tokio-util` of `tokio`.
fn is_of(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

/// Line number, section and text of a manifest's lines, comments and blanks left out.
fn lines(manifest: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    (1..)
        .zip(manifest.lines())
        .scan("", |section, (number, line)| {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[') {
                *section = name.trim_end_matches(']').trim_matches('[');
            }
            Some((number, *section, line))
        })
        .filter(|(_, _, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The dependencies of all kinds, of all targets, written as `name = …`, `name.workspace = …` or `[…dependencies.name]`.
fn dependencies(manifest: &str) -> impl Iterator<Item = Dependency<'_>> {
    lines(manifest).filter_map(|(line, section, text)| {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        let in_kind =
            |path: &str| kinds.into_iter().find(|kind| path.rsplit('.').next() == Some(kind));
        if text.starts_with('[') {
            let (path, name) = section.rsplit_once('.')?;
            return Some(Dependency { line, section: in_kind(path)?, name });
        }
        let name = text.split(['.', '=', ' ']).next()?.trim_matches('"');
        Some(Dependency { line, section: in_kind(section)?, name })
    })
}

#[cfg(test)]
mod tests {
    use super::super::check_faults;
    use super::*;

    #[test]
    fn an_edge_outside_the_table_is_a_fault_in_tests_too() {
        check_faults(
            own_crates,
            &[
                (
                    "crates/eval/Cargo.toml",
                    "[dependencies]\nconjoin-core.workspace = true\nconjoin-model.workspace = true\n",
                ),
                (
                    "crates/index/Cargo.toml",
                    "[dev-dependencies]\nconjoin-engine = { path = \"../engine\" }\n",
                ),
                ("crates/serve/Cargo.toml", "[dependencies.conjoin-index]\nworkspace = true\n"),
                ("crates/train/Cargo.toml", "[dependencies]\nconjoin-model.workspace = true\n"),
            ],
            &[
                "crates/eval/Cargo.toml:3: `eval` may not use `model`",
                "crates/index/Cargo.toml:2: `index` may not use `engine`",
                "crates/serve/Cargo.toml:1: `serve` may not use `index`",
            ],
        );
    }

    #[test]
    fn a_crate_without_a_row_is_a_fault() {
        check_faults(
            own_crates,
            &[("crates/magic/Cargo.toml", "[package]\n")],
            &["crates/magic/Cargo.toml: crate `magic` has no row in the table"],
        );
    }

    #[test]
    fn a_heavy_dependency_outside_its_crate_is_a_fault_but_not_in_tests() {
        check_faults(
            heavy_dependencies,
            &[
                ("crates/cli/Cargo.toml", "[dependencies]\ntokio = \"1\"\naxum-extra = \"1\"\n"),
                (
                    "crates/data/Cargo.toml",
                    "[dependencies]\nparquet = \"1\"\n[dev-dependencies]\nsafetensors = \"1\"\n",
                ),
                ("crates/eval/Cargo.toml", "[target.'cfg(unix)'.dependencies]\ngemm = \"1\"\n"),
            ],
            &[
                "crates/cli/Cargo.toml:2: only [\"serve\"] may name `tokio`",
                "crates/cli/Cargo.toml:3: only [\"serve\"] may name `axum-extra`",
                "crates/eval/Cargo.toml:2: only [\"engine\"] may name `gemm`",
            ],
        );
    }

    #[test]
    fn a_member_without_the_workspace_lints_is_a_fault() {
        check_faults(
            workspace_lints,
            &[
                ("Cargo.toml", "[workspace]\n"),
                ("crates/a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n"),
                ("crates/b/Cargo.toml", "[package]\n[lints]\n# workspace = true\n"),
                ("xtask/Cargo.toml", "[package]\nworkspace = true\n"),
                ("benches/c/Cargo.toml", "[package]\n[workspace]\n"),
            ],
            &[
                "crates/b/Cargo.toml: `[lints] workspace = true` is missing",
                "xtask/Cargo.toml: `[lints] workspace = true` is missing",
            ],
        );
    }

    #[test]
    fn a_foreign_source_is_a_fault() {
        check_faults(
            sources,
            &[
                (
                    "Cargo.lock",
                    "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+https://example.org/x\"\n",
                ),
                (
                    "crates/a/Cargo.toml",
                    "[dependencies]\nx = { git = \"https://example.org/x\" }\n",
                ),
            ],
            &[
                "Cargo.lock:2: not from crates.io: source = \"git+https://example.org/x\"",
                "crates/a/Cargo.toml:2: not from crates.io: x = { git = \"https://example.org/x\" }",
            ],
        );
    }
}
