//! Events as they come: `CloudEvents` 1.0 in JSON, one (structured mode) or an array (batch mode), into checked values.
//!
//! Invariants: every text has a bound and no control characters; every problem of an event is told by its field; what
//! could name a person is dropped. What it deliberately does not do: know units or time.

use serde_json::{Map, Value};
use veghe_model::Timestamp;

use super::fields::{Fields, MAX_TEXT};
use super::holdings::{self, FixityPass, Validated};
use super::lots::Draw;
use super::privacy::{self, Stripped};
use super::quality::ImageFacts;
use super::stage::{Change, Hold, Stage};
use super::unit::Unit;

/// What the types of our events begin with.
pub const TYPE_PREFIX: &str = "ro.cjt.digi.v1.";
/// What the sources of agents begin with.
const AGENTS: &str = "//veghe/agent/";
/// Events in one body.
pub const MAX_EVENTS: usize = 20_000;
/// Images of one event: the frames of one file.
const MAX_FRAMES: u64 = 100_000;
/// The station of images whose event names none.
pub const NO_STATION: &str = "unassigned";

/// The source of events that the collector makes itself; nobody else may use it.
pub const OWN_SOURCE: &str = "//veghe/collector";

/// One event, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Which system sent it.
    pub source: String,
    /// Names it within its source: (source, id) is counted once.
    pub id: String,
    /// When it happened, by its sender's clock.
    pub time: Timestamp,
    /// What happened.
    pub data: Data,
    /// The same as JSON, for the ledger.
    pub json: String,
    /// Who did it, taken out of the data.
    pub person: Stripped,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A unit exists, beside those of the inventory.
    Declared(Box<Unit>),
    /// A unit went through a door of the process.
    Stage {
        /// Which unit.
        unit: String,
        /// Through the door of which stage.
        stage: Stage,
        /// How.
        change: Change,
        /// Why, for rework.
        reason: Option<String>,
    },
    /// Paper is somewhere else now.
    Moved {
        /// Which unit.
        unit: String,
        /// Where it is now.
        to: String,
        /// When it must be back, in milliseconds since the epoch.
        due_ms: Option<i64>,
        /// The handover record.
        record: Option<String>,
    },
    /// A file with images was made.
    Captured(Images),
    /// A file with images was made again.
    Replaced {
        /// The new images.
        images: Images,
        /// How many images it had before.
        frames_before: u32,
    },
    /// A file with images is gone.
    Deleted(Images),
    /// A file has the same content as one that was counted: it is no image more.
    Duplicate(Images),
    /// A batch is complete.
    BatchClosed {
        /// Which batch.
        batch: String,
    },
    /// Somebody looked at the images of a unit or a batch.
    Qc {
        /// Whose images.
        of: Target,
        /// Whether they are good.
        is_accepted: bool,
        /// What is wrong.
        reason: Option<String>,
        /// Images looked at.
        checked: u32,
        /// Images that were bad.
        rejected: u32,
    },
    /// Target analysis of a station.
    TargetMeasured {
        /// Which station.
        station: String,
        /// Whether it is within tolerance.
        is_passed: bool,
        /// The mean colour error.
        delta_e_mean: Option<f64>,
    },
    /// Text was recognized.
    OcrDone {
        /// Which unit.
        unit: String,
        /// On how many pages.
        pages: u32,
        /// Mean confidence of words, 0 to 1.
        confidence: Option<f64>,
    },
    /// A package was handed over.
    Delivered {
        /// Of which unit or batch.
        of: Target,
        /// Its size.
        bytes: u64,
    },
    /// A file or package was compared with its digest.
    Fixity {
        /// On which storage.
        storage: String,
        /// Whether it is as it was.
        outcome: FixityOutcome,
        /// How much was read.
        bytes: u64,
        /// Which object, by its path on the storage; never a label.
        object: Option<String>,
        /// Another storage that has it as it was.
        good_copy: Option<String>,
    },
    /// Images were billed.
    Invoiced(Invoice),
    /// A sample of a batch was drawn.
    LotDrawn(Box<Draw>),
    /// How far a pass over all objects of a storage is.
    FixityPass(Box<FixityPass>),
    /// A package was checked against its manifests.
    Validated(Box<Validated>),
    /// A station began to do something else.
    Station {
        /// Which.
        station: String,
        /// What it does now.
        state: StationState,
    },
    /// An earlier event was wrong: its effect is taken back.
    Correction {
        /// Source of the wrong event.
        source: String,
        /// Its id.
        id: String,
    },
    /// The inventory has a new version.
    BaselineAdopted {
        /// Which.
        version: u32,
    },
    /// Days are reported and stay as they are.
    DaysFrozen {
        /// The last of them, as days since the epoch.
        through: i32,
    },
}

