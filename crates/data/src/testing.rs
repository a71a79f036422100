//! Small pictures and files for the tests of this crate.

use std::{
    io::{Cursor, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use image::{ImageFormat, Rgb, RgbImage};
use parquet::{
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

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

/// A Parquet file with each supported kind of column, two row groups.
pub(crate) fn parquet_file(path: &Path, titles: &[&[u8]]) {
    let schema = "message m {
        REQUIRED INT64 id; REQUIRED BYTE_ARRAY title (UTF8); OPTIONAL DOUBLE price; REQUIRED BOOLEAN ok;
        REQUIRED INT32 stock (UINT_32); REQUIRED INT32 cost (DECIMAL(9,2));
        OPTIONAL GROUP tags (LIST) { REPEATED GROUP list { OPTIONAL BYTE_ARRAY element (UTF8); } }
        OPTIONAL GROUP image { OPTIONAL BYTE_ARRAY bytes; OPTIONAL BYTE_ARRAY path (UTF8); } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for (group, title) in titles.iter().enumerate() {
        let mut rows = writer.next_row_group().unwrap();
        let n = group as i64 * 2;
        macro_rules! column {
            ($kind:ty, $values:expr, $def:expr, $rep:expr) => {{
                let mut column = rows.next_column().unwrap().unwrap();
                column.typed::<$kind>().write_batch($values, $def, $rep).unwrap();
                column.close().unwrap();
            }};
        }
        let text = |t: &[u8]| ByteArray::from(t.to_vec());
        column!(Int64Type, &[n + 1, n + 2], None, None);
        column!(ByteArrayType, &[text(title), text(b"hat")], None, None);
        column!(DoubleType, &[1.5], Some(&[1, 0]), None);
        column!(BoolType, &[true, false], None, None);
        column!(Int32Type, &[-1, 7], None, None);
        column!(Int32Type, &[100, 200], None, None);
        column!(ByteArrayType, &[text(b"a"), text(b"b")], Some(&[3, 3, 0]), Some(&[0, 1, 0]));
        column!(ByteArrayType, &[text(b"picture")], Some(&[2, 1]), None);
        column!(ByteArrayType, &[text(b"b.jpg")], Some(&[1, 2]), None);
        rows.close().unwrap();
    }
    writer.close().unwrap();
}
