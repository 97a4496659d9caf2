//! Who keeps the clock, and how well: chrony, asked by `chronyc`, with `chrony_exporter`'s names; systemd-timesyncd by the
//! time stamp of its file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::run::{self, Limits, Privileges};
use super::slowly::Slowly;
use super::{Entry, Sensor, SensorError, SensorSettings, Sink};

pub(crate) const ENTRY: Entry =
    Entry::new("timesync", |_| Vec::new(), |settings| Box::new(Timesync::new(settings))).unless(obstacle).on_request();

const EVERY: Duration = Duration::from_mins(1);
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    output_bytes: 64 << 10,
    memory_bytes: 64 << 20,
    privileges: Privileges::Dropped,
};
const CHRONYC: &str = "usr/bin/chronyc";
const TIMESYNC: &str = "run/systemd/timesync/synchronized";

/// Fields of `chronyc -c tracking` from the third one on, with their metrics; parts in a million stay as they are.
const FIELDS: [(usize, &str); 11] = [
    (6, "chrony_tracking_rms_offset_seconds"),
    (7, "chrony_tracking_frequency_ppms"),
    (8, "chrony_tracking_residual_frequency_ppms"),
    (9, "chrony_tracking_skew_ppms"),
    (10, "chrony_tracking_root_delay_seconds"),
    (11, "chrony_tracking_root_dispersion_seconds"),
    (12, "chrony_tracking_update_interval_seconds"),
    (2, "chrony_tracking_stratum"),
    (3, "chrony_tracking_reference_timestamp_seconds"),
    (4, "chrony_tracking_system_time_seconds"),
    (5, "chrony_tracking_last_offset_seconds"),
];

fn obstacle(settings: &SensorSettings) -> Option<String> {
    let has = |path: &str| settings.roots.rootfs.join(path).exists();
    (!has(CHRONYC) && !has(TIMESYNC)).then(|| format!("there is neither /{CHRONYC} nor /{TIMESYNC}"))
}

/// `chrony_*`, `veghe_timesync_synchronized_timestamp_seconds`.
pub(crate) struct Timesync {
    chrony: Option<Slowly<io::Result<Tracking>>>,
    timesyncd: PathBuf,
}

/// What chrony tells: who it follows, and numbers in the order of [`FIELDS`].
#[derive(Debug)]
struct Tracking {
    reference: String,
    address: String,
    numbers: [f64; FIELDS.len()],
}

impl Timesync {
    pub(crate) fn new(settings: &SensorSettings) -> Self {
        let program = settings.roots.rootfs.join(CHRONYC);
        let address = settings.options.host.chrony.clone();
        let chrony = program
            .exists()
            .then(|| Slowly::new("timesync", EVERY, settings.patience, move || ask(&program, address.as_deref())));
        Self { chrony, timesyncd: settings.roots.rootfs.join(TIMESYNC) }
    }
}

impl Sensor for Timesync {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        if let Some(answer) = self.chrony.as_mut().and_then(Slowly::latest) {
            sink.put("chrony_up", &[], f64::from(u8::from(answer.is_ok())));
            if let Ok(tracking) = answer {
                let labels = [("tracking_address", tracking.address.as_str()), ("tracking_refid", &tracking.reference)];
                sink.put("chrony_tracking_info", &labels, 1.0);
                for ((_, metric), number) in FIELDS.iter().zip(tracking.numbers) {
                    sink.put(metric, &[], number);
                }
            }
        }
        let modified = std::fs::metadata(&self.timesyncd).and_then(|metadata| metadata.modified());
        if let Some(since) = modified.ok().and_then(|modified| modified.duration_since(UNIX_EPOCH).ok()) {
            sink.put("veghe_timesync_synchronized_timestamp_seconds", &[], since.as_secs_f64());
        }
        Ok(())
    }
}

fn ask(program: &Path, address: Option<&str>) -> io::Result<Tracking> {
    let mut arguments = vec!["-c".to_owned(), "-n".to_owned()];
    if let Some((host, port)) = address.and_then(|address| address.rsplit_once(':')) {
        arguments.extend(["-h".to_owned(), host.to_owned(), "-p".to_owned(), port.to_owned()]);
    }
    arguments.push("tracking".to_owned());
    let output = run::run(program, &arguments, &[], &LIMITS)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("chronyc ended with {}", output.status)));
    }
    parse(&String::from_utf8_lossy(&output.text)).ok_or_else(|| io::Error::other("chronyc said something unknown"))
}

fn parse(line: &str) -> Option<Tracking> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let mut numbers = [0.0; FIELDS.len()];
    for (place, (field, _)) in numbers.iter_mut().zip(FIELDS) {
        *place = fields.get(field)?.parse().ok()?;
    }
    Some(Tracking { reference: (*fields.first()?).to_owned(), address: (*fields.get(1)?).to_owned(), numbers })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// systemd-timesyncd touches the file at each answer of a server, and chrony is not there.
    #[test]
    fn when_timesyncd_synchronized_last_is_told_once_it_has() {
        let root = tempfile::tempdir().expect("directory");
        let mut settings = SensorSettings::default();
        settings.roots.rootfs = root.path().to_owned();
        let mut sensor = Timesync::new(&settings);
        let mut round = || {
            let mut sink = Sink::default();
            sensor.read(&mut sink).expect("never fails");
            let (series, values) = sink.take();
            series.0.iter().map(|name| name.metric().to_owned()).zip(values).collect::<Vec<_>>()
        };
        assert_eq!(round(), []);
        let file = root.path().join(TIMESYNC);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("directory");
        let file = std::fs::File::create(file).expect("file");
        file.set_modified(UNIX_EPOCH + Duration::from_millis(1_795_697_740_500)).expect("time");
        let expected = ("veghe_timesync_synchronized_timestamp_seconds".to_owned(), 1_795_697_740.5);
        assert_eq!(round(), [expected]);
    }

    #[test]
    fn tracking_is_read_by_place() {
        let line = "C0A80101,192.168.1.1,3,1700000000.123,-0.000012,0.000034,0.000056,-12.5,0.001,0.05,0.02,0.003,64.5,Normal\n";
        let tracking = parse(line).expect("well formed");
        assert_eq!((tracking.reference.as_str(), tracking.address.as_str()), ("C0A80101", "192.168.1.1"));
        let value = |metric| FIELDS.iter().zip(tracking.numbers).find(|((_, name), _)| *name == metric).map(|(_, n)| n);
        assert_eq!(value("chrony_tracking_stratum"), Some(3.0));
        assert_eq!(value("chrony_tracking_system_time_seconds"), Some(-0.000_012));
        assert_eq!(value("chrony_tracking_update_interval_seconds"), Some(64.5));
        assert!(parse("506 Cannot talk to daemon").is_none());
    }
}
