//! Enrolment against a small server: what is written, and whom the token is never shown to.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to say what went wrong")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use veghe_agent::config::Config;
use veghe_agent::identity::Identity;
use veghe_agent::join::{Existing, JoinError, join};
use veghe_agent::tls::fingerprint;
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse, Token};

struct Authority {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Veghe CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    fn token(&self) -> Token {
        Token { agent: "scan-1".parse().unwrap(), secret: [7; 16], ca_fingerprint: fingerprint(&self.der) }
    }

    fn answer(&self, body: &[u8]) -> String {
        let request: EnrolmentRequest = serde_json::from_slice(body).unwrap();
        assert_eq!(request.token, self.token().to_string());
        let mut csr = CertificateSigningRequestParams::from_pem(&request.certificate_request).unwrap();
        csr.params.distinguished_name.push(DnType::CommonName, "scan-1");
        let answer = EnrolmentResponse {
            agent: "scan-1".into(),
            certificate: csr.signed_by(&self.issuer).unwrap().pem(),
            ca_certificate: self.pem.clone(),
            mqtt_url: None,
            mqtt_port: 8883,
        };
        serde_json::to_string(&answer).unwrap()
    }
}

/// Answers one request with what `answer` makes of its body; the result is whether one came.
async fn serve_one(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    status: &str,
    answer: impl FnOnce(&[u8]) -> String,
) -> bool {
    let mut data = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.unwrap_or(0);
        if count == 0 {
            return false;
        }
        data.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&data).to_lowercase();
        let Some(head) = text.find("\r\n\r\n") else { continue };
        let length = text.split("content-length: ").nth(1).and_then(|t| t.split("\r\n").next()).unwrap();
        if data.len() < head + 4 + length.parse::<usize>().unwrap() {
            continue;
        }
        assert!(text.starts_with("post /v1/enrol http/1.1\r\n"), "{text}");
        let body = answer(&data[head + 4..]);
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream.shutdown().await.ok();
        return true;
    }
}

async fn plain_server(
    status: &'static str,
    answer: impl FnOnce(&[u8]) -> String + Send + 'static,
) -> (u16, JoinHandle<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move { serve_one(listener.accept().await.unwrap().0, status, answer).await };
    (port, TaskTracker::new().spawn(serve))
}

async fn tls_server(authority: Arc<Authority>) -> (u16, JoinHandle<bool>) {
    let mut params = CertificateParams::new(vec![veghe_wire::COLLECTOR_SERVER_NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "veghe-collector");
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &authority.issuer).unwrap();
    let chain = vec![leaf.der().clone(), CertificateDer::from(authority.der.clone())];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        let stream = listener.accept().await.unwrap().0;
        match tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            Ok(stream) => serve_one(stream, "200 OK", |body| authority.answer(body)).await,
            Err(_) => false,
        }
    };
    (port, TaskTracker::new().spawn(serve))
}

fn is_enrolled(state_dir: &Path) {
    let identity = Identity::load(state_dir).unwrap();
    assert_eq!(identity.agent.as_str(), "scan-1");
    let config = Config::load(&state_dir.join("agent.yaml")).unwrap();
    assert_eq!(config.mqtt.to_string(), "mqtts://127.0.0.1:8883");
    for name in ["agent.key", "agent.crt", "ca.crt", "agent.yaml"] {
        let mode = fs::metadata(state_dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn over_loopback_a_token_becomes_an_identity_and_settings_and_a_second_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let authority = Arc::new(Authority::new());
    let (port, _server) = plain_server("200 OK", {
        let authority = Arc::clone(&authority);
        move |body| authority.answer(body)
    })
    .await;
    let url = format!("http://127.0.0.1:{port}");
    join(&url, &authority.token(), &state_dir, Existing::Keep).await.unwrap();
    is_enrolled(&state_dir);
    let error = join(&url, &authority.token(), &state_dir, Existing::Keep).await.unwrap_err();
    assert!(matches!(error, JoinError::Exists { .. }), "{error}");
    let key = fs::read(state_dir.join("agent.key")).unwrap();
    let (port, _server) = tls_server(Arc::clone(&authority)).await;
    join(&format!("https://127.0.0.1:{port}"), &authority.token(), &state_dir, Existing::Replace).await.unwrap();
    is_enrolled(&state_dir);
    assert_ne!(fs::read(state_dir.join("agent.key")).unwrap(), key);
}

#[tokio::test]
async fn a_server_without_the_pinned_ca_never_sees_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let (port, server) = tls_server(Arc::new(Authority::new())).await;
    let token = Authority::new().token();
    let error = join(&format!("https://127.0.0.1:{port}"), &token, dir.path(), Existing::Keep).await.unwrap_err();
    assert!(matches!(error, JoinError::Untrusted { .. }), "{error}");
    assert!(!server.await.unwrap(), "a request was sent");
    let error = join("http://veghe.cjtimis.ro", &token, dir.path(), Existing::Keep).await.unwrap_err();
    assert!(matches!(error, JoinError::Url { .. }) && error.to_string().contains("plain HTTP"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn another_ca_in_the_answer_and_a_refusal_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let token = authority.token();
    let (port, _server) = plain_server("200 OK", move |body| {
        let mut answer: EnrolmentResponse = serde_json::from_str(&authority.answer(body)).unwrap();
        answer.ca_certificate = Authority::new().pem;
        serde_json::to_string(&answer).unwrap()
    })
    .await;
    let error = join(&format!("http://localhost:{port}"), &token, dir.path(), Existing::Keep).await.unwrap_err();
    assert!(error.to_string().contains("fingerprint"), "{error}");
    let (port, _server) =
        plain_server("403 Forbidden", |_| r#"{"code":"token_used","message":"the token was used already"}"#.into())
            .await;
    let error = join(&format!("http://127.0.0.1:{port}"), &token, dir.path(), Existing::Keep).await.unwrap_err();
    assert_eq!(error.to_string(), "the collector refuses the enrolment (403): the token was used already");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_program_reads_a_token_from_stdin_and_never_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let authority = Arc::new(Authority::new());
    let token = authority.token().to_string();
    let enrol = |port: u16, input: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veghe-agent"));
        command.args(["join", &format!("http://127.0.0.1:{port}"), "--token", "-", "--state-dir"]).arg(&state_dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
    };
    let garbage = enrol(1, "no token\n".to_owned()).await.unwrap();
    assert_eq!(garbage.status.code(), Some(64), "{}", String::from_utf8_lossy(&garbage.stderr));
    assert!(!state_dir.exists());

    let (port, server) = plain_server("200 OK", {
        let authority = Arc::clone(&authority);
        move |body| authority.answer(body)
    })
    .await;
    let output = enrol(port, format!("{token}\n")).await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(server.await.unwrap());
    is_enrolled(&state_dir);
    assert!(told.contains("Enrolled as scan-1") && !told.contains(&token), "{told}");

    let again = enrol(port, format!("{token}\n")).await.unwrap();
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(64), "{told}");
    assert!(told.contains("--force") && !told.contains(&token), "{told}");
}
