//! The fleet: which settings agents get and when, what they run with, what they found on their machines.
//!
//! One lock owns all of it; the ledger has a copy, written each few seconds where something changed. Invariants: files
//! that are wrong change nothing; nobody waits for a disk or an agent while holding the lock. What it deliberately does
//! not do: know MQTT (agents' words come in, offers go out as values) or HTTP.

pub mod found;
pub mod groups;
pub mod office;
pub mod rollout;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Timestamp;
use veghe_wire::document::Problems;
use veghe_wire::remote::{Findings, MAX_LABELS, Offer, Report, is_label};

use self::found::{Life, Things};
use self::groups::{Document, Groups, Labels};
use self::rollout::{Pulse, Stage, State, Told};
use crate::clock;
use crate::ingest::{AgentInfo, IngestHandle};
use crate::ledger::{Ledger, LedgerError};

/// Tables of this module in the ledger: one row for each agent's part, and one for the rest, as JSON.
pub(crate) const SCHEMA: &str = "
CREATE TABLE fleet (
    name TEXT PRIMARY KEY NOT NULL,
    state TEXT NOT NULL
) STRICT;
";

/// What is offered and not answered is offered again after this.
const OFFER_AGAIN: Duration = Duration::from_mins(1);
/// How often roll-outs go on.
const TICK: Duration = Duration::from_secs(2);
const STATE: &str = "rollout";
/// Before an agent's id in the table.
const AGENT: &str = "agent/";

/// Where group files are, and how settings are rolled out.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The directory of group files.
    pub groups: PathBuf,
    /// How they are rolled out.
    pub rollout: rollout::Settings,
}

/// What belongs to one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Agent {
    /// What it says of itself.
    told: Labels,
    /// What an administrator says of it, which wins.
    assigned: Labels,
    things: Things,
}

impl Agent {
    fn labels(&self, id: &str) -> Labels {
        let mut labels = self.told.clone();
        labels.extend(self.assigned.clone());
        labels.insert("agent".to_owned(), id.to_owned());
        labels
    }
}

/// The settings of one agent, for lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// All its labels.
    pub labels: Labels,
    /// Files of the groups that it is in.
    pub groups: Vec<String>,
    /// What it is to run with; 0 for its own file alone.
    pub wanted: u64,
    /// What it said last; `None` where it never did.
    pub told: Option<Told>,
    /// Whether it runs with what it should.
    pub is_there: bool,
    /// Why it can't get what its groups say, if so.
    pub trouble: Option<String>,
    /// The settings that it is to run with.
    pub settings: String,
}

/// A thing that was found, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// On whose machine.
    pub agent: String,
    /// What it is.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// The rest.
    pub thing: found::Thing,
    /// Where it is in its life.
    pub life: Life,
}

/// What the files gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// How many group files there are.
    pub groups: usize,
    /// For how many agents something changes.
    pub changes: usize,
    /// The roll-out that is going on, if one is.
    pub rollout: Option<u64>,
    /// What is wrong for single agents.
    pub troubles: Vec<String>,
}

/// Why settings can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Group files are wrong.
    #[error("group files are wrong; the last good ones stay\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Groups(Vec<Problems>),
    /// The ledger.
    #[error("cannot keep the state of the fleet")]
    Ledger(#[from] LedgerError),
    /// No such thing or agent.
    #[error("{0}")]
    Unknown(String),
}

/// The fleet. Cloning shares it.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    settings: Settings,
    ledger: Ledger,
    metrics: Metrics,
    core: Mutex<Core>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fleet")
    }
}

#[derive(Default)]
struct Core {
    groups: Groups,
    state: State,
    agents: BTreeMap<String, Agent>,
    pulses: BTreeMap<String, Pulse>,
    /// What the files say for each agent, or why they can't; without those for whom that may have changed.
    documents: BTreeMap<String, Result<Document, String>>,
    /// Why an agent does not get what its groups say.
    troubles: BTreeMap<String, String>,
    offered: HashMap<String, (String, Timestamp)>,
    /// Rows that the ledger does not have yet.
    unsaved: BTreeSet<String>,
    counted: Option<(u64, Stage)>,
}

struct Metrics {
    agents: IntGaugeVec,
    found: IntGaugeVec,
    rollouts: IntCounterVec,
    groups_ok: IntGauge,
}

