//! From the tokens of a sequence to one vector.
//!
//! In:  `[t, d]` and where the sequences lie. Out: `[b, d]`.
//! Source: the MAP head is that of Zhai et al. 2022 (SigLIP).

use std::{ops::Range, sync::Arc};

use conjoin_engine::{
    Activation, Before, Exec, LinearParams, Onto, ParamId, RowNorm, Tensor, TokenBatch,
};

use crate::{
    layout::{Init, Layout, Norm},
    spec::{EncoderSpec, Pooling},
};

/// Where the sequences of a batch lie, and what their tokens are.
pub(crate) struct Sequences {
    offsets: Arc<[usize]>,
    /// The ids, for rules that look for one.
    ids: Option<Arc<[u32]>>,
    /// Tokens before the patches of an image.
    before: usize,
}

impl Sequences {
    pub(crate) fn of_tokens(batch: &TokenBatch) -> Self {
        Self { offsets: batch.offsets.clone(), ids: Some(batch.ids.clone()), before: 0 }
    }

    pub(crate) fn of_images(offsets: &Arc<[usize]>, class_token: bool) -> Self {
        Self { offsets: offsets.clone(), ids: None, before: usize::from(class_token) }
    }

    fn spans(&self, skip: usize) -> Arc<[Range<usize>]> {
        self.offsets.windows(2).map(|s| s[0] + skip..s[1]).collect()
    }

    /// A row of each sequence, chosen by its ids. A sequence without such an id gives its first row,
    /// as in the reference.
    fn pick(&self, choose: impl Fn(&[u32]) -> Option<usize>) -> Arc<[usize]> {
        let ids = self.ids.as_ref().expect("specs with such a rule are checked to read ids");
        let place = |s: Range<usize>| s.start + choose(&ids[s]).unwrap_or(0);
        self.spans(0).iter().cloned().map(place).collect()
    }
}

/// A pooling whose parameters are declared.
#[derive(Debug)]
pub(crate) struct Pool {
    rule: Pooling,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    heads: usize,
    query: ParamId,
    q: LinearParams,
    kv: LinearParams,
    out: LinearParams,
    norm: Norm,
    up: LinearParams,
    down: LinearParams,
    activation: Activation,
}

impl Pool {
    pub(crate) fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Self {
        let d = spec.width;
        let std = (d as f32).powf(-0.5);
        let mut linear =
            |name: &str, shape| layout.linear(&format!("probe.{name}"), shape, std, true);
        let probe = match spec.pooling {
            Pooling::Probe { heads, mlp_width, activation } => Some(Probe {
                heads,
                q: linear("q", (d, d)),
                kv: linear("kv", (2 * d, d)),
                out: linear("out", (d, d)),
                up: linear("mlp.up", (mlp_width, d)),
                down: linear("mlp.down", (d, mlp_width)),
                norm: layout.norm("probe.mlp.norm", d, true),
                query: layout.declare("probe.query", &[d], Init::Normal { std: 0.02 }, false),
                activation,
            }),
            Pooling::Mean
            | Pooling::Patches
            | Pooling::First
            | Pooling::Last
            | Pooling::FirstId(_)
            | Pooling::LargestId => None,
        };
        Self { rule: spec.pooling, probe }
    }

    /// # Shapes
    /// `x`: `[t, d]`, result: `[b, d]`.
    pub(crate) fn apply(
        &self,
        exec: &Exec<'_>,
        x: &Tensor,
        sequences: &Sequences,
        eps: f32,
    ) -> Tensor {
        if let Some(rows) = self.picked(sequences) {
            return exec.pick_rows(x, &rows);
        }
        match &self.probe {
            Some(probe) => probe.apply(exec, x, &sequences.offsets, eps),
            None if self.rule == Pooling::Patches => {
                exec.mean_rows(x, &sequences.spans(sequences.before))
            }
            None => exec.mean_rows(x, &sequences.spans(0)),
        }
    }

    /// The row of each sequence, where the rule picks one.
    pub(crate) fn picked(&self, sequences: &Sequences) -> Option<Arc<[usize]>> {
        let offsets = &sequences.offsets;
        match self.rule {
            Pooling::First => Some(offsets[..offsets.len() - 1].into()),
            Pooling::Last => Some(offsets[1..].iter().map(|end| end - 1).collect()),
            Pooling::FirstId(id) => Some(sequences.pick(|ids| ids.iter().position(|i| *i == id))),
            Pooling::LargestId => Some(sequences.pick(first_largest)),
            Pooling::Mean | Pooling::Patches | Pooling::Probe { .. } => None,
        }
    }
}

fn first_largest(ids: &[u32]) -> Option<usize> {
    let largest = ids.iter().max()?;
    ids.iter().position(|id| id == largest)
}

impl Probe {
    /// `a = attention(probe, x)`, `y = a + MLP(LN(a))`.
    fn apply(&self, exec: &Exec<'_>, x: &Tensor, offsets: &Arc<[usize]>, eps: f32) -> Tensor {
        let linear = |x: &Tensor, p| exec.linear(x, p, Activation::Identity);
        let q = linear(&exec.parameter(self.query, 1), self.q); // [1, d]
        let kv = linear(x, self.kv); // [t, 2d]
        let a = linear(&exec.probe(&q, &kv, offsets, self.heads), self.out); // [b, d]
        let (weight, bias) = self.norm;
        let norm = Before::Norm(RowNorm { weight, bias, eps });
        let hidden = exec.linear_behind(norm, &a, self.up, self.activation);
        exec.linear_onto(Onto::plain(&a), Before::Nothing, &hidden, self.down)
    }
}
