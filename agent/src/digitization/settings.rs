//! The section `digitization` of the settings: hot folders, CSV exports of capture software, deliveries.
//!
//! Invariant: every problem is told with line, key and remedy. Defaults stand in one place, the constants below.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use veghe_wire::document::{Node, Problems, Section, format_duration, parse_duration};

use super::template::{Template, word};
use crate::sensors::glob::Globs;

const SCAN: Duration = Duration::from_secs(10);
const RECONCILE: Duration = Duration::from_mins(10);
const SETTLE: Duration = Duration::from_secs(5);
const REFUSE_AFTER: Duration = Duration::from_mins(10);
const DELIVERY_SETTLE: Duration = Duration::from_mins(1);
const DELIVERY_SCAN: Duration = Duration::from_mins(1);
const CSV_SCAN: Duration = Duration::from_secs(30);
const SPAN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(24 * 366));
/// Each has a thread.
const MAX_SOURCES: usize = 32;

/// File names that are images.
const INCLUDE: [&str; 8] = ["*.tif", "*.tiff", "*.jpg", "*.jpeg", "*.jp2", "*.jpf", "*.j2k", "*.pdf"];
/// Names of files and folders that are none: thumbnails, previews, what systems and scanners leave, what is being written.
const EXCLUDE: [&str; 16] = [
    ".*",
    "~*",
    "*~",
    "*.tmp",
    "*.tmp.*",
    "*.temp",
    "*.part",
    "*.partial",
    "*.crdownload",
    "thumbs.db",
    "@eadir",
    "#recycle",
    "thumb*",
    "*_thumb.*",
    "*_preview.*",
    "lost+found",
];

/// What the agent sees of a digitization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Folders that images come into.
    pub hot_folders: Vec<HotFolder>,
    /// Exports of capture software.
    pub csv: Vec<CsvExport>,
    /// Folders that packages are delivered into.
    pub deliveries: Vec<Delivery>,
}

impl Settings {
    /// Whether there is nothing to see.
    pub fn is_empty(&self) -> bool {
        self.hot_folders.is_empty() && self.csv.is_empty() && self.deliveries.is_empty()
    }
}

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// By inotify where the system has it, and by looking.
    Auto,
    /// By looking alone: what other machines write to a share is not told.
    Scan,
}

/// What becomes of a file with the content of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// It is told and does not count.
    Skip,
    /// It counts as any other.
    Count,
}

/// What becomes of a file that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletions {
    /// It counts as before: the next step took it away.
    Ignore,
    /// It counts no more.
    Tell,
}

/// When the whole content of a file is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// Where size and samples are those of another file.
    Needed,
    /// Always; the digest is told.
    Always,
}

/// What images are looked at for, which takes decoding them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookFor {
    /// Empty pages.
    Blank,
    /// Pages that look almost like one shortly before them of the same unit.
    NearDuplicate,
}

/// Their names in the settings.
const LOOK_FOR: [(&str, LookFor); 2] = [("blank", LookFor::Blank), ("near_duplicate", LookFor::NearDuplicate)];

/// A folder that images come into.
#[derive(Clone, Debug, PartialEq)]
pub struct HotFolder {
    /// The value of the label `folder`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What paths below it tell.
    pub template: Template,
    /// The station of images whose path tells none.
    pub station: Option<String>,
    /// How changes are noticed.
    pub watch: Watch,
    /// From one look at the folders that images come into to the next.
    pub scan: Duration,
    /// From one look at everything to the next.
    pub reconcile: Duration,
    /// How long a file has to stay as it is.
    pub settle: Duration,
    /// How long a file that is not whole may stay as it is until that is told.
    pub refuse_after: Duration,
    /// Names of images, lower case.
    pub include: Globs,
    /// Names of files and folders that are left out, lower case.
    pub exclude: Globs,
    /// What becomes of duplicates.
    pub duplicates: Duplicates,
    /// What becomes of files that are gone.
    pub deletions: Deletions,
    /// When the content is hashed.
    pub digest: Digest,
    /// What images are looked at for; at nothing, unless said.
    pub look_for: Vec<LookFor>,
}

