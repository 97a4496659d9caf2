//! The status of the services that the public knows: components, their state now and their past, ready to be shown.
//!
//! Invariants: readers get a finished [`Snapshot`] and never cause a query; one task owns the history; what is not
//! known is said to be unknown, never down. What it deliberately does not do: know pages, languages' words or HTTP
//! (`web::public`).

pub mod components;
pub mod history;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use veghe_model::Timestamp;
use veghe_promql::{Query, Value};

use self::components::Plan;
pub use self::components::{ComponentError, ComponentSettings, ComponentSource, Localized, Need, State, judge};
pub use self::history::{Cell, Day, History, Interval, Shares};
use crate::clock;
use crate::ledger::{Ledger, LedgerError};
use crate::query::QueryService;

/// Tables of this module in the ledger.
pub(crate) const SCHEMA: &str = "
CREATE TABLE status_interval (
    component TEXT    NOT NULL,
    start_ms  INTEGER NOT NULL,
    end_ms    INTEGER NOT NULL,
    state     INTEGER NOT NULL,
    PRIMARY KEY (component, start_ms)
) STRICT, WITHOUT ROWID;
";

/// How long after the start components without data are said to be looked at, and looked at more often.
const SETTLING: Duration = Duration::from_mins(2);
/// The time between evaluations while settling.
const SETTLING_INTERVAL: Duration = Duration::from_secs(5);
/// A component that comes from data stays on the page for so long after its data ended.
const REMEMBERED: Duration = Duration::from_hours(24);
/// Components that come from data; more would make no page that anybody reads.
const MAX_INSTANCES: usize = 2000;
/// Changes shown in words per component.
const MAX_CHANGES: usize = 10;

/// What the status page shows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose page it is.
    pub name: Localized,
    /// Its address from outside, without a slash at the end; empty where nobody said.
    pub url: String,
    /// Decides days and how times are written; Europe/Bucharest.
    pub time_zone: TimeZone,
    /// Time between evaluations; 30 s.
    pub interval: Duration,
    /// The components; every machine by default.
    pub components: ComponentSource,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: Localized { ro: "Starea serviciilor".to_owned(), en: "Service status".to_owned() },
            url: String::new(),
            time_zone: TimeZone::get("Europe/Bucharest").unwrap_or(TimeZone::UTC),
            interval: Duration::from_secs(30),
            components: ComponentSource::default(),
        }
    }
}

/// Why the status can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// A component is wrong.
    #[error("cannot use the components of the status page")]
    Component(#[from] ComponentError),
    /// The past can't be read.
    #[error("cannot read the history of the status page")]
    History(#[from] LedgerError),
}

/// All components in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overall {
    /// There is no component.
    Empty,
    /// Nothing is known yet: the collector has just started.
    Checking,
    /// Nothing is known.
    Unknown,
    /// All that is known works.
    Operational,
    /// Announced work, and nothing worse.
    Maintenance,
    /// Something works worse than it should.
    Degraded,
    /// Something is down.
    PartialOutage,
    /// Everything that is known is down.
    MajorOutage,
}

/// A component as shown.
#[derive(Clone, Debug)]
pub struct ComponentView {
    /// See [`ComponentSettings::id`].
    pub id: String,
    /// What visitors read.
    pub name: Localized,
    /// What it is for.
    pub description: Option<Localized>,
    /// The heading that it stands below.
    pub group: Option<Localized>,
    /// Now.
    pub state: State,
    /// When anything was known for the first time, within what is kept.
    pub first_known: Option<Timestamp>,
    /// When the present state began, where that is known.
    pub since: Option<Timestamp>,
    /// The last 24 hours, oldest first.
    pub cells: Vec<Cell>,
    /// What the cells add up to.
    pub last_day: Shares,
    /// The newest stretches of the last 24 hours that were not operational, newest first; at most 10.
    pub troubles: Vec<Interval>,
    /// The last 90 days, oldest first.
    pub days: Vec<Day>,
}

