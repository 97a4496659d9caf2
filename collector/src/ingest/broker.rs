//! The broker as ingest needs it, and its implementation on rmqtt.
//!
//! Invariants: every connection shows a certificate of our authority; an agent's client id is its certificate's common
//! name; it publishes and subscribes only below its own topic, its last will included. A message is handed over only
//! after these checks. rmqtt lives in a runtime of its own that ends with the broker: its tasks, its panics and its
//! log stay there. What it deliberately does not do: promise that a message is stored. PUBACK only says that a
//! message waits in the queue; the acknowledgement topic says what is on disk. Events are the exception: theirs are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::IntCounterVec;
use rmqtt::codec::types::{Publish as Packet, QoS};
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::net::Builder;
use rmqtt::retain::RetainStorage;
use rmqtt::server::MqttServer;
use rmqtt::session::{Session, SessionState};
use rmqtt::types::{
    AuthResult, ConnectInfo, From, FromType, Id, LastWill, Publish, PublishAclResult, Retain, Subscribe,
    SubscribeAclResult, TopicFilter, TopicName,
};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use veghe_wire::{AgentId, MAX_PACKET_BYTES, Topic};

use super::EventSink;
use super::agents::{Agents, Inadmissible};
use super::ca::Ca;
use super::metrics::IngestMetrics;
use crate::clock;

/// A connection has this long for TLS and CONNECT.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a message waits for room in the queue before its connection is closed; well below any keep-alive.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);
/// How long messages for an agent that is away are kept. Acknowledgements are repeatable: minutes suffice.
const OFFLINE_LIFE: Duration = Duration::from_mins(5);
/// Messages that wait for one agent; acknowledgements beyond are dropped, and the agent's repeat is answered again.
const DOWNLINK_QUEUE: usize = 256;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Its runtime can't start.
    #[error("cannot start threads for the broker")]
    Runtime(#[source] std::io::Error),
    /// Its address is taken, not here or not allowed.
    #[error("cannot listen for agents on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A message of an agent on one of its own topics.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) agent: AgentId,
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    /// Its share of what may wait in memory.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Where messages wait; bounded in number by the channel and in bytes by `room`.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) room: Arc<Semaphore>,
}

impl Queue {
    /// Hands a message over as soon as there is room; false where nobody takes messages any more.
    async fn put(&self, agent: AgentId, topic: Topic, payload: Bytes) -> bool {
        let bytes = u32::try_from(payload.len().max(1)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(bytes).await else { return false };
        self.messages.send(Message { agent, topic, payload, room }).await.is_ok()
    }
}

/// Where messages go.
#[derive(Clone)]
pub(crate) struct Intake {
    /// Batches, presence and renewals.
    pub(crate) queue: Queue,
    /// Events, which are on disk before their message is acknowledged.
    pub(crate) events: Option<Arc<dyn EventSink>>,
}

/// Whether the broker keeps a message for later subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Only who is subscribed gets it.
    Passing,
    /// Whoever subscribes later gets it too.
    Kept,
}

/// What carries messages between agents and collector.
#[async_trait]
pub(crate) trait Broker: Send + Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// Sends `payload` to whoever is subscribed to `topic`; may be dropped where they are slow or gone.
    async fn publish(&self, topic: String, payload: Vec<u8>, retention: Retention);
    /// Ends the connection of `agent`, if it has one.
    async fn disconnect(&self, agent: &AgentId);
    /// Ends all connections and listens no more.
    async fn shutdown(&self);
}

/// rmqtt in this process.
pub(crate) struct RmqttBroker {
    address: SocketAddr,
    context: ServerContext,
    hooks: Hooks,
    runtime: Mutex<Option<Runtime>>,
    /// What [`TamedLog`] counts in, for as long as this broker lives.
    _handshakes: Arc<IntCounterVec>,
}

