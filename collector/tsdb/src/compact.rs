//! Writes the database of a store that nobody has open anew, so that it has no free pages and can give back what gets free
//! later: files made before format 5 can't otherwise.
//!
//! Invariants: the new file is whole, checked and synced before it takes the old one's name, in one step; cut anywhere
//! before, the old file is what it was, and what was begun is removed by the next call. Nothing but the layout changes.
//! What it deliberately does not do: run beside a collector. It needs the room of a second database.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::chunks::PAGE_BYTES;
use crate::chunks::VERSION;
use crate::log::sync_dir;
use crate::room::free_bytes;
use crate::store::hold;
use crate::{BackupProgress, OpenError};

/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// What SQLite's estimate of the new file may fall short by: a part of 16, and room for the rest of the system.
const ROOM_PART: u64 = 16;
const ROOM_BYTES: u64 = 16 << 20;
/// `auto_vacuum` that gives pages back when asked to.
const INCREMENTAL: i64 = 2;

/// Why a database was not written anew. It is what it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// The store can't be taken.
    #[error("cannot use the store")]
    Open(#[from] OpenError),
    /// A second database does not fit.
    #[error(
        "cannot write {} anew: {needed} bytes are needed beside it and {free} are free; make room, or move the data directory",
        path.display()
    )]
    Room {
        /// The database.
        path: PathBuf,
        /// What is needed at most.
        needed: u64,
        /// What the file system has.
        free: u64,
    },
    /// The database can't be read or written.
    #[error("cannot write database {} anew", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// What was written is not what was read.
    #[error("cannot use {}: {detail}; the disk may be failing, and `verify` tells whether the old file is whole", path.display())]
    Check {
        /// The new file.
        path: PathBuf,
        /// What SQLite says of it.
        detail: String,
    },
    /// A file can't be written.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Whoever watched it ended it.
    #[error("it was stopped before its end")]
    Stopped,
}

/// What became of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the file before.
    pub before_bytes: u64,
    /// Bytes of it now.
    pub after_bytes: u64,
}

/// Whether the database of the store in `dir` can give pages back. Reads its first page, also beside a collector.
///
/// # Errors
/// [`CompactError::Database`].
pub fn can_shrink(dir: &Path) -> Result<bool, CompactError> {
    let path = dir.join("chunks.db");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let asked = Connection::open_with_flags(&path, flags).and_then(|connection| number(&connection, "auto_vacuum"));
    asked.map(|mode| mode == INCREMENTAL).map_err(|source| CompactError::Database { path, source })
}

/// Writes the database of the store in `dir`, which no process has open, anew. `watch` hears of the progress and may end
/// it.
///
/// # Errors
/// [`CompactError`]; the database is what it was.
pub fn compact(
    dir: &Path,
    watch: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<Compacted, CompactError> {
    let _held = hold(dir)?;
    let (path, part) = (dir.join("chunks.db"), dir.join("chunks.db.part"));
    let database = |source| CompactError::Database { path: path.clone(), source };
    let written = |source| CompactError::Io { path: part.clone(), source };
    remove(&part).map_err(written)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(database)?;
    let found = number(&connection, "user_version").map_err(database)?;
    if found > i64::from(VERSION) {
        return Err(OpenError::Newer { path, found: found as u32, known: VERSION }.into());
    }
    let total_bytes = used_bytes(&connection).map_err(database)?;
    let (needed, free) = (total_bytes + total_bytes / ROOM_PART + ROOM_BYTES, free_bytes(dir));
    if free < needed {
        return Err(CompactError::Room { path, needed, free });
    }
    let connection = write_anew(connection, &part, total_bytes, watch).inspect_err(|_| drop(remove(&part)))?;
    let before_bytes = fs::metadata(&path).map_err(|source| CompactError::Io { path: path.clone(), source })?.len();
    // Whatever the old file's write-ahead log has is in the new file, which must not be taken for its.
    connection.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).map_err(database)?;
    connection.close().map_err(|(_, source)| database(source))?;
    let replaced = (|| {
        let file = File::open(&part)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        sync_dir(dir)?;
        file.metadata()
    })();
    Ok(Compacted { before_bytes, after_bytes: replaced.map_err(written)?.len() })
}

/// Writes and checks the new file; gives the old one's connection back.
fn write_anew(
    connection: Connection,
    part: &Path,
    total_bytes: u64,
    watch: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<Connection, CompactError> {
    let database = |source| CompactError::Database { path: part.to_owned(), source };
    let interrupt = connection.get_interrupt_handle();
    let (sender, receiver) = sync_channel(1);
    let into = part.to_owned();
    let (connection, outcome, stopped) = std::thread::scope(|scope| {
        scope.spawn(move || {
            let outcome = (|| {
                connection.execute_batch(&format!("PRAGMA auto_vacuum=INCREMENTAL; PRAGMA page_size={PAGE_BYTES}"))?;
                let name = into.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(into.clone()))?;
                connection.execute("VACUUM INTO ?1", [name])?;
                let fresh = Connection::open(&into)?;
                let check: String = fresh.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                Ok((check, number(&fresh, "auto_vacuum")?))
            })();
            // Nobody waits any more where the other side panicked.
            drop(sender.send((connection, outcome)));
        });
        let mut stopped = false;
        loop {
            match receiver.recv_timeout(TELL_EVERY) {
                Ok((connection, outcome)) => return (Some(connection), outcome, stopped),
                Err(RecvTimeoutError::Timeout) => {
                    let done_bytes = fs::metadata(part).map_or(0, |file| file.len()).min(total_bytes);
                    if !stopped && watch(BackupProgress { done_bytes, total_bytes }).is_break() {
                        stopped = true;
                        interrupt.interrupt();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return (None, Err(rusqlite::Error::InvalidQuery), stopped),
            }
        }
    });
    if stopped {
        return Err(CompactError::Stopped);
    }
    let (check, mode) = outcome.map_err(database)?;
    if check != "ok" || mode != INCREMENTAL {
        let detail = if check == "ok" { "it can't shrink".to_owned() } else { check };
        return Err(CompactError::Check { path: part.to_owned(), detail });
    }
    connection.ok_or_else(|| database(rusqlite::Error::InvalidQuery))
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
}

fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    crate::chunks::Chunks::used_bytes(connection)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
