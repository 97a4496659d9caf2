//! Pseudonyms beside the ledger, and what groups of people made in a week.
//!
//! Invariants: a row of a person is as old as `keep_days` at most, whole weeks at a time; what outlives it is of groups of
//! at least [`SMALLEST_GROUP`] people, and no group and what is left without it lets a smaller one be told; a week's
//! people have pseudonyms of one key.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Transaction, params};
use serde::Serialize;

use super::SMALLEST_GROUP;
use super::keys::Pseudonym;
use crate::digitization::calendar::Day;
use crate::digitization::settings::Settings;

/// Tables of what is known of people.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE digi_operator ( -- erased after some weeks
        seq INTEGER PRIMARY KEY, -- the event
        day INTEGER NOT NULL, -- since the epoch, in the project's time zone
        unit TEXT,
        station TEXT,
        shift INTEGER NOT NULL,
        images INTEGER NOT NULL,
        pseudonym BLOB NOT NULL
    ) STRICT;
    CREATE INDEX digi_operator_day ON digi_operator (day);
    CREATE INDEX digi_operator_unit ON digi_operator (unit) WHERE unit IS NOT NULL;
    CREATE TABLE digi_people ( -- groups of at least five
        week INTEGER NOT NULL, -- its Monday
        kind TEXT NOT NULL, -- all, station, shift
        name TEXT NOT NULL,
        operators INTEGER NOT NULL,
        days INTEGER NOT NULL, -- days of all of them together
        median_images INTEGER NOT NULL, -- of such a day
        PRIMARY KEY (week, kind, name)
    ) STRICT;
    CREATE TABLE digi_reveal ( -- rows are only ever added
        number INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        who TEXT NOT NULL,
        uid INTEGER NOT NULL, -- of the process that asked
        why TEXT NOT NULL,
        unit TEXT NOT NULL,
        names INTEGER NOT NULL, -- that were tried
        events INTEGER NOT NULL, -- that were shown
        found INTEGER NOT NULL, -- of those with a name
        digest BLOB NOT NULL -- SHA-256 of the digest before and of this row
    ) STRICT;
";

/// Who did an event, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::digitization) struct Row {
    pub(in crate::digitization) seq: u64,
    pub(in crate::digitization) day: Day,
    pub(in crate::digitization) unit: Option<String>,
    pub(in crate::digitization) station: Option<String>,
    pub(in crate::digitization) shift: u8,
    pub(in crate::digitization) images: i64,
    pub(in crate::digitization) pseudonym: Pseudonym,
}

pub(in crate::digitization) fn append(transaction: &Transaction<'_>, rows: &[Row]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO digi_operator (seq, day, unit, station, shift, images, pseudonym) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for row in rows {
        let Row { seq, day, unit, station, shift, images, pseudonym } = row;
        insert.execute(params![*seq as i64, day.0, unit, station, shift, images, pseudonym])?;
    }
    Ok(())
}

/// Forgets who did an event that was taken back.
pub(in crate::digitization) fn forget(transaction: &Transaction<'_>, seq: u64) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM digi_operator WHERE seq = ?1", [seq as i64]).map(drop)
}

/// The first day whose pseudonyms are kept.
pub(in crate::digitization) fn kept_from(today: Day, keep_days: u16) -> Day {
    Day(Day(today.0 - i32::from(keep_days)).monday().0 + 7)
}

/// What a group of people did in a week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The week's Monday.
    pub week: Day,
    /// `all`, `station` or `shift`.
    pub kind: String,
    /// Which station or shift.
    pub name: String,
    /// How many people.
    pub operators: u64,
    /// Days that they worked, together.
    pub days: u64,
    /// Images of half of those days were more.
    pub median_images: i64,
}

/// A person's images on a day at a station in a shift.
struct Work {
    day: i32,
    station: String,
    shift: u8,
    who: Pseudonym,
    images: i64,
}

/// Works out the weeks that are over, and erases what is older than `keep_days`.
pub(in crate::digitization) fn settle(
    connection: &mut Connection,
    today: Day,
    settings: &Settings,
) -> rusqlite::Result<()> {
    let bounds = |c: &Connection| -> rusqlite::Result<Option<(i32, i32)>> {
        let sql = "SELECT MIN(day), MAX(day) FROM digi_operator";
        let (first, last): (Option<i32>, Option<i32>) = c.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(first.zip(last))
    };
    let Some((first, last)) = bounds(connection)? else { return Ok(()) };
    // What is deleted is overwritten, in the file and in its log.
    connection.execute_batch("PRAGMA secure_delete = ON")?;
    let transaction = connection.transaction()?;
    for monday in (Day(first).monday().0..=last).step_by(7).take_while(|monday| monday + 7 <= today.0) {
        let groups = groups(Day(monday), &works(&transaction, monday)?, settings);
        transaction.execute("DELETE FROM digi_people WHERE week = ?1", [monday])?;
        for group in groups {
            transaction.execute(
                "INSERT INTO digi_people (week, kind, name, operators, days, median_images) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![monday, group.kind, group.name, group.operators as i64, group.days as i64, group.median_images],
            )?;
        }
    }
    let kept = kept_from(today, settings.privacy.keep_days);
    let erased = transaction.execute("DELETE FROM digi_operator WHERE day < ?1", [kept.0])?;
    transaction.commit()?;
    connection.execute_batch("PRAGMA secure_delete = OFF")?;
    if erased > 0 {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()))?;
        tracing::info!(events = erased, before = %kept, "pseudonyms were erased");
    }
    Ok(())
}

