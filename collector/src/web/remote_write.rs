//! `POST /api/v1/write`: remote write 1.0 and 2.0 over HTTP, with Prometheus' answers (`storage/remote/write_handler.go`).
//!
//! Invariant: who sends is known before a body is read; a request is answered after it is on disk. What it deliberately does not do: read requests (`remote`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::{Semaphore, oneshot};

use super::quiet::Quiet;
use crate::clock;
use crate::remote::{Outcome, Protocol, Receiver, WriteError};

/// The largest body before decompression.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;

struct Write {
    /// What requests held that nobody keeps.
    dropped: IntCounterVec,
    /// Requests that were refused in part, and when the log told of one last: a sender with old samples has them in each.
    partial: IntCounter,
    partial_log: Mutex<Quiet>,
    receiver: Arc<Receiver>,
    waiting: Mutex<VecDeque<Waiting>>,
    /// One batch at a time is decoded and stored; who comes meanwhile waits here, not on a thread, and is stored together
    /// with the others that wait: they share one write to the disk.
    turn: Arc<Semaphore>,
}

/// A request that nobody has begun to store.
struct Waiting {
    body: Bytes,
    protocol: Protocol,
    answer: oneshot::Sender<Result<Outcome, WriteError>>,
}

/// Bodies that are stored together.
const MAX_TOGETHER_BYTES: usize = 4 << 20;

/// The route, before any guard.
pub(super) fn routes(receiver: Receiver, dropped: IntCounterVec, partial: IntCounter) -> Router {
    let state = Write {
        dropped,
        partial,
        partial_log: Mutex::default(),
        receiver: Arc::new(receiver),
        waiting: Mutex::default(),
        turn: Arc::new(Semaphore::new(1)),
    };
    // The guard around it has the bound.
    Router::new().route("/api/v1/write", post(write)).layer(DefaultBodyLimit::disable()).with_state(Arc::new(state))
}

impl Write {
    /// Stores a request, together with what else waits.
    async fn store(&self, body: Bytes, protocol: Protocol) -> Stored {
        let (answer, mut answered) = oneshot::channel();
        let waiting = Waiting { body, protocol, answer };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(waiting);
        loop {
            let turn = tokio::select! {
                biased;
                result = &mut answered => return result.map_or(Stored::Defect, Stored::Done),
                turn = Arc::clone(&self.turn).acquire_owned() => turn,
            };
            let Ok(turn) = turn else { return Stored::Stopping };
            let (batch, receiver) = (self.next_batch(), Arc::clone(&self.receiver));
            // It goes on and answers the others where this client goes away.
            let work = tokio::task::spawn_blocking(move || {
                let requests: Vec<_> = batch.iter().map(|one| (&*one.body, one.protocol)).collect();
                let results = receiver.write_all(&requests, clock::now());
                for (one, result) in batch.into_iter().zip(results) {
                    // Who went away will send it again.
                    drop(one.answer.send(result));
                }
                drop(turn);
            });
            if let Err(panicked) = work.await {
                tracing::error!(error = &panicked as &dyn std::error::Error, "a remote write failed unexpectedly");
            }
        }
    }

    fn next_batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let count = waiting
            .iter()
            .take_while(|one| {
                let fits = bytes == 0 || bytes + one.body.len() <= MAX_TOGETHER_BYTES;
                bytes += one.body.len();
                fits
            })
            .count();
        waiting.drain(..count).filter(|one| !one.answer.is_closed()).collect()
    }
}

/// How storing a request ended.
enum Stored {
    Done(Result<Outcome, WriteError>),
    Stopping,
    Defect,
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
    let (written, mut response) = match state.store(body, protocol).await {
        Stored::Done(Ok(Outcome { samples, problems, dropped_histograms, dropped_exemplars })) => {
            let count = |kind, number| state.dropped.with_label_values(&[kind]).inc_by(number);
            count("histogram", dropped_histograms);
            count("exemplar", dropped_exemplars);
            if problems.is_empty() {
                (samples, StatusCode::NO_CONTENT.into_response())
            } else {
                state.partial.inc();
                let mut quiet = state.partial_log.lock().unwrap_or_else(PoisonError::into_inner);
                let more = quiet.happened(clock::instant());
                drop(quiet);
                if let Some(more) = more {
                    tracing::warn!(%problems, more, "remote write was refused in part");
                }
                (samples, answer(StatusCode::BAD_REQUEST, problems))
            }
        }
        Stored::Done(Err(WriteError::Malformed(problem))) => (0, answer(StatusCode::BAD_REQUEST, problem)),
        Stored::Done(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot store a remote write; it will be sent again"
            );
            let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, error);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            (0, response)
        }
        Stored::Stopping => (0, answer(StatusCode::SERVICE_UNAVAILABLE, "the collector is stopping")),
        Stored::Defect => (0, answer(StatusCode::INTERNAL_SERVER_ERROR, "the request failed unexpectedly")),
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
