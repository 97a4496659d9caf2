//! Log lines that match rules, counted; what they say is never told.
//!
//! A file is read from its end at the start, and from its begin when it appears later, is replaced (rotation) or becomes
//! shorter (truncation); of a file that is replaced, the rest is read first. The journal is read from a `journalctl` that
//! follows it. Invariants: a round takes a bounded part of each log and counts what it skips; a pattern takes time linear in
//! the line; what is beyond 64 KiB of a line is not looked at.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regex::bytes::{Regex, RegexBuilder};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Entry, Sensor, SensorError, SensorSettings, Sink, unreadable};
use crate::clock;

pub(crate) const ENTRY: Entry =
    Entry::new("logs", |_| Vec::new(), |settings| Box::new(Logs::new(&settings.options.host.logs)))
        .unless(|settings| {
            settings.options.host.logs.is_empty().then(|| "no logs are set; set sensors.logs.watch".to_owned())
        })
        .needing(missing)
        .on_request();

const MAX_LINE_BYTES: usize = 64 << 10;
/// Of each log in each round.
const MAX_ROUND_BYTES: u64 = 4 << 20;
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// From the end of a `journalctl` to the next one.
const RESTART_INTERVAL: Duration = Duration::from_mins(1);

/// One log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The value of the label `log`.
    pub name: String,
    /// Where its lines are.
    pub source: LogSource,
    /// Names and patterns.
    pub rules: Vec<(String, String)>,
}

/// Where lines are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// A file that others append to.
    File(PathBuf),
    /// The systemd journal, or what one unit writes there.
    Journal {
        /// For example `ssh.service`; empty for all.
        unit: String,
        /// `journalctl`.
        program: PathBuf,
    },
}

/// A pattern of a rule.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES).build();
    regex
        .map_err(|error| format!("`{pattern}` is no pattern: {}", error.to_string().lines().last().unwrap_or_default()))
}

/// Without it a file is not read, and `journalctl` tells of the agent's own lines alone, and says nothing of it.
fn missing(settings: &SensorSettings) -> Option<String> {
    settings
        .options
        .host
        .logs
        .iter()
        .find_map(|log| match &log.source {
            LogSource::File(path) => unreadable(path).then(|| (path.clone(), "adm")),
            LogSource::Journal { .. } => {
                system_journal(settings).filter(|path| unreadable(path)).map(|path| (path, "systemd-journal"))
            }
        })
        .map(|(path, group)| format!("{}: group {group}, or CAP_DAC_READ_SEARCH", path.display()))
}

/// Where the system's own lines are, where there is a journal.
fn system_journal(settings: &SensorSettings) -> Option<PathBuf> {
    let files = |place: &str| {
        let pattern = settings.roots.rootfs.join(place).join("*/system.journal");
        super::found::files(&pattern.to_string_lossy(), 1).pop()
    };
    files("run/log/journal").or_else(|| files("var/log/journal"))
}

/// `veghe_log_*`.
pub(crate) struct Logs(Vec<Watched>);

struct Watched {
    name: String,
    input: Input,
    lines: Lines,
}

enum Input {
    File(Tail),
    Journal(Journal),
}

/// Counts, and the begin of a line whose end is not there yet.
struct Lines {
    rules: Vec<(String, Regex, u64)>,
    count: u64,
    skipped_bytes: u64,
    rest: Vec<u8>,
}

impl Logs {
    pub(crate) fn new(logs: &[Log]) -> Self {
        let watched = |log: &Log| Watched {
            name: log.name.clone(),
            input: match &log.source {
                LogSource::File(path) => Input::File(Tail::new(path)),
                LogSource::Journal { unit, program } => {
                    Input::Journal(Journal { unit: unit.clone(), program: program.clone(), child: None, began: None })
                }
            },
            lines: Lines {
                rules: log
                    .rules
                    .iter()
                    .filter_map(|(name, rule)| Some((name.clone(), compile(rule).ok()?, 0)))
                    .collect(),
                count: 0,
                skipped_bytes: 0,
                rest: Vec::new(),
            },
        };
        Self(logs.iter().map(watched).collect())
    }
}

