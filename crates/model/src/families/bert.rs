//! BERT and MiniLM in Hugging Face's layout, and sentence-transformers' folder around it.
//!
//! In:  `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`, `config.json`,
//!      `tokenizer.json`, `model.safetensors`. Out: a [`Model`] with a text tower.
//! Parity: `testdata/parity/minilm`, `testdata/parity/towers/bert_tiny`.

use std::{collections::BTreeMap, path::Path};

use conjoin_core::{Seed, hash_bytes};
use conjoin_engine::{Activation, Mask, Pooling};
use conjoin_input::{InputContract, TextContract, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Card, EncoderInput, EncoderSpec, Model, ModelError, ModelErrorKind, ModelParts, ModelSpec,
    NormPlacement, TextTower, WeightFile,
    checkpoint::{read_json, read_limited},
    weights::{NameMap, Source},
};

/// The keys of `config.json` that change a number.
#[derive(Debug, Deserialize)]
struct BertConfig {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    position_embedding_type: Option<String>,
}

/// The spec of a BERT encoder described by `config.json`.
///
/// # Errors
/// When the configuration is not BERT's or has a value this build does not implement.
pub fn spec(config: &[u8], pooling: Pooling) -> Result<EncoderSpec, ModelErrorKind> {
    let file = "config.json";
    let json = |source| ModelErrorKind::Json { file: file.to_owned(), source };
    let config: BertConfig = serde_json::from_slice(config).map_err(json)?;
    let unsupported = |key: &str, found: &str, supported: &str| ModelErrorKind::Unsupported {
        file: file.to_owned(),
        key: key.to_owned(),
        found: format!("`{found}`"),
        supported: supported.to_owned(),
    };
    if config.model_type != "bert" {
        return Err(unsupported("model_type", &config.model_type, "`bert`"));
    }
    if let Some(kind) = config.position_embedding_type.filter(|kind| kind != "absolute") {
        return Err(unsupported("position_embedding_type", &kind, "`absolute`"));
    }
    let activation = activation(&config.hidden_act)
        .ok_or_else(|| unsupported("hidden_act", &config.hidden_act, ACTIVATIONS))?;
    Ok(EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            types: config.type_vocab_size,
        },
        input_norm: true,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        mlp_width: config.intermediate_size,
        norm: NormPlacement::Post,
        norm_eps: config.layer_norm_eps,
        activation,
        mask: Mask::Bidirectional,
        output_norm: false,
        pooling,
        projection: None,
    })
}

pub(crate) const ACTIVATIONS: &str = "`gelu`, `gelu_new`, `gelu_pytorch_tanh`, `quick_gelu`";

/// Hugging Face's names of activations.
pub(crate) fn activation(name: &str) -> Option<Activation> {
    match name {
        "gelu" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
        "quick_gelu" => Some(Activation::QuickGelu),
        _ => None,
    }
}

/// Our names to BERT's.
#[must_use]
pub fn names(layers: usize) -> Vec<(String, Source)> {
    let same = |name: &str| Source::Same(name.to_owned());
    let mut map = vec![
        ("tokens.weight".to_owned(), same("embeddings.word_embeddings.weight")),
        ("positions.weight".to_owned(), same("embeddings.position_embeddings.weight")),
        ("types.weight".to_owned(), same("embeddings.token_type_embeddings.weight")),
        ("input_norm.weight".to_owned(), same("embeddings.LayerNorm.weight")),
        ("input_norm.bias".to_owned(), same("embeddings.LayerNorm.bias")),
    ];
    for i in 0..layers {
        for part in ["weight", "bias"] {
            let theirs = |name: &str| format!("encoder.layer.{i}.{name}.{part}");
            let mut put = |ours: &str, source| {
                map.push((format!("layers.{i}.{ours}.{part}"), source));
            };
            let qkv = ["query", "key", "value"].map(|q| theirs(&format!("attention.self.{q}")));
            put("attention.qkv", Source::Rows(qkv.to_vec()));
            put("attention.out", Source::Same(theirs("attention.output.dense")));
            put("attention.norm", Source::Same(theirs("attention.output.LayerNorm")));
            put("mlp.up", Source::Same(theirs("intermediate.dense")));
            put("mlp.down", Source::Same(theirs("output.dense")));
            put("mlp.norm", Source::Same(theirs("output.LayerNorm")));
        }
    }
    map
}

/// Tensors of BERT files that the sentence encoder does not use.
pub const IGNORED: [&str; 2] = ["embeddings.position_ids", "pooler."];

/// Opens a sentence-transformers folder.
///
/// # Errors
/// When a file is missing or says something this build does not implement.
pub fn open_sentence_transformer(folder: &Path) -> Result<Model, ModelError> {
    read_sentence_transformer(folder).map_err(|kind| kind.at(folder.display().to_string()))
}

#[derive(Debug, Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

