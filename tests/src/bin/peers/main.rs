//! The collector, Debian's Prometheus and Debian's VictoriaMetrics side by side, in one run on one machine: the same
//! remote-write requests, the same queries, equal answers checked, and one table as Markdown. Quote ratios: machines are
//! shared and noisy.

mod queries;
mod servers;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use clap::Parser;
use veghe_tests::fleet::{self, FleetHost, SERIES_PER_HOST};
use veghe_tests::http::Connection;
use veghe_tests::load::{self, Identity, Usage};

use queries::{Load, QUERIES, Same};
use servers::{Disk, Kind, Server};

/// Measure the collector beside Prometheus and VictoriaMetrics.
///
/// Example: tests/peers --small
#[derive(Parser)]
struct Arguments {
    /// Fewer series, less time, nothing but the queries: for development, its numbers say little
    #[arg(long)]
    small: bool,
    /// Nothing but one part, for development
    #[arg(long, value_enum, conflicts_with = "small")]
    only: Option<Part>,
    /// Let the load end now rather than hours ago: queries find it in memory, and bytes on disk say nothing
    #[arg(long)]
    recent: bool,
    /// Ask the queries so many times each
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// Keep the servers running after the queries until a key is pressed, to profile them
    #[arg(long)]
    hold: bool,
    /// Nothing but the queries, over loads that stay in this directory for the next run: to measure one query again and
    /// again
    #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "recent"])]
    keep: Option<PathBuf>,
}

/// A part that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The load of 200,000 series.
    Large,
}

/// Milliseconds that no sample and no evaluation have in common: whether a range includes its first moment differs
/// between Prometheus 2 and 3.
const SAMPLE_MS: i64 = 217;
const EVALUATION_MS: i64 = 137;
/// Requests are sent on so many connections, each with its own hosts.
const SENDERS: usize = 4;

/// No connection is ahead of another by more: Prometheus refuses what is an hour older than its newest.
const ROWS_APART: usize = 20;

/// A load: hosts, their rows and how they come.
#[derive(Clone, Copy)]
struct Shape {
    hosts: usize,
    series_per_host: usize,
    rows: usize,
    step_ms: i64,
    /// Rows of one request.
    rows_at_once: usize,
}

impl Shape {
    fn samples(self) -> f64 {
        (self.hosts * self.series_per_host) as f64 * self.rows as f64
    }

    /// The moment of the first row, so that the last one is before `end_ms`.
    fn first_ms(self, end_ms: i64) -> i64 {
        (end_ms - self.rows as i64 * self.step_ms) / self.step_ms * self.step_ms + SAMPLE_MS
    }
}

