//! Every sensor against captured trees, with golden output; and against garbage.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use veghe_agent::exposition::write_text;
use veghe_agent::reading::Sink;
use veghe_agent::schedule::{Settings, once};
use veghe_agent::sensors::options::Options;
use veghe_agent::sensors::portable::Portable;
use veghe_agent::sensors::{self, Roots, Sensor as _, SensorError, SensorSettings};
use veghe_wire::catalogue;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn captured() -> Roots {
    let fixtures = fixtures();
    Roots { proc: fixtures.join("proc"), sys: fixtures.join("sys"), udev: fixtures.join("udev"), rootfs: "/".into() }
}

/// On a busy machine a sensor may take long.
fn patient() -> Settings {
    Settings { deadline: Duration::from_mins(1), ..Settings::default() }
}

/// What they ask answers after a round that waits for nobody, and would outlive this process.
const RUN_PROGRAMS: [&str; 2] = ["sane", "smart"];

/// Every sensor but `disabled`, those that are off by default too.
fn settings(roots: Roots, disabled: &[&str]) -> SensorSettings {
    let is_wanted = |name: &&str| !sensors::runs_by_default(name) && !disabled.contains(name);
    SensorSettings {
        roots,
        disabled: disabled.iter().map(|name| (*name).to_owned()).collect(),
        enabled: sensors::names().filter(is_wanted).map(str::to_owned).collect(),
        options: Options { textfile_directories: vec![fixtures().join("textfile")], ..Options::default() },
        ..SensorSettings::default()
    }
}

#[test]
fn a_captured_host_gives_the_golden_text() {
    // These ask the system, not its files.
    let sensors = sensors::all(&settings(
        captured(),
        &["ethtool", "os", "sane", "smart", "systemd", "tape", "timesync", "timex", "uname", "updates"],
    ));
    let mut text = String::new();
    write_text(&once(sensors, &patient()), &mut text);
    let text = text.replace(&*fixtures().to_string_lossy(), "FIXTURES");
    let golden = text.lines().filter(|line| !line.contains("veghe_") && !line.contains("process_")).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or((line, ""));
        let is_live = ["node_time_seconds", "node_time_zone", "node_filesystem_avail", "node_filesystem_free"]
            .iter()
            .chain(&["node_filesystem_files", "node_filesystem_size", "node_textfile_mtime"])
            .any(|prefix| name.starts_with(prefix));
        format!(
            "{} {}\n",
            if is_live { name.replace("EET", "UTC") } else { name.to_owned() },
            if is_live { "LIVE" } else { value }
        )
    });
    insta::assert_snapshot!("captured_host", golden.collect::<String>());
}

