//! Roll-ups in the place of samples: where the answer is the same and far cheaper, and where samples are gone.
//!
//! The rule. A bucket of length R stands for the samples in `(end - R, end]`, as a window of that range at `end` has them.
//! - *The same answer.* Where every window of a plain range selector begins and ends at multiples of R (range, step and the
//!   first end are), it is a union of buckets. `min`, `max`, `count`, `present`, `first`, `last`, `ts_of_first` and
//!   `ts_of_last_over_time` of it are then equal to those of samples; `sum` and `avg_over_time`, `rate`, `increase` and `delta`
//!   within rounding: 1e-9 of the largest number that is added. The source's resolution is taken for what spans at least
//!   [`WORTHWHILE_MS`]. No remark is made.
//! - *The best answer.* Where a storage that keeps roll-ups longer than samples has no samples for a part of what a selector
//!   asks, the windows of the functions above that begin in that part are answered by buckets all the same, their edges moved
//!   back to multiples of R and at least one bucket long; `sum`, `count` and `increase` by the length that was asked for. Everything
//!   else (instant selectors, other functions) takes the last value of each bucket for a sample, good for R longer than
//!   the lookback. An info says so, with R and the moment from which on there are samples.
//! - Samples answer whatever is left.
//!
//! What it deliberately does not do: look at series one by one. One that is without samples makes all windows of a
//! selector begin at multiples of R where it has none.

use std::collections::HashMap;
use std::ops::ControlFlow;

use veghe_model::{Bucket, Expired, RollupSeries, SeriesData, Timestamp};

use super::extrapolation::{Ends, Extrapolation, extrapolate_ends};
use super::fold::Made;
use super::numerics::kahan;
use super::select::Ends as WindowEnds;
use super::{ABSENT, Engine, Evaluated, Row, Steps, dates, is_absent};
use crate::EvalError;
use crate::ast::{Edges, Expr, ExprKind, Selector};
use crate::duration::Zero;

/// Less is read from samples as fast.
const WORTHWHILE_MS: i64 = 86_400_000;
/// What a bucket takes in memory, in samples.
const SAMPLES_PER_BUCKET: usize = 5;

/// A function of windows that buckets answer.
#[derive(Clone, Copy, PartialEq)]
enum Rolled {
    Min,
    Max,
    Sum,
    Avg,
    Count,
    Present,
    First,
    Last,
    MomentOfFirst,
    MomentOfLast,
    Extrapolated(Extrapolation),
}

impl Rolled {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "min_over_time" => Self::Min,
            "max_over_time" => Self::Max,
            "sum_over_time" => Self::Sum,
            "avg_over_time" => Self::Avg,
            "count_over_time" => Self::Count,
            "present_over_time" => Self::Present,
            "first_over_time" => Self::First,
            "last_over_time" => Self::Last,
            "ts_of_first_over_time" => Self::MomentOfFirst,
            "ts_of_last_over_time" => Self::MomentOfLast,
            "rate" => Self::Extrapolated(Extrapolation::Rate),
            "increase" => Self::Extrapolated(Extrapolation::Increase),
            "delta" => Self::Extrapolated(Extrapolation::Delta),
            _ => return None,
        })
    }

    fn keeps_name(self) -> bool {
        matches!(self, Self::First | Self::Last)
    }
}

/// A part of what a selector asks that has no samples.
#[derive(Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) until_ms: i64,
    pub(crate) resolution_ms: i64,
}

impl Gone {
    /// How much longer a value is good that stands for a bucket.
    pub(crate) fn longer_ms(gone: Option<Self>, timestamp_ms: i64) -> i64 {
        gone.filter(|gone| timestamp_ms < gone.until_ms).map_or(0, |gone| gone.resolution_ms)
    }
}

/// The windows of a call.
struct Plan<'a> {
    selector: &'a Selector,
    function: Rolled,
    range_ms: i64,
    ends: WindowEnds,
    resolution_ms: i64,
    /// Whether windows begin and end where buckets do.
    aligned: bool,
}

impl Plan<'_> {
    /// The bounds of a window in buckets: its end, and what it is after.
    fn window(&self, end_ms: i64) -> (i64, i64) {
        let whole = |time_ms: i64| time_ms - time_ms.rem_euclid(self.resolution_ms);
        let end = whole(end_ms);
        (whole(end_ms - self.range_ms).min(end - self.resolution_ms), end)
    }
}

