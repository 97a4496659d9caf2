//! What a report says: the numbers of its period, and how far everything was at its end.
//!
//! Invariant: the figures of a frozen period follow from what was booked by its end, so that they are the same whenever
//! they are counted; units that a later inventory left out are the exception.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::period::Period;
use crate::digitization::calendar::Day;
use crate::digitization::downtime::{self, Stops};
use crate::digitization::earned::earned;
use crate::digitization::facts::{Facts, Goal};
use crate::digitization::forecast::{Forecast, RUNS, simulate};
use crate::digitization::settings::Settings;
use crate::digitization::stage::Stage;
use crate::digitization::standing::{Doing, Standing};
use crate::digitization::state::{Production, State};

/// Lengths and counts; differences may be below 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Shelf length in millimetres.
    pub mm: i64,
    /// Units.
    pub units: i64,
    /// Sheets.
    pub sheets: i64,
    /// Images.
    pub images: i64,
}

impl Tally {
    fn less(self, other: Self) -> Self {
        Self {
            mm: self.mm - other.mm,
            units: self.units - other.units,
            sheets: self.sheets - other.sheets,
            images: self.images - other.images,
        }
    }
}

/// A measure at the end of the period, and by how much it grew in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// In the period.
    pub in_period: Tally,
    /// At its end.
    pub so_far: Tally,
}

/// A day of the period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayFigures {
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
    /// Shelf length accepted and returned, in millimetres.
    pub mm_done: i64,
    /// The same up to the end of the day.
    pub mm_done_so_far: i64,
}

/// A stage at the end of the period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageFigures {
    /// Which.
    pub stage: Stage,
    /// Units that wait for it.
    pub waiting: i64,
    /// Units that are worked on.
    pub working: i64,
    /// Units that can't go on.
    pub held: i64,
    /// Shelf length of all of them, in millimetres.
    pub mm: i64,
}

/// What a station or shift made in the period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputFigures {
    /// Which.
    pub name: String,
    /// New images.
    pub captured: i64,
    /// Images made again.
    pub rescanned: i64,
    /// Minutes of shifts in which a station stood; nothing for shifts.
    pub stops: Option<Stops>,
}

/// A reason of rework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReworkFigures {
    /// Which.
    pub reason: String,
    /// Rejections of the period.
    pub count: i64,
    /// Of all, those not accepted by its end.
    pub open: i64,
    /// Working days of the period that units lost by it, together.
    pub lost_days: i64,
}

/// What came for days that were frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectionFigures {
    /// The day that it is booked on, one of the period.
    pub booked: Day,
    /// The day on which it happened.
    pub own: Day,
    /// The end of the type of the events.
    pub kind: String,
    /// How many events.
    pub events: u64,
    /// New images of them.
    pub captured: i64,
    /// Images made again.
    pub rescanned: i64,
    /// Images more than before.
    pub net: i64,
}

/// A line of what was billed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceFigures {
    /// Its day.
    pub day: Day,
    /// Its number.
    pub invoice: String,
    /// Images on it.
    pub images: i64,
}

/// Billed against accepted images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billing {
    /// Invoices of the period.
    pub invoices: Vec<InvoiceFigures>,
    /// Images of them.
    pub billed: i64,
    /// Images by which the accepted ones grew in the period.
    pub accepted: i64,
    /// Images billed by its end.
    pub billed_so_far: i64,
    /// Images accepted by its end.
    pub accepted_so_far: i64,
}

/// The plan, and where the project stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanFigures {
    /// When everything is to be back.
    pub finish: Day,
    /// Shelf length that the plan has at the end of the period, in millimetres.
    pub mm_planned: i64,
    /// Working days ahead of it; behind where below 0.
    pub days_ahead: f64,
    /// Working days of the plan earned for each that is gone, SPI(t); nothing on its first day, and in reports that were frozen
    /// before it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi: Option<f64>,
}

/// Everything that a report says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The project's name.
    pub project: String,
    /// Of which period.
    pub period: Period,
    /// Its first day.
    pub from: Day,
    /// Its last day.
    pub to: Day,
    /// Its working days.
    pub working_days: i64,
    /// The version of the inventory; 0 is none.
    pub baseline: u32,
    /// Everything that is to be digitized.
    pub scope: Tally,
    /// Units scanned at least once.
    pub scanned: Growth,
    /// Units whose images were accepted.
    pub accepted: Growth,
    /// Units accepted and back on their shelf.
    pub done: Growth,
    /// New images of the period.
    pub captured: i64,
    /// Images made again in the period.
    pub rescanned: i64,
    /// Images more than before.
    pub net: i64,
    /// Images that there were at its end.
    pub images_so_far: i64,
    /// Units looked at for the first time in the period, and how many of them were accepted.
    pub first_looks: (i64, i64),
    /// Every day.
    pub days: Vec<DayFigures>,
    /// Shelf length done by the end of each week since the first, the period's last day last: the burn-up.
    pub burn_up: Vec<(Day, i64)>,
    /// Stages at its end.
    pub stages: Vec<StageFigures>,
    /// By station.
    pub stations: Vec<OutputFigures>,
    /// By shift.
    pub shifts: Vec<OutputFigures>,
    /// By reason, the most lost days first.
    pub rework: Vec<ReworkFigures>,
    /// When the rest will be done, as known at its end.
    pub forecast: Option<Forecast>,
    /// The plan, if there is one that began.
    pub plan: Option<PlanFigures>,
    /// Billed against accepted images.
    pub billing: Billing,
    /// What came too late for days that were frozen.
    pub corrections: Vec<CorrectionFigures>,
}

