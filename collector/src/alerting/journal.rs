//! The alerting tables of the ledger: alert states, what was told to whom, the outbox, the log of notifications.
//!
//! Invariants: a message enters the outbox in the same transaction in which its group counts as notified; a state that is
//! acted upon is on disk first. What it deliberately does not do: decide anything.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use veghe_model::{Labels, Timestamp};

use super::notify::{Entry, GroupKey, Message, Outgoing};
use super::state::{Alert, AlertState};
use crate::ledger::{Ledger, LedgerError};

/// Tables of this module in the ledger.
pub(crate) const SCHEMA: &str = "
CREATE TABLE alert_state (
    rule_key TEXT NOT NULL, labels TEXT NOT NULL, annotations TEXT NOT NULL, state TEXT NOT NULL, value REAL,
    active_ms INTEGER NOT NULL, fired_ms INTEGER, resolved_ms INTEGER, keep_firing_since_ms INTEGER,
    PRIMARY KEY (rule_key, labels)
) STRICT, WITHOUT ROWID;
CREATE TABLE alert_group (
    receiver TEXT NOT NULL, group_key TEXT NOT NULL, notified_ms INTEGER NOT NULL, entry TEXT NOT NULL,
    PRIMARY KEY (receiver, group_key)
) STRICT, WITHOUT ROWID;
CREATE TABLE alert_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, group_key TEXT NOT NULL, message TEXT NOT NULL,
    created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_attempt_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX alert_outbox_receiver ON alert_outbox (receiver, id);
CREATE TABLE alert_notification (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, receiver TEXT NOT NULL, group_key TEXT NOT NULL,
    status TEXT NOT NULL, subject TEXT NOT NULL, alerts INTEGER NOT NULL, attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
";

/// How many entries the log of notifications keeps.
const LOG_ENTRIES: u32 = 50_000;

/// How an attempt to notify ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotificationOutcome {
    /// The receiver took it.
    Delivered,
    /// It did not; there will be another attempt.
    Retry,
    /// It refused for good.
    Failed,
    /// It did not take it in all the time there was.
    Expired,
    /// The queue was full.
    Dropped,
}

impl NotificationOutcome {
    /// The word in log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry => "retry",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }

    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Delivered, Self::Retry, Self::Failed, Self::Expired, Self::Dropped];
}

/// One line of the log of notifications: what, to whom, when, with what result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NotificationRecord {
    /// Ascending.
    pub id: i64,
    /// When the attempt ended, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The receiver's name.
    pub receiver: String,
    /// The group of alerts, empty for a test.
    pub group_key: String,
    /// `firing`, `resolved` or `test`.
    pub status: String,
    /// One line about it.
    pub subject: String,
    /// How many alerts it told of.
    pub alerts: u32,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: NotificationOutcome,
    /// What the receiver or the network said; no secrets.
    pub detail: String,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    /// Its number in the outbox.
    pub id: i64,
    /// What to tell.
    pub message: Message,
    /// When it was made.
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
}

/// The alerting tables.
#[derive(Clone)]
pub(super) struct Journal {
    ledger: Ledger,
}

type Result<T> = std::result::Result<T, LedgerError>;

