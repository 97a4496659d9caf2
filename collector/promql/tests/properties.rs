//! Properties over random series, expressions and texts.

mod memory;
mod scattered;

use std::time::Duration;

use memory::{Memory, limits};
use proptest::prelude::*;
use scattered::{Each, Scattered};
use veghe_model::{Labels, SeriesData, Timestamp, stale_nan};
use veghe_promql::{EvalError, Limits, NameRemoval, Query, QueryKind, Source, Value};

/// Expressions that exercise every kind of node.
const EXPRESSIONS: &[&str] = &[
    "x",
    "x offset 45s",
    "x @ 300",
    "x @ end()",
    "-x",
    "x + on(a) group_left() y",
    "x / ignoring(b) group_left(c) y",
    "y * y",
    "x > 3",
    "x > bool 3",
    "3 < x",
    "x and on(a) y",
    "x or y",
    "x unless on(a) (y > 2)",
    "sum(x)",
    "sum by (a) (x)",
    "avg without (b) (x)",
    "min by (a) (x)",
    "max(x)",
    "count by (b) (x)",
    "stddev(x)",
    "stdvar by (a) (x)",
    "group(x)",
    "quantile(0.3, x)",
    "topk(2, x)",
    "bottomk by (a) (1, x)",
    "limitk(2, x)",
    "limit_ratio(0.5, x)",
    "count_values(\"v\", x)",
    "rate(x[2m])",
    "increase(x[90s] offset 30s)",
    "delta(x[2m])",
    "irate(x[2m])",
    "idelta(x[2m])",
    "deriv(x[3m])",
    "predict_linear(x[3m], 60)",
    "changes(x[3m])",
    "resets(x[3m])",
    "sum_over_time(x[1m])",
    "avg_over_time(x[1m])",
    "min_over_time(x[100s])",
    "max_over_time(x[100s])",
    "last_over_time(x[100s])",
    "stddev_over_time(x[100s])",
    "quantile_over_time(0.9, x[100s])",
    "mad_over_time(x[100s])",
    "absent(x > 5)",
    "absent_over_time(x[20s])",
    "present_over_time(x[20s])",
    "max_over_time(sum(x)[2m:20s])",
    "rate(x[2m:10s] @ 200 offset 10s)",
    "scalar(sum(x)) + time()",
    "vector(time())",
    "timestamp(x)",
    "round(x, 0.5)",
    "clamp(x, 1, 4)",
    "label_replace(x, \"d\", \"$1\", \"a\", \"(.*)\")",
    "histogram_quantile(0.5, sum by (a, le) (h))",
    "day_of_week(x * 86400)",
    "double_exponential_smoothing(x[3m], 0.5, 0.5)",
    "x or y or x > 3 or on(a) y",
    "x smoothed",
    "rate(x[2m] anchored)",
    "increase(x[90s] smoothed offset 10s)",
    "delta(x[2m] smoothed)",
    "changes(x[3m] anchored)",
    "resets(x[3m] anchored @ 200)",
    "sum_over_time(x[1m + 30s * 2])",
    "max_over_time(sum(x)[2m:min_of(20s, 1m / 2)] offset -(5s * 2))",
    "x + on(a) group_left() fill(2) y",
    "x - ignoring(b, c) group_left() fill_right(1) sum by (a) (y)",
    "info(x, {c=~\".*\"})",
    "min_of(scalar(sum(x)), time())",
    "histogram_quantiles(h, \"q\", 0.1, 0.9)",
];

/// What the second opinion does not know yet.
const NEWER_SYNTAX: &[&str] = &["smoothed", "anchored", "min_of", "fill", "info(", "30s * 2", "histogram_quantiles"];

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0_i32..10).prop_map(f64::from),
        4 => -100.0..100.0_f64,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(stale_nan()),
    ]
}

