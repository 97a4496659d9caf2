//! A backup made a data directory again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{BackupError, Manifest, Progress, Watch, copy_and_digest, data_of, read_manifest, sync_dir, tell};

/// In a data directory: a restore was begun and is not finished; no collector starts on it.
pub const UNFINISHED_RESTORE: &str = "unfinished-restore";

/// Copies the backup in `dir` to the new data directory `to`, every byte checked. Blocks.
///
/// # Errors
/// [`BackupError`]; `to` is not empty, or the backup is unfinished or damaged. What is in `to` then is no data directory, and
/// the next restore there begins anew.
pub fn restore(dir: &Path, to: &Path, watch: Watch<'_>) -> Result<Manifest, BackupError> {
    let manifest = read_manifest(dir)?;
    prepare(to)?;
    let mut progress = Progress { done_bytes: 0, total_bytes: manifest.bytes() };
    let data = data_of(dir);
    for file in &manifest.files {
        let (from, target) = (data.join(&file.path), to.join(&file.path));
        make_parents(to, &file.path)?;
        let written = |source| BackupError::Write { path: target.clone(), source };
        let mut out = OpenOptions::new().write(true).create_new(true).open(&target).map_err(written)?;
        out.set_permissions(fs::Permissions::from_mode(file.mode)).map_err(written)?;
        let (bytes, sha256) = copy_and_digest(&from, &mut out, &target, &mut |bytes| {
            progress.done_bytes += bytes;
            tell(watch, progress)
        })?;
        if bytes != file.bytes {
            let detail = format!("it has {bytes} bytes, not {}", file.bytes);
            return Err(BackupError::Damaged { path: from, detail });
        }
        if sha256 != file.sha256 {
            return Err(BackupError::Damaged { path: from, detail: "its SHA-256 differs".to_owned() });
        }
        out.sync_all().map_err(written)?;
    }
    let finished = (|| {
        sync_dirs(to)?;
        fs::remove_file(to.join(UNFINISHED_RESTORE))?;
        sync_dir(to)
    })();
    finished.map_err(|source| BackupError::Write { path: to.to_owned(), source })?;
    Ok(manifest)
}

/// Makes `to` a directory that has nothing but the mark. Its parent exists; it may be a mount point.
fn prepare(to: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Write { path: to.to_owned(), source };
    let mark = to.join(UNFINISHED_RESTORE);
    match DirBuilder::new().mode(0o700).create(to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let begun = mark.exists();
            for entry in fs::read_dir(to).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                // A file system's own.
                if path == mark || path.file_name().is_some_and(|name| name == "lost+found") {
                    continue;
                }
                if !begun {
                    return Err(BackupError::NotEmpty { dir: to.to_owned() });
                }
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(|source| BackupError::Write { path, source })?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    let marked = (|| {
        let mut file = File::create(&mark)?;
        file.write_all(b"A restore was begun here and is not finished: run it again.\n")?;
        file.sync_all()?;
        sync_dir(to)
    })();
    marked.map_err(failed)
}

fn make_parents(to: &Path, path: &Path) -> Result<(), BackupError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let dir = to.join(parent);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|source| BackupError::Write { path: dir, source })
}

fn sync_dirs(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path: PathBuf = entry?.path();
        // What a file system keeps for itself is not ours to read.
        if path.is_dir() && path.file_name().is_none_or(|name| name != "lost+found") {
            sync_dirs(&path)?;
        }
    }
    sync_dir(dir)
}
