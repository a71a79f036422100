//! Why an input could not be read, or a contract not be used.

/// The cause an underlying reader gave.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why bytes are no picture this crate reads. Always the input's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// More bytes than allowed.
    #[error("the file has {found} bytes, the limit is {limit}")]
    FileTooLarge {
        /// Bytes found.
        found: usize,
        /// Most bytes allowed.
        limit: usize,
    },
    /// The first bytes belong to no format this crate reads.
    #[error("the first bytes are those of no JPEG, PNG, WebP or GIF file")]
    UnknownFormat,
    /// The header announces a side that is too long.
    #[error("the picture is {width}x{height}, the limit is {limit} per side")]
    SideTooLong {
        /// Width announced.
        width: usize,
        /// Height announced.
        height: usize,
        /// Longest side allowed.
        limit: usize,
    },
    /// The header announces too many pixels.
    #[error("the picture is {width}x{height}, that is {found} pixels, the limit is {limit}", found = width.saturating_mul(*height))]
    TooManyPixels {
        /// Width announced.
        width: usize,
        /// Height announced.
        height: usize,
        /// Most pixels allowed.
        limit: usize,
    },
    /// The picture has no pixel.
    #[error("the picture is {width}x{height}, it needs at least one pixel")]
    NoPixels {
        /// Width found.
        width: usize,
        /// Height found.
        height: usize,
    },
    /// The pixels do not fill the picture.
    #[error("{found} bytes of pixels for a {width}x{height} RGB picture, expected {expected}", expected = width.saturating_mul(*height).saturating_mul(3))]
    PixelCount {
        /// Width told.
        width: usize,
        /// Height told.
        height: usize,
        /// Bytes found.
        found: usize,
    },
    /// The file ends before the picture does.
    #[error("the {format} file is cut off: {reason}")]
    CutOff {
        /// The file format.
        format: &'static str,
        /// What is missing.
        reason: &'static str,
    },
    /// The decoder found the content wrong or of a kind it cannot read.
    #[error("the {format} file cannot be decoded")]
    Decode {
        /// The file format.
        format: &'static str,
        /// The decoder's reason.
        #[source]
        source: Cause,
    },
}

/// Why a tokenizer could not be made, or could not read a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The tokenizer's file is larger than any known one.
    #[error("the {file} has {found} bytes or more, the limit is {limit}")]
    FileTooLarge {
        /// Which file.
        file: &'static str,
        /// Bytes found.
        found: usize,
        /// Most bytes allowed.
        limit: usize,
    },
    /// The file is no `tokenizer.json` this build understands.
    #[error("this is not a usable `tokenizer.json`")]
    Json(#[source] Cause),
    /// The vocabulary file could not be read as UTF-8 text.
    #[error("the {file} is not readable text")]
    File {
        /// Which file.
        file: &'static str,
        /// The reader's reason.
        #[source]
        source: std::io::Error,
    },
    /// A token a tokenizer of this kind cannot do without.
    #[error("the vocabulary has no `{0}`")]
    MissingToken(&'static str),
    /// A line of a vocabulary or merges file that cannot be.
    #[error("line {line} of the {file} is {found:?}, expected {expected}")]
    Line {
        /// Which file.
        file: &'static str,
        /// Line number, from 1.
        line: usize,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// The text is longer than allowed. Nothing is ever cut without a word.
    #[error("the text has {found} bytes, the limit is {limit}")]
    TextTooLong {
        /// Bytes found.
        found: usize,
        /// Most bytes allowed.
        limit: usize,
    },
    /// Fewer slots than the special tokens alone need.
    #[error("{found} tokens allowed, the special tokens alone are {needed}")]
    TooFewTokens {
        /// Most tokens allowed by the caller.
        found: usize,
        /// Number of special tokens around every text.
        needed: usize,
    },
    /// The tokenizer's model refused the text.
    #[error("the tokenizer cannot encode this text")]
    Encode(#[source] Cause),
}

/// Why an input contract or an augmentation cannot be used. The configuration's fault.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{key}` is {found}, expected {expected}")]
pub struct ContractError {
    /// The key inside the contract.
    pub key: &'static str,
    /// The value found.
    pub found: String,
    /// The values allowed.
    pub expected: &'static str,
}

impl ContractError {
    pub(crate) fn check(
        holds: bool,
        key: &'static str,
        found: &dyn std::fmt::Display,
        expected: &'static str,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { key, found: found.to_string(), expected }) }
    }
}
