//! What tape drives say of themselves and of the tape that is in, in the log pages of SSC-4: `sg_logs` of Debian's
//! sg3-utils fetches them as they are.
//!
//! Asked every ten minutes by a thread of its own, through the drive's generic device: that can be opened while a backup
//! has the drive, and closing it never rewinds. A log page is a copy of counters in the drive; to read it moves no tape. Of
//! `TapeAlert` the page is read (12h) that keeps the flags for whoever asks next; the one that clears them (2Eh)
//! is never asked for here ([`super::smart`] does, for drives that its settings name).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::page::Page;
use super::class::is_numbered;
use super::run::{self, Limits, Privileges};
use super::slowly::Slowly;
use super::{Entry, Roots, Sensor, SensorError, SensorSettings, Sink, unreadable};
use crate::reading::SeriesName;

pub(crate) mod alerts;
mod page;

pub(crate) const ENTRY: Entry = Entry::new(
    "tape",
    |settings| vec![settings.roots.sys.join("class/scsi_tape")],
    |settings| Box::new(Tape::new(settings)),
)
.unless(|settings| match program(settings) {
    Some(program) if program.is_file() => None,
    Some(program) => Some(format!("there is no {}", program.display())),
    None => Some("there is no sg_logs; install sg3-utils or set sensors.tape.program".to_owned()),
})
.needing(missing)
.on_request();

const PROGRAMS: [&str; 2] = ["usr/bin/sg_logs", "usr/local/bin/sg_logs"];
/// A drive that loads a tape may let a question wait.
const TIMEOUT: Duration = Duration::from_mins(2);
/// A page has up to 64 KiB.
const LIMITS: Limits =
    Limits { timeout: TIMEOUT, output_bytes: 128 << 10, memory_bytes: 64 << 20, privileges: Privileges::Kept };
const MAX_DRIVES: usize = 64;

const WRITE_ERRORS: u8 = 0x02;
const READ_ERRORS: u8 = 0x03;
const TEMPERATURE: u8 = 0x0d;
const STATUS: u8 = 0x11;
const ALERTS: u8 = 0x12;
const DEVICE: u8 = 0x14;
const VOLUME: u8 = 0x17;
/// Of LTO alone; what the page above tells in newer drives.
const CAPACITY: u8 = 0x31;
const PAGES: [u8; 8] = [WRITE_ERRORS, READ_ERRORS, TEMPERATURE, STATUS, ALERTS, DEVICE, VOLUME, CAPACITY];

const HOUR: f64 = 3600.0;
/// As SSC-4 counts.
const MEGABYTE: f64 = 1e6;
const MEBIBYTE: f64 = 1_048_576.0;
/// Bits of the very high frequency data (ADC-3, 6.1.2), in its first byte and in its second.
const CLEANING_REQUESTED: u8 = 1 << 2;
const CLEANING_REQUIRED: u8 = 1 << 1;
const MOUNTED: u8 = 1;
/// One byte says that the drive does not know.
const NO_TEMPERATURE: u64 = 0xff;

type Labels = &'static [(&'static str, &'static str)];
const READ: Labels = &[("operation", "read")];
const WRITE: Labels = &[("operation", "write")];

