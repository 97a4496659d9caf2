//! The project as the ledger's events leave it: units, production by day, shift and station, quarantine.
//!
//! Invariants: the state is a function of the ledger alone, in the order of its sequence numbers; an event that is
//! booked on a day stays there; a frozen day never changes. What it deliberately does not do: I/O, and deciding what
//! may enter the ledger.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::calendar::Day;
use super::event::{Data, FixityOutcome, Images, Invoice, StationState, Target};
use super::holdings::{Damage, FixityPass, MAX_DAMAGED, MAX_PACKAGES, Validation};
use super::lots::{Lot, Verdict};
use super::quality::{self, Fault};
use super::settings::Settings;
use super::standing::{Mark, Standing, What};
use super::unit::Unit;

/// An event as the ledger has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its place in the ledger.
    pub seq: u64,
    /// When it happened.
    pub time: Timestamp,
    /// When it was received.
    pub received: Timestamp,
    /// What happened.
    pub data: Data,
}

/// A unit of the project.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnitState {
    /// What the inventory says.
    pub unit: Unit,
    /// Whether a later inventory left it out: it counts no more.
    pub is_withdrawn: bool,
    /// What happened to it, images apart, by time.
    pub marks: Vec<Mark>,
    /// Where that leaves it.
    #[serde(skip)]
    pub standing: Standing,
    /// Images that there are of it.
    pub images: i64,
    /// By how many they grew on which day, ascending by day.
    pub image_days: Vec<(Day, i64)>,
    /// Images that were made again.
    pub rescanned: i64,
    /// Pages whose text was recognized.
    pub ocr_pages: u32,
    /// Images that were made with something wrong about them, by what.
    pub faults: BTreeMap<Fault, i64>,
    /// Images of files whose size was told.
    pub sized_images: i64,
    /// The size of those files.
    pub sized_bytes: i64,
    /// The event of the ledger that made it known.
    pub since_seq: u64,
}

/// Images of a station in a shift of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Production {
    /// New images.
    pub captured: i64,
    /// Images made again.
    pub rescanned: i64,
    /// By how many images rewritten files grew or shrank.
    pub resized: i64,
    /// Images that were deleted.
    pub deleted: i64,
}

impl Production {
    /// Images more than before.
    pub fn net(self) -> i64 {
        self.captured + self.resized - self.deleted
    }

    /// Images that were made, useful or not.
    pub fn made(self) -> i64 {
        self.captured + self.rescanned
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self, sign: i64) {
        self.captured += sign * other.captured;
        self.rescanned += sign * other.rescanned;
        self.resized += sign * other.resized;
        self.deleted += sign * other.deleted;
    }
}

/// A day, a station by its number and a shift by its place.
pub type Slot = (Day, u16, u8);

/// A station.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Station {
    /// Its name.
    pub name: String,
    /// When it made its last image.
    pub last_image: Option<Timestamp>,
    /// What it said to be doing, by time and place in the ledger.
    pub states: BTreeMap<(i64, u64), StationState>,
    /// The latest target analyses by time and place in the ledger: whether it passed, its colour error.
    pub targets: BTreeMap<(i64, u64), (bool, Option<f64>)>,
}

/// Events that wait for their unit to become known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// How many.
    pub events: u64,
    /// Images among them.
    pub images: i64,
    /// When the first happened.
    pub first: Timestamp,
    /// When the last happened.
    pub last: Timestamp,
}

/// Fixity checks of one storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FixityState {
    /// Objects as they were.
    pub good: u64,
    /// Objects with other bytes.
    pub mismatch: u64,
    /// Objects that are gone.
    pub missing: u64,
    /// Objects that could not be read.
    pub failed: u64,
    /// Bytes read.
    pub bytes: u64,
    /// When the last check was.
    pub last: Timestamp,
    /// How far the latest pass over all objects is.
    pub pass: Option<FixityPass>,
}

/// What came for a day that was frozen, booked on another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Events.
    pub events: u64,
    /// Images of them.
    pub made: Production,
}

