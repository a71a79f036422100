//! Ranking models against sentence-transformers and PyLate: ids, every layer, scores, every gradient.
//!
//! Tolerances: every stage 1e-4 absolute, ids equal, gradients 5e-4 of a tensor's largest value.
//! Reference: `testdata/parity/{cross_encoders,colbert}/make.py`.

#![expect(clippy::unwrap_used, reason = "a test tells and fails by panicking")]

use std::path::{Path, PathBuf};

use conjoin_core::{Embeddings, Gradients, Reranker, Tower, max_sim};
use conjoin_engine::Tensor;
use conjoin_model::{
    CrossEncoder, LateInteraction, ModelError, NameMap, Sequence, SequenceTower, TokenVectors,
    Weights,
    families::{colbert::LatePlan, cross_encoder::PairPlan},
    open_reranker,
};
use serde::Deserialize;

struct Case {
    folder: PathBuf,
    golden: Weights,
}

#[derive(Deserialize)]
struct Pairs {
    pairs: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Sides {
    queries: Vec<String>,
    documents: Vec<String>,
}

impl Case {
    fn open(path: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity").join(path);
        Self { golden: Weights::open(&folder.join("golden.safetensors")).unwrap(), folder }
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }

    fn inputs<T: for<'a> Deserialize<'a>>(&self) -> T {
        serde_json::from_slice(&fs_err::read(self.folder.join("inputs.json")).unwrap()).unwrap()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.golden.tensor(name).unwrap_or_else(|e| panic!("{e}")).1.to_vec()
    }

    fn whole(&self, name: &str) -> Vec<usize> {
        self.golden.indices(name).unwrap_or_else(|e| panic!("{e}"))
    }

    fn gradients(&self, map: impl Fn(&Weights) -> NameMap) -> Option<NameMap> {
        let file = self.folder.join("gradients.safetensors");
        file.exists().then(|| map(&Weights::open(&file).unwrap()))
    }
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: size");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance, "{what}[{i}]: {f} for {e}");
    }
}

/// Every parameter's gradient: PyTorch's, or nothing where a table has a row for padding.
#[track_caller]
fn assert_gradients(tower: &SequenceTower, found: &Gradients, expected: &NameMap) {
    for (parameter, found) in tower.parameters().iter().zip(found.iter()) {
        let name = parameter.name.strip_prefix("text.").unwrap();
        let (_, expected) = expected.get(name).unwrap_or_else(|| panic!("no golden for {name}"));
        let mut expected = expected.to_vec();
        if name == "tokens.weight" {
            // PyTorch never trains the row of the padding token; we never pad, so it is like any other.
            let d = parameter.shape[1];
            for (expected, found) in expected.chunks_mut(d).zip(found.chunks(d)) {
                if expected.iter().all(|g| *g == 0.0) {
                    expected.copy_from_slice(found);
                }
            }
        }
        let largest = expected.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
        assert_close(name, found, &expected, 5e-4 * largest);
    }
}

/// What comes out of a tower with a tape, and the gradients of the sum of rows ∘ `dy`.
#[track_caller]
fn backward(
    tower: &SequenceTower,
    inputs: &[&Sequence],
    dy: Vec<f32>,
    into: &mut Gradients,
) -> Embeddings {
    let (rows, recording) = tower.record(inputs).unwrap();
    tower.backward(recording, &Embeddings::new(tower.width(), dy).unwrap(), into);
    rows
}

fn cross_encoder(case: &Case) -> (CrossEncoder, Option<NameMap>) {
    let plan = PairPlan::read(&case.checkpoint()).unwrap_or_else(|e| panic!("{e}: {}", e.kind));
    let gradients = case.gradients(|weights| plan.map(weights).unwrap());
    (plan.build().unwrap(), gradients)
}

