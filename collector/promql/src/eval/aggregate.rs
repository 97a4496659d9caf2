//! Aggregations: groups are found once for the query, then each group is computed column by column.

use std::collections::HashMap;

use twox_hash::XxHash64;
use veghe_model::{Labels, METRIC_NAME};

use super::accumulate::Accumulator;
use super::numerics::quantile;
use super::{ABSENT, Engine, Evaluated, Row, Steps, is_absent, not_text};
use crate::EvalError;
use crate::ast::{AggregateOp, Expr, Grouping};
use crate::print::Number;

/// Rows that are aggregated together.
struct Group {
    labels: Labels,
    rows: Vec<usize>,
    drop_name: bool,
}

impl Engine<'_> {
    pub(crate) fn aggregate(
        &self,
        op: AggregateOp,
        param: Option<&Expr>,
        over: &Expr,
        grouping: &Grouping,
        steps: Steps,
    ) -> Evaluated<Vec<Row>> {
        if let (AggregateOp::CountValues, Some(param)) = (op, param) {
            let label = self.string(param, steps)?;
            if let Some(bytes) = not_text(param) {
                return Err(EvalError::Execution(format!("invalid label name {bytes}")));
            }
            return self.count_values(&label, over, grouping, steps);
        }
        let parameter = param.map(|p| self.scalar(p, steps)).transpose()?;
        if let (AggregateOp::LimitRatio, Some(param), Some(ratio)) = (op, param, &parameter) {
            self.check_ratio(param, ratio)?;
        }
        if let Some(rows) = self.folded(op, parameter.as_deref(), over, grouping, steps)? {
            return Ok(rows);
        }
        let rows = self.vector(over, steps)?;
        self.check_stop()?;
        let groups = Self::groups(&rows, grouping);
        let result = match (op, parameter) {
            (AggregateOp::Quantile, Some(q)) => {
                if let (Some(param), false) = (param, rows.is_empty()) {
                    self.check_quantiles(param, &q);
                }
                self.each_group(&rows, groups, steps, |rows, step| {
                    let mut values: Vec<f64> = present(rows, step).collect();
                    if values.is_empty() { ABSENT } else { quantile(q[step], &mut values) }
                })
            }
            (AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk, Some(k)) => {
                let counts = counts(&k)?;
                return self.select_rows(op, &counts, rows, groups, steps);
            }
            (AggregateOp::LimitRatio, Some(ratio)) => return self.limit_ratio(&ratio, rows),
            (op, _) => self.each_group_of(op, &rows, groups, steps),
        }?;
        self.release_rows(&rows);
        Ok(result)
    }

    fn groups(rows: &[Row], grouping: &Grouping) -> Vec<Group> {
        let by_name = matches!(grouping, Grouping::By(labels) if labels.iter().any(|l| l == METRIC_NAME));
        // A group by the texts of its labels: labels are made once for each group rather than for each row.
        let mut at: HashMap<Vec<&str>, usize> = HashMap::new();
        let mut key: Vec<&str> = Vec::new();
        let mut groups: Vec<Group> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            key.clear();
            match grouping {
                // A missing label is an empty one.
                Grouping::By(names) => key.extend(names.iter().map(|name| row.labels.get(name).unwrap_or(""))),
                Grouping::Without(names) => {
                    let kept = row.labels.iter().filter(|label| is_kept_without(&label.name, names));
                    key.extend(kept.flat_map(|label| [&*label.name, &*label.value]));
                }
            }
            let group = if let Some(group) = at.get(key.as_slice()) {
                *group
            } else {
                let labels = group_labels(&row.labels, grouping);
                groups.push(Group { labels, rows: Vec::new(), drop_name: false });
                at.insert(key.clone(), groups.len() - 1);
                groups.len() - 1
            };
            groups[group].rows.push(i);
            groups[group].drop_name |= by_name && row.drop_name;
        }
        groups
    }

    /// One row per group, each value from the rows of the group at one step.
    fn each_group(
        &self,
        rows: &[Row],
        groups: Vec<Group>,
        steps: Steps,
        f: impl Fn(&[&Row], usize) -> f64,
    ) -> Evaluated<Vec<Row>> {
        let mut result = Vec::with_capacity(groups.len());
        for group in groups {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            let members: Vec<&Row> = group.rows.iter().map(|i| &rows[*i]).collect();
            for (step, value) in values.iter_mut().enumerate() {
                *value = f(&members, step);
            }
            result.push(Row { labels: group.labels, values, drop_name: group.drop_name });
        }
        Ok(result)
    }

    fn each_group_of(&self, op: AggregateOp, rows: &[Row], groups: Vec<Group>, steps: Steps) -> Evaluated<Vec<Row>> {
        let mut result = Vec::with_capacity(groups.len());
        for group in groups {
            self.check_stop()?;
            self.charge(steps.count)?;
            let mut all = Accumulator::new(op, steps.count);
            for row in &group.rows {
                all.add(&rows[*row].values);
            }
            result.push(Row { labels: group.labels, values: all.finish(), drop_name: group.drop_name });
        }
        Ok(result)
    }

    fn count_values(&self, label: &str, over: &Expr, grouping: &Grouping, steps: Steps) -> Evaluated<Vec<Row>> {
        if label.is_empty() {
            return Err(EvalError::Execution(format!("invalid label name {label:?}")));
        }
        let rows = self.vector(over, steps)?;
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut result: Vec<Row> = Vec::new();
        for row in &rows {
            self.check_stop()?;
            let group = group_labels(&row.labels, grouping);
            for (step, value) in row.values.iter().enumerate().filter(|(_, v)| !is_absent(**v)) {
                let mut builder = group.to_builder();
                builder.set(label, Number(*value).to_string());
                let key = builder.build();
                let at = if let Some(at) = at.get(&key) {
                    *at
                } else {
                    {
                        result.push(Row { labels: key.clone(), values: self.empty_column(steps)?, drop_name: false });
                        at.insert(key, result.len() - 1);
                        result.len() - 1
                    }
                };
                let to = &mut result[at].values[step];
                *to = if is_absent(*to) { 1.0 } else { *to + 1.0 };
            }
        }
        self.release_rows(&rows);
        Ok(result)
    }

    /// `topk`, `bottomk` and `limitk`: the input's rows with only the chosen values.
    fn select_rows(
        &self,
        op: AggregateOp,
        counts: &[usize],
        mut rows: Vec<Row>,
        groups: Vec<Group>,
        steps: Steps,
    ) -> Evaluated<Vec<Row>> {
        let mut order = Vec::new();
        let mut chosen: Vec<usize> = Vec::new();
        for group in groups {
            self.check_stop()?;
            for (step, count) in counts.iter().enumerate().take(steps.count) {
                chosen.clear();
                chosen.extend(group.rows.iter().copied().filter(|i| !is_absent(rows[*i].values[step])));
                // NaN is the least wanted both for the largest and for the smallest.
                match op {
                    AggregateOp::Topk => chosen.sort_by(|a, b| rank(rows[*b].values[step], rows[*a].values[step])),
                    AggregateOp::Bottomk => {
                        chosen.sort_by(|a, b| rank_ascending(rows[*a].values[step], rows[*b].values[step]));
                    }
                    _ => {}
                }
                for out in chosen.iter().skip(*count) {
                    rows[*out].values[step] = ABSENT;
                }
                chosen.truncate(*count);
                if self.is_instant() {
                    order.extend_from_slice(&chosen);
                }
            }
        }
        if steps.count == 1 && self.is_instant() {
            // The result of an instant query is in order of rank within its group.
            let mut taken: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
            return Ok(order.into_iter().filter_map(|i| taken[i].take()).collect());
        }
        rows.retain(|row| {
            let keep = row.values.iter().any(|v| !is_absent(*v));
            if !keep {
                self.release(row.values.len());
            }
            keep
        });
        Ok(rows)
    }

    fn check_ratio(&self, at: &Expr, ratios: &[f64]) -> Evaluated<()> {
        for ratio in ratios {
            if ratio.is_nan() {
                return Err(EvalError::Execution(format!("Ratio value {} is NaN", Number(*ratio))));
            }
            if ratio.abs() > 1.0 {
                let to = ratio.signum();
                let ratio = Number(*ratio);
                self.warn(at, &format!("ratio value should be between -1 and 1, got {ratio}, capping to {to}"));
            }
        }
        Ok(())
    }

    /// A share of the series, the same at every step: each series has its place in `[0, 1)` by a hash of its labels.
    fn limit_ratio(&self, ratios: &[f64], mut rows: Vec<Row>) -> Evaluated<Vec<Row>> {
        for row in &mut rows {
            take_share(row, ratios);
        }
        self.check_stop()?;
        rows.retain(|row| row.values.iter().any(|v| !is_absent(*v)));
        Ok(rows)
    }
}

