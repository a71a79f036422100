//! What a tower is made of, as data.
//!
//! No field has a default: a spec says everything that changes a number.

use conjoin_engine::{Activation, Mask, Pairing};
use serde::{Deserialize, Serialize};

use crate::ModelErrorKind;

/// A transformer encoder, from its input to one vector per sequence.
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
    /// How tokens look at each other.
    pub attention: AttentionRule,
    /// The feed-forward half of a layer.
    pub mlp: MlpRule,
    /// The layer norms of the blocks.
    pub norm: NormRule,
    /// Whether each half of a layer is multiplied by a learned factor per channel before it is added
    /// (Touvron et al. 2021).
    pub layer_scale: bool,
    /// Where the norm behind the last layer stands.
    pub output_norm: OutputNorm,
    /// How tokens become one vector.
    pub pooling: Pooling,
    /// What comes behind the pooling, in order.
    pub head: Vec<HeadLayer>,
    /// Whether the vectors are scaled to unit length. Every embedding tower does; scores do not.
    pub normalize: bool,
}

/// What a transformer encoder embeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderInput {
    /// Token ids.
    Tokens {
        /// Size of the vocabulary `v`.
        vocabulary: usize,
        /// The longest sequence.
        max_tokens: usize,
        /// Whether each of the `max_tokens` positions has a learned vector that is added.
        positions: bool,
        /// Number of token types; type 0 is added to every token unless told otherwise. Zero: there
        /// are none.
        types: usize,
    },
    /// Square patches of a square image, with learned positions.
    Patches {
        /// Side of the image in pixels.
        image_size: usize,
        /// Side of a patch in pixels; pixels behind the last whole patch are not seen.
        patch_size: usize,
        /// Whether the patch projection has a bias.
        bias: bool,
        /// Whether a learned token stands before the patches.
        class_token: bool,
    },
}

/// How tokens look at each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionRule {
    /// Number of heads `h`.
    pub heads: usize,
    /// Which of queries, keys and values have a bias.
    pub qkv_bias: QkvBias,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// Whether the heads' outputs are normalised before the output projection (sub-LN, EVA02).
    pub inner_norm: bool,
    /// Which tokens a token sees.
    pub mask: Mask,
    /// What is added to the scores for the distance of two tokens.
    pub score_bias: ScoreBias,
    /// How queries and keys are turned by their position, if they are.
    pub rotary: Option<Rotary>,
    /// Layers that see a window only, if there are any.
    pub local: Option<Local>,
}

/// Which of queries, keys and values have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvBias {
    /// All three.
    All,
    /// Queries and values (EVA02).
    QueryValue,
    /// None of them.
    None,
}

/// What is added to the attention scores for the distance of two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ScoreBias {
    /// Nothing.
    None,
    /// `−m_h · |i − j|` with a fixed slope per head (Press et al. 2022, both directions as in
    /// JinaBERT).
    Alibi,
    /// A learned number per head and bucket of the distance, shared by all layers (Raffel et al.
    /// 2020; MPNet).
    Buckets {
        /// Number of buckets, half of them for each direction.
        buckets: usize,
        /// Distances from here on share the last bucket.
        max_distance: usize,
    },
}

/// Rotary positions (Su et al. 2021): pairs of channels of queries and keys are turned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// Which channels form a pair.
    pub pairing: Pairing,
    /// Base `θ` of the frequencies.
    pub theta: f32,
    /// What a token's position is.
    pub axes: RotaryAxes,
}

/// What a token's position is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RotaryAxes {
    /// Its place in the sequence.
    Sequence,
    /// Row and column of its patch, half of the channels each; the class token is not turned.
    Grid {
        /// The grid's rows and columns are spread over `0..extent`.
        extent: f32,
    },
}

/// Layers that see a window only: all but every `global_every`-th (ModernBERT).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// Layers 0, `global_every`, 2 · `global_every`, … see everything.
    pub global_every: usize,
    /// How many tokens to the left and to the right are seen.
    pub reach: usize,
    /// Base `θ` of the rotary frequencies in these layers.
    pub theta: f32,
}

/// The feed-forward half of a layer: `down(act(up x))`, or `down(act(gate x) ∘ up x)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpRule {
    /// Width of the hidden layer.
    pub width: usize,
    /// The activation.
    pub activation: Activation,
    /// Whether a second projection is multiplied in (Shazeer 2020).
    pub gated: bool,
    /// Whether the projections into the hidden layer have a bias.
    pub up_bias: bool,
    /// Whether the projection out of it has one.
    pub down_bias: bool,
    /// Whether the hidden layer is normalised (sub-LN, EVA02).
    pub inner_norm: bool,
}

/// The layer norms of the blocks; `eps` and `bias` hold for all norms of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormRule {
    /// Where they stand.
    pub placement: NormPlacement,
    /// Their ε.
    pub eps: f32,
    /// Whether they have a bias.
    pub bias: bool,
    /// Whether the first layer's attention has one (ModernBERT's has not).
    pub first: bool,
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

