//! Looking behind pseudonyms: who of some people did the events of a unit, with a record of who looked and why.
//!
//! Invariants: the record is on disk before the answer leaves; records are only ever added, each with a digest over the
//! one before; no name is recorded, neither tried nor found.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::keys::hex;

/// A look behind pseudonyms, as it is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1.
    pub number: u64,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Who looked, by their own words.
    pub who: String,
    /// The user of the process that asked, as the system knows it.
    pub uid: u32,
    /// Why, by their own words.
    pub why: String,
    /// The unit whose events were looked at.
    pub unit: String,
    /// Names that were tried.
    pub names: u64,
    /// Events that were shown.
    pub events: u64,
    /// Of those, the ones that a name was found for.
    pub found: u64,
    /// Covers this record and the digest of the one before; hexadecimal.
    pub digest: String,
}

impl Record {
    /// The digest that it must have after `previous`.
    fn sealed(&self, previous: &str) -> String {
        let mut hash = Sha256::new();
        let Self { number, at_ms, who, uid, why, unit, names, events, found, digest: _ } = self;
        // A JSON array: no two different records are the same text.
        let text = serde_json::json!([previous, number, at_ms, who, uid, why, unit, names, events, found]).to_string();
        hash.update(text.as_bytes());
        hex(&hash.finalize())
    }
}

/// Puts `record` on record, with the number and digest that come next.
pub(in crate::digitization) fn note(transaction: &Transaction<'_>, mut record: Record) -> rusqlite::Result<Record> {
    let last = transaction
        .query_row("SELECT number, digest FROM digi_reveal ORDER BY number DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    let (number, previous) = last.map_or((0, String::new()), |(number, digest)| (number, hex(&digest)));
    record.number = number + 1;
    record.digest = record.sealed(&previous);
    let Record { number, at_ms, who, uid, why, unit, names, events, found, digest } = &record;
    let bytes: Vec<u8> = digest
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    transaction.execute(
        "INSERT INTO digi_reveal (number, at_ms, who, uid, why, unit, names, events, found, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![*number as i64, at_ms, who, uid, why, unit, *names as i64, *events as i64, *found as i64, bytes],
    )?;
    Ok(record)
}

/// Every record, the newest first, and whether each follows from the one before.
pub(in crate::digitization) fn records(connection: &Connection) -> rusqlite::Result<(Vec<Record>, bool)> {
    let sql =
        "SELECT number, at_ms, who, uid, why, unit, names, events, found, digest FROM digi_reveal ORDER BY number";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Record {
            number: row.get::<_, i64>(0)? as u64,
            at_ms: row.get(1)?,
            who: row.get(2)?,
            uid: row.get(3)?,
            why: row.get(4)?,
            unit: row.get(5)?,
            names: row.get::<_, i64>(6)? as u64,
            events: row.get::<_, i64>(7)? as u64,
            found: row.get::<_, i64>(8)? as u64,
            digest: hex(&row.get::<_, Vec<u8>>(9)?),
        })
    })?;
    let mut records: Vec<Record> = rows.collect::<rusqlite::Result<_>>()?;
    let (mut previous, mut is_whole) = (String::new(), true);
    for (number, record) in (1..).zip(&records) {
        is_whole &= record.number == number && record.digest == record.sealed(&previous);
        previous.clone_from(&record.digest);
    }
    records.reverse();
    Ok((records, is_whole))
}

/// Events of a unit with their pseudonyms, oldest first.
pub(in crate::digitization) fn of_unit(
    connection: &Connection,
    unit: &str,
    most: usize,
) -> rusqlite::Result<Vec<(Deed, i32, super::keys::Pseudonym)>> {
    let sql =
        "SELECT o.seq, e.kind, e.time_ms, o.day, o.pseudonym FROM digi_operator o JOIN digi_event e ON e.seq = o.seq
               WHERE o.unit = ?1 ORDER BY o.seq LIMIT ?2";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(params![unit, most as i64], |row| {
        let deed = Deed { seq: row.get::<_, i64>(0)? as u64, kind: row.get(1)?, time_ms: row.get(2)?, name: None };
        Ok((deed, row.get(3)?, row.get(4)?))
    })?;
    rows.collect()
}

/// An event and who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// Its place in the ledger.
    pub seq: u64,
    /// The end of its type.
    pub kind: String,
    /// When it happened, in milliseconds since the epoch.
    pub time_ms: i64,
    /// The name among those that were tried; nothing where it is none of them.
    pub name: Option<String>,
}