impl Sensor for Logs {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let mut result = Ok(());
        for Watched { name, input, lines } in &mut self.0 {
            let read = match input {
                Input::File(tail) => tail.read(lines),
                Input::Journal(journal) => journal.read(lines),
            };
            if let Err(source) = read {
                let (Input::File(Tail { path, .. }) | Input::Journal(Journal { program: path, .. })) = input;
                result = Err(SensorError::Read { path: path.clone(), source });
            }
            sink.put("veghe_log_lines_total", &[("log", name)], lines.count as f64);
            sink.put("veghe_log_skipped_bytes_total", &[("log", name)], lines.skipped_bytes as f64);
            for (rule, _, matches) in &lines.rules {
                sink.put("veghe_log_matches_total", &[("log", name), ("rule", rule)], *matches as f64);
            }
        }
        result
    }
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, after) = bytes.split_at(end);
            if self.rest.is_empty() {
                count(&mut self.rules, line);
            } else {
                self.keep(line);
                count(&mut self.rules, &self.rest);
                self.rest.clear();
            }
            self.count += 1;
            bytes = after.get(1..).unwrap_or_default();
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.rest.len());
        self.rest.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
    }
}

fn count(rules: &mut [(String, Regex, u64)], line: &[u8]) {
    let line = line.get(..line.len().min(MAX_LINE_BYTES)).unwrap_or_default();
    for (_, regex, matches) in rules {
        *matches += u64::from(regex.is_match(line));
    }
}

/// A file that grows.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    /// Whether it was looked for before: what it has at the first look is not new.
    is_known: bool,
    buffer: Vec<u8>,
}

