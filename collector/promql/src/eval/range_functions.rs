//! Functions of range vectors: one pass over each series for all steps.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use veghe_model::Need;

use super::extrapolation::Extrapolation;
use super::numerics::{quantile, variance};
use super::select::{Frame, Raw, Starts, Windows, column_where};
use super::start_timestamps::Started;
use super::window_sums::{Window, best_windows, mean_windows, regression_windows, sum_windows};
use super::{Engine, Evaluated, Row, Steps};
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
