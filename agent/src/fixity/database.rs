//! Known digests: of every object its path, size and BLAKE3, when it was last verified and what was wrong with it; of every
//! storage how far its pass is. One SQLite file, read and written a few rows at a time.
//!
//! Invariants: memory does not grow with objects; a commit is on disk; the digest of an object never changes but by
//! [`Database::accept`]. What it deliberately does not do: read the objects.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::database::{self, DatabaseError};

/// Its name in the state directory.
pub const FILE: &str = "fixity.db";
const SCHEMA: &str = "
    CREATE TABLE storage (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        root BLOB NOT NULL,
        copies TEXT, -- storages with the same have copies of one another's objects
        pass INTEGER NOT NULL DEFAULT 0,
        running INTEGER NOT NULL DEFAULT 0,
        started_ms INTEGER NOT NULL DEFAULT 0,
        finished_ms INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0, -- read in this pass
        new INTEGER NOT NULL DEFAULT 0 -- objects of this pass that were seen for the first time
    ) STRICT;
    CREATE TABLE object (
        storage INTEGER NOT NULL,
        path BLOB NOT NULL, -- relative to the storage
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        blake3 BLOB NOT NULL,
        verified_ms INTEGER NOT NULL,
        pass INTEGER NOT NULL, -- that looked at it last
        state INTEGER NOT NULL, -- see Outcome
        reason TEXT,
        PRIMARY KEY (storage, path)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX object_verified ON object (storage, verified_ms) WHERE state = 0;
    CREATE INDEX object_wrong ON object (storage) WHERE state != 0;
    CREATE TABLE manifest (
        storage INTEGER NOT NULL,
        path BLOB NOT NULL,
        digest BLOB NOT NULL, -- 32 bytes of SHA-256 or 64 of SHA-512
        PRIMARY KEY (storage, path, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE manifest_file (
        storage INTEGER NOT NULL,
        path BLOB NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        PRIMARY KEY (storage, path)
    ) STRICT, WITHOUT ROWID;
";

/// What came of looking at an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was.
    Good = 0,
    /// Other bytes.
    Mismatch = 1,
    /// Gone.
    Missing = 2,
    /// Unreadable.
    Failed = 3,
}

impl Outcome {
    /// As in events and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Mismatch => "mismatch",
            Self::Missing => "missing",
            Self::Failed => "error",
        }
    }

    fn from_number(number: i64) -> Self {
        match number {
            1 => Self::Mismatch,
            2 => Self::Missing,
            3 => Self::Failed,
            _ => Self::Good,
        }
    }
}

/// A storage and how far its pass is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageRow {
    /// Its number here.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub root: Vec<u8>,
    /// Storages with the same have copies of one another's objects.
    pub copies: Option<String>,
    /// Counts passes, from 1.
    pub pass: u64,
    /// Whether the pass is under way.
    pub is_running: bool,
    /// When it began, in milliseconds since the epoch.
    pub started_ms: i64,
    /// When the last one that was finished ended.
    pub finished_ms: i64,
    /// Bytes read in it.
    pub bytes: u64,
    /// Objects that it saw for the first time.
    pub new: u64,
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to the storage.
    pub path: Vec<u8>,
    /// Its size.
    pub size: u64,
    /// When it was changed, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// What it must be.
    pub blake3: [u8; 32],
    /// When it last was that.
    pub verified_ms: i64,
    /// The pass that looked at it last.
    pub pass: u64,
    /// What that found.
    pub outcome: Outcome,
    /// Why it is not good, in a word.
    pub reason: Option<String>,
}

/// The path of an object and a storage that has a copy of it.
pub type CopyAt = (Vec<u8>, String);

/// How many objects of a storage are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that are known.
    pub objects: u64,
    /// As they were.
    pub good: u64,
    /// With other bytes.
    pub mismatch: u64,
    /// Gone.
    pub missing: u64,
    /// Unreadable.
    pub failed: u64,
}

const OBJECT: &str = "path, size, mtime_ns, blake3, verified_ms, pass, state, reason";

fn object(row: &rusqlite::Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object {
        path: row.get(0)?,
        size: row.get::<_, i64>(1)? as u64,
        mtime_ns: row.get(2)?,
        blake3: row.get(3)?,
        verified_ms: row.get(4)?,
        pass: row.get::<_, i64>(5)? as u64,
        outcome: Outcome::from_number(row.get(6)?),
        reason: row.get(7)?,
    })
}