impl Journal {
    /// Over `ledger`.
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    /// Every alert by the key of its rule.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn load_states(&self) -> Result<BTreeMap<String, Vec<Alert>>> {
        self.ledger.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT rule_key, labels, annotations, state, value, active_ms, fired_ms, resolved_ms, \
                 keep_firing_since_ms FROM alert_state ORDER BY rule_key, labels",
            )?;
            let mut states: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
            for row in statement.query_map([], |row| Ok((row.get(0)?, read_alert(row)?)))? {
                let (key, alert) = row?;
                states.entry(key).or_default().push(alert);
            }
            Ok(states)
        })
    }

    /// Replaces the alerts of these rules.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing changed then.
    pub(super) fn save_states(&self, rules: &[(String, Vec<Alert>)]) -> Result<()> {
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            for (key, alerts) in rules {
                transaction.prepare("DELETE FROM alert_state WHERE rule_key = ?1")?.execute([key])?;
                for alert in alerts {
                    write_alert(&transaction, key, alert)?;
                }
            }
            transaction.commit()
        })
    }

    /// Forgets the alerts of rules whose key is not among `keys`.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn forget_states_except(&self, keys: &[String]) -> Result<()> {
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            let known: Vec<String> = transaction
                .prepare("SELECT DISTINCT rule_key FROM alert_state")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for key in known.iter().filter(|key| !keys.contains(key)) {
                transaction.execute("DELETE FROM alert_state WHERE rule_key = ?1", [key])?;
            }
            transaction.commit()
        })
    }

    /// What was last told to whom.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn load_groups(&self) -> Result<BTreeMap<GroupKey, Entry>> {
        self.ledger.with(|connection| {
            connection
                .prepare("SELECT receiver, group_key, entry FROM alert_group")?
                .query_map([], |row| {
                    let key = GroupKey { receiver: row.get(0)?, group: row.get(1)? };
                    Ok((key, from_json(row, 2)?))
                })?
                .collect()
        })
    }

    /// Queues messages and notes in the same transaction that their groups are notified. A receiver's queue holds at most
    /// `limit` messages: the oldest are dropped and given back with the receiver's name.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing changed then.
    pub(super) fn enqueue(&self, outgoing: &[Outgoing], now: Timestamp, limit: usize) -> Result<Vec<String>> {
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            let mut dropped = Vec::new();
            for item in outgoing {
                if let Some(entry) = &item.entry {
                    transaction
                        .prepare("INSERT OR REPLACE INTO alert_group VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![item.key.receiver, item.key.group, now.0, to_json(entry)?])?;
                } else {
                    transaction
                        .prepare("DELETE FROM alert_group WHERE receiver = ?1 AND group_key = ?2")?
                        .execute(params![item.key.receiver, item.key.group])?;
                }
                let Some(message) = &item.message else { continue };
                transaction
                    .prepare(
                        "INSERT INTO alert_outbox (receiver, group_key, message, created_ms, next_attempt_ms) \
                         VALUES (?1, ?2, ?3, ?4, ?4)",
                    )?
                    .execute(params![item.key.receiver, item.key.group, to_json(message)?, now.0])?;
                dropped.extend(shrink(&transaction, &item.key.receiver, now, limit)?);
            }
            transaction.commit()?;
            Ok(dropped)
        })
    }

    /// The oldest message of `receiver` that is due at `now` and has no older one of its group before it; otherwise when
    /// the next one is due. One that waits for longer than `longest` was queued before the clock went back: it is due.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn next_due(&self, receiver: &str, now: Timestamp, longest: Duration) -> Result<Due> {
        self.ledger.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT id, message, created_ms, attempts, next_attempt_ms FROM alert_outbox o WHERE receiver = ?1 AND \
                 id = (SELECT min(id) FROM alert_outbox WHERE receiver = ?1 AND group_key = o.group_key) \
                 ORDER BY max(next_attempt_ms, ?2), id LIMIT 1",
            )?;
            let found = statement
                .query_row(params![receiver, now.0], |row| {
                    let queued = Queued {
                        id: row.get(0)?,
                        message: from_json(row, 1)?,
                        created: Timestamp(row.get(2)?),
                        attempts: row.get(3)?,
                    };
                    Ok((queued, Timestamp(row.get(4)?)))
                })
                .optional()?;
            Ok(match found {
                None => Due::Nothing,
                Some((queued, at)) if at <= now || at.since(now) > longest => Due::Now(Box::new(queued)),
                Some((_, at)) => Due::At(at),
            })
        })
    }

    /// Logs an attempt; where it is final the message leaves the outbox, otherwise it waits until `again`.
    /// A success makes everything that waits for the receiver due at once: it is back.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn finish_attempt(
        &self,
        queued: &Queued,
        receiver: &str,
        record: &NotificationRecord,
        again: Option<Timestamp>,
    ) -> Result<()> {
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            if let Some(again) = again {
                transaction.execute(
                    "UPDATE alert_outbox SET attempts = attempts + 1, next_attempt_ms = ?2 WHERE id = ?1",
                    params![queued.id, again.0],
                )?;
            } else {
                transaction.execute("DELETE FROM alert_outbox WHERE id = ?1", [queued.id])?;
            }
            if record.outcome == NotificationOutcome::Delivered {
                transaction.execute(
                    "UPDATE alert_outbox SET next_attempt_ms = min(next_attempt_ms, ?2) WHERE receiver = ?1",
                    params![receiver, record.at_ms],
                )?;
            }
            log(&transaction, record)?;
            transaction.commit()
        })
    }

    /// Logs something that was no attempt at a queued message.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn log(&self, record: &NotificationRecord) -> Result<()> {
        self.ledger.with(|connection| log(connection, record))
    }

    /// Takes messages to receivers that are not among `receivers` out of the outbox and logs that; gives their number.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn drop_unknown_receivers(&self, receivers: &[String], now: Timestamp) -> Result<usize> {
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            let known: Vec<String> = transaction
                .prepare("SELECT receiver FROM alert_outbox UNION SELECT receiver FROM alert_group")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut count = 0;
            for name in known.iter().filter(|name| !receivers.contains(name)) {
                let ids: Vec<i64> = transaction
                    .prepare("SELECT id FROM alert_outbox WHERE receiver = ?1 ORDER BY id")?
                    .query_map([name], |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                for id in ids {
                    drop_one(&transaction, id, name, now, NotificationOutcome::Failed, "the receiver was removed")?;
                    count += 1;
                }
                transaction.execute("DELETE FROM alert_group WHERE receiver = ?1", [name])?;
            }
            transaction.commit()?;
            Ok(count)
        })
    }

    /// How many messages wait for `receiver`.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn waiting(&self, receiver: &str) -> Result<u32> {
        self.ledger.with(|connection| {
            connection
                .prepare("SELECT count(*) FROM alert_outbox WHERE receiver = ?1")?
                .query_row([receiver], |row| row.get(0))
        })
    }

    /// The newest entries of the log, newest first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn notifications(&self, limit: usize) -> Result<Vec<NotificationRecord>> {
        self.ledger.with(|connection| {
            connection
                .prepare(
                    "SELECT id, at_ms, receiver, group_key, status, subject, alerts, attempt, outcome, detail \
                     FROM alert_notification ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    let word: String = row.get(8)?;
                    let outcome = NotificationOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == word);
                    Ok(NotificationRecord {
                        id: row.get(0)?,
                        at_ms: row.get(1)?,
                        receiver: row.get(2)?,
                        group_key: row.get(3)?,
                        status: row.get(4)?,
                        subject: row.get(5)?,
                        alerts: row.get(6)?,
                        attempt: row.get(7)?,
                        outcome: outcome.unwrap_or(NotificationOutcome::Failed),
                        detail: row.get(9)?,
                    })
                })?
                .collect()
        })
    }
}

