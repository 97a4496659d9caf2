//! Go templates in the labels and annotations of rules, as Prometheus expands them.
//!
//! Invariants: parsing and expanding never panic and never recurse without a bound (see [`MAX_TEMPLATE_BYTES`] and the
//! checks in [`Template::parse`]); a missing label is the empty string.
//!
//! What it deliberately does not do: `query`, `first`, `value`, `label`, `sortByLabel`, `strvalue`, `tableLink`,
//! `graphLink` and `define`/`template`/`block`. A template that uses one of them is refused when the rules are read.
//! `{{ $value }}` alone prints `1234567`, where Go prints `1.234567e+06`.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use gtmpl::{Context, Func, FuncError, Value};
use regex::Regex;
use veghe_model::{Labels, Timestamp};

/// The longest template that is accepted.
pub(super) const MAX_TEMPLATE_BYTES: usize = 16 << 10;

/// How deep parentheses may nest: the parser recurses.
const MAX_DEPTH: usize = 32;

/// How many `if`, `range` and `with` one template may hold: the parser recurses.
const MAX_BLOCKS: usize = 128;

/// The longest padding that `printf` gives.
const MAX_WIDTH: usize = 256;

const PREAMBLE: &str =
    "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}";

static ACTION: LazyLock<Regex> = LazyLock::new(|| regex(r"(?s)\{\{-?\s*(\w+)?"));
static LABEL: LazyLock<Regex> = LazyLock::new(|| regex(r"(?:[lL]abels)\.([A-Za-z0-9_]+)"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("invariant: constant patterns compile")
}

/// A template that parses.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    /// Whether there is anything to expand.
    dynamic: bool,
}

/// Why a text is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is too long or nested too deep.
    #[error(
        "the template is too large; at most {MAX_TEMPLATE_BYTES} bytes, {MAX_DEPTH} nested parentheses, {MAX_BLOCKS} blocks"
    )]
    TooLarge,
    /// It uses what is left out here.
    #[error("`{0}` is not supported in rule templates")]
    Unsupported(String),
    /// It is not in the language.
    #[error("{0}")]
    Syntax(String),
}

/// What a template may use of an alert.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `$labels`: the labels of the sample, the metric's name included.
    pub labels: &'a Labels,
    /// `$value`.
    pub value: f64,
    /// `$externalURL`.
    pub external_url: &'a str,
}

impl Template {
    /// Checks `text`; what it accepts may still fail at run time, as in Prometheus.
    ///
    /// # Errors
    /// [`TemplateError`], in words for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let dynamic = text.contains("{{");
        if text.len() > MAX_TEMPLATE_BYTES || depth(text) > MAX_DEPTH {
            return Err(TemplateError::TooLarge);
        }
        let mut blocks = 0;
        for action in ACTION.captures_iter(text) {
            match action.get(1).map(|word| word.as_str()) {
                Some(word @ ("define" | "template" | "block")) => {
                    return Err(TemplateError::Unsupported(word.to_owned()));
                }
                Some("if" | "range" | "with" | "else") => blocks += 1,
                _ => {}
            }
        }
        if blocks > MAX_BLOCKS {
            return Err(TemplateError::TooLarge);
        }
        if dynamic {
            compile(text).map_err(TemplateError::Syntax)?;
        }
        Ok(Self { text: text.to_owned(), dynamic })
    }

    /// The template as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text for `scope`. A failure gives `<error expanding template: ...>`, as in Prometheus: an alert with an ugly
    /// text is better than none.
    pub fn expand(&self, scope: &Scope<'_>) -> String {
        if !self.dynamic {
            return self.text.clone();
        }
        self.try_expand(scope).unwrap_or_else(|cause| {
            tracing::warn!(template = %self.text, %cause, "cannot expand a rule's template");
            format!("<error expanding template: {cause}>")
        })
    }

    fn try_expand(&self, scope: &Scope<'_>) -> Result<String, String> {
        let compiled = compile(&self.text)?;
        let mut labels: HashMap<String, Value> =
            LABEL.captures_iter(&self.text).map(|c| (c[1].to_owned(), Value::from(String::new()))).collect();
        labels.extend(scope.labels.iter().map(|l| (l.name.to_string(), Value::from(l.value.to_string()))));
        let dot: HashMap<String, Value> = [
            ("Labels".to_owned(), Value::Map(labels)),
            ("ExternalLabels".to_owned(), Value::Map(HashMap::new())),
            ("ExternalURL".to_owned(), Value::from(scope.external_url.to_owned())),
            ("Value".to_owned(), Value::from(scope.value)),
        ]
        .into();
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            compiled.render(&Context::from(Value::Object(dot))).map_err(|e| chain(&e))
        }));
        match rendered {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(cause)) => Err(cause),
            Err(_panic) => Err("the template can't be evaluated".to_owned()),
        }
    }
}

