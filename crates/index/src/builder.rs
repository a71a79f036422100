//! Writes an index, item by item, straight to disk.
//!
//! In:  items with unit vectors. Out: an artefact, `docs/format/index.md`.
//! Memory: the ids, to refuse duplicates; everything else is streamed.

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use conjoin_core::{Artifact, ArtifactWriter, Manifest, Modality};
use fs_err::File;

use crate::{
    Calibration, IndexError, IndexErrorKind, ItemErrorKind,
    layout::{self, Header, Line, MAX_ITEMS},
};

/// How far the squared length of a unit vector may be from 1: rounding of f32 at any width.
pub(crate) const UNIT_TOLERANCE: f64 = 1e-3;

/// What an index is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexConfig {
    /// The model that made the vectors.
    pub fingerprint: String,
    /// Width of the vectors.
    pub width: usize,
    /// What the text part weighs in the fused vector, above 0.
    pub text_weight: f32,
    /// What the image part weighs in the fused vector, above 0.
    pub image_weight: f32,
}

impl IndexConfig {
    /// Both parts weigh the same.
    #[must_use]
    pub fn new(fingerprint: &str, width: usize) -> Self {
        Self { fingerprint: fingerprint.to_owned(), width, text_weight: 1.0, image_weight: 1.0 }
    }
}

/// One item to add.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IndexItem {
    /// Unique, not empty.
    pub id: String,
    /// Fields given back with a hit.
    pub payload: BTreeMap<String, String>,
    /// The text part's vector, `[e]`, of unit length.
    pub text: Option<Vec<f32>>,
    /// The image part's vector, `[e]`, of unit length.
    pub image: Option<Vec<f32>>,
    /// The encoded picture to show (JPEG, PNG, WebP or GIF); it need not be the embedded one.
    pub picture: Option<Vec<u8>>,
}

impl IndexItem {
    fn part(&self, part: Modality) -> Option<&[f32]> {
        match part {
            Modality::Text => self.text.as_deref(),
            Modality::Image => self.image.as_deref(),
        }
    }
}

/// Where an index came from, for its manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ManifestParts {
    /// SHA-256 of the resolved configuration that made it.
    pub config_hash: String,
    /// SHA-256 of each input's manifest or file, by name.
    pub inputs: BTreeMap<String, String>,
    /// The seed of the run, where one was used.
    pub seed: Option<u64>,
    /// Facts worth reading without opening the files; the counts are added.
    pub facts: BTreeMap<String, serde_json::Value>,
}

/// An index being written. Dropped without [`IndexBuilder::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct IndexBuilder {
    target: PathBuf,
    config: IndexConfig,
    calibration: Option<Calibration>,
    ids: HashSet<String>,
    files: Files,
    broken: bool,
    // Last, so that the files are closed before a staging folder is removed.
    writer: ArtifactWriter,
}

impl IndexBuilder {
    /// Starts an index whose parts weigh the same; `target` is untouched until the commit.
    ///
    /// # Errors
    /// When `width` is 0 or too large, or the staging folder cannot be written.
    pub fn create(target: &Path, fingerprint: &str, width: usize) -> Result<Self, IndexError> {
        Self::create_with(target, IndexConfig::new(fingerprint, width))
    }

    /// Starts an index with all settings.
    ///
    /// # Errors
    /// When a setting is out of its range, or the staging folder cannot be written.
    pub fn create_with(target: &Path, config: IndexConfig) -> Result<Self, IndexError> {
        let make = || -> Result<_, IndexErrorKind> {
            crate::mapped::refuse_big_endian()?;
            layout::check_width(config.width)?;
            layout::check_weight("text_weight", config.text_weight)?;
            layout::check_weight("image_weight", config.image_weight)?;
            let writer = ArtifactWriter::create(target, layout::FORMAT)?;
            let files = Files::create(&writer)?;
            Ok((writer, files))
        };
        let (writer, files) = make().map_err(|kind| IndexError::at(target, kind))?;
        Ok(Self {
            target: target.to_owned(),
            config,
            calibration: None,
            ids: HashSet::new(),
            files,
            broken: false,
            writer,
        })
    }

    /// Makes searches over the fused vector use these scales.
    ///
    /// # Errors
    /// When a scale is not finite or has no spread.
    pub fn calibrate(&mut self, calibration: Calibration) -> Result<(), IndexError> {
        layout::check_calibration(&calibration)
            .map_err(|kind| IndexError::at(&self.target, kind))?;
        self.calibration = Some(calibration);
        Ok(())
    }

