//! Descriptions of tensors, layer by layer, for towers that are written under names we choose.
//!
//! In:  our names and theirs. Out: [`ForeignTensor`]s of the usual shapes.

use crate::{Content, ForeignTensor, Order, Piece, origin::Turned};

/// Tensors made of the parameters of one tower.
#[derive(Debug)]
pub(crate) struct Laying {
    tower: &'static str,
    tensors: Turned,
}

/// What a library calls the layers of a transformer block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockNames {
    pub(crate) qkv: QkvNames,
    pub(crate) out: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) mlp_norm: &'static str,
}

/// What it calls queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub(crate) enum QkvNames {
    /// Three layers.
    Apart([&'static str; 3]),
    /// One layer; `weight` and `bias` follow without a dot.
    Fused(&'static str),
}

impl Laying {
    /// Tensors of the tower with this prefix.
    pub(crate) fn of(tower: &'static str) -> Self {
        Self { tower, tensors: Turned::default() }
    }

    pub(crate) fn finish(self) -> Vec<ForeignTensor> {
        self.tensors.tensors()
    }

    pub(crate) fn filled(&mut self, theirs: &str, shape: &[usize], value: f32) {
        self.tensors.put(theirs, shape.to_vec(), Content::Filled(value));
    }

    /// A tensor that holds one of our parameters from its value `from` on.
    fn piece(&mut self, theirs: &str, ours: &str, shape: &[usize], order: Order, from: usize) {
        let (parameter, count) = (format!("{}{ours}", self.tower), shape.iter().product());
        let piece = Piece { parameter, order, from, count, to: 0 };
        self.tensors.piece(theirs, shape.to_vec(), piece);
    }

    pub(crate) fn whole(&mut self, theirs: &str, ours: &str, shape: &[usize]) {
        self.piece(theirs, ours, shape, Order::Same, 0);
    }

    /// With the order that the library wants.
    pub(crate) fn ordered(&mut self, theirs: &str, ours: &str, shape: &[usize], order: Order) {
        self.piece(theirs, ours, shape, order, 0);
    }

    /// A table that begins with `first` rows of zeros.
    pub(crate) fn behind(&mut self, theirs: &str, ours: &str, [rows, d]: [usize; 2], first: usize) {
        let parameter = format!("{}{ours}", self.tower);
        let (count, to) = (rows * d, first * d);
        let piece = Piece { parameter, order: Order::Same, from: 0, count, to };
        self.tensors.piece(theirs, vec![first + rows, d], piece);
    }

    /// Weight `[n, k]` and bias of a linear layer.
    pub(crate) fn linear(&mut self, theirs: &str, ours: &str, [n, k]: [usize; 2]) {
        self.whole(&format!("{theirs}.weight"), &format!("{ours}.weight"), &[n, k]);
        self.whole(&format!("{theirs}.bias"), &format!("{ours}.bias"), &[n]);
    }

    /// Weight and bias of a norm of width `d`.
    pub(crate) fn norm(&mut self, theirs: &str, ours: &str, d: usize) {
        self.whole(&format!("{theirs}.weight"), &format!("{ours}.weight"), &[d]);
        self.whole(&format!("{theirs}.bias"), &format!("{ours}.bias"), &[d]);
    }

    /// Layer `i` of a transformer of width `d` and MLP width `m`.
    pub(crate) fn block(&mut self, i: usize, prefix: &str, names: &BlockNames, [d, m]: [usize; 2]) {
        let theirs = |part: &str| format!("{prefix}.{i}.{part}");
        let ours = |part: &str| format!("layers.{i}.{part}");
        let qkv = ours("attention.qkv");
        let (weight, bias) = (format!("{qkv}.weight"), format!("{qkv}.bias"));
        match names.qkv {
            QkvNames::Fused(name) => {
                self.whole(&theirs(&format!("{name}weight")), &weight, &[3 * d, d]);
                self.whole(&theirs(&format!("{name}bias")), &bias, &[3 * d]);
            }
            QkvNames::Apart(parts) => {
                for (j, part) in parts.into_iter().enumerate() {
                    let (part, same) = (theirs(part), Order::Same);
                    self.piece(&format!("{part}.weight"), &weight, &[d, d], same, j * d * d);
                    self.piece(&format!("{part}.bias"), &bias, &[d], same, j * d);
                }
            }
        }
        self.linear(&theirs(names.out), &ours("attention.out"), [d, d]);
        self.norm(&theirs(names.attention_norm), &ours("attention.norm"), d);
        self.linear(&theirs(names.up), &ours("mlp.up"), [m, d]);
        self.linear(&theirs(names.down), &ours("mlp.down"), [d, m]);
        self.norm(&theirs(names.mlp_norm), &ours("mlp.norm"), d);
    }
}