fn compile(text: &str) -> Result<gtmpl::Template, String> {
    let mut template = gtmpl::Template::with_name("rule");
    template.add_funcs(FUNCTIONS);
    // The library slices strings by bytes in places: an escape before a letter like `ț` panics there.
    match catch_unwind(AssertUnwindSafe(|| template.parse(format!("{PREAMBLE}{text}")).map_err(|e| chain(&e)))) {
        Ok(Ok(())) => Ok(template),
        Ok(Err(cause)) => Err(cause),
        Err(_panic) => Err("a quoted string has an escape that Go doesn't know".to_owned()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn depth(text: &str) -> usize {
    let mut open = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

const FUNCTIONS: &[(&str, Func)] = &[
    ("humanize", humanize),
    ("humanize1024", humanize1024),
    ("humanizeDuration", humanize_duration),
    ("humanizePercentage", humanize_percentage),
    ("humanizeTimestamp", humanize_timestamp),
    ("printf", printf),
    ("title", title),
    ("toUpper", to_upper),
    ("toLower", to_lower),
    ("match", matches),
    ("reReplaceAll", replace_all),
    ("stripPort", strip_port),
    ("stripDomain", strip_domain),
    ("index", index),
];

fn fail(cause: impl Into<String>) -> FuncError {
    FuncError::Generic(cause.into())
}

fn one<'a>(args: &'a [Value], function: &str) -> Result<&'a Value, FuncError> {
    match args {
        [value] => Ok(value),
        _ => Err(FuncError::ExactlyXArgs(function.to_owned(), 1)),
    }
}

fn number(value: &Value) -> Result<f64, FuncError> {
    match value {
        Value::Number(n) => n
            .as_f64()
            .or_else(|| n.as_i64().map(|i| i as f64))
            .or_else(|| n.as_u64().map(|u| u as f64))
            .ok_or_else(|| fail("not a number")),
        Value::String(text) => text.parse().map_err(|_not| fail(format!("cannot read {text:?} as a number"))),
        other => Err(fail(format!("cannot use {other} as a number"))),
    }
}

fn string(value: &Value) -> String {
    match value {
        Value::Number(_) => number(value).map_or_else(|_| value.to_string(), |n| format_g(n, None)),
        other => other.to_string(),
    }
}

const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];

fn large(mut value: f64, base: f64) -> (f64, &'static str) {
    let mut prefix = "";
    for p in LARGE {
        if value.abs() < base {
            break;
        }
        prefix = p;
        value /= base;
    }
    (value, prefix)
}

fn small(mut value: f64) -> (f64, &'static str) {
    let mut prefix = "";
    for p in SMALL {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = p;
        value *= 1000.0;
    }
    (value, prefix)
}

fn humanize(args: &[Value]) -> Result<Value, FuncError> {
    let value = number(one(args, "humanize")?)?;
    if value == 0.0 || !value.is_finite() {
        return Ok(Value::from(format_g(value, Some(4))));
    }
    let (value, prefix) = if value.abs() >= 1.0 { large(value, 1000.0) } else { small(value) };
    Ok(Value::from(format_g(value, Some(4)) + prefix))
}

fn humanize1024(args: &[Value]) -> Result<Value, FuncError> {
    let value = number(one(args, "humanize1024")?)?;
    if value.abs() <= 1.0 || !value.is_finite() {
        return Ok(Value::from(format_g(value, Some(4))));
    }
    let (value, prefix) = large(value, 1024.0);
    let binary = if prefix.is_empty() { "" } else { "i" };
    Ok(Value::from(format_g(value, Some(4)) + prefix + binary))
}

fn humanize_duration(args: &[Value]) -> Result<Value, FuncError> {
    let value = number(one(args, "humanizeDuration")?)?;
    Ok(Value::from(duration_text(value)))
}

/// Seconds as Prometheus' `humanizeDuration` shows them, for example `1d 2h 3m 4s`.
pub(super) fn duration_text(seconds: f64) -> String {
    if !seconds.is_finite() {
        return format_g(seconds, Some(4));
    }
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds.abs() < 1.0 {
        let (value, prefix) = small(seconds);
        return format!("{}{prefix}s", format_g(value, Some(4)));
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let whole = seconds.abs() as u64;
    let (s, m, h, d) = (whole % 60, whole / 60 % 60, whole / 3600 % 24, whole / 86_400);
    match (d, h, m) {
        (0, 0, 0) => format!("{sign}{}s", format_g(seconds.abs(), Some(4))),
        (0, 0, _) => format!("{sign}{m}m {s}s"),
        (0, _, _) => format!("{sign}{h}h {m}m {s}s"),
        _ => format!("{sign}{d}d {h}h {m}m {s}s"),
    }
}

fn humanize_percentage(args: &[Value]) -> Result<Value, FuncError> {
    let value = number(one(args, "humanizePercentage")?)?;
    Ok(Value::from(format_g(value * 100.0, Some(4)) + "%"))
}

fn humanize_timestamp(args: &[Value]) -> Result<Value, FuncError> {
    let value = number(one(args, "humanizeTimestamp")?)?;
    if !value.is_finite() {
        return Ok(Value::from(format_g(value, Some(4))));
    }
    let at = jiff::Timestamp::from_millisecond(Timestamp::from_seconds(value).millis())
        .map_err(|_range| fail("the time is out of range"))?;
    Ok(Value::from(at.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()))
}

fn title(args: &[Value]) -> Result<Value, FuncError> {
    let text = string(one(args, "title")?);
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    Ok(Value::from(out))
}

fn to_upper(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::from(string(one(args, "toUpper")?).to_uppercase()))
}

fn to_lower(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::from(string(one(args, "toLower")?).to_lowercase()))
}

