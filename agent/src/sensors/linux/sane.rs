//! Scanners that SANE finds, by USB and in the network, asked by `scanimage --formatted-device-list` every ten minutes: a
//! scanner that is gone from the list is off, unplugged or broken.
//!
//! The program runs without privileges: who may use a scanner (group `scanner`) may list it. What this deliberately does
//! not do: open a scanner, which would disturb whoever scans.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::run::{self, Limits, Privileges};
use super::slowly::Slowly;
use super::{Entry, Sensor, SensorError, SensorSettings, Sink};

pub(crate) const ENTRY: Entry = Entry::new("sane", |_| Vec::new(), |settings| Box::new(Sane::new(settings)))
    .unless(|settings| {
        program(settings).is_none().then(|| "there is no scanimage; install sane-utils or sane-backends".to_owned())
    })
    .on_request();

const EVERY: Duration = Duration::from_mins(10);
/// Drivers that look in the network take their time.
const LIMITS: Limits = Limits {
    timeout: Duration::from_mins(1),
    output_bytes: 64 << 10,
    memory_bytes: 256 << 20,
    privileges: Privileges::Dropped,
};
const MAX_SCANNERS: usize = 64;
const PROGRAMS: [&str; 2] = ["usr/bin/scanimage", "usr/local/bin/scanimage"];
/// Device, vendor, model, type.
const FORMAT: &str = "%d\t%v\t%m\t%t%n";

fn program(settings: &SensorSettings) -> Option<PathBuf> {
    PROGRAMS.iter().map(|path| settings.roots.rootfs.join(path)).find(|path| path.is_file())
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scanner {
    device: String,
    vendor: String,
    model: String,
    kind: String,
}

/// `veghe_sane_*`.
pub(crate) struct Sane(Slowly<io::Result<Vec<Scanner>>>);

impl Sane {
    fn new(settings: &SensorSettings) -> Self {
        let program = program(settings).unwrap_or_default();
        Self(Slowly::new("sane", EVERY, settings.patience, move || look(&program, &[])))
    }
}

impl Sensor for Sane {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        match self.0.latest() {
            Some(Ok(found)) => put(found, sink),
            Some(Err(error)) => {
                let source = io::Error::new(error.kind(), error.to_string());
                return Err(SensorError::Read { path: "scanimage".into(), source });
            }
            None => {}
        }
        Ok(())
    }
}

fn put(found: &[Scanner], sink: &mut Sink) {
    sink.put("veghe_sane_scanners", &[], found.len() as f64);
    for Scanner { device, vendor, model, kind } in found {
        let labels = [("device", &**device), ("model", model), ("type", kind), ("vendor", vendor)];
        sink.put("veghe_sane_scanner_info", &labels, 1.0);
    }
}

/// Each device once, by name.
fn look(program: &Path, environment: &[(String, String)]) -> io::Result<Vec<Scanner>> {
    let arguments = ["--formatted-device-list".to_owned(), FORMAT.to_owned()];
    let output = run::run(program, &arguments, environment, &LIMITS)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} ended with {}", program.display(), output.status)));
    }
    Ok(parse(&String::from_utf8_lossy(&output.text)))
}

/// A line that has other parts is no scanner's.
fn parse(text: &str) -> Vec<Scanner> {
    let scanner = |line: &str| {
        let parts: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [device, vendor, model, kind] = parts[..] else { return None };
        let [device, vendor, model, kind] = [device, vendor, model, kind].map(str::to_owned);
        (!device.is_empty()).then_some(Scanner { device, vendor, model, kind })
    };
    let mut found: Vec<Scanner> = text.lines().filter_map(scanner).take(MAX_SCANNERS).collect();
    found.sort();
    found.dedup_by(|a, b| a.device == b.device);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scanners_of_every_make_are_read_and_noise_is_not() {
        let text = "epsonds:libusb:001:004\tEpson\tDS-530 II\tscanner\nOutput format is not set\nfujitsu:fi-7160:1234\tFUJITSU\tfi-7160\tscanner\nairscan:e0:TASKalfa\teSCL\tTASKalfa 4054ci\tip=10.0.0.7\nfujitsu:fi-7160:1234\tFUJITSU\tfi-7160\tscanner\n\tno\tname\tx\n";
        let found = parse(text);
        let names: Vec<_> = found.iter().map(|scanner| (&*scanner.device, &*scanner.model)).collect();
        let expected = [
            ("airscan:e0:TASKalfa", "TASKalfa 4054ci"),
            ("epsonds:libusb:001:004", "DS-530 II"),
            ("fujitsu:fi-7160:1234", "fi-7160"),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_real_program_lists_the_scanners_of_its_test_driver() {
        let Some(program) = program(&SensorSettings::default()) else {
            // A hidden pass would be a lie: this line is in the output of the test command.
            eprintln!("SKIPPED: there is no scanimage; install sane-utils");
            return;
        };
        let settings = tempfile::tempdir().expect("directory");
        std::fs::write(settings.path().join("dll.conf"), "test\n").expect("write");
        std::fs::write(settings.path().join("test.conf"), "number_of_devices 2\n").expect("write");
        let environment = [("SANE_CONFIG_DIR".to_owned(), settings.path().display().to_string())];
        // On a thread of its own, as the sandbox stays with the thread.
        let look = move || look(&program, &environment);
        let found = std::thread::spawn(look).join().expect("no panic").expect("scanimage answers");
        let mut sink = Sink::default();
        put(&found, &mut sink);
        let (series, values) = sink.take();
        assert_eq!(values, [2.0, 1.0, 1.0]);
        for name in &series.0 {
            let metric = veghe_wire::catalogue::lookup(name.metric()).expect("in the catalogue");
            assert!(name.labels().iter().map(|(label, _)| &**label).eq(metric.labels.iter().copied()), "{name:?}");
        }
        let labels: Vec<_> = series.0[1].labels().iter().map(|(_, value)| value.to_string()).collect();
        assert_eq!(labels, ["test:0", "frontend-tester", "virtual device", "Noname"]);
    }
}
