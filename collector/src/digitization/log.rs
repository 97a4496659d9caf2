//! The ledger's tables of the project: every accepted event in order, and every version of the inventory.
//!
//! Invariants: rows are only ever added; (source, id) is there once, by the key that is made of both; an event and what
//! it refers to are in one transaction. What it deliberately does not do: keep the state in memory, or decide.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use sha2::{Digest as _, Sha256};
use veghe_model::Timestamp;

use super::calendar::Day;
use super::event::{self, Data, Event};
use super::inventory::{self, Mapping};
use super::privacy::people::{self, Row};
use super::settings::Settings;
use super::state::{State, Stored};
use super::unit::Unit;

/// Tables of the project in the ledger.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE digi_event (
        seq INTEGER PRIMARY KEY,
        kind TEXT NOT NULL, -- the end of its type: image.captured
        source TEXT NOT NULL,
        id TEXT NOT NULL,
        unit TEXT,
        time_ms INTEGER NOT NULL, -- when it happened
        received_ms INTEGER NOT NULL,
        corrects INTEGER, -- the event that it takes back
        data TEXT NOT NULL -- JSON
    ) STRICT;
    CREATE INDEX digi_event_unit ON digi_event (unit, seq) WHERE unit IS NOT NULL;
    CREATE TABLE digi_key ( -- narrow: read whole at start
        seq INTEGER PRIMARY KEY,
        key BLOB NOT NULL -- the first 16 bytes of SHA-256 of source, a zero byte, id
    ) STRICT;
    CREATE TABLE digi_baseline (
        version INTEGER PRIMARY KEY,
        adopted_ms INTEGER NOT NULL,
        note TEXT NOT NULL, -- where it came from
        csv TEXT NOT NULL
    ) STRICT;
";

/// Lets what is rare be found without reading everything: what was taken back, when days were frozen, files that do not
/// count.
pub(crate) const PROVENANCE_SCHEMA: &str = "
    CREATE INDEX digi_event_corrects ON digi_event (corrects) WHERE corrects IS NOT NULL;
    CREATE INDEX digi_event_frozen ON digi_event (seq) WHERE kind = 'days.frozen';
    CREATE INDEX digi_event_duplicate ON digi_event (seq) WHERE kind = 'image.duplicate';
    CREATE INDEX digi_event_incomplete ON digi_event (seq) WHERE instr(data, '\"complete\":false') > 0;
";

/// Lets a day's events be found.
pub(crate) const TIME_SCHEMA: &str = "CREATE INDEX digi_event_time ON digi_event (time_ms);";

/// Names an event: no two of different (source, id) have the same.
pub(super) type Key = u128;

pub(super) fn key(source: &str, id: &str) -> Key {
    let mut hash = Sha256::new();
    hash.update(source.as_bytes());
    hash.update([0]);
    hash.update(id.as_bytes());
    let digest = hash.finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

/// An event on its way into the ledger.
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) key: Key,
    pub(super) received: Timestamp,
    pub(super) corrects: Option<u64>,
    pub(super) event: Event,
    /// Who did it, where that is kept.
    pub(super) person: Option<Row>,
}

pub(super) fn append(transaction: &Transaction<'_>, entries: &[Entry]) -> rusqlite::Result<()> {
    let mut event = transaction.prepare(
        "INSERT INTO digi_event (seq, kind, source, id, unit, time_ms, received_ms, corrects, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let mut keys = transaction.prepare("INSERT INTO digi_key (seq, key) VALUES (?1, ?2)")?;
    for entry in entries {
        let Event { source, id, time, data, json, person: _ } = &entry.event;
        let (seq, corrects) = (entry.seq as i64, entry.corrects.map(|seq| seq as i64));
        event.execute(params![seq, data.kind(), source, id, data.unit(), time.0, entry.received.0, corrects, json])?;
        keys.execute(params![seq, entry.key.to_be_bytes()])?;
        if let Some(seq) = entry.corrects {
            people::forget(transaction, seq)?;
        }
    }
    let persons: Vec<Row> = entries
        .iter()
        .filter_map(|entry| entry.person.clone().map(|person| Row { seq: entry.seq, ..person }))
        .collect();
    if persons.is_empty() { Ok(()) } else { people::append(transaction, &persons) }
}

/// Every key, in order.
pub(super) fn keys(connection: &Connection) -> rusqlite::Result<Vec<Key>> {
    let mut statement = connection.prepare("SELECT key FROM digi_key ORDER BY seq")?;
    let keys = statement.query_map([], |row| row.get::<_, [u8; 16]>(0))?;
    keys.map(|key| key.map(Key::from_be_bytes)).collect()
}

/// Where the event of that key is. Reads every key: for corrections, which are rare.
pub(super) fn find(connection: &Connection, key: Key) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT seq FROM digi_key WHERE key = ?1";
    let seq = connection.query_row(sql, [key.to_be_bytes()], |row| row.get::<_, i64>(0)).optional()?;
    Ok(seq.map(|seq| seq as u64))
}

