//! Functions of range vectors: one pass over each series for all steps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use veghe_model::Need;

use super::fold::deliver;
use super::numerics::{quantile, variance};
use super::select::{Falls, Frame, Raw, Starts, Windows, column_where, edged};
use super::start_timestamps::{Started, started_increase};
use super::window_sums::{Window, best_windows, mean_windows, regression_windows, sum_windows};
use super::{ABSENT, Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::{Edges, Expr, ExprKind};

/// The functions that know what `anchored` means.
const ANCHORED_SAFE: [&str; 5] = ["changes", "delta", "increase", "rate", "resets"];

/// The functions that know what `smoothed` means.
const SMOOTHED_SAFE: [&str; 3] = ["delta", "increase", "rate"];

/// That the function can make sense of `anchored` or `smoothed`.
fn check_edges(name: &str, args: &[Expr]) -> Evaluated<()> {
    for arg in args {
        let ExprKind::Matrix { selector, .. } = &arg.unparen().kind else { continue };
        let safe: &[&str] = match selector.edges {
            Edges::Plain => continue,
            Edges::Anchored => &ANCHORED_SAFE,
            Edges::Smoothed => &SMOOTHED_SAFE,
        };
        if !safe.contains(&name) {
            let (word, safe) = (selector.edges.word(), safe.join(", "));
            return Err(EvalError::Execution(format!(
                "{word} modifier can only be used with: {safe} - not with {name}"
            )));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Extrapolation {
    Rate,
    Increase,
    Delta,
}

impl Engine<'_> {
    /// `None` where `name` is no function of a range vector.
    pub(crate) fn range_function(&self, name: &str, args: &[Expr], steps: Steps) -> Option<Evaluated<Vec<Row>>> {
        if let Err(error) = check_edges(name, args) {
            return Some(Err(error));
        }
        self.rolled_function(name, args, steps).transpose().or_else(|| self.sampled_function(name, args, steps))
    }

    /// As [`Self::range_function`], from samples.
    pub(crate) fn sampled_function(&self, name: &str, args: &[Expr], steps: Steps) -> Option<Evaluated<Vec<Row>>> {
        // Every function below takes the samples of its window and yields a value or nothing.
        type Simple = fn(&[i64], &[f64], usize) -> Option<f64>;
        let simple: Simple = match name {
            "rate" => return Some(self.extrapolated(&args[0], steps, Extrapolation::Rate)),
            "increase" => return Some(self.extrapolated(&args[0], steps, Extrapolation::Increase)),
            "delta" => return Some(self.extrapolated(&args[0], steps, Extrapolation::Delta)),
            "absent_over_time" => return Some(self.absent_over_time(&args[0], steps)),
            "quantile_over_time" => return Some(self.quantile_over_time(args, steps)),
            "predict_linear" => return Some(self.predict_linear(args, steps)),
            "double_exponential_smoothing" => return Some(self.smoothing(args, steps)),
            "irate" => return Some(self.instant_rate(&args[0], steps)),
            "idelta" => |t, v, _| instant_delta(t, v).map(|(delta, _)| delta),
            "deriv" => return Some(self.deriv(&args[0], steps)),
            "changes" => {
                |_, v, _| Some(v.windows(2).filter(|w| w[0] != w[1] && !(w[0].is_nan() && w[1].is_nan())).count() as f64)
            }
            "resets" => return Some(self.resets(&args[0], steps)),
            "sum_over_time" => return Some(self.all_windows(&args[0], steps, sum_windows)),
            "avg_over_time" => return Some(self.all_windows(&args[0], steps, mean_windows)),
            "count_over_time" => |_, v, _| Some(v.len() as f64),
            "present_over_time" => |_, _, _| Some(1.0),
            "min_over_time" => {
                return Some(self.all_windows(&args[0], steps, |v, all, out| best_windows(v, all, |x, m| x < m, out)));
            }
            "max_over_time" => {
                return Some(self.all_windows(&args[0], steps, |v, all, out| best_windows(v, all, |x, m| x > m, out)));
            }
            "last_over_time" => |_, v, _| v.last().copied(),
            "first_over_time" => |_, v, _| v.first().copied(),
            "ts_of_last_over_time" => |t, _, _| t.last().map(|t| *t as f64 / 1000.0),
            "ts_of_first_over_time" => |t, _, _| t.first().map(|t| *t as f64 / 1000.0),
            "ts_of_max_over_time" => |t, v, _| Some(moment_of_best(t, v, |x, best| x >= best)),
            "ts_of_min_over_time" => |t, v, _| Some(moment_of_best(t, v, |x, best| x <= best)),
            "stdvar_over_time" => |_, v, _| Some(variance(v)),
            "stddev_over_time" => |_, v, _| Some(variance(v).sqrt()),
            "mad_over_time" => |_, v, _| Some(median_absolute_deviation(v)),
            _ => return None,
        };
        let keeps_name = matches!(name, "last_over_time" | "first_over_time");
        let need = match name {
            "count_over_time" | "present_over_time" | "ts_of_last_over_time" | "ts_of_first_over_time" => {
                Need::Presence
            }
            _ => Need::Values,
        };
        Some(self.over_windows(&args[0], steps, (keeps_name, need), simple))
    }

    fn over_windows(
        &self,
        arg: &Expr,
        steps: Steps,
        (keeps_name, need): (bool, Need),
        f: impl Fn(&[i64], &[f64], usize) -> Option<f64> + Sync,
    ) -> Evaluated<Vec<Row>> {
        let windows = self.windows(arg, steps)?.needing(need);
        let rows = self.over_samples(windows, steps, |raw, window, step| {
            f(&raw.timestamps[window.clone()], &raw.values[window], step)
        })?;
        if keeps_name { Ok(rows) } else { self.drop_names(rows) }
    }

    /// One row per series, from the places of each window's samples in it and the step.
    fn over_samples(
        &self,
        windows: Windows<'_>,
        steps: Steps,
        f: impl Fn(&Raw, std::ops::Range<usize>, usize) -> Option<f64> + Sync,
    ) -> Evaluated<Vec<Row>> {
        self.columns(windows, steps, |frame, raw, values, looked_at| {
            frame.each(raw, steps, looked_at, |step, time_ms, window| {
                let window = match frame.edges {
                    Edges::Anchored => anchored(raw, window, frame.end_ms(time_ms) - frame.range_ms),
                    _ => window,
                };
                if window.is_empty() {
                    return;
                }
                if let Some(value) = f(raw, window, step) {
                    values[step] = value;
                }
            });
        })
    }

    fn instant_rate(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let windows = self.windows_with(arg, steps, Starts::Wanted)?;
        let rows = self.over_samples(windows, steps, |raw, window, _| {
            let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window.clone()]);
            let (delta, interval_ms) = instant_delta(t, v)?;
            let last = window.end - 1;
            let reset =
                v[v.len() - 1] < v[v.len() - 2] || Started::at(raw, last).is_reset_after(Started::at(raw, last - 1));
            Some(if reset { v[v.len() - 1] } else { delta } / (interval_ms as f64 / 1000.0))
        })?;
        self.drop_names(rows)
    }

    fn resets(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let windows = self.windows_with(arg, steps, Starts::Wanted)?;
        let rows = self.over_samples(windows, steps, |raw, window, _| {
            let fell = |i: &usize| {
                raw.values[*i] < raw.values[i - 1] || Started::at(raw, *i).is_reset_after(Started::at(raw, i - 1))
            };
            Some((window.start + 1..window.end).filter(fell).count() as f64)
        })?;
        self.drop_names(rows)
    }

    fn extrapolated(&self, arg: &Expr, steps: Steps, kind: Extrapolation) -> Evaluated<Vec<Row>> {
        let starts = if kind == Extrapolation::Delta { Starts::Ignored } else { Starts::Wanted };
        let windows = self.windows_with(arg, steps, starts)?;
        let fold = self.fold.take();
        // Metrics with values, and those of which something is to be said: by name, as rows may be gone when it is said.
        let told: Mutex<BTreeMap<Arc<str>, (bool, bool)>> = Mutex::default();
        let rows = self.reduce(windows, steps, &|frame, place, raw, looked_at| {
            let mut values = vec![ABSENT; steps.count];
            let mut overlaps = false;
            if frame.edges != Edges::Plain {
                extended(frame, &raw, steps, kind, &mut values, looked_at);
            } else if raw.starts.is_some() {
                overlaps = started_column(frame, &raw, steps, kind, &mut values, looked_at);
            } else {
                extrapolated_column(frame, &raw, steps, kind, &mut values, looked_at);
            }
            let any = values.iter().any(|v| !is_absent(*v));
            if any || overlaps {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let metric = raw.labels.metric_name();
                match told.get_mut(metric) {
                    Some(known) => *known = (known.0 || any, known.1 || overlaps),
                    None => drop(told.insert(metric.into(), (any, overlaps))),
                }
            }
            deliver(fold.as_deref(), place, any.then_some(Row { labels: raw.labels, values, drop_name: raw.drop_name }))
        })?;
        for (metric, (any, overlaps)) in told.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if overlaps {
                self.warn_overlap(arg, &metric);
            }
            if any && kind != Extrapolation::Delta {
                self.note_possible_non_counter(arg, &metric);
            }
        }
        self.drop_names(rows)
    }

    fn absent_over_time(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let windows = self.windows(arg, steps)?.needing(Need::Presence);
        let absent: Vec<AtomicBool> = (0..steps.count).map(|_| AtomicBool::new(true)).collect();
        self.reduce::<()>(windows, steps, &|frame, _, raw, looked_at| {
            frame.each(&raw, steps, looked_at, |step, _, _| absent[step].store(false, Relaxed));
            ControlFlow::Continue(None)
        })?;
        let absent: Vec<bool> = absent.into_iter().map(AtomicBool::into_inner).collect();
        self.charge(steps.count)?;
        let labels = super::instant_functions::absent_labels(arg);
        Ok(vec![Row { labels, values: column_where(&absent, 1.0), drop_name: false }])
    }

    fn quantile_over_time(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let q = self.scalar(&args[0], steps)?;
        let rows = self.over_windows(&args[1], steps, (false, Need::Values), |_, v, step| {
            Some(quantile(q[step], &mut v.to_vec()))
        })?;
        if !rows.is_empty() {
            self.check_quantiles(&args[0], &q);
        }
        self.release(q.len());
        Ok(rows)
    }

    /// One row per series, from the values of all its windows at once.
    fn all_windows(
        &self,
        arg: &Expr,
        steps: Steps,
        f: impl Fn(&[f64], &[Window], &mut [f64]) + Sync,
    ) -> Evaluated<Vec<Row>> {
        let windows = self.windows(arg, steps)?;
        let rows = self.columns(windows, steps, |frame, raw, values, looked_at| {
            f(&raw.values, &windows_of(frame, raw, steps, looked_at), values);
        })?;
        self.drop_names(rows)
    }

    fn deriv(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let windows = self.windows(arg, steps)?;
        let rows = self.columns(windows, steps, |frame, raw, values, looked_at| {
            let mut all = windows_of(frame, raw, steps, looked_at);
            for window in &mut all {
                window.time_ms = raw.timestamps[window.range.start];
            }
            regression_windows(&raw.timestamps, &raw.values, &all, |window, slope, _| values[window.step] = slope);
        })?;
        self.drop_names(rows)
    }

    fn predict_linear(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let seconds = self.scalar(&args[1], steps)?;
        let windows = self.windows(&args[0], steps)?;
        let rows = self.columns(windows, steps, |frame, raw, values, looked_at| {
            let all = windows_of(frame, raw, steps, looked_at);
            regression_windows(&raw.timestamps, &raw.values, &all, |window, slope, intercept| {
                values[window.step] = slope * seconds[window.step] + intercept;
            });
        })?;
        self.release(seconds.len());
        self.drop_names(rows)
    }

    fn smoothing(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let factor = self.scalar(&args[1], steps)?;
        let trend = self.scalar(&args[2], steps)?;
        for (values, what) in [(&factor, "smoothing"), (&trend, "trend")] {
            if let Some(wrong) = values.iter().find(|v| !(**v > 0.0 && **v < 1.0)) {
                let short = if what == "trend" { "tf" } else { "sf" };
                return Err(EvalError::Execution(format!(
                    "invalid {what} factor. Expected: 0 < {short} < 1, got: {wrong:.6}"
                )));
            }
        }
        let rows = self
            .over_windows(&args[0], steps, (false, Need::Values), |_, v, step| smooth(v, factor[step], trend[step]))?;
        self.release(factor.len() + trend.len());
        Ok(rows)
    }
}