fn pattern(value: &Value) -> Result<Regex, FuncError> {
    regex::RegexBuilder::new(&string(value)).size_limit(1 << 20).build().map_err(|cause| fail(cause.to_string()))
}

fn matches(args: &[Value]) -> Result<Value, FuncError> {
    match args {
        [expression, text] => Ok(Value::from(pattern(expression)?.is_match(&string(text)))),
        _ => Err(FuncError::ExactlyXArgs("match".to_owned(), 2)),
    }
}

fn replace_all(args: &[Value]) -> Result<Value, FuncError> {
    match args {
        [expression, with, text] => {
            Ok(Value::from(pattern(expression)?.replace_all(&string(text), string(with)).into_owned()))
        }
        _ => Err(FuncError::ExactlyXArgs("reReplaceAll".to_owned(), 3)),
    }
}

fn strip_port(args: &[Value]) -> Result<Value, FuncError> {
    let text = string(one(args, "stripPort")?);
    let stripped = match text.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (host.ends_with(']') || !host.contains(':')) =>
        {
            host.trim_start_matches('[').trim_end_matches(']').to_owned()
        }
        _ => text,
    };
    Ok(Value::from(stripped))
}

fn strip_domain(args: &[Value]) -> Result<Value, FuncError> {
    let text = string(one(args, "stripDomain")?);
    let (host, port) = text.rsplit_once(':').map_or((text.as_str(), None), |(h, p)| (h, Some(p)));
    let short = if host.parse::<std::net::IpAddr>().is_ok() { host } else { host.split('.').next().unwrap_or(host) };
    Ok(Value::from(port.map_or_else(|| short.to_owned(), |p| format!("{short}:{p}"))))
}

/// `index $labels "name"`: a missing label is empty, where the library says `<no value>`.
fn index(args: &[Value]) -> Result<Value, FuncError> {
    match args {
        [Value::Map(map), Value::String(key)] => {
            Ok(map.get(key).cloned().unwrap_or_else(|| Value::from(String::new())))
        }
        other => gtmpl::funcs::index(other),
    }
}

/// Go's `%.<precision>g`; without precision the shortest text that reads back as the same number.
pub(super) fn format_g(value: f64, precision: Option<usize>) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let precision = precision.map(|p| p.max(1));
    let scientific = precision.map_or_else(|| format!("{value:e}"), |p| format!("{value:.*e}", p - 1));
    let (mantissa, exponent) = scientific.split_once('e').expect("invariant: {:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("invariant: {:e} writes a number");
    // Go decides by precision 6 when it looks for the shortest text.
    let threshold = i32::try_from(precision.unwrap_or(21)).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= threshold {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs());
    }
    match precision {
        None => format!("{value}"),
        Some(p) => {
            let decimals = usize::try_from(i32::try_from(p).unwrap_or(i32::MAX) - 1 - exponent).unwrap_or(0);
            trim_zeros(&format!("{value:.decimals$}")).to_owned()
        }
    }
}

/// Go's `%e` with the shortest mantissa, as Prometheus writes an alert's value: `1e+00`.
pub(super) fn format_e(value: f64) -> String {
    if !value.is_finite() {
        return format_g(value, None);
    }
    scientific(&format!("{value:e}"))
}

