//! Multi-head self-attention over packed sequences, without padding.
//!
//! `o = softmax(q kᵀ / √c + B) v` per sequence and head, with `B` a number per distance of two tokens, and
//! `q` and `k` turned to their positions where there is a rotary table. Sequences lie one behind the
//! other at `offsets`, so no token ever sees another sequence. No `[t, t]` matrix is written: scores are
//! computed for a block of queries at a time, and again in the backward.
//! Source: Vaswani et al. 2017; `B` as in Press et al. 2022 and Raffel et al. 2020; recomputation as in Dao et al. 2022.

mod backward;
mod bias;
mod forward;
mod work;

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Exec, ParamId, Precision, RotaryTable, Tensor, tape::Backward};
use bias::ByDistance;
use work::{Operands, Rows, Unit, Work};

/// Keys are looked at in groups of this many, which are whole vectors on any machine.
const LANES: usize = 16;

/// Which tokens a token may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All tokens of its sequence.
    Bidirectional,
    /// Itself and those before it.
    Causal,
}

/// What is added to the scores for the distance of two tokens.
#[derive(Debug, Clone)]
pub enum DistanceBias {
    /// `−m |i − j|` with this slope `m` for each head.
    Alibi(Arc<[f32]>),
    /// A learned number per bucket and head.
    Buckets {
        /// `[buckets, h]`
        table: ParamId,
        /// `2 n − 1` buckets, for `j − i` from `−(n − 1)` to `n − 1`, `n` the longest sequence.
        bucket_of: Arc<[usize]>,
    },
}

/// How attention is computed.
#[derive(Debug, Clone)]
pub struct AttentionSpec {
    /// Number of heads `h`; it divides the width.
    pub heads: usize,
    /// Which tokens are seen.
    pub mask: Mask,
    /// How many tokens to the left and right are seen; all of them when there is no number.
    pub reach: Option<usize>,
    /// What is added to the scores.
    pub bias: Option<DistanceBias>,
    /// How queries and keys are turned to their positions.
    pub rotary: Option<Arc<RotaryTable>>,
    /// How many tokens of each sequence, from its first, are seen by others and itself; all of them
    /// when there are no numbers. A token that sees none gets zeros.
    pub visible: Option<Arc<[usize]>>,
    /// The position that each token is turned to, `t` of them; its place in its sequence when there are
    /// no numbers. Masks, reach and biases go by the place in the sequence either way.
    pub places: Option<Arc<[usize]>>,
}

impl AttentionSpec {
    /// Attention to all tokens of the mask, without a bias.
    #[must_use]
    pub fn plain(heads: usize, mask: Mask) -> Self {
        Self { heads, mask, reach: None, bias: None, rotary: None, visible: None, places: None }
    }
}

impl DistanceBias {
    fn parameter(&self) -> Option<ParamId> {
        match self {
            Self::Alibi(_) => None,
            Self::Buckets { table, .. } => Some(*table),
        }
    }
}

impl Exec<'_> {
    /// Self-attention of packed sequences.
    ///
    /// # Shapes
    /// `qkv`: `[t, 3 d]` (queries, keys, values side by side, each `h` heads of `c = d / h`),
    /// `offsets`: `b + 1` positions, result: `[t, d]`.
    ///
    /// # Panics
    /// When the heads do not divide the width, the offsets do not cover the tokens, the visible tokens
    /// are told of another number of sequences, or the rotary table is too short or of another width, or there
    /// is not a position per token.
    #[must_use]
    pub fn attention(&self, qkv: &Tensor, offsets: &Arc<[usize]>, spec: AttentionSpec) -> Tensor {
        let learned: Vec<_> = spec.bias.iter().filter_map(DistanceBias::parameter).collect();
        let work = self.work((qkv.rows(), qkv.cols() / 3), offsets, spec);
        assert_eq!(qkv.cols(), 3 * work.d, "queries, keys and values");
        let mut out = self.take(qkv.rows() * work.d);
        work.forward(Operands::side_by_side(qkv), &work.units(), out.as_mut());
        let shape = (qkv.rows(), work.d);
        let backward = self
            .records(&[qkv], &learned)
            .then(|| backward::node(qkv.clone(), work) as Box<dyn Backward>);
        self.output(shape, out, backward)
    }

    /// Attention of one token per sequence to all of it: those rows of [`Exec::attention`], bit for bit.
    /// It keeps nothing for a backward.
    ///
    /// # Shapes
    /// `q`: `[b, d]`, `kv`: `[t, 2 d]` (keys, values), `offsets`: `b + 1` positions, `queries`: the token
    /// of each query, a row of `kv`; result: `[b, d]`.
    ///
    /// # Panics
    /// As [`Exec::attention`]; and when a query is not a token of its sequence, or the pass records.
    #[must_use]
    pub fn attention_of(
        &self,
        q: &Tensor,
        kv: &Tensor,
        offsets: &Arc<[usize]>,
        queries: &[usize],
        spec: AttentionSpec,
    ) -> Tensor {
        assert!(!self.is_recording(), "single queries are for inference");
        let (b, d) = (q.rows(), q.cols());
        assert!(
            kv.cols() == 2 * d && queries.len() == b,
            "a query per sequence, of the keys' width"
        );
        let work = self.work((kv.rows(), d), offsets, spec);
        let unit = |(i, query): (usize, &usize)| {
            let sequence = offsets[i]..offsets[i + 1];
            assert!(sequence.contains(query), "query {query} in its sequence {sequence:?}");
            let position = query - sequence.start;
            work.unit(i, position..position + 1, i)
        };
        let units: Vec<Unit> = queries.iter().enumerate().map(unit).collect();
        let of = Operands { q: Rows::of(q, 0), k: Rows::of(kv, 0), v: Rows::of(kv, d) };
        let mut out = self.take(b * d);
        work.forward(of, &units, out.as_mut());
        self.output((b, d), out, None)
    }

    /// Checks what is told of `t` tokens of width `d`.
    fn work(&self, (t, d): (usize, usize), offsets: &Arc<[usize]>, spec: AttentionSpec) -> Work {
        assert_eq!(d % spec.heads, 0, "heads divide the width");
        assert_eq!(offsets[offsets.len() - 1], t, "offsets cover the tokens");
        let n_visible = spec.visible.as_ref().map_or(offsets.len() - 1, |v| v.len());
        assert_eq!(n_visible, offsets.len() - 1, "a number of visible tokens per sequence");
        let longest = offsets.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(1);
        assert!(
            spec.places.as_ref().is_none_or(|places| places.len() == t),
            "a position per token"
        );
        if let Some(table) = &spec.rotary {
            assert_eq!(2 * table.pairs(), d / spec.heads, "pairs of the channels of a head");
            let last = spec.places.as_ref().and_then(|places| places.iter().max());
            let n = last.map_or(longest, |last| last + 1);
            assert!(n <= table.positions(), "a position for every token");
        }
        let bias = spec.bias.as_ref().map(|b| ByDistance::of(b, spec.heads, longest.max(1), self));
        let precision = match (self.precision(), self.is_recording()) {
            (Precision::F32, _) | (Precision::Int8, true) => Precision::F32,
            (Precision::Bf16, _) | (Precision::Int8, false) => Precision::Bf16,
        };
        Work { offsets: offsets.clone(), d, spec, bias, precision }
    }
}

impl Work {
    /// Computes the units, whose rows fill `out`, on all threads.
    fn forward(&self, of: Operands<'_>, units: &[Unit], out: &mut [f32]) {
        let tasks = self.tasks(units, out, self.d);
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(units, out)| forward::run(self, of, units, out));
    }
}
