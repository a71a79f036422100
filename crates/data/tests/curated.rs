//! Old datasets still open, and real catalogues are curated.

use std::path::{Path, PathBuf};

use conjoin_core::{Silent, Stop};
use conjoin_data::{Columns, CurateConfig, Dataset, Split, columns_of, curate};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn opens_v1() {
    let dataset = Dataset::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dataset_v1"));
    let dataset = dataset.unwrap();
    dataset.verify().unwrap();
    let ids: Vec<&str> = dataset.items().iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["apple", "pear", "words"]);
    assert_eq!(dataset.fields(), ["title", "note"]);
    assert_eq!(dataset.items()[0].payload["colour"], "red");
    let bytes = dataset.image_bytes(&dataset.items()[1]).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dataset_v1_source/pear.png");
    assert_eq!(bytes, fs_err::read(source).unwrap());
    assert_eq!(dataset.iter_split(Split::Val).count(), 1);
}

/// The source beside the stored dataset still gives the stored bytes; a difference is a new version.
#[test]
fn still_writes_v1() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let name = |name: &str| Some(name.to_owned());
    let columns = Columns {
        text: vec!["title".to_owned(), "note".to_owned()],
        image: name("image"),
        id: name("id"),
        group: None,
        split: name("split"),
    };
    let source = folder.join("dataset_v1_source/products.csv");
    let config = CurateConfig::new(vec![source], output.clone(), columns);
    curate(&config, &Silent, &Stop::default()).unwrap();
    for file in ["items.jsonl", "rejects.jsonl", "shard-00000.tar"] {
        let stored = fs_err::read(folder.join("dataset_v1").join(file)).unwrap();
        assert!(fs_err::read(output.join(file)).unwrap() == stored, "{file} differs");
    }
}

#[test]
fn curates_the_bundled_groceries() {
    let assets = repository().join("assets/grocery");
    let dir = tempfile::tempdir().unwrap();
    let counts = |input: &str, n: u64| {
        let input = assets.join(input);
        let columns = Columns::guess(&columns_of(&input, &Default::default()).unwrap());
        assert!(columns.text.contains(&"name".to_owned()));
        let output = dir.path().join(n.to_string());
        let config = CurateConfig::new(vec![input], output, columns);
        let summary = curate(&config, &Silent, &Stop::default()).unwrap();
        assert_eq!((summary.n_items, summary.n_images, summary.n_rejected), (n, n, 0));
        summary
    };
    assert_eq!(counts("products.tar", 81).n_groups, 81);
    assert_eq!(counts("photos-train.tar", 1215).n_val, 0);
    assert_eq!(counts("photos-val.tar", 567).n_train, 0);
}

/// Where a file or folder of the larger public data would be.
fn shared(path: &str) -> PathBuf {
    let shared = std::env::var_os("CONJOIN_SHARED").map(PathBuf::from);
    shared.unwrap_or_else(|| repository().join("../shared")).join("data").join(path)
}

/// Shards `train-NNNN.tar` and `val-NNNN.tar` of photos with five captions each.
#[test]
fn curates_the_captioned_photos() {
    let input = shared("flickr8k");
    if !input.exists() {
        eprintln!("skipped: no {}", input.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let columns = Columns::guess(&columns_of(&input, &Default::default()).unwrap());
    assert_eq!(columns.text, ["captions"]);
    let config = CurateConfig::new(vec![input], dir.path().join("photos"), columns);
    let summary = curate(&config, &Silent, &Stop::default()).unwrap();
    assert_eq!((summary.n_train, summary.n_val, summary.n_rejected), (6000, 1091, 0));
    let dataset = Dataset::open(&config.output).unwrap();
    assert!(dataset.items().iter().all(|item| item.texts.len() == 5 && item.image.is_some()));
}

/// Prints rows a second and the peak memory of the process.
#[test]
fn curates_the_fashion_catalogue() {
    let input = shared("fashion/products.csv");
    if !input.exists() {
        eprintln!("skipped: no {}", input.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let columns = Columns::guess(&columns_of(&input, &Default::default()).unwrap());
    let config = CurateConfig::new(vec![input], dir.path().join("fashion"), columns);
    let start = std::time::Instant::now();
    let summary = curate(&config, &Silent, &Stop::default()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let rate = summary.n_rows as f64 / seconds;
    eprintln!("{} rows in {seconds:.2} s, {rate:.0} rows/s, {}", summary.n_rows, peak_memory());
    eprintln!("{summary:?}");
    assert_eq!(summary.n_rows, 8395);
    assert_eq!(summary.n_items + summary.n_rejected, summary.n_rows);
    Dataset::open(&config.output).unwrap().verify().unwrap();
}

fn peak_memory() -> String {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or("peak memory unknown").to_owned()
}
