//! What documents name must exist: paths, commands, types.
//!
//! In:  Markdown files: code spans, fenced blocks and links. Placeholders (`NAME`, `<x>`, `*`) are skipped.
//! Not here: the changelog, which may name what is gone, and the page of bad input, which names what
//! never was and is written by tests.

use std::collections::BTreeSet;

use super::{Fault, tree::Tree};
use crate::COMMANDS;

/// Subcommands of Cargo, with its common plugins, that a document may name.
const CARGO: [&str; 14] = [
    "add", "bench", "build", "check", "clippy", "deny", "doc", "fmt", "install", "nextest", "run",
    "test", "update", "xtask",
];

/// Folders of the checkout that are checked even when nothing is in them any more.
const FOLDERS: [&str; 9] = [
    "crates/",
    "docs/",
    "testdata/",
    "assets/",
    "xtask/",
    "benches/",
    "examples/",
    ".ci/",
    ".config/",
];

/// A piece of code in a document.
struct Code<'a> {
    line: usize,
    text: &'a str,
}

/// Paths in code and links point to something.
pub(super) fn paths(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in documents(tree) {
        for code in spans(text).chain(shell_lines(text)) {
            let named = code.text.split([' ', '=', ',']).map(trimmed).filter(|word| is_path(word));
            for word in named.filter(|word| !tree.has(word) && !is_placeholder(word)) {
                faults.push(Fault::at(path, code.line, format!("`{word}` does not exist")));
            }
        }
        for link in links(text) {
            let folder =
                path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            if !tree.has(&resolve(&format!("{folder}{}", link.text))) {
                faults.push(Fault::at(
                    path,
                    link.line,
                    format!("link to `{}`, which does not exist", link.text),
                ));
            }
        }
    }
    faults
}

/// Paths in the headers of source files point to something (`Parity: testdata/…` above all).
pub(super) fn header_paths(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.ending(".rs").filter(|(path, _)| !path.starts_with("xtask/")) {
        let header = (1..).zip(text.lines()).take_while(|(_, line)| line.starts_with("//!"));
        for (number, line) in header {
            let words =
                line.split('`').skip(1).step_by(2).map(trimmed).filter(|word| is_path(word));
            for word in words.filter(|word| !tree.has(word) && !is_placeholder(word)) {
                faults.push(Fault::at(path, number, format!("`{word}` does not exist")));
            }
        }
    }
    faults
}

/// Commands in code are commands of Cargo, of the chores, or of the binary.
pub(super) fn commands(tree: &Tree) -> Vec<Fault> {
    let known = subcommands(tree);
    let mut faults = Vec::new();
    for (path, text) in documents(tree) {
        for code in spans(text).chain(shell_lines(text)) {
            for command in code.text.split(['|', ';', '&']) {
                if let Some(unknown) = unknown_command(command, tree, &known) {
                    faults.push(Fault::at(
                        path,
                        code.line,
                        format!("no such command: `{unknown}`"),
                    ));
                }
            }
        }
    }
    faults
}

/// Types and paths of items in code stand somewhere in the sources.
pub(super) fn items(tree: &Tree) -> Vec<Fault> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let known: BTreeSet<&str> =
        tree.ending(".rs").flat_map(|(_, text)| text.split(move |c| !is_word(c))).collect();
    let mut faults = Vec::new();
    for (path, text) in documents(tree) {
        for code in spans(text).filter(|code| is_item(code.text)) {
            let missing =
                code.text.trim_end_matches("()").split("::").find(|part| !known.contains(part));
            if let Some(missing) = missing {
                faults.push(Fault::at(path, code.line, format!("no `{missing}` in the sources")));
            }
        }
    }
    faults
}

/// The words of a command that do not exist; `None` when all do, or it is no command of ours.
fn unknown_command(command: &str, tree: &Tree, known: &BTreeSet<String>) -> Option<String> {
    let mut words =
        command.split_whitespace().skip_while(|w| *w == "$" || is_assignment(w)).peekable();
    let program = words.next()?.rsplit('/').next()?;
    let second = *words.peek()?;
    let rest: Vec<&str> = words.collect();
    match program {
        "cargo" if !CARGO.contains(&second) => Some(format!("cargo {second}")),
        "cargo" if second == "xtask" => {
            let chore = rest.get(1)?;
            (is_subcommand(chore) && !COMMANDS.contains(chore))
                .then(|| format!("cargo xtask {chore}"))
        }
        "cargo" => unknown_package(&rest, tree).or_else(|| {
            unknown_subcommand(rest.iter().skip_while(|w| **w != "--").nth(1)?, known)
                .filter(|_| second == "run")
        }),
        "conjoin" => unknown_subcommand(second, known),
        _ => None,
    }
}

