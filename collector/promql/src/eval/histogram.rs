//! Quantiles and fractions of classic histograms, from their cumulative buckets with the label `le`.

use std::collections::HashMap;

use veghe_model::Labels;

use super::annotations::{Fix, with_metric_name};
use super::labels::is_metadata;
use super::{Engine, Evaluated, Row, Steps, is_absent, not_text};
use crate::ast::Expr;
use crate::print::{Exponential, Quoted};

const BUCKET_LABEL: &str = "le";

/// A difference of this share between neighbours comes from rounding and is mended silently.
const SMALL_DELTA: f64 = 1e-12;

#[derive(Clone, Copy)]
struct Bucket {
    upper: f64,
    count: f64,
}

/// Buckets of one histogram: upper bound and row.
struct Histogram {
    labels: Labels,
    name: String,
    buckets: Vec<(f64, usize)>,
    drop_name: bool,
}

impl Engine<'_> {
    pub(crate) fn histogram_quantile(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let q = self.scalar(&args[0], steps)?;
        let rows = self.vector(&args[1], steps)?;
        let result = self.quantiles_of(&q, &args[0], &rows, &args[1], steps)?;
        self.release(q.len());
        self.release_rows(&rows);
        self.drop_names(result)
    }

    pub(crate) fn histogram_quantiles(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let rows = self.vector(&args[0], steps)?;
        let label = self.string(&args[1], steps)?;
        if let Some(bytes) = not_text(&args[1]) {
            return Err(crate::EvalError::Execution(format!("invalid label name {bytes}")));
        }
        let mut result = Vec::new();
        for arg in &args[2..] {
            let q = self.scalar(arg, steps)?;
            let value = open_metrics(q.first().copied().unwrap_or(f64::NAN));
            for mut row in self.quantiles_of(&q, arg, &rows, &args[0], steps)? {
                let mut builder = row.labels.to_builder();
                builder.set(label.as_str(), value.as_str());
                row.labels = builder.build();
                result.push(row);
            }
        }
        self.release_rows(&rows);
        let result = self.drop_names(result)?;
        self.merge(result)
    }

    fn quantiles_of(&self, q: &[f64], q_at: &Expr, rows: &[Row], at: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        self.check_quantiles(q_at, q);
        self.each_histogram(rows, at, steps, |histogram, buckets, step| {
            let (value, fix) = bucket_quantile(q[step], buckets);
            if let Some(fix) = fix {
                // Without delay the name is gone before this is said.
                let name = if self.delays_names() { histogram.name.as_str() } else { "" };
                self.note_forced_monotonicity(at, name, Fix { time_ms: steps.time_ms(step), ..fix });
            }
            value
        })
    }

    pub(crate) fn histogram_fraction(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let (low, high) = (self.scalar(&args[0], steps)?, self.scalar(&args[1], steps)?);
        let rows = self.vector(&args[2], steps)?;
        let result = self.each_histogram(&rows, &args[2], steps, |_, buckets, step| {
            bucket_fraction(low[step], high[step], buckets)
        })?;
        self.release(low.len() + high.len());
        self.release_rows(&rows);
        self.drop_names(result)
    }

    /// One row per histogram, from its buckets at each step in ascending order of bound.
    fn each_histogram(
        &self,
        rows: &[Row],
        at: &Expr,
        steps: Steps,
        f: impl Fn(&Histogram, &mut Vec<Bucket>, usize) -> f64,
    ) -> Evaluated<Vec<Row>> {
        let mut result = Vec::new();
        let mut buckets = Vec::new();
        for histogram in self.histograms(rows, at) {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            for (step, value) in values.iter_mut().enumerate() {
                buckets.clear();
                buckets.extend(histogram.buckets.iter().filter_map(|(upper, row)| {
                    let count = rows[*row].values[step];
                    (!is_absent(count)).then_some(Bucket { upper: *upper, count })
                }));
                if !buckets.is_empty() {
                    *value = f(&histogram, &mut buckets, step);
                }
            }
            result.push(Row { labels: histogram.labels, values, drop_name: histogram.drop_name });
        }
        Ok(result)
    }

    fn histograms(&self, rows: &[Row], at: &Expr) -> Vec<Histogram> {
        let mut found: HashMap<Labels, usize> = HashMap::new();
        let mut histograms: Vec<Histogram> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let text = row.labels.get(BUCKET_LABEL).unwrap_or("");
            let Some(upper) = parse_bound(text) else {
                if row.values.iter().all(|value| is_absent(*value)) {
                    continue;
                }
                let text = format!("bucket label \"le\" is missing or has a malformed value of {}", Quoted(text));
                self.warn(at, &with_metric_name(text, row.labels.metric_name()));
                continue;
            };
            let delayed = self.delays_names();
            let key = row.labels.filter(|n| n != BUCKET_LABEL && (delayed || !is_metadata(n)));
            let at = *found.entry(key).or_insert_with_key(|key| {
                let name = row.labels.metric_name().to_owned();
                histograms.push(Histogram { labels: key.clone(), name, buckets: Vec::new(), drop_name: true });
                histograms.len() - 1
            });
            histograms[at].buckets.push((upper, i));
        }
        for histogram in &mut histograms {
            histogram.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        histograms
    }
}

