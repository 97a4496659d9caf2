//! What every platform can tell, through `sysinfo`, with `node_exporter`'s names: for systems without `/proc`.
//!
//! Processor time is the one thing that `sysinfo` does not count: it tells how busy each processor was since the last
//! look, and this sensor adds that up, all of it as `user`. On Windows, which does count it, another sensor tells it.

#[cfg(not(windows))]
use std::time::Instant;

#[cfg(not(windows))]
use sysinfo::CpuRefreshKind;
use sysinfo::{Disks, MemoryRefreshKind, Networks, RefreshKind, System};
#[cfg(any(test, not(target_os = "linux")))]
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate};

#[cfg(not(target_os = "linux"))]
use super::Entry;
use super::{Sensor, SensorError, Sink};
use crate::clock;

#[cfg(not(target_os = "linux"))]
pub(super) const ENTRY: Entry = Entry::new("portable", |_| Vec::new(), |_| Box::new(Portable::default()));

/// Every sensor where there is nothing better.
#[cfg(not(any(target_os = "linux", windows)))]
pub(super) const ENTRIES: &[Entry] = &[super::named_processes::ENTRY, ENTRY];

/// Processors, memory, file systems, disks, networks, load, boot time and name of the system.
#[derive(Default)]
pub struct Portable {
    sources: Option<Sources>,
}

struct Sources {
    system: System,
    disks: Disks,
    networks: Networks,
    #[cfg(not(windows))]
    looked: Instant,
    /// Busy and idle seconds of each processor, since the first look.
    #[cfg(not(windows))]
    processors: Vec<(f64, f64)>,
}

impl Sources {
    fn new() -> Result<Self, sysinfo::Error> {
        let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
        #[cfg(not(windows))]
        let kinds = kinds.with_cpu(CpuRefreshKind::nothing().with_usage());
        Ok(Self {
            system: System::new_with_specifics(kinds)?,
            disks: Disks::new_with_refreshed_list()?,
            networks: Networks::new_with_refreshed_list()?,
            #[cfg(not(windows))]
            looked: clock::instant(),
            #[cfg(not(windows))]
            processors: Vec::new(),
        })
    }

    #[cfg(not(windows))]
    fn put_processors(&mut self, sink: &mut Sink) {
        let elapsed_seconds = self.looked.elapsed().as_secs_f64();
        self.looked = clock::instant();
        self.system.refresh_cpu_usage();
        self.processors.resize(self.system.cpus().len(), (0.0, 0.0));
        for (number, (cpu, (busy, idle))) in self.system.cpus().iter().zip(&mut self.processors).enumerate() {
            let share = f64::from(cpu.usage() / 100.0).clamp(0.0, 1.0);
            *busy += share * elapsed_seconds;
            *idle += (1.0 - share) * elapsed_seconds;
            let number = number.to_string();
            sink.put("node_cpu_seconds_total", &[("cpu", &number), ("mode", "idle")], *idle);
            sink.put("node_cpu_seconds_total", &[("cpu", &number), ("mode", "user")], *busy);
        }
    }

    fn put_memory(&mut self, sink: &mut Sink) {
        self.system.refresh_memory();
        for (name, bytes) in [
            ("node_memory_MemTotal_bytes", self.system.total_memory()),
            ("node_memory_MemFree_bytes", self.system.free_memory()),
            ("node_memory_MemAvailable_bytes", self.system.available_memory()),
            ("node_memory_SwapTotal_bytes", self.system.total_swap()),
            ("node_memory_SwapFree_bytes", self.system.free_swap()),
        ] {
            sink.put(name, &[], bytes as f64);
        }
    }

    fn put_disks(&mut self, sink: &mut Sink) {
        self.disks.refresh(true);
        let mut seen: Vec<String> = Vec::new();
        for disk in &self.disks {
            let (device, fstype) = (disk.name().to_string_lossy(), disk.file_system().to_string_lossy());
            let mountpoint = disk.mount_point().to_string_lossy();
            let labels = [("device", device.as_ref()), ("fstype", &fstype), ("mountpoint", &mountpoint)];
            // `sysinfo` does not tell what is free for the administrator only.
            sink.put("node_filesystem_avail_bytes", &labels, disk.available_space() as f64);
            sink.put("node_filesystem_free_bytes", &labels, disk.available_space() as f64);
            sink.put("node_filesystem_readonly", &labels, f64::from(u8::from(disk.is_read_only())));
            sink.put("node_filesystem_size_bytes", &labels, disk.total_space() as f64);
            let device = device.rsplit('/').next().unwrap_or_default();
            if seen.iter().all(|known| known != device) {
                seen.push(device.to_owned());
                let usage = disk.usage();
                let labels = [("device", device)];
                sink.put("node_disk_read_bytes_total", &labels, usage.total_read_bytes as f64);
                sink.put("node_disk_written_bytes_total", &labels, usage.total_written_bytes as f64);
            }
        }
    }

