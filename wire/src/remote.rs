//! Settings that a collector offers to agents, what agents say to that, and what they found on their machines.
//!
//! Payloads are the major version in one byte and a protobuf message, as in [`crate::ack`]. What is told of a machine
//! is bounded by the constants here; a receiver cuts what is beyond them.

use prost::Message;

/// The longest settings document that is offered, in bytes.
pub const MAX_SETTINGS_BYTES: usize = 256 << 10;
/// Reasons that one report has at most.
pub const MAX_REASONS: usize = 20;
/// Labels that one agent has at most.
pub const MAX_LABELS: usize = 32;
/// Things that one agent tells of at most.
pub const MAX_FINDINGS: usize = 200;
/// The longest text in a report or a finding, in characters.
pub const MAX_TEXT_CHARS: usize = 300;

/// Settings for one agent; they replace the ones that were offered before.
#[derive(Clone, PartialEq, Message)]
pub struct Offer {
    /// [`crate::MINOR`] of the collector.
    #[prost(uint32, tag = "1")]
    pub minor: u32,
    /// Counts what the collector rolled out, from 1; the same settings may have several numbers.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// SHA-256 of `settings` in lower-case hexadecimal: the agent refuses anything else.
    #[prost(string, tag = "3")]
    pub hash: String,
    /// A part of `agent.yaml`, in its form; empty: the agent's own file alone.
    #[prost(string, tag = "4")]
    pub settings: String,
}

/// What an agent runs with. Sent after each connection and whenever it changes; it also asks for an [`Offer`] where
/// the collector wants something else.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    /// [`crate::MINOR`] of the agent.
    #[prost(uint32, tag = "1")]
    pub minor: u32,
    /// Number of the offer that it runs with, 0 without one.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// Hash of the same, empty without one.
    #[prost(string, tag = "3")]
    pub hash: String,
    /// It runs with it, but would go back to the one before if it crashed now.
    #[prost(bool, tag = "4")]
    pub on_trial: bool,
    /// Number of the offer that it refused since, 0 where it refused none.
    #[prost(uint64, tag = "5")]
    pub refused_number: u64,
    /// Hash of the same.
    #[prost(string, tag = "6")]
    pub refused_hash: String,
    /// Why it refused that.
    #[prost(message, repeated, tag = "7")]
    pub reasons: Vec<Reason>,
    /// What the agent says of itself: the labels of its own file, `os` and `arch`.
    #[prost(message, repeated, tag = "8")]
    pub labels: Vec<Label>,
    /// Sensors that fail or hang at present.
    #[prost(string, repeated, tag = "9")]
    pub failing: Vec<String>,
}

/// One thing that is wrong with settings.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Reason {
    /// The line of the offer, from 1; 0 where it is about the whole.
    #[prost(uint32, tag = "1")]
    pub line: u32,
    /// The key's path; empty where it is about the whole.
    #[prost(string, tag = "2")]
    pub key: String,
    /// What is wrong and how to mend it.
    #[prost(string, tag = "3")]
    pub message: String,
}

/// A label of an agent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Label {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// All that an agent found on its machine that could be watched: what is not here any more has vanished.
#[derive(Clone, PartialEq, Message)]
pub struct Findings {
    /// [`crate::MINOR`] of the agent.
    #[prost(uint32, tag = "1")]
    pub minor: u32,
    /// When it looked, milliseconds since the Unix epoch.
    #[prost(sint64, tag = "2")]
    pub looked_ms: i64,
    /// What there is.
    #[prost(message, repeated, tag = "3")]
    pub found: Vec<Finding>,
}

/// One thing that could be watched.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Finding {
    /// What it is, for example `nvme`, `exporter`, `certificates`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Which one of its kind on this machine, for example `nvme0`, `127.0.0.1:9187`, `/etc/ssl/private`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// More for a person, for example the model.
    #[prost(string, tag = "3")]
    pub detail: String,
    /// A part of `agent.yaml` that would watch it; empty where it is watched without.
    #[prost(string, tag = "4")]
    pub settings: String,
}

/// What [`Finding`]s say in words: every kind, and parts of details between commas. Pages tell these in their reader's language;
/// what else details have (models, paths, names of products, counts) they tell as it is.
pub const FOUND_WORDS: [&str; 23] = [
    "AEG or Protect",
    "Cypress (many brands)",
    "Eaton or MGE",
    "MySQL or MariaDB",
    "Phoenixtec or Mecer",
    "UPS by NUT",
    "a scanner that speaks eSCL",
    "array",
    "backups",
    "certificates",
    "containers",
    "database",
    "escl_scanner",
    "exporter",
    "health of drives",
    "nvme",
    "processes",
    "scanners that SANE lists",
    "snapshots of ZFS",
    "tape",
    "tape drives",
    "tool",
    "ups",
];

/// `text` without control characters, at most [`MAX_TEXT_CHARS`] long.
pub fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_CHARS).collect()
}

/// Whether `name` and `value` are a label: a name of letters, digits and `_`, a value without control characters.
pub fn is_label(name: &str, value: &str) -> bool {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(is_in_name)
        && !value.is_empty()
        && value.len() <= 128
        && !value.chars().any(char::is_control)
}