fn parse_bound(text: &str) -> Option<f64> {
    // Rust and Go agree on numbers here; Go has no "infinity" with a sign in the middle either.
    text.parse::<f64>().ok().filter(|v| !v.is_nan())
}

/// A quantile as a label's value, in OpenMetrics' notation.
fn open_metrics(quantile: f64) -> String {
    let text = Exponential(quantile).to_string();
    if quantile.is_finite() && !text.contains(['.', 'e']) { text + ".0" } else { text }
}

/// Buckets with equal bounds become one.
fn coalesce(buckets: &mut Vec<Bucket>) {
    buckets.dedup_by(|next, kept| {
        let same = next.upper == kept.upper;
        if same {
            kept.count += next.count;
        }
        same
    });
}

/// Counts that fall are raised; what that took, if more than rounding.
fn make_monotonic(buckets: &mut [Bucket]) -> Option<Fix> {
    let mut fix: Option<Fix> = None;
    let mut before = buckets.first().map_or(0.0, |b| b.count);
    for bucket in buckets.iter_mut().skip(1) {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count) {
            bucket.count = before;
            continue;
        }
        if count < before {
            bucket.count = before;
            let difference = before - count;
            let fix = fix.get_or_insert(Fix {
                time_ms: 0,
                lowest_bucket: bucket.upper,
                highest_bucket: bucket.upper,
                largest_difference: difference,
            });
            fix.highest_bucket = bucket.upper;
            fix.largest_difference = fix.largest_difference.max(difference);
            continue;
        }
        before = count;
    }
    fix
}

fn almost_equal(a: f64, b: f64) -> bool {
    if a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < SMALL_DELTA * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < SMALL_DELTA
}

fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Fix>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return (f64::NAN, None);
    }
    coalesce(buckets);
    let forced = make_monotonic(buckets);
    let Some(last) = buckets.last().filter(|_| buckets.len() >= 2) else { return (f64::NAN, None) };
    let observations = last.count;
    if observations == 0.0 || observations.is_nan() {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    let at = buckets[..buckets.len() - 1].partition_point(|b| b.count < rank);
    if at == buckets.len() - 1 {
        return (buckets[buckets.len() - 2].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let (mut start, end, mut count) = (0.0, buckets[at].upper, buckets[at].count);
    if at > 0 {
        start = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (end - start) * (rank / count), forced)
}

fn bucket_fraction(low: f64, high: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return f64::NAN;
    }
    coalesce(buckets);
    let total = buckets.last().map_or(0.0, |b| b.count);
    if total == 0.0 || total.is_nan() || low.is_nan() || high.is_nan() {
        return f64::NAN;
    }
    if low >= high {
        return 0.0;
    }
    let rank = |value: f64| -> f64 {
        let at = buckets.partition_point(|b| b.upper < value);
        let Some(bucket) = buckets.get(at) else { return total };
        let (lower, below) = match at.checked_sub(1) {
            Some(before) => (buckets[before].upper, buckets[before].count),
            None if bucket.upper > 0.0 => (0.0, 0.0),
            None => (f64::NEG_INFINITY, 0.0),
        };
        if value == bucket.upper {
            return bucket.count;
        }
        if value <= lower {
            return below;
        }
        // No interpolation towards infinity.
        if lower.is_infinite() || bucket.upper.is_infinite() {
            return below;
        }
        below + (bucket.count - below) * (value - lower) / (bucket.upper - lower)
    };
    // Counts that fall are not mended here, so a rank may be beyond the total.
    let bounded = |rank: f64| if rank > total { total } else { rank };
    (bounded(rank(high)) - bounded(rank(low))) / total
}
