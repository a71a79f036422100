//! Encoded picture files to pixels, within limits.
//!
//! In:  the bytes of a JPEG, PNG, WebP or GIF file (told by its first bytes, never by a name).
//! Out: upright 8-bit RGB [`Pixels`]; of an animation the first frame.
//! Not here: resizing (`image_contract`), the JPEG specifics (`jpeg`).
//!
//! Rules: orientation tags are applied; transparent pixels are blended over white; of 16-bit
//! channels the high byte counts, as in Pillow for colour (its 16-bit grey is clipped to white, a
//! trap not imitated); grey becomes three equal channels.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, metadata::Orientation};

use crate::{ImageError, Pixels, jpeg};

/// How large a picture may be. Checked from the header, before memory for pixels is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most bytes of the file.
    pub max_bytes: usize,
    /// Most pixels.
    pub max_pixels: usize,
    /// Longest side in pixels.
    pub max_side: usize,
}

impl Default for ImageLimits {
    /// 64 MiB, 100 million pixels, and the longest side a JPEG file can have.
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_pixels: 100_000_000, max_side: 65_535 }
    }
}

impl ImageLimits {
    /// Checks the size that a header announces.
    pub(crate) fn check(&self, width: usize, height: usize) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
        if width.saturating_mul(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.max(height) > self.max_side {
            return Err(ImageError::SideTooLong { width, height, limit: self.max_side });
        }
        Ok(())
    }
}

/// Decodes a picture file.
///
/// # Errors
/// When the bytes are too many, of no known format, announce too large a picture, end too early
/// or are corrupt. A file that is cut off is never returned half decoded.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Pixels, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::FileTooLarge { found: bytes.len(), limit: limits.max_bytes });
    }
    let (image, orientation) = match format_of(bytes)? {
        (ImageFormat::Jpeg, _) => jpeg::decode(bytes, limits)?,
        (format, name) => decode_other(bytes, format, name, limits)?,
    };
    into_pixels(image, orientation)
}

fn format_of(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Ok((ImageFormat::Jpeg, "JPEG")),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Ok((ImageFormat::Png, "PNG")),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            Ok((ImageFormat::WebP, "WebP"))
        }
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok((ImageFormat::Gif, "GIF")),
        _ => Err(ImageError::UnknownFormat),
    }
}

fn decode_other(
    bytes: &[u8],
    kind: ImageFormat,
    format: &'static str,
    limits: &ImageLimits,
) -> Result<(DynamicImage, Orientation), ImageError> {
    let fail = |source: image::ImageError| ImageError::Decode { format, source: Box::new(source) };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind);
    reader.limits(memory_limit(kind, limits));
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let (width, height) = decoder.dimensions();
    limits.check(width as usize, height as usize)?;
    // A damaged tag is no reason to refuse the picture; other software shows it as it is stored.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder).map_err(fail)?, orientation))
}

/// What the decoders may allocate besides the picture itself. For PNG these are a row and unpacked
/// colour profiles, which must not be bombs; for the others a frame and the canvas of an animation.
fn memory_limit(kind: ImageFormat, limits: &ImageLimits) -> Limits {
    let mut memory = Limits::no_limits();
    let most = if kind == ImageFormat::Png {
        limits.max_bytes.saturating_add(limits.max_side.saturating_mul(8))
    } else {
        limits.max_pixels.saturating_mul(8)
    };
    memory.max_alloc = Some(most.saturating_add(1 << 20) as u64);
    memory
}

fn into_pixels(mut image: DynamicImage, orientation: Orientation) -> Result<Pixels, ImageError> {
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    Pixels::new(width, height, into_rgb(image))
}

fn into_rgb(image: DynamicImage) -> Vec<u8> {
    match image {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        DynamicImage::ImageLuma8(grey) => grey.as_raw().iter().flat_map(|&v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(grey) => {
            let (pixels, _) = grey.as_raw().as_chunks::<2>();
            pixels.iter().flat_map(|&[v, a]| [over_white(v, a); 3]).collect()
        }
        DynamicImage::ImageRgba8(rgba) => flatten(rgba.as_raw()),
        DynamicImage::ImageLuma16(grey) => {
            grey.as_raw().iter().flat_map(|&v| [high_byte(v); 3]).collect()
        }
        DynamicImage::ImageLumaA16(grey) => {
            let (pixels, _) = grey.as_raw().as_chunks::<2>();
            pixels.iter().flat_map(|&[v, a]| [over_white(high_byte(v), high_byte(a)); 3]).collect()
        }
        DynamicImage::ImageRgb16(rgb) => rgb.as_raw().iter().map(|&v| high_byte(v)).collect(),
        DynamicImage::ImageRgba16(rgba) => {
            let bytes: Vec<u8> = rgba.as_raw().iter().map(|&v| high_byte(v)).collect();
            flatten(&bytes)
        }
        // Not produced by the four formats; the library's own conversion will do.
        other @ (DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) | _) => {
            other.into_rgb8().into_raw()
        }
    }
}

fn flatten(rgba: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgba.as_chunks::<4>();
    pixels.iter().flat_map(|&[r, g, b, a]| [r, g, b].map(|v| over_white(v, a))).collect()
}

fn high_byte(v: u16) -> u8 {
    (v >> 8) as u8
}

/// Rounded to the nearest level.
fn over_white(v: u8, alpha: u8) -> u8 {
    let (v, alpha) = (u32::from(v), u32::from(alpha));
    ((v * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

#[cfg(test)]
mod tests;
