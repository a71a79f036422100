//! The transformer encoder: declared from a spec, one forward for training and inference.
//!
//! In:  token ids or pixels. Out: one vector per sequence, `[b, e]`, or one per token, `[t, e]`.
//! Source: Vaswani et al. 2017 (post-norm), Dosovitskiy et al. 2021 and Radford et al. 2021 (pre-norm);
//! each rule of the spec names its own.
//! Parity: `testdata/parity`, a folder per family.

use std::sync::Arc;

use conjoin_engine::{
    Activation, AttentionSpec, Before, Exec, ImagePlaces, LinearParams, Onto, ParamId, Pictures,
    RowNorm, Tensor, TokenBatch, TokenTables,
};

use crate::{
    layout::{Init, Layout, Norm},
    places::Places,
    pooling::{Pool, Sequences},
    spec::{EncoderInput, EncoderSpec, HeadLayer, MlpRule, NormPlacement, OutputNorm, Pooling},
    tower::{Nobody, Observe},
};

/// An encoder whose parameters are declared.
#[derive(Debug)]
pub(crate) struct Encoder {
    spec: EncoderSpec,
    stem: Stem,
    input_norm: Option<Norm>,
    places: Places,
    blocks: Vec<Block>,
    output_norm: Option<Norm>,
    pool: Pool,
    head: Vec<HeadStep>,
}

#[derive(Debug)]
enum Stem {
    Tokens(TokenTables),
    Patches { patch: LinearParams, class: Option<ParamId>, positions: ParamId, patch_size: usize },
}

#[derive(Debug)]
struct Block {
    attention_norm: Option<Norm>,
    qkv: LinearParams,
    inner_norm: Option<Norm>,
    out: LinearParams,
    attention_scale: Option<ParamId>,
    mlp_norm: Norm,
    mlp: Mlp,
    mlp_scale: Option<ParamId>,
}

#[derive(Debug)]
pub(crate) struct Mlp {
    up: LinearParams,
    inner_norm: Option<Norm>,
    down: LinearParams,
}

#[derive(Debug)]
enum HeadStep {
    Dense(LinearParams, Activation),
    Norm(Norm, f32),
}

/// Where the sequences of a batch lie, how many tokens of each, from its first, are looked at, and at which
/// places the tokens stand where some before them are left out.
#[derive(Clone)]
struct Sight {
    offsets: Arc<[usize]>,
    visible: Option<Arc<[usize]>>,
    places: Option<Arc<[usize]>>,
}

impl Sight {
    fn of_tokens(batch: &TokenBatch) -> Self {
        Self { offsets: batch.offsets.clone(), visible: batch.visible.clone(), places: None }
    }

    /// The most tokens of a sequence, those left out included.
    fn longest(&self) -> usize {
        match &self.places {
            None => self.offsets.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0),
            Some(places) => places.iter().max().map_or(0, |last| last + 1),
        }
    }
}

impl Encoder {
    pub(crate) fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Self {
        let (d, norm) = (spec.width, spec.norm);
        let stem = Stem::declare(spec, layout);
        let input_norm = spec.input_norm.then(|| layout.norm("input_norm", d, norm.bias));
        let places = Places::declare(spec, layout);
        let blocks = (0..spec.layers).map(|i| Block::declare(spec, i, layout)).collect();
        let output_norm = match spec.output_norm {
            OutputNorm::None => None,
            OutputNorm::Tokens | OutputNorm::Pooled => {
                Some(layout.norm("output_norm", d, norm.bias))
            }
        };
        let pool = Pool::declare(spec, layout);
        let mut width = d;
        let mut head = Vec::with_capacity(spec.head.len());
        for (i, layer) in spec.head.iter().enumerate() {
            head.push(HeadStep::declare(*layer, &format!("head.{i}"), &mut width, layout));
        }
        Self { spec: spec.clone(), stem, input_norm, places, blocks, output_norm, pool, head }
    }

