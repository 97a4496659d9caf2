//! A query's tree as JSON, in the form of Prometheus' `/api/v1/parse_query`.
//!
//! What it deliberately does not do: tell places in the text.

use serde_json::{Value, json};
use veghe_model::Matcher;

use crate::QueryKind;
use crate::ast::{At, Cardinality, Chain, Edges, Expr, ExprKind, Grouping, Length, Link, Selector, When};
use crate::check::kind_of;
use crate::duration::{DurationExpr, DurationKind};
use crate::functions::{Function, Variadic};
use crate::print::Number;

/// Levels of the JSON, in which a chain of operators nests; what reads and drops it recurses.
const DEPTH_MAX: usize = 1_000;

/// `None` where the tree is deeper than what a reader of JSON may be expected to take.
pub(crate) fn tree(expr: &Expr) -> Option<Value> {
    (depth(expr) <= DEPTH_MAX).then(|| node(expr))
}

/// Levels with every operator of a chain as one.
fn depth(expr: &Expr) -> usize {
    match &expr.kind {
        ExprKind::Number { .. }
        | ExprKind::String(_)
        | ExprKind::Bytes(_)
        | ExprKind::Selector(_)
        | ExprKind::Matrix { .. } => 1,
        ExprKind::Subquery { expr, .. } | ExprKind::Negate(expr) | ExprKind::Plus(expr) | ExprKind::Paren(expr) => {
            depth(expr) + 1
        }
        ExprKind::Call { args, .. } => args.iter().map(depth).max().unwrap_or(0) + 1,
        ExprKind::Aggregate { param, expr, .. } => depth(expr).max(param.as_ref().map_or(0, |p| depth(p))) + 1,
        ExprKind::Binary(chain) => chain.links.iter().fold(depth(&chain.first), |d, l| d.max(depth(&l.rhs)) + 1),
    }
}

fn node(expr: &Expr) -> Value {
    match &expr.kind {
        ExprKind::Number { value, .. } => json!({"type": "numberLiteral", "val": Number(*value).to_string()}),
        ExprKind::String(text) => json!({"type": "stringLiteral", "val": text}),
        ExprKind::Bytes(bytes) => json!({"type": "stringLiteral", "val": String::from_utf8_lossy(bytes)}),
        ExprKind::Selector(selector) => selector_node("vectorSelector", selector),
        ExprKind::Matrix { selector, range } => {
            let mut value = selector_node("matrixSelector", selector);
            value["range"] = millis(Some(range)).into();
            value["rangeExpr"] = computed(Some(range));
            value
        }
        ExprKind::Subquery { expr, range, step, when } => {
            let mut value = json!({
                "type": "subquery",
                "expr": node(expr),
                "range": millis(Some(range)),
                "rangeExpr": computed(Some(range)),
                "step": millis(step.as_ref()),
                "stepExpr": computed(step.as_ref()),
            });
            add_when(&mut value, when);
            value
        }
        ExprKind::Call { function, args } => json!({
            "type": "call",
            "func": function_node(function),
            "args": args.iter().map(node).collect::<Vec<_>>(),
        }),
        ExprKind::Aggregate { op, param, expr, grouping } => {
            let (Grouping::By(labels) | Grouping::Without(labels)) = grouping;
            json!({
                "type": "aggregation",
                "op": op.name(),
                "expr": node(expr),
                "param": param.as_ref().map(|p| node(p)),
                "grouping": labels,
                "without": matches!(grouping, Grouping::Without(_)),
            })
        }
        ExprKind::Negate(expr) => json!({"type": "unaryExpr", "op": "-", "expr": node(expr)}),
        ExprKind::Plus(expr) => json!({"type": "unaryExpr", "op": "+", "expr": node(expr)}),
        ExprKind::Binary(chain) => chain_node(chain),
        ExprKind::Paren(expr) => json!({"type": "parenExpr", "expr": node(expr)}),
    }
}

fn chain_node(chain: &Chain) -> Value {
    let (mut left, mut left_kind) = (node(&chain.first), kind_of(&chain.first));
    for link in &chain.links {
        let kinds = (left_kind, kind_of(&link.rhs));
        left = json!({
            "type": "binaryExpr",
            "op": link.op.name(),
            "lhs": left,
            "rhs": node(&link.rhs),
            "matching": (kinds == (QueryKind::Vector, QueryKind::Vector)).then(|| matching(link)),
            "bool": link.returns_bool,
        });
        left_kind = if kinds == (QueryKind::Scalar, QueryKind::Scalar) { QueryKind::Scalar } else { QueryKind::Vector };
    }
    left
}

