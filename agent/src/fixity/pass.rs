//! One pass over every object of a storage: what is new gets its digest kept, what is known is compared, what is gone is told.
//!
//! Invariants: memory does not grow with objects; what was looked at is on disk every few seconds, so that a pass goes on after a
//! restart where it was; an object that is not as it was is told, by its name, as soon as it was read. A storage that is empty or
//! can't be read is an error and no loss of everything.
//! What it deliberately does not do: decide when a pass begins; write to the storage.

use std::ffi::OsStr;
use std::fs::{self, File, ReadDir};
use std::io::{self, BufRead as _, BufReader};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::database::{Database, Object, Outcome, StorageRow};
use super::reader::{Digests, Pace, Reader, Wanted};
use crate::clock;
use crate::database::DatabaseError;
use crate::sensors::glob::Globs;

/// What was found is on disk after so many objects, or after so long.
const COMMIT_OBJECTS: usize = 512;
const COMMIT_AFTER: Duration = Duration::from_secs(5);
/// Threads that read at full speed.
const MAX_READERS: usize = 4;
/// Folders in folders; deeper ones are left out and told.
const MAX_DEPTH: usize = 64;
/// Bytes of a line of a manifest; a path has 4,096 at most, three times as many where it is encoded.
const MAX_LINE: u64 = 16 << 10;
/// Objects that are gone are looked for in such steps.
const UNSEEN_STEP: usize = 500;

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The storage can't be read at all.
    #[error("cannot read storage {}", path.display())]
    Storage {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing where there were objects.
    #[error("storage {} is empty, though {objects} objects are known; is it mounted?", path.display())]
    Empty {
        /// Where it is.
        path: PathBuf,
        /// Objects that are known.
        objects: u64,
    },
    /// See the source.
    #[error("cannot keep digests")]
    Database(#[from] DatabaseError),
}

/// An object that is not as it was, or is again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Relative to the storage.
    pub path: Vec<u8>,
    /// What was found.
    pub outcome: Outcome,
    /// Why, in a word: `damaged`, `rewritten`, `manifest`, `unreadable`, `gone`.
    pub reason: &'static str,
    /// A storage that has it as it was.
    pub good_copy: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// What it must be.
    pub expected: Option<[u8; 32]>,
    /// What it is.
    pub found: Option<[u8; 32]>,
}

/// What a pass has done so far; readers count while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read since the start of the process.
    pub bytes: AtomicU64,
    /// Objects looked at.
    pub objects: AtomicU64,
}

/// What a pass is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the storage is.
    pub root: PathBuf,
    /// Names of files and folders that are left out, lower case.
    pub exclude: Globs,
    /// Bytes a second; without it as fast as can be.
    pub pace: Option<NonZeroU64>,
}

/// What became of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every object was looked at.
    Finished,
    /// It was told to stop, and goes on the next time.
    Stopped,
}

struct Job {
    path: Vec<u8>,
    full: PathBuf,
    size: u64,
    mtime_ns: i64,
    known: Option<Object>,
    expected: Vec<Vec<u8>>,
}

struct Answer {
    job: Job,
    result: io::Result<Option<Digests>>,
}

