//! Small pictures for people to look at, in reports and result lists.
//!
//! In:  encoded bytes. Out: a JPEG whose longer side is at most `side` pixels.
//! Not here: what a model sees (`image_contract`).

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

use crate::{Frame, ImageError, ImageLimits, Interpolation, decode, resize};

/// JPEG quality of thumbnails: small, and still clear at this size.
const QUALITY: u8 = 80;

/// A small JPEG of an encoded picture, never enlarged.
///
/// # Errors
/// When the picture cannot be decoded.
///
/// # Panics
/// When the thumbnail would have a side above 65,535 pixels, which no JPEG holds.
pub fn thumbnail(bytes: &[u8], side: usize, limits: &ImageLimits) -> Result<Vec<u8>, ImageError> {
    let pixels = decode(bytes, limits)?;
    let (width, height) = (pixels.width(), pixels.height());
    let longest = width.max(height);
    let fit = |n: usize| if longest > side { (n * side / longest).max(1) } else { n };
    let (width, height) = (fit(width), fit(height));
    let whole = Frame::whole(width, height);
    let small = resize(&pixels, (width, height), whole, Interpolation::Bicubic);
    let mut jpeg = Vec::new();
    #[expect(clippy::cast_possible_truncation, reason = "decoding limits the sides")]
    let (w, h) = (small.width() as u32, small.height() as u32);
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode(small.data(), w, h, ExtendedColorType::Rgb8)
        .expect("an RGB picture of this size can be written to memory");
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pixels;

    fn jpeg(width: usize, height: usize) -> Vec<u8> {
        let pixels = Pixels::filled(width, height, [200, 30, 30]);
        let mut out = Vec::new();
        JpegEncoder::new_with_quality(&mut out, 90)
            .encode(pixels.data(), width as u32, height as u32, ExtendedColorType::Rgb8)
            .unwrap();
        out
    }

    #[test]
    fn shrinks_the_longer_side_and_never_enlarges() {
        let limits = ImageLimits::default();
        for ((width, height), expected) in
            [((300, 150), (100, 50)), ((40, 90), (40, 90)), ((400, 1), (100, 1))]
        {
            let small = thumbnail(&jpeg(width, height), 100, &limits).unwrap();
            let pixels = decode(&small, &limits).unwrap();
            assert_eq!((pixels.width(), pixels.height()), expected);
            assert!(pixels.data()[0] > 150 && pixels.data()[1] < 90, "still red");
        }
    }
}
