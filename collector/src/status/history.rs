//! What was known of each component and when: intervals of one state, and the bars and uptime figures made of them.
//!
//! Invariants: a component's intervals ascend, don't overlap and hold known states only; what lies between them is
//! unknown. An observation holds until the next one, but never for longer than [`History::max_gap`]: time without
//! observations (the collector was off, a query failed) is unknown and not counted. What it deliberately does not do:
//! evaluate expressions or ask for the time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use rusqlite::{Connection, params};
use veghe_model::Timestamp;

use super::components::State;

/// Days that are kept and shown.
pub const KEPT_DAYS: usize = 90;
/// Cells of a day's bar.
pub const CELLS: usize = 48;
/// Length of one cell.
pub const CELL: Duration = Duration::from_mins(30);
/// Intervals kept per component; the oldest go first. Even a state that changes every 30 s keeps three days.
const MAX_INTERVALS: usize = 10_000;
/// A little more than [`KEPT_DAYS`], so that the first day is whole in every time zone.
const KEPT: Duration = Duration::from_hours(24 * (KEPT_DAYS as u64 + 2));

/// A stretch of time in one known state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Its first moment.
    pub start: Timestamp,
    /// Its end, exclusive; for the newest, the last observation.
    pub end: Timestamp,
    /// Never [`State::Unknown`].
    pub state: State,
}

/// How long a component was in each state; the rest of the window is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Working.
    pub operational: Duration,
    /// Working, but worse than it should.
    pub degraded: Duration,
    /// Some parts down.
    pub partial_outage: Duration,
    /// Down.
    pub major_outage: Duration,
    /// Announced work.
    pub maintenance: Duration,
}

impl Shares {
    fn add(&mut self, state: State, span: Duration) {
        match state {
            State::Unknown => {}
            State::Operational => self.operational += span,
            State::Degraded => self.degraded += span,
            State::PartialOutage => self.partial_outage += span,
            State::MajorOutage => self.major_outage += span,
            State::Maintenance => self.maintenance += span,
        }
    }

    /// The time in `state`; unknown time is not kept here.
    pub fn of(&self, state: State) -> Duration {
        match state {
            State::Unknown => Duration::ZERO,
            State::Operational => self.operational,
            State::Degraded => self.degraded,
            State::PartialOutage => self.partial_outage,
            State::MajorOutage => self.major_outage,
            State::Maintenance => self.maintenance,
        }
    }

    /// The time of which anything is known.
    pub fn known(&self) -> Duration {
        State::ALL.into_iter().map(|state| self.of(state)).sum()
    }

    /// The worst state with any time in it; [`State::Unknown`] where nothing is known.
    pub fn worst(&self) -> State {
        State::ALL.into_iter().rev().find(|state| !self.of(*state).is_zero()).unwrap_or(State::Unknown)
    }

    /// Uptime between 0 and 1: operational and degraded time over known time without maintenance. Partial and major
    /// outages count against it in full. `None` where nothing is known.
    pub fn uptime(&self) -> Option<f64> {
        let counted = self.known().saturating_sub(self.maintenance);
        let up = self.operational + self.degraded;
        (!counted.is_zero()).then(|| up.as_secs_f64() / counted.as_secs_f64())
    }
}

/// One piece of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its first moment.
    pub start: Timestamp,
    /// Its end, exclusive.
    pub end: Timestamp,
    /// What is known of it.
    pub shares: Shares,
}

/// One calendar day of the configured time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// Which day.
    pub date: Date,
    /// Midnight to midnight: 23 or 25 hours when the clocks change.
    pub cell: Cell,
}

/// Why the days of a time zone can't be told.
#[derive(Debug, thiserror::Error)]
#[error("cannot divide time into days at {at} ms")]
pub struct CalendarError {
    at: i64,
    source: jiff::Error,
}

#[derive(Debug, Default)]
struct Timeline {
    intervals: VecDeque<Interval>,
    /// The last observation of this process, whose state still holds.
    last: Option<(Timestamp, State)>,
    /// The ledger may differ from here on.
    unsaved: Option<Timestamp>,
}

/// Every component's past.
#[derive(Debug)]
pub struct History {
    max_gap: Duration,
    timelines: BTreeMap<String, Timeline>,
}

impl History {
    /// An empty past; observations further apart than `max_gap` have unknown time between them.
    pub fn new(max_gap: Duration) -> Self {
        Self { max_gap, timelines: BTreeMap::new() }
    }

    /// The longest time that one observation holds.
    pub fn max_gap(&self) -> Duration {
        self.max_gap
    }