    pub(crate) fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// One vector per text.
    ///
    /// # Shapes
    /// Result: `[b, e]`.
    pub(crate) fn embed_ids(
        self: &Arc<Self>,
        exec: &Exec<'_>,
        batch: &TokenBatch,
        observe: Observe<'_>,
    ) -> Tensor {
        let x = self.token_embeddings(exec, batch);
        self.embed(exec, x, (&Sequences::of_tokens(batch), &Sight::of_tokens(batch)), observe)
    }

    /// One vector per kept token, for late interaction.
    ///
    /// # Shapes
    /// `kept`: `k` places in the batch, result: `[k, e]`.
    pub(crate) fn embed_each_token(
        self: &Arc<Self>,
        exec: &Exec<'_>,
        batch: &TokenBatch,
        kept: &Arc<[usize]>,
        observe: Observe<'_>,
    ) -> Tensor {
        let mut x = exec.pick_rows(&self.read_ids(exec, batch, observe), kept); // [k, d]
        if let Some(norm) = self.output_norm {
            x = self.norm(exec, &x, norm);
        }
        self.apply_head(exec, x)
    }

    /// The tokens behind the last layer, ready to be averaged by whoever pools.
    ///
    /// # Shapes
    /// Result: `[t, d]`.
    pub(crate) fn token_states(self: &Arc<Self>, exec: &Exec<'_>, batch: &TokenBatch) -> Tensor {
        let x = self.read_ids(exec, batch, &mut Nobody);
        match (self.output_norm, self.spec.output_norm) {
            (Some(norm), OutputNorm::Tokens) => self.norm(exec, &x, norm),
            (_, OutputNorm::None | OutputNorm::Tokens | OutputNorm::Pooled) => x,
        }
    }

    /// What comes behind the pooling of [`Encoder::token_states`].
    ///
    /// # Shapes
    /// `pooled`: `[b, d]`, result: `[b, e]`.
    pub(crate) fn finish_pooled(&self, exec: &Exec<'_>, pooled: Tensor) -> Tensor {
        let pooled = match (self.output_norm, self.spec.output_norm) {
            (Some(norm), OutputNorm::Pooled) => self.norm(exec, &pooled, norm),
            (_, OutputNorm::None | OutputNorm::Tokens | OutputNorm::Pooled) => pooled,
        };
        self.apply_head(exec, pooled)
    }

    fn token_embeddings(&self, exec: &Exec<'_>, batch: &TokenBatch) -> Tensor {
        let Stem::Tokens(tables) = self.stem else {
            unreachable!("text towers are checked to embed tokens")
        };
        exec.embed_tokens(batch, tables, self.spec.width) // [t, d]
    }

    fn read_ids(
        self: &Arc<Self>,
        exec: &Exec<'_>,
        batch: &TokenBatch,
        observe: Observe<'_>,
    ) -> Tensor {
        let x = self.token_embeddings(exec, batch);
        self.layers(exec, x, (self.blocks.len(), &Sight::of_tokens(batch)), observe)
    }

    /// One vector per picture. Patches that are not `kept` are left out before anything is computed of them.
    ///
    /// # Shapes
    /// `b` pictures of `[s, s, 3]` to `[b, e]`; `kept`: patches of each picture, all where there is none.
    pub(crate) fn embed_pictures(
        self: &Arc<Self>,
        exec: &Exec<'_>,
        pictures: &Pictures<'_>,
        kept: &[Option<&[u32]>],
        observe: Observe<'_>,
    ) -> Tensor {
        let Stem::Patches { patch, class, positions, patch_size } = self.stem else {
            unreachable!("image towers are checked to embed patches")
        };
        let mut windows = exec.patches(pictures, patch_size); // [b·p, patch²·3]
        let n_patches = windows.rows() / pictures.shape().batch;
        let of_picture = |kept: &Option<&[u32]>| match kept {
            None => (0..n_patches).collect::<Vec<usize>>(),
            Some(kept) => kept.iter().map(|patch| *patch as usize).collect(),
        };
        let patches: Vec<Vec<usize>> = kept.iter().map(of_picture).collect();
        let all = kept.iter().all(Option::is_none);
        if !all {
            let rows = patches.iter().enumerate();
            let rows = rows.flat_map(|(i, kept)| kept.iter().map(move |p| i * n_patches + p));
            windows = exec.pick_rows(&windows, &rows.collect());
        }
        let places = ImagePlaces::new(patches, class.is_some());
        let patches = exec.linear(&windows, patch, Activation::Identity); // [b·p, d]
        let x = exec.image_tokens(&patches, &places, class, positions); // [t, d]
        let sequences = Sequences::of_images(places.offsets(), class.is_some());
        let at = (!all).then(|| places.places().clone());
        let sight = Sight { offsets: places.offsets().clone(), visible: None, places: at };
        self.embed(exec, x, (&sequences, &sight), observe)
    }

