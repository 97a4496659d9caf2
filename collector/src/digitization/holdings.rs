//! What is kept of the digitization's results: packages that were checked, passes of fixity over whole storages, and
//! objects that are not as they were.
//!
//! Invariant: names of objects stay here and on pages for signed-in people; they are no labels of metrics. What it
//! deliberately does not do: read storages; agents do, and send events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::event::{FixityOutcome, Target};
use super::fields::Fields;

/// Damaged objects that are listed at most; more are only counted.
pub const MAX_DAMAGED: usize = 10_000;
/// Packages whose latest check is kept.
pub const MAX_PACKAGES: usize = 100_000;
const MOST_OBJECTS: u64 = 1 << 40;
const MOST_BYTES: u64 = 1 << 53;

/// How far a pass over all objects of a storage is; absolute numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityPass {
    /// Which storage.
    pub storage: String,
    /// Counts the passes of the storage, from 1.
    pub pass: u64,
    /// Whether every object was looked at.
    pub is_finished: bool,
    /// When it began.
    pub started: Timestamp,
    /// Objects that are known on the storage.
    pub objects: u64,
    /// Objects of this pass that are as they were.
    pub good: u64,
    /// Objects with other bytes.
    pub mismatch: u64,
    /// Objects that are gone.
    pub missing: u64,
    /// Objects that could not be read.
    pub failed: u64,
    /// Objects that were seen for the first time.
    pub new: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects that have other bytes than their copy on another storage.
    pub copies_differ: u64,
    /// When the object that waits longest was last verified.
    pub oldest_verified: Option<Timestamp>,
}

impl FixityPass {
    /// Whether `later` is of a later pass, or of the same and further.
    pub fn is_before(&self, later: &Self) -> bool {
        let rank = |pass: &Self| (pass.pass, pass.is_finished, pass.bytes);
        // A database that was made anew counts from 1 again, later.
        self.started < later.started || rank(self) <= rank(later) && self.started == later.started
    }
}

/// An object that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What is wrong with it.
    pub outcome: FixityOutcome,
    /// When that was found first.
    pub first: Timestamp,
    /// When it was found last.
    pub last: Timestamp,
    /// A storage that has it as it was.
    pub good_copy: Option<String>,
}

/// What the check of a package found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validated {
    /// Of which unit or batch.
    pub of: Target,
    /// Whether everything is there and as its manifests say.
    pub is_valid: bool,
    /// Files of its payload.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Images in them.
    pub images: Option<u64>,
    /// Image files that its METS lists.
    pub mets_files: Option<u64>,
    /// Pages that its ALTO files have.
    pub alto_pages: Option<u64>,
    /// Mean confidence of words in its ALTO files, 0 to 1.
    pub alto_confidence: Option<f64>,
    /// What is wrong, and how often.
    pub problems: BTreeMap<String, u64>,
}

/// The latest check of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// When.
    pub at: Timestamp,
    /// What it found.
    pub validated: Validated,
}

pub(super) fn read_pass(f: &mut Fields<'_>) -> Option<FixityPass> {
    let (storage, pass) = (f.word("storage"), f.count("pass", MOST_OBJECTS));
    let is_finished = f.choice("state", &[("running", false), ("finished", true)]);
    let (started, objects) = (f.time("started"), f.count("objects", MOST_OBJECTS));
    let mut count = |name: &str| f.optional_count(name, MOST_OBJECTS).unwrap_or(0);
    let (good, mismatch, missing) = (count("ok"), count("mismatch"), count("missing"));
    let (failed, new, copies_differ) = (count("error"), count("new"), count("copies_differ"));
    let bytes = f.optional_count("bytes", MOST_BYTES).unwrap_or(0);
    let oldest_verified = f.optional_time("oldest_verified");
    Some(FixityPass {
        storage: storage?,
        pass: pass?,
        is_finished: is_finished?,
        started: started?,
        objects: objects?,
        good,
        mismatch,
        missing,
        failed,
        new,
        bytes,
        copies_differ,
        oldest_verified,
    })
}

pub(super) fn read_validated(f: &mut Fields<'_>, of: Option<Target>) -> Option<Validated> {
    let is_valid = f.choice("outcome", &[("ok", true), ("failed", false)]);
    let (files, bytes) = (f.count("files", MOST_OBJECTS), f.count("bytes", MOST_BYTES));
    f.optional_text("algorithm", 32);
    let mut count = |name: &str| f.optional_count(name, MOST_OBJECTS);
    let (images, mets_files, alto_pages) = (count("images"), count("mets_files"), count("alto_pages"));
    let alto_confidence = f.optional_number("alto_confidence", 0.0, 1.0);
    let problems = f.optional_counts("problems").unwrap_or_default();
    Some(Validated {
        of: of?,
        is_valid: is_valid?,
        files: files?,
        bytes: bytes?,
        images,
        mets_files,
        alto_pages,
        alto_confidence,
        problems,
    })
}
