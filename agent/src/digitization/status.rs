//! What hot folders, exports, deliveries and the outbox have to say as metrics: written by their threads, read by a sensor.
//!
//! Every access is relaxed: each number stands alone. No path, unit or batch is a label.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::glance::OUTCOMES;
use crate::clock;
use crate::reading::Sink;
use crate::sensors::{Sensor, SensorError};

/// Why a file of a hot folder does not count.
pub(crate) const REASONS: [&str; 5] = ["damaged", "format", "name", "station", "truncated"];

/// A file system that has not answered one question for so long hangs: a large file takes less to be read.
const HANGS: Duration = Duration::from_mins(2);

/// One hot folder.
#[derive(Debug, Default)]
pub(crate) struct FolderStatus {
    pub(crate) name: String,
    /// Whether it can be read.
    pub(crate) is_up: AtomicBool,
    pub(crate) complete_total: AtomicU64,
    pub(crate) duplicate_total: AtomicU64,
    pub(crate) replaced_total: AtomicU64,
    pub(crate) moved_total: AtomicU64,
    pub(crate) deleted_total: AtomicU64,
    pub(crate) refused_total: [AtomicU64; REASONS.len()],
    /// Whether images are looked at.
    pub(crate) looks: AtomicBool,
    /// Images that were, as in [`OUTCOMES`].
    pub(crate) looked_at_total: [AtomicU64; OUTCOMES.len()],
    pub(crate) pending: AtomicU64,
    pub(crate) last_activity_ms: AtomicI64,
    pub(crate) scan_ms: AtomicU64,
    /// Since when its file system is asked something.
    pub(crate) asked: Mutex<Option<Instant>>,
}

impl FolderStatus {
    /// Its file system is asked something now.
    pub(crate) fn ask(&self, now: Instant) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Everything was answered.
    pub(crate) fn rest(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long it does not answer what it is asked. Nothing here waits for it.
    fn silent(&self, now: Instant) -> Duration {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked))
    }
}

/// One export.
#[derive(Debug, Default)]
pub(crate) struct ExportStatus {
    pub(crate) name: String,
    pub(crate) rows_total: AtomicU64,
    pub(crate) bad_rows_total: AtomicU64,
    pub(crate) files: AtomicU64,
}

/// One folder of deliveries.
#[derive(Debug, Default)]
pub(crate) struct DeliveryStatus {
    pub(crate) name: String,
    pub(crate) is_up: AtomicBool,
    pub(crate) valid_total: AtomicU64,
    pub(crate) invalid_total: AtomicU64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) folders: Vec<Arc<FolderStatus>>,
    pub(crate) exports: Vec<Arc<ExportStatus>>,
    pub(crate) deliveries: Vec<Arc<DeliveryStatus>>,
    /// Images by station, once each.
    pub(crate) images: Mutex<BTreeMap<String, u64>>,
    /// Events that wait for the collector.
    pub(crate) waiting: AtomicU64,
    pub(crate) told_total: AtomicU64,
}

impl Status {
    pub(crate) fn add_images(&self, station: &str, count: u64) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        match images.get_mut(station) {
            Some(images) => *images += count,
            None => {
                images.insert(station.to_owned(), count);
            }
        }
    }
}

/// `digitization_*` of this agent.
pub(crate) struct DigitizationSensor(pub(crate) Arc<Status>);

