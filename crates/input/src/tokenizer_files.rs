//! The vocabulary files of BERT and CLIP as `tokenizer.json` documents.
//!
//! In:  `vocab.txt` of WordPiece, the gzipped merges of CLIP. Out: the document.
//! Not here: using it (`tokenizer`).
//! Source: the rules that transformers gives its `BertTokenizer` and `CLIPTokenizer`.

use std::io::Read;

use serde_json::{Map, Value, json};

use crate::TokenizerError;

const VOCAB: &str = "WordPiece vocabulary";
const MERGES: &str = "merges file";

/// Most bytes of either file, unpacked; CLIP's has 3 MiB.
const MAX_BYTES: usize = 32 << 20;

/// CLIP reads so many merges of its file: 49,152 tokens less two for each byte and two special ones.
const CLIP_MERGES: usize = 49_152 - 2 * 256 - 2 + 256;

/// CLIP's words: contractions, runs of letters, single digits, runs of other signs.
const CLIP_WORD: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// How transformers spells the start and the end of a text.
pub(crate) const CLIP_SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// How open_clip spells them.
pub(crate) const OPEN_CLIP_SPECIAL: [&str; 2] = ["<start_of_text>", "<end_of_text>"];

/// Refuses a file that is larger than any real one.
pub(crate) fn check_size(
    file: &'static str,
    found: usize,
    limit: usize,
) -> Result<(), TokenizerError> {
    if found > limit {
        return Err(TokenizerError::FileTooLarge { file, found, limit });
    }
    Ok(())
}

/// What a WordPiece vocabulary leaves open; `tokenizer_config.json` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordPieceRules {
    /// Whether letters are made small.
    pub lowercase: bool,
    /// Whether accents are dropped; not told: as `lowercase`.
    pub strip_accents: Option<bool>,
    /// Whether each Chinese character is a word of its own.
    pub split_chinese: bool,
    /// The special tokens.
    pub special: WordPieceSpecial,
}

/// The special tokens of a WordPiece vocabulary, and where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordPieceSpecial {
    /// `[CLS] a [SEP] b [SEP]`, as BERT and DistilBERT.
    Bert,
    /// `<s> a </s></s> b </s>`, as MPNet.
    Mpnet,
}

impl Default for WordPieceRules {
    /// BERT's uncased tokenizer.
    fn default() -> Self {
        let special = WordPieceSpecial::Bert;
        Self { lowercase: true, strip_accents: None, split_chinese: true, special }
    }
}

/// A tokenizer of BERT's kind.
pub(crate) fn wordpiece(vocab: &[u8], rules: WordPieceRules) -> Result<Vec<u8>, TokenizerError> {
    check_size(VOCAB, vocab.len(), MAX_BYTES)?;
    let mut ids = Map::new();
    for (id, token) in text_of(VOCAB, vocab.to_vec())?.lines().enumerate() {
        if ids.insert(token.to_owned(), json!(id)).is_some() {
            let (line, found) = (id + 1, token.to_owned());
            return Err(TokenizerError::Line { file: VOCAB, line, found, expected: "a new token" });
        }
    }
    let (added, post_processor) = match rules.special {
        WordPieceSpecial::Bert => {
            let added = added_tokens(&ids, &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])?;
            (added, bert_template(&ids))
        }
        WordPieceSpecial::Mpnet => {
            let mut added = added_tokens(&ids, &["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])?;
            // The blank before a mask belongs to it.
            for token in added.iter_mut().filter(|token| token["content"] == "<mask>") {
                token["lstrip"] = json!(true);
            }
            (added, roberta_processing(&ids))
        }
    };
    document(&json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": rules.split_chinese, "strip_accents": rules.strip_accents,
            "lowercase": rules.lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": post_processor,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids},
    }))
}

