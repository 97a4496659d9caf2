//! Numbers of images and of events, from the ledger: each event is booked anew as the state booked it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rusqlite::{Connection, params};
use veghe_model::Timestamp;

use super::super::Digitization;
use super::super::calendar::Day;
use super::super::event::Data;
use super::super::log;
use super::super::settings::Settings;
use super::super::state::{Stored, images_of, minute_of_day};
use super::{Ask, MAX_IMAGE_DAYS, MAX_PARTS, Of, Part, TraceError};

const IMAGES: &str = "kind IN ('image.captured', 'image.replaced', 'image.deleted')";
/// Corrections that are looked at.
const MAX_CORRECTIONS: usize = 100_000;

/// What of the project decides how an event was booked.
struct Books<'a> {
    settings: &'a Settings,
    /// Since when each unit that an event is about is known, by its code.
    since: BTreeMap<String, u64>,
    /// Frozen days in the ledger's order: the event, the last day.
    freezes: Vec<(u64, Day)>,
    /// The correction of each event that was taken back first: its number, when it was received.
    corrections: BTreeMap<u64, (u64, Timestamp)>,
}

impl<'a> Books<'a> {
    fn of(project: &'a Digitization) -> Self {
        let since = project.state().units.iter().map(|unit| (unit.unit.code.clone(), unit.since_seq)).collect();
        Self { settings: project.settings(), since, freezes: Vec::new(), corrections: BTreeMap::new() }
    }

    /// The last day that was frozen when event `seq` was taken.
    fn frozen(&self, seq: u64) -> Option<Day> {
        self.freezes.iter().take_while(|(at, _)| *at < seq).map(|(_, through)| *through).max()
    }

    fn day(&self, time: Timestamp, received: Timestamp, taken: u64) -> Day {
        let day = Day::at(time, &self.settings.time_zone);
        match self.frozen(taken) {
            Some(frozen) if day <= frozen => Day(frozen.0 + 1).max(Day::at(received, &self.settings.time_zone)),
            _ => day,
        }
    }

    /// What an event adds and when: itself, and what took it back.
    fn booked(&self, event: &Stored) -> Vec<(u64, Day, i64)> {
        let Some(since) = event.data.unit().and_then(|unit| self.since.get(unit)) else { return Vec::new() };
        let taken = event.seq.max(*since);
        let correction = self.corrections.get(&event.seq);
        // Taken back while it waited for its unit: it never counted.
        if correction.is_some_and(|(seq, _)| *seq < taken) {
            return Vec::new();
        }
        let mut booked = vec![(event.seq, self.day(event.time, event.received, taken), 1)];
        if let Some((seq, received)) = correction {
            booked.push((*seq, self.day(event.time, *received, *seq), -1));
        }
        booked
    }
}

/// The parts of a number of images.
pub(super) fn images(project: &Digitization, ask: &Ask) -> Result<Vec<Part>, TraceError> {
    let settings = project.settings();
    let (from, to) = (ask.from.unwrap_or(Day(i32::MIN)), ask.to.unwrap_or(Day(i32::MAX)));
    if ask.unit.is_none()
        && (ask.from.is_none() || ask.to.is_none() || i64::from(to.0) - i64::from(from.0) >= MAX_IMAGE_DAYS.into())
    {
        return Err(TraceError::TooMany);
    }
    let mut books = Books::of(project);
    let mut days: BTreeSet<Day> = BTreeSet::new();
    let has_voided = {
        let state = project.state();
        if ask.unit.is_none() {
            days.extend((from.0..=to.0).map(Day));
            // What came for a frozen day is booked on another, which may be one of those that are asked for.
            let late = state.late_by_day.keys().filter(|(booked, _, _)| (from..=to).contains(booked));
            days.extend(late.map(|(_, own, _)| *own));
        }
        state.has_voided()
    };
    let ledger = &project.inner.ledger;
    books.freezes = ledger.with(|connection| freezes(connection))?;
    if has_voided {
        books.corrections = ledger.with(|connection| corrections(connection))?;
    }
    let most = MAX_PARTS as i64 + 1;
    let mut events = BTreeMap::<u64, Stored>::new();
    let mut keep = |stored: Vec<Stored>| {
        events.extend(stored.into_iter().map(|event| (event.seq, event)));
        if events.len() > MAX_PARTS { Err(TraceError::TooMany) } else { Ok(()) }
    };
    if let Some(unit) = &ask.unit {
        let sql = format!("unit = ?1 AND {IMAGES} ORDER BY seq LIMIT ?2");
        keep(ledger.with(|connection| read(connection, &sql, params![unit, most]))?)?;
    }
    // A day at a time: whoever waits for the ledger waits for one.
    for day in days {
        let (begin, end) = (log::midnight(day, settings), log::midnight(Day(day.0 + 1), settings));
        let sql = format!("time_ms >= ?1 AND time_ms < ?2 AND {IMAGES} ORDER BY seq LIMIT ?3");
        keep(ledger.with(|connection| read(connection, &sql, params![begin, end, most]))?)?;
    }
    // What was taken back later may have been made on any day.
    let missing: Vec<u64> = books.corrections.keys().filter(|seq| !events.contains_key(seq)).copied().collect();
    for seqs in missing.chunks(500).filter(|_| ask.unit.is_none()) {
        let list = serde_json::json!(seqs).to_string();
        let sql = format!("seq IN (SELECT value FROM json_each(?1)) AND {IMAGES} ORDER BY seq");
        let found = ledger.with(|connection| read(connection, &sql, params![list]))?;
        // They themselves are booked on days that nobody asked for, or they would be here.
        events.extend(found.into_iter().map(|event| (event.seq, event)));
    }
    let mut parts = Vec::new();
    for event in events.values() {
        let Some(images) = event.data.images().filter(|images| images.is_complete) else { continue };
        let shift = settings.shift_name(settings.shift_of(minute_of_day(event.time, settings)));
        if ask.station.as_deref().is_some_and(|wanted| wanted != images.station)
            || ask.shift.as_deref().is_some_and(|wanted| wanted != shift)
        {
            continue;
        }
        let Some(made) = images_of(&event.data) else { continue };
        let amount = match ask.of {
            Of::Captured => made.captured,
            Of::Rescanned => made.rescanned,
            Of::Made => made.made(),
            _ => made.net(),
        };
        for (seq, day, sign) in books.booked(event) {
            if (from..=to).contains(&day) && amount != 0 {
                parts.push(Part { event: Some(seq), unit: Some(images.unit.clone()), amount: sign * amount });
            }
        }
    }
    parts.sort_by_key(|part| part.event);
    Ok(parts)
}

