//! `/digitization/what-if`: the forecast of now beside that of other stations, shifts, rejects and days off.
//!
//! What it deliberately does not do: work anything out; `what_if` does.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::api::blocking;
use super::page::{Words, html, in_other_language, language};
use super::what_if::{Answer, PARAMETERS, work_it_out};
use crate::clock;
use crate::digitization::Digitization;
use crate::digitization::calendar::Day;
use crate::digitization::event::NO_STATION;
use crate::digitization::forecast::Forecast;
use crate::digitization::report::Report;

struct Field {
    name: &'static str,
    label: String,
    value: String,
    hint: &'static str,
    /// Of the attribute `type`, and what it needs besides.
    kind: &'static str,
    limits: &'static str,
    problem: Option<String>,
}

#[derive(Template)]
#[template(path = "digitization/what_if.html")]
struct WhatIfPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    fields: Vec<Field>,
    problem: bool,
    /// Name, now, assumed.
    rows: Vec<(String, String, String)>,
    /// The same question in the other language, and as JSON.
    same: String,
    json: String,
}

/// The fields of the form: name, type, limits, an example, in the order in which people change them.
const FIELDS: [(&str, &str, &str, &str); 9] = [
    ("stations_now", "number", "min=0.5 max=1000 step=0.5", "4"),
    ("stations", "number", "min=0.5 max=1000 step=0.5", "5"),
    ("shifts_now", "number", "min=0.25 max=8 step=0.25", "1"),
    ("shifts", "number", "min=0.25 max=8 step=0.25", "2"),
    ("rejects", "number", "min=0 max=90 step=0.1", "3.5"),
    ("days_off", "text", "maxlength=1000", "2026-12-21..2026-12-24, 2027-01-04"),
    ("from", "date", "", "2026-03-02"),
    ("pages", "number", "min=0 step=1", "900000"),
    ("per_day", "number", "min=0.001 step=any", "5000"),
];

pub(super) async fn show(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        // What is left empty is as it is now.
        let mut given = BTreeMap::<String, String>::new();
        for (name, value) in url::form_urlencoded::parse(query.as_deref().unwrap_or("").as_bytes()).take(20) {
            if PARAMETERS.contains(&&*name) && !value.trim().is_empty() {
                given.insert(name.into_owned(), value.trim().to_owned());
            }
        }
        let report = digitization.report(clock::now());
        let stations = report.progress.by_station.iter().filter(|row| row.name != NO_STATION).count();
        let is_asked = !given.is_empty();
        given.entry("stations_now".to_owned()).or_insert_with(|| stations.max(1).to_string());
        let asked = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&given).finish();
        let answer = work_it_out(&digitization, &asked);
        let problems = answer.as_ref().err().cloned().unwrap_or_default();
        let fields = FIELDS.map(|(name, kind, limits, example)| Field {
            name,
            label: w.t(&format!("digi-what-if-{}", name.replace('_', "-"))),
            value: given.get(name).cloned().unwrap_or_default(),
            hint: if kind == "text" { example } else { "" },
            kind,
            limits,
            // Without anything to go by, pages and pace are missing: that is no mistake before something was asked. The
            // messages of the API are in English.
            problem: problems.iter().any(|(field, _)| field == name).then(|| {
                let key = if is_asked { "digi-what-if-bad" } else { "digi-what-if-unknown" };
                w.0.with(key, &[("example", example.into())])
            }),
        });
        let page = WhatIfPage {
            w,
            project: &digitization.settings().project,
            title: w.t("digi-what-if"),
            problem: is_asked && answer.is_err(),
            fields: fields.into(),
            rows: answer.map_or_else(|_| Vec::new(), |answer| rows(&report, &answer, w)),
            same: in_other_language(query.as_deref(), w),
            json: asked,
        };
        let status = if page.problem { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        html(&page, w, status)
    })
    .await
}

fn rows(report: &Report, answer: &Answer, w: Words) -> Vec<(String, String, String)> {
    let day = |day: Option<Day>| day.map_or_else(|| "–".to_owned(), |day| w.day(day));
    let (now, then) = (report.forecast.as_ref(), answer.forecast.as_ref());
    let mut rows = Vec::new();
    let outcome = &answer.outcome;
    if then.is_some() {
        for (name, of) in [("P50", (|f| f.p50) as fn(&Forecast) -> Day), ("P85", |f| f.p85), ("P95", |f| f.p95)] {
            rows.push((name.to_owned(), day(now.map(of)), day(then.map(of))));
        }
    }
    let none = || "–".to_owned();
    rows.push((
        w.t("digi-what-if-finish"),
        none(),
        outcome.finish.map_or_else(|| w.t("digi-what-if-never"), |d| w.day(d)),
    ));
    rows.push((
        w.t("digi-what-if-pace"),
        w.count(answer.assumptions.per_day.round()),
        w.count(outcome.pages_per_day.round()),
    ));
    rows.push((w.t("digi-what-if-to-scan"), w.count(answer.assumptions.pages), w.count(outcome.pages_to_scan)));
    rows.push((w.t("digi-what-if-working-days"), none(), w.count(outcome.working_days)));
    rows.push((w.t("digi-what-if-holidays"), none(), w.count(outcome.holidays)));
    rows
}
