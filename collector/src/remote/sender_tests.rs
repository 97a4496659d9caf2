//! The sender against a receiver over real HTTP that does what a test tells it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;
use veghe_model::{Labels, Timestamp};
use veghe_tsdb::{Commit, Options, Store};

use super::decode::{Decoded, label_pairs};
use super::{Protocol, Target, start_senders};

type Samples = BTreeMap<(String, i64), f64>;

/// What the receiver does and got.
#[derive(Default)]
struct Script {
    /// Answers to the next requests, [`WELL`] among them; then it is well.
    answers: VecDeque<(u16, Option<&'static str>)>,
    /// Refuses requests whole that have this value, as Prometheus 2 does for samples out of order.
    refused_value: Option<f64>,
    /// Answers of 2.0 say how much was written.
    tells_written: bool,
    stored: Samples,
    /// Samples that were stored already when they came.
    repeated: usize,
    bodies: Vec<(Bytes, HeaderMap)>,
}

/// A request is taken.
const WELL: (u16, Option<&str>) = (204, None);

type Shared = Arc<Mutex<Script>>;

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut script = shared.lock().expect("script");
    script.bodies.push((body.clone(), headers.clone()));
    if let Some((status, retry_after)) = script.answers.pop_front().filter(|answer| *answer != WELL) {
        let status = StatusCode::from_u16(status).expect("status");
        return match retry_after {
            Some(after) => (status, [("retry-after", after)]).into_response(),
            None => status.into_response(),
        };
    }
    let raw = snap::raw::Decoder::new().decompress_vec(&body).expect("snappy");
    let mut decoded = Decoded::default();
    let is_2 = headers["content-type"].to_str().expect("text").contains("write.v2");
    if is_2 { decoded.version_2(&raw) } else { decoded.version_1(&raw, |_| None) }.expect("request");
    let mut samples = Vec::new();
    for series in &decoded.series {
        let labels = Labels::from_pairs(label_pairs(decoded.labels(&raw, series)).expect("labels")).to_string();
        samples.extend(decoded.samples[series.samples.clone()].iter().map(|&(t, v)| ((labels.clone(), t), v)));
    }
    if samples.iter().any(|(_, value)| Some(*value) == script.refused_value) {
        return (StatusCode::BAD_REQUEST, "out of order sample").into_response();
    }
    let written = samples.len();
    for (key, value) in samples {
        script.repeated += usize::from(script.stored.insert(key, value).is_some());
    }
    if script.tells_written {
        return (StatusCode::NO_CONTENT, [("x-prometheus-remote-write-samples-written", written.to_string())])
            .into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

/// A store, a receiver, and senders that can be stopped and started.
struct World {
    store: Store,
    shared: Shared,
    target: Target,
    registry: Registry,
    stop: CancellationToken,
    senders: TaskTracker,
    _serving: TaskTracker,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        // Another test of this process may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().expect("directory");
        let options = Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 1000 };
        let (store, _) = Store::open(options).expect("store");
        let shared = Shared::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("http://{}/write", listener.local_addr().expect("address"));
        let router = Router::new().route("/write", post(take)).with_state(Arc::clone(&shared));
        let serving = TaskTracker::new();
        serving.spawn(async move { axum::serve(listener, router).await });
        let mut target = Target::new(Url::parse(&url).expect("url"));
        target.name = "peer".to_owned();
        (target.queue.max_shards, target.queue.max_samples_per_send) = (2, 5);
        target.queue.batch_send_deadline = Duration::from_millis(20);
        (target.queue.min_backoff, target.queue.max_backoff) = (Duration::from_millis(1), Duration::from_millis(20));
        let (registry, stop, senders) = (Registry::new(), CancellationToken::new(), TaskTracker::new());
        Self { store, shared, target, registry, stop, senders, _serving: serving, _dir: dir }
    }

    fn start(&mut self) {
        (self.registry, self.stop, self.senders) = (Registry::new(), CancellationToken::new(), TaskTracker::new());
        let targets = [self.target.clone()];
        start_senders(&targets, &Labels::default(), &self.store, &self.registry, &self.stop, &self.senders)
            .expect("started");
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.senders.close();
        self.senders.wait().await;
    }

    fn feed(&self, rows: std::ops::Range<i64>, series: usize) -> Samples {
        let mut fed = Samples::new();
        for row in rows {
            let mut commit = Commit::default();
            for n in 0..series {
                let labels = Labels::from_pairs([("__name__", "up".to_owned()), ("n", n.to_string())]);
                let value = (row * 100) as f64 + n as f64;
                commit.samples.push((self.store.series(&labels).expect("series"), Timestamp(row), value));
                fed.insert((labels.to_string(), row), value);
            }
            self.store.commit(commit).expect("commit");
        }
        fed
    }

