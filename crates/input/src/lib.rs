//! Bytes to arrays, exactly as the reference implementations do it.
//!
//! In:  encoded image files, texts, `tokenizer.json` and vocabulary files.
//! Out: [`Pixels`] of the size a model takes and their normalised values, [`Tokens`], and the
//!      [`InputContract`] that a checkpoint carries so that training and serving cannot drift apart.
//! Not here: embedding (`conjoin-model`), reading data sets (`conjoin-data`).

mod augment;
mod contract;
mod decode;
mod error;
mod image_contract;
mod jpeg;
mod patch_dropout;
mod pixels;
mod quiet;
mod resize;
mod thumbnail;
mod tokenizer;
mod tokenizer_files;

pub use augment::{Augment, CropRange};
pub use contract::{BareTokens, InputContract, TextContract};
pub use decode::{ImageLimits, decode};
pub use error::{ContractError, ImageError, TokenizerError};
pub use image_contract::{CropRounding, ImageContract, ResizeMode};
pub use patch_dropout::PatchDropout;
pub use pixels::Pixels;
pub use resize::{Frame, Interpolation, resize};
pub use thumbnail::thumbnail;
pub use tokenizer::{MAX_TEXT_BYTES, PairTokens, Tokenizer, Tokens};
pub use tokenizer_files::{WordPieceRules, WordPieceSpecial};
