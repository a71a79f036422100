//! Lines of a plain or gzipped text file, of bounded length.
//!
//! In:  a path. Out: one line at a time with its number; an overlong line is skipped, not held.
//! Not here: what a line means.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use fs_err::File;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const BUFFER_BYTES: usize = 1 << 18;

/// Whether a file starts like gzip.
pub(super) fn is_gzip(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(start == GZIP_MAGIC)
}

/// A file's bytes, decompressed if it starts like gzip.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        let decoder = MultiGzDecoder::new(file);
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)));
    }
    Ok(Box::new(file))
}

/// The first bytes of a file, decompressed; fewer when it is shorter or damaged.
pub(super) fn head(path: &Path, n: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match open(path)?.take(n).read_to_end(&mut bytes) {
        Err(error) if !is_damage(&error) => Err(error),
        _ => Ok(bytes),
    }
}

/// Whether an error tells of the file's content and not of the machine.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    [InvalidData, InvalidInput, Other, UnexpectedEof].contains(&error.kind())
}

/// One line of a file.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// Position of its first byte in the (decompressed) file.
    pub(super) start: u64,
    /// The bytes with their line end; `None` when there were too many.
    pub(super) bytes: Option<Vec<u8>>,
}

/// The lines of a file, one after the other.
pub(super) struct Lines {
    reader: Box<dyn BufRead>,
    number: u64,
    offset: u64,
    max_bytes: usize,
}

impl Lines {
    /// Opens a file and skips a UTF-8 byte order mark.
    pub(super) fn open(path: &Path, max_bytes: usize) -> io::Result<Self> {
        Self::over(open(path)?, max_bytes)
    }

    /// The lines of decompressed bytes; skips a UTF-8 byte order mark.
    pub(super) fn over(mut reader: Box<dyn BufRead>, max_bytes: usize) -> io::Result<Self> {
        let marked = match reader.fill_buf() {
            Ok(start) => start.starts_with(UTF8_MARK),
            Err(error) if is_damage(&error) => false, // told by the first read
            Err(error) => return Err(error),
        };
        let offset = if marked { UTF8_MARK.len() } else { 0 };
        reader.consume(offset);
        Ok(Self { reader, number: 0, offset: offset as u64, max_bytes })
    }

    /// The number of the line that the next call would give.
    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }

    /// The next line, `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let mut n_read = 0;
        loop {
            let block = self.reader.fill_buf()?;
            let end = block.iter().position(|&b| b == b'\n');
            let n = end.map_or(block.len(), |at| at + 1);
            n_read += n;
            if n_read <= self.max_bytes {
                bytes.extend_from_slice(&block[..n]);
            }
            self.reader.consume(n);
            if end.is_some() || n == 0 {
                break;
            }
        }
        if n_read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let start = self.offset;
        self.offset += n_read as u64;
        let bytes = (n_read <= self.max_bytes).then_some(bytes);
        Ok(Some(Line { number: self.number, start, bytes }))
    }
}

/// A line without its end.
pub(super) fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