/// The project.
#[derive(Default, Serialize, Deserialize)]
pub struct State {
    /// The last event in it.
    pub last_seq: u64,
    /// Events in it.
    pub events: u64,
    /// The inventory's version and when it was adopted.
    pub baseline: Option<(u32, Timestamp)>,
    /// Every unit ever known, by its number.
    pub units: Vec<UnitState>,
    #[serde(skip)]
    index: HashMap<String, u32>,
    /// What was made.
    pub production: BTreeMap<Slot, Production>,
    /// Stations, by number.
    pub stations: Vec<Station>,
    #[serde(skip)]
    station_index: HashMap<String, u16>,
    /// Reasons of rework, by number; 0 is none.
    pub reasons: Vec<String>,
    /// What waits for its unit, by the unit's code.
    pub quarantine: BTreeMap<String, Quarantined>,
    /// The last day that stays as it is.
    pub frozen_through: Option<Day>,
    /// Events that came too late for their day.
    pub late: u64,
    /// The same by the day that they are booked on, their own day and the end of their type.
    pub late_by_day: BTreeMap<(Day, Day, String), Late>,
    /// The latest draw of each batch.
    pub lots: BTreeMap<String, Lot>,
    /// What was billed, by the place in the ledger.
    pub invoices: BTreeMap<u64, (Day, Invoice)>,
    /// Files that were not whole.
    pub incomplete: u64,
    /// Batches that were closed.
    pub closed_batches: BTreeMap<String, Day>,
    /// Fixity by storage.
    pub fixity: BTreeMap<String, FixityState>,
    /// Objects that are not as they were, by storage and path.
    pub damaged: BTreeMap<(String, String), Damage>,
    /// The latest check of each package, by its unit or batch.
    pub packages: BTreeMap<String, Validation>,
    /// Files with the content of another.
    pub duplicates: u64,
    /// Bytes of packages handed over.
    pub delivered_bytes: u64,
    voided: HashSet<u64>,
}

/// Target analyses of a station that are kept.
const MAX_TARGETS: usize = 200;
/// Stations at most: their names are labels of metrics.
pub const MAX_STATIONS: usize = 1000;
/// Reasons of rework at most.
pub const MAX_REASONS: usize = 200;
/// Unknown units at most.
pub const MAX_QUARANTINED_UNITS: usize = 100_000;
/// Storages with fixity checks at most.
pub const MAX_STORAGES: usize = 100;

impl State {
    /// Works out what a checkpoint leaves out since it follows from the rest.
    pub(super) fn complete(&mut self) {
        let codes = (0..).zip(&self.units).map(|(number, unit)| (unit.unit.code.clone(), number));
        self.index = codes.collect();
        let names = (0..).zip(&self.stations).map(|(number, station)| (station.name.clone(), number));
        self.station_index = names.collect();
        for unit in &mut self.units {
            unit.standing = Standing::after(&unit.marks);
        }
    }

    /// Whether an event was taken back.
    pub fn has_voided(&self) -> bool {
        !self.voided.is_empty()
    }

    /// The unit of that code.
    pub fn unit(&self, code: &str) -> Option<&UnitState> {
        self.index.get(code).map(|number| &self.units[*number as usize])
    }

    /// Units of the inventory in force.
    pub fn scope(&self) -> impl Iterator<Item = &UnitState> {
        self.units.iter().filter(|unit| !unit.is_withdrawn)
    }

