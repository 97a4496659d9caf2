//! Retention: what is too old for its class of series goes, then the oldest of what is too much for the disk.
//!
//! Invariants: oldest first, so that a kill midway leaves one unbroken range of each series; rows go with the list that
//! names them, a bounded number in each transaction; samples whose roll-ups outlive them go once they are rolled up.
//! What it deliberately does not do: touch samples of a class that are not sealed yet.

use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;
use rusqlite::{Transaction, params};
use veghe_model::Timestamp;

use crate::chunks::{self, Chunks, Level, Resolution, Sealed, WINDOWS_PER_DAY, row};
use crate::rollup::{DayRoller, Finest};
use crate::seal::{DELETED_PER_TRANSACTION, Reach, SERIES_PER_CALL, Sealer};
use crate::store::{Inner, lock, read, write};
use crate::{Ages, RetainReport, Retention, SealError};

/// Chunks of one window or day.
#[derive(Clone)]
pub(crate) struct Unit {
    pub(crate) level: Level,
    pub(crate) number: i64,
    /// The first time stamp behind it.
    pub(crate) end: i64,
    pub(crate) series: Arc<RoaringBitmap>,
}

/// What becomes of roll-ups when samples go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outlive {
    /// They go too, or went before.
    Nothing,
    /// Those of an hour stay.
    Hours,
    /// Those of an hour stay, and those of 5 minutes are made.
    Minutes5,
}

impl Outlive {
    fn of(ages: Ages) -> Self {
        let Ages { raw, rollup_5m, rollup_1h } = ages.effective();
        match (rollup_5m > raw, rollup_1h > raw) {
            (true, _) => Self::Minutes5,
            (false, true) => Self::Hours,
            (false, false) => Self::Nothing,
        }
    }

    /// The finest roll-ups that are made when the samples go.
    fn finest(self) -> Option<Finest> {
        match self {
            Self::Nothing => None,
            Self::Hours => Some(Finest::Hour),
            Self::Minutes5 => Some(Finest::Minutes5),
        }
    }
}

impl Inner {
    pub(crate) fn retain(&self, retention: &Retention, now: Timestamp) -> Result<RetainReport, SealError> {
        let all = retention.classes.iter().map(|class| class.ages).chain([retention.ages]);
        let longest = all.map(|ages| ages.effective().rollup_1h).fold(Duration::ZERO, Duration::max);
        let dropped = self.drop_reach_before(now.saturating_sub(longest), Reach::Everything)?;
        let mut report =
            RetainReport { aged_chunks: dropped.chunks, aged_rollups: dropped.rollups, ..RetainReport::default() };
        for (series, ages) in self.classes(retention) {
            let Ages { raw, rollup_5m, rollup_1h } = ages.effective();
            // Samples last: roll-ups without them would be taken for what retention keeps.
            for (resolution, kept) in [(Resolution::Hour, rollup_1h), (Resolution::Minutes5, rollup_5m)] {
                let horizon = now.saturating_sub(kept);
                report.aged_rollups +=
                    self.drop_series_before(&series, &[Level::Rollup(resolution)], horizon, Outlive::Nothing)?;
            }
            let samples = [Level::Window, Level::Day];
            let horizon = now.saturating_sub(raw);
            report.aged_chunks += self.drop_series_before(&series, &samples, horizon, Outlive::of(ages))?;
        }
        report.used_bytes = self.used_bytes()?;
        let Some(max_bytes) = retention.max_bytes else { return Ok(report) };
        let day = Duration::from_millis((self.window_ms * WINDOWS_PER_DAY) as u64);
        let last_day = now.saturating_sub(day).0;
        while report.used_bytes > max_bytes {
            if !self.drop_surplus(retention, last_day, &mut report)? {
                tracing::warn!(report.used_bytes, max_bytes, "the store's last day alone is larger than it may be");
                break;
            }
            report.used_bytes = self.used_bytes()?;
        }
        Ok(report)
    }

