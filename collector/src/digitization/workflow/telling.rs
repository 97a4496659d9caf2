//! What was seen in a workflow system as events of ours.
//!
//! What it deliberately does not do: judge them; they go through the same checks as everybody's.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::super::event::{self, Event, Refused, TYPE_PREFIX};
use super::super::fields::MAX_CODE;
use super::super::stage::Stage;
use super::Workflow;
use super::mark::Mark;

/// The reason of what was sent back: neither system has a list of reasons, and what people write there stays there.
const REASON: &str = "correction";

/// Something that happened to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The same each time it is read, and nobody else's within the system.
    pub(super) id: String,
    /// The text that holds the unit's code.
    pub(super) unit: Option<String>,
    /// The step's title.
    pub(super) step: String,
    /// When, by the server's local time.
    pub(super) at: DateTime,
    /// What.
    pub(super) what: Happened,
}

/// What happened to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// Somebody began it.
    Begun,
    /// It was finished.
    Done,
    /// A later step sent the process back to it.
    SentBack,
}

/// Rows of one statement or two.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) seen: Vec<Seen>,
    /// The mark behind them.
    pub(super) next: Mark,
    pub(super) is_last: bool,
}

/// What comes of a page.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) events: Vec<Result<Event, Refused>>,
    /// What was seen of processes whose text holds no code.
    pub(super) unnamed: u64,
}

/// The events of what was seen.
pub(super) fn tell(workflow: &Workflow, time_zone: &TimeZone, seen: Vec<Seen>) -> Told {
    let (mut events, mut unnamed) = (Vec::new(), 0);
    for seen in seen {
        // Databases compare without case and accents; the settings mean what they say.
        let Some(stage) = workflow.steps.get(&seen.step).copied() else { continue };
        let Some(unit) = seen.unit.as_deref().and_then(|text| code(workflow, text)) else {
            unnamed += 1;
            continue;
        };
        let at = seen.at.to_zoned_datetime(time_zone.clone()).map(|at| at.timestamp().to_string());
        let at = at.unwrap_or_else(|_beyond| seen.at.to_string());
        let mut put = |id: String, kind: &str, data: Value| {
            events.push(json!({"specversion": "1.0", "type": format!("{TYPE_PREFIX}{kind}"),
                "source": workflow.source(), "id": id, "time": at, "data": data}));
        };
        let step = |change: &str| json!({"unit": unit, "stage": stage.name(), "change": change});
        match seen.what {
            // It came back when it was put back, not when somebody set out to.
            Happened::Begun if stage == Stage::Returned => {}
            Happened::Done if stage == Stage::Returned => put(seen.id, "unit.stage", step("enter")),
            Happened::Begun => put(seen.id, "unit.stage", step("enter")),
            Happened::Done => {
                if stage == Stage::Qc {
                    let data = json!({"unit": unit, "outcome": "accepted"});
                    put(format!("{}:accepted", seen.id), "qc.result", data);
                }
                put(seen.id, "unit.stage", step("exit"));
            }
            // A step after the look at the images that is sent back, an export for one, rejects no image.
            Happened::SentBack if stage >= Stage::Qc => {}
            Happened::SentBack => {
                let data = json!({"unit": unit, "outcome": "rejected", "reason": REASON});
                put(seen.id, "qc.result", data);
            }
        }
    }
    let body = Value::Array(events).to_string();
    let events = event::parse(body.as_bytes()).unwrap_or_else(|error| {
        tracing::error!(%error, workflow = workflow.name, "events of a workflow system are no events");
        Vec::new()
    });
    Told { events, unnamed }
}

/// The unit's code in a text.
fn code(workflow: &Workflow, text: &str) -> Option<String> {
    let text = text.trim();
    let code = match &workflow.unit_pattern {
        None => text,
        Some(pattern) => pattern.captures(text)?.get(1)?.as_str(),
    };
    ((1..=MAX_CODE).contains(&code.len()) && !code.chars().any(char::is_control)).then(|| code.to_owned())
}
