//! How far the project is: four measures side by side, stages, throughput, quality, and what waits for somebody.
//!
//! Invariant: every number is a count of the state's units and production; measures are never averaged into one.

use std::collections::BTreeMap;

use serde::Serialize;
use veghe_model::Timestamp;

use super::calendar::Day;
use super::earned::{Earned, earned};
use super::settings::Settings;
use super::stage::{Hold, Stage};
use super::standing::Doing;
use super::state::{Production, State, UnitState};
use super::strata::{Outlier, Stratum, learn, outliers, quantile};

/// Working days that throughput and the bottleneck are taken from.
const RECENT_DAYS: usize = 20;
/// Rows of lists that name units.
const MAX_LISTED: usize = 100;

/// Lengths and counts of a set of units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Measures {
    /// Shelf length in millimetres.
    pub mm: u64,
    /// Units.
    pub units: u64,
    /// Sheets, of two sides each.
    pub sheets: u64,
    /// Images.
    pub images: i64,
}

impl Measures {
    fn add(&mut self, unit: &UnitState) {
        self.mm += u64::from(unit.unit.width_mm);
        self.units += 1;
        self.sheets += u64::from(unit.unit.leaves);
        self.images += unit.images;
    }
}

/// A stage and what is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageRow {
    /// Which.
    pub stage: Stage,
    /// Units that wait for it.
    pub waiting: u64,
    /// Units that are worked on.
    pub working: u64,
    /// Units that can't go on.
    pub held: u64,
    /// Shelf length of all of them, in millimetres.
    pub mm: u64,
    /// Calendar days for which the oldest is there.
    pub oldest_days: Option<i32>,
    /// Units that left it on the last 20 working days.
    pub left_lately: u64,
    /// Working days that what is there takes at that rate.
    pub days_of_work: Option<f64>,
}

/// What was made in some hours.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// Whose, or when.
    pub name: String,
    /// New images.
    pub captured: i64,
    /// Images made again.
    pub rescanned: i64,
    /// Images more than before.
    pub net: i64,
}

/// A day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DayRow {
    /// Which.
    pub day: Day,
    /// Whether people were to work.
    pub is_working: bool,
    /// New images.
    pub captured: i64,
    /// Images made again.
    pub rescanned: i64,
    /// Images more than before.
    pub net: i64,
    /// Shelf length that was accepted and returned, in millimetres.
    pub mm_done: u64,
    /// The same up to the end of the day.
    pub mm_done_so_far: u64,
}

/// A reason of rework.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReworkRow {
    /// Which.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// How many are not accepted yet.
    pub open: u64,
    /// Working days from rejection to acceptance, together.
    pub lost_days: u64,
}

/// A unit that somebody should look after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attention {
    /// Which.
    pub unit: String,
    /// Its stage.
    pub stage: Option<Stage>,
    /// Where its paper is.
    pub place: Option<String>,
    /// Calendar days since when.
    pub days: i32,
}

/// A station.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StationRow {
    /// Its name.
    pub name: String,
    /// What it said to be doing last.
    pub state: Option<super::event::StationState>,
    /// When it made its last image, in milliseconds since the epoch.
    pub last_image_ms: Option<i64>,
    /// Images of today.
    pub images_today: i64,
    /// Images of a working day, of the last 20.
    pub images_a_day: f64,
    /// Images made again, of the last 20 working days.
    pub rescanned_lately: i64,
    /// Whether its last target was within tolerance.
    pub target_passed: Option<bool>,
}

