//! Samples that somebody deleted: hidden at once, taken out of chunks when those are written anew or cleaned.
//!
//! Invariants: a deletion is on disk before it is in force; whoever reads takes the list before anything else, so that
//! nothing deleted shows while chunks are cleaned; a tombstone goes only when no chunk, and nothing in the head or in what
//! replay would bring back to it, can have what it hides.
//! What it deliberately does not do: tell samples apart by when they came. What arrives later for a deleted stretch is
//! hidden, and goes, with the rest; once the tombstone is gone, it shows.

use std::sync::Arc;

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, params};
use veghe_model::{Bucket, Matcher, Timestamp};

use crate::bytes::{Cursor, Damaged, put_zigzag};
use crate::chunks::{self, ChunkError, Level, TimesReader, TimesWriter, checked, row, seal_bytes};
use crate::codec;
use crate::retain::Unit;
use crate::rollup::DayRoller;
use crate::seal::{SERIES_PER_CALL, Sealer};
use crate::store::{Inner, lock, read, write};
use crate::{CleanReport, SealError};

/// One deletion.
#[derive(Debug)]
pub(crate) struct Tombstone {
    id: i64,
    /// First and last time stamp.
    start: i64,
    end: i64,
    series: RoaringBitmap,
}

/// Every deletion in force. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tombstones(Arc<Vec<Arc<Tombstone>>>);