fn scientific(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').expect("invariant: {:e} writes an exponent");
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Go's `Sprintf` for the verbs that rules use: `%v %s %q %d %f %e %g %x %t %%`, with flags, width and precision.
fn printf(args: &[Value]) -> Result<Value, FuncError> {
    let Some((Value::String(format), values)) = args.split_first() else {
        return Err(fail("printf needs a format"));
    };
    let mut values = values.iter();
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero, mut plus) = (false, false, false);
        while let Some(&flag) = chars.peek() {
            match flag {
                '-' => left = true,
                '0' => zero = true,
                '+' => plus = true,
                ' ' | '#' => {}
                _ => break,
            }
            chars.next();
        }
        let read = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut n = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                n = Some((n.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
                chars.next();
            }
            n
        };
        let width = read(&mut chars).unwrap_or(0);
        let precision = (chars.peek() == Some(&'.')).then(|| {
            chars.next();
            read(&mut chars).unwrap_or(0)
        });
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            out.push_str("%!");
            out.push(verb);
            out.push_str("(MISSING)");
            continue;
        };
        let mut text = verb_text(verb, value, precision);
        let numeric = matches!(value, Value::Number(_));
        if plus && numeric && !text.starts_with(['-', '+']) {
            text.insert(0, '+');
        }
        let missing = width.saturating_sub(text.chars().count());
        if left {
            text.extend(std::iter::repeat_n(' ', missing));
        } else if zero && numeric {
            let at = usize::from(text.starts_with(['-', '+']));
            text.insert_str(at, &"0".repeat(missing));
        } else {
            text.insert_str(0, &" ".repeat(missing));
        }
        out.push_str(&text);
    }
    Ok(Value::from(out))
}

