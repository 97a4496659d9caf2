//! How long a station stood within its shifts: jams, faults, maintenance, from what it said to be doing.
//!
//! What it deliberately does not do: count silence as a stop. Who says nothing is told apart by `metrics::idle`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::calendar::Day;
use super::event::StationState;
use super::settings::Settings;
use super::state::{State, Station, minute_of_day};

/// Minutes of shifts of working days in which a station stood, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stops {
    /// By paper.
    pub jam_minutes: u32,
    /// By a fault.
    pub down_minutes: u32,
    /// For cleaning or repair.
    pub maintenance_minutes: u32,
}

impl Stops {
    /// All of them.
    pub fn minutes(self) -> u32 {
        self.jam_minutes + self.down_minutes + self.maintenance_minutes
    }
}

/// A stop as a station told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The event that began it.
    pub event: u64,
    /// Why.
    pub state: StationState,
    /// Minutes of shifts of working days.
    pub minutes: u32,
}

/// The stops of `station` on the days `from..=to`, together.
pub fn of(station: &Station, from: Day, to: Day, settings: &Settings) -> Stops {
    let mut sum = Stops::default();
    for stop in stops(station, from, to, settings) {
        match stop.state {
            StationState::Jam => sum.jam_minutes += stop.minutes,
            StationState::Down => sum.down_minutes += stop.minutes,
            _ => sum.maintenance_minutes += stop.minutes,
        }
    }
    sum
}

/// The stops of `station` on the days `from..=to`, one by one.
pub fn stops(station: &Station, from: Day, to: Day, settings: &Settings) -> Vec<Stop> {
    let minutes = ShiftMinutes::new(settings);
    let mut stops = Vec::new();
    minutes.each(station, settings, |event, state, day, minutes| {
        if (from..=to).contains(&day) {
            match stops.last_mut().filter(|stop: &&mut Stop| stop.event == event) {
                Some(stop) => stop.minutes += minutes,
                None => stops.push(Stop { event, state, minutes }),
            }
        }
    });
    stops
}

/// Images that stops cost in shifts of working days, by day: for each station its minutes of the day without work, at the
/// pace of the minutes in which it worked.
pub fn images_lost(state: &State, settings: &Settings) -> BTreeMap<Day, f64> {
    let minutes = ShiftMinutes::new(settings);
    let mut made = vec![BTreeMap::<Day, i64>::new(); state.stations.len()];
    for ((day, station, _), production) in &state.production {
        *made[usize::from(*station)].entry(*day).or_default() += production.made();
    }
    let mut lost = BTreeMap::<Day, f64>::new();
    for (station, made) in state.stations.iter().zip(&made) {
        let stops = minutes.stops(station, settings);
        if stops.is_empty() {
            continue;
        }
        let (mut images, mut worked) = (0, 0_u32);
        for (day, made) in made.iter().filter(|(day, made)| **made > 0 && settings.calendar.is_working(**day)) {
            images += made;
            worked += minutes.all().saturating_sub(stops.get(day).copied().unwrap_or(0));
        }
        if worked > 0 {
            let pace = images as f64 / f64::from(worked);
            for (day, minutes) in &stops {
                *lost.entry(*day).or_default() += pace * f64::from(*minutes);
            }
        }
    }
    lost
}

/// Minutes of shifts before each minute of a day.
struct ShiftMinutes(Vec<u32>);

impl ShiftMinutes {
    fn new(settings: &Settings) -> Self {
        let mut before = vec![0];
        for minute in 0..1440 {
            let is_in = settings.shifts.iter().any(|shift| shift.contains(minute));
            before.push(before[usize::from(minute)] + u32::from(is_in));
        }
        Self(before)
    }

    /// Those of a whole day.
    fn all(&self) -> u32 {
        self.0[1440]
    }

    /// Minutes of shifts of working days in which `station` stood, by day.
    fn stops(&self, station: &Station, settings: &Settings) -> BTreeMap<Day, u32> {
        let mut stops = BTreeMap::new();
        self.each(station, settings, |_event, _state, day, minutes| *stops.entry(day).or_default() += minutes);
        stops
    }

    /// Tells of every day of every stop: its event, why, the day, its minutes in shifts.
    fn each(&self, station: &Station, settings: &Settings, mut tell: impl FnMut(u64, StationState, Day, u32)) {
        let mut states = station.states.iter().peekable();
        let place = |ms: i64| (Day::at(Timestamp(ms), &settings.time_zone), minute_of_day(Timestamp(ms), settings));
        while let Some(((begin_ms, event), state)) = states.next() {
            if !matches!(state, StationState::Jam | StationState::Down | StationState::Maintenance) {
                continue;
            }
            let begin = place(*begin_ms);
            // A stop that nobody ended is known for as long as its day.
            let end = states.peek().map_or((begin.0, 1440), |((end_ms, _), _)| place(*end_ms));
            for day in (begin.0.0..=end.0.0).map(Day).filter(|day| settings.calendar.is_working(*day)) {
                let first = if day == begin.0 { begin.1 } else { 0 };
                let past = if day == end.0 { end.1 } else { 1440 };
                let minutes = self.0[usize::from(past)].saturating_sub(self.0[usize::from(first)]);
                if minutes > 0 {
                    tell(*event, *state, day, minutes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().expect(text).as_millisecond()
    }

    #[test]
    fn only_minutes_of_shifts_on_working_days_count() {
        let mut station = Station::default();
        // Thursday, 14 May: 15:30 to 09:00 of the next day; the shift is 08:00 to 16:00.
        station.states.insert((at("2026-05-14T12:30:00Z"), 1), StationState::Jam);
        station.states.insert((at("2026-05-15T06:00:00Z"), 2), StationState::Working);
        // Friday to Monday noon, and one on Tuesday that nobody ended.
        station.states.insert((at("2026-05-15T12:00:00Z"), 3), StationState::Down);
        station.states.insert((at("2026-05-18T09:00:00Z"), 4), StationState::Idle);
        station.states.insert((at("2026-05-19T11:00:00Z"), 5), StationState::Maintenance);
        let day = |text: &str| text.parse::<Day>().expect(text);
        let stops = |from: &str, to: &str| of(&station, day(from), day(to), &Settings::default());
        let all = stops("2026-05-01", "2026-05-31");
        assert_eq!((all.jam_minutes, all.down_minutes, all.maintenance_minutes), (30 + 60, 60 + 240, 120));
        assert_eq!(stops("2026-05-15", "2026-05-17").minutes(), 60 + 60);
        assert_eq!(stops("2026-06-01", "2026-06-30").minutes(), 0);
        // The same by day.
        let by_day = ShiftMinutes::new(&Settings::default()).stops(&station, &Settings::default());
        assert_eq!(by_day.values().sum::<u32>(), all.minutes());
        for (day, minutes) in &by_day {
            assert_eq!(*minutes, stops(&day.to_string(), &day.to_string()).minutes(), "{day}");
        }
    }
}