fn samples() -> impl Strategy<Value = Vec<(i64, f64)>> {
    prop::collection::vec((1_i64..40_000, value()), 0..40).prop_map(|steps| {
        let mut at = 0;
        steps
            .into_iter()
            .map(|(gap, value)| {
                at += gap;
                (at, value)
            })
            .collect()
    })
}

fn memory() -> impl Strategy<Value = Memory> {
    let labels = [
        "x a=1 b=1",
        "x a=1 b=2",
        "x a=2 b=1",
        "x a=2 b=2",
        "y a=1 c=p",
        "y a=2 c=q",
        "h a=1 le=1",
        "h a=1 le=2",
        "h a=1 le=+Inf",
    ];
    prop::collection::vec(samples(), labels.len()).prop_map(move |series| {
        let mut memory = Memory::default();
        for (text, samples) in labels.iter().zip(series) {
            let (name, rest) = text.split_once(' ').expect("a name");
            let pairs = rest.split(' ').filter_map(|p| p.split_once('='));
            memory.append(Labels::from_pairs(pairs.chain([("__name__", name)])), samples);
        }
        memory
    })
}

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || a == b || (a.is_nan() && b.is_nan())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_range_query_gives_at_each_step_what_an_instant_query_gives(
        memory in memory(), start in 0_i64..400_000, step in 1_i64..90_000,
    ) {
        let count = 12;
        let end = start + step * (count - 1);
        for text in EXPRESSIONS {
            // `@ end()` means the range's own end.
            let text = text.replace("end()", &format!("{:.3}", end as f64 / 1000.0));
            let query = Query::parse(&text).expect("a query");
            let ranged = query.range(
                &memory, Timestamp(start), Timestamp(end), Duration::from_millis(step.unsigned_abs()), &limits(), &|| false,
            );
            let instants: Vec<_> = (0..count)
                .map(|i| query.instant(&memory, Timestamp(start + step * i), &limits(), &|| false))
                .collect();
            let matrix = match ranged {
                Ok(evaluation) => match evaluation.value {
                    Value::Matrix(matrix) => matrix,
                    other => panic!("{text}: {other:?}"),
                },
                Err(error) => {
                    prop_assert!(instants.iter().any(Result::is_err), "{text}: only the range fails: {error}");
                    continue;
                }
            };
            for (i, instant) in instants.into_iter().enumerate() {
                let at = start + step * i as i64;
                let vector: Vec<(Labels, f64)> = match instant.map(|e| e.value) {
                    Ok(Value::Vector(vector)) => vector.into_iter().map(|s| (s.labels, s.value)).collect(),
                    Ok(Value::Scalar(_, v)) => vec![(Labels::default(), v)],
                    other => panic!("{text}: {other:?}"),
                };
                let at_step: Vec<(&Labels, f64)> = matrix
                    .iter()
                    .filter_map(|s| s.iter().find(|p| p.timestamp.0 == at).map(|p| (&s.labels, p.value)))
                    .collect();
                prop_assert_eq!(at_step.len(), vector.len(), "{} at {}: {:?} against {:?}", text, at, at_step, vector);
                for (labels, value) in &vector {
                    let found = at_step.iter().find(|(l, _)| *l == labels);
                    prop_assert!(found.is_some_and(|(_, v)| same(*v, *value)), "{text} at {at}: {labels} {value} {found:?}");
                }
            }
        }
    }

    #[test]
    fn windows_hold_the_samples_after_their_start_up_to_their_end(
        samples in samples(), start in 0_i64..400_000, step in 1_i64..90_000, range in 1_i64..300_000,
    ) {
        let mut memory = Memory::default();
        memory.append(Labels::from_pairs([("__name__", "x_total")]), samples.clone());
        let ask = |function: &str| {
            let query = Query::parse(&format!("{function}(x_total[{range}ms])")).expect("a query");
            let end = Timestamp(start + step * 20);
            let step = Duration::from_millis(step.unsigned_abs());
            match query.range(&memory, Timestamp(start), end, step, &limits(), &|| false).expect("a result").value {
                Value::Matrix(matrix) => matrix.first().map_or_else(Vec::new, |s| s.iter().collect()),
                other => panic!("{other:?}"),
            }
        };
        let at = |points: &[veghe_model::Sample], t: i64| points.iter().find(|p| p.timestamp.0 == t).map(|p| p.value);
        let (counts, maxima, rates) = (ask("count_over_time"), ask("max_over_time"), ask("rate"));
        for i in 0..=20 {
            let t = start + step * i;
            let window: Vec<(i64, f64)> = samples
                .iter()
                .copied()
                .filter(|(at, v)| *at > t - range && *at <= t && v.to_bits() != stale_nan().to_bits())
                .collect();
            prop_assert_eq!(at(&counts, t).unwrap_or(0.0), window.len() as f64);
            let maximum = window.iter().map(|(_, v)| *v).fold(None, |m: Option<f64>, v| match m {
                Some(m) if m.is_nan() || v > m => Some(v),
                Some(m) => Some(m),
                None => Some(v),
            });
            prop_assert_eq!(at(&maxima, t).map(f64::to_bits), maximum.map(f64::to_bits));
            let rate = naive_rate(&window, t, range);
            let got = at(&rates, t);
            prop_assert!(
                matches!((got, rate), (None, None)) || got.zip(rate).is_some_and(|(a, b)| same(a, b)),
                "rate at {}: {:?} against {:?} of {:?}", t, got, rate, window,
            );
        }
    }

    #[test]
    fn starts_that_nobody_knows_change_nothing(samples in samples(), at in 0_i64..900_000, range in 1_i64..600_000) {
        let (mut plain, mut started) = (Memory::default(), Memory::default());
        let labels = Labels::from_pairs([("__name__", "x_total")]);
        plain.append(labels.clone(), samples.clone());
        started.append_started(labels, samples.iter().map(|(t, v)| (*t, *v, Some(0))));
        for function in ["rate", "increase", "irate", "resets", "delta"] {
            let query = Query::parse(&format!("{function}(x_total[{range}ms])")).expect("a query");
            let value = |memory: &Memory| match query.instant(memory, Timestamp(at), &limits(), &|| false) {
                Ok(evaluation) => match evaluation.value {
                    Value::Vector(vector) => vector.first().map(|s| s.value.to_bits()),
                    other => panic!("{other:?}"),
                },
                Err(error) => panic!("{error}"),
            };
            prop_assert_eq!(value(&plain), value(&started), "{} of {:?}", function, samples);
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same_query(text in query_text()) {
        if let Ok(query) = Query::parse(&text) {
            let printed = query.to_string();
            let again = Query::parse(&printed);
            prop_assert!(again.is_ok(), "{text:?} prints as {printed:?}: {again:?}");
            let again = again.expect("checked");
            prop_assert_eq!(again.to_string(), printed);
            prop_assert_eq!(again.kind(), query.kind());
            prop_assert_eq!(again.selectors(), query.selectors());
            let pretty = Query::parse(&query.pretty());
            prop_assert!(pretty.is_ok(), "{text:?} is laid out as {:?}: {pretty:?}", query.pretty());
            prop_assert_eq!(pretty.expect("checked").to_string(), query.to_string());
            prop_assert!(query.tree().is_ok());
        }
    }
}

/// Straight from the definition, one window at a time.
fn naive_rate(window: &[(i64, f64)], end: i64, range: i64) -> Option<f64> {
    let (first, last) = (window.first()?, window.last()?);
    if window.len() < 2 {
        return None;
    }
    let mut increase = last.1 - first.1;
    for pair in window.windows(2) {
        if pair[1].1 < pair[0].1 {
            increase += pair[0].1;
        }
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let sampled = seconds(last.0 - first.0);
    let average = sampled / (window.len() - 1) as f64;
    let (mut before, mut after) = (seconds(first.0 - (end - range)), seconds(end - last.0));
    if before >= average * 1.1 {
        before = average / 2.0;
    }
    if increase > 0.0 && first.1 >= 0.0 {
        before = before.min(sampled * (first.1 / increase));
    }
    if after >= average * 1.1 {
        after = average / 2.0;
    }
    Some(increase * ((sampled + before + after) / sampled / seconds(range)))
}

/// Queries, queries with a part cut or replaced, and plain noise.
fn query_text() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "x",
        "y",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "5m",
        ":",
        "1",
        "0x1f",
        "1e300",
        "+",
        "-",
        "^",
        "==",
        "bool",
        "on",
        "by",
        "sum",
        "topk",
        "rate",
        "offset",
        "@",
        "start()",
        "end()",
        "\"a\"",
        ",",
        "=",
        "=~",
        "or",
        "and",
        "unless",
        "inf",
        "nan",
        "group_left",
        "fill",
        "99999999y",
        "label_replace",
        "#",
        "\n",
        "'\\xff'",
        "!",
        "é",
        "__name__",
        "10ms",
        "anchored",
        "smoothed",
        "step()",
        "range()",
        "min_of",
        "*",
        "/",
        "%",
        "</",
        "info",
        "fill_left(1)",
    ]);
    prop_oneof![
        prop::collection::vec(words, 0..14).prop_map(|w| w.join(" ")),
        (prop::sample::select(EXPRESSIONS), any::<prop::sample::Index>(), "\\PC{0,3}").prop_map(|(text, at, with)| {
            let at = at.index(text.len() + 1);
            let (a, b) = text.split_at(at);
            format!("{a}{with}{}", b.chars().skip(1).collect::<String>())
        }),
        prop::sample::select(EXPRESSIONS).prop_map(str::to_owned),
        "\\PC{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_and_no_moment_panics(text in query_text(), at in any::<i64>(), span in any::<i64>(), step in any::<u64>()) {
        let mut memory = Memory::default();
        memory.append(Labels::from_pairs([("__name__", "x"), ("a", "1")]), [(0, 1.0), (1000, 2.0)]);
        if let Ok(query) = Query::parse(&text) {
            let limits = Limits { max_samples: 10_000, lookback: Duration::from_mins(5) };
            for at in [at, 1000] {
                // Whatever the outcome, there is one.
                let instant = query.instant(&memory, Timestamp(at), &limits, &|| false);
                let end = Timestamp(at.saturating_add(span));
                let range = query.range(&memory, Timestamp(at), end, Duration::from_millis(step), &limits, &|| false);
                if query.kind() == QueryKind::Matrix {
                    prop_assert!(range.is_err());
                }
                prop_assert!(instant.is_ok() || instant.is_err());
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(query) = Query::parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!query.to_string().is_empty());
        }
    }

    /// An independent parser agrees on what is a query, where it is not known to err.
    #[test]
    fn another_parser_takes_what_this_one_prints(at in 0..EXPRESSIONS.len()) {
        let query = Query::parse(EXPRESSIONS[at]).expect("a query");
        prop_assume!(!NEWER_SYNTAX.iter().any(|new| EXPRESSIONS[at].contains(new)));
        prop_assert!(promql_parser::parser::parse(&query.to_string()).is_ok(), "{}", query);
    }
}