/// How far the project is.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// For which day.
    pub today: Day,
    /// The first of the last 20 working days.
    pub recent_from: Day,
    /// The version of the inventory; 0 is none.
    pub baseline: u32,
    /// Everything.
    pub scope: Measures,
    /// Units that were scanned at least once.
    pub scanned: Measures,
    /// Units whose images were accepted.
    pub accepted: Measures,
    /// Units that were accepted and are back on their shelf: the headline.
    pub done: Measures,
    /// Images that there are.
    pub images: i64,
    /// Images that were made again.
    pub rescanned: i64,
    /// Stages in order.
    pub stages: Vec<StageRow>,
    /// Units held, by what holds them.
    pub holds: BTreeMap<Hold, u64>,
    /// The stage with most days of work before it.
    pub bottleneck: Option<Stage>,
    /// Every day since the first.
    pub days: Vec<DayRow>,
    /// The last 20 working days by station.
    pub by_station: Vec<Output>,
    /// The last 20 working days by shift.
    pub by_shift: Vec<Output>,
    /// The share of first looks that accepted, of the last 20 working days.
    pub first_pass_lately: Option<f64>,
    /// The same of all time.
    pub first_pass: Option<f64>,
    /// Why units were rejected, the most lost days first.
    pub rework: Vec<ReworkRow>,
    /// Working days from the first stage to the shelf: half of the units were faster.
    pub lead_days_p50: Option<f64>,
    /// 85 of 100 units were faster.
    pub lead_days_p85: Option<f64>,
    /// Units under way, the oldest first.
    pub ageing: Vec<Attention>,
    /// Units under way.
    pub under_way: u64,
    /// Units whose paper is overdue, the longest first.
    pub overdue: Vec<Attention>,
    /// Units whose images do not fit their leaves.
    pub outliers: Vec<Outlier>,
    /// What was learned of strata.
    pub strata: Vec<Stratum>,
    /// Stations.
    pub stations: Vec<StationRow>,
    /// Events that wait for their unit.
    pub quarantined_events: u64,
    /// Units that they wait for.
    pub quarantined_units: u64,
    /// Files that were not whole.
    pub incomplete_files: u64,
    /// Events that came too late for a frozen day.
    pub late_events: u64,
    /// The last frozen day.
    pub frozen_through: Option<Day>,
    /// Working days ahead of the plan, behind where below 0.
    pub days_ahead: Option<f64>,
    /// Plan against actual; nothing without a plan.
    pub earned: Option<Earned>,
}

