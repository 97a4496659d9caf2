//! Reads series for selectors: the latest value per step, and windows for range selectors and subqueries.

use std::sync::Arc;

use veghe_model::{Labels, SeriesData, Timestamp};

use super::{ABSENT, Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::{At, Expr, ExprKind, Selector, When};

/// What an instant selector yields for the sample it finds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Yield {
    Value,
    /// The sample's own moment in seconds, for `timestamp()`.
    Moment,
}

/// Samples of a range selector or subquery, with the window of each step.
pub(crate) struct Windows {
    pub(crate) series: Vec<Raw>,
    pub(crate) range_ms: i64,
    ends: Ends,
}

/// A series without staleness markers.
pub(crate) struct Raw {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) timestamps: Arc<[i64]>,
    pub(crate) values: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Ends {
    /// At each step, so much before it.
    Moving { offset_ms: i64 },
    /// The same at every step.
    Fixed { end_ms: i64 },
}

impl Ends {
    fn end_ms(self, step_time_ms: i64) -> i64 {
        match self {
            Self::Moving { offset_ms } => step_time_ms - offset_ms,
            Self::Fixed { end_ms } => end_ms,
        }
    }

    /// The first and the last end.
    fn bounds(self, steps: Steps) -> (i64, i64) {
        (self.end_ms(steps.start_ms), self.end_ms(steps.last_ms()))
    }
}

impl Windows {
    pub(crate) fn end_ms(&self, step_time_ms: i64) -> i64 {
        self.ends.end_ms(step_time_ms)
    }

    /// Samples held.
    pub(crate) fn samples(&self) -> usize {
        self.series.iter().map(|s| s.values.len()).sum()
    }

    /// Calls `f` with step, its moment and the bounds of its window `(end - range, end]` in `raw`, in order of steps,
    /// where there is a sample in the window.
    pub(crate) fn each(&self, raw: &Raw, steps: Steps, mut f: impl FnMut(usize, i64, std::ops::Range<usize>)) {
        let (mut from, mut to) = (0, 0);
        let timestamps = &raw.timestamps;
        for step in 0..steps.count {
            let time_ms = steps.time_ms(step);
            let end_ms = self.end_ms(time_ms);
            while timestamps.get(to).is_some_and(|t| *t <= end_ms) {
                to += 1;
            }
            while from < to && timestamps[from] <= end_ms - self.range_ms {
                from += 1;
            }
            if from < to {
                f(step, time_ms, from..to);
            }
        }
    }
}