#[track_caller]
fn check_cross_encoder(path: &str) {
    let case = Case::open(path);
    let (model, gradients) = cross_encoder(&case);
    let Pairs { pairs } = case.inputs();
    let (offsets, ids) = (case.whole("pair.offsets"), case.whole("pair.ids"));
    let (types, total) = (case.whole("pair.types"), case.whole("pair.total"));
    let mut inputs = Vec::new();
    for (i, (query, document)) in pairs.iter().enumerate() {
        let tokens = model.tokenize(query, document).unwrap();
        let span = offsets[i]..offsets[i + 1];
        let golden =
            |values: &[usize]| values[span.clone()].iter().map(|v| *v as u32).collect::<Vec<_>>();
        assert_eq!(tokens.ids, golden(&ids), "ids of {query:?}, {document:?}");
        assert_eq!(tokens.total, total[i], "{query:?}, {document:?}");
        let sequence = model.sequence(tokens);
        assert_eq!(sequence.types, golden(&types), "types of {query:?}, {document:?}");
        inputs.push(sequence);
    }
    let inputs: Vec<&Sequence> = inputs.iter().collect();
    let compare = |name: &str, value: &Tensor| {
        assert_close(name, value.values(), &case.f32(&format!("pair.{name}")), 1e-4);
    };
    model.tower().observe(&inputs, &mut { compare }).unwrap();
    let logits = case.f32("pair.logits");
    assert_close("logits", model.tower().embed(&inputs).unwrap().values(), &logits, 1e-4);
    let mut found = Gradients::zeros(model.tower().parameters());
    let recorded = backward(model.tower(), &inputs, case.f32("pair.dy"), &mut found);
    assert_close("recorded logits", recorded.values(), &logits, 1e-4);
    if let Some(expected) = gradients {
        assert_gradients(model.tower(), &found, &expected);
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(q, d)| (q.as_str(), d.as_str())).collect();
    let (scores, read) = model.predict(&pairs).unwrap();
    assert_close("scores", scores.values(), &case.f32("pair.scores"), 1e-4);
    assert!(read.iter().any(|tokens| tokens.is_truncated()), "some pair is truncated");
}

#[test]
fn parity_bert_cross_encoder_with_gradients() {
    check_cross_encoder("cross_encoders/bert");
}

#[test]
fn parity_bert_cross_encoder_without_modules_and_with_the_old_activation_key() {
    check_cross_encoder("cross_encoders/bert_plain");
}

#[test]
fn parity_xlm_roberta_cross_encoder() {
    check_cross_encoder("cross_encoders/xlm_roberta");
}

#[test]
fn parity_modernbert_cross_encoders() {
    check_cross_encoder("cross_encoders/modernbert_mean");
    check_cross_encoder("cross_encoders/modernbert_cls");
}

/// One side of a case of late interaction.
struct Side<'a> {
    case: &'a Case,
    name: &'a str,
    sequences: Vec<Sequence>,
}

impl Side<'_> {
    fn f32(&self, name: &str) -> Vec<f32> {
        self.case.f32(&format!("{}.{name}", self.name))
    }

    fn whole(&self, name: &str) -> Vec<usize> {
        self.case.whole(&format!("{}.{name}", self.name))
    }

    #[track_caller]
    fn check(&self, model: &LateInteraction, vectors: &[TokenVectors], into: &mut Gradients) {
        let (offsets, visible) = (self.whole("offsets"), self.whole("seen"));
        let (ids, kept, rows) = (self.whole("ids"), self.whole("kept"), self.whole("rows"));
        let expected = self.f32("embedding");
        for (i, sequence) in self.sequences.iter().enumerate() {
            let span = offsets[i]..offsets[i + 1];
            let what = format!("{} {i}", self.name);
            let golden_ids: Vec<u32> = ids[span.clone()].iter().map(|id| *id as u32).collect();
            assert_eq!(sequence.ids, golden_ids, "ids of {what}");
            assert_eq!(sequence.visible, visible[i], "visible tokens of {what}");
            let golden_kept = (0..span.len()).filter(|t| kept[span.start + t] == 1);
            assert_eq!(sequence.kept, golden_kept.collect::<Vec<_>>(), "kept tokens of {what}");
            let e = model.width();
            let alone = &expected[rows[i] * e..rows[i + 1] * e];
            assert_close(&what, vectors[i].vectors.values(), alone, 1e-4);
        }
        let inputs: Vec<&Sequence> = self.sequences.iter().collect();
        let compare = |name: &str, value: &Tensor| {
            assert_close(name, value.values(), &self.f32(name), 1e-4);
        };
        model.tower().observe(&inputs, &mut { compare }).unwrap();
        let recorded = backward(model.tower(), &inputs, self.f32("dy"), into);
        assert_close("recorded", recorded.values(), &expected, 1e-4);
    }
}

