//! The pages and answers about stations, quality, lots and fixity.
//!
//! What it deliberately does not do: count. `digitization` does.

use askama::Template;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use serde_json::json;

use super::super::Refusal;
use super::super::public::text::Language;
use super::api::{blocking, unavailable};
use super::figure::fig;
use super::page::{Words, html, language};
use super::what_if::refusal;
use super::{graph, journal, linked};
use crate::clock;
use crate::digitization::calendar::Day;
use crate::digitization::lots::{Lot, LotError, percent};
use crate::digitization::pack::words::REASONS;
use crate::digitization::privacy::people::Group;
use crate::digitization::provenance::Of;
use crate::digitization::quality::by_stratum;
use crate::digitization::report::Report;
use crate::digitization::sampling::{Inspection, limits};
use crate::digitization::views::{self, Fixity, StationDetail};
use crate::digitization::{Digitization, Settings};

/// Lots of the page.
const MAX_LOTS: usize = 300;

pub(super) fn moment(ms: i64, settings: &Settings) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.to_zoned_datetime(settings.time_zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

fn today(settings: &Settings) -> Day {
    Day::at(clock::now(), &settings.time_zone)
}

struct StationLine {
    detail: StationDetail,
    state: String,
    since: String,
    last_image: String,
    today: String,
    a_day: String,
    stops: [String; 3],
    sparkline: String,
    last_target: String,
}

#[derive(Template)]
#[template(path = "digitization/stations.html")]
struct StationsPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    stations: Vec<StationLine>,
    report: &'a Report,
    groups: Vec<Group>,
}

pub(super) async fn stations(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let settings = digitization.settings();
        let report = digitization.report(clock::now());
        let groups = match digitization.people() {
            Ok(groups) => groups,
            Err(error) => return unavailable(&error),
        };
        let details = views::stations(&digitization.state(), today(settings), settings);
        let lines = details.into_iter().zip(&report.progress.stations).map(|(detail, row)| StationLine {
            state: detail
                .state
                .map_or_else(|| "–".to_owned(), |(state, _)| w.t(&format!("digi-state-{}", state.name()))),
            since: detail.state.map_or_else(String::new, |(_, at_ms)| moment(at_ms, settings)),
            last_image: row.last_image_ms.map_or_else(|| "–".to_owned(), |ms| moment(ms, settings)),
            today: linked::today(row, &report.progress, w),
            a_day: linked::lately(row, &report.progress, w),
            stops: linked::stops(&detail, w),
            sparkline: graph::sparkline(
                &detail.targets.iter().filter_map(|target| target.delta_e_mean).collect::<Vec<f64>>(),
                &w.0.with("digi-target-chart", &[("station", detail.name.clone().into())]),
            ),
            last_target: detail.targets.last().map_or_else(
                || "–".to_owned(),
                |target| {
                    let verdict = w.t(if target.passed { "digi-target-passed" } else { "digi-target-failed" });
                    let error = target.delta_e_mean.map_or_else(String::new, |e| format!(", ΔE {}", w.decimal(e, 1)));
                    format!("{verdict}{error}, {}", moment(target.at_ms, settings))
                },
            ),
            detail,
        });
        let page = StationsPage {
            w,
            project: &settings.project,
            title: w.t("digi-stations"),
            stations: lines.collect(),
            report: &report,
            groups,
        };
        html(&page, w, StatusCode::OK)
    })
    .await
}

struct LotLine {
    batch: String,
    images: String,
    sample: String,
    accept: String,
    verdict: String,
    is_open: bool,
}

#[derive(Template)]
#[template(path = "digitization/quality.html")]
struct QualityPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    rules: usize,
    faults: Vec<linked::FaultLine>,
    pareto: String,
    lots: Vec<LotLine>,
    limits: Vec<(u32, String)>,
    duplicates: String,
    incomplete: String,
    first_pass: [String; 2],
    rework: Vec<[String; 4]>,
}

/// A number of a draw, as a link to the event that keeps it.
fn drawn(lot: &Lot, text: &str, w: Words, settings: &Settings) -> String {
    journal::link(w, text, "lot.drawn", lot.at.0, ("batch", &lot.draw.batch), settings)
}

/// How a lot was judged, as a link to that event where it was.
fn verdict(lot: &Lot, w: Words, settings: &Settings) -> String {
    match &lot.verdict {
        None => w.t("digi-lot-open"),
        Some(verdict) => {
            let outcome = w.t(if verdict.is_accepted { "digi-lot-accepted" } else { "digi-lot-rejected" });
            let text = format!("{outcome} ({})", w.count(verdict.defects));
            journal::link(w, &text, "qc.result", verdict.at.0, ("batch", &lot.draw.batch), settings)
        }
    }
}

