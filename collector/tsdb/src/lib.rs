//! The time-series store: a durable log, a compressed head and sealed chunks. FORMAT.md has every byte.
//!
//! Synchronous; it starts no thread and never asks for the time. Writers commit, then readers see it: what [`Store::commit`]
//! returned `Ok` for is on disk. What it deliberately does not do: evaluate queries (`veghe-promql`) or speak with agents.

mod backup;
mod bytes;
mod catalog;
mod chunks;
mod codec;
mod compact;
mod contents;
mod error;
mod head;
mod index;
mod log;
mod merge;
mod replay;
mod retain;
mod rollup;
mod room;
mod seal;
mod segment;
mod select;
mod shrink;
mod store;
mod tail;
mod timecolumn;
mod tombstone;
mod verify;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chunks::Resolution;
use room::Reserve;

pub use backup::{BackupProgress, copy_database};
pub use compact::{CompactError, Compacted, can_shrink, compact};
pub use error::{BackupError, CommitError, OpenError, ReadError, SealError, SeriesError, TailError, VerifyError};
pub use tail::{LogPosition, LogRecord, LogTail};
use veghe_model::{Expired, Labels, Matcher, RollupSeries, SeriesData, Timestamp};
pub use verify::{Damage, VerifyReport, verify_directory};

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
    inner: Arc<store::Inner>,
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
    /// What can't be read any more; everything else is there.
    pub damages: Vec<Damage>,
}

/// What a call of [`Store::seal`] did.
#[derive(Clone, Debug, Default)]
pub struct SealReport {
    /// Samples now in chunks.
    pub samples: u64,
    /// Bytes of those chunks.
    pub bytes: u64,
    /// Samples that moved from chunks of a window to chunks of a day.
    pub merged_samples: u64,
    /// Bytes of those chunks of a day.
    pub merged_bytes: u64,
    /// Bytes of the roll-ups that were made with them, or for days that had none.
    pub rollup_bytes: u64,
    /// Whether windows that may be sealed or merged remain, or days to roll up: call again soon.
    pub more: bool,
}

/// How long samples and roll-ups are kept. None goes before what is finer: a roll-up counts as kept at least as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// Samples.
    pub raw: Duration,
    /// Roll-ups of 5 minutes.
    pub rollup_5m: Duration,
    /// Roll-ups of an hour.
    pub rollup_1h: Duration,
}

impl Ages {
    /// Everything for the same time.
    pub const fn alike(age: Duration) -> Self {
        Self { raw: age, rollup_5m: age, rollup_1h: age }
    }

    /// What these ages mean, each at least that of what is finer.
    fn effective(self) -> Self {
        let rollup_5m = self.rollup_5m.max(self.raw);
        Self { raw: self.raw, rollup_5m, rollup_1h: self.rollup_1h.max(rollup_5m) }
    }
}

/// How long what is kept.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Series that are kept for another time; the first class that a series belongs to decides.
    pub classes: Vec<RetentionClass>,
    /// How long those of every other series are kept.
    pub ages: Ages,
    /// Above this the oldest samples go, whatever their age; where none are left but those of the last day, the oldest
    /// roll-ups of 5 minutes, then those of an hour.
    pub max_bytes: Option<u64>,
}

/// Series that are kept for a time of their own.
#[derive(Clone, Debug)]
pub struct RetentionClass {
    /// What a series of this class satisfies, all of them.
    pub matchers: Vec<Matcher>,
    /// How long they are kept.
    pub ages: Ages,
}

/// What a call of [`Store::retain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// Chunks deleted because of their age.
    pub aged_chunks: u64,
    /// Chunks deleted because the store was larger than it may be.
    pub surplus_chunks: u64,
    /// Rows of roll-ups, each of a series and a day, deleted because of their age.
    pub aged_rollups: u64,
    /// Rows of roll-ups deleted because the store was larger than it may be.
    pub surplus_rollups: u64,
    /// Bytes in use after that; the file keeps the room of what was deleted until [`Store::seal`] has nothing else to do.
    pub used_bytes: u64,
}

