//! One hot folder: finds files, waits until each is whole, and says once what it is.
//!
//! A file counts when it has an image's name, has stayed as it is for two looks and the settling time, nobody is known to
//! write to it, and its structure says that all of it is there. What is told is remembered in the same transaction.
//! Invariants: a file is told once for each content, however often it is looked at, renamed or the agent killed; a torn file
//! never counts; memory is bounded by the files that are not settled and the folders that are watched.
//! What it deliberately does not do: know the clock (the moment is an argument) or the network; look inside images
//! (see `veghe_imagefile`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use veghe_wire::AgentId;

use super::Trouble;
use super::judge::{Judge, Verdict};
use super::settings::{HotFolder, Watch};
use super::status::{FolderStatus, Status};
use super::store::{MAX_WAITING, State, Store};
use super::watch::Watcher;
use crate::database::DatabaseError;

/// Folders that are looked at often; the others wait for the look at everything.
const MAX_DIRS: usize = 50_000;
/// Files that may wait to be whole; more are found again later.
const MAX_PENDING: usize = 50_000;
/// Folders that nothing came into for long of which each look sees a part.
const COLD_LOOKS: usize = 500;
/// For how long after its last new file a folder is looked at often.
const HOT: Duration = Duration::from_hours(1);
/// The longest time between two looks at a file that is not whole.
const MAX_BACKOFF: Duration = Duration::from_mins(1);
/// How long what is gone is remembered, so that it does not count again when it comes back.
const FORGET_MS: i64 = 30 * 24 * 3_600_000;
/// The longest sleep, so that an end is noticed.
pub(crate) const NAP: Duration = Duration::from_millis(500);

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// Milliseconds since the epoch.
    pub(crate) ms: i64,
}

/// What a file was like when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
}

impl Look {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { ino: metadata.ino(), size: metadata.size(), mtime_ns }
    }
}

impl Look {
    /// Whether the file is as it was. On a share file ids are not always of the server's: a client that makes them up gives
    /// another one each time that it forgot the file, and such a file would never be settled.
    pub(crate) fn is_still(self, before: Self, watch: Watch) -> bool {
        let has_same_id = watch == Watch::Scan || self.ino == before.ino;
        has_same_id && (self.size, self.mtime_ns) == (before.size, before.mtime_ns)
    }
}

#[derive(Debug)]
struct Pending {
    look: Look,
    /// Since when it is like that, as far as is known.
    since: Instant,
    looks: u32,
    next: Instant,
    tries: u32,
}

