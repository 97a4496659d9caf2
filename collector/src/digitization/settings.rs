//! What the project's people decide: its name, calendar, shifts, plan and first assumptions.
//!
//! Invariant: assumptions about pace and pages a metre are the project's own or absent; none is built in.

use jiff::tz::TimeZone;

use super::calendar::{Calendar, Day};
use super::pack::Schedule;
use super::privacy;
use super::quality::Rule;
use super::runway::Storage;
use super::workflow::Workflow;

/// The name of the time outside of every shift.
pub const OUTSIDE: &str = "outside";

/// A part of the day in which stations are staffed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Short, for example `day`; a label of metrics.
    pub name: String,
    /// Minute of the local day at which it begins.
    pub from: u16,
    /// Minute at which it ends; at or before `from` it ends on the next day.
    pub to: u16,
}

impl Shift {
    /// Whether the minute of a day is in it.
    pub fn contains(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first day of work.
    pub from: Day,
    /// The day on which the last unit is back on its shelf.
    pub finish: Day,
}

/// Three guesses of pages a working day, for as long as there are too few days of history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PacePrior {
    /// On a bad day.
    pub low: f64,
    /// Most likely.
    pub likely: f64,
    /// On a good day.
    pub high: f64,
}

/// Everything that can be set about the project.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, shown and part of the forecast's seed.
    pub project: String,
    /// Decides where days and shifts begin.
    pub time_zone: TimeZone,
    /// On which days people work.
    pub calendar: Calendar,
    /// In which hours; at most [`MAX_SHIFTS`].
    pub shifts: Vec<Shift>,
    /// Stations that are expected to work in every shift of every working day.
    pub stations: Vec<String>,
    /// What was promised, if anything was.
    pub plan: Option<Plan>,
    /// The announced pages of a shelf metre, for as long as too few units are finished.
    pub pages_per_metre: Option<f64>,
    /// The expected pace, for as long as there is too little history.
    pub pace: Option<PacePrior>,
    /// Which reports are made by themselves, if any are.
    pub reports: Option<Schedule>,
    /// What images must be.
    pub quality: Vec<Rule>,
    /// What becomes of persons.
    pub privacy: privacy::Settings,
    /// Where masters are stored.
    pub storages: Vec<Storage>,
    /// Workflow systems that tell what happens.
    pub workflows: Vec<Workflow>,
}

/// Shifts of a day at most.
pub const MAX_SHIFTS: usize = 8;

impl Default for Settings {
    fn default() -> Self {
        Self {
            project: "Arhiva".to_owned(),
            time_zone: TimeZone::get("Europe/Bucharest").unwrap_or(TimeZone::UTC),
            calendar: Calendar::default(),
            shifts: vec![Shift { name: "day".to_owned(), from: 8 * 60, to: 16 * 60 }],
            stations: Vec::new(),
            plan: None,
            pages_per_metre: None,
            pace: None,
            reports: None,
            quality: Vec::new(),
            privacy: privacy::Settings::default(),
            storages: Vec::new(),
            workflows: Vec::new(),
        }
    }
}

impl Settings {
    /// The shift of a minute of the local day, by its place in `shifts`; their number where it is in none.
    pub fn shift_of(&self, minute: u16) -> u8 {
        self.shifts.iter().position(|shift| shift.contains(minute)).unwrap_or(self.shifts.len()) as u8
    }

    /// The name of a shift by its place.
    pub fn shift_name(&self, place: u8) -> &str {
        self.shifts.get(usize::from(place)).map_or(OUTSIDE, |shift| &shift.name)
    }
}