/// What a call of [`Store::clean_tombstones`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Deleted samples that were still in chunks and are gone now.
    pub samples: u64,
    /// Deletions that stay in force because some of what they hide is not sealed yet.
    pub left: u64,
}

/// What the series of the index are made of: the largest of each kind, descending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cardinality {
    /// Series.
    pub series: u64,
    /// Distinct pairs of a label's name and value.
    pub label_pairs: u64,
    /// Series of each metric name.
    pub series_by_metric: Vec<(String, u64)>,
    /// Distinct values of each label.
    pub values_by_label: Vec<(String, u64)>,
    /// Bytes of the values of each label, counted for every series that has one, as Prometheus does; here a text is
    /// kept once.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Series that have each label.
    pub series_by_label: Vec<(String, u64)>,
    /// Series that have each pair, written `name=value`.
    pub series_by_pair: Vec<(String, u64)>,
}

/// What the head is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadShape {
    /// Runs of samples that its series have: compressed pieces, and one of raw rows where there are any.
    pub pieces: u64,
    /// The oldest and the newest time stamp, if there is any sample.
    pub span: Option<(Timestamp, Timestamp)>,
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
    /// Log segments, those held for readers included, and their bytes on disk.
    pub log_segments: u64,
    /// See `log_segments`.
    pub log_bytes: u64,
    /// Bytes of the chunk database on disk, its write-ahead log included.
    pub chunk_bytes: u64,
    /// Samples committed since the process began, repeats of a time stamp included.
    pub committed_samples: u64,
    /// Samples that had the time stamp of one already there and were dropped.
    pub duplicate_samples: u64,
    /// Bytes that the file system has free for this process.
    pub free_bytes: u64,
    /// Whether commits are refused because that is less than [`Store::keep_free`] says.
    pub read_only: bool,
}

