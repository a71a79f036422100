//! Scales that make cosines comparable across modalities.
//!
//! In:  cosines of pairs that do not match, per query modality and part.
//! Out: `(cosine - mean) / std`, how far a cosine stands out of that noise.
//! Not here: choosing the pairs; scoring items (`search`).
//! Why and how: `docs/format/index.md`, "Calibration".

use conjoin_core::{Embeddings, Mix, Modality};
use serde::{Deserialize, Serialize};

/// The smallest spread taken for real; below it every score would be a division by noise.
const MIN_STD: f32 = 1e-6;

/// The mean and spread of the cosines of pairs that do not match.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Mean cosine.
    pub mean: f32,
    /// Standard deviation of the cosine, above 0.
    pub std: f32,
}

impl Scale {
    /// The scale that leaves a cosine as it is.
    pub(crate) const IDENTITY: Self = Self { mean: 0.0, std: 1.0 };

    /// Fits the scale to cosines of pairs that do not match.
    ///
    /// Returns `None` for fewer than two cosines, or cosines that are all alike or not finite.
    #[must_use]
    pub fn fit(cosines: impl IntoIterator<Item = f32>) -> Option<Self> {
        // Welford's recurrence: one pass, no cancellation.
        let (mut n, mut mean, mut m2) = (0.0_f64, 0.0_f64, 0.0_f64);
        for cosine in cosines {
            n += 1.0;
            let delta = f64::from(cosine) - mean;
            mean += delta / n;
            m2 += delta * (f64::from(cosine) - mean);
        }
        #[expect(clippy::cast_possible_truncation, reason = "stored as f32")]
        let scale = Self { mean: mean as f32, std: (m2 / (n - 1.0)).sqrt() as f32 };
        scale.is_valid().then_some(scale)
    }

    /// The scale equal to a logistic fit `p = 1 / (1 + exp(-(a · cosine + b)))`: a calibrated
    /// cosine is then the logit of `p`.
    ///
    /// Returns `None` unless `a` is above 0 and both are finite.
    #[must_use]
    pub fn from_logistic(a: f32, b: f32) -> Option<Self> {
        let scale = Self { mean: -b / a, std: 1.0 / a };
        scale.is_valid().then_some(scale)
    }

    /// The calibrated cosine; rises with `cosine`.
    #[must_use]
    pub fn apply(self, cosine: f32) -> f32 {
        (cosine - self.mean) / self.std
    }

    pub(crate) fn is_valid(self) -> bool {
        self.mean.is_finite() && self.std.is_finite() && self.std >= MIN_STD
    }

    fn mix(text: Self, image: Self, mix: Mix) -> Self {
        Self {
            mean: mix.text * text.mean + mix.image * image.mean,
            std: (mix.text * text.std).hypot(mix.image * image.std),
        }
    }
}

/// One scale per query modality and part; any may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Text queries against text parts.
    pub text_to_text: Option<Scale>,
    /// Text queries against image parts.
    pub text_to_image: Option<Scale>,
    /// Image queries against text parts.
    pub image_to_text: Option<Scale>,
    /// Image queries against image parts.
    pub image_to_image: Option<Scale>,
}

impl Calibration {
    /// Fits all four scales to a sample of items that have both parts, each part taken as a query
    /// for the parts of the *other* items. Cost: n² cosines of each kind; some hundred items do.
    ///
    /// # Shapes
    /// - `texts`, `images`: `[n, e]`, rows of unit length, row `x` of both of the same item
    ///
    /// # Panics
    /// When the shapes differ.
    #[must_use]
    pub fn from_pairs(texts: &Embeddings, images: &Embeddings) -> Self {
        assert_eq!(texts.len(), images.len(), "texts and images of the same items");
        let fit = |queries: &Embeddings, parts: &Embeddings| {
            let others = |q: usize| (0..parts.len()).filter(move |p| *p != q);
            let pairs = (0..queries.len()).flat_map(|q| others(q).map(move |p| (q, p)));
            Scale::fit(pairs.map(|(q, p)| dot(queries.row(q), parts.row(p))))
        };
        Self {
            text_to_text: fit(texts, texts),
            text_to_image: fit(texts, images),
            image_to_text: fit(images, texts),
            image_to_image: fit(images, images),
        }
    }

    /// The scale of one pair.
    #[must_use]
    pub fn scale(&self, query: Modality, part: Modality) -> Option<Scale> {
        match (query, part) {
            (Modality::Text, Modality::Text) => self.text_to_text,
            (Modality::Text, Modality::Image) => self.text_to_image,
            (Modality::Image, Modality::Text) => self.image_to_text,
            (Modality::Image, Modality::Image) => self.image_to_image,
        }
    }

    /// The scale of a query that may be made of a text and an image.
    pub(crate) fn scale_of(&self, query: Query, part: Modality) -> Option<Scale> {
        let Some(mix) = query.mix else { return self.scale(query.modality, part) };
        let text = self.scale(Modality::Text, part)?;
        let image = self.scale(Modality::Image, part)?;
        let mixed = Scale::mix(text, image, mix);
        mixed.is_valid().then_some(mixed)
    }

    pub(crate) fn scales(&self) -> [(&'static str, Option<Scale>); 4] {
        [
            ("calibration.text_to_text", self.text_to_text),
            ("calibration.text_to_image", self.text_to_image),
            ("calibration.image_to_text", self.image_to_text),
            ("calibration.image_to_image", self.image_to_image),
        ]
    }
}

/// Where a query vector came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub(crate) modality: Modality,
    pub(crate) mix: Option<Mix>,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests;
