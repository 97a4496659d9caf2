//! Who is told what, and when: grouping, waiting, repeating, resolving, as Alertmanager's dispatcher and its
//! deduplication stage do it.
//!
//! Invariants: synchronous, time is an argument; [`Dispatcher::plan`] only proposes and [`Dispatcher::apply`] makes it
//! so, after the ledger has it; a resolved notice goes exactly to who got the firing one.
//! What it deliberately does not do: deliver (`delivery`, `webhook`, `mail`) or inhibit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use veghe_model::{Labels, Timestamp};

use super::journal::{NotificationOutcome, NotificationRecord};
use super::state::ALERT_NAME;

/// The most alerts that one message carries; the rest is counted.
pub(super) const MAX_ALERTS_PER_MESSAGE: usize = 500;

/// How alerts become notifications; Alertmanager's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Alerts that agree in these labels are told of together; `alertname`.
    pub group_by: Vec<String>,
    /// How long a new group waits for more of its alerts; 30 s.
    pub group_wait: Duration,
    /// The least time between two messages of a group; 5 min.
    pub group_interval: Duration,
    /// When an unchanged group is told of again; 4 h.
    pub repeat_interval: Duration,
    /// Names of receivers; empty means all.
    pub receivers: Vec<String>,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            group_by: vec![ALERT_NAME.to_owned()],
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_mins(5),
            repeat_interval: Duration::from_hours(4),
            receivers: Vec::new(),
        }
    }
}

/// An alert as it is told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// [`fingerprint`](super::state::fingerprint) of the labels.
    pub fingerprint: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it began to fire, in milliseconds since the Unix epoch.
    pub starts_ms: i64,
    /// When it ended.
    pub ends_ms: Option<i64>,
    /// The address that shows its expression.
    pub generator_url: String,
}

/// One message to one receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    /// The group, in Alertmanager's notation.
    pub group_key: String,
    /// The labels that make the group.
    pub group_labels: BTreeMap<String, String>,
    /// Firing ones first, each part by labels.
    pub alerts: Vec<Notice>,
    /// How many more there were.
    pub truncated: u64,
    /// Whether it is a test that somebody asked for.
    #[serde(default)]
    pub test: bool,
}

impl Message {
    /// Whether any alert fires.
    pub(super) fn is_firing(&self) -> bool {
        self.alerts.iter().any(|alert| alert.ends_ms.is_none())
    }

    /// `firing` or `resolved`.
    pub(super) fn status(&self) -> &'static str {
        if self.is_firing() { "firing" } else { "resolved" }
    }

    /// What all alerts have in common of what `part` gives.
    pub(super) fn common<'a>(
        &'a self,
        part: impl Fn(&'a Notice) -> &'a BTreeMap<String, String>,
    ) -> BTreeMap<&'a str, &'a str> {
        let Some((first, rest)) = self.alerts.split_first() else { return BTreeMap::new() };
        part(first)
            .iter()
            .filter(|(name, value)| rest.iter().all(|alert| part(alert).get(*name) == Some(*value)))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// One line, as Alertmanager's default subject: `[FIRING:2] HostDiskFull (nas-1 critical)`.
    pub(super) fn subject(&self) -> String {
        let firing = self.alerts.iter().filter(|alert| alert.ends_ms.is_none()).count();
        let mut text = if firing > 0 { format!("[FIRING:{firing}]") } else { "[RESOLVED]".to_owned() };
        for value in self.group_labels.values() {
            text.push(' ');
            text.push_str(value);
        }
        let rest: Vec<&str> = self
            .common(|alert| &alert.labels)
            .into_iter()
            .filter(|(name, _)| !self.group_labels.contains_key(*name))
            .map(|(_, value)| value)
            .collect();
        if !rest.is_empty() {
            write!(text, " ({})", rest.join(" ")).expect("invariant: a string takes text");
        }
        text
    }

    /// The log's entry for an attempt at this message.
    pub(super) fn record(
        &self,
        receiver: &str,
        at: Timestamp,
        attempt: u32,
        outcome: NotificationOutcome,
        detail: &str,
    ) -> NotificationRecord {
        NotificationRecord {
            id: 0,
            at_ms: at.0,
            receiver: receiver.to_owned(),
            group_key: self.group_key.clone(),
            status: if self.test { "test" } else { self.status() }.to_owned(),
            subject: self.subject(),
            alerts: u32::try_from(self.alerts.len() as u64 + self.truncated).unwrap_or(u32::MAX),
            attempt,
            outcome,
            detail: detail.to_owned(),
        }
    }
}

