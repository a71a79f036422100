//! Attention of one learned query to the tokens of every sequence, and a parameter as a tensor.
//!
//! `o = Σⱼ pⱼ vⱼ` with `p = softmax(q kᵀ / √c)`, per sequence and head. Backward, with `dpⱼ = do · vⱼ` and
//! `dsⱼ = pⱼ (dpⱼ − Σ dp p) / √c`: `dvⱼ = pⱼ do`, `dkⱼ = dsⱼ q`, `dq = Σⱼ dsⱼ kⱼ`.
//! Source: the pooling of Lee et al. 2019 with one seed vector.

use std::sync::Arc;

use rayon::prelude::*;

use crate::{
    Exec, ParamId, Tensor, math, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
    vectorize,
};

impl Exec<'_> {
    /// A parameter's numbers as a tensor.
    ///
    /// # Shapes
    /// Result: `[rows, …]`, whole rows of the parameter.
    ///
    /// # Panics
    /// When the parameter has no whole rows.
    #[must_use]
    pub fn parameter(&self, id: ParamId, rows: usize) -> Tensor {
        let values = self.value(id);
        let mut y = self.take(values.len());
        y.as_mut().copy_from_slice(values);
        let backward =
            self.records(&[], &[id]).then(|| Box::new(OfParameter { id }) as Box<dyn Backward>);
        assert!(values.len().is_multiple_of(rows), "whole rows");
        self.output((rows, values.len() / rows), y, backward)
    }

    /// Each head of `q` looks at all tokens of each sequence.
    ///
    /// # Shapes
    /// `q`: `[1, d]`, `kv`: `[t, 2 d]` (keys, values), `offsets`: `b + 1` positions, result: `[b, d]`.
    ///
    /// # Panics
    /// When the heads do not divide the width or the offsets do not cover the tokens.
    #[must_use]
    pub fn probe(&self, q: &Tensor, kv: &Tensor, offsets: &Arc<[usize]>, heads: usize) -> Tensor {
        let d = q.cols();
        assert!(kv.cols() == 2 * d && d.is_multiple_of(heads), "heads divide the width");
        assert_eq!(offsets[offsets.len() - 1], kv.rows(), "offsets cover the tokens");
        let work = Probe { q: q.clone(), kv: kv.clone(), offsets: offsets.clone(), heads };
        let b = offsets.len() - 1;
        let mut y = self.take(b * d);
        y.as_mut().par_chunks_mut(d).enumerate().for_each(|(i, y)| {
            vectorize(
                #[inline(always)]
                || work.forward(i, y),
            );
        });
        let backward = self.records(&[q, kv], &[]).then(|| Box::new(work) as Box<dyn Backward>);
        self.output((b, d), y, backward)
    }
}

struct OfParameter {
    id: ParamId,
}

impl Backward for OfParameter {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        if let Some((_, gradient)) = cx.trained(self.id) {
            simd::add_assign(gradient, dy.as_ref());
        }
    }
}

struct Probe {
    q: Tensor,
    kv: Tensor,
    offsets: Arc<[usize]>,
    heads: usize,
}

impl Probe {
    fn width(&self) -> usize {
        self.q.cols()
    }

    /// Keys and values of one head of the tokens of sequence `i`.
    fn tokens(&self, i: usize, head: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        let (d, c) = (self.width(), self.width() / self.heads);
        (self.offsets[i]..self.offsets[i + 1]).map(move |token| {
            let row = self.kv.row(token);
            (&row[head * c..][..c], &row[d + head * c..][..c])
        })
    }

    /// The weights of the tokens of sequence `i`.
    #[inline(always)]
    fn weights(&self, i: usize, head: usize) -> Vec<f32> {
        let c = self.width() / self.heads;
        let (q, scale) = (&self.q.values()[head * c..][..c], 1.0 / (c as f32).sqrt());
        let mut p: Vec<f32> = self.tokens(i, head).map(|(k, _)| simd::dot(q, k) * scale).collect();
        let max = simd::max(&p);
        for p in p.iter_mut() {
            *p = math::exp(*p - max);
        }
        let inverse = 1.0 / simd::sum(&p);
        for p in p.iter_mut() {
            *p *= inverse;
        }
        p
    }

    #[inline(always)]
    fn forward(&self, i: usize, y: &mut [f32]) {
        y.fill(0.0);
        let c = self.width() / self.heads;
        for (head, y) in y.chunks_exact_mut(c).enumerate() {
            for ((_, v), p) in self.tokens(i, head).zip(self.weights(i, head)) {
                for (y, v) in y.iter_mut().zip(v) {
                    *y += p * v;
                }
            }
        }
    }

    /// Writes `[dk, dv]` of the tokens of sequence `i` and gives its part of `dq`.
    #[inline(always)]
    fn sequence_backward(&self, i: usize, dy: &[f32], d_kv: &mut [f32]) -> Vec<f32> {
        let (d, c) = (self.width(), self.width() / self.heads);
        let scale = 1.0 / (c as f32).sqrt();
        let mut dq = vec![0.0; d];
        for head in 0..self.heads {
            let at = head * c..(head + 1) * c;
            let (q, dy, dq) = (&self.q.values()[at.clone()], &dy[at.clone()], &mut dq[at]);
            let p = self.weights(i, head);
            let dp: Vec<f32> = self.tokens(i, head).map(|(_, v)| simd::dot(dy, v)).collect();
            let mean = simd::dot(&dp, &p);
            let rows = d_kv.chunks_exact_mut(2 * d).zip(self.tokens(i, head));
            for ((row, (k, _)), (p, dp)) in rows.zip(p.iter().zip(&dp)) {
                let ds = p * (dp - mean) * scale;
                let (dk, dv) = row.split_at_mut(d);
                let (dk, dv) = (&mut dk[head * c..][..c], &mut dv[head * c..][..c]);
                for x in 0..c {
                    dk[x] = ds * q[x];
                    dv[x] = p * dy[x];
                    dq[x] += ds * k[x];
                }
            }
        }
        dq
    }
}

impl Backward for Probe {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let d = self.width();
        let mut d_kv = cx.pool().take(self.kv.values().len());
        let mut pieces = Vec::with_capacity(self.offsets.len() - 1);
        let mut rest = d_kv.as_mut();
        for sequence in self.offsets.windows(2) {
            let (piece, more) = rest.split_at_mut((sequence[1] - sequence[0]) * 2 * d);
            pieces.push(piece);
            rest = more;
        }
        let parts: Vec<Vec<f32>> = pieces
            .into_par_iter()
            .zip(dy.as_ref().par_chunks_exact(d))
            .enumerate()
            .map(|(i, (d_kv, dy))| {
                vectorize(
                    #[inline(always)]
                    || self.sequence_backward(i, dy, d_kv),
                )
            })
            .collect();
        if let Some(kv) = self.kv.node() {
            cx.give(kv, d_kv);
        }
        if let Some(q) = self.q.node() {
            let mut dq = cx.pool().zeros(d);
            for part in parts.iter() {
                simd::add_assign(dq.as_mut(), part);
            }
            cx.give(q, dq);
        }
    }
}