impl RmqttBroker {
    /// Listens on `address` with the certificate of `ca` and hands messages of admitted agents to `intake`.
    pub(crate) async fn start(
        address: SocketAddr,
        ca: &Ca,
        agents: Arc<Agents>,
        intake: Intake,
        metrics: IngestMetrics,
    ) -> Result<Self, BrokerError> {
        tame_log();
        raise_open_files_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("veghe-mqtt")
            .enable_all()
            .build()
            .map_err(BrokerError::Runtime)?;
        let handshakes = Arc::new(metrics.broker_refusals.clone());
        watch_log(&handshakes);
        let hooks = Hooks {
            agents,
            intake,
            connections: Arc::default(),
            context: Arc::default(),
            runtime: runtime.handle().clone(),
            metrics,
        };
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let builder = Builder::new()
            .name("mqtt")
            .laddr(address)
            .reuseaddr(Some(true))
            .nodelay(true)
            .allow_anonymous(false)
            .allow_zero_keepalive(false)
            .tls_cross_certificate(true)
            .tls_cert(Some(path(ca.server_certificate_path())))
            .tls_key(Some(path(ca.server_key_path())))
            .tls_client_ca_certs(Some(path(ca.certificate_path())))
            .cert_cn_as_username(true)
            .collect_cert_info(true)
            .max_packet_size(MAX_PACKET_BYTES as u32)
            .max_clientid_len(64)
            .max_topic_levels(8)
            .max_subscriptions(8)
            .max_mqueue_len(DOWNLINK_QUEUE)
            .session_expiry_interval(OFFLINE_LIFE)
            .max_session_expiry_interval(OFFLINE_LIFE)
            .handshake_timeout(HANDSHAKE_TIMEOUT);
        let started = runtime.spawn(serve(builder, hooks.clone())).await;
        let failed = |source| BrokerError::Listen { address, source };
        let (context, bound) = match started {
            Ok(Ok(started)) => started,
            Ok(Err(source)) => {
                runtime.shutdown_background();
                return Err(failed(source));
            }
            Err(panicked) => {
                runtime.shutdown_background();
                return Err(failed(Box::new(panicked)));
            }
        };
        Ok(Self { address: bound, context, hooks, runtime: Mutex::new(Some(runtime)), _handshakes: handshakes })
    }

    /// Runs `work` where rmqtt lives; nothing once it has ended.
    async fn within(&self, work: impl Future<Output = ()> + Send + 'static) {
        let handle = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|r| r.handle().clone());
        if let Some(handle) = handle
            && let Err(error) = handle.spawn(work).await
        {
            tracing::debug!(%error, "broker task ended early");
        }
    }
}

type Started = (ServerContext, SocketAddr);

async fn serve(builder: Builder, hooks: Hooks) -> Result<Started, Box<dyn std::error::Error + Send + Sync>> {
    let context = ServerContext::new().busy_check_enable(false).build().await;
    *context.extends.retain_mut().await = Box::new(RetainedDownlink::default());
    *hooks.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.clone());
    let register = context.extends.hook_mgr().register();
    for kind in [
        Type::ClientAuthenticate,
        Type::ClientConnected,
        Type::ClientDisconnected,
        Type::ClientSubscribeCheckAcl,
        Type::MessagePublishCheckAcl,
    ] {
        register.add_priority(kind, 100, Box::new(hooks.clone())).await;
    }
    // Hooks do nothing before this.
    register.start().await;
    let listener = builder.bind()?.tls()?;
    let bound = listener.local_addr()?;
    // `MqttServer::start` would end the process on an error; `run` does not.
    let server = MqttServer::new(context.clone()).listener_by_id(listener, 1).build();
    tokio::runtime::Handle::current().spawn(async move {
        let ended = server.run().await;
        tracing::error!(?ended, "broker stopped listening");
    });
    Ok((context, bound))
}

