//! The keys that sensors of this platform alone have in the settings.

use veghe_wire::document::{Problems, Section, format_duration};

use super::super::options::{absolute, list, pattern, quoted, span, texts};
use super::glob::Globs;
use super::smart::Drives;
use super::systemd::Units;

/// What single sensors of this platform look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// What the `smart` sensor asks.
    pub drives: Drives,
    /// What the `systemd` sensor looks at.
    pub units: Units,
}

/// Reads the keys that only the sensor `name` has, and gives them.
pub(crate) fn read(
    name: &str,
    section: &mut Section<'_>,
    problems: &mut Problems,
    options: &mut HostOptions,
) -> &'static [&'static str] {
    match name {
        "smart" => {
            let every = section.value("every", problems, span);
            options.drives = Drives {
                program: section.value("program", problems, absolute),
                devices: texts(section.list("devices", problems), problems, absolute).unwrap_or_default(),
                every: every.unwrap_or(Drives::default().every),
            };
            &["program", "devices", "every"]
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
    match name {
        "smart" => {
            let Drives { program, devices, every } = &options.drives;
            let path = |path: &std::path::PathBuf| quoted(&path.to_string_lossy());
            let program = program.as_ref().map(|program| format!(", program: {}", path(program))).unwrap_or_default();
            format!("{program}, devices: {}, every: {}", list(devices.iter().map(path)), format_duration(*every))
        }
        "systemd" => {
            let Units { socket, include, exclude } = &options.units;
            let globs = |globs: &Globs| list(globs.patterns().iter().map(|pattern| quoted(pattern)));
            let socket = quoted(&socket.to_string_lossy());
            format!(", socket: {socket}, include: {}, exclude: {}", globs(include), globs(exclude))
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
