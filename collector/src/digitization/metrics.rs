//! The project as metrics, on `/metrics` and stored with the collector's own.
//!
//! Invariant: labels are stations, stages, measures and storages; no unit, title, place or person is one.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Timestamp;

use super::Digitization;
use super::calendar::Day;
use super::report::Report;
use super::runway::Outlook;
use super::settings::Settings;
use super::state::{State, minute_of_day};
use crate::clock;

/// How often the metrics follow the project.
const INTERVAL: Duration = Duration::from_secs(15);

/// The project's metrics.
#[derive(Clone)]
pub struct DigitizationMetrics {
    shelf_metres: GaugeVec,
    units: IntGaugeVec,
    sheets: IntGaugeVec,
    images: IntGaugeVec,
    stage_units: IntGaugeVec,
    station_images: IntGaugeVec,
    station_rescanned: IntGaugeVec,
    station_idle: GaugeVec,
    finish: GaugeVec,
    ahead: GaugeVec,
    rework: Gauge,
    first_pass: GaugeVec,
    fixity: IntGaugeVec,
    quarantined: IntGauge,
    outliers: IntGauge,
    open_outliers: IntGauge,
    damaged: IntGaugeVec,
    overdue: IntGauge,
    incomplete: IntGauge,
    units_left: IntGaugeVec,
    storage_full: GaugeVec,
    storage_short: GaugeVec,
    spi: GaugeVec,
}

