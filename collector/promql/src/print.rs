//! The canonical text of a query, as Prometheus' printer writes it, and the same over several lines.
//!
//! What it deliberately does not do: keep comments or the author's layout.

use std::fmt;

use veghe_model::{METRIC_NAME, MatchOp, is_label_name};

use crate::ast::{At, Cardinality, Chain, Expr, ExprKind, Grouping, Length, Link, Selector, When};
use crate::duration::{DurationExpr, DurationKind};

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

/// A number as Go's `%g` prints it: with an exponent where it is very large or very small.
pub(crate) struct Exponential(pub(crate) f64);

impl fmt::Display for Exponential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if !magnitude.is_finite() || magnitude == 0.0 || (1e-4..1e21).contains(&magnitude) {
            return fmt::Display::fmt(&Number(self.0), f);
        }
        let text = format!("{:e}", self.0);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        match exponent.strip_prefix('-') {
            Some(exponent) => write!(f, "{digits}e-{exponent:0>2}"),
            None => write!(f, "{digits}e+{exponent:0>2}"),
        }
    }
}

/// A text in double quotes with Go's escapes.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        QuotedBytes(self.0.as_bytes()).fmt(f)
    }
}

/// The same of a string that may not be UTF-8.
pub(crate) struct QuotedBytes<'a>(pub(crate) &'a [u8]);

impl fmt::Display for QuotedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
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
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        f.write_str("\"")
    }
}

/// A label's name, quoted where it is not in the classic charset.
struct LabelName<'a>(&'a str);

impl fmt::Display for LabelName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_label_name(self.0) { f.write_str(self.0) } else { Quoted(self.0).fmt(f) }
    }
}

struct LabelNames<'a>(&'a [String]);

impl fmt::Display for LabelNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, name) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, LabelName(name))?;
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

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Millis(ms) => write!(f, "{}", Millis(*ms)),
            Self::Computed(expr) => write!(f, "{expr}"),
        }
    }
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            DurationKind::Number { seconds, is_duration } => literal(f, *seconds, *is_duration),
            DurationKind::Step => f.write_str("step()"),
            DurationKind::Range => f.write_str("range()"),
            DurationKind::Negate(e) => write!(f, "-{e}"),
            DurationKind::Binary(op, a, b) => write!(f, "{a} {} {b}", op.sign()),
            DurationKind::MinOf(a, b) => write!(f, "min_of({a}, {b})"),
            DurationKind::MaxOf(a, b) => write!(f, "max_of({a}, {b})"),
            DurationKind::Paren(e) => write!(f, "({e})"),
        }
    }
}

/// A number, or a duration where it was written as one.
fn literal(f: &mut fmt::Formatter<'_>, value: f64, is_duration: bool) -> fmt::Result {
    if is_duration { write!(f, "{}", Millis((value * 1000.0).round() as i64)) } else { write!(f, "{}", Number(value)) }
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
        match &self.offset {
            None | Some(Length::Millis(0)) => Ok(()),
            Some(offset) => write!(f, " offset {offset}"),
        }
    }
}

impl Selector {
    fn fmt_with_range(&self, f: &mut fmt::Formatter<'_>, range: Option<&Length>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or(""))?;
        let is_the_name = |name: &str, op, value: &str| {
            name == METRIC_NAME && op == MatchOp::Equal && Some(value) == self.name.as_deref()
        };
        let mut matchers: Vec<String> = self
            .matchers
            .iter()
            .filter(|m| !is_the_name(m.name(), m.op(), m.value()))
            .map(|m| format!("{}{}{}", LabelName(m.name()), m.op(), Quoted(m.value())))
            .collect();
        if !matchers.is_empty() || self.name.is_none() {
            matchers.sort();
            write!(f, "{{{}}}", matchers.join(","))?;
        }
        if let Some(range) = range {
            write!(f, "[{range}]")?;
        }
        if !self.edges.word().is_empty() {
            write!(f, " {}", self.edges.word())?;
        }
        write!(f, "{}", self.when)
    }
}

