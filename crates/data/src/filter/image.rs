//! Pictures: found, read and fully decoded once, so that training never meets a broken one.
//!
//! In:  where a row says its picture is. Out: its bytes with their hash, or an [`ImageFault`].
//! Not here: keeping pixels; the stored bytes are the original ones.

use std::{
    io::Read,
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
    decode(&bytes, &limits).map_err(ImageFault::Decode)?;
    let sha256 = hash_bytes(&bytes);
    Ok(Picture { bytes, sha256 })
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
