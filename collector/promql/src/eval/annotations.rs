//! Warnings and infos, each once, with the place in the query that they speak of.

use std::collections::HashSet;

use crate::ast::{Expr, ExprKind, Selector};
use crate::line_and_column;
use crate::print::{Exponential, Number, Quoted};

use super::dates;

/// A result can't be read with more remarks than this; the rest is counted out, as Prometheus' API does.
const ANNOTATIONS_MAX: usize = 10;

/// Remarks told apart; beyond, a query that yields a different one for every series is not followed.
const DISTINCT_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Annotations {
    warnings: Remarks,
    infos: Remarks,
    /// Kept apart because those of one metric become one remark.
    forced: Vec<Forced>,
}

/// As in Prometheus the same text is one remark, and tells of the last place that gave it.
#[derive(Debug, Default)]
struct Remarks {
    /// Text and place.
    shown: Vec<(String, String)>,
    omitted: HashSet<String>,
}

impl Remarks {
    fn add(&mut self, text: String, place: String) {
        if let Some((_, known)) = self.shown.iter_mut().find(|(shown, _)| *shown == text) {
            *known = place;
        } else if self.shown.len() < ANNOTATIONS_MAX {
            self.shown.push((text, place));
        } else if self.omitted.len() < DISTINCT_MAX {
            self.omitted.insert(text);
        }
    }

    fn into_list(self, what: &str) -> Vec<String> {
        let mut list: Vec<String> = self.shown.into_iter().map(|(text, place)| format!("{text} ({place})")).collect();
        if !self.omitted.is_empty() {
            list.push(format!("{} more {what} annotations omitted", self.omitted.len()));
        }
        list
    }
}

/// Buckets of a classic histogram whose counts fell and were mended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fix {
    pub(crate) time_ms: i64,
    pub(crate) lowest_bucket: f64,
    pub(crate) highest_bucket: f64,
    pub(crate) largest_difference: f64,
}

#[derive(Debug)]
struct Forced {
    text: String,
    place: String,
    fix: Fix,
    last_ms: i64,
    samples: usize,
}

impl Annotations {
    pub(crate) fn into_lists(mut self) -> (Vec<String>, Vec<String>) {
        for forced in self.forced {
            let Fix { time_ms, lowest_bucket, highest_bucket, largest_difference } = forced.fix;
            let (lowest, highest) = (Exponential(lowest_bucket), Exponential(highest_bucket));
            let difference = two_digits(largest_difference);
            let (first, last) = (dates::rfc3339(time_ms), dates::rfc3339(forced.last_ms));
            let text = format!(
                "{}, from buckets {lowest} to {highest}, with a max diff of {difference}, over {} samples from {first} to \
                 {last}",
                forced.text, forced.samples
            );
            self.infos.add(text, forced.place);
        }
        (self.warnings.into_list("warning"), self.infos.into_list("info"))
    }
}

/// Go's `%.2g`.
fn two_digits(value: f64) -> String {
    format!("{value:.1e}").parse::<f64>().map_or_else(
        |_| Number(value).to_string(),
        |v| {
            let text = Exponential(v).to_string();
            // `%.2g` turns to exponents earlier than the shortest form does.
            if v.abs() >= 100.0 && v.is_finite() && !text.contains('e') { exponent_form(v) } else { text }
        },
    )
}

fn exponent_form(value: f64) -> String {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}e+{exponent:0>2}")
}

impl super::Engine<'_> {
    pub(crate) fn warn(&self, at: &Expr, text: &str) {
        let place = self.place(at);
        self.notes.borrow_mut().warnings.add(format!("PromQL warning: {text}"), place);
    }

    pub(crate) fn info(&self, at: &Expr, text: &str) {
        let place = self.place(at);
        self.notes.borrow_mut().infos.add(format!("PromQL info: {text}"), place);
    }

    /// [`Self::info`] of a selector.
    pub(crate) fn info_of_selector(&self, selector: &Selector, text: &str) {
        self.query.expr().walk(&mut |expr| {
            if let ExprKind::Selector(at) | ExprKind::Matrix { selector: at, .. } = &expr.kind
                && std::ptr::eq(&raw const *at, selector)
            {
                self.info(expr, text);
            }
        });
    }

    fn place(&self, at: &Expr) -> String {
        let (line, column) = line_and_column(self.query.text(), at.span.start);
        format!("{line}:{column}")
    }

    pub(crate) fn note_possible_non_counter(&self, at: &Expr, metric: &str) {
        if metric.is_empty() || ["_total", "_sum", "_count", "_bucket"].iter().any(|end| metric.ends_with(end)) {
            return;
        }
        let name = Quoted(metric);
        self.info(
            at,
            &format!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name}"),
        );
    }

    /// Buckets of `metric` (empty where its name is gone) had to be mended at a step.
    pub(crate) fn note_forced_monotonicity(&self, at: &Expr, metric: &str, fix: Fix) {
        let text = with_metric_name(
            "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see \
             https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
                .to_owned(),
            metric,
        );
        let place = self.place(at);
        let forced = &mut self.notes.borrow_mut().forced;
        if let Some(known) = forced.iter_mut().find(|f| f.text == text) {
            known.place = place;
            known.samples += 1;
            known.last_ms = known.last_ms.max(fix.time_ms);
            known.fix.time_ms = known.fix.time_ms.min(fix.time_ms);
            known.fix.lowest_bucket = known.fix.lowest_bucket.min(fix.lowest_bucket);
            known.fix.highest_bucket = known.fix.highest_bucket.max(fix.highest_bucket);
            known.fix.largest_difference = known.fix.largest_difference.max(fix.largest_difference);
        } else if forced.len() < DISTINCT_MAX {
            forced.push(Forced { text, place, last_ms: fix.time_ms, samples: 1, fix });
        }
    }

    pub(crate) fn check_quantiles(&self, at: &Expr, quantiles: &[f64]) {
        for q in quantiles {
            if q.is_nan() || !(0.0..=1.0).contains(q) {
                let q = Exponential(*q);
                self.warn(at, &format!("quantile value should be between 0 and 1, got {q}"));
            }
        }
    }
}

/// `text` with the metric's name behind it, where there is one.
pub(crate) fn with_metric_name(text: String, metric: &str) -> String {
    if metric.is_empty() { text } else { format!("{text} for metric name {}", Quoted(metric)) }
}

#[cfg(test)]
mod tests {
    use super::two_digits;

    #[test]
    fn two_digits_are_as_go_prints_them() {
        for (value, text) in
            [(10.0, "10"), (5.5, "5.5"), (1.0, "1"), (123.0, "1.2e+02"), (0.012_34, "0.012"), (1e-7, "1e-07")]
        {
            assert_eq!(two_digits(value), text);
        }
    }
}