/// The windows of all steps that have samples.
fn windows_of(frame: &Frame, raw: &Raw, steps: Steps, looked_at: &mut [u64]) -> Vec<Window> {
    let mut all = Vec::with_capacity(steps.count);
    frame.each(raw, steps, looked_at, |step, time_ms, range| all.push(Window { step, time_ms, range }));
    all
}

/// The window from its anchor on, the last sample at or before its start; nothing where no sample lies after that.
fn anchored(raw: &Raw, window: std::ops::Range<usize>, start_ms: i64) -> std::ops::Range<usize> {
    let after = window.start + raw.timestamps[window.clone()].partition_point(|t| *t <= start_ms);
    if after == window.end {
        return window.end..window.end;
    }
    after.saturating_sub(1).max(window.start)..window.end
}

fn per_second(increase: f64, range_ms: i64, kind: Extrapolation) -> f64 {
    if kind == Extrapolation::Rate { increase / (range_ms as f64 / 1000.0) } else { increase }
}

/// `rate` and `increase` of a series whose samples say when their counts began; whether a count claims to have begun
/// within another one.
fn started_column(
    windows: &Frame,
    raw: &Raw,
    steps: Steps,
    kind: Extrapolation,
    values: &mut [f64],
    looked_at: &mut [u64],
) -> bool {
    let per_seconds = if kind == Extrapolation::Rate { windows.range_ms as f64 / 1000.0 } else { 1.0 };
    let mut overlaps = false;
    windows.each(raw, steps, looked_at, |step, time_ms, window| {
        let end_ms = windows.end_ms(time_ms);
        let edges_ms = (end_ms - windows.range_ms, end_ms);
        if let Some(value) = started_increase(raw, &window, edges_ms, per_seconds, &mut overlaps) {
            values[step] = value;
        }
    });
    overlaps
}

