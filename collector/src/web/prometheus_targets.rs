//! Agents in the place of Prometheus' scrape targets, and what is known of metrics.
//!
//! What it deliberately does not do: keep metadata: kind, unit and help are the catalogue's.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value as Tree, json};
use veghe_model::{Labels, METRIC_NAME, Matcher, Timestamp};
use veghe_wire::catalogue::{self, Kind, Metric};

use super::AgentState;
use super::parameters::Parameters;
use super::prometheus_api::{Api, ApiError, rfc3339, success};

type Shared = State<Arc<Api>>;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/targets", get(targets))
        .route("/api/v1/targets/metadata", get(target_metadata))
        .route("/api/v1/scrape_pools", get(scrape_pools))
        .route("/api/v1/metadata", get(metadata))
}

/// The one pool of targets: whoever enrolled.
const SCRAPE_POOL: &str = "agents";

async fn scrape_pools() -> Response {
    success(&json!({ "scrapePools": [SCRAPE_POOL] }))
}

async fn targets(State(api): Shared, parameters: Parameters) -> Response {
    let pool = parameters.get("scrapePool");
    let state = parameters.get("state").to_lowercase();
    let active = ["", "any", "active"].contains(&state.as_str()) && (pool.is_empty() || pool == SCRAPE_POOL);
    let dropped = ["", "any", "dropped"].contains(&state.as_str());
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
    let mut data = json!({ "activeTargets": targets, "droppedTargets": [], "droppedTargetCounts": null });
    if dropped {
        data["droppedTargetCounts"] = json!({ SCRAPE_POOL: 0 });
    }
    success(&data)
}

/// 0001-01-01T00:00:00Z: how Go writes a time that never was.
const GO_ZERO_TIME: Timestamp = Timestamp(-62_135_596_800_000);

/// Kind and help of the catalogue's metrics; those that the kernel names come with their names as stored.
async fn metadata(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = number(&parameters, "limit")?;
    // One source of metadata gives each metric one entry: no limit leaves anything out.
    number(&parameters, "limit_per_metric")?;
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
        if limit.is_some_and(|limit| data.len() >= limit) {
            break;
        }
        data.insert(family(metric, &name).to_owned(), json!([entry(metric, &name)]));
    }
    Ok(success(&Tree::Object(data)))
}

/// The same by the instance and job that have the metric.
async fn target_metadata(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let limit = number(&parameters, "limit")?.unwrap_or(usize::MAX);
    let mut matchers = match parameters.get("match_target") {
        "" => vec![],
        text => {
            veghe_promql::parse_selector(text).map_err(|error| ApiError::invalid_parameter("match_target", error))?
        }
    };
    let metric = parameters.get("metric").to_owned();
    if !metric.is_empty() {
        matchers.push(Matcher::equal(METRIC_NAME, metric.as_str()));
    }
    let found = api.label_sets(vec![matchers], Timestamp::MIN, Timestamp::MAX).await?;
    let seen: BTreeSet<(Labels, String)> = found
        .iter()
        .map(|labels| (labels.filter(|name| name == "instance" || name == "job"), labels.metric_name().to_owned()))
        .collect();
    let mut told = BTreeSet::new();
    let mut data = Vec::new();
    for (target, name) in &seen {
        let Some(known) = catalogue::lookup(name) else { continue };
        if data.len() >= limit {
            break;
        }
        let family = family(known, name);
        if !told.insert((target, family)) {
            continue;
        }
        let labels: serde_json::Map<String, Tree> =
            target.iter().map(|label| (label.name.to_string(), json!(*label.value))).collect();
        let mut one = entry(known, name);
        one["target"] = Tree::Object(labels);
        if metric.is_empty() {
            one["metric"] = json!(family);
        }
        data.push(one);
    }
    Ok(success(&Tree::Array(data)))
}

fn entry(metric: &Metric, name: &str) -> Tree {
    let kind = match metric.kind {
        Kind::Untyped => "unknown",
        kind => kind.as_str(),
    };
    json!({ "type": kind, "help": metric.help_for(name), "unit": "" })
}

/// The name under which a series of `metric` called `name` is documented.
fn family<'a>(metric: &Metric, name: &'a str) -> &'a str {
    let stem = || ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    if metric.kind == Kind::Histogram { stem().unwrap_or(name) } else { name }
}

/// A limit; what is below zero is none, as its absence is.
fn number(parameters: &Parameters, name: &str) -> Result<Option<usize>, ApiError> {
    let text = parameters.get(name);
    if text.is_empty() {
        return Ok(None);
    }
    let number: i64 = text.parse().map_err(|_text| ApiError::bad_data(format!("{name} must be a number")))?;
    Ok(usize::try_from(number).ok())
}