impl Link {
    /// The operator and how both sides match.
    fn fmt_operator(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str(self.op.name())?;
        if self.returns_bool {
            f.write_str(" bool")?;
        }
        let grouped = self.matching.cardinality != Cardinality::OneToOne;
        match &self.matching.on {
            Grouping::By(labels) => write!(f, " on {}", LabelNames(labels))?,
            Grouping::Without(labels) if labels.is_empty() && !grouped => {}
            Grouping::Without(labels) => write!(f, " ignoring {}", LabelNames(labels))?,
        }
        match &self.matching.cardinality {
            Cardinality::OneToOne => {}
            Cardinality::ManyToOne(labels) => write!(f, " group_left {}", LabelNames(labels))?,
            Cardinality::OneToMany(labels) => write!(f, " group_right {}", LabelNames(labels))?,
        }
        match self.matching.fill {
            (None, None) => Ok(()),
            (Some(left), Some(right)) if left == right => write!(f, " fill ({})", Number(left)),
            (Some(left), Some(right)) => {
                write!(f, " fill_left ({}) fill_right ({})", Number(left), Number(right))
            }
            (Some(left), None) => write!(f, " fill_left ({})", Number(left)),
            (None, Some(right)) => write!(f, " fill_right ({})", Number(right)),
        }
    }

    fn operator(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        self.fmt_operator(&mut text).map_or_else(|_| String::new(), |()| text)
    }
}

/// The aggregation's name and grouping, with a space where one comes before the parenthesis.
fn aggregation(op: crate::ast::AggregateOp, grouping: &Grouping) -> String {
    match grouping {
        Grouping::By(labels) if labels.is_empty() => op.name().to_owned(),
        Grouping::By(labels) => format!("{} by {} ", op.name(), LabelNames(labels)),
        Grouping::Without(labels) => format!("{} without {} ", op.name(), LabelNames(labels)),
    }
}

fn subquery_suffix(range: &Length, step: Option<&Length>, when: &When) -> String {
    step.map_or_else(|| format!("[{range}:]{when}"), |step| format!("[{range}:{step}]{when}"))
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number { value, is_duration } => literal(f, *value, *is_duration),
            ExprKind::String(s) => Quoted(s).fmt(f),
            ExprKind::Bytes(bytes) => QuotedBytes(bytes).fmt(f),
            ExprKind::Selector(selector) => selector.fmt_with_range(f, None),
            ExprKind::Matrix { selector, range } => selector.fmt_with_range(f, Some(range)),
            ExprKind::Subquery { expr, range, step, when } => {
                write!(f, "{expr}{}", subquery_suffix(range, step.as_ref(), when))
            }
            ExprKind::Call { function, args } => {
                write!(f, "{}(", function.name)?;
                for (i, arg) in args.iter().enumerate() {
                    write!(f, "{}{arg}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            ExprKind::Aggregate { op, param, expr, grouping } => {
                f.write_str(&aggregation(*op, grouping))?;
                match param {
                    Some(param) => write!(f, "({param}, {expr})"),
                    None => write!(f, "({expr})"),
                }
            }
            ExprKind::Negate(expr) => write!(f, "-{expr}"),
            ExprKind::Plus(expr) => write!(f, "+{expr}"),
            ExprKind::Binary(chain) => {
                write!(f, "{}", chain.first)?;
                chain.links.iter().try_for_each(|link| {
                    f.write_str(" ")?;
                    link.fmt_operator(f)?;
                    write!(f, " {}", link.rhs)
                })
            }
            ExprKind::Paren(expr) => write!(f, "({expr})"),
        }
    }
}

/// What is longer is spread over several lines.
const LINE_MAX_BYTES: usize = 100;

/// Deeper levels are indented no further, so that the text of a long chain grows with its length and not its square.
const INDENT_MAX_LEVELS: usize = 100;

fn indent(level: usize) -> String {
    "  ".repeat(level.min(INDENT_MAX_LEVELS))
}

/// A query over several lines where it is long, laid out as Prometheus' `/api/v1/format_query` does.
pub(crate) fn pretty(expr: &Expr) -> String {
    Pretty { line_max_bytes: LINE_MAX_BYTES }.expr(expr, 0)
}

struct Pretty {
    line_max_bytes: usize,
}

