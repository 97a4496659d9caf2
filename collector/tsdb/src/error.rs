//! What can go wrong, one enumeration per family of operations.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use veghe_model::{Labels, Timestamp};

use crate::{GroupId, SeriesId};

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("cannot open store {}: held by process {}", dir.display(), pid.map_or_else(|| "unknown".to_owned(), |p| p.to_string()))]
    Held {
        /// The store's directory.
        dir: PathBuf,
        /// Who holds it, if it wrote its number.
        pid: Option<u32>,
    },
    /// A newer program wrote it.
    #[error("cannot read {}: format {found}, this program knows {known}; use the newer program", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The window is shorter than a second or longer than four hours.
    #[error("cannot use chunks of {window:?}: the length must lie between 1 s and 4 h")]
    Window {
        /// The length asked for.
        window: Duration,
    },
    /// A file or directory can't be read or written.
    #[error("cannot open {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The chunk database can't be used.
    #[error("cannot open chunk database {}", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A file holds what no version of this program writes.
    #[error("cannot read {}: {detail}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong and where.
        detail: String,
    },
}

/// Why nothing of a commit was kept. The caller may commit the same again later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// No space, or no quota: goes away when space returns.
    #[error("cannot write {}: the disk is full", path.display())]
    DiskFull {
        /// Which log segment.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file system has less room than is to stay free: goes away when space returns.
    #[error(
        "cannot write to {}: the disk is full up to its reserve, {free_bytes} bytes of {min_free_bytes} that stay free",
        dir.display()
    )]
    ReadOnly {
        /// The store's directory.
        dir: PathBuf,
        /// Room left.
        free_bytes: u64,
        /// Room that is to stay.
        min_free_bytes: u64,
    },
    /// The disk fails.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which log segment.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The group was never made by this store. Committing again does not help.
    #[error("cannot commit to unknown group {}", .0.0)]
    UnknownGroup(GroupId),
    /// The series was never made by this store. Committing again does not help.
    #[error("cannot commit to unknown series {}", .0.0)]
    UnknownSeries(SeriesId),
    /// A column has another number of values than its group has series. Committing again does not help.
    #[error("cannot commit {found} values to group {} of {expected} series", group.0)]
    Shape {
        /// Which group.
        group: GroupId,
        /// How many series it has.
        expected: usize,
        /// How many values came.
        found: usize,
    },
    /// A time stamp is farther from 1970 than chunks can be numbered. Committing again does not help.
    #[error("cannot commit a sample at {0}: too far from 1970")]
    OutOfRange(Timestamp),
    /// More than a log record may hold. Split it.
    #[error("cannot commit {bytes} bytes at once: at most {limit}")]
    TooLarge {
        /// How large it would be.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
}

/// Why a series can't be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeriesError {
    /// As many series exist as may.
    #[error("cannot create series {labels}: {max} exist, which is the limit")]
    Limit {
        /// What was asked for.
        labels: Labels,
        /// `Options::max_series`.
        max: usize,
    },
    /// Its labels are longer than 64 KiB together.
    #[error("cannot create a series with {bytes} bytes of labels: at most {limit}")]
    LabelsTooLong {
        /// How long they are.
        bytes: usize,
        /// How long they may be.
        limit: usize,
    },
}

/// Why samples can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The chunk database can't be used.
    #[error("cannot read the chunk database")]
    Database(#[source] rusqlite::Error),
    /// A chunk is damaged; series and ranges that do not touch it stay readable.
    #[error("cannot read the chunk of {series} from {window}: {detail}")]
    Corrupt {
        /// Whose chunk.
        series: Labels,
        /// Where its window begins.
        window: Timestamp,
        /// What is wrong.
        detail: String,
    },
}

/// Why samples could not be moved from head to chunks; nothing is lost, and the next call tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The chunk database can't be written.
    #[error("cannot write the chunk database")]
    Database(#[source] rusqlite::Error),
    /// A log segment can't be deleted.
    #[error("cannot delete log segment {}", path.display())]
    Delete {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Why a part of the log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// A segment can't be read.
    #[error("cannot read log segment {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A record is damaged; the rest of its segment is left out.
    #[error("cannot read log segment {} from byte {offset}: {detail}", path.display())]
    Damaged {
        /// Which segment.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file of the store can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The copy can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database can't be copied.
    #[error("cannot copy a database")]
    Database(#[from] rusqlite::Error),
    /// Somebody else writes to the copy.
    #[error("cannot write the copy of a database: another process uses it")]
    Busy,
    /// Whoever watched it ended it.
    #[error("the backup was stopped")]
    Stopped,
}

/// Why a store can't be verified at all; damage in it is no error but a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A file or directory can't be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The chunk database can't be opened.
    #[error("cannot open chunk database {}", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A process that runs has the store open: ask that one.
    #[error("cannot verify store {}: a running process holds it", dir.display())]
    Held {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A newer program wrote it.
    #[error("cannot verify {}: format {found}, this program knows {known}; use the newer program", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// An older program wrote it, without the checksums of today.
    #[error("cannot verify {}: format {found}, without the checksums of format {known}; start this program on it once", path.display())]
    Older {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one that can be verified.
        known: u32,
    },
    /// Whoever watched it ended it.
    #[error("the verification was stopped")]
    Stopped,
}
