//! What was known of the project at the end of a day: what the forecast stands on, for today and for every day before.
//!
//! Invariant: what is known by a day does not depend on what happened later, apart from corrections.

use std::collections::BTreeMap;

use super::calendar::Day;
use super::downtime;
use super::settings::Settings;
use super::state::State;
use super::strata::{Density, Learning, is_finished};

/// Working days that the pace is learned from.
const HISTORY_DAYS: usize = 60;
/// The share of the usual day at which the ramp-up is over.
const RAMP_UP: f64 = 0.5;
/// Days whose wait must be over before waits to come are drawn from them.
const LEAST_WAITS: usize = 5;

struct UnitFacts {
    mm: f64,
    stratum: usize,
    expected: Option<f64>,
    images: f64,
    is_finished: bool,
    first_scanned: Option<Day>,
    done: Option<Day>,
}

#[derive(Clone, Copy, Default)]
struct Made {
    all: f64,
    net: f64,
    rescanned: f64,
    lost: f64,
}

/// What happened when, as far as the forecast needs it.
pub struct Facts {
    units: Vec<UnitFacts>,
    strata: usize,
    days: BTreeMap<Day, Made>,
}

/// What was known at the end of a day.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The day.
    pub as_of: Day,
    /// Images made on each of the last working days, oldest first, days without any included.
    pub history: Vec<f64>,
    /// Images that stops of stations cost on each of those days.
    pub lost: Vec<f64>,
    /// Pages that remain to be scanned for the first time.
    pub remaining: f64,
    /// The standard deviation of `remaining`.
    pub remaining_error: f64,
    /// Units that remain to be scanned.
    pub remaining_units: usize,
    /// Pages scanned for the first time.
    pub scanned: f64,
    /// Images made again for each new one.
    pub rework: f64,
    /// For each working day of late, how long it took until everything that was scanned by its end was back.
    pub waits: Vec<Wait>,
    /// Units that are scanned and not back.
    pub under_way: usize,
    /// Working days since the last unit was scanned.
    pub since_last_scan: u32,
    /// Whether pages a metre are assumed, not learned.
    pub is_scope_assumed: bool,
}

/// How long a day's end waited for everything that was scanned by then: what a project waits for at the very end.
/// Rejections, holidays and strikes that delay many units at once are in it once, as they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait {
    /// Working days, up to now while it goes on.
    pub days: u32,
    /// Whether it goes on.
    pub goes_on: bool,
}

/// What a forecast is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Every unit is back on its shelf.
    AllReturned,
    /// The units that were scanned by a day are scanned.
    ScannedBy(Day),
}

impl Facts {
    /// The facts of a state.
    pub fn of(state: &State, settings: &Settings) -> Self {
        let mut numbers = BTreeMap::new();
        let units = state.scope().map(|unit| {
            let next = numbers.len();
            UnitFacts {
                mm: unit.unit.width_mm.into(),
                stratum: *numbers.entry(unit.unit.stratum()).or_insert(next),
                expected: unit.unit.pages.map(f64::from),
                images: unit.images as f64,
                is_finished: is_finished(unit),
                first_scanned: unit.standing.first_scanned,
                done: unit.standing.done(),
            }
        });
        let units = units.collect();
        let mut days = BTreeMap::<Day, Made>::new();
        for ((day, _, _), production) in &state.production {
            let made = days.entry(*day).or_default();
            made.all += production.made() as f64;
            made.net += production.net() as f64;
            made.rescanned += production.rescanned as f64;
        }
        for (day, lost) in downtime::images_lost(state, settings) {
            if let Some(made) = days.get_mut(&day) {
                made.lost += lost;
            }
        }
        Self { units, strata: numbers.len(), days }
    }

    /// The first day on which an image was made.
    pub fn first_day(&self) -> Option<Day> {
        self.days.keys().next().copied()
    }

    /// The day on which the last unit came back; nothing while one is out or there is none.
    pub fn finished(&self) -> Option<Day> {
        let done: Option<Vec<Day>> = self.units.iter().map(|unit| unit.done).collect();
        done?.into_iter().max()
    }