    /// Why `data` must not enter the ledger; `None` where it may.
    pub fn objection(&self, data: &Data) -> Option<(&'static str, String)> {
        let full = |what: &str, most: usize| format!("is one {what} too many; there are {most} already");
        if let Some(station) = data.station()
            && self.stations.len() >= MAX_STATIONS
            && !self.station_index.contains_key(station)
        {
            return Some(("data.station", full("station", MAX_STATIONS)));
        }
        let reason = match data {
            Data::Stage { reason: Some(reason), .. } | Data::Qc { reason: Some(reason), .. } => Some(reason),
            _ => None,
        };
        if let Some(reason) = reason
            && self.reasons.len() >= MAX_REASONS
            && !self.reasons.contains(reason)
        {
            return Some(("data.reason", full("reason", MAX_REASONS)));
        }
        let storage = match data {
            Data::Fixity { storage, .. } => Some(storage),
            Data::FixityPass(pass) => Some(&pass.storage),
            _ => None,
        };
        if let Some(storage) = storage
            && self.fixity.len() >= MAX_STORAGES
            && !self.fixity.contains_key(storage)
        {
            return Some(("data.storage", full("storage", MAX_STORAGES)));
        }
        let unknown = data.unit().filter(|unit| !matches!(data, Data::Declared(_)) && !self.index.contains_key(*unit));
        if let Some(unit) = unknown
            && self.quarantine.len() >= MAX_QUARANTINED_UNITS
            && !self.quarantine.contains_key(unit)
        {
            return Some(("data.unit", full("unknown unit", MAX_QUARANTINED_UNITS)));
        }
        None
    }

    /// Whether an event about `data` waits for its unit.
    pub fn would_wait(&self, data: &Data) -> bool {
        !matches!(data, Data::Declared(_)) && data.unit().is_some_and(|unit| !self.index.contains_key(unit))
    }

    /// Takes the next event of the ledger; `original` is the one that a correction takes back.
    pub fn take(&mut self, event: &Stored, original: Option<&Stored>, settings: &Settings) {
        self.last_seq = event.seq;
        self.events += 1;
        if let Some(unit) = event.data.unit().filter(|_| self.would_wait(&event.data)) {
            let images = images_of(&event.data).map_or(0, Production::net);
            let fresh = Quarantined { first: event.time, last: event.time, ..Quarantined::default() };
            let waiting = self.quarantine.entry(unit.to_owned()).or_insert(fresh);
            waiting.events += 1;
            waiting.images += images;
            waiting.first = waiting.first.min(event.time);
            waiting.last = waiting.last.max(event.time);
            return;
        }
        if let (Data::Correction { .. }, Some(original)) = (&event.data, original) {
            self.take_back(event, original, settings);
            return;
        }
        self.book(event, settings);
    }

    /// Takes an event that waited for its unit.
    pub fn release(&mut self, event: &Stored, settings: &Settings) {
        if !self.voided.contains(&event.seq) {
            self.book(event, settings);
        }
    }

    /// Units that waited and are known now; their events are to be released in order.
    pub fn known_now(&mut self) -> HashSet<String> {
        if self.quarantine.is_empty() {
            return HashSet::new();
        }
        let known: HashSet<String> =
            self.quarantine.keys().filter(|code| self.index.contains_key(*code)).cloned().collect();
        self.quarantine.retain(|code, _| !known.contains(code));
        known
    }

    /// Puts the units of a new inventory in force.
    pub fn adopt(&mut self, version: u32, at: Timestamp, units: &[Unit]) {
        self.baseline = Some((version, at));
        for unit in &mut self.units {
            unit.is_withdrawn = true;
        }
        for unit in units {
            self.declare(unit);
        }
    }

    fn declare(&mut self, unit: &Unit) {
        let number = *self.index.entry(unit.code.clone()).or_insert_with(|| {
            self.units.push(UnitState { since_seq: self.last_seq, ..UnitState::default() });
            self.units.len() as u32 - 1
        });
        let state = &mut self.units[number as usize];
        state.unit = unit.clone();
        state.is_withdrawn = false;
    }

    /// The day that an event is booked on: its own, or where that is frozen the day of its arrival.
    fn booking_day(&self, time: Timestamp, received: Timestamp, settings: &Settings) -> (Day, bool) {
        let day = Day::at(time, &settings.time_zone);
        match self.frozen_through {
            Some(frozen) if day <= frozen => (Day(frozen.0 + 1).max(Day::at(received, &settings.time_zone)), true),
            _ => (day, false),
        }
    }

    fn note_late(&mut self, booked: Day, own: Day, kind: &str, made: Production, sign: i64) {
        self.late += 1;
        let late = self.late_by_day.entry((booked, own, kind.to_owned())).or_default();
        late.events += 1;
        late.made.add(made, sign);
    }

