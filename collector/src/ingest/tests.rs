//! Ingest as agents meet it: the real broker, real MQTT clients with certificates, a store whose failures are ours to
//! choose.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use proptest::prelude::*;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use veghe_model::Labels;
use veghe_tsdb::{Commit, CommitError, GroupId, Options, SeriesId, Stats};
use veghe_wire::ack::{Ack, HoldCause};
use veghe_wire::batch::{Batch, Cycle, Dictionary, Layout, SeriesDefinition, append_frame};

use super::batches::StorageError;
use super::*;

pub(crate) fn request() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (key.serialize_pem(), request.pem().unwrap())
}

/// What a store does, in memory, and not while it is told to fail.
#[derive(Default)]
struct Memory {
    state: Mutex<MemoryState>,
    fails: AtomicBool,
    /// Commits wait while it is set.
    is_stuck: AtomicBool,
    /// Commits with a column of this time fail for good.
    poison: AtomicI64,
}

#[derive(Default)]
struct MemoryState {
    series: Vec<Labels>,
    groups: Vec<Vec<SeriesId>>,
    samples: HashMap<(Labels, Timestamp), Vec<f64>>,
    marks: HashMap<Vec<u8>, Vec<u8>>,
}

impl Memory {
    /// Every value that was committed for `name` of `agent`, in order of time, repeats of a time included.
    fn values(&self, name: &str, agent: &str) -> Vec<(i64, f64)> {
        let state = self.state.lock().unwrap();
        let mut values: Vec<(i64, f64)> = state
            .samples
            .iter()
            .filter(|((labels, _), _)| labels.metric_name() == name && labels.get("instance") == Some(agent))
            .flat_map(|((_, at), values)| values.iter().map(|v| (at.millis(), *v)))
            .collect();
        values.sort_by(|a, b| a.partial_cmp(b).unwrap());
        values
    }

    /// The label `label` of the only series called `name`.
    fn label(&self, name: &str, label: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let mut series = state.series.iter().filter(|labels| labels.metric_name() == name);
        let only = series.next().filter(|_| series.next().is_none())?;
        only.get(label).map(str::to_owned)
    }
}

impl Storage for Memory {
    fn series(&self, labels: &Labels) -> Result<SeriesId, StorageError> {
        let series = &mut self.state.lock().unwrap().series;
        let at = series.iter().position(|known| known == labels).unwrap_or_else(|| {
            series.push(labels.clone());
            series.len() - 1
        });
        Ok(SeriesId(at as u32))
    }
    fn group(&self, members: &[SeriesId]) -> GroupId {
        let groups = &mut self.state.lock().unwrap().groups;
        let at = groups.iter().position(|known| known == members).unwrap_or_else(|| {
            groups.push(members.to_vec());
            groups.len() - 1
        });
        GroupId(at as u32)
    }
    fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        while self.is_stuck.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.fails.load(Ordering::Relaxed) {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(CommitError::DiskFull { path: "log/1".into(), source }.into());
        }
        let poison = Timestamp(self.poison.load(Ordering::Relaxed));
        if poison != Timestamp(0) && commit.columns.iter().any(|column| column.timestamp == poison) {
            return Err(CommitError::OutOfRange(poison).into());
        }
        let state = &mut *self.state.lock().unwrap();
        for column in commit.columns {
            let members = &state.groups[column.group.0 as usize];
            assert_eq!(members.len(), column.values.len());
            for (id, value) in members.iter().zip(column.values) {
                let labels = state.series[id.0 as usize].clone();
                state.samples.entry((labels, column.timestamp)).or_default().push(value);
            }
        }
        for (key, value) in commit.marks {
            if value.is_empty() {
                state.marks.remove(&key)
            } else {
                state.marks.insert(key, value)
            };
        }
        Ok(())
    }
    fn mark(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.state.lock().unwrap().marks.get(key).cloned()
    }
    fn marks(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.state.lock().unwrap();
        let mut marks: Vec<_> =
            state.marks.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect();
        marks.sort();
        marks
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
}

const SPOOL: u64 = 0xfeed;

/// One column of two series, `cycles_total` = the sequence and `load` = 0.5; its time is fixed by the sequence.
fn batch(spool_id: u64, sequence: u64, oldest_sequence: u64, with_dictionary: bool) -> Batch {
    let strings = ["__name__", "cycles_total", "load"].map(str::to_owned).to_vec();
    let dictionary = Dictionary {
        strings,
        first_series: 0,
        series: vec![SeriesDefinition { labels: vec![0, 1] }, SeriesDefinition { labels: vec![0, 2] }],
        first_layout: 0,
        layouts: vec![Layout { series: vec![0, 1] }],
    };
    Batch {
        minor: 99,
        spool_id,
        sequence,
        oldest_sequence,
        dictionary: with_dictionary.then_some(dictionary),
        cycles: vec![Cycle { timestamp_ms: moment(sequence), layout: 0, values: vec![sequence as f64, 0.5] }],
    }
}

fn moment(sequence: u64) -> i64 {
    1_700_000_000_000 + sequence as i64 * 15_000
}

fn payload(batch: &Batch) -> Vec<u8> {
    let mut payload = Vec::new();
    append_frame(&mut payload, batch).unwrap();
    payload
}

/// A collector's ingest on a directory.
struct Site {
    dir: Arc<tempfile::TempDir>,
    memory: Arc<Memory>,
    registry: Registry,
    handle: IngestHandle,
}

#[derive(Clone)]
struct Identity {
    agent: String,
    ca: String,
    certificate: String,
    key: String,
}

impl Site {
    async fn open() -> Self {
        Self::reopen(Arc::new(tempfile::tempdir().unwrap()), Arc::default()).await
    }

    async fn reopen(dir: Arc<tempfile::TempDir>, memory: Arc<Memory>) -> Self {
        Self::with(dir, memory, |_| {}).await
    }

    async fn with(dir: Arc<tempfile::TempDir>, memory: Arc<Memory>, change: impl FnOnce(&mut IngestSettings)) -> Self {
        // rumqttc builds its own TLS configuration and needs a default provider; another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let registry = Registry::new();
        let mut settings = IngestSettings::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        settings.commit_delay = Duration::from_millis(20);
        change(&mut settings);
        let ledger = Ledger::open(&dir.path().join("ledger.db")).unwrap();
        let storage: Arc<dyn Storage> = memory.clone();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let handle = start(settings, ledger, storage, &registry, &stop, &tasks).await.unwrap();
        Self { dir, memory, registry, handle }
    }