    async fn until(&self, what: &str, condition: impl Fn(&Script) -> bool) {
        for _ in 0..6_000 {
            if condition(&self.shared.lock().expect("script")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let script = self.shared.lock().expect("script");
        panic!("in vain: {what}; {} stored, {} requests", script.stored.len(), script.bodies.len());
    }

    fn metric(&self, name: &str, reason: Option<&str>) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect(name);
        let has = |metric: &&prometheus::proto::Metric| {
            reason.is_none_or(|reason| metric.get_label().iter().any(|pair| pair.value() == reason))
        };
        let metric = family.get_metric().iter().find(has).expect("metric");
        metric.get_counter().value() + metric.get_gauge().value()
    }

    async fn until_metric(&self, name: &str, reason: Option<&str>, value: f64) {
        for _ in 0..6_000 {
            if self.metric(name, reason) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is {}, not {value}", self.metric(name, reason));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_gets_everything_once_when_it_is_back() {
    let mut world = World::new().await;
    world.shared.lock().expect("script").answers = (0..40).map(|n| ([503, 429, 500][n % 3], None)).collect();
    world.start();
    let fed = world.feed(0..50, 7);
    world.until("all are stored", |script| script.stored == fed).await;
    let script = world.shared.lock().expect("script");
    assert_eq!(script.repeated, 0);
    let (_, headers) = &script.bodies[0];
    assert_eq!(headers["content-encoding"], "snappy");
    assert_eq!(headers["x-prometheus-remote-write-version"], "0.1.0");
    assert!(!headers.contains_key("retry-attempt"));
    assert!(script.bodies.iter().any(|(_, headers)| headers.get("retry-attempt").is_some_and(|n| n == "3")));
    drop(script);
    assert!(world.metric("prometheus_remote_storage_samples_retried_total", None) >= 40.0);
    assert_eq!(world.metric("prometheus_remote_storage_samples_failed_total", None), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_midway_repeats_at_most_the_part_on_its_way() {
    let mut world = World::new().await;
    world.target.queue.max_shards = 1;
    // From now on, so that what follows is read as parts of four requests of five samples.
    world.start();
    world.stop().await;
    let fed = world.feed(0..40, 1);
    // Three requests arrive; of the fourth the target says that it be sent in an hour.
    world.shared.lock().expect("script").answers = [WELL, WELL, WELL, (503, Some("3600"))].into();
    world.start();
    world.until("the fourth was refused", |script| script.bodies.len() == 4).await;
    world.stop().await;
    assert_eq!(world.shared.lock().expect("script").stored.len(), 15);
    world.start();
    world.until("all are stored", |script| script.stored == fed).await;
    let script = world.shared.lock().expect("script");
    assert_eq!(script.repeated, 15, "what had arrived of the part on its way");
    // A request that comes again is the same, so that a receiver that takes requests whole can't lose part of it.
    let mut seen: BTreeMap<Bytes, usize> = BTreeMap::new();
    script.bodies.iter().for_each(|(body, _)| *seen.entry(body.clone()).or_default() += 1);
    assert_eq!(seen.len(), 8, "40 samples are eight requests, however often each came");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sample_that_is_refused_keeps_no_other_out() {
    let mut world = World::new().await;
    world.target.queue.max_samples_per_send = 50;
    world.shared.lock().expect("script").refused_value = Some(1203.0);
    world.start();
    let mut fed = world.feed(0..20, 5);
    fed.remove(&("up{n=\"3\"}".to_owned(), 12)).expect("the refused one");
    world.until("all others are stored", |script| script.stored == fed).await;
    world.until_metric("prometheus_remote_storage_samples_failed_total", None, 1.0).await;
    // What is refused for another reason than its samples is not taken apart.
    let before = world.shared.lock().expect("script").bodies.len();
    world.shared.lock().expect("script").answers.push_back((415, None));
    world.feed(20..21, 1);
    world.until_metric("prometheus_remote_storage_samples_failed_total", None, 2.0).await;
    assert_eq!(world.shared.lock().expect("script").bodies.len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_2_counts_what_is_told_to_be_written_only() {
    let mut world = World::new().await;
    world.target.protocol = Protocol::Version2;
    world.shared.lock().expect("script").tells_written = true;
    world.start();
    let fed = world.feed(0..10, 3);
    world.until("all are stored", |script| script.stored == fed).await;
    world.until_metric("prometheus_remote_storage_samples_pending", None, 0.0).await;
    assert_eq!(world.metric("prometheus_remote_storage_samples_failed_total", None), 0.0);
    let sent = world.metric("prometheus_remote_storage_queue_highest_sent_timestamp_seconds", None);
    assert_eq!(sent, 0.009);
    // A receiver that does not know 2.0 and says 204 anyway.
    world.shared.lock().expect("script").tells_written = false;
    world.feed(10..11, 3);
    world.until_metric("prometheus_remote_storage_samples_failed_total", None, 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_its_bound_loses_its_oldest_and_counts_them() {
    let mut world = World::new().await;
    world.target.max_backlog_bytes = 1;
    world.shared.lock().expect("script").answers = (0..100_000).map(|_| (503, Some("3600"))).collect();
    world.start();
    world.feed(0..30, 2);
    world.until("an attempt failed", |script| !script.bodies.is_empty()).await;
    // Sealed a day later: nobody but the target needs the log any more.
    while world.store.seal(Timestamp(86_400_000)).expect("sealed").more {}
    world.until_metric("prometheus_remote_storage_samples_dropped_total", Some("backlog_full"), 60.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_gone_is_forgotten_and_begins_anew() {
    let mut world = World::new().await;
    world.start();
    let first = world.feed(0..3, 1);
    world.until("all are stored", |script| script.stored == first).await;
    world.stop().await;
    start_senders(&[], &Labels::default(), &world.store, &Registry::new(), &world.stop, &world.senders).expect("none");
    assert_eq!(world.store.marks(b"rw/"), []);
    world.feed(3..6, 1);
    world.start();
    let last = world.feed(6..9, 1);
    let expected: Samples = first.into_iter().chain(last).collect();
    world.until("what came in between is left out", |script| script.stored == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expired_and_an_address_that_is_gone_lose_nothing() {
    let mut world = World::new().await;
    world.shared.lock().expect("script").answers = (0..40).map(|n| ([401, 403, 404, 405][n % 4], None)).collect();
    world.start();
    let fed = world.feed(0..50, 7);
    world.until("all are stored", |script| script.stored == fed).await;
    assert_eq!(world.metric("prometheus_remote_storage_samples_failed_total", None), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defect_that_ends_a_shard_midway_costs_no_sample() {
    let mut world = World::new().await;
    // After the first failure twice this wait is computed, which panics.
    world.target.queue.min_backoff = Duration::MAX;
    world.shared.lock().expect("script").answers = [WELL, (503, None), WELL, (503, None)].into();
    world.start();
    let fed = world.feed(0..50, 7);
    world.until("all are stored", |script| script.stored == fed).await;
    assert_eq!(world.metric("prometheus_remote_storage_samples_failed_total", None), 0.0);
}

/// A receiver that is away for a fortnight: 14 days of samples, sealed on the way as time passes, all of them delivered
/// when it is back, after a restart too, and the log that was held for it within the bound that is set.
#[tokio::test(flavor = "multi_thread")]
async fn a_fortnight_of_a_dead_receiver_loses_nothing_within_the_bound_of_disk() {
    const DAYS: i64 = 14;
    const MINUTE_MS: i64 = 60_000;
    let mut world = World::new().await;
    world.target.queue.max_samples_per_send = 2_000;
    // A part of the default, 4 GiB, as these 403,200 samples are of what a collector gets in such a time.
    world.target.max_backlog_bytes = 16 << 20;
    world.shared.lock().expect("script").answers = std::iter::repeat_n((503, None), 100_000).collect();
    world.start();
    let ids: Vec<_> = (0..20)
        .map(|n| world.store.series(&Labels::from_pairs([("__name__", "up".to_owned()), ("n", n.to_string())])))
        .collect::<Result<_, _>>()
        .expect("series");
    let group = world.store.group(&ids);
    let mut rows = 0;
    for day in 0..DAYS {
        let columns = (0..1_440).map(|minute| {
            let row = day * 1_440 + minute;
            let values = (0..20).map(|n| (row * 31 % 977 + n) as f64).collect();
            veghe_tsdb::Column { group, timestamp: Timestamp(row * MINUTE_MS), values }
        });
        // Fifteen minutes each, so that the log has as many records as in earnest.
        let columns: Vec<_> = columns.collect();
        for some in columns.chunks(15) {
            world.store.commit(Commit { columns: some.to_vec(), ..Commit::default() }).expect("commit");
        }
        rows += columns.len();
        // Night passes: what is past is sealed, and nobody but the target needs that log.
        for hours in [25, 26] {
            let now = Timestamp(day * 86_400_000 + hours * 3_600_000);
            while world.store.seal(now).expect("sealed").more {}
        }
        if day == DAYS / 2 {
            world.stop().await;
            world.start();
        }
    }
    let stats = world.store.stats();
    assert!(stats.log_bytes < world.target.max_backlog_bytes, "{stats:?}");
    assert_eq!(world.metric("prometheus_remote_storage_samples_dropped_total", Some("backlog_full")), 0.0);
    world.shared.lock().expect("script").answers.clear();
    world.until("all are stored", |script| script.stored.len() == rows * 20).await;
    let script = world.shared.lock().expect("script");
    let of = |n: i64, row: i64| script.stored[&(format!("up{{n=\"{n}\"}}"), row * MINUTE_MS)];
    assert!((0..DAYS * 1_440).all(|row| (0..20).all(|n| of(n, row) == (row * 31 % 977 + n) as f64)));
    assert_eq!(world.store.log_skipped("peer"), 0);
}