/// Where the norm behind the last layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputNorm {
    /// There is none.
    None,
    /// On every token, before the pooling.
    Tokens,
    /// On the pooled vector.
    Pooled,
}

/// How the tokens of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The mean of all tokens but the class token.
    Patches,
    /// The first token (`[CLS]`, the class token of an image).
    First,
    /// The last token.
    Last,
    /// The first token with this id (CLIP's end of text).
    FirstId(u32),
    /// The first of the tokens with the largest id (CLIP's end of text in old checkpoints).
    LargestId,
    /// A learned query looks at all tokens; an MLP with a norm and a residual follows (SigLIP's "MAP
    /// head", Zhai et al. 2022).
    Probe {
        /// Number of heads of the query's attention.
        heads: usize,
        /// Width of the MLP's hidden layer.
        mlp_width: usize,
        /// Its activation.
        activation: Activation,
    },
}

/// A layer behind the pooling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadLayer {
    /// A linear layer and an activation.
    Dense {
        /// Width of its output.
        width: usize,
        /// Whether it has a bias.
        bias: bool,
        /// The activation.
        activation: Activation,
    },
    /// A layer norm.
    Norm {
        /// Its ε.
        eps: f32,
        /// Whether it has a bias.
        bias: bool,
    },
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

impl ImageSpec {
    /// How many patches a picture has of which some may be left out; none where the tower has no patches, or
    /// its attention goes by the distance of tokens, which changes with those left out.
    #[must_use]
    pub fn n_patches(&self) -> Option<usize> {
        let Self::Transformer(spec) = self else { return None };
        let EncoderInput::Patches { image_size, patch_size, .. } = spec.input else { return None };
        let AttentionRule { score_bias, local, .. } = &spec.attention;
        let by_distance = *score_bias != ScoreBias::None || local.is_some();
        (!by_distance).then(|| (image_size / patch_size).pow(2))
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

impl AttentionRule {
    /// Every token sees every token, biases everywhere, nothing else.
    #[must_use]
    pub fn plain(heads: usize) -> Self {
        Self {
            heads,
            qkv_bias: QkvBias::All,
            out_bias: true,
            inner_norm: false,
            mask: Mask::Bidirectional,
            score_bias: ScoreBias::None,
            rotary: None,
            local: None,
        }
    }
}

impl MlpRule {
    /// Two projections with biases and an activation between them.
    #[must_use]
    pub fn plain(width: usize, activation: Activation) -> Self {
        let (up_bias, down_bias) = (true, true);
        Self { width, activation, gated: false, up_bias, down_bias, inner_norm: false }
    }
}

impl NormRule {
    /// Norms with biases in every layer.
    #[must_use]
    pub fn plain(placement: NormPlacement, eps: f32) -> Self {
        Self { placement, eps, bias: true, first: true }
    }
}

impl EncoderSpec {
    /// A pre-norm transformer with biases everywhere, an MLP of four times the width with GELU, a norm
    /// behind the last layer, and the first token as the vector.
    #[must_use]
    pub fn pre_norm(input: EncoderInput, width: usize, layers: usize, heads: usize) -> Self {
        Self {
            input,
            input_norm: false,
            width,
            layers,
            attention: AttentionRule::plain(heads),
            mlp: MlpRule::plain(4 * width, Activation::Gelu),
            norm: NormRule::plain(NormPlacement::Pre, 1e-5),
            layer_scale: false,
            output_norm: OutputNorm::Tokens,
            pooling: Pooling::First,
            head: Vec::new(),
            normalize: true,
        }
    }

    /// Width of the embeddings.
    #[must_use]
    pub fn embedding_width(&self) -> usize {
        let dense = |layer: &HeadLayer| match layer {
            HeadLayer::Dense { width, .. } => Some(*width),
            HeadLayer::Norm { .. } => None,
        };
        self.head.iter().rev().find_map(dense).unwrap_or(self.width)
    }

    /// The most tokens one sequence may have.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        match self.input {
            EncoderInput::Tokens { max_tokens, .. } => max_tokens,
            EncoderInput::Patches { image_size, patch_size, class_token, .. } => {
                let side = image_size.checked_div(patch_size).unwrap_or(0);
                side.saturating_pow(2).saturating_add(usize::from(class_token))
            }
        }
    }

    /// Whether a text without tokens has an embedding: zeros, the mean of no rows of a table.
    #[must_use]
    pub fn reads_nothing(&self) -> bool {
        self.layers == 0 && self.pooling == Pooling::Mean
    }

    /// Adds a linear layer without bias into a space of another width.
    #[must_use]
    pub fn projected(mut self, width: usize) -> Self {
        self.head.push(HeadLayer::Dense { width, bias: false, activation: Activation::Identity });
        self
    }