/// `rate`, `increase` and `delta` of a series.
fn extrapolated_column(
    windows: &Frame,
    raw: &Raw,
    steps: Steps,
    kind: Extrapolation,
    values: &mut [f64],
    looked_at: &mut [u64],
) {
    let mut resets = Vec::new();
    if kind != Extrapolation::Delta {
        // Where a counter fell, found once for the series; windows only add what lies within.
        resets.extend((1..raw.values.len()).filter(|i| raw.values[*i] < raw.values[i - 1]));
    }
    let mut next_reset = 0;
    windows.each(raw, steps, looked_at, |step, time_ms, window| {
        while resets.get(next_reset).is_some_and(|at| *at <= window.start) {
            next_reset += 1;
        }
        let lost = resets[next_reset..].iter().take_while(|at| **at < window.end).map(|at| raw.values[at - 1]);
        let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window.clone()]);
        if let Some(value) = extrapolate(t, v, lost, windows.end_ms(time_ms), windows.range_ms, kind) {
            values[step] = value;
        }
    });
}

/// `rate`, `increase` and `delta` of an `anchored` or `smoothed` selector: Prometheus' `extendedRate`, the difference
/// between the values at the window's edges, with what resets lost.
fn extended(windows: &Frame, raw: &Raw, steps: Steps, kind: Extrapolation, values: &mut [f64], looked_at: &mut [u64]) {
    let falls = if kind == Extrapolation::Delta { Falls::AreFalls } else { Falls::AreResets };
    windows.each(raw, steps, looked_at, |step, time_ms, window| {
        let end_ms = windows.end_ms(time_ms);
        let start_ms = end_ms - windows.range_ms;
        let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window]);
        let Some(edged) = edged(t, v, (start_ms, end_ms), windows.edges, falls) else { return };
        let mut increase = edged.right - edged.left;
        if falls == Falls::AreResets {
            // The edges have their resets in them.
            let mut before = edged.left;
            for i in (edged.first..=edged.last).filter(|i| t[*i] > start_ms && t[*i] < end_ms) {
                if v[i] < before {
                    increase += before;
                }
                before = v[i];
            }
            if edged.right < before {
                increase += before;
            }
        }
        values[step] = per_second(increase, windows.range_ms, kind);
    });
}