#[test]
fn a_deep_query_is_refused_without_overflow() {
    for (open, close) in
        [("(", ")"), ("-", ""), ("abs(", ")"), ("x + (", ")"), ("1^", ""), ("sum_over_time(", "[5m:1m])")]
    {
        let text = format!("{}x{}", open.repeat(100_000), close.repeat(100_000));
        assert!(Query::parse(&text).is_err(), "{open}");
        // The deepest that is taken must also evaluate on a thread of ordinary size.
        let depth = (1..200).rev().find_map(|n| Query::parse(&format!("{}x{}", open.repeat(n), close.repeat(n))).ok());
        let query = depth.expect("some depth is fine");
        let result = query.instant(&Memory::default(), Timestamp(0), &limits(), &|| false);
        assert!(result.is_ok(), "{open}: {result:?}");
    }
}

#[test]
fn a_chain_of_operators_may_be_as_long_as_the_text() {
    let mut memory = Memory::default();
    for i in 0..300 {
        memory.append(Labels::from_pairs([("__name__", format!("x{i}")), ("i", i.to_string())]), [(0, f64::from(i))]);
    }
    let evaluate = |text: &str| {
        let query = Query::parse(text).expect("a query");
        assert_eq!(query.to_string(), text);
        query.instant(&memory, Timestamp(0), &limits(), &|| false).expect("a result").value
    };
    let names: Vec<String> = (0..300).map(|i| format!("x{i}")).collect();
    let pretty = Query::parse(&names.join(" or ")).expect("a query").pretty();
    assert_eq!(Query::parse(&pretty).expect("a query").to_string(), names.join(" or "));
    let Value::Vector(all) = evaluate(&names.join(" or ")) else { panic!("no vector") };
    assert_eq!(all.len(), 300);
    let Value::Scalar(_, sum) = evaluate(&vec!["1"; 20_000].join(" + ")) else { panic!("no scalar") };
    assert_eq!(sum, 20_000.0);
    let chain = vec!["x"; 20_000].join(" or ");
    let Value::Vector(none) = evaluate(&chain) else { panic!("no vector") };
    assert!(none.is_empty());
    assert!(Query::parse(&chain).expect("a query").tree().is_err(), "no JSON of twenty thousand levels");
}

