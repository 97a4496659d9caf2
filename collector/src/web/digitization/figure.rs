//! The way from a number on a page to the events behind it: the link that each number is, and the page, JSON and CSV that
//! it leads to.
//!
//! Invariant: the total of the list is counted anew, not taken from the link.

use std::fmt::{Display, Write as _};

use askama::Template;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use veghe_model::Timestamp;

use super::super::prometheus_api::rfc3339;
use super::api::{blocking, unavailable};
use super::event_words::{EventLine, event_line};
use super::page::{Words, html, language};
use super::what_if::refusal;
use crate::clock;
use crate::digitization::calendar::Day;
use crate::digitization::provenance::{Ask, Behind, DoingThere, Measure, Of, Part, TraceError};
use crate::digitization::quality::Fault;
use crate::digitization::stage::Stage;
use crate::digitization::{Digitization, Shown};

/// Parts of one page.
const PAGE_ROWS: usize = 200;
/// Parts of one answer in JSON at most.
const MAX_ROWS: usize = 1000;

/// A number as a link to what is behind it. `count` is what the list must add up to.
pub(super) fn fig(w: Words, text: impl Display, count: impl TryInto<i64>, of: Of, pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("of", of.name());
    for (name, value) in pairs {
        query.append_pair(name, value);
    }
    let query = query.append_pair("lang", w.tag()).finish();
    let count = count.try_into().unwrap_or(i64::MAX);
    linked(&format!(" data-count=\"{count}\""), &query, &text.to_string())
}

/// The same of what is worked out from several numbers: a link to those.
pub(super) fn way(w: Words, text: impl Display, of: Of, pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("of", of.name()).extend_pairs(pairs);
    let query = query.append_pair("lang", w.tag()).finish();
    linked("", &query, &text.to_string())
}

fn linked(attribute: &str, query: &str, text: &str) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let (query, text) = (escaped(query), escaped(text));
    format!("<a class=\"fig\"{attribute} href=\"/digitization/figure?{query}\">{text}</a>")
}

/// What was asked: the number, and which of its parts.
struct Wish {
    ask: Ask,
    after: usize,
    limit: usize,
}

impl Wish {
    fn read(query: &str) -> Result<Self, Vec<(String, String)>> {
        let mut ask = Ask::all(Of::Scope);
        let (mut has_of, mut after, mut limit) = (false, 0, PAGE_ROWS);
        let mut problems = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).take(30) {
            let text = || Some(value.chars().take(256).collect::<String>());
            let mut wrong = |names: String| problems.push((name.to_string(), format!("is none of {names}")));
            match &*name {
                "of" => match Of::ALL.into_iter().find(|of| of.name() == value) {
                    Some(of) => (ask.of, has_of) = (of, true),
                    None => wrong(Of::ALL.map(Of::name).join(", ")),
                },
                "measure" => match Measure::ALL.into_iter().find(|measure| measure.name() == value) {
                    Some(measure) => ask.measure = measure,
                    None => wrong(Measure::ALL.map(Measure::name).join(", ")),
                },
                "stage" => match Stage::ALL.into_iter().find(|stage| stage.name() == value) {
                    Some(stage) => ask.stage = Some(stage),
                    None => wrong(Stage::ALL.map(Stage::name).join(", ")),
                },
                "doing" => match DoingThere::ALL.into_iter().find(|doing| doing.name() == value) {
                    Some(doing) => ask.doing = Some(doing),
                    None => wrong(DoingThere::ALL.map(DoingThere::name).join(", ")),
                },
                "fault" => match Fault::ALL.into_iter().find(|fault| fault.name() == value) {
                    Some(fault) => ask.fault = Some(fault),
                    None => wrong(Fault::ALL.map(Fault::name).join(", ")),
                },
                "from" | "to" | "as_of" => match value.parse::<Day>() {
                    Ok(day) => match &*name {
                        "from" => ask.from = Some(day),
                        "to" => ask.to = Some(day),
                        _ => ask.as_of = Some(day),
                    },
                    Err(problem) => problems.push((name.into_owned(), problem)),
                },
                "station" => ask.station = text(),
                "shift" => ask.shift = text(),
                "unit" => ask.unit = text(),
                "shelf" => ask.shelf = text(),
                "series" => ask.series = text(),
                "binding" => ask.binding = text(),
                "reason" => ask.reason = text(),
                "open" => ask.is_open = value == "1",
                "after" => match value.parse() {
                    Ok(number) => after = number,
                    Err(_) => problems.push((name.into_owned(), "is no whole number".to_owned())),
                },
                "limit" => match value.parse() {
                    Ok(number) if (1..=MAX_ROWS).contains(&number) => limit = number,
                    _ => problems.push((name.into_owned(), format!("is not a number of 1 to {MAX_ROWS}"))),
                },
                "lang" => {}
                other => {
                    let other: String = other.chars().take(40).collect();
                    let message = "is not known; there are of, measure, from, to, as_of, station, shift, unit, shelf, \
                                   series, binding, reason, stage, doing, fault, open, after, limit";
                    problems.push((other, message.to_owned()));
                }
            }
        }
        if !has_of && problems.is_empty() {
            problems.push(("of".to_owned(), format!("is missing; there are {}", Of::ALL.map(Of::name).join(", "))));
        }
        if problems.is_empty() { Ok(Self { ask, after, limit }) } else { Err(problems) }
    }
}

