//! The host's real numbers, ours beside those of Debian's `prometheus-node-exporter`: the same metrics, the same labels,
//! the same values but for what changes in between.

#![cfg(target_os = "linux")]

mod port;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use veghe_agent::exposition::write_text;
use veghe_agent::schedule::{self, Settings};
use veghe_agent::sensors::options::Options;
use veghe_agent::sensors::{self, Roots, SensorSettings};

const PROGRAM: &str = "prometheus-node-exporter";
/// Sensors that version 1.5 does not have.
const NOT_THEIRS: [&str; 22] = [
    "backups",
    "certificates",
    "containers",
    "escl",
    "logs",
    "lvm",
    "mqtt_json",
    "named_processes",
    "nut",
    "ports",
    "programs",
    "quotas",
    "redfish",
    "sane",
    "scrapes",
    "smart",
    "snmp",
    "statsd",
    "tape",
    "timesync",
    "updates",
    "watchdog",
];
/// Series that newer versions have.
const NEWER: [&str; 2] = ["node_zfs_dbuf_", "node_zfs_zpool_state{state=\"suspended\""];
/// Helps that version 1.5 puts together from what it finds.
const COMPOSED_HELPS: [&str; 2] = ["HELP node_dmi_info", "HELP node_hwmon_in_beep_enabled"];

struct NodeExporter {
    process: Child,
    address: String,
}

impl NodeExporter {
    /// Starts it with the collectors that are our sensors, on a free port.
    fn start(arguments: &[String]) -> Self {
        // It would take port 0, but then tells its address in no version's log.
        let port = port::free();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(PROGRAM);
        command.arg(format!("--web.listen-address={address}")).arg("--collector.disable-defaults");
        let collectors = sensors::names().filter(|sensor| !NOT_THEIRS.contains(sensor));
        command.args(collectors.map(|sensor| format!("--collector.{sensor}"))).args(arguments);
        command.args(["--collector.systemd.enable-restarts-metrics", "--collector.systemd.enable-start-time-metrics"]);
        command.arg(format!("--collector.textfile.directory={}", fixtures().join("textfile").display()));
        let started = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let process = started.unwrap_or_else(|error| {
            panic!("cannot start {PROGRAM}: {error}; install the Debian 12 package {PROGRAM} (version 1.5)")
        });
        let mut this = Self { process, address };
        // It logs this once it listens.
        let mut log = BufReader::new(this.process.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("Listening on") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("log"), 0, "{PROGRAM} ended before it listened");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        this
    }

    fn scrape(&self) -> String {
        let mut socket = TcpStream::connect(&self.address).expect("connect");
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answer");
        answer.split_once("\r\n\r\n").expect("body").1.to_owned()
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn ours(roots: Roots) -> String {
    let enabled = sensors::names().filter(|name| !sensors::runs_by_default(name)).map(str::to_owned).collect();
    let options = Options { textfile_directories: vec![fixtures().join("textfile")], ..Options::default() };
    // Names of textfile scripts, which are not what is compared; and programs that would outlive this process.
    let disabled = ["sane", "smart", "updates"].map(str::to_owned).into();
    let settings = SensorSettings { roots, enabled, disabled, options, ..SensorSettings::default() };
    let patient = Settings { deadline: Duration::from_mins(1), ..Settings::default() };
    let mut text = String::new();
    write_text(&schedule::once(sensors::all(&settings), &patient), &mut text);
    text
}

/// Series of host metrics with their values, and the lines of help and type.
fn parse(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut series, mut described) = (BTreeMap::new(), BTreeMap::new());
    let is_host = |name: &str| {
        (name.starts_with("node_") || name.starts_with("copii_"))
            && !["node_exporter_", "node_scrape_", "node_watchdog_"].iter().any(|p| name.starts_with(p))
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().expect("keyword"), words.next().expect("name"));
            // What others' metrics mean is not carried.
            if is_host(name) && name.starts_with("node_") {
                described.insert(format!("{what} {name}"), words.next().unwrap_or_default().to_owned());
            }
        } else if let Some((name, value)) = line.rsplit_once(' ').filter(|(name, _)| is_host(name)) {
            assert!(series.insert(name.to_owned(), value.parse().expect("value")).is_none(), "{name} twice");
        }
    }
    (series, described)
}

