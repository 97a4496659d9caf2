//! Roll-ups: what aligned buckets of samples amount to, from their rows where days have them, else from samples.
//!
//! Invariants: an answer stands for everything committed so far. A row answers for a series and day only where nothing
//! is in the head or in windows of that day, and no deletion touches it; otherwise the samples do, as long as there are
//! any. Days are read one by one, so that a range of years needs memory for its buckets and one day of samples.

mod bucket;
mod rows;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use veghe_model::{Bucket, Expired, Matcher, RollupSeries, Timestamp};

use crate::ReadError;
use crate::chunks::{ChunkError, Level, Resolution, WINDOWS_PER_DAY, take_snapshot};
use crate::select::{ReadFailure, Span, read_chunks};
use crate::store::{Inner, read};
use bucket::{append, end_of_bucket, roll};

pub(crate) use bucket::{rolled, same_buckets};
pub(crate) use rows::RowReader;
pub(crate) use write::{Catcher, DayRoller, Finest, Rolled};

/// Farther from 1970 than any sample, and still far from where sums overflow.
const LIMIT_MS: i64 = 1 << 60;

/// Samples are read for about this long at once.
const TOGETHER_MS: i64 = 86_400_000;

/// What answers for which series of a day.
struct DayPlan {
    day: i64,
    stored: RoaringBitmap,
    /// Of those, the ones that have no samples any more.
    gone: RoaringBitmap,
    raw: RoaringBitmap,
}

/// The buckets of a series and day.
struct Part {
    ends: Arc<[i64]>,
    buckets: Vec<Bucket>,
}

impl Inner {
    /// `None` where there are more than `max_buckets`.
    pub(crate) fn rollups(
        &self,
        matchers: &[Matcher],
        (start, end): (Timestamp, Timestamp),
        resolution: Resolution,
        max_buckets: usize,
    ) -> Result<Option<Vec<RollupSeries>>, ReadError> {
        let length = resolution.ms();
        let (start, end) = (start.0.clamp(-LIMIT_MS, LIMIT_MS), end.0.clamp(-LIMIT_MS, LIMIT_MS));
        let (first, last) = (end_of_bucket(start, length), end - end.rem_euclid(length));
        if first > last {
            return Ok(Some(Vec::new()));
        }
        let found = read(&self.index).select(matchers);
        let (from, to) = (first - length + 1, last);
        let mut parts: BTreeMap<u32, BTreeMap<i64, Part>> = BTreeMap::new();
        let plans = self.stored_parts(&found, (from, to), resolution, max_buckets, &mut parts)?;
        let Some(plans) = plans else { return Ok(None) };
        let mut count: usize = parts.values().flat_map(BTreeMap::values).map(|part| part.buckets.len()).sum();
        // Short days of the same series are read together.
        let together = |a: &DayPlan, b: &DayPlan| {
            a.day.div_euclid(self.days_together()) == b.day.div_euclid(self.days_together()) && a.raw == b.raw
        };
        for days in plans.chunk_by(together) {
            let [plan, ..] = days else { continue };
            if plan.raw.is_empty() {
                continue;
            }
            let (day_start, _) = self.day_range(plan.day);
            let (_, day_end) = self.day_range(days.last().unwrap_or(plan).day);
            let span = Span { start: from.max(day_start), end: to.min(day_end) };
            for (id, times, values) in self.select_ids(&plan.raw, span)? {
                let (mut ends, mut buckets) = (Vec::new(), Vec::new());
                roll(&times, &values, length, &mut ends, &mut buckets);
                count += buckets.len();
                parts.entry(id).or_default().insert(plan.day, Part { ends: ends.into(), buckets });
            }
            if count > max_buckets {
                return Ok(None);
            }
        }
        Ok(Some(self.joined(parts, first, last)))
    }

