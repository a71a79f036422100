//! Decoding, resizing and normalising equal to Pillow, torchvision and transformers.
//!
//! In:  `testdata/parity/preprocess`, made by the `make.py` there.
//! Tolerance: lossless files and every resize bit-exact; lossy files within the levels told in
//! `decode.json`, since decoders differ in the inverse transform and in chroma upsampling.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{io::Read, path::PathBuf};

use conjoin_input::{ImageContract, ImageLimits, Pixels, ResizeMode, decode};
use serde::{Deserialize, de::DeserializeOwned};

#[derive(Deserialize)]
struct File<T> {
    cases: Vec<T>,
}

#[derive(Deserialize)]
struct DecodeCase {
    file: String,
    width: usize,
    height: usize,
    tolerance: u8,
    offset: usize,
}

#[derive(Deserialize)]
struct PrepareCase {
    file: String,
    contract: ImageContract,
    offset: usize,
}

#[derive(Deserialize)]
struct NormalizeCase {
    file: String,
    mean: [f32; 3],
    std: [f32; 3],
    offset: usize,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/preprocess")
}

fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let bytes = fs_err::read(folder().join(name)).unwrap();
    serde_json::from_slice::<File<T>>(&bytes).unwrap().cases
}

fn expected() -> Vec<u8> {
    let file = fs_err::File::open(folder().join("expected.bin.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn read(name: &str) -> Pixels {
    let bytes = fs_err::read(folder().join("inputs").join(name)).unwrap();
    decode(&bytes, &ImageLimits::default()).unwrap()
}

#[test]
fn parity_decode() {
    let expected = expected();
    let cases = cases::<DecodeCase>("decode.json");
    assert!(cases.len() >= 40);
    for case in cases {
        let found = read(&case.file);
        assert_eq!((found.width(), found.height()), (case.width, case.height), "{}", case.file);
        let wanted = &expected[case.offset..][..found.data().len()];
        let worst = found.data().iter().zip(wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= case.tolerance, "{}: {worst} levels off", case.file);
    }
}

#[test]
fn parity_prepare_is_exact() {
    let expected = expected();
    let cases = cases::<PrepareCase>("prepare.json");
    assert!(cases.len() >= 90);
    for case in cases {
        let found = case.contract.prepare(&read(&case.file));
        assert_eq!((found.width(), found.height()), (case.contract.size, case.contract.size));
        let wanted = &expected[case.offset..][..found.data().len()];
        let n_wrong = found.data().iter().zip(wanted).filter(|(a, b)| a != b).count();
        assert_eq!(n_wrong, 0, "{} with {:?}", case.file, case.contract);
    }
}

#[test]
fn parity_normalize_is_exact() {
    let expected = expected();
    for case in cases::<NormalizeCase>("normalize.json") {
        let pixels = read(&case.file);
        let contract = ImageContract {
            resize: ResizeMode::Squash,
            mean: case.mean,
            std: case.std,
            ..ImageContract::clip(1)
        };
        let mut found = vec![0.0; pixels.data().len()];
        contract.normalize(&pixels, &mut found);
        let wanted = expected[case.offset..].as_chunks::<4>().0;
        for (found, wanted) in found.iter().zip(wanted) {
            assert_eq!(*found, f32::from_le_bytes(*wanted));
        }
        let clip = ImageContract::clip(1);
        assert_eq!((clip.mean, clip.std), (case.mean, case.std));
    }
}
