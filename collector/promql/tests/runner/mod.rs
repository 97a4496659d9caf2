//! Runs test scripts in the language of Prometheus' `promqltest` against an in-memory source.
//!
//! Cases that need native histograms are skipped and counted: samples are floats here. A case needs them when it
//! expects one, or when a selector of its query matches a series that has one.

mod series;

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use veghe_model::{Labels, Timestamp};
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

/// What a script has loaded so far.
#[derive(Default)]
struct Loaded {
    memory: Memory,
    /// Labels of series with native histograms.
    histograms: Vec<Labels>,
}

/// Runs a script.
pub(crate) fn run(script: &str, names: NameRemoval) -> Outcome {
    let mut outcome = Outcome::default();
    let mut loaded = Loaded::default();
    // Indentation means nothing; a comment counts as an empty line, which ends a block.
    let mut lines =
        script.lines().map(str::trim).map(|line| if line.starts_with('#') { "" } else { line }).enumerate().peekable();
    while let Some((number, command)) = lines.next() {
        if command.is_empty() {
            continue;
        }
        let word = command.split_whitespace().next().unwrap_or("").to_ascii_lowercase();
        if word == "clear" {
            loaded = Loaded::default();
            continue;
        }
        let mut block = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
            block.push(line);
        }
        let result = if word.starts_with("load") {
            load(&mut loaded, command, &block).map(|()| None)
        } else if word.starts_with("eval") {
            case(&loaded, command, &block, names).map(Some)
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

static LOAD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(?i:load)(_with_nhcb)?\s+(\S+)$").expect("pattern"));

fn load(loaded: &mut Loaded, command: &str, block: &[&str]) -> Result<(), String> {
    let parts = LOAD.captures(command).ok_or("no load command")?;
    let buckets_too = parts.get(1).is_some();
    let interval_ms = moment_ms(&parts[2])?;
    let mut starts: HashMap<Labels, Vec<Option<i64>>> = HashMap::new();
    let mut series = Vec::new();
    for text in block {
        let line = series::line(text)?;
        if line.is_start {
            starts.insert(line.labels, series::expand_starts(line.points)?);
            continue;
        }
        if line.points.contains("{{") {
            loaded.histograms.push(line.labels.clone());
        }
        if let Some(name) = line.labels.metric_name().strip_suffix("_bucket").filter(|_| buckets_too) {
            let mut builder = line.labels.to_builder();
            builder.set("__name__", name).remove("le");
            loaded.histograms.push(builder.build());
        }
        series.push((line.labels, series::expand(line.points)?));
    }
    for (labels, points) in series {
        let samples = points.into_iter().enumerate().filter_map(|(i, v)| Some((interval_ms * i as i64, v?)));
        let Some(starts) = starts.get(&labels) else {
            loaded.memory.append(labels, samples);
            continue;
        };
        let start_ms = |time_ms: i64| {
            let place = usize::try_from(time_ms / interval_ms).unwrap_or(usize::MAX);
            starts.get(place).copied().flatten().map(|offset| time_ms + offset)
        };
        let started = samples.map(|(time_ms, value)| (time_ms, value, start_ms(time_ms)));
        loaded.memory.append_started(labels, started);
    }
    Ok(())
}

pub(crate) fn moment_ms(text: &str) -> Result<i64, String> {
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
    fail: Vec<Text>,
    warn: Vec<Text>,
    no_warn: bool,
    info: Vec<Text>,
    no_info: bool,
    string: Option<String>,
    /// `expect range vector`: when its first point is, and how far apart they are.
    range_vector: Option<(i64, i64)>,
    scalar: Option<f64>,
    series: Vec<(Labels, Vec<Option<f64>>)>,
    histogram: bool,
}

/// What an error or remark must say.
enum Text {
    Any,
    Exactly(String),
    Matches(Regex),
}

/// The place in the query, and what else Prometheus adds to a remark only where it answers its API.
static TAIL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?:, from buckets .* to .*)? \([0-9]+:[0-9]+\)$").expect("pattern"));

impl Text {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::Any);
        }
        if let Some(message) = text.strip_prefix("msg:") {
            return Ok(Self::Exactly(message.trim().to_owned()));
        }
        match text.strip_prefix("regex:") {
            Some(pattern) => Regex::new(pattern.trim()).map(Self::Matches).map_err(|e| e.to_string()),
            None => Err(format!("neither msg: nor regex: {text:?}")),
        }
    }

    fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => wanted == text || *wanted == TAIL.replace(text, ""),
            Self::Matches(regex) => regex.is_match(text) || regex.is_match(&TAIL.replace(text, "")),
        }
    }
}

