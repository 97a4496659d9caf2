//! The listeners as clients see them: over real sockets.

mod refusals;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::Labels;
use veghe_tsdb::{Commit, Options, Store};
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse};

use prometheus::TextEncoder;

use super::guard::ConnectionMetrics;
use super::*;
use crate::clock;
use crate::ledger::Ledger;
use crate::query::Settings;

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn served(router: Router, limits: Limits) -> Served {
    served_with(router, limits, None, None).await
}

async fn served_with(
    router: Router,
    limits: Limits,
    tls: Option<Arc<rustls::ServerConfig>>,
    metrics: Option<ConnectionMetrics>,
) -> Served {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = socket.local_addr().expect("address");
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let listener = Listener { socket, tls, limits, metrics };
    tasks.spawn({
        let (stop, tasks) = (stop.clone(), tasks.clone());
        async move { serve(listener, router, stop, &tasks).await }
    });
    Served { address, stop, tasks }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connection")
    }

    /// HTTP/1.0: the body ends where the connection does.
    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {target} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            text += name;
            text += ": ";
            text += value;
            text += "\r\n";
        }
        let mut stream = self.connect().await;
        // A server that refuses a long body stops to read.
        drop(stream.write_all(format!("{text}\r\n{body}").as_bytes()).await);
        let mut bytes = vec![];
        drop(stream.read_to_end(&mut bytes).await);
        Answer::of(&bytes)
    }

    async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], "").await
    }
}

