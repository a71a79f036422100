//! Curation: what is kept, what is rejected and why, and that the bytes repeat.

use std::{collections::HashSet, sync::Mutex};

use conjoin_core::{ArtifactErrorKind, MANIFEST_FILE, Silent};
use image::ImageFormat;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    BlobErrorKind, Dataset, OpenErrorKind, Split,
    testing::{gzip, jpeg, picture, tar, write},
};

fn columns(text: &[&str]) -> Columns {
    Columns { text: text.iter().map(|t| (*t).to_owned()).collect(), ..Columns::default() }
}

/// Columns of the catalogue that `catalogue` writes.
fn all_columns() -> Columns {
    let name = |name: &str| Some(name.to_owned());
    Columns { image: name("image"), id: name("id"), ..columns(&["title", "text"]) }
}

fn config(dir: &Path, input: &str, columns: Columns) -> CurateConfig {
    CurateConfig::new(vec![dir.join(input)], dir.join("out"), columns)
}

fn run(config: &CurateConfig) -> CurateSummary {
    curate(config, &Silent, &Stop::default()).unwrap()
}

fn error(config: &CurateConfig) -> CurateError {
    curate(config, &Silent, &Stop::default()).unwrap_err()
}

/// The lines of `rejects.jsonl` as `row id kind kept`.
fn rejects(config: &CurateConfig) -> Vec<String> {
    let text = fs_err::read_to_string(config.output.join("rejects.jsonl")).unwrap();
    let line = |line: &str| {
        let v: Value = serde_json::from_str(line).unwrap();
        assert!(!v["reason"].as_str().unwrap().is_empty());
        let id = v["id"].as_str().unwrap_or("-");
        format!("{} {id} {} {}", v["row"], v["kind"].as_str().unwrap(), v["kept"])
    };
    text.lines().map(line).collect()
}

/// Every file below a folder with its bytes.
fn bytes_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs_err::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (read::file_name(&p), fs_err::read(&p).unwrap()))
        .collect();
    files.sort();
    files
}

/// A JPEG header that announces 30,000 × 30,000 pixels.
fn huge_jpeg() -> Vec<u8> {
    let mut bytes = jpeg(9);
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);
    bytes
}

/// A catalogue with every fault a picture can have.
fn catalogue() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let whole = jpeg(7);
    write(dir.path(), "in/i/1.jpg", jpeg(1));
    write(dir.path(), "in/i/2.png", picture(2, ImageFormat::Png));
    write(dir.path(), "in/i/3.webp", picture(3, ImageFormat::WebP));
    write(dir.path(), "in/i/4.gif", picture(4, ImageFormat::Gif));
    write(dir.path(), "in/i/cut.jpg", &whole[..whole.len() / 2]);
    write(dir.path(), "in/i/huge.jpg", huge_jpeg());
    write(dir.path(), "in/i/text.jpg", "this is no picture");
    write(dir.path(), "in/i/big.jpg", vec![0xff; 70_000]);
    write(dir.path(), "outside.jpg", jpeg(5));
    let rows = "id,title,text,image,colour\n\
        a,Red Shoe,,i/1.jpg,red\n\
        b,blue hat,warm,i/2.png,\n\
        c,green coat,,i/3.webp,\n\
        d,,,i/4.gif,\n\
        e,cut,,i/cut.jpg,\n\
        f,huge,,i/huge.jpg,\n\
        g,no picture,,i/text.jpg,\n\
        h,too big,,i/big.jpg,\n\
        i,missing,,i/absent.jpg,\n\
        j,escaping,,../outside.jpg,\n\
        k,address,,https://example.org/k.jpg,\n\
        l,no cell,,,\n\
        m,,,i/cut.jpg,\n\
        n,,,,\n\
        a,another a,,i/1.jpg,\n\
        a,Red Shoe,,i/1.jpg,red\n\
        o,ragged\n\
        ,no id,,i/1.jpg,\n";
    write(dir.path(), "in/rows.csv", rows);
    dir
}

fn limited(dir: &Path) -> CurateConfig {
    let mut config = config(dir, "in/rows.csv", all_columns());
    config.limits.image_bytes = 60_000;
    config
}

