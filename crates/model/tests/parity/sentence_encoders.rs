//! Sentence encoders: nine families, the layouts around them, and what is refused.
//!
//! Reference: `testdata/parity/sentence_encoders/make.py`.

use std::path::Path;

use conjoin_core::{Embedder, Task, Tower};
use conjoin_model::{
    Model, ModelError,
    families::{Options, Plan},
};
use fs_err as fs;
use serde_json::{Value, json};

use crate::{
    assert_embeddings,
    case::{Case, check},
};

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(concat!("sentence_encoders/", stringify!($name)));
            }
        )*
    };
}

cases! {
    bert roberta xlm_roberta mpnet distilbert modernbert nomic_bert jina_bert_v2 jina_embeddings_v3
    nomic_bert_original jina_embeddings_v3_original
    old_keys dense cls_no_normalize lasttoken plain vocab_txt mpnet_vocab_txt sharded f16 bf16 tied
}

fn case(name: &str) -> Case {
    Case::open(&format!("sentence_encoders/{name}"))
}

/// Texts of `task`, against the tensors that begin with `golden`.
#[track_caller]
fn check_task(case: &Case, model: &Model, task: &str, golden: &str) {
    let contract = model.spec().contract.text.as_ref().unwrap();
    let parts = model.parts();
    let (tower, tokenizer) = (parts.text.as_ref().unwrap(), parts.tokenizer.as_ref().unwrap());
    let prompt = contract.prompt(&Task::named(task)).unwrap();
    let ids = |text: &&str| contract.encode(tokenizer, &format!("{prompt}{text}")).unwrap().ids;
    let ids: Vec<Vec<u32>> = case.texts().iter().map(ids).collect();
    assert_eq!(ids.concat(), case.i64(&format!("{golden}.ids")), "{task}");
    let found = tower.embed(&ids.iter().collect::<Vec<_>>()).unwrap();
    assert_embeddings(&found, &case.f32(&format!("{golden}.embedding")));
}

fn open(folder: &Path, adapter: &str) -> Result<Model, ModelError> {
    Model::open_with(folder, &Options { adapter: Some(adapter.to_owned()) })
}

#[test]
fn prompts_come_from_the_checkpoint() {
    let case_e5 = case("xlm_roberta");
    let model = case_e5.model();
    for task in ["query", "passage"] {
        check_task(&case_e5, &model, task, &format!("prompt.{task}"));
    }
    let nomic = case("nomic_bert");
    let model = nomic.model();
    for task in ["search_query", "search_document"] {
        check_task(&nomic, &model, task, &format!("prompt.{task}"));
    }
    let prompts = &model.spec().contract.text.as_ref().unwrap().prompts;
    assert_eq!(prompts.len(), 2, "the library's empty ones are left out");
}

#[test]
fn an_adapter_is_chosen_when_the_model_is_opened() {
    let case = case("jina_embeddings_v3_original");
    let shoe = |model: &Model| model.embed_texts(&["a red shoe"], &Task::Plain).unwrap().vectors;
    let without = shoe(&case.model());
    for task in ["retrieval.query", "separation"] {
        let model = open(&case.checkpoint(), task).unwrap();
        check_task(&case, &model, task, &format!("task.{task}"));
        let with = shoe(&model);
        let cosine: f32 = with.values().iter().zip(without.values()).map(|(a, b)| a * b).sum();
        assert!(cosine < 0.99, "the adapter of {task} changes nothing");
    }
    let error = |folder: &Path, task| open(folder, task).unwrap_err().kind.to_string();
    let unknown = error(&case.checkpoint(), "rhyme");
    assert!(unknown.contains("`rhyme` was asked for"), "{unknown}");
    let none = error(&Case::open("sentence_encoders/bert").checkpoint(), "separation");
    assert!(none.contains("this kind of model has none"), "{none}");
}

#[test]
fn a_reading_tells_what_was_decided_and_why() {
    let reading = |name: &str| Plan::read(&case(name).checkpoint()).unwrap().reading;
    let has = |name: &str, what: &str, choice: &str, because: &str| {
        let reading = reading(name);
        let found = reading.notes.iter().any(|note| {
            note.what == what && note.choice.contains(choice) && note.because.contains(because)
        });
        assert!(found, "{name}: {:#?}", reading.notes);
        assert!(reading.unread.is_empty(), "{name}: {:?}", reading.unread);
    };
    has("plain", "text pooling", "the mean", "no modules.json");
    has("bert", "most tokens", "30", "tokenizer_config.json: model_max_length");
    has("old_keys", "tokeniser", "small first", "sentence_bert_config.json: do_lower_case is true");
    has("cls_no_normalize", "tokeniser", "lowercase true", "against tokenizer.json");
    has("cls_no_normalize", "length of the vectors", "one", "no Normalize");
    has("modernbert", "text attention", "4 tokens to each side", "local_attention");
    has("nomic_bert_original", "most tokens", "48", "max_trained_positions");
    has("xlm_roberta", "prompt of a text without a task", "query", "default_prompt_name");
    has("jina_embeddings_v3_original", "text adapter", "none", "lora_adaptations");
    for name in
        ["roberta", "mpnet", "distilbert", "nomic_bert", "jina_bert_v2", "jina_embeddings_v3"]
    {
        assert_eq!(reading(name).unread, std::collections::BTreeSet::new(), "{name}");
    }
}

