//! Series in memory, as a source for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use veghe_model::{Labels, Matcher, Sample, SeriesData, Timestamp};
use veghe_promql::{Limits, Source};

/// Series by labels; what scripts load.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, f64>>,
}

impl Memory {
    /// Adds samples to a series; a later sample replaces an earlier one of the same moment.
    pub(crate) fn append(&mut self, labels: Labels, samples: impl IntoIterator<Item = (i64, f64)>) {
        self.series.entry(labels).or_default().extend(samples);
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
                    .map(|(t, value)| Sample { timestamp: Timestamp(*t), value: *value })
                    .collect();
                SeriesData::new(labels.clone(), &samples)
            })
            .filter(|series| !series.is_empty())
            .collect())
    }
}

/// Prometheus' defaults.
pub(crate) fn limits() -> Limits {
    Limits { max_samples: 50_000_000, lookback: Duration::from_mins(5) }
}
