//! Token ids equal to those of transformers' `BertTokenizer` and `CLIPTokenizer`.
//!
//! In: `testdata/parity/tokenise/ids.json`, made by the `make.py` there. Tolerance: none.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;

use conjoin_input::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    slots: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    bert: Vec<u32>,
    bert_cut: Vec<u32>,
    clip: Vec<u32>,
    clip_cut: Vec<u32>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn file() -> File {
    let bytes = fs_err::read(root().join("testdata/parity/tokenise/ids.json")).unwrap();
    let file: File = serde_json::from_slice(&bytes).unwrap();
    assert!(file.cases.len() >= 40);
    file
}

fn asset(name: &str) -> Vec<u8> {
    fs_err::read(root().join("assets/tokenizers").join(name)).unwrap()
}

/// Checks the tokenizer as made, and once more after it was stored and read again.
fn check(made: Tokenizer, expected: impl Fn(&Case) -> (&[u32], &[u32])) {
    let File { slots, cases } = file();
    let stored = Tokenizer::from_json(&made.to_json()).unwrap();
    assert_eq!(stored.to_json(), made.to_json());
    for tokenizer in [made, stored] {
        for case in &cases {
            let (whole, cut) = expected(case);
            let found = tokenizer.encode(&case.text, usize::MAX).unwrap();
            assert_eq!(found.ids, whole, "{:?}", case.text);
            assert_eq!(found.total, whole.len());
            let found = tokenizer.encode(&case.text, slots).unwrap();
            assert_eq!(found.ids, cut, "{:?} cut", case.text);
            assert_eq!(found.total, whole.len());
        }
    }
}

#[test]
fn parity_bert_tokenizer() {
    let made = Tokenizer::from_wordpiece(&asset("bert-base-uncased.vocab.txt")).unwrap();
    assert_eq!((made.vocabulary_size(), made.pad_id()), (30_522, 0));
    check(made, |case| (&case.bert, &case.bert_cut));
}

#[test]
fn parity_clip_tokenizer() {
    let made = Tokenizer::from_clip_merges(&asset("clip-bpe-merges.txt.gz")).unwrap();
    assert_eq!((made.vocabulary_size(), made.pad_id()), (49_408, 49_407));
    check(made, |case| (&case.clip, &case.clip_cut));
}

#[derive(Deserialize)]
struct OpenClipCase {
    text: String,
    ids: Vec<u32>,
}

/// Texts that open_clip reads without repairing them first.
#[test]
fn parity_open_clip_tokenizer() {
    let bytes = fs_err::read(root().join("testdata/parity/open_clip/tokens.json")).unwrap();
    let cases: Vec<OpenClipCase> = serde_json::from_slice(&bytes).unwrap();
    assert!(cases.len() >= 15);
    let made = Tokenizer::open_clip();
    assert_eq!((made.vocabulary_size(), made.pad_id()), (49_408, 0));
    let stored = Tokenizer::from_json(&made.to_json()).unwrap();
    assert_eq!(stored.pad_id(), 0);
    for case in cases {
        assert_eq!(made.encode(&case.text, 77).unwrap().ids, case.ids, "{:?}", case.text);
        assert_eq!(stored.encode(&case.text, 77).unwrap().ids, case.ids, "{:?}", case.text);
    }
}

/// The published file asks for truncation and padding to 128, which must not be followed.
#[test]
fn parity_published_tokenizer_json() {
    let shared = std::env::var_os("CONJOIN_SHARED").map_or(root().join("../shared"), Into::into);
    let path = shared.join("weights/all-MiniLM-L6-v2/tokenizer.json");
    let Ok(bytes) = fs_err::read(&path) else {
        eprintln!("skipped: there is no {}", path.display());
        return;
    };
    check(Tokenizer::from_json(&bytes).unwrap(), |case| (&case.bert, &case.bert_cut));
}