/// Counts `state` as of `now`.
pub fn measure(state: &State, now: Timestamp, settings: &Settings) -> Progress {
    let today = Day::at(now, &settings.time_zone);
    let recent = recent_from(today, settings);
    let mut p = Progress {
        today,
        recent_from: recent,
        baseline: state.baseline.map_or(0, |(version, _)| version),
        scope: Measures::default(),
        scanned: Measures::default(),
        accepted: Measures::default(),
        done: Measures::default(),
        images: 0,
        rescanned: 0,
        stages: Vec::new(),
        holds: BTreeMap::new(),
        bottleneck: None,
        days: Vec::new(),
        by_station: Vec::new(),
        by_shift: Vec::new(),
        first_pass_lately: None,
        first_pass: None,
        rework: Vec::new(),
        lead_days_p50: None,
        lead_days_p85: None,
        ageing: Vec::new(),
        under_way: 0,
        overdue: Vec::new(),
        outliers: outliers(state),
        strata: learn(state),
        stations: Vec::new(),
        quarantined_events: state.quarantine.values().map(|waiting| waiting.events).sum(),
        quarantined_units: state.quarantine.len() as u64,
        incomplete_files: state.incomplete,
        late_events: state.late,
        frozen_through: state.frozen_through,
        days_ahead: None,
        earned: None,
    };
    let mut done_on = BTreeMap::<Day, u64>::new();
    let (mut looks, mut recent_looks, mut leads) = ((0_u64, 0_u64), (0_u64, 0_u64), Vec::new());
    let mut rework = BTreeMap::<u16, ReworkRow>::new();
    for unit in state.scope() {
        let standing = &unit.standing;
        p.scope.add(unit);
        p.images += unit.images;
        p.rescanned += unit.rescanned;
        if standing.first_scanned.is_some() {
            p.scanned.add(unit);
        }
        if standing.accepted.is_some() {
            p.accepted.add(unit);
        }
        if let Some(day) = standing.done() {
            p.done.add(unit);
            *done_on.entry(day).or_default() += u64::from(unit.unit.width_mm);
            if let Some(started) = standing.started {
                leads.push(f64::from(settings.calendar.count(started, day)));
            }
        }
        if let Some((day, is_good)) = standing.first_look {
            looks = (looks.0 + u64::from(is_good), looks.1 + 1);
            if day >= recent {
                recent_looks = (recent_looks.0 + u64::from(is_good), recent_looks.1 + 1);
            }
        }
        for one in &standing.rework {
            let row = rework.entry(one.reason).or_insert_with(|| ReworkRow {
                reason: state.reasons.get(usize::from(one.reason)).cloned().unwrap_or_default(),
                count: 0,
                open: 0,
                lost_days: 0,
            });
            row.count += 1;
            row.open += u64::from(one.to.is_none());
            row.lost_days += u64::from(settings.calendar.count(one.from, one.to.unwrap_or(today)).saturating_sub(1));
        }
        if let Doing::Held(hold) = standing.doing {
            *p.holds.entry(hold).or_default() += 1;
        }
        let attention = |since_ms: i64| Attention {
            unit: unit.unit.code.clone(),
            stage: standing.stage,
            place: standing.place.clone(),
            days: today.0 - Day::at(Timestamp(since_ms), &settings.time_zone).0,
        };
        if standing.is_in_progress() {
            p.under_way += 1;
            p.ageing.push(attention(standing.since_ms));
        }
        if let Some(due) = standing.due_ms.filter(|due| *due < now.0) {
            p.overdue.push(attention(due));
        }
    }
    for list in [&mut p.ageing, &mut p.overdue] {
        list.sort_by(|a, b| b.days.cmp(&a.days).then_with(|| a.unit.cmp(&b.unit)));
        list.truncate(MAX_LISTED);
    }
    let share = |(good, all): (u64, u64)| (all > 0).then(|| good as f64 / all as f64);
    (p.first_pass, p.first_pass_lately) = (share(looks), share(recent_looks));
    p.rework = rework.into_values().collect();
    p.rework.sort_by(|a, b| b.lost_days.cmp(&a.lost_days).then_with(|| a.reason.cmp(&b.reason)));
    leads.sort_by(f64::total_cmp);
    if !leads.is_empty() {
        (p.lead_days_p50, p.lead_days_p85) = (Some(quantile(&leads, 0.5)), Some(quantile(&leads, 0.85)));
    }
    p.stages = stages(state, today, recent, settings);
    let queued = p.stages.iter().filter(|row| row.stage > Stage::Prep || row.working > 0);
    let busiest = queued.filter(|row| row.days_of_work.is_some());
    p.bottleneck = busiest
        .max_by(|a, b| a.days_of_work.unwrap_or(0.0).total_cmp(&b.days_of_work.unwrap_or(0.0)))
        .map(|row| row.stage);
    outputs(&mut p, state, recent, &done_on, settings);
    let finished = (p.done.units == p.scope.units).then(|| done_on.last_key_value().map(|(day, _)| *day)).flatten();
    p.earned = earned(p.done.mm, p.scope.mm, finished, today, settings);
    p.days_ahead = p.earned.as_ref().map(|earned| earned.ahead_days);
    p
}

/// The first of the last 20 working days.
fn recent_from(today: Day, settings: &Settings) -> Day {
    let mut left = RECENT_DAYS;
    let mut day = today;
    while left > 0 && day.0 > today.0 - 400 {
        day = Day(day.0 - 1);
        left -= usize::from(settings.calendar.is_working(day));
    }
    day
}

