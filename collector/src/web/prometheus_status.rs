//! What Prometheus' API tells of the program and its store, `/api/v1/status/*`.
//!
//! What it deliberately does not do: measure; it shows what others count.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value as Tree, json};
use veghe_model::{Labels, Timestamp};

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
        "CWD": about.data_dir.display().to_string(),
        "reloadConfigSuccess": true,
        "lastConfigTime": rfc3339(about.started),
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": std::thread::available_parallelism().map_or(1, usize::from),
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
    let limit = parameters.limit()?.unwrap_or(10).min(10_000);
    let data = api
        .select(move |store| {
            let all = store.series_labels(&[], Timestamp::MIN, Timestamp::MAX)?;
            let stats = store.stats();
            let mut data = cardinality(&all, limit);
            data["headStats"] = json!({
                "numSeries": stats.series,
                "numLabelPairs": data["pairs"].take(),
                "chunkCount": 0,
                "minTime": 0,
                "maxTime": 0,
            });
            if let Some(data) = data.as_object_mut() {
                data.remove("pairs");
                data.insert(
                    "vegheStats".to_owned(),
                    json!({
                        "headSamples": stats.head_samples,
                        "headBytes": stats.head_bytes,
                        "logSegments": stats.log_segments,
                        "logBytes": stats.log_bytes,
                        "chunkBytes": stats.chunk_bytes,
                    }),
                );
            }
            Ok(data)
        })
        .await?;
    Ok(success(&data))
}

/// Which names, labels and pairs have most, at most `limit` of each.
fn cardinality(all: &[Labels], limit: usize) -> Tree {
    let mut by_metric: BTreeMap<&str, u64> = BTreeMap::new();
    let mut by_pair: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for labels in all {
        *by_metric.entry(labels.metric_name()).or_default() += 1;
        for label in labels {
            *by_pair.entry((&label.name, &label.value)).or_default() += 1;
        }
    }
    let mut values_by_label: BTreeMap<&str, u64> = BTreeMap::new();
    let mut bytes_by_label: BTreeMap<&str, u64> = BTreeMap::new();
    for ((name, value), series) in &by_pair {
        *values_by_label.entry(name).or_default() += 1;
        *bytes_by_label.entry(name).or_default() += series * value.len() as u64;
    }
    let largest = |counts: Vec<(String, u64)>| -> Tree {
        let mut counts = counts;
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.into_iter().take(limit).map(|(name, value)| json!({ "name": name, "value": value })).collect()
    };
    let named = |counts: &BTreeMap<&str, u64>| counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    json!({
        "pairs": by_pair.len(),
        "seriesCountByMetricName": largest(named(&by_metric)),
        "labelValueCountByLabelName": largest(named(&values_by_label)),
        "memoryInBytesByLabelName": largest(named(&bytes_by_label)),
        "seriesCountByLabelValuePair": largest(
            by_pair.iter().map(|((name, value), n)| (format!("{name}={value}"), *n)).collect()
        ),
    })
}