#[async_trait]
impl Broker for RmqttBroker {
    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn publish(&self, topic: String, payload: Vec<u8>, retention: Retention) {
        let context = self.context.clone();
        self.within(async move {
            let packet = Packet {
                dup: false,
                retain: retention == Retention::Kept,
                qos: QoS::AtLeastOnce,
                topic: topic.as_str().into(),
                packet_id: None,
                payload: payload.into(),
                properties: None,
            };
            let from = From::from_system(id(&context, "veghe-collector"));
            let expiry = Some(OFFLINE_LIFE);
            if let Err(error) = SessionState::forwards(&context, from, Publish::from(packet), false, expiry).await {
                tracing::debug!(topic, %error, "cannot forward message");
            }
        })
        .await;
    }

    async fn disconnect(&self, agent: &AgentId) {
        self.within(kick(self.context.clone(), agent.clone())).await;
    }

    async fn shutdown(&self) {
        let connected: Vec<AgentId> = {
            let connections = self.hooks.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.keys().cloned().collect()
        };
        let context = self.context.clone();
        self.within(async move {
            let handle = tokio::runtime::Handle::current();
            let goodbyes = connected.into_iter().map(|agent| handle.spawn(kick(context.clone(), agent)));
            for goodbye in goodbyes.collect::<Vec<_>>() {
                if goodbye.await.is_err() {
                    tracing::debug!("broker task ended early");
                }
            }
        })
        .await;
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl Drop for RmqttBroker {
    fn drop(&mut self) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            // An ordinary drop would wait, which async callers may not.
            runtime.shutdown_background();
        }
    }
}

fn id(context: &ServerContext, client: &str) -> Id {
    Id::new(context.node.id(), 1, None, None, client.into(), None)
}

