//! `POST /api/v1/import/prometheus`: samples of the past as text, plain or packed, read while they arrive.
//!
//! Invariants: who sends is known before a body is read; a body takes a few frames of memory however long it is; a 2xx
//! leaves after the last sample is on disk. What it deliberately does not do: read lines (`import`).

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use veghe_tsdb::Store;

use super::pace::Pace;
use super::prometheus_api::json_response;
use crate::clock;
use crate::import::{Format, ImportError, Importer, Packing, Summary};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_mins(1);
/// How long it may be waited for in all, beside a second for each so many bytes: a client that sends a byte a minute holds
/// the only turn no longer.
const GRACE: Duration = Duration::from_mins(2);
const LEAST_BYTES_PER_SECOND: u64 = 4 << 10;
/// Frames of a body that wait for the reader.
const FRAMES: usize = 4;

struct Imports {
    store: Store,
    /// One text at a time; the others wait, their clients slowed down by TCP.
    turn: Arc<Semaphore>,
}

/// The route, before any guard.
pub(super) fn routes(store: Store) -> Router {
    let state = Imports { store, turn: Arc::new(Semaphore::new(1)) };
    Router::new().route("/api/v1/import/prometheus", post(import)).with_state(Arc::new(state))
}

#[derive(serde::Deserialize)]
struct Parameters {
    format: Option<Format>,
}

async fn import(
    State(state): State<Arc<Imports>>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(Query(Parameters { format })) = parameters else {
        let problem = "invalid parameter \"format\": it is auto, prometheus or openmetrics";
        return answer(StatusCode::BAD_REQUEST, "bad_data", problem, None);
    };
    let text = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap_or("?"));
    let packing = match text(header::CONTENT_ENCODING).to_ascii_lowercase().as_str() {
        "" | "identity" => None,
        "gzip" => Some(Packing::Gzip),
        "zstd" => Some(Packing::Zstd),
        other => {
            let problem = format!("content encoding {other:?} is not accepted; send gzip, zstd or none");
            return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_data", problem, None);
        }
    };
    let format = format.unwrap_or_else(|| format_of(text(header::CONTENT_TYPE)));
    let Ok(turn) = Arc::clone(&state.turn).acquire_owned().await else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the collector is stopping", None);
    };
    let (sender, arriving) = mpsc::channel(FRAMES);
    let store = state.store.clone();
    let mut work = tokio::task::spawn_blocking(move || {
        // A client that goes away does not end it at once.
        let _turn = turn;
        let mut importer = Importer::new(store, format, clock::now());
        let mut reader = BufReader::new(Frames { arriving, frame: Bytes::new(), ended: false });
        let result = unpack_and_run(&mut importer, packing, &mut reader);
        (importer.summary().clone(), result)
    });
    let result = tokio::select! {
        // It may end before the body does.
        result = &mut work => result,
        () = feed(body, sender, Pace::new(SILENCE, GRACE, LEAST_BYTES_PER_SECOND)) => work.await,
    };
    match result {
        Ok((summary, result)) => respond(&summary, result),
        Err(panicked) => {
            tracing::error!(error = &panicked as &dyn std::error::Error, "an import failed unexpectedly");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the import failed unexpectedly", None)
        }
    }
}

fn unpack_and_run(
    importer: &mut Importer,
    packing: Option<Packing>,
    reader: &mut BufReader<Frames>,
) -> Result<(), ImportError> {
    use std::io::BufRead as _;
    let failed = |source| ImportError::Read { line: 0, source };
    // A file that was packed before somebody sent it tells so by its first bytes.
    let packing = match packing {
        Some(packing) => packing,
        None => Packing::of(reader.fill_buf().map_err(failed)?),
    };
    importer.run(packing.unpack(reader).map_err(failed)?)
}

/// Hands the frames of `body` on until its end, or until nobody takes them any more.
async fn feed(body: Body, sender: mpsc::Sender<io::Result<Option<Bytes>>>, mut pace: Pace) {
    let mut body = body;
    loop {
        let begun = clock::instant();
        let patience = pace.patience();
        let frame = match tokio::time::timeout(patience, body.frame()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    pace.moved(data.len(), begun.elapsed());
                    Ok(Some(data))
                }
                Err(_trailers) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_elapsed) if patience == SILENCE => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} s", SILENCE.as_secs())))
            }
            Err(_elapsed) => {
                let problem = format!("it came more slowly than {LEAST_BYTES_PER_SECOND} bytes a second for too long");
                Err(io::Error::new(io::ErrorKind::TimedOut, problem))
            }
        };
        let is_last = !matches!(frame, Ok(Some(_)));
        if sender.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