impl HotFolder {
    /// The folder at `path` with every default.
    pub fn new(name: &str, path: PathBuf, template: Template) -> Self {
        let globs = |patterns: &[&str]| Globs::new(patterns.iter().map(|text| (*text).to_owned()).collect());
        Self {
            name: name.to_owned(),
            path,
            template,
            station: None,
            watch: Watch::Auto,
            scan: SCAN,
            reconcile: RECONCILE,
            settle: SETTLE,
            refuse_after: REFUSE_AFTER,
            include: globs(&INCLUDE),
            exclude: globs(&EXCLUDE),
            duplicates: Duplicates::Skip,
            deletions: Deletions::Ignore,
            digest: Digest::Needed,
            look_for: Vec::new(),
        }
    }
}

/// How the bytes of an export become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// By its byte order mark, UTF-8 without one.
    Auto,
    /// UTF-8.
    Utf8,
    /// UTF-16, low byte first.
    Utf16Le,
    /// UTF-16, high byte first.
    Utf16Be,
    /// What Windows in Romanian writes.
    Windows1250,
}

/// An export of capture software.
#[derive(Clone, Debug, PartialEq)]
pub struct CsvExport {
    /// The value of the label `export`.
    pub name: String,
    /// A pattern of paths.
    pub files: String,
    /// Its encoding.
    pub encoding: Encoding,
    /// What columns are apart by.
    pub delimiter: u8,
    /// The end of the type of the events that rows become, for example `image.captured`.
    pub event: String,
    /// Which column (by its name in the first line) gives which field; `time` is the event's time.
    pub columns: BTreeMap<String, String>,
    /// Fields that are the same in every row.
    pub values: BTreeMap<String, String>,
    /// How times are written, as `strptime` has it; RFC 3339 without.
    pub time_format: Option<String>,
    /// The time zone of times that tell none.
    pub time_zone: TimeZone,
    /// From one look to the next.
    pub scan: Duration,
}

/// A folder that packages are delivered into.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The value of the label `delivery`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What the path of a package's folder tells.
    pub template: Template,
    /// How long a package has to stay as it is.
    pub settle: Duration,
    /// From one look to the next.
    pub scan: Duration,
}

const EVENTS: [(&str, &[&str], &[&str]); 4] = [
    (
        "image.captured",
        &["unit", "frames"],
        &["station", "batch", "bytes", "width_px", "height_px", "ppi", "bits", "compression", "format"],
    ),
    ("qc.result", &["outcome"], &["unit", "batch", "reason", "checked", "rejected"]),
    ("ocr.done", &["unit", "pages"], &["confidence", "language"]),
    ("unit.stage", &["unit", "stage", "change"], &["reason", "station", "hold"]),
];

/// Reads the section.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Settings {
    Settings {
        hot_folders: all(section, "hot_folders", problems, hot_folder, |folder: &HotFolder| &folder.name),
        csv: all(section, "csv", problems, csv, |export: &CsvExport| &export.name),
        deliveries: all(section, "deliveries", problems, delivery, |delivery: &Delivery| &delivery.name),
    }
}

fn all<T>(
    section: &mut Section<'_>,
    key: &str,
    problems: &mut Problems,
    read: fn(&Node, &mut Problems) -> Option<T>,
    name: fn(&T) -> &String,
) -> Vec<T> {
    let nodes = section.list(key, problems);
    let (mut items, mut seen) = (Vec::new(), BTreeSet::new());
    for node in nodes {
        let Some(item) = read(node, problems) else { continue };
        if !seen.insert(name(&item).clone()) {
            let message = format!("the name `{}` is there twice; give each its own", name(&item));
            problems.note(node.line, &*node.key, message);
        }
        items.push(item);
    }
    if let (true, Some(node)) = (nodes.len() > MAX_SOURCES, nodes.first()) {
        problems.note(node.line, &*node.key, format_args!("are {}; at most {MAX_SOURCES} can be", nodes.len()));
    }
    items
}

