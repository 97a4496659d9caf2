//! Looks at every byte of a store that has a checksum, while it runs or while nobody has it open.
//!
//! Invariants: nothing is changed; damage is a result with its place, never an end of the search: what SQLite can't
//! reach by scanning is looked up row by row. Each window or day is read in a transaction of its own, so that a long
//! verification keeps no write-ahead log.
//! What it deliberately does not do: mend.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use roaring::RoaringBitmap;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use rustix::fs::{FlockOperation, flock};
use veghe_model::{Labels, Timestamp};

use crate::catalog;
use crate::chunks::{self, ChunkError, Level, Resolution, TimesReader, row};
use crate::contents;
use crate::rollup::{RowReader, rolled, same_buckets};
use crate::store::{Inner, lock};
use crate::{Store, VerifyError, segment};

/// Damaged places that are described; the others are counted.
const MAX_DESCRIBED: usize = 1_000;
/// Structural faults that SQLite may name.
const MAX_FAULTS: u32 = 100;

/// A damaged place.
#[derive(Clone, Debug, PartialEq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it: a table and row, or a byte.
    pub place: String,
    /// Whose samples, where that is known.
    pub series: Option<Labels>,
    /// From when to when the damaged part goes, where that is known.
    pub range: Option<(Timestamp, Timestamp)>,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.path.display(), self.place, self.detail)?;
        if let Some(series) = &self.series {
            write!(f, "; series {series}")?;
        }
        if let Some((start, end)) = self.range {
            write!(f, "; samples from {start} to {end}")?;
        }
        Ok(())
    }
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifyReport {
    /// Series.
    pub series: u64,
    /// Chunks of windows and days.
    pub chunks: u64,
    /// Samples in them.
    pub samples: u64,
    /// Rows of roll-ups, each of a series and a day; those whose samples are there were compared with them.
    pub rollups: u64,
    /// Log records.
    pub log_records: u64,
    /// Bytes behind the last whole record of log segments: what a kill left of a commit that was never acknowledged.
    pub torn_bytes: u64,
    /// How many places are damaged.
    pub damaged: u64,
    /// The first of them, at most 1,000.
    pub damages: Vec<Damage>,
}

impl VerifyReport {
    fn add(&mut self, damage: Damage) {
        self.damaged += 1;
        if self.damages.len() < MAX_DESCRIBED {
            self.damages.push(damage);
        }
    }
}

impl Store {
    /// Checks every checksum of the running store, with all it holds at the time. `watch` hears of the state now and
    /// then and may end it.
    ///
    /// # Errors
    /// [`VerifyError`] where it can't be done at all.
    pub fn verify(&self, watch: &mut dyn FnMut(&VerifyReport) -> ControlFlow<()>) -> Result<VerifyReport, VerifyError> {
        let inner: &Inner = &self.inner;
        let path = &inner.chunks.path;
        let connection = chunks::open_reader(path, ReaderKind::Running.flags())
            .map_err(|source| VerifyError::Database { path: path.clone(), source })?;
        let mut check =
            Check { path, connection: &connection, window_ms: inner.window_ms, report: VerifyReport::default() };
        check.log_now(inner, watch)?;
        check.database(watch)?;
        Ok(check.report)
    }
}

