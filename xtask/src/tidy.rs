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

use std::fmt;

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
    let mut n_faults = 0;
    for (name, rule) in RULES {
        let mut faults = rule(&tree);
        faults.sort();
        if !faults.is_empty() {
            println!("tidy: broken rule: {name}");
        }
        faults.iter().for_each(|fault| println!("  {fault}"));
        n_faults += faults.len();
    }
    println!("tidy: {} files, {} rules, {n_faults} faults", tree.len(), RULES.len());
    Ok(if n_faults == 0 { Verdict::Fine } else { Verdict::No })
}

/// Shared by the tests of the rules.
#[cfg(test)]
#[track_caller]
fn check_faults(rule: Rule, files: &[(&str, &str)], expect: &[&str]) {
    let mut faults = rule(&Tree::of(files));
    faults.sort();
    assert_eq!(faults.iter().map(Fault::to_string).collect::<Vec<_>>(), expect);
}
