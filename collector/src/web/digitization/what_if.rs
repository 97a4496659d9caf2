//! `GET /v1/digitization/what-if`: when a number of pages is done under assumptions that the caller names.
//!
//! Every parameter that is wrong is told in one answer, by its name.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::super::Refusal;
use crate::clock;
use crate::digitization::calendar::{Day, LAST_DAY};
use crate::digitization::facts::Known;
use crate::digitization::forecast::{Forecast, RUNS, simulate};
use crate::digitization::what_if::{Assumptions, Outcome, work_out};
use crate::digitization::{Calendar, Digitization, Settings};

pub(super) const PARAMETERS: &[&str] =
    &["from", "pages", "per_day", "stations", "stations_now", "shifts", "shifts_now", "rejects", "days_off"];
/// Days off in one question: more than 20 years of leave.
const MAX_DAYS_OFF: usize = 1000;

/// What follows from a question.
pub(super) struct Answer {
    pub(super) assumptions: Assumptions,
    pub(super) outcome: Outcome,
    /// Of the project's own pages and pace, which have a spread.
    pub(super) forecast: Option<Forecast>,
}

pub(super) async fn answer(State(digitization): State<Digitization>, RawQuery(query): RawQuery) -> Response {
    let work = tokio::task::spawn_blocking(move || {
        let Answer { assumptions, outcome, forecast } = match work_it_out(&digitization, query.as_deref().unwrap_or(""))
        {
            Ok(answer) => answer,
            Err(problems) => return refusal(&problems),
        };
        let mut body = serde_json::to_value(outcome).unwrap_or_default();
        body["from"] = json!(assumptions.from);
        body["pages"] = json!(assumptions.pages);
        body["per_day"] = json!(assumptions.per_day);
        if let Some(forecast) = forecast {
            body["forecast"] = json!(forecast);
        }
        Json(body).into_response()
    });
    work.await.unwrap_or_else(|panicked| {
        tracing::error!(error = &panicked as &dyn std::error::Error, "what-if failed unexpectedly");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "defect", "the request failed unexpectedly").into_response()
    })
}

/// Reads a question and works it out. Blocks.
pub(super) fn work_it_out(digitization: &Digitization, query: &str) -> Result<Answer, Problems> {
    let known = digitization.report(clock::now()).known.clone();
    let today = Day::at(clock::now(), &digitization.settings().time_zone);
    let (assumptions, calendar, is_of_project) = read(query, today, known.as_ref(), digitization.settings())?;
    let outcome = work_out(&assumptions, &calendar);
    let forecast = known.filter(|_| is_of_project).and_then(|known| {
        let settings = Settings { calendar, ..digitization.settings().clone() };
        simulate(&assumed(known, &assumptions), &settings, RUNS)
    });
    Ok(Answer { assumptions, outcome, forecast })
}

/// What is known, with the stations, shifts and rejects that are assumed.
fn assumed(known: Known, assumptions: &Assumptions) -> Known {
    let factor = assumptions.stations.0 / assumptions.stations.1 * (assumptions.shifts.0 / assumptions.shifts.1);
    let history = known.history.iter().map(|made| made * factor).collect();
    let rework =
        if assumptions.rejects > 0.0 { assumptions.rejects / (1.0 - assumptions.rejects) } else { known.rework };
    Known { history, rework, ..known }
}

/// 400 with every problem by the name of its parameter.
pub(super) fn refusal(problems: &[(String, String)]) -> Response {
    Refusal::of_fields(problems).into_response()
}

pub(super) type Problems = Vec<(String, String)>;

