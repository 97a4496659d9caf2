//! Functions of instant vectors and scalars, and the table that finds every function.

use veghe_model::{Labels, METRIC_NAME, MatchOp};

use super::labels::SORT_IN_RANGE;
use super::select::{Yield, column_where};
use super::{ABSENT, Columns, Engine, Evaluated, Row, Steps, dates, is_absent, map_values};
use crate::ast::{Expr, ExprKind};
use crate::{EvalError, duration};

impl Engine<'_> {
    pub(crate) fn call(&self, call: &Expr, name: &str, args: &[Expr], steps: Steps) -> Evaluated<Columns> {
        if let Some(f) = elementwise(name) {
            let rows = map_values(self.vector(&args[0], steps)?, f);
            return Ok(Columns::Vector(self.drop_names(rows)?));
        }
        if let Some(part) = dates::part(name) {
            return self.date(part, args.first(), steps).map(Columns::Vector);
        }
        if let Some(rows) = self.range_function(name, args, steps) {
            return rows.map(Columns::Vector);
        }
        if let Some(value) = self.constant(name) {
            self.charge(steps.count)?;
            return Ok(Columns::Scalar(vec![value; steps.count]));
        }
        match name {
            "time" => {
                self.charge(steps.count)?;
                Ok(Columns::Scalar(steps.times_ms().map(|t| t as f64 / 1000.0).collect()))
            }
            "min_of" | "max_of" => {
                let (mut a, b) = (self.scalar(&args[0], steps)?, self.scalar(&args[1], steps)?);
                let pick = if name == "min_of" { duration::least } else { duration::greatest };
                for (a, b) in a.iter_mut().zip(&b) {
                    *a = pick(*a, *b);
                }
                self.release(b.len());
                Ok(Columns::Scalar(a))
            }
            "scalar" => self.scalar_of(&args[0], steps).map(Columns::Scalar),
            "vector" => {
                let values = self.scalar(&args[0], steps)?;
                Ok(Columns::Vector(vec![Row { labels: Labels::default(), values, drop_name: false }]))
            }
            "absent" => self.absent(&args[0], steps).map(Columns::Vector),
            "timestamp" => self.timestamp(&args[0], steps).map(Columns::Vector),
            "start_timestamp" => self.start_timestamp(&args[0], steps).map(Columns::Vector),
            "round" => self.round(args, steps).map(Columns::Vector),
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(name, args, steps).map(Columns::Vector),
            "sort" | "sort_desc" => self.sort(name == "sort_desc", args, steps).map(Columns::Vector),
            "sort_by_label" => self.sort_by_label(args, steps, false).map(Columns::Vector),
            "sort_by_label_desc" => self.sort_by_label(args, steps, true).map(Columns::Vector),
            "label_replace" => self.label_replace(args, steps).map(Columns::Vector),
            "label_join" => self.label_join(args, steps).map(Columns::Vector),
            "histogram_quantile" => self.histogram_quantile(args, steps).map(Columns::Vector),
            "histogram_quantiles" => self.histogram_quantiles(args, steps).map(Columns::Vector),
            "histogram_fraction" => self.histogram_fraction(args, steps).map(Columns::Vector),
            // Of native histograms only; floats give nothing.
            "histogram_avg" | "histogram_count" | "histogram_sum" | "histogram_stddev" | "histogram_stdvar" => {
                let rows = self.vector(&args[0], steps)?;
                self.release_rows(&rows);
                Ok(Columns::Vector(Vec::new()))
            }
            "info" => self.join_info(args, steps).map(Columns::Vector),
            _ => Err(EvalError::Execution(format!("function {name:?} at byte {} has no meaning", call.span.start))),
        }
    }

    fn constant(&self, name: &str) -> Option<f64> {
        let (start_ms, end_ms) = (self.outer.start_ms, self.end_ms);
        Some(match name {
            "pi" => std::f64::consts::PI,
            "start" => start_ms as f64 / 1000.0,
            "end" => end_ms as f64 / 1000.0,
            "range" => (end_ms - start_ms) as f64 / 1000.0,
            "step" => self.outer.step_ms as f64 / 1000.0,
            _ => return None,
        })
    }

    fn date(&self, part: fn(f64) -> f64, arg: Option<&Expr>, steps: Steps) -> Evaluated<Vec<Row>> {
        let Some(arg) = arg else {
            self.charge(steps.count)?;
            let values = steps.times_ms().map(|t| part(t as f64 / 1000.0)).collect();
            return Ok(vec![Row { labels: Labels::default(), values, drop_name: false }]);
        };
        let rows = map_values(self.vector(arg, steps)?, |v| if v.is_nan() { v } else { part(v) });
        self.drop_names(rows)
    }

    fn scalar_of(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<f64>> {
        let rows = self.vector(arg, steps)?;
        let mut values = self.empty_column(steps)?;
        for (step, value) in values.iter_mut().enumerate() {
            let mut present = rows.iter().map(|r| r.values[step]).filter(|v| !is_absent(*v));
            *value = match (present.next(), present.next()) {
                (Some(only), None) => only,
                _ => f64::NAN,
            };
        }
        self.release_rows(&rows);
        Ok(values)
    }

    fn absent(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let rows = self.vector(arg, steps)?;
        let absent: Vec<bool> = (0..steps.count).map(|step| rows.iter().all(|r| is_absent(r.values[step]))).collect();
        self.release_rows(&rows);
        self.charge(steps.count)?;
        let values = column_where(&absent, 1.0);
        Ok(vec![Row { labels: absent_labels(arg), values, drop_name: false }])
    }

    fn timestamp(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let rows = if let ExprKind::Selector(selector) = &arg.unparen().kind {
            self.instant_vector_of(selector, steps, Yield::Moment)?
        } else {
            let mut rows = self.vector(arg, steps)?;
            for row in &mut rows {
                for (step, value) in row.values.iter_mut().enumerate().filter(|(_, v)| !is_absent(**v)) {
                    *value = steps.time_ms(step) as f64 / 1000.0;
                }
            }
            rows
        };
        self.drop_names(rows)
    }

    /// Of selectors only: what is computed has no beginning.
    fn start_timestamp(&self, arg: &Expr, steps: Steps) -> Evaluated<Vec<Row>> {
        let ExprKind::Selector(selector) = &arg.unparen().kind else {
            let rows = self.vector(arg, steps)?;
            self.release_rows(&rows);
            return Ok(Vec::new());
        };
        let rows = self.instant_vector_of(selector, steps, Yield::Start)?;
        self.drop_names(rows)
    }

    fn round(&self, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let nearest = args.get(1).map(|a| self.scalar(a, steps)).transpose()?;
        let mut rows = self.vector(&args[0], steps)?;
        for row in &mut rows {
            for (step, value) in row.values.iter_mut().enumerate().filter(|(_, v)| !is_absent(**v)) {
                // The inverse first, because 0.1 has no exact binary form but 10 has.
                let inverse = 1.0 / nearest.as_ref().map_or(1.0, |n| n[step]);
                *value = (*value * inverse + 0.5).floor() / inverse;
            }
        }
        self.release(nearest.map_or(0, |n| n.len()));
        self.drop_names(rows)
    }

    fn clamp(&self, name: &str, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let bound = |i: usize| self.scalar(&args[i], steps);
        let (low, high) = match name {
            "clamp_min" => (Some(bound(1)?), None),
            "clamp_max" => (None, Some(bound(1)?)),
            _ => (Some(bound(1)?), Some(bound(2)?)),
        };
        let mut rows = self.vector(&args[0], steps)?;
        for row in &mut rows {
            for (step, value) in row.values.iter_mut().enumerate().filter(|(_, v)| !is_absent(**v)) {
                let (low, high) = (low.as_ref().map(|l| l[step]), high.as_ref().map(|h| h[step]));
                if let (Some(low), Some(high)) = (low, high)
                    && high < low
                {
                    *value = ABSENT;
                    continue;
                }
                let bounded = [(high, f64::min as fn(f64, f64) -> f64), (low, f64::max)].into_iter().fold(
                    *value,
                    |v, (bound, pick)| match bound {
                        Some(bound) if v.is_nan() || bound.is_nan() => f64::NAN,
                        Some(bound) => pick(v, bound),
                        None => v,
                    },
                );
                *value = bounded;
            }
        }
        rows.retain(|row| row.values.iter().any(|v| !is_absent(*v)));
        self.drop_names(rows)
    }

    fn sort(&self, descending: bool, args: &[Expr], steps: Steps) -> Evaluated<Vec<Row>> {
        let mut rows = self.vector(&args[0], steps)?;
        if !self.is_instant() {
            self.warn(&args[0], SORT_IN_RANGE);
            return Ok(rows);
        }
        rows.sort_by(|a, b| {
            let (a, b) = (a.values[0], b.values[0]);
            let order = if descending { b.total_cmp(&a) } else { a.total_cmp(&b) };
            // NaN is last in both directions.
            a.is_nan().cmp(&b.is_nan()).then(order)
        });
        Ok(rows)
    }
}