fn plain() -> Router {
    Router::new().route("/", get(async || "fine"))
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let registry = Registry::new();
    let metrics = HttpMetrics::new(&registry).expect("metrics");
    let limits = Limits { max_connections: 8, ..Limits::default() };
    let served = served_with(plain(), limits, None, Some(metrics.connections("test"))).await;
    let mut silent = vec![];
    for _ in 0..100 {
        silent.push(served.connect().await);
        // The loop of the server comes to each in turn.
        assert_eq!(served.get("/").await.status, 200);
    }
    let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(r#"veghe_http_connections_closed_total{listener="test",reason="silent"} "#));
    let gave_way: u32 = line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!(gave_way >= 90, "{gave_way}");
}

#[tokio::test]
async fn bodies_that_never_end_keep_nobody_out() {
    let guard = Guard {
        listener: "test",
        metrics: HttpMetrics::new(&Registry::new()).expect("metrics"),
        hosts: Hosts::Any,
        bodies: guard::Bodies::AtMost(1000),
    };
    let router = guard.around(Router::new().route("/", post(async |body: String| body)));
    let served = served(router, Limits { max_connections: 8, ..Limits::default() }).await;
    let mut slow = vec![];
    for _ in 0..100 {
        let mut stream = served.connect().await;
        stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx").await.expect("sent");
        slow.push(stream);
        assert_eq!(served.send("POST", "/", &[], "echo").await.body, "echo");
    }
}

#[tokio::test]
async fn where_everybody_is_busy_the_next_is_told_so_and_later_served() {
    let release = Arc::new(Notify::new());
    let (entered, mut busy) = tokio::sync::mpsc::channel(2);
    let wait = {
        let release = Arc::clone(&release);
        async move || {
            entered.send(()).await.expect("test listens");
            release.notified().await;
            "done"
        }
    };
    let served = served(plain().route("/wait", get(wait)), Limits { max_connections: 2, ..Limits::default() }).await;
    let served = Arc::new(served);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            served.tasks.spawn({
                let served = Arc::clone(&served);
                async move { served.get("/wait").await.status }
            })
        })
        .collect();
    busy.recv().await.expect("first");
    busy.recv().await.expect("second");
    let shed = served.get("/").await;
    assert_eq!(shed.status, 503, "{shed:?}");
    assert!(shed.head.contains("retry-after: 1"), "{shed:?}");
    release.notify_waiters();
    for task in waiting {
        assert_eq!(task.await.expect("client"), 200);
    }
    assert_eq!(served.get("/").await.status, 200);
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let served = served(plain(), Limits::default()).await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    let pieces: [&[u8]; 8] = [
        b"\0\xff\xfe\x16\x03\x01\x02\0",
        b"\r\n\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost",
        long.as_bytes(),
    ];
    for piece in pieces {
        let mut stream = served.connect().await;
        drop(stream.write_all(piece).await);
        drop(stream.shutdown().await);
        let mut bytes = vec![];
        drop(stream.read_to_end(&mut bytes).await);
        let status = Answer::of(&bytes).status;
        assert!(matches!(status, 0 | 400..500), "{status} for {:?}", String::from_utf8_lossy(piece));
        assert_eq!(served.get("/").await.body, "fine");
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let served = served(plain(), Limits { head_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET / HT").await.expect("sent");
    let mut bytes = vec![];
    drop(slow.read_to_end(&mut bytes).await);
    assert!(!String::from_utf8_lossy(&bytes).contains("200"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let large = async || vec![0_u8; 64 << 20];
    let limits = Limits {
        write_timeout: Duration::from_millis(100),
        drain_timeout: Duration::from_hours(1),
        ..Limits::default()
    };
    let served = served(plain().route("/large", get(large)), limits).await;
    let mut greedy = served.connect().await;
    greedy.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut first = [0];
    greedy.read_exact(&mut first).await.expect("the response begins");
    served.stop.cancel();
    served.tasks.close();
    // Only the write timeout ends the connection: the time to drain is an hour.
    served.tasks.wait().await;
}

#[tokio::test]
async fn stopping_finishes_what_was_begun_and_ends_silent_connections() {
    let (entered, mut busy) = tokio::sync::mpsc::channel(1);
    let release = Arc::new(Notify::new());
    let wait = {
        let release = Arc::clone(&release);
        async move || {
            entered.send(()).await.expect("test listens");
            release.notified().await;
            "done"
        }
    };
    let limits = Limits { drain_timeout: Duration::from_hours(1), ..Limits::default() };
    let served = Arc::new(served(plain().route("/wait", get(wait)), limits).await);
    let _silent = served.connect().await;
    let client = served.tasks.spawn({
        let served = Arc::clone(&served);
        async move { served.get("/wait").await }
    });
    busy.recv().await.expect("in progress");
    served.stop.cancel();
    served.tasks.close();
    release.notify_one();
    assert_eq!(client.await.expect("client").body, "done");
    served.tasks.wait().await;
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn tls_is_spoken_where_configured_and_plain_text_there_harms_nobody() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).expect("key");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .expect("certificate");
    let served = served_with(plain(), Limits::default(), Some(Arc::new(config)), None).await;
    assert_eq!(served.get("/").await.status, 0);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).expect("root");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("name");
    let mut stream = connector.connect(name, served.connect().await).await.expect("handshake");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes).await.expect("a clean end");
    assert_eq!(Answer::of(&bytes).body, "fine");
}

/// Admits who sends the token `good`: enrolment itself is tested where it is.
struct Admission;

impl Enrol for Admission {
    fn enrol(&self, request: EnrolmentRequest) -> Result<EnrolmentResponse, EnrolRefusal> {
        if request.token != "good" {
            return Err(EnrolRefusal::Token { code: "unknown_token", message: "the token is unknown".to_owned() });
        }
        Ok(EnrolmentResponse {
            agent: "nas-1".to_owned(),
            certificate: "C".to_owned(),
            ca_certificate: "CA".to_owned(),
            mqtt_url: None,
            mqtt_port: 8883,
        })
    }
}

struct Agents(Vec<AgentView>);

impl Fleet for Agents {
    fn agents(&self) -> Vec<AgentView> {
        self.0.clone()
    }

    fn found(&self) -> Vec<FoundView> {
        let found = |name: &str, life| FoundView {
            agent: "archive-<nas>".to_owned(),
            kind: "exporter".to_owned(),
            name: name.to_owned(),
            detail: "PostgreSQL <16>".to_owned(),
            life,
            last: Timestamp(1_700_000_000_000),
        };
        if self.0.is_empty() {
            return Vec::new();
        }
        vec![
            found("127.0.0.1:9187", FoundLife::New),
            found("127.0.0.1:9188", FoundLife::Watched),
            found("127.0.0.1:9189", FoundLife::Vanished),
        ]
    }
}

struct Alerts(Vec<serde_json::Value>);

impl AlertingView for Alerts {
    fn rule_groups(&self) -> Vec<serde_json::Value> {
        let down = json!({"type": "alerting", "name": "Down", "labels": {"severity": "critical"}, "alerts": []});
        vec![
            json!({
                "name": "host", "file": "host.yml", "interval": 15, "limit": 0,
                "rules": [down, {"type": "recording", "name": "a:b"}],
            }),
            json!({"name": "disk", "file": "disk.yml", "rules": [{"type": "recording", "name": "c:d"}]}),
        ]
    }

    fn alerts(&self) -> Vec<serde_json::Value> {
        self.0.clone()
    }

    fn reload(&self) -> Reloading {
        Box::pin(async { Err("host.yml is gone".to_owned()) })
    }
}

struct Site {
    served: Served,
    login: FirstLogin,
    now: Timestamp,
    registry: Registry,
    dir: tempfile::TempDir,
}

impl std::ops::Deref for Site {
    type Target = Served;
    fn deref(&self) -> &Served {
        &self.served
    }
}

fn some_agents() -> Vec<AgentView> {
    let agent = |id: &str, state, last_seen: Option<i64>| AgentView {
        id: id.to_owned(),
        state,
        last_seen: last_seen.map(Timestamp),
        version: last_seen.map(|_| "0.1.0".to_owned()),
        settings: match state {
            AgentState::Up => SettingsView { state: SettingsState::Runs, running: 7, wanted: 7, reason: None },
            AgentState::Down => SettingsView {
                state: SettingsState::Refused,
                running: 6,
                wanted: 7,
                reason: Some("line 3: interval: `<soon>` is not a duration".to_owned()),
            },
            _ => SettingsView::default(),
        },
    };
    vec![
        agent("archive-<nas>", AgentState::Up, Some(1_700_000_000_000)),
        agent("scanner-2", AgentState::Down, Some(1_699_990_000_000)),
        agent("scanner-3", AgentState::Waiting, None),
        agent("scanner-4", AgentState::Revoked, None),
    ]
}

fn some_alerts() -> Vec<serde_json::Value> {
    let alert = |state: &str| {
        json!({
            "labels": {"alertname": "AgentDown", "instance": "scanner-2", "severity": "critical"},
            "annotations": {"summary": "scanner-2 does not answer", "summary_ro": "scanner-2 nu răspunde"},
            "state": state, "activeAt": "2023-11-14T19:30:00Z", "value": "0",
        })
    };
    vec![alert("firing"), alert("pending")]
}

async fn site(exposure: Exposure) -> Site {
    site_with(exposure, some_agents(), some_alerts()).await
}

async fn site_with(exposure: Exposure, agents: Vec<AgentView>, alerts: Vec<serde_json::Value>) -> Site {
    let dir = tempfile::tempdir().expect("directory");
    let registry = Registry::new();
    let options = Options { dir: dir.path().join("tsdb"), window: Duration::from_hours(2), max_series: 1000 };
    let (store, _recovery) = Store::open(options).expect("store");
    let now = clock::now();
    fill(&store, now);
    let access = Access::new(Ledger::in_memory().expect("ledger"), &registry).expect("access");
    let login = access.ensure_first_login(dir.path(), now).expect("sign-in").expect("the first");
    register_process_metrics(&registry, now).expect("metrics");
    let operations = Operations {
        queries: QueryService::new(store, Settings::default()),
        metrics: HttpMetrics::new(&registry).expect("metrics"),
        registry: registry.clone(),
        access,
        exposure,
        host_names: vec!["veghe.cjtimis.ro".to_owned()],
        origins: Some(cors::Origins::parse("https://grafana\\.example").expect("pattern")),
        external_labels: Labels::from_pairs([("site", "timiș")]),
        enrol: Arc::new(Admission),
        fleet: Arc::new(Agents(agents)),
        alerting: Arc::new(Alerts(alerts)),
        digitization: Digitization::in_memory(crate::digitization::Settings::default()),
        ready: watch::channel(true).1,
        about: About {
            version: "0.1.0".to_owned(),
            started: now,
            data_dir: dir.path().to_owned(),
            retention: "90d".to_owned(),
            config_yaml: "storage: {}\n".to_owned(),
            flags: BTreeMap::from([("query.timeout".to_owned(), "2m".to_owned())]),
            status_url: Some("http://127.0.0.1:8080/".to_owned()),
        },
    };
    let served = served(operations.router(), Limits::default()).await;
    Site { served, login, now, registry, dir }
}

/// Two targets, ten samples each, one every second up to `now`; and a series whose label needs escaping.
fn fill(store: &Store, now: Timestamp) {
    let series = |pairs: &[(&str, &str)]| store.series(&Labels::from_pairs(pairs.iter().copied())).expect("series");
    let mut commit = Commit::default();
    for (i, instance) in ["a", "b"].into_iter().enumerate() {
        let memory = series(&[("__name__", "node_memory_MemTotal_bytes"), ("instance", instance), ("job", "node")]);
        let up = series(&[("__name__", "up"), ("instance", instance), ("job", "node")]);
        for s in 0..10 {
            let at = Timestamp(now.millis() - s * 1000);
            commit.samples.push((memory, at, 1024.0 * (i + 1) as f64));
            commit.samples.push((up, at, (1 - i) as f64));
        }
    }
    let odd = series(&[("A", "ș\"\\\nț"), ("__name__", "odd")]);
    commit.samples.push((odd, now, f64::INFINITY));
    store.commit(commit).expect("commit");
}

#[tokio::test]
async fn remote_write_needs_a_credential_and_answers_as_prometheus_does() {
    let site = site(Exposure::Loopback).await;
    let token = format!("Bearer {}", site.login.token);
    // The snappy frame of an empty message.
    let empty = "\0";
    assert_eq!(site.send("POST", "/api/v1/write", &[], empty).await.status, 401);
    let content = |kind: &'static str| [("Authorization", token.as_str()), ("Content-Type", kind)];
    let one = site.send("POST", "/api/v1/write", &content("application/x-protobuf"), empty).await;
    assert_eq!(one.status, 204, "{one:?}");
    assert!(!one.head.contains("x-prometheus-remote-write"), "{one:?}");
    let v2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    let two = site.send("POST", "/api/v1/write", &content(v2), empty).await;
    assert_eq!(two.status, 204, "{two:?}");
    for kind in ["samples", "histograms", "exemplars"] {
        assert!(two.head.contains(&format!("x-prometheus-remote-write-{kind}-written: 0")), "{two:?}");
    }
    assert_eq!(site.send("POST", "/api/v1/write", &content("text/plain"), empty).await.status, 415);
    assert_eq!(site.send("POST", "/api/v1/write", &content(v2), "no snappy").await.status, 400);
}

#[tokio::test]
async fn who_may_do_what_on_either_listener() {
    let basic = |user: &str, password: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
    };
    for exposure in [Exposure::Loopback, Exposure::Network] {
        let site = site(exposure).await;
        let token = format!("Bearer {}", site.login.token);
        let password = basic("admin", &site.login.password);
        let reading = if exposure == Exposure::Loopback { 200 } else { 401 };
        let unknown = if exposure == Exposure::Loopback { 404 } else { 401 };
        let cases: [(&str, &str, Option<&str>, u16); 20] = [
            ("GET", "/-/healthy", None, 200),
            ("GET", "/-/ready", None, 200),
            ("GET", "/", None, reading),
            ("GET", "/operations.css", None, reading),
            ("GET", "/metrics", None, reading),
            ("GET", "/federate", None, reading),
            ("GET", "/v1/agents", None, reading),
            ("GET", "/api/v1/status/config", None, reading),
            ("POST", "/api/v1/query?query=1", None, reading),
            ("GET", "/nothing/here", None, unknown),
            ("GET", "/metrics", Some(&token), 200),
            ("GET", "/metrics", Some(&password), 200),
            ("GET", "/metrics", Some(&password), 200),
            ("GET", "/nothing/here", Some(&token), 404),
            ("GET", "/metrics", Some("Bearer wrong"), 401),
            ("GET", "/metrics", Some("Bearer "), 401),
            ("GET", "/metrics", Some("Digest x"), 401),
            ("GET", "/metrics", Some("Basic !!!"), 401),
            ("GET", "/metrics", Some(&basic("admin", "wrong")), 401),
            ("GET", "/metrics", Some(&basic("nobody", &site.login.password)), 401),
        ];
        for (method, target, credential, status) in cases {
            let headers: Vec<_> = credential.map(|c| ("Authorization", c)).into_iter().collect();
            let answer = site.send(method, target, &headers, "").await;
            assert_eq!(answer.status, status, "{exposure:?} {method} {target} {credential:?}: {answer:?}");
            if status == 401 {
                assert!(answer.head.contains("www-authenticate: basic"), "{answer:?}");
                assert_eq!(answer.json()["code"], "unauthorized");
            }
        }
        // Two credentials at once are none.
        let both = site.send("GET", "/metrics", &[("Authorization", &token), ("Authorization", "Bearer x")], "").await;
        assert_eq!(both.status, 401);
    }
}

