//! Persons: none is known. Fields that name one are taken out of every event at the door and counted; only where the
//! project's people decided so, the operator is kept for some weeks as a pseudonym beside the ledger.
//!
//! Invariants: no name reaches the disk, a log, a metric or an answer; a pseudonym is in one table and nowhere else, and
//! is erased with its key; what is shown are groups of at least [`SMALLEST_GROUP`]; a look behind pseudonyms is on record
//! before it is answered. What it deliberately does not do: recognize names in free text, such as the title of a file.

pub mod keys;
pub mod office;
pub mod people;
pub mod reveal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts};
use serde_json::{Map, Value};

use self::keys::{KeyError, Keys};

/// People of whom together something may be told.
pub const SMALLEST_GROUP: usize = 5;
/// Days for which pseudonyms are kept at most, and by default.
pub const MOST_DAYS: u16 = 30;
/// Days for which they are kept at least: a whole week is over by then.
pub const LEAST_DAYS: u16 = 14;
/// Characters of a name that count.
const MAX_NAME: usize = 128;
/// Levels of an event's data that are looked through; deeper ones are taken out whole.
const MAX_DEPTH: usize = 8;

/// Fields that name a person, in small letters and without `_` and `-`. The first is the operator.
const FIELDS: [&str; 24] = [
    "operator",
    "operatorid",
    "operatorname",
    "user",
    "userid",
    "username",
    "login",
    "account",
    "person",
    "personid",
    "personname",
    "employee",
    "employeeid",
    "employeename",
    "staff",
    "worker",
    "author",
    "artist",
    "email",
    "scannedby",
    "createdby",
    "capturedby",
    "checkedby",
    "modifiedby",
];

/// What becomes of the operator that an event names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operators {
    /// Taken out; the rest of the event counts.
    #[default]
    Dropped,
    /// The event is refused, so that its sender stops to name anybody.
    Refused,
    /// Taken out, and kept as a pseudonym for some weeks.
    Pseudonyms,
}

impl Operators {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Refused, Self::Pseudonyms];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::Pseudonyms => "pseudonyms",
        }
    }
}

/// What the project's people decided about persons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of operators.
    pub operators: Operators,
    /// For how many days pseudonyms are kept.
    pub keep_days: u16,
    /// Where the keys of pseudonyms are; nothing stands for `operators.key` of the data directory.
    pub key_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { operators: Operators::default(), keep_days: MOST_DAYS, key_file: None }
    }
}

/// The operator that an event names, on the way from the door to the keyed hash: never shown, never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Operator(String);

/// Not who it is.
impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operator(..)")
    }
}

impl Operator {
    /// Somebody by their name: the same in any case, with any spaces. Nothing of an empty one.
    pub fn named(name: &str) -> Option<Self> {
        let words: Vec<String> = name.split_whitespace().map(str::to_lowercase).collect();
        let name: String = words.join(" ").chars().take(MAX_NAME).collect();
        (!name.is_empty()).then_some(Self(name))
    }

    /// The name, for the hash alone.
    fn name(&self) -> &str {
        &self.0
    }
}

/// What was taken out of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// Fields that named a person.
    pub fields: u64,
    /// The operator among them.
    pub operator: Option<Operator>,
}

/// Whether a field of that name names a person.
fn names_a_person(field: &str) -> bool {
    let plain = || field.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).map(|c| c.to_ascii_lowercase());
    FIELDS.iter().any(|known| plain().eq(known.chars()))
}

/// Takes every field that names a person out of `data`, at any depth.
pub fn strip(data: &mut Map<String, Value>) -> Stripped {
    let mut stripped = Stripped::default();
    take_out(data, &mut stripped, MAX_DEPTH);
    stripped
}

fn take_out(data: &mut Map<String, Value>, stripped: &mut Stripped, depth: usize) {
    // Most events have none: look before anything is moved.
    if data.keys().any(|field| names_a_person(field)) {
        data.retain(|field, value| {
            let is_person = names_a_person(field);
            if is_person && !value.is_null() {
                stripped.fields += 1;
                if field == "operator" {
                    stripped.operator = operator(value);
                }
            }
            !is_person
        });
    }
    for value in data.values_mut() {
        below(value, stripped, depth - 1);
    }
}

fn below(value: &mut Value, stripped: &mut Stripped, depth: usize) {
    match value {
        Value::Object(_) | Value::Array(_) if depth == 0 => *value = Value::Null,
        Value::Object(map) => take_out(map, stripped, depth),
        Value::Array(list) => list.iter_mut().for_each(|value| below(value, stripped, depth - 1)),
        _ => {}
    }
}

fn operator(value: &Value) -> Option<Operator> {
    match value {
        Value::String(name) => Operator::named(name),
        Value::Number(number) => Operator::named(&number.to_string()),
        _ => None,
    }
}

/// Who stands at the door: counts what is taken out, and has the keys where pseudonyms are kept.
pub(super) struct Door {
    /// By what became of them.
    fields: IntCounterVec,
    keys: Mutex<Option<Keys>>,
}

/// What became of fields that named a person.
const OUTCOMES: [&str; 3] = ["dropped", "refused", "pseudonym"];

impl Door {
    pub(super) fn open(settings: &Settings) -> Result<Self, KeyError> {
        let help = "Fields of events that named a person, by what became of them.";
        let fields = IntCounterVec::new(Opts::new("digitization_person_fields_total", help), &["outcome"])
            .expect("invariant: the name and the label are good");
        for outcome in OUTCOMES {
            fields.with_label_values(&[outcome]);
        }
        let keys = match (settings.operators, &settings.key_file) {
            (Operators::Pseudonyms, Some(path)) => Some(Keys::open(path)?),
            (_, Some(path)) => {
                keys::erase(path)?;
                None
            }
            (_, None) => None,
        };
        Ok(Self { fields, keys: Mutex::new(keys) })
    }

    /// The counter, to be registered.
    pub(super) fn metric(&self) -> Box<dyn Collector> {
        Box::new(self.fields.clone())
    }

    pub(super) fn count(&self, outcome: &'static str, fields: u64) {
        self.fields.with_label_values(&[outcome]).inc_by(fields);
    }

    /// Fields by what became of them since the start.
    pub(super) fn counts(&self) -> [(&'static str, u64); 3] {
        OUTCOMES.map(|outcome| (outcome, self.fields.with_label_values(&[outcome]).get()))
    }

    /// Does something with the keys; nothing where no pseudonyms are kept.
    pub(super) fn with_keys<T>(&self, work: impl FnOnce(&mut Keys) -> T) -> Option<T> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
}
