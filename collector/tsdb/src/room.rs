//! How much room the file system has, and how much of it is not for samples.
//!
//! Invariants: what is refused is refused before a byte of it is written; sealing, merging and retention are never
//! refused, because they make room.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::statvfs;

use crate::CommitError;

/// Of a small file system a fixed reserve could be all there is: it is at most this part.
const LARGEST_PART: u64 = 20;

/// Whether a commit may use what is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserve {
    Kept,
    Used,
}

/// The room of the store's file system.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    min_free_bytes: AtomicU64,
}

impl Room {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), min_free_bytes: AtomicU64::new(0) }
    }

    pub(crate) fn keep_free(&self, bytes: u64) {
        self.min_free_bytes.store(bytes, Relaxed);
    }

    /// What is free, and what is to stay free. A file system that does not say has room.
    pub(crate) fn look(&self) -> (u64, u64) {
        let Ok(found) = statvfs(&self.dir) else { return (u64::MAX, 0) };
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let floor = self.min_free_bytes.load(Relaxed).min(bytes(found.f_blocks) / LARGEST_PART);
        (bytes(found.f_bavail), floor)
    }

    /// Whether a commit may be written now. Costs a system call, a fraction of the sync that follows.
    pub(crate) fn check(&self, reserve: Reserve) -> Result<(), CommitError> {
        if reserve == Reserve::Used || self.min_free_bytes.load(Relaxed) == 0 {
            return Ok(());
        }
        let (free_bytes, min_free_bytes) = self.look();
        if free_bytes >= min_free_bytes {
            return Ok(());
        }
        Err(CommitError::ReadOnly { dir: self.dir.clone(), free_bytes, min_free_bytes })
    }
}

/// What the file system of `dir` has free for this process. One that does not say has room.
pub(crate) fn free_bytes(dir: &Path) -> u64 {
    Room::new(dir).look().0
}
