//! `storage.retention` in the file: one age for samples, or ages of samples and roll-ups by class of series, and a size.

use std::fmt;
use std::time::Duration;

use veghe_model::Matcher;
use veghe_promql::parse_selector;
use veghe_tsdb::Ages;
use veghe_wire::document::{Node, Problems, Section, format_bytes, format_duration, parse_bytes};

use super::{at_least, keys, required};

/// Less is one chunk.
const LEAST: Duration = Duration::from_hours(2);
/// Less is not worth a store.
const LEAST_BYTES: u64 = 64 << 20;

/// How long everything is kept.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Where no class says otherwise.
    pub ages: Ages,
    /// What the store may take on disk, if there is a limit.
    pub max_bytes: Option<u64>,
    /// The first that a series belongs to decides.
    pub classes: Vec<Class>,
}

/// Series that are kept for a time of their own.
#[derive(Clone, Debug)]
pub struct Class {
    /// The selector as written.
    pub selector: String,
    /// What it asks for.
    pub matchers: Vec<Matcher>,
    /// How long they are kept.
    pub ages: Ages,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(days * 24);
        // Roll-ups of an hour take about a tenth of the samples' room, those of 5 minutes about as much as a sample a minute.
        let ages = Ages { raw: days(400), rollup_5m: days(400), rollup_1h: days(3_650) };
        Self { ages, max_bytes: None, classes: Vec::new() }
    }
}

impl Retention {
    /// As the store takes it.
    pub fn of_store(&self) -> veghe_tsdb::Retention {
        let class = |class: &Class| veghe_tsdb::RetentionClass { matchers: class.matchers.clone(), ages: class.ages };
        let classes = self.classes.iter().map(class).collect();
        veghe_tsdb::Retention { classes, ages: self.ages, max_bytes: self.max_bytes }
    }
}

/// As Prometheus tells it in its runtime information: `400d`, or `400d or 200GiB`.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.ages.raw))?;
        self.max_bytes.map_or(Ok(()), |bytes| write!(f, " or {}", format_bytes(bytes)))
    }
}

/// Reads `storage.retention`: a duration alone is `raw`.
pub(super) fn read(node: &Node, problems: &mut Problems) -> Retention {
    let mut retention = Retention::default();
    let default = retention.ages;
    if !node.is_section() {
        let raw = node.text(problems).map(at_least(LEAST));
        let raw = raw.and_then(|raw| problems.check(node.line, &node.key, raw));
        retention.ages = raw.map_or(default, |raw| derived(raw, default));
        return retention;
    }
    let mut section = node.section(problems);
    let raw = section.value("raw", problems, at_least(LEAST)).unwrap_or(default.raw);
    retention.ages = read_rollups(&mut section, derived(raw, default), problems);
    retention.max_bytes = section.value("max_size", problems, parse_size);
    for item in section.list("classes", problems) {
        let mut class = item.section(problems);
        retention.classes.extend(read_class(&mut class, retention.ages, problems));
        class.finish(keys("storage.retention.classes[]"), problems);
    }
    section.finish(keys("storage.retention"), problems);
    retention
}

/// What holds where only `raw` is said: roll-ups of 5 minutes go with the samples, those of an hour as by default.
fn derived(raw: Duration, default: Ages) -> Ages {
    Ages { raw, rollup_5m: raw, rollup_1h: default.rollup_1h.max(raw) }
}

/// Roll-ups are kept at least as long as what is finer.
fn read_rollups(section: &mut Section<'_>, derived: Ages, problems: &mut Problems) -> Ages {
    let raw = derived.raw;
    let not_before = |least: Duration, what: &'static str| {
        move |text: &str| match at_least(LEAST)(text)? {
            age if age >= least => Ok(age),
            _ => Err(format!("`{text}` is shorter than {what}; at least `{}`", format_duration(least))),
        }
    };
    let rollup_5m = section.value("rollup_5m", problems, not_before(raw, "`raw`")).unwrap_or(derived.rollup_5m);
    let what = if rollup_5m > raw { "`rollup_5m`" } else { "`raw`" };
    let rollup_1h = section.value("rollup_1h", problems, not_before(rollup_5m, what));
    Ages { raw, rollup_5m, rollup_1h: rollup_1h.unwrap_or(derived.rollup_1h.max(rollup_5m)) }
}

fn read_class(section: &mut Section<'_>, default: Ages, problems: &mut Problems) -> Option<Class> {
    let selector = required(section, "match", problems, |text| {
        parse_selector(text)
            .map(|matchers| (text.to_owned(), matchers))
            .map_err(|error| format!("`{text}` is not a selector: {error}; write for example `{{job=\"node\"}}`"))
    });
    let raw = required(section, "raw", problems, at_least(LEAST));
    // A class that says nothing of roll-ups keeps none longer than its samples: that is how it keeps less.
    let ages = read_rollups(section, Ages::alike(raw.unwrap_or(default.raw)), problems);
    let (selector, matchers) = selector?;
    raw.map(|_| Class { selector, matchers, ages })
}

/// Reads a size on disk that is not too small to be one.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes >= LEAST_BYTES => Ok(bytes),
        _ => Err(format!("`{text}` is too small; at least `{}`", format_bytes(LEAST_BYTES))),
    }
}