impl Metrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            agents: IntGaugeVec::new(
                Opts::new(
                    "veghe_fleet_config_agents",
                    "Agents by what they do with the collector's settings: runs, trial, waits, refuses or own (their own file alone).",
                ),
                &["state"],
            )?,
            found: IntGaugeVec::new(
                Opts::new("veghe_fleet_discovered", "Things that agents found on their machines, by their life."),
                &["life"],
            )?,
            rollouts: IntCounterVec::new(
                Opts::new(
                    "veghe_fleet_rollouts_total",
                    "Roll-outs of settings that ended, by outcome: done or rolled_back.",
                ),
                &["outcome"],
            )?,
            groups_ok: IntGauge::new(
                "veghe_fleet_groups_success",
                "1 if the group files were good when they were read last, else 0.",
            )?,
        };
        registry.register(Box::new(metrics.agents.clone()))?;
        registry.register(Box::new(metrics.found.clone()))?;
        registry.register(Box::new(metrics.rollouts.clone()))?;
        registry.register(Box::new(metrics.groups_ok.clone()))?;
        for outcome in ["done", "rolled_back"] {
            metrics.rollouts.with_label_values(&[outcome]).inc_by(0);
        }
        Ok(metrics)
    }
}

impl Fleet {
    /// The fleet as `ledger` remembers it; group files are read with [`Self::apply`].
    ///
    /// # Errors
    /// Where the ledger can't be read, or metrics are there already.
    pub fn open(settings: Settings, ledger: Ledger, registry: &Registry) -> anyhow::Result<Self> {
        let mut core = Core::default();
        let rows: Vec<(String, String)> = ledger.with(|connection| {
            let mut statement = connection.prepare("SELECT name, state FROM fleet")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        for (name, state) in rows {
            if name == STATE {
                core.state = serde_json::from_str(&state)?;
            } else if let Some(agent) = name.strip_prefix(AGENT) {
                core.agents.insert(agent.to_owned(), serde_json::from_str(&state)?);
            }
        }
        core.counted = core.state.rollout.as_ref().map(|rollout| (rollout.number, rollout.stage));
        let metrics = Metrics::new(registry)?;
        Ok(Self(Arc::new(Inner { settings, ledger, metrics, core: Mutex::new(core) })))
    }

    /// Reads the group files again and begins to roll out what they changed. Blocks.
    ///
    /// # Errors
    /// [`FleetError::Groups`] has everything that is wrong; then nothing changes.
    pub fn apply(&self, now: Timestamp) -> Result<Applied, FleetError> {
        let groups = Groups::load(&self.0.settings.groups);
        self.0.metrics.groups_ok.set(groups.is_ok().into());
        let groups = groups.map_err(FleetError::Groups)?;
        let mut core = self.core();
        core.groups = groups;
        core.documents.clear();
        core.step(&self.0.settings.rollout, now);
        let rollout = core.state.rollout.as_ref().filter(|r| matches!(r.stage, Stage::First | Stage::Rest));
        Ok(Applied {
            groups: core.groups.len(),
            changes: rollout.map_or(0, |rollout| rollout.targets.len()),
            rollout: rollout.map(|rollout| rollout.number),
            troubles: core.troubles.iter().map(|(agent, trouble)| format!("{agent}: {trouble}")).collect(),
        })
    }

    /// Tries settings that failed before once more.
    pub fn retry(&self) {
        let mut core = self.core();
        core.state.retry();
        core.unsaved.insert(STATE.to_owned());
    }

    /// Takes a report; what the agent is to be offered, if anything.
    pub fn report(&self, agent: &str, report: &Report, now: Timestamp) -> Option<Offer> {
        let mut core = self.core();
        let told = Told::after(core.state.told.get(agent), report, now);
        core.state.told.insert(agent.to_owned(), told);
        let labels = report.labels.iter().take(MAX_LABELS).filter(|label| is_label(&label.name, &label.value));
        let labels = labels.map(|label| (label.name.clone(), label.value.clone())).collect();
        let entry = core.agents.entry(agent.to_owned()).or_default();
        if entry.told != labels {
            entry.told = labels;
            core.changed(agent);
        }
        core.pulses.insert(agent.to_owned(), Pulse { is_connected: true, last_seen: Some(now) });
        core.unsaved.insert(STATE.to_owned());
        core.offer(agent, now)
    }

    /// Takes what an agent found on its machine.
    pub fn findings(&self, agent: &str, findings: Findings, now: Timestamp) {
        let mut core = self.core();
        core.agents.entry(agent.to_owned()).or_default().things.take(findings, now);
        core.changed(agent);
    }

    /// Sets labels of an agent, in place of those that it has of these names; an empty value takes one away.
    pub fn label(&self, agent: &str, labels: &Labels) {
        let mut core = self.core();
        let entry = core.agents.entry(agent.to_owned()).or_default();
        for (name, value) in labels {
            if value.is_empty() {
                entry.assigned.remove(name);
            } else if entry.assigned.len() < MAX_LABELS {
                entry.assigned.insert(name.clone(), value.clone());
            }
        }
        core.changed(agent);
    }

    /// Says what is to become of a thing.
    ///
    /// # Errors
    /// [`FleetError::Unknown`] where nobody found it.
    pub fn decide(&self, agent: &str, kind: &str, name: &str, decision: found::Decision) -> Result<(), FleetError> {
        let mut core = self.core();
        let things = core.agents.get_mut(agent).map(|entry| &mut entry.things.0);
        let thing = things.and_then(|things| things.get_mut(&(kind.to_owned(), name.to_owned())));
        let unknown = || {
            FleetError::Unknown(format!("{agent} found no {kind} {name}; `veghe-collector discovered list` shows all"))
        };
        thing.ok_or_else(unknown)?.decision = decision;
        core.changed(agent);
        Ok(())
    }

    /// Goes on with what takes time, given who is connected; what is to be offered to whom.
    pub fn tick(&self, pulses: BTreeMap<String, Pulse>, now: Timestamp) -> Vec<(String, Offer)> {
        let mut core = self.core();
        core.pulses = pulses;
        core.step(&self.0.settings.rollout, now);
        let connected: Vec<String> =
            core.pulses.iter().filter(|(_, pulse)| pulse.is_connected).map(|(agent, _)| agent.clone()).collect();
        let offers: Vec<_> =
            connected.into_iter().filter_map(|agent| core.offer(&agent, now).map(|offer| (agent, offer))).collect();
        self.measure(&mut core);
        offers
    }

    fn measure(&self, core: &mut Core) {
        let metrics = &self.0.metrics;
        let mut states = BTreeMap::from([("runs", 0), ("trial", 0), ("waits", 0), ("refuses", 0), ("own", 0)]);
        for agent in core.state.told.keys() {
            *states.entry(core.word(agent)).or_default() += 1;
        }
        for (state, count) in states {
            metrics.agents.with_label_values(&[state]).set(count);
        }
        let mut lives = BTreeMap::from([(Life::New, 0), (Life::Watched, 0), (Life::Vanished, 0), (Life::Ignored, 0)]);
        for thing in core.agents.values().flat_map(|agent| agent.things.0.values()) {
            *lives.entry(thing.life()).or_default() += 1;
        }
        for (life, count) in lives {
            metrics.found.with_label_values(&[life_word(life)]).set(count);
        }
        let now = core.state.rollout.as_ref().map(|rollout| (rollout.number, rollout.stage));
        if now != core.counted {
            core.counted = now;
            match now {
                Some((_, Stage::Done)) => metrics.rollouts.with_label_values(&["done"]).inc(),
                Some((_, Stage::RolledBack)) => metrics.rollouts.with_label_values(&["rolled_back"]).inc(),
                _ => {}
            }
        }
    }

    /// The settings of every agent that is known, by id.
    pub fn standings(&self) -> BTreeMap<String, Standing> {
        let core = self.core();
        core.agents.keys().map(|agent| (agent.clone(), core.standing(agent))).collect()
    }

    /// The last roll-out.
    pub fn rollout(&self) -> Option<rollout::Rollout> {
        self.core().state.rollout.clone()
    }

    /// Everything that was found, by agent, kind and name.
    pub fn found(&self) -> Vec<Found> {
        let core = self.core();
        let of = |(agent, entry): (&String, &Agent)| {
            let found = entry.things.0.iter().map(|((kind, name), thing)| Found {
                agent: agent.clone(),
                kind: kind.clone(),
                name: name.clone(),
                thing: thing.clone(),
                life: thing.life(),
            });
            found.collect::<Vec<_>>()
        };
        core.agents.iter().flat_map(of).collect()
    }

    /// Writes what changed to the ledger. Blocks.
    ///
    /// # Errors
    /// See [`LedgerError`]; it is tried again with the next call.
    pub fn save(&self) -> Result<(), LedgerError> {
        let rows: Vec<(String, String)> = {
            let mut core = self.core();
            let unsaved = std::mem::take(&mut core.unsaved);
            let row = |name: String| {
                let state = match name.strip_prefix(AGENT) {
                    Some(agent) => serde_json::to_string(core.agents.get(agent)?),
                    None => serde_json::to_string(&core.state),
                };
                // Strings and numbers always have a form in JSON.
                Some((name, state.ok()?))
            };
            unsaved.into_iter().filter_map(row).collect()
        };
        if rows.is_empty() {
            return Ok(());
        }
        let saved = self.0.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            for (name, state) in &rows {
                transaction.execute(
                    "INSERT INTO fleet (name, state) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                    params![name, state],
                )?;
            }
            transaction.commit()
        });
        if saved.is_err() {
            self.core().unsaved.extend(rows.into_iter().map(|(name, _)| name));
        }
        saved
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // Each change is complete before the next begins: a panic leaves nothing that the next look would not mend.
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word for a life, as metrics and commands have it.
pub fn life_word(life: Life) -> &'static str {
    match life {
        Life::New => "new",
        Life::Watched => "watched",
        Life::Vanished => "vanished",
        Life::Ignored => "ignored",
    }
}

impl Core {
    fn step(&mut self, settings: &rollout::Settings, now: Timestamp) {
        let mut desired: BTreeMap<String, Document> = BTreeMap::new();
        let mut canaries = BTreeSet::new();
        self.troubles.clear();
        for (agent, entry) in &self.agents {
            let labels = entry.labels(agent);
            if labels.get(rollout::CANARY.0).is_some_and(|value| value == rollout::CANARY.1) {
                canaries.insert(agent.clone());
            }
            let document = self.documents.entry(agent.clone()).or_insert_with(|| {
                let document = self.groups.document(&labels, &entry.things.settings());
                document.map_err(|problems| problems.to_string())
            });
            match document {
                Ok(document) => {
                    desired.insert(agent.clone(), document.clone());
                }
                Err(problems) => {
                    self.troubles.insert(agent.clone(), problems.clone());
                }
            }
        }
        if self.state.step(&desired, &canaries, &self.pulses, settings, now) {
            self.unsaved.insert(STATE.to_owned());
        }
        for (agent, document) in &desired {
            if let Some(reason) = self.state.rejected(&document.hash) {
                self.troubles.insert(agent.clone(), format!("rolled back: {reason}"));
            }
        }
    }