async fn kick(context: ServerContext, agent: AgentId) {
    let entry = context.extends.shared().await.entry(id(&context, agent.as_str()));
    let kicked = match entry.try_lock().await {
        Ok(mut entry) => entry.kick(true, true, true).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = kicked {
        tracing::debug!(%agent, %error, "cannot close connection");
    }
}

/// Tells one connection of an agent from another.
type ConnectionKey = (Option<SocketAddr>, i64);

#[derive(Clone)]
struct Hooks {
    agents: Arc<Agents>,
    intake: Intake,
    connections: Arc<Mutex<HashMap<AgentId, ConnectionKey>>>,
    context: Arc<Mutex<Option<ServerContext>>>,
    runtime: tokio::runtime::Handle,
    metrics: IngestMetrics,
}

impl Hooks {
    fn refuse(&self, cause: &'static str, who: &str, detail: &str) {
        self.metrics.broker_refusals.with_label_values(&[cause]).inc();
        if let Ok(agent) = who.parse() {
            self.agents.refused(&agent, cause, detail);
        }
        tracing::debug!(cause, client = who, detail, "broker refused");
    }

    fn authenticate(&self, connection: &ConnectInfo) -> Result<(), (&'static str, String)> {
        let certificate = connection.cert().ok_or(("no_certificate", "no certificate".to_owned()))?;
        let name = certificate.common_name.as_deref().unwrap_or("");
        let agent: AgentId = name.parse().map_err(|error| ("foreign_certificate", format!("{error}")))?;
        let client = &connection.id().client_id;
        if &**client != agent.as_str() {
            let shown: String = client.chars().take(64).collect();
            return Err(("client_id", format!("client id {shown:?} with the certificate of {agent}")));
        }
        let serial = certificate.serial.as_deref().unwrap_or("");
        self.agents.admits(&agent, serial).map_err(|why| match why {
            Inadmissible::Unknown => ("unknown_agent", format!("{agent} was never enrolled here")),
            Inadmissible::Revoked => ("revoked_agent", format!("{agent} is revoked")),
            Inadmissible::Certificate => ("revoked_certificate", format!("certificate {serial} is revoked")),
        })?;
        let will = connection.last_will().map(|will| match will {
            LastWill::V3(will) => will.topic.clone(),
            LastWill::V5(will) => will.topic.clone(),
        });
        if let Some(topic) = will
            && *topic != *Topic::Presence.of(&agent)
        {
            return Err(("foreign_will", format!("last will on a topic that is not {}", Topic::Presence.of(&agent))));
        }
        Ok(())
    }

    fn connected(&self, session: &Session) {
        let Ok(agent) = session.id.client_id.parse::<AgentId>() else { return };
        {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.insert(agent.clone(), (session.id.remote_addr, session.id.create_time));
            self.metrics.connected.set(connections.len() as i64);
        }
        self.agents.connected(&agent, Some(clock::now()));
        tracing::debug!(%agent, "agent connected");
        // It may have been revoked since it was admitted.
        let is_still_welcome = self.agents.is_welcome(&agent);
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (false, Some(context)) = (is_still_welcome, context) {
            self.runtime.spawn(kick(context, agent));
        }
    }

    fn disconnected(&self, session: &Session) {
        let Ok(agent) = session.id.client_id.parse::<AgentId>() else { return };
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that a newer one took over from says nothing about the agent.
        if connections.get(&agent) == Some(&(session.id.remote_addr, session.id.create_time)) {
            connections.remove(&agent);
            self.metrics.connected.set(connections.len() as i64);
            drop(connections);
            self.agents.connected(&agent, None);
            tracing::debug!(%agent, "agent disconnected");
        }
    }

    fn subscribe(&self, session: &Session, subscribe: &Subscribe) -> SubscribeAclResult {
        let client = &*session.id.client_id;
        let is_own = Topic::parse(&subscribe.topic_filter)
            .is_some_and(|(agent, topic)| agent.as_str() == client && !topic.is_from_agent());
        if is_own {
            SubscribeAclResult::new_success(subscribe.opts.qos(), None)
        } else {
            self.refuse("foreign_subscription", client, "subscription to a topic that is not its own");
            SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
        }
    }

    async fn publish(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        let client = &*session.id.client_id;
        let Some((agent, topic)) =
            Topic::parse(&publish.topic).filter(|(agent, topic)| agent.as_str() == client && topic.is_from_agent())
        else {
            self.refuse("foreign_topic", client, "message on a topic that is not its own");
            return PublishAclResult::rejected(true, None);
        };
        if topic == Topic::Event {
            return self.take_events(client, agent, &publish.payload).await;
        }
        // Refusing without closing the connection would send a PUBACK to v3.1.1 clients: they would forget the message.
        let put = self.intake.queue.put(agent, topic, publish.payload.clone());
        match tokio::time::timeout(QUEUE_PATIENCE, put).await {
            Ok(true) => {
                self.metrics.queue.inc();
                PublishAclResult::allow()
            }
            Ok(false) => PublishAclResult::rejected(true, Some("the collector is stopping".into())),
            Err(_elapsed) => {
                self.refuse("queue_full", client, "the collector is behind");
                PublishAclResult::rejected(true, Some("the collector is behind".into()))
            }
        }
    }
}

impl Hooks {
    /// Equipment that speaks for itself knows no acknowledgement but PUBACK: its events are on disk before.
    async fn take_events(&self, client: &str, agent: AgentId, payload: &Bytes) -> PublishAclResult {
        let Some(sink) = self.intake.events.clone() else {
            self.refuse("events", client, "nobody takes events in here");
            return PublishAclResult::rejected(true, None);
        };
        let payload = payload.clone();
        match self.runtime.spawn_blocking(move || sink.take(&agent, &payload)).await {
            Ok(Ok(problem)) => {
                if let Some(problem) = problem {
                    self.refuse("events", client, &problem);
                }
                PublishAclResult::allow()
            }
            Ok(Err(error)) => PublishAclResult::rejected(true, Some(error.to_string().into())),
            Err(panicked) => {
                tracing::error!(error = &panicked as &dyn std::error::Error, "taking events failed unexpectedly");
                PublishAclResult::rejected(true, None)
            }
        }
    }
}

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, so_far: Option<HookResult>) -> ReturnType {
        match parameter {
            Parameter::ClientAuthenticate(connection) => {
                let result = match self.authenticate(connection) {
                    Ok(()) => AuthResult::Allow(false, None),
                    Err((cause, detail)) => {
                        let who = connection.cert().and_then(|c| c.common_name.clone()).unwrap_or_default();
                        self.refuse(cause, &who, &detail);
                        AuthResult::NotAuthorized
                    }
                };
                (false, Some(HookResult::AuthResult(result)))
            }
            Parameter::ClientConnected(session) => {
                self.connected(session);
                (true, so_far)
            }
            Parameter::ClientDisconnected(session, _) => {
                self.disconnected(session);
                (true, so_far)
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                (false, Some(HookResult::SubscribeAclResult(self.subscribe(session, subscribe))))
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                (false, Some(HookResult::PublishAclResult(self.publish(session, publish).await)))
            }
            _ => (true, so_far),
        }
    }
}

