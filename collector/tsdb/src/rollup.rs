//! Roll-ups: what aligned buckets of samples amount to, made from the samples when they are asked for.
//!
//! Invariants: a bucket depends on nothing but the samples in it; samples are read a day at a time, so that a range of
//! years needs memory for its buckets and one day of samples.
//! What it deliberately does not do: keep roll-ups on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use veghe_model::{Bucket, Labels, Matcher, RollupSeries, Timestamp, is_stale};

use crate::ReadError;
use crate::chunks::WINDOWS_PER_DAY;
use crate::store::{Inner, read};

/// Samples are read for this long at once: a multiple of every resolution.
const SLICE_MS: i64 = 86_400_000;
/// Farther from 1970 than any sample, and still far from where sums overflow.
const LIMIT_MS: i64 = 1 << 60;

const EMPTY: Bucket = Bucket {
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

impl Inner {
    pub(crate) fn rollups(
        &self,
        matchers: &[Matcher],
        start: Timestamp,
        end: Timestamp,
        resolution_ms: i64,
    ) -> Result<Vec<RollupSeries>, ReadError> {
        let (start, end) = (start.0.clamp(-LIMIT_MS, LIMIT_MS), end.0.clamp(-LIMIT_MS, LIMIT_MS));
        let (first, last) = (end_of_bucket(start, resolution_ms), end - end.rem_euclid(resolution_ms));
        if first > last {
            return Ok(Vec::new());
        }
        let (from, to) = (first - resolution_ms + 1, last);
        let mut found: BTreeMap<Labels, (Vec<i64>, Vec<Bucket>)> = BTreeMap::new();
        for slice in self.slices(from, to) {
            // As buckets do, a slice has its end and not its start.
            let (slice_from, slice_to) = (from.max(slice * SLICE_MS + 1), to.min((slice + 1) * SLICE_MS));
            for series in self.select(matchers, Timestamp(slice_from), Timestamp(slice_to))? {
                let (ends, buckets) = found.entry(series.labels).or_default();
                roll(&series.timestamps, &series.values, resolution_ms, ends, buckets);
            }
        }
        let mut shared: Arc<[i64]> = Arc::default();
        let with_shared_ends = |(labels, (ends, buckets)): (Labels, (Vec<i64>, Vec<Bucket>))| {
            // Series of one target mostly have the same buckets.
            if *shared != *ends {
                shared = ends.into();
            }
            RollupSeries { labels, ends: Arc::clone(&shared), buckets }
        };
        Ok(found.into_iter().map(with_shared_ends).collect())
    }

    /// The slices in which there may be samples of `[from, to]`, ascending.
    fn slices(&self, from: i64, to: i64) -> BTreeSet<i64> {
        let windows = self.window_of(from)..=self.window_of(to);
        // The head first: a window is listed as sealed before it leaves the head.
        let mut there: BTreeSet<i64> = {
            let head = read(&self.head);
            let frozen = head.frozen.iter().map(|frozen| frozen.window).filter(|window| windows.contains(window));
            head.windows.range(windows.clone()).map(|(window, _)| *window).chain(frozen).collect()
        };
        let sealed = read(&self.sealed);
        there.extend(
            sealed.range(windows.clone()).filter(|(_, sealed)| !sealed.series.is_empty()).map(|(window, _)| *window),
        );
        drop(sealed);
        // A window that is merged meanwhile is in both or in the later list.
        for day in read(&self.days).keys() {
            let first = day * WINDOWS_PER_DAY;
            there.extend((first..first + WINDOWS_PER_DAY).filter(|window| windows.contains(window)));
        }
        let slice_of = |time: i64| (time.clamp(from, to) - 1).div_euclid(SLICE_MS);
        let slices = |window: i64| {
            let start = self.window_start(window);
            slice_of(start)..=slice_of(start.saturating_add(self.window_ms - 1))
        };
        there.into_iter().flat_map(slices).collect()
    }
}

/// Where the bucket ends that `time` lies in: buckets have their end and not their start.
fn end_of_bucket(time: i64, resolution_ms: i64) -> i64 {
    time + (-time).rem_euclid(resolution_ms)
}

/// Appends the buckets of samples that ascend strictly in time and lie behind the buckets there.
fn roll(times: &[i64], values: &[f64], resolution_ms: i64, ends: &mut Vec<i64>, buckets: &mut Vec<Bucket>) {
    let (mut current, mut bucket, mut sum) = (i64::MIN, EMPTY, Sum::default());
    let mut close = |end: i64, bucket: &Bucket| {
        if end > i64::MIN {
            ends.push(end);
            buckets.push(*bucket);
        }
    };
    for (&time, &value) in times.iter().zip(values) {
        if time > current {
            close(current, &bucket);
            (current, bucket, sum) = (end_of_bucket(time, resolution_ms), EMPTY, Sum::default());
        }
        bucket.stale = is_stale(value);
        if bucket.stale {
            continue;
        }
        if bucket.count == 0 {
            (bucket.first_time, bucket.first, bucket.min, bucket.max) = (time, value, value, value);
        } else {
            if value < bucket.last {
                bucket.resets += bucket.last;
            }
            if value < bucket.min || bucket.min.is_nan() {
                bucket.min = value;
            }
            if value > bucket.max || bucket.max.is_nan() {
                bucket.max = value;
            }
        }
        sum.add(value);
        (bucket.last_time, bucket.last, bucket.sum) = (time, value, sum.total());
        bucket.count += 1;
    }
    close(current, &bucket);
}

/// A sum with what rounding took from it, as in Prometheus (`util/kahansum`, `Inc`).
#[derive(Default)]
struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        if sum.is_infinite() {
            self.lost = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.lost += (self.sum - sum) + value;
        } else {
            self.lost += (value - sum) + self.sum;
        }
        self.sum = sum;
    }

    fn total(&self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use veghe_model::stale_nan;

    fn rolled(samples: &[(i64, f64)]) -> (Vec<i64>, Vec<Bucket>) {
        let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let (mut ends, mut buckets) = (Vec::new(), Vec::new());
        roll(&times, &values, 10, &mut ends, &mut buckets);
        (ends, buckets)
    }

    #[test]
    fn a_bucket_has_its_end_and_not_its_start() {
        let (ends, buckets) = rolled(&[(-10, 1.0), (-9, 2.0), (0, 3.0), (1, 4.0), (10, 5.0), (31, 6.0)]);
        assert_eq!(ends, [-10, 0, 10, 40]);
        assert_eq!(buckets.iter().map(|b| b.count).collect::<Vec<_>>(), [1, 2, 2, 1]);
        assert_eq!(
            buckets.iter().map(|b| (b.first, b.last_time)).collect::<Vec<_>>(),
            [(1.0, -10), (2.0, 0), (4.0, 10), (6.0, 31)]
        );
    }

    #[test]
    fn increases_follow_from_first_last_and_resets() {
        let (_, buckets) = rolled(&[(1, 5.0), (2, 8.0), (3, 1.0), (4, 4.0), (5, 2.0), (6, 3.0)]);
        let bucket = buckets[0];
        // 3, then 1 after a reset, 3, then 2 after a reset, 1.
        assert_eq!(bucket.last - bucket.first + bucket.resets, 3.0 + 1.0 + 3.0 + 2.0 + 1.0);
    }

    #[test]
    fn markers_end_a_bucket_and_count_nothing() {
        let (ends, buckets) =
            rolled(&[(1, 5.0), (2, stale_nan()), (3, 6.0), (11, 7.0), (12, stale_nan()), (21, stale_nan())]);
        assert_eq!(ends, [10, 20, 30]);
        assert_eq!(buckets.iter().map(|b| (b.count, b.stale)).collect::<Vec<_>>(), [(2, false), (1, true), (0, true)]);
        assert_eq!((buckets[0].sum, buckets[0].resets), (11.0, 0.0));
    }

    #[test]
    fn extremes_are_nan_only_where_all_values_are_and_sums_lose_nothing() {
        let (_, buckets) = rolled(&[(1, f64::NAN), (2, 3.0), (3, f64::NAN), (11, f64::NAN)]);
        assert_eq!((buckets[0].min, buckets[0].max), (3.0, 3.0));
        assert!(buckets[0].sum.is_nan() && buckets[1].min.is_nan() && buckets[1].max.is_nan());
        let (_, buckets) = rolled(&[(1, 1e100), (2, 1.0), (3, -1e100), (11, f64::INFINITY), (12, 1.0)]);
        assert_eq!((buckets[0].sum, buckets[1].sum), (1.0, f64::INFINITY));
    }
}