    /// What is known of `agent` changed.
    fn changed(&mut self, agent: &str) {
        self.documents.remove(agent);
        self.unsaved.insert(format!("{AGENT}{agent}"));
    }

    /// What `agent` is to be offered now.
    fn offer(&mut self, agent: &str, now: Timestamp) -> Option<Offer> {
        if !self.state.is_due(agent) {
            self.offered.remove(agent);
            return None;
        }
        let wanted = self.state.wanted(agent);
        let again = self.offered.get(agent).filter(|(hash, _)| *hash == wanted.hash);
        if again.is_some_and(|(_, at)| now.since(*at) < OFFER_AGAIN) {
            return None;
        }
        let (settings, hash) = self.state.text(&wanted.hash)?;
        self.offered.insert(agent.to_owned(), (wanted.hash, now));
        Some(Offer { minor: veghe_wire::MINOR, number: wanted.number, hash, settings })
    }

    /// The state of an agent in one word.
    fn word(&self, agent: &str) -> &'static str {
        let (wanted, Some(told)) = (self.state.wanted(agent), self.state.told.get(agent)) else { return "own" };
        match (told.hash == wanted.hash, told.on_trial) {
            (true, true) => "trial",
            (true, false) if wanted.hash.is_empty() => "own",
            (true, false) => "runs",
            (false, _) if self.state.is_due(agent) => "waits",
            (false, _) => "refuses",
        }
    }

