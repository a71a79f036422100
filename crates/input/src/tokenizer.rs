//! Texts to token ids.
//!
//! In:  a text, or two as a pair. Out: ids within a number of slots, and how many there would have been.
//! Not here: prompts and the number of slots (`contract`), the files tokenizers are made from
//!           (`tokenizer_files`).
//! Parity: `testdata/parity/tokenise`, ids equal to those of transformers.
//!
//! As in the reference, special tokens written in a text (`[SEP]`) count as such.

mod ascii;

use std::sync::Arc;

use rayon::prelude::*;
use serde::Deserialize;
use tokenizers::{
    Encoding, ModelWrapper, PaddingParams, PaddingStrategy, PostProcessor, Token,
    TruncationDirection,
};

use self::ascii::AsciiRules;
use crate::{TokenizerError, WordPieceRules, quiet, tokenizer_files};

/// Most bytes of a text: far more than any model reads, and tokenised in about a second.
/// A longer text is an error; cutting it is the caller's decision.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Most bytes of a `tokenizer.json`; the largest of known models has 33 MiB.
const MAX_JSON_BYTES: usize = 128 << 20;

/// Largest id of a token, far beyond any known vocabulary. The library below lists the ids that a
/// vocabulary leaves out.
const MAX_VOCABULARY: usize = 1 << 22;

/// What is said of a document that makes the library below panic.
const CONTRADICTION: &str = "the tokenizer contradicts itself";

/// The ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The ids, special tokens included, at most as many as asked for.
    pub ids: Vec<u32>,
    /// How many there were before truncation, special tokens included.
    pub total: usize,
}

/// The ids of a pair of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairTokens {
    /// The ids, special tokens included, at most as many as asked for.
    pub ids: Vec<u32>,
    /// The type of each token: which text it belongs to, by the tokenizer's rule.
    pub types: Vec<u32>,
    /// How many tokens there were before truncation, special tokens included.
    pub total: usize,
}

/// Turns texts into token ids. Cheap to share between threads, and to copy.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    vocabulary_size: usize,
    /// Special tokens before and after every text.
    before: Arc<[u32]>,
    after: Arc<[u32]>,
    /// A shorter way for plain texts, where there is one.
    ascii: Option<Arc<AsciiRules>>,
    pad_id: u32,
    stored_limit: Option<usize>,
    unknown_id: Option<u32>,
}

/// What is read of the document besides the tokenizer: a number that the library below keeps private.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    model: WrittenModel,
}

