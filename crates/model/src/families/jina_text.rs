//! Jina's text encoders as they lie inside other models' checkpoints, told by their tensors.
//!
//! In:  the tensors' names and shapes, in the spelling of the flash ports (`encoder.layers.0.mixer.Wqkv`)
//!      or of jina-embeddings-v2 (`encoder.layer.0.attention.self.query`), whole or split into a base
//!      and LoRA factors. Out: the encoder's spec and names.
//! Source: Günther et al. 2023 (JinaBERT), Sturua et al. 2024 (jina-embeddings-v3).
//! Parity: `testdata/parity/jina_clip`.

use std::collections::BTreeMap;

use conjoin_engine::{Activation, Mask, Pairing};
use serde_json::Value;

use super::{
    config::Config,
    text::{Body, Names},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, MlpRule, ModelErrorKind, NormPlacement, NormRule,
    OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes, ScoreBias, Source, Weights,
};

/// Which of the two encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ALiBi in both directions and a gated MLP.
    JinaBert,
    /// Rotary positions and a plain MLP.
    JinaXlmRoberta,
}

/// The encoder's own configuration, where it is not told by the tensors.
#[derive(Debug, Clone)]
pub(crate) struct Overrides {
    heads: Option<usize>,
    eps: f32,
    theta: f32,
    activation: Activation,
    /// The LoRA tasks, in the order of the factors.
    pub(crate) tasks: Vec<String>,
    /// What the product of the factors is multiplied by.
    pub(crate) scaling: f32,
    /// The words before the texts of a task.
    pub(crate) instructions: BTreeMap<String, String>,
}

/// Tasks, rank and α of jina-embeddings-v3's own configuration.
const TASKS: [&str; 5] =
    ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"];
const RANK: usize = 4;
const ALPHA: f32 = 1.0;
/// Its instructions; the other tasks have none.
const INSTRUCTIONS: [(&str, &str); 2] = [
    ("retrieval.query", "Represent the query for retrieving evidence documents: "),
    ("retrieval.passage", "Represent the document for retrieval: "),
];

/// The width of a head of all of Jina's encoders.
const HEAD_WIDTH: usize = 64;
/// ALiBi and rotary positions have no table that would end.
const MAX_TOKENS: usize = 8194;

impl Overrides {
    /// The values of the published encoders.
    pub(crate) fn of(kind: Kind) -> Self {
        let lora = kind == Kind::JinaXlmRoberta;
        let named = |list: &[&str]| list.iter().map(|task| (*task).to_owned()).collect();
        Self {
            heads: None,
            eps: if lora { 1e-5 } else { 1e-12 },
            theta: 20_000.0,
            activation: Activation::Gelu,
            tasks: if lora { named(&TASKS) } else { Vec::new() },
            scaling: ALPHA / RANK as f32,
            instructions: if lora {
                INSTRUCTIONS.map(|(task, words)| (task.to_owned(), words.to_owned())).into()
            } else {
                BTreeMap::new()
            },
        }
    }

    /// Reads `hf_model_config_kwargs`; unknown keys are refused, for they are rules by nature.
    pub(crate) fn read(config: &Config, kind: Kind) -> Result<Self, ModelErrorKind> {
        config.ignore(&SIZES);
        config.ignore(&HARMLESS);
        let positions = match kind {
            Kind::JinaBert => "alibi",
            Kind::JinaXlmRoberta => "rotary",
        };
        config.only("position_embedding_type", &[positions.into()])?;
        let known = Self::of(kind);
        let rank = config.usize_or("lora_rank", RANK)?.max(1);
        Ok(Self {
            heads: config.maybe_usize("num_attention_heads")?,
            eps: config.f32_or("layer_norm_eps", known.eps)?,
            theta: config.f32_or("rotary_emb_base", known.theta)?,
            activation: super::text::activation(config, "hidden_act", "gelu")?,
            tasks: tasks(config)?.unwrap_or(known.tasks),
            scaling: config.f32_or("lora_alpha", ALPHA)? / rank as f32,
            instructions: instructions(config)?.unwrap_or(known.instructions),
        })
        .and_then(|read| config.all_read().map(|()| read))
    }
}

/// Told by the shapes of the tensors.
const SIZES: [&str; 6] = [
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
];

/// Kernels, training and where weights come from.
const HARMLESS: [&str; 8] = [
    "use_flash_attn",
    "load_trained_adapters",
    "lora_dropout_p",
    "lora_main_params_trainable",
    "add_pooling_layer",
    "attn_implementation",
    "use_reentrant",
    "fused_mlp",
];