/// Everything that pages need, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every snapshot: the same number is the same content.
    pub generation: u64,
    /// Whose page it is.
    pub name: Localized,
    /// See [`Settings::url`].
    pub url: String,
    /// How times are written.
    pub time_zone: TimeZone,
    /// When it was made.
    pub at: Timestamp,
    /// Whether the collector has just started, so that missing data is on its way.
    pub settling: bool,
    /// All components in one word.
    pub overall: Overall,
    /// In the order of the configuration; by name where they come from data.
    pub components: Vec<ComponentView>,
}

/// The newest snapshot, for readers. Cloning shares it.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    current: Arc<RwLock<Arc<Snapshot>>>,
}

impl StatusHandle {
    /// A handle that shows `snapshot` until [`StatusHandle::publish`].
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(snapshot))) }
    }

    /// The newest snapshot; a reference count, nothing more.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows `snapshot` from now on.
    pub fn publish(&self, snapshot: Snapshot) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }
}

/// A component and what was just seen of it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// See [`ComponentSettings::id`].
    pub id: String,
    /// What visitors read.
    pub name: Localized,
    /// What it is for.
    pub description: Option<Localized>,
    /// The heading that it stands below.
    pub group: Option<Localized>,
    /// Its state.
    pub state: State,
}

/// All components in one word; missing data is no fault.
pub fn overall(states: &[State], settling: bool) -> Overall {
    let known = || states.iter().filter(|state| **state != State::Unknown);
    let down = |state: &State| matches!(state, State::PartialOutage | State::MajorOutage);
    if known().next().is_none() {
        return match (settling, states.is_empty()) {
            (true, _) => Overall::Checking,
            (false, true) => Overall::Empty,
            (false, false) => Overall::Unknown,
        };
    }
    if known().all(|state| *state == State::MajorOutage) {
        Overall::MajorOutage
    } else if known().any(down) {
        Overall::PartialOutage
    } else if known().any(|state| *state == State::Degraded) {
        Overall::Degraded
    } else if known().any(|state| *state == State::Maintenance) {
        Overall::Maintenance
    } else {
        Overall::Operational
    }
}

/// The snapshot of `observed` and its past at `at`.
pub fn snapshot(
    settings: &Settings,
    generation: u64,
    at: Timestamp,
    settling: bool,
    observed: Vec<Observed>,
    history: &History,
) -> Snapshot {
    let days = history::days_until(at, &settings.time_zone, history::KEPT_DAYS).unwrap_or_else(|error| {
        warn!(%error, "cannot show days on the status page");
        Vec::new()
    });
    let states: Vec<State> = observed.iter().map(|component| component.state).collect();
    let components = observed.into_iter().map(|component| {
        let cells = history.cells(&component.id, at);
        let (start, end) = (cells[0].start, cells[history::CELLS - 1].end);
        let all = history.intervals(&component.id, Timestamp::MIN, Timestamp::MAX);
        let current = all.last().filter(|newest| newest.state == component.state && newest.end == at);
        let troubles = history.intervals(&component.id, start, end).into_iter().rev();
        ComponentView {
            state: component.state,
            first_known: all.first().map(|first| first.start),
            since: current.map(|newest| newest.start),
            last_day: history.shares(&component.id, start, end),
            troubles: troubles.filter(|i| i.state != State::Operational).take(MAX_CHANGES).collect(),
            days: history.days(&component.id, &days),
            cells,
            id: component.id,
            name: component.name,
            description: component.description,
            group: component.group,
        }
    });
    Snapshot {
        generation,
        name: settings.name.clone(),
        url: settings.url.clone(),
        time_zone: settings.time_zone.clone(),
        at,
        settling,
        overall: overall(&states, settling),
        components: components.collect(),
    }
}

/// Evaluates components and keeps their history.
#[derive(Debug)]
pub struct Status {}

