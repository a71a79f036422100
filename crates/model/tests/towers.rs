//! Towers and checkpoints whatever the family: what holds for every spec.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use conjoin_core::{Embedder, Embeddings, Manifest, Seed, Task, TokenUse, Tower};
use conjoin_engine::{Activation, Mask, Pairing};
use conjoin_input::{InputContract, TextContract, Tokenizer};
use conjoin_model::{
    AttentionRule, Card, EncoderInput, EncoderSpec, Local, LongText, MlpRule, Model, ModelParts,
    ModelSpec, NameMap, NormPlacement, NormRule, OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes,
    ScoreBias, TextTower,
};

/// An encoder that uses most rules at once.
fn spec() -> EncoderSpec {
    EncoderSpec {
        input: EncoderInput::Tokens { vocabulary: 20, max_tokens: 40, positions: true, types: 2 },
        input_norm: true,
        width: 16,
        layers: 3,
        attention: AttentionRule {
            heads: 2,
            qkv_bias: QkvBias::QueryValue,
            out_bias: true,
            inner_norm: true,
            mask: Mask::Bidirectional,
            score_bias: ScoreBias::Buckets { buckets: 8, max_distance: 20 },
            rotary: Some(Rotary {
                pairing: Pairing::Halves,
                theta: 100.0,
                axes: RotaryAxes::Sequence,
            }),
            local: Some(Local { global_every: 2, reach: 3, theta: 50.0 }),
        },
        mlp: MlpRule {
            width: 24,
            activation: Activation::Silu,
            gated: true,
            up_bias: true,
            down_bias: false,
            inner_norm: true,
        },
        norm: NormRule { placement: NormPlacement::Pre, eps: 1e-5, bias: true, first: false },
        layer_scale: true,
        output_norm: OutputNorm::Tokens,
        pooling: Pooling::Mean,
        head: Vec::new(),
        normalize: true,
    }
    .projected(12)
}

fn tower(spec: &EncoderSpec) -> TextTower {
    TextTower::build(spec, &NameMap::fresh(), Seed(3)).unwrap()
}

fn model() -> Model {
    model_of(&spec(), 8)
}

fn model_of(spec: &EncoderSpec, max_tokens: usize) -> Model {
    let vocab: String =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"].map(|t| format!("{t}\n")).concat();
    let prompts = BTreeMap::from([("query".to_owned(), "a ".to_owned())]);
    let text = TextContract { max_tokens, padded: false, bare: None, prompts };
    let model = ModelSpec {
        text: Some(spec.clone()),
        image: None,
        contract: InputContract { text: Some(text), image: None },
        log_scale: 1.0,
        score_bias: 0.0,
        matryoshka: conjoin_model::Matryoshka::default(),
        card: Card::default(),
    };
    let tokenizer = Some(Tokenizer::from_wordpiece(vocab.as_bytes()).unwrap());
    let parts =
        ModelParts { text: Some(tower(spec)), image: None, tokenizer, ..ModelParts::default() };
    Model::from_parts(model, parts).unwrap()
}

#[test]
fn a_checkpoint_gives_back_the_same_model() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    model.save(&folder, Manifest::new("", 0)).unwrap();
    let again = Model::open(&folder).unwrap();
    assert_eq!(again.fingerprint(), model.fingerprint());
    assert_eq!(again.spec(), model.spec());
    assert_eq!(
        again.embed_texts(&["a b"], &Task::Plain).unwrap(),
        model.embed_texts(&["a b"], &Task::Plain).unwrap()
    );

    let manifest = folder.join("manifest.json");
    let text = fs_err::read_to_string(&manifest).unwrap();
    fs_err::write(&manifest, text.replace("\"version\": 2", "\"version\": 1")).unwrap();
    let error = Model::open(&folder).unwrap_err().kind.to_string();
    assert_eq!(error, "checkpoint version 1, this build reads 2; train the model anew");
    fs_err::write(&manifest, text).unwrap();

    let mut bytes = fs_err::read(folder.join("weights.safetensors")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs_err::write(folder.join("weights.safetensors"), &bytes).unwrap();
    let error = Model::open(&folder).unwrap_err().kind.to_string();
    assert!(error.contains("`weights.safetensors` has hash"), "{error}");
}

#[test]
fn long_texts_are_told_and_can_be_read_whole() {
    // Six words fit between the two special tokens.
    let long = "a b b a b a a b a b b";
    let texts = ["a b", long];
    let cut = model().embed_texts(&texts, &Task::Plain).unwrap();
    let used = |used, total| TokenUse { used, total };
    assert_eq!(cut.tokens, [used(4, 4), used(8, 13)]);
    assert_eq!(cut.n_truncated(), 1);
    for way in [LongText::Mean, LongText::Late] {
        let model = model().with_long_texts(way).unwrap();
        let whole = model.embed_texts(&texts, &Task::Plain).unwrap();
        assert_eq!(whole.tokens, [used(4, 4), used(13, 13)]);
        assert_eq!(whole.vectors.row(0), cut.vectors.row(0), "a text that fits is read as ever");
        assert_ne!(whole.vectors.row(1), cut.vectors.row(1));
    }
    // Pieces: "a b b a b a" with six tokens and "a b a b b" with five.
    let pieces = model().embed_texts(&["a b b a b a", "a b a b b"], &Task::Plain).unwrap().vectors;
    let sum = |i: usize| 6.0 * pieces.row(0)[i] + 5.0 * pieces.row(1)[i];
    let mut expected = Embeddings::new(12, (0..12).map(sum).collect()).unwrap();
    expected.normalize();
    let mean = model().with_long_texts(LongText::Mean).unwrap();
    let mean = mean.embed_texts(&[long], &Task::Plain).unwrap().vectors;
    for (found, expected) in mean.values().iter().zip(expected.values()) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
}