/// The same question with another parameter.
fn with(query: &str, name: &str, value: &str) -> String {
    let mut changed = url::form_urlencoded::Serializer::new(String::new());
    for (other, old) in url::form_urlencoded::parse(query.as_bytes()).filter(|(other, _)| other != name).take(30) {
        changed.append_pair(&other, &old);
    }
    if !value.is_empty() {
        changed.append_pair(name, value);
    }
    changed.finish()
}

struct Line {
    event: Option<EventLine>,
    unit: Option<String>,
    amount: String,
}

#[derive(Template)]
#[template(path = "digitization/figure.html")]
struct FigurePage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    what: String,
    filters: Vec<(String, String)>,
    total: i64,
    total_text: String,
    count: u64,
    lines: Vec<Line>,
    next: Option<String>,
    query: String,
    other_language: String,
}

/// What the number counts, in words.
fn worded(ask: &Ask, w: Words) -> String {
    let of = w.t(&format!("digi-of-{}", ask.of.name().replace('_', "-")));
    let measure = match ask.of {
        of if of.is_of_images() => "images",
        Of::Incomplete | Of::Duplicates => "files",
        Of::Waiting => "events",
        Of::Jam | Of::Down | Of::Maintenance => "minutes",
        Of::Rejections | Of::OpenRejections => "rejections",
        Of::LostDays => "days",
        _ => ask.measure.name(),
    };
    format!("{of}, {}", w.t(&format!("digi-measured-{measure}")))
}

/// What it is limited to, in words.
fn filters(ask: &Ask, w: Words) -> Vec<(String, String)> {
    let day = |key: &str, day: Option<Day>| day.map(|day| (w.t(key), w.day(day)));
    let text = |key: &str, text: &Option<String>| {
        text.clone().map(|text| (w.t(key), if text.is_empty() { "–".to_owned() } else { text }))
    };
    let all = [
        day("digi-from", ask.from),
        day("digi-to", ask.to),
        day("digi-as-of", ask.as_of),
        text("digi-station", &ask.station),
        text("digi-shift", &ask.shift),
        text("digi-unit", &ask.unit),
        text("digi-shelf", &ask.shelf),
        text("digi-series", &ask.series),
        text("digi-binding", &ask.binding),
        ask.reason.as_deref().map(|reason| (w.t("digi-reason"), w.reason(reason).to_owned())),
        ask.stage.map(|stage| (w.t("digi-stage"), w.stage(stage))),
        ask.doing.map(|doing| (w.t("digi-state"), w.t(&format!("digi-{}", doing.name())))),
        ask.fault.map(|fault| (w.t("digi-fault"), w.t(&format!("digi-fault-{}", fault.name())))),
        ask.is_open.then(|| (w.t("digi-state"), w.t("digi-fault-open"))),
    ];
    all.into_iter().flatten().collect()
}

/// Parts with the events behind them.
type Traced = Vec<(Part, Option<Shown>)>;

fn traced(digitization: &Digitization, parts: &[Part]) -> Result<Traced, Box<Response>> {
    let numbers: Vec<u64> = parts.iter().filter_map(|part| part.event).collect();
    let events = digitization.numbered(&numbers).map_err(|error| Box::new(unavailable(&error)))?;
    let find = |number: u64| {
        let place = events.binary_search_by_key(&number, |event| event.seq).ok()?;
        Some(events[place].clone())
    };
    Ok(parts.iter().map(|part| (part.clone(), part.event.and_then(find))).collect())
}

/// What `query` asks for, and all that is behind it.
fn asked(digitization: &Digitization, query: &str) -> Result<(Wish, Behind), Box<Response>> {
    let wish = Wish::read(query).map_err(|problems| refusal(&problems))?;
    let today = Day::at(clock::now(), &digitization.settings().time_zone);
    let behind = digitization.behind(&wish.ask, today).map_err(|error| match error {
        TraceError::TooMany => refusal(&[("from".to_owned(), error.to_string())]),
        TraceError::Ledger(error) => unavailable(&error),
    })?;
    Ok((wish, behind))
}

/// The parts of `behind` that `wish` is about, and where the next ones begin, if there are more.
fn shown(digitization: &Digitization, wish: &Wish, behind: &Behind) -> Result<(Traced, Option<usize>), Box<Response>> {
    let rest = behind.parts.get(wish.after..).unwrap_or_default();
    let parts = rest.get(..wish.limit).unwrap_or(rest);
    let next = (rest.len() > parts.len()).then(|| wish.after + parts.len());
    Ok((traced(digitization, parts)?, next))
}