    /// Number of items added so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no item was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds an item. A refused item changes nothing: the caller may tell it and go on.
    ///
    /// # Errors
    /// When the id is empty or taken, there is no part, or a vector has the wrong width, a value that
    /// is not finite or not unit length; the error names the id. When a file cannot be written, after
    /// which the index cannot be committed.
    pub fn add(&mut self, item: IndexItem) -> Result<(), IndexError> {
        let fused = self.check(&item).map_err(|kind| {
            let id = item.id.clone();
            IndexError::at(&self.target, IndexErrorKind::Item { id, kind })
        })?;
        if let Err(error) = self.files.write(&item, &fused) {
            self.broken = true;
            return Err(IndexError::at(&self.target, error));
        }
        self.ids.insert(item.id);
        Ok(())
    }

    /// Checks an item and makes its fused vector.
    fn check(&self, item: &IndexItem) -> Result<Vec<f32>, ItemErrorKind> {
        if item.id.is_empty() {
            return Err(ItemErrorKind::EmptyId);
        }
        if self.ids.contains(&item.id) {
            return Err(ItemErrorKind::Duplicate);
        }
        if self.ids.len() >= MAX_ITEMS {
            return Err(ItemErrorKind::Full { limit: MAX_ITEMS });
        }
        for part in [Modality::Text, Modality::Image] {
            item.part(part).map_or(Ok(()), |v| check_vector(v, part, self.config.width))?;
        }
        match (&item.text, &item.image) {
            (Some(text), Some(image)) => self.fuse(text, image),
            (Some(one), None) | (None, Some(one)) => Ok(one.clone()),
            (None, None) => Err(ItemErrorKind::NoPart),
        }
    }

    /// The renormalised weighted mean of two unit vectors.
    fn fuse(&self, text: &[f32], image: &[f32]) -> Result<Vec<f32>, ItemErrorKind> {
        let (w_t, w_i) = (f64::from(self.config.text_weight), f64::from(self.config.image_weight));
        let sum = |(t, i): (&f32, &f32)| (w_t * f64::from(*t) + w_i * f64::from(*i)) / (w_t + w_i);
        let mean: Vec<f64> = text.iter().zip(image).map(sum).collect();
        let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        if length < UNIT_TOLERANCE {
            return Err(ItemErrorKind::Cancelled);
        }
        #[expect(clippy::cast_possible_truncation, reason = "vectors are stored as f32")]
        Ok(mean.iter().map(|v| (v / length) as f32).collect())
    }

    /// Makes the index whole and puts it in place of what was at the target.
    ///
    /// # Errors
    /// When an earlier write failed, or a file cannot be written, read back or renamed.
    pub fn commit(self, parts: ManifestParts) -> Result<Artifact, IndexError> {
        let target = self.target.clone();
        self.publish(parts).map_err(|kind| IndexError::at(&target, kind))
    }

    fn publish(mut self, parts: ManifestParts) -> Result<Artifact, IndexErrorKind> {
        if self.broken {
            return Err(IndexErrorKind::Broken);
        }
        let header = Header {
            width: self.config.width,
            items: self.ids.len(),
            text_rows: self.files.text.rows,
            image_rows: self.files.image.rows,
            text_weight: self.config.text_weight,
            image_weight: self.config.image_weight,
            calibration: self.calibration,
        };
        self.files.finish()?;
        let text = serde_json::to_vec_pretty(&header).map_err(std::io::Error::other)?;
        fs_err::write(self.writer.file(layout::HEADER), text)?;
        Ok(self.writer.commit(manifest(self.config.fingerprint, &header, parts))?)
    }
}

fn manifest(fingerprint: String, header: &Header, parts: ManifestParts) -> Manifest {
    let mut manifest = Manifest::new(layout::FORMAT, layout::VERSION);
    manifest.fingerprint = Some(fingerprint);
    manifest.config_hash = parts.config_hash;
    manifest.inputs = parts.inputs;
    manifest.seed = parts.seed;
    manifest.facts = parts.facts;
    let calibrated = header.calibration.is_some();
    for (name, value) in [
        ("items", header.items.into()),
        ("width", header.width.into()),
        ("text_rows", header.text_rows.into()),
        ("image_rows", header.image_rows.into()),
        ("calibrated", calibrated.into()),
    ] {
        manifest.facts.insert(name.to_owned(), value);
    }
    manifest
}

