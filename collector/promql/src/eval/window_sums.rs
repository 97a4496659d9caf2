//! Sums, means, regressions and extremes of all the windows of one series, cheaper than window by window and the same to the
//! last bit.
//!
//! Compensated sums depend on where they begin, so a window's can't be made from its neighbour's. Three things help all the
//! same:
//! - several windows grow side by side, so that the processor need not wait for one addition before it begins the next;
//! - where all values are integers, and small enough that no sum of them is rounded, every compensation is zero, and a
//!   window's sum is the difference of two sums from the series' beginning;
//! - where time stamps are regular and the windows move by whole steps of them, the moments of every window, seen from its own
//!   end, are the same, and so are the sums of those.

use std::collections::VecDeque;
use std::ops::Range;

use super::numerics::{constant_line, kahan, linear_regression, mean, sum};

/// Windows whose sums grow side by side.
const ABREAST: usize = 4;

/// A window's place in a series, never empty, and the step that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) step: usize,
    /// The moment of the step.
    pub(crate) time_ms: i64,
    pub(crate) range: Range<usize>,
}

/// What a sum begins with; of `-0.0` alone they differ.
#[derive(Clone, Copy, PartialEq)]
enum Begin {
    Zero,
    FirstValue,
}

/// Sums from the beginning of a series, where none of any part of it is rounded.
struct ExactSums(Vec<f64>);

impl ExactSums {
    fn of(values: &[f64]) -> Option<Self> {
        /// Integers up to here are exact.
        const MAX: f64 = 9_007_199_254_740_992.0;
        let (mut total, mut magnitude) = (0.0, 0.0);
        let mut sums = Vec::with_capacity(values.len() + 1);
        sums.push(0.0);
        for value in values {
            magnitude += value.abs();
            // No integer, too large, not a number, or the zero that is not the sum of nothing.
            if value.fract() != 0.0 || magnitude.is_nan() || magnitude > MAX || value.to_bits() == (-0.0_f64).to_bits()
            {
                return None;
            }
            total += value;
            sums.push(total);
        }
        Some(Self(sums))
    }

    fn within(&self, range: &Range<usize>) -> f64 {
        self.0[range.end] - self.0[range.start]
    }
}

/// Sums that grow side by side, with what their additions lost.
#[derive(Clone, Copy, Default)]
struct Abreast {
    sums: [f64; ABREAST],
    lost: [f64; ABREAST],
}

impl Abreast {
    /// As [`kahan`] of each, but where something overflows: that is told by a sum or a loss that ends as no number.
    #[inline]
    fn add(&mut self, values: [f64; ABREAST]) {
        let sums = self.sums;
        let totals: [f64; ABREAST] = std::array::from_fn(|i| sums[i] + values[i]);
        let added: [f64; ABREAST] = std::array::from_fn(|i| totals[i] - sums[i]);
        let lost: [f64; ABREAST] = std::array::from_fn(|i| (sums[i] - (totals[i] - added[i])) + (values[i] - added[i]));
        let before = self.lost;
        self.lost = std::array::from_fn(|i| before[i] + lost[i]);
        self.sums = totals;
    }
}