fn tasks(config: &Config) -> Result<Option<Vec<String>>, ModelErrorKind> {
    let key = "lora_adaptations";
    let Some(value) = config.get(key) else { return Ok(None) };
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let list = value.as_array().and_then(|list| list.iter().map(text).collect());
    list.map(Some).ok_or_else(|| config.unsupported(key, "a list of names"))
}

fn instructions(config: &Config) -> Result<Option<BTreeMap<String, String>>, ModelErrorKind> {
    let key = "task_instructions";
    let Some(value) = config.get(key) else { return Ok(None) };
    let map = serde_json::from_value(value.clone()).ok();
    map.map(Some).ok_or_else(|| config.unsupported(key, "texts by task"))
}

/// The tensors of one encoder, where a weight may be a base with LoRA factors.
pub(crate) struct Parametrised<'a> {
    weights: &'a Weights,
    prefix: &'a str,
    /// Index of the task, and what the product is multiplied by; none: the base alone.
    adapter: Option<(usize, f32)>,
}

impl<'a> Parametrised<'a> {
    pub(crate) fn new(
        weights: &'a Weights,
        prefix: &'a str,
        adapter: Option<(usize, f32)>,
    ) -> Self {
        Self { weights, prefix, adapter }
    }

    fn has(&self, name: &str) -> bool {
        self.weights.has(&format!("{}{name}", self.prefix))
    }

    fn split(&self, layer: &str) -> bool {
        self.has(&format!("{layer}.parametrizations.weight.original"))
    }

    /// Rows and columns of a layer's weight.
    fn shape(&self, layer: &str) -> Result<[usize; 2], ModelErrorKind> {
        let part = if self.split(layer) { "parametrizations.weight.original" } else { "weight" };
        let name = format!("{}{layer}.{part}", self.prefix);
        let found = self.weights.shape(&name)?;
        <[usize; 2]>::try_from(found).map_err(|_| ModelErrorKind::Shape {
            name,
            found: found.to_vec(),
            expected: vec![0, 0],
        })
    }

    /// A layer's weight; the names begin behind the prefix.
    fn weight(&self, layer: &str) -> Source {
        let base = format!("{layer}.parametrizations.weight");
        match self.adapter {
            _ if !self.split(layer) => Source::Same(format!("{layer}.weight")),
            None => Source::Same(format!("{base}.original")),
            Some((task, scaling)) => Source::Adapted { base, task, scaling },
        }
    }
}

/// The encoder, its names those of the file.
pub(crate) fn body(
    kind: Kind,
    tensors: &Parametrised<'_>,
    overrides: &Overrides,
) -> Result<Body, ModelErrorKind> {
    let [vocabulary, width] = tensors.shape("embeddings.word_embeddings")?;
    let [types, _] = tensors.shape("embeddings.token_type_embeddings")?;
    let spelling = Spelling::of(tensors);
    let layers = (0..).take_while(|i| tensors.has(&spelling.block(*i, spelling.norm()))).count();
    let first = spelling.block(0, spelling.up(kind));
    let [rows, _] = tensors.shape(&first)?;
    let heads = overrides.heads.unwrap_or(width / HEAD_WIDTH);
    let spec = EncoderSpec {
        input: EncoderInput::Tokens { vocabulary, max_tokens: MAX_TOKENS, positions: false, types },
        input_norm: true,
        width,
        layers,
        attention: attention(kind, heads, overrides),
        mlp: mlp(kind, rows, overrides.activation),
        norm: NormRule {
            placement: NormPlacement::Post,
            eps: overrides.eps,
            bias: true,
            first: true,
        },
        layer_scale: false,
        output_norm: OutputNorm::None,
        pooling: Pooling::Mean,
        head: Vec::new(),
        normalize: true,
    };
    let names = spelling.names(kind, layers, tensors);
    let mut unused = vec!["pooler.".to_owned(), "embeddings.position_ids".to_owned()];
    if tensors.adapter.is_none() {
        let factors = tensors.weights.names().filter(|name| name.contains(".lora_"));
        unused.extend(factors.filter_map(|n| Some(n.strip_prefix(tensors.prefix)?.to_owned())));
    }
    let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
    Ok(Body::new(spec, Names(names), &unused).under(tensors.prefix))
}

