//! BERT's rules for plain ASCII texts, without what the library keeps besides ids, in a tenth of its time.
//!
//! In:  a tokenizer of BERT's kind, a text. Out: the library's ids, or nothing where another rule may apply: the
//!      text has other characters, or one that an added token such as `[SEP]` begins with.
//! Not here: all other texts and tokenizers (`tokenizer`). The library is the oracle.

use std::borrow::Cow;

use tokenizers::{
    AddedToken, Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper,
    models::wordpiece::WordPiece,
};

/// What the library's rules come to for ASCII texts.
#[derive(Debug, Clone)]
pub(super) struct AsciiRules {
    lowercase: bool,
    unknown: u32,
    /// Characters that added tokens begin with.
    beginnings: Vec<u8>,
}

impl AsciiRules {
    /// The rules of a tokenizer, if it is of BERT's kind.
    pub(super) fn of(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let model = word_piece(inner)?;
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = inner.get_normalizer() else {
            return None;
        };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = inner.get_pre_tokenizer() else {
            return None;
        };
        let added = inner.get_added_tokens_decoder();
        // Letters and spaces begin too much to leave every text with one to the library.
        let mark =
            |token: &AddedToken| token.content.bytes().next().filter(u8::is_ascii_punctuation);
        let mut beginnings: Vec<u8> = added.values().map(mark).collect::<Option<_>>()?;
        beginnings.sort_unstable();
        beginnings.dedup();
        let unknown = model.token_to_id(&model.unk_token)?;
        Some(Self { lowercase: normalizer.lowercase, unknown, beginnings })
    }

    /// Appends the ids of a text, without special tokens, if these rules are enough for it.
    pub(super) fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> bool {
        let applies = |b: u8| matches!(b, b' '..=b'~') && !self.beginnings.contains(&b);
        let Some(model) = word_piece(inner).filter(|_| text.bytes().all(applies)) else {
            return false;
        };
        let text = match self.lowercase {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
        let mut piece = String::new();
        for word in text.split(' ') {
            let mut rest = word;
            while !rest.is_empty() {
                let first_mark = rest.find(|c: char| c.is_ascii_punctuation());
                let (part, behind) = rest.split_at(first_mark.unwrap_or(rest.len()).max(1));
                self.push_word(model, part, &mut piece, ids);
                rest = behind;
            }
        }
        true
    }

    /// The longest pieces from the left, or the unknown token for a word that has none.
    fn push_word(&self, model: &WordPiece, word: &str, piece: &mut String, ids: &mut Vec<u32>) {
        if word.len() > model.max_input_chars_per_word {
            return ids.push(self.unknown);
        }
        let n_before = ids.len();
        let mut rest = word;
        while !rest.is_empty() {
            piece.clear();
            if rest.len() < word.len() {
                piece.push_str(&model.continuing_subword_prefix);
            }
            let n_prefix = piece.len();
            piece.push_str(rest);
            let longest = (1..=rest.len())
                .rev()
                .find_map(|n| Some((n, model.token_to_id(&piece[..n_prefix + n])?)));
            let Some((n, id)) = longest else {
                ids.truncate(n_before);
                return ids.push(self.unknown);
            };
            ids.push(id);
            rest = &rest[n..];
        }
    }
}

fn word_piece(inner: &tokenizers::Tokenizer) -> Option<&WordPiece> {
    match inner.get_model() {
        ModelWrapper::WordPiece(model) => Some(model),
        ModelWrapper::BPE(_) | ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
    }
}
