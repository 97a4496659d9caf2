//! The agent's own health: its cycles, its sensors, its spool and uplink, its memory and processor time.
//!
//! The schedule reads it itself, last in every main round, so that it tells about that very round.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::source::Source;
use super::text::{self, Malformed};
use super::{Roots, SensorError, Sink};
use crate::health::Health;

/// The kernel's unit of processor time in `/proc`, on every architecture that Rust knows.
const TICKS_PER_SECOND: f64 = 100.0;

/// How one sensor fares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SensorHealth {
    pub(crate) succeeded: bool,
    pub(crate) duration: Duration,
    pub(crate) deadline_exceeded_total: u64,
    pub(crate) failures_total: u64,
}

/// `veghe_agent_*`, `veghe_sensor_*` and the agent's `process_*`.
pub(crate) struct Agent {
    health: Arc<Health>,
    stat: Source,
    page_bytes: f64,
}

impl Agent {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        let stat = Source::new(Roots::default().proc.join("self/stat"));
        Self { health, stat, page_bytes: rustix::param::page_size() as f64 }
    }

    /// Puts one round of values, of which `cycles` is the count.
    pub(crate) fn read<'a>(
        &mut self,
        cycles: u64,
        sensors: impl Iterator<Item = (&'static str, &'a SensorHealth)> + Clone,
        sink: &mut Sink,
    ) -> Result<(), SensorError> {
        sink.put("veghe_agent_cycles_total", &[], cycles as f64);
        sink.put("veghe_agent_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        for (sensor, health) in sensors {
            let labels = [("sensor", sensor)];
            sink.put("veghe_sensor_success", &labels, f64::from(u8::from(health.succeeded)));
            sink.put("veghe_sensor_duration_seconds", &labels, health.duration.as_secs_f64());
            sink.put("veghe_sensor_deadline_exceeded_total", &labels, health.deadline_exceeded_total as f64);
            sink.put("veghe_sensor_failures_total", &labels, health.failures_total as f64);
        }
        let health = &self.health;
        let oldest_seconds = health.spool_oldest_timestamp_ms.load(Relaxed) as f64 / 1000.0;
        sink.put("veghe_agent_spool_oldest_timestamp_seconds", &[], oldest_seconds);
        for (name, value) in [
            ("veghe_agent_spool_bytes", &health.spool_bytes),
            ("veghe_agent_spool_batches", &health.spool_batches),
            ("veghe_agent_spool_dropped_batches_total", &health.spool_dropped_batches_total),
            ("veghe_agent_batches_sent_total", &health.batches_sent_total),
            ("veghe_agent_batches_accepted_total", &health.batches_accepted_total),
            ("veghe_agent_batches_refused_total", &health.batches_refused_total),
            ("veghe_agent_uplink_connected", &health.uplink_connected),
            ("veghe_agent_uplink_connects_total", &health.uplink_connects_total),
            ("veghe_agent_uplink_held", &health.uplink_held),
            ("veghe_agent_rounds_dropped_total", &health.rounds_dropped_total),
            ("veghe_agent_clock_steps_total", &health.clock_steps_total),
        ] {
            sink.put(name, &[], value.load(Relaxed) as f64);
        }
        let parsed = parse_stat(self.stat.read()?);
        let process = parsed.map_err(|error| self.stat.malformed(error))?;
        let job = [("job", "veghe-agent")];
        sink.put("process_cpu_seconds_total", &job, process.cpu_ticks as f64 / TICKS_PER_SECOND);
        sink.put("process_resident_memory_bytes", &job, process.resident_pages as f64 * self.page_bytes);
        Ok(())
    }
}

struct Process {
    cpu_ticks: u64,
    resident_pages: u64,
}

/// Field numbers as in proc(5), which counts from 1.
fn parse_stat(bytes: &[u8]) -> Result<Process, Malformed> {
    const EXPECTED: Malformed = Malformed { line: 1, expected: "a process's state as in proc(5)" };
    // The second field is the program's name in parentheses and may hold spaces and parentheses itself.
    let end_of_name = bytes.iter().rposition(|&byte| byte == b')').ok_or(EXPECTED)?;
    let mut fields = text::fields(bytes.get(end_of_name + 1..).unwrap_or_default());
    let user = fields.nth(14 - 3).and_then(text::number).ok_or(EXPECTED)?;
    let system = fields.next().and_then(text::number).ok_or(EXPECTED)?;
    let resident_pages = fields.nth(24 - 16).and_then(text::number).ok_or(EXPECTED)?;
    Ok(Process { cpu_ticks: user.saturating_add(system), resident_pages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = b"42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 14 0 1000 9000000 1234 184 rest\n";
        let process = parse_stat(stat).expect("well formed");
        assert_eq!((process.cpu_ticks, process.resident_pages), (12, 1234));
    }
}
