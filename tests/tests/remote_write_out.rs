//! What the collector stores reaches a real Prometheus, VictoriaMetrics and another collector, whatever is killed.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use url::Url;
use veghe_tests::http;
use veghe_tests::load::{self, RemoteSeries};
use veghe_tests::process::{Collector, Process, wait_for};

const SERIES: usize = 40;
const ROWS: i64 = 240;
const STEP_MS: i64 = 1_000;

/// Series to time stamps to bits of values.
type Samples = BTreeMap<String, BTreeMap<i64, u64>>;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port()
}

fn base(port: u16) -> Url {
    format!("http://127.0.0.1:{port}/").parse().expect("url")
}

fn is_ready(url: &Url, path: &str) {
    let url = url.join(path).expect("url");
    wait_for(&format!("{url} answers"), || Ok(http::get(&url).ok())).expect("ready");
}

fn prometheus(dir: &Path, port: u16) -> Process {
    let settings = dir.join("prometheus.yml");
    fs::write(&settings, "global: {}\n").expect("settings");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", settings.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
    let process = Process::start(&mut command, &dir.join("prometheus.log")).expect("Debian's package prometheus");
    is_ready(&base(port), "-/ready");
    process
}

fn victoria(dir: &Path, port: u16) -> Process {
    let mut command = Command::new("victoria-metrics");
    command.arg(format!("-storageDataPath={}", dir.join("victoria").display()));
    command.arg(format!("-httpListenAddr=127.0.0.1:{port}"));
    let process = Process::start(&mut command, &dir.join("victoria.log")).expect("Debian's package victoria-metrics");
    is_ready(&base(port), "health");
    process
}

/// Ports of a collector's operations, status page and broker.
fn collector(dir: &Path, name: &str, ports: [u16; 3], more: &str) -> anyhow::Result<Collector> {
    let (settings, data_dir) = (dir.join(format!("{name}.yaml")), dir.join(name));
    let [ops, status, mqtt] = ports.map(|port| format!("{{listen: '127.0.0.1:{port}'}}"));
    let text = format!("data_dir: {}\nops: {ops}\nstatus: {status}\nmqtt: {mqtt}\n{more}", data_dir.display());
    fs::write(&settings, text)?;
    Collector::start(&data_dir, &["run", "--config", settings.to_str().context("path is not UTF-8")?])
}

fn token(collector: &Collector) -> String {
    let sign_in = fs::read_to_string(collector.data_dir.join("first-login")).expect("first-login");
    sign_in.lines().nth(2).expect("token").to_owned()
}

fn row(row: i64, start_ms: i64) -> Vec<u8> {
    let series: Vec<RemoteSeries> = (0..SERIES)
        .map(|n| {
            let labels =
                [("__name__", "passed_on".to_owned()), ("n", format!("{n:02}")), ("room", "archive".to_owned())];
            let labels = labels.map(|(name, value)| (name.to_owned(), value)).to_vec();
            RemoteSeries {
                labels,
                timestamp_ms: start_ms + row * STEP_MS,
                value: (row * 1_000) as f64 + n as f64 / 4.0,
            }
        })
        .collect();
    load::write_request(&series).expect("request")
}

/// Writes a row and tells whether it is acknowledged.
fn write(port: u16, token: &str, body: &[u8]) -> bool {
    let headers = [("Content-Type", "application/x-protobuf"), ("Authorization", &format!("Bearer {token}"))];
    let answer = http::request("POST", &base(port).join("api/v1/write").expect("url"), &headers, body);
    answer.is_ok_and(|answer| answer.status == 204)
}

/// Every raw sample as Prometheus' API tells it.
fn stored(base: &Url) -> anyhow::Result<Samples> {
    let mut samples = Samples::new();
    for series in http::query(base, "passed_on[1h]")? {
        let of = samples.entry(series["metric"].to_string()).or_default();
        for pair in series["values"].as_array().context("no values")? {
            let time = (pair[0].as_f64().context("no time")? * 1000.0).round() as i64;
            let value: f64 = pair[1].as_str().context("no value")?.parse()?;
            ensure!(of.insert(time, value.to_bits()).is_none(), "{time} is stored twice");
        }
    }
    Ok(samples)
}

/// Every raw sample of VictoriaMetrics, which keeps repeats: those must be the same. It stores decimals, so only values of
/// a few digits come back exactly.
fn exported(base: &Url) -> anyhow::Result<(Samples, usize)> {
    let mut url = base.join("api/v1/export")?;
    url.query_pairs_mut().append_pair("match[]", "passed_on").append_pair("reduce_mem_usage", "1");
    let (mut samples, mut repeats) = (Samples::new(), 0);
    for line in http::get(&url)?.lines() {
        let series: Value = serde_json::from_str(line)?;
        let of = samples.entry(series["metric"].to_string()).or_default();
        let list = |key: &str| series[key].as_array().context("no list").cloned();
        for (time, value) in list("timestamps")?.iter().zip(list("values")?) {
            let (time, value) = (time.as_i64().context("no time")?, value.as_f64().context("no value")?);
            if let Some(before) = of.insert(time, value.to_bits()) {
                ensure!(before == value.to_bits(), "{time} is stored with two values");
                repeats += 1;
            }
        }
    }
    Ok((samples, repeats))
}

