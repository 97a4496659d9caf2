//! Every sensor against captured trees, with golden output; and against garbage.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use veghe_agent::exposition::write_text;
use veghe_agent::reading::Sink;
use veghe_agent::schedule::{Settings, once};
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

fn settings(roots: Roots, disabled: &[&str]) -> SensorSettings {
    SensorSettings { roots, disabled: disabled.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn a_captured_host_gives_the_golden_text() {
    // These ask the system, not its files.
    let sensors = sensors::all(&settings(captured(), &["timex", "uname"]));
    let mut text = String::new();
    write_text(&once(sensors, &Settings::default()), &mut text);
    let golden = text.lines().filter(|line| !line.contains("veghe_") && !line.contains("process_")).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or((line, ""));
        let is_live = ["node_time_seconds", "node_time_zone", "node_filesystem_avail", "node_filesystem_free"]
            .iter()
            .chain(&["node_filesystem_files", "node_filesystem_size"])
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
            let is_known = catalogue::lookup(name.metric()).is_some_and(|metric| metric.labels == labels);
            if !is_known {
                unknown.insert(format!("{} {labels:?}", name.metric()));
            }
        }
    };
    for roots in [captured(), Roots::default()] {
        check(&once(sensors::all(&settings(roots, &[])), &Settings::default()));
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
        let round = once(sensors::all(&settings(roots, &[])), &Settings::default());
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
    let asks_the_kernel = sensors::all(&settings(roots, &["uname"])).len();
    assert_eq!(asks_the_kernel, 1 + usize::from(obstacle("timex").is_none()));
}

/// One round of the sensor `name` whose files are those of the captured host, but `file` says `content`.
fn read_with(directory: &Path, name: &str, file: &str, content: &[u8]) -> Result<(), SensorError> {
    let path = directory.join(file);
    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    fs::write(&path, content).expect("write");
    let disabled: Vec<_> = sensors::names().filter(|other| *other != name).collect();
    let roots = Roots { proc: directory.to_owned(), udev: fixtures().join("udev"), ..captured() };
    let mut all = sensors::all(&settings(roots, &disabled));
    let mut sink = Sink::default();
    let result = all.first_mut().expect("the sensor").read(&mut sink);
    let (series, values) = sink.take();
    assert_eq!(series.0.len(), values.len());
    result
}

const FILES: [(&str, &str); 8] = [
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
