//! Text encoders by `model_type`: what layouts around them (sentence-transformers, rerankers, CLIP-like
//! pairs) have in common.
//!
//! In:  a transformers `config.json`. Out: a [`Body`]: the spec up to the last layer, and its names.

use conjoin_engine::Activation;

use super::{
    Options, bert, config::Config, distilbert, jina_embeddings, modernbert, mpnet, nomic_bert,
    roberta,
};
use crate::{EncoderSpec, ModelErrorKind, Source, Weights};

/// An encoder without pooling and head: the spec has the first token's and none.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) spec: EncoderSpec,
    /// Our names, without the tower's prefix, to the file's.
    pub(crate) names: Vec<(String, Source)>,
    /// How the names of tensors begin that an encoder does not use.
    pub(crate) unused: Vec<String>,
    /// Whether its longest text is so for another reason than a table of positions.
    pub(crate) limited: bool,
    /// The same names as other libraries spell them.
    others: Vec<Vec<(String, Source)>>,
    /// What may stand before all names, in files of models for other tasks.
    bases: Vec<&'static str>,
}

impl Body {
    pub(crate) fn new(spec: EncoderSpec, names: Names, unused: &[&str]) -> Self {
        let unused = unused.iter().map(|&name| name.to_owned()).collect();
        Self { spec, names: names.0, unused, limited: false, others: Vec::new(), bases: Vec::new() }
    }

    /// Names that may stand in the file instead.
    pub(crate) fn or(mut self, names: Names) -> Self {
        self.others.push(names.0);
        self
    }

    /// What may stand before all names.
    pub(crate) fn with_base(mut self, base: &'static str) -> Self {
        self.bases.push(base);
        self
    }

    /// The same with the file's names behind `prefix`.
    pub(crate) fn under(self, prefix: &str) -> Self {
        let put = |names: Vec<(String, Source)>| {
            names.into_iter().map(|(ours, source)| (ours, source.under(prefix))).collect()
        };
        let unused = self.unused.into_iter().map(|name| format!("{prefix}{name}"));
        let others = self.others.into_iter().map(put).collect();
        Self { names: put(self.names), unused: unused.collect(), others, ..self }
    }

    /// The same with the names as these weights spell them: those of which the most are there.
    pub(crate) fn fit(self, weights: &Weights) -> Self {
        let Self { spec, names, unused, limited, others, bases } = self;
        let mut best: Option<(usize, Vec<(String, Source)>)> = None;
        for names in std::iter::once(names).chain(others) {
            for base in std::iter::once("").chain(bases.iter().copied()) {
                let put =
                    |(ours, source): &(String, Source)| (ours.clone(), source.clone().under(base));
                let names: Vec<_> = names.iter().map(put).collect();
                let theirs = names.iter().flat_map(|(_, source)| source.names());
                let hits = theirs.filter(|name| weights.has(name)).count();
                if best.as_ref().is_none_or(|(most, _)| hits > *most) {
                    best = Some((hits, names));
                }
            }
        }
        let based = bases.iter().flat_map(|base| unused.iter().map(move |n| format!("{base}{n}")));
        let unused = unused.iter().cloned().chain(based).collect();
        let names = best.map(|(_, names)| names).unwrap_or_default();
        Self { spec, names, unused, limited, others: Vec::new(), bases: Vec::new() }
    }
}

/// Reads the configuration of any known text encoder; the names are as these weights spell them.
pub(crate) fn body(
    config: &Config,
    weights: &Weights,
    options: &Options,
) -> Result<Body, ModelErrorKind> {
    if let Some(kind) = jina_embeddings::kind(config)? {
        return jina_embeddings::body(kind, config, weights, options);
    }
    super::no_adapter(options)?;
    let body = match config.text("model_type")? {
        "bert" => bert::body(config),
        "distilbert" => distilbert::body(config),
        "modernbert" => modernbert::body(config),
        "mpnet" => mpnet::body(config),
        "nomic_bert" => nomic_bert::body(config),
        "roberta" | "xlm-roberta" => roberta::body(config),
        _ => Err(config.unsupported("model_type", MODEL_TYPES)),
    };
    Ok(body?.fit(weights))
}

const MODEL_TYPES: &str = "bert, distilbert, jina_embeddings_v3, modernbert, mpnet, nomic_bert, \
                           roberta or xlm-roberta";

/// The base of the rotary frequencies; other kinds than the plain one are refused.
pub(crate) fn default_rope(parameters: &Config) -> Result<Option<f32>, ModelErrorKind> {
    parameters.only("rope_type", &["default".into()])?;
    parameters.only("type", &["default".into()])?;
    parameters.only("partial_rotary_factor", &[1.0.into(), 1.into()])?;
    parameters.maybe_f32("rope_theta")
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

    /// Those parts of one layer that it has.
    pub(crate) fn parts(&mut self, ours: &str, theirs: &str, parts: &[&str]) {
        for part in parts {
            self.rows(ours, &[theirs], part);
        }
    }

    /// One that is there already begins at a later row.
    pub(crate) fn rows_from(&mut self, ours: &str, first: usize) {
        for (name, source) in &mut self.0 {
            if let (true, Source::Same(theirs)) = (name == ours, &*source) {
                *source = Source::RowsFrom(theirs.clone(), first);
            }
        }
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
