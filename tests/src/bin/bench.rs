//! Measures agent and collector beside Debian's `prometheus-node-exporter` and `prometheus`, in the same run on the same
//! machine, and prints one table. Quote ratios: machines are shared and noisy.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use url::Url;
use veghe_model::Labels;
use veghe_tests::http;
use veghe_tests::load::{self, Host, Identity, Usage, disk_bytes, usage};
use veghe_tests::process::{Collector, Process, installed, wait_for};
use veghe_tests::recording::Recording;

/// Measure agent and collector beside `node_exporter` and Prometheus.
///
/// Example: cargo run --release -p veghe-tests --bin bench
#[derive(Parser)]
struct Arguments {
    /// Cycles of the agent and scrapes of `node_exporter`, a second apart
    #[arg(long, default_value_t = 240)]
    cycles: u32,
    /// Hosts that behave as the recorded one, about 500 series each
    #[arg(long, default_value_t = 40)]
    hosts: usize,
    /// The recording (`--bin record` makes one)
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/node_exporter.tsv.zst"))]
    recording: PathBuf,
    /// Play the recording so many times in a row; 12 times two hours are a day
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Run this alone; without it, everything runs and the table has ratios
    #[arg(long)]
    only: Option<Subject>,
    /// Copy the collector's database of chunks to this file at the end, to look at what its bytes are
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// What can be measured alone, for example to profile it.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The agent beside `node_exporter`
    Agent,
    /// The collector without Prometheus
    Collector,
    /// Prometheus without the collector
    Prometheus,
}

/// The collectors of `node_exporter` that our host sensors answer to: its default set but for bcache and systemd.
const SAME_SENSORS: [&str; 44] = [
    "arp",
    "bonding",
    "btrfs",
    "conntrack",
    "cpu",
    "cpufreq",
    "diskstats",
    "dmi",
    "edac",
    "entropy",
    "fibrechannel",
    "filefd",
    "filesystem",
    "hwmon",
    "infiniband",
    "ipvs",
    "loadavg",
    "mdadm",
    "meminfo",
    "netclass",
    "netdev",
    "netstat",
    "nfs",
    "nfsd",
    "nvme",
    "os",
    "powersupplyclass",
    "pressure",
    "rapl",
    "schedstat",
    "selinux",
    "sockstat",
    "softnet",
    "stat",
    "tapestats",
    "textfile",
    "thermal_zone",
    "time",
    "timex",
    "udp_queues",
    "uname",
    "vmstat",
    "xfs",
    "zfs",
];

#[expect(clippy::print_stdout, reason = "a command line tool speaks on standard output")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir()?;
    println!("| what | ours | peer | ours / peer |\n|---|---|---|---|");
    let row = |what: &str, unit: &str, ours: Option<f64>, peer: Option<f64>| {
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3} {unit}"));
        let ratio = ours.zip(peer).map_or("-".to_owned(), |(ours, peer)| format!("{:.2}", ours / peer));
        println!("| {what} | {} | {} | {ratio} |", cell(ours), cell(peer));
    };
    let wanted = |subject: Subject| arguments.only.is_none_or(|only| only == subject);
    if wanted(Subject::Agent) {
        let (ours, peer) = bench_agent(dir.path(), arguments.cycles)?;
        let cpu = |used: Usage| Some(used.cpu_seconds / f64::from(arguments.cycles) * 1e3);
        let memory = |used: Usage| Some(mib(used.resident_bytes));
        let of = if std::env::var_os("VEGHE_PROGRAMS").is_some() { "of VEGHE_PROGRAMS" } else { "profile dist" };
        row(&format!("agent ({of}), CPU per cycle, beside node_exporter"), "ms", cpu(ours), cpu(peer));
        row(&format!("agent ({of}), resident memory, beside node_exporter"), "MiB", memory(ours), memory(peer));
    }
    if arguments.only == Some(Subject::Agent) {
        return Ok(());
    }
    let recording = Arc::new(Recording::read(&arguments.recording)?.repeated(arguments.times)?);
    let hosts: Vec<Host> = (0..arguments.hosts).map(|number| Host::new(number, &recording)).collect();
    let series = hosts.len() * recording.series.len();
    let millions = series as f64 * recording.rows.len() as f64 / 1e6;
    let peer = wanted(Subject::Prometheus).then(|| bench_prometheus(dir.path(), &hosts, &recording)).transpose()?;
    let ours = wanted(Subject::Collector)
        .then(|| bench_collector(dir.path(), hosts, &recording, arguments.keep.as_deref()))
        .transpose()?;
    println!("| | {series} series, {millions:.2} million samples | remote write of the same | |");
    let both = |value: &dyn Fn((Usage, Disk)) -> f64| (ours.map(value), peer.map(value));
    let (ours_cpu, peer_cpu) = both(&|(used, _)| used.cpu_seconds / millions);
    row("collector, CPU per million samples, beside Prometheus", "s", ours_cpu, peer_cpu);
    let (ours_now, peer_now) = both(&|(used, _)| mib(used.resident_bytes));
    row("collector, resident memory", "MiB", ours_now, peer_now);
    let (ours_peak, peer_peak) = both(&|(used, _)| mib(used.peak_resident_bytes));
    row("collector, peak resident memory", "MiB", ours_peak, peer_peak);
    let (ours_disk, peer_disk) = both(&|(_, disk)| disk.samples / millions / 1e6);
    row("collector, disk per sample, sealed", "bytes", ours_disk, peer_disk);
    let (ours_disk, peer_disk) = both(&|(_, disk)| disk.sealed / millions / 1e6);
    row("collector, disk per sample, sealed, with the index", "bytes", ours_disk, peer_disk);
    let (ours_disk, peer_disk) = both(&|(_, disk)| disk.all / millions / 1e6);
    row("collector, disk per sample, everything, logs included", "bytes", ours_disk, peer_disk);
    Ok(())
}

