//! How many units a storage still holds, and until when: its free space, the bytes of an image as the files teach them by
//! stratum, and what is still to be scanned, in the order in which it is.
//!
//! What it deliberately does not do: read disks. Agents do, and a query of their metrics gives the free space.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Timestamp;
use veghe_promql::{Query, Value};

use super::calendar::Day;
use super::facts::Known;
use super::forecast;
use super::settings::Settings;
use super::state::{State, UnitState};
use super::strata::{Density, Learning, is_finished};
use super::{Digitization, report::Report};
use crate::clock;
use crate::query::QueryService;

/// How often the free space is asked for.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long a query of it may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Storages at most.
pub const MAX_STORAGES: usize = 20;

/// A storage of the masters.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Its name, a label of metrics.
    pub name: String,
    /// Where its free space is read.
    pub free: Free,
    /// Bytes that are to stay free.
    pub reserve_bytes: u64,
    /// Bytes that it takes for each byte of a master: 1 for the masters alone, more with what is derived from them.
    pub ratio: f64,
}

/// Where the free space of a storage is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Free {
    /// The file system that an agent sees.
    Mount {
        /// Which agent.
        instance: String,
        /// Where it is mounted.
        mountpoint: String,
    },
    /// A query that gives bytes.
    Expr(String),
}

impl Free {
    /// The query.
    pub fn expr(&self) -> String {
        match self {
            Self::Mount { instance, mountpoint } => format!(
                "node_filesystem_avail_bytes{{instance={},mountpoint={}}}",
                quoted(instance),
                quoted(mountpoint)
            ),
            Self::Expr(expr) => expr.clone(),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// The free space of a storage as it was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reading", rename_all = "snake_case")]
pub enum Reading {
    /// It was not read yet.
    NotYet,
    /// No series answers: the agent is silent, or instance and mount point are none of its.
    Nothing,
    /// Several series answer; a query that adds them up is wanted.
    Several,
    /// The query failed; the log says why.
    Failed,
    /// So many bytes.
    Bytes {
        /// Bytes.
        bytes: u64,
    },
}

/// A storage and how long it lasts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Runway {
    /// Its name.
    pub storage: String,
    /// Its free space, as it was read last.
    pub free: Reading,
    /// Bytes of it that may be used.
    pub usable_bytes: Option<u64>,
    /// Units that are still to be scanned and fit, in order.
    pub units_left: Option<u64>,
    /// Images of them, and of the part of the next that fits.
    pub images_left: Option<u64>,
    /// Bytes of everything that is still to be scanned, as far as it is known.
    pub bytes_to_come: Option<u64>,
    /// Bytes that lack for that.
    pub short_bytes: Option<u64>,
    /// The day on which it is full as likely sooner as later; nothing where everything fits.
    pub full_p50: Option<Day>,
    /// The day before which it is full in 15 of 100 cases.
    pub full_p15: Option<Day>,
}

/// Bytes of an image in a stratum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Size {
    /// The inventory.
    pub series: String,
    /// The binding.
    pub binding: String,
    /// Units still to be scanned.
    pub units: u64,
    /// Images that they are expected to have.
    pub images: u64,
    /// Units that bytes were learned from.
    pub learned_from: u64,
    /// Bytes of an image.
    pub bytes_an_image: Option<f64>,
    /// The interval that has it with 95 %.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

/// What is still to be scanned and stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// Units still to be scanned.
    pub units: u64,
    /// Storages as they are configured.
    pub storages: Vec<Runway>,
    /// By stratum.
    pub strata: Vec<Size>,
}

/// A unit still to be scanned.
struct ToCome<'a> {
    unit: &'a UnitState,
    images: f64,
    /// Of a byte's count for an image, if it is known.
    density: Option<Density>,
}

#[derive(Default)]
struct Stratum {
    pages: Learning,
    bytes: Learning,
    units: u64,
    images: f64,
}