/// The columns of four windows, as long as the shortest of them.
fn columns<'v>(values: &'v [f64], windows: &[Window; ABREAST], from: usize) -> ([&'v [f64]; ABREAST], usize) {
    let n = windows.iter().map(|w| w.range.len()).min().unwrap_or(0);
    (std::array::from_fn(|i| &values[windows[i].range.start + from..windows[i].range.start + n]), n)
}

/// Sum and compensation of each window; not finite where [`kahan`] is to be asked one after the other.
fn sums(values: &[f64], windows: &[Window], begin: Begin, mut each: impl FnMut(&Window, f64, f64)) {
    let mut blocks = windows;
    while let Some((four, rest)) = blocks.split_first_chunk::<ABREAST>() {
        blocks = rest;
        let skipped = usize::from(begin == Begin::FirstValue);
        let mut all = Abreast::default();
        if begin == Begin::FirstValue {
            all.sums = std::array::from_fn(|i| values[four[i].range.start]);
        }
        let (columns, n) = columns(values, four, skipped);
        for k in 0..n - skipped {
            all.add(columns.map(|column| column[k]));
        }
        for (i, window) in four.iter().enumerate() {
            let rest = &values[window.range.start + n..window.range.end];
            let (sum, lost) = rest.iter().fold((all.sums[i], all.lost[i]), |(sum, lost), v| kahan(*v, sum, lost));
            each(window, sum, lost);
        }
    }
    for window in blocks {
        let within = &values[window.range.clone()];
        let (first, rest) = within.split_at(usize::from(begin == Begin::FirstValue));
        let first = first.first().copied().unwrap_or(0.0);
        let (sum, lost) = rest.iter().fold((first, 0.0), |(sum, lost), v| kahan(*v, sum, lost));
        each(window, sum, lost);
    }
}

/// `sum_over_time` of every window.
pub(crate) fn sum_windows(values: &[f64], windows: &[Window], out: &mut [f64]) {
    if let Some(exact) = overlap(windows).then(|| ExactSums::of(values)).flatten() {
        for window in windows {
            out[window.step] = exact.within(&window.range);
        }
        return;
    }
    sums(values, windows, Begin::Zero, |window, total, lost| {
        out[window.step] =
            if lost.is_finite() && total.is_finite() { total + lost } else { sum(&values[window.range.clone()]) };
    });
}

/// `avg_over_time` of every window.
pub(crate) fn mean_windows(values: &[f64], windows: &[Window], out: &mut [f64]) {
    if let Some(exact) = overlap(windows).then(|| ExactSums::of(values)).flatten() {
        for window in windows {
            out[window.step] = exact.within(&window.range) / window.range.len() as f64;
        }
        return;
    }
    sums(values, windows, Begin::FirstValue, |window, total, lost| {
        let count = window.range.len() as f64;
        out[window.step] = if lost.is_finite() && total.is_finite() {
            total / count + lost / count
        } else {
            mean(&values[window.range.clone()]).unwrap_or(total)
        };
    });
}

/// Whether windows have samples in common, so that work for the whole series is work saved.
fn overlap(windows: &[Window]) -> bool {
    windows.windows(2).any(|pair| pair[0].range.end > pair[1].range.start)
}

/// The largest value of every window, or the smallest: `better(a, b)` says that `a` is in place of `b`. Of equal values the
/// first stays; NaN only where there is nothing else.
pub(crate) fn best_windows(values: &[f64], windows: &[Window], better: impl Fn(f64, f64) -> bool, out: &mut [f64]) {
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return };
    let visits: usize = windows.iter().map(|w| w.range.len()).sum();
    if visits < 2 * (last.range.end - first.range.start) {
        for window in windows {
            out[window.step] = best_of(&values[window.range.clone()], &better);
        }
        return;
    }
    // Places that may yet be the best of a window: each is worse than the one before it, and later.
    let mut candidates: VecDeque<usize> = VecDeque::new();
    let mut next = first.range.start;
    for window in windows {
        next = next.max(window.range.start);
        for at in next..window.range.end {
            if values[at].is_nan() {
                continue;
            }
            while candidates.back().is_some_and(|before| better(values[at], values[*before])) {
                candidates.pop_back();
            }
            candidates.push_back(at);
        }
        next = next.max(window.range.end);
        while candidates.front().is_some_and(|at| *at < window.range.start) {
            candidates.pop_front();
        }
        // The last NaN, as a fold over all of them gives it.
        out[window.step] = candidates.front().map_or(values[window.range.end - 1], |at| values[*at]);
    }
}

/// As a fold of `values`, which are not empty, one after the other; several folds side by side.
fn best_of(values: &[f64], better: &impl Fn(f64, f64) -> bool) -> f64 {
    const LANES: usize = 8;
    let Some(at) = values.iter().position(|v| !v.is_nan()) else { return values[values.len() - 1] };
    let first = values[at];
    let mut lanes = [first; LANES];
    let mut chunks = values[at..].chunks_exact(LANES);
    for chunk in chunks.by_ref() {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if better(*value, *lane) { *value } else { *lane };
        }
    }
    let best = lanes.iter().chain(chunks.remainder()).fold(first, |m, x| if better(*x, m) { *x } else { m });
    // Of the two zeros the one that came first.
    let zero = (best == 0.0).then(|| values[at..].iter().copied().find(|v| *v == 0.0)).flatten();
    zero.unwrap_or(best)
}

/// For each place the end of the stretch from it on, in which neighbours are `alike`.
fn stretches(n: usize, alike: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut ends = vec![n; n];
    for at in (0..n.saturating_sub(1)).rev() {
        ends[at] = if alike(at) { ends[at + 1] } else { at + 1 };
    }
    ends
}

