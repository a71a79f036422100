//! JPEG files, without mercy for damaged ones.
//!
//! In:  bytes that begin like a JPEG file. Out: the picture and its orientation tag.
//! Not here: turning it upright (`decode`).
//!
//! Decoders commonly fill what is missing of a damaged file with grey. Trained on, such a picture
//! teaches nonsense, so here it is an error: the decoder runs in its strict mode, and a file
//! without an end marker is refused. Not noticed, as in Pillow: an end marker put in too early.

use image::{DynamicImage, GrayImage, RgbImage, metadata::Orientation};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::{ImageError, ImageLimits};

const FORMAT: &str = "JPEG";

/// Decodes a JPEG file.
pub(crate) fn decode(
    bytes: &[u8],
    limits: &ImageLimits,
) -> Result<(DynamicImage, Orientation), ImageError> {
    let fail = |source| ImageError::Decode { format: FORMAT, source: Box::new(source) };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(fail)?;
    let (width, height) = decoder.dimensions().expect("the headers are decoded");
    limits.check(width, height)?;
    check_end(bytes)?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let space = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(space));
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let data = decoder.decode().map_err(fail)?;
    let (w, h, found) = (width as u32, height as u32, data.len());
    let image = if grey {
        GrayImage::from_raw(w, h, data).map(DynamicImage::ImageLuma8)
    } else {
        RgbImage::from_raw(w, h, data).map(DynamicImage::ImageRgb8)
    };
    let image = image.ok_or(ImageError::PixelCount { width, height, found })?;
    Ok((image, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// Walks the markers to the end of the picture.
fn check_end(bytes: &[u8]) -> Result<(), ImageError> {
    const END: u8 = 0xd9;
    let cut_off = |reason| ImageError::CutOff { format: FORMAT, reason };
    let mut at = 2; // Behind the start marker, which the caller has seen.
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let marker = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !is_data(pair[1]))
            .ok_or_else(|| cut_off("it has no end marker"))?;
        if rest[marker + 1] == END {
            return Ok(());
        }
        let length = rest
            .get(marker + 2..marker + 4)
            .ok_or_else(|| cut_off("it ends inside a segment header"))?;
        at += marker + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}

/// Whether 0xff followed by this byte is no segment: a stuffed byte, a fill byte, a restart
/// marker, a start marker or the temporary marker, none of which has a length.
fn is_data(byte: u8) -> bool {
    matches!(byte, 0x00 | 0x01 | 0xd0..=0xd8 | 0xff)
}
