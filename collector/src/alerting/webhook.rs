//! Notifications by HTTP, in the JSON that Alertmanager posts (version "4").
//!
//! Invariants: neither the token nor the address' path and query appear in errors and logs; redirects are not followed,
//! so that a token goes nowhere else. What it deliberately does not do: retry (`delivery`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode, redirect};
use serde::Serialize;
use url::Url;
use veghe_model::Timestamp;

use super::delivery::SendError;
use super::notify::{Message, Notice};

/// A receiver of JSON.
#[derive(Clone)]
pub struct Settings {
    /// Where to post; `http` or `https`.
    pub url: Url,
    /// A file that holds a bearer token; read at each attempt, so that it may be renewed.
    pub bearer_token_file: Option<PathBuf>,
    /// PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one attempt may take; 10 s.
    pub timeout: Duration,
}

impl Settings {
    /// A receiver at `url` without token.
    pub fn new(url: Url) -> Self {
        Self { url, bearer_token_file: None, ca_file: None, timeout: Duration::from_secs(10) }
    }
}

/// Without the parts of the address that often hold secrets.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.url.host_str())
            .field("bearer_token_file", &self.bearer_token_file)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    receiver: &'a str,
    status: &'a str,
    alerts: Vec<PayloadAlert<'a>>,
    group_labels: &'a BTreeMap<String, String>,
    common_labels: BTreeMap<&'a str, &'a str>,
    common_annotations: BTreeMap<&'a str, &'a str>,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    version: &'a str,
    group_key: &'a str,
    truncated_alerts: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PayloadAlert<'a> {
    status: &'a str,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: String,
}

/// The body that is posted.
pub(super) fn body(receiver: &str, message: &Message, external_url: &str) -> Vec<u8> {
    let payload = Payload {
        receiver,
        status: message.status(),
        alerts: message.alerts.iter().map(payload_alert).collect(),
        group_labels: &message.group_labels,
        common_labels: message.common(|alert| &alert.labels),
        common_annotations: message.common(|alert| &alert.annotations),
        external_url,
        version: "4",
        group_key: &message.group_key,
        truncated_alerts: message.truncated,
    };
    serde_json::to_vec(&payload).expect("invariant: maps of text become JSON")
}

fn payload_alert(alert: &Notice) -> PayloadAlert<'_> {
    PayloadAlert {
        status: if alert.ends_ms.is_none() { "firing" } else { "resolved" },
        labels: &alert.labels,
        annotations: &alert.annotations,
        starts_at: rfc3339(Timestamp(alert.starts_ms)),
        // Go's zero time: Alertmanager's word for "not ended".
        ends_at: alert.ends_ms.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |ms| rfc3339(Timestamp(ms))),
        generator_url: &alert.generator_url,
        fingerprint: format!("{:016x}", alert.fingerprint),
    }
}

/// `at` as RFC 3339 in UTC with milliseconds.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let clamped = at.0.clamp(jiff::Timestamp::MIN.as_millisecond(), jiff::Timestamp::MAX.as_millisecond());
    jiff::Timestamp::from_millisecond(clamped)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

/// Posts `message`.
///
/// # Errors
/// [`SendError::Refused`] for answers 4xx but 408 and 429, otherwise [`SendError::Unavailable`].
pub(super) async fn send(
    settings: &Settings,
    receiver: &str,
    message: &Message,
    external_url: &str,
) -> Result<String, SendError> {
    let client = client(settings).await?;
    let mut request = client.post(settings.url.clone()).header("content-type", "application/json").body(body(
        receiver,
        message,
        external_url,
    ));
    if let Some(path) = &settings.bearer_token_file {
        let token = super::delivery::read_secret(path).await?;
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(unavailable)?;
    let status = response.status();
    let text = format!("HTTP {}", status.as_u16());
    match status {
        status if status.is_success() => Ok(text),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(SendError::Unavailable(text)),
        status if status.is_client_error() => Err(SendError::Refused(text)),
        _ => Err(SendError::Unavailable(text)),
    }
}

async fn client(settings: &Settings) -> Result<Client, SendError> {
    let mut builder = Client::builder()
        .timeout(settings.timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("veghe-collector/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &settings.ca_file {
        let pem = tokio::fs::read(path)
            .await
            .map_err(|error| SendError::Unavailable(format!("cannot read {}: {error}", path.display())))?;
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(unavailable)?);
    } else if settings.url.scheme() == "http" {
        // Then a system without certificates is no reason to fail.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(unavailable)
}

fn unavailable(error: reqwest::Error) -> SendError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    SendError::Unavailable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_alertmanagers_version_4() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let alert = |instance: &str, ends_ms| Notice {
            fingerprint: 0xab,
            labels: map(&[("alertname", "A"), ("instance", instance)]),
            annotations: map(&[("summary", "s")]),
            starts_ms: 1_700_000_000_000,
            ends_ms,
            generator_url: "http://v/graph".to_owned(),
        };
        let message = Message {
            group_key: r#"{}:{alertname="A"}"#.to_owned(),
            group_labels: map(&[("alertname", "A")]),
            alerts: vec![alert("x", None), alert("y", Some(1_700_000_060_500))],
            truncated: 3,
            test: false,
        };
        let found: serde_json::Value = serde_json::from_slice(&body("ops", &message, "http://v")).expect("JSON");
        assert_eq!(
            found,
            serde_json::json!({
                "receiver": "ops", "status": "firing", "version": "4", "groupKey": "{}:{alertname=\"A\"}",
                "truncatedAlerts": 3, "externalURL": "http://v",
                "groupLabels": {"alertname": "A"}, "commonLabels": {"alertname": "A"}, "commonAnnotations": {"summary": "s"},
                "alerts": [
                    {"status": "firing", "labels": {"alertname": "A", "instance": "x"}, "annotations": {"summary": "s"},
                     "startsAt": "2023-11-14T22:13:20.000Z", "endsAt": "0001-01-01T00:00:00Z",
                     "generatorURL": "http://v/graph", "fingerprint": "00000000000000ab"},
                    {"status": "resolved", "labels": {"alertname": "A", "instance": "y"}, "annotations": {"summary": "s"},
                     "startsAt": "2023-11-14T22:13:20.000Z", "endsAt": "2023-11-14T22:14:20.500Z",
                     "generatorURL": "http://v/graph", "fingerprint": "00000000000000ab"},
                ],
            })
        );
    }

    #[test]
    fn settings_do_not_show_where_a_token_may_hide() {
        let settings = Settings::new(Url::parse("https://hooks.example/T000/secret?token=abc").expect("url"));
        let text = format!("{settings:?}");
        assert!(text.contains("hooks.example") && !text.contains("secret") && !text.contains("abc"), "{text}");
    }
}