impl Pending {
    fn new(look: Look, now: Instant, settle: Duration) -> Self {
        Self { look, since: now, looks: 1, next: now + settle, tries: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Dir {
    mtime_ns: i64,
    hot_until: Instant,
    has_dirs: bool,
}

/// What the thread of a hot folder owns.
#[derive(Debug)]
pub(crate) struct Worker {
    settings: HotFolder,
    store: Store,
    judge: Judge,
    status: Arc<FolderStatus>,
    all: Arc<Status>,
    watcher: Option<Watcher>,
    /// Folders by their path below the root.
    dirs: BTreeMap<PathBuf, Dir>,
    pending: BTreeMap<PathBuf, Pending>,
    dirty: BTreeSet<PathBuf>,
    /// Where the look at folders that nothing came into for long goes on.
    cold_cursor: usize,
    next_scan: Instant,
    next_reconcile: Instant,
    told_trouble: bool,
    told_full: bool,
}

impl Worker {
    /// A worker that has not looked yet.
    pub(crate) fn new(
        settings: HotFolder,
        agent: AgentId,
        store: Store,
        status: Arc<FolderStatus>,
        all: Arc<Status>,
        now: Instant,
    ) -> Self {
        let watcher = match settings.watch {
            Watch::Auto => Watcher::new(&settings.path)
                .inspect_err(
                    |error| tracing::warn!(%error, folder = settings.name, "no inotify; folders are looked at"),
                )
                .ok(),
            Watch::Scan => None,
        };
        let judge = Judge::new(settings.clone(), agent, Arc::clone(&status), Arc::clone(&all));
        Self {
            settings,
            store,
            judge,
            status,
            all,
            watcher,
            dirs: BTreeMap::new(),
            pending: BTreeMap::new(),
            dirty: BTreeSet::new(),
            cold_cursor: 0,
            next_scan: now,
            next_reconcile: now,
            told_trouble: false,
            told_full: false,
        }
    }

    /// Waits for news until something is due, at most for a moment.
    pub(crate) fn wait(&mut self, now: Instant) {
        let due = self.pending.values().map(|pending| pending.next).min();
        let due = due.into_iter().chain([self.next_scan, self.next_reconcile]).min().unwrap_or(now);
        let patience = due.saturating_duration_since(now).min(NAP);
        let Some(watcher) = &mut self.watcher else {
            std::thread::sleep(patience.max(Duration::from_millis(1)));
            return;
        };
        let news = watcher.wait(patience.max(Duration::from_millis(1)));
        self.dirty.extend(news.dirs);
        if news.is_incomplete {
            self.next_reconcile = now;
        }
    }

    /// Does what is due. Returns whether something was told.
    pub(crate) fn look(&mut self, now: Moment) -> bool {
        self.status.ask(now.at);
        let result = self.try_look(now);
        self.status.rest();
        self.status.pending.store(self.pending.len() as u64, Relaxed);
        match result {
            Ok(has_told) => has_told,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    folder = self.settings.name,
                    "cannot remember files; they are looked at again"
                );
                self.next_scan = now.at + self.settings.scan;
                for pending in self.pending.values_mut() {
                    pending.next = pending.next.max(now.at + self.settings.settle);
                }
                false
            }
        }
    }

    fn try_look(&mut self, now: Moment) -> Result<bool, DatabaseError> {
        let begin = now.at;
        if now.at >= self.next_reconcile {
            self.next_reconcile = now.at + self.settings.reconcile;
            self.next_scan = now.at + self.settings.scan;
            self.reconcile(now)?;
            self.status
                .scan_ms
                .store(crate::clock::instant().saturating_duration_since(begin).as_millis() as u64, Relaxed);
        } else if now.at >= self.next_scan {
            self.next_scan = now.at + self.settings.scan;
            self.scan(now)?;
        }
        for dir in std::mem::take(&mut self.dirty) {
            self.visit(dir, now)?;
        }
        self.judge_pending(now)
    }

    /// Looks at everything below the root.
    fn reconcile(&mut self, now: Moment) -> Result<(), DatabaseError> {
        let root = match fs::read_dir(&self.settings.path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => {
                self.tell_trouble(&error);
                return Ok(());
            }
        };
        if !root && self.store.next_dir(&self.settings.name, None)?.is_some() {
            // An empty folder where there were files is one whose share is not mounted.
            self.tell_trouble(&io::Error::other("the folder is empty; is its share mounted?"));
            return Ok(());
        }
        if self.told_trouble {
            tracing::info!(folder = self.settings.name, "the hot folder can be read again");
        }
        self.told_trouble = false;
        self.status.is_up.store(true, Relaxed);
        let seen = self.visit(PathBuf::new(), now)?;
        self.dirs.retain(|dir, _| seen.contains(dir));
        self.miss_dirs(&seen, now)?;
        let patience = (2 * self.settings.reconcile).max(self.settings.settle).as_millis() as i64;
        self.judge.tell_deletions(&mut self.store, now.ms - patience, now.ms)?;
        let folder = self.settings.name.clone();
        self.store.write(|changes| changes.forget_gone(&folder, now.ms - FORGET_MS))?;
        Ok(())
    }

    /// Files of folders that are no more are gone.
    fn miss_dirs(&mut self, seen: &HashSet<PathBuf>, now: Moment) -> Result<(), DatabaseError> {
        let folder = self.settings.name.clone();
        let mut after: Option<Vec<u8>> = None;
        while let Some(dir) = self.store.next_dir(&folder, after.as_deref())? {
            let path = Path::new(OsStr::from_bytes(&dir));
            let is_there = seen.contains(path) || fs::symlink_metadata(self.settings.path.join(path)).is_ok();
            if !is_there {
                self.store.write(|changes| changes.miss_dir(&folder, &dir, now.ms))?;
            }
            after = Some(dir);
        }
        Ok(())
    }

    /// Looks at folders that images come into, and at those that folders come into.
    fn scan(&mut self, now: Moment) -> Result<(), DatabaseError> {
        let waiting: HashSet<&Path> = self.pending.keys().filter_map(|path| path.parent()).collect();
        let (mut due, mut cold) = (Vec::new(), Vec::new());
        for (path, dir) in &self.dirs {
            if dir.hot_until > now.at || waiting.contains(path.as_path()) {
                due.push(path.clone());
            } else if dir.has_dirs {
                cold.push((false, path));
            } else {
                cold.push((true, path));
            }
        }
        // Of the folders that nothing came into for long a part each time, those with folders in them first.
        cold.sort_unstable();
        let leaves = cold.partition_point(|(is_leaf, _)| !is_leaf);
        let (inner, leaves) = cold.split_at(leaves);
        let from = if leaves.is_empty() { 0 } else { self.cold_cursor % leaves.len() };
        self.cold_cursor = from + COLD_LOOKS;
        let turn = leaves.iter().cycle().skip(from).take(COLD_LOOKS.min(leaves.len()));
        for (_, path) in inner.iter().chain(turn) {
            match fs::symlink_metadata(self.settings.path.join(path)) {
                // Only a changed folder has something new.
                Ok(found) if self.dirs.get(*path).is_some_and(|dir| dir.mtime_ns == Look::of(&found).mtime_ns) => {}
                Ok(_) => due.push((*path).clone()),
                Err(_) => self.next_reconcile = now.at,
            }
        }
        for dir in due {
            self.visit(dir, now)?;
        }
        Ok(())
    }

    /// Looks at a folder, and at those below it that are new; from the root at all.
    fn visit(&mut self, dir: PathBuf, now: Moment) -> Result<HashSet<PathBuf>, DatabaseError> {
        let is_everything = dir.as_os_str().is_empty();
        let (mut seen, mut next) = (HashSet::new(), vec![dir]);
        while let Some(dir) = next.pop() {
            if seen.len() >= 4 * MAX_DIRS {
                break;
            }
            match self.list(&dir, now, is_everything) {
                Ok(Listed { dirs, .. }) => {
                    next.extend(dirs);
                    seen.insert(dir);
                }
                Err(Trouble::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Trouble::Read(error)) => self.tell_trouble(&error),
                Err(Trouble::Store(error)) => return Err(error),
            }
        }
        Ok(seen)
    }

    /// One folder: its files are considered; gives the folders in it that are to be looked at too.
    fn list(&mut self, dir: &Path, now: Moment, is_everything: bool) -> Result<Listed, Trouble> {
        let full = self.settings.path.join(dir);
        self.status.ask(crate::clock::instant());
        let look = Look::of(&fs::symlink_metadata(&full)?);
        let depth = dir.components().count();
        let is_new = !self.dirs.contains_key(dir);
        if is_new && let Some(watcher) = &mut self.watcher {
            // Before the look, so that nothing comes between both.
            watcher.add(dir);
        }
        let (mut names, mut listed, mut is_hot, mut has_dirs) = (HashSet::new(), Listed::default(), false, false);
        for entry in fs::read_dir(&full)? {
            let entry = entry?;
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue };
            let lower = name.to_string_lossy().to_lowercase();
            if self.settings.exclude.matches(&lower) {
                continue;
            }
            let path = dir.join(&name);
            if kind.is_dir() {
                has_dirs = true;
                if depth < self.settings.template.depth() && (is_everything || !self.dirs.contains_key(&path)) {
                    listed.dirs.push(path);
                }
            } else if kind.is_file() && self.settings.include.matches(&lower) {
                let Ok(metadata) = entry.metadata() else { continue };
                is_hot |= self.consider(dir, &path, name.as_bytes(), Look::of(&metadata), now)?;
                names.insert(name.as_bytes().to_vec());
            }
        }
        let folder = &self.settings.name;
        let gone: Vec<Vec<u8>> = self.store.present(folder, dir.as_os_str().as_bytes())?;
        let gone: Vec<Vec<u8>> = gone.into_iter().filter(|name| !names.contains(name)).collect();
        if !gone.is_empty() {
            let folder = folder.clone();
            self.store.write(|changes| {
                gone.iter().try_for_each(|name| changes.miss(&folder, dir.as_os_str().as_bytes(), name, now.ms))
            })?;
        }
        let known = self.dirs.get(dir).copied();
        if known.is_some() || self.dirs.len() < MAX_DIRS {
            let hot_until = known.map_or(now.at, |known| known.hot_until);
            let hot_until = if is_hot || (is_new && !is_everything) { now.at + HOT } else { hot_until };
            self.dirs.insert(dir.to_owned(), Dir { mtime_ns: look.mtime_ns, hot_until, has_dirs });
        }
        Ok(listed)
    }

