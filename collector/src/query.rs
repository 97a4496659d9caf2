//! Queries as the rest of the collector asks them: PromQL text in, values out, on blocking threads, with limits on
//! time, samples and concurrency.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;
use veghe_model::{Expired, Matcher, RollupSeries, SeriesData, Timestamp};
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
    /// Samples read, or buckets of roll-ups in their place.
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

    fn rollup_resolution(&self) -> Option<Duration> {
        Some(Store::resolution_beside_samples())
    }

    fn rollups(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        resolution: Duration,
        max_buckets: usize,
    ) -> Result<Option<Vec<RollupSeries>>, Box<dyn std::error::Error + Send + Sync>> {
        // Made of samples for this answer, they would cost more than samples do.
        if !self.store.rolled_up(matchers, start, end) {
            return Ok(None);
        }
        let begun = clock::instant();
        let found = self.store.rollups_at_most(matchers, start, end, resolution, max_buckets)?;
        self.read_ns.fetch_add(nanoseconds(begun.elapsed()), Relaxed);
        let buckets = found.iter().flatten().map(|series| series.buckets.len() as u64).sum();
        self.samples.fetch_add(buckets, Relaxed);
        Ok(found)
    }

    fn expired(&self, matchers: &[Matcher], start: Timestamp, end: Timestamp) -> Option<Expired> {
        self.store.expired(matchers, start, end)
    }
}

#[cfg(test)]
mod tests {
    use veghe_model::{Labels, MatchOp};
    use veghe_promql::Value;
    use veghe_tsdb::{Ages, Column, Commit, Options, Retention};

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    /// A source that hides the store's roll-ups.
    struct Samples(StoreSource);

    impl Source for Samples {
        fn select(
            &self,
            matchers: &[Matcher],
            start: Timestamp,
            end: Timestamp,
        ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
            self.0.select(matchers, start, end)
        }
    }

    fn source(store: &Store) -> StoreSource {
        StoreSource { store: store.clone(), read_ns: AtomicU64::new(0), samples: AtomicU64::new(0) }
    }