/// Checks every checksum of the store in `dir`, which no process may have open; a copy of a store may lie on a medium
/// that can't be written.
///
/// # Errors
/// [`VerifyError`] where it can't be done at all.
pub fn verify_directory(
    dir: &Path,
    watch: &mut dyn FnMut(&VerifyReport) -> ControlFlow<()>,
) -> Result<VerifyReport, VerifyError> {
    // A copy was never opened and has no lock.
    let lock_path = dir.join("lock");
    let _held = match File::open(&lock_path) {
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(file),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(VerifyError::Held { dir: dir.to_owned() }),
            Err(error) => return Err(VerifyError::Io { path: lock_path, source: error.into() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(VerifyError::Io { path: lock_path, source }),
    };
    let path = dir.join("chunks.db");
    let database = |source| VerifyError::Database { path: path.clone(), source };
    // What a kill left in the write-ahead log belongs to the database; without one nothing needs to be written.
    let wal = fs::metadata(dir.join("chunks.db-wal")).map_or(0, |m| m.len());
    let kind = if wal > 0 { ReaderKind::Left } else { ReaderKind::Still };
    let connection = chunks::open_reader(&kind.path(&path), kind.flags()).map_err(database)?;
    let found: u32 = connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(database)?;
    if found > chunks::VERSION {
        return Err(VerifyError::Newer { path, found, known: chunks::VERSION });
    }
    if found < chunks::VERSION {
        return Err(VerifyError::Older { path, found, known: chunks::VERSION });
    }
    let window_ms = chunks::meta(&connection, "window_ms").map_err(database)?.and_then(Result::ok).unwrap_or(0);
    let mut check = Check { path: &path, connection: &connection, window_ms, report: VerifyReport::default() };
    check.log_of(&dir.join("log"), watch)?;
    check.database(watch)?;
    Ok(check.report)
}

/// In which state a database is when it is read.
#[derive(Clone, Copy)]
enum ReaderKind {
    /// Another connection of this process writes it.
    Running,
    /// Nobody has it open; a write-ahead log is left.
    Left,
    /// Nobody has it open, nothing is left.
    Still,
}

impl ReaderKind {
    fn flags(self) -> OpenFlags {
        match self {
            Self::Running | Self::Left => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            Self::Still => {
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI
            }
        }
    }

    fn path(self, path: &Path) -> PathBuf {
        match self {
            Self::Running | Self::Left => path.to_owned(),
            Self::Still => {
                let escaped: String = path.to_string_lossy().chars().fold(String::new(), |mut text, c| {
                    match c {
                        '%' => text.push_str("%25"),
                        '?' => text.push_str("%3f"),
                        '#' => text.push_str("%23"),
                        c => text.push(c),
                    }
                    text
                });
                format!("file:{escaped}?immutable=1").into()
            }
        }
    }
}

struct Check<'a> {
    path: &'a Path,
    connection: &'a Connection,
    window_ms: i64,
    report: VerifyReport,
}

fn tell(watch: &mut dyn FnMut(&VerifyReport) -> ControlFlow<()>, report: &VerifyReport) -> Result<(), VerifyError> {
    if watch(report).is_break() { Err(VerifyError::Stopped) } else { Ok(()) }
}

impl Check<'_> {
    fn damaged(&mut self, place: String, detail: impl fmt::Display) {
        let damage =
            Damage { path: self.path.to_owned(), place, series: None, range: None, detail: detail.to_string() };
        self.report.add(damage);
    }

    /// Segments of a running store: what of them is committed, unless it goes meanwhile because it is in chunks.
    fn log_now(
        &mut self,
        inner: &Inner,
        watch: &mut dyn FnMut(&VerifyReport) -> ControlFlow<()>,
    ) -> Result<(), VerifyError> {
        let mut segments: Vec<(PathBuf, Option<u64>)> =
            lock(&inner.writer).log.segments().map(|segment| (segment.path.clone(), Some(segment.bytes))).collect();
        let held = inner.dir().join("log/held");
        let of_readers = segment::list_held(&held).map_err(|source| VerifyError::Io { path: held, source })?;
        segments.extend(of_readers.into_iter().map(|path| (path, None)));
        for (path, bytes) in segments {
            match segment::check(&path, bytes) {
                Ok(found) => self.segment(found),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(VerifyError::Io { path, source }),
            }
            tell(watch, &self.report)?;
        }
        Ok(())
    }

    fn log_of(
        &mut self,
        dir: &Path,
        watch: &mut dyn FnMut(&VerifyReport) -> ControlFlow<()>,
    ) -> Result<(), VerifyError> {
        let io = |source| VerifyError::Io { path: dir.to_owned(), source };
        let segments = segment::list(dir).map_err(io)?.into_iter().map(|(_, path)| path);
        let held = segment::list_held(&dir.join("held")).map_err(io)?;
        for path in segments.chain(held) {
            let found = segment::check(&path, None).map_err(|source| VerifyError::Io { path: path.clone(), source })?;
            self.segment(found);
            tell(watch, &self.report)?;
        }
        Ok(())
    }

    fn segment(&mut self, found: segment::Checked) {
        self.report.log_records += found.records;
        self.report.torn_bytes += found.torn_bytes;
        for damage in found.damages {
            self.report.add(damage);
        }
    }

    fn database(&mut self, watch: &mut dyn FnMut(&VerifyReport) -> ControlFlow<()>) -> Result<(), VerifyError> {
        self.structure();
        tell(watch, &self.report)?;
        self.small_tables();
        tell(watch, &self.report)?;
        for level in Level::ALL {
            let mut from = i64::MIN;
            while let Some(unit) = self.unit_from(level, from) {
                if let Err(error) = self.unit(level, unit) {
                    self.damaged(format!("table {}, {} {unit}", level.chunks(), level.unit()), error);
                }
                tell(watch, &self.report)?;
                from = row(unit, u32::MAX).saturating_add(1);
            }
        }
        Ok(())
    }

    /// What SQLite itself can tell of its pages.
    fn structure(&mut self) {
        let path = self.path.to_owned();
        let mut found = Vec::new();
        let asked = self.connection.prepare(&format!("PRAGMA quick_check({MAX_FAULTS})")).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                found.push(row.get::<_, String>(0)?);
            }
            Ok(())
        });
        found.retain(|text| text != "ok");
        found.extend(asked.err().map(|error| error.to_string()));
        for detail in found {
            let place = "structure of the database".to_owned();
            self.report.add(Damage { path: path.clone(), place, series: None, range: None, detail });
        }
    }

    /// Everything but chunks and time columns.
    fn small_tables(&mut self) {
        match contents::read(self.connection, self.path, self.window_ms) {
            Ok(catalog) => {
                self.report.series += catalog.series.len() as u64;
                for damage in catalog.damages {
                    self.report.add(damage);
                }
            }
            Err(error) => self.damaged("catalog".to_owned(), error),
        }
    }

    /// The first window or day that has chunks at or after a row.
    fn unit_from(&mut self, level: Level, from: i64) -> Option<i64> {
        let statement = format!("SELECT id FROM {} WHERE id >= ?1 ORDER BY id LIMIT 1", level.chunks());
        match self.connection.query_row(&statement, [from], |r| r.get::<_, i64>(0)).optional() {
            Ok(id) => id.map(|id| id >> 32),
            Err(error) => {
                self.damaged(format!("table {}, from row {from}", level.chunks()), error);
                None
            }
        }
    }

    fn unit(&mut self, level: Level, unit: i64) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut times = TimesReader::default();
        let mut rows_of_day = RowsOfDay::new(&transaction, level, unit)?;
        let mut seen = RoaringBitmap::new();
        // Rows that no list names are on their way out, and nobody reads them: a kill may leave them without their times.
        let listed = contents::listed(&transaction, level, unit)?;
        let scanned = (|| {
            let statement = format!("SELECT id, data FROM {} WHERE id BETWEEN ?1 AND ?2 ORDER BY id", level.chunks());
            let mut statement = transaction.prepare(&statement)?;
            let mut rows = statement.query([row(unit, 0), row(unit, u32::MAX)])?;
            while let Some(found) = rows.next()? {
                let id = found.get::<_, i64>(0)? as u32;
                seen.insert(id);
                if listed.as_ref().is_some_and(|listed| !listed.contains(id)) {
                    continue;
                }
                let data: Vec<u8> = found.get(1)?;
                self.chunk(&transaction, &mut times, &mut rows_of_day, level, (unit, id), &data);
            }
            Ok::<_, rusqlite::Error>(())
        })();
        if let Err(error) = scanned {
            self.damaged(format!("table {}, {} {unit}, by scanning", level.chunks(), level.unit()), error);
            let left = listed.unwrap_or_default() - seen;
            let mut one = transaction.prepare(&format!("SELECT data FROM {} WHERE id = ?1", level.chunks()))?;
            for id in left {
                match one.query_row([row(unit, id)], |r| r.get::<_, Vec<u8>>(0)).optional() {
                    Ok(Some(data)) => {
                        self.chunk(&transaction, &mut times, &mut rows_of_day, level, (unit, id), &data);
                    }
                    Ok(None) => {}
                    Err(error) => self.chunk_damaged(&transaction, level, (unit, id), &error),
                }
            }
        }
        let statement = format!("SELECT id, data FROM {} WHERE id BETWEEN ?1 AND ?2 ORDER BY id", level.times());
        let mut statement = transaction.prepare(&statement)?;
        let mut rows = statement.query([row(unit, 0), row(unit, u32::MAX)])?;
        while let Some(found) = rows.next()? {
            let (id, data): (i64, Vec<u8>) = (found.get(0)?, found.get(1)?);
            if let Err(damage) = chunks::checked(id, &data) {
                let range = Some(self.range(level, unit));
                let (path, place) = (self.path.to_owned(), format!("table {}, row {id}", level.times()));
                self.report.add(Damage { path, place, series: None, range, detail: damage.to_string() });
            }
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        connection: &Connection,
        times: &mut TimesReader,
        rows_of_day: &mut RowsOfDay,
        level: Level,
        place: (i64, u32),
        data: &[u8],
    ) {
        if let Level::Rollup(resolution) = level {
            self.report.rollups += 1;
            match rows_of_day.reader.row(connection, resolution, place, data) {
                Ok(_) => {}
                Err(ChunkError::Damaged(damage)) => self.chunk_damaged(connection, level, place, &damage),
                Err(ChunkError::Database(error)) => self.chunk_damaged(connection, level, place, &error),
            }
            return;
        }
        self.report.chunks += 1;
        match times.chunk(connection, level, place, data) {
            Ok((times, values)) => {
                self.report.samples += times.len() as u64;
                for (resolution, detail) in rows_of_day.check(connection, level, place, &times, &values) {
                    self.chunk_damaged(connection, Level::Rollup(resolution), place, &detail);
                }
            }
            Err(ChunkError::Damaged(damage)) => self.chunk_damaged(connection, level, place, &damage),
            Err(ChunkError::Database(error)) => self.chunk_damaged(connection, level, place, &error),
        }
    }

    fn chunk_damaged(
        &mut self,
        connection: &Connection,
        level: Level,
        (unit, id): (i64, u32),
        detail: &dyn fmt::Display,
    ) {
        let damage = Damage {
            path: self.path.to_owned(),
            place: format!("table {}, row {}", level.chunks(), row(unit, id)),
            series: catalog::labels_of(connection, id),
            range: Some(self.range(level, unit)),
            detail: detail.to_string(),
        };
        self.report.add(damage);
    }

    fn range(&self, level: Level, unit: i64) -> (Timestamp, Timestamp) {
        contents::range_of(level, unit, self.window_ms)
    }
}

