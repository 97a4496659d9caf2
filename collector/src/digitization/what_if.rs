//! Arithmetic of "what if": when a number of pages is done at a steady pace on the working calendar.
//!
//! One pace, no chance in it: the forecast has the spread. What it deliberately does not do: read the ledger.

use serde::Serialize;

use super::calendar::{Calendar, Day};

/// What is assumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// The first day of work, if it is a working day.
    pub from: Day,
    /// Pages to be done.
    pub pages: u64,
    /// Pages of a working day with the stations and shifts of now.
    pub per_day: f64,
    /// Stations of the assumption, and how many `per_day` is for.
    pub stations: (f64, f64),
    /// Shifts of the assumption, and how many `per_day` is for.
    pub shifts: (f64, f64),
    /// The share of pages that are scanned again, 0 to below 1.
    pub rejects: f64,
}

/// What follows from [`Assumptions`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The day on which the last page is done; nothing where it would be after 2099.
    pub finish: Option<Day>,
    /// The first working day at or after the start.
    pub first_working_day: Option<Day>,
    /// Working days from the first to the finish, both included.
    pub working_days: u64,
    /// Legal holidays and days off on weekdays in between.
    pub holidays: u64,
    /// Pages of a working day with the assumed stations and shifts.
    pub pages_per_day: f64,
    /// Pages to scan, those scanned again included.
    pub pages_to_scan: u64,
}

/// Works `assumptions` out on `calendar`.
pub fn work_out(assumptions: &Assumptions, calendar: &Calendar) -> Outcome {
    let (stations, stations_now) = assumptions.stations;
    let (shifts, shifts_now) = assumptions.shifts;
    let per_day = assumptions.per_day * (stations / stations_now) * (shifts / shifts_now);
    // Each pass leaves `rejects` of its pages for the next one.
    let pages = assumptions.pages as f64 / (1.0 - assumptions.rejects);
    let needed = (pages / per_day - 1e-9).ceil().max(0.0) as u64;
    let mut working = calendar.working_from(assumptions.from);
    let first_working_day = working.next();
    let finish = match needed {
        0 => Some(assumptions.from),
        1 => first_working_day,
        _ => usize::try_from(needed - 2).ok().and_then(|skip| working.nth(skip)),
    };
    let holidays = finish.map_or(0, |finish| calendar.lost_days(assumptions.from, finish).len() as u64);
    Outcome {
        finish,
        first_working_day,
        working_days: needed,
        holidays,
        pages_per_day: per_day,
        pages_to_scan: pages.ceil() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assumptions() -> Assumptions {
        Assumptions {
            from: "2026-03-02".parse().expect("day"),
            pages: 900_000,
            per_day: 5000.0,
            stations: (1.0, 1.0),
            shifts: (1.0, 1.0),
            rejects: 0.0,
        }
    }

    fn finish(assumptions: &Assumptions) -> String {
        work_out(assumptions, &Calendar::default()).finish.expect("before 2100").to_string()
    }

    #[test]
    fn the_announced_archive_is_done_on_12_november_2026() {
        let outcome = work_out(&assumptions(), &Calendar::default());
        assert_eq!(outcome.finish, Some("2026-11-12".parse().expect("day")));
        // Good Friday, Easter Monday, 1 May, and 1 June, on which Pentecost Monday falls too.
        assert_eq!((outcome.working_days, outcome.holidays, outcome.pages_to_scan), (180, 4, 900_000));
    }

    #[test]
    fn stations_shifts_and_rejects_move_the_day() {
        assert_eq!(finish(&Assumptions { stations: (5.0, 4.0), ..assumptions() }), finish_of_days(144));
        assert_eq!(finish(&Assumptions { shifts: (2.0, 1.0), ..assumptions() }), finish_of_days(90));
        assert_eq!(finish(&Assumptions { rejects: 0.1, ..assumptions() }), finish_of_days(200));
    }

    fn finish_of_days(days: usize) -> String {
        let first = assumptions().from;
        Calendar::default().working_from(first).nth(days - 1).expect("day").to_string()
    }

    #[test]
    fn nothing_to_do_is_done_at_once_and_too_much_is_never_done() {
        assert_eq!(finish(&Assumptions { pages: 0, ..assumptions() }), "2026-03-02");
        assert_eq!(
            finish(&Assumptions { pages: 1, from: "2026-04-10".parse().expect("day"), ..assumptions() }),
            "2026-04-14"
        );
        let never = Assumptions { pages: u64::MAX, per_day: 1e-3, ..assumptions() };
        assert_eq!(work_out(&never, &Calendar::default()).finish, None);
    }
}
