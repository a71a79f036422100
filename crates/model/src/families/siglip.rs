//! SigLIP, and SigLIP 2 of fixed resolution, in transformers' layout.
//!
//! In:  `config.json` with `model_type` `siglip`, whose absent keys have the values of transformers'
//!      classes; `preprocessor_config.json`, `tokenizer.json`. Out: a [`Plan`].
//! Not here: SigLIP 2 of native aspect ratio (NaFlex), whose pictures are lists of patches.
//! Source: Zhai et al. 2023; Tschannen et al. 2025. Parity: `testdata/parity/siglip`.
//!
//! A text is filled up to the number of positions and read without a mask; its vector is that of the
//! last position, whatever token is there.

use std::{collections::BTreeMap, path::Path};

use conjoin_engine::Activation;
use conjoin_input::{ImageContract, InputContract, TextContract, Tokenizer};
use serde_json::{Value, json};

use super::{
    Plan, Reading, clip,
    config::{Config, Log},
    model_card, preprocessor,
    text::{Names, activation},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, HeadLayer, ImageSpec, Matryoshka, MlpRule,
    ModelErrorKind, NormPlacement, NormRule, OutputNorm, Pooling, Source, Weights,
    checkpoint::{read_json, read_large_json},
};

pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    let config = &Config::of_transformers(&folder.join("config.json"), "config.json", log)?;
    if config.text("model_type")? != "siglip" {
        let supported = "\"siglip\", also for SigLIP 2 of fixed resolution (\"siglip2\" is NaFlex, whose \
                         pictures are lists of patches of any shape)";
        return Err(config.unsupported("model_type", supported));
    }
    log.family("SigLIP in transformers' layout");
    let text_config = config.section_or_empty("text_config")?;
    let vision_config = config.section_or_empty("vision_config")?;
    let text = text_spec(&text_config)?;
    let image = vision_spec(&vision_config)?;
    let mut names = Names::default();
    text_names(&mut names, text.layers);
    vision_names(&mut names, &image);
    let weights = Weights::open_folder(folder)?;
    let max_tokens = text.max_tokens();
    let contract = InputContract {
        text: Some(TextContract { max_tokens, padded: true, bare: None, prompts: BTreeMap::new() }),
        image: Some(image_contract(folder, &image, log)?),
    };
    text_config.note(
        "padding",
        "every text to exactly this many tokens",
        "max_position_embeddings",
    );
    text_config.note("text pooling", "the last position, padding or not", "model_type");
    vision_config.note("image pooling", "a learned query over all patches", "vision_use_head");
    Ok(Plan {
        text: Some(text),
        image: Some(ImageSpec::Transformer(image)),
        contract,
        tokenizer: Some(tokenizer(folder, log)?),
        names: names.0,
        unused: ["logit_scale", "logit_bias", POSITION_IDS[0], POSITION_IDS[1]]
            .map(str::to_owned)
            .to_vec(),
        log_scale: weights.scalar("logit_scale")?,
        score_bias: weights.scalar("logit_bias")?,
        matryoshka: Matryoshka::default(),
        card: model_card::card(folder)?,
        weights,
        reading: Reading::default(),
    })
}

/// Buffers that older versions of transformers stored.
const POSITION_IDS: [&str; 2] =
    ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];

/// What both towers have in common.
fn encoder(config: &Config, input: EncoderInput) -> Result<EncoderSpec, ModelErrorKind> {
    Ok(EncoderSpec {
        input,
        input_norm: false,
        width: config.usize_or("hidden_size", 768)?,
        layers: config.usize_or("num_hidden_layers", 12)?,
        attention: AttentionRule::plain(config.usize_or("num_attention_heads", 12)?),
        mlp: MlpRule::plain(
            config.usize_or("intermediate_size", 3072)?,
            activation(config, "hidden_act", "gelu_pytorch_tanh")?,
        ),
        norm: NormRule::plain(NormPlacement::Pre, config.f32_or("layer_norm_eps", 1e-6)?),
        layer_scale: false,
        output_norm: OutputNorm::Tokens,
        pooling: Pooling::Last,
        head: Vec::new(),
        normalize: true,
    })
}

fn text_spec(config: &Config) -> Result<EncoderSpec, ModelErrorKind> {
    let input = EncoderInput::Tokens {
        vocabulary: config.usize_or("vocab_size", 32_000)?,
        max_tokens: config.usize_or("max_position_embeddings", 64)?,
        positions: true,
        types: 0,
    };
    let mut spec = encoder(config, input)?;
    let width = config.usize_or("projection_size", spec.width)?;
    spec.head.push(HeadLayer::Dense { width, bias: true, activation: Activation::Identity });
    Ok(spec)
}

fn vision_spec(config: &Config) -> Result<EncoderSpec, ModelErrorKind> {
    config.only("num_channels", &[3.into()])?;
    config.only("vision_use_head", &[true.into()])?;
    let input = EncoderInput::Patches {
        image_size: config.usize_or("image_size", 224)?,
        patch_size: config.usize_or("patch_size", 16)?,
        bias: true,
        class_token: false,
    };
    let mut spec = encoder(config, input)?;
    let (heads, mlp_width) = (spec.attention.heads, spec.mlp.width);
    spec.pooling = Pooling::Probe { heads, mlp_width, activation: spec.mlp.activation };
    Ok(spec)
}

