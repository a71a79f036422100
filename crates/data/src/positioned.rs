//! A file read by position, from any number of threads.
//!
//! In:  a path, or an open file that has none (a temporary one). Out: bytes from a position.
//! Not here: what the bytes mean.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use fs_err::File;

/// An open file and its length when it was opened.
#[derive(Debug)]
pub(crate) struct PositionedFile {
    file: File,
    n_bytes: u64,
    /// Without positioned reads, threads take turns.
    #[cfg(not(unix))]
    turn: std::sync::Mutex<()>,
}

impl PositionedFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?)
    }

    /// An open file; its path is told in errors only.
    pub(crate) fn of(file: File) -> io::Result<Self> {
        let n_bytes = file.metadata()?.len();
        Ok(Self {
            file,
            n_bytes,
            #[cfg(not(unix))]
            turn: std::sync::Mutex::default(),
        })
    }

    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Exactly `length` bytes from a position.
    pub(crate) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        if offset.saturating_add(length) > self.n_bytes {
            let text = format!("`{}` ends at byte {}", self.file.path().display(), self.n_bytes);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let mut bytes = vec![0; length as usize];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    #[cfg(unix)]
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self.file.file(), bytes, offset)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        use io::{Seek, SeekFrom};
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = self.file.file();
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }

    /// All bytes from the beginning, independent of other readers.
    pub(crate) fn reader(self: &Arc<Self>) -> impl Read + 'static {
        Sequential { file: Arc::clone(self), at: 0 }
    }
}

struct Sequential {
    file: Arc<PositionedFile>,
    at: u64,
}

impl Read for Sequential {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = (bytes.len() as u64).min(self.file.n_bytes - self.at) as usize;
        self.file.read_exact_at(&mut bytes[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
