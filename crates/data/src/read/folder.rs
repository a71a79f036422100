//! A folder: an image folder with metadata, shards, pictures with sidecar texts, or catalogues.
//!
//! In:  a folder. It is read as the first of these that it holds:
//!      1. `metadata.csv` or `metadata.jsonl` (pictures named by its column `file_name`),
//!      2. tar shards, 3. pictures at any depth with `NAME.txt` / `NAME.json` beside them, 4. catalogue files.
//! Out: the records of all, in the order of the names.

use std::{
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use super::{Format, Sink, Source, detect, json, stream, tar::text_field};
use crate::{
    error::{ReadError, ReadErrorKind},
    record::{ImageSource, RawRecord, Reason, Reject},
};

const METADATA: [&str; 4] = ["metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet"];
const MAX_DEPTH: usize = 32;

pub(super) fn read(
    path: &Path,
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    match contents(path).map_err(|e| ReadError::io(path, e))? {
        Contents::Files(files) => {
            for file in files {
                if stream(&file, &Source::new(&file, source.limits, source.image_column), sink)?
                    .is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        Contents::Images(images) => read_images(path, &images, source, sink),
        Contents::Nothing => {
            Err(ReadError { path: path.to_owned(), kind: ReadErrorKind::UnknownFormat })
        }
    }
}

/// What a folder is read as.
pub(crate) enum Contents {
    /// Catalogues or shards.
    Files(Vec<PathBuf>),
    /// Pictures.
    Images(Vec<PathBuf>),
    /// Nothing that is read.
    Nothing,
}

/// Decides what a folder is read as.
pub(crate) fn contents(folder: &Path) -> io::Result<Contents> {
    if let Some(file) = METADATA.iter().map(|n| folder.join(n)).find(|f| f.is_file()) {
        return Ok(Contents::Files(vec![file]));
    }
    let files = sorted_files(folder)?;
    let of = |wanted: fn(Format) -> bool| -> Vec<PathBuf> {
        let is_wanted = |f: &&PathBuf| detect::by_extension(f).is_some_and(wanted);
        files.iter().filter(is_wanted).cloned().collect()
    };
    let shards = of(|format| format == Format::Tar);
    if !shards.is_empty() {
        return Ok(Contents::Files(shards));
    }
    let mut images = Vec::new();
    find_images(folder, 0, &mut images)?;
    if !images.is_empty() {
        return Ok(Contents::Images(images));
    }
    let catalogues = of(|_| true);
    Ok(if catalogues.is_empty() { Contents::Nothing } else { Contents::Files(catalogues) })
}

fn sorted_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs_err::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> =
        entries.iter().map(fs_err::DirEntry::path).filter(|p| p.is_file()).collect();
    files.sort();
    Ok(files)
}

fn find_images(folder: &Path, depth: usize, into: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = fs_err::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut paths: Vec<PathBuf> = entries.iter().map(fs_err::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            // A link that leads back up would have no end.
            if depth < MAX_DEPTH && !path.is_symlink() {
                find_images(&path, depth + 1, into)?;
            }
        } else if is_image(&path) {
            into.push(path);
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| ["jpg", "jpeg", "png", "webp", "gif"].contains(&e.as_str()))
}

fn read_images(
    folder: &Path,
    images: &[PathBuf],
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    for (row, image) in (1..).zip(images) {
        let key = key(folder, image);
        let event = match sidecars(image, source) {
            Ok(mut fields) => {
                if let Some((label, _)) = key.rsplit_once('/') {
                    fields.push(("folder".to_owned(), label.to_owned()));
                }
                source.checked(RawRecord {
                    place: source.place(row),
                    key: Some(key),
                    fields,
                    image: Some(ImageSource::File(image.clone())),
                })
            }
            Err(reason) => {
                super::Event::Reject(Reject { place: source.place(row), id: Some(key), reason })
            }
        };
        if sink(event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The path below the folder without extension, with `/` on every system.
fn key(folder: &Path, image: &Path) -> String {
    let below = image.strip_prefix(folder).unwrap_or(image).with_extension("");
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn sidecars(image: &Path, source: &Source<'_>) -> Result<Vec<(String, String)>, Reason> {
    let limit = source.limits.line_bytes;
    let mut fields = Vec::new();
    if let Some(bytes) = sidecar(&image.with_extension("json"), limit)? {
        fields.extend(json::fields(&bytes, source.limits)?);
    }
    if let Some(bytes) = sidecar(&image.with_extension("txt"), limit)? {
        fields.extend(text_field(bytes)?);
    }
    Ok(fields)
}

fn sidecar(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, Reason> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = fs_err::File::open(path).map_err(Reason::Damaged)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(Reason::Damaged)?;
    if bytes.len() > limit {
        return Err(Reason::LineTooLong { limit });
    }
    Ok(Some(bytes))
}
