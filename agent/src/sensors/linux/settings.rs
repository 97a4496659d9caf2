//! The keys that sensors of this platform alone have in the settings.

use std::time::Duration;

use veghe_wire::document::{Node, Problems, Section, format_duration};

use super::super::options::{
    absolute, host_and_port, label_value, list, pattern, quoted, required, span, texts, unique,
};
use super::glob::Globs;
use super::logs::{self, Log, LogSource};
use super::repositories::{Kind, Repository};
use super::smart::Drives;
use super::systemd::Units;
use super::tape::Tapes;

/// What single sensors of this platform look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// What the `smart` sensor asks.
    pub drives: Drives,
    /// How the `tape` sensor asks.
    pub tapes: Tapes,
    /// What the `systemd` sensor looks at.
    pub units: Units,
    /// What the `logs` sensor counts in.
    pub logs: Vec<Log>,
    /// Repositories of the `backups` sensor.
    pub repositories: Vec<Repository>,
    /// Where chrony takes questions of the `timesync` sensor, if not at its usual place.
    pub chrony: Option<String>,
}

/// Reads the keys that only the sensor `name` has, and gives them.
pub(crate) fn read(
    name: &str,
    section: &mut Section<'_>,
    problems: &mut Problems,
    options: &mut HostOptions,
) -> &'static [&'static str] {
    match name {
        "logs" => {
            let watch = section.list("watch", problems);
            options.logs = watch.iter().filter_map(|node| log(node, problems)).collect();
            unique(watch, options.logs.iter().map(|log| &log.name), problems);
            &["watch"]
        }
        "timesync" => {
            options.chrony = section.value("chrony", problems, host_and_port);
            &["chrony"]
        }
        "smart" => {
            let every = section.value("every", problems, span);
            options.drives = Drives {
                program: section.value("program", problems, absolute),
                devices: texts(section.list("devices", problems), problems, absolute).unwrap_or_default(),
                every: every.unwrap_or(Drives::default().every),
            };
            &["program", "devices", "every"]
        }
        "tape" => {
            let every = section.value("every", problems, span);
            let program = section.value("program", problems, absolute);
            options.tapes = Tapes { program, every: every.unwrap_or(Tapes::default().every) };
            &["program", "every"]
        }
        "systemd" => {
            options.units = units(section, problems);
            &["socket", "include", "exclude"]
        }
        _ => &[],
    }
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(name: &str, options: &HostOptions) -> String {
    let text = |path: &std::path::Path| quoted(&path.to_string_lossy());
    let place = |program: &Option<std::path::PathBuf>| {
        program.as_ref().map(|program| format!(", program: {}", text(program))).unwrap_or_default()
    };
    match name {
        "logs" => {
            let log = |log: &Log| {
                let source = match &log.source {
                    LogSource::File(path) => format!("file: {}", text(path)),
                    LogSource::Journal { unit, program } => {
                        format!("journal: {}, program: {}", quoted(unit), text(program))
                    }
                };
                let rules = log.rules.iter().map(|(name, pattern)| format!("{}: {}", quoted(name), quoted(pattern)));
                let rules = rules.collect::<Vec<_>>().join(", ");
                format!("{{name: {}, {source}, rules: {{{rules}}}}}", quoted(&log.name))
            };
            format!(", watch: {}", list(options.logs.iter().map(log)))
        }
        "timesync" => {
            let address = options.chrony.as_ref();
            address.map(|address| format!(", chrony: {}", quoted(address))).unwrap_or_default()
        }
        "smart" => {
            let Drives { program, devices, every } = &options.drives;
            let devices = list(devices.iter().map(|path| text(path)));
            format!("{}, devices: {devices}, every: {}", place(program), format_duration(*every))
        }
        "tape" => {
            let Tapes { program, every } = &options.tapes;
            format!("{}, every: {}", place(program), format_duration(*every))
        }
        "systemd" => {
            let Units { socket, include, exclude } = &options.units;
            let globs = |globs: &Globs| list(globs.patterns().iter().map(|pattern| quoted(pattern)));
            format!(", socket: {}, include: {}, exclude: {}", text(socket), globs(include), globs(exclude))
        }
        _ => String::new(),
    }
}

fn units(section: &mut Section<'_>, problems: &mut Problems) -> Units {
    let default = Units::default();
    let socket = section.value("socket", problems, absolute).unwrap_or(default.socket);
    let mut globs = |key| {
        let patterns = texts(section.list(key, problems), problems, pattern)?;
        (!patterns.is_empty()).then(|| Globs::new(patterns))
    };
    let (include, exclude) = (globs("include"), globs("exclude"));
    Units { socket, include: include.unwrap_or(default.include), exclude: exclude.unwrap_or(default.exclude) }
}

fn log(node: &Node, problems: &mut Problems) -> Option<Log> {
    let mut section = node.section(problems);
    let name = required(&mut section, "name", problems, label_value);
    let file = section.value("file", problems, absolute);
    let journal = section.value("journal", problems, |unit| Ok::<_, String>(unit.to_owned()));
    let program = section.value("program", problems, absolute).unwrap_or_else(|| "/usr/bin/journalctl".into());
    let source = match (file, journal) {
        (Some(file), None) => Some(LogSource::File(file)),
        (None, Some(unit)) => Some(LogSource::Journal { unit, program }),
        _ => {
            let message = "needs either `file`, or `journal` with a unit (`\"\"` for all of the journal)";
            problems.note(node.line, &*node.key, message);
            None
        }
    };
    let mut rules = Vec::new();
    if let Some(mut section) = section.section("rules", problems) {
        for (name, node) in section.take_all() {
            let pattern = node.text(problems).map(str::to_owned);
            let checked = pattern.and_then(|pattern| {
                let checked = logs::compile(&pattern).map(|_| pattern);
                problems.check(node.line, &node.key, checked)
            });
            rules.extend(checked.map(|pattern| (name.to_owned(), pattern)));
        }
    }
    section.finish(&["name", "file", "journal", "program", "rules"], problems);
    if rules.len() > MAX_RULES {
        problems.note(node.line, &*node.key, format_args!("has {} rules; at most {MAX_RULES} can be", rules.len()));
    }
    Some(Log { name: name?, source: source?, rules })
}

/// Each line is held against each.
const MAX_RULES: usize = 50;
const REPOSITORY_EVERY: Duration = Duration::from_hours(1);

/// Repositories of the `backups` sensor, beside its sets of files.
pub(crate) fn repositories(section: &mut Section<'_>, problems: &mut Problems) -> Vec<Repository> {
    let nodes = section.list("repositories", problems);
    let found: Vec<Repository> = nodes.iter().filter_map(|node| repository(node, problems)).collect();
    unique(nodes, found.iter().map(|repository| &repository.name), problems);
    found
}

fn repository(node: &Node, problems: &mut Problems) -> Option<Repository> {
    let mut section = node.section(problems);
    let name = required(&mut section, "name", problems, label_value);
    let place = |text: &str| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) };
    let (restic, borg) = (section.value("restic", problems, place), section.value("borg", problems, place));
    let kind = match (restic, borg) {
        (Some(place), None) => Some((Kind::Restic, place)),
        (None, Some(place)) => Some((Kind::Borg, place)),
        _ => {
            problems.note(node.line, &*node.key, "needs either `restic` or `borg` with the repository's place");
            None
        }
    };
    let password_file = section.value("password_file", problems, absolute);
    let every = section.value("every", problems, span).unwrap_or(REPOSITORY_EVERY);
    section.finish(&["name", "restic", "borg", "password_file", "every"], problems);
    let (kind, place) = kind?;
    Some(Repository { name: name?, kind, place, password_file, every })
}

/// What [`repositories`] reads, as a document has it.
pub(crate) fn write_repositories(options: &HostOptions) -> String {
    let repository = |repository: &Repository| {
        let kind = match repository.kind {
            Kind::Restic => "restic",
            Kind::Borg => "borg",
        };
        let password =
            repository.password_file.iter().map(|file| format!(", password_file: {}", quoted(&file.to_string_lossy())));
        let (name, place) = (quoted(&repository.name), quoted(&repository.place));
        let every = format_duration(repository.every);
        format!("{{name: {name}, {kind}: {place}{}, every: {every}}}", password.collect::<String>())
    };
    format!(", repositories: {}", list(options.repositories.iter().map(repository)))
}
