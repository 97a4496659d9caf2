//! Runs test scripts in the language of Prometheus' `promqltest` against an in-memory source.
//!
//! Cases that need native histograms are skipped and counted: samples are floats here. A case needs them when it
//! expects one, or when a selector of its query matches a series that has one.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use veghe_model::{Labels, LabelsBuilder, Timestamp, stale_nan};
use veghe_promql::{Evaluation, NameRemoval, Query, Value};

use crate::memory::{Memory, limits};

/// What became of the cases of a file.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) passed: usize,
    pub(crate) skipped: usize,
    /// Line, query and difference of each case that failed.
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    pub(crate) fn total(&self) -> usize {
        self.passed + self.failures.len()
    }
}

/// The `.test` files of a directory by name.
pub(crate) fn scripts(directory: &Path) -> std::io::Result<Vec<(String, String)>> {
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "test") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            scripts.push((name, std::fs::read_to_string(&path)?));
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// Runs a script.
pub(crate) fn run(script: &str, names: NameRemoval) -> Outcome {
    let mut outcome = Outcome::default();
    let mut memory = Memory::default();
    // Labels of series with native histograms.
    let mut histograms: Vec<Labels> = Vec::new();
    let mut lines = script.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let mut block = Vec::new();
        while let Some((_, next)) = lines.peek() {
            let text = next.trim();
            let indented = next.starts_with([' ', '\t']);
            if text.is_empty() || !(indented || text.starts_with('#')) {
                break;
            }
            if !text.starts_with('#') {
                block.push(text.to_owned());
            }
            lines.next();
        }
        let command = line.trim();
        let result = if command == "clear" {
            memory = Memory::default();
            histograms.clear();
            Ok(None)
        } else if let Some(rest) = command.strip_prefix("load") {
            load(&mut memory, &mut histograms, rest, &block).map(|()| None)
        } else if command.starts_with("eval") {
            case(&memory, &histograms, command, &block, names).map(Some)
        } else {
            Err(format!("unknown command {command:?}"))
        };
        match result {
            Ok(None) => {}
            Ok(Some(Case::Passed)) => outcome.passed += 1,
            Ok(Some(Case::Skipped)) => outcome.skipped += 1,
            Err(difference) => outcome.failures.push(format!("line {}: {command}\n    {difference}", number + 1)),
        }
    }
    outcome
}

enum Case {
    Passed,
    Skipped,
}

fn load(memory: &mut Memory, histograms: &mut Vec<Labels>, rest: &str, block: &[String]) -> Result<(), String> {
    let (interval, buckets_too) = match rest.strip_prefix("_with_nhcb") {
        Some(interval) => (interval, true),
        None => (rest, false),
    };
    let interval_ms = moment_ms(interval.trim())?;
    for line in block {
        let (labels, points) = series_line(line)?;
        if points.contains("{{") {
            histograms.push(labels.clone());
        }
        if let Some(name) = labels.metric_name().strip_suffix("_bucket").filter(|_| buckets_too) {
            let mut builder = labels.to_builder();
            builder.set("__name__", name).remove("le");
            histograms.push(builder.build());
        }
        let samples = expand(points)?;
        let samples = samples.into_iter().enumerate().filter_map(|(i, v)| Some((interval_ms * i as i64, v?)));
        memory.append(labels, samples);
    }
    Ok(())
}

/// Labels and the rest of the line; a line that has no labels is a scalar.
fn series_line(line: &str) -> Result<(Labels, &str), String> {
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace()).unwrap_or(line.len());
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = LabelsBuilder::default();
    labels.set("__name__", name);
    if let Some(inside) = rest.strip_prefix('{') {
        let query = format!("x{{{inside}");
        let bytes = inside.as_bytes();
        let (mut end, mut quoted) = (0, false);
        while let Some(b) = bytes.get(end) {
            match b {
                b'\\' if quoted => end += 1,
                b'"' => quoted = !quoted,
                b'}' if !quoted => break,
                _ => {}
            }
            end += 1;
        }
        let selector: String = query.chars().take(end + 3).collect();
        // The name is a label like the others here, so that it may stand in the braces.
        let selector = selector.replacen('x', "", 1).replacen('{', "{zz=\"1\",", 1);
        let parsed = Query::parse(&selector).map_err(|e| format!("{line:?}: {e}"))?;
        for m in parsed.selectors().iter().flat_map(|s| &s.matchers).filter(|m| m.name() != "zz") {
            labels.set(m.name(), m.value());
        }
        rest = inside.get(end + 1..).unwrap_or("");
    }
    Ok((labels.build(), rest.trim()))
}

static POINT: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"(?:[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.|[iI]nf|[nN]a[nN])";
    Regex::new(&format!("^(?:(_|stale)|([+-]?{number})([+-]{number})?)(?:x([0-9]+))?$")).expect("pattern")
});

