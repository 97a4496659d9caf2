//! Shows what each table takes on disk once a recorded load is sealed, and once its day is merged and rolled up.
//!
//! `cargo run --release -p veghe-tsdb --example recording FILE [DIR [TIMES]]`; FILE as `tests/recordings` has them, 40 hosts
//! like it, played TIMES in a row, counters going on: 12 times two hours are a day.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use veghe_model::{Labels, Timestamp};
use veghe_tsdb::{Column, Commit, Options, Store};

const HOSTS: usize = 40;
/// The beginning of a day.
const START_MS: i64 = 1_700_006_400_000;
const HOUR_MS: i64 = 3_600_000;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).ok_or("which recording?")?;
    let dir = std::env::args_os().nth(2).map_or_else(|| std::env::temp_dir().join("veghe-recording"), PathBuf::from);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let plays = std::env::args().nth(3).map_or(Ok(1), |plays| plays.parse())?;
    let report = run(&String::from_utf8(zstd::decode_all(std::fs::File::open(file)?)?)?, &dir, plays)?;
    std::io::Write::write_all(&mut std::io::stdout(), report.as_bytes())?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn run(text: &str, dir: &Path, plays: i64) -> Result<String, Box<dyn Error>> {
    let mut lines = text.lines();
    let times = lines.next().ok_or("no times")?.split('\t').skip(1).map(str::parse).collect::<Result<Vec<i64>, _>>()?;
    let mut recorded = Vec::new();
    for line in lines {
        let mut fields = line.split('\t');
        let name = fields.next().ok_or("no series")?;
        let mut last = 0.0;
        let values = fields.map(|field| -> Result<f64, std::num::ParseFloatError> {
            if !field.is_empty() {
                last = field.parse()?;
            }
            Ok(last)
        });
        recorded.push((name, values.collect::<Result<Vec<_>, _>>()?));
    }
    let (store, _) =
        Store::open(Options { dir: dir.to_owned(), window: Duration::from_hours(2), max_series: 1_000_000 })?;
    let mut groups = Vec::new();
    for host in 0..HOSTS {
        let ids = recorded.iter().map(|(name, _)| store.series(&labels(name, host)));
        groups.push(store.group(&ids.collect::<Result<Vec<_>, _>>()?));
    }
    let (first, last) = times.first().zip(times.last()).ok_or("no rows")?;
    let length_ms = last - first + (last - first) / (times.len() as i64 - 1).max(1);
    // What a counter grows by in one play.
    let growths: Vec<_> = recorded
        .iter()
        .map(|(_, values)| if values.is_sorted() { values[values.len() - 1] - values[0] } else { 0.0 })
        .collect();
    for play in 0..plays {
        for (row, time) in times.iter().enumerate() {
            let values = recorded.iter().zip(&growths).map(|((_, values), growth)| values[row] + growth * play as f64);
            let values: Vec<_> = values.collect();
            let timestamp = Timestamp(START_MS + play * length_ms + time - first);
            let columns = groups.iter().map(|group| Column { group: *group, timestamp, values: values.clone() });
            store.commit(Commit { columns: columns.collect(), ..Commit::default() })?;
        }
        // As while time passes; the last window is sealed below.
        while store.seal(Timestamp(START_MS + (play + 1) * length_ms))?.more {}
    }
    let samples = (HOSTS * recorded.len() * times.len()) as f64 * plays as f64;
    let hours = plays * length_ms / HOUR_MS;
    let mut report = format!("{} series, {samples} samples\n", HOSTS * recorded.len());
    for (state, hours) in [("sealed", [hours + 8, hours + 9]), ("merged and rolled up", [hours + 38, hours + 48])] {
        let before = cpu_seconds();
        for hour in hours {
            while store.seal(Timestamp(START_MS + hour * HOUR_MS))?.more {}
        }
        let seconds = (cpu_seconds() - before) / (samples / 1e6);
        writeln!(report, "\n{state}: {seconds:.3} CPU-s a million samples; bytes a sample:")?;
        report += &tables(&dir.join("chunks.db"), samples)?;
    }
    Ok(report)
}

/// `name{a="b", c="d"}`, as recordings have them: no value has a quotation mark.
fn labels(series: &str, host: usize) -> Labels {
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let pairs = rest.trim_end_matches('}').split("\", ").filter_map(|pair| pair.split_once("=\""));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
    let own = [("__name__", name), ("instance", &*format!("host-{host:04}")), ("job", "node")];
    Labels::from_pairs(own.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().chain(pairs))
}

fn tables(database: &Path, samples: f64) -> Result<String, Box<dyn Error>> {
    let connection = rusqlite::Connection::open(database)?;
    let mut text = format!("{:<20}{:>9}{:>9}{:>9}{:>9}{:>9}\n", "table", "rows", "pages", "payload", "cells", "unused");
    let mut statement = connection.prepare(
        "SELECT name, sum(CASE pagetype WHEN 'leaf' THEN ncell ELSE 0 END), sum(pgsize), sum(payload), sum(unused) FROM dbstat
         GROUP BY name ORDER BY 3 DESC",
    )?;
    let mut rows = statement.query([])?;
    let mut all = 0.0;
    while let Some(row) = rows.next()? {
        let bytes = |at: usize| row.get::<_, f64>(at).map(|bytes| bytes / samples);
        let (pages, payload, unused) = (bytes(2)?, bytes(3)?, bytes(4)?);
        all += pages;
        if pages > 0.001 {
            let (name, cells): (String, i64) = (row.get(0)?, row.get(1)?);
            let rest = pages - payload - unused;
            writeln!(text, "{name:<20}{cells:>9}{pages:>9.4}{payload:>9.4}{rest:>9.4}{unused:>9.4}")?;
        }
    }
    let free: f64 = connection.query_row(
        "SELECT freelist_count * 1.0 * page_size FROM pragma_freelist_count, pragma_page_size",
        [],
        |r| r.get(0),
    )?;
    let file = std::fs::metadata(database)?.len() as f64;
    writeln!(text, "all {all:.4}, free {:.4}, file {:.4}", free / samples, file / samples)?;
    Ok(text)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
