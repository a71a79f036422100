//! Late interaction: ColBERT as PyLate saves it, and in Stanford's own layout.
//!
//! In:  PyLate: `modules.json` with a transformer and dense layers, `config_sentence_transformers.json`;
//!      Stanford: `artifact.metadata`, and one `model.safetensors` with `bert.` and `linear.` names.
//! Out: a [`LatePlan`]: the encoder with its projection, and how queries and documents are marked.
//! Source: Khattab and Zaharia 2020; Chaffin and Sourty 2025 (PyLate). Parity: `testdata/parity/colbert`.

use std::{collections::BTreeSet, path::Path};

use conjoin_engine::Activation;
use conjoin_input::Tokenizer;
use serde::Serialize;
use serde_json::Value;

use super::{
    Options, Reading,
    config::{Config, Log},
    folder::{Settings, last_part, module_kinds},
    text,
    tokenizer::TokenizerConfig,
};
use crate::{
    EncoderSpec, HeadLayer, LateInteraction, ModelError, ModelErrorKind, NameMap, Rows,
    SequenceTower, Source, Weights, model::fingerprint_of,
};

/// How queries and documents are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LateRule {
    /// Of queries.
    pub query: SideRule,
    /// Of documents.
    pub document: SideRule,
    /// How short queries are filled up, if they are.
    pub expansion: Option<Expansion>,
    /// Tokens of documents that are read but not compared (punctuation).
    pub skipped: BTreeSet<u32>,
}

/// How one side is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SideRule {
    /// The token behind the first one that tells the side, if there is one.
    pub marker: Option<u32>,
    /// The most tokens, the marker and special tokens included.
    pub max_tokens: usize,
}

/// Tokens that fill a query up to its length. All of them are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Expansion {
    /// The token (`[MASK]`).
    pub id: u32,
    /// Whether other tokens look at them.
    pub attended: bool,
}

/// A model of late interaction that is recognised but not loaded.
#[derive(Debug)]
pub struct LatePlan {
    /// The encoder; its head gives each token's vector.
    pub spec: EncoderSpec,
    /// Everything around it.
    pub rule: LateRule,
    /// The tokeniser.
    pub tokenizer: Tokenizer,
    /// Our names to the files'; a dense layer's begin with its folder.
    pub names: Vec<(String, Source)>,
    /// How the names of tensors begin that have no part.
    pub unused: Vec<String>,
    /// The weights; only their headers are read.
    pub weights: Weights,
    /// How all this was told.
    pub reading: Reading,
}

const LIBRARY: &str = "config_sentence_transformers.json";
const METADATA: &str = "artifact.metadata";

/// Whether a folder holds one.
pub(crate) fn is_here(folder: &Path) -> Result<bool, ModelErrorKind> {
    let library = Settings::read(&folder.join(LIBRARY))?;
    let pylate = library.text("model_type") == Some("ColBERT")
        || library.text("similarity_fn_name") == Some("MaxSim")
        || module_kinds(folder)?.iter().any(|(kind, _)| kind.starts_with("pylate."));
    Ok(pylate || is_stanford(folder)?)
}

fn is_stanford(folder: &Path) -> Result<bool, ModelErrorKind> {
    let config = Settings::read(&folder.join("config.json"))?;
    let architecture = config.at(&["architectures", "0"]).and_then(Value::as_str);
    Ok(architecture == Some("HF_ColBERT") && module_kinds(folder)?.is_empty())
}

impl LatePlan {
    /// Recognises a folder.
    ///
    /// # Errors
    /// When it holds no such model, or says something this build does not implement.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        plan(folder).map_err(|kind| kind.at(folder.display().to_string()))
    }

    /// Tensors for our parameters from any weights under this plan's names.
    ///
    /// # Errors
    /// When a tensor is missing, unreadable or unknown.
    pub fn map(&self, weights: &Weights) -> Result<NameMap, ModelErrorKind> {
        NameMap::read(weights, &self.names, &self.unused)
    }

    /// Loads the model.
    ///
    /// # Errors
    /// When the weights do not fit the spec.
    pub fn build(self) -> Result<LateInteraction, ModelErrorKind> {
        let map = self.map(&self.weights)?;
        let tower = SequenceTower::open(&self.spec, Rows::PerToken, &map)?;
        let rules = (&self.spec, &self.rule);
        let fingerprint = fingerprint_of(&rules, &self.tokenizer, self.weights)?;
        Ok(LateInteraction::new(tower, self.tokenizer, self.rule, fingerprint))
    }
}