/// Takes the values away at steps where the row is not of the share that `limit_ratio` asks for.
pub(super) fn take_share(row: &mut Row, ratios: &[f64]) {
    let place = place(&row.labels);
    for (value, ratio) in row.values.iter_mut().zip(ratios) {
        let ratio = ratio.clamp(-1.0, 1.0);
        let keep = if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio };
        if !keep {
            *value = ABSENT;
        }
    }
}

/// The labels' hash as a share of one: xxHash over the labels as Prometheus packs them in memory (length, name, length,
/// value; a length of 255 or more takes three bytes behind a 255), so that the same series are chosen there and here.
fn place(labels: &Labels) -> f64 {
    let mut packed = Vec::new();
    for text in labels.iter().flat_map(|label| [&label.name, &label.value]) {
        match u8::try_from(text.len()) {
            Ok(length) if length < u8::MAX => packed.push(length),
            _ => {
                packed.push(u8::MAX);
                packed.extend_from_slice(&text.len().to_le_bytes()[..3]);
            }
        }
        packed.extend_from_slice(text.as_bytes());
    }
    XxHash64::oneshot(0, &packed) as f64 / u64::MAX as f64
}

/// Ascending with NaN before everything.
pub(crate) fn rank(a: f64, b: f64) -> std::cmp::Ordering {
    b.is_nan().cmp(&a.is_nan()).then_with(|| a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal))
}

