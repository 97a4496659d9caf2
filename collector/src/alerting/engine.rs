//! The task that owns all alert state: it evaluates groups when they are due, keeps what they lead to, and asks the
//! dispatcher whom to tell.
//!
//! Invariants: one task owns the state; a group that runs is out of its hands until it comes back, so groups run side by
//! side and none twice at once; missed rounds are skipped and counted.
//! What it deliberately does not do: deliver (`delivery`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_model::{Labels, METRIC_NAME, Timestamp, stale_nan};
use veghe_promql::{Query, Value, VectorSample};
use veghe_tsdb::{Commit, Store};

use super::journal::{Journal, NotificationOutcome, label_map};
use super::metrics::AlertingMetrics;
use super::notify::{Dispatcher, Notice};
use super::rules::{Group, RecordRule, Rule, RuleProblems, RuleSet};
use super::state::{Absence, Alert, AlertState, Moment, RuleError, RuleState, fingerprint};
use super::view::{self, Health, RuleGroupView};
use super::{ReloadError, Settings, blocking, chain};
use crate::clock;
use crate::query::{QueryError, QueryService};

/// The longest time between two looks at the dispatcher.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What others may ask of the engine.
pub(super) enum Command {
    /// Read the rule files again.
    Reload(oneshot::Sender<Result<(), ReloadError>>),
}

/// What others may see.
pub(super) type Views = Arc<RwLock<Vec<RuleGroupView>>>;

/// What an evaluation needs beside its group.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) query: QueryService,
    pub(super) metrics: AlertingMetrics,
    pub(super) external_url: Arc<str>,
    /// Until then the absence of a restored alert means nothing.
    pub(super) blind_until: Timestamp,
}

/// A group and its state.
pub(super) struct GroupRun {
    index: usize,
    group: Arc<Group>,
    rules: Vec<RuleRun>,
    next_at: Timestamp,
    last: Option<Timestamp>,
    took: Duration,
}

struct RuleRun {
    key: String,
    alerts: RuleState,
    /// Series that a recording rule wrote last.
    recorded: BTreeSet<Labels>,
    health: Health,
}

/// Why a rule gave nothing.
#[derive(Debug, thiserror::Error)]
enum EvaluationError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("a rule needs a vector or a number, its expression gives a {0}")]
    NotAVector(&'static str),
    #[error("cannot store the result")]
    Commit(#[from] veghe_tsdb::CommitError),
    #[error("cannot store the result: the writing thread failed")]
    Defect,
}

impl GroupRun {
    /// A group whose alerts the ledger may know, first due at the first slot after `now`.
    pub(super) fn new(
        index: usize,
        group: &Arc<Group>,
        known: &mut BTreeMap<String, Vec<Alert>>,
        now: Timestamp,
    ) -> Self {
        let rules = group
            .rules
            .iter()
            .map(|rule| {
                let key = rule.key(group);
                let alerts = match rule {
                    Rule::Alert { rule, .. } => RuleState::restored(rule, known.remove(&key).unwrap_or_default()),
                    Rule::Record { .. } => RuleState::default(),
                };
                RuleRun { key, alerts, recorded: BTreeSet::new(), health: Health::default() }
            })
            .collect();
        let next_at = slot(group, now);
        Self { index, group: Arc::clone(group), rules, next_at, last: None, took: Duration::ZERO }
    }

    /// Evaluates every rule at `at`; gives the keys of rules whose alerts changed.
    pub(super) async fn evaluate(&mut self, at: Timestamp, around: &Surroundings) -> BTreeSet<String> {
        let began = clock::instant();
        let mut changed = BTreeSet::new();
        let group = Arc::clone(&self.group);
        for (rule, run) in group.rules.iter().zip(&mut self.rules) {
            let rule_began = clock::instant();
            let result = run.evaluate(rule, &group, at, around).await;
            run.health.took = rule_began.elapsed();
            run.health.last = Some(at);
            around.metrics.rule_duration.observe(run.health.took.as_secs_f64());
            run.health.error = match result {
                Ok(true) => {
                    changed.insert(run.key.clone());
                    None
                }
                Ok(false) => None,
                Err(error) => {
                    if matches!(error, EvaluationError::Rule(RuleError::Limit { .. })) {
                        changed.insert(run.key.clone());
                    }
                    around.metrics.rule_failures.with_label_values(&[&group.name]).inc();
                    let error = chain(&error);
                    tracing::warn!(group = group.name, rule = run.key, error, "cannot evaluate a rule");
                    Some(error)
                }
            };
        }
        self.last = Some(at);
        self.took = began.elapsed();
        changed
    }

    /// Every alert, with its rule's key.
    pub(super) fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.rules.iter().flat_map(|run| run.alerts.alerts())
    }

    fn view(&self) -> RuleGroupView {
        let rules =
            self.group.rules.iter().zip(&self.rules).map(|(rule, run)| view::rule(rule, &run.alerts, &run.health));
        view::group(&self.group, rules.collect(), self.last, self.took)
    }

    fn notices(&self, external_url: &str) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (rule, run) in self.group.rules.iter().zip(&self.rules) {
            let Rule::Alert { rule, .. } = rule else { continue };
            for alert in run.alerts.alerts().filter(|alert| alert.state != AlertState::Pending) {
                let Some(fired) = alert.fired_at else { continue };
                notices.push(Notice {
                    fingerprint: fingerprint(&alert.labels),
                    labels: label_map(&alert.labels),
                    annotations: alert.annotations.clone(),
                    starts_ms: fired.0,
                    ends_ms: alert.resolved_at.map(|at| at.0),
                    generator_url: expression_url(external_url, &rule.expr),
                });
            }
        }
        notices
    }
}

