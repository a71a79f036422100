//! timm's ViT and EVA02 image towers, in timm's own hub layout or as the trunk of an open_clip model.
//!
//! In:  `config.json` with `architecture`, `model_args` and `pretrained_cfg`; `model.safetensors`.
//! Out: a [`Plan`] whose embeddings are timm's features (`num_classes=0`), or a [`Trunk`].
//! What a tensor's shape tells is taken from it; the name of the architecture tells the rest.
//! Not here: registers, other kinds of blocks. Source: Dosovitskiy et al. 2021; Fang et al. 2023 (EVA02).
//! Parity: `testdata/parity/timm`.

use std::path::Path;

use conjoin_engine::{Activation, Pairing};
use conjoin_input::{CropRounding, ImageContract, InputContract, Interpolation, ResizeMode};
use serde_json::Value;

use super::{
    Plan, Reading,
    config::{Config, Log},
    model_card,
    preprocessor::channels,
    text::Names,
    timm_names::{self, Kind, Known},
};
use crate::{
    AttentionRule, Card, EncoderInput, EncoderSpec, ImageSpec, Matryoshka, MlpRule, ModelErrorKind,
    NormRule, OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes, Source, Weights,
    tower::IMAGE_PREFIX,
};

/// A tower up to its pooling, with names as in the file.
pub(crate) struct Trunk {
    pub(crate) spec: EncoderSpec,
    pub(crate) names: Names,
}

/// How patches become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Token,
    Mean,
    Map,
}

/// What no shape tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    known: &'static Known,
    heads: usize,
    pool: Pool,
    activation: Activation,
}

pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    let config = &Config::open(&folder.join("config.json"), "config.json", log)?;
    config.ignore(&["num_classes", "num_features", "label_names", "label_descriptions"]);
    let rule = Rule::of_name(config, "architecture")?;
    let weights = Weights::open_folder(folder)?;
    let old = config.clone();
    let pretrained = config.section("pretrained_cfg")?.unwrap_or(old);
    let image_size = image_size(&pretrained)?;
    let contract = contract(&pretrained, image_size)?;
    let arguments = config.section("model_args")?;
    let rule = arguments.as_ref().map_or(Ok(rule), |arguments| rule.changed(arguments))?;
    let trunk = Trunk::read(&weights, "", rule, image_size)?;
    match &arguments {
        Some(arguments) => check_sizes(arguments, &trunk.spec)?,
        None if trunk.spec.width != rule.known.width => {
            let supported = format!("one of width {}, as the weights", trunk.spec.width);
            return Err(config.unsupported("architecture", &supported));
        }
        None => {}
    }
    if let Some(pool) = config.maybe_text("global_pool")?
        && pool != rule.pool.name()
    {
        return Err(config.unsupported("global_pool", rule.pool.name()));
    }
    log.family(format!("timm's {}", config.text("architecture")?));
    let card = model_card::card(folder)?;
    let licence = pretrained.maybe_text("license")?.map(str::to_owned);
    pretrained.ignore(&HARMLESS);
    let names = trunk.names.0.into_iter().map(|(ours, s)| (format!("{IMAGE_PREFIX}{ours}"), s));
    Ok(Plan {
        text: None,
        image: Some(ImageSpec::Transformer(trunk.spec)),
        contract: InputContract { text: None, image: Some(contract) },
        tokenizer: None,
        names: names.collect(),
        unused: ["head.", "head_dist."].map(str::to_owned).to_vec(),
        log_scale: 0.0,
        score_bias: 0.0,
        matryoshka: Matryoshka::default(),
        card: Card { licence: licence.or(card.licence), ..card },
        weights,
        reading: Reading::default(),
    })
}

/// Keys of `pretrained_cfg` that change no feature.
const HARMLESS: [&str; 19] = [
    "tag",
    "custom_load",
    "fixed_input_size",
    "num_classes",
    "pool_size",
    "first_conv",
    "classifier",
    "hf_hub_id",
    "url",
    "file",
    "source",
    "origin_url",
    "paper_name",
    "paper_ids",
    "label_offset",
    "min_input_size",
    "test_input_size",
    "test_crop_pct",
    "notes",
];