/// A group of alerts for one receiver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    /// The receiver's name.
    pub receiver: String,
    /// The group, in Alertmanager's notation: `{}:{alertname="HostDiskFull"}`.
    pub group: String,
}

/// What a receiver was last told about a group; Alertmanager's notification log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// When, in milliseconds since the Unix epoch.
    pub notified_ms: i64,
    /// The labels that make the group.
    pub group_labels: BTreeMap<String, String>,
    /// The alerts that it knows to be firing.
    pub firing: Vec<Notice>,
}

/// What is to be written and sent for one group.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// Which.
    pub key: GroupKey,
    /// What to send, if anything.
    pub message: Option<Message>,
    /// What the receiver knows then; `None`: of nothing firing.
    pub entry: Option<Entry>,
}

#[derive(Clone, Debug)]
struct Pending {
    next_flush: Timestamp,
    entry: Option<Entry>,
}

/// Decides about messages.
#[derive(Debug)]
pub(super) struct Dispatcher {
    route: Route,
    receivers: Vec<String>,
    groups: BTreeMap<GroupKey, Pending>,
}

/// What [`Dispatcher::plan`] proposes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What to write and send.
    pub outgoing: Vec<Outgoing>,
    groups: BTreeMap<GroupKey, Pending>,
}

impl Dispatcher {
    /// For `receivers` as configured, with what the ledger knows of earlier messages.
    pub(super) fn new(route: Route, receivers: Vec<String>, known: BTreeMap<GroupKey, Entry>) -> Self {
        let groups = known
            .into_iter()
            .filter(|(key, _)| receivers.contains(&key.receiver))
            .map(|(key, entry)| {
                let next_flush = Timestamp(entry.notified_ms).saturating_add(route.group_interval);
                (key, Pending { next_flush, entry: Some(entry) })
            })
            .collect();
        Self { route, receivers, groups }
    }

    /// What to tell at `now`, where `alerts` are all that fire and all that ended lately.
    pub(super) fn plan(&self, now: Timestamp, alerts: &[Notice]) -> Plan {
        // Two rules may make the same alert: it fires as long as one of them says so.
        let mut by_print: BTreeMap<u64, &Notice> = BTreeMap::new();
        for alert in alerts {
            let kept = by_print.entry(alert.fingerprint).or_insert(alert);
            if kept.ends_ms.is_some() && alert.ends_ms.is_none() {
                *kept = alert;
            }
        }
        let routed: Vec<&String> = self
            .receivers
            .iter()
            .filter(|name| self.route.receivers.is_empty() || self.route.receivers.contains(name))
            .collect();
        let mut members: BTreeMap<GroupKey, Vec<&Notice>> = BTreeMap::new();
        for alert in by_print.values().filter(|alert| alert.ends_ms.is_none()) {
            let (group, _) = self.group_of(alert);
            for receiver in &routed {
                let key = GroupKey { receiver: (*receiver).clone(), group: group.clone() };
                members.entry(key).or_default().push(alert);
            }
        }

        let mut plan = Plan::default();
        let keys: BTreeSet<&GroupKey> = self.groups.keys().chain(members.keys()).collect();
        for key in keys {
            let current = members.get(key).map_or(&[][..], Vec::as_slice);
            let known = self.groups.get(key);
            // A group that is no longer routed (another grouping, another list of receivers) lives on until what
            // it told of has ended.
            let orphan = current.is_empty();
            let entry = known.and_then(|group| group.entry.as_ref());
            let firing: Vec<&Notice> = if orphan {
                entry
                    .into_iter()
                    .flat_map(|entry| &entry.firing)
                    .filter_map(|told| by_print.get(&told.fingerprint).copied())
                    .filter(|alert| alert.ends_ms.is_none())
                    .filter(|alert| !routed.contains(&&key.receiver) || self.group_of(alert).0 == key.group)
                    .collect()
            } else {
                current.to_vec()
            };
            let oldest = firing.iter().map(|alert| alert.starts_ms).min();
            let next_flush = known.map_or_else(
                || {
                    let started = Timestamp(oldest.unwrap_or(now.0)).saturating_add(self.route.group_wait);
                    // What fires for long (the collector was away) need not wait for company.
                    if started < now { now } else { now.saturating_add(self.route.group_wait) }
                },
                // Never further away than it was set: the clock may have gone back.
                |group| group.next_flush.min(now.saturating_add(self.route.group_interval.max(self.route.group_wait))),
            );
            if firing.is_empty() && entry.is_none() {
                continue;
            }
            if next_flush > now {
                plan.groups.insert(key.clone(), Pending { next_flush, entry: entry.cloned() });
                continue;
            }
            let next_flush = now.saturating_add(self.route.group_interval);
            let Some(outgoing) = self.flush(key, entry, &firing, &by_print, now) else {
                plan.groups.insert(key.clone(), Pending { next_flush, entry: entry.cloned() });
                continue;
            };
            if let Some(entry) = &outgoing.entry {
                plan.groups.insert(key.clone(), Pending { next_flush, entry: Some(entry.clone()) });
            }
            plan.outgoing.push(outgoing);
        }
        plan
    }

