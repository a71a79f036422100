//! A gzipped text file as a temporary plain one.
//!
//! In:  a path, the most bytes it may unpack to. Out: an open file that vanishes when it is closed; what
//!      damage in the middle left out, up to the last whole line.

use std::{
    io::{self, BufRead, Seek, SeekFrom, Write},
    path::Path,
};

use fs_err::File;

use super::lines;
use crate::{error::TextFileErrorKind, positioned::PositionedFile};

pub(super) fn unpack(
    path: &Path,
    limit: u64,
) -> Result<(PositionedFile, Option<io::Error>), TextFileErrorKind> {
    let mut reader = lines::open(path)?;
    let mut file = File::from_parts(tempfile::tempfile()?, path.to_owned());
    let (mut n_bytes, mut n_whole_lines) = (0_u64, 0_u64);
    let damage = loop {
        let block = match reader.fill_buf() {
            Ok(block) => block,
            Err(error) if lines::is_damage(&error) => break Some(error),
            Err(error) => return Err(error.into()),
        };
        if block.is_empty() {
            break None;
        }
        if n_bytes + block.len() as u64 > limit {
            return Err(TextFileErrorKind::UnpackedTooLarge { limit });
        }
        file.write_all(block)?;
        if let Some(end) = block.iter().rposition(|&byte| byte == b'\n') {
            n_whole_lines = n_bytes + end as u64 + 1;
        }
        let n = block.len();
        n_bytes += n as u64;
        reader.consume(n);
    };
    if damage.is_some() {
        file.set_len(n_whole_lines)?; // The line that the damage broke may look whole.
    }
    file.seek(SeekFrom::Start(0))?;
    Ok((PositionedFile::of(file)?, damage))
}
