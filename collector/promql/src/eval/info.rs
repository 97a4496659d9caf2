//! `info()`: adds the labels of info metrics (`target_info` unless told otherwise) to series of the same target.

use std::collections::HashMap;

use veghe_model::{Labels, METRIC_NAME, Matcher};

use super::{Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::{Expr, ExprKind, Selector, When};

/// Labels that identify a target.
const IDENTIFYING: [&str; 2] = ["instance", "job"];
const DEFAULT_INFO_METRIC: &str = "target_info";

impl Engine<'_> {
    pub(crate) fn join_info(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let base = self.vector(&args[0], steps)?;
        let wanted: &[Matcher] = match args.get(1).map(|a| &a.kind) {
            Some(ExprKind::Selector(selector)) => &selector.matchers,
            _ => &[],
        };
        let data: Vec<&Matcher> = wanted.iter().filter(|m| m.name() != METRIC_NAME).collect();
        let mut matchers: Vec<Matcher> = wanted.to_vec();
        let names_given = wanted.iter().any(|m| m.name() == METRIC_NAME);
        if !names_given {
            matchers.push(Matcher::equal(METRIC_NAME, DEFAULT_INFO_METRIC));
        }
        let name_matchers: Vec<Matcher> = matchers.iter().filter(|m| m.name() == METRIC_NAME).cloned().collect();
        let is_info = |row: &Row| name_matchers.iter().all(|m| m.matches_labels(&row.labels));
        let selector = Selector { matchers, when: When::default() };
        let infos = self.instant_vector(&selector, steps)?;
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
                let mut builder = row.labels.to_builder();
                let mut found = false;
                let mut added: HashMap<&str, &str> = HashMap::new();
                for info in candidates.iter().map(|i| &infos[*i]).filter(|i| !is_absent(i.values[step])) {
                    found = true;
                    for label in &info.labels {
                        let taken = &*label.name == METRIC_NAME
                            || IDENTIFYING.contains(&&*label.name)
                            || row.labels.get(&label.name).is_some()
                            || !(data.is_empty() || data.iter().any(|m| m.name() == &*label.name));
                        if taken {
                            continue;
                        }
                        if added.insert(&label.name, &label.value).is_some_and(|before| before != &*label.value) {
                            return Err(EvalError::Execution(format!("conflicting label: {}", label.name)));
                        }
                        builder.set(label.name.clone(), label.value.clone());
                    }
                }
                if required && !found {
                    continue;
                }
                let labels = builder.build();
                let at = if let Some(at) = columns.get(&labels) {
                    *at
                } else {
                    {
                        let values = self.empty_column(steps)?;
                        result.push(Row { labels: labels.clone(), values, drop_name: row.drop_name });
                        columns.insert(labels, result.len() - 1);
                        result.len() - 1
                    }
                };
                result[at].values[step] = *value;
            }
            self.release(row.values.len());
        }
        self.release_rows(&infos);
        self.merge(result)
    }
}

fn identity(labels: &Labels) -> Labels {
    labels.filter(|n| IDENTIFYING.contains(&n))
}