/// What one server used.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu_seconds: f64,
    resident_bytes: u64,
    peak_bytes: u64,
    disk: Disk,
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on standard output")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (hosts, rows, days) = if arguments.small { (8, 240, 9) } else { (40, 960, 90) };
    let wide = Shape { hosts, series_per_host: SERIES_PER_HOST, rows, step_ms: 15_000, rows_at_once: 1 };
    let large = Shape { hosts: hosts * 10, rows: rows / 10, ..wide };
    let long = Shape { hosts: 3, series_per_host: 96, rows: days * 1440, step_ms: 60_000, rows_at_once: 30 };
    let now_ms = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec * 1000;
    let past_ms = (now_ms - 7_200_000) / 7_200_000 * 7_200_000;
    let mut end_ms = if arguments.recent { now_ms } else { past_ms };
    // Where loads are kept, when they end is written beside them once they are whole.
    let kept = arguments.keep.as_ref().map(|keep| keep.join("end_ms"));
    if let Some(text) = kept.as_ref().and_then(|kept| fs::read_to_string(kept).ok()) {
        end_ms = text.trim().parse().context("end_ms is no number")?;
    }
    let filled = kept.as_ref().is_some_and(|kept| kept.exists());
    println!("| what | {} |", Kind::ALL.map(Kind::name).join(" | "));
    println!("|---|---|---|---|");

    let row = |what: &str, unit: &str, cells: &[f64]| {
        let ratios = |cell: &f64| {
            let against =
                if cells[0] > 0.0 && *cell != cells[0] { format!(" ({:.2})", cells[0] / cell) } else { String::new() };
            format!("{cell:.3} {unit}{against}")
        };
        println!("| {what} | {} |", cells.iter().map(ratios).collect::<Vec<_>>().join(" | "));
    };
    let dir = tempfile::tempdir()?;
    let root = arguments.keep.as_deref().unwrap_or(dir.path());
    let fill_large = || -> anyhow::Result<()> {
        let servers = start(&dir.path().join("large"))?;
        let before = fill(&servers, large, large.first_ms(end_ms))?;
        let costs = settle(&servers, before, large.samples(), arguments.recent)?;
        let costs = stop(servers, costs)?;
        print_costs(&row, "large", large, &costs, arguments.recent);
        Ok(())
    };
    if arguments.only == Some(Part::Large) {
        return fill_large();
    }
    let wide_servers = start(&root.join("wide"))?;
    let long_servers = start(&root.join("long"))?;
    let (mut wide_costs, mut long_costs) = (Vec::new(), Vec::new());
    if !filled {
        let wide_before = fill(&wide_servers, wide, wide.first_ms(end_ms))?;
        let long_before = fill(&long_servers, long, long.first_ms(end_ms))?;
        wide_costs = settle(&wide_servers, wide_before, wide.samples(), arguments.recent)?;
        long_costs = settle(&long_servers, long_before, long.samples(), arguments.recent)?;
        if let Some(kept) = &kept {
            fs::write(kept, end_ms.to_string())?;
        }
    }

    // As it is on every day but the first: started anew, and what is past is merged.
    let (long_servers, long_starts) = restart(long_servers)?;
    let (wide_servers, wide_starts) =
        if arguments.recent { (wide_servers, Vec::new()) } else { restart(wide_servers)? };
    let mut merging = 0.0;
    for servers in [&long_servers, &wide_servers].into_iter().take(if arguments.recent { 1 } else { 2 }) {
        let before = cpu_of(servers)?[0];
        servers[0].merged()?;
        merging += cpu_of(servers)?[0] - before;
    }

    let mut medians: [Vec<f64>; 3] = Default::default();
    let mut told = Vec::new();
    let before = [cpu_of(&wide_servers)?, cpu_of(&long_servers)?];
    for query in &QUERIES {
        let (servers, shape) = if query.load == Load::Wide { (&wide_servers, wide) } else { (&long_servers, long) };
        let (first_ms, end_ms) = (shape.first_ms(end_ms), end_ms / 1000 * 1000 - 15_000 + EVALUATION_MS);
        let mut took: [Vec<Duration>; 3] = Default::default();
        let mut answers: [String; 3] = Default::default();
        let mut connections = connect(servers)?;
        for _ in 0..arguments.repeat.max(1) {
            for (at, server) in servers.iter().enumerate() {
                let url = query.url(&server.base, first_ms, end_ms)?;
                let (duration, answer) = queries::ask(&mut connections[at], &url)?;
                took[at].push(duration);
                answers[at] = answer;
            }
        }
        let [ours, prometheus, victoria] = &answers;
        let found = queries::compare(ours, prometheus, Kind::Prometheus, Same::Values)
            .with_context(|| format!("Prometheus has another answer to {}", query.expr))?;
        let agrees = queries::compare(ours, victoria, Kind::VictoriaMetrics, query.same);
        let note = agrees.map_or_else(|problem| format!("; VictoriaMetrics: {problem:#}"), |_| String::new());
        let cells: Vec<f64> = took.iter_mut().map(|t| median(t).as_secs_f64() * 1e3).collect();
        for (all, cell) in medians.iter_mut().zip(&cells) {
            all.push(*cell);
        }
        told.push((format!("{} ({found}{note})", query.title()), cells));
    }
    let after = [cpu_of(&wide_servers)?, cpu_of(&long_servers)?];
    let queried = [&wide_servers, &long_servers].map(|servers| memory_of(servers));
    if arguments.hold {
        println!("held: {:?}", wide_servers.iter().chain(&long_servers).map(|s| s.base.as_str()).collect::<Vec<_>>());
        std::io::stdin().read_line(&mut String::new())?;
    }
    if arguments.keep.is_some() {
        wide_servers.into_iter().chain(long_servers).try_for_each(Server::end)?;
        print_queries(&row, &told, &mut medians);
        return Ok(());
    }
    let wide_costs = stop(wide_servers, wide_costs)?;
    let long_costs = stop(long_servers, long_costs)?;

    print_costs(&row, "wide", wide, &wide_costs, arguments.recent);
    print_costs(&row, "long", long, &long_costs, arguments.recent);
    if !arguments.small {
        fill_large()?;
        let batch = batches(&dir.path().join("batch"), wide, wide.first_ms(past_ms))?;
        let millions = wide.samples() / 1e6;
        println!(
            "| wide, by our own batch over MQTT and TLS, sealing included: CPU per million samples | {:.3} s | - | - |",
            batch.cpu_seconds / millions
        );
        println!("| wide, by our own batch: resident memory | {:.1} MiB | - | - |", mib(batch.resident_bytes));
    }
    row("wide: start until it answers", "s", &wide_starts);
    row("long: start until it answers", "s", &long_starts);
    println!(
        "| merging past days of both: CPU per million samples | {:.3} s | - | - |",
        merging / ((wide.samples() + long.samples()) / 1e6)
    );
    print_queries(&row, &told, &mut medians);
    let cpu: Vec<f64> = (0..3).map(|at| (0..2).map(|load| after[load][at] - before[load][at]).sum()).collect();
    row("CPU of all queries", "s", &cpu);
    for (name, memory) in ["wide", "long"].iter().zip(queried) {
        row(&format!("{name}: resident memory after the queries"), "MiB", &memory?);
    }
    Ok(())
}

