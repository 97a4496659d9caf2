//! What the agent remembers of a digitization, in one SQLite file: the files it counted, what it has to tell, how far it read.
//!
//! Invariants: what is remembered of a file and the event about it are in one transaction that is on disk when it returns, so
//! that no crash tells an image twice or not at all; an event stays until the collector has it on disk. Paths stay here.
//! What it deliberately does not do: decide anything; look at the files.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::database::{self, DatabaseError};

/// Its name in the state directory.
pub const FILE: &str = "digitization.db";

const SCHEMA: &str = "
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: what was acknowledged stays gone
        event TEXT NOT NULL -- one CloudEvent, JSON
    ) STRICT;
    CREATE TABLE file (
        folder TEXT NOT NULL,
        dir BLOB NOT NULL, -- relative to the folder
        name BLOB NOT NULL,
        ino INTEGER NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        sample INTEGER NOT NULL, -- 8 bytes of BLAKE3 of some parts; 0 where it was not read
        digest BLOB, -- BLAKE3 of all of it, where that was needed
        state INTEGER NOT NULL, -- see State
        frames INTEGER NOT NULL,
        unit TEXT NOT NULL,
        batch TEXT,
        station TEXT,
        generation INTEGER NOT NULL, -- how often it was told under another unit
        gone_ms INTEGER, -- since when it is not there
        PRIMARY KEY (folder, dir, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX file_ino ON file (ino);
    CREATE INDEX file_sample ON file (sample, size) WHERE sample != 0;
    CREATE TABLE tally ( -- what counters count, over restarts
        name TEXT NOT NULL,
        label TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (name, label)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE csv_file (
        export TEXT NOT NULL,
        path BLOB NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        offset INTEGER NOT NULL, -- bytes whose rows are told
        line INTEGER NOT NULL, -- the line that begins there
        head BLOB NOT NULL, -- BLAKE3 of the first bytes: another file begins otherwise
        head_bytes INTEGER NOT NULL,
        header TEXT NOT NULL, -- the first line, JSON
        PRIMARY KEY (export, path)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE csv_row ( -- how often the same row is in a file, so that a repeat of it is a row of its own
        export TEXT NOT NULL,
        path BLOB NOT NULL,
        row BLOB NOT NULL, -- 16 bytes of BLAKE3
        count INTEGER NOT NULL,
        PRIMARY KEY (export, path, row)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE problem ( -- for a person on this machine; the latest of each place
        source TEXT NOT NULL,
        place TEXT NOT NULL,
        what TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (source, place)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE package (
        delivery TEXT NOT NULL,
        path BLOB NOT NULL,
        shape INTEGER NOT NULL, -- 8 bytes of BLAKE3 of every name, size and time in it
        PRIMARY KEY (delivery, path)
    ) STRICT, WITHOUT ROWID;
";

/// What version 2 has beside it.
const UPGRADE: &str = "
    ALTER TABLE file ADD COLUMN hashes BLOB; -- what its images look like, where that was asked for
    CREATE INDEX file_seen ON file (folder, unit, mtime_ns) WHERE hashes IS NOT NULL;
";

/// Problems that are kept for a person.
const MAX_PROBLEMS: i64 = 10_000;
/// Bytes and events of one message to the collector.
const MESSAGE_BYTES: usize = 256 << 10;
const MESSAGE_EVENTS: usize = 1000;
/// Events that may wait. Files wait where they are when there are more: nothing is lost.
pub const MAX_WAITING: u64 = 200_000;

/// What was made of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its images count.
    Counted = 0,
    /// It has the content of another and does not count.
    Duplicate = 1,
    /// It is not whole, or no image, and that was told.
    Refused = 2,
    /// It counted, is gone, and that was told.
    Deleted = 3,
}

impl State {
    fn from_number(number: i64) -> Self {
        match number {
            1 => Self::Duplicate,
            2 => Self::Refused,
            3 => Self::Deleted,
            _ => Self::Counted,
        }
    }
}

/// A file that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its folder, relative to the hot folder, as the system has it.
    pub dir: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Its file id.
    pub ino: u64,
    /// Its size.
    pub size: u64,
    /// When it was changed, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// 8 bytes of BLAKE3 of some of its parts; 0 where it was not read.
    pub sample: i64,
    /// BLAKE3 of all of it, where that was needed.
    pub digest: Option<[u8; 32]>,
    /// What was made of it.
    pub state: State,
    /// Images in it.
    pub frames: u32,
    /// Whose images.
    pub unit: String,
    /// In which batch.
    pub batch: Option<String>,
    /// From which station.
    pub station: Option<String>,
    /// How often it was told under another unit.
    pub generation: u32,
    /// Since when it is not there, in milliseconds since the epoch.
    pub gone_ms: Option<i64>,
    /// What its images look like, one hash after the other, where that was asked for.
    pub hashes: Option<Vec<u8>>,
}

const COLUMNS: &str =
    "dir, name, ino, size, mtime_ns, sample, digest, state, frames, unit, batch, station, generation, gone_ms, hashes";

fn known(row: &rusqlite::Row<'_>) -> rusqlite::Result<Known> {
    Ok(Known {
        dir: row.get(0)?,
        name: row.get(1)?,
        ino: row.get::<_, i64>(2)? as u64,
        size: row.get::<_, i64>(3)? as u64,
        mtime_ns: row.get(4)?,
        sample: row.get(5)?,
        digest: row.get(6)?,
        state: State::from_number(row.get(7)?),
        frames: row.get(8)?,
        unit: row.get(9)?,
        batch: row.get(10)?,
        station: row.get(11)?,
        generation: row.get(12)?,
        gone_ms: row.get(13)?,
        hashes: row.get(14)?,
    })
}

/// The database. Each thread opens its own.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    dir: PathBuf,
}

impl Store {
    /// Opens or makes the database in `state_dir`.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub fn open(state_dir: &Path) -> Result<Self, DatabaseError> {
        let connection = database::open(&state_dir.join(FILE), 512, &[SCHEMA, UPGRADE])?;
        Ok(Self { connection, dir: state_dir.to_owned() })
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Does `work` in one transaction that is on disk when this returns.
    ///
    /// # Errors
    /// What SQLite says; nothing of it happened then.
    pub fn write<T>(&mut self, work: impl FnOnce(&Changes<'_>) -> rusqlite::Result<T>) -> Result<T, DatabaseError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&Changes(&transaction))?;
        transaction.commit()?;
        Ok(result)
    }

    /// What is known of the file of that name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn file(&self, folder: &str, dir: &[u8], name: &[u8]) -> Result<Option<Known>, DatabaseError> {
        let sql = format!("SELECT {COLUMNS} FROM file WHERE folder = ?1 AND dir = ?2 AND name = ?3");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![folder, dir, name], known).optional()?)
    }

    /// Files of that file id.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn by_id(&self, folder: &str, ino: u64) -> Result<Vec<Known>, DatabaseError> {
        let sql = format!("SELECT {COLUMNS} FROM file WHERE ino = ?1 AND folder = ?2 LIMIT 100");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![ino as i64, folder], known)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Files of that size and sample.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn by_sample(&self, folder: &str, sample: i64, size: u64) -> Result<Vec<Known>, DatabaseError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM file WHERE sample = ?1 AND sample != 0 AND size = ?2 AND folder = ?3 LIMIT 100"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![sample, size as i64, folder], known)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What the images of the latest files of a unit look like, but for the file of that name; the latest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn looks_of(&self, folder: &str, but: &Known, most: usize) -> Result<Vec<Vec<u8>>, DatabaseError> {
        let sql = "SELECT hashes FROM file WHERE folder = ?1 AND unit = ?2 AND hashes IS NOT NULL
                   AND NOT (dir = ?3 AND name = ?4) ORDER BY mtime_ns DESC LIMIT ?5";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![folder, but.unit, but.dir, but.name, most as i64], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Names of the files of a folder that were there when they were last looked for.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn present(&self, folder: &str, dir: &[u8]) -> Result<Vec<Vec<u8>>, DatabaseError> {
        let sql = "SELECT name FROM file WHERE folder = ?1 AND dir = ?2 AND gone_ms IS NULL";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![folder, dir], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The first folder after `after` that has files.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn next_dir(&self, folder: &str, after: Option<&[u8]>) -> Result<Option<Vec<u8>>, DatabaseError> {
        // The least blob is the empty one, which is the folder itself.
        let sql = match after {
            Some(_) => "SELECT min(dir) FROM file WHERE folder = ?1 AND dir > ?2",
            None => "SELECT min(dir) FROM file WHERE folder = ?1 AND dir >= ?2",
        };
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![folder, after.unwrap_or_default()], |row| row.get(0))?)
    }

    /// Counted files that are gone since before `before_ms`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn gone(&self, folder: &str, before_ms: i64, most: usize) -> Result<Vec<Known>, DatabaseError> {
        let sql = format!("SELECT {COLUMNS} FROM file WHERE folder = ?1 AND gone_ms < ?2 AND state = 0 LIMIT ?3");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(params![folder, before_ms, most as i64], known)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Files of that state.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn count(&self, folder: &str, state: State) -> Result<u64, DatabaseError> {
        let sql = "SELECT count(*) FROM file WHERE folder = ?1 AND state = ?2 AND gone_ms IS NULL";
        let count: i64 = self.connection.query_row(sql, params![folder, state as i64], |row| row.get(0))?;
        Ok(count as u64)
    }

    /// What the counter `name` counted, by label.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tallies(&self, name: &str) -> Result<Vec<(String, u64)>, DatabaseError> {
        let mut statement = self.connection.prepare("SELECT label, count FROM tally WHERE name = ?1 ORDER BY label")?;
        let rows = statement.query_map([name], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Events that wait for the collector.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn waiting(&self) -> Result<u64, DatabaseError> {
        // Numbers are given in order and taken away from the front: no need to count.
        let sql = "SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM outbox";
        Ok(self.connection.query_row(sql, [], |row| row.get::<_, i64>(0))? as u64)
    }

    /// The oldest events as one message, and the number of the last of them.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn message(&self) -> Result<Option<(i64, String)>, DatabaseError> {
        let mut statement = self.connection.prepare_cached("SELECT seq, event FROM outbox ORDER BY seq LIMIT ?1")?;
        let mut rows = statement.query([MESSAGE_EVENTS as i64])?;
        let (mut body, mut last) = (String::new(), 0);
        while let Some(row) = rows.next()? {
            let event = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            if !body.is_empty() && body.len() + event.len() > MESSAGE_BYTES {
                break;
            }
            body.push(if body.is_empty() { '[' } else { ',' });
            body.push_str(event);
            last = row.get(0)?;
        }
        Ok((!body.is_empty()).then(|| (last, body + "]")))
    }

    /// The collector has everything up to `last`.
    ///
    /// # Errors
    /// What SQLite says; it is told again then, which changes nothing.
    pub fn settle(&mut self, last: i64) -> Result<(), DatabaseError> {
        self.write(|changes| changes.0.execute("DELETE FROM outbox WHERE seq <= ?1", [last]).map(drop))
    }

    /// What is wrong, for a person: source, place, what, when.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn problems(&self) -> Result<Vec<(String, String, String, i64)>, DatabaseError> {
        let sql = "SELECT source, place, what, at_ms FROM problem ORDER BY at_ms DESC, place";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How far an export's file was read.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn csv_file(&self, export: &str, path: &[u8]) -> Result<Option<CsvFile>, DatabaseError> {
        let sql = "SELECT size, mtime_ns, offset, line, head, head_bytes, header FROM csv_file
                   WHERE export = ?1 AND path = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_row(params![export, path], |row| {
            let header: Vec<String> = serde_json::from_str(row.get_ref(6)?.as_str()?).unwrap_or_default();
            Ok(CsvFile {
                size: row.get::<_, i64>(0)? as u64,
                mtime_ns: row.get(1)?,
                offset: row.get::<_, i64>(2)? as u64,
                line: row.get::<_, i64>(3)? as u64,
                head: row.get(4)?,
                head_bytes: row.get::<_, i64>(5)? as u64,
                header,
            })
        });
        Ok(found.optional()?)
    }

    /// The shape that a package had when it was checked.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn package(&self, delivery: &str, path: &[u8]) -> Result<Option<i64>, DatabaseError> {
        let sql = "SELECT shape FROM package WHERE delivery = ?1 AND path = ?2";
        Ok(self.connection.query_row(sql, params![delivery, path], |row| row.get(0)).optional()?)
    }
}