/// Runs the pass of `storage` that is under way, or the next one, and tells what is not as it was.
///
/// # Errors
/// See [`PassError`].
pub fn run(
    database: &mut Database,
    storage: &mut StorageRow,
    plan: &Plan,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
    tell: &mut dyn FnMut(&StorageRow, &Finding) -> Result<(), DatabaseError>,
) -> Result<Ending, PassError> {
    let unreadable = |source| PassError::Storage { path: plan.root.clone(), source };
    let is_empty = fs::read_dir(&plan.root).map_err(unreadable)?.next().is_none();
    if is_empty {
        let objects = database.counts(storage.id)?.objects;
        if objects > 0 {
            return Err(PassError::Empty { path: plan.root.clone(), objects });
        }
    }
    if !storage.is_running {
        let (pass, started_ms) = (storage.pass + 1, clock::now_ms());
        *storage = StorageRow { pass, is_running: true, started_ms, bytes: 0, new: 0, ..storage.clone() };
        database.write(|database| database.keep_storage(storage))?;
    }
    let readers = match plan.pace {
        Some(_) => 1,
        None => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS),
    };
    let (jobs, todo) = sync_channel::<Job>(2 * readers);
    let (answers, done) = sync_channel::<Answer>(4 * readers);
    let todo = Arc::new(Mutex::new(todo));
    let ending = std::thread::scope(|scope| {
        for _ in 0..readers {
            let (todo, answers) = (Arc::clone(&todo), answers.clone());
            let reader = Reader::new(plan.pace.map(Pace::new));
            let work = move || read_all(reader, &todo, &answers, progress, stop);
            let named = std::thread::Builder::new().name("fixity".to_owned()).stack_size(crate::crew::STACK_BYTES);
            named.spawn_scoped(scope, work).map_err(unreadable)?;
        }
        drop(answers);
        let mut pass = Pass {
            database,
            storage,
            plan,
            stop,
            tell,
            batch: Vec::new(),
            since: clock::instant(),
            most_in_flight: 4 * readers,
        };
        let ending = pass.walk(jobs, &done);
        // Readers end when nobody gives them anything and nobody hears them.
        drop(done);
        ending
    })?;
    if ending == Ending::Stopped {
        return Ok(ending);
    }
    tell_missing(database, storage, plan, stop, tell)?;
    if stop.is_cancelled() {
        return Ok(Ending::Stopped);
    }
    (storage.is_running, storage.finished_ms) = (false, clock::now_ms());
    database.write(|database| database.keep_storage(storage))?;
    Ok(Ending::Finished)
}

/// A reader's work: takes jobs until there are none.
fn read_all(
    mut reader: Reader,
    todo: &Mutex<Receiver<Job>>,
    answers: &SyncSender<Answer>,
    progress: &Progress,
    stop: &CancellationToken,
) {
    // Threads of a scope inherit nothing of politeness.
    crate::digitization::polite::yield_to_others();
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let wanted = Wanted {
            sha256: job.expected.iter().any(|digest| digest.len() == 32),
            sha512: job.expected.iter().any(|digest| digest.len() == 64),
        };
        let count = |bytes| {
            progress.bytes.fetch_add(bytes, Relaxed);
        };
        let is_stopped = || stop.is_cancelled();
        let result = File::open(&job.full).and_then(|file| reader.read(file, job.size, wanted, &count, &is_stopped));
        progress.objects.fetch_add(1, Relaxed);
        if answers.send(Answer { job, result }).is_err() {
            return;
        }
    }
}

struct Pass<'a> {
    database: &'a mut Database,
    storage: &'a mut StorageRow,
    plan: &'a Plan,
    stop: &'a CancellationToken,
    tell: &'a mut dyn FnMut(&StorageRow, &Finding) -> Result<(), DatabaseError>,
    batch: Vec<Object>,
    since: Instant,
    most_in_flight: usize,
}

