//! open_clip's folders: built-in towers, timm's and transformers' behind its projections.
//!
//! In:  `open_clip_config.json` (`model_cfg`, `preprocess_cfg`), `open_clip_model.safetensors`, and
//!      `tokenizer.json` where the configuration names one of transformers'. Out: a [`Plan`].
//! Not here: CoCa, ResNet towers, the repair of broken text (`ftfy`) that open_clip does first.
//! Source: open_clip 3. Parity: `testdata/parity/open_clip`.

use std::{collections::BTreeMap, path::Path};

use conjoin_engine::{Activation, Mask};
use conjoin_input::{ImageContract, InputContract, TextContract};
use serde_json::Value;

use super::{
    Options, Plan, Reading,
    config::{Config, Log},
    model_card, open_clip_tokenizer as tokenizer,
    preprocessor::{self, channels},
    text::{self, Names},
    timm,
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, HeadLayer, ImageSpec, Matryoshka, MlpRule,
    ModelErrorKind, NormRule, OutputNorm, Pooling, Source, Weights,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

pub(crate) const CONFIG: &str = "open_clip_config.json";
const WEIGHTS: [&str; 3] =
    ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"];
const PICKLE: &str = "open_clip_pytorch_model.bin";

pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    let config = Config::open(&folder.join(CONFIG), CONFIG, log)?;
    let model = needed(&config, "model_cfg")?;
    let shown = config.section("preprocess_cfg")?;
    log.family("open_clip");
    model.only("multimodal_cfg", &[])?;
    model.ignore(&["custom_text", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"]);
    let weights = weights(folder)?;
    let quick = model.flag_or("quick_gelu", false)?;
    model.note("activation", if quick { "quick GELU" } else { "GELU" }, "quick_gelu");
    let shared = Shared { weights: &weights, width: model.usize("embed_dim")?, quick };
    let (text_config, vision_config) = (needed(&model, "text_cfg")?, needed(&model, "vision_cfg")?);
    let (image, image_names) = vision(&shared, &vision_config)?;
    let image_contract = contract(shown.as_ref(), &vision_config, log)?;
    let (text, text_names) = text(&shared, &text_config)?;
    let padded = text_config.flag_or("no_causal_mask", false)? || text.pooling == Pooling::Last;
    let max_tokens = text.max_tokens().min(text_config.usize_or("context_length", 77)?);
    let text_contract = TextContract { max_tokens, padded, bare: None, prompts: BTreeMap::new() };
    let words = if padded { "read, up to the context length" } else { "none: nothing sees it" };
    text_config.note("padding", words, "no_causal_mask");
    let tokenizer = tokenizer::open(folder, &text_config)?;
    let under = |prefix: &'static str, names: Names| {
        names.0.into_iter().map(move |(ours, source)| (format!("{prefix}{ours}"), source))
    };
    let names = under(TEXT_PREFIX, text_names).chain(under(IMAGE_PREFIX, image_names));
    let scalar = |name| if weights.has(name) { weights.scalar(name) } else { Ok(0.0) };
    Ok(Plan {
        text: Some(text),
        image: Some(ImageSpec::Transformer(image)),
        contract: InputContract { text: Some(text_contract), image: Some(image_contract) },
        tokenizer: Some(tokenizer),
        names: names.collect(),
        unused: UNUSED.map(str::to_owned).to_vec(),
        log_scale: scalar("logit_scale")?,
        score_bias: scalar("logit_bias")?,
        matryoshka: Matryoshka::default(),
        card: model_card::card(folder)?,
        weights,
        reading: Reading::default(),
    })
}

/// Numbers that are read on their own, and a buffer.
const UNUSED: [&str; 3] = ["logit_scale", "logit_bias", "text.transformer.embeddings.position_ids"];

fn needed(config: &Config, key: &str) -> Result<Config, ModelErrorKind> {
    config.section(key)?.ok_or_else(|| config.unsupported(key, "an object"))
}

fn weights(folder: &Path) -> Result<Weights, ModelErrorKind> {
    let mut files = WEIGHTS.iter().map(|name| folder.join(name));
    match files.find(|file| file.exists()) {
        Some(file) => Weights::open(&file),
        None if folder.join(PICKLE).exists() => Err(ModelErrorKind::Pickle(folder.join(PICKLE))),
        None => Weights::open(&folder.join(WEIGHTS[0])),
    }
}

/// What both towers are told.
struct Shared<'a> {
    weights: &'a Weights,
    /// Width of the embeddings.
    width: usize,
    quick: bool,
}