#[test]
fn samples_beyond_the_limit_end_the_query() {
    let mut memory = Memory::default();
    memory.append(Labels::from_pairs([("__name__", "x")]), (0..1000).map(|i| (i * 1000, 1.0)));
    let limits = Limits { max_samples: 500, lookback: Duration::from_mins(5) };
    let evaluate = |text: &str| {
        let query = Query::parse(text).expect("a query");
        query.instant(&memory, Timestamp(999_000), &limits, &|| false)
    };
    assert!(evaluate("sum_over_time(x[2m])").is_ok());
    for text in ["sum_over_time(x[20m])", "sum_over_time(vector(1)[10y:1ms])", "max_over_time(x[20m:1s])"] {
        let error = evaluate(text).expect_err("too many");
        assert_eq!(
            error.to_string(),
            "query processing would load too many samples into memory in query execution",
            "{text}"
        );
    }
    let query = Query::parse("1").expect("a query");
    let (start, end) = (Timestamp(0), Timestamp(1_000_000_000_000));
    let error = query.range(&memory, start, end, Duration::from_millis(1), &limits, &|| false).expect_err("too many");
    assert!(matches!(error, EvalError::TooManySamples));
}

#[test]
fn a_stopped_query_says_so() {
    let query = Query::parse("sum(rate(x[5m]))").expect("a query");
    let error = query.instant(&Memory::default(), Timestamp(0), &limits(), &|| true).expect_err("stopped");
    assert_eq!(error.to_string(), "query timed out in expression evaluation");
}

