//! Tests of `tokenizer` and `tokenizer_files`.

use std::{io::Write, path::PathBuf, sync::LazyLock};

use proptest::prelude::*;

use super::*;

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n##s\non\nmat\n.\n";

static CLIP: LazyLock<Tokenizer> = LazyLock::new(|| {
    let path = "../../assets/tokenizers/clip-bpe-merges.txt.gz";
    let bytes = fs_err::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    Tokenizer::from_clip_merges(&bytes).unwrap()
});

fn small() -> Tokenizer {
    Tokenizer::from_wordpiece(VOCAB.as_bytes()).unwrap()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

#[test]
fn encodes_words_by_their_pieces() {
    let found = small().encode("A cats on dog.", 32).unwrap();
    assert_eq!(found, Tokens { ids: vec![2, 5, 6, 7, 8, 1, 10, 3], total: 8 });
}

#[test]
fn truncation_keeps_the_special_tokens_and_tells_the_total() {
    let cut = |max_tokens| small().encode("a cats on mat .", max_tokens).unwrap();
    assert_eq!(cut(8).ids, [2, 5, 6, 7, 8, 9, 10, 3]);
    assert_eq!(cut(7), Tokens { ids: vec![2, 5, 6, 7, 8, 9, 3], total: 8 });
    assert_eq!(cut(3), Tokens { ids: vec![2, 5, 3], total: 8 });
    assert_eq!(cut(2), Tokens { ids: vec![2, 3], total: 8 });
    let found = small().encode("a", 1).unwrap_err();
    assert_eq!(found.to_string(), "1 tokens allowed, the special tokens alone are 2");
}

#[test]
fn the_files_own_truncation_and_padding_are_off() {
    let mut json: serde_json::Value = serde_json::from_slice(&small().to_json()).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": 8,
        "pad_id": 9, "pad_type_id": 0, "pad_token": "mat"});
    let read = Tokenizer::from_json(&serde_json::to_vec(&json).unwrap()).unwrap();
    assert_eq!(read.encode("a cats .", 32).unwrap().ids, [2, 5, 6, 7, 10, 3]);
    assert_eq!(read.pad_id(), 9);
    let again = Tokenizer::from_json(&read.to_json()).unwrap();
    assert_eq!((again.pad_id(), again.to_json()), (9, read.to_json()));
}

#[test]
fn a_text_may_be_long_but_not_endless() {
    let text = "a".repeat(MAX_TEXT_BYTES);
    assert_eq!(small().encode(&text, 4).unwrap().total, 3);
    let found = small().encode(&(text + "a"), 4).unwrap_err();
    assert_eq!(found.to_string(), "the text has 1048577 bytes, the limit is 1048576");
}

#[test]
fn a_batch_is_its_texts_in_order() {
    let texts: Vec<String> = (0..200).map(|i| "a cat ".repeat(i % 7)).collect();
    let tokenizer = small();
    let batch = tokenizer.encode_batch(&texts, 8);
    for (text, found) in texts.iter().zip(batch) {
        assert_eq!(found.unwrap(), tokenizer.encode(text, 8).unwrap());
    }
}

#[test]
fn sizes_and_pads() {
    assert_eq!((small().vocabulary_size(), small().pad_id()), (11, 0));
    assert_eq!((CLIP.vocabulary_size(), CLIP.pad_id()), (49_408, 49_407));
}

#[track_caller]
fn refused(found: Result<Tokenizer, TokenizerError>, text: &str) {
    assert_eq!(found.unwrap_err().to_string(), text);
}

#[test]
fn refuses_vocabularies_that_cannot_be() {
    let twice = Tokenizer::from_wordpiece(format!("{VOCAB}cat\n").as_bytes());
    refused(twice, "line 12 of the WordPiece vocabulary is \"cat\", expected a new token");
    let lacking = Tokenizer::from_wordpiece(VOCAB.replace("[SEP]", "sep").as_bytes());
    refused(lacking, "the vocabulary has no `[SEP]`");
    refused(Tokenizer::from_wordpiece(b"\xff"), "the WordPiece vocabulary is not readable text");
    refused(Tokenizer::from_clip_merges(b"no gzip"), "the merges file is not readable text");
    let single = Tokenizer::from_clip_merges(&gzip(b"#version\nt h\nword\n"));
    refused(
        single,
        "line 3 of the merges file is \"word\", expected two tokens with a space between",
    );
    let unknown = Tokenizer::from_clip_merges(&gzip(b"#version\nth e\n"));
    refused(unknown, "this is not a usable `tokenizer.json`");
    let bomb = Tokenizer::from_clip_merges(&gzip(&vec![b' '; 40 << 20]));
    refused(bomb, "the merges file has 33554433 bytes or more, the limit is 33554432");
    refused(Tokenizer::from_json(b"{}"), "this is not a usable `tokenizer.json`");
}

