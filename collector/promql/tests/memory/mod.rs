//! Series in memory, as a source for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use veghe_model::{Labels, Matcher, Sample, SeriesData, Timestamp};
use veghe_promql::{Limits, Source};

/// Series by labels; what scripts load.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, Point>>,
    /// Whether any sample says when its count began.
    keeps_starts: bool,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    value: f64,
    start_ms: i64,
}

impl Memory {
    /// Adds samples to a series; a later sample replaces an earlier one of the same moment.
    pub(crate) fn append(&mut self, labels: Labels, samples: impl IntoIterator<Item = (i64, f64)>) {
        let points = samples.into_iter().map(|(t, value)| (t, Point { value, start_ms: 0 }));
        self.series.entry(labels).or_default().extend(points);
    }

    /// The same of samples that may say when their count began.
    pub(crate) fn append_started(
        &mut self,
        labels: Labels,
        samples: impl IntoIterator<Item = (i64, f64, Option<i64>)>,
    ) {
        let points = self.series.entry(labels).or_default();
        for (time_ms, value, start_ms) in samples {
            self.keeps_starts |= start_ms.is_some();
            points.insert(time_ms, Point { value, start_ms: start_ms.unwrap_or(0) });
        }
    }
}

impl Source for Memory {
    fn select(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        if start > end {
            return Ok(Vec::new());
        }
        Ok(self
            .series
            .iter()
            .filter(|(labels, _)| matchers.iter().all(|m| m.matches_labels(labels)))
            .map(|(labels, samples)| {
                let samples: Vec<Sample> = samples
                    .range(start.0..=end.0)
                    .map(|(t, point)| Sample { timestamp: Timestamp(*t), value: point.value })
                    .collect();
                SeriesData::new(labels.clone(), &samples)
            })
            .filter(|series| !series.is_empty())
            .collect())
    }

    fn start_timestamps(&self, series: &SeriesData) -> Option<Vec<i64>> {
        let points = self.series.get(&series.labels).filter(|_| self.keeps_starts)?;
        Some(series.timestamps.iter().map(|t| points.get(t).map_or(0, |p| p.start_ms)).collect())
    }
}

/// Prometheus' defaults.
pub(crate) fn limits() -> Limits {
    Limits { max_samples: 50_000_000, lookback: Duration::from_mins(5) }
}