#[test]
fn late_chunking_counts_every_token_once() {
    // A token of such a model has the same state in every window, so windows must change nothing, and
    // no token may count twice or not at all.
    let mut spec = spec();
    spec.input =
        EncoderInput::Tokens { vocabulary: 20, max_tokens: 40, positions: false, types: 0 };
    spec.layers = 0;
    let long = "a b b a b a a b a b b";
    let of = |max_tokens, way| {
        let model = model_of(&spec, max_tokens).with_long_texts(way).unwrap();
        model.embed_texts(&[long], &Task::Plain).unwrap().vectors.into_values()
    };
    let (late, whole) = (of(8, LongText::Late), of(40, LongText::Cut));
    for (late, whole) in late.iter().zip(&whole) {
        assert!((late - whole).abs() < 1e-6, "{late} for {whole}");
    }
    let mut first = spec.clone();
    first.pooling = Pooling::First;
    let error = model_of(&first, 8).with_long_texts(LongText::Late).unwrap_err().to_string();
    assert!(error.contains("the mean of all tokens"), "{error}");
}

#[test]
fn tasks_put_their_prompts_before_the_text() {
    let model = model();
    let query = model.embed_texts(&["b"], &Task::Query).unwrap().vectors;
    let by_hand = model.embed_texts(&["a b"], &Task::Plain).unwrap().vectors;
    assert_eq!(query, by_hand);
    let passage = model.embed_texts(&["b"], &Task::Passage).unwrap().vectors;
    assert_eq!(passage, model.embed_texts(&["b"], &Task::Plain).unwrap().vectors);
    let error = model.embed_texts(&["b"], &Task::named("jokes")).unwrap_err().to_string();
    assert_eq!(error, "this model has no prompt for the task `jokes`; it has query");
}

#[test]
fn a_row_never_depends_on_its_batch() {
    let rules = [
        (Pooling::Mean, NormPlacement::Pre),
        (Pooling::Last, NormPlacement::Post),
        (Pooling::FirstId(3), NormPlacement::Pre),
        (Pooling::LargestId, NormPlacement::Pre),
        (
            Pooling::Probe { heads: 4, mlp_width: 20, activation: Activation::Gelu },
            NormPlacement::Pre,
        ),
    ];
    for (pooling, placement) in rules {
        let norm = NormRule { placement, eps: 1e-5, bias: false, first: true };
        let tower = tower(&EncoderSpec { pooling, norm, ..spec() });
        let ids = [vec![1, 3, 5], vec![7; 30], vec![2], vec![4, 9, 3, 3, 9, 1]];
        let all = tower.embed(&ids.iter().collect::<Vec<_>>()).unwrap();
        for (row, ids) in all.rows().zip(&ids) {
            let alone = tower.embed(&[ids]).unwrap();
            for (a, b) in alone.values().iter().zip(row) {
                assert!((a - b).abs() < 1e-6, "{pooling:?}: {a} for {b}");
            }
        }
    }
}

#[test]
fn bad_inputs_are_told_with_their_place() {
    let tower = tower(&spec());
    let error = |ids: Vec<u32>| tower.embed(&[&vec![1], &ids]).unwrap_err().to_string();
    assert_eq!(error(vec![]), "input 1 has size 0 tokens, this tower takes 1 to 40 tokens");
    assert_eq!(error(vec![0; 41]), "input 1 has size 41 tokens, this tower takes 1 to 40 tokens");
    assert_eq!(error(vec![20]), "input 1 has token id 20, the vocabulary has 20 entries");
    assert!(tower.embed(&[]).unwrap().is_empty());
}

#[test]
fn specs_that_contradict_themselves_are_refused() {
    let refuse = |change: &dyn Fn(&mut EncoderSpec)| {
        let mut spec = spec();
        change(&mut spec);
        TextTower::build(&spec, &NameMap::fresh(), Seed(0)).unwrap_err().to_string()
    };
    let heads = refuse(&|s| s.attention.heads = 3);
    assert_eq!(heads, "spec: `attention.heads` is 3, expected a divisor of the width 16");
    assert!(refuse(&|s| s.width = 0).contains("`width` is 0"));
    assert!(refuse(&|s| s.attention.heads = 16).contains("`attention.rotary`"));
    let patches =
        EncoderInput::Patches { image_size: 32, patch_size: 16, bias: true, class_token: true };
    assert!(refuse(&|s| s.input = patches.clone()).contains("for a text tower"));
}

#[test]
fn weights_of_16_bits_are_embedded_with_as_they_lie() {
    let parity = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
    for case in ["f16", "bf16"] {
        let folder = parity.join("sentence_encoders").join(case).join("checkpoint");
        let model = Model::open(&folder).unwrap();
        let texts = ["a red apple", "two green pears"];
        let vectors = model.embed_texts(&texts, &Task::Plain).unwrap().vectors;
        let (spec, mut parts) = model.into_parts();
        let tower = parts.text.as_mut().unwrap();
        let matrices = |p: &&conjoin_core::Parameter| {
            p.name.ends_with("tokens.weight") || p.name.contains("layers") && p.shape.len() == 2
        };
        let n = tower.parameters().iter().filter(matrices).count();
        assert!(n > 4, "{n} matrices");
        for parameter in tower.parameters().iter().filter(matrices) {
            assert!(parameter.value.halves().is_some(), "{case}: {} was widened", parameter.name);
        }
        // The same numbers, widened before.
        for parameter in tower.parameters_mut() {
            parameter.value = parameter.value.to_vec().into();
        }
        let wide = Model::new(spec, parts, "wide".to_owned()).unwrap();
        assert_eq!(wide.embed_texts(&texts, &Task::Plain).unwrap().vectors, vectors);
    }
}
