//! Lets a real collector take a simulated archive in, kills it on the way, and compares its books with the archive's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::archive::{Archive, Books, Size, compare};
use crate::http;
use crate::process::{Collector, now};
use crate::troubles;

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// The archive's own books, which the collector's equal.
    pub books: Books,
    /// How long the collector took to take everything in, kills and restarts not counted.
    pub ingest: Duration,
    /// How long it took to start on the whole ledger and be ready.
    pub restart: Duration,
    /// How long the first report took after the last event.
    pub first_report: Duration,
    /// How long one more took.
    pub next_report: Duration,
    /// How long the project's page took.
    pub page: Duration,
    /// Which list of the events behind a number took longest, and how long.
    pub slowest_list: (String, Duration),
    /// How often it was killed.
    pub kills: u32,
    /// The project as the collector told it at the end.
    pub project: Value,
    /// Bytes of the ledger.
    pub ledger_bytes: u64,
}

/// Digitizes an archive of `size` into a collector in `dir`; every `kill_every`-th day it is killed while it takes the
/// day's events in, started again, and sent the day once more.
///
/// # Errors
/// Where the collector fails, or its books differ from the archive's.
pub fn digitize(dir: &Path, size: Size, kill_every: u32) -> anyhow::Result<Outcome> {
    let data_dir = dir.join("data");
    let mut archive = Archive::new(size);
    let inventory = dir.join("inventar.csv");
    fs::write(&inventory, archive.inventory())?;
    let mut collector = Collector::up(&data_dir)?;
    let said = collector.admin(&["inventory", "import", inventory.to_str().context("path")?, "--yes"])?;
    ensure!(said.contains("version 1"), "{said}");
    let login = fs::read_to_string(data_dir.join("first-login"))?;
    let bearer = format!("Bearer {}", login.lines().nth(2).context("first-login has no token")?);
    let (mut ingest, mut kills, mut days) = (Duration::ZERO, 0, 0);
    archive.run(|events| {
        let body = Value::Array(std::mem::take(events)).to_string().into_bytes();
        days += 1;
        if kill_every > 0 && days % kill_every == 0 {
            thread::scope(|scope| {
                let sender = scope.spawn(|| post(&collector, &bearer, &body));
                // At another moment each time: while it reads, writes, or has answered already.
                (0..kills * 3000 % 40_000).for_each(|_| thread::yield_now());
                let killed = rustix::process::kill_process(
                    rustix::process::Pid::from_raw(collector.process.id().cast_signed()).context("process id")?,
                    rustix::process::Signal::KILL,
                );
                drop(sender.join());
                killed.context("cannot kill the collector")
            })?;
            collector.process.wait()?;
            kills += 1;
            collector = Collector::up(&data_dir)?;
        }
        let began = now();
        let answer = post(&collector, &bearer, &body)?;
        ingest += began.elapsed();
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["refused"] == json!([]), "refused: {answer}");
        Ok(())
    })?;
    let began = now();
    let project = ask(&collector, "project")?;
    let first_report = began.elapsed();
    let began = now();
    ask(&collector, "project")?;
    let next_report = began.elapsed();
    let whole_days = ask(&collector, "days")?;
    compare(&archive.books, &project, &whole_days)?;
    let began = now();
    http::get(&collector.listeners.ops.join("/digitization?lang=ro")?)?;
    let page = began.elapsed();
    let slowest_list = trace(&collector, &archive.books)?;
    collector.process.interrupt()?;
    let began = now();
    let again = Collector::up(&data_dir)?;
    let restart = began.elapsed();
    compare(&archive.books, &ask(&again, "project")?, &ask(&again, "days")?).context("after a restart")?;
    let ledger_bytes = fs::metadata(data_dir.join("ledger.db"))?.len();
    let books = archive.books.clone();
    Ok(Outcome { books, ingest, restart, first_report, next_report, page, slowest_list, kills, project, ledger_bytes })
}

/// Digitizes what `size` says into a collector in `dir`, which runs on.
///
/// # Errors
/// Where the collector fails.
pub fn under_way(dir: &Path, size: Size) -> anyhow::Result<Collector> {
    fill(dir, size, Collector::up(&dir.join("data"))?)
}