/// Ascending with NaN behind everything.
pub(super) fn rank_ascending(a: f64, b: f64) -> std::cmp::Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| a.total_cmp(&b))
}

pub(crate) fn group_labels(labels: &Labels, grouping: &Grouping) -> Labels {
    match grouping {
        Grouping::By(names) if names.is_empty() => Labels::default(),
        Grouping::By(names) => labels.filter(|name| names.iter().any(|n| n == name)),
        Grouping::Without(names) => labels.filter(|name| is_kept_without(name, names)),
    }
}

pub(super) fn is_kept_without(name: &str, names: &[String]) -> bool {
    name != METRIC_NAME && !names.iter().any(|n| n == name)
}

fn present<'r>(rows: &'r [&'r Row], step: usize) -> impl Iterator<Item = f64> + 'r {
    rows.iter().map(move |r| r.values[step]).filter(|v| !is_absent(*v))
}

pub(super) fn counts(k: &[f64]) -> Evaluated<Vec<usize>> {
    k.iter()
        .map(|k| {
            if k.is_nan() {
                return Err(EvalError::Execution("Parameter value is NaN".to_owned()));
            }
            if k.abs() >= i64::MAX as f64 {
                let (k, way) = (Number(*k), if *k > 0.0 { "overflows" } else { "underflows" });
                return Err(EvalError::Execution(format!("Scalar value {k} {way} int64")));
            }
            Ok(if *k < 1.0 { 0 } else { *k as usize })
        })
        .collect()
}
