//! The ledger's events by day, kind, station, unit, batch and storage, as a page and as JSON: where every number comes from.

use askama::Template;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use veghe_model::Timestamp;

use super::api::{blocking, unavailable};
use super::event_words::{self, EventLine, event_line};
use super::page::{Words, html, in_other_language, language};
use super::what_if::refusal;
use crate::clock;
use crate::digitization::calendar::Day;
use crate::digitization::{Digitization, Search, Settings, midnight};

/// Events of one page.
const PAGE_ROWS: usize = 200;
/// Events of one answer at most.
const MAX_ROWS: usize = 1000;
/// Days of one question at most.
const MAX_DAYS: i32 = 366;

/// What was asked: days, and the rest as the ledger takes it.
struct Wish {
    from: Day,
    to: Day,
    search: Search,
}

impl Wish {
    fn read(query: &str, settings: &Settings, limit: usize) -> Result<Self, Vec<(String, String)>> {
        let today = Day::at(clock::now(), &settings.time_zone);
        let (mut from, mut to) = (None, None);
        let mut search = Search { limit, ..Search::default() };
        let mut problems = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).take(20) {
            let text = || Some(value.chars().take(64).collect::<String>()).filter(|text| !text.is_empty());
            match &*name {
                "day" | "from" | "to" => match value.parse::<Day>() {
                    Ok(day) => {
                        from = if &*name == "to" { from } else { Some(day) };
                        to = if &*name == "from" { to } else { Some(day) };
                    }
                    Err(problem) => problems.push((name.into_owned(), problem)),
                },
                "kind" => search.kind = text(),
                "station" => search.station = text(),
                "unit" => search.unit = text(),
                "batch" => search.batch = text(),
                "storage" => search.storage = text(),
                "after" => match value.parse::<u64>() {
                    Ok(after) if i64::try_from(after).is_ok() => search.after = after,
                    _ => problems.push(("after".to_owned(), "is not the number of an event".to_owned())),
                },
                "limit" => match value.parse::<usize>() {
                    Ok(limit) if (1..=MAX_ROWS).contains(&limit) => search.limit = limit,
                    _ => problems.push(("limit".to_owned(), format!("is not a number of 1 to {MAX_ROWS}"))),
                },
                "lang" => {}
                other => {
                    let other = other.chars().take(40).collect();
                    let message =
                        "is not known; there are day, from, to, kind, station, unit, batch, storage, after, limit";
                    problems.push((other, message.to_owned()));
                }
            }
        }
        let to = to.unwrap_or(from.unwrap_or(today));
        let from = from.unwrap_or(to);
        if to < from || to.0 - from.0 >= MAX_DAYS {
            problems.push(("to".to_owned(), format!("is before `from`, or {MAX_DAYS} days and more after it")));
        }
        (search.from_ms, search.to_ms) = (midnight(from, settings), midnight(Day(to.0 + 1), settings));
        if problems.is_empty() { Ok(Self { from, to, search }) } else { Err(problems) }
    }

    /// The same question from `after` on.
    fn next(&self, words: Words, after: u64) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("lang", words.tag());
        query.append_pair("from", &self.from.to_string()).append_pair("to", &self.to.to_string());
        for (name, value) in [
            ("kind", &self.search.kind),
            ("station", &self.search.station),
            ("unit", &self.search.unit),
            ("batch", &self.search.batch),
            ("storage", &self.search.storage),
        ] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.append_pair("after", &after.to_string()).finish()
    }
}

/// A text as a link to the events of a day, in milliseconds since the epoch, of a kind, about what `about` names.
pub(super) fn link(w: Words, text: &str, kind: &str, at_ms: i64, about: (&str, &str), settings: &Settings) -> String {
    let day = Day::at(Timestamp(at_ms), &settings.time_zone).to_string();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("kind", kind).append_pair(about.0, about.1).append_pair("day", &day);
    let query = query.append_pair("lang", w.tag()).finish().replace('&', "&amp;");
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<a class=\"fig\" href=\"/digitization/events?{query}\">{text}</a>")
}

#[derive(Template)]
#[template(path = "digitization/events.html")]
struct JournalPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    from: Day,
    to: Day,
    kind: &'a str,
    /// Every kind, and what it is in words.
    kinds: Vec<(&'static str, String)>,
    station: &'a str,
    unit: &'a str,
    batch: &'a str,
    storage: &'a str,
    events: Vec<EventLine>,
    next: Option<String>,
    same: String,
}

pub(super) async fn page(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let words = language(query.as_deref(), &headers);
    blocking(move || {
        let wish = match Wish::read(query.as_deref().unwrap_or(""), digitization.settings(), PAGE_ROWS) {
            Ok(wish) => wish,
            Err(problems) => return refusal(&problems),
        };
        let events = match digitization.search(&wish.search) {
            Ok(events) => events,
            Err(error) => return unavailable(&error),
        };
        let last = events.last().filter(|_| events.len() == wish.search.limit).map(|event| event.seq);
        let page = JournalPage {
            w: words,
            project: &digitization.settings().project,
            title: words.t("digi-events"),
            from: wish.from,
            to: wish.to,
            kind: wish.search.kind.as_deref().unwrap_or(""),
            kinds: event_words::KINDS.map(|kind| (kind, event_words::kind(kind, words))).to_vec(),
            station: wish.search.station.as_deref().unwrap_or(""),
            unit: wish.search.unit.as_deref().unwrap_or(""),
            batch: wish.search.batch.as_deref().unwrap_or(""),
            storage: wish.search.storage.as_deref().unwrap_or(""),
            events: events.into_iter().map(|event| event_line(event, &digitization, words)).collect(),
            next: last.map(|after| wish.next(words, after)),
            same: in_other_language(query.as_deref(), words),
        };
        html(&page, words, StatusCode::OK)
    })
    .await
}

pub(super) async fn json(State(digitization): State<Digitization>, RawQuery(query): RawQuery) -> Response {
    blocking(move || {
        let wish = match Wish::read(query.as_deref().unwrap_or(""), digitization.settings(), PAGE_ROWS) {
            Ok(wish) => wish,
            Err(problems) => return refusal(&problems),
        };
        match digitization.search(&wish.search) {
            Ok(events) => {
                let next = events.last().filter(|_| events.len() == wish.search.limit).map(|event| event.seq);
                Json(json!({ "from": wish.from, "to": wish.to, "events": events, "next": next })).into_response()
            }
            Err(error) => unavailable(&error),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_its_midnight_also_when_the_clocks_change() {
        let settings = Settings::default();
        let begins = |text: &str| {
            let ms = midnight(text.parse().expect(text), &settings);
            assert_eq!(Day::at(Timestamp(ms), &settings.time_zone).to_string(), text);
            assert_eq!(Day::at(Timestamp(ms - 1), &settings.time_zone).0, text.parse::<Day>().expect(text).0 - 1);
        };
        ["2026-03-29", "2026-03-30", "2026-10-25", "2026-10-26", "2026-01-01"].into_iter().for_each(begins);
    }

    #[test]
    fn every_wrong_parameter_is_told_by_its_name() {
        let problems = Wish::read("day=soon&limit=0&speed=9&after=x", &Settings::default(), 9).err().expect("wrong");
        let fields: Vec<String> = problems.into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["day", "limit", "speed", "after"]);
        assert!(Wish::read("from=2026-05-02&to=2026-05-01", &Settings::default(), 9).is_err());
        assert!(Wish::read("from=2025-05-02&to=2026-06-01", &Settings::default(), 9).is_err());
    }
}
