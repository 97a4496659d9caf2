//! The digitization project over HTTP: its JSON API below `/v1/digitization`.
//!
//! What it deliberately does not do: count or forecast. `digitization` does.

pub(super) mod events;
mod what_if;

use axum::Router;
use axum::routing::get;

use crate::digitization::Digitization;

/// What may be read, before any guard.
pub(super) fn reading(digitization: Digitization) -> Router {
    Router::new().route("/v1/digitization/what-if", get(what_if::answer)).with_state(digitization)
}
