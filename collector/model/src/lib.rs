//! Labels, samples, matchers and series: the vocabulary of storage, queries, alerts and pages.
//!
//! Nothing here does input or output, knows the clock or allocates behind the caller's back.
//! What it deliberately does not do: parse `PromQL` (`veghe-promql`) or compress samples (`veghe-tsdb`).

mod labels;
mod matcher;
mod relabel;
mod rollup;
mod sample;

pub use labels::{Label, Labels, LabelsBuilder, METRIC_NAME, is_label_name, is_metric_name};
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use relabel::{RelabelAction, RelabelError, RelabelRule, RelabelSettings, relabel};
pub use rollup::{Bucket, Expired, RollupSeries};
pub use sample::{Need, SERIES_OUT_OF_ORDER, STALE_NAN_BITS, Sample, SeriesData, Timestamp, is_stale, stale_nan};
