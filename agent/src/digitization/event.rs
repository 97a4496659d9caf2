//! `CloudEvents` of this agent, as the collector reads them (see PROTOCOL.md, Events).
//!
//! Invariant: an id is made of what the event is about, so that whoever tells it again changes nothing. No path is told but
//! what a template takes out of it.

use serde_json::{Map, Value, json};
use veghe_wire::AgentId;

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
    /// The event in JSON. A time that can't be is told as `now_ms`.
    pub(crate) fn to_json(&self, now_ms: i64) -> String {
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
