//! Reads series for selectors: the latest value per step, and windows for range selectors and subqueries.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use veghe_model::{Labels, Need, SeriesData, Timestamp};

use super::fold::{Made, deliver};
use super::labels::without_metadata;
use super::rollups::Gone;
use super::{ABSENT, Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::{At, Edges, Expr, ExprKind, Length, Selector, When};
use crate::duration::Zero;

/// What an instant selector yields for the sample it finds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Yield {
    Value,
    /// The sample's own moment in seconds, for `timestamp()`.
    Moment,
    /// One.
    Presence,
    /// When the sample's count began, in seconds, for `start_timestamp()`; nothing where the source keeps no starts.
    Start,
}

impl Yield {
    fn need(self) -> Need {
        match self {
            Self::Moment | Self::Presence => Need::Presence,
            Self::Value | Self::Start => Need::Values,
        }
    }
}

/// Whether a function uses start timestamps.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Starts {
    Ignored,
    Wanted,
}

/// A range selector or subquery: where its samples are, and the window of each step.
pub(crate) struct Windows<'e> {
    pub(crate) frame: Frame,
    need: Need,
    input: Input<'e>,
}

impl Windows<'_> {
    /// The same, of whose samples only so much is needed.
    pub(crate) fn needing(self, need: Need) -> Self {
        Self { need, ..self }
    }
}

enum Input<'e> {
    /// Read series by series, when they are asked for.
    Selector(&'e Selector, Starts),
    /// What a subquery yielded.
    Series(Vec<Raw>),
}

/// The window of each step.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) range_ms: i64,
    /// What the window needs beyond its edges: with `anchored` and `smoothed` also samples outside.
    pub(crate) edges: Edges,
    before_ms: i64,
    after_ms: i64,
    ends: Ends,
}

/// Makes something of the series at a place in their order, and counts what each step looked at.
pub(crate) type Reduction<'f, T> = dyn Fn(&Frame, usize, Raw, &mut [u64]) -> Made<T> + Sync + 'f;

/// A series without staleness markers.
pub(crate) struct Raw {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) timestamps: Arc<[i64]>,
    pub(crate) values: Vec<f64>,
    /// When each sample's count began, where the source says so and the function asks.
    pub(crate) starts: Option<Vec<i64>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Ends {
    /// At each step, so much before it.
    Moving { offset_ms: i64 },
    /// The same at every step.
    Fixed { end_ms: i64 },
}

impl Ends {
    pub(crate) fn end_ms(self, step_time_ms: i64) -> i64 {
        match self {
            Self::Moving { offset_ms } => step_time_ms - offset_ms,
            Self::Fixed { end_ms } => end_ms,
        }
    }

    /// The first and the last end.
    pub(crate) fn bounds(self, steps: Steps) -> (i64, i64) {
        (self.end_ms(steps.start_ms), self.end_ms(steps.last_ms()))
    }
}

impl Frame {
    /// The windows of a plain range selector.
    #[cfg(test)]
    pub(crate) fn plain(range_ms: i64) -> Self {
        Self { range_ms, edges: Edges::Plain, before_ms: 0, after_ms: 0, ends: Ends::Moving { offset_ms: 0 } }
    }

    pub(crate) fn end_ms(&self, step_time_ms: i64) -> i64 {
        self.ends.end_ms(step_time_ms)
    }

    /// Calls `f` with step, its moment and the bounds of its window `(end - range, end]` in `raw`, in order of steps,
    /// where there is a sample in the window, and counts its samples. With `anchored` and `smoothed` the bounds are wider
    /// by the lookback.
    pub(crate) fn each(
        &self,
        raw: &Raw,
        steps: Steps,
        looked_at: &mut [u64],
        mut f: impl FnMut(usize, i64, std::ops::Range<usize>),
    ) {
        let (mut from, mut to) = (0, 0);
        let timestamps = &*raw.timestamps;
        for (step, looked_at) in looked_at.iter_mut().enumerate() {
            let time_ms = steps.time_ms(step);
            let end_ms = self.end_ms(time_ms);
            to = first_after(timestamps, to, end_ms + self.after_ms);
            from = first_after(&timestamps[..to], from, end_ms - self.range_ms - self.before_ms);
            if from < to {
                *looked_at += (to - from) as u64;
                f(step, time_ms, from..to);
            }
        }
    }
}