pub(super) async fn quality(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let settings = digitization.settings();
        let report = digitization.report(clock::now());
        let state = digitization.state();
        let mut lots: Vec<&Lot> = state.lots.values().collect();
        lots.sort_by_key(|lot| std::cmp::Reverse(lot.seq));
        let lots = lots.into_iter().take(MAX_LOTS).map(|lot| LotLine {
            batch: lot.draw.batch.clone(),
            images: drawn(lot, &w.count(lot.draw.images), w, settings),
            sample: drawn(lot, &w.count(lot.draw.plan.sample), w, settings),
            accept: drawn(lot, &w.count(lot.draw.plan.accept), w, settings),
            verdict: verdict(lot, w, settings),
            is_open: lot.verdict.is_none(),
        });
        let ranked: Vec<(String, i64)> = report
            .progress
            .rework
            .iter()
            .take(12)
            .map(|row| (w.reason(&row.reason).to_owned(), row.lost_days as i64))
            .collect();
        let page = QualityPage {
            w,
            project: &settings.project,
            title: w.t("digi-quality"),
            rules: settings.quality.len(),
            faults: linked::faults(&by_stratum(&state), w),
            pareto: graph::ranking(&ranked, &w.t("digi-rework"), |n| w.count(n)),
            lots: lots.collect(),
            limits: limits().iter().map(|limit| (*limit, w.decimal_text(&percent(*limit)))).collect(),
            duplicates: fig(w, w.count(state.duplicates), state.duplicates, Of::Duplicates, &[]),
            incomplete: linked::incomplete(&report.progress, w),
            first_pass: linked::first_pass(&report.progress, w),
            rework: linked::rework(&report.progress.rework, w),
        };
        html(&page, w, StatusCode::OK)
    })
    .await
}

pub(super) async fn quality_json(State(digitization): State<Digitization>) -> Response {
    blocking(move || {
        let report = digitization.report(clock::now());
        let state = digitization.state();
        let body = json!({
            "first_pass": report.progress.first_pass,
            "first_pass_lately": report.progress.first_pass_lately,
            "rework": report.progress.rework,
            "strata": by_stratum(&state),
            "incomplete_files": state.incomplete,
            "duplicates": state.duplicates,
            "lots": state.lots.values().map(lot_json).collect::<Vec<_>>(),
        });
        Json(body).into_response()
    })
    .await
}

fn lot_json(lot: &Lot) -> serde_json::Value {
    json!({
        "batch": lot.draw.batch,
        "units": lot.draw.units,
        "images": lot.draw.images,
        "inspection": lot.draw.plan.inspection,
        "aql_percent": f64::from(lot.draw.plan.limit) / 1000.0,
        "letter": lot.draw.plan.letter,
        "sample": lot.draw.plan.sample,
        "accept": lot.draw.plan.accept,
        "reject": lot.draw.plan.accept + 1,
        "seed": lot.draw.seed,
        "drawn_at_ms": lot.at.0,
        "drawn": lot.draw.drawn,
        "verdict": lot.verdict,
        "event": lot.seq,
    })
}

#[derive(Template)]
#[template(path = "digitization/lot.html")]
struct LotPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    lot: &'a Lot,
    at: String,
    limit: String,
    /// Units, images, sample, accept, reject.
    numbers: [String; 5],
    verdict: String,
    verdict_at: String,
}

pub(super) async fn lot(
    State(digitization): State<Digitization>,
    Path(batch): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let settings = digitization.settings();
        let state = digitization.state();
        let Some(lot) = state.lots.get(&batch) else { return unknown_lot(&batch).into_response() };
        let page = LotPage {
            w,
            project: &settings.project,
            title: w.0.with("digi-lot-minutes", &[("batch", batch.clone().into())]),
            lot,
            at: moment(lot.at.0, settings),
            limit: w.decimal_text(&percent(lot.draw.plan.limit)),
            numbers: {
                let plan = &lot.draw.plan;
                [lot.draw.units, lot.draw.images, plan.sample, plan.accept, plan.accept + 1]
                    .map(|count| drawn(lot, &w.count(count), w, settings))
            },
            verdict: verdict(lot, w, settings),
            verdict_at: lot.verdict.as_ref().map_or_else(String::new, |verdict| moment(verdict.at.0, settings)),
        };
        html(&page, w, StatusCode::OK)
    })
    .await
}

fn unknown_lot(batch: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_lot", "this batch was never drawn")
        .in_words(|language| language.with("digi-lot-unknown", &[("batch", batch.into())]))
        .with_more("/digitization/quality?".to_owned(), |language| language.text("digi-lots"))
}

