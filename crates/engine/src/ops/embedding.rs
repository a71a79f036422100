//! Token embeddings: `y = E[id] + P[position] + T[type]`.
//!
//! The backward adds each row of `dy` to the rows it was made of, in order of the tokens.

use std::sync::Arc;

use crate::{
    Exec, ParamId, Tensor, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
    vectorize,
};

/// The tables a token's embedding is summed from.
#[derive(Debug, Clone, Copy)]
pub struct TokenTables {
    /// `[v, d]`
    pub tokens: ParamId,
    /// `[max positions, d]`
    pub positions: Option<ParamId>,
    /// `[types, d]`
    pub types: Option<ParamId>,
}

/// Token ids of packed sequences: those of sequence `i` are `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// The ids of all sequences, one behind the other, `t` in all.
    pub ids: Arc<[u32]>,
    /// The type of each token; type 0 for all where there are none.
    pub types: Option<Arc<[u32]>>,
    /// `b + 1` ascending positions from 0 to `t`.
    pub offsets: Arc<[usize]>,
    /// How many tokens of each sequence, from its first, attention sees; all where there are none.
    pub visible: Option<Arc<[usize]>>,
}

impl TokenBatch {
    fn type_of(&self, token: usize) -> usize {
        self.types.as_ref().map_or(0, |types| types[token] as usize)
    }
}

impl Exec<'_> {
    /// Looks up the tokens of packed sequences.
    ///
    /// # Shapes
    /// Result: `[t, d]`.
    ///
    /// # Panics
    /// When an id, a type or a position is outside its table; callers check them.
    #[must_use]
    pub fn embed_tokens(&self, batch: &TokenBatch, tables: TokenTables, d: usize) -> Tensor {
        let TokenBatch { ids, offsets, .. } = batch;
        let mut y = self.take(ids.len() * d);
        let tokens = self.values(tables.tokens);
        let positions = tables.positions.map(|p| self.value(p));
        let types = tables.types.map(|t| self.value(t));
        simd::for_row_blocks(
            y.as_mut(),
            d,
            #[inline(always)]
            |first, y| {
                let mut sequence = offsets.partition_point(|start| *start <= first).max(1) - 1;
                for (token, out) in (first..).zip(y.chunks_exact_mut(d)) {
                    while token >= offsets[sequence + 1] {
                        sequence += 1;
                    }
                    tokens.read(ids[token] as usize * d, out);
                    if let Some(positions) = positions {
                        simd::add_assign(out, row(positions, token - offsets[sequence], d));
                    }
                    if let Some(types) = types {
                        simd::add_assign(out, row(types, batch.type_of(token), d));
                    }
                }
            },
        );
        let parameters: Vec<_> =
            [Some(tables.tokens), tables.positions, tables.types].into_iter().flatten().collect();
        let backward = self.records(&[], &parameters).then(|| {
            Box::new(EmbedTokens { batch: batch.clone(), tables, d }) as Box<dyn Backward>
        });
        self.output((ids.len(), d), y, backward)
    }
}

fn row(table: &[f32], idx: usize, d: usize) -> &[f32] {
    &table[idx * d..(idx + 1) * d]
}

struct EmbedTokens {
    batch: TokenBatch,
    tables: TokenTables,
    d: usize,
}

impl Backward for EmbedTokens {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let (d, dy) = (self.d, dy.as_ref());
        let rows = || dy.chunks_exact(d);
        if let Some((_, gradient)) = cx.trained(self.tables.tokens) {
            for (dy, &id) in rows().zip(self.batch.ids.iter()) {
                let id = id as usize;
                vectorize(
                    #[inline(always)]
                    || simd::add_assign(&mut gradient[id * d..(id + 1) * d], dy),
                );
            }
        }
        if let Some((_, gradient)) = self.tables.positions.and_then(|p| cx.trained(p)) {
            for sequence in self.batch.offsets.windows(2) {
                let dy = &dy[sequence[0] * d..sequence[1] * d];
                vectorize(
                    #[inline(always)]
                    || simd::add_assign(&mut gradient[..dy.len()], dy),
                );
            }
        }
        if let Some((_, gradient)) = self.tables.types.and_then(|t| cx.trained(t)) {
            for (token, dy) in rows().enumerate() {
                let kind = self.batch.type_of(token);
                vectorize(
                    #[inline(always)]
                    || simd::add_assign(&mut gradient[kind * d..(kind + 1) * d], dy),
                );
            }
        }
    }
}