#[test]
fn keeps_what_is_usable_and_tells_the_rest() {
    let dir = catalogue();
    let config = limited(dir.path());
    let summary = run(&config);
    assert_eq!(
        rejects(&config),
        [
            "5 d empty_text true",
            "6 e image_truncated true",
            "7 f image_dimensions true",
            "8 g image_unknown_format true",
            "9 h image_too_large true",
            "10 i image_file_missing true",
            "11 j image_outside_folder true",
            "12 k image_not_downloaded true",
            "13 l no_image true",
            "14 m empty_text false",
            "14 m image_truncated false",
            "15 n empty_text false",
            "15 n no_image false",
            "16 a duplicate_id false",
            "17 a duplicate_row false",
            "18 - ragged_row false",
        ]
    );
    assert_eq!((summary.n_rows, summary.n_items, summary.n_rejected), (18, 13, 5));
    assert_eq!((summary.n_warned, summary.n_images, summary.n_shards), (9, 5, 1));
    assert_eq!(summary.reasons["image_truncated"], 2);
    let text = fs_err::read_to_string(config.output.join("rejects.jsonl")).unwrap();
    assert!(text.contains("the id is already used by row 2 of `rows.csv`"));
    assert!(!text.contains(&dir.path().display().to_string()), "no folder of the machine is told");
}

#[test]
fn items_hold_texts_payload_and_the_pictures_bytes() {
    let dir = catalogue();
    let config = limited(dir.path());
    run(&config);
    let dataset = Dataset::open(&config.output).unwrap();
    dataset.verify().unwrap();
    let items = dataset.items();
    let ids: Vec<&str> = items.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "rows.csv:19"]);
    assert_eq!(items[0].group, "red shoe");
    assert_eq!(items[0].payload, BTreeMap::from([("colour".to_owned(), "red".to_owned())]));
    let pair = |f: &str, t: &str| (f.to_owned(), t.to_owned());
    assert_eq!(items[1].texts, [pair("title", "blue hat"), pair("text", "warm")]);
    assert_eq!(dataset.fields(), ["title", "text"]);
    let read = |i: usize| dataset.image_bytes(&items[i]).unwrap();
    assert_eq!(read(0), jpeg(1));
    assert_eq!(read(1), picture(2, ImageFormat::Png));
    assert_eq!(read(3), picture(4, ImageFormat::Gif));
    assert_eq!(items[3].group, items[3].image.as_ref().unwrap().sha256);
    let error = dataset.image_bytes(&items[4]).unwrap_err();
    assert!(matches!(error.kind, BlobErrorKind::None));
    assert_eq!(error.to_string(), "cannot read the image of item `e`");
}

#[test]
fn shards_are_webdatasets_and_curate_again() {
    let dir = catalogue();
    let mut config = limited(dir.path());
    config.shard_bytes = 4_096;
    let first = run(&config);
    assert!(first.n_shards > 1);
    let again = CurateConfig::new(
        (0..first.n_shards).map(|n| config.output.join(crate::shard::shard_name(n))).collect(),
        dir.path().join("again"),
        Columns {
            id: Some("id".to_owned()),
            group: Some("group".to_owned()),
            ..columns(&["texts"])
        },
    );
    let second = run(&again);
    assert_eq!((second.n_items, second.n_images), (first.n_items, first.n_images));
    let (a, b) = (Dataset::open(&config.output).unwrap(), Dataset::open(&again.output).unwrap());
    for (x, y) in a.items().iter().zip(b.items()) {
        assert_eq!((&x.id, &x.group), (&y.id, &y.group));
        assert_eq!(a.image_bytes(x).ok(), b.image_bytes(y).ok());
    }
}

#[test]
fn curating_twice_or_elsewhere_gives_the_same_bytes() {
    let (one, two) = (catalogue(), catalogue());
    run(&limited(one.path()));
    run(&limited(two.path()));
    let first = bytes_of(&one.path().join("out"));
    assert_eq!(first, bytes_of(&two.path().join("out")));
    run(&limited(one.path()));
    assert_eq!(first, bytes_of(&one.path().join("out")));
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    single.install(|| run(&limited(two.path())));
    assert_eq!(first, bytes_of(&two.path().join("out")));
}

