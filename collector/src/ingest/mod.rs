//! From agents to the store: enrolment, broker, checked batches, one durable commit, acknowledgement.
//!
//! Invariants: an acknowledgement leaves only after the commit that holds its batch is on disk; queues are bounded in
//! number and bytes, and a full one slows agents down instead of dropping; one task owns everything that is remembered
//! between batches. What it deliberately does not do: answer queries, or serve HTTP (`web` calls
//! [`IngestHandle::enrol`]).

pub mod agents;
mod batches;
mod broker;
pub mod ca;
mod marks;
mod metrics;
mod own;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Timestamp;
use veghe_tsdb::Store;
use veghe_wire::ack::{self, Presence};
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse, Token};
use veghe_wire::{AgentId, Topic};

pub use agents::{AgentInfo, EnrolError};
pub use batches::Limits;
pub use broker::BrokerError;
pub use metrics::IngestMetrics;

use crate::clock;
use crate::ledger::{Ledger, LedgerError};
use agents::{Agents, BrokerAddress};
use batches::{Core, Failure, Objection, Outcome, Outlook, Storage, chain};
use broker::{Broker, Intake, Message, Queue, Retention, RmqttBroker};
use ca::{Ca, CaError};
use own::Own;

/// Tables of this module in the ledger.
pub(crate) const SCHEMA: &str = agents::SCHEMA;

/// Marks of runs that were silent for this long are forgotten: no agent keeps batches longer.
const MARK_LIFE: Duration = Duration::from_hours(24 * 60);
const PRUNE_EVERY: Duration = Duration::from_hours(6);
const PRUNE_AT_ONCE: usize = 1000;
/// How often what is known of agents goes to the ledger.
const SAVE_EVERY: Duration = Duration::from_mins(1);
/// One log line per agent and cause in this time.
const LOG_EVERY: Duration = Duration::from_mins(1);
/// An agent may renew this often.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long the end may take.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How ingest behaves.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    /// The collector's data directory; `ca/` is made in it.
    pub data_dir: PathBuf,
    /// Where agents connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further host names and addresses for the server certificate.
    pub server_names: Vec<String>,
    /// The broker's address as agents see it, if it differs from where they enrol.
    pub mqtt_url: Option<String>,
    /// How long agents' certificates last; 90 d.
    pub certificate_life: Duration,
    /// What one agent may send.
    pub limits: Limits,
    /// Messages that may wait; 4,096.
    pub queue_messages: usize,
    /// Bytes of messages that may wait; 64 MiB.
    pub queue_bytes: usize,
    /// How long the first batch of a commit waits for others; 100 ms.
    pub commit_delay: Duration,
    /// Batches in one commit; 512.
    pub commit_batches: usize,
    /// How often the collector's own series are written; 15 s.
    pub own_interval: Duration,
    /// Who takes events in; without it they are refused.
    pub events: Option<Arc<dyn EventSink>>,
}

/// Takes in what agents tell besides samples.
pub trait EventSink: fmt::Debug + Send + Sync {
    /// Keeps the events of a message of `agent`; they are on disk when this returns. Blocks. What is wrong with some of them is
    /// returned for the administrator: sending them again would not help.
    ///
    /// # Errors
    /// Where nothing can be kept now; the sender is to repeat the message.
    fn take(&self, agent: &AgentId, payload: &[u8]) -> Result<Option<String>, EventsNotKept>;
}

/// Events can't be kept now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events cannot be kept now")]
pub struct EventsNotKept;

impl IngestSettings {
    /// The defaults, in `data_dir` and on `listen`.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            server_names: Vec::new(),
            mqtt_url: None,
            certificate_life: ca::AGENT_CERTIFICATE_LIFE,
            limits: Limits::default(),
            queue_messages: 4096,
            queue_bytes: 64 << 20,
            commit_delay: Duration::from_millis(100),
            commit_batches: 512,
            own_interval: Duration::from_secs(15),
            events: None,
        }
    }
}

