//! Queries as the rest of the collector asks them: PromQL text in, values out, on blocking threads, with limits on
//! time, samples and concurrency.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;
use veghe_model::{Matcher, SeriesData, Timestamp};
use veghe_promql::{EvalError, Evaluation, Limits, ParseError, Query, Source};
use veghe_tsdb::Store;

use crate::clock;

/// How queries are bounded; Prometheus' defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Wall time of one query; 2 min.
    pub timeout: Duration,
    /// Queries that run at once; 20. Others wait, within their time.
    pub max_concurrency: usize,
    /// Samples that one query may hold in memory; 50 million.
    pub max_samples: usize,
    /// How far back an instant looks for a sample; 5 min.
    pub lookback: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_mins(2),
            max_concurrency: 20,
            max_samples: 50_000_000,
            lookback: Duration::from_mins(5),
        }
    }
}

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is no query.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It could not be evaluated.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Its time was over before its turn came.
    #[error("query timed out in queue")]
    TimedOutInQueue,
    /// Evaluation panicked: a defect of ours, confined to this query.
    #[error("query evaluation failed unexpectedly")]
    Defect,
}

/// The moments of a query.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// One.
    At(Timestamp),
    /// From `start` to `end`, `step` apart.
    Range {
        /// The first.
        start: Timestamp,
        /// None is later.
        end: Timestamp,
        /// Between two of them.
        step: Duration,
    },
}

/// Bounds that who asks may set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// May only shorten the configured one.
    pub timeout: Option<Duration>,
    /// Instead of the configured one.
    pub lookback: Option<Duration>,
}

/// A result and what it took.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The result.
    pub evaluation: Evaluation,
    /// What it took.
    pub cost: Cost,
}

/// What a query took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time until its turn came.
    pub queued: Duration,
    /// Time to read samples from the store.
    pub reading: Duration,
    /// Time to evaluate.
    pub evaluating: Duration,
    /// Samples read.
    pub samples: u64,
}

/// Answers queries from the store. Cloning shares it.
#[derive(Clone)]
pub struct QueryService {
    store: Store,
    settings: Arc<Settings>,
    turns: Arc<Semaphore>,
}

impl QueryService {
    /// Queries over `store`.
    pub fn new(store: Store, settings: Settings) -> Self {
        let turns = Arc::new(Semaphore::new(settings.max_concurrency));
        Self { store, settings: Arc::new(settings), turns }
    }

    /// The value of `query` at `at`; `timeout` may only shorten the configured one.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn instant(
        &self,
        query: Query,
        at: Timestamp,
        timeout: Option<Duration>,
    ) -> Result<Evaluation, QueryError> {
        let asked = self.ask(query, When::At(at), Bounds { timeout, lookback: None }).await?;
        Ok(asked.evaluation)
    }

    /// The values of `query` from `start` to `end`, `step` apart.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn range(
        &self,
        query: Query,
        start: Timestamp,
        end: Timestamp,
        step: Duration,
        timeout: Option<Duration>,
    ) -> Result<Evaluation, QueryError> {
        let asked = self.ask(query, When::Range { start, end, step }, Bounds { timeout, lookback: None }).await?;
        Ok(asked.evaluation)
    }

    /// The store itself, for selections without evaluation.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The bounds in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The value of `query` at the moments of `when`, and what it took.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn ask(&self, query: Query, when: When, bounds: Bounds) -> Result<Asked, QueryError> {
        let allowed = bounds.timeout.map_or(self.settings.timeout, |t| t.min(self.settings.timeout));
        let asked = clock::instant();
        let deadline = asked + allowed;
        let Ok(turn) = tokio::time::timeout(allowed, Arc::clone(&self.turns).acquire_owned()).await else {
            return Err(QueryError::TimedOutInQueue);
        };
        // Dropping the future (the client went away) cancels the evaluation at its next check.
        let gone = Arc::new(());
        let watch = Arc::downgrade(&gone);
        let source = StoreSource { store: self.store.clone(), read_ns: AtomicU64::new(0), samples: AtomicU64::new(0) };
        let lookback = bounds.lookback.unwrap_or(self.settings.lookback);
        let limits = Limits { max_samples: self.settings.max_samples, lookback };
        let work = tokio::task::spawn_blocking(move || {
            let begun = clock::instant();
            let stop = || clock::instant() >= deadline || watch.strong_count() == 0;
            let evaluation = match when {
                When::At(at) => query.instant(&source, at, &limits, &stop),
                When::Range { start, end, step } => query.range(&source, start, end, step, &limits, &stop),
            }?;
            drop(turn);
            let reading = Duration::from_nanos(source.read_ns.into_inner());
            let cost = Cost {
                queued: begun - asked,
                reading,
                evaluating: begun.elapsed().saturating_sub(reading),
                samples: source.samples.into_inner(),
            };
            Ok::<_, EvalError>(Asked { evaluation, cost })
        });
        let result = work.await.map_err(|_panicked| QueryError::Defect)??;
        drop(gone);
        Ok(result)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

struct StoreSource {
    store: Store,
    read_ns: AtomicU64,
    samples: AtomicU64,
}

impl Source for StoreSource {
    fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        self.select_at_most(matchers, start, end, usize::MAX).map(Option::unwrap_or_default)
    }

    fn select_at_most(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, Box<dyn std::error::Error + Send + Sync>> {
        let begun = clock::instant();
        let found = self.store.select_at_most(matchers, start, end, max_samples)?;
        self.read_ns.fetch_add(nanoseconds(begun.elapsed()), Relaxed);
        let samples = found.iter().flatten().map(|series| series.len() as u64).sum();
        self.samples.fetch_add(samples, Relaxed);
        Ok(found)
    }

    fn select_each(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
        each: &(dyn Fn(usize, SeriesData) -> ControlFlow<()> + Sync),
    ) -> Result<Option<()>, Box<dyn std::error::Error + Send + Sync>> {
        let (begun, evaluating_ns) = (clock::instant(), AtomicU64::new(0));
        let found = self.store.select_each(matchers, start, end, max_samples, &|place, series| {
            self.samples.fetch_add(series.len() as u64, Relaxed);
            let begun = clock::instant();
            let flow = each(place, series);
            evaluating_ns.fetch_add(nanoseconds(begun.elapsed()), Relaxed);
            flow
        })?;
        // Reading and evaluating take turns; with several threads this is a lower bound.
        let reading_ns = nanoseconds(begun.elapsed()).saturating_sub(evaluating_ns.into_inner());
        self.read_ns.fetch_add(reading_ns, Relaxed);
        Ok(found)
    }
}
