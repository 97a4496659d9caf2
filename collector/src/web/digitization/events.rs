//! `POST /v1/digitization/events`: `CloudEvents` in, one or a batch; the answer says what became of each.
//!
//! Invariants: the sender has a token with the scope `events` before its body is read; what the answer calls accepted is
//! on disk.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::Semaphore;

use super::super::Refusal;
use crate::clock;
use crate::digitization::sender::Sender;
use crate::digitization::{Digitization, Receipt, event};

/// The largest body: some 20,000 events.
pub(in crate::web) const MAX_BODY_BYTES: usize = 16 << 20;
/// Bodies that are read at once; the others wait here, not on threads.
const TURNS: usize = 4;

struct Intake {
    digitization: Digitization,
    turns: Arc<Semaphore>,
}

/// The route, before any guard.
pub(in crate::web) fn routes(digitization: Digitization) -> Router {
    let intake = Intake { digitization, turns: Arc::new(Semaphore::new(TURNS)) };
    // The guard around it has the bound.
    Router::new()
        .route("/v1/digitization/events", post(take))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(intake))
}

async fn take(State(intake): State<Arc<Intake>>, headers: HeaderMap, body: Bytes) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    if headers.contains_key("ce-specversion")
        || !matches!(kind, "application/cloudevents+json" | "application/cloudevents-batch+json" | "application/json")
    {
        let message = "send structured mode: application/cloudevents+json, or application/cloudevents-batch+json";
        return Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", message).into_response();
    }
    let Ok(turn) = Arc::clone(&intake.turns).acquire_owned().await else {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the collector is stopping").into_response();
    };
    let digitization = intake.digitization.clone();
    let work = tokio::task::spawn_blocking(move || {
        // It goes on where the client goes away, so its turn lasts as long as the work.
        let _turn = turn;
        event::parse(&body).map(|events| digitization.submit(Sender::Token.keep_own(events), clock::now()))
    });
    match work.await {
        Ok(Ok(Ok(receipt))) => answer(&receipt),
        Ok(Ok(Err(_logged))) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_kept", "the events could not be kept; send them again")
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
                .into_response()
        }
        Ok(Err(error)) => {
            Refusal::new(StatusCode::BAD_REQUEST, "no_events", format!("the body {error}")).into_response()
        }
        Err(panicked) => {
            tracing::error!(error = &panicked as &dyn std::error::Error, "taking events failed unexpectedly");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "defect", "the request failed unexpectedly").into_response()
        }
    }
}

fn answer(receipt: &Receipt) -> Response {
    let refused: Vec<_> = receipt
        .refused
        .iter()
        .map(|(index, refused)| {
            let errors: Vec<_> =
                refused.problems.iter().map(|(field, message)| json!({ "field": field, "message": message })).collect();
            json!({ "index": index, "id": refused.id, "errors": errors })
        })
        .collect();
    let status = if refused.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let body = json!({
        "accepted": receipt.accepted,
        "repeated": receipt.repeated,
        "quarantined": receipt.quarantined,
        "refused": refused,
    });
    (status, Json(body)).into_response()
}
