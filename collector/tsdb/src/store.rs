//! The parts put together: who locks what, and in which order.
//!
//! Invariants: locks are taken in the order sealer, writer, days, index or head or sealed windows or marks (these one
//! at a time); the list of roll-ups after days. Only a holder of the writer lock changes the head. What a reader sees is on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use veghe_model::{Labels, Timestamp};

use crate::chunks::{Chunks, Sealed};
use crate::codec::Scratch;
use crate::head::{Applied, Head, PartKey};
use crate::index::Index;
use crate::log::{self, Draft, Log};
use crate::replay::Replay;
use crate::rollup::Rolled;
use crate::room::{Reserve, Room};
use crate::seal::{HEAD_LIMIT_BYTES, Sealer};
use crate::segment;
use crate::select::Helpers;
use crate::tail::Keep;
use crate::tombstone::Tombstones;
use crate::{Commit, CommitError, GroupId, OpenError, Options, Recovery, SeriesError, SeriesId, Stats};

/// Labels of one series may be this long together.
const MAX_LABELS_BYTES: usize = 64 << 10;

/// Groups of series; numbers are good for the life of the process.
#[derive(Default)]
pub(crate) struct Groups {
    by_series: HashMap<Arc<[u32]>, u32>,
    pub(crate) list: Vec<Group>,
}

#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) series: Arc<[u32]>,
    /// Whether no series is in it twice.
    distinct: bool,
}

impl Groups {
    pub(crate) fn make(&mut self, series: &[u32]) -> u32 {
        if let Some(&group) = self.by_series.get(series) {
            return group;
        }
        let number = self.list.len() as u32;
        let distinct = series.iter().collect::<BTreeSet<_>>().len() == series.len();
        let series: Arc<[u32]> = series.into();
        self.list.push(Group { series: Arc::clone(&series), distinct });
        self.by_series.insert(series, number);
        number
    }
}

/// What only one commit at a time uses.
pub(crate) struct Writer {
    pub(crate) log: Log,
    pub(crate) keep: Keep,
    /// The last record that is on disk and applied.
    pub(crate) sequence: u64,
    /// Series that the log or the database defines.
    pub(crate) defined: roaring::RoaringBitmap,
    /// Defined in the log, not in the database yet.
    pub(crate) new_series: roaring::RoaringBitmap,
    /// Changed in the log, not in the database yet.
    pub(crate) new_marks: BTreeSet<Vec<u8>>,
    /// Series and marks of records up to this one are in the database. Records without either do not need it to move.
    pub(crate) catalog_through: u64,
    /// Groups all of whose series are defined; emptied when series are removed.
    pub(crate) checked_groups: roaring::RoaringBitmap,
    /// Backups that copy segments now: none is deleted meanwhile.
    pub(crate) backups: usize,
    scratch: Scratch,
}

pub(crate) struct Inner {
    dir: PathBuf,
    pub(crate) window_ms: i64,
    max_series: usize,
    pub(crate) index: RwLock<Index>,
    pub(crate) head: RwLock<Head>,
    groups: RwLock<Groups>,
    pub(crate) marks: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) sealed: RwLock<BTreeMap<i64, Sealed>>,
    /// The series that may have a chunk of each day. Whoever takes rows away from where the lists of windows and days say
    /// they are commits while holding this for writing; a reader copies both lists and begins its transaction while
    /// holding it for reading.
    pub(crate) days: RwLock<BTreeMap<i64, Arc<roaring::RoaringBitmap>>>,
    /// The series that have roll-ups of each day; taken after `days` where both are needed.
    pub(crate) rolled: RwLock<Rolled>,
    /// What was deleted and may still be in chunks or in the head; readers take it first.
    pub(crate) tombstones: RwLock<Tombstones>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) sealer: Mutex<Sealer>,
    pub(crate) chunks: Chunks,
    pub(crate) room: Room,
    pub(crate) helpers: Helpers,
    log_segments: AtomicU64,
    log_bytes: AtomicU64,
    committed: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    /// Held, not used: closing it frees the directory.
    _lock: File,
}

// A panic while a lock is held is a defect of ours; what the lock guards is still as consistent as the last statement
// left it, and refusing every later reader would make it worse.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the directory for this process.
pub(crate) fn hold(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let io = |source| OpenError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Without a readable number the answer is still that it is held.
            let read = file.read_to_string(&mut text).is_ok();
            let pid = text.trim().parse().ok().filter(|_| read);
            return Err(OpenError::Held { dir: dir.to_owned(), pid });
        }
        Err(error) => return Err(io(error.into())),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(io)?;
    Ok(file)
}

