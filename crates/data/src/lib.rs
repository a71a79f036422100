//! Raw catalogues to datasets: readers, curation, splits and shards; texts to train on.
//!
//! In:  CSV, JSON lines, Parquet, WebDataset shards or folders of pictures. Out: a `dataset` artefact
//!      (`docs/format/dataset.md`), made by [`curate()`] and read through [`Dataset`]. Texts that are no
//!      catalogue of items are read where they lie: pairs by [`PairFile`], judgements by [`Judged`]. Pictures with
//!      captions, more than anyone would curate, are streamed by [`Shards`].
//! Not here: anything that needs a model.

mod columns;
mod curate;
mod dataset;
mod error;
mod filter;
mod item;
mod judged;
mod limits;
mod pair_file;
mod positioned;
pub mod read;
mod record;
mod shard;
mod shards;
mod split;
#[cfg(test)]
mod testing;
mod text_key;

pub use columns::Columns;
pub use curate::{CurateConfig, CurateSummary, columns_of, curate};
pub use dataset::{DATASET_FORMAT, DATASET_VERSION, Dataset};
pub use error::{
    BlobError, BlobErrorKind, ColumnsError, CurateError, ImageFault, MissingColumn, OpenError,
    OpenErrorKind, ReadError, ReadErrorKind, ShardsError, ShardsErrorKind, TextFileError,
    TextFileErrorKind, TextRowError, TextRowErrorKind,
};
pub use item::{BlobRef, Item, Split};
pub use judged::{Judged, JudgedColumns, JudgedRow, JudgedRule};
pub use limits::Limits;
pub use pair_file::{Aspects, PairColumns, PairFile, PairRow};
pub use read::table::ColumnName;
pub use record::{ImageSource, Place, RawRecord, Reason, Reject, Rejects};
pub use shards::{ShardContent, ShardSample, Shards, ShardsConfig};
pub use text_key::text_hash;