/// The first place from `at` on whose moment is after `limit_ms`. It is mostly near, and looked for far away only where not.
#[inline]
fn first_after(timestamps: &[i64], mut at: usize, limit_ms: i64) -> usize {
    const NEAR: usize = 8;
    let far = timestamps.len().min(at + NEAR);
    while at < far {
        if timestamps[at] > limit_ms {
            return at;
        }
        at += 1;
    }
    if at < timestamps.len() { far_after(timestamps, at, limit_ms) } else { at }
}

#[cold]
fn far_after(timestamps: &[i64], at: usize, limit_ms: i64) -> usize {
    at + timestamps[at..].partition_point(|t| *t <= limit_ms)
}

/// Counters of what steps looked at, one for each thread that is at work.
struct Counters {
    steps: usize,
    idle: Mutex<Vec<Vec<u64>>>,
}

impl Counters {
    fn new(steps: Steps) -> Self {
        Self { steps: steps.count, idle: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut [u64]) -> T) -> T {
        let lock = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = lock().pop();
        let mut counts = idle.unwrap_or_else(|| vec![0; self.steps]);
        let result = f(&mut counts);
        lock().push(counts);
        result
    }

    fn sum(self) -> Vec<u64> {
        let mut sum = vec![0; self.steps];
        for counts in self.idle.into_inner().unwrap_or_else(PoisonError::into_inner) {
            sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        sum
    }
}

impl Engine<'_> {
    pub(crate) fn ends(&self, when: &When) -> Evaluated<Ends> {
        let offset_ms = when.offset.as_ref().map_or(Ok(0), |offset| self.length_ms(offset, Zero::Allowed))?;
        Ok(match when.at {
            None => Ends::Moving { offset_ms },
            Some(At::Millis(ms)) => Ends::Fixed { end_ms: ms - offset_ms },
            Some(At::Start) => Ends::Fixed { end_ms: self.outer.start_ms - offset_ms },
            Some(At::End) => Ends::Fixed { end_ms: self.end_ms - offset_ms },
        })
    }

    pub(crate) fn lookback_ms(&self) -> i64 {
        i64::try_from(self.limits.lookback.as_millis()).unwrap_or(i64::MAX).min(super::MOMENT_MAX_MS)
    }