const COLUMNS: &str = "seq, kind, time_ms, received_ms, corrects, data";

/// Nothing where a newer program wrote it.
fn stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<(Stored, Option<u64>)>> {
    let (kind, json) = (row.get_ref(1)?.as_str()?, row.get_ref(5)?.as_str()?);
    let Some(data) = event::reread(kind, json) else {
        tracing::warn!(seq = row.get::<_, i64>(0)?, kind, "an event of the ledger is of a kind that is not known here");
        return Ok(None);
    };
    let (time, received) = (Timestamp(row.get(2)?), Timestamp(row.get(3)?));
    let corrects = row.get::<_, Option<i64>>(4)?.map(|seq| seq as u64);
    Ok(Some((Stored { seq: row.get::<_, i64>(0)? as u64, time, received, data }, corrects)))
}

fn one(connection: &Connection, seq: u64) -> rusqlite::Result<Option<Stored>> {
    let sql = format!("SELECT {COLUMNS} FROM digi_event WHERE seq = ?1");
    let found = connection.query_row(&sql, [seq as i64], stored).optional()?;
    Ok(found.flatten().map(|(stored, _)| stored))
}

/// An event with whatever of the ledger it refers to: what a state needs to take it, so that taking can't fail.
pub(super) struct Effect {
    event: Stored,
    /// The event that it takes back.
    original: Option<Stored>,
    /// The units of the version of the inventory that it adopts.
    baseline: Option<(u32, Vec<Unit>)>,
    /// Events that waited for the units that it makes known.
    waited: Vec<Stored>,
}

/// Reads what `event` refers to; `is_awaited` tells for which units events wait.
pub(super) fn effect(
    connection: &Connection,
    event: Stored,
    corrects: Option<u64>,
    is_awaited: impl Fn(&str) -> bool,
) -> rusqlite::Result<Effect> {
    let original = match corrects {
        Some(seq) => one(connection, seq)?,
        None => None,
    };
    let (mut baseline_units, mut waited) = (None, Vec::new());
    let known: Vec<String> = match &event.data {
        Data::BaselineAdopted { version } => {
            let units = baseline(connection, *version)?;
            let known = units.iter().map(|unit| &unit.code).filter(|code| is_awaited(code)).cloned().collect();
            baseline_units = Some((*version, units));
            known
        }
        Data::Declared(unit) if is_awaited(&unit.code) => vec![unit.code.clone()],
        _ => Vec::new(),
    };
    if !known.is_empty() {
        let sql = format!("SELECT {COLUMNS} FROM digi_event WHERE unit = ?1 AND seq < ?2 ORDER BY seq");
        let mut statement = connection.prepare_cached(&sql)?;
        for unit in known {
            let mut rows = statement.query(params![unit, event.seq as i64])?;
            while let Some(row) = rows.next()? {
                waited.extend(stored(row)?.map(|(waited, _)| waited));
            }
        }
    }
    Ok(Effect { event, original, baseline: baseline_units, waited })
}

/// Lets `state` take an event.
pub(super) fn take(state: &mut State, effect: &Effect, settings: &Settings) {
    state.take(&effect.event, effect.original.as_ref(), settings);
    if let Some((version, units)) = &effect.baseline {
        state.adopt(*version, effect.event.time, units);
    }
    if effect.waited.is_empty() {
        return;
    }
    let known = state.known_now();
    for waited in effect.waited.iter().filter(|waited| waited.data.unit().is_some_and(|unit| known.contains(unit))) {
        state.release(waited, settings);
    }
}

/// The state that the ledger's events leave, from `state` on.
pub(super) fn replay(connection: &Connection, mut state: State, settings: &Settings) -> rusqlite::Result<State> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM digi_event WHERE seq > ?1 ORDER BY seq"))?;
    let mut rows = statement.query([state.last_seq as i64])?;
    while let Some(row) = rows.next()? {
        if let Some((event, corrects)) = stored(row)? {
            let effect = effect(connection, event, corrects, |unit| state.quarantine.contains_key(unit))?;
            take(&mut state, &effect, settings);
        }
    }
    Ok(state)
}

/// The units of a version of the inventory.
pub(super) fn baseline(connection: &Connection, version: u32) -> rusqlite::Result<Vec<Unit>> {
    let sql = "SELECT csv FROM digi_baseline WHERE version = ?1";
    let csv: String = connection.query_row(sql, [version], |row| row.get(0))?;
    Ok(inventory::read_csv(csv.as_bytes(), &Mapping::default()).units)
}

/// Keeps a version of the inventory.
pub(super) fn keep_baseline(
    transaction: &Transaction<'_>,
    version: u32,
    at: Timestamp,
    note: &str,
    csv: &str,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO digi_baseline (version, adopted_ms, note, csv) VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(sql, params![version, at.0, note, csv]).map(drop)
}

