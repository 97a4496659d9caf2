//! A long run at a short interval: the agent's memory and descriptors have to stay flat, whatever else it does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use url::Url;

use crate::http;
use crate::process::{Collector, Process, now, program};

/// Looks before one that must have seen a thing, for it to count as held.
const HELD: usize = 10;

/// What a process takes at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Cycles that are stored, since the agent's start.
    pub cycle: f64,
    /// Resident memory in KiB, with the pages of the program's own file that the kernel keeps for it.
    pub resident_kib: u64,
    /// What the process holds of its own, in KiB: memory that no file backs, swapped out or not.
    pub own_kib: u64,
    /// Files that are open: number and what is behind it.
    pub descriptors: Entries,
    /// Threads by id.
    pub threads: Entries,
    /// Processor time since its start, in seconds.
    pub cpu_seconds: f64,
}

/// Entries of a directory of `/proc`, each with what it links to.
type Entries = BTreeSet<(OsString, Option<PathBuf>)>;

fn entries(dir: &str) -> anyhow::Result<Entries> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), fs::read_link(entry.path()).ok()))
    };
    fs::read_dir(dir)?.map(entry).collect()
}

impl Look {
    fn at(pid: u32, cycle: f64) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
        let number = |key: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).context("status")
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("stat");
        Ok(Self {
            cycle,
            resident_kib: number("VmRSS:")?,
            own_kib: number("RssAnon:")? + number("RssShmem:")? + number("VmSwap:")?,
            descriptors: entries(&format!("/proc/{pid}/fd"))?,
            threads: entries(&format!("/proc/{pid}/task"))?,
            cpu_seconds: (ticks(11)? + ticks(12)?) / 100.0,
        })
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Soaked {
    /// From the start to the end.
    pub looks: Vec<Look>,
    /// Cycles that are not stored.
    pub missing_cycles: f64,
    /// Rounds that the agent says it dropped because its disk was too slow for the interval.
    pub dropped_rounds: f64,
}

impl Soaked {
    /// How the largest of the last quarter differs from the largest of the second one: what grows shows, what only
    /// varies does not. `values` has one for each look.
    fn growth(&self, values: &[u64]) -> i64 {
        let quarter = |from: usize, to: usize| {
            let part = values.get(self.looks.len() * from / 4..self.looks.len() * to / 4).unwrap_or_default();
            part.iter().max().map_or(0, |&largest| largest as i64)
        };
        quarter(3, 4) - quarter(1, 2)
    }

    /// How many entries were there at each look and at all of the [`HELD`] before it: what is open just for a read, or asks
    /// once, is not held, on a busy machine neither.
    fn held(&self, of: impl Fn(&Look) -> &Entries) -> Vec<u64> {
        let each = self.looks.iter().enumerate().map(|(at, look)| {
            let before = self.looks.get(at.saturating_sub(HELD)..at).unwrap_or_default();
            of(look).iter().filter(|entry| before.iter().all(|look| of(look).contains(entry))).count() as u64
        });
        each.collect()
    }

