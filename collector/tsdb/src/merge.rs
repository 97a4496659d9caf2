//! Merges chunks of windows to chunks of a day, a bounded part at a time: fewer rows to read and fewer bytes.
//!
//! Invariants: a series' rows move from windows to the day in one transaction, so that a reader's transaction sees every
//! sample once. The lists of series only say where rows may be: the day's grows before the first row comes, the
//! windows' shrink after the last one went. Cut anywhere, the next start begins the day again and finds what is left.
//! Late samples of a merged day are sealed to their window as ever, and merged into the day later.
//! What it deliberately does not do: decide what is sealed (`seal`) or deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use rusqlite::{OptionalExtension, Statement, Transaction, params};
use veghe_model::Timestamp;

use crate::chunks::{self, ChunkError, Level, Sealed, TimesReader, TimesWriter, WINDOWS_PER_DAY, row};
use crate::rollup::DayRoller;
use crate::seal::{SERIES_PER_CALL, Sealer};
use crate::select::{ReadScratch, merge_samples};
use crate::store::{Inner, read, write};
use crate::tombstone::Tombstones;
use crate::{SealError, SealReport};

/// Samples after which a call ends with the series that it is at.
pub(crate) const SAMPLES_PER_CALL: u64 = 1 << 20;
/// A series with more samples in a day stays in chunks of windows: 64 MiB in memory.
const MAX_SAMPLES: usize = 1 << 22;
/// Days with rows that were sealed lately; beyond, the oldest are merged without rest.
const REMEMBERED_DAYS: usize = 10_000;

/// What is known of days while the process lives.
#[derive(Default)]
pub(crate) struct Merger {
    job: Option<Job>,
    /// When chunks of a day's windows were written first and last since it was merged: late samples gather for a while.
    sealed: BTreeMap<i64, (i64, i64)>,
    /// Series that can't be merged: damaged, or too many samples.
    refused: BTreeMap<i64, RoaringBitmap>,
}

/// A day on its way.
struct Job {
    day: i64,
    /// What the day had before.
    had: Arc<RoaringBitmap>,
    windows: Vec<(i64, Arc<RoaringBitmap>)>,
    todo: RoaringBitmap,
    /// Series below are done.
    next: u32,
    /// Sealed again since the job began.
    resealed: RoaringBitmap,
    times: TimesWriter,
    roller: DayRoller,
    /// Whether the last part was rolled back.
    failed: bool,
}

impl Merger {
    /// Notes that chunks of `series` were written to a window of `day`.
    pub(crate) fn sealed(&mut self, day: i64, series: &RoaringBitmap, now: Timestamp) {
        self.sealed.entry(day).or_insert((now.0, now.0)).1 = now.0;
        while self.sealed.len() > REMEMBERED_DAYS {
            self.sealed.pop_first();
        }
        if let Some(job) = self.job.as_mut().filter(|job| job.day == day) {
            job.resealed |= series;
        }
    }

    /// The series of a day that can't be merged.
    pub(crate) fn refused(&self, day: i64) -> RoaringBitmap {
        self.refused.get(&day).cloned().unwrap_or_default()
    }

    /// Gives the day at hand up, as a kill would.
    pub(crate) fn abandon(&mut self) {
        self.job = None;
    }
}

impl Inner {
    /// Merges a part of the day at hand, or of the oldest one that may be merged.
    pub(crate) fn merge(&self, sealer: &mut Sealer, now: Timestamp, report: &mut SealReport) -> Result<(), SealError> {
        if sealer.merger.job.is_none() {
            let Some(day) = self.next_day(&sealer.merger, now) else { return Ok(()) };
            self.begin_day(sealer, day).map_err(SealError::Database)?;
        }
        let tombstones = read(&self.tombstones).clone();
        let Some(job) = sealer.merger.job.as_mut() else { return Ok(()) };
        if job.todo.range(job.next..).next().is_none() {
            return self.finish_day(sealer);
        }
        let written = (|| {
            if job.failed {
                job.times = TimesWriter::new(&sealer.connection, Level::Day, job.day)?;
                job.roller = DayRoller::new(&sealer.connection, &read(&self.rolled), job.day)?;
                job.failed = false;
            }
            let transaction = sealer.connection.transaction()?;
            let part = merge_part(&transaction, job, &tombstones)?;
            transaction.commit()?;
            Ok(part)
        })();
        match written {
            Ok(part) => {
                job.next = part.next;
                job.roller.publish(self);
                report.rollup_bytes += std::mem::take(&mut job.roller.bytes);
                report.merged_samples += part.samples;
                report.merged_bytes += part.bytes;
                if !part.refused.is_empty() {
                    *sealer.merger.refused.entry(job.day).or_default() |= part.refused;
                }
                Ok(())
            }
            Err(error) => {
                job.failed = true;
                Err(SealError::Database(error))
            }
        }
    }