fn image_contract(
    folder: &Path,
    spec: &EncoderSpec,
    log: &Log,
) -> Result<ImageContract, ModelErrorKind> {
    let EncoderInput::Patches { image_size, .. } = spec.input else {
        unreachable!("made of patches above")
    };
    preprocessor::read(folder, &ImageContract::inception(image_size), log)
}

/// Reads `tokenizer.json`. SigLIP 2 was trained on lowercased text, which its published files leave to
/// the caller.
fn tokenizer(folder: &Path, log: &Log) -> Result<Tokenizer, ModelErrorKind> {
    let path = folder.join("tokenizer.json");
    let sentencepiece = ["spiece.model", "tokenizer.model"].map(|name| folder.join(name));
    if let Some(model) = sentencepiece.into_iter().find(|file| !path.exists() && file.exists()) {
        return Err(ModelErrorKind::SentencePiece(model));
    }
    let mut file = Value::Object(read_large_json(&path)?);
    let is_bpe = file["model"]["type"] == "BPE";
    if is_bpe && !lowercases(&file["normalizer"]) {
        let theirs = file["normalizer"].take();
        let mut steps = vec![json!({"type": "Lowercase"})];
        steps.extend(Some(theirs).filter(|theirs| !theirs.is_null()));
        file["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
        let because = "tokenizer.json: model.type is BPE (SigLIP 2) and its normalizer keeps case";
        log.note("lowercasing", "added, as in training", because);
    }
    pad(&mut file, folder, if is_bpe { "<pad>" } else { "</s>" }, log)?;
    Ok(Tokenizer::from_json(file.to_string().as_bytes())?)
}

/// Puts the pad token of `tokenizer_config.json` into the tokenizer; `default` is that of the class in
/// transformers.
fn pad(file: &mut Value, folder: &Path, default: &str, log: &Log) -> Result<(), ModelErrorKind> {
    let name = "tokenizer_config.json";
    let path = folder.join(name);
    let config: Value = if path.exists() { read_json(&path)? } else { Value::Null };
    let stated = &config["pad_token"];
    let token = stated.as_str().or_else(|| stated["content"].as_str());
    let because = format!("{name}: pad_token is {stated}");
    let token = token.unwrap_or(default);
    let Some(id) = id_of(file, token) else {
        return Err(ModelErrorKind::Unsupported {
            file: name.to_owned(),
            key: "pad_token".to_owned(),
            found: format!("`{token}`"),
            supported: "a token of tokenizer.json".to_owned(),
        });
    };
    log.note("pad token", format!("`{token}`, id {id}"), because);
    file["padding"] = json!({
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": id, "pad_type_id": 0, "pad_token": token,
    });
    Ok(())
}

/// The id of a token in a `tokenizer.json` of BPE or unigram pieces.
fn id_of(file: &Value, token: &str) -> Option<u64> {
    let added = file["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter(|added| added["content"] == token).find_map(|t| t["id"].as_u64());
    let vocabulary = &file["model"]["vocab"];
    let piece = || vocabulary.as_array()?.iter().position(|piece| piece[0] == token);
    added.or_else(|| vocabulary[token].as_u64()).or_else(|| piece().map(|id| id as u64))
}

fn lowercases(normalizer: &Value) -> bool {
    let steps = normalizer["normalizers"].as_array();
    normalizer["type"] == "Lowercase" || steps.is_some_and(|steps| steps.iter().any(lowercases))
}

fn text_names(names: &mut Names, layers: usize) {
    names.weight("text.tokens", "text_model.embeddings.token_embedding");
    names.weight("text.positions", "text_model.embeddings.position_embedding");
    names.affine("text.output_norm", "text_model.final_layer_norm");
    names.affine("text.head.0", "text_model.head");
    clip::blocks(names, "text.", "text_model.", layers);
}

fn vision_names(names: &mut Names, spec: &EncoderSpec) {
    let patch = "vision_model.embeddings.patch_embedding";
    names.put("image.patch.weight", Source::PatchKernel(format!("{patch}.weight")));
    names.same("image.patch.bias", &format!("{patch}.bias"));
    names.weight("image.positions", "vision_model.embeddings.position_embedding");
    names.affine("image.output_norm", "vision_model.post_layernorm");
    clip::blocks(names, "image.", "vision_model.", spec.layers);
    probe_names(names, spec.width);
}

/// Queries, keys and values of the learned query lie in one tensor.
fn probe_names(names: &mut Names, d: usize) {
    let attention = "vision_model.head.attention";
    names.same("image.probe.query", "vision_model.head.probe");
    for part in ["weight", "bias"] {
        let packed = format!("{attention}.in_proj_{part}");
        names.put(&format!("image.probe.q.{part}"), Source::Span(packed.clone(), 0..d));
        names.put(&format!("image.probe.kv.{part}"), Source::Span(packed, d..3 * d));
    }
    names.affine("image.probe.out", &format!("{attention}.out_proj"));
    names.affine("image.probe.mlp.norm", "vision_model.head.layernorm");
    names.affine("image.probe.mlp.up", "vision_model.head.mlp.fc1");
    names.affine("image.probe.mlp.down", "vision_model.head.mlp.fc2");
}
