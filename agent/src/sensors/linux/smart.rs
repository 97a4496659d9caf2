//! What drives say of themselves, asked by `smartctl --json`: ATA, NVMe and SCSI. Names and labels are
//! `smartctl_exporter`'s.
//!
//! Asked every ten minutes by a thread of its own. A drive that sleeps is not woken: what it said last counts. A drive
//! that can't be opened has its exit status alone. Deviation: bytes that NVMe drives read and wrote are in the
//! specification's units of 512,000 bytes, which the exporter takes for 524,288.
//!
//! A tape drive is asked only where settings name it (`devices: [/dev/nst0]`), as to tell `TapeAlert`'s flags clears them for
//! whoever asks next, backup programs of the same machine among them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::CapabilitySet;
use serde_json::Value;

use super::capabilities;
use super::run::{self, Limits, Privileges};
use super::slowly::Slowly;
use super::tape::alerts::{self, Severity};
use super::{Entry, Sensor, SensorError, SensorSettings, Sink};
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry = Entry::new("smart", |_| Vec::new(), |settings| Box::new(Smart::new(settings)))
    .unless(obstacle)
    .needing(missing)
    .on_request();

const TIMEOUT: Duration = Duration::from_mins(1);
const LIMITS: Limits =
    Limits { timeout: TIMEOUT, output_bytes: 1 << 20, memory_bytes: 128 << 20, privileges: Privileges::Kept };
const MAX_DRIVES: usize = 128;
const PROGRAMS: [&str; 3] = ["usr/sbin/smartctl", "usr/local/sbin/smartctl", "usr/bin/smartctl"];
/// The peripheral device type of tape drives (SPC-4, 6.4.2).
const SEQUENTIAL_ACCESS: u64 = 1;
/// As the NVMe specification counts data.
const NVME_UNIT_BYTES: f64 = 512_000.0;

/// Which drives, how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drives {
    /// `smartctl`, where it is not in one of the usual places.
    pub program: Option<PathBuf>,
    /// Device files; those that `smartctl --scan` finds where there is none.
    pub devices: Vec<PathBuf>,
    /// From one look at all drives to the next.
    pub every: Duration,
}

impl Default for Drives {
    fn default() -> Self {
        Self { program: None, devices: Vec::new(), every: Duration::from_mins(10) }
    }
}

fn program(settings: &SensorSettings) -> Option<PathBuf> {
    let usual = || PROGRAMS.iter().map(|path| settings.roots.rootfs.join(path)).find(|path| path.is_file());
    settings.options.host.drives.program.clone().or_else(usual)
}

fn obstacle(settings: &SensorSettings) -> Option<String> {
    match program(settings) {
        Some(program) if program.is_file() => None,
        Some(program) => Some(format!("there is no {}", program.display())),
        None => Some("there is no smartctl; install smartmontools or set sensors.smart.program".to_owned()),
    }
}

fn missing(_: &SensorSettings) -> Option<String> {
    let needed = CapabilitySet::SYS_RAWIO | CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH;
    capabilities::missing(needed).map(|names| format!("drives' answers: {names} (SYS_ADMIN for NVMe drives alone)"))
}

/// `smartctl_*`, `veghe_smart_standby`.
pub(crate) struct Smart {
    drives: Slowly<Vec<(SeriesName, f64)>>,
}

/// A drive as the scan names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Drive {
    name: String,
    /// What `--device` takes, if anything.
    kind: Option<String>,
}

impl Smart {
    pub(crate) fn new(settings: &SensorSettings) -> Self {
        let drives = settings.options.host.drives.clone();
        let program = program(settings).unwrap_or_default();
        let mut known: BTreeMap<Drive, Vec<(SeriesName, f64)>> = BTreeMap::new();
        let look = move || {
            let found = match list(&program, &drives.devices) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "cannot list drives");
                    return Vec::new();
                }
            };
            known.retain(|drive, _| found.contains(drive));
            for drive in found {
                let series = known.entry(drive.clone()).or_default();
                match ask(&program, &drive) {
                    Ok(answer) if is_asleep(&answer) => fall_asleep(&drive, series),
                    Ok(answer) => *series = describe(&drive, &answer),
                    Err(error) => {
                        tracing::warn!(%error, drive = drive.name, "a drive gave no answer");
                        series.clear();
                    }
                }
            }
            let mut all: Vec<(SeriesName, f64)> = Vec::new();
            for (series, value) in known.values().flatten() {
                // Of a drive behind two paths, and of the program's version, the first counts.
                if !all.iter().any(|(other, _)| other == series) {
                    all.push((series.clone(), *value));
                }
            }
            all
        };
        Self { drives: Slowly::new("smart", settings.options.host.drives.every, settings.patience, look) }
    }
}

