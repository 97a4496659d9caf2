//! Processes by name, in groups that settings name: whether capture or text recognition software runs, since when, and how
//! much memory it has. Names are `process-exporter`'s.

use std::collections::BTreeMap;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use veghe_wire::document::{Problems, Section};

use super::glob::Globs;
use super::options::{list, pattern, quoted, texts};
use super::{Entry, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "named_processes",
    |_| Vec::new(),
    |settings| Box::new(NamedProcesses { groups: settings.options.named_processes.clone(), system: None }),
)
.unless(|settings| {
    let has_none = settings.options.named_processes.is_empty();
    has_none.then(|| "no groups are set; set sensors.named_processes.groups".to_owned())
});

pub(crate) const KEYS: &[&str] = &["groups"];

/// Patterns of process names by the group's name.
pub type Groups = BTreeMap<String, Globs>;

/// Reads `groups`.
pub(crate) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Groups {
    let mut groups = Groups::new();
    if let Some(mut section) = section.section("groups", problems) {
        for (name, node) in section.take_all() {
            let patterns = texts(node.list(problems), problems, |text| pattern(text).map(|text| text.to_lowercase()));
            match patterns {
                Some(patterns) if patterns.is_empty() => {
                    problems.note(node.line, &*node.key, "has no names; write for example [CaptureOne*]");
                }
                patterns => groups.extend(patterns.map(|patterns| (name.to_owned(), Globs::new(patterns)))),
            }
        }
    }
    groups
}

/// What [`read`] reads, as a document has it.
pub(crate) fn write(groups: &Groups) -> String {
    let group = |(name, globs): (&String, &Globs)| {
        format!("{}: {}", quoted(name), list(globs.patterns().iter().map(|pattern| quoted(pattern))))
    };
    format!(", groups: {{{}}}", groups.iter().map(group).collect::<Vec<_>>().join(", "))
}

/// `namedprocess_namegroup_num_procs`, and of groups with processes `_memory_bytes` and `_oldest_start_time_seconds`.
struct NamedProcesses {
    groups: Groups,
    system: Option<System>,
}

#[derive(Default)]
struct Found {
    count: u64,
    resident_bytes: u64,
    /// Seconds since the Unix epoch.
    oldest_start: Option<u64>,
}

impl Sensor for NamedProcesses {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    #[expect(clippy::iter_over_hash_type, reason = "a sum and the least of some are the same in any order")]
    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let system = match &mut self.system {
            Some(system) => system,
            None => self.system.insert(System::new()?),
        };
        let kinds = ProcessRefreshKind::nothing().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, kinds);
        let mut found: Vec<Found> = self.groups.iter().map(|_| Found::default()).collect();
        for process in system.processes().values() {
            let name = process.name().to_string_lossy().to_lowercase();
            let stem = name.strip_suffix(".exe").unwrap_or(&name);
            let is_in = |globs: &Globs| globs.matches(stem) || globs.matches(&name);
            // As process-exporter does: the first group that fits has it.
            let position = self.groups.values().position(is_in);
            if let Some(group) = position.and_then(|position| found.get_mut(position)) {
                group.count += 1;
                group.resident_bytes += process.memory();
                let start = process.start_time();
                group.oldest_start = Some(group.oldest_start.map_or(start, |oldest| oldest.min(start)));
            }
        }
        for (name, group) in self.groups.keys().zip(found) {
            let label = [("groupname", name.as_str())];
            sink.put("namedprocess_namegroup_num_procs", &label, group.count as f64);
            if let Some(start) = group.oldest_start {
                let labels = [("groupname", name.as_str()), ("memtype", "resident")];
                sink.put("namedprocess_namegroup_memory_bytes", &labels, group.resident_bytes as f64);
                sink.put("namedprocess_namegroup_oldest_start_time_seconds", &label, start as f64);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::clock;

    #[test]
    fn processes_are_told_by_group_and_a_group_without_any_is_zero() {
        // A name that nobody else's process has. Another process copies the program, or a test beside this one that starts
        // something would have it open for writing.
        let directory = tempfile::tempdir().expect("directory");
        let name = format!("cap{}", std::process::id());
        let program = directory.path().join(&name);
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().expect("cp").success());
        let mut child = Command::new(&program).arg("600").stdin(Stdio::null()).spawn().expect("sleep");
        let globs = |pattern: &str| Globs::new(vec![pattern.to_owned()]);
        let groups = [("capture", globs(&name.replace("cap", "c?p*"))), ("none", globs("no-such-capture"))];
        let groups = groups.map(|(name, globs)| (name.to_owned(), globs)).into();
        let mut sensor = NamedProcesses { groups, system: None };
        let mut sink = Sink::default();
        let mut told = || {
            sensor.read(&mut sink).expect("sysinfo");
            let (series, values) = sink.take();
            let value = |metric: &str, group: &str| {
                let is_it = |name: &crate::reading::SeriesName| {
                    name.metric() == metric && name.labels().iter().any(|(_, value)| **value == *group)
                };
                series.0.iter().position(is_it).map(|position| values[position])
            };
            let of = |metric: &str| {
                ["capture", "none"].map(|group| value(&format!("namedprocess_namegroup_{metric}"), group))
            };
            (of("num_procs"), of("memory_bytes"), of("oldest_start_time_seconds"))
        };
        let ([capture, none], [memory, no_memory], [start, no_start]) = told();
        assert_eq!((capture, none, no_memory, no_start), (Some(1.0), Some(0.0), None, None));
        assert!(memory > Some(0.0) && start <= Some(clock::since_epoch().as_secs_f64()), "{memory:?} {start:?}");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(told().0[0], Some(0.0));
    }

    #[test]
    fn settings_are_read_written_and_their_problems_told() {
        let parse = |text: &str| {
            let mut problems = Problems::new("agent.yaml");
            let node = veghe_wire::document::Node::parse(text, &mut problems).expect("YAML");
            let groups = read(&mut node.section(&mut problems), &mut problems);
            (groups, problems.finish(Some(())).err().map(|problems| problems.to_string()).unwrap_or_default())
        };
        let (groups, problems) = parse("groups: {capture: [CaptureOne*, bookdrive], ocr: [FineReader?]}");
        assert_eq!((groups.len(), problems.as_str()), (2, ""));
        assert_eq!(parse(write(&groups).trim_start_matches(", ")).0, groups);
        let (_, problems) = parse("groups: {a: [], b: [\"\"], c: x}");
        for expected in ["groups.a: has no names", "groups.b[0]: is empty", "groups.c: is a value, needs a list"] {
            assert!(problems.contains(expected), "{problems}");
        }
    }
}
