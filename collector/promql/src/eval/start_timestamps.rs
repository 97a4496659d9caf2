//! Counters that say when they began: a reset shows even where the value did not fall, and the window's first sample
//! tells what came before it.

use super::Engine;
use super::select::Raw;
use crate::ast::Expr;
use crate::print::Quoted;

/// A sample and when its count began, in milliseconds; 0 where unknown.
#[derive(Clone, Copy)]
pub(crate) struct Started {
    pub(crate) time_ms: i64,
    pub(crate) start_ms: i64,
}

impl Started {
    pub(crate) fn at(raw: &Raw, i: usize) -> Self {
        Self { time_ms: raw.timestamps[i], start_ms: raw.starts.as_ref().map_or(0, |s| s[i]) }
    }

    /// Whether the count began anew between `before` and this.
    pub(crate) fn is_reset_after(self, before: Self) -> bool {
        if self.start_ms == 0 || self.start_ms >= self.time_ms || self.start_ms < before.time_ms {
            return false;
        }
        if self.start_ms > before.time_ms {
            return true;
        }
        // It began exactly at the sample before: a delta, or a count whose beginning nobody knows. Only a delta has a
        // known and sensible start before that.
        before.start_ms != 0 && before.start_ms < before.time_ms
    }

    /// Whether this claims to have begun before the last sample of another count, which can't be.
    fn overlaps(self, before: Self) -> bool {
        self.start_ms != 0 && self.start_ms < before.time_ms && self.start_ms != before.start_ms
    }
}

impl Engine<'_> {
    /// A count of `metric` claims to have begun within another one.
    pub(crate) fn warn_overlap(&self, at: &Expr, metric: &str) {
        let name = Quoted(metric);
        self.warn(at, &format!("sample has start time that overlaps with previous sample timestamp for metric {name}"));
    }
}

/// `rate` and `increase` of one window whose samples have start timestamps: Prometheus' `extrapolatedRate`, where a first
/// sample that began within the window stands for a zero at that moment and needs no extrapolation. The increase is told
/// for `per_seconds`: the window's length for `rate`, 1 for `increase`.
pub(crate) fn started_increase(
    raw: &Raw,
    window: &std::ops::Range<usize>,
    (start_ms, end_ms): (i64, i64),
    per_seconds: f64,
    overlaps: &mut bool,
) -> Option<f64> {
    let (t, v) = (&raw.timestamps[window.clone()], &raw.values[window.clone()]);
    let (&first_t, &last_t) = (t.first()?, t.last()?);
    let mut result = v.last()? - v.first()?;
    for i in window.start + 1..window.end {
        let (before, this) = (Started::at(raw, i - 1), Started::at(raw, i));
        *overlaps |= this.overlaps(before);
        if raw.values[i] < raw.values[i - 1] || this.is_reset_after(before) {
            result += raw.values[i - 1];
        }
    }
    let mut to_start = (first_t - start_ms) as f64 / 1000.0;
    let mut to_end = (end_ms - last_t) as f64 / 1000.0;
    let mut sampled = (last_t - first_t) as f64 / 1000.0;
    let average = if t.len() > 1 { sampled / (t.len() - 1) as f64 } else { 0.0 };
    let threshold = average * 1.1;
    let began_ms = Started::at(raw, window.start).start_ms;
    if began_ms != 0 && began_ms > start_ms && began_ms < first_t {
        to_start = 0.0;
        sampled = (last_t - began_ms) as f64 / 1000.0;
        result += v[0];
    } else if t.len() < 2 {
        return None;
    } else {
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if result > 0.0 && v[0] >= 0.0 {
            to_start = to_start.min(sampled * (v[0] / result));
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let stretch = if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled };
    Some(result * (stretch / per_seconds))
}