/// Arguments that shapes tell as well, or that change no feature.
const TOLD_BY_SHAPES: [&str; 17] = [
    "num_classes",
    "in_chans",
    "mlp_ratio",
    "qkv_bias",
    "init_values",
    "class_token",
    "pre_norm",
    "fc_norm",
    "use_fc_norm",
    "final_norm",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "strict_img_size",
    "drop_rate",
    "drop_path_rate",
    "head_init_scale",
];

impl Rule {
    /// What the name of an architecture says.
    pub(crate) fn of_name(config: &Config, key: &str) -> Result<Self, ModelErrorKind> {
        let name = config.text(key)?;
        let known =
            timm_names::find(name).ok_or_else(|| config.unsupported(key, &timm_names::listed()))?;
        let (heads, kind) = (known.heads, known.kind);
        let pool = match kind {
            Kind::Vit | Kind::Clip | Kind::QuickClip | Kind::EvaClip | Kind::EvaGiantClip => {
                Pool::Token
            }
            Kind::Siglip | Kind::SiglipTanh => Pool::Map,
            Kind::Gap | Kind::GapTanh | Kind::Eva | Kind::EvaGiant => Pool::Mean,
        };
        let activation = match kind {
            Kind::QuickClip => Activation::QuickGelu,
            Kind::SiglipTanh | Kind::GapTanh => Activation::GeluTanh,
            Kind::Vit
            | Kind::Clip
            | Kind::Siglip
            | Kind::Gap
            | Kind::Eva
            | Kind::EvaClip
            | Kind::EvaGiant
            | Kind::EvaGiantClip => Activation::Gelu,
        };
        config.note("heads, ε, activation, rotary positions", format!("{known:?}"), key);
        Ok(Self { known, heads, pool, activation })
    }

    /// The same with another pooling, where `key` tells one.
    pub(crate) fn pooled(self, config: &Config, key: &str) -> Result<Self, ModelErrorKind> {
        let pool = match config.maybe_text(key)? {
            None => self.pool,
            Some("token") => Pool::Token,
            Some("avg") => Pool::Mean,
            Some("map") => Pool::Map,
            Some(_) => return Err(config.unsupported(key, "token, avg or map")),
        };
        config.note("image pooling", pool.name(), key);
        Ok(Self { pool, ..self })
    }

    /// What the arguments of `create_model` change.
    fn changed(self, arguments: &Config) -> Result<Self, ModelErrorKind> {
        let heads = arguments.usize_or("num_heads", self.heads)?;
        arguments.only("in_chans", &[3.into()])?;
        let key = "act_layer";
        let activation = match arguments.maybe_text(key)? {
            None => self.activation,
            Some("gelu") => Activation::Gelu,
            Some("gelu_tanh") => Activation::GeluTanh,
            Some("quick_gelu") => Activation::QuickGelu,
            Some(_) => return Err(arguments.unsupported(key, "gelu, gelu_tanh or quick_gelu")),
        };
        Self { heads, activation, ..self }.pooled(arguments, "global_pool")
    }

    fn eps(self) -> f32 {
        match self.known.kind {
            Kind::Clip | Kind::QuickClip => 1e-5,
            Kind::Vit
            | Kind::Siglip
            | Kind::SiglipTanh
            | Kind::Gap
            | Kind::GapTanh
            | Kind::Eva
            | Kind::EvaClip
            | Kind::EvaGiant
            | Kind::EvaGiantClip => 1e-6,
        }
    }

    /// EVA02 was trained on 16 × 16 patches and keeps those positions on any grid.
    fn rotary(self) -> Option<Rotary> {
        matches!(self.known.kind, Kind::Eva | Kind::EvaClip).then_some(Rotary {
            pairing: Pairing::Neighbours,
            theta: 10_000.0,
            axes: RotaryAxes::Grid { extent: 16.0 },
        })
    }
}

