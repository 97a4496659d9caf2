//! Kitodo.Production 3: its tasks as they are, and the comments that send one back.
//!
//! Source: kitodo/kitodo-production, beans `Task`, `Comment` and `Property`, `TaskStatus`. It keeps no history: of a task
//! there is one begin, one end, and when its status changed last. So a task is an event for each of those that it
//! shows, and going back is read from the comments, of which each is a row of its own.

use mysql_async::{Row, Value};

use super::database::{Database, limit, number, one_of, text, time, value_of};
use super::mark::Mark;
use super::telling::{Happened, Page, Seen};
use super::{LookError, PAGE_ROWS, Workflow};

/// `TaskStatus`.
const IN_WORK: u64 = 2;
const DONE: u64 = 3;

/// What came after `mark`.
pub(super) async fn page(database: &mut Database, workflow: &Workflow, mark: &Mark) -> Result<Page, LookError> {
    let mut next = mark.clone();
    let (tasks, comments) = (tasks(database, workflow, mark).await?, comments(database, workflow, mark).await?);
    let is_last = tasks.len() < PAGE_ROWS && comments.len() < PAGE_ROWS;
    let mut seen = Vec::with_capacity(2 * tasks.len() + comments.len());
    for row in &tasks {
        let Some((id, changed)) = number(row, 0).zip(time(row, 3)) else {
            return Err(LookError::Row { table: "task", after: next.task, column: "id, processingTime" });
        };
        read_task(row, id, changed, workflow, &mut seen);
        (next.task, next.task_time) = (id, Some(changed));
    }
    for row in &comments {
        let Some(id) = number(row, 0) else {
            return Err(LookError::Row { table: "comment", after: next.comment, column: "id" });
        };
        seen.extend(read_comment(row, id, workflow));
        next.comment = id;
    }
    Ok(Page { seen, next, is_last })
}

async fn tasks(database: &mut Database, workflow: &Workflow, mark: &Mark) -> Result<Vec<Row>, LookError> {
    let mut values = Vec::new();
    let property = property(workflow, &mut values);
    let after = match mark.task_time {
        None => "",
        Some(time) => {
            values.extend([value_of(time), value_of(time), Value::from(mark.task)]);
            " AND (t.processingTime > ? OR (t.processingTime = ? AND t.id > ?))"
        }
    };
    let steps = one_of("t.title", workflow.steps.keys(), &mut values);
    let projects = one_of("j.title", workflow.projects.iter(), &mut values);
    let sql = format!(
        "SELECT t.id, t.title, t.processingStatus, t.processingTime, t.processingBegin, t.processingEnd, p.title, {property}
         FROM task t JOIN process p ON p.id = t.process_id LEFT JOIN project j ON j.id = p.project_id
         WHERE t.processingTime IS NOT NULL AND t.processingStatus IN ({IN_WORK}, {DONE}){after}{steps}{projects}
         ORDER BY t.processingTime, t.id{}",
        limit()
    );
    database.rows("task", &sql, values).await
}

async fn comments(database: &mut Database, workflow: &Workflow, mark: &Mark) -> Result<Vec<Row>, LookError> {
    let mut values = Vec::new();
    let property = property(workflow, &mut values);
    values.push(Value::from(mark.comment));
    let steps = one_of("t.title", workflow.steps.keys(), &mut values);
    let projects = one_of("j.title", workflow.projects.iter(), &mut values);
    let sql = format!(
        "SELECT c.id, c.creationDate, t.title, p.title, {property}
         FROM comment c JOIN task t ON t.id = c.correctionTask_id JOIN process p ON p.id = t.process_id
         LEFT JOIN project j ON j.id = p.project_id
         WHERE c.id > ? AND c.type = 'ERROR'{steps}{projects} ORDER BY c.id{}",
        limit()
    );
    database.rows("comment", &sql, values).await
}

fn property(workflow: &Workflow, values: &mut Vec<Value>) -> &'static str {
    let Some(property) = &workflow.unit_property else { return "NULL" };
    values.push(Value::from(property.as_str()));
    "(SELECT LEFT(e.value, 256) FROM property e JOIN process_x_property x ON x.property_id = e.id
      WHERE x.process_id = p.id AND e.title = ? ORDER BY e.id LIMIT 1)"
}

fn read_task(row: &Row, id: u64, changed: jiff::civil::DateTime, workflow: &Workflow, seen: &mut Vec<Seen>) {
    let (Some(step), Some(status)) = (text(row, 1), number(row, 2)) else { return };
    let unit = text(row, if workflow.unit_property.is_some() { 7 } else { 6 });
    let mut tell = |kind: &str, at: jiff::civil::DateTime, what: Happened| {
        let id = format!("task:{id}:{kind}:{at}");
        seen.push(Seen { id, unit: unit.clone(), step: step.clone(), at, what });
    };
    if status == IN_WORK {
        // Begun anew it keeps its first begin.
        tell("begin", changed, Happened::Begun);
        return;
    }
    if let Some(begin) = time(row, 4) {
        tell("begin", begin, Happened::Begun);
    }
    tell("end", time(row, 5).unwrap_or(changed), Happened::Done);
}

fn read_comment(row: &Row, id: u64, workflow: &Workflow) -> Option<Seen> {
    let unit = text(row, if workflow.unit_property.is_some() { 4 } else { 3 });
    let at = time(row, 1)?;
    Some(Seen { id: format!("comment:{id}:{at}"), unit, step: text(row, 2)?, at, what: Happened::SentBack })
}