/// Opens a copy of a case's checkpoint after a change, and gives the error.
#[track_caller]
fn refused(name: &str, change: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    copy(&case(name).checkpoint(), dir.path());
    change(dir.path());
    Model::open(dir.path()).unwrap_err().kind.to_string()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Sets a key of a JSON file.
fn set(file: &'static str, key: &'static str, value: Value) -> impl Fn(&Path) {
    move |folder| {
        let path = folder.join(file);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[key] = value.clone();
        fs::write(path, json.to_string()).unwrap();
    }
}

#[test]
fn values_that_would_change_numbers_are_refused() {
    let about = "config_sentence_transformers.json";
    let pooling = "1_Pooling/config.json";
    let changes: [(&str, &'static str, &'static str, Value, &str); 15] = [
        ("bert", "config.json", "hidden_act", json!("gelu_10"), "`hidden_act` is \"gelu_10\""),
        ("bert", "config.json", "position_embedding_type", json!("relative_key"), "\"absolute\""),
        ("bert", "config.json", "is_decoder", json!(true), "`is_decoder` is true"),
        ("bert", "config.json", "model_type", json!("electra"), "xlm-roberta"),
        ("bert", pooling, "pooling_mode", json!("max"), "`pooling_mode` is \"max\""),
        ("bert", about, "truncate_dim", json!(99), "99 dimensions were asked for"),
        ("bert", about, "similarity_fn_name", json!("manhattan"), "unit length"),
        ("lasttoken", about, "similarity_fn_name", json!("dot"), "behind a Normalize module"),
        ("xlm_roberta", pooling, "include_prompt", json!(false), "pooling with the prompt"),
        ("dense", "2_Dense/config.json", "use_residual", json!(true), "`use_residual` is true"),
        ("dense", "2_Dense/config.json", "activation_function", json!("my.Act"), "torch's Tanh"),
        ("mpnet", "config.json", "relative_attention_num_buckets", json!(64), "is 64"),
        ("modernbert", "config.json", "layer_types", json!(["full_attention"]), "each n-th layer"),
        ("nomic_bert_original", "config.json", "prenorm", json!(true), "`prenorm` is true"),
        ("nomic_bert_original", "config.json", "num_experts", json!(8), "`num_experts` is 8"),
    ];
    for (name, file, key, value, expected) in changes {
        let error = refused(name, set(file, key, value));
        assert!(error.contains(expected), "{name}, {key}: {error}");
    }
    // With a Normalize module, a dot product and a distance say what a cosine says.
    let dir = tempfile::tempdir().unwrap();
    copy(&case("bert").checkpoint(), dir.path());
    set(about, "similarity_fn_name", json!("euclidean"))(dir.path());
    set(about, "truncate_dim", json!(8))(dir.path());
    assert_eq!(Model::open(dir.path()).unwrap().width(), 8);
}

#[test]
fn modernbert_is_the_same_by_its_old_keys() {
    let case = case("modernbert");
    let dir = tempfile::tempdir().unwrap();
    copy(&case.checkpoint(), dir.path());
    for (key, value) in [
        ("layer_types", json!(null)),
        ("rope_parameters", json!(null)),
        ("global_attn_every_n_layers", json!(3)),
        ("global_rope_theta", json!(160_000.0)),
        ("local_rope_theta", json!(10_000.0)),
    ] {
        set("config.json", key, value)(dir.path());
    }
    let spec = |folder: &Path| Plan::read(folder).unwrap().text.unwrap();
    assert_eq!(spec(dir.path()), spec(&case.checkpoint()));
    // Another base is another model.
    set("config.json", "local_rope_theta", json!(500.0))(dir.path());
    assert_ne!(spec(dir.path()), spec(&case.checkpoint()));
}

#[test]
fn missing_and_foreign_files_are_told_with_the_way_out() {
    let pickle = refused("bert", |folder| {
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
    assert!(pickle.contains("convert it to safetensors"), "{pickle}");
    let dense = refused("dense", |folder| {
        let folder = folder.join("2_Dense");
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
    assert!(dense.contains("2_Dense/pytorch_model.bin"), "{dense}");
    let shard = refused("sharded", |folder| {
        fs::remove_file(folder.join("model-00002-of-00004.safetensors")).unwrap();
    });
    assert!(shard.contains("model-00002-of-00004.safetensors"), "{shard}");
    let tokenizer = refused("xlm_roberta", |folder| {
        fs::rename(folder.join("tokenizer.json"), folder.join("sentencepiece.bpe.model")).unwrap();
    });
    assert!(tokenizer.contains("save_pretrained"), "{tokenizer}");
    let unknown = refused("bert", |folder| {
        let path = folder.join("modules.json");
        let text =
            fs::read_to_string(&path).unwrap().replace("normalize.Normalize", "x.WordWeights");
        fs::write(path, text).unwrap();
    });
    assert!(unknown.contains("x.WordWeights"), "{unknown}");
}