    /// All layers, the pooling and the head. Where the pooling picks a row of each sequence and nobody
    /// wants to see the others, the last layer computes those rows only.
    fn embed(
        self: &Arc<Self>,
        exec: &Exec<'_>,
        x: Tensor,
        (sequences, sight): (&Sequences, &Sight),
        observe: Observe<'_>,
    ) -> Tensor {
        let picked = self.pool.picked(sequences);
        let all = exec.is_recording() || observe.listens();
        match (picked.filter(|_| !all), self.blocks.split_last()) {
            (Some(rows), Some((last, before))) => {
                let x = self.layers(exec, x, (before.len(), sight), observe);
                let mut x = self.last_layer(exec, last, (&x, &rows), sight); // [b, d]
                if let Some(norm) = self.output_norm {
                    x = self.norm(exec, &x, norm);
                }
                self.apply_head(exec, x)
            }
            _ => {
                let x = self.layers(exec, x, (self.blocks.len(), sight), observe);
                self.finish(exec, &x, sequences, observe)
            }
        }
    }

    /// The first `n` layers, each kept by its input alone where the workspace checkpoints.
    fn layers(
        self: &Arc<Self>,
        exec: &Exec<'_>,
        mut x: Tensor,
        (n, sight): (usize, &Sight),
        observe: Observe<'_>,
    ) -> Tensor {
        if let Some(norm) = self.input_norm {
            x = self.norm(exec, &x, norm);
        }
        observe.tell("hidden.0", &x);
        for i in 0..n {
            let (encoder, sight) = (self.clone(), sight.clone());
            x = exec.checkpointed(&x, move |exec, x| encoder.layer(exec, x, (i, &sight)));
            observe.tell(&format!("hidden.{}", i + 1), &x);
        }
        x
    }

    /// Pools, and applies the head.
    fn finish(
        &self,
        exec: &Exec<'_>,
        x: &Tensor,
        sequences: &Sequences,
        observe: Observe<'_>,
    ) -> Tensor {
        let pooled = self.pool(exec, x, sequences); // [b, d]
        observe.tell("pooled", &pooled);
        self.apply_head(exec, pooled)
    }

    fn apply_head(&self, exec: &Exec<'_>, mut x: Tensor) -> Tensor {
        for step in &self.head {
            x = match *step {
                HeadStep::Dense(p, activation) => exec.linear(&x, p, activation),
                HeadStep::Norm((weight, bias), eps) => {
                    exec.layer_norm(&x, RowNorm { weight, bias, eps })
                }
            };
        }
        if self.spec.normalize { exec.normalize(&x) } else { x }
    }

    fn layer(&self, exec: &Exec<'_>, x: &Tensor, at: (usize, &Sight)) -> Tensor {
        let b = &self.blocks[at.0];
        let qkv = exec.linear_behind(self.before_attention(b), x, b.qkv, IDENTITY); // [t, 3d]
        let mixed = exec.attention(&qkv, &at.1.offsets, self.attention_spec(at)); // [t, d]
        self.behind_attention(exec, b, x, &mixed)
    }

    fn before_attention(&self, b: &Block) -> Before {
        match self.spec.norm.placement {
            NormPlacement::Pre => self.before(b.attention_norm),
            NormPlacement::Post => Before::Nothing,
        }
    }