fn unknown_package(words: &[&str], tree: &Tree) -> Option<String> {
    let at = words.iter().position(|w| matches!(*w, "-p" | "--package"))?;
    let name = words.get(at + 1)?;
    let short = name.strip_prefix("conjoin-").unwrap_or(name);
    let there =
        tree.has(&format!("crates/{short}/Cargo.toml")) || tree.has(&format!("{name}/Cargo.toml"));
    (!there && !is_placeholder(name)).then(|| format!("-p {name}"))
}

fn unknown_subcommand(word: &str, known: &BTreeSet<String>) -> Option<String> {
    (is_subcommand(word) && !known.contains(word)).then(|| format!("conjoin {word}"))
}

/// Not an option, a placeholder or a file.
fn is_subcommand(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

/// The binary's subcommands: the variants of every `Subcommand` enum of the command line's crate.
fn subcommands(tree: &Tree) -> BTreeSet<String> {
    let sources = tree.ending(".rs").filter(|(path, _)| path.starts_with("crates/cli/src/"));
    let enums = sources.flat_map(|(_, text)| text.split("Subcommand").skip(1));
    enums
        .filter(|text| text.starts_with([')', ',']))
        .flat_map(variants)
        .chain(["help".to_owned()])
        .collect()
}

/// Names of the variants of the first `enum` in the text, as the command line spells them.
fn variants(text: &str) -> Vec<String> {
    let body = text
        .split_once("enum ")
        .and_then(|(_, rest)| rest.split_once('{'))
        .map_or("", |(_, body)| body);
    let body = body.split("\n}").next().unwrap_or_default();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    lines
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| kebab(line.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()))
        .collect()
}

fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for (at, c) in name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            kebab.push('-');
        }
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

/// Documents that may name what does not exist.
const EXEMPT: [&str; 2] = ["CHANGELOG.md", "docs/bad-input.md"];

/// The Markdown files that name only what exists.
fn documents(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.ending(".md").filter(|(path, _)| !EXEMPT.contains(path) && !path.starts_with("testdata/"))
}

/// Line number, whether inside a fenced block and its language, and text of each line.
fn lines(text: &str) -> impl Iterator<Item = (usize, Option<&str>, &str)> {
    (1..).zip(text.lines()).scan(None, |fence, (number, line)| {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            *fence = if fence.is_some() { None } else { Some(language.trim()) };
            return Some((number, None, ""));
        }
        Some((number, *fence, line))
    })
}

/// Code spans outside fenced blocks.
fn spans(text: &str) -> impl Iterator<Item = Code<'_>> {
    lines(text).filter(|(_, fence, _)| fence.is_none()).flat_map(|(line, _, text)| {
        text.split('`').skip(1).step_by(2).map(move |text| Code { line, text })
    })
}

/// Lines of fenced blocks that hold commands or plain text, comments cut off.
fn shell_lines(text: &str) -> impl Iterator<Item = Code<'_>> {
    let is_shell = |language: &str| matches!(language, "" | "sh" | "bash" | "console" | "text");
    lines(text).filter_map(move |(line, fence, text)| {
        let text = text.split(" #").next().filter(|text| !text.starts_with('#'))?;
        fence.filter(|language| is_shell(language)).map(|_| Code { line, text })
    })
}

/// Targets of links within the repository, without their anchors.
fn links(text: &str) -> impl Iterator<Item = Code<'_>> {
    lines(text).filter(|(_, fence, _)| fence.is_none()).flat_map(|(line, _, text)| {
        let targets =
            text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
        targets
            .filter(|target| !target.is_empty() && !target.contains(':'))
            .map(move |text| Code { line, text })
    })
}

/// A path without `.` and `..` parts.
fn resolve(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn trimmed(word: &str) -> &str {
    word.trim_matches(|c: char| "()[]\"'`:;".contains(c))
        .trim_end_matches('.')
        .trim_start_matches("./")
}

fn is_path(word: &str) -> bool {
    let is_root_document = word.strip_suffix(".md").is_some_and(|stem| {
        stem.len() > 2 && stem.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    });
    is_root_document || FOLDERS.iter().any(|folder| word.starts_with(folder))
}

/// Something to be filled in by the reader: `docs/NAME.md`, `crates/*`, `<path>`.
fn is_placeholder(word: &str) -> bool {
    let is_shouted = |part: &str| {
        let stem = part.split('.').next().unwrap_or_default();
        !stem.is_empty()
            && stem.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            && word.contains(['/', '-'])
    };
    word.contains(['<', '>', '*', '{', '}', '…', '$', '|'])
        || word.split(['/', '-']).any(is_shouted)
}

/// `Tower`, `Tower::embed`, `rank()`; not `README`, `f32` or `a few words`.
fn is_item(code: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let stem = code.strip_suffix("()").unwrap_or(code);
    let is_camel = code.starts_with(|c: char| c.is_ascii_uppercase())
        && code.contains(|c: char| c.is_ascii_lowercase())
        && code.len() > 2;
    stem.split("::").all(is_name) && (is_camel || code.contains("::") || code.ends_with("()"))
}

#[cfg(test)]
mod tests;
