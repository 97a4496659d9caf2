//! The sensors `smart` and `lvm` beside the programs that administrators ask, at the drives and volumes of this machine.
//!
//! Where it has none, or nobody may ask them, this says so; `tests/src/bin/machine` has some.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use veghe_agent::schedule::{Settings, once};
use veghe_agent::sensors::{self, SensorSettings};

/// What `sensor` tells: values by name and labels.
fn told(sensor: &str) -> BTreeMap<String, f64> {
    let patience = Duration::from_mins(2);
    let settings = SensorSettings {
        enabled: [sensor.to_owned()].into(),
        disabled: sensors::names().filter(|name| *name != sensor).map(str::to_owned).collect(),
        patience,
        ..SensorSettings::default()
    };
    let round = once(sensors::all(&settings), &Settings { deadline: patience, ..Settings::default() });
    let of_reading = round.readings.iter().flat_map(|reading| reading.series.0.iter().zip(&reading.values));
    let named = of_reading.map(|(name, value)| {
        let labels: Vec<_> = name.labels().iter().map(|(label, value)| format!("{label}={value}")).collect();
        (format!("{} {}", name.metric(), labels.join(" ")), *value)
    });
    named.filter(|(name, _)| !name.starts_with("veghe_agent") && !name.starts_with("veghe_sensor")).collect()
}

/// What a program says in JSON, or `None` where it is missing.
fn json(program: &str, words: &[&str]) -> Option<Value> {
    let output = Command::new(program).args(words).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output().ok()?;
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{program} {words:?}: {error}: {}", String::from_utf8_lossy(&output.stderr));
    }))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// By our names, what `smartctl -a` says of one drive.
fn expected(name: &str, kind: &str) -> BTreeMap<String, f64> {
    let answer = json("smartctl", &["--json", "--all", "--device", kind, name]).expect("it was there");
    let device = name.trim_start_matches("/dev/");
    let mut found = BTreeMap::new();
    let nvme = &answer["nvme_smart_health_information_log"];
    let hours = answer["power_on_time"]["hours"]
        .as_f64()
        .map(|hours| hours * 3600.0 + answer["power_on_time"]["minutes"].as_f64().unwrap_or_default() * 60.0);
    let scaled = |value: &Value| value.as_f64().map(|units| units * 512_000.0);
    for (metric, value) in [
        ("smartctl_device_capacity_bytes", answer["user_capacity"]["bytes"].as_f64()),
        ("smartctl_device_capacity_blocks", answer["user_capacity"]["blocks"].as_f64()),
        ("smartctl_device_power_cycle_count", answer["power_cycle_count"].as_f64()),
        ("smartctl_device_power_on_seconds", hours),
        (
            "smartctl_device_smart_status",
            answer["smart_status"]["passed"].as_bool().map(|passed| u8::from(passed).into()),
        ),
        ("smartctl_device_percentage_used", nvme["percentage_used"].as_f64()),
        ("smartctl_device_available_spare", nvme["available_spare"].as_f64()),
        ("smartctl_device_available_spare_threshold", nvme["available_spare_threshold"].as_f64()),
        ("smartctl_device_critical_warning", nvme["critical_warning"].as_f64()),
        ("smartctl_device_media_errors", nvme["media_errors"].as_f64()),
        ("smartctl_device_num_err_log_entries", nvme["num_err_log_entries"].as_f64()),
        ("smartctl_device_bytes_read", scaled(&nvme["data_units_read"])),
        ("smartctl_device_bytes_written", scaled(&nvme["data_units_written"])),
    ] {
        found.extend(value.map(|value| (format!("{metric} device={device}"), value)));
    }
    if let Some(current) = answer["temperature"]["current"].as_f64() {
        found.insert(format!("smartctl_device_temperature device={device} temperature_type=current"), current);
    }
    for attribute in array(&answer["ata_smart_attributes"]["table"]) {
        let (id, long) = (&attribute["id"], text(attribute, "name"));
        for (kind, value) in [
            ("value", &attribute["value"]),
            ("worst", &attribute["worst"]),
            ("thresh", &attribute["thresh"]),
            ("raw", &attribute["raw"]["value"]),
        ] {
            let key = format!("attribute {device} {id} {long} {kind}");
            found.insert(key, value.as_f64().expect("a number"));
        }
    }
    found
}

