//! Numbers of units: each unit with the event that put it where it is counted.

use super::super::calendar::Day;
use super::super::downtime;
use super::super::event::Invoice;
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::standing::{Doing, Standing};
use super::super::state::{State, UnitState};
use super::super::strata::is_finished;
use super::super::views::rack;
use super::{Ask, DoingThere, Measure, Of, Part};

/// The parts of a number of units, stations or invoices.
pub(super) fn parts(state: &State, ask: &Ask, today: Day, settings: &Settings) -> Vec<Part> {
    if matches!(ask.of, Of::Jam | Of::Down | Of::Maintenance) {
        return stops(state, ask, settings);
    }
    if ask.of == Of::Billed {
        let (from, to) = (ask.from.unwrap_or(Day(i32::MIN)), ask.to.unwrap_or(Day(i32::MAX)));
        let billed = state.invoices.iter().filter(|(_, (day, _))| (from..=to).contains(day));
        let part = |(seq, (_, invoice)): (&u64, &(Day, Invoice))| Part {
            event: Some(*seq),
            unit: None,
            amount: invoice.images,
        };
        return billed.map(part).collect();
    }
    let mut parts: Vec<Part> = Vec::new();
    for unit in state.scope().filter(|unit| is_meant(unit, ask)) {
        match ask.of {
            Of::Rejections | Of::OpenRejections | Of::LostDays => rework(&mut parts, state, unit, ask, today, settings),
            Of::Faults => parts.extend(faults(unit, ask)),
            _ => parts.extend(one(unit, ask)),
        }
    }
    parts.sort_by(|a, b| (a.event, &a.unit).cmp(&(b.event, &b.unit)));
    parts
}

fn is_meant(unit: &UnitState, ask: &Ask) -> bool {
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    is(&ask.unit, &unit.unit.code)
        && is(&ask.series, &unit.unit.series)
        && is(&ask.binding, &unit.unit.binding)
        && ask.shelf.as_deref().is_none_or(|shelf| rack(&unit.unit.location) == shelf)
}

/// Where a unit stands on the day that is asked for.
fn standing(unit: &UnitState, as_of: Option<Day>) -> Standing {
    as_of.map_or_else(|| unit.standing.clone(), |day| Standing::as_of(&unit.marks, day))
}

/// The day on which a unit got where it is counted; nothing where it is not there.
fn reached(of: Of, standing: &Standing) -> Option<Day> {
    match of {
        Of::Started => standing.started,
        Of::Scanned => standing.first_scanned,
        Of::Accepted => standing.accepted,
        Of::Done => standing.done(),
        Of::FirstLooks => standing.first_look.map(|(day, _)| day),
        Of::FirstLooksGood => standing.first_look.filter(|(_, is_good)| *is_good).map(|(day, _)| day),
        _ => None,
    }
}

fn is_there(unit: &UnitState, standing: &Standing, ask: &Ask) -> bool {
    match ask.of {
        Of::Scope => true,
        Of::Out => standing.done().is_none() && standing.started.is_some() && standing.returned.is_none(),
        Of::Learned => is_finished(unit),
        Of::Queue => is_queued(standing, ask),
        of => reached(of, standing).is_some_and(|day| ask.to.is_none_or(|to| day <= to)),
    }
}

fn is_queued(standing: &Standing, ask: &Ask) -> bool {
    let Some(stage) = standing.queue() else { return false };
    let is_back = standing.returned.is_some();
    let stage = if is_back { Stage::Returned } else { stage };
    let doing = match standing.doing {
        _ if is_back => DoingThere::Working,
        Doing::Waits => DoingThere::Waiting,
        Doing::Works => DoingThere::Working,
        Doing::Held(_) => DoingThere::Held,
    };
    ask.stage.is_none_or(|wanted| wanted == stage) && ask.doing.is_none_or(|wanted| wanted == doing)
}

