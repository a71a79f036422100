//! Artefacts appear whole or not at all, and say what is wrong with them.

use super::*;

fn write(target: &Path, text: &str) -> Artifact {
    let writer = ArtifactWriter::create(target, "dataset").unwrap();
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
    let writer = ArtifactWriter::create(&target, "dataset").unwrap();
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
    assert_eq!(
        kind(Artifact::open(&target, "index", 1)),
        "it is of format `dataset`, `index` is needed"
    );
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

#[test]
fn refuses_to_replace_what_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    fs::create_dir(&target).unwrap();
    ArtifactWriter::create(&target, "dataset").expect("an empty folder may be replaced");
    let check = |what: &str| {
        let error = ArtifactWriter::create(&target, "dataset").unwrap_err();
        assert!(matches!(error.kind, ArtifactErrorKind::Foreign { .. }), "{what}: {error:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{what}: no staging folder");
    };
    fs::write(target.join("letter.txt"), "precious").unwrap();
    check("a foreign file");
    fs::write(target.join(MANIFEST_FILE), "{}").unwrap();
    check("a foreign manifest");
    fs::remove_dir_all(&target).unwrap();
    fs::write(&target, "a file").unwrap();
    check("a file");
    fs::remove_file(&target).unwrap();
    write(&target, "one");
    assert!(ArtifactWriter::create(&target, "index").is_err(), "another kind of artefact");
    Artifact::open(&target, "dataset", 1).unwrap().verify().unwrap();
}

#[test]
fn survives_a_crash_between_the_two_renames() {
    let dir = tempfile::tempdir().unwrap();
    let (target, old) = (dir.path().join("data"), dir.path().join(".data.old"));
    let crash = || {
        write(&target, "one");
        fs::rename(&target, &old).unwrap();
    };
    crash();
    let artifact = Artifact::open(&target, "dataset", 1).unwrap();
    assert_eq!(fs::read_to_string(artifact.file("sub/a.txt")).unwrap(), "one");
    crash();
    drop(ArtifactWriter::create(&target, "dataset").unwrap());
    Artifact::open(&target, "dataset", 1).unwrap().verify().unwrap();
    crash();
    write(&target, "two");
    assert_eq!(fs::read_to_string(target.join("sub/a.txt")).unwrap(), "two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left");
}

#[test]
fn a_reader_finds_an_artefact_while_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    write(&target, "0");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..50).for_each(|n| drop(write(&target, &n.to_string()))));
        let mut n_read = 0;
        while !writer.is_finished() || n_read == 0 {
            // Between the existence check and the read the folder may be gone; never is it half.
            if let Ok(artifact) = Artifact::open(&target, "dataset", 1) {
                assert_eq!(artifact.manifest().files.len(), 1);
                n_read += 1;
            }
        }
        writer.join().unwrap();
    });
    let last = Artifact::open(&target, "dataset", 1).unwrap();
    last.verify().unwrap();
    assert_eq!(fs::read_to_string(last.file("sub/a.txt")).unwrap(), "49");
}
