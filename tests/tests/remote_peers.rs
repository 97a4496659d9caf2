//! A real Prometheus writes to the collector, reads from it and scrapes it, and every sample is there once.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use url::Url;

use veghe_tests::http;
use veghe_tests::process::{Collector, Process, program, wait_for};

#[test]
fn a_real_prometheus_writes_to_the_collector() {
    let dir = tempfile::tempdir().expect("directory");
    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let ops = &collector.listeners.ops;
    let sign_in = fs::read_to_string(collector.data_dir.join("first-login")).expect("first-login");
    let token = dir.path().join("token");
    fs::write(&token, sign_in.lines().nth(2).expect("token")).expect("token");
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, external_labels: {{peer: debian}}}}\n\
         scrape_configs:\n- job_name: veghe\n  static_configs: [{{targets: ['{}:{}']}}]\n\
         remote_write:\n- url: {}api/v1/write\n  authorization: {{credentials_file: {}}}\n",
        ops.host_str().expect("host"),
        ops.port().expect("port"),
        ops,
        token.display()
    );
    fs::write(&config, text).expect("configuration");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("prometheus").display()));
    command.arg("--web.listen-address=127.0.0.1:0");
    let prometheus = Process::start(&mut command, &dir.path().join("prometheus.log")).expect("prometheus (Debian)");
    let scrapes = r#"count_over_time(up{job="veghe", peer="debian"}[1h])"#;
    wait_for("samples of Prometheus are stored", || {
        Ok(http::query_one(ops, scrapes)?.filter(|scrapes| *scrapes >= 5.0))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", prometheus.output().expect("log")));
    let up = http::query_one(ops, r#"up{job="veghe", peer="debian"}"#).expect("query");
    assert_eq!(up, Some(1.0));
    let log = prometheus.output().expect("log");
    assert!(!log.contains("non-recoverable error"), "{log}");
}

/// A free port of loopback, for a program that takes a number only.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port()
}

/// Debian's Prometheus with `config`, and its address.
fn prometheus(dir: &Path, config: &str) -> (Process, Url) {
    let file = dir.join("prometheus.yml");
    fs::write(&file, config).expect("configuration");
    let port = free_port();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let process = Process::start(&mut command, &dir.join("prometheus.log")).expect("prometheus (Debian)");
    (process, format!("http://127.0.0.1:{port}/").parse().expect("url"))
}

/// Lines of `promtool tsdb dump`.
fn dump(dir: &Path) -> BTreeSet<String> {
    // It wants a log beside the blocks.
    fs::create_dir_all(dir.join("wal")).expect("directory");
    let output = Command::new("promtool").args(["tsdb", "dump"]).arg(dir).output().expect("promtool (Debian)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn blocks_of_promtool_come_in_by_import_and_go_out_by_remote_read() {
    let dir = tempfile::tempdir().expect("directory");
    // Two days, as promtool takes them: seconds with a fraction, in order of time for each series.
    let from = 1_700_000_000;
    let mut text = "# TYPE past counter\n".to_owned();
    for labels in [r#"{path="C:\\\"x\"",place="arhivă"}"#, "{path=\"/\"}"] {
        for i in 0..2 * 24 * 60 {
            let value = if i == 7 { "NaN".to_owned() } else { format!("{}", f64::from(i * i) / 8.0) };
            writeln!(text, "past_total{labels} {value} {}.250", from + i * 60).expect("text");
        }
    }
    text += "# EOF\n";
    let file = dir.path().join("past.om");
    fs::write(&file, text).expect("text");
    let blocks = dir.path().join("blocks");
    let mut promtool = Command::new("promtool");
    promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&file).arg(&blocks);
    let made = promtool.output().expect("promtool (Debian)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let dumped = dump(&blocks);
    assert_eq!(dumped.len(), 2 * 2 * 24 * 60);

    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let dump_file = dir.path().join("dump");
    fs::write(&dump_file, dumped.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>()).expect("dump");
    for file in [&dump_file, &file] {
        // The second brings what is there already: nothing changes.
        let said = collector.admin(&["import", file.to_str().expect("UTF-8")]).expect("import");
        assert!(
            said.contains(": 5760 samples of 2 series, 2023-11-14T22:13:20.25Z to 2023-11-16T22:12:20.25Z"),
            "{said}"
        );
    }
    let count = "sum(count_over_time(past_total[3d]))";
    let table = collector.admin(&["promql", count, "--at", "1700200000", "--output", "csv"]).expect("promql");
    assert_eq!(table, "timestamp,value\n1700200000,5760\n");
    let ops = &collector.listeners.ops;
    let by_url = Command::new(program("veghe-collector"))
        .args(["promql", count, "--at", "1700200000", "--output", "csv", "--url", ops.as_str()])
        .output()
        .expect("promql");
    assert_eq!(String::from_utf8_lossy(&by_url.stdout), table, "{}", String::from_utf8_lossy(&by_url.stderr));

    // A Prometheus that has nothing of its own reads all of it, bit by bit the same.
    let config = format!("global: {{}}\nremote_read: [{{url: '{ops}api/v1/read', read_recent: true}}]\n");
    let (reader, url) = prometheus(dir.path(), &config);
    wait_for("Prometheus answers", || Ok(http::get(&url.join("-/ready").expect("url")).ok())).expect("ready");
    let query = |ops: &Url| {
        let mut url = ops.join("api/v1/query").expect("url");
        url.query_pairs_mut().append_pair("query", "past_total[2d]").append_pair("time", "1700172800");
        let answer: serde_json::Value = serde_json::from_str(&http::get(&url).expect("query")).expect("JSON");
        answer["data"]["result"].clone()
    };
    let read = query(&url);
    assert_eq!(read, query(ops), "{}", reader.output().expect("log"));
    assert_eq!(read.as_array().map(Vec::len), Some(2));
    assert_eq!(read[0]["values"].as_array().map(Vec::len), Some(2880));
}

#[test]
fn a_real_prometheus_scrapes_federation_and_own_metrics() {
    let dir = tempfile::tempdir().expect("directory");
    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let ops = &collector.listeners.ops;
    let target = format!("{}:{}", ops.host_str().expect("host"), ops.port().expect("port"));
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n\
         - job_name: federate\n  honor_labels: true\n  metrics_path: /federate\n\
         \x20 params: {{'match[]': ['{{__name__=~\".+\"}}']}}\n  static_configs: [{{targets: ['{target}']}}]\n\
         - job_name: own\n  static_configs: [{{targets: ['{target}']}}]\n"
    );
    let (scraper, url) = prometheus(dir.path(), &config);
    let value = |expr: &str| http::query_one(&url, expr);
    wait_for("the agent's series are federated", || {
        // Nothing listens at first.
        Ok(value("count(node_memory_MemTotal_bytes)").ok().flatten())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", scraper.output().expect("log")));
    assert_eq!(
        value("max(node_memory_MemTotal_bytes)").expect("query"),
        http::query_one(ops, "max(node_memory_MemTotal_bytes)").expect("query")
    );
    wait_for("own metrics are scraped", || value("process_resident_memory_bytes{job=\"own\"}")).expect("own");
    for job in ["federate", "own"] {
        assert_eq!(
            value(&format!("min_over_time(up{{job=\"{job}\",instance=\"{target}\"}}[1m])")).expect("query"),
            Some(1.0)
        );
        let dropped = format!("scrape_samples_scraped{{job=\"{job}\"}} - scrape_samples_post_metric_relabeling");
        assert_eq!(value(&dropped).expect("query"), Some(0.0));
    }
    let log = scraper.output().expect("log");
    assert!(!log.contains("level=warn") || !log.contains("Error on ingesting"), "{log}");
}
