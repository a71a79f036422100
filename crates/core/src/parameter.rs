//! The trainable numbers of a model, by name, and their gradients.

use crate::Values;

/// One named tensor of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// The project's own dotted name, unique in the model (`text.layers.0.attention.qkv.weight`).
    pub name: String,
    /// The shape; `value` holds its product, row-major.
    pub shape: Vec<usize>,
    /// The numbers.
    pub value: Values,
    /// Whether weight decay applies: false for biases, norms, embeddings of positions and classes.
    pub decay: bool,
    /// Whether training leaves it alone; it then has no gradient and no optimiser state.
    pub frozen: bool,
}

/// Gradients aligned with a tower's parameters.
///
/// A frozen parameter has an empty gradient. Backward passes add; [`Gradients::clear`] starts anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    tensors: Vec<Vec<f32>>,
}

impl Gradients {
    /// Zeros for every parameter that is not frozen.
    #[must_use]
    pub fn zeros(parameters: &[Parameter]) -> Self {
        let tensors = parameters
            .iter()
            .map(|p| if p.frozen { Vec::new() } else { vec![0.0; p.value.len()] })
            .collect();
        Self { tensors }
    }

    /// Sets everything to zero, keeping the memory.
    pub fn clear(&mut self) {
        self.tensors.iter_mut().for_each(|t| t.fill(0.0));
    }

    /// The gradient of parameter `index`; empty when it is frozen.
    ///
    /// # Panics
    /// When `index` is out of range.
    #[must_use]
    pub fn get(&self, index: usize) -> &[f32] {
        &self.tensors[index]
    }

    /// The gradient of parameter `index`, writable; `None` when it is frozen.
    ///
    /// # Panics
    /// When `index` is out of range.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        let tensor = &mut self.tensors[index];
        (!tensor.is_empty()).then_some(tensor.as_mut_slice())
    }

    /// All gradients in the parameters' order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.tensors.iter().map(Vec::as_slice)
    }

    /// All gradients in the parameters' order, writable.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [f32]> {
        self.tensors.iter_mut().map(Vec::as_mut_slice)
    }
}
