//! Sensors: each reads one source and puts what it finds, under `node_exporter`'s names, into a [`Sink`].
//!
//! Invariants: a sensor never panics on what it reads; an error names file and line; names and labels are those that
//! `node_exporter` 1.5 gives by default for the same source. What sensors deliberately do not do: schedule themselves
//! (see [`crate::schedule`]), keep history, talk to the network (but for those that ask
//! devices and exporters which settings name).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::glob::Globs;
use self::options::Options;
pub use crate::reading::Sink;
use crate::schedule::Override;

pub(crate) mod agent;
#[cfg(target_os = "linux")]
mod arp;
#[cfg(target_os = "linux")]
mod asked;
#[cfg(target_os = "linux")]
pub mod backups;
#[cfg(target_os = "linux")]
mod bonding;
#[cfg(target_os = "linux")]
mod btrfs;
#[cfg(target_os = "linux")]
mod certificates;
#[cfg(target_os = "linux")]
mod class;
#[cfg(target_os = "linux")]
mod conntrack;
#[cfg(target_os = "linux")]
mod cpu;
#[cfg(target_os = "linux")]
mod cpufreq;
#[cfg(target_os = "linux")]
mod diskstats;
#[cfg(target_os = "linux")]
mod dmi;
#[cfg(target_os = "linux")]
mod edac;
#[cfg(target_os = "linux")]
mod entropy;
#[cfg(target_os = "linux")]
pub mod escl;
#[cfg(target_os = "linux")]
mod fibrechannel;
#[cfg(target_os = "linux")]
mod filefd;
#[cfg(target_os = "linux")]
mod filesystem;
#[cfg(target_os = "linux")]
mod found;
pub mod glob;
#[cfg(target_os = "linux")]
mod http;
#[cfg(target_os = "linux")]
mod hwmon;
#[cfg(target_os = "linux")]
mod infiniband;
#[cfg(target_os = "linux")]
mod ipvs;
#[cfg(target_os = "linux")]
mod loadavg;
#[cfg(target_os = "linux")]
mod mdadm;
#[cfg(target_os = "linux")]
mod meminfo;
#[cfg(target_os = "linux")]
pub mod mqtt_json;
#[cfg(target_os = "linux")]
mod netclass;
#[cfg(target_os = "linux")]
mod netdev;
#[cfg(target_os = "linux")]
mod netstat;
#[cfg(target_os = "linux")]
mod nfs;
#[cfg(target_os = "linux")]
mod nfs_lines;
#[cfg(target_os = "linux")]
mod nfsd;
#[cfg(target_os = "linux")]
pub mod nut;
#[cfg(target_os = "linux")]
mod nvme;
pub mod options;
#[cfg(target_os = "linux")]
mod os;
#[cfg(target_os = "linux")]
mod polled;
pub mod portable;
#[cfg(target_os = "linux")]
mod powersupply;
#[cfg(target_os = "linux")]
mod pressure;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
pub mod programs;
#[cfg(target_os = "linux")]
mod rapl;
#[cfg(target_os = "linux")]
mod schedstat;
#[cfg(target_os = "linux")]
pub mod scrapes;
#[cfg(target_os = "linux")]
mod selinux;
#[cfg(target_os = "linux")]
pub mod snmp;
#[cfg(target_os = "linux")]
mod sockstat;
#[cfg(target_os = "linux")]
mod softnet;
#[cfg(target_os = "linux")]
mod source;
#[cfg(target_os = "linux")]
mod stat;
#[cfg(target_os = "linux")]
pub mod statsd;
#[cfg(target_os = "linux")]
mod tapestats;
#[cfg(target_os = "linux")]
mod tcpstat;
#[cfg(target_os = "linux")]
mod text;
#[cfg(target_os = "linux")]
mod textfile;
#[cfg(target_os = "linux")]
mod thermal_zone;
#[cfg(target_os = "linux")]
mod time;
#[cfg(target_os = "linux")]
mod timex;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(target_os = "linux")]
mod udp_queues;
#[cfg(target_os = "linux")]
mod uname;
#[cfg(target_os = "linux")]
mod updates;
#[cfg(target_os = "linux")]
mod vmstat;
#[cfg(target_os = "linux")]
mod watchdog;
#[cfg(target_os = "linux")]
mod xfs;
#[cfg(target_os = "linux")]
mod zfs;

/// One source of measurements. It runs on a worker's thread (see [`crate::schedule`]) and may block there.
pub trait Sensor: Send {
    /// A short lower-case name, for example `meminfo`; the `sensor` label of its `veghe_sensor_*` series.
    fn name(&self) -> &'static str;

