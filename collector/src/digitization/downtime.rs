//! How long a station stood within its shifts: jams, faults, maintenance, from what it said to be doing.
//!
//! What it deliberately does not do: count silence as a stop. Who says nothing is told apart by `metrics::idle`.

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::calendar::Day;
use super::event::StationState;
use super::settings::Settings;
use super::state::{Station, minute_of_day};

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

/// The stops of `station` on the days `from..=to`.
pub fn of(station: &Station, from: Day, to: Day, settings: &Settings) -> Stops {
    let mut stops = Stops::default();
    let mut states = station.states.iter().peekable();
    while let Some(((begin_ms, _), state)) = states.next() {
        let stop = match state {
            StationState::Jam => &mut stops.jam_minutes,
            StationState::Down => &mut stops.down_minutes,
            StationState::Maintenance => &mut stops.maintenance_minutes,
            StationState::Working | StationState::Idle | StationState::Off => continue,
        };
        // A stop that nobody ended is known for as long as its day.
        let day = Day::at(Timestamp(*begin_ms), &settings.time_zone);
        let last = states.peek().map_or(day, |((end_ms, _), _)| Day::at(Timestamp(*end_ms), &settings.time_zone));
        let end_of_day = 1440;
        let end = states
            .peek()
            .map_or((day, end_of_day), |((end_ms, _), _)| (last, minute_of_day(Timestamp(*end_ms), settings)));
        let begin = (day, minute_of_day(Timestamp(*begin_ms), settings));
        for day in (day.max(from).0..=last.min(to).0).map(Day).filter(|day| settings.calendar.is_working(*day)) {
            let first = if day == begin.0 { begin.1 } else { 0 };
            let past = if day == end.0 { end.1 } else { end_of_day };
            *stop += (first..past).filter(|minute| settings.shifts.iter().any(|shift| shift.contains(*minute))).count()
                as u32;
        }
    }
    stops
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
    }
}
