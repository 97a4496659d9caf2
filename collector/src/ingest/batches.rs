//! From payloads to one commit to answers: dictionaries, limits, repeats and what becomes of each batch.
//!
//! Invariants: a batch is accepted only after its samples and its mark are in one durable commit, or were before; a
//! failed commit changes nothing here; every index, length and name from outside is checked before use. What it
//! deliberately does not do: wait, ask for the time, log or count. `super` does, from the [`Outcome`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use veghe_model::{Labels, LabelsBuilder, METRIC_NAME, Timestamp, is_label_name, is_metric_name};
use veghe_tsdb::{Column, Commit, CommitError, GroupId, SeriesError, SeriesId, Stats, Store};
use veghe_wire::ack::{Ack, Hold, HoldCause, Refusal};
use veghe_wire::batch::{Batch, Decoder, Dictionary, PayloadError, SeriesDefinition};
use veghe_wire::{AgentId, MINOR};

use super::marks::{self, Marks};

/// What one agent may send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Series of one run of an agent; 50,000.
    pub series: usize,
    /// Labels of one series, its name and what the collector adds not counted; 64.
    pub labels: usize,
    /// Bytes of a label's name or a metric's name; 256.
    pub name_bytes: usize,
    /// Bytes of a label's value; 2,048.
    pub value_bytes: usize,
    /// Bytes of all labels of one series together; 32 KiB, half of what the store takes.
    pub series_bytes: usize,
    /// Bytes of the labels of all series of one run together; 32 MiB, half of what one commit may hold.
    pub run_bytes: usize,
    /// Columns in one batch; 1,000. A batch has one per sensor.
    pub columns: usize,
    /// How far ahead of the collector's clock a time stamp may be; 10 min.
    pub future: Duration,
    /// Runs of agents whose dictionaries are in memory; 4,096. One that fell out is asked for its dictionary again.
    pub runs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            series: 50_000,
            labels: 64,
            name_bytes: 256,
            value_bytes: 2048,
            series_bytes: 32 << 10,
            run_bytes: 32 << 20,
            columns: 1000,
            future: Duration::from_mins(10),
            runs: 4096,
        }
    }
}

/// Layouts of one run; an agent has one per sensor and set of series.
const MAX_LAYOUTS: usize = 4096;
/// Series in all layouts of one run together, as a multiple of [`Limits::series`].
const MEMBERS_PER_SERIES: usize = 8;
/// Runs of one agent in memory: it can't push out those of others.
const RUNS_PER_AGENT: usize = 4;
/// A commit is closed when it has this many samples, so that memory and time of one are bounded.
const COMMIT_SAMPLES: usize = 200_000;
/// Before any clock that was ever set: 2000-01-01. Machines without a battery start in 1970.
const EARLIEST: Timestamp = Timestamp(946_684_800_000);
/// No clock is right after it: 2200-01-01. The store numbers windows far beyond, whatever the collector's clock says.
const LATEST: Timestamp = Timestamp(7_258_118_400_000);
/// What the store needs for each series and each label beside their text.
const LABEL_OVERHEAD_BYTES: usize = 16;
/// When agents try again after the store failed once; doubles with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_mins(1);
/// How soon an agent may send its dictionary: at once.
const RETRY_AT_ONCE: Duration = Duration::ZERO;
/// When an agent with another major version asks again.
const RETRY_VERSION: Duration = Duration::from_mins(5);

/// Any reason why the store can't do something.
pub(crate) type StorageError = Box<dyn Error + Send + Sync>;