/// Where the first point of `text` ends: `{{a}}`, `{{a}}x3` or `{{a}}+{{b}}x3`, with spaces inside the braces.
fn histogram_end(text: &str) -> Result<usize, String> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once("}}").ok_or("unclosed histogram")?;
        if !after.starts_with(['+', '-']) {
            let tail = after.find(char::is_whitespace).unwrap_or(after.len());
            return Ok(text.len() - after.len() + tail);
        }
        rest = after;
    }
}

/// The values of the expanding notation; native histograms become gaps.
fn expand(points: &str) -> Result<Vec<Option<f64>>, String> {
    let mut values = Vec::new();
    let mut rest = points.trim();
    while !rest.is_empty() {
        if rest.starts_with("{{") {
            let (token, after) = rest.split_at(histogram_end(rest)?);
            let repeat = token.rsplit_once('x').and_then(|(_, n)| n.parse::<usize>().ok()).map_or(1, |n| n + 1);
            values.extend(std::iter::repeat_n(None, repeat));
            rest = after.trim_start();
            continue;
        }
        let (token, after) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
        rest = after.trim_start();
        let parts = POINT.captures(token).ok_or_else(|| format!("no point: {token:?}"))?;
        let times: Option<usize> = parts.get(4).map(|n| n.as_str().parse().expect("digits"));
        if let Some(word) = parts.get(1) {
            let value = (word.as_str() == "stale").then(stale_nan);
            // `_x3` is three gaps, unlike `1x3`, which is four ones.
            values.extend(std::iter::repeat_n(value, times.unwrap_or(1)));
            continue;
        }
        let number = |i: usize| parts.get(i).map_or(0.0, |n| n.as_str().parse::<f64>().expect("number"));
        let (start, delta) = (number(2), number(3));
        let mut value = start;
        for i in 0..=times.unwrap_or(0) {
            if i > 0 {
                value += delta;
            }
            values.push(Some(value));
        }
    }
    Ok(values)
}

fn moment_ms(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1000.0).round() as i64);
    }
    // A duration is a number of seconds in PromQL.
    let query = Query::parse(text).map_err(|e| format!("no moment: {text:?}: {e}"))?;
    let value = evaluate_instant(&query, &Memory::default(), 0)?.value;
    match value {
        Value::Scalar(_, seconds) => Ok((seconds * 1000.0).round() as i64),
        _ => Err(format!("no moment: {text:?}")),
    }
}

fn evaluate_instant(query: &Query, memory: &Memory, at_ms: i64) -> Result<Evaluation, String> {
    query.instant(memory, Timestamp(at_ms), &limits(), &|| false).map_err(|e| e.to_string())
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the language")]
struct Expectations {
    ordered: bool,
    fail: Option<Text>,
    warn: Option<Text>,
    no_warn: bool,
    info: Option<Text>,
    no_info: bool,
    string: Option<String>,
    series: Vec<(Option<Labels>, Vec<Option<f64>>)>,
    histogram: bool,
}

/// What an error or remark must say.
enum Text {
    Any,
    Exactly(String),
    Matches(Regex),
}

impl Text {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(message) = text.strip_prefix("msg:") {
            return Ok(Self::Exactly(message.trim().to_owned()));
        }
        match text.strip_prefix("regex:") {
            Some(pattern) => Regex::new(pattern.trim()).map(Self::Matches).map_err(|e| e.to_string()),
            None => Ok(Self::Any),
        }
    }

    fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => wanted == text,
            Self::Matches(regex) => regex.is_match(text),
        }
    }
}

fn expectations(block: &[String]) -> Result<Expectations, String> {
    let mut wanted = Expectations::default();
    for line in block {
        if let Some(rest) = line.strip_prefix("expect ") {
            let (word, rest) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
            match word {
                "ordered" => wanted.ordered = true,
                "fail" => wanted.fail = Some(Text::parse(rest)?),
                "warn" => wanted.warn = Some(Text::parse(rest)?),
                "no_warn" => wanted.no_warn = true,
                "info" => wanted.info = Some(Text::parse(rest)?),
                "no_info" => wanted.no_info = true,
                "string" => {
                    let query = Query::parse(rest).map_err(|e| e.to_string())?;
                    match evaluate_instant(&query, &Memory::default(), 0)?.value {
                        Value::String(_, text) => wanted.string = Some(text),
                        _ => return Err(format!("no string: {rest:?}")),
                    }
                }
                _ => return Err(format!("unknown expectation {word:?}")),
            }
        } else if line.contains("{{") {
            wanted.histogram = true;
        } else if let Ok(points) = expand(line) {
            wanted.series.push((None, points));
        } else {
            let (labels, points) = series_line(line)?;
            wanted.series.push((Some(labels), expand(points)?));
        }
    }
    Ok(wanted)
}

enum Moments {
    Instant(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

static EVAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^eval(?:_(fail|warn|ordered|info))?\s+(?:instant\s+(?:at\s+(\S+))?\s*|range\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\s+)(.*)$")
        .expect("pattern")
});

