//! sentence-transformers' folder around a text encoder, and a bare folder of transformers.
//!
//! In:  `modules.json`, the modules' own `config.json` and weights, `sentence_bert_config.json`,
//!      `config_sentence_transformers.json`, and the encoder's files. Out: a [`Plan`] with a text tower.
//! Not here: prompts (`prompts`), the tokeniser (`tokenizer`), the encoder (`text`).
//! Parity: `testdata/parity/sentence_encoders`, `testdata/parity/minilm`.

use std::path::{Path, PathBuf};

use conjoin_engine::Activation;
use conjoin_input::{InputContract, TextContract};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Options, Plan, Reading,
    config::{Config, Log},
    model_card, name_of, prompts,
    text::{self, Body, Names},
    tokenizer::TokenizerConfig,
};
use crate::{
    Card, EncoderInput, HeadLayer, Matryoshka, ModelErrorKind, Pooling, ScoreBias, Weights,
    checkpoint::read_json, tower::TEXT_PREFIX,
};

#[derive(Debug, Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The names that the library ever gave the encoder's own settings.
const SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Plans a folder with `modules.json`.
pub(crate) fn plan(folder: &Path, options: &Options, log: &Log) -> Result<Plan, ModelErrorKind> {
    let modules: Vec<Module> = read_json(&folder.join("modules.json"))?;
    let encoder = match modules.first() {
        Some(first) if first.class() == "Transformer" => folder.join(&first.path),
        _ => return Err(unsupported_modules(&modules, "a Transformer first")),
    };
    let mut tower = Tower::read(&encoder, options, log)?;
    log.family(format!("sentence-transformers around {}", tower.model_type));
    tower.apply(&modules[1..], folder, log)?;
    let about = folder.join("config_sentence_transformers.json");
    let about =
        about.exists().then(|| Config::open(&about, "config_sentence_transformers.json", log));
    let about = about.transpose()?;
    if let Some(about) = &about {
        about.ignore(&["__version__"]);
        about.only("model_type", &["SentenceTransformer".into()])?;
        tower.check_similarity(about)?;
        if let Some(width) = about.maybe_usize("truncate_dim")? {
            about.note("width of the vectors", width, "truncate_dim");
            tower.matryoshka.cut(width);
        }
    }
    let prompts = prompts::read(about.as_ref(), folder, log)?;
    let prompted = prompts.values().any(|prompt| !prompt.is_empty());
    if let (Some(key), true) = (&tower.without_prompt, prompted) {
        return Err(ModelErrorKind::Unsupported {
            file: key.clone(),
            key: "include_prompt".to_owned(),
            found: "false, and the model has prompts".to_owned(),
            supported: "pooling with the prompt".to_owned(),
        });
    }
    tower.plan(folder, prompts, log)
}

/// Plans a folder of transformers alone: sentence-transformers takes the mean of all tokens.
pub(crate) fn plan_plain(
    folder: &Path,
    options: &Options,
    log: &Log,
) -> Result<Plan, ModelErrorKind> {
    let mut tower = Tower::read(folder, options, log)?;
    log.family(format!("transformers' {}", tower.model_type));
    tower.body.spec.pooling = Pooling::Mean;
    let because = "no modules.json names another; so does sentence-transformers";
    log.note("text pooling", "the mean of all tokens", because);
    let prompts = prompts::read(None, folder, log)?;
    tower.plan(folder, prompts, log)
}

/// A text tower that is being put together.
struct Tower {
    model_type: String,
    encoder: PathBuf,
    body: Body,
    weights: Weights,
    matryoshka: Matryoshka,
    normalized: bool,
    /// The file that says prompts are not pooled, if one does.
    without_prompt: Option<String>,
}

impl Tower {
    fn read(encoder: &Path, options: &Options, log: &Log) -> Result<Self, ModelErrorKind> {
        let config = Config::of_transformers(&encoder.join("config.json"), "config.json", log)?;
        let matryoshka = matryoshka(&config)?;
        let weights = Weights::open_folder(encoder)?;
        let body = text::body(&config, &weights, options)?;
        Ok(Self {
            model_type: config.text("model_type")?.to_owned(),
            encoder: encoder.to_path_buf(),
            body,
            weights,
            matryoshka,
            normalized: false,
            without_prompt: None,
        })
    }

