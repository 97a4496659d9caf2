//! The digitization project over HTTP: its JSON API below `/v1/digitization`, its pages below `/digitization`.
//!
//! What it deliberately does not do: count or forecast. `digitization` does.

mod api;
mod chart;
#[cfg(test)]
mod crawl_tests;
mod event_words;
pub(super) mod events;
mod figure;
mod floor;
mod graph;
mod journal;
mod labels;
mod linked;
mod openapi;
mod pack;
mod page;
mod phone;
mod privacy;
mod storage;
mod what_if;
mod what_if_page;

use axum::Router;
use axum::routing::{get, post};

pub(super) use self::page::{Words, html, in_other_language, language, stage_choice};
use crate::digitization::Digitization;

/// What may be read, before any guard.
pub(super) fn reading(digitization: Digitization) -> Router {
    Router::new()
        .route("/digitization", get(page::project))
        .route("/digitization/units", get(page::units))
        .route("/digitization/units/{code}", get(page::unit))
        .route("/digitization/labels", get(labels::show))
        .route("/digitization.css", get(page::style))
        .route("/digitization/events", get(journal::page))
        .route("/digitization/scan-in", get(phone::show))
        .route("/digitization/scan-in.js", get(phone::script))
        .route("/digitization/scan-in-worker.js", get(phone::worker))
        .route("/digitization/stations", get(floor::stations))
        .route("/digitization/quality", get(floor::quality))
        .route("/digitization/lots/{batch}", get(floor::lot))
        .route("/digitization/fixity", get(floor::fixity))
        .route("/v1/digitization/quality", get(floor::quality_json))
        .route("/v1/digitization/lots/{batch}", get(floor::lot_json_one))
        .route("/v1/digitization/fixity", get(floor::fixity_json))
        .route("/v1/digitization/flow", get(floor::flow_json))
        .route("/digitization/reports", get(pack::list))
        .route("/digitization/reports/{name}", get(pack::one))
        .route("/v1/digitization/journal", get(journal::json))
        .route("/v1/digitization/reports", get(pack::list_json))
        .route("/v1/digitization/reports/{period}", get(pack::one_json))
        .route("/v1/digitization/openapi.json", get(openapi::show))
        .route("/v1/digitization/what-if", get(what_if::answer))
        .route("/v1/digitization/project", get(api::project))
        .route("/v1/digitization/days", get(api::days))
        .route("/v1/digitization/stations", get(api::stations))
        .route("/v1/digitization/quarantine", get(api::quarantine))
        .route("/v1/digitization/units", get(api::units))
        .route("/v1/digitization/units/{code}", get(api::unit))
        .route("/digitization/figure", get(figure::page))
        .route("/digitization/figure.csv", get(figure::csv))
        .route("/v1/digitization/figure", get(figure::json))
        .route("/digitization/storage", get(storage::page))
        .route("/digitization/what-if", get(what_if_page::show))
        .route("/v1/digitization/storage", get(storage::json))
        .route("/v1/digitization/people", get(privacy::groups_json))
        .with_state(digitization)
}

/// What is known of persons and who looked, before any guard.
pub(super) fn people(digitization: Digitization) -> Router {
    Router::new()
        .route("/digitization/privacy", get(privacy::page))
        .route("/v1/digitization/privacy", get(privacy::json))
        .with_state(digitization)
}

/// What people on the floor tell, before any guard.
pub(super) fn floor(digitization: Digitization) -> Router {
    Router::new()
        .route("/digitization/scan-in", post(phone::tell))
        .route("/digitization/scan-in/sign-in", get(phone::sign_in))
        .with_state(digitization)
}

/// What changes something for everybody, before any guard.
pub(super) fn operating(digitization: Digitization) -> Router {
    Router::new()
        .route("/v1/digitization/freeze", post(api::freeze))
        .route("/v1/digitization/reports", post(pack::issue_json))
        .route("/digitization/reports", post(pack::issue_form))
        .route("/v1/digitization/lots", post(floor::draw_json))
        .route("/v1/digitization/lots/verdict", post(floor::judge_json))
        .route("/digitization/lots", post(floor::draw_form))
        .route("/digitization/lots/verdict", post(floor::judge_form))
        .with_state(digitization)
}