    /// The last layer for one row of each sequence.
    ///
    /// # Shapes
    /// `x`: `[t, d]`, `rows`: `b` of them, result: `[b, d]`.
    fn last_layer(
        &self,
        exec: &Exec<'_>,
        b: &Block,
        (x, rows): (&Tensor, &Arc<[usize]>),
        sight: &Sight,
    ) -> Tensor {
        let d = self.spec.width;
        let before = self.before_attention(b);
        let picked = exec.pick_rows(x, rows); // [b, d]
        let q = exec.linear_part(before, &picked, b.qkv, 0..d);
        let kv = exec.linear_part(before, x, b.qkv, d..3 * d); // [t, 2d]
        let spec = self.attention_spec((self.blocks.len() - 1, sight));
        let mixed = exec.attention_of(&q, &kv, &sight.offsets, rows, spec); // [b, d]
        self.behind_attention(exec, b, &picked, &mixed)
    }

    fn attention_spec(&self, (layer, sight): (usize, &Sight)) -> AttentionSpec {
        let longest = sight.longest();
        let (rotary, reach) = self.places.of_layer(layer, longest);
        let bias = self.places.bias(longest);
        let visible = sight.visible.clone();
        let rule = &self.spec.attention;
        let places = sight.places.clone();
        AttentionSpec { heads: rule.heads, mask: rule.mask, reach, bias, rotary, visible, places }
    }

    /// What follows attention in a block: its projection, the MLP, both added to what they come from.
    fn behind_attention(&self, exec: &Exec<'_>, b: &Block, x: &Tensor, mixed: &Tensor) -> Tensor {
        let onto = Onto { residual: x, factors: b.attention_scale };
        let sum = exec.linear_onto(onto, self.before(b.inner_norm), mixed, b.out);
        match self.spec.norm.placement {
            NormPlacement::Pre => self.mlp(exec, b, self.before(Some(b.mlp_norm)), &sum),
            NormPlacement::Post => {
                let x = b.attention_norm.map_or_else(|| sum.clone(), |n| self.norm(exec, &sum, n));
                self.norm(exec, &self.mlp(exec, b, Before::Nothing, &x), b.mlp_norm)
            }
        }
    }

    /// `x + γ ∘ down(act(up(before(x))))`
    fn mlp(&self, exec: &Exec<'_>, b: &Block, before: Before, x: &Tensor) -> Tensor {
        let MlpRule { activation, gated, .. } = self.spec.mlp;
        let (hidden, before) = match (gated, b.mlp.inner_norm) {
            (false, None) => exec.linear_first(before, x, b.mlp.up, activation),
            (false, norm) => {
                (exec.linear_behind(before, x, b.mlp.up, activation), self.before(norm))
            }
            (true, None) => {
                let hidden = exec.linear_behind(before, x, b.mlp.up, IDENTITY);
                (hidden, Before::Gate(activation))
            }
            (true, norm) => {
                let hidden = exec.linear_behind(before, x, b.mlp.up, IDENTITY);
                (exec.gate(&hidden, activation), self.before(norm))
            }
        }; // [t, mlp width]
        exec.linear_onto(Onto { residual: x, factors: b.mlp_scale }, before, &hidden, b.mlp.down)
    }

    /// The norm acts on each row alone, so behind a pooling that picks a row it costs one row.
    fn pool(&self, exec: &Exec<'_>, x: &Tensor, sequences: &Sequences) -> Tensor {
        let Some(norm) = self.output_norm else {
            return self.pool.apply(exec, x, sequences, self.spec.norm.eps);
        };
        let pooled_first = match self.spec.pooling {
            Pooling::First | Pooling::Last | Pooling::FirstId(_) | Pooling::LargestId => true,
            Pooling::Mean | Pooling::Patches | Pooling::Probe { .. } => {
                self.spec.output_norm == OutputNorm::Pooled
            }
        };
        let eps = self.spec.norm.eps;
        if pooled_first {
            self.norm(exec, &self.pool.apply(exec, x, sequences, eps), norm)
        } else {
            self.pool.apply(exec, &self.norm(exec, x, norm), sequences, eps)
        }
    }

    fn norm(&self, exec: &Exec<'_>, x: &Tensor, norm: Norm) -> Tensor {
        exec.layer_norm(x, self.row_norm(norm))
    }