    async fn restart(self) -> Self {
        self.handle.stop().await;
        Self::reopen(self.dir, self.memory).await
    }

    async fn enrol(&self, agent: &str) -> Identity {
        let token = self.handle.create_token(agent.parse().unwrap(), Duration::from_mins(1)).await.unwrap();
        let (key, certificate_request) = request();
        let request = EnrolmentRequest { token: token.to_string(), certificate_request };
        let response = self.handle.enrol(request).await.unwrap();
        assert_eq!(response.mqtt_port, self.handle.address().port());
        Identity { agent: response.agent, ca: response.ca_certificate, certificate: response.certificate, key }
    }

    /// The value of a metric, by name and its one label's value.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let metric = families
            .iter()
            .filter(|f| f.name() == name)
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .find(|metric| label.is_empty() || metric.get_label().iter().any(|l| l.value() == label));
        metric.map_or(0.0, |m| m.get_counter().value() + m.get_gauge().value())
    }

    async fn wait_for_metric(&self, name: &str, label: &str, least: f64) {
        wait(&format!("{name} {label}"), || self.metric(name, label) >= least).await;
    }

    fn options(&self, identity: &Identity) -> MqttOptions {
        let address = self.handle.address();
        let mut options = MqttOptions::new(&identity.agent, address.ip().to_string(), address.port());
        let client = Some((identity.certificate.clone().into_bytes(), identity.key.clone().into_bytes()));
        options.set_transport(Transport::tls(identity.ca.clone().into_bytes(), client, None));
        options.set_max_packet_size(Some(veghe_wire::MAX_PACKET_BYTES as u32));
        options.set_keep_alive(Duration::from_secs(30));
        options
    }

    async fn connect(&self, identity: &Identity) -> Client {
        let unavailable = |error: &ConnectionError| {
            matches!(error, ConnectionError::ConnectionRefused(ConnectReturnCode::ServerUnavailable))
        };
        // The broker may still be closing the session before; an agent tries again too.
        for _ in 0..1_000 {
            match Client::connect(self.options(identity), &identity.agent).await {
                Err(error) if unavailable(&error) => tokio::task::yield_now().await,
                connected => return connected.expect("a good agent connects"),
            }
        }
        panic!("the broker never has room for {}", identity.agent);
    }
}

