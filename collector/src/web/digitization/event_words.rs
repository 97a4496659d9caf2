//! Events of the ledger in words: what they are and what they say, for whoever does not read JSON.
//!
//! Invariant: what there are no words for is shown as it was sent. What it deliberately does not do: leave something out.

use serde_json::Value;
use veghe_model::Timestamp;
use veghe_wire::event::{FIELDS, WORDS};

use super::super::prometheus_api::rfc3339;
use super::floor::package_problem;
use super::page::Words;
use super::storage::bytes;
use crate::digitization::event::StationState;
use crate::digitization::stage::{Hold, Stage};
use crate::digitization::{Digitization, Shown};

/// Every kind of event.
pub(super) const KINDS: [&str; 21] = [
    "inventory.declared",
    "unit.stage",
    "custody.moved",
    "image.captured",
    "image.replaced",
    "image.deleted",
    "image.duplicate",
    "batch.closed",
    "qc.result",
    "target.measured",
    "ocr.done",
    "package.delivered",
    "package.validated",
    "fixity.checked",
    "fixity.pass",
    "station.state",
    "invoice.received",
    "lot.drawn",
    "correction",
    "baseline.adopted",
    "days.frozen",
];

/// Fields of other sources' events that have a name in words, beside all that agents tell.
const OTHER_FIELDS: [&str; 10] =
    ["delta_e_mean", "due", "invoice", "leaves", "location", "passed", "record", "title", "to", "width_mm"];

/// Results that have a word, and their messages.
const OUTCOMES: [(&str, &str); 8] = [
    ("accepted", "digi-lot-accepted"),
    ("rejected", "digi-lot-rejected"),
    ("good", "digi-fixity-is-good"),
    ("ok", "digi-fixity-is-good"),
    ("mismatch", "digi-fixity-is-mismatch"),
    ("missing", "digi-fixity-is-missing"),
    ("failed", "digi-fixity-is-failed"),
    ("error", "digi-fixity-is-failed"),
];

/// An event as a row of a table.
pub(super) struct EventLine {
    pub(super) seq: u64,
    pub(super) time: String,
    pub(super) machine: String,
    pub(super) kind: String,
    pub(super) unit: Option<String>,
    pub(super) source: String,
    pub(super) data: String,
}

pub(super) fn event_line(event: Shown, digitization: &Digitization, w: Words) -> EventLine {
    let at = jiff::Timestamp::from_millisecond(event.time_ms).unwrap_or_default();
    let local = at.to_zoned_datetime(digitization.settings().time_zone.clone());
    // The unit is the page's, or stands beside.
    let mut said: Vec<_> = event.data.as_object().into_iter().flatten().filter(|(name, _)| *name != "unit").collect();
    said.sort_by_key(|(name, _)| *name != "stage");
    EventLine {
        seq: event.seq,
        time: local.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        machine: rfc3339(Timestamp(event.time_ms)),
        kind: kind(&event.kind, w),
        unit: event.data["unit"].as_str().map(str::to_owned),
        source: event.source,
        data: said.into_iter().map(|(name, value)| field(name, value, w)).collect::<Vec<_>>().join(", "),
    }
}

/// What an event is.
pub(super) fn kind(name: &str, w: Words) -> String {
    if KINDS.contains(&name) { w.t(&format!("digi-kind-{}", name.replace('.', "-"))) } else { name.to_owned() }
}

/// A field and its value: `imagini 40`.
fn field(name: &str, value: &Value, w: Words) -> String {
    let named = |text: String| {
        let has_name = FIELDS.contains(&name) || OTHER_FIELDS.contains(&name);
        let name = if has_name { w.t(&format!("digi-field-{name}")) } else { name.to_owned() };
        format!("{name} {text}")
    };
    match value {
        Value::String(text) => match worded(name, text, w) {
            // Which says by itself what it is about.
            Some(words) => words,
            None => named(text.clone()),
        },
        Value::Bool(yes) => named(w.t(if *yes { "yes" } else { "no" })),
        Value::Number(number) => match (name, number.as_u64(), number.as_i64()) {
            ("bytes", Some(size), _) => bytes(size, w),
            (_, _, Some(whole)) => named(w.count(whole)),
            _ => {
                let text = number.to_string();
                named(w.decimal_text(text.strip_suffix(".0").unwrap_or(&text)))
            }
        },
        Value::Object(problems) if name == "problems" => {
            let one = |(name, count): (&String, &Value)| {
                let count = count.as_u64().map_or_else(|| count.to_string(), |count| w.count(count));
                format!("{} ({count})", package_problem(name, w))
            };
            let list = problems.iter().map(one).collect::<Vec<_>>().join(", ");
            named(if list.is_empty() { w.count(0) } else { list })
        }
        other => named(other.to_string()),
    }
}

