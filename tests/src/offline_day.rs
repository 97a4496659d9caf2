//! The promise under test: a day without the collector costs nothing. What was spooled meanwhile arrives whole, each
//! sample once and with its own time, and what is measured meanwhile does not wait for it.
//!
//! The day is put into the agent's spool by the agent's own code, as batches of an earlier run of it; from there on everything
//! is the real programs'.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use veghe_agent::reading::{Reading, Round, SeriesName, SeriesSet};
use veghe_agent::session::Session;
use veghe_agent::spool::{Durability, Limits, Spool};

use crate::fleet::{FleetHost, SERIES_PER_HOST};
use crate::http;
use crate::nothing_lost::{check, logged, stored};
use crate::process::{Collector, PATIENCE, agent, now, wait_for};

/// The default interval.
const INTERVAL_MS: i64 = 15_000;
const AGENT: &str = "offline";
/// Tells the series of the day from those that the agent measures itself.
const DAY: &str = r#"instance="offline",site!="""#;

/// What the day is like and how it is caught up with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long the agent was alone at the default interval, at most 24.
    pub hours: usize,
    /// Series in each of the day's batches, at most [`SERIES_PER_HOST`].
    pub series: usize,
    /// As in the agent's settings, which begin with 20. What the collector answers in time bounds it, too: some 100.
    pub backfill_batches_per_second: u32,
    /// How often fresh batches are taken, for example `1s`.
    pub interval: String,
}

/// What was seen.
#[derive(Debug)]
pub struct Outcome {
    /// Batches that were spooled while the agent was alone.
    pub batches: usize,
    /// On disk before the agent began.
    pub spool_bytes: u64,
    /// From the agent's start until the whole day was stored.
    pub backfill: Duration,
    /// How late each fresh cycle was found that came while the day was not complete, counted from the time that it is of;
    /// oldest first. With the time from one look to the next.
    pub fresh_late: Vec<Duration>,
    /// Batches that the collector got more than once, and of which it kept one.
    pub repeated: u64,
}