impl RuleRun {
    async fn evaluate(
        &mut self,
        rule: &Rule,
        group: &Group,
        at: Timestamp,
        around: &Surroundings,
    ) -> Result<bool, EvaluationError> {
        let sample_at = at.saturating_sub(group.query_offset);
        let query = match rule {
            Rule::Alert { query, .. } | Rule::Record { query, .. } => query,
        };
        let vector = ask(query, sample_at, &around.query).await?;
        match rule {
            Rule::Alert { rule, .. } => {
                let absence = if at < around.blind_until { Absence::Unknown } else { Absence::Ended };
                let external_url = &around.external_url;
                let moment = Moment { at, absence, external_url, limit: group.limit };
                let outcome = self.alerts.evaluate(rule, &vector, &moment)?;
                write(around.query.store(), outcome.samples, sample_at).await?;
                Ok(outcome.changed)
            }
            Rule::Record { rule, .. } => {
                let samples = record(rule, vector, group.limit)?;
                let series: BTreeSet<Labels> = samples.iter().map(|(labels, _)| labels.clone()).collect();
                let ended = self.recorded.difference(&series).map(|labels| (labels.clone(), stale_nan()));
                let samples = samples.into_iter().chain(ended).collect();
                self.recorded = series;
                write(around.query.store(), samples, sample_at).await?;
                Ok(false)
            }
        }
    }
}

async fn ask(query: &Query, at: Timestamp, service: &QueryService) -> Result<Vec<VectorSample>, EvaluationError> {
    match service.instant(query.clone(), at, None).await?.value {
        Value::Vector(vector) => Ok(vector),
        Value::Scalar(timestamp, value) => Ok(vec![VectorSample { labels: Labels::default(), timestamp, value }]),
        Value::String(..) => Err(EvaluationError::NotAVector("string")),
        Value::Matrix(_) => Err(EvaluationError::NotAVector("range vector")),
    }
}

fn record(rule: &RecordRule, vector: Vec<VectorSample>, limit: usize) -> Result<Vec<(Labels, f64)>, RuleError> {
    if limit > 0 && vector.len() > limit {
        return Err(RuleError::Limit { limit, found: vector.len(), what: "series" });
    }
    let mut seen = BTreeSet::new();
    let mut samples = Vec::with_capacity(vector.len());
    for sample in vector {
        let mut builder = sample.labels.to_builder();
        builder.set(METRIC_NAME, rule.name.as_str());
        for (name, value) in &rule.labels {
            builder.set(name.as_str(), value.as_str());
        }
        let labels = builder.build();
        if !seen.insert(labels.clone()) {
            return Err(RuleError::DuplicateSeries);
        }
        samples.push((labels, sample.value));
    }
    Ok(samples)
}

async fn write(store: &Store, samples: Vec<(Labels, f64)>, at: Timestamp) -> Result<(), EvaluationError> {
    if samples.is_empty() {
        return Ok(());
    }
    let store = store.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut commit = Commit::default();
        for (labels, value) in samples {
            match store.series(&labels) {
                Ok(series) => commit.samples.push((series, at, value)),
                // One series too many must not cost the others.
                Err(error) => tracing::warn!(%labels, error = %chain(&error), "cannot store a rule's series"),
            }
        }
        store.commit_from_reserve(commit)
    });
    Ok(work.await.map_err(|_panicked| EvaluationError::Defect)??)
}

