//! What every request passes through on either listener, whoever sent it: counting, security headers, the check of
//! the `Host` header, refusal of cross-site writes, and the bound on bodies.
//!
//! What it deliberately does not do: ask who the client is (`access`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::Refusal;
use super::cors::AllowedOrigin;
use super::server::Arrival;
use crate::clock;

/// How many requests came and how long they took, by listener, route and status code.
#[derive(Clone)]
pub struct HttpMetrics {
    closed: IntCounterVec,
    pub(super) remote_write_dropped: IntCounterVec,
    pub(super) remote_write_partial: IntCounter,
    requests: IntCounterVec,
    duration: HistogramVec,
}

impl HttpMetrics {
    /// Registers the metrics; both listeners share them.
    ///
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("veghe_http_requests_total", "HTTP requests answered."),
            &["listener", "route", "code"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "veghe_http_request_duration_seconds",
                "Time from the end of a request's head to the beginning of its response.",
            )
            .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0]),
            &["listener", "route"],
        )?;
        let closed = IntCounterVec::new(
            Opts::new(
                "veghe_http_connections_closed_total",
                "Connections that ended for want of places: silent ones that gave way, new ones while all were busy.",
            ),
            &["listener", "reason"],
        )?;
        let remote_write_dropped = IntCounterVec::new(
            Opts::new(
                "veghe_remote_write_receiver_dropped_total",
                "What remote writes held that is not kept: exemplars and native histograms.",
            ),
            &["kind"],
        )?;
        for kind in ["exemplar", "histogram"] {
            remote_write_dropped.with_label_values(&[kind]);
        }
        let remote_write_partial = IntCounter::new(
            "veghe_remote_write_receiver_partial_total",
            "Remote writes that were refused in part: what was wrong with them is in the answer.",
        )?;
        registry.register(Box::new(remote_write_dropped.clone()))?;
        registry.register(Box::new(remote_write_partial.clone()))?;
        registry.register(Box::new(closed.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self { closed, remote_write_dropped, remote_write_partial, requests, duration })
    }

    /// The counters of connections for one listener.
    pub fn connections(&self, listener: &str) -> ConnectionMetrics {
        ConnectionMetrics {
            silent: self.closed.with_label_values(&[listener, "silent"]),
            busy: self.closed.with_label_values(&[listener, "busy"]),
        }
    }
}

/// Connections of one listener that ended for want of places.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    /// Silent ones that gave way to a new one.
    pub(super) silent: IntCounter,
    /// New ones that came while every place had a request in progress.
    pub(super) busy: IntCounter,
}

/// Which `Host` headers a listener answers to. A page of a foreign site whose name was made to resolve to our address
/// (DNS rebinding) still sends the foreign name.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// Any: the listener is public or asks everybody for a credential.
    Any,
    /// Address literals, `localhost`, names below it, and these names.
    LocalAnd(Vec<String>),
}

/// How a listener guards its routes.
#[derive(Clone)]
pub struct Guard {
    /// Its name in metrics: `operations` or `status`.
    pub listener: &'static str,
    /// Where to count.
    pub metrics: HttpMetrics,
    /// Which `Host` headers it answers to.
    pub hosts: Hosts,
    /// What it takes of bodies.
    pub bodies: Bodies,
}

/// What a listener takes of the bodies of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// This many bytes, read whole before a handler sees them. Larger ones get 413.
    AtMost(usize),
    /// As they come, for a handler that bounds memory and patience by itself.
    Streamed,
}

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Scripts never, everything else only from here.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; \
    form-action 'self'; frame-ancestors 'none'";

impl Guard {
    /// `router` behind this guard. To be called last, once all routes and the fallback are there.
    pub fn around(self, router: Router) -> Router {
        let counted = self.clone();
        counted.counting(self.checking(router))
    }

