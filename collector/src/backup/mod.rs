//! Backups of a whole data directory, made while the collector runs; restoring and verifying them.
//!
//! A backup is a directory: `data/` is what a data directory needs to go on, `manifest.json` names every file of it with size,
//! mode and SHA-256. Invariants: the manifest comes last, synced and renamed into place, so that what a kill leaves is
//! never taken for a backup; the store is copied before the ledger, so that no mark says that a batch is settled whose
//! events the ledger copy lacks (a batch that comes again changes nothing in either).
//!
//! Not in it: `agent/spool` (batches of this machine's agent that may be settled by then: a restored agent begins a new
//! run with a number of its own, so that nothing of it is taken for a repeat), `operators.key` (whoever has a backup shall not
//! find out who is behind the pseudonyms in it), and what only lives while the collector runs. Log segments that targets of
//! remote write still need are in it; what a target got after the backup was made, it gets again. What other agents were told
//! is stored after the backup was made is gone
//! with the collector that told them; what they still have, they send, and the restored marks admit it.

mod command;
mod restore;
mod verify;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use veghe_model::Timestamp;
use veghe_tsdb::{Store, VerifyError, copy_database};

pub use command::{backup_command, compact_command, restore_command, verify_command};
pub use restore::{UNFINISHED_RESTORE, restore};
pub use verify::{Verified, verify_directory, verify_running};

const MANIFEST: &str = "manifest.json";
const DATA: &str = "data";
/// Says that a directory is a backup that was not finished, and may be cleared.
const UNFINISHED: &str = "unfinished";
const FORMAT: u32 = 1;
/// Where snapshots lie, in the data directory as Prometheus has them.
const SNAPSHOTS: &str = "snapshots";
/// The store has a way of its own; addresses, sockets and first words belong to one run.
const LEFT_OUT: &[&str] = &[
    "tsdb",
    SNAPSHOTS,
    "listeners.json",
    "listeners.part",
    "admin.sock",
    ".admin",
    "agent/spool",
    "agent/spool.lock",
    "operators.key",
];
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
const BLOCK_BYTES: usize = 1 << 20;
/// A manifest names some thousand files.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Why a backup, a restore or a verification failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target holds something.
    #[error("cannot write to {}: it is not empty; name a directory that does not exist yet", dir.display())]
    NotEmpty {
        /// The target.
        dir: PathBuf,
    },
    /// The target lies in what is to be copied.
    #[error("cannot write to {}: it is inside the data directory; name one elsewhere, best on another disk", dir.display())]
    Inside {
        /// The target.
        dir: PathBuf,
    },
    /// A file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A database can't be read.
    #[error("cannot read database {}", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The store can't be copied.
    #[error("cannot copy the store")]
    Store(#[source] veghe_tsdb::BackupError),
    /// The store can't be verified.
    #[error("cannot verify the store")]
    Verify(#[source] VerifyError),
    /// No backup is there.
    #[error("{} is no backup: it has no {MANIFEST}{}", dir.display(), if *unfinished { "; it was cut off before its end" } else { "" })]
    NoBackup {
        /// The directory.
        dir: PathBuf,
        /// Whether one was begun there.
        unfinished: bool,
    },
    /// The manifest can't be used.
    #[error("cannot use {}: {detail}", path.display())]
    Manifest {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A file of the backup is not what it was.
    #[error("{} is damaged: {detail}; nothing was restored", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// It was stopped by whoever watched it.
    #[error("it was stopped before its end")]
    Stopped,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all; 0 where that is not known.
    pub total_bytes: u64,
}

/// Hears of the progress and may end the work.
pub type Watch<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The version of the program that made it.
    pub version: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub taken_ms: i64,
    /// Its files, ascending by path.
    pub files: Vec<Entry>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Below `data/`.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Makes a backup of the collector that runs on `data_dir` with `store`, in `dir`. Blocks.
///
/// # Errors
/// [`BackupError`]; what is in `dir` then is marked as unfinished, and the next backup there begins anew.
pub fn backup(
    data_dir: &Path,
    store: &Store,
    dir: &Path,
    now: Timestamp,
    watch: Watch<'_>,
) -> Result<Manifest, BackupError> {
    let real =
        |path: &Path| fs::canonicalize(path).map_err(|source| BackupError::Read { path: path.to_owned(), source });
    let from = real(data_dir)?;
    let inside = || BackupError::Inside { dir: dir.to_owned() };
    // Before anything is made there; where there is no parent, preparing says so.
    if dir.parent().and_then(|parent| fs::canonicalize(parent).ok()).is_some_and(|parent| parent.starts_with(&from)) {
        return Err(inside());
    }
    prepare(dir)?;
    if real(dir)?.starts_with(&from) {
        return Err(inside());
    }
    copy(data_dir, store, dir, now, watch)
}

/// As [`backup`], in `snapshots/NAME` of the data directory itself: for who then takes it elsewhere. Blocks.
///
/// # Errors
/// [`BackupError`].
pub fn snapshot(
    data_dir: &Path,
    store: &Store,
    name: &str,
    now: Timestamp,
    watch: Watch<'_>,
) -> Result<Manifest, BackupError> {
    let all = data_dir.join(SNAPSHOTS);
    match DirBuilder::new().mode(0o700).create(&all) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Write { path: all, source });
        }
        _ => {}
    }
    let dir = all.join(name);
    prepare(&dir)?;
    copy(data_dir, store, &dir, now, watch).inspect_err(|_| {
        // Half a copy is of use to nobody, and takes room.
        if let Err(error) = fs::remove_dir_all(&dir) {
            tracing::warn!(error = &error as &dyn std::error::Error, directory = %dir.display(), "cannot remove an unfinished snapshot");
        }
    })
}