    /// Whether there is something to merge now.
    pub(crate) fn may_merge(&self, sealer: &Sealer, now: Timestamp) -> bool {
        sealer.merger.job.is_some() || self.next_day(&sealer.merger, now).is_some()
    }

    /// The oldest day that is past, has chunks of windows, and has rested since the last of them.
    fn next_day(&self, merger: &Merger, now: Timestamp) -> Option<i64> {
        let refused = RoaringBitmap::new();
        let ready = |day: i64| {
            let end = self.window_start((day + 1).saturating_mul(WINDOWS_PER_DAY));
            let rested = merger.sealed.get(&day).is_none_or(|(first, last)| {
                let day_ms = self.window_ms * WINDOWS_PER_DAY;
                now.0 < *last || now.0.saturating_sub(*last) >= self.window_ms || now.0.saturating_sub(*first) >= day_ms
            });
            end.saturating_add(self.window_ms) <= now.0 && rested
        };
        let sealed = read(&self.sealed);
        let mut days = sealed.iter().filter(|(window, sealed)| {
            let refused = merger.refused.get(&window.div_euclid(WINDOWS_PER_DAY)).unwrap_or(&refused);
            !sealed.series.is_subset(refused)
        });
        days.find(|(window, _)| ready(window.div_euclid(WINDOWS_PER_DAY))).map(|(w, _)| w.div_euclid(WINDOWS_PER_DAY))
    }

    /// Makes readers look into the day for every series that will move there.
    fn begin_day(&self, sealer: &mut Sealer, day: i64) -> rusqlite::Result<()> {
        let first = day * WINDOWS_PER_DAY;
        let windows: Vec<(i64, Arc<RoaringBitmap>)> = read(&self.sealed)
            .range(first..first + WINDOWS_PER_DAY)
            .map(|(window, sealed)| (*window, Arc::clone(&sealed.series)))
            .collect();
        let mut todo = windows.iter().fold(RoaringBitmap::new(), |all, (_, series)| all | &**series);
        if let Some(refused) = sealer.merger.refused.get(&day) {
            todo -= refused;
        }
        let times = TimesWriter::new(&sealer.connection, Level::Day, day)?;
        let had = read(&self.days).get(&day).cloned().unwrap_or_default();
        let roller = DayRoller::new(&sealer.connection, &read(&self.rolled), day)?;
        // What comes late where retention took the samples goes too: the day does not begin again for it.
        let all = &*had | (&todo - read(&self.rolled).any(day));
        let transaction = sealer.connection.transaction()?;
        chunks::put_day(&transaction, day, &all)?;
        transaction.commit()?;
        write(&self.days).insert(day, Arc::new(all));
        let (next, resealed) = (0, RoaringBitmap::new());
        sealer.merger.job = Some(Job { day, had, windows, todo, next, resealed, times, roller, failed: false });
        Ok(())
    }

    /// Takes what moved out of the lists of the windows.
    fn finish_day(&self, sealer: &mut Sealer) -> Result<(), SealError> {
        let Sealer { connection, merger, .. } = &mut *sealer;
        let Some(job) = &merger.job else { return Ok(()) };
        let refused = merger.refused.get(&job.day).cloned().unwrap_or_default();
        let moved = &job.todo - &refused - &job.resealed;
        let mut days = write(&self.days);
        let left: Vec<(i64, Sealed)> = {
            let sealed = read(&self.sealed);
            let of = |(window, _): &(i64, Arc<RoaringBitmap>)| {
                let sealed = sealed.get(window)?;
                Some((*window, Sealed { through: sealed.through, series: Arc::new(&*sealed.series - &moved) }))
            };
            job.windows.iter().filter_map(of).collect()
        };
        let there = days.get(&job.day).cloned().unwrap_or_default();
        let there = Arc::new(&*there - (&refused - &*job.had));
        let finished = (|| {
            let transaction = connection.transaction()?;
            for (window, sealed) in &left {
                chunks::put_window(&transaction, *window, sealed)?;
                if sealed.series.is_empty() {
                    let range = [row(*window, 0), row(*window, u32::MAX)];
                    transaction.execute("DELETE FROM times WHERE id BETWEEN ?1 AND ?2", range)?;
                }
            }
            chunks::put_day(&transaction, job.day, &there)?;
            transaction.commit()
        })();
        finished.map_err(SealError::Database)?;
        write(&self.sealed).extend(left);
        if there.is_empty() {
            days.remove(&job.day);
        } else {
            days.insert(job.day, there);
        }
        drop(days);
        if job.resealed.is_empty() {
            merger.sealed.remove(&job.day);
        }
        merger.job = None;
        self.forget_windows(sealer)
    }
}