/// Waits for what must come; the limit only turns a hang into a failure.
async fn wait(what: &str, condition: impl Fn() -> bool) {
    let limit = tokio::time::timeout(Duration::from_mins(1), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    limit.await.unwrap_or_else(|_| panic!("{what} does not come"));
}

struct Client {
    agent: AgentId,
    mqtt: AsyncClient,
    events: EventLoop,
}

impl Client {
    /// Connects and subscribes to what an agent subscribes to.
    async fn connect(options: MqttOptions, agent: &str) -> Result<Self, rumqttc::v5::ConnectionError> {
        let (mqtt, events) = AsyncClient::new(options, 64);
        let mut client = Self { agent: agent.parse().unwrap(), mqtt, events };
        loop {
            if let Event::Incoming(Packet::ConnAck(_)) = client.poll().await? {
                break;
            }
        }
        for topic in [Topic::Ack, Topic::Certificate] {
            client.mqtt.subscribe(topic.of(&client.agent), QoS::AtLeastOnce).await.unwrap();
            loop {
                if let Event::Incoming(Packet::SubAck(_)) = client.poll().await? {
                    break;
                }
            }
        }
        Ok(client)
    }

    async fn poll(&mut self) -> Result<Event, rumqttc::v5::ConnectionError> {
        tokio::time::timeout(Duration::from_mins(1), self.events.poll()).await.expect("the broker answers")
    }

    async fn send(&self, topic: Topic, payload: impl Into<Vec<u8>>) {
        let topic = topic.of(&self.agent);
        self.mqtt.publish(topic, QoS::AtLeastOnce, false, payload.into()).await.unwrap();
    }

    async fn message(&mut self) -> Vec<u8> {
        loop {
            if let Event::Incoming(Packet::Publish(message)) = self.poll().await.expect("connected") {
                return message.payload.to_vec();
            }
        }
    }

    async fn ack(&mut self) -> Ack {
        ack::decode(&self.message().await).unwrap()
    }

    /// Polls until the connection ends.
    async fn closed(&mut self) {
        while let Ok(event) = self.poll().await {
            if matches!(event, Event::Incoming(Packet::Disconnect(_))) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_batch_is_stored_and_acknowledged_and_its_repeat_changes_nothing() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    for _ in 0..3 {
        client.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
        let ack = client.ack().await;
        assert_eq!((ack.spool_id, ack.accepted, ack.held, ack.refused), (SPOOL, vec![1], vec![], vec![]));
    }
    client.send(Topic::Batch, payload(&batch(SPOOL, 2, 2, false))).await;
    assert_eq!(client.ack().await.accepted, [2]);
    assert_eq!(site.memory.values("cycles_total", "nas-1"), [(moment(1), 1.0), (moment(2), 2.0)]);
    assert_eq!(site.metric("veghe_ingest_batches_total", "stored"), 2.0);
    assert_eq!(site.metric("veghe_ingest_batches_total", "repeated"), 2.0);
    assert_eq!(site.metric("veghe_ingest_samples_total", ""), 4.0);
    let presence = Presence {
        online: true,
        version: "0.1.0".into(),
        protocol: "1.0".into(),
        interval_ms: 15_000,
        spool_id: SPOOL,
    };
    client.send(Topic::Presence, ack::encode(&presence)).await;
    let told =
        |a: &AgentInfo| a.version == "0.1.0" && a.interval_ms == 15_000 && a.connected && a.last_seen_ms.is_some();
    let polling = async { while client.poll().await.is_ok() {} };
    tokio::select! {
        () = wait("presence", || site.handle.agents().iter().any(told)) => {}
        () = polling => panic!("the connection ended"),
    }
    site.handle.stop().await;
}

#[tokio::test]
async fn a_client_of_mqtt_3_1_1_is_served_on_the_same_port() {
    use rumqttc::{Event, Packet};
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let address = site.handle.address();
    let mut options = rumqttc::MqttOptions::new("nas-1", address.ip().to_string(), address.port());
    options.set_transport(Transport::tls(nas.ca.into(), Some((nas.certificate.into(), nas.key.into())), None));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
    client.subscribe("veghe/v1/nas-1/ack", rumqttc::QoS::AtLeastOnce).await.unwrap();
    loop {
        match events.poll().await.unwrap() {
            Event::Incoming(Packet::SubAck(_)) => {
                let payload = payload(&batch(SPOOL, 1, 1, true));
                client.publish("veghe/v1/nas-1/batch", rumqttc::QoS::AtLeastOnce, false, payload).await.unwrap();
            }
            Event::Incoming(Packet::Publish(message)) => {
                assert_eq!(ack::decode::<Ack>(&message.payload).unwrap().accepted, [1]);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(site.memory.values("load", "nas-1"), [(moment(1), 0.5)]);
    site.handle.stop().await;
}

#[tokio::test]
async fn after_a_restart_repeats_are_known_and_dictionaries_asked_for() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    client.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
    assert_eq!(client.ack().await.accepted, [1]);
    let site = site.restart().await;
    client.closed().await;
    let mut client = site.connect(&nas).await;
    client.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, false))).await;
    assert_eq!(client.ack().await.accepted, [1]);
    client.send(Topic::Batch, payload(&batch(SPOOL, 2, 1, false))).await;
    let ack = client.ack().await;
    assert_eq!((ack.held[0].sequence, ack.held[0].cause()), (2, HoldCause::Dictionary));
    client.send(Topic::Batch, payload(&batch(SPOOL, 2, 1, true))).await;
    assert_eq!(client.ack().await.accepted, [2]);
    assert_eq!(site.memory.values("cycles_total", "nas-1"), [(moment(1), 1.0), (moment(2), 2.0)]);
    site.handle.stop().await;
}

#[tokio::test]
async fn the_real_store_keeps_batches_and_marks_through_a_restart() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir().unwrap();
    let mut certified: Option<Identity> = None;
    for run in 0..2 {
        let options = Options { dir: dir.path().join("tsdb"), window: Duration::from_hours(2), max_series: 100_000 };
        let (store, _) = Store::open(options).unwrap();
        let ledger = Ledger::open(&dir.path().join("ledger.db")).unwrap();
        let settings = IngestSettings::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        let (registry, stop, tasks) = (Registry::new(), CancellationToken::new(), TaskTracker::new());
        let handle = Ingest::start(settings, ledger, store.clone(), &registry, &stop, &tasks).await.unwrap();
        let site = Site { dir: Arc::new(tempfile::tempdir().unwrap()), memory: Arc::default(), registry, handle };
        let nas = match certified.take() {
            Some(nas) => nas,
            None => site.enrol("nas-1").await,
        };
        let mut client = site.connect(&nas).await;
        for sequence in [1, 1, 2 + run] {
            client.send(Topic::Batch, payload(&batch(SPOOL, sequence, 1, true))).await;
            assert_eq!(client.ack().await.accepted, [sequence]);
        }
        assert_eq!(site.metric("veghe_ingest_batches_total", "repeated"), if run == 0 { 1.0 } else { 2.0 });
        let matchers = [veghe_model::Matcher::equal("__name__", "cycles_total")];
        let data = store.select(&matchers, Timestamp(0), Timestamp::MAX).unwrap();
        assert_eq!(data[0].labels.to_string(), r#"cycles_total{instance="nas-1", job="node"}"#);
        let expected: Vec<f64> = (1..=2 + run).map(|s| s as f64).collect();
        assert_eq!(data[0].values, expected);
        site.handle.stop().await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        certified = Some(nas);
    }
}

#[tokio::test]
async fn while_the_store_fails_batches_are_held_and_later_taken() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    site.memory.fails.store(true, Ordering::Relaxed);
    let mut waits = Vec::new();
    for _ in 0..3 {
        client.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
        let ack = client.ack().await;
        assert_eq!((ack.accepted.len(), ack.held[0].cause()), (0, HoldCause::Unavailable));
        assert!(ack.held[0].reason.contains("disk is full"), "{}", ack.held[0].reason);
        waits.push(ack.held[0].retry_after_ms);
    }
    assert!(waits.is_sorted_by(|a, b| a < b), "{waits:?}");
    assert!(site.metric("veghe_ingest_commit_failures_total", "") >= 3.0);
    assert_eq!(site.handle.agents()[0].refusals["storage"], 3);
    site.memory.fails.store(false, Ordering::Relaxed);
    client.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
    assert_eq!(client.ack().await.accepted, [1]);
    assert_eq!(site.memory.values("cycles_total", "nas-1"), [(moment(1), 1.0)]);
    site.handle.stop().await;
}

#[tokio::test]
async fn that_nothing_can_be_stored_is_known_without_the_store() {
    let site = Site::with(Arc::new(tempfile::tempdir().unwrap()), Arc::default(), |settings| {
        settings.own_interval = Duration::from_millis(1);
    })
    .await;
    let mut since = site.handle.unstored_since();
    assert_eq!(*since.borrow(), None);
    let before = clock::now();
    site.memory.fails.store(true, Ordering::Relaxed);
    let began = since.wait_for(Option::is_some).await.unwrap().unwrap();
    assert!(began >= before);
    site.memory.fails.store(false, Ordering::Relaxed);
    since.wait_for(Option::is_none).await.unwrap();
    site.handle.stop().await;
}

/// Keeps what it is given; while it can't, it says so.
#[derive(Debug, Default)]
struct Kept {
    payloads: Mutex<Vec<Vec<u8>>>,
    fails: AtomicBool,
}

impl EventSink for Kept {
    fn take(&self, _agent: &veghe_wire::AgentId, payload: &[u8]) -> Result<Option<String>, EventsNotKept> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(EventsNotKept);
        }
        self.payloads.lock().unwrap().push(payload.to_vec());
        Ok((payload == b"bad").then(|| "not good".to_owned()))
    }
}