    /// The part of the guard that reads requests. Whoever stands outside of it decides before a body is read.
    pub(super) fn checking(self, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::new(self), check))
    }

    /// The part of the guard that counts, whatever became of a request, and adds the security headers.
    pub(super) fn counting(self, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::new(self), count))
    }

    async fn check(&self, request: Request) -> Result<Request, Refusal> {
        self.check_host(&request)?;
        if request.extensions().get::<AllowedOrigin>().is_none() {
            check_origin(request.method(), request.headers())?;
        }
        self.read_body(request).await
    }

    fn check_host(&self, request: &Request) -> Result<(), Refusal> {
        let Some(host) = request.headers().get(header::HOST) else {
            // HTTP/1.0 has none, and no browser speaks HTTP/1.0.
            return match request.version() {
                Version::HTTP_09 | Version::HTTP_10 => Ok(()),
                _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "host_missing", "the Host header is missing")),
            };
        };
        let Hosts::LocalAnd(names) = &self.hosts else { return Ok(()) };
        if host.to_str().is_ok_and(|host| is_local(host_name(host), names)) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "host_unknown",
            "this listener does not answer to that host name; use its address, localhost or a configured name",
        ))
    }

    /// The request with its whole body in memory: handlers never wait for a client, and none can feed them for ever.
    async fn read_body(&self, request: Request) -> Result<Request, Refusal> {
        let (head, body) = request.into_parts();
        let max_bytes = match self.bodies {
            Bodies::AtMost(bytes) => bytes,
            Bodies::Streamed => {
                if let Some(arrival) = head.extensions.get::<Arrival>() {
                    arrival.complete();
                }
                return Ok(Request::from_parts(head, body));
            }
        };
        let too_large = || {
            let message = format!("the request's body has more than {max_bytes} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        };
        let told = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if told.is_some_and(|bytes| bytes > max_bytes as u64) {
            return Err(too_large());
        }
        match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, max_bytes)).await {
            Ok(Ok(bytes)) => {
                if let Some(arrival) = head.extensions.get::<Arrival>() {
                    arrival.complete();
                }
                Ok(Request::from_parts(head, Body::from(bytes)))
            }
            Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
            Ok(Err(_broken)) => {
                Err(Refusal::new(StatusCode::BAD_REQUEST, "body_broken", "the request's body ended early"))
            }
            Err(_elapsed) => {
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_slow", "the request's body took too long"))
            }
        }
    }
}

async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn count(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let began = clock::instant();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    // Only paths of ours become labels: a client could otherwise make as many series as it likes.
    let route = matched.as_ref().map_or("none", MatchedPath::as_str);
    let mut response = next.run(request).await;
    secure(response.headers_mut());
    guard.metrics.requests.with_label_values(&[guard.listener, route, response.status().as_str()]).inc();
    guard.metrics.duration.with_label_values(&[guard.listener, route]).observe(began.elapsed().as_secs_f64());
    response
}

fn secure(headers: &mut HeaderMap) {
    const FIXED: [(HeaderName, &str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What other origins may read says so itself.
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.entry(policy).or_insert_with(|| HeaderValue::from_static("same-origin"));
    // A page may have a narrower one of its own.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert_with(|| HeaderValue::from_static(CONTENT_SECURITY_POLICY));
}

/// Refuses what a browser sends on behalf of another site. Programs send neither header and pass.
fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method.is_safe() {
        return Ok(());
    }
    let same_site = match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" || site == "none",
        None => headers.get(header::ORIGIN).is_none_or(|origin| {
            let authority = origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, authority)| authority);
            let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
            authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
        }),
    };
    if same_site {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "cross_site", "a page of another site sent this request"))
}

/// The name in a `Host` header, without port and brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(name, _)| name);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_local(name: &str, configured: &[String]) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
        || configured.iter().any(|c| c.eq_ignore_ascii_case(&name))
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebound_name_is_not_local() {
        for good in ["127.0.0.1:9090", "localhost", "LOCALHOST:80", "[::1]:9090", "a.localhost", "veghe.cjtimis.ro:1"] {
            assert!(is_local(host_name(good), &["veghe.cjtimis.ro".to_owned()]), "{good}");
        }
        for bad in ["evil.example:9090", "localhost.evil.example", "", "[::1", "127.0.0.1.evil.example", ":80"] {
            assert!(!is_local(host_name(bad), &[]), "{bad}");
        }
    }

    #[test]
    fn a_write_from_another_site_is_refused_and_a_program_passes() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect::<HeaderMap>()
        };
        let passes =
            |method: Method, pairs: &[(&'static str, &'static str)]| check_origin(&method, &headers(pairs)).is_ok();
        assert!(passes(Method::POST, &[("host", "h:1")]));
        assert!(passes(Method::POST, &[("host", "h:1"), ("origin", "http://h:1")]));
        assert!(passes(Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(passes(Method::GET, &[("sec-fetch-site", "cross-site")]));
        assert!(!passes(Method::POST, &[("sec-fetch-site", "cross-site")]));
        assert!(!passes(Method::POST, &[("sec-fetch-site", "same-site")]));
        assert!(!passes(Method::DELETE, &[("host", "h:1"), ("origin", "http://h:2")]));
        assert!(!passes(Method::POST, &[("host", "h:1"), ("origin", "null")]));
    }
}