/// Runs `plan` in `dir`, telling `say` how far it is.
///
/// # Errors
/// The first broken promise.
pub fn run(dir: &Path, plan: &Plan, mut say: impl FnMut(&str)) -> anyhow::Result<Outcome> {
    ensure!((1..=SERIES_PER_HOST).contains(&plan.series), "a host has 1 to {SERIES_PER_HOST} series");
    ensure!((1..=24).contains(&plan.hours), "1 to 24 hours");
    let batches = plan.hours * 60 * 60 * 1000 / INTERVAL_MS as usize;
    let collector = Collector::up(&dir.join("collector"))?;
    let state_dir = dir.join("agent");
    collector.join(AGENT, &state_dir, &plan.interval)?;
    let settings = state_dir.join("agent.yaml");
    let text = fs::read_to_string(&settings)?;
    let rate = format!("backfill_batches_per_second: {}", plan.backfill_batches_per_second);
    ensure!(text.contains("backfill_batches_per_second: 20"), "agent.yaml has another backfill rate: {text}");
    fs::write(&settings, text.replace("backfill_batches_per_second: 20", &rate))?;

    let first_ms = (now_ms() / INTERVAL_MS - batches as i64) * INTERVAL_MS;
    let day = Day { batches, series: plan.series, first_ms };
    let spool_bytes = day.spool(&state_dir.join("spool"))?;
    say(&format!("{batches} batches of {} series are in the spool, {spool_bytes} bytes", plan.series));

    let began = now();
    let mut watcher = agent(&state_dir)?;
    let mut fresh_late = BTreeMap::new();
    let (mut progress, mut progress_at, mut told) = (0, began, 0);
    while progress < batches {
        ensure!(watcher.is_running()?, "the agent ended: {}", watcher.output()?);
        ensure!(now() - progress_at < PATIENCE, "nothing of the day came for {PATIENCE:?} after {progress} batches");
        thread::sleep(Duration::from_millis(20));
        let fresh = stored(&collector.listeners, AGENT)?;
        let seen_ms = now_ms();
        // Asked after the fresh ones: whatever was found before the day is complete did not wait for it.
        let count = day_count(&collector)?;
        if count > progress {
            (progress, progress_at) = (count, now());
        }
        if progress < batches {
            for time_ms in fresh.keys().copied() {
                fresh_late
                    .entry(time_ms)
                    .or_insert_with(|| Duration::from_millis(u64::try_from(seen_ms - time_ms).unwrap_or(0)));
            }
        }
        if progress / 1000 > told {
            told = progress / 1000;
            say(&format!("{progress} of {batches} batches and {} fresh ones are stored", fresh.len()));
        }
    }
    let backfill = now() - began;

    let taken = logged(&watcher)?;
    wait_for("every fresh cycle is stored", || {
        let stored = stored(&collector.listeners, AGENT)?;
        Ok(taken.keys().all(|time| stored.contains_key(time)).then_some(()))
    })?;
    check(&taken, &stored(&collector.listeners, AGENT)?)?;
    day.check(&collector)?;
    wait_for("the agent's spool is empty", || {
        let left = http::query_one(&collector.listeners.ops, r#"veghe_agent_spool_batches{instance="offline"}"#)?;
        // The batch that tells it is still there itself.
        Ok(left.filter(|left| *left <= 1.0))
    })?;
    let metrics = http::get(&collector.listeners.ops.join("/metrics")?)?;
    let repeated =
        metrics.lines().find_map(|line| line.strip_prefix(r#"veghe_ingest_batches_total{outcome="repeated"} "#));
    let repeated = repeated.map_or(Ok(0), str::parse)?;
    Ok(Outcome { batches, spool_bytes, backfill, fresh_late: fresh_late.into_values().collect(), repeated })
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// What was measured while nobody listened.
struct Day {
    batches: usize,
    series: usize,
    first_ms: i64,
}

impl Day {
    /// The time of the batch with this number.
    fn time_ms(&self, number: usize) -> i64 {
        self.first_ms + number as i64 * INTERVAL_MS
    }

    /// The machine whose day it is; the same each time.
    fn machine(&self) -> FleetHost {
        FleetHost::new(0, self.series)
    }

    /// Fills the spool as an agent does that has no collector, and returns its size in bytes.
    fn spool(&self, dir: &Path) -> anyhow::Result<u64> {
        let mut spool = Spool::open(dir, Limits::default())?;
        let mut session = Session::new(getrandom::u64()?)?;
        let mut host = self.machine();
        let name = |labels: &[(String, String)]| {
            SeriesName(labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect())
        };
        let set = Arc::new(SeriesSet(host.labels().map(name).collect()));
        for number in 0..self.batches {
            let reading =
                Reading { sensor: "day", series: Arc::clone(&set), values: host.step().to_vec(), ended: None };
            let encoded = session.encode(&Round { timestamp_ms: self.time_ms(number), readings: vec![reading] })?;
            ensure!(encoded.left_out.is_empty(), "the series do not fit a batch");
            // A power cut is not part of the promise here: synced once, at the end.
            let appended = spool.append(encoded, &session, Durability::Written);
            ensure!(appended.disk_error.is_none() && appended.dropped_batches == 0, "cannot spool: {appended:?}");
        }
        spool.sync()?;
        ensure!(spool.batches() == self.batches as u64, "{} batches are in the spool", spool.batches());
        Ok(spool.bytes())
    }

    /// Every value is stored with its time and its bits, and nothing besides.
    fn check(&self, collector: &Collector) -> anyhow::Result<()> {
        let mut host = self.machine();
        let labels: Vec<Vec<(String, String)>> = host.labels().map(<[_]>::to_vec).collect();
        let rows: Vec<Vec<f64>> = (0..self.batches).map(|_| host.step().to_vec()).collect();
        let ops = &collector.listeners.ops;
        let count = http::query_one(ops, &format!("count(last_over_time({{{DAY}}}[25h]))"))?;
        ensure!(count == Some(self.series as f64), "{count:?} series are stored, not {}", self.series);
        for (at, labels) in labels.iter().enumerate() {
            let matchers: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            let query = format!(r#"{{{},instance="{AGENT}"}}[25h]"#, matchers.join(","));
            let result = http::query(ops, &query)?;
            let [only] = result.as_slice() else { bail!("{} series for {query}", result.len()) };
            let samples = only["values"].as_array().context("no values")?;
            ensure!(samples.len() == self.batches, "{} samples of {query}, not {}", samples.len(), self.batches);
            for (number, (sample, row)) in samples.iter().zip(&rows).enumerate() {
                let time_ms = (sample[0].as_f64().context("no time")? * 1000.0).round() as i64;
                let value: f64 = sample[1].as_str().context("no value")?.parse()?;
                let wanted = (self.time_ms(number), row[at]);
                ensure!(
                    time_ms == wanted.0 && value.to_bits() == wanted.1.to_bits(),
                    "sample {number} of {query} is {value} at {time_ms}, not {wanted:?}"
                );
            }
        }
        Ok(())
    }
}

/// How many rows of the day are stored.
fn day_count(collector: &Collector) -> anyhow::Result<usize> {
    let query = format!("count_over_time(up{{{DAY}}}[25h])");
    Ok(http::query_one(&collector.listeners.ops, &query)?.map_or(0, |count| count as usize))
}
