//! Cross-encoders: transformers' sequence classification as sentence-transformers' `CrossEncoder` saves and
//! scores it.
//!
//! In:  `config.json`, `tokenizer.json`, `tokenizer_config.json`, `model.safetensors`; and, where there are,
//!      `modules.json`, `config_sentence_transformers.json`, `sentence_bert_config.json`.
//! Out: a [`PairPlan`]: the encoder with its classification head, and how logits become scores.
//! Parity: `testdata/parity/cross_encoders`.

use std::path::Path;

use conjoin_engine::Activation;
use conjoin_input::Tokenizer;
use serde::Serialize;
use serde_json::Value;

use super::{
    Options, Reading,
    config::{Config, Log},
    folder::{Settings, last_part, module_kinds},
    text::{self, Names},
    tokenizer::TokenizerConfig,
};
use crate::{
    CrossEncoder, EncoderSpec, HeadLayer, ModelError, ModelErrorKind, NameMap, OutputNorm, Pooling,
    Rows, SequenceTower, Source, Weights, model::fingerprint_of,
};

/// How a logit becomes a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreActivation {
    /// As it is.
    Identity,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
}

/// What a cross-encoder does besides its forward pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairRule {
    /// The most tokens of a pair, special tokens included.
    pub max_tokens: usize,
    /// What stands before every query.
    pub prompt: String,
    /// Whether tokens of the second text have another type than those of the first.
    pub typed: bool,
    /// How logits become scores.
    pub activation: ScoreActivation,
}

/// A cross-encoder that is recognised but not loaded.
#[derive(Debug)]
pub struct PairPlan {
    /// The encoder; its head gives the logits.
    pub spec: EncoderSpec,
    /// Everything around it.
    pub rule: PairRule,
    /// The tokeniser.
    pub tokenizer: Tokenizer,
    /// Our names to the file's.
    pub names: Vec<(String, Source)>,
    /// How the names of tensors begin that scores do not use.
    pub unused: Vec<String>,
    /// The weights; only their headers are read.
    pub weights: Weights,
    /// How all this was told.
    pub reading: Reading,
}

/// Whether a folder holds one.
pub(crate) fn is_here(folder: &Path) -> Result<bool, ModelErrorKind> {
    let config = Settings::read(&folder.join("config.json"))?;
    let architecture = config.at(&["architectures", "0"]).and_then(Value::as_str);
    Ok(architecture.is_some_and(|name| name.ends_with("ForSequenceClassification")))
}

impl PairPlan {
    /// Recognises a folder.
    ///
    /// # Errors
    /// When it holds no cross-encoder, or says something this build does not implement.
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
    pub fn build(self) -> Result<CrossEncoder, ModelErrorKind> {
        let map = self.map(&self.weights)?;
        let tower = SequenceTower::open(&self.spec, Rows::PerSequence, &map)?;
        let rules = (&self.spec, &self.rule);
        let fingerprint = fingerprint_of(&rules, &self.tokenizer, self.weights)?;
        Ok(CrossEncoder::new(tower, self.tokenizer, self.rule, fingerprint))
    }
}

fn plan(folder: &Path) -> Result<PairPlan, ModelErrorKind> {
    let log = Log::default();
    check_modules(folder)?;
    let config = Config::of_transformers(&folder.join("config.json"), "config.json", &log)?;
    let model = config.text("model_type")?;
    log.family(format!("cross-encoder on {model}"));
    let weights = Weights::open_folder(folder)?;
    let head = Head::of(model).ok_or_else(|| {
        config.unsupported("model_type", "`bert`, `roberta`, `xlm-roberta` or `modernbert`")
    })?;
    let mut body = text::body(&config, &weights, &Options::default())?;
    let labels = *weights.shape(head.logits())?.first().unwrap_or(&0);
    head.add(&config, labels, &mut body.spec, &mut body.names)?;
    config.ignore(&["sentence_transformers", ACTIVATION_BEFORE_4]);
    let tokenizer = TokenizerConfig::read(folder, model)?.tokenizer(folder, false, &log)?;
    let rule = rule(folder, &body.spec, labels, &log)?;
    let reading = log.take();
    let (spec, names, unused) = (body.spec, body.names, body.unused);
    Ok(PairPlan { spec, rule, tokenizer, names, unused, weights, reading })
}

/// One transformer and nothing behind it.
fn check_modules(folder: &Path) -> Result<(), ModelErrorKind> {
    let kinds = module_kinds(folder)?;
    match kinds.iter().enumerate().find(|(i, (kind, _))| *i > 0 || last_part(kind) != "Transformer")
    {
        None => Ok(()),
        Some((_, (kind, _))) => Err(ModelErrorKind::Unsupported {
            file: "modules.json".to_owned(),
            key: "type".to_owned(),
            found: format!("`{kind}`"),
            supported: "one Transformer, for a cross-encoder".to_owned(),
        }),
    }
}

/// The heads that families put behind their encoder.
#[derive(Clone, Copy)]
enum Head {
    Bert,
    Roberta,
    ModernBert,
}

impl Head {
    fn of(model_type: &str) -> Option<Self> {
        match model_type {
            "bert" => Some(Self::Bert),
            "roberta" | "xlm-roberta" => Some(Self::Roberta),
            "modernbert" => Some(Self::ModernBert),
            _ => None,
        }
    }

