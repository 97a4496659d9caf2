//! Prometheus' HTTP API, `/api/v1`: the same parameters, answers, error types, texts and status codes, so that Grafana,
//! promtool and every other client work unchanged.
//!
//! What it deliberately does not do: evaluate (`query`), or decide who may ask (`access`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value as Tree, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use veghe_model::{Labels, Matcher, Timestamp, is_label_name};
use veghe_promql::{EvalError, Evaluation, Query, Value};
use veghe_tsdb::ReadError;
use veghe_wire::catalogue::{self, Kind, Metric};

use super::encode::{self, EvaluationJson, Pieces, push_labels, push_notes, push_text};
use super::parameters::Parameters;
use super::{AgentState, Operations, remote_read};
use crate::clock;
use crate::query::QueryError;

/// The most points that one series of a range may have.
const MAX_POINTS: i64 = 11_000;
/// Selections (series, labels, federation) that run at once; the others wait.
pub(super) const MAX_SELECTIONS: usize = 4;
/// What Prometheus says where it left something out.
const TRUNCATED: &str = "results truncated due to limit";

/// What the handlers share.
pub(super) struct Api {
    pub(super) parts: Operations,
    pub(super) selections: Arc<Semaphore>,
}

type Shared = State<Arc<Api>>;

/// Every route of the API, all of them only reading.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/query_exemplars", get(query_exemplars).post(query_exemplars))
        .route("/api/v1/read", post(remote_read::read))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/rules", get(rules))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/alertmanagers", get(alertmanagers))
        .route("/api/v1/targets", get(targets))
        .route("/api/v1/scrape_pools", get(scrape_pools))
        .route("/api/v1/status/buildinfo", get(build_info))
        .route("/api/v1/status/runtimeinfo", get(runtime_info))
        .route("/api/v1/status/config", get(config))
        .route("/api/v1/status/flags", get(flags))
        .route("/api/v1/status/tsdb", get(tsdb))
        .route("/api/v1/status/walreplay", get(wal_replay))
}

/// An error in Prometheus' form.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn bad_data(message: impl Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", message: message.to_string() }
    }

    pub(super) fn invalid_parameter(name: &str, problem: impl Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {problem}"))
    }

    fn timeout(message: impl Display) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "timeout", message: message.to_string() }
    }

    fn execution(message: impl Display) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, kind: "execution", message: message.to_string() }
    }

    pub(super) fn internal(message: impl Display) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "internal", message: message.to_string() }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Parse(error) => Self::invalid_parameter("query", error),
            QueryError::Eval(EvalError::Stopped) => Self::timeout("query timed out in query execution"),
            QueryError::Eval(EvalError::Source(cause)) => {
                // Which file is damaged is for the log of the appliance, not for every reader.
                tracing::error!(error = &*cause as &dyn std::error::Error, "cannot read samples for a query");
                Self::internal("cannot read samples; the collector's log says why")
            }
            QueryError::Eval(
                error @ (EvalError::RangeKind(_)
                | EvalError::Timestamp(_)
                | EvalError::Step
                | EvalError::EndBeforeStart),
            ) => Self::bad_data(error),
            QueryError::Eval(error) => Self::execution(error),
            QueryError::TimedOutInQueue => Self::timeout(error),
            QueryError::Defect => Self::internal(error),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        // Which file is damaged is for the log of the appliance, not for every reader.
        tracing::error!(error = &error as &dyn std::error::Error, "cannot read samples");
        Self::internal("cannot read samples; the collector's log says why")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut out = format!(r#"{{"status":"error","errorType":"{}","error":"#, self.kind);
        push_text(&mut out, &self.message);
        out.push('}');
        (self.status, json_response(out)).into_response()
    }
}

pub(super) fn json_response(text: String) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(encode::JSON));
    response
}