impl Pass<'_> {
    /// Gives every file to the readers and takes their answers.
    fn walk(&mut self, jobs: SyncSender<Job>, done: &Receiver<Answer>) -> Result<Ending, PassError> {
        let unreadable = |source| PassError::Storage { path: self.plan.root.clone(), source };
        let mut open: Vec<ReadDir> = vec![fs::read_dir(&self.plan.root).map_err(unreadable)?];
        self.read_manifests(&self.plan.root.clone())?;
        let mut in_flight = 0_usize;
        while let Some(entries) = open.last_mut() {
            if self.stop.is_cancelled() {
                break;
            }
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            let Ok(entry) = entry else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            if self.plan.exclude.matches(&entry.file_name().to_string_lossy().to_lowercase()) {
                continue;
            }
            let full = entry.path();
            if kind.is_dir() {
                match fs::read_dir(&full) {
                    Ok(inner) if open.len() < MAX_DEPTH => {
                        open.push(inner);
                        self.read_manifests(&full)?;
                    }
                    Ok(_) => tracing::warn!(depth = MAX_DEPTH, "folders are nested too deep; the deepest are left out"),
                    Err(error) => tracing::warn!(%error, "cannot read a folder of a storage"),
                }
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            let Some(job) = self.job(&entry, full)? else { continue };
            while let Ok(answer) = done.try_recv() {
                in_flight -= 1;
                self.take(answer)?;
            }
            // All answers under way must have room: a reader that waits for it takes no job, and nobody would hear it.
            while in_flight >= self.most_in_flight {
                let Ok(answer) = done.recv() else { break };
                in_flight -= 1;
                self.take(answer)?;
            }
            if jobs.send(job).is_err() {
                break;
            }
            in_flight += 1;
            self.commit_if_due()?;
        }
        drop(jobs);
        while let Ok(answer) = done.recv() {
            self.take(answer)?;
            self.commit_if_due()?;
        }
        self.commit()?;
        Ok(if self.stop.is_cancelled() { Ending::Stopped } else { Ending::Finished })
    }

    /// What is to be read of a file; nothing where this pass has.
    fn job(&self, entry: &fs::DirEntry, full: PathBuf) -> Result<Option<Job>, PassError> {
        let Ok(metadata) = entry.metadata() else { return Ok(None) };
        let path = relative(&full, &self.plan.root);
        let known = self.database.object(self.storage.id, &path)?;
        if known.as_ref().is_some_and(|known| known.pass >= self.storage.pass) {
            return Ok(None);
        }
        let expected = self.database.expected(self.storage.id, &path)?;
        let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Ok(Some(Job { path, full, size: metadata.len(), mtime_ns, known, expected }))
    }

    fn take(&mut self, answer: Answer) -> Result<(), PassError> {
        let Answer { job, result } = answer;
        let now_ms = clock::now_ms();
        let pass = self.storage.pass;
        let digests = match result {
            // It was told to stop in the middle.
            Ok(None) => return Ok(()),
            // It went away meanwhile, and is found to be gone at the end.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, storage = self.storage.name, "cannot read an object");
                let expected = job.known.as_ref().map(|known| known.blake3);
                self.find(&job, Outcome::Failed, "unreadable", expected, None)?;
                if let Some(known) = job.known {
                    let reason = Some("unreadable".to_owned());
                    self.batch.push(Object { pass, outcome: Outcome::Failed, reason, ..known });
                }
                return Ok(());
            }
            Ok(Some(digests)) => digests,
        };
        self.storage.bytes += digests.bytes;
        let is_as_manifests_say = job.expected.iter().all(|expected| {
            let found = if expected.len() == 32 { &digests.sha256 } else { &digests.sha512 };
            found.as_ref() == Some(expected)
        });
        let object = Object {
            path: job.path.clone(),
            size: digests.bytes,
            mtime_ns: job.mtime_ns,
            blake3: digests.blake3,
            verified_ms: now_ms,
            pass,
            outcome: Outcome::Good,
            reason: None,
        };
        let (outcome, reason) = match &job.known {
            Some(known) if known.blake3 != digests.blake3 => {
                // Whoever changes a file changes its time; decay does not.
                let is_touched = (known.size, known.mtime_ns) != (digests.bytes, job.mtime_ns);
                (Outcome::Mismatch, if is_touched { "rewritten" } else { "damaged" })
            }
            _ if !is_as_manifests_say => (Outcome::Mismatch, "manifest"),
            _ => (Outcome::Good, "good"),
        };
        self.storage.new += u64::from(job.known.is_none());
        let was_wrong = job.known.as_ref().is_some_and(|known| known.outcome != Outcome::Good);
        if outcome == Outcome::Good {
            if was_wrong {
                self.find(&job, outcome, reason, Some(digests.blake3), Some(digests.blake3))?;
            }
            self.batch.push(object);
            return Ok(());
        }
        let expected = job.known.as_ref().map(|known| known.blake3);
        self.find(&job, outcome, reason, expected, Some(digests.blake3))?;
        // What it must be, and when it last was, stays.
        let known = job.known.unwrap_or(Object { verified_ms: 0, ..object });
        self.batch.push(Object { pass, outcome, reason: Some(reason.to_owned()), ..known });
        Ok(())
    }

    fn find(
        &mut self,
        job: &Job,
        outcome: Outcome,
        reason: &'static str,
        expected: Option<[u8; 32]>,
        found: Option<[u8; 32]>,
    ) -> Result<(), PassError> {
        let good_copy = match expected {
            Some(expected) if outcome != Outcome::Good => {
                self.database.good_copy(self.storage, &job.path, &expected)?
            }
            _ => None,
        };
        let (path, bytes) = (job.path.clone(), job.size);
        (self.tell)(self.storage, &Finding { path, outcome, reason, good_copy, bytes, expected, found })?;
        Ok(())
    }

    fn commit_if_due(&mut self) -> Result<(), PassError> {
        if self.batch.len() >= COMMIT_OBJECTS || (!self.batch.is_empty() && self.since.elapsed() >= COMMIT_AFTER) {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), PassError> {
        let (batch, storage) = (std::mem::take(&mut self.batch), &*self.storage);
        self.database.write(|database| {
            batch.iter().try_for_each(|object| database.keep(storage.id, object))?;
            database.keep_storage(storage)
        })?;
        self.since = clock::instant();
        Ok(())
    }

    /// What BagIt's manifests in a folder say its files must be.
    fn read_manifests(&mut self, dir: &Path) -> Result<(), PassError> {
        for (name, hex_length) in [
            ("manifest-sha256.txt", 64),
            ("manifest-sha512.txt", 128),
            ("tagmanifest-sha256.txt", 64),
            ("tagmanifest-sha512.txt", 128),
        ] {
            let path = dir.join(name);
            let Ok(file) = File::open(&path) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
            let (id, own) = (self.storage.id, relative(&path, &self.plan.root));
            if self.database.has_manifest(id, &own, metadata.len(), mtime_ns)? {
                continue;
            }
            let prefix = relative(dir, &self.plan.root);
            self.database.write(|database| {
                for (digest, target) in manifest_lines(file, hex_length) {
                    let mut object = prefix.clone();
                    if !object.is_empty() {
                        object.push(b'/');
                    }
                    object.extend(target);
                    database.keep_expected(id, &object, &digest)?;
                }
                database.keep_manifest(id, &own, metadata.len(), mtime_ns)
            })?;
        }
        Ok(())
    }
}