    /// The tensor with a row per label.
    fn logits(self) -> &'static str {
        match self {
            Self::Bert | Self::ModernBert => "classifier.weight",
            Self::Roberta => "classifier.out_proj.weight",
        }
    }

    fn add(
        self,
        config: &Config,
        labels: usize,
        spec: &mut EncoderSpec,
        names: &mut Vec<(String, Source)>,
    ) -> Result<(), ModelErrorKind> {
        let dense = |width, bias, activation| HeadLayer::Dense { width, bias, activation };
        let logits = dense(labels, true, Activation::Identity);
        let tanh = dense(spec.width, true, Activation::Tanh);
        let mut map = Names(std::mem::take(names));
        spec.normalize = false;
        spec.pooling = Pooling::First;
        match self {
            Self::Bert => {
                spec.head = vec![tanh, logits];
                map.affine("head.0", "bert.pooler.dense");
                map.affine("head.1", "classifier");
            }
            Self::Roberta => {
                spec.head = vec![tanh, logits];
                map.affine("head.0", "classifier.dense");
                map.affine("head.1", "classifier.out_proj");
            }
            Self::ModernBert => {
                spec.pooling = modernbert_pooling(config)?;
                spec.output_norm = OutputNorm::Tokens;
                let bias = config.flag_or("classifier_bias", false)?;
                let activation = text::activation(config, "classifier_activation", "gelu")?;
                let norm = HeadLayer::Norm { eps: spec.norm.eps, bias: spec.norm.bias };
                spec.head = vec![dense(spec.width, bias, activation), norm, logits];
                map.weight("head.0", "head.dense");
                map.weight("head.1", "head.norm");
                map.affine("head.2", "classifier");
                for (there, name, theirs) in
                    [(bias, "head.0", "head.dense"), (spec.norm.bias, "head.1", "head.norm")]
                {
                    if there {
                        map.same(&format!("{name}.bias"), &format!("{theirs}.bias"));
                    }
                }
            }
        }
        *names = map.0;
        Ok(())
    }
}

fn modernbert_pooling(config: &Config) -> Result<Pooling, ModelErrorKind> {
    let (pooling, words) = match config.text_or("classifier_pooling", "cls")? {
        "cls" => (Pooling::First, "the first token"),
        "mean" => (Pooling::Mean, "the mean of all tokens"),
        _ => return Err(config.unsupported("classifier_pooling", "cls or mean")),
    };
    config.note("pooling", words, "classifier_pooling");
    Ok(pooling)
}

fn rule(
    folder: &Path,
    spec: &EncoderSpec,
    labels: usize,
    log: &Log,
) -> Result<PairRule, ModelErrorKind> {
    let tokens = Settings::read(&folder.join("tokenizer_config.json"))?;
    let limits = Settings::read(&folder.join("sentence_bert_config.json"))?;
    tokens.only("truncation_side", &["right"])?;
    limits.only("transformer_task", &["sequence-classification"])?;
    limits.refuse_lower_case()?;
    let stated = match limits.count("max_seq_length") {
        Some(n) => Some((n, "sentence_bert_config.json: max_seq_length")),
        None => {
            let n = tokens.count("model_max_length");
            n.map(|n| (n, "tokenizer_config.json: model_max_length"))
        }
    };
    let (stated, because) = stated.unwrap_or((usize::MAX, "no file says how many"));
    let max_tokens = stated.min(spec.max_tokens());
    log.note("most tokens of a pair", max_tokens, because);
    let library = Settings::read(&folder.join("config_sentence_transformers.json"))?;
    let named = library.text("default_prompt_name");
    let prompt = named.and_then(|name| library.at(&["prompts", name])?.as_str());
    if let (Some(name), None) = (named, prompt) {
        return Err(library.unsupported("default_prompt_name", name, "the name of a prompt"));
    }
    let prompt = prompt.unwrap_or_default().to_owned();
    let inputs = tokens.at(&["model_input_names"]).and_then(Value::as_array);
    let typed = inputs.is_none_or(|names| names.contains(&"token_type_ids".into()));
    let activation = activation(folder, &library, labels, log)?;
    Ok(PairRule { max_tokens, prompt, typed, activation })
}

/// Where sentence-transformers before 4.0 kept the activation.
const ACTIVATION_BEFORE_4: &str = "sbert_ce_default_activation_function";

/// sentence-transformers' rule: what it stored (in three places over time), else the sigmoid for one label.
fn activation(
    folder: &Path,
    library: &Settings,
    labels: usize,
    log: &Log,
) -> Result<ScoreActivation, ModelErrorKind> {
    let config = Settings::read(&folder.join("config.json"))?;
    let places = [
        (library, vec!["activation_fn"]),
        (&config, vec!["sentence_transformers", "activation_fn"]),
        (&config, vec![ACTIVATION_BEFORE_4]),
    ];
    let stored = places.iter().find_map(|(settings, path)| {
        Some((settings, path.join("."), settings.at(path)?.as_str()?))
    });
    let Some((settings, key, name)) = stored else {
        let (choice, words) = match labels {
            1 => (ScoreActivation::Sigmoid, "the sigmoid"),
            _ => (ScoreActivation::Identity, "none"),
        };
        log.note("activation of scores", words, format!("no file names one; {labels} labels"));
        return Ok(choice);
    };
    let because = format!("{}: {key} is {name}", settings.file());
    match name.strip_prefix("torch.").map(last_part) {
        Some("Sigmoid") => {
            log.note("activation of scores", "the sigmoid", because);
            Ok(ScoreActivation::Sigmoid)
        }
        Some("Identity") => {
            log.note("activation of scores", "none", because);
            Ok(ScoreActivation::Identity)
        }
        Some(_) | None => Err(settings.unsupported(&key, name, "torch's `Sigmoid` or `Identity`")),
    }
}
