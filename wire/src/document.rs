//! Settings documents: YAML read so that every problem is found in one run, each with file, line, key and remedy.
//!
//! A program parses a file into a [`Node`], opens it as a [`Section`], takes each key it knows, and closes the section:
//! what is left over is an unknown key. Problems gather in [`Problems`]; a value is good only if there are none.
//! Anchors and aliases are refused: settings say what they mean in place, and no small file grows large.
//! What it deliberately does not do: know any setting (each program's `config`).

mod layers;

pub use layers::named_lists;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// The nesting that a document may have.
const MAX_DEPTH: usize = 32;
/// The most keys and values that a document may have.
const MAX_NODES: usize = 200_000;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line in the file, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// The key's path, for example `storage.retention`; empty where the whole file is meant.
    pub key: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// Everything that is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
}

impl Problems {
    /// No problem so far in `file`.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), list: Vec::new() }
    }

    /// Notes a problem.
    pub fn note(&mut self, line: usize, key: impl Into<String>, message: impl fmt::Display) {
        self.list.push(Problem { line, key: key.into(), message: message.to_string() });
    }

    /// `result`'s value, or a note of its error.
    pub fn check<T, E: fmt::Display>(&mut self, line: usize, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.note(line, key, error)).ok()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What is wrong, by line.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// The file that all of it is about.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// `value` if nothing is wrong, otherwise the problems by line.
    ///
    /// # Errors
    /// Itself, where there is a problem or no value.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => {
                self.list.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
                Err(self)
            }
        }
    }
}

/// One line per problem: `file:line: key: message`.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:", self.file.display())?;
            if problem.line > 0 {
                write!(f, "{}:", problem.line)?;
            }
            if !problem.key.is_empty() {
                write!(f, " {}:", problem.key)?;
            }
            write!(f, " {}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A value in a document and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its line, from 1.
    pub line: usize,
    /// The path of keys that leads to it, for example `groups[0].rules[2].expr`.
    pub key: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Null,
    /// Text as written, before any guess at its type.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar { .. } => "a value",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
        }
    }
}

impl Node {
    /// Parses `text`. An empty document is an empty section. `None` if it is not YAML, which is then a problem.
    pub fn parse(text: &str, problems: &mut Problems) -> Option<Self> {
        let mut reader = Reader { events: Parser::new_from_str(text), nodes: 0 };
        match reader.document() {
            Ok(node) => Some(node),
            Err((line, message)) => {
                problems.note(line, "", message);
                None
            }
        }
    }

    /// The text of a single value.
    pub fn text(&self, problems: &mut Problems) -> Option<&str> {
        if let Kind::Scalar { text, .. } = &self.kind {
            return Some(text);
        }
        problems.note(self.line, &*self.key, format_args!("is {}, needs a value", self.kind.name()));
        None
    }

    /// Whether it is a section.
    pub fn is_section(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// Its keys; where it is not a section that is a problem and there are none.
    pub fn section(&self, problems: &mut Problems) -> Section<'_> {
        let entries = match &self.kind {
            Kind::Map(entries) => entries.as_slice(),
            Kind::Null => &[],
            other => {
                problems.note(self.line, &*self.key, format_args!("is {}, needs a section of keys", other.name()));
                &[]
            }
        };
        Section { node: self, entries, taken: vec![false; entries.len()] }
    }

    /// Its items; where it is not a list that is a problem and there are none.
    pub fn list(&self, problems: &mut Problems) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Null => &[],
            other => {
                problems.note(self.line, &*self.key, format_args!("is {}, needs a list", other.name()));
                &[]
            }
        }
    }

    fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Null => true,
            Kind::Scalar { text, plain } => *plain && matches!(text.as_str(), "" | "~" | "null"),
            Kind::List(_) | Kind::Map(_) => false,
        }
    }
}

/// The keys of one section, taken one by one.
pub struct Section<'a> {
    node: &'a Node,
    entries: &'a [(String, Node)],
    taken: Vec<bool>,
}

impl<'a> Section<'a> {
    /// The section's line, from 1.
    pub fn line(&self) -> usize {
        self.node.line
    }