/// Numbers that are there: page, parameter, metric, labels beside the drive, and what one of them is.
const NUMBERS: [(u8, u16, &str, Labels, f64); 25] = [
    (READ_ERRORS, 3, "veghe_tape_errors", &[("operation", "read"), ("outcome", "corrected")], 1.0),
    (READ_ERRORS, 6, "veghe_tape_errors", &[("operation", "read"), ("outcome", "uncorrected")], 1.0),
    (WRITE_ERRORS, 3, "veghe_tape_errors", &[("operation", "write"), ("outcome", "corrected")], 1.0),
    (WRITE_ERRORS, 6, "veghe_tape_errors", &[("operation", "write"), ("outcome", "uncorrected")], 1.0),
    (DEVICE, 0x00, "veghe_tape_loads_total", &[], 1.0),
    (DEVICE, 0x01, "veghe_tape_cleanings_total", &[], 1.0),
    (DEVICE, 0x02, "veghe_tape_power_on_seconds_total", &[], HOUR),
    (DEVICE, 0x03, "veghe_tape_motion_seconds_total", &[], HOUR),
    (DEVICE, 0x04, "veghe_tape_processed_meters_total", &[], 1.0),
    (DEVICE, 0x08, "veghe_tape_motion_since_cleaning_seconds", &[], HOUR),
    (DEVICE, 0x0c, "veghe_tape_power_cycles_total", &[], 1.0),
    (DEVICE, 0x0e, "veghe_tape_hard_errors_total", WRITE, 1.0),
    (DEVICE, 0x0f, "veghe_tape_hard_errors_total", READ, 1.0),
    (DEVICE, 0x81, "veghe_tape_overheated", &[], 1.0),
    (VOLUME, 0x01, "veghe_tape_volume_loads", &[], 1.0),
    (VOLUME, 0x03, "veghe_tape_volume_retries", WRITE, 1.0),
    (VOLUME, 0x08, "veghe_tape_volume_retries", READ, 1.0),
    (VOLUME, 0x04, "veghe_tape_volume_errors", WRITE, 1.0),
    (VOLUME, 0x09, "veghe_tape_volume_errors", READ, 1.0),
    (VOLUME, 0x10, "veghe_tape_volume_written_bytes", &[], MEGABYTE),
    (VOLUME, 0x11, "veghe_tape_volume_read_bytes", &[], MEGABYTE),
    (VOLUME, 0x16, "veghe_tape_volume_capacity_bytes", &[], MEGABYTE),
    (VOLUME, 0x17, "veghe_tape_volume_used_bytes", &[], MEGABYTE),
    (VOLUME, 0x80, "veghe_tape_volume_write_protected", &[], 1.0),
    (VOLUME, 0x81, "veghe_tape_volume_write_once", &[], 1.0),
];

/// How the drives are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapes {
    /// `sg_logs`, where it is not in one of the usual places.
    pub program: Option<PathBuf>,
    /// From one look at all drives to the next.
    pub every: Duration,
}

impl Default for Tapes {
    fn default() -> Self {
        Self { program: None, every: Duration::from_mins(10) }
    }
}

/// `veghe_tape_*`.
struct Tape(Slowly<Vec<(SeriesName, f64)>>);

/// A drive by its name, as the kernel has it (`st0`), and the file of its generic device.
struct Drive {
    name: String,
    file: PathBuf,
}

fn program(settings: &SensorSettings) -> Option<PathBuf> {
    let usual = || PROGRAMS.iter().map(|path| settings.roots.rootfs.join(path)).find(|path| path.is_file());
    settings.options.host.tapes.program.clone().or_else(usual)
}

fn missing(settings: &SensorSettings) -> Option<String> {
    let drives = drives(&settings.roots);
    let refused = drives.iter().find(|drive| unreadable(&drive.file))?;
    Some(format!("drives' answers: the right to read {} (group tape)", refused.file.display()))
}

/// A drive has a device for each of its modes; the plain one gives its name.
fn drives(roots: &Roots) -> Vec<Drive> {
    let Ok(entries) = fs::read_dir(roots.sys.join("class/scsi_tape")) else { return Vec::new() };
    let drive = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok().filter(|name| is_numbered(name, "st"))?;
        let generic = fs::read_dir(entry.path().join("device/scsi_generic")).ok()?.flatten().next()?;
        Some(Drive { name, file: Path::new("/dev").join(generic.file_name()) })
    };
    let mut found: Vec<Drive> = entries.flatten().filter_map(drive).take(MAX_DRIVES).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Tape {
    fn new(settings: &SensorSettings) -> Self {
        let (program, roots) = (program(settings).unwrap_or_default(), settings.roots.clone());
        let look = move || {
            let mut all = Vec::new();
            for drive in drives(&roots) {
                match ask(&program, &drive.file) {
                    Ok(pages) => describe(&drive.name, &pages, &mut all),
                    Err(error) => tracing::warn!(%error, drive = drive.name, "a tape drive gave no answer"),
                }
            }
            all
        };
        Self(Slowly::new("tape", settings.options.host.tapes.every, settings.patience, look))
    }
}

impl Sensor for Tape {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.0.latest().into_iter().flatten().for_each(|(series, value)| sink.put_named(series, *value));
        Ok(())
    }
}

