//! Words that do not belong in the repository: paths of one machine, marks of unfinished work.
//!
//! Not here: the words themselves in one piece, or this file would break its own rule.

use super::{Fault, tree::Tree};

/// Folders that exist on somebody's machine only.
const MACHINE_FOLDERS: [&str; 7] = ["work", "tmp", "home", "root", "Users", "farm", "mnt"];

/// Marks of unfinished work, in two parts.
const UNFINISHED: [(&str, &str); 5] =
    [("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("unimplemented", "!"), ("todo", "!(")];

/// No text file holds one of them.
pub(super) fn forbidden(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| is_ours(path)) {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(folder) = MACHINE_FOLDERS.iter().find(|f| names_folder(line, f)) {
                let text = format!("names a path of one machine: `/{folder}/`");
                faults.push(Fault::at(path, number, text));
            }
            for mark in UNFINISHED.iter().map(|(a, b)| format!("{a}{b}")) {
                if has_word(line, &mark) {
                    faults.push(Fault::at(path, number, format!("unfinished: `{mark}`")));
                }
            }
        }
    }
    faults
}

/// Data files quote what people wrote.
fn is_ours(path: &str) -> bool {
    ![".csv", ".jsonl", ".svg", "Cargo.lock"].iter().any(|end| path.ends_with(end))
        && !path
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("tokenizer") && name.ends_with(".json"))
}

/// `/folder/` where a path starts: not within a longer path, an address or a template.
fn names_folder(line: &str, folder: &str) -> bool {
    let wanted = format!("/{folder}/");
    line.match_indices(&wanted).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "./-_~}>*:".contains(c))
    })
}

/// The mark, not as a part of a longer word.
fn has_word(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let joins = |c: char| c.is_alphanumeric() || c == '_';
        let after = &line[at + mark.len()..];
        !line[..at].ends_with(joins)
            && (mark.ends_with(['!', '(', ':']) || !after.starts_with(joins))
    })
}

#[cfg(test)]
mod tests {
    use super::super::check_faults;
    use super::*;

    #[test]
    fn a_machine_path_is_a_fault_where_a_path_starts() {
        let tmp = format!("let path = \"/{}/x\";\n", "tmp");
        let home = format!("see /{}/me/notes\n", "home");
        let fine = format!("https://example.org/{0}/x and target/{0}/y and ./{0}/z\n", "tmp");
        check_faults(
            forbidden,
            &[("a.rs", &tmp), ("b.md", &home), ("c.md", &fine)],
            &[
                &format!("a.rs:1: names a path of one machine: `/{}/`", "tmp"),
                &format!("b.md:1: names a path of one machine: `/{}/`", "home"),
            ],
        );
    }

    #[test]
    fn a_mark_of_unfinished_work_is_a_fault_as_a_word() {
        let marked = format!("fine\n// {}{}: later\n", "TO", "DO");
        let within = format!("AU{}{}S\n", "TO", "DO");
        check_faults(
            forbidden,
            &[("a.rs", &marked), ("b.rs", &within), ("data.csv", &marked)],
            &[&format!("a.rs:2: unfinished: `{}{}`", "TO", "DO")],
        );
    }
}
