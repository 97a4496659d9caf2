//! Settings from the collector: how far they may go, how they join `agent.yaml`, and what is kept of them on disk.
//!
//! The boundary: the collector may change what is measured and how often, never who the agent is, whom it talks to,
//! where it keeps its state, or what it may be told ([`OWN_KEYS`]); it may name no program to run ([`RUNS_PROGRAMS`])
//! unless `remote.programs` in `agent.yaml` permits that, and no secret outside a directory for them (`secrets`). What `agent.yaml` says itself wins, and what
//! `remote.keep` names stays as it is there.
//!
//! Invariants: nothing that comes from outside stops the agent: what does not fit is refused with reasons and the last
//! good settings stay; new settings are on trial first, and an agent that crashes twice meanwhile goes back by itself.
//! What it deliberately does not do: apply settings (`app`), know MQTT.

mod secrets;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use veghe_wire::ack;
use veghe_wire::document::{Node, Problems};
use veghe_wire::enrolment::to_hex;
use veghe_wire::remote::{Label, MAX_REASONS, MAX_SETTINGS_BYTES, Offer, Reason, Report, cut};

use crate::config::{Config, DEFAULTS_OF_JOIN};
use crate::identity::{self, IdentityError};

/// Its name in the state directory.
pub const FILE: &str = "remote.json";
/// What only `agent.yaml` sets.
pub const OWN_KEYS: [&str; 5] = ["agent", "mqtt", "spool", "labels", "remote"];
/// Settings below `sensors` that name programs, or what a program may take for one (a repository by `rclone`).
pub const RUNS_PROGRAMS: [&str; 5] = ["backups.repositories", "logs", "programs", "smart.program", "tape.program"];
/// How problems name what came from the collector.
const OFFERED: &str = "collector's settings";
/// A start with settings on trial is an attempt; after so many that did not last, they are refused.
const ATTEMPTS: u32 = 2;
/// The largest state file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What the collector may do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether settings from the collector are taken at all.
    pub accept: bool,
    /// Whether they may name programs to run.
    pub programs: bool,
    /// Directories whose files they may name as secrets, beside `secrets` in the state directory.
    pub secrets: Vec<PathBuf>,
    /// Keys of `agent.yaml` that stay as they are there, whether it sets them or not, for example `sensors.scrapes`.
    pub keep: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { accept: true, programs: false, secrets: Vec::new(), keep: Vec::new() }
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// `agent.yaml`.
    File,
    /// The collector.
    Collector,
}

/// The settings of `agent.yaml` and what the collector may add to them.
#[derive(Clone, Debug)]
pub struct Local {
    path: PathBuf,
    node: Node,
    policy: Policy,
}

/// Settings in force.
#[derive(Clone, Debug)]
pub struct Effective {
    /// All of them.
    pub config: Config,
    local: Node,
    offered: Option<Node>,
}

impl Effective {
    /// Where the value at `key` comes from, for example `sensors.netdev.ignore`.
    pub fn origin(&self, key: &str) -> Origin {
        let sets = |node: &Node| node.at(key).is_some();
        let is_local = sets(&self.local);
        match &self.offered {
            Some(offered) if sets(offered) => {
                let is_joined = veghe_wire::document::named_lists().iter().any(|(path, _)| *path == key);
                if is_local && !is_joined { Origin::File } else { Origin::Collector }
            }
            _ if is_local => Origin::File,
            _ => Origin::Default,
        }
    }
}

impl Effective {
    /// The settings as a document, with where each value comes from behind it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut section = String::new();
        for line in self.config.to_yaml().lines() {
            let is_nested = line.starts_with(' ');
            let Some((key, rest)) = line.trim_start().split_once(':') else { continue };
            let path = if is_nested { format!("{section}.{key}") } else { key.to_owned() };
            if !is_nested {
                key.clone_into(&mut section);
            }
            let origins: Vec<String> = if rest.trim_start().starts_with('{') {
                let names = self.set_below(&path);
                names.iter().map(|name| format!("{name}: {}", self.word(&format!("{path}.{name}")))).collect()
            } else if rest.is_empty() {
                Vec::new()
            } else {
                let word = self.word(&path);
                if word.is_empty() { Vec::new() } else { vec![word.to_owned()] }
            };
            let comment = if origins.is_empty() { String::new() } else { format!("  # {}", origins.join(", ")) };
            text.push_str(line);
            text.push_str(&comment);
            text.push('\n');
        }
        text
    }

    fn word(&self, path: &str) -> &'static str {
        match self.origin(path) {
            Origin::Default => "",
            Origin::File => "file",
            Origin::Collector => "collector",
        }
    }

    /// The keys right below `path` that anybody set.
    fn set_below(&self, path: &str) -> std::collections::BTreeSet<String> {
        let nodes = [Some(&self.local), self.offered.as_ref()].into_iter().flatten();
        let leaves = nodes.filter_map(|node| node.at(path)).flat_map(Node::leaves);
        let below = leaves.filter_map(|leaf| leaf.strip_prefix(path)?.strip_prefix('.')?.split('.').next());
        below.map(str::to_owned).collect()
    }
}