    fn station(&mut self, name: &str) -> u16 {
        if let Some(number) = self.station_index.get(name) {
            return *number;
        }
        let number = self.stations.len() as u16;
        self.stations.push(Station { name: name.to_owned(), ..Station::default() });
        self.station_index.insert(name.to_owned(), number);
        number
    }

    fn reason(&mut self, name: Option<&str>) -> u16 {
        if self.reasons.is_empty() {
            self.reasons.push(String::new());
        }
        let name = name.unwrap_or("");
        let place = self.reasons.iter().position(|reason| reason == name).unwrap_or_else(|| {
            self.reasons.push(name.to_owned());
            self.reasons.len() - 1
        });
        place as u16
    }

    fn book(&mut self, event: &Stored, settings: &Settings) {
        let (day, is_late) = self.booking_day(event.time, event.received, settings);
        if is_late {
            let made = images_of(&event.data).unwrap_or_default();
            self.note_late(day, Day::at(event.time, &settings.time_zone), event.data.kind(), made, 1);
        }
        let what = match &event.data {
            Data::Captured(images) | Data::Deleted(images) | Data::Replaced { images, .. } => {
                if images.is_complete {
                    self.count_images(&event.data, images, event.time, day, 1, settings);
                } else {
                    self.incomplete += 1;
                }
                return;
            }
            Data::Stage { stage, change, reason, .. } => {
                let reason = reason.as_deref().map(|reason| self.reason(Some(reason)));
                What::Stage(*stage, *change, reason)
            }
            Data::Qc { is_accepted, reason, .. } => What::Qc(*is_accepted, self.reason(reason.as_deref())),
            Data::Moved { to, due_ms, .. } => What::Moved(to.clone(), *due_ms),
            Data::Delivered { bytes, .. } => {
                self.delivered_bytes += bytes;
                What::Delivered
            }
            other => {
                self.book_rest(event, other, day);
                return;
            }
        };
        let mark = Mark { at_ms: event.time.0, seq: event.seq, day, what, until: None };
        match &event.data {
            Data::Qc { of: Target::Batch(batch), .. } | Data::Delivered { of: Target::Batch(batch), .. } => {
                if let Data::Qc { is_accepted, reason, checked, rejected, .. } = &event.data
                    && let Some(lot) = self.lots.get_mut(batch).filter(|lot| lot.verdict.is_none())
                    && *checked >= lot.draw.plan.sample
                {
                    let (at, reason) = (event.time, reason.clone());
                    lot.verdict = Some(Verdict { at, defects: *rejected, is_accepted: *is_accepted, reason });
                }
                for unit in self.units.iter_mut().filter(|unit| unit.unit.batch == *batch) {
                    unit.mark(mark.clone());
                }
            }
            data => {
                if let Some(number) = data.unit().and_then(|unit| self.index.get(unit)) {
                    self.units[*number as usize].mark(mark);
                }
            }
        }
    }