pub(super) async fn lot_json_one(State(digitization): State<Digitization>, Path(batch): Path<String>) -> Response {
    blocking(move || match digitization.state().lots.get(&batch) {
        Some(lot) => Json(lot_json(lot)).into_response(),
        None => unknown_lot(&batch).into_response(),
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    batch: String,
    /// Per cent, as in the standard.
    #[serde(default)]
    aql: Option<String>,
    #[serde(default)]
    inspection: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Found {
    batch: String,
    defects: u32,
    #[serde(default)]
    reason: Option<String>,
}

fn refused(error: &LotError) -> Response {
    let field = match error {
        LotError::Ledger(error) => return unavailable(error),
        LotError::Random(error) => {
            tracing::error!(%error, "cannot make a seed");
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "random", "no random bytes").into_response();
        }
        LotError::Limit => "aql",
        LotError::Defects { .. } => "defects",
        LotError::Reason => "reason",
        LotError::UnknownBatch(_) | LotError::NoImages(_) | LotError::DrawnAlready(_) | LotError::NotDrawn(_) => {
            "batch"
        }
    };
    let refusal = Refusal::of_fields(&[(field.to_owned(), error.to_string())]);
    refusal.in_words(|language| worded(error, language)).into_response()
}

/// What a person reads of `error`, where they can do something about it.
fn worded(error: &LotError, language: Language) -> String {
    let of_batch = |key: &str, batch: &str| language.with(key, &[("batch", batch.into())]);
    match error {
        LotError::UnknownBatch(batch) => of_batch("digi-lot-no-batch", batch),
        LotError::NoImages(batch) => of_batch("digi-lot-no-images", batch),
        LotError::DrawnAlready(batch) => of_batch("digi-lot-drawn-already", batch),
        LotError::NotDrawn(batch) => of_batch("digi-lot-not-drawn", batch),
        LotError::Defects { defects, sample } => {
            language.with("digi-lot-too-many", &[("defects", (*defects).into()), ("sample", (*sample).into())])
        }
        LotError::Reason => language.text("digi-lot-no-reason"),
        LotError::Limit | LotError::Random(_) | LotError::Ledger(_) => language.text("refused-400"),
    }
}

fn draw(digitization: &Digitization, wanted: &Wanted) -> Result<Lot, Box<Response>> {
    let inspection = match wanted.inspection.as_deref() {
        None | Some("") => Some(Inspection::default()),
        Some(name) => Inspection::ALL.into_iter().find(|inspection| inspection.name() == name),
    };
    let Some(inspection) = inspection else {
        return Err(Box::new(refusal(&[("inspection".to_owned(), "is none of I, II and III".to_owned())])));
    };
    let aql: f64 = wanted.aql.as_deref().unwrap_or("1").replace(',', ".").parse().unwrap_or(0.0);
    digitization
        .draw_lot(&wanted.batch, inspection, (aql * 1000.0).round() as u32, clock::now())
        .map_err(|error| Box::new(refused(&error)))
}

fn judge(digitization: &Digitization, found: &Found) -> Result<Lot, Box<Response>> {
    let is_word = |text: &str| {
        (1..=32).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let reason = found.reason.clone().filter(|reason| !reason.is_empty());
    if reason.as_deref().is_some_and(|reason| !is_word(reason)) {
        let message = "is not a short word: 1 to 32 letters, digits, `.`, `_` or `-`, for example `skew`";
        let refusal = Refusal::of_fields(&[("reason".to_owned(), message.to_owned())]);
        return Err(Box::new(refusal.in_words(|language| language.text("digi-lot-bad-reason")).into_response()));
    }
    digitization.judge_lot(&found.batch, found.defects, reason, clock::now()).map_err(|error| Box::new(refused(&error)))
}

fn to_minutes(lot: &Lot, w: Words) -> Response {
    let batch: String = url::form_urlencoded::byte_serialize(lot.draw.batch.as_bytes()).collect();
    Redirect::to(&format!("/digitization/lots/{}?lang={}", batch.replace('+', "%20"), w.tag())).into_response()
}

/// Does `work` with what a form or a body in JSON says, and answers with what `answer` makes of the lot.
async fn lot_of<T: Send + 'static>(
    digitization: Digitization,
    body: Result<T, impl std::fmt::Display>,
    work: fn(&Digitization, &T) -> Result<Lot, Box<Response>>,
    answer: impl FnOnce(&Lot) -> Response + Send + 'static,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refusal(&[("body".to_owned(), rejection.to_string())]),
    };
    blocking(move || work(&digitization, &body).map_or_else(|no| *no, |lot| answer(&lot))).await
}

pub(super) async fn draw_form(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Result<axum::Form<Wanted>, axum::extract::rejection::FormRejection>,
) -> Response {
    let w = language(query.as_deref(), &headers);
    lot_of(digitization, form.map(|form| form.0), draw, move |lot| to_minutes(lot, w)).await
}

pub(super) async fn judge_form(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: Result<axum::Form<Found>, axum::extract::rejection::FormRejection>,
) -> Response {
    let w = language(query.as_deref(), &headers);
    lot_of(digitization, form.map(|form| form.0), judge, move |lot| to_minutes(lot, w)).await
}

pub(super) async fn draw_json(
    State(digitization): State<Digitization>,
    body: Result<Json<Wanted>, axum::extract::rejection::JsonRejection>,
) -> Response {
    lot_of(digitization, body.map(|body| body.0), draw, |lot| Json(lot_json(lot)).into_response()).await
}

pub(super) async fn judge_json(
    State(digitization): State<Digitization>,
    body: Result<Json<Found>, axum::extract::rejection::JsonRejection>,
) -> Response {
    lot_of(digitization, body.map(|body| body.0), judge, |lot| Json(lot_json(lot)).into_response()).await
}

#[derive(Template)]
#[template(path = "digitization/fixity.html")]
struct FixityPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    fixity: Fixity,
    /// Storage; objects, pass, share, good, damaged, differing, days; whether something is damaged.
    storages: Vec<(String, [String; 7], bool)>,
    /// Since when each object is damaged.
    moments: Vec<String>,
    /// What is wrong with each package, and how often.
    problems: Vec<String>,
}