type PrintRow<'p> = &'p dyn Fn(&str, &str, &[f64]);

fn print_queries(row: PrintRow<'_>, told: &[(String, Vec<f64>)], medians: &mut [Vec<f64>; 3]) {
    for (title, cells) in told {
        row(title, "ms", cells);
    }
    let overall: Vec<f64> = medians.iter_mut().map(|all| median(all)).collect();
    row("**median of the queries' medians**", "ms", &overall);
}

fn print_costs(row: PrintRow<'_>, name: &str, shape: Shape, costs: &[Cost], recent: bool) {
    let millions = shape.samples() / 1e6;
    let title = format!("{name}: {} series, {millions:.1} million samples", shape.hosts * shape.series_per_host);
    let cells = |of: &dyn Fn(&Cost) -> f64| costs.iter().map(of).collect::<Vec<_>>();
    row(&format!("{title}: CPU per million by remote write"), "s", &cells(&|c| c.cpu_seconds / millions));
    row(&format!("{name}: resident memory after it"), "MiB", &cells(&|c| mib(c.resident_bytes)));
    row(&format!("{name}: peak of resident memory"), "MiB", &cells(&|c| mib(c.peak_bytes)));
    if !recent {
        let per_sample = |bytes: u64| bytes as f64 / shape.samples();
        let what = format!("{name}: disk, index included");
        row(&what, "bytes per sample", &cells(&|c| per_sample(c.disk.files)));
        let what = format!("{name}: the same without pages that are free for what comes");
        row(&what, "bytes per sample", &cells(&|c| per_sample(c.disk.used)));
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values[values.len() / 2]
}

fn start(dir: &Path) -> anyhow::Result<Vec<Server>> {
    fs::create_dir_all(dir)?;
    Kind::ALL.into_iter().map(|kind| Server::start(kind, dir)).collect()
}

/// Starts every server anew on what it has; gives how many seconds each took until it answered.
fn restart(servers: Vec<Server>) -> anyhow::Result<(Vec<Server>, Vec<f64>)> {
    let restarted = servers.into_iter().map(Server::restart).collect::<anyhow::Result<Vec<_>>>()?;
    let seconds = restarted.iter().map(|(_, took)| took.as_secs_f64()).collect();
    Ok((restarted.into_iter().map(|(server, _)| server).collect(), seconds))
}

fn connect(servers: &[Server]) -> anyhow::Result<Vec<Connection>> {
    servers.iter().map(|server| Connection::open(&server.base)).collect()
}

fn cpu_of(servers: &[Server]) -> anyhow::Result<[f64; 3]> {
    let mut cpu = [0.0; 3];
    for (cell, server) in cpu.iter_mut().zip(servers) {
        *cell = server.usage()?.cpu_seconds;
    }
    Ok(cpu)
}

fn memory_of(servers: &[Server]) -> anyhow::Result<Vec<f64>> {
    servers.iter().map(|server| Ok(mib(server.usage()?.resident_bytes))).collect()
}

/// Tells every server the same, one after the other some rows, hosts spread over a few connections; gives what each had
/// used before.
fn fill(servers: &[Server], shape: Shape, first_ms: i64) -> anyhow::Result<Vec<Usage>> {
    let before: Vec<Usage> = servers.iter().map(Server::usage).collect::<Result<_, _>>()?;
    let mut senders: Vec<Sender> = Vec::new();
    for first in 0..SENDERS.min(shape.hosts) {
        let numbers = (first..shape.hosts).step_by(SENDERS.min(shape.hosts));
        let hosts = numbers.map(|number| FleetHost::new(number, shape.series_per_host)).collect();
        senders.push(Sender { hosts, requests: Vec::new() });
    }
    let block = ROWS_APART.max(shape.rows_at_once);
    for row in (0..shape.rows).step_by(block) {
        for sender in &mut senders {
            sender.prepare(shape, row..shape.rows.min(row + block), first_ms)?;
        }
        for server in servers {
            thread::scope(|scope| {
                let running: Vec<_> = senders.iter().map(|s| scope.spawn(move || s.send(server))).collect();
                running.into_iter().try_for_each(|r| r.join().map_err(|_panic| anyhow!("a sender panicked"))?)
            })?;
        }
    }
    Ok(before)
}

/// What the servers used since `before`, once what they were told is where it stays.
fn settle(servers: &[Server], before: Vec<Usage>, samples: f64, recent: bool) -> anyhow::Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for (server, before) in servers.iter().zip(before) {
        if !(recent && server.kind == Kind::Veghe) {
            server.settle(samples)?;
        }
        let used = server.usage()?;
        costs.push(Cost {
            cpu_seconds: used.cpu_seconds - before.cpu_seconds,
            resident_bytes: used.resident_bytes,
            peak_bytes: used.peak_resident_bytes,
            disk: Disk::default(),
        });
    }
    Ok(costs)
}