/// Images of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Which unit they show.
    pub unit: String,
    /// Which station made them.
    pub station: String,
    /// How many.
    pub frames: u32,
    /// Size of the file.
    pub bytes: u64,
    /// Whether the file is whole; one that is not does not count.
    pub is_complete: bool,
    /// What else is said of them.
    pub facts: ImageFacts,
}

/// What a contractor billed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Invoice {
    /// Its number.
    pub invoice: String,
    /// Images on it; below 0 for a credit note.
    pub images: i64,
}

/// A unit or all units of a batch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A unit.
    Unit(String),
    /// Every unit that the inventory has in the batch.
    Batch(String),
}

impl Target {
    /// The unit's or batch's code.
    pub fn name(&self) -> &str {
        match self {
            Self::Unit(name) | Self::Batch(name) => name,
        }
    }
}

/// What came out of a fixity check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FixityOutcome {
    /// As it was.
    Good,
    /// Other bytes.
    Mismatch,
    /// Gone.
    Missing,
    /// Unreadable.
    Failed,
}

impl FixityOutcome {
    /// The message that says it on pages.
    pub fn key(self) -> &'static str {
        match self {
            Self::Good => "digi-fixity-is-good",
            Self::Mismatch => "digi-fixity-is-mismatch",
            Self::Missing => "digi-fixity-is-missing",
            Self::Failed => "digi-fixity-is-failed",
        }
    }
}

/// What a station does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StationState {
    /// Staffed and scanning.
    Working,
    /// Ready, and nobody scans.
    Idle,
    /// Stopped by paper.
    Jam,
    /// Stopped by a fault.
    Down,
    /// Being cleaned or repaired.
    Maintenance,
    /// Switched off.
    Off,
}

impl StationState {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Working, Self::Idle, Self::Jam, Self::Down, Self::Maintenance, Self::Off];

    /// As in events and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
            Self::Jam => "jam",
            Self::Down => "down",
            Self::Maintenance => "maintenance",
            Self::Off => "off",
        }
    }
}

