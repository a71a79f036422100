//! What a search front end needs of an index.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Modality;

/// Which of an item's vectors a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorName {
    /// The text part.
    Text,
    /// The image part.
    Image,
    /// The renormalised mean of the unit vectors of the parts an item has.
    Fused,
}

impl VectorName {
    /// All names, in storage order.
    pub const ALL: [Self; 3] = [Self::Text, Self::Image, Self::Fused];

    /// The name used in files, flags and requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Fused => "fused",
        }
    }
}

impl From<Modality> for VectorName {
    fn from(modality: Modality) -> Self {
        match modality {
            Modality::Text => Self::Text,
            Modality::Image => Self::Image,
        }
    }
}

/// A query vector and what to do with it.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    /// The query, `[e]`, of unit length.
    pub vector: Vec<f32>,
    /// The modality the query came from; scores are only comparable per pair of modalities.
    /// Of a query made of both, the heavier one.
    pub modality: Modality,
    /// Of a query made of a text and an image, what each has given to `vector`.
    pub mix: Option<Mix>,
    /// The vectors to compare with.
    pub over: VectorName,
    /// How many hits to return at most.
    pub top_k: usize,
}

impl SearchRequest {
    /// A request whose query came from one modality.
    #[must_use]
    pub fn new(vector: Vec<f32>, modality: Modality, over: VectorName, top_k: usize) -> Self {
        Self { vector, modality, mix: None, over, top_k }
    }
}

/// A query made of a text and an image: `vector = text · t + image · i` for unit vectors `t`, `i`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// The coefficient of the text's vector.
    pub text: f32,
    /// The coefficient of the image's vector.
    pub image: f32,
}

/// One part's share in a hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// The vector compared.
    pub vector: VectorName,
    /// Cosine similarity, -1 to 1.
    pub cosine: f32,
    /// The cosine on a scale comparable across modalities, where the store has one for this query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<f32>,
}

/// One found item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The item's id.
    pub id: String,
    /// What the hits are ordered by, highest first.
    pub score: f32,
    /// The cosine with each vector the item has, so that a hit explains itself.
    pub legs: Vec<Leg>,
    /// The item's fields as they were indexed.
    pub payload: BTreeMap<String, String>,
    /// Whether the store has a picture of the item.
    pub has_picture: bool,
}

/// A searchable collection of items.
pub trait Store: Send + Sync {
    /// The fingerprint of the model whose vectors are stored.
    fn fingerprint(&self) -> &str;

    /// Number of items.
    fn len(&self) -> usize;

    /// Whether there is no item.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The best items for a query, highest score first; equal scores in the order of insertion.
    ///
    /// # Errors
    /// When the query does not fit the index.
    fn search(&self, request: &SearchRequest) -> Result<Vec<Hit>, SearchError>;

    /// The encoded picture of an item (JPEG, PNG, WebP or GIF bytes), if it has one.
    fn picture(&self, id: &str) -> Option<&[u8]>;
}

/// Why a search could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The query's width is not the index's.
    #[error("the query has {found} dimensions, the index has {expected}")]
    Width {
        /// Width of the query.
        found: usize,
        /// Width of the index.
        expected: usize,
    },
    /// Query vectors must be finite.
    #[error("the query vector has a value that is not finite")]
    NotFinite,
    /// Query vectors must be of unit length.
    #[error("the query vector has length {length}, not 1")]
    NotUnit {
        /// The length found.
        length: f64,
    },
    /// What the store holds of an item cannot be read; the store is damaged.
    #[error("item {item} of the store cannot be read")]
    Damaged {
        /// Position of the item, in the order of insertion.
        item: usize,
    },
}
