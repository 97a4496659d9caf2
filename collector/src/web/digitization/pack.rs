//! Reports over HTTP: the list, each as a page that prints well, as XLSX, CSV and JSON; and `POST` that freezes one.
//!
//! What it deliberately does not do: count. `digitization::pack` does.

use askama::Template;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use serde_json::json;
use veghe_model::Timestamp;

use super::super::Refusal;
use super::super::prometheus_api::rfc3339;
use super::super::public::text::Language as PageLanguage;
use super::api::{blocking, unavailable};
use super::chart;
use super::linked::ReportLinks;
use super::page::{Words, html, language};
use super::what_if::refusal;
use crate::clock;
use crate::digitization::calendar::Day;
use crate::digitization::pack::words;
use crate::digitization::pack::words::Word;
use crate::digitization::pack::{Figures, Form, Growth, IssueError, Issued, Language, Length, Paper, Part, Period};
use crate::digitization::provenance::Of;
use crate::digitization::stage::Stage;
use crate::digitization::{Digitization, Settings};
use crate::ledger::LedgerError;

/// Reports of one list.
const MAX_LISTED: usize = 500;

/// Where reports are.
pub(super) const PATH: &str = "/digitization/reports";

/// The language of reports that is that of pages.
pub(super) fn of(words: Words) -> Language {
    match words.0 {
        PageLanguage::Romanian => Language::Romanian,
        PageLanguage::English => Language::English,
    }
}

struct Line {
    period: Period,
    title: String,
    issued: String,
    machine: String,
    number: u64,
    digest: String,
}

#[derive(Template)]
#[template(path = "digitization/reports.html")]
struct ListPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    reports: Vec<Line>,
    drafts: Vec<(Period, String, bool)>,
    problems: Vec<String>,
}

pub(super) async fn list(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let words = language(query.as_deref(), &headers);
    blocking(move || match list_page(&digitization, words) {
        Ok(page) => html(&page, words, StatusCode::OK),
        Err(error) => unavailable(&error),
    })
    .await
}

fn list_page(digitization: &Digitization, words: Words) -> Result<ListPage<'_>, LedgerError> {
    let settings = digitization.settings();
    let issued = digitization.issued(MAX_LISTED)?;
    let problems = digitization.verify_reports()?.problems;
    let today = Day::at(clock::now(), &settings.time_zone);
    let mut drafts = Vec::new();
    for length in [Length::Week, Length::Month] {
        let now = Period::containing(length, today);
        for period in [now, now.previous(), now.previous().previous()] {
            if issued.iter().all(|header| header.period != period) {
                drafts.push((period, of(words).title(period), period.last() < today));
            }
        }
    }
    let reports = issued
        .into_iter()
        .map(|header| Line {
            period: header.period,
            title: of(words).title(header.period),
            issued: moment(header.issued_ms, settings),
            machine: rfc3339(Timestamp(header.issued_ms)),
            number: header.number,
            digest: header.digest,
        })
        .collect();
    Ok(ListPage { w: words, project: &settings.project, title: words.t("digi-reports"), reports, drafts, problems })
}

fn moment(ms: i64, settings: &Settings) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.to_zoned_datetime(settings.time_zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

#[derive(Template)]
#[template(path = "digitization/report.html")]
struct ReportPage<'a> {
    w: Words,
    l: Language,
    project: &'a str,
    title: String,
    f: &'a Figures,
    issued: Option<&'a Issued>,
    made: String,
    measures: Vec<[String; 5]>,
    burn_up: String,
    days_chart: String,
    days: Vec<(String, String, [String; 5])>,
    first_looks: [String; 2],
    stages: Vec<(Stage, [String; 4])>,
    outputs: Vec<(String, [String; 5])>,
    rework: Vec<[String; 4]>,
    accepted: [String; 2],
    billed: [String; 2],
}

