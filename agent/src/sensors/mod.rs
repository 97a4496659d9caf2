//! Sensors: each reads one source and puts what it finds, under `node_exporter`'s names, into a [`Sink`].
//!
//! Invariants: a sensor never panics on what it reads; an error names file and line; names and labels are those that
//! `node_exporter` 1.5 gives by default for the same source. What sensors deliberately do not do: schedule themselves
//! (see [`crate::schedule`]), keep history, talk to the network (but for those that ask devices and exporters
//! which settings name).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use self::glob::Globs;
#[cfg(target_os = "linux")]
use self::linux::ENTRIES;
use self::options::Options;
#[cfg(not(any(target_os = "linux", windows)))]
use self::portable::ENTRIES;
#[cfg(windows)]
use self::windows::ENTRIES;
use crate::clock;
pub use crate::reading::Sink;
use crate::schedule::Override;

pub(crate) mod agent;
#[cfg(any(target_os = "linux", windows))]
pub(crate) mod asked;
pub mod glob;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod named_processes;
pub mod options;
pub mod portable;
#[cfg(any(target_os = "linux", windows))]
mod slowly;
#[cfg(windows)]
mod windows;

/// One source of measurements. It runs on a worker's thread (see [`crate::schedule`]) and may block there.
pub trait Sensor: Send {
    /// A short lower-case name, for example `meminfo`; the `sensor` label of its `veghe_sensor_*` series.
    fn name(&self) -> &'static str;

    /// Puts one round of values into `sink`, always in the same order.
    ///
    /// # Errors
    /// See [`SensorError`]; what was put before the error counts.
    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError>;

    /// Whether it has a source to read; one without says nothing, and nothing is said about it.
    fn is_present(&self) -> bool {
        true
    }
}

/// Why a sensor has no (complete) values.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The source can't be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The source says something that no known kernel says.
    #[error("cannot parse {} line {line}: expected {expected}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// The platform does not tell.
    #[error("cannot ask the system")]
    Platform(#[from] sysinfo::Error),
    /// The system refuses to tell.
    #[error("cannot ask the system by {call}")]
    Ask {
        /// Which system call.
        call: &'static str,
        /// What it says.
        source: io::Error,
    },
    /// The sensor has a fault of its own.
    #[error("sensor panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
}

/// Where sensors find the system: the real one, a host's seen from a container, or a captured tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Mount point of procfs, `/proc`.
    pub proc: PathBuf,
    /// Mount point of sysfs, `/sys`.
    pub sys: PathBuf,
    /// udev's database, `/run/udev/data`.
    pub udev: PathBuf,
    /// Where the host's root file system is seen; mount points are reported relative to it. `/`.
    pub rootfs: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), udev: "/run/udev/data".into(), rootfs: "/".into() }
    }
}

/// What sensors need to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SensorSettings {
    /// Where the system is.
    pub roots: Roots,
    /// Names of sensors that must not run.
    pub disabled: BTreeSet<String>,
    /// Names of sensors that run although they do not by default.
    pub enabled: BTreeSet<String>,
    /// By sensor, which devices (of `filesystem`, mount points) it leaves out, beside those that it always does.
    pub ignored: BTreeMap<String, Globs>,
    /// What single sensors look at.
    pub options: Options,
    /// Where sensors keep what outlives the agent; `None` where there is nothing to keep it for.
    pub state_dir: Option<PathBuf>,
    /// How long a sensor may wait for what takes its time: nothing where more rounds follow.
    pub patience: Duration,
}

impl SensorSettings {
    /// What the sensor `name` leaves out.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no sensor of other platforms needs it yet"))]
    pub(crate) fn ignored(&self, name: &str) -> Globs {
        self.ignored.get(name).cloned().unwrap_or_default()
    }
}

/// Whether a sensor can run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Availability {
    /// The sensor's name.
    pub sensor: &'static str,
    /// What it reads, for a person, for example `/proc/meminfo`.
    pub source: String,
    /// `None` if it runs; otherwise why not, for a person.
    pub obstacle: Option<String>,
    /// What it lacks while it runs, and which capability would give it, for a person.
    pub missing: Option<String>,
}

/// A sensor before it is made: when it runs, and how it is made.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    habit: Habit,
    sources: fn(&SensorSettings) -> Vec<PathBuf>,
    obstacle: fn(&SensorSettings) -> Option<String>,
    missing: fn(&SensorSettings) -> Option<String>,
    pace: Option<Pace>,
    make: fn(&SensorSettings) -> Box<dyn Sensor>,
}

