//! Moves windows from the head to chunks, a bounded part at a time, and lets go of what nobody needs any more.
//!
//! Invariants: a window is frozen, written in one or more transactions, listed, and only then dropped from the head;
//! its watermark becomes durable with its last transaction. Cut anywhere, replay brings the samples back and the next
//! seal merges them with the chunks that exist: of a repeat the sealed value stays. A log segment goes only when every
//! watermark that covers it is durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use veghe_model::{Labels, Timestamp};

use crate::catalog;
use crate::chunks::{self, ChunkError, Level, Resolution, Sealed, TimesReader, TimesWriter, WINDOWS_PER_DAY, row};
use crate::head::{Frozen, PartKey, PieceTimes, Window};
use crate::log::Segment;
use crate::merge::Merger;
use crate::rollup::Catcher;
use crate::select::{ReadScratch, merge_samples, part_column};
use crate::shrink::{self, Shrinker};
use crate::store::{Inner, Writer, lock, read, write};
use crate::tombstone::Tombstones;
use crate::{SealError, SealReport};

/// Series written by one call, in one transaction.
pub(crate) const SERIES_PER_CALL: usize = 2_000;
/// Chunks deleted in one transaction.
pub(crate) const DELETED_PER_TRANSACTION: i64 = 20_000;
/// Late samples have a twelfth of a window: 10 minutes of 2 hours.
const GRACE_PER_WINDOW: i64 = 12;
/// A window that got no sample for this part of its length has stopped growing: 1 minute of 2 hours.
const QUIET_PER_WINDOW: i64 = 120;
/// Above this the head is relieved of whole windows early.
pub(crate) const HEAD_LIMIT_BYTES: u64 = 512 << 20;

/// Above this SQLite's write-ahead log is emptied when nothing is left to seal.
const IDLE_WAL_BYTES: u64 = 1 << 20;

/// What one seal at a time uses.
pub(crate) struct Sealer {
    pub(crate) connection: Connection,
    job: Option<Job>,
    pub(crate) merger: Merger,
    pub(crate) catcher: Catcher,
    pub(crate) shrinker: Shrinker,
}

/// A window on its way.
struct Job {
    frozen: Arc<Frozen>,
    /// How many of its entries are done.
    done: usize,
    times: TimesWriter,
    /// Whether the last part was rolled back.
    failed: bool,
    piece_times: PieceTimes,
    /// Time stamps of whole parts, shared by their series.
    part_times: HashMap<PartKey, Arc<[i64]>>,
}

/// What of the past is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Samples; roll-ups stay.
    Samples,
    Everything,
}

/// How many rows were deleted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Dropped {
    pub(crate) chunks: u64,
    pub(crate) rollups: u64,
}

/// Deletes the rows of a table before a unit, oldest first, so that a crash midway leaves one unbroken range.
fn delete_before(connection: &Connection, table: &str, first_kept: i64) -> rusqlite::Result<u64> {
    let statement =
        format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id < ?1 ORDER BY id LIMIT ?2)");
    let mut deleted = 0;
    loop {
        let gone = connection.execute(&statement, params![row(first_kept, 0), DELETED_PER_TRANSACTION])?;
        deleted += gone as u64;
        if gone == 0 {
            return Ok(deleted);
        }
    }
}

impl Sealer {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            job: None,
            merger: Merger::default(),
            catcher: Catcher::default(),
            shrinker: Shrinker::default(),
        }
    }
}

/// Series and marks that the database does not have yet.
struct Catalog {
    series: Vec<(u32, Labels)>,
    ids: RoaringBitmap,
    marks: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    sequence: u64,
    next_series: u32,
}

impl Inner {
    pub(crate) fn seal(&self, now: Timestamp) -> Result<SealReport, SealError> {
        let mut sealer = lock(&self.sealer);
        let sealer = &mut *sealer;
        self.persist_catalog(sealer)?;
        {
            // Held, not used: only its holder changes the head.
            let writer = lock(&self.writer);
            write(&self.head).clock = Some(now.0);
            drop(writer);
        }
        if sealer.job.is_none() {
            self.start(sealer, now)?;
        }
        let mut report = SealReport::default();
        if sealer.job.is_some() {
            self.advance(sealer, now, &mut report)?;
        } else if self.may_merge(sealer, now) {
            self.merge(sealer, now, &mut report)?;
        } else if self.may_roll(sealer).map_err(SealError::Database)? {
            self.catch_up(sealer, &mut report)?;
        } else {
            shrink::shrink(sealer)?;
        }
        report.more = sealer.job.is_some()
            || self.next_window(now).is_some()
            || self.may_merge(sealer, now)
            || self.may_roll(sealer).map_err(SealError::Database)?
            || shrink::due(sealer).map_err(SealError::Database)?;
        self.delete_segments()?;
        if !report.more && self.chunks.wal_bytes() > IDLE_WAL_BYTES {
            chunks::empty_wal(&sealer.connection).map_err(SealError::Database)?;
        }
        Ok(report)
    }

