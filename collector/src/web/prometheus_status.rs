//! What Prometheus' API tells of the program and its store, `/api/v1/status/*`.
//!
//! What it deliberately does not do: measure; it shows what others count.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value as Tree, json};

use super::parameters::Parameters;
use super::prometheus_api::{Api, ApiError, rfc3339, success};

type Shared = State<Arc<Api>>;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/status/buildinfo", get(build_info))
        .route("/api/v1/status/runtimeinfo", get(runtime_info))
        .route("/api/v1/status/config", get(config))
        .route("/api/v1/status/flags", get(flags))
        .route("/api/v1/status/tsdb", get(tsdb))
        .route("/api/v1/status/walreplay", get(wal_replay))
}

async fn build_info(State(api): Shared) -> Response {
    // Grafana reads the version to know which features it may use: it is that of the Prometheus whose semantics we
    // follow, and `veghe` has our own.
    success(&json!({
        "version": "3.0.0",
        "revision": "",
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
        "veghe": api.parts.about.version,
    }))
}

async fn runtime_info(State(api): Shared) -> Response {
    let about = &api.parts.about;
    success(&json!({
        "startTime": rfc3339(about.started),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "serverTime": rfc3339(crate::clock::now()),
        "CWD": about.data_dir.display().to_string(),
        "reloadConfigSuccess": true,
        "lastConfigTime": rfc3339(about.started),
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": std::thread::available_parallelism().map_or(1, usize::from),
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": about.retention,
    }))
}

async fn config(State(api): Shared) -> Response {
    success(&json!({ "yaml": api.parts.about.config_yaml }))
}

async fn flags(State(api): Shared) -> Json<Tree> {
    Json(json!({ "status": "success", "data": api.parts.about.flags }))
}

/// The log is replayed before anything listens, so it is always done here.
async fn wal_replay() -> Response {
    success(&json!({ "min": 0, "max": 0, "current": 0, "state": "done" }))
}

async fn tsdb(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = match parameters.get("limit") {
        "" => 10,
        text => text
            .parse::<usize>()
            .ok()
            .filter(|limit| *limit > 0)
            .ok_or_else(|| ApiError::bad_data("limit must be a positive number"))?
            .min(10_000),
    };
    let data = api
        .select(move |store| {
            let (stats, shape, report) = (store.stats(), store.head_shape(), store.cardinality(limit));
            let largest = |counts: &[(String, u64)]| -> Tree {
                counts.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
            };
            let data = json!({
                "headStats": {
                    "numSeries": report.series,
                    "numLabelPairs": report.label_pairs,
                    "chunkCount": shape.pieces,
                    // An empty head has Go's extremes in Prometheus too.
                    "minTime": shape.span.map_or(i64::MAX, |span| span.0.millis()),
                    "maxTime": shape.span.map_or(i64::MIN, |span| span.1.millis()),
                },
                "seriesCountByMetricName": largest(&report.series_by_metric),
                "labelValueCountByLabelName": largest(&report.values_by_label),
                "memoryInBytesByLabelName": largest(&report.bytes_by_label),
                "seriesCountByLabelValuePair": largest(&report.series_by_pair),
                "vegheStats": {
                    "headSamples": stats.head_samples,
                    "headBytes": stats.head_bytes,
                    "logSegments": stats.log_segments,
                    "logBytes": stats.log_bytes,
                    "chunkBytes": stats.chunk_bytes,
                    "freeBytes": stats.free_bytes,
                    "readOnly": stats.read_only,
                    "seriesCountByLabelName": largest(&report.series_by_label),
                },
            });
            Ok(data)
        })
        .await?;
    Ok(success(&data))
}
