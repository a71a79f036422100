//! Every kind of artefact that a crate writes has its page in `docs/format`.

use super::{Fault, tree::Tree};

/// `docs/format/NAME.md` exists for every format named in a crate, and no page is left over.
pub(super) fn documented(tree: &Tree) -> Vec<Fault> {
    let formats: Vec<_> = tree
        .ending(".rs")
        .filter(|(path, _)| path.starts_with("crates/") && !is_test(path))
        .flat_map(|(path, text)| formats(text).map(move |(line, name)| (path, line, name)))
        .collect();
    let missing =
        formats.iter().filter(|(_, _, name)| !tree.has(&page(name))).map(|(path, line, name)| {
            Fault::at(path, *line, format!("format `{name}` has no `{}`", page(name)))
        });
    let unused = tree
        .ending(".md")
        .filter_map(|(path, _)| {
            Some((path, path.strip_prefix("docs/format/")?.strip_suffix(".md")?))
        })
        .filter(|(_, page)| *page != "README" && !formats.iter().any(|(_, _, name)| name == page))
        .map(|(path, page)| Fault::in_file(path, format!("no crate writes a `{page}`")));
    missing.chain(unused).collect()
}

fn page(format: &str) -> String {
    format!("docs/format/{format}.md")
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Line and name of each format: the first argument of `Manifest::new`, or a text constant called `…FORMAT`.
fn formats(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = source.find("#[cfg(test)]\nmod ").unwrap_or(source.len());
    let source = &source[..end];
    let calls = source.match_indices("Manifest::new(").map(|(at, call)| at + call.len());
    let constants = source.match_indices("FORMAT: &str = ").map(|(at, start)| at + start.len());
    calls.chain(constants).filter_map(move |at| {
        let name = source[at..].trim_start().strip_prefix('"')?.split('"').next()?;
        // `JPEG` and the like are other people's formats.
        let is_ours = name.starts_with(|c: char| c.is_ascii_lowercase());
        is_ours.then(|| (source[..at].lines().count(), name))
    })
}

#[cfg(test)]
mod tests {
    use super::super::check_faults;
    use super::*;

    #[test]
    fn a_format_without_a_page_and_a_page_without_a_format_are_faults() {
        check_faults(
            documented,
            &[
                ("crates/a/src/x.rs", "//! X.\npub const FORMAT: &str = \"dataset\";\n"),
                ("crates/a/src/y.rs", "//! Y.\nlet m = Manifest::new(\n    \"index\", 1);\n"),
                (
                    "crates/a/src/z.rs",
                    "//! Z.\n#[cfg(test)]\nmod tests {\n Manifest::new(\"thing\", 1) }\n",
                ),
                ("crates/a/src/z/tests.rs", "Manifest::new(\"thing\", 1)"),
                ("docs/format/index.md", "An index."),
                ("docs/format/scroll.md", "A scroll."),
            ],
            &[
                "crates/a/src/x.rs:2: format `dataset` has no `docs/format/dataset.md`",
                "docs/format/scroll.md: no crate writes a `scroll`",
            ],
        );
    }
}
