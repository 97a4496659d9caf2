//! Types of a query's parts, checked once the whole text is known to be well formed, in Prometheus' order and words.

use veghe_model::{METRIC_NAME, Matcher};

use crate::ast::{AggregateOp, Cardinality, Chain, Expr, ExprKind, Grouping, Link, Selector, Span};
use crate::functions::{Function, Variadic};
use crate::parse::Parsed;
use crate::{ParseError, QueryKind};

/// The tree, if every part has the type that its place asks for.
pub(crate) fn check(text: &str, expr: &Expr) -> Parsed<()> {
    Checker { text }.expr(expr).map(|_| ())
}

/// That a selector with a name has no other matcher for it.
pub(crate) fn name_is_set_once(text: &str, span: Span, selector: &Selector) -> Parsed<()> {
    let Some(name) = &selector.name else { return Ok(()) };
    let in_braces = selector.matchers.len().saturating_sub(1);
    match selector.matchers[..in_braces].iter().find(|m| m.name() == METRIC_NAME) {
        None => Ok(()),
        Some(second) => Err(ParseError::new(
            text,
            span.start,
            format!("metric name must not be set twice: {name:?} or {:?}", second.value()),
        )),
    }
}

struct Checker<'a> {
    text: &'a str,
}

impl Checker<'_> {
    fn error<T>(&self, offset: usize, message: impl Into<String>) -> Parsed<T> {
        Err(ParseError::new(self.text, offset, message.into()))
    }

    fn expr(&self, expr: &Expr) -> Parsed<QueryKind> {
        match &expr.kind {
            ExprKind::Number { .. } => Ok(QueryKind::Scalar),
            ExprKind::String(_) | ExprKind::Bytes(_) => Ok(QueryKind::String),
            ExprKind::Selector(selector) => {
                self.selector(expr.span, selector)?;
                Ok(QueryKind::Vector)
            }
            ExprKind::Matrix { selector, .. } => {
                self.selector(expr.span, selector)?;
                Ok(QueryKind::Matrix)
            }
            ExprKind::Subquery { expr: over, .. } => {
                let kind = self.expr(over)?;
                if kind != QueryKind::Vector {
                    let kind = kind.go_name();
                    return self.error(
                        expr.span.start,
                        format!("subquery is only allowed on instant vector, got {kind} instead"),
                    );
                }
                Ok(QueryKind::Matrix)
            }
            ExprKind::Call { function, args } => self.call(expr, function, args),
            ExprKind::Aggregate { op, param, expr: over, .. } => {
                self.expect(over, QueryKind::Vector, "aggregation expression")?;
                if let Some(param) = param {
                    let kind = if *op == AggregateOp::CountValues { QueryKind::String } else { QueryKind::Scalar };
                    self.expect(param, kind, "aggregation parameter")?;
                }
                Ok(QueryKind::Vector)
            }
            ExprKind::Negate(inner) | ExprKind::Plus(inner) => {
                let kind = self.expr(inner)?;
                if !matches!(kind, QueryKind::Scalar | QueryKind::Vector) {
                    return self.error(
                        expr.span.start,
                        format!(
                            "unary expression only allowed on expressions of type scalar or instant vector, got {:?}",
                            kind.words()
                        ),
                    );
                }
                Ok(kind)
            }
            ExprKind::Binary(chain) => self.chain(expr.span, chain),
            ExprKind::Paren(inner) => self.expr(inner),
        }
    }

    fn selector(&self, span: Span, selector: &Selector) -> Parsed<()> {
        name_is_set_once(self.text, span, selector)?;
        if selector.name.is_none() && selector.matchers.iter().all(Matcher::matches_empty) {
            return self.error(span.start, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }

    fn expect(&self, expr: &Expr, wanted: QueryKind, context: &str) -> Parsed<()> {
        let got = self.expr(expr)?;
        if got == wanted {
            return Ok(());
        }
        let (wanted, got) = (wanted.words(), got.words());
        self.error(expr.span.start, format!("expected type {wanted} in {context}, got {got}"))
    }

    fn call(&self, call: &Expr, function: &Function, args: &[Expr]) -> Parsed<QueryKind> {
        self.arity(call.span.start, function, args.len())?;
        let context = format!("call to function {:?}", function.name);
        for (i, arg) in args.iter().enumerate() {
            if function.name == "info" && i == 1 {
                self.label_selectors(arg, &context)?;
            } else if let Some(wanted) = function.args.get(i).or(function.args.last()) {
                self.expect(arg, *wanted, &context)?;
            }
        }
        Ok(function.returns)
    }

    /// The second argument of `info`: matchers only, which may all match the empty label.
    fn label_selectors(&self, arg: &Expr, context: &str) -> Parsed<()> {
        match &arg.kind {
            ExprKind::Selector(selector) if selector.name.is_none() => Ok(()),
            ExprKind::Selector(_) => {
                self.error(arg.span.start, "expected label selectors only, got vector selector instead")
            }
            _ => {
                self.expect(arg, QueryKind::Vector, context)?;
                self.error(arg.span.start, "expected label selectors as the second argument to \"info\" function")
            }
        }
    }

    fn arity(&self, start: usize, function: &Function, got: usize) -> Parsed<()> {
        let (name, most) = (function.name, function.args.len());
        let (least, most) = match function.variadic {
            Variadic::No if got == most => return Ok(()),
            Variadic::No => {
                return self.error(start, format!("expected {most} argument(s) in call to {name:?}, got {got}"));
            }
            Variadic::Optional(optional) => (most - optional, most),
            Variadic::Any => (most - 1, usize::MAX),
            Variadic::UpTo(times) => (most - 1, most - 1 + times),
        };
        if got < least {
            return self.error(start, format!("expected at least {least} argument(s) in call to {name:?}, got {got}"));
        }
        if got > most {
            return self.error(start, format!("expected at most {most} argument(s) in call to {name:?}, got {got}"));
        }
        Ok(())
    }

    fn chain(&self, span: Span, chain: &Chain) -> Parsed<QueryKind> {
        let mut left = self.expr(&chain.first)?;
        let mut left_span = chain.first.span;
        for link in &chain.links {
            let right = self.expr(&link.rhs)?;
            self.link(left_span, link, (left, right))?;
            let scalars = (left, right) == (QueryKind::Scalar, QueryKind::Scalar);
            left = if scalars { QueryKind::Scalar } else { QueryKind::Vector };
            left_span = Span { start: span.start, end: link.rhs.span.end };
        }
        Ok(left)
    }

    fn link(&self, left_span: Span, link: &Link, (left, right): (QueryKind, QueryKind)) -> Parsed<()> {
        let (op, start) = (link.op.name(), left_span.start);
        let matching = &link.matching;
        let at_operator = || {
            let between = self.text.get(left_span.end..).unwrap_or("");
            left_span.end + between.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(0)
        };
        if link.returns_bool && !link.op.is_comparison() {
            return self.error(at_operator(), "bool modifier can only be used on comparison operators");
        }
        let scalars = (left, right) == (QueryKind::Scalar, QueryKind::Scalar);
        if link.op.is_comparison() && !link.returns_bool && scalars {
            return self.error(at_operator(), "comparisons between scalars must use BOOL modifier");
        }
        if let (Grouping::By(on), Cardinality::ManyToOne(include) | Cardinality::OneToMany(include)) =
            (&matching.on, &matching.cardinality)
            && let Some(label) = on.iter().find(|l| include.contains(l))
        {
            return self.error(at_operator(), format!("label {label:?} must not occur in ON and GROUP clause at once"));
        }
        for (at, kind) in [(left_span.start, left), (link.rhs.span.start, right)] {
            if !matches!(kind, QueryKind::Scalar | QueryKind::Vector) {
                return self.error(at, "binary expression must contain only scalar and instant vector types");
            }
        }
        let grouped = matching.cardinality != Cardinality::OneToOne;
        let filled = matching.fill != (None, None);
        let (Grouping::By(labels) | Grouping::Without(labels)) = &matching.on;
        if (left, right) != (QueryKind::Vector, QueryKind::Vector) {
            if !labels.is_empty() {
                return self.error(start, "vector matching only allowed between instant vectors");
            }
            if filled {
                return self.error(start, "filling in missing series only allowed between instant vectors");
            }
            if link.op.is_set() {
                return self.error(start, format!("set operator {op:?} not allowed in binary scalar expression"));
            }
        } else if link.op.is_set() {
            if grouped {
                return self.error(start, format!("no grouping allowed for {op:?} operation"));
            }
            if filled {
                return self.error(start, "filling in missing series not allowed for set operators");
            }
        }
        Ok(())
    }
}

/// The type of the result of an expression whose parts are known to fit.
pub(crate) fn kind_of(expr: &Expr) -> QueryKind {
    match &expr.kind {
        ExprKind::Number { .. } => QueryKind::Scalar,
        ExprKind::String(_) | ExprKind::Bytes(_) => QueryKind::String,
        ExprKind::Selector(_) | ExprKind::Aggregate { .. } => QueryKind::Vector,
        ExprKind::Matrix { .. } | ExprKind::Subquery { .. } => QueryKind::Matrix,
        ExprKind::Call { function, .. } => function.returns,
        ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => kind_of(inner),
        ExprKind::Binary(chain) => {
            let scalar = |e: &Expr| kind_of(e) == QueryKind::Scalar;
            if scalar(&chain.first) && chain.links.iter().all(|l| scalar(&l.rhs)) {
                QueryKind::Scalar
            } else {
                QueryKind::Vector
            }
        }
    }
}