/// What the outbox has for a receiver.
#[derive(Debug)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// This one.
    Now(Box<Queued>),
    /// Something, but not before.
    At(Timestamp),
}

fn shrink(connection: &Connection, receiver: &str, now: Timestamp, limit: usize) -> rusqlite::Result<Vec<String>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ids: Vec<i64> = connection
        .prepare("SELECT id FROM alert_outbox WHERE receiver = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2")?
        .query_map(params![receiver, limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let detail = "the receiver's queue is full";
    for id in &ids {
        drop_one(connection, *id, receiver, now, NotificationOutcome::Dropped, detail)?;
    }
    Ok(ids.iter().map(|_| receiver.to_owned()).collect())
}

fn drop_one(
    connection: &Connection,
    id: i64,
    receiver: &str,
    now: Timestamp,
    outcome: NotificationOutcome,
    detail: &str,
) -> rusqlite::Result<()> {
    let (message, attempts): (Message, u32) =
        connection.query_row("SELECT message, attempts FROM alert_outbox WHERE id = ?1", [id], |row| {
            Ok((from_json(row, 0)?, row.get(1)?))
        })?;
    connection.execute("DELETE FROM alert_outbox WHERE id = ?1", [id])?;
    log(connection, &message.record(receiver, now, attempts, outcome, detail))
}

fn log(connection: &Connection, record: &NotificationRecord) -> rusqlite::Result<()> {
    connection
        .prepare(
            "INSERT INTO alert_notification (at_ms, receiver, group_key, status, subject, alerts, attempt, outcome, \
             detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            record.at_ms,
            record.receiver,
            record.group_key,
            record.status,
            record.subject,
            record.alerts,
            record.attempt,
            record.outcome.as_str(),
            record.detail
        ])?;
    connection
        .prepare("DELETE FROM alert_notification WHERE id <= (SELECT max(id) FROM alert_notification) - ?1")?
        .execute([LOG_ENTRIES])?;
    Ok(())
}

/// Labels as they are kept and shown in JSON.
pub(super) fn label_map(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|label| (label.name.to_string(), label.value.to_string())).collect()
}

fn read_alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let labels: BTreeMap<String, String> = from_json(row, 1)?;
    let state: String = row.get(3)?;
    let time = |at: usize| row.get::<_, Option<i64>>(at).map(|ms| ms.map(Timestamp));
    Ok(Alert {
        labels: Labels::from_pairs(labels),
        annotations: from_json(row, 2)?,
        state: AlertState::from_word(&state).unwrap_or(AlertState::Inactive),
        // SQLite keeps no NaN.
        value: row.get::<_, Option<f64>>(4)?.unwrap_or(f64::NAN),
        active_at: Timestamp(row.get(5)?),
        fired_at: time(6)?,
        resolved_at: time(7)?,
        keep_firing_since: time(8)?,
    })
}

fn write_alert(connection: &Connection, key: &str, alert: &Alert) -> rusqlite::Result<()> {
    let time = |at: Option<Timestamp>| at.map(|at| at.0);
    connection
        .prepare("INSERT INTO alert_state VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
        .execute(params![
            key,
            to_json(&label_map(&alert.labels))?,
            to_json(&alert.annotations)?,
            alert.state.as_str(),
            alert.value,
            alert.active_at.0,
            time(alert.fired_at),
            time(alert.resolved_at),
            time(alert.keep_firing_since),
        ])
        .map(|_rows| ())
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn from_json<T: for<'de> Deserialize<'de>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