fn case(
    memory: &Memory,
    histograms: &[Labels],
    command: &str,
    block: &[String],
    names: NameRemoval,
) -> Result<Case, String> {
    let parts = EVAL.captures(command).ok_or("no eval command")?;
    let group = |i: usize| parts.get(i).map(|m| m.as_str());
    let text = group(6).unwrap_or("");
    let mut wanted = expectations(block)?;
    match group(1) {
        Some("fail") => wanted.fail = Some(Text::Any),
        Some("warn") => wanted.warn = Some(Text::Any),
        Some("info") => wanted.info = Some(Text::Any),
        Some("ordered") => wanted.ordered = true,
        _ => {}
    }
    let moments = match (group(3), group(4), group(5)) {
        (Some(start), Some(end), Some(step)) => {
            Moments::Range { start_ms: moment_ms(start)?, end_ms: moment_ms(end)?, step_ms: moment_ms(step)? }
        }
        _ => Moments::Instant(moment_ms(group(2).unwrap_or("0"))?),
    };
    let parsed = Query::parse(text).map(|q| q.with_name_removal(names));
    if let Ok(query) = &parsed {
        let touches = query
            .selectors()
            .iter()
            .any(|s| histograms.iter().any(|labels| s.matchers.iter().all(|m| m.matches_labels(labels))));
        if touches || wanted.histogram {
            return Ok(Case::Skipped);
        }
    }
    let evaluated = parsed.map_err(|e| e.to_string()).and_then(|query| match moments {
        Moments::Instant(at_ms) => evaluate_instant(&query, memory, at_ms),
        Moments::Range { start_ms, end_ms, step_ms } => query
            .range(
                memory,
                Timestamp(start_ms),
                Timestamp(end_ms),
                Duration::from_millis(step_ms.unsigned_abs()),
                &limits(),
                &|| false,
            )
            .map_err(|e| e.to_string()),
    });
    let evaluation = match (evaluated, &wanted.fail) {
        (Err(error), Some(text)) if text.accepts(&error) => return Ok(Case::Passed),
        (Err(error), _) => return Err(format!("error: {error}")),
        (Ok(evaluation), Some(_)) => return Err(format!("no error, but {:?}", evaluation.value)),
        (Ok(evaluation), None) => evaluation,
    };
    remarks("warning", &evaluation.warnings, wanted.warn.as_ref(), wanted.no_warn)?;
    remarks("info", &evaluation.infos, wanted.info.as_ref(), wanted.no_info)?;
    compare(&evaluation.value, &wanted, &moments).map(|()| Case::Passed)
}

fn remarks(kind: &str, got: &[String], wanted: Option<&Text>, none: bool) -> Result<(), String> {
    if none && !got.is_empty() {
        return Err(format!("unexpected {kind}: {got:?}"));
    }
    match wanted {
        Some(text) if !got.iter().any(|g| text.accepts(g)) => Err(format!("missing {kind}, got {got:?}")),
        _ => Ok(()),
    }
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * a.abs().min(b.abs())
}

fn compare(value: &Value, wanted: &Expectations, moments: &Moments) -> Result<(), String> {
    let differs = || format!("got {value:?}\n    wanted {:?}", wanted.series);
    match (value, moments) {
        (Value::String(_, text), _) => {
            if wanted.string.as_ref() == Some(text) {
                Ok(())
            } else {
                Err(format!("got {text:?}"))
            }
        }
        (Value::Scalar(_, v), _) => match wanted.series.as_slice() {
            [(None, points)] if points.len() == 1 && points[0].is_some_and(|p| same(p, *v)) => Ok(()),
            _ => Err(differs()),
        },
        (Value::Vector(samples), _) => {
            if samples.len() != wanted.series.len() {
                return Err(differs());
            }
            let fits = |(labels, points): &(Option<Labels>, Vec<Option<f64>>), at: usize| {
                let sample = &samples[at];
                labels.as_ref() == Some(&sample.labels)
                    && points.len() == 1
                    && points[0].is_some_and(|p| same(p, sample.value))
            };
            let all = wanted.series.iter().enumerate().all(|(i, series)| {
                if wanted.ordered { fits(series, i) } else { (0..samples.len()).any(|at| fits(series, at)) }
            });
            if all { Ok(()) } else { Err(differs()) }
        }
        (Value::Matrix(matrix), Moments::Range { start_ms, step_ms, .. }) => {
            let expected: Vec<(Labels, Vec<(i64, f64)>)> = wanted
                .series
                .iter()
                .map(|(labels, points)| {
                    let at = |i: usize| start_ms + step_ms * i as i64;
                    let samples = points.iter().enumerate().filter_map(|(i, p)| Some((at(i), (*p)?))).collect();
                    (labels.clone().unwrap_or_default(), samples)
                })
                .collect();
            let fits = |(labels, samples): &(Labels, Vec<(i64, f64)>)| {
                matrix.iter().any(|series| {
                    series.labels == *labels
                        && series.len() == samples.len()
                        && series.iter().zip(samples).all(|(a, b)| a.timestamp.0 == b.0 && same(a.value, b.1))
                })
            };
            if expected.len() == matrix.len() && expected.iter().all(fits) { Ok(()) } else { Err(differs()) }
        }
        (Value::Matrix(_), Moments::Instant(_)) => Err("range vectors are not compared".to_owned()),
    }
}
