//! Our parameters as somebody else's tensors.
//!
//! In:  a model and [`ForeignTensor`]s. Out: their bytes. The inverse of `weights`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use conjoin_core::{Parameter, Tower};
use safetensors::{Dtype, View};

use super::not_expressible;
use crate::{Content, ForeignTensor, Model, ModelErrorKind, Order, Piece};

/// The numbers of a model, by name.
#[derive(Debug)]
pub(crate) struct Numbers<'a> {
    parameters: BTreeMap<&'a str, &'a Parameter>,
    log_scale: f32,
    score_bias: f32,
}

/// A tensor that is made when it is written.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    numbers: &'a Numbers<'a>,
    tensor: &'a ForeignTensor,
}

impl<'a> Numbers<'a> {
    pub(crate) fn of(model: &'a Model) -> Self {
        let spec = model.spec();
        let parameters = parameters(model).map(|p| (p.name.as_str(), p)).collect();
        Self { parameters, log_scale: spec.log_scale, score_bias: spec.score_bias }
    }

    pub(crate) fn view(&'a self, tensor: &'a ForeignTensor) -> Tensor<'a> {
        Tensor { numbers: self, tensor }
    }

    /// Passes when every tensor can be made, and every parameter goes into one.
    pub(crate) fn check<'b>(
        &self,
        tensors: impl Iterator<Item = &'b ForeignTensor>,
    ) -> Result<(), ModelErrorKind> {
        let mut missing: BTreeSet<&str> = self.parameters.keys().copied().collect();
        for tensor in tensors {
            let Content::Pieces(pieces) = &tensor.content else { continue };
            let n: usize = tensor.shape.iter().product();
            for piece in pieces {
                let parameter = self.parameters.get(piece.parameter.as_str());
                let size = parameter.map_or(0, |p| p.value.len());
                let end = |start: usize| start.checked_add(piece.count);
                let fits = |start, size| end(start).is_some_and(|end| end <= size);
                if !fits(piece.from, size) || !fits(piece.to, n) {
                    let (name, found) = (tensor.name.clone(), tensor.shape.clone());
                    let expected = parameter.map(|p| p.shape.clone()).unwrap_or_default();
                    return Err(ModelErrorKind::Shape { name, found, expected });
                }
                missing.remove(piece.parameter.as_str());
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(name) => Err(not_expressible("parameter", format!("`{name}`"))),
        }
    }

    /// The values of a tensor.
    ///
    /// # Panics
    /// When it is made of a parameter the model lacks; see [`Numbers::check`].
    pub(crate) fn values(&self, tensor: &ForeignTensor) -> Vec<f32> {
        let n = tensor.shape.iter().product();
        match &tensor.content {
            Content::Filled(value) => vec![*value; n],
            Content::LogScale => vec![self.log_scale; n],
            Content::ScoreBias => vec![self.score_bias; n],
            Content::Pieces(pieces) => {
                let mut values = vec![0.0; n];
                for piece in pieces {
                    let part = &self.ordered(piece, &tensor.shape)[piece.from..][..piece.count];
                    values[piece.to..][..piece.count].copy_from_slice(part);
                }
                values
            }
        }
    }

    fn ordered(&self, piece: &Piece, shape: &[usize]) -> Cow<'_, [f32]> {
        let parameter = self.parameters.get(piece.parameter.as_str());
        let parameter = parameter.expect("an export is made of the model's own parameters");
        let (x, columns) = (&*parameter.value, parameter.shape.last().copied().unwrap_or(1));
        match (piece.order, shape) {
            (Order::Transposed, _) => transposed(x, columns).into(),
            // Pixels of a kernel, and channels of a pixel.
            (Order::Kernel, [_, c, ..]) => {
                x.chunks(columns).flat_map(|row| transposed(row, *c)).collect()
            }
            (Order::Same | Order::Kernel, _) => x.into(),
        }
    }
}

/// `[n, k]` to `[k, n]`.
fn transposed(x: &[f32], k: usize) -> Vec<f32> {
    (0..k).flat_map(|j| x.iter().skip(j).step_by(k).copied()).collect()
}

/// All parameters of a model.
pub(crate) fn parameters(model: &Model) -> impl Iterator<Item = &Parameter> {
    let parts = model.parts();
    let text = parts.text.iter().flat_map(Tower::parameters);
    text.chain(parts.image.iter().flat_map(Tower::parameters))
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.numbers.values(self.tensor).iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() * 4
    }
}