fn reaches(what: &str, expected: &Samples, mut stored: impl FnMut() -> anyhow::Result<Samples>) {
    let mut last = Samples::new();
    let waited = wait_for(what, || {
        last = stored()?;
        Ok((last == *expected).then_some(()))
    });
    let count = |samples: &Samples| samples.values().map(BTreeMap::len).sum::<usize>();
    waited.unwrap_or_else(|error| {
        let flat = |samples: &Samples| {
            let rows = samples.iter().flat_map(|(series, of)| of.iter().map(move |(t, v)| (series.clone(), *t, *v)));
            rows.map(|(series, time, bits)| (series, time, f64::from_bits(bits))).collect::<Vec<_>>()
        };
        let (wanted, found) = (flat(expected), flat(&last));
        let first = wanted.iter().zip(&found).find(|(a, b)| a != b);
        panic!("{error:#}: {} of {}, the first that differ are {first:?}", count(&last), count(expected))
    });
}

#[test]
fn every_sample_reaches_real_receivers_once_whatever_is_killed() {
    let dir = tempfile::tempdir().expect("directory");
    let [peer_port, victoria_port] = [free_port(), free_port()];
    let mut peer = prometheus(dir.path(), peer_port);
    let victoria_process = victoria(dir.path(), victoria_port);
    let other_ports = [free_port(), free_port(), free_port()];
    let other = collector(dir.path(), "other", other_ports, "").expect("another collector");
    let token_file: PathBuf = dir.path().join("token");
    fs::write(&token_file, token(&other)).expect("token");
    // Small requests, so that there are many to be cut off.
    let more = format!(
        "external_labels: {{site: cluj}}
remote_write:
  - {{url: 'http://127.0.0.1:{peer_port}/api/v1/write', name: prometheus, queue_config: {{batch_send_deadline: 1s, max_samples_per_send: 100}}, write_relabel_configs: &RULES}}
  - {{url: 'http://127.0.0.1:{victoria_port}/api/v1/write', name: victoria, queue_config: {{batch_send_deadline: 1s, max_samples_per_send: 100}}, write_relabel_configs: &RULES}}
  - url: http://127.0.0.1:{other_port}/api/v1/write
    name: other
    protobuf_message: io.prometheus.write.v2.Request
    authorization: {{credentials_file: {token_file}}}
    queue_config: {{batch_send_deadline: 1s, max_samples_per_send: 100}}
    write_relabel_configs: &RULES
",
        other_port = other_ports[0],
        token_file = token_file.display()
    );
    let rules = "[{source_labels: [__name__], regex: passed_on, action: keep}, {source_labels: [n], regex: '39', action: drop}, {regex: room, action: labeldrop}]";
    let more = more.replace("&RULES", rules);
    let ports = [free_port(), free_port(), free_port()];
    let mut source = collector(dir.path(), "source", ports, &more).expect("collector");
    let token = token(&source);

    let now_ms = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec * 1000;
    let start_ms = now_ms - ROWS * STEP_MS;
    for n in 0..ROWS {
        match n {
            60 => peer.kill().expect("killed"),
            180 => peer = prometheus(dir.path(), peer_port),
            100 | 190 => {
                source.process.kill().expect("killed");
                assert!(!write(ports[0], &token, &row(n, start_ms)), "nobody is there");
                source = collector(dir.path(), "source", ports, &more).expect("collector");
            }
            _ => {}
        }
        assert!(write(ports[0], &token, &row(n, start_ms)), "row {n}: {}", source.process.output().expect("log"));
    }
    let here = stored(&base(ports[0])).expect("stored");
    assert_eq!(here.values().map(BTreeMap::len).sum::<usize>(), SERIES * ROWS as usize);
    // The same with other labels, and without the series that is dropped.
    let expected: Samples = here
        .into_iter()
        .filter(|(metric, _)| !metric.contains(r#""n":"39""#))
        .map(|(metric, of)| (metric.replace(r#""room":"archive""#, r#""site":"cluj""#), of))
        .collect();
    assert_eq!(expected.len(), SERIES - 1);
    reaches("everything is in Prometheus", &expected, || stored(&base(peer_port)));
    reaches("everything is in the other collector", &expected, || stored(&base(other_ports[0])));
    let mut repeats = 0;
    reaches("everything is in VictoriaMetrics", &expected, || {
        let (samples, found) = exported(&base(victoria_port))?;
        repeats = found;
        Ok(samples)
    });
    // At most a part for each of the two kills: four shards with four requests of a hundred, and the rest of a commit.
    assert!(repeats <= 2 * (1_600 + SERIES), "{repeats} repeats");
    let metrics = http::get(&base(ports[0]).join("metrics").expect("url")).expect("metrics");
    for line in metrics.lines().filter(|line| line.starts_with("prometheus_remote_storage_samples_failed_total{")) {
        assert!(line.ends_with(" 0"), "{line}: {}", source.process.output().expect("log"));
    }
    assert!(metrics.contains("prometheus_remote_storage_samples_total{remote_name=\"other\""), "{metrics}");
    drop((peer, victoria_process, other));
}
