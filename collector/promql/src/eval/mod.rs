//! Evaluation: every node yields all its steps at once, a column of values per series.
//!
//! A column holds one `f64` per step; the staleness marker stands for "no value here". No computation yields that
//! marker (it is a signalling NaN, results are quiet ones) and it is never a value in PromQL, so no bitmap is needed.
//!
//! What it deliberately does not do: read a series twice. A selector reads each series once for the whole query.

mod accumulate;
mod aggregate;
mod annotations;
mod binary;
mod dates;
mod extrapolation;
mod fold;
mod histogram;
mod info;
mod instant_functions;
mod labels;
mod numerics;
mod range_functions;
mod rollups;
mod select;
mod start_timestamps;
mod window_sums;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use veghe_model::{Labels, SeriesData, Timestamp, is_stale, stale_nan};

use crate::ast::{Expr, ExprKind, Length};
use crate::duration::{QuerySpan, Zero};
use crate::print::QuotedBytes;
use crate::{EvalError, Evaluation, Limits, NameRemoval, Query, SampleStats, Source, Value, VectorSample};
use annotations::Annotations;
use fold::Fold;
use labels::without_metadata;

/// "No value at this step."
pub(crate) const ABSENT: f64 = stale_nan();

pub(crate) fn is_absent(value: f64) -> bool {
    is_stale(value)
}

/// Moments beyond this are refused, so that no sum with ranges and offsets overflows.
const MOMENT_MAX_MS: i64 = i64::MAX / 8;

/// The moments of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) start_ms: i64,
    pub(crate) step_ms: i64,
    pub(crate) count: usize,
}

impl Steps {
    pub(crate) fn instant(at: Timestamp) -> Result<Self, EvalError> {
        check_moment(at)?;
        Ok(Self { start_ms: at.0, step_ms: 0, count: 1 })
    }

    pub(crate) fn range(
        start: Timestamp,
        end: Timestamp,
        step: Duration,
        max_samples: usize,
    ) -> Result<Self, EvalError> {
        check_moment(start)?;
        check_moment(end)?;
        let step_ms = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).min(MOMENT_MAX_MS);
        if step_ms == 0 {
            return Err(EvalError::Step);
        }
        if end < start {
            return Err(EvalError::EndBeforeStart);
        }
        let count = usize::try_from((end.0 - start.0) / step_ms + 1).unwrap_or(usize::MAX);
        if count > max_samples {
            return Err(EvalError::TooManySamples);
        }
        Ok(Self { start_ms: start.0, step_ms, count })
    }

    pub(crate) fn time_ms(self, step: usize) -> i64 {
        self.start_ms + self.step_ms * step as i64
    }

    pub(crate) fn last_ms(self) -> i64 {
        self.time_ms(self.count.saturating_sub(1))
    }

    pub(crate) fn times_ms(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |i| self.time_ms(i))
    }
}

fn check_moment(at: Timestamp) -> Result<(), EvalError> {
    if at.0.abs_diff(0) > MOMENT_MAX_MS as u64 { Err(EvalError::Timestamp(at.0)) } else { Ok(()) }
}

/// A series of a vector over all steps.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) labels: Labels,
    pub(crate) values: Vec<f64>,
    /// Under [`NameRemoval::Delayed`]: the name goes at the end.
    pub(crate) drop_name: bool,
}

/// What a node yields.
pub(crate) enum Columns {
    Scalar(Vec<f64>),
    Vector(Vec<Row>),
    String(String),
}

pub(crate) type Evaluated<T> = Result<T, EvalError>;