#[test]
fn drives_tell_what_smartctl_says_of_them() {
    let Some(scan) = json("smartctl", &["--json", "--scan"]) else {
        eprintln!("SKIPPED: there is no smartctl; install the Debian package smartmontools");
        return;
    };
    let drives: Vec<_> =
        array(&scan["devices"]).iter().map(|drive| (text(drive, "name"), text(drive, "type"))).collect();
    if drives.is_empty() || !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: smartctl finds no drives here, or nobody may ask them");
        return;
    }
    let all = || drives.iter().flat_map(|(name, kind)| expected(name, kind)).collect::<BTreeMap<_, _>>();
    let before = all();
    let told: BTreeMap<_, _> =
        told("smart").into_iter().map(|(name, value)| (as_attribute(&name).unwrap_or(name), value)).collect();
    // What counts on meanwhile lies between.
    for (name, after) in all() {
        let value = *told.get(&name).unwrap_or_else(|| panic!("{name} is not told: {told:#?}"));
        let before = before.get(&name).copied().unwrap_or(after);
        assert!(
            (before.min(after)..=before.max(after)).contains(&value),
            "{name}: {value}, smartctl {before} and {after}"
        );
    }
    let count = |part: &str| before.keys().filter(|name| name.contains(part)).count();
    eprintln!(
        "{} values of {} drives are smartctl's, {} of ATA attributes, {} of NVMe logs",
        before.len(),
        drives.len(),
        count("attribute "),
        count("smartctl_device_available_spare ")
    );
}

/// An attribute's name in the form of `expected`, which does not ask for its flags.
fn as_attribute(name: &str) -> Option<String> {
    let labels: BTreeMap<_, _> =
        name.strip_prefix("smartctl_device_attribute ")?.split(' ').filter_map(|label| label.split_once('=')).collect();
    let label = |name: &str| labels.get(name).copied().unwrap_or_default();
    let (id, kind) = (label("attribute_id"), label("attribute_value_type"));
    Some(format!("attribute {} {id} {} {kind}", label("device"), label("attribute_name")))
}

#[test]
fn volumes_tell_what_lvs_vgs_and_pvs_say_of_them() {
    let ask = |program: &str, columns: &str| {
        json(program, &["--reportformat", "json", "--units", "b", "--nosuffix", "--options", columns])
    };
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: nobody may ask for volumes");
        return;
    }
    let columns = "lv_name,vg_name,lv_size,data_percent,metadata_percent,origin,pool_lv";
    let (Some(lvs), Some(vgs)) = (ask("lvs", columns), ask("vgs", "vg_name,vg_size,vg_free")) else {
        eprintln!("SKIPPED: there is no lvs; install the Debian package lvm2");
        return;
    };
    let pvs = ask("pvs", "vg_name,pv_size,pv_free").expect("it comes with lvs");
    let rows = |report: &Value, kind: &str| {
        array(&report["report"]).first().map(|report| array(&report[kind]).to_vec()).unwrap_or_default()
    };
    let mut expected = BTreeMap::new();
    let (mut pools, mut snapshots) = (0, 0);
    for volume in rows(&lvs, "lv") {
        let labels = format!("lv_name={} vg_name={}", text(&volume, "lv_name"), text(&volume, "vg_name"));
        for (metric, key) in
            [("size_bytes", "lv_size"), ("data_percent", "data_percent"), ("metadata_percent", "metadata_percent")]
        {
            expected
                .extend(text(&volume, key).parse().ok().map(|value: f64| (format!("lvm_lv_{metric} {labels}"), value)));
        }
        pools += usize::from(!text(&volume, "metadata_percent").is_empty());
        snapshots += usize::from(!text(&volume, "origin").is_empty());
    }
    for group in rows(&vgs, "vg") {
        let name = text(&group, "vg_name");
        for (metric, key, of_device) in [("size_bytes", "vg_size", "pv_size"), ("free_bytes", "vg_free", "pv_free")] {
            let value: f64 = text(&group, key).parse().expect("a number");
            let devices = rows(&pvs, "pv");
            let devices = devices.iter().filter(|device| text(device, "vg_name") == name);
            assert_eq!(
                devices.map(|device| text(device, of_device).parse::<f64>().expect("a number")).sum::<f64>(),
                value
            );
            expected.insert(format!("lvm_vg_{metric} vg_name={name}"), value);
        }
    }
    if expected.is_empty() {
        eprintln!("SKIPPED: there are no volumes here");
        return;
    }
    assert_eq!(told("lvm"), expected);
    eprintln!(
        "{} values are those of lvs, vgs and pvs, with {pools} thin pools and {snapshots} snapshots",
        expected.len()
    );
}
