//! Alerting's own metrics. What it deliberately does not do: count anything by itself.

use prometheus::{CounterVec, GaugeVec, Histogram, HistogramOpts, Opts, Registry};

/// Registered once at start.
#[derive(Clone)]
pub(super) struct AlertingMetrics {
    /// Attempts to notify, by receiver and outcome.
    pub notifications: CounterVec,
    /// Messages that wait, by receiver.
    pub outbox: GaugeVec,
    /// Time that one rule takes.
    pub rule_duration: Histogram,
    /// Rules that failed, by group.
    pub rule_failures: CounterVec,
    /// Rounds of a group that were due while an earlier one still ran.
    pub iterations_missed: CounterVec,
    /// Alerts by state.
    pub alerts: GaugeVec,
    /// Reloads by result.
    pub reloads: CounterVec,
}

impl AlertingMetrics {
    /// Registers every metric with `registry`.
    ///
    /// # Errors
    /// A name is registered already.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = CounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let rule_duration = Histogram::with_opts(
            HistogramOpts::new("veghe_rule_evaluation_duration_seconds", "Time that the evaluation of one rule takes.")
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
        )?;
        registry.register(Box::new(rule_duration.clone()))?;
        Ok(Self {
            notifications: counter(
                "veghe_alert_notifications_total",
                "Attempts to notify: delivered, retry, failed (refused), expired (given up), dropped (queue full).",
                &["receiver", "outcome"],
            )?,
            outbox: gauge("veghe_alert_outbox_messages", "Notifications that wait for their receiver.", &["receiver"])?,
            rule_duration,
            rule_failures: counter(
                "veghe_rule_evaluation_failures_total",
                "Rule evaluations that gave an error.",
                &["rule_group"],
            )?,
            iterations_missed: counter(
                "veghe_rule_group_iterations_missed_total",
                "Evaluations of a rule group that were skipped because they came due too late.",
                &["rule_group"],
            )?,
            alerts: gauge("veghe_alerts", "Alerts by state.", &["state"])?,
            reloads: counter("veghe_rule_reloads_total", "Reloads of rule files.", &["outcome"])?,
        })
    }
}
