//! Tables behind the views of the project: cumulative flow, shelves, stations, fixity.
//!
//! What it deliberately does not do: words and pictures; `web` does.

use std::collections::BTreeMap;

use serde::Serialize;
use veghe_model::Timestamp;

use super::calendar::Day;
use super::downtime::{self, Stops};
use super::event::{StationState, Target};
use super::settings::Settings;
use super::standing::Standing;
use super::state::{State, Station};

/// Weeks of the flow at most: ten years.
const MAX_WEEKS: i32 = 520;
/// Shelves at most; the rest is one.
const MAX_SHELVES: usize = 400;
/// Calendar days that stops are told of.
const RECENT_DAYS: i32 = 28;
/// Damaged objects that are listed.
const MAX_DAMAGED: usize = 500;
/// Packages with problems that are listed.
const MAX_PACKAGES: usize = 200;

/// How many units had come how far by the end of a week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// The last day of the week, or today.
    pub day: Day,
    /// Units that work began on.
    pub started: u64,
    /// Units scanned at least once.
    pub scanned: u64,
    /// Units accepted.
    pub accepted: u64,
    /// Units accepted and returned.
    pub done: u64,
}

/// Cumulative flow, week by week.
pub fn flow(state: &State, today: Day) -> Vec<FlowRow> {
    let mut by_day = BTreeMap::<Day, [u64; 4]>::new();
    for unit in state.scope() {
        let s: &Standing = &unit.standing;
        for (place, day) in [s.started, s.first_scanned, s.accepted, s.done()].into_iter().enumerate() {
            if let Some(day) = day {
                by_day.entry(day).or_default()[place] += 1;
            }
        }
    }
    let Some(first) = by_day.keys().next().copied().filter(|first| *first <= today) else { return Vec::new() };
    let mut rows = Vec::new();
    let mut sum = [0; 4];
    let mut days = by_day.iter().peekable();
    let mut sunday = Day(first.monday().0 + 6).max(Day(today.monday().0 - 7 * MAX_WEEKS + 6));
    loop {
        let end = sunday.min(today);
        while let Some((_, more)) = days.next_if(|(day, _)| **day <= end) {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let [started, scanned, accepted, done] = sum;
        rows.push(FlowRow { day: end, started, scanned, accepted, done });
        if end >= today {
            return rows;
        }
        sunday = Day(sunday.0 + 7);
    }
}

/// A rack of the archive, by the first two parts of places such as `D1/R04/P2`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shelf {
    /// Its name.
    pub name: String,
    /// Units that belong there.
    pub units: u64,
    /// Their shelf length, in millimetres.
    pub mm: u64,
    /// Of that, accepted and returned.
    pub mm_done: u64,
    /// Of that, away from the shelf: work began and the paper is not back.
    pub mm_out: u64,
}

/// The rack of a place: `D1/R04` of `D1/R04/P2`.
pub fn rack(place: &str) -> String {
    place.trim().split('/').take(2).collect::<Vec<_>>().join("/")
}

/// The shelf map.
pub fn shelves(state: &State) -> Vec<Shelf> {
    let mut shelves = BTreeMap::<String, Shelf>::new();
    for unit in state.scope() {
        let name = rack(&unit.unit.location);
        let name = if shelves.len() < MAX_SHELVES || shelves.contains_key(&name) { name } else { "…".to_owned() };
        let shelf = shelves.entry(name).or_default();
        let mm = u64::from(unit.unit.width_mm);
        shelf.units += 1;
        shelf.mm += mm;
        if unit.standing.done().is_some() {
            shelf.mm_done += mm;
        } else if unit.standing.started.is_some() && unit.standing.returned.is_none() {
            shelf.mm_out += mm;
        }
    }
    shelves.into_iter().map(|(name, shelf)| Shelf { name, ..shelf }).collect()
}

/// A target analysis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TargetRow {
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Whether it was within tolerance.
    pub passed: bool,
    /// The mean colour error.
    pub delta_e_mean: Option<f64>,
}

/// A station in detail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StationDetail {
    /// Its name.
    pub name: String,
    /// Whether it is expected in every shift.
    pub is_expected: bool,
    /// What it said to be doing last, and since when in milliseconds since the epoch.
    pub state: Option<(StationState, i64)>,
    /// Stops in shifts of the last four weeks.
    pub stops: Stops,
    /// The first day of those.
    pub stops_from: Day,
    /// The last.
    pub stops_to: Day,
    /// Images that those stops cost at the station's own pace, where it has one.
    pub images_lost: Option<i64>,
    /// Images of an hour of shift without stops, of the last four weeks.
    pub images_an_hour: Option<f64>,
    /// Target analyses, oldest first.
    pub targets: Vec<TargetRow>,
}