/// Copies everything into `dir`, which is [prepared](prepare).
fn copy(data_dir: &Path, store: &Store, dir: &Path, now: Timestamp, watch: Watch<'_>) -> Result<Manifest, BackupError> {
    let data = dir.join(DATA);
    make_dir(&data)?;
    let mut store_bytes = 0;
    store
        .backup(&data.join("tsdb"), &mut |progress| {
            store_bytes = progress.total_bytes;
            watch(Progress { done_bytes: progress.done_bytes, total_bytes: progress.total_bytes })
        })
        .map_err(|error| match error {
            veghe_tsdb::BackupError::Stopped => BackupError::Stopped,
            error => BackupError::Store(error),
        })?;
    let mut copied = store_bytes;
    copy_rest(data_dir, Path::new(""), &data, &mut |bytes| {
        copied += bytes;
        tell(watch, Progress { done_bytes: copied, total_bytes: copied })
    })?;
    // Read back: what the manifest says is what lies on the disk.
    let mut files = Vec::new();
    list(&data, Path::new(""), &mut files)?;
    let mut entries = Vec::new();
    for path in files {
        let full = data.join(&path);
        let mode = fs::metadata(&full).map_err(|source| BackupError::Read { path: full.clone(), source })?;
        let (bytes, sha256) =
            digest(&full, &mut |_| tell(watch, Progress { done_bytes: copied, total_bytes: copied }))?;
        entries.push(Entry { path, bytes, mode: mode.permissions().mode() & 0o7777, sha256 });
    }
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_ms: now.millis(),
        files: entries,
    };
    let path = dir.join(MANIFEST);
    let finished = (|| {
        let part = dir.join("manifest.json.part");
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::other)?;
        let mut file = File::create(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        sync_dir(&data)?;
        fs::rename(&part, &path)?;
        fs::remove_file(dir.join(UNFINISHED))?;
        sync_dir(dir)
    })();
    finished.map_err(|source| BackupError::Write { path, source })?;
    Ok(manifest)
}