/// Bytes on disk.
#[derive(Clone, Copy)]
struct Disk {
    /// The data directory, logs of what is not sealed yet included.
    all: f64,
    /// What grows with the samples: chunks alone, with what their pages leave empty.
    samples: f64,
    /// What stays: chunks and index; of Prometheus a snapshot, which is compacted blocks.
    sealed: f64,
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn since(now: Usage, before: Usage) -> Usage {
    Usage { cpu_seconds: now.cpu_seconds - before.cpu_seconds, ..now }
}

/// The agent as it is installed, connected to a collector, spooling and sending a cycle a second; `node_exporter` scraped after each of them.
/// The pace matters: in a tight loop both work from warm caches, which no server in earnest has.
fn bench_agent(dir: &Path, cycles: u32) -> anyhow::Result<(Usage, Usage)> {
    // Its build, if need be, comes before anything that is measured.
    let program = installed("veghe-agent");
    let collector = start_collector(&dir.join("for-agent"))?;
    let state_dir = dir.join("agent");
    collector.join("bench", &state_dir, "1s")?;
    let mut command = Command::new(program);
    command.arg("run").arg("--state-dir").arg(&state_dir);
    let ours = Process::start(&mut command, &state_dir.with_extension("agent.log"))?;
    let port = free_port()?;
    let mut command = Command::new("prometheus-node-exporter");
    command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--collector.disable-defaults");
    command.args(SAME_SENSORS.map(|name| format!("--collector.{name}")));
    let peer = Process::start(&mut command, &dir.join("node_exporter.log"))
        .context("needs Debian's package prometheus-node-exporter")?;
    let metrics: Url = format!("http://127.0.0.1:{port}/metrics").parse()?;
    wait_for("node_exporter answers", || Ok(http::get(&metrics).ok()))?;
    let query = r#"max(veghe_agent_cycles_total{instance="bench"})"#;
    let count = || http::query_one(&collector.listeners.ops, query);
    let scrape_each_cycle = |from: f64, until: f64| -> anyhow::Result<f64> {
        let mut taken = from;
        while taken < until {
            taken = wait_for("the agent takes a cycle", || Ok(count()?.filter(|n| *n > taken)))?;
            http::get(&metrics)?;
        }
        Ok(taken)
    };
    let begin = scrape_each_cycle(0.0, 10.0)?;
    let (ours_before, peer_before) = (usage(ours.id())?, usage(peer.id())?);
    let end = scrape_each_cycle(begin, begin + f64::from(cycles))?;
    let (ours_now, peer_now) = (usage(ours.id())?, usage(peer.id())?);
    ensure!(end == begin + f64::from(cycles), "the agent took {} cycles instead of {cycles}", end - begin);
    Ok((since(ours_now, ours_before), since(peer_now, peer_before)))
}

/// Simulated agents over MQTT with client certificates; the data lies far enough back that it is sealed.
fn bench_collector(
    dir: &Path,
    hosts: Vec<Host>,
    recording: &Recording,
    keep: Option<&Path>,
) -> anyhow::Result<(Usage, Disk)> {
    let mut collector = start_collector(&dir.join("for-load"))?;
    let empty = disk_bytes(&collector.data_dir)? as f64;
    let port = collector.listeners.mqtt.port().context("no port")?;
    let mut identities = Vec::new();
    for host in &hosts {
        let state_dir = dir.join("identities").join(&host.name);
        collector.join(&host.name, &state_dir, "15s")?;
        identities.push(Identity { agent: host.name.parse()?, port, tls: load::tls(&state_dir)? });
    }
    let rows = recording.rows.len() as u64;
    let loaded = (hosts.len() * recording.series.len()) as f64 * rows as f64;
    let before = usage(collector.process.id())?;
    let start = first_timestamp(recording)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut senders = tokio::task::JoinSet::new();
        for (identity, host) in identities.into_iter().zip(hosts) {
            senders.spawn(load::send(identity, host, rows, start, 15_000, 8));
        }
        while let Some(sender) = senders.join_next().await {
            sender??;
        }
        anyhow::Ok(())
    })?;
    // Asked of /metrics: the stored samples of it are of seconds ago. Seldom: what answers cost is in what is measured.
    let metrics = collector.listeners.ops.join("/metrics")?;
    let now = |name: &str| -> anyhow::Result<f64> {
        thread::sleep(Duration::from_secs(1));
        let text = http::get(&metrics)?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(lines.next().with_context(|| format!("no {name}"))?.parse()?)
    };
    // The gauges are read every few seconds: those of before the load would say that nothing waits.
    wait_for("the load is told", || Ok((now("veghe_tsdb_committed_samples_total")? >= loaded).then_some(())))?;
    wait_for("the window is sealed", || Ok((now("veghe_tsdb_head_samples")? < 100_000.0).then_some(())))?;
    let used = since(usage(collector.process.id())?, before);
    let names: BTreeSet<&str> = recording.series.iter().map(Labels::metric_name).collect();
    let mut stored = 0.0;
    for metric in names {
        let query = format!(r#"sum(count_over_time({metric}{{job="node"}}[3d]))"#);
        stored += http::query_one(&collector.listeners.ops, &query)?.context("nothing is stored")?;
    }
    ensure!(stored == loaded, "only {stored} samples are stored");
    collector.process.interrupt()?;
    let database = collector.data_dir.join("tsdb/chunks.db");
    let sealed = fs::metadata(&database)?.len() as f64;
    let samples = rusqlite::Connection::open(&database)?.query_row(
        "SELECT sum(pgsize) FROM dbstat WHERE name IN ('chunk', 'times', 'day_chunk', 'day_times')",
        [],
        |row| row.get::<_, f64>(0),
    )?;
    if let Some(kept) = keep {
        fs::copy(&database, kept).with_context(|| format!("cannot write {}", kept.display()))?;
    }
    Ok((used, Disk { all: disk_bytes(&collector.data_dir)? as f64 - empty, samples, sealed }))
}

