//! The three servers: started on free ports, each with a directory of its own, and what they take of the disk.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use url::Url;
use veghe_tests::http;
use veghe_tests::load::{Usage, disk_bytes, usage};
use veghe_tests::process::{Collector, Process, now, wait_for};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Veghe,
    Prometheus,
    VictoriaMetrics,
}

impl Kind {
    /// In the order of the table's columns.
    pub(crate) const ALL: [Self; 3] = [Self::Veghe, Self::Prometheus, Self::VictoriaMetrics];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veghe => "Veghe",
            Self::Prometheus => "Prometheus 2.42",
            Self::VictoriaMetrics => "VictoriaMetrics 1.79",
        }
    }
}

/// Bytes of what stays on disk, the index included.
#[derive(Clone, Copy, Default)]
pub(crate) struct Disk {
    pub(crate) files: u64,
    /// Without the pages of our database that are free for what comes next; of the peers the same as the files.
    pub(crate) used: u64,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) base: Url,
    dir: PathBuf,
    data: PathBuf,
    token: String,
    running: Running,
}

enum Running {
    Collector(Box<Collector>),
    Peer(Process),
}

impl Server {
    /// Starts `kind` on its directory below `dir`.
    pub(crate) fn start(kind: Kind, dir: &Path) -> anyhow::Result<Self> {
        let data = dir.join(format!("{kind:?}"));
        if kind == Kind::Veghe {
            let collector = start_collector(&data)?;
            let sign_in = fs::read_to_string(data.join("first-login"))?;
            let token = sign_in.lines().nth(2).context("no token in first-login")?.to_owned();
            let base = collector.listeners.ops.clone();
            let running = Running::Collector(Box::new(collector));
            return Ok(Self { kind, base, dir: dir.to_owned(), data, token, running });
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = format!("127.0.0.1:{port}");
        let base: Url = format!("http://{listen}/").parse()?;
        let (mut command, ready) = if kind == Kind::Prometheus {
            let settings = dir.join("prometheus.yml");
            fs::write(&settings, "global: {}\n")?;
            let mut command = Command::new("prometheus");
            command.arg(format!("--config.file={}", settings.display()));
            command.arg(format!("--storage.tsdb.path={}", data.display()));
            command.arg(format!("--web.listen-address={listen}"));
            command.args(["--web.enable-remote-write-receiver", "--web.enable-admin-api", "--log.level=warn"]);
            // What is old would be deleted before it is asked for.
            command.arg("--storage.tsdb.retention.time=400d");
            (command, "/-/ready")
        } else {
            let mut command = Command::new("victoria-metrics");
            command.arg(format!("-storageDataPath={}", data.display()));
            command.arg(format!("-httpListenAddr={listen}"));
            command.args(["-retentionPeriod=400d", "-loggerLevel=WARN", "-search.maxUniqueTimeseries=1000000"]);
            (command, "/health")
        };
        let process = Process::start(&mut command, &dir.join(format!("{kind:?}.log")))
            .context("needs Debian's packages prometheus and victoria-metrics")?;
        let ready = base.join(ready)?;
        wait_for("the server is ready", || Ok(http::get(&ready).ok()))?;
        let running = Running::Peer(process);
        Ok(Self { kind, base, dir: dir.to_owned(), data, token: String::new(), running })
    }

    /// Ends the server and starts it again on what it has, as after an update; gives how long it took until it answered.
    pub(crate) fn restart(mut self) -> anyhow::Result<(Self, Duration)> {
        self.process().interrupt()?;
        let begin = now();
        let server = Self::start(self.kind, &self.dir)?;
        Ok((server, now() - begin))
    }

    /// Waits until our collector has merged past days, which it does at once after a start, and given room back.
    pub(crate) fn merged(&self) -> anyhow::Result<()> {
        let database = rusqlite::Connection::open(self.data.join("tsdb/chunks.db"))?;
        let now_ms = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec * 1000;
        let first_left = (now_ms - 7_200_000) / 86_400_000 * 12;
        let oldest = || -> anyhow::Result<Option<()>> {
            let id: Option<i64> = database.query_row("SELECT min(id) FROM chunk", [], |row| row.get(0))?;
            Ok(id.is_none_or(|id| id >> 32 >= first_left).then_some(()))
        };
        wait_for("past days are merged", oldest).or_else(|_| wait_for("past days are merged", oldest))?;
        let pragma = |name: &str| -> rusqlite::Result<i64> {
            database.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
        };
        let spare = || -> anyhow::Result<Option<()>> {
            let free = pragma("freelist_count")?;
            Ok((free <= 128 || free <= pragma("page_count")? / 32).then_some(()))
        };
        wait_for("room is given back", spare)
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.running {
            Running::Collector(collector) => &mut collector.process,
            Running::Peer(process) => process,
        }
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage(match &self.running {
            Running::Collector(collector) => collector.process.id(),
            Running::Peer(process) => process.id(),
        })
    }

    /// The collector, where it is ours.
    pub(crate) fn collector(&self) -> anyhow::Result<&Collector> {
        match &self.running {
            Running::Collector(collector) => Ok(collector),
            Running::Peer(_) => bail!("{} has no collector", self.kind.name()),
        }
    }

    /// Sends one remote-write request on `connection`.
    pub(crate) fn write(&self, connection: &mut http::Connection, body: &[u8]) -> anyhow::Result<()> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("Content-Type", "application/x-protobuf"),
            ("Content-Encoding", "snappy"),
            ("X-Prometheus-Remote-Write-Version", "0.1.0"),
            ("Authorization", bearer.as_str()),
        ];
        let headers = if self.token.is_empty() { &headers[..3] } else { &headers[..] };
        let answer = connection.request("POST", &self.base.join("api/v1/write")?, headers, body)?;
        ensure!(answer.status / 100 == 2, "{} answers {}: {}", self.kind.name(), answer.status, answer.body);
        Ok(())
    }

    /// Waits until what was written is where it stays and can be asked for.
    pub(crate) fn settle(&self, samples: f64) -> anyhow::Result<()> {
        match self.kind {
            Kind::Veghe => {
                let metrics = self.base.join("/metrics")?;
                let now = |name: &str| -> anyhow::Result<f64> {
                    let text = http::get(&metrics)?;
                    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                    Ok(lines.next().with_context(|| format!("no {name}"))?.parse()?)
                };
                // The gauges are read every few seconds: those of before the load would say that nothing waits.
                let told = || Ok((now("veghe_tsdb_committed_samples_total")? >= samples).then_some(()));
                wait_for("the load is told", told)?;
                // Two waits: a long load is sealed in small parts.
                let sealed = || Ok((now("veghe_tsdb_head_samples")? < 100_000.0).then_some(()));
                wait_for("the load is sealed", sealed).or_else(|_| wait_for("the load is sealed", sealed))
            }
            // Its samples can be asked for at once, and its blocks are made when it wants.
            Kind::Prometheus => Ok(()),
            Kind::VictoriaMetrics => http::get(&self.base.join("internal/force_flush")?).map(drop),
        }
    }

    /// Ends the server as an operator does.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.process().interrupt().map(drop)
    }

    /// Ends the server and gives what stays on disk.
    pub(crate) fn stop(mut self) -> anyhow::Result<Disk> {
        let same = |bytes: u64| Disk { files: bytes, used: bytes };
        match self.kind {
            Kind::Prometheus => {
                // Compacted blocks, those of the head included.
                let answer = http::request("POST", &self.base.join("api/v1/admin/tsdb/snapshot")?, &[], &[])?;
                ensure!(answer.status == 200, "no snapshot: {}", answer.body);
                Ok(same(disk_bytes(&self.data.join("snapshots"))?))
            }
            Kind::Veghe => {
                self.process().interrupt()?;
                let path = self.data.join("tsdb/chunks.db");
                let database = rusqlite::Connection::open(&path)?;
                let pragma = |name: &str| -> rusqlite::Result<i64> {
                    database.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
                };
                let used = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
                Ok(Disk { files: fs::metadata(&path)?.len(), used: used as u64 })
            }
            Kind::VictoriaMetrics => {
                self.process().interrupt()?;
                // The directory `cache` is memory of the last run, not data.
                Ok(same(disk_bytes(&self.data.join("data"))? + disk_bytes(&self.data.join("indexdb"))?))
            }
        }
    }
}

fn start_collector(data: &Path) -> anyhow::Result<Collector> {
    fs::create_dir_all(data)?;
    let settings = data.with_extension("yaml");
    let any = "listen: 127.0.0.1:0";
    let text = format!("data_dir: {}\nops:\n  {any}\nstatus:\n  {any}\nmqtt:\n  {any}\n", data.display());
    fs::write(&settings, text)?;
    Collector::start(data, &["run", "--config", settings.to_str().context("path is not UTF-8")?])
}