    /// The modules behind the encoder.
    fn apply(
        &mut self,
        modules: &[Module],
        folder: &Path,
        log: &Log,
    ) -> Result<(), ModelErrorKind> {
        let mut pooled = false;
        for module in modules {
            let name = format!("{}/config.json", module.path);
            let open = || Config::open(&folder.join(&name), &name, log);
            match module.class() {
                "Normalize" if pooled => self.normalized = true,
                "Dropout" => {}
                "Pooling" if !pooled => {
                    let config = open()?;
                    self.body.spec.pooling = pooling(&config, modules.len())?;
                    let without = !config.flag_or("include_prompt", true)?;
                    self.without_prompt = without.then_some(name);
                    pooled = true;
                }
                "Dense" if pooled && !self.normalized => {
                    self.head(module, folder, dense(&open()?)?, "linear")?;
                }
                "LayerNorm" if pooled && !self.normalized => {
                    open()?.ignore(&["dimension"]);
                    // The library's constant.
                    let norm = HeadLayer::Norm { eps: 1e-5, bias: true };
                    self.head(module, folder, norm, "norm")?;
                }
                _ => {
                    let supported =
                        "Transformer, Pooling, then any of Dense and LayerNorm, then Normalize";
                    return Err(unsupported_modules(std::slice::from_ref(module), supported));
                }
            }
        }
        if pooled { Ok(()) } else { Err(unsupported_modules(modules, "one Pooling module")) }
    }

    /// Adds a layer whose tensors `name.weight` and `name.bias` lie in the module's own folder.
    fn head(
        &mut self,
        module: &Module,
        folder: &Path,
        layer: HeadLayer,
        name: &str,
    ) -> Result<(), ModelErrorKind> {
        let place = format!("{}/", module.path);
        self.weights.join(Weights::open_folder(&folder.join(&module.path))?, &place)?;
        let bias = match layer {
            HeadLayer::Dense { bias, .. } | HeadLayer::Norm { bias, .. } => bias,
        };
        let parts = if bias { &["weight", "bias"][..] } else { &["weight"] };
        let mut names = Names::default();
        let ours = format!("head.{}", self.body.spec.head.len());
        names.parts(&ours, &format!("{place}{name}"), parts);
        self.body.names.extend(names.0);
        self.body.spec.head.push(layer);
        Ok(())
    }

    /// Our vectors have unit length, so only what does not see the length can be had.
    fn check_similarity(&self, about: &Config) -> Result<(), ModelErrorKind> {
        let key = "similarity_fn_name";
        match about.maybe_text(key)? {
            None | Some("cosine") => Ok(()),
            Some("dot" | "euclidean") if self.normalized => Ok(()),
            Some(_) => Err(about.unsupported(
                key,
                "vectors of unit length: cosine, or dot and euclidean behind a Normalize module",
            )),
        }
    }

    fn plan(
        mut self,
        folder: &Path,
        prompts: std::collections::BTreeMap<String, String>,
        log: &Log,
    ) -> Result<Plan, ModelErrorKind> {
        let config = TokenizerConfig::read(&self.encoder, &self.model_type)?;
        let (max_tokens, lowercase) = self.settings(&config, log)?;
        let tokenizer = config.tokenizer(&self.encoder, lowercase, log)?;
        if !self.normalized {
            let because = "no Normalize module; cosine similarities are the same";
            log.note("length of the vectors", "one, as always", because);
        }
        let name = name_of(folder);
        let names =
            self.body.names.into_iter().map(|(ours, s)| (format!("{TEXT_PREFIX}{ours}"), s));
        Ok(Plan {
            text: Some(self.body.spec),
            image: None,
            contract: InputContract {
                text: Some(TextContract { max_tokens, padded: false, bare: None, prompts }),
                image: None,
            },
            tokenizer: Some(tokenizer),
            names: names.collect(),
            unused: self.body.unused,
            log_scale: 0.0,
            score_bias: 0.0,
            matryoshka: self.matryoshka,
            card: Card {
                name: name.clone(),
                licence: model_card::licence(folder)?,
                sources: vec![name],
            },
            weights: self.weights,
            reading: Reading::default(),
        })
    }