    /// Whether the file is new or another than before.
    fn consider(
        &mut self,
        dir: &Path,
        path: &Path,
        name: &[u8],
        look: Look,
        now: Moment,
    ) -> Result<bool, DatabaseError> {
        if let Some(pending) = self.pending.get_mut(path) {
            if pending.look.is_still(look, self.settings.watch) {
                pending.looks += 1;
            } else {
                *pending = Pending::new(look, now.at, self.settings.settle);
            }
            return Ok(true);
        }
        let known = self.store.file(&self.settings.name, dir.as_os_str().as_bytes(), name)?;
        let is_settled = known.is_some_and(|known| {
            known.gone_ms.is_none()
                && (known.size, known.mtime_ns) == (look.size, look.mtime_ns)
                && known.state != State::Deleted
        });
        if is_settled {
            return Ok(false);
        }
        if self.pending.len() < MAX_PENDING {
            self.pending.insert(path.to_owned(), Pending::new(look, now.at, self.settings.settle));
        }
        Ok(true)
    }

    /// Judges the files that have stayed as they are for long enough.
    fn judge_pending(&mut self, now: Moment) -> Result<bool, DatabaseError> {
        let mut due: Vec<(i64, PathBuf)> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.next <= now.at)
            .map(|(path, pending)| (pending.look.mtime_ns, path.clone()))
            .collect();
        if due.is_empty() || self.is_outbox_full()? {
            return Ok(false);
        }
        // In the order in which they were made: of two with the same content the first one counts.
        due.sort_unstable();
        let mut has_told = false;
        for (_, path) in due {
            self.status.ask(crate::clock::instant());
            let Ok(metadata) = fs::symlink_metadata(self.settings.path.join(&path)) else {
                self.pending.remove(&path);
                continue;
            };
            let Some(pending) = self.pending.get_mut(&path) else { continue };
            let look = Look::of(&metadata);
            if !look.is_still(pending.look, self.settings.watch) {
                *pending = Pending::new(look, now.at, self.settings.settle);
                continue;
            }
            pending.looks += 1;
            let quiet = now.at.saturating_duration_since(pending.since);
            let is_patient = quiet < self.settings.refuse_after;
            let is_written = self.watcher.as_ref().is_some_and(|watcher| watcher.is_written(&path));
            pending.tries += 1;
            pending.next =
                now.at + (self.settings.settle * 2_u32.saturating_pow(pending.tries.min(8))).min(MAX_BACKOFF);
            if pending.looks < 2 || quiet < self.settings.settle || (is_written && is_patient) {
                continue;
            }
            match self.judge.judge(&mut self.store, &path, look, is_patient, now.ms)? {
                Verdict::Wait => {}
                Verdict::Changed(look) => {
                    if let Some(pending) = self.pending.get_mut(&path) {
                        *pending = Pending::new(look, now.at, self.settings.settle);
                    }
                }
                Verdict::Settled { has_told: told } => {
                    has_told |= told;
                    self.pending.remove(&path);
                    if let Some(watcher) = &mut self.watcher {
                        watcher.forget(&path);
                    }
                    self.status.last_activity_ms.store(now.ms, Relaxed);
                }
            }
        }
        if has_told {
            self.all.waiting.store(self.store.waiting()?, Relaxed);
        }
        Ok(has_told)
    }

    fn is_outbox_full(&mut self) -> Result<bool, DatabaseError> {
        let is_full = self.store.waiting()? >= MAX_WAITING;
        if is_full && !self.told_full {
            tracing::warn!(
                folder = self.settings.name,
                events = MAX_WAITING,
                "too many events wait for the collector; files wait in their folder until it takes some"
            );
        }
        self.told_full = is_full;
        Ok(is_full)
    }

    fn tell_trouble(&mut self, error: &io::Error) {
        self.status.is_up.store(false, Relaxed);
        if !std::mem::replace(&mut self.told_trouble, true) {
            let path = self.settings.path.display();
            tracing::error!(%error, folder = self.settings.name, %path, "cannot read the hot folder");
        }
    }

    /// Files that are not settled.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The database.
    #[cfg(test)]
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

#[derive(Debug, Default)]
struct Listed {
    dirs: Vec<PathBuf>,
}