/// Counts `period` in `state`.
pub(super) fn count(state: &State, facts: &Facts, period: Period, settings: &Settings) -> Figures {
    let (from, to) = (period.first(), period.last());
    let before = Day(from.0 - 1);
    let calendar = &settings.calendar;
    let mut f = Figures {
        project: settings.project.clone(),
        period,
        from,
        to,
        working_days: calendar.count(from, to).into(),
        baseline: state.baseline.map_or(0, |(version, _)| version),
        scope: Tally::default(),
        scanned: Growth::default(),
        accepted: Growth::default(),
        done: Growth::default(),
        captured: 0,
        rescanned: 0,
        net: 0,
        images_so_far: 0,
        first_looks: (0, 0),
        days: Vec::new(),
        burn_up: Vec::new(),
        stages: Stage::ALL
            .map(|stage| StageFigures { stage, waiting: 0, working: 0, held: 0, mm: 0 })
            .into_iter()
            .collect(),
        stations: Vec::new(),
        shifts: Vec::new(),
        rework: Vec::new(),
        forecast: None,
        plan: None,
        billing: Billing::default(),
        corrections: Vec::new(),
    };
    let mut done_on = BTreeMap::<Day, i64>::new();
    let mut rework = BTreeMap::<u16, ReworkFigures>::new();
    let mut was = [Tally::default(); 3];
    for unit in state.scope() {
        let mm = i64::from(unit.unit.width_mm);
        let tally = |day: Day| Tally { mm, units: 1, sheets: unit.unit.leaves.into(), images: unit.images_as_of(day) };
        let add = |sum: &mut Tally, one: Tally| {
            *sum = Tally {
                mm: sum.mm + one.mm,
                units: sum.units + one.units,
                sheets: sum.sheets + one.sheets,
                images: sum.images + one.images,
            };
        };
        let (now, then) = (Standing::as_of(&unit.marks, to), Standing::as_of(&unit.marks, before));
        add(&mut f.scope, tally(to));
        f.images_so_far += unit.images_as_of(to);
        let reached = |standing: &Standing| {
            [standing.first_scanned.is_some(), standing.accepted.is_some(), standing.done().is_some()]
        };
        for (growth, is_there) in [&mut f.scanned, &mut f.accepted, &mut f.done].into_iter().zip(reached(&now)) {
            if is_there {
                add(&mut growth.so_far, tally(to));
            }
        }
        for (was, was_there) in was.iter_mut().zip(reached(&then)) {
            if was_there {
                add(was, tally(before));
            }
        }
        if let Some(day) = now.done() {
            *done_on.entry(day).or_default() += mm;
        }
        if let Some((_, is_good)) = now.first_look.filter(|(day, _)| *day >= from) {
            f.first_looks = (f.first_looks.0 + 1, f.first_looks.1 + i64::from(is_good));
        }
        for one in &now.rework {
            let row = rework.entry(one.reason).or_insert_with(|| ReworkFigures {
                reason: state.reasons.get(usize::from(one.reason)).cloned().unwrap_or_default(),
                count: 0,
                open: 0,
                lost_days: 0,
            });
            row.count += i64::from(one.from >= from);
            row.open += i64::from(one.to.is_none());
            // The day of the rejection itself was worked on.
            let (first, last) = (Day(one.from.0 + 1).max(from), one.to.unwrap_or(to).min(to));
            row.lost_days += i64::from(calendar.count(first, last));
        }
        count_stage(&mut f.stages, &now, mm);
    }
    for (growth, was) in [&mut f.scanned, &mut f.accepted, &mut f.done].into_iter().zip(was) {
        growth.in_period = growth.so_far.less(was);
    }
    f.rework = rework.into_values().filter(|row| row.count + row.open + row.lost_days > 0).collect();
    f.rework.sort_by(|a, b| b.lost_days.cmp(&a.lost_days).then_with(|| a.reason.cmp(&b.reason)));
    outputs(&mut f, state, &done_on, settings);
    f.forecast = facts.known(to, Goal::AllReturned, settings).and_then(|known| simulate(&known, settings, RUNS));
    let finished = facts.finished().filter(|finished| *finished <= to);
    let earned =
        earned(f.done.so_far.mm.cast_unsigned(), f.scope.mm.cast_unsigned(), finished, Day(to.0 + 1), settings);
    f.plan = earned.filter(|earned| to >= earned.from).map(|earned| PlanFigures {
        finish: earned.planned_finish,
        mm_planned: earned.mm_planned.cast_signed(),
        days_ahead: earned.ahead_days,
        spi: earned.spi,
    });
    for (day, invoice) in state.invoices.values().filter(|(day, _)| *day <= to) {
        f.billing.billed_so_far += invoice.images;
        if *day >= from {
            f.billing.billed += invoice.images;
            let row = InvoiceFigures { day: *day, invoice: invoice.invoice.clone(), images: invoice.images };
            f.billing.invoices.push(row);
        }
    }
    f.billing.invoices.sort_by(|a, b| (a.day, &a.invoice).cmp(&(b.day, &b.invoice)));
    (f.billing.accepted, f.billing.accepted_so_far) = (f.accepted.in_period.images, f.accepted.so_far.images);
    let late =
        state.late_by_day.range((from, Day(i32::MIN), String::new())..(Day(to.0 + 1), Day(i32::MIN), String::new()));
    for ((booked, own, kind), late) in late {
        f.corrections.push(CorrectionFigures {
            booked: *booked,
            own: *own,
            kind: kind.clone(),
            events: late.events,
            captured: late.made.captured,
            rescanned: late.made.rescanned,
            net: late.made.net(),
        });
    }
    f
}