    /// What was known at the end of `as_of`; nothing where the inventory is empty or nobody knows how many pages it has.
    pub fn known(&self, as_of: Day, goal: Goal, settings: &Settings) -> Option<Known> {
        let in_goal = |unit: &UnitFacts| match goal {
            Goal::AllReturned => true,
            Goal::ScannedBy(day) => unit.first_scanned.is_some_and(|scanned| scanned <= day),
        };
        let is_scanned = |unit: &UnitFacts| unit.first_scanned.is_some_and(|day| day <= as_of);
        let (strata, pooled) = self.densities(as_of);
        let mut known = Known {
            as_of,
            history: Vec::new(),
            lost: Vec::new(),
            remaining: 0.0,
            remaining_error: 0.0,
            remaining_units: 0,
            scanned: 0.0,
            rework: 0.0,
            waits: Vec::new(),
            under_way: 0,
            since_last_scan: 0,
            is_scope_assumed: false,
        };
        (known.history, known.lost) = self.history(as_of, settings).into_iter().unzip();
        // Millimetres of units to come, by stratum; the last is for those that nothing was learned of.
        let mut to_come = vec![0.0; self.strata + 1];
        let mut assumed = 0.0;
        let working = Workdays::new(self.first_day().unwrap_or(as_of), as_of, settings);
        let mut ways = Vec::new();
        for unit in self.units.iter().filter(|unit| in_goal(unit)) {
            match unit.first_scanned.filter(|_| is_scanned(unit)) {
                None => {
                    known.remaining_units += 1;
                    if strata[unit.stratum].is_some() {
                        to_come[unit.stratum] += unit.mm;
                    } else if pooled.is_some() {
                        to_come[self.strata] += unit.mm;
                    } else {
                        known.is_scope_assumed = true;
                        assumed += match (unit.expected, settings.pages_per_metre) {
                            (Some(pages), _) => pages,
                            (None, Some(pages)) => pages * unit.mm / 1000.0,
                            (None, None) => return None,
                        };
                    }
                }
                Some(scanned) => {
                    known.scanned += unit.images;
                    let done = unit.done.filter(|done| *done <= as_of);
                    known.under_way += usize::from(done.is_none());
                    ways.push((scanned, done));
                }
            }
        }
        if self.units.is_empty() {
            return None;
        }
        ways.sort_unstable();
        known.since_last_scan = ways.last().map_or(0, |(scanned, _)| working.between(*scanned, as_of));
        known.waits = working.waits(&ways, as_of);
        let mut variance = 0.0;
        for (mm, density) in to_come.iter().zip(strata.iter().chain([&pooled])) {
            if let Some(density) = density {
                known.remaining += mm * density.mean;
                // Of the mean that was learned, and of the units about their mean.
                variance += (mm * density.error).powi(2) + density.scatter.powi(2) * mm;
            }
        }
        known.remaining_error = variance.sqrt();
        let total = self.days.range(..=as_of).fold(Made::default(), |sum, (_, day)| Made {
            all: sum.all + day.all,
            net: sum.net + day.net,
            rescanned: sum.rescanned + day.rescanned,
            ..Made::default()
        });
        // Images of units whose scan is not over count towards those to come.
        let under_scan = match goal {
            Goal::AllReturned => (total.net - known.scanned).max(0.0),
            Goal::ScannedBy(_) => 0.0,
        };
        known.remaining = (known.remaining + assumed - under_scan).max(0.0);
        known.scanned += under_scan;
        if known.remaining_units == 0 {
            (known.remaining, known.remaining_error) = (0.0, 0.0);
        }
        known.rework = if total.net > 0.0 { total.rescanned / total.net } else { 0.0 };
        Some(known)
    }

