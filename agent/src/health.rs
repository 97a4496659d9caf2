//! The agent's own health: counters and gauges that spool and uplink write and the `agent` sensor reports.
//!
//! Every access is relaxed: each number stands alone.

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
}
