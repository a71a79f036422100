//! Models that put texts and pictures into one space: SigLIP and Jina CLIP.

use conjoin_core::{Embedder, Task};
use conjoin_model::{
    Model,
    families::{Options, Plan},
};

use serde_json::{Value, json};

use crate::{
    assert_embeddings,
    case::{Case, check},
};

#[test]
fn parity_siglip() {
    check("siglip/v1");
}

#[test]
fn parity_siglip2_of_fixed_resolution() {
    check("siglip/v2");
}

#[test]
fn parity_jina_clip_v1() {
    check("jina_clip/v1");
}

#[test]
fn parity_jina_clip_v1_in_the_names_of_jina_embeddings_v2() {
    check("jina_clip/v1_hf");
}

#[test]
fn parity_jina_clip_v2() {
    check("jina_clip/v2");
}

#[test]
fn parity_jina_clip_v2_without_adapters() {
    check("jina_clip/v2_merged");
}

/// A copy of a case's checkpoint whose files can be changed.
fn copied(case: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(Case::open(case).checkpoint()).unwrap() {
        let path = entry.unwrap().path();
        fs_err::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// The error of a checkpoint whose `config.json` has another value at a JSON pointer.
#[track_caller]
fn refused(case: &str, pointer: &str, value: Value) -> String {
    let folder = copied(case);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    let (above, key) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(above).unwrap()[key] = value;
    fs_err::write(&path, config.to_string()).unwrap();
    Plan::read(folder.path()).map(|_| pointer.to_owned()).unwrap_err().kind.to_string()
}

#[test]
fn refuses_values_that_would_change_numbers() {
    for (case, pointer, value, told) in [
        ("siglip/v1", "/model_type", json!("siglip2"), "NaFlex"),
        ("siglip/v1", "/vision_config/vision_use_head", json!(false), "vision_use_head"),
        ("siglip/v1", "/text_config/hidden_act", json!("mish"), "text_config.hidden_act"),
        ("jina_clip/v1", "/vision_config/post_norm", json!(true), "vision_config.post_norm"),
        ("jina_clip/v1", "/vision_config/subln", Value::Null, "vision_config.subln"),
        ("jina_clip/v1", "/vision_config/mlp_ratio", json!(4.0), "the tensors' 96"),
        ("jina_clip/v1", "/vision_config/pt_hw_seq_len", json!(16), "where intp_freq is false"),
        ("jina_clip/v1", "/text_config/hf_model_name_or_path", json!("x"), "jina-bert"),
        ("jina_clip/v1", "/text_config/pooler_type", json!("max_pooler"), "mean_pooler"),
        ("jina_clip/v1", "/text_config/hf_model_config_kwargs/qk_norm", json!(1), "no such key"),
        ("jina_clip/v2", "/text_config/default_lora_task", json!("x"), "retrieval.passage"),
    ] {
        let error = refused(case, pointer, value);
        assert!(error.contains(told), "{pointer}: {error}");
    }
}

#[test]
fn asks_for_the_tokenizer_file_where_there_is_only_sentencepiece() {
    let folder = copied("siglip/v1");
    fs_err::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = Plan::read(folder.path()).map(|_| ()).unwrap_err().kind.to_string();
    assert!(error.contains("spiece.model") && error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_checkpoint_may_cut_its_vectors_itself() {
    let folder = copied("jina_clip/v2");
    let path = folder.path().join("config.json");
    let config = String::from_utf8(fs_err::read(&path).unwrap()).unwrap();
    let open = |width: usize| {
        let key = format!(r#""truncate_dim": {width}"#);
        fs_err::write(&path, config.replace(r#""truncate_dim": null"#, &key)).unwrap();
        Model::open(folder.path())
    };
    let model = open(24).unwrap();
    assert_eq!((model.width(), model.cut_to(36).unwrap().width()), (24, 36));
    let error = open(17).unwrap_err().kind.to_string();
    assert!(error.contains("[8, 16, 24, 36]"), "{error}");
}

/// The case and its model.
fn jina_v2() -> (Case, Model) {
    let case = Case::open("jina_clip/v2");
    let model = case.model();
    (case, model)
}

#[test]
fn merges_the_adapter_that_is_asked_for() {
    let (case, default) = jina_v2();
    let options = Options { adapter: Some("retrieval.passage".to_owned()) };
    let model = Model::open_with(&case.checkpoint(), &options).unwrap();
    let texts = case.texts();
    assert_embeddings(
        &model.embed_texts(&texts, &Task::Plain).unwrap().vectors,
        &case.f32("text.other_task"),
    );
    assert_ne!(model.fingerprint(), default.fingerprint());

    let options = Options { adapter: Some("clustering".to_owned()) };
    let error = Model::open_with(&case.checkpoint(), &options).unwrap_err().kind.to_string();
    assert!(error.contains("`clustering`"), "{error}");
    assert!(error.contains("retrieval.passage, retrieval.query"), "{error}");
    let siglip = Case::open("siglip/v1").checkpoint();
    let error = Model::open_with(&siglip, &options).unwrap_err().kind.to_string();
    assert!(error.contains("has none"), "{error}");
}

#[test]
fn cuts_vectors_to_trained_widths() {
    let (case, model) = jina_v2();
    assert_eq!(model.widths(), [8, 16, 24, 36]);
    let whole = model.fingerprint().to_owned();
    let model = model.cut_to(16).unwrap();
    assert_eq!((model.width(), model.widths()), (16, vec![8, 16]));
    assert_ne!(model.fingerprint(), whole);
    let texts = case.texts();
    assert_embeddings(
        &model.embed_texts(&texts, &Task::Plain).unwrap().vectors,
        &case.f32("text.truncated"),
    );
    let files = case.image_files();
    let images: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let rows = model.embed_images(&images).unwrap().into_iter().map(Result::unwrap);
    let found = conjoin_core::Embeddings::new(16, rows.flatten().collect()).unwrap();
    assert_embeddings(&found, &case.f32("image.truncated"));

    let model = model.cut_to(36).unwrap();
    assert_eq!(model.fingerprint(), whole);
    let error = model.cut_to(17).unwrap_err().to_string();
    assert_eq!(error, "17 dimensions were asked for, the model's vectors can have [8, 16, 24, 36]");
}

#[test]
fn tells_what_it_read_of_jina_clip() {
    let plan = Plan::read(&Case::open("jina_clip/v2").checkpoint()).unwrap();
    assert_eq!(plan.card.licence.as_deref(), Some("cc-by-nc-4.0"));
    let text = plan.contract.text.as_ref().unwrap();
    let query = "Represent the query for retrieving evidence documents: ";
    assert_eq!(text.prompt(&Task::Query), Some(query));
    assert_eq!(plan.reading.family, "Jina CLIP");
    assert_eq!(plan.reading.unread.iter().collect::<Vec<_>>(), Vec::<&String>::new());
    let told = |what: &str| {
        let note = plan.reading.notes.iter().find(|note| note.what == what);
        note.unwrap_or_else(|| panic!("{what}: {:?}", plan.reading.notes)).clone()
    };
    assert!(told("LoRA task").choice.contains("retrieval.query"));
    assert!(told("most tokens").because.contains("512"));
    assert!(told("image rotary positions").choice.starts_with("6 rows and columns"));
}