/// What a call did.
#[derive(Default)]
struct Part {
    next: u32,
    samples: u64,
    bytes: u64,
    refused: RoaringBitmap,
}

fn merge_part(transaction: &Transaction<'_>, job: &mut Job, tombstones: &Tombstones) -> rusqlite::Result<Part> {
    let mut from_window = transaction.prepare("SELECT data FROM chunk WHERE id = ?1")?;
    let mut from_day = transaction.prepare("SELECT data FROM day_chunk WHERE id = ?1")?;
    let mut put = transaction.prepare("INSERT OR REPLACE INTO day_chunk VALUES (?1, ?2)")?;
    let mut delete = transaction.prepare("DELETE FROM chunk WHERE id = ?1")?;
    let mut delete_day = transaction.prepare("DELETE FROM day_chunk WHERE id = ?1")?;
    let (mut reader, mut scratch) = (TimesReader::default(), ReadScratch::default());
    // The column of the series before: series of one target mostly have the same.
    let mut times: Arc<[i64]> = Arc::default();
    let mut part = Part { next: job.next, ..Part::default() };
    let ids: Vec<u32> = job.todo.range(job.next..).take(SERIES_PER_CALL).collect();
    for id in ids {
        if part.samples >= SAMPLES_PER_CALL {
            break;
        }
        // No series has the greatest number.
        part.next = id.saturating_add(1);
        let ReadScratch { samples, values, codec } = &mut scratch;
        samples.clear();
        // What the day has comes first: of a repeat what was sealed first stays.
        let day = job.had.contains(id).then_some((Level::Day, job.day));
        let windows: Vec<i64> = job.windows.iter().filter(|(_, s)| s.contains(id)).map(|(window, _)| *window).collect();
        let mut read = |(level, unit): (Level, i64)| {
            let source = if level == Level::Day { &mut from_day } else { &mut from_window };
            append(transaction, source, &mut reader, (level, unit, id), samples)
        };
        let mut found = Ok(0);
        let mut in_day = 0;
        for place in day.into_iter().chain(windows.iter().map(|window| (Level::Window, *window))) {
            found = match (found, read(place)?) {
                (Ok(before), Ok(now)) if before + now <= MAX_SAMPLES => Ok(before + now),
                (Ok(_), Ok(_)) => Err("it has too many samples".to_owned()),
                (Ok(_), Err(damage)) | (Err(damage), _) => Err(damage),
            };
            match found {
                Ok(all) if place.0 == Level::Day => in_day = all,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if let Err(reason) = found {
            tracing::error!(series = id, day = job.day, %reason, "chunks can't be merged and stay as they are");
            part.refused.insert(id);
            continue;
        }
        // Moved before a kill: only the lists are behind.
        if samples.len() == in_day {
            continue;
        }
        if !samples.is_sorted_by(|a, b| a.0 < b.0) {
            merge_samples(samples);
        }
        part.samples += samples.len() as u64;
        // Roll-ups without samples are final, see `rollup`.
        let expired = in_day == 0 && job.roller.has(id);
        if expired {
            samples.clear();
        }
        tombstones.strike(id, samples);
        values.clear();
        values.extend(samples.iter().map(|s| s.1));
        if !times.iter().copied().eq(samples.iter().map(|s| s.0)) {
            times = samples.iter().map(|s| s.0).collect();
        }
        if samples.is_empty() {
            // All of it is deleted; the list of the day may name what is not there.
            delete_day.execute(params![row(job.day, id)])?;
            if !expired {
                job.roller.remove(transaction, id)?;
            }
        } else {
            let place = (job.day, id);
            part.bytes += chunks::put_chunk(transaction, &mut put, &mut job.times, place, &times, values, codec)?;
            job.roller.put(transaction, id, (&times, values), codec)?;
        }
        for window in windows {
            delete.execute(params![row(window, id)])?;
        }
    }
    job.roller.put_lists(transaction)?;
    Ok(part)
}

/// Appends the samples of a chunk, if it is there, and gives their number, or what is wrong with it.
fn append(
    transaction: &Transaction<'_>,
    source: &mut Statement<'_>,
    reader: &mut TimesReader,
    (level, unit, id): (Level, i64, u32),
    samples: &mut Vec<(i64, f64)>,
) -> rusqlite::Result<Result<usize, String>> {
    let Some(data) = source.query_row([row(unit, id)], |r| r.get::<_, Vec<u8>>(0)).optional()? else {
        return Ok(Ok(0));
    };
    match reader.chunk(transaction, level, (unit, id), &data) {
        Ok((times, values)) => {
            samples.extend(times.iter().copied().zip(values));
            Ok(Ok(times.len()))
        }
        Err(ChunkError::Database(error)) => Err(error),
        Err(ChunkError::Damaged(damage)) => Ok(Err(damage.to_string())),
    }
}
