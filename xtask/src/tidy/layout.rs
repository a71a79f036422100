//! What every source file looks like: it opens with what it is, and it is not too long.

use super::{Fault, tree::Tree};

/// A file longer than this is two files.
const MAX_LINES: usize = 800;

/// Rust files open with `//!`, Python files with a docstring, shell files with a comment below `#!`.
pub(super) fn headers(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts() {
        let mut lines = text.lines().skip_while(|line| line.starts_with("#!/"));
        let first = lines.next().unwrap_or_default();
        let wanted = match path.rsplit('.').next() {
            Some("rs") => "//! ",
            Some("py") => "\"\"\"",
            Some("sh") => "# ",
            _ if text.starts_with("#!/") => "# ",
            _ => continue,
        };
        if !first.starts_with(wanted) {
            faults
                .push(Fault::in_file(path, format!("does not open with `{}`", wanted.trim_end())));
        }
    }
    faults
}

/// Rust and Python files stay below the limit.
pub(super) fn lengths(tree: &Tree) -> Vec<Fault> {
    let sources = tree.ending(".rs").chain(tree.ending(".py"));
    sources
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, n_lines)| *n_lines > MAX_LINES)
        .map(|(path, n)| Fault::in_file(path, format!("{n} lines, the limit is {MAX_LINES}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::check_faults;
    use super::*;

    #[test]
    fn a_source_without_a_header_is_a_fault() {
        check_faults(
            headers,
            &[
                ("a.rs", "//! What it is.\n"),
                ("b.rs", "use std::fs;\n//! Late.\n"),
                ("c.py", "#!/usr/bin/env python3\nimport os\n"),
                ("d.py", "\"\"\"What it is.\"\"\"\n"),
                ("run", "#!/usr/bin/env bash\nset -u\n"),
                ("notes.md", "Free text.\n"),
                ("empty.rs", ""),
            ],
            &[
                "b.rs: does not open with `//!`",
                "c.py: does not open with `\"\"\"`",
                "empty.rs: does not open with `//!`",
                "run: does not open with `#`",
            ],
        );
    }

    #[test]
    fn a_long_file_is_a_fault_and_one_at_the_limit_is_none() {
        check_faults(
            lengths,
            &[("at.rs", &"x\n".repeat(MAX_LINES)), ("over.rs", &"x\n".repeat(MAX_LINES + 1))],
            &["over.rs: 801 lines, the limit is 800"],
        );
    }
}
