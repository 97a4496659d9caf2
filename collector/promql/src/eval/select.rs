//! Reads series for selectors: the latest value per step, and windows for range selectors and subqueries.

use std::cell::RefCell;
use std::sync::Arc;

use veghe_model::{Labels, SeriesData, Timestamp};

use super::labels::without_metadata;
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
    /// When the sample's count began, in seconds, for `start_timestamp()`; nothing where the source keeps no starts.
    Start,
}

/// Whether a function uses start timestamps.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Starts {
    Ignored,
    Wanted,
}

/// Samples of a range selector or subquery, with the window of each step.
pub(crate) struct Windows {
    pub(crate) series: Vec<Raw>,
    pub(crate) range_ms: i64,
    /// What the window needs beyond its edges: with `anchored` and `smoothed` also samples outside.
    pub(crate) edges: Edges,
    before_ms: i64,
    after_ms: i64,
    ends: Ends,
    looked_at: RefCell<Vec<u64>>,
}

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
enum Ends {
    /// At each step, so much before it.
    Moving { offset_ms: i64 },
    /// The same at every step.
    Fixed { end_ms: i64 },
}

impl Ends {
    fn end_ms(self, step_time_ms: i64) -> i64 {
        match self {
            Self::Moving { offset_ms } => step_time_ms - offset_ms,
            Self::Fixed { end_ms } => end_ms,
        }
    }

    /// The first and the last end.
    fn bounds(self, steps: Steps) -> (i64, i64) {
        (self.end_ms(steps.start_ms), self.end_ms(steps.last_ms()))
    }
}

impl Windows {
    pub(crate) fn end_ms(&self, step_time_ms: i64) -> i64 {
        self.ends.end_ms(step_time_ms)
    }

    /// Samples held.
    pub(crate) fn samples(&self) -> usize {
        self.series.iter().map(|s| s.values.len()).sum()
    }

    /// Calls `f` with step, its moment and the bounds of its window `(end - range, end]` in `raw`, in order of steps,
    /// where there is a sample in the window. With `anchored` and `smoothed` the bounds are wider by the lookback.
    pub(crate) fn each(&self, raw: &Raw, steps: Steps, mut f: impl FnMut(usize, i64, std::ops::Range<usize>)) {
        let (mut from, mut to) = (0, 0);
        let timestamps = &raw.timestamps;
        let mut looked_at = self.looked_at.borrow_mut();
        for (step, looked_at) in looked_at.iter_mut().enumerate() {
            let time_ms = steps.time_ms(step);
            let end_ms = self.end_ms(time_ms);
            while timestamps.get(to).is_some_and(|t| *t <= end_ms + self.after_ms) {
                to += 1;
            }
            while from < to && timestamps[from] <= end_ms - self.range_ms - self.before_ms {
                from += 1;
            }
            if from < to {
                *looked_at += (to - from) as u64;
                f(step, time_ms, from..to);
            }
        }
    }
}