impl Sensor for Smart {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for (series, value) in self.drives.latest().into_iter().flatten() {
            sink.put_named(series, *value);
        }
        Ok(())
    }
}

fn list(program: &Path, devices: &[PathBuf]) -> io::Result<Vec<Drive>> {
    if !devices.is_empty() {
        let drive = |path: &PathBuf| Drive { name: path.to_string_lossy().into_owned(), kind: None };
        return Ok(devices.iter().map(drive).collect());
    }
    let answer = json(program, &["--json", "--scan"])?;
    let drive = |device: &Value| {
        let text = |key: &str| device.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Drive { name: text("name")?, kind: text("type") })
    };
    let devices = answer.get("devices").and_then(Value::as_array).into_iter().flatten();
    Ok(devices.filter_map(drive).take(MAX_DRIVES).collect())
}

fn ask(program: &Path, drive: &Drive) -> io::Result<Value> {
    // A scan opens nothing and calls SATA drives `scsi` too. Told so, smartctl would not look for what ATA drives say.
    let kind = drive.kind.as_ref().filter(|kind| *kind != "scsi").map(|kind| format!("--device={kind}"));
    // Of a tape drive, newer versions tell the flags that are set only to whoever asks twice for its health.
    let mut arguments = vec!["--json", "--info", "--health", "--health", "--attributes", "--tolerance=verypermissive"];
    arguments.extend(["--nocheck=standby", "--format=brief", "--log=error"]);
    arguments.extend(kind.as_deref());
    arguments.push(&drive.name);
    json(program, &arguments)
}

/// The exit status tells about the drive as much as about the program: what counts is that it wrote JSON.
fn json(program: &Path, arguments: &[&str]) -> io::Result<Value> {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let output = run::run(program, &arguments, &[], &LIMITS)?;
    serde_json::from_slice(&output.text).map_err(io::Error::other)
}

/// `Device is in STANDBY mode, exit(2)`.
fn is_asleep(answer: &Value) -> bool {
    let messages = answer.pointer("/smartctl/messages").and_then(Value::as_array).into_iter().flatten();
    let mut texts = messages.filter_map(|message| message.get("string").and_then(Value::as_str));
    texts.any(|text| text.starts_with("Device is in ") && text.contains(" mode"))
}

fn fall_asleep(drive: &Drive, series: &mut Vec<(SeriesName, f64)>) {
    series.retain(|(name, _)| name.metric() != STANDBY);
    let name = device_label(&drive.name, drive.kind.as_deref().unwrap_or_default());
    series.push((SeriesName::new(STANDBY, &[("device", &name)]), 1.0));
}

const STANDBY: &str = "veghe_smart_standby";

/// `/dev/bus/0` of type `megaraid,1` is `bus_0_megaraid_1`.
fn device_label(name: &str, kind: &str) -> String {
    let prefixes = ["/dev/disk/by-id/", "/dev/disk/by-path/", "/dev/"];
    let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).replace('/', "_");
    if kind.contains(',') { format!("{short}_{}", kind.replace(',', "_")) } else { short }
}

