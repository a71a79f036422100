//! Pictures: found, read and fully decoded once, so that training never meets a broken one.
//!
//! In:  where a row says its picture is. Out: its bytes with their hash, or an [`ImageFault`].
//! Not here: keeping pixels; the stored bytes are the original ones.

use std::{
    io::Read,
    panic::catch_unwind,
    path::{Component, Path, PathBuf},
};

use conjoin_core::hash_bytes;
use conjoin_input::{ImageError, ImageLimits, decode};

use crate::{error::ImageFault, limits::Limits, record::ImageSource};

/// Addresses are shown up to here; a `data:` address holds the whole picture.
const MAX_URL_CHARS: usize = 200;

/// A picture that decodes.
#[derive(Debug)]
pub(crate) struct Picture {
    /// The original bytes.
    pub(crate) bytes: Vec<u8>,
    /// Their SHA-256.
    pub(crate) sha256: String,
}

/// Resolves the path in a row's image field below `root`, which is absolute.
///
/// Paths are relative to `root` and must stay in it; an absolute path is accepted when it leads there.
/// The check is on the written path: links inside `root` may lead elsewhere, they are the user's own.
pub(crate) fn locate(written: &str, root: &Path) -> Result<ImageSource, ImageFault> {
    if written.contains("://") || written.starts_with("data:") {
        let url = written.chars().take(MAX_URL_CHARS).collect();
        return Err(ImageFault::NotDownloaded { url });
    }
    let outside = || ImageFault::Outside { path: written.to_owned() };
    let path = normal(&root.join(written)).ok_or_else(outside)?;
    if !normal(root).is_some_and(|root| path.starts_with(root)) {
        return Err(outside());
    }
    if !path.is_file() {
        return Err(ImageFault::Missing { path: written.to_owned() });
    }
    Ok(ImageSource::File(path))
}

/// An absolute path without `.` and `..`; `None` when it climbs above its start.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir => return None,
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => normal.push(part),
        }
    }
    Some(normal)
}

/// How many bytes reading the picture will take.
pub(crate) fn size(source: &ImageSource) -> u64 {
    match source {
        ImageSource::Bytes(bytes) => bytes.len() as u64,
        ImageSource::File(path) => fs_err::metadata(path).map_or(0, |m| m.len()),
    }
}

/// Reads and decodes a picture.
pub(crate) fn verify(source: ImageSource, limits: &Limits) -> Result<Picture, ImageFault> {
    let bytes = match source {
        ImageSource::Bytes(bytes) => bytes,
        ImageSource::File(path) => read(&path, limits.image_bytes)?,
    };
    let limits = ImageLimits {
        max_bytes: limits.image_bytes,
        max_pixels: limits.image_pixels,
        ..ImageLimits::default()
    };
    check_decodes(&bytes, &limits)?;
    let sha256 = hash_bytes(&bytes);
    Ok(Picture { bytes, sha256 })
}

/// A decoder that panics on a malicious file costs that file, not the run.
fn check_decodes(bytes: &[u8], limits: &ImageLimits) -> Result<(), ImageFault> {
    let decoded = catch_unwind(|| decode(bytes, limits).map(|_| ()));
    decoded.map_err(|_| ImageFault::Panicked)?.map_err(ImageFault::Decode)
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, ImageFault> {
    let file = fs_err::File::open(path).map_err(ImageFault::Unreadable)?;
    let found = file.metadata().map_err(ImageFault::Unreadable)?.len();
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if found > limit {
        return Err(ImageFault::Decode(ImageError::FileTooLarge { found, limit }));
    }
    let mut bytes = Vec::with_capacity(found);
    // One byte more than allowed: a file that grows is noticed by the decoder's own check.
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(ImageFault::Unreadable)?;
    Ok(bytes)
}

/// The extension for a picture's bytes, which decoded before.
pub(crate) fn extension(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, ..] => "png",
        [b'R', ..] => "webp",
        [b'G', ..] => "gif",
        _ => "jpg",
    }
}

#[cfg(test)]
mod tests {
    use ::image::ImageFormat;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::picture;

    proptest! {
        #[test]
        fn prop_a_damaged_picture_is_an_error_or_still_a_picture(
            format in 0_usize..4,
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..12),
        ) {
            let formats =
                [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif];
            let mut bytes = picture(5, formats[format]);
            for (at, flip) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            let limits = Limits { image_pixels: 1 << 20, ..Limits::default() };
            let result = verify(ImageSource::Bytes(bytes.clone()), &limits);
            prop_assert!(result.is_err() || result.unwrap().bytes == bytes);
        }
    }

    #[test]
    fn paths_stay_below_the_root_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        crate::testing::write(&root, "a/1.jpg", "x");
        crate::testing::write(dir.path(), "rooted.jpg", "x");
        let kind = |written: &str| locate(written, &root).map_err(|fault| fault.kind());
        let found = Ok(ImageSource::File(root.join("a/1.jpg")));
        assert_eq!(kind("a/1.jpg"), found);
        assert_eq!(kind("./a/../a/1.jpg"), found);
        assert_eq!(kind("../root/a/1.jpg"), found);
        assert_eq!(kind(root.join("a/1.jpg").to_str().unwrap()), found);
        assert_eq!(kind("../rooted.jpg"), Err("image_outside_folder"));
        assert_eq!(kind("a/../../rooted.jpg"), Err("image_outside_folder"));
        assert_eq!(kind(&"../".repeat(50)), Err("image_outside_folder"));
        assert_eq!(kind("/etc/hosts"), Err("image_outside_folder"));
        assert_eq!(kind("a"), Err("image_file_missing"));
        assert_eq!(kind("s3://bucket/1.jpg"), Err("image_not_downloaded"));
        assert_eq!(kind("data:image/png;base64,AAAA"), Err("image_not_downloaded"));
    }
}