type Tower = (EncoderSpec, Names);

fn vision(shared: &Shared<'_>, config: &Config) -> Result<Tower, ModelErrorKind> {
    config.ignore(&["patch_dropout", "output_tokens", "timm_model_pretrained"]);
    config.ignore(&["timm_drop", "timm_drop_path"]);
    if config.has("timm_model_name") {
        return timm_vision(shared, config);
    }
    only_plain_blocks(config)?;
    config.only("attentional_pool", &[false.into()])?;
    config.ignore(&["attn_pooler_queries", "attn_pooler_heads", "pos_embed_type"]);
    config.ignore(&["timm_pool", "timm_proj", "timm_proj_bias"]);
    let width = config.usize_or("width", 768)?;
    let input = EncoderInput::Patches {
        image_size: image_size(config)?,
        patch_size: config.usize_or("patch_size", 16)?,
        bias: false,
        class_token: true,
    };
    let heads = width / config.usize_or("head_width", 64)?.max(1);
    let layers = config.usize_or("layers", 12)?;
    let (pooling, words) = match config.text_or("pool_type", "tok")? {
        "tok" => (Pooling::First, "the class token"),
        "avg" => (Pooling::Patches, "the mean of all patches"),
        _ => return Err(config.unsupported("pool_type", "tok or avg")),
    };
    config.note("image pooling", words, "pool_type");
    let norm_behind = config.flag_or("final_ln_after_pool", false)?;
    let spec = EncoderSpec {
        input_norm: !config.flag_or("no_ln_pre", false)?,
        output_norm: if norm_behind { OutputNorm::Pooled } else { OutputNorm::Tokens },
        pooling,
        ..built_in(config, shared.quick, EncoderSpec::pre_norm(input, width, layers, heads))?
    };
    let mut names = Names::default();
    names.put("patch.weight", Source::PatchKernel("visual.conv1.weight".to_owned()));
    names.same("class", "visual.class_embedding");
    names.same("positions.weight", "visual.positional_embedding");
    if spec.input_norm {
        names.affine("input_norm", "visual.ln_pre");
    }
    names.affine("output_norm", "visual.ln_post");
    blocks(&mut names, "visual.transformer", &spec);
    names.put("head.0.weight", Source::Transposed("visual.proj".to_owned()));
    Ok((spec.projected(shared.width), names))
}

fn image_size(config: &Config) -> Result<usize, ModelErrorKind> {
    config.usize_or("image_size", 224)
}

/// timm's tower, and open_clip's projection behind it.
fn timm_vision(shared: &Shared<'_>, config: &Config) -> Result<Tower, ModelErrorKind> {
    let rule = timm::Rule::of_name(config, "timm_model_name")?;
    // An empty name leaves timm's own pooling.
    let rule = match config.text_or("timm_pool", "avg")? {
        "" => rule,
        _ => rule.pooled(config, "timm_pool")?,
    };
    let trunk = timm::Trunk::read(shared.weights, "visual.trunk.", rule, image_size(config)?)?;
    let timm::Trunk { spec, mut names } = trunk;
    let bias = config.flag_or("timm_proj_bias", false)?;
    config.note("image projection", projection_name(config)?, "timm_proj");
    let dense = |width, bias, activation| HeadLayer::Dense { width, bias, activation };
    let mut spec = spec;
    match projection_name(config)? {
        "none" => {}
        "the trunk's classifier" => {
            spec.head.push(dense(shared.width, true, Activation::Identity));
            names.affine("head.0", "visual.trunk.head");
        }
        "linear" => {
            spec.head.push(dense(shared.width, bias, Activation::Identity));
            put_dense(&mut names, "head.0", "visual.head.proj", bias);
        }
        _ => {
            spec.head.push(dense(2 * shared.width, true, Activation::Gelu));
            spec.head.push(dense(shared.width, bias, Activation::Identity));
            put_dense(&mut names, "head.0", "visual.head.mlp.fc1", true);
            put_dense(&mut names, "head.1", "visual.head.mlp.fc2", bias);
        }
    }
    Ok((spec, names))
}

