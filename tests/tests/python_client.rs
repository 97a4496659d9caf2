//! The client of Prometheus that `PyPI` has asks the collector as it asks a Prometheus.

use std::path::Path;
use std::process::Command;

use veghe_tests::http;
use veghe_tests::process::{Collector, wait_for};

#[test]
fn the_python_client_of_prometheus_works_unchanged() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let python = folder.join("venv/bin/python");
    assert!(python.exists(), "make tests/python/venv first, as tests/run does");
    let dir = tempfile::tempdir().expect("directory");
    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let ops = &collector.listeners.ops;
    wait_for("the agent's series are there", || http::query_one(ops, "count(node_memory_MemTotal_bytes)"))
        .expect("series");
    let url = ops.as_str().trim_end_matches('/');
    let output = Command::new(python).arg(folder.join("client.py")).arg(url).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
