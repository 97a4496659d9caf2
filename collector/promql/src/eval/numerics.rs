//! Sums, means, variances, quantiles and regressions with the same operations in the same order as Prometheus, so
//! that results agree to the last bit.

/// A compensated sum (Neumaier's variant of Kahan's): `(sum, compensation)` after adding `value`.
///
/// What the addition lost is exact and so the same by Neumaier's comparison and by Knuth's two sums, which need no branch
/// that depends on the values; but where these overflow, as they may before the sum itself does.
#[inline]
pub(crate) fn kahan(value: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let (total, lost) = two_sum(value, sum);
    if lost.is_finite() { (total, compensation + lost) } else { neumaier(value, sum, compensation) }
}

/// `(sum, lost)`: what `value` adds to `sum`, and what the addition lost, exactly; nothing finite where that can't be told.
#[inline]
pub(crate) fn two_sum(value: f64, sum: f64) -> (f64, f64) {
    let total = sum + value;
    let added = total - sum;
    (total, (sum - (total - added)) + (value - added))
}

/// As Prometheus writes it.
#[cold]
fn neumaier(value: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + value;
    if total.is_infinite() {
        (total, 0.0)
    } else if sum.abs() >= value.abs() {
        (total, compensation + ((sum - total) + value))
    } else {
        (total, compensation + ((value - total) + sum))
    }
}

pub(crate) fn sum(values: &[f64]) -> f64 {
    let (sum, c) = values.iter().fold((0.0, 0.0), |(sum, c), v| kahan(*v, sum, c));
    if f64::is_infinite(sum) { sum } else { sum + c }
}

/// A mean that falls back to the incremental form when the sum would overflow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    sum: f64,
    compensation: f64,
    so_far: f64,
    count: f64,
    incremental: bool,
}

impl Mean {
    pub(crate) fn first(value: f64) -> Self {
        Self { sum: value, count: 1.0, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0.0
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let (sum, compensation) = kahan(value, self.sum, self.compensation);
            if !sum.is_infinite() {
                (self.sum, self.compensation) = (sum, compensation);
                return;
            }
            self.incremental = true;
            self.so_far = self.sum / (self.count - 1.0);
            self.compensation /= self.count - 1.0;
        }
        let q = (self.count - 1.0) / self.count;
        (self.so_far, self.compensation) = kahan(value / self.count, q * self.so_far, q * self.compensation);
    }

    pub(crate) fn value(&self) -> f64 {
        if self.incremental {
            self.so_far + self.compensation
        } else {
            self.sum / self.count + self.compensation / self.count
        }
    }
}

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    let (first, rest) = values.split_first()?;
    let mut mean = Mean::first(*first);
    for v in rest {
        mean.add(*v);
    }
    Some(mean.value())
}

/// The population variance, by Welford's method with compensated sums.
pub(crate) fn variance(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut c_mean, mut aux, mut c_aux) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for v in values {
        count += 1.0;
        let delta = v - (mean + c_mean);
        (mean, c_mean) = kahan(delta / count, mean, c_mean);
        (aux, c_aux) = kahan(delta * (v - (mean + c_mean)), aux, c_aux);
    }
    (aux + c_aux) / count
}

/// The `q` quantile by linear interpolation, NaN counting as the least; `values` end up in another order.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let order = |a: &f64, b: &f64| match (a.is_nan(), b.is_nan()) {
        (false, false) => a.total_cmp(b),
        (x, y) => y.cmp(&x),
    };
    let n = values.len() as f64;
    let rank = q * (n - 1.0);
    let lower = rank.floor().max(0.0);
    let weight = rank - rank.floor();
    // Two neighbours in order are wanted, not the order of all.
    let (_, low, above) = values.select_nth_unstable_by(lower as usize, order);
    let high = above.iter().copied().min_by(|a, b| order(a, b)).unwrap_or(*low);
    *low * (1.0 - weight) + high * weight
}

/// Four compensated sums that grow together: as [`kahan`] of each, so written that the compiler can use vectors.
#[derive(Default)]
struct FourSums {
    sums: [f64; 4],
    compensations: [f64; 4],
}