impl Tombstones {
    pub(crate) fn new(list: Vec<Tombstone>) -> Self {
        Self(Arc::new(list.into_iter().map(Arc::new).collect()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The stretches of one series.
    fn of(&self, id: u32) -> Vec<(i64, i64)> {
        self.0.iter().filter(|stone| stone.series.contains(id)).map(|stone| (stone.start, stone.end)).collect()
    }

    /// Takes what is deleted of a series out of its samples.
    pub(crate) fn strike(&self, id: u32, samples: &mut Vec<(i64, f64)>) {
        if self.is_empty() {
            return;
        }
        let stretches = self.of(id);
        if !stretches.is_empty() {
            samples.retain(|(time, _)| !within(&stretches, *time));
        }
    }

    /// As [`Self::strike`], of columns; time stamps that nothing is taken of stay shared.
    pub(crate) fn strike_columns(&self, id: u32, times: &mut Arc<[i64]>, values: &mut Vec<f64>) {
        if self.is_empty() {
            return;
        }
        let stretches = self.of(id);
        if !times.iter().any(|time| within(&stretches, *time)) {
            return;
        }
        let mut kept = times.iter().map(|time| !within(&stretches, *time));
        values.retain(|_| kept.next().unwrap_or(true));
        *times = times.iter().copied().filter(|time| !within(&stretches, *time)).collect();
    }

    /// Takes the buckets that have anything deleted out of roll-ups that have no samples any more.
    pub(crate) fn strike_buckets(&self, id: u32, ends: &mut Arc<[i64]>, buckets: &mut Vec<Bucket>) {
        let stretches = self.of(id);
        let touched = |end: i64, bucket: &Bucket| {
            let (first, last) = if bucket.count == 0 { (end, end) } else { (bucket.first_time, bucket.last_time) };
            stretches.iter().any(|(start, end)| *start <= last && *end >= first)
        };
        let kept: Vec<(i64, Bucket)> =
            ends.iter().copied().zip(buckets.iter().copied()).filter(|(end, bucket)| !touched(*end, bucket)).collect();
        if kept.len() < buckets.len() {
            *ends = kept.iter().map(|(end, _)| *end).collect();
            *buckets = kept.into_iter().map(|(_, bucket)| bucket).collect();
        }
    }

    /// The series that have something deleted between two moments.
    pub(crate) fn series_between(&self, first: i64, last: i64) -> RoaringBitmap {
        let there = self.0.iter().filter(|stone| stone.start <= last && stone.end >= first);
        there.fold(RoaringBitmap::new(), |all, stone| all | &stone.series)
    }
}

fn within(stretches: &[(i64, i64)], time: i64) -> bool {
    stretches.iter().any(|(start, end)| (*start..=*end).contains(&time))
}

fn encode(stone: &Tombstone) -> rusqlite::Result<Vec<u8>> {
    let mut data = Vec::new();
    put_zigzag(&mut data, stone.start);
    put_zigzag(&mut data, stone.end);
    chunks::put_bitmap(&stone.series, &mut data)?;
    seal_bytes(stone.id, &mut data);
    Ok(data)
}

/// Reads a row back.
pub(crate) fn decode(id: i64, data: &[u8]) -> Result<Tombstone, Damaged> {
    let mut cursor = Cursor::new(checked(id, data)?);
    let (start, end) = (cursor.zigzag()?, cursor.zigzag()?);
    let series =
        RoaringBitmap::deserialize_from(cursor.rest()).or(Err(Damaged("its set of series does not decode")))?;
    Ok(Tombstone { id, start, end, series })
}

impl Inner {
    pub(crate) fn delete(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Result<u64, SealError> {
        let mut sealer = lock(&self.sealer);
        let series = read(&self.index).select(matchers);
        // What is still to come is not deleted: an end far away means all there is now. Sealed windows are past.
        let units = self.units().into_iter().chain(self.rollup_units());
        let sealed = units.filter(|u| !u.series.is_disjoint(&series)).map(|u| u.end - 1).max();
        let newest = read(&self.head).newest_of(&series).into_iter().chain(sealed).max();
        let Some(newest) = newest.filter(|newest| start.0 <= *newest && start <= end) else { return Ok(0) };
        let found = series.len();
        let inserted = (|| {
            let transaction = sealer.connection.transaction()?;
            let last: Option<i64> = transaction.query_row("SELECT max(id) FROM tombstone", [], |r| r.get(0))?;
            let id = last.unwrap_or(0).saturating_add(1);
            let stone = Tombstone { id, start: start.0, end: end.0.min(newest), series };
            transaction.execute("INSERT INTO tombstone VALUES (?1, ?2)", params![id, encode(&stone)?])?;
            transaction.commit()?;
            Ok(stone)
        })();
        let stone = inserted.map_err(SealError::Database)?;
        let mut tombstones = write(&self.tombstones);
        let list = tombstones.0.iter().cloned().chain([Arc::new(stone)]).collect();
        *tombstones = Tombstones(Arc::new(list));
        Ok(found)
    }

    pub(crate) fn clean_tombstones(&self) -> Result<CleanReport, SealError> {
        let mut sealer = lock(&self.sealer);
        let sealer = &mut *sealer;
        let tombstones = read(&self.tombstones).clone();
        let mut report = CleanReport::default();
        if tombstones.is_empty() {
            return Ok(report);
        }
        self.persist_catalog(sealer)?;
        sealer.merger.abandon();
        for unit in self.units() {
            let length = self.window_ms * unit.level.windows();
            let touched = tombstones.series_between(unit.end - length, unit.end - 1) & &*unit.series;
            if touched.is_empty() {
                continue;
            }
            let gone =
                self.clean_unit(sealer, &tombstones, &unit, &touched, &mut report).map_err(SealError::Database)?;
            if !gone.is_empty() {
                self.delist(sealer, &unit, &gone).map_err(SealError::Database)?;
            }
        }
        self.clean_rollups(sealer, &tombstones).map_err(SealError::Database)?;
        // What lies in the head is struck when it is sealed, and could come back by a replay until then.
        let waits = |stone: &Tombstone| {
            let head = read(&self.head);
            let (first, last) = (self.window_of(stone.start), self.window_of(stone.end));
            let frozen = head.frozen.iter().map(|frozen| (frozen.window, &frozen.content));
            let mut windows = head.windows.iter().map(|(window, content)| (*window, content)).chain(frozen);
            windows
                .any(|(window, content)| (first..=last).contains(&window) && !content.series.is_disjoint(&stone.series))
        };
        let (left, done): (Vec<_>, Vec<_>) = tombstones.0.iter().cloned().partition(|stone| waits(stone));
        report.left = left.len() as u64;
        let removed = (|| {
            let transaction = sealer.connection.transaction()?;
            for stone in &done {
                transaction.execute("DELETE FROM tombstone WHERE id = ?1", [stone.id])?;
            }
            transaction.commit()
        })();
        removed.map_err(SealError::Database)?;
        *write(&self.tombstones) = Tombstones(Arc::new(left));
        self.forget_series(sealer)?;
        self.delete_segments()?;
        self.forget_windows(sealer)?;
        Ok(report)
    }

    /// Writes the chunks of `touched` anew without what is deleted, and their roll-ups; gives those of which nothing is
    /// left.
    fn clean_unit(
        &self,
        sealer: &mut Sealer,
        tombstones: &Tombstones,
        unit: &Unit,
        touched: &RoaringBitmap,
        report: &mut CleanReport,
    ) -> rusqlite::Result<RoaringBitmap> {
        let (level, number) = (unit.level, unit.number);
        let mut gone = RoaringBitmap::new();
        let mut ids = touched.iter().peekable();
        let mut scratch = codec::Scratch::default();
        let mut samples = Vec::new();
        while ids.peek().is_some() {
            let mut writer = TimesWriter::new(&sealer.connection, level, number)?;
            let mut roller = match level {
                Level::Day => Some(DayRoller::new(&sealer.connection, &read(&self.rolled), number)?),
                Level::Window | Level::Rollup(_) => None,
            };
            let transaction = sealer.connection.transaction()?;
            let mut reader = TimesReader::default();
            let mut put = transaction.prepare(&format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", level.chunks()))?;
            let mut remove = transaction.prepare(&format!("DELETE FROM {} WHERE id = ?1", level.chunks()))?;
            for id in ids.by_ref().take(SERIES_PER_CALL) {
                let Some(data) = data_of(&transaction, level, row(number, id))? else { continue };
                samples.clear();
                match reader.chunk(&transaction, level, (number, id), &data) {
                    Ok((times, values)) => samples.extend(times.iter().copied().zip(values)),
                    Err(ChunkError::Database(error)) => return Err(error),
                    Err(ChunkError::Damaged(damage)) => {
                        tracing::error!(series = id, unit = number, %damage, "chunk is damaged; deletions leave it as it is");
                        continue;
                    }
                }
                let had = samples.len();
                tombstones.strike(id, &mut samples);
                if samples.len() == had {
                    continue;
                }
                report.samples += (had - samples.len()) as u64;
                if samples.is_empty() {
                    remove.execute([row(number, id)])?;
                    if let Some(roller) = &mut roller {
                        roller.remove(&transaction, id)?;
                    }
                    gone.insert(id);
                    continue;
                }
                let times: Arc<[i64]> = samples.iter().map(|s| s.0).collect();
                let values: Vec<f64> = samples.iter().map(|s| s.1).collect();
                chunks::put_chunk(&transaction, &mut put, &mut writer, (number, id), &times, &values, &mut scratch)?;
                if let Some(roller) = roller.as_mut().filter(|roller| roller.has(id)) {
                    roller.put(&transaction, id, (&times, &values), &mut scratch)?;
                }
            }
            drop((put, remove));
            if let Some(roller) = &roller {
                roller.put_lists(&transaction)?;
            }
            transaction.commit()?;
            if let Some(roller) = &mut roller {
                roller.publish(self);
            }
        }
        Ok(gone)
    }
}

fn data_of(connection: &Connection, level: Level, id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    let statement = format!("SELECT data FROM {} WHERE id = ?1", level.chunks());
    connection.query_row(&statement, [id], |r| r.get(0)).optional()
}
