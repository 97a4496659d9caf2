//! What an aggregation keeps of a group while its rows come one after the other: a number or a few for each step.
//!
//! Invariant: results depend on the order of rows, and are those of Prometheus to the last bit where rows come in ascending
//! order of labels.

use super::numerics::{Mean, kahan, two_sum};
use super::{ABSENT, is_absent};
use crate::ast::AggregateOp;

/// The state of one group.
pub(super) enum Accumulator {
    Sum { sums: Vec<f64>, compensations: Vec<f64> },
    Avg(Vec<Mean>),
    Min(Vec<f64>),
    Max(Vec<f64>),
    Count(Vec<f64>),
    Group(Vec<f64>),
    Variance { moments: Vec<Moments>, finish: fn(f64) -> f64 },
}

/// Count, mean and sum of squared differences from it, by Welford's method.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Accumulator {
    /// The state of `op` before the first row; of what has a parameter, and is computed elsewhere, that of `group`.
    pub(super) fn new(op: AggregateOp, steps: usize) -> Self {
        let none = || vec![ABSENT; steps];
        let variance = |finish| Self::Variance { moments: vec![Moments::default(); steps], finish };
        match op {
            AggregateOp::Sum => Self::Sum { sums: none(), compensations: vec![0.0; steps] },
            AggregateOp::Avg => Self::Avg(vec![Mean::default(); steps]),
            AggregateOp::Min => Self::Min(none()),
            AggregateOp::Max => Self::Max(none()),
            AggregateOp::Count => Self::Count(none()),
            AggregateOp::Stddev => variance(f64::sqrt),
            AggregateOp::Stdvar => variance(|v| v),
            _ => Self::Group(none()),
        }
    }

    /// Adds the next row; as long as there are steps.
    pub(super) fn add(&mut self, column: &[f64]) {
        match self {
            Self::Sum { sums, compensations } => add_to_sums(sums, compensations, column),
            Self::Avg(means) => {
                for (mean, value) in means.iter_mut().zip(column).filter(|(_, v)| !is_absent(**v)) {
                    if mean.is_empty() {
                        *mean = Mean::first(*value);
                    } else {
                        mean.add(*value);
                    }
                }
            }
            Self::Min(best) => fold(best, column, |best, v| if v < best || best.is_nan() { v } else { best }),
            Self::Max(best) => fold(best, column, |best, v| if v > best || best.is_nan() { v } else { best }),
            Self::Count(counts) => {
                for (count, _) in counts.iter_mut().zip(column).filter(|(_, v)| !is_absent(**v)) {
                    *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
                }
            }
            Self::Group(there) => {
                for (there, _) in there.iter_mut().zip(column).filter(|(_, v)| !is_absent(**v)) {
                    *there = 1.0;
                }
            }
            Self::Variance { moments, .. } => {
                for (moments, value) in moments.iter_mut().zip(column).filter(|(_, v)| !is_absent(**v)) {
                    moments.add(*value);
                }
            }
        }
    }

    /// The values of the steps.
    pub(super) fn finish(self) -> Vec<f64> {
        match self {
            Self::Sum { mut sums, compensations } => {
                for (sum, compensation) in sums.iter_mut().zip(compensations).filter(|(sum, _)| !is_absent(**sum)) {
                    *sum += compensation;
                }
                sums
            }
            Self::Avg(means) => means.iter().map(|m| if m.is_empty() { ABSENT } else { m.value() }).collect(),
            Self::Min(values) | Self::Max(values) | Self::Count(values) | Self::Group(values) => values,
            Self::Variance { moments, finish } => {
                moments.iter().map(|m| if m.count == 0.0 { ABSENT } else { finish(m.squares / m.count) }).collect()
            }
        }
    }

    /// How many numbers it keeps for each step.
    pub(super) fn numbers_per_step(op: AggregateOp) -> usize {
        match op {
            AggregateOp::Sum => 2,
            AggregateOp::Avg => size_of::<Mean>().div_ceil(size_of::<f64>()),
            AggregateOp::Stddev | AggregateOp::Stdvar => 3,
            _ => 1,
        }
    }
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.mean = value;
            // The variance of something endless is not zero.
            self.squares = if value.is_finite() { 0.0 } else { f64::NAN };
            return;
        }
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }
}

/// Steps whose sums are made abreast, as far as none of them needs more than an addition.
const ABREAST: usize = 8;

fn add_to_sums(sums: &mut [f64], compensations: &mut [f64], column: &[f64]) {
    let ((sums, sums_left), (compensations, compensations_left)) =
        (sums.as_chunks_mut::<ABREAST>(), compensations.as_chunks_mut::<ABREAST>());
    let (column, column_left) = column.as_chunks::<ABREAST>();
    for ((sums, compensations), values) in sums.iter_mut().zip(compensations).zip(column) {
        let mut totals = [0.0; ABREAST];
        let mut lost = [0.0; ABREAST];
        for at in 0..ABREAST {
            (totals[at], lost[at]) = two_sum(values[at], sums[at]);
        }
        // What is absent is not a number, nor is then what was lost.
        if lost.iter().fold(true, |all, lost| all & lost.is_finite()) {
            *sums = totals;
            for at in 0..ABREAST {
                compensations[at] += lost[at];
            }
        } else {
            add_each(sums, compensations, values);
        }
    }
    add_each(sums_left, compensations_left, column_left);
}

fn add_each(sums: &mut [f64], compensations: &mut [f64], column: &[f64]) {
    for ((sum, compensation), value) in sums.iter_mut().zip(compensations).zip(column) {
        if is_absent(*value) {
            continue;
        }
        if is_absent(*sum) {
            *sum = *value;
        } else {
            (*sum, *compensation) = kahan(*value, *sum, *compensation);
        }
    }
}

fn fold(folded: &mut [f64], column: &[f64], f: impl Fn(f64, f64) -> f64) {
    for (to, value) in folded.iter_mut().zip(column).filter(|(_, v)| !is_absent(**v)) {
        *to = if is_absent(*to) { *value } else { f(*to, *value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_abreast_have_the_bits_of_sums_one_by_one(
            rows in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof![
                        8 => any::<f64>(),
                        4 => -1e6_f64..1e6,
                        1 => Just(ABSENT),
                        1 => prop_oneof![Just(f64::INFINITY), Just(f64::NAN), Just(f64::MAX), Just(-0.0)],
                    ],
                    37,
                ),
                1..8,
            ),
        ) {
            let (mut sums, mut compensations) = (vec![ABSENT; 37], vec![0.0; 37]);
            let (mut each_sums, mut each_compensations) = (sums.clone(), compensations.clone());
            for row in &rows {
                add_to_sums(&mut sums, &mut compensations, row);
                add_each(&mut each_sums, &mut each_compensations, row);
            }
            let bits = |all: &[f64]| all.iter().map(|v| if v.is_nan() && !is_absent(*v) { 0 } else { v.to_bits() }).collect::<Vec<_>>();
            prop_assert_eq!(bits(&sums), bits(&each_sums));
            prop_assert_eq!(bits(&compensations), bits(&each_compensations));
        }
    }
}
