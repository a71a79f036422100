//! Indexes of earlier versions still open.

use std::path::{Path, PathBuf};

use crate::common::unit;
use conjoin_core::{Modality, SearchRequest, Store, VectorName};
use conjoin_index::{Calibration, Index, IndexBuilder, IndexItem, ManifestParts, Scale};

fn v1() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/format/index_v1")
}

/// A PNG of one pixel.
const PNG: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0,
    1, 0, 0, 0, 1, 8, 2, 0, 0, 0, 0x90, 0x77, 0x53, 0xde, 0, 0, 0, 12, b'I', b'D', b'A', b'T',
    0x08, 0xd7, 0x63, 0xf8, 0xcf, 0xc0, 0, 0, 3, 1, 1, 0, 0x18, 0xdd, 0x8d, 0xb0, 0, 0, 0, 0, b'I',
    b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];

fn v1_items() -> Vec<IndexItem> {
    let item = |id: &str, text: Option<[f32; 3]>, image: Option<[f32; 3]>| IndexItem {
        id: id.to_owned(),
        payload: [("title".to_owned(), format!("A {id}"))].into(),
        text: text.map(|v| unit(v.to_vec())),
        image: image.map(|v| unit(v.to_vec())),
        picture: image.map(|_| PNG.to_vec()),
    };
    vec![
        item("red mug", Some([1.0, 0.0, 0.5]), Some([0.0, 1.0, 0.5])),
        item("blue/hat", Some([1.0, 0.0, -0.5]), None),
        item("grün", None, Some([0.0, 1.0, -0.5])),
    ]
}

#[test]
#[ignore = "writes testdata/format/index_v1; run once, when the version is made"]
fn writes_v1() {
    let mut builder = IndexBuilder::create(&v1(), "fingerprint-v1", 3).unwrap();
    let scale = |mean, std| Some(Scale { mean, std });
    let calibration = Calibration {
        text_to_text: scale(0.5, 0.25),
        text_to_image: scale(0.0, 0.125),
        ..Calibration::default()
    };
    builder.calibrate(calibration).unwrap();
    v1_items().into_iter().for_each(|item| builder.add(item).unwrap());
    let seed = Some(7);
    builder.commit(ManifestParts { seed, ..ManifestParts::default() }).unwrap();
}

#[test]
fn opens_v1_index() {
    let index = Index::open(&v1()).unwrap();
    index.verify().unwrap();
    assert_eq!((index.fingerprint(), index.len(), index.width()), ("fingerprint-v1", 3, 3));
    assert_eq!(index.count(VectorName::Text), 2);
    assert_eq!(index.calibration().unwrap().text_to_text, Some(Scale { mean: 0.5, std: 0.25 }));
    assert_eq!(index.picture("grün"), Some(PNG));
    assert_eq!(index.picture("blue/hat"), None);
    let search = |vector: [f32; 3], modality, over| {
        let request = SearchRequest::new(unit(vector.to_vec()), modality, over, 3);
        index.search(&request).unwrap()
    };
    let ids = |vector, over| -> Vec<String> {
        search(vector, Modality::Image, over).into_iter().map(|hit| hit.id).collect()
    };
    assert_eq!(ids([1.0, 0.0, -0.5], VectorName::Text), ["blue/hat", "red mug"]);
    assert_eq!(ids([0.0, 1.0, -0.5], VectorName::Image), ["grün", "red mug"]);
    assert_eq!(ids([0.0, 1.0, -0.5], VectorName::Fused), ["grün", "red mug", "blue/hat"]);
    let best = &search([1.0, 0.0, 0.5], Modality::Text, VectorName::Fused)[0];
    assert_eq!(best.payload["title"], "A red mug");
    // Text: (1 - 0.5) / 0.25; image: 0.2 / 0.125; their mean.
    assert!((best.score - 1.8).abs() < 1e-5, "{}", best.score);
}
