//! `info()`: adds the labels of info metrics (`target_info` unless told otherwise) to series of the same target.

use std::collections::{HashMap, HashSet};

use veghe_model::{Labels, METRIC_NAME, MatchOp, Matcher};

use super::labels::BracedLabels;
use super::select::Yield;
use super::{Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::{Edges, Expr, ExprKind, Selector, When};

/// Labels that identify a target.
const IDENTIFYING: [&str; 2] = ["instance", "job"];
const DEFAULT_INFO_METRIC: &str = "target_info";
/// What is an info metric where the query only says what is none.
const ANY_INFO_METRIC: &str = ".+_info";

/// An info series: at which moment its sample was taken, by step.
struct Info {
    labels: Labels,
    moments: Vec<f64>,
}

impl Engine<'_> {
    pub(crate) fn join_info(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let base = self.vector(&args[0], steps)?;
        let wanted: &[Matcher] = match args.get(1).map(|a| &a.kind) {
            Some(ExprKind::Selector(selector)) => &selector.matchers,
            _ => &[],
        };
        let (names, data): (Vec<Matcher>, Vec<Matcher>) = wanted.iter().cloned().partition(|m| m.name() == METRIC_NAME);
        let names = info_name_matchers(names)?;
        let is_info = |row: &Row| names.iter().all(|m| m.matches(row.labels.metric_name()));
        let within = self.info_span(&args[0], steps)?;
        let infos = self.info_series(&names, &data, base.iter().filter(|row| !is_info(row)), (steps, within))?;
        let mut by_target: HashMap<Labels, Vec<usize>> = HashMap::new();
        for (i, info) in infos.iter().enumerate() {
            by_target.entry(identity(&info.labels)).or_default().push(i);
        }
        // A matcher that the empty string does not satisfy asks for series that have the label.
        let required = data.iter().any(|m| !m.matches_empty());
        let mut result = Vec::new();
        for row in base {
            self.check_stop()?;
            if is_info(&row) {
                result.push(row);
                continue;
            }
            let candidates = by_target.get(&identity(&row.labels)).map_or(&[][..], Vec::as_slice);
            let mut columns: HashMap<Labels, usize> = HashMap::new();
            for (step, value) in row.values.iter().enumerate().filter(|(_, v)| !is_absent(**v)) {
                let latest = latest_of_each_metric(&infos, candidates, step)?;
                if required && latest.is_empty() {
                    continue;
                }
                let labels = enriched(&row.labels, &latest, &data)?;
                let at = if let Some(at) = columns.get(&labels) {
                    *at
                } else {
                    let values = self.empty_column(steps)?;
                    result.push(Row { labels: labels.clone(), values, drop_name: row.drop_name });
                    columns.insert(labels, result.len() - 1);
                    result.len() - 1
                };
                result[at].values[step] = *value;
            }
            self.release(row.values.len());
        }
        self.release(infos.iter().map(|i| i.moments.len()).sum());
        self.merge(result)
    }

    /// The moments `(after, until]` whose samples of info series count: those that the first selector of `base` looks at, its
    /// offset and `@` included. Prometheus reads no others, and looks from the step's own moment for the latest of these.
    fn info_span(&self, base: &Expr, steps: Steps) -> Evaluated<(i64, i64)> {
        let mut first: Option<&When> = None;
        base.walk(&mut |expr| {
            if let ExprKind::Selector(selector) | ExprKind::Matrix { selector, .. } = &expr.kind {
                first.get_or_insert(&selector.when);
            }
        });
        let Some(when) = first else { return Ok((i64::MIN, i64::MAX)) };
        let (first_ms, last_ms) = self.ends(when)?.bounds(steps);
        Ok((first_ms - self.lookback_ms(), last_ms))
    }

    /// The info series of the targets that `base` speaks of.
    fn info_series<'r>(
        &self,
        names: &[Matcher],
        data: &[Matcher],
        base: impl Iterator<Item = &'r Row>,
        (steps, within): (Steps, (i64, i64)),
    ) -> Evaluated<Vec<Info>> {
        let mut targets: [HashSet<&str>; 2] = [HashSet::new(), HashSet::new()];
        for row in base {
            for (values, label) in targets.iter_mut().zip(IDENTIFYING) {
                values.extend(row.labels.get(label));
            }
        }
        if targets.iter().all(HashSet::is_empty) {
            return Ok(Vec::new());
        }
        let matchers = names.iter().chain(data).cloned().collect();
        let selector = Selector { name: None, matchers, when: When::default(), edges: Edges::Plain };
        let rows = self.instant_vector_within(&selector, steps, Yield::Moment, within)?;
        let is_wanted = |row: &Row| {
            targets.iter().zip(IDENTIFYING).all(|(values, label)| {
                values.is_empty() || row.labels.get(label).is_some_and(|value| values.contains(value))
            })
        };
        let (kept, other): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_wanted);
        self.release_rows(&other);
        Ok(kept.into_iter().map(|row| Info { labels: row.labels, moments: row.values }).collect())
    }
}

