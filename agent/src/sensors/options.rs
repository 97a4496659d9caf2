//! What single sensors look at: the keys of their sections in the settings, beside those that every sensor has.

use std::path::PathBuf;
#[cfg(target_os = "linux")]
use std::time::Duration;

use veghe_wire::document::{Node, Problems, Section};
#[cfg(target_os = "linux")]
use veghe_wire::document::{format_bytes, format_duration, parse_bool, parse_bytes, parse_duration};

use super::glob::Globs;
#[cfg(target_os = "linux")]
use super::linux::{
    backups::BackupSet, escl, mqtt_json, nut, programs::Program, redfish, scrapes, settings, snmp, statsd,
};
use super::named_processes;

/// Sensors that can leave devices out.
const WITH_DEVICES: [&str; 9] =
    ["arp", "diskstats", "ethtool", "filesystem", "hwmon", "netclass", "netdev", "powersupplyclass", "tapestats"];
/// Programs and exporters have a thread each.
#[cfg(target_os = "linux")]
const MAX_THREADS: usize = 32;
#[cfg(target_os = "linux")]
const PROGRAM_INTERVAL: Duration = Duration::from_mins(1);
#[cfg(target_os = "linux")]
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(20);
#[cfg(target_os = "linux")]
const PROGRAM_MEMORY_BYTES: u64 = 512 << 20;

/// What single sensors look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Directories of the `textfile` sensor.
    pub textfile_directories: Vec<PathBuf>,
    /// Patterns of the `certificates` sensor's files.
    pub certificates: Vec<String>,
    /// Which processes the `named_processes` sensor looks for.
    pub named_processes: named_processes::Groups,
    /// What the `services` sensor tells of beside the services that start with the machine.
    #[cfg(windows)]
    pub services: Globs,
    /// What the `backups` sensor looks for.
    #[cfg(target_os = "linux")]
    pub backups: Vec<BackupSet>,
    /// What the `programs` sensor runs.
    #[cfg(target_os = "linux")]
    pub programs: Vec<Program>,
    /// What the `scrapes` sensor asks.
    #[cfg(target_os = "linux")]
    pub scrapes: Vec<scrapes::Target>,
    /// What sensors of this platform alone look at.
    #[cfg(target_os = "linux")]
    pub host: settings::HostOptions,
    /// What the `escl` sensor asks.
    #[cfg(target_os = "linux")]
    pub escl: escl::settings::Settings,
    /// What the `mqtt_json` sensor listens to.
    #[cfg(target_os = "linux")]
    pub mqtt_json: Vec<mqtt_json::Broker>,
    /// What the `nut` sensor asks.
    #[cfg(target_os = "linux")]
    pub nut: Vec<nut::Server>,
    /// What the `redfish` sensor asks.
    #[cfg(target_os = "linux")]
    pub redfish: Vec<redfish::settings::Target>,
    /// Where the `statsd` sensor listens.
    #[cfg(target_os = "linux")]
    pub statsd: statsd::Settings,
    /// What the `snmp` sensor asks.
    #[cfg(target_os = "linux")]
    pub snmp: snmp::settings::Settings,
}