impl Local {
    /// The settings in `text`, the content of `path`.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::new(path);
        let node = Node::parse(text, &mut problems);
        let read = node.and_then(|node| Config::read(&node, &mut problems).map(|config| (node, config)));
        let (node, config) = problems.finish(read)?;
        Ok(Self { path: path.to_owned(), node, policy: config.remote })
    }

    /// The settings in force with what the collector offers, `None` for nothing.
    ///
    /// # Errors
    /// Everything for which the offer is refused.
    pub fn with(&self, offered: Option<&str>) -> Result<Effective, Problems> {
        let local = self.decided();
        let Some(offered) = offered else {
            let mut problems = Problems::new(&self.path);
            let config = Config::read(&self.node, &mut problems);
            return Ok(Effective { config: problems.finish(config)?, local, offered: None });
        };
        let programs = if self.policy.programs { Programs::Allowed } else { Programs::Refused };
        let node = check(Path::new(OFFERED), offered, programs)?;
        let kept: Vec<&str> = self.policy.keep.iter().map(String::as_str).collect();
        let node = node.without(&kept);
        let mut problems = Problems::new(OFFERED);
        secrets::check(&node, &secrets::directories(&self.path, &self.policy.secrets), &mut problems);
        let config = Config::read(&node.overlaid_with(&local), &mut problems);
        Ok(Effective { config: problems.finish(config)?, local, offered: Some(node) })
    }

    /// What the file decides: all but what `join` wrote there and nobody changed.
    fn decided(&self) -> Node {
        let unchanged: Vec<&str> = DEFAULTS_OF_JOIN
            .iter()
            .filter(|(key, default)| self.node.at(key).and_then(Node::word) == Some(default))
            .map(|(key, _)| *key)
            .collect();
        self.node.without(&unchanged)
    }
}

/// Whether settings from a collector may name programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// The agent's own file permits it, or the agent is to judge.
    Allowed,
    /// It does not.
    Refused,
}

/// Reads settings for agents: a part of `agent.yaml` within the boundary.
///
/// # Errors
/// Everything that is wrong with `text`, the content of `path`.
pub fn check(path: &Path, text: &str, programs: Programs) -> Result<Node, Problems> {
    let mut problems = Problems::new(path);
    if text.len() > MAX_SETTINGS_BYTES {
        problems.note(0, "", format_args!("has {} bytes; at most {MAX_SETTINGS_BYTES} can be sent", text.len()));
        return problems.finish(None);
    }
    let node = Node::parse(text, &mut problems);
    let node = node.filter(|node| check_node(node, programs, &mut problems));
    problems.finish(node)
}

/// As [`check`], of a part of a document that was read already; false where something is wrong, which is then noted.
pub fn check_node(node: &Node, programs: Programs, problems: &mut Problems) -> bool {
    let mut found = Problems::new(problems.file());
    // So that all that is missing in a part is there.
    let stub = Node::parse("agent: x\nmqtt: mqtts://x\n", &mut found);
    for key in OWN_KEYS {
        if let Some(own) = node.at(key) {
            let message = "is the agent's own; only agent.yaml on its machine sets it";
            found.note(own.line, key, message);
        }
    }
    for settings in RUNS_PROGRAMS.iter().filter(|_| programs == Programs::Refused) {
        if let Some(section) = node.at(&format!("sensors.{settings}")) {
            let message = "would run programs; agent.yaml on that machine must permit it with `remote.programs: true`";
            found.note(section.line, &*section.key, message);
        }
    }
    if let Some(stub) = stub {
        // What is valid is told by who uses it.
        Config::read(&stub.overlaid_with(&node.without(&OWN_KEYS)), &mut found);
    }
    let is_good = found.is_empty();
    for problem in found.iter() {
        problems.note(problem.line, &*problem.key, &problem.message);
    }
    is_good
}

