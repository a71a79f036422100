//! The EVA02 image tower as Jina CLIP's checkpoints hold it.
//!
//! In:  `vision_config` and the shapes of the tensors. Out: the encoder's spec and names.
//! Source: Fang et al. 2023 (EVA-02); sub-LN of Wang et al. 2022. Parity: `testdata/parity/jina_clip`.
//!
//! No switch has a default: those of the original's class are not those of its checkpoints.

use conjoin_engine::{Activation, Mask, Pairing};
use serde_json::Value;

use super::{
    config::Config,
    text::{Body, Names},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, HeadLayer, MlpRule, ModelErrorKind, NormPlacement,
    NormRule, OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes, ScoreBias, Source, Weights,
};

/// The original's layer norms, whatever the configuration.
const EPS: f32 = 1e-6;
/// The original's rotary base, likewise.
const THETA: f32 = 10_000.0;

/// The switches that change the layers' tensors.
struct Switches {
    sub_norm: bool,
    swiglu: bool,
    qkv_bias: bool,
    layer_scale: bool,
}

pub(crate) fn body(
    config: &Config,
    weights: &Weights,
    prefix: &str,
) -> Result<Body, ModelErrorKind> {
    // Kernels and regularisation: they change no number of an embedding.
    config.ignore(&["x_attention", "fused_layer_norm", "patch_dropout", "drop_path_rate"]);
    config.only("post_norm", &[false.into()])?;
    let switches = Switches {
        sub_norm: config.flag("subln")?,
        swiglu: config.flag("naive_swiglu")?,
        qkv_bias: config.flag("qkv_bias")?,
        layer_scale: config.get("ls_init_value").and_then(Value::as_f64).is_some_and(|v| v > 0.0),
    };
    let spec = spec(config, &switches, mlp_width(config, &switches, weights, prefix)?)?;
    let names = names(&spec, &switches);
    let mut body = Body::new(spec, Names(names), &[]).under(prefix);
    // Tables that are computed, stored by some writers.
    body.unused.push(format!("{prefix}rope."));
    head(config, switches.qkv_bias, prefix, &mut body)?;
    Ok(body)
}

/// The width of the first tensor of the MLP; `mlp_ratio` must say the same.
fn mlp_width(
    config: &Config,
    switches: &Switches,
    weights: &Weights,
    prefix: &str,
) -> Result<usize, ModelErrorKind> {
    let first = if switches.swiglu { "w1" } else { "fc1" };
    let shape = weights.shape(&format!("{prefix}blocks.0.mlp.{first}.weight"))?;
    let found = shape.first().copied().unwrap_or(0);
    let ratio = config.get("mlp_ratio").and_then(Value::as_f64);
    let stated = ratio.map(|ratio| (config.usize("width").unwrap_or(0) as f64 * ratio) as usize);
    if stated == Some(found) {
        return Ok(found);
    }
    Err(config.unsupported("mlp_ratio", &format!("the ratio that gives the tensors' {found}")))
}

fn spec(
    config: &Config,
    switches: &Switches,
    mlp_width: usize,
) -> Result<EncoderSpec, ModelErrorKind> {
    let width = config.usize("width")?;
    let (image_size, patch_size) = (config.usize("image_size")?, config.usize("patch_size")?);
    let head_width = config.usize("head_width")?;
    if head_width == 0 || !width.is_multiple_of(head_width) {
        return Err(config.unsupported("head_width", &format!("a divisor of the width {width}")));
    }
    if patch_size == 0 {
        return Err(config.unsupported("patch_size", "at least 1"));
    }
    Ok(EncoderSpec {
        input: EncoderInput::Patches { image_size, patch_size, bias: true, class_token: true },
        input_norm: false,
        width,
        layers: config.usize("layers")?,
        attention: AttentionRule {
            heads: width / head_width,
            qkv_bias: if switches.qkv_bias { QkvBias::QueryValue } else { QkvBias::None },
            out_bias: true,
            inner_norm: switches.sub_norm,
            mask: Mask::Bidirectional,
            score_bias: ScoreBias::None,
            rotary: rotary(config, image_size / patch_size)?,
            local: None,
        },
        mlp: MlpRule {
            width: mlp_width,
            activation: if switches.swiglu { Activation::Silu } else { Activation::Gelu },
            gated: switches.swiglu,
            up_bias: true,
            down_bias: true,
            inner_norm: switches.sub_norm,
        },
        norm: NormRule { placement: NormPlacement::Pre, eps: EPS, bias: true, first: true },
        layer_scale: switches.layer_scale,
        output_norm: OutputNorm::Tokens,
        pooling: Pooling::First,
        head: Vec::new(),
        normalize: true,
    })
}

