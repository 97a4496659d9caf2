//! What the database says at the start: series, marks, and which series have chunks where.
//!
//! Invariants: one damaged row costs what it alone holds, and is named. A list of series that does not hold is made again
//! from the rows that it names; a watermark that is lost counts as none, which only replays what is there already. A
//! lost series keeps its number, so that its chunks never become another's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension};
use veghe_model::{Labels, Timestamp};

use crate::bytes::Damaged;
use crate::chunks::{self, Level, Resolution, Sealed, row, take_bitmap, take_mark, take_window};
use crate::rollup::Rolled;
use crate::tombstone::{self, Tombstone};
use crate::{Damage, catalog};

/// What the database says at the start.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) series: Vec<(u32, Labels)>,
    /// Numbers of series whose labels can't be read.
    pub(crate) lost: RoaringBitmap,
    pub(crate) marks: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) windows: BTreeMap<i64, Sealed>,
    pub(crate) days: BTreeMap<i64, Arc<RoaringBitmap>>,
    pub(crate) rolled: Rolled,
    pub(crate) next_series: u32,
    /// Records up to this one are in here as far as series and marks go.
    pub(crate) through: u64,
    pub(crate) tombstones: Vec<Tombstone>,
    pub(crate) damages: Vec<Damage>,
}

/// Reads all of it.
///
/// # Errors
/// Where the database has no such tables.
pub(crate) fn read(connection: &Connection, path: &Path, window_ms: i64) -> rusqlite::Result<Contents> {
    let mut reader = Reader { connection, path, window_ms, contents: Contents::default() };
    reader.windows()?;
    reader.days(Level::Day)?;
    for resolution in Resolution::ALL {
        reader.days(Level::Rollup(resolution))?;
    }
    reader.series()?;
    reader.marks()?;
    reader.tombstones()?;
    let next_series = reader.number("next_series")? as u32;
    let through = reader.number("catalog_through")? as u64;
    let mut contents = reader.contents;
    (contents.next_series, contents.through) = (next_series, through);
    if !contents.damages.is_empty() {
        // A number that only chunks know must not be given again.
        let highest = named(&contents).max().into_iter().chain(contents.lost.max()).max();
        contents.next_series = contents.next_series.max(highest.map_or(0, |id| id.saturating_add(1)));
    }
    Ok(contents)
}

/// Every series that a list names.
fn named(contents: &Contents) -> RoaringBitmap {
    let windows = contents.windows.values().map(|sealed| &sealed.series);
    let rolled = Resolution::ALL.iter().flat_map(|resolution| contents.rolled.of(*resolution).values());
    windows.chain(contents.days.values()).chain(rolled).fold(RoaringBitmap::new(), |all, series| all | &**series)
}

struct Reader<'a> {
    connection: &'a Connection,
    path: &'a Path,
    window_ms: i64,
    contents: Contents,
}

