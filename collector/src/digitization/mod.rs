//! The digitization of an archive: its inventory, the ledger of what happens to each unit, how far it is and when it
//! will be done.
//!
//! Invariants: lengths are whole millimetres, days are those of the project's time zone, no person is known by default;
//! what was answered to a sender is on disk. What it deliberately does not do: serve HTTP or speak MQTT; `web` and
//! `ingest` hand in what came.

pub mod calendar;
mod checkpoint;
pub mod downtime;
pub mod earned;
pub mod event;
pub mod facts;
mod fields;
pub mod forecast;
#[doc(hidden)]
pub mod fuzz;
pub mod holdings;
#[cfg(test)]
mod honesty_tests;
#[cfg(test)]
mod hostile_tests;
pub mod inventory;
mod log;
pub mod lots;
pub mod metrics;
pub mod office;
pub mod pack;
pub mod privacy;
pub mod progress;
pub mod provenance;
pub mod quality;
pub mod report;
pub mod runway;
pub mod sampling;
pub mod sender;
pub mod settings;
pub mod stage;
pub mod standing;
pub mod state;
pub mod strata;
#[cfg(test)]
mod tests;
pub mod unit;
pub mod views;
pub mod what_if;
pub mod workflow;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use serde_json::json;
use veghe_model::Timestamp;

pub use self::calendar::{Calendar, Day};
pub use self::log::{Search, Shown, Version, midnight};
pub use self::settings::Settings;
pub use self::stage::Stage;
pub use self::state::State;

pub(crate) use self::checkpoint::SCHEMA as CHECKPOINT_SCHEMA;
pub(crate) use self::log::{PROVENANCE_SCHEMA, SCHEMA, TIME_SCHEMA};
pub(crate) use self::pack::SCHEMA as REPORT_SCHEMA;
pub(crate) use self::privacy::people::SCHEMA as PRIVACY_SCHEMA;
pub(crate) use self::workflow::SCHEMA as WORKFLOW_SCHEMA;

use self::event::{Data, Event, OWN_SOURCE, Refused};
use self::inventory::Diff;
use self::log::{Entry, Key};
use self::privacy::Door;
use self::privacy::keys::KeyError;
use self::state::Stored;
use self::unit::Unit;
use crate::ledger::{Ledger, LedgerError};

/// Events of one transaction: other users of the ledger wait for some tens of milliseconds at most.
const TRANSACTION_EVENTS: usize = 5000;

/// How far ahead of the collector's clock an event may be: 10 min.
const FUTURE_MS: i64 = 600_000;

/// The project. Cloning shares it. Its methods block: call them from a blocking thread.
#[derive(Clone)]
pub struct Digitization {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    ledger: Ledger,
    state: RwLock<State>,
    /// Whose turn it is to write to the ledger, and what is in it already.
    writer: Mutex<Writer>,
    /// Who waits for the turn; whoever gets it writes for all.
    waiting: Mutex<Vec<Arc<Ticket>>>,
    report: report::Cache,
    door: Door,
    /// The free space of the storages, in the order of the settings.
    readings: Mutex<Vec<runway::Reading>>,
}

/// Not what is in it: that may be much, and titles of files are nobody's business.
impl fmt::Debug for Digitization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digitization").finish_non_exhaustive()
    }
}

struct Writer {
    seen: HashSet<Key, BuildHasherDefault<FirstBytes>>,
    next_seq: u64,
    /// The event that the last checkpoint stands for.
    checkpoint_seq: u64,
}

impl Writer {
    /// Keeps a checkpoint where enough happened since the last. A failure costs the next start time and nothing else.
    fn checkpoint(&mut self, ledger: &Ledger, state: &State, settings: &Settings) {
        if state.last_seq < self.checkpoint_seq + checkpoint::EVERY_EVENTS {
            return;
        }
        self.checkpoint_seq = state.last_seq;
        if let Err(error) = checkpoint::save(ledger, state, settings) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot keep a checkpoint; the next start reads more events"
            );
        }
    }
}

/// The keys are digests already.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

/// Events of one sender on their way.
struct Ticket {
    events: Mutex<Vec<Result<Event, Refused>>>,
    received: Timestamp,
    outcome: Mutex<Option<Result<Receipt, Arc<LedgerError>>>>,
}