#[tokio::test]
async fn what_changes_something_needs_the_scope_even_on_loopback() {
    let access = Access::new(Ledger::in_memory().expect("ledger"), &Registry::new()).expect("access");
    let dir = tempfile::tempdir().expect("directory");
    let login = access.ensure_first_login(dir.path(), Timestamp(0)).expect("sign-in").expect("first");
    let changing = Router::new().route("/change", post(async || "changed"));
    let router = access.guard(changing, Exposure::Loopback, Need::Credential(Scope::Admin));
    let served = served(router, Limits::default()).await;
    assert_eq!(served.send("POST", "/change", &[], "").await.status, 401);
    let token = format!("Bearer {}", login.token);
    assert_eq!(served.send("POST", "/change", &[("Authorization", &token)], "").await.body, "changed");
}

#[tokio::test]
async fn wrong_passwords_are_slowed_down_and_a_right_one_that_was_known_still_passes() {
    use base64::Engine as _;
    let site = site(Exposure::Network).await;
    let basic = |password: &str| {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("admin:{password}")))
    };
    let right = basic(&site.login.password);
    assert_eq!(site.send("GET", "/metrics", &[("Authorization", &right)], "").await.status, 200);
    let mut statuses = vec![];
    for n in 0..40 {
        statuses.push(site.send("GET", "/metrics", &[("Authorization", &basic(&n.to_string()))], "").await.status);
    }
    assert!(statuses.iter().take(20).all(|s| *s == 401), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(site.send("GET", "/metrics", &[("Authorization", &right)], "").await.status, 200);
}