fn attention(kind: Kind, heads: usize, overrides: &Overrides) -> AttentionRule {
    let axes = RotaryAxes::Sequence;
    let rotary = Rotary { pairing: Pairing::Halves, theta: overrides.theta, axes };
    let (score_bias, rotary) = match kind {
        Kind::JinaBert => (ScoreBias::Alibi, None),
        Kind::JinaXlmRoberta => (ScoreBias::None, Some(rotary)),
    };
    AttentionRule {
        heads,
        qkv_bias: QkvBias::All,
        out_bias: true,
        inner_norm: false,
        mask: Mask::Bidirectional,
        score_bias,
        rotary,
        local: None,
    }
}

/// `rows` of the layer into the MLP: two halves where it is gated.
fn mlp(kind: Kind, rows: usize, activation: Activation) -> MlpRule {
    let gated = kind == Kind::JinaBert;
    MlpRule {
        width: if gated { rows / 2 } else { rows },
        activation,
        gated,
        up_bias: !gated,
        down_bias: true,
        inner_norm: false,
    }
}

/// How the tensors of the layers are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// The flash ports'.
    Flash,
    /// jina-embeddings-v2's.
    Bert,
}

impl Spelling {
    fn of(tensors: &Parametrised<'_>) -> Self {
        if tensors.has("emb_ln.weight") { Self::Flash } else { Self::Bert }
    }

    fn block(self, i: usize, part: &str) -> String {
        match self {
            Self::Flash => format!("encoder.layers.{i}.{part}"),
            Self::Bert => format!("encoder.layer.{i}.{part}"),
        }
    }

    /// A tensor that every layer has.
    fn norm(self) -> &'static str {
        match self {
            Self::Flash => "norm1.weight",
            Self::Bert => "attention.output.LayerNorm.weight",
        }
    }

    fn up(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (_, Kind::JinaBert) => "mlp.gated_layers",
            (Self::Flash, Kind::JinaXlmRoberta) => "mlp.fc1",
            (Self::Bert, Kind::JinaXlmRoberta) => "intermediate.dense",
        }
    }

    fn down(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (_, Kind::JinaBert) => "mlp.wo",
            (Self::Flash, Kind::JinaXlmRoberta) => "mlp.fc2",
            (Self::Bert, Kind::JinaXlmRoberta) => "output.dense",
        }
    }

    fn mlp_norm(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Flash, _) => "norm2",
            (Self::Bert, Kind::JinaBert) => "mlp.layernorm",
            (Self::Bert, Kind::JinaXlmRoberta) => "output.LayerNorm",
        }
    }

    fn names(self, kind: Kind, layers: usize, tensors: &Parametrised<'_>) -> Vec<(String, Source)> {
        let mut names = Names::default();
        let weight = |names: &mut Names, ours: &str, theirs: &str| {
            names.put(&format!("{ours}.weight"), tensors.weight(theirs));
        };
        weight(&mut names, "tokens", "embeddings.word_embeddings");
        weight(&mut names, "types", "embeddings.token_type_embeddings");
        names.affine(
            "input_norm",
            match self {
                Self::Flash => "emb_ln",
                Self::Bert => "embeddings.LayerNorm",
            },
        );
        for i in 0..layers {
            let ours = |part: &str| format!("layers.{i}.{part}");
            let theirs = |part: &str| self.block(i, part);
            let affine = |names: &mut Names, to: &str, from: &str| {
                weight(names, &ours(to), &theirs(from));
                names.same(&format!("{}.bias", ours(to)), &format!("{}.bias", theirs(from)));
            };
            match self {
                Self::Flash => {
                    affine(&mut names, "attention.qkv", "mixer.Wqkv");
                    affine(&mut names, "attention.out", "mixer.out_proj");
                    names.affine(&ours("attention.norm"), &theirs("norm1"));
                }
                Self::Bert => {
                    let qkv = ["query", "key", "value"]
                        .map(|part| theirs(&format!("attention.self.{part}")));
                    names.affine_rows(&ours("attention.qkv"), &qkv.each_ref().map(String::as_str));
                    affine(&mut names, "attention.out", "attention.output.dense");
                    names.affine(&ours("attention.norm"), &theirs("attention.output.LayerNorm"));
                }
            }
            match kind {
                Kind::JinaBert => weight(&mut names, &ours("mlp.up"), &theirs(self.up(kind))),
                Kind::JinaXlmRoberta => affine(&mut names, "mlp.up", self.up(kind)),
            }
            affine(&mut names, "mlp.down", self.down(kind));
            names.affine(&ours("mlp.norm"), &theirs(self.mlp_norm(kind)));
        }
        names.0
    }
}