    /// The path of a key in this section.
    pub fn path(&self, key: &str) -> String {
        if self.node.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.node.key) }
    }

    /// The node of `key`, if it is set to something.
    pub fn take(&mut self, key: &str) -> Option<&'a Node> {
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        self.taken[at] = true;
        Some(&self.entries[at].1).filter(|node| !node.is_null())
    }

    /// The node of `key`; a problem if it is missing.
    pub fn require(&mut self, key: &str, problems: &mut Problems) -> Option<&'a Node> {
        let found = self.take(key);
        if found.is_none() {
            problems.note(self.line(), self.path(key), "is missing");
        }
        found
    }

    /// The value of `key` as `parse` reads it; `None` if it is not set or wrong, which is then a problem.
    pub fn value<T, E: fmt::Display>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let node = self.take(key)?;
        let text = node.text(problems)?;
        problems.check(node.line, &node.key, parse(text))
    }

    /// The section below `key`, if it is set.
    pub fn section(&mut self, key: &str, problems: &mut Problems) -> Option<Section<'a>> {
        self.take(key).map(|node| node.section(problems))
    }

    /// The items of the list below `key`; none if it is not set.
    pub fn list(&mut self, key: &str, problems: &mut Problems) -> &'a [Node] {
        self.take(key).map_or(&[], |node| node.list(problems))
    }

    /// Every key and its node: for sections whose keys are the user's own, such as labels.
    pub fn take_all(&mut self) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        self.taken.fill(true);
        self.entries.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Notes every key that nobody took, with the nearest of `known` keys as a suggestion.
    pub fn finish(self, known: &[&str], problems: &mut Problems) {
        for ((name, node), _) in self.entries.iter().zip(&self.taken).filter(|(_, taken)| !**taken) {
            let nearest = known.iter().map(|k| (distance(name, k), k)).min().filter(|(d, _)| *d <= 3);
            let remedy = match nearest {
                Some((_, nearest)) => format!("did you mean `{nearest}`?"),
                None if known.is_empty() => "remove it".to_owned(),
                None => format!("known keys: {}", known.join(", ")),
            };
            problems.note(node.line, &*node.key, format_args!("is not a known key; {remedy}"));
        }
    }
}

/// Levenshtein's distance, for suggestions between short keys.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

type Fault = (usize, String);

struct Reader<'i> {
    events: Parser<'i, serde_yaml::granit_parser::StrInput<'i>>,
    nodes: usize,
}

impl<'i> Reader<'i> {
    fn document(&mut self) -> Result<Node, Fault> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => {
                    return Ok(Node { line: 1, key: String::new(), kind: Kind::Map(Vec::new()) });
                }
                (event, span) => {
                    let node = self.node(event, &span, String::new(), 0)?;
                    return match self.next()? {
                        (Event::DocumentEnd, _) => match self.next()? {
                            (Event::StreamEnd, _) => Ok(node),
                            (_, span) => Err((span.start.line(), "a second document begins here; keep one".to_owned())),
                        },
                        (_, span) => Err((span.start.line(), "cannot read what follows the document".to_owned())),
                    };
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'i>, Span), Fault> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(found)) => return Ok(found),
                Some(Err(error)) => return Err(scan_fault(&error)),
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn node(&mut self, event: Event<'i>, span: &Span, key: String, depth: usize) -> Result<Node, Fault> {
        let line = span.start.line();
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err((line, format!("is too deep or too long; at most {MAX_DEPTH} levels and {MAX_NODES} values")));
        }
        let kind = match event {
            Event::Scalar(text, style, _, _) => {
                let plain = style == ScalarStyle::Plain;
                if plain && text.is_empty() { Kind::Null } else { Kind::Scalar { text: text.into_owned(), plain } }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Kind::List(items),
                        (event, span) => {
                            let key = format!("{key}[{}]", items.len());
                            items.push(self.node(event, &span, key, depth + 1)?);
                        }
                    }
                }
            }
            Event::MappingStart(..) => Kind::Map(self.entries(&key, depth)?),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                return Err((line, "is an alias; write the value out in its place".to_owned()));
            }
            _ => return Err((line, "cannot read what stands here".to_owned())),
        };
        Ok(Node { line, key, kind })
    }

    fn entries(&mut self, parent: &str, depth: usize) -> Result<Vec<(String, Node)>, Fault> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let name = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(name, ..) => name.into_owned(),
                _ => return Err((line, "a key must be a plain word".to_owned())),
            };
            if entries.iter().any(|(other, _)| *other == name) {
                return Err((line, format!("key `{name}` is there twice; keep one")));
            }
            let key = if parent.is_empty() { name.clone() } else { format!("{parent}.{name}") };
            let (event, span) = self.next()?;
            let mut node = self.node(event, &span, key, depth + 1)?;
            // A section begins where its key stands, which is where a reader looks.
            node.line = line;
            entries.push((name, node));
        }
    }
}

fn scan_fault(error: &ScanError) -> Fault {
    (error.marker().line(), format!("is not YAML: {}", error.info()))
}

/// A span of time with its unit, as Prometheus writes it: `15s`, `1h30m`, `90d`, `250ms`.
///
/// # Errors
/// A message that says what is missing.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 7] = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("w", 604_800_000),
        ("y", 31_536_000_000),
    ];
    let wrong = || format!("`{text}` is not a duration; write for example `15s`, `1h30m` or `90d`");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(format!("`{text}` has no unit; write for example `{text}s`"));
    }
    let (mut rest, mut total, mut last_unit) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms).ok_or_else(wrong)?;
        let count: u64 = number.parse().or(Err(wrong()))?;
        if factor >= last_unit {
            return Err(wrong());
        }
        total = count.checked_mul(factor).and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
        (rest, last_unit) = (tail, factor);
    }
    // As far as 100 years: no sum with a time stamp overflows.
    if text.is_empty() || total > 100 * 31_536_000_000 { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
}

