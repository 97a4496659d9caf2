//! One command starts the whole appliance, and this very machine's real health is stored, queried and shown.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use veghe_tests::http;
use veghe_tests::process::{Collector, program, wait_for};

fn mem_total_bytes() -> f64 {
    let meminfo = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:")).expect("MemTotal");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number");
    kib * 1024.0
}

#[test]
fn one_command_shows_this_machine_in_both_languages_and_ends_cleanly() {
    let dir = tempfile::tempdir().expect("directory");
    let data_dir = dir.path().join("data");
    let mut collector = Collector::up(&data_dir).expect("up");
    let listeners = collector.listeners.clone();

    let stored = wait_for("memory is stored", || http::query_one(&listeners.ops, "node_memory_MemTotal_bytes"));
    assert_eq!(stored.expect("stored"), mem_total_bytes());

    let federate = listeners.ops.join("/federate?match[]={__name__=~\"node_.*\"}").expect("url");
    let exposition = http::get(&federate).expect("federate");
    assert!(exposition.contains("node_memory_MemTotal_bytes"), "{exposition}");
    for text in [exposition, http::get(&listeners.ops.join("/metrics").expect("url")).expect("metrics")] {
        assert_promtool_parses(&text);
    }

    let server = listeners.ops.as_str().trim_end_matches('/');
    let memory = "node_memory_MemTotal_bytes";
    assert!(promtool(&["query", "instant", server, memory]).contains("node_memory_MemTotal_bytes{instance="));
    assert!(promtool(&["query", "range", "--step=15s", server, memory]).contains(" @["));
    assert!(promtool(&["query", "series", "--match=node_load1", server]).contains("__name__=\"node_load1\""));
    assert!(promtool(&["query", "labels", server, "job"]).lines().any(|line| line == "node"));

    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname").trim().to_lowercase();
    for (language, words) in [("ro", "Toate sistemele funcționează"), ("en", "All systems operational")] {
        let page = wait_for("the status page is operational", || {
            let page = http::get(&listeners.status.join(language)?)?;
            Ok((page.contains(words) && page.contains(&hostname)).then_some(page))
        })
        .expect("page");
        assert!(page.contains(&format!("<html lang=\"{language}\"")), "{page}");
    }
    let summary = http::get(&listeners.status.join("/api/v2/summary.json").expect("url")).expect("summary");
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["status"]["indicator"], "none");

    let sign_in = data_dir.join("first-login");
    let mode = fs::metadata(&sign_in).expect("first-login").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&sign_in).expect("first-login").lines().count(), 3);

    let second = Command::new(program("veghe-collector"))
        .args(["up", "--ops", "127.0.0.1:0", "--status", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--data-dir"])
        .arg(&data_dir)
        .output()
        .expect("second");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&collector.process.id().to_string()), "the holder is not named: {said}");

    let status = collector.process.interrupt().expect("end");
    assert!(status.success(), "{status}: {}", collector.process.output().expect("log"));
}

#[test]
fn an_agent_joins_is_listed_and_is_cut_off_at_once_when_revoked() {
    let dir = tempfile::tempdir().expect("directory");
    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let state_dir = dir.path().join("agent");
    collector.join("scan-1", &state_dir, "200ms").expect("join");
    let agent = veghe_tests::process::agent(&state_dir).expect("agent");
    let cycles = r#"count_over_time(veghe_agent_cycles_total{instance="scan-1"}[1h])"#;
    wait_for("cycles are stored", || {
        Ok(http::query_one(&collector.listeners.ops, cycles)?.filter(|count| *count > 5.0))
    })
    .expect("cycles");
    let list = collector.admin(&["agents", "list"]).expect("list");
    assert!(list.contains("scan-1"), "{list}");

    collector.admin(&["agents", "revoke", "scan-1"]).expect("revoke");
    wait_for("the agent hears that it is refused", || {
        Ok(agent.output()?.to_lowercase().contains("refused").then_some(()))
    })
    .expect("refusal");
    let count = http::query_one(&collector.listeners.ops, cycles).expect("query");
    let refused = r#"sum(veghe_broker_refusals_total{instance="collector"})"#;
    wait_for("refusals are counted", || {
        Ok(http::query_one(&collector.listeners.ops, refused)?.filter(|count| *count > 0.0))
    })
    .expect("refusals");
    assert_eq!(http::query_one(&collector.listeners.ops, cycles).expect("query"), count);
}

/// What Debian's promtool prints, which must succeed.
fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool").args(arguments).output().expect("promtool (Debian package prometheus)");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn assert_promtool_parses(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian package prometheus)");
    promtool.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
    let output = promtool.wait_with_output().expect("promtool");
    // 3 means remarks of the linter on names that are not ours to choose; 1 means that it can't be parsed.
    assert_ne!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
