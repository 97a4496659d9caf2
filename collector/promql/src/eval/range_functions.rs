//! Functions of range vectors: one pass over each series for all steps.

use super::numerics::{linear_regression, mean, quantile, sum, variance};
use super::select::{Raw, Windows, column_where};
use super::{Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::Expr;

/// What a function of windows needs to know beyond the samples.
struct Moment {
    step: usize,
    time_ms: i64,
}

#[derive(Clone, Copy, PartialEq)]
enum Extrapolation {
    Rate,
    Increase,
    Delta,
}

impl Engine<'_> {
    /// `None` where `name` is no function of a range vector.
    pub(crate) fn range_function(&self, name: &str, args: &[Expr], steps: Steps) -> Option<Evaluated<Vec<Row>>> {
        // Every function below takes the samples of its window and yields a value or nothing.
        type Simple = fn(&[i64], &[f64], &Moment) -> Option<f64>;
        let simple: Simple = match name {
            "rate" => return Some(self.extrapolated(&args[0], steps, Extrapolation::Rate)),
            "increase" => return Some(self.extrapolated(&args[0], steps, Extrapolation::Increase)),
            "delta" => return Some(self.extrapolated(&args[0], steps, Extrapolation::Delta)),
            "absent_over_time" => return Some(self.absent_over_time(&args[0], steps)),
            "quantile_over_time" => return Some(self.quantile_over_time(args, steps)),
            "predict_linear" => return Some(self.predict_linear(args, steps)),
            "double_exponential_smoothing" => return Some(self.smoothing(args, steps)),
            "irate" => |t, v, _| instant_delta(t, v, true),
            "idelta" => |t, v, _| instant_delta(t, v, false),
            "deriv" => |t, v, _| (v.len() > 1).then(|| linear_regression(t, v, t[0]).0),
            "changes" => {
                |_, v, _| Some(v.windows(2).filter(|w| w[0] != w[1] && !(w[0].is_nan() && w[1].is_nan())).count() as f64)
            }
            "resets" => |_, v, _| Some(v.windows(2).filter(|w| w[1] < w[0]).count() as f64),
            "sum_over_time" => |_, v, _| Some(sum(v)),
            "avg_over_time" => |_, v, _| mean(v),
            "count_over_time" => |_, v, _| Some(v.len() as f64),
            "present_over_time" => |_, _, _| Some(1.0),
            "min_over_time" => |_, v, _| Some(v.iter().fold(v[0], |m, x| if *x < m || m.is_nan() { *x } else { m })),
            "max_over_time" => |_, v, _| Some(v.iter().fold(v[0], |m, x| if *x > m || m.is_nan() { *x } else { m })),
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
        Some(self.over_windows(&args[0], steps, keeps_name, simple))
    }

    fn over_windows(
        &self,
        arg: &Expr,
        steps: Steps,
        keeps_name: bool,
        f: impl Fn(&[i64], &[f64], &Moment) -> Option<f64>,
    ) -> Evaluated<Vec<Row>> {
        let windows = self.windows(arg, steps)?;
        let mut rows = Vec::with_capacity(windows.series.len());
        for raw in &windows.series {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            windows.each(raw, steps, |step, time_ms, window| {
                let moment = Moment { step, time_ms };
                if let Some(value) = f(&raw.timestamps[window.clone()], &raw.values[window], &moment) {
                    values[step] = value;
                }
            });
            self.push_row(&mut rows, raw, values);
        }
        self.release(windows.samples());
        if keeps_name { Ok(rows) } else { self.drop_names(rows) }
    }

    fn push_row(&self, rows: &mut Vec<Row>, raw: &Raw, values: Vec<f64>) {
        if values.iter().all(|v| is_absent(*v)) {
            self.release(values.len());
        } else {
            rows.push(Row { labels: raw.labels.clone(), values, drop_name: raw.drop_name });
        }
    }

    fn extrapolated(&self, arg: &Expr, steps: Steps, kind: Extrapolation) -> Evaluated<Vec<Row>> {
        let windows = self.windows(arg, steps)?;
        let mut rows = Vec::with_capacity(windows.series.len());
        let mut resets = Vec::new();
        for raw in &windows.series {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            resets.clear();
            if kind != Extrapolation::Delta {
                // Where a counter fell, found once for the series; windows only add what lies within.
                resets.extend((1..raw.values.len()).filter(|i| raw.values[*i] < raw.values[i - 1]));
            }
            let mut next_reset = 0;
            windows.each(raw, steps, |step, time_ms, window| {
                while resets.get(next_reset).is_some_and(|at| *at <= window.start) {
                    next_reset += 1;
                }
                let lost = resets[next_reset..].iter().take_while(|at| **at < window.end).map(|at| raw.values[at - 1]);
                let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window.clone()]);
                if let Some(value) = extrapolate(t, v, lost, windows.end_ms(time_ms), windows.range_ms, kind) {
                    values[step] = value;
                }
            });
            let before = rows.len();
            self.push_row(&mut rows, raw, values);
            if rows.len() > before && kind != Extrapolation::Delta {
                self.note_possible_non_counter(arg, raw.labels.metric_name());
            }
        }
        self.release(windows.samples());
        self.drop_names(rows)
    }

    fn absent_over_time(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let windows: Windows = self.windows(arg, steps)?;
        let mut absent = vec![true; steps.count];
        for raw in &windows.series {
            self.check_stop()?;
            windows.each(raw, steps, |step, _, _| absent[step] = false);
        }
        self.release(windows.samples());
        self.charge(steps.count)?;
        let labels = super::instant_functions::absent_labels(arg);
        Ok(vec![Row { labels, values: column_where(&absent, 1.0), drop_name: false }])
    }

    fn quantile_over_time(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let q = self.scalar(&args[0], steps)?;
        let rows =
            self.over_windows(&args[1], steps, false, |_, v, moment| Some(quantile(q[moment.step], &mut v.to_vec())))?;
        if !rows.is_empty() {
            self.check_quantiles(&args[0], &q);
        }
        self.release(q.len());
        Ok(rows)
    }

    fn predict_linear(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let seconds = self.scalar(&args[1], steps)?;
        let rows = self.over_windows(&args[0], steps, false, |t, v, moment| {
            (v.len() > 1).then(|| {
                let (slope, intercept) = linear_regression(t, v, moment.time_ms);
                slope * seconds[moment.step] + intercept
            })
        })?;
        self.release(seconds.len());
        Ok(rows)
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
            .over_windows(&args[0], steps, false, |_, v, moment| smooth(v, factor[moment.step], trend[moment.step]))?;
        self.release(factor.len() + trend.len());
        Ok(rows)
    }
}

