//! Fixity: whether every master is still what it was, on every storage, whole pass after whole pass at a polite pace.
//!
//! Names of objects are in the database, in what the commands print and in events for the collector's ledger; they are no labels of
//! metrics. What it deliberately does not do: mend anything.

pub mod command;
pub mod database;
pub mod pass;
mod reader;
pub mod settings;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use veghe_wire::AgentId;

use self::database::{Counts, Database, Outcome, StorageRow};
use self::pass::{Ending, Finding, PassError, Plan, Progress};
pub use self::settings::{Settings, Storage};
use crate::clock;
use crate::database::DatabaseError;
use crate::digitization::event::Draft;
use crate::digitization::store::Store;
use crate::digitization::{LAST_WAIT, join_soon, start};
use crate::reading::Sink;
use crate::sensors::{Sensor, SensorError};

/// How often a running pass is told, and its numbers are counted anew.
const TELL_EVERY: Duration = Duration::from_mins(5);
/// How long to wait where a storage can't be read.
const RETRY: Duration = Duration::from_mins(1);
/// The longest sleep, so that an end is noticed.
const NAP: Duration = Duration::from_millis(500);
/// Objects that differ from their copies that one pass names.
const MAX_DIFFERING: usize = 1000;
/// Bytes of an object's name in an event, as the collector bounds it.
const MAX_NAME: usize = 1024;

/// What one storage has to say as metrics.
#[derive(Debug, Default)]
struct StorageStatus {
    name: String,
    is_up: AtomicBool,
    is_running: AtomicBool,
    pass: AtomicU64,
    counts: [AtomicU64; 4],
    copies_differ: AtomicU64,
    oldest_verified_ms: AtomicI64,
    finished_ms: AtomicI64,
    progress: Arc<Progress>,
}

const OUTCOMES: [Outcome; 4] = [Outcome::Good, Outcome::Mismatch, Outcome::Missing, Outcome::Failed];

/// Running verification of every storage.
#[derive(Debug)]
pub struct Fixity {
    threads: Vec<JoinHandle<()>>,
    status: Vec<Arc<StorageStatus>>,
}

impl Fixity {
    /// Starts a thread for each storage; they end when `stop` is cancelled. Events go where the digitization's go.
    ///
    /// # Errors
    /// Where a database can't be used.
    pub fn start(
        settings: &Settings,
        agent: &AgentId,
        state_dir: &Path,
        news: &Arc<Notify>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (mut threads, mut all) = (Vec::new(), Vec::new());
        for storage in &settings.storages {
            let status = Arc::new(StorageStatus { name: storage.name.clone(), ..StorageStatus::default() });
            let keeper = Keeper {
                database: Database::open(&state_dir.join(database::FILE))?,
                storage: storage.clone(),
                teller: Teller {
                    agent: agent.clone(),
                    outbox: Store::open(state_dir)?,
                    news: Arc::clone(news),
                    status: Arc::clone(&status),
                },
                stop: stop.clone(),
            };
            threads.extend(start(&format!("fixity-{}", storage.name), move || keeper.keep()));
            all.push(status);
        }
        Ok(Self { threads, status: all })
    }

    /// What tells of it as metrics.
    pub fn sensor(&self) -> Box<dyn Sensor> {
        Box::new(FixitySensor(self.status.clone()))
    }

    /// Waits until every pass has ended, which it does soon after it was told to.
    pub fn join(self) {
        join_soon(self.threads, clock::instant() + LAST_WAIT);
    }
}

/// Verifies one storage for ever.
struct Keeper {
    database: Database,
    storage: Storage,
    teller: Teller,
    stop: CancellationToken,
}

impl Keeper {
    fn keep(mut self) {
        let mut told_trouble = false;
        while !self.stop.is_cancelled() {
            match self.step() {
                Ok(rest) => {
                    told_trouble = false;
                    self.teller.status.is_up.store(true, Relaxed);
                    self.rest(rest);
                }
                Err(error) => {
                    self.teller.status.is_up.store(false, Relaxed);
                    if !std::mem::replace(&mut told_trouble, true) {
                        tracing::error!(
                            error = &*error as &dyn std::error::Error,
                            storage = self.storage.name,
                            "cannot verify a storage; it is tried again"
                        );
                    }
                    self.rest(RETRY);
                }
            }
        }
    }

