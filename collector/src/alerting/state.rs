//! What a rule's result means for its alerts: inactive, pending, firing, resolved, as Prometheus'
//! `rules.AlertingRule.Eval` decides it.
//!
//! Invariants: time is an argument; one alert per set of labels; a state restored from the ledger is neither resolved
//! nor advanced by a missing result while fresh data may still be on its way (see [`Moment::absence`]).
//! What it deliberately does not do: ask queries, write anywhere, or tell anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use veghe_model::{Labels, METRIC_NAME, Timestamp, stale_nan};
use veghe_promql::VectorSample;

use super::rules::AlertRule;
use super::template::Scope;

/// How long a resolved alert is remembered; Prometheus' `resolvedRetention`.
pub(super) const RESOLVED_RETENTION: Duration = Duration::from_mins(15);

/// The label that carries an alert's name.
pub(super) const ALERT_NAME: &str = "alertname";

/// The series that shows pending and firing alerts.
pub(super) const ALERTS: &str = "ALERTS";

/// The series whose value is the moment since which an alert is active, in seconds.
pub(super) const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AlertState {
    /// It was firing and is no more.
    Inactive,
    /// Its expression is true, but not yet for as long as `for` wants.
    Pending,
    /// It is.
    Firing,
}

impl AlertState {
    /// The word that Prometheus uses.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Firing => "firing",
        }
    }

    /// The state of that word.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Inactive, Self::Pending, Self::Firing].into_iter().find(|state| state.as_str() == word)
    }
}

/// One alert of one rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Alert {
    /// The labels of the sample without the metric's name, the rule's labels and `alertname`.
    pub labels: Labels,
    /// The rule's annotations, expanded with the newest value.
    pub annotations: BTreeMap<String, String>,
    /// Where it stands.
    pub state: AlertState,
    /// The expression's newest value.
    pub value: f64,
    /// Since when the expression is true.
    pub active_at: Timestamp,
    /// When it began to fire.
    pub fired_at: Option<Timestamp>,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// Since when only `keep_firing_for` keeps it.
    pub keep_firing_since: Option<Timestamp>,
}

/// What the absence of an alert from a result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// The condition is over.
    Ended,
    /// The collector just started: for restored alerts it means nothing yet.
    Unknown,
}

/// The circumstances of one evaluation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    /// The evaluation's time.
    pub at: Timestamp,
    /// How to read a missing result.
    pub absence: Absence,
    /// The address of this collector for people, used in templates.
    pub external_url: &'a str,
    /// The group's limit on alerts per rule; 0 is none.
    pub limit: usize,
}

/// What one evaluation leads to.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Samples of `ALERTS` and `ALERTS_FOR_STATE` to be written at the time of the result, markers of ended series included.
    pub samples: Vec<(Labels, f64)>,
    /// Whether something changed that must survive a restart.
    pub changed: bool,
}

/// Why an evaluation gave nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RuleError {
    /// Two results have the same labels once the rule's labels are applied.
    #[error("vector contains metrics with the same labelset after applying alert labels")]
    DuplicateAlerts,
    /// As before, for a recording rule.
    #[error("vector contains metrics with the same labelset after applying rule labels")]
    DuplicateSeries,
    /// More alerts or series than the group's limit.
    #[error("exceeded limit of {limit} with {found} {what}")]
    Limit {
        /// The limit.
        limit: usize,
        /// How many there were.
        found: usize,
        /// `alerts` or `series`.
        what: &'static str,
    },
}

/// The alerts of one rule.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleState {
    alerts: BTreeMap<Labels, Alert>,
    /// Alerts from the ledger, until their absence means something. That one was seen since the start is no reason to
    /// believe its absence: what was seen may be the end of what came before the start.
    restored: BTreeSet<Labels>,
    /// The series written by the last evaluation.
    written: BTreeSet<Labels>,
}

