//! What writing to others tells about itself, under Prometheus' names and with their meaning
//! (`storage/remote/queue_manager.go`), so that its dashboards and rules work unchanged.

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    Registry,
};

use super::settings::Target;

/// Why samples were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Relabelling drops their series.
    Series,
    /// They were the oldest of a backlog that was larger than it may be.
    Backlog,
    /// They were sent again after the collector ended midway, and the target refused them: as a rule because it has them.
    RefusedRepeat,
}

impl Dropped {
    const ALL: [Self; 3] = [Self::Series, Self::Backlog, Self::RefusedRepeat];

    fn label(self) -> &'static str {
        match self {
            Self::Series => "dropped_series",
            Self::Backlog => "backlog_full",
            Self::RefusedRepeat => "refused_repeat",
        }
    }
}

/// The metrics of all targets; registered once per process.
pub(super) struct SenderMetrics {
    samples: IntCounterVec,
    failed: IntCounterVec,
    retried: IntCounterVec,
    dropped: IntCounterVec,
    pending: GaugeVec,
    bytes: IntCounterVec,
    seconds: HistogramVec,
    highest_sent: GaugeVec,
    shards: GaugeVec,
    caught_up: GaugeVec,
    log_errors: CounterVec,
}

/// The metrics of one target.
#[derive(Clone)]
pub(super) struct TargetMetrics {
    /// Samples in attempts.
    pub(super) samples: IntCounter,
    /// Samples given up.
    pub(super) failed: IntCounter,
    /// Samples in attempts that were repeated.
    pub(super) retried: IntCounter,
    /// Read from the log and not delivered yet.
    pub(super) pending: Gauge,
    /// Bytes of requests that were taken.
    pub(super) bytes: IntCounter,
    /// Time of an attempt.
    pub(super) seconds: Histogram,
    /// Of samples that were taken.
    pub(super) highest_sent: Gauge,
    /// When everything was last delivered.
    pub(super) caught_up: Gauge,
    /// Places where the log could not be read.
    pub(super) log_errors: Counter,
    dropped: [IntCounter; 3],
}

const LABELS: &[&str] = &["remote_name", "url"];

impl SenderMetrics {
    /// The metrics, registered in `registry`.
    ///
    /// # Errors
    /// [`prometheus::Error::AlreadyReg`] where one registry gets them twice.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str| register(registry, GaugeVec::new(Opts::new(name, help), LABELS)?);
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];
        Ok(Self {
            samples: counters(
                "prometheus_remote_storage_samples_total",
                "Total number of samples sent to remote storage.",
                LABELS,
            )?,
            failed: counters(
                "prometheus_remote_storage_samples_failed_total",
                "Total number of samples which failed on send to remote storage, non-recoverable errors.",
                LABELS,
            )?,
            retried: counters(
                "prometheus_remote_storage_samples_retried_total",
                "Total number of samples which failed on send to remote storage but were retried because the send error \
                 was recoverable.",
                LABELS,
            )?,
            dropped: counters(
                "prometheus_remote_storage_samples_dropped_total",
                "Total number of samples which were dropped before being sent via remote write, by reason.",
                &["reason", "remote_name", "url"],
            )?,
            pending: gauges(
                "prometheus_remote_storage_samples_pending",
                "The number of samples pending in the queue to be sent to the remote storage.",
            )?,
            bytes: counters(
                "prometheus_remote_storage_bytes_total",
                "The total number of bytes of samples sent by the queue after compression.",
                LABELS,
            )?,
            seconds: register(
                registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "prometheus_remote_storage_sent_batch_duration_seconds",
                        "Duration of send calls to the remote storage.",
                    )
                    .buckets(buckets),
                    LABELS,
                )?,
            )?,
            highest_sent: gauges(
                "prometheus_remote_storage_queue_highest_sent_timestamp_seconds",
                "Highest timestamp successfully sent by this queue, seconds since epoch.",
            )?,
            shards: gauges(
                "prometheus_remote_storage_shards",
                "The number of shards used for parallel sending to the remote storage.",
            )?,
            caught_up: gauges(
                "veghe_remote_write_caught_up_timestamp_seconds",
                "When everything stored had been sent to the target last, in seconds since the Unix epoch; at first the \
                 collector's start.",
            )?,
            log_errors: register(
                registry,
                CounterVec::new(
                    Opts::new(
                        "veghe_remote_write_log_errors_total",
                        "Places of the log that could not be read, whose samples were not sent to the target.",
                    ),
                    LABELS,
                )?,
            )?,
        })
    }

    /// Those of `target`, all of them there from now on.
    pub(super) fn of(&self, target: &Target) -> TargetMetrics {
        let url = target.shown_url();
        let labels = [target.name.as_str(), url.as_str()];
        self.shards.with_label_values(&labels).set(target.queue.max_shards as f64);
        TargetMetrics {
            samples: self.samples.with_label_values(&labels),
            failed: self.failed.with_label_values(&labels),
            retried: self.retried.with_label_values(&labels),
            pending: self.pending.with_label_values(&labels),
            bytes: self.bytes.with_label_values(&labels),
            seconds: self.seconds.with_label_values(&labels),
            highest_sent: self.highest_sent.with_label_values(&labels),
            caught_up: self.caught_up.with_label_values(&labels),
            log_errors: self.log_errors.with_label_values(&labels),
            dropped: Dropped::ALL.map(|reason| self.dropped.with_label_values(&[reason.label(), labels[0], labels[1]])),
        }
    }
}

impl TargetMetrics {
    /// The counter of samples that were not sent for `reason`.
    pub(super) fn dropped(&self, reason: Dropped) -> &IntCounter {
        let [series, backlog, refused_repeat] = &self.dropped;
        match reason {
            Dropped::Series => series,
            Dropped::Backlog => backlog,
            Dropped::RefusedRepeat => refused_repeat,
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
