//! Token embeddings: `y = E[id] + P[position] + T[0]`.
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
    /// `[types, d]`; type 0 is used.
    pub types: Option<ParamId>,
}

impl Exec<'_> {
    /// Looks up the tokens of packed sequences.
    ///
    /// # Shapes
    /// `ids`: `t` ids in all, sequences at `offsets` (`b + 1` positions); result: `[t, d]`.
    ///
    /// # Panics
    /// When an id or a position is outside its table; callers check both.
    #[must_use]
    pub fn embed_tokens(
        &self,
        ids: &Arc<[u32]>,
        offsets: &Arc<[usize]>,
        tables: TokenTables,
        d: usize,
    ) -> Tensor {
        let mut y = self.take(ids.len() * d);
        let tokens = self.value(tables.tokens);
        let positions = tables.positions.map(|p| self.value(p));
        let types = tables.types.map(|t| &self.value(t)[..d]);
        vectorize(|| {
            for sequence in offsets.windows(2) {
                let (start, end) = (sequence[0], sequence[1]);
                let out = y.as_mut()[start * d..end * d].chunks_exact_mut(d);
                for ((position, out), &id) in out.enumerate().zip(&ids[start..end]) {
                    out.copy_from_slice(row(tokens, id as usize, d));
                    if let Some(positions) = positions {
                        simd::add_assign(out, row(positions, position, d));
                    }
                    if let Some(types) = types {
                        simd::add_assign(out, types);
                    }
                }
            }
        });
        let parameters: Vec<_> =
            [Some(tables.tokens), tables.positions, tables.types].into_iter().flatten().collect();
        let backward = self.records(&[], &parameters).then(|| {
            let (ids, offsets) = (ids.clone(), offsets.clone());
            Box::new(EmbedTokens { ids, offsets, tables, d }) as Box<dyn Backward>
        });
        self.output((ids.len(), d), y, backward)
    }
}

fn row(table: &[f32], idx: usize, d: usize) -> &[f32] {
    &table[idx * d..(idx + 1) * d]
}

struct EmbedTokens {
    ids: Arc<[u32]>,
    offsets: Arc<[usize]>,
    tables: TokenTables,
    d: usize,
}

impl Backward for EmbedTokens {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let (d, dy) = (self.d, dy.as_ref());
        let rows = || dy.chunks_exact(d);
        if let Some((_, gradient)) = cx.trained(self.tables.tokens) {
            for (dy, &id) in rows().zip(self.ids.iter()) {
                let id = id as usize;
                vectorize(|| simd::add_assign(&mut gradient[id * d..(id + 1) * d], dy));
            }
        }
        if let Some((_, gradient)) = self.tables.positions.and_then(|p| cx.trained(p)) {
            for sequence in self.offsets.windows(2) {
                let dy = &dy[sequence[0] * d..sequence[1] * d];
                vectorize(|| simd::add_assign(&mut gradient[..dy.len()], dy));
            }
        }
        if let Some((_, gradient)) = self.tables.types.and_then(|t| cx.trained(t)) {
            for dy in rows() {
                vectorize(|| simd::add_assign(&mut gradient[..d], dy));
            }
        }
    }
}
