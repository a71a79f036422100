//! CLIP's towers in transformers' layout, together or alone.
//!
//! In:  `config.json` with `model_type` `clip`, `clip_text_model` or `clip_vision_model`; `tokenizer.json`,
//!      the image processor's file, `model.safetensors`. Out: a [`Plan`].
//! Source: Radford et al. 2021. Parity: `testdata/parity/clip`.

use std::{collections::BTreeMap, path::Path};

use conjoin_engine::Mask;
use conjoin_input::{ImageContract, InputContract, TextContract, Tokenizer};
use serde_json::Value;

use super::{
    Plan, Reading,
    config::{Config, Log},
    model_card, preprocessor,
    text::{Names, activation},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, ImageSpec, Matryoshka, MlpRule, ModelErrorKind,
    NormRule, Pooling, Source, Weights,
    checkpoint::read_limited,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

/// Buffers, and numbers that are read on their own.
const UNUSED: [&str; 3] =
    ["logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];

pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    let config = Config::of_transformers(&folder.join("config.json"), "config.json", log)?;
    let weights = Weights::open_folder(folder)?;
    config.ignore(&["logit_scale_init_value"]);
    let (text, vision) = match config.text("model_type")? {
        "clip" => {
            log.family("CLIP of transformers");
            (Some(section(&config, "text_config")?), Some(section(&config, "vision_config")?))
        }
        "clip_text_model" => {
            log.family("the text tower of CLIP of transformers");
            (Some(config.clone()), None)
        }
        "clip_vision_model" => {
            log.family("the vision tower of CLIP of transformers");
            (None, Some(config.clone()))
        }
        _ => return Err(config.unsupported("model_type", "CLIP's")),
    };
    let mut found = Found { config, weights, names: Vec::new() };
    let text = text.map(|text| found.text(folder, &text)).transpose()?;
    let vision = vision.map(|vision| found.vision(folder, &vision)).transpose()?;
    found.plan(folder, text, vision)
}

/// The part of `config.json` about one tower. `…_dict` is the older name and rules where it is given.
fn section(config: &Config, key: &str) -> Result<Config, ModelErrorKind> {
    let (older, newer) = (config.section(&format!("{key}_dict"))?, config.section(key)?);
    let section = older.or(newer);
    section.ok_or_else(|| config.unsupported(key, "an object"))
}

type TextSide = (EncoderSpec, TextContract, Tokenizer);
type ImageSide = (EncoderSpec, ImageContract);

/// What is gathered while the towers are read.
struct Found {
    config: Config,
    weights: Weights,
    names: Vec<(String, Source)>,
}

impl Found {
    fn text(&mut self, folder: &Path, config: &Config) -> Result<TextSide, ModelErrorKind> {
        let mut spec = text_spec(config)?;
        let prefix = self.prefix("text_model.", "embeddings.token_embedding.weight");
        let mut names = text_names(spec.layers, prefix);
        spec = self.projected(spec, config, "text_projection", &mut names)?;
        self.put(TEXT_PREFIX, names);
        let json = read_limited(&folder.join("tokenizer.json"))?;
        let max_tokens = max_tokens(folder, spec.max_tokens(), config.log())?;
        let contract =
            TextContract { max_tokens, padded: false, bare: None, prompts: BTreeMap::new() };
        Ok((spec, contract, Tokenizer::from_json(&json)?))
    }

    fn vision(&mut self, folder: &Path, config: &Config) -> Result<ImageSide, ModelErrorKind> {
        let (mut spec, size) = vision_spec(config)?;
        let prefix = self.prefix("vision_model.", "embeddings.class_embedding");
        let mut names = vision_names(spec.layers, prefix);
        spec = self.projected(spec, config, "visual_projection", &mut names)?;
        self.put(IMAGE_PREFIX, names);
        let contract = preprocessor::read(folder, &ImageContract::clip(size), config.log())?;
        Ok((spec, contract))
    }

    /// A tower that was saved alone may lack its prefix.
    fn prefix(&self, prefix: &'static str, name: &str) -> &'static str {
        if self.weights.has(name) { "" } else { prefix }
    }

    /// Adds the projection where the weights have one. Its width is told at the top for both towers,
    /// else by the tower that stands alone.
    fn projected(
        &self,
        spec: EncoderSpec,
        tower: &Config,
        tensor: &str,
        names: &mut Names,
    ) -> Result<EncoderSpec, ModelErrorKind> {
        tower.ignore(&["projection_dim"]);
        let width = self.config.usize_or("projection_dim", 512)?;
        if !self.weights.has(&format!("{tensor}.weight")) {
            tower.log().note("projection", "none", format!("there is no tensor `{tensor}.weight`"));
            return Ok(spec);
        }
        names.weight("head.0", tensor);
        self.config.note("projection", width, "projection_dim");
        Ok(spec.projected(width))
    }

    fn put(&mut self, prefix: &str, names: Names) {
        self.names.extend(names.0.into_iter().map(|(ours, s)| (format!("{prefix}{ours}"), s)));
    }

    fn plan(
        self,
        folder: &Path,
        text: Option<TextSide>,
        vision: Option<ImageSide>,
    ) -> Result<Plan, ModelErrorKind> {
        let has_scale = self.weights.has("logit_scale");
        let log_scale = if has_scale { self.weights.scalar("logit_scale")? } else { 0.0 };
        let (image, image_contract) = vision.unzip();
        let (text, text_contract, tokenizer) = match text {
            Some((spec, contract, tokenizer)) => (Some(spec), Some(contract), Some(tokenizer)),
            None => (None, None, None),
        };
        Ok(Plan {
            text,
            image: image.map(ImageSpec::Transformer),
            contract: InputContract { text: text_contract, image: image_contract },
            tokenizer,
            names: self.names,
            unused: UNUSED.map(str::to_owned).to_vec(),
            log_scale,
            score_bias: 0.0,
            matryoshka: Matryoshka::default(),
            card: model_card::card(folder)?,
            weights: self.weights,
            reading: Reading::default(),
        })
    }
}

/// The tower's limit, or the tokeniser's where that is lower.
pub(crate) fn max_tokens(folder: &Path, tower: usize, log: &Log) -> Result<usize, ModelErrorKind> {
    let name = "tokenizer_config.json";
    if !folder.join(name).exists() {
        return Ok(tower);
    }
    let config = Config::open(&folder.join(name), name, log)?;
    // The rest is for Python; the rules themselves are in `tokenizer.json`.
    config.ignore_all();
    // No limit is written as a number beyond all integers.
    let stated = config.get("model_max_length").and_then(Value::as_u64);
    let stated = stated.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    config.note("most tokens", stated.min(tower), "model_max_length");
    Ok(stated.min(tower))
}

fn text_spec(config: &Config) -> Result<EncoderSpec, ModelErrorKind> {
    let size = Size { width: 512, layers: 12, heads: 8, mlp_width: 2048 };
    let input = EncoderInput::Tokens {
        vocabulary: config.usize_or("vocab_size", 49_408)?,
        max_tokens: config.usize_or("max_position_embeddings", 77)?,
        positions: true,
        types: 0,
    };
    // Transformers' own mistake of old: with 2 it looks for the largest id.
    let end = config.usize_or("eos_token_id", 49_407)?;
    let pooling = match u32::try_from(end) {
        Ok(2) => Pooling::LargestId,
        Ok(end) => Pooling::FirstId(end),
        Err(_) => return Err(config.unsupported("eos_token_id", "a token")),
    };
    let words = if pooling == Pooling::LargestId { "the largest id" } else { "the first such id" };
    config.note("text pooling", words, "eos_token_id");
    let spec = tower(config, size, input)?;
    let attention = AttentionRule { mask: Mask::Causal, ..spec.attention };
    Ok(EncoderSpec { attention, pooling, ..spec })
}

/// The spec, and the side of its pictures.
fn vision_spec(config: &Config) -> Result<(EncoderSpec, usize), ModelErrorKind> {
    let size = Size { width: 768, layers: 12, heads: 12, mlp_width: 3072 };
    config.only("num_channels", &[3.into()])?;
    let image_size = config.usize_or("image_size", 224)?;
    let input = EncoderInput::Patches {
        image_size,
        patch_size: config.usize_or("patch_size", 32)?,
        bias: false,
        class_token: true,
    };
    Ok((EncoderSpec { input_norm: true, ..tower(config, size, input)? }, image_size))
}

/// The sizes that transformers assumes.
struct Size {
    width: usize,
    layers: usize,
    heads: usize,
    mlp_width: usize,
}

fn tower(
    config: &Config,
    default: Size,
    input: EncoderInput,
) -> Result<EncoderSpec, ModelErrorKind> {
    let spec = EncoderSpec::pre_norm(
        input,
        config.usize_or("hidden_size", default.width)?,
        config.usize_or("num_hidden_layers", default.layers)?,
        config.usize_or("num_attention_heads", default.heads)?,
    );
    let width = config.usize_or("intermediate_size", default.mlp_width)?;
    let activation = activation(config, "hidden_act", "quick_gelu")?;
    config.note("activation", format!("{activation:?}"), "hidden_act");
    let eps = config.f32_or("layer_norm_eps", 1e-5)?;
    Ok(EncoderSpec {
        mlp: MlpRule { width, activation, ..spec.mlp },
        norm: NormRule { eps, ..spec.norm },
        ..spec
    })
}

fn text_names(layers: usize, prefix: &str) -> Names {
    let mut names = Names::default();
    names.weight("tokens", &format!("{prefix}embeddings.token_embedding"));
    names.weight("positions", &format!("{prefix}embeddings.position_embedding"));
    names.affine("output_norm", &format!("{prefix}final_layer_norm"));
    blocks(&mut names, "", prefix, layers);
    names
}

fn vision_names(layers: usize, prefix: &str) -> Names {
    let mut names = Names::default();
    let patch = format!("{prefix}embeddings.patch_embedding.weight");
    names.put("patch.weight", Source::PatchKernel(patch));
    names.same("class", &format!("{prefix}embeddings.class_embedding"));
    names.weight("positions", &format!("{prefix}embeddings.position_embedding"));
    names.affine("input_norm", &format!("{prefix}pre_layrnorm"));
    names.affine("output_norm", &format!("{prefix}post_layernorm"));
    blocks(&mut names, "", prefix, layers);
    names
}

/// The blocks of CLIP and its kin (SigLIP) in transformers.
pub(crate) fn blocks(names: &mut Names, ours: &str, theirs: &str, layers: usize) {
    for i in 0..layers {
        let ours = |part: &str| format!("{ours}layers.{i}.{part}");
        let theirs = |part: &str| format!("{theirs}encoder.layers.{i}.{part}");
        let qkv = ["q", "k", "v"].map(|part| theirs(&format!("self_attn.{part}_proj")));
        names.affine_rows(&ours("attention.qkv"), &qkv.each_ref().map(String::as_str));
        names.affine(&ours("attention.out"), &theirs("self_attn.out_proj"));
        names.affine(&ours("attention.norm"), &theirs("layer_norm1"));
        names.affine(&ours("mlp.up"), &theirs("mlp.fc1"));
        names.affine(&ours("mlp.down"), &theirs("mlp.fc2"));
        names.affine(&ours("mlp.norm"), &theirs("layer_norm2"));
    }
}