/// `span` as [`parse_duration`] reads it, for example `1h30m`.
pub fn format_duration(span: Duration) -> String {
    const UNITS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut rest = span.as_millis();
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if rest >= factor {
            text = format!("{text}{}{unit}", rest / factor);
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A size with its unit: `512MiB`, `20GiB`, `1048576B`; `MB` and the like count by 1000.
///
/// # Errors
/// A message that says what is missing.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if unit.is_empty() && digits > 0 {
        return Err(format!("`{text}` has no unit; write for example `{text}MiB`"));
    }
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    factor
        .zip(number.parse::<u64>().ok())
        .and_then(|(factor, count)| count.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is not a size; write for example `512MiB` or `20GiB`"))
}

/// `bytes` as [`parse_bytes`] reads it, in the largest binary unit that is exact.
pub fn format_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// `true` or `false`, nothing else.
///
/// # Errors
/// A message with the two words.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse().or(Err(())).map_err(|()| format!("`{text}` is neither `true` nor `false`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (Option<Node>, Problems) {
        let mut problems = Problems::new("veghe.yaml");
        (Node::parse(text, &mut problems), problems)
    }

    #[test]
    fn every_problem_is_found_in_one_run_with_its_line_and_key() {
        let (node, mut problems) = read("interval: 90\nstorage:\n  retenton: 90d\n  dir:\n    - a\n");
        let node = node.expect("yaml");
        let mut root = node.section(&mut problems);
        assert_eq!(root.value("interval", &mut problems, parse_duration), None);
        let mut storage = root.section("storage", &mut problems).expect("section");
        assert_eq!(storage.value("retention", &mut problems, parse_duration), None);
        assert_eq!(storage.value("dir", &mut problems, |text| Ok::<_, String>(text.to_owned())), None);
        storage.require("size", &mut problems);
        storage.finish(&["retention", "dir", "size"], &mut problems);
        root.finish(&["interval", "storage"], &mut problems);
        let text = problems.finish(Some(())).expect_err("problems").to_string();
        assert_eq!(
            text,
            "veghe.yaml:1: interval: `90` has no unit; write for example `90s`\n\
             veghe.yaml:2: storage.size: is missing\n\
             veghe.yaml:3: storage.retenton: is not a known key; did you mean `retention`?\n\
             veghe.yaml:4: storage.dir: is a list, needs a value"
        );
    }

    #[test]
    fn what_is_not_yaml_names_its_line() {
        for (text, line) in [("a: 1\nb: [1", 2), ("a: 1\na: 2\n", 2), ("x: &y 1\nz: *y\n", 2), ("a: 1\n---\nb: 2\n", 2)]
        {
            let (node, problems) = read(text);
            assert!(node.is_none(), "{text:?}");
            let found = problems.iter().next().expect("a problem").line;
            assert!((line..=line + 1).contains(&found), "{text:?}: line {found}");
        }
    }

    #[test]
    fn a_deep_document_is_refused() {
        let (node, problems) = read(&"[".repeat(5000));
        assert!(node.is_none() && !problems.is_empty());
    }

    #[test]
    fn text_stays_as_written() {
        let (node, mut problems) = read("version: 1.10\nyes: 'null'\nempty: ~\nexpr: |\n  up\n  == 0\n");
        let node = node.expect("yaml");
        let mut root = node.section(&mut problems);
        assert_eq!(root.take("version").and_then(|n| n.text(&mut problems)), Some("1.10"));
        assert_eq!(root.take("yes").and_then(|n| n.text(&mut problems)), Some("null"));
        assert_eq!(root.take("empty"), None);
        assert_eq!(root.take("expr").and_then(|n| n.text(&mut problems)), Some("up\n== 0\n"));
        root.finish(&[], &mut problems);
        assert!(problems.is_empty(), "{problems}");
    }

    #[test]
    fn durations_and_sizes_need_units() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "15", "s", "1m1h", "1x", "-1s", "99999999999y", "200y"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("20GiB"), Ok(20 << 30));
        assert_eq!(parse_bytes("5 MB"), Ok(5_000_000));
        for bad in ["", "20", "GiB", "1.5GiB", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z:\\[\\]{}&*!|>'\"#\\- \n\t%@?,0-9]{0,200}") {
            let _node = read(&text);
        }

        #[test]
        fn a_duration_reads_back(ms in 0_u64..10_000_000_000) {
            let span = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }

        #[test]
        fn a_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
    }
}