/// Objects that the pass has not seen are gone.
fn tell_missing(
    database: &mut Database,
    storage: &StorageRow,
    plan: &Plan,
    stop: &CancellationToken,
    tell: &mut dyn FnMut(&StorageRow, &Finding) -> Result<(), DatabaseError>,
) -> Result<(), PassError> {
    let mut after = Vec::new();
    loop {
        let unseen = database.unseen(storage.id, storage.pass, &after, UNSEEN_STEP)?;
        let Some(last) = unseen.last() else { return Ok(()) };
        after.clone_from(&last.path);
        let mut gone = Vec::new();
        for object in unseen {
            // What can't be seen because a folder can't be read, or was made while the pass ran, is not gone.
            if fs::symlink_metadata(plan.root.join(OsStr::from_bytes(&object.path)))
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            {
                let good_copy = database.good_copy(storage, &object.path, &object.blake3)?;
                let (path, bytes, expected) = (object.path.clone(), object.size, Some(object.blake3));
                let outcome = Outcome::Missing;
                tell(storage, &Finding { path, outcome, reason: "gone", good_copy, bytes, expected, found: None })?;
                gone.push(Object { pass: storage.pass, outcome, reason: Some("gone".to_owned()), ..object });
            }
        }
        database.write(|database| gone.iter().try_for_each(|object| database.keep(storage.id, object)))?;
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

fn relative(path: &Path, root: &Path) -> Vec<u8> {
    path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().to_vec()
}

/// Digest and path of the lines of a manifest; lines that are none are left out.
pub(crate) fn manifest_lines(file: File, hex_length: usize) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        loop {
            line.clear();
            let read = io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line).ok()?;
            if read == 0 {
                return None;
            }
            if let Some(parsed) = manifest_line(&line, hex_length) {
                return Some(parsed);
            }
        }
    })
}

/// `<hexadecimal digest> <white space, perhaps *><path, with line ends and % encoded>` (RFC 8493, 2.1.3).
pub(crate) fn manifest_line(line: &[u8], hex_length: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let (hex, rest) = line.split_at_checked(hex_length)?;
    let digest: Option<Vec<u8>> = hex
        .chunks_exact(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    let blank = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let path = rest.get(blank..).filter(|_| blank > 0)?;
    let path = path.strip_prefix(b"*").unwrap_or(path);
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let end = path.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    let (mut decoded, mut left) = (Vec::new(), path.get(..end)?);
    while let Some((&first, after)) = left.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [b'0', b'A' | b'a', after @ ..]) => (b'\n', after),
            (b'%', [b'0', b'D' | b'd', after @ ..]) => (b'\r', after),
            (b'%', [b'2', b'5', after @ ..]) => (b'%', after),
            _ => (first, after),
        };
        decoded.push(byte);
        left = after;
    }
    (!decoded.is_empty()).then_some((digest?, decoded))
}
