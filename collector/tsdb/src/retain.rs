//! Retention: what is too old for its class of series goes, then the oldest of what is too much for the disk.
//!
//! Invariants: oldest first, so that a kill midway leaves one unbroken range of each series; rows go before the lists
//! that name them shrink, and no transaction deletes more than a bounded number of rows.
//! What it deliberately does not do: touch samples of a class that are not sealed yet.

use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;
use rusqlite::params;
use veghe_model::Timestamp;

use crate::chunks::{self, Chunks, Level, Sealed, WINDOWS_PER_DAY, row};
use crate::seal::{DELETED_PER_TRANSACTION, Sealer};
use crate::store::{Inner, lock, read, write};
use crate::{RetainReport, Retention, SealError};

/// Chunks of one window or day.
pub(crate) struct Unit {
    pub(crate) level: Level,
    pub(crate) number: i64,
    /// The first time stamp behind it.
    pub(crate) end: i64,
    pub(crate) series: Arc<RoaringBitmap>,
}

impl Inner {
    pub(crate) fn retain(&self, retention: &Retention, now: Timestamp) -> Result<RetainReport, SealError> {
        let longest = retention.classes.iter().map(|class| class.raw).fold(retention.raw, Duration::max);
        let mut report =
            RetainReport { aged_chunks: self.drop_before(now.saturating_sub(longest))?, ..RetainReport::default() };
        for (series, kept) in self.classes(retention) {
            if kept < longest {
                report.aged_chunks += self.drop_series_before(&series, now.saturating_sub(kept))?;
            }
        }
        report.used_bytes = self.used_bytes()?;
        let Some(max_bytes) = retention.max_bytes else { return Ok(report) };
        let day = Duration::from_millis((self.window_ms * WINDOWS_PER_DAY) as u64);
        let last_day = now.saturating_sub(day).0;
        while report.used_bytes > max_bytes {
            let Some(oldest) = self.units().into_iter().map(|unit| unit.end).min().filter(|end| *end <= last_day)
            else {
                tracing::warn!(report.used_bytes, max_bytes, "the store's last day alone is larger than it may be");
                break;
            };
            report.surplus_chunks += self.drop_before(Timestamp(oldest))?;
            report.used_bytes = self.used_bytes()?;
        }
        Ok(report)
    }

    /// The series of each class that is not empty, and of none, with how long they are kept.
    fn classes(&self, retention: &Retention) -> Vec<(RoaringBitmap, Duration)> {
        let index = read(&self.index);
        let mut rest = index.alive().clone();
        let mut classes = Vec::new();
        for class in &retention.classes {
            let series = index.select(&class.matchers) & &rest;
            rest -= &series;
            classes.push((series, class.raw));
        }
        classes.push((rest, retention.raw));
        classes.retain(|(series, _)| !series.is_empty());
        classes
    }

    /// Windows and days that have chunks.
    pub(crate) fn units(&self) -> Vec<Unit> {
        let end_of = |window: i64| self.window_start(window.saturating_add(1));
        let days = read(&self.days);
        let mut units: Vec<Unit> = read(&self.sealed)
            .iter()
            .map(|(number, sealed)| (Level::Window, *number, end_of(*number), Arc::clone(&sealed.series)))
            .chain(days.iter().map(|(number, series)| {
                (Level::Day, *number, end_of(number * WINDOWS_PER_DAY + WINDOWS_PER_DAY - 1), Arc::clone(series))
            }))
            .map(|(level, number, end, series)| Unit { level, number, end, series })
            .filter(|unit| !unit.series.is_empty())
            .collect();
        units.sort_by_key(|unit| unit.end);
        units
    }

    fn used_bytes(&self) -> Result<u64, SealError> {
        let database = Chunks::used_bytes(&lock(&self.sealer).connection).map_err(SealError::Database)?;
        Ok(database + self.stats().log_bytes)
    }

    /// Deletes chunks of `series` that ended before `horizon`.
    fn drop_series_before(&self, series: &RoaringBitmap, horizon: Timestamp) -> Result<u64, SealError> {
        let mut sealer = lock(&self.sealer);
        let sealer = &mut *sealer;
        self.persist_catalog(sealer)?;
        let past: Vec<(Unit, RoaringBitmap)> = self
            .units()
            .into_iter()
            .filter(|unit| unit.end <= horizon.0)
            .map(|unit| (&*unit.series & series, unit))
            .filter(|(gone, _)| !gone.is_empty())
            .map(|(gone, unit)| (unit, gone))
            .collect();
        if past.is_empty() {
            return Ok(0);
        }
        sealer.merger.abandon();
        let mut deleted = 0;
        for (unit, gone) in &past {
            deleted += delete_rows(sealer, unit, gone).map_err(SealError::Database)?;
            self.delist(sealer, unit, gone).map_err(SealError::Database)?;
        }
        self.forget_series(sealer)?;
        self.delete_segments()?;
        self.forget_windows(sealer)?;
        Ok(deleted)
    }

    /// Takes series without rows out of the list of a unit; with the last go its time columns.
    pub(crate) fn delist(&self, sealer: &mut Sealer, unit: &Unit, gone: &RoaringBitmap) -> rusqlite::Result<()> {
        let mut days = write(&self.days);
        let left = Arc::new(&*unit.series - gone);
        let transaction = sealer.connection.transaction()?;
        if left.is_empty() {
            let statement = format!("DELETE FROM {} WHERE id BETWEEN ?1 AND ?2", unit.level.times());
            transaction.execute(&statement, [row(unit.number, 0), row(unit.number, u32::MAX)])?;
        }
        match unit.level {
            Level::Day => {
                chunks::put_day(&transaction, unit.number, &left)?;
                transaction.commit()?;
                if left.is_empty() {
                    days.remove(&unit.number);
                } else {
                    days.insert(unit.number, left);
                }
            }
            Level::Window => {
                let through = read(&self.sealed).get(&unit.number).map_or(0, |sealed| sealed.through);
                let sealed = Sealed { through, series: left };
                chunks::put_window(&transaction, unit.number, &sealed)?;
                transaction.commit()?;
                write(&self.sealed).insert(unit.number, sealed);
            }
        }
        Ok(())
    }
}

/// Deletes the rows of `gone`, a bounded number in each transaction.
fn delete_rows(sealer: &mut Sealer, unit: &Unit, gone: &RoaringBitmap) -> rusqlite::Result<u64> {
    let statement = format!("DELETE FROM {} WHERE id = ?1", unit.level.chunks());
    let mut deleted = 0;
    let mut ids = gone.iter().peekable();
    while ids.peek().is_some() {
        let transaction = sealer.connection.transaction()?;
        let mut delete = transaction.prepare(&statement)?;
        for id in ids.by_ref().take(DELETED_PER_TRANSACTION as usize) {
            deleted += delete.execute(params![row(unit.number, id)])? as u64;
        }
        drop(delete);
        transaction.commit()?;
    }
    Ok(deleted)
}