#[track_caller]
fn check_late_interaction(path: &str) {
    let case = Case::open(path);
    let plan = LatePlan::read(&case.checkpoint()).unwrap_or_else(|e| panic!("{e}: {}", e.kind));
    let expected = case.gradients(|weights| plan.map(weights).unwrap());
    let model = plan.build().unwrap();
    let Sides { queries, documents } = case.inputs();
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let q = model.embed_queries(&queries).unwrap();
    let d = model.embed_documents(&documents).unwrap();
    assert!(q.iter().chain(&d).any(|text| text.tokens.is_truncated()));

    let mut found = Gradients::zeros(model.tower().parameters());
    let sequences = queries.iter().map(|text| model.query_sequence(text).unwrap()).collect();
    Side { case: &case, name: "query", sequences }.check(&model, &q, &mut found);
    let sequences = documents.iter().map(|text| model.document_sequence(text).unwrap()).collect();
    Side { case: &case, name: "document", sequences }.check(&model, &d, &mut found);
    if let Some(expected) = expected {
        assert_gradients(model.tower(), &found, &expected);
    }
    let scores: Vec<f32> =
        q.iter().flat_map(|q| d.iter().map(|d| max_sim(&q.vectors, &d.vectors))).collect();
    assert_close("scores", &scores, &case.f32("scores"), 1e-4);

    let reranker = open_reranker(&case.checkpoint()).unwrap();
    let first = reranker.rerank(queries[0], &documents).unwrap();
    let first: Vec<f32> = first.iter().map(|relevance| relevance.score).collect();
    assert_close("reranked", &first, &case.f32("scores")[..documents.len()], 1e-4);
}

#[test]
fn parity_pylate_with_unseen_expansion_and_gradients() {
    check_late_interaction("colbert/bert");
}

#[test]
fn parity_pylate_without_expansion_and_marker() {
    check_late_interaction("colbert/bert_unexpanded");
}

#[test]
fn parity_pylate_on_modernbert_with_gradients() {
    check_late_interaction("colbert/modernbert");
}

#[test]
fn parity_stanford_colbert_with_seen_expansion() {
    check_late_interaction("colbert/stanford");
}

fn message(error: &ModelError) -> String {
    error.kind.to_string()
}

#[test]
fn models_that_do_not_rank_are_told_apart() {
    let open = |path: &str| open_reranker(&Case::open(path).checkpoint()).err().unwrap();
    let several = message(&open("cross_encoders/modernbert_mean"));
    assert_eq!(several, "this cross-encoder gives 3 scores per pair, ranking needs one");
    assert!(message(&open("static/model2vec")).starts_with("no reranker: expected"));
    let embeds =
        |path: &str| conjoin_model::Model::open(&Case::open(path).checkpoint()).unwrap_err();
    assert_eq!(
        message(&embeds("cross_encoders/bert")),
        "this is a cross-encoder, which gives no embeddings; use it with `conjoin rerank`"
    );
    assert!(message(&embeds("colbert/stanford")).contains("a model of late interaction"));
}

/// A copy of a checkpoint in which one file says something else.
fn changed(path: &str, file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(Case::open(path).checkpoint()).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() {
            fs_err::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
        }
    }
    let text = fs_err::read_to_string(copy.path().join(file)).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    fs_err::write(copy.path().join(file), text.replace(from, to)).unwrap();
    copy
}

#[test]
fn rules_that_would_change_scores_are_errors() {
    let refused = |path: &str, file: &str, from: &str, to: &str| {
        let folder = changed(path, file, from, to);
        message(&open_reranker(folder.path()).err().unwrap())
    };
    let library = "config_sentence_transformers.json";
    let error =
        refused("cross_encoders/bert", library, "activation.Sigmoid", "activation.Softplus");
    assert_eq!(
        error,
        "`config_sentence_transformers.json`: `activation_fn` is \
         `torch.nn.modules.activation.Softplus`, this build implements torch's `Sigmoid` or `Identity`"
    );
    let mine = refused(
        "cross_encoders/bert",
        library,
        "torch.nn.modules.activation.Sigmoid",
        "my.Sigmoid",
    );
    assert!(mine.contains("`my.Sigmoid`"), "{mine}");
    let left = ("\"model_max_length\"", "\"truncation_side\": \"left\", \"model_max_length\"");
    let error = refused("cross_encoders/bert", "tokenizer_config.json", left.0, left.1);
    assert!(error.contains("`truncation_side` is `left`"), "{error}");
    let error = refused("colbert/stanford", "artifact.metadata", "cosine", "l2");
    assert_eq!(error, "`artifact.metadata`: `similarity` is `l2`, this build implements cosine");
    let error = refused("colbert/stanford", "artifact.metadata", "[unused1]", "[unused7]");
    assert!(error.contains("without `[unused7]`"), "{error}");
}

#[test]
fn a_stored_activation_rules_and_else_the_number_of_labels() {
    let first_score = |folder: &Path| {
        let model = PairPlan::read(folder).unwrap().build().unwrap();
        model.predict(&[("bread", "apples")]).unwrap().0.row(0)[0]
    };
    let plain = Case::open("cross_encoders/bert_plain").checkpoint();
    let key = "sbert_ce_default_activation_function";
    let removed = changed("cross_encoders/bert_plain", "config.json", key, "finetuning_task");
    let logit = first_score(&plain);
    let sigmoid = 1.0 / (1.0 + (-logit).exp());
    assert!((first_score(removed.path()) - sigmoid).abs() < 1e-6);
}