    /// What was seen, and whether it was flat: fewer than `kib` more memory of its own, not one descriptor or thread more, and
    /// no cycle missing that the agent does not tell as dropped. The pages of the program's file come and go as the kernel likes, so
    /// resident memory is told, not judged.
    ///
    /// # Errors
    /// Where it was not.
    pub fn judge(&self, kib: i64) -> anyhow::Result<String> {
        let (first, last) = (self.looks.first().context("no look")?, self.looks.last().context("no look")?);
        let each = |of: fn(&Look) -> u64| self.looks.iter().map(of).collect::<Vec<u64>>();
        let (resident, own) = (each(|look| look.resident_kib), each(|look| look.own_kib));
        let (descriptors, threads) = (self.held(|look| &look.descriptors), self.held(|look| &look.threads));
        let range =
            |values: &[u64]| format!("{} to {}", values.iter().min().unwrap_or(&0), values.iter().max().unwrap_or(&0));
        let grown = [&own, &descriptors, &threads].map(|values| self.growth(values));
        let cycles = last.cycle - first.cycle;
        let text = format!(
            "{cycles} cycles, {} missing, {} rounds told as dropped; resident {} KiB, of its own {} KiB, last quarter against second {:+} KiB; descriptors {}, {:+}; threads {}, {:+}; {:.3} ms of processor time a cycle",
            self.missing_cycles,
            self.dropped_rounds,
            range(&resident),
            range(&own),
            grown[0],
            // The first looks have none before them.
            range(descriptors.get(HELD..).unwrap_or_default()),
            grown[1],
            range(threads.get(HELD..).unwrap_or_default()),
            grown[2],
            (last.cpu_seconds - first.cpu_seconds) * 1000.0 / cycles.max(1.0),
        );
        let is_flat = grown[0] < kib && grown[1] <= 0 && grown[2] <= 0 && self.missing_cycles <= self.dropped_rounds;
        ensure!(is_flat, "not flat: {text}");
        Ok(text)
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// For so many cycles.
    Cycles(u32),
    /// For so long.
    Elapsed(Duration),
}

/// Runs a collector and an agent at `interval` in `dir` until then, and tells each look to `tell`.
///
/// # Errors
/// Where one of them does not do its work.
pub fn run(dir: &Path, interval: &str, until: Until, mut tell: impl FnMut(&Look)) -> anyhow::Result<Soaked> {
    let collector = Collector::up(&dir.join("data"))?;
    let state_dir = dir.join("agent");
    collector.join("soak", &state_dir, interval)?;
    if let Until::Cycles(_) = until {
        // A minute after the start a thread asks the package manager: at one end of a run of about a minute, or not in it.
        let mut settings = fs::OpenOptions::new().append(true).open(state_dir.join("agent.yaml"))?;
        settings.write_all(b"sensors: {updates: {enabled: false}}\n")?;
    }
    let mut command = Command::new(program("veghe-agent"));
    command.arg("run").arg("--state-dir").arg(&state_dir);
    let mut agent = Process::start(&mut command, &state_dir.with_extension("agent.log"))?;
    let (begin, mut looks) = (now(), Vec::new());
    let ops = &collector.listeners.ops;
    let pause = match until {
        Until::Cycles(_) => Duration::from_millis(200),
        Until::Elapsed(time) => (time / 360).max(Duration::from_millis(200)),
    };
    loop {
        thread::sleep(pause);
        ensure!(agent.is_running()?, "the agent ended: {}", agent.output()?);
        let Some(cycle) = http::query_one(ops, r#"veghe_agent_cycles_total{instance="soak"}"#)? else { continue };
        let look = Look::at(agent.id(), cycle)?;
        tell(&look);
        looks.push(look);
        let is_over = match until {
            Until::Cycles(cycles) => cycle >= f64::from(cycles) && looks.len() >= 8 * HELD,
            Until::Elapsed(time) => begin.elapsed() >= time,
        };
        if is_over {
            break;
        }
    }
    let (missing_cycles, dropped_rounds) = missing(ops)?;
    Ok(Soaked { looks, missing_cycles, dropped_rounds })
}

/// How many of the cycles until now are not stored, and how many rounds the agent says it dropped until then: one counter tells how
/// many cycles there were, its samples how many came.
fn missing(ops: &Url) -> anyhow::Result<(f64, f64)> {
    // One moment for all, which lies still while later cycles come in; cycles on their way to it are waited for.
    let at = http::query_one(ops, "vector(time())")?.context("time")?;
    let of = |metric: &str| format!(r#"{metric}{{instance="soak"}}[2h] @ {at}"#);
    let cycles = of("veghe_agent_cycles_total");
    let missing = format!("max_over_time({cycles}) - count_over_time({cycles})");
    let dropped = format!("max_over_time({})", of("veghe_agent_rounds_dropped_total"));
    let begin = now();
    loop {
        let missing = http::query_one(ops, &missing)?.context("no cycle is stored")?;
        let dropped = http::query_one(ops, &dropped)?.context("no count of dropped rounds is stored")?;
        if missing <= dropped || begin.elapsed() > Duration::from_secs(30) {
            return Ok((missing, dropped));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(descriptors: impl Fn(u32) -> Vec<String>) -> Soaked {
        let look = |at: u32| Look {
            cycle: f64::from(at),
            resident_kib: 10_000,
            own_kib: 4_000,
            descriptors: descriptors(at).into_iter().map(|name| (name.into(), None)).collect(),
            threads: Entries::new(),
            cpu_seconds: f64::from(at) / 1000.0,
        };
        Soaked { looks: (0..100).map(look).collect(), missing_cycles: 0.0, dropped_rounds: 0.0 }
    }

    #[test]
    fn a_file_more_that_stays_open_is_not_flat() {
        soaked(|_| vec!["3".to_owned()]).judge(512).expect("flat");
        let one_more = |at| if at > 85 { vec!["3".to_owned(), "4".to_owned()] } else { vec!["3".to_owned()] };
        let error = soaked(one_more).judge(512).expect_err("one more");
        assert!(error.to_string().contains("descriptors 1 to 2, +1"), "{error}");
    }

    #[test]
    fn what_is_there_for_a_moment_is_not_held() {
        let told = soaked(|at| vec!["3".to_owned(), format!("passing {}", at / 5)]).judge(512).expect("flat");
        assert!(told.contains("descriptors 1 to 1, +0"), "{told}");
    }

    #[test]
    fn memory_of_its_own_that_grows_is_not_flat() {
        let mut soaked = soaked(|_| Vec::new());
        soaked.looks.last_mut().expect("look").own_kib += 600;
        soaked.judge(601).expect("within the bound");
        let error = soaked.judge(600).expect_err("beyond it");
        assert!(error.to_string().contains("second +600 KiB"), "{error}");
    }
}
