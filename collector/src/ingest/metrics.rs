//! What ingest tells about itself in `/metrics`.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

/// The metrics of ingest; registered once per process.
#[derive(Clone)]
pub struct IngestMetrics {
    pub(crate) samples: IntCounter,
    pub(crate) batches: IntCounterVec,
    pub(crate) refusals: IntCounterVec,
    pub(crate) broker_refusals: IntCounterVec,
    pub(crate) queue: IntGauge,
    pub(crate) commit_seconds: Histogram,
    pub(crate) commit_failures: IntCounter,
    pub(crate) connected: IntGauge,
    pub(crate) sessions: IntGauge,
    pub(crate) enrolments: IntCounterVec,
    pub(crate) defects: IntCounter,
    pub(crate) store_series: IntGauge,
    pub(crate) store_head_samples: IntGauge,
    pub(crate) store_head_bytes: IntGauge,
    pub(crate) store_log_segments: IntGauge,
    pub(crate) store_log_bytes: IntGauge,
    pub(crate) store_chunk_bytes: IntGauge,
    pub(crate) store_free_bytes: IntGauge,
    pub(crate) store_read_only: IntGauge,
    pub(crate) store_committed: IntCounter,
    pub(crate) store_duplicates: IntCounter,
}

impl IngestMetrics {
    /// The metrics, registered in `registry`.
    ///
    /// # Errors
    /// [`prometheus::Error::AlreadyReg`] where one registry gets them twice.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, label: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
        };
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Ok(Self {
            samples: counter("veghe_ingest_samples_total", "Samples of agents that were stored.")?,
            batches: counters(
                "veghe_ingest_batches_total",
                "Batches of agents by what became of them: stored, repeated, refused or held.",
                "outcome",
            )?,
            refusals: counters("veghe_ingest_refusals_total", "Batches refused or held, by cause.", "cause")?,
            broker_refusals: counters(
                "veghe_broker_refusals_total",
                "Connections, subscriptions and messages that the broker refused, by cause.",
                "cause",
            )?,
            queue: gauge("veghe_ingest_queue_length", "Messages of agents that wait to be stored.")?,
            commit_seconds: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new("veghe_ingest_commit_duration_seconds", "Time that a group commit took.")
                        .buckets(buckets),
                )?,
            )?,
            commit_failures: counter(
                "veghe_ingest_commit_failures_total",
                "Group commits that the store could not keep.",
            )?,
            connected: gauge("veghe_broker_connected_agents", "Agents with a live connection.")?,
            sessions: gauge("veghe_ingest_sessions", "Runs of agents whose dictionaries are in memory.")?,
            enrolments: counters("veghe_enrolments_total", "Enrolments of agents by outcome.", "outcome")?,
            defects: counter("veghe_ingest_defects_total", "Panics while batches were read: defects of this program.")?,
            store_series: gauge("veghe_tsdb_series", "Series in the store's index.")?,
            store_head_samples: gauge("veghe_tsdb_head_samples", "Samples in memory, not yet in chunks.")?,
            store_head_bytes: gauge("veghe_tsdb_head_bytes", "Memory that samples of the head take.")?,
            store_log_segments: gauge("veghe_tsdb_log_segments", "Segments of the log on disk.")?,
            store_log_bytes: gauge("veghe_tsdb_log_bytes", "Bytes of the log on disk.")?,
            store_chunk_bytes: gauge("veghe_tsdb_chunk_bytes", "Bytes of the chunk database on disk.")?,
            store_committed: counter(
                "veghe_tsdb_committed_samples_total",
                "Samples that were committed, the collector's own included.",
            )?,
            store_free_bytes: gauge("veghe_tsdb_free_bytes", "Bytes that the store's file system has free.")?,
            store_read_only: gauge(
                "veghe_tsdb_read_only",
                "1 while readings are refused because the disk is full up to its reserve.",
            )?,
            store_duplicates: counter(
                "veghe_tsdb_duplicate_samples_total",
                "Samples dropped because their series already had one at that time.",
            )?,
        })
    }

    /// Takes over how large the store is.
    pub(crate) fn observe_store(&self, stats: &veghe_tsdb::Stats) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.store_series, stats.series);
        set(&self.store_head_samples, stats.head_samples);
        set(&self.store_head_bytes, stats.head_bytes);
        set(&self.store_log_segments, stats.log_segments);
        set(&self.store_log_bytes, stats.log_bytes);
        set(&self.store_chunk_bytes, stats.chunk_bytes);
        set(&self.store_free_bytes, stats.free_bytes);
        set(&self.store_read_only, u64::from(stats.read_only));
        self.store_committed.inc_by(stats.committed_samples.saturating_sub(self.store_committed.get()));
        self.store_duplicates.inc_by(stats.duplicate_samples.saturating_sub(self.store_duplicates.get()));
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
