//! Staged roll-out of settings: first to a few agents, to the rest after they have lasted, back to what was before when
//! one of them fails.
//!
//! Pure: what agents say and what time it is are arguments, what each agent is to run with is the result. Invariants:
//! settings that failed are not tried again until they change or a person says so; an agent is told to run only what
//! was settled for it, or what a roll-out that has reached it carries. What it deliberately does not do: read files,
//! speak to agents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use veghe_model::Timestamp;
use veghe_wire::remote::Report;

use super::groups::Document;

/// The label that makes an agent one of the first.
pub const CANARY: (&str, &str) = ("canary", "true");
/// An agent that took settings and was silent for so long has failed.
const SILENCE: Duration = Duration::from_mins(2);
/// An agent that is connected has so long to take settings, at least.
const TAKING: Duration = Duration::from_mins(2);

/// How a roll-out goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The share of agents that are first, where none has the label [`CANARY`]; at least one.
    pub first_ratio: f64,
    /// How long they have to last.
    pub soak: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { first_ratio: 0.1, soak: Duration::from_mins(10) }
    }
}

/// What an agent said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at_ms: i64,
    /// Number of what it runs with, 0 for its own file alone.
    pub number: u64,
    /// Hash of the same, empty without.
    pub hash: String,
    /// Whether that is on trial.
    pub on_trial: bool,
    /// Number of what it refused since.
    pub refused_number: u64,
    /// Hash of the same, empty for nothing.
    pub refused_hash: String,
    /// Why, each `line: key: message`.
    pub reasons: Vec<String>,
    /// Sensors that failed.
    pub failing: BTreeSet<String>,
    /// Sensors that failed already with the settings before.
    pub failing_before: BTreeSet<String>,
}

impl Told {
    /// What `report` says, after `before`.
    pub fn after(before: Option<&Self>, report: &Report, now: Timestamp) -> Self {
        let failing: BTreeSet<String> = report.failing.iter().cloned().collect();
        let hash = if report.hash == empty_hash() { String::new() } else { report.hash.clone() };
        let refused = report.reasons.iter().map(|reason| match (reason.line, reason.key.as_str()) {
            (0, "") => reason.message.clone(),
            (line, key) => format!("line {line}: {key}: {}", reason.message),
        });
        let failing_before = match before {
            Some(before) if before.hash == hash => before.failing_before.clone(),
            Some(before) => before.failing.clone(),
            None => failing.clone(),
        };
        Self {
            at_ms: now.millis(),
            number: report.number,
            hash,
            on_trial: report.on_trial,
            refused_number: report.refused_number,
            refused_hash: report.refused_hash.clone(),
            reasons: refused.collect(),
            failing,
            failing_before,
        }
    }
}

/// What is known of an agent besides what it said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Whether it is connected.
    pub is_connected: bool,
    /// When a message of it came last.
    pub last_seen: Option<Timestamp>,
}

/// How far a roll-out is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The first agents have it.
    First,
    /// Everybody has it.
    Rest,
    /// It lasted.
    Done,
    /// It failed.
    RolledBack,
}

/// One roll-out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Counts them.
    pub number: u64,
    /// When it began, or reached everybody.
    pub since_ms: i64,
    /// How far it is.
    pub stage: Stage,
    /// Who is first.
    pub first: BTreeSet<String>,
    /// What each agent gets.
    pub targets: BTreeMap<String, String>,
    /// What each had.
    before: BTreeMap<String, String>,
    /// When the last of the first confirmed.
    confirmed_ms: Option<i64>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// Everything that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The last number that was used.
    pub number: u64,
    /// Texts by hash.
    docs: BTreeMap<String, String>,
    /// What each agent is to run with when nothing is going on: hash and number.
    settled: BTreeMap<String, (String, u64)>,
    /// The last roll-out.
    pub rollout: Option<Rollout>,
    /// Hashes that lasted somewhere.
    proven: BTreeSet<String>,
    /// Hashes that failed, and why.
    rejected: BTreeMap<String, String>,
    /// What agents said.
    pub told: BTreeMap<String, Told>,
}

/// What an agent is to run with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of which roll-out; 0 for none.
    pub number: u64,
    /// Empty for no settings.
    pub hash: String,
}

fn empty_hash() -> String {
    veghe_wire::enrolment::to_hex(&Sha256::digest(b""))
}

impl State {
    /// What `agent` is to run with now.
    pub fn wanted(&self, agent: &str) -> Wanted {
        if let Some(rollout) = &self.rollout
            && rollout.stage == Stage::First
            && rollout.first.contains(agent)
            && let Some(hash) = rollout.targets.get(agent)
        {
            return Wanted { number: rollout.number, hash: hash.clone() };
        }
        let (hash, number) = self.settled.get(agent).cloned().unwrap_or_default();
        Wanted { number, hash }
    }

    /// The text and hash of what is offered for `hash`.
    pub fn text(&self, hash: &str) -> Option<(String, String)> {
        if hash.is_empty() {
            return Some((String::new(), empty_hash()));
        }
        self.docs.get(hash).map(|text| (text.clone(), hash.to_owned()))
    }