/// How long storages last whose free space is `readings`, in the order of the settings.
pub fn outlook<'a>(state: &'a State, known: Option<&Known>, readings: &[Reading], settings: &Settings) -> Outlook {
    let mut strata = BTreeMap::<(&str, &str), Stratum>::new();
    let (mut all_pages, mut all_bytes) = (Learning::default(), Learning::default());
    for unit in state.scope() {
        let stratum = strata.entry(unit.unit.stratum()).or_default();
        if is_finished(unit) {
            for learning in [&mut stratum.pages, &mut all_pages] {
                learning.add(unit.unit.width_mm.into(), unit.images as f64);
            }
        }
        if unit.sized_images > 0 && unit.sized_bytes > 0 {
            for learning in [&mut stratum.bytes, &mut all_bytes] {
                learning.add(unit.sized_images as f64, unit.sized_bytes as f64);
            }
        }
    }
    let (any_pages, any_bytes) = (all_pages.density(), all_bytes.density());
    let learned = |(name, s): (&(&'a str, &'a str), &Stratum)| {
        (*name, [s.pages.density().or(any_pages), s.bytes.density().or(any_bytes)])
    };
    let densities: BTreeMap<(&str, &str), [Option<Density>; 2]> = strata.iter().map(learned).collect();
    let mut to_come = Vec::new();
    for unit in state.scope().filter(|unit| unit.standing.first_scanned.is_none()) {
        let name = unit.unit.stratum();
        let [pages, density] = densities.get(&name).copied().unwrap_or_default();
        let mm = f64::from(unit.unit.width_mm);
        let pages = pages.map(|pages| pages.mean * mm);
        let guess = || unit.unit.pages.map(f64::from).or(settings.pages_per_metre.map(|pages| pages * mm / 1000.0));
        let pages = pages.or_else(guess).unwrap_or_else(|| f64::from(unit.expected_images()));
        let images = (pages - unit.images.max(0) as f64).max(0.0);
        let stratum = strata.entry(name).or_default();
        stratum.units += 1;
        stratum.images += images;
        to_come.push(ToCome { unit, images, density });
    }
    // As they are scanned: by priority, those without last, then batch by batch.
    to_come.sort_by(|a, b| order(a.unit).cmp(&order(b.unit)));
    let storages = settings.storages.iter().zip(readings);
    let storages = storages.map(|(storage, reading)| runway(storage, *reading, &to_come, known, settings));
    Outlook {
        units: to_come.len() as u64,
        storages: storages.collect(),
        strata: strata.into_iter().map(|(names, stratum)| size(names, &stratum)).collect(),
    }
}

fn order(unit: &UnitState) -> (u8, &str, &str) {
    (unit.unit.priority.wrapping_sub(1), &unit.unit.batch, &unit.unit.code)
}

fn size((series, binding): (&str, &str), stratum: &Stratum) -> Size {
    let density = stratum.bytes.density();
    let bound = |sign: f64| density.map(|d: Density| (d.mean + sign * 1.96 * d.error).max(0.0));
    Size {
        series: series.to_owned(),
        binding: binding.to_owned(),
        units: stratum.units,
        images: stratum.images.round() as u64,
        learned_from: stratum.bytes.count() as u64,
        bytes_an_image: density.map(|density| density.mean),
        low: bound(-1.0),
        high: bound(1.0),
    }
}

