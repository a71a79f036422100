//! A file mapped into memory, read as bytes or numbers.
//!
//! In:  a path. Out: slices that are valid as long as the [`Mapped`] lives.
//! Not here: sizes and contents; the opener checks them before use.
#![expect(unsafe_code, reason = "mapping a file is unsafe; this is the one place that does it")]

use std::path::Path;

use fs_err::File;
use memmap2::Mmap;
use pulp::bytemuck::{self, AnyBitPattern};

use crate::IndexErrorKind;

/// A read-only file in memory.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// `None` for an empty file, which cannot be mapped everywhere.
    map: Option<Mmap>,
}

impl Mapped {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the slice handed out is immutable and lives no longer than the map. What would make
        // it change is another process writing into the file; an artefact is never written in place
        // (it is replaced by renaming a new folder over it), and the format's page says so.
        let map = unsafe { Mmap::map(file.file())? };
        Ok(Self { map: Some(map) })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// The file as little-endian numbers.
    ///
    /// A map starts on a page, so it is aligned for any number; the cast checks that again, and that
    /// the length is a whole number of them. Only plain numbers are asked for: every bit pattern is one.
    pub(crate) fn numbers<T: AnyBitPattern>(&self) -> &[T] {
        let Some(map) = &self.map else { return &[] };
        bytemuck::try_cast_slice(map)
            .expect("the opener checked the size, and maps start on a page")
    }
}

/// Numbers are mapped as they lie on disk, so the machine must store them alike.
pub(crate) fn refuse_big_endian() -> Result<(), IndexErrorKind> {
    if cfg!(target_endian = "big") { Err(IndexErrorKind::BigEndian) } else { Ok(()) }
}
