//! `/proc/diskstats` and udev's database: what disks do, and which they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::glob::Globs;
use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "diskstats",
    |settings| vec![settings.roots.proc.join("diskstats")],
    |settings| Box::new(Diskstats::new(&settings.roots, settings.ignored("diskstats"))),
);

/// The kernel counts in these, whatever the device's own sectors are.
const SECTOR_BYTES: f64 = 512.0;
const SECONDS_PER_MS: f64 = 0.001;

/// In the order of the file's columns, with what one unit of each is; older kernels lack the last ones.
const COLUMNS: [(&str, f64); 17] = [
    ("node_disk_reads_completed_total", 1.0),
    ("node_disk_reads_merged_total", 1.0),
    ("node_disk_read_bytes_total", SECTOR_BYTES),
    ("node_disk_read_time_seconds_total", SECONDS_PER_MS),
    ("node_disk_writes_completed_total", 1.0),
    ("node_disk_writes_merged_total", 1.0),
    ("node_disk_written_bytes_total", SECTOR_BYTES),
    ("node_disk_write_time_seconds_total", SECONDS_PER_MS),
    ("node_disk_io_now", 1.0),
    ("node_disk_io_time_seconds_total", SECONDS_PER_MS),
    ("node_disk_io_time_weighted_seconds_total", SECONDS_PER_MS),
    ("node_disk_discards_completed_total", 1.0),
    ("node_disk_discards_merged_total", 1.0),
    ("node_disk_discarded_sectors_total", 1.0),
    ("node_disk_discard_time_seconds_total", SECONDS_PER_MS),
    ("node_disk_flush_requests_total", 1.0),
    ("node_disk_flush_requests_time_seconds_total", SECONDS_PER_MS),
];
const COLUMNS_MIN: usize = 11;

/// `node_disk_*`, for whole disks: partitions, loops and memory disks are left out.
pub(crate) struct Diskstats {
    source: Source,
    ignored: Globs,
    udev: PathBuf,
    /// In the order of the file.
    known: Vec<Known>,
}

/// What udev says about a disk.
#[derive(Default)]
struct Known {
    /// Its file's name, for example `b8:0`.
    file: String,
    /// Where it is.
    path: PathBuf,
    modified: Option<SystemTime>,
    properties: Vec<(String, String)>,
}

/// One line of the file.
struct Disk<'a> {
    major: &'a str,
    minor: &'a str,
    device: &'a str,
    values: &'a [u64],
}

impl Diskstats {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        let source = Source::new(roots.proc.join("diskstats"));
        Self { source, ignored, udev: roots.udev.clone(), known: Vec::new() }
    }
}

impl Sensor for Diskstats {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let (udev, ignored, known) = (&self.udev, &self.ignored, &mut self.known);
        let mut disks = 0;
        let parsed = parse(self.source.read()?, |disk| {
            if ignored.matches(disk.device) {
                return;
            }
            if disks == known.len() {
                known.push(Known::default());
            }
            if let Some(known) = known.get_mut(disks) {
                known.refresh(udev, disk);
                put(disk, known, sink);
            }
            disks += 1;
        });
        known.truncate(disks);
        parsed.map_err(|error| self.source.malformed(error))
    }
}

fn put(disk: &Disk, known: &Known, sink: &mut Sink) {
    let device = ("device", disk.device);
    let property = |name| known.property(name).unwrap_or_default();
    let serials = ["SCSI_IDENT_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"];
    let serial = serials.into_iter().map(property).find(|serial| !serial.is_empty()).unwrap_or_default();
    let info = [
        device,
        ("major", disk.major),
        ("minor", disk.minor),
        ("model", property("ID_MODEL")),
        ("path", property("ID_PATH")),
        ("revision", property("ID_REVISION")),
        ("serial", serial),
        ("wwn", property("ID_WWN")),
    ];
    sink.put("node_disk_info", &info, 1.0);
    for ((name, unit), &value) in COLUMNS.iter().zip(disk.values) {
        sink.put(name, &[device], value as f64 * unit);
    }
    if let Some(kind) = known.property("ID_FS_TYPE").filter(|kind| !kind.is_empty()) {
        let usage = ("usage", property("ID_FS_USAGE"));
        let labels =
            [device, ("type", kind), usage, ("uuid", property("ID_FS_UUID")), ("version", property("ID_FS_VERSION"))];
        sink.put("node_disk_filesystem_info", &labels, 1.0);
    }
    if let Some(name) = known.property("DM_NAME").filter(|name| !name.is_empty()) {
        let labels = [
            device,
            ("lv_layer", property("DM_LV_LAYER")),
            ("lv_name", property("DM_LV_NAME")),
            ("name", name),
            ("uuid", property("DM_UUID")),
            ("vg_name", property("DM_VG_NAME")),
        ];
        sink.put("node_disk_device_mapper_info", &labels, 1.0);
    }
    if !property("ID_ATA").is_empty() {
        for (name, metric) in [
            ("ID_ATA_WRITE_CACHE", "node_disk_ata_write_cache"),
            ("ID_ATA_WRITE_CACHE_ENABLED", "node_disk_ata_write_cache_enabled"),
            ("ID_ATA_ROTATION_RATE_RPM", "node_disk_ata_rotation_rate_rpm"),
        ] {
            if let Some(value) = known.property(name).and_then(|value| value.parse().ok()) {
                sink.put(metric, &[device], value);
            }
        }
    }
}