    /// The most tokens, and whether letters are made small first.
    fn settings(
        &mut self,
        tokenizer: &TokenizerConfig,
        log: &Log,
    ) -> Result<(usize, bool), ModelErrorKind> {
        let found = SETTINGS.iter().find(|name| self.encoder.join(name).exists());
        let settings = match found {
            Some(name) => Config::open(&self.encoder.join(name), name, log)?,
            None => Config::new("sentence_bert_config.json", serde_json::Map::new(), log),
        };
        check_settings(&settings)?;
        let stated = settings.maybe_usize("max_seq_length")?;
        if let (Some(stated), true) = (stated, self.reads_any_length()) {
            self.allow(stated);
        }
        let limit = self.body.spec.max_tokens();
        let max_tokens = match (stated, tokenizer.max_length()) {
            (Some(stated), _) => {
                settings.note("most tokens", stated.min(limit), "max_seq_length");
                stated.min(limit)
            }
            (None, Some(stated)) if stated <= limit => {
                log.note("most tokens", stated, "tokenizer_config.json: model_max_length");
                stated
            }
            (None, _) => {
                log.note("most tokens", limit, "config.json: the encoder's positions");
                limit
            }
        };
        let lowercase = settings.flag_or("do_lower_case", false)?;
        if lowercase {
            settings.note("tokeniser", "letters are made small first", "do_lower_case");
        }
        Ok((max_tokens, lowercase))
    }

    /// Rotary positions and ALiBi are computed, so texts may be longer than the encoder's own limit.
    fn reads_any_length(&self) -> bool {
        let spec = &self.body.spec;
        let learned = matches!(spec.input, EncoderInput::Tokens { positions: true, .. });
        !learned && !matches!(spec.attention.score_bias, ScoreBias::Buckets { .. })
    }

    fn allow(&mut self, stated: usize) {
        if let EncoderInput::Tokens { max_tokens, .. } = &mut self.body.spec.input
            && !self.body.limited
        {
            *max_tokens = stated.clamp(*max_tokens, MAX_TOKENS.max(*max_tokens));
        }
    }
}

/// The widths that a model says it was trained for, and that of its vectors.
fn matryoshka(config: &Config) -> Result<Matryoshka, ModelErrorKind> {
    let mut matryoshka = Matryoshka::default();
    let key = "matryoshka_dimensions";
    if let Some(value) = config.get(key) {
        let widths = serde_json::from_value(value.clone());
        matryoshka.widths = widths.map_err(|_| config.unsupported(key, "a list of widths"))?;
        config.note("widths the vectors may be cut to", value, key);
    }
    if let Some(width) = config.maybe_usize("truncate_dim")? {
        config.note("width of the vectors", width, "truncate_dim");
        matryoshka.cut(width);
    }
    Ok(matryoshka)
}

/// No limit of a published encoder is higher; tables are made for each position.
const MAX_TOKENS: usize = 1 << 15;

impl Module {
    /// The class without its package: the packages have changed over time.
    fn class(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or_default()
    }
}

fn unsupported_modules(modules: &[Module], supported: &str) -> ModelErrorKind {
    let found: Vec<&str> = modules.iter().map(|module| module.kind.as_str()).collect();
    ModelErrorKind::Unsupported {
        file: "modules.json".to_owned(),
        key: "type".to_owned(),
        found: format!("`{}`", found.join("`, `")),
        supported: supported.to_owned(),
    }
}

