//! The icon of every page, from here, so that the pages' own policy lets it in.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

/// Where it is.
pub(super) const PATH: &str = "/favicon.svg";

/// The icon: a V.
pub(super) async fn show() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/svg+xml")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400")),
    ];
    (headers, include_str!("icon.svg")).into_response()
}