#[test]
fn a_range_without_step_or_backwards_is_refused() {
    let query = Query::parse("x").expect("a query");
    let range = |start, end, step| {
        query.range(
            &Memory::default(),
            Timestamp(start),
            Timestamp(end),
            Duration::from_millis(step),
            &limits(),
            &|| false,
        )
    };
    assert!(matches!(range(0, 1, 0), Err(EvalError::Step)));
    assert!(matches!(range(1, 0, 1), Err(EvalError::EndBeforeStart)));
    assert!(matches!(range(i64::MIN, i64::MAX, 1), Err(EvalError::Timestamp(_))));
}

#[test]
fn a_result_tells_what_it_took() {
    let mut memory = Memory::default();
    for i in ["1", "2"] {
        memory.append(Labels::from_pairs([("__name__", "x"), ("i", i)]), (0..10).map(|t| (t * 10_000, 1.0)));
    }
    let range = |text: &str| {
        let query = Query::parse(text).expect("a query");
        let (start, end) = (Timestamp(60_000), Timestamp(80_000));
        let step = Duration::from_secs(10);
        query.range(&memory, start, end, step, &limits(), &|| false).expect("a result").stats
    };
    let per_step = |n: u64| [60_000, 70_000, 80_000].map(|t| (Timestamp(t), n)).to_vec();
    let stats = range("sum(x)");
    assert_eq!((stats.total, stats.per_step, stats.read), (6, per_step(2), 18));
    // Two numbers for each step of the sum, a row that goes in, and the series that it is made of.
    assert_eq!(stats.peak, 6 + 3 + 9);
    // Two columns of three values, and one series at a time beside them.
    assert_eq!(range("x").peak, 6 + 9);
    // Each window has three samples of each series, though most are read once.
    let stats = range("sum_over_time(x[30s])");
    assert_eq!((stats.total, stats.per_step, stats.read), (18, per_step(6), 10));
    // Of a subquery count the values that it yields.
    let stats = range("sum_over_time(x[20s:10s])");
    assert_eq!((stats.total, stats.per_step), (12, per_step(4)));
    assert_eq!(range("1 + 1").total, 0);
}