    /// Puts one round of values into `sink`, always in the same order.
    ///
    /// # Errors
    /// See [`SensorError`]; what was put before the error counts.
    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError>;
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
    pub(crate) const fn on_request(self) -> Self {
        Self { habit: Habit::Rests, ..self }
    }

    /// The same, but it does not run where there is such an obstacle.
    pub(crate) const fn unless(self, obstacle: fn(&SensorSettings) -> Option<String>) -> Self {
        Self { obstacle, ..self }
    }

    /// The same, but a part of it may be missing.
    pub(crate) const fn needing(self, missing: fn(&SensorSettings) -> Option<String>) -> Self {
        Self { missing, ..self }
    }

    /// The same, but at a pace of its own.
    pub(crate) const fn every(self, interval: Duration, deadline: Duration) -> Self {
        Self { pace: Some(Pace { interval, deadline }), ..self }
    }

    /// Why it does not run, for a person.
    fn obstacle(&self, settings: &SensorSettings) -> Option<String> {
        if settings.disabled.contains(self.name) {
            return Some("disabled by the configuration".to_owned());
        }
        if self.habit == Habit::Rests && !settings.enabled.contains(self.name) {
            return Some(format!("off by default; set sensors.{}.enabled: true", self.name));
        }
        (self.obstacle)(settings).or_else(|| {
            let unreadable =
                |path: &PathBuf| probe(path).err().map(|error| format!("cannot read {}: {error}", path.display()));
            (self.sources)(settings).iter().find_map(unreadable)
        })
    }
}

/// Every sensor of this platform, in the order of their names.
#[cfg(target_os = "linux")]
const ENTRIES: &[Entry] = &[
    arp::ENTRY,
    backups::ENTRY,
    bonding::ENTRY,
    btrfs::ENTRY,
    certificates::ENTRY,
    conntrack::ENTRY,
    cpu::ENTRY,
    cpufreq::ENTRY,
    diskstats::ENTRY,
    dmi::ENTRY,
    edac::ENTRY,
    entropy::ENTRY,
    escl::ENTRY,
    fibrechannel::ENTRY,
    filefd::ENTRY,
    filesystem::ENTRY,
    hwmon::ENTRY,
    infiniband::ENTRY,
    ipvs::ENTRY,
    loadavg::ENTRY,
    mdadm::ENTRY,
    meminfo::ENTRY,
    mqtt_json::ENTRY,
    netclass::ENTRY,
    netdev::ENTRY,
    netstat::ENTRY,
    nfs::ENTRY,
    nfsd::ENTRY,
    nut::ENTRY,
    nvme::ENTRY,
    os::ENTRY,
    powersupply::ENTRY,
    pressure::ENTRY,
    processes::ENTRY,
    programs::ENTRY,
    rapl::ENTRY,
    schedstat::ENTRY,
    scrapes::ENTRY,
    selinux::ENTRY,
    snmp::ENTRY,
    sockstat::ENTRY,
    softnet::ENTRY,
    stat::ENTRY,
    statsd::ENTRY,
    tapestats::ENTRY,
    tcpstat::ENTRY,
    textfile::ENTRY,
    thermal_zone::ENTRY,
    time::ENTRY,
    timex::ENTRY,
    udp_queues::ENTRY,
    uname::ENTRY,
    updates::ENTRY,
    vmstat::ENTRY,
    watchdog::ENTRY,
    xfs::ENTRY,
    zfs::ENTRY,
];
/// Every sensor of this platform.
#[cfg(not(target_os = "linux"))]
const ENTRIES: &[Entry] = &[Entry::new("portable", |_| Vec::new(), |_| Box::new(portable::Portable::default()))];

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
    ENTRIES.iter().filter(|entry| entry.obstacle(settings).is_none()).map(|entry| (entry.make)(settings)).collect()
}

/// What can run here, and why not.
pub fn survey(settings: &SensorSettings) -> Vec<Availability> {
    let look = |entry: &Entry| {
        let sources = (entry.sources)(settings);
        let source = sources.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let obstacle = entry.obstacle(settings);
        let missing = if obstacle.is_none() { (entry.missing)(settings) } else { None };
        Availability { sensor: entry.name, source, obstacle, missing }
    };
    ENTRIES.iter().map(look).collect()
}

/// Whether `path` can be read. Pressure files exist, for example, but can't be read where the kernel's option is off.
fn probe(path: &Path) -> io::Result<()> {
    // Whatever is no file might hang, and only a worker may.
    if path.metadata()?.is_file() {
        File::open(path)?.read_exact(&mut [0])?;
    }
    Ok(())
}

/// Whether `path` is there, but may not be read.
#[cfg(target_os = "linux")]
pub(crate) fn unreadable(path: &Path) -> bool {
    File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