/// Numbers that are there, by the place where they are.
const NUMBERS: [(&str, &str, f64); 20] = [
    ("smartctl_device_capacity_blocks", "/user_capacity/blocks", 1.0),
    ("smartctl_device_capacity_bytes", "/user_capacity/bytes", 1.0),
    ("smartctl_device_power_cycle_count", "/power_cycle_count", 1.0),
    ("smartctl_device_state", "/ata_sct_status/device_state", 1.0),
    ("smartctl_device_percentage_used", "/nvme_smart_health_information_log/percentage_used", 1.0),
    ("smartctl_device_available_spare", "/nvme_smart_health_information_log/available_spare", 1.0),
    ("smartctl_device_available_spare_threshold", "/nvme_smart_health_information_log/available_spare_threshold", 1.0),
    ("smartctl_device_critical_warning", "/nvme_smart_health_information_log/critical_warning", 1.0),
    ("smartctl_device_media_errors", "/nvme_smart_health_information_log/media_errors", 1.0),
    ("smartctl_device_num_err_log_entries", "/nvme_smart_health_information_log/num_err_log_entries", 1.0),
    ("smartctl_device_bytes_read", "/nvme_smart_health_information_log/data_units_read", NVME_UNIT_BYTES),
    ("smartctl_device_bytes_written", "/nvme_smart_health_information_log/data_units_written", NVME_UNIT_BYTES),
    ("smartctl_scsi_grown_defect_list", "/scsi_grown_defect_list", 1.0),
    (
        "smartctl_read_errors_corrected_by_rereads_rewrites",
        "/scsi_error_counter_log/read/errors_corrected_by_rereads_rewrites",
        1.0,
    ),
    ("smartctl_read_total_uncorrected_errors", "/scsi_error_counter_log/read/total_uncorrected_errors", 1.0),
    (
        "smartctl_write_errors_corrected_by_rereads_rewrites",
        "/scsi_error_counter_log/write/errors_corrected_by_rereads_rewrites",
        1.0,
    ),
    ("smartctl_write_total_uncorrected_errors", "/scsi_error_counter_log/write/total_uncorrected_errors", 1.0),
    ("smartctl_device_smartctl_exit_status", "/smartctl/exit_status", 1.0),
    // The same under two names, as the exporter has it.
    ("smartctl_device_smart_status", "/smart_status/passed", 1.0),
    ("smartctl_device_status", "/smart_status/passed", 1.0),
];
/// By bit, as long names of an attribute's flags.
const FLAGS: [&str; 6] = ["prefailure", "updated_online", "performance", "error_rate", "event_count", "auto_keep"];

/// All series of one drive.
fn describe(drive: &Drive, answer: &Value) -> Vec<(SeriesName, f64)> {
    let at = |pointer: &str| answer.pointer(pointer);
    let text = |pointer: &str| at(pointer).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    let number = |pointer: &str| at(pointer).and_then(as_number);
    let kind = match text("/device/type") {
        kind if kind.is_empty() => drive.kind.clone().unwrap_or_default(),
        kind => kind,
    };
    let device = device_label(&drive.name, &kind);
    let mut series = Vec::new();
    let mut put =
        |metric: &str, labels: &[(&str, &str)], value: f64| series.push((SeriesName::new(metric, labels), value));
    let version = |pointer: &str| {
        let parts = at(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64);
        parts.map(|part| part.to_string()).collect::<Vec<_>>().join(".")
    };
    let versions = [
        ("build_info", text("/smartctl/build_info")),
        ("json_format_version", version("/json_format_version")),
        ("smartctl_version", version("/smartctl/version")),
        ("svn_revision", text("/smartctl/svn_revision")),
    ];
    put("smartctl_version", &versions.each_ref().map(|(name, value)| (*name, value.as_str())), 1.0);
    for (metric, pointer, scale) in NUMBERS {
        if let Some(value) = number(pointer) {
            put(metric, &[("device", &device)], value * scale);
        }
    }
    let is_tape = at("/device_type/scsi_value").and_then(Value::as_u64) == Some(SEQUENTIAL_ACCESS);
    let is_drive = is_tape || at("/smart_status").is_some() || at("/user_capacity").is_some();
    if at("/device/protocol").is_none() || !is_drive {
        // It could not be opened.
        return series;
    }
    let model = Some(text("/model_name")).filter(|model| !model.is_empty()).unwrap_or_else(|| text("/scsi_model_name"));
    let info = [
        ("ata_additional_product_id", text("/ata_additional_product_id")),
        ("ata_version", text("/ata_version/string")),
        ("device", device.clone()),
        ("firmware_version", text("/firmware_version")),
        ("form_factor", text("/form_factor/name")),
        ("interface", kind),
        ("model_family", text("/model_family")),
        ("model_name", model),
        ("protocol", text("/device/protocol")),
        ("sata_version", text("/sata_version/string")),
        ("scsi_product", text("/scsi_product")),
        ("scsi_revision", text("/scsi_revision")),
        ("scsi_vendor", text("/scsi_vendor")),
        ("scsi_version", text("/scsi_version")),
        ("serial_number", text("/serial_number")),
    ];
    put("smartctl_device", &info.each_ref().map(|(name, value)| (*name, value.as_str())), 1.0);
    put(STANDBY, &[("device", &device)], 0.0);
    for blocks in ["logical", "physical"] {
        if let Some(bytes) = number(&format!("/{blocks}_block_size")) {
            put("smartctl_device_block_size", &[("blocks_type", blocks), ("device", &device)], bytes);
        }
    }
    for speed in ["current", "max"] {
        let part = |name: &str| number(&format!("/interface_speed/{speed}/{name}"));
        if let (Some(units), Some(bits)) = (part("units_per_second"), part("bits_per_unit")) {
            put("smartctl_device_interface_speed", &[("device", &device), ("speed_type", speed)], units * bits);
        }
    }
    if let Some(hours) = number("/power_on_time/hours") {
        let minutes = number("/power_on_time/minutes").unwrap_or(0.0);
        put("smartctl_device_power_on_seconds", &[("device", &device)], hours * 3600.0 + minutes * 60.0);
    }
    if let Some(rotation) = number("/rotation_rate").filter(|rotation| *rotation > 0.0) {
        put("smartctl_device_rotation_rate", &[("device", &device)], rotation);
    }
    for (kind, value) in at("/temperature").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = as_number(value) {
            put("smartctl_device_temperature", &[("device", &device), ("temperature_type", kind)], value);
        }
    }
    // SAS drives may have zero there and the truth elsewhere.
    if let Some(value) = number("/scsi_environmental_reports/temperature_1/current") {
        put("smartctl_device_temperature", &[("device", &device), ("temperature_type", "environment")], value);
    }
    for (kind, log) in at("/ata_smart_error_log").and_then(Value::as_object).into_iter().flatten() {
        if let Some(count) = log.get("count").and_then(as_number) {
            put("smartctl_device_error_log_count", &[("device", &device), ("error_log_type", kind)], count);
        }
    }
    if let Some(status) = at("/scsi_tapealert/status") {
        put_tape_alerts(&device, status, &mut put);
    }
    for attribute in at("/ata_smart_attributes/table").and_then(Value::as_array).into_iter().flatten() {
        put_attribute(&device, attribute, &mut put);
    }
    series
}