/// Newer files say more of the encoder; all of it must be the plain case.
fn check_settings(settings: &Config) -> Result<(), ModelErrorKind> {
    settings.only("transformer_task", &["feature-extraction".into()])?;
    settings.only("module_output_name", &["token_embeddings".into()])?;
    settings.only("query_length", &[])?;
    settings.only("document_length", &[])?;
    settings.only("query_expansion", &[])?;
    settings.only("tokenizer_name_or_path", &[])?;
    settings.ignore(&["unpad_inputs"]);
    let plain = serde_json::json!(
        {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    );
    settings.only("modality_config", &[plain])
}

fn dense(config: &Config) -> Result<HeadLayer, ModelErrorKind> {
    config.ignore(&["in_features"]);
    for key in ["module_input_name", "module_output_name"] {
        config.only(key, &["sentence_embedding".into()])?;
    }
    config.only("use_residual", &[false.into()])?;
    let key = "activation_function";
    let activation = match config.text_or(key, "torch.nn.modules.activation.Tanh")? {
        "torch.nn.modules.activation.Tanh" => Activation::Tanh,
        "torch.nn.modules.activation.ReLU" => Activation::Relu,
        "torch.nn.modules.activation.GELU" => Activation::Gelu,
        "torch.nn.modules.activation.SiLU" => Activation::Silu,
        "torch.nn.modules.linear.Identity" => Activation::Identity,
        _ => return Err(config.unsupported(key, "torch's Tanh, ReLU, GELU, SiLU and Identity")),
    };
    let (width, bias) = (config.usize("out_features")?, config.flag_or("bias", true)?);
    Ok(HeadLayer::Dense { width, bias, activation })
}

/// Reads the old (a flag per mode) and the new (`pooling_mode`) keys; `modules` counts those from the
/// pooling on.
fn pooling(config: &Config, modules: usize) -> Result<Pooling, ModelErrorKind> {
    config.ignore(&["word_embedding_dimension", "embedding_dimension"]);
    let supported = "one of mean, cls, lasttoken";
    let (key, mode) = pooling_mode(config, supported)?;
    let (pooling, words) = match mode.as_str() {
        "mean" | "mean_tokens" => (Pooling::Mean, "the mean of all tokens"),
        "cls" | "cls_token" => (Pooling::First, "the first token"),
        "lasttoken" => (Pooling::Last, "the last token"),
        // Only the length differs, and nothing but Normalize follows.
        "mean_sqrt_len_tokens" if modules <= 2 => (Pooling::Mean, "the direction of the mean"),
        _ => return Err(config.unsupported(&key, supported)),
    };
    config.note("text pooling", words, &key);
    Ok(pooling)
}

fn pooling_mode(config: &Config, supported: &str) -> Result<(String, String), ModelErrorKind> {
    let key = "pooling_mode";
    match config.get(key) {
        Some(Value::String(mode)) => return Ok((key.to_owned(), mode.clone())),
        Some(Value::Array(modes)) if modes.len() == 1 => {
            let mode = modes[0].as_str().ok_or_else(|| config.unsupported(key, supported))?;
            return Ok((key.to_owned(), mode.to_owned()));
        }
        Some(_) => return Err(config.unsupported(key, supported)),
        None => {}
    }
    let mut on = Vec::new();
    for mode in OLD_MODES {
        let key = format!("pooling_mode_{mode}");
        if config.flag_or(&key, false)? {
            on.push((key, mode.to_owned()));
        }
    }
    match <[_; 1]>::try_from(on) {
        Ok([one]) => Ok(one),
        Err(on) if on.is_empty() => Err(config.unsupported(key, supported)),
        Err(on) => Err(config.unsupported(&on[1].0, "one pooling mode")),
    }
}

const OLD_MODES: [&str; 6] = [
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Pooling, String> {
        let keys = serde_json::from_str(json).unwrap();
        let config = Config::new("1_Pooling/config.json", keys, &Log::default());
        pooling(&config, 2).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_old_and_new_pooling_keys() {
        let old = r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
                      "pooling_mode_mean_tokens": true}"#;
        assert_eq!(read(old), Ok(Pooling::Mean));
        assert_eq!(read(r#"{"pooling_mode": "cls"}"#), Ok(Pooling::First));
        assert_eq!(read(r#"{"pooling_mode": ["lasttoken"]}"#), Ok(Pooling::Last));
        assert_eq!(read(r#"{"pooling_mode": "mean_sqrt_len_tokens"}"#), Ok(Pooling::Mean));
        let two = r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#;
        assert!(read(two).unwrap_err().contains("`pooling_mode_max_tokens` is true"));
        assert!(read("{}").unwrap_err().contains("one of mean, cls, lasttoken"));
        let max = read(r#"{"pooling_mode": "max"}"#).unwrap_err();
        assert!(max.contains("`pooling_mode` is \"max\""), "{max}");
        assert!(read(r#"{"pooling_mode": ["cls", "mean"]}"#).is_err());
    }
}
