//! The packaged unit of the agent below a real systemd: without any privilege, in its sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use veghe_tests::http;
use veghe_tests::process::{Collector, program, wait_for};

use crate::host::shell;
use crate::inside::{Machine, SCRATCH, WORK};

const UNIT: &str = include_str!("../../../../packaging/veghe-agent.service");
const STATE_DIR: &str = "/var/lib/veghe-agent";
/// What an administrator may switch on without giving it anything, as the README of `packaging` says.
const NEED_NOTHING: [&str; 6] = ["containers", "ethtool", "processes", "systemd", "tcpstat", "timesync"];
/// And what needs capabilities, which `veghe-agent sensors` names.
const NEED_MORE: [&str; 2] = ["lvm", "smart"];

pub(crate) fn unit(_: &Machine) -> anyhow::Result<String> {
    let told = checked();
    let log = Path::new(WORK).join("unit.log");
    shell(&format!("journalctl --no-pager --output=cat --unit='veghe-*' > {}", log.display()))?;
    let told = told?;
    let said = fs::read_to_string(log)?;
    let starved: Vec<_> = said.lines().filter(|line| line.contains("cannot start a thread")).collect();
    ensure!(starved.is_empty(), "the unit has too few tasks: {starved:?}");
    Ok(told)
}

fn checked() -> anyhow::Result<String> {
    let dir = Path::new(SCRATCH).join("unit");
    fs::create_dir_all(&dir)?;
    let collector = Collector::up(&dir.join("collector"))?;
    collector.join("unit-1", Path::new(STATE_DIR), "1s")?;
    let settings = Path::new(STATE_DIR).join("agent.yaml");
    let enabled = NEED_NOTHING
        .iter()
        .chain(&NEED_MORE)
        .fold(String::new(), |text, name| format!("{text}  {name}: {{enabled: true}}\n"));
    // An emulated processor makes it dear: what it is asked for here must not be shed.
    let boundless = "footprint: {back_off: false, max_cpu: 10000%}\n";
    fs::write(&settings, format!("{}{boundless}sensors:\n{enabled}", fs::read_to_string(&settings)?))?;
    fs::copy(program("veghe-agent"), "/usr/bin/veghe-agent")?;
    let units = Path::new("/etc/systemd/system");
    fs::write(units.join("veghe-agent.service"), UNIT)?;

    // As the same user in the same sandbox, which sensors run, and what single ones lack.
    let (before, after) = UNIT.split_once("ExecStart=").context("ExecStart")?;
    let (_, after) = after.split_once('\n').context("a line")?;
    let after = after.lines().filter(|line| !line.starts_with("Restart")).collect::<Vec<_>>().join("\n");
    let listed = Path::new(WORK).join("unit-sensors");
    let asked = format!(
        "{before}Type=oneshot\nStandardOutput=truncate:{}\nExecStart=/usr/bin/veghe-agent sensors\n{after}\n",
        listed.display()
    );
    fs::write(units.join("veghe-sensors.service"), asked)?;
    shell("systemctl daemon-reload; systemctl start veghe-sensors")?;
    let inside = fs::read_to_string(&listed)?;
    let outside = Command::new("/usr/bin/veghe-agent").arg("sensors").output()?;
    let outside = String::from_utf8(outside.stdout)?;
    let lost: Vec<_> = running(&outside).difference(&running(&inside)).copied().collect();
    ensure!(lost.is_empty(), "in the sandbox these do not run: {lost:?}");
    let idle: Vec<_> = NEED_NOTHING.iter().filter(|name| !running(&inside).contains(*name)).collect();
    ensure!(idle.is_empty(), "these do not run: {idle:?}");
    let lacking = inside.lines().filter(|line| line.contains("but lacks"));
    let lacking: Vec<_> = lacking.filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(lacking == ["dmi", "lvm", "smart"], "these lack something: {lacking:?}");
    let (_, grants) = inside.split_once("systemctl edit veghe-agent\n").context("what grants it")?;

    let number = |expression: &str| http::query_one(&collector.listeners.ops, expression);
    let cycles = |least: f64| {
        let enough = format!(r#"veghe_agent_cycles_total{{instance="unit-1"}} >= {least}"#);
        wait_for("the unit's agent measures", || number(&enough))
    };
    // As the README has it; so far systemd made the user up, and the directory of state is his.
    shell("useradd --system --home-dir /var/lib/veghe-agent --no-create-home --shell /usr/sbin/nologin veghe-agent")?;
    shell("systemctl start veghe-agent")?;
    cycles(5.0)?;
    let status = main_process()?;
    ensure!(
        status.contains("CapEff:\t0000000000000000\n") && !status.contains("Uid:\t0\t"),
        "it has privileges: {status}"
    );
    failing(&collector, &NEED_MORE)?;
    ensure!(number(r#"node_timex_sync_status{instance="unit-1"}"#)?.is_some(), "the clock is not told");

    // What it says grants the rest does.
    let drop_in = units.join("veghe-agent.service.d");
    fs::create_dir_all(&drop_in)?;
    let grants = grants.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    fs::write(drop_in.join("grants.conf"), grants + "\n")?;
    shell("systemctl daemon-reload; systemctl restart veghe-agent")?;
    let full = r#"lvm_lv_data_percent{instance="unit-1",lv_name="pool"} > 0"#;
    wait_for("how full the thin pool is", || number(full))?;
    let drives = r#"count(smartctl_device_smart_status{instance="unit-1"} == 1) >= 6"#;
    let drives = wait_for("what drives say", || number(drives))?;
    failing(&collector, &[])?;
    shell("systemctl stop veghe-agent")?;
    let ended = Command::new("systemctl").args(["show", "--value", "--property=Result", "veghe-agent"]).output()?;
    ensure!(ended.stdout.trim_ascii() == b"success", "it ended as {}", String::from_utf8_lossy(&ended.stdout));
    Ok(format!(
        "{} sensors run without any privilege, all that run as root; with what `sensors` asks for also lvm and smart ({drives} drives)",
        running(&inside).len() - NEED_MORE.len()
    ))
}

/// Names of the sensors that run, of what `veghe-agent sensors` printed.
fn running(listed: &str) -> BTreeSet<&str> {
    let runs = listed.lines().filter_map(|line| line.split_once(' '));
    runs.filter(|(_, state)| state.trim_start().starts_with("runs")).map(|(name, _)| name).collect()
}

/// Waits until no sensor fails but those `expected`: where all is emulated, a first look may last longer than a round.
fn failing(collector: &Collector, expected: &[&str]) -> anyhow::Result<()> {
    let mut names = Vec::new();
    let settled = wait_for("no sensor fails", || {
        let failing = http::query(&collector.listeners.ops, r#"veghe_sensor_success{instance="unit-1"} == 0"#)?;
        let told = failing.iter().filter_map(|series| series["metric"]["sensor"].as_str().map(str::to_owned));
        names = told.filter(|name| !expected.contains(&name.as_str())).collect();
        Ok(names.is_empty().then_some(()))
    });
    settled.with_context(|| format!("these sensors fail in the sandbox: {names:?}"))
}

fn main_process() -> anyhow::Result<String> {
    let shown = Command::new("systemctl").args(["show", "--value", "--property=MainPID", "veghe-agent"]).output()?;
    let process = String::from_utf8(shown.stdout)?;
    fs::read_to_string(Path::new("/proc").join(process.trim()).join("status")).context("the agent's process")
}