impl Engine<'_> {
    fn ends(&self, when: When) -> Ends {
        let offset_ms = when.offset_ms.unwrap_or(0);
        match when.at {
            None => Ends::Moving { offset_ms },
            Some(At::Millis(ms)) => Ends::Fixed { end_ms: ms - offset_ms },
            Some(At::Start) => Ends::Fixed { end_ms: self.outer.start_ms - offset_ms },
            Some(At::End) => Ends::Fixed { end_ms: self.end_ms - offset_ms },
        }
    }

    /// The series with samples in `(after, until]`, counted as held.
    fn select(&self, selector: &Selector, after_ms: i64, until_ms: i64) -> Evaluated<Vec<SeriesData>> {
        self.check_stop()?;
        let (start, end) = (Timestamp(after_ms.saturating_add(1)), Timestamp(until_ms));
        let room = self.limits.max_samples.saturating_sub(self.samples.get());
        let series = self.source.select_at_most(&selector.matchers, start, end, room).map_err(EvalError::Source)?;
        let series = series.ok_or(EvalError::TooManySamples)?;
        self.charge(series.iter().map(SeriesData::len).sum())?;
        Ok(series)
    }

    pub(crate) fn instant_vector(&self, selector: &Selector, steps: Steps) -> Evaluated<Vec<Row>> {
        self.instant_vector_of(selector, steps, Yield::Value)
    }

    pub(crate) fn instant_vector_of(&self, selector: &Selector, steps: Steps, wanted: Yield) -> Evaluated<Vec<Row>> {
        let lookback_ms = i64::try_from(self.limits.lookback.as_millis()).unwrap_or(i64::MAX).min(super::MOMENT_MAX_MS);
        let ends = self.ends(selector.when);
        let (first_ms, last_ms) = ends.bounds(steps);
        let series = self.select(selector, first_ms - lookback_ms, last_ms)?;
        let mut rows = Vec::with_capacity(series.len());
        for one in series {
            self.check_stop()?;
            let mut values = self.empty_column(steps)?;
            let (mut next, mut any) = (0, false);
            for (step, value) in values.iter_mut().enumerate() {
                let end_ms = ends.end_ms(steps.time_ms(step));
                while one.timestamps.get(next).is_some_and(|t| *t <= end_ms) {
                    next += 1;
                }
                let Some(at) = next.checked_sub(1) else { continue };
                // A marker says that the series ended; so does silence as long as the lookback.
                if one.timestamps[at] <= end_ms - lookback_ms || is_absent(one.values[at]) {
                    continue;
                }
                *value = match wanted {
                    Yield::Value => one.values[at],
                    Yield::Moment => one.timestamps[at] as f64 / 1000.0,
                };
                any = true;
            }
            self.release(one.len());
            if any {
                rows.push(Row { labels: one.labels, values, drop_name: false });
            } else {
                self.release(steps.count);
            }
        }
        Ok(rows)
    }

    /// The windows of a range selector or subquery.
    pub(crate) fn windows(&self, expr: &Expr, steps: Steps) -> Evaluated<Windows> {
        match &expr.unparen().kind {
            ExprKind::Matrix { selector, range_ms } => {
                let ends = self.ends(selector.when);
                let (first_ms, last_ms) = ends.bounds(steps);
                let series = self
                    .select(selector, first_ms - range_ms, last_ms)?
                    .into_iter()
                    .map(|s| {
                        let before = s.len();
                        let raw = without_markers(s);
                        self.release(before - raw.values.len());
                        raw
                    })
                    .collect();
                Ok(Windows { series, range_ms: *range_ms, ends })
            }
            ExprKind::Subquery { expr, range_ms, step_ms, when } => {
                let ends = self.ends(*when);
                let inner = self.subquery_steps(ends.bounds(steps), *range_ms, *step_ms)?;
                let rows = match inner {
                    Some(inner) => self.vector(expr, inner)?,
                    None => Vec::new(),
                };
                let times: Arc<[i64]> = inner.map_or_else(|| Arc::from([]), |inner| inner.times_ms().collect());
                let series = rows
                    .into_iter()
                    .map(|row| {
                        let before = row.values.len();
                        let raw = without_markers(SeriesData {
                            labels: row.labels,
                            timestamps: Arc::clone(&times),
                            values: row.values,
                        });
                        self.release(before - raw.values.len());
                        Raw { drop_name: row.drop_name, ..raw }
                    })
                    .filter(|raw| !raw.values.is_empty())
                    .collect();
                Ok(Windows { series, range_ms: *range_ms, ends })
            }
            _ => Err(EvalError::Execution("range vector expected".to_owned())),
        }
    }

    /// Multiples of the subquery's step in `(first - range, last]`; `None` where there is none.
    fn subquery_steps(
        &self,
        (first_ms, last_ms): (i64, i64),
        range_ms: i64,
        step_ms: Option<i64>,
    ) -> Evaluated<Option<Steps>> {
        // Without a step Prometheus takes its global evaluation interval, a minute unless configured.
        let step_ms = step_ms.unwrap_or(60_000);
        let after_ms = first_ms - range_ms;
        let start_ms = (after_ms.div_euclid(step_ms) + 1) * step_ms;
        if start_ms > last_ms {
            return Ok(None);
        }
        let count = usize::try_from((last_ms - start_ms) / step_ms + 1).unwrap_or(usize::MAX);
        if count > self.limits.max_samples {
            return Err(EvalError::TooManySamples);
        }
        Ok(Some(Steps { start_ms, step_ms, count }))
    }

    /// A range vector as the result of an instant query.
    pub(crate) fn raw_matrix(&self, expr: &Expr) -> Evaluated<Vec<SeriesData>> {
        let windows = self.windows(expr, self.outer)?;
        let mut matrix = Vec::new();
        for raw in &windows.series {
            windows.each(raw, self.outer, |_, _, window| {
                matrix.push(SeriesData {
                    labels: if raw.drop_name { raw.labels.without_name() } else { raw.labels.clone() },
                    timestamps: raw.timestamps[window.clone()].into(),
                    values: raw.values[window].to_vec(),
                });
            });
        }
        matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(matrix)
    }
}

fn without_markers(series: SeriesData) -> Raw {
    if series.values.iter().any(|v| is_absent(*v)) {
        let kept = || series.timestamps.iter().zip(&series.values).filter(|(_, v)| !is_absent(**v));
        let timestamps = kept().map(|(t, _)| *t).collect();
        let values = kept().map(|(_, v)| *v).collect();
        return Raw { labels: series.labels, drop_name: false, timestamps, values };
    }
    Raw { labels: series.labels, drop_name: false, timestamps: series.timestamps, values: series.values }
}

/// A column of `value` wherever `present` says so.
pub(crate) fn column_where(present: &[bool], value: f64) -> Vec<f64> {
    present.iter().map(|p| if *p { value } else { ABSENT }).collect()
}
