//! Alerting: Prometheus rules are evaluated, their alerts kept through restarts, and people told.
//!
//! `rules` reads, `state` decides about alerts, `notify` about messages, both without clock, network or disk; `engine`
//! owns the state, `journal` the ledger's tables, `delivery` the way to receivers (`webhook`, `mail`).
//! What it deliberately does not do: serve pages or APIs (`web`), silence or inhibit.

mod delivery;
mod engine;
mod journal;
pub mod mail;
mod metrics;
mod notify;
mod rules;
mod state;
mod template;
mod unstored;
mod view;
pub mod webhook;

#[cfg(test)]
mod delivery_tests;
#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod shipped;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::ledger::{Ledger, LedgerError};
use crate::query::QueryService;

pub use self::delivery::{Channel, Receiver, Retry, SendError};
pub(crate) use self::journal::SCHEMA;
pub use self::journal::{NotificationOutcome, NotificationRecord};
pub use self::mail::{Language, Security, Settings as MailSettings};
pub use self::notify::Route;
pub use self::rules::{Group, Rule, RuleProblems, RuleSet, SHIPPED_FILE, Sources};
pub use self::unstored::UnstoredSince;
pub use self::view::{AlertView, RuleGroupView, RuleView};
pub use self::webhook::Settings as WebhookSettings;

use self::engine::{Beginnings, Command, Engine, Surroundings, Views};
use self::journal::Journal;
use self::metrics::AlertingMetrics;
use self::notify::{Dispatcher, Message, Notice};

/// How long nothing can be stored before receivers are told: a disk that is busy or full for a moment is none of this.
const UNSTORED_PATIENCE: Duration = Duration::from_mins(2);

/// What alerting is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rule files, or directories of them.
    pub rule_files: Vec<PathBuf>,
    /// Whether the shipped rules apply; yes.
    pub shipped: bool,
    /// Names of shipped alerts that don't.
    pub disabled: Vec<String>,
    /// How often groups are evaluated that don't say so themselves; 15 s.
    pub evaluation_interval: Duration,
    /// Who can be told.
    pub receivers: Vec<Receiver>,
    /// Who is told what, and when.
    pub route: Route,
    /// The address under which people reach this collector.
    pub external_url: String,
    /// How long after a start a missing result does not end a restored alert: agents need time to come back; 2 min.
    pub start_grace: Duration,
    /// How failed notifications are repeated.
    pub retry: Retry,
    /// How many notifications may wait per receiver; 1000. The oldest are dropped and counted.
    pub queue_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule_files: Vec::new(),
            shipped: true,
            disabled: Vec::new(),
            evaluation_interval: Duration::from_secs(15),
            receivers: Vec::new(),
            route: Route::default(),
            external_url: "http://127.0.0.1:9090".to_owned(),
            start_grace: Duration::from_mins(2),
            retry: Retry::default(),
            queue_limit: 1000,
        }
    }
}

impl Settings {
    /// Where rules come from.
    pub fn sources(&self) -> Sources<'_> {
        Sources {
            files: &self.rule_files,
            shipped: self.shipped,
            disabled: &self.disabled,
            interval: self.evaluation_interval,
        }
    }

    /// What is wrong with receivers and route, in words for their author. Rule files have their own check:
    /// [`RuleSet::load`].
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (i, receiver) in self.receivers.iter().enumerate() {
            let name = &receiver.name;
            if name.is_empty() {
                problems.push(format!("receiver {} has no name", i + 1));
            }
            if self.receivers.iter().take(i).any(|other| other.name == *name) {
                problems.push(format!("two receivers are named `{name}`; rename one"));
            }
            match &receiver.channel {
                Channel::Webhook(webhook) => {
                    if !matches!(webhook.url.scheme(), "http" | "https") {
                        problems
                            .push(format!("receiver `{name}`: the address must begin with `https://` or `http://`"));
                    }
                }
                Channel::Mail(mail) => {
                    problems.extend(mail.problems().into_iter().map(|problem| format!("receiver `{name}`: {problem}")));
                }
            }
        }
        for name in &self.route.receivers {
            if !self.receivers.iter().any(|receiver| receiver.name == *name) {
                problems.push(format!("the route names receiver `{name}`, which is not there"));
            }
        }
        if self.evaluation_interval.is_zero() {
            problems.push("the evaluation interval must be longer than nothing".to_owned());
        }
        problems
    }
}

