//! The project's pages at `/digitization`, in Romanian and English: headline, burn-up, stages, throughput, quality, what
//! waits for somebody, units and a unit's history. Plain HTML, no script; each chart has a table that says the same.
//!
//! What it deliberately does not do: count. It words and draws what `digitization` counted.

use std::borrow::Borrow;
use std::fmt::Display;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::super::Refusal;
use super::super::public::text::Language;
use super::api::{Wish, doing_name};
use super::event_words::{EventLine, event_line};
use super::figure::fig;
use super::{chart, graph, linked, storage};
use crate::clock;
use crate::digitization::Digitization;
use crate::digitization::calendar::Day;
use crate::digitization::forecast::Cause;
use crate::digitization::progress::Progress;
use crate::digitization::provenance::Of;
use crate::digitization::report::Report;
use crate::digitization::stage::Stage;
use crate::digitization::views;

/// Events of a unit on one page.
const MAX_EVENTS: usize = 200;

/// How a language writes numbers, days and names.
#[derive(Clone, Copy)]
pub(in crate::web) struct Words(pub(in crate::web) Language);

impl Words {
    pub(in crate::web) fn t(self, key: &str) -> String {
        self.0.text(key)
    }

    pub(in crate::web) fn tag(self) -> &'static str {
        self.0.tag()
    }

    pub(in crate::web) fn other(self) -> &'static str {
        self.0.other().tag()
    }

    /// Why something was rejected, in words where there are some.
    pub(super) fn reason(self, reason: &str) -> &str {
        super::pack::of(self).reason(reason)
    }

    /// `900.000` or `900,000`, of any whole number.
    pub(super) fn count(self, number: impl Display) -> String {
        self.0.whole(number)
    }

    /// A message that says how many.
    pub(super) fn counted(self, key: &str, count: impl Borrow<u64>) -> String {
        self.0.count(key, *count.borrow())
    }

    pub(super) fn days(self, days: impl Borrow<i32>) -> String {
        self.0.count("days", u64::try_from(*days.borrow()).unwrap_or(0))
    }

    /// With so many digits after the comma or point.
    pub(super) fn decimal(self, number: impl Borrow<f64>, digits: usize) -> String {
        self.0.decimal(*number.borrow(), digits)
    }

    /// A number that is written with a point.
    pub(super) fn decimal_text(self, text: &str) -> String {
        if self.0 == Language::Romanian { text.replace('.', ",") } else { text.to_owned() }
    }

    pub(super) fn metres(self, mm: impl Borrow<u64>) -> String {
        match *mm.borrow() {
            // Less than a metre never reads as none.
            mm @ 1..1000 => self.decimal(mm as f64 / 1000.0, 3),
            // What is not whole never reads as done: rounded down.
            mm => self.decimal((mm / 100) as f64 / 10.0, 1),
        }
    }

    /// Metres beside an axis that reaches up to so many millimetres.
    pub(super) fn axis_metres(self, most: u64) -> impl Fn(f64) -> String {
        let digits = match most {
            0..=40 => 3,
            41..=400 => 2,
            401..=4000 => 1,
            _ => 0,
        };
        move |mm| self.decimal(mm / 1000.0, digits)
    }

    /// Millimetres as metres with all their digits.
    pub(super) fn mm(self, mm: impl Borrow<i64>) -> String {
        self.decimal(*mm.borrow() as f64 / 1000.0, 3)
    }

    pub(super) fn percent(self, share: impl Borrow<Option<f64>>) -> String {
        share.borrow().map_or_else(|| "–".to_owned(), |share| format!("{} %", self.decimal(share * 100.0, 1)))
    }

    pub(super) fn optional(self, number: impl Borrow<Option<f64>>, digits: usize) -> String {
        number.borrow().map_or_else(|| "–".to_owned(), |number| self.decimal(number, digits))
    }

    /// `24 decembrie 2026`.
    pub(super) fn day(self, day: impl Borrow<Day>) -> String {
        let date = day.borrow().date();
        format!("{} {} {}", date.day(), self.t(&format!("month-{}", date.month())), date.year())
    }

    pub(super) fn stage(self, stage: impl Borrow<Stage>) -> String {
        self.t(&format!("digi-stage-{}", stage.borrow().name()))
    }

    /// What an event is.
    pub(super) fn kind(self, name: &str) -> String {
        super::event_words::kind(name, self)
    }

    pub(super) fn doing(self, name: &str) -> String {
        self.t(&format!("digi-doing-{name}"))
    }
}

