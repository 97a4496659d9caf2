//! The section `fixity` of the settings: which storages are verified, how fast and how often.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use veghe_wire::document::{Node, Problems, Section, format_bytes, format_duration, parse_bytes};

use crate::digitization::settings::{absolute, globs, label, quoted, required, span};
use crate::sensors::glob::Globs;

/// Bytes a second.
const PACE: NonZeroU64 = NonZeroU64::new(20 << 20).expect("not zero");
const LEAST_PACE: u64 = 64 << 10;
/// From the end of one pass to the beginning of the next.
const EVERY: Duration = Duration::from_hours(24 * 30);
/// Names that are no objects.
const EXCLUDE: [&str; 4] = ["lost+found", "@eadir", "#recycle", ".veghe*"];
/// Each has a thread.
const MAX_STORAGES: usize = 16;

/// What is verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Where masters are.
    pub storages: Vec<Storage>,
}

/// A storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// The value of the label `storage`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Storages with the same word have copies of one another's objects, under the same paths.
    pub copies: Option<String>,
    /// Names of files and folders that are left out, lower case.
    pub exclude: Globs,
    /// Bytes a second.
    pub pace: NonZeroU64,
    /// From the end of one pass to the beginning of the next.
    pub every: Duration,
}

/// What is left out by default.
pub(super) fn excluded() -> Globs {
    Globs::new(EXCLUDE.map(str::to_owned).to_vec())
}

/// Bytes a second in words.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn pace(text: &str) -> Result<NonZeroU64, String> {
    let bytes = parse_bytes(text.strip_suffix("/s").unwrap_or(text))?;
    let enough = NonZeroU64::new(bytes).filter(|bytes| bytes.get() >= LEAST_PACE);
    enough.ok_or_else(|| format!("`{text}` is below {}, which would never end", format_bytes(LEAST_PACE)))
}

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Settings {
    let common = (
        section.value("pace", problems, pace).unwrap_or(PACE),
        section.value("every", problems, span).unwrap_or(EVERY),
    );
    let nodes = section.list("storages", problems);
    let mut storages: Vec<Storage> = Vec::new();
    for node in nodes {
        let Some(storage) = storage(node, common, problems) else { continue };
        if storages.iter().any(|other| other.name == storage.name) {
            let message = format!("the name `{}` is there twice; give each its own", storage.name);
            problems.note(node.line, &*node.key, message);
        }
        storages.push(storage);
    }
    if let (true, Some(node)) = (nodes.len() > MAX_STORAGES, nodes.first()) {
        problems.note(node.line, &*node.key, format_args!("are {}; at most {MAX_STORAGES} can be", nodes.len()));
    }
    Settings { storages }
}

fn storage(node: &Node, common: (NonZeroU64, Duration), problems: &mut Problems) -> Option<Storage> {
    let mut s = node.section(problems);
    let name = required(&mut s, "name", problems, label);
    let path = required(&mut s, "path", problems, absolute);
    let copies = s.value("copies", problems, label);
    let exclude = globs(&mut s, "exclude", problems).unwrap_or_else(excluded);
    let pace = s.value("pace", problems, pace).unwrap_or(common.0);
    let every = s.value("every", problems, span).unwrap_or(common.1);
    s.finish(&["name", "path", "copies", "exclude", "pace", "every"], problems);
    Some(Storage { name: name?, path: path?, copies, exclude, pace, every })
}

/// The section as a document has it; nothing where it is empty.
pub(crate) fn write(settings: &Settings) -> String {
    let mut text = String::new();
    if settings.storages.is_empty() {
        return text;
    }
    text.push_str("fixity:\n  storages:\n");
    for storage in &settings.storages {
        let copies = storage.copies.as_ref().map(|copies| format!(", copies: {copies}")).unwrap_or_default();
        let exclude = storage.exclude.patterns().iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        writeln!(
            text,
            "    - {{name: {}, path: {}{copies}, exclude: [{exclude}], pace: {}, every: {}}}",
            storage.name,
            quoted(&storage.path.to_string_lossy()),
            format_bytes(storage.pace.get()),
            format_duration(storage.every),
        )
        .expect("invariant: a string takes every write");
    }
    text
}