/// Prometheus' `extrapolatedRate`: the difference of the window's ends, with what resets lost, stretched to the
/// window's borders where samples suggest that the series goes on there.
#[inline]
fn extrapolate(
    t: &[i64],
    v: &[f64],
    lost_in_resets: impl Iterator<Item = f64>,
    end_ms: i64,
    range_ms: i64,
    kind: Extrapolation,
) -> Option<f64> {
    let (&[first_t, .., last_t], &[first, .., last]) = (t, v) else { return None };
    let ends = Ends { first: (first_t, first), last: (last_t, last), count: t.len() as f64 };
    Some(extrapolate_ends(ends, lost_in_resets, end_ms, range_ms, kind))
}

/// All that extrapolation needs of a window's samples, at least two.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// Time stamp and value.
    pub(crate) first: (i64, f64),
    pub(crate) last: (i64, f64),
    pub(crate) count: f64,
}

/// As [`extrapolate`].
#[inline]
pub(crate) fn extrapolate_ends(
    ends: Ends,
    lost_in_resets: impl Iterator<Item = f64>,
    end_ms: i64,
    range_ms: i64,
    kind: Extrapolation,
) -> f64 {
    let Ends { first: (first_t, first), last: (last_t, last), count } = ends;
    let mut result = last - first;
    for lost in lost_in_resets {
        result += lost;
    }
    let mut to_start = (first_t - (end_ms - range_ms)) as f64 / 1000.0;
    let mut to_end = (end_ms - last_t) as f64 / 1000.0;
    let sampled = (last_t - first_t) as f64 / 1000.0;
    let average = sampled / (count - 1.0);
    let threshold = average * 1.1;
    if to_start >= threshold {
        to_start = average / 2.0;
    }
    if kind != Extrapolation::Delta && result > 0.0 && first >= 0.0 {
        // A counter can't have been below zero.
        let to_zero = sampled * (first / result);
        if to_zero < to_start {
            to_start = to_zero;
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut stretch = (sampled + to_start + to_end) / sampled;
    if kind == Extrapolation::Rate {
        stretch /= range_ms as f64 / 1000.0;
    }
    result * stretch
}

/// The difference of the last two samples, and how far apart they are in milliseconds.
fn instant_delta(t: &[i64], v: &[f64]) -> Option<(f64, i64)> {
    let (&[.., before_t, last_t], &[.., before, last]) = (t, v) else { return None };
    let interval_ms = last_t - before_t;
    (interval_ms != 0).then_some((last - before, interval_ms))
}

fn moment_of_best(t: &[i64], v: &[f64], better: impl Fn(f64, f64) -> bool) -> f64 {
    let mut best = 0;
    for i in 1..v.len() {
        if better(v[i], v[best]) || v[best].is_nan() {
            best = i;
        }
    }
    t[best] as f64 / 1000.0
}

fn median_absolute_deviation(v: &[f64]) -> f64 {
    if v.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    let mut values = v.to_vec();
    let median = quantile(0.5, &mut values);
    for v in &mut values {
        *v = (*v - median).abs();
    }
    quantile(0.5, &mut values)
}

fn smooth(v: &[f64], factor: f64, trend: f64) -> Option<f64> {
    if v.len() < 2 {
        return None;
    }
    let (mut before, mut level, mut slope) = (0.0, v[0], v[1] - v[0]);
    for (i, value) in v.iter().enumerate().skip(1) {
        if i > 1 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        let next = factor * value + (1.0 - factor) * (level + slope);
        (before, level) = (level, next);
    }
    Some(level)
}
