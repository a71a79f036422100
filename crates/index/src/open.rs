//! Opens an index and checks everything a search relies on.
//!
//! In:  a folder, which may be damaged or hostile. Out: an [`Index`] whose sizes, offsets, rows and
//! items are consistent, or an error naming the file.

use std::{collections::HashMap, path::Path};

use conjoin_core::{Artifact, Modality, hash_bytes};
use rayon::prelude::*;

use crate::{
    Index, IndexError, IndexErrorKind, ItemErrorKind,
    index::{Blobs, Part},
    layout::{self, Header, Line},
    mapped::{Mapped, refuse_big_endian},
};

/// Headers are a few hundred bytes; a larger one is not ours.
const MAX_HEADER_BYTES: u64 = 1 << 20;

impl Index {
    /// Opens the index in a folder.
    ///
    /// Everything but the vectors and the pictures is checked against the manifest's hashes;
    /// [`Index::verify`] checks those too.
    ///
    /// # Errors
    /// When the folder is not an index, was made by a newer build, or is damaged.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        open(path).map_err(|kind| IndexError::at(path, kind))
    }
}

fn open(path: &Path) -> Result<Index, IndexErrorKind> {
    refuse_big_endian()?;
    let artifact = Artifact::open(path, layout::FORMAT, layout::VERSION)?;
    let fingerprint = artifact.manifest().fingerprint.clone().ok_or(IndexErrorKind::Setting {
        key: "fingerprint",
        found: "null".to_owned(),
        expected: "the fingerprint of a model",
    })?;
    let folder = Folder { artifact: &artifact };
    let header = folder.header()?;
    let vectors = |file, rows| folder.sized(file, 4 * rows as u64 * header.width as u64);
    let part = |part| -> Result<Part, IndexErrorKind> {
        let values = vectors(layout::vectors_file(part), header.rows(part))?;
        Ok(Part { values, items: folder.rows(part, &header)? })
    };
    let items = folder.blobs(layout::ITEMS, layout::ITEM_OFFSETS, header.items)?;
    folder.check_hash(layout::ITEMS, &items.bytes)?;
    let (text, image) = (part(Modality::Text)?, part(Modality::Image)?);
    let fused = vectors(layout::FUSED, header.items)?;
    let pictures = folder.blobs(layout::PICTURES, layout::PICTURE_OFFSETS, header.items)?;
    let by_id = ids(&items, header.items)?;
    check_parts(&items, header.items, [&text, &image])?;
    Ok(Index { artifact, fingerprint, header, text, image, fused, items, pictures, by_id })
}

/// The files of the artefact being opened.
struct Folder<'a> {
    artifact: &'a Artifact,
}

impl Folder<'_> {
    fn header(&self) -> Result<Header, IndexErrorKind> {
        let file = layout::HEADER;
        let mapped = self.map(file)?;
        let found = mapped.bytes().len() as u64;
        if found > MAX_HEADER_BYTES {
            return Err(IndexErrorKind::Size { file, found, expected: MAX_HEADER_BYTES });
        }
        self.check_hash(file, &mapped)?;
        let header: Header = serde_json::from_slice(mapped.bytes())
            .map_err(|source| IndexErrorKind::Header { file, source })?;
        header.check()?;
        Ok(header)
    }

    fn map(&self, file: &'static str) -> Result<Mapped, IndexErrorKind> {
        self.expected_hash(file)?;
        Ok(Mapped::open(&self.artifact.file(file))?)
    }

    fn expected_hash(&self, file: &'static str) -> Result<&str, IndexErrorKind> {
        let hash = self.artifact.manifest().files.get(file);
        hash.map(String::as_str).ok_or(IndexErrorKind::Missing { file })
    }

    fn check_hash(&self, file: &'static str, mapped: &Mapped) -> Result<(), IndexErrorKind> {
        let (found, expected) = (hash_bytes(mapped.bytes()), self.expected_hash(file)?);
        if found == expected {
            return Ok(());
        }
        Err(IndexErrorKind::Hash { file, found, expected: expected.to_owned() })
    }

    fn sized(&self, file: &'static str, expected: u64) -> Result<Mapped, IndexErrorKind> {
        let mapped = self.map(file)?;
        let found = mapped.bytes().len() as u64;
        if found == expected {
            return Ok(mapped);
        }
        Err(IndexErrorKind::Size { file, found, expected })
    }

    /// The items of a part's rows: strictly rising, and each an item.
    fn rows(&self, part: Modality, header: &Header) -> Result<Mapped, IndexErrorKind> {
        let file = layout::rows_file(part);
        let mapped = self.sized(file, 4 * header.rows(part) as u64)?;
        self.check_hash(file, &mapped)?;
        let rows = mapped.numbers::<u32>();
        if let Some(position) = rows.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(IndexErrorKind::Order { file, position: position + 1 });
        }
        if rows.last().is_some_and(|last| *last as usize >= header.items) {
            return Err(IndexErrorKind::Order { file, position: rows.len() - 1 });
        }
        Ok(mapped)
    }

    /// Byte strings and their offsets: rising from 0 to the end of the file.
    fn blobs(
        &self,
        bytes: &'static str,
        file: &'static str,
        items: usize,
    ) -> Result<Blobs, IndexErrorKind> {
        let mapped = self.sized(file, 8 * (items as u64 + 1))?;
        self.check_hash(file, &mapped)?;
        let offsets = mapped.numbers::<u64>();
        let out_of_order = offsets.windows(2).position(|pair| pair[0] > pair[1]);
        if let Some(position) = out_of_order.map(|p| p + 1).or((offsets[0] != 0).then_some(0)) {
            return Err(IndexErrorKind::Order { file, position });
        }
        let bytes = self.sized(bytes, offsets[items])?;
        Ok(Blobs { bytes, offsets: mapped })
    }
}

/// The item of each id; every line is parsed, so that a search can rely on it.
fn ids(items: &Blobs, n: usize) -> Result<HashMap<String, u32>, IndexErrorKind> {
    let id = |item: usize| match serde_json::from_slice::<Line>(items.get(item)) {
        Ok(line) => Ok(line.id),
        Err(source) => Err(IndexErrorKind::Line { item, source }),
    };
    let ids = (0..n).into_par_iter().map(id).collect::<Result<Vec<_>, _>>()?;
    let mut by_id = HashMap::with_capacity(n);
    for (item, id) in ids.into_iter().enumerate() {
        if id.is_empty() {
            return Err(IndexErrorKind::Item { id, kind: ItemErrorKind::EmptyId });
        }
        let item = u32::try_from(item).expect("the header's count fits 32 bits");
        if by_id.insert(id.clone(), item).is_some() {
            return Err(IndexErrorKind::Item { id, kind: ItemErrorKind::Duplicate });
        }
    }
    Ok(by_id)
}

/// Every item has a part, or it could not be scored.
fn check_parts(items: &Blobs, n: usize, parts: [&Part; 2]) -> Result<(), IndexErrorKind> {
    let mut has_part = vec![false; n];
    for part in parts {
        part.items.numbers::<u32>().iter().for_each(|item| has_part[*item as usize] = true);
    }
    let Some(item) = has_part.iter().position(|has| !has) else { return Ok(()) };
    let line: Line = serde_json::from_slice(items.get(item))
        .map_err(|source| IndexErrorKind::Line { item, source })?;
    Err(IndexErrorKind::Item { id: line.id, kind: ItemErrorKind::NoPart })
}
