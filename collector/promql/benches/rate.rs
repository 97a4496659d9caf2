//! What `sum by (instance) (rate(x[5m]))` costs over many series, from a source in memory.

use std::sync::Arc;
use std::time::Duration;

use veghe_model::{Labels, Matcher, SeriesData, Timestamp};
use veghe_promql::{Limits, Query, Source};

const STEPS: i64 = 60;
const STEP_MS: i64 = 60_000;
const INTERVAL_MS: i64 = 15_000;

struct Prepared(Vec<SeriesData>);

impl Source for Prepared {
    fn select(
        &self,
        _: &[Matcher],
        _: Timestamp,
        _: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.clone())
    }
}

fn main() {
    divan::main();
}

/// An hour at 15 s, 60 steps of a minute.
#[divan::bench(args = [1_000, 20_000], sample_count = 10)]
fn sum_by_instance_of_rate(bencher: divan::Bencher, series: usize) {
    let end = STEPS * STEP_MS + 300_000;
    let timestamps: Arc<[i64]> = (0..end / INTERVAL_MS).map(|i| i * INTERVAL_MS).collect();
    let mut all: Vec<SeriesData> = (0..series)
        .map(|i| SeriesData {
            labels: Labels::from_pairs([
                ("__name__", "x_total".to_owned()),
                ("instance", format!("host-{}", i / 100)),
                ("job", "node".to_owned()),
                ("cpu", format!("{}", i % 100)),
            ]),
            timestamps: Arc::clone(&timestamps),
            values: (0..timestamps.len()).map(|t| (t * (i % 7 + 1)) as f64).collect(),
        })
        .collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    let source = Prepared(all);
    let query = Query::parse("sum by (instance) (rate(x_total[5m]))").expect("a query");
    let limits = Limits { max_samples: 50_000_000, lookback: Duration::from_mins(5) };
    let (start, end) = (Timestamp(300_000 + STEP_MS), Timestamp(300_000 + STEPS * STEP_MS));
    let step = Duration::from_millis(STEP_MS.unsigned_abs());
    bencher.bench_local(|| query.range(&source, start, end, step, &limits, &|| false).expect("a result"));
}