static RANGE_VECTOR: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^expect range vector\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)$").expect("pattern"));

fn expectations(block: &[&str]) -> Result<Expectations, String> {
    let mut wanted = Expectations::default();
    for line in block {
        if let Some(message) = line.strip_prefix("expected_fail_message") {
            wanted.fail.push(Text::Exactly(message.trim().to_owned()));
        } else if let Some(pattern) = line.strip_prefix("expected_fail_regexp") {
            wanted.fail.push(Text::Matches(Regex::new(pattern.trim()).map_err(|e| e.to_string())?));
        } else if let Some(rest) = line.strip_prefix("expect string") {
            let query = Query::parse(rest).map_err(|e| e.to_string())?;
            match evaluate_instant(&query, &Memory::default(), 0)?.value {
                Value::String(_, text) => wanted.string = Some(text),
                _ => return Err(format!("no string: {rest:?}")),
            }
        } else if line.starts_with("expect range vector") {
            let parts = RANGE_VECTOR.captures(line).ok_or_else(|| format!("no range vector: {line:?}"))?;
            wanted.range_vector = Some((moment_ms(&parts[1])?, moment_ms(&parts[3])?));
        } else if let Some(rest) = line.strip_prefix("expect ") {
            let (word, rest) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
            match word {
                "ordered" => wanted.ordered = true,
                "fail" => wanted.fail.push(Text::parse(rest)?),
                "warn" => wanted.warn.push(Text::parse(rest)?),
                "no_warn" => wanted.no_warn = true,
                "info" => wanted.info.push(Text::parse(rest)?),
                "no_info" => wanted.no_info = true,
                _ => return Err(format!("unknown expectation {word:?}")),
            }
        } else if line.contains("{{") {
            wanted.histogram = true;
        } else if let Ok(value) = series::number(line) {
            wanted.scalar = Some(value);
        } else {
            let line = series::line(line)?;
            wanted.series.push((line.labels, series::expand(line.points)?));
        }
    }
    Ok(wanted)
}

#[derive(Clone, Copy)]
enum Moments {
    Instant(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

static EVAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?i:eval)(?:_(fail|warn|ordered|info))?\s+(?:instant\s+(?:at\s+(\S+))?\s*|range\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\s+)(.*)$")
        .expect("pattern")
});

fn case(loaded: &Loaded, command: &str, block: &[&str], names: NameRemoval) -> Result<Case, String> {
    let parts = EVAL.captures(command).ok_or("no eval command")?;
    let group = |i: usize| parts.get(i).map(|m| m.as_str());
    let text = group(6).unwrap_or("");
    let mut wanted = expectations(block)?;
    match group(1) {
        Some("fail") if wanted.fail.is_empty() => wanted.fail.push(Text::Any),
        Some("warn") => wanted.warn.push(Text::Any),
        Some("info") => wanted.info.push(Text::Any),
        Some("ordered") => wanted.ordered = true,
        _ => {}
    }
    if wanted.histogram {
        return Ok(Case::Skipped);
    }
    let moments = match (group(3), group(4), group(5)) {
        (Some(start), Some(end), Some(step)) => {
            Moments::Range { start_ms: moment_ms(start)?, end_ms: moment_ms(end)?, step_ms: moment_ms(step)? }
        }
        _ => Moments::Instant(moment_ms(group(2).unwrap_or("0"))?),
    };
    let parsed = Query::parse(text).map(|q| q.with_name_removal(names));
    if let Ok(query) = &parsed {
        let is_touched =
            |labels: &Labels| query.selectors().iter().any(|s| s.matchers.iter().all(|m| m.matches_labels(labels)));
        if loaded.histograms.iter().any(is_touched) {
            return Ok(Case::Skipped);
        }
    }
    let evaluated = parsed.map_err(|e| e.to_string()).and_then(|query| match moments {
        Moments::Instant(at_ms) => evaluate_instant(&query, &loaded.memory, at_ms),
        Moments::Range { start_ms, end_ms, step_ms } => query
            .range(
                &loaded.memory,
                Timestamp(start_ms),
                Timestamp(end_ms),
                Duration::from_millis(step_ms.unsigned_abs()),
                &limits(),
                &|| false,
            )
            .map_err(|e| e.to_string()),
    });
    let evaluation = match evaluated {
        Err(error) if !wanted.fail.is_empty() && wanted.fail.iter().all(|text| text.accepts(&error)) => {
            return Ok(Case::Passed);
        }
        Err(error) => return Err(format!("error: {error}")),
        Ok(evaluation) if !wanted.fail.is_empty() => return Err(format!("no error, but {:?}", evaluation.value)),
        Ok(evaluation) => evaluation,
    };
    remarks("warning", &evaluation.warnings, &wanted.warn, wanted.no_warn)?;
    remarks("info", &evaluation.infos, &wanted.info, wanted.no_info)?;
    compare(&evaluation.value, &wanted, moments).map(|()| Case::Passed)
}