fn runway(
    storage: &Storage,
    free: Reading,
    to_come: &[ToCome<'_>],
    known: Option<&Known>,
    settings: &Settings,
) -> Runway {
    let usable = match free {
        Reading::Bytes { bytes } => Some(bytes.saturating_sub(storage.reserve_bytes)),
        _ => None,
    };
    let mut runway = Runway {
        storage: storage.name.clone(),
        free,
        usable_bytes: usable,
        units_left: None,
        images_left: None,
        bytes_to_come: None,
        short_bytes: None,
        full_p50: None,
        full_p15: None,
    };
    let needed: Option<Vec<f64>> =
        to_come.iter().map(|one| Some(one.images * one.density?.mean * storage.ratio)).collect();
    let Some(needed) = needed else { return runway };
    let all: f64 = needed.iter().sum();
    runway.bytes_to_come = Some(all.round() as u64);
    let Some(usable) = usable else { return runway };
    let (mut left, mut units, mut images) = (usable as f64, 0, 0.0);
    // The standard error of the bytes that were counted: one for all units of a stratum.
    let mut errors = BTreeMap::<(&str, &str), f64>::new();
    for (one, bytes) in to_come.iter().zip(&needed) {
        // The part of the next that fits counts for the day, not as a unit.
        let part = if *bytes > left { left / bytes } else { 1.0 };
        images += one.images * part;
        *errors.entry(one.unit.unit.stratum()).or_default() +=
            one.images * part * one.density.map_or(0.0, |density| density.error) * storage.ratio;
        if *bytes > left {
            break;
        }
        left -= bytes;
        units += 1;
    }
    runway.units_left = Some(units);
    runway.images_left = Some(images.round() as u64);
    runway.short_bytes = Some((all - usable as f64).max(0.0).round() as u64);
    if units < to_come.len() as u64 {
        // What an image takes is known with an error, and so is how many of them fit.
        let error = errors.values().map(|error| error * error).sum::<f64>().sqrt() / (usable as f64).max(1.0) * images;
        let days = known.and_then(|known| forecast::scanned_by(known, images, error, settings));
        (runway.full_p15, runway.full_p50) = (days.map(|days| days[0]), days.map(|days| days[1]));
    }
    runway
}

impl Digitization {
    /// How long the storages last, by what `report` counted. Some milliseconds.
    pub fn outlook(&self, report: &Report) -> Outlook {
        let readings = self.inner.readings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        outlook(&self.state(), report.known.as_ref(), &readings, self.settings())
    }

    /// Takes the free space of a storage, by its place in the settings.
    pub fn note_free(&self, place: usize, reading: Reading) {
        let mut readings = self.inner.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = readings.get_mut(place) {
            *known = reading;
        }
    }
}

/// Reads the free space of the storages each minute until `stop`.
pub fn start(project: Digitization, queries: QueryService, stop: CancellationToken, tasks: &TaskTracker) {
    if project.settings().storages.is_empty() {
        return;
    }
    tasks.spawn(async move {
        while !stop.is_cancelled() {
            for (place, storage) in project.settings().storages.iter().enumerate() {
                project.note_free(place, read(&queries, storage, clock::now()).await);
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    });
}

/// The free space of a storage.
pub async fn read(queries: &QueryService, storage: &Storage, now: Timestamp) -> Reading {
    let failed = |error: &dyn std::error::Error| {
        tracing::warn!(storage = storage.name, error = %error, "cannot read the free space of a storage");
        Reading::Failed
    };
    let query = match Query::parse(&storage.free.expr()) {
        Ok(query) => query,
        Err(error) => return failed(&error),
    };
    let value = match queries.instant(query, now, Some(PATIENCE)).await {
        Ok(evaluation) => evaluation.value,
        Err(error) => return failed(&error),
    };
    let bytes = match value {
        Value::Scalar(_, value) => value,
        Value::Vector(samples) => match &samples[..] {
            [] => return Reading::Nothing,
            [sample] => sample.value,
            _ => return Reading::Several,
        },
        Value::String(..) | Value::Matrix(_) => return Reading::Failed,
    };
    if bytes.is_finite() { Reading::Bytes { bytes: bytes.max(0.0) as u64 } } else { Reading::Nothing }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digitization::event::{TYPE_PREFIX, parse};
    use crate::digitization::inventory::{Mapping, read_csv};

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond())
    }

    /// 40 units of 10 mm in two strata of which each day one is scanned: 50 images of 2 MB, or of 4 MB.
    fn project(days: usize) -> Digitization {
        let free = Free::Mount { instance: "nas-1".to_owned(), mountpoint: "/archive".to_owned() };
        let storage = |name: &str, reserve_bytes, ratio| Storage {
            name: name.to_owned(),
            free: free.clone(),
            reserve_bytes,
            ratio,
        };
        let storages = vec![storage("masters", 0, 1.0), storage("both", 1_000_000_000, 1.5)];
        let project = Digitization::in_memory(Settings { storages, ..Settings::default() });
        let rows: Vec<String> = (0..40)
            .map(|n| format!("U-{n:02};100;10;{};{}", if n % 2 == 0 { "small" } else { "large" }, 1 + n / 20))
            .collect();
        let text = format!("cod_unitate;nr_file;latime_mm;inventar;prioritate\n{}\n", rows.join("\n"));
        let units = read_csv(text.as_bytes(), &Mapping::default()).units;
        project.adopt(&units, 0, "test", at("2026-03-01T09:00:00Z")).expect("adopted");
        let calendar = &project.settings().calendar;
        let from: Day = "2026-03-02".parse().expect("day");
        for (n, day) in calendar.working_from(from).take(days).enumerate() {
            let bytes = if n % 2 == 0 { 100_000_000 } else { 200_000_000 };
            let event = |kind: &str, data: serde_json::Value| {
                json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}{kind}"), "source": "//cjt/station/S02",
                    "id": format!("{kind}:{n}"), "time": format!("{day}T08:00:00Z"), "data": data})
            };
            let unit = format!("U-{n:02}");
            let events = json!([
                event("image.captured", json!({"unit": unit, "frames": 50, "bytes": bytes})),
                event("unit.stage", json!({"unit": unit, "stage": "scan", "change": "exit"})),
                event("qc.result", json!({"unit": unit, "outcome": "accepted"})),
            ]);
            let receipt =
                project.submit(parse(events.to_string().as_bytes()).expect("events"), at(&format!("{day}T20:00:00Z")));
            assert_eq!(receipt.expect("kept").accepted, 3);
        }
        project
    }

    #[test]
    fn what_fits_is_counted_in_order_of_the_work_and_dated_by_its_pace() {
        let project = project(20);
        // 20 units are left, of 100 and 200 MB in turn: 3 GB.
        project.note_free(0, Reading::Bytes { bytes: 1_550_000_000 });
        project.note_free(1, Reading::Bytes { bytes: 10_000_000_000 });
        // Friday, 27 March was the 20th working day; the report of Saturday knows it.
        let report = project.report(at("2026-03-28T09:00:00Z"));
        let outlook = project.outlook(&report);
        assert_eq!(outlook.units, 20);
        let masters = &outlook.storages[0];
        // Ten units are 1.5 GB; half of the next fits, too.
        assert_eq!(
            (masters.units_left, masters.images_left, masters.bytes_to_come),
            (Some(10), Some(525), Some(3_000_000_000))
        );
        assert_eq!(masters.short_bytes, Some(1_450_000_000));
        // A unit a day: ten and a half take eleven working days, and Easter Monday is 13 April.
        let eleventh = project.settings().calendar.working_from("2026-03-28".parse().expect("day")).nth(10);
        assert_eq!((masters.full_p50, masters.full_p15), (eleventh, eleventh));
        let both = &outlook.storages[1];
        assert_eq!((both.units_left, both.short_bytes, both.full_p50), (Some(20), Some(0), None), "everything fits");
        assert_eq!((both.usable_bytes, both.bytes_to_come), (Some(9_000_000_000), Some(4_500_000_000)));
        let sizes: Vec<_> = outlook.strata.iter().map(|s| (&*s.series, s.units, s.images, s.bytes_an_image)).collect();
        assert_eq!(sizes, [("large", 10, 500, Some(4_000_000.0)), ("small", 10, 500, Some(2_000_000.0))]);
    }

    #[test]
    fn nothing_is_said_of_what_nobody_knows() {
        let project = project(0);
        project.note_free(0, Reading::Bytes { bytes: 5 });
        let outlook = project.outlook(&project.report(at("2026-03-28T09:00:00Z")));
        assert_eq!(
            (outlook.units, outlook.storages[0].units_left, outlook.storages[0].bytes_to_come),
            (40, None, None)
        );
        assert_eq!(outlook.storages[1].free, Reading::NotYet);
        // A full disk holds nothing, today.
        let full = self::project(20);
        full.note_free(0, Reading::Bytes { bytes: 0 });
        let outlook = full.outlook(&full.report(at("2026-03-28T09:00:00Z")));
        assert_eq!((outlook.storages[0].units_left, outlook.storages[0].images_left), (Some(0), Some(0)));
        assert_eq!(outlook.storages[0].full_p50, Some("2026-03-27".parse().expect("day")));
    }

    #[test]
    fn a_mount_is_a_query_and_its_names_are_quoted() {
        let free = Free::Mount { instance: "a\"b".to_owned(), mountpoint: "C:\\data".to_owned() };
        assert_eq!(free.expr(), r#"node_filesystem_avail_bytes{instance="a\"b",mountpoint="C:\\data"}"#);
        assert!(Query::parse(&free.expr()).is_ok());
    }
}
