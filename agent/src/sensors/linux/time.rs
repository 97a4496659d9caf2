//! The system's clock: its time, its zone, its source.

use std::fs;

use jiff::tz::TimeZone;

use super::source::Source;
use super::text;
use super::{Entry, Roots, Sensor, SensorError, Sink};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new("time", |_| Vec::new(), |settings| Box::new(Time::new(&settings.roots)));

/// `node_time_seconds`, `node_time_zone_offset_seconds`, `node_time_clocksource_available_info`,
/// `node_time_clocksource_current_info`.
pub(crate) struct Time {
    clocks: Vec<ClockSource>,
}

struct ClockSource {
    device: String,
    available: Source,
    current: Source,
}

impl Time {
    pub(crate) fn new(roots: &Roots) -> Self {
        let directories = fs::read_dir(roots.sys.join("devices/system/clocksource")).into_iter().flatten().flatten();
        let clock = |entry: fs::DirEntry| {
            let device = entry.file_name().to_string_lossy().strip_prefix("clocksource")?.to_owned();
            let source = |file: &str| Source::new(entry.path().join(file));
            Some(ClockSource {
                device,
                available: source("available_clocksource"),
                current: source("current_clocksource"),
            })
        };
        let mut clocks: Vec<_> = directories.filter_map(clock).collect();
        clocks.sort_by(|a, b| a.device.cmp(&b.device));
        Self { clocks }
    }
}

impl Sensor for Time {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let now = clock::since_epoch();
        sink.put("node_time_seconds", &[], now.as_secs_f64());
        if let Ok(timestamp) = jiff::Timestamp::from_second(now.as_secs().cast_signed()) {
            // Cached there, and looked up anew from time to time.
            let zone = Some(TimeZone::system()).filter(|zone| !zone.is_unknown()).unwrap_or(TimeZone::UTC);
            let info = zone.to_offset_info(timestamp);
            let offset_seconds = f64::from(info.offset().seconds());
            sink.put("node_time_zone_offset_seconds", &[("time_zone", info.abbreviation())], offset_seconds);
        }
        for clock in &mut self.clocks {
            let device = clock.device.as_str();
            for (source, name) in [
                (&mut clock.available, "node_time_clocksource_available_info"),
                (&mut clock.current, "node_time_clocksource_current_info"),
            ] {
                for clocksource in text::fields(source.read()?.trim_ascii()) {
                    let clocksource = text::label(clocksource);
                    sink.put(name, &[("clocksource", &clocksource), ("device", device)], 1.0);
                }
            }
        }
        Ok(())
    }
}