fn check_vector(vector: &[f32], part: Modality, expected: usize) -> Result<(), ItemErrorKind> {
    if vector.len() != expected {
        return Err(ItemErrorKind::Width { part, found: vector.len(), expected });
    }
    if vector.iter().any(|v| !v.is_finite()) {
        return Err(ItemErrorKind::NotFinite { part });
    }
    let square = square_length(vector);
    if (square - 1.0).abs() > UNIT_TOLERANCE {
        return Err(ItemErrorKind::NotUnit { part, length: square.sqrt() });
    }
    Ok(())
}

pub(crate) fn square_length(vector: &[f32]) -> f64 {
    vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

/// The open files of an index being written.
#[derive(Debug)]
struct Files {
    items: Blobs,
    pictures: Blobs,
    text: Vectors,
    image: Vectors,
    fused: BufWriter<File>,
    written: u32,
}

impl Files {
    fn create(writer: &ArtifactWriter) -> std::io::Result<Self> {
        Ok(Self {
            items: Blobs::create(writer, layout::ITEMS, layout::ITEM_OFFSETS)?,
            pictures: Blobs::create(writer, layout::PICTURES, layout::PICTURE_OFFSETS)?,
            text: Vectors::create(writer, Modality::Text)?,
            image: Vectors::create(writer, Modality::Image)?,
            fused: create(writer, layout::FUSED)?,
            written: 0,
        })
    }

    fn write(&mut self, item: &IndexItem, fused: &[f32]) -> std::io::Result<()> {
        let line = Line { id: item.id.clone(), payload: item.payload.clone() };
        let mut line = serde_json::to_vec(&line).map_err(std::io::Error::other)?;
        line.push(b'\n');
        self.items.push(&line)?;
        self.pictures.push(item.picture.as_deref().unwrap_or_default())?;
        self.text.push(self.written, item.text.as_deref())?;
        self.image.push(self.written, item.image.as_deref())?;
        write_vector(&mut self.fused, fused)?;
        self.written += 1;
        Ok(())
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.items.finish()?;
        self.pictures.finish()?;
        self.text.finish()?;
        self.image.finish()?;
        self.fused.flush()
    }
}

/// Byte strings one after the other, and where each starts.
#[derive(Debug)]
struct Blobs {
    bytes: BufWriter<File>,
    offsets: BufWriter<File>,
    end: u64,
}

impl Blobs {
    fn create(writer: &ArtifactWriter, bytes: &str, offsets: &str) -> std::io::Result<Self> {
        Ok(Self { bytes: create(writer, bytes)?, offsets: create(writer, offsets)?, end: 0 })
    }

    fn push(&mut self, blob: &[u8]) -> std::io::Result<()> {
        self.offsets.write_all(&self.end.to_le_bytes())?;
        self.end += blob.len() as u64;
        self.bytes.write_all(blob)
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.offsets.write_all(&self.end.to_le_bytes())?;
        self.offsets.flush()?;
        self.bytes.flush()
    }
}

/// The vectors of one part, and the item of each row.
#[derive(Debug)]
struct Vectors {
    values: BufWriter<File>,
    items: BufWriter<File>,
    rows: usize,
}

impl Vectors {
    fn create(writer: &ArtifactWriter, part: Modality) -> std::io::Result<Self> {
        let values = create(writer, layout::vectors_file(part))?;
        Ok(Self { values, items: create(writer, layout::rows_file(part))?, rows: 0 })
    }

    fn push(&mut self, item: u32, vector: Option<&[f32]>) -> std::io::Result<()> {
        let Some(vector) = vector else { return Ok(()) };
        self.rows += 1;
        self.items.write_all(&item.to_le_bytes())?;
        write_vector(&mut self.values, vector)
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.values.flush()?;
        self.items.flush()
    }
}

fn create(writer: &ArtifactWriter, name: &str) -> std::io::Result<BufWriter<File>> {
    Ok(BufWriter::new(File::create(writer.file(name))?))
}

fn write_vector(file: &mut impl Write, vector: &[f32]) -> std::io::Result<()> {
    vector.iter().try_for_each(|v| file.write_all(&v.to_le_bytes()))
}

#[cfg(test)]
mod tests;