#[test]
fn more_remarks_than_ten_are_counted() {
    let mut memory = Memory::default();
    for i in 0..14 {
        memory.append(Labels::from_pairs([("__name__", format!("x{i}"))]), [(0, 1.0), (1000, 2.0)]);
    }
    let query = Query::parse("rate({__name__=~\"x.*\"}[1m])").expect("a query").with_name_removal(NameRemoval::Delayed);
    let error = query.instant(&memory, Timestamp(1000), &limits(), &|| false).expect_err("one name is none");
    assert_eq!(error.to_string(), "vector cannot contain metrics with the same labelset");
    let query =
        Query::parse("sum(rate({__name__=~\"x.*\"}[1m]))").expect("a query").with_name_removal(NameRemoval::Delayed);
    let infos = query.instant(&memory, Timestamp(1000), &limits(), &|| false).expect("a result").infos;
    assert_eq!(infos.len(), 11);
    assert_eq!(infos[10], "4 more info annotations omitted");
}

#[test]
fn remarks_name_their_place_in_the_query() {
    let mut memory = Memory::default();
    memory.append(Labels::from_pairs([("__name__", "x")]), [(0, 1.0), (60_000, 2.0)]);
    let query = Query::parse("sum(\n  rate(x[5m])\n)").expect("a query");
    let evaluation = query.instant(&memory, Timestamp(60_000), &limits(), &|| false).expect("a result");
    assert_eq!(
        evaluation.infos,
        ["PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"x\" (2:8)"]
    );
    let query = Query::parse("quantile(2, x)").expect("a query");
    let evaluation = query.instant(&memory, Timestamp(60_000), &limits(), &|| false).expect("a result");
    assert_eq!(evaluation.warnings, ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:10)"]);
}