/// Prometheus' `extrapolatedRate`: the difference of the window's ends, with what resets lost, stretched to the
/// window's borders where samples suggest that the series goes on there.
fn extrapolate(
    t: &[i64],
    v: &[f64],
    lost_in_resets: impl Iterator<Item = f64>,
    end_ms: i64,
    range_ms: i64,
    kind: Extrapolation,
) -> Option<f64> {
    let (&[first_t, .., last_t], &[first, .., last]) = (t, v) else { return None };
    let mut result = last - first;
    for lost in lost_in_resets {
        result += lost;
    }
    let mut to_start = (first_t - (end_ms - range_ms)) as f64 / 1000.0;
    let mut to_end = (end_ms - last_t) as f64 / 1000.0;
    let sampled = (last_t - first_t) as f64 / 1000.0;
    let average = sampled / (t.len() - 1) as f64;
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
    Some(result * stretch)
}

fn instant_delta(t: &[i64], v: &[f64], is_rate: bool) -> Option<f64> {
    let (&[.., before_t, last_t], &[.., before, last]) = (t, v) else { return None };
    let interval_ms = last_t - before_t;
    if interval_ms == 0 {
        return None;
    }
    let difference = if is_rate && last < before { last } else { last - before };
    Some(if is_rate { difference / (interval_ms as f64 / 1000.0) } else { difference })
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
