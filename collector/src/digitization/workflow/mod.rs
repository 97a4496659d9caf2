//! Workflow systems whose people already say there what they do, Goobi and Kitodo: what happened in them becomes events here.
//!
//! Both are read from their database, with an account that may only read: their own interfaces answer for one process at
//! a time and tell nothing of the past, and those by message only take orders. Steps become stages by the settings.
//! Invariants: nothing is written there; a row read again is the same event, by (source, id); where reading goes on is kept
//! after the events are; whoever worked on a step, and every free text but the unit's code, is never asked for.
//! What it deliberately does not do: count images. Those are counted where their files are.

mod database;
mod goobi;
mod kitodo;
mod mark;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use regex::Regex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::mark::Mark;
pub(crate) use self::mark::SCHEMA;
use self::telling::{Page, Told};
use super::{Digitization, Receipt, Stage};
use crate::clock;
use crate::ledger::LedgerError;

/// Systems at most.
pub const MAX_WORKFLOWS: usize = 8;
/// Rows of one statement.
const PAGE_ROWS: usize = 2000;
/// Statements of one look: a system of many years is read in several, and others are not kept waiting.
const MAX_PAGES: usize = 500;
/// How long all of a page may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Steps of a system that are told where one of the settings is not among them.
const SHOWN_STEPS: usize = 40;

/// Which system it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Goobi workflow, and Kitodo.Production 2, which has the same tables.
    Goobi,
    /// Kitodo.Production 3.
    Kitodo,
}

impl System {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Goobi, Self::Kitodo];

    /// As in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Goobi => "goobi",
            Self::Kitodo => "kitodo",
        }
    }
}

/// How the database is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS or nothing.
    Tls,
    /// No TLS; only to this machine.
    PlainLoopback,
    /// No TLS, to any server. Everybody on the way reads it.
    PlainAnywhere,
}

impl Security {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tls, Self::PlainLoopback, Self::PlainAnywhere];

    /// As in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::PlainLoopback => "none",
            Self::PlainAnywhere => "none-even-over-the-network",
        }
    }
}

/// One system.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// Short; a label of metrics, and part of the source of its events.
    pub name: String,
    /// Which system.
    pub system: System,
    /// The database server: host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is reached.
    pub security: Security,
    /// Certificates to trust, in PEM; those that browsers trust where there are none.
    pub ca_file: Option<PathBuf>,
    /// The database.
    pub database: String,
    /// An account that may read.
    pub username: String,
    /// Its password.
    pub password_file: PathBuf,
    /// The time zone of the application server, which writes local times; the project's where there is none.
    pub time_zone: Option<TimeZone>,
    /// The projects that are read; all where there are none.
    pub projects: Vec<String>,
    /// The property of a process that holds the unit's code; its title does where there is none.
    pub unit_property: Option<String>,
    /// What of that text is the code: the pattern's one group.
    pub unit_pattern: Option<Regex>,
    /// Titles of steps, and the stage that each of them is.
    pub steps: BTreeMap<String, Stage>,
    /// From one look to the next.
    pub every: Duration,
}

impl Workflow {
    /// The source of its events; nobody with a token may use it.
    pub fn source(&self) -> String {
        format!("//veghe/collector/workflow/{}", self.name)
    }
}

/// Why a look failed; the next one goes on where the last good one ended.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Password(#[from] crate::secret::SecretError),
    #[error("`{0}` is not this machine, and `security: none` is for this machine only; use tls")]
    NotLoopback(String),
    #[error("cannot reach the database at {host}:{port}")]
    Connect { host: String, port: u16, source: mysql_async::Error },
    #[error("cannot read table {table}; has the account the right to read it?")]
    Read { table: &'static str, source: mysql_async::Error },
    #[error("the row after {after} of table {table} has no number as its {column}")]
    Row { table: &'static str, after: u64, column: &'static str },
    #[error("the database did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("cannot keep the events")]
    Keep(#[from] Arc<LedgerError>),
    #[error("cannot keep where reading goes on")]
    Mark(#[from] LedgerError),
    #[error("a thread was lost")]
    Thread(#[from] tokio::task::JoinError),
}

#[derive(Clone)]
struct Metrics {
    up: IntGaugeVec,
    last_read: GaugeVec,
    events: IntCounterVec,
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help);
        let metrics = Self {
            up: IntGaugeVec::new(
                opts("digitization_workflow_up", "1 where a workflow system could be read at the last look, else 0."),
                &["workflow"],
            )?,
            last_read: GaugeVec::new(
                opts(
                    "digitization_workflow_last_read_timestamp_seconds",
                    "When all of a workflow system was read last, or when the collector started.",
                ),
                &["workflow"],
            )?,
            events: IntCounterVec::new(
                opts("digitization_workflow_events_total", "Events of a workflow system by what became of them."),
                &["outcome", "workflow"],
            )?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.last_read.clone()))?;
        registry.register(Box::new(metrics.events.clone()))?;
        Ok(metrics)
    }

    fn count(&self, workflow: &str, outcome: &str, count: u64) {
        self.events.with_label_values(&[outcome, workflow]).inc_by(count);
    }
}

