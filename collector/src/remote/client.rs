//! One attempt to hand over a request, and what its answer means (`storage/remote/client.go`).
//!
//! Invariants: neither secrets nor the address' query appear in messages; redirects are not followed, so that credentials
//! go nowhere else. What it deliberately does not do: repeat (`sender`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Identity, RequestBuilder, StatusCode, redirect};
use veghe_model::Timestamp;

use super::Protocol;
use super::settings::{Credentials, Target};
use crate::{clock, secret};

/// What is read of an answer, for messages.
const MAX_ANSWER_BYTES: usize = 1 << 10;
/// The longest wait that a target may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The target has it: all, or as many samples as it says.
    Taken {
        /// As protocol 2.0 tells it.
        written: Option<u64>,
    },
    /// It does not want it, and would not later either.
    Refused {
        /// What it said.
        why: String,
        /// As protocol 2.0 tells it: some may have been taken.
        written: Option<u64>,
        /// Whether it may be one part of the request that it does not want.
        in_part: bool,
    },
    /// It may take it later.
    Later {
        /// What is wrong.
        why: String,
        /// How long it asks to wait.
        after: Option<Duration>,
    },
}

/// Speaks to one target.
pub(super) struct Client {
    target: Arc<Target>,
    /// Made at the first attempt, and anew after a connection failed: certificates may have been renewed.
    http: Mutex<Option<reqwest::Client>>,
}

impl Client {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, http: Mutex::new(None) }
    }

    /// Sends `body` once; `retries` tells how many attempts were before.
    pub(super) async fn post(&self, body: Bytes, retries: u32) -> Answer {
        match self.attempt(body, retries).await {
            Ok(answer) => answer,
            Err(why) => {
                *self.http.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Answer::Later { why, after: None }
            }
        }
    }

    async fn attempt(&self, body: Bytes, retries: u32) -> Result<Answer, String> {
        let known = self.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let http = match known {
            Some(http) => http,
            None => self.connect().await?,
        };
        let target = &self.target;
        let (content_type, version) = match target.protocol {
            Protocol::Version1 => ("application/x-protobuf", "0.1.0"),
            Protocol::Version2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        let mut request = http
            .post(target.url.clone())
            .header("content-type", content_type)
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", version)
            .body(body);
        for (name, value) in &target.headers {
            request = request.header(name, value);
        }
        if retries > 0 {
            request = request.header("retry-attempt", retries);
        }
        let mut response = self.prove(request).await?.send().await.map_err(chain)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut text = Vec::new();
        while text.len() < MAX_ANSWER_BYTES {
            // The status says it already; what else it says is only for messages.
            let Ok(Some(piece)) = response.chunk().await else { break };
            text.extend_from_slice(&piece);
        }
        text.truncate(MAX_ANSWER_BYTES);
        Ok(judge(status, &headers, String::from_utf8_lossy(&text).trim(), clock::now()))
    }

    async fn prove(&self, request: RequestBuilder) -> Result<RequestBuilder, String> {
        let read = async |path| secret::read(path).await.map_err(chain);
        Ok(match &self.target.credentials {
            None => request,
            Some(Credentials::Bearer(file)) => request.bearer_auth(read(file).await?),
            Some(Credentials::Basic { username, password_file }) => {
                request.basic_auth(username, Some(read(password_file).await?))
            }
        })
    }

    async fn connect(&self) -> Result<reqwest::Client, String> {
        let target = &self.target;
        let mut builder = reqwest::Client::builder()
            .timeout(target.timeout)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("veghe-collector/", env!("CARGO_PKG_VERSION")));
        let read = async |path: &std::path::Path| {
            let read = tokio::fs::read(path).await;
            read.map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        if let Some(path) = &target.ca_file {
            let certificates = Certificate::from_pem_bundle(&read(path).await?).map_err(chain)?;
            builder = builder.tls_certs_only(certificates);
        } else if target.url.scheme() == "http" {
            // Then a system without certificates is no reason to fail.
            builder = builder.tls_certs_only([]);
        }
        if let Some((certificate, key)) = &target.certificate {
            let mut pem = read(key).await?;
            pem.push(b'\n');
            pem.extend(read(certificate).await?);
            builder = builder.identity(Identity::from_pem(&pem).map_err(chain)?);
        }
        let http = builder.build().map_err(chain)?;
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(http.clone());
        Ok(http)
    }
}