    /// Whether `agent` is to be offered something: it runs with something else, and has not refused this.
    pub fn is_due(&self, agent: &str) -> bool {
        let wanted = self.wanted(agent);
        self.told.get(agent).is_some_and(|told| {
            let wire = if wanted.hash.is_empty() { empty_hash() } else { wanted.hash.clone() };
            told.hash != wanted.hash && told.refused_hash != wire
        })
    }

    /// Why settings that failed are not tried again, if they are those that `agent` would get.
    pub fn rejected(&self, desired: &str) -> Option<&str> {
        self.rejected.get(desired).map(String::as_str)
    }

    /// Forgets what failed, so that it is tried again.
    pub fn retry(&mut self) {
        self.rejected.clear();
    }

    /// Goes on: `desired` is what the files say for each agent, `canaries` those with the label. True where anything
    /// changed.
    pub fn step(
        &mut self,
        desired: &BTreeMap<String, Document>,
        canaries: &BTreeSet<String>,
        pulses: &BTreeMap<String, Pulse>,
        settings: &Settings,
        now: Timestamp,
    ) -> bool {
        let before = self.clone();
        for document in desired.values().filter(|document| !document.hash.is_empty()) {
            self.docs.entry(document.hash.clone()).or_insert_with(|| document.text.clone());
        }
        self.judge(pulses, settings, now);
        let mut changed: BTreeMap<String, String> = BTreeMap::new();
        for (agent, document) in desired {
            let settled = self.settled.get(agent).map_or("", |(hash, _)| hash);
            if settled == document.hash || self.rejected.contains_key(&document.hash) {
                continue;
            }
            // What lasted elsewhere needs no trial, and neither does an agent's own file alone.
            if document.hash.is_empty() || self.proven.contains(&document.hash) {
                self.settled.insert(agent.clone(), (document.hash.clone(), self.number));
            } else {
                changed.insert(agent.clone(), document.hash.clone());
            }
        }
        self.begin(changed, canaries, pulses, settings, now);
        self.forget();
        *self != before
    }

    fn begin(
        &mut self,
        changed: BTreeMap<String, String>,
        canaries: &BTreeSet<String>,
        pulses: &BTreeMap<String, Pulse>,
        settings: &Settings,
        now: Timestamp,
    ) {
        let active = self.rollout.as_ref().filter(|rollout| rollout.stage == Stage::First);
        if changed.is_empty() {
            if active.is_some() {
                // The files went back to what everybody has.
                self.rollout = None;
            }
            return;
        }
        let is_connected = |agent: &&String| pulses.get(*agent).is_some_and(|pulse| pulse.is_connected);
        if let Some(active) = active
            && active.targets == changed
        {
            // Another choice only where nobody of the first is there, or has been since.
            let has_begun = |agent: &&String| {
                is_connected(agent)
                    || self.told.get(*agent).is_some_and(|told| Some(&told.hash) == active.targets.get(*agent))
            };
            if active.first.iter().any(|agent| has_begun(&agent)) || !changed.keys().any(|agent| is_connected(&agent)) {
                return;
            }
        }
        self.number += 1;
        let number = self.number;
        let labelled: BTreeSet<String> = changed.keys().filter(|agent| canaries.contains(*agent)).cloned().collect();
        let first = if labelled.is_empty() { few(&changed, pulses, settings, number) } else { labelled };
        let before = changed
            .keys()
            .map(|agent| (agent.clone(), self.settled.get(agent).map_or(String::new(), |(h, _)| h.clone())));
        let before = before.collect();
        tracing::info!(number, agents = changed.len(), first = ?first, "settings are rolled out");
        self.rollout = Some(Rollout {
            number,
            since_ms: now.millis(),
            stage: Stage::First,
            first,
            targets: changed,
            before,
            confirmed_ms: None,
            reason: None,
        });
    }