impl RuleState {
    /// The state as the ledger had it.
    pub(super) fn restored(rule: &AlertRule, alerts: Vec<Alert>) -> Self {
        let written = alerts
            .iter()
            .filter(|alert| alert.state != AlertState::Inactive)
            .flat_map(|alert| [alerts_series(rule, alert), for_state_series(rule, alert)])
            .collect();
        let restored = alerts.iter().map(|alert| alert.labels.clone()).collect();
        let alerts = alerts.into_iter().map(|alert| (alert.labels.clone(), alert)).collect();
        Self { alerts, restored, written }
    }

    /// Every alert, ended ones included for [`RESOLVED_RETENTION`].
    pub(super) fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.values()
    }

    /// The state of the rule: that of its most serious alert.
    pub(super) fn state(&self) -> AlertState {
        self.alerts.values().map(|alert| alert.state).max().unwrap_or(AlertState::Inactive)
    }

    /// Takes the result of the rule's expression.
    ///
    /// # Errors
    /// [`RuleError`]; over the limit all alerts of the rule are forgotten, as in Prometheus, otherwise nothing changes.
    pub(super) fn evaluate(
        &mut self,
        rule: &AlertRule,
        vector: &[VectorSample],
        moment: &Moment<'_>,
    ) -> Result<Outcome, RuleError> {
        let found = expand(rule, vector, moment)?;
        let mut outcome = Outcome::default();
        for (labels, fresh) in &found {
            match self.alerts.get_mut(labels) {
                Some(alert) if alert.state != AlertState::Inactive => {
                    alert.value = fresh.value;
                    alert.annotations.clone_from(&fresh.annotations);
                }
                _ => {
                    self.alerts.insert(labels.clone(), fresh.clone());
                    outcome.changed = true;
                }
            }
        }

        let mut active = 0;
        let mut gone = Vec::new();
        let mut written = BTreeSet::new();
        for (labels, alert) in &mut self.alerts {
            if found.contains_key(labels) {
                outcome.changed |= alert.keep_firing_since.take().is_some();
                if alert.state == AlertState::Pending && moment.at.since(alert.active_at) >= rule.hold {
                    alert.state = AlertState::Firing;
                    alert.fired_at = Some(moment.at);
                    outcome.changed = true;
                }
            } else if moment.absence == Absence::Unknown
                && alert.state != AlertState::Inactive
                && self.restored.contains(labels)
            {
                // Neither resolved nor advanced: nobody knows yet.
            } else if keeps_firing(rule, alert, moment.at, &mut outcome.changed) {
            } else {
                let expired = alert.resolved_at.is_some_and(|at| moment.at.since(at) > RESOLVED_RETENTION);
                if alert.state == AlertState::Pending || (alert.state == AlertState::Inactive && expired) {
                    gone.push(labels.clone());
                    outcome.changed = true;
                }
                if alert.state != AlertState::Inactive {
                    alert.state = AlertState::Inactive;
                    alert.resolved_at = Some(moment.at);
                    outcome.changed = true;
                }
                continue;
            }
            active += 1;
            for (series, value) in
                [(alerts_series(rule, alert), 1.0), (for_state_series(rule, alert), (alert.active_at.0 / 1000) as f64)]
            {
                written.insert(series.clone());
                outcome.samples.push((series, value));
            }
        }
        for labels in gone {
            self.alerts.remove(&labels);
            self.restored.remove(&labels);
        }
        if moment.absence == Absence::Ended {
            self.restored.clear();
        }
        if moment.limit > 0 && active > moment.limit {
            self.alerts.clear();
            return Err(RuleError::Limit { limit: moment.limit, found: active, what: "alerts" });
        }
        outcome.samples.extend(self.written.difference(&written).map(|series| (series.clone(), stale_nan())));
        self.written = written;
        Ok(outcome)
    }
}