impl Data {
    /// The unit that it is about, if it is about one.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Declared(unit) => Some(&unit.code),
            Self::Captured(images)
            | Self::Deleted(images)
            | Self::Duplicate(images)
            | Self::Replaced { images, .. } => Some(&images.unit),
            Self::Validated(validated) => match &validated.of {
                Target::Unit(unit) => Some(unit),
                Target::Batch(_) => None,
            },
            Self::Stage { unit, .. }
            | Self::Moved { unit, .. }
            | Self::OcrDone { unit, .. }
            | Self::Qc { of: Target::Unit(unit), .. }
            | Self::Delivered { of: Target::Unit(unit), .. } => Some(unit),
            _ => None,
        }
    }

    /// The images that it makes, if it makes any.
    pub fn images(&self) -> Option<&Images> {
        match self {
            Self::Captured(images) | Self::Deleted(images) | Self::Replaced { images, .. } => Some(images),
            _ => None,
        }
    }

    /// The station that it is about, if it is about one.
    pub fn station(&self) -> Option<&str> {
        match self {
            Self::Captured(images)
            | Self::Deleted(images)
            | Self::Duplicate(images)
            | Self::Replaced { images, .. } => Some(&images.station),
            Self::Station { station, .. } | Self::TargetMeasured { station, .. } => Some(station),
            _ => None,
        }
    }

    /// The end of its type: `image.captured`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Declared(_) => "inventory.declared",
            Self::Stage { .. } => "unit.stage",
            Self::Moved { .. } => "custody.moved",
            Self::Captured(_) => "image.captured",
            Self::Replaced { .. } => "image.replaced",
            Self::Deleted(_) => "image.deleted",
            Self::Duplicate(_) => "image.duplicate",
            Self::BatchClosed { .. } => "batch.closed",
            Self::Qc { .. } => "qc.result",
            Self::TargetMeasured { .. } => "target.measured",
            Self::OcrDone { .. } => "ocr.done",
            Self::Delivered { .. } => "package.delivered",
            Self::Fixity { .. } => "fixity.checked",
            Self::FixityPass(_) => "fixity.pass",
            Self::Validated(_) => "package.validated",
            Self::Station { .. } => "station.state",
            Self::Invoiced(_) => "invoice.received",
            Self::LotDrawn(_) => "lot.drawn",
            Self::Correction { .. } => "correction",
            Self::BaselineAdopted { .. } => "baseline.adopted",
            Self::DaysFrozen { .. } => "days.frozen",
        }
    }
}

/// Why a body is no events at all.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not JSON.
    #[error("is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither one event nor a list.
    #[error("is neither a CloudEvent (an object) nor a batch of them (an array)")]
    Shape,
    /// More than [`MAX_EVENTS`].
    #[error("has {0} events; send at most {MAX_EVENTS} at a time")]
    TooMany(usize),
}

/// Why one event is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id, as far as it has one.
    pub id: Option<String>,
    /// Field and what is wrong with it.
    pub problems: Vec<(String, String)>,
}

/// Reads a body: one event, or an array of events.
///
/// # Errors
/// [`BodyError`] where nothing can be read of it; what is wrong with one event is in its place.
pub fn parse(body: &[u8]) -> Result<Vec<Result<Event, Refused>>, BodyError> {
    match serde_json::from_slice(body)? {
        Value::Array(events) if events.len() > MAX_EVENTS => Err(BodyError::TooMany(events.len())),
        Value::Array(events) => Ok(events.into_iter().map(parse_one).collect()),
        event @ Value::Object(_) => Ok(vec![parse_one(event)]),
        _ => Err(BodyError::Shape),
    }
}

fn parse_one(event: Value) -> Result<Event, Refused> {
    let Value::Object(envelope) = event else {
        let problems = vec![(String::new(), "is not an object".to_owned())];
        return Err(Refused { id: None, problems });
    };
    let mut problems = Vec::new();
    let id = envelope.get("id").and_then(Value::as_str).filter(|id| id.len() <= MAX_TEXT).map(str::to_owned);
    let read = read_envelope(envelope, &mut problems);
    read.filter(|_| problems.is_empty()).ok_or(Refused { id, problems })
}