    /// Drops the oldest of what is kept shortest: samples, then the finer roll-ups, then the others. Nothing that ends
    /// after `last_day`; gives whether there was something.
    fn drop_surplus(&self, retention: &Retention, last_day: i64, report: &mut RetainReport) -> Result<bool, SealError> {
        let oldest = |units: Vec<Unit>| units.into_iter().next().filter(|unit| unit.end <= last_day);
        if let Some(unit) = oldest(self.units()) {
            let horizon = Timestamp(unit.end);
            for (series, ages) in self.classes(retention) {
                let outlive = Outlive::of(ages);
                if outlive != Outlive::Nothing {
                    report.surplus_chunks += self.drop_series_before(&series, &[Level::Day], horizon, outlive)?;
                }
            }
            report.surplus_chunks += self.drop_reach_before(horizon, Reach::Samples)?.chunks;
            return Ok(true);
        }
        for resolution in Resolution::ALL {
            let level = Level::Rollup(resolution);
            let units = self.rollup_units().into_iter().filter(|unit| unit.level == level).collect();
            if let Some(unit) = oldest(units) {
                let horizon = Timestamp(unit.end);
                report.surplus_rollups += self.drop_series_before(&unit.series, &[level], horizon, Outlive::Nothing)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The series of each class that is not empty, and of none, with how long they are kept.
    fn classes(&self, retention: &Retention) -> Vec<(RoaringBitmap, Ages)> {
        let index = read(&self.index);
        let mut rest = index.alive().clone();
        let mut classes = Vec::new();
        for class in &retention.classes {
            let series = index.select(&class.matchers) & &rest;
            rest -= &series;
            classes.push((series, class.ages));
        }
        classes.push((rest, retention.ages));
        classes.retain(|(series, _)| !series.is_empty());
        classes
    }

    /// Windows and days that have chunks of samples, oldest first.
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

    /// Days that have roll-ups, oldest first.
    pub(crate) fn rollup_units(&self) -> Vec<Unit> {
        let rolled = read(&self.rolled);
        let of = |resolution: Resolution| {
            rolled.of(resolution).iter().map(move |(day, series)| Unit {
                level: Level::Rollup(resolution),
                number: *day,
                end: self.day_range(*day).1.saturating_add(1),
                series: Arc::clone(series),
            })
        };
        let mut units: Vec<Unit> = Resolution::ALL.into_iter().flat_map(of).collect();
        units.sort_by_key(|unit| unit.end);
        units
    }

    fn used_bytes(&self) -> Result<u64, SealError> {
        let database = Chunks::used_bytes(&lock(&self.sealer).connection).map_err(SealError::Database)?;
        Ok(database + self.stats().log_bytes)
    }

    /// Deletes chunks of `series` at these levels that ended before `horizon`.
    fn drop_series_before(
        &self,
        series: &RoaringBitmap,
        levels: &[Level],
        horizon: Timestamp,
        outlive: Outlive,
    ) -> Result<u64, SealError> {
        let mut deleted = 0;
        let past: Vec<Unit> = (self.units().into_iter().chain(self.rollup_units()))
            .filter(|unit| levels.contains(&unit.level) && unit.end <= horizon.0 && !unit.series.is_disjoint(series))
            .collect();
        for unit in past {
            // Sealing comes in between units.
            let mut sealer = lock(&self.sealer);
            let sealer = &mut *sealer;
            let Some(unit) = self.now(&unit) else { continue };
            let gone = self.may_go(sealer, &unit, &(&*unit.series & series), outlive);
            if gone.is_empty() {
                continue;
            }
            sealer.merger.abandon();
            deleted += self.drop_from_unit(sealer, unit, &gone, outlive).map_err(SealError::Database)?;
        }
        if deleted > 0 {
            let mut sealer = lock(&self.sealer);
            let sealer = &mut *sealer;
            self.persist_catalog(sealer)?;
            self.forget_series(sealer)?;
            self.delete_segments()?;
            self.forget_windows(sealer)?;
        }
        Ok(deleted)
    }

    /// The unit as it is now.
    fn now(&self, unit: &Unit) -> Option<Unit> {
        let series = match unit.level {
            Level::Window => read(&self.sealed).get(&unit.number).map(|sealed| Arc::clone(&sealed.series)),
            Level::Day => read(&self.days).get(&unit.number).cloned(),
            Level::Rollup(resolution) => read(&self.rolled).of(resolution).get(&unit.number).cloned(),
        };
        series.map(|series| Unit { series, ..*unit })
    }

    /// Of `series`, those whose chunk of the unit may go now.
    fn may_go(&self, sealer: &Sealer, unit: &Unit, series: &RoaringBitmap, outlive: Outlive) -> RoaringBitmap {
        match (outlive, unit.level) {
            (Outlive::Nothing, _) | (_, Level::Rollup(_)) => series.clone(),
            // What can't be merged is never rolled up.
            (_, Level::Window) => series & sealer.merger.refused(unit.number.div_euclid(WINDOWS_PER_DAY)),
            (_, Level::Day) => series - self.unmerged(sealer, unit.number),
        }
    }

    /// Series with samples of a day that are still to be merged into it.
    fn unmerged(&self, sealer: &Sealer, day: i64) -> RoaringBitmap {
        let (start, end) = self.day_range(day);
        let first = day.saturating_mul(WINDOWS_PER_DAY);
        let in_head = self.head_by_day(start, end).remove(&day).unwrap_or_default();
        let sealed = read(&self.sealed);
        let in_windows = sealed.range(first..first.saturating_add(WINDOWS_PER_DAY)).map(|(_, sealed)| &sealed.series);
        let in_windows = in_windows.fold(RoaringBitmap::new(), |all, series| all | &**series);
        in_head | (in_windows - sealer.merger.refused(day))
    }

    /// Deletes the rows of `gone` and takes them out of the unit's list, a bounded number in each transaction.
    fn drop_from_unit(
        &self,
        sealer: &mut Sealer,
        mut unit: Unit,
        gone: &RoaringBitmap,
        outlive: Outlive,
    ) -> rusqlite::Result<u64> {
        let statement = format!("DELETE FROM {} WHERE id = ?1", unit.level.chunks());
        let rolls = outlive.finest().filter(|_| unit.level == Level::Day);
        let at_once = if rolls.is_some() { SERIES_PER_CALL } else { DELETED_PER_TRANSACTION as usize };
        let mut deleted = 0;
        let mut ids = gone.iter().peekable();
        while ids.peek().is_some() {
            let part: RoaringBitmap = ids.by_ref().take(at_once).collect();
            let number = unit.number;
            let mut roller = None;
            if rolls.is_some() {
                roller = Some(DayRoller::new(&sealer.connection, &read(&self.rolled), number)?);
            }
            let mut delete_rows = |transaction: &Transaction<'_>, roller: Option<&mut DayRoller>| {
                if let Some((roller, finest)) = roller.zip(rolls) {
                    roller.put_last(transaction, &part, finest)?;
                }
                let mut delete = transaction.prepare_cached(&statement)?;
                for id in &part {
                    deleted += delete.execute(params![row(number, id)])? as u64;
                }
                Ok(())
            };
            unit.series = self.delist_with(sealer, &unit, &part, roller.as_mut(), &mut delete_rows)?;
        }
        Ok(deleted)
    }

    /// Takes series without rows out of the list of a unit; with the last go its time columns.
    pub(crate) fn delist(&self, sealer: &mut Sealer, unit: &Unit, gone: &RoaringBitmap) -> rusqlite::Result<()> {
        self.delist_with(sealer, unit, gone, None, &mut |_, _| Ok(())).map(drop)
    }

    /// As [`Self::delist`], in one transaction with what `first` does; gives the list as it is then.
    fn delist_with(
        &self,
        sealer: &mut Sealer,
        unit: &Unit,
        gone: &RoaringBitmap,
        mut roller: Option<&mut DayRoller>,
        first: &mut dyn FnMut(&Transaction<'_>, Option<&mut DayRoller>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Arc<RoaringBitmap>> {
        let left = Arc::new(&*unit.series - gone);
        let transaction = sealer.connection.transaction()?;
        first(&transaction, roller.as_deref_mut())?;
        if left.is_empty() {
            let statement = format!("DELETE FROM {} WHERE id BETWEEN ?1 AND ?2", unit.level.times());
            transaction.execute(&statement, [row(unit.number, 0), row(unit.number, u32::MAX)])?;
        }
        let through = read(&self.sealed).get(&unit.number).map_or(0, |sealed| sealed.through);
        let sealed = Sealed { through, series: Arc::clone(&left) };
        match unit.level {
            Level::Window => chunks::put_window(&transaction, unit.number, &sealed)?,
            Level::Day | Level::Rollup(_) => chunks::put_list(&transaction, unit.level, unit.number, &left)?,
        }
        let mut days = write(&self.days);
        transaction.commit()?;
        match unit.level {
            Level::Window => {
                write(&self.sealed).insert(unit.number, sealed);
            }
            Level::Day if left.is_empty() => {
                days.remove(&unit.number);
            }
            Level::Day => {
                days.insert(unit.number, Arc::clone(&left));
            }
            Level::Rollup(resolution) => write(&self.rolled).set(resolution, unit.number, Arc::clone(&left)),
        }
        if let Some(roller) = roller {
            roller.publish(self);
        }
        Ok(left)
    }
}
