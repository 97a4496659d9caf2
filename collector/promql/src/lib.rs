//! PromQL over any source of series, with the semantics of Prometheus 3.
//!
//! Synchronous and without clock: the caller brings series, the moment and the limits. What it deliberately does not
//! do: know how series are stored (`veghe-tsdb`) or served.
//!
//! Complete for float samples and classic histograms, experimental syntax and functions included. What differs from
//! Prometheus 3.14:
//! - A query is at most 1 MiB long and nested 150 levels deep (a chain of operators counts as one level); Prometheus
//!   has no such limits.
//! - `min` and `max` of durations, renamed to `min_of` and `max_of` in Prometheus 3.13, are still taken.
//! - Regular expressions are those of the crate `regex`, which knows all of RE2's syntax but for `\\C`.
//!
//! Where a source has roll-ups ([`Source::rollups`]), long ranges are answered from them, by this rule:
//! - Range selectors whose windows begin and end at multiples of the source's resolution R (range, step and first end are), over
//!   a day or more, under `min`, `max`, `count`, `present`, `first`, `last`, `ts_of_first` and `ts_of_last_over_time`: equal to what
//!   samples give; under `sum` and `avg_over_time`, `rate`, `increase` and `delta`: within rounding, 1e-9 of the largest number that is
//!   added (values beyond 1e300 apart).
//! - Where samples are gone ([`Source::expired`]), windows of these functions begin and end at multiples of R, and for all else the last
//!   value of each bucket stands for its samples, good for R beyond the lookback; an info says so.
//! - Else samples answer.
//!
//! Native histograms are missing, exactly:
//! - samples, and the literals `{{...}}` of test scripts: a sample is a float ([`Source`], [`Value`]);
//! - `rate`, `increase`, `delta`, `irate`, `idelta`, `resets`, `changes` and the `*_over_time` functions of them, and
//!   their interpolation under `anchored` and `smoothed`;
//! - `+`, `-`, `*`, `/`, `==` and `!=` between them, and trimming with `</` and `>/`, which of floats yield nothing and an
//!   info; `sum`, `avg` and the other aggregations;
//! - `histogram_avg`, `histogram_count`, `histogram_sum`, `histogram_stddev`, `histogram_stdvar`, which of floats yield
//!   nothing as in Prometheus; the native side of `histogram_quantile`, `histogram_quantiles` and `histogram_fraction`;
//! - histograms with custom buckets (NHCB) made from classic ones, and the remarks that speak of any of these.