fn matching(link: &Link) -> Value {
    let (Grouping::By(labels) | Grouping::Without(labels)) = &link.matching.on;
    let (card, include): (&str, &[String]) = match &link.matching.cardinality {
        Cardinality::OneToOne if link.op.is_set() => ("many-to-many", &[]),
        Cardinality::OneToOne => ("one-to-one", &[]),
        Cardinality::ManyToOne(include) => ("many-to-one", include),
        Cardinality::OneToMany(include) => ("one-to-many", include),
    };
    // JSON has no number for NaN and infinity; Prometheus gives no answer at all there.
    let fill = |value: Option<f64>| value.map(|v| if v.is_finite() { v.into() } else { Number(v).to_string().into() });
    let (left, right): (Option<Value>, Option<Value>) = (fill(link.matching.fill.0), fill(link.matching.fill.1));
    json!({
        "card": card,
        "labels": labels,
        "on": matches!(link.matching.on, Grouping::By(_)),
        "include": include,
        "fillValues": {"lhs": left, "rhs": right},
    })
}

fn function_node(function: &Function) -> Value {
    let variadic = match function.variadic {
        Variadic::No => 0,
        Variadic::Optional(n) | Variadic::UpTo(n) => i64::try_from(n).unwrap_or(i64::MAX),
        Variadic::Any => -1,
    };
    json!({
        "name": function.name,
        "argTypes": function.args.iter().map(|kind| kind.go_name()).collect::<Vec<_>>(),
        "variadic": variadic,
        "returnType": function.returns.go_name(),
    })
}

fn selector_node(kind: &str, selector: &Selector) -> Value {
    let matcher = |m: &Matcher| json!({"name": m.name(), "value": m.value(), "type": m.op().to_string()});
    let mut value = json!({
        "type": kind,
        "name": selector.name.as_deref().unwrap_or(""),
        "matchers": selector.matchers.iter().map(matcher).collect::<Vec<_>>(),
        "anchored": selector.edges == Edges::Anchored,
        "smoothed": selector.edges == Edges::Smoothed,
    });
    add_when(&mut value, &selector.when);
    value
}

fn add_when(value: &mut Value, when: &When) {
    value["offset"] = millis(when.offset.as_ref()).into();
    value["offsetExpr"] = computed(when.offset.as_ref());
    value["timestamp"] = match when.at {
        Some(At::Millis(ms)) => ms.into(),
        _ => Value::Null,
    };
    value["startOrEnd"] = match when.at {
        Some(At::Start) => "start".into(),
        Some(At::End) => "end".into(),
        _ => Value::Null,
    };
}

/// Milliseconds of a length that needs no computing, else 0.
fn millis(length: Option<&Length>) -> i64 {
    match length {
        Some(Length::Millis(ms)) => *ms,
        _ => 0,
    }
}

fn computed(length: Option<&Length>) -> Value {
    match length {
        Some(Length::Computed(expr)) => duration(expr, false),
        _ => Value::Null,
    }
}

fn duration(expr: &DurationExpr, wrapped: bool) -> Value {
    let of = |op: &str, lhs: Option<&DurationExpr>, rhs: Option<&DurationExpr>| {
        json!({
            "type": "durationExpr",
            "op": op,
            "lhs": lhs.map(|e| duration(e, false)),
            "rhs": rhs.map(|e| duration(e, false)),
            "wrapped": wrapped,
        })
    };
    match &expr.kind {
        DurationKind::Number { seconds, is_duration } => {
            json!({"type": "numberLiteral", "val": Number(*seconds).to_string(), "duration": is_duration})
        }
        DurationKind::Step => of("step", None, None),
        DurationKind::Range => of("range", None, None),
        DurationKind::Negate(e) => of("-", None, Some(e)),
        DurationKind::Binary(op, a, b) => of(op.sign(), Some(a), Some(b)),
        DurationKind::MinOf(a, b) => of("min_of", Some(a), Some(b)),
        DurationKind::MaxOf(a, b) => of("max_of", Some(a), Some(b)),
        DurationKind::Paren(e) => duration(e, true),
    }
}
