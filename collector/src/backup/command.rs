//! `backup`, `restore` and `verify` at the terminal: what they print, and how they end.

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use veghe_tsdb::{Compacted, can_shrink, compact};
use veghe_wire::document::format_bytes;

use super::{Progress, Verified, restore, verify_directory};
use crate::admin::{self, AdminError, Request, Response};

/// Asks the collector that runs on `data_dir` for a backup in `dir`.
///
/// # Errors
/// What the collector says.
pub fn backup_command(dir: &Path, data_dir: &Path) -> anyhow::Result<String> {
    let dir = std::path::absolute(dir).with_context(|| format!("cannot name {}", dir.display()))?;
    let mut line = Line::new("copying");
    let request = Request::Backup { dir: dir.clone() };
    let answer = admin::ask_watching(data_dir, &request, &mut |progress| line.show(progress));
    line.end();
    let Response::BackedUp { files, bytes } = answer? else { bail!("the collector answered something else") };
    Ok(format!(
        "{} holds a backup: {files} files, {}. Check it with `veghe-collector verify {0}`.",
        dir.display(),
        rounded(bytes)
    ))
}

/// Makes the backup in `dir` the new data directory `data_dir`.
///
/// # Errors
/// Where it is none, is damaged, or `data_dir` holds something.
pub fn restore_command(dir: &Path, data_dir: &Path) -> anyhow::Result<String> {
    let mut line = Line::new("restoring");
    let restored = restore(dir, data_dir, &mut |progress| {
        line.show(progress);
        ControlFlow::Continue(())
    });
    line.end();
    let manifest = restored?;
    let able = match able_to_shrink(data_dir) {
        Ok(None) => String::new(),
        Ok(Some(compacted)) => format!(" Its database of samples was written anew, {}.", change(compacted)),
        // It is restored all the same.
        Err(error) => format!(
            " Its database of samples can't give free room back: {error:#}. `veghe-collector compact` tries that again."
        ),
    };
    Ok(format!(
        "{} holds the data directory as of {}: {} files, {}.{able} Start the collector on it.",
        data_dir.display(),
        jiff::Timestamp::from_millisecond(manifest.taken_ms)
            .map_or_else(|_| "an unknown time".to_owned(), |t| t.to_string()),
        manifest.files.len(),
        rounded(manifest.bytes())
    ))
}

/// Writes the database of samples of `data_dir`, on which no collector runs, anew.
///
/// # Errors
/// Where there is none, a collector runs on it, or there is no room; it is what it was then.
pub fn compact_command(data_dir: &Path) -> anyhow::Result<String> {
    let dir = data_dir.join("tsdb");
    if !dir.join("chunks.db").is_file() {
        bail!("{} is no data directory: it has no tsdb/chunks.db; name one with --data-dir", data_dir.display());
    }
    let compacted = write_anew(&dir)?;
    Ok(format!("The database of samples in {} was written anew, {}.", data_dir.display(), change(compacted)))
}

fn write_anew(dir: &Path) -> anyhow::Result<Compacted> {
    let mut line = Line::new("writing anew");
    let compacted = compact(dir, &mut |progress| {
        line.show(Progress { done_bytes: progress.done_bytes, total_bytes: progress.total_bytes });
        ControlFlow::Continue(())
    });
    line.end();
    Ok(compacted?)
}

/// Makes a restored database one that gives free room back; none where it does already.
fn able_to_shrink(data_dir: &Path) -> anyhow::Result<Option<Compacted>> {
    let dir = data_dir.join("tsdb");
    if !dir.join("chunks.db").is_file() || can_shrink(&dir)? {
        return Ok(None);
    }
    write_anew(&dir).map(Some)
}

fn change(compacted: Compacted) -> String {
    format!("{} before, {} now", rounded(compacted.before_bytes), rounded(compacted.after_bytes))
}

/// Verifies `dir`, or without one the collector on `data_dir`, or its directory where none runs there.
///
/// # Errors
/// Where something is damaged (each place is on standard output then), or it can't be done.
pub fn verify_command(dir: Option<PathBuf>, data_dir: &Path, say: &dyn Fn(&str)) -> anyhow::Result<String> {
    let mut line = Line::new("verifying");
    let verified = match dir {
        Some(dir) => offline(&dir, &mut line),
        None => match admin::ask_watching(data_dir, &Request::Verify, &mut |progress| line.show(progress)) {
            Ok(Response::Verified { verified }) => Ok(verified),
            Ok(_) => bail!("the collector answered something else"),
            Err(AdminError::NotRunning { .. }) if data_dir.join("tsdb").is_dir() => offline(data_dir, &mut line),
            Err(error) => Err(error.into()),
        },
    };
    line.end();
    let verified = verified?;
    for damage in &verified.damages {
        say(damage);
    }
    let unnamed = verified.damaged.saturating_sub(verified.damages.len() as u64);
    if unnamed > 0 {
        say(&format!("and {unnamed} more"));
    }
    if verified.damaged > 0 {
        bail!("{} damaged places in {}", verified.damaged, verified.summary());
    }
    let torn = match verified.torn_bytes {
        0 => String::new(),
        bytes => format!("; {bytes} bytes of commits that a kill cut off, none of them acknowledged"),
    };
    Ok(format!("no damage in {}{torn}", verified.summary()))
}

fn offline(dir: &Path, line: &mut Line) -> anyhow::Result<Verified> {
    let verified = verify_directory(dir, &mut |progress| {
        line.show(progress);
        ControlFlow::Continue(())
    });
    Ok(verified?)
}

/// To a person the unit matters, not each byte.
fn rounded(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format_bytes(bytes),
        _ => format_bytes(bytes & !0xf_ffff),
    }
}

/// A line that shows how far it is, where a person looks.
struct Line {
    what: &'static str,
    shown: bool,
    last: String,
}

impl Line {
    fn new(what: &'static str) -> Self {
        Self { what, shown: false, last: String::new() }
    }

    fn show(&mut self, progress: Progress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let Progress { done_bytes, total_bytes } = progress;
        let text = match total_bytes {
            0 => format!("{} {done_bytes} chunks", self.what),
            total => format!("{} {} of {}", self.what, rounded(done_bytes), rounded(total)),
        };
        if text != self.last {
            // A terminal that went away takes nothing with it.
            drop(write!(std::io::stderr(), "\r\x1b[K{text}"));
            (self.shown, self.last) = (true, text);
        }
    }

    fn end(&self) {
        if self.shown {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}
