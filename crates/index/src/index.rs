//! An open index.
//!
//! In:  a folder (`open` checks it). Out: items, vectors and pictures, and a [`Store`] over them.
//! Not here: how a search is done (`search`).

use std::collections::HashMap;

use conjoin_core::{Artifact, Hit, Modality, SearchError, SearchRequest, Store, VectorName};

use crate::{Calibration, IndexError, layout::Header, mapped::Mapped};

/// A searchable index on disk, mapped into memory.
///
/// # Examples
/// ```
/// use conjoin_core::{Modality, SearchRequest, Store, VectorName};
/// use conjoin_index::{Index, IndexBuilder, IndexItem, ManifestParts};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("index");
/// let mut builder = IndexBuilder::create(&path, "model-fingerprint", 2)?;
/// let mug = IndexItem { id: "mug".into(), text: Some(vec![1.0, 0.0]), ..IndexItem::default() };
/// let hat = IndexItem { id: "hat".into(), text: Some(vec![0.0, 1.0]), ..IndexItem::default() };
/// builder.add(mug)?;
/// builder.add(hat)?;
/// builder.commit(ManifestParts::default())?;
///
/// let index = Index::open(&path)?;
/// let query = SearchRequest::new(vec![0.6, 0.8], Modality::Text, VectorName::Text, 1);
/// assert_eq!(index.search(&query)?[0].id, "hat");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Index {
    pub(crate) artifact: Artifact,
    pub(crate) fingerprint: String,
    pub(crate) header: Header,
    pub(crate) text: Part,
    pub(crate) image: Part,
    pub(crate) fused: Mapped,
    pub(crate) items: Blobs,
    pub(crate) pictures: Blobs,
    /// Looked up, never iterated.
    pub(crate) by_id: HashMap<String, u32>,
}

/// The vectors of one part, and the item of each row.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) values: Mapped,
    pub(crate) items: Mapped,
}

/// Byte strings one after the other, and where each starts.
#[derive(Debug)]
pub(crate) struct Blobs {
    pub(crate) bytes: Mapped,
    pub(crate) offsets: Mapped,
}

impl Blobs {
    /// One of the byte strings; the opener has checked that the offsets rise and stay inside.
    pub(crate) fn get(&self, item: usize) -> &[u8] {
        let offsets = self.offsets.numbers::<u64>();
        let at = |item: usize| usize::try_from(offsets[item]).expect("inside a mapped file");
        &self.bytes.bytes()[at(item)..at(item + 1)]
    }
}

/// Vectors, row-major, and the item of each row; without `items`, the row is the item.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) items: Option<&'a [u32]>,
}

impl Index {
    /// Width of the vectors.
    #[must_use]
    pub fn width(&self) -> usize {
        self.header.width
    }

    /// The artefact, with its manifest.
    #[must_use]
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The scales used by searches over the fused vector, if there are any.
    #[must_use]
    pub fn calibration(&self) -> Option<&Calibration> {
        self.header.calibration.as_ref()
    }

    /// How many items have a vector of this name.
    #[must_use]
    pub fn count(&self, vector: VectorName) -> usize {
        match vector {
            VectorName::Text => self.header.text_rows,
            VectorName::Image => self.header.image_rows,
            VectorName::Fused => self.header.items,
        }
    }

    /// Reads every file and compares its hash with the manifest's, vectors and pictures included.
    ///
    /// # Errors
    /// On the first file that is missing or changed.
    pub fn verify(&self) -> Result<(), IndexError> {
        self.artifact.verify().map_err(|error| IndexError::at(self.artifact.path(), error))
    }

    /// The hits of many queries at once, in their order: the rows are read once for all of them.
    /// Bit for bit what [`Store::search`] gives for each alone.
    ///
    /// # Errors
    /// When a query does not fit the index.
    pub fn search_batch(&self, requests: &[SearchRequest]) -> Result<Vec<Vec<Hit>>, SearchError> {
        crate::search::search(self, requests)
    }

    pub(crate) fn matrix(&self, vector: VectorName) -> Matrix<'_> {
        match vector {
            VectorName::Text => self.text.matrix(),
            VectorName::Image => self.image.matrix(),
            VectorName::Fused => Matrix { values: self.fused.numbers(), items: None },
        }
    }

    /// One vector of an item, if it has it.
    pub(crate) fn vector(&self, item: usize, vector: VectorName) -> Option<&[f32]> {
        let matrix = self.matrix(vector);
        let row = match matrix.items {
            None => item,
            Some(items) => items.binary_search(&u32::try_from(item).ok()?).ok()?,
        };
        Some(&matrix.values[row * self.width()..(row + 1) * self.width()])
    }
}

impl Part {
    fn matrix(&self) -> Matrix<'_> {
        Matrix { values: self.values.numbers(), items: Some(self.items.numbers()) }
    }
}

impl Store for Index {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn len(&self) -> usize {
        self.header.items
    }

    fn search(&self, request: &SearchRequest) -> Result<Vec<Hit>, SearchError> {
        let mut hits = self.search_batch(std::slice::from_ref(request))?;
        Ok(hits.pop().unwrap_or_default())
    }

    fn picture(&self, id: &str) -> Option<&[u8]> {
        let item = *self.by_id.get(id)?;
        let picture = self.pictures.get(item as usize);
        (!picture.is_empty()).then_some(picture)
    }
}

/// The name of a part's vector's modality; the fused vector has none.
pub(crate) fn modality_of(vector: VectorName) -> Option<Modality> {
    match vector {
        VectorName::Text => Some(Modality::Text),
        VectorName::Image => Some(Modality::Image),
        VectorName::Fused => None,
    }
}