    /// What `f` makes of each series with samples in `(after, until]` and its place, ascending by labels: a series is read, reduced and
    /// dropped, by several threads where the source has them. What is kept is counted as held by this query; it is
    /// counted, and refused, the same however many threads there are.
    fn stream<T: Send>(
        &self,
        selector: &Selector,
        (after_ms, until_ms): (i64, i64),
        need: Need,
        f: &(dyn Fn(usize, SeriesData) -> Made<T> + Sync),
    ) -> Evaluated<Vec<T>> {
        self.check_stop()?;
        if let Some(gone) = self.gone(selector, after_ms, until_ms) {
            return self.stream_filled(selector, gone, (after_ms, until_ms), f);
        }
        let (start, end) = (Timestamp(after_ms.saturating_add(1)), Timestamp(until_ms));
        let room = self.room();
        let (read, held, longest) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let failed: Mutex<Option<EvalError>> = Mutex::new(None);
        let kept: Mutex<Vec<(usize, T)>> = Mutex::default();
        let fail = |error| {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            ControlFlow::Break(())
        };
        let stop = self.stop;
        let each = |place: usize, series: SeriesData| {
            // To ask the clock may take as long as a short series.
            if (place.is_multiple_of(16) || series.len() > 256) && stop() {
                return fail(EvalError::Stopped);
            }
            read.fetch_add(series.len() as u64, Relaxed);
            longest.fetch_max(series.len(), Relaxed);
            let made = match f(place, series) {
                ControlFlow::Continue(made) => made,
                ControlFlow::Break(error) => return fail(error),
            };
            if let Some((made, size)) = made {
                if held.fetch_add(size, Relaxed).saturating_add(size) > room {
                    return fail(EvalError::TooManySamples);
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((place, made));
            }
            ControlFlow::Continue(())
        };
        let told = self.source.select_each(&selector.matchers, start, end, need, room, &each);
        let told = told.map_err(EvalError::Source)?;
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        told.ok_or(EvalError::TooManySamples)?;
        let (held, longest) = (held.into_inner(), longest.into_inner());
        self.charge(held)?;
        // The longest series was there beside what is kept.
        self.charge(longest)?;
        self.release(longest);
        self.longest.set(longest);
        self.read.set(self.read.get() + read.into_inner());
        let mut kept = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        kept.sort_unstable_by_key(|(place, _)| *place);
        Ok(kept.into_iter().map(|(_, made)| made).collect())
    }

    pub(crate) fn instant_vector(&self, selector: &Selector, steps: Steps) -> Evaluated<Vec<Row>> {
        self.instant_vector_of(selector, steps, Yield::Value)
    }

    pub(crate) fn instant_vector_of(&self, selector: &Selector, steps: Steps, wanted: Yield) -> Evaluated<Vec<Row>> {
        self.instant_vector_within(selector, steps, wanted, (i64::MIN, i64::MAX))
    }

    /// The same, of the samples in `(after, until]` only.
    pub(crate) fn instant_vector_within(
        &self,
        selector: &Selector,
        steps: Steps,
        wanted: Yield,
        (not_before_ms, until_ms): (i64, i64),
    ) -> Evaluated<Vec<Row>> {
        if selector.edges == Edges::Smoothed && wanted == Yield::Value {
            return self.smoothed_vector(selector, steps);
        }
        let lookback_ms = self.lookback_ms();
        let ends = self.ends(&selector.when)?;
        let (first_ms, last_ms) = ends.bounds(steps);
        let (source, counters) = (self.source, Counters::new(steps));
        let mut after_ms = first_ms - lookback_ms;
        let gone = self.gone(selector, after_ms, last_ms);
        after_ms -= Gone::longer_ms(gone, after_ms);
        let (after_ms, last_ms) = (after_ms.max(not_before_ms), last_ms.min(until_ms));
        if after_ms >= last_ms {
            return Ok(Vec::new());
        }
        let fold = self.fold.take();
        let rows = self.stream(selector, (after_ms, last_ms), wanted.need(), &|place, one| {
            let starts = if wanted == Yield::Start { source.start_timestamps(&one) } else { None };
            let mut values = vec![ABSENT; steps.count];
            let any = counters.with(|looked_at| {
                let (mut next, mut any) = (0, false);
                for (step, value) in values.iter_mut().enumerate() {
                    let end_ms = ends.end_ms(steps.time_ms(step));
                    if steps.count == 1 {
                        next = one.timestamps.partition_point(|t| *t <= end_ms);
                    }
                    while one.timestamps.get(next).is_some_and(|t| *t <= end_ms) {
                        next += 1;
                    }
                    let Some(at) = next.checked_sub(1) else { continue };
                    // A marker says that the series ended; so does silence as long as the lookback.
                    let good_ms = lookback_ms + Gone::longer_ms(gone, one.timestamps[at]);
                    if one.timestamps[at] <= end_ms - good_ms || is_absent(one.values[at]) {
                        continue;
                    }
                    looked_at[step] += 1;
                    *value = match wanted {
                        Yield::Value => one.values[at],
                        Yield::Presence => 1.0,
                        Yield::Moment => one.timestamps[at] as f64 / 1000.0,
                        Yield::Start => starts.as_ref().map_or(ABSENT, |s| s[at] as f64 / 1000.0),
                    };
                    any |= !is_absent(*value);
                }
                any
            });
            let row = any.then_some(Row { labels: one.labels, values, drop_name: false });
            deliver(fold.as_deref(), place, row)
        })?;
        self.count_looked_at(steps, &counters.sum());
        Ok(rows)
    }

    /// `x smoothed`: at each step the line between the samples before and after it, or the last sample where none
    /// follows within the lookback.
    fn smoothed_vector(&self, selector: &Selector, steps: Steps) -> Evaluated<Vec<Row>> {
        let lookback_ms = self.lookback_ms();
        let frame = Frame {
            range_ms: 0,
            edges: Edges::Smoothed,
            before_ms: lookback_ms,
            after_ms: lookback_ms,
            ends: self.ends(&selector.when)?,
        };
        let windows = Windows { frame, need: Need::Values, input: Input::Selector(selector, Starts::Ignored) };
        self.columns(windows, steps, |frame, raw, values, looked_at| {
            frame.each(raw, steps, looked_at, |step, time_ms, window| {
                let at_ms = frame.end_ms(time_ms);
                let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window]);
                let next = t.partition_point(|t| *t < at_ms);
                values[step] = match next.checked_sub(1) {
                    _ if t.get(next) == Some(&at_ms) => v[next],
                    None => ABSENT,
                    Some(before) if next == t.len() => v[before],
                    Some(before) => interpolate((t[before], v[before]), (t[next], v[next]), at_ms, Falls::AreFalls),
                };
            });
        })
    }

    /// A row for each series, of the column that `f` fills; where it fills in nothing there is no row.
    pub(crate) fn columns(
        &self,
        windows: Windows<'_>,
        steps: Steps,
        f: impl Fn(&Frame, &Raw, &mut [f64], &mut [u64]) + Sync,
    ) -> Evaluated<Vec<Row>> {
        let fold = self.fold.take();
        self.reduce(windows, steps, &|frame, place, raw, looked_at| {
            let mut values = vec![ABSENT; steps.count];
            f(frame, &raw, &mut values, looked_at);
            let any = values.iter().any(|v| !is_absent(*v));
            deliver(fold.as_deref(), place, any.then_some(Row { labels: raw.labels, values, drop_name: raw.drop_name }))
        })
    }

    /// What `f` makes of each series of `windows`, ascending by labels.
    pub(crate) fn reduce<T: Send>(
        &self,
        windows: Windows<'_>,
        steps: Steps,
        f: &Reduction<'_, T>,
    ) -> Evaluated<Vec<T>> {
        let Windows { frame, need, input } = windows;
        let counters = Counters::new(steps);
        let made = match input {
            Input::Selector(selector, starts) => {
                let (first_ms, last_ms) = frame.ends.bounds(steps);
                let after_ms = first_ms - frame.range_ms - frame.before_ms;
                let source = self.source;
                self.stream(selector, (after_ms, last_ms + frame.after_ms), need, &|place, series| {
                    let starts = if starts == Starts::Wanted { source.start_timestamps(&series) } else { None };
                    let raw = without_markers(series, starts);
                    counters.with(|looked_at| f(&frame, place, raw, looked_at))
                })?
            }
            Input::Series(series) => {
                let mut made = Vec::with_capacity(series.len());
                for (place, raw) in series.into_iter().enumerate() {
                    self.check_stop()?;
                    let samples = raw.values.len();
                    let one = match counters.with(|looked_at| f(&frame, place, raw, looked_at)) {
                        ControlFlow::Continue(one) => one,
                        ControlFlow::Break(error) => return Err(error),
                    };
                    if let Some((one, size)) = one {
                        self.charge(size)?;
                        made.push(one);
                    }
                    self.release(samples);
                }
                made
            }
        };
        self.count_looked_at(steps, &counters.sum());
        Ok(made)
    }

    /// The windows of a range selector or subquery.
    pub(crate) fn windows<'e>(&self, expr: &'e Expr, steps: Steps) -> Evaluated<Windows<'e>> {
        self.windows_with(expr, steps, Starts::Ignored)
    }

    pub(crate) fn windows_with<'e>(&self, expr: &'e Expr, steps: Steps, starts: Starts) -> Evaluated<Windows<'e>> {
        match &expr.unparen().kind {
            ExprKind::Matrix { selector, range } => {
                let lookback_ms = self.lookback_ms();
                let frame = Frame {
                    range_ms: self.length_ms(range, Zero::Refused)?,
                    edges: selector.edges,
                    before_ms: if selector.edges == Edges::Plain { 0 } else { lookback_ms },
                    after_ms: if selector.edges == Edges::Smoothed { lookback_ms } else { 0 },
                    ends: self.ends(&selector.when)?,
                };
                Ok(Windows { frame, need: Need::Values, input: Input::Selector(selector, starts) })
            }
            ExprKind::Subquery { expr, range, step, when } => {
                let ends = self.ends(when)?;
                let range_ms = self.length_ms(range, Zero::Refused)?;
                let inner = self.subquery_steps(ends.bounds(steps), range_ms, step.as_ref())?;
                let rows = match inner {
                    Some(inner) => self.vector(expr, inner)?,
                    None => Vec::new(),
                };
                let times: Arc<[i64]> = inner.map_or_else(|| Arc::from([]), |inner| inner.times_ms().collect());
                let series = rows
                    .into_iter()
                    .map(|row| {
                        let before = row.values.len();
                        let series =
                            SeriesData { labels: row.labels, timestamps: Arc::clone(&times), values: row.values };
                        let raw = without_markers(series, None);
                        self.release(before - raw.values.len());
                        Raw { drop_name: row.drop_name, ..raw }
                    })
                    .filter(|raw| !raw.values.is_empty())
                    .collect();
                let frame = Frame { range_ms, edges: Edges::Plain, before_ms: 0, after_ms: 0, ends };
                Ok(Windows { frame, need: Need::Values, input: Input::Series(series) })
            }
            _ => Err(EvalError::Execution("range vector expected".to_owned())),
        }
    }

    /// Multiples of the subquery's step in `(first - range, last]`; `None` where there is none.
    fn subquery_steps(
        &self,
        (first_ms, last_ms): (i64, i64),
        range_ms: i64,
        step: Option<&Length>,
    ) -> Evaluated<Option<Steps>> {
        // Without a step Prometheus takes its global evaluation interval, a minute unless configured.
        let step_ms = step.map_or(Ok(60_000), |step| self.length_ms(step, Zero::Refused))?;
        let after_ms = first_ms - range_ms;
        let start_ms = (after_ms.div_euclid(step_ms) + 1) * step_ms;
        if start_ms > last_ms {
            return Ok(None);
        }
        let count = usize::try_from((last_ms - start_ms) / step_ms + 1).unwrap_or(usize::MAX);
        if count > self.limits.max_samples {
            return Err(EvalError::TooManySamples);
        }
        Ok(Some(Steps { start_ms, step_ms, count }))
    }

    /// A range vector as the result of an instant query.
    pub(crate) fn raw_matrix(&self, expr: &Expr) -> Evaluated<Vec<SeriesData>> {
        let windows = self.windows(expr, self.outer)?;
        let steps = self.outer;
        let mut matrix = self.reduce(windows, steps, &|frame, _, raw, looked_at| {
            let mut found = None;
            frame.each(&raw, steps, looked_at, |_, time_ms, window| {
                let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window]);
                let end_ms = frame.end_ms(time_ms);
                let (timestamps, values) = match frame.edges {
                    Edges::Plain => (t.to_vec(), v.to_vec()),
                    edges => with_edges(t, v, (end_ms - frame.range_ms, end_ms), edges),
                };
                if !timestamps.is_empty() {
                    let labels = if raw.drop_name { without_metadata(&raw.labels) } else { raw.labels.clone() };
                    let samples = values.len();
                    found = Some((SeriesData { labels, timestamps: timestamps.into(), values }, samples));
                }
            });
            ControlFlow::Continue(found)
        })?;
        matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(matrix)
    }
}

