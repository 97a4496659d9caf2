//! The stages that a unit goes through, and what keeps it from going on.

use serde::{Deserialize, Serialize};

/// A stage of the process, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Known, and nothing more.
    Inventory,
    /// Clips and bindings are taken off, leaves are put in order.
    Prep,
    /// Images are made.
    Scan,
    /// Images are cropped and converted.
    Post,
    /// Images are looked at.
    Qc,
    /// Text is recognized.
    Ocr,
    /// Descriptions are added.
    Index,
    /// Packages are handed over.
    Deliver,
    /// Leaves are bound again.
    Reassemble,
    /// Back on the shelf.
    Returned,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 10] = [
        Self::Inventory,
        Self::Prep,
        Self::Scan,
        Self::Post,
        Self::Qc,
        Self::Ocr,
        Self::Index,
        Self::Deliver,
        Self::Reassemble,
        Self::Returned,
    ];

    /// As in events and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Prep => "prep",
            Self::Scan => "scan",
            Self::Post => "post",
            Self::Qc => "qc",
            Self::Ocr => "ocr",
            Self::Index => "index",
            Self::Deliver => "deliver",
            Self::Reassemble => "reassemble",
            Self::Returned => "returned",
        }
    }
}

/// What keeps a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// It needs a conservator first.
    Conservation,
    /// Somebody must decide what may be shown.
    PrivacyReview,
    /// It is not where it should be.
    Missing,
}

impl Hold {
    /// Every hold.
    pub const ALL: [Self; 3] = [Self::Conservation, Self::PrivacyReview, Self::Missing];

    /// As in events and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conservation => "conservation",
            Self::PrivacyReview => "privacy_review",
            Self::Missing => "missing",
        }
    }
}

/// How a unit went through the door of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Work began.
    Enter,
    /// Work is done.
    Exit,
    /// Work stopped.
    Hold(Hold),
    /// Work may go on.
    Release,
}
