//! The state of the project at a place of the ledger, so that a start need not read every event again.
//!
//! Invariants: a checkpoint is a cache and nothing else: what it says follows from the events up to its place, and where
//! it is missing, damaged, of another program or of other settings, the events are read from the first. There is one at
//! most, replaced in one statement.

use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::settings::Settings;
use super::state::State;
use crate::ledger::{Ledger, LedgerError};

/// The table of the checkpoint.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE digi_checkpoint (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        basis BLOB NOT NULL, -- SHA-256 of what made it: format, program, time zone, shifts
        seq INTEGER NOT NULL, -- the last event in it
        crc32c INTEGER NOT NULL, -- of body
        body BLOB NOT NULL -- postcard, then zstd
    ) STRICT;
";

/// Events after which the next one is kept: a start reads so many in tens of milliseconds.
pub(super) const EVERY_EVENTS: u64 = 10_000;
/// Changes with what the body means or how it is written.
const FORMAT: u32 = 5;
/// Fast: the body shrinks to a fifth, and the ledger's log with it.
const ZSTD_LEVEL: i32 = 1;

/// What else than events decides about the state: days and shifts are those of the settings, and a program of another
/// version may book an event otherwise.
fn basis(settings: &Settings) -> [u8; 32] {
    let (program, zone, shifts) = (env!("CARGO_PKG_VERSION"), &settings.time_zone, &settings.shifts);
    let rules = &settings.quality;
    Sha256::digest(format!("{FORMAT}\0{program}\0{zone:?}\0{shifts:?}\0{rules:?}")).into()
}

/// Keeps `state` as the checkpoint.
pub(super) fn save(ledger: &Ledger, state: &State, settings: &Settings) -> Result<(), LedgerError> {
    let plain = postcard::to_stdvec(state).map_err(unwritable)?;
    let body = zstd::encode_all(&plain[..], ZSTD_LEVEL).map_err(unwritable)?;
    let sql = "INSERT OR REPLACE INTO digi_checkpoint (only, basis, seq, crc32c, body) VALUES (1, ?1, ?2, ?3, ?4)";
    let row = params![basis(settings), state.last_seq as i64, crc32c::crc32c(&body), body];
    ledger.with(|connection| connection.execute(sql, row).map(drop))
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// The checkpoint of a ledger of `events` events; nothing where there is none that can be trusted.
pub(super) fn load(connection: &Connection, settings: &Settings, events: u64) -> rusqlite::Result<Option<State>> {
    let sql = "SELECT basis, seq, crc32c, body FROM digi_checkpoint";
    let row = connection
        .query_row(sql, [], |row| {
            let found: (Vec<u8>, i64, u32, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(found)
        })
        .optional()?;
    let Some((made_by, seq, crc32c, body)) = row else { return Ok(None) };
    let distrust = |why: &str| tracing::info!(why, "the project's checkpoint is not used; every event is read again");
    if made_by != basis(settings) {
        distrust("another program or other settings made it");
        return Ok(None);
    }
    if crc32c::crc32c(&body) != crc32c {
        distrust("its checksum is wrong");
        return Ok(None);
    }
    let read = zstd::decode_all(&body[..]).ok().and_then(|plain| postcard::from_bytes::<State>(&plain).ok());
    match read {
        Some(mut state) if state.last_seq == seq as u64 && state.last_seq <= events => {
            state.complete();
            Ok(Some(state))
        }
        _ => {
            distrust("it cannot be read or stands for events that are not there");
            Ok(None)
        }
    }
}