impl Pretty {
    fn expr(&self, expr: &Expr, level: usize) -> String {
        let flat = || format!("{}{expr}", indent(level));
        let fits = || expr.to_string().len() <= self.line_max_bytes;
        match &expr.kind {
            ExprKind::Number { .. }
            | ExprKind::String(_)
            | ExprKind::Bytes(_)
            | ExprKind::Selector(_)
            | ExprKind::Matrix { .. } => flat(),
            ExprKind::Negate(inner) => format!("{}-{}", indent(level), self.expr(inner, level).trim()),
            ExprKind::Plus(inner) => format!("{}+{}", indent(level), self.expr(inner, level).trim()),
            // A subquery that fits stands without indentation, which is how Prometheus prints it.
            ExprKind::Subquery { .. } if fits() => expr.to_string(),
            ExprKind::Subquery { expr, range, step, when } => {
                format!("{}{}", self.expr(expr, level), subquery_suffix(range, step.as_ref(), when))
            }
            ExprKind::Binary(chain) => self.chain(chain, level),
            _ if fits() => flat(),
            ExprKind::Paren(inner) => {
                format!("{0}(\n{1}\n{0})", indent(level), self.expr(inner, level + 1))
            }
            ExprKind::Call { function, args } => {
                let args: Vec<String> = args.iter().map(|a| self.expr(a, level + 1)).collect();
                format!("{0}{1}(\n{2}\n{0})", indent(level), function.name, args.join(",\n"))
            }
            ExprKind::Aggregate { op, param, expr, grouping } => {
                let param = param.as_ref().map_or_else(String::new, |p| format!("{},\n", self.expr(p, level + 1)));
                format!(
                    "{0}{1}(\n{param}{2}\n{0})",
                    indent(level),
                    aggregation(*op, grouping),
                    self.expr(expr, level + 1)
                )
            }
        }
    }

    /// Each operator stands one level left of what is before it.
    fn chain(&self, chain: &Chain, level: usize) -> String {
        // As much from the left as fits a line stays on one.
        let mut line = chain.first.to_string();
        let mut on_line = 0;
        for link in &chain.links {
            let longer = format!("{line} {} {}", link.operator(), link.rhs);
            if longer.len() > self.line_max_bytes {
                break;
            }
            line = longer;
            on_line += 1;
        }
        let left = chain.links.len() - on_line;
        let mut text =
            if on_line > 0 { format!("{}{line}", indent(level + left)) } else { self.expr(&chain.first, level + left) };
        for (i, link) in chain.links.iter().enumerate().skip(on_line) {
            let level = level + chain.links.len() - 1 - i;
            text.push('\n');
            text.push_str(&indent(level));
            text.push_str(&link.operator());
            text.push('\n');
            text.push_str(&self.expr(&link.rhs, level + 1));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Pretty;
    use crate::parse::parse;

    /// With so short a line that the layout shows.
    fn narrow(text: &str) -> String {
        Pretty { line_max_bytes: 10 }.expr(&parse(text).expect("a query"), 0)
    }

    #[test]
    fn long_queries_are_laid_out_as_prometheus_does() {
        for (text, pretty) in [
            ("sum(foo)", "sum(foo)"),
            ("sum by() (errors:rate10s{job=\"s\"})", "sum(\n  errors:rate10s{job=\"s\"}\n)"),
            ("topk(10, errors:rate10s{job=\"s\"})", "topk(\n  10,\n  errors:rate10s{job=\"s\"}\n)"),
            ("sum(x:rate10s{job=\"s\"}) without(job,foo)", "sum without (job, foo) (\n  x:rate10s{job=\"s\"}\n)"),
            ("a+b", "a + b"),
            ("a == bool 1", "  a\n== bool\n  1"),
            ("foo + baar + foo_3", "  foo + baar\n+\n  foo_3"),
            ("foo_1 + foo_2 + foo_3", "    foo_1\n  +\n    foo_2\n+\n  foo_3"),
            (
                "foo_1 + ignoring(job) group_left foo_2 + on(i) fill(0) foo_3",
                "    foo_1\n  + ignoring (job) group_left ()\n    foo_2\n+ on (i) fill (0)\n  foo_3",
            ),
            ("rate(foo[1m])", "rate(\n  foo[1m]\n)"),
            ("rate(foo[2*1h])", "rate(\n  foo[2 * 1h]\n)"),
            (
                "max_over_time(rate(demo_count[1m])[1m:] @ start() offset 1m)",
                "max_over_time(\n  rate(\n    demo_count[1m]\n  )[1m:] @ start() offset 1m\n)",
            ),
            ("((foo_long))", "(\n  (foo_long)\n)"),
            ("(foo_long + bar_long)", "(\n    foo_long\n  +\n    bar_long\n)"),
            ("(-vector_selector)", "(\n  -vector_selector\n)"),
            ("-histogram_quantile(0.9,rate(foo[1m]))", "-histogram_quantile(\n  0.9,\n  rate(\n    foo[1m]\n  )\n)"),
        ] {
            assert_eq!(narrow(text), pretty, "{text}");
        }
    }
}