    /// What was learned of each stratum, and of all together with the spread between strata.
    fn densities(&self, as_of: Day) -> (Vec<Option<Density>>, Option<Density>) {
        let mut strata = vec![Learning::default(); self.strata];
        let mut all = Learning::default();
        for unit in self.units.iter().filter(|u| u.is_finished && u.first_scanned.is_some_and(|day| day <= as_of)) {
            strata[unit.stratum].add(unit.mm, unit.images);
            all.add(unit.mm, unit.images);
        }
        let strata: Vec<Option<Density>> = strata.iter().map(Learning::density).collect();
        let means: Vec<f64> = strata.iter().flatten().map(|density| density.mean).collect();
        let pooled = all.density().map(|density| {
            let count = means.len() as f64;
            let mean = means.iter().sum::<f64>() / count;
            let spread = (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
            // A stratum that nothing is known of differs from all as the known ones differ from one another.
            if count >= 2.0 { Density { error: density.error.hypot(spread), ..density } } else { density }
        });
        (strata, pooled)
    }

    /// Images made on the working days up to `as_of`, and those that stops cost; those of other days count to the working day
    /// after them.
    fn history(&self, as_of: Day, settings: &Settings) -> Vec<(f64, f64)> {
        let Some(first) = self.first_day() else { return Vec::new() };
        let mut history = Vec::new();
        let mut held_over = (0.0, 0.0);
        for day in (first.0..=as_of.0).map(Day) {
            if let Some(made) = self.days.get(&day) {
                held_over = (held_over.0 + made.all.max(0.0), held_over.1 + made.lost);
            }
            if settings.calendar.is_working(day) {
                history.push(std::mem::take(&mut held_over));
            }
        }
        let mut sorted: Vec<f64> = history.iter().map(|(made, _)| *made).filter(|made| *made > 0.0).collect();
        sorted.sort_by(f64::total_cmp);
        let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let ramp = history.iter().position(|(made, _)| *made >= RAMP_UP * usual).unwrap_or(0);
        let from = ramp.max(history.len().saturating_sub(HISTORY_DAYS));
        history.split_off(from.min(history.len()))
    }
}

/// Counts working days quickly.
struct Workdays {
    first: Day,
    /// Working days before the day of each place.
    before: Vec<u32>,
}

impl Workdays {
    fn new(first: Day, last: Day, settings: &Settings) -> Self {
        let mut count = 0;
        let mut before = vec![0];
        for day in (first.0..=last.0).map(Day) {
            count += u32::from(settings.calendar.is_working(day));
            before.push(count);
        }
        Self { first, before }
    }

    /// The waits of the working days up to `as_of`, by the days of scan and return of units in order of their scan.
    fn waits(&self, ways: &[(Day, Option<Day>)], as_of: Day) -> Vec<Wait> {
        let mut waits = Vec::new();
        let (mut units, mut last_done, mut is_open) = (ways.iter().peekable(), None, false);
        for (place, pair) in self.before.windows(2).enumerate() {
            let day = Day(self.first.0 + place as i32);
            while let Some((scanned, done)) = units.next_if(|(scanned, _)| *scanned <= day) {
                match done {
                    Some(done) => last_done = last_done.max(Some(*done)),
                    // What is stuck for months says nothing about the flow.
                    None => is_open |= self.between(*scanned, as_of) <= HISTORY_DAYS as u32,
                }
            }
            if pair[0] == pair[1] || (last_done.is_none() && !is_open) {
                continue;
            }
            let until = if is_open { as_of } else { last_done.unwrap_or(day) };
            waits.push(Wait { days: self.between(day, until), goes_on: is_open });
        }
        let waits = waits.split_off(waits.len().saturating_sub(HISTORY_DAYS));
        if waits.iter().filter(|wait| !wait.goes_on).count() < LEAST_WAITS { Vec::new() } else { waits }
    }

    /// Working days after `from` up to `to`.
    fn between(&self, from: Day, to: Day) -> u32 {
        let at = |day: Day| self.before[((day.0 - self.first.0 + 1).max(0) as usize).min(self.before.len() - 1)];
        at(to).saturating_sub(at(from))
    }
}
