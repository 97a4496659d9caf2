//! How honest the forecast is, over whole years of the simulated archive with different luck.

#[expect(dead_code, unreachable_pub, reason = "the simulator of the system tests; its comparison with pages is theirs")]
#[path = "../../../tests/src/archive.rs"]
mod archive;

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::thread;

use serde_json::Value;
use veghe_model::Timestamp;

use self::archive::{Archive, Size};
use super::calendar::Day;
use super::event::parse;
use super::facts::Facts;
use super::forecast::{Forecast, Honesty, look_back};
use super::inventory::{Mapping, read_csv};
use super::{Digitization, Settings};

/// What the project knows of the strike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strike {
    /// Five working days without work, as far as it knows.
    Silent,
    /// Days off of its calendar, as an office declares them.
    Declared,
}

/// A year of the whole archive; files of many images, so that there are few events.
fn year(seed: u64, strike: Strike) -> Honesty {
    let mut archive = Archive::new(Size { seed, images_a_file: 1000, ..Size::WHOLE });
    let mut settings = Settings::default();
    if strike == Strike::Declared {
        settings.calendar.days_off.extend(archive.strike().map(|day| Day(day as i32)));
    }
    let project = Digitization::in_memory(settings);
    let units = read_csv(archive.inventory().as_bytes(), &Mapping::default()).units;
    project.adopt(&units, 0, "simulated", Timestamp(0)).expect("adopted");
    let receive = |events: &mut Vec<Value>| {
        let body = Value::Array(std::mem::take(events)).to_string();
        let receipt = project.submit(parse(body.as_bytes())?, Timestamp(2_000_000_000_000))?;
        anyhow::ensure!(receipt.refused.is_empty(), "refused: {:?}", receipt.refused);
        Ok(())
    };
    archive.run(receive).expect("received");
    let facts = Facts::of(&project.state(), project.settings());
    let finished = facts.finished().expect("everything is back");
    assert_eq!(finished.to_string(), archive.books.finished);
    look_back(&facts, Day(finished.0 + 1), project.settings())
}

/// Of all weeks of the years of `seeds`, the shares whose P50, P85 and P95 held; and a line about each year.
fn shares(seeds: RangeInclusive<u64>, strike: Strike) -> ([f64; 3], f64, String) {
    let half = seeds.clone().count() / 2;
    let years: Vec<(u64, Honesty)> = thread::scope(|scope| {
        let (first, rest) = (seeds.clone().take(half), seeds.skip(half));
        let first = scope.spawn(|| first.map(|seed| (seed, year(seed, strike))).collect::<Vec<_>>());
        let mut rest: Vec<_> = rest.map(|seed| (seed, year(seed, strike))).collect();
        rest.extend(first.join().expect("years"));
        rest
    });
    let (mut held, mut weeks, mut lines) = ([0; 3], 0, String::new());
    let (mut after, mut after_weeks) = (0, 0);
    let end = Archive::new(Size::WHOLE).strike().end as i32;
    for (seed, honesty) in years {
        let finished = honesty.finished.expect("finished");
        let dates = |forecast: &Forecast| [forecast.p50, forecast.p85, forecast.p95];
        let late: Vec<[i32; 3]> =
            honesty.weeks.iter().map(|week| dates(&week.forecast).map(|day| day.0 - finished.0)).collect();
        for week in honesty.weeks.iter().filter(|week| (end..end + 84).contains(&week.as_of.0)) {
            (after, after_weeks) = (after + week.forecast.p50.0 - finished.0, after_weeks + 1);
        }
        let of_year = [0, 1, 2].map(|n| late.iter().filter(|late| late[n] >= 0).count());
        weeks += late.len();
        (0..3).for_each(|n| held[n] += of_year[n]);
        let weeks = late.len();
        writeln!(lines, "seed {seed}: finished {finished}, of {weeks} weeks held {of_year:?}; days late {late:?}")
            .expect("a string takes every write");
    }
    let shares = held.map(|held| held as f64 / weeks as f64);
    let after = f64::from(after) / f64::from(after_weeks.max(1));
    let line = format!(
        "of {weeks} weeks the P50, P85, P95 held in {shares:.3?}; in the twelve after the strike the P50 was {after:.1} days late"
    );
    (shares, after, lines + &line + "\n")
}

/// Four years are enough to notice a change; `VEGHE_HONESTY_YEARS=16` takes a minute and prints every week's error.
#[test]
fn a_p85_holds_about_as_often_as_it_says() {
    let more: Option<u64> = std::env::var("VEGHE_HONESTY_YEARS").ok().and_then(|years| years.parse().ok());
    let late = [Strike::Silent, Strike::Declared].map(|strike| {
        let ([p50, p85, p95], late, lines) = shares(1..=more.unwrap_or(4), strike);
        if more.is_some() {
            std::io::stderr().write_all(lines.as_bytes()).expect("standard error");
        }
        assert!((0.75..=0.95).contains(&p85) && p50 < p85 && p85 <= p95, "{lines}");
        late.abs()
    });
    // What the calendar knows of is no pace: the strike is over once and does not come again in every draw.
    assert!(late[1] < late[0], "declared {} days late, silent {}", late[1], late[0]);
}
