//! What a new version of the inventory changes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::super::unit::Unit;
use super::columns::{COLUMNS, cell};

/// Changes that are listed; the rest is counted.
const MAX_LISTED: usize = 1000;

/// One cell that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which unit.
    pub unit: String,
    /// Which column.
    pub column: String,
    /// What it was.
    pub old: String,
    /// What it becomes.
    pub new: String,
}

/// What a new version changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// Units that come: codes, in order.
    pub added: Vec<String>,
    /// Units that go.
    pub removed: Vec<String>,
    /// Cells that change; the first of them.
    pub changes: Vec<Change>,
    /// Units with a cell that changes.
    pub changed_units: u64,
    /// Units that stay as they are.
    pub unchanged_units: u64,
    /// Units, millimetres and leaves of the old version.
    pub old_totals: (u64, u64, u64),
    /// Units, millimetres and leaves of the new version.
    pub new_totals: (u64, u64, u64),
}

impl Diff {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed_units == 0
    }
}

/// What `new` changes about `old`.
pub fn compare<'a>(old: impl IntoIterator<Item = &'a Unit>, new: &[Unit]) -> Diff {
    let mut diff = Diff { new_totals: totals(new), ..Diff::default() };
    let old: Vec<&Unit> = old.into_iter().collect();
    diff.old_totals = totals(old.iter().copied());
    let mut by_code: HashMap<&str, &Unit> = old.iter().map(|unit| (unit.code.as_str(), *unit)).collect();
    for unit in new {
        let Some(before) = by_code.remove(unit.code.as_str()) else {
            diff.added.push(unit.code.clone());
            continue;
        };
        if before == unit {
            diff.unchanged_units += 1;
            continue;
        }
        diff.changed_units += 1;
        for (place, column) in COLUMNS.iter().enumerate() {
            let (old, new) = (cell(before, place), cell(unit, place));
            if old != new && diff.changes.len() < MAX_LISTED {
                diff.changes.push(Change { unit: unit.code.clone(), column: column.name.to_owned(), old, new });
            }
        }
    }
    diff.removed =
        old.iter().filter(|unit| by_code.contains_key(unit.code.as_str())).map(|unit| unit.code.clone()).collect();
    diff
}

fn totals<'a>(units: impl IntoIterator<Item = &'a Unit>) -> (u64, u64, u64) {
    units.into_iter().fold((0, 0, 0), |(count, mm, leaves), unit| {
        (count + 1, mm + u64::from(unit.width_mm), leaves + u64::from(unit.leaves))
    })
}
