//! What the builder refuses, by name, and what it stores.

use std::error::Error;

use super::*;
use crate::Index;

fn item(id: &str, text: Option<Vec<f32>>, image: Option<Vec<f32>>) -> IndexItem {
    IndexItem { id: id.to_owned(), text, image, ..IndexItem::default() }
}

/// The causes of an error, outermost first, joined.
fn chain(error: &IndexError) -> String {
    let mut text = error.kind.to_string();
    let mut source = error.kind.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn refuses_bad_items_by_name_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let mut builder = IndexBuilder::create(&path, "model", 2).unwrap();
    builder.add(item("good", Some(vec![1.0, 0.0]), None)).unwrap();
    let x = || Some(vec![1.0, 0.0]);
    for (bad, expected) in [
        (item("", x(), None), "item ``: the id is empty"),
        (item("good", None, x()), "item `good`: the id is taken by an earlier item"),
        (item("a", None, None), "item `a`: it has neither a text nor an image part"),
        (
            item("b", x(), Some(vec![1.0])),
            "item `b`: its image vector has 1 values, the index has width 2",
        ),
        (
            item("c", Some(vec![f32::NAN, 0.0]), None),
            "item `c`: its text vector has a value that is not finite",
        ),
        (item("d", Some(vec![3.0, 4.0]), None), "item `d`: its text vector has length 5, not 1"),
        (
            item("e", x(), Some(vec![-1.0, 0.0])),
            "item `e`: its parts cancel each other out, so there is no fused vector",
        ),
    ] {
        assert_eq!(chain(&builder.add(bad).unwrap_err()), expected);
    }
    builder.add(item("last", None, Some(vec![0.0, 1.0]))).unwrap();
    assert_eq!(builder.len(), 2);
    builder.commit(ManifestParts::default()).unwrap();
    let index = Index::open(&path).unwrap();
    index.verify().unwrap();
    assert_eq!((index.header.items, index.header.text_rows, index.header.image_rows), (2, 1, 1));
}

#[test]
fn the_fused_vector_is_the_renormalised_weighted_mean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let config = IndexConfig { text_weight: 3.0, image_weight: 4.0, ..IndexConfig::new("m", 2) };
    let mut builder = IndexBuilder::create_with(&path, config).unwrap();
    builder.add(item("both", Some(vec![1.0, 0.0]), Some(vec![0.0, 1.0]))).unwrap();
    builder.add(item("one", None, Some(vec![0.6, -0.8]))).unwrap();
    builder.commit(ManifestParts::default()).unwrap();
    let index = Index::open(&path).unwrap();
    assert_eq!(index.fused.numbers::<f32>(), [0.6, 0.8, 0.6, -0.8]);
}

#[test]
fn refuses_settings_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let error = |config| chain(&IndexBuilder::create_with(&path, config).unwrap_err());
    assert_eq!(error(IndexConfig::new("m", 0)), "`width` is 0, it must be 1 to 65536");
    let config = IndexConfig { image_weight: -1.0, ..IndexConfig::new("m", 2) };
    assert_eq!(error(config), "`image_weight` is -1, it must be finite, above 0");
    let mut builder = IndexBuilder::create(&path, "m", 2).unwrap();
    let scale = Some(crate::Scale { mean: 0.0, std: 0.0 });
    let calibration = Calibration { text_to_text: scale, ..Calibration::default() };
    assert_eq!(
        chain(&builder.calibrate(calibration).unwrap_err()),
        "`calibration.text_to_text` is mean 0, std 0, it must be finite, with a std of at least 1e-6"
    );
    drop(builder);
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn an_empty_index_is_searched_without_hits() {
    use conjoin_core::{SearchRequest, Store, VectorName};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let builder = IndexBuilder::create(&path, "model", 2).unwrap();
    builder.commit(ManifestParts::default()).unwrap();
    let index = Index::open(&path).unwrap();
    for over in VectorName::ALL {
        let request = SearchRequest::new(vec![1.0, 0.0], Modality::Text, over, 10);
        assert_eq!(index.search(&request).unwrap(), []);
    }
    assert!(index.is_empty() && index.picture("x").is_none());
}
