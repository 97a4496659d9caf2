//! Rules and alerts as Prometheus' `/api/v1/rules` and `/api/v1/alerts` show them.
//! What it deliberately does not do: serve them (`web`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use veghe_model::Timestamp;

use super::journal::label_map;
use super::rules::{Group, Rule};
use super::state::{Alert, AlertState, RuleState};
use super::template::format_e;
use super::webhook::rfc3339;

/// One entry of `data.groups` of `/api/v1/rules`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleGroupView {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its rules, in order.
    pub rules: Vec<RuleView>,
    /// Seconds.
    pub interval: f64,
    /// Most alerts or series per rule; 0 is none.
    pub limit: usize,
    /// Seconds that the last round took.
    pub evaluation_time: f64,
    /// When the last round was, RFC 3339; Go's zero time before the first.
    pub last_evaluation: String,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum RuleView {
    /// An alerting rule.
    Alerting {
        /// The state of its most serious alert.
        state: &'static str,
        /// Its name.
        name: String,
        /// Its expression.
        query: String,
        /// `for`, in seconds.
        duration: f64,
        /// In seconds.
        keep_firing_for: f64,
        /// As written.
        labels: BTreeMap<String, String>,
        /// As written.
        annotations: BTreeMap<String, String>,
        /// Pending and firing ones.
        alerts: Vec<AlertView>,
        /// `ok`, `err` or `unknown`.
        health: &'static str,
        /// Why it is `err`.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_error: Option<String>,
        /// Seconds.
        evaluation_time: f64,
        /// RFC 3339.
        last_evaluation: String,
    },
    /// A recording rule.
    Recording {
        /// Its name.
        name: String,
        /// Its expression.
        query: String,
        /// As written.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// `ok`, `err` or `unknown`.
        health: &'static str,
        /// Why it is `err`.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_error: Option<String>,
        /// Seconds.
        evaluation_time: f64,
        /// RFC 3339.
        last_evaluation: String,
    },
}

/// One pending or firing alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertView {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its texts.
    pub annotations: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: &'static str,
    /// Since when its expression is true, RFC 3339.
    pub active_at: String,
    /// Since when only `keep_firing_for` keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_firing_since: Option<String>,
    /// As Go's `%e` writes it.
    pub value: String,
}

/// How the last evaluation of a rule went.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) last: Option<Timestamp>,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
}

impl Health {
    fn word(&self) -> &'static str {
        match (&self.error, self.last) {
            (Some(_), _) => "err",
            (None, Some(_)) => "ok",
            (None, None) => "unknown",
        }
    }
}

pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), rfc3339)
}

pub(super) fn group(group: &Group, rules: Vec<RuleView>, last: Option<Timestamp>, took: Duration) -> RuleGroupView {
    RuleGroupView {
        name: group.name.clone(),
        file: group.file.clone(),
        rules,
        interval: group.interval.as_secs_f64(),
        limit: group.limit,
        evaluation_time: took.as_secs_f64(),
        last_evaluation: time(last),
    }
}

pub(super) fn rule(rule: &Rule, state: &RuleState, health: &Health) -> RuleView {
    let texts = |pairs: &[(String, super::template::Template)]| {
        pairs.iter().map(|(name, template)| (name.clone(), template.text().to_owned())).collect()
    };
    match rule {
        Rule::Alert { rule, .. } => RuleView::Alerting {
            state: state.state().as_str(),
            name: rule.name.clone(),
            query: rule.expr.clone(),
            duration: rule.hold.as_secs_f64(),
            keep_firing_for: rule.keep_firing_for.as_secs_f64(),
            labels: texts(&rule.labels),
            annotations: texts(&rule.annotations),
            alerts: state.alerts().filter(|a| a.state != AlertState::Inactive).map(alert).collect(),
            health: health.word(),
            last_error: health.error.clone(),
            evaluation_time: health.took.as_secs_f64(),
            last_evaluation: time(health.last),
        },
        Rule::Record { rule, .. } => RuleView::Recording {
            name: rule.name.clone(),
            query: rule.expr.clone(),
            labels: rule.labels.iter().cloned().collect(),
            health: health.word(),
            last_error: health.error.clone(),
            evaluation_time: health.took.as_secs_f64(),
            last_evaluation: time(health.last),
        },
    }
}

fn alert(alert: &Alert) -> AlertView {
    AlertView {
        labels: label_map(&alert.labels),
        annotations: alert.annotations.clone(),
        state: alert.state.as_str(),
        active_at: rfc3339(alert.active_at),
        keep_firing_since: alert.keep_firing_since.map(rfc3339),
        value: format_e(alert.value),
    }
}
