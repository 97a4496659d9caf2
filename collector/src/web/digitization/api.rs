//! The project as JSON: `/v1/digitization/project`, `units`, `units/{code}`, `stations`, `days`, `quarantine`, and
//! `POST freeze`.
//!
//! Every number leads to its events: a unit's answer has them all, page by page.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use veghe_model::Timestamp;

use super::super::Refusal;
use super::super::prometheus_api::rfc3339;
use super::what_if::refusal;
use crate::clock;
use crate::digitization::stage::Stage;
use crate::digitization::standing::Doing;
use crate::digitization::state::UnitState;
use crate::digitization::{Digitization, FreezeError};
use crate::ledger::LedgerError;

/// Rows of one answer at most.
const MAX_ROWS: usize = 1000;
/// Rows where nobody says how many.
const DEFAULT_ROWS: usize = 100;

/// Runs `work` where it may block.
pub(super) async fn blocking(work: impl FnOnce() -> Response + Send + 'static) -> Response {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panicked| {
        tracing::error!(error = &panicked as &dyn std::error::Error, "a request failed unexpectedly");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "defect", "the request failed unexpectedly").into_response()
    })
}

pub(super) fn unavailable(error: &LedgerError) -> Response {
    tracing::error!(error = error as &dyn std::error::Error, "cannot read the ledger");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the collector's log says why").into_response()
}

pub(super) async fn project(State(digitization): State<Digitization>) -> Response {
    blocking(move || {
        let report = digitization.report(clock::now());
        let mut body = serde_json::to_value(&*report).unwrap_or_default();
        body["project"] = json!(digitization.settings().project);
        // What is long has an address of its own.
        if let Some(progress) = body["progress"].as_object_mut() {
            progress.remove("days");
        }
        Json(body).into_response()
    })
    .await
}

pub(super) async fn days(State(digitization): State<Digitization>) -> Response {
    blocking(move || Json(json!({ "days": digitization.report(clock::now()).progress.days })).into_response()).await
}

pub(super) async fn stations(State(digitization): State<Digitization>) -> Response {
    blocking(move || {
        let report = digitization.report(clock::now());
        let progress = &report.progress;
        let body = json!({
            "stations": progress.stations,
            "lately_by_station": progress.by_station,
            "lately_by_shift": progress.by_shift,
        });
        Json(body).into_response()
    })
    .await
}

pub(super) async fn quarantine(State(digitization): State<Digitization>) -> Response {
    blocking(move || {
        let state = digitization.state();
        let events: u64 = state.quarantine.values().map(|waiting| waiting.events).sum();
        let rows: Vec<Value> = state
            .quarantine
            .iter()
            .take(MAX_ROWS)
            .map(|(unit, waiting)| {
                json!({
                    "unit": unit,
                    "events": waiting.events,
                    "images": waiting.images,
                    "first": rfc3339(waiting.first),
                    "last": rfc3339(waiting.last),
                })
            })
            .collect();
        Json(json!({ "units": state.quarantine.len(), "events": events, "rows": rows })).into_response()
    })
    .await
}

/// What a list of units is asked for.
#[derive(Default)]
pub(super) struct Wish {
    /// A part of code, title, batch, box or place, in small letters.
    pub(super) text: String,
    /// Units in or before this stage.
    pub(super) stage: Option<Stage>,
    /// Units after this one.
    pub(super) after: String,
    limit: usize,
}

impl Wish {
    pub(super) fn read(query: &str) -> Result<Self, Vec<(String, String)>> {
        let mut wish = Self { limit: DEFAULT_ROWS, ..Self::default() };
        let mut problems = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).take(20) {
            match &*name {
                "q" => wish.text = value.trim().chars().take(100).flat_map(char::to_lowercase).collect(),
                "stage" if value.is_empty() => {}
                "stage" => {
                    wish.stage = Stage::ALL.into_iter().find(|stage| stage.name() == value);
                    if wish.stage.is_none() {
                        let names = Stage::ALL.map(Stage::name).join(", ");
                        problems.push(("stage".to_owned(), format!("is none of {names}")));
                    }
                }
                "after" => wish.after = value.into_owned(),
                "limit" => match value.parse() {
                    Ok(limit) if (1..=MAX_ROWS).contains(&limit) => wish.limit = limit,
                    _ => problems.push(("limit".to_owned(), format!("is not a number of 1 to {MAX_ROWS}"))),
                },
                "lang" => {}
                other => {
                    let other = other.chars().take(40).collect();
                    problems.push((other, "is not known; there are q, stage, after, limit".to_owned()));
                }
            }
        }
        if problems.is_empty() { Ok(wish) } else { Err(problems) }
    }

    /// The units that are wanted, by code, and whether there are more.
    pub(super) fn choose<'a>(&self, state: &'a crate::digitization::State) -> (Vec<&'a UnitState>, bool) {
        let mut units = self.choose_most(state, self.limit + 1);
        let more = units.len() > self.limit;
        units.truncate(self.limit);
        (units, more)
    }

    /// Boxes that the text is in, after [`after`](Self::after), with the place of a unit in each; at most so many.
    pub(super) fn choose_boxes<'a>(
        &self,
        state: &'a crate::digitization::State,
        most: usize,
    ) -> Vec<(&'a str, &'a str)> {
        let boxes: BTreeMap<&str, &str> = state
            .scope()
            .map(|unit| (unit.unit.container.as_str(), unit.unit.location.as_str()))
            .filter(|(code, _)| !code.is_empty() && *code > self.after.as_str())
            .filter(|(code, _)| code.to_lowercase().contains(&self.text))
            .collect();
        boxes.into_iter().take(most).collect()
    }

    /// The units that are wanted, by code; at most so many.
    pub(super) fn choose_most<'a>(&self, state: &'a crate::digitization::State, most: usize) -> Vec<&'a UnitState> {
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        let mut units: Vec<&UnitState> = state
            .scope()
            .filter(|unit| unit.unit.code.as_str() > self.after.as_str())
            .filter(|unit| self.stage.is_none_or(|stage| unit.standing.queue() == Some(stage)))
            .filter(|unit| {
                let u = &unit.unit;
                self.text.is_empty()
                    || [&u.code, &u.title, &u.batch, &u.container, &u.location].into_iter().any(|text| has(text))
                    || unit.standing.place.as_deref().is_some_and(has)
            })
            .collect();
        units.sort_by(|a, b| a.unit.code.cmp(&b.unit.code));
        units.truncate(most);
        units
    }
}

