//! Everything over HTTP: the operations listener with Prometheus' API, federation, enrolment and the overview page,
//! and the public status pages.
//!
//! Invariant: parts of the collector come in as handles and small traits; none of them knows the web. What it
//! deliberately does not do: bind sockets or decide the order of shutdown (`app`).

pub mod access;
pub mod certificates;
mod compress;
pub mod cors;
mod digitization;
mod encode;
pub mod enrolment;
mod federation;
pub mod guard;
mod icon;
mod import;
mod overview;
mod pace;
mod parameters;
mod process;
mod prometheus_admin;
mod prometheus_api;
mod prometheus_rules;
mod prometheus_status;
mod prometheus_targets;
mod quiet;
mod rate;
mod refusal;
mod remote_read;
mod remote_write;
pub mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use prometheus::Registry;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use veghe_model::{Labels, Timestamp};

pub use self::access::{Access, AccessError, Exposure, FirstLogin, Need, Scope};
pub use self::enrolment::{Enrol, EnrolRefusal};
pub use self::guard::{Bodies, ConnectionMetrics, Guard, Hosts, HttpMetrics};
pub use self::process::register_process_metrics;
pub use self::refusal::Refusal;
pub use self::server::{Limits, Listener, serve};

use self::enrolment::Enrolment;
use self::prometheus_api::Api;
use crate::digitization::Digitization;
use crate::query::QueryService;
use crate::remote::Receiver;

pub mod public;

/// Tables of this module in the ledger.
pub(crate) const SCHEMA: &str = access::SCHEMA;

/// The largest body of a request to the operations listener: forms with queries, enrolments.
const MAX_BODY_BYTES: usize = 256 << 10;

/// How an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Batches come.
    Up,
    /// None came for too long.
    Down,
    /// Enrolled or invited, and nothing came yet.
    Waiting,
    /// Its certificate counts no more.
    Revoked,
}

/// An agent as pages and APIs show it.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// Its id, also the label `instance` of its series.
    pub id: String,
    /// How it does.
    pub state: AgentState,
    /// When its last batch or presence came.
    pub last_seen: Option<Timestamp>,
    /// Its program's version, as told in its last batch.
    pub version: Option<String>,
    /// The settings that the collector gives it.
    pub settings: SettingsView,
}

/// What an agent does with the collector's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SettingsState {
    /// It has none, or never said anything.
    #[default]
    Own,
    /// It runs with them.
    Runs,
    /// It runs with them, on trial.
    Trial,
    /// It is to have others.
    Waits,
    /// It refuses those that it is to have.
    Refused,
}

/// The collector's settings for an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SettingsView {
    /// What it does with them.
    pub state: SettingsState,
    /// Number of those that it runs with.
    pub running: u64,
    /// Number of those that it is to have.
    pub wanted: u64,
    /// Why it refuses them, or does not get what its groups say.
    pub reason: Option<String>,
}

/// Where a found thing is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundLife {
    /// Nobody said anything about it.
    New,
    /// It is watched.
    Watched,
    /// It is there no more.
    Vanished,
}

/// Something that an agent found on its machine.
#[derive(Clone, Debug, Serialize)]
pub struct FoundView {
    /// On whose.
    pub agent: String,
    /// What it is.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// More for a person.
    pub detail: String,
    /// Where it is in its life.
    pub life: FoundLife,
    /// When it was there last.
    #[serde(skip)]
    pub last: Timestamp,
}

/// The agents there are.
pub trait Fleet: Send + Sync + 'static {
    /// Every agent, ascending by id. Called for each page: no disk, no waiting.
    fn agents(&self) -> Vec<AgentView>;
    /// What they found on their machines, by agent, kind and name; without what nobody wants to see. As [`Self::agents`].
    fn found(&self) -> Vec<FoundView>;
}

