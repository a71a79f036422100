//! What stands before a model that sees pictures, stage by stage: milliseconds per picture on one thread.
//!
//! In:  folders of picture files. Out: a line per folder. Without folders, pictures drawn here in four sizes.
//!
//! `cargo bench -p conjoin-input --bench prepare [-- FOLDER...]`. Each stage runs over all pictures of a folder
//! in turn; the best of several rounds is told, as a busy machine only adds. `benches/peers/images.py` measures
//! Pillow and torchvision.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{hint::black_box, path::Path, time::Instant};

use conjoin_input::{ImageContract, ImageLimits, Pixels, decode};
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

/// Rounds of which the best one is told.
const ROUNDS: usize = 5;

/// Most pictures of a folder.
const MOST: usize = 200;

fn main() {
    let folders: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    println!(
        "{:<24} {:>8} {:>9} {:>9} {:>10}",
        "pictures", "count", "decode", "resize", "normalise"
    );
    for folder in &folders {
        measure(folder, &files(Path::new(folder)));
    }
    if folders.is_empty() {
        for (width, height) in [(128, 128), (500, 375), (1600, 1200), (4000, 3000)] {
            measure(&format!("{width}x{height}"), &[drawn(width, height)]);
        }
    }
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs_err::read_dir(folder).expect("a folder of pictures");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("its entry").path()).collect();
    paths.sort();
    paths.truncate(MOST);
    paths.iter().map(|path| fs_err::read(path).expect("a picture")).collect()
}

/// A JPEG of waves and grain, about as hard to decode as a photograph.
fn drawn(width: usize, height: usize) -> Vec<u8> {
    let value = |i: usize| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        let wave = ((x * (c + 2)) as f32 / 37.0).sin() + ((x + y * 2) as f32 / 61.0).cos();
        let grain = (i as u32).wrapping_mul(2_654_435_761) >> 29;
        (wave * 50.0 + 124.0) as u8 + grain as u8
    };
    let data: Vec<u8> = (0..width * height * 3).map(value).collect();
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90)
        .encode(&data, width as u32, height as u32, ExtendedColorType::Rgb8)
        .expect("a picture of this size can be written");
    jpeg
}

fn measure(name: &str, files: &[Vec<u8>]) {
    let (contract, limits) = (ImageContract::clip(224), ImageLimits::default());
    let decoded: Vec<Pixels> =
        files.iter().map(|bytes| decode(bytes, &limits).expect("a whole picture")).collect();
    let prepared: Vec<Pixels> = decoded.iter().map(|pixels| contract.prepare(pixels)).collect();
    let mut numbers = vec![0.0; 224 * 224 * 3];
    let decode_ms = per_item_ms(files, |bytes| {
        black_box(decode(bytes, &limits).expect("as before"));
    });
    let resize_ms = per_item_ms(&decoded, |pixels| {
        black_box(contract.prepare(pixels));
    });
    let normalize_ms = per_item_ms(&prepared, |pixels| {
        contract.normalize(pixels, black_box(&mut numbers));
    });
    let n = files.len();
    println!("{name:<24} {n:>8} {decode_ms:>9.3} {resize_ms:>9.3} {normalize_ms:>10.3}");
}

fn per_item_ms<T>(items: &[T], mut work: impl FnMut(&T)) -> f64 {
    let round = |_| {
        let start = Instant::now();
        items.iter().for_each(&mut work);
        start.elapsed().as_secs_f64() * 1e3 / items.len() as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}