/// The moments of a window as seen from its own, in seconds, and their sums; the same for windows of the same `shape`.
#[derive(Default)]
struct Moments {
    /// The first moment in milliseconds, the step and the count.
    shape: (i64, i64, usize),
    seconds: Vec<f64>,
    sum: f64,
    sum_of_squares: f64,
}

impl Moments {
    fn take(&mut self, shape: (i64, i64, usize)) {
        if self.shape == shape {
            return;
        }
        let (first_ms, step_ms, count) = shape;
        self.shape = shape;
        self.seconds.clear();
        self.seconds.extend((0..count as i64).map(|k| (first_ms + k * step_ms) as f64 / 1e3));
        let total = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, lost) = values.fold((0.0, 0.0), |(sum, lost), v| kahan(v, sum, lost));
            sum + lost
        };
        self.sum = total(&mut self.seconds.iter().copied());
        self.sum_of_squares = total(&mut self.seconds.iter().map(|x| x * x));
    }
}

/// The line of every window with two samples or more: `each` gets the window, the slope per second and the value at its moment.
pub(crate) fn regression_windows(
    timestamps: &[i64],
    values: &[f64],
    windows: &[Window],
    mut each: impl FnMut(&Window, f64, f64),
) {
    let constant_until = stretches(values.len(), |at| values[at] == values[at + 1]);
    // Where two neighbours are one step, the stretch of the first tells the step of the second.
    let regular_until = stretches(timestamps.len(), |at| {
        at + 2 >= timestamps.len() || timestamps[at + 1] - timestamps[at] == timestamps[at + 2] - timestamps[at + 1]
    });
    let exact = overlap(windows).then(|| ExactSums::of(values)).flatten();
    let shape = |window: &Window| {
        let Range { start, end } = window.range;
        let is_regular = regular_until[start] >= end - 1;
        is_regular.then(|| {
            (timestamps[start] - window.time_ms, timestamps[start + 1] - timestamps[start], window.range.len())
        })
    };
    let mut moments = Moments::default();
    let mut waiting: Vec<Window> = Vec::with_capacity(ABREAST);
    for window in windows.iter().filter(|w| w.range.len() > 1) {
        if constant_until[window.range.start] >= window.range.end {
            let (slope, intercept) = constant_line(values[window.range.start]);
            each(window, slope, intercept);
            continue;
        }
        let Some(shape) = shape(window) else {
            let (t, v) = (&timestamps[window.range.clone()], &values[window.range.clone()]);
            let (slope, intercept) = linear_regression(t, v, window.time_ms);
            each(window, slope, intercept);
            continue;
        };
        if shape != moments.shape || waiting.len() == ABREAST {
            regressions(values, &waiting, &moments, exact.as_ref(), &mut each);
            waiting.clear();
            moments.take(shape);
        }
        waiting.push(window.clone());
    }
    regressions(values, &waiting, &moments, exact.as_ref(), &mut each);
}

