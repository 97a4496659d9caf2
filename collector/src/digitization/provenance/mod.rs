//! Where a number of the pages comes from: the events behind it, each with what it adds, so that they add up to it.
//!
//! Invariant: what is told here is counted from units and events anew, by the same rules as the number itself and not from
//! it: where both differ, one of them is wrong.

mod ledger;
mod units;

use serde::Serialize;

use super::calendar::Day;
use super::quality::Fault;
use super::stage::Stage;
use super::{Digitization, Shown};
use crate::ledger::LedgerError;

/// Events behind a number at most.
pub const MAX_PARTS: usize = 300_000;
/// Days of images of all units at most.
pub const MAX_IMAGE_DAYS: i32 = 62;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Units of the inventory.
    Scope,
    /// Units that work began on.
    Started,
    /// Units scanned at least once.
    Scanned,
    /// Units accepted.
    Accepted,
    /// Units accepted and returned.
    Done,
    /// Units away from their shelf.
    Out,
    /// Units in a stage, or waiting for it.
    Queue,
    /// Units that pages a metre are learned from.
    Learned,
    /// Units that were looked at for the first time.
    FirstLooks,
    /// Those of them that the first look accepted.
    FirstLooksGood,
    /// Rejections.
    Rejections,
    /// Rejections that no acceptance ended.
    OpenRejections,
    /// Working days from rejection to acceptance.
    LostDays,
    /// Images with something wrong about them.
    Faults,
    /// New images.
    Captured,
    /// Images made again.
    Rescanned,
    /// New images and those made again.
    Made,
    /// Images more than before.
    Net,
    /// Files that were not whole.
    Incomplete,
    /// Files with the content of another.
    Duplicates,
    /// Events that wait for their unit.
    Waiting,
    /// Images on invoices.
    Billed,
    /// Minutes of shifts that a station stood by paper.
    Jam,
    /// By a fault.
    Down,
    /// For cleaning or repair.
    Maintenance,
}

impl Of {
    /// Everything that can be asked for.
    pub const ALL: [Self; 25] = [
        Self::Scope,
        Self::Started,
        Self::Scanned,
        Self::Accepted,
        Self::Done,
        Self::Out,
        Self::Queue,
        Self::Learned,
        Self::FirstLooks,
        Self::FirstLooksGood,
        Self::Rejections,
        Self::OpenRejections,
        Self::LostDays,
        Self::Faults,
        Self::Captured,
        Self::Rescanned,
        Self::Made,
        Self::Net,
        Self::Incomplete,
        Self::Duplicates,
        Self::Waiting,
        Self::Billed,
        Self::Jam,
        Self::Down,
        Self::Maintenance,
    ];

    /// As in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Started => "started",
            Self::Scanned => "scanned",
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Out => "out",
            Self::Queue => "queue",
            Self::Learned => "learned",
            Self::FirstLooks => "first_looks",
            Self::FirstLooksGood => "first_looks_good",
            Self::Rejections => "rejections",
            Self::OpenRejections => "open_rejections",
            Self::LostDays => "lost_days",
            Self::Faults => "faults",
            Self::Captured => "captured",
            Self::Rescanned => "rescanned",
            Self::Made => "made",
            Self::Net => "net",
            Self::Incomplete => "incomplete",
            Self::Duplicates => "duplicates",
            Self::Waiting => "waiting",
            Self::Billed => "billed",
            Self::Jam => "jam",
            Self::Down => "down",
            Self::Maintenance => "maintenance",
        }
    }

    /// Whether images of events are counted.
    pub fn is_of_images(self) -> bool {
        matches!(self, Self::Captured | Self::Rescanned | Self::Made | Self::Net)
    }
}

/// By what it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Units.
    #[default]
    Units,
    /// Shelf length in millimetres.
    Mm,
    /// Sheets.
    Sheets,
    /// Images.
    Images,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Self; 4] = [Self::Units, Self::Mm, Self::Sheets, Self::Images];

    /// As in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Units => "units",
            Self::Mm => "mm",
            Self::Sheets => "sheets",
            Self::Images => "images",
        }
    }
}

/// What units do in their stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoingThere {
    /// Wait.
    Waiting,
    /// Are worked on.
    Working,
    /// Can't go on.
    Held,
}

impl DoingThere {
    /// Everything that units do.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Working, Self::Held];

    /// As in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Working => "working",
            Self::Held => "held",
        }
    }
}

/// Which number is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What is counted.
    pub of: Of,
    /// By what.
    pub measure: Measure,
    /// The first day.
    pub from: Option<Day>,
    /// The last day.
    pub to: Option<Day>,
    /// As it was booked by the end of this day; as it is now where nothing is said.
    pub as_of: Option<Day>,
    /// Of one station.
    pub station: Option<String>,
    /// Of one shift.
    pub shift: Option<String>,
    /// Of one unit.
    pub unit: Option<String>,
    /// Of one rack, as the shelf map names it.
    pub shelf: Option<String>,
    /// Of one inventory.
    pub series: Option<String>,
    /// Of one binding.
    pub binding: Option<String>,
    /// For one reason.
    pub reason: Option<String>,
    /// In one stage.
    pub stage: Option<Stage>,
    /// Doing one thing there.
    pub doing: Option<DoingThere>,
    /// Of one fault.
    pub fault: Option<Fault>,
    /// Of units that are not accepted.
    pub is_open: bool,
}

impl Ask {
    /// Everything of what is counted, units if nothing else.
    pub fn all(of: Of) -> Self {
        Self {
            of,
            measure: Measure::default(),
            from: None,
            to: None,
            as_of: None,
            station: None,
            shift: None,
            unit: None,
            shelf: None,
            series: None,
            binding: None,
            reason: None,
            stage: None,
            doing: None,
            fault: None,
            is_open: false,
        }
    }
}

/// What an event, or a unit with all of its events, adds to a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The event that decided it; nothing where it is of many, which the unit's own number has.
    pub event: Option<u64>,
    /// Of which unit, where it is of units.
    pub unit: Option<String>,
    /// What it adds; below 0 for what was taken back.
    pub amount: i64,
}

/// A number and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Behind {
    /// The sum of the parts.
    pub total: i64,
    /// How many parts there are.
    pub count: usize,
    /// The parts.
    pub parts: Vec<Part>,
}

impl Behind {
    fn of(parts: Vec<Part>) -> Self {
        Self { total: parts.iter().map(|part| part.amount).sum(), count: parts.len(), parts }
    }
}

/// Why a number can't be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is of too many events for one list.
    #[error("is of too many events for one list; ask for {MAX_IMAGE_DAYS} days at most, or for one unit")]
    TooMany,
    /// The ledger.
    #[error("cannot trace a number")]
    Ledger(#[from] LedgerError),
}

impl Digitization {
    /// Where the number that `ask` means comes from. Blocks; tens of milliseconds for a month of images.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn behind(&self, ask: &Ask, today: Day) -> Result<Behind, TraceError> {
        let parts = match ask.of {
            of if of.is_of_images() => ledger::images(self, ask)?,
            Of::Incomplete | Of::Duplicates | Of::Waiting => ledger::events(self, ask)?,
            _ => units::parts(&self.state(), ask, today, self.settings()),
        };
        if parts.len() > MAX_PARTS {
            return Err(TraceError::TooMany);
        }
        Ok(Behind::of(parts))
    }

    /// The events of those numbers in the ledger, in its order.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn numbered(&self, numbers: &[u64]) -> Result<Vec<Shown>, LedgerError> {
        self.inner.ledger.with(|connection| super::log::numbered(connection, numbers))
    }
}