impl DigitizationMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let kept = |metric: &dyn Fn() -> Box<dyn Collector>| registry.register(metric());
        let whole = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let real = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            shelf_metres: real("digitization_shelf_metres", "Shelf length by how far it is.", &["measure"])?,
            units: whole("digitization_units", "Units by how far they are.", &["measure"])?,
            sheets: whole("digitization_sheets", "Sheets of the units by how far they are.", &["measure"])?,
            images: whole("digitization_images", "Images of the units by how far they are.", &["measure"])?,
            stage_units: whole(
                "digitization_stage_units",
                "Units by stage and what they do there.",
                &["doing", "stage"],
            )?,
            station_images: whole("digitization_station_images", "New images of today by station.", &["station"])?,
            station_rescanned: whole(
                "digitization_station_rescanned_images",
                "Images made again on the last 20 working days by station.",
                &["station"],
            )?,
            station_idle: real(
                "digitization_station_idle_seconds",
                "Time without an image of an expected station within its shift; 0 outside.",
                &["station"],
            )?,
            finish: real(
                "digitization_forecast_finish_timestamp_seconds",
                "The day on which everything is back on its shelf, by how likely it is sooner.",
                &["quantile"],
            )?,
            ahead: real(
                "digitization_schedule_ahead_working_days",
                "Working days ahead of the plan, below 0 behind it; absent without a plan.",
                &[],
            )?,
            rework: Gauge::new(
                "digitization_rework_ratio",
                "Images made again for each new one, of the last 20 working days.",
            )?,
            first_pass: real(
                "digitization_first_pass_ratio",
                "Share of units accepted at the first look, of the last 20 working days.",
                &[],
            )?,
            fixity: whole(
                "digitization_fixity_checks",
                "Fixity checks by storage and outcome.",
                &["outcome", "storage"],
            )?,
            quarantined: IntGauge::new("digitization_quarantined_events", "Events that wait for their unit.")?,
            outliers: IntGauge::new("digitization_outlier_units", "Units whose images do not fit their leaves.")?,
            open_outliers: IntGauge::new(
                "digitization_open_outlier_units",
                "Units whose images do not fit their leaves and whose paper is not back on the shelf.",
            )?,
            damaged: whole(
                "digitization_damaged_objects",
                "Objects by storage that are not as they were.",
                &["storage"],
            )?,
            overdue: IntGauge::new("digitization_overdue_units", "Units whose paper is overdue.")?,
            incomplete: IntGauge::new("digitization_incomplete_files", "Files that were not whole.")?,
            units_left: whole(
                "digitization_storage_units_left",
                "Units still to be scanned that a storage holds.",
                &["storage"],
            )?,
            storage_full: real(
                "digitization_storage_full_timestamp_seconds",
                "The day on which a storage is full before everything is scanned, by how likely it is sooner.",
                &["quantile", "storage"],
            )?,
            storage_short: real(
                "digitization_storage_short_bytes",
                "Bytes that a storage lacks for everything that is still to be scanned.",
                &["storage"],
            )?,
            spi: real(
                "digitization_schedule_performance_ratio",
                "Working days of the plan that were earned for each that is gone, SPI(t).",
                &[],
            )?,
        };
        for vec in [
            &metrics.shelf_metres,
            &metrics.station_idle,
            &metrics.finish,
            &metrics.ahead,
            &metrics.first_pass,
            &metrics.storage_full,
            &metrics.storage_short,
            &metrics.spi,
        ] {
            kept(&|| Box::new(vec.clone()))?;
        }
        for vec in [
            &metrics.units,
            &metrics.sheets,
            &metrics.images,
            &metrics.stage_units,
            &metrics.station_images,
            &metrics.station_rescanned,
            &metrics.fixity,
            &metrics.damaged,
            &metrics.units_left,
        ] {
            kept(&|| Box::new(vec.clone()))?;
        }
        for one in
            [&metrics.quarantined, &metrics.outliers, &metrics.open_outliers, &metrics.overdue, &metrics.incomplete]
        {
            kept(&|| Box::new(one.clone()))?;
        }
        kept(&|| Box::new(metrics.rework.clone()))?;
        Ok(metrics)
    }

    /// Shows `report`, and the idle time of stations at `now`.
    pub fn show(&self, report: &Report, state: &State, now: Timestamp, settings: &Settings) {
        let p = &report.progress;
        // Without an inventory there is no project: its zeros would be noise on every collector.
        if p.scope.units > 0 {
            for (measure, value) in
                [("scope", &p.scope), ("scanned", &p.scanned), ("accepted", &p.accepted), ("done", &p.done)]
            {
                self.shelf_metres.with_label_values(&[measure]).set(value.mm as f64 / 1000.0);
                self.units.with_label_values(&[measure]).set(value.units as i64);
                self.sheets.with_label_values(&[measure]).set(value.sheets as i64);
                self.images.with_label_values(&[measure]).set(value.images);
            }
            for row in &p.stages {
                for (doing, units) in [("waiting", row.waiting), ("working", row.working), ("held", row.held)] {
                    self.stage_units.with_label_values(&[doing, row.stage.name()]).set(units as i64);
                }
            }
        }
        for row in &p.stations {
            self.station_images.with_label_values(&[&row.name]).set(row.images_today);
            self.station_rescanned.with_label_values(&[&row.name]).set(row.rescanned_lately);
        }
        for (station, idle) in idle(state, now, settings) {
            self.station_idle.with_label_values(&[station]).set(idle);
        }
        self.finish.reset();
        if let Some(forecast) = &report.forecast {
            for (quantile, day) in [("0.5", forecast.p50), ("0.85", forecast.p85), ("0.95", forecast.p95)] {
                self.finish.with_label_values(&[quantile]).set(f64::from(day.0) * 86_400.0);
            }
        }
        for (gauge, value) in [
            (&self.ahead, p.days_ahead),
            (&self.first_pass, p.first_pass_lately),
            (&self.spi, p.earned.as_ref().and_then(|earned| earned.spi)),
        ] {
            gauge.reset();
            if let Some(value) = value {
                gauge.with_label_values(&[] as &[&str]).set(value);
            }
        }
        let (new, again) =
            p.by_station.iter().fold((0, 0), |(new, again), row| (new + row.captured, again + row.rescanned));
        self.rework.set(if new > 0 { again as f64 / new as f64 } else { 0.0 });
        for (storage, fixity) in &state.fixity {
            for (outcome, count) in [
                ("ok", fixity.good),
                ("mismatch", fixity.mismatch),
                ("missing", fixity.missing),
                ("error", fixity.failed),
            ] {
                self.fixity.with_label_values(&[outcome, storage]).set(count as i64);
            }
        }
        self.quarantined.set(p.quarantined_events as i64);
        self.outliers.set(p.outliers.len() as i64);
        self.open_outliers.set(p.outliers.iter().filter(|outlier| !outlier.is_back).count() as i64);
        for storage in state.fixity.keys() {
            let damaged = state.damaged.keys().filter(|(other, _)| other == storage).count();
            self.damaged.with_label_values(&[storage]).set(damaged as i64);
        }
        self.overdue.set(p.overdue.len() as i64);
        self.incomplete.set(p.incomplete_files as i64);
    }
}