    /// Writes series and marks of the log to the database, so that segments do not have to stay for them.
    pub(crate) fn persist_catalog(&self, sealer: &mut Sealer) -> Result<(), SealError> {
        let catalog = {
            let mut writer = lock(&self.writer);
            let ids = std::mem::take(&mut writer.new_series);
            let keys = std::mem::take(&mut writer.new_marks);
            let (series, next_series) = {
                let index = read(&self.index);
                (ids.iter().map(|id| (id, index.labels(id))).collect(), index.next())
            };
            let marks = read(&self.marks);
            let marks = keys.into_iter().map(|key| (marks.get(&key).cloned(), key)).map(|(v, k)| (k, v)).collect();
            Catalog { series, ids, marks, sequence: writer.sequence, next_series }
        };
        let written = write_catalog(&mut sealer.connection, &catalog);
        if let Err(error) = written {
            let mut writer = lock(&self.writer);
            writer.new_series |= catalog.ids;
            writer.new_marks.extend(catalog.marks.into_keys());
            return Err(SealError::Database(error));
        }
        lock(&self.writer).catalog_through = catalog.sequence;
        Ok(())
    }

    fn start(&self, sealer: &mut Sealer, now: Timestamp) -> Result<(), SealError> {
        let Some(window) = self.next_window(now) else { return Ok(()) };
        let times = TimesWriter::new(&sealer.connection, Level::Window, window).map_err(SealError::Database)?;
        let frozen = {
            let writer = lock(&self.writer);
            write(&self.head).freeze(window, writer.sequence)
        };
        let Some(frozen) = frozen else { return Ok(()) };
        sealer.job = Some(Job {
            frozen,
            done: 0,
            times,
            failed: false,
            piece_times: PieceTimes::default(),
            part_times: HashMap::new(),
        });
        Ok(())
    }

    /// The oldest window that may be sealed now: past, and no longer growing, so that a load of past samples is written
    /// once. One that grows and grows is written all the same after the length of a window.
    fn next_window(&self, now: Timestamp) -> Option<i64> {
        let head = read(&self.head);
        let grace = self.window_ms / GRACE_PER_WINDOW;
        let quiet = self.window_ms / QUIET_PER_WINDOW;
        let full = head.bytes() > HEAD_LIMIT_BYTES;
        // A clock that was set back must not make anything wait.
        let long_ago =
            |then: Option<i64>, span: i64| then.is_none_or(|then| now.0 < then || now.0.saturating_sub(then) >= span);
        let ready = |window: i64, content: &Window| {
            let end = self.window_start(window).saturating_add(self.window_ms);
            let settled = long_ago(content.touched, quiet) || long_ago(content.born, self.window_ms);
            full && end <= now.0 || end.saturating_add(grace) <= now.0 && settled
        };
        head.windows.iter().find(|(window, content)| ready(**window, content)).map(|(window, _)| *window)
    }

    /// Writes the next series of the job.
    fn advance(&self, sealer: &mut Sealer, now: Timestamp, report: &mut SealReport) -> Result<(), SealError> {
        let Some(job) = &mut sealer.job else { return Ok(()) };
        let window = job.frozen.window;
        let before = read(&self.sealed).get(&window).cloned().unwrap_or_default();
        let before_report = report.clone();
        let tombstones = read(&self.tombstones).clone();
        // Shared columns of a part that failed were rolled back with it.
        if job.failed {
            job.times = TimesWriter::new(&sealer.connection, Level::Window, window).map_err(SealError::Database)?;
            job.failed = false;
        }
        let written = (|| {
            let transaction = sealer.connection.transaction()?;
            let (series, to) = write_part(&transaction, job, &tombstones, report)?;
            let finished = to == job.frozen.entries.len();
            let through = if finished { job.frozen.sequence } else { before.through };
            let sealed = Sealed { through, series: Arc::new(&*before.series | &series) };
            chunks::put_window(&transaction, window, &sealed)?;
            transaction.commit()?;
            Ok((sealed, series, to, finished))
        })();
        let (sealed, series, to, finished) = match written {
            Ok(written) => written,
            Err(error) => {
                job.failed = true;
                *report = before_report;
                return Err(SealError::Database(error));
            }
        };
        job.done = to;
        sealer.merger.sealed(window.div_euclid(WINDOWS_PER_DAY), &series, now);
        write(&self.sealed).insert(window, sealed);
        if finished {
            let writer = lock(&self.writer);
            write(&self.head).frozen = None;
            drop(writer);
            sealer.job = None;
        }
        Ok(())
    }