/// `2026-05`, `2026-05.xlsx`, `2026-05.csv`, `2026-05.json`.
pub(super) async fn one(
    State(digitization): State<Digitization>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let words = language(query.as_deref(), &headers);
    let (period, form) = match name.rsplit_once('.') {
        Some((period, extension)) => {
            (period, Form::ALL.into_iter().find(|form| form.extension() == extension).map(Some))
        }
        None => (name.as_str(), Some(None)),
    };
    let (Ok(period), Some(form)) = (period.parse::<Period>(), form) else {
        let message = "there is no such report; ask for example for 2026-W19, 2026-05 or 2026-05.xlsx";
        return Refusal::new(StatusCode::NOT_FOUND, "unknown_report", message)
            .in_words(|language| language.text("digi-report-unknown"))
            .with_more(format!("{PATH}?"), |language| language.text("digi-reports"))
            .into_response();
    };
    blocking(move || {
        let paper = match digitization.paper(period) {
            Ok(paper) => paper,
            Err(error) => return unavailable(&error),
        };
        match form {
            None => html(&page(&digitization, &paper, words), words, StatusCode::OK),
            Some(form) => file(&paper, form, of(words)),
        }
    })
    .await
}

fn file(paper: &Paper, form: Form, language: Language) -> Response {
    match paper.write(form, language) {
        Ok(bytes) => {
            let disposition = format!("attachment; filename=\"{}\"", paper.file_name(form, language));
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static(form.media_type())),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (
                    header::CONTENT_DISPOSITION,
                    HeaderValue::from_str(&disposition).expect("invariant: a name of ours is ASCII"),
                ),
            ];
            (headers, bytes).into_response()
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot write a report");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "defect", "the collector's log says why").into_response()
        }
    }
}

fn page<'a>(digitization: &'a Digitization, paper: &'a Paper, words: Words) -> ReportPage<'a> {
    let (f, l, settings) = (paper.figures(), of(words), digitization.settings());
    let metres = |mm: i64| words.decimal(mm as f64 / 1000.0, 3);
    let share = |part: i64, whole: i64| words.percent((whole > 0).then(|| part as f64 / whole as f64));
    let links = ReportLinks::new(f, words);
    let dash = || "–".to_owned();
    let mut measures = Vec::new();
    let counts: [(Word, Of, &str, Growth, Part, bool); 7] = [
        (words::METRES_DONE, Of::Done, "mm", f.done, |t| t.mm, true),
        (words::UNITS_DONE, Of::Done, "units", f.done, |t| t.units, true),
        (words::SHEETS_DONE, Of::Done, "sheets", f.done, |t| t.sheets, true),
        (words::IMAGES_DONE, Of::Done, "images", f.done, |t| t.images, false),
        (words::UNITS_SCANNED, Of::Scanned, "units", f.scanned, |t| t.units, true),
        (words::UNITS_ACCEPTED, Of::Accepted, "units", f.accepted, |t| t.units, true),
        (words::IMAGES_ACCEPTED, Of::Accepted, "images", f.accepted, |t| t.images, false),
    ];
    for (name, of, measure, growth, value, has_scope) in counts {
        let text = |n: i64| if measure == "mm" { metres(n) } else { words.count(n) };
        let [in_period, so_far] = links.growth(&text, of, measure, growth, value);
        let whole = value(f.scope);
        let of_scope = if has_scope {
            [links.scope(text(whole), measure, value), share(value(growth.so_far), whole)]
        } else {
            [dash(), dash()]
        };
        let [whole, share] = of_scope;
        measures.push([l.of(name).to_owned(), in_period, so_far, whole, share]);
    }
    let [in_period, so_far] = links.images();
    measures.push([l.of(words::IMAGES).to_owned(), in_period, so_far, dash(), dash()]);
    let days = f.days.iter().enumerate();
    let days = days.filter(|(_, day)| day.is_working || day.captured + day.rescanned + day.mm_done != 0);
    ReportPage {
        w: words,
        l,
        project: &settings.project,
        title: format!("{} · {}", l.title(f.period), f.project),
        f,
        issued: paper.issued(),
        made: paper.issued().map_or_else(String::new, |issued| moment(issued.issued_ms, settings)),
        measures,
        burn_up: chart::line(
            &f.burn_up,
            f.scope.mm,
            l.of(words::CHART_METRES),
            l.of(words::SCOPE),
            words.axis_metres(f.scope.mm.unsigned_abs()),
        ),
        days_chart: chart::bars(
            f.days.iter().map(|day| (day.day, day.captured, day.rescanned)),
            l.of(words::CHART_IMAGES),
            |n| words.count(n.round() as i64),
            |day| day.to_string(),
        ),
        days: days
            .map(|(place, day)| {
                let is_working = l.of(if day.is_working { words::YES } else { words::NO });
                (day.day.to_string(), is_working.to_owned(), links.day(place, &metres))
            })
            .collect(),
        first_looks: links.first_looks(),
        stages: links.stages(),
        outputs: links.outputs(l.of(words::SHIFT)),
        rework: links.rework(),
        accepted: links.accepted(),
        billed: links.billed(),
    }
}