/// The assumptions, the calendar, and whether pages and pace are the project's own.
fn read(
    query: &str,
    today: Day,
    known: Option<&Known>,
    settings: &Settings,
) -> Result<(Assumptions, Calendar, bool), Problems> {
    let mut problems = Problems::new();
    let mut given = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()).take(100) {
        if !PARAMETERS.contains(&&*name) {
            let shown: String = name.chars().take(40).collect();
            problems.push((shown, format!("is not known; there are {}", PARAMETERS.join(", "))));
        } else if given.insert(name.to_string(), value.into_owned()).is_some() {
            problems.push((name.into_owned(), "is given twice".to_owned()));
        }
    }
    let mut number = |name: &str, default: Option<f64>, from: f64, to: f64, example: &str| {
        let value = match given.get(name).map(|text| text.parse::<f64>()) {
            None => default,
            Some(Ok(number)) if (from..=to).contains(&number) => Some(number),
            Some(_) => {
                problems
                    .push((name.to_owned(), format!("is not a number of {from} to {to}; write for example {example}")));
                return default.unwrap_or(from);
            }
        };
        value.unwrap_or_else(|| {
            problems.push((name.to_owned(), format!("is missing; write for example {name}={example}")));
            from
        })
    };
    let remaining = known.map(|known| known.remaining.round());
    let usual = known.map(|known| known.history.iter().sum::<f64>() / known.history.len() as f64);
    let pages = number("pages", remaining, 0.0, 1e12, "900000");
    let per_day = number("per_day", usual.filter(|pace| *pace > 0.0), 0.001, 1e9, "5000");
    let stations_now = number("stations_now", Some(1.0), 0.5, 1000.0, "4");
    let stations = number("stations", Some(stations_now), 0.5, 1000.0, "5");
    let shifts_now = number("shifts_now", Some(1.0), 0.25, 8.0, "1");
    let shifts = number("shifts", Some(shifts_now), 0.25, 8.0, "2");
    let rejects = number("rejects", Some(0.0), 0.0, 90.0, "3.5") / 100.0;
    if pages.fract() != 0.0 {
        problems.push(("pages".to_owned(), "is not a whole number".to_owned()));
    }
    let from = match given.get("from").map(|text| text.parse::<Day>()) {
        None => today,
        Some(Ok(day)) => day,
        Some(Err(problem)) => {
            problems.push(("from".to_owned(), problem));
            today
        }
    };
    let is_of_project = known.is_some() && !["pages", "per_day", "from"].iter().any(|name| given.contains_key(*name));
    let mut calendar = settings.calendar.clone();
    match days_off(given.get("days_off").map_or("", String::as_str)) {
        Ok(days) => calendar.days_off.extend(days),
        Err(problem) => problems.push(("days_off".to_owned(), problem)),
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let (stations, shifts) = ((stations, stations_now), (shifts, shifts_now));
    Ok((Assumptions { from, pages: pages as u64, per_day, stations, shifts, rejects }, calendar, is_of_project))
}

/// Reads `2026-08-03,2026-12-21..2026-12-24`.
fn days_off(text: &str) -> Result<Vec<Day>, String> {
    let mut days = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let (first, last): (Day, Day) = (first.parse()?, last.parse()?);
        if last < first || last > LAST_DAY {
            return Err(format!("`{part}` ends before it begins"));
        }
        if days.len() + (last.0 - first.0) as usize >= MAX_DAYS_OFF {
            return Err(format!("are more than {MAX_DAYS_OFF} days"));
        }
        days.extend((first.0..=last.0).map(Day));
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    fn asked(query: &str) -> Result<String, Vec<String>> {
        let today = "2026-05-04".parse().expect("day");
        match read(query, today, None, &Settings::default()) {
            Ok((assumptions, calendar, _)) => {
                Ok(work_out(&assumptions, &calendar).finish.map_or("never".to_owned(), |day| day.to_string()))
            }
            Err(problems) => Err(problems.into_iter().map(|(field, message)| format!("{field}: {message}")).collect()),
        }
    }

    #[test]
    fn the_announced_archive_is_done_on_12_november_2026() {
        assert_eq!(asked("from=2026-03-02&pages=900000&per_day=5000").as_deref(), Ok("2026-11-12"));
        assert_eq!(
            asked("from=2026-03-02&pages=900000&per_day=5000&days_off=2026-08-03..2026-08-07,2026-03-02").as_deref(),
            Ok("2026-11-20")
        );
        assert_eq!(
            asked("from=2026-03-02&pages=900000&per_day=5000&stations=8&stations_now=4"),
            asked("from=2026-03-02&pages=900000&per_day=5000&shifts=2"),
        );
        assert_eq!(
            asked("from=2026-03-02&pages=900000&per_day=5000&rejects=10"),
            asked("from=2026-03-02&pages=1000000&per_day=5000")
        );
    }

    #[test]
    fn every_wrong_parameter_is_told_by_its_name() {
        let problems =
            asked("from=soon&pages=-1&per_day=x&days_off=2026-08-07..2026-08-03&speed=9&rejects=100&shifts=2&shifts=3")
                .expect_err("all wrong");
        let fields: Vec<&str> = problems.iter().filter_map(|p| p.split_once(':')).map(|(field, _)| field).collect();
        assert_eq!(fields, ["speed", "shifts", "pages", "per_day", "rejects", "from", "days_off"], "{problems:?}");
        let missing = asked("from=2026-03-02").expect_err("nothing to go by");
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("pages: is missing; write for example pages=900000"), "{missing:?}");
        assert!(asked("pages=1.5&per_day=1").is_err());
        assert!(asked("pages=1&per_day=nan").is_err());
    }

    #[test]
    fn days_off_are_bounded() {
        assert!(days_off("1900-01-01..2099-12-31").is_err());
        assert_eq!(days_off(" ,2026-08-03,").map(|days| days.len()), Ok(1));
    }
}
