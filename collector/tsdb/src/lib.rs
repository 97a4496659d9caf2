//! The time-series store: a durable log, a compressed head and sealed chunks. FORMAT.md has every byte.
//!
//! Synchronous; it starts no thread and never asks for the time. Writers commit, then readers see it: what [`Store::commit`]
//! returned `Ok` for is on disk. What it deliberately does not do: evaluate queries (`veghe-promql`) or speak with agents.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use veghe_model::{Labels, Matcher, SeriesData, Timestamp};

/// A series of this store; stays the same for the life of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub u32);

/// An ordered set of series that are measured together and share their time stamps; good for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if missing.
    pub dir: PathBuf,
    /// The length of a chunk, 2 h by default.
    pub window: Duration,
    /// How many series may exist in all.
    pub max_series: usize,
}

/// One column of values at one moment.
#[derive(Clone, Debug)]
pub struct Column {
    /// Whose values.
    pub group: GroupId,
    /// When all of them were taken.
    pub timestamp: Timestamp,
    /// As many as the group has series, in its order.
    pub values: Vec<f64>,
}

/// What becomes durable together.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Columns of groups: the fast way.
    pub columns: Vec<Column>,
    /// Single samples: imports, remote write, the collector's own.
    pub samples: Vec<(SeriesId, Timestamp, f64)>,
    /// Small values kept by key, the newest wins; an empty value removes the key. High-water marks of agents.
    pub marks: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The store. Cloning shares it; every method may be called from any thread.
#[derive(Clone)]
pub struct Store {
    inner: Arc<()>,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Samples put back into the head from the log.
    pub replayed_samples: u64,
    /// Log records read.
    pub replayed_records: u64,
    /// Bytes cut off the end of segments because their last record was incomplete.
    pub torn_bytes: u64,
}

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// Why nothing of a commit was kept. The caller may commit the same again later.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {}

/// Why a series can't be created.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {}

/// Why samples can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {}

/// Why samples could not be moved from head to chunks; nothing is lost, and the next call tries again.
#[derive(Debug, thiserror::Error)]
pub enum SealError {}

/// What a call of [`Store::seal`] did.
#[derive(Clone, Debug, Default)]
pub struct SealReport {
    /// Samples now in chunks.
    pub samples: u64,
    /// Bytes of those chunks.
    pub bytes: u64,
    /// Whether windows that may be sealed remain: call again soon.
    pub more: bool,
}

/// How large everything is.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Series in the index.
    pub series: u64,
    /// Samples in the head.
    pub head_samples: u64,
    /// Bytes of memory that the head's samples take.
    pub head_bytes: u64,
    /// Log segments and their bytes on disk.
    pub log_segments: u64,
    /// See `log_segments`.
    pub log_bytes: u64,
    /// Bytes of the chunk database on disk, its write-ahead log included.
    pub chunk_bytes: u64,
    /// Samples committed since the process began, repeats of a time stamp included.
    pub committed_samples: u64,
    /// Samples that had the time stamp of one already there and were dropped.
    pub duplicate_samples: u64,
}

#[expect(clippy::unimplemented, unused_variables, reason = "the interface comes before its implementation")]
impl Store {
    /// Opens or makes the store in `options.dir` and replays its log.
    ///
    /// # Errors
    /// [`OpenError`]: held by another process, a newer format, or damaged.
    pub fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        unimplemented!()
    }

    /// The series of `labels`, created if new. A new series becomes durable with the first commit that uses it.
    ///
    /// # Errors
    /// [`SeriesError`] where `max_series` is reached.
    pub fn series(&self, labels: &Labels) -> Result<SeriesId, SeriesError> {
        unimplemented!()
    }

    /// The group of these series in this order; the same series give the same group.
    pub fn group(&self, series: &[SeriesId]) -> GroupId {
        unimplemented!()
    }

    /// Writes `commit` to the log, syncs it, then shows it to readers. All or nothing.
    /// A sample whose series already has one at that time stamp is dropped and counted: the first stays.
    ///
    /// # Errors
    /// [`CommitError`]: disk full or failing. The store stays usable; nothing of the commit will be seen.
    pub fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        unimplemented!()
    }

    /// The value last committed for `key`.
    pub fn mark(&self, key: &[u8]) -> Option<Vec<u8>> {
        unimplemented!()
    }

    /// Every mark whose key begins with `prefix`, in ascending order of key.
    pub fn marks(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        unimplemented!()
    }

    /// The series that satisfy all `matchers`, in ascending order of labels, each with its samples in `[start, end]`;
    /// series without a sample there are left out.
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn select(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Result<Vec<SeriesData>, ReadError> {
        unimplemented!()
    }

    /// The labels of the series that satisfy all `matchers` and may have samples in `[start, end]`, ascending.
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn series_labels(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<Labels>, ReadError> {
        unimplemented!()
    }

    /// Moves windows that ended before `now` (less a grace for late samples) from the head to chunks, a bounded part
    /// of the work per call, and deletes log segments that hold nothing else.
    ///
    /// # Errors
    /// [`SealError`]; the head keeps everything.
    pub fn seal(&self, now: Timestamp) -> Result<SealReport, SealError> {
        unimplemented!()
    }

    /// Deletes whole windows that ended before `horizon`, oldest first, and series without samples; gives the number
    /// of chunks deleted.
    ///
    /// # Errors
    /// [`SealError`]; what was deleted so far stays deleted.
    pub fn drop_before(&self, horizon: Timestamp) -> Result<u64, SealError> {
        unimplemented!()
    }

    /// How large everything is now; cheap.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Where the store lives.
    pub fn dir(&self) -> &Path {
        unimplemented!()
    }
}