impl Known {
    fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads udev's file again if it is another one than before. udev replaces files, so the time of change tells.
    fn refresh(&mut self, udev: &Path, disk: &Disk) {
        let is_same = self.file.strip_prefix('b').and_then(|file| file.split_once(':'));
        if is_same != Some((disk.major, disk.minor)) {
            let file = format!("b{}:{}", disk.major, disk.minor);
            *self = Self { path: udev.join(&file), file, ..Self::default() };
        }
        let path = &self.path;
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if modified != self.modified {
            self.modified = modified;
            self.properties = fs::read(path).map(|bytes| properties(&bytes)).unwrap_or_default();
        }
    }
}

/// The lines `E:<name>=<value>` of udev's file.
fn properties(bytes: &[u8]) -> Vec<(String, String)> {
    let property = |(_, line): (usize, &[u8])| {
        let line = text::label(line);
        let (name, value) = line.strip_prefix("E:")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    text::lines(bytes).filter_map(property).collect()
}

fn parse(bytes: &[u8], mut each: impl FnMut(&Disk)) -> Result<(), Malformed> {
    for (line, content) in text::lines(bytes) {
        let malformed = |expected| Malformed { line, expected };
        let mut fields = text::fields(content);
        let mut id = || {
            let field = fields.next().filter(|field| text::number(field).is_some());
            field.ok_or(malformed("the numbers and the name of a device"))
        };
        let (major, minor) = (text::label(id()?), text::label(id()?));
        let device = fields.next().ok_or(malformed("the numbers and the name of a device"))?;
        if is_left_out(device) {
            continue;
        }
        let mut values = [0; COLUMNS.len()];
        let mut count = 0;
        for (value, field) in values.iter_mut().zip(fields) {
            *value = text::number(field).ok_or(malformed("counters"))?;
            count += 1;
        }
        if count < COLUMNS_MIN {
            return Err(malformed("at least 11 counters"));
        }
        let values = values.get(..count).unwrap_or_default();
        each(&Disk { major: &major, minor: &minor, device: &text::label(device), values });
    }
    Ok(())
}

/// `^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`
fn is_left_out(device: &[u8]) -> bool {
    /// What is before the digits at the end, if there are any.
    fn without_digits(name: &[u8]) -> Option<&[u8]> {
        let end = name.iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |last| last + 1);
        name.get(..end).filter(|rest| rest.len() < name.len())
    }
    let Some(stem) = without_digits(device) else { return false };
    match stem {
        b"ram" | b"loop" | b"fd" | [b'h' | b's' | b'v', b'd', b'a'..=b'z'] | [b'x', b'v', b'd', b'a'..=b'z'] => true,
        _ => {
            let namespace = stem.strip_suffix(b"p").and_then(without_digits);
            let controller = namespace.and_then(|stem| stem.strip_suffix(b"n")).and_then(without_digits);
            controller == Some(b"nvme")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_loops_are_left_out_as_node_exporter_does() {
        for out in ["ram0", "loop12", "fd0", "sda1", "hdb2", "vdz10", "xvda1", "nvme0n1p1", "nvme10n2p13"] {
            assert!(is_left_out(out.as_bytes()), "{out}");
        }
        let stay =
            ["sda", "sdaa1", "vda", "zram0", "dm-0", "md127", "nvme0n1", "nvmen1p1", "sr0", "mmcblk0p1", "1", ""];
        for stay in stay {
            assert!(!is_left_out(stay.as_bytes()), "{stay}");
        }
    }

    #[test]
    fn an_error_tells_the_line() {
        let good = "8 0 sda 1 2 3 4 5 6 7 8 9 10 11\n";
        let error = parse(format!("{good}8 16 sdb 1 2\n").as_bytes(), |_| {}).expect_err("malformed");
        assert_eq!(error, Malformed { line: 2, expected: "at least 11 counters" });
    }
}
