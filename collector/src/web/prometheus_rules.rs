//! Rules and alerts of Prometheus' API, with its filters and pages (`web/api/v1/api.go`).
//!
//! What it deliberately does not do: evaluate or change them (`alerting`).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value as Tree, json};
use sha2::{Digest as _, Sha256};
use veghe_model::{Labels, Matcher};

use super::parameters::Parameters;
use super::prometheus_api::{Api, ApiError, success};

type Shared = State<Arc<Api>>;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/rules", get(rules))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/alertmanagers", get(alertmanagers))
        .route("/api/v1/notifications", get(async || success(&json!([]))))
        // Nothing is told there, and a client that would wait for it goes.
        .route("/api/v1/notifications/live", get(async || StatusCode::NO_CONTENT.into_response()))
}

/// Which rules are asked for.
struct Filter<'a> {
    kind: Option<&'static str>,
    names: BTreeSet<&'a str>,
    matchers: Vec<Vec<Matcher>>,
    exclude_alerts: bool,
}

impl Filter<'_> {
    fn wants(&self, rule: &Tree) -> bool {
        let labels = || Labels::from_pairs(rule["labels"].as_object().into_iter().flatten().map(pair));
        self.kind.is_none_or(|kind| rule["type"] == kind)
            && (self.names.is_empty() || rule["name"].as_str().is_some_and(|name| self.names.contains(name)))
            && (self.matchers.is_empty() || {
                let labels = labels();
                self.matchers.iter().any(|all| all.iter().all(|matcher| matcher.matches_labels(&labels)))
            })
    }
}

fn pair<'a>((name, value): (&'a String, &'a Tree)) -> (&'a str, &'a str) {
    (name, value.as_str().unwrap_or(""))
}

async fn rules(State(api): Shared, parameters: Parameters) -> Result<Response, ApiError> {
    let kind = match parameters.get("type").to_lowercase().as_str() {
        "" => None,
        "alert" => Some("alerting"),
        "record" => Some("recording"),
        other => return Err(ApiError::invalid_parameter("type", format!("not supported value {other:?}"))),
    };
    let set = |name| parameters.all(name).collect::<BTreeSet<&str>>();
    let filter = Filter {
        kind,
        names: set("rule_name[]"),
        matchers: parameters.selectors().await?,
        exclude_alerts: parse_bool(&parameters, "exclude_alerts")?,
    };
    let (groups, files) = (set("rule_group[]"), set("file[]"));
    let limit = group_limit(&parameters)?;
    let token = parameters.get("group_next_token");
    if limit.is_none() && !token.is_empty() {
        let problem = "group_limit needs to be present in order to paginate over the groups";
        return Err(ApiError::invalid_parameter("group_next_token", problem));
    }
    let mut found = token.is_empty();
    let (mut page, mut next) = (Vec::new(), None);
    for mut group in api.parts.alerting.rule_groups() {
        found = found || token == token_of(&group);
        let name_of = |key| group[key].as_str().unwrap_or("");
        if !found
            || !(groups.is_empty() || groups.contains(name_of("name")))
            || !(files.is_empty() || files.contains(name_of("file")))
        {
            continue;
        }
        if let Some(rules) = group["rules"].as_array_mut() {
            rules.retain(|rule| filter.wants(rule));
            for rule in rules.iter_mut().filter(|rule| filter.exclude_alerts && rule["type"] == "alerting") {
                rule["alerts"] = Tree::Null;
            }
            if rules.is_empty() {
                continue;
            }
        }
        if limit == Some(page.len()) {
            next = Some(token_of(&group));
            break;
        }
        page.push(group);
    }
    if !found {
        let problem = format!("invalid group_next_token '{token}'. were rule groups changed?");
        return Err(ApiError::invalid_parameter("group_next_token", problem));
    }
    let mut data = json!({ "groups": page });
    if let Some(next) = next {
        data["groupNextToken"] = json!(next);
    }
    Ok(success(&data))
}

fn group_limit(parameters: &Parameters) -> Result<Option<usize>, ApiError> {
    let text = parameters.get("group_limit");
    if text.is_empty() {
        return Ok(None);
    }
    let problem = |problem: String| ApiError::invalid_parameter("group_limit", problem);
    match text.parse::<i64>().map(usize::try_from) {
        Ok(Ok(limit)) if limit > 0 => Ok(Some(limit)),
        Ok(_) => Err(problem("group_limit needs to be greater than 0".to_owned())),
        Err(_not_a_number) => Err(problem(format!(
            "group_limit needs to be a valid number: strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))),
    }
}

/// What Go's `strconv.ParseBool` takes; absent is false.
fn parse_bool(parameters: &Parameters, name: &str) -> Result<bool, ApiError> {
    match parameters.get(name) {
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        other => Err(ApiError::invalid_parameter(
            name,
            format!("error converting {name}: strconv.ParseBool: parsing {other:?}: invalid syntax"),
        )),
    }
}

/// Names a group to a client that goes on later; nobody reads anything else from it.
fn token_of(group: &Tree) -> String {
    let text = |key| group[key].as_str().unwrap_or("");
    let digest = Sha256::digest(format!("{};{}", text("file"), text("name")));
    digest
        .iter()
        .take(20)
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|n| char::from_digit(n.into(), 16))
        .collect()
}

async fn alerts(State(api): Shared) -> Response {
    success(&json!({ "alerts": api.parts.alerting.alerts() }))
}

/// Notifications leave by webhook and mail, not through another Alertmanager.
async fn alertmanagers() -> Response {
    success(&json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] }))
}
