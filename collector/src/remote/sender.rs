//! Everything stored, passed on to each target: one task for each reads the log part by part and hands the parts over.
//!
//! Invariants: before a part is sent, the store keeps on disk how far the target has got and where the part ends; so
//! whatever ends the collector, the next start sends that part again, as it was, and nothing else twice. A target that
//! is away loses nothing while the log that it has not read has at most `max_backlog_bytes` on disk; beyond, the oldest
//! goes and is counted. In one shard requests follow one another, so samples of a series arrive in order.
//!
//! In the store a target's mark has the key `rw/` and its name. The value is, all little-endian: the format (1 byte, 1),
//! the position through which everything is delivered (u64), the position where the part on its way ends (u64).

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Labels;
use veghe_tsdb::{Commit, CommitError, LogPosition, Store};

use super::Protocol;
use super::client::{Answer, Client};
use super::metrics::{Dropped, SenderMetrics, TargetMetrics};
use super::part::{Part, Reader, Request, Unreadable};
use super::settings::Target;
use crate::clock;

const PREFIX: &[u8] = b"rw/";
const FORMAT: u8 = 1;
/// Attempts beyond the first that are spent to find what a target does not want in one request.
const SPLITS_PER_REQUEST: usize = 64;
/// How long a request on its way may go on after the collector was told to stop.
const DRAIN: Duration = Duration::from_secs(3);
/// How long to wait after the store did not take a mark.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// The waits after the log could not be read: the first, doubled each time, and the longest.
const READ_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// So often in a row the same place of the log is tried before its segment is given up: over a quarter of an hour.
const READ_TRIES: u32 = 40;
/// How often the log tells of the same trouble again.
const TELL_AGAIN: Duration = Duration::from_mins(1);
/// How often it is counted what went from a backlog that was too large.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Why nothing is passed on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A metric is registered twice.
    #[error("cannot register the metrics of remote write")]
    Metrics(#[from] prometheus::Error),
    /// The store does not keep how far targets are.
    #[error("cannot keep how far the targets of remote write are")]
    Mark(#[from] CommitError),
}

/// How far a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Everything through here is delivered or given up.
    done: LogPosition,
    /// Everything after that and through here may have been sent.
    end: LogPosition,
}

impl Mark {
    fn key(name: &str) -> Vec<u8> {
        [PREFIX, name.as_bytes()].concat()
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.done.0.to_le_bytes());
        bytes.extend_from_slice(&self.end.0.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let (done, end) = rest.split_at_checked(8)?;
        let position = |bytes: &[u8]| Some(LogPosition(u64::from_le_bytes(bytes.try_into().ok()?)));
        let mark = Self { done: position(done)?, end: position(end)? };
        (*format == FORMAT && mark.done <= mark.end).then_some(mark)
    }

    /// A full disk must not keep a target from reading on: the log that is held for it would never go.
    fn commit(self, store: &Store, name: &str) -> Result<(), CommitError> {
        store.commit_from_reserve(Commit { marks: vec![(Self::key(name), self.bytes())], ..Commit::default() })
    }
}

