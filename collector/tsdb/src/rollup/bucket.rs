//! Buckets of samples: what the samples of one stretch of time amount to.
//!
//! Invariant: a bucket depends on nothing but the samples in it, and two that follow each other make the bucket of both
//! ([`Bucket::append`]), so that days may be rolled up one by one: the bucket that a day's end cuts is in both days.

use veghe_model::{Bucket, is_stale};

use crate::chunks::Resolution;

/// Where the bucket ends that `time` lies in: buckets have their end and not their start.
pub(crate) fn end_of_bucket(time: i64, resolution_ms: i64) -> i64 {
    time + (-time).rem_euclid(resolution_ms)
}

/// Appends buckets that lie behind those there, or go on with the last of them.
pub(crate) fn append(ends: &mut Vec<i64>, buckets: &mut Vec<Bucket>, later_ends: &[i64], later: &[Bucket]) {
    let (mut later_ends, mut later) = (later_ends, later);
    if let (Some(last), Some(end)) = (buckets.last_mut(), ends.last())
        && let ([first_end, rest_ends @ ..], [first, rest @ ..]) = (later_ends, later)
        && first_end == end
    {
        last.append(first);
        (later_ends, later) = (rest_ends, rest);
    }
    ends.extend_from_slice(later_ends);
    buckets.extend_from_slice(later);
}

/// The buckets of the samples of a day, as their rows have them.
pub(crate) fn rolled(times: &[i64], values: &[f64], resolution: Resolution) -> (Vec<i64>, Vec<Bucket>) {
    let (mut ends, mut buckets) = (Vec::new(), Vec::new());
    roll(times, values, resolution.ms(), &mut ends, &mut buckets);
    (ends, buckets)
}

/// Whether buckets that were read are those that were written: bit for bit, but for the last bits of sums.
pub(crate) fn same_buckets((ends, buckets): (&[i64], &[Bucket]), written: &(Vec<i64>, Vec<Bucket>)) -> bool {
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
    let near = |a: f64, b: f64| same(a, b) || a.is_nan() && b.is_nan() || (a - b).abs() <= b.abs() * 1e-14;
    let alike = |(a, b): (&Bucket, &Bucket)| {
        let empty = a.count == 0 && b.count == 0;
        let values = || {
            (a.first_time, a.last_time) == (b.first_time, b.last_time)
                && same(a.first, b.first)
                && same(a.last, b.last)
                && same(a.min, b.min)
                && same(a.max, b.max)
                && near(a.resets, b.resets)
                && near(a.sum, b.sum)
        };
        (a.count, a.stale) == (b.count, b.stale) && (empty || values())
    };
    *ends == written.0 && buckets.len() == written.1.len() && buckets.iter().zip(&written.1).all(alike)
}

/// Appends the buckets of samples that ascend strictly in time and lie behind the buckets there.
pub(crate) fn roll(times: &[i64], values: &[f64], resolution_ms: i64, ends: &mut Vec<i64>, buckets: &mut Vec<Bucket>) {
    let (mut current, mut bucket, mut sum) = (i64::MIN, Bucket::EMPTY, Sum::default());
    let mut close = |end: i64, bucket: &Bucket| {
        if end > i64::MIN {
            ends.push(end);
            buckets.push(*bucket);
        }
    };
    for (&time, &value) in times.iter().zip(values) {
        if time > current {
            close(current, &bucket);
            (current, bucket, sum) = (end_of_bucket(time, resolution_ms), Bucket::EMPTY, Sum::default());
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
