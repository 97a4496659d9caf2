//! The process's own use of the machine, under the names that every Prometheus client library gives it.

use std::sync::Mutex;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use veghe_model::Timestamp;

/// Registers `process_*` for this process, which began at `started`.
///
/// # Errors
/// Where the registry has metrics of these names already.
pub fn register_process_metrics(registry: &Registry, started: Timestamp) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ProcessMetrics::new(started)?))
}

struct ProcessMetrics {
    cpu_seconds: Counter,
    /// What the counter says so far: it only takes differences.
    counted_seconds: Mutex<f64>,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    start_seconds: Gauge,
}

impl ProcessMetrics {
    fn new(started: Timestamp) -> Result<Self, prometheus::Error> {
        let start_seconds =
            Gauge::new("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")?;
        start_seconds.set(started.seconds());
        Ok(Self {
            cpu_seconds: Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")?,
            counted_seconds: Mutex::new(0.0),
            resident_bytes: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_bytes: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            start_seconds,
        })
    }

    fn all(&self) -> [&dyn Collector; 6] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.open_fds,
            &self.max_fds,
            &self.start_seconds,
        ]
    }

    /// Takes a measure. What the system doesn't tell keeps its last value.
    fn measure(&self) {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let spent_seconds = spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
        if let Ok(mut counted) = self.counted_seconds.lock() {
            self.cpu_seconds.inc_by((spent_seconds - *counted).max(0.0));
            *counted = spent_seconds.max(*counted);
        }
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            let bytes = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
            };
            if let Some(resident) = bytes("VmRSS:") {
                self.resident_bytes.set(resident);
            }
            if let Some(reserved) = bytes("VmSize:") {
                self.virtual_bytes.set(reserved);
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            self.open_fds.set(open.count().saturating_sub(1) as f64);
        }
        self.max_fds.set(getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64));
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.measure();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_tells_what_it_uses() {
        let registry = Registry::new();
        register_process_metrics(&registry, Timestamp(1500)).expect("metrics");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.expect(name).parse().expect("number")
        };
        assert_eq!(value("process_start_time_seconds"), 1.5);
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") > value("process_open_fds"));
    }
}
