//! Delivery against real servers: HTTP by axum and over TLS, mail by a small server that speaks SMTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::delivery::{Channel, Courier, Receiver, Retry};
use super::journal::{Due, Journal, NotificationOutcome};
use super::metrics::AlertingMetrics;
use super::notify::{Entry, GroupKey, Message, Notice, Outgoing};
use super::{mail, webhook};
use crate::clock;
use crate::ledger::Ledger;

const HOUR: Duration = Duration::from_hours(1);

fn message(name: &str) -> Message {
    let map = |n: &str, v: &str| BTreeMap::from([(n.to_owned(), v.to_owned())]);
    Message {
        group_key: format!("{{}}:{{alertname={name:?}}}"),
        group_labels: map("alertname", name),
        alerts: vec![Notice {
            fingerprint: 7,
            labels: map("alertname", name),
            annotations: map("summary", "Memoria și discul"),
            starts_ms: clock::now().0,
            ends_ms: None,
            generator_url: String::new(),
        }],
        truncated: 0,
        test: false,
    }
}

fn queue(journal: &Journal, name: &str, limit: usize) -> Vec<String> {
    let message = message(name);
    let key = GroupKey { receiver: "ops".to_owned(), group: message.group_key.clone() };
    let entry = Entry { notified_ms: 0, group_labels: BTreeMap::new(), firing: message.alerts.clone() };
    let outgoing = Outgoing { key, message: Some(message), entry: Some(entry) };
    journal.enqueue(&[outgoing], clock::now(), limit).expect("queued")
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: AlertingMetrics,
}

