//! The commands about agents' settings and what they found, and how both look to the web.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use prometheus::Registry;
use veghe_model::Timestamp;
use veghe_wire::AgentId;

use crate::admin::{self, Request, Response};
use crate::cli::{DiscoveredCommand, Thing};
use crate::config::Config;
use crate::fleet::found::Decision;
use crate::fleet::office::{self, Answer, Question};
use crate::fleet::{Fleet, Found, Settings, Standing};
use crate::ledger::Ledger;
use crate::web::{FoundView, SettingsState, SettingsView};
use crate::{clock, web};

/// The fleet, with the group files read once.
pub(super) fn open(config: &Config, ledger: &Ledger, registry: &Registry, now: Timestamp) -> anyhow::Result<Fleet> {
    let settings = Settings { groups: config.agents.groups.clone(), rollout: config.agents.rollout.clone() };
    let fleet = Fleet::open(settings, ledger.clone(), registry)?;
    if let Err(error) = fleet.apply(now) {
        // Agents go on with what they have; a collector that does not start would be worse.
        tracing::error!(error = &error as &dyn std::error::Error, "cannot read group files of agents");
    }
    Ok(fleet)
}

pub(super) async fn reload(fleet: &Fleet) {
    let fleet = fleet.clone();
    match tokio::task::spawn_blocking(move || fleet.apply(clock::now())).await {
        Ok(Ok(applied)) => {
            tracing::info!(groups = applied.groups, changes = applied.changes, "group files were read again");
        }
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read group files again; the last good ones stay"
            );
        }
        Err(panicked) => tracing::error!(%panicked, "reading group files failed unexpectedly"),
    }
}

fn ask(data_dir: &Path, question: Question) -> anyhow::Result<Answer> {
    match admin::ask(data_dir, &Request::Fleet { question })? {
        Response::Fleet { answer } => Ok(*answer),
        _ => bail!("the collector answered something else"),
    }
}

fn applied(data_dir: &Path, question: Question) -> anyhow::Result<String> {
    match ask(data_dir, question)? {
        Answer::Applied { applied } => Ok(office::applied(&applied)),
        _ => bail!("the collector answered something else"),
    }
}

pub(super) fn standings(data_dir: &Path) -> anyhow::Result<BTreeMap<String, Standing>> {
    match ask(data_dir, Question::Standings)? {
        Answer::Standings { agents, .. } => Ok(agents),
        _ => bail!("the collector answered something else"),
    }
}

pub(super) fn show(agent: &AgentId, data_dir: &Path) -> anyhow::Result<String> {
    match ask(data_dir, Question::Standings)? {
        Answer::Standings { agents, rollout } => match agents.get(agent.as_str()) {
            Some(standing) => Ok(office::in_full(agent.as_str(), standing, rollout.as_ref())),
            None => {
                bail!("agent {agent} has said nothing of its settings yet; `veghe-collector agents list` shows all")
            }
        },
        _ => bail!("the collector answered something else"),
    }
}

pub(super) fn label(agent: &AgentId, labels: Vec<(String, String)>, data_dir: &Path) -> anyhow::Result<String> {
    applied(data_dir, Question::Label { agent: agent.to_string(), labels: labels.into_iter().collect() })
}

pub(super) fn apply(retry: bool, data_dir: &Path) -> anyhow::Result<String> {
    applied(data_dir, Question::Apply { retry })
}

pub(super) fn discovered(command: DiscoveredCommand) -> anyhow::Result<String> {
    let (Thing { agent, kind, name, running }, decision) = match command {
        DiscoveredCommand::List { running } => match ask(&running.data_dir, Question::Found)? {
            Answer::Found { found } => return Ok(office::found_table(&found)),
            _ => bail!("the collector answered something else"),
        },
        DiscoveredCommand::Watch(thing) => (thing, Decision::Watch),
        DiscoveredCommand::Ignore(thing) => (thing, Decision::Ignore),
        DiscoveredCommand::Forget(thing) => (thing, Decision::None),
    };
    applied(&running.data_dir, Question::Decide { agent: agent.to_string(), kind, name, decision })
}

/// The settings of an agent as pages show them.
pub(super) fn view(standing: &Standing) -> SettingsView {
    let Some(told) = &standing.told else { return SettingsView::default() };
    let state = match (standing.is_there, told.on_trial) {
        (true, true) => SettingsState::Trial,
        (true, false) if told.hash.is_empty() => SettingsState::Own,
        (true, false) => SettingsState::Runs,
        (false, _) if told.refused_number == standing.wanted && told.refused_number > 0 => SettingsState::Refused,
        (false, _) => SettingsState::Waits,
    };
    let is_refused = state == SettingsState::Refused;
    let reason = told.reasons.first().filter(|_| is_refused).or(standing.trouble.as_ref()).cloned();
    SettingsView { state, running: told.number, wanted: standing.wanted, reason }
}

/// A found thing as pages show it; nobody wants to see what is ignored.
pub(super) fn found_view(found: Found) -> Option<FoundView> {
    use crate::fleet::found::Life;
    let life = match found.life {
        Life::New => web::FoundLife::New,
        Life::Watched => web::FoundLife::Watched,
        Life::Vanished => web::FoundLife::Vanished,
        Life::Ignored => return None,
    };
    let (agent, kind, name, detail) = (found.agent, found.kind, found.name, found.thing.detail);
    Some(FoundView { agent, kind, name, detail, life, last: Timestamp(found.thing.last_ms) })
}
