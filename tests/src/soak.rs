//! A long run at a short interval: the agent's memory and descriptors have to stay flat, whatever else it does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::http;
use crate::process::{Collector, Process, now, program};

/// What a process takes at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Cycles that are stored, since the agent's start.
    pub cycle: f64,
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// Files that stay open.
    pub descriptors: u64,
    /// Threads that stay.
    pub threads: u64,
    /// Processor time since its start, in seconds.
    pub cpu_seconds: f64,
}

/// How many entries of `dir` are there now and a moment later, descriptors of the same file: what is open just for a read, or
/// asks once, is not held.
fn held(dir: &str) -> anyhow::Result<u64> {
    let entries = || -> anyhow::Result<BTreeSet<(OsString, Option<PathBuf>)>> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name(), fs::read_link(entry.path()).ok()))
        };
        fs::read_dir(dir)?.map(entry).collect()
    };
    let before = entries()?;
    thread::sleep(Duration::from_millis(100));
    Ok(before.intersection(&entries()?).count() as u64)
}

impl Look {
    fn at(pid: u32, cycle: f64) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).context("status")
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("stat");
        Ok(Self {
            cycle,
            resident_kib: number("VmRSS:")?,
            descriptors: held(&format!("/proc/{pid}/fd"))?,
            threads: held(&format!("/proc/{pid}/task"))?,
            cpu_seconds: (ticks(11)? + ticks(12)?) / 100.0,
        })
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Soaked {
    /// From the start to the end.
    pub looks: Vec<Look>,
    /// Cycles that were lost on the way to the store.
    pub missing_cycles: f64,
}

impl Soaked {
    /// How the largest of the last quarter differs from the largest of the second one: what grows shows, what only
    /// varies does not.
    fn growth(&self, of: impl Fn(&Look) -> u64) -> i64 {
        let quarter = |from: usize, to: usize| {
            let part = self.looks.get(self.looks.len() * from / 4..self.looks.len() * to / 4).unwrap_or_default();
            part.iter().map(&of).max().unwrap_or(0) as i64
        };
        quarter(3, 4) - quarter(1, 2)
    }

    /// What was seen, and whether it was flat: fewer than `kib` more memory, not one descriptor or thread more.
    ///
    /// # Errors
    /// Where it was not.
    pub fn judge(&self, kib: i64) -> anyhow::Result<String> {
        let (first, last) = (self.looks.first().context("no look")?, self.looks.last().context("no look")?);
        let range = |of: fn(&Look) -> u64| {
            let values = self.looks.iter().map(of);
            format!("{} to {}", values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
        };
        let cycles = last.cycle - first.cycle;
        let (memory, files, threads) =
            (self.growth(|l| l.resident_kib), self.growth(|l| l.descriptors), self.growth(|l| l.threads));
        let text = format!(
            "{cycles} cycles, {} missing; resident {} KiB, last quarter against second {memory:+} KiB; descriptors {}, {files:+}; threads {}, {threads:+}; {:.3} ms of processor time a cycle",
            self.missing_cycles,
            range(|l| l.resident_kib),
            range(|l| l.descriptors),
            range(|l| l.threads),
            (last.cpu_seconds - first.cpu_seconds) * 1000.0 / cycles.max(1.0),
        );
        ensure!(memory < kib && files <= 0 && threads <= 0 && self.missing_cycles == 0.0, "not flat: {text}");
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
            Until::Cycles(cycles) => cycle >= f64::from(cycles),
            Until::Elapsed(time) => begin.elapsed() >= time,
        };
        if is_over {
            break;
        }
    }
    let stored = http::query_one(ops, r#"count_over_time(veghe_agent_cycles_total{instance="soak"}[2h])"#)?;
    let counted = http::query_one(ops, r#"veghe_agent_cycles_total{instance="soak"}"#)?;
    // Both were true at moments of their own.
    let missing = (counted.unwrap_or(0.0) - stored.unwrap_or(0.0)).max(0.0);
    Ok(Soaked { looks, missing_cycles: if missing <= 2.0 { 0.0 } else { missing } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(descriptors: impl Fn(u32) -> u64) -> Soaked {
        let look = |at: u32| Look {
            cycle: f64::from(at),
            resident_kib: 10_000,
            descriptors: descriptors(at),
            threads: 4,
            cpu_seconds: f64::from(at) / 1000.0,
        };
        Soaked { looks: (0..100).map(look).collect(), missing_cycles: 0.0 }
    }

    #[test]
    fn a_file_more_that_stays_open_is_not_flat() {
        soaked(|_| 45).judge(512).expect("flat");
        soaked(|at| 45 + u64::from(at % 7 == 6)).judge(512).expect("flat: it varies all the time");
        let error = soaked(|at| 45 + u64::from(at > 90)).judge(512).expect_err("one more");
        assert!(error.to_string().contains("descriptors 45 to 46, +1"), "{error}");
    }

    #[test]
    fn what_is_there_for_a_moment_is_not_held() {
        let dir = tempfile::tempdir().expect("directory");
        let (stays, stop) = (dir.path().join("stays"), std::sync::atomic::AtomicBool::new(false));
        fs::write(&stays, "").expect("write");
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    let passing = dir.path().join(format!("passing-{number}"));
                    fs::write(&passing, "").expect("write");
                    fs::remove_file(&passing).expect("remove");
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let held = held(dir.path().to_str().expect("text"));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(held.expect("entries"), 1);
        });
    }
}
