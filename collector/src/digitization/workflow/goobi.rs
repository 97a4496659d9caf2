//! Goobi workflow: its table `history`, to which each change of a step is added.
//!
//! Source: intranda/goobi-workflow, `HistoryEventType` and `goobi_blank.sql`. A nightly job of Goobi adds what was
//! missed, with old dates and new numbers: reading in order of the numbers finds that too.

use mysql_async::{Row, Value};

use super::database::{Database, limit, number, one_of, text, time};
use super::mark::Mark;
use super::telling::{Happened, Page, Seen};
use super::{LookError, PAGE_ROWS, Workflow};

/// `HistoryEventType`.
const STEP_DONE: u64 = 6;
const STEP_IN_WORK: u64 = 8;
/// Somebody sent the process back to this step.
const STEP_ERROR: u64 = 9;

/// What came after `mark`.
pub(super) async fn page(database: &mut Database, workflow: &Workflow, mark: &Mark) -> Result<Page, LookError> {
    // Before the rows: what is added between both is behind the new mark.
    let last = database.rows("history", "SELECT MAX(historyid) FROM history", Vec::new()).await?;
    let last = last.first().and_then(|row| number(row, 0)).unwrap_or(0);
    let mut values = Vec::new();
    let property = match &workflow.unit_property {
        None => "NULL",
        Some(property) => {
            values.push(Value::from(property.as_str()));
            "(SELECT LEFT(e.WERT, 256) FROM prozesseeigenschaften e
              WHERE e.prozesseID = p.ProzesseID AND e.Titel = ? ORDER BY e.prozesseeigenschaftenID LIMIT 1)"
        }
    };
    values.push(Value::from(mark.history));
    let steps = one_of("h.stringvalue", workflow.steps.keys(), &mut values);
    let projects = one_of("j.Titel", workflow.projects.iter(), &mut values);
    let sql = format!(
        "SELECT h.historyid, h.type, h.date, h.stringvalue, p.Titel, {property}
         FROM history h JOIN prozesse p ON p.ProzesseID = h.processID
         LEFT JOIN projekte j ON j.ProjekteID = p.ProjekteID
         WHERE h.historyid > ? AND h.type IN ({STEP_DONE}, {STEP_IN_WORK}, {STEP_ERROR})
           AND NOT COALESCE(p.IstTemplate, 0){steps}{projects}
         ORDER BY h.historyid{}",
        limit()
    );
    let rows = database.rows("history", &sql, values).await?;
    let is_last = rows.len() < PAGE_ROWS;
    let mut next = mark.clone();
    let mut seen = Vec::with_capacity(rows.len());
    for row in &rows {
        let Some(id) = number(row, 0) else {
            return Err(LookError::Row { table: "history", after: next.history, column: "historyid" });
        };
        seen.extend(read(row, id, workflow));
        next.history = id;
    }
    if is_last {
        // Rows of other kinds need not be passed over again each time.
        next.history = next.history.max(last);
    }
    Ok(Page { seen, next, is_last })
}

/// What a row says; nothing where it has no date.
fn read(row: &Row, id: u64, workflow: &Workflow) -> Option<Seen> {
    let (kind, at) = (number(row, 1)?, time(row, 2)?);
    let what = match kind {
        STEP_DONE => Happened::Done,
        STEP_IN_WORK => Happened::Begun,
        _ => Happened::SentBack,
    };
    let unit = text(row, if workflow.unit_property.is_some() { 5 } else { 4 });
    // With type and date: a restored backup may give a number twice.
    Some(Seen { id: format!("history:{id}:{kind}:{at}"), unit, step: text(row, 3)?, at, what })
}