const STORAGE: &str = "id, name, root, copies, pass, running, started_ms, finished_ms, bytes, new";

fn storage(row: &rusqlite::Row<'_>) -> rusqlite::Result<StorageRow> {
    Ok(StorageRow {
        id: row.get(0)?,
        name: row.get(1)?,
        root: row.get(2)?,
        copies: row.get(3)?,
        pass: row.get::<_, i64>(4)? as u64,
        is_running: row.get::<_, i64>(5)? != 0,
        started_ms: row.get(6)?,
        finished_ms: row.get(7)?,
        bytes: row.get::<_, i64>(8)? as u64,
        new: row.get::<_, i64>(9)? as u64,
    })
}

type Result<T> = std::result::Result<T, DatabaseError>;

/// The database. Each thread opens its own.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub fn open(path: &Path) -> Result<Self> {
        let connection = database::open(path, 2048, &[SCHEMA])?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does `work` in one transaction that is on disk when this returns.
    ///
    /// # Errors
    /// What SQLite says; nothing of it happened then.
    pub fn write<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        match work(self) {
            Ok(value) => {
                self.connection.execute_batch("COMMIT")?;
                Ok(value)
            }
            Err(error) => {
                self.connection.execute_batch("ROLLBACK")?;
                Err(error)
            }
        }
    }

    /// The storage of that name, made where it is new.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn storage(&self, name: &str, root: &[u8], copies: Option<&str>) -> Result<StorageRow> {
        let sql = "INSERT INTO storage (name, root, copies) VALUES (?1, ?2, ?3)
                   ON CONFLICT (name) DO UPDATE SET root = excluded.root, copies = excluded.copies";
        self.connection.execute(sql, params![name, root, copies])?;
        let sql = format!("SELECT {STORAGE} FROM storage WHERE name = ?1");
        Ok(self.connection.query_row(&sql, [name], storage)?)
    }

    /// Every storage, by name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn storages(&self) -> Result<Vec<StorageRow>> {
        let mut statement = self.connection.prepare(&format!("SELECT {STORAGE} FROM storage ORDER BY name"))?;
        let rows = statement.query_map([], storage)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Keeps how far the pass of a storage is.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep_storage(&self, s: &StorageRow) -> Result<()> {
        let sql = "UPDATE storage SET pass = ?2, running = ?3, started_ms = ?4, finished_ms = ?5, bytes = ?6, new = ?7
                   WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (pass, bytes, new) = (s.pass as i64, s.bytes as i64, s.new as i64);
        statement.execute(params![s.id, pass, s.is_running, s.started_ms, s.finished_ms, bytes, new])?;
        Ok(())
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn object(&self, storage: i64, path: &[u8]) -> Result<Option<Object>> {
        let sql = format!("SELECT {OBJECT} FROM object WHERE storage = ?1 AND path = ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![storage, path], object).optional()?)
    }

    /// Keeps what was found of an object.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep(&self, storage: i64, o: &Object) -> Result<()> {
        let sql =
            format!("INSERT OR REPLACE INTO object (storage, {OBJECT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement.execute(params![
            storage,
            o.path,
            o.size as i64,
            o.mtime_ns,
            o.blake3,
            o.verified_ms,
            o.pass as i64,
            o.outcome as i64,
            o.reason
        ])?;
        Ok(())
    }

    /// Objects after `after` that the pass `pass` has not seen.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn unseen(&self, storage: i64, pass: u64, after: &[u8], most: usize) -> Result<Vec<Object>> {
        let sql = format!(
            "SELECT {OBJECT} FROM object WHERE storage = ?1 AND path > ?2 AND pass < ?3 ORDER BY path LIMIT ?4"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![storage, after, pass as i64, most as i64], object)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Objects that are not as they were, by path.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn wrong(&self, storage: i64, most: usize) -> Result<Vec<Object>> {
        let sql = format!("SELECT {OBJECT} FROM object WHERE storage = ?1 AND state != 0 ORDER BY path LIMIT ?2");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(params![storage, most as i64], object)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many objects are in which state. Reads the index of a storage once.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn counts(&self, storage: i64) -> Result<Counts> {
        let count = |condition: &str| -> Result<u64> {
            let sql = format!("SELECT count(*) FROM object WHERE storage = ?1 AND {condition}");
            Ok(self.connection.query_row(&sql, [storage], |row| row.get::<_, i64>(0))? as u64)
        };
        let (good, mismatch) = (count("state = 0")?, count("state != 0 AND state = 1")?);
        let (missing, failed) = (count("state != 0 AND state = 2")?, count("state != 0 AND state = 3")?);
        Ok(Counts { objects: good + mismatch + missing + failed, good, mismatch, missing, failed })
    }

    /// When the good object that waits longest was last verified.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn oldest_verified_ms(&self, storage: i64) -> Result<Option<i64>> {
        let sql = "SELECT min(verified_ms) FROM object WHERE storage = ?1 AND state = 0";
        Ok(self.connection.query_row(sql, [storage], |row| row.get(0))?)
    }

    /// A storage with copies of this one's objects that has `path` as `blake3`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn good_copy(&self, of: &StorageRow, path: &[u8], blake3: &[u8; 32]) -> Result<Option<String>> {
        let sql = "SELECT storage.name FROM storage JOIN object ON object.storage = storage.id
                   WHERE storage.copies = ?1 AND storage.id != ?2 AND object.path = ?3 AND object.blake3 = ?4
                   AND object.state = 0 ORDER BY storage.name LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_row(params![of.copies, of.id, path, blake3], |row| row.get(0));
        Ok(found.optional()?)
    }

    /// Objects that have other bytes than their copies on another storage: path and that storage's name, and how many.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn differing_copies(&self, of: &StorageRow, most: usize) -> Result<(Vec<CopyAt>, u64)> {
        let from = "FROM object mine JOIN storage other ON other.copies = ?1 AND other.id != ?2
                    JOIN object theirs ON theirs.storage = other.id AND theirs.path = mine.path
                    WHERE mine.storage = ?2 AND mine.blake3 != theirs.blake3 AND mine.state != 2 AND theirs.state != 2";
        let sql = format!("SELECT mine.path, other.name {from} ORDER BY mine.path LIMIT ?3");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(params![of.copies, of.id, most as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let list = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let sql = format!("SELECT count(*) {from}");
        let count: i64 = self.connection.query_row(&sql, params![of.copies, of.id], |row| row.get(0))?;
        Ok((list, count as u64))
    }

    /// Forgets the digests of an object, or of all below a folder: the next pass takes them as they are. Gives how many.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn accept(&self, storage: i64, path: &[u8]) -> Result<usize> {
        let (mut below, mut end) = (path.to_vec(), path.to_vec());
        below.push(b'/');
        end.push(b'/' + 1);
        let sql = "DELETE FROM object WHERE storage = ?1 AND (path = ?2 OR (path > ?3 AND path < ?4))";
        Ok(self.connection.execute(sql, params![storage, path, below, end])?)
    }

    /// Whether a manifest was read already, as it is.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn has_manifest(&self, storage: i64, path: &[u8], size: u64, mtime_ns: i64) -> Result<bool> {
        let sql = "SELECT 1 FROM manifest_file WHERE storage = ?1 AND path = ?2 AND size = ?3 AND mtime_ns = ?4";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.exists(params![storage, path, size as i64, mtime_ns])?)
    }

    /// A manifest was read.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep_manifest(&self, storage: i64, path: &[u8], size: u64, mtime_ns: i64) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO manifest_file (storage, path, size, mtime_ns) VALUES (?1, ?2, ?3, ?4)";
        self.connection.execute(sql, params![storage, path, size as i64, mtime_ns])?;
        Ok(())
    }

    /// What a manifest says an object must be.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep_expected(&self, storage: i64, path: &[u8], digest: &[u8]) -> Result<()> {
        let old = "DELETE FROM manifest WHERE storage = ?1 AND path = ?2 AND length(digest) = ?3";
        self.connection.prepare_cached(old)?.execute(params![storage, path, digest.len() as i64])?;
        let sql = "INSERT INTO manifest (storage, path, digest) VALUES (?1, ?2, ?3)";
        self.connection.prepare_cached(sql)?.execute(params![storage, path, digest])?;
        Ok(())
    }

    /// What manifests say an object must be.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn expected(&self, storage: i64, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let sql = "SELECT digest FROM manifest WHERE storage = ?1 AND path = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![storage, path], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