#[test]
fn the_manifest_follows_settings_and_inputs() {
    let dir = catalogue();
    let base = run(&limited(dir.path())).manifest_hash;
    let manifest = Dataset::open(&dir.path().join("out")).unwrap().manifest().clone();
    assert_eq!(manifest.facts["n_items"], 13);
    assert_eq!(manifest.inputs.keys().collect::<Vec<_>>(), ["rows.csv"]);
    let mut other = limited(dir.path());
    other.seed = Seed(1);
    assert_ne!(run(&other).manifest_hash, base);
    let text = fs_err::read_to_string(dir.path().join("in/rows.csv")).unwrap();
    write(dir.path(), "in/rows.csv", text.replace("green", "grey"));
    assert_ne!(run(&limited(dir.path())).manifest_hash, base);
}

#[test]
fn given_splits_stand_and_straddling_groups_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "title,part\nshoe,train\nhat,TEST\nhat,val\nshoe,dev\ncoat,nonsense\nhat,\n";
    write(dir.path(), "a.csv", rows);
    let columns = Columns { split: Some("part".to_owned()), ..columns(&["title"]) };
    let config = config(dir.path(), "a.csv", columns);
    let warnings = Warnings::default();
    let summary = curate(&config, &warnings, &Stop::default()).unwrap();
    let dataset = Dataset::open(&config.output).unwrap();
    let splits: Vec<Split> = dataset.items().iter().map(|i| i.split).collect();
    assert_eq!(splits[..4], [Split::Train, Split::Val, Split::Val, Split::Val]);
    assert_eq!(splits[5], Split::Val, "a row without a split follows its group");
    assert_eq!(summary.n_straddling, 1);
    assert_eq!(rejects(&config), ["6 6 unknown_split true", "5 5 straddling_group true"]);
    assert!(warnings.0.lock().unwrap()[0].starts_with("1 val items"));
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn update(&self, _: &str, _: u64, _: Option<u64>, _: &str) {}
    fn finish(&self, _: &str, _: &str) {}
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

#[test]
fn equal_groups_never_straddle_a_drawn_split() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..300).map(|i| format!("{i}, Title  {} \n", i % 40)).collect();
    write(dir.path(), "a.csv", format!("n,title\n{rows}"));
    let config = config(dir.path(), "a.csv", columns(&["title"]));
    let summary = run(&config);
    assert_eq!((summary.n_items, summary.n_groups), (300, 40));
    let dataset = Dataset::open(&config.output).unwrap();
    let groups = |s| dataset.iter_split(s).map(|i| i.group.as_str()).collect::<HashSet<_>>();
    assert!(groups(Split::Train).is_disjoint(&groups(Split::Val)));
    assert!(!groups(Split::Val).is_empty());
    assert_eq!(dataset.items()[0].group, "title 0");
}

#[test]
fn an_empty_catalogue_is_an_error_with_counts() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.csv", "title,image\n,\n,absent.jpg\n");
    let mut config = config(dir.path(), "a.csv", all_columns());
    config.columns = Columns { image: Some("image".to_owned()), ..columns(&["title"]) };
    let input = config.inputs[0].display().to_string();
    assert_eq!(
        error(&config).to_string(),
        format!(
            "no usable row among 2 of `{input}`: 2 empty_text, 1 image_file_missing, 1 no_image"
        )
    );
    write(dir.path(), "a.csv", "title,image\n");
    assert_eq!(error(&config).to_string(), format!("no usable row among 0 of `{input}`"));
    assert!(!config.output.exists());
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn missing_columns_are_named_for_every_format() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.csv", "id,title\n1,shoe\n");
    write(dir.path(), "a.jsonl", "not json\n{\"id\":1}\n{\"title\":\"shoe\"}\n");
    for input in ["a.csv", "a.jsonl"] {
        let error = error(&config(dir.path(), input, columns(&["titel"])));
        assert!(error.to_string().ends_with("has other columns"));
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "no column `titel` for the text, did you mean `title`?; found are id, title"
        );
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = config(dir.path(), "a.csv", columns(&["title"]));
    bad.val_fraction = 1.5;
    assert_eq!(error(&bad).to_string(), "`val_fraction` is 1.5, expected a number from 0 to 1");
    bad.inputs.clear();
    assert_eq!(error(&bad).to_string(), "`inputs` is empty, expected at least one catalogue");
    let unknown = r#"{"inputs":[],"output":"x","columns":{"txt":[]}}"#;
    assert!(serde_json::from_str::<CurateConfig>(unknown).is_err());
}

