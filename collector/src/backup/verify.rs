//! Every checksum of a data directory or a backup looked at.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use veghe_tsdb::{Store, VerifyReport};

use super::{BackupError, MANIFEST, Progress, SQLITE_MAGIC, Watch, data_of, digest, read_manifest, tell};

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Files whose checksum the manifest of a backup has.
    pub files: u64,
    /// Series of the store.
    pub series: u64,
    /// Its chunks.
    pub chunks: u64,
    /// Samples in them.
    pub samples: u64,
    /// Records of its log.
    pub log_records: u64,
    /// Bytes that a kill left of commits that were never acknowledged.
    pub torn_bytes: u64,
    /// How many places are damaged.
    pub damaged: u64,
    /// The first of them, each with its place.
    pub damages: Vec<String>,
}

impl Verified {
    fn add(&mut self, damage: String) {
        self.damaged += 1;
        self.damages.push(damage);
    }

    fn store(&mut self, report: &VerifyReport) {
        (self.series, self.chunks, self.samples) = (report.series, report.chunks, report.samples);
        (self.log_records, self.torn_bytes) = (report.log_records, report.torn_bytes);
        self.damaged += report.damaged;
        self.damages.extend(report.damages.iter().map(ToString::to_string));
    }

    /// What was looked at, in a line.
    pub fn summary(&self) -> String {
        let files = if self.files > 0 { format!("{} files, ", self.files) } else { String::new() };
        format!(
            "{files}{} series, {} chunks with {} samples, {} log records",
            self.series, self.chunks, self.samples, self.log_records
        )
    }
}

/// Verifies the collector that runs on `data_dir` with `store`. Blocks.
///
/// # Errors
/// [`BackupError`] where it can't be done; damage is a result.
pub fn verify_running(data_dir: &Path, store: &Store, watch: Watch<'_>) -> Result<Verified, BackupError> {
    let mut verified = Verified::default();
    let report = store.verify(&mut |report| watch(progress(report))).map_err(of_store)?;
    verified.store(&report);
    ledger(&data_dir.join("ledger.db"), &mut verified);
    Ok(verified)
}

/// Verifies a backup, or the data directory of a collector that does not run. Blocks.
///
/// # Errors
/// [`BackupError`] where it can't be done; damage is a result.
pub fn verify_directory(dir: &Path, watch: Watch<'_>) -> Result<Verified, BackupError> {
    let mut verified = Verified::default();
    let is_data = dir.join("tsdb").is_dir() && !dir.join(MANIFEST).exists();
    let data = if is_data { dir.to_owned() } else { manifest(dir, &mut verified, watch)? };
    let report = veghe_tsdb::verify_directory(&data.join("tsdb"), &mut |report| watch(progress(report)));
    verified.store(&report.map_err(of_store)?);
    ledger(&data.join("ledger.db"), &mut verified);
    Ok(verified)
}

fn progress(report: &VerifyReport) -> Progress {
    // Nothing says beforehand how much there is: chunks count.
    Progress { done_bytes: report.chunks, total_bytes: 0 }
}

fn of_store(error: veghe_tsdb::VerifyError) -> BackupError {
    match error {
        veghe_tsdb::VerifyError::Stopped => BackupError::Stopped,
        error => BackupError::Verify(error),
    }
}

/// Checks the files of a backup; gives where its data is.
fn manifest(dir: &Path, verified: &mut Verified, watch: Watch<'_>) -> Result<PathBuf, BackupError> {
    let manifest = read_manifest(dir)?;
    let data = data_of(dir);
    let mut progress = Progress { done_bytes: 0, total_bytes: manifest.bytes() };
    for file in &manifest.files {
        let path = data.join(&file.path);
        verified.files += 1;
        let found = digest(&path, &mut |bytes| {
            progress.done_bytes += bytes;
            tell(watch, progress)
        });
        match found {
            Ok((bytes, _)) if bytes != file.bytes => {
                verified.add(format!("{}: it has {bytes} bytes, not {}", path.display(), file.bytes));
            }
            Ok((_, sha256)) if sha256 != file.sha256 => {
                verified.add(format!("{}: its SHA-256 differs", path.display()));
            }
            Ok(_) => {}
            Err(BackupError::Stopped) => return Err(BackupError::Stopped),
            Err(BackupError::Read { path, source }) => verified.add(format!("{}: {source}", path.display())),
            Err(error) => return Err(error),
        }
    }
    Ok(data)
}

/// What SQLite can tell of the ledger.
fn ledger(path: &Path, verified: &mut Verified) {
    let mut magic = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SQLITE_MAGIC.len() as u64).read_to_end(&mut magic));
    if let Err(error) = read {
        verified.add(format!("{}: {error}", path.display()));
        return;
    }
    // A copy has nothing beside it, and its medium may not be writable.
    let alone = !path.with_extension("db-wal").exists();
    let opened = if alone {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        immutable(path).and_then(|url| Connection::open_with_flags(url, flags).ok())
    } else {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).ok()
    };
    let Some(connection) = opened else {
        verified.add(format!("{}: it can't be opened", path.display()));
        return;
    };
    let checked = connection.prepare("PRAGMA integrity_check(100)").and_then(|mut statement| {
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            if text != "ok" {
                verified.add(format!("{}: {text}", path.display()));
            }
        }
        Ok(())
    });
    if let Err(error) = checked {
        verified.add(format!("{}: {error}", path.display()));
    }
}

/// A path as SQLite takes it with an option.
fn immutable(path: &Path) -> Option<String> {
    let mut url = url::Url::from_file_path(std::path::absolute(path).ok()?).ok()?;
    url.set_query(Some("immutable=1"));
    Some(url.into())
}