/// How often a sensor runs, and how long it may take, where settings do not tell.
#[derive(Clone, Copy)]
struct Pace {
    interval: Duration,
    deadline: Duration,
}

/// What a sensor does that no setting names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    Runs,
    Rests,
}

impl Entry {
    /// A sensor that runs by default where all `sources` can be read.
    pub(crate) const fn new(
        name: &'static str,
        sources: fn(&SensorSettings) -> Vec<PathBuf>,
        make: fn(&SensorSettings) -> Box<dyn Sensor>,
    ) -> Self {
        Self { name, habit: Habit::Runs, sources, obstacle: |_| None, missing: |_| None, pace: None, make }
    }

    /// The same, but it runs only where it is enabled.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no sensor of other platforms needs it yet"))]
    pub(crate) const fn on_request(self) -> Self {
        Self { habit: Habit::Rests, ..self }
    }

    /// The same, but it does not run where there is such an obstacle.
    pub(crate) const fn unless(self, obstacle: fn(&SensorSettings) -> Option<String>) -> Self {
        Self { obstacle, ..self }
    }

    /// The same, but a part of it may be missing.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no sensor of other platforms needs it yet"))]
    pub(crate) const fn needing(self, missing: fn(&SensorSettings) -> Option<String>) -> Self {
        Self { missing, ..self }
    }

    /// The same, but at a pace of its own.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no sensor of other platforms needs it yet"))]
    pub(crate) const fn every(self, interval: Duration, deadline: Duration) -> Self {
        Self { pace: Some(Pace { interval, deadline }), ..self }
    }

    /// Why it must not run, for a person; no source changes that.
    fn refusal(&self, settings: &SensorSettings) -> Option<String> {
        if settings.disabled.contains(self.name) {
            return Some("disabled by the configuration".to_owned());
        }
        if self.habit == Habit::Rests && !settings.enabled.contains(self.name) {
            return Some(format!("off by default; set sensors.{}.enabled: true", self.name));
        }
        None
    }

    /// Why it does not run, for a person.
    fn obstacle(&self, settings: &SensorSettings) -> Option<String> {
        self.refusal(settings).or_else(|| (self.obstacle)(settings)).or_else(|| {
            let unreadable =
                |path: &PathBuf| probe(path).err().map(|error| format!("cannot read {}: {error}", path.display()));
            (self.sources)(settings).iter().find_map(unreadable)
        })
    }
}

/// The plain files whose path matches `pattern`, at most `max` of them.
#[cfg(target_os = "linux")]
pub(crate) fn found_files(pattern: &str, max: usize) -> Vec<PathBuf> {
    linux::found::files(pattern, max)
}

/// Names of all sensors that settings may name, `agent` (which always runs) not among them.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.name)
}

/// Whether the sensor `name` runs by default.
pub fn runs_by_default(name: &str) -> bool {
    ENTRIES.iter().any(|entry| entry.name == name && entry.habit == Habit::Runs)
}

/// The sensors that have a pace of their own.
pub(crate) fn paces() -> BTreeMap<String, Override> {
    let pace = |pace: Pace| Override { interval: Some(pace.interval), deadline: Some(pace.deadline) };
    ENTRIES.iter().filter_map(|entry| Some((entry.name.to_owned(), pace(entry.pace?)))).collect()
}

/// The sensors that run: each that is enabled and whose source exists. The `agent` sensor is not among them: the
/// schedule brings its own.
pub fn all(settings: &SensorSettings) -> Vec<Box<dyn Sensor>> {
    let found = ENTRIES.iter().zip(obstacles(settings)).filter(|(_, obstacle)| obstacle.is_none());
    found.map(|(entry, _)| (entry.make)(settings)).collect()
}

/// As [`all`], and besides those whose source may appear later: a disk array, a bus, a file. Each looks for its source once
/// a minute.
pub fn all_in_time(settings: &SensorSettings) -> Vec<Box<dyn Sensor>> {
    let shared = Arc::new(settings.clone());
    let wanted = ENTRIES.iter().zip(obstacles(settings)).filter(|(entry, _)| entry.refusal(settings).is_none());
    let sensor = |(entry, obstacle): (&Entry, Option<String>)| -> Box<dyn Sensor> {
        if obstacle.is_none() {
            return (entry.make)(settings);
        }
        let settings = Arc::clone(&shared);
        Box::new(Awaited { entry: *entry, settings, looked: clock::instant(), sensor: None })
    };
    wanted.map(sensor).collect()
}