fn projection_name(config: &Config) -> Result<&str, ModelErrorKind> {
    let key = "timm_proj";
    let given = match config.get(key) {
        // Absent and `null` differ: the default of the class is "linear".
        None if config.is_null(key) => "",
        None => "linear",
        Some(value) => value.as_str().unwrap_or("?"),
    };
    match given {
        "" => Ok("the trunk's classifier"),
        "linear" | "mlp" | "none" => Ok(given),
        _ => Err(config.unsupported(key, "null, linear, mlp or none")),
    }
}

fn put_dense(names: &mut Names, ours: &str, theirs: &str, bias: bool) {
    names.weight(ours, theirs);
    if bias {
        names.same(&format!("{ours}.bias"), &format!("{theirs}.bias"));
    }
}

/// Refuses the switches of open_clip's custom attention block.
fn only_plain_blocks(config: &Config) -> Result<(), ModelErrorKind> {
    config.only("block_type", &["default".into()])?;
    let switches = [
        "qk_norm",
        "scaled_cosine_attn",
        "scale_heads",
        "scale_attn_inner",
        "scale_attn",
        "scale_fc",
    ];
    switches.iter().try_for_each(|key| config.only(key, &[false.into()]))
}

/// MLP, activation, ε and layer scale of a built-in tower.
fn built_in(
    config: &Config,
    quick: bool,
    spec: EncoderSpec,
) -> Result<EncoderSpec, ModelErrorKind> {
    let ratio = config.get("mlp_ratio").map_or(Some(4.0), Value::as_f64);
    let ratio = ratio.ok_or_else(|| config.unsupported("mlp_ratio", "a number"))?;
    let tanh = match config.section("act_kwargs")? {
        None => false,
        Some(arguments) => {
            arguments.only("approximate", &["tanh".into(), "none".into()])?;
            arguments.text_or("approximate", "none")? == "tanh"
        }
    };
    let activation = match (quick, tanh) {
        (false, false) => Activation::Gelu,
        (false, true) => Activation::GeluTanh,
        (true, false) => Activation::QuickGelu,
        (true, true) => return Err(config.unsupported("act_kwargs", "none with quick_gelu")),
    };
    let eps = match config.section("norm_kwargs")? {
        None => 1e-5,
        Some(arguments) => {
            let eps = arguments.f32_or("eps", 1e-5)?;
            arguments.refuse_unread()?;
            eps
        }
    };
    let width = (spec.width as f64 * ratio) as usize;
    Ok(EncoderSpec {
        mlp: MlpRule { width, activation, ..spec.mlp },
        norm: NormRule { eps, ..spec.norm },
        layer_scale: config.has("ls_init_value"),
        ..spec
    })
}