    pub(crate) fn check(&self) -> Result<(), ModelErrorKind> {
        positive("width", self.width)?;
        up_to("layers", self.layers, MAX_LAYERS)?;
        positive("mlp.width", self.mlp.width)?;
        small("norm.eps", self.norm.eps)?;
        divisor("attention.heads", self.attention.heads, "width", self.width)?;
        let channels = self.width / self.attention.heads;
        if let Some(rotary) = self.attention.rotary {
            self.check_rotary(rotary, channels)?;
        }
        if let Some(local) = self.attention.local {
            positive("attention.local.global_every", local.global_every)?;
            up_to("attention.local.reach", local.reach, MAX_SIZE)?;
            base("attention.local.theta", local.theta)?;
        }
        if let ScoreBias::Buckets { buckets, max_distance } = self.attention.score_bias {
            divisor("attention.score_bias.buckets", 4, "number of buckets", buckets)?;
            let wide_enough = max_distance.saturating_sub(buckets / 4);
            positive("attention.score_bias.max_distance", wide_enough)?;
        }
        if let Pooling::Probe { heads, mlp_width, .. } = self.pooling {
            divisor("pooling.heads", heads, "width", self.width)?;
            positive("pooling.mlp_width", mlp_width)?;
        }
        for layer in &self.head {
            match layer {
                HeadLayer::Dense { width, .. } => positive("head.width", *width)?,
                HeadLayer::Norm { eps, .. } => small("head.eps", *eps)?,
            }
        }
        self.check_input()
    }

    fn check_rotary(&self, rotary: Rotary, channels: usize) -> Result<(), ModelErrorKind> {
        base("attention.rotary.theta", rotary.theta)?;
        match rotary.axes {
            RotaryAxes::Sequence => divisor("attention.rotary", 2, "head's width", channels),
            RotaryAxes::Grid { extent } => {
                base("attention.rotary.axes.extent", extent)?;
                if !matches!(self.input, EncoderInput::Patches { .. }) {
                    return Err(ModelErrorKind::Spec {
                        key: "attention.rotary.axes",
                        found: "a grid".to_owned(),
                        expected: "the sequence, for tokens".to_owned(),
                    });
                }
                divisor("attention.rotary.axes", 4, "head's width", channels)
            }
        }
    }

    fn check_input(&self) -> Result<(), ModelErrorKind> {
        let by_id = matches!(self.pooling, Pooling::FirstId(_) | Pooling::LargestId);
        match self.input {
            EncoderInput::Tokens { vocabulary, max_tokens, types, .. } => {
                positive("input.vocabulary", vocabulary)?;
                up_to("input.types", types, MAX_SIZE)?;
                positive("input.max_tokens", max_tokens)
            }
            EncoderInput::Patches { .. } if by_id => Err(ModelErrorKind::Spec {
                key: "pooling",
                found: format!("{:?}", self.pooling),
                expected: "a rule that needs no token ids, for patches".to_owned(),
            }),
            EncoderInput::Patches { image_size, patch_size, .. } => {
                positive("input.patch_size", patch_size)?;
                positive("input.image_size", image_size / patch_size)
            }
        }
    }
}

/// Sizes far beyond any model are a damaged file, not a reason to ask for terabytes.
pub(crate) const MAX_SIZE: usize = 1 << 24;

/// Ten times the deepest.
pub(crate) const MAX_LAYERS: usize = 1024;

fn up_to(key: &'static str, value: usize, most: usize) -> Result<(), ModelErrorKind> {
    if value <= most {
        return Ok(());
    }
    let expected = format!("at most {most}");
    Err(ModelErrorKind::Spec { key, found: value.to_string(), expected })
}

/// An ε that is added to a variance.
fn small(key: &'static str, value: f32) -> Result<(), ModelErrorKind> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    let expected = "0 to 1".to_owned();
    Err(ModelErrorKind::Spec { key, found: value.to_string(), expected })
}

/// A number above zero whose powers are numbers.
fn base(key: &'static str, value: f32) -> Result<(), ModelErrorKind> {
    if value.is_normal() && value > 0.0 {
        return Ok(());
    }
    let expected = "a finite number above 0".to_owned();
    Err(ModelErrorKind::Spec { key, found: value.to_string(), expected })
}

fn positive(key: &'static str, value: usize) -> Result<(), ModelErrorKind> {
    if (1..=MAX_SIZE).contains(&value) {
        return Ok(());
    }
    let expected = format!("1 to {MAX_SIZE}");
    Err(ModelErrorKind::Spec { key, found: value.to_string(), expected })
}

fn divisor(
    key: &'static str,
    found: usize,
    what: &str,
    whole: usize,
) -> Result<(), ModelErrorKind> {
    positive(key, found)?;
    if whole.is_multiple_of(found) {
        return Ok(());
    }
    let expected = format!("a divisor of the {what} {whole}");
    Err(ModelErrorKind::Spec { key, found: found.to_string(), expected })
}