#[tokio::test]
async fn events_are_kept_before_their_message_is_acknowledged() {
    let kept = Arc::new(Kept::default());
    let sink: Arc<dyn EventSink> = kept.clone();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let site = Site::with(dir, Arc::default(), |settings| settings.events = Some(sink)).await;
    let scanner = site.enrol("scan-1").await;
    let mut client = site.connect(&scanner).await;
    for (sent, payload) in (1..).zip(["one", "bad"]) {
        client.send(Topic::Event, payload).await;
        while !matches!(client.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
        assert_eq!(kept.payloads.lock().unwrap().len(), sent, "acknowledged before it was kept");
    }
    assert_eq!(site.metric("veghe_broker_refusals_total", "events"), 1.0);
    kept.fails.store(true, Ordering::Relaxed);
    client.send(Topic::Event, "two").await;
    client.closed().await;
    assert_eq!(kept.payloads.lock().unwrap().len(), 2);
    site.handle.stop().await;
}

#[tokio::test]
async fn an_agent_reaches_only_its_own_topics() {
    let site = Site::open().await;
    let (nas, scanner) = (site.enrol("nas-1").await, site.enrol("scan-1").await);
    let mut victim = site.connect(&scanner).await;

    let mut client = site.connect(&nas).await;
    for topic in ["veghe/v1/scan-1/batch", "veghe/v1/nas-1/ack", "other"] {
        client.mqtt.publish(topic, QoS::AtLeastOnce, false, payload(&batch(SPOOL, 1, 1, true))).await.unwrap();
        client.closed().await;
        client = site.connect(&nas).await;
    }
    assert_eq!(site.metric("veghe_broker_refusals_total", "foreign_topic"), 3.0);

    for filter in ["#", "veghe/v1/+/ack", "veghe/v1/scan-1/ack", "veghe/v1/nas-1/batch"] {
        client.mqtt.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        loop {
            if let Event::Incoming(Packet::SubAck(ack)) = client.poll().await.unwrap() {
                let refused = rumqttc::v5::mqttbytes::v5::SubscribeReasonCode::NotAuthorized;
                assert_eq!(ack.return_codes, [refused], "{filter}");
                break;
            }
        }
    }
    assert_eq!(site.metric("veghe_broker_refusals_total", "foreign_subscription"), 4.0);

    let mut options = site.options(&nas);
    options.set_last_will(LastWill::new("veghe/v1/scan-1/presence", "x", QoS::AtLeastOnce, true, None));
    assert!(Client::connect(options, "nas-1").await.is_err());
    assert_eq!(site.metric("veghe_broker_refusals_total", "foreign_will"), 1.0);
    let mut options = site.options(&nas);
    options.set_client_id("scan-1".into());
    assert!(Client::connect(options, "scan-1").await.is_err());
    assert_eq!(site.metric("veghe_broker_refusals_total", "client_id"), 1.0);

    victim.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
    assert_eq!(victim.ack().await.accepted, [1], "the other agent was not disturbed");
    assert_eq!(site.memory.values("cycles_total", "scan-1").len(), 1);
    assert!(site.memory.values("cycles_total", "nas-1").is_empty());
    let listed = site.handle.agents();
    assert_eq!(listed[0].refusals["foreign_topic"], 3);
    site.handle.stop().await;
}

#[tokio::test]
async fn only_a_certificate_of_this_authority_opens_the_door() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let other = Site::open().await;
    let stranger = Identity { ca: nas.ca.clone(), ..other.enrol("nas-1").await };
    assert!(Client::connect(site.options(&stranger), "nas-1").await.is_err());
    site.wait_for_metric("veghe_broker_refusals_total", "foreign_certificate", 1.0).await;
    let mut options = site.options(&nas);
    options.set_transport(Transport::tls(nas.ca.clone().into(), None, None));
    assert!(Client::connect(options, "nas-1").await.is_err());
    site.wait_for_metric("veghe_broker_refusals_total", "no_certificate", 1.0).await;
    // Certified, but never enrolled: the authority's key was used elsewhere.
    let (key, csr) = request();
    let ghost = "ghost".parse().unwrap();
    let issued = site.handle.ca().certify(&ghost, &csr, Duration::from_hours(1), clock::now()).unwrap();
    let ghost = Identity { agent: "ghost".into(), ca: nas.ca.clone(), certificate: issued.pem, key };
    assert!(Client::connect(site.options(&ghost), "ghost").await.is_err());
    assert_eq!(site.metric("veghe_broker_refusals_total", "unknown_agent"), 1.0);
    site.connect(&nas).await;
    site.handle.stop().await;
    other.handle.stop().await;
}

#[tokio::test]
async fn revocation_cuts_at_once_and_stays() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    assert_eq!(site.handle.revoke("nas-1").await.unwrap().as_str(), "nas-1");
    client.closed().await;
    assert!(Client::connect(site.options(&nas), "nas-1").await.is_err());
    assert_eq!(site.metric("veghe_broker_refusals_total", "revoked_agent"), 1.0);
    let site = site.restart().await;
    assert!(Client::connect(site.options(&nas), "nas-1").await.is_err());
    assert!(matches!(site.handle.revoke("nobody").await, Err(AdminError::NotFound { .. })));
    let again = site.enrol("nas-1").await;
    let mut client = site.connect(&again).await;
    assert!(Client::connect(site.options(&nas), "nas-1").await.is_err(), "the older certificate stays refused");
    let serial = site.handle.agents()[0].certificate_serial.clone();
    site.handle.revoke(&serial).await.unwrap();
    client.closed().await;
    assert!(Client::connect(site.options(&again), "nas-1").await.is_err());
    site.handle.stop().await;
}

#[tokio::test]
async fn a_second_client_takes_over_and_the_agent_stays_connected() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut options = site.options(&nas);
    options.set_last_will(LastWill::new("veghe/v1/nas-1/presence", "x", QoS::AtLeastOnce, true, None));
    let mut first = Client::connect(options, "nas-1").await.unwrap();
    let mut second = site.connect(&nas).await;
    first.closed().await;
    second.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
    assert_eq!(second.ack().await.accepted, [1]);
    assert!(site.handle.agents()[0].connected);
    assert_eq!(site.metric("veghe_broker_connected_agents", ""), 1.0);
    drop(second);
    wait("disconnection", || !site.handle.agents()[0].connected).await;
    site.handle.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_over_the_connection_of_the_old_one() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    let (key, csr) = request();
    client.send(Topic::Renewal, csr).await;
    let certificate = String::from_utf8(client.message().await).unwrap();
    let (name, serial, _) = ca::describe(&certificate).unwrap();
    assert_eq!((name.as_str(), &serial), ("nas-1", &site.handle.agents()[0].certificate_serial));
    let renewed = Identity { certificate, key, ..nas };
    site.connect(&renewed).await;
    site.handle.stop().await;
}

