//! What is kept of a stretch of samples when the samples themselves are gone, or too many to read.

use std::sync::Arc;
use std::time::Duration;

use crate::{Labels, Timestamp};

/// What a range has where its samples are gone and their roll-ups are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// From here on there are samples.
    pub until: Timestamp,
    /// The finest roll-ups that are there for all of what is before.
    pub resolution: Duration,
}

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

impl Bucket {
    /// One without a sample.
    pub const EMPTY: Self = Self {
        count: 0,
        first_time: 0,
        first: 0.0,
        last_time: 0,
        last: 0.0,
        min: 0.0,
        max: 0.0,
        sum: 0.0,
        resets: 0.0,
        stale: false,
    };

    /// Makes this stand also for the samples of `later`, all of which follow its own. Exact but for the sums, which lose
    /// what adding two numbers loses.
    pub fn append(&mut self, later: &Self) {
        if later.count == 0 {
            self.stale |= later.stale;
            return;
        }
        if self.count == 0 {
            *self = *later;
            return;
        }
        if later.first < self.last {
            self.resets += self.last;
        }
        self.resets += later.resets;
        // A NaN is an extreme only where there is nothing else.
        if later.min < self.min || self.min.is_nan() {
            self.min = later.min;
        }
        if later.max > self.max || self.max.is_nan() {
            self.max = later.max;
        }
        self.sum += later.sum;
        self.count = self.count.saturating_add(later.count);
        (self.last_time, self.last, self.stale) = (later.last_time, later.last, later.stale);
    }
}
