//! `POST /api/v1/write`: remote write 1.0 and 2.0 over HTTP, with Prometheus' answers (`storage/remote/write_handler.go`).
//!
//! Invariant: who sends is known before a body is read. What it deliberately does not do: read requests (`remote`).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use tokio::sync::Semaphore;

use crate::clock;
use crate::remote::{Outcome, Protocol, Receiver, WriteError};

/// The largest body before decompression.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;

struct Write {
    receiver: Arc<Receiver>,
    /// One request at a time is decoded and stored; the others wait here, not on threads.
    turn: Semaphore,
}

/// The route, before any guard.
pub(super) fn routes(receiver: Receiver) -> Router {
    let state = Write { receiver: Arc::new(receiver), turn: Semaphore::new(1) };
    // The guard around it has the bound.
    Router::new().route("/api/v1/write", post(write)).layer(DefaultBodyLimit::disable()).with_state(Arc::new(state))
}

async fn write(State(state): State<Arc<Write>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: HeaderName| headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"));
    let protocol = match protocol(text(header::CONTENT_TYPE)) {
        Ok(protocol) => protocol,
        Err(problem) => return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem),
    };
    let encoding = text(header::CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") {
        let problem =
            format!("{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable");
        return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem);
    }
    let Ok(_turn) = state.turn.acquire().await else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "the collector is stopping");
    };
    let receiver = Arc::clone(&state.receiver);
    let work = tokio::task::spawn_blocking(move || receiver.write(&body, protocol, clock::now()));
    let (written, mut response) = match work.await {
        Ok(Ok(Outcome { samples, problems })) if problems.is_empty() => {
            (samples, StatusCode::NO_CONTENT.into_response())
        }
        Ok(Ok(Outcome { samples, problems })) => {
            tracing::warn!(%problems, "remote write was refused in part");
            (samples, answer(StatusCode::BAD_REQUEST, problems))
        }
        Ok(Err(WriteError::Malformed(problem))) => (0, answer(StatusCode::BAD_REQUEST, problem)),
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot store a remote write; it will be sent again"
            );
            let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, error);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            (0, response)
        }
        Err(panicked) => {
            tracing::error!(error = &panicked as &dyn std::error::Error, "a remote write failed unexpectedly");
            (0, answer(StatusCode::INTERNAL_SERVER_ERROR, "the request failed unexpectedly"))
        }
    };
    if protocol == Protocol::Version2 {
        let counts = [("samples", written), ("histograms", 0), ("exemplars", 0)];
        for (kind, count) in counts {
            let name = HeaderName::try_from(format!("x-prometheus-remote-write-{kind}-written"));
            response.headers_mut().insert(name.expect("invariant: letters and dashes"), HeaderValue::from(count));
        }
    }
    response
}

fn answer(status: StatusCode, problem: impl std::fmt::Display) -> Response {
    (status, format!("{problem}\n")).into_response()
}

/// The message that a content type names; without one it is that of 1.0.
fn protocol(content_type: &str) -> Result<Protocol, String> {
    let mut parts = content_type.trim().split(';');
    let media = parts.next().unwrap_or("").trim();
    if !media.is_empty() && media != "application/x-protobuf" {
        return Err(format!(
            "expected application/x-protobuf as the first (media) part, got {content_type} content-type"
        ));
    }
    for part in parts {
        match part.split_once('=') {
            Some((name, value)) if name.trim() == "proto" => {
                return match value.trim() {
                    "prometheus.WriteRequest" => Ok(Protocol::Version1),
                    "io.prometheus.write.v2.Request" => Ok(Protocol::Version2),
                    other => Err(format!(
                        "got {content_type} content type; unknown type for remote write protobuf message {other}, \
                         supported: prometheus.WriteRequest, io.prometheus.write.v2.Request"
                    )),
                };
            }
            Some(_) => {}
            None => {
                return Err(format!("expected parameters to be key-values, got {part} in {content_type} content-type"));
            }
        }
    }
    Ok(Protocol::Version1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_chooses_the_message() {
        let v2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
        assert_eq!(protocol(v2), Ok(Protocol::Version2));
        for v1 in ["", "application/x-protobuf", "application/x-protobuf;proto=prometheus.WriteRequest"] {
            assert_eq!(protocol(v1), Ok(Protocol::Version1), "{v1}");
        }
        for wrong in ["text/plain", "application/x-protobuf;proto=other", "application/x-protobuf;proto"] {
            assert!(protocol(wrong).is_err(), "{wrong}");
        }
    }
}