fn hot_folder(node: &Node, problems: &mut Problems) -> Option<HotFolder> {
    let mut s = node.section(problems);
    let name = required(&mut s, "name", problems, label);
    let path = required(&mut s, "path", problems, absolute);
    let template = required(&mut s, "template", problems, template_with_unit);
    let station = s.value("station", problems, label);
    let watch = s.value("watch", problems, |text| choice(text, &[("auto", Watch::Auto), ("scan", Watch::Scan)]));
    let (scan, reconcile) = (s.value("scan", problems, span), s.value("reconcile", problems, span));
    let (settle, refuse_after) = (s.value("settle", problems, span), s.value("refuse_after", problems, span));
    let (include, exclude) = (globs(&mut s, "include", problems), globs(&mut s, "exclude", problems));
    let duplicates = [("skip", Duplicates::Skip), ("count", Duplicates::Count)];
    let duplicates = s.value("duplicates", problems, |text| choice(text, &duplicates));
    let deletions = [("ignore", Deletions::Ignore), ("tell", Deletions::Tell)];
    let deletions = s.value("deletions", problems, |text| choice(text, &deletions));
    let digest = [("needed", Digest::Needed), ("always", Digest::Always)];
    let digest = s.value("digest", problems, |text| choice(text, &digest));
    let nodes = s.list("look_for", problems);
    let mut look_for = Vec::new();
    for node in nodes {
        let what = node.text(problems).map(|text| choice(text, &LOOK_FOR));
        look_for.extend(what.and_then(|what| problems.check(node.line, &node.key, what)));
    }
    let known = [
        "name",
        "path",
        "template",
        "station",
        "watch",
        "scan",
        "reconcile",
        "settle",
        "refuse_after",
        "include",
        "exclude",
        "duplicates",
        "deletions",
        "digest",
        "look_for",
    ];
    s.finish(&known, problems);
    let mut folder = HotFolder::new(&name?, path?, template?);
    folder.station = station;
    folder.watch = watch.unwrap_or(folder.watch);
    folder.scan = scan.unwrap_or(folder.scan);
    folder.reconcile = reconcile.unwrap_or(folder.reconcile);
    folder.settle = settle.unwrap_or(folder.settle);
    folder.refuse_after = refuse_after.unwrap_or(folder.refuse_after);
    folder.include = include.unwrap_or(folder.include);
    folder.exclude = exclude.unwrap_or(folder.exclude);
    folder.duplicates = duplicates.unwrap_or(folder.duplicates);
    folder.deletions = deletions.unwrap_or(folder.deletions);
    folder.digest = digest.unwrap_or(folder.digest);
    folder.look_for = look_for;
    Some(folder)
}