    /// Whether rows answer for at least half of what these series have in the range, or for what has no samples any more.
    pub(crate) fn rolled_up(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> bool {
        if self.expired(matchers, start, end).is_some() {
            return true;
        }
        let found = read(&self.index).select(matchers);
        let between =
            self.window_of(start.0).div_euclid(WINDOWS_PER_DAY)..=self.window_of(end.0).div_euclid(WINDOWS_PER_DAY);
        if between.is_empty() {
            return false;
        }
        let days = read(&self.days);
        let rolled = read(&self.rolled);
        let rolled = rolled.of(Resolution::Hour);
        let days = days.range(between).map(|(day, series)| {
            let with = rolled.get(day).map_or(0, |list| list.intersection_len(&found));
            (with, series.intersection_len(&found))
        });
        let (with, all) = days.fold((0, 0), |(with, all), day| (with + day.0, all + day.1));
        with > 0 && with * 2 >= all
    }

    /// Reads the rows that answer; gives what each day's plan is, or nothing where there are too many buckets.
    fn stored_parts(
        &self,
        found: &RoaringBitmap,
        (from, to): (i64, i64),
        resolution: Resolution,
        max_buckets: usize,
        parts: &mut BTreeMap<u32, BTreeMap<i64, Part>>,
    ) -> Result<Option<Vec<DayPlan>>, ReadError> {
        let tombstones = read(&self.tombstones).clone();
        // The head before the lists: a window is listed as sealed before it leaves the head.
        let mut unmerged = self.head_by_day(from, to);
        let days = read(&self.days);
        let windows = self.window_of(from)..=self.window_of(to);
        for (window, sealed) in read(&self.sealed).range(windows.clone()) {
            *unmerged.entry(window.div_euclid(WINDOWS_PER_DAY)).or_default() |= &*sealed.series;
        }
        let between = windows.start().div_euclid(WINDOWS_PER_DAY)..=windows.end().div_euclid(WINDOWS_PER_DAY);
        let mut plans: BTreeMap<i64, DayPlan> = BTreeMap::new();
        {
            let rolled = read(&self.rolled);
            let lists = Resolution::ALL.iter().flat_map(|r| rolled.of(*r).range(between.clone()).map(|(day, _)| *day));
            let known = days.range(between.clone()).map(|(day, _)| *day).chain(unmerged.keys().copied()).chain(lists);
            for day in known {
                if plans.contains_key(&day) {
                    continue;
                }
                let nothing = RoaringBitmap::new();
                let merged = days.get(&day).map_or(&nothing, |series| &**series);
                let late = unmerged.get(&day).unwrap_or(&nothing);
                let (day_start, day_end) = self.day_range(day);
                let deleted = tombstones.series_between(day_start, day_end);
                let here = rolled.list(resolution, day) & found;
                let all_gone = (rolled.any(day) - merged) & found;
                let gone = &here & &all_gone;
                let stored = &gone | (here - late - deleted);
                let raw = ((merged | late) & found) - &stored - all_gone;
                plans.insert(day, DayPlan { day, stored, gone, raw });
            }
        }
        let mut reader = RowReader::default();
        let mut count = 0;
        let read_all = |connection: &rusqlite::Connection| {
            take_snapshot(connection)?;
            drop(days);
            for plan in plans.values().filter(|plan| !plan.stored.is_empty()) {
                read_chunks(connection, Level::Rollup(resolution), plan.day, &plan.stored, |id, data| {
                    let read = reader.row(connection, resolution, (plan.day, id), data);
                    let (mut ends, mut buckets) = read.map_err(|error| match error {
                        ChunkError::Database(error) => ReadFailure(ReadError::Database(error)),
                        ChunkError::Damaged(damage) => {
                            ReadFailure(self.corrupt(plan.day * WINDOWS_PER_DAY, id, damage))
                        }
                    })?;
                    if plan.gone.contains(id) {
                        tombstones.strike_buckets(id, &mut ends, &mut buckets);
                    }
                    count += buckets.len();
                    parts.entry(id).or_default().insert(plan.day, Part { ends, buckets });
                    Ok(())
                })?;
                if count > max_buckets {
                    break;
                }
            }
            Ok::<_, ReadFailure>(())
        };
        if plans.values().any(|plan| !plan.stored.is_empty()) {
            self.chunks.read(read_all)?;
        }
        Ok((count <= max_buckets).then(|| plans.into_values().collect()))
    }

    /// The series of the head, by day.
    pub(crate) fn head_by_day(&self, from: i64, to: i64) -> BTreeMap<i64, RoaringBitmap> {
        let windows = self.window_of(from)..=self.window_of(to);
        let mut found: BTreeMap<i64, RoaringBitmap> = BTreeMap::new();
        let head = read(&self.head);
        let frozen = head.frozen.iter().map(|frozen| (frozen.window, &frozen.content));
        let frozen = frozen.filter(|(window, _)| windows.contains(window));
        for (window, content) in head.windows.range(windows.clone()).map(|(w, c)| (*w, c)).chain(frozen) {
            *found.entry(window.div_euclid(WINDOWS_PER_DAY)).or_default() |= &content.series;
        }
        found
    }

    /// How many days are read at once where their samples answer: one, unless days are shorter than 24 h.
    fn days_together(&self) -> i64 {
        (TOGETHER_MS / (self.window_ms * WINDOWS_PER_DAY)).max(1)
    }

    /// The first and the last time stamp of a day.
    pub(crate) fn day_range(&self, day: i64) -> (i64, i64) {
        let start = self.window_start(day.saturating_mul(WINDOWS_PER_DAY));
        (start, start.saturating_add(self.window_ms * WINDOWS_PER_DAY - 1))
    }

    /// Puts each series' days together: buckets that end in `[first, last]`.
    fn joined(&self, parts: BTreeMap<u32, BTreeMap<i64, Part>>, first: i64, last: i64) -> Vec<RollupSeries> {
        let mut answer: Vec<RollupSeries> = Vec::with_capacity(parts.len());
        let index = read(&self.index);
        let mut shared: Arc<[i64]> = Arc::default();
        for (id, days) in parts {
            let (mut ends, mut buckets) = (Vec::new(), Vec::new());
            for part in days.into_values() {
                let from = part.ends.partition_point(|end| *end < first);
                let to = part.ends.partition_point(|end| *end <= last);
                append(&mut ends, &mut buckets, &part.ends[from..to], &part.buckets[from..to]);
            }
            if ends.is_empty() {
                continue;
            }
            // Series of one target mostly have the same buckets.
            if *shared != *ends {
                shared = ends.into();
            }
            answer.push(RollupSeries { labels: index.labels(id), ends: Arc::clone(&shared), buckets });
        }
        answer.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        answer
    }

    /// What of `[start, end]` retention took the samples of while it kept roll-ups.
    pub(crate) fn expired(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Option<Expired> {
        let (first, last) = (self.window_of(start.0), self.window_of(end.0));
        let between = first.div_euclid(WINDOWS_PER_DAY)..=last.div_euclid(WINDOWS_PER_DAY);
        if between.is_empty() {
            return None;
        }
        let days = read(&self.days);
        let rolled = read(&self.rolled);
        let gone = |(day, series): (&i64, &Arc<RoaringBitmap>)| {
            let gone = days.get(day).map_or_else(|| (**series).clone(), |there| &**series - &**there);
            (!gone.is_empty()).then_some((*day, gone))
        };
        // The coarsest roll-ups are kept longest.
        let mut gone = rolled.of(Resolution::Hour).range(between).filter_map(gone).peekable();
        gone.peek()?;
        let found = read(&self.index).select(matchers);
        let (mut until, mut resolution) = (None, Resolution::Minutes5);
        for (day, series) in gone {
            let series = series & &found;
            if series.is_empty() {
                continue;
            }
            until = Some(day);
            if !series.is_subset(&rolled.list(Resolution::Minutes5, day)) {
                resolution = Resolution::Hour;
            }
        }
        let until = Timestamp(self.day_range(until?).1.saturating_add(1));
        Some(Expired { until, resolution: std::time::Duration::from_millis(resolution.ms() as u64) })
    }
}
