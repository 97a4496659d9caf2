//! `/federate`: the fleet's latest samples in the text format, for a Prometheus that scrapes the collector; and
//! `/metrics`: the collector's own.
//!
//! What it deliberately does not do: native histograms and `OpenMetrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus::{TEXT_FORMAT, TextEncoder};
use veghe_model::{Label, METRIC_NAME, SeriesData, is_stale};
use veghe_wire::catalogue::{self, Kind};

use super::Refusal;
use super::encode::{self, Pieces, push_value};
use super::parameters::Parameters;
use super::prometheus_api::{Api, ApiError};
use crate::clock;

/// Prometheus' type of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The latest sample, of the last five minutes, of every series that a `match[]` takes.
pub(super) async fn federate(State(api): State<Arc<Api>>, parameters: Parameters) -> Response {
    match latest(&api, &parameters).await {
        Ok(series) => encode::respond(TEXT, Exposition { series: series.into_iter(), metric: String::new() }),
        Err(error) => (error.status(), format!("{}\n", error.message())).into_response(),
    }
}

struct Latest {
    metric: Arc<str>,
    labels: Box<[Label]>,
    timestamp_ms: i64,
    value: f64,
}

async fn latest(api: &Api, parameters: &Parameters) -> Result<Vec<Latest>, ApiError> {
    let selectors = parameters.selectors().await?;
    let now = clock::now();
    let start = now.saturating_sub(api.parts.queries.settings().lookback);
    api.select(move |store| {
        let mut all = vec![];
        for matchers in &selectors {
            // A selection ascends in labels but not in names where a label sorts before `__name__`.
            all.extend(store.select(matchers, start, now)?.iter().filter_map(Latest::of));
        }
        all.sort_by(|a, b| (&a.metric, &a.labels).cmp(&(&b.metric, &b.labels)));
        all.dedup_by(|a, b| (&a.metric, &a.labels) == (&b.metric, &b.labels));
        Ok(all)
    })
    .await
}

impl Latest {
    /// Nothing where the series ended, or has no name that the text format could show.
    fn of(series: &SeriesData) -> Option<Self> {
        let sample = series.iter().next_back().filter(|sample| !is_stale(sample.value))?;
        let (name, labels): (Vec<_>, Vec<_>) = series.labels.iter().cloned().partition(|l| *l.name == *METRIC_NAME);
        let metric = name.into_iter().next().filter(|name| veghe_model::is_metric_name(&name.value))?.value;
        Some(Self { metric, labels: labels.into(), timestamp_ms: sample.timestamp.millis(), value: sample.value })
    }
}

/// Samples as text, a `TYPE` line before each metric's first.
struct Exposition {
    series: std::vec::IntoIter<Latest>,
    metric: String,
}

impl Pieces for Exposition {
    fn write(&mut self, out: &mut String) -> bool {
        let Some(series) = self.series.next() else { return false };
        if *self.metric != *series.metric {
            series.metric.as_ref().clone_into(&mut self.metric);
            push_head(out, &series.metric);
        }
        out.push_str(&series.metric);
        for (i, label) in series.labels.iter().enumerate() {
            out.push(if i == 0 { '{' } else { ',' });
            out.push_str(&label.name);
            out.push_str("=\"");
            for c in label.value.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        if !series.labels.is_empty() {
            out.push('}');
        }
        out.push(' ');
        push_value(out, series.value);
        out.push(' ');
        out.push_str(&series.timestamp_ms.to_string());
        out.push('\n');
        true
    }
}

/// Help and type of `name`. A histogram's series come one name at a time here, so each is untyped, as in Prometheus.
fn push_head(out: &mut String, name: &str) {
    let known = catalogue::lookup(name).filter(|metric| matches!(metric.kind, Kind::Counter | Kind::Gauge));
    if let Some(metric) = known {
        out.push_str("# HELP ");
        out.push_str(name);
        out.push(' ');
        out.push_str(&metric.help_for(name).replace('\\', "\\\\").replace('\n', "\\n"));
        out.push('\n');
    }
    out.push_str("# TYPE ");
    out.push_str(name);
    out.push(' ');
    out.push_str(known.map_or("untyped", |metric| metric.kind.as_str()));
    out.push('\n');
}

/// The collector's own metrics.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    match TextEncoder::new().encode_to_string(&api.parts.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT))], text).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot write own metrics");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the collector's log says why").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use veghe_model::{Labels, Sample, Timestamp, stale_nan};

    fn series(pairs: &[(&str, &str)], samples: &[(i64, f64)]) -> SeriesData {
        let samples: Vec<_> = samples.iter().map(|&(ms, value)| Sample { timestamp: Timestamp(ms), value }).collect();
        SeriesData::new(Labels::from_pairs(pairs.iter().copied()), &samples)
    }

    #[test]
    fn each_metric_has_one_type_line_and_values_are_escaped() {
        let all = [
            series(&[("__name__", "a_total"), ("A", "x\"\\\ny")], &[(1, 1.0), (2, f64::INFINITY)]),
            series(&[("__name__", "a_total")], &[(3, 1e21)]),
            series(&[("__name__", "b")], &[(1, 1.0), (4, stale_nan())]),
            series(&[("x", "no name")], &[(1, 1.0)]),
            series(&[("__name__", "c")], &[(5, f64::NAN)]),
        ];
        let latest: Vec<_> = all.iter().filter_map(Latest::of).collect();
        let mut pieces = Exposition { series: latest.into_iter(), metric: String::new() };
        let mut out = String::new();
        while pieces.write(&mut out) {}
        insta::assert_snapshot!(out, @r#"
        # TYPE a_total untyped
        a_total{A="x\"\\\ny"} +Inf 2
        a_total 1e+21 3
        # TYPE c untyped
        c NaN 5
        "#);
    }
}