fn csv(node: &Node, problems: &mut Problems) -> Option<CsvExport> {
    let mut s = node.section(problems);
    let line = s.line();
    let name = required(&mut s, "name", problems, label);
    let files = required(&mut s, "files", problems, |text| absolute(text).map(|_| text.to_owned()));
    let encodings = [
        ("auto", Encoding::Auto),
        ("utf-8", Encoding::Utf8),
        ("utf-16le", Encoding::Utf16Le),
        ("utf-16be", Encoding::Utf16Be),
        ("windows-1250", Encoding::Windows1250),
    ];
    let encoding = s.value("encoding", problems, |text| choice(text, &encodings)).unwrap_or(Encoding::Auto);
    let delimiter = s.value("delimiter", problems, |text| match text.as_bytes() {
        [byte @ (b';' | b',' | b'|' | b'\t')] => Ok(*byte),
        b"tab" => Ok(b'\t'),
        _ => Err(format!("`{text}` is none of `;`, `,`, `|` and `tab`")),
    });
    let event = s.value("event", problems, |text| choice(text, &EVENTS.map(|(name, ..)| (name, name))));
    let event = event.unwrap_or("image.captured");
    let (columns, values) = (texts(&mut s, "columns", problems), texts(&mut s, "values", problems));
    let time_format = s.value("time_format", problems, |text| Ok::<_, String>(text.to_owned()));
    let time_zone = s.value("time_zone", problems, |text| {
        TimeZone::get(text).or(Err(format!("`{text}` is no time zone; write for example `Europe/Bucharest`")))
    });
    let scan = s.value("scan", problems, span).unwrap_or(CSV_SCAN);
    let known =
        ["name", "files", "encoding", "delimiter", "event", "columns", "values", "time_format", "time_zone", "scan"];
    let path = s.path("columns");
    s.finish(&known, problems);
    let (_, must, may) = EVENTS.iter().find(|(name, ..)| *name == event)?;
    for (key, _) in columns.iter().chain(&values) {
        if key != "time" && !must.contains(&key.as_str()) && !may.contains(&key.as_str()) {
            let message =
                format!("`{key}` is no field of {event}; there are time, {}, {}", must.join(", "), may.join(", "));
            problems.note(line, &*path, message);
        }
    }
    for missing in must.iter().chain(&["time"]).filter(|m| !columns.contains_key(**m) && !values.contains_key(**m)) {
        problems.note(line, &*path, format_args!("lacks `{missing}`; name the column that has it"));
    }
    Some(CsvExport {
        name: name?,
        files: files?,
        encoding,
        delimiter: delimiter.unwrap_or(b';'),
        event: event.to_owned(),
        columns,
        values,
        time_format,
        time_zone: time_zone.unwrap_or(TimeZone::UTC),
        scan,
    })
}

fn delivery(node: &Node, problems: &mut Problems) -> Option<Delivery> {
    let mut s = node.section(problems);
    let name = required(&mut s, "name", problems, label);
    let path = required(&mut s, "path", problems, absolute);
    let template = required(&mut s, "template", problems, |text| {
        let template = text.parse::<Template>()?;
        if template.text().ends_with("/...") {
            return Err(
                "ends with `...`; it must name the folder of a package, for example `{batch}/{unit}`".to_owned()
            );
        }
        Ok(template)
    });
    let settle = s.value("settle", problems, span).unwrap_or(DELIVERY_SETTLE);
    let scan = s.value("scan", problems, span).unwrap_or(DELIVERY_SCAN);
    s.finish(&["name", "path", "template", "settle", "scan"], problems);
    Some(Delivery { name: name?, path: path?, template: template?, settle, scan })
}

