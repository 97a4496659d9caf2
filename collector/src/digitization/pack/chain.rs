//! Reports as the ledger keeps them: each with a digest that covers its data and the digest of the one before.
//!
//! Invariant: rows are only ever added; of a row only the time of its mail changes.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use veghe_model::Timestamp;

use super::figures::Figures;
use super::period::Period;

/// The table of reports.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE digi_report (
        number INTEGER PRIMARY KEY, -- from 1, without gaps
        period TEXT NOT NULL UNIQUE, -- 2026-W19, 2026-05
        issued_ms INTEGER NOT NULL,
        previous TEXT NOT NULL, -- the digest of the report before; empty for the first
        digest TEXT NOT NULL, -- SHA-256, hexadecimal: see `digest`
        body TEXT NOT NULL, -- JSON
        mailed_ms INTEGER -- once it went out
    ) STRICT;
";

/// A frozen report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// Its number, from 1.
    pub number: u64,
    /// When it was made, in milliseconds since the epoch.
    pub issued_ms: i64,
    /// The digest of the report before; empty for the first.
    pub previous: String,
    /// The digest of this one.
    pub digest: String,
    /// What it says.
    pub figures: Figures,
}

/// A report in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its number.
    pub number: u64,
    /// Its period.
    pub period: Period,
    /// When it was made, in milliseconds since the epoch.
    pub issued_ms: i64,
    /// Its digest.
    pub digest: String,
    /// When it was mailed, if it was.
    pub mailed_ms: Option<i64>,
}

/// What a look at the chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Reports that were looked at.
    pub reports: u64,
    /// The digest of the last: whoever has it on paper can tell that nothing before it changed.
    pub last: String,
    /// What does not hold, in words.
    pub problems: Vec<String>,
}

/// SHA-256 of a header line, the digest before, and the body, each ended by a line feed: `sha256sum` can check it.
pub(super) fn digest(number: u64, period: &str, issued_ms: i64, previous: &str, body: &str) -> String {
    let text = format!("veghe report {number} {period} {issued_ms}\n{previous}\n{body}\n");
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        use std::fmt::Write as _;
        write!(hex, "{byte:02x}").expect("invariant: a string takes every write");
        hex
    })
}

fn period(row: &Row<'_>, column: usize) -> rusqlite::Result<Period> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|problem: String| unreadable(column, problem.into()))
}

fn unreadable(column: usize, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
}

/// Every report, the newest first, at most `most`.
pub(super) fn headers(connection: &Connection, most: usize) -> rusqlite::Result<Vec<Header>> {
    let sql = "SELECT number, period, issued_ms, digest, mailed_ms FROM digi_report ORDER BY number DESC LIMIT ?1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([most as i64], |row| {
        Ok(Header {
            number: row.get::<_, i64>(0)? as u64,
            period: period(row, 1)?,
            issued_ms: row.get(2)?,
            digest: row.get(3)?,
            mailed_ms: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// The report of `wanted`.
pub(super) fn find(connection: &Connection, wanted: Period) -> rusqlite::Result<Option<Issued>> {
    let sql = "SELECT number, issued_ms, previous, digest, body FROM digi_report WHERE period = ?1";
    connection
        .query_row(sql, [wanted.to_string()], |row| {
            let figures =
                serde_json::from_str(row.get_ref(4)?.as_str()?).map_err(|error| unreadable(4, error.into()))?;
            Ok(Issued {
                number: row.get::<_, i64>(0)? as u64,
                issued_ms: row.get(1)?,
                previous: row.get(2)?,
                digest: row.get(3)?,
                figures,
            })
        })
        .optional()
}

/// Adds a report to the chain.
pub(super) fn append(transaction: &Transaction<'_>, figures: Figures, now: Timestamp) -> rusqlite::Result<Issued> {
    let last = transaction
        .query_row("SELECT number, digest FROM digi_report ORDER BY number DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, String>(1)?))
        })
        .optional()?;
    let (number, previous) = last.map_or((1, String::new()), |(number, digest)| (number + 1, digest));
    let body =
        serde_json::to_string(&figures).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let period = figures.period.to_string();
    let digest = digest(number, &period, now.0, &previous, &body);
    transaction.execute(
        "INSERT INTO digi_report (number, period, issued_ms, previous, digest, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![number as i64, period, now.0, previous, digest, body],
    )?;
    Ok(Issued { number, issued_ms: now.0, previous, digest, figures })
}

/// Checks every link of the chain.
pub(super) fn verify(connection: &Connection) -> rusqlite::Result<Verified> {
    let mut found = Verified::default();
    let sql = "SELECT number, period, issued_ms, previous, digest, body FROM digi_report ORDER BY number";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found.reports += 1;
        let number = row.get::<_, i64>(0)? as u64;
        let (period, previous, kept): (String, String, String) = (row.get(1)?, row.get(3)?, row.get(4)?);
        let body = row.get_ref(5)?.as_str()?;
        let mut wrong = |what: &str| found.problems.push(format!("report {number} ({period}): {what}"));
        if number != found.reports {
            wrong("a report before it is gone");
            found.reports = number;
        }
        if previous != found.last {
            wrong("it does not follow from the one before");
        }
        if digest(number, &period, row.get(2)?, &previous, body) != kept {
            wrong("its digest is not that of its data");
        }
        if serde_json::from_str::<Figures>(body).map_or(true, |figures| figures.period.to_string() != period) {
            wrong("its data are not those of a report of this period");
        }
        found.last = kept;
    }
    Ok(found)
}

/// Notes that the report of `period` was mailed.
pub(super) fn mailed(connection: &Connection, period: Period, at: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE digi_report SET mailed_ms = ?1 WHERE period = ?2";
    connection.execute(sql, params![at.0, period.to_string()]).map(drop)
}