fn bert_template(ids: &Map<String, Value>) -> Value {
    let token = |id: &str, type_id: u32| json!({"SpecialToken": {"id": id, "type_id": type_id}});
    let text = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let single = json!([token("[CLS]", 0), text("A", 0), token("[SEP]", 0)]);
    let pair = json!([
        token("[CLS]", 0),
        text("A", 0),
        token("[SEP]", 0),
        text("B", 1),
        token("[SEP]", 1)
    ]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {
        "[CLS]": {"id": "[CLS]", "ids": [ids["[CLS]"]], "tokens": ["[CLS]"]},
        "[SEP]": {"id": "[SEP]", "ids": [ids["[SEP]"]], "tokens": ["[SEP]"]}}})
}

fn roberta_processing(ids: &Map<String, Value>) -> Value {
    json!({"type": "RobertaProcessing", "sep": ["</s>", ids["</s>"]], "cls": ["<s>", ids["<s>"]],
        "trim_offsets": true, "add_prefix_space": false})
}

/// CLIP's tokenizer. Ids: the bytes, the bytes at the end of a word, the merges, start, end.
pub(crate) fn clip(gzipped: &[u8], special: [&'static str; 2]) -> Result<Vec<u8>, TokenizerError> {
    let text = text_of(MERGES, unzip(gzipped)?)?;
    let mut tokens: Vec<String> = byte_letters().iter().map(char::to_string).collect();
    tokens.extend(byte_letters().iter().map(|letter| format!("{letter}</w>")));
    let mut merges = Vec::new();
    // The first line is a version.
    for (i, line) in text.lines().enumerate().skip(1).take(CLIP_MERGES) {
        let Some((left, right)) = line.split_once(' ') else {
            let (line, found) = (i + 1, line.to_owned());
            let expected = "two tokens with a space between";
            return Err(TokenizerError::Line { file: MERGES, line, found, expected });
        };
        merges.push(json!([left, right]));
        tokens.push(format!("{left}{right}"));
    }
    tokens.extend(special.map(str::to_owned));
    let vocab: Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = added_tokens(&vocab, &special)?;
    let word = special.map(|token| token.replace('|', r"\|")).join("|");
    let word = format!("{word}|{CLIP_WORD}");
    let unknown = special[1];
    let [start, end] = special.map(|token| json!([token, vocab[token]]));
    document(&json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": word}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "RobertaProcessing", "sep": end, "cls": start,
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown,
            "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges},
    }))
}

/// The printable letter that stands for each byte, in the order of CLIP's ids: bytes that are
/// printable stand for themselves and come first, the others get letters from 256 on.
fn byte_letters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=255_u8).filter(printable).map(char::from);
    let n_others = (0..=255_u8).filter(|byte| !printable(byte)).count() as u32;
    let others = (256..256 + n_others).map(|code| char::from_u32(code).expect("a letter"));
    plain.chain(others).collect()
}

fn added_tokens(
    vocab: &Map<String, Value>,
    special: &[&'static str],
) -> Result<Vec<Value>, TokenizerError> {
    let mut added = special
        .iter()
        .map(|&token| {
            let id = vocab.get(token).ok_or(TokenizerError::MissingToken(token))?;
            Ok(json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}))
        })
        .collect::<Result<Vec<_>, TokenizerError>>()?;
    // The format wants them by id.
    added.sort_by_key(|token| token["id"].as_u64());
    Ok(added)
}

fn document(value: &Value) -> Result<Vec<u8>, TokenizerError> {
    serde_json::to_vec(value).map_err(|error| TokenizerError::Json(Box::new(error)))
}

fn unzip(gzipped: &[u8]) -> Result<Vec<u8>, TokenizerError> {
    let mut bytes = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(gzipped).take(MAX_BYTES as u64 + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|source| TokenizerError::File { file: MERGES, source })?;
    check_size(MERGES, bytes.len(), MAX_BYTES)?;
    Ok(bytes)
}

fn text_of(file: &'static str, bytes: Vec<u8>) -> Result<String, TokenizerError> {
    String::from_utf8(bytes).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        TokenizerError::File { file, source }
    })
}