impl Engine<'_> {
    /// A function of windows, from roll-ups as far as the rule says; none where samples answer all of it.
    pub(crate) fn rolled_function(&self, name: &str, args: &[Expr], steps: Steps) -> Evaluated<Option<Vec<Row>>> {
        let (Some(function), [arg]) = (Rolled::of(name), args) else { return Ok(None) };
        let ExprKind::Matrix { selector, range } = &arg.unparen().kind else { return Ok(None) };
        let Some(kept) = self.source.rollup_resolution() else { return Ok(None) };
        if selector.edges != Edges::Plain || steps.count == 0 {
            return Ok(None);
        }
        let kept_ms = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX).max(1);
        let range_ms = self.length_ms(range, Zero::Refused)?;
        let ends = self.ends(&selector.when)?;
        let (first_ms, last_ms) = ends.bounds(steps);
        let after_ms = first_ms - range_ms;
        let aligned = |resolution_ms: i64| {
            let moves = first_ms != last_ms;
            let whole = |ms: i64| ms.rem_euclid(resolution_ms) == 0;
            whole(range_ms) && whole(first_ms) && (!moves || whole(steps.step_ms))
        };
        let mut plan = Plan { selector, function, range_ms, ends, resolution_ms: kept_ms, aligned: true };
        if aligned(kept_ms) && (last_ms - after_ms >= WORTHWHILE_MS || self.gone(selector, after_ms, last_ms).is_some())
        {
            return self.of_buckets(arg, &plan, steps);
        }
        let Some(gone) = self.gone(selector, after_ms, last_ms) else { return Ok(None) };
        plan.resolution_ms = gone.resolution_ms;
        plan.aligned = aligned(gone.resolution_ms);
        // The windows that begin where samples are gone: the first ones, as windows only move on.
        let early = steps.times_ms().take_while(|time| ends.end_ms(*time) - range_ms + 1 < gone.until_ms).count();
        let before = Steps { count: early, ..steps };
        let after = Steps { start_ms: steps.time_ms(early), count: steps.count - early, ..steps };
        let Some(rows) = self.of_buckets(arg, &plan, before)? else { return Err(EvalError::TooManySamples) };
        if !plan.aligned {
            let resolution = length(gone.resolution_ms);
            let until = dates::rfc3339(gone.until_ms);
            self.info(arg, &format!(
                "samples before {until} are gone; of their roll-ups windows begin and end at multiples of {resolution}"
            ));
        }
        if after.count == 0 {
            return Ok(Some(rows));
        }
        // Rows that are of a part of the steps are of no use to whom takes whole ones.
        drop(self.fold.take());
        let rest = self.sampled_function(name, args, after).unwrap_or_else(|| Ok(Vec::new()))?;
        self.one_after_the_other(rows, rest, steps.count).map(Some)
    }

    /// Rows whose columns are those of two stretches of steps.
    fn one_after_the_other(&self, first: Vec<Row>, second: Vec<Row>, count: usize) -> Evaluated<Vec<Row>> {
        let early =
            first.first().map(|row| row.values.len()).or_else(|| second.first().map(|r| count - r.values.len()));
        let Some(early) = early else { return Ok(Vec::new()) };
        let mut rows = first;
        let mut at: HashMap<_, usize> = rows.iter().enumerate().map(|(at, row)| (row.labels.clone(), at)).collect();
        for row in second {
            if let Some(at) = at.remove(&row.labels) {
                rows[at].values.extend(row.values);
            } else {
                self.charge(early)?;
                let values = std::iter::repeat_n(ABSENT, early).chain(row.values).collect();
                rows.push(Row { values, ..row });
            }
        }
        for row in rows.iter_mut().filter(|row| row.values.len() < count) {
            self.charge(count - row.values.len())?;
            row.values.resize(count, ABSENT);
        }
        rows.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(rows)
    }

    /// The rows of a plan; none where there are too many buckets.
    fn of_buckets(&self, arg: &Expr, plan: &Plan<'_>, steps: Steps) -> Evaluated<Option<Vec<Row>>> {
        let (first_ms, last_ms) = plan.ends.bounds(steps);
        let ((after_ms, _), (_, until_ms)) = (plan.window(first_ms), plan.window(last_ms));
        let Some(series) = self.buckets(plan.selector, after_ms.saturating_add(1), until_ms, plan.resolution_ms)?
        else {
            return Ok(None);
        };
        let mut rows = Vec::with_capacity(series.len());
        let mut looked_at = vec![0; steps.count];
        for one in series {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            let (mut from, mut to, mut any) = (0, 0, false);
            for (step, value) in values.iter_mut().enumerate() {
                let end_ms = plan.ends.end_ms(steps.time_ms(step));
                let (start, end) = plan.window(end_ms);
                while one.ends.get(to).is_some_and(|t| *t <= end) {
                    to += 1;
                }
                while from < to && one.ends[from] <= start {
                    from += 1;
                }
                looked_at[step] += (to - from) as u64;
                if let Some(found) = value_of(plan, &one.buckets[from..to], (start, end)) {
                    *value = found;
                    any = true;
                }
            }
            self.release(one.buckets.len() * SAMPLES_PER_BUCKET);
            if !any {
                self.release(steps.count);
                continue;
            }
            if matches!(plan.function, Rolled::Extrapolated(Extrapolation::Rate | Extrapolation::Increase)) {
                self.note_possible_non_counter(arg, one.labels.metric_name());
            }
            rows.push(Row { labels: one.labels, values, drop_name: false });
        }
        self.count_looked_at(steps, &looked_at);
        if plan.function.keeps_name() { Ok(Some(rows)) } else { self.drop_names(rows).map(Some) }
    }

    /// The buckets that end in `[start, end]`, counted as held; none where there are too many.
    fn buckets(
        &self,
        selector: &Selector,
        start_ms: i64,
        end_ms: i64,
        resolution_ms: i64,
    ) -> Evaluated<Option<Vec<RollupSeries>>> {
        let room = self.room() / SAMPLES_PER_BUCKET;
        let resolution = std::time::Duration::from_millis(resolution_ms.unsigned_abs());
        let (start, end) = (Timestamp(start_ms), Timestamp(end_ms));
        let found = self.source.rollups(&selector.matchers, start, end, resolution, room).map_err(EvalError::Source)?;
        let Some(series) = found else { return Ok(None) };
        let count: usize = series.iter().map(|series| series.buckets.len()).sum();
        self.charge(count * SAMPLES_PER_BUCKET)?;
        self.read.set(self.read.get() + count as u64);
        Ok(Some(series))
    }

    /// What of `(after, until]` has roll-ups and no samples.
    pub(crate) fn gone(&self, selector: &Selector, after_ms: i64, until_ms: i64) -> Option<Gone> {
        let (start, end) = (Timestamp(after_ms.saturating_add(1)), Timestamp(until_ms));
        let Expired { until, resolution } = self.source.expired(&selector.matchers, start, end)?;
        let resolution_ms = i64::try_from(resolution.as_millis()).ok().filter(|ms| *ms > 0)?;
        Some(Gone { until_ms: until.0, resolution_ms })
    }

    /// As [`Self::stream`], of what [`Self::fill_gone`] makes of samples and roll-ups.
    pub(crate) fn stream_filled<T>(
        &self,
        selector: &Selector,
        gone: Gone,
        (after_ms, until_ms): (i64, i64),
        f: &dyn Fn(usize, SeriesData) -> Made<T>,
    ) -> Evaluated<Vec<T>> {
        let (start, end) = (Timestamp(after_ms.saturating_add(1)), Timestamp(until_ms));
        let room = self.room();
        let series = self.source.select_at_most(&selector.matchers, start, end, room).map_err(EvalError::Source)?;
        let series = series.ok_or(EvalError::TooManySamples)?;
        let samples: usize = series.iter().map(SeriesData::len).sum();
        self.charge(samples)?;
        self.read.set(self.read.get() + samples as u64);
        let mut made = Vec::with_capacity(series.len());
        for (place, one) in self.fill_gone(selector, gone, (after_ms, until_ms), series)?.into_iter().enumerate() {
            self.check_stop()?;
            self.release(one.len());
            match f(place, one) {
                ControlFlow::Continue(Some((kept, size))) => {
                    self.charge(size)?;
                    made.push(kept);
                }
                ControlFlow::Continue(None) => {}
                ControlFlow::Break(error) => return Err(error),
            }
        }
        Ok(made)
    }

    /// Puts the last value of each bucket before the samples of series that have none there.
    fn fill_gone(
        &self,
        selector: &Selector,
        gone: Gone,
        (after_ms, until_ms): (i64, i64),
        series: Vec<SeriesData>,
    ) -> Evaluated<Vec<SeriesData>> {
        let resolution_ms = gone.resolution_ms;
        let end_ms = until_ms.min(gone.until_ms).saturating_add(resolution_ms - 1);
        let Some(rolled) = self.buckets(selector, after_ms.saturating_add(1), end_ms, resolution_ms)? else {
            return Err(EvalError::TooManySamples);
        };
        let held: usize = rolled.iter().map(|series| series.buckets.len()).sum();
        let mut sampled: HashMap<_, SeriesData> = series.into_iter().map(|s| (s.labels.clone(), s)).collect();
        let mut filled = Vec::with_capacity(rolled.len().max(sampled.len()));
        for one in rolled {
            let there = sampled.remove(&one.labels);
            let first_ms = there.as_ref().and_then(|s| s.timestamps.first().copied()).unwrap_or(i64::MAX);
            let before_ms = first_ms.min(gone.until_ms).min(until_ms.saturating_add(1));
            let mut samples = Vec::new();
            for (end, bucket) in one.ends.iter().zip(&one.buckets) {
                if bucket.count > 0 {
                    samples.push((bucket.last_time, bucket.last));
                }
                if bucket.stale {
                    samples.push((*end, ABSENT));
                }
            }
            samples.retain(|(time, _)| *time > after_ms && *time < before_ms);
            self.charge(samples.len())?;
            let rest = there.iter().flat_map(|s| s.timestamps.iter().copied().zip(s.values.iter().copied()));
            let (timestamps, values): (Vec<i64>, Vec<f64>) = samples.into_iter().chain(rest).unzip();
            if !values.is_empty() {
                filled.push(SeriesData { labels: one.labels, timestamps: timestamps.into(), values });
            }
        }
        self.release(held * SAMPLES_PER_BUCKET);
        filled.extend(sampled.into_values());
        filled.sort_by(|a, b| a.labels.cmp(&b.labels));
        let (resolution, until) = (length(resolution_ms), dates::rfc3339(gone.until_ms));
        self.info_of_selector(
            selector,
            &format!("samples before {until} are gone; the last value of each {resolution} stands for them"),
        );
        Ok(filled)
    }
}

