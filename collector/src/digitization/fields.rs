//! Reads a JSON object field by field and notes every problem under the field's name.
//!
//! Invariant: a text that comes out is within its bound and has no control characters.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use veghe_model::Timestamp;

/// Bytes of a longer text.
pub(super) const MAX_TEXT: usize = 256;
/// Bytes of the name of a unit, batch or box.
pub(super) const MAX_CODE: usize = 64;
/// Words of a field of counts.
const MAX_COUNTS: usize = 32;
/// 1990-01-01: nobody digitized before.
const EARLIEST_MS: i64 = 631_152_000_000;
/// 2100-01-01, where the calendar ends.
const LATEST_MS: i64 = 4_102_444_800_000;

/// The fields of an object that are not read yet.
pub(super) struct Fields<'a> {
    prefix: &'static str,
    map: Map<String, Value>,
    problems: &'a mut Vec<(String, String)>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(prefix: &'static str, map: Map<String, Value>, problems: &'a mut Vec<(String, String)>) -> Self {
        Self { prefix, map, problems }
    }

    pub(super) fn problem(&mut self, name: &str, message: impl Into<String>) {
        self.problems.push((format!("{}{name}", self.prefix), message.into()));
    }

    /// The value of a field; `null` is none.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn required<T>(&mut self, name: &str, read: impl FnOnce(&mut Self, &str) -> Option<T>) -> Option<T> {
        if self.map.get(name).is_none_or(Value::is_null) {
            self.problem(name, "is missing");
            return None;
        }
        read(self, name)
    }

    pub(super) fn optional_text(&mut self, name: &str, most: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if text.trim().is_empty() => self.wrong(name, "is empty"),
            Value::String(text) if text.len() > most => self.wrong(name, format!("is longer than {most} bytes")),
            Value::String(text) if text.chars().any(char::is_control) => self.wrong(name, "has control characters"),
            Value::String(text) => Some(text),
            _ => self.wrong(name, "is not a text"),
        }
    }

    pub(super) fn text(&mut self, name: &str, most: usize) -> Option<String> {
        self.required(name, |f, name| f.optional_text(name, most))
    }

    /// The name of a unit or batch.
    pub(super) fn code(&mut self, name: &str) -> Option<String> {
        self.text(name, MAX_CODE)
    }

    /// A word that may become the label of a metric.
    pub(super) fn optional_word(&mut self, name: &str) -> Option<String> {
        let text = self.optional_text(name, MAX_TEXT)?;
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.len() <= 32 && text.chars().all(is_word) {
            return Some(text);
        }
        self.wrong(name, "is not a short name: 1 to 32 letters, digits, `.`, `_` or `-`")
    }

    pub(super) fn word(&mut self, name: &str) -> Option<String> {
        self.required(name, Self::optional_word)
    }

    pub(super) fn optional_count(&mut self, name: &str, most: u64) -> Option<u64> {
        match self.take(name)?.as_u64() {
            Some(count) if count <= most => Some(count),
            _ => self.wrong(name, format!("is not a whole number of 0 to {most}")),
        }
    }

    pub(super) fn count(&mut self, name: &str, most: u64) -> Option<u64> {
        self.required(name, |f, name| f.optional_count(name, most))
    }

    /// How often each of some words.
    pub(super) fn optional_counts(&mut self, name: &str) -> Option<BTreeMap<String, u64>> {
        let Value::Object(map) = self.take(name)? else { return self.wrong(name, "is not an object of counts") };
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_good = |(word, count): (String, Value)| {
            let is_good = (1..=32).contains(&word.len()) && word.chars().all(is_word);
            Some((word, count.as_u64().filter(|count| is_good && *count <= 1 << 53)?))
        };
        let length = map.len();
        let counts: BTreeMap<String, u64> = map.into_iter().take(MAX_COUNTS).filter_map(is_good).collect();
        if counts.len() == length {
            return Some(counts);
        }
        self.wrong(name, format!("is not at most {MAX_COUNTS} short names with a whole number each"))
    }

    pub(super) fn optional_number(&mut self, name: &str, least: f64, most: f64) -> Option<f64> {
        match self.take(name)?.as_f64() {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ => self.wrong(name, format!("is not a number of {least} to {most}")),
        }
    }

    pub(super) fn optional_flag(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => Some(flag),
            _ => self.wrong(name, "is neither true nor false"),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.required(name, Self::optional_flag)
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(name, MAX_TEXT)?;
        let found = choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value);
        found.or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            self.wrong(name, format!("`{text}` is none of {}", names.join(", ")))
        })
    }

    pub(super) fn optional_time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.optional_text(name, 64)?;
        match text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond) {
            Ok(ms) if (EARLIEST_MS..LATEST_MS).contains(&ms) => Some(Timestamp(ms)),
            Ok(_) => self.wrong(name, format!("`{text}` is not within 1990 to 2099")),
            Err(_) => {
                self.wrong(name, format!("`{text}` is not an RFC 3339 time; write for example 2026-05-14T08:12:31Z"))
            }
        }
    }

    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.required(name, Self::optional_time)
    }

    fn wrong<T>(&mut self, name: &str, message: impl Into<String>) -> Option<T> {
        self.problem(name, message);
        None
    }

    /// Notes every field that nobody asked for.
    pub(super) fn finish(self) {
        for (name, _) in self.map {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
            self.problems.push((format!("{}{shown}", self.prefix), "is not a field of this type".to_owned()));
        }
    }
}
