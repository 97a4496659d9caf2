//! The table of functions: names, argument types and result types.
//!
//! What it deliberately does not do: compute them (`eval`).

use crate::QueryKind::{self, Matrix as M, Scalar as S, String as T, Vector as V};

/// A function's signature.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [QueryKind],
    pub(crate) variadic: Variadic,
    pub(crate) returns: QueryKind,
}

/// How many arguments beyond the table are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variadic {
    /// Exactly `args`.
    No,
    /// The last so many of `args` may be left out.
    Optional(usize),
    /// The last of `args` comes any number of times, also none.
    Any,
    /// The last of `args` comes at most so many times, also none.
    UpTo(usize),
}

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

const fn f(name: &'static str, args: &'static [QueryKind], returns: QueryKind) -> Function {
    Function { name, args, variadic: Variadic::No, returns }
}

const fn o(name: &'static str, args: &'static [QueryKind], optional: usize, returns: QueryKind) -> Function {
    Function { name, args, variadic: Variadic::Optional(optional), returns }
}

const fn any(name: &'static str, args: &'static [QueryKind], returns: QueryKind) -> Function {
    Function { name, args, variadic: Variadic::Any, returns }
}

pub(crate) static FUNCTIONS: &[Function] = &[
    f("abs", &[V], V),
    f("absent", &[V], V),
    f("absent_over_time", &[M], V),
    f("acos", &[V], V),
    f("acosh", &[V], V),
    f("asin", &[V], V),
    f("asinh", &[V], V),
    f("atan", &[V], V),
    f("atanh", &[V], V),
    f("avg_over_time", &[M], V),
    f("ceil", &[V], V),
    f("changes", &[M], V),
    f("clamp", &[V, S, S], V),
    f("clamp_max", &[V, S], V),
    f("clamp_min", &[V, S], V),
    f("cos", &[V], V),
    f("cosh", &[V], V),
    f("count_over_time", &[M], V),
    o("day_of_month", &[V], 1, V),
    o("day_of_week", &[V], 1, V),
    o("day_of_year", &[V], 1, V),
    o("days_in_month", &[V], 1, V),
    f("deg", &[V], V),
    f("delta", &[M], V),
    f("deriv", &[M], V),
    f("double_exponential_smoothing", &[M, S, S], V),
    f("end", &[], S),
    f("exp", &[V], V),
    f("first_over_time", &[M], V),
    f("floor", &[V], V),
    f("histogram_avg", &[V], V),
    f("histogram_count", &[V], V),
    f("histogram_fraction", &[S, S, V], V),
    f("histogram_quantile", &[S, V], V),
    Function { name: "histogram_quantiles", args: &[V, T, S, S], variadic: Variadic::UpTo(9), returns: V },
    f("histogram_stddev", &[V], V),
    f("histogram_stdvar", &[V], V),
    f("histogram_sum", &[V], V),
    o("hour", &[V], 1, V),
    f("idelta", &[M], V),
    f("increase", &[M], V),
    o("info", &[V, V], 1, V),
    f("irate", &[M], V),
    any("label_join", &[V, T, T, T], V),
    f("label_replace", &[V, T, T, T, T], V),
    f("last_over_time", &[M], V),
    f("ln", &[V], V),
    f("log10", &[V], V),
    f("log2", &[V], V),
    f("mad_over_time", &[M], V),
    f("max_of", &[S, S], S),
    f("max_over_time", &[M], V),
    f("min_of", &[S, S], S),
    f("min_over_time", &[M], V),
    o("minute", &[V], 1, V),
    o("month", &[V], 1, V),
    f("pi", &[], S),
    f("predict_linear", &[M, S], V),
    f("present_over_time", &[M], V),
    f("quantile_over_time", &[S, M], V),
    f("rad", &[V], V),
    f("range", &[], S),
    f("rate", &[M], V),
    f("resets", &[M], V),
    o("round", &[V, S], 1, V),
    f("scalar", &[V], S),
    f("sgn", &[V], V),
    f("sin", &[V], V),
    f("sinh", &[V], V),
    f("sort", &[V], V),
    any("sort_by_label", &[V, T], V),
    any("sort_by_label_desc", &[V, T], V),
    f("sort_desc", &[V], V),
    f("sqrt", &[V], V),
    f("start", &[], S),
    f("start_timestamp", &[V], V),
    f("stddev_over_time", &[M], V),
    f("stdvar_over_time", &[M], V),
    f("step", &[], S),
    f("sum_over_time", &[M], V),
    f("tan", &[V], V),
    f("tanh", &[V], V),
    f("time", &[], S),
    f("timestamp", &[V], V),
    f("ts_of_first_over_time", &[M], V),
    f("ts_of_last_over_time", &[M], V),
    f("ts_of_max_over_time", &[M], V),
    f("ts_of_min_over_time", &[M], V),
    f("vector", &[S], V),
    o("year", &[V], 1, V),
];
