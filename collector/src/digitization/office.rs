//! What an administrator asks about the inventory, over the socket of the running collector.

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;

use super::inventory::{self, Diff};
use super::unit::Unit;
use super::{Digitization, Version};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// What these units would change.
    Propose {
        /// Every unit of the new inventory.
        units: Vec<Unit>,
    },
    /// Make these units the inventory.
    Adopt {
        /// Every unit of the new inventory.
        units: Vec<Unit>,
        /// The version that they were compared with.
        compared_with: u32,
        /// Where they came from.
        note: String,
    },
    /// The inventory in force.
    Export,
    /// Which versions there are.
    Show,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Propose`].
    Proposed {
        /// The version in force; 0 is none.
        version: u32,
        /// What would change.
        diff: Diff,
    },
    /// To [`Question::Adopt`].
    Adopted {
        /// The new version.
        version: u32,
    },
    /// To [`Question::Export`].
    Exported {
        /// The inventory as CSV.
        csv: String,
    },
    /// To [`Question::Show`].
    Shown {
        /// The newest first.
        versions: Vec<Version>,
        /// Units in force.
        units: u64,
        /// Their shelf length.
        mm: u64,
        /// Their leaves.
        leaves: u64,
    },
}

/// Answers. Blocks.
///
/// # Errors
/// What went wrong.
pub fn answer(
    project: &Digitization,
    question: Question,
    now: Timestamp,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match question {
        Question::Propose { units } => {
            let (version, diff) = project.propose(&units);
            Answer::Proposed { version, diff }
        }
        Question::Adopt { units, compared_with, note } => {
            Answer::Adopted { version: project.adopt(&units, compared_with, &note, now)? }
        }
        Question::Export => {
            let state = project.state();
            Answer::Exported { csv: inventory::to_csv(state.scope().map(|unit| &unit.unit)) }
        }
        Question::Show => {
            let versions = project.versions()?;
            let (mut units, mut mm, mut leaves) = (0, 0, 0);
            for unit in project.state().scope() {
                units += 1;
                mm += u64::from(unit.unit.width_mm);
                leaves += u64::from(unit.unit.leaves);
            }
            Answer::Shown { versions, units, mm, leaves }
        }
    })
}