fn stages(state: &State, today: Day, recent: Day, settings: &Settings) -> Vec<StageRow> {
    let mut rows: Vec<StageRow> = Stage::ALL
        .iter()
        .map(|stage| StageRow {
            stage: *stage,
            waiting: 0,
            working: 0,
            held: 0,
            mm: 0,
            oldest_days: None,
            left_lately: 0,
            days_of_work: None,
        })
        .collect();
    for unit in state.scope() {
        let standing = &unit.standing;
        for mark in unit.marks.iter().filter(|mark| mark.day >= recent) {
            if let super::standing::What::Stage(stage, super::stage::Change::Exit, _) = mark.what {
                rows[stage as usize].left_lately += 1;
            }
        }
        let Some(stage) = standing.queue() else { continue };
        if standing.returned.is_some() {
            rows[Stage::Returned as usize].working += 1;
            continue;
        }
        let row = &mut rows[stage as usize];
        match standing.doing {
            Doing::Waits => row.waiting += 1,
            Doing::Works => row.working += 1,
            Doing::Held(_) => row.held += 1,
        }
        row.mm += u64::from(unit.unit.width_mm);
        let days = today.0 - Day::at(Timestamp(standing.since_ms), &settings.time_zone).0;
        row.oldest_days = Some(row.oldest_days.map_or(days, |oldest| oldest.max(days)));
    }
    for row in rows.iter_mut().filter(|row| row.stage != Stage::Returned && row.left_lately > 0) {
        row.days_of_work = Some((row.waiting + row.working) as f64 * RECENT_DAYS as f64 / row.left_lately as f64);
    }
    rows
}

fn outputs(p: &mut Progress, state: &State, recent: Day, done_on: &BTreeMap<Day, u64>, settings: &Settings) {
    let mut days = BTreeMap::<Day, Production>::new();
    let mut by_station = vec![Production::default(); state.stations.len()];
    let mut today_by_station = vec![Production::default(); state.stations.len()];
    let mut by_shift = BTreeMap::<u8, Production>::new();
    for ((day, station, shift), made) in &state.production {
        days.entry(*day).or_default().add(*made, 1);
        if *day == p.today {
            today_by_station[usize::from(*station)].add(*made, 1);
        } else if *day >= recent && *day < p.today {
            by_station[usize::from(*station)].add(*made, 1);
            by_shift.entry(*shift).or_default().add(*made, 1);
        }
    }
    let output = |name: &str, made: Production| Output {
        name: name.to_owned(),
        captured: made.captured,
        rescanned: made.rescanned,
        net: made.net(),
    };
    p.by_station = state.stations.iter().zip(&by_station).map(|(station, made)| output(&station.name, *made)).collect();
    p.by_station.sort_by(|a, b| a.name.cmp(&b.name));
    p.by_shift = by_shift.iter().map(|(shift, made)| output(settings.shift_name(*shift), *made)).collect();
    p.stations = state
        .stations
        .iter()
        .zip(by_station.iter().zip(&today_by_station))
        .map(|(station, (made, today))| StationRow {
            name: station.name.clone(),
            state: station.states.last_key_value().map(|(_, state)| *state),
            last_image_ms: station.last_image.map(|at| at.0),
            images_today: today.made(),
            images_a_day: made.made() as f64 / RECENT_DAYS as f64,
            rescanned_lately: made.rescanned,
            target_passed: station.targets.last_key_value().map(|(_, (passed, _))| *passed),
        })
        .collect();
    p.stations.sort_by(|a, b| a.name.cmp(&b.name));
    let first = days.keys().chain(done_on.keys()).min().copied();
    let Some(first) = first.map(|first| first.max(Day(p.today.0 - 3660))) else { return };
    let mut so_far = done_on.range(..first).map(|(_, mm)| mm).sum();
    for day in (first.0..=p.today.0).map(Day) {
        let made = days.get(&day).copied().unwrap_or_default();
        let mm_done = done_on.get(&day).copied().unwrap_or(0);
        so_far += mm_done;
        p.days.push(DayRow {
            day,
            is_working: settings.calendar.is_working(day),
            captured: made.captured,
            rescanned: made.rescanned,
            net: made.net(),
            mm_done,
            mm_done_so_far: so_far,
        });
    }
}