/// What becomes of reading the rule files again; an error is for a person.
pub type Reloading = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Rules and alerts in the shape that Prometheus' API has. Called for each page: no disk, no waiting.
pub trait AlertingView: Send + Sync + 'static {
    /// Objects with `name`, `file`, `interval`, `rules`, ... as in `data.groups` of `/api/v1/rules`.
    fn rule_groups(&self) -> Vec<serde_json::Value>;
    /// Objects with `labels`, `annotations`, `state`, `activeAt`, `value` as in `data.alerts` of `/api/v1/alerts`.
    fn alerts(&self) -> Vec<serde_json::Value>;
    /// Reads the rule files again; the last good rules stay on an error.
    fn reload(&self) -> Reloading;
}

/// What the collector tells about itself.
#[derive(Clone, Debug)]
pub struct About {
    /// For example `0.1.0`.
    pub version: String,
    /// When the process began.
    pub started: Timestamp,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// How long samples stay, for example `90d`.
    pub retention: String,
    /// The effective configuration, without secrets: it is shown.
    pub config_yaml: String,
    /// Settings by name, for `/api/v1/status/flags`.
    pub flags: BTreeMap<String, String>,
    /// The public status page's address.
    pub status_url: Option<String>,
}

/// What the operations listener shows and does.
pub struct Operations {
    /// Answers queries.
    pub queries: QueryService,
    /// The collector's own metrics.
    pub registry: Registry,
    /// Users and tokens.
    pub access: Access,
    /// Who can reach the listener.
    pub exposure: Exposure,
    /// Names, besides addresses and `localhost`, by which a loopback listener may be called.
    pub host_names: Vec<String>,
    /// Pages of which origins may read the API.
    pub origins: Option<cors::Origins>,
    /// Labels that samples get when they leave by `/federate`.
    pub external_labels: Labels,
    /// Counts requests.
    pub metrics: HttpMetrics,
    /// Admits agents.
    pub enrol: Arc<dyn Enrol>,
    /// The agents.
    pub fleet: Arc<dyn Fleet>,
    /// Rules and alerts.
    pub alerting: Arc<dyn AlertingView>,
    /// The digitization project.
    pub digitization: Digitization,
    /// Whether the collector takes data and answers, for `/-/ready`.
    pub ready: watch::Receiver<bool>,
    /// What it tells about itself.
    pub about: About,
}