fn without_markers(series: SeriesData, starts: Option<Vec<i64>>) -> Raw {
    let SeriesData { labels, mut timestamps, mut values } = series;
    let mut starts = starts;
    // All are looked at, several at once: mostly there is none to stop at.
    if values.iter().fold(false, |any, v| any | is_absent(*v)) {
        let kept: Vec<bool> = values.iter().map(|v| !is_absent(*v)).collect();
        let is_kept = |i: &usize| kept[*i];
        timestamps = (0..kept.len()).filter(is_kept).map(|i| timestamps[i]).collect();
        values = (0..kept.len()).filter(is_kept).map(|i| values[i]).collect();
        starts = starts.map(|s| (0..kept.len()).filter(is_kept).map(|i| s[i]).collect());
    }
    // A source that counts otherwise than it selects is not believed.
    let starts = starts.filter(|s| s.len() == values.len());
    Raw { labels, drop_name: false, timestamps, values, starts }
}

/// What a smaller value after a larger one means.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Falls {
    /// The value fell.
    AreFalls,
    /// A counter began again at zero.
    AreResets,
}

/// The value at `at_ms` on the line between two samples; after a reset the line begins at zero.
pub(crate) fn interpolate((t1, v1): (i64, f64), (t2, v2): (i64, f64), at_ms: i64, falls: Falls) -> f64 {
    let v1 = if falls == Falls::AreResets && v2 < v1 { 0.0 } else { v1 };
    v1 + (v2 - v1) * (at_ms - t1) as f64 / (t2 - t1) as f64
}

