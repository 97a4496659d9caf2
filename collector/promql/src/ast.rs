//! The tree of a query, with the place of every node in the text (annotations need it).
//!
//! What it deliberately does not do: check types (`check`), print (`print`) or evaluate (`eval`).

use veghe_model::{METRIC_NAME, MatchOp, Matcher};

use crate::duration::DurationExpr;
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
    Number {
        value: f64,
        /// Written as a duration, and printed as one.
        is_duration: bool,
    },
    String(String),
    /// A string that is not UTF-8, so neither a label's name nor its value.
    Bytes(Vec<u8>),
    Selector(Selector),
    Matrix {
        selector: Selector,
        range: Length,
    },
    Subquery {
        expr: Box<Expr>,
        range: Length,
        step: Option<Length>,
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
    Binary(Box<Chain>),
    Paren(Box<Expr>),
}

/// A length of time: as written, or computed when the query's step and range are known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Length {
    Millis(i64),
    Computed(Box<DurationExpr>),
}

/// A vector selector.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    /// The name before the braces; the same is the last of `matchers`.
    pub(crate) name: Option<String>,
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) when: When,
    pub(crate) edges: Edges,
}

/// How a selector treats the time between the samples next to its edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Edges {
    /// Samples within, and nothing else.
    #[default]
    Plain,
    /// `anchored`: the last sample before the window stands at its start.
    Anchored,
    /// `smoothed`: values at the edges are interpolated.
    Smoothed,
}

impl Edges {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Anchored => "anchored",
            Self::Smoothed => "smoothed",
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct When {
    /// Positive: into the past.
    pub(crate) offset: Option<Length>,
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
    TrimUpper,
    TrimLower,
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
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
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

    /// Cuts observations off a native histogram; floats have none.
    pub(crate) fn is_trim(self) -> bool {
        matches!(self, Self::TrimUpper | Self::TrimLower)
    }

    /// How tightly it binds; unary operators stand between `*` (5) and `^` (6).
    pub(crate) fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            _ if self.is_comparison() || self.is_trim() => 3,
            Self::Add | Self::Sub => 4,
            Self::Pow => 6,
            _ => 5,
        }
    }
}

/// Operands joined from left to right, `((first op operand) op operand) ...`. Flat, however many there are, so that
/// no walk over the tree has to recurse for a chain of a thousand `or`.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) first: Expr,
    /// At least one.
    pub(crate) links: Vec<Link>,
}

/// An operator and its right side.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) op: BinaryOp,
    pub(crate) returns_bool: bool,
    pub(crate) matching: Matching,
    pub(crate) rhs: Expr,
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
            ExprKind::Number { .. }
            | ExprKind::String(_)
            | ExprKind::Bytes(_)
            | ExprKind::Selector(_)
            | ExprKind::Matrix { .. } => {}
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
            ExprKind::Binary(chain) => {
                chain.first.walk(visit);
                chain.links.iter().for_each(|l| l.rhs.walk(visit));
            }
        }
    }
}