fn keeps_firing(rule: &AlertRule, alert: &mut Alert, at: Timestamp, changed: &mut bool) -> bool {
    if alert.state != AlertState::Firing || rule.keep_firing_for.is_zero() {
        return false;
    }
    let since = *alert.keep_firing_since.get_or_insert_with(|| {
        *changed = true;
        at
    });
    at.since(since) < rule.keep_firing_for
}

fn expand(
    rule: &AlertRule,
    vector: &[VectorSample],
    moment: &Moment<'_>,
) -> Result<BTreeMap<Labels, Alert>, RuleError> {
    let mut found = BTreeMap::new();
    for sample in vector {
        let scope = Scope { labels: &sample.labels, value: sample.value, external_url: moment.external_url };
        let mut builder = sample.labels.to_builder();
        builder.remove(METRIC_NAME);
        for (name, template) in &rule.labels {
            builder.set(name.as_str(), template.expand(&scope));
        }
        builder.set(ALERT_NAME, rule.name.as_str());
        let labels = builder.build();
        let annotations =
            rule.annotations.iter().map(|(name, template)| (name.clone(), template.expand(&scope))).collect();
        let alert = Alert {
            labels: labels.clone(),
            annotations,
            state: AlertState::Pending,
            value: sample.value,
            active_at: moment.at,
            fired_at: None,
            resolved_at: None,
            keep_firing_since: None,
        };
        if found.insert(labels, alert).is_some() {
            return Err(RuleError::DuplicateAlerts);
        }
    }
    Ok(found)
}

fn alerts_series(rule: &AlertRule, alert: &Alert) -> Labels {
    let mut builder = alert.labels.to_builder();
    builder.set(METRIC_NAME, ALERTS).set(ALERT_NAME, rule.name.as_str()).set("alertstate", alert.state.as_str());
    builder.build()
}

fn for_state_series(rule: &AlertRule, alert: &Alert) -> Labels {
    let mut builder = alert.labels.to_builder();
    builder.set(METRIC_NAME, ALERTS_FOR_STATE).set(ALERT_NAME, rule.name.as_str());
    builder.build()
}