fn text(shared: &Shared<'_>, config: &Config) -> Result<Tower, ModelErrorKind> {
    config.ignore(&["output_tokens", "pad_id", "hf_model_pretrained", "ls_init_value"]);
    if config.has("hf_model_name") {
        return hf_text(shared, config);
    }
    config.ignore(&["hf_proj_type", "hf_pooler_type"]);
    only_plain_blocks(config)?;
    config.only("embed_cls", &[false.into()])?;
    let input = EncoderInput::Tokens {
        vocabulary: config.usize_or("vocab_size", 49_408)?,
        max_tokens: config.usize_or("context_length", 77)?,
        positions: true,
        types: 0,
    };
    let (width, layers) = (config.usize_or("width", 512)?, config.usize_or("layers", 12)?);
    let spec = EncoderSpec::pre_norm(input, width, layers, config.usize_or("heads", 8)?);
    let both_sides = config.flag_or("no_causal_mask", false)?;
    let mask = if both_sides { Mask::Bidirectional } else { Mask::Causal };
    let spec = EncoderSpec {
        attention: AttentionRule { mask, ..spec.attention },
        pooling: text_pooling(config)?,
        ..built_in(config, shared.quick, spec)?
    };
    // Without `custom_text` the tower's tensors stand at the top.
    let custom = shared.weights.has("text.positional_embedding");
    let prefix = if custom { "text." } else { "" };
    let mut names = Names::default();
    names.weight("tokens", &format!("{prefix}token_embedding"));
    names.same("positions.weight", &format!("{prefix}positional_embedding"));
    names.affine("output_norm", &format!("{prefix}ln_final"));
    blocks(&mut names, &format!("{prefix}transformer"), &spec);
    text_projection(shared, config, spec, (prefix, names))
}

fn text_projection(
    shared: &Shared<'_>,
    config: &Config,
    mut spec: EncoderSpec,
    (prefix, mut names): (&str, Names),
) -> Result<Tower, ModelErrorKind> {
    config.only("proj_type", &["linear".into(), "none".into()])?;
    let theirs = format!("{prefix}text_projection");
    let bias = config.flag_or("proj_bias", false)?;
    if config.text_or("proj_type", "linear")? == "none" {
        return Ok((spec, names));
    }
    if bias {
        names.affine("head.0", &theirs);
    } else {
        names.put("head.0.weight", Source::Transposed(theirs));
    }
    let (width, activation) = (shared.width, Activation::Identity);
    spec.head.push(HeadLayer::Dense { width, bias, activation });
    Ok((spec, names))
}

fn text_pooling(config: &Config) -> Result<Pooling, ModelErrorKind> {
    let key = "pool_type";
    let (pooling, words) = match config.text_or(key, "argmax")? {
        "argmax" => (Pooling::LargestId, "the largest id"),
        "first" => (Pooling::First, "the first token"),
        "last" => (Pooling::Last, "the last place, padding or not"),
        "eos" => {
            let end = config.usize_or("eos_id", 2)?;
            let end = u32::try_from(end).map_err(|_| config.unsupported("eos_id", "a token"))?;
            (Pooling::FirstId(end), "the first end of text")
        }
        _ => return Err(config.unsupported(key, "argmax, first, last or eos")),
    };
    config.ignore(&["eos_id"]);
    config.note("text pooling", words, key);
    Ok(pooling)
}

/// The blocks of OpenAI's naming.
fn blocks(names: &mut Names, prefix: &str, spec: &EncoderSpec) {
    for i in 0..spec.layers {
        let ours = |part: &str| format!("layers.{i}.{part}");
        let theirs = |part: &str| format!("{prefix}.resblocks.{i}.{part}");
        names.same(&ours("attention.qkv.weight"), &theirs("attn.in_proj_weight"));
        names.same(&ours("attention.qkv.bias"), &theirs("attn.in_proj_bias"));
        names.affine(&ours("attention.out"), &theirs("attn.out_proj"));
        names.affine(&ours("attention.norm"), &theirs("ln_1"));
        names.affine(&ours("mlp.up"), &theirs("mlp.c_fc"));
        names.affine(&ours("mlp.down"), &theirs("mlp.c_proj"));
        names.affine(&ours("mlp.norm"), &theirs("ln_2"));
        if spec.layer_scale {
            names.same(&ours("attention.scale"), &theirs("ls_1.gamma"));
            names.same(&ours("mlp.scale"), &theirs("ls_2.gamma"));
        }
    }
}