#[test]
fn a_stop_leaves_the_old_dataset_and_nothing_half_written() {
    let dir = catalogue();
    let config = limited(dir.path());
    run(&config);
    let before = bytes_of(&config.output);
    let stop = Stop::default();
    stop.request();
    let error = curate(&config, &Silent, &stop).unwrap_err();
    assert!(matches!(error, CurateError::Interrupted(_)));
    let error = curate(&config, &StopAtUpdate(stop), &Stop::default());
    assert!(error.is_ok(), "another stop does not matter");
    let stop = Stop::default();
    let error = curate(&config, &StopAtUpdate(stop.clone()), &stop).unwrap_err();
    assert!(matches!(error, CurateError::Interrupted(_)));
    assert_eq!(bytes_of(&config.output), before);
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 3, "in, outside.jpg, out");
}

/// Asks to stop in the middle of the work.
struct StopAtUpdate(Stop);

impl Progress for StopAtUpdate {
    fn update(&self, _: &str, _: u64, _: Option<u64>, _: &str) {
        self.0.request();
    }
    fn finish(&self, _: &str, _: &str) {}
    fn warn(&self, _: &str) {}
}

#[test]
fn never_replaces_what_is_no_dataset() {
    let dir = catalogue();
    let mut config = limited(dir.path());
    config.output = dir.path().join("in");
    let error = error(&config);
    let CurateError::Artifact(error) = error else { panic!("{error:?}") };
    assert!(matches!(error.kind, ArtifactErrorKind::Foreign { .. }), "{error:?}");
    assert!(dir.path().join("in/rows.csv").exists());
}

#[test]
fn tar_pictures_need_no_image_column_and_equal_samples_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (jpeg(1), jpeg(2));
    let shard = tar(&[
        ("a.jpg", &one),
        ("a.txt", b"shoe"),
        ("b.jpg", &one),
        ("b.txt", b"shoe"),
        ("c.jpg", &two),
        ("c.txt", b"shoe"),
        ("d.jpg", &two[..two.len() - 30]),
    ]);
    write(dir.path(), "shards/s-0.tar", shard);
    let config = config(dir.path(), "shards", columns(&["text"]));
    let summary = run(&config);
    assert_eq!((summary.n_items, summary.n_images, summary.n_groups), (2, 2, 1));
    assert_eq!(
        rejects(&config),
        ["2 b duplicate_row false", "4 d empty_text false", "4 d image_truncated false"]
    );
}

#[test]
fn shards_named_after_a_split_belong_to_it_unless_a_column_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let captions = |n: u8, more: &str| {
        let list: Vec<String> = (0..5).map(|i| format!("\"caption {n} {i}\"")).collect();
        format!("{{\"captions\":[{}]{more}}}", list.join(","))
    };
    let shard = |n: u8, more: &str| {
        let json = captions(n, more);
        tar(&[(&format!("k{n}.jpg"), &jpeg(n)), (&format!("k{n}.json"), json.as_bytes())])
    };
    write(dir.path(), "in/train-0000.tar", shard(1, ""));
    write(dir.path(), "in/train-0001.tar", shard(2, ",\"part\":\"test\""));
    write(dir.path(), "in/val-0000.tar", shard(3, ""));
    write(dir.path(), "in/val-0001.tar.gz", gzip(&shard(4, ",\"part\":\"unheard of\"")));
    let columns = Columns { split: Some("part".to_owned()), ..columns(&["captions"]) };
    let mut config = config(dir.path(), "in", columns);
    let splits = |config: &CurateConfig| -> Vec<Split> {
        run(config);
        let dataset = Dataset::open(&config.output).unwrap();
        assert!(dataset.items().iter().all(|item| item.texts.len() == 5));
        dataset.items().iter().map(|item| item.split).collect()
    };
    assert_eq!(splits(&config), [Split::Train, Split::Val, Split::Val, Split::Val]);
    assert_eq!(rejects(&config), ["1 k4 unknown_split true"]);
    config.columns.split = None;
    assert_eq!(splits(&config), [Split::Train, Split::Train, Split::Val, Split::Val]);
}

#[test]
fn shard_names_tell_a_split_by_their_first_word() {
    let check = |name: &str, expect: Option<Split>| {
        assert_eq!(Split::from_shard_name(name), expect, "{name}");
    };
    check("train-0000.tar", Some(Split::Train));
    check("Training_3.tar.gz", Some(Split::Train));
    check("validation.tgz", Some(Split::Val));
    check("test-0.tar", Some(Split::Val));
    check("trains-0.tar", None);
    check("photos-train.tar", None);
    check("train.csv", None);
    check("train", None);
}

