//! The tree of a query, with the place of every node in the text (annotations need it), and its canonical text.
//!
//! What it deliberately does not do: check types (`parse`) or evaluate (`eval`).

use std::fmt;

use veghe_model::{METRIC_NAME, MatchOp, Matcher, is_label_name, is_metric_name};

use crate::functions::Function;

/// Byte offsets of a node in the query's text; `end` is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A node and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) span: Span,
    pub(crate) kind: ExprKind,
    /// Levels below and including this node; bounded by the parser, so that recursion over the tree is too.
    pub(crate) depth: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum ExprKind {
    Number(f64),
    String(String),
    Selector(Selector),
    Matrix {
        selector: Selector,
        range_ms: i64,
    },
    Subquery {
        expr: Box<Expr>,
        range_ms: i64,
        step_ms: Option<i64>,
        when: When,
    },
    Call {
        function: &'static Function,
        args: Vec<Expr>,
    },
    Aggregate {
        op: AggregateOp,
        param: Option<Box<Expr>>,
        expr: Box<Expr>,
        grouping: Grouping,
    },
    Negate(Box<Expr>),
    /// Unary plus, which changes nothing but stays in the printed text.
    Plus(Box<Expr>),
    Binary(Box<Binary>),
    Paren(Box<Expr>),
}

/// A vector selector.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) when: When,
}

impl Selector {
    /// The metric's name, where an equality matcher fixes it.
    pub(crate) fn metric_name(&self) -> Option<&str> {
        self.matchers
            .iter()
            .find(|m| m.name() == METRIC_NAME && m.op() == MatchOp::Equal && !m.value().is_empty())
            .map(Matcher::value)
    }
}

/// The `offset` and `@` of a selector or subquery.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct When {
    /// Positive: into the past.
    pub(crate) offset_ms: Option<i64>,
    pub(crate) at: Option<At>,
}

/// The moment that `@` names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum At {
    Millis(i64),
    /// The query's start, also inside a subquery.
    Start,
    /// The query's end, also inside a subquery.
    End,
}

/// Labels after `by`, `without`, `on` and `ignoring`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Grouping {
    By(Vec<String>),
    Without(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Quantile,
    CountValues,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    pub(crate) const ALL: [(&'static str, Self); 14] = [
        ("sum", Self::Sum),
        ("avg", Self::Avg),
        ("count", Self::Count),
        ("min", Self::Min),
        ("max", Self::Max),
        ("group", Self::Group),
        ("stddev", Self::Stddev),
        ("stdvar", Self::Stdvar),
        ("topk", Self::Topk),
        ("bottomk", Self::Bottomk),
        ("quantile", Self::Quantile),
        ("count_values", Self::CountValues),
        ("limitk", Self::Limitk),
        ("limit_ratio", Self::LimitRatio),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, op)| *op == self).map_or("", |(name, _)| name)
    }

    pub(crate) fn has_parameter(self) -> bool {
        matches!(
            self,
            Self::Topk | Self::Bottomk | Self::Quantile | Self::CountValues | Self::Limitk | Self::LimitRatio
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    pub(crate) fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    pub(crate) fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Lt | Self::Le | Self::Gt | Self::Ge)
    }

    /// How tightly it binds; unary operators stand between `*` (5) and `^` (6).
    pub(crate) fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            _ if self.is_comparison() => 3,
            Self::Add | Self::Sub => 4,
            Self::Pow => 6,
            _ => 5,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) op: BinaryOp,
    pub(crate) lhs: Expr,
    pub(crate) rhs: Expr,
    pub(crate) returns_bool: bool,
    pub(crate) matching: Matching,
}

/// Which series of both sides belong together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matching {
    /// `By`: `on`; `Without`: `ignoring` (empty when the query says nothing).
    pub(crate) on: Grouping,
    pub(crate) cardinality: Cardinality,
    /// Value that stands in for a missing left or right side.
    pub(crate) fill: (Option<f64>, Option<f64>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cardinality {
    OneToOne,
    /// `group_left`, with the labels taken from the one side.
    ManyToOne(Vec<String>),
    /// `group_right`.
    OneToMany(Vec<String>),
}

impl Expr {
    /// The node without the parentheses around it.
    pub(crate) fn unparen(&self) -> &Self {
        let mut expr = self;
        while let ExprKind::Paren(inner) = &expr.kind {
            expr = inner;
        }
        expr
    }

    /// Calls `visit` on this node and all below it.
    pub(crate) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        match &self.kind {
            ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Selector(_) | ExprKind::Matrix { .. } => {}
            ExprKind::Subquery { expr, .. } | ExprKind::Negate(expr) | ExprKind::Plus(expr) | ExprKind::Paren(expr) => {
                expr.walk(visit);
            }
            ExprKind::Call { args, .. } => args.iter().for_each(|a| a.walk(visit)),
            ExprKind::Aggregate { param, expr, .. } => {
                if let Some(param) = param {
                    param.walk(visit);
                }
                expr.walk(visit);
            }
            ExprKind::Binary(binary) => {
                binary.lhs.walk(visit);
                binary.rhs.walk(visit);
            }
        }
    }
}

/// A number as Prometheus prints it.
pub(crate) struct Number(pub(crate) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            f.write_str("NaN")
        } else if self.0.is_infinite() {
            f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" })
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// A text in double quotes with Go's escapes.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A label's name, quoted where it is not in the classic charset.
struct LabelName<'a>(&'a str);