/// What ingest needs of the store; a seam for stores that fail.
pub(crate) trait Storage: Send + Sync + 'static {
    /// See [`Store::series`].
    fn series(&self, labels: &Labels) -> Result<SeriesId, StorageError>;
    /// See [`Store::group`].
    fn group(&self, series: &[SeriesId]) -> GroupId;
    /// See [`Store::commit`].
    fn commit(&self, commit: Commit) -> Result<(), StorageError>;
    /// See [`Store::commit_from_reserve`].
    fn commit_from_reserve(&self, commit: Commit) -> Result<(), StorageError> {
        self.commit(commit)
    }
    /// See [`Store::mark`].
    fn mark(&self, key: &[u8]) -> Option<Vec<u8>>;
    /// See [`Store::marks`].
    fn marks(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)>;
    /// See [`Store::stats`].
    fn stats(&self) -> Stats;
}

impl Storage for Store {
    fn series(&self, labels: &Labels) -> Result<SeriesId, StorageError> {
        Ok(Self::series(self, labels)?)
    }
    fn group(&self, series: &[SeriesId]) -> GroupId {
        Self::group(self, series)
    }
    fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        Ok(Self::commit(self, commit)?)
    }
    fn commit_from_reserve(&self, commit: Commit) -> Result<(), StorageError> {
        Ok(Self::commit_from_reserve(self, commit)?)
    }
    fn mark(&self, key: &[u8]) -> Option<Vec<u8>> {
        Self::mark(self, key)
    }
    fn marks(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        Self::marks(self, prefix)
    }
    fn stats(&self) -> Stats {
        Self::stats(self)
    }
}

/// Whether it makes sense to give the store the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// When there is space again.
    DiskFull,
    /// Later.
    Passing,
    /// Never.
    Hopeless,
}

impl Outlook {
    fn of(error: &StorageError) -> Self {
        match error.downcast_ref::<CommitError>() {
            Some(CommitError::DiskFull { .. } | CommitError::ReadOnly { .. }) => return Self::DiskFull,
            Some(
                CommitError::UnknownGroup(_)
                | CommitError::UnknownSeries(_)
                | CommitError::Shape { .. }
                | CommitError::OutOfRange(_)
                | CommitError::TooLarge { .. },
            ) => return Self::Hopeless,
            _ => {}
        }
        match error.downcast_ref::<SeriesError>() {
            Some(SeriesError::LabelsTooLong { .. }) => Self::Hopeless,
            _ => Self::Passing,
        }
    }
}

/// Why a commit failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) outlook: Outlook,
    /// For a person.
    pub(crate) reason: String,
}

/// Something of an agent that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Objection {
    pub(crate) agent: AgentId,
    /// A constant name, for metrics.
    pub(crate) cause: &'static str,
    /// For a person.
    pub(crate) reason: String,
}

/// What became of some payloads.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// At most one per run, in order of agent.
    pub(crate) acks: Vec<(AgentId, Ack)>,
    /// What was refused or held.
    pub(crate) objections: Vec<Objection>,
    /// Who sent something readable.
    pub(crate) seen: Vec<AgentId>,
    pub(crate) stored: u64,
    pub(crate) repeated: u64,
    pub(crate) refused: u64,
    pub(crate) held: u64,
    pub(crate) samples: u64,
    /// Why commits failed.
    pub(crate) failures: Vec<Failure>,
    /// Who spoke another major version, and which.
    pub(crate) foreign_majors: Vec<(AgentId, u8)>,
    /// How many commits were made.
    pub(crate) commits: u64,
}

