//! What a query prints as, its tree, and what is said of texts that are none.

use serde_json::json;
use veghe_promql::Query;

fn parse(text: &str) -> Query {
    Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn queries_print_as_prometheus_prints_them() {
    for (text, printed) in [
        ("sum by() (x:rate10s{job=\"s\"})", "sum(x:rate10s{job=\"s\"})"),
        ("sum without(instance) (x)", "sum without (instance) (x)"),
        ("a - on(b) group_left c", "a - on (b) group_left () c"),
        ("a - ignoring() c", "a - c"),
        ("a - ignoring() group_left c", "a - ignoring () group_left () c"),
        ("a + fill(-23) b", "a + fill (-23) b"),
        ("a + fill_left(5) fill_right(5) b", "a + fill (5) b"),
        ("a + fill_left(-23) fill_right(42) b", "a + fill_left (-23) fill_right (42) b"),
        ("a[12m] offset -3m", "a[12m] offset -3m"),
        ("a{b=\"c\"}[5m] anchored @ start() offset 1m", "a{b=\"c\"}[5m] anchored @ start() offset 1m"),
        ("a smoothed", "a smoothed"),
        ("{__name__=\"a\"}", "{__name__=\"a\"}"),
        ("a{z=\"1\", b!~\"c\"}[1m]", "a{b!~\"c\",z=\"1\"}[1m]"),
        ("a @ 10", "a @ 10.000"),
        ("{\"a.b\"=\"c\"}", "{\"a.b\"=\"c\"}"),
        ("{\"_0\"=\"1\"}", "{_0=\"1\"}"),
        ("x > 5m", "x > 5m"),
        ("1048576", "1048576"),
        ("foo[-step()]", "foo[-step()]"),
        ("foo offset -(step())", "foo offset -(step())"),
        ("foo offset +(5*2)", "foo offset (5 * 2)"),
        ("foo offset -min_of(10s, +max_of(step() ^ 2, 2))", "foo offset -min_of(10s, max_of(step() ^ 2, 2))"),
        ("foo[200-min_of(-step()^+step(),1)]", "foo[200 - min_of(-step() ^ step(), 1)]"),
        ("foo offset -(5)", "foo offset -5s"),
        ("sum by(\"üüü\", job) (foo)", "sum by (\"üüü\", job) (foo)"),
        ("a </ 5 >/ b", "a </ 5 >/ b"),
    ] {
        let query = parse(text);
        assert_eq!(query.to_string(), printed, "{text}");
        assert_eq!(parse(printed).to_string(), printed, "{text}");
        assert_eq!(parse(&query.pretty()).to_string(), printed, "{text}");
    }
}

#[test]
fn texts_that_are_no_queries_are_refused_in_prometheus_words() {
    let wrong = [
        ("1 +", "1:4: parse error: unexpected end of input"),
        ("(1))", "1:4: parse error: unexpected right parenthesis ')'"),
        ("((1)", "1:5: parse error: unclosed left parenthesis"),
        ("foo{", "1:5: parse error: unexpected end of input inside braces"),
        ("foo}", "1:4: parse error: unexpected character: '}'"),
        ("foo[5m", "1:7: parse error: unclosed left bracket"),
        ("foo[foo]", "1:5: parse error: unexpected character: 'f', expected ':'"),
        ("1 !~ 1", "1:3: parse error: unexpected character after '!': '~'"),
        ("1 =~ 1", "1:3: parse error: unexpected character after '=': '~'"),
        ("*1", "1:1: parse error: unexpected <op:*>"),
        ("foo by (x)", "1:5: parse error: unexpected <by>"),
        ("1 sum", "1:3: parse error: unexpected <aggr:sum>"),
        ("foo foo", "1:5: parse error: unexpected identifier \"foo\""),
        ("foo a:b", "1:5: parse error: unexpected metric identifier \"a:b\""),
        ("foo 1", "1:5: parse error: unexpected number \"1\""),
        ("foo \"a long string\"", "1:5: parse error: unexpected string \"\\\"a long st\"..."),
        ("foo{a=5}", "1:7: parse error: unexpected number \"5\" in label matching, expected string"),
        ("foo{a}", "1:6: parse error: unexpected \"}\" in label matching, expected label matching operator"),
        ("sum by 5 (x)", "1:8: parse error: unexpected number \"5\" in grouping opts, expected \"(\""),
        (
            "foo offset",
            "1:11: parse error: unexpected end of input in offset, expected number, duration, step(), or range()",
        ),
        ("foo @ x", "1:7: parse error: unexpected identifier \"x\" in @, expected timestamp"),
        (
            "foo[]",
            "1:5: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        ("foo[5m 5m]", "1:8: parse error: unexpected duration \"5m\" in subquery or range, expected \":\" or \"]\""),
        ("foo offset 1m [5m]", "1:15: parse error: no offset modifiers allowed before range"),
        ("foo @ 1 [5m]", "1:9: parse error: no @ modifiers allowed before range"),
        ("(foo)[5m]", "1:6: parse error: ranges only allowed for vector selectors"),
        ("foo[5m][5m:]", "1:1: parse error: subquery is only allowed on instant vector, got matrix instead"),
        (
            "-foo[5m]",
            "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"range vector\"",
        ),
        ("foo + on(a) 1", "1:1: parse error: vector matching only allowed between instant vectors"),
        ("foo + fill(1) 1", "1:1: parse error: filling in missing series only allowed between instant vectors"),
        ("foo and fill(1) bar", "1:1: parse error: filling in missing series not allowed for set operators"),
        ("foo and on(a) group_left bar", "1:1: parse error: no grouping allowed for \"and\" operation"),
        ("foo + bool bar", "1:5: parse error: bool modifier can only be used on comparison operators"),
        (
            "foo * on(a) group_left(a) bar",
            "1:5: parse error: label \"a\" must not occur in ON and GROUP clause at once",
        ),
        ("rate(foo) +", "1:12: parse error: unexpected end of input"),
        ("foo[5m / 0]", "1:8: parse error: division by zero"),
        ("foo[-5m]", "1:5: parse error: duration must be greater than 0"),
        ("foo offset 1e300", "1:12: parse error: duration out of range"),
        ("foo anchored smoothed", "1:1: parse error: anchored and smoothed modifiers cannot be used together"),
        ("foo[5m:1m] anchored", "1:1: parse error: anchored modifier is not supported for subqueries"),
        ("(foo) smoothed", "1:1: parse error: smoothed modifier not implemented"),
        ("foo @ inf", "1:1: parse error: timestamp out of bounds for @ modifier: +Inf"),
        (
            "histogram_quantiles(foo, \"q\")",
            "1:1: parse error: expected at least 3 argument(s) in call to \"histogram_quantiles\", got 2",
        ),
        ("sum(foo,)", "1:8: parse error: trailing commas not allowed in function call args"),
    ];
    let told = |text| Query::parse(text).map_or_else(|e| e.to_string(), |query| format!("a query: {query}"));
    let told: Vec<(&str, String)> = wrong.iter().map(|(text, _)| (*text, told(text))).collect();
    assert_eq!(told, wrong.map(|(text, error)| (text, error.to_owned())));
}

#[test]
fn a_query_is_a_tree_in_the_form_of_prometheus() {
    let tree = parse("sum by (a) (rate(x{b=\"c\"}[step() * 2] offset 1m)) > bool on(a) fill(1) -(y @ end())")
        .tree()
        .expect("a tree");
    let matcher = |name: &str, value: &str| json!({"name": name, "value": value, "type": "="});
    assert_eq!(tree["type"], "binaryExpr");
    assert_eq!(tree["op"], ">");
    assert_eq!(tree["bool"], true);
    assert_eq!(
        tree["matching"],
        json!({"card": "one-to-one", "labels": ["a"], "on": true, "include": [], "fillValues": {"lhs": 1.0, "rhs": 1.0}})
    );
    let sum = &tree["lhs"];
    assert_eq!(
        (&sum["type"], &sum["op"], &sum["grouping"], &sum["without"], &sum["param"]),
        (&json!("aggregation"), &json!("sum"), &json!(["a"]), &json!(false), &json!(null))
    );
    let call = &sum["expr"];
    assert_eq!(call["func"], json!({"name": "rate", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"}));
    let matrix = &call["args"][0];
    assert_eq!(matrix["type"], "matrixSelector");
    assert_eq!(matrix["matchers"], json!([matcher("b", "c"), matcher("__name__", "x")]));
    assert_eq!((&matrix["offset"], &matrix["range"], &matrix["anchored"]), (&json!(60_000), &json!(0), &json!(false)));
    assert_eq!(matrix["rangeExpr"]["op"], "*");
    assert_eq!(matrix["rangeExpr"]["rhs"], json!({"type": "numberLiteral", "val": "2", "duration": false}));
    let negated = &tree["rhs"];
    assert_eq!((&negated["type"], &negated["op"]), (&json!("unaryExpr"), &json!("-")));
    assert_eq!(negated["expr"]["expr"]["startOrEnd"], "end");
    let scalars = parse("1 + 2m").tree().expect("a tree");
    assert_eq!(
        scalars,
        json!({
            "type": "binaryExpr", "op": "+", "bool": false, "matching": null,
            "lhs": {"type": "numberLiteral", "val": "1"}, "rhs": {"type": "numberLiteral", "val": "120"},
        })
    );
    let set = parse("a or b").tree().expect("a tree");
    assert_eq!(set["matching"]["card"], "many-to-many");
}

#[test]
fn a_query_can_not_compile_regular_expressions_without_end() {
    let of = |n: usize| format!("{{{}}}", vec![r#"a=~"\\w{40}""#; n].join(","));
    assert!(Query::parse(&of(100)).is_ok());
    let error = Query::parse(&of(101)).expect_err("one too many");
    assert!(error.to_string().ends_with("more than 100 regular expressions in one query"), "{error}");
}
