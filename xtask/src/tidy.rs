//! The rules of the repository that no compiler checks.
//!
//! In:  the files git knows or would add. Out: `path:line: what is wrong`, one line per fault.
//! Each rule is a function from the tree to its faults, so that tests show it failing on a small tree.

mod artefacts;
mod edges;
mod layout;
mod names;
mod tree;
mod words;

use std::{fmt, io::Write as _};

use self::tree::Tree;
use crate::{Stopped, Verdict};

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    path: String,
    /// 1-based; 0 when the whole file is meant.
    line: usize,
    text: String,
}

impl Fault {
    fn at(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }

    fn in_file(path: &str, text: impl Into<String>) -> Self {
        Self::at(path, 0, text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.text),
            line => write!(f, "{}:{line}: {}", self.path, self.text),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Fault>;

const RULES: [(&str, Rule); 12] = [
    ("crates use only what the table allows", edges::own_crates),
    ("heavy dependencies stay in their crate", edges::heavy_dependencies),
    ("every crate takes the workspace's lints", edges::workspace_lints),
    ("dependencies come from crates.io", edges::sources),
    ("every source file opens with what it is", layout::headers),
    ("no source file is too long", layout::lengths),
    ("paths named in documents exist", names::paths),
    ("paths named in headers exist", names::header_paths),
    ("commands named in documents exist", names::commands),
    ("items named in documents exist", names::items),
    ("no machine paths, nothing unfinished", words::forbidden),
    ("every artefact's format is documented", artefacts::documented),
];

/// Checks every rule and prints the faults.
pub(crate) fn tidy() -> Result<Verdict, Stopped> {
    let tree = Tree::of_checkout()?;
    let (report, n_faults) = report(&tree);
    match std::io::stdout().write_all(report.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(if n_faults == 0 { Verdict::Fine } else { Verdict::No })
}

/// The faults as text, and how many there are.
fn report(tree: &Tree) -> (String, usize) {
    let (mut report, mut n_faults) = (String::new(), 0);
    for (name, rule) in RULES {
        let mut faults = rule(tree);
        faults.sort();
        if !faults.is_empty() {
            report += &format!("tidy: broken rule: {name}\n");
        }
        report.extend(faults.iter().map(|fault| format!("  {fault}\n")));
        n_faults += faults.len();
    }
    report += &format!("tidy: {} files, {} rules, {n_faults} faults\n", tree.len(), RULES.len());
    (report, n_faults)
}

/// Shared by the tests of the rules.
#[cfg(test)]
#[track_caller]
fn check_faults(rule: Rule, files: &[(&str, &str)], expect: &[&str]) {
    let mut faults = rule(&Tree::of(files));
    faults.sort();
    assert_eq!(faults.iter().map(Fault::to_string).collect::<Vec<_>>(), expect);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_faults_under_their_rule_and_counts_them() {
        let tree =
            Tree::of(&[("crates/magic/Cargo.toml", "[lints]\nworkspace = true\n"), ("a.rs", "")]);
        let (report, n_faults) = report(&tree);
        assert_eq!(n_faults, 2);
        assert_eq!(
            report,
            "tidy: broken rule: crates use only what the table allows\n  \
             crates/magic/Cargo.toml: crate `magic` has no row in the table\n\
             tidy: broken rule: every source file opens with what it is\n  \
             a.rs: does not open with `//!`\n\
             tidy: 2 files, 12 rules, 2 faults\n"
        );
    }
}