#[derive(Template)]
#[template(path = "digitization/project.html")]
struct ProjectPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    p: &'a Progress,
    report: &'a Report,
    headline: String,
    forecast_line: String,
    measures: Vec<linked::MeasureRow>,
    burn_up: String,
    output_chart: String,
    flow_chart: String,
    flow: Vec<(Day, [String; 4])>,
    map: String,
    shelves: Vec<(String, [String; 4])>,
    weeks: Vec<linked::WeekLine>,
    stages: Vec<linked::StageLine>,
    outputs: Vec<[String; 3]>,
    rework: Vec<[String; 4]>,
    strata: Vec<[String; 2]>,
    incomplete: String,
    first_pass: [String; 2],
    waiting: String,
    outliers: Vec<String>,
    causes: Vec<(String, String)>,
    moved_whole: String,
    storages: Vec<(String, String)>,
    stage_choice: Vec<(&'static str, String)>,
}

#[derive(Template)]
#[template(path = "digitization/empty.html")]
struct EmptyPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    quarantined: u64,
}

struct UnitLine {
    code: String,
    title: String,
    stage: String,
    doing: String,
    place: String,
    images: String,
    expected: String,
}

#[derive(Template)]
#[template(path = "digitization/units.html")]
struct UnitsPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    text: &'a str,
    stage: &'a str,
    stage_choice: Vec<(&'static str, String)>,
    units: Vec<UnitLine>,
    next: Option<String>,
    same: String,
}

#[derive(Template)]
#[template(path = "digitization/unit.html")]
struct UnitPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    /// Nothing where only events know it.
    unit: Option<UnitLine>,
    facts: Vec<(String, String)>,
    rejections: String,
    events: Vec<EventLine>,
    more: bool,
}

/// The language that is asked for, or the one that the browser likes best.
pub(in crate::web) fn language(query: Option<&str>, headers: &HeaderMap) -> Words {
    let query = query.unwrap_or("");
    let asked = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "lang").map(|(_, value)| value);
    let known = asked.and_then(|tag| Language::ALL.into_iter().find(|language| language.tag() == tag));
    let liked = || headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or("");
    Words(known.unwrap_or_else(|| Language::negotiate(liked())))
}

/// The query of the same page in the other language.
pub(in crate::web) fn in_other_language(query: Option<&str>, w: Words) -> String {
    let mut same = url::form_urlencoded::Serializer::new(String::new());
    same.append_pair("lang", w.other());
    let given = url::form_urlencoded::parse(query.unwrap_or("").as_bytes()).take(20);
    same.extend_pairs(given.filter(|(name, _)| name != "lang")).finish()
}

pub(in crate::web) fn html(page: &impl Template, words: Words, status: StatusCode) -> Response {
    match page.render() {
        Ok(html) => (
            status,
            [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::VARY, HeaderValue::from_static("Accept-Language")),
                (header::CONTENT_LANGUAGE, HeaderValue::from_static(words.tag())),
            ],
            html,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot render a page of the digitization");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "page", "the collector's log says why").into_response()
        }
    }
}

async fn rendered(work: impl FnOnce() -> Response + Send + 'static) -> Response {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panicked| {
        tracing::error!(error = &panicked as &dyn std::error::Error, "a page failed unexpectedly");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "defect", "the request failed unexpectedly").into_response()
    })
}

