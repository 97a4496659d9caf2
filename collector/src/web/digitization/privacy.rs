//! What is known of persons: the groups that may be told of, and for administrators what is kept and who looked behind it.
//!
//! What it deliberately does not do: tell of anybody. Groups are formed in `digitization::privacy`.

use askama::Template;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::api::{blocking, unavailable};
use super::floor::moment;
use super::page::{Words, html, language};
use crate::digitization::Digitization;
use crate::digitization::privacy::SMALLEST_GROUP;
use crate::digitization::privacy::office::Overview;
use crate::digitization::privacy::people::Group;

#[derive(Template)]
#[template(path = "digitization/privacy.html")]
struct PrivacyPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    policy: String,
    o: &'a Overview,
    groups: &'a [Group],
    moments: Vec<String>,
}

pub(super) async fn page(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let overview = match digitization.privacy() {
            Ok(overview) => overview,
            Err(error) => return unavailable(&error),
        };
        let settings = digitization.settings();
        let page = PrivacyPage {
            w,
            project: &settings.project,
            title: w.t("digi-privacy"),
            policy: w.t(&format!("digi-privacy-{}", overview.operators)),
            groups: &overview.groups,
            moments: overview.looks.iter().map(|look| moment(look.at_ms, settings)).collect(),
            o: &overview,
        };
        html(&page, w, StatusCode::OK)
    })
    .await
}

pub(super) async fn json(State(digitization): State<Digitization>) -> Response {
    blocking(move || match digitization.privacy() {
        Ok(overview) => Json(overview).into_response(),
        Err(error) => unavailable(&error),
    })
    .await
}

pub(super) async fn groups_json(State(digitization): State<Digitization>) -> Response {
    blocking(move || match digitization.people() {
        Ok(groups) => Json(json!({ "smallest_group": SMALLEST_GROUP, "groups": groups })).into_response(),
        Err(error) => unavailable(&error),
    })
    .await
}