pub(super) async fn units(State(digitization): State<Digitization>, RawQuery(query): RawQuery) -> Response {
    blocking(move || match Wish::read(query.as_deref().unwrap_or("")) {
        Ok(wish) => {
            let state = digitization.state();
            let (units, more) = wish.choose(&state);
            let next = units.last().filter(|_| more).map(|unit| unit.unit.code.clone());
            let rows: Vec<Value> = units.into_iter().map(unit_json).collect();
            Json(json!({ "units": rows, "next": next })).into_response()
        }
        Err(problems) => refusal(&problems),
    })
    .await
}

/// What the paper of a unit waits for, in a word.
pub(super) fn doing_name(doing: Doing) -> &'static str {
    match doing {
        Doing::Waits => "waiting",
        Doing::Works => "working",
        Doing::Held(hold) => hold.name(),
    }
}

fn unit_json(unit: &UnitState) -> Value {
    let standing = &unit.standing;
    json!({
        "unit": unit.unit,
        "withdrawn": unit.is_withdrawn,
        "stage": standing.stage,
        "queue": standing.queue(),
        "doing": doing_name(standing.doing),
        "since": (standing.since_ms != 0).then(|| rfc3339(Timestamp(standing.since_ms))),
        "place": standing.place,
        "due": standing.due_ms.map(|due| rfc3339(Timestamp(due))),
        "started": standing.started,
        "scanned": standing.scanned,
        "accepted": standing.accepted,
        "returned": standing.returned,
        "done": standing.done(),
        "delivered": standing.is_delivered,
        "rejections": standing.rework.len(),
        "images": unit.images,
        "rescanned": unit.rescanned,
        "expected_images": unit.expected_images(),
        "ocr_pages": unit.ocr_pages,
    })
}

pub(super) async fn unit(
    State(digitization): State<Digitization>,
    Path(code): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    blocking(move || {
        let (mut after, mut limit) = (0, MAX_ROWS);
        for (name, value) in url::form_urlencoded::parse(query.as_deref().unwrap_or("").as_bytes()).take(20) {
            let number = value.parse::<u64>().ok();
            match (&*name, number) {
                ("after", Some(number)) if i64::try_from(number).is_ok() => after = number,
                ("limit", Some(number)) if (1..=MAX_ROWS as u64).contains(&number) => limit = number as usize,
                (name, _) => {
                    let name: String = name.chars().take(40).collect();
                    return refusal(&[(name, format!("is not known, or no number; limit is 1 to {MAX_ROWS}"))]);
                }
            }
        }
        let shown = digitization.state().unit(&code).map(unit_json);
        let events = match digitization.history(&code, after, limit) {
            Ok(events) => events,
            Err(error) => return unavailable(&error),
        };
        if shown.is_none() && events.is_empty() {
            return super::page::unknown_unit(&code).into_response();
        }
        let next = events.last().filter(|_| events.len() == limit).map(|event| event.seq);
        let mut body = shown.unwrap_or_else(|| json!({ "quarantined": true }));
        body["events"] = json!(events);
        body["next"] = json!(next);
        Json(body).into_response()
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freeze {
    through: String,
}

pub(super) async fn freeze(
    State(digitization): State<Digitization>,
    body: Result<Json<Freeze>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let through = match body {
        Ok(Json(freeze)) => freeze.through.parse(),
        Err(rejection) => Err(format!("write for example {{\"through\": \"2026-05-31\"}}: {}", rejection.body_text())),
    };
    let through = match through {
        Ok(through) => through,
        Err(problem) => return refusal(&[("through".to_owned(), problem)]),
    };
    blocking(move || match digitization.freeze(through, clock::now()) {
        Ok(()) => Json(json!({ "frozen_through": digitization.state().frozen_through })).into_response(),
        Err(error @ FreezeError::NotPast(_)) => refusal(&[("through".to_owned(), error.to_string())]),
        Err(FreezeError::Ledger(error)) => unavailable(&error),
    })
    .await
}