pub(crate) struct Engine<'a> {
    query: &'a Query,
    source: &'a dyn Source,
    limits: &'a Limits,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// The query's own moments, which `@ start()` and `@ end()` name also inside a subquery.
    outer: Steps,
    end_ms: i64,
    samples: Cell<usize>,
    peak: Cell<usize>,
    /// Samples of the longest series of the last selection.
    longest: Cell<usize>,
    /// Samples that the storage gave.
    read: Cell<u64>,
    /// Samples that each of the query's own steps looked at.
    looked_at: RefCell<Vec<u64>>,
    notes: RefCell<Annotations>,
    /// Where the rows of the selector that is evaluated next go instead of into a list.
    fold: RefCell<Option<Arc<Fold>>>,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(
        query: &'a Query,
        source: &'a dyn Source,
        limits: &'a Limits,
        stop: &'a (dyn Fn() -> bool + Sync),
        outer: Steps,
    ) -> Self {
        let end_ms = outer.last_ms();
        Self {
            query,
            source,
            limits,
            stop,
            outer,
            end_ms,
            samples: Cell::new(0),
            peak: Cell::new(0),
            longest: Cell::new(0),
            read: Cell::new(0),
            looked_at: RefCell::new(vec![0; outer.count]),
            notes: RefCell::new(Annotations::default()),
            fold: RefCell::new(None),
        }
    }

    pub(crate) fn instant(self) -> Evaluated<Evaluation> {
        let at = Timestamp(self.outer.start_ms);
        let expr = self.query.expr().unparen();
        let value = if matches!(expr.kind, ExprKind::Matrix { .. } | ExprKind::Subquery { .. }) {
            Value::Matrix(self.raw_matrix(expr)?)
        } else {
            match self.eval(expr, self.outer)? {
                Columns::Scalar(values) => Value::Scalar(at, values.first().copied().unwrap_or(f64::NAN)),
                Columns::String(text) => Value::String(at, text),
                Columns::Vector(rows) => Value::Vector(
                    self.finish_names(rows)?
                        .into_iter()
                        .filter_map(|row| {
                            let value = row.values.first().copied().filter(|v| !is_absent(*v))?;
                            Some(VectorSample { labels: row.labels, timestamp: at, value })
                        })
                        .collect(),
                ),
            }
        };
        Ok(self.with_notes(value))
    }

    pub(crate) fn range(mut self, end: Timestamp) -> Evaluated<Evaluation> {
        self.end_ms = end.0;
        let kind = self.query.kind();
        if !matches!(kind, crate::QueryKind::Scalar | crate::QueryKind::Vector) {
            return Err(EvalError::RangeKind(kind.words()));
        }
        let rows = match self.eval(self.query.expr(), self.outer)? {
            Columns::Scalar(values) => vec![Row { labels: Labels::default(), values, drop_name: false }],
            Columns::Vector(rows) => self.finish_names(rows)?,
            Columns::String(_) => return Err(EvalError::RangeKind("string")),
        };
        // Series with a value at every step share one column of time stamps.
        let all: Arc<[i64]> = self.outer.times_ms().collect();
        let mut matrix: Vec<SeriesData> = rows
            .into_iter()
            .filter_map(|row| {
                let present = row.values.iter().filter(|v| !is_absent(**v)).count();
                if present == 0 {
                    return None;
                }
                if present == row.values.len() {
                    return Some(SeriesData { labels: row.labels, timestamps: Arc::clone(&all), values: row.values });
                }
                let timestamps =
                    all.iter().zip(&row.values).filter(|(_, v)| !is_absent(**v)).map(|(t, _)| *t).collect();
                let values = row.values.into_iter().filter(|v| !is_absent(*v)).collect();
                Some(SeriesData { labels: row.labels, timestamps, values })
            })
            .collect();
        matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(self.with_notes(Value::Matrix(matrix)))
    }

    fn with_notes(self, value: Value) -> Evaluation {
        let (warnings, infos) = self.notes.into_inner().into_lists();
        let per_step = self.looked_at.into_inner();
        let stats = SampleStats {
            total: per_step.iter().sum(),
            per_step: self.outer.times_ms().map(Timestamp).zip(per_step).collect(),
            read: self.read.get(),
            peak: self.peak.get() as u64,
        };
        Evaluation { value, warnings, infos, stats }
    }

    /// The length in milliseconds, computed where the query says so.
    pub(crate) fn length_ms(&self, length: &Length, zero: Zero) -> Evaluated<i64> {
        match length {
            Length::Millis(ms) => Ok(*ms),
            Length::Computed(expr) => {
                let query = QuerySpan {
                    step_ms: self.outer.step_ms,
                    range_ms: self.end_ms.saturating_sub(self.outer.start_ms),
                };
                let ms = expr.millis(query, zero).map_err(EvalError::Execution)?;
                // A range of less than a millisecond holds nothing.
                Ok(if zero == Zero::Refused { ms.max(1) } else { ms })
            }
        }
    }

    /// Counts the samples that each step of the query looked at; those within a subquery count in what it yields.
    pub(crate) fn count_looked_at(&self, steps: Steps, per_step: &[u64]) {
        if steps == self.outer {
            for (sum, n) in self.looked_at.borrow_mut().iter_mut().zip(per_step) {
                *sum += n;
            }
        }
    }

    /// Counts `samples` as held in memory.
    pub(crate) fn charge(&self, samples: usize) -> Evaluated<()> {
        let held = self.samples.get().saturating_add(samples);
        if held > self.limits.max_samples {
            return Err(EvalError::TooManySamples);
        }
        self.samples.set(held);
        self.peak.set(self.peak.get().max(held));
        Ok(())
    }

    /// How many samples may yet be held.
    pub(crate) fn room(&self) -> usize {
        self.limits.max_samples.saturating_sub(self.samples.get())
    }

    pub(crate) fn release(&self, samples: usize) {
        self.samples.set(self.samples.get().saturating_sub(samples));
    }

    pub(crate) fn release_rows(&self, rows: &[Row]) {
        self.release(rows.iter().map(|r| r.values.len()).sum());
    }

    pub(crate) fn check_stop(&self) -> Evaluated<()> {
        if (self.stop)() { Err(EvalError::Stopped) } else { Ok(()) }
    }

    /// A new column without values, counted as held.
    pub(crate) fn empty_column(&self, steps: Steps) -> Evaluated<Vec<f64>> {
        self.charge(steps.count)?;
        Ok(vec![ABSENT; steps.count])
    }

    pub(crate) fn is_instant(&self) -> bool {
        self.outer.step_ms == 0
    }

    pub(crate) fn delays_names(&self) -> bool {
        self.query.names() == NameRemoval::Delayed
    }

    pub(crate) fn eval(&self, expr: &Expr, steps: Steps) -> Evaluated<Columns> {
        self.check_stop()?;
        match &expr.kind {
            ExprKind::Paren(inner) | ExprKind::Plus(inner) => self.eval(inner, steps),
            ExprKind::Number { value, .. } => {
                self.charge(steps.count)?;
                Ok(Columns::Scalar(vec![*value; steps.count]))
            }
            ExprKind::String(text) => Ok(Columns::String(text.clone())),
            // As every reader of JSON sees what Prometheus gives; where they are to be a label's name, `not_text` tells.
            ExprKind::Bytes(bytes) => Ok(Columns::String(String::from_utf8_lossy(bytes).into_owned())),
            ExprKind::Selector(selector) => Ok(Columns::Vector(self.instant_vector(selector, steps)?)),
            ExprKind::Matrix { .. } | ExprKind::Subquery { .. } => {
                Err(EvalError::Execution("range vector where an instant vector is due".to_owned()))
            }
            ExprKind::Negate(inner) => self.negate(inner, steps),
            ExprKind::Binary(chain) => self.chain(chain, steps),
            ExprKind::Aggregate { op, param, expr: over, grouping } => {
                self.aggregate(*op, param.as_deref(), over, grouping, steps).map(Columns::Vector)
            }
            ExprKind::Call { function, args } => self.call(expr, function.name, args, steps),
        }
    }

    pub(crate) fn vector(&self, expr: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        match self.eval(expr, steps)? {
            Columns::Vector(rows) => Ok(rows),
            _ => Err(EvalError::Execution("instant vector expected".to_owned())),
        }
    }

    pub(crate) fn scalar(&self, expr: &Expr, steps: Steps) -> Evaluated<Vec<f64>> {
        match self.eval(expr, steps)? {
            Columns::Scalar(values) => Ok(values),
            _ => Err(EvalError::Execution("scalar expected".to_owned())),
        }
    }

    pub(crate) fn string(&self, expr: &Expr, steps: Steps) -> Evaluated<String> {
        match self.eval(expr, steps)? {
            Columns::String(text) => Ok(text),
            _ => Err(EvalError::Execution("string expected".to_owned())),
        }
    }

    fn negate(&self, inner: &Expr, steps: Steps) -> Evaluated<Columns> {
        match self.eval(inner, steps)? {
            Columns::Scalar(mut values) => {
                for v in &mut values {
                    *v = -*v;
                }
                Ok(Columns::Scalar(values))
            }
            Columns::Vector(rows) => {
                let rows = map_values(rows, |v| -v);
                Ok(Columns::Vector(self.drop_names(rows)?))
            }
            Columns::String(_) => Err(EvalError::Execution("scalar or instant vector expected".to_owned())),
        }
    }

    /// `rows` after an operation that drops the metric's name.
    pub(crate) fn drop_names(&self, mut rows: Vec<Row>) -> Evaluated<Vec<Row>> {
        if self.delays_names() {
            for row in &mut rows {
                row.drop_name = true;
            }
            return Ok(rows);
        }
        let same_name = rows.windows(2).all(|w| w[0].labels.metric_name() == w[1].labels.metric_name());
        for row in &mut rows {
            row.labels = without_metadata(&row.labels);
        }
        // Labels were unique before; without one common name they still are.
        if same_name { Ok(rows) } else { self.merge(rows) }
    }

    fn finish_names(&self, mut rows: Vec<Row>) -> Evaluated<Vec<Row>> {
        if !self.delays_names() {
            return Ok(rows);
        }
        for row in &mut rows {
            if std::mem::take(&mut row.drop_name) {
                row.labels = without_metadata(&row.labels);
            }
        }
        self.merge(rows)
    }

    /// One row for each set of labels: rows that never have a value at the same step become one.
    ///
    /// # Errors
    /// [`EvalError::SameLabelset`] where two have.
    pub(crate) fn merge(&self, rows: Vec<Row>) -> Evaluated<Vec<Row>> {
        let mut at: HashMap<Labels, usize> = HashMap::with_capacity(rows.len());
        let mut merged: Vec<Row> = Vec::with_capacity(rows.len());
        for row in rows {
            match at.entry(row.labels.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(merged.len());
                    merged.push(row);
                }
                Entry::Occupied(entry) => {
                    let into = &mut merged[*entry.get()];
                    for (to, from) in into.values.iter_mut().zip(&row.values) {
                        if is_absent(*from) {
                            continue;
                        }
                        if !is_absent(*to) {
                            return Err(EvalError::SameLabelset);
                        }
                        *to = *from;
                    }
                    into.drop_name |= row.drop_name;
                    self.release(row.values.len());
                }
            }
        }
        Ok(merged)
    }
}

/// The bytes of a string that is no text.
pub(crate) fn not_text(expr: &Expr) -> Option<QuotedBytes<'_>> {
    match &expr.unparen().kind {
        ExprKind::Bytes(bytes) => Some(QuotedBytes(bytes)),
        _ => None,
    }
}

/// `rows` with `f` applied to each value that is there.
pub(crate) fn map_values(mut rows: Vec<Row>, f: impl Fn(f64) -> f64) -> Vec<Row> {
    for row in &mut rows {
        for v in &mut row.values {
            if !is_absent(*v) {
                *v = f(*v);
            }
        }
    }
    rows
}