fn read_envelope(mut envelope: Map<String, Value>, problems: &mut Vec<(String, String)>) -> Option<Event> {
    let data = envelope.remove("data");
    let mut person = privacy::strip(&mut envelope);
    // Other attributes are extensions of somebody's own (CloudEvents 1.0, 3.1): not ours to refuse.
    let mut fields = Fields::new("", envelope, problems);
    if let Some(version) = fields.text("specversion", 8)
        && version != "1.0"
    {
        fields.problem("specversion", format!("is {version}; this collector reads 1.0"));
    }
    let kind = fields.text("type", 128);
    let source = fields.text("source", MAX_TEXT);
    let id = fields.text("id", MAX_TEXT);
    let subject = fields.optional_text("subject", MAX_TEXT);
    let time = fields.time("time");
    if let Some(content) = fields.optional_text("datacontenttype", 128)
        && content.split(';').next().map(str::trim) != Some("application/json")
    {
        fields.problem("datacontenttype", format!("is {content}; data must be application/json"));
    }
    if source.as_deref() == Some(OWN_SOURCE) {
        fields.problem("source", format!("{OWN_SOURCE} is the collector's own; name your system"));
    }
    let mut data = match data {
        Some(Value::Object(data)) => data,
        Some(_) => {
            problems.push(("data".to_owned(), "is not an object".to_owned()));
            return None;
        }
        None => {
            problems.push(("data".to_owned(), "is missing".to_owned()));
            return None;
        }
    };
    // No person is known by default: who did it does not even reach the disk.
    let within = privacy::strip(&mut data);
    person = Stripped { fields: person.fields + within.fields, operator: within.operator.or(person.operator) };
    let kind = kind?;
    let Some(kind) = kind.strip_prefix(TYPE_PREFIX) else {
        problems.push(("type".to_owned(), format!("`{kind}` does not begin with `{TYPE_PREFIX}`")));
        return None;
    };
    // What the envelope says once need not be said in data again.
    if let Some(subject) = subject
        && matches!(
            kind,
            "unit.stage"
                | "custody.moved"
                | "image.captured"
                | "image.replaced"
                | "image.deleted"
                | "image.duplicate"
                | "ocr.done"
        )
        && !data.contains_key("unit")
    {
        data.insert("unit".to_owned(), Value::String(subject));
    }
    if let Some((_, station)) = source.as_deref().and_then(|source| source.rsplit_once("/station/"))
        && (kind.starts_with("image.") || kind.starts_with("station.") || kind.starts_with("target."))
        && !data.contains_key("station")
    {
        data.insert("station".to_owned(), Value::String(station.to_owned()));
    }
    let json = Value::Object(data.clone()).to_string();
    // An agent may be newer than its collector: what it says more is kept and not understood. Others mistype.
    let unknown = match &source {
        Some(source) if source.starts_with(AGENTS) => Unknown::Kept,
        _ => Unknown::Refused,
    };
    let data = read_data(kind, data, unknown, problems)?;
    Some(Event { source: source?, id: id?, time: time?, data, json, person })
}

/// Reads what the ledger kept of an event; nothing where a newer program wrote it.
pub(super) fn reread(kind: &str, json: &str) -> Option<Data> {
    let Ok(Value::Object(data)) = serde_json::from_str(json) else { return None };
    match kind {
        "baseline.adopted" => {
            let version = data.get("version")?.as_u64()?.try_into().ok()?;
            Some(Data::BaselineAdopted { version })
        }
        "lot.drawn" => serde_json::from_str(json).ok().map(Data::LotDrawn),
        "days.frozen" => Some(Data::DaysFrozen { through: data.get("through")?.as_i64()?.try_into().ok()? }),
        // It was checked when it came, perhaps by a newer program.
        _ => read_data(kind, data, Unknown::Kept, &mut Vec::new()),
    }
}

/// What becomes of fields that nobody knows here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    Kept,
}