/// Why alerting can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The rule files have problems.
    #[error(transparent)]
    Rules(#[from] RuleProblems),
    /// The settings have problems.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<String>),
    /// What was known before can't be read.
    #[error("cannot restore alerts")]
    Ledger(#[from] LedgerError),
    /// A metric is registered twice.
    #[error("cannot register alerting metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Why rules were not replaced; the last good ones stay.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The rule files have problems.
    #[error(transparent)]
    Problems(#[from] RuleProblems),
    /// The ledger failed.
    #[error("cannot keep alert states")]
    Ledger(#[from] LedgerError),
    /// The collector is stopping.
    #[error("alerting is stopping")]
    Stopping,
}

/// Why a test was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// There is none of that name.
    #[error("there is no receiver `{0}`")]
    UnknownReceiver(String),
    /// It did not take it.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The ledger failed.
    #[error("cannot log the test")]
    Ledger(#[from] LedgerError),
}

/// Alerting, not yet running.
pub struct Alerting;

impl Alerting {
    /// Reads rules, restores alerts and what was told of them, and starts evaluation and delivery on `tasks` until
    /// `stop`. `unstored_since` stands in for rules while nothing can be stored. Must be called in a runtime.
    ///
    /// # Errors
    /// [`StartError`]: every problem of rules or settings at once, or a ledger that can't be read.
    pub fn start(
        settings: Settings,
        ledger: Ledger,
        query: QueryService,
        unstored_since: &UnstoredSince,
        registry: &prometheus::Registry,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<AlertingHandle, StartError> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(StartError::Settings(problems));
        }
        if rustls::crypto::CryptoProvider::get_default().is_none()
            && rustls::crypto::ring::default_provider().install_default().is_err()
        {
            tracing::debug!("another module installed the TLS provider first");
        }
        let rules = RuleSet::load(&settings.sources())?;
        let metrics = AlertingMetrics::register(registry)?;
        let journal = Journal::new(ledger);
        let now = clock::now();
        let names: Vec<String> = settings.receivers.iter().map(|receiver| receiver.name.clone()).collect();
        for name in &names {
            for outcome in NotificationOutcome::ALL {
                metrics.notifications.with_label_values(&[name.as_str(), outcome.as_str()]).inc_by(0.0);
            }
        }
        let removed = journal.drop_unknown_receivers(&names, now)?;
        if removed > 0 {
            tracing::warn!(removed, "notifications for receivers that are no longer there were dropped");
        }
        journal.forget_states_except(&engine::keys(&rules))?;
        let dispatcher = Dispatcher::new(settings.route.clone(), names, journal.load_groups()?);
        let known = journal.load_states()?;

        let settings = Arc::new(settings);
        let views = Views::default();
        let mut bells = Vec::new();
        for receiver in &settings.receivers {
            let bell = Arc::new(Notify::new());
            bells.push(Arc::clone(&bell));
            let courier = delivery::Courier {
                receiver: receiver.clone(),
                journal: journal.clone(),
                retry: settings.retry.clone(),
                external_url: settings.external_url.clone(),
                metrics: metrics.clone(),
                bell,
            };
            tasks.spawn(courier.run(stop.clone()));
            if settings.route.receivers.is_empty() || settings.route.receivers.contains(&receiver.name) {
                let teller = unstored::Teller {
                    receiver: receiver.clone(),
                    retry: settings.retry.clone(),
                    repeat: settings.route.repeat_interval,
                    external_url: settings.external_url.clone(),
                    since: unstored_since.clone(),
                    patience: UNSTORED_PATIENCE,
                };
                tasks.spawn(teller.run(stop.clone()));
            }
        }
        let around = Surroundings {
            query,
            metrics: metrics.clone(),
            external_url: Arc::from(settings.external_url.as_str()),
            blind_until: now.saturating_add(settings.start_grace),
        };
        let engine = Engine::new(Beginnings {
            settings: Arc::clone(&settings),
            around,
            journal: journal.clone(),
            tracker: tasks.clone(),
            views: Arc::clone(&views),
            bells,
            dispatcher,
            rules,
            known,
        });
        let (commands, inbox) = mpsc::channel(8);
        tasks.spawn(engine.run(inbox, stop));
        Ok(AlertingHandle { settings, journal, views, commands, metrics })
    }
}

/// What others may ask of running alerting. Cloning shares it.
#[derive(Clone)]
pub struct AlertingHandle {
    settings: Arc<Settings>,
    journal: Journal,
    views: Views,
    commands: mpsc::Sender<Command>,
    metrics: AlertingMetrics,
}

impl AlertingHandle {
    /// Every group and its rules: `data.groups` of `/api/v1/rules`.
    pub fn rules(&self) -> Vec<RuleGroupView> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every pending and firing alert: `data.alerts` of `/api/v1/alerts`.
    pub fn alerts(&self) -> Vec<AlertView> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views
            .iter()
            .flat_map(|group| &group.rules)
            .filter_map(|rule| match rule {
                RuleView::Alerting { alerts, .. } => Some(alerts),
                RuleView::Recording { .. } => None,
            })
            .flatten()
            .cloned()
            .collect()
    }

    /// The newest `limit` entries of the log of notifications, newest first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn notifications(&self, limit: usize) -> Result<Vec<NotificationRecord>, LedgerError> {
        let journal = self.journal.clone();
        blocking(move || journal.notifications(limit)).await
    }

    /// The names of all receivers.
    pub fn receivers(&self) -> Vec<String> {
        self.settings.receivers.iter().map(|receiver| receiver.name.clone()).collect()
    }

    /// Tells `receiver` of a made-up alert, now and once, and logs that; gives its answer.
    ///
    /// # Errors
    /// [`TestError`]: what the receiver or the network said.
    pub async fn send_test(&self, receiver: &str) -> Result<String, TestError> {
        let Some(receiver) = self.settings.receivers.iter().find(|known| known.name == receiver) else {
            return Err(TestError::UnknownReceiver(receiver.to_owned()));
        };
        let message = test_message();
        let result = delivery::send(receiver, &message, &self.settings.external_url).await;
        let (outcome, detail) = match &result {
            Ok(answer) => (NotificationOutcome::Delivered, answer.clone()),
            Err(error) => (NotificationOutcome::Failed, error.to_string()),
        };
        self.metrics.notifications.with_label_values(&[receiver.name.as_str(), outcome.as_str()]).inc();
        let record = message.record(&receiver.name, clock::now(), 1, outcome, &detail);
        let journal = self.journal.clone();
        blocking(move || journal.log(&record)).await?;
        Ok(result?)
    }

    /// Reads the rule files again. Alerts of rules that stay are kept; those of rules that went are resolved.
    ///
    /// # Errors
    /// [`ReloadError`] with every problem of every file; the last good rules stay in force.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        let (reply, result) = oneshot::channel();
        if self.commands.send(Command::Reload(reply)).await.is_err() {
            return Err(ReloadError::Stopping);
        }
        result.await.unwrap_or(Err(ReloadError::Stopping))
    }
}

fn test_message() -> Message {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let labels = map(&[("alertname", "VegheTest"), ("severity", "none")]);
    let fingerprint = state::fingerprint(&veghe_model::Labels::from_pairs(labels.clone()));
    Message {
        group_key: String::new(),
        group_labels: map(&[("alertname", "VegheTest")]),
        alerts: vec![Notice {
            fingerprint,
            labels,
            annotations: map(&[
                ("summary", "This is a test: notifications of Veghe reach you"),
                ("summary_ro", "Acesta este un test: notificările Veghe ajung la dumneavoastră"),
            ]),
            starts_ms: clock::now().0,
            ends_ms: None,
            generator_url: String::new(),
        }],
        truncated: 0,
        test: true,
    }
}

/// Runs `work` on the ledger where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(LedgerError::Statement(rusqlite::Error::ToSqlConversionFailure(Box::new(error)))),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let next = inner.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = inner.source();
    }
    text
}