fn plan(folder: &Path) -> Result<LatePlan, ModelErrorKind> {
    let log = Log::default();
    let stanford = is_stanford(folder)?;
    let config = Config::of_transformers(&folder.join("config.json"), "config.json", &log)?;
    let layout = if stanford { "Stanford's ColBERT" } else { "PyLate" };
    let model = config.text("model_type")?;
    log.family(format!("late interaction in the layout of {layout} on {model}"));
    let mut weights = Weights::open_folder(folder)?;
    let mut body = text::body(&config, &weights, &Options::default())?;
    body.spec.head.clear();
    let modules = if stanford { Vec::new() } else { module_kinds(folder)? };
    if stanford {
        add_dense("linear", Activation::Identity, &weights, &mut body)?;
    }
    for (i, (kind, path)) in modules.iter().enumerate() {
        match last_part(kind) {
            "Transformer" if i == 0 => {}
            "Dense" => {
                let activation = dense_activation(folder, path)?;
                weights.join(Weights::open_folder(&folder.join(path))?, &format!("{path}/"))?;
                add_dense(&format!("{path}/linear"), activation, &weights, &mut body)?;
            }
            _ => {
                return Err(ModelErrorKind::Unsupported {
                    file: "modules.json".to_owned(),
                    key: "type".to_owned(),
                    found: format!("`{kind}`"),
                    supported: "one Transformer, then Dense, for late interaction".to_owned(),
                });
            }
        }
    }
    let tokenizer = TokenizerConfig::read(folder, model)?.tokenizer(folder, false, &log)?;
    let said = if stanford { stanford_says(folder)? } else { pylate_says(folder)? };
    let rule = rule(folder, &said, &tokenizer, body.spec.max_tokens(), &log)?;
    let reading = log.take();
    let (spec, names, unused) = (body.spec, body.names, body.unused);
    Ok(LatePlan { spec, rule, tokenizer, names, unused, weights, reading })
}

/// Puts a dense layer behind the encoder.
fn add_dense(
    theirs: &str,
    activation: Activation,
    weights: &Weights,
    body: &mut text::Body,
) -> Result<(), ModelErrorKind> {
    let weight = format!("{theirs}.weight");
    let width = *weights.shape(&weight)?.first().unwrap_or(&0);
    let bias = weights.has(&format!("{theirs}.bias"));
    let mut names = text::Names(std::mem::take(&mut body.names));
    let ours = format!("head.{}", body.spec.head.len());
    names.weight(&ours, theirs);
    if bias {
        names.same(&format!("{ours}.bias"), &format!("{theirs}.bias"));
    }
    body.names = names.0;
    body.spec.head.push(HeadLayer::Dense { width, bias, activation });
    Ok(())
}

fn dense_activation(folder: &Path, path: &str) -> Result<Activation, ModelErrorKind> {
    let config = Settings::read(&folder.join(path).join("config.json"))?;
    config.refuse("use_residual", "false")?;
    let key = "activation_function";
    match config.text(key).map(last_part) {
        Some("Identity") => Ok(Activation::Identity),
        // The library's default where the file says nothing.
        Some("Tanh") | None => Ok(Activation::Tanh),
        Some("GELU") => Ok(Activation::Gelu),
        Some("ReLU") => Ok(Activation::Relu),
        Some("SiLU") => Ok(Activation::Silu),
        Some(other) => {
            Err(config.unsupported(key, other, "torch's Identity, Tanh, GELU, ReLU or SiLU"))
        }
    }
}

/// What the two layouts tell, in one form.
struct Said {
    query_marker: String,
    document_marker: String,
    query_tokens: usize,
    document_tokens: usize,
    expands: bool,
    attended: bool,
    skipped: Vec<String>,
}

/// ASCII punctuation, Python's `string.punctuation`.
fn punctuation() -> Vec<String> {
    (b'!'..=b'~').filter(u8::is_ascii_punctuation).map(|b| char::from(b).to_string()).collect()
}

