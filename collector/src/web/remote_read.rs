//! `POST /api/v1/read`: remote read over HTTP, whole or streamed, with Prometheus' answers
//! (`storage/remote/read_handler.go`).
//!
//! Invariants: a stream goes no faster than its client takes it, and a client that takes it too slowly is given up:
//! streams have turns of their own, so that slow ones keep no selection waiting. What it deliberately does not do: read requests
//! (`remote`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

use super::pace::Pace;
use super::prometheus_api::{Api, ApiError};
use crate::clock;
use crate::remote::{ReadRefusal, Reading, Taken};

/// Frames that wait for the client.
const FRAMES: usize = 4;
/// Streams at once.
pub(super) const MAX_STREAMS: usize = 4;
/// How long a client may take nothing, and how long it may let wait in all beside a second for each so many bytes.
const SILENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_mins(1);
const LEAST_BYTES_PER_SECOND: u64 = 64 << 10;

type Frames = mpsc::Receiver<Result<Bytes, ReadRefusal>>;

pub(super) async fn read(State(api): State<Arc<Api>>, body: Bytes) -> Response {
    // Regular expressions take time to compile.
    let reading = match tokio::task::spawn_blocking(move || Reading::decode(&body)).await {
        Ok(Ok(reading)) => reading,
        Ok(Err(refusal)) => return refuse(&refusal),
        Err(_panicked) => return text(&ApiError::internal("the read failed unexpectedly")),
    };
    if reading.is_streamed {
        return stream(&api, reading).await;
    }
    match api.select(move |store| Ok(reading.whole(store))).await {
        Ok(Ok(bytes)) => {
            let headers = [(header::CONTENT_TYPE, "application/x-protobuf"), (header::CONTENT_ENCODING, "snappy")];
            (headers, bytes).into_response()
        }
        Ok(Err(refusal)) => refuse(&refusal),
        Err(error) => text(&error),
    }
}

async fn stream(api: &Arc<Api>, reading: Reading) -> Response {
    let (sender, mut frames) = mpsc::channel(FRAMES);
    let turn = match api.turn_of(&api.streams).await {
        Ok(turn) => turn,
        Err(error) => return text(&error),
    };
    let store = api.parts.queries.store().clone();
    let runtime = tokio::runtime::Handle::current();
    let given_up = Arc::new(AtomicBool::new(false));
    let giving_up = Arc::clone(&given_up);
    // Its end is the end of the channel; a panic ends the response midway, as any error there must.
    let work = tokio::task::spawn_blocking(move || {
        let mut pace = Pace::new(SILENCE, GRACE, LEAST_BYTES_PER_SECOND);
        let give = |frame: Vec<u8>| runtime.block_on(hand_over(frame, &sender, &mut pace, &giving_up));
        let result = reading.stream(&store, give);
        drop(turn);
        if let Err(refusal) = result {
            tracing::error!(error = &refusal as &dyn std::error::Error, "cannot read samples for a remote read");
            // Nobody to tell is fine.
            drop(sender.blocking_send(Err(refusal)));
        }
    });
    let first = match frames.recv().await {
        Some(Ok(frame)) => Some(frame),
        Some(Err(refusal)) => return refuse(&refusal),
        None => match work.await {
            Ok(()) => None,
            Err(_panicked) => return text(&ApiError::internal("the read failed unexpectedly")),
        },
    };
    let mut response = Response::new(Body::new(Streamed { first, frames, given_up }));
    let kind = HeaderValue::from_static("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Hands a frame on once its client took those before it; where that takes too long, it is given up.
async fn hand_over(
    frame: Vec<u8>,
    sender: &mpsc::Sender<Result<Bytes, ReadRefusal>>,
    pace: &mut Pace,
    given_up: &AtomicBool,
) -> Taken {
    let (begun, bytes) = (clock::instant(), frame.len());
    let sent = tokio::time::timeout(pace.patience(), sender.send(Ok(frame.into()))).await;
    pace.moved(bytes, begun.elapsed());
    if sent.is_err() {
        given_up.store(true, Ordering::Release);
        tracing::warn!("a remote read was given up: its client takes the answer too slowly");
    }
    if matches!(sent, Ok(Ok(()))) { Taken::Yes } else { Taken::No }
}

struct Streamed {
    first: Option<Bytes>,
    frames: Frames,
    /// Whether the frames end before the answer does, which its reader must see.
    given_up: Arc<AtomicBool>,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.frames.poll_recv(context).map(|item| match item {
            Some(frame) => Some(frame.map(Frame::data).map_err(io::Error::other)),
            None if self.given_up.swap(false, Ordering::AcqRel) => Some(Err(io::ErrorKind::TimedOut.into())),
            None => None,
        })
    }
}

fn refuse(refusal: &ReadRefusal) -> Response {
    match refusal {
        ReadRefusal::Store(error) => {
            tracing::error!(error = error as &dyn std::error::Error, "cannot read samples for a remote read");
            text(&ApiError::internal("cannot read samples; the collector's log says why"))
        }
        refusal => (StatusCode::BAD_REQUEST, format!("{refusal}\n")).into_response(),
    }
}

fn text(error: &ApiError) -> Response {
    (error.status(), format!("{}\n", error.message())).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_given_up_and_sees_that_the_answer_is_not_whole() {
        let (sender, frames) = mpsc::channel(FRAMES);
        let given_up = Arc::new(AtomicBool::new(false));
        let mut pace = Pace::new(Duration::from_millis(20), Duration::from_millis(40), 1 << 30);
        let mut taken = 0;
        while hand_over(vec![7; 100], &sender, &mut pace, &given_up).await == Taken::Yes {
            taken += 1;
        }
        assert_eq!(taken, FRAMES, "as many as wait for the client");
        drop(sender);
        let mut body = Streamed { first: Some(Bytes::from_static(b"first")), frames, given_up };
        for _ in 0..=FRAMES {
            assert!(body.frame().await.expect("a frame").is_ok());
        }
        assert!(body.frame().await.expect("not the end").is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn who_takes_everything_gets_an_end() {
        let (sender, frames) = mpsc::channel(FRAMES);
        let given_up = Arc::new(AtomicBool::new(false));
        let mut pace = Pace::new(Duration::from_mins(1), Duration::from_mins(1), 1);
        assert_eq!(hand_over(vec![7], &sender, &mut pace, &given_up).await, Taken::Yes);
        drop(sender);
        let mut body = Streamed { first: None, frames, given_up };
        assert!(body.frame().await.expect("a frame").is_ok());
        assert!(body.frame().await.is_none());
        // Who went away takes nothing, and is not slow.
        let (sender, frames) = mpsc::channel(FRAMES);
        drop(frames);
        assert_eq!(hand_over(vec![7], &sender, &mut pace, &AtomicBool::new(false)).await, Taken::No);
    }
}