    /// Runs a pass where one is due; gives how long to rest then.
    fn step(&mut self) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
        let root = self.storage.path.as_os_str().as_bytes();
        let mut row = self.database.storage(&self.storage.name, root, self.storage.copies.as_deref())?;
        self.teller.count(&self.database, &row)?;
        let due_ms = row.finished_ms.saturating_add(i64::try_from(self.storage.every.as_millis()).unwrap_or(i64::MAX));
        if !row.is_running && row.pass > 0 && clock::now_ms() < due_ms {
            return Ok(TELL_EVERY.min(Duration::from_millis((due_ms - clock::now_ms()).max(0).unsigned_abs())));
        }
        let plan = Plan {
            root: self.storage.path.clone(),
            exclude: self.storage.exclude.clone(),
            pace: Some(self.storage.pace),
        };
        self.teller.status.is_running.store(true, Relaxed);
        let progress = Arc::clone(&self.teller.status.progress);
        let watch = StopWatch::start(&self.storage.name, &self.teller, &self.database, &self.stop)?;
        let teller = &mut self.teller;
        let mut failed: Option<DatabaseError> = None;
        let ending = pass::run(&mut self.database, &mut row, &plan, &progress, &self.stop, &mut |row, finding| {
            // What can't be told now is told by the next pass: the object stays as it is found.
            failed = failed.take().or(teller.tell_finding(row, finding).err());
            Ok(())
        });
        watch.end();
        self.teller.status.is_running.store(false, Relaxed);
        if let Some(error) = failed {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot tell of objects; the report has them");
        }
        match ending {
            Ok(Ending::Stopped) => return Ok(Duration::ZERO),
            Ok(Ending::Finished) => {}
            Err(error @ (PassError::Storage { .. } | PassError::Empty { .. } | PassError::Database(_))) => {
                return Err(error.into());
            }
        }
        if row.copies.is_some() {
            let (differing, count) = self.database.differing_copies(&row, MAX_DIFFERING)?;
            self.teller.status.copies_differ.store(count, Relaxed);
            for (path, other) in &differing {
                self.teller.tell_copy(&row, path, other)?;
            }
        }
        self.teller.count(&self.database, &row)?;
        self.teller.tell_pass(&self.database, &row)?;
        tracing::info!(storage = row.name, pass = row.pass, bytes = row.bytes, "a pass of fixity is finished");
        Ok(Duration::ZERO)
    }

    fn rest(&self, time: Duration) {
        let end = clock::instant() + time;
        while !self.stop.is_cancelled() && clock::instant() < end {
            std::thread::sleep(end.saturating_duration_since(clock::instant()).min(NAP));
        }
    }
}

/// Tells now and then how far a pass is, with a connection of its own.
struct StopWatch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StopWatch {
    fn start(
        name: &str,
        teller: &Teller,
        database: &Database,
        stop: &CancellationToken,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let over = Arc::new(AtomicBool::new(false));
        let (path, outbox_dir) = (database.path().to_owned(), teller.outbox.dir().to_owned());
        let mut own = Teller {
            agent: teller.agent.clone(),
            outbox: Store::open(&outbox_dir)?,
            news: Arc::clone(&teller.news),
            status: Arc::clone(&teller.status),
        };
        let database = Database::open(&path)?;
        let (name, is_over, stop) = (name.to_owned(), Arc::clone(&over), stop.clone());
        let work = move || {
            let mut next = clock::instant() + TELL_EVERY;
            while !is_over.load(Relaxed) && !stop.is_cancelled() {
                std::thread::sleep(NAP);
                if clock::instant() < next {
                    continue;
                }
                next = clock::instant() + TELL_EVERY;
                let told = database.storages().map_err(Into::into).and_then(|storages| {
                    let row = storages.into_iter().find(|row| row.name == name);
                    row.map_or(Ok(()), |row| {
                        own.count(&database, &row)?;
                        own.tell_pass(&database, &row)
                    })
                });
                let told: Result<(), Box<dyn std::error::Error + Send + Sync>> = told;
                if let Err(error) = told {
                    tracing::warn!(error = &*error as &dyn std::error::Error, "cannot tell how far a pass is");
                }
            }
        };
        Ok(Self { over, thread: start("fixity-tell", work) })
    }

    fn end(self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread {
            // It only sleeps and tells.
            thread.join().ok();
        }
    }
}

/// Tells the collector and the metrics.
struct Teller {
    agent: AgentId,
    outbox: Store,
    news: Arc<Notify>,
    status: Arc<StorageStatus>,
}