/// Which metrics are info metrics: what the query says, if it says what they are and not only what they are not.
fn info_name_matchers(mut names: Vec<Matcher>) -> Evaluated<Vec<Matcher>> {
    if names.is_empty() {
        return Ok(vec![Matcher::equal(METRIC_NAME, DEFAULT_INFO_METRIC)]);
    }
    if names.iter().all(|m| matches!(m.op(), MatchOp::NotEqual | MatchOp::NotRegex)) {
        let any = Matcher::new(METRIC_NAME, MatchOp::Regex, ANY_INFO_METRIC);
        names.push(any.map_err(|error| EvalError::Execution(error.to_string()))?);
    }
    Ok(names)
}

/// The info series of each metric with the latest sample at a step.
fn latest_of_each_metric<'i>(infos: &'i [Info], candidates: &[usize], step: usize) -> Evaluated<Vec<&'i Labels>> {
    let mut latest: Vec<&Info> = Vec::new();
    for info in candidates.iter().map(|i| &infos[*i]).filter(|i| !is_absent(i.moments[step])) {
        let Some(known) = latest.iter_mut().find(|k| k.labels.metric_name() == info.labels.metric_name()) else {
            latest.push(info);
            continue;
        };
        let (before, this) = (known.moments[step], info.moments[step]);
        if before == this {
            let (existing, new) = (BracedLabels(&known.labels), BracedLabels(&info.labels));
            let (before, this) = (before * 1000.0, this * 1000.0);
            return Err(EvalError::Execution(format!(
                "found duplicate series for info metric: existing {existing} @ {before}, new {new} @ {this}"
            )));
        }
        if before < this {
            *known = info;
        }
    }
    Ok(latest.into_iter().map(|info| &info.labels).collect())
}

/// `base` with the labels of its info series that are asked for and not there yet.
fn enriched(base: &Labels, infos: &[&Labels], data: &[Matcher]) -> Evaluated<Labels> {
    let mut builder = base.to_builder();
    let mut added: HashMap<&str, &str> = HashMap::new();
    for label in infos.iter().flat_map(|labels| labels.iter()) {
        let asked_for = data.is_empty() || data.iter().any(|m| m.name() == &*label.name);
        if &*label.name == METRIC_NAME || !asked_for || base.get(&label.name).is_some() {
            continue;
        }
        if added.insert(&label.name, &label.value).is_some_and(|before| before != &*label.value) {
            return Err(EvalError::Execution(format!("conflicting label: {}", label.name)));
        }
        builder.set(label.name.clone(), label.value.clone());
    }
    Ok(builder.build())
}

fn identity(labels: &Labels) -> Labels {
    labels.filter(|n| IDENTIFYING.contains(&n))
}
