//! Prometheus' HTTP API, `/api/v1`: the same parameters, answers, error types, texts and status codes, so that Grafana,
//! promtool and every other client work unchanged.
//!
//! Here are queries and selections; rules, targets and status have files of their own. What it deliberately does not do:
//! evaluate (`query`), or decide who may ask (`access`).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value as Tree, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use veghe_model::{Labels, Matcher, Timestamp};
use veghe_promql::{EvalError, Query, SampleStats, Value};
use veghe_tsdb::ReadError;

use super::encode::{self, EvaluationJson, Pieces, push_labels, push_notes, push_text};
use super::parameters::Parameters;
use super::{Operations, prometheus_rules, prometheus_status, prometheus_targets, remote_read};
use crate::clock;
use crate::query::{Asked, Bounds, Cost, QueryError, When};

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
    /// Streams of remote read, which last as long as their clients like.
    pub(super) streams: Arc<Semaphore>,
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
        .route("/api/v1/format_query", get(format_query).post(format_query))
        .route("/api/v1/parse_query", get(parse_query).post(parse_query))
        .route("/api/v1/read", post(remote_read::read))
        .merge(prometheus_rules::routes())
        .merge(prometheus_targets::routes())
        .merge(prometheus_status::routes())
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

    /// The same error, of this parameter.
    pub(super) fn about(self, name: &str) -> Self {
        Self { message: format!("invalid parameter {name:?}: {}", self.message), ..self }
    }

    fn timeout(message: impl Display) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "timeout", message: message.to_string() }
    }

    fn execution(message: impl Display) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, kind: "execution", message: message.to_string() }
    }

    pub(super) fn unavailable(message: impl Display) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "unavailable", message: message.to_string() }
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
            QueryError::Eval(error @ EvalError::RangeKind(_)) => Self::invalid_parameter("query", error),
            QueryError::Eval(EvalError::Stopped) => Self::timeout("query timed out in query execution"),
            QueryError::Eval(EvalError::Source(cause)) => {
                // Which file is damaged is for the log of the appliance, not for every reader.
                tracing::error!(error = &*cause as &dyn std::error::Error, "cannot read samples for a query");
                Self::internal("cannot read samples; the collector's log says why")
            }
            QueryError::Eval(error @ (EvalError::Timestamp(_) | EvalError::Step | EvalError::EndBeforeStart)) => {
                Self::bad_data(error)
            }
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

