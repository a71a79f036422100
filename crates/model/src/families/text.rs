//! Text encoders by `model_type`: what layouts around them (sentence-transformers, rerankers, CLIP-like
//! pairs) have in common.
//!
//! In:  a transformers `config.json`. Out: a [`Body`]: the spec up to the last layer, and its names.

use conjoin_engine::Activation;

use super::{bert, config::Config};
use crate::{EncoderSpec, ModelErrorKind, Source};

/// An encoder without pooling and head: the spec has the first token's and none.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) spec: EncoderSpec,
    /// Our names, without the tower's prefix, to the file's.
    pub(crate) names: Vec<(String, Source)>,
    /// How the names of tensors begin that an encoder does not use.
    pub(crate) unused: Vec<String>,
}

impl Body {
    /// The same with the file's names behind `prefix`.
    pub(crate) fn under(self, prefix: &str) -> Self {
        let names = self.names.into_iter().map(|(ours, source)| (ours, source.under(prefix)));
        let unused = self.unused.into_iter().map(|name| format!("{prefix}{name}"));
        Self { spec: self.spec, names: names.collect(), unused: unused.collect() }
    }
}

/// Reads the configuration of any known text encoder.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    match config.text("model_type")? {
        "bert" => bert::body(config),
        _ => Err(config.unsupported("model_type", "`bert`")),
    }
}

/// One of transformers' names of activations.
pub(crate) fn activation(
    config: &Config,
    key: &str,
    default: &str,
) -> Result<Activation, ModelErrorKind> {
    let name = config.text_or(key, default)?;
    activation_named(name).ok_or_else(|| config.unsupported(key, ACTIVATIONS))
}

const ACTIVATIONS: &str = "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or tanh";

pub(crate) fn activation_named(name: &str) -> Option<Activation> {
    Some(match name {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        _ => return None,
    })
}

/// Builds a name map piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Names(pub(crate) Vec<(String, Source)>);

impl Names {
    pub(crate) fn put(&mut self, ours: &str, source: Source) {
        self.0.push((ours.to_owned(), source));
    }

    pub(crate) fn same(&mut self, ours: &str, theirs: &str) {
        self.put(ours, Source::Same(theirs.to_owned()));
    }

    /// Weight and bias of one layer.
    pub(crate) fn affine(&mut self, ours: &str, theirs: &str) {
        self.affine_rows(ours, &[theirs]);
    }

    /// Weight alone.
    pub(crate) fn weight(&mut self, ours: &str, theirs: &str) {
        self.same(&format!("{ours}.weight"), &format!("{theirs}.weight"));
    }

    /// Weight and bias of layers stacked to one.
    pub(crate) fn affine_rows(&mut self, ours: &str, theirs: &[&str]) {
        for part in ["weight", "bias"] {
            self.rows(ours, theirs, part);
        }
    }

    /// One part of layers stacked to one.
    pub(crate) fn rows(&mut self, ours: &str, theirs: &[&str], part: &str) {
        let names: Vec<String> = theirs.iter().map(|name| format!("{name}.{part}")).collect();
        let source = match names.as_slice() {
            [one] => Source::Same(one.clone()),
            _ => Source::Rows(names),
        };
        self.put(&format!("{ours}.{part}"), source);
    }
}