fn success(data: &Tree) -> Response {
    json_response(format!(r#"{{"status":"success","data":{data}}}"#))
}

async fn query(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.limit()?;
    let at = parameters.time_or("time", clock::now())?;
    let timeout = parameters.timeout()?;
    let query = Query::parse(parameters.get("query")).map_err(QueryError::from)?;
    let evaluation = api.parts.queries.instant(query, at, timeout).await?;
    Ok(evaluation_response(evaluation, limit))
}

async fn query_range(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.limit()?;
    let start = parameters.time("start")?;
    let end = parameters.time("end")?;
    if end < start {
        return Err(ApiError::invalid_parameter("end", "end timestamp must not be before start time"));
    }
    let step = parameters.step()?;
    let step_ms = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
    if (end.millis() - start.millis()) / step_ms > MAX_POINTS {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let timeout = parameters.timeout()?;
    let query = Query::parse(parameters.get("query")).map_err(QueryError::from)?;
    let evaluation = api.parts.queries.range(query, start, end, step, timeout).await?;
    Ok(evaluation_response(evaluation, limit))
}

fn evaluation_response(mut evaluation: Evaluation, limit: Option<usize>) -> Response {
    let limit = limit.unwrap_or(usize::MAX);
    let truncated = match &mut evaluation.value {
        Value::Vector(samples) => truncate(samples, limit),
        Value::Matrix(series) => truncate(series, limit),
        Value::Scalar(..) | Value::String(..) => false,
    };
    if truncated {
        evaluation.warnings.push(TRUNCATED.to_owned());
    }
    encode::respond(encode::JSON, EvaluationJson::new(evaluation))
}

fn truncate<T>(items: &mut Vec<T>, limit: usize) -> bool {
    let truncated = items.len() > limit;
    items.truncate(limit);
    truncated
}

impl Parameters {
    fn step(&self) -> Result<Duration, ApiError> {
        let text = self.get("step");
        let ms = self.duration_ms("step")?;
        // What is below a millisecond is one: time stamps have no finer grain.
        let tiny = ms == 0 && text.parse::<f64>().is_ok_and(|seconds| seconds > 0.0);
        match u64::try_from(ms) {
            Ok(ms) if ms > 0 || tiny => Ok(Duration::from_millis(ms.max(1))),
            _ => Err(ApiError::invalid_parameter(
                "step",
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            )),
        }
    }

    fn range(&self) -> Result<(Timestamp, Timestamp), ApiError> {
        Ok((self.time_or("start", Timestamp::MIN)?, self.time_or("end", Timestamp::MAX)?))
    }
}

impl Api {
    /// Runs `work` on a blocking thread, a few at once.
    pub(super) async fn select<T: Send + 'static>(
        &self,
        work: impl FnOnce(&veghe_tsdb::Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _turn = self.turn().await?;
        let store = self.parts.queries.store().clone();
        let result = tokio::task::spawn_blocking(move || work(&store)).await;
        Ok(result.map_err(|_panicked| ApiError::internal(QueryError::Defect))??)
    }

    /// Waits for the turn of a selection.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let timeout = self.parts.queries.settings().timeout;
        tokio::time::timeout(timeout, Arc::clone(&self.selections).acquire_owned())
            .await
            .map_err(|_elapsed| ApiError::timeout(QueryError::TimedOutInQueue))?
            .map_err(|_closed| ApiError::internal("the collector is stopping"))
    }

    /// The labels of the series that any of `selectors` takes, or of all where there is none.
    async fn label_sets(
        &self,
        selectors: Vec<Vec<Matcher>>,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<Labels>, ApiError> {
        if end < start {
            return Ok(vec![]);
        }
        self.select(move |store| match selectors.as_slice() {
            [] => store.series_labels(&[], start, end),
            [one] => store.series_labels(one, start, end),
            several => {
                let mut all = BTreeSet::new();
                for matchers in several {
                    all.extend(store.series_labels(matchers, start, end)?);
                }
                Ok(all.into_iter().collect())
            }
        })
        .await
    }
}

/// A list as the data of a success, cut at `limit`.
fn list<T: Send + Unpin + 'static>(mut items: Vec<T>, limit: Option<usize>, push: fn(&mut String, &T)) -> Response {
    let truncated = truncate(&mut items, limit.unwrap_or(usize::MAX));
    encode::respond(encode::JSON, ListJson { items: items.into_iter(), push, truncated, begun: false })
}

struct ListJson<T> {
    items: std::vec::IntoIter<T>,
    push: fn(&mut String, &T),
    truncated: bool,
    begun: bool,
}

impl<T: Send + Unpin + 'static> Pieces for ListJson<T> {
    fn write(&mut self, out: &mut String) -> bool {
        let item = self.items.next();
        out.push_str(match (self.begun, item.is_some()) {
            (false, _) => r#"{"status":"success","data":["#,
            (true, true) => ",",
            (true, false) => "",
        });
        self.begun = true;
        if let Some(item) = item {
            (self.push)(out, &item);
            return true;
        }
        out.push(']');
        if self.truncated {
            push_notes(out, "warnings", &[TRUNCATED.to_owned()]);
        }
        out.push('}');
        false
    }
}

async fn series(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    if parameters.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let limit = parameters.limit()?;
    let (start, end) = parameters.range()?;
    let found = api.label_sets(parameters.matchers()?, start, end).await?;
    Ok(list(found, limit, push_labels))
}

async fn labels(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.limit()?;
    let (start, end) = parameters.range()?;
    let found = api.label_sets(parameters.matchers()?, start, end).await?;
    let names: BTreeSet<Arc<str>> =
        found.iter().flat_map(|labels| labels.iter().map(|label| Arc::clone(&label.name))).collect();
    Ok(list(names.into_iter().collect(), limit, |out, text| push_text(out, text)))
}

async fn label_values(
    State(api): Shared,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    if !is_label_name(&name) {
        return Err(ApiError::bad_data(format!("invalid label name: {name:?}")));
    }
    let limit = parameters.limit()?;
    let (start, end) = parameters.range()?;
    let found = api.label_sets(parameters.matchers()?, start, end).await?;
    let values: BTreeSet<Arc<str>> = found
        .iter()
        .flat_map(Labels::iter)
        .filter(|label| *label.name == *name)
        .map(|label| Arc::clone(&label.value))
        .collect();
    Ok(list(values.into_iter().collect(), limit, |out, text| push_text(out, text)))
}

/// Exemplars are not stored: a query of them is checked and answered with none.
async fn query_exemplars(parameters: Parameters) -> Result<Response, ApiError> {
    let (start, end) = parameters.range()?;
    if end < start {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    Query::parse(parameters.get("query")).map_err(ApiError::bad_data)?;
    Ok(success(&json!([])))
}

/// Kind and help of the catalogue's metrics; those that the kernel names come with their names as stored.
async fn metadata(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.limit()?.unwrap_or(usize::MAX);
    let wanted = parameters.get("metric").to_owned();
    let names: BTreeSet<String> = if wanted.is_empty() {
        let found = api.label_sets(vec![], Timestamp::MIN, Timestamp::MAX).await?;
        found.iter().map(|labels| labels.metric_name().to_owned()).collect()
    } else {
        BTreeSet::from([wanted])
    };
    let mut data = serde_json::Map::new();
    for name in names {
        let Some(metric) = catalogue::lookup(&name) else { continue };
        if data.len() == limit {
            break;
        }
        let kind = match metric.kind {
            Kind::Untyped => "unknown",
            kind => kind.as_str(),
        };
        let entry = json!([{ "type": kind, "help": metric.help_for(&name), "unit": "" }]);
        data.insert(family(metric, &name).to_owned(), entry);
    }
    Ok(success(&Tree::Object(data)))
}

/// The name under which a series of `metric` called `name` is documented.
fn family<'a>(metric: &Metric, name: &'a str) -> &'a str {
    let stem = || ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    if metric.kind == Kind::Histogram { stem().unwrap_or(name) } else { name }
}