/// Why a batch is not stored.
#[derive(Debug, PartialEq, Eq)]
enum Rejection {
    /// Never: the agent forgets it.
    Refuse { cause: &'static str, reason: String },
    /// Not now: the agent keeps it.
    Hold { hold: HoldCause, cause: &'static str, reason: String },
}

impl Rejection {
    fn refuse(cause: &'static str, reason: impl Into<String>) -> Self {
        Self::Refuse { cause, reason: reason.into() }
    }

    /// A batch that points to something undefined: with the whole dictionary before it that can't be mended.
    fn undefined(is_whole: bool, what: &str, number: u32) -> Self {
        if is_whole {
            Self::refuse("malformed", format!("{what} {number} is not in the dictionary"))
        } else {
            let reason = format!("{what} {number} is not known here");
            Self::Hold { hold: HoldCause::Dictionary, cause: "dictionary", reason }
        }
    }
}

type RunKey = (AgentId, u64);

/// One run of an agent.
#[derive(Default)]
struct Run {
    series: Vec<SeriesId>,
    /// What the labels of `series` take in a commit.
    label_bytes: usize,
    /// Each layout's group and how many series it has.
    layouts: Vec<(GroupId, usize)>,
    members: usize,
    marks: Marks,
    used: u64,
}

/// A batch whose samples are in the commit that is being made.
struct Pending {
    key: RunKey,
    sequence: u64,
    samples: usize,
    /// It is read again where a neighbour spoils the commit.
    payload: Bytes,
}

/// Everything that must be remembered between payloads.
pub(crate) struct Core {
    storage: Arc<dyn Storage>,
    limits: Limits,
    decoder: Decoder,
    runs: HashMap<RunKey, Run>,
    turn: u64,
    failures_in_a_row: u32,
}

/// One group of payloads on its way.
#[derive(Default)]
struct Group {
    commit: Commit,
    samples: usize,
    pending: Vec<Pending>,
    staged: HashMap<RunKey, Marks>,
    acks: BTreeMap<RunKey, Ack>,
    outcome: Outcome,
}

impl Group {
    fn ack(&mut self, key: &RunKey) -> &mut Ack {
        self.acks.entry(key.clone()).or_insert_with(|| Ack { minor: MINOR, spool_id: key.1, ..Ack::default() })
    }

    fn accept(&mut self, key: &RunKey, sequence: u64) {
        self.ack(key).accepted.push(sequence);
    }

    fn reject(&mut self, key: &RunKey, sequence: u64, rejection: Rejection, retry_after: Duration) {
        let (cause, reason) = match rejection {
            Rejection::Refuse { cause, reason } => {
                self.ack(key).refused.push(Refusal { sequence, reason: reason.clone() });
                self.outcome.refused += 1;
                (cause, reason)
            }
            Rejection::Hold { hold, cause, reason } => {
                let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
                let held = Hold { sequence, cause: hold.into(), reason: reason.clone(), retry_after_ms };
                self.ack(key).held.push(held);
                self.outcome.held += 1;
                (cause, reason)
            }
        };
        self.outcome.objections.push(Objection { agent: key.0.clone(), cause, reason });
    }
}

impl Core {
    /// Remembers nothing yet; marks come from `storage` as they are needed.
    ///
    /// # Errors
    /// Lack of memory.
    pub(crate) fn new(storage: Arc<dyn Storage>, limits: Limits) -> std::io::Result<Self> {
        let decoder = Decoder::new()?;
        Ok(Self { storage, limits, decoder, runs: HashMap::new(), turn: 0, failures_in_a_row: 0 })
    }

    /// Runs whose dictionaries are in memory.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Stores what can be stored of `payloads`, in their order, and says what became of each.
    pub(crate) fn process(&mut self, payloads: Vec<(AgentId, Bytes)>, now: Timestamp) -> Outcome {
        let mut group = Group::default();
        for (agent, payload) in payloads {
            match self.decoder.decode(&payload) {
                Ok(batch) => {
                    group.outcome.seen.push(agent.clone());
                    self.take(agent, batch, payload, now, &mut group);
                    if group.samples >= COMMIT_SAMPLES {
                        self.commit(now, &mut group);
                    }
                }
                Err(error) => reject_payload(agent, &error, &mut group),
            }
        }
        self.commit(now, &mut group);
        let mut outcome = group.outcome;
        outcome.acks = group.acks.into_iter().map(|((agent, _), ack)| (agent, ack)).collect();
        outcome
    }

    /// Forgets marks of runs that were not heard of since `horizon`, at most `at_most` of them; gives how many.
    ///
    /// # Errors
    /// What the store says; nothing is forgotten then.
    pub(crate) fn prune(&mut self, horizon: Timestamp, at_most: usize) -> Result<usize, StorageError> {
        let is_old = |value: &[u8]| Marks::decode(value).is_none_or(|marks| marks.heard < horizon);
        let old: Vec<_> = self
            .storage
            .marks(marks::prefix())
            .into_iter()
            .filter(|(_, value)| is_old(value))
            .map(|(key, _)| (key, Vec::new()))
            .take(at_most)
            .collect();
        let count = old.len();
        if count > 0 {
            self.runs.retain(|_, run| run.marks.heard >= horizon || run.marks == Marks::default());
            self.storage.commit(Commit { marks: old, ..Commit::default() })?;
        }
        Ok(count)
    }

    fn take(&mut self, agent: AgentId, batch: Batch, payload: Bytes, now: Timestamp, group: &mut Group) {
        let key = (agent, batch.spool_id);
        let sequence = batch.sequence;
        if sequence == 0 || batch.oldest_sequence > sequence {
            let reason = format!("sequence {sequence} with oldest sequence {}", batch.oldest_sequence);
            group.reject(&key, sequence, Rejection::refuse("malformed", reason), RETRY_AT_ONCE);
            return;
        }
        let (storage, limits) = (Arc::clone(&self.storage), self.limits.clone());
        let run = self.run(&key);
        // Of a repeat too: it may be the one batch of this connection that has the definitions.
        let defined = match &batch.dictionary {
            Some(dictionary) => run.define(&key.0, dictionary, &limits, &*storage),
            None => Ok(()),
        };
        if run.marks.contains(sequence) {
            group.accept(&key, sequence);
            group.outcome.repeated += 1;
            return;
        }
        let mut marks = group.staged.get(&key).unwrap_or(&run.marks).clone();
        if marks.contains(sequence) {
            // The same batch twice in one group: whatever becomes of the first becomes of it.
            group.pending.push(Pending { key, sequence, samples: 0, payload });
            return;
        }
        let columns = defined.and_then(|()| run.columns(batch, now, &limits));
        let columns = match columns {
            Ok(columns) => columns,
            Err(rejection) => {
                let retry_after = match &rejection {
                    Rejection::Hold { hold: HoldCause::Unavailable, .. } => RETRY_LAST,
                    _ => RETRY_AT_ONCE,
                };
                group.reject(&key, sequence, rejection, retry_after);
                return;
            }
        };
        marks.advance(columns.oldest);
        marks.heard = now;
        if !marks.insert(sequence) {
            let reason = "too many batches are missing before it".to_owned();
            let rejection = Rejection::Hold { hold: HoldCause::Unavailable, cause: "gaps", reason };
            group.reject(&key, sequence, rejection, RETRY_LAST);
            return;
        }
        let samples = columns.columns.iter().map(|c| c.values.len()).sum();
        group.samples += samples;
        group.commit.columns.extend(columns.columns);
        group.staged.insert(key.clone(), marks);
        group.pending.push(Pending { key, sequence, samples, payload });
    }

    fn commit(&mut self, now: Timestamp, group: &mut Group) {
        if group.pending.is_empty() {
            return;
        }
        let mut commit = std::mem::take(&mut group.commit);
        let staged = std::mem::take(&mut group.staged);
        let pending = std::mem::take(&mut group.pending);
        group.samples = 0;
        commit.marks =
            staged.iter().map(|((agent, spool), marks)| (marks::key(agent, *spool), marks.encode())).collect();
        commit.marks.sort_unstable();
        group.outcome.commits += 1;
        match self.storage.commit(commit) {
            Ok(()) => {
                self.failures_in_a_row = 0;
                #[expect(clippy::iter_over_hash_type, reason = "each entry goes to its own run")]
                for (key, marks) in staged {
                    // A run that fell out of memory meanwhile reads its mark from the store.
                    if let Some(run) = self.runs.get_mut(&key) {
                        run.marks = marks;
                    }
                }
                for Pending { key, sequence, samples, .. } in pending {
                    group.accept(&key, sequence);
                    group.outcome.stored += 1;
                    group.outcome.samples += samples as u64;
                }
            }
            Err(error) => match Outlook::of(&error) {
                Outlook::Hopeless if pending.len() > 1 => self.commit_apart(pending, now, group),
                Outlook::Hopeless => {
                    let reason = chain(&*error);
                    for Pending { key, sequence, .. } in pending {
                        group.reject(&key, sequence, Rejection::refuse("storage", reason.clone()), RETRY_AT_ONCE);
                    }
                    group.outcome.failures.push(Failure { outlook: Outlook::Hopeless, reason });
                }
                outlook => {
                    let retry_after = RETRY_FIRST.saturating_mul(1 << self.failures_in_a_row.min(10)).min(RETRY_LAST);
                    self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                    let reason = chain(&*error);
                    // Paths of this machine are no business of agents.
                    let told = if outlook == Outlook::DiskFull { "the collector's disk is full" } else { &reason };
                    for Pending { key, sequence, .. } in pending {
                        let reason = told.to_owned();
                        let rejection = Rejection::Hold { hold: HoldCause::Unavailable, cause: "storage", reason };
                        group.reject(&key, sequence, rejection, retry_after);
                    }
                    group.outcome.failures.push(Failure { outlook, reason });
                }
            },
        }
    }

    /// One commit per batch, so that the one which the store never takes is found and its neighbours are stored.
    fn commit_apart(&mut self, pending: Vec<Pending>, now: Timestamp, group: &mut Group) {
        for Pending { key: (agent, _), payload, .. } in pending {
            match self.decoder.decode(&payload) {
                Ok(batch) => {
                    self.take(agent, batch, payload, now, group);
                    self.commit(now, group);
                }
                Err(error) => reject_payload(agent, &error, group),
            }
        }
    }

    fn run(&mut self, key: &RunKey) -> &mut Run {
        self.turn += 1;
        if !self.runs.contains_key(key) {
            let own = self.runs.keys().filter(|(agent, _)| *agent == key.0).count();
            if own >= RUNS_PER_AGENT || self.runs.len() >= self.limits.runs {
                let is_candidate = |agent: &AgentId| own < RUNS_PER_AGENT || *agent == key.0;
                let oldest = self.runs.iter().filter(|((agent, _), _)| is_candidate(agent)).min_by_key(|(_, r)| r.used);
                if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                    self.runs.remove(&oldest);
                }
            }
            let stored = self.storage.mark(&marks::key(&key.0, key.1));
            let mut marks = stored.and_then(|value| Marks::decode(&value)).unwrap_or_default();
            // Sequences count from 1.
            marks.advance(1);
            self.runs.insert(key.clone(), Run { marks, ..Run::default() });
        }
        let run = self.runs.get_mut(key).expect("invariant: inserted above");
        run.used = self.turn;
        run
    }
}

/// The checked columns of one batch.
#[derive(Debug)]
struct Columns {
    columns: Vec<Column>,
    oldest: u64,
}

impl Run {
    /// Learns the definitions of `dictionary`; those before an objectionable one stay learned.
    fn define(
        &mut self,
        agent: &AgentId,
        dictionary: &Dictionary,
        limits: &Limits,
        storage: &dyn Storage,
    ) -> Result<(), Rejection> {
        let is_whole = dictionary.first_series == 0;
        if dictionary.first_series as usize > self.series.len() {
            return Err(Rejection::undefined(false, "series", self.series.len() as u32));
        }
        let strings: Vec<Arc<str>> = dictionary.strings.iter().map(|s| s.as_str().into()).collect();
        for (number, definition) in (dictionary.first_series as usize..).zip(&dictionary.series) {
            if number >= limits.series {
                let reason = format!("an agent may have {} series", limits.series);
                return Err(Rejection::refuse("series_limit", reason));
            }
            let labels = labels(agent, definition, &strings, limits)?;
            let bytes = labels.iter().map(|l| l.name.len() + l.value.len() + LABEL_OVERHEAD_BYTES).sum::<usize>();
            if bytes > limits.series_bytes {
                let reason =
                    format!("series has {bytes} bytes of labels, at most {} are accepted", limits.series_bytes);
                return Err(Rejection::refuse("label_limit", reason));
            }
            let run_bytes = self.label_bytes + bytes + LABEL_OVERHEAD_BYTES;
            if number >= self.series.len() && run_bytes > limits.run_bytes {
                let reason = format!("labels of an agent may take {} bytes", limits.run_bytes);
                return Err(Rejection::refuse("label_limit", reason));
            }
            let id = storage.series(&labels).map_err(|error| {
                let (cause, reason) = ("storage_series", chain(&*error));
                match Outlook::of(&error) {
                    Outlook::Hopeless => Rejection::Refuse { cause, reason },
                    _ => Rejection::Hold { hold: HoldCause::Unavailable, cause, reason },
                }
            })?;
            match self.series.get(number) {
                None => {
                    self.label_bytes = run_bytes;
                    self.series.push(id);
                }
                Some(known) if *known == id => {}
                Some(_) => {
                    let reason = format!("series {number} was defined as another one before");
                    return Err(Rejection::refuse("dictionary_conflict", reason));
                }
            }
        }
        if dictionary.first_layout as usize > self.layouts.len() {
            return Err(Rejection::undefined(false, "layout", self.layouts.len() as u32));
        }
        for (number, layout) in (dictionary.first_layout as usize..).zip(&dictionary.layouts) {
            if number >= MAX_LAYOUTS {
                return Err(Rejection::refuse("layout_limit", format!("an agent may have {MAX_LAYOUTS} layouts")));
            }
            let mut members = Vec::with_capacity(layout.series.len().min(self.series.len()));
            let mut distinct = HashSet::with_capacity(layout.series.len().min(self.series.len()));
            for &series in &layout.series {
                let id = self.series.get(series as usize);
                members.push(*id.ok_or_else(|| Rejection::undefined(is_whole, "series", series))?);
                if !distinct.insert(series) {
                    let reason = format!("layout {number} has series {series} twice");
                    return Err(Rejection::refuse("malformed", reason));
                }
            }
            if number == self.layouts.len() && self.members + members.len() > limits.series * MEMBERS_PER_SERIES {
                let reason = format!("layouts of an agent may have {} series", limits.series * MEMBERS_PER_SERIES);
                return Err(Rejection::refuse("layout_limit", reason));
            }
            let group = storage.group(&members);
            match self.layouts.get(number) {
                None => {
                    self.members += members.len();
                    self.layouts.push((group, members.len()));
                }
                Some((known, _)) if *known == group => {}
                Some(_) => {
                    let reason = format!("layout {number} was defined as another one before");
                    return Err(Rejection::refuse("dictionary_conflict", reason));
                }
            }
        }
        Ok(())
    }