/// Settings that were offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Number of the offer.
    pub number: u64,
    /// SHA-256 of `settings`.
    pub hash: String,
    /// A part of `agent.yaml`.
    pub settings: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    version: Version,
    starts: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    number: u64,
    hash: String,
    /// Line, key, message.
    reasons: Vec<(u32, String, String)>,
}

/// What is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    good: Option<Version>,
    trial: Option<Trial>,
    refused: Option<Refused>,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Verdict {
    /// To be put in force, on trial.
    Adopt(Box<Effective>),
    /// Nothing changes, but the collector should hear of it.
    Tell,
}

/// The settings that the collector offered to this agent.
#[derive(Debug)]
pub struct Remote {
    path: PathBuf,
    local: Local,
    kept: Kept,
    refused_total: u64,
}

impl Remote {
    /// What is kept in `state_dir`, and the settings to start with: those on trial, the last good ones, or those of
    /// `agent.yaml` alone; whatever the file says, there are some.
    ///
    /// # Errors
    /// Where `agent.yaml` itself is wrong.
    pub fn open(state_dir: &Path, local: Local) -> Result<(Self, Effective), Problems> {
        let path = state_dir.join(FILE);
        let kept = read(&path).unwrap_or_else(|error| {
            tracing::warn!(error = %error, path = %path.display(), "cannot read the settings from the collector; the agent's own are used until it offers them again");
            Kept::default()
        });
        let mut remote = Self { path, local, kept, refused_total: 0 };
        if let Some(trial) = remote.kept.trial.take() {
            if trial.starts >= ATTEMPTS {
                let reason = format!("the agent ended {} times while they were on trial", trial.starts);
                remote.refuse(&trial.version, vec![(0, String::new(), reason)]);
            } else {
                let starts = trial.starts + 1;
                remote.kept.trial = Some(Trial { starts, ..trial });
            }
            remote.save();
        }
        let effective = remote.effective()?;
        Ok((remote, effective))
    }

