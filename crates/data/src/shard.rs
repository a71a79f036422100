//! The tar shards of a dataset, written so that every picture's position is known.
//!
//! In:  samples: a picture's bytes and its JSON. Out: `shard-00000.tar`, …, and a [`BlobRef`] each.
//! Not here: reading them (`dataset`).

use std::io::{self, BufWriter, Write};

use conjoin_core::ArtifactWriter;
use fs_err::File;
use tar::{Builder, Header};

use crate::{
    filter::image::{Picture, extension},
    item::BlobRef,
};

/// Bytes of a tar block: each header is one, each content fills whole ones.
const BLOCK: u64 = 512;

/// The file name of a shard.
pub(crate) fn shard_name(shard: u32) -> String {
    format!("shard-{shard:05}.tar")
}

/// Writes samples into shards of bounded size.
pub(crate) struct ShardWriter<'a> {
    artifact: &'a ArtifactWriter,
    max_bytes: u64,
    current: Option<Builder<BufWriter<File>>>,
    position: u64,
    n_shards: u32,
}

impl<'a> ShardWriter<'a> {
    pub(crate) fn new(artifact: &'a ArtifactWriter, max_bytes: u64) -> Self {
        Self { artifact, max_bytes, current: None, position: 0, n_shards: 0 }
    }

    /// Appends a sample; it is never divided between shards.
    pub(crate) fn add(
        &mut self,
        key: &str,
        picture: Option<&Picture>,
        json: &[u8],
    ) -> io::Result<Option<BlobRef>> {
        let image_bytes = picture.map_or(0, |p| BLOCK + padded(p.bytes.len()));
        self.make_room(image_bytes + BLOCK + padded(json.len()))?;
        let mut blob = None;
        if let Some(picture) = picture {
            blob = Some(BlobRef {
                shard: self.n_shards - 1,
                offset: self.position + BLOCK,
                length: picture.bytes.len() as u64,
                sha256: picture.sha256.clone(),
            });
            self.append(&format!("{key}.{}", extension(&picture.bytes)), &picture.bytes)?;
        }
        self.append(&format!("{key}.json"), json)?;
        Ok(blob)
    }

    /// Ends the last shard and tells how many there are.
    pub(crate) fn finish(mut self) -> io::Result<u32> {
        self.close()?;
        Ok(self.n_shards)
    }

    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let is_full = self.position > 0 && self.position + bytes > self.max_bytes;
        if self.current.is_some() && !is_full {
            return Ok(());
        }
        self.close()?;
        let file = File::create(self.artifact.file(&shard_name(self.n_shards)))?;
        self.current = Some(Builder::new(BufWriter::with_capacity(1 << 20, file)));
        self.n_shards += 1;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(builder) = self.current.take() {
            builder.into_inner()?.flush()?;
        }
        self.position = 0;
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        let builder = self.current.as_mut().expect("make_room opened a shard");
        builder.append(&header, bytes)?;
        self.position += BLOCK + padded(bytes.len());
        Ok(())
    }
}

fn padded(n_bytes: usize) -> u64 {
    (n_bytes as u64).next_multiple_of(BLOCK)
}