/// Makes `dir` ready: it is empty but for the mark that it is not finished.
fn prepare(dir: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Write { path: dir.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mark = dir.join(UNFINISHED);
            let entries = fs::read_dir(dir).map_err(failed)?;
            let names: BTreeSet<_> =
                entries.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>().map_err(failed)?;
            // Only what a backup itself makes is ever cleared.
            let ours = mark.exists()
                && names.iter().all(|name| [UNFINISHED, DATA, "manifest.json.part"].iter().any(|own| name == *own));
            if !(names.is_empty() || ours) {
                return Err(BackupError::NotEmpty { dir: dir.to_owned() });
            }
            if names.contains(Path::new(DATA).as_os_str()) {
                fs::remove_dir_all(dir.join(DATA)).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    let marked = (|| {
        let mut mark = File::create(dir.join(UNFINISHED))?;
        mark.write_all(b"A backup was begun here and is not finished.\n")?;
        mark.sync_all()?;
        sync_dir(dir)
    })();
    marked.map_err(failed)
}

fn make_dir(dir: &Path) -> Result<(), BackupError> {
    let made = DirBuilder::new().mode(0o700).create(dir);
    made.map_err(|source| BackupError::Write { path: dir.to_owned(), source })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn tell(watch: Watch<'_>, progress: Progress) -> Result<(), BackupError> {
    if watch(progress).is_break() { Err(BackupError::Stopped) } else { Ok(()) }
}

/// Copies everything below `from/below` but what is left out; databases as of one moment each.
fn copy_rest(
    from: &Path,
    below: &Path,
    to: &Path,
    each: &mut dyn FnMut(u64) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let dir = from.join(below);
    let failed = |source| BackupError::Read { path: dir.clone(), source };
    let mut entries: Vec<_> = fs::read_dir(&dir).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        let kind = entry.file_type().map_err(failed)?;
        if LEFT_OUT.iter().any(|out| path == Path::new(out)) {
            continue;
        }
        if kind.is_dir() {
            make_dir(&to.join(&path))?;
            copy_rest(from, &path, to, each)?;
            sync_dir(&to.join(&path)).map_err(|source| BackupError::Write { path: to.join(&path), source })?;
        } else if kind.is_file() {
            each(copy_file(&from.join(&path), &to.join(&path))?)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<u64, BackupError> {
    let name = from.to_string_lossy();
    // They belong to a database, whose copy needs none.
    if ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix)) {
        return Ok(0);
    }
    let read = |source| BackupError::Read { path: from.to_owned(), source };
    let mut source = match File::open(from) {
        Ok(file) => file,
        // Files of others may go at any time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(read(error)),
    };
    let mode = source.metadata().map_err(read)?.permissions();
    let mut magic = Vec::new();
    (&mut source).take(SQLITE_MAGIC.len() as u64).read_to_end(&mut magic).map_err(read)?;
    let written = |source| BackupError::Write { path: to.to_owned(), source };
    if magic == SQLITE_MAGIC {
        copy_sqlite(from, to)?;
    } else {
        let mut target = OpenOptions::new().write(true).create_new(true).open(to).map_err(written)?;
        // Before the first byte: keys are in some of them.
        target.set_permissions(mode.clone()).map_err(written)?;
        target.write_all(&magic).and_then(|()| io::copy(&mut source, &mut target)).map_err(written)?;
        target.sync_all().map_err(written)?;
    }
    fs::set_permissions(to, mode).map_err(written)?;
    fs::metadata(to).map(|m| m.len()).map_err(written)
}

fn copy_sqlite(from: &Path, to: &Path) -> Result<(), BackupError> {
    let database = |source| BackupError::Database { path: from.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(from, flags).map_err(database)?;
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(database)?;
    let transaction = connection.unchecked_transaction().map_err(database)?;
    // A transaction begins with its first read.
    transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(database)?;
    copy_database(&transaction, to, &mut |_| Ok(())).map_err(BackupError::Store)
}

/// Every regular file below `dir/below`, ascending.
fn list(dir: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<(), BackupError> {
    let here = dir.join(below);
    let failed = |source| BackupError::Read { path: here.clone(), source };
    let mut entries: Vec<_> = fs::read_dir(&here).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            list(dir, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Size and SHA-256 of a file.
fn digest(path: &Path, each: &mut dyn FnMut(u64) -> Result<(), BackupError>) -> Result<(u64, String), BackupError> {
    copy_and_digest(path, &mut io::sink(), path, each)
}

/// Copies a file and gives its size and SHA-256.
fn copy_and_digest(
    from: &Path,
    to: &mut dyn io::Write,
    to_path: &Path,
    each: &mut dyn FnMut(u64) -> Result<(), BackupError>,
) -> Result<(u64, String), BackupError> {
    let read = |source| BackupError::Read { path: from.to_owned(), source };
    let mut file = File::open(from).map_err(read)?;
    let mut block = vec![0; BLOCK_BYTES];
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    loop {
        let n = file.read(&mut block).map_err(read)?;
        if n == 0 {
            break;
        }
        hasher.update(&block[..n]);
        to.write_all(&block[..n]).map_err(|source| BackupError::Write { path: to_path.to_owned(), source })?;
        bytes += n as u64;
        each(n as u64)?;
    }
    let mut hex = String::new();
    for byte in hasher.finalize() {
        hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    Ok((bytes, hex))
}

/// Reads and checks the manifest of a finished backup.
fn read_manifest(dir: &Path) -> Result<Manifest, BackupError> {
    let path = dir.join(MANIFEST);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::NoBackup { dir: dir.to_owned(), unfinished: dir.join(UNFINISHED).exists() });
        }
        Err(source) => return Err(BackupError::Read { path, source }),
    };
    let mut text = Vec::new();
    let read = file.take(MAX_MANIFEST_BYTES).read_to_end(&mut text);
    read.map_err(|source| BackupError::Read { path: path.clone(), source })?;
    let wrong = |detail: String| BackupError::Manifest { path: path.clone(), detail };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(wrong(format!("format {}, this program knows {FORMAT}", manifest.format)));
    }
    for file in &manifest.files {
        let inside = file.path.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || file.path.as_os_str().is_empty() {
            return Err(wrong(format!("`{}` is no path below {DATA}", file.path.display())));
        }
    }
    Ok(manifest)
}

/// The directory that holds the files of a backup.
fn data_of(dir: &Path) -> PathBuf {
    dir.join(DATA)
}

#[cfg(test)]
mod tests;