    /// The past that the ledger keeps. What was observed last before does not hold on: the time until the first
    /// observation of this process is unknown.
    ///
    /// # Errors
    /// Whatever `SQLite` reports.
    pub fn load(max_gap: Duration, connection: &Connection) -> rusqlite::Result<Self> {
        let mut history = Self::new(max_gap);
        let mut statement = connection
            .prepare("SELECT component, start_ms, end_ms, state FROM status_interval ORDER BY component, start_ms")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (start, end) = (Timestamp(row.get(1)?), Timestamp(row.get(2)?));
            let state = State::from_code(row.get(3)?);
            let timeline = history.timelines.entry(row.get(0)?).or_default();
            let after_previous = timeline.intervals.back().is_none_or(|previous| previous.end <= start);
            if state != State::Unknown && start < end && after_previous {
                timeline.intervals.push_back(Interval { start, end, state });
            }
        }
        Ok(history)
    }

    /// Notes that `component` was seen in `state` at `at`. The state before it holds until `at`, if that is not too
    /// long. After a step back of the clock, what claims to be later than `at` was not observed and goes.
    pub fn observe(&mut self, component: &str, at: Timestamp, state: State) {
        let timeline = self.timelines.entry(component.to_owned()).or_default();
        while let Some(newest) = timeline.intervals.back_mut().filter(|newest| newest.end > at) {
            timeline.unsaved = Some(timeline.unsaved.map_or(newest.start, |from| from.min(newest.start)));
            newest.end = at;
            if newest.start < at {
                break;
            }
            timeline.intervals.pop_back();
        }
        if let Some((since, held)) = timeline.last
            && held != State::Unknown
            && since < at
            && at.since(since) <= self.max_gap
        {
            let changed = match timeline.intervals.back_mut() {
                Some(newest) if newest.end == since && newest.state == held => {
                    newest.end = at;
                    newest.start
                }
                _ => {
                    timeline.intervals.push_back(Interval { start: since, end: at, state: held });
                    since
                }
            };
            timeline.unsaved = Some(timeline.unsaved.map_or(changed, |from| from.min(changed)));
        }
        timeline.last = Some((at, state));
        let oldest = at.saturating_sub(KEPT);
        while timeline.intervals.len() > MAX_INTERVALS
            || timeline.intervals.front().is_some_and(|first| first.end <= oldest)
        {
            timeline.intervals.pop_front();
        }
    }

    /// Writes to the ledger what changed since the last call, in one transaction.
    ///
    /// # Errors
    /// Whatever `SQLite` reports; the next call writes it again.
    pub fn save(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        {
            let mut cut = transaction
                .prepare("DELETE FROM status_interval WHERE component = ?1 AND (start_ms >= ?2 OR end_ms <= ?3)")?;
            let mut put = transaction
                .prepare("INSERT INTO status_interval (component, start_ms, end_ms, state) VALUES (?1, ?2, ?3, ?4)")?;
            for (component, timeline) in &self.timelines {
                let Some(from) = timeline.unsaved else { continue };
                let oldest = timeline.intervals.front().map_or(i64::MIN, |oldest| oldest.start.0);
                cut.execute(params![component, from.0, oldest])?;
                for interval in timeline.intervals.iter().rev().take_while(|interval| interval.start >= from) {
                    put.execute(params![component, interval.start.0, interval.end.0, interval.state.code()])?;
                }
            }
        }
        transaction.commit()?;
        for timeline in self.timelines.values_mut() {
            timeline.unsaved = None;
        }
        Ok(())
    }

    /// The ids of which something is known at `from` or later, ascending.
    pub fn known_since(&self, from: Timestamp) -> impl Iterator<Item = &str> {
        let known = move |timeline: &Timeline| timeline.intervals.back().is_some_and(|newest| newest.end > from);
        self.timelines.iter().filter(move |(_, timeline)| known(timeline)).map(|(id, _)| id.as_str())
    }

    /// The intervals of `component` that touch `[start, end)`, oldest first, cut to it.
    pub fn intervals(&self, component: &str, start: Timestamp, end: Timestamp) -> Vec<Interval> {
        let Some(timeline) = self.timelines.get(component) else { return Vec::new() };
        let first = timeline.intervals.partition_point(|interval| interval.end <= start);
        let touching = timeline.intervals.range(first..).take_while(|interval| interval.start < end);
        touching.map(|i| Interval { start: i.start.max(start), end: i.end.min(end), state: i.state }).collect()
    }

    /// How long `component` was in each state within `[start, end)`.
    pub fn shares(&self, component: &str, start: Timestamp, end: Timestamp) -> Shares {
        let mut shares = Shares::default();
        for interval in self.intervals(component, start, end) {
            shares.add(interval.state, interval.end.since(interval.start));
        }
        shares
    }

    /// The last 24 hours in [`CELLS`] cells of [`CELL`], aligned to the half hour; the last one is the current.
    pub fn cells(&self, component: &str, now: Timestamp) -> Vec<Cell> {
        let length = CELL.as_millis() as i64;
        let end = (now.0.div_euclid(length) + 1) * length;
        let first = end - length * CELLS as i64;
        (0..CELLS as i64)
            .map(|i| {
                let (start, end) = (Timestamp(first + i * length), Timestamp(first + (i + 1) * length));
                Cell { start, end, shares: self.shares(component, start, end) }
            })
            .collect()
    }

    /// The cells of `days`, as [`days_until`] gives them.
    pub fn days(&self, component: &str, days: &[(Date, Timestamp, Timestamp)]) -> Vec<Day> {
        let cell = |start, end| Cell { start, end, shares: self.shares(component, start, end) };
        days.iter().map(|&(date, start, end)| Day { date, cell: cell(start, end) }).collect()
    }
}