/// The labels that `absent` can tell: those that equality matchers fix, each once.
pub(crate) fn absent_labels(arg: &Expr) -> Labels {
    let (ExprKind::Selector(selector) | ExprKind::Matrix { selector, .. }) = &arg.unparen().kind else {
        return Labels::default();
    };
    let matchers = || selector.matchers.iter().filter(|m| m.name() != METRIC_NAME);
    Labels::from_pairs(
        matchers()
            .filter(|m| m.op() == MatchOp::Equal && matchers().filter(|other| other.name() == m.name()).count() == 1)
            .map(|m| (m.name(), m.value())),
    )
}

pub(super) fn elementwise(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "acos" => f64::acos,
        "acosh" => f64::acosh,
        "asin" => f64::asin,
        "asinh" => f64::asinh,
        "atan" => f64::atan,
        "atanh" => f64::atanh,
        "ceil" => f64::ceil,
        "cos" => f64::cos,
        "cosh" => f64::cosh,
        "deg" => |v| v * 180.0 / std::f64::consts::PI,
        "exp" => f64::exp,
        "floor" => f64::floor,
        "ln" => f64::ln,
        "log10" => f64::log10,
        "log2" => f64::log2,
        "rad" => |v| v * std::f64::consts::PI / 180.0,
        "sgn" => |v| {
            if v < 0.0 {
                -1.0
            } else if v > 0.0 {
                1.0
            } else {
                v
            }
        },
        "sin" => f64::sin,
        "sinh" => f64::sinh,
        "sqrt" => f64::sqrt,
        "tan" => f64::tan,
        "tanh" => f64::tanh,
        _ => return None,
    })
}
