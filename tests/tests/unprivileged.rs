//! The agent as an ordinary user: what it says it lacks is what it lacks, and is enough when it is granted; and it runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use veghe_tests::http;
use veghe_tests::process::{Collector, Process, program, wait_for};

/// Whoever nobody is on this machine.
const NOBODY: u32 = 65_534;

/// What belongs to root alone, and the agent in a place where everybody may start it.
struct Place {
    dir: tempfile::TempDir,
    program: PathBuf,
    state_dir: PathBuf,
}

impl Place {
    /// `None` where who runs the tests can't become somebody else.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: starting the agent as another user takes root");
            return None;
        }
        let dir = tempfile::tempdir().expect("directory");
        mode(dir.path(), 0o755);
        let own = dir.path().join("veghe-agent");
        // By another process: this one may start programs meanwhile, which would have the file open for writing.
        let copied = Command::new("cp").arg(program("veghe-agent")).arg(&own).status().expect("cp");
        assert!(copied.success());
        for (closed, file) in [("keys", "server.pem"), ("vault", "monday.tar")] {
            let closed = dir.path().join(closed);
            fs::create_dir(&closed).expect("directory");
            let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
            fs::write(closed.join(file), key.cert.pem()).expect("write");
            mode(&closed, 0o700);
        }
        let log = dir.path().join("application.log");
        fs::write(&log, "started\n").expect("write");
        mode(&log, 0o600);
        let state_dir = dir.path().join("state");
        Some(Self { program: own, state_dir, dir })
    }

    /// Settings of the sensors that need more than others, and of the files that only root may read.
    fn sensors(&self) -> String {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        format!(
            "sensors:\n  smart: {{enabled: true, program: /bin/true}}\n  ports: {{enabled: true}}\n  quotas: {{enabled: true}}\n  certificates: {{files: ['{}']}}\n  backups: {{sets: [{{name: vault, files: '{}'}}]}}\n  logs:\n    enabled: true\n    watch: [{{name: application, file: '{}', rules: {{failed: failed}}}}]\n",
            path("keys/*.pem"),
            path("vault/*.tar"),
            path("application.log")
        )
    }

    /// The state directory and all in it become nobody's.
    fn hand_over(&self) {
        let entries = fs::read_dir(&self.state_dir).expect("directory").map(|entry| entry.expect("entry").path());
        for path in entries.chain([self.state_dir.clone()]) {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
    }

    /// The agent as nobody with these capabilities and no others, as systemd starts it.
    fn agent(&self, capabilities: &[&str]) -> Command {
        let mut sets = vec!["-all".to_owned()];
        sets.extend(capabilities.iter().map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())));
        let sets = sets.join(",");
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .args(["--clear-groups", "--no-new-privs"]);
        command.args(["--inh-caps", "--ambient-caps", "--bounding-set"].map(|set| format!("{set}={sets}")));
        command.arg(&self.program).current_dir("/");
        command
    }

    /// What `veghe-agent sensors` prints.
    fn survey(&self, capabilities: &[&str]) -> String {
        let output = self.agent(capabilities).args(["sensors", "--state-dir"]).arg(&self.state_dir).output();
        let output = output.expect("setpriv");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

/// The line about `sensor`, without its name.
fn line<'a>(survey: &'a str, sensor: &str) -> &'a str {
    let mut lines = survey.lines().filter_map(|line| line.split_once(' '));
    lines.find_map(|(name, rest)| (name == sensor).then(|| rest.trim_start())).unwrap_or_default()
}