/// Reads the keys that only the sensor `name` has; gives what it leaves out, and the keys.
pub(crate) fn read(
    name: &str,
    section: &mut Section<'_>,
    problems: &mut Problems,
    options: &mut Options,
) -> (Option<Globs>, &'static [&'static str]) {
    match name {
        "textfile" => {
            let directories = section.list("directories", problems);
            options.textfile_directories = texts(directories, problems, absolute).unwrap_or_default();
            (None, &["directories"])
        }
        "certificates" => {
            let files = section.list("files", problems);
            options.certificates = texts(files, problems, absolute_pattern).unwrap_or_default();
            (None, &["files"])
        }
        "named_processes" => {
            options.named_processes = named_processes::read(section, problems);
            (None, named_processes::KEYS)
        }
        #[cfg(windows)]
        "services" => {
            let include = texts(section.list("include", problems), problems, pattern);
            options.services = Globs::new(include.unwrap_or_default());
            (None, &["include"])
        }
        #[cfg(target_os = "linux")]
        "backups" => {
            let sets = section.list("sets", problems);
            options.backups = sets.iter().filter_map(|node| backup(node, problems)).collect();
            unique(sets, options.backups.iter().map(|set| &set.name), problems);
            options.host.repositories = settings::repositories(section, problems);
            (None, &["sets", "repositories"])
        }
        #[cfg(target_os = "linux")]
        "programs" => {
            let programs = section.list("run", problems);
            options.programs = programs.iter().filter_map(|node| program(node, problems)).collect();
            unique(programs, options.programs.iter().map(|program| &program.name), problems);
            few(programs, options.programs.len(), problems);
            (None, &["run"])
        }
        #[cfg(target_os = "linux")]
        "scrapes" => {
            options.scrapes = scrapes::settings::read(section, problems);
            (None, scrapes::settings::KEYS)
        }
        #[cfg(target_os = "linux")]
        "escl" => {
            options.escl = escl::settings::read(section, problems);
            (None, escl::settings::KEYS)
        }
        #[cfg(target_os = "linux")]
        "mqtt_json" => {
            options.mqtt_json = mqtt_json::read(section, problems);
            (None, mqtt_json::KEYS)
        }
        #[cfg(target_os = "linux")]
        "nut" => {
            options.nut = nut::read(section, problems);
            (None, nut::KEYS)
        }
        #[cfg(target_os = "linux")]
        "redfish" => {
            options.redfish = redfish::settings::read(section, problems);
            (None, redfish::settings::KEYS)
        }
        #[cfg(target_os = "linux")]
        "statsd" => {
            options.statsd = statsd::read(section, problems);
            (None, statsd::KEYS)
        }
        #[cfg(target_os = "linux")]
        "snmp" => {
            options.snmp = snmp::settings::read(section, problems);
            (None, snmp::settings::KEYS)
        }
        name if WITH_DEVICES.contains(&name) => {
            let patterns = texts(section.list("ignore", problems), problems, pattern);
            (patterns.filter(|patterns| !patterns.is_empty()).map(Globs::new), &["ignore"])
        }
        #[cfg(target_os = "linux")]
        name => (None, settings::read(name, section, problems, &mut options.host)),
        #[cfg(not(target_os = "linux"))]
        _ => (None, &[]),
    }
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(name: &str, ignored: Option<&Globs>, options: &Options) -> String {
    match name {
        "textfile" => {
            let directories = options.textfile_directories.iter().map(|path| quoted(&path.to_string_lossy()));
            format!(", directories: {}", list(directories))
        }
        "certificates" => format!(", files: {}", list(options.certificates.iter().map(|file| quoted(file)))),
        "named_processes" => named_processes::write(&options.named_processes),
        #[cfg(windows)]
        "services" => {
            format!(", include: {}", list(options.services.patterns().iter().map(|pattern| quoted(pattern))))
        }
        #[cfg(target_os = "linux")]
        "backups" => {
            let set = |set: &BackupSet| format!("{{name: {}, files: {}}}", quoted(&set.name), quoted(&set.files));
            let repositories = settings::write_repositories(&options.host);
            format!(", sets: {}{repositories}", list(options.backups.iter().map(set)))
        }
        #[cfg(target_os = "linux")]
        "programs" => {
            let program = |program: &Program| {
                let command = list(program.command.iter().map(|word| quoted(word)));
                let (interval, timeout) = (format_duration(program.interval), format_duration(program.timeout));
                let name = quoted(&program.name);
                let (memory, kept) = (format_bytes(program.memory_bytes), program.keeps_capabilities);
                format!(
                    "{{name: {name}, command: {command}, interval: {interval}, timeout: {timeout}, memory: {memory}, keep_capabilities: {kept}}}"
                )
            };
            format!(", run: {}", list(options.programs.iter().map(program)))
        }
        #[cfg(target_os = "linux")]
        "scrapes" => scrapes::settings::write(&options.scrapes),
        #[cfg(target_os = "linux")]
        "escl" => escl::settings::write(&options.escl),
        #[cfg(target_os = "linux")]
        "mqtt_json" => mqtt_json::write(&options.mqtt_json),
        #[cfg(target_os = "linux")]
        "nut" => nut::write(&options.nut),
        #[cfg(target_os = "linux")]
        "redfish" => redfish::settings::write(&options.redfish),
        #[cfg(target_os = "linux")]
        "statsd" => statsd::write(&options.statsd),
        #[cfg(target_os = "linux")]
        "snmp" => snmp::settings::write(&options.snmp),
        name if WITH_DEVICES.contains(&name) => {
            let patterns = ignored.map(Globs::patterns).unwrap_or_default();
            format!(", ignore: {}", list(patterns.iter().map(|pattern| quoted(pattern))))
        }
        #[cfg(target_os = "linux")]
        name => settings::write(name, &options.host),
        #[cfg(not(target_os = "linux"))]
        _ => String::new(),
    }
}

/// In double quotes, as JSON has it, which YAML reads.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(crate) fn list(texts: impl Iterator<Item = String>) -> String {
    format!("[{}]", texts.collect::<Vec<_>>().join(", "))
}

#[cfg(target_os = "linux")]
fn backup(node: &Node, problems: &mut Problems) -> Option<BackupSet> {
    let mut section = node.section(problems);
    let name = required(&mut section, "name", problems, label_value);
    let files = required(&mut section, "files", problems, absolute_pattern);
    section.finish(&["name", "files"], problems);
    Some(BackupSet { name: name?, files: files? })
}

