//! The promise under test: every collection cycle that an agent took is stored exactly once, with its original time,
//! whatever is killed and however long the two were apart.
//!
//! The agent counts its cycles in `veghe_agent_cycles_total` and logs each one after it is in the spool, so its log
//! says what must arrive. The collector's raw samples say what did.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::http;
use crate::process::{Collector, Listeners, Process, agent, wait_for};

const AGENT: &str = "counter";

/// How hard the run is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often something is killed.
    pub kills: u32,
    /// How many cycles the agent takes while the collector is away.
    pub outage_cycles: usize,
    /// The agent's interval, for example `100ms`.
    pub interval: String,
    /// Chooses the moments and victims.
    pub seed: u64,
}

/// What was seen.
#[derive(Debug)]
pub struct Outcome {
    /// Cycles that the agent logged as spooled.
    pub taken: usize,
    /// Samples stored.
    pub stored: usize,
    /// Runs of the agent.
    pub runs: usize,
}

/// Runs `plan` in `dir`, telling `say` how far it is.
///
/// # Errors
/// The first broken promise, by cycle and time.
pub fn run(dir: &Path, plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Outcome> {
    let mut random = Random(plan.seed | 1);
    let data_dir = dir.join("collector");
    fs::create_dir_all(&data_dir)?;
    let mut collector = start_collector(dir, &data_dir, None)?;
    let ports = collector.listeners.clone();
    let state_dir = dir.join("agent");
    collector.join(AGENT, &state_dir, &plan.interval)?;
    let mut watcher = agent(&state_dir)?;
    wait_for("the first cycle is stored", || Ok((!stored(&ports, AGENT)?.is_empty()).then_some(())))?;

    for kill in 1..=plan.kills {
        thread::sleep(Duration::from_millis(random.below(1500)));
        let victim = random.below(3);
        if victim != 1 {
            collector.process.kill()?;
        }
        if victim != 0 {
            watcher.kill()?;
            watcher = agent(&state_dir)?;
        }
        if victim != 1 {
            thread::sleep(Duration::from_millis(random.below(500)));
            collector = start_collector(dir, &data_dir, Some(&ports))?;
        }
        let whom = ["collector", "agent", "both"][victim as usize];
        say(&format!("kill {kill} of {}: {whom}", plan.kills));
    }

    collector.process.kill()?;
    let before = logged(&watcher)?.len();
    say(&format!("the collector is away for {} cycles", plan.outage_cycles));
    wait_for("the agent goes on alone", || Ok((logged(&watcher)?.len() >= before + plan.outage_cycles).then_some(())))?;
    let _collector = start_collector(dir, &data_dir, Some(&ports))?;
    watcher.interrupt()?;
    // What the last run could not deliver before it ended, the next one does.
    let mut watcher = agent(&state_dir)?;
    let taken = logged(&watcher)?;
    wait_for("everything that was taken is stored", || {
        let stored = stored(&ports, AGENT)?;
        Ok(taken.keys().all(|time| stored.contains_key(time)).then_some(()))
    })
    .or_else(|error| {
        let stored = stored(&ports, AGENT)?;
        let missing: Vec<_> = taken.iter().filter(|(time, _)| !stored.contains_key(time)).collect();
        Err(error.context(format!("{} cycles are missing: {missing:?}", missing.len())))
    })?;
    watcher.interrupt()?;
    check(&taken, &stored(&ports, AGENT)?)
}

/// Every cycle taken is stored with its time, and those stored are counted without a gap.
///
/// # Errors
/// The first one that is not.
pub fn check(taken: &BTreeMap<i64, u64>, stored: &BTreeMap<i64, u64>) -> anyhow::Result<Outcome> {
    for (time, cycle) in taken {
        ensure!(stored.get(time) == Some(cycle), "cycle {cycle} at {time} is stored as {:?}", stored.get(time));
    }
    let (mut runs, mut previous) = (0, 0);
    for (time, &cycle) in stored {
        if cycle == 1 {
            runs += 1;
        } else {
            ensure!(cycle == previous + 1, "cycle {cycle} at {time} follows {previous}");
        }
        previous = cycle;
    }
    Ok(Outcome { taken: taken.len(), stored: stored.len(), runs })
}

fn start_collector(dir: &Path, data_dir: &Path, ports: Option<&Listeners>) -> anyhow::Result<Collector> {
    let port = |url: Option<&url::Url>| url.and_then(url::Url::port).unwrap_or(0);
    let settings: PathBuf = dir.join("collector.yaml");
    fs::write(
        &settings,
        format!(
            "data_dir: {}\nops:\n  listen: 127.0.0.1:{}\nstatus:\n  listen: 127.0.0.1:{}\nmqtt:\n  listen: 127.0.0.1:{}\n",
            data_dir.display(),
            port(ports.map(|p| &p.ops)),
            port(ports.map(|p| &p.status)),
            port(ports.map(|p| &p.mqtt)),
        ),
    )?;
    Collector::start(data_dir, &["run", "--config", settings.to_str().context("path is not UTF-8")?])
}

/// Every stored sample of the agent's counter: time to value.
///
/// # Errors
/// Where the collector can't be asked, or a time is stored twice.
pub fn stored(ports: &Listeners, agent: &str) -> anyhow::Result<BTreeMap<i64, u64>> {
    let result = http::query(&ports.ops, &format!(r#"veghe_agent_cycles_total{{instance="{agent}"}}[3h]"#))?;
    let mut samples = BTreeMap::new();
    for series in &result {
        for pair in series["values"].as_array().context("no values")? {
            let time = (pair[0].as_f64().context("no time")? * 1000.0).round() as i64;
            let value: f64 = pair[1].as_str().context("no value")?.parse()?;
            if let Some(other) = samples.insert(time, value as u64) {
                bail!("time {time} is stored twice: {other} and {value}");
            }
        }
    }
    Ok(samples)
}

/// Every cycle in the agent's log, of all its runs: time to count.
///
/// # Errors
/// Where the log can't be read or lacks a field.
pub fn logged(agent: &Process) -> anyhow::Result<BTreeMap<i64, u64>> {
    let mut cycles = BTreeMap::new();
    for line in agent.output()?.lines().filter(|l| l.contains("cycle spooled")) {
        let field = |name: &str| -> anyhow::Result<i64> {
            let rest = line.split(&format!("{name}=")).nth(1).with_context(|| format!("no {name} in {line}"))?;
            Ok(rest.split_whitespace().next().unwrap_or("").parse()?)
        };
        cycles.insert(field("timestamp_ms")?, u64::try_from(field("cycle")?)?);
    }
    Ok(cycles)
}

/// xorshift64*: reproducible from the printed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}