#[derive(Default, Deserialize)]
struct WrittenModel {
    /// Of Unigram models.
    #[serde(default)]
    unk_id: Option<u32>,
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json`. Truncation and padding settings inside are not used:
    /// the input contract rules.
    ///
    /// # Errors
    /// When the file is too large or not a usable tokenizer.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        tokenizer_files::check_size("tokenizer.json", bytes.len(), MAX_JSON_BYTES)?;
        // The library below panics on some documents that contradict themselves.
        quiet::catch(|| Self::read(bytes))
            .unwrap_or_else(|| Err(CONTRADICTION.into()))
            .map_err(TokenizerError::Json)
    }

    fn read(bytes: &[u8]) -> tokenizers::Result<Self> {
        // Told here, because the library below panics on some documents that are no JSON at all.
        let text = std::str::from_utf8(bytes)?;
        let written: Written = serde_json::from_str(text)?;
        let mut inner: tokenizers::Tokenizer = text.parse()?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|part| part > 0.0)
        {
            return Err("its `dropout` leaves pieces to chance".into());
        }
        let stored_limit = inner.get_truncation().map(|stored| stored.max_length);
        inner.with_truncation(None)?;
        let stored = inner.get_padding().cloned();
        inner.with_padding(None);
        // The special tokens are those that the post-processor puts around any one token.
        let one = Encoding::from_tokens(vec![Token::new(0, String::new(), (0, 0))], 0);
        let probe = inner.post_process(one, None, true)?;
        let mask = probe.get_special_tokens_mask();
        let n_before = mask.iter().take_while(|&&special| special == 1).count();
        let n_after = mask[n_before..].iter().rev().take_while(|&&special| special == 1).count();
        let before = probe.get_ids()[..n_before].into();
        let after = probe.get_ids()[probe.len() - n_after..].into();
        let whole = probe.len() == n_before + 1 + n_after;
        let ascii = if whole { AsciiRules::of(&inner).map(Arc::new) } else { None };
        let padding = stored.unwrap_or_else(|| default_padding(&inner, probe.get_ids()));
        let ids = inner.get_vocab(true).into_values().chain(probe.get_ids().iter().copied());
        let vocabulary_size = ids.max().map_or(0, |id| id as usize + 1);
        if vocabulary_size > MAX_VOCABULARY {
            let largest = vocabulary_size - 1;
            return Err(format!("it has the id {largest}, the limit is {MAX_VOCABULARY}").into());
        }
        let pad_id = padding.pad_id;
        // Kept so that it is stored again; a text alone is never padded by it.
        let strategy = PaddingStrategy::BatchLongest;
        inner.with_padding(Some(PaddingParams { strategy, pad_to_multiple_of: None, ..padding }));
        let unknown_id = unknown_id(&inner).or(written.model.unk_id);
        let inner = Arc::new(inner);
        Ok(Self { inner, vocabulary_size, before, after, ascii, pad_id, stored_limit, unknown_id })
    }

    /// Makes BERT's uncased WordPiece tokenizer from its `vocab.txt`, one token per line.
    ///
    /// # Errors
    /// When the file is too large, no text, has a line twice or lacks a special token.
    pub fn from_wordpiece(vocab: &[u8]) -> Result<Self, TokenizerError> {
        Self::from_vocabulary(vocab, WordPieceRules::default())
    }

    /// Makes a tokenizer of BERT's kind from its `vocab.txt`.
    ///
    /// # Errors
    /// As [`Self::from_wordpiece`].
    pub fn from_vocabulary(vocab: &[u8], rules: WordPieceRules) -> Result<Self, TokenizerError> {
        Self::from_json(&tokenizer_files::wordpiece(vocab, rules)?)
    }

    /// Makes CLIP's byte-level BPE tokenizer from its gzipped merges file, with the rules of
    /// transformers: text is composed (NFC), white space joined and lowercased, nothing repaired.
    ///
    /// # Errors
    /// When the file is too large, no gzipped text, or a line is no merge.
    pub fn from_clip_merges(gzipped: &[u8]) -> Result<Self, TokenizerError> {
        Self::from_json(&tokenizer_files::clip(gzipped, tokenizer_files::CLIP_SPECIAL)?)
    }

    /// open_clip's own tokenizer: CLIP's bundled merges, with open_clip's special tokens. Texts that need
    /// no repair get open_clip's ids; letters (`ftfy`) and HTML entities are not repaired.
    ///
    /// # Panics
    /// Never: the bundled file is valid.
    #[must_use]
    pub fn open_clip() -> Self {
        let merges = include_bytes!("../../../assets/tokenizers/clip-bpe-merges.txt.gz");
        let mut made = tokenizer_files::clip(merges, tokenizer_files::OPEN_CLIP_SPECIAL)
            .and_then(|json| Self::from_json(&json))
            .expect("the bundled merges are a tokenizer, as a test tells");
        // open_clip fills up with zeros, which is the token `!`.
        let padding = PaddingParams { pad_id: 0, pad_token: "!".to_owned(), ..Default::default() };
        Arc::make_mut(&mut made.inner).with_padding(Some(padding));
        made.pad_id = 0;
        made
    }

    /// The tokenizer as the bytes of a `tokenizer.json`, always the same for the same tokenizer.
    ///
    /// # Panics
    /// Never: what was read can be written.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        self.inner.to_string(false).expect("a tokenizer holds only plain data").into_bytes()
    }

    /// One more than the largest id, special tokens included: the rows an embedding table needs.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The id for unused slots: the file's own, else that of `[PAD]` or `<pad>`, else the last
    /// special token of a text, else 0.
    #[must_use]
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Number of special tokens before and after every text.
    #[must_use]
    pub fn special_around(&self) -> (usize, usize) {
        (self.before.len(), self.after.len())
    }

    /// The most tokens the file itself cut a text to. Nothing here cuts by it.
    #[must_use]
    pub fn stored_limit(&self) -> Option<usize> {
        self.stored_limit
    }

    /// The id of a token, if the vocabulary has it.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id that stands for what the vocabulary cannot spell, if there is one.
    #[must_use]
    pub fn unknown_id(&self) -> Option<u32> {
        self.unknown_id
    }

    /// The middle length of all tokens in characters, rounded down.
    #[must_use]
    pub fn median_token_chars(&self) -> usize {
        let vocabulary = self.inner.get_vocab(true);
        let mut lengths: Vec<usize> = vocabulary.keys().map(|t| t.chars().count()).collect();
        lengths.sort_unstable();
        let n = lengths.len();
        lengths.get(n / 2).map_or(0, |upper| usize::midpoint(*upper, lengths[(n - 1) / 2]))
    }

    /// The ids of a text. If they are more than `max_tokens`, the last ones of the text itself go
    /// and the special tokens stay, so that the final one is in the last slot.
    ///
    /// # Errors
    /// When the text is longer than [`MAX_TEXT_BYTES`], or `max_tokens` leaves no room for the
    /// special tokens.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Tokens, TokenizerError> {
        let (before, after) = self.special_around();
        let needed = before + after;
        if max_tokens < needed {
            return Err(TokenizerError::TooFewTokens { found: max_tokens, needed });
        }
        check_length(text)?;
        let mut ids = self.encode_whole(text)?;
        let total = ids.len();
        if total > max_tokens {
            ids.drain(max_tokens - after..total - after);
        }
        Ok(Tokens { ids, total })
    }

    /// All ids of a text, special tokens included.
    fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.before.to_vec();
        if self.encode_ascii(text, &mut ids) {
            ids.extend_from_slice(&self.after);
            return Ok(ids);
        }
        // Some contradictions show only now.
        let encoding = quiet::catch(|| self.inner.encode_fast(text, true))
            .unwrap_or_else(|| Err(CONTRADICTION.into()))
            .map_err(TokenizerError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn encode_ascii(&self, text: &str, ids: &mut Vec<u32>) -> bool {
        self.ascii.as_ref().is_some_and(|rules| rules.encode(&self.inner, text, ids))
    }

    /// The ids of a text without special tokens, all of them.
    ///
    /// # Errors
    /// When the text is longer than [`MAX_TEXT_BYTES`].
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        check_length(text)?;
        let mut ids = Vec::new();
        if self.encode_ascii(text, &mut ids) {
            return Ok(ids);
        }
        let encoding = self.inner.encode_fast(text, false).map_err(TokenizerError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of two texts joined by the tokenizer's rule for pairs. If they are more than
    /// `max_tokens`, the longer text loses its last tokens; if both are longer than half of the room,
    /// they share it evenly (`longest_first`).
    ///
    /// # Errors
    /// When a text is longer than [`MAX_TEXT_BYTES`], or `max_tokens` leaves no room for the special
    /// tokens.
    pub fn encode_pair(
        &self,
        first: &str,
        second: &str,
        max_tokens: usize,
    ) -> Result<PairTokens, TokenizerError> {
        let needed = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(true));
        let Some(room) = max_tokens.checked_sub(needed) else {
            return Err(TokenizerError::TooFewTokens { found: max_tokens, needed });
        };
        let encode = |text| {
            check_length(text)?;
            self.inner.encode_fast(text, false).map_err(TokenizerError::Encode)
        };
        let (mut first, mut second) = (encode(first)?, encode(second)?);
        let total = needed + first.len() + second.len();
        let (n_first, n_second) = longest_first(first.len(), second.len(), room);
        first.truncate(n_first, 0, TruncationDirection::Right);
        second.truncate(n_second, 0, TruncationDirection::Right);
        second.set_type_ids(vec![1; second.len()]);
        let pair = self.inner.post_process(first, Some(second), true);
        let pair = pair.map_err(TokenizerError::Encode)?;
        Ok(PairTokens { ids: pair.get_ids().to_vec(), types: pair.get_type_ids().to_vec(), total })
    }

    /// The ids of many texts, in their order, one error per text that has one.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        max_tokens: usize,
    ) -> Vec<Result<Tokens, TokenizerError>> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), max_tokens)).collect()
    }
}

/// The unknown token's id where the model names the token.
fn unknown_id(inner: &tokenizers::Tokenizer) -> Option<u32> {
    let name = match inner.get_model() {
        ModelWrapper::WordPiece(model) => Some(&model.unk_token),
        ModelWrapper::WordLevel(model) => Some(&model.unk_token),
        ModelWrapper::BPE(model) => model.unk_token.as_ref(),
        ModelWrapper::Unigram(_) => None,
    };
    inner.token_to_id(name?)
}

fn check_length(text: &str) -> Result<(), TokenizerError> {
    if text.len() > MAX_TEXT_BYTES {
        let (found, limit) = (text.len(), MAX_TEXT_BYTES);
        return Err(TokenizerError::TextTooLong { found, limit });
    }
    Ok(())
}

/// How many tokens two texts keep of `room`: the shorter one all of its own unless it needs more than
/// half.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    let shorter = first.min(second);
    let (less, more) = match first + second {
        all if all <= room => return (first, second),
        _ if 2 * shorter <= room => (shorter, room - shorter),
        _ => (room / 2, room - room / 2),
    };
    if first > second { (more, less) } else { (less, more) }
}

fn default_padding(inner: &tokenizers::Tokenizer, probe: &[u32]) -> PaddingParams {
    let named = ["[PAD]", "<pad>"].into_iter().find_map(|token| inner.token_to_id(token));
    let pad_id = named.or(probe.last().copied()).unwrap_or(0);
    let pad_token = inner.id_to_token(pad_id).unwrap_or_default();
    PaddingParams { pad_id, pad_token, ..PaddingParams::default() }
}

#[cfg(test)]
mod tests;