/// The frames of a body as a stream of bytes; the end of a body is told, so that a client that went away midway is
/// none.
struct Frames {
    arriving: mpsc::Receiver<io::Result<Option<Bytes>>>,
    frame: Bytes,
    ended: bool,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.frame.is_empty() && !self.ended {
            match self.arriving.blocking_recv() {
                Some(Ok(Some(frame))) => self.frame = frame,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = buffer.len().min(self.frame.len());
        buffer[..length].copy_from_slice(&self.frame.split_to(length));
        Ok(length)
    }
}

/// `application/openmetrics-text` is `OpenMetrics`; `text/plain` with a version is Prometheus' text format.
fn format_of(content_type: &str) -> Format {
    let mut parts = content_type.split(';').map(str::trim);
    match parts.next() {
        Some("application/openmetrics-text") => Format::OpenMetrics,
        Some("text/plain") if parts.any(|part| part.starts_with("version=")) => Format::Prometheus,
        _ => Format::Auto,
    }
}

fn respond(summary: &Summary, result: Result<(), ImportError>) -> Response {
    match result {
        Ok(()) if summary.refused == 0 => json_response(json!({ "status": "success", "data": summary }).to_string()),
        Ok(()) => {
            let problem =
                format!("{} lines were refused, the others are stored:\n{}", summary.refused, summary.problem_text());
            answer(StatusCode::BAD_REQUEST, "bad_data", problem, Some(summary))
        }
        Err(error @ ImportError::Ambiguous { .. }) => {
            let problem = format!("{error}: content type application/openmetrics-text, or ?format=...");
            answer(StatusCode::BAD_REQUEST, "bad_data", problem, Some(summary))
        }
        Err(ImportError::Read { line, source }) => {
            let slow = source.kind() == io::ErrorKind::TimedOut;
            let status = if slow { StatusCode::REQUEST_TIMEOUT } else { StatusCode::BAD_REQUEST };
            let stored = summary.samples;
            let problem =
                format!("cannot read on after line {line}: {source}; {stored} samples are stored; send all again");
            answer(status, "bad_data", problem, Some(summary))
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot store an import");
            let problem = format!("{error}; the collector's log says why, and a repeat changes nothing that is stored");
            let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", problem, Some(summary));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            response
        }
    }
}

fn answer(status: StatusCode, kind: &str, problem: impl std::fmt::Display, summary: Option<&Summary>) -> Response {
    let mut tree = json!({ "status": "error", "errorType": kind, "error": problem.to_string() });
    if let Some(summary) = summary {
        tree["data"] = json!(summary);
    }
    (status, json_response(tree.to_string())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte now and then, for ever.
    struct Drip(std::pin::Pin<Box<tokio::time::Sleep>>);

    impl hyper::body::Body for Drip {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, io::Error>>> {
            std::task::ready!(self.0.as_mut().poll(context));
            self.0 = Box::pin(tokio::time::sleep(Duration::from_millis(5)));
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn who_sends_a_byte_now_and_then_is_given_up() {
        let (sender, mut arriving) = mpsc::channel::<io::Result<Option<Bytes>>>(FRAMES);
        let drip = Body::new(Drip(Box::pin(tokio::time::sleep(Duration::ZERO))));
        let pace = Pace::new(Duration::from_mins(10), Duration::from_millis(40), 1 << 20);
        let count = async {
            let mut bytes = 0;
            loop {
                match arriving.recv().await.expect("an end that is told") {
                    Ok(Some(frame)) => bytes += frame.len(),
                    Ok(None) => panic!("the body has no end"),
                    Err(error) => return (bytes, error),
                }
            }
        };
        let ((), (bytes, error)) = tokio::join!(feed(drip, sender, pace), count);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error} after {bytes} bytes");
        assert!(error.to_string().contains("more slowly than"), "{error}");
    }

    #[test]
    fn the_content_type_chooses_the_format() {
        for (content_type, format) in [
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
            ("text/plain; version=0.0.4", Format::Prometheus),
            ("text/plain", Format::Auto),
            ("application/x-www-form-urlencoded", Format::Auto),
            ("", Format::Auto),
        ] {
            assert_eq!(format_of(content_type), format, "{content_type}");
        }
    }
}
