//! Many inputs at once, which are prepared in blocks while others are computed, against one input at a time.
//! The vectors are equal bit for bit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::PathBuf};

use conjoin_core::{Embedder, Seed, Task};
use conjoin_input::{ImageContract, InputContract, TextContract, Tokenizer};
use conjoin_model::{
    Card, EncoderInput, EncoderSpec, ImageSpec, ImageTower, Matryoshka, Model, ModelParts,
    ModelSpec, NameMap, TextTower,
};

/// More than two blocks.
const N_IMAGES: usize = 75;
const N_TEXTS: usize = 2100;

fn model() -> Model {
    let tokens = EncoderInput::Tokens { vocabulary: 8, max_tokens: 9, positions: true, types: 0 };
    let patches =
        EncoderInput::Patches { image_size: 12, patch_size: 5, bias: true, class_token: true };
    let text = EncoderSpec::pre_norm(tokens, 8, 1, 2).projected(4);
    let image = ImageSpec::Transformer(EncoderSpec::pre_norm(patches, 8, 1, 2).projected(4));
    let rules = TextContract { max_tokens: 9, padded: false, bare: None, prompts: BTreeMap::new() };
    let contract = ImageContract::clip(12);
    let (map, seed) = (NameMap::fresh(), Seed(5));
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n";
    let parts = ModelParts {
        text: Some(TextTower::build(&text, &map, seed).unwrap()),
        image: Some(ImageTower::build(&image, &contract, &map, seed).unwrap()),
        tokenizer: Some(Tokenizer::from_wordpiece(vocabulary.as_bytes()).unwrap()),
        ..ModelParts::default()
    };
    let spec = ModelSpec {
        text: Some(text),
        image: Some(image),
        contract: InputContract { text: Some(rules), image: Some(contract) },
        log_scale: 1.0,
        score_bias: 0.0,
        matryoshka: Matryoshka::default(),
        card: Card::default(),
    };
    Model::from_parts(spec, parts).unwrap()
}

#[test]
fn many_pictures_and_broken_ones_keep_their_places() {
    let inputs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/preprocess");
    let files = ["odd.png", "tall.png", "subsampled.jpg", "square.png"]
        .map(|file| fs_err::read(inputs.join("inputs").join(file)).unwrap());
    let is_broken = |i: usize| i % 31 == 2;
    let pictures: Vec<&[u8]> = (0..N_IMAGES)
        .map(|i| if is_broken(i) { &files[i % 4][..90] } else { files[i % 4].as_slice() })
        .collect();
    let model = model();
    let all = model.embed_images(&pictures).unwrap();
    assert_eq!(all.len(), N_IMAGES);
    for (i, found) in all.into_iter().enumerate() {
        let alone = model.embed_images(&pictures[i..=i]).unwrap().remove(0);
        assert_eq!(found.is_err(), is_broken(i), "picture {i}");
        match alone {
            Ok(alone) => assert_eq!(found.unwrap(), alone, "picture {i}"),
            Err(error) => assert_eq!(found.unwrap_err().to_string(), error.to_string()),
        }
    }
}

#[test]
fn many_texts_keep_their_places() {
    let texts: Vec<String> = (0..N_TEXTS)
        .map(|i| ["a ", "b ", "c "].iter().cycle().skip(i).take(i % 10).copied().collect())
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let model = model();
    let all = model.embed_texts(&texts, &Task::Plain).unwrap();
    assert_eq!((all.vectors.len(), all.tokens.len()), (N_TEXTS, N_TEXTS));
    for i in (0..N_TEXTS).step_by(13) {
        let alone = model.embed_texts(&texts[i..=i], &Task::Plain).unwrap();
        assert_eq!(all.vectors.row(i), alone.vectors.row(0), "text {i}");
        assert_eq!(all.tokens[i], alone.tokens[0]);
    }
    let too_long = "a".repeat(conjoin_input::MAX_TEXT_BYTES + 1);
    let mut texts = texts;
    texts[1500] = &too_long;
    assert!(model.embed_texts(&texts, &Task::Plain).is_err());
}
