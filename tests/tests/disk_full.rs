//! A full disk: the collector refuses clearly and acknowledges nothing, and goes on when space returns; the agent keeps
//! what it took.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use veghe_tests::http;
use veghe_tests::process::{Collector, agent, program, wait_for};

#[test]
fn a_full_disk_stops_acknowledgement_and_nothing_else() {
    let dir = tempfile::tempdir().expect("directory");
    let data_dir = dir.path().join("data");
    fs::create_dir(&data_dir).expect("mkdir");
    // The file system is in the collector's own mount namespace, so nothing is left behind whatever happens.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(r#"mount -t tmpfs -o size=24m tmpfs "$1" && touch "$2" && exec "$3" up --data-dir "$1" --ops 127.0.0.1:0 --status 127.0.0.1:0 --mqtt 127.0.0.1:0"#);
    let mounted = dir.path().join("mounted");
    command.arg("sh").arg(&data_dir).arg(&mounted).arg(program("veghe-collector"));
    let log = dir.path().join("collector.log");
    let mut shell = veghe_tests::process::Process::start(&mut command, &log).expect("start");
    wait_for("the file system is mounted", || {
        anyhow::ensure!(shell.is_running()?, "cannot mount: {}", shell.output()?);
        Ok(mounted.exists().then_some(()))
    })
    .expect("mount");
    let inside =
        PathBuf::from(format!("/proc/{}/root", shell.id())).join(data_dir.strip_prefix("/").expect("absolute"));
    let collector = Collector::adopt(shell, &inside).expect("ready");
    let ops = collector.listeners.ops.clone();

    let state_dir = dir.path().join("agent");
    collector.join("filler", &state_dir, "100ms").expect("join");
    let agent = agent(&state_dir).expect("agent");
    let count = || http::query_one(&ops, r#"count_over_time(veghe_agent_cycles_total{instance="filler"}[1h])"#);
    wait_for("cycles are stored", || Ok(count()?.filter(|n| *n > 3.0))).expect("cycles");

    let ballast = inside.join("ballast");
    fill(&ballast);
    wait_for("the collector says that its disk is full", || {
        Ok(collector.process.output()?.to_lowercase().contains("disk is full").then_some(()))
    })
    .expect("clear error");
    wait_for("the agent hears it", || Ok(agent.output()?.to_lowercase().contains("disk is full").then_some(())))
        .expect("held");
    let held_at = taken(&agent);
    wait_for("the agent goes on measuring", || Ok((taken(&agent) > held_at + 10).then_some(()))).expect("cycles");

    // With a little room, but less than is to stay free, readings are refused all the same, and the collector says so of
    // itself: its own metrics take from the reserve.
    let size = fs::metadata(&ballast).expect("ballast").len();
    fs::File::options().write(true).open(&ballast).and_then(|file| file.set_len(size - (700 << 10))).expect("room");
    wait_for("the reserve is told by a stored metric", || {
        Ok(http::query_one(&ops, "veghe_tsdb_read_only")?.filter(|value| *value > 0.5))
    })
    .expect("metric");
    let stored = count().expect("query");
    let held_at = taken(&agent);
    wait_for("more is measured", || Ok((taken(&agent) > held_at + 5).then_some(()))).expect("cycles");
    assert_eq!(count().expect("query"), stored, "readings were taken from the reserve");

    fs::remove_file(&ballast).expect("space");
    let wanted = taken(&agent);
    wait_for("everything that was held is stored", || Ok(count()?.filter(|n| *n >= wanted as f64))).expect("stored");
}

fn taken(agent: &veghe_tests::process::Process) -> usize {
    agent.output().expect("log").lines().filter(|l| l.contains("cycle spooled")).count()
}

/// Writes until there is no room for another byte.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).expect("ballast");
    let mut size = 1 << 20;
    while size > 0 {
        if file.write_all(&vec![0; size]).is_err() {
            size /= 2;
        }
    }
}