    fn standing(&self, agent: &str) -> Standing {
        let labels = self.agents.get(agent).map(|entry| entry.labels(agent)).unwrap_or_default();
        let (wanted, told) = (self.state.wanted(agent), self.state.told.get(agent).cloned());
        Standing {
            groups: self.groups.of(&labels),
            labels,
            wanted: if wanted.hash.is_empty() { 0 } else { wanted.number },
            is_there: told.as_ref().is_none_or(|told| told.hash == wanted.hash),
            told,
            trouble: self.troubles.get(agent).cloned(),
            settings: self.state.text(&wanted.hash).map(|(text, _)| text).unwrap_or_default(),
        }
    }
}

/// Goes on with roll-outs until `stop`, and keeps the ledger up to date.
pub fn start(fleet: Fleet, ingest: IngestHandle, stop: CancellationToken, tasks: &TaskTracker) {
    let blocking = tasks.clone();
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                () = stop.cancelled() => is_last = true,
                _ = ticks.tick() => {}
            }
            let pulse = |agent: AgentInfo| {
                let last_seen = agent.last_seen_ms.map(Timestamp);
                (agent.agent, Pulse { is_connected: agent.connected && agent.revoked_ms.is_none(), last_seen })
            };
            let pulses = ingest.agents().into_iter().map(pulse).collect();
            for (agent, offer) in fleet.tick(pulses, clock::now()) {
                if let (Ok(agent), false) = (agent.parse(), is_last) {
                    ingest.offer(&agent, &offer).await;
                }
            }
            let saving = fleet.clone();
            match blocking.spawn_blocking(move || saving.save()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot keep the state of the fleet");
                }
                Err(panicked) => tracing::error!(%panicked, "keeping the state of the fleet failed unexpectedly"),
            }
        }
    });
}

impl crate::ingest::Steward for Fleet {
    fn report(&self, agent: &veghe_wire::AgentId, report: Report) -> Option<Offer> {
        Self::report(self, agent.as_str(), &report, clock::now())
    }

    fn findings(&self, agent: &veghe_wire::AgentId, findings: Findings) {
        Self::findings(self, agent.as_str(), findings, clock::now());
    }
}
