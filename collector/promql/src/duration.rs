//! Durations that are computed, such as `[5m + step()]`: their tree and its value.
//!
//! What it deliberately does not do: parse (`parse`) or print (`print`).

use crate::ast::Span;

/// A node of a duration's arithmetic and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DurationExpr {
    pub(crate) span: Span,
    pub(crate) kind: DurationKind,
    /// Levels below and including this node.
    pub(crate) depth: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DurationKind {
    Number {
        seconds: f64,
        /// Written with a unit, and printed so.
        is_duration: bool,
    },
    /// The query's step; zero for an instant query.
    Step,
    /// From the query's start to its end.
    Range,
    Negate(Box<DurationExpr>),
    Binary(DurationOp, Box<DurationExpr>, Box<DurationExpr>),
    MinOf(Box<DurationExpr>, Box<DurationExpr>),
    MaxOf(Box<DurationExpr>, Box<DurationExpr>),
    Paren(Box<DurationExpr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

impl DurationOp {
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
        }
    }

    /// How tightly it binds; the unary sign stands with `*`.
    pub(crate) fn precedence(self) -> u8 {
        match self {
            Self::Add | Self::Sub => 1,
            Self::Mul | Self::Div | Self::Mod => UNARY_PRECEDENCE,
            Self::Pow => 3,
        }
    }
}

pub(crate) const UNARY_PRECEDENCE: u8 = 2;

/// The longest duration, in seconds: what Go holds as nanoseconds in 64 bits.
pub(crate) const SECONDS_MAX: f64 = 9_223_372_036.854_775;

/// The query's own step and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuerySpan {
    pub(crate) step_ms: i64,
    pub(crate) range_ms: i64,
}

/// What a negative or empty result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    Allowed,
    Refused,
}

impl DurationExpr {
    /// Whole milliseconds.
    ///
    /// # Errors
    /// Place and cause, in Prometheus' words.
    pub(crate) fn millis(&self, query: QuerySpan, zero: Zero) -> Result<i64, String> {
        let seconds = self.seconds(query)?;
        let fail = |what: &str| Err(format!("{}:{}: {what}", self.span.start, self.span.end));
        if !seconds.is_finite() || seconds.abs() > SECONDS_MAX {
            return fail("duration is out of range");
        }
        if seconds <= 0.0 && zero == Zero::Refused {
            return fail("duration must be greater than 0");
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn seconds(&self, query: QuerySpan) -> Result<f64, String> {
        let of = |e: &Self| e.seconds(query);
        Ok(match &self.kind {
            DurationKind::Number { seconds, .. } => *seconds,
            DurationKind::Step => query.step_ms as f64 / 1000.0,
            DurationKind::Range => query.range_ms as f64 / 1000.0,
            DurationKind::Negate(e) => -of(e)?,
            DurationKind::Paren(e) => of(e)?,
            DurationKind::MinOf(a, b) => least(of(a)?, of(b)?),
            DurationKind::MaxOf(a, b) => greatest(of(a)?, of(b)?),
            DurationKind::Binary(op, a, b) => {
                let (l, r) = (of(a)?, of(b)?);
                let fail = |what: &str| Err(format!("{}:{}: {what}", self.span.start, self.span.end));
                match op {
                    DurationOp::Add => l + r,
                    DurationOp::Sub => l - r,
                    DurationOp::Mul => l * r,
                    DurationOp::Div if r == 0.0 => return fail("division by zero"),
                    DurationOp::Div => l / r,
                    DurationOp::Mod if r == 0.0 => return fail("modulo by zero"),
                    DurationOp::Mod => l % r,
                    DurationOp::Pow => l.powf(r),
                }
            }
        })
    }
}

/// The smaller of two; NaN where one is, as Go's `math.Min`.
pub(crate) fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

/// The larger of two; NaN where one is, as Go's `math.Max`.
pub(crate) fn greatest(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