impl Tail {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, offset: 0, is_known: false, buffer: Vec::new() }
    }

    fn read(&mut self, lines: &mut Lines) -> io::Result<()> {
        let mut left = MAX_ROUND_BYTES;
        // The one that was replaced, and the one that is there now.
        for _ in 0..2 {
            if self.file.is_none() {
                match File::open(&self.path) {
                    Ok(file) => {
                        // A pipe would wait for ever.
                        if !file.metadata()?.is_file() {
                            return Err(io::Error::other("it is no plain file"));
                        }
                        self.offset = if self.is_known { 0 } else { file.metadata()?.len() };
                        self.file = Some(file);
                        lines.rest.clear();
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        self.is_known = true;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            self.is_known = true;
            let Some(file) = &mut self.file else { return Ok(()) };
            let length = file.metadata()?.len();
            if length < self.offset {
                self.offset = 0;
                lines.rest.clear();
            }
            let waiting = length - self.offset;
            if waiting > left {
                lines.skipped_bytes += waiting - left;
                self.offset = length - left;
                // The first line that is read then has lost its begin.
                lines.rest.clear();
            }
            file.seek(SeekFrom::Start(self.offset))?;
            loop {
                self.buffer.clear();
                let count = file.take(MAX_LINE_BYTES as u64).read_to_end(&mut self.buffer)? as u64;
                lines.take(&self.buffer);
                self.offset += count;
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    break;
                }
            }
            let here = file.metadata()?;
            let is_same = |now: &std::fs::Metadata| (now.dev(), now.ino()) == (here.dev(), here.ino());
            match std::fs::metadata(&self.path) {
                Ok(now) if is_same(&now) => return Ok(()),
                // Until the new one is there, the old one may still be written to.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                _ => self.file = None,
            }
        }
        Ok(())
    }
}

/// A `journalctl` that follows.
struct Journal {
    unit: String,
    program: PathBuf,
    child: Option<Child>,
    began: Option<Instant>,
}

impl Journal {
    fn read(&mut self, lines: &mut Lines) -> io::Result<()> {
        if self.child.is_none() && self.began.is_none_or(|began| began.elapsed() >= RESTART_INTERVAL) {
            self.began = Some(clock::instant());
            let mut command = Command::new(&self.program);
            command.args(["--follow", "--lines=0", "--output=cat", "--no-pager", "--quiet"]);
            if !self.unit.is_empty() {
                command.arg(format!("--unit={}", self.unit));
            }
            command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").process_group(0);
            let child = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            if let Some(stdout) = &child.stdout {
                rustix::io::ioctl_fionbio(stdout, true)?;
            }
            self.child = Some(child);
        }
        let Some(stdout) = self.child.as_mut().and_then(|child| child.stdout.as_mut()) else { return Ok(()) };
        let mut buffer = [0; 4096];
        let mut left = MAX_ROUND_BYTES;
        while left > 0 {
            match stdout.read(&mut buffer) {
                Ok(0) => {
                    self.end();
                    return Err(io::Error::other("it ended; it is started again after a minute"));
                }
                Ok(count) => {
                    lines.take(buffer.get(..count).unwrap_or_default());
                    left = left.saturating_sub(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // Fails when it has ended.
            kill_process_group(group, Signal::KILL).ok();
        }
        if let Err(error) = child.wait() {
            tracing::debug!(%error, "cannot wait for journalctl");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

    use super::super::script::write_program;
    use super::*;

    fn log(source: LogSource) -> Logs {
        let rules = [("errors", "(?i)error"), ("refused", "refused .* from [0-9.]+$")];
        let rules = rules.map(|(name, pattern)| (name.to_owned(), pattern.to_owned())).to_vec();
        Logs::new(&[Log { name: "test".to_owned(), source, rules }])
    }

    /// Lines, skipped bytes, and matches of both rules.
    fn round(logs: &mut Logs) -> Vec<f64> {
        let mut sink = Sink::default();
        logs.read(&mut sink).expect("readable");
        sink.take().1
    }

    fn append(path: &Path, text: &[u8]) {
        let mut file = File::options().append(true).create(true).open(path).expect("open");
        file.write_all(text).expect("write");
    }

    #[test]
    fn lines_are_counted_through_growth_rotation_and_truncation() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        append(&path, b"an old ERROR\n");
        let mut logs = log(LogSource::File(path.clone()));
        assert_eq!(round(&mut logs), [0.0, 0.0, 0.0, 0.0], "what was there before is not new");
        append(&path, b"refused root from 10.0.0.1\nsome err");
        assert_eq!(round(&mut logs), [1.0, 0.0, 0.0, 1.0]);
        append(&path, b"or\n\xff\n");
        assert_eq!(round(&mut logs), [3.0, 0.0, 1.0, 1.0], "a line in two parts is one");
        append(&path, b"last error before the rotation\n");
        fs::rename(&path, directory.path().join("log.1")).expect("rename");
        append(&path, b"first Error after it\n");
        assert_eq!(round(&mut logs), [5.0, 0.0, 3.0, 1.0]);
        fs::write(&path, "error\n").expect("truncate");
        assert_eq!(round(&mut logs), [6.0, 0.0, 4.0, 1.0]);
        fs::remove_file(&path).expect("remove");
        assert_eq!(round(&mut logs), [6.0, 0.0, 4.0, 1.0]);
        append(&path, b"error\n");
        assert_eq!(round(&mut logs), [7.0, 0.0, 5.0, 1.0], "one that is there again is new");
    }

    #[test]
    fn a_flood_is_skipped_and_counted_and_a_long_line_is_one_line() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        append(&path, b"");
        let mut logs = log(LogSource::File(path.clone()));
        round(&mut logs);
        let mut long = vec![b'x'; 3 * MAX_LINE_BYTES];
        long.extend_from_slice(b"error\n");
        append(&path, &long);
        assert_eq!(round(&mut logs), [1.0, 0.0, 0.0, 0.0]);
        let line = b"error line of 32 bytes, no less\n";
        append(&path, &line.repeat((MAX_ROUND_BYTES as usize / line.len()) + 100));
        let most = (MAX_ROUND_BYTES / 32) as f64;
        assert_eq!(round(&mut logs), [1.0 + most, 3200.0, most, 0.0]);
    }

    #[test]
    fn the_journal_is_followed() {
        let directory = tempfile::tempdir().expect("directory");
        let program = directory.path().join("journalctl");
        let script = "#!/bin/sh\necho \"error of $*\"\nexec sleep 600\n";
        write_program(&program, script);
        let mut logs = log(LogSource::Journal { unit: "ssh.service".to_owned(), program });
        // The bound only ends a test that has failed.
        let is_read = |_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            round(&mut logs) == [1.0, 0.0, 1.0, 0.0]
        };
        assert!((0..20_000).any(is_read), "the line never came");
    }

    #[test]
    fn a_journal_that_only_others_may_read_is_told() {
        let directory = tempfile::tempdir().expect("directory");
        let journal = directory.path().join("var/log/journal/0a1b/system.journal");
        fs::create_dir_all(journal.parent().expect("parent")).expect("directory");
        fs::write(&journal, "").expect("write");
        let source = LogSource::Journal { unit: String::new(), program: PathBuf::from("/usr/bin/journalctl") };
        let mut settings = SensorSettings::default();
        settings.roots.rootfs = directory.path().to_owned();
        settings.options.host.logs = vec![Log { name: "all".to_owned(), source, rules: Vec::new() }];
        // As whoever has no capabilities.
        let told = |mode: u32| {
            fs::set_permissions(&journal, fs::Permissions::from_mode(mode)).expect("mode");
            let settings = settings.clone();
            let look = move || {
                let none = CapabilitySet::empty();
                let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
                set_capabilities(None, sets).expect("less is always allowed");
                missing(&settings)
            };
            std::thread::spawn(look).join().expect("no panic")
        };
        let right = format!("{}: group systemd-journal, or CAP_DAC_READ_SEARCH", journal.display());
        assert_eq!((told(0), told(0o400)), (Some(right), None));
    }

    #[test]
    fn a_pattern_that_is_wrong_or_too_large_is_refused() {
        for pattern in ["(", "(?:a{1000}){1000}"] {
            assert!(compile(pattern).expect_err(pattern).contains("is no pattern"));
        }
    }
}
