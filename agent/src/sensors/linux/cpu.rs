//! `/proc/stat` and `/sys/devices/system/cpu`: processor time by mode, throttling, isolation.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "cpu",
    |settings| vec![settings.roots.proc.join("stat")],
    |settings| Box::new(Cpu::new(&settings.roots)),
);

/// The kernel's unit of processor time in `/proc/stat`, on every architecture that Rust knows.
const TICKS_PER_SECOND: f64 = 100.0;
/// A counter of idle time that falls by less has a fault of the kernel; by more, the processor was plugged in anew.
const PLUGGED_IN_TICKS: u64 = 300;
/// Modes in the order of the file; the last two are told apart, as they are contained in `user` and `nice`.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const GUEST_MODES: [&str; 2] = ["user", "nice"];
const IDLE: usize = 3;

type Ticks = [u64; MODES.len() + GUEST_MODES.len()];

/// `node_cpu_seconds_total`, `node_cpu_guest_seconds_total`, `node_cpu_core_throttles_total`,
/// `node_cpu_package_throttles_total`, `node_cpu_isolated`.
pub(crate) struct Cpu {
    source: Source,
    /// The highest counters seen of each processor: what falls a little is held until it rises again.
    highest: BTreeMap<u64, Ticks>,
    isolated: Vec<String>,
    throttles: Vec<Throttle>,
}

struct Throttle {
    source: Source,
    package: String,
    /// `None` for that of the whole package.
    core: Option<String>,
}

impl Cpu {
    /// Looks for throttling counters once, here.
    pub(crate) fn new(roots: &Roots) -> Self {
        let directory = roots.sys.join("devices/system/cpu");
        let isolated = fs::read(directory.join("isolated")).unwrap_or_default();
        Self {
            source: Source::new(roots.proc.join("stat")),
            highest: BTreeMap::new(),
            isolated: numbers(&isolated).map(|number| number.to_string()).collect(),
            throttles: throttles(&directory),
        }
    }
}

impl Sensor for Cpu {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let highest = &mut self.highest;
        let parsed = parse(self.source.read()?, |cpu, number, ticks| {
            let ticks = hold(highest.entry(number).or_default(), &ticks);
            let (modes, guest_modes) = ticks.split_at(MODES.len());
            for (mode, &ticks) in MODES.iter().zip(modes) {
                sink.put("node_cpu_seconds_total", &[("cpu", cpu), ("mode", mode)], ticks as f64 / TICKS_PER_SECOND);
            }
            for (mode, &ticks) in GUEST_MODES.iter().zip(guest_modes) {
                let labels = [("cpu", cpu), ("mode", *mode)];
                sink.put("node_cpu_guest_seconds_total", &labels, ticks as f64 / TICKS_PER_SECOND);
            }
        });
        parsed.map_err(|error| self.source.malformed(error))?;
        for cpu in &self.isolated {
            sink.put("node_cpu_isolated", &[("cpu", cpu)], 1.0);
        }
        for throttle in &mut self.throttles {
            let count = throttle.source.read_if_present()?.map(|count| text::number(count.trim_ascii()));
            let Some(count) = count else { continue };
            let count = count.ok_or(Malformed { line: 1, expected: "a number" });
            let count = count.map_err(|error| throttle.source.malformed(error))?;
            let package = ("package", throttle.package.as_str());
            match &throttle.core {
                Some(core) => sink.put("node_cpu_core_throttles_total", &[("core", core), package], count as f64),
                None => sink.put("node_cpu_package_throttles_total", &[package], count as f64),
            }
        }
        Ok(())
    }
}

/// Calls `each` with the number of a processor, as text and as such, and its counters.
fn parse(bytes: &[u8], mut each: impl FnMut(&str, u64, Ticks)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let Some(rest) = content.strip_prefix(b"cpu") else { continue };
        let mut fields = text::fields(rest);
        // The first line is the sum of all processors.
        let Some(digits) = fields.next().filter(|_| !rest.starts_with(b" ")) else { continue };
        let number = text::number(digits).ok_or(Malformed { line, expected: "the number of a processor" })?;
        let mut ticks = Ticks::default();
        // Old kernels have fewer modes.
        for (tick, field) in ticks.iter_mut().zip(fields) {
            *tick = text::number(field).ok_or(Malformed { line, expected: "counters of processor time" })?;
        }
        each(&text::label(digits), number, ticks);
    }
    Ok(())
}

/// Raises `highest` to `now`.
fn hold(highest: &mut Ticks, now: &Ticks) -> Ticks {
    if highest[IDLE].saturating_sub(now[IDLE]) >= PLUGGED_IN_TICKS {
        *highest = Ticks::default();
    }
    for (high, &now) in highest.iter_mut().zip(now) {
        *high = now.max(*high);
    }
    *highest
}

/// The numbers of a list such as `1-3,7`; nothing of what is malformed.
fn numbers(list: &[u8]) -> impl Iterator<Item = u64> {
    list.trim_ascii().split(|&byte| byte == b',').flat_map(|range| {
        let mut ends = range.splitn(2, |&byte| byte == b'-').map(text::number);
        let first = ends.next().flatten();
        let last = ends.next().unwrap_or(first);
        match (first, last) {
            // No machine has more; a bound against a malformed list.
            (Some(first), Some(last)) if last < 1 << 16 => first..last + 1,
            _ => 0..0,
        }
    })
}

/// The throttling counters below `directory`: one for each core and one for each package.
fn throttles(directory: &Path) -> Vec<Throttle> {
    let mut found = BTreeMap::new();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for cpu in entries.filter(|entry| is_cpu(&entry.file_name().to_string_lossy())).map(|entry| entry.path()) {
        let id = |name: &str| Some(fs::read_to_string(cpu.join("topology").join(name)).ok()?.trim().to_owned());
        let (Some(package), Some(core)) = (id("physical_package_id"), id("core_id")) else { continue };
        for (core, file) in [(Some(core), "core_throttle_count"), (None, "package_throttle_count")] {
            let path = cpu.join("thermal_throttle").join(file);
            if path.exists() {
                found.entry((package.clone(), core)).or_insert(path);
            }
        }
    }
    let throttle = |((package, core), path)| Throttle { source: Source::new(path), package, core };
    found.into_iter().map(throttle).collect()
}

fn is_cpu(name: &str) -> bool {
    name.strip_prefix("cpu").is_some_and(|number| text::number(number.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_falls_a_little_is_held_and_a_new_processor_begins_anew() {
        let mut highest = [10, 0, 0, 1000, 0, 0, 0, 0, 0, 0];
        assert_eq!(hold(&mut highest, &[9, 0, 0, 990, 0, 0, 0, 0, 0, 0])[..4], [10, 0, 0, 1000]);
        assert_eq!(hold(&mut highest, &[2, 0, 0, 5, 0, 0, 0, 0, 0, 0])[..4], [2, 0, 0, 5]);
    }

    #[test]
    fn a_list_of_processors_is_read() {
        assert_eq!(numbers(b"1-3,7\n").collect::<Vec<_>>(), [1, 2, 3, 7]);
        for none in [&b"\n"[..], b"", b"a-b", b"3-1", b"0-18446744073709551615"] {
            assert_eq!(numbers(none).count(), 0, "{none:?}");
        }
    }

    #[test]
    fn an_error_tells_the_line() {
        let error = parse(b"cpu  1 2 3\ncpu0 1 x 3\n", |_, _, _| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "counters of processor time" });
    }
}