mod ast;
mod check;
mod duration;
mod eval;
mod functions;
mod lex;
mod parse;
mod parse_duration;
mod print;
mod tree;

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use veghe_model::{Expired, Labels, Matcher, Need, RollupSeries, SeriesData, Timestamp};

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

    /// [`Source::select`], or `None` where the series have more than `max_samples` together in the range. A source that can
    /// tell before it reads them overrides this: a query that is too large then takes no memory.
    ///
    /// # Errors
    /// As [`Source::select`].
    fn select_at_most(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, Box<dyn std::error::Error + Send + Sync>> {
        let series = self.select(matchers, start, end)?;
        let samples: usize = series.iter().map(SeriesData::len).sum();
        Ok((samples <= max_samples).then_some(series))
    }

    /// [`Source::select_at_most`], one series after the other: `each` gets every series with its place in their order, at
    /// once or from several threads; places may be left out. Before a place is told, `each` has returned for all that lie
    /// [`SERIES_OUT_OF_ORDER`](veghe_model::SERIES_OUT_OF_ORDER) or more before it. It ends the selection with `Break`. A
    /// source that can tell series without holding all of them overrides this; where only the presence of samples is needed,
    /// it may leave their values out.
    ///
    /// # Errors
    /// As [`Source::select`].
    fn select_each(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        need: Need,
        max_samples: usize,
        each: &(dyn Fn(usize, SeriesData) -> ControlFlow<()> + Sync),
    ) -> Result<Option<()>, Box<dyn std::error::Error + Send + Sync>> {
        let _ = need;
        let Some(all) = self.select_at_most(matchers, start, end, max_samples)? else { return Ok(None) };
        for (place, series) in all.into_iter().enumerate() {
            if each(place, series).is_break() {
                break;
            }
        }
        Ok(Some(()))
    }

    /// When the count began that each sample of a series from [`select`](Self::select) belongs to, in milliseconds
    /// since the epoch, 0 where unknown: OpenMetrics' `_created`, OTLP's start time. With it a counter's reset is seen
    /// even where its value did not fall, and `rate` needs no guess at the window's start; this is Prometheus' feature
    /// `use-start-timestamps`. `None`, the default, where the storage keeps none.
    fn start_timestamps(&self, series: &SeriesData) -> Option<Vec<i64>> {
        let _ = series;
        None
    }

    /// The length of the buckets whose roll-ups cost less to read than their samples; none, the default, where there are no
    /// roll-ups. A source that has some must not have [`start_timestamps`](Self::start_timestamps).
    fn rollup_resolution(&self) -> Option<Duration> {
        None
    }

    /// The buckets that end in `[start, end]` of the series that satisfy all `matchers`, in ascending order of labels, as exact as
    /// [`RollupSeries`] says; series without a bucket are left out. `None`, the default, where there are none of that length, or
    /// more than `max_buckets`.
    ///
    /// # Errors
    /// As [`Source::select`].
    fn rollups(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        resolution: Duration,
        max_buckets: usize,
    ) -> Result<Option<Vec<RollupSeries>>, Box<dyn std::error::Error + Send + Sync>> {
        let _ = (matchers, start, end, resolution, max_buckets);
        Ok(None)
    }

    /// Where series that satisfy all `matchers` have roll-ups and no samples any more in `[start, end]`; `None`, the default,
    /// where samples are all there ever were.
    fn expired(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Option<Expired> {
        let _ = (matchers, start, end);
        None
    }
}

/// A parsed query. Its [`Display`](fmt::Display) is the canonical text, which parses to the same query.
#[derive(Clone)]
pub struct Query {
    text: String,
    expr: ast::Expr,
    names: NameRemoval,
}

/// What kind of value a query yields, or a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryKind {
    /// One number.
    Scalar,
    /// One value per series.
    Vector,
    /// A range of values per series.
    Matrix,
    /// A text.
    String,
}

impl QueryKind {
    /// The name that Prometheus' messages give it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::String => "string",
        }
    }

    /// The name that Prometheus' API gives it.
    pub(crate) fn go_name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }
}

/// When an operation that drops the metric's name does so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRemoval {
    /// At once, as Prometheus does by default.
    #[default]
    Immediate,
    /// At the end of the query: Prometheus' feature `promql-delayed-name-removal`, under which its test scripts run.
    Delayed,
}

/// A vector selector of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorInfo {
    /// The metric's name, where an equality matcher fixes it.
    pub metric_name: Option<String>,
    /// All matchers, also the one of the name.
    pub matchers: Vec<Matcher>,
}

/// Why a text is no query: position and cause, in Prometheus' words.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The text breaks a rule of syntax or of types.
    #[error("{line}:{column}: parse error: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// There is no text.
    #[error("unknown position: parse error: {0}")]
    Nothing(String),
}

impl ParseError {
    pub(crate) fn new(text: &str, offset: usize, message: String) -> Self {
        if text.is_empty() {
            return Self::Nothing(message);
        }
        let (line, column) = line_and_column(text, offset);
        Self::Syntax { line, column, message }
    }
}

pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line = before.split(|b| *b == b'\n').count();
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    (line, column)
}

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// More samples than [`Limits::max_samples`] would be in memory at once.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// `stop` answered `true`.
    #[error("query timed out in expression evaluation")]
    Stopped,
    /// The storage reports an error.
    #[error("cannot select series")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Two series of a result have the same labels at the same time.
    #[error("vector cannot contain metrics with the same labelset")]
    SameLabelset,
    /// The step of a range query is not positive.
    #[error("zero or negative query resolution step widths are not accepted; try a positive integer")]
    Step,
    /// A range query ends before it starts.
    #[error("end timestamp must not be before start time")]
    EndBeforeStart,
    /// A moment is too far from the epoch to be computed with.
    #[error("timestamp {0} is out of bounds")]
    Timestamp(i64),
    /// The query's type has no values over a range.
    #[error("invalid expression type {0:?} for range query, must be Scalar or instant Vector")]
    RangeKind(&'static str),
    /// The data do not fit the query, in Prometheus' words.
    #[error("{0}")]
    Execution(String),
}

/// What a query may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Samples loaded in memory at any time; Prometheus' default is 50 million.
    pub max_samples: usize,
    /// How far back the latest sample of a series may lie; 5 minutes in Prometheus.
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
    /// What it took.
    pub stats: SampleStats,
}

/// The samples that a query took, as `stats=all` of Prometheus' API tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleStats {
    /// Samples that the steps looked at, each as often as a step did (`totalQueryableSamples`).
    pub total: u64,
    /// The same by step (`totalQueryableSamplesPerStep`).
    pub per_step: Vec<(Timestamp, u64)>,
    /// Samples that the storage gave (`samplesRead`).
    pub read: u64,
    /// The most samples and intermediate values in memory at once (`peakSamples`), what [`Limits::max_samples`] bounds.
    pub peak: u64,
}

impl Query {
    /// Parses and type-checks `text`.
    ///
    /// # Errors
    /// [`ParseError`] with position.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let expr = parse::parse(text)?;
        check::check(text, &expr)?;
        Ok(Self { text: text.to_owned(), expr, names: NameRemoval::Immediate })
    }

    /// The same query with another moment of dropping names.
    #[must_use]
    pub fn with_name_removal(mut self, names: NameRemoval) -> Self {
        self.names = names;
        self
    }

    /// The type of its result.
    pub fn kind(&self) -> QueryKind {
        check::kind_of(&self.expr)
    }

    /// Its text over several lines where it is long, laid out as Prometheus' `/api/v1/format_query` does. It parses to
    /// the same query.
    pub fn pretty(&self) -> String {
        print::pretty(&self.expr)
    }

    /// Its tree as JSON, in the form of Prometheus' `/api/v1/parse_query`.
    ///
    /// # Errors
    /// [`ParseError`] where it nests deeper (a thousand levels) than readers of JSON can be expected to follow.
    pub fn tree(&self) -> Result<serde_json::Value, ParseError> {
        tree::tree(&self.expr)
            .ok_or_else(|| ParseError::new(&self.text, 0, "expression is nested too deep for a tree".to_owned()))
    }

    /// Every vector selector in it, in the order of the text; also those of range selectors and subqueries.
    pub fn selectors(&self) -> Vec<SelectorInfo> {
        let mut selectors = Vec::new();
        self.expr.walk(&mut |expr| {
            if let ast::ExprKind::Selector(s) | ast::ExprKind::Matrix { selector: s, .. } = &expr.kind {
                let metric_name = s.metric_name().map(str::to_owned);
                selectors.push(SelectorInfo { metric_name, matchers: s.matchers.clone() });
            }
        });
        selectors
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
        eval::Engine::new(self, source, limits, stop, eval::Steps::instant(at)?).instant()
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
        let steps = eval::Steps::range(start, end, step, limits.max_samples)?;
        eval::Engine::new(self, source, limits, stop, steps).range(end)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn expr(&self) -> &ast::Expr {
        &self.expr
    }

    pub(crate) fn names(&self) -> NameRemoval {
        self.names
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("text", &self.text).field("names", &self.names).finish_non_exhaustive()
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

/// The matchers of a selector that stands alone, as in `match[]`: a name, matchers in braces, or both. They may all
/// match the empty label: refusing that is the caller's.
///
/// # Errors
/// [`ParseError`] with position.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    parse::parse_selector(text)
}
