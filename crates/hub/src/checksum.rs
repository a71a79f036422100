//! Checksums as the hub's ETags state them.
//!
//! In:  an ETag and a file. Out: whether the file is what the ETag says.
//! A large file's ETag is the SHA-256 of its bytes, a small one's the SHA-1 of its git blob.

use std::{
    fmt::Write as _,
    io::{self, Read},
    path::Path,
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Length of a SHA-1 and of a SHA-256 in hexadecimal digits.
const SHA1: usize = 40;
const SHA256: usize = 64;

/// The checksum in an ETag, without its quotes and its mark of weakness; `None` if it is no checksum.
pub(crate) fn of_etag(etag: &str) -> Option<String> {
    let bare = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    (is_hex(bare, SHA1) || is_hex(bare, SHA256)).then(|| bare.to_owned())
}

/// Whether a revision is a commit.
pub(crate) fn is_commit(revision: &str) -> bool {
    is_hex(revision, SHA1)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The checksum of a file, of the same kind as `expected`.
pub(crate) fn of_file(path: &Path, expected: &str) -> io::Result<String> {
    let mut file = fs_err::File::open(path)?;
    if expected.len() == SHA256 {
        return digest(Sha256::new(), &mut file);
    }
    let length = file.metadata()?.len();
    digest(Sha1::new_with_prefix(format!("blob {length}\0")), &mut file)
}

fn digest<D: Digest>(mut hasher: D, bytes: &mut impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = bytes.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    let mut hex = String::new();
    for byte in hasher.finalize() {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Ok(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_git_s_and_sha256_s_checksums() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        fs_err::write(&file, "hello\n").unwrap();
        // `git hash-object` and `sha256sum`.
        for expected in [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ] {
            assert_eq!(of_file(&file, expected).unwrap(), expected);
        }
    }

    #[test]
    fn an_etag_is_a_checksum_or_refused() {
        let sha1 = "ce013625030ba8dba906f756967f9e9ca394464a";
        for etag in [sha1.to_owned(), format!("\"{sha1}\""), format!("W/\"{sha1}\"")] {
            assert_eq!(of_etag(&etag).as_deref(), Some(sha1));
        }
        for etag in ["", "\"5f-62a\"", "../../x", &sha1.to_uppercase(), &format!("{sha1}a")] {
            assert_eq!(of_etag(etag), None);
        }
    }
}