    fn book_rest(&mut self, event: &Stored, data: &Data, day: Day) {
        match data {
            Data::Declared(unit) => self.declare(unit),
            Data::BatchClosed { batch } => {
                self.closed_batches.insert(batch.clone(), day);
            }
            Data::OcrDone { unit, pages, .. } => {
                if let Some(number) = self.index.get(unit) {
                    self.units[*number as usize].ocr_pages = *pages;
                }
            }
            Data::TargetMeasured { station, is_passed, delta_e_mean } => {
                let number = self.station(station);
                let targets = &mut self.stations[usize::from(number)].targets;
                targets.insert((event.time.0, event.seq), (*is_passed, *delta_e_mean));
                if targets.len() > MAX_TARGETS {
                    targets.pop_first();
                }
            }
            Data::Station { station, state } => {
                let number = self.station(station);
                self.stations[usize::from(number)].states.insert((event.time.0, event.seq), *state);
            }
            Data::Fixity { storage, outcome, bytes, object, good_copy } => {
                if let Some(object) = object {
                    self.note_object(event.time, storage, object, *outcome, good_copy.as_ref());
                }
                let fixity = self.fixity.entry(storage.clone()).or_default();
                fixity.bytes += bytes;
                fixity.last = fixity.last.max(event.time);
                *match outcome {
                    FixityOutcome::Good => &mut fixity.good,
                    FixityOutcome::Mismatch => &mut fixity.mismatch,
                    FixityOutcome::Missing => &mut fixity.missing,
                    FixityOutcome::Failed => &mut fixity.failed,
                } += 1;
            }
            Data::LotDrawn(draw) => {
                let lot = Lot { at: event.time, seq: event.seq, draw: (**draw).clone(), verdict: None };
                self.lots.insert(draw.batch.clone(), lot);
            }
            Data::Invoiced(invoice) => {
                self.invoices.insert(event.seq, (day, invoice.clone()));
            }
            Data::FixityPass(pass) => {
                let fixity = self.fixity.entry(pass.storage.clone()).or_default();
                fixity.last = fixity.last.max(event.time);
                // Passes count upwards, and what a pass says of itself only grows.
                if fixity.pass.as_ref().is_none_or(|known| known.is_before(pass)) {
                    fixity.pass = Some((**pass).clone());
                }
            }
            Data::Validated(validated) => {
                let name = validated.of.name().to_owned();
                if self.packages.len() < MAX_PACKAGES || self.packages.contains_key(&name) {
                    let found = Validation { at: event.time, validated: (**validated).clone() };
                    let package = self.packages.entry(name).or_insert_with(|| found.clone());
                    if package.at <= found.at {
                        *package = found;
                    }
                }
            }
            Data::Duplicate(_) => self.duplicates += 1,
            Data::DaysFrozen { through } => {
                let through = Day(*through);
                self.frozen_through = Some(self.frozen_through.map_or(through, |frozen| frozen.max(through)));
            }
            // What is left was booked by others, or changes nothing.
            _ => {}
        }
    }

    /// What is known to be wrong with an object, or that nothing is any more.
    fn note_object(
        &mut self,
        at: Timestamp,
        storage: &str,
        object: &str,
        outcome: FixityOutcome,
        good_copy: Option<&String>,
    ) {
        let key = (storage.to_owned(), object.to_owned());
        if self.damaged.get(&key).is_some_and(|known| known.last > at) {
            return;
        }
        if outcome == FixityOutcome::Good {
            self.damaged.remove(&key);
        } else if self.damaged.len() < MAX_DAMAGED || self.damaged.contains_key(&key) {
            let known = self.damaged.entry(key).or_insert(Damage { outcome, first: at, last: at, good_copy: None });
            (known.outcome, known.last, known.good_copy) = (outcome, at, good_copy.cloned());
        }
    }

    fn count_images(
        &mut self,
        data: &Data,
        images: &Images,
        time: Timestamp,
        day: Day,
        sign: i64,
        settings: &Settings,
    ) {
        let Some(made) = images_of(data) else { return };
        let Some(number) = self.index.get(&images.unit) else { return };
        let unit = &mut self.units[*number as usize];
        unit.images += sign * made.net();
        unit.count_on(day, sign * made.net());
        unit.rescanned += sign * made.rescanned;
        if !matches!(data, Data::Deleted(_)) {
            for (fault, count) in quality::judge(&settings.quality, &unit.unit, &images.facts, images.frames) {
                *unit.faults.entry(fault).or_default() += sign * i64::from(count);
            }
            if images.bytes > 0 {
                unit.sized_images += sign * i64::from(images.frames);
                unit.sized_bytes += sign * images.bytes as i64;
            }
        }
        let station = self.station(&images.station);
        let at = &mut self.stations[usize::from(station)].last_image;
        if sign > 0 && !matches!(data, Data::Deleted(_)) {
            *at = Some(at.map_or(time, |last| last.max(time)));
        }
        let slot = (day, station, settings.shift_of(minute_of_day(time, settings)));
        self.production.entry(slot).or_default().add(made, sign);
    }

