//! A real Prometheus writes to the collector, and every sample is there once.

use std::fs;
use std::process::Command;

use veghe_tests::http;
use veghe_tests::process::{Collector, Process, wait_for};

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
