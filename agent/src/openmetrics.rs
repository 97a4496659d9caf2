//! Reads Prometheus' text format and OpenMetrics: what exporters answer and what stands in text files.
//!
//! Names, labels and values are checked; types, helps, units and exemplars are skipped. A text that breaks the format is
//! an error as a whole, as Prometheus takes it. What it deliberately does not do: know where the text comes from.

use std::fmt;

use crate::reading::SeriesName;

/// More labels than any series in earnest has.
const MAX_LABELS: usize = 128;

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name and labels, ascending.
    pub series: SeriesName,
    /// The value.
    pub value: f64,
    /// Whether the line has a time stamp of its own.
    pub is_timed: bool,
}

/// Where a text breaks the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Which line, from 1.
    pub line: usize,
    /// What should be there.
    pub expected: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot parse line {}: expected {}", self.line, self.expected)
    }
}

impl std::error::Error for ParseError {}

/// Every sample of `text`, in its order.
///
/// # Errors
/// The first line that breaks the format, or when there are more than `max` samples.
pub fn parse(text: &str, max: usize) -> Result<Vec<Sample>, ParseError> {
    let mut samples = Vec::new();
    for (index, content) in text.lines().enumerate() {
        let line = index + 1;
        let content = content.trim_matches([' ', '\t', '\r']);
        if content == "# EOF" {
            break;
        }
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if samples.len() == max {
            return Err(ParseError { line, expected: "no more samples than the limit" });
        }
        samples.push(sample(content).map_err(|expected| ParseError { line, expected })?);
    }
    Ok(samples)
}

/// `name{label="value",...} value [time stamp] [# exemplar]`
fn sample(content: &str) -> Result<Sample, &'static str> {
    let name_end = content.find(|c: char| !is_in_name(c)).unwrap_or(content.len());
    let (name, rest) = content.split_at_checked(name_end).unwrap_or_default();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("a metric's name");
    }
    let mut labels = vec![("__name__".into(), name.into())];
    let rest = rest.trim_start();
    let rest = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside, &mut labels)?,
        None => rest,
    };
    labels.sort_by(|(a, _): &(Box<str>, Box<str>), (b, _)| (&**a != "__name__", a).cmp(&(&**b != "__name__", b)));
    if labels.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
        return Err("each label once");
    }
    // An empty label is the same as none.
    labels.retain(|(_, value)| !value.is_empty());
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().and_then(|word| word.parse().ok()).ok_or("a value")?;
    let is_timed = match words.next() {
        None | Some("#") => false,
        Some(word) => {
            word.parse::<f64>().or(Err("a time stamp or the end of the line"))?;
            if words.next().is_some_and(|word| word != "#") {
                return Err("the end of the line");
            }
            true
        }
    };
    Ok(Sample { series: SeriesName(labels.into_boxed_slice()), value, is_timed })
}

fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

/// Reads up to the closing brace and gives what follows it.
fn read_labels<'a>(mut rest: &'a str, labels: &mut Vec<(Box<str>, Box<str>)>) -> Result<&'a str, &'static str> {
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (name, after) = rest.split_once('=').ok_or("labels and a closing brace")?;
        let name = name.trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
            return Err("a label's name");
        }
        if name == "__name__" || labels.len() > MAX_LABELS {
            return Err("labels that a series can have");
        }
        let after = after.trim_start().strip_prefix('"').ok_or("a label's value in double quotes")?;
        let (value, after) = quoted(after).ok_or("a label's value that ends with double quotes")?;
        labels.push((name.into(), value.into()));
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return Err("a comma or a closing brace"),
        }
    }
}

/// The text up to the closing quotes, its escapes resolved, and what follows them.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                // As Prometheus takes it: no escape after all.
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exposition::write_text;
    use crate::reading::{Reading, Round, SeriesSet};

    fn one(text: &str) -> Result<Sample, ParseError> {
        parse(text, 1).map(|samples| samples.into_iter().next().expect("a sample"))
    }

    #[test]
    fn lines_of_both_formats_are_read() {
        let text = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"1\",a=\"x\\\"\\\\\\n\\d\",} 1 # {t=\"7\"} 0.5\n\nh_bucket{le=\"+Inf\"} +Inf 1234\n# EOF\nnot read\n";
        let samples = parse(text, 10).expect("well formed");
        assert_eq!(samples[0].series, SeriesName::new("a_total", &[("a", "x\"\\\n\\d"), ("b", "1")]));
        assert_eq!((samples[0].value, samples[0].is_timed), (1.0, false));
        assert_eq!((samples[1].value, samples[1].is_timed, samples.len()), (f64::INFINITY, true, 2));
        assert_eq!(one("a{b=\"\"} NaN").expect("well formed").series, SeriesName::new("a", &[]));
    }

    #[test]
    fn what_breaks_the_format_is_told_with_its_line() {
        for (text, expected) in [
            ("1a 1", "a metric's name"),
            ("a", "a value"),
            ("a x", "a value"),
            ("a{b=\"1\" 1", "a comma or a closing brace"),
            ("a{b=1} 1", "a label's value in double quotes"),
            ("a{b=\"1} 1", "a label's value that ends with double quotes"),
            ("a{b=\"1\",b=\"2\"} 1", "each label once"),
            ("a{1=\"1\"} 1", "a label's name"),
            ("a{__name__=\"1\"} 1", "labels that a series can have"),
            ("a 1 x", "a time stamp or the end of the line"),
            ("a 1 2 3", "the end of the line"),
            ("a 1\na 2", "no more samples than the limit"),
        ] {
            let error = one(text).expect_err(text);
            assert_eq!((error.expected, error.line), (expected, text.lines().count()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_samples_or_an_error(text in "[a{}=\",0-9# \\\\\\n_é]{0,60}") {
            drop(parse(&text, 3));
        }

        #[test]
        fn what_the_agent_writes_is_read_back(value in "[a\"\\\\\\n ș{}=,]{1,12}", number in any::<f64>()) {
            let series = SeriesName::new("node_x", &[("device", &value), ("mode", "rw")]);
            let set = std::sync::Arc::new(SeriesSet(vec![series.clone()]));
            let reading = Reading { sensor: "x", series: set, values: vec![number], ended: None };
            let mut text = String::new();
            write_text(&Round { timestamp_ms: 0, readings: vec![reading] }, &mut text);
            let read = one(&text).expect("well formed");
            prop_assert_eq!(read.series, series);
            prop_assert!(read.value == number || read.value.is_nan() && number.is_nan());
        }
    }
}