pub(super) async fn style() -> Response {
    (
        [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8")),
            (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=300")),
        ],
        include_str!("../../../templates/digitization/digitization.css"),
    )
        .into_response()
}

pub(super) async fn project(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let words = language(query.as_deref(), &headers);
    rendered(move || {
        let report = digitization.report(clock::now());
        let project = &digitization.settings().project;
        if report.progress.scope.units == 0 {
            let quarantined = report.progress.quarantined_events;
            let page = EmptyPage { w: words, project, title: words.t("digi-empty-title"), quarantined };
            return html(&page, words, StatusCode::OK);
        }
        html(&project_page(&digitization, &report, words), words, StatusCode::OK)
    })
    .await
}

fn project_page<'a>(digitization: &'a Digitization, report: &'a Arc<Report>, w: Words) -> ProjectPage<'a> {
    let p = &report.progress;
    let (done, all) = (w.metres(p.done.mm), w.metres(p.scope.mm));
    let headline = w.0.with("digi-headline", &[("done", done.into()), ("all", all.into())]);
    let forecast_line = match &report.forecast {
        Some(_) if p.done.units == p.scope.units => w.t("digi-finished"),
        Some(forecast) => w.0.with("digi-finish-p85", &[("day", w.day(forecast.p85).into())]),
        None => w.t("digi-no-forecast"),
    };
    let plan = digitization.settings().plan;
    let outlook = digitization.outlook(report);
    let labels = chart::Labels {
        burn_up: w.t("digi-burn-up"),
        scope: w.t("digi-scope"),
        done: w.t("digi-done"),
        plan: w.t("digi-plan"),
        output: w.t("digi-output-chart"),
    };
    let number = |n: f64| w.count(n.round() as i64);
    let (flow, shelves) = {
        let state = digitization.state();
        (views::flow(&state, p.today), views::shelves(&state))
    };
    let names = ["digi-flow-started", "digi-flow-scanned", "digi-flow-accepted", "digi-flow-done"].map(|key| w.t(key));
    ProjectPage {
        w,
        project: &digitization.settings().project,
        title: format!("{headline} · {}", digitization.settings().project),
        p,
        report,
        measures: linked::measures(p, w),
        burn_up: chart::burn_up(p, report.forecast.as_ref(), plan, &labels, w.axis_metres(p.scope.mm), |day| {
            day.to_string()
        }),
        output_chart: chart::output(&p.days, &labels, number, |day| day.to_string()),
        flow_chart: graph::flow(&flow, p.scope.units, &w.t("digi-flow"), &names, &number),
        flow: linked::flow(graph::last_weeks(&flow), w),
        map: graph::shelves(&shelves, &w.t("digi-map")),
        shelves: linked::shelves(&shelves, w),
        weeks: linked::weeks(&p.days, w),
        stages: linked::stages(p, w),
        outputs: linked::outputs(p, w),
        rework: linked::rework(&p.rework, w),
        strata: linked::strata(&p.strata, w),
        incomplete: linked::incomplete(p, w),
        first_pass: linked::first_pass(p, w),
        waiting: fig(w, w.counted("digi-waiting-events", p.quarantined_events), p.quarantined_events, Of::Waiting, &[]),
        outliers: p.outliers.iter().map(|row| linked::images_of(&row.unit, row.images, w)).collect(),
        causes: causes(report, w),
        moved_whole: report.moved.as_ref().map_or_else(String::new, |moved| signed(moved.to.0 - moved.from.0, w)),
        storages: outlook.storages.iter().map(|row| (row.storage.clone(), storage::says(row, w))).collect(),
        stage_choice: stage_choice(w),
        headline,
        forecast_line,
    }
}

fn causes(report: &Report, w: Words) -> Vec<(String, String)> {
    let name = |cause: Cause| match cause {
        Cause::Scope => w.t("digi-cause-scope"),
        Cause::Pace => w.t("digi-cause-pace"),
        Cause::Rework => w.t("digi-cause-rework"),
        Cause::Downtime => w.t("digi-cause-downtime"),
        Cause::Progress => w.t("digi-cause-progress"),
    };
    let causes = report.moved.iter().flat_map(|moved| &moved.causes);
    causes.map(|(cause, days)| (name(*cause), signed(*days, w))).collect()
}

fn signed(days: i32, w: Words) -> String {
    let text = w.count(days);
    if days > 0 { format!("+{text}") } else { text }
}

pub(in crate::web) fn stage_choice(w: Words) -> Vec<(&'static str, String)> {
    Stage::ALL.iter().map(|stage| (stage.name(), w.stage(*stage))).collect()
}

pub(super) async fn units(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let words = language(query.as_deref(), &headers);
    rendered(move || {
        let wish = match Wish::read(query.as_deref().unwrap_or("")) {
            Ok(wish) => wish,
            Err(problems) => return super::what_if::refusal(&problems),
        };
        let state = digitization.state();
        let (chosen, more) = wish.choose(&state);
        let units: Vec<UnitLine> = chosen.into_iter().map(|unit| unit_line(unit, words)).collect();
        let link = |last: &UnitLine| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("lang", words.tag()).append_pair("q", &wish.text);
            query.append_pair("stage", wish.stage.map_or("", Stage::name)).append_pair("after", &last.code);
            query.finish()
        };
        let page = UnitsPage {
            w: words,
            project: &digitization.settings().project,
            title: words.t("digi-units"),
            text: &wish.text,
            stage: wish.stage.map_or("", Stage::name),
            stage_choice: stage_choice(words),
            next: units.last().filter(|_| more).map(link),
            same: in_other_language(query.as_deref(), words),
            units,
        };
        html(&page, words, StatusCode::OK)
    })
    .await
}