/// The configuration that `hf_model_name` stands for: open_clip fetches it by name. The name tells the
/// heads, the tensors tell the sizes.
fn hf_config(weights: &Weights, config: &Config) -> Result<Config, ModelErrorKind> {
    let known = [("xlm-roberta-base", 12), ("xlm-roberta-large", 16)];
    let key = "hf_model_name";
    let name = config.text(key)?;
    let short = name.rsplit('/').next().unwrap_or(name);
    let Some((_, heads)) = known.iter().find(|known| known.0 == short) else {
        return Err(config.unsupported(key, "xlm-roberta-base or xlm-roberta-large"));
    };
    config.note("text heads", heads, key);
    let size = |tensor: &str, axis: usize| {
        let shape = weights.shape(&format!("text.transformer.{tensor}.weight"))?;
        Ok::<_, ModelErrorKind>(shape.get(axis).copied().unwrap_or(0))
    };
    let (words, layer) = ("embeddings.word_embeddings", "encoder.layer");
    let dense = |i: usize| format!("text.transformer.{layer}.{i}.output.dense.weight");
    let layers = (0..).take_while(|i| weights.has(&dense(*i))).count();
    let keys = [
        ("model_type", Value::from("xlm-roberta")),
        ("vocab_size", size(words, 0)?.into()),
        ("hidden_size", size(words, 1)?.into()),
        ("num_hidden_layers", layers.into()),
        ("num_attention_heads", (*heads).into()),
        ("intermediate_size", size(&format!("{layer}.0.intermediate.dense"), 0)?.into()),
        ("max_position_embeddings", size("embeddings.position_embeddings", 0)?.into()),
        ("type_vocab_size", size("embeddings.token_type_embeddings", 0)?.into()),
        ("layer_norm_eps", 1e-5.into()),
        ("pad_token_id", 1.into()),
        ("hidden_act", "gelu".into()),
    ];
    let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Config::new(&format!("{name}/config.json"), keys, config.log()))
}

/// One of transformers' text encoders with a projection.
fn hf_text(shared: &Shared<'_>, config: &Config) -> Result<Tower, ModelErrorKind> {
    let body =
        text::body(&hf_config(shared.weights, config)?, shared.weights, &Options::default())?
            .under("text.transformer.");
    let mut spec = body.spec;
    let mut names = Names(body.names);
    spec.pooling = match config.text_or("hf_pooler_type", "mean_pooler")? {
        "mean_pooler" => Pooling::Mean,
        "cls_last_hidden_state_pooler" => Pooling::First,
        _ => {
            let known = "mean_pooler or cls_last_hidden_state_pooler";
            return Err(config.unsupported("hf_pooler_type", known));
        }
    };
    let dense = |width, activation| HeadLayer::Dense { width, bias: false, activation };
    match config.text_or("hf_proj_type", "mlp")? {
        "linear" => {
            spec.head.push(dense(shared.width, Activation::Identity));
            names.weight("head.0", "text.proj");
        }
        "mlp" => {
            spec.head.push(dense(usize::midpoint(spec.width, shared.width), Activation::Gelu));
            spec.head.push(dense(shared.width, Activation::Identity));
            names.weight("head.0", "text.proj.0");
            names.weight("head.1", "text.proj.2");
        }
        _ => return Err(config.unsupported("hf_proj_type", "linear or mlp")),
    }
    Ok((spec, names))
}

/// `open_clip.image_transform` without training.
fn contract(
    shown: Option<&Config>,
    vision: &Config,
    log: &Log,
) -> Result<ImageContract, ModelErrorKind> {
    let size = image_size(vision)?;
    let standard = ImageContract::clip(size);
    let Some(config) = shown else {
        log.note("pictures", "as OpenAI's CLIP", "preprocess_cfg is absent");
        return Ok(standard);
    };
    // The tower's size rules.
    config.ignore(&["size"]);
    config.only("mode", &["RGB".into()])?;
    let (resize, interpolation) = preprocessor::open_clip_rules(config)?;
    config.note("pictures", format!("{resize:?} to {size}"), "resize_mode");
    Ok(ImageContract {
        resize,
        interpolation,
        mean: channels(config, "mean", standard.mean)?,
        std: channels(config, "std", standard.std)?,
        ..standard
    })
}