#[tokio::test]
async fn garbage_on_the_port_neither_stops_nor_slows_a_good_agent() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let address = site.handle.address();
    let mut client = site.connect(&nas).await;
    let attack = tokio::task::spawn_blocking(move || {
        let mut seed = 1_u64;
        let mut silent = Vec::new();
        for n in 0..500 {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            if n % 2 == 0 {
                let garbage: Vec<u8> = (0..512)
                    .map(|_| {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (seed >> 56) as u8
                    })
                    .collect();
                // The broker may have closed already.
                drop(stream.write_all(&garbage));
            } else {
                silent.push(stream);
            }
        }
        silent
    });
    let mut sequence = 0;
    let mut silent = None;
    let mut attack = Some(attack);
    while silent.is_none() || sequence < 20 {
        sequence += 1;
        client.send(Topic::Batch, payload(&batch(SPOOL, sequence, sequence, sequence == 1))).await;
        assert_eq!(client.ack().await.accepted, [sequence]);
        if attack.as_ref().is_some_and(tokio::task::JoinHandle::is_finished) {
            silent = Some(attack.take().unwrap().await.unwrap());
        }
    }
    // With 250 connections that say nothing still open, a new one gets through.
    drop(client);
    let mut client = site.connect(&nas).await;
    client.send(Topic::Batch, payload(&batch(SPOOL, sequence + 1, 1, true))).await;
    assert_eq!(client.ack().await.accepted, [sequence + 1]);
    site.wait_for_metric("veghe_broker_refusals_total", "tls", 250.0).await;
    drop(silent);
    site.handle.stop().await;
}

#[tokio::test]
async fn what_the_broker_took_before_the_end_is_stored_before_the_end() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    for sequence in 1..=50 {
        client.send(Topic::Batch, payload(&batch(SPOOL, sequence, 1, sequence == 1))).await;
    }
    let mut taken = 0;
    while taken < 50 {
        if let Event::Incoming(Packet::PubAck(_)) = client.poll().await.unwrap() {
            taken += 1;
        }
    }
    site.handle.stop().await;
    let expected: Vec<_> = (1..=50).map(|s| (moment(s), s as f64)).collect();
    assert_eq!(site.memory.values("cycles_total", "nas-1"), expected);
}

#[tokio::test]
async fn the_collector_stores_up_and_its_own_metrics() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    client.send(Topic::Batch, payload(&batch(SPOOL, 1, 1, true))).await;
    client.ack().await;
    let agents = Arc::clone(&site.handle.0.agents);
    let metrics = site.handle.0.metrics.clone();
    let start = clock::now();
    let mut own = Own::new(site.memory.clone(), agents, site.registry.clone(), metrics, start);
    let at = |seconds: u64| start.saturating_add(Duration::from_secs(seconds));
    own.write(at(1)).unwrap();
    own.write(at(3600)).unwrap();
    site.handle.revoke("nas-1").await.unwrap();
    own.write(at(3615)).unwrap();
    own.write(at(3630)).unwrap();
    let ups = site.memory.values("up", "nas-1");
    let ups: Vec<_> = ups.iter().filter(|(t, _)| *t >= at(1).millis()).collect();
    assert_eq!((ups[0].1, ups[1].1), (1.0, 0.0));
    assert!(ups.len() == 3 && veghe_model::is_stale(ups[2].1), "revoked: one staleness marker, then nothing: {ups:?}");
    assert!(!site.memory.values("veghe_ingest_commit_duration_seconds_bucket", "collector").is_empty());
    site.handle.stop().await;
}

