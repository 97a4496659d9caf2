//! The public pages as HTML: words, bars and their equivalents in text.
//!
//! Invariant: nothing is told by colour alone; each state has a word, an icon and a height of its own in the bar.

use std::fmt::Write as _;
use std::time::Duration;

use askama::Template;
use jiff::tz::TimeZone;

use super::text::{Language, clock_time, machine_time, zone_name};
use crate::status::{Cell, ComponentView, Interval, Overall, Snapshot, State};

#[derive(Template)]
#[template(path = "public/status.html")]
struct StatusPage<'a> {
    lang: &'static str,
    other: &'static str,
    stylesheet: &'a str,
    title: String,
    skip: String,
    alternates: Vec<(&'static str, String)>,
    name: &'a str,
    other_language: String,
    other_hint: String,
    overall: String,
    overall_class: &'static str,
    hint: Option<String>,
    updated_label: String,
    updated: String,
    updated_machine: String,
    zone: String,
    components_label: String,
    last_day_label: String,
    hours_ago: String,
    now: String,
    in_words: String,
    all_good: String,
    method_title: String,
    method: String,
    legend_label: String,
    legend: Vec<(&'static str, String, String)>,
    groups: Vec<Group<'a>>,
}

struct Group<'a> {
    name: Option<&'a str>,
    components: Vec<Component<'a>>,
}

struct Component<'a> {
    name: &'a str,
    description: Option<&'a str>,
    class: &'static str,
    state: String,
    bar: Vec<(String, String)>,
    uptime: String,
    shares: Vec<String>,
    troubles: Vec<Trouble>,
    all_good: bool,
}

struct Trouble {
    state: String,
    period: String,
    span: String,
}

#[derive(Template)]
#[template(path = "public/not_found.html")]
struct NotFoundPage<'a> {
    lang: &'static str,
    stylesheet: &'a str,
    title: String,
    skip: String,
    text: String,
    to_status: String,
    other: OtherNotFound,
}

struct OtherNotFound {
    lang: &'static str,
    title: String,
    text: String,
    to_status: String,
}

/// The status page in `language`.
pub(super) fn status(snapshot: &Snapshot, language: Language, stylesheet: &str) -> String {
    let text = |key| language.text(key);
    let overall = overall_text(snapshot, language);
    let mut groups: Vec<Group<'_>> = Vec::new();
    for view in &snapshot.components {
        let name = view.group.as_ref().map(|group| language.of(group));
        let component = component(view, snapshot, language);
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.components.push(component),
            None => groups.push(Group { name, components: vec![component] }),
        }
    }
    // Maintenance is explained only where there is some.
    let maintained = |view: &ComponentView| !view.last_day.maintenance.is_zero() || view.state == State::Maintenance;
    let mut legend =
        vec![State::Operational, State::Degraded, State::PartialOutage, State::MajorOutage, State::Unknown];
    if snapshot.components.iter().any(maintained) {
        legend.insert(1, State::Maintenance);
    }
    let page = StatusPage {
        lang: language.tag(),
        other: language.other().tag(),
        stylesheet,
        title: language.with(
            "title-separator",
            &[("overall", overall.clone().into()), ("name", language.of(&snapshot.name).into())],
        ),
        skip: text("skip"),
        alternates: [("ro", "/ro"), ("en", "/en"), ("x-default", "/")]
            .map(|(tag, path)| (tag, format!("{}{path}", snapshot.url)))
            .to_vec(),
        name: language.of(&snapshot.name),
        other_language: text("other-language"),
        other_hint: text("other-language-hint"),
        overall,
        overall_class: match snapshot.overall {
            Overall::Empty | Overall::Checking | Overall::Unknown => class(State::Unknown),
            Overall::Operational => class(State::Operational),
            Overall::Maintenance => class(State::Maintenance),
            Overall::Degraded => class(State::Degraded),
            Overall::PartialOutage => class(State::PartialOutage),
            Overall::MajorOutage => class(State::MajorOutage),
        },
        hint: hint(snapshot, language),
        updated_label: text("updated"),
        updated: language.date_time(snapshot.at, &snapshot.time_zone),
        updated_machine: machine_time(snapshot.at, &snapshot.time_zone),
        zone: zone_name(snapshot.at, &snapshot.time_zone),
        components_label: text("components"),
        last_day_label: text("last-24-hours"),
        hours_ago: text("hours-ago"),
        now: text("now"),
        in_words: text("in-words"),
        all_good: text("all-good"),
        method_title: text("method-title"),
        method: text("method"),
        legend_label: text("legend"),
        legend: legend
            .into_iter()
            .map(|state| (class(state), state_text(state, false, language), stroke(5, state)))
            .collect(),
        groups,
    };
    page.render().expect("invariant: writing into a string does not fail")
}

/// The page for paths that lead nowhere, in `language` first and then in the other.
pub(super) fn not_found(language: Language, stylesheet: &str) -> String {
    let other = language.other();
    let page = NotFoundPage {
        lang: language.tag(),
        stylesheet,
        title: language.text("not-found-title"),
        skip: language.text("skip"),
        text: language.text("not-found"),
        to_status: language.text("to-status"),
        other: OtherNotFound {
            lang: other.tag(),
            title: other.text("not-found-title"),
            text: other.text("not-found"),
            to_status: other.text("to-status"),
        },
    };
    page.render().expect("invariant: writing into a string does not fail")
}