/// The section as a document has it; nothing where it is empty.
pub(crate) fn write(settings: &Settings) -> String {
    let mut text = String::new();
    if settings.is_empty() {
        return text;
    }
    text.push_str("digitization:\n");
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let map = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect::<Vec<_>>().join(", ")
    };
    let mut lines = Vec::new();
    for folder in &settings.hot_folders {
        let station = folder.station.as_ref().map(|station| format!(", station: {station}")).unwrap_or_default();
        let look_for: Vec<&str> =
            LOOK_FOR.iter().filter(|(_, what)| folder.look_for.contains(what)).map(|(name, _)| *name).collect();
        lines.push((
            "hot_folders",
            format!(
                "{{name: {}, path: {}, template: {}{station}, watch: {}, scan: {}, reconcile: {}, settle: {}, refuse_after: {}, include: [{}], exclude: [{}], duplicates: {}, deletions: {}, digest: {}, look_for: [{}]}}",
                folder.name,
                quoted(&folder.path.to_string_lossy()),
                quoted(folder.template.text()),
                if folder.watch == Watch::Auto { "auto" } else { "scan" },
                format_duration(folder.scan),
                format_duration(folder.reconcile),
                format_duration(folder.settle),
                format_duration(folder.refuse_after),
                list(folder.include.patterns()),
                list(folder.exclude.patterns()),
                if folder.duplicates == Duplicates::Skip { "skip" } else { "count" },
                if folder.deletions == Deletions::Ignore { "ignore" } else { "tell" },
                if folder.digest == Digest::Needed { "needed" } else { "always" },
                look_for.join(", "),
            ),
        ));
    }
    for export in &settings.csv {
        let encoding = match export.encoding {
            Encoding::Auto => "auto",
            Encoding::Utf8 => "utf-8",
            Encoding::Utf16Le => "utf-16le",
            Encoding::Utf16Be => "utf-16be",
            Encoding::Windows1250 => "windows-1250",
        };
        let delimiter =
            if export.delimiter == b'\t' { "tab".to_owned() } else { char::from(export.delimiter).to_string() };
        let format = export.time_format.as_ref().map(|f| format!(", time_format: {}", quoted(f))).unwrap_or_default();
        lines.push((
            "csv",
            format!(
                "{{name: {}, files: {}, encoding: {encoding}, delimiter: {}, event: {}, columns: {{{}}}, values: {{{}}}{format}, time_zone: {}, scan: {}}}",
                export.name,
                quoted(&export.files),
                quoted(&delimiter),
                export.event,
                map(&export.columns),
                map(&export.values),
                export.time_zone.iana_name().unwrap_or("UTC"),
                format_duration(export.scan),
            ),
        ));
    }
    for delivery in &settings.deliveries {
        lines.push((
            "deliveries",
            format!(
                "{{name: {}, path: {}, template: {}, settle: {}, scan: {}}}",
                delivery.name,
                quoted(&delivery.path.to_string_lossy()),
                quoted(delivery.template.text()),
                format_duration(delivery.settle),
                format_duration(delivery.scan),
            ),
        ));
    }
    let mut section = "";
    for (key, line) in lines {
        if key != section {
            section = key;
            writeln!(text, "  {key}:").expect("invariant: a string takes every write");
        }
        writeln!(text, "    - {line}").expect("invariant: a string takes every write");
    }
    text
}

/// In double quotes, as JSON has it, which YAML reads.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(crate) fn required<T>(
    section: &mut Section<'_>,
    key: &str,
    problems: &mut Problems,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let node = section.require(key, problems)?;
    let parsed = parse(node.text(problems)?);
    problems.check(node.line, &node.key, parsed)
}

fn texts(section: &mut Section<'_>, key: &str, problems: &mut Problems) -> BTreeMap<String, String> {
    let Some(mut section) = section.section(key, problems) else { return BTreeMap::new() };
    let pairs = section.take_all().filter_map(|(key, node)| Some((key.to_owned(), node.text(problems)?.to_owned())));
    pairs.collect()
}

pub(crate) fn globs(section: &mut Section<'_>, key: &str, problems: &mut Problems) -> Option<Globs> {
    let nodes = section.list(key, problems);
    let patterns: Vec<String> = nodes.iter().filter_map(|node| Some(node.text(problems)?.to_lowercase())).collect();
    (!nodes.is_empty()).then(|| Globs::new(patterns))
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

pub(crate) fn label(text: &str) -> Result<String, String> {
    word(text).ok_or_else(|| format!("`{text}` is not a short name: 1 to 32 letters, digits, `.`, `_` or `-`"))
}

pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_good = path.is_absolute() && path.components().all(|part| part != std::path::Component::ParentDir);
    if is_good { Ok(path) } else { Err(format!("`{text}` is no absolute path; write for example `/srv/scans`")) }
}

fn template_with_unit(text: &str) -> Result<Template, String> {
    let template = text.parse::<Template>()?;
    if template.names_a_unit() {
        return Ok(template);
    }
    Err(format!("`{text}` names no {{unit}}; write for example `{{unit}}/{{batch}}/...`"))
}

pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text)?;
    if (SPAN.0..=SPAN.1).contains(&span) {
        return Ok(span);
    }
    Err(format!("`{text}` is outside {} to {}", format_duration(SPAN.0), format_duration(SPAN.1)))
}
