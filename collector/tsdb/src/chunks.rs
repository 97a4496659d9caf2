//! Sealed chunks, series, marks and watermarks in one SQLite file.
//!
//! Invariants: `synchronous=FULL`, so a transaction that committed is on disk; a chunk's row number is
//! `window << 32 | series`, so that a window is one range; every chunk carries a checksum that also covers its row number.
//! FORMAT.md has the tables and the bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roaring::RoaringBitmap;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use crate::OpenError;
use crate::bytes::{Cursor, Damaged, put_varint};
use crate::catalog;
use crate::codec::{self, Packing, Scratch};
use crate::contents::{self, Contents};
use crate::timecolumn;

/// The newest format of the database, in `user_version`.
pub(crate) const VERSION: u32 = 6;
/// `VGHE`, in `application_id`.
const APPLICATION: i32 = 0x5647_4845;
/// Bytes of a page of databases that are made or written anew. A chunk of two hours has about 250 bytes, one of a day ten
/// times that: what does not fit at a page's end costs 7 % of pages of 8 KiB, 3 % of these.
pub(crate) const PAGE_BYTES: u32 = 16_384;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE series (id INTEGER PRIMARY KEY, labels BLOB NOT NULL);
CREATE TABLE mark (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE window (window INTEGER PRIMARY KEY, through INTEGER NOT NULL, series BLOB NOT NULL);
CREATE TABLE chunk (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE times (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE damaged (id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL, data BLOB NOT NULL);
";

/// What format 2 has in addition.
const SCHEMA_OF_DAYS: &str = "
CREATE TABLE day (day INTEGER PRIMARY KEY, series BLOB NOT NULL);
CREATE TABLE day_chunk (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE day_times (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
";

/// What format 4 has in addition, beside checksums for what had none.
const SCHEMA_OF_TOMBSTONES: &str = "
ALTER TABLE meta ADD COLUMN crc INTEGER;
CREATE TABLE tombstone (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
";

/// What format 5 has in addition.
const SCHEMA_OF_ROLLUPS: &str = "
CREATE TABLE rollup5 (rollup5 INTEGER PRIMARY KEY, series BLOB NOT NULL);
CREATE TABLE rollup5_chunk (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rollup5_shape (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rollup60 (rollup60 INTEGER PRIMARY KEY, series BLOB NOT NULL);
CREATE TABLE rollup60_chunk (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rollup60_shape (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
";

/// In `meta`, 1: no day waits to be rolled up because an earlier format made it.
pub(crate) const ROLLED_UP: &str = "rolled_up";

/// How many windows make a day, as chunks are merged; 24 h of windows of 2 h.
pub(crate) const WINDOWS_PER_DAY: i64 = 12;

/// How long the buckets of a roll-up are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resolution {
    Minutes5,
    Hour,
}

impl Resolution {
    /// The finer one first.
    pub(crate) const ALL: [Self; 2] = [Self::Minutes5, Self::Hour];

    pub(crate) const fn ms(self) -> i64 {
        match self {
            Self::Minutes5 => 300_000,
            Self::Hour => 3_600_000,
        }
    }
}

/// What a chunk spans and holds: samples of a window or of a day, or roll-ups of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Level {
    Window,
    Day,
    Rollup(Resolution),
}

impl Level {
    pub(crate) const ALL: [Self; 4] =
        [Self::Window, Self::Day, Self::Rollup(Resolution::Minutes5), Self::Rollup(Resolution::Hour)];

    pub(crate) fn chunks(self) -> &'static str {
        match self {
            Self::Window => "chunk",
            Self::Day => "day_chunk",
            Self::Rollup(Resolution::Minutes5) => "rollup5_chunk",
            Self::Rollup(Resolution::Hour) => "rollup60_chunk",
        }
    }

    /// What chunks of one unit share: columns of time stamps, or of roll-ups all that does not depend on values.
    pub(crate) fn times(self) -> &'static str {
        match self {
            Self::Window => "times",
            Self::Day => "day_times",
            Self::Rollup(Resolution::Minutes5) => "rollup5_shape",
            Self::Rollup(Resolution::Hour) => "rollup60_shape",
        }
    }

    /// What it spans, for messages; also the table of which series have a chunk, and its key.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Day => "day",
            Self::Rollup(Resolution::Minutes5) => "rollup5",
            Self::Rollup(Resolution::Hour) => "rollup60",
        }
    }

    /// How many windows it spans.
    pub(crate) fn windows(self) -> i64 {
        if self == Self::Window { 1 } else { WINDOWS_PER_DAY }
    }
}

const OWN_TIMES: u8 = 0;
const SHARED_TIMES: u8 = 1;
const CRC_BYTES: usize = 4;

/// The row of series `id` in `window`.
pub(crate) fn row(window: i64, id: u32) -> i64 {
    window << 32 | i64::from(id)
}

/// What is in chunks of one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sealed {
    /// Records up to this one are in chunks as far as they concern this window, or dropped.
    pub(crate) through: u64,
    pub(crate) series: Arc<RoaringBitmap>,
}

/// The database.
pub(crate) struct Chunks {
    pub(crate) path: PathBuf,
    readers: Mutex<Vec<Connection>>,
}

/// How long a connection waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections kept for readers; more are opened when needed and closed after.
const READERS: usize = 4;

impl Chunks {
    /// Opens or makes the database; gives the one connection that writes.
    pub(crate) fn open(path: PathBuf, window_ms: i64) -> Result<(Self, Connection, Contents, i64), OpenError> {
        let database = |source| OpenError::Database { path: path.clone(), source };
        let mut writer = Connection::open(&path).map_err(database)?;
        writer.busy_timeout(PATIENCE).map_err(database)?;
        writer
            .execute_batch(
                &format!("PRAGMA page_size={PAGE_BYTES}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 PRAGMA cache_size=-4000; PRAGMA temp_store=MEMORY;"),
            )
            .map_err(database)?;
        let found: u32 = writer.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(database)?;
        if found > VERSION {
            return Err(OpenError::Newer { path, found, known: VERSION });
        }
        if found == 0 {
            let transaction = writer.transaction().map_err(database)?;
            transaction
                .execute_batch(SCHEMA)
                .and_then(|()| transaction.execute_batch(SCHEMA_OF_DAYS))
                .and_then(|()| transaction.execute_batch(catalog::SCHEMA))
                .and_then(|()| transaction.execute_batch(SCHEMA_OF_TOMBSTONES))
                .and_then(|()| transaction.execute_batch(SCHEMA_OF_ROLLUPS))
                .and_then(|()| transaction.execute_batch(catalog::SCHEMA_OF_LARGE))
                .and_then(|()| transaction.pragma_update(None, "application_id", APPLICATION))
                .and_then(|()| transaction.pragma_update(None, "user_version", VERSION))
                .and_then(|()| put_meta(&transaction, "window_ms", window_ms))
                .and_then(|()| put_meta(&transaction, ROLLED_UP, 1))
                .map_err(database)?;
            transaction.commit().map_err(database)?;
        } else if found < VERSION {
            // New tables fill by and by, chunks stay as they are. A kill leaves the format of before.
            let transaction = writer.transaction().map_err(database)?;
            let migrated = (|| {
                if found < 2 {
                    transaction.execute_batch(SCHEMA_OF_DAYS)?;
                }
                if found < 3 {
                    transaction.execute_batch(catalog::SCHEMA)?;
                }
                if found < 4 {
                    transaction.execute_batch(SCHEMA_OF_TOMBSTONES)?;
                    add_checksums(&transaction)?;
                }
                if found < 5 {
                    transaction.execute_batch(SCHEMA_OF_ROLLUPS)?;
                }
                transaction.execute_batch(catalog::SCHEMA_OF_LARGE)?;
                transaction.pragma_update(None, "user_version", VERSION)
            })();
            migrated.and_then(|()| transaction.commit()).map_err(database)?;
        }
        let stored = match meta(&writer, "window_ms").map_err(database)? {
            Some(Ok(stored)) => stored,
            None => window_ms,
            Some(Err(damage)) => {
                let detail = format!("table meta, row window_ms: {damage}; restore a backup");
                return Err(OpenError::Damaged { path, detail });
            }
        };
        let contents = contents::read(&writer, &path, stored).map_err(database)?;
        Ok((Self { path, readers: Mutex::default() }, writer, contents, stored))
    }

    /// Bytes on disk, the write-ahead log included.
    pub(crate) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len()) + self.wal_bytes()
    }

    /// Bytes of the pages that hold something.
    pub(crate) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
        let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
        Ok(((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?) as u64)
    }

    /// Bytes of the write-ahead log on disk.
    pub(crate) fn wal_bytes(&self) -> u64 {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        std::fs::metadata(wal).map_or(0, |m| m.len())
    }

    /// Runs `read` in one read transaction on a connection of its own: writers are neither awaited nor delayed.
    pub(crate) fn read<T, E: From<rusqlite::Error>>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = if let Some(connection) = kept {
            connection
        } else {
            open_reader(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?
        };
        let transaction = connection.transaction()?;
        let result = read(&transaction);
        drop(transaction);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS {
            readers.push(connection);
        }
        result
    }
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("PRAGMA query_only=1; PRAGMA cache_size=-2000;")?;
    Ok(connection)
}

/// Moves the write-ahead log into the database and cuts it to nothing. Where a reader still needs it, it stays.
pub(crate) fn empty_wal(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(PATIENCE)?;
    match emptied {
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(()),
        emptied => emptied,
    }
}

/// Makes the read transaction of `connection` see what is committed now, and nothing later.
pub(crate) fn take_snapshot(connection: &Connection) -> rusqlite::Result<()> {
    // A transaction begins with its first read.
    meta(connection, "window_ms").map(|_damaged_or_not| ())
}

/// A number of the store itself; none where it was never written.
pub(crate) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<Result<i64, Damaged>>> {
    let found = connection
        .query_row("SELECT value, crc FROM meta WHERE key = ?1", [key], |r| {
            Ok((r.get::<_, Option<i64>>(0)?, r.get::<_, Option<i64>>(1)?))
        })
        .optional()?;
    Ok(found.map(|(value, crc)| match value {
        Some(value) if crc == Some(meta_crc(key, value)) => Ok(value),
        _ => Err(Damaged("its checksum differs")),
    }))
}

fn meta_crc(key: &str, value: i64) -> i64 {
    i64::from(checksum(value, key.as_bytes()))
}

pub(crate) fn put_meta(connection: &Connection, key: &str, value: i64) -> rusqlite::Result<()> {
    let statement = "INSERT OR REPLACE INTO meta (key, value, crc) VALUES (?1, ?2, ?3)";
    connection.execute(statement, params![key, value, meta_crc(key, value)]).map(drop)
}

/// Gives what formats before 4 wrote without a checksum one, as it stands.
fn add_checksums(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let rows = |statement: &str| -> rusqlite::Result<Vec<(Value, Value, Value)>> {
        let mut statement = transaction.prepare(statement)?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        rows.collect()
    };
    for row in rows("SELECT key, value, 0 FROM meta")? {
        if let (Value::Text(key), Value::Integer(value), _) = row {
            put_meta(transaction, &key, value)?;
        }
    }
    for row in rows("SELECT key, value, 0 FROM mark")? {
        if let (Value::Blob(key), Value::Blob(value), _) = row {
            put_marks(transaction, std::iter::once((&key, Some(&value))))?;
        }
    }
    for row in rows("SELECT window, through, series FROM window")? {
        if let (Value::Integer(window), Value::Integer(through), Value::Blob(bytes)) = row
            // One that does not hold stays so, and is named when it is read.
            && let Ok(series) = take_bitmap(window, &bytes)
        {
            put_window(transaction, window, &Sealed { through: through as u64, series: Arc::new(series) })?;
        }
    }
    Ok(())
}

/// Appends the checksum of `key` and `bytes`.
pub(crate) fn seal_bytes(key: i64, bytes: &mut Vec<u8>) {
    let crc = checksum(key, bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
}

fn checksum(key: i64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn checked(key: i64, bytes: &[u8]) -> Result<&[u8], Damaged> {
    let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(Damaged("it is too short"))?;
    if u32::from_le_bytes(*crc) != checksum(key, body) {
        return Err(Damaged("its checksum differs"));
    }
    Ok(body)
}

pub(crate) fn put_marks<'a>(
    transaction: &Transaction<'_>,
    marks: impl Iterator<Item = (&'a Vec<u8>, Option<&'a Vec<u8>>)>,
) -> rusqlite::Result<()> {
    let mut put = transaction.prepare("INSERT OR REPLACE INTO mark VALUES (?1, ?2)")?;
    let mut remove = transaction.prepare("DELETE FROM mark WHERE key = ?1")?;
    for (key, value) in marks {
        match value {
            Some(value) => {
                let mut value = value.clone();
                let crc = mark_crc(key, &value);
                value.extend_from_slice(&crc.to_le_bytes());
                put.execute(params![key, value])?
            }
            None => remove.execute(params![key])?,
        };
    }
    Ok(())
}

fn mark_crc(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// The value of a mark's row.
pub(crate) fn take_mark<'a>(key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], Damaged> {
    let (value, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(Damaged("it is too short"))?;
    if u32::from_le_bytes(*crc) == mark_crc(key, value) { Ok(value) } else { Err(Damaged("its checksum differs")) }
}

fn bitmap_bytes(key: i64, series: &RoaringBitmap) -> rusqlite::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    put_bitmap(series, &mut bytes)?;
    seal_bytes(key, &mut bytes);
    Ok(bytes)
}

pub(crate) fn put_bitmap(series: &RoaringBitmap, bytes: &mut Vec<u8>) -> rusqlite::Result<()> {
    series.serialize_into(bytes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn window_crc(window: i64, through: u64, bitmap: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&window.to_le_bytes());
    hasher.update(&through.to_le_bytes());
    hasher.update(bitmap);
    hasher.finalize()
}

/// The list of a window's row.
pub(crate) fn take_window(window: i64, through: u64, bytes: &[u8]) -> Result<RoaringBitmap, Damaged> {
    let (bitmap, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(Damaged("it is too short"))?;
    if u32::from_le_bytes(*crc) != window_crc(window, through, bitmap) {
        return Err(Damaged("its checksum differs"));
    }
    RoaringBitmap::deserialize_from(bitmap).or(Err(Damaged("its set of series does not decode")))
}

pub(crate) fn take_bitmap(key: i64, bytes: &[u8]) -> Result<RoaringBitmap, Damaged> {
    RoaringBitmap::deserialize_from(checked(key, bytes)?).or(Err(Damaged("its set of series does not decode")))
}

/// Which series have a chunk of a day, of samples or of roll-ups; none removes the row.
pub(crate) fn put_list(
    transaction: &Transaction<'_>,
    level: Level,
    day: i64,
    series: &RoaringBitmap,
) -> rusqlite::Result<()> {
    let table = level.unit();
    if series.is_empty() {
        return transaction.execute(&format!("DELETE FROM {table} WHERE {table} = ?1"), [day]).map(drop);
    }
    let bytes = bitmap_bytes(day, series)?;
    transaction.execute(&format!("INSERT OR REPLACE INTO {table} VALUES (?1, ?2)"), params![day, bytes]).map(drop)
}

/// [`put_list`] of samples.
pub(crate) fn put_day(transaction: &Transaction<'_>, day: i64, series: &RoaringBitmap) -> rusqlite::Result<()> {
    put_list(transaction, Level::Day, day, series)
}

pub(crate) fn put_window(transaction: &Transaction<'_>, window: i64, sealed: &Sealed) -> rusqlite::Result<()> {
    let mut bytes = Vec::new();
    put_bitmap(&sealed.series, &mut bytes)?;
    let crc = window_crc(window, sealed.through, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    transaction
        .execute("INSERT OR REPLACE INTO window VALUES (?1, ?2, ?3)", params![window, sealed.through as i64, bytes])
        .map(drop)
}

/// Shared time columns of one window or day while it is written.
#[derive(Debug)]
pub(crate) struct TimesWriter {
    level: Level,
    next: i64,
    /// Time stamps in `written`.
    remembered: usize,
    written: HashMap<Arc<[i64]>, u32>,
}

/// Time stamps of distinct columns remembered, 16 MiB; forgetting costs bytes on disk, not correctness.
const REMEMBERED_TIMES: usize = 2 << 20;

impl TimesWriter {
    /// A writer that goes on after the columns `window`, or the day of that number, has.
    pub(crate) fn new(connection: &Connection, level: Level, window: i64) -> rusqlite::Result<Self> {
        let last: Option<i64> = connection.query_row(
            &format!("SELECT max(id) FROM {} WHERE id BETWEEN ?1 AND ?2", level.times()),
            [row(window, 0), row(window, u32::MAX)],
            |r| r.get(0),
        )?;
        Ok(Self {
            level,
            next: last.map_or(0, |id| (id & i64::from(u32::MAX)) + 1),
            remembered: 0,
            written: HashMap::new(),
        })
    }

    /// Writes the time part of a chunk: in place where it is short, otherwise the number of a shared column.
    fn put(
        &mut self,
        transaction: &Transaction<'_>,
        window: i64,
        times: &Arc<[i64]>,
        out: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        if timecolumn::is_regular(times) {
            out.push(OWN_TIMES);
            timecolumn::encode(times, Packing::Pco, out);
            return Ok(());
        }
        let number = if let Some(number) = self.written.get(times) {
            *number
        } else {
            let number = self.next as u32;
            let id = row(window, number);
            let mut bytes = Vec::new();
            timecolumn::encode(times, Packing::Pco, &mut bytes);
            seal_bytes(id, &mut bytes);
            let statement = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", self.level.times());
            transaction.execute(&statement, params![id, bytes])?;
            self.next += 1;
            self.remembered += times.len();
            if self.remembered > REMEMBERED_TIMES {
                self.written.clear();
                self.remembered = times.len();
            }
            self.written.insert(Arc::clone(times), number);
            number
        };
        out.push(SHARED_TIMES);
        put_varint(out, u64::from(number));
        Ok(())
    }
}

/// Writes the chunk of one series; gives its bytes.
pub(crate) fn put_chunk(
    transaction: &Transaction<'_>,
    statement: &mut rusqlite::Statement<'_>,
    columns: &mut TimesWriter,
    (window, id): (i64, u32),
    times: &Arc<[i64]>,
    values: &[f64],
    scratch: &mut Scratch,
) -> rusqlite::Result<u64> {
    let mut bytes = Vec::new();
    columns.put(transaction, window, times, &mut bytes)?;
    codec::encode(values, Packing::Pco, scratch, &mut bytes);
    seal_bytes(row(window, id), &mut bytes);
    statement.execute(params![row(window, id), bytes])?;
    Ok(bytes.len() as u64)
}

/// Why a chunk could not be read.
pub(crate) enum ChunkError {
    Database(rusqlite::Error),
    Damaged(Damaged),
}

impl From<rusqlite::Error> for ChunkError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Damaged> for ChunkError {
    fn from(damage: Damaged) -> Self {
        Self::Damaged(damage)
    }
}

/// Decodes chunks, each distinct time column once.
#[derive(Default)]
pub(crate) struct TimesReader {
    shared: HashMap<(Level, i64), Arc<[i64]>>,
    own: HashMap<Vec<u8>, Arc<[i64]>>,
}

impl TimesReader {
    /// The samples of a chunk.
    pub(crate) fn chunk(
        &mut self,
        connection: &Connection,
        level: Level,
        place: (i64, u32),
        data: &[u8],
    ) -> Result<(Arc<[i64]>, Vec<f64>), ChunkError> {
        let (times, mut cursor) = self.open(connection, level, place, data)?;
        let mut values = Vec::new();
        codec::decode(&mut cursor, times.len(), Packing::Pco, &mut values)?;
        Ok((times, values))
    }

    /// The time stamps of a chunk, and its values as they are encoded; its checksum is right.
    pub(crate) fn open<'d>(
        &mut self,
        connection: &Connection,
        level: Level,
        (window, id): (i64, u32),
        data: &'d [u8],
    ) -> Result<(Arc<[i64]>, Cursor<'d>), ChunkError> {
        let mut cursor = Cursor::new(checked(row(window, id), data)?);
        let times = match cursor.u8()? {
            OWN_TIMES => {
                let before = cursor;
                let known =
                    if timecolumn::skip_regular(&mut cursor)? { self.own.get(before.until(&cursor)) } else { None };
                if let Some(times) = known {
                    Arc::clone(times)
                } else {
                    cursor = before;
                    let times = timecolumn::decode(&mut cursor, Packing::Pco)?;
                    self.own.insert(before.until(&cursor).to_vec(), Arc::clone(&times));
                    times
                }
            }
            SHARED_TIMES => self.shared(connection, level, row(window, cursor.varint_u32()?))?,
            _ => return Err(Damaged("its time column is of an unknown kind").into()),
        };
        Ok((times, cursor))
    }

    fn shared(&mut self, connection: &Connection, level: Level, id: i64) -> Result<Arc<[i64]>, ChunkError> {
        if let Some(times) = self.shared.get(&(level, id)) {
            return Ok(Arc::clone(times));
        }
        let bytes: Vec<u8> = connection
            .prepare_cached(&format!("SELECT data FROM {} WHERE id = ?1", level.times()))?
            .query_row([id], |r| r.get(0))
            .optional()?
            .ok_or(Damaged("its time column is missing"))?;
        let times = timecolumn::decode(&mut Cursor::new(checked(id, &bytes)?), Packing::Pco)?;
        self.shared.insert((level, id), Arc::clone(&times));
        Ok(times)
    }
}