async fn rules(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let kind = match parameters.get("type") {
        "" => None,
        "alert" => Some("alerting"),
        "record" => Some("recording"),
        other => return Err(ApiError::invalid_parameter("type", format!("not supported value {other:?}"))),
    };
    let mut groups = api.parts.alerting.rule_groups();
    if let Some(kind) = kind {
        for rules in groups.iter_mut().filter_map(|group| group["rules"].as_array_mut()) {
            rules.retain(|rule| rule["type"] == kind);
        }
    }
    Ok(success(&json!({ "groups": groups })))
}

async fn alerts(State(api): Shared) -> Response {
    success(&json!({ "alerts": api.parts.alerting.alerts() }))
}

/// Notifications leave by webhook and mail, not through another Alertmanager.
async fn alertmanagers() -> Response {
    success(&json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] }))
}

async fn scrape_pools() -> Response {
    success(&json!({ "scrapePools": [SCRAPE_POOL] }))
}

/// The one pool of targets: whoever enrolled.
const SCRAPE_POOL: &str = "agents";

/// Agents in the place of scrape targets.
async fn targets(State(api): Shared, parameters: Parameters) -> Response {
    let pool = parameters.get("scrapePool");
    let state = parameters.get("state").to_lowercase();
    let active = ["", "any", "active"].contains(&state.as_str()) && (pool.is_empty() || pool == SCRAPE_POOL);
    let agents = if active { api.parts.fleet.agents() } else { vec![] };
    let targets: Vec<_> = agents
        .iter()
        .filter(|agent| agent.state != AgentState::Revoked)
        .map(|agent| {
            let (health, error) = match agent.state {
                AgentState::Up => ("up", ""),
                AgentState::Waiting | AgentState::Revoked => ("unknown", ""),
                AgentState::Down => ("down", "nothing came from this agent lately"),
            };
            let labels = json!({ "instance": agent.id, "job": "node" });
            json!({
                "discoveredLabels": labels,
                "labels": labels,
                "scrapePool": SCRAPE_POOL,
                "scrapeUrl": format!("veghe-agent://{}", agent.id),
                "globalUrl": format!("veghe-agent://{}", agent.id),
                "lastError": error,
                "lastScrape": rfc3339(agent.last_seen.unwrap_or(GO_ZERO_TIME)),
                "lastScrapeDuration": 0.0,
                "health": health,
                "scrapeInterval": "",
                "scrapeTimeout": "",
            })
        })
        .collect();
    success(&json!({ "activeTargets": targets, "droppedTargets": [] }))
}

/// 0001-01-01T00:00:00Z: how Go writes a time that never was.
const GO_ZERO_TIME: Timestamp = Timestamp(-62_135_596_800_000);

/// `at` as RFC 3339 in UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.millis()).map_or_else(|_outside| String::new(), |t| t.to_string())
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