impl FourSums {
    #[inline]
    fn add(&mut self, values: [f64; 4]) {
        let sums = self.sums;
        let totals: [f64; 4] = std::array::from_fn(|i| sums[i] + values[i]);
        let added: [f64; 4] = std::array::from_fn(|i| totals[i] - sums[i]);
        let lost: [f64; 4] = std::array::from_fn(|i| (sums[i] - (totals[i] - added[i])) + (values[i] - added[i]));
        let compensations = self.compensations;
        self.compensations = std::array::from_fn(|i| compensations[i] + lost[i]);
        self.sums = totals;
    }

    /// The sums of `rows`.
    fn of(rows: &(impl Iterator<Item = [f64; 4]> + Clone)) -> [f64; 4] {
        let mut all = Self::default();
        rows.clone().for_each(|row| all.add(row));
        if all.compensations.iter().all(|c| c.is_finite()) {
            return std::array::from_fn(|i| all.sums[i] + all.compensations[i]);
        }
        // What overflowed on the way, told by a compensation that is no number any more.
        std::array::from_fn(|i| {
            let (sum, compensation) = rows.clone().fold((0.0, 0.0), |(sum, c), row| kahan(row[i], sum, c));
            sum + compensation
        })
    }
}

/// The line of values that are all the same.
pub(crate) fn constant_line(value: f64) -> (f64, f64) {
    if value.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, value) }
}

/// Slope (per second) and intercept at `intercept_ms` of the least-squares line.
pub(crate) fn linear_regression(timestamps: &[i64], values: &[f64], intercept_ms: i64) -> (f64, f64) {
    let first = values[0];
    if values.iter().all(|y| *y == first) {
        return constant_line(first);
    }
    let [sum_x, sum_y, sum_xy, sum_x2] = FourSums::of(&timestamps.iter().zip(values).map(|(t, y)| {
        let x = (*t - intercept_ms) as f64 / 1e3;
        [x, *y, x * y, x * x]
    }));
    let n = values.len() as f64;
    let covariance = sum_xy - sum_x * sum_y / n;
    let variance = sum_x2 - sum_x * sum_x / n;
    let slope = covariance / variance;
    (slope, sum_y / n - slope * sum_x / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn compensated_sums_are_those_of_prometheus_to_the_last_bit(
            rows in prop::collection::vec(
                prop::array::uniform4(prop_oneof![prop::num::f64::ANY, -1e3..1e3_f64, Just(f64::MAX), Just(-f64::MAX)]),
                0..40,
            ),
        ) {
            let (mut each, mut expected) = ([(0.0, 0.0); 4], [(0.0, 0.0); 4]);
            for row in &rows {
                for (i, value) in row.iter().enumerate() {
                    each[i] = kahan(*value, each[i].0, each[i].1);
                    expected[i] = neumaier(*value, expected[i].0, expected[i].1);
                }
            }
            for (i, total) in FourSums::of(&rows.iter().copied()).into_iter().enumerate() {
                prop_assert!(same(each[i].0, expected[i].0) && same(each[i].1, expected[i].1), "{each:?} {expected:?}");
                prop_assert!(same(total, expected[i].0 + expected[i].1));
            }
        }
    }

    #[test]
    fn a_sum_near_the_largest_numbers_is_that_of_prometheus_too() {
        // The difference of the second sum and the first is beyond the largest number, both sums are not.
        let values = [-f64::MAX, f64::MAX, 9.474_650_005_502_15e307, f64::MAX, -f64::MAX, -1e308, f64::MAX];
        for n in 0..=values.len() {
            let fold =
                |add: fn(f64, f64, f64) -> (f64, f64)| values[..n].iter().fold((0.0, 0.0), |(s, c), v| add(*v, s, c));
            let ((sum, c), expected) = (fold(kahan), fold(neumaier));
            assert!(same(sum, expected.0) && same(c, expected.1), "{n}: {sum} {c}, not {expected:?}");
            let four = FourSums::of(&values[..n].iter().map(|v| [*v, 1.0, -*v, 0.5]));
            assert!(same(four[0], expected.0 + expected.1) && four[3] == n as f64 / 2.0, "{four:?}");
        }
    }
}
