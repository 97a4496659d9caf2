//! The part of Prometheus' API that deletes, `/api/v1/admin/tsdb/*`, for who has the scope `admin`.
//!
//! What it deliberately does not do: snapshots, which are backups of the whole data directory (`backup`).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use veghe_model::{Matcher, Timestamp};
use veghe_tsdb::{SealError, Store};

use super::parameters::Parameters;
use super::prometheus_api::ApiError;

/// The routes, before any guard.
pub(super) fn routes(store: Store) -> Router {
    Router::new()
        .route("/api/v1/admin/tsdb/delete_series", post(delete_series).put(delete_series))
        .route("/api/v1/admin/tsdb/clean_tombstones", post(clean_tombstones).put(clean_tombstones))
        .with_state(Arc::new(store))
}

async fn delete_series(State(store): State<Arc<Store>>, parameters: Parameters) -> Result<Response, ApiError> {
    let selectors = parameters.matchers()?;
    if selectors.is_empty() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let (start, end) = (parameters.time_or("start", Timestamp::MIN)?, parameters.time_or("end", Timestamp::MAX)?);
    run(store, move |store| delete(store, &selectors, start, end)).await
}

fn delete(store: &Store, selectors: &[Vec<Matcher>], start: Timestamp, end: Timestamp) -> Result<(), SealError> {
    for matchers in selectors {
        let series = store.delete(matchers, start, end)?;
        let matchers: Vec<String> = matchers.iter().map(Matcher::to_string).collect();
        tracing::info!(series, matchers = matchers.join(","), "samples were deleted");
    }
    Ok(())
}

async fn clean_tombstones(State(store): State<Arc<Store>>) -> Result<Response, ApiError> {
    run(store, |store| store.clean_tombstones().map(drop)).await
}

async fn run(
    store: Arc<Store>,
    work: impl FnOnce(&Store) -> Result<(), SealError> + Send + 'static,
) -> Result<Response, ApiError> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(error, "cannot delete samples");
        ApiError::internal("cannot delete samples; the collector's log says why")
    };
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(Ok(())) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(panicked) => Err(failed(&panicked)),
    }
}
