//! The transformer encoder: declared from a spec, one forward for training and inference.
//!
//! In:  token ids or pixels. Out: unit vectors `[b, e]`.
//! Source: Vaswani et al. 2017 (post-norm), Dosovitskiy et al. 2021 and Radford et al. 2021 (pre-norm).
//! Parity: `testdata/parity/towers`, `testdata/parity/minilm`.

use std::sync::Arc;

use conjoin_engine::{
    Activation, AttentionSpec, Exec, ImageShape, LinearParams, ParamId, Pooling, Tensor,
    TokenTables,
};

use crate::{
    layout::{Init, Layout},
    spec::{EncoderInput, EncoderSpec, NormPlacement},
    tower::Observe,
};

/// An encoder whose parameters are declared.
#[derive(Debug)]
pub(crate) struct Encoder {
    spec: EncoderSpec,
    stem: Stem,
    input_norm: Option<Norm>,
    blocks: Vec<Block>,
    output_norm: Option<Norm>,
    projection: Option<LinearParams>,
}

type Norm = (ParamId, ParamId);

#[derive(Debug)]
enum Stem {
    Tokens(TokenTables),
    Patches { patch: LinearParams, class: ParamId, positions: ParamId, patch_size: usize },
}

#[derive(Debug)]
struct Block {
    attention_norm: Norm,
    qkv: LinearParams,
    out: LinearParams,
    mlp_norm: Norm,
    up: LinearParams,
    down: LinearParams,
}

/// Sequences of one batch, packed: `offsets[i]..offsets[i + 1]` are the tokens of sequence `i`.
pub(crate) struct Packed {
    pub(crate) x: Tensor,
    pub(crate) offsets: Arc<[usize]>,
}

impl Encoder {
    pub(crate) fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Self {
        let d = spec.width;
        let stem = Stem::declare(spec, layout);
        let input_norm = spec.input_norm.then(|| layout.norm("input_norm", d));
        let blocks = (0..spec.layers).map(|i| Block::declare(spec, i, layout)).collect();
        let output_norm = spec.output_norm.then(|| layout.norm("output_norm", d));
        let projection = spec.projection.map(|e| layout.projection("projection", e, d));
        Self { spec: spec.clone(), stem, input_norm, blocks, output_norm, projection }
    }

    pub(crate) fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// # Shapes
    /// `t` ids in all, sequences at `offsets`; result: `[b, e]`.
    pub(crate) fn embed_ids(
        &self,
        exec: &Exec<'_>,
        ids: &Arc<[u32]>,
        offsets: Arc<[usize]>,
        observe: Observe<'_>,
    ) -> Tensor {
        let Stem::Tokens(tables) = self.stem else {
            unreachable!("text towers are checked to embed tokens")
        };
        let x = exec.embed_tokens(ids, &offsets, tables, self.spec.width); // [t, d]
        self.forward(exec, Packed { x, offsets }, observe)
    }

    /// # Shapes
    /// `pixels`: `[b · s · s, 3]`, result: `[b, e]`.
    pub(crate) fn embed_pixels(
        &self,
        exec: &Exec<'_>,
        pixels: &Tensor,
        shape: ImageShape,
        observe: Observe<'_>,
    ) -> Tensor {
        let Stem::Patches { patch, class, positions, patch_size } = self.stem else {
            unreachable!("image towers are checked to embed patches")
        };
        let windows = exec.unfold(pixels, shape, patch_size, patch_size); // [b·p, patch²·3]
        let patches = exec.linear(&windows, patch, Activation::Identity); // [b·p, d]
        let x = exec.image_tokens(&patches, shape.batch, class, positions); // [b·(p+1), d]
        let per_image = x.rows() / shape.batch;
        let offsets = (0..=shape.batch).map(|i| i * per_image).collect();
        self.forward(exec, Packed { x, offsets }, observe)
    }

    fn forward(&self, exec: &Exec<'_>, packed: Packed, observe: Observe<'_>) -> Tensor {
        let Packed { mut x, offsets } = packed;
        if let Some(norm) = self.input_norm {
            x = self.norm(exec, &x, norm);
        }
        observe("hidden.0", &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = match self.spec.norm {
                NormPlacement::Pre => self.pre_norm_block(exec, block, &x, &offsets),
                NormPlacement::Post => self.post_norm_block(exec, block, &x, &offsets),
            };
            observe(&format!("hidden.{}", i + 1), &x);
        }
        let mut pooled = self.pool(exec, &x, &offsets); // [b, d]
        observe("pooled", &pooled);
        if let Some(projection) = self.projection {
            pooled = exec.linear(&pooled, projection, Activation::Identity); // [b, e]
        }
        exec.normalize(&pooled)
    }