impl LabelName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_label_name(self.0) { f.write_str(self.0) } else { fmt::Display::fmt(&Quoted(self.0), f) }
    }
}

struct LabelNames<'a>(&'a [String]);

impl fmt::Display for LabelNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, name) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            LabelName(name).fmt(f)?;
        }
        f.write_str(")")
    }
}

/// Milliseconds in Prometheus' notation of durations, `1h30m`.
pub(crate) struct Millis(pub(crate) i64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let mut rest = self.0.unsigned_abs();
        // Years and weeks only where nothing is left over, as Prometheus does: 1y1d reads worse than 366d.
        for (unit, ms, exact) in [
            ("y", 365 * 86_400_000, true),
            ("w", 7 * 86_400_000, true),
            ("d", 86_400_000, false),
            ("h", 3_600_000, false),
            ("m", 60_000, false),
            ("s", 1_000, false),
            ("ms", 1, false),
        ] {
            if rest == 0 || (exact && !rest.is_multiple_of(ms)) || rest < ms {
                continue;
            }
            write!(f, "{}{unit}", rest / ms)?;
            rest %= ms;
        }
        Ok(())
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            None => {}
            Some(At::Start) => f.write_str(" @ start()")?,
            Some(At::End) => f.write_str(" @ end()")?,
            Some(At::Millis(ms)) => {
                let sign = if ms < 0 { "-" } else { "" };
                write!(f, " @ {sign}{}.{:03}", ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)?;
            }
        }
        self.offset_ms.map_or(Ok(()), |ms| write!(f, " offset {}", Millis(ms)))
    }
}

impl Selector {
    fn fmt_with_range(&self, f: &mut fmt::Formatter<'_>, range_ms: Option<i64>) -> fmt::Result {
        // The short form only for a plain name; any other stays a matcher, so that nothing is lost.
        let plain = self
            .matchers
            .iter()
            .position(|m| m.name() == METRIC_NAME && m.op() == MatchOp::Equal && is_metric_name(m.value()))
            .filter(|_| self.matchers.iter().filter(|m| m.name() == METRIC_NAME).count() == 1);
        if let Some(at) = plain {
            f.write_str(self.matchers[at].value())?;
        }
        let rest = self.matchers.iter().enumerate().filter(|(i, _)| Some(*i) != plain).map(|(_, m)| m);
        let mut open = false;
        for m in rest {
            f.write_str(if open { "," } else { "{" })?;
            open = true;
            LabelName(m.name()).fmt(f)?;
            write!(f, "{}{}", m.op(), Quoted(m.value()))?;
        }
        if open {
            f.write_str("}")?;
        }
        if let Some(ms) = range_ms {
            write!(f, "[{}]", Millis(ms))?;
        }
        fmt::Display::fmt(&self.when, f)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(v) => fmt::Display::fmt(&Number(*v), f),
            ExprKind::String(s) => Quoted(s).fmt(f),
            ExprKind::Selector(selector) => selector.fmt_with_range(f, None),
            ExprKind::Matrix { selector, range_ms } => selector.fmt_with_range(f, Some(*range_ms)),
            ExprKind::Subquery { expr, range_ms, step_ms, when } => {
                write!(f, "{expr}[{}:", Millis(*range_ms))?;
                if let Some(step) = step_ms {
                    Millis(*step).fmt(f)?;
                }
                write!(f, "]{when}")
            }
            ExprKind::Call { function, args } => {
                write!(f, "{}(", function.name)?;
                for (i, arg) in args.iter().enumerate() {
                    write!(f, "{}{arg}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            ExprKind::Aggregate { op, param, expr, grouping } => {
                f.write_str(op.name())?;
                match grouping {
                    Grouping::By(labels) if labels.is_empty() => {}
                    Grouping::By(labels) => write!(f, " by {} ", LabelNames(labels))?,
                    Grouping::Without(labels) => write!(f, " without {} ", LabelNames(labels))?,
                }
                match param {
                    Some(param) => write!(f, "({param}, {expr})"),
                    None => write!(f, "({expr})"),
                }
            }
            ExprKind::Negate(expr) => write!(f, "-{expr}"),
            ExprKind::Plus(expr) => write!(f, "+{expr}"),
            ExprKind::Binary(b) => {
                write!(f, "{} {}", b.lhs, b.op.name())?;
                if b.returns_bool {
                    f.write_str(" bool")?;
                }
                let grouped = b.matching.cardinality != Cardinality::OneToOne;
                match &b.matching.on {
                    Grouping::By(labels) => write!(f, " on {}", LabelNames(labels))?,
                    Grouping::Without(labels) if labels.is_empty() && !grouped => {}
                    Grouping::Without(labels) => write!(f, " ignoring {}", LabelNames(labels))?,
                }
                match &b.matching.cardinality {
                    Cardinality::OneToOne => {}
                    Cardinality::ManyToOne(labels) => write!(f, " group_left {}", LabelNames(labels))?,
                    Cardinality::OneToMany(labels) => write!(f, " group_right {}", LabelNames(labels))?,
                }
                match b.matching.fill {
                    (None, None) => {}
                    (left, right) => {
                        if let Some(v) = left {
                            write!(f, " fill_left ({})", Number(v))?;
                        }
                        if let Some(v) = right {
                            write!(f, " fill_right ({})", Number(v))?;
                        }
                    }
                }
                write!(f, " {}", b.rhs)
            }
            ExprKind::Paren(expr) => write!(f, "({expr})"),
        }
    }
}