    /// Deletes log segments that hold nothing which is not in the database.
    pub(crate) fn delete_segments(&self) -> Result<(), SealError> {
        let mut writer = lock(&self.writer);
        if writer.backups > 0 {
            return Ok(());
        }
        let catalog_through = writer.catalog_through;
        let sealed = read(&self.sealed).clone();
        let may_go = |segment: &Segment| {
            segment.last_sequence <= catalog_through
                && segment.windows.iter().all(|(window, last)| sealed.get(window).is_some_and(|s| s.through >= *last))
        };
        let Writer { log, keep, .. } = &mut *writer;
        let deleted = log.delete(may_go, |segment| keep.take_over(segment)).and_then(|()| keep.trim());
        self.count_log(&writer);
        deleted.map_err(|(path, source)| SealError::Delete { path, source })
    }

    /// Deletes what ended before `horizon`, whatever series it is of.
    pub(crate) fn drop_reach_before(&self, horizon: Timestamp, reach: Reach) -> Result<Dropped, SealError> {
        let mut sealer = lock(&self.sealer);
        let sealer = &mut *sealer;
        self.persist_catalog(sealer)?;
        let first_kept = horizon.0.div_euclid(self.window_ms).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        sealer.merger.abandon();
        let first_day = first_kept.div_euclid(WINDOWS_PER_DAY);
        self.hide_windows(sealer, first_kept, first_day, reach)?;
        let mut dropped = Dropped::default();
        for level in Level::ALL {
            let (first_kept, count) = match (level, reach) {
                (Level::Window, _) => (first_kept, &mut dropped.chunks),
                (Level::Day, _) => (first_day, &mut dropped.chunks),
                (Level::Rollup(_), Reach::Everything) => (first_day, &mut dropped.rollups),
                (Level::Rollup(_), Reach::Samples) => continue,
            };
            *count += delete_before(&sealer.connection, level.chunks(), first_kept).map_err(SealError::Database)?;
            delete_before(&sealer.connection, level.times(), first_kept).map_err(SealError::Database)?;
        }
        self.forget_series(sealer)?;
        self.delete_segments()?;
        self.forget_windows(sealer)?;
        Ok(dropped)
    }

    /// Makes windows before `first_kept` and days before `first_day` empty for readers and for replay, in one
    /// transaction.
    fn hide_windows(
        &self,
        sealer: &mut Sealer,
        first_kept: i64,
        first_day: i64,
        reach: Reach,
    ) -> Result<(), SealError> {
        let writer = lock(&self.writer);
        let mut windows: BTreeSet<i64> = read(&self.head).windows.range(..first_kept).map(|(w, _)| *w).collect();
        windows.extend(sealer.job.iter().map(|job| job.frozen.window).filter(|w| *w < first_kept));
        windows.extend(read(&self.sealed).range(..first_kept).filter(|(_, s)| !s.series.is_empty()).map(|(w, _)| *w));
        windows.extend(writer.log.segments().flat_map(|s| s.windows.range(..first_kept)).map(|(w, _)| *w));
        let mut days = write(&self.days);
        let gone: Vec<i64> = days.range(..first_day).map(|(day, _)| *day).collect();
        let rolled: Vec<(Resolution, i64)> = match reach {
            Reach::Samples => Vec::new(),
            Reach::Everything => {
                let rolled = read(&self.rolled);
                let of = |resolution: Resolution| {
                    rolled.of(resolution).range(..first_day).map(move |(day, _)| (resolution, *day))
                };
                Resolution::ALL.into_iter().flat_map(of).collect()
            }
        };
        if windows.is_empty() && gone.is_empty() && rolled.is_empty() {
            return Ok(());
        }
        let empty = Sealed { through: writer.sequence, series: Arc::default() };
        let hidden = (|| {
            let transaction = sealer.connection.transaction()?;
            for window in &windows {
                chunks::put_window(&transaction, *window, &empty)?;
            }
            for day in &gone {
                chunks::put_day(&transaction, *day, &empty.series)?;
            }
            for (resolution, day) in &rolled {
                chunks::put_list(&transaction, Level::Rollup(*resolution), *day, &empty.series)?;
            }
            transaction.commit()
        })();
        hidden.map_err(SealError::Database)?;
        *days = days.split_off(&first_day);
        for (resolution, day) in &rolled {
            write(&self.rolled).set(*resolution, *day, Arc::default());
        }
        {
            let mut sealed = write(&self.sealed);
            for window in &windows {
                sealed.insert(*window, empty.clone());
            }
        }
        let mut head = write(&self.head);
        head.windows = head.windows.split_off(&first_kept);
        if sealer.job.as_ref().is_some_and(|job| job.frozen.window < first_kept) {
            head.frozen = None;
            sealer.job = None;
        }
        drop(days);
        Ok(())
    }