impl Teller {
    fn count(&self, database: &Database, row: &StorageRow) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Counts { good, mismatch, missing, failed, .. } = database.counts(row.id)?;
        for (counter, count) in self.status.counts.iter().zip([good, mismatch, missing, failed]) {
            counter.store(count, Relaxed);
        }
        self.status.oldest_verified_ms.store(database.oldest_verified_ms(row.id)?.unwrap_or(0), Relaxed);
        self.status.pass.store(row.pass, Relaxed);
        self.status.finished_ms.store(row.finished_ms, Relaxed);
        Ok(())
    }

    fn tell(&mut self, kind: &str, about: &[&[u8]], data: Map<String, Value>) -> Result<(), DatabaseError> {
        let now_ms = clock::now_ms();
        let draft = Draft { agent: &self.agent, station: None, kind, time_ms: now_ms, about, data };
        let event = draft.to_json(now_ms);
        self.outbox.write(|changes| changes.tell(&event))?;
        self.news.notify_one();
        Ok(())
    }

    fn tell_finding(&mut self, row: &StorageRow, finding: &Finding) -> Result<(), DatabaseError> {
        let mut data = Map::new();
        data.insert("storage".to_owned(), json!(row.name));
        data.insert("outcome".to_owned(), json!(finding.outcome.name()));
        data.insert("object".to_owned(), json!(shown(&finding.path)));
        data.insert("bytes".to_owned(), json!(finding.bytes));
        data.insert("algorithm".to_owned(), json!("blake3"));
        if finding.outcome != Outcome::Good {
            data.insert("reason".to_owned(), json!(finding.reason));
        }
        if let Some(copy) = &finding.good_copy {
            data.insert("good_copy".to_owned(), json!(copy));
        }
        let (started, pass) = (row.started_ms.to_le_bytes(), row.pass.to_le_bytes());
        let about = [row.name.as_bytes(), &finding.path, &started, &pass, finding.outcome.name().as_bytes()];
        self.tell("fixity.checked", &about, data)
    }

    fn tell_copy(&mut self, row: &StorageRow, path: &[u8], other: &str) -> Result<(), DatabaseError> {
        let mut data = Map::new();
        data.insert("storage".to_owned(), json!(row.name));
        data.insert("outcome".to_owned(), json!("mismatch"));
        data.insert("object".to_owned(), json!(shown(path)));
        data.insert("reason".to_owned(), json!("copy"));
        let (started, pass) = (row.started_ms.to_le_bytes(), row.pass.to_le_bytes());
        let about = [row.name.as_bytes(), path, &started, &pass, other.as_bytes()];
        self.tell("fixity.checked", &about, data)
    }

    fn tell_pass(
        &mut self,
        database: &Database,
        row: &StorageRow,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let counts = database.counts(row.id)?;
        let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string();
        let mut data = Map::new();
        let state = if row.is_running { "running" } else { "finished" };
        for (name, value) in [
            ("storage", json!(row.name)),
            ("pass", json!(row.pass)),
            ("state", json!(state)),
            ("started", json!(time(row.started_ms))),
            ("objects", json!(counts.objects)),
            ("ok", json!(counts.good)),
            ("mismatch", json!(counts.mismatch)),
            ("missing", json!(counts.missing)),
            ("error", json!(counts.failed)),
            ("new", json!(row.new)),
            ("bytes", json!(row.bytes)),
            ("copies_differ", json!(self.status.copies_differ.load(Relaxed))),
        ] {
            data.insert(name.to_owned(), value);
        }
        if let Some(oldest) = database.oldest_verified_ms(row.id)?.filter(|ms| *ms > 0) {
            data.insert("oldest_verified".to_owned(), json!(time(oldest)));
        }
        let (started, pass, bytes) = (row.started_ms.to_le_bytes(), row.pass.to_le_bytes(), row.bytes.to_le_bytes());
        Ok(self.tell("fixity.pass", &[row.name.as_bytes(), &started, &pass, &bytes, state.as_bytes()], data)?)
    }
}

/// A path for a person.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = Path::new(OsStr::from_bytes(path)).to_string_lossy();
    let mut shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    while shown.len() > MAX_NAME {
        shown.pop();
    }
    shown
}

/// `fixity_*`.
struct FixitySensor(Vec<Arc<StorageStatus>>);

impl Sensor for FixitySensor {
    fn name(&self) -> &'static str {
        "fixity"
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let now_ms = clock::now_ms();
        for status in &self.0 {
            let label = [("storage", status.name.as_str())];
            let flag = |flag: &AtomicBool| f64::from(u8::from(flag.load(Relaxed)));
            sink.put("fixity_up", &label, flag(&status.is_up));
            sink.put("fixity_pass", &label, status.pass.load(Relaxed) as f64);
            sink.put("fixity_pass_running", &label, flag(&status.is_running));
            for (outcome, count) in OUTCOMES.iter().zip(&status.counts) {
                let labels = [("outcome", outcome.name()), ("storage", status.name.as_str())];
                sink.put("fixity_objects", &labels, count.load(Relaxed) as f64);
            }
            sink.put("fixity_copies_differing", &label, status.copies_differ.load(Relaxed) as f64);
            sink.put("fixity_read_bytes_total", &label, status.progress.bytes.load(Relaxed) as f64);
            sink.put("fixity_read_objects_total", &label, status.progress.objects.load(Relaxed) as f64);
            let oldest = status.oldest_verified_ms.load(Relaxed);
            if oldest > 0 {
                let age = (now_ms - oldest).max(0) as f64 / 1000.0;
                sink.put("fixity_oldest_unverified_seconds", &label, age);
            }
            let finished = status.finished_ms.load(Relaxed);
            if finished > 0 {
                sink.put("fixity_last_pass_timestamp_seconds", &label, finished as f64 / 1000.0);
            }
        }
        Ok(())
    }
}