fn verb_text(verb: char, value: &Value, precision: Option<usize>) -> String {
    let plain = string(value);
    let as_number = || match value {
        Value::Number(_) => number(value).ok(),
        _ => None,
    };
    let made = match verb {
        'v' => Some(plain.clone()),
        's' if matches!(value, Value::String(_)) => {
            Some(precision.map_or_else(|| plain.clone(), |p| plain.chars().take(p).collect()))
        }
        'q' if matches!(value, Value::String(_)) => Some(format!("{plain:?}")),
        't' if matches!(value, Value::Bool(_)) => Some(plain.clone()),
        'f' | 'F' => as_number()
            .map(|n| if n.is_finite() { format!("{n:.*}", precision.unwrap_or(6)) } else { format_g(n, None) }),
        'e' => as_number().map(|n| {
            if n.is_finite() { scientific(&format!("{n:.*e}", precision.unwrap_or(6))) } else { format_g(n, None) }
        }),
        'g' => as_number().map(|n| format_g(n, precision)),
        'd' => as_number().filter(|n| n.fract() == 0.0).map(|n| format!("{n:.0}")),
        'x' => as_number().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| format!("{:x}", n as u64)),
        _ => None,
    };
    made.unwrap_or_else(|| format!("%!{verb}({plain})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, value: f64) -> String {
        let labels = Labels::from_pairs([("__name__", "up"), ("instance", "nas-1.county.ro:9100"), ("job", "node")]);
        let scope = Scope { labels: &labels, value, external_url: "http://veghe.example/" };
        Template::parse(text).expect(text).expand(&scope)
    }

    #[test]
    fn labels_value_and_url_are_there_under_both_names() {
        assert_eq!(expand("{{ $labels.job }}={{ $value }}", 0.5), "node=0.5");
        assert_eq!(expand("{{ .Labels.job }} {{ .Value }} {{ $externalURL }}", 3.0), "node 3 http://veghe.example/");
        assert_eq!(expand("plain", 1.0), "plain");
    }

    #[test]
    fn a_missing_label_is_empty() {
        assert_eq!(
            expand("[{{ $labels.nothing }}][{{ index $labels \"none\" }}][{{ index $labels \"job\" }}]", 1.0),
            "[][][node]"
        );
        assert_eq!(expand("{{ if $labels.nothing }}yes{{ else }}no{{ end }}", 1.0), "no");
    }

    #[test]
    fn numbers_are_humanized_as_prometheus_does() {
        // The cases of Prometheus' template/template_test.go.
        for (text, value, expected) in [
            ("humanize", 0.0, "0"),
            ("humanize", f64::INFINITY, "+Inf"),
            ("humanize", f64::NAN, "NaN"),
            ("humanize", 127.0, "127"),
            ("humanize", 1_234_567.0, "1.235M"),
            ("humanize", 0.12, "120m"),
            ("humanize1024", 1_048_576.0, "1Mi"),
            ("humanize1024", 1536.0, "1.5ki"),
            ("humanize1024", 0.5, "0.5"),
            ("humanizeDuration", 0.0, "0s"),
            ("humanizeDuration", 1.0, "1s"),
            ("humanizeDuration", 60.0, "1m 0s"),
            ("humanizeDuration", 3600.0, "1h 0m 0s"),
            ("humanizeDuration", 86400.0 + 2.0 * 3600.0 + 3.0 * 60.0 + 4.0, "1d 2h 3m 4s"),
            ("humanizeDuration", -86400.0, "-1d 0h 0m 0s"),
            ("humanizeDuration", 0.1, "100ms"),
            ("humanizeDuration", 0.012_345_6, "12.35ms"),
            ("humanizeDuration", 899.99, "14m 59s"),
            ("humanizePercentage", 0.123_456, "12.35%"),
            ("humanizePercentage", 1.0, "100%"),
            ("humanizeTimestamp", 1_435_065_584.128, "2015-06-23 13:19:44.128 +0000 UTC"),
            ("humanizeTimestamp", 0.0, "1970-01-01 00:00:00 +0000 UTC"),
        ] {
            assert_eq!(expand(&format!("{{{{ $value | {text} }}}}"), value), expected, "{text} {value}");
        }
    }

    #[test]
    fn printf_follows_go() {
        assert_eq!(expand(r#"{{ printf "%.2f%%" $value }}"#, 12.345), "12.35%");
        assert_eq!(expand(r#"{{ printf "%d|%5d|%-5d|%05.1f|%+d" 7 7 7 7.0 7 }}"#, 0.0), "7|    7|7    |007.0|+7");
        assert_eq!(expand(r#"{{ printf "%s is %q, %v" $labels.job "x" true }}"#, 0.0), r#"node is "x", true"#);
        assert_eq!(
            expand(r#"{{ printf "%e %g %.3g" $value $value $value }}"#, 1_500_000.0),
            "1.500000e+06 1500000 1.5e+06"
        );
        assert_eq!(expand(r#"{{ printf "%d %s" }}"#, 0.0), "%!d(MISSING) %!s(MISSING)");
        assert_eq!(expand(r#"{{ printf "%.999999999f" 1.5 }}"#, 0.0).len(), 2 + MAX_WIDTH);
    }

    #[test]
    fn text_functions_work() {
        assert_eq!(
            expand("{{ title $labels.job }} {{ toUpper $labels.job }} {{ \"ȘȚ\" | toLower }}", 0.0),
            "Node NODE șț"
        );
        assert_eq!(expand(r#"{{ if match "^nas-.*" $labels.instance }}storage{{ end }}"#, 0.0), "storage");
        assert_eq!(expand(r#"{{ reReplaceAll "(.*)\\..*" "$1" "a.b" }}"#, 0.0), "a");
        assert_eq!(
            expand("{{ stripPort $labels.instance }} {{ stripDomain $labels.instance }}", 0.0),
            "nas-1.county.ro nas-1:9100"
        );
        assert_eq!(expand("{{ if gt $value 90.0 }}high{{ else }}low{{ end }}", 95.0), "high");
    }

    #[test]
    fn a_failure_at_run_time_gives_prometheus_text() {
        let text = expand("{{ humanize $labels.job }}", 1.0);
        assert!(text.starts_with("<error expanding template: ") && text.contains("node"), "{text}");
    }

    #[test]
    fn what_does_not_parse_is_refused_without_a_panic() {
        for text in [
            "{{ $labels.job",
            "{{ nosuch 1 }}",
            "{{ query \"up\" }}",
            "{{ if }}",
            "{{ end }}",
            "{{ \"\\ț\" }}",
            "{{ $nope }}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert!(matches!(
            Template::parse("{{define \"a\"}}{{template \"a\"}}{{end}}"),
            Err(TemplateError::Unsupported(_))
        ));
        assert!(matches!(Template::parse(&format!("{{{{ {} }}}}", "(".repeat(1000))), Err(TemplateError::TooLarge)));
        assert!(matches!(Template::parse(&"{{if 1}}".repeat(1000)), Err(TemplateError::TooLarge)));
    }

    #[test]
    fn an_alerts_value_is_written_as_go_does() {
        assert_eq!(format_e(1.0), "1e+00");
        assert_eq!(format_e(0.000_123), "1.23e-04");
        assert_eq!(format_e(f64::NAN), "NaN");
        assert_eq!(format_e(f64::NEG_INFINITY), "-Inf");
    }
}