#[tokio::test]
async fn a_foreign_host_name_a_foreign_site_and_a_long_body_are_refused() {
    let site = site(Exposure::Loopback).await;
    let status = async |method, headers: &[(&str, &str)], body: &str| {
        site.send(method, "/api/v1/query?query=1", headers, body).await.status
    };
    assert_eq!(status("GET", &[("Host", "evil.example")], "").await, 421);
    assert_eq!(status("GET", &[("Host", "veghe.cjtimis.ro:9090")], "").await, 200);
    assert_eq!(status("GET", &[("Host", "127.0.0.1:9090")], "").await, 200);
    assert_eq!(status("POST", &[("Sec-Fetch-Site", "cross-site")], "").await, 403);
    assert_eq!(status("POST", &[("Host", "localhost:1"), ("Origin", "http://evil.example")], "").await, 403);
    assert_eq!(status("POST", &[("Host", "localhost:1"), ("Origin", "http://localhost:1")], "").await, 200);
    assert_eq!(status("POST", &[], &"x".repeat(300 << 10)).await, 413);
    assert_eq!(status("DELETE", &[], "").await, 405);
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let site = site(Exposure::Loopback).await;
    for target in ["/", "/nothing", "/metrics", "/-/healthy", "/api/v1/query"] {
        let answer = site.get(target).await;
        for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "frame-ancestors 'none'"] {
            assert!(answer.head.contains(header), "{target}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_enrols_and_a_wrong_request_hears_why() {
    let site = site(Exposure::Network).await;
    let enrol = async |body: &str| site.send("POST", "/v1/enrol", &[], body).await;
    let admitted = enrol(r#"{"token": "good", "certificate_request": "R"}"#).await;
    assert_eq!((admitted.status, admitted.json()["agent"].as_str()), (200, Some("nas-1")));
    let refused = enrol(r#"{"token": "bad", "certificate_request": "R"}"#).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (403, Some("unknown_token")));
    for wrong in ["", "[]", "{", r#"{"token": 1}"#, r#"{"token": "a", "certificate_request": "", "x": 1}"#] {
        let refused = enrol(wrong).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("bad_request")), "{wrong}");
    }
    assert_eq!(enrol(&"x".repeat(70 << 10)).await.status, 413);
    let mut statuses = vec![];
    for _ in 0..100 {
        statuses.push(enrol("{}").await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

/// What Prometheus 3.5.3 answered to the same requests, recorded.
#[tokio::test]
async fn bad_requests_get_the_answers_of_prometheus() {
    let site = site(Exposure::Loopback).await;
    let recorded = include_str!("tests/prometheus-3.5-errors.txt");
    let mut wrong = vec![];
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let mut parts = line.splitn(3, ' ');
        let (target, status, body) = (parts.next().expect("target"), parts.next().expect("status"), parts.next());
        let answer = site.get(target).await;
        if answer.status.to_string() != status || Some(answer.body.as_str()) != body {
            wrong.push(format!(
                "{target}\n  expected {status} {}\n  got {} {}",
                body.unwrap_or(""),
                answer.status,
                answer.body
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn queries_answer_in_the_form_of_prometheus() {
    let site = site(Exposure::Loopback).await;
    let now = site.now.millis();
    let at = format!("{}.{:03}", now / 1000, now % 1000);
    let shown = async |target: &str| {
        let answer = site.get(target).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let number = serde_json::to_string(&serde_json::from_str::<f64>(&at).expect("number")).expect("number");
        answer.body.replace(&at, "<now>").replace(&number, "<now>")
    };
    insta::assert_snapshot!(shown(&format!("/api/v1/query?query=up&time={at}")).await, @r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","instance":"a","job":"node"},"value":[<now>,"1"]},{"metric":{"__name__":"up","instance":"b","job":"node"},"value":[<now>,"0"]}]}}"#);
    insta::assert_snapshot!(shown(&format!("/api/v1/query?query=up&limit=1&time={at}")).await, @r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","instance":"a","job":"node"},"value":[<now>,"1"]}]},"warnings":["results truncated due to limit"]}"#);
    insta::assert_snapshot!(shown("/api/v1/query?query=-1%2F0&time=4").await, @r#"{"status":"success","data":{"resultType":"scalar","result":[4,"-Inf"]}}"#);
    insta::assert_snapshot!(shown("/api/v1/query_range?query=vector(time())&start=1&end=3&step=1s").await, @r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"],[2,"2"],[3,"3"]]}]}}"#);
    insta::assert_snapshot!(shown("/api/v1/series?match[]=up&match[]=up%7Binstance=%22a%22%7D&match[]=odd").await, @r#"{"status":"success","data":[{"A":"ș\"\\\nț","__name__":"odd"},{"__name__":"up","instance":"a","job":"node"},{"__name__":"up","instance":"b","job":"node"}]}"#);
    insta::assert_snapshot!(shown("/api/v1/series?match[]=up&limit=1").await, @r#"{"status":"success","data":[{"__name__":"up","instance":"a","job":"node"}],"warnings":["results truncated due to limit"]}"#);
    insta::assert_snapshot!(shown("/api/v1/labels").await, @r#"{"status":"success","data":["A","__name__","instance","job"]}"#);
    insta::assert_snapshot!(shown("/api/v1/labels?match[]=up").await, @r#"{"status":"success","data":["__name__","instance","job"]}"#);
    insta::assert_snapshot!(shown("/api/v1/label/instance/values").await, @r#"{"status":"success","data":["a","b"]}"#);
    insta::assert_snapshot!(shown("/api/v1/label/__name__/values").await, @r#"{"status":"success","data":["node_memory_MemTotal_bytes","odd","up"]}"#);
    insta::assert_snapshot!(shown("/api/v1/rules?type=alert").await, @r#"{"status":"success","data":{"groups":[{"file":"host.yml","interval":15,"limit":0,"name":"host","rules":[{"alerts":[],"labels":{"severity":"critical"},"name":"Down","type":"alerting"}]}]}}"#);
    insta::assert_snapshot!("targets", shown("/api/v1/targets").await);
    insta::assert_snapshot!("agents", shown("/v1/agents").await);
    insta::assert_snapshot!(shown("/api/v1/status/flags").await, @r#"{"data":{"query.timeout":"2m"},"status":"success"}"#);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let posted = site.send("POST", "/api/v1/query?time=9&query=2", &form, "query=1&time=4").await;
    insta::assert_snapshot!(posted.body, @r#"{"status":"success","data":{"resultType":"scalar","result":[4,"1"]}}"#);
    insta::assert_snapshot!(shown("/api/v1/query_exemplars?query=up").await, @r#"{"status":"success","data":[]}"#);
    assert_eq!(site.get("/api/v1/query_exemplars?query=up%7B").await.json()["errorType"], "bad_data");
    assert_eq!(site.get("/api/v1/scrape_pools").await.json()["data"]["scrapePools"][0], "agents");
    let of_another_pool = site.get("/api/v1/targets?scrapePool=other").await.json();
    assert_eq!(of_another_pool["data"]["activeTargets"], serde_json::json!([]));
    assert_eq!(site.get("/api/v1/alertmanagers").await.json()["data"]["activeAlertmanagers"], serde_json::json!([]));
    assert_eq!(site.get("/api/v1/status/walreplay").await.json()["data"]["state"], "done");
    for other in ["buildinfo", "runtimeinfo", "config", "tsdb"] {
        assert_eq!(site.get(&format!("/api/v1/status/{other}")).await.json()["status"], "success");
    }
    assert_eq!(site.get("/api/v1/status/tsdb").await.json()["data"]["headStats"]["numSeries"], 5);
}

#[tokio::test]
async fn the_overview_speaks_both_languages_and_escapes_what_it_shows() {
    let site_full = site(Exposure::Loopback).await;
    let romanian = site_full.send("GET", "/", &[("Accept-Language", "ro")], "").await;
    assert!(romanian.head.contains("content-language: ro"), "{romanian:?}");
    insta::assert_snapshot!("overview_ro", romanian.body);
    assert!(!romanian.body.contains("<script") && !romanian.body.contains("archive-<nas>"));
    let empty = site_with(Exposure::Loopback, vec![], vec![]).await;
    insta::assert_snapshot!("overview_empty_en", empty.get("/?lang=en").await.body);
}

/// Debian's promtool, where it is installed.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    if !Path::new("/usr/bin/promtool").exists() {
        eprintln!("promtool is not installed: this part of the test is left out");
        return None;
    }
    let mut child = Command::new("/usr/bin/promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("input");
    let output = child.wait_with_output().expect("promtool ends");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), text))
}

#[tokio::test]
async fn federation_and_own_metrics_are_text_that_promtool_reads() {
    let site = site(Exposure::Loopback).await;
    let federated = site.get("/federate?match[]=%7B__name__=~%22.%2B%22%7D&match[]=up").await;
    assert!(federated.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{federated:?}");
    insta::assert_snapshot!(federated.body.replace(&site.now.millis().to_string(), "<now>"), @r#"
    # HELP node_memory_MemTotal_bytes Memory information field MemTotal_bytes.
    # TYPE node_memory_MemTotal_bytes gauge
    node_memory_MemTotal_bytes{instance="a",job="node",site="timiș"} 1024 <now>
    node_memory_MemTotal_bytes{instance="b",job="node",site="timiș"} 2048 <now>
    # TYPE odd untyped
    odd{A="ș\"\\\nț",instance="",site="timiș"} +Inf <now>
    # HELP up 1 while the agent of this instance reports, 0 once it is overdue.
    # TYPE up gauge
    up{instance="a",job="node",site="timiș"} 1 <now>
    up{instance="b",job="node",site="timiș"} 0 <now>
    "#);
    assert_eq!(site.get("/federate?match[]=%7B%7D").await.body, federated.body);
    assert_eq!(site.get("/federate").await.body, "");
    assert_eq!(site.get("/federate?match[]=up%7B").await.status, 400);
    let own = site.get("/metrics").await;
    assert!(own.body.contains(r#"veghe_http_requests_total{code="200",listener="operations",route="/federate"} 3"#));
    assert!(own.body.contains("process_resident_memory_bytes "));
    assert!(!site.registry.gather().is_empty());
    for text in [&federated.body, &own.body] {
        if let Some((_, said)) = promtool(&["check", "metrics"], text) {
            assert!(!said.contains("error while linting") && !said.contains("parsing"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_queries_the_collector_as_it_would_prometheus() {
    let site = site(Exposure::Loopback).await;
    let url = format!("http://{}", site.address);
    let (start, end) = ((site.now.millis() / 1000 - 5).to_string(), (site.now.millis() / 1000).to_string());
    let range = ["query", "range", "--start", &start, "--end", &end, "--step", "1s", &url, "sum(up)"];
    let cases: [(&[&str], &str); 4] = [
        (&["query", "instant", &url, "sum(node_memory_MemTotal_bytes)"], "=> 3072 @["),
        (&range, "1 @["),
        (&["query", "series", "--match", "up", &url], r#"{__name__="up", instance="a", job="node"}"#),
        (&["query", "labels", &url, "instance"], "a\nb\n"),
    ];
    for (arguments, expected) in cases {
        if let Some((success, said)) = tokio::task::block_in_place(|| promtool(arguments, "")) {
            assert!(success && said.contains(expected), "{arguments:?}: {said}");
        }
    }
    if let Some((success, said)) = tokio::task::block_in_place(|| promtool(&["query", "instant", &url, "up{"], "")) {
        assert!(!success && said.contains("bad_data"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_the_past_are_imported_and_what_is_refused_is_told() {
    let site = site(Exposure::Loopback).await;
    let target = "/api/v1/import/prometheus";
    let text = "past 1 1700000000000\npast{a=\"b\"} 2 1700000000000\n";
    assert_eq!(site.send("POST", target, &[], text).await.status, 401);
    let bearer = format!("Bearer {}", site.login.token);
    let authorized = ("Authorization", bearer.as_str());
    let taken = site.send("POST", target, &[authorized], text).await;
    assert_eq!(taken.status, 200, "{taken:?}");
    insta::assert_snapshot!(taken.body, @r#"{"data":{"droppedExemplars":0,"lines":2,"maxTimeMs":1700000000000,"minTimeMs":1700000000000,"problems":[],"refused":0,"samples":2,"series":2},"status":"success"}"#);
    let found = site.get("/api/v1/query?query=sum(past)&time=1700000001").await;
    assert_eq!(found.json()["data"]["result"][0]["value"][1], "3");
    let seconds = ("Content-Type", "application/openmetrics-text; version=1.0.0");
    let taken = site.send("POST", target, &[authorized, seconds], "past 5 1700000100.5\n# EOF\n").await;
    assert_eq!(taken.json()["data"]["maxTimeMs"], 1_700_000_100_500_i64, "{taken:?}");
    let partly = site.send("POST", target, &[authorized], "past 1 1700000200000\npast{ 1\n").await;
    assert_eq!((partly.status, &partly.json()["data"]["samples"]), (400, &json!(1)));
    assert!(partly.body.contains("line 2 has a brace that does not end"), "{partly:?}");
    let unclear = site.send("POST", target, &[authorized], "past 1 1700000200\n").await;
    assert!(unclear.status == 400 && unclear.body.contains("?format="), "{unclear:?}");
    let format = site.send("POST", "/api/v1/import/prometheus?format=json", &[authorized], "").await;
    assert!(format.status == 400 && format.body.contains("it is auto, prometheus or openmetrics"), "{format:?}");
    let packed = ("Content-Encoding", "br");
    assert_eq!(site.send("POST", target, &[authorized, packed], "").await.status, 415);
    let metrics = site.get("/metrics").await.body;
    for code in ["200", "400", "401", "415"] {
        let counted = format!(
            r#"veghe_http_requests_total{{code="{code}",listener="operations",route="/api/v1/import/prometheus"}}"#
        );
        assert!(metrics.contains(&counted), "{counted}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_breaks_off_stores_whole_lines_only() {
    let site = site(Exposure::Loopback).await;
    let head = format!(
        "POST /api/v1/import/prometheus HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 1000\r\n\r\n",
        site.login.token
    );
    let mut stream = site.connect().await;
    stream.write_all(format!("{head}cut 1 1700000000000\ncut 2 170000001").as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut bytes = vec![];
    drop(stream.read_to_end(&mut bytes).await);
    let found = site.get("/api/v1/query?query=count_over_time(cut[10y])&time=1700000100").await;
    let counted = found.json()["data"]["result"][0]["value"][1].clone();
    // What was read before the end came may be stored or not; half a line never is.
    assert!(counted.is_null() || counted == "1", "{found:?}");
}

#[tokio::test]
async fn rules_are_filtered_and_paged_as_in_prometheus() {
    let site = site(Exposure::Loopback).await;
    let names = async |query: &str| -> Vec<String> {
        let answer = site.get(&format!("/api/v1/rules?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        let json = answer.json();
        let groups = json["data"]["groups"].as_array().expect("groups").clone();
        let names = |group: &serde_json::Value| {
            let rules = group["rules"].as_array().expect("rules").clone();
            rules.iter().map(|rule| rule["name"].as_str().expect("name").to_owned()).collect::<Vec<_>>()
        };
        groups.iter().flat_map(names).collect()
    };
    assert_eq!(names("").await, ["Down", "a:b", "c:d"]);
    assert_eq!(names("type=record").await, ["a:b", "c:d"]);
    assert_eq!(names("rule_name[]=Down&rule_name[]=c:d").await, ["Down", "c:d"]);
    assert_eq!(names("rule_group[]=disk").await, ["c:d"]);
    assert_eq!(names("file[]=host.yml").await, ["Down", "a:b"]);
    assert_eq!(names("match[]=%7Bseverity=%22critical%22%7D").await, ["Down"]);
    assert_eq!(names("rule_group[]=none").await, Vec::<String>::new());
    let bare = site.get("/api/v1/rules?exclude_alerts=true&type=alert").await.json();
    assert!(bare["data"]["groups"][0]["rules"][0]["alerts"].is_null(), "{bare}");
    let first = site.get("/api/v1/rules?group_limit=1").await.json();
    assert_eq!(first["data"]["groups"].as_array().map(Vec::len), Some(1));
    let token = first["data"]["groupNextToken"].as_str().expect("token").to_owned();
    let second = site.get(&format!("/api/v1/rules?group_limit=1&group_next_token={token}")).await.json();
    assert_eq!(
        (&second["data"]["groups"][0]["name"], &second["data"]["groupNextToken"]),
        (&json!("disk"), &json!(null))
    );
    for (query, problem) in [
        ("group_limit=0", "group_limit needs to be greater than 0"),
        ("group_limit=x", "group_limit needs to be a valid number"),
        ("group_next_token=x", "group_limit needs to be present in order to paginate over the groups"),
        ("group_limit=1&group_next_token=x", "invalid group_next_token 'x'. were rule groups changed?"),
        ("exclude_alerts=maybe", "error converting exclude_alerts"),
        ("match[]=%7B", "parse error"),
    ] {
        let answer = site.get(&format!("/api/v1/rules?{query}")).await;
        assert!(answer.status == 400 && answer.body.contains(problem), "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn lists_bounds_and_names_are_those_of_prometheus_3() {
    let site = site(Exposure::Loopback).await;
    let at = site.now.seconds();
    let get = async |target: &str| {
        let answer = site.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.json()["data"].clone()
    };
    assert_eq!(get("/api/v1/label/U__instance/values").await, json!(["a", "b"]));
    assert_eq!(get("/api/v1/label/U__jo_62_/values?limit=1").await, json!(["node"]));
    assert_eq!(get("/api/v1/label/a-b/values").await, json!([]));
    let memory = get("/api/v1/metadata?metric=node_memory_MemTotal_bytes&limit_per_metric=1").await;
    assert_eq!(memory["node_memory_MemTotal_bytes"][0]["type"], "gauge");
    assert_eq!(get("/api/v1/metadata?limit=0").await, json!({}));
    let answer = site.get("/api/v1/metadata?limit=x").await;
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("limit must be a number")));
    let of_target = get("/api/v1/targets/metadata?match_target=%7Binstance=%22a%22%7D&metric=up").await;
    assert_eq!(of_target.as_array().map(Vec::len), Some(1), "{of_target}");
    assert_eq!(of_target[0]["target"], json!({"instance": "a", "job": "node"}));
    assert_eq!(get("/api/v1/targets/metadata?limit=1").await[0]["metric"], "node_memory_MemTotal_bytes");
    assert_eq!(get("/api/v1/notifications").await, json!([]));
    let late = at + 100.0;
    let query = format!("/api/v1/query?query=count(up)&time={late}");
    assert_eq!(get(&query).await["result"][0]["value"][1], "2");
    assert_eq!(get(&format!("{query}&lookback_delta=60")).await["result"], json!([]));
    let wrong = site.get("/api/v1/query?query=1&lookback_delta=x").await;
    let problem = "error parsing lookback delta duration: cannot parse \"x\" to a valid duration";
    assert_eq!((wrong.status, &wrong.json()["error"]), (400, &json!(problem)));
    let told = get(&format!("/api/v1/query?query=up&time={at}&stats=all")).await["stats"].clone();
    assert!(told["samples"]["totalQueryableSamples"].as_u64() >= Some(2), "{told}");
    assert!(told["timings"]["execTotalTime"].as_f64() > Some(0.0), "{told}");
    assert_eq!(told["samples"]["totalQueryableSamplesPerStep"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(get("/api/v1/format_query?query=sum(up)by(job)").await, "sum by (job) (up)");
    let tree = get("/api/v1/parse_query?query=sum(up)").await;
    assert_eq!((&tree["type"], &tree["op"]), (&json!("aggregation"), &json!("sum")), "{tree}");
    let wrong = site.get("/api/v1/parse_query?query=sum(").await.json();
    assert!(wrong["error"].as_str().is_some_and(|e| e.starts_with("invalid parameter \"query\": ")), "{wrong}");
    assert_eq!(site.send("HEAD", "/api/v1/query?query=1", &[], "").await.status, 200);
}

#[tokio::test]
async fn only_named_origins_may_read_and_answers_are_packed() {
    let site = site(Exposure::Loopback).await;
    let grafana = ("Origin", "https://grafana.example");
    let query = "/api/v1/query?query=1";
    let answer = site.send("GET", query, &[grafana], "").await;
    assert!(answer.head.contains("access-control-allow-origin: https://grafana.example"), "{answer:?}");
    assert!(answer.head.contains("vary: origin"), "{answer:?}");
    let evil = site.send("GET", query, &[("Origin", "https://evil.example")], "").await;
    assert!(!evil.head.contains("access-control-allow"), "{evil:?}");
    assert!(evil.head.contains("cross-origin-resource-policy: same-origin"), "{evil:?}");
    let cross = ("Sec-Fetch-Site", "cross-site");
    assert_eq!(site.send("POST", query, &[grafana, cross], "").await.status, 200);
    assert_eq!(site.send("POST", query, &[("Origin", "https://evil.example"), cross], "").await.status, 403);
    // What changes something stays shut to other sites, also with the credential that a browser sends along.
    let bearer = format!("Bearer {}", site.login.token);
    for path in ["admin/tsdb/delete_series?match[]=up", "admin/tsdb/clean_tombstones", "import/prometheus", "write"] {
        let path = format!("/api/v1/{path}");
        let answer = site.send("POST", &path, &[grafana, cross, ("Authorization", &bearer)], "").await;
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
    }
    let asked = site.send("OPTIONS", "/api/v1/query", &[grafana], "").await;
    assert_eq!((asked.status, asked.body.as_str()), (204, ""));
    assert!(asked.head.contains("access-control-allow-methods: get, post, options"), "{asked:?}");
    let page = site.send("GET", "/", &[grafana], "").await;
    assert!(!page.head.contains("access-control-allow"), "{page:?}");
    let packed = site.send("GET", "/metrics", &[("Accept-Encoding", "gzip")], "").await;
    assert!(packed.head.contains("content-encoding: gzip"), "{packed:?}");
}

#[tokio::test]
async fn rules_are_read_again_for_an_administrator_and_nobody_ends_the_collector_from_afar() {
    let site = site(Exposure::Loopback).await;
    assert_eq!(site.send("POST", "/-/reload", &[], "").await.status, 401);
    let bearer = format!("Bearer {}", site.login.token);
    assert_eq!(site.send("GET", "/-/reload", &[("Authorization", &bearer)], "").await.status, 405);
    let answer = site.send("POST", "/-/reload", &[("Authorization", &bearer)], "").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "failed to reload config: host.yml is gone\n"));
    let quit = site.send("POST", "/-/quit", &[("Authorization", &bearer)], "").await;
    assert_eq!((quit.status, quit.body.as_str()), (403, "Lifecycle API is not enabled.\n"));
}

#[tokio::test]
async fn events_of_the_digitization_need_a_token_and_are_told_one_by_one() {
    let site = site(Exposure::Loopback).await;
    let path = "/v1/digitization/events";
    let event = |id: &str, frames: i64| {
        json!({"specversion": "1.0", "type": "ro.cjt.digi.v1.image.captured", "source": "//cjt/station/S02", "id": id,
            "time": "2026-05-14T08:12:31.402Z", "data": {"unit": "U-1", "frames": frames}})
    };
    let kind = ("content-type", "application/cloudevents-batch+json");
    let body = json!([event("1", 2), event("2", -2), event("1", 2)]).to_string();
    assert_eq!(site.served.send("POST", path, &[kind], &body).await.status, 401);
    let bearer = format!("Bearer {}", site.login.token);
    let sent = site.served.send("POST", path, &[kind, ("authorization", &bearer)], &body).await;
    assert_eq!(sent.status, 422, "{sent:?}");
    let answer = sent.json();
    assert_eq!((&answer["accepted"], &answer["repeated"], &answer["quarantined"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(answer["refused"][0]["index"], 1);
    assert_eq!(answer["refused"][0]["errors"][0]["field"], "data.frames");
    for (kind, body, status) in [
        ("application/cloudevents+json", event("3", 1).to_string(), 200),
        ("application/cloudevents+json", "{".to_owned(), 400),
        ("text/plain", event("4", 1).to_string(), 415),
    ] {
        let headers = [("content-type", kind), ("authorization", bearer.as_str())];
        assert_eq!(site.served.send("POST", path, &headers, &body).await.status, status, "{kind} {body}");
    }
    let large = " ".repeat((16 << 20) + 1);
    assert_eq!(site.served.send("POST", path, &[kind, ("authorization", &bearer)], &large).await.status, 413);
}

#[tokio::test]
async fn the_announced_archive_is_done_on_12_november_2026() {
    let site = site(Exposure::Loopback).await;
    let answer = site.served.get("/v1/digitization/what-if?from=2026-03-02&pages=900000&per_day=5000").await;
    assert_eq!((answer.status, &answer.json()["finish"]), (200, &json!("2026-11-12")));
    let wrong = site.served.get("/v1/digitization/what-if?from=soon&pages=x&per_day=0").await;
    assert_eq!((wrong.status, wrong.json()["errors"].as_array().map(Vec::len)), (400, Some(3)), "{wrong:?}");
}

#[tokio::test]
async fn the_pages_of_the_digitization_show_the_project_in_both_languages() {
    let site = site(Exposure::Loopback).await;
    let empty = site.served.get("/digitization?lang=ro").await;
    assert!(empty.status == 200 && empty.body.contains("Încă nu există un inventar"), "{empty:?}");
    let bearer = format!("Bearer {}", site.login.token);
    let event = |id: &str, kind: &str, data: serde_json::Value| {
        json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": "//cjt/station/S02", "id": id,
            "time": "2026-05-14T08:12:31Z", "data": data})
    };
    let unit = |code: &str| json!({"unit": code, "leaves": 100, "width_mm": 31, "title": "Autorizații <b>"});
    let events = json!([
        event("1", "inventory.declared", unit("U/1")),
        event("2", "inventory.declared", unit("U-2")),
        event("3", "image.captured", json!({"unit": "U-2", "frames": 150})),
        event("4", "unit.stage", json!({"unit": "U-2", "stage": "scan", "change": "exit"})),
        event("5", "qc.result", json!({"unit": "U-2", "outcome": "accepted"})),
        event("6", "custody.moved", json!({"unit": "U-2", "to": "D1/R04", "due": "2026-05-15T00:00:00Z"})),
    ]);
    let headers = [("content-type", "application/cloudevents-batch+json"), ("authorization", bearer.as_str())];
    let sent = site.served.send("POST", "/v1/digitization/events", &headers, &events.to_string()).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    let page = site.served.get("/digitization?lang=ro").await;
    assert!(page.body.contains("0,0 din 0,062 m înapoi la raft") && page.body.contains("lang=\"ro\""), "{page:?}");
    let page = site.served.get("/digitization?lang=en").await;
    assert!(page.body.contains("0.0 of 0.062 m returned to shelf") && page.body.contains("U-2"), "{page:?}");
    assert!(!page.body.contains("<script") && !page.body.contains("style="), "{page:?}");
    let found = site.served.get("/digitization/units?lang=en&q=autoriza%C8%9Bii").await;
    assert!(found.body.contains("U-2") && found.body.contains("Autorizații &#60;b&#62;"), "{found:?}");
    assert!(found.body.contains("/digitization/units/U%2F1"), "{found:?}");
    let history = site.served.get("/digitization/units/U-2?lang=en").await;
    assert!(history.body.contains("New images") && history.body.contains("images 150"), "{history:?}");
    assert_eq!(site.served.get("/digitization/units/U%2F1").await.status, 200);
    assert_eq!(site.served.get("/digitization/units/none").await.status, 404);
    let project = site.served.get("/v1/digitization/project").await.json();
    assert_eq!((&project["progress"]["accepted"]["units"], &project["progress"]["images"]), (&json!(1), &json!(150)));
    assert_eq!(project["progress"]["overdue"][0]["unit"], "U-2");
    let unit = site.served.get("/v1/digitization/units/U-2").await.json();
    assert_eq!((unit["events"].as_array().map(Vec::len), &unit["place"]), (Some(5), &json!("D1/R04")));
    let first = site.served.get("/v1/digitization/units?limit=1").await.json();
    assert_eq!(first["next"], "U-2");
    assert_eq!(
        site.served.get("/v1/digitization/units?stage=limbo&limit=0").await.json()["errors"].as_array().map(Vec::len),
        Some(2)
    );
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let freeze = async |body: &str| site.served.send("POST", "/v1/digitization/freeze", &headers, body).await;
    assert_eq!(freeze(r#"{"through": "2026-05-31"}"#).await.json()["frozen_through"], "2026-05-31");
    assert_eq!(freeze(r#"{"through": "2099-05-31"}"#).await.status, 400);
    assert_eq!(freeze(r#"{"trough": "2026-05-31"}"#).await.status, 400);
}

#[tokio::test]
async fn reports_of_the_digitization_are_read_by_anybody_here_and_frozen_with_a_credential() {
    let site = site(Exposure::Loopback).await;
    let bearer = format!("Bearer {}", site.login.token);
    let event = |id: &str, kind: &str, data: serde_json::Value| {
        json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": "//cjt/station/S02", "id": id,
            "time": "2026-05-14T08:12:31Z", "data": data})
    };
    let empty = site.served.get("/digitization/reports?lang=ro").await;
    assert!(empty.body.contains("Încă nu există niciun raport înghețat"), "{empty:?}");
    let send = async |path: &str, kind: &str, body: &str, is_known: bool| {
        let headers = [("content-type", kind), ("authorization", bearer.as_str())];
        site.served.send("POST", path, &headers[..=usize::from(is_known)], body).await
    };
    let path = "/v1/digitization/reports";
    let body = r#"{"period": "2026-05"}"#;
    assert_eq!(send(path, "application/json", body, false).await.status, 401);
    let none = send(path, "application/json", body, true).await;
    assert!(none.status == 400 && none.body.contains("no inventory yet"), "{none:?}");
    let events = json!([
        event("1", "inventory.declared", json!({"unit": "U-1", "leaves": 100, "width_mm": 31})),
        event("2", "image.captured", json!({"unit": "U-1", "frames": 150})),
    ]);
    let kind = "application/cloudevents-batch+json";
    assert_eq!(send("/v1/digitization/events", kind, &events.to_string(), true).await.status, 200);
    let draft = site.served.get("/digitization/reports/2026-05?lang=en").await;
    assert!(
        draft.body.contains("Draft, not frozen yet.") && draft.body.contains("Monthly report, May 2026"),
        "{draft:?}"
    );
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send("/digitization/reports", form, "period=2026-05", false).await.status, 401);
    let made = send("/digitization/reports", form, "period=2026-05", true).await;
    assert!(made.status == 303 && made.head.contains("location: /digitization/reports/2026-05"), "{made:?}");
    for wrong in [r#"{"period": "2098-05"}"#, r#"{"period": "May"}"#, r#"{"periode": "2026-05"}"#] {
        assert_eq!(send(path, "application/json", wrong, true).await.status, 400, "{wrong}");
    }
    let again = send(path, "application/json", body, true).await.json();
    let listed = site.served.get(path).await.json();
    assert_eq!((&listed["reports"][0]["digest"], &listed["verified"]["last"]), (&again["digest"], &again["digest"]));
    assert_eq!(again["figures"]["captured"], 150);
    let page = site.served.get("/digitization/reports/2026-05?lang=ro").await;
    assert!(
        page.body.contains(again["digest"].as_str().expect("digest")) && !page.body.contains("<script"),
        "{page:?}"
    );
    for (name, media_type) in
        [("2026-05.xlsx", "spreadsheetml.sheet"), ("2026-05.csv", "text/csv"), ("2026-05.json", "json")]
    {
        let file = site.served.get(&format!("/digitization/reports/{name}?lang=en")).await;
        assert!(file.status == 200 && file.head.contains(media_type), "{name}: {}", file.head);
    }
    for missing in ["/digitization/reports/May", "/digitization/reports/2026-05.exe"] {
        assert_eq!(site.served.get(missing).await.status, 404);
    }
    let journal =
        site.served.get("/v1/digitization/journal?day=2026-05-14&kind=image.captured&station=S02").await.json();
    assert_eq!(
        (journal["events"].as_array().map(Vec::len), &journal["events"][0]["data"]["frames"]),
        (Some(1), &json!(150))
    );
    assert_eq!(site.served.get("/v1/digitization/journal?day=2026-05-13").await.json()["events"], json!([]));
    let events = site.served.get("/digitization/events?day=2026-05-14&lang=en").await;
    assert!(
        events.body.contains("image.captured") && events.body.contains("/digitization/units/U-1?lang=en"),
        "{events:?}"
    );
    assert_eq!(site.served.get("/v1/digitization/journal?day=yesterday").await.status, 400);
}

#[tokio::test]
async fn lots_stations_and_fixity_have_pages_and_answers_in_both_languages() {
    let site = site(Exposure::Loopback).await;
    let bearer = format!("Bearer {}", site.login.token);
    let event = |id: &str, kind: &str, data: serde_json::Value| {
        json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": "//cjt/station/S02", "id": id,
            "time": "2026-05-14T08:12:31Z", "data": data})
    };
    let pages = ["stations", "quality", "fixity", "events", "reports"];
    for page in pages {
        let empty = site.served.get(&format!("/digitization/{page}?lang=ro")).await;
        assert!(empty.status == 200 && empty.body.contains("lang=\"ro\""), "{page}: {empty:?}");
    }
    let unit = json!({"unit": "U-1", "leaves": 100, "width_mm": 31, "batch": "L/1", "location": "D1/R04/P2"});
    let events = json!([
        event("1", "inventory.declared", unit),
        event("2", "image.captured", json!({"unit": "U-1", "frames": 150, "blank": 2})),
        event("3", "target.measured", json!({"station": "S02", "passed": false, "delta_e_mean": 4.5})),
        event("4", "target.measured", json!({"station": "S02", "passed": true, "delta_e_mean": 2.5})),
        event(
            "5",
            "fixity.checked",
            json!({"storage": "nas-1", "outcome": "mismatch", "object": "a/<b>.tif", "good_copy": "nas-2"})
        ),
    ]);
    let send = async |path: &str, kind: &str, body: &str| {
        let headers = [("content-type", kind), ("authorization", bearer.as_str())];
        site.served.send("POST", path, &headers, body).await
    };
    assert_eq!(
        send("/v1/digitization/events", "application/cloudevents-batch+json", &events.to_string()).await.status,
        200
    );
    let drawn = send("/v1/digitization/lots", "application/json", r#"{"batch": "L/1", "aql": "1.0"}"#).await;
    assert_eq!(
        (drawn.status, &drawn.json()["sample"], &drawn.json()["reject"]),
        (200, &json!(13), &json!(1)),
        "{drawn:?}"
    );
    let path = "/digitization/lots/L%2F1";
    let minutes = site.served.get(&format!("{path}?lang=en")).await;
    let seed = drawn.json()["seed"].as_str().expect("seed").to_owned();
    assert!(minutes.body.contains(&seed) && minutes.body.contains("Minutes of acceptance, batch L/1"), "{minutes:?}");
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send("/digitization/lots/verdict", form, "batch=L%2F1&defects=2&reason=no+word").await.status, 400);
    let judged = send("/digitization/lots/verdict?lang=en", form, "batch=L%2F1&defects=2&reason=skew").await;
    assert!(judged.status == 303 && judged.head.contains("location: /digitization/lots/l%2f1?lang=en"), "{judged:?}");
    let lot = site.served.get("/v1/digitization/lots/L%2F1").await.json();
    assert_eq!((&lot["verdict"]["is_accepted"], &lot["verdict"]["reason"]), (&json!(false), &json!("skew")));
    assert_eq!(
        site.served.send("POST", "/v1/digitization/lots", &[("content-type", "application/json")], "{}").await.status,
        401
    );
    assert_eq!(site.served.get("/digitization/lots/none").await.status, 404);
    let quality = site.served.get("/digitization/quality?lang=en").await;
    assert!(quality.body.contains("blank page") && quality.body.contains("rejected (2)"), "{quality:?}");
    let stations = site.served.get("/digitization/stations?lang=en").await;
    assert!(
        stations.body.contains("within tolerance, ΔE 2.5") && stations.body.contains("class=\"spark\""),
        "{stations:?}"
    );
    let fixity = site.served.get("/digitization/fixity?lang=ro").await;
    assert!(
        fixity.body.contains("Un obiect nu mai este cum era") && fixity.body.contains("a/&#60;b&#62;.tif"),
        "{fixity:?}"
    );
    assert_eq!(site.served.get("/v1/digitization/fixity").await.json()["damaged"][0]["good_copy"], "nas-2");
    assert_eq!(site.served.get("/v1/digitization/flow").await.json()["shelves"][0]["name"], "D1/R04");
    assert_eq!(site.served.get("/v1/digitization/quality").await.json()["strata"][0]["faults"][0]["fault"], "blank");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_deletes_series_and_nobody_else() {
    let site = site(Exposure::Loopback).await;
    let target = "/api/v1/admin/tsdb/delete_series?match[]=odd";
    assert_eq!(site.send("POST", target, &[], "").await.status, 401);
    let bearer = format!("Bearer {}", site.login.token);
    let authorized = [("Authorization", bearer.as_str())];
    let bare = site.send("POST", "/api/v1/admin/tsdb/delete_series", &authorized, "").await;
    assert_eq!((bare.status, &bare.json()["error"]), (400, &json!("no match[] parameter provided")));
    let count =
        async || site.get("/api/v1/query?query=count(odd)").await.json()["data"]["result"][0]["value"][1].clone();
    assert_eq!(count().await, "1");
    assert_eq!(site.send("POST", target, &authorized, "").await.status, 204);
    assert_eq!(count().await, json!(null));
    assert_eq!(site.send("POST", "/api/v1/admin/tsdb/clean_tombstones", &authorized, "").await.status, 204);
    assert_eq!(site.get("/api/v1/query?query=count(up)").await.json()["data"]["result"][0]["value"][1], "2");
}

#[tokio::test]
async fn a_snapshot_is_a_backup_that_restores_and_only_an_administrator_makes_one() {
    let site = site(Exposure::Loopback).await;
    let token = format!("Bearer {}", site.login.token);
    let authorized = [("Authorization", token.as_str())];
    let target = "/api/v1/admin/tsdb/snapshot";
    assert_eq!(site.send("POST", target, &[], "").await.status, 401);
    let wrong = site.send("POST", "/api/v1/admin/tsdb/snapshot?skip_head=maybe", &authorized, "").await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let made = site.send("POST", "/api/v1/admin/tsdb/snapshot?skip_head=false", &authorized, "").await;
    assert_eq!(made.status, 200, "{made:?}");
    let answer: serde_json::Value = serde_json::from_str(&made.body).expect("JSON");
    let name = answer["data"]["name"].as_str().expect("name");
    assert!(name.len() == 33 && name.as_bytes()[8] == b'T' && name.as_bytes()[16] == b'-', "{name}");
    let dir = site.dir.path().join("snapshots").join(name);
    let new = site.dir.path().join("new");
    crate::backup::restore(&dir, &new, &mut |_| std::ops::ControlFlow::Continue(())).expect("restored");
    let options = Options { dir: new.join("tsdb"), window: Duration::from_hours(2), max_series: 1000 };
    let (restored, _) = Store::open(options).expect("store");
    let found = restored.select(&[], Timestamp::MIN, Timestamp::MAX).expect("select");
    assert_eq!(found.len(), 5);
    // The next one does not hold the first.
    let second = site.send("PUT", target, &authorized, "").await;
    let second: serde_json::Value = serde_json::from_str(&second.body).expect("JSON");
    let second = site.dir.path().join("snapshots").join(second["data"]["name"].as_str().expect("name"));
    assert!(second.join("data/tsdb").is_dir() && !second.join("data/snapshots").exists());
}

#[tokio::test]
async fn the_head_is_told_of_as_prometheus_3_does() {
    let site = site(Exposure::Loopback).await;
    let answer = site.send("GET", "/api/v1/status/tsdb?limit=1", &[], "").await;
    let answer: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let head = &answer["data"]["headStats"];
    assert_eq!(head["numSeries"], 5);
    assert_eq!(head["chunkCount"], 5, "one run of raw samples a series");
    assert_eq!(head["maxTime"], site.now.millis());
    assert_eq!(head["minTime"], site.now.millis() - 9_000);
    assert_eq!(answer["data"]["seriesCountByMetricName"].as_array().map(Vec::len), Some(1));
}
