//! LVM's groups and thin pools, asked by `lvs` and `vgs` with JSON reports once a minute: how full they are.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::CapabilitySet;
use serde_json::Value;

use super::run::{self, Limits, Privileges};
use super::slowly::Slowly;
use super::{Entry, Sensor, SensorError, SensorSettings, Sink, capabilities};
use crate::reading::SeriesName;

pub(crate) const ENTRY: Entry = Entry::new(
    "lvm",
    |settings| vec![directory(settings).join("lvs"), directory(settings).join("vgs")],
    |settings| Box::new(Lvm::new(settings)),
)
.needing(|_| {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH;
    capabilities::missing(needed).map(|names| format!("groups and volumes: {names}"))
})
.on_request();

const EVERY: Duration = Duration::from_mins(1);
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    output_bytes: 4 << 20,
    memory_bytes: 256 << 20,
    privileges: Privileges::Kept,
};
const MAX_VOLUMES: usize = 1000;

fn directory(settings: &SensorSettings) -> PathBuf {
    settings.roots.rootfs.join("usr/sbin")
}

/// `lvm_*`.
pub(crate) struct Lvm(Slowly<io::Result<Vec<(SeriesName, f64)>>>);

impl Lvm {
    pub(crate) fn new(settings: &SensorSettings) -> Self {
        let directory = directory(settings);
        Self(Slowly::new("lvm", EVERY, settings.patience, move || look(&directory)))
    }
}

impl Sensor for Lvm {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.0.put(sink).map_err(|source| SensorError::Read { path: "lvs".into(), source })
    }
}

fn look(directory: &Path) -> io::Result<Vec<(SeriesName, f64)>> {
    let volumes = report(&directory.join("lvs"), "lv_name,vg_name,lv_size,data_percent,metadata_percent")?;
    let groups = report(&directory.join("vgs"), "vg_name,vg_size,vg_free")?;
    let mut found = Vec::new();
    let metrics = [
        ("lvm_lv_size_bytes", "lv_size"),
        ("lvm_lv_data_percent", "data_percent"),
        ("lvm_lv_metadata_percent", "metadata_percent"),
    ];
    for volume in rows(&volumes, "lv") {
        let labels = [("lv_name", text(volume, "lv_name")), ("vg_name", text(volume, "vg_name"))];
        found.extend(
            metrics
                .iter()
                .filter_map(|(metric, key)| Some((SeriesName::new(metric, &labels), text(volume, key).parse().ok()?))),
        );
    }
    for group in rows(&groups, "vg") {
        let labels = [("vg_name", text(group, "vg_name"))];
        found.extend(
            [("lvm_vg_size_bytes", "vg_size"), ("lvm_vg_free_bytes", "vg_free")]
                .iter()
                .filter_map(|(metric, key)| Some((SeriesName::new(metric, &labels), text(group, key).parse().ok()?))),
        );
    }
    Ok(found)
}

fn report(program: &Path, columns: &str) -> io::Result<Value> {
    let arguments = ["--reportformat", "json", "--units", "b", "--nosuffix", "--readonly", "--options", columns];
    let output = run::run(program, &arguments.map(str::to_owned), &[], &LIMITS)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} ended with {}", program.display(), output.status)));
    }
    serde_json::from_slice(&output.text).map_err(io::Error::other)
}

fn rows<'a>(report: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let reports = report.get("report").and_then(Value::as_array).into_iter().flatten();
    reports.filter_map(move |report| report.get(kind)?.as_array()).flatten().take(MAX_VOLUMES)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::script::write_program;
    use super::*;

    #[test]
    fn thin_pools_and_groups_are_told() {
        let directory = tempfile::tempdir().expect("directory");
        for (program, says) in [
            (
                "lvs",
                r#"{"report":[{"lv":[{"lv_name":"root","vg_name":"vg0","lv_size":"21474836480","data_percent":"","metadata_percent":""},{"lv_name":"pool","vg_name":"vg0","lv_size":"107374182400","data_percent":"85.31","metadata_percent":"12.50"}]}],"log":[]}"#,
            ),
            ("vgs", r#"{"report":[{"vg":[{"vg_name":"vg0","vg_size":"214748364800","vg_free":"1073741824"}]}]}"#),
        ] {
            let path = directory.path().join(program);
            write_program(&path, &format!("#!/bin/sh\necho '{says}'\n"));
        }
        let path = directory.path().to_owned();
        let found = std::thread::spawn(move || look(&path)).join().expect("no panic").expect("both answer");
        let found: Vec<_> = found.iter().map(|(name, value)| (name.metric(), &*name.labels()[0].1, *value)).collect();
        let expected = [
            ("lvm_lv_size_bytes", "root", 21_474_836_480.0),
            ("lvm_lv_size_bytes", "pool", 107_374_182_400.0),
            ("lvm_lv_data_percent", "pool", 85.31),
            ("lvm_lv_metadata_percent", "pool", 12.5),
            ("lvm_vg_size_bytes", "vg0", 214_748_364_800.0),
            ("lvm_vg_free_bytes", "vg0", 1_073_741_824.0),
        ];
        assert_eq!(found, expected);
    }
}