/// `status` is `Good`, or has an item for each flag that is set: its number, and a text that begins with its severity.
fn put_tape_alerts(device: &str, status: &Value, put: &mut impl FnMut(&str, &[(&str, &str)], f64)) {
    let flags = status.as_array().into_iter().flatten().filter_map(|alert| {
        let severity = match alert.get("string").and_then(Value::as_str).and_then(|text| text.chars().next()) {
            Some('C') => Severity::Critical,
            Some('W') => Severity::Warning,
            Some('I') => Severity::Information,
            _ => Severity::Unknown,
        };
        Some((alert.get("parameter_code").and_then(Value::as_u64)?, severity))
    });
    alerts::put(device, flags, put);
}

fn put_attribute(device: &str, attribute: &Value, put: &mut impl FnMut(&str, &[(&str, &str)], f64)) {
    let text = |pointer: &str| attribute.pointer(pointer).and_then(Value::as_str).unwrap_or_default().trim();
    let id = attribute.get("id").and_then(Value::as_u64).unwrap_or_default().to_string();
    let is_set = |flag: &&&str| attribute.pointer(&format!("/flags/{flag}")).and_then(Value::as_bool) == Some(true);
    let flags: Vec<&str> = FLAGS.iter().filter(is_set).copied().collect();
    let flags = flags.join(",");
    for (kind, pointer) in [("raw", "/raw/value"), ("thresh", "/thresh"), ("value", "/value"), ("worst", "/worst")] {
        if let Some(value) = attribute.pointer(pointer).and_then(as_number) {
            let labels = [
                ("attribute_flags_long", flags.as_str()),
                ("attribute_flags_short", text("/flags/string")),
                ("attribute_id", &id),
                ("attribute_name", text("/name")),
                ("attribute_value_type", kind),
                ("device", device),
            ];
            put("smartctl_device_attribute", &labels, value);
        }
    }
}

/// A number, or yes (1) or no (0).
fn as_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(|yes| f64::from(u8::from(yes))))
}

