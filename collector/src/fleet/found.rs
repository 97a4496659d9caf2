//! What agents found on their machines, and what became of it: new, watched, ignored, vanished.
//!
//! Invariants: a decision stays with its thing, also while that is gone; things are bounded in number for each agent.
//! What it deliberately does not do: decide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;
use veghe_wire::remote::{Findings, MAX_FINDINGS, cut};

/// Things of one agent that are remembered; those that vanished first make room.
const MAX_THINGS: usize = 2 * MAX_FINDINGS;
/// The longest settings that a thing may propose.
const MAX_SETTINGS_BYTES: usize = 4096;

/// What a person said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Nothing yet.
    #[default]
    None,
    /// To be watched; what it needs for that goes into the settings of its agent.
    Watch,
    /// To be shown no more.
    Ignore,
}

/// Where a thing is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// Found, and nobody said anything.
    New,
    /// To be watched, and there.
    Watched,
    /// It was there, and is not any more.
    Vanished,
    /// A person does not want to see it.
    Ignored,
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thing {
    /// More for a person.
    pub detail: String,
    /// What would watch it; empty where nothing is needed.
    pub settings: String,
    /// When it was found first.
    pub first_ms: i64,
    /// When it was there last.
    pub last_ms: i64,
    /// Whether it was gone at the last look.
    pub is_gone: bool,
    /// What a person said.
    pub decision: Decision,
}

impl Thing {
    /// Where it is in its life.
    pub fn life(&self) -> Life {
        match (self.decision, self.is_gone) {
            (Decision::Ignore, _) => Life::Ignored,
            (_, true) => Life::Vanished,
            (Decision::Watch, false) => Life::Watched,
            (Decision::None, false) => Life::New,
        }
    }
}

/// A thing of an agent: kind and name.
pub type Name = (String, String);

/// What one agent has; in JSON a list, as names are pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(Name, Thing)>", into = "Vec<(Name, Thing)>")]
pub struct Things(pub BTreeMap<Name, Thing>);

impl From<Vec<(Name, Thing)>> for Things {
    fn from(list: Vec<(Name, Thing)>) -> Self {
        Self(list.into_iter().collect())
    }
}

impl From<Things> for Vec<(Name, Thing)> {
    fn from(things: Things) -> Self {
        things.0.into_iter().collect()
    }
}

impl Things {
    /// Takes a whole list of an agent.
    pub fn take(&mut self, findings: Findings, now: Timestamp) {
        for thing in self.0.values_mut() {
            thing.is_gone = true;
        }
        for finding in findings.found.into_iter().take(MAX_FINDINGS) {
            let name = (cut(&finding.kind), cut(&finding.name));
            let settings = if finding.settings.len() <= MAX_SETTINGS_BYTES { finding.settings } else { String::new() };
            let first_ms = self.0.get(&name).map_or(now.millis(), |thing| thing.first_ms);
            let decision = self.0.get(&name).map_or(Decision::None, |thing| thing.decision);
            let detail = cut(&finding.detail);
            self.0.insert(name, Thing { detail, settings, first_ms, last_ms: now.millis(), is_gone: false, decision });
        }
        let surplus = self.0.len().saturating_sub(MAX_THINGS);
        let mut gone: Vec<(i64, Name)> = self
            .0
            .iter()
            .filter(|(_, thing)| thing.is_gone)
            .map(|(name, thing)| (thing.last_ms, name.clone()))
            .collect();
        gone.sort();
        for (_, name) in gone.into_iter().take(surplus) {
            self.0.remove(&name);
        }
    }

    /// Settings of what is to be watched: also of what is away, so that a reboot changes nothing.
    pub fn settings(&self) -> Vec<&str> {
        let watched = self.0.values().filter(|thing| thing.decision == Decision::Watch);
        watched.map(|thing| thing.settings.as_str()).filter(|settings| !settings.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use veghe_wire::remote::Finding;

    use super::*;

    fn findings(names: &[&str]) -> Findings {
        let found = names.iter().map(|name| Finding {
            kind: "exporter".into(),
            name: (*name).to_owned(),
            settings: format!("x: {name}"),
            ..Finding::default()
        });
        Findings { found: found.collect(), ..Findings::default() }
    }

    fn lives(things: &Things) -> Vec<(&str, Life)> {
        things.0.iter().map(|((_, name), thing)| (name.as_str(), thing.life())).collect()
    }

    #[test]
    fn a_thing_is_new_watched_vanished_and_watched_again_and_decisions_stay() {
        let mut things = Things::default();
        things.take(findings(&["a", "b", "c"]), Timestamp(1));
        assert_eq!(lives(&things), [("a", Life::New), ("b", Life::New), ("c", Life::New)]);
        things.0.get_mut(&("exporter".into(), "a".into())).expect("a").decision = Decision::Watch;
        things.0.get_mut(&("exporter".into(), "b".into())).expect("b").decision = Decision::Ignore;
        things.take(findings(&["c"]), Timestamp(2));
        assert_eq!(lives(&things), [("a", Life::Vanished), ("b", Life::Ignored), ("c", Life::New)]);
        assert_eq!(things.settings(), ["x: a"]);
        things.take(findings(&["a", "b"]), Timestamp(3));
        assert_eq!(lives(&things), [("a", Life::Watched), ("b", Life::Ignored), ("c", Life::Vanished)]);
        let text = serde_json::to_string(&things).expect("json");
        assert_eq!(serde_json::from_str::<Things>(&text).expect("things"), things);
    }

    #[test]
    fn things_that_come_and_go_without_end_are_forgotten_the_oldest_first() {
        let mut things = Things::default();
        for i in 0..2000 {
            let names: Vec<String> = (0..50).map(|j| format!("{i:04}/{j:02}")).collect();
            things.take(findings(&names.iter().map(String::as_str).collect::<Vec<_>>()), Timestamp(i));
        }
        assert_eq!(things.0.len(), MAX_THINGS);
        assert!(things.0.keys().all(|(_, name)| name.as_str() >= "1992"));
    }
}
