//! What is kept of a stretch of samples when the samples themselves are gone, or too many to read.

use std::sync::Arc;

use crate::Labels;

/// One series in aligned buckets of one length, its resolution: bucket `i` stands for the samples in
/// `(ends[i] - resolution, ends[i]]`, as a range selector of that length at `ends[i]` would see them, staleness
/// markers apart. Buckets without a sample or marker are absent.
///
/// A window whose start and end are multiples of the resolution is a union of buckets, so minimum, maximum, sum, count, last,
/// `increase` and `rate` over it follow from buckets as exactly as from samples.
#[derive(Clone, Debug, PartialEq)]
pub struct RollupSeries {
    /// Which series.
    pub labels: Labels,
    /// Where each bucket ends (inclusive): multiples of the resolution in milliseconds since the Unix epoch, strictly ascending.
    pub ends: Arc<[i64]>,
    /// The buckets, as many as `ends`.
    pub buckets: Vec<Bucket>,
}

/// Everything about the samples of one bucket, staleness markers apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Number of samples; 0 where the bucket has only staleness markers, and then the other fields but `stale` mean nothing.
    pub count: u32,
    /// When the first was taken.
    pub first_time: i64,
    /// The first value.
    pub first: f64,
    /// When the last was taken.
    pub last_time: i64,
    /// The last value.
    pub last: f64,
    /// The least value, NaN only if all are.
    pub min: f64,
    /// The greatest value, NaN only if all are.
    pub max: f64,
    /// The sum of the values, compensated.
    pub sum: f64,
    /// The sum of those values that a smaller one follows within the bucket: what counter resets lost.
    /// The counter's increase inside the bucket is `last - first + resets`.
    pub resets: f64,
    /// Whether a staleness marker follows the last sample: at `end` the series is absent.
    pub stale: bool,
}