/// Rows and columns of the grid are spread over the pre-training's; without `intp_freq` the two must
/// be the same.
fn rotary(config: &Config, grid: usize) -> Result<Option<Rotary>, ModelErrorKind> {
    if !config.flag("rope_embeddings")? {
        config.ignore(&["pt_hw_seq_len", "intp_freq"]);
        return Ok(None);
    }
    let extent = config.usize("pt_hw_seq_len")?;
    if !config.flag("intp_freq")? && extent != grid {
        let supported = format!("{grid}, the patches per side, where intp_freq is false");
        return Err(config.unsupported("pt_hw_seq_len", &supported));
    }
    let words = format!("{grid} rows and columns spread over 0 to {extent}");
    config.note("image rotary positions", words, "intp_freq");
    let axes = RotaryAxes::Grid { extent: extent as f32 };
    Ok(Some(Rotary { pairing: Pairing::Neighbours, theta: THETA, axes }))
}

/// The layer behind the class token; none in the published checkpoints.
fn head(config: &Config, bias: bool, prefix: &str, body: &mut Body) -> Result<(), ModelErrorKind> {
    let width = config.usize("embed_dim")?;
    match config.maybe_text("proj_type")? {
        None if width == body.spec.width => {}
        Some("linear") => {
            let activation = Activation::Identity;
            body.spec.head.push(HeadLayer::Dense { width, bias, activation });
            for part in ["weight", "bias"].into_iter().take(1 + usize::from(bias)) {
                let source = Source::Same(format!("{prefix}head.{part}"));
                body.names.push((format!("head.0.{part}"), source));
            }
        }
        None => return Err(config.unsupported("embed_dim", "the width, or proj_type linear")),
        // The original builds other layers but never calls them.
        Some(_) => return Err(config.unsupported("proj_type", "null or linear")),
    }
    Ok(())
}

fn names(spec: &EncoderSpec, switches: &Switches) -> Vec<(String, Source)> {
    let mut names = Names::default();
    names.put("patch.weight", Source::PatchKernel("patch_embed.proj.weight".to_owned()));
    names.same("patch.bias", "patch_embed.proj.bias");
    names.same("class", "cls_token");
    names.same("positions.weight", "pos_embed");
    names.affine("output_norm", "norm");
    for i in 0..spec.layers {
        let block = Block { i, switches };
        block.attention(&mut names);
        block.mlp(&mut names);
    }
    names.0
}

struct Block<'a> {
    i: usize,
    switches: &'a Switches,
}

impl Block<'_> {
    fn ours(&self, part: &str) -> String {
        format!("layers.{}.{part}", self.i)
    }

    fn theirs(&self, part: &str) -> String {
        format!("blocks.{}.{part}", self.i)
    }

    fn attention(&self, names: &mut Names) {
        let qkv = self.ours("attention.qkv");
        if self.switches.sub_norm {
            let parts = ["q", "k", "v"].map(|part| self.theirs(&format!("attn.{part}_proj")));
            names.rows(&qkv, &parts.each_ref().map(String::as_str), "weight");
            names.affine(&self.ours("attention.inner_norm"), &self.theirs("attn.inner_attn_ln"));
        } else {
            names.weight(&qkv, &self.theirs("attn.qkv"));
        }
        if self.switches.qkv_bias {
            let biases = ["q", "v"].map(|part| self.theirs(&format!("attn.{part}_bias")));
            names.put(&format!("{qkv}.bias"), Source::Rows(biases.to_vec()));
        }
        names.affine(&self.ours("attention.out"), &self.theirs("attn.proj"));
        names.affine(&self.ours("attention.norm"), &self.theirs("norm1"));
        if self.switches.layer_scale {
            names.same(&self.ours("attention.scale"), &self.theirs("gamma_1"));
            names.same(&self.ours("mlp.scale"), &self.theirs("gamma_2"));
        }
    }

    fn mlp(&self, names: &mut Names) {
        let [w1, w2, w3] = ["w1", "w2", "w3"].map(|part| self.theirs(&format!("mlp.{part}")));
        if self.switches.swiglu {
            names.affine_rows(&self.ours("mlp.up"), &[&w1, &w2]);
            names.affine(&self.ours("mlp.down"), &w3);
        } else {
            names.affine(&self.ours("mlp.up"), &self.theirs("mlp.fc1"));
            names.affine(&self.ours("mlp.down"), &self.theirs("mlp.fc2"));
        }
        if self.switches.sub_norm {
            names.affine(&self.ours("mlp.inner_norm"), &self.theirs("mlp.ffn_ln"));
        }
        names.affine(&self.ours("mlp.norm"), &self.theirs("norm2"));
    }
}