impl Reader<'_> {
    fn damaged(&mut self, place: String, range: Option<(Timestamp, Timestamp)>, detail: &dyn std::fmt::Display) {
        let (path, detail) = (self.path.to_owned(), detail.to_string());
        self.contents.damages.push(Damage { path, place, series: None, range, detail });
    }

    /// A number of the store; one that is lost counts as 0, which gives nothing away and replays what there is.
    fn number(&mut self, key: &str) -> rusqlite::Result<i64> {
        match chunks::meta(self.connection, key)? {
            Some(Err(damage)) => {
                self.damaged(format!("table meta, row {key}"), None, &damage);
                Ok(0)
            }
            found => Ok(found.and_then(Result::ok).unwrap_or(0)),
        }
    }

    fn windows(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("SELECT window, through, series FROM window")?;
        let mut rows = statement.query([])?;
        loop {
            let found = match rows.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(()),
                Err(error) => return self.rebuild_rest(Level::Window, &error),
            };
            let window: i64 = found.get(0)?;
            let through: Option<i64> = found.get(1).ok();
            let bytes: Vec<u8> = found.get(2).unwrap_or_default();
            match through.map(|through| (through as u64, take_window(window, through as u64, &bytes))) {
                Some((through, Ok(series))) => {
                    self.contents.windows.insert(window, Sealed { through, series: Arc::new(series) });
                }
                Some((_, Err(damage))) => self.rebuild(Level::Window, window, &damage)?,
                None => self.rebuild(Level::Window, window, &Damaged("its watermark is no number"))?,
            }
        }
    }

    /// Lists of days, of samples or of roll-ups.
    fn days(&mut self, level: Level) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("SELECT {0}, series FROM {0}", level.unit()))?;
        let mut rows = statement.query([])?;
        loop {
            let found = match rows.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(()),
                Err(error) => return self.rebuild_rest(level, &error),
            };
            let (day, bytes): (i64, Vec<u8>) = (found.get(0)?, found.get(1).unwrap_or_default());
            match take_bitmap(day, &bytes) {
                Ok(series) => self.insert(level, day, Arc::new(series)),
                Err(damage) => self.rebuild(level, day, &damage)?,
            }
        }
    }

    /// Makes the list of one window or day again from its rows.
    fn rebuild(&mut self, level: Level, unit: i64, detail: &dyn std::fmt::Display) -> rusqlite::Result<()> {
        let range = range_of(level, unit, self.window_ms);
        self.damaged(format!("table {}, row {unit}", level.unit()), Some(range), detail);
        let series = Arc::new(rows_of(self.connection, level, unit)?);
        self.insert(level, unit, series);
        Ok(())
    }

    fn insert(&mut self, level: Level, unit: i64, series: Arc<RoaringBitmap>) {
        match level {
            Level::Window => {
                self.contents.windows.insert(unit, Sealed { through: 0, series });
            }
            Level::Day => {
                self.contents.days.insert(unit, series);
            }
            Level::Rollup(resolution) => self.contents.rolled.set(resolution, unit, series),
        }
    }

    /// Makes the lists again that could not be read because pages of the table are damaged.
    fn rebuild_rest(&mut self, level: Level, error: &rusqlite::Error) -> rusqlite::Result<()> {
        self.damaged(format!("table {}", level.unit()), None, error);
        let next = format!("SELECT id FROM {} WHERE id >= ?1 ORDER BY id LIMIT 1", level.chunks());
        let mut next = self.connection.prepare(&next)?;
        let mut from = i64::MIN;
        while let Some(id) = next.query_row([from], |r| r.get::<_, i64>(0)).optional()? {
            let unit = id >> 32;
            let known = match level {
                Level::Window => self.contents.windows.contains_key(&unit),
                Level::Day => self.contents.days.contains_key(&unit),
                Level::Rollup(resolution) => self.contents.rolled.of(resolution).contains_key(&unit),
            };
            if !known {
                self.rebuild(level, unit, error)?;
            }
            from = row(unit, u32::MAX).saturating_add(1);
        }
        Ok(())
    }

    fn series(&mut self) -> rusqlite::Result<()> {
        let named = named(&self.contents);
        let loaded = catalog::load(self.connection, named.max())?;
        for lost in loaded.lost {
            self.damaged(lost.place, None, &lost.detail);
            self.contents.lost.extend(named.range(lost.ids));
        }
        if !self.contents.lost.is_empty() {
            // Of a damaged block's numbers, some may be in a block of an earlier format.
            self.contents.lost -= loaded.series.iter().map(|(id, _)| *id).collect::<RoaringBitmap>();
        }
        self.contents.series = loaded.series;
        Ok(())
    }

    fn marks(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("SELECT key, value FROM mark")?;
        let mut rows = statement.query([])?;
        loop {
            match rows.next() {
                Ok(Some(found)) => {
                    let (key, bytes): (Vec<u8>, Vec<u8>) = (found.get(0)?, found.get(1).unwrap_or_default());
                    match take_mark(&key, &bytes) {
                        Ok(value) => {
                            self.contents.marks.insert(key, value.to_vec());
                        }
                        Err(damage) => self.damaged(format!("table mark, row {}", key.escape_ascii()), None, &damage),
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.damaged("table mark".to_owned(), None, &error);
                    return Ok(());
                }
            }
        }
    }

    fn tombstones(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("SELECT id, data FROM tombstone ORDER BY id")?;
        let mut rows = statement.query([])?;
        loop {
            match rows.next() {
                Ok(Some(found)) => {
                    let (id, data): (i64, Vec<u8>) = (found.get(0)?, found.get(1).unwrap_or_default());
                    match tombstone::decode(id, &data) {
                        Ok(stone) => self.contents.tombstones.push(stone),
                        Err(damage) => self.damaged(format!("table tombstone, row {id}"), None, &damage),
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.damaged("table tombstone".to_owned(), None, &error);
                    return Ok(());
                }
            }
        }
    }
}

/// The first and the last time stamp that a window or day may have.
pub(crate) fn range_of(level: Level, unit: i64, window_ms: i64) -> (Timestamp, Timestamp) {
    let length = window_ms.saturating_mul(level.windows());
    let start = unit.saturating_mul(length);
    (Timestamp(start), Timestamp(start.saturating_add(length - 1)))
}

/// The series that have a row of a window or day.
fn rows_of(connection: &Connection, level: Level, unit: i64) -> rusqlite::Result<RoaringBitmap> {
    let statement = format!("SELECT id FROM {} WHERE id BETWEEN ?1 AND ?2", level.chunks());
    let mut statement = connection.prepare(&statement)?;
    let mut series = RoaringBitmap::new();
    let mut rows = statement.query([row(unit, 0), row(unit, u32::MAX)])?;
    // What lies behind a damaged page is beyond reach.
    while let Ok(Some(found)) = rows.next() {
        series.insert(found.get::<_, i64>(0)? as u32);
    }
    Ok(series)
}

/// The series that may have a row of a window or day, as its list says; none where the list itself is damaged.
pub(crate) fn listed(connection: &Connection, level: Level, unit: i64) -> rusqlite::Result<Option<RoaringBitmap>> {
    let through = if level == Level::Window { "through" } else { "0" };
    let statement = format!("SELECT series, {through} FROM {0} WHERE {0} = ?1", level.unit());
    let found =
        connection.query_row(&statement, [unit], |r| Ok((r.get::<_, Vec<u8>>(0)?, r.get::<_, i64>(1)?))).optional()?;
    let Some((bytes, through)) = found else { return Ok(Some(RoaringBitmap::new())) };
    let list = match level {
        Level::Window => take_window(unit, through as u64, &bytes),
        Level::Day | Level::Rollup(_) => take_bitmap(unit, &bytes),
    };
    Ok(list.ok())
}
