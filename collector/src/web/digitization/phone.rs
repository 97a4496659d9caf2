//! The page for phones on the floor: a unit went through the door of a physical stage, or its paper moved. No file shows
//! that, so somebody scans or types the code.
//!
//! Invariants: it works without script as a plain form; the script sends the same events as any other sender, with ids of
//! their own, so that a repeat is harmless; who is not signed in for `events` sends nothing. What it deliberately does not
//! do: know who holds the phone.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use serde_json::json;

use super::super::prometheus_api::rfc3339;
use super::api::{blocking, unavailable};
use super::page::{Words, html, language};
use crate::clock;
use crate::digitization::event::{TYPE_PREFIX, parse};
use crate::digitization::stage::Stage;
use crate::digitization::{Digitization, Receipt};

/// Whose events these are.
const SOURCE: &str = "//floor/phone";
/// Our own scripts, worker, answers and icon; nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// What can be told: a stage and the way through its door.
const ACTIONS: [(Stage, &str); 7] = [
    (Stage::Prep, "enter"),
    (Stage::Prep, "exit"),
    (Stage::Scan, "enter"),
    (Stage::Scan, "exit"),
    (Stage::Reassemble, "enter"),
    (Stage::Reassemble, "exit"),
    (Stage::Returned, "enter"),
];
/// The action of paper that moved.
const MOVED: &str = "moved";

struct Action {
    value: String,
    name: String,
}

#[derive(Template)]
#[template(path = "digitization/phone.html")]
struct PhonePage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    actions: Vec<Action>,
    chosen: &'a str,
    place: &'a str,
    id: String,
    said: Option<String>,
    problem: Option<String>,
}

fn page(digitization: &Digitization, w: Words, told: &Told, said: Option<String>, problem: Option<String>) -> Response {
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        tracing::error!(%error, "cannot make an id");
    }
    let mut actions: Vec<Action> = ACTIONS
        .iter()
        .map(|(stage, change)| {
            let key =
                if *stage == Stage::Returned { "digi-phone-back".to_owned() } else { format!("digi-phone-{change}") };
            let name =
                if *stage == Stage::Returned { w.t(&key) } else { format!("{}: {}", w.stage(*stage), w.t(&key)) };
            Action { value: format!("{}:{change}", stage.name()), name }
        })
        .collect();
    actions.push(Action { value: MOVED.to_owned(), name: w.t("digi-phone-moved") });
    let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let page = PhonePage {
        w,
        project: &digitization.settings().project,
        title: w.t("digi-phone"),
        actions,
        chosen: told.action.as_deref().unwrap_or("scan:enter"),
        place: told.place.as_deref().unwrap_or(""),
        id: format!("{:032x}", u128::from_be_bytes(random)),
        said,
        problem,
    };
    let mut response = html(&page, w, status);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

pub(super) async fn show(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || page(&digitization, w, &Told::default(), None, None)).await
}

/// Behind the guard of `events`: the browser asks for user and password, and is led back.
pub(super) async fn sign_in(RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let w = language(query.as_deref(), &headers);
    Redirect::to(&format!("/digitization/scan-in?lang={}", w.tag())).into_response()
}

/// What the form tells.
#[derive(Default, Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    id: String,
    #[serde(default)]
    unit: String,
    action: Option<String>,
    place: Option<String>,
}

pub(super) async fn tell(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Result<axum::Form<Told>, axum::extract::rejection::FormRejection>,
) -> Response {
    let told = form.map(|axum::Form(told)| told).unwrap_or_default();
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let unit = told.unit.trim().to_owned();
        let (kind, data) = match told.action.as_deref().unwrap_or("") {
            MOVED => ("custody.moved", json!({ "unit": unit, "to": told.place.as_deref().unwrap_or("").trim() })),
            action => {
                let (stage, change) = action.split_once(':').unwrap_or((action, ""));
                ("unit.stage", json!({ "unit": unit, "stage": stage, "change": change }))
            }
        };
        let now = clock::now();
        let event = json!([{
            "specversion": "1.0", "type": format!("{TYPE_PREFIX}{kind}"), "source": SOURCE, "id": told.id,
            "time": rfc3339(now), "data": data,
        }]);
        let events = parse(event.to_string().as_bytes()).unwrap_or_default();
        match digitization.submit(events, now) {
            Ok(receipt) => {
                let (said, problem) = outcome(&receipt, &unit, w);
                page(&digitization, w, &told, said, problem)
            }
            Err(error) => unavailable(&error),
        }
    })
    .await
}

fn outcome(receipt: &Receipt, unit: &str, w: Words) -> (Option<String>, Option<String>) {
    if let Some((_, refused)) = receipt.refused.first() {
        let problems: Vec<String> =
            refused.problems.iter().map(|(field, message)| format!("{field} {message}")).collect();
        return (None, Some(problems.join("; ")));
    }
    let key = if receipt.quarantined > 0 { "digi-phone-unknown" } else { "digi-phone-kept" };
    (Some(w.0.with(key, &[("unit", unit.to_owned().into())])), None)
}

fn text(media_type: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        // A phone asks each time whether the worker is still the same.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("service-worker-allowed"), HeaderValue::from_static("/digitization/scan-in")),
        // What the worker itself may fetch follows from the policy of its file.
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, body).into_response()
}

pub(super) async fn script() -> Response {
    text("text/javascript; charset=utf-8", include_str!("phone/scan-in.js"))
}

pub(super) async fn worker() -> Response {
    text("text/javascript; charset=utf-8", include_str!("phone/scan-in-worker.js"))
}
