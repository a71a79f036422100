//! Jina CLIP v1 and v2 in the layout of their checkpoints on the hub.
//!
//! In:  `config.json` with `model_type` `jina_clip`, `preprocessor_config.json`, `tokenizer.json`, the
//!      header of `model.safetensors`. Out: a [`Plan`].
//! Source: Koukounas et al. 2024 (arXiv 2405.20204, 2412.08802). Parity: `testdata/parity/jina_clip`.
//!
//! The sizes of the text tower are in another repository's configuration; here the shapes of its
//! tensors tell them, and `hf_model_config_kwargs` overrides the rest.

use std::{collections::BTreeMap, path::Path};

use conjoin_engine::Activation;
use conjoin_input::{ImageContract, InputContract, TextContract, Tokenizer};
use serde_json::Value;

use super::{
    Options, Plan, Reading,
    config::{Config, Log},
    eva,
    jina_text::{self, Kind, Overrides, Parametrised},
    model_card, preprocessor,
    text::Body,
};
use crate::{
    EncoderInput, EncoderSpec, HeadLayer, ImageSpec, Matryoshka, ModelErrorKind, Pooling, Source,
    Weights, checkpoint::read_limited,
};

pub(crate) fn plan(folder: &Path, log: &Log, options: &Options) -> Result<Plan, ModelErrorKind> {
    let config = &Config::of_transformers(&folder.join("config.json"), "config.json", log)?;
    log.family("Jina CLIP");
    config.ignore(&["logit_scale_init_value", "use_text_flash_attn", "use_vision_xformers"]);
    config.only("text_config_dict", &[])?;
    config.only("vision_config_dict", &[])?;
    let weights = Weights::open_folder(folder)?;
    let mut text = text_tower(&needed(config, "text_config")?, &weights, options)?;
    let mut image = eva::body(&needed(config, "vision_config")?, &weights, "vision_model.")?;
    if config.flag("add_projections")? {
        let width = config.usize("projection_dim")?;
        project(&mut text.body, width, "text_projection.weight");
        project(&mut image, width, "visual_projection.weight");
    } else {
        config.ignore(&["projection_dim"]);
    }
    let max_tokens = max_tokens(folder, log)?.min(text.body.spec.max_tokens());
    if let EncoderInput::Tokens { max_tokens: most, .. } = &mut text.body.spec.input {
        *most = max_tokens;
    }
    let prompts = text.prompts;
    let contract = InputContract {
        text: Some(TextContract { max_tokens, padded: false, bare: None, prompts }),
        image: Some(image_contract(folder, &image.spec, log)?),
    };
    let mut unused = vec!["logit_scale".to_owned()];
    unused.extend(text.body.unused);
    let prefixed = |prefix: &'static str, names: Vec<(String, Source)>| {
        names.into_iter().map(move |(ours, source)| (format!("{prefix}{ours}"), source))
    };
    let names = prefixed("text.", text.body.names).chain(prefixed("image.", image.names)).collect();
    Ok(Plan {
        text: Some(text.body.spec),
        image: Some(ImageSpec::Transformer(image.spec)),
        contract,
        tokenizer: Some(Tokenizer::from_json(&read_limited(&folder.join("tokenizer.json"))?)?),
        names,
        unused,
        log_scale: weights.scalar("logit_scale")?,
        score_bias: 0.0,
        matryoshka: matryoshka(config)?,
        card: model_card::card(folder)?,
        weights,
        reading: Reading::default(),
    })
}

fn needed(config: &Config, key: &str) -> Result<Config, ModelErrorKind> {
    config.section(key)?.ok_or_else(|| config.unsupported(key, "an object"))
}

fn project(body: &mut Body, width: usize, theirs: &str) {
    let ours = format!("head.{}.weight", body.spec.head.len());
    body.names.push((ours, Source::Same(theirs.to_owned())));
    let activation = Activation::Identity;
    body.spec.head.push(HeadLayer::Dense { width, bias: false, activation });
}

