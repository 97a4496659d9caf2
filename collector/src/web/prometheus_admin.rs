//! The part of Prometheus' API that deletes and takes snapshots, `/api/v1/admin/tsdb/*`, for who has the scope `admin`.
//!
//! A snapshot is a backup of the whole data directory (`backup`) in its directory `snapshots`, which `restore` and `verify`
//! take; what is in memory only is in it too, so `skip_head` is read and changes nothing.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::json;
use tokio::sync::Semaphore;
use veghe_model::{Matcher, Timestamp};
use veghe_tsdb::{SealError, Store};

use veghe_wire::document::format_bytes;

use super::parameters::Parameters;
use super::prometheus_api::{ApiError, success};
use crate::{backup, clock};

/// The routes, before any guard.
pub(super) fn routes(store: Store, data_dir: &Path) -> Router {
    let snapshots =
        Snapshots { store: store.clone(), data_dir: data_dir.to_owned(), turn: Arc::new(Semaphore::new(1)) };
    let snapshots = Router::new()
        .route("/api/v1/admin/tsdb/snapshot", post(snapshot).put(snapshot))
        .with_state(Arc::new(snapshots));
    Router::new()
        .route("/api/v1/admin/tsdb/delete_series", post(delete_series).put(delete_series))
        .route("/api/v1/admin/tsdb/clean_tombstones", post(clean_tombstones).put(clean_tombstones))
        .with_state(Arc::new(store))
        .merge(snapshots)
}

struct Snapshots {
    store: Store,
    data_dir: PathBuf,
    /// One at a time: each copies everything.
    turn: Arc<Semaphore>,
}

async fn snapshot(State(state): State<Arc<Snapshots>>, parameters: Parameters) -> Result<Response, ApiError> {
    let skip_head = parameters.get("skip_head");
    if !["", "1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"].contains(&skip_head) {
        return Err(ApiError::invalid_parameter("skip_head", format!("unable to parse boolean \"{skip_head}\"")));
    }
    let Ok(turn) = Arc::clone(&state.turn).try_acquire_owned() else {
        return Err(ApiError::unavailable("another snapshot is being made; wait for its end"));
    };
    let stats = state.store.stats();
    let wanted = stats.chunk_bytes + stats.log_bytes;
    if stats.read_only || stats.free_bytes < wanted {
        let problem = format!(
            "not enough room for a snapshot: it takes {} and {} are free; use `veghe-collector backup` to another disk",
            format_bytes(wanted),
            format_bytes(stats.free_bytes)
        );
        return Err(ApiError::unavailable(problem));
    }
    let now = clock::now();
    let name = name_of(now).ok_or_else(|| ApiError::internal("no name can be made"))?;
    let made = name.clone();
    let work = tokio::task::spawn_blocking(move || {
        // It goes on where the client goes away.
        let _turn = turn;
        backup::snapshot(&state.data_dir, &state.store, &made, now, &mut |_| ControlFlow::Continue(()))
    });
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(error, "cannot make a snapshot");
        ApiError::internal("cannot make a snapshot; the collector's log says why")
    };
    match work.await {
        Ok(Ok(manifest)) => {
            tracing::info!(name, bytes = manifest.bytes(), "snapshot was made");
            Ok(success(&json!({ "name": name })))
        }
        Ok(Err(error)) => Err(failed(&error)),
        Err(panicked) => Err(failed(&panicked)),
    }
}

/// As Prometheus names them, `20171210T211224Z-2be650b6d019eb54`.
fn name_of(now: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(now.millis()).ok()?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    Some(format!("{}-{:016x}", at.strftime("%Y%m%dT%H%M%SZ"), u64::from_le_bytes(random)))
}

async fn delete_series(State(store): State<Arc<Store>>, parameters: Parameters) -> Result<Response, ApiError> {
    let selectors = parameters.selectors().await.map_err(|error| error.about("match[]"))?;
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
