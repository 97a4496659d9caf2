//! Enrolment: a one-time token becomes a key, a certificate and a first configuration.
//!
//! Invariants: the token leaves the machine only towards the holder of the CA whose fingerprint it contains, or over
//! loopback; an existing enrolment stays as it is unless told otherwise; the configuration is written last, so that
//! its presence means that all the rest is there. What it deliberately does not do: run the agent.

use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use url::Url;
use veghe_wire::AgentId;
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse, Token, to_hex};

use crate::config;
use crate::identity::{self, IdentityError, KeyRequest};
use crate::system::Private as _;
use crate::tls::{self, Pin};

const PATIENCE: Duration = Duration::from_secs(30);
/// A certificate, a CA and some words.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What to do with an enrolment that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Keep,
    /// Replace it, configuration included. The spool stays.
    Replace,
}

/// Why a machine can't be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// See the variant's text.
    #[error("{} is enrolled already; `--force` replaces that enrolment", state_dir.display())]
    Exists {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// Not an address to enrol at.
    #[error("cannot enrol at {url}: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The state directory can't be made.
    #[error("cannot create {}", path.display())]
    CreateDir {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The collector can't be reached.
    #[error("cannot connect to {host}:{port}")]
    Connect {
        /// Host of the address.
        host: String,
        /// Its port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// Whoever answers is not the collector of the token.
    #[error("cannot trust the server at {host}:{port}; it does not show the CA that the token was made by")]
    Untrusted {
        /// Host of the address.
        host: String,
        /// Its port.
        port: u16,
        /// What TLS says.
        source: io::Error,
    },
    /// TLS can't be set up at all.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The exchange broke off.
    #[error("cannot exchange the enrolment with the collector")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("cannot enrol: the collector did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The collector says no.
    #[error("the collector refuses the enrolment ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The collector says yes, but with something else than it should.
    #[error("cannot use the collector's answer: {reason}")]
    Answer {
        /// What is wrong.
        reason: String,
    },
    /// Key or files.
    #[error("cannot keep the enrolment")]
    Keep(#[from] IdentityError),
}

/// Enrols this machine at the collector's `url` with `token` into `state_dir`. Returns who it now is.
///
/// # Errors
/// See [`JoinError`]; nothing is written before the collector has agreed.
pub async fn join(url: &str, token: &Token, state_dir: &Path, existing: Existing) -> Result<AgentId, JoinError> {
    let target = Target::parse(url)?;
    let is_enrolled = identity::FILES.iter().copied().chain([config::FILE]).any(|name| state_dir.join(name).exists());
    if is_enrolled && existing == Existing::Keep {
        return Err(JoinError::Exists { state_dir: state_dir.to_owned() });
    }
    let request = KeyRequest::new(&token.agent)?;
    let body = EnrolmentRequest { token: token.to_string(), certificate_request: request.request.clone() };
    let body = serde_json::to_vec(&body).map_err(|error| JoinError::Exchange(error.into()))?;
    let exchange = target.post(token, body);
    let (status, answer) = tokio::time::timeout(PATIENCE, exchange).await.or(Err(JoinError::Timeout))??;
    if status != StatusCode::OK && status != StatusCode::CREATED {
        return Err(JoinError::Refused { status: status.as_u16(), message: refusal(&answer) });
    }
    let unusable = |reason: String| JoinError::Answer { reason };
    let answer: EnrolmentResponse =
        serde_json::from_slice(&answer).map_err(|error| unusable(format!("it is not the expected JSON: {error}")))?;
    let ca = CertificateDer::from_pem_slice(answer.ca_certificate.as_bytes())
        .map_err(|error| unusable(format!("the CA certificate is not PEM: {error}")))?;
    if tls::fingerprint(&ca) != token.ca_fingerprint {
        return Err(unusable(format!(
            "the CA certificate has fingerprint {}, the token says {}",
            to_hex(&tls::fingerprint(&ca)),
            to_hex(&token.ca_fingerprint)
        )));
    }
    let agent: AgentId = answer.agent.parse().map_err(|error| unusable(format!("{error}")))?;
    if agent != token.agent {
        return Err(unusable(format!("it is for agent {agent}, the token for {}", token.agent)));
    }
    let mqtt = answer.mqtt_url.unwrap_or_else(|| format!("mqtts://{}:{}", target.url_host(), answer.mqtt_port));
    config::parse_mqtt_url(&mqtt).map_err(unusable)?;

    let created = DirBuilder::new().recursive(true).private().create(state_dir);
    created.map_err(|source| JoinError::CreateDir { path: state_dir.to_owned(), source })?;
    identity::write_atomically(&state_dir.join(identity::CA), answer.ca_certificate.as_bytes())?;
    identity::replace(state_dir, &agent, &request, &answer.certificate)?;
    identity::write_atomically(&state_dir.join(config::FILE), config::first(&agent, &mqtt).as_bytes())?;
    Ok(agent)
}

/// What the collector says in its error body, or the body itself, cut short.
fn refusal(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json.get("message")).and_then(|message| message.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Where to enrol.
#[derive(Debug)]
struct Target {
    url: Url,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Target {
    fn parse(given: &str) -> Result<Self, JoinError> {
        let wrong = |reason| JoinError::Url { url: given.to_owned(), reason };
        let url =
            Url::parse(given).or(Err(wrong("it is not a URL; write for example `https://veghe.cjtimis.ro:9090`")))?;
        let is_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("it begins neither with `https://` nor with `http://`")),
        };
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        if !is_tls && !is_loopback(&host) {
            return Err(wrong(
                "plain HTTP would show the token to the network; use `https://`, or `http://` only on the collector's own machine",
            ));
        }
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(Self { url, host, port, is_tls })
    }

    fn url_host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    async fn post(&self, token: &Token, body: Vec<u8>) -> Result<(StatusCode, Vec<u8>), JoinError> {
        let (host, port) = (self.host.clone(), self.port);
        let stream = TcpStream::connect((host.as_str(), port)).await;
        let stream = stream.map_err(|source| JoinError::Connect { host: host.clone(), port, source })?;
        if !self.is_tls {
            return self.exchange(TokioIo::new(stream), body).await;
        }
        let config = tls::client_config(Pin::Fingerprint(token.ca_fingerprint), None).map_err(JoinError::Tls)?;
        // The collector may show people another certificate than agents; by this name it knows who asks.
        let name = ServerName::try_from(veghe_wire::COLLECTOR_SERVER_NAME)
            .or(Err(JoinError::Url { url: self.url.to_string(), reason: "no TLS handshake is possible with it" }))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|source| JoinError::Untrusted { host, port, source })?;
        self.exchange(TokioIo::new(stream), body).await
    }

    async fn exchange<S>(&self, stream: S, body: Vec<u8>) -> Result<(StatusCode, Vec<u8>), JoinError>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let failed = |error: hyper::Error| JoinError::Exchange(error.into());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(failed)?;
        let path = format!("{}/v1/enrol", self.url.path().trim_end_matches('/'));
        let request = Request::post(path)
            .header("host", format!("{}:{}", self.url_host(), self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| JoinError::Exchange(error.into()))?;
        let conversation = async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(JoinError::Exchange)?.to_bytes().to_vec()))
        };
        // The connection's own end is told by the conversation, which fails with it.
        tokio::pin!(conversation);
        tokio::select! {
            result = &mut conversation => result,
            _ended = connection => conversation.await,
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