/// As [`under_way`], with whatever goes wrong in such a project: scans below their rule, damaged and missing masters,
/// packages that do not count, lots with every verdict, events that wait for their unit, overdue paper, invoices, persons.
///
/// # Errors
/// Where the collector fails.
pub fn in_trouble(dir: &Path, size: Size) -> anyhow::Result<Collector> {
    let data_dir = dir.join("data");
    let config = format!(
        "data_dir: {}\nops: {{listen: 127.0.0.1:0}}\nstatus: {{listen: 127.0.0.1:0}}\nmqtt: {{listen: 127.0.0.1:0}}\n{}",
        data_dir.display(),
        troubles::CONFIG
    );
    let file = dir.join("collector.yaml");
    fs::write(&file, config)?;
    let collector = Collector::start(&data_dir, &["run", "--config", file.to_str().context("path")?])?;
    let collector = fill(dir, size, collector)?;
    let login = fs::read_to_string(data_dir.join("first-login"))?;
    let bearer = format!("Bearer {}", login.lines().nth(2).context("first-login has no token")?);
    let now = jiff::Timestamp::now();
    let body = Value::Array(troubles::events(now)).to_string();
    let answer: Value = serde_json::from_str(&post(&collector, &bearer, body.as_bytes())?)?;
    ensure!(answer["refused"] == json!([]), "refused: {answer}");
    for (path, body) in troubles::lots() {
        let url = collector.listeners.ops.join(path)?;
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let response = http::request("POST", &url, &headers, body.to_string().as_bytes())?;
        ensure!(response.status == 200, "{url} answers {} to {body}: {}", response.status, response.body);
    }
    let names = dir.join("staff.txt");
    fs::write(&names, "Ana Pop\nIon Vasile\n")?;
    let names = names.to_str().context("path")?;
    let why = "pages 12 to 40 are missing, complaint 1234";
    collector.admin(&[
        "digitization",
        "reveal",
        "CJT-SIM-0009",
        "--names",
        names,
        "--by",
        "Ion Vasile",
        "--why",
        why,
    ])?;
    Ok(collector)
}

fn fill(dir: &Path, size: Size, collector: Collector) -> anyhow::Result<Collector> {
    let mut archive = Archive::new(size);
    let inventory = dir.join("inventar.csv");
    fs::write(&inventory, archive.inventory())?;
    let data_dir = dir.join("data");
    collector.admin(&["inventory", "import", inventory.to_str().context("path")?, "--yes"])?;
    let login = fs::read_to_string(data_dir.join("first-login"))?;
    let bearer = format!("Bearer {}", login.lines().nth(2).context("first-login has no token")?);
    archive.run(|events| {
        post(&collector, &bearer, Value::Array(std::mem::take(events)).to_string().as_bytes()).map(drop)
    })?;
    Ok(collector)
}

fn post(collector: &Collector, bearer: &str, body: &[u8]) -> anyhow::Result<String> {
    let url = collector.listeners.ops.join("/v1/digitization/events")?;
    let headers = [("Authorization", bearer), ("Content-Type", "application/cloudevents-batch+json")];
    let response = http::request("POST", &url, &headers, body)?;
    ensure!(response.status == 200, "{url} answers {}: {}", response.status, response.body);
    Ok(response.body)
}

/// Follows numbers to the events behind them, which must add up to the archive's own; gives the slowest list.
fn trace(collector: &Collector, books: &Books) -> anyhow::Result<(String, Duration)> {
    let mut wanted: Vec<(String, i64)> = vec![
        ("of=scope&measure=images".to_owned(), books.images),
        ("of=scope&measure=sheets".to_owned(), books.leaves.cast_signed()),
        ("of=done&measure=mm".to_owned(), books.mm_done.cast_signed()),
        ("of=done".to_owned(), books.units_done.cast_signed()),
        ("of=first_looks_good".to_owned(), books.first_pass.cast_signed()),
    ];
    for (reason, count) in &books.rejections {
        wanted.push((format!("of=rejections&reason={reason}"), count.cast_signed()));
    }
    let mut months = BTreeMap::<&str, (i64, i64)>::new();
    for (day, made) in &books.by_day {
        let month = months.entry(day.get(..7).context("day")?).or_default();
        *month = (month.0 + made.0, month.1 + made.1);
    }
    for (month, (new, again)) in months {
        let last = (28..=31).rev().find(|day| format!("{month}-{day}").parse::<jiff::civil::Date>().is_ok());
        let days = format!("from={month}-01&to={month}-{}", last.context("a month has an end")?);
        wanted.push((format!("of=captured&{days}"), new));
        wanted.push((format!("of=rescanned&{days}"), again));
    }
    let mut slowest = (String::new(), Duration::ZERO);
    for (query, own) in wanted {
        let began = now();
        let list = ask(collector, &format!("figure?{query}&limit=1"))?;
        let took = began.elapsed();
        ensure!(list["total"] == own, "{query}: the archive knows {own}, the list adds up to {}", list["total"]);
        if took > slowest.1 {
            slowest = (format!("{query}, {} events", list["count"]), took);
        }
    }
    Ok(slowest)
}

fn ask(collector: &Collector, what: &str) -> anyhow::Result<Value> {
    let url = collector.listeners.ops.join("/v1/digitization/")?.join(what)?;
    Ok(serde_json::from_str(&http::get(&url)?)?)
}