#[tokio::test]
async fn the_administrator_talks_through_the_socket() {
    use crate::admin::{self, Request, Response};
    use crate::import::Format;
    use crate::terminal::Question;
    let site = Site::open().await;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let dir = site.dir.path().to_owned();
    let options = veghe_tsdb::Options { dir: dir.join("tsdb"), window: Duration::from_hours(2), max_series: 100 };
    let (store, _) = veghe_tsdb::Store::open(options).unwrap();
    let queries = crate::query::QueryService::new(store, crate::query::Settings::default());
    let missing = admin::ask(&dir, &Request::Ping).unwrap_err();
    assert!(missing.to_string().starts_with("no collector runs on /"), "{missing}");
    let project = crate::digitization::Digitization::in_memory(crate::digitization::Settings::default());
    let settings =
        crate::fleet::Settings { groups: dir.join("agents.d"), rollout: crate::fleet::rollout::Settings::default() };
    let fleet = crate::fleet::Fleet::open(settings, Ledger::in_memory().unwrap(), &Registry::new()).unwrap();
    let serve = || {
        let (project, fleet) = (project.clone(), fleet.clone());
        admin::serve(&dir, site.handle.clone(), queries.clone(), project, fleet, stop.clone(), &tasks)
    };
    serve().unwrap();
    let second = serve().unwrap_err();
    assert!(matches!(second, admin::AdminError::Held { .. }));
    let mode = std::os::unix::fs::PermissionsExt::mode(&dir.join("admin.sock").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let asked = tokio::task::spawn_blocking(move || {
        let ask = |request: Request| admin::ask(&dir, &request);
        let Response::Pong { pid, .. } = ask(Request::Ping).unwrap() else { panic!() };
        assert_eq!(pid, std::process::id());
        let Response::Token { token, ttl_s } =
            ask(Request::TokenCreate { agent: "nas-1".into(), ttl_s: None }).unwrap()
        else {
            panic!()
        };
        assert_eq!((token.parse::<Token>().unwrap().agent.as_str(), ttl_s), ("nas-1", 3600));
        let wrong = ask(Request::TokenCreate { agent: "Nas 1".into(), ttl_s: None }).unwrap_err();
        assert!(wrong.to_string().contains("is not 1 to 64 characters"), "{wrong}");
        assert!(ask(Request::TokenCreate { agent: "nas-1".into(), ttl_s: Some(u64::MAX) }).is_err());
        assert_eq!(ask(Request::AgentsList).unwrap(), Response::Agents { agents: vec![] });
        let question = Question { query: "1 + 1".into(), at_ms: 0, range_ms: None };
        let Response::Value { answer } = ask(Request::Query(question)).unwrap() else { panic!() };
        assert_eq!((answer.kind.as_str(), answer.series[0].points.as_slice()), ("scalar", &[(0, "2".to_owned())][..]));
        let wrong = ask(Request::Query(Question { query: "up{".into(), at_ms: 0, range_ms: None })).unwrap_err();
        assert!(wrong.to_string().contains("parse error"), "{wrong}");
        let file = dir.join("text");
        std::fs::write(&file, "a 1 1700000000000\nb\n").unwrap();
        let mut said = Vec::new();
        let import = |said: &mut Vec<u8>| {
            crate::import::command::run(&[&file], &dir, Format::Auto, || panic!("a collector runs"), said)
        };
        assert_eq!(import(&mut said).unwrap_err().to_string(), "1 lines were refused; the others are stored");
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(": 1 samples of 1 series, 2023-11-14T22:13:20Z to 2023-11-14T22:13:20Z\n"), "{said}");
        assert!(said.ends_with("text: line 2 has no value\n"), "{said}");
        let nobody = ask(Request::AgentsRevoke { name: "nobody".into() }).unwrap_err();
        assert!(nobody.to_string().contains("nobody"), "{nobody}");
        // On a busy machine it takes long enough to tell how far it is.
        let Response::Verified { verified } = admin::ask_watching(&dir, &Request::Verify, &mut |_| ()).unwrap() else {
            panic!()
        };
        assert_eq!(verified.damages, [""; 0]);
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy");
        let mut told = 0;
        let backup = Request::Backup { dir: copy.clone() };
        let Response::BackedUp { files, bytes } = admin::ask_watching(&dir, &backup, &mut |_| told += 1).unwrap()
        else {
            panic!()
        };
        assert!(files >= 1 && bytes > 0 && told >= 1);
        assert!(copy.join("manifest.json").exists() && copy.join("data/tsdb/chunks.db").exists());
        let again = admin::ask(&dir, &backup).unwrap_err();
        assert!(again.to_string().contains("is not empty"), "{again}");
    });
    asked.await.unwrap();
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert!(!site.dir.path().join("admin.sock").exists());
    site.handle.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_counted() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let (key, certificate_request) = request();
    let day = Duration::from_hours(24);
    let long_ago = clock::now().saturating_sub(2 * day);
    let (agents, ca) = (Arc::clone(&site.handle.0.agents), Arc::clone(&site.handle.0.ca));
    let certificate = agents.renew(&ca, &"nas-1".parse().unwrap(), &certificate_request, day, long_ago).unwrap();
    let expired = Identity { certificate, key, ..nas.clone() };
    assert!(Client::connect(site.options(&expired), "nas-1").await.is_err());
    site.wait_for_metric("veghe_broker_refusals_total", "expired_certificate", 1.0).await;
    assert_eq!(site.metric("veghe_broker_connected_agents", ""), 0.0);
    site.connect(&nas).await;
    site.handle.stop().await;
}

#[tokio::test]
async fn a_full_queue_makes_agents_wait_and_loses_nothing() {
    let memory = Arc::new(Memory::default());
    let site = Site::with(Arc::new(tempfile::tempdir().unwrap()), memory, |settings| {
        settings.queue_messages = 2;
        settings.commit_batches = 1;
    })
    .await;
    let nas = site.enrol("nas-1").await;
    site.memory.is_stuck.store(true, Ordering::Relaxed);
    let mut client = site.connect(&nas).await;
    for sequence in 1..=10 {
        client.send(Topic::Batch, payload(&batch(SPOOL, sequence, 1, sequence == 1))).await;
    }
    // One is with the store, two are in the queue, the fourth waits until the broker gives its connection up.
    let mut taken = 0;
    while let Ok(event) = client.poll().await {
        match event {
            Event::Incoming(Packet::PubAck(_)) => taken += 1,
            Event::Incoming(Packet::Disconnect(_)) => break,
            _ => {}
        }
    }
    assert!(taken <= 3, "{taken} were taken into a queue of 2");
    site.wait_for_metric("veghe_broker_refusals_total", "queue_full", 1.0).await;
    assert!(site.memory.values("cycles_total", "nas-1").is_empty());
    drop(client);
    site.memory.is_stuck.store(false, Ordering::Relaxed);
    let mut client = site.connect(&nas).await;
    for sequence in 1..=10 {
        client.send(Topic::Batch, payload(&batch(SPOOL, sequence, 1, sequence == 1))).await;
    }
    let mut accepted = std::collections::BTreeSet::new();
    while accepted.len() < 10 {
        accepted.extend(client.ack().await.accepted);
    }
    let expected: Vec<_> = (1..=10).map(|s| (moment(s), s as f64)).collect();
    assert_eq!(site.memory.values("cycles_total", "nas-1"), expected);
    site.handle.stop().await;
}

#[tokio::test]
async fn nobody_is_called_down_within_a_minute_after_the_start() {
    let site = Site::open().await;
    site.enrol("nas-1").await;
    let agents = Arc::clone(&site.handle.0.agents);
    let start = clock::now();
    // A store of its own, so that the collector's own writes do not mix in.
    let memory = Arc::new(Memory::default());
    let metrics = site.handle.0.metrics.clone();
    let mut own = Own::new(memory.clone(), agents, site.registry.clone(), metrics, start);
    own.write(start).unwrap();
    own.write(start.saturating_add(Duration::from_millis(59_999))).unwrap();
    assert!(memory.values("up", "nas-1").is_empty());
    let minute = start.saturating_add(Duration::from_mins(1));
    own.write(minute).unwrap();
    assert_eq!(memory.values("up", "nas-1"), [(minute.millis(), 0.0)]);
    site.handle.stop().await;
}

#[tokio::test]
async fn an_agent_of_a_newer_protocol_is_to_be_told_in_the_list() {
    let site = Site::open().await;
    let nas = site.enrol("nas-1").await;
    let mut client = site.connect(&nas).await;
    let good = payload(&batch(SPOOL, 1, 1, true));
    client.send(Topic::Batch, [&[2][..], &good[1..]].concat()).await;
    assert_eq!(client.ack().await.held[0].cause(), HoldCause::Version);
    assert_eq!(site.handle.agents()[0].foreign_major, Some(2));
    client.send(Topic::Batch, good).await;
    client.ack().await;
    assert_eq!(site.handle.agents()[0].foreign_major, None, "it was downgraded");
    site.handle.stop().await;
}