impl Inner {
    pub(crate) fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        Self::open_bounded(options, HEAD_LIMIT_BYTES)
    }

    /// As [`Self::open`]; the head may take `head_limit` bytes before whole windows of the log are sealed on the way.
    pub(crate) fn open_bounded(options: Options, head_limit: u64) -> Result<(Self, Recovery), OpenError> {
        let Options { dir, window, max_series } = options;
        if !(Duration::from_secs(1)..=Duration::from_hours(4)).contains(&window) {
            return Err(OpenError::Window { window });
        }
        let log_dir = dir.join("log");
        let io = |source| OpenError::Io { path: log_dir.clone(), source };
        fs::create_dir_all(&log_dir).map_err(io)?;
        log::sync_dir(&dir).map_err(io)?;
        let held = hold(&dir)?;
        let (chunks, mut connection, contents, window_ms) =
            Chunks::open(dir.join("chunks.db"), window.as_millis() as i64)?;
        if !(1_000..=4 * 3_600_000).contains(&window_ms) {
            let detail = format!("it says that chunks are {window_ms} ms long");
            return Err(OpenError::Damaged { path: chunks.path, detail });
        }
        if Duration::from_millis(window_ms as u64) != window {
            tracing::warn!(window_ms, "the store keeps the chunk length it was made with");
        }
        let keep = Keep::open(&log_dir).map_err(io)?;
        let (first_number, held_through) = keep.after();
        let mut index = Index::default();
        index.reserve(contents.next_series);
        for (id, labels) in &contents.series {
            index.insert(*id, labels);
        }
        for damage in &contents.damages {
            tracing::error!(%damage, "part of the chunk database is damaged; the rest is in use");
        }
        let tombstones = Tombstones::new(contents.tombstones);
        let last_sequence =
            contents.windows.values().map(|w| w.through).fold(contents.through.max(held_through), u64::max);
        let mut replay = Replay {
            window_ms,
            catalog_through: contents.through,
            windows: contents.windows,
            connection: &mut connection,
            tombstones: tombstones.clone(),
            lost: &contents.lost,
            marks: contents.marks,
            head: Head::default(),
            groups: Groups::default(),
            new_series: roaring::RoaringBitmap::new(),
            new_marks: BTreeSet::new(),
            sequence: last_sequence,
            samples: 0,
            unknown: 0,
            scratch: Scratch::default(),
            index,
        };
        let mut recovery = Recovery { damages: contents.damages, ..Recovery::default() };
        let mut closed = Vec::new();
        let mut next_number = first_number;
        for (number, path) in segment::list(&log_dir).map_err(io)? {
            next_number = next_number.max(number + 1);
            let window_of = |time: i64| time.div_euclid(window_ms);
            if let Some(replayed) = segment::replay(number, &path, window_of, |record| replay.apply(record))? {
                recovery.damages.extend(replayed.damages);
                recovery.torn_bytes += replayed.torn_bytes;
                recovery.replayed_records += replayed.records;
                closed.push(replayed.segment);
            }
            replay.relieve(head_limit).map_err(|source| OpenError::Database { path: chunks.path.clone(), source })?;
        }
        if replay.unknown > 0 {
            tracing::error!(samples = replay.unknown, "log has samples of series that are defined nowhere");
        }
        recovery.replayed_samples = replay.samples;
        let writer = Writer {
            log: Log::new(&log_dir, next_number, closed).map_err(io)?,
            keep,
            sequence: replay.sequence,
            defined: replay.index.alive().clone(),
            new_series: replay.new_series,
            new_marks: replay.new_marks,
            catalog_through: contents.through,
            checked_groups: roaring::RoaringBitmap::new(),
            backups: 0,
            scratch: Scratch::default(),
        };
        let Replay { index, head, groups, marks, windows, .. } = replay;
        let sealer = Mutex::new(Sealer::new(connection));
        let inner = Self {
            room: Room::new(&dir),
            helpers: Helpers::default(),
            dir,
            window_ms,
            max_series: max_series.min(u32::MAX as usize - 1),
            index: RwLock::new(index),
            head: RwLock::new(head),
            groups: RwLock::new(groups),
            marks: RwLock::new(marks),
            sealed: RwLock::new(windows.into_iter().filter(|(_, w)| !w.series.is_empty() || w.through > 0).collect()),
            days: RwLock::new(contents.days),
            rolled: RwLock::new(contents.rolled),
            tombstones: RwLock::new(tombstones),
            sealer,
            chunks,
            log_segments: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            writer: Mutex::new(writer),
            _lock: held,
        };
        inner.count_log(&lock(&inner.writer));
        Ok((inner, recovery))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn window_of(&self, time: i64) -> i64 {
        // Row numbers have 32 bits for the window; samples beyond are refused, so limits of a range may be cut there.
        time.div_euclid(self.window_ms).clamp(i64::from(i32::MIN), i64::from(i32::MAX))
    }

    pub(crate) fn window_start(&self, window: i64) -> i64 {
        window.saturating_mul(self.window_ms)
    }

    pub(crate) fn series(&self, labels: &Labels) -> Result<SeriesId, SeriesError> {
        if let Some(id) = read(&self.index).find(labels) {
            return Ok(SeriesId(id));
        }
        let bytes = log::labels_bytes(labels);
        if bytes > MAX_LABELS_BYTES {
            return Err(SeriesError::LabelsTooLong { bytes, limit: MAX_LABELS_BYTES });
        }
        let mut index = write(&self.index);
        if let Some(id) = index.find(labels) {
            return Ok(SeriesId(id));
        }
        if index.alive().len() >= self.max_series as u64 || index.next() == u32::MAX {
            return Err(SeriesError::Limit { labels: labels.clone(), max: self.max_series });
        }
        Ok(SeriesId(index.create(labels)))
    }

    pub(crate) fn group(&self, series: &[SeriesId]) -> GroupId {
        let series: Vec<u32> = series.iter().map(|id| id.0).collect();
        if let Some(&group) = read(&self.groups).by_series.get(&*series) {
            return GroupId(group);
        }
        GroupId(write(&self.groups).make(&series))
    }

    pub(crate) fn commit(&self, commit: Commit, reserve: Reserve) -> Result<(), CommitError> {
        let groups: Vec<Group> = {
            let groups = read(&self.groups);
            let of = |c: &crate::Column| {
                groups.list.get(c.group.0 as usize).cloned().ok_or(CommitError::UnknownGroup(c.group))
            };
            commit.columns.iter().map(of).collect::<Result<_, _>>()?
        };
        let windows = self.check(&commit, &groups)?;
        if commit.columns.is_empty() && commit.samples.is_empty() && commit.marks.is_empty() {
            return Ok(());
        }
        self.room.check(reserve)?;
        let mut writer = lock(&self.writer);
        let series = self.undefined(&writer, &commit, &groups)?;
        let columns: Vec<_> = commit
            .columns
            .iter()
            .zip(&groups)
            .map(|(c, g)| (c.group.0, Arc::clone(&g.series), c.timestamp.0, &*c.values))
            .collect();
        let samples: Vec<_> = commit.samples.iter().map(|(id, time, value)| (id.0, time.0, *value)).collect();
        let sequence = writer.sequence + 1;
        let draft = Draft { sequence, series: &series, columns: &columns, samples: &samples, marks: &commit.marks };
        let written = writer.log.append(&draft, &windows);
        self.count_log(&writer);
        if written.is_err() {
            // The number may be on disk already: never give it to another record.
            writer.sequence = sequence;
        }
        written?;
        let committed = samples.len() + columns.iter().map(|c| c.3.len()).sum::<usize>();
        writer.sequence = sequence;
        for (id, _) in &series {
            writer.defined.insert(*id);
            writer.new_series.insert(*id);
        }
        writer.checked_groups.extend(commit.columns.iter().map(|c| c.group.0));
        if !series.is_empty() {
            let mut index = write(&self.index);
            for (id, _) in &series {
                index.revive(*id);
            }
        }
        let mut applied = Applied::default();
        let due = {
            let mut head = write(&self.head);
            let rows = columns.iter().zip(&groups).map(|((group, _, time, values), g)| (*group, g, *time, *values));
            apply(&mut head, |time| self.window_of(time), rows, &samples, &mut applied)
        };
        self.compress(&due, &mut writer.scratch);
        if !commit.marks.is_empty() {
            let mut marks = write(&self.marks);
            for (key, value) in commit.marks {
                writer.new_marks.insert(key.clone());
                put_mark(&mut marks, key, value);
            }
        }
        self.committed.fetch_add(committed as u64, Relaxed);
        self.duplicates.fetch_add(applied.duplicates, Relaxed);
        Ok(())
    }

    /// The windows of a commit that has the right shape.
    fn check(&self, commit: &Commit, groups: &[Group]) -> Result<Vec<i64>, CommitError> {
        let mut windows = BTreeSet::new();
        let mut window = |time: Timestamp| {
            let window = time.0.div_euclid(self.window_ms);
            let fits = i32::try_from(window).is_ok();
            if fits { Ok(windows.insert(window)) } else { Err(CommitError::OutOfRange(time)) }
        };
        for (column, group) in commit.columns.iter().zip(groups) {
            window(column.timestamp)?;
            if column.values.len() != group.series.len() {
                let (expected, found) = (group.series.len(), column.values.len());
                return Err(CommitError::Shape { group: column.group, expected, found });
            }
        }
        let mut last = None;
        for (_, time, _) in &commit.samples {
            if last != Some(time.0.div_euclid(self.window_ms)) {
                window(*time)?;
                last = Some(time.0.div_euclid(self.window_ms));
            }
        }
        Ok(windows.into_iter().collect())
    }

    /// Series of the commit that no file defines yet.
    fn undefined(&self, writer: &Writer, commit: &Commit, groups: &[Group]) -> Result<Vec<(u32, Labels)>, CommitError> {
        let unchecked = commit.columns.iter().zip(groups).filter(|(c, _)| !writer.checked_groups.contains(c.group.0));
        let ids: BTreeSet<u32> = unchecked
            .flat_map(|(_, group)| group.series.iter().copied())
            .chain(commit.samples.iter().map(|s| s.0.0))
            .filter(|id| !writer.defined.contains(*id))
            .collect();
        let index = read(&self.index);
        ids.into_iter()
            .map(|id| {
                if index.knows(id) { Ok((id, index.labels(id))) } else { Err(CommitError::UnknownSeries(SeriesId(id))) }
            })
            .collect()
    }

    /// Compresses raw rows that are due: encoded beside readers, put in place in an instant.
    fn compress(&self, due: &[(i64, PartKey)], scratch: &mut Scratch) {
        for &(window, key) in due {
            let piece = read(&self.head).compress(window, key, scratch);
            if let Some(piece) = piece {
                write(&self.head).replace_raw(window, key, piece);
            }
        }
    }

    pub(crate) fn count_log(&self, writer: &Writer) {
        let (held, held_bytes) = writer.keep.size();
        self.log_segments.store(held + writer.log.segments().count() as u64, Relaxed);
        self.log_bytes.store(held_bytes + writer.log.segments().map(|s| s.bytes).sum::<u64>(), Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let (head_samples, head_bytes) = {
            let head = read(&self.head);
            (head.samples(), head.bytes())
        };
        let (free_bytes, min_free_bytes) = self.room.look();
        Stats {
            series: read(&self.index).alive().len(),
            head_samples,
            head_bytes,
            log_segments: self.log_segments.load(Relaxed),
            log_bytes: self.log_bytes.load(Relaxed),
            chunk_bytes: self.chunks.bytes(),
            committed_samples: self.committed.load(Relaxed),
            duplicate_samples: self.duplicates.load(Relaxed),
            free_bytes,
            read_only: free_bytes < min_free_bytes,
        }
    }
}

pub(crate) fn put_mark(marks: &mut BTreeMap<Vec<u8>, Vec<u8>>, key: Vec<u8>, value: Vec<u8>) {
    if value.is_empty() {
        marks.remove(&key);
    } else {
        marks.insert(key, value);
    }
}

/// Applies samples in the order of a record; gives the parts that are due for compression.
pub(crate) fn apply<'a>(
    head: &mut Head,
    window_of: impl Fn(i64) -> i64,
    rows: impl Iterator<Item = (u32, &'a Group, i64, &'a [f64])>,
    samples: &[(u32, i64, f64)],
    applied: &mut Applied,
) -> Vec<(i64, PartKey)> {
    let mut due = Vec::new();
    for (number, group, time, values) in rows {
        let window = window_of(time);
        if group.distinct {
            let key = head.add_row(window, number, &group.series, time, values, applied);
            due.extend(key.map(|key| (window, key)));
        } else {
            for (id, value) in group.series.iter().zip(values) {
                let key = head.add_sample(window, *id, time, *value, applied);
                due.extend(key.map(|key| (window, key)));
            }
        }
    }
    for &(id, time, value) in samples {
        let window = window_of(time);
        let key = head.add_sample(window, id, time, value, applied);
        due.extend(key.map(|key| (window, key)));
    }
    due.sort_unstable();
    due.dedup();
    due
}