/// The roll-ups of a day, beside its chunks.
#[derive(Default)]
struct RowsOfDay {
    listed: Vec<(Resolution, RoaringBitmap)>,
    reader: RowReader,
}

impl RowsOfDay {
    fn new(connection: &Connection, level: Level, day: i64) -> rusqlite::Result<Self> {
        let mut listed = Vec::new();
        if level == Level::Day {
            for resolution in Resolution::ALL {
                // A damaged list is named with the catalog.
                let series = contents::listed(connection, Level::Rollup(resolution), day)?.unwrap_or_default();
                listed.push((resolution, series));
            }
        }
        Ok(Self { listed, reader: RowReader::default() })
    }

    /// Which roll-ups do not say what the samples of a series do. Rows that are damaged are named when all are looked at.
    fn check(
        &mut self,
        connection: &Connection,
        level: Level,
        (day, id): (i64, u32),
        times: &[i64],
        values: &[f64],
    ) -> Vec<(Resolution, String)> {
        let mut wrong = Vec::new();
        if level != Level::Day {
            return wrong;
        }
        for (resolution, _) in self.listed.iter().filter(|(_, series)| series.contains(id)) {
            let statement = format!("SELECT data FROM {} WHERE id = ?1", Level::Rollup(*resolution).chunks());
            let found = connection
                .prepare_cached(&statement)
                .and_then(|mut s| s.query_row([row(day, id)], |r| r.get::<_, Vec<u8>>(0)).optional());
            match found {
                Ok(Some(data)) => {
                    if let Ok((ends, buckets)) = self.reader.row(connection, *resolution, (day, id), &data)
                        && !same_buckets((&ends, &buckets), &rolled(times, values, *resolution))
                    {
                        wrong.push((*resolution, "its roll-ups are not those of its samples".to_owned()));
                    }
                }
                Ok(None) => wrong.push((*resolution, "its roll-ups are missing".to_owned())),
                Err(error) => wrong.push((*resolution, error.to_string())),
            }
        }
        wrong
    }
}