impl DigitizationMetrics {
    /// Shows how long the storages last.
    pub fn show_storages(&self, outlook: &Outlook) {
        self.units_left.reset();
        self.storage_full.reset();
        self.storage_short.reset();
        for row in &outlook.storages {
            if let Some(units) = row.units_left {
                self.units_left.with_label_values(&[&row.storage]).set(units as i64);
            }
            if let Some(bytes) = row.short_bytes {
                self.storage_short.with_label_values(&[&row.storage]).set(bytes as f64);
            }
            for (quantile, day) in [("0.15", row.full_p15), ("0.5", row.full_p50)] {
                if let Some(day) = day {
                    let at = f64::from(day.0) * 86_400.0;
                    self.storage_full.with_label_values(&[quantile, &row.storage]).set(at);
                }
            }
        }
    }
}

/// For each expected station the seconds without an image since its shift began; 0 outside of shifts.
fn idle<'a>(state: &State, now: Timestamp, settings: &'a Settings) -> Vec<(&'a str, f64)> {
    let minute = minute_of_day(now, settings);
    let is_working = settings.calendar.is_working(Day::at(now, &settings.time_zone));
    let shift = settings.shifts.get(usize::from(settings.shift_of(minute))).filter(|_| is_working);
    let in_shift_s = shift.map_or(0.0, |shift| f64::from((minute + 1440 - shift.from) % 1440) * 60.0);
    let last_image = |name: &str| state.stations.iter().find(|station| station.name == name)?.last_image;
    settings
        .stations
        .iter()
        .map(|name| {
            let silent_s = last_image(name).map_or(f64::INFINITY, |at| (now.0 - at.0).max(0) as f64 / 1000.0);
            (name.as_str(), silent_s.min(in_shift_s))
        })
        .collect()
}

/// Lets the metrics follow the project until `stop`.
///
/// # Errors
/// Where the registry has metrics of these names already.
pub fn start(
    project: Digitization,
    registry: &Registry,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), prometheus::Error> {
    let metrics = DigitizationMetrics::register(registry)?;
    registry.register(project.inner.door.metric())?;
    tasks.spawn(async move {
        while !stop.is_cancelled() {
            let (project, metrics) = (project.clone(), metrics.clone());
            let work = tokio::task::spawn_blocking(move || {
                let now = clock::now();
                let report = project.report(now);
                metrics.show(&report, &project.state(), now, project.settings());
                metrics.show_storages(&project.outlook(&report));
            });
            if let Err(panicked) = work.await {
                tracing::error!(error = &panicked as &dyn std::error::Error, "counting the digitization failed");
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;
    use serde_json::json;

    use super::super::event;
    use super::*;

    #[test]
    fn metrics_tell_how_far_it_is_and_name_no_unit() {
        let settings = Settings { stations: vec!["S02".to_owned(), "S09".to_owned()], ..Settings::default() };
        let project = Digitization::in_memory(settings);
        let at = |text: &str| Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond());
        let sent = |id: &str, kind: &str, data: serde_json::Value| {
            json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "id": id,
                "source": "//cjt/station/S02", "time": "2026-05-14T08:00:00Z", "data": data})
        };
        let events = json!([
            sent(
                "1",
                "inventory.declared",
                json!({"unit": "SECRET-1", "leaves": 100, "width_mm": 31, "title": "Secret"})
            ),
            sent("2", "image.captured", json!({"unit": "SECRET-1", "frames": 150})),
            sent("3", "qc.result", json!({"unit": "SECRET-1", "outcome": "accepted"})),
        ]);
        // 11:30 in Bucharest on a Thursday, 3.5 hours into the shift.
        let now = at("2026-05-14T08:30:00Z");
        project.submit(event::parse(events.to_string().as_bytes()).expect("events"), now).expect("kept");
        let registry = Registry::new();
        let metrics = DigitizationMetrics::register(&registry).expect("metrics");
        metrics.show(&project.report(now), &project.state(), now, project.settings());
        let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        for line in [
            r#"digitization_shelf_metres{measure="accepted"} 0.031"#,
            r#"digitization_shelf_metres{measure="done"} 0"#,
            r#"digitization_images{measure="scope"} 150"#,
            r#"digitization_station_images{station="S02"} 150"#,
            r#"digitization_station_idle_seconds{station="S02"} 1800"#,
            r#"digitization_station_idle_seconds{station="S09"} 12600"#,
            "digitization_first_pass_ratio 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        assert!(!text.contains("SECRET") && !text.contains("Secret"));
        // On Sunday nobody is expected.
        let sunday = at("2026-05-17T08:30:00Z");
        assert_eq!(idle(&project.state(), sunday, project.settings()), [("S02", 0.0), ("S09", 0.0)]);
        for family in registry.gather() {
            assert!(family.name().starts_with("digitization_"), "{}", family.name());
        }
    }
}