/// The first moment after `now` at which `group` is due: groups are spread over their interval by their name, and the
/// same after every start, as in Prometheus.
fn slot(group: &Group, now: Timestamp) -> Timestamp {
    let interval = i64::try_from(group.interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let name = Labels::from_pairs([("file", group.file.as_str()), ("group", group.name.as_str())]);
    let offset = i64::try_from(fingerprint(&name) % interval.unsigned_abs()).unwrap_or(0);
    Timestamp((now.0 - offset).div_euclid(interval) * interval + interval + offset)
}

fn expression_url(external_url: &str, expr: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("g0.expr", expr)
        .append_pair("g0.tab", "1")
        .finish();
    format!("{}/graph?{query}", external_url.trim_end_matches('/'))
}

/// See the head of this file.
pub(super) struct Engine {
    settings: Arc<Settings>,
    around: Surroundings,
    journal: Journal,
    tracker: TaskTracker,
    views: Views,
    bells: Vec<Arc<Notify>>,
    idle: BTreeMap<usize, GroupRun>,
    running: JoinSet<(GroupRun, BTreeSet<String>)>,
    notices: BTreeMap<usize, Vec<Notice>>,
    dispatcher: Dispatcher,
    /// Alerts that the ledger does not have yet, by the key of their rule.
    unsaved: BTreeMap<String, Vec<Alert>>,
}

/// Everything an engine begins with.
pub(super) struct Beginnings {
    pub(super) settings: Arc<Settings>,
    pub(super) around: Surroundings,
    pub(super) journal: Journal,
    pub(super) tracker: TaskTracker,
    pub(super) views: Views,
    pub(super) bells: Vec<Arc<Notify>>,
    pub(super) dispatcher: Dispatcher,
    pub(super) rules: RuleSet,
    pub(super) known: BTreeMap<String, Vec<Alert>>,
}

impl Engine {
    pub(super) fn new(from: Beginnings) -> Self {
        let mut engine = Self {
            settings: from.settings,
            around: from.around,
            journal: from.journal,
            tracker: from.tracker,
            views: from.views,
            bells: from.bells,
            idle: BTreeMap::new(),
            running: JoinSet::new(),
            notices: BTreeMap::new(),
            dispatcher: from.dispatcher,
            unsaved: BTreeMap::new(),
        };
        engine.take_rules(&from.rules, from.known);
        engine
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        self.dispatch().await;
        loop {
            let now = clock::now();
            self.start_due(now);
            let wait = self.idle.values().map(|run| run.next_at.since(now)).min().unwrap_or(LONGEST_SLEEP);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(command) = commands.recv() => self.obey(command).await,
                Some(done) = self.running.join_next() => {
                    self.finish(done).await;
                    self.dispatch().await;
                }
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP).max(Duration::from_millis(1))) => self.dispatch().await,
            }
        }
        // What was decided is kept; what still runs is left: the next start evaluates it again.
        self.save().await;
    }

    fn start_due(&mut self, now: Timestamp) {
        for run in self.idle.values_mut() {
            // The clock went back: without this, nothing would be evaluated until it caught up.
            if run.next_at.since(now) > run.group.interval {
                run.next_at = slot(&run.group, now);
            }
        }
        let due: Vec<usize> = self.idle.iter().filter(|(_, run)| run.next_at <= now).map(|(index, _)| *index).collect();
        for index in due {
            let Some(mut run) = self.idle.remove(&index) else { continue };
            let interval = i64::try_from(run.group.interval.as_millis()).unwrap_or(i64::MAX).max(1);
            // The newest slot that is not in the future.
            let missed = (now.0 - run.next_at.0) / interval;
            if missed > 0 {
                let name = &run.group.name;
                tracing::warn!(group = name, missed, "rule evaluations were skipped");
                self.around.metrics.iterations_missed.with_label_values(&[name]).inc_by(missed as f64);
            }
            let at = Timestamp(run.next_at.0 + missed * interval);
            run.next_at = Timestamp(at.0 + interval);
            let around = self.around.clone();
            self.running.spawn(self.tracker.track_future(async move {
                let changed = run.evaluate(at, &around).await;
                (run, changed)
            }));
        }
    }

    async fn finish(&mut self, done: Result<(GroupRun, BTreeSet<String>), tokio::task::JoinError>) {
        let (run, changed) = match done {
            Ok(done) => done,
            Err(error) => {
                // The group's alerts stay as they were last seen; a reload brings it back.
                tracing::error!(%error, "the evaluation of a rule group failed unexpectedly");
                return;
            }
        };
        for rule in &run.rules {
            if changed.contains(&rule.key) {
                self.unsaved.insert(rule.key.clone(), rule.alerts.alerts().cloned().collect());
            }
        }
        self.notices.insert(run.index, run.notices(&self.around.external_url));
        let view = run.view();
        if let Some(place) = self.views.write().unwrap_or_else(PoisonError::into_inner).get_mut(run.index) {
            *place = view;
        }
        self.idle.insert(run.index, run);
        self.count_alerts();
        self.save().await;
    }

    fn count_alerts(&self) {
        for state in [AlertState::Pending, AlertState::Firing] {
            let count = self.idle.values().flat_map(GroupRun::alerts).filter(|alert| alert.state == state).count();
            self.around.metrics.alerts.with_label_values(&[state.as_str()]).set(count as f64);
        }
    }

    async fn save(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        let journal = self.journal.clone();
        let states: Vec<(String, Vec<Alert>)> = self.unsaved.clone().into_iter().collect();
        match blocking(move || journal.save_states(&states)).await {
            Ok(()) => self.unsaved.clear(),
            Err(error) => tracing::error!(error = %chain(&error), "cannot keep alert states, will try again"),
        }
    }

    async fn dispatch(&mut self) {
        let now = clock::now();
        let notices: Vec<Notice> = self.notices.values().flatten().cloned().collect();
        let plan = self.dispatcher.plan(now, &notices);
        if !plan.outgoing.is_empty() {
            let (journal, limit) = (self.journal.clone(), self.settings.queue_limit);
            let outgoing = plan.outgoing.clone();
            match blocking(move || journal.enqueue(&outgoing, now, limit)).await {
                Ok(dropped) => {
                    for receiver in dropped {
                        tracing::error!(receiver, "the queue of notifications is full: the oldest is dropped");
                        let outcome = NotificationOutcome::Dropped.as_str();
                        self.around.metrics.notifications.with_label_values(&[receiver.as_str(), outcome]).inc();
                    }
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "cannot queue notifications, will try again");
                    return;
                }
            }
            for bell in &self.bells {
                bell.notify_one();
            }
        }
        self.dispatcher.apply(plan);
    }

    async fn obey(&mut self, command: Command) {
        let Command::Reload(reply) = command;
        let settings = Arc::clone(&self.settings);
        let loaded = tokio::task::spawn_blocking(move || RuleSet::load(&settings.sources())).await;
        let result = match loaded {
            Ok(Ok(rules)) => self.replace_rules(&rules).await,
            Ok(Err(problems)) => Err(ReloadError::Problems(problems)),
            Err(_panicked) => Err(ReloadError::Problems(RuleProblems(Vec::new()))),
        };
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.around.metrics.reloads.with_label_values(&[outcome]).inc();
        match &result {
            Ok(()) => tracing::info!("rules reloaded"),
            Err(error) => tracing::error!(%error, "cannot reload rules, the last good ones stay"),
        }
        if reply.send(result).is_err() {
            tracing::debug!("nobody waits for the reload's result");
        }
    }

    async fn replace_rules(&mut self, rules: &RuleSet) -> Result<(), ReloadError> {
        while let Some(done) = self.running.join_next().await {
            self.finish(done).await;
        }
        self.save().await;
        let journal = self.journal.clone();
        let keys = keys(rules);
        // From the ledger: it has what every rule of the old set came to, also of groups that failed unexpectedly.
        let known = blocking(move || {
            journal.forget_states_except(&keys)?;
            journal.load_states()
        })
        .await?;
        self.take_rules(rules, known);
        self.dispatch().await;
        Ok(())
    }

    fn take_rules(&mut self, rules: &RuleSet, mut known: BTreeMap<String, Vec<Alert>>) {
        let now = clock::now();
        self.idle = rules
            .groups
            .iter()
            .enumerate()
            .map(|(index, group)| (index, GroupRun::new(index, group, &mut known, now)))
            .collect();
        self.notices = self.idle.iter().map(|(index, run)| (*index, run.notices(&self.around.external_url))).collect();
        *self.views.write().unwrap_or_else(PoisonError::into_inner) = self.idle.values().map(GroupRun::view).collect();
        self.count_alerts();
    }
}

