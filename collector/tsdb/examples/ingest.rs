//! Measures what the store costs: 40 hosts of 500 series each, 480 rows of data like `node_exporter`'s.
//!
//! `cargo run --release -p veghe-tsdb --example ingest [DIR [DAYS]]`; with DAYS, one such host for so many days, sealed
//! and merged as time goes on. `ingest DIR start MILLIONS` puts so many million samples into the log, none of them sealed,
//! and shows what starts on them take, each in a process of its own.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use veghe_model::{Labels, MatchOp, Matcher, Timestamp};
use veghe_tsdb::{Column, Commit, Options, Store};

const HOSTS: usize = 40;
const SERIES: usize = 500;
const ROWS: usize = 480;
const STEP_MS: i64 = 15_000;
const START_MS: i64 = 1_700_006_400_000;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(2).is_some_and(|mode| mode == "open") {
        let report = run_open(&PathBuf::from(std::env::args_os().nth(1).ok_or("which directory?")?))?;
        std::io::Write::write_all(&mut std::io::stdout(), report.as_bytes())?;
        return Ok(());
    }
    let dir = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("veghe-ingest"), PathBuf::from);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let report = match std::env::args().nth(2) {
        Some(start) if start == "start" => {
            let millions = std::env::args().nth(3).ok_or("how many millions of samples?")?;
            run_starts(&dir, millions.parse()?)?
        }
        Some(days) => run_days(&dir, days.parse()?)?,
        None => run(&dir)?,
    };
    std::io::Write::write_all(&mut std::io::stdout(), report.as_bytes())?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), window: Duration::from_hours(2), max_series: 1_000_000 }
}