/// The text tower, and the prompts of its tasks.
struct TextTowerPlan {
    body: Body,
    prompts: BTreeMap<String, String>,
}

fn text_tower(
    config: &Config,
    weights: &Weights,
    options: &Options,
) -> Result<TextTowerPlan, ModelErrorKind> {
    let kind = kind(config)?;
    let overrides = overrides(config, kind)?;
    let prefix = ["text_model.transformer.", "text_model.transformer.roberta."]
        .into_iter()
        .rev()
        .find(|prefix| weights.names().any(|n| n.starts_with(&format!("{prefix}embeddings."))))
        .unwrap_or("text_model.transformer.");
    let adapter = adapter(config, &overrides, options)?;
    let tensors = Parametrised::new(weights, prefix, adapter);
    let mut body = jina_text::body(kind, &tensors, &overrides)?;
    body.spec.pooling = pooling(config, kind)?;
    head(config, weights, &mut body)?;
    config.only("default_instruction_task", &[])?;
    let prompts = overrides.instructions.clone();
    Ok(TextTowerPlan { body, prompts })
}

/// Which text encoder the checkpoint holds.
fn kind(config: &Config) -> Result<Kind, ModelErrorKind> {
    let key = "hf_model_name_or_path";
    let name = config.text(key)?.to_lowercase();
    let named = |part: &str| name.contains(part);
    let (kind, words) = if named("jina-bert") {
        (Kind::JinaBert, "JinaBERT: ALiBi, gated MLP")
    } else if named("xlm-roberta") || named("jina-embeddings-v3") {
        (Kind::JinaXlmRoberta, "Jina-XLM-RoBERTa: rotary positions")
    } else {
        return Err(config.unsupported(key, "jina-bert, xlm-roberta or jina-embeddings-v3"));
    };
    config.note("text encoder", words, key);
    Ok(kind)
}

/// The text encoder's own configuration, as far as the checkpoint tells it.
fn overrides(config: &Config, kind: Kind) -> Result<Overrides, ModelErrorKind> {
    match config.section("hf_model_config_kwargs")? {
        Some(kwargs) => Overrides::read(&kwargs, kind),
        None => Ok(Overrides::of(kind)),
    }
}

/// The LoRA task whose factors are merged into the weights.
fn adapter(
    config: &Config,
    overrides: &Overrides,
    options: &Options,
) -> Result<Option<(usize, f32)>, ModelErrorKind> {
    let default = config.maybe_text("default_lora_task")?;
    let Some(task) = options.adapter.as_deref().or(default) else { return Ok(None) };
    let Some(idx) = overrides.tasks.iter().position(|known| known == task) else {
        return Err(ModelErrorKind::Unsupported {
            file: "config.json".to_owned(),
            key: "text_config.default_lora_task".to_owned(),
            found: format!("`{task}`"),
            supported: overrides.tasks.join(", "),
        });
    };
    config.note(
        "LoRA task",
        format!("`{task}`, where the weights hold factors"),
        "default_lora_task",
    );
    Ok(Some((idx, overrides.scaling)))
}

fn pooling(config: &Config, kind: Kind) -> Result<Pooling, ModelErrorKind> {
    let key = "pooler_type";
    let (pooling, words) = match (config.maybe_text(key)?, kind) {
        (Some("mean_pooler"), _) | (None, Kind::JinaXlmRoberta) => {
            (Pooling::Mean, "the mean of all tokens")
        }
        (Some("cls_pooler"), _) => (Pooling::First, "the first token"),
        (Some(_), _) | (None, Kind::JinaBert) => {
            return Err(config.unsupported(key, "mean_pooler or cls_pooler"));
        }
    };
    config.note("text pooling", words, key);
    Ok(pooling)
}