/// Keeps what the collector retains for agents. What agents retain goes to the collector alone, which remembers it.
#[derive(Default)]
struct RetainedDownlink(Mutex<HashMap<TopicName, Retain>>);

#[async_trait]
impl RetainStorage for RetainedDownlink {
    fn enable(&self) -> bool {
        true
    }

    async fn set(&self, topic: &TopicName, retain: Retain, _expiry: Option<Duration>) -> rmqtt::Result<()> {
        if matches!(retain.from.typ(), FromType::System) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if retain.publish.payload.is_empty() {
                kept.remove(topic);
            } else {
                kept.insert(topic.clone(), retain);
            }
        }
        Ok(())
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        // Agents may not subscribe with wildcards: a filter is a topic.
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.get_key_value(filter).map(|(topic, retain)| (topic.clone(), retain.clone())).into_iter().collect())
    }

    async fn count(&self) -> isize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as isize
    }

    async fn max(&self) -> isize {
        self.count().await
    }
}

/// rmqtt tells of failed TLS handshakes only in its log, so what listens to the log counts them, for every broker of
/// the process (there is one outside tests).
static WATCHERS: Mutex<Vec<Weak<IntCounterVec>>> = Mutex::new(Vec::new());

fn watch_log(refusals: &Arc<IntCounterVec>) {
    let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    watchers.retain(|watcher| watcher.strong_count() > 0);
    watchers.push(Arc::downgrade(refusals));
}

/// Takes what rmqtt logs: garbage from outside must not fill our log, so all of it is `debug`.
struct TamedLog;

impl log::Log for TamedLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        if record.target().starts_with("rmqtt")
            && let Some(cause) = handshake_failure(&text)
        {
            for refusals in WATCHERS.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
                refusals.with_label_values(&[cause]).inc();
            }
        }
        tracing::debug!(target: "veghe_collector::ingest::broker", library = record.target(), text);
    }

    fn flush(&self) {}
}

/// What a line of rmqtt's log (`server.rs`) says about a connection that never became a session.
fn handshake_failure(text: &str) -> Option<&'static str> {
    if text.starts_with("TLS accept error") {
        Some(if text.contains("peer sent no certificates") {
            "no_certificate"
        } else if text.contains("certificate expired") || text.contains("Expired") {
            "expired_certificate"
        } else if text.contains("invalid peer certificate") {
            "foreign_certificate"
        } else {
            "tls"
        })
    } else if text.starts_with("MQTT/TLS version detection failed") {
        Some("mqtt")
    } else {
        None
    }
}

fn tame_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| match log::set_boxed_logger(Box::new(TamedLog)) {
        Ok(()) => log::set_max_level(log::LevelFilter::Info),
        Err(_taken) => tracing::warn!("another logger is installed: failed TLS handshakes will not be counted"),
    });
}

/// Half-open connections live for [`HANDSHAKE_TIMEOUT`]; until then each takes a descriptor that the store may need.
fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