#[test]
fn a_query_that_is_wrong_says_what_and_where() {
    for (text, error) in [
        ("", "unknown position: parse error: no expression found in input"),
        ("1 and 1", "1:1: parse error: set operator \"and\" not allowed in binary scalar expression"),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("{x=~\".*\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("rate(x)", "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector"),
        ("nope(x)", "1:1: parse error: unknown function with name \"nope\""),
        ("x[0s]", "1:3: parse error: duration must be greater than 0"),
        ("x[5x]", "1:3: parse error: bad number or duration syntax: \"5x\""),
        ("x offset 5m offset 5m", "1:1: parse error: offset may not be set multiple times"),
        ("foo{__name__=\"bar\"}", "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\""),
        ("x +\n (y", "2:4: parse error: unclosed left parenthesis"),
        (
            "sum(x, y)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 1, got 2",
        ),
    ] {
        assert_eq!(Query::parse(text).expect_err(text).to_string(), error, "{text}");
    }
}

#[test]
fn a_query_tells_its_selectors_and_its_kind() {
    let query =
        Query::parse("sum(rate({\"a.b\", job=~\"n.*\"}[5m:])) / on() up{job=\"x\"} > scalar(z[5m:] or {job=\"y\"})");
    assert!(query.is_err(), "a range vector is no operand");
    let query = Query::parse("sum(rate({\"a.b\", job=~\"n.*\"}[5m:])) / on() up{job=\"x\"} > scalar({job=\"y\"})")
        .expect("a query");
    let names: Vec<_> = query.selectors().into_iter().map(|s| s.metric_name).collect();
    assert_eq!(names, [Some("a.b".to_owned()), Some("up".to_owned()), None]);
    assert_eq!(query.kind(), QueryKind::Vector);
    assert_eq!(Query::parse("x[5m]").expect("a query").kind(), QueryKind::Matrix);
}

/// From two threads, the last first.
fn backwards(all: &[SeriesData], each: Each<'_>) {
    std::thread::scope(|scope| {
        for odd in [0, 1] {
            scope.spawn(move || {
                for (place, series) in all.iter().enumerate().rev().filter(|(place, _)| place % 2 == odd) {
                    if each(place * 3, series.clone()).is_break() {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn series_in_any_order_from_several_threads_give_the_same_to_the_last_bit() {
    let mut memory = Memory::default();
    for i in 0..40_i64 {
        let labels =
            Labels::from_pairs([("__name__", "x".to_owned()), ("i", i.to_string()), ("g", (i % 3).to_string())]);
        memory.append(labels, (0..60).map(|t| (t * 10_000 + i, ((t * 7919 + i * 31) % 997) as f64 / 7.0)));
    }
    let scattered = Scattered(&memory, backwards);
    for text in [
        "x",
        "sum by (g) (rate(x[1m]))",
        "avg(x) + stddev(x)",
        "topk(3, x)",
        "quantile(0.3, max_over_time(x[45s]))",
        "sum_over_time(rate(x[1m])[2m:30s])",
        "absent_over_time(x[1m])",
        "predict_linear(x[2m], 60)",
        "rate(x[1m] smoothed)",
        "x smoothed",
        "limitk(5, x)",
        "timestamp(x)",
    ] {
        let query = Query::parse(text).expect("a query");
        let range = |source: &dyn Source| {
            let step = Duration::from_secs(15);
            query.range(source, Timestamp(100_000), Timestamp(500_000), step, &limits(), &|| false).expect("a result")
        };
        let (one, other) = (range(&memory), range(&scattered));
        assert_eq!(format!("{:?}", one.value), format!("{:?}", other.value), "{text}");
        assert_eq!((one.stats, one.infos, one.warnings), (other.stats, other.infos, other.warnings), "{text}");
        let instant = |source: &dyn Source| query.instant(source, Timestamp(300_000), &limits(), &|| false);
        let (one, other) = (instant(&memory).expect("a result"), instant(&scattered).expect("a result"));
        assert_eq!(format!("{:?}", one.value), format!("{:?}", other.value), "{text}");
        // What is too large is refused alike, and what is stopped ends.
        for max_samples in [0, 100, 1_000, 2_000, 3_000] {
            let few = Limits { max_samples, ..limits() };
            let step = Duration::from_secs(15);
            let range = |source: &dyn Source| {
                query.range(source, Timestamp(100_000), Timestamp(500_000), step, &few, &|| false).is_ok()
            };
            assert_eq!(range(&memory), range(&scattered), "{text} with {max_samples} samples");
        }
        assert!(matches!(query.instant(&scattered, Timestamp(300_000), &limits(), &|| true), Err(EvalError::Stopped)));
    }
}