#[test]
fn what_sensors_lack_is_told_by_sensor_and_granting_it_leaves_nothing_to_tell() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(&place.state_dir).expect("directory");
    let settings = format!("agent: nobody-1\nmqtt: mqtts://127.0.0.1\n{}", place.sensors());
    fs::write(place.state_dir.join("agent.yaml"), settings).expect("write");
    place.hand_over();
    let path = |name: &str| place.dir.path().join(name).display().to_string();
    let read = "CAP_DAC_READ_SEARCH";
    let by_group = format!("{read}, or a group that may read it");
    let without = place.survey(&[]);
    for (sensor, lacks) in [
        ("smart", format!("drives' answers: {read} CAP_SYS_ADMIN CAP_SYS_RAWIO (SYS_ADMIN for NVMe drives alone)")),
        ("ports", format!("names of others' programs: {read} CAP_SYS_PTRACE")),
        ("quotas", "everybody's quotas: CAP_SYS_ADMIN".to_owned()),
        ("certificates", format!("{}: {by_group}", path("keys"))),
        ("backups", format!("{}: {by_group}", path("vault"))),
        ("logs", format!("{}: group adm, or {read}", path("application.log"))),
    ] {
        let told = line(&without, sensor);
        assert!(told.starts_with(&format!("runs, but lacks {lacks}")), "{sensor}: {told}");
    }
    for sensor in ["meminfo", "stat", "netdev", "uname"] {
        assert!(line(&without, sensor).starts_with("runs ") || line(&without, sensor) == "runs", "{without}");
    }

    // A part of it is enough for some, and the rest is told of the others.
    let part = place.survey(&[read]);
    assert!(["certificates", "backups", "logs"].iter().all(|sensor| line(&part, sensor) == "runs"), "{part}");
    assert!(line(&part, "ports").starts_with("runs, but lacks names of others' programs: CAP_SYS_PTRACE"), "{part}");

    // What it says that systemd is to be told, as it stands there.
    let grant = |key: &str| {
        let mut lines = without.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        lines.next().unwrap_or_default().split_whitespace().collect::<Vec<_>>()
    };
    let wanted = grant("AmbientCapabilities");
    assert_eq!(wanted, [read, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO"]);
    assert_eq!(grant("CapabilityBoundingSet"), wanted);
    let with = place.survey(&wanted);
    assert!(!with.contains("CAP_") && !with.contains("AmbientCapabilities"), "{with}");
    let runs = |survey: &str| survey.lines().filter(|line| line.contains("  runs")).count();
    assert_eq!(runs(&with), runs(&without), "{with}");
}

#[test]
fn without_any_privilege_it_goes_on_and_tells_what_it_can_not_read_until_it_may() {
    let Some(place) = Place::new() else { return };
    let collector = Collector::up(&place.dir.path().join("data")).expect("collector");
    collector.join("nobody-1", &place.state_dir, "500ms").expect("join");
    let settings = place.state_dir.join("agent.yaml");
    let text = fs::read_to_string(&settings).expect("settings");
    fs::write(&settings, format!("{text}\n{}", place.sensors())).expect("write");
    place.hand_over();
    let ops = &collector.listeners.ops;
    let run = |capabilities: &[&str], log: &str| {
        let mut command = place.agent(capabilities);
        command.args(["run", "--state-dir"]).arg(&place.state_dir).env("RUST_LOG", "veghe_agent=info");
        Process::start(&mut command, &place.dir.path().join(log)).expect("agent")
    };
    let is = |agent: &mut Process, query: &str| {
        let wait = wait_for(query, || {
            anyhow::ensure!(agent.is_running()?, "the agent ended: {}", agent.output()?);
            Ok((!http::query(ops, query)?.is_empty()).then_some(()))
        });
        wait.unwrap_or_else(|error| panic!("{error:#}: {:?}", agent.output()));
    };
    let of_ports = |process: &str| {
        format!(r#"veghe_listening_sockets{{instance="nobody-1", process="{process}", port="dynamic"}} > 0"#)
    };

    let mut agent = run(&[], "without.log");
    is(&mut agent, r#"x509_read_errors{instance="nobody-1"} == 1"#);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).expect("status");
    for (name, value) in [("Uid", "65534\t65534\t65534\t65534"), ("CapEff", "0000000000000000")] {
        assert!(status.contains(&format!("{name}:\t{value}")), "{status}");
    }
    is(&mut agent, r#"veghe_backup_files{instance="nobody-1", backup="vault"} == 0"#);
    is(&mut agent, r#"veghe_sensor_success{instance="nobody-1", sensor="logs"} == 0"#);
    is(&mut agent, &of_ports("unknown"));
    // All the rest is as it is for root.
    is(&mut agent, r#"veghe_sensor_success{instance="nobody-1", sensor="meminfo"} == 1"#);
    is(&mut agent, r#"veghe_agent_cycles_total{instance="nobody-1"} >= 10"#);
    assert!(agent.interrupt().expect("end").success());
    let said = agent.output().expect("output");
    assert!(said.contains("application.log") && said.contains("Permission denied"), "{said}");
    assert!(!said.contains("panicked"), "{said}");

    let mut agent = run(&["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"], "with.log");
    is(&mut agent, r#"x509_read_errors{instance="nobody-1"} == 0"#);
    is(&mut agent, r#"x509_cert_not_after{instance="nobody-1", filename="server.pem"}"#);
    is(&mut agent, r#"veghe_backup_files{instance="nobody-1", backup="vault"} == 1"#);
    is(&mut agent, r#"veghe_sensor_success{instance="nobody-1", sensor="logs"} == 1"#);
    is(&mut agent, &of_ports("veghe-collector"));
    assert!(agent.interrupt().expect("end").success());
    let said = agent.output().expect("output");
    assert!(!said.contains("panicked") && !said.contains("Permission denied"), "{said}");
}