/// Passes on what `store` gets to `targets` until `stop`. A target that is new begins now; what the store knows of one
/// that is there no more is forgotten. Call it before the store seals for the first time.
///
/// # Errors
/// [`StartError`].
pub fn start_senders(
    targets: &[Target],
    external: &Labels,
    store: &Store,
    registry: &Registry,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let names: BTreeSet<Vec<u8>> = targets.iter().map(|target| Mark::key(&target.name)).collect();
    let known = store.marks(PREFIX);
    let gone = known.into_iter().filter(|(key, _)| !names.contains(key)).map(|(key, _)| (key, Vec::new())).collect();
    store.commit_from_reserve(Commit { marks: gone, ..Commit::default() })?;
    if targets.is_empty() {
        return Ok(());
    }
    let metrics = SenderMetrics::new(registry)?;
    let mut counted = Vec::new();
    for target in targets {
        let target = Arc::new(target.clone());
        let known = store.mark(&Mark::key(&target.name)).and_then(|bytes| Mark::parse(&bytes));
        let now = store.log_end();
        let mark = known.unwrap_or(Mark { done: now, end: now });
        if known.is_none() {
            mark.commit(store, &target.name)?;
        }
        store.pin_log(&target.name, mark.done, target.max_backlog_bytes);
        let metrics = metrics.of(&target);
        let now_seconds = clock::now().seconds();
        metrics.caught_up.set(now_seconds);
        metrics.highest_sent.set(0.0);
        tracing::info!(remote = target.name, url = target.shown_url(), "samples are passed on by remote write");
        counted.push((target.name.clone(), metrics.clone()));
        let sender = Sender {
            courier: Arc::new(Courier { means: Means::real(&target), metrics, trouble: Mutex::default(), target }),
            store: store.clone(),
            external: external.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(sender.run(mark));
    }
    tasks.spawn(count_backlog(store.clone(), counted, stop.clone()));
    Ok(())
}

/// Keeps the log that targets have not read yet, for who opens the store to seal it and passes nothing on.
pub fn hold_for_targets(store: &Store) {
    for (key, value) in store.marks(PREFIX) {
        let name = key.strip_prefix(PREFIX).and_then(|name| std::str::from_utf8(name).ok());
        if let Some((name, mark)) = name.zip(Mark::parse(&value)) {
            store.pin_log(name, mark.done, u64::MAX);
        }
    }
}

/// Counts what was given up of backlogs, also while their senders wait for their targets.
async fn count_backlog(store: Store, targets: Vec<(String, TargetMetrics)>, stop: CancellationToken) {
    let targets = Arc::new(targets);
    while !stop.is_cancelled() {
        let (store, targets) = (store.clone(), Arc::clone(&targets));
        let counted = tokio::task::spawn_blocking(move || {
            for (name, metrics) in &*targets {
                let counter = metrics.dropped(Dropped::Backlog);
                counter.inc_by(store.log_skipped(name).saturating_sub(counter.get()));
            }
        });
        if let Err(error) = counted.await {
            tracing::error!(error = &error as &dyn std::error::Error, "counting dropped samples panicked");
        }
        tokio::select! {
            () = tokio::time::sleep(COUNT_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
}

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a sender has from outside.
struct Means {
    /// Makes one attempt; the number is that of the attempts before.
    post: Box<dyn Fn(Bytes, u32) -> Soon<Answer> + Send + Sync>,
    /// Lets time pass.
    wait: Box<dyn Fn(Duration) -> Soon<()> + Send + Sync>,
}

impl Means {
    fn real(target: &Arc<Target>) -> Self {
        let client = Arc::new(Client::new(Arc::clone(target)));
        let post = move |body, retries| -> Soon<Answer> {
            let client = Arc::clone(&client);
            Box::pin(async move { client.post(body, retries).await })
        };
        Self { post: Box::new(post), wait: Box::new(|span| Box::pin(tokio::time::sleep(span))) }
    }
}

/// Passes on to one target.
struct Sender {
    courier: Arc<Courier>,
    store: Store,
    external: Labels,
    stop: CancellationToken,
}

/// Whether a part may have been sent before, by an earlier run of the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    First,
    Repeat,
}

/// How handing over a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// All of it is delivered or given up.
    Complete,
    /// The collector stops before.
    Stopped,
    /// A defect of ours ended a shard midway.
    Failed,
}

impl Sender {
    async fn run(self, mark: Mark) {
        let mut done = mark.done;
        let mut through = Some(mark.end).filter(|end| *end > done);
        let mut reader = None;
        let (mut tries, mut read_pause) = (0, READ_PAUSES.0);
        while !self.stop.is_cancelled() {
            let mut reading = reader.take().unwrap_or_else(|| self.reader(done));
            let read_at = clock::now();
            let unreadable = if tries < READ_TRIES { Unreadable::Awaited } else { Unreadable::Skipped };
            let read = tokio::task::spawn_blocking(move || {
                let part = reading.read(through, unreadable);
                (reading, part)
            });
            let (reading, part) = match read.await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "reading the log for remote write panicked"
                    );
                    self.pause(STORE_PAUSE).await;
                    continue;
                }
            };
            let blocked = part.blocked;
            if blocked && through.is_some() {
                // A part that is repeated is the same as it was, or it is not sent: read again from its beginning.
                tries += 1;
                self.pause(read_pause).await;
                read_pause = (read_pause * 2).min(READ_PAUSES.1);
                continue;
            }
            reader = Some(reading);
            let delivery = if through.take().is_some() { Delivery::Repeat } else { Delivery::First };
            let (end, at_end, read) = (part.end, part.at_end, part.read);
            self.courier.metrics.dropped(Dropped::Series).inc_by(part.dropped);
            self.courier.metrics.log_errors.inc_by(part.errors as f64);
            if part.errors > 0 {
                // What is behind a segment that was given up gets as many tries.
                (tries, read_pause) = (0, READ_PAUSES.0);
            }
            if part.samples() > 0 {
                match self.hand_over(done, part, delivery).await {
                    Handed::Complete => {}
                    // The mark says where to begin again.
                    Handed::Stopped => return,
                    // As after a restart: the part is read again and sent as it was.
                    Handed::Failed => {
                        (reader, through) = (None, Some(end));
                        self.pause(self.courier.target.queue.max_backoff).await;
                        continue;
                    }
                }
            }
            done = end;
            if read > 0 {
                self.keep(Mark { done, end: done }).await;
            } else {
                self.pin(done).await;
            }
            if blocked {
                // What came before is on its way; a success begins the waits anew.
                (tries, read_pause) = if read > 0 { (1, READ_PAUSES.0) } else { (tries + 1, read_pause) };
                self.pause(read_pause).await;
                read_pause = (read_pause * 2).min(READ_PAUSES.1);
                continue;
            }
            (tries, read_pause) = (0, READ_PAUSES.0);
            if at_end {
                self.courier.metrics.caught_up.set(read_at.seconds());
                self.pause(self.courier.target.queue.batch_send_deadline).await;
            }
        }
    }

    fn reader(&self, position: LogPosition) -> Reader {
        Reader::new(&self.store, position, self.external.clone(), &self.courier.target)
    }

    /// Delivers a part.
    async fn hand_over(&self, done: LogPosition, part: Part, delivery: Delivery) -> Handed {
        if !self.keep(Mark { done, end: part.end }).await {
            return Handed::Stopped;
        }
        let metrics = &self.courier.metrics;
        metrics.pending.set(part.samples() as f64);
        let mut shards = JoinSet::new();
        for requests in part.shards.into_iter().filter(|requests| !requests.is_empty()) {
            let (courier, stop) = (Arc::clone(&self.courier), self.stop.clone());
            shards.spawn(async move { courier.deliver_all(requests, delivery, &stop).await });
        }
        let mut handed = Handed::Complete;
        while let Some(ended) = shards.join_next().await {
            match ended {
                Ok(true) => {}
                Ok(false) => handed = Handed::Stopped,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        remote = self.courier.target.name,
                        "sending to a target of remote write panicked; the part is sent again"
                    );
                    if handed == Handed::Complete {
                        handed = Handed::Failed;
                    }
                }
            }
        }
        metrics.pending.set(0.0);
        handed
    }

    /// Keeps `mark` on disk, and the log from there; false where the collector stops before.
    async fn keep(&self, mark: Mark) -> bool {
        loop {
            let (store, name) = (self.store.clone(), self.courier.target.name.clone());
            let max_bytes = self.courier.target.max_backlog_bytes;
            let kept = tokio::task::spawn_blocking(move || {
                mark.commit(&store, &name).inspect(|()| store.pin_log(&name, mark.done, max_bytes))
            });
            match kept.await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    remote = self.courier.target.name,
                    "cannot keep how far a target of remote write is; it waits"
                ),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "keeping a mark of remote write panicked"
                    );
                }
            }
            if self.stop.is_cancelled() {
                return false;
            }
            self.pause(STORE_PAUSE).await;
        }
    }

    /// Lets go of the log through `position`.
    async fn pin(&self, position: LogPosition) {
        let (store, name) = (self.store.clone(), self.courier.target.name.clone());
        let max_bytes = self.courier.target.max_backlog_bytes;
        let pinned = tokio::task::spawn_blocking(move || store.pin_log(&name, position, max_bytes));
        if let Err(error) = pinned.await {
            tracing::error!(error = &error as &dyn std::error::Error, "letting go of the log panicked");
        }
    }

    async fn pause(&self, span: Duration) {
        tokio::select! {
            () = (self.courier.means.wait)(span) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// What was last said of a target that does not take samples.
#[derive(Default)]
struct Trouble {
    /// Since when attempts fail, if they do.
    since: Option<Instant>,
    told: Option<Instant>,
}

/// Delivers the requests of one target.
struct Courier {
    target: Arc<Target>,
    means: Means,
    metrics: TargetMetrics,
    trouble: Mutex<Trouble>,
}

impl Courier {
    /// Delivers `requests` in turn; false where the collector stops before all of them are delivered or given up.
    async fn deliver_all(&self, requests: Vec<Request>, delivery: Delivery, stop: &CancellationToken) -> bool {
        for request in requests {
            let (mut splits, mut waiting) = (SPLITS_PER_REQUEST, vec![request]);
            while let Some(request) = waiting.pop() {
                let Some(answer) = self.deliver(&request, stop).await else { return false };
                let samples = request.len() as u64;
                match answer {
                    Answer::Taken { written } => self.taken(&request, written),
                    Answer::Refused { why, written, in_part } => {
                        // Only where it does not tell what it took is it worth to ask again.
                        let halves = if in_part && written.is_none() && splits >= 2 { request.split() } else { None };
                        if let Some((first, second)) = halves {
                            splits -= 2;
                            waiting.extend([second, first]);
                            continue;
                        }
                        self.given_up(&request, samples.saturating_sub(written.unwrap_or(0)), &why, delivery);
                    }
                    Answer::Later { .. } => {}
                }
                self.metrics.pending.sub(samples as f64);
            }
        }
        true
    }

    /// Repeats attempts until the target says yes or no; none where the collector stops before.
    async fn deliver(&self, request: &Request, stop: &CancellationToken) -> Option<Answer> {
        let queue = &self.target.queue;
        let (mut backoff, mut retries) = (queue.min_backoff, 0);
        loop {
            let begun = clock::instant();
            self.metrics.samples.inc_by(request.len() as u64);
            let drained = async {
                stop.cancelled().await;
                tokio::time::sleep(DRAIN).await;
            };
            let answer = tokio::select! {
                answer = (self.means.post)(request.body.clone(), retries) => answer,
                () = drained => return None,
            };
            self.metrics.seconds.observe(begun.elapsed().as_secs_f64());
            let Answer::Later { why, after } = answer else {
                self.well();
                return Some(answer);
            };
            self.metrics.retried.inc_by(request.len() as u64);
            self.troubled(&why);
            let wait = after.filter(|after| !after.is_zero()).unwrap_or(backoff);
            backoff = (backoff * 2).min(queue.max_backoff);
            retries += 1;
            tokio::select! {
                () = (self.means.wait)(wait) => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    fn taken(&self, request: &Request, written: Option<u64>) {
        self.metrics.bytes.inc_by(request.body.len() as u64);
        let samples = request.len() as u64;
        let missing = match (self.target.protocol, written) {
            (Protocol::Version1, _) => 0,
            (Protocol::Version2, Some(written)) => samples.saturating_sub(written),
            (Protocol::Version2, None) => samples,
        };
        if missing > 0 {
            // As Prometheus takes it: a target that knows 1.0 only may answer 200 to what it can't read.
            let why = if written.is_none() {
                "it answers that it took the request, but not how many samples: it may not understand protocol 2.0; \
                 set `protobuf_message: prometheus.WriteRequest`"
            } else {
                "it took fewer samples than it was sent"
            };
            self.given_up(request, missing, why, Delivery::First);
        }
        if missing < samples && self.metrics.highest_sent.get() < request.newest().seconds() {
            self.metrics.highest_sent.set(request.newest().seconds());
        }
    }

    fn given_up(&self, request: &Request, samples: u64, why: &str, delivery: Delivery) {
        if delivery == Delivery::Repeat {
            self.metrics.dropped(Dropped::RefusedRepeat).inc_by(samples);
            tracing::info!(
                remote = self.target.name,
                samples,
                why,
                "samples that an earlier run of the collector had begun to send were refused: they are there already, as a rule"
            );
            return;
        }
        self.metrics.failed.inc_by(samples);
        if self.is_time_to_tell() {
            tracing::error!(
                remote = self.target.name,
                samples,
                why,
                series = request.first_series(),
                "the target of remote write refuses samples; they are given up"
            );
        }
    }

    fn is_time_to_tell(&self) -> bool {
        let now = clock::instant();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = trouble.told.is_none_or(|told| now.duration_since(told) >= TELL_AGAIN);
        if is_time {
            trouble.told = Some(now);
        }
        is_time
    }

    fn troubled(&self, why: &str) {
        let now = clock::instant();
        let since = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner).since.get_or_insert(now);
        if self.is_time_to_tell() {
            let seconds = now.duration_since(since).as_secs();
            tracing::warn!(
                remote = self.target.name,
                why,
                seconds,
                "the target of remote write does not take samples; they are kept and sent again"
            );
        }
    }

    fn well(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = trouble.since.take() else { return };
        // One word for each word of trouble: of several shards, one may be well while another is not.
        if trouble.told.is_some_and(|told| told >= since) {
            let seconds = clock::instant().duration_since(since).as_secs();
            tracing::info!(remote = self.target.name, seconds, "the target of remote write takes samples again");
        }
    }
}

#[cfg(test)]
#[path = "sender_fortnight_tests.rs"]
mod fortnight;

#[cfg(test)]
mod tests {
    use veghe_model::Timestamp;
    use veghe_tsdb::Options;

    use super::*;

    #[test]
    fn what_a_target_has_not_read_stays_where_nobody_passes_it_on() {
        let left_of_the_log = |hold: fn(&Store)| {
            let dir = tempfile::tempdir().expect("directory");
            let open = || {
                let options = Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 10 };
                Store::open(options).expect("store").0
            };
            let store = open();
            let done = store.log_end();
            Mark { done, end: done }.commit(&store, "a").expect("mark");
            let id = store.series(&Labels::from_pairs([("__name__", "up")])).expect("series");
            store.commit(Commit { samples: vec![(id, Timestamp(1), 1.0)], ..Commit::default() }).expect("commit");
            drop(store);
            let store = open();
            hold(&store);
            while store.seal(Timestamp(86_400_000)).expect("sealed").more {}
            let mut tail = store.log_tail(done);
            let mut samples = 0;
            while let Some(record) = tail.next_record().expect("record") {
                samples += record.samples.len();
            }
            samples
        };
        assert_eq!(left_of_the_log(|_| {}), 0);
        assert_eq!(left_of_the_log(hold_for_targets), 1);
    }
}