/// What every entry lacks, in their order. A source that does not answer (a file system that hangs) is no obstacle: its
/// sensor hangs on a worker of its own and is told to be late.
fn obstacles(settings: &SensorSettings) -> Vec<Option<String>> {
    in_time(settings, Entry::obstacle)
}

/// What `look` says of every entry, in their order; `None` where it takes too long.
fn in_time(settings: &SensorSettings, look: fn(&Entry, &SensorSettings) -> Option<String>) -> Vec<Option<String>> {
    let mut found = Vec::with_capacity(ENTRIES.len());
    while let Some(rest) = ENTRIES.get(found.len()..).filter(|rest| !rest.is_empty()) {
        let (tell, told) = sync_channel(rest.len());
        let own = settings.clone();
        let all = move || rest.iter().map(|entry| look(entry, &own)).try_for_each(|found| tell.send(found).ok());
        if let Err(error) = thread::Builder::new().name("sources".into()).spawn(all) {
            tracing::error!(%error, "cannot start a thread that looks for sensors' sources");
            found.extend(rest.iter().map(|entry| look(entry, settings)));
            break;
        }
        while found.len() < ENTRIES.len() {
            if let Ok(one) = told.recv_timeout(LOOK_PATIENCE) {
                found.push(one);
            } else {
                found.push(None);
                // The others get another thread.
                break;
            }
        }
    }
    found
}

/// A sensor whose source is not there yet.
struct Awaited {
    entry: Entry,
    settings: Arc<SensorSettings>,
    looked: Instant,
    sensor: Option<Box<dyn Sensor>>,
}

/// From one look for a source to the next.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);
/// How long one look may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

impl Sensor for Awaited {
    fn name(&self) -> &'static str {
        self.entry.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        if self.sensor.is_none() && self.looked.elapsed() >= LOOK_INTERVAL {
            self.looked = clock::instant();
            if self.entry.obstacle(&self.settings).is_none() {
                tracing::info!(sensor = self.entry.name, "the sensor's source has appeared");
                self.sensor = Some((self.entry.make)(&self.settings));
            }
        }
        self.sensor.as_mut().map_or(Ok(()), |sensor| sensor.read(sink))
    }

    fn is_present(&self) -> bool {
        self.sensor.is_some()
    }
}

/// What can run here, and why not.
pub fn survey(settings: &SensorSettings) -> Vec<Availability> {
    let missing = in_time(settings, |entry, settings| (entry.missing)(settings));
    let look = |((entry, obstacle), missing): ((&Entry, Option<String>), Option<String>)| {
        let sources = (entry.sources)(settings);
        let source = sources.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let missing = missing.filter(|_| obstacle.is_none());
        Availability { sensor: entry.name, source, obstacle, missing }
    };
    ENTRIES.iter().zip(obstacles(settings)).zip(missing).map(look).collect()
}

/// Whether `path` can be read. Pressure files exist, for example, but can't be read where the kernel's option is off.
fn probe(path: &Path) -> io::Result<()> {
    // Whatever is no file might hang, and only a worker may.
    if path.metadata()?.is_file() {
        File::open(path)?.read_exact(&mut [0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Found;

    impl Sensor for Found {
        fn name(&self) -> &'static str {
            "found"
        }

        fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
            sink.put("found", &[], 1.0);
            Ok(())
        }
    }

    #[test]
    fn a_source_that_appears_later_is_read_from_then_on_and_not_spoken_of_before() {
        let root = tempfile::tempdir().expect("directory");
        let entry = Entry::new("found", |settings| vec![settings.roots.proc.join("x")], |_| Box::new(Found));
        let roots = Roots { proc: root.path().to_owned(), ..Roots::default() };
        let settings = Arc::new(SensorSettings { roots, ..SensorSettings::default() });
        let mut awaited = Awaited { entry, settings, looked: clock::instant(), sensor: None };
        let mut sink = Sink::default();
        let long_ago = clock::instant().checked_sub(LOOK_INTERVAL).expect("up for a minute");
        let mut round = |awaited: &mut Awaited| {
            awaited.read(&mut sink).expect("never fails");
            (awaited.is_present(), sink.take().1.len())
        };
        awaited.looked = long_ago;
        assert_eq!(round(&mut awaited), (false, 0));
        std::fs::write(root.path().join("x"), "x").expect("write");
        assert_eq!(round(&mut awaited), (false, 0), "not every round looks");
        awaited.looked = long_ago;
        assert_eq!(round(&mut awaited), (true, 1));
    }
}