    /// Makes a plan so.
    pub(super) fn apply(&mut self, plan: Plan) {
        self.groups = plan.groups;
    }

    fn flush(
        &self,
        key: &GroupKey,
        entry: Option<&Entry>,
        firing: &[&Notice],
        by_print: &BTreeMap<u64, &Notice>,
        now: Timestamp,
    ) -> Option<Outgoing> {
        let told = entry.map_or(&[][..], |entry| entry.firing.as_slice());
        let resolved: Vec<Notice> = told
            .iter()
            .filter(|old| !firing.iter().any(|alert| alert.fingerprint == old.fingerprint))
            // Under another grouping it may fire on, told of elsewhere: then there is nothing to resolve.
            .filter(|old| by_print.get(&old.fingerprint).is_none_or(|alert| alert.ends_ms.is_some()))
            .map(|old| ended(old, by_print.get(&old.fingerprint).copied(), now))
            .collect();
        let new = firing.iter().any(|alert| !told.iter().any(|old| old.fingerprint == alert.fingerprint));
        let due = entry.is_none_or(|e| Timestamp(e.notified_ms).saturating_add(self.route.repeat_interval) <= now);
        if firing.is_empty() && resolved.is_empty() {
            return Some(Outgoing { key: key.clone(), message: None, entry: None });
        }
        if !new && resolved.is_empty() && !due {
            return None;
        }
        let group_labels = match (entry, firing.first()) {
            (Some(entry), _) => entry.group_labels.clone(),
            (None, Some(alert)) => self.group_of(alert).1,
            (None, None) => BTreeMap::new(),
        };
        let mut alerts: Vec<Notice> = firing.iter().map(|alert| (*alert).clone()).collect();
        alerts.sort_by(|a, b| a.labels.cmp(&b.labels));
        let entry = (!firing.is_empty()).then(|| Entry {
            notified_ms: now.0,
            group_labels: group_labels.clone(),
            firing: alerts.clone(),
        });
        alerts.extend(resolved);
        let truncated = alerts.len().saturating_sub(MAX_ALERTS_PER_MESSAGE) as u64;
        alerts.truncate(MAX_ALERTS_PER_MESSAGE);
        let message = Message { group_key: key.group.clone(), group_labels, alerts, truncated, test: false };
        Some(Outgoing { key: key.clone(), message: Some(message), entry })
    }

