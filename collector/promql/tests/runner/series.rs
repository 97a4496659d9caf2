//! The notation of series in test scripts: labels, then values that expand (`1+2x3` is 1 3 5 7).

use std::sync::LazyLock;

use regex::Regex;
use veghe_model::{Labels, LabelsBuilder, stale_nan};
use veghe_promql::Query;

/// A line of a `load` command or of an expected result.
pub(crate) struct Line<'a> {
    pub(crate) labels: Labels,
    /// `@st`: the values are start timestamps of another line's samples.
    pub(crate) is_start: bool,
    pub(crate) points: &'a str,
}

/// Labels and the rest of the line.
pub(crate) fn line(text: &str) -> Result<Line<'_>, String> {
    let name_end = text.find(|c: char| c == '{' || c == '@' || c.is_whitespace()).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_end);
    let mut labels = LabelsBuilder::default();
    labels.set("__name__", name);
    if let Some(inside) = rest.strip_prefix('{') {
        let end = closing_brace(inside).ok_or_else(|| format!("{text:?}: unclosed brace"))?;
        let (inside, after) = inside.split_at(end);
        // The labels are read as matchers; one more makes braces without any a selector too.
        let query = Query::parse(&format!("{{zz=\"1\",{inside}}}")).map_err(|e| format!("{text:?}: {e}"))?;
        for m in query.selectors().iter().flat_map(|s| &s.matchers).filter(|m| m.name() != "zz") {
            labels.set(m.name(), m.value());
        }
        rest = after.strip_prefix('}').unwrap_or(after);
    }
    let is_start = rest.starts_with("@st");
    let points = rest.strip_prefix("@st").unwrap_or(rest).trim();
    Ok(Line { labels: labels.build(), is_start, points })
}

fn closing_brace(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices()
        .find(|(_, c)| {
            if escaped {
                escaped = false;
            } else if quote.is_some() && *c == '\\' {
                escaped = true;
            } else if quote == Some(*c) {
                quote = None;
            } else if quote.is_none() && (*c == '"' || *c == '\'') {
                quote = Some(*c);
            } else {
                return quote.is_none() && *c == '}';
            }
            false
        })
        .map(|(at, _)| at)
}

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

static POINT: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"(?:[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.|0[xX][0-9a-fA-F]+|[iI][nN][fF]|[nN][aA][nN])";
    Regex::new(&format!("^(?:(_|stale)|([+-]?{number})([+-]{number})?)(?:x([0-9]+))?$")).expect("pattern")
});

/// The values of the expanding notation; native histograms become gaps.
pub(crate) fn expand(points: &str) -> Result<Vec<Option<f64>>, String> {
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
        match parts.get(1).map(|word| word.as_str()) {
            // `_x3` is three gaps, unlike `1x3`, which is four ones.
            Some("_") => values.extend(std::iter::repeat_n(None, times.unwrap_or(1))),
            Some(_) => values.extend(std::iter::repeat_n(Some(stale_nan()), times.unwrap_or(0) + 1)),
            None => {
                let number = |i: usize| parts.get(i).map_or(Ok(0.0), |n| number(n.as_str()));
                let (mut value, delta) = (number(2)?, number(3)?);
                for i in 0..=times.unwrap_or(0) {
                    if i > 0 {
                        value += delta;
                    }
                    values.push(Some(value));
                }
            }
        }
    }
    Ok(values)
}

/// A number as the scripts write it.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).map(f64::from).map_err(|e| e.to_string());
    }
    text.parse::<f64>().map_err(|error| format!("no number: {text:?}: {error}"))
}

static START: LazyLock<Regex> = LazyLock::new(|| {
    let duration = "(?:(?:[0-9]+(?:ms|[smhdwy]))+|[0-9]+)";
    Regex::new(&format!("^(?:(_)|([+-]?{duration})([+-]{duration})?)(?:x([0-9]+))?$")).expect("pattern")
});

/// How far in milliseconds each sample's start is from the sample, in the same notation with durations.
pub(crate) fn expand_starts(points: &str) -> Result<Vec<Option<i64>>, String> {
    let mut starts = Vec::new();
    for token in points.split_whitespace() {
        let parts = START.captures(token).ok_or_else(|| format!("no start timestamp: {token:?}"))?;
        let times: Option<usize> = parts.get(4).map(|n| n.as_str().parse().expect("digits"));
        if parts.get(1).is_some() {
            starts.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
            continue;
        }
        let duration = |i: usize| parts.get(i).map_or(Ok(0), |d| signed_duration_ms(d.as_str()));
        let (first, delta) = (duration(2)?, duration(3)?);
        starts.extend((0..=times.unwrap_or(0)).map(|i| Some(first + delta * i as i64)));
    }
    Ok(starts)
}

fn signed_duration_ms(text: &str) -> Result<i64, String> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    super::moment_ms(text).map(|ms| sign * ms)
}
