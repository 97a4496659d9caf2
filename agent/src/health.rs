//! The agent's own health: counters and gauges that spool and uplink write and the `agent` sensor reports.
//!
//! Every access is relaxed: each number stands alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64};

/// All zero at start. The names are those of the metrics, without `veghe_agent_`.
#[derive(Debug, Default)]
pub struct Health {
    /// Bytes that the spool has on disk.
    pub spool_bytes: AtomicU64,
    /// Batches in the spool.
    pub spool_batches: AtomicU64,
    /// Batches that the spool gave up, oldest first, because it was full or they were too old.
    pub spool_dropped_batches_total: AtomicU64,
    /// Time stamp of the oldest batch in the spool, milliseconds since the Unix epoch; 0 while it is empty.
    pub spool_oldest_timestamp_ms: AtomicI64,
    /// Batches handed to the broker, repeats included.
    pub batches_sent_total: AtomicU64,
    /// Batches that the collector has on disk.
    pub batches_accepted_total: AtomicU64,
    /// Batches that the collector refused for ever.
    pub batches_refused_total: AtomicU64,
    /// 1 while connected to the broker, else 0.
    pub uplink_connected: AtomicU64,
    /// Connections made.
    pub uplink_connects_total: AtomicU64,
    /// 1 while the collector asks to wait, else 0.
    pub uplink_held: AtomicU64,
    /// Rounds that were lost because the spool did not take them in time.
    pub rounds_dropped_total: AtomicU64,
    /// Steps of the system clock that were noticed.
    pub clock_steps_total: AtomicU64,
    /// Sensors that are left out to stay below the agent's ceilings.
    pub shed_sensors: AtomicU64,
    /// By what optional sensors' intervals are multiplied while the machine is busy; 0 before the first look.
    pub interval_stretch: AtomicU64,
    /// Number of the collector's settings in force, 0 without any.
    pub config_number: AtomicU64,
    /// 1 while those are on trial, else 0.
    pub config_on_trial: AtomicU64,
    /// Settings of the collector that were refused since the start.
    pub config_refused_total: AtomicU64,
    /// Sensors that failed or hung in the last main round.
    pub failing_sensors: Mutex<Vec<&'static str>>,
}
