//! The uplink: rounds go into the spool at once, batches from there to the collector over MQTT 5. The only file of the
//! agent that knows MQTT.
//!
//! One task owns spool, session and delivery; a second one drives the present connection and tells the first what
//! happens there. Invariants: a round is in the spool before it is sent; being offline, held or refused never stops the
//! spooling; a batch is settled only by the collector's acknowledgement, never by the broker's.
//! Events come as messages of which one is under way at a time; the collector's own broker answers it once they are on disk.
//! What it deliberately does not do: decide which batch is next (see [`crate::delivery`]), read sensors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Filter, LastWill, Packet, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use veghe_wire::ack::{Ack, HoldCause, MessageError, Presence};
use veghe_wire::{AgentId, Topic};

use crate::clock;
use crate::delivery::{Delivery, Pace};
use crate::health::Health;
use crate::identity::{self, Identity, IdentityError, KeyRequest};
use crate::reading::{Reading, Round};
use crate::session::Session;
use crate::spool::{BatchId, Durability, Spool};
use crate::tls::{self, Pin};

const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT_SECONDS: u64 = 15;
/// Publications that the broker has not confirmed yet.
const BROKER_WINDOW: u16 = 48;
/// Room for everything in flight, presence and subscriptions.
const QUEUED_REQUESTS: usize = 128;
const QUEUED_EVENTS: usize = 64;
/// How long a connection has to last until the next failure counts as the first.
const SETTLED_CONNECTION: Duration = Duration::from_secs(30);
const BACKOFF_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How long the end waits for acknowledgements.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);
/// How long the end waits for the farewell to leave.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);
/// From one request for a certificate to the next.
const RENEWAL_RETRY: Duration = Duration::from_mins(10);
/// The longest time without a look around.
const TICK: Duration = Duration::from_mins(1);

/// Where the collector is and how to deal with it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the identity is; a renewed one is written there.
    pub state_dir: PathBuf,
    /// Who the settings say this is; the certificate must agree.
    pub agent: AgentId,
    /// The broker's host name or IPv4 address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Told to the collector, which expects batches at this distance.
    pub interval: Duration,
    /// How fast and how patient.
    pub pace: Pace,
}

/// Why the uplink can't go on.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// See the source.
    #[error("cannot use the agent's identity")]
    Identity(#[from] IdentityError),
    /// Settings and certificate are of different agents.
    #[error("cannot run as {configured}: the certificate is for {certified}; correct `agent` in agent.yaml")]
    Name {
        /// In the settings.
        configured: AgentId,
        /// In the certificate.
        certified: AgentId,
    },
    /// Certificate or key are of no use.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// No randomness or no memory.
    #[error("cannot begin a session")]
    Session(#[source] std::io::Error),
}

/// Spool, session and connection of one agent.
pub struct Uplink {
    settings: Settings,
    identity: Identity,
    spool: Spool,
    session: Session,
    delivery: Delivery,
    health: Arc<Health>,
    tasks: TaskTracker,
    link: Option<Link>,
    /// When to connect, and how often it failed.
    retry_at: Instant,
    failures: u32,
    newest: Option<BatchId>,
    renewal: Option<(KeyRequest, Instant)>,
    is_renewed: bool,
    has_disk_error: bool,
    is_dropping: bool,
    /// What was told about the lack of a connection since there was one.
    told_trouble: Option<Trouble>,
    /// Where events come from.
    events: Option<mpsc::Receiver<EventMessage>>,
}

/// Events on their way; `kept` is answered when the collector has them on disk, and dropped when that is not known.
#[derive(Debug)]
pub struct EventMessage {
    /// A JSON array of `CloudEvents`.
    pub body: String,
    /// The acknowledgement.
    pub kept: oneshot::Sender<()>,
}

/// Why there is no connection, as far as it makes a difference to whoever reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nobody answers, or not as a collector would.
    Unreachable,
    /// The collector answers and does not want this agent.
    Refused,
}

