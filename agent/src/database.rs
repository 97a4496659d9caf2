//! SQLite files of the agent: opened, made and brought up to date in one way.
//!
//! Invariants: a commit is on disk; a file of a newer agent is left as it is. What it deliberately does not do: know what is in
//! them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

/// Why nothing can be remembered.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file can't be opened as a database.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A newer agent made it.
    #[error("{} has version {found}, this agent knows {known}; use the newer agent", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this agent knows.
        known: u32,
    },
    /// A statement failed.
    #[error("cannot use a database of the agent")]
    Statement(#[from] rusqlite::Error),
}

/// Opens or makes the database `path`, with so many KiB of it in memory at most. `versions` are the statements that lead from
/// nothing to version 1, from there to version 2, and so on.
///
/// # Errors
/// [`DatabaseError::Open`] and [`DatabaseError::Newer`].
pub fn open(path: &Path, cache_kib: u32, versions: &[&str]) -> Result<Connection, DatabaseError> {
    let known = versions.len() as u32;
    let made = || {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(30))?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -{cache_kib};
             PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 1048576; PRAGMA temp_store = FILE;"
        ))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        for statements in versions.iter().skip(found as usize) {
            transaction.execute_batch(statements)?;
        }
        if found < known {
            transaction.pragma_update(None, "user_version", known)?;
        }
        transaction.commit()?;
        Ok((connection, found))
    };
    let (connection, found) = made().map_err(|source| DatabaseError::Open { path: path.to_owned(), source })?;
    if found > known {
        return Err(DatabaseError::Newer { path: path.to_owned(), found, known });
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_brought_up_to_date_and_of_a_newer_agent_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("x.db");
        let versions = ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y"];
        open(&path, 64, &versions[..1]).expect("made").execute("INSERT INTO a VALUES (1)", []).expect("row");
        let connection = open(&path, 64, &versions).expect("brought up to date");
        let row: (i64, Option<i64>) =
            connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("row");
        assert_eq!(row, (1, None));
        drop(connection);
        let error = open(&path, 64, &versions[..1]).expect_err("newer").to_string();
        assert!(error.ends_with("x.db has version 2, this agent knows 1; use the newer agent"), "{error}");
        assert!(matches!(open(dir.path(), 64, &versions), Err(DatabaseError::Open { .. })), "a directory");
    }
}