#[cfg(target_os = "linux")]
fn program(node: &Node, problems: &mut Problems) -> Option<Program> {
    let mut section = node.section(problems);
    let name = required(&mut section, "name", problems, label_value);
    let command = section.require("command", problems);
    let command = command.and_then(|command| {
        let words = texts(command.list(problems), problems, |word| Ok(word.to_owned()))?;
        let is_absolute = words.first().is_some_and(|program| PathBuf::from(program).is_absolute());
        let checked = if is_absolute {
            Ok(words)
        } else {
            Err("has no absolute path; write for example [/usr/local/bin/x, --metrics]")
        };
        problems.check(command.line, &command.key, checked)
    });
    let interval = section.value("interval", problems, span).unwrap_or(PROGRAM_INTERVAL);
    let timeout = section.value("timeout", problems, span).unwrap_or(PROGRAM_TIMEOUT.min(interval));
    let memory_bytes = section.value("memory", problems, parse_bytes).unwrap_or(PROGRAM_MEMORY_BYTES);
    let keeps_capabilities = section.value("keep_capabilities", problems, parse_bool).unwrap_or(false);
    section.finish(&["name", "command", "interval", "timeout", "memory", "keep_capabilities"], problems);
    Some(Program { name: name?, command: command?, interval, timeout, memory_bytes, keeps_capabilities })
}

/// `username` and `password_file`, which stand together or not at all.
#[cfg(target_os = "linux")]
pub(crate) fn login(section: &mut Section<'_>, problems: &mut Problems) -> Option<(String, PathBuf)> {
    let username = section.value("username", problems, label_value);
    let password = section.value("password_file", problems, absolute);
    if username.is_some() != password.is_some() {
        let (key, other) =
            if username.is_some() { ("password_file", "username") } else { ("username", "password_file") };
        problems.note(section.line(), section.path(key), format_args!("is missing beside {other}"));
    }
    username.zip(password)
}

/// The labels below `labels`.
#[cfg(target_os = "linux")]
pub(crate) fn labels(section: &mut Section<'_>, problems: &mut Problems) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    if let Some(mut section) = section.section("labels", problems) {
        for (name, node) in section.take_all() {
            let value = node.text(problems).map(str::to_owned);
            let checked = problems.check(node.line, &node.key, label_name(name));
            labels.extend(checked.zip(value));
        }
    }
    labels
}

/// What [`labels`] reads.
#[cfg(target_os = "linux")]
pub(crate) fn write_labels(labels: &[(String, String)]) -> String {
    let labels = labels.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value)));
    format!("{{{}}}", labels.collect::<Vec<_>>().join(", "))
}

#[cfg(target_os = "linux")]
pub(super) fn metric_name(text: &str) -> Result<String, String> {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(is_in_name) {
        return Err(format!("`{text}` is no metric's name; write letters, digits and `_`"));
    }
    if text.starts_with("veghe_") || text == "up" {
        return Err(format!("`{text}` is a metric of the agent itself; choose another name"));
    }
    Ok(text.to_owned())
}

/// Notes items of which another has the name.
#[cfg(target_os = "linux")]
pub(crate) fn unique<'a>(nodes: &[Node], names: impl Iterator<Item = &'a String>, problems: &mut Problems) {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if let (false, Some(node)) = (seen.insert(name), nodes.first()) {
            problems.note(node.line, &*node.key, format_args!("the name `{name}` is there twice; give each its own"));
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn few(nodes: &[Node], count: usize, problems: &mut Problems) {
    if let (true, Some(node)) = (count > MAX_THREADS, nodes.first()) {
        problems.note(node.line, &*node.key, format_args!("are {count}; at most {MAX_THREADS} can be"));
    }
}

#[cfg(target_os = "linux")]
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

/// Each item of a list as `parse` reads it; `None` where one of them is wrong, which is then a problem.
pub(crate) fn texts<T>(
    nodes: &[Node],
    problems: &mut Problems,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let mut items = Vec::new();
    for node in nodes {
        let item = node.text(problems).map(&parse);
        items.push(item.and_then(|item| problems.check(node.line, &node.key, item)));
    }
    items.into_iter().collect()
}

pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("`{text}` is no absolute path; write for example `/var/lib/x`"))
    }
}

pub(crate) fn absolute_pattern(text: &str) -> Result<String, String> {
    absolute(text).map(|_| text.to_owned())
}

pub(crate) fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; write a name, where `*` stands for any text, for example `veth*`".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(target_os = "linux")]
pub(crate) fn label_value(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty; write a name".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(target_os = "linux")]
pub(super) fn label_name(text: &str) -> Result<String, String> {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(is_in_name) {
        return Err(format!("`{text}` is no label's name; write letters, digits and `_`"));
    }
    if matches!(text, "__name__" | "instance" | "job") {
        return Err(format!("`{text}` is set otherwise; choose another label"));
    }
    Ok(text.to_owned())
}

#[cfg(target_os = "linux")]
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
    match port {
        Some(1..) if !text.contains(['/', ' ']) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no host with a port; write for example `127.0.0.1:9187`")),
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text)?;
    let (least, most) = (Duration::from_millis(10), Duration::from_hours(24));
    if (least..=most).contains(&span) {
        Ok(span)
    } else {
        Err(format!("`{text}` is outside {} to {}", format_duration(least), format_duration(most)))
    }
}