pub(super) async fn list_json(State(digitization): State<Digitization>) -> Response {
    blocking(move || match (digitization.issued(MAX_LISTED), digitization.verify_reports()) {
        (Ok(reports), Ok(verified)) => Json(json!({ "reports": reports, "verified": verified })).into_response(),
        (Err(error), _) | (_, Err(error)) => unavailable(&error),
    })
    .await
}

pub(super) async fn one_json(State(digitization): State<Digitization>, Path(period): Path<String>) -> Response {
    let period = match period.parse::<Period>() {
        Ok(period) => period,
        Err(problem) => return refusal(&[("period".to_owned(), problem)]),
    };
    blocking(move || match digitization.paper(period) {
        Ok(Paper::Issued(issued)) => Json(issued).into_response(),
        Ok(Paper::Draft(figures)) => Json(json!({ "draft": true, "figures": figures })).into_response(),
        Err(error) => unavailable(&error),
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    period: String,
}

fn issue(digitization: &Digitization, period: &str) -> Result<Issued, Box<Response>> {
    let wrong = |problem: String| Box::new(refusal(&[("period".to_owned(), problem)]));
    let period: Period = period.parse().map_err(wrong)?;
    digitization.issue(period, clock::now()).map_err(|error| match error {
        IssueError::NotOver(_) | IssueError::Empty => {
            let key = if matches!(error, IssueError::Empty) { "digi-empty" } else { "digi-report-not-over" };
            let refusal = Refusal::of_fields(&[("period".to_owned(), error.to_string())]);
            Box::new(refusal.in_words(|language| language.text(key)).into_response())
        }
        IssueError::Ledger(error) => Box::new(unavailable(&error)),
    })
}

pub(super) async fn issue_json(
    State(digitization): State<Digitization>,
    body: Result<Json<Wanted>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Json(wanted) = match body {
        Ok(wanted) => wanted,
        Err(rejection) => {
            let text = format!("write for example {{\"period\": \"2026-05\"}}: {}", rejection.body_text());
            return refusal(&[("period".to_owned(), text)]);
        }
    };
    blocking(move || match issue(&digitization, &wanted.period) {
        Ok(issued) => Json(issued).into_response(),
        Err(refused) => *refused,
    })
    .await
}

/// From the page: the browser asks for user and password.
pub(super) async fn issue_form(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Result<axum::Form<Wanted>, axum::extract::rejection::FormRejection>,
) -> Response {
    let words = language(query.as_deref(), &headers);
    let Ok(axum::Form(wanted)) = form else {
        return refusal(&[("period".to_owned(), "is missing; write for example period=2026-05".to_owned())]);
    };
    blocking(move || match issue(&digitization, &wanted.period) {
        Ok(issued) => Redirect::to(&format!("{PATH}/{}?lang={}", issued.figures.period, words.tag())).into_response(),
        Err(refused) => *refused,
    })
    .await
}