fn unit_line(unit: &crate::digitization::state::UnitState, w: Words) -> UnitLine {
    UnitLine {
        code: unit.unit.code.clone(),
        title: unit.unit.title.clone(),
        stage: unit.standing.stage.map_or_else(|| w.t("digi-not-begun"), |stage| w.stage(stage)),
        doing: match unit.standing.returned {
            Some(_) => w.t("digi-doing-returned"),
            None => w.doing(doing_name(unit.standing.doing)),
        },
        place: unit.standing.place.clone().unwrap_or_else(|| unit.unit.location.clone()),
        images: linked::images_of(&unit.unit.code, unit.images, w),
        expected: w.count(unit.expected_images()),
    }
}

pub(super) async fn unit(
    State(digitization): State<Digitization>,
    Path(code): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    rendered(move || {
        let events = match digitization.history(&code, 0, MAX_EVENTS + 1) {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read the ledger");
                return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "the collector's log says why")
                    .into_response();
            }
        };
        let state = digitization.state();
        let more = events.len() > MAX_EVENTS;
        let page = UnitPage {
            w,
            project: &digitization.settings().project,
            title: code.clone(),
            unit: None,
            rejections: String::new(),
            facts: Vec::new(),
            events: events.into_iter().take(MAX_EVENTS).map(|event| event_line(event, &digitization, w)).collect(),
            more,
        };
        let Some(unit) = state.unit(&code) else {
            if page.events.is_empty() {
                return unknown_unit(&code).into_response();
            }
            return html(&page, w, StatusCode::OK);
        };
        let (u, s) = (&unit.unit, &unit.standing);
        let day = |day: Option<Day>| day.map_or_else(|| "–".to_owned(), |day| w.day(day));
        let facts = vec![
            (w.t("digi-series"), u.series.clone()),
            (w.t("digi-binding"), u.binding.clone()),
            (w.t("digi-leaves"), w.count(u.leaves)),
            (w.t("digi-width"), format!("{} mm", w.count(u.width_mm))),
            (w.t("digi-batch"), u.batch.clone()),
            (w.t("digi-shelf"), u.location.clone()),
            (w.t("digi-scanned"), day(s.scanned)),
            (w.t("digi-accepted-one"), day(s.accepted)),
            (w.t("digi-returned"), day(s.returned)),
        ];
        let rejections = match s.rework.len() as u64 {
            // Numbers of rejections are of the inventory in force.
            count if unit.is_withdrawn => w.count(count),
            count => fig(w, w.count(count), count, Of::Rejections, &[("unit", &u.code)]),
        };
        let facts = facts.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let page = UnitPage { unit: Some(unit_line(unit, w)), rejections, facts, ..page };
        html(&page, w, StatusCode::OK)
    })
    .await
}

/// Neither the inventory nor an event knows it.
pub(super) fn unknown_unit(code: &str) -> Refusal {
    let message = "no unit of this code is in the inventory or in an event";
    Refusal::new(StatusCode::NOT_FOUND, "unknown_unit", message)
        .in_words(|language| language.with("digi-unit-unknown", &[("unit", code.into())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_days_are_written_as_each_language_does() {
        let (ro, en) = (Words(Language::Romanian), Words(Language::English));
        assert_eq!((ro.count(900_000), en.count(-1234)), ("900.000".to_owned(), "−1,234".to_owned()));
        assert_eq!((ro.metres(61_399), en.metres(179_999)), ("61,3".to_owned(), "179.9".to_owned()));
        assert_eq!((ro.count(7), ro.count(100), en.count(1000)), ("7".into(), "100".into(), "1,000".into()));
        assert_eq!((ro.decimal(12_345.678, 1), en.decimal(-1000.0, 2)), ("12.345,7".into(), "−1,000.00".into()));
        assert_eq!(
            (ro.decimal(999.96, 0), ro.metres(1_234_567), en.decimal(0.5, 0)),
            ("1.000".into(), "1.234,5".into(), "0".into())
        );
        assert_eq!(
            (ro.axis_metres(238)(100.0), en.axis_metres(180_000)(50_000.0)),
            ("0,10".to_owned(), "50".to_owned())
        );
        let day: Day = "2026-12-24".parse().expect("day");
        assert_eq!((ro.day(day), en.day(day)), ("24 decembrie 2026".to_owned(), "24 December 2026".to_owned()));
    }
}