    /// Removes series that have samples nowhere.
    pub(crate) fn forget_series(&self, sealer: &mut Sealer) -> Result<(), SealError> {
        let mut writer = lock(&self.writer);
        // Who still reads the log needs the labels of series that are gone from everywhere else.
        let oldest = writer.log.segments().map(|segment| segment.last_sequence).min();
        if writer.keep.lags(oldest.unwrap_or(0)) {
            return Ok(());
        }
        let mut used = read(&self.head).series();
        for sealed in read(&self.sealed).values() {
            used |= &*sealed.series;
        }
        for series in read(&self.days).values() {
            used |= &**series;
        }
        let rolled = read(&self.rolled);
        for series in Resolution::ALL.iter().flat_map(|resolution| rolled.of(*resolution).values()) {
            used |= &**series;
        }
        drop(rolled);
        // Series that no file defines were just made and wait for their first commit.
        let unused = &writer.defined - &used;
        if unused.is_empty() {
            return Ok(());
        }
        let next = read(&self.index).next();
        let removed = (|| {
            let transaction = sealer.connection.transaction()?;
            chunks::put_meta(&transaction, "next_series", i64::from(next))?;
            catalog::remove(&transaction, &unused)?;
            transaction.commit()
        })();
        removed.map_err(SealError::Database)?;
        write(&self.index).remove(&unused);
        writer.defined -= &unused;
        writer.new_series -= &unused;
        writer.checked_groups.clear();
        Ok(())
    }

    /// Forgets watermarks of empty windows that no segment mentions any more.
    pub(crate) fn forget_windows(&self, sealer: &mut Sealer) -> Result<(), SealError> {
        let mentioned: BTreeSet<i64> =
            lock(&self.writer).log.segments().flat_map(|s| s.windows.keys().copied()).collect();
        let gone: Vec<i64> = read(&self.sealed)
            .iter()
            .filter(|(window, sealed)| sealed.series.is_empty() && !mentioned.contains(window))
            .map(|(window, _)| *window)
            .collect();
        let removed = (|| {
            let transaction = sealer.connection.transaction()?;
            let mut statement = transaction.prepare("DELETE FROM window WHERE window = ?1")?;
            for window in &gone {
                statement.execute([window])?;
            }
            drop(statement);
            transaction.commit()
        })();
        removed.map_err(SealError::Database)?;
        let mut sealed = write(&self.sealed);
        for window in &gone {
            sealed.remove(window);
        }
        Ok(())
    }
}

fn write_catalog(connection: &mut Connection, catalog: &Catalog) -> rusqlite::Result<()> {
    if catalog.series.is_empty() && catalog.marks.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    catalog::put(&transaction, &catalog.series)?;
    chunks::put_marks(&transaction, catalog.marks.iter().map(|(key, value)| (key, value.as_ref())))?;
    chunks::put_meta(&transaction, "catalog_through", catalog.sequence as i64)?;
    chunks::put_meta(&transaction, "next_series", i64::from(catalog.next_series))?;
    transaction.commit()
}

