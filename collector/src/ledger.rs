//! The ledger: one SQLite file for everything that is not a sample. Agents, tokens, alert state, notifications,
//! users, status history, digitization events.
//!
//! Invariants: a write that returned is on disk (`synchronous=FULL`); the schema moves forward only, one numbered
//! step at a time. Each module owns its tables and writes its own statements; this file owns the connection.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

/// The ledger's schema, one step per version. A step never changes once released: add the next one.
const MIGRATIONS: &[&str] = &[
    crate::ingest::SCHEMA,
    crate::alerting::SCHEMA,
    crate::status::SCHEMA,
    crate::web::SCHEMA,
    crate::digitization::SCHEMA,
    crate::digitization::CHECKPOINT_SCHEMA,
    crate::digitization::REPORT_SCHEMA,
    crate::digitization::TIME_SCHEMA,
    crate::fleet::SCHEMA,
    crate::digitization::PRIVACY_SCHEMA,
    crate::digitization::PROVENANCE_SCHEMA,
    crate::digitization::WORKFLOW_SCHEMA,
];

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file can't be opened as a database.
    #[error("cannot open ledger {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A newer program wrote it.
    #[error("ledger {} has schema version {found}, this program knows {known}; use the newer program", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// A statement failed.
    #[error("cannot use the ledger")]
    Statement(#[from] rusqlite::Error),
}

/// The ledger. Cloning shares it.
#[derive(Clone)]
pub struct Ledger {
    connection: Arc<Mutex<Connection>>,
}

impl Ledger {
    /// Opens or makes the ledger at `path` and brings its schema up to date.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let opened = |source| LedgerError::Open { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(opened)?;
        connection
            .execute_batch(
                // The write-ahead log is taken over every 64 pages: on a small disk it must not outgrow the ledger.
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA wal_autocheckpoint = 64; PRAGMA journal_size_limit = 262144;",
            )
            .map_err(opened)?;
        Self::migrate(&mut connection, path)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// A ledger in memory, for tests.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn in_memory() -> Result<Self, LedgerError> {
        let mut connection = Connection::open_in_memory()?;
        Self::migrate(&mut connection, Path::new(":memory:"))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
        let known = u32::try_from(MIGRATIONS.len()).expect("invariant: few migrations");
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > known {
            return Err(LedgerError::Newer { path: path.to_owned(), found, known });
        }
        for (version, step) in (1..).zip(MIGRATIONS).skip(found as usize) {
            let transaction = connection.transaction()?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Runs `work` on the connection. Blocks: call it from a blocking thread, or for statements of microseconds.
    ///
    /// # Errors
    /// Whatever `work` returns.
    pub fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        // A panic inside `work` rolls its transaction back: the connection stays good.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(work(&mut connection)?)
    }
}