    /// The settings with which an agent that keeps its state in `state_dir` runs; changes nothing there.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn look(state_dir: &Path, local: Local) -> Result<Effective, Problems> {
        let kept = read(&state_dir.join(FILE)).unwrap_or_default();
        let remote = Self { path: PathBuf::new(), local, kept, refused_total: 0 };
        let offered = remote.running().and_then(|version| remote.local.with(Some(&version.settings)).ok());
        offered.map_or_else(|| remote.local.with(None), Ok)
    }

    fn effective(&mut self) -> Result<Effective, Problems> {
        loop {
            let Some(version) = self.running().cloned() else { return self.local.with(None) };
            match self.local.with(Some(&version.settings)) {
                Ok(effective) => return Ok(effective),
                Err(problems) => {
                    // Since it was taken, agent.yaml or the program has changed.
                    self.refuse(&version, reasons(&problems));
                    if self.kept.trial.take().is_none() {
                        self.kept.good = None;
                    }
                    self.save();
                }
            }
        }
    }

    fn running(&self) -> Option<&Version> {
        self.kept.trial.as_ref().map(|trial| &trial.version).or(self.kept.good.as_ref())
    }

    /// Offers that were refused since the start.
    pub fn refused_total(&self) -> u64 {
        self.refused_total
    }

    /// Whether the settings in force are on trial.
    pub fn is_on_trial(&self) -> bool {
        self.kept.trial.is_some()
    }

    /// Refuses what is on trial in `state_dir`: the agent can't run with it.
    pub fn give_up(state_dir: &Path, local: Local, reason: &str) {
        let path = state_dir.join(FILE);
        let kept = read(&path).unwrap_or_default();
        let mut remote = Self { path, local, kept, refused_total: 0 };
        if let Some(trial) = remote.kept.trial.take() {
            remote.refuse(&trial.version, vec![(0, String::new(), cut(reason))]);
            remote.save();
        }
    }

    /// Judges `payload`, a message on the topic `config`.
    pub fn consider(&mut self, payload: &[u8]) -> Option<Verdict> {
        let offer: Offer = match ack::decode(payload) {
            Ok(offer) => offer,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot read settings from the collector");
                return None;
            }
        };
        let version = Version { number: offer.number, hash: cut(&offer.hash), settings: offer.settings };
        if !self.local.policy.accept {
            let reason =
                "agent.yaml on this machine does not take settings from the collector (`remote.accept: false`)";
            return Some(self.turn_down(&version, vec![(0, String::new(), reason.to_owned())]));
        }
        if let Some(running) = self.running()
            && running.hash == version.hash
        {
            let number = version.number;
            match &mut self.kept.trial {
                Some(trial) => trial.version.number = number,
                None => self.kept.good = self.kept.good.take().map(|good| Version { number, ..good }),
            }
            self.save();
            return Some(Verdict::Tell);
        }
        if to_hex(&Sha256::digest(version.settings.as_bytes())) != version.hash {
            let reason = "their hash is not the one that the offer names";
            return Some(self.turn_down(&version, vec![(0, String::new(), reason.to_owned())]));
        }
        match self.local.with(Some(&version.settings)) {
            Ok(effective) => {
                tracing::info!(number = version.number, hash = version.hash, "new settings from the collector");
                self.kept.refused = None;
                self.kept.trial = Some(Trial { version, starts: 1 });
                self.save();
                Some(Verdict::Adopt(Box::new(effective)))
            }
            Err(problems) => Some(self.turn_down(&version, reasons(&problems))),
        }
    }

    /// The settings in force have lasted: they are the last good ones.
    pub fn settle(&mut self) {
        if let Some(trial) = self.kept.trial.take() {
            tracing::info!(number = trial.version.number, "settings from the collector have proven good");
            self.kept.good = Some(trial.version);
            self.save();
        }
    }

    /// The agent ends as planned: what was on trial has not failed, and is offered again.
    pub fn stop(&mut self) {
        if self.kept.trial.take().is_some() {
            self.save();
        }
    }

    /// What the collector is told; `failing` are the sensors that fail now.
    pub fn report(&self, failing: Vec<String>) -> Report {
        let running = self.running().cloned().unwrap_or_default();
        let refused = self.kept.refused.clone().unwrap_or_default();
        let reason = |(line, key, message): (u32, String, String)| Reason { line, key, message };
        let label = |(name, value): (&str, &str)| Label { name: name.to_owned(), value: value.to_owned() };
        let own = self.local.labels();
        let system = [("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
        Report {
            minor: veghe_wire::MINOR,
            number: running.number,
            hash: running.hash,
            on_trial: self.is_on_trial(),
            refused_number: refused.number,
            refused_hash: refused.hash,
            reasons: refused.reasons.into_iter().map(reason).collect(),
            labels: own.iter().map(|(n, v)| (n.as_str(), v.as_str())).chain(system).map(label).collect(),
            failing,
        }
    }

    fn turn_down(&mut self, version: &Version, reasons: Vec<(u32, String, String)>) -> Verdict {
        self.refuse(version, reasons);
        self.save();
        Verdict::Tell
    }

    fn refuse(&mut self, version: &Version, reasons: Vec<(u32, String, String)>) {
        let first = reasons.first().map_or(String::new(), |(line, key, message)| format!("{line}: {key}: {message}"));
        tracing::error!(
            number = version.number,
            first,
            problems = reasons.len(),
            "settings from the collector are refused; the last good ones stay"
        );
        self.refused_total += 1;
        self.kept.refused = Some(Refused { number: version.number, hash: version.hash.clone(), reasons });
    }

    fn save(&self) {
        let written = serde_json::to_vec(&self.kept)
            .map_err(|error| IdentityError::Write { path: self.path.clone(), source: error.into() })
            .and_then(|text| identity::write_atomically(&self.path, &text));
        if let Err(error) = written {
            // They are offered again after the next start.
            tracing::error!(error = &error as &dyn std::error::Error, "cannot keep the settings from the collector");
        }
    }
}

impl Local {
    fn labels(&self) -> Vec<(String, String)> {
        self.with(None).map_or_else(|_checked_before| Vec::new(), |found| found.config.labels.into_iter().collect())
    }
}

fn reasons(problems: &Problems) -> Vec<(u32, String, String)> {
    let reason = |problem: &veghe_wire::document::Problem| {
        (u32::try_from(problem.line).unwrap_or(0), cut(&problem.key), cut(&problem.message))
    };
    problems.iter().take(MAX_REASONS).map(reason).collect()
}

fn read(path: &Path) -> io::Result<Kept> {
    let length = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        metadata => metadata?.len(),
    };
    if length > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any that the agent writes"));
    }
    serde_json::from_slice(&std::fs::read(path)?).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOCAL: &str = "agent: scan-1\nmqtt: mqtts://veghe.cjtimis.ro\ninterval: 15s\ndeadline: 5s\nsensors:\n  netdev: {ignore: [docker0]}\n";

    fn local(text: &str) -> Local {
        Local::parse(Path::new("agent.yaml"), text).expect("valid")
    }

    fn offer(number: u64, settings: &str) -> Vec<u8> {
        let hash = to_hex(&Sha256::digest(settings.as_bytes()));
        ack::encode(&Offer { minor: 1, number, hash, settings: settings.to_owned() })
    }

    fn open(dir: &Path, text: &str) -> (Remote, Effective) {
        Remote::open(dir, local(text)).expect("settings")
    }

    #[test]
    fn what_the_file_says_wins_and_what_enrolment_wrote_there_is_no_decision() {
        let offered = "interval: 30s\ndeadline: 4s\nsensors:\n  netdev: {ignore: [veth*], interval: 1m}\n  processes: {enabled: true}\n";
        let found = local(LOCAL).with(Some(offered)).expect("fits");
        assert_eq!(found.config.schedule.interval.as_secs(), 30);
        assert!(found.config.sensors.ignored("netdev").matches("docker0"));
        assert!(!found.config.sensors.ignored("netdev").matches("veth1"));
        assert!(found.config.sensors.enabled.contains("processes"));
        let origins = ["interval", "sensors.netdev.ignore", "sensors.netdev.interval", "spool.max_size"];
        assert_eq!(
            origins.map(|key| found.origin(key)),
            [Origin::Collector, Origin::File, Origin::Collector, Origin::Default]
        );
        let pinned = local(&format!("{LOCAL}remote: {{keep: [interval, sensors.processes]}}\n"));
        let found = pinned.with(Some(offered)).expect("fits");
        assert_eq!(found.config.schedule.interval.as_secs(), 15);
        assert_eq!(found.config.schedule.deadline.as_secs(), 4);
        assert!(!found.config.sensors.enabled.contains("processes"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_boundary_holds_and_every_problem_is_told_with_line_and_key() {
        let offered = "agent: other\nmqtt: mqtts://evil\nspool: {max_size: 1GiB}\nremote: {programs: true}\nlabels: {a: b}\nintervall: 5s\nsensors:\n  programs:\n    run: [{name: x, command: [/bin/sh, -c, evil]}]\n  netdev: {ignore: 5}\n";
        let problems = local(LOCAL).with(Some(offered)).expect_err("refused").to_string();
        insta::assert_snapshot!(problems);
        let permits = local(&format!("{LOCAL}remote: {{programs: true}}\n"));
        let programs = "sensors:\n  programs:\n    run: [{name: x, command: [/bin/true]}]\n";
        assert_eq!(permits.with(Some(programs)).expect("permitted").config.sensors.options.programs.len(), 1);
        let secret = "sensors:\n  snmp: {auths: {x: {version: 2, community_file: /etc/veghe/x}}}\n";
        let problems = local(LOCAL).with(Some(secret)).expect_err("refused").to_string();
        assert!(problems.contains(":2: sensors.snmp.auths.x.community_file: is a secret"), "{problems}");
        let permits = local(&format!("{LOCAL}remote: {{secrets: [/etc/veghe]}}\n"));
        permits.with(Some(secret)).expect("permitted");
        local(&format!("{LOCAL}{}", secret.trim_start_matches("sensors:\n")))
            .with(Some("interval: 9s\n"))
            .expect("its own");
    }

    #[test]
    fn a_bad_offer_changes_nothing_and_a_good_one_is_kept_once_it_has_lasted() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut remote, _) = open(dir.path(), LOCAL);
        assert!(matches!(remote.consider(&offer(1, "interval: 20s\n")), Some(Verdict::Adopt(_))));
        assert!(remote.report(Vec::new()).on_trial);
        remote.settle();
        assert!(matches!(remote.consider(&offer(2, "interval: soon\n")), Some(Verdict::Tell)));
        let report = remote.report(Vec::new());
        assert_eq!((report.number, report.refused_number, report.on_trial), (1, 2, false));
        assert_eq!((report.reasons[0].line, report.reasons[0].key.as_str()), (1, "interval"));
        assert!(report.labels.iter().any(|label| label.name == "os"));
        let (_, effective) = open(dir.path(), LOCAL);
        assert_eq!(effective.config.schedule.interval.as_secs(), 20);
        // The same settings under a new number are no change.
        let (mut remote, _) = open(dir.path(), LOCAL);
        assert!(matches!(remote.consider(&offer(3, "interval: 20s\n")), Some(Verdict::Tell)));
        assert_eq!((remote.report(Vec::new()).number, remote.is_on_trial()), (3, false));
    }

    #[test]
    fn settings_under_which_the_agent_crashes_twice_are_given_up_by_itself() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut remote, _) = open(dir.path(), LOCAL);
        remote.consider(&offer(1, "interval: 20s\n"));
        remote.settle();
        remote.consider(&offer(2, "interval: 40s\n"));
        drop(remote);
        let (remote, effective) = open(dir.path(), LOCAL);
        assert_eq!((effective.config.schedule.interval.as_secs(), remote.is_on_trial()), (40, true));
        drop(remote);
        let (remote, effective) = open(dir.path(), LOCAL);
        assert_eq!((effective.config.schedule.interval.as_secs(), remote.is_on_trial()), (20, false));
        let report = remote.report(Vec::new());
        assert!(report.reasons[0].message.contains("ended 2 times"), "{report:?}");
    }

    #[test]
    fn an_end_as_planned_is_no_failure_of_what_was_on_trial() {
        let dir = tempfile::tempdir().expect("directory");
        for _ in 0..5 {
            let (mut remote, _) = open(dir.path(), LOCAL);
            assert!(matches!(remote.consider(&offer(1, "interval: 20s\n")), Some(Verdict::Adopt(_))));
            remote.stop();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn kept_settings_that_no_longer_fit_the_file_or_are_damaged_do_not_keep_the_agent_from_starting() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut remote, _) = open(dir.path(), &format!("{LOCAL}remote: {{programs: true}}\n"));
        remote.consider(&offer(1, "sensors:\n  programs:\n    run: [{name: x, command: [/bin/true]}]\n"));
        remote.settle();
        let (remote, effective) = open(dir.path(), LOCAL);
        assert!(effective.config.sensors.options.programs.is_empty());
        assert!(remote.report(Vec::new()).reasons[0].message.contains("would run programs"));
        for content in [&b"{"[..], &[0xff; 100], b"[]"] {
            fs::write(dir.path().join(FILE), content).expect("write");
            assert_eq!(open(dir.path(), LOCAL).1.config.schedule.interval.as_secs(), 15);
        }
    }

    #[test]
    fn what_is_no_offer_or_not_wanted_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut remote, _) = open(dir.path(), LOCAL);
        assert!(remote.consider(b"").is_none() && remote.consider(&[7, 7]).is_none());
        let forged = Offer { minor: 1, number: 1, hash: "00".to_owned(), settings: "interval: 20s\n".to_owned() };
        assert!(matches!(remote.consider(&ack::encode(&forged)), Some(Verdict::Tell)));
        assert!(remote.report(Vec::new()).reasons[0].message.contains("hash"));
        let (mut remote, _) = open(dir.path(), &format!("{LOCAL}remote: {{accept: false}}\n"));
        assert!(matches!(remote.consider(&offer(2, "interval: 20s\n")), Some(Verdict::Tell)));
        assert!(remote.report(Vec::new()).reasons[0].message.contains("remote.accept"));
    }

    #[test]
    fn no_setting_that_names_a_program_is_taken_from_afar() {
        for settings in RUNS_PROGRAMS {
            let text = settings.rsplit('.').fold("x".to_owned(), |inner, key| format!("{{{key}: {inner}}}"));
            let text = format!("sensors: {text}\n");
            let problems = check(Path::new("offered"), &text, Programs::Refused).expect_err("refused");
            assert!(problems.iter().any(|problem| problem.message.contains("would run programs")), "{text}");
        }
    }

    /// A sensor that runs programs either takes their names from no setting, or is in [`RUNS_PROGRAMS`].
    #[test]
    fn no_sensor_runs_programs_that_a_collector_could_name() {
        // These run what their source names, with arguments of their own; of `named_processes` only the test does.
        const FIXED: [&str; 6] = ["lvm", "named_processes", "run", "sane", "timesync", "updates"];
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sensors");
        let mut files = vec![dir];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(fs::read_dir(path).expect("directory").map(|entry| entry.expect("entry").path()));
                continue;
            }
            let source = fs::read_to_string(&path).expect("source");
            let name = path.file_stem().expect("name").to_string_lossy().into_owned();
            // What tests run is in no agent.
            let runs = name != "tests" && (source.contains("Command::new") || source.contains("super::run::"));
            let is_told = RUNS_PROGRAMS.iter().any(|settings| settings.split('.').any(|part| part == name));
            assert!(!runs || FIXED.contains(&&*name) || is_told, "{name} runs programs: where from?");
        }
    }
}
