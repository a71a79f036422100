//! Small pictures and files for the tests of this crate.

use std::{
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use image::{ImageFormat, Rgb, RgbImage};

/// A small picture whose content follows from `seed`; detailed, so that the middle of a file is pixels.
pub(crate) fn picture(seed: u8, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(48, 32, |x, y| {
        let v = (x * x * 7 + y * y * 13 + x * y * u32::from(seed)) as u8;
        Rgb([seed, v, v.rotate_left(3)])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn jpeg(seed: u8) -> Vec<u8> {
    picture(seed, ImageFormat::Jpeg)
}

/// Writes a file below `folder`, with its folders.
pub(crate) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(&path, bytes.as_ref()).unwrap();
    path
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar of the given entries.
pub(crate) fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}