/// What agents find wrong with packages, and pages have words for.
const PACKAGE_PROBLEMS: [&str; 13] = [
    "alto_count",
    "checksum",
    "fetch",
    "image_damaged",
    "image_torn",
    "manifest_missing",
    "manifest_path",
    "mets_count",
    "oxum",
    "payload_missing",
    "payload_unlisted",
    "unreadable",
    "xml",
];

/// What is wrong with a package. An agent may be newer and know others.
pub(super) fn package_problem(name: &str, w: Words) -> String {
    if PACKAGE_PROBLEMS.contains(&name) { w.t(&format!("digi-package-{name}")) } else { name.to_owned() }
}

pub(super) async fn fixity(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let settings = digitization.settings();
        let fixity = views::fixity(&digitization.state(), clock::now());
        let none = || "–".to_owned();
        let storages = fixity.storages.iter().map(|row| {
            let of_pass = |text: String| {
                let about = ("storage", row.storage.as_str());
                let kind = if row.pass.is_some() { "fixity.pass" } else { "fixity.checked" };
                journal::link(w, &text, kind, row.last_ms, about, settings)
            };
            let age = row.oldest_age_s.map(|age| w.decimal(age as f64 / 86_400.0, 1));
            let numbers = [
                row.objects.map_or_else(none, |objects| of_pass(w.count(objects))),
                row.pass.map_or_else(none, |pass| of_pass(w.count(pass))),
                row.share.map_or_else(none, |share| of_pass(w.percent(Some(share)))),
                of_pass(w.count(row.good)),
                // Those are below, each with its own event.
                format!("<a class=\"fig\" href=\"#damaged\">{}</a>", w.count(row.damaged)),
                of_pass(w.count(row.copies_differ)),
                age.map_or_else(none, of_pass),
            ];
            (row.storage.clone(), numbers, row.damaged > 0)
        });
        let storages = storages.collect();
        let moments = fixity.damaged.iter().map(|row| {
            let text = moment(row.first_ms, settings);
            journal::link(w, &text, "fixity.checked", row.first_ms, ("storage", &row.storage), settings)
        });
        let moments = moments.collect();
        let problems = fixity.failed_packages.iter().map(|row| {
            let problem = |(name, count): (&String, &u64)| {
                let text = format!("{} ({})", package_problem(name, w), w.count(*count));
                journal::link(w, &text, "package.validated", row.at_ms, (row.of_what, &row.of), settings)
            };
            row.problems.iter().map(problem).collect::<Vec<_>>().join(", ")
        });
        let problems = problems.collect();
        let title = w.t("digi-fixity");
        let page = FixityPage { w, project: &settings.project, title, fixity, storages, moments, problems };
        html(&page, w, StatusCode::OK)
    })
    .await
}

pub(super) async fn fixity_json(State(digitization): State<Digitization>) -> Response {
    blocking(move || Json(views::fixity(&digitization.state(), clock::now())).into_response()).await
}

pub(super) async fn flow_json(State(digitization): State<Digitization>) -> Response {
    blocking(move || {
        let today = today(digitization.settings());
        let state = digitization.state();
        Json(json!({ "flow": views::flow(&state, today), "shelves": views::shelves(&state) })).into_response()
    })
    .await
}