/// The same rows by remote write, one request per host and row; its disk is a snapshot, that is, compacted blocks.
fn bench_prometheus(dir: &Path, hosts: &[Host], recording: &Recording) -> anyhow::Result<(Usage, Disk)> {
    let data = dir.join("prometheus");
    let settings = dir.join("prometheus.yml");
    fs::write(&settings, "global: {}\n")?;
    let port = free_port()?;
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", settings.display()));
    command.arg(format!("--storage.tsdb.path={}", data.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.args(["--web.enable-remote-write-receiver", "--web.enable-admin-api", "--log.level=warn"]);
    let peer =
        Process::start(&mut command, &dir.join("prometheus.log")).context("needs Debian's package prometheus")?;
    let base: Url = format!("http://127.0.0.1:{port}/").parse()?;
    wait_for("Prometheus is ready", || Ok(http::get(&base.join("-/ready")?).ok()))?;
    let before = usage(peer.id())?;
    let start = first_timestamp(recording)?;
    let write = base.join("api/v1/write")?;
    let headers = [
        ("Content-Type", "application/x-protobuf"),
        ("Content-Encoding", "snappy"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    for row in 0..recording.rows.len() as u64 {
        for host in hosts {
            let body = load::remote_write(host, row, start)?;
            let answer = http::request("POST", &write, &headers, &body)?;
            ensure!(answer.status / 100 == 2, "Prometheus answers {}: {}", answer.status, answer.body);
        }
    }
    let used = since(usage(peer.id())?, before);
    let answer = http::request("POST", &base.join("api/v1/admin/tsdb/snapshot")?, &[], &[])?;
    ensure!(answer.status == 200, "no snapshot: {}", answer.body);
    let sealed = disk_bytes(&data.join("snapshots"))? as f64;
    let mut samples = 0.0;
    for snapshot in fs::read_dir(data.join("snapshots"))? {
        for block in fs::read_dir(snapshot?.path())? {
            samples += disk_bytes(&block?.path().join("chunks"))? as f64;
        }
    }
    Ok((used, Disk { all: disk_bytes(&data)? as f64 - sealed, samples, sealed }))
}

fn start_collector(data_dir: &Path) -> anyhow::Result<Collector> {
    fs::create_dir_all(data_dir)?;
    let settings = data_dir.with_extension("yaml");
    let any = "listen: 127.0.0.1:0";
    fs::write(
        &settings,
        format!("data_dir: {}\nops:\n  {any}\nstatus:\n  {any}\nmqtt:\n  {any}\n", data_dir.display()),
    )?;
    Collector::start(data_dir, &["run", "--config", settings.to_str().context("path is not UTF-8")?])
}

/// A time stamp on a two-hour boundary so long ago that all rows are of windows that may be sealed.
fn first_timestamp(recording: &Recording) -> anyhow::Result<i64> {
    const WINDOW_MS: i64 = 7_200_000;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec * 1000;
    let span = *recording.offsets_ms.last().context("the recording has no row")?;
    Ok((now - span - WINDOW_MS) / WINDOW_MS * WINDOW_MS)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