/// Each that is wanted must be there, and then no other.
fn remarks(kind: &str, got: &[String], wanted: &[Text], none: bool) -> Result<(), String> {
    if none && !got.is_empty() {
        return Err(format!("unexpected {kind}: {got:?}"));
    }
    if wanted.iter().any(|text| !got.iter().any(|g| text.accepts(g))) {
        return Err(format!("missing {kind}, got {got:?}"));
    }
    match got.iter().find(|g| !wanted.iter().any(|text| text.accepts(g))) {
        Some(other) if !wanted.is_empty() => Err(format!("unexpected {kind}: {other:?}")),
        _ => Ok(()),
    }
}

/// Prometheus' `almost.Equal` with a relative tolerance of 1e-6.
fn same(a: f64, b: f64) -> bool {
    const TOLERANCE: f64 = 1e-6;
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < TOLERANCE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < TOLERANCE
}

fn compare(value: &Value, wanted: &Expectations, moments: Moments) -> Result<(), String> {
    let differs = || {
        let scalar = wanted.scalar.map_or_else(String::new, |s| format!("{s} "));
        Err(format!("got {value:?}\n    wanted {scalar}{:?}", wanted.series))
    };
    match (value, moments) {
        (Value::String(_, text), _) if wanted.string.as_ref() == Some(text) => Ok(()),
        (Value::String(_, text), _) => Err(format!("got {text:?}, wanted {:?}", wanted.string)),
        (Value::Scalar(_, v), _) => {
            if wanted.series.is_empty() && wanted.scalar.is_some_and(|s| same(s, *v)) {
                Ok(())
            } else {
                differs()
            }
        }
        (Value::Vector(_) | Value::Matrix(_), _) if wanted.scalar.is_some() || wanted.string.is_some() => differs(),
        (Value::Vector(samples), _) => {
            let fits = |(labels, points): &(Labels, Vec<Option<f64>>), at: usize| {
                let sample = &samples[at];
                *labels == sample.labels && matches!(points[..], [Some(p)] if same(p, sample.value))
            };
            let all = samples.len() == wanted.series.len()
                && wanted.series.iter().enumerate().all(|(i, series)| {
                    if wanted.ordered { fits(series, i) } else { (0..samples.len()).any(|at| fits(series, at)) }
                });
            if all { Ok(()) } else { differs() }
        }
        (Value::Matrix(matrix), moments) => {
            let (start_ms, step_ms) = match (moments, wanted.range_vector) {
                (Moments::Range { start_ms, step_ms, .. }, _) => (start_ms, step_ms),
                (Moments::Instant(_), Some(range_vector)) => range_vector,
                (Moments::Instant(_), None) if matrix.is_empty() && wanted.series.is_empty() => return Ok(()),
                (Moments::Instant(_), None) => return Err("a range vector, but none is expected".to_owned()),
            };
            let fits = |(labels, points): &(Labels, Vec<Option<f64>>)| {
                let at = |i: usize| start_ms + step_ms * i as i64;
                let samples: Vec<(i64, f64)> =
                    points.iter().enumerate().filter_map(|(i, p)| Some((at(i), (*p)?))).collect();
                matrix.iter().any(|series| {
                    series.labels == *labels
                        && series.len() == samples.len()
                        && series.iter().zip(&samples).all(|(a, b)| a.timestamp.0 == b.0 && same(a.value, b.1))
                })
            };
            if wanted.series.len() == matrix.len() && wanted.series.iter().all(fits) { Ok(()) } else { differs() }
        }
    }
}