/// A version of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub version: u32,
    /// When it was adopted, in milliseconds since the epoch.
    pub adopted_ms: i64,
    /// Where it came from.
    pub note: String,
}

/// Every version of the inventory, the newest first.
pub(super) fn versions(connection: &Connection) -> rusqlite::Result<Vec<Version>> {
    let mut statement =
        connection.prepare("SELECT version, adopted_ms, note FROM digi_baseline ORDER BY version DESC LIMIT 1000")?;
    let rows = statement
        .query_map([], |row| Ok(Version { version: row.get(0)?, adopted_ms: row.get(1)?, note: row.get(2)? }))?;
    rows.collect()
}

/// The first moment of a day of the project, in milliseconds since the epoch.
pub fn midnight(day: Day, settings: &Settings) -> i64 {
    let begins = settings.time_zone.to_ambiguous_zoned_datetime(day.date().at(0, 0, 0, 0)).compatible();
    begins.map_or(i64::from(day.0) * 86_400_000, |begins| begins.timestamp().as_millisecond())
}

/// Events that meet a condition of ours, as the state took them.
pub(super) fn matching(
    connection: &Connection,
    condition: &str,
    values: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<Vec<Stored>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM digi_event WHERE {condition}"))?;
    let mut rows = statement.query(values)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.extend(stored(row)?.map(|(event, _)| event));
    }
    Ok(events)
}

/// The events of those numbers, in order.
pub(super) fn numbered(connection: &Connection, numbers: &[u64]) -> rusqlite::Result<Vec<Shown>> {
    let sql = "SELECT seq, kind, source, id, time_ms, received_ms, corrects, data FROM digi_event
               WHERE seq IN (SELECT value FROM json_each(?1)) ORDER BY seq";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([serde_json::json!(numbers).to_string()], shown)?;
    rows.collect()
}

/// An event as the history of a unit shows it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Shown {
    /// Its place in the ledger.
    pub seq: u64,
    /// The end of its type.
    pub kind: String,
    /// Who sent it.
    pub source: String,
    /// Its id there.
    pub id: String,
    /// When it happened, in milliseconds since the epoch.
    pub time_ms: i64,
    /// When it was received.
    pub received_ms: i64,
    /// The event that it takes back.
    pub corrects: Option<u64>,
    /// What it says.
    pub data: serde_json::Value,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Happened at or after, in milliseconds since the epoch.
    pub from_ms: i64,
    /// Happened before.
    pub to_ms: i64,
    /// The end of their type.
    pub kind: Option<String>,
    /// The station in their data.
    pub station: Option<String>,
    /// Their unit.
    pub unit: Option<String>,
    /// The batch in their data.
    pub batch: Option<String>,
    /// The storage in their data.
    pub storage: Option<String>,
    /// After this place in the ledger.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
}

/// Events that are wanted, in the ledger's order.
pub(super) fn search(connection: &Connection, search: &Search) -> rusqlite::Result<Vec<Shown>> {
    let sql = "SELECT seq, kind, source, id, time_ms, received_ms, corrects, data FROM digi_event
               WHERE time_ms >= ?1 AND time_ms < ?2 AND seq > ?3 AND (?4 IS NULL OR kind = ?4)
               AND (?5 IS NULL OR json_extract(data, '$.station') = ?5) AND (?6 IS NULL OR unit = ?6)
               AND (?7 IS NULL OR json_extract(data, '$.batch') = ?7) AND (?8 IS NULL OR json_extract(data, '$.storage') = ?8)
               ORDER BY seq LIMIT ?9";
    let mut statement = connection.prepare(sql)?;
    let Search { from_ms, to_ms, kind, station, unit, batch, storage, after, limit } = search;
    let values = params![from_ms, to_ms, *after as i64, kind, station, unit, batch, storage, *limit as i64];
    let rows = statement.query_map(values, shown)?;
    rows.collect()
}

fn shown(row: &rusqlite::Row<'_>) -> rusqlite::Result<Shown> {
    Ok(Shown {
        seq: row.get::<_, i64>(0)? as u64,
        kind: row.get(1)?,
        source: row.get(2)?,
        id: row.get(3)?,
        time_ms: row.get(4)?,
        received_ms: row.get(5)?,
        corrects: row.get::<_, Option<i64>>(6)?.map(|seq| seq as u64),
        data: serde_json::from_str(row.get_ref(7)?.as_str()?).unwrap_or_default(),
    })
}

/// Events about a unit or its batch from `after` on, in the ledger's order.
pub(super) fn history(connection: &Connection, unit: &str, after: u64, most: usize) -> rusqlite::Result<Vec<Shown>> {
    let sql = "SELECT seq, kind, source, id, time_ms, received_ms, corrects, data FROM digi_event
               WHERE unit = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(params![unit, after as i64, most as i64], shown)?;
    rows.collect()
}