/// The last `count` days of `zone` up to and with the day of `now`, oldest first: date, midnight, next midnight.
///
/// # Errors
/// [`CalendarError`] outside the years that the calendar knows.
pub fn days_until(
    now: Timestamp,
    zone: &TimeZone,
    count: usize,
) -> Result<Vec<(Date, Timestamp, Timestamp)>, CalendarError> {
    let days = || -> Result<Vec<_>, jiff::Error> {
        let mut date = jiff::Timestamp::from_millisecond(now.0)?.to_zoned_datetime(zone.clone()).date();
        let midnight = |date: Date| -> Result<Timestamp, jiff::Error> {
            Ok(Timestamp(date.to_zoned_datetime(zone.clone())?.start_of_day()?.timestamp().as_millisecond()))
        };
        let mut end = midnight(date.tomorrow()?)?;
        let mut days = Vec::with_capacity(count);
        for _ in 0..count {
            let start = midnight(date)?;
            days.push((date, start, end));
            (end, date) = (start, date.yesterday()?);
        }
        days.reverse();
        Ok(days)
    };
    days().map_err(|source| CalendarError { at: now.0, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use proptest::prelude::*;

    const GAP: Duration = Duration::from_secs(75);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn bucharest() -> TimeZone {
        TimeZone::get("Europe/Bucharest").expect("time zone")
    }

    fn instant(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().expect("time").as_millisecond())
    }

    #[test]
    fn a_gap_longer_than_allowed_is_unknown() {
        let mut history = History::new(GAP);
        for seconds in [0, 30, 60, 300, 330] {
            history.observe("a", at(seconds), State::Operational);
        }
        let shares = history.shares("a", at(0), at(1000));
        assert_eq!(shares.operational, Duration::from_secs(90));
        assert_eq!(shares.known(), Duration::from_secs(90));
        assert_eq!(shares.uptime(), Some(1.0));
    }

    #[test]
    fn unknown_time_is_left_out_of_uptime_and_partial_outages_count_in_full() {
        let mut history = History::new(GAP);
        let states = [State::Operational, State::PartialOutage, State::Unknown, State::Degraded, State::MajorOutage];
        for (i, state) in (0..).zip(states) {
            history.observe("a", at(i * 60), state);
        }
        let shares = history.shares("a", at(0), at(240));
        assert_eq!(shares.known(), Duration::from_mins(3));
        assert_eq!(shares.uptime(), Some(2.0 / 3.0));
        assert_eq!(shares.worst(), State::PartialOutage);
    }

    #[test]
    fn after_a_restart_the_past_is_there_and_the_time_between_is_unknown() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("ledger");
        {
            let ledger = Ledger::open(&path).expect("ledger");
            let mut history = History::new(GAP);
            for seconds in [0, 30, 60] {
                history.observe("a", at(seconds), State::Operational);
                ledger.with(|c| history.save(c)).expect("save");
            }
        }
        let ledger = Ledger::open(&path).expect("ledger");
        let mut history = ledger.with(|c| History::load(GAP, c)).expect("load");
        history.observe("a", at(90), State::Operational);
        history.observe("a", at(120), State::MajorOutage);
        ledger.with(|c| history.save(c)).expect("save");
        let expected = [
            Interval { start: at(0), end: at(60), state: State::Operational },
            Interval { start: at(90), end: at(120), state: State::Operational },
        ];
        assert_eq!(history.intervals("a", at(0), at(1000)), expected);
        let again = ledger.with(|c| History::load(GAP, c)).expect("load");
        assert_eq!(again.intervals("a", at(0), at(1000)), expected);
    }

    #[test]
    fn days_of_23_and_25_hours_are_told_by_the_time_zone() {
        let length = |now: &str| {
            let days = days_until(instant(now), &bucharest(), 2).expect("days");
            let (date, start, end) = days[1];
            (date.to_string(), end.since(start).as_secs() / 3600)
        };
        assert_eq!(length("2026-03-29T12:00:00Z"), ("2026-03-29".to_owned(), 23));
        assert_eq!(length("2026-10-25T12:00:00Z"), ("2026-10-25".to_owned(), 25));
        // 23:30 UTC is the next day in Bucharest.
        assert_eq!(length("2026-11-22T23:30:00Z"), ("2026-11-23".to_owned(), 24));
    }

    #[test]
    fn days_join_without_gap_through_both_changes_of_clock() {
        let days = days_until(instant("2026-11-23T11:00:00Z"), &bucharest(), 400).expect("days");
        assert_eq!(days.len(), 400);
        assert!(days.windows(2).all(|pair| pair[0].2 == pair[1].1 && pair[0].0 < pair[1].0));
    }

    #[test]
    fn the_current_half_hour_is_the_last_of_48_cells() {
        let mut history = History::new(GAP);
        let now = instant("2026-11-23T11:05:00Z");
        history.observe("a", now.saturating_sub(Duration::from_mins(1)), State::MajorOutage);
        history.observe("a", now, State::Operational);
        let cells = history.cells("a", now);
        assert_eq!(cells.len(), CELLS);
        assert_eq!(cells[47].start, instant("2026-11-23T11:00:00Z"));
        assert_eq!(cells[47].shares.worst(), State::MajorOutage);
        assert_eq!(cells[46].shares.worst(), State::Unknown);
    }

    #[test]
    fn a_step_back_of_the_clock_takes_back_what_was_not_observed() {
        let mut history = History::new(GAP);
        for seconds in [1000, 1030, 1060, 10, 40] {
            history.observe("a", at(seconds), State::Operational);
        }
        assert_eq!(
            history.intervals("a", at(0), at(2000)),
            [Interval { start: at(10), end: at(40), state: State::Operational }]
        );
    }

    #[test]
    fn a_state_that_never_rests_stays_bounded() {
        let mut history = History::new(GAP);
        for i in 0..(MAX_INTERVALS as i64 + 500) {
            history.observe("a", at(i * 30), if i % 2 == 0 { State::Operational } else { State::MajorOutage });
        }
        assert_eq!(history.timelines["a"].intervals.len(), MAX_INTERVALS);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn intervals_agree_with_a_list_of_every_second(
            steps in prop::collection::vec((1_i64..120, 0_usize..6, prop::bool::weighted(0.05)), 1..60),
            window in (0_i64..3000, 1_i64..3000),
        ) {
            let ledger = Ledger::in_memory().expect("ledger");
            let mut history = History::new(GAP);
            let mut model = vec![State::Unknown; 8000];
            let (mut now, mut held) = (0_i64, None);
            for (step, state, restart) in steps {
                if restart {
                    history = ledger.with(|c| History::load(GAP, c)).expect("load");
                    held = None;
                }
                let next = now + step;
                if let Some(state) = held && step <= 75 {
                    model[now as usize..next as usize].fill(state);
                }
                (now, held) = (next, Some(State::ALL[state]));
                history.observe("a", at(now), State::ALL[state]);
                ledger.with(|c| history.save(c)).expect("save");
            }
            let (start, length) = window;
            let shares = history.shares("a", at(start), at(start + length));
            for state in State::ALL.into_iter().filter(|state| *state != State::Unknown) {
                let seconds = model[start as usize..(start + length) as usize].iter().filter(|s| **s == state).count();
                prop_assert_eq!(shares.of(state), Duration::from_secs(seconds as u64));
            }
            let reloaded = ledger.with(|c| History::load(GAP, c)).expect("load");
            prop_assert_eq!(reloaded.intervals("a", Timestamp::MIN, Timestamp::MAX),
                history.intervals("a", Timestamp::MIN, Timestamp::MAX));
        }
    }
}