#[test]
fn image_root_moves_and_widens_the_image_folder() {
    let dir = tempfile::tempdir().unwrap();
    let inside = write(dir.path(), "pictures/1.jpg", jpeg(1));
    let rows = format!("image\n1.jpg\nsub/../1.jpg\n{}\n/etc/hosts\n", inside.display());
    write(dir.path(), "rows/a.csv", rows);
    let columns = Columns { image: Some("image".to_owned()), ..Columns::default() };
    let mut config = config(dir.path(), "rows/a.csv", columns);
    config.image_root = Some(dir.path().join("pictures"));
    assert_eq!(run(&config).n_images, 3);
    assert_eq!(rejects(&config), ["5 - image_outside_folder false"]);
}

#[test]
fn rows_of_several_inputs_without_ids_get_different_ones() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "x/a.csv", "title\nshoe\n");
    write(dir.path(), "y/a.csv", "title\nhat\n");
    write(dir.path(), "z/a.csv", "title\ncoat\n");
    let mut config = config(dir.path(), "x/a.csv", columns(&["title"]));
    config.inputs.extend([dir.path().join("y/a.csv"), dir.path().join("z/a.csv")]);
    run(&config);
    let dataset = Dataset::open(&config.output).unwrap();
    let ids: Vec<&str> = dataset.items().iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["2", "a.csv:2", "a.csv:2:3"]);
    let inputs: Vec<&String> = dataset.manifest().inputs.keys().collect();
    assert_eq!(inputs, ["a.csv", "a.csv (2)", "a.csv (3)"]);
}

#[test]
fn a_changed_dataset_is_an_error() {
    let dir = catalogue();
    let config = limited(dir.path());
    run(&config);
    let shard = config.output.join("shard-00000.tar");
    let whole = fs_err::read(&shard).unwrap();
    let dataset = Dataset::open(&config.output).unwrap();
    let blob = dataset.items()[0].image.clone().unwrap();
    let mut flipped = whole.clone();
    flipped[blob.offset as usize + 20] ^= 1;
    fs_err::write(&shard, &flipped).unwrap();
    let dataset = Dataset::open(&config.output).unwrap();
    let error = dataset.image_bytes(&dataset.items()[0]).unwrap_err();
    assert!(matches!(error.kind, BlobErrorKind::Hash { shard: 0, .. }));
    assert!(dataset.verify().is_err());
    fs_err::write(&shard, &whole[..blob.offset as usize + 20]).unwrap();
    let kind = || Dataset::open(&config.output).unwrap_err().kind;
    assert!(matches!(kind(), OpenErrorKind::OutOfShard { shard: 0, .. }));
    fs_err::remove_file(&shard).unwrap();
    assert!(matches!(kind(), OpenErrorKind::Io(_)));
    fs_err::write(&shard, &whole).unwrap();
    let items = config.output.join("items.jsonl");
    let text = fs_err::read_to_string(&items).unwrap();
    fs_err::write(&items, &text[..text.len() / 2]).unwrap();
    assert!(matches!(kind(), OpenErrorKind::Hash { .. }));
    fs_err::write(config.output.join(MANIFEST_FILE), "{").unwrap();
    assert!(matches!(kind(), OpenErrorKind::Artifact(_)));
}

#[test]
fn pictures_are_read_from_many_threads() {
    let dir = catalogue();
    let config = limited(dir.path());
    run(&config);
    let dataset = Dataset::open(&config.output).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(dataset.image_bytes(&dataset.items()[0]).unwrap(), jpeg(1));
                    assert_eq!(dataset.image_bytes(&dataset.items()[12]).unwrap(), jpeg(1));
                }
            });
        }
    });
}

#[test]
fn columns_of_declared_and_undeclared_formats() {
    let dir = tempfile::tempdir().unwrap();
    let csv = write(dir.path(), "a.csv", "id,title\n1,a\n");
    let jsonl = write(dir.path(), "a.jsonl", "{\"id\":1}\n{\"title\":\"b\"}\n");
    assert_eq!(columns_of(&csv, &Limits::default()).unwrap(), ["id", "title"]);
    assert_eq!(columns_of(&jsonl, &Limits::default()).unwrap(), ["id", "title"]);
}
