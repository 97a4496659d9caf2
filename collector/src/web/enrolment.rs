//! `POST /v1/enrol`: the one request of an agent that has no certificate yet. Its token is its credential, so the
//! route asks for no other.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse};

use super::Refusal;
use super::rate::Rate;
use crate::clock;

/// Admits agents.
pub trait Enrol: Send + Sync + 'static {
    /// Checks the token of `request` and signs its certificate. Blocks (keys, disk): it is called on a blocking thread.
    ///
    /// # Errors
    /// [`EnrolRefusal`]; nothing changed, except that a token may be used up.
    fn enrol(&self, request: EnrolmentRequest) -> Result<EnrolmentResponse, EnrolRefusal>;
}

/// Why an agent was not admitted. `code` is for programs and stays, `message` is for people; neither holds secrets.
#[derive(Debug)]
pub enum EnrolRefusal {
    /// The token is unknown, used, expired or another agent's: 403.
    Token {
        /// For example `expired_token`.
        code: &'static str,
        /// What to do.
        message: String,
    },
    /// The request is not what it should be: 400.
    Request {
        /// For example `bad_request`.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The collector failed; the same request may succeed later: 503. The log has the cause.
    Unavailable,
}

impl From<EnrolRefusal> for Refusal {
    fn from(refusal: EnrolRefusal) -> Self {
        match refusal {
            EnrolRefusal::Token { code, message } => Self::new(StatusCode::FORBIDDEN, code, message),
            EnrolRefusal::Request { code, message } => Self::new(StatusCode::BAD_REQUEST, code, message),
            EnrolRefusal::Unavailable => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "the collector cannot admit agents at the moment; its log says why",
            ),
        }
    }
}

/// The largest request: a token and a certificate request have less than 4 KiB.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Attempts that one address may make at once: a whole rack joins from behind one address.
pub(super) const BURST: u32 = 60;
/// One more attempt after each of these.
pub(super) const REFILL: std::time::Duration = std::time::Duration::from_secs(1);

/// What the route needs.
pub(super) struct Enrolment {
    pub(super) enrol: Arc<dyn Enrol>,
    pub(super) rate: Rate,
}

pub(super) async fn enrol(
    State(enrolment): State<Arc<Enrolment>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Response {
    match answer(&enrolment, remote, body).await {
        // The certificate is of use to nobody without the key, but no cache needs it.
        Ok(response) => ([(header::CACHE_CONTROL, "no-store")], Json(response)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(enrolment: &Enrolment, remote: SocketAddr, body: Bytes) -> Result<EnrolmentResponse, Refusal> {
    if !enrolment.rate.take(remote.ip(), clock::instant()) {
        let message = "too many enrolments from this address; try again in a few seconds";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")));
    }
    if body.len() > MAX_REQUEST_BYTES {
        let message = format!("an enrolment has at most {MAX_REQUEST_BYTES} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
    }
    let request: EnrolmentRequest = serde_json::from_slice(&body)
        // serde names field and position, never the values of strings that fit.
        .map_err(|error| EnrolRefusal::Request {
            code: "bad_request",
            message: format!("the body is no enrolment request: {error}"),
        })?;
    let enrol = Arc::clone(&enrolment.enrol);
    let result = tokio::task::spawn_blocking(move || enrol.enrol(request)).await;
    Ok(result.map_err(|_panicked| EnrolRefusal::Unavailable)??)
}