    fn ask(source: &dyn Source, text: &str, start: i64, step: Duration) -> Evaluation {
        let query = Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let settings = Settings::default();
        let limits = Limits { max_samples: settings.max_samples, lookback: settings.lookback };
        let end = Timestamp(9 * DAY_MS);
        query.range(source, Timestamp(start), end, step, &limits, &|| false).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn matrix(evaluation: &Evaluation) -> &[SeriesData] {
        let Value::Matrix(series) = &evaluation.value else { panic!("not a matrix: {evaluation:?}") };
        series
    }

    fn assert_near(found: &Evaluation, expected: &Evaluation, what: &str) {
        let (found, expected) = (matrix(found), matrix(expected));
        assert_eq!(found.len(), expected.len(), "{what}");
        assert!(!found.is_empty(), "{what}");
        for (a, b) in found.iter().zip(expected) {
            assert_eq!((&a.labels, &a.timestamps), (&b.labels, &b.timestamps), "{what}");
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * b.abs() || a.is_nan() && b.is_nan();
            assert!(a.values.iter().zip(&b.values).all(near), "{what}: {:?}, not {:?}", a.values, b.values);
        }
    }

    /// Ten days of three hosts, a row a minute with a gap each day: a counter with resets, decimals, a constant.
    fn ten_days(store: &Store) {
        let id = |name: &str, host: usize| {
            let labels = Labels::from_pairs([("__name__", name.to_owned()), ("instance", format!("host-{host}"))]);
            store.series(&labels).expect("series")
        };
        let groups: Vec<_> =
            (0..3).map(|host| store.group(&["c_total", "temperature", "up"].map(|name| id(name, host)))).collect();
        for row in (0..10 * 1_440_i64).filter(|row| !(600..607).contains(&(row % 1_440))) {
            let column = |(host, group): (i64, &veghe_tsdb::GroupId)| {
                let counted = (row * 7 + row * row % 5 + host) % (3_001 + host * 1_000);
                let values = vec![counted as f64, (row * (host + 3) % 977) as f64 / 10.0 - 20.0, 1.0];
                Column { group: *group, timestamp: Timestamp(row * 60_000 + host * 1_234), values }
            };
            let columns = (0..).zip(&groups).map(column).collect();
            store.commit(Commit { columns, ..Commit::default() }).expect("commit");
        }
        for now in [11 * DAY_MS, 12 * DAY_MS] {
            while store.seal(Timestamp(now)).expect("seal").more {}
        }
    }

    #[test]
    fn roll_ups_of_the_store_give_what_its_samples_give_also_when_those_are_gone() {
        let dir = tempfile::tempdir().expect("directory");
        let window = Duration::from_hours(2);
        let (store, _) =
            Store::open(Options { dir: dir.path().to_owned(), window, max_series: 100 }).expect("store opens");
        store.roll_up_from(1_000);
        ten_days(&store);
        let [hour, five_minutes] = [Duration::from_hours(1), Duration::from_mins(5)];
        let queries = [
            ("sum by (instance) (increase(c_total[1d]))", hour * 6),
            ("rate(c_total[2h])", hour),
            ("max_over_time(temperature[6h])", hour),
            ("avg_over_time(temperature[1d]) - min_over_time(temperature[1d])", hour),
            ("sum_over_time(temperature[3h] offset 1h)", hour * 3),
            ("count_over_time(up[1d])", hour),
            ("last_over_time(temperature[1d] @ end())", hour),
        ];
        let fine = [("rate(c_total[15m])", five_minutes), ("min_over_time(temperature[5m])", five_minutes * 2)];
        let start = 2 * DAY_MS;
        let mut before = Vec::new();
        for (text, step) in queries.into_iter().chain(fine) {
            let (found, expected) =
                (ask(&source(&store), text, start, step), ask(&Samples(source(&store)), text, start, step));
            assert_near(&found, &expected, text);
            let fewer = found.stats.read * 30 < expected.stats.read;
            assert_eq!(fewer, step.as_secs() % 3_600 == 0, "{text}: {} of {}", found.stats.read, expected.stats.read);
            before.push((text, step, expected));
        }
        let long = Duration::from_hours(24 * 365);
        let ages = Ages { raw: Duration::from_hours(72), rollup_5m: long, rollup_1h: long };
        let retention = Retention { classes: Vec::new(), ages, max_bytes: None };
        store.retain(&retention, Timestamp(10 * DAY_MS)).expect("retain");
        let all = Matcher::new("__name__", MatchOp::Regex, ".+").expect("pattern");
        let left = store.select(&[all], Timestamp::MIN, Timestamp::MAX).expect("select");
        assert!(left.len() == 9 && left.iter().all(|s| s.timestamps[0] >= 7 * DAY_MS));
        for (text, step, expected) in &before {
            let found = ask(&source(&store), text, start, *step);
            assert_near(&found, expected, text);
            assert_eq!(found.infos, Vec::<String>::new(), "{text}");
        }
        // Windows elsewhere and values in between are told from what is left.
        for text in ["rate(c_total[7m])", "temperature", "stddev_over_time(temperature[1h])"] {
            let found = ask(&source(&store), text, start, Duration::from_mins(7));
            assert_eq!((found.infos.len(), matrix(&found).len()), (1, 3), "{text}: {:?}", found.infos);
            let lengths: Vec<usize> = matrix(&found).iter().map(SeriesData::len).collect();
            assert!(lengths.iter().all(|n| *n > 1_430), "{text}: {lengths:?}");
            let recent = ask(&source(&store), text, 8 * DAY_MS, Duration::from_mins(7));
            assert!(recent.infos.is_empty(), "{text}: {:?}", recent.infos);
        }
    }
}
