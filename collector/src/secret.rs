//! Secrets in files of their own: read at each use, so that they may be renewed.
//!
//! Invariant: no content of a file is in a message.

use std::io;
use std::path::{Path, PathBuf};

/// The longest secret that is read from a file.
const MAX_SECRET_BYTES: usize = 16 << 10;

/// Why there is no secret; the file may come back.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read, or is not UTF-8.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is something else than a password or token.
    #[error("{} is too long for a secret", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
}

/// The content of a file that holds one secret, without the line's end.
///
/// # Errors
/// [`SecretError`] names the file.
pub async fn read(path: &Path) -> Result<String, SecretError> {
    let read = tokio::fs::read_to_string(path).await;
    let text = read.map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
    if text.len() > MAX_SECRET_BYTES {
        return Err(SecretError::TooLong { path: path.to_owned() });
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