fn read_data(
    kind: &str,
    data: Map<String, Value>,
    unknown: Unknown,
    problems: &mut Vec<(String, String)>,
) -> Option<Data> {
    let before = problems.len();
    let mut f = Fields::new("data.", data, problems);
    let data = match kind {
        "inventory.declared" => Unit::from_fields(&mut f).map(|unit| Data::Declared(Box::new(unit))),
        "unit.stage" => {
            let (unit, reason) = (f.code("unit"), f.optional_word("reason"));
            f.optional_word("station");
            let stage = f.choice("stage", &Stage::ALL.map(|stage| (stage.name(), stage)));
            let change = match f.choice("change", &[("enter", 0), ("exit", 1), ("hold", 2), ("release", 3)]) {
                Some(0) => Some(Change::Enter),
                Some(1) => Some(Change::Exit),
                Some(2) => f.choice("hold", &Hold::ALL.map(|hold| (hold.name(), hold))).map(Change::Hold),
                Some(_) => Some(Change::Release),
                None => None,
            };
            unit.zip(stage).zip(change).map(|((unit, stage), change)| Data::Stage { unit, stage, change, reason })
        }
        "custody.moved" => {
            let (unit, to, record) = (f.code("unit"), f.text("to", 128), f.optional_text("record", 128));
            f.optional_text("from", 128);
            let due_ms = f.optional_time("due").map(|due| due.0);
            unit.zip(to).map(|(unit, to)| Data::Moved { unit, to, due_ms, record })
        }
        "image.captured" => images(&mut f).map(Data::Captured),
        "image.replaced" => {
            let frames_before = f.optional_count("frames_before", MAX_FRAMES);
            images(&mut f).map(|images| {
                let before = frames_before.unwrap_or(u64::from(images.frames));
                Data::Replaced { images, frames_before: before as u32 }
            })
        }
        "image.deleted" => images(&mut f).map(Data::Deleted),
        "image.duplicate" => images(&mut f).map(Data::Duplicate),
        "batch.closed" => {
            f.optional_count("units", 1_000_000);
            f.optional_count("images", 100_000_000);
            f.code("batch").map(|batch| Data::BatchClosed { batch })
        }
        "qc.result" => {
            let of = target(&mut f);
            let is_accepted = f.choice("outcome", &[("accepted", true), ("rejected", false)]);
            let reason = f.optional_word("reason");
            let checked = f.optional_count("checked", 10_000_000).unwrap_or(0) as u32;
            let rejected = f.optional_count("rejected", 10_000_000).unwrap_or(0) as u32;
            if is_accepted == Some(false) && reason.is_none() {
                f.problem("reason", "is missing; say in a word why it was rejected, for example `skew`");
            }
            of.zip(is_accepted).map(|(of, is_accepted)| Data::Qc { of, is_accepted, reason, checked, rejected })
        }
        "target.measured" => {
            let (station, is_passed) = (f.word("station"), f.flag("passed"));
            let delta_e_mean = f.optional_number("delta_e_mean", 0.0, 1000.0);
            for other in ["mtf50", "noise", "ppi"] {
                f.optional_number(other, 0.0, 1e6);
            }
            f.optional_text("target", 64);
            station.zip(is_passed).map(|(station, is_passed)| Data::TargetMeasured { station, is_passed, delta_e_mean })
        }
        "ocr.done" => {
            let (unit, pages) = (f.code("unit"), f.count("pages", 1_000_000));
            let confidence = f.optional_number("confidence", 0.0, 1.0);
            f.optional_text("language", 64);
            unit.zip(pages).map(|(unit, pages)| Data::OcrDone { unit, pages: pages as u32, confidence })
        }
        "package.delivered" => {
            let (of, bytes) = (target(&mut f), f.count("bytes", 1 << 53));
            f.optional_text("package", MAX_TEXT);
            f.optional_count("files", 100_000_000);
            of.zip(bytes).map(|(of, bytes)| Data::Delivered { of, bytes })
        }
        "fixity.checked" => {
            let storage = f.word("storage");
            let outcome = f.choice(
                "outcome",
                &[
                    ("ok", FixityOutcome::Good),
                    ("mismatch", FixityOutcome::Mismatch),
                    ("missing", FixityOutcome::Missing),
                    ("error", FixityOutcome::Failed),
                ],
            );
            let bytes = f.optional_count("bytes", 1 << 53).unwrap_or(0);
            let (object, good_copy) = (f.optional_text("object", 1024), f.optional_word("good_copy"));
            f.optional_text("algorithm", 32);
            f.optional_text("unit", 64);
            f.optional_word("reason");
            storage.zip(outcome).map(|(storage, outcome)| Data::Fixity { storage, outcome, bytes, object, good_copy })
        }
        "fixity.pass" => holdings::read_pass(&mut f).map(|pass| Data::FixityPass(Box::new(pass))),
        "package.validated" => {
            let of = target(&mut f);
            holdings::read_validated(&mut f, of).map(|validated| Data::Validated(Box::new(validated)))
        }
        "station.state" => {
            let station = f.word("station");
            let state = f.choice("state", &StationState::ALL.map(|state| (state.name(), state)));
            f.optional_word("reason");
            f.optional_count("images_total", 1 << 53);
            f.optional_text("epoch", 64);
            station.zip(state).map(|(station, state)| Data::Station { station, state })
        }
        "invoice.received" => {
            let invoice = f.text("invoice", 64);
            let images = f.count("images", 100_000_000);
            let is_credit = f.optional_flag("credit").unwrap_or(false);
            invoice.zip(images).map(|(invoice, images)| {
                let images = images as i64;
                Data::Invoiced(Invoice { invoice, images: if is_credit { -images } else { images } })
            })
        }
        "correction" => {
            let (source, id) = (f.text("source", MAX_TEXT), f.text("id", MAX_TEXT));
            f.text("reason", MAX_TEXT);
            source.zip(id).map(|(source, id)| Data::Correction { source, id })
        }
        _ => {
            let shown: String = kind.chars().take(64).collect();
            problems.push(("type".to_owned(), format!("`{TYPE_PREFIX}{shown}` is not known; see PROTOCOL.md for all")));
            return None;
        }
    };
    if unknown == Unknown::Refused {
        f.finish();
    }
    data.filter(|_| problems.len() == before)
}