impl Running {
    fn start(journal: &Journal, channel: Channel) -> Self {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let metrics = AlertingMetrics::register(&prometheus::Registry::new()).expect("metrics");
        let courier = Courier {
            receiver: Receiver { name: "ops".to_owned(), channel },
            journal: journal.clone(),
            retry: Retry { first: Duration::from_millis(20), longest: Duration::from_millis(100), ..Retry::default() },
            external_url: "http://veghe.example".to_owned(),
            metrics: metrics.clone(),
            bell: Arc::new(Notify::new()),
        };
        tasks.spawn(courier.run(stop.clone()));
        Self { stop, tasks, metrics }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Waits until the log has `count` entries and gives their outcomes, oldest first.
async fn outcomes(journal: &Journal, count: usize) -> Vec<NotificationOutcome> {
    loop {
        let log = journal.notifications(100).expect("log");
        if log.len() >= count {
            return log.iter().rev().map(|record| record.outcome).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn http(
    answer: impl Fn(usize) -> Option<StatusCode> + Send + Sync + Clone + 'static,
) -> (Url, mpsc::Receiver<(HeaderMap, serde_json::Value)>) {
    let (seen, requests) = mpsc::channel(64);
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let handler = move |headers: HeaderMap, axum::Json(body): axum::Json<serde_json::Value>| {
        let nth = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (answer, seen) = (answer(nth), seen.clone());
        async move {
            seen.send((headers, body)).await.expect("the test listens");
            match answer {
                Some(status) => status,
                None => std::future::pending().await,
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/hook/secret?token=hidden", listener.local_addr().expect("address"));
    let app = axum::Router::new().route("/hook/secret", axum::routing::post(handler));
    TaskTracker::new().spawn(async move { axum::serve(listener, app).await });
    (Url::parse(&url).expect("url"), requests)
}

pub(super) fn hook(url: Url) -> webhook::Settings {
    webhook::Settings { timeout: Duration::from_millis(300), ..webhook::Settings::new(url) }
}

#[tokio::test]
async fn a_server_that_fails_then_hangs_then_accepts_gets_the_message_and_every_attempt_is_logged() {
    let (url, mut requests) = http(|nth| match nth {
        0 => Some(StatusCode::INTERNAL_SERVER_ERROR),
        1 => Some(StatusCode::TOO_MANY_REQUESTS),
        2 => None,
        _ => Some(StatusCode::NO_CONTENT),
    })
    .await;
    let journal = Journal::new(Ledger::in_memory().expect("ledger"));
    queue(&journal, "A", 10);
    let running = Running::start(&journal, Channel::Webhook(hook(url)));
    let (retry, delivered) = (NotificationOutcome::Retry, NotificationOutcome::Delivered);
    assert_eq!(outcomes(&journal, 4).await, [retry, retry, retry, delivered]);
    for _ in 0..4 {
        let (_, body) = requests.recv().await.expect("a request");
        assert_eq!((body["version"].as_str(), body["status"].as_str()), (Some("4"), Some("firing")));
    }
    assert!(requests.try_recv().is_err());
    assert!(matches!(journal.next_due("ops", clock::now(), HOUR).expect("outbox"), Due::Nothing));
    let log = journal.notifications(10).expect("log");
    assert_eq!(log.iter().rev().map(|r| r.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(log.iter().all(|r| !r.detail.contains("secret") && !r.detail.contains("hidden")), "{log:?}");
    assert_eq!(running.metrics.notifications.with_label_values(&["ops", "retry"]).get(), 3.0);
    running.stop().await;
}

#[tokio::test]
async fn a_message_survives_a_restart_and_a_server_that_is_not_there() {
    let dir = tempfile::tempdir().expect("directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let url = Url::parse(&format!("http://{address}/")).expect("url");
    let open = || Journal::new(Ledger::open(&dir.path().join("ledger")).expect("ledger"));
    let journal = open();
    queue(&journal, "A", 10);
    let running = Running::start(&journal, Channel::Webhook(hook(url)));
    outcomes(&journal, 1).await;
    running.stop().await;
    drop(journal);

    let (url, mut requests) = http(|_| Some(StatusCode::OK)).await;
    let journal = open();
    let running = Running::start(&journal, Channel::Webhook(hook(url)));
    let (_, body) = requests.recv().await.expect("the message");
    assert_eq!(body["alerts"][0]["labels"]["alertname"], "A");
    running.stop().await;
    assert!(matches!(journal.next_due("ops", clock::now(), HOUR).expect("outbox"), Due::Nothing));
}

#[tokio::test]
async fn a_refusal_is_final_and_does_not_hold_up_others() {
    let (url, mut requests) = http(|nth| Some(if nth == 0 { StatusCode::BAD_REQUEST } else { StatusCode::OK })).await;
    let journal = Journal::new(Ledger::in_memory().expect("ledger"));
    queue(&journal, "A", 10);
    queue(&journal, "B", 10);
    let running = Running::start(&journal, Channel::Webhook(hook(url)));
    assert_eq!(outcomes(&journal, 2).await, [NotificationOutcome::Failed, NotificationOutcome::Delivered]);
    requests.recv().await.expect("refused");
    let (_, body) = requests.recv().await.expect("taken");
    assert_eq!(body["alerts"][0]["labels"]["alertname"], "B");
    running.stop().await;
}

#[test]
fn a_full_queue_drops_the_oldest_and_says_so() {
    let journal = Journal::new(Ledger::in_memory().expect("ledger"));
    let dropped: Vec<usize> = ["A", "B", "C"].into_iter().map(|name| queue(&journal, name, 2).len()).collect();
    assert_eq!(dropped, [0, 0, 1]);
    assert_eq!(journal.waiting("ops").expect("outbox"), 2);
    let log = journal.notifications(10).expect("log");
    assert_eq!((log[0].outcome, log[0].subject.as_str()), (NotificationOutcome::Dropped, "[FIRING:1] A"));
}

#[test]
fn messages_of_one_group_go_in_order_and_others_do_not_wait() {
    let journal = Journal::new(Ledger::in_memory().expect("ledger"));
    for name in ["A", "A", "B"] {
        queue(&journal, name, 10);
    }
    let now = clock::now().saturating_add(Duration::from_secs(1));
    let due = |journal: &Journal| match journal.next_due("ops", now, HOUR).expect("outbox") {
        Due::Now(queued) => *queued,
        other => panic!("{other:?}"),
    };
    let first = due(&journal);
    let record = first.message.record("ops", now, 1, NotificationOutcome::Retry, "");
    let later = now.saturating_add(Duration::from_mins(1));
    journal.finish_attempt(&first, "ops", &record, Some(later)).expect("logged");
    let second = due(&journal);
    assert_eq!((first.id, second.id, second.message.group_labels["alertname"].as_str()), (1, 3, "B"));
    // The receiver is back: what waits is due at once.
    let record = second.message.record("ops", now, 1, NotificationOutcome::Delivered, "");
    journal.finish_attempt(&second, "ops", &record, None).expect("logged");
    assert_eq!(due(&journal).id, 1);
}

struct Tls {
    config: Arc<rustls::ServerConfig>,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
}

fn tls() -> Tls {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let dir = tempfile::tempdir().expect("directory");
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, made.cert.pem()).expect("file");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("configuration");
    Tls { config: Arc::new(config), ca_file, _dir: dir }
}

#[tokio::test]
async fn a_webhook_over_tls_trusts_only_its_authority_and_carries_the_token() {
    let tls = tls();
    let token_file = tls.ca_file.with_file_name("token");
    std::fs::write(&token_file, "s3cret\n").expect("file");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.config));
    let (seen, mut requests) = mpsc::channel(8);
    TaskTracker::new().spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            // A client that does not trust us goes away here.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.expect("head") > 0 {}
            let length =
                head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ").map(str::to_owned));
            let mut body = vec![0; length.expect("length").parse().expect("number")];
            stream.read_exact(&mut body).await.expect("body");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("answer");
            stream.flush().await.expect("answer");
            seen.send(head).await.expect("the test listens");
        }
    });
    let url = Url::parse(&format!("https://localhost:{port}/")).expect("url");
    let trusting = webhook::Settings {
        bearer_token_file: Some(token_file),
        ca_file: Some(tls.ca_file.clone()),
        timeout: Duration::from_secs(10),
        ..webhook::Settings::new(url.clone())
    };
    let answer = webhook::send(&trusting, "ops", &message("A"), "http://v").await;
    assert_eq!(answer, Ok("HTTP 200".to_owned()));
    let head = requests.recv().await.expect("request");
    assert!(head.to_lowercase().contains("authorization: bearer s3cret\r\n"), "{head}");

    let strange = self::tls();
    let other = webhook::Settings { ca_file: Some(strange.ca_file.clone()), ..webhook::Settings::new(url) };
    let refused = webhook::send(&other, "ops", &message("A"), "http://v").await.expect_err("not trusted");
    assert!(refused.to_string().contains("certificate"), "{refused}");
}

/// What an SMTP session said, and the mail.
#[derive(Debug)]
struct Session {
    commands: Vec<String>,
    data: String,
}

/// One SMTP session; `rcpt` is the answer to recipients.
async fn smtp_session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    greet: bool,
    offers: &str,
    rcpt: &str,
    session: &mut Session,
) -> Option<S> {
    let mut stream = BufReader::new(stream);
    if greet {
        stream.write_all(b"220 test ESMTP\r\n").await.ok()?;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let command = line.trim_end().to_owned();
        let verb = command.split([' ', ':']).next().unwrap_or_default().to_uppercase();
        session.commands.push(command);
        let answer = match verb.as_str() {
            "EHLO" => format!("250-test\r\n{offers}250 8BITMIME\r\n"),
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await.ok()?;
                return Some(stream.into_inner());
            }
            "AUTH" => "235 welcome\r\n".to_owned(),
            "RCPT" => rcpt.to_owned(),
            "DATA" => {
                stream.write_all(b"354 speak\r\n").await.ok()?;
                while !session.data.ends_with("\r\n.\r\n") {
                    stream.read_line(&mut session.data).await.ok()?;
                }
                "250 taken\r\n".to_owned()
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await.ok()?;
                return None;
            }
            _ => "250 ok\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// A mail server whose `rcpt` answers are given one per session, the last for ever.
async fn smtp(tls: Option<Arc<rustls::ServerConfig>>, rcpt: &'static [&'static str]) -> (u16, mpsc::Receiver<Session>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (seen, sessions) = mpsc::channel(16);
    TaskTracker::new().spawn(async move {
        for nth in 0.. {
            let (stream, _) = listener.accept().await.expect("accept");
            let rcpt = rcpt[nth.min(rcpt.len() - 1)];
            let mut session = Session { commands: Vec::new(), data: String::new() };
            let offers = if tls.is_some() { "250-STARTTLS\r\n" } else { "250-AUTH PLAIN\r\n" };
            let upgraded = smtp_session(stream, true, offers, rcpt, &mut session).await;
            if let (Some(stream), Some(config)) = (upgraded, &tls) {
                let stream = tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(stream).await.expect("TLS");
                session.commands.push("(TLS)".to_owned());
                smtp_session(stream, false, "250-AUTH PLAIN\r\n", rcpt, &mut session).await;
            }
            seen.send(session).await.expect("the test listens");
        }
    });
    (port, sessions)
}

fn mailbox(host: &str, port: u16, security: mail::Security) -> mail::Settings {
    let to = vec!["IT <it@county.example>".to_owned(), "duty@county.example".to_owned()];
    mail::Settings { port, security, ..mail::Settings::new(host, "Veghe <veghe@county.example>", to) }
}

#[tokio::test]
async fn a_mail_is_tried_again_after_a_temporary_refusal() {
    let (port, mut sessions) = smtp(None, &["451 later\r\n", "250 ok\r\n"]).await;
    let journal = Journal::new(Ledger::in_memory().expect("ledger"));
    queue(&journal, "HostDiskFull", 10);
    let settings = mail::Settings {
        language: mail::Language::Romanian,
        ..mailbox("127.0.0.1", port, mail::Security::PlainLoopback)
    };
    let running = Running::start(&journal, Channel::Mail(settings));
    assert_eq!(outcomes(&journal, 2).await, [NotificationOutcome::Retry, NotificationOutcome::Delivered]);
    let first = sessions.recv().await.expect("session");
    assert_eq!(first.data, "");
    let second = sessions.recv().await.expect("session");
    let recipients: Vec<&String> = second.commands.iter().filter(|c| c.starts_with("RCPT")).collect();
    assert_eq!(recipients.len(), 2);
    for part in [
        "From: Veghe <veghe@county.example>",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(second.data.contains(part), "{part}: {}", second.data);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_mail_that_is_refused_for_good_is_not_repeated() {
    let (port, _sessions) = smtp(None, &["550 no such user\r\n"]).await;
    let journal = Journal::new(Ledger::in_memory().expect("ledger"));
    queue(&journal, "A", 10);
    let running = Running::start(&journal, Channel::Mail(mailbox("127.0.0.1", port, mail::Security::PlainLoopback)));
    assert_eq!(outcomes(&journal, 1).await, [NotificationOutcome::Failed]);
    assert!(matches!(journal.next_due("ops", clock::now(), HOUR).expect("outbox"), Due::Nothing));
    running.stop().await;
}

#[tokio::test]
async fn a_password_goes_only_over_tls() {
    let tls = tls();
    let (port, mut sessions) = smtp(Some(Arc::clone(&tls.config)), &["250 ok\r\n"]).await;
    let password_file = tls.ca_file.with_file_name("password");
    std::fs::write(&password_file, "pässword\n").expect("file");
    let settings = mail::Settings {
        username: Some("veghe".to_owned()),
        password_file: Some(password_file),
        ca_file: Some(tls.ca_file.clone()),
        ..mailbox("localhost", port, mail::Security::StartTls)
    };
    mail::send(&settings, &message("A"), "http://v").await.expect("sent");
    let session = sessions.recv().await.expect("session");
    let position = |what: &str| session.commands.iter().position(|c| c.starts_with(what));
    assert!(position("(TLS)").is_some() && position("(TLS)") < position("AUTH"), "{:?}", session.commands);
    assert!(session.data.contains("Subject: [FIRING:1] A"), "{}", session.data);

    // A server without STARTTLS gets neither password nor mail.
    let (port, _plain) = smtp(None, &["250 ok\r\n"]).await;
    let refused = mail::send(&mail::Settings { port, ..settings }, &message("A"), "http://v").await;
    assert!(refused.is_err());
    let remote = mailbox("mail.example", 25, mail::Security::PlainLoopback);
    assert!(mail::send(&remote, &message("A"), "http://v").await.is_err());
}
