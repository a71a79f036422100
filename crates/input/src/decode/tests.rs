//! Tests of `decode` and `jpeg`.

use std::{io::Cursor, path::PathBuf};

use image::{ImageFormat, RgbImage};
use proptest::prelude::*;

use super::*;

const FORMATS: [ImageFormat; 4] =
    [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif];

/// A picture with detail everywhere, so that no part of a file can go missing unnoticed.
fn encoded(format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_fn(48, 32, |x, y| {
        let v = x.wrapping_mul(2_654_435_761).wrapping_add(y * 40_503).rotate_left(x % 7);
        image::Rgb([(v >> 3) as u8, (v >> 11) as u8, (v >> 19) as u8])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn parity_inputs() -> Vec<(String, Vec<u8>)> {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/preprocess/inputs");
    let mut files: Vec<_> = fs_err::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs_err::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[track_caller]
fn error(bytes: &[u8]) -> ImageError {
    decode(bytes, &ImageLimits::default()).unwrap_err()
}

/// Puts another size into a header.
fn announce(format: ImageFormat, width: u16, height: u16) -> Vec<u8> {
    let mut bytes = encoded(format);
    let (w, h) = (width.to_be_bytes(), height.to_be_bytes());
    if format == ImageFormat::Png {
        bytes[18..20].copy_from_slice(&w);
        bytes[22..24].copy_from_slice(&h);
        let check = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&check.to_be_bytes());
    } else if format == ImageFormat::Jpeg {
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        bytes[frame + 5..frame + 7].copy_from_slice(&h);
        bytes[frame + 7..frame + 9].copy_from_slice(&w);
    } else {
        assert_eq!(format, ImageFormat::Gif);
        bytes[6..8].copy_from_slice(&width.to_le_bytes());
        bytes[8..10].copy_from_slice(&height.to_le_bytes());
    }
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

#[test]
fn refuses_a_huge_picture_from_its_header() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif] {
        let found = error(&announce(format, 30_000, 30_000));
        assert!(matches!(found, ImageError::TooManyPixels { .. }), "{format:?}: {found:?}");
        assert_eq!(
            found.to_string(),
            "the picture is 30000x30000, that is 900000000 pixels, the limit is 100000000"
        );
    }
}

#[test]
fn refuses_a_long_side() {
    let limits = ImageLimits { max_side: 47, ..ImageLimits::default() };
    for format in FORMATS {
        let found = decode(&encoded(format), &limits).unwrap_err();
        assert_eq!(found.to_string(), "the picture is 48x32, the limit is 47 per side");
    }
}

#[test]
fn refuses_a_picture_without_pixels() {
    let found = error(&announce(ImageFormat::Gif, 0, 5));
    assert_eq!(found.to_string(), "the picture is 0x5, it needs at least one pixel");
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        error(&announce(format, 0, 5));
    }
}

#[test]
fn refuses_a_large_file_unread() {
    let bytes = encoded(ImageFormat::Png);
    let limits = ImageLimits { max_bytes: bytes.len() - 1, ..ImageLimits::default() };
    let found = decode(&bytes, &limits).unwrap_err();
    let (n, limit) = (bytes.len(), bytes.len() - 1);
    assert_eq!(found.to_string(), format!("the file has {n} bytes, the limit is {limit}"));
}

#[test]
fn refuses_other_files() {
    for bytes in [&b""[..], b"\xff\xd8", b"<svg/>", b"BM........", b"RIFF....WAVE", b"GIF90a"] {
        assert!(matches!(error(bytes), ImageError::UnknownFormat), "{bytes:?}");
    }
}

#[test]
fn refuses_every_file_that_is_cut_off() {
    for (name, bytes) in parity_inputs() {
        for share in [0.05, 0.3, 0.6, 0.9] {
            let n = (bytes.len() as f64 * share) as usize;
            error_of_cut(&name, &bytes[..n]);
        }
    }
    for format in FORMATS {
        let bytes = encoded(format);
        for n in 0..bytes.len() * 95 / 100 {
            error_of_cut(&format!("{format:?}"), &bytes[..n]);
        }
    }
}

#[track_caller]
fn error_of_cut(name: &str, bytes: &[u8]) {
    // A first frame that is whole is a whole picture.
    if !name.starts_with("moving") {
        assert!(decode(bytes, &ImageLimits::default()).is_err(), "{name} of {} bytes", bytes.len());
    }
}

#[test]
fn a_jpeg_that_is_cut_off_says_so() {
    let bytes = encoded(ImageFormat::Jpeg);
    let found = error(&bytes[..bytes.len() - 2]);
    assert_eq!(found.to_string(), "the JPEG file is cut off: it has no end marker");
    let found = error(&bytes[..bytes.len() / 2]);
    assert_eq!(found.to_string(), "the JPEG file is cut off: it has no end marker");
}

#[test]
fn bytes_behind_a_picture_do_not_matter() {
    for format in FORMATS {
        let mut bytes = encoded(format);
        let expected = decode(&bytes, &ImageLimits::default()).unwrap();
        bytes.extend(b"\x00\xffjunk");
        assert_eq!(decode(&bytes, &ImageLimits::default()).unwrap(), expected, "{format:?}");
    }
}

#[test]
fn blends_over_white() {
    assert_eq!([0, 128, 255].map(|alpha| over_white(0, alpha)), [255, 127, 0]);
    assert_eq!([0, 128, 255].map(|alpha| over_white(255, alpha)), [255, 255, 255]);
}

proptest! {
    #[test]
    fn prop_arbitrary_bytes_never_panic(
        format in 0..4_usize,
        keep in 0..40_usize,
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = encoded(FORMATS[format]);
        bytes.truncate(keep);
        bytes.extend(tail);
        let _ = decode(&bytes, &small());
    }

    #[test]
    fn prop_damaged_files_never_panic(
        pick in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let inputs = parity_inputs();
        let (_, mut bytes) = inputs[pick.index(inputs.len())].clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(pixels) = decode(&bytes, &small()) {
            prop_assert_eq!(pixels.data().len(), pixels.width() * pixels.height() * 3);
            prop_assert!(pixels.width() * pixels.height() <= small().max_pixels);
        }
    }
}

fn small() -> ImageLimits {
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 18, max_side: 1 << 12 }
}
