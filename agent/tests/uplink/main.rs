//! The uplink against a real MQTT 5 broker (Mosquitto) with client certificates, and a collector's other side that
//! speaks the protocol: whatever breaks, every batch arrives, is understood, and is settled exactly once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to say what went wrong")]

#[path = "../port/mod.rs"]
mod port;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use veghe_agent::delivery::Pace;
use veghe_agent::health::Health;
use veghe_agent::identity::Identity;
use veghe_agent::reading::{Reading, Round, SeriesName, SeriesSet};
use veghe_agent::spool::{Limits, Spool};
use veghe_agent::tls::{Pin, client_config};
use veghe_agent::uplink::{Settings, Uplink};
use veghe_wire::ack::{self, Ack, Hold, HoldCause, Presence, Refusal};
use veghe_wire::batch::{Batch, Decoder};
use veghe_wire::{AgentId, Topic};

const AGENT: &str = "scan-1";

/// A CA and what it signs.
struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Veghe CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate_pem = params.self_signed(&key).unwrap().pem();
        Self { certificate_pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key in PEM; valid since `age_days` for 90 days.
    fn sign(&self, name: &str, age_days: u32) -> (String, String) {
        let mut params = CertificateParams::new(vec![veghe_wire::COLLECTOR_SERVER_NAME.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let since_epoch = veghe_agent::clock::since_epoch();
        let day = Duration::from_hours(24);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + since_epoch - day * age_days;
        params.not_after = params.not_before + day * 90;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A broker on a port of its own that can be killed and started again.
struct Broker {
    dir: PathBuf,
    port: u16,
    child: Child,
}

impl Broker {
    fn start(dir: &Path, authority: &Authority) -> Self {
        let dir = dir.join("broker");
        fs::create_dir_all(&dir).unwrap();
        let port = port::free();
        let (certificate, key) = authority.sign("broker", 0);
        let path = |name: &str| dir.join(name).display().to_string();
        for (name, content) in [("ca.crt", &authority.certificate_pem), ("crt", &certificate), ("key", &key)] {
            fs::write(path(name), content).unwrap();
        }
        let rules = "user collector\ntopic readwrite veghe/#\npattern readwrite veghe/v1/%u/#\n";
        fs::write(path("acl"), rules).unwrap();
        let config = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous false\nrequire_certificate true\n\
             use_identity_as_username true\nuse_username_as_clientid true\nacl_file {}\ncafile {}\ncertfile {}\nkeyfile {}\n",
            path("acl"),
            path("ca.crt"),
            path("crt"),
            path("key")
        );
        fs::write(path("conf"), config).unwrap();
        let child = Self::spawn(&dir);
        Self { dir, port, child }
    }

    fn spawn(dir: &Path) -> Child {
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
        Command::new(program.unwrap_or("mosquitto"))
            .arg("-c")
            .arg(dir.join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is needed: apt-get install mosquitto")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Self::spawn(&self.dir);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the collector does with a batch.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Accept,
    Silence,
    Hold(HoldCause),
    Refuse,
}

#[derive(Default)]
struct Seen {
    subscriptions: u32,
    /// Values by series, of batches that were accepted, by spool id and sequence.
    accepted: BTreeMap<(u64, u64), BTreeMap<String, f64>>,
    /// How often each batch came.
    arrivals: BTreeMap<(u64, u64), u32>,
    dictionaries: BTreeMap<u64, Known>,
    /// Batches that brought definitions.
    with_dictionary: u32,
    online: Vec<bool>,
    order: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Known {
    series: Vec<String>,
    layouts: Vec<Vec<u32>>,
}

type Policy = Box<dyn FnMut(&Batch, u32) -> Answer + Send>;

/// The other side: decodes, resolves, answers.
struct Collector {
    seen: Arc<Mutex<Seen>>,
    policy: Arc<Mutex<Policy>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// Returns when it is subscribed: what comes before, nobody gets.
    async fn start(port: u16, authority: &Arc<Authority>, policy: Policy) -> Self {
        let (certificate, key) = authority.sign("collector", 0);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let ca = CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes()).unwrap();
        let config = client_config(Pin::Ca(ca), Some((chain, key))).unwrap();
        let mut options = MqttOptions::new("collector", "127.0.0.1", port);
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
            .set_max_packet_size(Some(1 << 20));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let policy = Arc::new(Mutex::new(policy));
        let task =
            TaskTracker::new().spawn(serve(options, Arc::clone(&seen), Arc::clone(&policy), Arc::clone(authority)));
        until("the collector is subscribed", || seen.lock().unwrap().subscriptions >= 3).await;
        Self { seen, policy, task }
    }

    fn set_policy(&self, policy: Policy) {
        *self.policy.lock().unwrap() = policy;
    }
}

async fn serve(options: MqttOptions, seen: Arc<Mutex<Seen>>, policy: Arc<Mutex<Policy>>, authority: Arc<Authority>) {
    let agent: AgentId = AGENT.parse().unwrap();
    let mut decoder = Decoder::new().unwrap();
    let (client, mut eventloop) = AsyncClient::new(options, 1000);
    loop {
        let publish = match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                for topic in ["veghe/v1/+/batch", "veghe/v1/+/presence", "veghe/v1/+/renewal"] {
                    client.try_subscribe(topic, QoS::AtLeastOnce).unwrap();
                }
                continue;
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => publish,
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                seen.lock().unwrap().subscriptions += 1;
                continue;
            }
            Ok(_) => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let topic = Topic::parse(std::str::from_utf8(&publish.topic).unwrap()).unwrap();
        match topic {
            (_, Topic::Batch) => {
                let batch = decoder.decode(&publish.payload).unwrap();
                let answer = answer(&batch, &mut seen.lock().unwrap(), &mut policy.lock().unwrap());
                let Some(answer) = answer else { continue };
                client.try_publish(Topic::Ack.of(&agent), QoS::AtLeastOnce, false, ack::encode(&answer)).unwrap();
            }
            (_, Topic::Presence) => {
                let presence: Presence = ack::decode(&publish.payload).unwrap();
                seen.lock().unwrap().online.push(presence.online);
            }
            (_, Topic::Renewal) => {
                let request = std::str::from_utf8(&publish.payload).unwrap();
                let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
                request.params.distinguished_name.push(DnType::CommonName, AGENT);
                request.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                request.params.not_after = rcgen::date_time_ymd(2100, 1, 1);
                let pem = request.signed_by(&authority.issuer).unwrap().pem();
                client.try_publish(Topic::Certificate.of(&agent), QoS::AtLeastOnce, false, pem).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

fn answer(batch: &Batch, seen: &mut Seen, policy: &mut Policy) -> Option<Ack> {
    let id = (batch.spool_id, batch.sequence);
    assert!(batch.oldest_sequence >= 1 && batch.oldest_sequence <= batch.sequence, "{}", batch.oldest_sequence);
    seen.order.push(id);
    let arrivals = seen.arrivals.entry(id).or_default();
    *arrivals += 1;
    let arrivals = *arrivals;
    seen.with_dictionary += u32::from(batch.dictionary.is_some());
    let mut decision = policy(batch, arrivals);
    if decision == Answer::Accept && !resolve(batch, seen) {
        decision = Answer::Hold(HoldCause::Dictionary);
    }
    let mut ack = Ack { spool_id: batch.spool_id, ..Ack::default() };
    match decision {
        Answer::Silence => return None,
        Answer::Accept => ack.accepted.push(batch.sequence),
        Answer::Refuse => ack.refused.push(Refusal { sequence: batch.sequence, reason: "too many series".into() }),
        Answer::Hold(cause) => ack.held.push(Hold {
            sequence: batch.sequence,
            cause: cause as i32,
            reason: "the disk is full".into(),
            retry_after_ms: 100,
        }),
    }
    Some(ack)
}

/// Whether every definition was there.
fn resolve(batch: &Batch, seen: &mut Seen) -> bool {
    let known = seen.dictionaries.entry(batch.spool_id).or_default();
    if let Some(dictionary) = &batch.dictionary {
        if dictionary.first_series as usize > known.series.len()
            || dictionary.first_layout as usize > known.layouts.len()
        {
            return false;
        }
        known.series.truncate(dictionary.first_series as usize);
        known.layouts.truncate(dictionary.first_layout as usize);
        for series in &dictionary.series {
            let text = |i: &u32| dictionary.strings[*i as usize].clone();
            known.series.push(series.labels.iter().map(text).collect::<Vec<_>>().join(" "));
        }
        known.layouts.extend(dictionary.layouts.iter().map(|layout| layout.series.clone()));
    }
    let mut values = BTreeMap::new();
    for cycle in &batch.cycles {
        let Some(layout) = known.layouts.get(cycle.layout as usize) else { return false };
        for (series, value) in layout.iter().zip(&cycle.values) {
            let Some(series) = known.series.get(*series as usize) else { return false };
            values.insert(series.clone(), *value);
        }
    }
    seen.accepted.insert((batch.spool_id, batch.sequence), values);
    true
}

/// One run of the agent's uplink, fed by the test.
struct Agent {
    rounds: mpsc::Sender<Round>,
    health: Arc<Health>,
    task: JoinHandle<()>,
    taken: i64,
}

impl Agent {
    fn start(state_dir: &Path, port: u16, patience: Duration) -> Self {
        let health = Arc::new(Health::default());
        let settings = Settings {
            state_dir: state_dir.to_owned(),
            agent: AGENT.parse().unwrap(),
            host: "127.0.0.1".into(),
            port,
            interval: Duration::from_secs(15),
            pace: Pace { backfill_per_second: 200.0, ack_patience: patience },
        };
        let spool = Spool::open(&state_dir.join("spool"), Limits::default()).unwrap();
        let tasks = TaskTracker::new();
        let uplink = Uplink::new(settings, spool, Arc::clone(&health), tasks.clone()).unwrap();
        let (rounds, receiver) = mpsc::channel(8);
        Self { rounds, health, task: tasks.spawn(uplink.run(receiver)), taken: 0 }
    }

    /// A round of two sensors; one has a series whose name changes every ten rounds.
    async fn take(&mut self, value: f64) {
        self.taken += 1;
        let series =
            |metric: &str, device: &str| Arc::new(SeriesSet(vec![SeriesName::new(metric, &[("device", device)])]));
        let reading = |sensor, series| Reading { sensor, series, values: vec![value], ended: None };
        let round = Round {
            timestamp_ms: 1_000_000 + self.taken,
            readings: vec![
                reading("a", series("counter", "all")),
                reading("b", series("changing", &format!("d{}", self.taken / 10))),
            ],
        };
        self.rounds.send(round).await.unwrap();
    }

    async fn kill(self) {
        self.task.abort();
        self.task.await.ok();
    }

    async fn end(self) -> Arc<Health> {
        drop(self.rounds);
        self.task.await.unwrap();
        self.health
    }
}

struct Place {
    dir: tempfile::TempDir,
    authority: Arc<Authority>,
    broker: Broker,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::new());
        enrol(&dir.path().join("agent"), &authority, 0);
        let broker = Broker::start(dir.path(), &authority);
        Self { dir, authority, broker }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    async fn collector(&self, policy: impl FnMut(&Batch, u32) -> Answer + Send + 'static) -> Collector {
        Collector::start(self.broker.port, &self.authority, Box::new(policy)).await
    }

    fn agent(&self, patience: Duration) -> Agent {
        Agent::start(&self.state_dir(), self.broker.port, patience)
    }
}

fn enrol(state_dir: &Path, authority: &Authority, age_days: u32) {
    fs::create_dir_all(state_dir).unwrap();
    let (certificate, key) = authority.sign(AGENT, age_days);
    fs::write(state_dir.join("agent.crt"), certificate).unwrap();
    fs::write(state_dir.join("agent.key"), key).unwrap();
    fs::write(state_dir.join("ca.crt"), &authority.certificate_pem).unwrap();
}

/// Waits for a condition; the limit only ends a test that has failed.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

const PATIENT: Duration = Duration::from_secs(30);
/// Where a batch may come before the collector is there again: what the broker drops has to be repeated.
const IMPATIENT: Duration = Duration::from_millis(500);

async fn everything_is_settled(health: &Health, batches: u64) {
    until("the spool is empty", || health.spool_batches.load(Relaxed) == 0).await;
    assert_eq!(health.batches_accepted_total.load(Relaxed), batches, "settled exactly once");
    assert_eq!(health.spool_dropped_batches_total.load(Relaxed), 0);
}

fn values(collector: &Collector, spool_id: u64) -> Vec<f64> {
    let seen = collector.seen.lock().unwrap();
    let counter = |values: &BTreeMap<String, f64>| values["__name__ counter device all"];
    seen.accepted.iter().filter(|((id, _), _)| *id == spool_id).map(|(_, values)| counter(values)).collect()
}

fn runs(collector: &Collector) -> Vec<u64> {
    let seen = collector.seen.lock().unwrap();
    let all: BTreeSet<u64> = seen.accepted.keys().map(|(spool_id, _)| *spool_id).collect();
    all.into_iter().collect()
}

#[tokio::test]
async fn every_batch_arrives_once_and_only_new_definitions_are_repeated() {
    let place = Place::new();
    let collector = place.collector(|_, _| Answer::Accept).await;
    let mut agent = place.agent(PATIENT);
    until("connected", || agent.health.uplink_connected.load(Relaxed) == 1).await;
    for value in 0..50 {
        agent.take(f64::from(value)).await;
    }
    until("50 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 50).await;
    everything_is_settled(&agent.health, 50).await;
    let run = runs(&collector)[0];
    assert_eq!(values(&collector, run), (0..50).map(f64::from).collect::<Vec<_>>());
    {
        let seen = collector.seen.lock().unwrap();
        assert!(seen.arrivals.values().all(|count| *count == 1));
        assert!((1..=6).contains(&seen.with_dictionary), "at most one for each change of the series");
        assert_eq!(seen.online, [true]);
    }
    agent.end().await;
    until("offline was told", || collector.seen.lock().unwrap().online == [true, false]).await;
}

#[tokio::test]
async fn a_session_that_is_full_of_definitions_is_followed_by_the_next_and_no_round_is_lost() {
    let place = Place::new();
    let collector = place.collector(|_, _| Answer::Accept).await;
    let agent = place.agent(PATIENT);
    until("connected", || agent.health.uplink_connected.load(Relaxed) == 1).await;
    let steady = Arc::new(SeriesSet(vec![SeriesName::new("counter", &[("device", "all")])]));
    // Every round brings some 100 KB of definitions that no round had before: a session has room for six of them.
    for number in 0..10_u32 {
        let padding = "x".repeat(10_000);
        let devices = (0..10).map(|device| format!("{padding}-{number}-{device}"));
        let changing = devices.map(|device| SeriesName::new("changing", &[("device", &device)])).collect();
        let value = f64::from(number);
        let reading = |sensor, series, values| Reading { sensor, series, values, ended: None };
        let readings = vec![
            reading("steady", Arc::clone(&steady), vec![value]),
            reading("changing", Arc::new(SeriesSet(changing)), vec![value; 10]),
        ];
        let round = Round { timestamp_ms: 1_000_000 + i64::from(number), readings };
        agent.rounds.send(round).await.unwrap();
    }
    // One round is told in two batches: what still fitted the first session, and the rest with the second.
    until("11 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 11).await;
    everything_is_settled(&agent.health, 11).await;
    assert_eq!(runs(&collector).len(), 2);
    {
        let seen = collector.seen.lock().unwrap();
        let of = |metric: &str| {
            let values = seen.accepted.values().flatten();
            let mut values: Vec<f64> =
                values.filter(|(name, _)| name.contains(metric)).map(|(_, value)| *value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let numbers = || (0..10).map(f64::from);
        assert_eq!(of("__name__ counter"), numbers().collect::<Vec<_>>());
        assert_eq!(of("__name__ changing"), numbers().flat_map(|number| [number; 10]).collect::<Vec<_>>());
    }
    agent.end().await;
}

#[tokio::test]
async fn lost_acknowledgements_cost_a_repeat() {
    let place = Place::new();
    let collector = place.collector(|_, arrivals| if arrivals == 1 { Answer::Silence } else { Answer::Accept }).await;
    let mut agent = place.agent(Duration::from_millis(300));
    for value in 0..20 {
        agent.take(f64::from(value)).await;
    }
    until("20 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 20).await;
    everything_is_settled(&agent.health, 20).await;
    assert_eq!(values(&collector, runs(&collector)[0]).len(), 20);
    agent.end().await;
}

#[tokio::test]
async fn a_broker_that_is_killed_and_an_agent_that_is_killed_lose_nothing() {
    let mut place = Place::new();
    let collector = place.collector(|_, _| Answer::Accept).await;
    let mut agent = place.agent(IMPATIENT);
    agent.take(0.0).await;
    until("one accepted", || agent.health.batches_accepted_total.load(Relaxed) == 1).await;
    place.broker.kill();
    for value in 1..40 {
        agent.take(f64::from(value)).await;
    }
    until("the agent noticed", || agent.health.uplink_connected.load(Relaxed) == 0).await;
    until("all are in the spool", || agent.health.spool_batches.load(Relaxed) == 39).await;
    agent.kill().await;
    let mut agent = place.agent(IMPATIENT);
    assert_eq!(agent.health.spool_batches.load(Relaxed), 39);
    for value in 0..10 {
        agent.take(f64::from(value)).await;
    }
    place.broker.restart();
    until("49 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 49).await;
    everything_is_settled(&agent.health, 49).await;
    let mut counts: Vec<_> = runs(&collector).into_iter().map(|run| values(&collector, run)).collect();
    counts.sort_by_key(Vec::len);
    assert_eq!(counts, [(0..10).map(f64::from).collect::<Vec<_>>(), (0..40).map(f64::from).collect()]);
    agent.end().await;
}

#[tokio::test]
async fn a_fresh_batch_overtakes_a_long_backlog() {
    let mut place = Place::new();
    place.broker.kill();
    let mut agent = place.agent(IMPATIENT);
    for value in 0..300 {
        agent.take(f64::from(value)).await;
    }
    until("all are in the spool", || agent.health.spool_batches.load(Relaxed) == 300).await;
    place.broker.restart();
    let collector = place.collector(|_, _| Answer::Accept).await;
    until("connected", || agent.health.uplink_connected.load(Relaxed) == 1).await;
    agent.take(300.0).await;
    until("301 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 301).await;
    let position = {
        let seen = collector.seen.lock().unwrap();
        seen.order.iter().position(|(_, sequence)| *sequence == 301).unwrap()
    };
    assert!(position < 250, "the fresh batch came at {position}");
    everything_is_settled(&agent.health, 301).await;
    agent.end().await;
}

#[tokio::test]
async fn what_is_held_waits_and_arrives_when_it_may() {
    let place = Place::new();
    let collector = place.collector(|_, _| Answer::Hold(HoldCause::Unavailable)).await;
    let mut agent = place.agent(PATIENT);
    for value in 0..30 {
        agent.take(f64::from(value)).await;
    }
    until("held", || agent.health.uplink_held.load(Relaxed) == 1).await;
    assert_eq!(agent.health.batches_accepted_total.load(Relaxed), 0);
    collector.set_policy(Box::new(|_, _| Answer::Accept));
    until("30 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 30).await;
    everything_is_settled(&agent.health, 30).await;
    assert_eq!(values(&collector, runs(&collector)[0]).len(), 30);
    until("no longer held", || agent.health.uplink_held.load(Relaxed) == 0).await;
    agent.end().await;
}

#[tokio::test]
async fn a_collector_that_forgot_the_dictionary_gets_it_again_at_once() {
    let place = Place::new();
    let collector = place.collector(|_, _| Answer::Accept).await;
    let mut agent = place.agent(PATIENT);
    for value in 0..5 {
        agent.take(f64::from(value)).await;
    }
    until("5 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 5).await;
    collector.seen.lock().unwrap().dictionaries.clear();
    for value in 5..10 {
        agent.take(f64::from(value)).await;
    }
    until("10 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 10).await;
    everything_is_settled(&agent.health, 10).await;
    assert_eq!(values(&collector, runs(&collector)[0]), (0..10).map(f64::from).collect::<Vec<_>>());
    agent.end().await;
}

#[tokio::test]
async fn a_refused_batch_is_counted_and_never_sent_again() {
    let place = Place::new();
    let collector = place.collector(|batch, _| if batch.sequence == 2 { Answer::Refuse } else { Answer::Accept }).await;
    let mut agent = place.agent(PATIENT);
    for value in 0..4 {
        agent.take(f64::from(value)).await;
    }
    until("3 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 3).await;
    until("1 refused", || agent.health.batches_refused_total.load(Relaxed) == 1).await;
    everything_is_settled(&agent.health, 3).await;
    assert!(collector.seen.lock().unwrap().arrivals.values().all(|count| *count == 1));
    agent.end().await;
}

#[tokio::test]
async fn a_collector_of_another_version_costs_nothing() {
    let place = Place::new();
    let _collector = place.collector(|_, _| Answer::Hold(HoldCause::Version)).await;
    let mut agent = place.agent(PATIENT);
    agent.take(1.0).await;
    until("held", || agent.health.uplink_held.load(Relaxed) == 1).await;
    agent.take(2.0).await;
    until("both are in the spool", || agent.health.spool_batches.load(Relaxed) == 2).await;
    let health = agent.end().await;
    assert_eq!((health.spool_batches.load(Relaxed), health.batches_accepted_total.load(Relaxed)), (2, 0));
}

#[tokio::test]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
    let place = Place::new();
    enrol(&place.state_dir(), &place.authority, 61);
    let before = Identity::load(&place.state_dir()).unwrap();
    let _collector = place.collector(|_, _| Answer::Accept).await;
    let mut agent = place.agent(PATIENT);
    until("connected twice", || agent.health.uplink_connects_total.load(Relaxed) == 2).await;
    agent.take(1.0).await;
    until("1 accepted", || agent.health.batches_accepted_total.load(Relaxed) == 1).await;
    let after = Identity::load(&place.state_dir()).unwrap();
    assert_ne!(before.chain, after.chain);
    assert!(after.renew_at_seconds() > before.not_after_seconds);
    agent.end().await;
}

#[tokio::test]
async fn only_a_broker_of_the_pinned_ca_is_trusted() {
    let place = Place::new();
    let collector = place.collector(|_, _| Answer::Accept).await;
    let shake = async |ca_pem: &str| {
        let config = client_config(Pin::Ca(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()), None).unwrap();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", place.broker.port)).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("any.name.at.all").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(|_| ())
    };
    assert!(shake(&place.authority.certificate_pem).await.is_ok());
    let error = shake(&Authority::new().certificate_pem).await.expect_err("another CA");
    assert!(error.to_string().contains("certificate"), "{error}");
    drop(collector);
}
