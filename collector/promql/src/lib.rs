//! PromQL over any source of series, with the semantics of Prometheus 3.
//!
//! Synchronous and without clock: the caller brings series, the moment and the limits. What it deliberately does not
//! do: know how series are stored (`veghe-tsdb`) or served.

use std::time::Duration;

use veghe_model::{Labels, Matcher, SeriesData, Timestamp};

/// Where series come from.
pub trait Source: Sync {
    /// The series that satisfy all `matchers`, in ascending order of labels, each with its samples in `[start, end]`;
    /// series without a sample there are left out.
    ///
    /// # Errors
    /// Whatever the storage reports; evaluation ends with it.
    fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A parsed query.
#[derive(Clone, Debug)]
pub struct Query {}

/// Why a text is no query: position and cause, in Prometheus' words.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {}

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {}

/// What a query may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Samples loaded in memory at any time; Prometheus' default is 50 million.
    pub max_samples: usize,
    /// Wall time; checked by `stop`.
    pub lookback: Duration,
}

/// One series of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// Which series.
    pub labels: Labels,
    /// The evaluation's moment.
    pub timestamp: Timestamp,
    /// The value.
    pub value: f64,
}

/// A query's result.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number at one moment.
    Scalar(Timestamp, f64),
    /// A text at one moment.
    String(Timestamp, String),
    /// One value per series.
    Vector(Vec<VectorSample>),
    /// A range per series.
    Matrix(Vec<SeriesData>),
}

/// A result and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The result.
    pub value: Value,
    /// Prometheus' warnings.
    pub warnings: Vec<String>,
    /// Prometheus' infos.
    pub infos: Vec<String>,
}

#[expect(clippy::unimplemented, unused_variables, reason = "the interface comes before its implementation")]
impl Query {
    /// Parses and type-checks `text`.
    ///
    /// # Errors
    /// [`ParseError`] with position.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        unimplemented!()
    }

    /// The value at `at`. `stop` is asked now and then and ends the evaluation when it answers `true`
    /// (deadline passed, client gone).
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn instant(
        &self,
        source: &dyn Source,
        at: Timestamp,
        limits: &Limits,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Evaluation, EvalError> {
        unimplemented!()
    }

    /// The values at `start`, `start + step` ... up to `end`, always a [`Value::Matrix`].
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn range(
        &self,
        source: &dyn Source,
        start: Timestamp,
        end: Timestamp,
        step: Duration,
        limits: &Limits,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Evaluation, EvalError> {
        unimplemented!()
    }
}

/// Parses a series selector, as in `match[]`: a name, matchers in braces, or both.
///
/// # Errors
/// [`ParseError`] with position.
#[expect(clippy::unimplemented, unused_variables, reason = "the interface comes before its implementation")]
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    unimplemented!()
}