/// Alertmanager's fingerprint of a set of labels: FNV-1a over names and values, each followed by 0xff.
pub(super) fn fingerprint(labels: &Labels) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    labels
        .iter()
        .flat_map(|l| l.name.bytes().chain([0xff]).chain(l.value.bytes()).chain([0xff]))
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerting::template::Template;

    fn rule(hold: u64, keep: u64) -> AlertRule {
        let template = |text: &str| Template::parse(text).expect("template");
        AlertRule {
            name: "DiskFull".to_owned(),
            expr: "free < 5".to_owned(),
            hold: Duration::from_secs(hold),
            keep_firing_for: Duration::from_secs(keep),
            labels: vec![("severity".to_owned(), template("critical"))],
            annotations: vec![("summary".to_owned(), template("{{ $labels.instance }} has {{ $value }} %"))],
        }
    }

    fn sample(instance: &str, value: f64) -> VectorSample {
        let labels = Labels::from_pairs([("__name__", "free"), ("instance", instance)]);
        VectorSample { labels, timestamp: Timestamp(0), value }
    }

    fn moment(seconds: i64) -> Moment<'static> {
        let at = Timestamp(seconds * 1000);
        Moment { at, absence: Absence::Ended, external_url: "", limit: 0 }
    }

    fn states(state: &RuleState) -> Vec<AlertState> {
        state.alerts().map(|a| a.state).collect()
    }

    #[test]
    fn an_alert_fires_after_its_hold_and_resolves_and_is_forgotten_after_15_minutes() {
        let rule = rule(60, 0);
        let mut state = RuleState::default();
        for (at, vector, expected) in [
            (0, vec![sample("a", 3.0)], vec![AlertState::Pending]),
            (59, vec![sample("a", 3.0)], vec![AlertState::Pending]),
            (60, vec![sample("a", 2.0)], vec![AlertState::Firing]),
            (75, vec![], vec![AlertState::Inactive]),
            (75 + 900, vec![], vec![AlertState::Inactive]),
            (75 + 901, vec![], vec![]),
        ] {
            state.evaluate(&rule, &vector, &moment(at)).expect("evaluation");
            assert_eq!(states(&state), expected, "at {at}");
        }
    }

    #[test]
    fn an_alert_has_labels_annotations_value_and_series_of_prometheus() {
        let rule = rule(0, 0);
        let mut state = RuleState::default();
        let outcome = state.evaluate(&rule, &[sample("a", 3.0)], &moment(100)).expect("evaluation");
        let alert = state.alerts().next().expect("one alert");
        assert_eq!(alert.labels.to_string(), r#"{alertname="DiskFull", instance="a", severity="critical"}"#);
        assert_eq!(alert.annotations["summary"], "a has 3 %");
        assert_eq!((alert.active_at, alert.fired_at), (Timestamp(100_000), Some(Timestamp(100_000))));
        let written: Vec<String> = outcome.samples.iter().map(|(l, v)| format!("{l} {v}")).collect();
        assert_eq!(
            written,
            [
                r#"ALERTS{alertname="DiskFull", alertstate="firing", instance="a", severity="critical"} 1"#,
                r#"ALERTS_FOR_STATE{alertname="DiskFull", instance="a", severity="critical"} 100"#,
            ]
        );
        let outcome = state.evaluate(&rule, &[], &moment(115)).expect("evaluation");
        assert!(outcome.samples.iter().all(|(_, v)| veghe_model::is_stale(*v)) && outcome.samples.len() == 2);
        assert!(outcome.changed);
        assert!(!state.evaluate(&rule, &[], &moment(130)).expect("evaluation").changed);
    }

    #[test]
    fn the_pending_series_ends_when_the_alert_fires() {
        let rule = rule(10, 0);
        let mut state = RuleState::default();
        state.evaluate(&rule, &[sample("a", 3.0)], &moment(0)).expect("evaluation");
        let outcome = state.evaluate(&rule, &[sample("a", 3.0)], &moment(15)).expect("evaluation");
        let ended: Vec<_> = outcome.samples.iter().filter(|(_, v)| veghe_model::is_stale(*v)).collect();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].0.get("alertstate"), Some("pending"));
    }

    #[test]
    fn a_pending_alert_that_ends_is_forgotten_and_begins_anew() {
        let rule = rule(60, 0);
        let mut state = RuleState::default();
        state.evaluate(&rule, &[sample("a", 1.0)], &moment(0)).expect("evaluation");
        state.evaluate(&rule, &[], &moment(30)).expect("evaluation");
        assert_eq!(states(&state), []);
        state.evaluate(&rule, &[sample("a", 1.0)], &moment(60)).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Pending]);
    }

    #[test]
    fn keep_firing_for_holds_a_firing_alert_and_starts_over_when_it_returns() {
        let rule = rule(0, 60);
        let mut state = RuleState::default();
        for (at, present, expected) in [
            (0, true, AlertState::Firing),
            (15, false, AlertState::Firing),
            (74, false, AlertState::Firing),
            (74, true, AlertState::Firing),
            (90, false, AlertState::Firing),
            (149, false, AlertState::Firing),
            (150, false, AlertState::Inactive),
        ] {
            let vector = if present { vec![sample("a", 1.0)] } else { vec![] };
            state.evaluate(&rule, &vector, &moment(at)).expect("evaluation");
            assert_eq!(states(&state), [expected], "at {at}");
        }
    }

    #[test]
    fn a_resolved_alert_that_returns_is_a_new_one() {
        let rule = rule(60, 0);
        let mut state = RuleState::default();
        for (at, present) in [(0, true), (60, true), (75, false), (90, true)] {
            let vector = if present { vec![sample("a", 1.0)] } else { vec![] };
            state.evaluate(&rule, &vector, &moment(at)).expect("evaluation");
        }
        let alert = state.alerts().next().expect("one alert");
        assert_eq!((alert.state, alert.active_at, alert.resolved_at), (AlertState::Pending, Timestamp(90_000), None));
    }

    #[test]
    fn equal_labels_and_too_many_alerts_are_errors() {
        let mut rule = rule(0, 0);
        rule.labels.push(("instance".to_owned(), Template::parse("same").expect("template")));
        let mut state = RuleState::default();
        let two = [sample("a", 1.0), sample("b", 1.0)];
        assert_eq!(state.evaluate(&rule, &two, &moment(0)).expect_err("duplicate"), RuleError::DuplicateAlerts);
        rule.labels.pop();
        let limited = Moment { limit: 1, ..moment(0) };
        let error = state.evaluate(&rule, &two, &limited).expect_err("limit");
        assert_eq!(error.to_string(), "exceeded limit of 1 with 2 alerts");
        assert_eq!(states(&state), []);
    }

    fn restart(rule: &AlertRule, state: &RuleState) -> RuleState {
        RuleState::restored(rule, state.alerts().cloned().collect())
    }

    #[test]
    fn a_pending_alert_keeps_its_start_over_a_restart() {
        let rule = rule(60, 0);
        let mut state = RuleState::default();
        state.evaluate(&rule, &[sample("a", 1.0)], &moment(0)).expect("evaluation");
        let mut state = restart(&rule, &state);
        let early = Moment { absence: Absence::Unknown, ..moment(45) };
        state.evaluate(&rule, &[sample("a", 1.0)], &early).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Pending]);
        state.evaluate(&rule, &[sample("a", 1.0)], &moment(60)).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Firing]);
    }

    #[test]
    fn no_data_after_a_restart_neither_resolves_nor_advances_until_data_could_have_come() {
        let rule = rule(60, 0);
        let mut state = RuleState::default();
        state.evaluate(&rule, &[sample("a", 1.0)], &moment(0)).expect("evaluation");
        state.evaluate(&rule, &[sample("a", 1.0), sample("b", 1.0)], &moment(60)).expect("evaluation");
        let mut state = restart(&rule, &state);
        let blind = Moment { absence: Absence::Unknown, ..moment(600) };
        let outcome = state.evaluate(&rule, &[], &blind).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Firing, AlertState::Pending]);
        assert!(!outcome.changed);
        // Seen once after the start, perhaps in samples from before it: still no reason to believe an absence.
        state.evaluate(&rule, &[sample("a", 1.0)], &Moment { absence: Absence::Unknown, ..moment(615) }).expect("ok");
        state.evaluate(&rule, &[], &Moment { absence: Absence::Unknown, ..moment(630) }).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Firing, AlertState::Pending]);
        let outcome = state.evaluate(&rule, &[], &moment(720)).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Inactive]);
        assert!(outcome.changed);
    }

    #[test]
    fn keep_firing_for_survives_a_restart() {
        let rule = rule(0, 60);
        let mut state = RuleState::default();
        state.evaluate(&rule, &[sample("a", 1.0)], &moment(0)).expect("evaluation");
        state.evaluate(&rule, &[], &moment(15)).expect("evaluation");
        let mut state = restart(&rule, &state);
        state.evaluate(&rule, &[], &moment(74)).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Firing]);
        state.evaluate(&rule, &[], &moment(75)).expect("evaluation");
        assert_eq!(states(&state), [AlertState::Inactive]);
    }

    #[test]
    fn the_fingerprint_is_alertmanagers() {
        // prometheus/common model: the empty set is the bare offset.
        assert_eq!(fingerprint(&Labels::default()), 0xcbf2_9ce4_8422_2325);
        let labels = Labels::from_pairs([("alertname", "A"), ("instance", "x")]);
        assert_ne!(fingerprint(&labels), fingerprint(&Labels::from_pairs([("alertname", "Ai"), ("nstance", "x")])));
    }
}