/// The lines of up to four windows whose moments are the same.
fn regressions(
    values: &[f64],
    windows: &[Window],
    moments: &Moments,
    exact: Option<&ExactSums>,
    each: &mut impl FnMut(&Window, f64, f64),
) {
    let Some(first) = windows.first() else { return };
    let four: [&Window; ABREAST] = std::array::from_fn(|i| windows.get(i).unwrap_or(first));
    let n = moments.seconds.len();
    let columns: [&[f64]; ABREAST] = four.map(|window| &values[window.range.start..][..n]);
    let (mut of_values, mut of_products) = (Abreast::default(), Abreast::default());
    if exact.is_some() {
        for (k, x) in moments.seconds.iter().enumerate() {
            of_products.add(columns.map(|column| x * column[k]));
        }
    } else {
        for (k, x) in moments.seconds.iter().enumerate() {
            let y = columns.map(|column| column[k]);
            of_values.add(y);
            of_products.add(y.map(|y| x * y));
        }
    }
    let count = n as f64;
    for (i, window) in windows.iter().enumerate() {
        let total = |exact: Option<f64>, all: &Abreast, value: &dyn Fn(f64, f64) -> f64| {
            if let Some(exact) = exact {
                return exact;
            }
            if all.lost[i].is_finite() && all.sums[i].is_finite() {
                return all.sums[i] + all.lost[i];
            }
            // As Prometheus goes on after an infinite sum.
            let pairs = moments.seconds.iter().zip(columns[i]);
            let (sum, lost) = pairs.fold((0.0, 0.0), |(sum, lost), (x, y)| kahan(value(*x, *y), sum, lost));
            sum + lost
        };
        let sum_y = total(exact.map(|exact| exact.within(&window.range)), &of_values, &|_, y| y);
        let sum_xy = total(None, &of_products, &|x, y| x * y);
        let covariance = sum_xy - moments.sum * sum_y / count;
        let variance = moments.sum_of_squares - moments.sum * moments.sum / count;
        let slope = covariance / variance;
        each(window, slope, sum_y / count - slope * moments.sum / count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => -1e3..1e3_f64,
            4 => (-50_i64..50).prop_map(|v| v as f64),
            1 => prop::num::f64::ANY,
            1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::MAX, -f64::MAX, 9e15]),
        ]
    }

    /// Values of one kind, as series have them, or of all.
    fn column() -> impl Strategy<Value = Vec<f64>> {
        prop_oneof![
            prop::collection::vec(value(), 1..60),
            prop::collection::vec((-900_i64..900).prop_map(|v| v as f64), 1..60),
            prop::collection::vec(1e9..2e9_f64, 1..60),
            prop::collection::vec(prop::sample::select(vec![2.0, 2.0, 2.0, 2.0, 5.0]), 1..60),
        ]
    }

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    /// The windows that a range of `range_ms` has at steps of `step_ms`.
    fn windows(timestamps: &[i64], range_ms: i64, step_ms: i64) -> Vec<Window> {
        let mut all = Vec::new();
        for step in 0..70 {
            let time_ms = step as i64 * step_ms;
            let from = timestamps.partition_point(|t| *t <= time_ms - range_ms);
            let to = timestamps.partition_point(|t| *t <= time_ms);
            if from < to {
                all.push(Window { step, time_ms, range: from..to });
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn all_windows_at_once_are_each_of_them_alone_to_the_last_bit(
            values in column(),
            irregular in prop::collection::vec(1_i64..40, 60),
            is_regular in any::<bool>(),
            range in 1_i64..300,
            step in prop::sample::select(vec![1_i64, 5, 10, 11, 20, 60]),
        ) {
            let mut at = 3;
            let timestamps: Vec<i64> =
                irregular.iter().take(values.len()).map(|gap| { at += if is_regular { 10 } else { *gap }; at }).collect();
            let windows = windows(&timestamps, range, step);
            let mut out = [f64::NEG_INFINITY; 70];
            sum_windows(&values, &windows, &mut out);
            for window in &windows {
                let alone = sum(&values[window.range.clone()]);
                prop_assert!(same(out[window.step], alone), "sum of {window:?}: {} not {alone}", out[window.step]);
            }
            mean_windows(&values, &windows, &mut out);
            for window in &windows {
                let alone = mean(&values[window.range.clone()]).expect("not empty");
                prop_assert!(same(out[window.step], alone), "mean of {window:?}: {} not {alone}", out[window.step]);
            }
            let fold = |window: &Window, better: fn(f64, f64) -> bool| {
                let within = &values[window.range.clone()];
                within.iter().fold(within[0], |m, x| if better(*x, m) || m.is_nan() { *x } else { m })
            };
            for better in [|a: f64, b: f64| a > b, |a: f64, b: f64| a < b] {
                best_windows(&values, &windows, better, &mut out);
                for window in &windows {
                    let alone = fold(window, better);
                    prop_assert!(same(out[window.step], alone), "best of {window:?}: {} not {alone}", out[window.step]);
                }
            }
            let mut told = 0;
            let mut wrong = None;
            regression_windows(&timestamps, &values, &windows, |window, slope, intercept| {
                told += 1;
                let (t, v) = (&timestamps[window.range.clone()], &values[window.range.clone()]);
                let alone = linear_regression(t, v, window.time_ms);
                if !(same(slope, alone.0) && same(intercept, alone.1)) {
                    wrong = Some(format!("{window:?}: {slope} {intercept}, not {alone:?}"));
                }
            });
            prop_assert_eq!(wrong, None);
            prop_assert_eq!(told, windows.iter().filter(|w| w.range.len() > 1).count());
        }
    }
}