#[test]
fn what_the_store_never_takes_is_refused_and_its_neighbours_are_stored() {
    let memory = Arc::new(Memory::default());
    memory.poison.store(moment(2), Ordering::Relaxed);
    let mut core = core(&memory, Limits::default());
    let agent: AgentId = "nas-1".parse().unwrap();
    let all = |core: &mut Core| {
        let payloads = (1..=4).map(|s| (agent.clone(), payload(&batch(SPOOL, s, 1, s == 1)).into())).collect();
        core.process(payloads, Timestamp(moment(1000)))
    };
    let outcome = all(&mut core);
    let ack = &outcome.acks[0].1;
    assert_eq!((&ack.accepted[..], ack.held.len()), (&[1, 3, 4][..], 0));
    assert_eq!((ack.refused.len(), ack.refused[0].sequence), (1, 2));
    assert_eq!((outcome.stored, outcome.refused, outcome.failures.len()), (3, 1, 1));
    let stored = [1, 3, 4].map(|s| (moment(s), s as f64));
    assert_eq!(memory.values("cycles_total", "nas-1"), stored);
    all(&mut core);
    assert_eq!(memory.values("cycles_total", "nas-1"), stored, "the repeats changed nothing");
}

#[test]
fn labels_are_bounded_per_series_and_per_run() {
    let memory = Arc::new(Memory::default());
    let mut wide = batch(SPOOL, 1, 1, true);
    let dictionary = wide.dictionary.as_mut().unwrap();
    dictionary.strings.push("x".repeat(2000));
    for n in 0..20 {
        dictionary.series[0].labels.extend([dictionary.strings.len() as u32, 3]);
        dictionary.strings.push(format!("label_{n}"));
    }
    assert_eq!(verdict(&mut core(&memory, Limits::default()), &wide), "label_limit", "40 kB in one series");
    let limits = Limits { run_bytes: 100, ..Limits::default() };
    assert_eq!(verdict(&mut core(&memory, limits), &batch(SPOOL, 1, 1, true)), "label_limit");
}

fn core(memory: &Arc<Memory>, limits: Limits) -> Core {
    let storage: Arc<dyn Storage> = memory.clone();
    Core::new(storage, limits).unwrap()
}

/// What becomes of one batch, sent alone: `accepted`, or the cause of the objection.
fn verdict(core: &mut Core, batch: &Batch) -> &'static str {
    let agent: AgentId = "nas-1".parse().unwrap();
    let outcome = core.process(vec![(agent, payload(batch).into())], Timestamp(moment(1000)));
    outcome.objections.first().map_or("accepted", |o| o.cause)
}

#[test]
fn every_limit_and_every_wrong_index_has_its_own_refusal() {
    let good = || batch(SPOOL, 1, 1, true);
    let with = |labels: &[(&str, &str)]| {
        let mut batch = good();
        let dictionary = batch.dictionary.as_mut().unwrap();
        for (name, value) in labels {
            let number = dictionary.strings.len() as u32;
            dictionary.strings.extend([(*name).to_owned(), (*value).to_owned()]);
            dictionary.series[0].labels.extend([number, number + 1]);
        }
        batch
    };
    let named = |name: &str, value: &str| with(&[(name, value)]);
    let changed = |change: &dyn Fn(&mut Batch, &mut Dictionary)| {
        let mut batch = good();
        let mut dictionary = batch.dictionary.take().unwrap();
        change(&mut batch, &mut dictionary);
        batch.dictionary = Some(dictionary);
        batch
    };
    let cases = [
        ("accepted", good()),
        ("accepted", named("job", "smartctl")),
        ("label", named("instance", "x")),
        ("accepted", with(&[("instance", "nas-1"), ("job", "snmp"), ("agent", "another")])),
        ("label", with(&[("instance", "nas-1"), ("job", "node")])),
        ("label", with(&[("instance", "collector"), ("job", "veghe-collector")])),
        ("label", named("0bad", "x")),
        ("label", named("__meta", "x")),
        ("label", named("__name__", "again")),
        ("label_limit", named("a", &"x".repeat(3000))),
        ("label_limit", named(&"a".repeat(300), "x")),
        ("label", changed(&|_, d| d.strings[1] = "bad name".into())),
        ("label", changed(&|_, d| d.series[0].labels = vec![0])),
        ("label", changed(&|_, d| d.series[0].labels = vec![0, 9])),
        ("label", changed(&|_, d| d.series[0].labels = vec![])),
        ("label_limit", changed(&|_, d| d.series[0].labels = [0, 1].repeat(66))),
        ("series_limit", changed(&|_, d| d.series = vec![d.series[0].clone(); 11])),
        ("dictionary", changed(&|_, d| d.first_series = 5)),
        ("dictionary", changed(&|_, d| d.first_layout = u32::MAX)),
        ("malformed", changed(&|_, d| d.layouts[0].series = vec![0, 7])),
        ("malformed", changed(&|_, d| d.layouts[0].series = vec![0, 0])),
        ("layout_limit", changed(&|_, d| d.layouts = vec![d.layouts[0].clone(); 50])),
        ("malformed", changed(&|b, _| b.cycles[0].layout = 1)),
        ("malformed", changed(&|b, _| b.cycles[0].values.push(1.0))),
        ("column_limit", changed(&|b, _| b.cycles = vec![b.cycles[0].clone(); 1001])),
        ("future", changed(&|b, _| b.cycles[0].timestamp_ms = moment(1000) + 600_001)),
        ("future", changed(&|b, _| b.cycles[0].timestamp_ms = i64::MAX)),
        ("timestamp", changed(&|b, _| b.cycles[0].timestamp_ms = i64::MIN)),
        ("timestamp", changed(&|b, _| b.cycles[0].timestamp_ms = 1000)),
        ("malformed", changed(&|b, _| b.sequence = 0)),
        ("malformed", changed(&|b, _| b.oldest_sequence = 2)),
        ("dictionary", batch(SPOOL, 1, 1, false)),
    ];
    for (number, (expected, batch)) in cases.into_iter().enumerate() {
        let memory = Arc::new(Memory::default());
        let mut core = core(&memory, Limits { series: 10, ..Limits::default() });
        assert_eq!(verdict(&mut core, &batch), expected, "case {number}");
        let stored = memory.values("load", "nas-1").len();
        assert_eq!(stored > 0, expected == "accepted", "case {number}");
    }
}