impl Sensor for DigitizationSensor {
    fn name(&self) -> &'static str {
        "digitization"
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        for (station, images) in self.0.images.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sink.put("digitization_images_total", &[("station", station)], *images as f64);
        }
        for folder in &self.0.folders {
            let label = [("folder", folder.name.as_str())];
            let silent = folder.silent(clock::instant());
            let is_up = folder.is_up.load(Relaxed) && silent < HANGS;
            sink.put("digitization_hotfolder_up", &label, f64::from(u8::from(is_up)));
            sink.put("digitization_hotfolder_files_pending", &label, count(&folder.pending));
            for (outcome, counter) in [
                ("complete", &folder.complete_total),
                ("deleted", &folder.deleted_total),
                ("duplicate", &folder.duplicate_total),
                ("moved", &folder.moved_total),
                ("replaced", &folder.replaced_total),
            ] {
                let labels = [("folder", folder.name.as_str()), ("outcome", outcome)];
                sink.put("digitization_hotfolder_files_total", &labels, count(counter));
            }
            for (reason, counter) in REASONS.iter().zip(&folder.refused_total) {
                let labels = [("folder", folder.name.as_str()), ("reason", reason)];
                sink.put("digitization_hotfolder_files_refused_total", &labels, count(counter));
            }
            for (outcome, counter) in OUTCOMES.iter().zip(&folder.looked_at_total) {
                if folder.looks.load(Relaxed) {
                    let labels = [("folder", folder.name.as_str()), ("outcome", outcome)];
                    sink.put("digitization_hotfolder_images_looked_at_total", &labels, count(counter));
                }
            }
            let last = folder.last_activity_ms.load(Relaxed);
            if last > 0 {
                sink.put("digitization_hotfolder_last_activity_timestamp_seconds", &label, last as f64 / 1000.0);
            }
            sink.put("digitization_hotfolder_scan_duration_seconds", &label, count(&folder.scan_ms) / 1000.0);
            sink.put("digitization_hotfolder_silent_seconds", &label, silent.as_secs_f64());
        }
        for export in &self.0.exports {
            let label = [("export", export.name.as_str())];
            sink.put("digitization_csv_files", &label, count(&export.files));
            sink.put("digitization_csv_rows_total", &label, count(&export.rows_total));
            sink.put("digitization_csv_bad_rows_total", &label, count(&export.bad_rows_total));
        }
        for delivery in &self.0.deliveries {
            let name = delivery.name.as_str();
            let up = f64::from(u8::from(delivery.is_up.load(Relaxed)));
            sink.put("digitization_delivery_up", &[("delivery", name)], up);
            for (outcome, counter) in [("failed", &delivery.invalid_total), ("ok", &delivery.valid_total)] {
                let labels = [("delivery", name), ("outcome", outcome)];
                sink.put("digitization_delivery_packages_total", &labels, count(counter));
            }
        }
        sink.put("digitization_outbox_events", &[], count(&self.0.waiting));
        sink.put("digitization_outbox_told_total", &[], count(&self.0.told_total));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &Arc<Status>, metric: &str, folder: &str) -> Option<f64> {
        let mut sink = Sink::default();
        DigitizationSensor(Arc::clone(status)).read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let is_it = |name: &&crate::reading::SeriesName| {
            name.metric() == metric && name.labels().iter().any(|(_, value)| **value == *folder)
        };
        series.0.iter().position(|name| is_it(&name)).map(|at| values[at])
    }

    #[test]
    fn a_folder_whose_file_system_hangs_is_down_and_the_others_are_not() {
        let folder = |name: &str| Arc::new(FolderStatus { name: name.to_owned(), ..FolderStatus::default() });
        let status = Arc::new(Status { folders: vec![folder("share"), folder("disk")], ..Status::default() });
        let share = &status.folders[0];
        for folder in &status.folders {
            folder.is_up.store(true, Relaxed);
        }
        let up = |folder: &str| told(&status, "digitization_hotfolder_up", folder).expect("up");
        let silent = || told(&status, "digitization_hotfolder_silent_seconds", "share").expect("silent");
        assert_eq!((up("share"), up("disk"), silent()), (1.0, 1.0, 0.0));
        share.ask(clock::instant());
        assert_eq!(up("share"), 1.0, "it may take a while");
        share.ask(clock::instant().checked_sub(HANGS).expect("the machine runs for longer"));
        assert_eq!((up("share"), up("disk")), (0.0, 1.0));
        assert!(silent() >= HANGS.as_secs_f64());
        share.rest();
        assert_eq!((up("share"), silent()), (1.0, 0.0));
    }
}
