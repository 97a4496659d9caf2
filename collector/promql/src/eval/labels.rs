//! Functions that change or sort by labels.

use std::cmp::Ordering;
use std::fmt;

use veghe_model::{Labels, METRIC_NAME};

use super::{Engine, Evaluated, Row, Steps, not_text};
use crate::EvalError;
use crate::ast::Expr;
use crate::print::Quoted;

/// Labels as Prometheus' errors print them: `{__name__="up", job="node"}`.
pub(crate) struct BracedLabels<'a>(pub(crate) &'a Labels);

impl fmt::Display for BracedLabels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, label) in self.0.iter().enumerate() {
            write!(f, "{}{}={}", if i == 0 { "" } else { ", " }, label.name, Quoted(&label.value))?;
        }
        f.write_str("}")
    }
}

/// The labels that describe a metric and no series of it: what drops the name drops all three.
const METADATA_BESIDE_NAME: [&str; 2] = ["__type__", "__unit__"];

pub(crate) fn is_metadata(name: &str) -> bool {
    name == METRIC_NAME || METADATA_BESIDE_NAME.contains(&name)
}

pub(crate) fn has_metadata_beside_name(labels: &Labels) -> bool {
    METADATA_BESIDE_NAME.iter().any(|name| labels.get(name).is_some())
}

/// The labels without name, type and unit.
pub(crate) fn without_metadata(labels: &Labels) -> Labels {
    if !has_metadata_beside_name(labels) {
        return labels.without_name();
    }
    labels.filter(|name| !is_metadata(name))
}

/// The compiled size of a pattern, as for matchers.
const REGEX_SIZE_LIMIT_BYTES: usize = 4 << 20;

impl Engine<'_> {
    pub(crate) fn label_replace(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let destination = self.string(&args[1], steps)?;
        let replacement = self.string(&args[2], steps)?;
        let source = self.string(&args[3], steps)?;
        let pattern = self.string(&args[4], steps)?;
        if not_text(&args[4]).is_some() {
            return Err(EvalError::Execution(format!("invalid regular expression in label_replace(): {pattern}")));
        }
        let regex = regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
            .size_limit(REGEX_SIZE_LIMIT_BYTES)
            .build()
            .map_err(|error| {
            EvalError::Execution(format!("invalid regular expression in label_replace(): {pattern}: {error}"))
        })?;
        check_name(&args[1], &destination, "destination", "label_replace")?;
        let mut rows = self.vector(&args[0], steps)?;
        for row in &mut rows {
            self.check_stop()?;
            let value = row.labels.get(&source).unwrap_or("");
            let Some(captures) = regex.captures(value) else { continue };
            let mut replaced = String::new();
            captures.expand(&replacement, &mut replaced);
            set_label(row, &destination, replaced);
        }
        self.merge(rows)
    }

    pub(crate) fn label_join(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let destination = self.string(&args[1], steps)?;
        let separator = self.string(&args[2], steps)?;
        let sources = args[3..].iter().map(|a| self.string(a, steps)).collect::<Evaluated<Vec<_>>>()?;
        for (arg, source) in args[3..].iter().zip(&sources) {
            check_name(arg, source, "source", "label_join")?;
        }
        check_name(&args[1], &destination, "destination", "label_join")?;
        let mut rows = self.vector(&args[0], steps)?;
        for row in &mut rows {
            let values: Vec<&str> = sources.iter().map(|s| row.labels.get(s).unwrap_or("")).collect();
            let joined = values.join(&separator);
            set_label(row, &destination, joined);
        }
        self.merge(rows)
    }

    pub(crate) fn sort_by_label(&self, args: &[Expr], steps: Steps, descending: bool) -> Evaluated<Vec<Row>> {
        let names = args[1..].iter().map(|a| self.string(a, steps)).collect::<Evaluated<Vec<_>>>()?;
        let mut rows = self.vector(&args[0], steps)?;
        if !self.is_instant() {
            self.warn(&args[0], SORT_IN_RANGE);
            return Ok(rows);
        }
        rows.sort_by(|a, b| {
            let order = names
                .iter()
                .map(|name| natural(a.labels.get(name).unwrap_or(""), b.labels.get(name).unwrap_or("")))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.labels.cmp(&b.labels));
            if descending { order.reverse() } else { order }
        });
        Ok(rows)
    }
}

pub(crate) const SORT_IN_RANGE: &str =
    "sort is ineffective for range queries since results are always ordered by labels";

fn check_name(arg: &Expr, name: &str, role: &str, function: &str) -> Evaluated<()> {
    if name.is_empty() || not_text(arg).is_some() {
        return Err(EvalError::Execution(format!("invalid {role} label name in {function}(): {name}")));
    }
    Ok(())
}

fn set_label(row: &mut Row, name: &str, value: String) {
    let mut builder = row.labels.to_builder();
    builder.set(name, value);
    row.labels = builder.build();
    if name == METRIC_NAME {
        row.drop_name = false;
    }
}

/// Runs of digits by their number, everything else by its bytes.
fn natural(mut a: &str, mut b: &str) -> Ordering {
    loop {
        match (a.is_empty(), b.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (run_a, rest_a) = run(a);
        let (run_b, rest_b) = run(b);
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let order = if digits(run_a) && digits(run_b) {
            let (short_a, short_b) = (run_a.trim_start_matches('0'), run_b.trim_start_matches('0'));
            (short_a.len().cmp(&short_b.len()))
                .then_with(|| short_a.cmp(short_b))
                .then_with(|| run_a.len().cmp(&run_b.len()))
        } else {
            run_a.cmp(run_b)
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// The digits or the other characters that `s` begins with.
fn run(s: &str) -> (&str, &str) {
    let digits = s.bytes().next().is_some_and(|b| b.is_ascii_digit());
    let end = s.bytes().position(|b| b.is_ascii_digit() != digits).unwrap_or(s.len());
    s.split_at(end)
}