/// The layers between pooling and projection; none in the published checkpoints.
fn head(config: &Config, weights: &Weights, body: &mut Body) -> Result<(), ModelErrorKind> {
    let width = config.usize("embed_dim")?;
    let bias = config.flag_or("proj_bias", false)?;
    let dense = |width, activation| HeadLayer::Dense { width, bias, activation };
    let kind = config.maybe_text("proj_type")?;
    let layers = match kind {
        None if width == body.spec.width => return Ok(()),
        Some("mlp") if width == body.spec.width => {
            let hidden = weights.shape("text_model.proj.0.weight")?.first().copied().unwrap_or(0);
            vec![
                ("text_model.proj.0", dense(hidden, Activation::Gelu)),
                ("text_model.proj.2", dense(width, Activation::Identity)),
            ]
        }
        // The original takes one layer whenever the widths differ.
        None | Some("linear" | "mlp") => {
            vec![("text_model.proj", dense(width, Activation::Identity))]
        }
        Some(_) => return Err(config.unsupported("proj_type", "null, linear or mlp")),
    };
    for (i, (theirs, layer)) in layers.into_iter().enumerate() {
        for part in ["weight", "bias"].into_iter().take(1 + usize::from(bias)) {
            let source = Source::Same(format!("{theirs}.{part}"));
            body.names.push((format!("head.{i}.{part}"), source));
        }
        body.spec.head.push(layer);
    }
    Ok(())
}

fn matryoshka(config: &Config) -> Result<Matryoshka, ModelErrorKind> {
    let width = config.maybe_usize("truncate_dim")?;
    let key = "matryoshka_dimensions";
    let Some(value) = config.get(key) else { return Ok(Matryoshka { widths: Vec::new(), width }) };
    let count = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok());
    let widths = value.as_array().and_then(|list| list.iter().map(count).collect());
    let widths = widths.ok_or_else(|| config.unsupported(key, "a list of whole numbers"))?;
    config.note("dimensions", format!("{widths:?}"), key);
    Ok(Matryoshka { widths, width })
}

/// As many as the published checkpoints read, should the tokeniser not say.
const MAX_TOKENS: usize = 8192;

fn max_tokens(folder: &Path, log: &Log) -> Result<usize, ModelErrorKind> {
    let name = "tokenizer_config.json";
    let path = folder.join(name);
    let key = "model_max_length";
    // transformers writes 1e30 where there is no limit.
    let stated = if path.exists() {
        let file: Value = crate::checkpoint::read_json(&path)?;
        file[key].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < 1 << 20)
    } else {
        None
    };
    match stated {
        Some(n) => {
            let because = format!("{name}: {key} is {n}; the original's encode_text cuts at 512");
            log.note("most tokens", n, because);
            Ok(n)
        }
        None => {
            log.note("most tokens", MAX_TOKENS, format!("{name}: {key} is absent"));
            Ok(MAX_TOKENS)
        }
    }
}

/// Reads the original's own `preprocessor_config.json`.
fn image_contract(
    folder: &Path,
    spec: &EncoderSpec,
    log: &Log,
) -> Result<ImageContract, ModelErrorKind> {
    let name = "preprocessor_config.json";
    let config = Config::open(&folder.join(name), name, log)?;
    config.ignore(&[
        "auto_map",
        "image_processor_type",
        "processor_class",
        "feature_extractor_type",
    ]);
    let EncoderInput::Patches { image_size, .. } = spec.input else {
        unreachable!("made of patches")
    };
    if config.usize_or("size", image_size)? != image_size {
        return Err(config.unsupported("size", &format!("{image_size}, the tower's image_size")));
    }
    let (resize, interpolation) = preprocessor::open_clip_rules(&config)?;
    config.note("resize", config.text_or("resize_mode", "shortest")?, "resize_mode");
    let clip = ImageContract::clip(image_size);
    let mean = preprocessor::channels(&config, "mean", clip.mean)?;
    let std = preprocessor::channels(&config, "std", clip.std)?;
    Ok(ImageContract { resize, interpolation, mean, std, ..clip })
}
