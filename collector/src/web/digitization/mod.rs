//! The digitization project over HTTP: its JSON API below `/v1/digitization`, its pages below `/digitization`.
//!
//! What it deliberately does not do: count or forecast. `digitization` does.

mod api;
mod chart;
pub(super) mod events;
mod journal;
mod pack;
mod page;
mod what_if;

use axum::Router;
use axum::routing::{get, post};

use crate::digitization::Digitization;

/// What may be read, before any guard.
pub(super) fn reading(digitization: Digitization) -> Router {
    Router::new()
        .route("/digitization", get(page::project))
        .route("/digitization/units", get(page::units))
        .route("/digitization/units/{code}", get(page::unit))
        .route("/digitization.css", get(page::style))
        .route("/digitization/events", get(journal::page))
        .route("/digitization/reports", get(pack::list))
        .route("/digitization/reports/{name}", get(pack::one))
        .route("/v1/digitization/journal", get(journal::json))
        .route("/v1/digitization/reports", get(pack::list_json))
        .route("/v1/digitization/reports/{period}", get(pack::one_json))
        .route("/v1/digitization/what-if", get(what_if::answer))
        .route("/v1/digitization/project", get(api::project))
        .route("/v1/digitization/days", get(api::days))
        .route("/v1/digitization/stations", get(api::stations))
        .route("/v1/digitization/quarantine", get(api::quarantine))
        .route("/v1/digitization/units", get(api::units))
        .route("/v1/digitization/units/{code}", get(api::unit))
        .with_state(digitization)
}

/// What changes something for everybody, before any guard.
pub(super) fn operating(digitization: Digitization) -> Router {
    Router::new()
        .route("/v1/digitization/freeze", post(api::freeze))
        .route("/v1/digitization/reports", post(pack::issue_json))
        .route("/digitization/reports", post(pack::issue_form))
        .with_state(digitization)
}