    /// Looks whether the roll-out that is going on has failed, or goes on.
    fn judge(&mut self, pulses: &BTreeMap<String, Pulse>, settings: &Settings, now: Timestamp) {
        let Some(mut rollout) = self.rollout.take() else { return };
        let since = now.since(Timestamp(rollout.since_ms));
        match rollout.stage {
            Stage::Done | Stage::RolledBack => {}
            Stage::First => {
                let verdicts: Vec<Verdict> =
                    rollout.first.iter().map(|agent| self.verdict(agent, &rollout, pulses, settings, now)).collect();
                let failure = verdicts.iter().find_map(|verdict| match verdict {
                    Verdict::Failed(reason) => Some(reason.clone()),
                    _ => None,
                });
                let confirmed = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Runs)).count();
                let open = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Open)).count();
                if let Some(reason) = failure {
                    self.roll_back(&mut rollout, reason, now);
                } else if confirmed == 0 || open > 0 {
                    rollout.confirmed_ms = None;
                } else {
                    let confirmed_ms = *rollout.confirmed_ms.get_or_insert(now.millis());
                    if now.since(Timestamp(confirmed_ms)) >= settings.soak {
                        tracing::info!(
                            number = rollout.number,
                            "settings lasted where they were first; everybody gets them"
                        );
                        for (agent, hash) in &rollout.targets {
                            self.settled.insert(agent.clone(), (hash.clone(), rollout.number));
                        }
                        (rollout.stage, rollout.since_ms) = (Stage::Rest, now.millis());
                    }
                }
            }
            Stage::Rest => {
                let failures: Vec<String> = rollout
                    .targets
                    .keys()
                    .filter_map(|agent| match self.verdict(agent, &rollout, pulses, settings, now) {
                        Verdict::Failed(reason) => Some(reason),
                        Verdict::Open | Verdict::Away | Verdict::Runs => None,
                    })
                    .collect();
                // One machine in ten may have troubles of its own.
                if failures.len() * 10 > rollout.targets.len() {
                    let more =
                        if failures.len() > 1 { format!(" (and {} more)", failures.len() - 1) } else { String::new() };
                    let reason = failures.first().map_or(String::new(), |first| format!("{first}{more}"));
                    self.roll_back(&mut rollout, reason, now);
                } else if since >= settings.soak {
                    rollout.stage = Stage::Done;
                    self.proven.extend(rollout.targets.values().cloned());
                    tracing::info!(number = rollout.number, "roll-out of settings is done");
                }
            }
        }
        self.rollout = Some(rollout);
    }

    fn roll_back(&mut self, rollout: &mut Rollout, reason: String, now: Timestamp) {
        tracing::error!(number = rollout.number, reason, "settings failed; agents go back to the ones before");
        for hash in rollout.targets.values() {
            self.rejected.insert(hash.clone(), reason.clone());
        }
        for (agent, hash) in &rollout.before {
            if self.settled.get(agent).is_some_and(|(settled, _)| rollout.targets.get(agent) == Some(settled)) {
                self.settled.insert(agent.clone(), (hash.clone(), rollout.number));
            }
        }
        (rollout.stage, rollout.since_ms, rollout.reason) = (Stage::RolledBack, now.millis(), Some(reason));
    }

    fn verdict(
        &self,
        agent: &str,
        rollout: &Rollout,
        pulses: &BTreeMap<String, Pulse>,
        settings: &Settings,
        now: Timestamp,
    ) -> Verdict {
        let hash = rollout.targets.get(agent).map_or("", String::as_str);
        let pulse = pulses.get(agent).copied().unwrap_or_default();
        let Some(told) = self.told.get(agent) else { return Verdict::Away };
        if told.refused_hash == hash {
            let why = told.reasons.first().map_or("it says no more", String::as_str);
            return Verdict::Failed(format!("{agent} refuses them: {why}"));
        }
        let silent_since = pulse.last_seen.map_or(told.at_ms, |seen| seen.millis().max(told.at_ms));
        let silence = now.since(Timestamp(silent_since.max(rollout.since_ms)));
        if told.hash == hash {
            if !pulse.is_connected && silence >= SILENCE {
                return Verdict::Failed(format!("{agent} took them and went silent"));
            }
            let new: Vec<&str> = told.failing.difference(&told.failing_before).map(String::as_str).collect();
            if !told.on_trial && !new.is_empty() {
                return Verdict::Failed(format!("on {agent} these sensors fail since: {}", new.join(", ")));
            }
            return if told.on_trial { Verdict::Open } else { Verdict::Runs };
        }
        if !pulse.is_connected {
            return Verdict::Away;
        }
        if now.since(Timestamp(rollout.since_ms)) >= settings.soak.max(TAKING) {
            return Verdict::Failed(format!("{agent} is connected and does not take them"));
        }
        Verdict::Open
    }

    /// Texts and verdicts on them that nobody needs any more.
    fn forget(&mut self) {
        let mut needed: BTreeSet<String> = self.settled.values().map(|(hash, _)| hash.clone()).collect();
        if let Some(rollout) = &self.rollout {
            needed.extend(rollout.targets.values().chain(rollout.before.values()).cloned());
        }
        self.docs.retain(|hash, _| needed.contains(hash));
        self.proven.retain(|hash| needed.contains(hash));
        self.rejected.retain(|hash, _| needed.contains(hash));
    }
}

enum Verdict {
    /// It runs with them, off trial.
    Runs,
    /// It has still to take or to prove them.
    Open,
    /// It is not there, which says nothing.
    Away,
    Failed(String),
}

/// The agents that are first, as a roll of dice that this number makes; those that are there before all others.
fn few(
    changed: &BTreeMap<String, String>,
    pulses: &BTreeMap<String, Pulse>,
    settings: &Settings,
    number: u64,
) -> BTreeSet<String> {
    let mut agents: Vec<(bool, Vec<u8>, &String)> = changed
        .keys()
        .map(|agent| {
            let is_away = !pulses.get(agent).is_some_and(|pulse| pulse.is_connected);
            (is_away, Sha256::digest(format!("{number}/{agent}")).to_vec(), agent)
        })
        .collect();
    agents.sort();
    let count = (changed.len() as f64 * settings.first_ratio).ceil().max(1.0) as usize;
    agents.into_iter().take(count).map(|(_, _, agent)| agent.clone()).collect()
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