impl Pool {
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Mean => "avg",
            Self::Map => "map",
        }
    }
}

/// Arguments that the weights tell, too, must agree with them; those nobody knows are refused.
fn check_sizes(arguments: &Config, spec: &EncoderSpec) -> Result<(), ModelErrorKind> {
    arguments.ignore(&TOLD_BY_SHAPES);
    let EncoderInput::Patches { image_size, patch_size, .. } = spec.input else {
        unreachable!("a trunk sees patches")
    };
    for (key, found) in [
        ("embed_dim", spec.width),
        ("depth", spec.layers),
        ("patch_size", patch_size),
        ("img_size", image_size),
    ] {
        arguments.only(key, &[found.into(), vec![found, found].into()])?;
    }
    arguments.refuse_unread()
}

fn image_size(pretrained: &Config) -> Result<usize, ModelErrorKind> {
    let key = "input_size";
    let sizes: Option<Vec<u64>> = pretrained
        .get(key)
        .and_then(Value::as_array)
        .and_then(|sizes| sizes.iter().map(Value::as_u64).collect());
    match sizes.as_deref() {
        Some(&[3, height, width]) if height == width => usize::try_from(height).ok(),
        _ => None,
    }
    .ok_or_else(|| pretrained.unsupported(key, "[3, side, side]"))
}

/// `timm.data.create_transform(**resolve_data_config(…), is_training=False)`.
fn contract(pretrained: &Config, size: usize) -> Result<ImageContract, ModelErrorKind> {
    let standard = ImageContract::imagenet(size);
    let mean = channels(pretrained, "mean", standard.mean)?;
    let std = channels(pretrained, "std", standard.std)?;
    let interpolation = match pretrained.text_or("interpolation", "bicubic")? {
        "bicubic" => Interpolation::Bicubic,
        "bilinear" => Interpolation::Bilinear,
        _ => return Err(pretrained.unsupported("interpolation", "bicubic or bilinear")),
    };
    let resize = match pretrained.text_or("crop_mode", "center")? {
        "center" => ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::HalfEven },
        "squash" => ResizeMode::Squash,
        "border" => ResizeMode::LongestPad {
            fill: mean.map(|mean| (255.0 * mean).round_ties_even().clamp(0.0, 255.0) as u8),
        },
        _ => return Err(pretrained.unsupported("crop_mode", "center, squash or border")),
    };
    let share = pretrained.get("crop_pct").map_or(Some(0.875), Value::as_f64);
    let share = share.filter(|share| *share > 0.0 && *share <= 1.0);
    let share = share.ok_or_else(|| pretrained.unsupported("crop_pct", "above 0, at most 1"))?;
    let resized = (size as f64 / share).floor() as usize;
    pretrained.note("pictures", format!("{resize:?} of {resized} to {size}"), "crop_pct");
    let resized = (resized > size).then_some(resized);
    Ok(ImageContract { size, resized, resize, interpolation, mean, std })
}

/// The tensors of a trunk, behind a prefix.
struct Tensors<'a> {
    weights: &'a Weights,
    prefix: &'a str,
}

impl Tensors<'_> {
    fn has(&self, name: &str) -> bool {
        self.weights.has(&format!("{}{name}", self.prefix))
    }

    fn size(&self, name: &str, axis: usize) -> Result<usize, ModelErrorKind> {
        let name = format!("{}{name}", self.prefix);
        let shape = self.weights.shape(&name)?;
        shape.get(axis).copied().ok_or_else(|| {
            let (found, expected) = (shape.to_vec(), vec![0; axis + 1]);
            ModelErrorKind::Shape { name, found, expected }
        })
    }
}