/// What a unit adds, with the event that put it there.
fn one(unit: &UnitState, ask: &Ask) -> Option<Part> {
    let amount = |as_of: Option<Day>| {
        let standing = standing(unit, as_of);
        is_there(unit, &standing, ask).then(|| match ask.measure {
            Measure::Units => 1,
            Measure::Mm => unit.unit.width_mm.into(),
            Measure::Sheets => unit.unit.leaves.into(),
            Measure::Images => as_of.map_or(unit.images, |day| unit.images_as_of(day)),
        })
    };
    let now = amount(ask.as_of);
    let is_look = matches!(ask.of, Of::FirstLooks | Of::FirstLooksGood);
    let amount = match (ask.from, ask.as_of) {
        // What came since: what there is by then, less what there was before the first day.
        (Some(from), Some(_)) if !is_look && ask.to.is_none() => {
            now.unwrap_or(0) - amount(Some(Day(from.0 - 1))).unwrap_or(0)
        }
        (Some(from), _) => {
            let day = reached(ask.of, &standing(unit, ask.as_of));
            now.filter(|_| day.is_some_and(|day| day >= from))?
        }
        (None, _) => now?,
    };
    if amount == 0 && ask.from.is_some() {
        return None;
    }
    Some(Part { event: event(unit, ask), unit: Some(unit.unit.code.clone()), amount })
}

/// The event that put a unit where it is counted.
fn event(unit: &UnitState, ask: &Ask) -> Option<u64> {
    let decided = |of: Of| Standing::decided(&unit.marks, ask.as_of, |standing| reached(of, standing));
    match ask.of {
        Of::Scope => Some(unit.since_seq),
        Of::Out => decided(Of::Started),
        Of::Learned => decided(Of::Accepted),
        Of::Queue => Standing::decided(&unit.marks, ask.as_of, |s| Some((s.stage, s.doing, s.returned))),
        of => decided(of),
    }
}

fn rework(parts: &mut Vec<Part>, state: &State, unit: &UnitState, ask: &Ask, today: Day, settings: &Settings) {
    for one in standing(unit, ask.as_of).rework {
        let reason = state.reasons.get(usize::from(one.reason)).map_or("", String::as_str);
        if ask.reason.as_deref().is_some_and(|wanted| wanted != reason) {
            continue;
        }
        let amount = match (ask.of, ask.from) {
            (Of::Rejections, from) => i64::from(from.is_none_or(|from| one.from >= from)),
            (Of::OpenRejections, _) => i64::from(one.to.is_none()),
            (_, None) => i64::from(settings.calendar.count(one.from, one.to.unwrap_or(today)).saturating_sub(1)),
            (_, Some(from)) => {
                let end = ask.as_of.unwrap_or(today);
                i64::from(settings.calendar.count(Day(one.from.0 + 1).max(from), one.to.unwrap_or(end).min(end)))
            }
        };
        if amount != 0 {
            parts.push(Part { event: Some(one.seq), unit: Some(unit.unit.code.clone()), amount });
        }
    }
}

fn faults(unit: &UnitState, ask: &Ask) -> Option<Part> {
    let wanted = |fault| ask.fault.is_none_or(|wanted| wanted == fault);
    let images: i64 = unit.faults.iter().filter(|(fault, count)| wanted(**fault) && **count > 0).map(|(_, n)| n).sum();
    if images <= 0 || (ask.is_open && unit.standing.accepted.is_some()) {
        return None;
    }
    let amount = if ask.measure == Measure::Images { images } else { 1 };
    Some(Part { event: None, unit: Some(unit.unit.code.clone()), amount })
}

fn stops(state: &State, ask: &Ask, settings: &Settings) -> Vec<Part> {
    let (from, to) = (ask.from.unwrap_or(Day(i32::MIN)), ask.to.unwrap_or(Day(i32::MAX)));
    let mut parts = Vec::new();
    for station in state.stations.iter().filter(|s| ask.station.as_deref().is_none_or(|wanted| wanted == s.name)) {
        for stop in downtime::stops(station, from, to, settings) {
            if stop.state.name() == ask.of.name() && stop.minutes > 0 {
                parts.push(Part { event: Some(stop.event), unit: None, amount: stop.minutes.into() });
            }
        }
    }
    parts.sort_by_key(|part| part.event);
    parts
}