fn images(f: &mut Fields<'_>) -> Option<Images> {
    let (unit, station, frames) = (f.code("unit"), f.optional_word("station"), f.count("frames", MAX_FRAMES));
    let bytes = f.optional_count("bytes", 1 << 53).unwrap_or(0);
    let is_complete = f.optional_flag("complete").unwrap_or(true);
    for (name, most) in [("width_px", 1 << 20), ("height_px", 1 << 20), ("samples", 16)] {
        f.optional_count(name, most);
    }
    let mut count = |name: &str, most: u64| f.optional_count(name, most).map(|count| count as u32);
    let (bits, blank, near_duplicate) =
        (count("bits", 64), count("blank", MAX_FRAMES), count("near_duplicate", MAX_FRAMES));
    let facts = ImageFacts {
        ppi: f.optional_number("ppi", 0.0, 100_000.0),
        bits,
        icc: f.optional_flag("icc"),
        compression: f.optional_text("compression", 128),
        format: f.optional_text("format", 128),
        blank: blank.unwrap_or(0),
        near_duplicate: near_duplicate.unwrap_or(0),
    };
    f.optional_word("problem");
    for name in ["batch", "observed_by", "stage", "digest"] {
        f.optional_text(name, 128);
    }
    Some(Images {
        unit: unit?,
        station: station.unwrap_or_else(|| NO_STATION.to_owned()),
        frames: frames? as u32,
        bytes,
        is_complete,
        facts,
    })
}

