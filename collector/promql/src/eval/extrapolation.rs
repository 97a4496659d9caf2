//! `rate`, `increase` and `delta`: the difference between the ends of a window, stretched to its borders.
//!
//! Series of one target have their samples at the same moments, so that where windows lie and how far they are stretched is
//! found once for all of them. Invariant: results have the same bits as where it is found for each series.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::fold::deliver;
use super::select::{Falls, Frame, Raw, Starts, edged};
use super::start_timestamps::started_increase;
use super::{ABSENT, Engine, Evaluated, Row, Steps, is_absent};
use crate::ast::{Edges, Expr};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Extrapolation {
    Rate,
    Increase,
    Delta,
}

impl Engine<'_> {
    pub(crate) fn extrapolated(&self, arg: &Expr, steps: Steps, kind: Extrapolation) -> Evaluated<Vec<Row>> {
        let starts = if kind == Extrapolation::Delta { Starts::Ignored } else { Starts::Wanted };
        let windows = self.windows_with(arg, steps, starts)?;
        let fold = self.fold.take();
        // Metrics with values, and those of which something is to be said: by name, as rows may be gone when it is said.
        let told: Mutex<BTreeMap<Arc<str>, (bool, bool)>> = Mutex::default();
        let plans = Plans::default();
        let rows = self.reduce(windows, steps, &|frame, place, raw, looked_at| {
            let mut values = vec![ABSENT; steps.count];
            let mut overlaps = false;
            if frame.edges != Edges::Plain {
                extended(frame, &raw, steps, kind, &mut values, looked_at);
            } else if raw.starts.is_some() {
                overlaps = started_column(frame, &raw, steps, kind, &mut values, looked_at);
            } else {
                match plans.of(&raw, || Plan::new(frame, &raw, steps, kind)) {
                    Some(plan) => plan.column(&raw, &mut values, looked_at),
                    None => Plan::new(frame, &raw, steps, kind).column(&raw, &mut values, looked_at),
                }
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

/// What the moments of samples say about the windows of all steps.
struct Plan {
    kind: Extrapolation,
    range_ms: i64,
    windows: Vec<Planned>,
}

/// A step whose window has samples.
struct Planned {
    step: u32,
    /// Which samples are the first and the last of the window.
    first: u32,
    last: u32,
    reach: Reach,
    /// What the increase is multiplied with, unless the counter may have begun within the window.
    factor: f64,
}

/// How far the samples of a window reach, in seconds.
#[derive(Clone, Copy)]
struct Reach {
    sampled: f64,
    /// What is added before the first sample and behind the last one.
    to_start: f64,
    to_end: f64,
}

impl Reach {
    #[inline]
    fn new(first_t: i64, last_t: i64, count: f64, end_ms: i64, range_ms: i64) -> Self {
        let mut to_start = (first_t - (end_ms - range_ms)) as f64 / 1000.0;
        let mut to_end = (end_ms - last_t) as f64 / 1000.0;
        let sampled = (last_t - first_t) as f64 / 1000.0;
        let average = sampled / (count - 1.0);
        let threshold = average * 1.1;
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        Self { sampled, to_start, to_end }
    }

    /// The same of a counter that can't have been below zero, so that it began where it would be zero at the earliest.
    #[inline]
    fn since_zero(self, increase: f64, first: f64) -> Self {
        let to_zero = self.sampled * (first / increase);
        if to_zero < self.to_start { Self { to_start: to_zero, ..self } } else { self }
    }

    #[inline]
    fn factor(self, range_ms: i64, kind: Extrapolation) -> f64 {
        let stretch = (self.sampled + self.to_start + self.to_end) / self.sampled;
        if kind == Extrapolation::Rate { stretch / (range_ms as f64 / 1000.0) } else { stretch }
    }
}

impl Plan {
    fn new(frame: &Frame, raw: &Raw, steps: Steps, kind: Extrapolation) -> Self {
        let mut windows = Vec::with_capacity(steps.count);
        // Whose windows these are counts its samples itself.
        let mut looked_at = vec![0; steps.count];
        let range_ms = frame.range_ms;
        frame.each(raw, steps, &mut looked_at, |step, time_ms, window| {
            let (first, last) = (window.start, window.end - 1);
            let (first_t, last_t) = (raw.timestamps[first], raw.timestamps[last]);
            let reach = Reach::new(first_t, last_t, window.len() as f64, frame.end_ms(time_ms), range_ms);
            let factor = reach.factor(range_ms, kind);
            windows.push(Planned { step: step as u32, first: first as u32, last: last as u32, reach, factor });
        });
        Self { kind, range_ms, windows }
    }

    fn column(&self, raw: &Raw, values: &mut [f64], looked_at: &mut [u64]) {
        let samples = &*raw.values;
        let is_counter = self.kind != Extrapolation::Delta;
        // Where a counter fell, found once for the series; windows only add what lies within.
        let mut resets = Vec::new();
        let fell = |pair: &[f64]| pair[1] < pair[0];
        if is_counter && samples.windows(2).fold(false, |any, pair| any | fell(pair)) {
            resets.extend((1..samples.len()).filter(|i| fell(&samples[i - 1..=*i])));
        }
        let mut next_reset = 0;
        for window in &self.windows {
            let (step, first_at, last_at) = (window.step as usize, window.first as usize, window.last as usize);
            looked_at[step] += (last_at - first_at + 1) as u64;
            if first_at == last_at {
                continue;
            }
            let first = samples[first_at];
            let mut increase = samples[last_at] - first;
            if !resets.is_empty() {
                while resets.get(next_reset).is_some_and(|at| *at <= first_at) {
                    next_reset += 1;
                }
                let within = resets[next_reset..].iter().take_while(|at| **at <= last_at);
                within.for_each(|at| increase += samples[at - 1]);
            }
            let is_near_zero = || increase > 0.0 && first >= 0.0 && !is_surely_above(window.reach, increase, first);
            let factor = if is_counter && is_near_zero() {
                window.reach.since_zero(increase, first).factor(self.range_ms, self.kind)
            } else {
                window.factor
            };
            values[step] = increase * factor;
        }
    }
}

/// Whether the counter was so far above zero that [`Reach::since_zero`] changes nothing: without a division, and true only
/// where rounding can't matter.
#[inline]
fn is_surely_above(reach: Reach, increase: f64, first: f64) -> bool {
    let least = reach.to_start * increase;
    least > f64::MIN_POSITIVE && reach.sampled * first > least * (1.0 + 1e-9)
}

/// Steps and moments of plans that are kept at once: some megabytes.
const MAX_KEPT: usize = 1 << 17;

/// Plans by the column of moments that several series share.
#[derive(Default)]
struct Plans(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// By the address of the moments.
    columns: HashMap<usize, Column>,
    size: usize,
}

struct Column {
    /// Held, so that no address is used twice.
    moments: Arc<[i64]>,
    /// From the second series on.
    plan: Option<Arc<Plan>>,
}

impl Plans {
    /// The plan of the series' moments, made by `make` where it is worth to be kept.
    fn of(&self, raw: &Raw, make: impl FnOnce() -> Plan) -> Option<Arc<Plan>> {
        // Nobody else has these.
        if Arc::strong_count(&raw.timestamps) == 1 {
            return None;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = raw.timestamps.as_ptr().addr();
        let Some(column) = kept.columns.get_mut(&address) else {
            if kept.size > MAX_KEPT {
                *kept = Kept::default();
            }
            kept.size += raw.timestamps.len();
            kept.columns.insert(address, Column { moments: Arc::clone(&raw.timestamps), plan: None });
            return None;
        };
        if let Some(plan) = &column.plan {
            return Some(Arc::clone(plan));
        }
        let made = Arc::new(make());
        column.plan = Some(Arc::clone(&made));
        kept.size += column.moments.len().max(made.windows.len());
        Some(made)
    }
}

/// All that extrapolation needs of a window's samples, at least two.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// Time stamp and value.
    pub(crate) first: (i64, f64),
    pub(crate) last: (i64, f64),
    pub(crate) count: f64,
}

/// Prometheus' `extrapolatedRate`: the difference of the window's ends, with what resets lost, stretched to the
/// window's borders where samples suggest that the series goes on there.
#[inline]
pub(crate) fn extrapolate_ends(
    ends: Ends,
    lost_in_resets: impl Iterator<Item = f64>,
    end_ms: i64,
    range_ms: i64,
    kind: Extrapolation,
) -> f64 {
    let Ends { first: (first_t, first), last: (last_t, last), count } = ends;
    let mut increase = last - first;
    for lost in lost_in_resets {
        increase += lost;
    }
    let mut reach = Reach::new(first_t, last_t, count, end_ms, range_ms);
    if kind != Extrapolation::Delta && increase > 0.0 && first >= 0.0 {
        reach = reach.since_zero(increase, first);
    }
    increase * reach.factor(range_ms, kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use veghe_model::Labels;

    fn raw(moments: &Arc<[i64]>, values: Vec<f64>) -> Raw {
        Raw { labels: Labels::default(), drop_name: false, timestamps: Arc::clone(moments), values, starts: None }
    }

    /// Each window by itself.
    fn each(frame: &Frame, raw: &Raw, steps: Steps, kind: Extrapolation, looked_at: &mut [u64]) -> Vec<f64> {
        let mut values = vec![ABSENT; steps.count];
        frame.each(raw, steps, looked_at, |step, time_ms, window| {
            let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window]);
            if let (&[first_t, .., last_t], &[first, .., last]) = (t, v) {
                let ends = Ends { first: (first_t, first), last: (last_t, last), count: t.len() as f64 };
                let fell = v.windows(2).filter(|pair| kind != Extrapolation::Delta && pair[1] < pair[0]);
                values[step] = extrapolate_ends(ends, fell.map(|p| p[0]), frame.end_ms(time_ms), frame.range_ms, kind);
            }
        });
        values
    }

    proptest! {
        #[test]
        fn shared_plans_give_the_bits_of_each_window_by_itself(
            gaps in prop::collection::vec(prop_oneof![9 => Just(15_000_i64), 1 => 1_i64..200_000], 1..120),
            series in prop::collection::vec(prop::collection::vec(prop_oneof![
                8 => 0.0_f64..50.0,
                2 => any::<f64>(),
                1 => Just(0.0),
                1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-1.0), Just(5e-324)],
            ], 120), 1..5),
            counts_up: bool,
            (range_ms, step_ms) in (1_i64..600_000, 1_i64..90_000),
        ) {
            let moments: Arc<[i64]> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let steps = Steps { start_ms: -20_000, step_ms, count: 60 };
            let frame = Frame::plain(range_ms);
            for kind in [Extrapolation::Rate, Extrapolation::Increase, Extrapolation::Delta] {
                let plans = Plans::default();
                for (number, values) in series.iter().enumerate() {
                    let mut sum = 0.0;
                    let up = |v: &f64| { sum += v; if counts_up { sum } else { *v } };
                    let raw = raw(&moments, values.iter().take(moments.len()).map(up).collect());
                    let (mut looked_at, mut seen) = (vec![0; steps.count], vec![0; steps.count]);
                    let mut column = vec![ABSENT; steps.count];
                    let plan = plans.of(&raw, || Plan::new(&frame, &raw, steps, kind));
                    prop_assert_eq!(plan.is_some(), number > 0);
                    let plan = plan.unwrap_or_else(|| Arc::new(Plan::new(&frame, &raw, steps, kind)));
                    plan.column(&raw, &mut column, &mut looked_at);
                    let expected = each(&frame, &raw, steps, kind, &mut seen);
                    let bits = |all: &[f64]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&column), bits(&expected));
                    prop_assert_eq!(looked_at, seen);
                }
            }
        }
    }
}
