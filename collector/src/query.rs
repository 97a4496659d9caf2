//! Queries as the rest of the collector asks them: PromQL text in, values out, on blocking threads, with limits on
//! time, samples and concurrency.

use std::sync::Arc;
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
        self.run(timeout, move |source, limits, stop| query.instant(source, at, limits, stop)).await
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
        self.run(timeout, move |source, limits, stop| query.range(source, start, end, step, limits, stop)).await
    }

    /// The store itself, for selections without evaluation.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The bounds in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn run(
        &self,
        timeout: Option<Duration>,
        evaluate: impl FnOnce(&dyn Source, &Limits, &(dyn Fn() -> bool + Sync)) -> Result<Evaluation, EvalError>
        + Send
        + 'static,
    ) -> Result<Evaluation, QueryError> {
        let allowed = timeout.map_or(self.settings.timeout, |t| t.min(self.settings.timeout));
        let deadline = clock::instant() + allowed;
        let Ok(turn) = tokio::time::timeout(allowed, Arc::clone(&self.turns).acquire_owned()).await else {
            return Err(QueryError::TimedOutInQueue);
        };
        // Dropping the future (the client went away) cancels the evaluation at its next check.
        let gone = Arc::new(());
        let watch = Arc::downgrade(&gone);
        let source = StoreSource(self.store.clone());
        let limits = Limits { max_samples: self.settings.max_samples, lookback: self.settings.lookback };
        let work = tokio::task::spawn_blocking(move || {
            let result = evaluate(&source, &limits, &|| clock::instant() >= deadline || watch.strong_count() == 0);
            drop(turn);
            result
        });
        let result = work.await.map_err(|_panicked| QueryError::Defect)??;
        drop(gone);
        Ok(result)
    }
}

struct StoreSource(Store);

impl Source for StoreSource {
    fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.select(matchers, start, end)?)
    }

    fn select_at_most(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        max_samples: usize,
    ) -> Result<Option<Vec<SeriesData>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.select_at_most(matchers, start, end, max_samples)?)
    }
}