/// Erases every pseudonym, of the days in `days` only.
pub(in crate::digitization) fn erase(connection: &Connection, days: std::ops::Range<i32>) -> rusqlite::Result<usize> {
    connection.execute_batch("PRAGMA secure_delete = ON")?;
    let erased =
        connection.execute("DELETE FROM digi_operator WHERE day >= ?1 AND day < ?2", params![days.start, days.end])?;
    connection.execute_batch("PRAGMA secure_delete = OFF")?;
    Ok(erased)
}

fn works(connection: &Connection, monday: i32) -> rusqlite::Result<Vec<Work>> {
    let sql = "SELECT day, station, shift, pseudonym, SUM(images) FROM digi_operator
               WHERE day >= ?1 AND day < ?1 + 7 AND station IS NOT NULL GROUP BY day, station, shift, pseudonym";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([monday], |row| {
        Ok(Work { day: row.get(0)?, station: row.get(1)?, shift: row.get(2)?, who: row.get(3)?, images: row.get(4)? })
    })?;
    rows.collect()
}

/// The groups of a week that may be told of.
fn groups(week: Day, works: &[Work], settings: &Settings) -> Vec<Group> {
    let mut by_group = BTreeMap::<(&str, String), Vec<&Work>>::new();
    for work in works {
        by_group.entry(("all", String::new())).or_default().push(work);
        by_group.entry(("station", work.station.clone())).or_default().push(work);
        by_group.entry(("shift", settings.shift_name(work.shift).to_owned())).or_default().push(work);
    }
    let of = |works: &[&Work]| works.iter().map(|work| work.who).collect::<BTreeSet<Pseudonym>>().len();
    let mut told: Vec<(&str, String, Vec<&Work>)> = Vec::new();
    for kind in ["all", "station", "shift"] {
        let mine = by_group.iter().filter(|((other, _), works)| *other == kind && of(works) >= SMALLEST_GROUP);
        let mut mine: Vec<(&str, String, Vec<&Work>)> =
            mine.map(|((_, name), works)| (kind, name.clone(), works.clone())).collect();
        mine.sort_by_key(|(_, _, works)| of(works));
        // Who knows the whole and these groups knows the rest: it must be as large, or nothing.
        loop {
            let is_told = |work: &&Work| match kind {
                "station" => mine.iter().any(|(_, name, _)| *name == work.station),
                "shift" => mine.iter().any(|(_, name, _)| name == settings.shift_name(work.shift)),
                _ => true,
            };
            let rest: Vec<&Work> = works.iter().filter(|work| !is_told(work)).collect();
            if mine.is_empty() || !(1..SMALLEST_GROUP).contains(&of(&rest)) {
                break;
            }
            mine.remove(0);
        }
        told.extend(mine);
    }
    let mut groups = Vec::new();
    for (kind, name, mine) in &told {
        let mut days = BTreeMap::<(i32, Pseudonym), i64>::new();
        for work in mine {
            *days.entry((work.day, work.who)).or_default() += work.images;
        }
        let mut images: Vec<i64> = days.values().copied().collect();
        images.sort_unstable();
        groups.push(Group {
            week,
            kind: (*kind).to_owned(),
            name: name.clone(),
            operators: of(mine) as u64,
            days: days.len() as u64,
            // Tens: nobody's day is told to the image.
            median_images: (images[images.len() / 2] + 5).div_euclid(10) * 10,
        });
    }
    groups
}

/// Weeks of groups, the newest first.
pub(in crate::digitization) fn weeks(connection: &Connection, most: usize) -> rusqlite::Result<Vec<Group>> {
    let sql = "SELECT week, kind, name, operators, days, median_images FROM digi_people
               ORDER BY week DESC, kind, name LIMIT ?1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([most as i64], |row| {
        Ok(Group {
            week: Day(row.get(0)?),
            kind: row.get(1)?,
            name: row.get(2)?,
            operators: row.get::<_, i64>(3)? as u64,
            days: row.get::<_, i64>(4)? as u64,
            median_images: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// Events with a pseudonym, and the day of the oldest.
pub(in crate::digitization) fn held(connection: &Connection) -> rusqlite::Result<(u64, Option<Day>)> {
    let sql = "SELECT COUNT(*), MIN(day) FROM digi_operator";
    connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Option<i32>>(1)?.map(Day))))
}
