//! A writer killed at any point leaves the old index, the new one or none, never half of one.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::common::{build, items};
use conjoin_core::{Seed, Store};
use conjoin_index::{Index, IndexBuilder, ManifestParts};

/// Set for the process to be killed: where it writes.
const TARGET: &str = "CONJOIN_TEST_CRASH_TARGET";
/// Set as well: it waits between its last write and the rename.
const WAITS: &str = "CONJOIN_TEST_CRASH_WAITS";

fn writer(target: &Path, waits: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::writes_until_killed", "--nocapture"]).env(TARGET, target);
    if waits {
        command.env(WAITS, "1");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The child's work: index after index of a growing number of items, each told on a line.
#[test]
fn writes_until_killed() {
    let Some(target) = std::env::var_os(TARGET) else { return };
    let target = Path::new(&target);
    for generation in 1.. {
        let mut builder = IndexBuilder::create(target, "model", 8).unwrap();
        for item in items(10 * generation, 8, Seed(generation as u64)) {
            builder.add(item).unwrap();
        }
        println!("written");
        if std::env::var_os(WAITS).is_some() {
            let _ = std::io::stdin().lock().read_line(&mut String::new());
        }
        builder.commit(ManifestParts::default()).unwrap();
        println!("committed");
    }
}

fn read_until(child: &mut Child, word: &str, times: usize) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let seen = lines.map(Result::unwrap).filter(|line| line.ends_with(word)).take(times).count();
    assert_eq!(seen, times);
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn survives_a_kill_between_write_and_rename() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("index");
    let mut child = writer(&target, true);
    read_until(&mut child, "written", 1);
    kill(child);
    assert!(!target.exists(), "none before the first commit");

    build(&target, items(7, 8, Seed(1)), None);
    let mut child = writer(&target, true);
    read_until(&mut child, "written", 1);
    kill(child);
    let index = Index::open(&target).unwrap();
    index.verify().unwrap();
    assert_eq!(index.len(), 7, "the old one");
    build(&target, items(8, 8, Seed(1)), None);
    let left = fs_err::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "the next writer clears what the killed one left");
}

#[test]
fn survives_kills_at_any_point() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("index");
    for times in 1..8 {
        let mut child = writer(&target, false);
        let word = if times % 2 == 0 { "written" } else { "committed" };
        read_until(&mut child, word, times);
        kill(child);
        if !target.exists() {
            continue;
        }
        let index = Index::open(&target).unwrap();
        index.verify().unwrap();
        assert_eq!(index.len() % 10, 0, "a whole generation");
    }
}
