//! Artefacts appear whole or not at all, and say what is wrong with them.

use super::*;

fn write(target: &Path, text: &str) -> Artifact {
    let writer = ArtifactWriter::create(target).unwrap();
    fs::create_dir_all(writer.file("sub")).unwrap();
    fs::write(writer.file("sub/a.txt"), text).unwrap();
    writer.commit(Manifest::new("dataset", 1)).unwrap()
}

#[test]
fn commits_whole_and_replaces_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    write(&target, "one");
    write(&target, "two");
    let artifact = Artifact::open(&target, "dataset", 1).unwrap();
    artifact.verify().unwrap();
    assert_eq!(fs::read_to_string(artifact.file("sub/a.txt")).unwrap(), "two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no staging folder is left");
}

#[test]
fn a_dropped_writer_leaves_the_old_artefact() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    write(&target, "one");
    let writer = ArtifactWriter::create(&target).unwrap();
    fs::write(writer.file("b.txt"), "half").unwrap();
    drop(writer);
    Artifact::open(&target, "dataset", 1).unwrap().verify().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn refuses_other_kinds_newer_versions_and_changed_files() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    write(&target, "one");
    let kind = |r: Result<Artifact, ArtifactError>| r.unwrap_err().kind.to_string();
    assert_eq!(kind(Artifact::open(&target, "index", 1)), "this is a dataset, a index is needed");
    assert_eq!(
        kind(Artifact::open(&target, "dataset", 0)),
        "format version 1, this build reads up to 0"
    );
    fs::write(target.join("sub/a.txt"), "changed").unwrap();
    let error = Artifact::open(&target, "dataset", 1).unwrap().verify().unwrap_err();
    assert!(matches!(error.kind, ArtifactErrorKind::Hash { .. }));
    fs::write(target.join(MANIFEST_FILE), "{").unwrap();
    assert_eq!(kind(Artifact::open(&target, "dataset", 1)), "`manifest.json` is not a manifest");
}

#[test]
fn the_manifest_hash_follows_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let one = write(&dir.path().join("a"), "one").manifest().hash();
    assert_eq!(one, write(&dir.path().join("b"), "one").manifest().hash());
    assert_ne!(one, write(&dir.path().join("c"), "two").manifest().hash());
}