fn target(f: &mut Fields<'_>) -> Option<Target> {
    match (f.optional_text("unit", 64), f.optional_text("batch", 64)) {
        (Some(unit), None) => Some(Target::Unit(unit)),
        (None, Some(batch)) => Some(Target::Batch(batch)),
        (Some(_), Some(_)) => {
            f.problem("batch", "stands beside `unit`; name one of them");
            None
        }
        (None, None) => {
            f.problem("unit", "is missing; name a unit or a `batch`");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn captured() -> Value {
        json!({"specversion": "1.0", "type": "ro.cjt.digi.v1.image.captured", "source": "//cjt/station/S02",
            "id": "b3:5f1c:1", "subject": "CJT-URB-1987-0142", "time": "2026-05-14T08:12:31.402Z",
            "datacontenttype": "application/json",
            "data": {"unit": "CJT-URB-1987-0142", "batch": "L-0031", "stage": "scan", "bytes": 1_284_332, "frames": 1,
                "width_px": 2480, "height_px": 3508, "ppi": 300.0, "bits": 8, "samples": 3, "compression": "jpeg",
                "icc": true, "complete": true, "observed_by": "hotfolder"}})
    }

    fn one(event: &Value) -> Result<Event, Refused> {
        parse(event.to_string().as_bytes()).expect("JSON").remove(0)
    }

    fn fields(event: &Value) -> Vec<String> {
        one(event).expect_err("refused").problems.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn the_example_of_the_reference_is_read_in_both_modes() {
        let event = one(&captured()).expect("good");
        let images = Images {
            unit: "CJT-URB-1987-0142".to_owned(),
            station: "S02".to_owned(),
            frames: 1,
            bytes: 1_284_332,
            is_complete: true,
            facts: ImageFacts {
                ppi: Some(300.0),
                bits: Some(8),
                compression: Some("jpeg".to_owned()),
                icc: Some(true),
                ..ImageFacts::default()
            },
        };
        assert_eq!(event.data, Data::Captured(images));
        assert_eq!((event.id.as_str(), event.time), ("b3:5f1c:1", Timestamp(1_778_746_351_402)));
        let batch = parse(json!([captured(), captured(), 5]).to_string().as_bytes()).expect("batch");
        assert_eq!(batch.iter().filter(|event| event.is_ok()).count(), 2);
        assert_eq!(reread(event.data.kind(), &event.json), Some(event.data));
    }

    #[test]
    fn every_problem_of_an_event_is_told_by_its_field() {
        let mut event = captured();
        event["specversion"] = json!("0.3");
        event["time"] = json!("yesterday");
        event["id"] = json!("");
        event["data"]["frames"] = json!(-1);
        event["data"]["width_px"] = json!(2.5);
        event["data"]["icc"] = json!("yes");
        event["data"]["byts"] = json!(7);
        assert_eq!(
            fields(&event),
            ["specversion", "id", "time", "data.frames", "data.width_px", "data.icc", "data.byts"]
        );
        assert_eq!(fields(&json!({})), ["specversion", "type", "source", "id", "time", "data"]);
    }

    #[test]
    fn every_type_of_the_reference_is_read() {
        for (kind, data) in [
            ("inventory.declared", json!({"unit": "U", "width_mm": 31, "leaves": 236})),
            ("unit.stage", json!({"unit": "U", "stage": "scan", "change": "enter", "reason": "skew"})),
            ("unit.stage", json!({"unit": "U", "stage": "prep", "change": "hold", "hold": "conservation"})),
            (
                "custody.moved",
                json!({"unit": "U", "from": "D1/R04/P2", "to": "scan room", "due": "2026-06-01T00:00:00Z"}),
            ),
            ("image.replaced", json!({"unit": "U", "frames": 2, "frames_before": 1, "station": "S01"})),
            ("image.deleted", json!({"unit": "U", "frames": 2})),
            ("image.captured", json!({"unit": "U", "frames": 2, "blank": 1, "near_duplicate": 2, "format": "tiff"})),
            ("image.duplicate", json!({"unit": "U", "frames": 2, "format": "tiff"})),
            ("image.captured", json!({"unit": "U", "frames": 0, "complete": false, "problem": "truncated"})),
            ("batch.closed", json!({"batch": "L-1", "units": 5, "images": 900})),
            ("qc.result", json!({"unit": "U", "outcome": "rejected", "reason": "skew", "checked": 10, "rejected": 1})),
            ("qc.result", json!({"batch": "L-1", "outcome": "accepted"})),
            ("target.measured", json!({"station": "S01", "passed": true, "delta_e_mean": 2.1, "mtf50": 0.3})),
            ("ocr.done", json!({"unit": "U", "pages": 290, "confidence": 0.93})),
            ("package.delivered", json!({"batch": "L-1", "package": "L-1.zip", "bytes": 9, "files": 3})),
            ("fixity.checked", json!({"storage": "nas-1", "outcome": "ok", "bytes": 9, "algorithm": "blake3"})),
            (
                "fixity.checked",
                json!({"storage": "nas-1", "outcome": "mismatch", "object": "a/b.tif", "good_copy": "nas-2", "reason": "damaged"}),
            ),
            (
                "fixity.pass",
                json!({"storage": "nas-1", "pass": 3, "state": "finished", "started": "2026-05-14T08:12:31Z", "objects": 9,
                    "ok": 7, "mismatch": 1, "missing": 1, "error": 0, "new": 2, "bytes": 10, "copies_differ": 0,
                    "oldest_verified": "2026-05-14T08:12:31Z"}),
            ),
            (
                "package.validated",
                json!({"batch": "L-1", "outcome": "failed", "files": 3, "bytes": 9, "images": 2, "mets_files": 3,
                    "alto_pages": 2, "alto_confidence": 0.9, "algorithm": "sha512", "problems": {"checksum": 1}}),
            ),
            ("station.state", json!({"station": "S01", "state": "jam", "images_total": 5, "epoch": "a"})),
            ("invoice.received", json!({"invoice": "CJT 0042", "images": 98_000, "credit": true})),
            ("correction", json!({"source": "//cjt/station/S02", "id": "b3:1", "reason": "wrong folder"})),
        ] {
            let mut event = captured();
            event["type"] = json!(format!("{TYPE_PREFIX}{kind}"));
            event["data"] = data;
            let event = one(&event).unwrap_or_else(|refused| panic!("{kind}: {refused:?}"));
            assert_eq!(event.data.kind(), kind);
            assert_eq!(reread(kind, &event.json), Some(event.data));
        }
    }

    #[test]
    fn who_did_it_is_dropped_and_the_collectors_own_name_is_refused() {
        let mut event = captured();
        event["data"]["operator"] = json!("Ana Pop");
        assert!(!one(&event).expect("good").json.contains("Ana"));
        event["source"] = json!(OWN_SOURCE);
        assert_eq!(fields(&event), ["source"]);
        event["source"] = json!("//cjt");
        event["type"] = json!("ro.cjt.digi.v1.baseline.adopted");
        assert_eq!(fields(&event), ["type"]);
    }

    #[test]
    fn what_agents_send_is_read_for_ever_and_a_newer_one_may_say_more() {
        let golden = include_bytes!("../../../wire/golden/v1/events.json");
        let events = parse(golden).expect("JSON");
        assert_eq!(events.len(), 6);
        let kinds: Vec<&str> = events.iter().map(|event| event.as_ref().expect("good").data.kind()).collect();
        let expected = [
            "image.captured",
            "image.replaced",
            "image.duplicate",
            "package.validated",
            "fixity.checked",
            "fixity.pass",
        ];
        assert_eq!(kinds, expected);
        let mut newer: Value = serde_json::from_slice::<Value>(golden).expect("JSON")[0].clone();
        newer["data"]["colour_space"] = json!("srgb");
        let kept = one(&newer).expect("good");
        assert!(kept.json.contains("colour_space"));
        assert_eq!(reread(kept.data.kind(), &kept.json), Some(kept.data));
        newer["source"] = json!("//cjt/station/S02");
        assert_eq!(fields(&newer), ["data.colour_space"]);
    }

    #[test]
    fn what_is_no_event_is_an_error_and_no_panic() {
        for body in ["", "1", "null", "[[]]", "{", "\u{0}", "[1,2]", "\"x\""] {
            drop(parse(body.as_bytes()));
        }
        assert!(matches!(parse(b"7"), Err(BodyError::Shape)));
        let many = format!("[{}0]", "0,".repeat(MAX_EVENTS));
        assert!(matches!(parse(many.as_bytes()), Err(BodyError::TooMany(_))));
    }

    proptest! {
        #[test]
        fn a_damaged_event_is_refused_or_read_and_never_a_panic(at in 0..600usize, byte: u8, cut in 0..700usize) {
            let mut body = captured().to_string().into_bytes();
            let length = body.len();
            body[at % length] = byte;
            body.truncate(cut.max(1));
            drop(parse(&body));
        }
    }
}
