//! A backup of the real collector, made while it takes readings: verified, restored and gone on with; what a kill in the
//! middle leaves is refused, and the killed collector's own directory is sound.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use veghe_tests::http;
use veghe_tests::process::{Collector, Process, program, wait_for};

fn collector(arguments: &[&Path]) -> Output {
    Command::new(program("veghe-collector")).args(arguments).output().expect("start")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cycles(collector: &Collector) -> f64 {
    let count = || http::query_one(&collector.listeners.ops, "sum(count_over_time(veghe_agent_cycles_total[1h]))");
    count().expect("query").unwrap_or(0.0)
}

#[test]
fn a_restored_backup_goes_on_and_one_that_was_killed_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let path = |name: &str| dir.path().join(name);
    let (data_dir, copy, cut, new) = (path("data"), path("copy"), path("cut"), path("new"));
    let mut first = Collector::up(&data_dir).expect("up");
    let agent_yaml = data_dir.join("agent/agent.yaml");
    wait_for("readings are stored", || Ok((agent_yaml.exists() && cycles(&first) >= 1.0).then_some(())))
        .expect("cycles");

    let said = first.admin(&["backup", copy.to_str().expect("path")]).expect("backup");
    assert!(said.contains("holds a backup"), "{said}");
    let stored = cycles(&first);
    let said = first.admin(&["verify"]).expect("verify");
    assert!(said.starts_with("no damage in ") && !said.contains(" 0 log records"), "{said}");
    let again = first.admin(&["backup", copy.to_str().expect("path")]).expect_err("not empty");
    assert!(again.to_string().contains("is not empty"), "{again}");

    // Killed as soon as there is something: in the middle of it, or just behind it.
    let mut command = Command::new(program("veghe-collector"));
    command.arg("backup").arg(&cut).arg("--data-dir").arg(&data_dir);
    let mut asked = Process::start(&mut command, &path("cut.log")).expect("start");
    wait_for("a backup is begun", || {
        Ok(cut.join("unfinished").exists().then_some(()).or_else(|| cut.join("manifest.json").exists().then_some(())))
    })
    .expect("begun");
    first.process.kill().expect("kill");
    let status = asked.wait().expect("end");
    let refused = collector(&[Path::new("restore"), &cut, Path::new("--data-dir"), &path("refused")]);
    if cut.join("manifest.json").exists() {
        assert!(refused.status.success(), "{}", text(&refused.stderr));
    } else {
        assert_eq!((status.code(), refused.status.code()), (Some(1), Some(1)));
        assert!(text(&refused.stderr).contains("cut off before its end"), "{}", text(&refused.stderr));
    }
    let sound = collector(&[Path::new("verify"), Path::new("--data-dir"), &data_dir]);
    assert!(sound.status.success(), "{}{}", text(&sound.stdout), text(&sound.stderr));

    let checked = collector(&[Path::new("verify"), &copy]);
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    let restored = collector(&[Path::new("restore"), &copy, Path::new("--data-dir"), &new]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    let over = collector(&[Path::new("restore"), &copy, Path::new("--data-dir"), &data_dir]);
    assert!(!over.status.success() && text(&over.stderr).contains("is not empty"), "{}", text(&over.stderr));

    let second = Collector::up(&new).expect("up");
    // What was stored is there, and what this machine's agent measures now is no repeat of anything.
    wait_for("old readings are there and new ones come", || Ok((cycles(&second) > stored).then_some(())))
        .expect("goes on");
    drop(second);

    let database = copy.join("data/tsdb/chunks.db");
    let mut bytes = fs::read(&database).expect("file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&database, bytes).expect("file");
    let damaged = collector(&[Path::new("verify"), &copy]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(text(&damaged.stdout).contains("chunks.db: its SHA-256 differs"), "{}", text(&damaged.stdout));
}