/// Every station in detail.
pub fn stations(state: &State, today: Day, settings: &Settings) -> Vec<StationDetail> {
    let from = Day(today.0 - RECENT_DAYS);
    let yesterday = Day(today.0 - 1);
    let mut made = vec![0_i64; state.stations.len()];
    for ((_, station, _), production) in state.production.range((from, 0, 0)..(today, 0, 0)) {
        made[usize::from(*station)] += production.made();
    }
    let shift_minutes: u32 =
        (0..1440).filter(|minute| settings.shifts.iter().any(|shift| shift.contains(*minute))).count() as u32;
    let minutes = settings.calendar.count(from, yesterday) * shift_minutes;
    let detail = |(station, made): (&Station, &i64)| {
        let stops = downtime::of(station, from, yesterday, settings);
        let worked = minutes.saturating_sub(stops.minutes());
        let a_minute = (worked > 0 && *made > 0).then(|| *made as f64 / f64::from(worked));
        StationDetail {
            name: station.name.clone(),
            is_expected: settings.stations.contains(&station.name),
            state: station.states.last_key_value().map(|((at_ms, _), state)| (*state, *at_ms)),
            stops,
            stops_from: from,
            stops_to: yesterday,
            images_lost: a_minute.map(|pace| (pace * f64::from(stops.minutes())).round() as i64),
            images_an_hour: a_minute.map(|pace| pace * 60.0),
            targets: station
                .targets
                .iter()
                .map(|((at_ms, _), (passed, delta_e_mean))| TargetRow {
                    at_ms: *at_ms,
                    passed: *passed,
                    delta_e_mean: *delta_e_mean,
                })
                .collect(),
        }
    };
    let mut stations: Vec<StationDetail> = state.stations.iter().zip(&made).map(detail).collect();
    stations.sort_by(|a, b| a.name.cmp(&b.name));
    stations
}

/// A storage and its fixity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StorageRow {
    /// Its name.
    pub storage: String,
    /// Objects that are known on it.
    pub objects: Option<u64>,
    /// The pass that goes on or was last.
    pub pass: Option<u64>,
    /// Whether it looked at everything.
    pub is_finished: bool,
    /// The share of the objects that it looked at.
    pub share: Option<f64>,
    /// Objects of it as they were.
    pub good: u64,
    /// Objects that are damaged, gone or unreadable now.
    pub damaged: u64,
    /// Objects that differ from their copy on another storage.
    pub copies_differ: u64,
    /// Seconds since the object that waits longest was verified.
    pub oldest_age_s: Option<i64>,
    /// When it was told of last, in milliseconds since the epoch.
    pub last_ms: i64,
}

/// An object that is not as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DamagedRow {
    /// On which storage.
    pub storage: String,
    /// Its path there.
    pub object: String,
    /// What is wrong.
    pub outcome: super::event::FixityOutcome,
    /// Since when, in milliseconds since the epoch.
    pub first_ms: i64,
    /// A storage that has it as it was.
    pub good_copy: Option<String>,
}

/// A package whose check failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackageRow {
    /// Of which unit or batch.
    pub of: String,
    /// Which of both: `unit` or `batch`.
    pub of_what: &'static str,
    /// When it was checked, in milliseconds since the epoch.
    pub at_ms: i64,
    /// What is wrong, and how often.
    pub problems: BTreeMap<String, u64>,
}

/// What is known of the files.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fixity {
    /// Storages by name.
    pub storages: Vec<StorageRow>,
    /// Objects that are not as they were, at most 500.
    pub damaged: Vec<DamagedRow>,
    /// How many there are.
    pub damaged_count: u64,
    /// Packages that were checked.
    pub packages: u64,
    /// Those that failed, at most 200.
    pub failed_packages: Vec<PackageRow>,
    /// Files with the content of another, which were not counted.
    pub duplicates: u64,
}

/// Fixity as it is known.
pub fn fixity(state: &State, now: Timestamp) -> Fixity {
    let storages = state.fixity.iter().map(|(storage, known)| {
        let pass = known.pass.as_ref();
        let looked = pass.map(|pass| pass.good + pass.mismatch + pass.missing + pass.failed);
        let damaged = state.damaged.keys().filter(|(other, _)| other == storage).count() as u64;
        StorageRow {
            storage: storage.clone(),
            objects: pass.map(|pass| pass.objects),
            pass: pass.map(|pass| pass.pass),
            is_finished: pass.is_some_and(|pass| pass.is_finished),
            share: pass
                .zip(looked)
                .filter(|(pass, _)| pass.objects > 0)
                .map(|(pass, looked)| (looked as f64 / pass.objects as f64).min(1.0)),
            good: pass.map_or(known.good, |pass| pass.good),
            damaged,
            copies_differ: pass.map_or(0, |pass| pass.copies_differ),
            oldest_age_s: pass.and_then(|pass| pass.oldest_verified).map(|oldest| (now.0 - oldest.0).max(0) / 1000),
            last_ms: known.last.0,
        }
    });
    let damaged = state.damaged.iter().take(MAX_DAMAGED).map(|((storage, object), damage)| DamagedRow {
        storage: storage.clone(),
        object: object.clone(),
        outcome: damage.outcome,
        first_ms: damage.first.0,
        good_copy: damage.good_copy.clone(),
    });
    let failed = state.packages.iter().filter(|(_, package)| !package.validated.is_valid);
    Fixity {
        storages: storages.collect(),
        damaged: damaged.collect(),
        damaged_count: state.damaged.len() as u64,
        packages: state.packages.len() as u64,
        failed_packages: failed
            .take(MAX_PACKAGES)
            .map(|(of, package)| PackageRow {
                of: of.clone(),
                of_what: match package.validated.of {
                    Target::Unit(_) => "unit",
                    Target::Batch(_) => "batch",
                },
                at_ms: package.at.0,
                problems: package.validated.problems.clone(),
            })
            .collect(),
        duplicates: state.duplicates,
    }
}