/// Follows every system of the project's settings until `stop`.
///
/// # Errors
/// Where the registry has metrics of these names already.
pub fn start(
    project: &Digitization,
    registry: &Registry,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), prometheus::Error> {
    if project.settings().workflows.is_empty() {
        return Ok(());
    }
    let metrics = Metrics::register(registry)?;
    for workflow in project.settings().workflows.clone() {
        metrics.up.with_label_values(&[&workflow.name]).set(0);
        metrics.last_read.with_label_values(&[&workflow.name]).set(clock::now().0 as f64 / 1000.0);
        for outcome in ["accepted", "repeated", "refused", "unnamed"] {
            metrics.count(&workflow.name, outcome, 0);
        }
        let (project, metrics, stop) = (project.clone(), metrics.clone(), stop.clone());
        let time_zone = workflow.time_zone.clone().unwrap_or_else(|| project.settings().time_zone.clone());
        let mut follower =
            Follower { workflow, time_zone, project, metrics, has_compared_steps: false, is_failing: false };
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                tokio::select! {
                    () = follower.follow() => {}
                    () = stop.cancelled() => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(follower.workflow.every) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
    }
    Ok(())
}

/// What the task of a system owns.
struct Follower {
    workflow: Workflow,
    time_zone: TimeZone,
    project: Digitization,
    metrics: Metrics,
    has_compared_steps: bool,
    is_failing: bool,
}

impl Follower {
    async fn follow(&mut self) {
        let result = self.look().await;
        let name = self.workflow.name.clone();
        self.metrics.up.with_label_values(&[&name]).set(i64::from(result.is_ok()));
        match result {
            Ok(()) => {
                self.metrics.last_read.with_label_values(&[&name]).set(clock::now().0 as f64 / 1000.0);
                if self.is_failing {
                    tracing::info!(workflow = name, "the workflow system can be read again");
                }
                self.is_failing = false;
            }
            Err(error) => {
                if !self.is_failing {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        workflow = name,
                        "cannot read a workflow system; the next look goes on from here"
                    );
                }
                self.is_failing = true;
            }
        }
    }

    /// Reads what is new, page after page.
    async fn look(&mut self) -> Result<(), LookError> {
        let password = crate::secret::read(&self.workflow.password_file).await?;
        let mut database = in_time(database::Database::open(&self.workflow, password)).await?;
        if !self.has_compared_steps {
            let there = in_time(database.steps(self.workflow.system)).await?;
            self.compare_steps(&there);
            self.has_compared_steps = true;
        }
        let mut mark = self.mark().await?;
        let mut page = mark.clone().with_overlap(self.workflow.system);
        for _ in 0..MAX_PAGES {
            let Page { seen, next, is_last } = match self.workflow.system {
                System::Goobi => in_time(goobi::page(&mut database, &self.workflow, &page)).await?,
                System::Kitodo => in_time(kitodo::page(&mut database, &self.workflow, &page)).await?,
            };
            let told = telling::tell(&self.workflow, &self.time_zone, seen);
            self.submit(told).await?;
            // The overlap lies before the mark: the mark never goes back.
            mark = mark.max(&next);
            self.keep_mark(mark.clone()).await?;
            if is_last {
                break;
            }
            page = next;
        }
        database.close().await;
        Ok(())
    }

    fn compare_steps(&self, there: &[String]) {
        let missing: Vec<&String> = self.workflow.steps.keys().filter(|step| !there.contains(step)).collect();
        if !missing.is_empty() {
            tracing::warn!(
                workflow = self.workflow.name,
                missing = ?missing,
                steps = ?there.iter().take(SHOWN_STEPS).collect::<Vec<_>>(),
                "digitization.workflows[].steps names steps that no process has; write them as they are there"
            );
        }
    }

    async fn submit(&self, told: Told) -> Result<(), LookError> {
        let Told { events, unnamed } = told;
        let name = &self.workflow.name;
        self.metrics.count(name, "unnamed", unnamed);
        if events.is_empty() {
            return Ok(());
        }
        let project = self.project.clone();
        let receipt = tokio::task::spawn_blocking(move || project.submit(events, clock::now())).await??;
        let Receipt { accepted, repeated, refused, .. } = receipt;
        for (outcome, count) in [("accepted", accepted), ("repeated", repeated), ("refused", refused.len() as u64)] {
            self.metrics.count(name, outcome, count);
        }
        if let Some((_, first)) = refused.first() {
            tracing::warn!(
                workflow = name,
                refused = refused.len(),
                event = first.id,
                problems = ?first.problems,
                "events of a workflow system are refused; the first is shown"
            );
        }
        Ok(())
    }

    async fn mark(&self) -> Result<Mark, LookError> {
        let (project, name) = (self.project.clone(), self.workflow.name.clone());
        Ok(tokio::task::spawn_blocking(move || project.workflow_mark(&name)).await??)
    }

    async fn keep_mark(&self, mark: Mark) -> Result<(), LookError> {
        let (project, name) = (self.project.clone(), self.workflow.name.clone());
        Ok(tokio::task::spawn_blocking(move || project.keep_workflow_mark(&name, &mark)).await??)
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, LookError>>) -> Result<T, LookError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(LookError::Silent))
}