fn run(dir: &Path) -> Result<String, Box<dyn Error>> {
    let samples = (HOSTS * SERIES * ROWS) as f64;
    let per_million = |seconds: f64| seconds / (samples / 1e6);
    let resident_before = resident_kib()?;
    let (store, _) = Store::open(options(dir))?;
    let mut groups = Vec::new();
    for host in 0..HOSTS {
        let mut ids = Vec::new();
        for n in 0..SERIES {
            ids.push(store.series(&Labels::from_pairs([
                ("__name__", format!("node_metric_{}_total", n / 4)),
                ("instance", format!("host-{host}")),
                ("job", "node".to_owned()),
                ("part", (n % 4).to_string()),
            ]))?);
        }
        groups.push(store.group(&ids));
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut hosts: Vec<Vec<f64>> =
        (0..HOSTS).map(|_| (0..SERIES).map(|n| start_value(n, &mut random)).collect()).collect();
    let resident_start = resident_kib()?;
    let mut commit_seconds = 0.0;
    for row in 0..ROWS {
        let columns: Vec<Column> = groups
            .iter()
            .zip(&mut hosts)
            .map(|(group, values)| {
                values.iter_mut().enumerate().for_each(|(n, value)| next_value(n, value, &mut random));
                // Hosts do not report at the same moment, and some are a few milliseconds late.
                let jitter = if group.0 % 2 == 0 { random.below(5) as i64 } else { 0 };
                let timestamp = Timestamp(START_MS + row as i64 * STEP_MS + i64::from(group.0) * 100 + jitter);
                Column { group: *group, timestamp, values: values.clone() }
            })
            .collect();
        let before = cpu_seconds();
        store.commit(Commit { columns, ..Commit::default() })?;
        commit_seconds += cpu_seconds() - before;
    }
    let full = store.stats();
    let resident_full = resident_kib()?;
    drop(store);

    let before = cpu_seconds();
    let (store, recovery) = Store::open(options(dir))?;
    let replay_seconds = cpu_seconds() - before;
    let end = Timestamp(START_MS + 20 * 3_600_000);
    let before = cpu_seconds();
    let mut sealed = 0;
    loop {
        let report = store.seal(end)?;
        sealed += report.bytes;
        if !report.more {
            break;
        }
    }
    let seal_seconds = cpu_seconds() - before;
    let stats = store.stats();
    let before = cpu_seconds();
    let found = store.select(&[Matcher::new("__name__", MatchOp::Regex, ".+")?], Timestamp::MIN, Timestamp::MAX)?;
    let read_seconds = cpu_seconds() - before;
    let read: usize = found.iter().map(veghe_model::SeriesData::len).sum();
    Ok(format!(
        "samples                     {samples}
commit, CPU-s per M samples {:.3}
seal, CPU-s per M samples   {:.3}
log bytes per sample        {:.2}
chunk bytes per sample      {:.3} (files, with series, marks and write-ahead log: {:.3})
head bytes (own count)      {:.1} MB
resident: start, with index, with full head {:.1}, {:.1}, {:.1} MB
replay                      {replay_seconds:.2} CPU-s for {} samples
read and decode             {:.0} M samples per CPU-s ({read})
",
        per_million(commit_seconds),
        per_million(seal_seconds),
        full.log_bytes as f64 / samples,
        sealed as f64 / samples,
        stats.chunk_bytes as f64 / samples,
        stats_mb(full.head_bytes),
        resident_before as f64 / 1024.0,
        resident_start as f64 / 1024.0,
        resident_full as f64 / 1024.0,
        recovery.replayed_samples,
        read as f64 / 1e6 / read_seconds,
    ) + &format!(
        "left after seal             {} log segments, {} head samples\n",
        stats.log_segments, stats.head_samples
    ))
}

/// Fills the log of a store that nobody seals, as after a night with a database that can't be written.
fn run_starts(dir: &Path, millions: u64) -> Result<String, Box<dyn Error>> {
    let rows = millions * 1_000_000 / (HOSTS * SERIES) as u64;
    let (store, _) = Store::open(options(dir))?;
    let mut groups = Vec::new();
    for host in 0..HOSTS {
        let labels = |n: usize| {
            Labels::from_pairs([("__name__", format!("node_metric_{n}_total")), ("instance", format!("host-{host}"))])
        };
        groups.push(store.group(&(0..SERIES).map(|n| store.series(&labels(n))).collect::<Result<Vec<_>, _>>()?));
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut hosts: Vec<Vec<f64>> =
        (0..HOSTS).map(|_| (0..SERIES).map(|n| start_value(n, &mut random)).collect()).collect();
    for row in 0..rows {
        let mut columns = Vec::with_capacity(HOSTS);
        for (group, values) in groups.iter().zip(&mut hosts) {
            values.iter_mut().enumerate().for_each(|(n, value)| next_value(n, value, &mut random));
            let timestamp = Timestamp(START_MS + row as i64 * STEP_MS + i64::from(group.0) * 100);
            columns.push(Column { group: *group, timestamp, values: values.clone() });
        }
        store.commit(Commit { columns, ..Commit::default() })?;
    }
    let stats = store.stats();
    drop(store);
    let mut report = format!(
        "in the log                  {} M samples, {:.0} MB, {} segments\n",
        rows * (HOSTS * SERIES) as u64 / 1_000_000,
        stats_mb(stats.log_bytes),
        stats.log_segments
    );
    for _ in 0..2 {
        let opened = std::process::Command::new(std::env::current_exe()?).arg(dir).arg("open").output()?;
        if !opened.status.success() {
            return Err(String::from_utf8_lossy(&opened.stderr).into());
        }
        report += &String::from_utf8_lossy(&opened.stdout);
    }
    Ok(report)
}

fn run_open(dir: &Path) -> Result<String, Box<dyn Error>> {
    let (wall, cpu) = (wall_seconds(), cpu_seconds());
    let (store, recovery) = Store::open(options(dir))?;
    let (wall, cpu) = (wall_seconds() - wall, cpu_seconds() - cpu);
    let stats = store.stats();
    Ok(format!(
        "start                       {wall:.2} s, {cpu:.2} CPU-s, peak memory {:.0} MB; {:.1} M samples replayed, {:.1} M of them in the head ({:.0} MB)\n",
        status_kib("VmHWM:")? as f64 / 1024.0,
        recovery.replayed_samples as f64 / 1e6,
        stats.head_samples as f64 / 1e6,
        stats_mb(stats.head_bytes),
    ))
}

/// A host of [`SERIES`] series for `days`.
fn run_days(dir: &Path, days: usize) -> Result<String, Box<dyn Error>> {
    const ROWS_PER_DAY: usize = 86_400_000 / STEP_MS as usize;
    let (store, _) = Store::open(options(dir))?;
    let labels = |n: usize| Labels::from_pairs([("__name__", format!("node_metric_{n}_total"))]);
    let group = store.group(&(0..SERIES).map(|n| store.series(&labels(n))).collect::<Result<Vec<_>, _>>()?);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut values: Vec<f64> = (0..SERIES).map(|n| start_value(n, &mut random)).collect();
    let (mut sealed, mut merged, mut merge_seconds, mut longest_step) = ([0; 2], [0; 2], 0.0, 0.0_f64);
    let mut rollup_bytes = 0;
    // Two days go on without samples, so that the last day is merged too.
    for row in 0..(days + 2) * ROWS_PER_DAY {
        let now = START_MS + row as i64 * STEP_MS;
        if row < days * ROWS_PER_DAY {
            values.iter_mut().enumerate().for_each(|(n, value)| next_value(n, value, &mut random));
            let timestamp = Timestamp(now + random.below(5) as i64);
            let columns = vec![Column { group, timestamp, values: values.clone() }];
            store.commit(Commit { columns, ..Commit::default() })?;
        }
        if row % 240 != 0 {
            continue;
        }
        loop {
            let before = cpu_seconds();
            let report = store.seal(Timestamp(now))?;
            if report.samples == 0 {
                let step = cpu_seconds() - before;
                merge_seconds += step;
                longest_step = longest_step.max(step);
            }
            sealed = [sealed[0] + report.samples, sealed[1] + report.bytes];
            rollup_bytes += report.rollup_bytes;
            merged = [merged[0] + report.merged_samples, merged[1] + report.merged_bytes];
            if !report.more {
                break;
            }
        }
    }
    let resident = resident_kib()?;
    let before = cpu_seconds();
    let (start, end) = (Timestamp::MIN, Timestamp::MAX);
    let one = [Matcher::new("__name__", MatchOp::Regex, "node_metric_1?[0-9]_total")?];
    let found = store.select(&one, start, end)?;
    let read: usize = found.iter().map(veghe_model::SeriesData::len).sum();
    let read_seconds = cpu_seconds() - before;
    drop(found);
    let mut read_rollups = String::new();
    for resolution in Store::resolutions() {
        let before = cpu_seconds();
        let found = store.rollups(&one, start, end, resolution)?.unwrap_or_default();
        let buckets: usize = found.iter().map(|series| series.buckets.len()).sum();
        let seconds = cpu_seconds() - before;
        let minutes = resolution.as_secs() / 60;
        let ms = seconds * 1e3;
        writeln!(
            read_rollups,
            "roll-ups of {minutes:>2} min         read of 20 series {ms:.2} CPU-ms ({buckets} buckets)"
        )?;
    }
    let stats = store.stats();
    drop(store);
    let by_table = table_bytes(&dir.join("chunks.db"))?;
    let before = cpu_seconds();
    let (_store, _) = Store::open(options(dir))?;
    let open_seconds = cpu_seconds() - before;
    Ok(format!(
        "samples sealed, merged      {}, {}
bytes per sample of windows {:.3}
bytes per sample of days    {:.3}
merging, CPU-s per M samples {:.3}, longest step {longest_step:.3} CPU-s
resident after it           {:.1} MB
read of 20 series, M samples per CPU-s {:.0} ({read})
start                       {open_seconds:.3} CPU-s
roll-ups, bytes per series and day {:.1}, that is {:.4} a sample
{read_rollups}{by_table}files, bytes per sample     {:.3} ({} log segments, {} head samples left)
",
        sealed[0],
        merged[0],
        sealed[1] as f64 / sealed[0] as f64,
        merged[1] as f64 / merged[0] as f64,
        merge_seconds / (merged[0] as f64 / 1e6),
        resident as f64 / 1024.0,
        read as f64 / 1e6 / read_seconds,
        rollup_bytes as f64 / (SERIES * days) as f64,
        rollup_bytes as f64 / sealed[0] as f64,
        stats.chunk_bytes as f64 / sealed[0] as f64,
        stats.log_segments,
        stats.head_samples,
    ))
}

/// The bytes that rows of each table have, without what SQLite needs for them.
fn table_bytes(database: &Path) -> Result<String, Box<dyn Error>> {
    let connection = rusqlite::Connection::open(database)?;
    let mut text = String::new();
    for table in ["chunk", "day_chunk", "rollup5_chunk", "rollup5_shape", "rollup60_chunk", "rollup60_shape"] {
        let statement = format!("SELECT count(*), coalesce(sum(length(data)), 0) FROM {table}");
        let (rows, bytes): (i64, i64) = connection.query_row(&statement, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
        writeln!(text, "table {table:<22}{rows} rows, {bytes} bytes")?;
    }
    Ok(text)
}

fn stats_mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Of 20 series 13 are constant, 4 are counters (one of seconds with two decimals) and 3 gauges.
fn start_value(n: usize, random: &mut Random) -> f64 {
    match n % 20 {
        0..13 => [0.0, 1.0, 8_589_934_592.0, 4_096.0, 0.25][n % 5],
        13..16 => random.below(1_000_000_000) as f64,
        16 => random.below(10_000_000) as f64 / 100.0,
        17 => 4.0e9 + random.below(1_000_000) as f64 * 4096.0,
        18 => random.below(400) as f64 / 100.0,
        _ => 40.0 + random.below(20) as f64,
    }
}

fn next_value(n: usize, value: &mut f64, random: &mut Random) {
    match n % 20 {
        0..13 => {}
        13 => *value += random.below(20) as f64,
        14 => *value += if random.below(10) == 0 { random.below(4000) as f64 } else { 0.0 },
        15 => *value += 1_500.0 + random.below(300) as f64,
        16 => *value = ((*value * 100.0).round() + 1_480.0 + random.below(20) as f64) / 100.0,
        17 => *value += (random.below(64) as f64 - 31.5).trunc() * 4096.0,
        18 => *value = (((*value * 100.0).round() + random.below(11) as f64 - 5.0) / 100.0).max(0.0),
        _ => *value = (*value + random.below(3) as f64 - 1.0).clamp(20.0, 95.0),
    }
}

/// `xorshift`: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn wall_seconds() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_kib() -> Result<u64, Box<dyn Error>> {
    status_kib("VmRSS:")
}

fn status_kib(key: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