/// `1h`, `5m`.
fn length(ms: i64) -> String {
    if ms % 3_600_000 == 0 { format!("{}h", ms / 3_600_000) } else { format!("{}m", ms / 60_000) }
}

/// What the buckets of a window amount to.
fn value_of(plan: &Plan<'_>, buckets: &[Bucket], (start_ms, end_ms): (i64, i64)) -> Option<f64> {
    let live = || buckets.iter().filter(|bucket| bucket.count > 0);
    let (first, last) = (live().next()?, live().next_back()?);
    let count: f64 = live().map(|bucket| f64::from(bucket.count)).sum();
    // By the length that was asked for, where windows begin and end elsewhere.
    let scale = if plan.aligned { 1.0 } else { plan.range_ms as f64 / (end_ms - start_ms) as f64 };
    let value = match plan.function {
        Rolled::Min => live().fold(first.min, |m, b| if b.min < m || m.is_nan() { b.min } else { m }),
        Rolled::Max => live().fold(first.max, |m, b| if b.max > m || m.is_nan() { b.max } else { m }),
        Rolled::Sum => sum(live()) * scale,
        Rolled::Avg => mean(live(), count),
        Rolled::Count => count * scale,
        Rolled::Present => 1.0,
        Rolled::First => first.first,
        Rolled::Last => last.last,
        Rolled::MomentOfFirst => first.first_time as f64 / 1000.0,
        Rolled::MomentOfLast => last.last_time as f64 / 1000.0,
        Rolled::Extrapolated(kind) => {
            if count < 2.0 {
                return None;
            }
            let ends = Ends { first: (first.first_time, first.first), last: (last.last_time, last.last), count };
            let mut before: Option<f64> = None;
            let lost = live().flat_map(|bucket| {
                let fell = before.filter(|before| bucket.first < *before);
                before = Some(bucket.last);
                fell.into_iter().chain([bucket.resets])
            });
            let lost = lost.take(if kind == Extrapolation::Delta { 0 } else { usize::MAX });
            let range_ms = end_ms - start_ms;
            let value = extrapolate_ends(ends, lost, end_ms, range_ms, kind);
            if kind == Extrapolation::Rate { value } else { value * scale }
        }
    };
    (!is_absent(value)).then_some(value)
}

fn sum<'a>(buckets: impl Iterator<Item = &'a Bucket>) -> f64 {
    let (sum, lost) = buckets.fold((0.0, 0.0), |(sum, lost), bucket| kahan(bucket.sum, sum, lost));
    if f64::is_infinite(sum) { sum } else { sum + lost }
}

/// The mean; of parts, where the sum of all would be too large for a number.
fn mean<'a>(buckets: impl Iterator<Item = &'a Bucket> + Clone, count: f64) -> f64 {
    let whole = sum(buckets.clone());
    if whole.is_finite() || buckets.clone().any(|bucket| !bucket.sum.is_finite()) {
        return whole / count;
    }
    buckets.map(|bucket| bucket.sum / count).sum()
}