/// Answers with what `answer` makes of the query, or with why it can't.
async fn answered(
    query: Option<String>,
    answer: impl FnOnce(&str) -> Result<Response, Box<Response>> + Send + 'static,
) -> Response {
    blocking(move || answer(query.as_deref().unwrap_or_default()).unwrap_or_else(|refused| *refused)).await
}

pub(super) async fn page(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    answered(query, move |query| {
        let (wish, behind) = asked(&digitization, query)?;
        let (parts, next) = shown(&digitization, &wish, &behind)?;
        let amount = |amount: i64| if wish.ask.measure == Measure::Mm { w.mm(amount) } else { w.count(amount) };
        let lines = parts.into_iter().map(|(part, event)| Line {
            event: event.map(|event| event_line(event, &digitization, w)),
            unit: part.unit,
            amount: amount(part.amount),
        });
        let total = amount(behind.total);
        let page = FigurePage {
            w,
            project: &digitization.settings().project,
            title: w.t("digi-figure"),
            what: worded(&wish.ask, w),
            filters: filters(&wish.ask, w),
            total: behind.total,
            total_text: if wish.ask.measure == Measure::Mm { format!("{total} m") } else { total },
            count: behind.count as u64,
            lines: lines.collect(),
            next: next.map(|next| with(query, "after", &next.to_string())),
            query: with(&with(query, "after", ""), "lang", w.tag()),
            other_language: with(query, "lang", w.other()),
        };
        Ok(html(&page, w, StatusCode::OK))
    })
    .await
}

pub(super) async fn json(State(digitization): State<Digitization>, RawQuery(query): RawQuery) -> Response {
    answered(query, move |query| {
        let (wish, behind) = asked(&digitization, query)?;
        let (parts, next) = shown(&digitization, &wish, &behind)?;
        let rows: Vec<_> = parts
            .iter()
            .map(|(part, event)| json!({ "amount": part.amount, "unit": part.unit, "event": event }))
            .collect();
        let Behind { total, count, .. } = behind;
        let of = wish.ask.of.name();
        Ok(Json(json!({ "of": of, "total": total, "count": count, "parts": rows, "next": next })).into_response())
    })
    .await
}

/// Every part of a number as CSV.
pub(super) async fn csv(State(digitization): State<Digitization>, RawQuery(query): RawQuery) -> Response {
    answered(query, move |query| {
        let (_, behind) = asked(&digitization, query)?;
        let mut text = "\u{feff}amount;unit;event;time;kind;source;id\n".to_owned();
        for parts in behind.parts.chunks(MAX_ROWS) {
            for (part, event) in traced(&digitization, parts)? {
                let of = |value: fn(&Shown) -> String| event.as_ref().map_or_else(String::new, value);
                let cells = [
                    part.amount.to_string(),
                    cell(part.unit.as_deref().unwrap_or("")),
                    of(|event| event.seq.to_string()),
                    of(|event| rfc3339(Timestamp(event.time_ms))),
                    of(|event| cell(&event.kind)),
                    of(|event| cell(&event.source)),
                    of(|event| cell(&event.id)),
                ];
                writeln!(text, "{}", cells.join(";")).expect("invariant: a String takes everything");
            }
        }
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"figure.csv\"")),
        ];
        Ok((headers, text).into_response())
    })
    .await
}

/// A text that no spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([';', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::super::public::text::Language;
    use super::*;

    #[test]
    fn a_number_leads_to_what_is_asked_for_and_its_parts_are_escaped() {
        let w = Words(Language::English);
        let link = fig(w, "1,234", 1234_u64, Of::Done, &[("measure", "mm"), ("series", "A&B <c>")]);
        assert_eq!(
            link,
            "<a class=\"fig\" data-count=\"1234\" href=\"/digitization/figure?of=done&amp;measure=mm&amp;series=A%26B+%3Cc%3E&amp;lang=en\">1,234</a>"
        );
        let wish = Wish::read("of=done&measure=mm&series=A%26B+%3Cc%3E&lang=en").map(|wish| wish.ask).expect("good");
        let asked = Ask { measure: Measure::Mm, series: Some("A&B <c>".to_owned()), ..Ask::all(Of::Done) };
        assert_eq!(wish, asked);
        for of in Of::ALL {
            let wish = Wish::read(&format!("of={}", of.name())).map(|wish| wish.ask.of).ok();
            assert_eq!(wish, Some(of));
        }
        let fields = |query: &str| {
            Wish::read(query).err().expect("wrong").into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert_eq!(fields("of=x&measure=y&from=soon&speed=1&limit=0"), ["of", "measure", "from", "speed", "limit"]);
        assert_eq!(fields(""), ["of"]);
        assert_eq!((cell("=1+1"), cell("a;\"b")), ("'=1+1".to_owned(), "\"a;\"\"b\"".to_owned()));
    }
}