impl Engine<'_> {
    fn ends(&self, when: &When) -> Evaluated<Ends> {
        let offset_ms = when.offset.as_ref().map_or(Ok(0), |offset| self.length_ms(offset, Zero::Allowed))?;
        Ok(match when.at {
            None => Ends::Moving { offset_ms },
            Some(At::Millis(ms)) => Ends::Fixed { end_ms: ms - offset_ms },
            Some(At::Start) => Ends::Fixed { end_ms: self.outer.start_ms - offset_ms },
            Some(At::End) => Ends::Fixed { end_ms: self.end_ms - offset_ms },
        })
    }

    fn lookback_ms(&self) -> i64 {
        i64::try_from(self.limits.lookback.as_millis()).unwrap_or(i64::MAX).min(super::MOMENT_MAX_MS)
    }

    /// The series with samples in `(after, until]`, counted as held.
    fn select(&self, selector: &Selector, after_ms: i64, until_ms: i64) -> Evaluated<Vec<SeriesData>> {
        self.check_stop()?;
        let (start, end) = (Timestamp(after_ms.saturating_add(1)), Timestamp(until_ms));
        let room = self.limits.max_samples.saturating_sub(self.samples.get());
        let series = self.source.select_at_most(&selector.matchers, start, end, room).map_err(EvalError::Source)?;
        let series = series.ok_or(EvalError::TooManySamples)?;
        let samples = series.iter().map(SeriesData::len).sum();
        self.charge(samples)?;
        self.read.set(self.read.get() + samples as u64);
        Ok(series)
    }

    pub(crate) fn instant_vector(&self, selector: &Selector, steps: Steps) -> Evaluated<Vec<Row>> {
        self.instant_vector_of(selector, steps, Yield::Value)
    }

    pub(crate) fn instant_vector_of(&self, selector: &Selector, steps: Steps, wanted: Yield) -> Evaluated<Vec<Row>> {
        if selector.edges == Edges::Smoothed && wanted == Yield::Value {
            return self.smoothed_vector(selector, steps);
        }
        let lookback_ms = self.lookback_ms();
        let ends = self.ends(&selector.when)?;
        let (first_ms, last_ms) = ends.bounds(steps);
        let series = self.select(selector, first_ms - lookback_ms, last_ms)?;
        let mut rows = Vec::with_capacity(series.len());
        let mut looked_at = vec![0; steps.count];
        for one in series {
            self.check_stop()?;
            let starts = if wanted == Yield::Start { self.source.start_timestamps(&one) } else { None };
            let mut values = self.empty_column(steps)?;
            let (mut next, mut any) = (0, false);
            for (step, value) in values.iter_mut().enumerate() {
                let end_ms = ends.end_ms(steps.time_ms(step));
                while one.timestamps.get(next).is_some_and(|t| *t <= end_ms) {
                    next += 1;
                }
                let Some(at) = next.checked_sub(1) else { continue };
                // A marker says that the series ended; so does silence as long as the lookback.
                if one.timestamps[at] <= end_ms - lookback_ms || is_absent(one.values[at]) {
                    continue;
                }
                looked_at[step] += 1;
                *value = match wanted {
                    Yield::Value => one.values[at],
                    Yield::Moment => one.timestamps[at] as f64 / 1000.0,
                    Yield::Start => starts.as_ref().map_or(ABSENT, |s| s[at] as f64 / 1000.0),
                };
                any |= !is_absent(*value);
            }
            self.release(one.len());
            if any {
                rows.push(Row { labels: one.labels, values, drop_name: false });
            } else {
                self.release(steps.count);
            }
        }
        self.count_looked_at(steps, &looked_at);
        Ok(rows)
    }

    /// `x smoothed`: at each step the line between the samples before and after it, or the last sample where none
    /// follows within the lookback.
    fn smoothed_vector(&self, selector: &Selector, steps: Steps) -> Evaluated<Vec<Row>> {
        let lookback_ms = self.lookback_ms();
        let windows = Windows {
            series: Vec::new(),
            range_ms: 0,
            edges: Edges::Smoothed,
            before_ms: lookback_ms,
            after_ms: lookback_ms,
            ends: self.ends(&selector.when)?,
            looked_at: RefCell::new(vec![0; steps.count]),
        };
        let mut rows = Vec::new();
        for raw in self.raw_series(selector, &windows, steps, Starts::Ignored)? {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            windows.each(&raw, steps, |step, time_ms, window| {
                let at_ms = windows.end_ms(time_ms);
                let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window]);
                let next = t.partition_point(|t| *t < at_ms);
                values[step] = match next.checked_sub(1) {
                    _ if t.get(next) == Some(&at_ms) => v[next],
                    None => ABSENT,
                    Some(before) if next == t.len() => v[before],
                    Some(before) => interpolate((t[before], v[before]), (t[next], v[next]), at_ms, Falls::AreFalls),
                };
            });
            self.release(raw.values.len());
            if values.iter().any(|v| !is_absent(*v)) {
                rows.push(Row { labels: raw.labels, values, drop_name: false });
            } else {
                self.release(steps.count);
            }
        }
        self.count_looked_at(steps, &windows.looked_at.into_inner());
        Ok(rows)
    }

    /// The selector's series over all windows, without staleness markers.
    fn raw_series(&self, selector: &Selector, windows: &Windows, steps: Steps, starts: Starts) -> Evaluated<Vec<Raw>> {
        let (first_ms, last_ms) = windows.ends.bounds(steps);
        let after_ms = first_ms - windows.range_ms - windows.before_ms;
        let series = self.select(selector, after_ms, last_ms + windows.after_ms)?;
        Ok(series
            .into_iter()
            .map(|s| {
                let before = s.len();
                let starts = if starts == Starts::Wanted { self.source.start_timestamps(&s) } else { None };
                let raw = without_markers(s, starts);
                self.release(before - raw.values.len());
                raw
            })
            .collect())
    }

    /// Gives the samples of windows back and counts what the steps looked at.
    pub(crate) fn finish_windows(&self, windows: Windows, steps: Steps) {
        self.release(windows.samples());
        self.count_looked_at(steps, &windows.looked_at.into_inner());
    }

    /// The windows of a range selector or subquery.
    pub(crate) fn windows(&self, expr: &Expr, steps: Steps) -> Evaluated<Windows> {
        self.windows_with(expr, steps, Starts::Ignored)
    }

    pub(crate) fn windows_with(&self, expr: &Expr, steps: Steps, starts: Starts) -> Evaluated<Windows> {
        let looked_at = RefCell::new(vec![0; steps.count]);
        match &expr.unparen().kind {
            ExprKind::Matrix { selector, range } => {
                let lookback_ms = self.lookback_ms();
                let mut windows = Windows {
                    series: Vec::new(),
                    range_ms: self.length_ms(range, Zero::Refused)?,
                    edges: selector.edges,
                    before_ms: if selector.edges == Edges::Plain { 0 } else { lookback_ms },
                    after_ms: if selector.edges == Edges::Smoothed { lookback_ms } else { 0 },
                    ends: self.ends(&selector.when)?,
                    looked_at,
                };
                windows.series = self.raw_series(selector, &windows, steps, starts)?;
                Ok(windows)
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
                Ok(Windows { series, range_ms, edges: Edges::Plain, before_ms: 0, after_ms: 0, ends, looked_at })
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
        let mut matrix = Vec::new();
        for raw in &windows.series {
            windows.each(raw, self.outer, |_, time_ms, window| {
                let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window]);
                let end_ms = windows.end_ms(time_ms);
                let (timestamps, values) = match windows.edges {
                    Edges::Plain => (t.to_vec(), v.to_vec()),
                    edges => with_edges(t, v, (end_ms - windows.range_ms, end_ms), edges),
                };
                if !timestamps.is_empty() {
                    let labels = if raw.drop_name { without_metadata(&raw.labels) } else { raw.labels.clone() };
                    matrix.push(SeriesData { labels, timestamps: timestamps.into(), values });
                }
            });
        }
        self.finish_windows(windows, self.outer);
        matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(matrix)
    }
}

fn without_markers(series: SeriesData, starts: Option<Vec<i64>>) -> Raw {
    let SeriesData { labels, mut timestamps, mut values } = series;
    let mut starts = starts;
    if values.iter().any(|v| is_absent(*v)) {
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
