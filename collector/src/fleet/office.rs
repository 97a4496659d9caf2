//! What an administrator asks about the fleet, over the socket of the running collector, and how the answers are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::found::Decision;
use super::groups::Labels;
use super::rollout::{Rollout, Stage};
use super::{Applied, Fleet, FleetError, Found, Standing, life_word};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Read the group files again.
    Apply {
        /// Also try what failed before.
        retry: bool,
    },
    /// The settings of every agent, and the last roll-out.
    Standings,
    /// Set labels of an agent.
    Label {
        /// Which one.
        agent: String,
        /// By name; an empty value takes one away.
        labels: Labels,
    },
    /// What agents found.
    Found,
    /// What is to become of a thing.
    Decide {
        /// On whose machine.
        agent: String,
        /// What it is.
        kind: String,
        /// Which one.
        name: String,
        /// What is to become of it.
        decision: Decision,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Apply`], [`Question::Label`] and [`Question::Decide`].
    Applied {
        /// What it gave.
        applied: Applied,
    },
    /// To [`Question::Standings`].
    Standings {
        /// By id.
        agents: BTreeMap<String, Standing>,
        /// The last one.
        rollout: Option<Rollout>,
    },
    /// To [`Question::Found`].
    Found {
        /// By agent, kind and name.
        found: Vec<Found>,
    },
}

/// Answers. Blocks.
///
/// # Errors
/// See [`FleetError`].
pub fn answer(fleet: &Fleet, question: Question, now: Timestamp) -> Result<Answer, FleetError> {
    match question {
        Question::Apply { retry } => {
            if retry {
                fleet.retry();
            }
        }
        Question::Standings => {
            return Ok(Answer::Standings { agents: fleet.standings(), rollout: fleet.rollout() });
        }
        Question::Label { agent, labels } => fleet.label(&agent, &labels),
        Question::Found => return Ok(Answer::Found { found: fleet.found() }),
        Question::Decide { agent, kind, name, decision } => fleet.decide(&agent, &kind, &name, decision)?,
    }
    let applied = fleet.apply(now)?;
    fleet.save()?;
    Ok(Answer::Applied { applied })
}

/// The settings of an agent in a few words: what it runs with, what it waits for, what it refuses.
pub fn in_short(standing: &Standing) -> String {
    let Some(told) = &standing.told else { return "-".to_owned() };
    let runs = if told.hash.is_empty() { "own".to_owned() } else { told.number.to_string() };
    let reason = told.reasons.first().map_or("", String::as_str);
    match (standing.is_there, told.on_trial) {
        (true, true) => format!("{runs} (on trial)"),
        (true, false) if standing.trouble.is_some() => format!("{runs} (see `agents show`)"),
        (true, false) => runs,
        (false, _) if told.refused_number == standing.wanted && told.refused_number > 0 => {
            format!("{runs} (refuses {}: {reason})", standing.wanted)
        }
        (false, _) => format!("{runs} (waits for {})", standing.wanted),
    }
}

/// Everything about the settings of one agent.
pub fn in_full(agent: &str, standing: &Standing, rollout: Option<&Rollout>) -> String {
    let list = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let labels: Vec<String> = standing.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut text = format!(
        "agent     {agent}\nlabels    {}\ngroups    {}\nsettings  {}\n",
        list(&labels),
        list(&standing.groups),
        in_short(standing)
    );
    let mut line = |what: &str, words: &str| text = format!("{text}{what:10}{words}\n");
    if let Some(told) = &standing.told {
        for reason in told.reasons.iter().filter(|_| told.refused_number > 0) {
            line("refused", &format!("{}: {reason}", told.refused_number));
        }
        if !told.failing.is_empty() {
            line("failing", &told.failing.iter().cloned().collect::<Vec<_>>().join(", "));
        }
    }
    if let Some(trouble) = &standing.trouble {
        line("trouble", trouble);
    }
    if let Some(rollout) = rollout.filter(|rollout| rollout.targets.contains_key(agent)) {
        line("roll-out", &rollout_in_short(rollout));
    }
    if standing.settings.is_empty() { text } else { format!("{text}\n{}", standing.settings) }
}

/// How far a roll-out is.
pub fn rollout_in_short(rollout: &Rollout) -> String {
    let (number, all, first) = (rollout.number, rollout.targets.len(), rollout.first.len());
    match rollout.stage {
        Stage::First => format!("{number}: {first} of {all} agents are first: {}", few(rollout)),
        Stage::Rest => format!("{number}: lasted where it was first, {all} agents get it"),
        Stage::Done => format!("{number}: done, {all} agents"),
        Stage::RolledBack => {
            format!("{number}: rolled back: {}", rollout.reason.as_deref().unwrap_or("no reason is known"))
        }
    }
}

fn few(rollout: &Rollout) -> String {
    let names: Vec<&str> = rollout.first.iter().take(5).map(String::as_str).collect();
    let more = if rollout.first.len() > names.len() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// What applying gave.
pub fn applied(applied: &Applied) -> String {
    let mut text = match applied.rollout {
        Some(number) => {
            format!("{} group files; roll-out {number} to {} agents goes on", applied.groups, applied.changes)
        }
        None => format!("{} group files; nothing to roll out", applied.groups),
    };
    for trouble in &applied.troubles {
        text = format!("{text}\n{trouble}");
    }
    text
}

/// What was found, as a table.
pub fn found_table(found: &[Found]) -> String {
    if found.is_empty() {
        return "Nothing found yet. Agents look a few seconds after their start, and daily.".to_owned();
    }
    let mut rows = vec![["LIFE", "AGENT", "KIND", "NAME", "DETAIL", "WATCHING IT"].map(str::to_owned)];
    for one in found {
        let needs = if one.thing.settings.is_empty() { "needs no settings" } else { "adds settings" };
        rows.push([
            life_word(one.life).to_owned(),
            one.agent.clone(),
            one.kind.clone(),
            one.name.clone(),
            one.thing.detail.clone(),
            needs.to_owned(),
        ]);
    }
    columns(&rows)
}

/// Rows with columns below one another.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