/// The parts of a number of events.
pub(super) fn events(project: &Digitization, ask: &Ask) -> Result<Vec<Part>, TraceError> {
    let quarantined: Vec<String> = project.state().quarantine.keys().cloned().collect();
    let most = MAX_PARTS as i64 + 1;
    let mut books = Books::of(project);
    let events = project.inner.ledger.with(|connection| {
        books.corrections = corrections(connection)?;
        match ask.of {
            Of::Waiting => {
                let mut events = Vec::new();
                for unit in &quarantined {
                    let sql = "unit = ?1 AND kind != 'inventory.declared' ORDER BY seq LIMIT ?2";
                    events.extend(read(connection, sql, params![unit, most])?);
                }
                Ok(events)
            }
            Of::Duplicates => read(connection, "kind = 'image.duplicate' ORDER BY seq LIMIT ?1", params![most]),
            _ => {
                let sql = format!("{IMAGES} AND instr(data, '\"complete\":false') > 0 ORDER BY seq LIMIT ?1");
                read(connection, &sql, params![most])
            }
        }
    })?;
    let mut parts = Vec::new();
    for event in &events {
        let unit = event.data.unit().map(str::to_owned);
        let mut add = |seq: u64, amount: i64| parts.push(Part { event: Some(seq), unit: unit.clone(), amount });
        match ask.of {
            Of::Waiting => add(event.seq, 1),
            Of::Duplicates => {
                // One that is taken back is one nevertheless: there is the file.
                if !books.booked(event).is_empty() {
                    add(event.seq, 1);
                }
            }
            _ => {
                if event.data.images().is_some_and(|images| !images.is_complete) {
                    books.booked(event).iter().for_each(|(seq, _, sign)| add(*seq, *sign));
                }
            }
        }
    }
    parts.sort_by_key(|part| part.event);
    Ok(parts)
}

fn read(connection: &Connection, condition: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Stored>> {
    log::matching(connection, condition, values)
}

fn freezes(connection: &Connection) -> rusqlite::Result<Vec<(u64, Day)>> {
    let frozen = log::matching(
        connection,
        "kind = 'days.frozen' AND source = ?1 ORDER BY seq",
        params![super::super::event::OWN_SOURCE],
    )?;
    let through = |event: Stored| match event.data {
        Data::DaysFrozen { through } => Some((event.seq, Day(through))),
        _ => None,
    };
    Ok(frozen.into_iter().filter_map(through).collect())
}

/// The first correction of each event.
fn corrections(connection: &Connection) -> rusqlite::Result<BTreeMap<u64, (u64, Timestamp)>> {
    let sql = "SELECT seq, corrects, received_ms FROM digi_event WHERE corrects IS NOT NULL ORDER BY seq LIMIT ?1";
    let mut statement = connection.prepare(sql)?;
    let mut corrections = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut rows = statement.query([MAX_CORRECTIONS as i64])?;
    while let Some(row) = rows.next()? {
        let (seq, corrects, received): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if seen.insert(corrects) {
            corrections.insert(corrects as u64, (seq as u64, Timestamp(received)));
        }
    }
    Ok(corrections)
}