    fn group_of(&self, alert: &Notice) -> (String, BTreeMap<String, String>) {
        let labels: BTreeMap<String, String> = self
            .route
            .group_by
            .iter()
            .filter_map(|name| alert.labels.get(name).map(|value| (name.clone(), value.clone())))
            .collect();
        (format!("{{}}:{}", Labels::from_pairs(labels.clone())), labels)
    }
}

fn ended(told: &Notice, now_known: Option<&Notice>, now: Timestamp) -> Notice {
    let newest = now_known.unwrap_or(told);
    Notice { ends_ms: Some(newest.ends_ms.unwrap_or(now.0)), starts_ms: told.starts_ms, ..newest.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerting::state::fingerprint;

    fn notice(name: &str, instance: &str, starts: i64, ends: Option<i64>) -> Notice {
        let labels = Labels::from_pairs([("alertname", name), ("instance", instance)]);
        Notice {
            fingerprint: fingerprint(&labels),
            labels: labels.iter().map(|l| (l.name.to_string(), l.value.to_string())).collect(),
            annotations: BTreeMap::new(),
            starts_ms: starts * 1000,
            ends_ms: ends.map(|s| s * 1000),
            generator_url: String::new(),
        }
    }

    fn dispatcher() -> Dispatcher {
        Dispatcher::new(Route::default(), vec!["ops".to_owned()], BTreeMap::new())
    }

    /// Subjects of what is sent at `seconds`.
    fn step(dispatcher: &mut Dispatcher, seconds: i64, alerts: &[Notice]) -> Vec<String> {
        let plan = dispatcher.plan(Timestamp(seconds * 1000), alerts);
        let sent = plan
            .outgoing
            .iter()
            .filter_map(|o| o.message.as_ref().map(|m| format!("{} {}", o.key.receiver, m.subject())))
            .collect();
        dispatcher.apply(plan);
        sent
    }

    #[test]
    fn a_group_waits_then_tells_once_then_after_its_interval_then_repeats() {
        let mut d = dispatcher();
        let one = [notice("A", "x", 0, None)];
        let two = [notice("A", "x", 0, None), notice("A", "y", 60, None)];
        assert_eq!(step(&mut d, 0, &one), [""; 0]);
        assert_eq!(step(&mut d, 29, &one), [""; 0]);
        assert_eq!(step(&mut d, 30, &one), ["ops [FIRING:1] A (x)"]);
        for t in [31, 60, 329] {
            assert_eq!(step(&mut d, t, &two), [""; 0], "at {t}");
        }
        assert_eq!(step(&mut d, 330, &two), ["ops [FIRING:2] A"]);
        for t in (345..330 + 4 * 3600).step_by(15) {
            assert_eq!(step(&mut d, t, &two), [""; 0], "at {t}");
        }
        assert_eq!(step(&mut d, 330 + 4 * 3600, &two), ["ops [FIRING:2] A"]);
    }

    #[test]
    fn what_ends_before_it_was_told_is_never_told() {
        let mut d = dispatcher();
        assert_eq!(step(&mut d, 0, &[notice("A", "x", 0, None)]), [""; 0]);
        assert_eq!(step(&mut d, 30, &[notice("A", "x", 0, Some(20))]), [""; 0]);
        assert!(d.groups.is_empty());
    }

    #[test]
    fn a_resolved_alert_is_told_of_once_with_its_end() {
        let mut d = dispatcher();
        step(&mut d, 0, &[notice("A", "x", 0, None)]);
        step(&mut d, 30, &[notice("A", "x", 0, None)]);
        let over = [notice("A", "x", 0, Some(100))];
        assert_eq!(step(&mut d, 100, &over), [""; 0]);
        let plan = d.plan(Timestamp(330_000), &over);
        let message = plan.outgoing[0].message.as_ref().expect("message");
        assert_eq!((message.status(), message.alerts[0].ends_ms), ("resolved", Some(100_000)));
        d.apply(plan);
        assert_eq!(step(&mut d, 900, &over), [""; 0]);
        assert!(d.groups.is_empty());
    }

    #[test]
    fn an_alert_that_is_gone_altogether_counts_as_resolved() {
        let mut d = dispatcher();
        step(&mut d, 0, &[notice("A", "x", 0, None)]);
        step(&mut d, 30, &[notice("A", "x", 0, None)]);
        assert_eq!(step(&mut d, 330, &[]), ["ops [RESOLVED] A (x)"]);
    }

    #[test]
    fn what_was_told_before_a_restart_is_not_told_again_but_its_end_is() {
        let mut d = dispatcher();
        let alerts = [notice("A", "x", 0, None)];
        step(&mut d, 0, &alerts);
        let plan = d.plan(Timestamp(30_000), &alerts);
        let known: BTreeMap<GroupKey, Entry> =
            plan.outgoing.iter().filter_map(|o| o.entry.clone().map(|e| (o.key.clone(), e))).collect();
        let mut again = Dispatcher::new(Route::default(), vec!["ops".to_owned()], known.clone());
        assert_eq!(step(&mut again, 5000, &alerts), [""; 0]);
        assert_eq!(step(&mut again, 5300, &[]), ["ops [RESOLVED] A (x)"]);
        // A receiver that is no longer on the route still gets the end of what it was told.
        let route = Route { receivers: vec!["other".to_owned()], ..Route::default() };
        let both = vec!["ops".to_owned(), "other".to_owned()];
        let mut moved = Dispatcher::new(route, both, known);
        assert_eq!(step(&mut moved, 5000, &alerts), ["other [FIRING:1] A (x)"]);
        let mut sent = step(&mut moved, 5300, &[]);
        sent.sort();
        assert_eq!(sent, ["ops [RESOLVED] A (x)", "other [RESOLVED] A (x)"]);
    }

    #[test]
    fn another_grouping_tells_again_without_a_false_all_clear() {
        let mut d = dispatcher();
        let alerts = [notice("A", "x", 0, None)];
        step(&mut d, 0, &alerts);
        step(&mut d, 30, &alerts);
        let known = d.groups.into_iter().filter_map(|(key, group)| group.entry.map(|entry| (key, entry))).collect();
        let route = Route { group_by: vec!["instance".to_owned()], ..Route::default() };
        let mut d = Dispatcher::new(route, vec!["ops".to_owned()], known);
        assert_eq!(step(&mut d, 400, &alerts), ["ops [FIRING:1] x (A)"]);
        assert_eq!(step(&mut d, 800, &[]), ["ops [RESOLVED] x (A)"]);
        assert!(d.groups.is_empty());
    }

    #[test]
    fn alerts_that_fired_while_nobody_was_told_are_told_at_once() {
        let mut d = dispatcher();
        assert_eq!(step(&mut d, 1000, &[notice("A", "x", 0, None)]), ["ops [FIRING:1] A (x)"]);
    }

    #[test]
    fn a_clock_that_went_back_delays_no_message_for_longer_than_an_interval() {
        let mut d = dispatcher();
        step(&mut d, 10_000, &[notice("A", "x", 10_000, None)]);
        assert_eq!(step(&mut d, 1000, &[notice("A", "x", 10_000, None)]), [""; 0]);
        assert_eq!(step(&mut d, 1300, &[notice("A", "x", 10_000, None)]), ["ops [FIRING:1] A (x)"]);
    }

    #[test]
    fn a_plan_that_is_not_applied_is_made_again() {
        let mut d = dispatcher();
        step(&mut d, 0, &[notice("A", "x", 0, None)]);
        let lost = d.plan(Timestamp(30_000), &[notice("A", "x", 0, None)]);
        assert_eq!(lost.outgoing.len(), 1);
        assert_eq!(step(&mut d, 31, &[notice("A", "x", 0, None)]), ["ops [FIRING:1] A (x)"]);
    }

    #[test]
    fn a_message_is_bounded() {
        let mut d = dispatcher();
        let many: Vec<Notice> = (0..700).map(|i| notice("A", &i.to_string(), 0, None)).collect();
        let plan = d.plan(Timestamp(100_000), &many);
        let message = plan.outgoing[0].message.as_ref().expect("message");
        assert_eq!((message.alerts.len(), message.truncated), (500, 200));
        d.apply(plan);
    }
}