fn worded(name: &str, text: &str, w: Words) -> Option<String> {
    match name {
        "stage" => Stage::ALL.into_iter().find(|stage| stage.name() == text).map(|stage| w.stage(stage)),
        "change" => ["enter", "exit", "hold", "release"].contains(&text).then(|| w.t(&format!("digi-change-{text}"))),
        "hold" => Hold::ALL.into_iter().find(|hold| hold.name() == text).map(|hold| w.doing(hold.name())),
        "state" if StationState::ALL.into_iter().any(|state| state.name() == text) => {
            Some(w.t(&format!("digi-state-{text}")))
        }
        "outcome" => OUTCOMES.iter().find(|(outcome, _)| *outcome == text).map(|(_, key)| w.t(key)),
        "reason" if w.reason(text) != text => Some(w.reason(text).to_owned()),
        _ => WORDS.contains(&(name, text)).then(|| w.t(&format!("digi-said-{name}-{text}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::public::text::Language;
    use super::*;

    #[test]
    fn every_kind_and_field_has_words_in_both_languages() {
        for language in Language::ALL {
            let w = Words(language);
            for name in KINDS {
                assert_ne!(kind(name, w), name);
            }
            for name in FIELDS.into_iter().chain(OTHER_FIELDS) {
                let message = w.t(&format!("digi-field-{name}"));
                assert_eq!(field(name, &json!("said so"), w), format!("{message} said so"));
            }
            for (name, text) in WORDS {
                assert!(worded(name, text, w).is_some_and(|words| words != text), "{name} {text}");
            }
            for name in ["enter", "exit", "hold", "release"] {
                assert!(worded("change", name, w).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn what_agents_tell_of_packages_and_passes_is_worded() {
        let ro = Words(Language::Romanian);
        let problems = json!({"checksum": 2, "new_one": 1});
        assert_eq!(field("problems", &problems, ro), "probleme alt conținut decât spune manifestul (2), new_one (1)");
        assert_eq!(
            (field("problems", &json!({}), ro), field("pass", &json!(3), ro)),
            ("probleme 0".into(), "trecerea 3".into())
        );
        assert_eq!(field("reason", &json!("gone"), ro), "fișierul nu mai este acolo");
        assert_eq!(field("state", &json!("running"), ro), "în curs");
    }

    #[test]
    fn what_an_event_says_is_worded_and_what_is_unknown_stays_as_it_was_sent() {
        let (ro, en) = (Words(Language::Romanian), Words(Language::English));
        assert_eq!(field("frames", &json!(1234), ro), "imagini 1.234");
        assert_eq!(field("bytes", &json!(1_284_332), en), "1.3 MB");
        assert_eq!(
            (field("stage", &json!("scan"), ro), field("change", &json!("hold"), ro)),
            ("Scanare".into(), "reținută".into())
        );
        assert_eq!(field("hold", &json!("conservation"), ro), "reținută: conservare");
        assert_eq!(field("ppi", &json!(299.5), ro), "ppi 299,5");
        assert_eq!(field("ppi", &json!(300.0), ro), "ppi 300");
        assert_eq!(
            (field("outcome", &json!("rejected"), en), field("complete", &json!(false), en)),
            ("rejected".into(), "complete no".into())
        );
        assert_eq!(field("reason", &json!("skew"), ro), "pagină înclinată");
        assert_eq!(
            (field("reason", &json!("own-word"), en), field("x", &json!([1]), en)),
            ("reason own-word".into(), "x [1]".into())
        );
        assert_eq!((kind("image.captured", ro), kind("new.kind", ro)), ("Imagini noi".into(), "new.kind".into()));
    }
}
