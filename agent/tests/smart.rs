//! The `smart` sensor with a program in `smartctl`'s place that says what real drives of ten kinds said.

#![cfg(target_os = "linux")]

mod script;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use veghe_agent::exposition::write_text;
use veghe_agent::schedule::{Settings, once};
use veghe_agent::sensors::linux::settings::HostOptions;
use veghe_agent::sensors::linux::smart::Drives;
use veghe_agent::sensors::options::Options;
use veghe_agent::sensors::{self, SensorSettings};
use veghe_wire::catalogue;

use script::write_program;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smart")
}

/// By device, what it said: the devices that the scan finds.
fn drives() -> BTreeMap<String, (String, PathBuf)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(fixtures()).expect("fixtures") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let answer: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("file")).expect("JSON");
        let text = |key: &str| answer["device"][key].as_str().map(str::to_owned);
        let name = text("name").unwrap_or_else(|| "/dev/sdx".to_owned());
        found.insert(name, (text("type").unwrap_or_else(|| "scsi".to_owned()), path));
    }
    found
}

/// A `smartctl` that says what was captured, and writes down what it was asked.
fn program(directory: &Path) -> PathBuf {
    let devices: Vec<_> =
        drives().into_iter().map(|(name, (kind, _))| serde_json::json!({"name": name, "type": kind})).collect();
    fs::write(directory.join("scan.json"), serde_json::json!({"devices": devices}).to_string()).expect("scan");
    let mut script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/asked\ncase \"$*\" in\n*--scan*) cat {0}/scan.json;;\n",
        directory.display()
    );
    for (name, (kind, path)) in drives() {
        script = format!("{script}*--device={kind}\\ {name}) cat {}; exit 4;;\n", path.display());
    }
    let path = directory.join("smartctl");
    write_program(&path, &(script + "*) exit 1;;\nesac\n"));
    path
}

#[test]
fn ten_kinds_of_drives_tell_what_smartctl_exporter_tells_of_them() {
    let directory = tempfile::tempdir().expect("directory");
    let drives = Drives { program: Some(program(directory.path())), ..Drives::default() };
    let settings = SensorSettings {
        enabled: ["smart".to_owned()].into(),
        disabled: sensors::names().filter(|name| *name != "smart").map(str::to_owned).collect(),
        options: Options { host: HostOptions { drives, ..HostOptions::default() }, ..Options::default() },
        patience: Duration::from_mins(1),
        ..SensorSettings::default()
    };
    let patient = Settings { deadline: Duration::from_mins(1), ..Settings::default() };
    let round = once(sensors::all(&settings), &patient);
    for name in
        round.readings.iter().flat_map(|reading| &reading.series.0).filter(|name| name.metric().starts_with("smart"))
    {
        let labels: Vec<_> = name.labels().iter().map(|(label, _)| &**label).collect();
        assert_eq!(catalogue::lookup(name.metric()).map(|metric| metric.labels), Some(&*labels), "{}", name.metric());
    }
    let mut text = String::new();
    write_text(&round, &mut text);
    let golden: Vec<&str> =
        text.lines().filter(|line| line.starts_with("smartctl_") || line.starts_with("veghe_smart_")).collect();
    assert_eq!(golden.iter().filter(|line| line.starts_with("smartctl_device{")).count(), 10);
    insta::assert_snapshot!("ten_drives", golden.join("\n"));
    // A drive that sleeps must not be woken, and nothing is changed.
    let asked = fs::read_to_string(directory.path().join("asked")).expect("log");
    for line in asked.lines().filter(|line| !line.contains("--scan")) {
        assert!(line.contains("--nocheck=standby") && !line.contains("--test") && !line.contains("--set"), "{line}");
    }
}
