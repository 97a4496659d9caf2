//! Warnings and infos, each once, with the place in the query that they speak of.

use crate::ast::{Expr, Quoted};
use crate::line_and_column;

/// A result can't be read with more remarks than this; the rest is counted out.
const ANNOTATIONS_MAX: usize = 10;

#[derive(Debug, Default)]
pub(crate) struct Annotations {
    warnings: Vec<String>,
    infos: Vec<String>,
}

impl Annotations {
    pub(crate) fn into_lists(self) -> (Vec<String>, Vec<String>) {
        (self.warnings, self.infos)
    }
}

fn add(list: &mut Vec<String>, text: String) {
    if list.len() < ANNOTATIONS_MAX && !list.contains(&text) {
        list.push(text);
    }
}

impl super::Engine<'_> {
    pub(crate) fn warn(&self, at: &Expr, text: &str) {
        let (line, column) = line_and_column(self.query.text(), at.span.start);
        add(&mut self.notes.borrow_mut().warnings, format!("PromQL warning: {text} ({line}:{column})"));
    }

    pub(crate) fn info(&self, at: &Expr, text: &str) {
        let (line, column) = line_and_column(self.query.text(), at.span.start);
        add(&mut self.notes.borrow_mut().infos, format!("PromQL info: {text} ({line}:{column})"));
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

    pub(crate) fn check_quantiles(&self, at: &Expr, quantiles: &[f64]) {
        for q in quantiles {
            self.check_quantile(at, *q);
        }
    }

    fn check_quantile(&self, at: &Expr, q: f64) {
        if q.is_nan() || !(0.0..=1.0).contains(&q) {
            let q = crate::ast::Number(q);
            self.warn(at, &format!("quantile value should be between 0 and 1, got {q}"));
        }
    }
}