impl Status {
    /// Starts the evaluation on `tasks` until `stop`. The first snapshot says what the ledger knows, and that the
    /// state is being looked at.
    ///
    /// # Errors
    /// [`StatusError`]: an expression does not parse, or the ledger can't be read.
    pub fn start(
        settings: Settings,
        ledger: Ledger,
        queries: QueryService,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<StatusHandle, StatusError> {
        let plan = Plan::new(settings.components.clone())?;
        // Two missed evaluations are a hiccup; more is time without observation.
        let max_gap = settings.interval * 5 / 2;
        let history = ledger.with(|connection| History::load(max_gap, connection))?;
        let started = clock::now();
        let observed = unobserved(&plan, &history, started);
        let handle = StatusHandle::new(snapshot(&settings, 0, started, true, observed, &history));
        let keeper =
            Keeper { settings, plan, ledger, queries, history, handle: handle.clone(), started, generation: 0 };
        tasks.spawn(keeper.run(stop));
        Ok(handle)
    }
}

/// The components that are known without asking, their state unknown.
fn unobserved(plan: &Plan, history: &History, now: Timestamp) -> Vec<Observed> {
    match plan {
        Plan::Configured(list) => {
            list.iter().map(|component| of_settings(&component.settings, State::Unknown)).collect()
        }
        Plan::PerInstance(_) => history
            .known_since(now.saturating_sub(REMEMBERED))
            .filter_map(|id| id.strip_prefix(INSTANCE_PREFIX))
            .map(|instance| of_instance(instance, State::Unknown))
            .collect(),
    }
}

/// Begins the ids of components that come from data, so that they never meet a configured one.
const INSTANCE_PREFIX: &str = "instance:";

fn of_settings(settings: &ComponentSettings, state: State) -> Observed {
    Observed {
        id: settings.id.clone(),
        name: settings.name.clone(),
        description: settings.description.clone(),
        group: settings.group.clone(),
        state,
    }
}

fn of_instance(instance: &str, state: State) -> Observed {
    let id = format!("{INSTANCE_PREFIX}{instance}");
    Observed { id, name: Localized::same(instance), description: None, group: None, state }
}

/// The one task that owns the history.
struct Keeper {
    settings: Settings,
    plan: Plan,
    ledger: Ledger,
    queries: QueryService,
    history: History,
    handle: StatusHandle,
    started: Timestamp,
    generation: u64,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        info!(interval = ?self.settings.interval, "status evaluation started");
        loop {
            let now = clock::now();
            let settling = now.since(self.started) < SETTLING;
            let observed = tokio::select! {
                observed = self.observe(now) => observed,
                () = stop.cancelled() => return,
            };
            let all_known = !observed.is_empty() && observed.iter().all(|component| component.state != State::Unknown);
            self = self.keep(now, settling, observed).await;
            let pause = if settling && !all_known {
                SETTLING_INTERVAL.min(self.settings.interval)
            } else {
                self.settings.interval
            };
            // A mistaken interval of nothing must not keep a core busy.
            let pause = pause.max(Duration::from_secs(1));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Notes `observed`, writes it to the ledger and publishes the snapshot, on a blocking thread.
    async fn keep(mut self, now: Timestamp, settling: bool, observed: Vec<Observed>) -> Self {
        let work = tokio::task::spawn_blocking(move || {
            for component in &observed {
                self.history.observe(&component.id, now, component.state);
            }
            if let Err(error) = self.ledger.with(|connection| self.history.save(connection)) {
                warn!(error = &error as &dyn std::error::Error, "cannot save status history, will try again");
            }
            self.generation += 1;
            self.handle.publish(snapshot(&self.settings, self.generation, now, settling, observed, &self.history));
            self
        });
        work.await.expect("invariant: keeping the history does not panic")
    }

    /// The state of every component at `now`. All queries together may take as long as one interval; a component
    /// whose turn does not come is unknown.
    async fn observe(&self, now: Timestamp) -> Vec<Observed> {
        let deadline = clock::instant() + self.settings.interval;
        match &self.plan {
            Plan::Configured(list) => {
                let mut observed = Vec::with_capacity(list.len());
                for component in list {
                    let state = match self.values(&component.expr, now, deadline, &component.settings.id).await {
                        None => State::Unknown,
                        Some(parts) => {
                            let degraded = match &component.degraded {
                                Some(query) => self.values(query, now, deadline, &component.settings.id).await,
                                None => None,
                            };
                            let degraded: Vec<f64> = degraded.iter().flatten().map(|(_, value)| *value).collect();
                            let parts: Vec<f64> = parts.iter().map(|(_, value)| *value).collect();
                            judge(component.settings.need, &parts, &degraded)
                        }
                    };
                    observed.push(of_settings(&component.settings, state));
                }
                observed
            }
            Plan::PerInstance(query) => {
                let values = self.values(query, now, deadline, "(per instance)").await.unwrap_or_default();
                let mut parts = std::collections::BTreeMap::<String, Vec<f64>>::new();
                for (instance, value) in values {
                    if parts.len() < MAX_INSTANCES || parts.contains_key(&instance) {
                        parts.entry(instance).or_default().push(value);
                    }
                }
                for remembered in unobserved(&self.plan, &self.history, now) {
                    parts.entry(remembered.name.en).or_default();
                }
                parts.iter().map(|(instance, parts)| of_instance(instance, judge(Need::All, parts, &[]))).collect()
            }
        }
    }

    /// The samples of `query`, each with its `instance`; `None` where it failed.
    async fn values(
        &self,
        query: &Query,
        now: Timestamp,
        deadline: std::time::Instant,
        component: &str,
    ) -> Option<Vec<(String, f64)>> {
        let left = deadline.saturating_duration_since(clock::instant());
        match self.queries.instant(query.clone(), now, Some(left)).await {
            Ok(evaluation) => match evaluation.value {
                Value::Scalar(_, value) => Some(vec![(String::new(), value)]),
                Value::Vector(samples) => {
                    let instance = |labels: &veghe_model::Labels| labels.get("instance").unwrap_or("").to_owned();
                    Some(samples.iter().map(|sample| (instance(&sample.labels), sample.value)).collect())
                }
                Value::String(..) | Value::Matrix(_) => {
                    warn!(component, "status expression gives neither scalar nor instant vector");
                    None
                }
            },
            Err(error) => {
                warn!(component, error = &error as &dyn std::error::Error, "cannot evaluate status expression");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_data_is_no_fault_and_everything_down_is_a_major_outage() {
        use State::{Degraded, MajorOutage, Operational, Unknown};
        assert_eq!(overall(&[], true), Overall::Checking);
        assert_eq!(overall(&[], false), Overall::Empty);
        assert_eq!(overall(&[Unknown], false), Overall::Unknown);
        assert_eq!(overall(&[Unknown, Operational], false), Overall::Operational);
        assert_eq!(overall(&[Unknown, MajorOutage], false), Overall::MajorOutage);
        assert_eq!(overall(&[Operational, MajorOutage], false), Overall::PartialOutage);
        assert_eq!(overall(&[Operational, Degraded], false), Overall::Degraded);
    }

    #[test]
    fn a_machine_whose_data_ended_stays_for_a_day_and_is_unknown() {
        let mut history = History::new(Duration::from_secs(75));
        for seconds in [0, 30] {
            history.observe("instance:nas-1", Timestamp(seconds * 1000), State::Operational);
        }
        let day = Timestamp(86_400_000);
        assert_eq!(history.known_since(day.saturating_sub(REMEMBERED)).collect::<Vec<_>>(), ["instance:nas-1"]);
        assert_eq!(history.known_since(Timestamp(30_000)).count(), 0);
    }

    #[tokio::test]
    async fn a_machine_that_reports_is_operational_and_after_a_zero_it_is_down() {
        use veghe_model::Labels;
        use veghe_tsdb::{Commit, Options, Store};
        let dir = tempfile::tempdir().expect("directory");
        let options = Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 100 };
        let (store, _) = Store::open(options).expect("store");
        let labels = [("__name__", "up"), ("job", "node"), ("instance", "nas-1")];
        let up = store.series(&Labels::from_pairs(labels)).expect("series");
        let report = |value| {
            let samples = vec![(up, clock::now(), value)];
            store.commit(Commit { samples, ..Commit::default() }).expect("commit");
        };
        report(1.0);
        let queries = QueryService::new(store.clone(), crate::query::Settings::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let settings = Settings { interval: Duration::from_secs(1), ..Settings::default() };
        let ledger = Ledger::in_memory().expect("ledger");
        let status = Status::start(settings, ledger, queries, stop.clone(), &tasks).expect("status");
        for (value, state) in [(1.0, State::Operational), (0.0, State::MajorOutage)] {
            report(value);
            loop {
                let seen = status.snapshot();
                if seen.components.iter().any(|c| c.name.en == "nas-1" && c.state == state) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