fn read_sentence_transformer(folder: &Path) -> Result<Model, ModelErrorKind> {
    let modules: Vec<Module> = read_json(&folder.join("modules.json"))?;
    let mut pooling = None;
    for module in &modules {
        match module.kind.rsplit('.').next() {
            Some("Transformer") if module.path.is_empty() => {}
            Some("Normalize") => {}
            Some("Pooling") => {
                let file = folder.join(&module.path).join("config.json");
                pooling = Some(self::pooling(&read_json(&file)?)?);
            }
            _ => {
                return Err(ModelErrorKind::Unsupported {
                    file: "modules.json".to_owned(),
                    key: "type".to_owned(),
                    found: format!("`{}`", module.kind),
                    supported: "Transformer, Pooling and Normalize".to_owned(),
                });
            }
        }
    }
    let pooling = pooling.ok_or_else(|| ModelErrorKind::Unsupported {
        file: "modules.json".to_owned(),
        key: "type".to_owned(),
        found: "no Pooling module".to_owned(),
        supported: "one Pooling module".to_owned(),
    })?;
    build(folder, pooling)
}

fn build(folder: &Path, pooling: Pooling) -> Result<Model, ModelErrorKind> {
    let config = read_limited(&folder.join("config.json"))?;
    let spec = spec(&config, pooling)?;
    let limits: BTreeMap<String, Value> = read_json(&folder.join("sentence_bert_config.json"))?;
    let weights = WeightFile::open(&weights_path(folder)?)?;
    let map = NameMap::read(&weights.reader()?, &names(spec.layers), &IGNORED)?;
    let text = TextTower::build(&spec, &map, Seed(0))?;
    let json = read_limited(&folder.join("tokenizer.json"))?;
    let tokenizer = Tokenizer::from_json(&json)?;
    let stated = limits.get("max_seq_length").and_then(Value::as_u64);
    let max_tokens = stated.map_or(text.max_tokens(), |n| {
        usize::try_from(n).unwrap_or(usize::MAX).min(text.max_tokens())
    });
    let contract = InputContract {
        text: Some(TextContract { max_tokens, padded: false, prompts: BTreeMap::new() }),
        image: None,
    };
    let identity = format!("{}{}{max_tokens}", weights.hash(), hash_bytes(&json));
    let fingerprint = hash_bytes(identity.as_bytes());
    let name = folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let card = Card { name: name.clone(), licence: None, sources: vec![name] };
    let spec = ModelSpec { text: Some(spec), image: None, contract, log_scale: 0.0, card };
    Model::new(
        spec,
        ModelParts { text: Some(text), image: None, tokenizer: Some(tokenizer) },
        fingerprint,
    )
}

fn weights_path(folder: &Path) -> Result<std::path::PathBuf, ModelErrorKind> {
    let pickle = folder.join("pytorch_model.bin");
    let file = folder.join("model.safetensors");
    if !file.exists() && pickle.exists() {
        return Err(ModelErrorKind::Pickle(pickle));
    }
    Ok(file)
}

/// Reads the old (a flag per mode) and the new (`pooling_mode`) keys.
fn pooling(config: &BTreeMap<String, Value>) -> Result<Pooling, ModelErrorKind> {
    let mut modes: Vec<&str> = match config.get("pooling_mode").and_then(Value::as_str) {
        Some(mode) => vec![mode],
        None => {
            let on = config.iter().filter(|(_, on)| on.as_bool() == Some(true));
            on.filter_map(|(key, _)| key.strip_prefix("pooling_mode_")).collect()
        }
    };
    modes.retain(|mode| !mode.is_empty());
    match modes.as_slice() {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::First),
        ["lasttoken"] => Ok(Pooling::Last),
        other => Err(ModelErrorKind::Unsupported {
            file: "1_Pooling/config.json".to_owned(),
            key: "pooling_mode".to_owned(),
            found: format!("{other:?}"),
            supported: "one of mean, cls, lasttoken".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Pooling, String> {
        pooling(&serde_json::from_str(json).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_old_and_new_pooling_keys() {
        let old = r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
                      "pooling_mode_mean_tokens": true}"#;
        assert_eq!(read(old), Ok(Pooling::Mean));
        assert_eq!(read(r#"{"pooling_mode": "cls"}"#), Ok(Pooling::First));
        let two = r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#;
        assert!(read(two).unwrap_err().contains(r#"["cls_token", "max_tokens"]"#));
    }

    #[test]
    fn refuses_what_it_does_not_implement() {
        let config = |key: &str, value: &str| {
            let mut json = serde_json::json!({
                "model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 8, "hidden_act": "gelu",
                "max_position_embeddings": 4, "type_vocab_size": 2, "layer_norm_eps": 1e-12
            });
            json[key] = value.into();
            spec(json.to_string().as_bytes(), Pooling::Mean).map_err(|e| e.to_string())
        };
        assert!(config("model_type", "bert").is_ok());
        let error = config("position_embedding_type", "relative_key").unwrap_err();
        assert_eq!(
            error,
            "`config.json`: `position_embedding_type` is `relative_key`, this build implements `absolute`"
        );
        assert!(config("hidden_act", "relu").unwrap_err().contains("`hidden_act` is `relu`"));
        assert!(config("model_type", "roberta").unwrap_err().contains("`model_type`"));
    }
}