pub(super) fn success(data: &Tree) -> Response {
    json_response(format!(r#"{{"status":"success","data":{data}}}"#))
}

/// The query of a request.
async fn parse(parameters: &Parameters) -> Result<Query, ApiError> {
    let text = parameters.get("query").to_owned();
    Ok(compiling(text, Query::parse).await?.map_err(QueryError::from)?)
}

/// What `parse` makes of `text`: on a blocking thread where it may have a regular expression, because one of some kilobytes
/// takes a tenth of a second to compile.
pub(super) async fn compiling<T: Send + 'static>(
    text: String,
    parse: impl FnOnce(&str) -> T + Send + 'static,
) -> Result<T, ApiError> {
    if !text.contains('~') {
        return Ok(parse(&text));
    }
    tokio::task::spawn_blocking(move || parse(&text))
        .await
        .map_err(|_panicked| ApiError::internal("the request could not be read"))
}

async fn query(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.limit()?;
    let at = parameters.time_or("time", clock::now())?;
    let bounds = parameters.bounds()?;
    let query = parse(&parameters).await?;
    let asked = api.parts.queries.ask(query, When::At(at), bounds).await?;
    Ok(evaluation_response(asked, limit, parameters.get("stats")))
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
    let bounds = parameters.bounds()?;
    let query = parse(&parameters).await?;
    let asked = api.parts.queries.ask(query, When::Range { start, end, step }, bounds).await?;
    Ok(evaluation_response(asked, limit, parameters.get("stats")))
}

fn evaluation_response(asked: Asked, limit: Option<usize>, stats: &str) -> Response {
    let Asked { mut evaluation, cost } = asked;
    let limit = limit.unwrap_or(usize::MAX);
    let truncated = match &mut evaluation.value {
        Value::Vector(samples) => truncate(samples, limit),
        Value::Matrix(series) => truncate(series, limit),
        Value::Scalar(..) | Value::String(..) => false,
    };
    if truncated {
        evaluation.warnings.push(TRUNCATED.to_owned());
    }
    let stats = (!stats.is_empty()).then(|| cost_json(&cost, &evaluation.stats, stats == "all").to_string());
    encode::respond(encode::JSON, EvaluationJson::new(evaluation).with_stats(stats))
}

/// `stats` of an answer, in seconds and samples; by step too where all is asked for.
fn cost_json(cost: &Cost, samples: &SampleStats, asks_all: bool) -> Tree {
    let running = cost.reading + cost.evaluating;
    let mut tree = json!({
        "timings": {
            "evalTotalTime": running.as_secs_f64(),
            // Results are made in order.
            "resultSortTime": 0.0,
            "queryPreparationTime": cost.reading.as_secs_f64(),
            "innerEvalTime": cost.evaluating.as_secs_f64(),
            "execQueueTime": cost.queued.as_secs_f64(),
            "execTotalTime": (cost.queued + running).as_secs_f64(),
        },
        "samples": {
            "totalQueryableSamples": samples.total,
            "samplesRead": samples.read,
            "peakSamples": samples.peak,
        },
    });
    if asks_all {
        let steps = samples.per_step.iter().map(|(at, count)| json!([at.seconds(), count]));
        tree["samples"]["totalQueryableSamplesPerStep"] = steps.collect();
    }
    tree
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

    /// Bounds of a query that a client may set.
    fn bounds(&self) -> Result<Bounds, ApiError> {
        let mut lookback = None;
        if !self.get("lookback_delta").is_empty() {
            let ms = self.duration_ms("lookback_delta").map_err(|error| {
                let problem = error.message().split_once(": ").map_or(error.message(), |(_, problem)| problem);
                ApiError::bad_data(format!("error parsing lookback delta duration: {problem}"))
            })?;
            // Zero and what is below it are as if nothing was said.
            lookback = u64::try_from(ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        }
        Ok(Bounds { timeout: self.timeout()?, lookback })
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
        let turn = self.turn().await?;
        let store = self.parts.queries.store().clone();
        let result = tokio::task::spawn_blocking(move || {
            // It goes on where the client goes away, so its turn lasts as long as the work.
            let _turn = turn;
            work(&store)
        })
        .await;
        Ok(result.map_err(|_panicked| ApiError::internal(QueryError::Defect))??)
    }

    /// Waits for the turn of a selection.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.turn_of(&self.selections).await
    }

    /// Waits for one of `turns`.
    pub(super) async fn turn_of(&self, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
        let timeout = self.parts.queries.settings().timeout;
        tokio::time::timeout(timeout, Arc::clone(turns).acquire_owned())
            .await
            .map_err(|_elapsed| ApiError::timeout(QueryError::TimedOutInQueue))?
            .map_err(|_closed| ApiError::internal("the collector is stopping"))
    }

    /// The labels of the series that any of `selectors` takes, or of all where there is none.
    pub(super) async fn label_sets(
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
    let selectors = parameters.selectors().await.map_err(|error| error.about("match[]"))?;
    let found = api.label_sets(selectors, start, end).await?;
    Ok(list(found, limit, push_labels))
}

async fn labels(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = parameters.limit()?;
    let (start, end) = parameters.range()?;
    let found = api.label_sets(parameters.selectors().await?, start, end).await?;
    let names: BTreeSet<Arc<str>> =
        found.iter().flat_map(|labels| labels.iter().map(|label| Arc::clone(&label.name))).collect();
    Ok(list(names.into_iter().collect(), limit, |out, text| push_text(out, text)))
}

async fn label_values(
    State(api): Shared,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let name = unescaped(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {name:?}")));
    }
    let limit = parameters.limit()?;
    let (start, end) = parameters.range()?;
    let found = api.label_sets(parameters.selectors().await?, start, end).await?;
    let values: BTreeSet<Arc<str>> = found
        .iter()
        .flat_map(Labels::iter)
        .filter(|label| *label.name == *name)
        .map(|label| Arc::clone(&label.value))
        .collect();
    Ok(list(values.into_iter().collect(), limit, |out, text| push_text(out, text)))
}

/// A name as `U__` escapes it for places that take letters, digits and `_` only: `__` is `_`, `_2e_` is the character
/// of that number. What is not escaped so stands for itself.
fn unescaped(name: &str) -> Cow<'_, str> {
    let Some(mut rest) = name.strip_prefix("U__") else { return name.into() };
    let mut out = String::new();
    while let Some((plain, escaped)) = rest.split_once('_') {
        out.push_str(plain);
        let Some((code, after)) = escaped.split_once('_') else { return name.into() };
        if code.is_empty() {
            out.push('_');
        } else {
            let character = u32::from_str_radix(code, 16).ok().filter(|_| code.len() <= 6).and_then(char::from_u32);
            let Some(character) = character else { return name.into() };
            out.push(character);
        }
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

/// The query laid out for reading.
async fn format_query(parameters: Parameters) -> Result<Response, ApiError> {
    Ok(success(&json!(parse(&parameters).await?.pretty())))
}

/// The query's tree.
async fn parse_query(parameters: Parameters) -> Result<Response, ApiError> {
    let tree = parse(&parameters).await?.tree().map_err(QueryError::from)?;
    Ok(success(&tree))
}

/// Exemplars are not stored: a query of them is checked and answered with none.
async fn query_exemplars(parameters: Parameters) -> Result<Response, ApiError> {
    let (start, end) = parameters.range()?;
    if end < start {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let text = parameters.get("query").to_owned();
    compiling(text, Query::parse).await?.map_err(ApiError::bad_data)?;
    Ok(success(&json!([])))
}

/// `at` as RFC 3339 in UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.millis()).map_or_else(|_outside| String::new(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_unescaped_and_others_stand_for_themselves() {
        for (name, expected) in [
            ("job", "job"),
            ("a-b", "a-b"),
            ("U__http_2e_method", "http.method"),
            ("U__a__b", "a_b"),
            ("U___219_i", "și"),
            ("U__a_zz_b", "U__a_zz_b"),
            ("U__a_d800_b", "U__a_d800_b"),
            ("U__a_", "U__a_"),
        ] {
            assert_eq!(unescaped(name), expected);
        }
    }
}