/// How a value may differ from `before` and `after`, between which ours was taken.
fn is_within(name: &str, before: f64, ours: f64, after: f64) -> bool {
    let metric = name.split('{').next().expect("name");
    // A few more or less: sockets and processes come and go.
    let is_counted = [
        "node_filefd_allocated",
        "node_netstat_Tcp_CurrEstab",
        "node_nf_conntrack_entries",
        "node_processes_",
        "node_sockstat_",
        "node_tcp_connection_states",
    ];
    if is_counted.iter().any(|prefix| metric.starts_with(prefix)) && !metric.contains("bytes") {
        let slack = 0.5 * before.abs().max(after.abs()) + if name.contains("queued") { 1e6 } else { 50.0 };
        return (before.min(after) - slack..=before.max(after) + slack).contains(&ours);
    }
    let is_running = [
        "node_sockstat_",
        "node_memory_",
        "node_load",
        "node_procs_",
        "node_disk_io_now",
        "node_filesystem_avail_bytes",
        "node_filesystem_free_bytes",
        "node_filesystem_files_free",
    ];
    let is_fixed = ["Total", "DirectMap", "Limit", "Hugepagesize"].iter().any(|part| metric.contains(part));
    if is_running.iter().any(|prefix| metric.starts_with(prefix)) && !(metric.starts_with("node_memory_") && is_fixed) {
        // Goes up and down on a busy machine: the magnitude must be right, the unit above all.
        let slack = 0.5 * before.abs().max(after.abs()) + 64e6;
        return (before.min(after) - slack..=before.max(after) + slack).contains(&ours);
    }
    if metric.starts_with("node_timex_") {
        // Whoever disciplines the clock may move these either way, as a rule once in many seconds.
        return (before.min(after)..=before.max(after)).contains(&ours);
    }
    before <= ours && ours <= after
}

/// What differs between the sensors below `roots` and the exporter started with `arguments`.
fn differences(roots: Roots, arguments: &[String]) -> Vec<String> {
    let node_exporter = NodeExporter::start(arguments);
    let (before, theirs_described) = parse(&node_exporter.scrape());
    let (ours, described) = parse(&ours(roots));
    let (after, _) = parse(&node_exporter.scrape());
    assert!(before.len() > 100, "{PROGRAM} gave {} series", before.len());
    let mut differences = Vec::new();
    for (name, value) in &ours {
        match (before.get(name), after.get(name)) {
            (Some(&first), Some(&last)) if is_within(name, first, *value, last) => {}
            (Some(first), Some(last)) => differences.push(format!("{name}: ours {value}, theirs {first} to {last}")),
            _ if NEWER.iter().any(|newer| name.starts_with(newer)) => {}
            _ => differences.push(format!("{name}: only ours")),
        }
    }
    // States that nothing is in are not told, and some last for a moment.
    let is_of_a_moment = |difference: &String| {
        ["node_processes_", "node_tcp_"].iter().any(|name| difference.starts_with(name)) && difference.contains("only")
    };
    let missing = before.keys().filter(|name| !ours.contains_key(*name) && after.contains_key(*name));
    differences.extend(missing.map(|name| format!("{name}: only theirs")));
    differences.retain(|difference| !is_of_a_moment(difference));
    for (what, theirs) in &theirs_described {
        match described.get(what) {
            Some(ours) if ours == theirs || COMPOSED_HELPS.contains(&what.as_str()) => {}
            // Some of ZFS' names have what no metric's name can.
            Some(ours) if what.starts_with("HELP node_zfs_") && *ours == theirs.replace('-', "_") => {}
            // Theirs has the driver's word, ours the metric's.
            Some(_) if what.starts_with("HELP node_ethtool_") => {}
            ours => differences.push(format!("{what}: ours {ours:?}, theirs {theirs:?}")),
        }
    }
    // Whoever runs this in another machine wants to know how much was compared.
    let families = theirs_described.keys().filter(|what| what.starts_with("TYPE ")).count();
    eprintln!("{} series of {families} families, {} differ", before.len(), differences.len());
    differences
}

#[test]
fn every_series_of_this_host_is_that_of_node_exporter() {
    let differences = differences(Roots::default(), &[]);
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn every_series_of_a_captured_host_is_that_of_node_exporter() {
    let fixtures = fixtures();
    let roots = Roots {
        proc: fixtures.join("proc"),
        sys: fixtures.join("sys"),
        udev: fixtures.join("udev"),
        ..Roots::default()
    };
    let arguments = [
        format!("--path.procfs={}", roots.proc.display()),
        format!("--path.sysfs={}", roots.sys.display()),
        format!("--path.udev.data={}", roots.udev.display()),
        // Netlink has no captured tree.
        "--no-collector.netdev.netlink".to_owned(),
    ];
    let mut differences = differences(roots, &arguments);
    // Without netlink, node_exporter lacks the first, which is not in the file that it reads instead; the second it has by
    // netlink alone.
    let is_of_netlink = |difference: &String| {
        ["node_network_receive_nohandler_total", "node_tcp_connection_states"]
            .iter()
            .any(|name| difference.contains(name))
    };
    differences.retain(|difference| !is_of_netlink(difference));
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn the_text_passes_promtool() {
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut promtool = promtool.expect("cannot start promtool; install the Debian package prometheus");
    promtool.stdin.take().expect("piped").write_all(ours(Roots::default()).as_bytes()).expect("write");
    let output = promtool.wait_with_output().expect("promtool");
    let complaints = String::from_utf8_lossy(&output.stderr);
    // It exits with 1 for what does not parse and with 3 for advice on style, of which node_exporter's names get some.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{complaints}");
    let about_ours: Vec<_> = complaints.lines().filter(|line| line.starts_with("veghe_")).collect();
    assert!(about_ours.is_empty(), "{about_ours:?}");
}
