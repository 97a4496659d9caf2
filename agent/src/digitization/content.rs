//! What files are by their content: a sample of some parts, and a digest of all of it, read at a polite priority.
//!
//! Invariant: a sample reads at most 64 KiB. What it deliberately does not do: remember.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

/// Parts of a sample and the bytes of each.
const PARTS: u64 = 8;
const PART_BYTES: usize = 8 << 10;

/// 8 bytes of BLAKE3 of the size and of parts at even distances; never 0.
///
/// # Errors
/// What the system says.
pub(crate) fn sample(file: &File, size: u64) -> io::Result<i64> {
    let mut hash = blake3::Hasher::new();
    hash.update(&size.to_le_bytes());
    let mut part = vec![0; PART_BYTES];
    let room = size.saturating_sub(PART_BYTES as u64);
    for number in 0..PARTS {
        let mut filled = 0;
        while filled < PART_BYTES {
            let offset = room * number / (PARTS - 1) + filled as u64;
            match file.read_at(part.get_mut(filled..).unwrap_or_default(), offset) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        hash.update(part.get(..filled).unwrap_or_default());
    }
    let mut first = [0; 8];
    hash.finalize_xof().fill(&mut first);
    Ok(i64::from_le_bytes(first) | 1)
}

/// BLAKE3 of all of it.
///
/// # Errors
/// What the system says.
pub(crate) fn digest(mut file: File) -> io::Result<[u8; 32]> {
    let mut hash = blake3::Hasher::new();
    let mut part = vec![0; 256 << 10];
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(*hash.finalize().as_bytes()),
            Ok(read) => hash.update(part.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}