impl Operations {
    /// The routes of the operations listener behind all their guards.
    pub fn router(self) -> Router {
        let (access, exposure) = (self.access.clone(), self.exposure);
        let guard = Guard {
            listener: "operations",
            metrics: self.metrics.clone(),
            hosts: match exposure {
                Exposure::Loopback => Hosts::LocalAnd(self.host_names.clone()),
                Exposure::Network => Hosts::Any,
            },
            bodies: Bodies::AtMost(MAX_BODY_BYTES),
        };
        let open = health_routes(self.ready.clone()).merge(
            Router::new().route("/v1/enrol", post(enrolment::enrol)).with_state(Arc::new(Enrolment {
                enrol: Arc::clone(&self.enrol),
                rate: rate::Rate::new(enrolment::BURST, enrolment::REFILL),
            })),
        );
        // The body is large: nobody without a credential gets as far as sending it.
        let intake = Guard { bodies: Bodies::AtMost(remote_write::MAX_BODY_BYTES), ..guard.clone() };
        let writing = intake.checking(remote_write::routes(
            Receiver::new(self.queries.store().clone()),
            self.metrics.remote_write_dropped.clone(),
            self.metrics.remote_write_partial.clone(),
        ));
        let stream = Guard { bodies: Bodies::Streamed, ..guard.clone() };
        let writing = writing.merge(stream.checking(import::routes(self.queries.store().clone())));
        let writing = access.guard(writing, exposure, Need::Credential(Scope::Write));
        let lifecycle =
            Router::new().route("/-/reload", post(reload).put(reload)).with_state(Arc::clone(&self.alerting));
        let lifecycle = lifecycle.merge(prometheus_admin::routes(self.queries.store().clone(), &self.about.data_dir));
        let lifecycle = access.guard(lifecycle, exposure, Need::Credential(Scope::Admin));
        let open = open.merge(lifecycle).route("/-/quit", post(quit).put(quit));
        let (origins, project) = (self.origins.clone(), self.digitization.clone());
        let api = Arc::new(Api {
            parts: self,
            selections: Arc::new(Semaphore::new(prometheus_api::MAX_SELECTIONS)),
            streams: Arc::new(Semaphore::new(remote_read::MAX_STREAMS)),
        });
        let batches = Guard { bodies: Bodies::AtMost(digitization::events::MAX_BODY_BYTES), ..guard.clone() };
        let events = batches.checking(digitization::events::routes(project.clone()));
        let writing = writing.merge(access.guard(events, exposure, Need::Credential(Scope::Events)));
        let operating =
            access.guard(digitization::operating(project.clone()), exposure, Need::Credential(Scope::Operate));
        let floor = access.guard(digitization::floor(project.clone()), exposure, Need::Credential(Scope::Events));
        let people = access.guard(digitization::people(project.clone()), exposure, Need::Credential(Scope::Admin));
        let operating = operating.merge(floor).merge(people);
        let project = digitization::reading(project);
        let reading = prometheus_api::routes()
            .route("/", get(overview::page))
            .route("/operations.css", get(overview::style))
            .route(icon::PATH, get(icon::show))
            .route("/federate", get(federation::federate))
            .route("/metrics", get(federation::metrics))
            .route("/v1/agents", get(agents))
            // Unknown paths ask for the same credential: without it nobody learns which ones exist.
            .fallback(not_found)
            .with_state(api)
            .merge(project);
        let reading = compress::around(access.guard(reading, exposure, Need::Reading));
        let all = cors::around(guard.clone().checking(reading.merge(operating).merge(open)).merge(writing), origins);
        guard.counting(refusal::as_pages(all))
    }
}

/// The public listener's routes: the pages, and its health. Anybody may call it by any name and only read.
pub fn public_site(pages: Router, ready: watch::Receiver<bool>, metrics: HttpMetrics) -> Router {
    let guard = Guard { listener: "status", metrics, hosts: Hosts::Any, bodies: Bodies::AtMost(0) };
    guard.around(pages.merge(health_routes(ready)))
}

/// `/-/healthy` and `/-/ready`, for both listeners: whether the process answers, and whether it is of use.
pub fn health_routes(ready: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/-/healthy", get(async || "Veghe is healthy.\n"))
        .route("/-/ready", get(is_ready))
        .with_state(ready)
}

async fn is_ready(State(ready): State<watch::Receiver<bool>>) -> Response {
    if *ready.borrow() {
        "Veghe is ready.\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Veghe is not ready.\n").into_response()
    }
}

/// As Prometheus with `--web.enable-lifecycle`, for who has the scope `admin`.
async fn reload(State(alerting): State<Arc<dyn AlertingView>>) -> Response {
    match alerting.reload().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(problem) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {problem}\n")).into_response()
        }
    }
}

/// Whoever runs the collector ends it; nobody does from afar.
async fn quit() -> Response {
    (StatusCode::FORBIDDEN, "Lifecycle API is not enabled.\n").into_response()
}

async fn agents(State(api): State<Arc<Api>>) -> Json<serde_json::Value> {
    let agents = api.parts.fleet.agents();
    let agents: Vec<_> = agents
        .iter()
        .map(|agent| {
            json!({
                "id": agent.id,
                "state": agent.state,
                "lastSeen": agent.last_seen.map(prometheus_api::rfc3339),
                "version": agent.version,
                "settings": agent.settings,
            })
        })
        .collect();
    Json(json!({ "agents": agents, "found": api.parts.fleet.found() }))
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}
