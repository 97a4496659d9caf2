//! A copy of the running store that is whole at one moment, made while it goes on.
//!
//! Invariants: the list of log segments and the snapshot of the database belong to the same moment, with neither a
//! commit nor a seal in between, so that marks never say more than the samples beside them; no segment is deleted
//! while one is copied. A copy opens as any store that was killed at that moment does.
//! What it deliberately does not do: say afterwards whether a copy is complete (whoever asked for it writes that down last).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::chunks::take_snapshot;
use crate::log::sync_dir;
use crate::store::{Inner, lock};
use crate::{BackupError, Store};

/// Pages of the database copied between two looks at whether to go on: 2 MiB.
const PAGES_PER_STEP: i32 = 256;

/// How far a backup has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes to copy in all.
    pub total_bytes: u64,
}

/// Takes segments' deletion up again.
struct NoDeletion<'a>(&'a Inner);

impl Drop for NoDeletion<'_> {
    fn drop(&mut self) {
        lock(&self.0.writer).backups -= 1;
    }
}

impl Store {
    /// Copies the store, as it is at one moment of the call, to `dir`, which must not exist; everything is synced when
    /// this returns. Commits and queries go on; log segments that are sealed meanwhile stay until the end.
    /// `watch` hears of the progress every few MiB and may end it.
    ///
    /// # Errors
    /// [`BackupError`]; what is in `dir` then is of no use.
    pub fn backup(
        &self,
        dir: &Path,
        watch: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<BackupProgress, BackupError> {
        self.inner.backup(dir, watch)
    }
}

impl Inner {
    fn backup(
        &self,
        dir: &Path,
        watch: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<BackupProgress, BackupError> {
        let log_dir = dir.join("log");
        let held_dir = log_dir.join("held");
        let made = fs::create_dir(dir).and_then(|()| fs::create_dir(&log_dir));
        made.map_err(|source| BackupError::Write { path: dir.to_owned(), source })?;
        let sealer = lock(&self.sealer);
        let progress = self.chunks.read(|connection| {
            let [segments, held]: [Vec<(PathBuf, u64)>; 2] = {
                let mut writer = lock(&self.writer);
                take_snapshot(connection)?;
                writer.backups += 1;
                let segments = writer.log.segments().map(|segment| (segment.path.clone(), segment.bytes));
                [segments.collect(), writer.keep.held().collect()]
            };
            let _no_deletion = NoDeletion(self);
            drop(sealer);
            let database_bytes = database_bytes(connection)?;
            let all = segments.iter().map(|file| (file, &log_dir)).chain(held.iter().map(|file| (file, &held_dir)));
            let total_bytes = all.clone().map(|((_, bytes), _)| *bytes).sum::<u64>() + database_bytes;
            let mut progress = BackupProgress { done_bytes: 0, total_bytes };
            if !held.is_empty() {
                fs::create_dir(&held_dir).map_err(|source| BackupError::Write { path: held_dir.clone(), source })?;
            }
            for ((path, bytes), to) in all {
                let Some(name) = path.file_name() else { continue };
                copy_start(path, *bytes, &to.join(name))?;
                progress.done_bytes += bytes;
                tell(watch, progress)?;
            }
            let done = progress.done_bytes;
            let path = dir.join("chunks.db");
            copy_database(connection, &path, &mut |copied| {
                progress.done_bytes = done + (copied * database_bytes as f64) as u64;
                tell(watch, progress)
            })?;
            progress.done_bytes = progress.total_bytes;
            Ok::<_, BackupError>(progress)
        })?;
        for path in [&*held_dir, &*log_dir, dir].into_iter().filter(|path| path.is_dir()) {
            sync_dir(path).map_err(|source| BackupError::Write { path: path.to_owned(), source })?;
        }
        Ok(progress)
    }
}

fn tell(watch: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>, progress: BackupProgress) -> Result<(), BackupError> {
    if watch(progress).is_break() { Err(BackupError::Stopped) } else { Ok(()) }
}

fn database_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
    Ok((pragma("page_count")? * pragma("page_size")?) as u64)
}

/// Copies the first `bytes` of a file, which may grow, and syncs the copy.
fn copy_start(from: &Path, bytes: u64, to: &Path) -> Result<(), BackupError> {
    let source = File::open(from).map_err(|source| BackupError::Read { path: from.to_owned(), source })?;
    let written = (|| {
        let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
        let copied = io::copy(&mut source.take(bytes), &mut target)?;
        target.sync_all()?;
        Ok(copied)
    })();
    let copied = written.map_err(|source| BackupError::Write { path: to.to_owned(), source })?;
    if copied < bytes {
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than what was committed");
        return Err(BackupError::Read { path: from.to_owned(), source });
    }
    Ok(())
}

/// Copies what `connection`, which is in a read transaction, sees of its database to a new file at `path` and syncs it.
/// `each` hears every few MiB which part of it, from 0 to 1, is copied.
///
/// # Errors
/// [`BackupError`], or what `each` gives to end it.
pub fn copy_database(
    connection: &Connection,
    path: &Path,
    each: &mut dyn FnMut(f64) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut target = Connection::open(path).map_err(BackupError::Database)?;
    {
        // Within a read transaction of the source its pages are those of that transaction: it never starts again.
        let backup = Backup::new(connection, &mut target).map_err(BackupError::Database)?;
        loop {
            let step = backup.step(PAGES_PER_STEP).map_err(BackupError::Database)?;
            let progress = backup.progress();
            if progress.pagecount > 0 {
                each(1.0 - f64::from(progress.remaining) / f64::from(progress.pagecount))?;
            }
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(BackupError::Busy),
            }
        }
    }
    target.close().map_err(|(_, error)| BackupError::Database(error))?;
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| BackupError::Write { path: path.to_owned(), source })
}