/// How far an export's file was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvFile {
    /// Its size then.
    pub size: u64,
    /// When it was changed.
    pub mtime_ns: i64,
    /// Bytes whose rows are told.
    pub offset: u64,
    /// The line that begins there, from 1.
    pub line: u64,
    /// BLAKE3 of its first `head_bytes`.
    pub head: Vec<u8>,
    /// Bytes of which `head` is.
    pub head_bytes: u64,
    /// Names of its columns.
    pub header: Vec<String>,
}

/// One transaction.
#[derive(Debug)]
pub struct Changes<'a>(&'a Transaction<'a>);

impl Changes<'_> {
    /// Has `event` told.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tell(&self, event: &str) -> rusqlite::Result<()> {
        self.0.prepare_cached("INSERT INTO outbox (event) VALUES (?1)")?.execute([event]).map(drop)
    }

    /// Remembers a file, instead of what was known under its name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep(&self, folder: &str, file: &Known) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT OR REPLACE INTO file (folder, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        );
        let row = params![
            folder,
            file.dir,
            file.name,
            file.ino as i64,
            file.size as i64,
            file.mtime_ns,
            file.sample,
            file.digest,
            file.state as i64,
            file.frames,
            file.unit,
            file.batch,
            file.station,
            file.generation,
            file.gone_ms,
            file.hashes
        ];
        self.0.prepare_cached(&sql)?.execute(row).map(drop)
    }

    /// Forgets a file.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget(&self, folder: &str, dir: &[u8], name: &[u8]) -> rusqlite::Result<()> {
        let sql = "DELETE FROM file WHERE folder = ?1 AND dir = ?2 AND name = ?3";
        self.0.prepare_cached(sql)?.execute(params![folder, dir, name]).map(drop)
    }

    /// A file is not there.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn miss(&self, folder: &str, dir: &[u8], name: &[u8], now_ms: i64) -> rusqlite::Result<()> {
        let sql = "UPDATE file SET gone_ms = ?4 WHERE folder = ?1 AND dir = ?2 AND name = ?3 AND gone_ms IS NULL";
        self.0.prepare_cached(sql)?.execute(params![folder, dir, name, now_ms]).map(drop)
    }

    /// Every file of a folder is not there. Gives how many were.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn miss_dir(&self, folder: &str, dir: &[u8], now_ms: i64) -> rusqlite::Result<usize> {
        let sql = "UPDATE file SET gone_ms = ?3 WHERE folder = ?1 AND dir = ?2 AND gone_ms IS NULL";
        self.0.execute(sql, params![folder, dir, now_ms])
    }

    /// Forgets files that are gone since before `before_ms`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget_gone(&self, folder: &str, before_ms: i64) -> rusqlite::Result<usize> {
        self.0.execute("DELETE FROM file WHERE folder = ?1 AND gone_ms < ?2", params![folder, before_ms])
    }

    /// Adds to the counter `name`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn add(&self, name: &str, label: &str, count: u64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO tally (name, label, count) VALUES (?1, ?2, ?3)
                   ON CONFLICT (name, label) DO UPDATE SET count = count + excluded.count";
        self.0.prepare_cached(sql)?.execute(params![name, label, count as i64]).map(drop)
    }

    /// Remembers how far an export's file was read.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep_csv(&self, export: &str, path: &[u8], file: &CsvFile) -> rusqlite::Result<()> {
        let header = serde_json::to_string(&file.header).unwrap_or_default();
        let sql =
            "INSERT OR REPLACE INTO csv_file (export, path, size, mtime_ns, offset, line, head, head_bytes, header)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let row = params![
            export,
            path,
            file.size as i64,
            file.mtime_ns,
            file.offset as i64,
            file.line as i64,
            file.head,
            file.head_bytes as i64,
            header
        ];
        self.0.prepare_cached(sql)?.execute(row).map(drop)
    }

    /// Forgets the rows of an export's file, which is read from its beginning.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget_rows(&self, export: &str, path: &[u8]) -> rusqlite::Result<()> {
        self.0.execute("DELETE FROM csv_row WHERE export = ?1 AND path = ?2", params![export, path]).map(drop)
    }

    /// Counts a row of an export's file; gives how often the same was there before.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn repeats(&self, export: &str, path: &[u8], row: &[u8]) -> rusqlite::Result<u32> {
        let sql = "INSERT INTO csv_row (export, path, row, count) VALUES (?1, ?2, ?3, 1)
                   ON CONFLICT (export, path, row) DO UPDATE SET count = count + 1 RETURNING count";
        let count: u32 = self.0.prepare_cached(sql)?.query_row(params![export, path, row], |row| row.get(0))?;
        Ok(count - 1)
    }

    /// Keeps what is wrong for a person; the oldest goes where there is too much.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn note(&self, source: &str, place: &str, what: &str, now_ms: i64) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO problem (source, place, what, at_ms) VALUES (?1, ?2, ?3, ?4)";
        self.0.prepare_cached(sql)?.execute(params![source, place, what, now_ms])?;
        let count: i64 = self.0.prepare_cached("SELECT count(*) FROM problem")?.query_row([], |row| row.get(0))?;
        if count > MAX_PROBLEMS {
            let oldest = "DELETE FROM problem WHERE (source, place) IN
                          (SELECT source, place FROM problem ORDER BY at_ms LIMIT 100)";
            self.0.execute(oldest, [])?;
        }
        Ok(())
    }

    /// What was wrong at a place is so no more.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn mended(&self, source: &str, place: &str) -> rusqlite::Result<()> {
        let sql = "DELETE FROM problem WHERE source = ?1 AND place = ?2";
        self.0.prepare_cached(sql)?.execute(params![source, place]).map(drop)
    }

    /// Remembers the shape of a package that was checked.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep_package(&self, delivery: &str, path: &[u8], shape: i64) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO package (delivery, path, shape) VALUES (?1, ?2, ?3)";
        self.0.execute(sql, params![delivery, path, shape]).map(drop)
    }
}