/// What became of a sender's events; those not refused are on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// New ones.
    pub accepted: u64,
    /// Ones that were there already; they changed nothing.
    pub repeated: u64,
    /// New ones about units that are not known; they count as soon as the unit is.
    pub quarantined: u64,
    /// Ones that are wrong, by their place in what was sent.
    pub refused: Vec<(usize, Refused)>,
}

/// Why a project can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ledger.
    #[error("cannot read the digitization project")]
    Ledger(#[from] LedgerError),
    /// The keys of pseudonyms.
    #[error("cannot keep pseudonyms")]
    Keys(#[from] KeyError),
}

/// Why an inventory is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It was compared with a version that is in force no more.
    #[error("the inventory has version {found} by now, not {expected}; compare with that one first")]
    Moved {
        /// What it was compared with.
        expected: u32,
        /// What is in force.
        found: u32,
    },
    /// The ledger.
    #[error("cannot keep the inventory")]
    Ledger(#[from] LedgerError),
}

/// Why days are not frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// They are not over.
    #[error("{0} is not over yet; only past days can be frozen")]
    NotPast(Day),
    /// The ledger.
    #[error("cannot freeze days")]
    Ledger(#[from] LedgerError),
}

impl Digitization {
    /// The project that `ledger` holds: its last checkpoint, and the events after it.
    ///
    /// # Errors
    /// Where the ledger or the keys of pseudonyms can't be read.
    pub fn open(ledger: Ledger, settings: Settings) -> Result<Self, OpenError> {
        let door = Door::open(&settings.privacy)?;
        let (state, keys, checkpoint_seq) = ledger.with(|connection| {
            let keys = log::keys(connection)?;
            let checkpoint = checkpoint::load(connection, &settings, keys.len() as u64)?;
            let checkpoint_seq = checkpoint.as_ref().map_or(0, |state| state.last_seq);
            let state = log::replay(connection, checkpoint.unwrap_or_default(), &settings)?;
            Ok((state, keys, checkpoint_seq))
        })?;
        let next_seq = keys.len() as u64 + 1;
        let mut writer = Writer { seen: keys.into_iter().collect(), next_seq, checkpoint_seq };
        writer.checkpoint(&ledger, &state, &settings);
        let writer = Mutex::new(writer);
        let readings = vec![runway::Reading::NotYet; settings.storages.len()];
        let inner = Inner {
            settings,
            ledger,
            state: RwLock::new(state),
            writer,
            waiting: Mutex::default(),
            report: Mutex::default(),
            door,
            readings: Mutex::new(readings),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A project with nothing in it that forgets everything; for tests.
    ///
    /// # Panics
    /// Where there is no memory.
    pub fn in_memory(settings: Settings) -> Self {
        let ledger = Ledger::in_memory().expect("invariant: memory is a database");
        Self::open(ledger, settings).expect("invariant: an empty ledger can be read")
    }

    /// What the project's people decided.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The project as it is. Writers wait while it is held: be quick.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events in, together with those of whoever else waits; they are on disk when this returns.
    ///
    /// # Errors
    /// Where the ledger can't be written; a repeat is harmless then.
    ///
    /// # Panics
    /// Never: who has the turn answers everybody.
    pub fn submit(
        &self,
        events: Vec<Result<Event, Refused>>,
        received: Timestamp,
    ) -> Result<Receipt, Arc<LedgerError>> {
        let ticket = Arc::new(Ticket { events: Mutex::new(events), received, outcome: Mutex::default() });
        lock(&self.inner.waiting).push(Arc::clone(&ticket));
        let mut writer = lock(&self.inner.writer);
        if let Some(outcome) = lock(&ticket.outcome).take() {
            return outcome;
        }
        let tickets = std::mem::take(&mut *lock(&self.inner.waiting));
        self.write(&mut writer, &tickets);
        let outcome = lock(&ticket.outcome).take();
        outcome.expect("invariant: who has the turn answers everybody who waits")
    }

    /// Writes the events of `tickets`, a bounded number in each transaction, and answers them.
    fn write(&self, writer: &mut Writer, tickets: &[Arc<Ticket>]) {
        let mut receipts = vec![Receipt::default(); tickets.len()];
        let mut group: Vec<(usize, usize, Event)> = Vec::new();
        let mut failure: Option<Arc<LedgerError>> = None;
        let mut flush = |group: &mut Vec<(usize, usize, Event)>, receipts: &mut Vec<Receipt>| {
            if failure.is_none() && !group.is_empty() {
                let received = |ticket: usize| tickets[ticket].received;
                match self.commit(writer, std::mem::take(group), received, receipts) {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "cannot keep events; they come again"
                        );
                        failure = Some(Arc::new(error));
                    }
                }
            }
            group.clear();
        };
        for (ticket, waiting) in tickets.iter().enumerate() {
            for (place, event) in std::mem::take(&mut *lock(&waiting.events)).into_iter().enumerate() {
                match event {
                    Ok(event) => group.push((ticket, place, event)),
                    Err(refused) => receipts[ticket].refused.push((place, refused)),
                }
                if group.len() >= TRANSACTION_EVENTS {
                    flush(&mut group, &mut receipts);
                }
            }
        }
        flush(&mut group, &mut receipts);
        for (waiting, mut receipt) in tickets.iter().zip(receipts) {
            receipt.refused.sort_by_key(|(place, _)| *place);
            let outcome = match &failure {
                None => Ok(receipt),
                Some(error) => Err(Arc::clone(error)),
            };
            *lock(&waiting.outcome) = Some(outcome);
        }
    }

    /// One transaction, and then its effect.
    fn commit(
        &self,
        writer: &mut Writer,
        group: Vec<(usize, usize, Event)>,
        received: impl Fn(usize) -> Timestamp,
        receipts: &mut [Receipt],
    ) -> Result<(), LedgerError> {
        let mut entries: Vec<(usize, Entry)> = Vec::with_capacity(group.len());
        let mut fresh: HashMap<Key, u64> = HashMap::new();
        let mut tally = vec![Receipt::default(); receipts.len()];
        {
            let state = self.state();
            for (ticket, place, event) in group {
                let key = log::key(&event.source, &event.id);
                if writer.seen.contains(&key) || fresh.contains_key(&key) {
                    tally[ticket].repeated += 1;
                    continue;
                }
                let objection = if event.time.0 > received(ticket).0.saturating_add(FUTURE_MS) {
                    Some(("time".to_owned(), "is more than ten minutes ahead; set the sender's clock".to_owned()))
                } else {
                    state.objection(&event.data).map(|(field, message)| (field.to_owned(), message))
                };
                let mut corrects = None;
                let problem = match &event.data {
                    Data::Correction { source, id } if objection.is_none() => {
                        let wrong = log::key(source, id);
                        corrects = match fresh.get(&wrong) {
                            Some(seq) => Some(*seq),
                            None if writer.seen.contains(&wrong) => self.inner.ledger.with(|c| log::find(c, wrong))?,
                            None => None,
                        };
                        let unknown = || ("data.id".to_owned(), "names no event that is known here".to_owned());
                        corrects.is_none().then(unknown)
                    }
                    _ => objection,
                };
                let (problem, person) = match problem {
                    Some(problem) => (Some(problem), None),
                    None => match self.at_the_door(&event, received(ticket)) {
                        Ok(person) => (None, person),
                        Err(problem) => (Some(problem), None),
                    },
                };
                if let Some(problem) = problem {
                    tally[ticket].refused.push((place, Refused { id: Some(event.id), problems: vec![problem] }));
                    continue;
                }
                let seq = writer.next_seq + entries.len() as u64;
                fresh.insert(key, seq);
                entries.push((ticket, Entry { seq, key, received: received(ticket), corrects, event, person }));
            }
        }
        let mut rows: Vec<Entry> = Vec::with_capacity(entries.len());
        for (ticket, entry) in entries {
            tally[ticket].accepted += 1;
            tally[ticket].quarantined += u64::from(self.state().would_wait(&entry.event.data));
            rows.push(entry);
        }
        if !rows.is_empty() {
            self.keep(writer, rows, |_transaction| Ok(()))?;
            writer.checkpoint(&self.inner.ledger, &self.state(), &self.inner.settings);
        }
        for (receipt, tally) in receipts.iter_mut().zip(tally) {
            receipt.accepted += tally.accepted;
            receipt.repeated += tally.repeated;
            receipt.quarantined += tally.quarantined;
            receipt.refused.extend(tally.refused);
        }
        Ok(())
    }

    /// Writes `rows` and what `more` writes in one transaction and lets the state take them. What the state needs is read
    /// within the transaction: once it is on disk nothing can fail.
    fn keep<T>(
        &self,
        writer: &mut Writer,
        rows: Vec<Entry>,
        more: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let keys: Vec<Key> = rows.iter().map(|row| row.key).collect();
        let (effects, made) = self.inner.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            let made = more(&transaction)?;
            log::append(&transaction, &rows)?;
            let state = self.state();
            // Units that a row of this transaction is about may be made known by a later one.
            let about: HashSet<String> = rows
                .iter()
                .filter(|row| state.would_wait(&row.event.data))
                .filter_map(|row| row.event.data.unit())
                .map(str::to_owned)
                .collect();
            let effects: rusqlite::Result<Vec<log::Effect>> = rows
                .into_iter()
                .map(|row| {
                    let Entry { seq, received, corrects, event, .. } = row;
                    let event = Stored { seq, time: event.time, received, data: event.data };
                    let is_awaited = |unit: &str| state.quarantine.contains_key(unit) || about.contains(unit);
                    log::effect(&transaction, event, corrects, is_awaited)
                })
                .collect();
            drop(state);
            let effects = effects?;
            transaction.commit()?;
            Ok((effects, made))
        })?;
        writer.next_seq += keys.len() as u64;
        writer.seen.extend(keys);
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        for effect in &effects {
            log::take(&mut state, effect, &self.inner.settings);
        }
        Ok(made)
    }

    /// What adopting `units` as the inventory would change, and the version it was compared with; 0 is none.
    pub fn propose(&self, units: &[Unit]) -> (u32, Diff) {
        let state = self.state();
        let version = state.baseline.map_or(0, |(version, _)| version);
        (version, inventory::compare(state.scope().map(|unit| &unit.unit), units))
    }

    /// Makes `units` the inventory in force, as the version after `compared_with`.
    ///
    /// # Errors
    /// See [`AdoptError`]; then nothing changed.
    pub fn adopt(&self, units: &[Unit], compared_with: u32, note: &str, now: Timestamp) -> Result<u32, AdoptError> {
        let mut writer = lock(&self.inner.writer);
        let found = self.state().baseline.map_or(0, |(version, _)| version);
        if found != compared_with {
            return Err(AdoptError::Moved { expected: compared_with, found });
        }
        let (version, csv) = (found + 1, inventory::to_csv(units));
        let note: String = note.chars().filter(|c| !c.is_control()).take(256).collect();
        let data = Data::BaselineAdopted { version };
        let json = json!({ "version": version, "units": units.len() }).to_string();
        let row = own(&writer, format!("baseline:{version}"), data, json, now);
        self.keep(&mut writer, vec![row], |transaction| log::keep_baseline(transaction, version, now, &note, &csv))?;
        Ok(version)
    }

    /// Leaves every day up to `through` as it is; what comes for them later is booked on the day when it comes.
    ///
    /// # Errors
    /// See [`FreezeError`].
    pub fn freeze(&self, through: Day, now: Timestamp) -> Result<(), FreezeError> {
        if through >= Day::at(now, &self.inner.settings.time_zone) {
            return Err(FreezeError::NotPast(through));
        }
        let mut writer = lock(&self.inner.writer);
        if self.state().frozen_through.is_some_and(|frozen| frozen >= through) {
            return Ok(());
        }
        let row = frozen(&writer, through, now);
        Ok(self.keep(&mut writer, vec![row], |_transaction| Ok(()))?)
    }

    /// Events about `unit` after the one numbered `after`, at most `most`.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn history(&self, unit: &str, after: u64, most: usize) -> Result<Vec<Shown>, LedgerError> {
        self.inner.ledger.with(|connection| log::history(connection, unit, after, most))
    }

    /// Events that are wanted, in the ledger's order.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn search(&self, search: &Search) -> Result<Vec<Shown>, LedgerError> {
        self.inner.ledger.with(|connection| log::search(connection, search))
    }

    /// Every version of the inventory, the newest first.
    ///
    /// # Errors
    /// Where the ledger can't be read.
    pub fn versions(&self) -> Result<Vec<Version>, LedgerError> {
        self.inner.ledger.with(|connection| log::versions(connection))
    }
}

fn frozen(writer: &Writer, through: Day, now: Timestamp) -> Entry {
    let json = json!({ "through": through.0 }).to_string();
    own(writer, format!("frozen:{through}"), Data::DaysFrozen { through: through.0 }, json, now)
}

fn own(writer: &Writer, id: String, data: Data, json: String, now: Timestamp) -> Entry {
    let person = privacy::Stripped::default();
    let event = Event { source: OWN_SOURCE.to_owned(), id, time: now, data, json, person };
    let key = log::key(&event.source, &event.id);
    Entry { seq: writer.next_seq, key, received: now, corrects: None, event, person: None }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