impl Trunk {
    /// Reads the shapes of the tensors behind `prefix`.
    pub(crate) fn read(
        weights: &Weights,
        prefix: &str,
        rule: Rule,
        image_size: usize,
    ) -> Result<Self, ModelErrorKind> {
        let tensors = Tensors { weights, prefix };
        if tensors.has("reg_token") {
            return Err(ModelErrorKind::UnusedTensors(vec![format!("{prefix}reg_token")]));
        }
        let layers = (0..).take_while(|i| tensors.has(&format!("blocks.{i}.norm1.weight")));
        let layers = layers.count();
        let patch = "patch_embed.proj";
        let input = EncoderInput::Patches {
            image_size,
            patch_size: tensors.size(&format!("{patch}.weight"), 2)?,
            bias: tensors.has(&format!("{patch}.bias")),
            class_token: tensors.has("cls_token"),
        };
        let width = tensors.size(&format!("{patch}.weight"), 0)?;
        let spec = EncoderSpec::pre_norm(input, width, layers, rule.heads);
        let spec = EncoderSpec {
            input_norm: tensors.has("norm_pre.weight"),
            attention: attention(&tensors, rule, spec.attention),
            mlp: mlp(&tensors, rule, spec.mlp)?,
            norm: NormRule { eps: rule.eps(), ..spec.norm },
            layer_scale: scale_names(&tensors).is_some(),
            output_norm: output_norm(&tensors)?,
            pooling: pooling(&tensors, rule)?,
            ..spec
        };
        let names = names(&tensors, &spec);
        let names = names.0.into_iter().map(|(ours, source)| (ours, source.under(prefix)));
        Ok(Self { spec, names: Names(names.collect()) })
    }
}

fn attention(tensors: &Tensors<'_>, rule: Rule, standard: AttentionRule) -> AttentionRule {
    let has = |name: &str| tensors.has(&format!("blocks.0.attn.{name}"));
    let qkv_bias = match (has("qkv.bias"), has("q_bias") || has("q_proj.bias")) {
        (true, _) => QkvBias::All,
        (false, true) => QkvBias::QueryValue,
        (false, false) => QkvBias::None,
    };
    AttentionRule {
        qkv_bias,
        out_bias: has("proj.bias"),
        inner_norm: has("norm.weight"),
        rotary: rule.rotary(),
        ..standard
    }
}

/// Gates come as matrices of their own or as the first half of one.
fn mlp(tensors: &Tensors<'_>, rule: Rule, standard: MlpRule) -> Result<MlpRule, ModelErrorKind> {
    let name = |part: &str| format!("blocks.0.mlp.{part}");
    let width = tensors.size(&name("fc2.weight"), 1)?;
    let gated =
        tensors.has(&name("fc1_g.weight")) || tensors.size(&name("fc1.weight"), 0)? == 2 * width;
    Ok(MlpRule {
        width,
        activation: if gated { Activation::Silu } else { rule.activation },
        gated,
        inner_norm: tensors.has(&name("norm.weight")),
        ..standard
    })
}

fn output_norm(tensors: &Tensors<'_>) -> Result<OutputNorm, ModelErrorKind> {
    match (tensors.has("norm.weight"), tensors.has("fc_norm.weight")) {
        (false, false) => Ok(OutputNorm::None),
        (true, false) => Ok(OutputNorm::Tokens),
        (false, true) => Ok(OutputNorm::Pooled),
        (true, true) => {
            let both = vec!["norm.weight".to_owned(), "fc_norm.weight".to_owned()];
            Err(ModelErrorKind::UnusedTensors(both))
        }
    }
}

fn pooling(tensors: &Tensors<'_>, rule: Rule) -> Result<Pooling, ModelErrorKind> {
    Ok(match rule.pool {
        Pool::Token => Pooling::First,
        Pool::Mean => Pooling::Patches,
        Pool::Map => Pooling::Probe {
            heads: rule.heads,
            mlp_width: tensors.size("attn_pool.mlp.fc1.weight", 0)?,
            activation: rule.activation,
        },
    })
}

/// ViT's and EVA's names of layer scale.
fn scale_names(tensors: &Tensors<'_>) -> Option<[&'static str; 2]> {
    let known = [["ls1.gamma", "ls2.gamma"], ["gamma_1", "gamma_2"]];
    known.into_iter().find(|[first, _]| tensors.has(&format!("blocks.0.{first}")))
}