impl Store {
    /// Opens or makes the store in `options.dir` and replays its log.
    ///
    /// # Errors
    /// [`OpenError`]: held by another process, a newer format, or damaged.
    pub fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        store::Inner::open(options).map(|(inner, recovery)| (Self { inner: Arc::new(inner) }, recovery))
    }

    /// The series of `labels`, created if new. A new series becomes durable with the first commit that uses it.
    ///
    /// # Errors
    /// [`SeriesError`] where `max_series` is reached.
    pub fn series(&self, labels: &Labels) -> Result<SeriesId, SeriesError> {
        self.inner.series(labels)
    }

    /// The group of these series in this order; the same series give the same group.
    pub fn group(&self, series: &[SeriesId]) -> GroupId {
        self.inner.group(series)
    }

    /// Writes `commit` to the log, syncs it, then shows it to readers. All or nothing.
    /// A sample whose series already has one at that time stamp is dropped and counted: the first stays.
    ///
    /// # Errors
    /// [`CommitError`]: disk full or failing. The store stays usable; nothing of the commit will be seen.
    pub fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.inner.commit(commit, Reserve::Kept)
    }

    /// As [`Self::commit`], also where the disk is full up to the reserve of [`Self::keep_free`]: for the little that
    /// tells people that it is, or makes room.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit_from_reserve(&self, commit: Commit) -> Result<(), CommitError> {
        self.inner.commit(commit, Reserve::Used)
    }

    /// From now on commits are refused while the file system has less than `bytes` free, or than a twentieth of its
    /// size where that is less: queries, sealing and retention go on in what is left. 0, as at the start, refuses none.
    pub fn keep_free(&self, bytes: u64) {
        self.inner.room.keep_free(bytes);
    }

    /// The value last committed for `key`.
    pub fn mark(&self, key: &[u8]) -> Option<Vec<u8>> {
        store::read(&self.inner.marks).get(key).cloned()
    }

    /// Every mark whose key begins with `prefix`, in ascending order of key.
    pub fn marks(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        store::read(&self.inner.marks)
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// The series that satisfy all `matchers`, in ascending order of labels, each with its samples in `[start, end]`;
    /// series without a sample there are left out.
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn select(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Result<Vec<SeriesData>, ReadError> {
        self.inner.select(matchers, start, end)
    }

    /// As [`Self::select`], for series that are named whole, in ascending order: a few at a time of many. `None` where they
    /// have more than `max_samples` together, see [`Self::select_at_most`].
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn select_series(
        &self,
        series: &[Labels],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, ReadError> {
        self.inner.select_series(series, start, end, max_samples)
    }

    /// [`Self::select`] where all series together have at most `max_samples` in the range, otherwise `None`: they are counted
    /// before anything is decoded, so that what is too large takes no memory.
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn select_at_most(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, ReadError> {
        self.inner.select_at_most(matchers, start, end, max_samples)
    }

    /// As [`Self::select_at_most`], one series after the other rather than all at once: `each` gets every series with its
    /// place in the ascending order of labels (places of series without a sample left are missing), on this thread and,
    /// where there is much to decode, on a few more at the same time, so in any order. It ends the selection with `Break`.
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged; some series may have been given by then.
    pub fn select_each(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
        each: &(dyn Fn(usize, SeriesData) -> ControlFlow<()> + Sync),
    ) -> Result<Option<()>, ReadError> {
        self.inner.select_each(matchers, start, end, max_samples, each)
    }

    /// The lengths of the buckets that [`Self::rollups`] gives, shortest first.
    pub const fn resolutions() -> [Duration; 2] {
        [Duration::from_mins(5), Duration::from_hours(1)]
    }

    /// The buckets that end in `[start, end]` of the series that satisfy all `matchers`, in ascending order of labels;
    /// series without a bucket there are left out. They stand for everything committed so far: one that ends later
    /// than the newest sample may still grow. None where `resolution` is not one of [`Self::resolutions`].
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn rollups(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        resolution: Duration,
    ) -> Result<Option<Vec<RollupSeries>>, ReadError> {
        self.rollups_at_most(matchers, start, end, resolution, usize::MAX)
    }

    /// As [`Self::rollups`]; none also where there are more than `max_buckets`.
    ///
    /// # Errors
    /// [`ReadError`] names what is damaged.
    pub fn rollups_at_most(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        resolution: Duration,
        max_buckets: usize,
    ) -> Result<Option<Vec<RollupSeries>>, ReadError> {
        let wanted = |known: &Resolution| known.ms() as u128 == resolution.as_millis();
        let Some(resolution) = Resolution::ALL.into_iter().find(wanted) else { return Ok(None) };
        self.inner.rollups(matchers, (start, end), resolution, max_buckets)
    }

    /// The length of the buckets that are kept beside samples, which makes their roll-ups cheap to read.
    pub const fn resolution_beside_samples() -> Duration {
        Duration::from_hours(1)
    }

    /// Whether roll-ups of an hour are kept for most of what these series have in `[start, end]`, or are all that is left of
    /// some of it. Where not, samples are as cheap to read. Cheap itself.
    pub fn rolled_up(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> bool {
        self.inner.rolled_up(matchers, start, end)
    }

    /// From now on merging keeps roll-ups beside the samples of a series and day only where there are at least so many: 2,000
    /// at the start. Fewer are read as fast themselves, and their roll-ups would take a good part of their room. Where roll-ups
    /// outlive samples, they are made when the samples go.
    pub fn roll_up_from(&self, samples: usize) {
        store::write(&self.inner.rolled).from = samples;
    }

    /// Where retention took the samples of these series in `[start, end]` and kept their roll-ups: what is left. None
    /// where it took none.
    pub fn expired(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Option<Expired> {
        self.inner.expired(matchers, start, end)
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
        Ok(self.inner.series_labels(matchers, start, end))
    }

    /// Moves windows that ended before `now` (less a grace for late samples) from the head to chunks, a bounded part
    /// of the work per call, and deletes log segments that hold nothing else. Where nothing is left to seal, merges
    /// chunks of days that ended a while before `now` and rolls them up, a bounded part per call too; where nothing is
    /// left to merge, gives free room of the file back.
    ///
    /// # Errors
    /// [`SealError`]; the head keeps everything.
    pub fn seal(&self, now: Timestamp) -> Result<SealReport, SealError> {
        self.inner.seal(now)
    }

    /// Deletes whole windows that ended before `horizon`, oldest first, their roll-ups, and series of which nothing is
    /// left; gives the number of chunks deleted. What is merged to chunks of a day goes when the whole day ended before `horizon`.
    ///
    /// # Errors
    /// [`SealError`]; what was deleted so far stays deleted.
    pub fn drop_before(&self, horizon: Timestamp) -> Result<u64, SealError> {
        self.inner.drop_reach_before(horizon, seal::Reach::Everything).map(|dropped| dropped.chunks)
    }

    /// Deletes what is older than `retention` keeps it, and the oldest of what is left while that takes more than
    /// `max_bytes`; then series of which nothing is left. Whole chunks go: those of a window that ended, or, once merged,
    /// of a day. Samples of a class that are not sealed yet wait for the next call after they are; those whose roll-ups
    /// outlive them wait until they are rolled up, but not where `max_bytes` is the reason.
    ///
    /// # Errors
    /// [`SealError`]; what was deleted so far stays deleted.
    pub fn retain(&self, retention: &Retention, now: Timestamp) -> Result<RetainReport, SealError> {
        self.inner.retain(retention, now)
    }

    /// Deletes the samples in `[start, end]` of the series that satisfy all `matchers`: they show no more when this
    /// returns, and leave the disk when their chunks are written anew or with [`Self::clean_tombstones`]. An `end`
    /// behind the newest sample of these series is that sample's time, so that what is still to come stays. What
    /// arrives late for the deleted stretch goes with it. [`Self::series_labels`] lists the series until they are
    /// cleaned. Gives the number of series.
    ///
    /// # Errors
    /// [`SealError`]: nothing is deleted.
    pub fn delete(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Result<u64, SealError> {
        self.inner.delete(matchers, start, end)
    }

    /// Takes deleted samples out of chunks, and series out of the index that have no other. A deletion that reaches
    /// into what is not sealed yet stays in force for a later call.
    ///
    /// # Errors
    /// [`SealError`]; every deletion stays in force.
    pub fn clean_tombstones(&self) -> Result<CleanReport, SealError> {
        self.inner.clean_tombstones()
    }

    /// What the head is made of. Costs a look at each of its parts.
    pub fn head_shape(&self) -> HeadShape {
        store::read(&self.inner.head).shape()
    }

    /// Which labels make the most series: at most `limit` of each kind. Costs a pass over the distinct label pairs, no
    /// disk.
    pub fn cardinality(&self, limit: usize) -> Cardinality {
        store::read(&self.inner.index).cardinality(limit)
    }

    /// How large everything is now; cheap.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Where the store lives.
    pub fn dir(&self) -> &Path {
        self.inner.dir()
    }
}

/// Decodes bytes as the payload of a log record and says whether they are one; for fuzzing.
#[doc(hidden)]
pub fn fuzz_log_record(payload: &[u8]) -> bool {
    log::Decoder::default().payload(0, payload).is_ok()
}

/// Decodes bytes as a sealed column of `len` values and says whether they are one; for fuzzing.
#[doc(hidden)]
pub fn fuzz_value_column(bytes: &[u8], len: u16) -> bool {
    let mut values = Vec::new();
    codec::decode(&mut bytes::Cursor::new(bytes), usize::from(len).max(1), codec::Packing::Pco, &mut values).is_ok()
}
