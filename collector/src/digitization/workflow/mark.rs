//! Where reading a workflow system goes on.

use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::super::Digitization;
use super::System;
use crate::ledger::LedgerError;

/// The table of the marks.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE digi_workflow_marks (
        workflow TEXT PRIMARY KEY,
        mark TEXT NOT NULL -- JSON
    ) STRICT;
";

/// Rows before the mark that are read again: a transaction that began earlier may end later. They are the same events.
const OVERLAP_ROWS: u64 = 500;
/// The same for what is in order of time.
const OVERLAP_S: i64 = 600;

/// The last rows that were read. Each system uses what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    /// Of Goobi's history.
    pub(super) history: u64,
    /// Of Kitodo's comments.
    pub(super) comment: u64,
    /// Of Kitodo's tasks: when the last one changed, in its server's local time.
    pub(super) task_time: Option<jiff::civil::DateTime>,
    /// Which one it was.
    pub(super) task: u64,
}

impl Mark {
    /// Where a look begins.
    pub(super) fn with_overlap(mut self, system: System) -> Self {
        self.history = self.history.saturating_sub(OVERLAP_ROWS);
        self.comment = self.comment.saturating_sub(OVERLAP_ROWS);
        if system == System::Kitodo
            && let Some(time) = self.task_time
        {
            let back = jiff::SignedDuration::from_secs(OVERLAP_S);
            self.task_time = Some(time.saturating_sub(back));
            self.task = 0;
        }
        self
    }

    /// The later of both, each part for itself.
    pub(super) fn max(self, other: &Self) -> Self {
        let (task_time, task) = (self.task_time, self.task).max((other.task_time, other.task));
        Self { history: self.history.max(other.history), comment: self.comment.max(other.comment), task_time, task }
    }
}

impl Digitization {
    /// Where reading `workflow` goes on; from the first row where nothing is known. Blocks.
    pub(super) fn workflow_mark(&self, workflow: &str) -> Result<Mark, LedgerError> {
        let sql = "SELECT mark FROM digi_workflow_marks WHERE workflow = ?1";
        let found: Option<String> =
            self.inner.ledger.with(|connection| connection.query_row(sql, [workflow], |row| row.get(0)).optional())?;
        // A mark that can't be read costs a reading of everything, which changes nothing.
        Ok(found.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// Keeps it. Blocks.
    pub(super) fn keep_workflow_mark(&self, workflow: &str, mark: &Mark) -> Result<(), LedgerError> {
        let text = serde_json::to_string(mark)
            .map_err(|error| LedgerError::Statement(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
        let sql = "INSERT INTO digi_workflow_marks (workflow, mark) VALUES (?1, ?2)
                   ON CONFLICT (workflow) DO UPDATE SET mark = excluded.mark WHERE mark <> excluded.mark";
        self.inner.ledger.with(|connection| connection.execute(sql, params![workflow, text]).map(drop))
    }
}