    fn columns(&self, batch: Batch, now: Timestamp, limits: &Limits) -> Result<Columns, Rejection> {
        if batch.cycles.len() > limits.columns {
            let reason = format!("batch has {} columns, at most {} are accepted", batch.cycles.len(), limits.columns);
            return Err(Rejection::refuse("column_limit", reason));
        }
        let is_whole = batch.dictionary.as_ref().is_some_and(|d| d.first_series == 0 && d.first_layout == 0);
        let latest = now.saturating_add(limits.future).min(LATEST);
        let mut columns = Vec::with_capacity(batch.cycles.len());
        for cycle in batch.cycles {
            let timestamp = Timestamp(cycle.timestamp_ms);
            if timestamp > latest {
                let ahead = timestamp.since(now).as_secs();
                let reason = format!("time stamp is {ahead} s ahead of the collector's clock; check the agent's clock");
                return Err(Rejection::refuse("future", reason));
            }
            if timestamp < EARLIEST {
                let reason = format!("time stamp {timestamp} is before the year 2000; check the agent's clock");
                return Err(Rejection::refuse("timestamp", reason));
            }
            let Some(&(group, width)) = self.layouts.get(cycle.layout as usize) else {
                return Err(Rejection::undefined(is_whole, "layout", cycle.layout));
            };
            if cycle.values.len() != width {
                let reason = format!("{} values for layout {} of {width} series", cycle.values.len(), cycle.layout);
                return Err(Rejection::refuse("malformed", reason));
            }
            if width > 0 {
                columns.push(Column { group, timestamp, values: cycle.values });
            }
        }
        Ok(Columns { columns, oldest: batch.oldest_sequence })
    }
}

fn reject_payload(agent: AgentId, error: &PayloadError, group: &mut Group) {
    let reason = chain(error);
    if let PayloadError::Major { given } = error {
        group.outcome.foreign_majors.push((agent.clone(), *given));
        let rejection = Rejection::Hold { hold: HoldCause::Version, cause: "version", reason };
        group.reject(&(agent, 0), 0, rejection, RETRY_VERSION);
    } else {
        // Which batch it was to be can't be told, so there is nothing to answer.
        group.outcome.refused += 1;
        group.outcome.objections.push(Objection { agent, cause: "payload", reason });
    }
}

/// The checked labels of one series, with `instance` and `job`.
fn labels(
    agent: &AgentId,
    definition: &SeriesDefinition,
    strings: &[Arc<str>],
    limits: &Limits,
) -> Result<Labels, Rejection> {
    let refuse = |reason: String| Err(Rejection::refuse("label", reason));
    let (pairs, remainder) = definition.labels.as_chunks::<2>();
    if !remainder.is_empty() {
        return refuse("a label has no value".into());
    }
    if pairs.len() > limits.labels + 1 {
        let reason = format!("series has {} labels, at most {} are accepted", pairs.len() - 1, limits.labels);
        return Err(Rejection::refuse("label_limit", reason));
    }
    let mut builder = LabelsBuilder::default();
    let mut names = HashSet::with_capacity(pairs.len());
    for [name, value] in pairs {
        let (Some(name), Some(value)) = (strings.get(*name as usize), strings.get(*value as usize)) else {
            return refuse("a label points outside of the string table".into());
        };
        if name.len() > limits.name_bytes {
            let reason = format!("label name of {} bytes, at most {} are accepted", name.len(), limits.name_bytes);
            return Err(Rejection::refuse("label_limit", reason));
        }
        let is_metric = **name == *METRIC_NAME;
        let most = if is_metric { limits.name_bytes } else { limits.value_bytes };
        if value.len() > most {
            let reason = format!("value of label {name} has {} bytes, at most {most} are accepted", value.len());
            return Err(Rejection::refuse("label_limit", reason));
        }
        if !names.insert(Arc::clone(name)) {
            return refuse(format!("label {name} is there twice"));
        }
        if is_metric {
            if !is_metric_name(value) {
                return refuse(format!("{value:?} is no metric name"));
            }
        } else if !is_label_name(name) || name.starts_with("__") {
            return refuse(format!("{name:?} is no label name"));
        }
        builder.set(Arc::clone(name), Arc::clone(value));
    }
    let Some(_metric) = builder.get(METRIC_NAME) else {
        return refuse("series has no metric name".into());
    };
    let is_of_host = builder.get("job").is_none_or(|job| matches!(job, "" | "node" | "veghe-collector"));
    match builder.get("instance") {
        // A device that the agent asks over the network; `agent` tells who says so.
        Some(_) if is_of_host => return refuse("label instance is the collector's to set for job node".into()),
        Some(_) => {
            builder.set("agent", agent.as_str());
        }
        None => {
            builder.set("instance", agent.as_str());
        }
    }
    if builder.get("job").is_none() {
        builder.set("job", "node");
    }
    Ok(builder.build())
}

/// An error and everything behind it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