    fn pre_norm_block(&self, exec: &Exec<'_>, b: &Block, x: &Tensor, at: &Arc<[usize]>) -> Tensor {
        let attended = self.attend(exec, b, &self.norm(exec, x, b.attention_norm), at);
        let x = exec.add(x, &attended);
        let mixed = self.mlp(exec, b, &self.norm(exec, &x, b.mlp_norm));
        exec.add(&x, &mixed)
    }

    fn post_norm_block(&self, exec: &Exec<'_>, b: &Block, x: &Tensor, at: &Arc<[usize]>) -> Tensor {
        let attended = self.attend(exec, b, x, at);
        let x = self.norm(exec, &exec.add(x, &attended), b.attention_norm);
        let mixed = self.mlp(exec, b, &x);
        self.norm(exec, &exec.add(&x, &mixed), b.mlp_norm)
    }

    fn attend(&self, exec: &Exec<'_>, b: &Block, x: &Tensor, offsets: &Arc<[usize]>) -> Tensor {
        let spec = AttentionSpec { heads: self.spec.heads, mask: self.spec.mask };
        let qkv = exec.linear(x, b.qkv, Activation::Identity); // [t, 3d]
        let mixed = exec.attention(&qkv, offsets, spec); // [t, d]
        exec.linear(&mixed, b.out, Activation::Identity)
    }

    fn mlp(&self, exec: &Exec<'_>, b: &Block, x: &Tensor) -> Tensor {
        let hidden = exec.linear(x, b.up, self.spec.activation); // [t, mlp_width]
        exec.linear(&hidden, b.down, Activation::Identity)
    }

    /// The norm acts on each row alone, so behind a pooling that picks a row it costs one row.
    fn pool(&self, exec: &Exec<'_>, x: &Tensor, offsets: &Arc<[usize]>) -> Tensor {
        let Some(norm) = self.output_norm else {
            return exec.pool_sequences(x, offsets, self.spec.pooling);
        };
        match self.spec.pooling {
            Pooling::Mean => exec.pool_sequences(&self.norm(exec, x, norm), offsets, Pooling::Mean),
            pick @ (Pooling::First | Pooling::Last) => {
                self.norm(exec, &exec.pool_sequences(x, offsets, pick), norm)
            }
        }
    }

    fn norm(&self, exec: &Exec<'_>, x: &Tensor, (weight, bias): Norm) -> Tensor {
        exec.layer_norm(x, weight, bias, self.spec.norm_eps)
    }

    /// The most tokens one sequence may have.
    pub(crate) fn max_tokens(&self) -> usize {
        match self.spec.input {
            EncoderInput::Tokens { positions, .. } => positions,
            EncoderInput::Patches { image_size, patch_size } => {
                (image_size / patch_size).pow(2) + 1
            }
        }
    }
}

impl Stem {
    fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Self {
        let d = spec.width;
        let table = |layout: &mut Layout, name: &str, rows: usize, decay: bool| {
            layout.declare(name, &[rows, d], Init::Normal { std: 0.02 }, decay)
        };
        match spec.input {
            EncoderInput::Tokens { vocabulary, positions, types } => Self::Tokens(TokenTables {
                tokens: table(layout, "tokens.weight", vocabulary, true),
                positions: Some(table(layout, "positions.weight", positions, false)),
                types: (types > 0).then(|| table(layout, "types.weight", types, false)),
            }),
            EncoderInput::Patches { image_size, patch_size } => Self::Patches {
                patch: layout.projection("patch", d, patch_size * patch_size * 3),
                class: layout.declare("class", &[d], Init::Normal { std: 0.02 }, false),
                positions: {
                    let tokens = (image_size / patch_size).pow(2) + 1;
                    table(layout, "positions.weight", tokens, false)
                },
                patch_size,
            },
        }
    }
}

impl Block {
    /// Deviations as in CLIP's reference: residual branches shrink with depth.
    fn declare(spec: &EncoderSpec, i: usize, layout: &mut Layout) -> Self {
        let (d, m) = (spec.width, spec.mlp_width);
        let std = (d as f32).powf(-0.5);
        let residual = std * (2.0 * spec.layers as f32).powf(-0.5);
        let name = |part: &str| format!("layers.{i}.{part}");
        Self {
            attention_norm: layout.norm(&name("attention.norm"), d),
            qkv: layout.linear(&name("attention.qkv"), 3 * d, d, std),
            out: layout.linear(&name("attention.out"), d, d, residual),
            mlp_norm: layout.norm(&name("mlp.norm"), d),
            up: layout.linear(&name("mlp.up"), m, d, (2.0 * d as f32).powf(-0.5)),
            down: layout.linear(&name("mlp.down"), d, m, residual),
        }
    }
}