/// Why ingest does not start.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The certificate authority.
    #[error("cannot open the certificate authority")]
    Ca(#[from] CaError),
    /// The ledger.
    #[error("cannot read agents from the ledger")]
    Ledger(#[from] LedgerError),
    /// The broker.
    #[error("cannot start the broker")]
    Broker(#[from] BrokerError),
    /// The metrics.
    #[error("cannot register metrics of ingest")]
    Metrics(#[from] prometheus::Error),
    /// The system gives no memory for decompression.
    #[error("cannot prepare decompression")]
    Decoder(#[source] std::io::Error),
    /// A thread of ours panicked: a defect.
    #[error("ingest failed unexpectedly")]
    Defect,
}

/// Starts ingest.
pub struct Ingest;

impl Ingest {
    /// Opens the certificate authority, listens for agents and stores what they send in `store`. Metrics go to
    /// `registry`, which is also what the collector stores about itself. Cancelling `stop` begins the end: nothing is
    /// taken any more; [`IngestHandle::stop`] waits for it.
    ///
    /// # Errors
    /// See [`IngestError`].
    pub async fn start(
        settings: IngestSettings,
        ledger: Ledger,
        store: Store,
        registry: &Registry,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<IngestHandle, IngestError> {
        start(settings, ledger, Arc::new(store), registry, stop, tasks).await
    }
}

async fn start(
    settings: IngestSettings,
    ledger: Ledger,
    storage: Arc<dyn Storage>,
    registry: &Registry,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<IngestHandle, IngestError> {
    let metrics = IngestMetrics::new(registry)?;
    let opening = {
        let (dir, names) = (settings.data_dir.clone(), settings.server_names.clone());
        tasks.spawn_blocking(move || {
            let ca = Ca::open(&dir, &names, clock::now())?;
            Ok::<_, IngestError>((ca, Agents::open(ledger)?))
        })
    };
    let (ca, agents) = opening.await.map_err(|_panicked| IngestError::Defect)??;
    let (ca, agents) = (Arc::new(ca), Arc::new(agents));
    let core = Core::new(Arc::clone(&storage), settings.limits.clone()).map_err(IngestError::Decoder)?;
    let (sender, receiver) = mpsc::channel(settings.queue_messages);
    let queue = Queue { messages: sender, room: Arc::new(Semaphore::new(settings.queue_bytes)) };
    let intake = Intake { queue, events: settings.events.clone() };
    let broker = RmqttBroker::start(settings.listen, &ca, Arc::clone(&agents), intake, metrics.clone()).await?;
    let broker: Arc<dyn Broker> = Arc::new(broker);
    tracing::info!(address = %broker.address(), agents = agents.pulses().len(), "listening for agents");
    let stop = stop.child_token();
    let committer = Committer {
        core: Some(core),
        storage: Arc::clone(&storage),
        settings: settings.clone(),
        agents: Arc::clone(&agents),
        broker: Arc::clone(&broker),
        ca: Arc::clone(&ca),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        logged: HashMap::new(),
        complained: BTreeMap::new(),
        renewed: HashMap::new(),
    };
    let committer = tasks.spawn(committer.run(receiver, stop.clone()));
    let own = Own::new(storage, Arc::clone(&agents), registry.clone(), metrics.clone(), clock::now());
    let (unstored, unstored_since) = watch::channel(None);
    let interval = settings.own_interval;
    let own = tasks.spawn(write_own(own, interval, Arc::clone(&agents), unstored, tasks.clone(), stop.clone()));
    let inner = Inner {
        settings,
        agents,
        broker,
        ca,
        metrics,
        tasks: tasks.clone(),
        stop,
        running: tokio::sync::Mutex::new(vec![committer, own]),
        unstored_since,
    };
    Ok(IngestHandle(Arc::new(inner)))
}

/// What the rest of the collector asks of ingest. Cloning shares it.
#[derive(Clone)]
pub struct IngestHandle(Arc<Inner>);

struct Inner {
    settings: IngestSettings,
    agents: Arc<Agents>,
    broker: Arc<dyn Broker>,
    ca: Arc<Ca>,
    metrics: IngestMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
    running: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    unstored_since: watch::Receiver<Option<Timestamp>>,
}

/// Why an administrator's request failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The token could not be made.
    #[error(transparent)]
    Token(#[from] EnrolError),
    /// The ledger.
    #[error("cannot record the change")]
    Ledger(#[from] LedgerError),
    /// Nobody of that name.
    #[error("no agent and no certificate {name} is known here; `veghe-collector agents list` shows all")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// A thread of ours panicked: a defect.
    #[error("the request failed unexpectedly")]
    Defect,
}

impl IngestHandle {
    /// Where the broker listens.
    pub fn address(&self) -> SocketAddr {
        self.0.broker.address()
    }

    /// SHA-256 of the authority's certificate in DER.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        self.0.ca.fingerprint()
    }

    /// The authority; its server certificate also serves the operations listener.
    pub fn ca(&self) -> &Ca {
        &self.0.ca
    }

    /// Admits an agent: `POST /v1/enrol`.
    ///
    /// # Errors
    /// See [`EnrolError`]; [`EnrolError::code`] names it.
    pub async fn enrol(&self, request: EnrolmentRequest) -> Result<EnrolmentResponse, EnrolError> {
        let inner = Arc::clone(&self.0);
        let broker = BrokerAddress { url: inner.settings.mqtt_url.clone(), port: self.address().port() };
        let life = inner.settings.certificate_life;
        let work =
            self.0.tasks.spawn_blocking(move || inner.agents.enrol(&inner.ca, &request, life, &broker, clock::now()));
        let result = work.await.unwrap_or_else(|panicked| Err(defect(&panicked)));
        let outcome = result.as_ref().map_or_else(EnrolError::code, |_| "enrolled");
        self.0.metrics.enrolments.with_label_values(&[outcome]).inc();
        match result {
            Ok((agent, response)) => {
                // What is connected under this name came with a certificate that is no longer good.
                self.0.broker.disconnect(&agent).await;
                tracing::info!(%agent, "agent enrolled");
                Ok(response)
            }
            Err(error) => {
                tracing::info!(code = error.code(), "enrolment refused");
                Err(error)
            }
        }
    }

    /// A token that admits `agent` once within `life`.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn create_token(&self, agent: AgentId, life: Duration) -> Result<Token, AdminError> {
        let inner = Arc::clone(&self.0);
        let work = self.0.tasks.spawn_blocking(move || inner.agents.create_token(agent, life, &inner.ca, clock::now()));
        Ok(work.await.map_err(|_panicked| AdminError::Defect)??)
    }

    /// Every agent ever enrolled, by id.
    pub fn agents(&self) -> Vec<AgentInfo> {
        self.0.agents.list()
    }

    /// Since when nothing can be stored, judged by the collector's own metrics, which are written all the time.
    pub fn unstored_since(&self) -> watch::Receiver<Option<Timestamp>> {
        self.0.unstored_since.clone()
    }

    /// Shuts out an agent, or one certificate by its serial number, at once; gives whose connection was closed.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn revoke(&self, name: &str) -> Result<AgentId, AdminError> {
        let inner = Arc::clone(&self.0);
        let wanted = name.trim().to_owned();
        let work = self.0.tasks.spawn_blocking(move || {
            let now = clock::now();
            if let Ok(agent) = wanted.parse::<AgentId>()
                && inner.agents.revoke(&agent, now)?
            {
                return Ok(Some(agent));
            }
            inner.agents.revoke_serial(&wanted, now)
        });
        let revoked: Result<Option<AgentId>, LedgerError> = work.await.map_err(|_panicked| AdminError::Defect)?;
        let Some(agent) = revoked? else {
            return Err(AdminError::NotFound { name: name.chars().take(80).collect() });
        };
        self.0.broker.disconnect(&agent).await;
        tracing::warn!(%agent, by = name, "agent or certificate revoked");
        Ok(agent)
    }

    /// Takes nothing any more, stores and acknowledges what waits, writes down what is known of agents and closes the
    /// broker. May be called more than once.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        let mut running = self.0.running.lock().await;
        for task in running.drain(..) {
            let abort = task.abort_handle();
            match tokio::time::timeout(STOP_PATIENCE, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "task of ingest failed"),
                Err(_elapsed) => {
                    tracing::error!("task of ingest did not end in time; agents will send again what was not stored");
                    abort.abort();
                }
            }
        }
        save(&self.0.agents, &self.0.tasks).await;
        self.0.broker.shutdown().await;
    }
}

fn defect(panicked: &tokio::task::JoinError) -> EnrolError {
    tracing::error!(%panicked, "enrolment failed unexpectedly");
    EnrolError::Ca(CaError::Make { subject: "the agent".into(), source: rcgen::Error::RemoteKeyError })
}

async fn save(agents: &Arc<Agents>, tasks: &TaskTracker) {
    let agents = Arc::clone(agents);
    match tasks.spawn_blocking(move || agents.save()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot save the state of agents"),
        Err(panicked) => tracing::error!(%panicked, "saving the state of agents failed unexpectedly"),
    }
}

async fn write_own(
    own: Own,
    interval: Duration,
    agents: Arc<Agents>,
    unstored: watch::Sender<Option<Timestamp>>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut own = Some(own);
    let mut saved = clock::instant();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(mut writer) = own.take() else { return };
        let work = tasks.spawn_blocking(move || {
            let written = writer.write(clock::now());
            (writer, written)
        });
        match work.await {
            Ok((writer, written)) => {
                if let Err(error) = &written {
                    tracing::warn!(error = chain(&**error), "cannot store the collector's own metrics");
                }
                unstored.send_if_modified(|since| {
                    let changes = since.is_some() != written.is_err();
                    if changes {
                        *since = written.is_err().then(clock::now);
                    }
                    changes
                });
                own = Some(writer);
            }
            Err(panicked) => tracing::error!(%panicked, "storing the collector's own metrics failed unexpectedly"),
        }
        if saved.elapsed() >= SAVE_EVERY {
            saved = clock::instant();
            save(&agents, &tasks).await;
        }
    }
}

/// Owns what is remembered between batches and turns queued messages into commits and answers.
struct Committer {
    /// Away only while a blocking thread works with it.
    core: Option<Core>,
    storage: Arc<dyn Storage>,
    settings: IngestSettings,
    agents: Arc<Agents>,
    broker: Arc<dyn Broker>,
    ca: Arc<Ca>,
    metrics: IngestMetrics,
    tasks: TaskTracker,
    /// When a line about an agent and a cause was last logged. Bounded: both are of our making.
    logged: HashMap<(AgentId, &'static str), Timestamp>,
    /// When a failure of the store was last logged.
    complained: BTreeMap<&'static str, Timestamp>,
    renewed: HashMap<AgentId, Timestamp>,
}

impl Committer {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>, stop: CancellationToken) {
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Closed, the queue still gives what was accepted into it, then ends.
            let first = tokio::select! {
                biased;
                () = stop.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                message = queue.recv() => message,
                _ = prune.tick(), if !queue.is_closed() => {
                    self.prune().await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut messages = vec![first];
            let deadline = tokio::time::Instant::from_std(clock::instant() + self.settings.commit_delay);
            while messages.len() < self.settings.commit_batches {
                let next = tokio::select! {
                    biased;
                    message = queue.recv() => message,
                    () = stop.cancelled() => None,
                    () = tokio::time::sleep_until(deadline) => None,
                };
                match next {
                    Some(message) => messages.push(message),
                    None => break,
                }
            }
            self.metrics.queue.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
            self.handle(messages).await;
        }
    }

    async fn handle(&mut self, messages: Vec<Message>) {
        let mut payloads = Vec::with_capacity(messages.len());
        let mut room = Vec::with_capacity(messages.len());
        for message in messages {
            match message.topic {
                Topic::Batch => {
                    payloads.push((message.agent, message.payload));
                    room.push(message.room);
                }
                Topic::Presence => self.presence(&message.agent, &message.payload),
                Topic::Renewal => self.renew(message.agent, &message.payload).await,
                // The broker lets no agent publish on these, and keeps events before they are acknowledged.
                Topic::Ack | Topic::Certificate | Topic::Event => {}
            }
        }
        if !payloads.is_empty() {
            self.store(payloads).await;
        }
        drop(room);
    }

    async fn store(&mut self, payloads: Vec<(AgentId, Bytes)>) {
        let Some(mut core) = self.core.take() else { return };
        let now = clock::now();
        let duration = self.metrics.commit_seconds.clone();
        let work = self.tasks.spawn_blocking(move || {
            let timer = duration.start_timer();
            let outcome = core.process(payloads, now);
            if outcome.commits > 0 {
                timer.observe_duration();
            } else {
                timer.stop_and_discard();
            }
            (core, outcome)
        });
        match work.await {
            Ok((core, outcome)) => {
                self.metrics.sessions.set(core.runs() as i64);
                self.core = Some(core);
                self.tell(outcome, now).await;
            }
            Err(panicked) => {
                // Nothing was acknowledged: agents send again, to a core that asks for dictionaries anew.
                self.metrics.defects.inc();
                tracing::error!(%panicked, "reading batches failed unexpectedly");
                match Core::new(Arc::clone(&self.storage), self.settings.limits.clone()) {
                    Ok(core) => self.core = Some(core),
                    Err(error) => {
                        tracing::error!(%error, "cannot prepare decompression; batches are not read any more");
                    }
                }
            }
        }
    }

    async fn tell(&mut self, outcome: Outcome, now: Timestamp) {
        let metrics = &self.metrics;
        metrics.samples.inc_by(outcome.samples);
        for (name, count) in [
            ("stored", outcome.stored),
            ("repeated", outcome.repeated),
            ("refused", outcome.refused),
            ("held", outcome.held),
        ] {
            metrics.batches.with_label_values(&[name]).inc_by(count);
        }
        metrics.commit_failures.inc_by(outcome.failures.len() as u64);
        for failure in &outcome.failures {
            self.complain(failure, now);
        }
        for agent in &outcome.seen {
            self.agents.seen(agent, now);
        }
        for (agent, major) in &outcome.foreign_majors {
            self.agents.foreign_major(agent, *major);
        }
        for objection in &outcome.objections {
            self.object(objection, now);
        }
        for (agent, ack) in outcome.acks {
            self.broker.publish(Topic::Ack.of(&agent), ack::encode(&ack), Retention::Passing).await;
        }
    }

    /// Says why a commit failed, each kind of failure once per [`LOG_EVERY`].
    fn complain(&mut self, Failure { outlook, reason }: &Failure, now: Timestamp) {
        let text = match outlook {
            Outlook::DiskFull => {
                "disk is full: no batch is stored until there is space; agents keep them and try again"
            }
            Outlook::Passing => "cannot store batches; agents keep them and try again",
            Outlook::Hopeless => "cannot ever store a batch; it is refused",
        };
        if self.complained.get(text).is_none_or(|last| now.since(*last) >= LOG_EVERY) {
            self.complained.insert(text, now);
            tracing::error!(directory = %self.settings.data_dir.display(), reason, "{text}");
        }
    }

    fn object(&mut self, objection: &Objection, now: Timestamp) {
        let Objection { agent, cause, reason } = objection;
        self.metrics.refusals.with_label_values(&[cause]).inc();
        // An agent that is asked for its dictionary did nothing wrong.
        if *cause == "dictionary" {
            tracing::debug!(%agent, reason, "asked for dictionary");
            return;
        }
        self.agents.refused(agent, cause, reason);
        let last = self.logged.get(&(agent.clone(), cause));
        if last.is_none_or(|last| now.since(*last) >= LOG_EVERY) {
            self.logged.insert((agent.clone(), cause), now);
            tracing::warn!(%agent, cause, reason, "batch not taken");
        }
    }

    fn presence(&mut self, agent: &AgentId, payload: &[u8]) {
        match ack::decode::<Presence>(payload) {
            Ok(presence) => {
                self.agents.presence(agent, &presence);
                if presence.online {
                    tracing::info!(%agent, version = presence.version, "agent is online");
                }
            }
            Err(error) => {
                let cause = if let ack::MessageError::Major { given } = error {
                    self.agents.foreign_major(agent, given);
                    "version"
                } else {
                    "presence"
                };
                let objection = Objection { agent: agent.clone(), cause, reason: chain(&error) };
                self.object(&objection, clock::now());
            }
        }
    }

    async fn renew(&mut self, agent: AgentId, request: &[u8]) {
        let now = clock::now();
        if self.renewed.get(&agent).is_some_and(|last| now.since(*last) < RENEW_EVERY) {
            return;
        }
        self.renewed.insert(agent.clone(), now);
        let (agents, ca, life) = (Arc::clone(&self.agents), Arc::clone(&self.ca), self.settings.certificate_life);
        let (request, applicant) = (String::from_utf8_lossy(request).into_owned(), agent.clone());
        let work = self.tasks.spawn_blocking(move || agents.renew(&ca, &applicant, &request, life, now));
        match work.await {
            Ok(Ok(certificate)) => {
                self.metrics.enrolments.with_label_values(&["renewed"]).inc();
                tracing::info!(%agent, "certificate renewed");
                self.broker.publish(Topic::Certificate.of(&agent), certificate.into_bytes(), Retention::Passing).await;
            }
            Ok(Err(error)) => {
                self.metrics.enrolments.with_label_values(&[error.code()]).inc();
                self.object(&Objection { agent, cause: "renewal", reason: chain(&error) }, now);
            }
            Err(panicked) => tracing::error!(%panicked, "renewal failed unexpectedly"),
        }
    }

    async fn prune(&mut self) {
        let Some(mut core) = self.core.take() else { return };
        let horizon = clock::now().saturating_sub(MARK_LIFE);
        let work = self.tasks.spawn_blocking(move || {
            let pruned = core.prune(horizon, PRUNE_AT_ONCE);
            (core, pruned)
        });
        match work.await {
            Ok((core, pruned)) => {
                self.core = Some(core);
                match pruned {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "forgot marks of runs that are long gone"),
                    Err(error) => tracing::warn!(error = chain(&*error), "cannot forget old marks"),
                }
            }
            Err(panicked) => {
                self.metrics.defects.inc();
                tracing::error!(%panicked, "forgetting old marks failed unexpectedly");
                self.core = Core::new(Arc::clone(&self.storage), self.settings.limits.clone()).ok();
            }
        }
    }
}