/// Writes a whole frozen window, while nobody else reads or writes the store; gives its list.
pub(crate) fn seal_whole(
    connection: &mut Connection,
    frozen: &Arc<Frozen>,
    before: Sealed,
    tombstones: &Tombstones,
) -> rusqlite::Result<Sealed> {
    let window = frozen.window;
    let mut job = Job {
        frozen: Arc::clone(frozen),
        done: 0,
        times: TimesWriter::new(connection, Level::Window, window)?,
        failed: false,
        piece_times: PieceTimes::default(),
        part_times: HashMap::new(),
    };
    let mut sealed = before;
    let mut report = SealReport::default();
    loop {
        let transaction = connection.transaction()?;
        let (series, to) = write_part(&transaction, &mut job, tombstones, &mut report)?;
        job.done = to;
        let finished = to == frozen.entries.len();
        let through = if finished { frozen.sequence } else { sealed.through };
        sealed = Sealed { through, series: Arc::new(&*sealed.series | &series) };
        chunks::put_window(&transaction, window, &sealed)?;
        transaction.commit()?;
        if finished {
            return Ok(sealed);
        }
    }
}

/// Writes at most [`SERIES_PER_CALL`] series; gives which, and where to go on.
fn write_part(
    transaction: &Transaction<'_>,
    job: &mut Job,
    tombstones: &Tombstones,
    report: &mut SealReport,
) -> rusqlite::Result<(RoaringBitmap, usize)> {
    let window = job.frozen.window;
    let mut statement = transaction.prepare("INSERT OR REPLACE INTO chunk VALUES (?1, ?2)")?;
    let mut existing = transaction.prepare("SELECT data FROM chunk WHERE id = ?1")?;
    let mut scratch = ReadScratch::default();
    let mut chunk_times = TimesReader::default();
    let (mut written, mut at) = (RoaringBitmap::new(), job.done);
    let frozen = Arc::clone(&job.frozen);
    while at < frozen.entries.len() && written.len() < SERIES_PER_CALL as u64 {
        let id = frozen.entries[at].0;
        let to = at + frozen.entries[at..].iter().take_while(|entry| entry.0 == id).count();
        let entries = &frozen.entries[at..to];
        at = to;
        let ReadScratch { samples, values, codec } = &mut scratch;
        samples.clear();
        let old: Option<Vec<u8>> = existing.query_row([row(window, id)], |r| r.get(0)).optional()?;
        let merged = old.is_some();
        if let Some(data) = old {
            match chunk_times.chunk(transaction, Level::Window, (window, id), &data) {
                Ok((times, values)) => samples.extend(times.iter().copied().zip(values)),
                Err(ChunkError::Database(error)) => return Err(error),
                Err(ChunkError::Damaged(damage)) => {
                    tracing::error!(series = id, window, %damage, "chunk is damaged; it is kept aside and written anew");
                    transaction
                        .execute("INSERT INTO damaged (chunk, data) VALUES (?1, ?2)", params![row(window, id), data])?;
                }
            }
        }
        let had = samples.len();
        for (_, key, column) in entries {
            let Some(part) = frozen.content.part(*key) else { continue };
            if let Err(damage) = part_column(part, *column as usize, &mut job.piece_times, samples, values) {
                tracing::error!(series = id, window, %damage, "piece of the head is damaged; the rest is sealed");
            }
        }
        let ascending = samples.is_sorted_by(|a, b| a.0 < b.0);
        if !ascending {
            merge_samples(samples);
        }
        tombstones.strike(id, samples);
        if samples.is_empty() {
            continue;
        }
        values.clear();
        values.extend(samples.iter().map(|s| s.1));
        // Series of one group have the same time stamps unless some came alone: compare before making a column.
        let known = entries.first().map(|entry| entry.1);
        let same = |times: &Arc<[i64]>| times.iter().copied().eq(samples.iter().map(|s| s.0));
        let times = match known.and_then(|key| job.part_times.get(&key)).filter(|times| same(times)) {
            Some(times) => Arc::clone(times),
            None => samples.iter().map(|s| s.0).collect(),
        };
        if let (Some(key @ PartKey::Group(_)), false) = (known, merged) {
            job.part_times.entry(key).or_insert_with(|| Arc::clone(&times));
        }
        report.bytes +=
            chunks::put_chunk(transaction, &mut statement, &mut job.times, (window, id), &times, values, codec)?;
        report.samples += samples.len().saturating_sub(had) as u64;
        written.insert(id);
    }
    Ok((written, at))
}
