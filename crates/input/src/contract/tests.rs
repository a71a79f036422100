//! Tests of `contract`.

use super::*;

const STORED: &str = r#"{
    "text": {"max_tokens": 77, "padded": false, "prompts": {"query": "query: "}},
    "image": {
        "size": 64,
        "resize": {"shortest_center_crop": {"crop_rounding": "half_even"}},
        "interpolation": "bicubic",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711]
    }
}"#;

fn stored() -> InputContract {
    serde_json::from_str(STORED).unwrap()
}

#[test]
fn opens_v1_contract() {
    let text = TextContract {
        max_tokens: 77,
        padded: false,
        bare: None,
        prompts: [("query".to_owned(), "query: ".to_owned())].into(),
    };
    let expected = InputContract { text: Some(text), image: Some(ImageContract::clip(64)) };
    assert_eq!(stored(), expected);
    let again = serde_json::to_string(&expected).unwrap();
    assert_eq!(serde_json::from_str::<InputContract>(&again).unwrap(), expected);
}

#[test]
fn refuses_missing_and_unknown_keys() {
    let without = STORED.replace(r#""interpolation": "bicubic","#, "");
    let found = serde_json::from_str::<InputContract>(&without).unwrap_err();
    assert!(found.to_string().starts_with("missing field `interpolation`"), "{found}");
    for (from, to) in [
        (r#""size": 64,"#, r#""size": 64, "antialias": true,"#),
        (r#""max_tokens": 77,"#, r#""max_tokens": 77, "lower": true,"#),
        (r#""half_even""#, r#""half_even", "pad": 1"#),
    ] {
        let found = serde_json::from_str::<InputContract>(&STORED.replace(from, to)).unwrap_err();
        assert!(found.to_string().starts_with("unknown field"), "{found}");
    }
}

#[test]
fn checks_every_modality() {
    assert_eq!(stored().check(), Ok(()));
    let mut contract = stored();
    contract.text.as_mut().unwrap().max_tokens = 0;
    let found = contract.check().unwrap_err();
    assert_eq!(found.to_string(), "`text.max_tokens` is 0, expected at least 1");
    let mut contract = stored();
    contract.image.as_mut().unwrap().size = 1 << 20;
    assert_eq!(contract.check().unwrap_err().key, "image.size");
}

#[test]
fn prompts_only_known_tasks() {
    let text = stored().text.unwrap();
    assert_eq!(text.prompt(&Task::Query), Some("query: "));
    assert_eq!(text.prompt(&Task::Passage), Some(""), "passages need none");
    assert_eq!(text.prompt(&Task::named("duplicate")), None);
    assert_eq!(text.prompt(&Task::Plain), Some(""));
    let mut text = text;
    text.prompts.insert(String::new(), "text: ".to_owned());
    assert_eq!(text.prompt(&Task::Plain), Some("text: "), "the model's own default");
}

#[test]
fn pads_where_the_model_reads_its_padding() {
    let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nshoe\n";
    let tokenizer = Tokenizer::from_wordpiece(vocab).unwrap();
    let mut text = stored().text.unwrap();
    text.max_tokens = 5;
    let ids = |text: &TextContract, input| text.encode(&tokenizer, input).unwrap();
    assert_eq!(ids(&text, "red").ids, [2, 5, 3]);
    text.padded = true;
    assert_eq!(ids(&text, "red"), Tokens { ids: vec![2, 5, 3, 0, 0], total: 3 });
    let long = ids(&text, "red shoe red shoe");
    assert_eq!(long, Tokens { ids: vec![2, 5, 6, 5, 3], total: 6 });
}

#[test]
fn bare_tokens_are_cut_by_characters_then_by_number_then_lose_the_unknown() {
    let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nshoe\n";
    let tokenizer = Tokenizer::from_wordpiece(vocab).unwrap();
    let bare = |skip_unknown, max_chars| {
        let mut text = stored().text.unwrap();
        text.max_tokens = 3;
        text.bare = Some(BareTokens { skip_unknown, max_chars });
        text.encode(&tokenizer, "red ? shoe red").unwrap()
    };
    assert_eq!(bare(false, None), Tokens { ids: vec![5, 1, 6], total: 4 });
    assert_eq!(bare(true, None), Tokens { ids: vec![5, 6], total: 3 });
    // "red ? sho": the last word is cut and unknown.
    assert_eq!(bare(true, Some(9)), Tokens { ids: vec![5], total: 3 });
    assert_eq!(bare(false, Some(0)), Tokens { ids: vec![], total: 4 });
}
