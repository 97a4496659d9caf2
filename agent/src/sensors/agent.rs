//! The agent's own health: its cycles, its sensors, its spool and uplink, its memory and processor time.
//!
//! The schedule reads it itself, last in every main round, so that it tells about that very round.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

#[cfg(target_os = "linux")]
use super::linux::process::OwnProcess;
#[cfg(not(target_os = "linux"))]
use super::portable::OwnProcess;
use super::{SensorError, Sink};
use crate::health::Health;

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
    process: OwnProcess,
}

impl Agent {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        Self { health, process: OwnProcess::new() }
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
        let (cpu_seconds, resident_bytes) = self.process.read()?;
        let job = [("job", "veghe-agent")];
        sink.put("process_cpu_seconds_total", &job, cpu_seconds);
        sink.put("process_resident_memory_bytes", &job, resident_bytes);
        Ok(())
    }
}