    /// Books the opposite of `original`, on its own day or where that is frozen on the day of the correction.
    fn take_back(&mut self, correction: &Stored, original: &Stored, settings: &Settings) {
        if !self.voided.insert(original.seq) || self.would_wait(&original.data) {
            return;
        }
        let (day, is_late) = self.booking_day(original.time, correction.received, settings);
        if is_late {
            let made = images_of(&original.data).unwrap_or_default();
            self.note_late(day, Day::at(original.time, &settings.time_zone), "correction", made, -1);
        }
        match &original.data {
            Data::Captured(images) | Data::Deleted(images) | Data::Replaced { images, .. } => {
                if images.is_complete {
                    self.count_images(&original.data, images, original.time, day, -1, settings);
                } else {
                    self.incomplete = self.incomplete.saturating_sub(1);
                }
            }
            Data::Station { station, .. } => {
                let number = self.station(station);
                self.stations[usize::from(number)].states.remove(&(original.time.0, original.seq));
            }
            Data::BatchClosed { batch } => {
                self.closed_batches.remove(batch);
            }
            Data::Invoiced(invoice) if is_late => {
                // What was billed in a frozen day stays there; the day of the correction takes it back.
                let back = Invoice { images: -invoice.images, ..invoice.clone() };
                self.invoices.insert(correction.seq, (day, back));
            }
            Data::Invoiced(_) => {
                self.invoices.remove(&original.seq);
            }
            Data::Delivered { bytes, .. } => {
                self.delivered_bytes = self.delivered_bytes.saturating_sub(*bytes);
                self.unmark(original.seq, is_late.then_some(day));
            }
            _ => self.unmark(original.seq, is_late.then_some(day)),
        }
    }

    /// Takes the mark of an event away, or where its day is frozen lets it count until the day of the correction.
    fn unmark(&mut self, seq: u64, until: Option<Day>) {
        for unit in &mut self.units {
            let Some(place) = unit.marks.iter().position(|mark| mark.seq == seq) else { continue };
            // One that was booked late itself may be booked on the very day.
            match until.filter(|day| unit.marks[place].day < *day) {
                Some(day) => unit.marks[place].until = Some(day),
                None => drop(unit.marks.remove(place)),
            }
            unit.standing = Standing::after(&unit.marks);
        }
    }
}

impl UnitState {
    fn mark(&mut self, mark: Mark) {
        let at = self.marks.partition_point(|other| (other.at_ms, other.seq) <= (mark.at_ms, mark.seq));
        self.marks.insert(at, mark);
        self.standing = Standing::after(&self.marks);
    }

    fn count_on(&mut self, day: Day, images: i64) {
        match self.image_days.binary_search_by_key(&day, |(day, _)| *day) {
            Ok(place) => self.image_days[place].1 += images,
            Err(place) => self.image_days.insert(place, (day, images)),
        }
    }

    /// Images that there were of it at the end of `day`.
    pub fn images_as_of(&self, day: Day) -> i64 {
        self.image_days.iter().take_while(|(other, _)| *other <= day).map(|(_, images)| images).sum()
    }

    /// Images that are expected of it: two sides of each leaf, or what somebody estimated.
    pub fn expected_images(&self) -> u32 {
        self.unit.pages.unwrap_or(2 * self.unit.leaves)
    }
}

/// What an event makes of images.
pub(super) fn images_of(data: &Data) -> Option<Production> {
    Some(match data {
        Data::Captured(images) => Production { captured: images.frames.into(), ..Production::default() },
        Data::Deleted(images) => Production { deleted: images.frames.into(), ..Production::default() },
        Data::Replaced { images, frames_before } => Production {
            rescanned: images.frames.into(),
            resized: i64::from(images.frames) - i64::from(*frames_before),
            ..Production::default()
        },
        _ => return None,
    })
}

pub(super) fn minute_of_day(time: Timestamp, settings: &Settings) -> u16 {
    let instant = jiff::Timestamp::from_millisecond(time.0).unwrap_or_default();
    let seconds = instant.as_second() + i64::from(settings.time_zone.to_offset(instant).seconds());
    (seconds.rem_euclid(86_400) / 60) as u16
}