/// The keys of all rules.
pub(super) fn keys(rules: &RuleSet) -> Vec<String> {
    rules.groups.iter().flat_map(|group| group.rules.iter().map(|rule| rule.key(group))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, interval_seconds: u64) -> Group {
        Group {
            file: "f".to_owned(),
            name: name.to_owned(),
            interval: Duration::from_secs(interval_seconds),
            query_offset: Duration::ZERO,
            limit: 0,
            rules: Vec::new(),
        }
    }

    #[test]
    fn groups_keep_their_slots_over_restarts_and_are_spread() {
        let a = group("a", 15);
        let first = slot(&a, Timestamp(1_000_000));
        assert!((1_000_001..=1_015_000).contains(&first.0));
        assert_eq!(slot(&a, Timestamp(first.0 - 1)), first);
        assert_eq!(slot(&a, first).0, first.0 + 15_000);
        assert_eq!((slot(&a, Timestamp(77_777_777)).0 - first.0) % 15_000, 0);
        let names: BTreeSet<i64> = (0..20).map(|n| slot(&group(&n.to_string(), 15), Timestamp(0)).0).collect();
        assert!(names.len() > 10, "{names:?}");
    }

    #[test]
    fn an_expression_becomes_an_address() {
        assert_eq!(
            expression_url("http://veghe.example/", "up == 0"),
            "http://veghe.example/graph?g0.expr=up+%3D%3D+0&g0.tab=1"
        );
    }
}