/// The bytes of those of [`PAGES`] that the drive has.
fn ask(program: &Path, file: &Path) -> std::io::Result<Vec<(u8, Vec<u8>)>> {
    let fetch = |page: u8| {
        let page = format!("--page={page:#04x}");
        let arguments = ["--readonly", "--no_inq", "--raw", &page, &file.to_string_lossy()].map(str::to_owned);
        let output = run::run(program, &arguments, &[], &LIMITS)?;
        if output.status.success() {
            Ok(output.text)
        } else {
            Err(std::io::Error::other(format!("sg_logs {page}: {}", output.status)))
        }
    };
    let list = fetch(0)?;
    let has = page::supported(&list).ok_or_else(|| std::io::Error::other("its list of log pages is none"))?;
    let mut pages = Vec::new();
    for page in PAGES.into_iter().filter(|page| has.contains(page)) {
        match fetch(page) {
            Ok(bytes) => pages.push((page, bytes)),
            // It lists more than it tells without a tape; one that has gone is told by the next question for its list.
            Err(error) => tracing::debug!(%error, page, "a tape drive does not tell a page"),
        }
    }
    Ok(pages)
}

/// All series of the drive `name`.
fn describe(name: &str, pages: &[(u8, Vec<u8>)], series: &mut Vec<(SeriesName, f64)>) {
    let page = |code: u8| {
        let bytes = pages.iter().find(|(page, _)| *page == code);
        bytes.and_then(|(_, bytes)| Page::parse(code, bytes)).unwrap_or_default()
    };
    let mut put =
        |metric: &str, labels: &[(&str, &str)], value: f64| series.push((SeriesName::new(metric, labels), value));
    let device = ("device", name);
    let (status, volume) = (page(STATUS), page(VOLUME));
    let status = status.bytes(0).and_then(|bytes| bytes.first_chunk::<2>());
    // Drives go on telling of the tape that was in last.
    let has_tape = status.is_none_or(|[_, second]| second & MOUNTED != 0);
    let has_volume = has_tape && volume.number(0).is_some_and(|valid| valid != 0);
    for (code, parameter, metric, labels, one) in NUMBERS {
        let is_told = code != VOLUME || has_volume;
        if let Some(value) = page(code).number(parameter).filter(|_| is_told) {
            put(metric, &[&[device], labels].concat(), value as f64 * one);
        }
    }
    if let Some(celsius) = page(TEMPERATURE).number(0).filter(|celsius| *celsius != NO_TEMPERATURE) {
        put("veghe_tape_temperature_celsius", &[device], celsius as f64);
    }
    if let Some([first, second]) = status {
        let is_set = |byte: u8, bit: u8| f64::from(u8::from(byte & bit != 0));
        for (urgency, bit) in [("requested", CLEANING_REQUESTED), ("required", CLEANING_REQUIRED)] {
            put("veghe_tape_cleaning_needed", &[device, ("urgency", urgency)], is_set(*first, bit));
        }
        put("veghe_tape_mounted", &[device], is_set(*second, MOUNTED));
    }
    if let Some(flags) = page(ALERTS).bytes(0).and_then(|bytes| bytes.first_chunk()) {
        let flags = u64::from_be_bytes(*flags);
        // The first flag is the highest bit.
        let set = (1..=64).filter(|number| flags >> (64 - number) & 1 == 1);
        alerts::put(name, set.map(|number| (number, alerts::flag(number).1)), &mut put);
    }
    let capacity = page(CAPACITY);
    let of_partitions = volume.of_partitions(0x204).filter(|_| has_volume).map(|count| count as f64 * MEGABYTE);
    let remaining = of_partitions.or_else(|| {
        // Without a tape both are 0, or the last one's.
        capacity.number(3).filter(|most| *most > 0 && has_tape)?;
        Some((capacity.number(1)? + capacity.number(2).unwrap_or(0)) as f64 * MEBIBYTE)
    });
    if let Some(remaining) = remaining {
        put("veghe_tape_volume_remaining_bytes", &[device], remaining);
    }
    if has_volume {
        let text = |parameter| volume.text(parameter).unwrap_or_default();
        let [barcode, manufacturer, personality, serial_number] = [0x42, 0x43, 0x45, 0x40].map(text);
        let labels = [
            ("barcode", barcode.as_str()),
            device,
            ("manufacturer", &manufacturer),
            ("personality", &personality),
            ("serial_number", &serial_number),
        ];
        put("veghe_tape_volume_info", &labels, 1.0);
    }
}

#[cfg(test)]
mod tests;