/// The present connection, or the attempt at one.
struct Link {
    client: AsyncClient,
    events: mpsc::Receiver<LinkEvent>,
    connected_at: Option<Instant>,
    is_subscribed: bool,
    told_version: bool,
    told_hold: bool,
    /// Publications handed to the connection, which numbers them in this order.
    published: u64,
    /// Which of them is the present event message; 0 is none.
    event: Arc<AtomicU64>,
    event_kept: Option<oneshot::Sender<()>>,
    _driver: DropGuard,
}

impl Link {
    #[expect(clippy::result_large_err, reason = "it is rumqttc's, and every call here takes it apart at once")]
    fn publish(&mut self, topic: Topic, agent: &AgentId, retain: bool, payload: Vec<u8>) -> Result<(), ClientError> {
        self.client.try_publish(topic.of(agent), QoS::AtLeastOnce, retain, payload)?;
        self.published += 1;
        Ok(())
    }
}

enum LinkEvent {
    Connected,
    Subscribed {
        complete: bool,
    },
    Message {
        topic: Vec<u8>,
        payload: Vec<u8>,
    },
    /// The broker's answer to the event message.
    EventKept {
        kept: bool,
    },
    Disconnecting,
    Down(Box<ConnectionError>),
}

impl Uplink {
    /// An uplink that is not connected yet. Tasks run on `tasks`.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn new(settings: Settings, spool: Spool, health: Arc<Health>, tasks: TaskTracker) -> Result<Self, UplinkError> {
        let identity = Identity::load(&settings.state_dir)?;
        if identity.agent != settings.agent {
            return Err(UplinkError::Name { configured: settings.agent, certified: identity.agent });
        }
        let delivery = Delivery::new(settings.pace);
        let session = new_session()?;
        let uplink = Self {
            settings,
            identity,
            spool,
            session,
            delivery,
            health,
            tasks,
            link: None,
            retry_at: clock::instant(),
            failures: 0,
            newest: None,
            renewal: None,
            is_renewed: false,
            has_disk_error: false,
            is_dropping: false,
            told_trouble: None,
            events: None,
        };
        uplink.tls()?;
        uplink.tell_health();
        Ok(uplink)
    }

    /// Spools and sends `rounds` until they end; then waits a little for what is under way, and says goodbye.
    pub async fn run(mut self, mut rounds: mpsc::Receiver<Round>) {
        loop {
            self.step();
            let wake_at = self.wake_at();
            let takes_events = self.takes_events();
            tokio::select! {
                round = rounds.recv() => match round {
                    Some(round) => self.take(&round),
                    None => break,
                },
                event = next_event(self.link.as_mut()) => self.handle(event),
                message = next_message(self.events.as_mut()), if takes_events => match message {
                    Some(message) => self.send_events(message),
                    None => self.events = None,
                },
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
        self.drain().await;
    }

    /// Puts a round into the spool.
    fn take(&mut self, round: &Round) {
        let left_out = self.spool_round(round);
        if !self.session.is_full() {
            return;
        }
        // Definitions have used up the session, by series that come and go; the next one begins with what is there now.
        match new_session() {
            Ok(session) => {
                let lost = self.spool.end_run();
                self.health.spool_dropped_batches_total.fetch_add(lost, Relaxed);
                self.session = session;
                tracing::info!("session is full of definitions, a new one begins");
            }
            Err(error) => return tracing::error!(error = &error as &dyn std::error::Error, "session is full"),
        }
        let again = |reading: &&Reading| left_out.contains(&reading.sensor);
        let readings: Vec<_> = round.readings.iter().filter(again).cloned().collect();
        if !readings.is_empty() {
            let left_out = self.spool_round(&Round { timestamp_ms: round.timestamp_ms, readings });
            if !left_out.is_empty() {
                tracing::error!(sensors = ?left_out, "sensors have too many series and are left out");
            }
        }
    }

    /// Returns the sensors that did not fit.
    fn spool_round(&mut self, round: &Round) -> Vec<&'static str> {
        let mut encoded = match self.session.encode(round) {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::error!(%error, "cannot compress a round; it is lost");
                return Vec::new();
            }
        };
        let left_out = std::mem::take(&mut encoded.left_out);
        let id = BatchId { spool_id: self.session.spool_id(), sequence: encoded.sequence };
        let durability = if self.is_online() { Durability::Written } else { Durability::Synced };
        let appended = self.spool.append(encoded, &self.session, durability);
        match &appended.disk_error {
            Some(error) if !self.has_disk_error => {
                tracing::error!(%error, "cannot write to the spool; the newest batches are kept in memory");
            }
            None if self.has_disk_error => tracing::info!("the spool can be written again"),
            _ => {}
        }
        self.has_disk_error = appended.disk_error.is_some();
        if appended.dropped_batches > 0 && !self.is_dropping {
            tracing::warn!(batches = appended.dropped_batches, "spool is full, the oldest batches are dropped");
        }
        self.is_dropping = appended.dropped_batches > 0;
        self.health.spool_dropped_batches_total.fetch_add(appended.dropped_batches, Relaxed);
        self.newest = Some(id);
        self.delivery.offer(id);
        if !self.has_disk_error {
            let (timestamp_ms, sequence) = (round.timestamp_ms, id.sequence);
            if let Some(cycle) = cycle_count(round) {
                tracing::debug!(cycle, timestamp_ms, sequence, "cycle spooled");
            } else {
                tracing::debug!(timestamp_ms, sequence, "late readings spooled");
            }
        }
        left_out
    }

    /// Events come from there too.
    #[must_use]
    pub fn with_events(mut self, events: mpsc::Receiver<EventMessage>) -> Self {
        self.events = Some(events);
        self
    }

    /// One message at a time: its acknowledgement is known by its number on the connection.
    fn takes_events(&self) -> bool {
        self.events.is_some() && self.link.as_ref().is_some_and(|l| l.is_subscribed && l.event_kept.is_none())
    }

    fn send_events(&mut self, message: EventMessage) {
        let Some(link) = &mut self.link else { return };
        link.event.store(link.published + 1, Relaxed);
        match link.publish(Topic::Event, &self.identity.agent, false, message.body.into_bytes()) {
            Ok(()) => link.event_kept = Some(message.kept),
            Err(error) => {
                tracing::warn!(%error, "the connection does not take any more");
                self.lose_link();
            }
        }
    }

    fn is_online(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_subscribed)
    }

    /// Does what is due.
    fn step(&mut self) {
        let now = clock::instant();
        if self.link.is_none() && now >= self.retry_at {
            self.connect();
        }
        self.renew(now);
        self.send(now);
        self.health.uplink_held.store(u64::from(self.delivery.is_held(now)), Relaxed);
        self.tell_health();
    }

    fn wake_at(&self) -> Instant {
        let now = clock::instant();
        let reconnect = self.link.is_none().then_some(self.retry_at);
        let delivery = if self.is_online() { self.delivery.wake_at(&self.spool, now) } else { None };
        // Never at once: a wake-up that finds nothing to do must not turn into a busy loop.
        let soonest = now + Duration::from_millis(1);
        reconnect.into_iter().chain(delivery).fold(now + TICK, Instant::min).max(soonest)
    }

    fn tell_health(&self) {
        let health = &self.health;
        health.spool_bytes.store(self.spool.bytes(), Relaxed);
        health.spool_batches.store(self.spool.batches(), Relaxed);
        health.spool_oldest_timestamp_ms.store(self.spool.oldest_timestamp_ms().unwrap_or(0), Relaxed);
        health.uplink_connected.store(u64::from(self.is_online()), Relaxed);
    }

    fn tls(&self) -> Result<rustls::ClientConfig, rustls::Error> {
        let identity = (self.identity.chain.clone(), self.identity.key.clone_key());
        tls::client_config(Pin::Ca(self.identity.ca.clone()), Some(identity))
    }

    fn connect(&mut self) {
        let config = match self.tls() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "cannot set up TLS");
                return self.back_off();
            }
        };
        let agent = &self.identity.agent;
        let mut options = MqttOptions::new(agent.as_str(), &self.settings.host, self.settings.port);
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_start(true)
            .set_connection_timeout(CONNECT_TIMEOUT_SECONDS)
            .set_max_packet_size(u32::try_from(veghe_wire::MAX_PACKET_BYTES).ok())
            .set_outgoing_inflight_upper_limit(BROKER_WINDOW)
            .set_last_will(LastWill::new(
                Topic::Presence.of(agent),
                self.presence(false),
                QoS::AtLeastOnce,
                true,
                None,
            ));
        let (client, eventloop) = AsyncClient::new(options, QUEUED_REQUESTS);
        let (sender, events) = mpsc::channel(QUEUED_EVENTS);
        let stop = CancellationToken::new();
        let event = Arc::new(AtomicU64::new(0));
        self.tasks.spawn(drive(eventloop, sender, Arc::clone(&event), stop.clone()));
        tracing::debug!(host = self.settings.host, port = self.settings.port, "connecting to the collector");
        self.link = Some(Link {
            client,
            events,
            connected_at: None,
            is_subscribed: false,
            told_version: false,
            told_hold: false,
            published: 0,
            event,
            event_kept: None,
            _driver: stop.drop_guard(),
        });
    }

    fn presence(&self, online: bool) -> Vec<u8> {
        veghe_wire::ack::encode(&Presence {
            online,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spool_id: self.session.spool_id(),
            interval_ms: u32::try_from(self.settings.interval.as_millis()).unwrap_or(u32::MAX),
            protocol: format!("{}.{}", veghe_wire::MAJOR, veghe_wire::MINOR),
        })
    }

    fn handle(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => self.greet(),
            LinkEvent::Subscribed { complete: true } => self.begin_delivery(),
            LinkEvent::Subscribed { complete: false } => {
                tracing::error!(
                    "the broker refuses the subscription to the agent's own topics; check its access rules"
                );
                self.lose_link();
            }
            LinkEvent::Message { topic, payload } => {
                let topic = std::str::from_utf8(&topic).ok().and_then(Topic::parse);
                match topic {
                    Some((agent, Topic::Ack)) if agent == self.identity.agent => self.acknowledge(&payload),
                    Some((agent, Topic::Certificate)) if agent == self.identity.agent => {
                        self.take_certificate(&payload);
                    }
                    _ => tracing::debug!("message on a topic that is none of ours"),
                }
            }
            LinkEvent::EventKept { kept } => {
                let answer = self.link.as_mut().and_then(|link| link.event_kept.take());
                if let (true, Some(answer)) = (kept, answer) {
                    // Whoever asked may have ended.
                    answer.send(()).ok();
                } else if !kept {
                    tracing::error!("the broker refuses events; check its access rules");
                }
            }
            LinkEvent::Disconnecting => {}
            LinkEvent::Down(error) => {
                let retry_soon = std::mem::take(&mut self.is_renewed);
                if !retry_soon {
                    self.tell_trouble(&error);
                }
                self.lose_link();
                if retry_soon {
                    self.retry_at = clock::instant();
                }
            }
        }
    }

    /// Each change is told once, every further attempt that fails the same way only in detail: a machine that was
    /// revoked, or a long outage, must not fill its log.
    fn tell_trouble(&mut self, error: &ConnectionError) {
        let trouble = if is_refusal(error) { Trouble::Refused } else { Trouble::Unreachable };
        let was_online = self.is_online();
        let host = &self.settings.host;
        let error: &(dyn std::error::Error + 'static) = error;
        if self.told_trouble.replace(trouble) == Some(trouble) {
            return tracing::debug!(error, host, ?trouble, "still no connection to the collector");
        }
        match trouble {
            Trouble::Unreachable => tracing::warn!(error, was_online, host, "no connection to the collector"),
            Trouble::Refused => tracing::error!(
                error,
                was_online,
                host,
                "the agent is refused by the collector: it is revoked, or not enrolled there; batches stay in the \
                 spool, attempts go on; enrol again with `veghe-agent join --force`"
            ),
        }
        if self.identity.not_after_seconds < clock::since_epoch().as_secs() as i64 {
            tracing::error!("the agent's certificate has expired; enrol again with `veghe-agent join --force`");
        }
    }

    fn lose_link(&mut self) {
        let lost = self.link.take();
        let lasted = lost.and_then(|link| link.connected_at).map(|at| clock::instant().saturating_duration_since(at));
        if lasted.is_some_and(|lasted| lasted >= SETTLED_CONNECTION) {
            self.failures = 0;
        }
        self.delivery.disconnect();
        if let Err(error) = self.spool.sync() {
            tracing::warn!(%error, "cannot sync the spool");
        }
        self.back_off();
    }

    fn back_off(&mut self) {
        let (least, most) = BACKOFF_RANGE;
        let full = (least * 2_u32.saturating_pow(self.failures.min(10))).min(most);
        self.failures = self.failures.saturating_add(1);
        // Between half and all of it, so that a fleet does not come back in one moment.
        let jitter = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        self.retry_at = clock::instant() + full.mul_f64(0.5 + jitter / 2.0);
    }

    fn greet(&mut self) {
        let presence = self.presence(true);
        let agent = self.identity.agent.clone();
        self.health.uplink_connects_total.fetch_add(1, Relaxed);
        let Some(link) = &mut self.link else { return };
        link.connected_at = Some(clock::instant());
        let filters = [Topic::Ack, Topic::Certificate].map(|t| Filter::new(t.of(&agent), QoS::AtLeastOnce));
        let subscribed = link.client.try_subscribe_many(filters);
        let told = link.publish(Topic::Presence, &agent, true, presence);
        if let Some(error) = subscribed.err().or(told.err()) {
            tracing::warn!(%error, "cannot greet the collector");
            self.lose_link();
        }
    }

    /// Only now: an acknowledgement that comes before the subscription is lost.
    fn begin_delivery(&mut self) {
        let Some(link) = &mut self.link else { return };
        if link.is_subscribed {
            return;
        }
        link.is_subscribed = true;
        self.told_trouble = None;
        tracing::info!(host = self.settings.host, port = self.settings.port, "connected to the collector");
        let newest = self.newest.filter(|id| self.spool.is_unsettled(*id));
        self.delivery.connect(newest, clock::instant());
    }

    fn send(&mut self, now: Instant) {
        if !self.is_online() {
            return;
        }
        loop {
            let payload = match self.delivery.next_payload(&mut self.spool, &self.session, now) {
                Ok(Some(payload)) => payload,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot read a spooled batch");
                    continue;
                }
            };
            let Some(link) = &mut self.link else { return };
            if let Err(error) = link.publish(Topic::Batch, &self.identity.agent, false, payload) {
                tracing::warn!(%error, "the connection does not take any more");
                return self.lose_link();
            }
            self.health.batches_sent_total.fetch_add(1, Relaxed);
        }
    }

    fn acknowledge(&mut self, payload: &[u8]) {
        let now = clock::instant();
        let ack: Ack = match veghe_wire::ack::decode(payload) {
            Ok(ack) => ack,
            Err(error) => {
                if matches!(error, MessageError::Major { .. }) {
                    self.delivery.hold(now);
                    self.tell_version(&error.to_string());
                } else {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot read an acknowledgement");
                }
                return;
            }
        };
        let settled = self.delivery.acknowledge(&ack, &mut self.spool, now);
        if settled.accepted > 0 {
            self.failures = 0;
            if let Some(link) = &mut self.link {
                link.told_hold = false;
            }
        }
        self.health.batches_accepted_total.fetch_add(settled.accepted, Relaxed);
        self.health.batches_refused_total.fetch_add(settled.refused.len() as u64, Relaxed);
        for (id, reason) in settled.refused.iter().take(3) {
            tracing::error!(sequence = id.sequence, reason, "the collector refuses a batch; it is lost");
        }
        match settled.held {
            Some((HoldCause::Version, reason)) => self.tell_version(&reason),
            Some((cause, reason)) => {
                if let Some(link) = self.link.as_mut().filter(|link| !link.told_hold) {
                    link.told_hold = true;
                    tracing::warn!(?cause, reason, "the collector asks to wait; batches stay in the spool");
                }
            }
            None => {}
        }
    }

    fn tell_version(&mut self, reason: &str) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.told_version) {
            link.told_version = true;
            tracing::error!(
                reason,
                agent_protocol = veghe_wire::MAJOR,
                "agent and collector speak different protocol versions; batches stay in the spool until one is updated"
            );
        }
    }

    /// Asks for the next certificate when it is time.
    fn renew(&mut self, now: Instant) {
        let is_due = clock::since_epoch().as_secs() as i64 >= self.identity.renew_at_seconds();
        let asked_lately = self.renewal.as_ref().is_some_and(|(_, at)| now < *at + RENEWAL_RETRY);
        if !is_due || asked_lately || !self.is_online() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        let agent = &self.identity.agent;
        match KeyRequest::new(agent) {
            Ok(request) => {
                match link.publish(Topic::Renewal, agent, false, request.request.clone().into()) {
                    Ok(()) => tracing::info!("asked the collector for the next certificate"),
                    Err(error) => tracing::warn!(%error, "cannot ask for the next certificate"),
                }
                self.renewal = Some((request, now));
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot renew the certificate"),
        }
    }

    fn take_certificate(&mut self, payload: &[u8]) {
        let Some((request, _)) = &self.renewal else {
            return tracing::debug!("a certificate that was not asked for");
        };
        let state_dir = &self.settings.state_dir;
        let pem = std::str::from_utf8(payload).or(Err(IdentityError::Foreign { reason: "it is not text" }));
        let replaced = pem
            .and_then(|pem| identity::replace(state_dir, &self.identity.agent, request, pem))
            .and_then(|()| Identity::load(state_dir));
        match replaced {
            Ok(identity) => {
                tracing::info!("the certificate is renewed");
                self.identity = identity;
                self.renewal = None;
                self.is_renewed = true;
                // The new one shows itself on the next connection.
                let left = self.link.as_ref().is_some_and(|link| link.client.try_disconnect().is_ok());
                if !left {
                    self.lose_link();
                }
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot renew the certificate"),
        }
    }

    /// The end: what was taken last gets a chance to be acknowledged, then the collector is told.
    async fn drain(mut self) {
        self.delivery.end_backfill();
        let until = clock::instant() + DRAIN_PATIENCE;
        while self.is_online() && !self.delivery.is_idle() && !self.delivery.is_held(clock::instant()) {
            let now = clock::instant();
            self.send(now);
            tokio::select! {
                event = next_event(self.link.as_mut()) => self.handle(event),
                () = tokio::time::sleep_until(until.into()) => break,
            }
        }
        if let Err(error) = self.spool.sync() {
            tracing::warn!(%error, "cannot sync the spool");
        }
        self.tell_health();
        let presence = self.presence(false);
        if let Some(mut link) = self.link.take()
            && link.connected_at.is_some()
        {
            let is_told = link.publish(Topic::Presence, &self.identity.agent, true, presence).is_ok();
            if is_told && link.client.try_disconnect().is_ok() {
                let until = tokio::time::sleep(FAREWELL_PATIENCE);
                tokio::pin!(until);
                loop {
                    tokio::select! {
                        event = next_event(Some(&mut link)) => {
                            if matches!(event, LinkEvent::Disconnecting | LinkEvent::Down(_)) {
                                break;
                            }
                        }
                        () = &mut until => break,
                    }
                }
            }
        }
        tracing::info!(
            batches = self.spool.batches(),
            "uplink ended; batches that are left are sent at the next start"
        );
    }
}

fn new_session() -> Result<Session, UplinkError> {
    let random = getrandom::u64().map_err(|error| UplinkError::Session(std::io::Error::other(error)))?;
    Session::new(random).map_err(UplinkError::Session)
}

/// Whether the other side answered and said no: to the connection, or to the certificate already.
fn is_refusal(error: &ConnectionError) -> bool {
    if let ConnectionError::ConnectionRefused(code) = error {
        use ConnectReturnCode::{QuotaExceeded, ServerBusy, ServerUnavailable, ServiceUnavailable};
        return !matches!(code, QuotaExceeded | ServerBusy | ServerUnavailable | ServiceUnavailable);
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        // Its source is not in the chain.
        ConnectionError::MqttState(StateError::Deserialization(error)) => Some(error),
        error => Some(error),
    };
    while let Some(error) = cause {
        // An I/O error hides what it was made of from its chain of sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            use rustls::AlertDescription as Alert;
            return matches!(
                alert,
                Alert::AccessDenied
                    | Alert::BadCertificate
                    | Alert::CertificateExpired
                    | Alert::CertificateRequired
                    | Alert::CertificateRevoked
                    | Alert::CertificateUnknown
                    | Alert::DecryptError
                    | Alert::UnknownCA
                    | Alert::UnsupportedCertificate
            );
        }
        cause = error.source();
    }
    false
}