#[cfg(test)]
mod tests {
    use veghe_wire::catalogue;

    use super::*;

    #[test]
    fn a_drive_is_called_as_the_exporter_calls_it() {
        for (name, kind, label) in [
            ("/dev/sda", "sat", "sda"),
            ("/dev/bus/0", "megaraid,1", "bus_0_megaraid_1"),
            ("/dev/disk/by-id/wwn-0x5", "", "wwn-0x5"),
        ] {
            assert_eq!(device_label(name, kind), label);
        }
    }

    #[test]
    fn a_tape_drive_tells_its_flags_its_errors_and_its_temperature() {
        // In the form in which smartctl 7.3's source writes it; no drive said this.
        let answer = |status: Value| {
            serde_json::json!({
                "device": {"name": "/dev/nst0", "type": "scsi", "protocol": "SCSI"},
                "device_type": {"scsi_value": 1, "name": "tape"},
                "scsi_vendor": "IBM", "scsi_product": "ULT3580-HH8", "scsi_revision": "N9M1", "serial_number": "10WT012345",
                "temperature": {"current": 38, "drive_trip": 60},
                "scsi_error_counter_log": {"read": {"errors_corrected_by_rereads_rewrites": 3, "total_uncorrected_errors": 1}},
                "scsi_tapealert": {"status": status}})
        };
        let drive = Drive { name: "/dev/nst0".to_owned(), kind: None };
        let told = |status: Value| -> Vec<String> {
            let series = describe(&drive, &answer(status)).into_iter().filter(|(name, _)| {
                assert!(catalogue::lookup(name.metric()).is_some(), "{}", name.metric());
                name.metric().starts_with("veghe_tape")
                    || name.metric().contains("temperature")
                    || name.metric().contains("uncorrected")
            });
            let line = |(name, value): (SeriesName, f64)| {
                let labels: Vec<_> = name.labels().iter().map(|(_, value)| value.to_string()).collect();
                format!("{} {} {value}", name.metric(), labels.join(" "))
            };
            series.map(line).collect()
        };
        let others = [
            "smartctl_read_total_uncorrected_errors nst0 1",
            "smartctl_device_temperature nst0 current 38",
            "smartctl_device_temperature nst0 drive_trip 60",
        ];
        assert_eq!(told("Good".into()), [&others[..], &["veghe_tape_alerts nst0 0"]].concat());
        let set = serde_json::json!([
            {"descriptor_idx": 20, "parameter_code": 20, "string": "C: The tape drive needs cleaning:"},
            {"descriptor_idx": 7, "parameter_code": 7, "string": "W: The tape cartridge has reached the end of its calculated useful life:"},
            {"descriptor_idx": 99, "string": 5}]);
        let flags = [
            "veghe_tape_alerts nst0 2",
            "veghe_tape_alert nst0 7 Media life warning 1",
            "veghe_tape_alert nst0 20 Cleaning required critical 1",
        ];
        assert_eq!(told(set), [&others[..], &flags].concat());
    }

    #[test]
    fn a_drive_that_sleeps_keeps_what_it_said() {
        let drive = Drive { name: "/dev/sda".to_owned(), kind: Some("sat".to_owned()) };
        let awake = serde_json::json!({"device": {"protocol": "ATA"}, "smart_status": {"passed": true}});
        let mut series = describe(&drive, &awake);
        let count = series.len();
        let standby =
            |series: &[(SeriesName, f64)]| series.iter().find(|(name, _)| name.metric() == STANDBY).map(|s| s.1);
        assert_eq!(standby(&series), Some(0.0));
        let asleep = serde_json::json!({"smartctl": {"exit_status": 2, "messages": [
            {"string": "Device is in STANDBY mode, exit(2)", "severity": "information"}]}});
        assert!(is_asleep(&asleep) && !is_asleep(&awake));
        fall_asleep(&drive, &mut series);
        assert_eq!((series.len(), standby(&series)), (count, Some(1.0)));
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_described(bytes in "[\\[\\]{}\":,a-z/0-9]{0,120}") {
            if let Ok(answer) = serde_json::from_str::<Value>(&bytes) {
                describe(&Drive { name: "/dev/x".to_owned(), kind: None }, &answer);
            }
        }
    }
}