/// An old tokenizer may also name its post-processor's tokens beyond the vocabulary.
#[test]
fn the_vocabulary_covers_every_special_token() {
    let json = String::from_utf8(small().to_json()).unwrap();
    let high = json.replace(r#""ids":[3]"#, r#""ids":[40]"#);
    assert_ne!(high, json);
    let found = Tokenizer::from_json(high.as_bytes()).unwrap();
    assert_eq!(found.encode("a", 9).unwrap().ids, [2, 5, 40]);
    assert_eq!(found.vocabulary_size(), 41);
}

proptest! {
    #[test]
    fn prop_any_text_gives_ids_of_the_vocabulary(text in any::<String>(), max_tokens in 2..20_usize) {
        for tokenizer in [&*CLIP, &small()] {
            let found = tokenizer.encode(&text, max_tokens).unwrap();
            let whole = tokenizer.encode(&text, usize::MAX).unwrap();
            prop_assert_eq!((found.total, whole.total), (whole.ids.len(), whole.ids.len()));
            prop_assert_eq!(found.ids.len(), whole.total.min(max_tokens));
            prop_assert_eq!(found.ids.last(), whole.ids.last());
            prop_assert!(whole.ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
        }
    }

    #[test]
    fn prop_damaged_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        text in any::<String>(),
    ) {
        let mut json = small().to_json();
        for (at, byte) in damage {
            let at = at.index(json.len());
            json[at] = byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&json) {
            let _ = tokenizer.encode(&text, 8);
        }
    }
}

#[test]
fn a_pair_has_types_and_loses_the_end_of_the_longer_text() {
    let pair = |max_tokens| small().encode_pair("a cats", "on mat . a", max_tokens).unwrap();
    let whole = pair(10);
    assert_eq!(whole.ids, [2, 5, 6, 7, 3, 8, 9, 10, 5, 3]);
    assert_eq!(whole.types, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(whole.total, 10);
    assert_eq!(pair(9).ids, [2, 5, 6, 7, 3, 8, 9, 10, 3]);
    // Both need more than half of six: three each.
    assert_eq!(pair(8).ids, [2, 5, 6, 3, 8, 9, 10, 3]);
    assert_eq!(pair(8).total, 10);
    assert_eq!(pair(3).ids, [2, 3, 3]);
    let error = small().encode_pair("a", "a", 2).unwrap_err().to_string();
    assert_eq!(error, "2 tokens allowed, the special tokens alone are 3");
    assert_eq!(small().encode_pair("a", "", 9).unwrap().ids, [2, 5, 3, 3]);
}

proptest! {
    #[test]
    fn prop_longest_first_fills_the_room_as_the_reference_does(a in 0..40_usize, b in 0..40_usize, room in 1..50_usize) {
        let (x, y) = longest_first(a, b, room);
        prop_assert!(x <= a && y <= b && x + y <= room);
        prop_assert_eq!(x + y, (a + b).min(room));
        let mut encodings = [a, b].map(|n| {
            Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0)); n], 0)
        });
        let params = tokenizers::TruncationParams { max_length: room, ..Default::default() };
        let [first, second] = std::mem::take(&mut encodings);
        let (first, second) = tokenizers::truncate_encodings(first, Some(second), &params).unwrap();
        prop_assert_eq!((x, y), (first.len(), second.unwrap().len()));
    }
}

#[test]
fn knows_its_unknown_token_and_the_middle_length() {
    assert_eq!(small().unknown_id(), Some(1));
    assert_eq!(small().id_of("cat"), Some(6));
    // 5 5 5 5 6 1 3 3 2 3 1 sorted: 1 1 2 3 3 3 5 5 5 5 6.
    assert_eq!(small().median_token_chars(), 3);
    assert_eq!(small().encode_bare("a dog").unwrap(), [5, 1]);
    assert_eq!(small().stored_limit(), None);
}

/// BERT's own vocabulary, as it is and with case.
static BERT: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
    let path = "../../assets/tokenizers/bert-base-uncased.vocab.txt";
    let vocabulary = fs_err::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let cased = WordPieceRules { lowercase: false, ..WordPieceRules::default() };
    [WordPieceRules::default(), cased]
        .map(|rules| Tokenizer::from_vocabulary(&vocabulary, rules).unwrap())
});

#[track_caller]
fn check_plain(text: &str) {
    for tokenizer in BERT.iter().chain([&small()]) {
        let whole = tokenizer.inner.encode_fast(text, true).unwrap();
        assert_eq!(tokenizer.encode(text, usize::MAX).unwrap().ids, whole.get_ids(), "{text:?}");
        let bare = tokenizer.inner.encode_fast(text, false).unwrap();
        assert_eq!(tokenizer.encode_bare(text).unwrap(), bare.get_ids(), "{text:?}");
    }
}

#[test]
fn plain_texts_take_the_shorter_way() {
    for tokenizer in BERT.iter() {
        let takes = |text| tokenizer.encode_ascii(text, &mut Vec::new());
        assert!(takes("Delta 1/2 in. x 3-handle (chrome)") && takes(""));
        assert!(!takes("caf\u{e9}") && !takes("a [SEP] b") && !takes("a\tb"));
    }
    assert!(CLIP.ascii.is_none());
}

#[test]
fn plain_texts_get_the_same_ids_by_the_shorter_way() {
    let long = "a".repeat(101);
    let just = "unaffable".repeat(11);
    for text in
        ["", " ", "  a  b ", "don't (stop)!!", "x$y^z~`|<=>+", &long, &just, "UNaffable 12in"]
    {
        check_plain(text);
    }
}

proptest! {
    #[test]
    fn prop_plain_texts_get_the_same_ids_by_the_shorter_way(
        text in "[ -~]{0,60}",
        words in prop::collection::vec("[a-zA-Z]{1,12}[ .,'/-]{1,2}", 0..12),
        other in "[ -~\\t\u{e9}\u{4e2d}]{0,20}",
    ) {
        check_plain(&text);
        check_plain(&words.concat());
        check_plain(&other);
    }
}
