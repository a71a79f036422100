//! What a tower is made of, as data.
//!
//! No field has a default: a spec says everything that changes a number.

use conjoin_engine::{Activation, Mask, Pooling};
use serde::{Deserialize, Serialize};

use crate::ModelErrorKind;

/// A transformer encoder, from its input to a unit vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// What is embedded.
    pub input: EncoderInput,
    /// Whether the embedded input is normalised before the first layer.
    pub input_norm: bool,
    /// Model width `d`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads `h`.
    pub heads: usize,
    /// Width of the hidden layer of the MLP.
    pub mlp_width: usize,
    /// Where the layer norms stand.
    pub norm: NormPlacement,
    /// The ε of every layer norm.
    pub norm_eps: f32,
    /// The activation of the MLP.
    pub activation: Activation,
    /// Which tokens a token sees.
    pub mask: Mask,
    /// Whether the output of the last layer is normalised.
    pub output_norm: bool,
    /// How tokens become one vector.
    pub pooling: Pooling,
    /// Width `e` of a linear projection without bias behind the pooling, if there is one.
    pub projection: Option<usize>,
}

/// What a transformer encoder embeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderInput {
    /// Token ids with learned positions.
    Tokens {
        /// Size of the vocabulary `v`.
        vocabulary: usize,
        /// Number of learned positions: the longest sequence.
        positions: usize,
        /// Number of token types; type 0 is added to every token. Zero: there are none.
        types: usize,
    },
    /// Square patches of a square image behind a class token, with learned positions.
    Patches {
        /// Side of the image in pixels.
        image_size: usize,
        /// Side of a patch in pixels.
        patch_size: usize,
    },
}

/// Where the layer norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// Before attention and MLP (ViT, CLIP).
    Pre,
    /// Behind each residual sum (BERT).
    Post,
}

/// MobileNet v1: a dense stem, then depthwise-separable blocks, then the mean over pixels.
///
/// Source: Howard et al. 2017. Batch norms are folded to a scale and a shift per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetSpec {
    /// Side of the image in pixels.
    pub image_size: usize,
    /// Channels of the stem, a 3 × 3 convolution.
    pub stem_filters: usize,
    /// Stride of the stem.
    pub stem_stride: usize,
    /// The blocks in order.
    pub blocks: Vec<MobileNetBlock>,
    /// Width `e` of a linear projection without bias behind the mean, if there is one.
    pub projection: Option<usize>,
}

/// One depthwise-separable block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetBlock {
    /// Output channels.
    pub filters: usize,
    /// Stride of the depthwise convolution.
    pub stride: usize,
}

/// An image tower: one of the kinds of encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSpec {
    /// A vision transformer.
    Transformer(EncoderSpec),
    /// MobileNet v1.
    MobileNet(MobileNetSpec),
}

impl ImageSpec {
    /// Side of the image in pixels.
    #[must_use]
    pub fn image_size(&self) -> Option<usize> {
        match self {
            Self::MobileNet(spec) => Some(spec.image_size),
            Self::Transformer(spec) => match spec.input {
                EncoderInput::Patches { image_size, .. } => Some(image_size),
                EncoderInput::Tokens { .. } => None,
            },
        }
    }
}

impl MobileNetSpec {
    /// The published network with all channels times `alpha`, rounded down to a multiple of 8 (at
    /// least 8).
    #[must_use]
    pub fn v1(alpha: f64, image_size: usize, projection: Option<usize>) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "channel counts are small and positive"
        )]
        let channels = |n: f64| ((n * alpha) as usize / 8 * 8).max(8);
        let published = [
            (64.0, 1),
            (128.0, 2),
            (128.0, 1),
            (256.0, 2),
            (256.0, 1),
            (512.0, 2),
            (512.0, 1),
            (512.0, 1),
            (512.0, 1),
            (512.0, 1),
            (512.0, 1),
            (1024.0, 2),
            (1024.0, 1),
        ];
        let blocks = published
            .into_iter()
            .map(|(filters, stride)| MobileNetBlock { filters: channels(filters), stride })
            .collect();
        Self { image_size, stem_filters: channels(32.0), stem_stride: 2, blocks, projection }
    }

    /// Width of the features before the projection.
    #[must_use]
    pub fn features(&self) -> usize {
        self.blocks.last().map_or(self.stem_filters, |block| block.filters)
    }

    pub(crate) fn check(&self) -> Result<(), ModelErrorKind> {
        positive("image_size", self.image_size)?;
        positive("stem_filters", self.stem_filters)?;
        positive("stem_stride", self.stem_stride)?;
        for block in &self.blocks {
            positive("blocks.filters", block.filters)?;
            positive("blocks.stride", block.stride)?;
        }
        positive("projection", self.projection.unwrap_or(1))
    }
}

impl EncoderSpec {
    /// Width of the embeddings.
    #[must_use]
    pub fn embedding_width(&self) -> usize {
        self.projection.unwrap_or(self.width)
    }

    pub(crate) fn check(&self) -> Result<(), ModelErrorKind> {
        let sizes = [
            ("width", self.width),
            ("heads", self.heads),
            ("mlp_width", self.mlp_width),
            ("projection", self.projection.unwrap_or(1)),
        ];
        for (key, value) in sizes {
            positive(key, value)?;
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(ModelErrorKind::Spec {
                key: "heads",
                found: self.heads.to_string(),
                expected: format!("a divisor of the width {}", self.width),
            });
        }
        match self.input {
            EncoderInput::Tokens { vocabulary, positions, .. } => {
                positive("input.vocabulary", vocabulary)?;
                positive("input.positions", positions)
            }
            EncoderInput::Patches { image_size, patch_size } => {
                positive("input.patch_size", patch_size)?;
                positive("input.image_size", image_size / patch_size)?;
                if image_size.is_multiple_of(patch_size) {
                    return Ok(());
                }
                Err(ModelErrorKind::Spec {
                    key: "input.patch_size",
                    found: patch_size.to_string(),
                    expected: format!("a divisor of the image size {image_size}"),
                })
            }
        }
    }
}

/// Sizes far beyond any model are a damaged file, not a reason to ask for terabytes.
const MAX_SIZE: usize = 1 << 24;

fn positive(key: &'static str, value: usize) -> Result<(), ModelErrorKind> {
    if (1..=MAX_SIZE).contains(&value) {
        return Ok(());
    }
    let expected = format!("1 to {MAX_SIZE}");
    Err(ModelErrorKind::Spec { key, found: value.to_string(), expected })
}