#[test]
fn a_device_that_an_agent_asks_bears_its_own_name_and_the_agents() {
    let memory = Arc::new(Memory::default());
    let mut core = core(&memory, Limits::default());
    let mut batch = batch(SPOOL, 1, 1, true);
    let dictionary = batch.dictionary.as_mut().unwrap();
    dictionary.strings.extend(["instance", "scanner-1", "job", "snmp", "agent", "forged"].map(str::to_owned));
    dictionary.series[1].labels.extend([3, 4, 5, 6, 7, 8]);
    assert_eq!(verdict(&mut core, &batch), "accepted");
    assert_eq!(memory.values("load", "scanner-1"), [(moment(1), 0.5)]);
    assert_eq!(memory.label("load", "agent").as_deref(), Some("nas-1"));
}

#[test]
fn a_number_keeps_its_meaning_for_the_life_of_a_run() {
    let memory = Arc::new(Memory::default());
    let mut core = core(&memory, Limits::default());
    assert_eq!(verdict(&mut core, &batch(SPOOL, 1, 1, true)), "accepted");
    let mut other = batch(SPOOL, 2, 1, true);
    other.dictionary.as_mut().unwrap().strings[1] = "something_else".into();
    assert_eq!(verdict(&mut core, &other), "dictionary_conflict");
    let mut other = batch(SPOOL, 2, 1, true);
    other.dictionary.as_mut().unwrap().layouts[0].series = vec![1, 0];
    assert_eq!(verdict(&mut core, &other), "dictionary_conflict");
    assert_eq!(verdict(&mut core, &batch(SPOOL, 2, 1, true)), "accepted");
    other.spool_id = 2;
    assert_eq!(verdict(&mut core, &other), "accepted", "another run has its own numbers");
}

#[test]
fn a_run_that_fell_out_of_memory_is_asked_again_and_repeats_stay_known() {
    let memory = Arc::new(Memory::default());
    let mut core = core(&memory, Limits::default());
    for spool in 1..=6 {
        assert_eq!(verdict(&mut core, &batch(spool, 1, 1, true)), "accepted");
    }
    assert_eq!(core.runs(), 4, "one agent holds no more");
    assert_eq!(verdict(&mut core, &batch(1, 2, 1, false)), "dictionary");
    assert_eq!(verdict(&mut core, &batch(2, 1, 1, false)), "accepted");
    assert_eq!(memory.values("load", "nas-1"), [(moment(1), 0.5); 6], "the repeat was not stored again");
    assert_eq!(core.prune(Timestamp(moment(1000)), 100).unwrap(), 0);
    assert_eq!(core.prune(Timestamp(moment(1001)), 4).unwrap(), 4);
    assert_eq!(core.prune(Timestamp(moment(1001)), 4).unwrap(), 2);
}

#[test]
fn another_major_version_waits_and_garbage_is_counted() {
    let memory = Arc::new(Memory::default());
    let mut core = core(&memory, Limits::default());
    let agent: AgentId = "nas-1".parse().unwrap();
    let newer = [&[2][..], &payload(&batch(SPOOL, 1, 1, true))[1..]].concat();
    let payloads = [newer, vec![], vec![1, 2, 3]].map(|p| (agent.clone(), Bytes::from(p))).to_vec();
    let outcome = core.process(payloads, Timestamp(moment(1)));
    assert_eq!(outcome.acks.len(), 1);
    let hold = &outcome.acks[0].1.held[0];
    assert_eq!((hold.sequence, hold.cause()), (0, HoldCause::Version));
    let causes: Vec<_> = outcome.objections.iter().map(|o| o.cause).collect();
    assert_eq!(causes, ["version", "payload", "payload"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_accepted_is_stored_exactly_once(
        steps in prop::collection::vec((prop::collection::vec((1..30_u64, any::<bool>()), 1..6), 0..8_u8), 1..40),
    ) {
        let memory = Arc::new(Memory::default());
        let mut core = core(&memory, Limits::default());
        let agent: AgentId = "nas-1".parse().unwrap();
        let mut accepted = std::collections::BTreeSet::new();
        for (sequences, event) in steps {
            match event {
                0 => core = super::tests::core(&memory, Limits::default()),
                1 => memory.fails.store(true, Ordering::Relaxed),
                _ => memory.fails.store(false, Ordering::Relaxed),
            }
            let payloads = sequences
                .iter()
                .map(|&(sequence, has)| (agent.clone(), payload(&batch(SPOOL, sequence, 1, has)).into()))
                .collect();
            for (_, ack) in core.process(payloads, Timestamp(moment(1000))).acks {
                accepted.extend(ack.accepted);
            }
        }
        let stored: Vec<u64> = memory.values("cycles_total", "nas-1").iter().map(|(_, v)| *v as u64).collect();
        prop_assert_eq!(stored, accepted.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_batch_panics(
        strings in prop::collection::vec("[a-z_]{0,6}", 0..5),
        series in prop::collection::vec(prop::collection::vec(0..7_u32, 0..6), 0..5),
        layouts in prop::collection::vec(prop::collection::vec(0..7_u32, 0..5), 0..4),
        cycles in prop::collection::vec((any::<i64>(), 0..4_u32, prop::collection::vec(any::<f64>(), 0..5)), 0..4),
        numbers in (any::<u64>(), any::<u64>(), 0..3_u32, 0..3_u32),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let memory = Arc::new(Memory::default());
        let mut core = core(&memory, Limits::default());
        let agent: AgentId = "nas-1".parse().unwrap();
        let (sequence, oldest_sequence, first_series, first_layout) = numbers;
        let batch = Batch {
            minor: 0, spool_id: 1, sequence, oldest_sequence,
            dictionary: Some(Dictionary {
                strings, first_series, first_layout,
                series: series.into_iter().map(|labels| SeriesDefinition { labels }).collect(),
                layouts: layouts.into_iter().map(|series| Layout { series }).collect(),
            }),
            cycles: cycles.into_iter().map(|(timestamp_ms, layout, values)| Cycle { timestamp_ms, layout, values }).collect(),
        };
        let payloads = vec![(agent.clone(), payload(&batch).into()), (agent, noise.into())];
        let outcome = core.process(payloads, Timestamp(moment(1000)));
        prop_assert_eq!(outcome.stored + outcome.refused + outcome.held + outcome.repeated, 2);
    }
}