/// `veghe_agent_cycles_total` of the round, which the agent's own sensor puts first.
fn cycle_count(round: &Round) -> Option<u64> {
    let agent = round.readings.iter().find(|reading| reading.sensor == "agent")?;
    let first = agent.series.0.first().filter(|name| name.metric() == "veghe_agent_cycles_total")?;
    first.labels().is_empty().then_some(())?;
    agent.values.first().map(|value| *value as u64)
}

async fn next_event(link: Option<&mut Link>) -> LinkEvent {
    let Some(link) = link else { return std::future::pending().await };
    match link.events.recv().await {
        Some(event) => event,
        None => LinkEvent::Down(Box::new(ConnectionError::RequestsDone)),
    }
}

async fn next_message(events: Option<&mut mpsc::Receiver<EventMessage>>) -> Option<EventMessage> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

/// Drives one connection to its end. Reconnecting is a new connection's business, so that nothing of the old one is
/// sent there.
async fn drive(
    mut eventloop: EventLoop,
    events: mpsc::Sender<LinkEvent>,
    event_message: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let (mut published, mut event_packet) = (0_u64, None);
    loop {
        let polled = tokio::select! {
            () = stop.cancelled() => return,
            polled = eventloop.poll() => polled,
        };
        let event = match polled {
            Ok(Event::Incoming(Packet::ConnAck(_))) => LinkEvent::Connected,
            Ok(Event::Incoming(Packet::SubAck(answer))) => {
                let is_success = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                LinkEvent::Subscribed { complete: answer.return_codes.iter().all(is_success) }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                LinkEvent::Message { topic: publish.topic.to_vec(), payload: publish.payload.to_vec() }
            }
            Ok(Event::Outgoing(Outgoing::Publish(packet))) => {
                published += 1;
                if published == event_message.load(Relaxed) {
                    event_packet = Some(packet);
                }
                continue;
            }
            Ok(Event::Incoming(Packet::PubAck(answer))) if event_packet == Some(answer.pkid) => {
                event_packet = None;
                // Nobody subscribes to a collector's events: it takes them before it answers.
                let kept = matches!(answer.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                LinkEvent::EventKept { kept }
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => LinkEvent::Disconnecting,
            Ok(_) => continue,
            Err(error) => {
                // Nobody may be listening any more, which is an end as well.
                events.send(LinkEvent::Down(Box::new(error))).await.ok();
                return;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}