/// What an answer means: as in Prometheus 5xx and 429 are repeated, other 4xx are not. Also repeated are 408, and what
/// speaks of the way to the target rather than of the samples, which someone at the target or here will mend: redirects,
/// 401 and 403 (a token that expired), 404 and 405 (an address that is not ready yet, or written wrong). Prometheus gives
/// such samples up; here they stay within the bound of the backlog.
fn judge(status: StatusCode, headers: &HeaderMap, text: &str, now: Timestamp) -> Answer {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let written = header("x-prometheus-remote-write-samples-written").and_then(|text| text.trim().parse().ok());
    let why = if text.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {text}") };
    match status {
        status if status.is_success() => Answer::Taken { written },
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::UNAUTHORIZED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED => {
            Answer::Later { why, after: header(RETRY_AFTER.as_str()).and_then(|text| retry_after(text, now)) }
        }
        status if status.is_client_error() => {
            let in_part = matches!(
                status,
                StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
            );
            Answer::Refused { why, written, in_part }
        }
        status if status.is_redirection() => {
            Answer::Later { why: format!("{why}: redirects are not followed, write the final address"), after: None }
        }
        _ => Answer::Later { why, after: header(RETRY_AFTER.as_str()).and_then(|text| retry_after(text, now)) },
    }
}

/// `Retry-After`: seconds, or a moment.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = if let Ok(seconds) = text.trim().parse() {
        Duration::from_secs(seconds)
    } else {
        let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
        Timestamp(at.as_millisecond()).since(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// An error with its causes, without the address.
fn chain(error: impl Into<Failure>) -> String {
    let error = error.into().0;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self(error.without_url().into())
    }
}

impl From<secret::SecretError> for Failure {
    fn from(error: secret::SecretError) -> Self {
        Self(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, header: Option<(&'static str, &str)>) -> Answer {
        let now = Timestamp(1_445_412_420_000); // Wed, 21 Oct 2015 07:27:00 GMT
        let headers =
            header.into_iter().map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value")));
        judge(StatusCode::from_u16(status).expect("status"), &headers.collect(), "", now)
    }

    #[test]
    fn answers_mean_what_they_mean_to_prometheus() {
        let later = |answer| matches!(answer, Answer::Later { .. });
        assert_eq!(judged(204, None), Answer::Taken { written: None });
        assert_eq!(
            judged(200, Some(("x-prometheus-remote-write-samples-written", "7"))),
            Answer::Taken { written: Some(7) }
        );
        assert!(
            [500, 502, 503, 408, 429, 401, 403, 404, 405, 407, 301, 308]
                .into_iter()
                .all(|status| later(judged(status, None)))
        );
        for (status, parts) in [(400, true), (413, true), (422, true), (409, false), (410, false), (415, false)] {
            assert!(matches!(judged(status, None), Answer::Refused { in_part, .. } if in_part == parts), "{status}");
        }
        for (text, seconds) in
            [("120", 120), ("Wed, 21 Oct 2015 07:28:00 GMT", 60), ("Wed, 21 Oct 2015 07:00:00 GMT", 0), ("86400", 3600)]
        {
            let answer = judged(503, Some(("retry-after", text)));
            let Answer::Later { after, .. } = answer else { panic!("{text}: {answer:?}") };
            assert_eq!(after, Some(Duration::from_secs(seconds)), "{text}");
        }
        assert!(matches!(judged(429, Some(("retry-after", "soon"))), Answer::Later { after: None, .. }));
    }
}