/// PyLate's defaults hold where its file says nothing.
fn pylate_says(folder: &Path) -> Result<Said, ModelErrorKind> {
    let file = Settings::read(&folder.join(LIBRARY))?;
    file.only("similarity_fn_name", &["MaxSim"])?;
    if let Some(name) = file.text("default_prompt_name") {
        return Err(file.unsupported("default_prompt_name", name, "null, for late interaction"));
    }
    Settings::read(&folder.join("sentence_bert_config.json"))?.refuse_lower_case()?;
    let words = |words: &Vec<Value>| words.iter().map(|w| Some(w.as_str()?.to_owned())).collect();
    let skipped: Option<Vec<String>> = match file.at(&["skiplist_words"]) {
        None => Some(punctuation()),
        Some(value) => value.as_array().and_then(words),
    };
    Ok(Said {
        query_marker: file.text("query_prefix").unwrap_or("[Q] ").to_owned(),
        document_marker: file.text("document_prefix").unwrap_or("[D] ").to_owned(),
        query_tokens: file.count_or("query_length", 32)?,
        document_tokens: file.count_or("document_length", 180)?,
        expands: file.flag_or("do_query_expansion", true)?,
        attended: file.flag_or("attend_to_expansion_tokens", false)?,
        skipped: skipped.ok_or_else(|| {
            file.unsupported("skiplist_words", "something else", "a list of texts")
        })?,
    })
}

/// Stanford's defaults hold where its file says nothing.
fn stanford_says(folder: &Path) -> Result<Said, ModelErrorKind> {
    let file = Settings::read(&folder.join(METADATA))?;
    file.only("similarity", &["cosine"])?;
    file.only("interaction", &["colbert"])?;
    let skipped = if file.flag_or("mask_punctuation", true)? { punctuation() } else { Vec::new() };
    Ok(Said {
        query_marker: file.text("query_token_id").unwrap_or("[unused0]").to_owned(),
        document_marker: file.text("doc_token_id").unwrap_or("[unused1]").to_owned(),
        query_tokens: file.count_or("query_maxlen", 32)?,
        document_tokens: file.count_or("doc_maxlen", 220)?,
        expands: true,
        attended: file.flag_or("attend_to_mask_tokens", false)?,
        skipped,
    })
}

fn rule(
    folder: &Path,
    said: &Said,
    tokenizer: &Tokenizer,
    limit: usize,
    log: &Log,
) -> Result<LateRule, ModelErrorKind> {
    let marker = |name: &str| match name {
        "" => Ok(None),
        _ => tokenizer.id_of(name).map(Some).ok_or_else(|| unknown_token(name)),
    };
    let side = |name: &str, tokens: usize| -> Result<SideRule, ModelErrorKind> {
        Ok(SideRule { marker: marker(name)?, max_tokens: tokens.min(limit) })
    };
    let query = side(&said.query_marker, said.query_tokens)?;
    let document = side(&said.document_marker, said.document_tokens)?;
    let expansion = match said.expands {
        true => Some(Expansion { id: filler(folder, tokenizer)?, attended: said.attended }),
        false => None,
    };
    // As in the reference, a word that is no token stands for the unknown token.
    let id = |word: &String| tokenizer.id_of(word).or_else(|| tokenizer.unknown_id());
    let skipped: BTreeSet<u32> = said.skipped.iter().filter_map(id).collect();
    let because = "the layout's settings";
    log.note("queries", format!("`{}`, {} tokens", said.query_marker, query.max_tokens), because);
    let words = format!("`{}`, at most {} tokens", said.document_marker, document.max_tokens);
    log.note("documents", words, because);
    let words = match expansion {
        None => "not filled up".to_owned(),
        Some(Expansion { id, attended: true }) => format!("filled up with token {id}"),
        Some(Expansion { id, attended: false }) => format!("filled up with token {id}, unseen"),
    };
    log.note("short queries", words, because);
    log.note("tokens of documents that are not compared", skipped.len(), because);
    Ok(LateRule { query, document, expansion, skipped })
}

fn unknown_token(name: &str) -> ModelErrorKind {
    ModelErrorKind::Unsupported {
        file: "tokenizer.json".to_owned(),
        key: "vocab".to_owned(),
        found: format!("without `{name}`"),
        supported: "markers that are tokens".to_owned(),
    }
}

/// The token that fills queries up: the mask, else the end of a text.
fn filler(folder: &Path, tokenizer: &Tokenizer) -> Result<u32, ModelErrorKind> {
    let config = Settings::read(&folder.join("tokenizer_config.json"))?;
    let named = |key: &str| {
        let content = config.text(key).or_else(|| config.at(&[key, "content"])?.as_str());
        content.and_then(|name| tokenizer.id_of(name))
    };
    let usual = || ["[MASK]", "<mask>"].into_iter().find_map(|name| tokenizer.id_of(name));
    named("mask_token").or_else(usual).or_else(|| named("eos_token")).ok_or_else(|| {
        config.unsupported("mask_token", "absent", "a token to fill queries up with")
    })
}