    fn row_norm(&self, (weight, bias): Norm) -> RowNorm {
        RowNorm { weight, bias, eps: self.spec.norm.eps }
    }

    fn before(&self, norm: Option<Norm>) -> Before {
        norm.map_or(Before::Nothing, |norm| Before::Norm(self.row_norm(norm)))
    }
}

const IDENTITY: Activation = Activation::Identity;

impl Stem {
    fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Self {
        let d = spec.width;
        let table = |layout: &mut Layout, name: &str, rows: usize, decay: bool| {
            layout.declare(name, &[rows, d], Init::Normal { std: 0.02 }, decay)
        };
        match spec.input {
            EncoderInput::Tokens { vocabulary, max_tokens, positions, types } => {
                Self::Tokens(TokenTables {
                    tokens: table(layout, "tokens.weight", vocabulary, true),
                    positions: positions
                        .then(|| table(layout, "positions.weight", max_tokens, false)),
                    types: (types > 0).then(|| table(layout, "types.weight", types, false)),
                })
            }
            EncoderInput::Patches { patch_size, bias, class_token, .. } => Self::Patches {
                patch: {
                    let k = patch_size * patch_size * 3;
                    layout.linear("patch", (d, k), (k as f32).powf(-0.5), bias)
                },
                class: class_token
                    .then(|| layout.declare("class", &[d], Init::Normal { std: 0.02 }, false)),
                positions: table(layout, "positions.weight", spec.max_tokens(), false),
                patch_size,
            },
        }
    }
}

impl Block {
    /// Deviations as in CLIP's reference: residual branches shrink with depth.
    fn declare(spec: &EncoderSpec, i: usize, layout: &mut Layout) -> Self {
        let (d, bias, rule) = (spec.width, spec.norm.bias, &spec.attention);
        let std = (d as f32).powf(-0.5);
        let residual = std * (2.0 * spec.layers as f32).powf(-0.5);
        let name = |part: &str| format!("layers.{i}.{part}");
        let scale = |layout: &mut Layout, part: &str| {
            spec.layer_scale.then(|| layout.declare(&name(part), &[d], Init::Ones, false))
        };
        Self {
            attention_norm: (i > 0 || spec.norm.first)
                .then(|| layout.norm(&name("attention.norm"), d, bias)),
            qkv: layout.qkv(&name("attention.qkv"), d, std, rule.qkv_bias),
            inner_norm: rule
                .inner_norm
                .then(|| layout.norm(&name("attention.inner_norm"), d, bias)),
            out: layout.linear(&name("attention.out"), (d, d), residual, rule.out_bias),
            attention_scale: scale(layout, "attention.scale"),
            mlp_norm: layout.norm(&name("mlp.norm"), d, bias),
            mlp: Mlp::declare(&spec.mlp, (d, bias), residual, &name("mlp"), layout),
            mlp_scale: scale(layout, "mlp.scale"),
        }
    }
}

impl Mlp {
    fn declare(
        rule: &MlpRule,
        (d, norm_bias): (usize, bool),
        residual: f32,
        name: &str,
        layout: &mut Layout,
    ) -> Self {
        let rows = if rule.gated { 2 * rule.width } else { rule.width };
        let std = (2.0 * d as f32).powf(-0.5);
        Self {
            up: layout.linear(&format!("{name}.up"), (rows, d), std, rule.up_bias),
            inner_norm: rule
                .inner_norm
                .then(|| layout.norm(&format!("{name}.inner_norm"), rule.width, norm_bias)),
            down: layout.linear(&format!("{name}.down"), (d, rule.width), residual, rule.down_bias),
        }
    }
}

impl HeadStep {
    fn declare(layer: HeadLayer, name: &str, width: &mut usize, layout: &mut Layout) -> Self {
        match layer {
            HeadLayer::Dense { width: n, bias, activation } => {
                let k = std::mem::replace(width, n);
                let std = (k as f32).powf(-0.5);
                Self::Dense(layout.linear(name, (n, k), std, bias), activation)
            }
            HeadLayer::Norm { eps, bias } => Self::Norm(layout.norm(name, *width, bias), eps),
        }
    }
}
