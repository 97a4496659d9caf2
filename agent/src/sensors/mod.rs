//! Sensors: each reads one source and puts what it finds, under `node_exporter`'s names, into a [`Sink`].
//!
//! Invariants: a sensor never panics on what it reads; an error names file and line; names and labels are those that
//! `node_exporter` 1.5 gives by default for the same source. What sensors deliberately do not do: schedule themselves
//! (see [`crate::schedule`]), keep history, talk to the network.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub use crate::reading::Sink;

pub(crate) mod agent;
#[cfg(target_os = "linux")]
mod cpu;
#[cfg(target_os = "linux")]
mod diskstats;
#[cfg(target_os = "linux")]
mod filesystem;
#[cfg(target_os = "linux")]
mod loadavg;
#[cfg(target_os = "linux")]
mod meminfo;
#[cfg(target_os = "linux")]
mod netdev;
pub mod portable;
#[cfg(target_os = "linux")]
mod pressure;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod source;
#[cfg(target_os = "linux")]
mod stat;
#[cfg(target_os = "linux")]
mod text;
#[cfg(target_os = "linux")]
mod time;
#[cfg(target_os = "linux")]
mod timex;
#[cfg(target_os = "linux")]
mod uname;
#[cfg(target_os = "linux")]
mod vmstat;

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
}

struct Entry {
    name: &'static str,
    sources: fn(&Roots) -> Vec<PathBuf>,
    make: fn(&Roots) -> Box<dyn Sensor>,
}

/// Every sensor of this platform, in the order of their names.
#[cfg(target_os = "linux")]
const ENTRIES: &[Entry] = &[
    Entry { name: "cpu", sources: |roots| vec![roots.proc.join("stat")], make: |roots| Box::new(cpu::Cpu::new(roots)) },
    Entry {
        name: "diskstats",
        sources: |roots| vec![roots.proc.join("diskstats")],
        make: |roots| Box::new(diskstats::Diskstats::new(roots)),
    },
    Entry {
        name: "filesystem",
        sources: |roots| vec![roots.proc.join("self/mounts")],
        make: |roots| Box::new(filesystem::Filesystem::new(roots)),
    },
    Entry {
        name: "loadavg",
        sources: |roots| vec![roots.proc.join("loadavg")],
        make: |roots| Box::new(loadavg::Loadavg::new(roots)),
    },
    Entry {
        name: "meminfo",
        sources: |roots| vec![roots.proc.join("meminfo")],
        make: |roots| Box::new(meminfo::Meminfo::new(roots)),
    },
    Entry {
        name: "netdev",
        sources: |roots| vec![roots.proc.join("net/dev")],
        make: |roots| Box::new(netdev::Netdev::new(roots)),
    },
    Entry {
        name: "pressure",
        sources: |roots| ["cpu", "io", "memory"].iter().map(|file| roots.proc.join("pressure").join(file)).collect(),
        make: |roots| Box::new(pressure::Pressure::new(roots)),
    },
    Entry {
        name: "stat",
        sources: |roots| vec![roots.proc.join("stat")],
        make: |roots| Box::new(stat::Stat::new(roots)),
    },
    Entry { name: "time", sources: |_| Vec::new(), make: |roots| Box::new(time::Time::new(roots)) },
    Entry { name: timex::NAME, sources: |_| Vec::new(), make: |_| Box::new(timex::Timex) },
    Entry { name: "uname", sources: |_| Vec::new(), make: |_| Box::new(uname::Uname) },
    Entry {
        name: "vmstat",
        sources: |roots| vec![roots.proc.join("vmstat")],
        make: |roots| Box::new(vmstat::Vmstat::new(roots)),
    },
];
/// Every sensor of this platform.
#[cfg(not(target_os = "linux"))]
const ENTRIES: &[Entry] =
    &[Entry { name: "portable", sources: |_| Vec::new(), make: |_| Box::new(portable::Portable::default()) }];

/// Names of all sensors that settings may name, `agent` (which always runs) not among them.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.name)
}

/// The sensors that run: each that is not disabled and whose source exists. The `agent` sensor is not among them: the
/// schedule brings its own.
pub fn all(settings: &SensorSettings) -> Vec<Box<dyn Sensor>> {
    ENTRIES
        .iter()
        .filter(|entry| obstacle(entry, settings).is_none())
        .map(|entry| (entry.make)(&settings.roots))
        .collect()
}

/// What can run here, and why not.
pub fn survey(settings: &SensorSettings) -> Vec<Availability> {
    ENTRIES
        .iter()
        .map(|entry| {
            let sources = (entry.sources)(&settings.roots);
            let source = sources.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Availability { sensor: entry.name, source, obstacle: obstacle(entry, settings) }
        })
        .collect()
}

fn obstacle(entry: &Entry, settings: &SensorSettings) -> Option<String> {
    if settings.disabled.contains(entry.name) {
        return Some("disabled by the configuration".to_owned());
    }
    #[cfg(target_os = "linux")]
    if entry.name == timex::NAME
        && let Err(error) = timex::probe()
    {
        return Some(format!("cannot ask the kernel by adjtimex: {error}"));
    }
    (entry.sources)(&settings.roots)
        .iter()
        .find_map(|path| probe(path).err().map(|error| format!("cannot read {}: {error}", path.display())))
}

/// Whether `path` can be read. Pressure files exist, for example, but can't be read where the kernel's option is off.
fn probe(path: &Path) -> io::Result<()> {
    // Whatever is no file might hang, and only a worker may.
    if path.metadata()?.is_file() {
        File::open(path)?.read_exact(&mut [0])?;
    }
    Ok(())
}