#[test]
fn every_metric_of_every_sensor_is_in_the_catalogue_with_its_labels() {
    let mut unknown = BTreeSet::new();
    let mut check = |round: &veghe_agent::reading::Round| {
        for name in round.readings.iter().flat_map(|reading| &reading.series.0) {
            let labels: Vec<_> =
                name.labels().iter().map(|(label, _)| &**label).filter(|label| *label != "job").collect();
            // Information leaves out a label without a value.
            let is_known = catalogue::lookup(name.metric()).is_some_and(|metric| {
                // A btrfs that is not mounted does not tell the numbers of its devices.
                let is_optional = metric.name.ends_with("_info") || metric.name == "node_btrfs_device_size_bytes";
                metric.labels == labels || is_optional && labels.iter().all(|label| metric.labels.contains(label))
            });
            if !is_known && !name.metric().starts_with("copii_") {
                unknown.insert(format!("{} {labels:?}", name.metric()));
            }
        }
    };
    for roots in [captured(), Roots::default()] {
        check(&once(sensors::all(&settings(roots, &RUN_PROGRAMS)), &patient()));
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_metric_of_the_portable_sensor_is_in_the_catalogue() {
    let mut sink = Sink::default();
    Portable::default().read(&mut sink).expect("sysinfo");
    let (series, _) = sink.take();
    assert!(series.0.len() > 10);
    for name in &series.0 {
        assert!(catalogue::lookup(name.metric()).is_some(), "{}", name.metric());
    }
}

#[test]
fn labels_are_ascending_and_a_series_is_told_once() {
    for roots in [captured(), Roots::default()] {
        let round = once(sensors::all(&settings(roots, &RUN_PROGRAMS)), &patient());
        let mut seen = BTreeSet::new();
        for name in round.readings.iter().flat_map(|reading| &reading.series.0) {
            assert!(name.labels().is_sorted_by(|a, b| a.0 < b.0), "{name:?}");
            assert!(seen.insert(format!("{name:?}")), "{name:?} twice");
        }
    }
}

#[test]
fn a_survey_tells_what_runs_and_why_the_rest_does_not() {
    let empty = tempfile::tempdir().expect("directory");
    let roots = Roots { proc: empty.path().to_owned(), ..Roots::default() };
    let survey = sensors::survey(&settings(roots.clone(), &["uname"]));
    let obstacle = |name: &str| survey.iter().find(|entry| entry.sensor == name).expect("entry").obstacle.clone();
    assert_eq!(obstacle("uname").as_deref(), Some("disabled by the configuration"));
    let missing = obstacle("meminfo").expect("an obstacle");
    assert!(missing.contains(&empty.path().join("meminfo").display().to_string()), "{missing}");
    assert_eq!(obstacle("time"), None);
    let running = sensors::all(&settings(roots, &["uname"])).len();
    assert_eq!(running, survey.iter().filter(|entry| entry.obstacle.is_none()).count());
    let default = sensors::survey(&SensorSettings::default());
    let tcpstat = default.iter().find(|entry| entry.sensor == "tcpstat").expect("entry").obstacle.clone();
    assert_eq!(tcpstat.as_deref(), Some("off by default; set sensors.tcpstat.enabled: true"));
}

/// One round of the sensor `name` whose files are those of the captured host, but `file` says `content`.
fn read_with(directory: &Path, name: &str, file: &str, content: &[u8]) -> Result<(), SensorError> {
    let write = |file: &str, content: &[u8]| {
        let path = directory.join(file);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(&path, content).expect("write");
    };
    for (_, other) in FILES.iter().filter(|(sensor, _)| *sensor == name) {
        write(other, &fs::read(fixtures().join("proc").join(other)).expect("fixture"));
    }
    let needed = ["sys/net/netfilter/nf_conntrack_count", "sys/net/netfilter/nf_conntrack_max", "net/udp"];
    for other in needed {
        write(other, &fs::read(fixtures().join("proc").join(other)).expect("fixture"));
    }
    write(file, content);
    let disabled: Vec<_> = sensors::names().filter(|other| *other != name).collect();
    let roots = Roots { proc: directory.to_owned(), udev: fixtures().join("udev"), ..captured() };
    let mut all = sensors::all(&settings(roots, &disabled));
    let mut sink = Sink::default();
    let result = all.first_mut().expect("the sensor").read(&mut sink);
    let (series, values) = sink.take();
    assert_eq!(series.0.len(), values.len());
    result
}

const FILES: [(&str, &str); 25] = [
    ("arp", "net/arp"),
    ("conntrack", "net/stat/nf_conntrack"),
    ("filefd", "sys/fs/file-nr"),
    ("ipvs", "net/ip_vs"),
    ("ipvs", "net/ip_vs_stats"),
    ("mdadm", "mdstat"),
    ("netstat", "net/netstat"),
    ("netstat", "net/snmp"),
    ("netstat", "net/snmp6"),
    ("nfs", "net/rpc/nfs"),
    ("nfsd", "net/rpc/nfsd"),
    ("schedstat", "schedstat"),
    ("sockstat", "net/sockstat"),
    ("softnet", "net/softnet_stat"),
    ("udp_queues", "net/udp6"),
    ("zfs", "spl/kstat/zfs/arcstats"),
    ("zfs", "spl/kstat/zfs/arhiva/io"),
    ("cpu", "stat"),
    ("diskstats", "diskstats"),
    ("filesystem", "self/mounts"),
    ("loadavg", "loadavg"),
    ("meminfo", "meminfo"),
    ("netdev", "net/dev"),
    ("stat", "stat"),
    ("vmstat", "vmstat"),
];

#[test]
fn an_error_names_file_and_line() {
    let directory = tempfile::tempdir().expect("directory");
    let error = read_with(directory.path(), "meminfo", "meminfo", b"MemTotal: 1 kB\nMemFree: many kB\n");
    let expected = format!("cannot parse {}/meminfo line 2: expected a number", directory.path().display());
    assert_eq!(error.expect_err("malformed").to_string(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_no_kernel_writes_are_an_error_or_nothing(
        (sensor, file) in prop::sample::select(FILES.to_vec()),
        content in prop::collection::vec(any::<u8>(), 1..400),
    ) {
        let directory = tempfile::tempdir().expect("directory");
        drop(read_with(directory.path(), sensor, file, &content));
    }

    /// A real file with one part cut out and another put in gets further into the parsers than noise does.
    #[test]
    fn a_damaged_file_is_an_error_or_nothing(
        (sensor, file) in prop::sample::select(FILES.to_vec()),
        cut in any::<prop::sample::Index>(),
        length in 0usize..40,
        put in prop::sample::select(vec!["", " ", "\n", ":", "(", ")", "-1", "99999999999999999999", "\u{0}", "x", "cpu9999999999999999999"]),
    ) {
        let directory = tempfile::tempdir().expect("directory");
        let mut content = fs::read(fixtures().join("proc").join(file)).expect("fixture");
        let start = cut.index(content.len());
        let end = (start + length).min(content.len());
        content.splice(start..end, put.bytes());
        // The file always has a byte, as an empty one is no source.
        content.push(b'\n');
        drop(read_with(directory.path(), sensor, file, &content));
    }
}
