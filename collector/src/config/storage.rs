//! `storage.retention` in the file: one age for everything, or ages by class of series and a size.

use std::fmt;
use std::time::Duration;

use veghe_model::Matcher;
use veghe_promql::parse_selector;
use veghe_wire::document::{Node, Problems, Section, format_bytes, format_duration, parse_bytes};

use super::{at_least, keys, required, set};

/// Less is one chunk.
const LEAST: Duration = Duration::from_hours(2);
/// Less is not worth a store.
const LEAST_BYTES: u64 = 64 << 20;

/// How long samples are kept.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Where no class says otherwise.
    pub raw: Duration,
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
    /// How long samples are kept.
    pub raw: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { raw: Duration::from_hours(400 * 24), max_bytes: None, classes: Vec::new() }
    }
}

impl Retention {
    /// As the store takes it.
    pub fn of_store(&self) -> veghe_tsdb::Retention {
        let class = |class: &Class| veghe_tsdb::RetentionClass { matchers: class.matchers.clone(), raw: class.raw };
        let classes = self.classes.iter().map(class).collect();
        veghe_tsdb::Retention { classes, raw: self.raw, max_bytes: self.max_bytes }
    }
}

/// As Prometheus tells it in its runtime information: `400d`, or `400d or 200GiB`.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.raw))?;
        self.max_bytes.map_or(Ok(()), |bytes| write!(f, " or {}", format_bytes(bytes)))
    }
}

/// Reads `storage.retention`: a duration alone is `raw`.
pub(super) fn read(node: &Node, problems: &mut Problems) -> Retention {
    let mut retention = Retention::default();
    if !node.is_section() {
        let raw = node.text(problems).map(at_least(LEAST));
        set(&mut retention.raw, raw.and_then(|raw| problems.check(node.line, &node.key, raw)));
        return retention;
    }
    let mut section = node.section(problems);
    set(&mut retention.raw, section.value("raw", problems, at_least(LEAST)));
    retention.max_bytes = section.value("max_size", problems, parse_size);
    for item in section.list("classes", problems) {
        let mut class = item.section(problems);
        retention.classes.extend(read_class(&mut class, problems));
        class.finish(keys("storage.retention.classes[]"), problems);
    }
    section.finish(keys("storage.retention"), problems);
    retention
}

fn read_class(section: &mut Section<'_>, problems: &mut Problems) -> Option<Class> {
    let selector = required(section, "match", problems, |text| {
        parse_selector(text)
            .map(|matchers| (text.to_owned(), matchers))
            .map_err(|error| format!("`{text}` is not a selector: {error}; write for example `{{job=\"node\"}}`"))
    });
    let raw = required(section, "raw", problems, at_least(LEAST));
    let (selector, matchers) = selector?;
    Some(Class { selector, matchers, raw: raw? })
}

/// Reads a size on disk that is not too small to be one.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes >= LEAST_BYTES => Ok(bytes),
        _ => Err(format!("`{text}` is too small; at least `{}`", format_bytes(LEAST_BYTES))),
    }
}