/// The whole in one sentence.
pub(super) fn overall_text(snapshot: &Snapshot, language: Language) -> String {
    language.text(match snapshot.overall {
        Overall::Empty => "overall-empty",
        Overall::Checking => "overall-checking",
        Overall::Unknown => "overall-unknown",
        Overall::Operational if unknown(snapshot) > 0 => "overall-operational-known",
        Overall::Operational => "overall-operational",
        Overall::Maintenance => "overall-maintenance",
        Overall::Degraded => "overall-degraded",
        Overall::PartialOutage => "overall-partial",
        Overall::MajorOutage => "overall-major",
    })
}

fn hint(snapshot: &Snapshot, language: Language) -> Option<String> {
    match (snapshot.overall, unknown(snapshot)) {
        (Overall::Checking, _) => Some(language.text("checking-hint")),
        (Overall::Empty, _) => Some(language.text("empty-hint")),
        (_, 0) => None,
        (_, count) => Some(language.count("without-data", count)),
    }
}

fn unknown(snapshot: &Snapshot) -> u64 {
    snapshot.components.iter().filter(|component| component.state == State::Unknown).count() as u64
}

fn component<'a>(view: &'a ComponentView, snapshot: &Snapshot, language: Language) -> Component<'a> {
    let window = match (view.cells.first(), view.cells.last()) {
        (Some(first), Some(_)) => snapshot.at.since(first.start),
        _ => Duration::ZERO,
    };
    let states = [
        State::Operational,
        State::Maintenance,
        State::Degraded,
        State::PartialOutage,
        State::MajorOutage,
        State::Unknown,
    ];
    let span = |state| match state {
        State::Unknown => window.saturating_sub(view.last_day.known()),
        _ => view.last_day.of(state),
    };
    let share = |state| {
        let words = [("state", state_text(state, false, language).into()), ("span", language.span(span(state)).into())];
        language.with("word-share", &words)
    };
    Component {
        name: language.of(&view.name),
        description: view.description.as_ref().map(|text| language.of(text)),
        class: class(view.state),
        state: state_text(view.state, snapshot.settling, language),
        bar: bar(&view.cells),
        uptime: match view.last_day.uptime() {
            Some(uptime) => language.with("uptime", &[("percent", language.percent(uptime).into())]),
            None => language.text("uptime-none"),
        },
        // The two units of a span round off less than a minute: less than that of unknown time is no news.
        shares: states
            .into_iter()
            .filter(|state| span(*state) >= Duration::from_secs(if *state == State::Unknown { 60 } else { 1 }))
            .map(share)
            .collect(),
        troubles: view.troubles.iter().map(|i| trouble(i, &snapshot.time_zone, language)).collect(),
        all_good: view.state != State::Unknown,
    }
}

fn trouble(interval: &Interval, zone: &TimeZone, language: Language) -> Trouble {
    let times = [("from", clock_time(interval.start, zone).into()), ("to", clock_time(interval.end, zone).into())];
    Trouble {
        state: state_text(interval.state, false, language),
        period: language.with("change", &times),
        span: language.span(interval.end.since(interval.start)),
    }
}

fn state_text(state: State, settling: bool, language: Language) -> String {
    language.text(match state {
        State::Unknown if settling => "state-checking",
        State::Unknown => "state-unknown",
        State::Operational => "state-operational",
        State::Maintenance => "state-maintenance",
        State::Degraded => "state-degraded",
        State::PartialOutage => "state-partial",
        State::MajorOutage => "state-major",
    })
}

/// The state's class in the style sheet and its icon.
fn class(state: State) -> &'static str {
    match state {
        State::Unknown => "unknown",
        State::Operational => "ok",
        State::Maintenance => "maintenance",
        State::Degraded => "degraded",
        State::PartialOutage => "partial",
        State::MajorOutage => "major",
    }
}

/// One path per state, one stroke per cell: some hundred bytes for a day. Above what stands low, a faint track makes
/// the gap visible.
fn bar(cells: &[Cell]) -> Vec<(String, String)> {
    let mut bar = Vec::new();
    for state in State::ALL {
        let (mut path, mut track) = (String::new(), String::new());
        for (i, _) in cells.iter().enumerate().filter(|(_, cell)| cell.shares.worst() == state) {
            path.push_str(&stroke(i * 10 + 5, state));
            write!(track, "M{} 0v{}", i * 10 + 5, 32 - height(state))
                .expect("invariant: writing into a string does not fail");
        }
        if !path.is_empty() {
            if matches!(state, State::Degraded | State::PartialOutage | State::MajorOutage) {
                bar.push((format!("{} track", class(state)), track));
            }
            bar.push((class(state).to_owned(), path));
        }
    }
    bar
}

/// How high a cell of `state` stands, of 32: the worse, the lower; without data only a foot.
fn height(state: State) -> usize {
    match state {
        State::Operational => 32,
        State::Maintenance => 27,
        State::Degraded => 24,
        State::PartialOutage => 17,
        State::MajorOutage => 10,
        State::Unknown => 3,
    }
}

/// The stroke of one cell, centred on `x`.
fn stroke(x: usize, state: State) -> String {
    format!("M{x} 32v-{}", height(state))
}