/// A window `(start, end]` whose samples reach beyond it, with the values at both edges.
pub(crate) struct Edged {
    /// Indices of the first and the last sample that the window uses.
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) left: f64,
    pub(crate) right: f64,
}

/// The values at a window's edges; `None` where no sample lies after its start.
pub(crate) fn edged(t: &[i64], v: &[f64], (start_ms, end_ms): (i64, i64), edges: Edges, falls: Falls) -> Option<Edged> {
    let mut last = t.len().checked_sub(1)?;
    let first = t[..last].partition_point(|t| *t <= start_ms).saturating_sub(1);
    let smoothed = edges == Edges::Smoothed;
    if smoothed {
        last = t[..last].partition_point(|t| *t < end_ms);
    }
    if t[last] <= start_ms || (smoothed && t[first] > end_ms) {
        return None;
    }
    let between = |a: usize, b: usize, at_ms| interpolate((t[a], v[a]), (t[b], v[b]), at_ms, falls);
    let left = if smoothed && t[first] < start_ms && first + 1 < t.len() {
        between(first, first + 1, start_ms)
    } else {
        v[first]
    };
    let right = if smoothed && last > 0 && t[last] > end_ms { between(last - 1, last, end_ms) } else { v[last] };
    Some(Edged { first, last, left, right })
}

/// The samples within `(start, end)` between the values at both edges.
fn with_edges(t: &[i64], v: &[f64], (start_ms, end_ms): (i64, i64), edges: Edges) -> (Vec<i64>, Vec<f64>) {
    let Some(edged) = edged(t, v, (start_ms, end_ms), edges, Falls::AreFalls) else { return (Vec::new(), Vec::new()) };
    let inner = (edged.first..=edged.last).filter(|i| t[*i] > start_ms && t[*i] < end_ms);
    let timestamps = std::iter::once(start_ms).chain(inner.clone().map(|i| t[i])).chain([end_ms]).collect();
    let values = std::iter::once(edged.left).chain(inner.map(|i| v[i])).chain([edged.right]).collect();
    (timestamps, values)
}

/// A column of `value` wherever `present` says so.
pub(crate) fn column_where(present: &[bool], value: f64) -> Vec<f64> {
    present.iter().map(|p| if *p { value } else { ABSENT }).collect()
}