    fn put_networks(&mut self, sink: &mut Sink) {
        self.networks.refresh(true);
        let mut networks: Vec<_> = self.networks.iter().filter(|(device, _)| *device != "lo").collect();
        networks.sort_unstable_by_key(|(device, _)| *device);
        for (device, network) in networks {
            let device = device.to_string_lossy();
            let labels = [("device", device.as_ref())];
            for (name, count) in [
                ("node_network_receive_bytes_total", network.total_received()),
                ("node_network_receive_errs_total", network.total_errors_on_received()),
                ("node_network_receive_packets_total", network.total_packets_received()),
                ("node_network_transmit_bytes_total", network.total_transmitted()),
                ("node_network_transmit_errs_total", network.total_errors_on_transmitted()),
                ("node_network_transmit_packets_total", network.total_packets_transmitted()),
            ] {
                sink.put(name, &labels, count as f64);
            }
        }
    }
}

impl Sensor for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let sources = match &mut self.sources {
            Some(sources) => sources,
            None => self.sources.insert(Sources::new()?),
        };
        #[cfg(not(windows))]
        sources.put_processors(sink);
        sources.put_memory(sink);
        sources.put_disks(sink);
        sources.put_networks(sink);
        sink.put("node_boot_time_seconds", &[], System::boot_time()? as f64);
        sink.put("node_time_seconds", &[], clock::since_epoch().as_secs_f64());
        // Windows has none; what `sysinfo` makes up there starts a thread.
        if let Some(load) = (!cfg!(windows)).then(System::load_average).and_then(Result::ok) {
            sink.put("node_load1", &[], load.one);
            sink.put("node_load15", &[], load.fifteen);
            sink.put("node_load5", &[], load.five);
        }
        let (machine, nodename) = (System::cpu_arch(), System::host_name().unwrap_or_default());
        let (release, sysname) = (System::kernel_version().unwrap_or_default(), System::name().unwrap_or_default());
        let version = System::os_version().unwrap_or_default();
        let labels = [
            ("machine", machine.as_str()),
            ("nodename", &nodename),
            ("release", &release),
            ("sysname", &sysname),
            ("version", &version),
        ];
        sink.put("node_uname_info", &labels, 1.0);
        Ok(())
    }
}

/// What the agent itself takes.
#[cfg(any(test, not(target_os = "linux")))]
pub(crate) struct OwnProcess {
    system: Option<System>,
}

#[cfg(any(test, not(target_os = "linux")))]
impl OwnProcess {
    pub(crate) fn new() -> Self {
        Self { system: None }
    }

    /// Seconds of processor time since the agent's start, and resident bytes.
    pub(crate) fn read(&mut self) -> Result<(f64, f64), SensorError> {
        let system = match &mut self.system {
            Some(system) => system,
            None => self.system.insert(System::new()?),
        };
        let pid = sysinfo::get_current_pid()?;
        let kinds = ProcessRefreshKind::nothing().with_cpu().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kinds);
        let process = system.process(pid).ok_or(sysinfo::Error::Unsupported)?;
        Ok((process.accumulated_cpu_time() as f64 / 1000.0, process.memory() as f64))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::sensors::{Roots, linux::meminfo::Meminfo};

    fn value(sink: &mut Sink, metric: &str) -> f64 {
        let (series, values) = sink.take();
        let position = series.0.iter().position(|name| name.metric() == metric);
        values[position.unwrap_or_else(|| panic!("no {metric}"))]
    }

    #[test]
    fn the_portable_numbers_are_those_of_proc() {
        let (mut portable, mut own) = (Sink::default(), Sink::default());
        Portable::default().read(&mut portable).expect("sysinfo");
        Meminfo::new(&Roots::default()).read(&mut own).expect("/proc/meminfo");
        let metric = "node_memory_MemTotal_bytes";
        assert_eq!(value(&mut portable, metric), value(&mut own, metric));
    }

    #[test]
    fn the_agent_is_as_large_as_proc_says() {
        let (_, portable) = OwnProcess::new().read().expect("sysinfo");
        let (_, own) = crate::sensors::linux::process::OwnProcess::new().read().expect("/proc/self/stat");
        assert!((portable - own).abs() < own / 2.0, "{portable} {own}");
    }

    #[test]
    fn processor_time_grows_by_the_time_that_passes() {
        let mut sensor = Portable::default();
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("sysinfo");
        let (series, before) = sink.take();
        sensor.read(&mut sink).expect("sysinfo");
        let (_, after) = sink.take();
        for ((name, before), after) in series.0.iter().zip(before).zip(after) {
            if name.metric() == "node_cpu_seconds_total" {
                assert!(after >= before, "{name:?}");
            }
        }
    }
}
