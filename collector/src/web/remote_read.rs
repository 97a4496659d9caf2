//! `POST /api/v1/read`: remote read over HTTP, whole or streamed, with Prometheus' answers
//! (`storage/remote/read_handler.go`).
//!
//! Invariant: a stream goes no faster than its client takes it. What it deliberately does not do: read requests
//! (`remote`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

use super::prometheus_api::{Api, ApiError};
use crate::remote::{ReadRefusal, Reading, Taken};

/// Frames that wait for the client.
const FRAMES: usize = 4;

type Frames = mpsc::Receiver<Result<Bytes, ReadRefusal>>;

pub(super) async fn read(State(api): State<Arc<Api>>, body: Bytes) -> Response {
    let reading = match Reading::decode(&body) {
        Ok(reading) => reading,
        Err(refusal) => return refuse(&refusal),
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
    let turn = match api.turn().await {
        Ok(turn) => turn,
        Err(error) => return text(&error),
    };
    let store = api.parts.queries.store().clone();
    // Its end is the end of the channel; a panic ends the response midway, as any error there must.
    let work = tokio::task::spawn_blocking(move || {
        let give = |frame: Vec<u8>| match sender.blocking_send(Ok(frame.into())) {
            Ok(()) => Taken::Yes,
            Err(_gone) => Taken::No,
        };
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
    let mut response = Response::new(Body::new(Streamed { first, frames }));
    let kind = HeaderValue::from_static("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct Streamed {
    first: Option<Bytes>,
    frames: Frames,
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
        self.frames.poll_recv(context).map(|item| item.map(|frame| frame.map(Frame::data).map_err(io::Error::other)))
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