fn count_stage(stages: &mut [StageFigures], standing: &Standing, mm: i64) {
    let Some(stage) = standing.queue() else { return };
    let is_back = standing.returned.is_some();
    let row = &mut stages[if is_back { Stage::Returned } else { stage } as usize];
    match standing.doing {
        _ if is_back => row.working += 1,
        Doing::Waits => row.waiting += 1,
        Doing::Works => row.working += 1,
        Doing::Held(_) => row.held += 1,
    }
    row.mm += mm;
}

fn outputs(f: &mut Figures, state: &State, done_on: &BTreeMap<Day, i64>, settings: &Settings) {
    let mut by_day = BTreeMap::<Day, Production>::new();
    let mut by_station = vec![Production::default(); state.stations.len()];
    let mut by_shift = BTreeMap::<u8, Production>::new();
    let slots = state.production.range((f.from, 0, 0)..(Day(f.to.0 + 1), 0, 0));
    for ((day, station, shift), made) in slots {
        by_day.entry(*day).or_default().add(*made, 1);
        by_station[usize::from(*station)].add(*made, 1);
        by_shift.entry(*shift).or_default().add(*made, 1);
    }
    let mut so_far: i64 = done_on.range(..f.from).map(|(_, mm)| mm).sum();
    for day in (f.from.0..=f.to.0).map(Day) {
        let made = by_day.get(&day).copied().unwrap_or_default();
        let mm_done = done_on.get(&day).copied().unwrap_or(0);
        so_far += mm_done;
        f.captured += made.captured;
        f.rescanned += made.rescanned;
        f.net += made.net();
        f.days.push(DayFigures {
            day,
            is_working: settings.calendar.is_working(day),
            captured: made.captured,
            rescanned: made.rescanned,
            net: made.net(),
            mm_done,
            mm_done_so_far: so_far,
        });
    }
    let mut stations: Vec<OutputFigures> = state
        .stations
        .iter()
        .zip(&by_station)
        .map(|(station, made)| OutputFigures {
            name: station.name.clone(),
            captured: made.captured,
            rescanned: made.rescanned,
            stops: Some(downtime::of(station, f.from, f.to, settings)),
        })
        .filter(|row| row.captured + row.rescanned != 0 || row.stops.is_some_and(|stops| stops.minutes() > 0))
        .collect();
    stations.sort_by(|a, b| a.name.cmp(&b.name));
    f.stations = stations;
    f.shifts = by_shift
        .iter()
        .map(|(shift, made)| OutputFigures {
            name: settings.shift_name(*shift).to_owned(),
            captured: made.captured,
            rescanned: made.rescanned,
            stops: None,
        })
        .collect();
    let first =
        state.production.keys().next().map(|(day, _, _)| *day).into_iter().chain(done_on.keys().next().copied());
    let Some(first) = first.min().filter(|first| *first <= f.to) else { return };
    let mut sum = 0;
    // Ten years of weeks; nobody reads a longer chart.
    let mut sunday = Day(first.monday().0 + 6).max(Day(f.to.monday().0 - 7 * 520 + 6));
    let mut done = done_on.iter().peekable();
    loop {
        let end = sunday.min(f.to);
        while let Some((_, mm)) = done.next_if(|(day, _)| **day <= end) {
            sum += mm;
        }
        f.burn_up.push((end, sum));
        if end >= f.to {
            break;
        }
        sunday = Day(sunday.0 + 7);
    }
}