fn names(tensors: &Tensors<'_>, spec: &EncoderSpec) -> Names {
    let mut names = Names::default();
    names.put("patch.weight", Source::PatchKernel("patch_embed.proj.weight".to_owned()));
    names.same("positions.weight", "pos_embed");
    for (ours, theirs) in [("patch.bias", "patch_embed.proj.bias"), ("class", "cls_token")] {
        if tensors.has(theirs) {
            names.same(ours, theirs);
        }
    }
    for (ours, theirs) in
        [("input_norm", "norm_pre"), ("output_norm", "norm"), ("output_norm", "fc_norm")]
    {
        if tensors.has(&format!("{theirs}.weight")) {
            names.affine(ours, theirs);
        }
    }
    for i in 0..spec.layers {
        block_names(tensors, i, &mut names);
    }
    if matches!(spec.pooling, Pooling::Probe { .. }) {
        names.same("probe.query", "attn_pool.latent");
        for (ours, theirs) in [("q", "q"), ("kv", "kv"), ("out", "proj")] {
            names.affine(&format!("probe.{ours}"), &format!("attn_pool.{theirs}"));
        }
        for (ours, theirs) in [("norm", "norm"), ("up", "mlp.fc1"), ("down", "mlp.fc2")] {
            names.affine(&format!("probe.mlp.{ours}"), &format!("attn_pool.{theirs}"));
        }
    }
    names
}

fn block_names(tensors: &Tensors<'_>, i: usize, names: &mut Names) {
    let ours = |part: &str| format!("layers.{i}.{part}");
    let theirs = |part: &str| format!("blocks.{i}.{part}");
    let rows = |parts: &[&str]| Source::Rows(parts.iter().map(|part| theirs(part)).collect());
    let has = |part: &str| tensors.has(&theirs(part));
    let mut put = |part: &str, source| names.put(&ours(part), source);
    if has("attn.qkv.weight") {
        put("attention.qkv.weight", Source::Same(theirs("attn.qkv.weight")));
    } else {
        let parts = ["attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"];
        put("attention.qkv.weight", rows(&parts));
    }
    if has("attn.qkv.bias") {
        put("attention.qkv.bias", Source::Same(theirs("attn.qkv.bias")));
    } else if has("attn.q_bias") {
        put("attention.qkv.bias", rows(&["attn.q_bias", "attn.v_bias"]));
    } else if has("attn.q_proj.bias") {
        put("attention.qkv.bias", rows(&["attn.q_proj.bias", "attn.v_proj.bias"]));
    }
    if has("mlp.fc1_g.weight") {
        for part in ["weight", "bias"] {
            let gate_and_up = [format!("mlp.fc1_g.{part}"), format!("mlp.fc1_x.{part}")];
            put(&format!("mlp.up.{part}"), rows(&gate_and_up.each_ref().map(String::as_str)));
        }
    } else {
        names.affine(&ours("mlp.up"), &theirs("mlp.fc1"));
    }
    for (part, name) in
        [("attention.norm", "norm1"), ("mlp.norm", "norm2"), ("mlp.down", "mlp.fc2")]
    {
        names.affine(&ours(part), &theirs(name));
    }
    names.weight(&ours("attention.out"), &theirs("attn.proj"));
    if has("attn.proj.bias") {
        names.same(&ours("attention.out.bias"), &theirs("attn.proj.bias"));
    }
    for (part, name) in [("attention.inner_norm", "attn.norm"), ("mlp.inner_norm", "mlp.norm")] {
        if has(&format!("{name}.weight")) {
            names.affine(&ours(part), &theirs(name));
        }
    }
    if let Some([first, second]) = scale_names(tensors) {
        names.same(&ours("attention.scale"), &theirs(first));
        names.same(&ours("mlp.scale"), &theirs(second));
    }
}
