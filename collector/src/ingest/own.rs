//! What the collector itself adds to the store: `up` of every agent and its own metrics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use prometheus::proto::{MetricFamily, MetricType};
use veghe_model::{Labels, Timestamp, stale_nan};
use veghe_tsdb::{Column, Commit};
use veghe_wire::AgentId;

use super::agents::{Agents, Pulse};
use super::batches::{Storage, StorageError};
use super::metrics::IngestMetrics;

/// An agent is up for this many intervals after its last batch ...
const INTERVALS: u32 = 3;
/// ... and at least for this long.
const SHORTEST_MEMORY: Duration = Duration::from_secs(45);
/// The longest interval that an agent's own word makes us believe in.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);
/// Agents need time to come back after a restart of the collector: none is called down before.
const START_GRACE: Duration = Duration::from_mins(1);

/// Writes the collector's own series.
pub(crate) struct Own {
    storage: Arc<dyn Storage>,
    agents: Arc<Agents>,
    registry: Registry,
    metrics: IngestMetrics,
    started: Timestamp,
    /// Whose `up` was written last time.
    reported: BTreeSet<AgentId>,
}

impl Own {
    /// Reads from `agents` and `registry`, writes to `storage`.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        agents: Arc<Agents>,
        registry: Registry,
        metrics: IngestMetrics,
        started: Timestamp,
    ) -> Self {
        Self { storage, agents, registry, metrics, started, reported: BTreeSet::new() }
    }

    /// Stores the state of `now`. Blocks.
    ///
    /// # Errors
    /// What the store says; nothing was stored then.
    pub(crate) fn write(&mut self, now: Timestamp) -> Result<(), StorageError> {
        self.metrics.observe_store(&self.storage.stats());
        let pulses = self.agents.pulses();
        let mut up: Vec<(AgentId, f64)> = Vec::with_capacity(pulses.len());
        for pulse in pulses {
            let is_up = is_up(&pulse, now);
            if is_up || now.since(self.started) >= START_GRACE || self.reported.contains(&pulse.agent) {
                up.push((pulse.agent, f64::from(u8::from(is_up))));
            }
        }
        let reported: BTreeSet<AgentId> = up.iter().map(|(agent, _)| agent.clone()).collect();
        let ended = self.reported.difference(&reported).map(|agent| (agent.clone(), stale_nan()));
        let up: Vec<(Labels, f64)> = up
            .iter()
            .cloned()
            .chain(ended)
            .map(|(agent, value)| {
                (Labels::from_pairs([("__name__", "up"), ("instance", agent.as_str()), ("job", "node")]), value)
            })
            .collect();
        let own: Vec<(Labels, f64)> = self.registry.gather().iter().flat_map(samples).collect();
        let columns = [up, own].into_iter().filter(|part| !part.is_empty());
        let columns: Result<Vec<Column>, StorageError> = columns.map(|part| self.column(&part, now)).collect();
        // The alert on a full disk stands on these.
        self.storage.commit_from_reserve(Commit { columns: columns?, ..Commit::default() })?;
        self.reported = reported;
        Ok(())
    }

    fn column(&self, part: &[(Labels, f64)], now: Timestamp) -> Result<Column, StorageError> {
        let series: Result<Vec<_>, _> = part.iter().map(|(labels, _)| self.storage.series(labels)).collect();
        let values = part.iter().map(|&(_, value)| value).collect();
        Ok(Column { group: self.storage.group(&series?), timestamp: now, values })
    }
}

/// Whether an agent's last sign of life is recent enough for how often it gives one.
fn is_up(pulse: &Pulse, now: Timestamp) -> bool {
    let memory = (pulse.interval.min(LONGEST_INTERVAL) * INTERVALS).max(SHORTEST_MEMORY);
    let sign = pulse.last_seen.max(pulse.connected);
    sign.is_some_and(|sign| now.since(sign) <= memory)
}

/// The samples of a family as a scrape of `/metrics` gives them.
fn samples(family: &MetricFamily) -> Vec<(Labels, f64)> {
    let name = family.name();
    let mut samples = Vec::new();
    for metric in family.get_metric() {
        let mut add = |suffix: &str, extra: Option<(&str, String)>, value: f64| {
            let mut labels = Labels::default().to_builder();
            labels.set("__name__", format!("{name}{suffix}"));
            for pair in metric.get_label() {
                labels.set(pair.name(), pair.value());
            }
            if let Some((name, value)) = extra {
                labels.set(name, value);
            }
            labels.set("job", "veghe-collector").set("instance", "collector");
            samples.push((labels.build(), value));
        };
        match family.get_field_type() {
            MetricType::COUNTER => add("", None, metric.get_counter().value()),
            MetricType::GAUGE => add("", None, metric.get_gauge().value()),
            MetricType::UNTYPED => {}
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                for bucket in histogram.get_bucket() {
                    let bound = bucket.upper_bound().to_string();
                    add("_bucket", Some(("le", bound)), bucket.cumulative_count() as f64);
                }
                add("_bucket", Some(("le", "+Inf".to_owned())), histogram.get_sample_count() as f64);
                add("_sum", None, histogram.get_sample_sum());
                add("_count", None, histogram.get_sample_count() as f64);
            }
            MetricType::SUMMARY => {
                let summary = metric.get_summary();
                for quantile in summary.get_quantile() {
                    add("", Some(("quantile", quantile.quantile().to_string())), quantile.value());
                }
                add("_sum", None, summary.sample_sum());
                add("_count", None, summary.sample_count() as f64);
            }
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts};

    use super::*;

    fn pulse(last_seen: Option<i64>, connected: Option<i64>, interval_s: u64) -> Pulse {
        Pulse {
            agent: "a".parse().unwrap(),
            last_seen: last_seen.map(Timestamp),
            connected: connected.map(Timestamp),
            interval: Duration::from_secs(interval_s),
        }
    }

    #[test]
    fn an_agent_is_up_for_three_intervals_and_at_least_45_seconds() {
        let now = Timestamp(1_000_000);
        assert!(is_up(&pulse(Some(955_000), None, 5), now));
        assert!(!is_up(&pulse(Some(954_999), None, 5), now));
        assert!(is_up(&pulse(Some(820_000), None, 60), now));
        assert!(is_up(&pulse(None, Some(999_000), 60), now));
        assert!(!is_up(&pulse(Some(1), Some(2), 60), now), "connected and silent is down");
        assert!(!is_up(&pulse(None, None, 60), now));
    }

    #[test]
    fn a_histogram_is_stored_as_a_scrape_would() {
        let registry = Registry::new();
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "help").buckets(vec![0.5, 1.0])).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        histogram.observe(0.7);
        let text: Vec<String> =
            registry.gather().iter().flat_map(samples).map(|(labels, value)| format!("{labels} {value}")).collect();
        let own = r#"instance="collector", job="veghe-collector""#;
        assert_eq!(
            text,
            [
                format!(r#"h_bucket{{{own}, le="0.5"}} 0"#),
                format!(r#"h_bucket{{{own}, le="1"}} 1"#),
                format!(r#"h_bucket{{{own}, le="+Inf"}} 1"#),
                format!("h_sum{{{own}}} 0.7"),
                format!("h_count{{{own}}} 1"),
            ]
        );
    }
}
