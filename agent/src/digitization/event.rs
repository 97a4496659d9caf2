//! `CloudEvents` of this agent, as the collector reads them (see PROTOCOL.md, Events).
//!
//! Invariant: an id is made of what the event is about, so that whoever tells it again changes nothing. No path is told but
//! what a template takes out of it.

use serde_json::{Map, Value, json};
use veghe_wire::AgentId;
use veghe_wire::event::{FIELDS, WORDS};

const TYPE_PREFIX: &str = "ro.cjt.digi.v1.";
/// The collector takes no event before it: 1990-01-01.
const EARLIEST_MS: i64 = 631_152_000_000;

/// One event, to be.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    /// Who tells.
    pub(crate) agent: &'a AgentId,
    /// The station that it is about, which becomes a part of the source.
    pub(crate) station: Option<&'a str>,
    /// The end of its type: `image.captured`.
    pub(crate) kind: &'a str,
    /// When it happened, in milliseconds since the epoch.
    pub(crate) time_ms: i64,
    /// What it is made of, for its id.
    pub(crate) about: &'a [&'a [u8]],
    /// What it says.
    pub(crate) data: Map<String, Value>,
}

impl Draft<'_> {
    /// A field that pages have no name for, or one whose value they have no word for.
    fn without_words(&self) -> Option<&str> {
        let is_worded = |(field, value): (&String, &Value)| match value {
            // Reasons of rejections are people's.
            Value::String(text) if self.kind != "qc.result" && self.kind != "unit.stage" => {
                !WORDS.iter().any(|(name, _)| name == field) || WORDS.contains(&(field.as_str(), text.as_str()))
            }
            _ => true,
        };
        self.data.iter().find_map(|(field, value)| {
            let has_name = field == "unit" || FIELDS.contains(&field.as_str());
            (!has_name || !is_worded((field, value))).then_some(field.as_str())
        })
    }

    /// The event in JSON. A time that can't be is told as `now_ms`.
    pub(crate) fn to_json(&self, now_ms: i64) -> String {
        debug_assert_eq!(self.without_words(), None, "pages have no words for it");
        let mut hash = blake3::Hasher::new();
        for part in [self.kind.as_bytes()].iter().chain(self.about) {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let id = hash.finalize().to_hex();
        let source = match self.station {
            Some(station) => format!("//veghe/agent/{}/station/{station}", self.agent),
            None => format!("//veghe/agent/{}", self.agent),
        };
        let time_ms = if (EARLIEST_MS..=now_ms).contains(&self.time_ms) { self.time_ms } else { now_ms };
        let time = jiff::Timestamp::from_millisecond(time_ms).unwrap_or_default().to_string();
        json!({
            "specversion": "1.0",
            "type": format!("{TYPE_PREFIX}{}", self.kind),
            "source": source,
            "id": format!("b3:{}", id.get(..32).unwrap_or_default()),
            "time": time,
            "datacontenttype": "application/json",
            "data": self.data,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_bytes_that_collectors_read_for_ever() {
        let golden = include_str!("../../../wire/golden/v1/events.json").lines().next().expect("a line");
        let golden = golden.trim_start_matches('[').trim_end_matches(',');
        let expected: Value = serde_json::from_str(golden).expect("JSON");
        let agent = "scan-1".parse().expect("id");
        let Value::Object(data) = expected["data"].clone() else { panic!("no data") };
        let draft = |about| Draft {
            agent: &agent,
            station: Some("S02"),
            kind: "image.captured",
            time_ms: 1_778_746_351_402,
            about,
            data: data.clone(),
        };
        let told = draft(&[b"scans", b"1"]).to_json(1_778_746_400_000);
        assert_eq!(told, golden);
        let other: Value = serde_json::from_str(&draft(&[b"scans1"]).to_json(1_778_746_400_000)).expect("JSON");
        assert_ne!(other["id"], expected["id"], "parts are told apart");
        let ahead: Value = serde_json::from_str(&draft(&[b"1"]).to_json(1_778_746_000_000)).expect("JSON");
        assert_eq!(ahead["time"], "2026-05-14T08:06:40Z", "a time of the future is now");
    }
}
