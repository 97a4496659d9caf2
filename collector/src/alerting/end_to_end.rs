//! Alerting as a whole: real store, query engine, ledger and a real HTTP server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;
use veghe_model::{Labels, Matcher, Timestamp};
use veghe_tsdb::{Commit, Options, Store};

use super::*;
use crate::query;

const RULES: &str = "
groups:
  - name: test
    interval: 40ms
    rules:
      - record: level:double
        expr: level * 2
      - alert: LevelHigh
        expr: level:double > 10
        for: HOLD
        labels: {severity: critical}
        annotations: {summary: 'level is {{ $value }} on {{ $labels.instance }}'}
";

/// The level that is measured, written every few milliseconds while measuring is on.
struct Gauge {
    level: AtomicU64,
    measuring: AtomicBool,
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
    gauge: Arc<Gauge>,
    hook: Url,
    messages: mpsc::Receiver<serde_json::Value>,
    settings: Settings,
}

struct Running {
    handle: AlertingHandle,
    registry: prometheus::Registry,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl World {
    async fn new(hold: &str) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let options = Options { dir: dir.path().join("tsdb"), window: Duration::from_hours(2), max_series: 1000 };
        let (store, _) = Store::open(options).expect("store");
        let gauge = Arc::new(Gauge { level: AtomicU64::new(1), measuring: AtomicBool::new(true) });
        let feeder = (store.clone(), Arc::clone(&gauge));
        TaskTracker::new().spawn(async move {
            let (store, gauge) = feeder;
            let labels = Labels::from_pairs([("__name__", "level"), ("instance", "nas-1")]);
            let series = store.series(&labels).expect("series");
            loop {
                if gauge.measuring.load(Ordering::SeqCst) {
                    let value = gauge.level.load(Ordering::SeqCst) as f64;
                    let samples = vec![(series, clock::now(), value)];
                    store.commit(Commit { samples, ..Commit::default() }).expect("commit");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });

        let (seen, messages) = mpsc::channel(64);
        let handler = move |axum::Json(body): axum::Json<serde_json::Value>| {
            let seen = seen.clone();
            async move { seen.send(body).await.expect("the test listens") }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let hook = Url::parse(&format!("http://{}/", listener.local_addr().expect("address"))).expect("url");
        let app = axum::Router::new().route("/", axum::routing::post(handler));
        TaskTracker::new().spawn(async move { axum::serve(listener, app).await });

        let rule_file = dir.path().join("rules.yaml");
        std::fs::write(&rule_file, RULES.replace("HOLD", hold)).expect("rules");
        let settings = Settings {
            rule_files: vec![rule_file],
            shipped: false,
            receivers: vec![Receiver {
                name: "ops".to_owned(),
                channel: Channel::Webhook(WebhookSettings::new(hook.clone())),
            }],
            route: Route {
                group_wait: Duration::from_millis(50),
                group_interval: Duration::from_millis(80),
                ..Route::default()
            },
            start_grace: Duration::ZERO,
            ..Settings::default()
        };
        Self { dir, store, gauge, hook, messages, settings }
    }

    fn rule_file(&self) -> PathBuf {
        self.settings.rule_files[0].clone()
    }

    fn start(&self) -> Running {
        start(self.dir.path(), &self.store, self.settings.clone())
    }

    fn set(&self, level: u64) {
        self.gauge.level.store(level, Ordering::SeqCst);
    }

    async fn message(&mut self) -> serde_json::Value {
        self.messages.recv().await.expect("a message")
    }
}

fn start(dir: &Path, store: &Store, settings: Settings) -> Running {
    let ledger = Ledger::open(&dir.join("ledger")).expect("ledger");
    let lookback = Duration::from_millis(500);
    let query = QueryService::new(store.clone(), query::Settings { lookback, ..query::Settings::default() });
    let (registry, stop, tasks) = (prometheus::Registry::new(), CancellationToken::new(), TaskTracker::new());
    let unstored = tokio::sync::watch::channel(None).1;
    let handle =
        Alerting::start(settings, ledger, query, &unstored, &registry, stop.clone(), &tasks).expect("alerting");
    Running { handle, registry, stop, tasks }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Rules evaluated so far.
    fn evaluations(&self) -> u64 {
        self.registry
            .gather()
            .iter()
            .find(|family| family.name() == "veghe_rule_evaluation_duration_seconds")
            .map_or(0, |family| family.get_metric()[0].get_histogram().get_sample_count())
    }

    async fn rounds(&self, count: u64) {
        let end = self.evaluations() + 2 * count;
        until(|| self.evaluations() >= end).await;
    }

    fn states(&self) -> Vec<&'static str> {
        self.handle.alerts().iter().map(|alert| alert.state).collect()
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_is_told_of_once_and_its_end_once() {
    let mut world = World::new("0s").await;
    let running = world.start();
    running.rounds(3).await;
    assert_eq!(running.states(), [""; 0]);
    world.set(7);
    let firing = world.message().await;
    assert_eq!((firing["status"].as_str(), firing["receiver"].as_str()), (Some("firing"), Some("ops")));
    assert_eq!(firing["alerts"][0]["annotations"]["summary"], "level is 14 on nas-1");
    assert_eq!(firing["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
    running.rounds(10).await;
    assert_eq!(running.states(), ["firing"]);
    world.set(1);
    let resolved = world.message().await;
    assert_eq!(resolved["status"], "resolved", "exactly one firing message came first");
    assert_eq!(resolved["alerts"][0]["startsAt"], firing["alerts"][0]["startsAt"]);
    running.rounds(10).await;
    assert!(world.messages.try_recv().is_err());
    let log = running.handle.notifications(10).await.expect("log");
    assert_eq!(
        log.iter().map(|r| (r.status.as_str(), r.outcome)).collect::<Vec<_>>(),
        [("resolved", NotificationOutcome::Delivered), ("firing", NotificationOutcome::Delivered),]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_alerts_are_shown_and_stored_as_prometheus_does() {
    let mut world = World::new("0s").await;
    world.set(7);
    let running = world.start();
    world.message().await;
    let groups = serde_json::to_value(running.handle.rules()).expect("JSON");
    let rules = &groups[0]["rules"];
    assert_eq!((groups[0]["name"].as_str(), groups[0]["interval"].as_f64()), (Some("test"), Some(0.04)));
    assert_eq!((rules[0]["type"].as_str(), rules[0]["health"].as_str()), (Some("recording"), Some("ok")));
    assert_eq!((rules[1]["type"].as_str(), rules[1]["state"].as_str()), (Some("alerting"), Some("firing")));
    assert_eq!(rules[1]["alerts"][0]["value"], "1.4e+01");
    assert_eq!(rules[1]["alerts"][0]["labels"]["alertname"], "LevelHigh");
    for (name, value) in [("ALERTS", 1.0), ("level:double", 14.0)] {
        let found = world
            .store
            .select(
                &[Matcher::equal("__name__", name), Matcher::equal("instance", "nas-1")],
                Timestamp(0),
                clock::now(),
            )
            .expect("series");
        assert!(found.iter().any(|series| series.values.contains(&value)), "{name}: {found:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_pending_and_firing_alerts_and_tells_nobody_twice() {
    let mut world = World::new("1s").await;
    world.set(7);
    let running = world.start();
    until(|| running.states() == ["pending"]).await;
    let since = running.handle.alerts()[0].active_at.clone();
    running.stop().await;

    let running = world.start();
    assert_eq!(running.states(), ["pending"], "known before the first evaluation");
    let firing = world.message().await;
    assert_eq!(running.handle.alerts()[0].active_at, since);
    running.stop().await;

    let running = world.start();
    assert_eq!(running.states(), ["firing"]);
    running.rounds(10).await;
    assert_eq!(running.states(), ["firing"]);
    running.stop().await;

    // It ends while nobody looks.
    world.set(1);
    tokio::time::sleep(Duration::from_millis(30)).await;
    let running = world.start();
    let resolved = world.message().await;
    assert_eq!((firing["status"].as_str(), resolved["status"].as_str()), (Some("firing"), Some("resolved")));
    assert_eq!(resolved["alerts"][0]["startsAt"], firing["alerts"][0]["startsAt"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_data_after_a_start_is_no_all_clear() {
    let mut world = World::new("0s").await;
    world.set(7);
    let running = world.start();
    assert_eq!(world.message().await["status"], "firing");
    running.stop().await;

    world.gauge.measuring.store(false, Ordering::SeqCst);
    world.settings.start_grace = Duration::from_hours(1);
    let running = world.start();
    // Longer than the lookback: the last sample is out of sight.
    let began = clock::instant();
    until(|| began.elapsed() > Duration::from_millis(700)).await;
    running.rounds(3).await;
    assert_eq!(running.states(), ["firing"]);
    running.stop().await;

    world.settings.start_grace = Duration::ZERO;
    let running = world.start();
    assert_eq!(world.message().await["status"], "resolved");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_reload_keeps_the_last_good_rules_and_a_removed_rule_is_resolved() {
    let mut world = World::new("0s").await;
    world.set(7);
    let running = world.start();
    assert_eq!(world.message().await["status"], "firing");
    std::fs::write(world.rule_file(), "groups: [{name: a, rules: [{alert: X, exprr: up}]}]").expect("rules");
    let error = running.handle.reload().await.expect_err("problems").to_string();
    assert!(
        error.contains("rules.yaml:1: groups[0].rules[0].exprr: is not a known key; did you mean `expr`?"),
        "{error}"
    );
    assert!(error.contains("rules[0].expr: is missing"), "{error}");
    running.rounds(3).await;
    assert_eq!(running.states(), ["firing"]);

    // The same rules again: nothing changes for anybody.
    std::fs::write(world.rule_file(), RULES.replace("HOLD", "0s")).expect("rules");
    running.handle.reload().await.expect("good rules");
    assert_eq!(running.states(), ["firing"]);
    running.rounds(5).await;

    std::fs::write(world.rule_file(), "groups: []").expect("rules");
    running.handle.reload().await.expect("good rules");
    assert_eq!(running.states(), [""; 0]);
    assert_eq!(world.message().await["status"], "resolved");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_reaches_a_receiver_and_an_unknown_one_is_named() {
    let mut world = World::new("0s").await;
    let running = world.start();
    assert_eq!(running.handle.send_test("ops").await.expect("delivered"), "HTTP 200");
    assert_eq!(world.message().await["groupLabels"]["alertname"], "VegheTest");
    let log = running.handle.notifications(1).await.expect("log");
    assert_eq!((log[0].status.as_str(), log[0].receiver.as_str()), ("test", "ops"));
    let error = running.handle.send_test("nobody").await.expect_err("unknown");
    assert_eq!(error.to_string(), "there is no receiver `nobody`");
    assert_eq!(world.hook.scheme(), "http");
    running.stop().await;
}

#[test]
fn settings_that_do_not_fit_together_are_named_all_at_once() {
    let url = Url::parse("ftp://x/").expect("url");
    let receiver =
        |name: &str| Receiver { name: name.to_owned(), channel: Channel::Webhook(WebhookSettings::new(url.clone())) };
    let settings = Settings {
        receivers: vec![receiver("a"), receiver("a")],
        route: Route { receivers: vec!["b".to_owned()], ..Route::default() },
        ..Settings::default()
    };
    assert_eq!(settings.problems().len(), 4, "{:?}", settings.problems());
}