/// Some of the hosts, and what they have to say next.
struct Sender {
    hosts: Vec<FleetHost>,
    requests: Vec<Vec<u8>>,
}

impl Sender {
    /// Makes the requests of some rows.
    fn prepare(&mut self, shape: Shape, rows: Range<usize>, first_ms: i64) -> anyhow::Result<()> {
        self.requests.clear();
        for row in rows.clone().step_by(shape.rows_at_once) {
            let at_ms = first_ms + row as i64 * shape.step_ms;
            let at_once = shape.rows_at_once.min(rows.end - row);
            for host in &mut self.hosts {
                self.requests.push(fleet::remote_write(std::slice::from_mut(host), at_once, at_ms, shape.step_ms)?);
            }
        }
        Ok(())
    }

    fn send(&self, server: &Server) -> anyhow::Result<()> {
        let mut connection = Connection::open(&server.base)?;
        self.requests.iter().try_for_each(|body| server.write(&mut connection, body))
    }
}

fn stop(servers: Vec<Server>, costs: Vec<Cost>) -> anyhow::Result<Vec<Cost>> {
    servers.into_iter().zip(costs).map(|(server, cost)| Ok(Cost { disk: server.stop()?, ..cost })).collect()
}

/// The same series by simulated agents over MQTT with client certificates.
fn batches(dir: &Path, shape: Shape, first_ms: i64) -> anyhow::Result<Usage> {
    fs::create_dir_all(dir)?;
    let server = Server::start(Kind::Veghe, dir)?;
    let collector = server.collector()?;
    let port = collector.listeners.mqtt.port().context("no port")?;
    let mut agents = Vec::new();
    for number in 0..shape.hosts {
        let host = FleetHost::new(number, shape.series_per_host);
        let state_dir = dir.join("identities").join(&host.instance);
        collector.join(&host.instance, &state_dir, "15s")?;
        agents.push((Identity { agent: host.instance.parse()?, port, tls: load::tls(&state_dir)? }, host));
    }
    let before = server.usage()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut senders = tokio::task::JoinSet::new();
        for (identity, host) in agents {
            senders.spawn(load::send(identity, host, shape.rows as u64, first_ms, shape.step_ms, 8));
        }
        while let Some(sender) = senders.join_next().await {
            sender??;
        }
        anyhow::Ok(())
    })?;
    server.settle(shape.samples())?;
    let used = server.usage()?;
    ensure!(used.cpu_seconds > before.cpu_seconds, "no CPU time was counted");
    Ok(Usage { cpu_seconds: used.cpu_seconds - before.cpu_seconds, ..used })
}
